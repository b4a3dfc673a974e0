"""Samples of dask, as a fit asks for them: each pass is tasks over their blocks."""

from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor

from skgmmot._inputs.dask.blocks import NO_ROWS, DaskBlocks, of_each, validated
from skgmmot._inputs.dask.tasks import lent_pool
from skgmmot.fitting.samples import (
    BlockSum,
    digest,
    fingerprint,
    in_memory,
    positions_looked_at,
)
from skgmmot.fitting.stream import Facts, chosen, facts_of, merged, scaled
from skgmmot.numerics.blocks import add


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


def _first_seen(X, weights):
    """The facts of a block, and its ends."""
    return facts_of(X, weights), _ends(X, weights)


def _ends(X, weights) -> tuple[int, str]:
    """The number of rows of a block, and a digest of the first and the last and their weights."""
    if not len(X):
        return 0, ""
    parts = [part[[0, -1]] for part in (X, weights) if part is not None]
    return len(X), "".join(map(digest, parts))


class _OfTensors:
    """A function of blocks as tensors, whose results are sent as arrays.

    torch's own pickles are large, and slow to read. Blocks must have the ends of the first pass.
    """

    def __init__(self, function, read):
        self.function, self.read = function, read

    def __call__(self, X, weights, number, ends, *arguments):
        if len(X):
            X, weights = validated(self.read, X, weights, number)
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
