"""EM over all samples as a map: iterated from a start, and as a step on the autograd graph."""

import math
from collections.abc import Callable
from dataclasses import replace

import torch

from skgmmot.fitting.em.constraint import FREE, Constraint
from skgmmot.fitting.em.gradient.derivative import LinearisedEM
from skgmmot.fitting.em.gradient.taped import TapedEM
from skgmmot.fitting.em.rows import EM
from skgmmot.fitting.em.step import m_step
from skgmmot.gaussian.coordinates import LogCoordinates
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.numerics.fixed_point import (
    Journal,
    Point,
    Solution,
    Squarem,
    iterate,
    named,
)
from skgmmot.numerics.newton.acceleration import Newton

#: Longest jump of the iterations that polish a fit, where one is the spread of a component. Without
#: a bound, polishing ended at another fixed point than plain EM in 10 of 420 random flat problems;
#: with this one in none, after about as many iterations.
POLISHING_RADIUS = 0.2


def climb(
    em: Callable[[Point], tuple[Point, float]],
    theta0: GaussianMixtureParams,
    *,
    tol: float,
    max_iter: int,
    acceleration: str | None = None,
    radius: float = math.inf,
    objective: float = -math.inf,
    callback: Callable[[Solution], bool | None] | None = None,
    journal: Journal | None = None,
    constraint: Constraint = FREE,
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
    acceleration : {'squarem', 'newton'}, default=None
        What extrapolates the iterations. 'newton' takes an `EM`.
    radius : float, default=inf
        Longest jump of 'squarem', where one is the spread of a component.
    objective : float, default=-inf
        Objective that the first change is measured against.
    callback : callable, default=None
        Called with the `Solution` so far after each iteration; stops where it returns True.
    journal : Journal, default=None
        Where the loop's state is kept, and one to go on from is found; ``theta0`` is then where
        that began.
    constraint : Constraint, default=Constraint()
        What extrapolations leave as it is in the start.

    Returns
    -------
    Solution
        Where it ended.
    """
    accelerator = None
    if acceleration is not None:
        accelerate = named("acceleration", acceleration, ACCELERATIONS)
        em, accelerator = accelerate(em, theta0, constraint, radius)
    return iterate(
        em,
        theta0,
        tol=tol,
        max_iter=max_iter,
        objective=objective,
        accelerator=accelerator,
        callback=callback,
        journal=journal,
    )


def _squarem(em, theta0, constraint, radius):
    """SQUAREM, in free coordinates."""
    free = LogCoordinates(theta0)
    return em, Squarem(
        free.to_free,
        lambda vector: constraint.keep(free.from_free(vector), theta0),
        radius=radius,
        measure=free.length,
    )


def _newton(em, theta0, constraint, radius):
    """Newton's method, in Fisher's coordinates; float32 would round the objective too much."""
    if theta0.covariance_type.sketched:
        raise ValueError(
            f"acceleration must be None or 'squarem' with {theta0.covariance_type.name!r} "
            "covariances, got 'newton', which needs the derivative of an iteration as sums over "
            "blocks. Set acceleration='squarem'."
        )
    em = em.in_float64()
    return em, Newton(lambda theta: LinearisedEM(em, theta))


#: What may extrapolate the iterations, by name: the iteration to run, and the accelerator.
ACCELERATIONS = {"squarem": _squarem, "newton": _newton}


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
    held : GaussianMixtureParams, default=None
        Where the parameters that stay are on a graph; None leaves them as they come.

    Notes
    -----
    The mean and scale of a prior may be on a graph, too.
    """

    def __init__(self, em: EM, X, sample_weight=None, held: GaussianMixtureParams | None = None):
        self.em, self.X, self.sample_weight, self.held = em, X, sample_weight, held
        self._last = None

    def __call__(self, theta: GaussianMixtureParams) -> GaussianMixtureParams:
        theta, prior = self._kept(theta), self.em.constraint.prior
        linear = self.linearise(theta.detach())
        of_prior = (None, None) if prior is None else (prior.mean, prior.scale)
        theta_next = _Iteration.apply(linear, *theta, self.X, self.sample_weight, *of_prior)
        return self._kept(GaussianMixtureParams(*theta_next, theta.covariance_type, theta.noise))

    def linearise(self, theta: GaussianMixtureParams) -> LinearisedEM | TapedEM:
        """The iteration at a mixture; the last one is kept, for it is asked for twice."""
        if self._last is None or not all(map(torch.equal, self._last.theta, theta)):
            by_hand = not theta.covariance_type.sketched
            self._last = (LinearisedEM if by_hand else TapedEM)(self.em, theta)
        return self._last

    def advance(self, theta: GaussianMixtureParams, n_steps: int) -> GaussianMixtureParams:
        """The mixture after so many accelerated iterations, whose jumps are short."""
        options = {"acceleration": "squarem", "radius": POLISHING_RADIUS}
        with self.at_work() as em:
            options["constraint"] = em.constraint
            return climb(em, theta, tol=0.0, max_iter=n_steps, **options).value

    def at_work(self):
        """A context that yields the iteration on constants in float64, with threads at work."""
        return self.em.in_float64().at_work()

    def with_free_weights(self) -> "EMStep":
        """The same iteration with weights that move."""
        return EMStep(self.em.with_free_weights(), self.X, self.sample_weight, self.held)

    def detach(self) -> "EMStep":
        """The same iteration over constants."""
        X, a, held = self.X, self.sample_weight, self.held
        return EMStep(self.em, *(None if t is None else t.detach() for t in (X, a, held)))

    def on_leaves(self) -> tuple["EMStep", list[torch.Tensor]]:
        """The same iteration of samples and weights on a graph of their own, and which are."""
        inputs, leaves = leaves_of(self.X, self.sample_weight)
        held = None if self.held is None else self.held.detach()
        return EMStep(self.em, *inputs, held), leaves

    def _kept(self, theta):
        return theta if self.held is None else self.em.constraint.keep(theta, self.held)


def leaves_of(*inputs: torch.Tensor | None) -> tuple[list, list[torch.Tensor]]:
    """Return tensors cut off their graph, and those of them that are leaves of a new one.

    Parameters
    ----------
    *inputs : Tensor or None
        Inputs of an iteration.

    Returns
    -------
    list of Tensor or None
        All of them, of which those on a graph are leaves now.
    list of Tensor
        The leaves.
    """
    cut = [None if t is None else t.detach().requires_grad_(t.requires_grad) for t in inputs]
    return cut, [t for t in cut if t is not None and t.requires_grad]


class _Iteration(torch.autograd.Function):
    """One iteration of EM, with its derivative in blocks."""

    @staticmethod
    def forward(ctx, linear, *tensors):
        ctx.save_for_backward(*tensors)
        ctx.linear = linear
        return tuple(linear.value)

    @staticmethod
    def backward(ctx, *cotangents):
        linear, needed = ctx.linear, ctx.needs_input_grad[1:]
        covariance_type = linear.theta.covariance_type
        if torch.is_grad_enabled():
            return None, *_taped(linear, ctx.saved_tensors, cotangents, needed)
        u = GaussianMixtureParams(*cotangents, covariance_type)
        of_theta = linear.pull(u) if any(needed[:3]) else (None, None, None)
        of_X, of_a = linear.pull_samples(u) if any(needed[3:5]) else (None, None)
        of_prior = linear.pull_prior(u) if any(needed[5:]) else (None, None)
        return None, *of_theta, of_X, of_a if needed[4] else None, *of_prior


def _taped(linear, inputs, cotangents, needed):
    """The derivative of an iteration on autograd's own tape, to be differentiated once more."""
    # aliases: the mixture may depend on the samples, too, by way of earlier iterations
    inputs = [None if t is None else t.view_as(t) for t in inputs]
    *theta, X, sample_weight, mean, scale = inputs
    em, like = linear.em, linear.theta
    theta = GaussianMixtureParams(*theta, like.covariance_type, like.noise)
    constraint = em.constraint
    if constraint.prior is not None:
        constraint = replace(constraint, prior=replace(constraint.prior, mean=mean, scale=scale))
    statistics = em.definition(theta, X - em.origin, sample_weight)
    theta_next = m_step(theta, statistics, em.reg_covar, constraint)
    wanted = [t for t, need in zip(inputs, needed, strict=True) if need]
    found = iter(torch.autograd.grad(theta_next, wanted, cotangents, create_graph=True))
    return [next(found) if need else None for need in needed]
