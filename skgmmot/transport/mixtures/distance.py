r"""Optimal transport between Gaussian mixtures: the distance MW2 and its plan.

.. math::

    \operatorname{MW}_2^2(\mu_0, \mu_1)
    = \min_{P \in \Pi(w_0, w_1)} \sum_{kl} P_{kl} \, W_2^2(g_k, g_l)

over couplings :math:`P` of the weights: optimal transport whose plans are themselves Gaussian
mixtures. It is a discrete problem with K x L costs, each given by a closed form.
"""

import math

import torch
from torch import Tensor

from skgmmot.gaussian.bures.gaussians import (
    GaussianCosts,
    are_factored,
    bures_wasserstein_squared,
    commute,
)
from skgmmot.gaussian.mixture import GaussianMixtureParams, least
from skgmmot.numerics.linalg import compare_bits
from skgmmot.transport.discrete.plan import Plan, Same, transposed
from skgmmot.transport.discrete.solvers import entropy_of, penalties_of, solve, solve_bounded

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
        If the dimensions differ, or a distance overflows.

    Notes
    -----
    Differentiable once. Costs ``O(K L d^3)``; ``O(K L d)`` if both covariances are diagonal, and
    ``O(K L d r^2)`` if they are of low rank in many features.
    """
    check_dimensions(source, target)
    source, target = source.in_base(), target.in_base()
    types = source.covariance_type, target.covariance_type
    return finite_costs(bures_wasserstein_squared(*source[1:], *target[1:], covariance_types=types))


def finite_costs(costs: Tensor) -> Tensor:
    """Return squared distances, or raise if they overflow.

    Parameters
    ----------
    costs : Tensor
        Squared distances.

    Returns
    -------
    Tensor
        The same.

    Raises
    ------
    ValueError
        If one is NaN or infinite.
    """
    if not math.isfinite(float(costs.detach().sum())) and not torch.isfinite(costs).all():
        raise ValueError(
            f"mixtures must be of a size whose squares {costs.dtype} can hold, got an infinite "
            "squared distance. Divide all means by a large number, and all covariances by its "
            "square."
        )
    return costs


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
    use are computed. If components are well
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
        return Plan(stays, nothing, nothing, least(source, target), Same(stays))
    weights = source.weights, target.weights
    if reg or not _is_bounded(source, target):
        return solve(*weights, cost_matrix(source, target), reg=reg, reg_m=reg_m)
    matrices = source.full_covariances(), target.full_covariances()
    costs = GaussianCosts.between(source.means, matrices[0], target.means, matrices[1])
    return solve_bounded(
        *weights,
        costs.lower_bounds(),
        costs,
        tangent=costs.tangent,
        tighter=costs.tighter_bounds,
        reg_m=reg_m,
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
    apart = source.weights.double().sum() - target.weights.double().sum()
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
    if are_factored(source.factors(), target.factors()):
        return False
    # a plan from or to one component uses all costs
    sizes = [len(mixture.in_base().covariances) for mixture in (source, target)]
    return min(sizes) > 1 and math.prod(sizes) * d**2 > MIN_BOUNDED_SIZE


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
