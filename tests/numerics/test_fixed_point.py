"""The loop to a fixed point."""

import math

import pytest
import torch

from skgmmot.numerics.fixed_point import Squarem, iterate

F64 = torch.float64


def scalar(value):
    return torch.tensor([value], dtype=F64)


def halving(theta):
    """A step towards 2 whose objective is the point itself."""
    return ((theta[0] / 2 + 1),), float(theta[0])


def test_loop_stops_when_the_objective_changes_by_less_than_tol():
    solution = iterate(halving, (scalar(0.0),), tol=0.2, max_iter=50)
    # Objectives 0, 1, 1.5, 1.75, 1.875: the first change below 0.2 is the last one.
    assert solution.objectives == (0.0, 1.0, 1.5, 1.75, 1.875)
    assert (solution.n_iter, solution.converged) == (5, True)
    assert solution.change == pytest.approx(0.125)
    assert solution.objective == 1.875
    assert solution.previous[0].item() == 1.875
    assert solution.value[0].item() == 1.9375


@pytest.mark.parametrize(("tol", "n_iter"), [(0.125, 6), (0.126, 5), (0.0, 7)])
def test_tol_is_a_strict_bound(tol, n_iter):
    assert iterate(halving, (scalar(0.0),), tol=tol, max_iter=7).n_iter == n_iter


def test_tol_of_zero_never_stops_even_at_the_fixed_point():
    solution = iterate(halving, (scalar(2.0),), tol=0.0, max_iter=4)
    assert (solution.n_iter, solution.converged, solution.change) == (4, False, 0.0)


def test_loop_of_no_iterations_returns_the_start():
    theta0 = (scalar(3.0),)
    solution = iterate(halving, theta0, tol=1.0, max_iter=0)
    assert solution.value is theta0
    assert solution.previous is theta0
    assert (solution.n_iter, solution.converged, solution.objectives) == (0, False, ())
    assert solution.objective == -math.inf


def test_loop_compares_its_first_objective_with_the_given_one():
    solution = iterate(halving, (scalar(2.0),), tol=1e-3, max_iter=9, objective=2.0)
    assert (solution.n_iter, solution.converged) == (1, True)


def test_loop_calls_back_after_each_iteration():
    seen = []
    solution = iterate(halving, (scalar(0.0),), tol=0.2, max_iter=50, callback=seen.append)
    assert [s.n_iter for s in seen] == [1, 2, 3, 4, 5]
    assert [s.objective for s in seen] == list(solution.objectives)
    assert seen[-1].value is solution.value


def test_an_objective_that_is_not_a_number_is_not_convergence():
    solution = iterate(lambda theta: (theta, math.nan), (scalar(0.0),), tol=1.0, max_iter=3)
    assert (solution.n_iter, solution.converged) == (3, False)


@pytest.mark.parametrize(("radius", "expected"), [(math.inf, 0.36), (0.25, 0.56)])
def test_an_extrapolation_is_cut_to_the_radius(radius, expected):
    squarem = Squarem(lambda theta: theta[0], lambda x: (x,), radius=radius)
    assert squarem.propose((scalar(1.0),), (scalar(0.9),), False) is None
    # r = -0.1 and v = 0.01: with a = 4 the jump is from 0.81 to 1 + 2 a r + a^2 v = 0.36
    (proposal,) = squarem.propose((scalar(0.9),), (scalar(0.81),), False)
    assert proposal.item() == pytest.approx(expected)


@pytest.mark.parametrize("last", [math.inf, math.nan])
def test_nothing_is_extrapolated_from_points_out_of_range(last):
    squarem = Squarem(lambda theta: theta[0], lambda x: (x,))
    assert squarem.propose((scalar(1.0),), (scalar(0.9),), False) is None
    assert squarem.propose((scalar(0.9),), (scalar(last),), False) is None


class Journal:
    """Keeps the states of a loop."""

    def __init__(self, loop=None):
        self.loop, self.states = loop, []

    def step(self, loop):
        self.states.append(loop)


def to_root_of_two(theta):
    """A slow step towards the root of 2, whose objective grows with nearness."""
    x = theta[0]
    return (x - 0.05 * (x * x - 2),), -(float(x * x - 2) ** 2)


@pytest.mark.parametrize("accelerated", [False, True])
def test_a_loop_goes_on_from_any_of_its_states_bit_for_bit(accelerated):
    def run(journal, callback=None):
        squarem = Squarem(lambda theta: theta[0], lambda x: (x,)) if accelerated else None
        options = {"tol": 1e-12, "max_iter": 60, "accelerator": squarem, "callback": callback}
        return iterate(to_root_of_two, (scalar(3.0),), journal=journal, **options)

    whole = Journal()
    expected = run(whole)
    assert expected == run(None)
    assert len(whole.states) > 5
    for state in whole.states:
        seen = []
        assert run(Journal(state), seen.append) == expected
        assert seen[0] == state.solution  # what there was before is shown once, with all objectives
        assert seen[-1].n_iter == expected.n_iter
