"""Whole fits as functions: EM from a given start, and its end on the autograd graph.

Stands above the engine, which runs the iterations in blocks.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from skgmmot import _engine
from skgmmot.functional.em import em_step
from skgmmot.functional.fixed_point import GRADIENTS, Point, Solution, Squarem, iterate
from skgmmot.functional.mixture import FreeCoordinates, GaussianMixtureParams

#: What may extrapolate the iterations, by name.
ACCELERATIONS = {"squarem": Squarem}


def fit_em(
    theta0: GaussianMixtureParams,
    X: Tensor,
    sample_weight: Tensor | None = None,
    *,
    gradient: str = "implicit",
    tol: float = 1e-3,
    max_iter: int = 100,
    reg_covar: float = 1e-6,
    fixed_weights: bool = False,
    acceleration: str | None = None,
) -> Solution:
    """Fit a mixture by EM from a given start; differentiable in the samples and their weights.

    Parameters
    ----------
    theta0 : GaussianMixtureParams
        The start: K components in d dimensions.
    X : Tensor of shape (n, d)
        Samples, float32 or float64.
    sample_weight : Tensor of shape (n,), default=None
        Non-negative weights; None is one each.
    gradient : {'implicit', 'automatic', 'one_step'}, default='implicit'
        How the fit is differentiated, if a tensor requires a gradient.
    tol : float, default=1e-3
        EM stops when the mean log-likelihood changes by less than this in one iteration.
    max_iter : int, default=100
        Largest number of iterations.
    reg_covar : float, default=1e-6
        Added to the variances.
    fixed_weights : bool, default=False
        Whether the weights stay those of ``theta0``.
    acceleration : {'squarem'}, default=None
        What extrapolates the iterations.

    Returns
    -------
    Solution
        Its ``value`` is the fitted mixture, in the dtype of ``X``, on the graph of ``X`` and
        ``sample_weight``, of the fixed weights, and of ``theta0`` if ``gradient`` is 'automatic'.
    """
    with torch.no_grad():
        origin = _engine.origin(X, sample_weight)
        constants = (X, sample_weight)
        constants = [None if t is None else t.detach() for t in constants]
    start = theta0.to(dtype=torch.float64).moved(-origin)
    with torch.no_grad(), _engine.workers(X.device) as pool:
        em = _engine.EM(*constants, origin, reg_covar, pool, fixed_weights)
        solution = climb(em, start.detach(), tol=tol, max_iter=max_iter, acceleration=acceleration)
    if any(t is not None and t.requires_grad for t in (*theta0, X, sample_weight)):
        solution = differentiate(
            start,
            X - origin,
            sample_weight,
            solution,
            gradient=gradient,
            reg_covar=reg_covar,
            fixed_weights=fixed_weights,
        )
    return solution._replace(
        value=solution.value.moved(origin).to(dtype=X.dtype),
        previous=solution.previous.moved(origin).to(dtype=X.dtype),
    )


def climb(
    em: Callable[[Point], tuple[Point, float]],
    theta0: GaussianMixtureParams,
    *,
    tol: float,
    max_iter: int,
    acceleration: str | None = None,
    objective: float = -math.inf,
    callback: Callable[[Solution], None] | None = None,
) -> Solution:
    """Iterate EM from a start, perhaps accelerated.

    Parameters
    ----------
    em : callable
        ``theta -> (theta_next, objective)``.
    theta0 : GaussianMixtureParams
        The start.
    tol : float
        As in `iterate`, like ``max_iter``, ``objective`` and ``callback``.
    max_iter : int
        Largest number of iterations.
    acceleration : {'squarem'}, default=None
        What extrapolates the iterations, in free coordinates.
    objective : float, default=-inf
        Objective that the first change is measured against.
    callback : callable, default=None
        Called with the `Solution` so far after each iteration.

    Returns
    -------
    Solution
        Where it ended.
    """
    accelerator = None
    if acceleration is not None:
        free = FreeCoordinates(theta0)
        accelerator = ACCELERATIONS[acceleration](free.to_free, free.from_free)
    return iterate(
        em,
        theta0,
        tol=tol,
        max_iter=max_iter,
        objective=objective,
        accelerator=accelerator,
        callback=callback,
    )


def differentiate(
    theta0: GaussianMixtureParams,
    X: Tensor,
    sample_weight: Tensor | None,
    solution: Solution,
    *,
    gradient: str,
    reg_covar: float,
    fixed_weights: bool,
) -> Solution:
    """Put the end of a fit on the graph of the samples, their weights and the start.

    Parameters
    ----------
    theta0 : GaussianMixtureParams
        The start of the fit, in the coordinates of ``X``.
    X : Tensor of shape (n, d)
        Samples.
    sample_weight : Tensor of shape (n,) or None
        Their weights.
    solution : Solution
        The end of the fit.
    gradient : {'implicit', 'automatic', 'one_step'}
        The strategy.
    reg_covar : float
        Added to the variances.
    fixed_weights : bool
        Whether the weights stay those of ``theta0``.

    Returns
    -------
    Solution
        The same with its value on the graph.
    """

    def F(theta):
        if fixed_weights:
            theta = theta._replace(weights=theta0.weights)
        return em_step(theta, X, sample_weight, reg_covar=reg_covar, fixed_weights=fixed_weights)

    return solution._replace(value=GRADIENTS[gradient](F, theta0, solution))


class WarmStart:
    """EM that goes on where it ended: one fit a call, each from the last one's mixture.

    In a gradient flow the samples move a little at a time, and one iteration a step keeps up with
    them: ``max_iter=1`` and ``gradient='one_step'``, the defaults, differentiate that one iteration
    and carry its start as a constant.

    Parameters
    ----------
    theta0 : GaussianMixtureParams
        Where the first fit starts.
    gradient : {'one_step', 'implicit', 'automatic'}, default='one_step'
        As `fit_em`.
    max_iter : int, default=1
        Largest number of iterations a call.
    **options
        Other options of `fit_em`.

    Attributes
    ----------
    theta : GaussianMixtureParams
        Where the next fit starts, a constant.
    solution : Solution
        The last fit.

    References
    ----------
    .. [1] Boite, Tanguy, Delon, Desolneux and Flamary 2025, the warm-start flow.

    Examples
    --------
    >>> import torch
    >>> from skgmmot.functional import GaussianMixtureParams, WarmStart
    >>> X = torch.tensor([[0.0], [1.0], [5.0], [6.0]], dtype=torch.float64, requires_grad=True)
    >>> em = WarmStart(
    ...     GaussianMixtureParams(
    ...         torch.tensor([0.5, 0.5]), torch.tensor([[0.0], [6.0]]), torch.ones(2, 1, 1)
    ...     )
    ... )
    >>> for _ in range(3):
    ...     loss = em(X).means.square().sum()
    >>> torch.autograd.grad(loss, X)[0].shape
    torch.Size([4, 1])
    """

    def __init__(self, theta0, *, gradient="one_step", max_iter=1, **options):
        self.theta = theta0.detach()
        self.solution = None
        self.options = {"gradient": gradient, "max_iter": max_iter, **options}

    def __call__(self, X: Tensor, sample_weight: Tensor | None = None) -> GaussianMixtureParams:
        """Fit to samples ``X (n, d)``; the mixture is on their graph."""
        self.solution = fit_em(self.theta, X, sample_weight, **self.options)
        self.theta = self.solution.value.detach()
        return self.solution.value
