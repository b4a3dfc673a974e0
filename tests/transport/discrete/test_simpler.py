"""Penalised problems whose weights, costs and penalties differ by many orders of magnitude."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from skgmmot.transport.discrete.interior_point.problem import Penalised
from skgmmot.transport.discrete.simpler import extended, rounding_penalty, solve_by_simpler
from skgmmot.transport.discrete.solvers import solve, unbalanced

INF = math.inf


def tensors(*arrays):
    return [torch.tensor(array, dtype=torch.float64) for array in arrays]


@pytest.mark.parametrize("reg", [0.0, 0.01])
@pytest.mark.parametrize("reg_m", [(0.3, INF), (INF, 0.3), (0.3, 2.0), (1e-3, 1e3), (1e12, 0.5)])
def test_weights_of_1e_minus_250_change_nothing_but_their_own_rows(reg, reg_m):
    a, b, C = tensors([0.4, 0.6], [0.7, 0.3], [[0.2, 1.0], [0.9, 0.1]])
    more = tensors(
        [0.4, 1e-250, 0.6], [0.7, 0.3, 1e-220], [[0.2, 1.0, 0.4], [0.9, 0.5, 1.1], [0.9, 0.1, 0.7]]
    )
    plan, whole = solve(a, b, C, reg=reg, reg_m=reg_m), solve(*more, reg=reg, reg_m=reg_m)
    assert_close(whole.cost, plan.cost, rtol=1e-7, atol=0)
    assert_close(whole.coupling[::2, :2], plan.coupling, rtol=1e-6, atol=1e-9)
    assert whole.gap <= 1e-8 * float(whole.cost) and whole.marginal_error < 1e-12


def test_a_tiny_weight_takes_the_mass_where_its_marginal_is_nearly_free():
    a, b, C = tensors([1.0, 1e-220], [1.0], [[1.0], [0.0]])
    lam = 1e-4  # p log(p / a) for all mass at the tiny weight costs 507 lam
    plan = unbalanced(a, b, C, (lam, INF))
    assert_close(plan.coupling, *tensors([[0.0], [1.0]]), rtol=0, atol=1e-9)
    expected = lam * math.log(1e220)
    assert_close(float(plan.cost), expected, rtol=1e-8, atol=0)


def test_a_penalty_beyond_all_costs_prescribes_its_marginal():
    a, b, C = tensors([0.4, 0.6], [1.0, 2.0], [[0.2, 1.0], [0.9, 0.1]])
    exact = unbalanced(a, b, C, (INF, 0.5))
    for lam in (1e12, 1e17, 1e25, 1e100):
        plan = unbalanced(a, b, C, (lam, 0.5))
        assert_close(plan.cost, exact.cost, rtol=1e-10, atol=0)
        assert_close(plan.coupling, exact.coupling, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("reg_m", [None, (INF, 0.4), (0.4, 0.4)])
def test_an_entropy_below_the_rounding_of_the_costs_leaves_the_plan_without(reg_m):
    rng = np.random.default_rng(0)
    a, b, C = tensors(rng.dirichlet(np.ones(4)), rng.dirichlet(np.ones(5)), rng.random((4, 5)))
    without = solve(a, b, C, reg_m=reg_m)
    for reg in (1e-17, 1e-20, 1e-100):
        plan = solve(a, b, C, reg_m=reg_m, reg=reg)
        assert_close(plan.coupling, without.coupling, rtol=0, atol=1e-8)
        assert_close(plan.cost, without.cost, rtol=1e-8, atol=0)
        assert plan.gap <= 1e-8 * float(plan.cost)


def extremes(seed):
    """Weights down to 1e-300, costs over 20 orders, penalties over 40."""
    rng = np.random.default_rng(seed)
    K, L = rng.integers(1, 9, size=2)
    a, b = (10.0 ** rng.uniform(-300, 0, size=n) * rng.random(n) + 0.0 for n in (K, L))
    a, b = a / a.sum(), b / b.sum()
    C = rng.random((K, L)) * 10.0 ** rng.uniform(-20, 0, size=(K, L))
    lam = [float(C.max()) * 10.0 ** rng.uniform(-20, 20) for _ in range(3)]
    reg_m = [(lam[0], INF), (INF, lam[0]), tuple(lam[:2])][rng.integers(3)]
    return *tensors(a, b, C), reg_m, lam[2] * float(rng.random() < 0.5)


def test_plans_of_extreme_problems_are_certified():
    for seed in range(20):
        a, b, C, reg_m, reg = extremes(seed)
        plan = solve(a, b, C, reg_m=reg_m, reg=reg)
        assert all(torch.isfinite(part).all() for part in plan) and (plan.coupling >= 0).all()
        rounding = 1e-16 * float(C.max()) + 4e-30 * max(lam for lam in reg_m if lam < INF)
        assert plan.gap <= 1e-7 * abs(float(plan.cost)) + rounding * float(b.sum() + 1), seed
        assert plan.marginal_error <= 1e-12, seed


def test_no_solution_of_a_simpler_problem_is_taken_without_a_proof():
    a, b, C = tensors([0.5, 0.5], [0.5, 0.5], [[0.0, 1.0], [1.0, 0.0]])

    def wrong(problem):
        return torch.zeros(2), torch.zeros(2), torch.full((2, 2), 0.25), 0.0

    assert solve_by_simpler(Penalised(a, b, C.double(), 0.5, INF, 0.0), wrong) is None


def test_potentials_at_weights_left_out_are_feasible():
    a, b, C = tensors([1.0, 0.0, 0.5], [1.0, 0.5, 0.0], np.arange(9.0).reshape(3, 3))
    part = Penalised(a[a > 0], b[b > 0], C[a > 0][:, b > 0], 1.0, 1.0, 0.0)
    f, g = extended(torch.zeros(2).double(), torch.zeros(2).double(), C, a > 0, b > 0, part)
    assert (f[:, None] + g <= C + 1e-15).all() and f[1] == 3 and g[2] == 2


def test_the_penalty_of_rounding_is_that_of_the_larger_penalty():
    a, b, C = tensors([1.0], [1.0], [[1.0]])
    assert rounding_penalty(Penalised(a, b, C, INF, INF, 1.0)) == 0
    small = rounding_penalty(Penalised(a, b, C, 1e20, 1.0, 0.0))
    assert small == rounding_penalty(Penalised(a, b, C, INF, 1e20, 0.0)) and 1e-11 < small < 1e-8


def test_errors_are_finite_where_costs_over_the_entropy_overflow():
    a, b, C = tensors([0.4, 0.6], [0.5, 0.5], [[0.0, 1e15], [2e15, 0.0]])
    plan = solve(a, b, C, reg=1e-300)
    assert 0 <= plan.error <= 1e-9 * float(plan.cost) and plan.gap <= plan.error
