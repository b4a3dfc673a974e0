"""Fixed points ``theta = F(theta)``: the one loop, and its acceleration.

Nothing here knows of Gaussians. A point ``theta`` is a tuple of tensors. A *step* maps
``theta`` to ``(F(theta), objective)``.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Point = tuple[Tensor, ...]

#: A proposal may lower the objective by this much, relatively: it is what rounding does.
ROUNDING = 1e-13


class Solution(NamedTuple):
    """Where a loop ended, and how."""

    value: Point
    """The last point."""
    previous: Point
    """The point before it: ``value = F(previous)``; the start if there was no step."""
    objective: float
    """The objective at `previous`, ``-inf`` before the first step."""
    objectives: tuple[float, ...]
    """The objective at every step, dropped proposals left out."""
    n_iter: int
    """Number of steps, dropped proposals included."""
    converged: bool
    """Whether the last change of the objective was below the tolerance."""
    change: float
    """The last change of the objective."""
    residual: float = math.nan
    """Size of the last change ``F(theta) - theta``, where somebody measured it."""
    distance: float = math.nan
    """Estimate of the distance of `value` to the fixed point, if the gradient is taken there."""
    adjoint: object = None
    """The `Adjoint` in which backward takes notes, if the gradient is implicit; the `Asked`, if it
    is natural."""


def iterate(
    step: Callable[[Point], tuple[Point, float]],
    theta0: Point,
    *,
    tol: float,
    max_iter: int,
    objective: float = -math.inf,
    accelerator: "Squarem | None" = None,
    callback: Callable[[Solution], None] | None = None,
) -> Solution:
    """Iterate ``theta = F(theta)`` until the objective changes by less than ``tol``.

    Parameters
    ----------
    step : callable
        ``theta -> (F(theta), objective at theta)``; ``F`` never lowers the objective.
    theta0 : tuple of Tensor
        Where to start.
    tol : float
        Bound on the absolute change of the objective by one plain step, strict: 0 never stops.
    max_iter : int
        Largest number of steps; 0 returns the start.
    objective : float, default=-inf
        Objective that the first change is measured against.
    accelerator : Squarem, default=None
        Proposes points further along the way. A proposal that lowers the objective is dropped,
        at the price of its step, and the plain iteration goes on; None proposes nothing.
    callback : callable, default=None
        Called with the `Solution` so far after each step that counts.

    Returns
    -------
    Solution
        Not having converged is data in it, not an error.
    """
    solution = Solution(theta0, theta0, objective, (), 0, False, math.inf)
    objectives: list[float] = []
    proposal = None
    for n_iter in range(1, max_iter + 1):
        point = solution.value if proposal is None else proposal
        try:
            theta, value = step(point)
        except ValueError:
            if proposal is None:
                raise
            value = -math.inf  # a proposal outside the domain of F
        if proposal is not None and not value >= solution.objective - ROUNDING * abs(value):
            accelerator.reject()
            proposal, solution = None, solution._replace(n_iter=n_iter)
            continue
        objectives.append(value)
        change = value - solution.objective
        converged = proposal is None and abs(change) < tol
        solution = Solution(theta, point, value, (), n_iter, converged, change)
        if callback is not None:
            callback(solution)
        if converged:
            break
        if accelerator is not None:
            proposal = accelerator.propose(point, theta, proposal is not None)
    return solution._replace(objectives=tuple(objectives))


class Squarem:
    """Squared extrapolation: two plain steps tell where the third may jump.

    From ``x0, x1 = F(x0), x2 = F(x1)`` in free coordinates, with ``r = x1 - x0`` and
    ``v = (x2 - x1) - r``, the proposal is ``x0 + 2 a r + a^2 v`` of length ``a = |r| / |v|``. A
    bound on ``a`` grows fourfold when it was reached and the proposal kept, and falls fourfold when
    one was dropped. The step after a proposal is the first plain step of the next.

    Parameters
    ----------
    to_free : callable
        ``theta -> Tensor (m,)``: coordinates in which every vector is a point.
    from_free : callable
        Its inverse.
    radius : float, default=inf
        Largest distance of a proposal from the last plain point, ``x2``; a longer jump is cut to
        it. Long jumps may lead to another fixed point than the iterations would.
    measure : callable, default=torch.linalg.vector_norm
        The length of a change of free coordinates, ``Tensor (m,) -> float``.

    References
    ----------
    .. [1] Varadhan and Roland 2008, scheme S3.
    """

    def __init__(
        self,
        to_free: Callable[[Point], Tensor],
        from_free: Callable[[Tensor], Point],
        *,
        radius: float = math.inf,
        measure: Callable[[Tensor], Tensor | float] = torch.linalg.vector_norm,
    ):
        self.to_free, self.from_free = to_free, from_free
        self.radius, self.measure = radius, measure
        self.visited: list[Tensor] = []
        self.length, self.longest = 0.0, 4.0

    def propose(self, point: Point, image: Point, was_proposed: bool) -> Point | None:
        """After the step from ``point`` to ``image``: a point to try next, or None."""
        if was_proposed:
            self.visited = []
            if self.length == self.longest:
                self.longest *= 4
        elif not self.visited:
            self.visited = [self.to_free(point)]
        self.visited.append(self.to_free(image))
        if len(self.visited) < 3:
            return None
        x0, x1, x2 = self.visited
        self.visited = []
        r, v = x1 - x0, x2 - 2 * x1 + x0
        a = float(torch.linalg.vector_norm(r) / torch.linalg.vector_norm(v))
        self.length = min(a, self.longest)
        if not self.length > 1:  # also where there was no change at all: 0 / 0
            return None
        proposal = x0 + 2 * self.length * r + self.length**2 * v
        return self.from_free(self._shortened(x2, proposal))

    def _shortened(self, last: Tensor, proposal: Tensor) -> Tensor:
        """The proposal, or the point towards it that is `radius` away from the last one."""
        if self.radius == math.inf:
            return proposal
        jump = proposal - last
        return last + jump / max(1.0, float(self.measure(jump)) / self.radius)

    def reject(self) -> None:
        """Note that the last proposal was dropped."""
        self.visited = []
        self.longest = max(2.0, self.length / 4)
