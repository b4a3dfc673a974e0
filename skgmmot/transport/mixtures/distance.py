r"""Optimal transport between Gaussian mixtures: the distance MW2, its plan and its geodesics.

.. math::

    \operatorname{MW}_2^2(\mu_0, \mu_1)
    = \min_{P \in \Pi(w_0, w_1)} \sum_{kl} P_{kl} \, W_2^2(g_k, g_l)

over couplings :math:`P` of the weights: optimal transport whose plans are themselves Gaussian
mixtures. It is a discrete problem with K x L costs, each given by a closed form.
"""

import math

import torch
from torch import Tensor

from skgmmot.gaussian.bures.barycenter import align
from skgmmot.gaussian.bures.gaussians import (
    GaussianCosts,
    bures_wasserstein_squared,
    commute,
)
from skgmmot.gaussian.covariance.base import CovarianceType
from skgmmot.gaussian.covariance.registry import DIAG, FULL, SPHERICAL, TIED
from skgmmot.gaussian.mixture import GaussianMixtureParams, least
from skgmmot.numerics.linalg import compare_bits, factor, symmetrize
from skgmmot.transport.discrete.plan import (
    Plan,
    entropy_of,
    penalties_of,
    solve,
    solve_bounded,
    transposed,
)

#: Only the costs that the plan may use are computed where more than this over ``d^2`` pairs of
#: components need a decomposition each.
MIN_BOUNDED_SIZE = 2**15


def cost_matrix(source: GaussianMixtureParams, target: GaussianMixtureParams) -> Tensor:
    """Return all squared Wasserstein distances between the components of two mixtures.

    Parameters
    ----------
    source : GaussianMixtureParams
        K components in d dimensions, of any covariance type.
    target : GaussianMixtureParams
        L components in d dimensions, of any covariance type.

    Returns
    -------
    Tensor of shape (K, L)
        ``C_kl = W2(g_k, g_l)^2``.

    Raises
    ------
    TypeError
        If a mixture is of another class.
    ValueError
        If the dimensions differ.

    Notes
    -----
    Differentiable once. Costs ``O(K L d^3)``; ``O(K L d)`` if both covariances are diagonal.
    """
    check_dimensions(source, target)
    source, target = source.in_base(), target.in_base()
    types = source.covariance_type, target.covariance_type
    return bures_wasserstein_squared(*source[1:], *target[1:], covariance_types=types)


def transport_plan(
    source: GaussianMixtureParams,
    target: GaussianMixtureParams,
    *,
    reg: float = 0.0,
    reg_m: float | tuple[float, float] | None = None,
) -> Plan:
    r"""Return the optimal plan between the components of two mixtures; its cost is MW2 squared.

    .. math::

        \min_P \sum_{kl} P_{kl} \, W_2^2(g_k, g_l) + \text{reg} \operatorname{KL}(P | a b^T)
        + \lambda_0 \operatorname{KL}(P 1 | a) + \lambda_1 \operatorname{KL}(P^T 1 | b)

    By default there is no entropy, and the weights :math:`a` and :math:`b` are the marginals.

    Parameters
    ----------
    source : GaussianMixtureParams
        K components.
    target : GaussianMixtureParams
        L components.
    reg : float, default=0.0
        Weight of the entropy ``KL(P | a b^T)``; 0 is without.
    reg_m : float, tuple of two floats or None, default=None
        Penalties ``(lam0, lam1)`` of ``KL(P @ 1 | a)`` and ``KL(P.T @ 1 | b)`` in place of the
        marginals; one number is both, ``math.inf`` holds a marginal, None holds both.

    Returns
    -------
    Plan
        ``coupling (K, L)``, potentials, and ``cost``: what was minimised, penalties included,
        differentiable in both mixtures. It is bitwise the same if mixtures and penalties are
        exchanged. Without entropy, the cost between equal mixtures is exactly zero.

    Raises
    ------
    TypeError
        If a mixture is of another class.
    ValueError
        If the dimensions differ, or a penalty is NaN, infinite or of the wrong sign.
    RuntimeError
        If the plan is not found to a relative gap of 1e-8.

    Notes
    -----
    Between many components with matrices, and without entropy, only the costs that the plan may
    use are computed; see `skgmmot.transport.discrete.plan.solve_bounded`. If components are well
    separated, these are a few for each; if all means are equal, 5 to 35 percent of all.

    References
    ----------
    .. [1] Delon and Desolneux 2020, discrete formulation of MW2.
    """
    check_dimensions(source, target)
    penalties, reg = penalties_of(reg_m), entropy_of(reg)
    which = compare_bits(source, target)
    if which > 0:
        return transposed(transport_plan(target, source, reg=reg, reg_m=penalties[::-1]))
    if which == 0 and not reg:
        nothing = torch.zeros_like(source.weights.detach(), dtype=source.means.dtype)
        stays = source.weights.detach().to(nothing).diag()
        return Plan(stays, nothing, nothing, least(source, target))
    weights = source.weights, target.weights
    if reg or not _is_bounded(source, target):
        return solve(*weights, cost_matrix(source, target), reg=reg, reg_m=reg_m)
    matrices = source.full_covariances(), target.full_covariances()
    costs = GaussianCosts.between(source.means, matrices[0], target.means, matrices[1])
    return solve_bounded(
        *weights, costs.lower_bounds(), costs, tighter=costs.tighter_bounds, reg_m=reg_m
    )


def debiased_cost(
    source: GaussianMixtureParams,
    target: GaussianMixtureParams,
    *,
    reg: float,
    reg_m: float | tuple[float, float] | None = None,
) -> Tensor:
    r"""Return the Sinkhorn divergence between two mixtures: the entropic cost without its bias.

    .. math::

        S(\mu, \nu) = T(\mu, \nu) - \tfrac12 T(\mu, \mu) - \tfrac12 T(\nu, \nu)
        + \tfrac12 \text{reg} \, (m(\mu) - m(\nu))^2

    with :math:`T` the cost of the entropic plan and :math:`m` the total mass. It is zero between
    equal mixtures, where :math:`T` is positive and not minimal.

    Parameters
    ----------
    source : GaussianMixtureParams
        K components.
    target : GaussianMixtureParams
        L components.
    reg : float
        Weight of the entropy; 0 leaves MW2 squared as it is.
    reg_m : float, tuple of two equal floats or None, default=None
        Penalties in place of the marginals.

    Returns
    -------
    Tensor of shape ()
        The divergence, differentiable in both mixtures.

    Raises
    ------
    ValueError
        If the penalties of the two marginals differ, and as `transport_plan`.
    RuntimeError
        As `transport_plan`.

    Notes
    -----
    Costs three plans. Not negative between diagonal covariances; between others, a large ``reg``
    may make it so, as their costs are no squared distances in a vector space.

    References
    ----------
    .. [1] Feydy, Sejourne, Vialard, Amari, Trouve and Peyre 2019, Sinkhorn divergences.
    .. [2] Sejourne, Feydy, Vialard, Trouve and Peyre 2019, those between unequal masses.
    """
    check_symmetric(reg_m)
    pairs = (source, target), (source, source), (target, target)
    costs = [transport_plan(*pair, reg=reg, reg_m=reg_m).cost for pair in pairs]
    apart = source.weights.sum() - target.weights.sum()
    held = math.isinf(penalties_of(reg_m)[0])  # masses differ by rounding only
    return costs[0] - (costs[1] + costs[2]) / 2 + (0.0 if held else reg / 2 * apart.square())


def check_symmetric(reg_m: float | tuple[float, float] | None) -> None:
    """Raise if the penalties of the two marginals differ.

    Parameters
    ----------
    reg_m : float, tuple of two floats or None
        Penalties of the marginals.

    Raises
    ------
    ValueError
        If they differ.
    """
    lam0, lam1 = penalties_of(reg_m)
    if lam0 != lam1:
        raise ValueError(
            f"reg_m must be one penalty for both marginals where the bias is taken away, got "
            f"{(lam0, lam1)}. Give one number, or debiased=False."
        )


def _is_bounded(source: GaussianMixtureParams, target: GaussianMixtureParams) -> bool:
    """Whether finding the costs that are needed takes less time than computing all of them."""
    d = source.means.shape[1]
    if d < 3 or commute(source.covariance_type.base, target.covariance_type.base):
        return False
    source, target = source.in_base(), target.in_base()
    return len(source.covariances) * len(target.covariances) * d**2 > MIN_BOUNDED_SIZE


def check_dimensions(source: GaussianMixtureParams, target: GaussianMixtureParams) -> None:
    """Raise if an argument is not a mixture, or if two mixtures differ in dimension.

    Parameters
    ----------
    source, target : GaussianMixtureParams
        Mixtures.

    Raises
    ------
    TypeError
        If one is of another class.
    ValueError
        If the dimensions differ.
    """
    for name, mixture in (("source", source), ("target", target)):
        if not isinstance(mixture, GaussianMixtureParams):
            raise TypeError(
                f"{name} must be a GaussianMixtureParams, got {type(mixture).__name__}. Make one "
                "of tensors, or use skgmmot.MixtureWasserstein, which takes other forms."
            )
    dimensions = source.means.shape[1], target.means.shape[1]
    if dimensions[0] != dimensions[1]:
        raise ValueError(
            "source and target must have equal numbers of features, got "
            f"{dimensions[0]} and {dimensions[1]}. Describe both by the same features."
        )


def interpolate(
    source: GaussianMixtureParams,
    target: GaussianMixtureParams,
    t: float,
    plan: Plan | None = None,
) -> GaussianMixtureParams:
    r"""Return the mixture at time ``t`` on the MW2 geodesic between two mixtures.

    .. math::

        \mu_t = \sum_{kl} P_{kl} \, N\bigl((1 - t) m_k + t m_l, \; A_t S_k A_t\bigr),
        \qquad A_t = (1 - t) I + t A_{kl}

    with the plan :math:`P` and the optimal linear map :math:`A_{kl}` from component k to l: a
    component for each pair of positive mass, on the geodesic between its two Gaussians.

    Parameters
    ----------
    source : GaussianMixtureParams
        K components in d dimensions, of any covariance type; covariances may be singular.
    target : GaussianMixtureParams
        L components in d dimensions.
    t : float
        Time, 0 at the source and 1 at the target.
    plan : Plan, default=None
        The plan; None is the optimal one.

    Returns
    -------
    GaussianMixtureParams
        At most ``K + L - 1`` components for an optimal plan, in the same order at every ``t``. Two
        diagonal mixtures give a diagonal one, two spherical a spherical, two tied a tied one, any
        others full covariances.

    Raises
    ------
    ValueError
        If the dimensions differ.

    Notes
    -----
    For an optimal plan ``MW2(mu_s, mu_t) = |t - s| MW2(mu_0, mu_1)``. Not differentiable. Costs
    one plan and ``O((K + L) d^3)``.

    References
    ----------
    .. [1] Delon and Desolneux 2020, geodesics between mixtures.
    """
    source, target = source.detach(), target.detach()
    plan = transport_plan(source, target) if plan is None else plan
    k, l = torch.nonzero(plan.coupling, as_tuple=True)
    mass = plan.coupling[k, l]
    covariances, covariance_type = _between(source, target, k, l, t)
    means = torch.lerp(source.means[k], target.means[l], t)
    return GaussianMixtureParams(mass / mass.sum(), means, covariances, covariance_type)


def _between(source, target, k, l, t) -> tuple[Tensor, CovarianceType]:
    """Covariances on the geodesics of pairs, and their type: the simplest that holds them."""
    source, target = source.in_base(), target.in_base()
    types = [m.covariance_type for m in (source, target)]
    if all(each.diagonal for each in types):
        deviations = source.covariances[k].sqrt(), target.covariances[l].sqrt()
        covariance_type = SPHERICAL if all(each == SPHERICAL for each in types) else DIAG
        return (deviations[0] * (1 - t) + deviations[1] * t).square(), covariance_type
    if all(each.shared for each in types):
        covariance_type = TIED
        covariances = source.covariances, target.covariances  # one pair for all
    else:
        covariance_type = FULL
        covariances = source.full_covariances()[k], target.full_covariances()[l]
    factors = [factor(S) for S in covariances]
    F = torch.lerp(factors[0], align(factors[1], factors[0]), t)
    return symmetrize(F @ F.mT), covariance_type
