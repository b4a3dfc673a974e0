"""Fixed point iterations ``theta = F(theta)``, and their acceleration by SQUAREM.

A point ``theta`` is a sequence of tensors and a pytree of torch: a tuple, a named tuple or a
registered class. A *step* maps ``theta`` to ``(F(theta), objective)``.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

Point = Sequence[Tensor]

#: Relative decrease of the objective that a proposal may cause: the size of rounding errors.
ROUNDING = 1e-13


class Solution(NamedTuple):
    """The result of an iteration: its last point, objectives, and whether it converged."""

    value: Any  # a sequence of tensors, as a mixture is
    """The last point."""
    previous: Any
    """The point before it: ``value = F(previous)``; the start if there was no step."""
    objective: float
    """The objective at `previous`, ``-inf`` before the first step."""
    objectives: tuple[float, ...]
    """The objective at every step, without rejected proposals."""
    n_iter: int
    """Number of steps, those of rejected proposals included."""
    converged: bool
    """Whether the last change of the objective was below the tolerance."""
    change: float
    """The last change of the objective."""
    residual: float = math.nan
    """Size of the last change ``F(theta) - theta``; NaN if it was not measured."""
    distance: float = math.nan
    """Possible distance of `value` from the fixed point; NaN if it was not measured."""
    gain: float = math.nan
    """By how much `objective` may differ from that at the fixed point; NaN likewise."""
    adjoint: Any = None
    """What backward takes notes in: the `Adjoint` of an implicit gradient, ``LastStep`` of that
    through one step, each with the gradient's ``error``; ``Asked`` of a natural one."""


class LoopState(NamedTuple):
    """All that `iterate` needs to go on after a step, bit for bit."""

    solution: Solution
    """The solution so far, with its objectives."""
    proposed: bool
    """Whether the last step was from an extrapolation."""
    accelerator: dict
    """The state of the accelerator before it was told of the last step; empty if there is none."""


class Journal(Protocol):
    """Where a loop leaves its state after each step, and finds one to go on from."""

    loop: tuple | None
    """The state to go on from; None begins."""

    def step(self, loop: tuple) -> None:
        """Keep a state, which is not changed afterwards."""


def iterate(
    step: Callable[[Point], tuple[Point, float]],
    theta0: Point,
    *,
    tol: float,
    max_iter: int,
    objective: float = -math.inf,
    accelerator: "Acceleration | None" = None,
    callback: Callable[[Solution], bool | None] | None = None,
    journal: Journal | None = None,
) -> Solution:
    """Iterate ``theta = F(theta)`` until the objective changes by less than ``tol``.

    Parameters
    ----------
    step : callable
        ``theta -> (F(theta), objective at theta)``; ``F`` never lowers the objective.
    theta0 : tuple of Tensor
        Where to start.
    tol : float
        The iteration stops when one plain step changes the objective by less than this, unless the
        accelerator has another rule; with 0 it never stops.
    max_iter : int
        Largest number of steps; 0 returns the start.
    objective : float, default=-inf
        Objective that the first change is measured against.
    accelerator : Acceleration, default=None
        Extrapolates from the last points. A proposal that lowers the objective, or is refused, is
        rejected, at the cost of its step, and the plain iteration goes on; None is the plain
        iteration.
    callback : callable, default=None
        Called with the `Solution` so far after each step that is not rejected, and once with all
        its objectives where the loop goes on from an earlier state. Where it returns True, the
        iteration stops.
    journal : Journal, default=None
        Where the ``LoopState`` after such a step is kept, and one to go on from is found; None
        keeps nothing.

    Returns
    -------
    Solution
        Its field ``converged`` tells whether it converged; not to converge is no error.
    """
    solution = Solution(theta0, theta0, objective, (), 0, False, math.inf)
    objectives: list[float] = []
    proposal = None
    if journal is not None and journal.loop is not None:
        solution, proposal = _found(journal.loop, accelerator)
        objectives = list(solution.objectives)
        stop = callback is not None and callback(solution)
        if stop or solution.converged:
            return solution
    for n_iter in range(solution.n_iter + 1, max_iter + 1):
        point = solution.value if proposal is None else proposal
        try:
            theta, value = step(point)
        except ValueError:
            if proposal is None:
                raise
            value = -math.inf  # a proposal outside the domain of F
        jumped = proposal is not None
        fall = solution.objective - value
        fell = jumped and not (fall <= 0 or accelerator.may_fall(fall, value))
        if fell or not (accelerator is None or accelerator.arrive(point, value, jumped)):
            accelerator.reject()
            proposal, solution = None, solution._replace(n_iter=n_iter)
            continue
        objectives.append(value)
        change = value - solution.objective
        converged = not jumped and abs(change) < tol
        if accelerator is not None:
            converged = accelerator.converged(converged, tol)
        solution = Solution(theta, point, value, (), n_iter, converged, change)
        stop = callback is not None and callback(solution)
        if journal is not None:
            so_far = solution._replace(objectives=tuple(objectives))
            state = {} if accelerator is None else accelerator.state()
            journal.step(LoopState(so_far, jumped, state))
        if stop or converged:
            break
        if accelerator is not None:
            proposal = accelerator.propose(point, theta, jumped)
    return solution._replace(objectives=tuple(objectives))


def _found(state: LoopState, accelerator: "Acceleration | None") -> tuple[Solution, Point | None]:
    """A solution to go on from, and what the accelerator proposes there."""
    solution = state.solution
    if accelerator is None or solution.converged:
        return solution, None
    accelerator.restore(state.accelerator)
    return solution, accelerator.propose(solution.previous, solution.value, state.proposed)


class Acceleration:
    """What extrapolates a fixed point iteration; `iterate` calls the methods in this order."""

    def arrive(self, point: Point, objective: float, was_proposed: bool) -> bool:
        """Note a step from a point; False refuses a point that was proposed."""
        return True

    def may_fall(self, fall: float, objective: float) -> bool:
        """Whether the objective may fall so far, after a proposal: by rounding errors."""
        return fall <= ROUNDING * abs(objective)

    def converged(self, settled: bool, tol: float) -> bool:
        """Whether the loop may end, given whether a plain step changed less than ``tol``."""
        return settled

    def propose(self, point: Point, image: Point, was_proposed: bool) -> Point | None:
        """Return where to go from the step from ``point`` to ``image``; None is on to ``image``."""
        raise NotImplementedError

    def reject(self) -> None:
        """Note that the last proposal was rejected."""
        raise NotImplementedError

    def state(self) -> dict:
        """All that `propose` depends on, for `restore`."""
        raise NotImplementedError

    def restore(self, state: dict) -> None:
        """Go on from what `state` returned."""
        raise NotImplementedError


class Squarem(Acceleration):
    r"""SQUAREM: squared extrapolation from two plain steps of a fixed point iteration.

    From :math:`x_0`, :math:`x_1 = F(x_0)` and :math:`x_2 = F(x_1)` in unconstrained coordinates,
    with :math:`r = x_1 - x_0` and :math:`v = (x_2 - x_1) - r`, the proposal is

    .. math:: x_0 + 2 a r + a^2 v, \qquad a = |r| / |v|.

    A bound on ``a`` grows fourfold when it was reached and the proposal accepted, and falls
    fourfold when one was rejected. The step after a proposal is the first plain step of the next
    extrapolation.

    Parameters
    ----------
    to_free : callable
        ``theta -> Tensor (m,)``: unconstrained coordinates.
    from_free : callable
        Its inverse.
    radius : float, default=inf
        Largest distance of a proposal from the last plain point, ``x2``; longer extrapolations are
        shortened to it, since they may lead to another fixed point than the iterations would.
    measure : callable, default=torch.linalg.vector_norm
        The length of a change of coordinates, ``Tensor (m,) -> float``.

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
        """Record the step from ``point`` to ``image``; return an extrapolation, or None."""
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
        if not self.length > 1:  # NaN without any change, 0 / 0, and where a point is not finite
            return None
        proposal = x0 + 2 * self.length * r + self.length**2 * v
        return self.from_free(self._shortened(x2, proposal))

    def _shortened(self, last: Tensor, proposal: Tensor) -> Tensor:
        """The proposal, moved towards the last point until their distance is at most `radius`."""
        if self.radius == math.inf:
            return proposal
        jump = proposal - last
        return last + jump / max(1.0, float(self.measure(jump)) / self.radius)

    def reject(self) -> None:
        """Record that the last proposal was rejected."""
        self.visited = []
        self.longest = max(2.0, self.length / 4)

    def state(self) -> dict:
        """What it has seen so far, for `restore`."""
        return {"visited": list(self.visited), "length": self.length, "longest": self.longest}

    def restore(self, state: dict) -> None:
        """Go on from what `state` returned."""
        self.visited = list(state["visited"])
        self.length, self.longest = state["length"], state["longest"]


def named(parameter: str, name: str, registry: dict):
    """Return the entry of a registry by its name, or raise an error that lists the names.

    Parameters
    ----------
    parameter : str
        The parameter's name, for the error.
    name : str
        The name.
    registry : dict
        What may be named.

    Returns
    -------
    object
        The entry.

    Raises
    ------
    ValueError
        If there is no such name.
    """
    if name not in registry:
        raise ValueError(
            f"{parameter} must be one of {sorted(registry)}, got {name!r}. Name one of them."
        )
    return registry[name]
