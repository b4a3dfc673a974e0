"""Sums and maps over blocks of rows, shared among threads, with reproducible results.

Rows are cut into blocks whose length depends only on the shape of the problem. Consecutive blocks
form spans. Each thread works on one span at a time, and the sums of the spans are added in the
order of the rows, so that results are equal bit by bit for any number of threads. Meanwhile torch
runs on one thread (its own threading does not help on blocks that fit a cache); the caller's
setting is restored.
"""

import functools
import itertools
import math
from contextlib import contextmanager
from queue import SimpleQueue

import torch
from torch import Tensor

from skgmmot.numerics.threads import single_threaded_torch, thread_pool

#: Largest number of entries of a block (2 MiB of float64 on a CPU, to fit its cache), and of rows.
BLOCK_SIZE = {"cpu": 2**18, "other": 2**24}
BLOCK_ROWS = {"cpu": 2**14, "other": 2**20}
#: Smallest number of rows of a block: below it, the cost of a call outweighs that of its work.
MIN_BLOCK_ROWS = 16
#: Spans of a pass: enough to balance the load of a few threads, few enough to keep the memory of
#: partial sums small.
N_SPANS = 16


class Buffers:
    """Named scratch tensors, allocated once and reused from block to block."""

    def __init__(self, device: torch.device):
        self._device = device
        self._tensors: dict[tuple, Tensor] = {}

    def __call__(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        size, key = math.prod(shape), (name, dtype)
        if key not in self._tensors or self._tensors[key].numel() < size:
            with torch.inference_mode(False):  # for calls in either mode
                self._tensors[key] = torch.empty(size, dtype=dtype, device=self._device)
        return self._tensors[key][:size].view(shape)


class Workers:
    """A thread pool that maps functions over blocks of rows and sums their results."""

    def __init__(self, device: torch.device, n_threads: int):
        self.device = device
        self.n_threads = n_threads if device.type == "cpu" else 1
        self._pool = thread_pool(self.n_threads) if self.n_threads > 1 else None
        self._free: SimpleQueue[Buffers] = SimpleQueue()
        for _ in range(self.n_threads):
            self._free.put(Buffers(device))

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def map(self, function, n_rows: int, row_size: int, min_rows: int = MIN_BLOCK_ROWS):
        """Yield ``function(list of slices, buffers)`` for each span, in the order of the rows."""
        spans = row_spans(n_rows, block_length(self.device, row_size, min_rows))
        run = functools.partial(self._run, function, torch.is_inference_mode_enabled())
        if self._pool is None or len(spans) == 1:
            return map(run, spans)
        return self._pool.map(run, spans)

    def _run(self, function, inference: bool, rows):
        """``function(rows, buffers)`` in the caller's mode, with buffers that no other thread has.

        A thread outside inference mode must not write to what was allocated inside.
        """
        buffers = self._free.get()
        try:
            with torch.inference_mode(inference), torch.no_grad():
                return function(rows, buffers)
        finally:
            self._free.put(buffers)

    def sum(
        self, function, n_rows: int, row_size: int, min_rows: int = MIN_BLOCK_ROWS
    ) -> tuple[Tensor, ...]:
        """Add ``function(rows, buffers) -> tuple of tensors`` over all blocks of rows."""
        if n_rows <= block_length(self.device, row_size, min_rows):
            mode = torch.is_inference_mode_enabled()
            return self._run(function, mode, slice(0, n_rows))

        def over_span(span, buffers):
            return add(function(rows, buffers) for rows in span)

        return add(self.map(over_span, n_rows, row_size, min_rows))


def add(parts) -> tuple[Tensor, ...]:
    """Add tuples of tensors field by field, in order, into the first of them."""
    parts = iter(parts)
    total = tuple(next(parts))
    for part in parts:
        for t, p in zip(total, part, strict=True):
            t.add_(p)
    return total


def block_length(device: torch.device, row_size: int, min_rows: int = MIN_BLOCK_ROWS) -> int:
    """Largest number of rows of a block, if one row takes ``row_size`` numbers."""
    where = "cpu" if device.type == "cpu" else "other"
    return max(min_rows, min(BLOCK_SIZE[where] // row_size, BLOCK_ROWS[where]))


def row_spans(n_rows: int, length: int) -> list[list[slice]]:
    """Cut rows into blocks of about equal length, at most ``length``, and these into spans."""
    n_blocks = math.ceil(n_rows / length)
    if 1 < n_blocks < N_SPANS:
        n_blocks = 2 ** math.ceil(
            math.log2(n_blocks)
        )  # so that two and four threads get equal shares
    edges = [n_rows * i // n_blocks for i in range(n_blocks + 1)]
    blocks = [slice(a, b) for a, b in itertools.pairwise(edges)]
    per_span = math.ceil(n_blocks / N_SPANS)
    return [blocks[i : i + per_span] for i in range(0, n_blocks, per_span)]


@contextmanager
def workers(device: torch.device):
    """Context manager of a `Workers` pool with as many threads as torch is set to use."""
    with single_threaded_torch() as n_threads:
        pool = Workers(device, n_threads)
        try:
            yield pool
        finally:
            pool.close()


def map_rows(
    function, row_size: int, X: Tensor, *others: Tensor, min_rows: int = MIN_BLOCK_ROWS
) -> Tensor:
    """Apply ``function`` to blocks of rows of ``X (n, d)`` and ``others``, and join the results.

    ``others`` are tensors, or other objects that give a tensor for a slice of rows. ``row_size`` is
    the number of temporary numbers for one row; blocks have at least ``min_rows``. The memory
    needed is that of the results and of one block for each thread.
    """

    def of(rows):
        return function(*(t[rows] for t in (X, *others)))

    if len(X) <= block_length(X.device, row_size, min_rows):
        with single_threaded_torch(), torch.no_grad():
            return of(slice(0, len(X))).contiguous()
    with torch.no_grad():
        first = of(slice(0, 1))  # for its shape and dtype
    results = first.new_empty(len(X), *first.shape[1:])

    def over_span(span, buffers):
        for rows in span:
            results[rows] = of(rows)

    with workers(X.device) as pool:
        list(pool.map(over_span, len(X), row_size, min_rows))
    return results


def origin(X: Tensor, sample_weight: Tensor | None) -> Tensor:
    """The weighted mean of samples in their dtype, at which they are centred."""
    share = None if sample_weight is None else sample_weight / sample_weight.max()
    sums, total = weighted_sum(X, share)
    return (sums / total).to(X.dtype)


def weighted_sum(X: Tensor, sample_weight: Tensor | None) -> tuple[Tensor, Tensor | int]:
    """The sum of rows times their weights ``(d,)``, and that of the weights, in float64."""
    length = block_length(X.device, X.shape[1])  # torch copies what it sums in float64
    if sample_weight is None:
        sums, total = (x.sum(0, dtype=torch.float64) for x in X.split(length)), len(X)
    else:
        blocks = zip(X.split(length), sample_weight.split(length), strict=True)
        # (not a product with a vector: equal weights give the bits of none)
        sums = ((w.double().unsqueeze(1) * x.double()).sum(0) for x, w in blocks)
        total = sample_weight.sum(dtype=torch.float64)
    return functools.reduce(torch.add, sums), total
