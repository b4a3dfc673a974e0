"""Fixed points made exact, by Newton's method where iterations crawl.

Nothing here knows of Gaussians.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from skgmmot.numerics.adjoint import Linearisation
from skgmmot.numerics.fixed_point import Point
from skgmmot.numerics.linalg import norm

#: Newton's step is trusted up to this length, where one is the spread of a component.
NEWTON_RADIUS = 0.5


class Polished(NamedTuple):
    """A fixed point found to a tolerance."""

    theta: Point
    """The point."""
    residual: float
    """``|F(theta) - theta|``."""
    distance: float
    """Estimate of the distance to the fixed point."""
    n_passes: int
    """Evaluations of ``F`` and of products."""


def polish(
    linearise: Callable[[Point], Linearisation],
    theta: Point,
    *,
    advance: Callable[[Point, int], Point],
    tol: float,
    max_passes: int,
) -> Polished:
    """Find the fixed point near ``theta`` by Newton's method, and by ``F`` where that is no use.

    Newton's step solves ``(I - dF/dtheta) delta = F(theta) - theta``. In coordinates in which the
    derivative is symmetric near the fixed point, the products of `implicit` serve here too, and
    their Ritz values tell whether ``F`` contracts: a fixed point that repels, such as a saddle of
    the objective, is left to ``F`` itself.

    Parameters
    ----------
    linearise : callable
        ``linearise(theta)`` is a `Linearisation` in coordinates in which the derivative is
        symmetric near the fixed point.
    theta : tuple of Tensor
        Where to start.
    advance : callable
        ``advance(theta, n)`` is the point after ``n`` iterations of ``F``.
    tol : float
        Bound on the distance to the fixed point.
    max_passes : int
        Where to give up: about so many evaluations of ``F`` and products.

    Returns
    -------
    Polished
        The point and what is known of it.
    """
    here, step, n_passes, n_steps = linearise(theta), None, 1, 4
    while True:
        step = _NewtonStep(here) if step is None else step
        n_passes += step.n_passes
        if step.length <= tol or n_passes >= max_passes:
            return Polished(here.theta, step.size, step.length, n_passes)
        ahead = _at(linearise, here.retracted(step.delta)) if step.trusted else None
        if ahead is not None:
            size = norm(ahead.residual)
            expected = step.length * size / step.size
            if expected <= tol:
                return Polished(ahead.theta, size, expected, n_passes + 1)
            following = _NewtonStep(ahead, enough=tol / expected)
            n_passes += 1
            if following.length < step.length / 2 and following.trusted:
                here, step = ahead, following
                continue
            n_passes += following.n_passes
        n_steps = min(n_steps, max_passes - n_passes)
        ahead = _at(lambda theta, n=n_steps: linearise(advance(theta, n)), here.theta)
        if ahead is None:  # the iterations themselves lead nowhere
            return Polished(here.theta, step.size, math.inf, n_passes)
        here, step = ahead, None
        n_passes += n_steps + 1
        n_steps *= 2


def _at(linearise, theta: Point) -> Linearisation | None:
    """The linearisation at a point, or None outside the domain of the map."""
    try:
        return linearise(theta)
    except ValueError:
        return None


class _NewtonStep:
    """The solution of ``(I - dF/dtheta) delta = F(theta) - theta``.

    Solved roughly far from the fixed point, where its equation is rough, and not further than to
    ``enough``, the share of the distance that may remain.
    """

    def __init__(self, linear: Linearisation, enough: float = 0.0):
        self.size = norm(linear.residual)
        self.delta, self.n_passes, self._products = linear.residual, 0, ()
        if self.size:
            tol = min(0.1, max(self.size, 0.3 * enough))
            self.delta, self._products = linear.solve(linear.residual, tol)
            self.n_passes = 1 if linear.small else len(self._products)
        self.length = norm(self.delta)

    @property
    def trusted(self) -> bool:
        """Whether it is short, and ``F`` contracts where it was seen."""
        if not self.length < NEWTON_RADIUS:
            return False
        return not self._products or float(self._products.ritz_values().real.min()) > 0
