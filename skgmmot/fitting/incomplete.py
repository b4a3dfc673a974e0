"""Samples with missing entries, NaN: what is known of their features, and where fits start."""

from typing import NamedTuple

import torch
from torch import Tensor

from skgmmot.fitting.em.rows import EM
from skgmmot.fitting.em.step import m_step
from skgmmot.fitting.samples import InMemory
from skgmmot.gaussian.covariance.registry import TIED
from skgmmot.gaussian.incomplete.e_steps import IncompleteDefinition
from skgmmot.gaussian.incomplete.patterns import by_pattern, informative_weight
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.numerics.blocks import MIN_BLOCK_ROWS, map_rows

#: Iterations of the single Gaussian that missing entries are first estimated by, and the share of
#: each feature's variance that is added to it.
FIRST_ITERATIONS, FIRST_RIDGE = 10, 1e-3


class ObservedSums(NamedTuple):
    """Weighted sums over the entries of each feature that are observed, in float64."""

    total: Tensor
    """Of the weights ``(d,)``."""
    sum: Tensor
    """Of the entries ``(d,)``."""

    @classmethod
    def of(cls, X: Tensor, sample_weight: Tensor | None) -> "ObservedSums":
        """Those of samples ``(n, d)`` and their weights."""
        total = X.new_zeros(X.shape[1], dtype=torch.float64)
        found = total.clone()
        for x, weights in _pieces(X, sample_weight):
            total += weights.sum(0)
            found += (x.nan_to_num() * weights).sum(0)
        return cls(total, found)

    @property
    def mean(self) -> Tensor:
        """Means of the observed entries ``(d,)``; zero for a feature without any."""
        return self.sum / torch.where(self.total > 0, self.total, 1.0)

    def squares(self, X: Tensor, sample_weight: Tensor | None) -> Tensor:
        """Sums of squared distances to the means ``(d,)``."""
        found = torch.zeros_like(self.sum)
        for x, weights in _pieces(X, sample_weight):
            found += ((x - self.mean).nan_to_num().square() * weights).sum(0)
        return found


def _pieces(X, sample_weight):
    """Some rows at a time, in float64, and the weights of their entries, zero where missing."""
    for i in range(0, len(X), 2**14):
        x = X[i : i + 2**14].double()
        weights = (~torch.isnan(x)).double()
        if sample_weight is not None:
            weights *= sample_weight[i : i + 2**14].double().unsqueeze(1)
        yield x, weights


def together(X: Tensor, sample_weight: Tensor | None) -> Tensor:
    """Count in how many samples each pair of features is observed.

    Parameters
    ----------
    X : Tensor of shape (n, d)
        Samples.
    sample_weight : Tensor of shape (n,) or None
        Their weights; those of weight zero do not count.

    Returns
    -------
    Tensor of shape (d, d)
        The numbers; on the diagonal, of each feature.
    """
    return InMemory(X, sample_weight).sum(Together(X.shape[1]))[0]


class Together:
    """The same over a block of samples of positive weight.

    Parameters
    ----------
    n_features : int
        Their number d.
    """

    min_rows = MIN_BLOCK_ROWS

    def __init__(self, n_features: int):
        self.row_size = n_features

    def block(self, X: Tensor, sample_weight: Tensor | None, buffers) -> tuple[Tensor]:
        """The numbers ``(d, d)``."""
        seen = (~torch.isnan(X)).double()
        if sample_weight is not None:
            seen *= (sample_weight > 0).unsqueeze(1)
        return (seen.mT @ seen,)


def n_informative(X: Tensor, sample_weight: Tensor | None) -> int:
    """Count samples of positive weight with any observed entry.

    Parameters
    ----------
    X : Tensor of shape (n, d)
        Samples.
    sample_weight : Tensor of shape (n,) or None
        Their weights.

    Returns
    -------
    int
        Their number.
    """
    return int(informative_weight(X, None if sample_weight is None else sample_weight > 0))


def filled(X: Tensor, sample_weight: Tensor | None) -> Tensor:
    """Fill in missing entries by their conditional means under a single Gaussian.

    It is fitted by a few iterations of EM. This is where mixtures start: k-means and the like take
    complete samples.

    Parameters
    ----------
    X : Tensor of shape (n, d)
        Samples, constants. Each feature is observed in some.
    sample_weight : Tensor of shape (n,) or None
        Their weights.

    Returns
    -------
    Tensor of shape (n, d)
        The samples, complete; observed entries as they are.
    """
    order = by_pattern(X)
    X, a = X[order], None if sample_weight is None else sample_weight[order]
    sums = ObservedSums.of(X, a)
    variances = sums.squares(X, a) / sums.total
    scale = torch.where(variances > 0, variances, 1.0).sqrt()
    centre = sums.mean
    standard = (X.double() - centre) / scale
    d = X.shape[1]
    theta = GaussianMixtureParams(
        standard.new_ones(1), standard.new_zeros(1, d), torch.eye(d).to(standard).unsqueeze(0), TIED
    )
    em = EM(InMemory(standard, a, incomplete=True), standard.new_zeros(d), FIRST_RIDGE)
    with em.at_work():
        for _ in range(FIRST_ITERATIONS):
            theta = m_step(theta, em.statistics(theta), FIRST_RIDGE)
    step = IncompleteDefinition(theta)
    means = map_rows(step.conditional_mean, 2 * step.row_size, standard)
    found = torch.where(torch.isnan(X), (means * scale + centre).to(X.dtype), X)
    back = torch.empty_like(found)
    back[order] = found
    return back
