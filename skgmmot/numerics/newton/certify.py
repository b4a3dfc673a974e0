"""How far a point is from the fixed point near it, and what the objective has to gain."""

import math
from typing import NamedTuple

from skgmmot.numerics.fixed_point import Point
from skgmmot.numerics.linalg import norm
from skgmmot.numerics.newton.linearisation import Linearisation
from skgmmot.numerics.newton.polish import Advance, Linearise, Polished, polish

#: The fixed point is near enough when no more than this share of the way there is left.
SHARE_LEFT = 0.01
#: Shorter ways are not resolved: they are rounding.
SHORTEST = 1e-10
#: What is left may be so many times longer than Newton's step: three times, at a fixed point where
#: the derivative is singular and the residual grows like the cube of the distance.
CAUTION = 3.0
#: What was measured may be so many times smaller than the truth: the way may turn.
DOUBT = 2.0
#: Iterations with which saddles are left, at first; twice as many each time.
N_STEPS = 10
#: A residual that is rounding.
STILL = 1e-13
#: Directions in which a step of ``F`` goes less than this share of the way count as flat.
FLAT = 1e-8


class Certificate(NamedTuple):
    """How far a point is from a fixed point."""

    distance: float
    """The distance, in coordinates of the linearisation at the point; that along flat directions,
    in which nothing determines a fixed point, does not count."""
    gain: float
    """By how much the objective differs there."""
    n_passes: int
    """Number, roughly, of evaluations of ``F``, of matrices of its derivative, and of products."""


def certify(
    linearise: Linearise, theta: Point, objective: float, *, advance: Advance, max_passes: int
) -> Certificate:
    """Measure how far a point is from its fixed point, by going most of the way there.

    Parameters
    ----------
    linearise : callable
        As in `polish`.
    theta : tuple of Tensor
        The point.
    objective : float
        The value that the objective at the fixed point is compared with; if it is not finite, that
        at the point is.
    advance : callable
        As in `polish`.
    max_passes : int
        Largest number, roughly, of evaluations of ``F``, matrices and products.

    Returns
    -------
    Certificate
        The distance and the gain: twice what `polish` finds until a hundredth of the way is left,
        and three times what Newton's step there says of the rest.
    """
    start = linearise(theta)
    objective = objective if math.isfinite(objective) else start.objective
    found, n_passes = nearest(linearise, start, advance=advance, max_passes=max_passes)
    there = linearise(found.theta)
    left, to_gain = remaining(there, found)
    distance = DOUBT * norm(start.change_to(found.theta)) + left
    gain = DOUBT * abs(there.objective - objective) + to_gain
    return Certificate(distance, gain, n_passes)


def nearest(
    linearise: Linearise, start: Linearisation, *, advance: Advance, max_passes: int
) -> tuple[Polished, int]:
    """Go most of the way to the fixed point near a point.

    Parameters
    ----------
    linearise : callable
        As in `polish`.
    start : Linearisation
        The map at the point.
    advance : callable
        As in `polish`.
    max_passes : int
        Largest number, roughly, of evaluations of ``F``, matrices and products.

    Returns
    -------
    Polished
        A point from which a hundredth of the way is left.
    int
        What was spent.
    """

    def near(here):
        return max(SHORTEST, SHARE_LEFT * norm(start.change_to(here.theta)))

    options = {"advance": advance, "tol": near}
    found = polish(linearise, start.theta, max_passes=max_passes, **options)
    n_passes, n_steps = found.n_passes, N_STEPS
    # at a saddle, Newton's step leads to a point that iterations leave
    while not (found.contracts or found.residual <= STILL or n_passes + n_steps >= max_passes):
        ahead = advance(found.theta, n_steps)
        n_passes, n_steps = n_passes + n_steps, 2 * n_steps
        found = polish(linearise, ahead, max_passes=max_passes - n_passes, **options)
        n_passes += found.n_passes
    return found, n_passes


def remaining(
    here: Linearisation, found: Polished, caution: float = CAUTION
) -> tuple[float, float]:
    """Return how far from the fixed point a polished one may be, and what may be left to gain.

    Parameters
    ----------
    here : Linearisation
        The map at the polished point.
    found : Polished
        What Newton's step there says.
    caution : float, default=3
        How many times longer than this step the way may be. The objective is quadratic in it,
        beside the share that the map is not its gradient.

    Returns
    -------
    tuple of float
        The distance and the gain, no more than the residual allows in directions that are not flat.
    """
    longest = found.residual / FLAT
    distance = caution * min(found.distance, longest)
    gain = min(abs(found.gain), found.residual * longest / 2)
    gain = gain * max(caution, (caution / CAUTION) ** 2)
    return distance, gain + norm(here.against.detach()) * distance
