r"""EM as block-coordinate descent on an entropic transport problem.

With costs :math:`C_{ik} = -\log g_k(x_i)`, samples of weights ``a`` (of sum one) and components of
weights ``w``, both steps of EM minimise

.. math:: J(P, \theta) = \langle P, C \rangle + KL(P \mid a w^T),

the E-step over the plans with ``P 1 = a`` and the M-step over the mixtures :math:`\theta`.
"""

import torch
from torch import Tensor

from skgmmot.fitting.em.entropic import log_densities_of_components, masses_of_samples
from skgmmot.fitting.em.step import m_step
from skgmmot.gaussian.log_density import responsibilities
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.gaussian.statistics import moments


def plan_objective(
    plan: Tensor, theta: GaussianMixtureParams, X: Tensor, sample_weight: Tensor | None = None
) -> Tensor:
    r"""Return the entropic transport objective of any plan between components and samples.

    .. math::

        J(P, \theta) = \sum_{ki} P_{ki} \Bigl(\log \frac{P_{ki}}{a_i w_k} - \log g_k(x_i)\Bigr)
        - \sum_{ki} P_{ki} + 1

    Parameters
    ----------
    plan : Tensor of shape (K, n)
        ``P``, not negative; for example ``a`` times responsibilities, in the shape of
        `responsibilities`.
    theta : GaussianMixtureParams
        K components in d dimensions.
    X : Tensor of shape (n, d)
        Samples.
    sample_weight : Tensor of shape (n,), default=None
        Their weights, scaled to sum one; None is uniform.

    Returns
    -------
    Tensor of shape ()
        The objective. Its minimum over plans with ``P.sum(0) = a`` is the negative mean
        log-likelihood, at `plan_step`. Infinite if the plan gives mass to a component of weight
        zero or a sample of weight zero.

    Raises
    ------
    ValueError
        If the plan has another shape or negative entries, or a covariance is not positive definite.

    Notes
    -----
    Differentiable in all arguments. Costs ``O(n K d^2)``.

    References
    ----------
    .. [1] Vayer and Lasalle 2025, maximum likelihood as entropic transport.

    Examples
    --------
    >>> import torch
    >>> from skgmmot.functional import (
    ...     GaussianMixtureParams, mixture_step, plan_objective, plan_step
    ... )
    >>> X = torch.tensor([[0.0], [1.0], [5.0], [6.0]], dtype=torch.float64)
    >>> theta = GaussianMixtureParams(
    ...     torch.tensor([0.5, 0.5]).double(), X[[0, 3]], torch.ones(2, 1).double()
    ... )
    >>> plan = plan_step(theta, X)
    >>> better = mixture_step(plan, theta, X)
    >>> bool(plan_objective(plan, better, X) < plan_objective(plan, theta, X))
    True
    """
    a = masses_of_samples(X, sample_weight)
    check_plan(plan, theta, X)
    log_g = log_densities_of_components(theta, X)  # (K, n)
    reference = theta.weights.unsqueeze(1) * a
    cost = torch.where(plan > 0, plan * -log_g, 0.0).sum()  # 0 times inf is 0
    # (a reference of zero must stay off the graph: its derivative is not a number)
    excess = torch.where(plan > 0, plan / torch.where(plan > 0, reference, 1.0), 1.0)
    return cost + torch.xlogy(plan, excess).sum() - plan.sum() + theta.weights.sum()


def plan_step(
    theta: GaussianMixtureParams, X: Tensor, sample_weight: Tensor | None = None
) -> Tensor:
    r"""Return the plan of least objective for a mixture: the E-step.

    .. math:: P_{ki} = a_i \gamma_{ik}

    Parameters
    ----------
    theta : GaussianMixtureParams
        K components in d dimensions.
    X : Tensor of shape (n, d)
        Samples.
    sample_weight : Tensor of shape (n,), default=None
        Their weights, scaled to sum one; None is uniform.

    Returns
    -------
    Tensor of shape (K, n)
        The plan, with ``P.sum(0) = a``.

    Raises
    ------
    ValueError
        If a covariance is not positive definite.

    Notes
    -----
    Differentiable in all arguments.

    References
    ----------
    .. [1] Vayer and Lasalle 2025, maximum likelihood as entropic transport.
    """
    return responsibilities(theta, X) * masses_of_samples(X, sample_weight)


def mixture_step(
    plan: Tensor, theta: GaussianMixtureParams, X: Tensor, *, reg_covar: float = 0.0
) -> GaussianMixtureParams:
    """Return the mixture of least objective for a plan: the M-step.

    Parameters
    ----------
    plan : Tensor of shape (K, n)
        ``P``, not negative.
    theta : GaussianMixtureParams
        The current mixture: its covariance type is kept, and components that the plan gives no mass
        keep their means and covariances.
    X : Tensor of shape (n, d)
        Samples.
    reg_covar : float, default=0.0
        Added to the variances; the objective is least for 0.

    Returns
    -------
    GaussianMixtureParams
        The mixture.

    Raises
    ------
    ValueError
        If the plan has another shape or negative entries.

    Notes
    -----
    Differentiable in all arguments.

    References
    ----------
    .. [1] Vayer and Lasalle 2025, maximum likelihood as entropic transport.
    """
    check_plan(plan, theta, X)
    return m_step(theta, moments(theta, X, plan), reg_covar)


def check_plan(plan: Tensor, theta: GaussianMixtureParams, X: Tensor) -> None:
    """Refuse what is no plan between the components of a mixture and samples.

    Parameters
    ----------
    plan : Tensor of shape (K, n)
        The plan.
    theta : GaussianMixtureParams
        K components.
    X : Tensor of shape (n, d)
        Samples.

    Raises
    ------
    ValueError
        If it has another shape, or entries that are negative or NaN.
    """
    shape = len(theta.weights), len(X)
    if tuple(plan.shape) != shape:
        raise ValueError(
            f"plan must have shape {shape}, components by samples, got {tuple(plan.shape)}. "
            "Transpose it, or use plan_step."
        )
    least = float(plan.detach().min())
    if not least >= 0:
        raise ValueError(f"plan must not be negative, got {least:.3g}. Pass masses.")
