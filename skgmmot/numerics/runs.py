"""The best of several runs of a loop."""

from collections.abc import Callable, Iterable
from typing import Protocol

from skgmmot.numerics.fixed_point import Point, Solution


class Log(Protocol):
    """What shows how runs get on."""

    def step(self, solution: Solution) -> None:
        """Show a step of a run."""

    def end(self, solution: Solution) -> None:
        """Show the end of a run."""


class Runs:
    """The best solution among several runs, also while the first one is still running.

    Parameters
    ----------
    log : Log, default=None
        What shows them.
    lowest : bool, default=False
        Whether the best objective is the lowest one.

    Attributes
    ----------
    start : object
        Where the best of the runs that have ended began; None before.
    """

    def __init__(self, log: Log | None = None, *, lowest: bool = False):
        self.log, self.sign, self.start = log, -1 if lowest else 1, None
        self._best, self._objectives = None, []

    @property
    def best(self) -> Solution | None:
        """The best so far, with all its objectives; None where there is nothing yet."""
        if self._best is None or self.start is not None or self._best.objectives:
            return self._best
        return self._best._replace(objectives=tuple(self._objectives))

    def best_of(
        self,
        starts: Iterable[Point],
        run: Callable[[Point, Callable[[Solution], None]], Solution],
    ) -> Solution:
        """Run from every start, and return the best end.

        Parameters
        ----------
        starts : iterable
            Where to start; the next is asked for when a run has ended.
        run : callable
            ``run(start, callback) -> Solution``, a loop that calls ``callback(solution so far)``
            after each step.

        Returns
        -------
        Solution
            The end of the best objective, the first of them if there are several.
        """
        for start in starts:
            self._end(start, run(start, self.reach))
        return self.best

    def reach(self, solution: Solution) -> None:
        """Note a step."""
        if self.log is not None:
            self.log.step(solution)
        if self.start is None:
            self._objectives.append(solution.objective)
            self._best = solution

    def _end(self, start: Point, solution: Solution) -> None:
        if self.log is not None:
            self.log.end(solution)
        if self.start is None or self.sign * solution.objective > self.sign * self._best.objective:
            self._best, self.start = solution, start
