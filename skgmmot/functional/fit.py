"""Whole fits as functions: EM from a given start, and its end on the autograd graph.

Stands above the engine, which runs the iterations in blocks.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from skgmmot import _engine
from skgmmot.functional.em import em_step, m_step
from skgmmot.functional.em_adjoint import CentredAdjoint, FeatureAdjoint, score
from skgmmot.functional.fixed_point import GRADIENTS, Point, Solution, Squarem, iterate, traced
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
        step = EMStep(em, X, sample_weight, start.weights if fixed_weights else None)
        solution = differentiate(step, start, solution, gradient=gradient)
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
    step: "EMStep", theta0: GaussianMixtureParams, solution: Solution, *, gradient: str
) -> Solution:
    """Put the end of a fit on the graph of the samples, their weights and the start.

    Parameters
    ----------
    step : EMStep
        The iteration.
    theta0 : GaussianMixtureParams
        The start of the fit, about the origin of the iteration.
    solution : Solution
        The end of the fit.
    gradient : {'implicit', 'automatic', 'one_step'}
        The strategy.

    Returns
    -------
    Solution
        The same with its value on the graph.
    """
    options = {"pullback": step.pullback} if gradient == "implicit" else {}
    return solution._replace(value=GRADIENTS[gradient](step, theta0, solution, **options))


class EMStep:
    """One iteration of EM over all samples, as a map on the autograd graph.

    `em_step`, worked out in blocks and without a tape: memory does not grow with the number of
    samples, and backward is a pass or two over them. Differentiated twice, it is `em_step` itself.

    Parameters
    ----------
    em : EM
        The iteration in blocks, on constants.
    X : Tensor of shape (n, d)
        Its samples, perhaps on a graph.
    sample_weight : Tensor of shape (n,), default=None
        Their weights, likewise.
    fixed_weights : Tensor of shape (K,), default=None
        Weights that stay; None leaves them free.
    """

    def __init__(self, em, X, sample_weight=None, fixed_weights=None):
        self.em, self.X, self.sample_weight = em, X, sample_weight
        self.fixed_weights = fixed_weights

    def __call__(self, theta: GaussianMixtureParams) -> GaussianMixtureParams:
        theta = self._weighted(theta)
        theta_next = _Iteration.apply(self.em, *theta, self.X, self.sample_weight)
        return self._weighted(GaussianMixtureParams(*theta_next))

    def pullback(self, theta: GaussianMixtureParams) -> Callable[[Point], Point]:
        """Return the map from cotangents of ``F(theta)`` to those of ``theta``."""
        linear = Linearised(self.em, self._weighted(theta).detach())
        if self.fixed_weights is None:
            return linear.pull
        zero = torch.zeros_like(theta.weights)  # theta has no say in fixed weights
        return lambda u: linear.pull(u._replace(weights=zero))._replace(weights=zero)

    def _weighted(self, theta):
        w = self.fixed_weights
        return theta if w is None else theta._replace(weights=w)


class Linearised:
    """One iteration of EM at a mixture, ready to pull cotangents back through it.

    Parameters
    ----------
    em : EM
        The iteration.
    theta : GaussianMixtureParams
        Where it starts, a constant.
    """

    def __init__(self, em: _engine.EM, theta: GaussianMixtureParams):
        self.em, self.theta = em, theta
        with torch.no_grad(), _engine.workers(em.X.device) as pool:
            em = em.with_pool(pool)
            statistics = em.statistics(theta)
            step, dtype = em.by_features(theta)
        self._features = None if dtype is None else step
        self.value = m_step(theta, statistics, em.reg_covar)
        self._pull_m_step = traced(lambda s: m_step(theta, s, em.reg_covar), statistics)

    def pull(self, u: GaussianMixtureParams) -> GaussianMixtureParams:
        """Return the cotangent of ``theta``."""
        adjoint = self._adjoint(u)
        a, X = self.em.sample_weight, self.em.X

        def block(rows, buffers):
            return adjoint.block(X[rows], None if a is None else a[rows], buffers)

        with torch.no_grad(), _engine.workers(X.device) as pool:
            sums = pool.sum(block, len(X), adjoint.row_size, min_rows=adjoint.min_rows)
            return score(self.theta, adjoint.moments(*sums))

    def pull_samples(self, u: GaussianMixtureParams) -> tuple[Tensor, Tensor]:
        """Return the cotangents of the samples ``(n, d)`` and of their weights ``(n,)``."""
        adjoint = self._adjoint(u)
        a, X = self.em.sample_weight, self.em.X
        of_X, of_a = torch.empty_like(X), X.new_empty(len(X))

        def over_span(span, buffers):
            for rows in span:
                weights = None if a is None else a[rows]
                of_X[rows], of_a[rows] = adjoint.samples(X[rows], weights, buffers)

        with torch.no_grad(), _engine.workers(X.device) as pool:
            row_size, min_rows = adjoint.row_size, adjoint.min_rows
            for _ in pool.map(over_span, len(X), row_size, min_rows=min_rows):
                pass
        return of_X, of_a

    def _adjoint(self, u):
        """The adjoint E-step for a cotangent of the next mixture."""
        cotangents = self._pull_m_step(u)
        if self._features is not None:
            return FeatureAdjoint(self._features, cotangents)
        return CentredAdjoint(self.theta, self.em.origin, cotangents)


class _Iteration(torch.autograd.Function):
    """One iteration of EM, with its derivative in blocks."""

    @staticmethod
    def forward(ctx, em, weights, means, covariances, X, sample_weight):
        theta = GaussianMixtureParams(weights, means, covariances)
        ctx.save_for_backward(*theta, X, sample_weight)
        ctx.linear = Linearised(em, theta.detach())
        return tuple(ctx.linear.value)

    @staticmethod
    def backward(ctx, *cotangents):
        linear, needed = ctx.linear, ctx.needs_input_grad[1:]
        *theta, X, sample_weight = ctx.saved_tensors
        if torch.is_grad_enabled():
            return None, *_taped(linear.em, theta, X, sample_weight, cotangents, needed)
        u = GaussianMixtureParams(*cotangents)
        of_theta = linear.pull(u) if any(needed[:3]) else (None, None, None)
        of_X, of_a = linear.pull_samples(u) if any(needed[3:]) else (None, None)
        return None, *of_theta, of_X, of_a if needed[4] else None


def _taped(em, theta, X, sample_weight, cotangents, needed):
    """The derivative of an iteration on autograd's own tape, to be differentiated once more."""
    inputs = (*theta, X, sample_weight)
    outputs = em_step(
        GaussianMixtureParams(*theta), X - em.origin, sample_weight, reg_covar=em.reg_covar
    )
    wanted = [t for t, need in zip(inputs, needed, strict=True) if need]
    found = iter(torch.autograd.grad(outputs, wanted, cotangents, create_graph=True))
    return [next(found) if need else None for need in needed]


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
