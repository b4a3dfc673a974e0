"""Gradient strategies: how the end of a loop ``theta = F(theta)`` is differentiated.

A strategy is an object. It says what it needs (that the loop ends at a fixed point, that its steps
are plain ones), refuses what it cannot do, keeps what serves the next loop, and puts the end of the
loop on the autograd graph. Nothing here knows of Gaussians, and nothing else tests a strategy's
name.
"""

import functools
import math
from typing import Protocol

from torch import Tensor

from skgmmot.numerics.adjoint import Adjoint, LastStep, Solver, automatic, implicit, one_step
from skgmmot.numerics.fixed_point import Point, Solution, named
from skgmmot.numerics.krylov import SOLVERS
from skgmmot.numerics.newton.follow import Carried
from skgmmot.numerics.newton.gradient_error import GradientError
from skgmmot.numerics.newton.linearisation import Linearisation


class Step(Protocol):
    """One iteration as a differentiable map, with its derivative."""

    def __call__(self, theta: Point) -> Point:
        """``F(theta)``, on the graph of whatever ``F`` closes over."""

    def linearise(self, theta: Point) -> Linearisation:
        """The map and its derivative at a point."""


class Loop(Protocol):
    """What is known of a loop before it runs."""

    @property
    def acceleration(self) -> str | None:
        """What extrapolates the iterations, by its name."""


class Strategy:
    """One way to differentiate the end of a loop; the defaults are those of most strategies."""

    name: str
    """What a caller writes for it."""
    at_fixed_point = False
    """Whether it is right at a fixed point only, which the end is then brought to."""
    of_last_iteration = False
    """Whether it is the derivative of the last iteration alone."""
    follows_data = False
    """Whether the next loop, on data moved far along the result, should start where they went."""

    def check(self, loop: Loop) -> None:
        """Refuse a loop whose end cannot be differentiated like this, by a `ValueError`."""

    def keep(self, stale: float) -> Carried | None:
        """What serves one loop after another; None where nothing does. See `Carried`."""

    def attach(
        self,
        step: Step,
        theta0: Point,
        solution: Solution,
        *,
        tol: float = math.inf,
        solve: str | Solver = "auto",
        carried: Carried | None = None,
    ) -> Solution:
        """Put the end of a loop on the graph.

        Parameters
        ----------
        step : Step
            One iteration.
        theta0 : tuple of Tensor
            Where the loop started, perhaps on a graph.
        solution : Solution
            Its end, a constant.
        tol : float, default=inf
            Relative error of the gradient above which backward warns.
        solve : {'auto', 'gmres', 'neumann', 'dense'} or callable, default='auto'
            Solver of a linear system, where there is one.
        carried : Carried, default=None
            What `keep` gave, in the place of the solver.

        Returns
        -------
        Solution
            The same with its value on the graph, and what backward takes notes in.
        """
        raise NotImplementedError

    def ahead(
        self, theta: Point, notes: object, went: Tensor, weights: Tensor | None
    ) -> Point | None:
        """Predict the fixed point of data that moved after backward, from how far it moved.

        Parameters
        ----------
        theta : tuple of Tensor
            The last fixed point.
        notes : object
            What backward took notes in: `Solution.adjoint` of what `attach` gave.
        went : Tensor
            The change of the data.
        weights : Tensor or None
            Their weights.

        Returns
        -------
        tuple of Tensor or None
            The point; None where nothing is known of it.
        """


class Automatic(Strategy):
    """Gradients through all iterations; see `automatic`."""

    name = "automatic"

    def check(self, loop):
        """Refuse accelerated iterations: those that are run again are plain."""
        if loop.acceleration is not None:
            raise ValueError(
                "gradient must be 'implicit' or 'one_step' when EM is accelerated, got "
                f"{self.name!r}, which runs plain iterations. Set acceleration=None to have it."
            )

    def attach(self, step, theta0, solution, **_):
        """Run the iterations again, on the graph."""
        return solution._replace(value=automatic(step, theta0, solution))


class OneStep(Strategy):
    """Gradients through the last iteration; see `one_step`."""

    name = "one_step"
    of_last_iteration = True

    def attach(self, step, theta0, solution, **_):
        """Run the last iteration again, on the graph."""
        value = one_step(step, theta0, solution)
        if not solution.n_iter or not any(t.requires_grad for t in value):
            return solution._replace(value=value)
        notes = LastStep(_measure(step, solution.previous, solution.value))
        return solution._replace(value=notes.noted(value), adjoint=notes)


class Implicit(Strategy):
    """Gradients by the implicit function theorem; see `implicit`."""

    name = "implicit"
    at_fixed_point = True

    def keep(self, stale):
        """The inverse of ``I - dF/dtheta``."""
        return Carried(stale)

    def attach(self, step, theta0, solution, *, tol=math.inf, solve="auto", carried=None):
        """Differentiate the equation of the fixed point."""
        adjoint = Adjoint(tol, _measure(step, solution.value, solution.value))
        value = implicit(
            step,
            theta0,
            solution,
            solve=_solver(solve, tol / 5) if carried is None else carried.solve,
            tol=tol / 5,
            linearise=step.linearise,
            adjoint=adjoint,
        )
        return solution._replace(value=value, adjoint=adjoint)


def _measure(step, at, end):
    """What finds the error of a gradient, of a step that can be taken again on its own graph."""
    return GradientError(step, at, end) if hasattr(step, "on_leaves") else None


def _solver(solve: str | Solver, tol: float) -> Solver | None:
    """A solver by its name, or None for the one that suits the linearisation."""
    if not isinstance(solve, str):
        return solve
    return functools.partial(named("solve", solve, SOLVERS), tol=tol) if solve != "auto" else None


#: Derivatives by name.
GRADIENTS = {strategy.name: strategy for strategy in (Implicit(), Automatic(), OneStep())}
