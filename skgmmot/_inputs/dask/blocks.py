"""The blocks of a dask array or data frame, and of weights beside them."""

import math
from collections.abc import Callable, Iterator

import numpy as np

from skgmmot._inputs.dask.collections import check_rows, check_weights, is_frame
from skgmmot._inputs.dask.tasks import current_client, in_tasks

#: Data in a graph of more bytes than this is sent to a cluster once for all passes.
HELD_IN_GRAPH = 2**20
NO_ROWS = "X must have rows, got none in any block. Pass more data."
#: Tasks of a pass into which each thread of a worker has the blocks that it holds, where these are
#: small: each costs about as much as the arithmetic of 10,000 rows.
TASKS_A_THREAD = 2
#: Blocks that share a task have at most so many bytes together, as a worker may have them on disk.
TASK_BYTES = 2**26


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
        threads = current_client().nthreads() if held else {}
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
            self._sizes |= current_client().nbytes(unknown, summary=False)
        return max(1, *(self._sizes.get(key, TASK_BYTES) for key in keys))

    def _held_by(self) -> dict[int, str]:
        """The worker that holds a block in memory, and best its weights too, by the block's number.

        It is looked up for each pass: workers come, and die.
        """
        client = current_client()
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
        return self.function(*validated(self.read, X, weights, number))


def validated(read, X, weights, number) -> tuple:
    """A block and its weights, validated; errors have its number."""
    try:
        return read(X, weights)
    except (TypeError, ValueError) as error:
        refusal = TypeError if isinstance(error, TypeError) else ValueError
        raise refusal(f"block {number} of X is invalid: {error}") from error


def _delayed_blocks(data) -> list:
    """The blocks as delayed objects, which share one optimised graph."""
    return data.to_delayed() if is_frame(data) else data.to_delayed().ravel().tolist()


def _computed(block):
    """The key of what a delayed block stands for, which frames name anew."""
    key = block.key
    while (target := getattr(block.dask.get(key), "target", None)) is not None:
        key = target
    return key


def _with_data_sent(data):
    """A collection whose graph holds no large data, which would go to a cluster for each pass."""
    if current_client() is None:
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
