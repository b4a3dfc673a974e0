"""Functions of blocks as tasks of dask, which are tried again where workers die."""

import functools
import gc
import itertools
import pickle
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError

import torch

from skgmmot.numerics.blocks import Workers
from skgmmot.numerics.threads import single_threaded_torch

#: How often a pass is tried when workers die, beside the retries of dask itself.
ATTEMPTS = 3
#: Seconds before another try: schedulers forget failed tasks, and replace workers, in their own
#: time, and answer at once with a failure that they still know.
PAUSE = 0.5
#: Functions of up to so many bytes are sent along with each task; others are a task of their own,
#: whose result workers hand on among themselves.
SENT_ALONG = 2**16


def in_tasks(function: Callable, calls: list[tuple], groups: Callable | None = None) -> list:
    """``function(rows, weights or None, *arguments)`` of all ``(arguments, rows[, weights])``.

    One task a call, or those whose positions ``groups()`` returns together, before which their
    collections are computed to one array or frame each. The function is pickled. Workers that die
    are dask's to replace, and all is tried `ATTEMPTS` times.
    """
    from dask import delayed

    sent = pickled(function)
    if len(sent) > SENT_ALONG:
        sent = delayed(sent)
    for left in reversed(range(ATTEMPTS)):
        try:
            return _tried(sent, calls, groups() if groups else [[i] for i in range(len(calls))])
        except _deaths() as error:
            death = error.with_traceback(None)
        gc.collect()  # failed tasks that anything still refers to would not be run again
        if left:
            time.sleep(PAUSE)
    raise RuntimeError(_obituary(death)) from death


def _tried(sent, calls: list[tuple], groups: list[list[int]]) -> list:
    """One try of all calls."""
    import dask

    run, tasks = dask.delayed(_run, pure=False), []
    for group in groups:
        arguments, *collections = zip(*(calls[i] for i in group), strict=True)
        of_each = itertools.chain.from_iterable(zip(*collections, strict=True))
        tasks.append(run(sent, list(arguments), *of_each))
    found = itertools.chain.from_iterable(dask.compute(*tasks))
    of_call = dict(zip(itertools.chain.from_iterable(groups), found, strict=True))
    return [of_call[i] for i in range(len(calls))]


def current_client():
    """The client of the cluster to which tasks go; None if they stay in this process."""
    from dask.base import get_scheduler

    client = getattr(get_scheduler(), "__self__", None)
    return client if hasattr(client, "scheduler_info") else None


class _Kept(threading.local):
    """What a thread of a worker keeps from task to task."""

    pool: Workers | None = None


_KEPT = _Kept()


def pickled(function) -> bytes:
    """A function to be sent, perhaps of the user's own session."""
    import cloudpickle  # dask brings it

    return cloudpickle.dumps(function)


@functools.lru_cache(maxsize=2)  # one of the pass at hand, and one of the last
def unpickled(sent: bytes):
    """What was sent, which a worker need not unpickle again for each task."""
    return pickle.loads(sent)


def lent_pool() -> Workers:
    """One thread's own buffers, which tasks would else allocate anew, at three times the cost."""
    if _KEPT.pool is None:
        _KEPT.pool = Workers(torch.device("cpu"), 1)
    return _KEPT.pool


def _run(sent: bytes, arguments: list[tuple], *blocks) -> list:
    """A pickled function of some blocks: of rows, or of rows and then their weights, in turn."""
    function, width = unpickled(sent), len(blocks) // len(arguments)
    rows, weights = blocks[::width], blocks[1::2] if width == 2 else itertools.repeat(None)
    with single_threaded_torch(), torch.no_grad():
        return [function(X, a, *args) for X, a, args in zip(rows, weights, arguments, strict=False)]


def _deaths() -> tuple:
    """What is raised where workers have died."""
    distributed = sys.modules.get("distributed")
    killed = () if distributed is None else (distributed.KilledWorker,)
    return (CancelledError, *killed)


def _obituary(error) -> str:
    """What died, in plain words."""
    what = "data that it needs is lost: "
    if hasattr(error, "last_worker"):
        where = getattr(error.last_worker, "address", error.last_worker)
        what = (
            f"the task {error.task!r} was on a worker when that died, each time, at last {where}; "
        )
    said = " ".join(str(error).split())  # on one line
    return (
        f"a pass over the blocks must end, got {ATTEMPTS} failures: {what}{said} Where a block "
        "needs more memory than a worker has, use smaller chunks or more memory a worker; data "
        "that was scattered to workers cannot be read again: persist it, or read it from files."
    )
