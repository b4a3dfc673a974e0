"""Newton's method for fixed points, where plain iterations converge slowly."""

import math
from collections.abc import Callable
from typing import NamedTuple

from skgmmot.numerics.adjoint import Linearisation
from skgmmot.numerics.fixed_point import Point
from skgmmot.numerics.linalg import norm

#: Longest Newton step that is taken. Coordinates are scaled so that one is the standard deviation
#: of a component; within half of it the linearisation still describes the map.
NEWTON_RADIUS = 0.5


class Polished(NamedTuple):
    """A fixed point, and how accurate it is."""

    theta: Point
    """The point."""
    residual: float
    """``|F(theta) - theta|``."""
    distance: float
    """Estimate of the distance to the fixed point."""
    n_passes: int
    """Number of evaluations of ``F`` and of products with its derivative."""


def polish(
    linearise: Callable[[Point], Linearisation],
    theta: Point,
    *,
    advance: Callable[[Point, int], Point],
    tol: float,
    max_passes: int,
) -> Polished:
    r"""Find a fixed point of ``F`` by Newton steps, or by iterations of ``F`` where these fail.

    .. math:: \bigl(I - \partial F / \partial\theta\bigr)\, \delta = F(\theta) - \theta

    In coordinates in which the derivative is symmetric near the fixed point, its products with
    cotangents, those of implicit gradients, are products with changes of ``theta`` too. Their Ritz
    values show whether ``F`` contracts. Where it does not, as at a saddle of the objective, Newton
    steps would converge to a point that iterations of ``F`` leave, so ``F`` is iterated instead.

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
        Largest number, roughly, of evaluations of ``F`` and products.

    Returns
    -------
    Polished
        The point and its accuracy.
    """
    here, step, n_passes, n_steps = linearise(theta), None, 1, 4
    while True:
        step = _FixedPointNewtonStep(here) if step is None else step
        n_passes += step.n_passes
        if step.length <= tol or n_passes >= max_passes:
            return Polished(here.theta, step.size, step.length, n_passes)
        ahead = _at(linearise, here.retracted(step.delta)) if step.trusted else None
        if ahead is not None:
            size = norm(ahead.residual)
            expected = step.length * size / step.size
            if expected <= tol:
                return Polished(ahead.theta, size, expected, n_passes + 1)
            following = _FixedPointNewtonStep(ahead, share_left=tol / expected)
            n_passes += 1
            if following.length < step.length / 2 and following.trusted:
                here, step = ahead, following
                continue
            n_passes += following.n_passes
        n_steps = min(n_steps, max_passes - n_passes)
        ahead = _at(lambda theta, n=n_steps: linearise(advance(theta, n)), here.theta)
        if ahead is None:  # iterations of F leave its domain, too
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


class _FixedPointNewtonStep:
    """The solution ``delta`` of ``(I - dF/dtheta) delta = F(theta) - theta``.

    The tolerance of the linear solve is the residual's size, since the linearisation is no more
    accurate than that, but need not be below ``share_left``, the share of the step that may remain.
    """

    def __init__(self, linear: Linearisation, share_left: float = 0.0):
        self.size = norm(linear.residual)
        self.delta, self.n_passes, self._products = linear.residual, 0, ()
        if self.size:
            tol = min(0.1, max(self.size, 0.3 * share_left))
            self.delta, self._products = linear.solve(linear.residual, tol)
            self.n_passes = 1 if linear.small else len(self._products)
        self.length = norm(self.delta)

    @property
    def trusted(self) -> bool:
        """Whether the step is short and ``F`` contracts on the Krylov space of the solve."""
        if not self.length < NEWTON_RADIUS:
            return False
        return not self._products or float(self._products.ritz_values().real.min()) > 0
