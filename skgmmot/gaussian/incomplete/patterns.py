"""Which entries of samples are missing, and samples with the same ones."""

import itertools
from typing import NamedTuple

import torch
from torch import Tensor


def by_pattern(X: Tensor) -> Tensor:
    """Return the order of samples in which those of a pattern are together, complete ones first.

    Parameters
    ----------
    X : Tensor of shape (n, d)
        Samples; NaN is missing.

    Returns
    -------
    Tensor of shape (n,)
        Their numbers; within a pattern in their own order.
    """
    generator = torch.Generator().manual_seed(0)
    # sums of whole numbers are exact; two patterns of one sum would cost time, nothing else
    keys = torch.randint(2**40, (X.shape[1],), generator=generator).to(X.device, torch.float64)
    return (torch.isnan(X).double() @ keys).argsort(stable=True)


class Patterns(NamedTuple):
    """Consecutive samples of one pattern, of a block."""

    rows: list[slice]
    """Which samples, S times."""
    observed: Tensor
    """What they have ``(S, d)``, truth values."""

    @classmethod
    def of(cls, missing: Tensor) -> "Patterns":
        """Those of samples whose missing entries are given ``(b, d)``."""
        edges = [0, *(cls._changes(missing).nonzero().squeeze(1) + 1).tolist(), len(missing)]
        rows = [slice(a, b) for a, b in itertools.pairwise(edges)]
        return cls(rows, ~missing[edges[:-1]])

    @staticmethod
    def _changes(missing: Tensor) -> Tensor:
        """After which samples, but the last, another pattern begins ``(b - 1,)``."""
        return (missing[1:] != missing[:-1]).any(1)

    @classmethod
    def number(cls, missing: Tensor) -> int:
        """How many there are among samples whose missing entries are given ``(b, d)``."""
        return 1 + int(cls._changes(missing).sum())

    def counts(self) -> Tensor:
        """How many samples each has ``(S,)``."""
        lengths = [rows.stop - rows.start for rows in self.rows]
        return torch.tensor(lengths, device=self.observed.device)


def drawn_labels(resp: Tensor, uniforms: Tensor) -> Tensor:
    """Draw components.

    Parameters
    ----------
    resp : Tensor of shape (K, b)
        Their probabilities for each sample.
    uniforms : Tensor of shape (b,)
        Uniform random numbers.

    Returns
    -------
    Tensor of shape (b,)
        Their numbers; none has probability zero.
    """
    cumulated = resp.mT.cumsum(1)  # (b, K)
    levels = uniforms.to(resp).unsqueeze(1) * cumulated[:, -1:]
    # a level at the sum, by rounding, belongs to the last component that has any weight
    last = (resp > 0).int().cumsum(0).argmax(0)
    return torch.searchsorted(cumulated, levels, right=True).squeeze(1).minimum(last)


def informative_weight(X: Tensor, sample_weight: Tensor | None) -> int | float:
    """Sum the weights of samples with any observed entry: others do not count in a fit.

    Parameters
    ----------
    X : Tensor of shape (n, d)
        Samples.
    sample_weight : Tensor of shape (n,) or None
        Their weights.

    Returns
    -------
    int or float
        The sum; the number of these samples if there are no weights.
    """
    counts = ~torch.isnan(X).all(1)
    if sample_weight is None:
        return int(counts.sum())
    return float(sample_weight.detach().double()[counts].sum())
