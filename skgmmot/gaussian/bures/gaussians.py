r"""Wasserstein distances between Gaussians, for all pairs at once.

.. math::

    W_2(N(m_0, S_0), N(m_1, S_1))^2 = |m_0 - m_1|^2
        + \operatorname{tr}\bigl(S_0 + S_1 - 2 (S_0^{1/2} S_1 S_0^{1/2})^{1/2}\bigr)

The optimal map is affine, ``T(x) = m1 + A (x - m0)``, with ``A`` of `linalg.bures_map`.
"""

from typing import NamedTuple

from torch import Tensor

from skgmmot.gaussian.bures.bounds import bures_lower_bounds
from skgmmot.gaussian.bures.decomposition import deviations
from skgmmot.gaussian.bures.distance import (
    Factored,
    bures_squared,
    bures_squared_of_pairs,
    bures_tangent,
    factored,
)
from skgmmot.gaussian.bures.low_rank import bures_squared_of_factors, is_dense
from skgmmot.gaussian.covariance.base import DensityType
from skgmmot.gaussian.covariance.registry import type_of_storage
from skgmmot.numerics.linalg import squared_distances


def bures_wasserstein_squared(
    source_means: Tensor,
    source_covariances: Tensor,
    target_means: Tensor,
    target_covariances: Tensor,
    *,
    covariance_types: tuple[DensityType, DensityType] | None = None,
) -> Tensor:
    r"""Return all pairwise squared Wasserstein distances between Gaussians.

    .. math::

        |m_0 - m_1|^2 + \operatorname{tr}\bigl(S_0 + S_1 - 2 (S_0^{1/2} S_1 S_0^{1/2})^{1/2}\bigr)

    Parameters
    ----------
    source_means : Tensor of shape (K, d)
        Means of the source Gaussians.
    source_covariances : Tensor of shape (K, d, d), (1, d, d), (K, d) or (K, 1)
        Their covariances in the storage of a covariance type: matrices or variances.
    target_means : Tensor of shape (L, d)
        Means of the target Gaussians.
    target_covariances : Tensor of shape (L, d, d), (1, d, d), (L, d) or (L, 1)
        Their covariances, of the same or another type.
    covariance_types : tuple of two DensityType, default=None
        The types of both; None finds them by the shapes of means and covariances.

    Returns
    -------
    Tensor of shape (K, L)
        Squared distances in squared units of the means.

    Notes
    -----
    Differentiable once, in closed form: ``2 (m0 - m1)`` in the mean and ``I - A`` in the
    covariance. Costs ``O(K L d^3)`` between matrices; ``O(K L d)`` between variances, and
    ``O((K + L) d^3 + K L d)`` between matrices and spheres; ``O(K L d r^2)`` with few factors for
    many features.

    References
    ----------
    .. [1] Delon and Desolneux 2020, optimal transport between Gaussian distributions.
    """
    between = squared_distances(source_means, target_means)  # (K, L)
    d = source_means.shape[1]
    covariances = source_covariances, target_covariances
    if covariance_types is None:
        pairs = zip(covariances, (source_means, target_means), strict=True)
        covariance_types = [type_of_storage(S, m) for S, m in pairs]
    typed = list(zip(covariance_types, covariances, strict=True))
    # other types do not store what distances to spheres are found by
    if commute(*covariance_types) and all(each.elementary for each in covariance_types):
        deviations = [covariance_type.deviations(S).expand(-1, d) for covariance_type, S in typed]
        return between + squared_distances(*deviations)
    sizes = len(source_means), len(target_means)
    factors = [
        covariance_type.factors(S, size, d)
        for (covariance_type, S), size in zip(typed, sizes, strict=True)
    ]
    if are_factored(*factors):
        return between + bures_squared_of_factors(*factors)
    matrices = [covariance_type.to_full(S, len(S), d) for covariance_type, S in typed]
    return between + bures_squared(*matrices)


def commute(one: DensityType, other: DensityType) -> bool:
    """Return whether all covariances of one type commute with all of another.

    Parameters
    ----------
    one, other : DensityType
        The types.

    Returns
    -------
    bool
        True if both are diagonal or one is spherical.
    """
    return one.commutes_with(other) or other.commutes_with(one)


def are_factored(*factors: tuple[Tensor, Tensor] | None) -> bool:
    """Return whether distances between covariances are found by their factors, not by matrices.

    Parameters
    ----------
    *factors : tuple of Tensor of shapes (K, d, r) and (K, d), or None
        Factors and variances; None where there are matrices.

    Returns
    -------
    bool
        True if all have few factors for their features, and some have any.
    """
    if any(each is None for each in factors):
        return False
    rank = sum(sorted(F.shape[-1] for F, _ in factors)[-2:])
    return rank > 0 and not is_dense(factors[0][0].shape[-2], rank)


class GaussianCosts(NamedTuple):
    """Squared Wasserstein distances between Gaussians, with bounds that are faster to compute."""

    means: tuple[Tensor, Tensor]
    """Means ``(K, d)`` and ``(L, d)``."""
    covariances: tuple[Tensor, Tensor]
    """Matrices ``(K, d, d)`` and ``(L, d, d)``."""
    prepared: tuple[Factored, Factored]
    """Their traces and factors."""
    deviations: tuple[Tensor, Tensor]
    """Standard deviations along their axes, ``(K, d)`` and ``(L, d)``, descending."""

    @classmethod
    def between(cls, source_means, source_matrices, target_means, target_matrices):
        """Factor the covariances of Gaussians with matrices ``(K, d, d)`` and ``(L, d, d)``."""
        means, covariances = (source_means, target_means), (source_matrices, target_matrices)
        prepared = tuple(factored(S) for S in covariances)
        pairs = zip(covariances, prepared, strict=True)
        return cls(means, covariances, prepared, tuple(deviations(S, m.factors) for S, m in pairs))

    def part(self, rows: slice, columns: slice) -> "GaussianCosts":
        """The distances between a range of sources and one of targets."""
        means, covariances, prepared, deviations = (
            (source.take(rows), target.take(columns))
            if isinstance(source, Factored)
            else (source[rows], target[columns])
            for source, target in self
        )
        return GaussianCosts(means, covariances, prepared, deviations)

    def lower_bounds(self) -> Tensor:
        """Lower bounds ``(K, L)`` of all distances, as constants.

        ``|m0 - m1|^2 + sum_i (s0_i - s1_i)^2`` over the sorted deviations. These are the distances
        for parallel axes, the smallest over all rotations.
        """
        between = squared_distances(*(m.detach() for m in self.means))
        return between + squared_distances(*self.deviations)

    def tighter_bounds(self) -> Tensor:
        """Lower bounds ``(K, L)`` that are tighter for axes not parallel, but take longer."""
        between = squared_distances(*(m.detach() for m in self.means))
        return between + bures_lower_bounds(*self.prepared)

    def all(self) -> Tensor:
        """All distances ``(K, L)``, differentiable once."""
        between = squared_distances(*self.means)
        return between + bures_squared(*self.covariances, self.prepared)

    def __call__(self, k: Tensor, l: Tensor) -> Tensor:
        """Distances ``(n,)`` of given pairs, as constants."""
        source, target = (m.detach() for m in self.means)
        between = (source[k] - target[l]).square().sum(-1)
        return between + bures_squared_of_pairs(*self.covariances, k, l, self.prepared)

    def tangent(self, k: Tensor, l: Tensor) -> Tensor:
        """Zeros ``(n,)`` with the derivatives of the distances of given pairs."""
        between = (self.means[0][k] - self.means[1][l]).square().sum(-1)
        bures = bures_tangent(*self.covariances, k, l, self.prepared)
        return between - between.detach() + bures


def wasserstein_squared(source: tuple[Tensor, Tensor], target: tuple[Tensor, Tensor]) -> Tensor:
    """Return the squared Wasserstein distance between two Gaussians ``(mean, covariance)``.

    Parameters
    ----------
    source, target : tuple of Tensor of shapes (d,) and (d, d)
        Mean and covariance.

    Returns
    -------
    Tensor of shape ()
        The squared distance; see `bures_wasserstein_squared`.
    """
    batched = [t.unsqueeze(0) for t in (*source, *target)]
    return bures_wasserstein_squared(*batched).squeeze()
