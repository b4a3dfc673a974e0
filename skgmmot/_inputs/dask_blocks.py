"""dask arrays and data frames: functions of their blocks as tasks, and answers that stay lazy.

dask is imported here where the user has brought it, by handing in one of its collections.
"""

import functools
import gc
import itertools
import math
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import validate_data
from torch import Tensor

from skgmmot._inputs.arrays import is_dask
from skgmmot.fitting.samples import (
    BlockSum,
    digest,
    fingerprint,
    in_memory,
    positions_looked_at,
)
from skgmmot.fitting.stream import Facts, chosen, facts_of, merged, scaled
from skgmmot.numerics.blocks import Workers, add
from skgmmot.numerics.threads import single_threaded_torch

#: How often a pass is tried when workers die, beside the retries of dask itself.
ATTEMPTS = 3
#: Functions of up to so many bytes are sent along with each task; others are a task of their own,
#: whose result workers hand on among themselves.
SENT_ALONG = 2**16
#: Data in a graph of more bytes than this is sent to a cluster once for all passes.
HELD_IN_GRAPH = 2**20
NO_ROWS = "X must have rows, got none in any block. Pass more data."
#: Tasks of a pass into which each thread of a worker has the blocks that it holds, where these are
#: small: each costs about as much as the arithmetic of 10,000 rows.
TASKS_A_THREAD = 2
#: Blocks that share a task have at most so many bytes together, as a worker may have them on disk.
TASK_BYTES = 2**26


# --- what users hand in ---------------------------------------------------------------------------


def _is_array(data) -> bool:
    module = sys.modules.get("dask.array")
    return module is not None and isinstance(data, module.Array)


def _is_frame(data) -> bool:
    module = sys.modules.get("dask.dataframe")
    return module is not None and isinstance(data, module.DataFrame | module.Series)


def check_rows(X) -> None:
    """Refuse a collection of dask that is no table of numbers, cut into blocks of whole rows."""
    if not (_is_frame(X) or _is_array(X)):
        raise TypeError(
            f"X must be a dask array or data frame, got a dask {type(X).__name__}. Make it one, "
            "as by dask.array.from_delayed."
        )
    if X.ndim != 2:
        fix = f"Use {'X.to_frame()' if _is_frame(X) else 'X[:, None]'} if it holds one feature."
        if X.ndim > 2:
            fix = "Make the axes of each sample one, as by X.reshape."
        axes = "1 axis" if X.ndim == 1 else f"{X.ndim} axes"
        raise ValueError(f"X must have shape (n_samples, n_features), got {axes}. {fix}")
    _check_numbers("X", X)
    if _is_array(X) and (X.numblocks[1] != 1 or np.isnan(X.shape[1])):
        raise ValueError(
            f"X must be chunked by rows only, got chunks of features {X.chunks[1]}. Use "
            "X.rechunk({1: -1})."
        )


def check_weights(sample_weight, X) -> None:
    """Refuse weights of dask that are not cut as the samples are; chunks may be unknown."""
    if sample_weight is None:
        return
    if getattr(sample_weight, "requires_grad", False):
        raise ValueError(
            "sample_weight must require no gradient where X is of dask, which is fitted without "
            "gradients, got a tensor that does. Fit tensors in memory for a gradient."
        )
    if not is_dask(sample_weight) or not (_is_frame(sample_weight) or _is_array(sample_weight)):
        raise TypeError(
            "sample_weight must be a dask array or series, as X is of dask, got "
            f"{type(sample_weight).__name__}. Use dask.array.from_array(sample_weight, "
            "chunks=X.chunks[0])."
        )
    if sample_weight.ndim != 1:
        raise ValueError(
            f"sample_weight must have shape (n_samples,), got {sample_weight.ndim} axes. Pass one "
            "weight a sample."
        )
    _check_numbers("sample_weight", sample_weight)
    rows, own = (_row_chunks(data) for data in (X, sample_weight))
    known = [(a, b) for a, b in zip(rows, own, strict=False) if not np.isnan(a + b)]
    if len(rows) != len(own) or any(a != b for a, b in known):
        raise ValueError(
            f"sample_weight must have the row chunks of X, {_shortened(rows)}, got "
            f"{_shortened(own)}. Use sample_weight.rechunk((X.chunks[0],)), or columns of one data "
            "frame for both."
        )


def _row_chunks(data) -> tuple:
    """The numbers of rows of the blocks; NaN where they are not known."""
    return (np.nan,) * data.npartitions if _is_frame(data) else data.chunks[0]


def _shortened(chunks) -> str:
    """A few chunks, and how many there are."""
    few = ", ".join(map(str, chunks[:4]))
    return f"({few})" if len(chunks) <= 4 else f"({few}, ... {len(chunks)} in all)"


def _check_numbers(name: str, data) -> None:
    """Refuse a declared dtype that holds no real numbers."""
    dtypes: Any = getattr(data, "dtypes", None) if _is_frame(data) else data.dtype
    columns = dtypes.items() if hasattr(dtypes, "items") else [(None, dtypes)]
    for column, dtype in columns:
        if getattr(dtype, "kind", "O") not in "biuf":
            where = "" if column is None else f" in column {column!r}"
            raise TypeError(
                f"{name} must hold real numbers, got {dtype}{where}. Use .astype(float) if they "
                "are numbers, encode categories, and give times a unit."
            )


def dtype_of(X) -> np.dtype:
    """float32 if all declared numbers are, else float64."""
    dtypes = set(X.dtypes) if _is_frame(X) else {X.dtype}
    return np.dtype(np.float32 if dtypes == {np.dtype(np.float32)} else np.float64)


def check_features(estimator, X, *, reset: bool) -> None:
    """Set, or compare, the number and names of an estimator's features; see `check_rows`."""
    check_rows(X)
    example = X._meta if _is_frame(X) else np.empty((0, X.shape[1]))
    validate_data(estimator, example, reset=reset, skip_check_array=True)


# --- functions of blocks as tasks -----------------------------------------------------------------


class DaskBlocks:
    """The blocks of a dask array or data frame, and of weights beside them.

    They are computed anew for each pass, by the current client or else by threads, unless the user
    has persisted them. Only data that stands in the graph itself, as that of
    ``dask.array.from_array``, is sent to a cluster once and kept there.

    Parameters
    ----------
    X : dask array or data frame
        Rows.
    sample_weight : dask array or series, default=None
        Their weights, cut into blocks as the rows are.

    Raises
    ------
    TypeError
        For other collections, and what is not numbers.
    ValueError
        For chunked features, another number of axes, weights with other chunks, and, on a
        cluster, a memory map that would be sent as a whole.
    """

    def __init__(self, X, sample_weight=None):
        check_rows(X)
        check_weights(sample_weight, X)
        given = [X] if sample_weight is None else [X, sample_weight]
        # (held: nothing else refers to what is persisted)
        self._collections = [_with_data_sent(data) for data in given]
        self._blocks = list(zip(*map(_delayed_blocks, self._collections), strict=True))
        self._keys = [tuple(map(_computed, block)) for block in self._blocks]
        self._sizes = {}  # in bytes, by key

    def __len__(self):
        return len(self._blocks)

    def map(self, function: Callable, arguments: dict[int, tuple] | None = None) -> list:
        """``function(rows, weights or None, *arguments)`` of all blocks, in their order.

        One task a block, or a block that has ``arguments``, by its number, or for several
        that a worker holds; see `in_tasks`.
        """
        if arguments is None:
            arguments = dict.fromkeys(range(len(self)), ())
        calls = [(args, *self._blocks[i]) for i, args in arguments.items()]
        return in_tasks(function, calls, lambda: self._groups(arguments))

    def one_by_one(self) -> Iterator[tuple]:
        """Bring ``(rows, weights or None)`` of each block here, one after the other."""
        has_rows = False
        for i in range(len(self)):
            ((X, weights),) = self.map(_both, {i: ()})
            _check_lengths(i, X, weights)
            has_rows |= len(X) > 0
            yield X, weights
        if not has_rows:
            raise ValueError(NO_ROWS)

    def _groups(self, numbers) -> list[list[int]]:
        """Positions of blocks that share a task: some that one worker holds, else one."""
        held = self._held_by()
        threads = _client().nthreads() if held else {}
        of_worker: dict[str, list[int]] = {}
        groups = []
        for position, i in enumerate(numbers):
            if i in held:
                of_worker.setdefault(held[i], []).append(position)
            else:
                groups.append([position])
        for worker, found in of_worker.items():
            share = math.ceil(len(found) / (TASKS_A_THREAD * threads.get(worker, 1)))
            size = max(1, min(share, TASK_BYTES // self._largest(held)))
            groups += (found[i : i + size] for i in range(0, len(found), size))
        return groups

    def _largest(self, numbers) -> int:
        """Bytes of the largest of some blocks that workers hold; each is looked up once."""
        keys = [self._keys[i][0] for i in numbers]
        if unknown := [key for key in keys if key not in self._sizes]:
            self._sizes |= _client().nbytes(unknown, summary=False)
        return max(1, *(self._sizes.get(key, TASK_BYTES) for key in keys))

    def _held_by(self) -> dict[int, str]:
        """The worker that holds a block in memory, and best its weights too, by the block's number.

        It is looked up for each pass: workers come, and die.
        """
        client = _client()
        if client is None:
            return {}
        from distributed import futures_of

        futures = futures_of(self._collections)
        workers, held = client.who_has(futures) if futures else {}, {}
        for i, keys in enumerate(self._keys):
            of_each = [set(workers.get(key, ())) for key in keys]
            if of_each[0]:
                held[i] = min(set.intersection(*of_each) or of_each[0])
        return held


def in_tasks(function: Callable, calls: list[tuple], groups: Callable | None = None) -> list:
    """``function(rows, weights or None, *arguments)`` of all ``(arguments, rows[, weights])``.

    One task a call, or those whose positions ``groups()`` returns together, before which their
    collections are computed to one array or frame each. The function is pickled. Workers that die
    are dask's to replace, and all is tried `ATTEMPTS` times.
    """
    from dask import delayed

    sent = _pickled(function)
    if len(sent) > SENT_ALONG:
        sent = delayed(sent)
    for _ in range(ATTEMPTS):
        try:
            return _tried(sent, calls, groups() if groups else [[i] for i in range(len(calls))])
        except _deaths() as error:
            death = error.with_traceback(None)
        gc.collect()  # failed tasks that anything still refers to would not be run again
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


def _both(X, weights):
    """A block and its weights."""
    return X, weights


def _check_lengths(number, X, weights) -> None:
    """Refuse a block of other rows than its weights."""
    if weights is not None and len(weights) != len(X):
        raise ValueError(
            f"block {number} of X is invalid: sample_weight must have shape ({len(X)},), got "
            f"({len(weights)},). Pass one weight a sample."
        )


def of_each(blocks: DaskBlocks, function: Callable, read: Callable) -> dict:
    """``function(*read(rows, weights))`` of each block that has rows, by its number."""
    numbers = {i: (i,) for i in range(len(blocks))}
    found = enumerate(blocks.map(_Named(function, read), numbers))
    return {i: result for i, result in found if result is not None}


class _Named:
    """A function of a block, whose number an error names; None where it has no rows."""

    def __init__(self, function, read):
        self.function, self.read = function, read

    def __call__(self, X, weights, number):
        if not len(X) and (weights is None or not len(weights)):
            return None
        return self.function(*_tensors(self.read, X, weights, number))


def _tensors(read, X, weights, number) -> tuple:
    """A block and its weights, validated; errors have its number."""
    try:
        return read(X, weights)
    except (TypeError, ValueError) as error:
        refusal = TypeError if isinstance(error, TypeError) else ValueError
        raise refusal(f"block {number} of X is invalid: {error}") from error


def _delayed_blocks(data) -> list:
    """The blocks as delayed objects, which share one optimised graph."""
    return data.to_delayed() if _is_frame(data) else data.to_delayed().ravel().tolist()


def _computed(block):
    """The key of what a delayed block stands for, which frames name anew."""
    key = block.key
    while (target := getattr(block.dask.get(key), "target", None)) is not None:
        key = target
    return key


def _with_data_sent(data):
    """A collection whose graph holds no large data, which would go to a cluster for each pass."""
    if _client() is None:
        return data
    held = [array for block in _delayed_blocks(data)[:1] for array in _held(block.dask)]
    if any(isinstance(value, np.memmap) for value in held):
        raise ValueError(
            "X must not be made by dask.array.from_array of a memory map, which is sent to every "
            "worker as a whole. Have each task open the file, as by dask.array.map_blocks, store "
            "it as zarr, or pass the memory map itself, which is read in blocks by this process."
        )
    return data.persist() if sum(value.nbytes for value in held) > HELD_IN_GRAPH else data


def _held(graph) -> list[np.ndarray]:
    """Arrays, and the columns of data frames, that stand in a graph."""
    values = (getattr(task, "value", task) for task in dict(graph).values())
    return [array for value in values for array in _arrays(value)]


def _arrays(value) -> list[np.ndarray]:
    if isinstance(value, np.ndarray):
        return [value]
    return [np.asarray(value)] if hasattr(value, "columns") and hasattr(value, "to_numpy") else []


def _client():
    """The client of the cluster to which tasks go; None if they stay in this process."""
    from dask.base import get_scheduler

    client = getattr(get_scheduler(), "__self__", None)
    return client if hasattr(client, "scheduler_info") else None


class _Kept(threading.local):
    """What a thread of a worker keeps from task to task."""

    pool: Workers | None = None


_KEPT = _Kept()


def _pickled(function) -> bytes:
    """A function to be sent, perhaps of the user's own session."""
    import cloudpickle  # dask brings it

    return cloudpickle.dumps(function)


@functools.lru_cache(maxsize=2)  # one of the pass at hand, and one of the last
def _unpickled(sent: bytes):
    """What was sent, which a worker need not unpickle again for each task."""
    return pickle.loads(sent)


def lent_pool() -> Workers:
    """One thread's own buffers, which tasks would else allocate anew, at three times the cost."""
    if _KEPT.pool is None:
        _KEPT.pool = Workers(torch.device("cpu"), 1)
    return _KEPT.pool


def _run(sent: bytes, arguments: list[tuple], *blocks) -> list:
    """A pickled function of some blocks: of rows, or of rows and then their weights, in turn."""
    function, width = _unpickled(sent), len(blocks) // len(arguments)
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


# --- samples --------------------------------------------------------------------------------------


class DaskSamples:
    """Samples of dask, as `skgmmot.fitting.stream.OutOfCore`: each pass is one task a block.

    Blocks that a worker holds share tasks. Sums are those of each block in memory, added in the
    order of the blocks: the same bits as `Stream` over the same blocks, for any number of workers,
    and after any of them has died.

    Parameters
    ----------
    blocks : DaskBlocks
        The samples, and their weights if they have any.
    read : callable
        ``(block, weights) -> (X, weights)``, validated tensors; it is pickled.

    Attributes
    ----------
    facts : Facts
        Of all samples, found by a pass when the object is made.

    Raises
    ------
    TypeError, ValueError
        If a block is no block of samples; the message names it.
    """

    device = torch.device("cpu")
    groups = ()

    def __init__(self, blocks: DaskBlocks, read: Callable):
        self.blocks, self.read = blocks, read
        found = of_each(blocks, _first_seen, read)
        #: Of each block that has rows, and what later passes must find again.
        self._facts = {i: facts for i, (facts, _) in found.items()}
        self._ends = {i: ends for i, (_, ends) in found.items()}
        _check_alike(self._facts)
        self.facts = merged(self._facts.values())
        self.n_samples, self.n_features = self.facts.n_samples, len(self.facts.sum)
        self.dtype, self.total = self.facts.dtype, self.facts.total
        self.incomplete = self.facts.observed is not None

    def at_work(self):
        """Nothing to prepare: the workers are dask's."""
        return nullcontext(self)

    def sum(self, of: BlockSum) -> tuple[Tensor, ...]:
        """Add the values of all blocks, in their order."""
        sum_of = _SumOf(of, self.facts.largest_weight, self.dtype, self.incomplete)
        found = self._map(sum_of, dict.fromkeys(self._facts, ()))
        return add(tuple(torch.from_numpy(np.array(t)) for t in part) for part in found)

    def take(self, numbers: np.ndarray | None = None) -> tuple[Tensor, Tensor | None]:
        """Bring rows into memory, in their order, with their scaled weights; see `OutOfCore`."""
        arguments = dict.fromkeys(self._facts, (None,))
        if numbers is not None:
            arguments = self._shared_out(numbers, [f.n_positive for f in self._facts.values()])
        return self._gathered(chosen, arguments)

    def fingerprint(self) -> dict:
        """What tells them from other samples, and from the same ones in other blocks."""
        lengths = [facts.n_samples for facts in self._facts.values()]
        looked_at = self._shared_out(positions_looked_at(self.n_samples).numpy(), lengths)
        found = fingerprint(self.n_samples, *self._gathered(_rows_at, looked_at))
        return found | {"lengths of blocks": digest(torch.tensor(lengths))}

    def _shared_out(self, numbers, counts) -> dict[int, tuple]:
        """Ascending numbers by the blocks that hold so many each, counted within them."""
        ends = np.cumsum(counts)
        parts = np.split(numbers, np.searchsorted(numbers, ends[:-1]))
        of_block = zip(self._facts, parts, (0, *ends[:-1]), strict=True)
        return {i: (part - start,) for i, part, start in of_block if len(part)}

    def _gathered(self, function, arguments):
        """Rows, and their scaled weights, that a function takes from some blocks."""
        X, weights = zip(*self._map(function, arguments), strict=True)
        X = torch.from_numpy(np.concatenate(X))
        if weights[0] is None:
            return X, None
        weights = torch.from_numpy(np.concatenate(weights))
        return X, scaled(weights, self.facts.largest_weight, self.dtype)

    def _map(self, function, arguments):
        """``function(X, weights, *arguments)`` of some blocks as tensors."""
        arguments = {i: (i, self._ends[i], *args) for i, args in arguments.items()}
        return self.blocks.map(_OfTensors(function, self.read), arguments)


def _first_seen(X, weights):
    """The facts of a block, and its ends."""
    return facts_of(X, weights), _ends(X, weights)


def _ends(X, weights) -> tuple[int, str]:
    """The number of rows of a block, and a digest of the first and the last and their weights."""
    if not len(X):
        return 0, ""
    parts = [part[[0, -1]] for part in (X, weights) if part is not None]
    return len(X), "".join(map(digest, parts))


def _rows_at(X, weights, numbers):
    """Some rows of a block, and their weights."""
    return X[numbers], None if weights is None else weights[numbers]


def _check_alike(facts: dict[int, Facts]) -> None:
    """Refuse blocks without any rows, of several dtypes, and weights that are all zero."""
    if not facts:
        raise ValueError(NO_ROWS)
    (first, kind), *others = ((i, each.dtype) for i, each in facts.items())
    for i, dtype in others:
        if dtype != kind:
            raise ValueError(
                f"blocks must have one dtype, got {dtype} in block {i} after {kind} in block "
                f"{first}. Use X.astype(float)."
            )


class _OfTensors:
    """A function of blocks as tensors, whose results are sent as arrays.

    torch's own pickles are large, and slow to read. Blocks must have the ends of the first pass.
    """

    def __init__(self, function, read):
        self.function, self.read = function, read

    def __call__(self, X, weights, number, ends, *arguments):
        if len(X):
            X, weights = _tensors(self.read, X, weights, number)
        if _ends(X, weights) != ends:
            raise ValueError(
                "X must compute to the same samples in every pass, got other rows or weights in "
                f"block {number}. Leave nothing to chance in its tasks, or keep what they compute "
                "once, as by X.persist()."
            )
        found = self.function(X, weights, *arguments)
        return tuple(None if t is None else t.numpy() for t in found)


class _SumOf:
    """A sum over a block, by one thread: the others of a worker have blocks of their own."""

    def __init__(self, of, largest_weight, dtype, incomplete):
        self.of, self.largest_weight, self.dtype = of, largest_weight, dtype
        self.incomplete = incomplete

    def __call__(self, X, weights):
        weights = scaled(weights, self.largest_weight, self.dtype)
        return in_memory(X, weights, lent_pool(), incomplete=self.incomplete).sum(self.of)


# --- answers that stay lazy -----------------------------------------------------------------------


def answers(
    estimator, X, function: Callable, example: np.ndarray | None = None, *, by_row: bool = False
):
    """``function(estimator, block)`` of all blocks as a lazy dask array with the row chunks of X.

    Parameters
    ----------
    estimator : BaseEstimator
        Fitted; the features of ``X`` are compared with its own.
    X : dask array or data frame
        Rows. Blocks without any are answered by nothing.
    function : callable
        Returns an array with as many rows as the block; it is pickled.
    example : ndarray, default=None
        An answer, of any number of rows, for its dtype and further axes; None has the function
        answer a row of zeros.
    by_row : bool, default=False
        Whether the function takes the number of a block's first row as its third argument.

    Returns
    -------
    dask array
        The answers.

    Raises
    ------
    TypeError, ValueError
        If ``X`` is no table of numbers chunked by rows, or has not the features of the fit.
    """
    check_features(estimator, X, reset=False)
    if by_row and np.isnan(_row_chunks(X)).any():
        raise ValueError(
            "X must have chunks of known lengths where numbers are drawn for each row, got unknown "
            "ones. Use X.compute_chunk_sizes(), or X.to_dask_array(lengths=True) of a data frame."
        )
    nameless = object.__new__(type(estimator))  # names have been compared
    nameless.__dict__ = {k: v for k, v in vars(estimator).items() if k != "feature_names_in_"}
    if example is None:
        example = np.asarray(function(nameless, np.zeros((1, X.shape[1]), dtype_of(X))))
    meta = example[:0]
    of_block = (_RowAnswer if by_row else _Answer)(nameless, function, meta)
    if _is_frame(X):
        return X.map_partitions(of_block, meta=meta)
    if meta.ndim == 1:
        return X.map_blocks(of_block, drop_axis=1, dtype=meta.dtype, meta=meta)
    chunks = (X.chunks[0], *((length,) for length in meta.shape[1:]))
    return X.map_blocks(of_block, chunks=chunks, dtype=meta.dtype, meta=meta)


class _Answer:
    """An estimator's answer for one block, whose dtype is that of ``meta``, which has no rows."""

    __name__ = "answer"  # in dask's keys

    def __init__(self, estimator, function, meta):
        self.estimator, self.function, self.meta = estimator, function, meta

    def __reduce__(self):
        return _answer, (type(self), _pickled((self.estimator, self.function, self.meta)))

    def __call__(self, block, *arguments):
        if not len(block):
            return self.meta
        if hasattr(block, "columns"):
            block = block.set_axis(range(block.shape[1]), axis=1)
        found = np.asarray(self.function(self.estimator, block, *arguments))
        return found.astype(self.meta.dtype, copy=False)


def _answer(cls, sent):
    return cls(*_unpickled(sent))


class _RowAnswer(_Answer):
    """The same where the function also takes the number of the block's first row."""

    def __call__(self, block, block_info=None):
        return super().__call__(block, block_info[0]["array-location"][0][0])


def by_method(name: str) -> Callable:
    """``getattr(estimator, name)(block)``, as a function to be pickled."""
    return functools.partial(_method, name)


def _method(name, estimator, block):
    return getattr(estimator, name)(block)
