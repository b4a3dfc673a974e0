"""Bounds of the errors of MW2: of the plan, and of the costs between components."""

import torch

from skgmmot.gaussian.bures.rounding import CostRounding
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.transport.discrete.plan import Plan, known_costs
from skgmmot.transport.mixtures.distance import transport_plan


def cost_error(source: GaussianMixtureParams, target: GaussianMixtureParams, plan: Plan) -> float:
    """Return a bound of the error of the cost of a plan between two mixtures.

    Parameters
    ----------
    source, target : GaussianMixtureParams
        The mixtures.
    plan : Plan
        What `skgmmot.transport.mixtures.distance.transport_plan` returned for them.

    Returns
    -------
    float
        The error of the plan at the computed costs, and the rounding of those that it uses; to
        first order, in squared units of the data.
    """
    C = known_costs(plan)
    if C is None:  # the plan between equal mixtures
        return plan.error
    P = plan.coupling.detach().to("cpu", torch.float64)
    k, l = P.nonzero(as_tuple=True)
    source, target = source.in_base(), target.in_base()
    types = source.covariance_type, target.covariance_type
    rounding = CostRounding(*source[1:], *target[1:], types)
    return plan.error + float(P[k, l] @ rounding(k, l, torch.from_numpy(C)[k, l]))


def debiased_error(
    source: GaussianMixtureParams,
    target: GaussianMixtureParams,
    *,
    reg: float,
    reg_m: float | tuple[float, float] | None = None,
) -> float:
    """Return a bound of the error of a Sinkhorn divergence between two mixtures.

    Parameters
    ----------
    source, target : GaussianMixtureParams
        The mixtures.
    reg : float
        Weight of the entropy.
    reg_m : float, tuple of two floats or None, default=None
        Penalties of the marginals.

    Returns
    -------
    float
        The errors of the three costs; to first order, in squared units of the data.
    """
    pairs = (source, target), (source, source), (target, target)
    errors = [cost_error(*p, transport_plan(*p, reg=reg, reg_m=reg_m)) for p in pairs]
    return errors[0] + (errors[1] + errors[2]) / 2
