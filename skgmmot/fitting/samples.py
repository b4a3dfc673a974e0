"""Where samples live, seen as sums over all of them: in memory, in blocks shared by threads."""

import hashlib
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from skgmmot.gaussian.incomplete.patterns import by_pattern, informative_weight
from skgmmot.numerics.blocks import Workers, workers


class BlockSum(Protocol):
    """What is summed over samples: a function of a block of them, whose values add.

    Where samples live elsewhere it is sent there: it can be pickled.
    """

    row_size: int
    """Numbers that a sample takes in a block, for choosing the length of blocks."""
    min_rows: int
    """Shorter blocks are slow."""

    def block(self, X: Tensor, sample_weight: Tensor | None, buffers) -> tuple[Tensor, ...]:
        """The values of samples ``(b, d)`` and their weights ``(b,)``."""


class Samples(Protocol):
    """Samples and their weights, wherever they live."""

    n_samples: int
    """Their number n."""
    n_features: int
    """Their dimension d."""
    dtype: torch.dtype
    """float32 or float64."""
    device: torch.device
    """Where their sums are."""
    groups: tuple
    """Those that see a part of a mixture each (`fitting.groups.Group`); none if all see all."""
    incomplete: bool
    """Whether entries of theirs are missing, NaN."""

    @property
    def total(self) -> float:
        """The sum of their weights, n if there are none; of those of which anything is observed."""

    def sum(self, of: BlockSum) -> tuple[Tensor, ...]:
        """Add the values of all blocks, in the order of the samples."""

    def fingerprint(self) -> dict:
        """What tells them from other samples: their shape, dtype, and digests of some of them."""

    def at_work(self) -> AbstractContextManager:
        """A context in which several passes over the samples cost less to begin."""


#: Samples that a fingerprint looks at, evenly spread.
N_LOOKED_AT = 1024


def positions_looked_at(n_samples: int) -> Tensor:
    """The samples that a fingerprint looks at: evenly spread, the first and the last among them.

    Parameters
    ----------
    n_samples : int
        Number of samples n.

    Returns
    -------
    Tensor of int64
        Their positions, in order.
    """
    size = min(n_samples, N_LOOKED_AT)
    return torch.arange(size) * (n_samples - 1) // max(size - 1, 1)


def fingerprint(n_samples: int, some: Tensor, some_weights: Tensor | None) -> dict:
    """Describe samples by some of them.

    Parameters
    ----------
    n_samples : int
        Number of all samples n.
    some : Tensor of shape (m, d)
        Those at `positions_looked_at`.
    some_weights : Tensor of shape (m,) or None
        Their weights.

    Returns
    -------
    dict
        Of plain values, which are equal for equal samples, wherever they live.
    """
    return {
        "shape": [n_samples, some.shape[1]],
        "dtype": str(some.dtype).removeprefix("torch."),
        "samples": digest(some),
        "sample_weight": None if some_weights is None else digest(some_weights),
    }


def digest(tensor: Tensor) -> str:
    """Compute a digest of the numbers of a tensor.

    Parameters
    ----------
    tensor : Tensor
        The numbers.

    Returns
    -------
    str
        Hexadecimal digits, others for other numbers.
    """
    return hashlib.sha256(tensor.detach().cpu().contiguous().numpy().tobytes()).hexdigest()


class Pooled:
    """Samples whose passes are shared by threads of this process."""

    device: torch.device
    """Where they are computed with."""
    pool: Workers | None
    """Threads that share the passes; None where none are at work."""
    groups: tuple = ()
    """All samples see the whole mixture."""

    @contextmanager
    def at_work(self):
        """Have threads share the passes within; yields their pool."""
        if self.pool is not None:
            yield self.pool
            return
        with workers(self.device) as self.pool:
            try:
                yield self.pool
            finally:
                self.pool = None


class InMemory(Pooled):
    """Samples in one tensor.

    Parameters
    ----------
    X : Tensor of shape (n, d)
        Samples, float32 or float64.
    sample_weight : Tensor of shape (n,), default=None
        Their weights, in the dtype of ``X``.
    pool : Workers, default=None
        Threads that share the passes. None starts some for each pass, or once for all within
        `at_work`.
    incomplete : bool, default=False
        Whether entries are missing, NaN; passes are faster over samples sorted by their pattern.
    """

    def __init__(
        self,
        X: Tensor,
        sample_weight: Tensor | None = None,
        pool: Workers | None = None,
        *,
        incomplete: bool = False,
    ):
        self.X, self.sample_weight, self.pool = X, sample_weight, pool
        self.incomplete = incomplete
        self.n_samples, self.n_features = X.shape
        self.dtype, self.device = X.dtype, X.device

    @cached_property
    def total(self) -> float:
        """The sum of the weights of samples that count."""
        a = self.sample_weight
        if self.incomplete:
            return float(informative_weight(self.X, a))
        return float(self.n_samples if a is None else a.double().sum())

    def __getitem__(self, rows) -> tuple[Tensor, Tensor | None]:
        """Some samples, and their weights."""
        a = self.sample_weight
        return self.X[rows], None if a is None else a[rows]

    def fingerprint(self) -> dict:
        """What tells them from other samples."""
        return fingerprint(
            self.n_samples, *self[positions_looked_at(self.n_samples).to(self.device)]
        )

    def sum(self, of: BlockSum) -> tuple[Tensor, ...]:
        """Add the values of all blocks, in the order of the samples."""

        def block(rows, buffers):
            return of.block(*self[rows], buffers)

        if self.pool is not None:  # entering a context takes as long as small samples
            return self.pool.sum(block, self.n_samples, of.row_size, min_rows=of.min_rows)
        with self.at_work():
            return self.sum(of)

    def map(self, of) -> tuple[Tensor, Tensor]:
        """``of.samples(X, sample_weight, buffers)`` block by block: a row and a number each."""
        of_X, of_a = torch.empty_like(self.X), self.X.new_empty(self.n_samples)

        def over_span(span, buffers):
            for rows in span:
                of_X[rows], of_a[rows] = of.samples(*self[rows], buffers)

        with self.at_work() as pool:
            row_size = of.row_size + of.sample_size
            list(pool.map(over_span, self.n_samples, row_size, min_rows=of.min_rows))
        return of_X, of_a


def in_memory(
    X: Tensor, sample_weight: Tensor | None, pool: Workers | None = None, *, incomplete: bool
) -> InMemory:
    """Return the samples of a block, sorted by pattern where entries are missing.

    Parameters
    ----------
    X : Tensor of shape (b, d)
        Rows.
    sample_weight : Tensor of shape (b,) or None
        Their weights, scaled.
    pool : Workers, default=None
        As `InMemory`.
    incomplete : bool
        Whether entries of theirs may be missing.

    Returns
    -------
    InMemory
        The samples.
    """
    if incomplete:
        order = by_pattern(X)
        X, sample_weight = X[order], None if sample_weight is None else sample_weight[order]
    return InMemory(X, sample_weight, pool, incomplete=incomplete)
