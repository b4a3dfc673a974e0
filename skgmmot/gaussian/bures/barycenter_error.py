r"""How far a Gaussian is from the barycentre of others, by a dual bound.

For symmetric positive definite :math:`A_j` with :math:`\sum_j \lambda_j A_j = I`, and a Gaussian of
covariance :math:`S = L L^T`, no distribution has an objective that is lower than that of :math:`S`
by more than

.. math:: g = \sum_j \lambda_j \bigl|A_j^{1/2} L - A_j^{-1/2} L_j Q_j\bigr|^2

for any factors :math:`L_j` of the covariances and rotations :math:`Q_j`, since
:math:`2 x^T y \le x^T A x + y^T A^{-1} y`. Let the rotations be the best ones: with the maps
:math:`A_j` from the barycentre to the Gaussians, all terms are zero. Maps from a Gaussian nearby
are changed a little to have the mean I. Nothing cancels, so that the gap may be far below rounding
of the objective. As it bounds squares of distances from :math:`S` and from the barycentre to
:math:`A_j^{-1} S_j A_j^{-1}`, these two are apart by at most
:math:`2 \sqrt{g / \sum_j \lambda_j \alpha_j}`, with :math:`\alpha_j` the least eigenvalue of
:math:`A_j`.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from skgmmot.gaussian.covariance.registry import FULL, type_of_gaussians

EPS = torch.finfo(torch.float64).eps
#: Shares of the identity that are mixed into maps, which may be singular: the best one counts.
SHARES = 1e-14, 1e-12, 1e-9, 1e-6
#: Roots of gaps, relative to the spread, below which no other share is tried.
SMALL = 1e-7
#: Singular values below this share of the largest one are zero.
NO_VALUE = 1e-10
#: Directions in which the mean of maps is less are those that the barycentre does not have.
PRESENT = 0.999


class BarycenterError(NamedTuple):
    """How far Gaussians may be from barycentres."""

    distance: Tensor
    """Bound of the distance W2 to the barycentre, ``(...)``, in units of the data. Infinite if the
    dual bound says nothing; not small where barycentres are not unique."""
    gap: Tensor
    """Bound of how much less the objective of any distribution may be, in squared units."""


def barycenter_error(
    covariance: Tensor, means: Tensor, covariances: Tensor, weights: Tensor
) -> BarycenterError:
    """Bound how far Gaussians are from barycentres of others, whose mean they have.

    Parameters
    ----------
    covariance : Tensor of shape (..., d, d) or (..., d)
        The covariance of each, which may be singular, or variances.
    means : Tensor of shape (..., J, d)
        Means of those of which it should be the barycentre: how far the mean of these may be off is
        added.
    covariances : Tensor of shape (..., J, d, d) or (..., J, d)
        Their covariances.
    weights : Tensor of shape (..., J)
        Weights of sum one.

    Returns
    -------
    BarycenterError
        Of each problem, in float64. Costs a few singular value decompositions for each Gaussian.
    """
    S, others, weights = (t.detach().double() for t in (covariance, covariances, weights))
    J = weights.shape[-1]
    eps = torch.finfo(means.dtype).eps
    off = (J + 1) * eps * (weights * means.detach().double().norm(dim=-1)).sum(-1)
    if type_of_gaussians(covariances, means).diagonal:  # the mean deviation is the barycentre's
        middle = (weights.unsqueeze(-1) * others.sqrt()).sum(-2)
        distance = off + (S.sqrt() - middle).norm(dim=-1) + (J + 2) * EPS * middle.norm(dim=-1)
        return BarycenterError(distance, distance.square())
    found = _error_of_matrices(S, others, weights)
    return BarycenterError(found.distance + off, found.gap + off.square())


def _error_of_matrices(S: Tensor, others: Tensor, weights: Tensor) -> BarycenterError:
    """The errors of covariances, which are matrices."""
    d = S.shape[-1]
    unit = torch.einsum("...j,...jii->...", weights, others) / d
    unit = torch.where(unit > 0, unit, 1.0)
    S, others = S / unit[..., None, None], others / unit[..., None, None, None]
    L, factors = FULL.root(S).unsqueeze(-3), FULL.root(others)
    U, values, Vh = torch.linalg.svd(factors.mT @ L)
    aligned = factors @ (U @ Vh)
    present = values > NO_VALUE * values.amax((-1, -2), keepdim=True)
    inverse = torch.where(present, 1 / values, 0.0)
    halves = (factors @ U) * inverse.sqrt().unsqueeze(-2)
    maps, rounding = halves @ halves.mT, _rounding_of_factors(S)
    found = []
    for share in SHARES:
        found.append(_gap(_normalised(maps, weights, share), L, aligned, weights))
        if (found[-1][0] < SMALL).all():
            break
    roots, strengths = (torch.stack(t) for t in zip(*found, strict=True))
    gaps = (roots + rounding).square()
    distance = 2 * (gaps / strengths).sqrt().amin(0)
    return BarycenterError(distance * unit.sqrt(), gaps.amin(0) * unit)


def _normalised(maps: Tensor, weights: Tensor, share: float) -> Tensor:
    """Positive definite matrices ``(..., J, d, d)`` near maps, of mean one."""
    eye = torch.eye(maps.shape[-1]).to(maps)
    maps = maps + share * eye
    values, vectors = torch.linalg.eigh(torch.einsum("...j,...jkl->...kl", weights, maps))
    kept = values.clamp(min=PRESENT)
    scale = ((vectors * kept.rsqrt().unsqueeze(-2)) @ vectors.mT).unsqueeze(-3)
    lacks = ((vectors * (1 - values / kept).unsqueeze(-2)) @ vectors.mT).unsqueeze(-3)
    A = (1 - share) * (scale @ maps @ scale + lacks) + share * eye
    return (A + A.mT) / 2


def _gap(A: Tensor, L: Tensor, aligned: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The root of the gap, rounding included, and the mean of least eigenvalues; each ``(...)``."""
    norm, d = torch.linalg.matrix_norm, A.shape[-1]
    mean = torch.einsum("...j,...jkl->...kl", weights, A)
    excess = norm(mean - torch.eye(d).to(A)).unsqueeze(-1)
    alpha = torch.linalg.eigvalsh(A)[..., 0] - d * EPS * norm(A) - excess
    C, failed = torch.linalg.cholesky_ex(A)
    sound = (alpha > 0) & (failed == 0)
    C = torch.where(sound[..., None, None], C, torch.eye(d).to(A))
    rest = norm(torch.linalg.solve_triangular(C, A @ L - aligned, upper=False))
    off = d * EPS * (norm(A) * norm(L) + norm(aligned)) + excess * norm(L)
    each = rest + off / alpha.clamp(min=EPS).sqrt()
    each = torch.where(sound | (weights == 0), each, torch.inf)
    squares = torch.where(weights > 0, weights * each.square(), 0.0)
    return squares.sum(-1).sqrt(), (weights * alpha.clamp(min=EPS)).sum(-1)


def _rounding_of_factors(S: Tensor) -> Tensor:
    """The distance ``(...)`` that rounding of covariances may make up."""
    values = torch.linalg.eigvalsh(S)
    off = 4 * S.shape[-1] * EPS * values[..., -1:]
    high, low = (values + off).clamp(min=0).sqrt(), (values - off).clamp(min=0).sqrt()
    return (high - low).square().sum(-1).sqrt()
