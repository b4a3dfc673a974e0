"""Threads: torch's own threading is off while Python's threads share the work.

Torch's threading gains nothing on matrices that fit a cache, it collapses on a busy machine, and it
hangs in a process that was forked after it had been used.
"""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch


class _Here(threading.local):
    """What the calling thread knows."""

    n_threads: int | None = None
    """The number of threads to use, where torch's own threading is off."""


_HERE = _Here()
#: What the threads that are inside `single_threaded_torch` had set before, by their identity.
_BEFORE: dict[int, int] = {}
#: ``_PROCESS["forked"]``: whether this process was forked from another one that had this module.
_PROCESS = {"forked": False}


@contextmanager
def single_threaded_torch():
    """Switch torch's own threading off for the calling thread; yields the number of threads to use.

    Torch keeps the setting for each thread, so each thread that enters restores its own. A new
    thread begins with what any thread has set last: one that finds 1 while others are inside takes
    it for theirs, and counts with what the first of them had before.

    Yields
    ------
    int
        The number of threads.
    """
    if _HERE.n_threads is not None:
        yield _HERE.n_threads
        return
    thread, before = threading.get_ident(), torch.get_num_threads()
    if before == 1:
        before = next(iter(list(_BEFORE.values())), 1)
    try:
        _BEFORE[thread] = _HERE.n_threads = before
        torch.set_num_threads(1)
        yield before
    finally:
        torch.set_num_threads(before)
        _HERE.n_threads = None
        _BEFORE.pop(thread, None)


def available_threads() -> int:
    """Return the number of threads that the calling thread may share its work among.

    Returns
    -------
    int
        Torch's setting, or what it was where its own threading is off.
    """
    return _HERE.n_threads or torch.get_num_threads()


def thread_pool(n_threads: int) -> ThreadPoolExecutor:
    """Make a pool of threads that neither use torch's own threading nor have pools of their own.

    Parameters
    ----------
    n_threads : int
        How many.

    Returns
    -------
    ThreadPoolExecutor
        The pool.
    """
    return ThreadPoolExecutor(n_threads, initializer=_work_alone)


def _work_alone() -> None:
    torch.set_num_threads(1)
    _HERE.n_threads = 1


def in_forked_process() -> bool:
    """Tell whether this process was forked: OpenMP, with more than one thread, may hang in it.

    Returns
    -------
    bool
        True below a process that had imported this module.
    """
    return _PROCESS["forked"]


def _after_fork() -> None:
    """Forget the threads that a forked process is without, and leave torch's own threading off.

    OpenMP's threads are not copied either: with more than one, the next large operation of torch
    hangs, in a backward pass as much as here.
    """
    for other in set(_BEFORE) - {threading.get_ident()}:
        del _BEFORE[other]
    _PROCESS["forked"] = True
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_after_fork)


def map_items(function: Callable, items: Sequence, device: torch.device) -> list:
    """Return ``[function(item) for item in items]``, by as many threads as torch would use.

    Parameters
    ----------
    function : callable
        A function of one item that spends its time inside torch, without gradients.
    items : sequence
        Items of some milliseconds of work each.
    device : torch.device
        Where the work is; threads share it only on a CPU.

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
