r"""Barycentres of Gaussian mixtures in MW2: their objective, and the exact solution.

The barycentre of mixtures :math:`\mu_j` with weights :math:`\lambda_j` minimises

.. math:: \sum_j \lambda_j \operatorname{MW}_2^2(\nu, \mu_j)

over mixtures :math:`\nu`. If the number of components is free, it is the solution of a linear
programme over tuples of components, one from each mixture; for a given number of components see
`skgmmot.transport.mixtures.barycenter_fixed_point`.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, overload

import numpy as np
import scipy.optimize
import scipy.sparse
import torch
from torch import Tensor

from skgmmot.gaussian.bures.barycenter import gaussian_barycenter
from skgmmot.gaussian.bures.barycenter_error import barycenter_error
from skgmmot.gaussian.covariance.registry import (
    DIAG,
    FULL,
    SPHERICAL,
    TIED,
    CovarianceType,
)
from skgmmot.gaussian.mixture import GaussianMixtureParams, join
from skgmmot.transport.discrete.solvers import exact
from skgmmot.transport.mixtures.distance import cost_matrix, transport_plan
from skgmmot.transport.mixtures.errors import cost_error
from skgmmot.transport.mixtures.geodesic import interpolate
from skgmmot.transport.mixtures.linear_programme import linear_programme
from skgmmot.transport.mixtures.pairwise import pairwise_squared

#: Rounding of the objective and of a dual value, in units of their precision.
ROUNDINGS = 50


class Pool(NamedTuple):
    """The components of J mixtures, one mixture after the other, with factored covariances."""

    mixture: GaussianMixtureParams
    """All M components; weights sum to one over each of the mixtures."""
    factors: Tensor
    """``(M, d, d)``, or deviations ``(M, d)``."""
    weights: Tensor
    """``lambda (J,)``."""
    sizes: tuple[int, ...]
    """Components of each mixture, of sum M."""

    @property
    def coefficients(self) -> Tensor:
        """``lambda_j`` of each component ``(M,)``."""
        sizes = torch.tensor(self.sizes, device=self.weights.device)
        return self.weights.repeat_interleave(sizes)


def pool(
    mixtures: Sequence[GaussianMixtureParams], weights: Tensor, *, diagonal: bool = True
) -> Pool:
    """Join the components of several mixtures into one pool.

    Parameters
    ----------
    mixtures : sequence of J GaussianMixtureParams
        Mixtures in d dimensions, of any covariance types.
    weights : Tensor of shape (J,)
        Positive weights ``lambda`` of sum one.
    diagonal : bool, default=True
        Whether to keep to diagonals if all mixtures are diagonal.

    Returns
    -------
    Pool
        The components; a constant.
    """
    mixtures = [
        m._replace(weights=m.weights / m.weights.sum()).detach().in_base() for m in mixtures
    ]
    joined = join(mixtures, torch.ones_like(weights))
    if diagonal and joined.covariance_type.diagonal:
        covariance_type, covariances = DIAG, joined.covariances.expand_as(joined.means)
    else:
        covariance_type, covariances = FULL, joined.full_covariances()
    joined = joined._replace(covariances=covariances, covariance_type=covariance_type)
    sizes = tuple(len(m.weights) for m in mixtures)
    return Pool(joined, covariance_type.root(covariances), weights, sizes)


def common_type(mixtures: Sequence[GaussianMixtureParams]) -> CovarianceType:
    """Return the simplest covariance type that holds every barycentre of some mixtures.

    Parameters
    ----------
    mixtures : sequence of GaussianMixtureParams
        The mixtures.

    Returns
    -------
    CovarianceType
        Spherical, diagonal or tied if all mixtures are, else full.
    """
    types = [m.covariance_type.base for m in mixtures]
    if all(each.diagonal for each in types):
        return SPHERICAL if all(each == SPHERICAL for each in types) else DIAG
    return TIED if all(each.shared for each in types) else FULL


def objective(
    mixture: GaussianMixtureParams, mixtures: Sequence[GaussianMixtureParams], weights: Tensor
) -> float:
    """Return the objective of barycentres, ``sum_j weights_j MW2(mixture, mixtures_j)^2``.

    Parameters
    ----------
    mixture : GaussianMixtureParams
        A barycentre, or any other mixture.
    mixtures : sequence of J GaussianMixtureParams
        What it is compared with.
    weights : Tensor of shape (J,)
        Weights ``lambda``.

    Returns
    -------
    float
        The objective in squared units of the data.
    """
    return fixed_plans(mixture.detach(), pool(mixtures, weights))[1]


def lower_bound(mixtures: Sequence[GaussianMixtureParams], weights: Tensor) -> float:
    r"""Return a lower bound of the objective of all mixtures, of any number of components.

    .. math:: \sum_j \lambda_j \operatorname{MW}_2^2(\nu, \mu_j)
              \ge \sum_{i < j} \lambda_i \lambda_j \operatorname{MW}_2^2(\mu_i, \mu_j)

    since points attain it at their mean. Two mixtures attain it, too.

    Parameters
    ----------
    mixtures : sequence of J GaussianMixtureParams
        Mixtures in d dimensions, of any covariance types.
    weights : Tensor of shape (J,)
        Positive weights ``lambda`` of sum one.

    Returns
    -------
    float
        The bound in squared units of the data. Takes ``J (J - 1) / 2`` plans.
    """
    mixtures = [m._replace(weights=m.weights / m.weights.sum()).detach() for m in mixtures]
    weights = weights.detach()
    return float(weights @ pairwise_squared(mixtures).to(weights) @ weights) / 2


def fixed_plans(theta: GaussianMixtureParams, problem: Pool) -> tuple[Tensor, float]:
    """Return the exact plans from one mixture to each of several.

    Parameters
    ----------
    theta : GaussianMixtureParams
        K components.
    problem : Pool
        The mixtures.

    Returns
    -------
    plans : Tensor of shape (K, M)
        Couplings side by side, each of mass one.
    objective : float
        Their total cost.
    """
    C = cost_matrix(theta, problem.mixture)
    weights = problem.mixture.weights.split(problem.sizes)
    parts = zip(weights, C.split(problem.sizes, dim=1), strict=True)
    plans = torch.cat([exact(theta.weights, b, costs).coupling for b, costs in parts], dim=1)
    return plans, float((problem.coefficients * plans * C).sum())


# --- the exact barycentre ------------------------------------------------------------------------


@overload
def exact_barycenter(
    mixtures: Sequence[GaussianMixtureParams],
    weights: Tensor,
    *,
    return_error: Literal[False] = ...,
) -> GaussianMixtureParams: ...


@overload
def exact_barycenter(
    mixtures: Sequence[GaussianMixtureParams], weights: Tensor, *, return_error: Literal[True]
) -> tuple[GaussianMixtureParams, float]: ...


def exact_barycenter(
    mixtures: Sequence[GaussianMixtureParams], weights: Tensor, *, return_error: bool = False
) -> GaussianMixtureParams | tuple[GaussianMixtureParams, float]:
    """Return the exact barycentre over all mixtures, by the multi-marginal problem.

    This is a linear programme over tuples ``(k_1, ..., k_J)`` of components, one from each mixture:
    the cost of a tuple is the objective of the barycentre of its Gaussians, and the masses of the
    tuples that contain a component sum to its weight. Each tuple of positive mass gives a component
    of the barycentre.

    Parameters
    ----------
    mixtures : sequence of J GaussianMixtureParams
        Mixtures in d dimensions, of any covariance types.
    weights : Tensor of shape (J,)
        Positive weights ``lambda`` of sum one.
    return_error : bool, default=False
        Whether to return a bound of the error, too.

    Returns
    -------
    barycentre : GaussianMixtureParams
        At most ``K_1 + ... + K_J - J + 1`` components, of the type that all share. Constants.
    error : float
        Only with ``return_error``: a bound of how much less the objective of any mixture may be, in
        squared units of the data: the duality gap of the linear programme, at lower bounds of its
        costs.

    Raises
    ------
    RuntimeError
        If the linear programme is not solved.

    Notes
    -----
    Costs a barycentre of J Gaussians for each of ``K_1 ... K_J`` tuples. Two mixtures have theirs
    on the geodesic, at the cost of one plan.

    References
    ----------
    .. [1] Delon and Desolneux 2020, multi-marginal problem and barycentres.
    """
    if len(mixtures) == 1:
        return (mixtures[0].detach(), 0.0) if return_error else mixtures[0].detach()
    if len(mixtures) == 2:
        middle = interpolate(*mixtures, float(weights[1]))
        return (middle, _error_of_two(mixtures, weights)) if return_error else middle
    side_by_side = pool(mixtures, weights)
    tuples = _tuples(side_by_side.sizes).to(weights.device)  # (T, J)
    components = side_by_side.mixture
    means, covariances = components.means[tuples], components.covariances[tuples]
    mean, covariance = gaussian_barycenter(means, covariances, weights)
    cost = _spread(mean, covariance, means, covariances, weights, components.covariance_type)
    mass, potentials = _multi_marginal(tuples, cost, components.weights)
    kept = mass > 0
    covariance_type = common_type(mixtures)
    found = covariance_type.nearest(covariance[kept], mass[kept])
    barycentre = GaussianMixtureParams(mass[kept], mean[kept], found, covariance_type)
    if not return_error:
        return barycentre
    gaps = barycenter_error(covariance, means, covariances, weights.expand(len(tuples), -1)).gap
    lowest = cost - gaps.to(cost)
    return barycentre, _duality_gap(tuples, mass, cost, lowest, potentials, components.weights)


def _error_of_two(mixtures, weights: Tensor) -> float:
    """The error of the objective of a point of a geodesic: that of the plan between its ends."""
    pair = [m.detach() for m in mixtures]
    return float(weights[0] * weights[1]) * cost_error(*pair, transport_plan(*pair))


def _duality_gap(tuples, mass, cost, lowest, potentials, weights) -> float:
    """How far the cost of masses of tuples may be above the least one, at the lowest costs.

    The masses have a sum of one, so that potentials are too large by the least slack at most.
    """
    sums = potentials[tuples].sum(1)
    paid = torch.zeros_like(weights)
    paid.index_add_(0, tuples.flatten(), mass.repeat_interleave(tuples.shape[1]))
    missed = float((paid - weights).abs() @ (potentials.abs() + cost.max()))
    eps = ROUNDINGS * torch.finfo(cost.dtype).eps
    rounding = eps * float(mass @ cost + weights @ potentials.abs())
    slack, least = float(mass @ (cost - sums)), float((lowest - sums).min())
    return max(slack, 0.0) - min(least, 0.0) + missed + rounding


def _tuples(sizes) -> Tensor:
    """All choices of one component from each mixture, as indices into the pool ``(T, J)``."""
    starts = np.cumsum([0, *sizes[:-1]])
    ranges = [torch.arange(size) + int(start) for size, start in zip(sizes, starts, strict=True)]
    return torch.cartesian_prod(*ranges)


def _multi_marginal(tuples: Tensor, cost: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The optimal masses ``(T,)`` of tuples with given marginals, and potentials of these."""
    T, J = tuples.shape
    constraints = scipy.sparse.csr_array(
        (np.ones(T * J), (tuples.flatten().cpu(), np.arange(T).repeat(J))),
        shape=(len(weights), T),
    )
    mass, potentials = linear_programme(cost, constraints, weights)
    return mass / mass.sum(), potentials


def _spread(mean, covariance, means, covariances, weights, covariance_type) -> Tensor:
    """The objective ``(T,)`` of the barycentre of each tuple of Gaussians ``(T, J)``."""
    between = (means - mean.unsqueeze(1)).square().sum(-1) @ weights
    L = covariance_type.root(covariance).unsqueeze(1)
    factors = covariance_type.root(covariances)  # (T, J, ...)
    apart = covariance_type.align(factors, L.expand_as(covariances)) - L
    return between + apart.square().flatten(2).sum(-1) @ weights
