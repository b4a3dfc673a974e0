"""Geodesics between mixtures in MW2."""

import torch
from torch import Tensor

from skgmmot.gaussian.bures.barycenter import align
from skgmmot.gaussian.covariance.base import CovarianceType
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.numerics.linalg import factor, symmetrize
from skgmmot.transport.discrete.plan import Plan
from skgmmot.transport.discrete.solvers import entropy_of
from skgmmot.transport.mixtures.distance import transport_plan
from skgmmot.transport.mixtures.flow import common_type, mixture_flow


def interpolate(
    source: GaussianMixtureParams,
    target: GaussianMixtureParams,
    t: float,
    plan: Plan | None = None,
    *,
    reg: float = 0.0,
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
    reg : float, default=0.0
        Weight of the entropy of the coupling of samples, see `mixture_flow`. Otherwise the mixture
        is on the geodesic.

    Returns
    -------
    GaussianMixtureParams
        At most ``K + L - 1`` components for an optimal plan, in the same order at every ``t``. Two
        diagonal mixtures give a diagonal one, two spherical a spherical, two tied a tied one, any
        others full covariances.

    Raises
    ------
    ValueError
        If the dimensions differ, or ``reg`` is negative or not finite.

    Notes
    -----
    For an optimal plan ``MW2(mu_s, mu_t) = |t - s| MW2(mu_0, mu_1)``. Not differentiable. Costs
    one plan and ``O((K + L) d^3)``.

    References
    ----------
    .. [1] Delon and Desolneux 2020, geodesics between mixtures.
    """
    if entropy_of(reg):
        return mixture_flow(source, target, reg=reg, plan=plan)[1].mixture(t)
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
    covariance_type = common_type(source, target)
    if covariance_type.diagonal:
        deviations = source.covariances[k].sqrt(), target.covariances[l].sqrt()
        return (deviations[0] * (1 - t) + deviations[1] * t).square(), covariance_type
    if covariance_type.shared:
        covariances = source.covariances, target.covariances  # one pair for all
    else:
        covariances = source.full_covariances()[k], target.full_covariances()[l]
    factors = [factor(S) for S in covariances]
    F = torch.lerp(factors[0], align(factors[1], factors[0]), t)
    return symmetrize(F @ F.mT), covariance_type
