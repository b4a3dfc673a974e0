"""Python threads that share the work while torch's own threading is switched off.

Torch's threading does not speed up work on matrices that fit a cache, it is slow on a busy machine,
and it hangs in a process that was forked after it had been used.
"""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch


class _ThreadState(threading.local):
    """State of one thread."""

    n_threads: int | None = None
    """Number of threads to share work among, while torch's own threading is off; else None."""


_THREAD = _ThreadState()
#: Torch's setting before `single_threaded_torch`, for each thread inside it, by thread identity.
_SETTINGS_BEFORE: dict[int, int] = {}
#: ``_PROCESS["forked"]``: whether this process was forked from one that had imported this module.
_PROCESS = {"forked": False}


@contextmanager
def single_threaded_torch():
    """Switch torch's own threading off for the calling thread.

    Torch keeps the setting for each thread, so each thread that enters restores its own. A new
    thread starts with what any thread has set last. If it finds 1 while other threads are inside,
    that 1 is their temporary setting, and it uses what the first of them had before.

    Yields
    ------
    int
        The number of threads to share work among.
    """
    if _THREAD.n_threads is not None:
        yield _THREAD.n_threads
        return
    thread, before = threading.get_ident(), torch.get_num_threads()
    if before == 1:
        before = next(iter(list(_SETTINGS_BEFORE.values())), 1)
    try:
        _SETTINGS_BEFORE[thread] = _THREAD.n_threads = before
        torch.set_num_threads(1)
        yield before
    finally:
        torch.set_num_threads(before)
        _THREAD.n_threads = None
        _SETTINGS_BEFORE.pop(thread, None)


def available_threads() -> int:
    """Return the number of threads that the calling thread may use.

    Returns
    -------
    int
        Torch's setting, or what it was before `single_threaded_torch`.
    """
    return _THREAD.n_threads or torch.get_num_threads()


def thread_pool(n_threads: int) -> ThreadPoolExecutor:
    """Make a pool of threads in which torch is single-threaded and no further pools are made.

    Parameters
    ----------
    n_threads : int
        How many.

    Returns
    -------
    ThreadPoolExecutor
        The pool.
    """
    return ThreadPoolExecutor(n_threads, initializer=_single_thread)


def _single_thread() -> None:
    torch.set_num_threads(1)
    _THREAD.n_threads = 1


def in_forked_process() -> bool:
    """Return whether this process was forked, so that OpenMP with several threads may hang in it.

    Returns
    -------
    bool
        True in a process forked from one that had imported this module.
    """
    return _PROCESS["forked"]


def _after_fork() -> None:
    """Forget the threads that a forked process is without, and leave torch's own threading off.

    OpenMP's threads are not copied either: with more than one, the next large operation of torch
    hangs, in a backward pass as much as here.
    """
    for other in set(_SETTINGS_BEFORE) - {threading.get_ident()}:
        del _SETTINGS_BEFORE[other]
    _PROCESS["forked"] = True
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_after_fork)


def map_items(function: Callable, items: Sequence, device: torch.device) -> list:
    """Return ``[function(item) for item in items]``, computed by as many threads as torch uses.

    Parameters
    ----------
    function : callable
        A function of one item that spends its time inside torch, without gradients.
    items : sequence
        Items of some milliseconds of work each.
    device : torch.device
        Device of the tensors; only on a CPU are several threads used.

    Returns
    -------
    list
        The results, in the order of the items: the same for any number of threads.
    """
    n_threads = min(available_threads(), len(items)) if device.type == "cpu" else 1

    def run(item):
        with torch.no_grad():
            return function(item)

    if n_threads < 2:
        return [run(item) for item in items]
    with single_threaded_torch(), thread_pool(n_threads) as pool:
        return list(pool.map(run, items))
