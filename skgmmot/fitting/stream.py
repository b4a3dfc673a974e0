"""Samples that are read block by block, once for each pass, and what one pass tells of them."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from skgmmot.fitting.incomplete import ObservedSums
from skgmmot.fitting.samples import (
    BlockSum,
    Pooled,
    Samples,
    digest,
    fingerprint,
    in_memory,
    positions_looked_at,
)
from skgmmot.gaussian.incomplete.patterns import informative_weight
from skgmmot.numerics.blocks import Workers, add, block_length, weighted_sum

#: Some rows ``(b, d)``, float32 or float64, and their weights ``(b,)`` in float64, as given.
Block = tuple[Tensor, Tensor | None]

#: Most samples that are brought into memory for a start, and most bytes of them.
START_ROWS, START_BYTES = 2**17, 2**26


class Facts(NamedTuple):
    """What is known of samples, or of a block of them: sums that merge, see `merged`.

    Weights count in units of the largest, as the weights of a fit are scaled, which keeps their
    products in range.
    """

    n_samples: int
    """Number of rows n."""
    n_positive: int
    """Number of rows of positive weight."""
    largest_weight: float
    """The largest weight; 1 if there are none."""
    total: float
    """The sum of weights over the largest; n if there are none. Rows without any entry do not
    count."""
    sum: Tensor
    """The sum of rows times weights over the largest ``(d,)``, float64."""
    squares: Tensor
    """Weighted sum of squared distances from the mean ``(d,)``, float64."""
    dtype: torch.dtype
    """That of the rows."""
    low: Tensor
    """The least value of each feature ``(d,)`` in rows of positive weight, float64."""
    high: Tensor
    """The largest, likewise."""
    observed: Tensor | None = None
    """Where entries are missing, the sum of the weights of those that are not ``(d,)``."""

    @property
    def counted(self) -> Tensor | float:
        """The weights of the entries of each feature."""
        return self.total if self.observed is None else self.observed

    @property
    def mean(self) -> Tensor:
        """The weighted mean ``(d,)``, float64; zero for a block whose weights are all zero."""
        return self.sum / _positive(self.counted)

    @property
    def origin(self) -> Tensor:
        """The mean in the dtype of the rows, at which they are centred."""
        return self.mean.to(self.dtype)

    @property
    def variances(self) -> Tensor:
        """The variance of each feature ``(d,)``, float64."""
        return self.squares / self.counted


def _positive(totals):
    """Totals to divide by: what is zero is one."""
    if isinstance(totals, Tensor):
        return torch.where(totals > 0, totals, 1.0)
    return totals or 1.0


def facts_of(X: Tensor, weights: Tensor | None) -> Facts:
    """Compute the facts of one block.

    Parameters
    ----------
    X : Tensor of shape (b, d)
        Rows.
    weights : Tensor of shape (b,) or None
        Their weights, float64, not scaled.

    Returns
    -------
    Facts
        A small record, which can be pickled; for the first and only block, its mean and total are
        those that a fit in memory finds, bit by bit.
    """
    largest = 1.0 if weights is None else float(weights.max())
    a = scaled(weights, largest or 1.0, X.dtype)
    n_positive = len(X) if weights is None else int((weights > 0).sum())
    if torch.isnan(X).any():
        found = ObservedSums.of(X, a)
        total, squares = informative_weight(X, a), found.squares(X, a)
        facts = len(X), n_positive, largest, float(total), found.sum, squares, X.dtype
        return Facts(*facts, *bounds(X, weights), found.total)
    sums, total = weighted_sum(X, a)
    mean = sums / (float(total) or 1.0)
    squares = torch.zeros_like(sums)
    length = block_length(X.device, X.shape[1])
    for i in range(0, len(X), length):
        deviations = (X[i : i + length].double() - mean).square()
        squares += deviations.sum(0) if a is None else a[i : i + length].double() @ deviations
    box = bounds(X, weights)
    return Facts(len(X), n_positive, largest, float(total), sums, squares, X.dtype, *box)


def bounds(X: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Find the smallest box around rows.

    Parameters
    ----------
    X : Tensor of shape (b, d)
        Rows.
    weights : Tensor of shape (b,) or None
        Their weights; rows of weight zero do not count.

    Returns
    -------
    low : Tensor of shape (d,)
        The least values, in float64; infinite where no row counts.
    high : Tensor of shape (d,)
        The largest; minus infinity where no row counts.
    """
    if weights is not None and not (weights > 0).all():
        X = X[weights > 0]
    if not len(X):
        infinite = torch.full(X.shape[1:], torch.inf, dtype=torch.float64, device=X.device)
        return infinite, -infinite
    return X.amin(0).double(), X.amax(0).double()


def merged(facts: Iterable[Facts]) -> Facts:
    """Merge the facts of blocks, in order, to those of all rows.

    Parameters
    ----------
    facts : iterable of Facts
        At least one.

    Returns
    -------
    Facts
        Of all rows.

    References
    ----------
    .. [1] Chan, Golub and LeVeque 1983, variances of merged samples.
    """
    facts = iter(facts)
    found = next(facts)
    for other in facts:
        found = _merge(found, other)
    return found


def _merge(first: Facts, second: Facts) -> Facts:
    largest = max(first.largest_weight, second.largest_weight)
    a, b = (f.largest_weight / (largest or 1.0) for f in (first, second))
    total = a * first.total + b * second.total
    counted = a * first.counted + b * second.counted
    shared = a * first.counted * (b * second.counted) / _positive(counted)
    apart = (second.mean - first.mean).square()
    return Facts(
        first.n_samples + second.n_samples,
        first.n_positive + second.n_positive,
        largest,
        total,
        a * first.sum + b * second.sum,
        a * first.squares + b * second.squares + shared * apart,
        first.dtype,
        torch.minimum(first.low, second.low),
        torch.maximum(first.high, second.high),
        counted if isinstance(counted, Tensor) else None,
    )


def scaled(weights: Tensor | None, largest: float, dtype: torch.dtype) -> Tensor | None:
    """Divide weights by the largest of all.

    Parameters
    ----------
    weights : Tensor of shape (b,) or None
        Weights, float64.
    largest : float
        The largest weight of all samples.
    dtype : torch.dtype
        That of the samples.

    Returns
    -------
    Tensor of shape (b,) or None
        Weights of at most one, in that dtype.
    """
    return None if weights is None else (weights / largest).to(dtype)


class OutOfCore(Samples, Protocol):
    """Samples that are not in one tensor; they give sums, facts of all rows, and chosen rows."""

    facts: Facts
    """Of all samples."""

    def take(self, numbers: np.ndarray | None = None) -> tuple[Tensor, Tensor | None]:
        """Bring rows into memory, in their order, with their scaled weights.

        ``numbers``, ascending, count the rows of positive weight; None takes all rows.
        """


def chosen(X: Tensor, weights: Tensor | None, numbers: np.ndarray | None) -> Block:
    """Copy the rows of a block that `OutOfCore.take` is to take from it.

    Parameters
    ----------
    X : Tensor of shape (b, d)
        Rows.
    weights : Tensor of shape (b,) or None
        Their weights.
    numbers : ndarray of int or None
        Which among the block's rows of positive weight; None is all rows.

    Returns
    -------
    X : Tensor of shape (m, d)
        These rows.
    weights : Tensor of shape (m,) or None
        Their weights, as given.
    """
    if numbers is None:
        return X.clone(), None if weights is None else weights.clone()
    rows = torch.from_numpy(numbers).to(X.device)
    if weights is None:
        return X[rows], None
    rows = (weights > 0).nonzero()[:, 0][rows]
    return X[rows], weights[rows]


def start_rows(facts: Facts, n_components: int) -> int:
    """Return how many rows a start may bring into memory.

    Parameters
    ----------
    facts : Facts
        Of all samples.
    n_components : int
        K.

    Returns
    -------
    int
        Up to `START_ROWS` rows and `START_BYTES` bytes, but two rows a component.
    """
    row_bytes = len(facts.sum) * facts.dtype.itemsize
    return max(min(START_ROWS, START_BYTES // row_bytes), 2 * n_components)


class Stream(Pooled):
    """Samples that come in blocks, read anew for each pass.

    Sums are those of each block in memory, added in the order of the blocks: the same blocks give
    the same bits, a single block those of `InMemory`.

    Parameters
    ----------
    read : callable
        Returns an iterator of `Block`; the same rows at each call, cut into any blocks.
    pool : Workers, default=None
        As `InMemory`.

    Attributes
    ----------
    facts : Facts
        Of all samples, found by a pass when the object is made.

    Raises
    ------
    Exception
        What ``read()`` raises.
    """

    def __init__(self, read: Callable[[], Iterator[Block]], pool: Workers | None = None):
        self.read, self.pool = read, pool
        devices = set()

        def facts():
            for X, weights in read():
                devices.add(X.device)
                yield facts_of(X, weights)

        self.facts = merged(facts())
        (self.device,) = devices
        self.n_samples, self.n_features = self.facts.n_samples, len(self.facts.sum)
        self.dtype, self.total = self.facts.dtype, self.facts.total
        self.incomplete = self.facts.observed is not None

    def sum(self, of: BlockSum) -> tuple[Tensor, ...]:
        """Add the values of all blocks, in their order."""
        with self.at_work() as pool:
            return add(
                in_memory(X, self._scaled(a), pool, incomplete=self.incomplete).sum(of)
                for X, a in self.read()
            )

    def take(self, numbers: np.ndarray | None = None) -> tuple[Tensor, Tensor | None]:
        """Bring rows into memory, in their order, with their scaled weights; see `OutOfCore`."""
        parts, before = [], 0
        for X, weights in self.read():
            n = len(X) if weights is None else int((weights > 0).sum())
            here = numbers
            if numbers is not None:
                low, high = np.searchsorted(numbers, [before, before + n])
                here = numbers[low:high] - before
            parts.append(chosen(X, weights, here))
            before += n
        X = torch.cat([part for part, _ in parts])
        weighted = parts[0][1] is not None
        return X, self._scaled(torch.cat([a for _, a in parts])) if weighted else None

    def fingerprint(self) -> dict:
        """What tells them from other samples, and from the same ones in other blocks."""
        positions, before = positions_looked_at(self.n_samples), 0
        parts, lengths = [], []
        for X, weights in self.read():
            within = (positions >= before) & (positions < before + len(X))
            here = (positions[within] - before).to(X.device)
            parts.append((X[here], None if weights is None else weights[here]))
            lengths.extend([len(X)] if len(X) else [])
            before += len(X)
        X = torch.cat([part for part, _ in parts])
        a = None if parts[0][1] is None else self._scaled(torch.cat([a for _, a in parts]))
        found = fingerprint(self.n_samples, X, a)
        return found | {"lengths of blocks": digest(torch.tensor(lengths))}

    def _scaled(self, weights):
        return scaled(weights, self.facts.largest_weight, self.dtype)
