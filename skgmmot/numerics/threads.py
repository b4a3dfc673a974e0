"""Python threads that share the work while torch's own threading is switched off.

Torch's threading does not speed up work on matrices that fit a cache, it is slow on a busy machine,
and it hangs in a process that was forked after it had been used.
"""

import contextlib
import os
import threading
import traceback
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import numpy as np
import torch
from torch.autograd import grad_mode


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

    An exception that leaves it, such as ``KeyboardInterrupt``, may have been raised within the
    entry or the exit of a context like ``torch.no_grad()``, which then has no effect: the settings
    that such contexts change are restored, too.

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
    settings = _Settings()
    try:
        _SETTINGS_BEFORE[thread] = _THREAD.n_threads = before
        torch.set_num_threads(1)
        yield before
    except BaseException as error:
        settings.restore(error)
        raise
    finally:
        try:
            torch.set_num_threads(before)
        finally:  # also where an interruption arrives meanwhile
            _THREAD.n_threads = None
            _SETTINGS_BEFORE.pop(thread, None)


@contextmanager
def unchanged_settings():
    """Restore, where an exception leaves it, what contexts change that may have been interrupted.

    That is whether torch records gradients, numpy's treatment of floating-point errors and, unless
    the exception is an `Exception`, Python's filters of warnings.
    """
    settings = _Settings()
    try:
        yield
    except BaseException as error:
        settings.restore(error)
        raise


class _Settings:
    """What contexts change for a while."""

    def __init__(self):
        self.gradients, self.floats = torch.is_grad_enabled(), np.geterr()
        self.filters = warnings.filters

    def restore(self, error: BaseException) -> None:
        """Bring back what was, where an error has left contexts that may not have been exited."""
        if isinstance(error, GeneratorExit):  # an interrupted exit that is found out later
            return
        _leave_interrupted_contexts(error)
        torch.set_grad_enabled(self.gradients)
        np.seterr(**self.floats)
        # an ordinary error may be met while another thread has filters of its own
        if not isinstance(error, Exception) and warnings.filters is not self.filters:
            warnings.filters = self.filters
            with warnings.catch_warnings():  # its exit has Python notice that they are others
                pass


class InferenceMode:
    """Torch's inference mode, which also ends after an interruption of such a mode within it.

    A mode whose entry or exit was interrupted ends when it is freed, with the traceback, and then
    sets what was before it. So this one waits for that.
    """

    def __enter__(self):
        self._mode = torch.inference_mode()
        self._mode.__enter__()

    def __exit__(self, kind, error, trace):
        if error is not None:
            _leave_interrupted_contexts(error)
        self._mode.__exit__(kind, error, trace)


def _leave_interrupted_contexts(error: BaseException) -> None:
    """Have contexts whose exit was interrupted end now, and not when the traceback is freed."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_filename in (contextlib.__file__, grad_mode.__file__):
            with suppress(RuntimeError):  # it is one around this context, and still running
                frame.clear()


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
