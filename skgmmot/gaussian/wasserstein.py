r"""Wasserstein distances between Gaussians, for all pairs at once.

.. math::

    W_2(N(m_0, S_0), N(m_1, S_1))^2 = |m_0 - m_1|^2
        + \operatorname{tr}\bigl(S_0 + S_1 - 2 (S_0^{1/2} S_1 S_0^{1/2})^{1/2}\bigr)

The optimal map is affine, ``T(x) = m1 + A (x - m0)``, with ``A`` of `linalg.bures_map`.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from skgmmot.gaussian.bures import (
    Factored,
    bures_squared,
    bures_squared_pairs,
    factored,
)
from skgmmot.gaussian.bures_bounds import bures_lower_bounds
from skgmmot.numerics.linalg import squared_distances, standard_deviations


def bures_wasserstein_squared(
    source_means: Tensor,
    source_covariances: Tensor,
    target_means: Tensor,
    target_covariances: Tensor,
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

    Returns
    -------
    Tensor of shape (K, L)
        Squared distances in squared units of the means.

    Notes
    -----
    Differentiable once, in closed form: ``2 (m0 - m1)`` in the mean and ``I - A`` in the
    covariance. Costs ``O(K L d^3)`` between matrices; ``O(K L d)`` between variances, and
    ``O((K + L) d^3 + K L d)`` between matrices and spheres.

    References
    ----------
    .. [1] Delon and Desolneux 2020, optimal transport between Gaussian distributions.
    """
    between = squared_distances(source_means, target_means)  # (K, L)
    d = source_means.shape[1]
    if _commute(source_covariances, target_covariances):
        deviations = [
            standard_deviations(S).expand(-1, d) for S in (source_covariances, target_covariances)
        ]
        return between + squared_distances(*deviations)
    matrices = [as_matrices(S, d) for S in (source_covariances, target_covariances)]
    return between + bures_squared(*matrices)


def matrix_pairs(source: Tensor, target: Tensor) -> int:
    """Return the number of matrix decompositions that all pairwise Bures distances need.

    Parameters
    ----------
    source, target : Tensor
        Covariances in the storage of a type.

    Returns
    -------
    int
        Zero where all axes are shared; one between two tied types.
    """
    return 0 if _commute(source, target) else len(source) * len(target)


def _commute(source: Tensor, target: Tensor) -> bool:
    """Whether covariances commute: both are diagonal, or one is spherical."""
    diagonal = source.ndim == target.ndim == 2
    return diagonal or any(S.ndim == 2 and S.shape[1] == 1 for S in (source, target))


def as_matrices(covariances: Tensor, d: int) -> Tensor:
    """Return covariances as matrices.

    Parameters
    ----------
    covariances : Tensor of shape (K, d, d), (1, d, d), (K, d) or (K, 1)
        Covariances in the storage of a type.
    d : int
        Number of features.

    Returns
    -------
    Tensor of shape (K, d, d) or (1, d, d)
        The matrices.
    """
    return covariances if covariances.ndim == 3 else torch.diag_embed(covariances.expand(-1, d))


class GaussianCosts(NamedTuple):
    """Squared Wasserstein distances between Gaussians, with bounds that are faster to compute."""

    means: tuple[Tensor, Tensor]
    """Means ``(K, d)`` and ``(L, d)``."""
    covariances: tuple[Tensor, Tensor]
    """Matrices ``(K, d, d)`` and ``(L, d, d)``."""
    prepared: tuple[Factored, Factored]
    """Their traces, factors and condition numbers."""
    deviations: tuple[Tensor, Tensor]
    """Standard deviations along their axes, ``(K, d)`` and ``(L, d)``, descending."""

    @classmethod
    def between(cls, source_means, source_covariances, target_means, target_covariances):
        """Factor the covariances; the arguments are those of `bures_wasserstein_squared`."""
        means = source_means, target_means
        covariances = tuple(
            as_matrices(S, m.shape[1]).expand(len(m), -1, -1)
            for S, m in zip((source_covariances, target_covariances), means, strict=True)
        )
        prepared = tuple(factored(S) for S in covariances)
        return cls(
            means, covariances, prepared, tuple(torch.linalg.svdvals(m.factors) for m in prepared)
        )

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
        """Distances ``(n,)`` of given pairs, differentiable once."""
        between = (self.means[0][k] - self.means[1][l]).square().sum(-1)
        return between + bures_squared_pairs(*self.covariances, k, l, self.prepared)


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
