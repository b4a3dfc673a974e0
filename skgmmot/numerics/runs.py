"""The best of several runs of a loop, and all that is needed to go on with them later."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from skgmmot.numerics.fixed_point import Point, Solution


class Log(Protocol):
    """What shows how runs get on."""

    def begin(self, run: int) -> None:
        """Show that a run begins, whose start is not drawn yet."""

    def step(self, solution: Solution) -> bool | None:
        """Show a step of a run; return whether the run stops there."""

    def end(self, solution: Solution) -> bool | None:
        """Show the end of a run; return whether it is the last one."""


@dataclass(frozen=True)
class Reached:
    """What runs have reached: with it they go on bit for bit as if they had never stopped.

    Parameters
    ----------
    run : int, default=0
        The present run; their number, when all have ended.
    start : object, default=None
        Where it began; None until that is drawn.
    loop : tuple, default=None
        The state of its loop; None before its first step.
    best : Solution, default=None
        The best end of the runs before; None in the first.
    best_start : object, default=None
        Where that run began.
    random : dict
        States of what random numbers come from, by name.
    results : dict
        What `Runs.once` has computed, by name.
    best_loop : tuple, default=None
        The state of the best run's loop, from which more steps go on; None where it converged or
        was stopped.
    """

    run: int = 0
    start: Any = None
    loop: Any = None
    best: Solution | None = None
    best_start: Any = None
    random: dict[str, Any] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    best_loop: Any = None


class Store(Protocol):
    """What keeps the state of runs."""

    reached: Reached | None
    """The state to go on from; None begins."""

    def keep(self, reached: Reached) -> None:
        """Keep a state; it never changes."""


class Runs:
    """The best solution among several runs, also while the first one is still running.

    Parameters
    ----------
    log : Log, default=None
        What shows them.
    lowest : bool, default=False
        Whether the best objective is the lowest one.
    store : Store, default=None
        What keeps their state, and has one to go on from; None keeps nothing.

    Attributes
    ----------
    start : object
        Where the best of the runs that have ended began; None before.
    stopped : bool
        Whether the log has stopped a run.
    """

    def __init__(self, log: Log | None = None, *, lowest: bool = False, store: Store | None = None):
        self.log, self.sign, self.store = log, -1 if lowest else 1, store
        self.reached = (store and store.reached) or Reached()
        self.start, self._best = self.reached.best_start, self.reached.best
        self._objectives, self._sources, self.stopped = [], {}, False

    @property
    def best(self) -> Solution | None:
        """The best so far, with all its objectives; None where there is nothing yet."""
        if self._best is None or self.start is not None or self._best.objectives:
            return self._best
        return self._best._replace(objectives=tuple(self._objectives))

    @property
    def journal(self) -> "Runs | None":
        """Where a loop leaves its state, and finds one to go on from; None keeps nothing."""
        return None if self.store is None else self

    def draw_from(self, name: str, source):
        """Count on a source of random numbers, and bring it to where it was.

        Parameters
        ----------
        name : str
            Its name.
        source : RandomState or object with ``get_state`` and ``set_state``
            The source. numpy's global one is never set back: a new one then takes its place.

        Returns
        -------
        RandomState or object
            The source to draw from.
        """
        before = self.reached.random.get(name)
        if before is not None:
            if source is np.random.mtrand._rand:
                source = np.random.RandomState()
            source.set_state(before)
        self._sources[name] = source
        return source

    def once(self, name: str, compute: Callable[[], Any]) -> Any:
        """Return a result that is computed once, also where runs are stopped and go on.

        Parameters
        ----------
        name : str
            Its name.
        compute : callable
            Returns it.

        Returns
        -------
        object
            It.
        """
        if name not in self.reached.results:
            self._note(results=self.reached.results | {name: compute()})
        return self.reached.results[name]

    def redrawn(self, name: str, draw: Callable[[Any], Any], source: np.random.RandomState) -> Any:
        """Draw something that later runs need, too, and that is too large to keep.

        Parameters
        ----------
        name : str
            Its name.
        draw : callable
            ``draw(source)`` is it. For runs that go on it is drawn again, from a copy of the
            source as it was.
        source : RandomState
            Where it is drawn from.

        Returns
        -------
        object
            It.
        """
        before = self.reached.results.get(name)
        if before is not None:
            copy = np.random.RandomState()
            copy.set_state(before)
            return draw(copy)
        before = _state_of(source)
        drawn = draw(source)
        self._note(results=self.reached.results | {name: before})
        return drawn

    def starts(self, n_runs: int, draw: Callable[[int], Point]) -> Iterator[Point]:
        """Yield the start of each run that is left, drawn when the run before has ended.

        Parameters
        ----------
        n_runs : int
            Their number.
        draw : callable
            ``draw(run)`` is a start.

        Yields
        ------
        object
            The start of a run.
        """
        for run in range(self.reached.run, n_runs):
            if self.log is not None:
                self.log.begin(run)
            if self.reached.start is None:
                self._note(start=draw(run))
            yield self.reached.start

    def best_of(
        self,
        starts: Iterable[Point],
        run: Callable[[Point, Callable[[Solution], bool]], Solution],
    ) -> Solution:
        """Run from every start, and return the best end.

        Parameters
        ----------
        starts : iterable
            Where to start; the next is asked for when a run has ended. For runs that go on those
            of `starts`.
        run : callable
            ``run(start, callback) -> Solution``, a loop that calls ``callback(solution so far)``
            after each step, and once with all objectives where it goes on, and stops where that
            returns True.

        Returns
        -------
        Solution
            The end of the best objective, the first of them if there are several.
        """
        for start in starts:
            if self._end(start, run(start, self.reach)):
                break
        return self.best

    def reach(self, solution: Solution) -> bool:
        """Note a step; return whether the run stops there."""
        stop = self.log is not None and bool(self.log.step(solution))
        self.stopped |= stop
        if self.start is None:
            if solution.objectives:
                self._objectives = list(solution.objectives)
            else:
                self._objectives.append(solution.objective)
            self._best = solution
        return stop

    # --- the journal of a loop -------------------------------------------------------------------

    @property
    def loop(self) -> Any:
        """Where the loop of the present run stands; None begins it."""
        return self.reached.loop

    def step(self, loop: Any) -> None:
        """Keep where the loop stands."""
        self._note(loop=loop)

    def _end(self, start: Point, solution: Solution) -> bool:
        """Note the end of a run; return whether it is the last one."""
        last = self.log is not None and bool(self.log.end(solution))
        best = {}
        if self.start is None or self.sign * solution.objective > self.sign * self._best.objective:
            self._best, self.start = solution, start
            loop = None if solution.converged or self.stopped else self.reached.loop
            best = {"best": solution, "best_start": start, "best_loop": loop}
        self._note(run=self.reached.run + 1, start=None, loop=None, **best)
        return last

    def _note(self, **changes) -> None:
        """Take over changes of what is reached, and keep it."""
        if self.store is not None:
            sources = self._sources.items()
            changes["random"] = {name: _state_of(source) for name, source in sources}
        self.reached = replace(self.reached, **changes)
        if self.store is not None:
            self.store.keep(self.reached)


def _state_of(source):
    """The state of a source of random numbers."""
    if isinstance(source, np.random.RandomState):
        return source.get_state(legacy=False)
    return source.get_state()
