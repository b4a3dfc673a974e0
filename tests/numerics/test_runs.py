"""The best of several runs."""

import math

import pytest

from skgmmot.numerics.fixed_point import Solution
from skgmmot.numerics.runs import Runs


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
