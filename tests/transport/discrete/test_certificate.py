"""Bounds of the errors of discrete plans: against plans whose errors are known."""

import math

import numpy as np
import pytest
import torch

from skgmmot.transport.discrete.certificate import Certificate
from skgmmot.transport.discrete.solvers import entropic, exact, solve, solve_bounded, unbalanced

HALVES, COSTS = np.full(2, 0.5), np.array([[0.0, 3.0], [1.0, 0.0]])
EXACT = Certificate((HALVES, HALVES), COSTS, (math.inf, math.inf), 0.0, (np.zeros(2),) * 2)


def problem(K=5, L=4, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.rand(n, generator=generator).to(dtype) for n in (K, L))
    return a / a.sum(), b / b.sum(), torch.rand(K, L, generator=generator).to(dtype)


def test_the_gap_of_an_optimal_plan_is_zero():
    assert EXACT.of(np.diag(HALVES), 0.0) == (0.0, 0.0, 0.0)


def test_the_gap_of_another_plan_is_what_it_costs_too_much():
    independent = np.outer(HALVES, HALVES)
    errors = EXACT.of(independent, 1.0)
    assert errors.gap == 1.0 and errors.marginal_error == 0.0
    assert 1.0 <= errors.error < 1.0 + 1e-14


def test_infeasible_potentials_count_as_a_gap():
    raised = EXACT._replace(potentials=(np.array([0.0, 0.1]), np.zeros(2)))
    assert raised.of(np.diag(HALVES), 0.0).gap == pytest.approx(0.1)


def test_deviations_of_marginals_are_found_and_priced():
    P = np.diag([0.51, 0.49])
    errors = EXACT._replace(C=COSTS + 5.0, potentials=(np.full(2, 5.0), np.zeros(2))).of(P, 5.0)
    assert errors.gap == 0.0 and errors.marginal_error == pytest.approx(0.01)
    assert errors.error >= 0.01  # to move a hundredth from one component to the other


def test_only_prescribed_marginals_have_deviations():
    a, b, C = problem()
    assert unbalanced(a, 2 * b, C, 1.0).marginal_error == 0.0
    assert 0 <= unbalanced(a, 2 * b, C, (math.inf, 1.0)).marginal_error < 1e-15


@pytest.mark.parametrize("reg", [0.0, 0.1])
@pytest.mark.parametrize("reg_m", [None, 0.5, (math.inf, 2.0), (0.1, 3.0)])
def test_plans_are_certified_to_rounding(reg, reg_m):
    a, b, C = problem()
    plan = solve(a, b, C, reg=reg, reg_m=reg_m)
    # a penalised plan may move 1e-12 of the mass along a pair that it should not use
    assert 0 <= plan.gap <= plan.error < (1e-12 if reg_m else 1e-14)


@pytest.mark.parametrize("total", [1e-3, 7.0])
def test_weights_of_any_total(total):
    a, b, C = problem()
    for plan in (exact(total * a, 3 * b, C), entropic(total * a, 3 * b, C, 0.2)):
        assert plan.marginal_error < 1e-12 and plan.error < 1e-12 * total


def test_weights_of_zero_cost_nothing():
    a, b, C = problem()
    a[1] = b[0] = 0.0
    for plan in (exact(a, b, C), entropic(a, b, C, 0.2), unbalanced(a, b, C, 1.0)):
        assert plan.error < 1e-14


def test_mass_that_is_not_moved_at_all():
    far = unbalanced(torch.ones(1), torch.ones(1), torch.tensor([[1e9]]).double(), 1.0)
    assert far.gap <= far.error < 1e-12


def test_in_float32_the_cost_is_rounded():
    plan = exact(*problem(dtype=torch.float32))
    other = exact(*(t.double() for t in problem(dtype=torch.float32)))
    assert abs(float(plan.cost) - float(other.cost)) <= plan.error < 1e-6


def test_costs_that_no_plan_uses_need_only_be_bounded():
    a, b, C = problem(12, 12)
    plan = solve_bounded(a, b, 0.5 * C, lambda k, l: C[k, l])
    assert plan.gap <= plan.error < 1e-14
    assert abs(float(plan.cost - exact(a, b, C).cost)) <= plan.error


def test_weights_of_zero_with_hardly_any_entropy_have_a_finite_error():
    a, b = torch.ones(1, dtype=torch.float64), torch.tensor([1.0, 0.0], dtype=torch.float64)
    plan = solve(a, b, torch.tensor([[4.0e15, 4.1e15]], dtype=torch.float64), reg=1e-300, reg_m=1.0)
    assert float(plan.cost) == pytest.approx(2.0) and plan.error < 1e-12


@pytest.mark.parametrize("shift", [1e-12, 1e-9, 1e-8, 1.1e-8, 1e-5, 0.5])
def test_gaps_of_small_and_large_changes_have_all_digits(shift):
    # KL(q (1 + s) | q) = q ((1 + s) log(1 + s) - s), here by its series
    exact_gap = math.fsum((-1) ** n * shift**n / (n * (n - 1)) for n in range(2, 60))
    changed = np.float64(1.0) + shift
    one = Certificate(
        (np.ones(1), np.ones(1)), np.zeros((1, 1)), (1.0, 1.0), 1.0, (np.zeros(1),) * 2
    )
    rounding = abs((changed - 1) / shift - 1)
    gap = one._gap(np.full((1, 1), changed), (np.ones(1), np.ones(1)))
    assert gap == pytest.approx(exact_gap, rel=3 * rounding + 1e-14)


def test_a_gap_that_is_enough_is_not_made_smaller():
    # potentials that are a little below the costs of the pairs that the plan uses
    a, b, C = problem()
    plan = unbalanced(a, b, C, 1.0)
    f, g = (t.numpy() for t in (plan.solved.f, plan.solved.g))
    low = Certificate((a.numpy(), b.numpy()), C.numpy(), (1.0, 1.0), 0.0, (f - 1e-3, g))
    P = plan.coupling.numpy()
    assert 1e-7 < low.gap(P, enough=1.0) == low._gap(P, (P.sum(1), P.sum(0)))
    assert low.gap(P) < 1e-13


def test_gaps_of_many_rows_are_sums_over_blocks(monkeypatch):
    a, b, C = problem(40, 7)
    plan = entropic(a, b, C, 0.2)
    potentials = tuple(t.numpy() + 0.01 for t in (plan.solved.f, plan.solved.g))
    known = Certificate((a.numpy(), b.numpy()), C.numpy(), (1.0, 1.0), 0.2, potentials)
    whole = known.of(plan.coupling.numpy(), 1.0)
    monkeypatch.setattr("skgmmot.transport.discrete.certificate.BLOCK_SIZE", 15)
    assert known.of(plan.coupling.numpy(), 1.0) == pytest.approx(whole, rel=1e-12)
