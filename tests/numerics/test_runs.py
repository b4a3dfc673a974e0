"""The best of several runs."""

import math

import numpy as np
import pytest

from skgmmot.numerics.fixed_point import Solution
from skgmmot.numerics.runs import Reached, Runs


def ended(objective, n_iter=2):
    return Solution((), (), objective, tuple(range(n_iter)), n_iter, True, 0.0)


def run(start, callback):
    """Two steps, the last of them to the objective that the start is."""
    for n_iter, objective in enumerate((start - 1.0, start)):
        callback(ended(objective, n_iter + 1)._replace(objectives=()))
    return ended(start)


class Log:
    """Writes down what it is shown."""

    def __init__(self):
        self.seen = []

    def step(self, solution):
        self.seen.append(("step", solution.objective))

    def end(self, solution):
        self.seen.append(("end", solution.objective))


@pytest.mark.parametrize(
    ("starts", "lowest", "expected"),
    [
        ([1.0, 3.0, 2.0], False, 3.0),
        ([1.0, 3.0, 0.5], True, 0.5),
        ([-math.inf, 2.0], False, 2.0),
        ([2.0, math.nan], False, 2.0),
        ([2.0, math.nan], True, 2.0),
    ],
)
def test_the_best_run_is_kept_with_its_start(starts, lowest, expected):
    runs = Runs(lowest=lowest)
    assert runs.best_of(starts, run).objective == runs.best.objective == expected
    assert runs.start == expected


def test_the_first_of_equal_runs_is_kept():
    runs, ends = Runs(), iter([ended(1.0, 3), ended(1.0, 4)])
    assert runs.best_of([1, 2], lambda *_: next(ends)).n_iter == 3
    assert runs.start == 1


def test_the_first_run_shows_what_it_has_reached_and_later_ones_do_not():
    runs, seen = Runs(), []
    assert runs.best is None

    def watched(start, callback):
        def after(solution):
            callback(solution)
            seen.append(runs.best)

        return run(start, after)

    runs.best_of([3.0, 7.0], watched)
    assert [s.objective for s in seen] == [2.0, 3.0, 3.0, 3.0]
    assert [s.objectives for s in seen] == [(2.0,), (2.0, 3.0), (0, 1), (0, 1)]


def test_a_log_sees_every_step_and_every_end():
    log = Log()
    Runs(log).best_of([5.0, 1.0], run)
    assert log.seen == [
        *(("step", 4.0), ("step", 5.0), ("end", 5.0)),
        *(("step", 0.0), ("step", 1.0), ("end", 1.0)),
    ]


class Store:
    """Keeps states in memory."""

    def __init__(self, reached=None):
        self.reached, self.kept = reached, []

    def keep(self, reached):
        self.kept.append(reached)


def drawn_runs(store, seed=0, log=None):
    """Three runs from random starts, whose loops keep their steps, after a number drawn before."""
    rng = np.random.RandomState(seed)
    runs = Runs(log, store=store)
    rng = runs.draw_from("numbers", rng)
    offset = runs.once("offset", rng.uniform)
    offset += runs.redrawn("another", lambda source: source.uniform(size=3), rng)[2]

    def loop(start, callback):
        n_before = runs.loop or 0
        if n_before:
            callback(ended(start, n_before))
        for n_iter in range(n_before + 1, 4):
            callback(ended(start + offset, n_iter)._replace(objectives=()))
            if runs.journal is not None:
                runs.journal.step(n_iter)
        return ended(start + offset, 3)

    best = runs.best_of(runs.starts(3, lambda run: run + rng.uniform()), loop)
    return best, runs.start, rng.uniform()


def test_runs_go_on_from_any_state_with_the_same_numbers():
    whole = Store()
    expected = drawn_runs(whole)
    assert expected == drawn_runs(None)
    # of the numbers before, and of each run's start, three steps and end
    assert len(whole.kept) == 2 + 3 * 5
    for reached in whole.kept:
        assert drawn_runs(Store(reached), seed=1 if reached.random else 0) == expected


def test_runs_that_have_all_ended_are_not_run_again():
    whole, log = Store(), Log()
    best, start, _ = drawn_runs(whole)
    assert drawn_runs(Store(whole.kept[-1]), log=log)[:2] == (best, start)
    assert not log.seen


def test_a_log_sees_each_run_begin_before_its_start_is_drawn():
    log = Log()
    log.begin = lambda run: log.seen.append(("begin", run))
    for start in Runs(log).starts(2, lambda run: log.seen.append(("draw", run)) or 5.0):
        assert start == 5.0
    assert log.seen == [("begin", 0), ("draw", 0), ("begin", 1)]


def test_the_first_run_shows_what_it_had_reached_when_it_went_on():
    runs = Runs()
    runs.reach(ended(2.0, 2))
    runs.reach(ended(3.0, 3)._replace(objectives=()))
    assert runs.best.objectives == (0, 1, 3.0)


def test_the_global_generator_is_not_set_back():
    before = np.random.RandomState(3).get_state(legacy=False)
    runs = Runs(store=Store(Reached(random={"numbers": before})))
    source = runs.draw_from("numbers", np.random.mtrand._rand)
    assert source is not np.random.mtrand._rand
    assert source.uniform() == np.random.RandomState(3).uniform()
