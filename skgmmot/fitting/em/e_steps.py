"""E-steps by name: how a fit iterates with each, and how its end is differentiated."""

import math
import warnings
from collections.abc import Callable
from typing import NamedTuple

from skgmmot.fitting.em.iterations import EMStep, climb
from skgmmot.fitting.em.rows import EM
from skgmmot.fitting.em.sinkhorn import ANY, SinkhornEM, SinkhornStep, untilted
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.numerics.adjoint import InexactGradientWarning, Solver
from skgmmot.numerics.fixed_point import Solution
from skgmmot.numerics.gradients import Step, Strategy
from skgmmot.numerics.newton.certify import certify, remaining
from skgmmot.numerics.newton.follow import Carried
from skgmmot.numerics.newton.polish import polish

#: Relative error of an implicit gradient for each unit of distance from the fixed point: of this
#: order, mostly less, whatever the covariance type and the overlap.
SENSITIVITY = 10
#: How many times longer than Newton's step the way may be from where polishing gave up.
FAR = 20.0


class Gradient(NamedTuple):
    """How the end of a fit is differentiated."""

    strategy: Strategy
    """The strategy."""
    tol: float = 1e-6
    """Relative error accepted, where the strategy is right at a fixed point only."""
    max_polish: int = 1000
    """Largest number of passes spent on coming near the fixed point."""
    solve: str | Solver = "auto"
    """Solver of the adjoint equation, or its name."""
    carried: Carried | None = None
    """What the strategy keeps between fits; takes the solver's place where the derivative is
    small."""


def differentiate(
    step: EMStep, theta0: GaussianMixtureParams, solution: Solution, gradient: Gradient
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
    gradient : Gradient
        How.

    Returns
    -------
    Solution
        The same with its value on the graph; polished, if the strategy is right at a fixed point
        only.

    Warns
    -----
    InexactGradientWarning
        If polishing did not come near enough to the fixed point. Backward warns likewise if the
        adjoint equation could not be solved.
    """
    strategy, carried = gradient.strategy, None
    if strategy.at_fixed_point:
        solution = _polished(step, solution, gradient)
        if gradient.carried is not None and step.linearise(solution.value).small:
            carried = gradient.carried
            carried.renew()
    options = {"tol": gradient.tol, "solve": gradient.solve, "carried": carried}
    return strategy.attach(step, theta0, solution, **options)


def _polished(step: EMStep, solution: Solution, gradient: Gradient) -> Solution:
    """The end of a fit at the fixed point, as far as ``max_polish`` goes."""
    found = polish(
        step.linearise,
        solution.value,
        advance=step.advance,
        tol=gradient.tol / SENSITIVITY,
        max_passes=gradient.max_polish,
    )
    error = SENSITIVITY * found.distance
    if not error <= gradient.tol:
        warnings.warn(
            f"EM was left at a residual of {found.residual:.1e}, about {found.distance:.1e} from "
            f"its fixed point: the {gradient.strategy.name} gradient may be off by {error:.1e} > "
            f"gradient_tol={gradient.tol:.1e}. Increase max_iter or reg_covar, use fewer "
            "components, or differentiate with gradient='automatic'.",
            InexactGradientWarning,
            stacklevel=5,
        )
    here = step.linearise(found.theta)
    near = found.distance <= gradient.tol / SENSITIVITY
    distance, gain = remaining(here, found, *(() if near else (FAR,)))
    return solution._replace(
        value=found.theta,
        objective=here.objective,
        converged=solution.converged or error <= gradient.tol,
        residual=found.residual,
        distance=distance,
        gain=gain,
    )


def certified(step: EMStep, solution: Solution, max_passes: int) -> Solution:
    """Measure how far the end of a fit is from its fixed point, which it leaves as it is.

    Parameters
    ----------
    step : EMStep
        The iteration.
    solution : Solution
        The end of the fit, a constant.
    max_passes : int
        Largest number, roughly, of passes over the samples.

    Returns
    -------
    Solution
        The same with its ``distance`` and ``gain``.
    """
    theta = solution.value.detach()
    options = {"advance": step.advance, "max_passes": max_passes}
    found = certify(step.linearise, theta, solution.objective, **options)
    return solution._replace(distance=found.distance, gain=found.gain)


# --- the balanced E-step -------------------------------------------------------------------------


def climb_balanced(
    em: EM,
    theta0: GaussianMixtureParams,
    *,
    acceleration: None = None,
    objective: float = -math.inf,
    **options,
) -> Solution:
    """Iterate Sinkhorn-EM from a start whose weights are prescribed.

    Parameters
    ----------
    em : EM
        The iteration of EM over the samples.
    theta0 : GaussianMixtureParams
        The start.
    acceleration : None
        There is none.
    objective : float, default=-inf
        Objective that the first change is measured against; a start that has one goes on with an
        earlier fit, and is balanced at once.
    **options
        Other options of `climb`.

    Returns
    -------
    Solution
        Where it ended; its points are of the type `TiltedMixture`.

    Raises
    ------
    ValueError
        If an acceleration is asked for, or a weight is not positive.
    """
    if acceleration is not None:
        raise ValueError(
            f"acceleration must be None with e_step='sinkhorn', got {acceleration!r}, which "
            "extrapolates plain EM. Set one of the two back."
        )
    if theta0.noise is not None:
        raise ValueError(
            "noise must be 'none' with e_step='sinkhorn', got some: all shares of the samples are "
            "prescribed there. Use e_step='posterior'."
        )
    start = untilted(theta0, ANY if objective == -math.inf else 0.0)
    return climb(SinkhornEM(em), start, objective=objective, **options)


def balanced(step: EMStep, theta0: GaussianMixtureParams) -> SinkhornStep:
    """Return the iteration of Sinkhorn-EM that keeps the weights of a start.

    Parameters
    ----------
    step : EMStep
        The iteration of EM.
    theta0 : GaussianMixtureParams
        The start.

    Returns
    -------
    SinkhornStep
        The iteration.
    """
    return SinkhornStep(step.with_free_weights(), theta0.weights)


def differentiate_balanced(
    step: EMStep, theta0: GaussianMixtureParams, solution: Solution, gradient: Gradient
) -> Solution:
    """Put the end of Sinkhorn-EM on the graph of the samples, their weights and the start.

    Parameters
    ----------
    step : EMStep
        The iteration of EM.
    theta0 : GaussianMixtureParams
        The start of the fit, of the prescribed weights.
    solution : Solution
        The end of the fit.
    gradient : Gradient
        How.

    Returns
    -------
    Solution
        The same with its value on the graph; its points are mixtures of the prescribed weights.
    """
    found = differentiate(balanced(step, theta0), untilted(theta0), solution, gradient)
    value, previous = found.value.mixture(), found.previous.mixture()
    return found._replace(value=value._replace(weights=theta0.weights), previous=previous)


class EStep(NamedTuple):
    """What a fit does, by its E-step."""

    name: str
    """What a caller writes for it."""
    climb: Callable[..., Solution]
    """Runs the iterations from a start."""
    differentiate: Callable[..., Solution]
    """Puts their end on the graph."""
    balanced: bool
    """Whether the weights are prescribed, and stay: responsibilities are a plan of all samples."""
    step: Callable[..., Step] = lambda step, theta0: step
    """The iteration as a map, made of one of EM and the start."""


#: E-steps by name.
E_STEPS = {
    e_step.name: e_step
    for e_step in (
        EStep("posterior", climb, differentiate, balanced=False),
        EStep("sinkhorn", climb_balanced, differentiate_balanced, balanced=True, step=balanced),
    )
}
