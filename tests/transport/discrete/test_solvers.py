"""Solvers of optimal transport between weight vectors: exact, entropic, unbalanced, few costs."""

import math

import numpy as np
import ot
import pytest
import scipy.optimize
import torch
from torch.testing import assert_close

from skgmmot.transport.discrete.solvers import entropic, exact, solve, solve_bounded

F64 = torch.float64


def problem(K, L, seed=0):
    """Weights and costs whose optimum is unique, and its potentials too."""
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.rand(n, dtype=F64, generator=generator) + 0.1 for n in (K, L))
    return a / a.sum(), b / b.sum(), torch.rand(K, L, dtype=F64, generator=generator)


def test_plan_of_one_source_is_the_target():
    b, C = torch.tensor([0.2, 0.8], dtype=F64), torch.tensor([[3.0, 1.0]], dtype=F64)
    plan = exact(torch.ones(1, dtype=F64), b, C)
    assert_close(plan.coupling, b.unsqueeze(0))
    assert plan.cost.item() == pytest.approx(1.4)


def test_plan_on_the_line_is_increasing():
    a, b = torch.tensor([0.5, 0.3, 0.2], dtype=F64), torch.tensor([0.4, 0.6], dtype=F64)
    x, y = torch.tensor([0.0, 1.0, 2.0], dtype=F64), torch.tensor([0.0, 3.0], dtype=F64)
    plan = exact(a, b, (x.unsqueeze(1) - y).square())
    expected = torch.tensor([[0.4, 0.1], [0.0, 0.3], [0.0, 0.2]], dtype=F64)
    assert_close(plan.coupling, expected)
    assert plan.cost.item() == pytest.approx(0.9 + 1.2 + 0.2)


@pytest.mark.parametrize(("K", "L"), [(3, 3), (4, 7), (20, 15)])
def test_cost_is_that_of_pot_and_of_linear_programming(K, L):
    a, b, C = problem(K, L)
    cost = exact(a, b, C).cost.item()
    assert cost == pytest.approx(ot.emd2(a.numpy(), b.numpy(), C.numpy()))
    marginals = np.vstack([np.kron(np.eye(K), np.ones(L)), np.kron(np.ones(K), np.eye(L))])
    programme = scipy.optimize.linprog(
        C.numpy().ravel(), A_eq=marginals, b_eq=np.concatenate([a, b])
    )
    assert cost == pytest.approx(programme.fun)


@pytest.mark.parametrize(("K", "L"), [(3, 3), (4, 7), (20, 15)])
def test_plan_has_the_marginals_and_the_potentials_certify_it(K, L):
    a, b, C = problem(K, L)
    P, f, g, cost = exact(a, b, C)
    assert (P >= 0).all()
    assert_close(P.sum(1), a)
    assert_close(P.sum(0), b)
    assert f.mean().abs() < 1e-14
    assert g.mean().abs() < 1e-14
    # Centring takes a constant away; the slackness on the plan's support gives it back.
    slack = C - f.unsqueeze(1) - g
    constant = slack[P > 0].mean()
    assert_close(slack[P > 0], constant.expand((P > 0).sum()))
    assert (slack - constant >= -1e-12).all()
    assert_close(f @ a + g @ b + constant, cost)


def test_gradient_in_the_costs_is_the_plan():
    a, b, C = problem(4, 3)
    C.requires_grad_()
    plan = exact(a, b, C)
    (gradient,) = torch.autograd.grad(plan.cost, C)
    assert_close(gradient, plan.coupling)
    assert not plan.coupling.requires_grad
    assert torch.autograd.gradcheck(lambda C: exact(a, b, C).cost, C)


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("seed", range(4))
def test_gradient_in_the_weights_is_right_along_the_tangent_of_the_simplex(side, seed):
    *weights, C = problem(4, 5, seed=seed)
    weights[side].requires_grad_()
    (gradient,) = torch.autograd.grad(exact(*weights, C).cost, weights[side])
    step = 1e-6

    def moved(i, by):
        moving = [w.detach().clone() for w in weights]
        moving[side][i] += by
        moving[side][0] -= by
        return exact(*moving, C).cost

    for i in range(1, len(gradient)):
        difference = (moved(i, step) - moved(i, -step)) / (2 * step)
        assert_close(gradient[i] - gradient[0], difference, rtol=1e-6, atol=1e-8)


def test_plan_follows_permutations():
    a, b, C = problem(4, 5)
    plan = exact(a, b, C)
    i, j = torch.tensor([2, 0, 3, 1]), torch.tensor([4, 2, 0, 1, 3])
    permuted = exact(a[i], b[j], C[i][:, j])
    assert_close(permuted.coupling, plan.coupling[i][:, j])
    assert_close(permuted.source_potential, plan.source_potential[i])
    assert_close(permuted.target_potential, plan.target_potential[j])


def test_plan_is_transposed_with_its_problem():
    a, b, C = problem(4, 5)
    plan, transposed = exact(a, b, C), exact(b, a, C.mT)
    assert_close(transposed.coupling, plan.coupling.mT)
    assert_close(transposed.cost, plan.cost)


def test_costs_of_rows_and_columns_move_the_potentials_only():
    a, b, C = problem(4, 5)
    u, v = torch.arange(4, dtype=F64), torch.arange(5, dtype=F64)
    plan, moved = exact(a, b, C), exact(a, b, C + u.unsqueeze(1) + v)
    assert_close(moved.coupling, plan.coupling)
    assert_close(moved.cost, plan.cost + u @ a + v @ b)
    assert_close(moved.source_potential, plan.source_potential + u - u.mean())


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_plan_does_not_depend_on_the_unit_of_the_costs(scale):
    a, b, C = problem(5, 5)
    plan, scaled = exact(a, b, C), exact(a, b, scale * C)
    assert_close(scaled.coupling, plan.coupling)
    assert_close(scaled.cost, scale * plan.cost, rtol=1e-9, atol=0)


def test_target_weights_are_rescaled_to_the_total_of_the_source():
    a, b, C = problem(3, 4)
    assert_close(exact(a, 7 * b, C).coupling, exact(a, b, C).coupling)


def test_weights_of_zero_receive_nothing_and_have_feasible_potentials():
    a = torch.tensor([0.5, 0.0, 0.5], dtype=F64)
    b = torch.tensor([0.3, 0.7, 0.0], dtype=F64)
    *_, C = problem(3, 3)
    P, f, g, _ = exact(a, b, C)
    assert P[1].sum() == P[:, 2].sum() == 0
    slack = C - f.unsqueeze(1) - g
    assert (slack >= slack[P > 0].mean() - 1e-12).all()


def test_equal_costs_and_equal_weights_have_finite_gradients():
    a = torch.full((3,), 1 / 3, dtype=F64, requires_grad=True)
    C = torch.ones(3, 3, dtype=F64, requires_grad=True)
    cost = exact(a, a.detach(), C).cost
    cost.backward()
    assert cost.item() == pytest.approx(1.0)
    assert_close(a.grad, torch.zeros(3, dtype=F64))
    assert C.grad.sum().item() == pytest.approx(1.0)


def test_plan_has_the_dtype_of_the_costs():
    a, b, C = problem(3, 4)
    plan = exact(a.float(), b.float(), C.float())
    assert {t.dtype for t in plan} == {torch.float32}
    assert_close(plan.cost.double(), exact(a, b, C).cost, rtol=1e-6, atol=0)


def test_a_problem_without_solution_says_so():
    a, b, C = torch.tensor([-1.0, 2.0]), torch.tensor([0.5, 0.5]), torch.ones(2, 2)
    with pytest.raises(RuntimeError, match="must end at an optimum, got 'Problem infeasible"):
        exact(a, b, C)


def test_costs_that_are_not_finite_are_refused():
    a = torch.ones(2, dtype=F64) / 2
    for bad in (torch.inf, torch.nan):
        C = torch.tensor([[0.0, bad], [1.0, 2.0]], dtype=F64)
        with pytest.raises(ValueError, match="weights and costs must be finite"):
            exact(a, a, C)


@pytest.mark.parametrize("reg", [0.0, 0.1, 1e303])
@pytest.mark.parametrize("reg_m", [None, 1e300])
def test_costs_are_right_until_their_sums_overflow_and_then_refused(reg, reg_m):
    a, C = torch.ones(2, dtype=F64) / 2, torch.tensor([[4.0, 9.0], [7.0, 1.0]], dtype=F64)
    unit, large = 2.0**1000, 2.0**1016
    plan = solve(a, a, C * large, reg=reg, reg_m=reg_m)
    again = solve(a, a, C * unit, reg=reg / 2**16, reg_m=reg_m and reg_m / 2**16)
    assert_close(plan.cost / 2**16, again.cost, rtol=1e-12, atol=0)
    assert 0 <= plan.error < 1e-10 * float(plan.cost)
    with pytest.raises(ValueError, match=r"costs must be at most 1e\+307, got 1.0e\+308"):
        solve(a, a, C * (1e308 / 9), reg=reg, reg_m=reg_m)


# --- rounding, and what is refused ---------------------------------------------------------------


def test_splitting_a_weight_changes_no_plan_by_rounding():
    # Weights whose last bits differ: the bit is not worth moving far.
    a = torch.tensor([0.1, 0.2, 0.7], dtype=F64)
    share = torch.tensor([0.3, 0.9, 0.1, 1.0, 0.7], dtype=F64)
    order = torch.tensor([0, 1, 1, 2, 0])
    x = torch.tensor([0.0, 1.0, 100.0], dtype=F64)
    C = (x.unsqueeze(1) - x[order]).square()
    for dtype, bound in ((F64, 0.0), (torch.float32, 0.0)):
        weights = a.to(dtype)
        plan = exact(weights, weights[order] * share.to(dtype), C)
        assert plan.cost.item() <= bound
        assert (plan.coupling > 0).sum() == 5


@pytest.mark.parametrize("dtypes", [(torch.float32, F64), (F64, torch.float32)])
def test_equal_weights_of_two_dtypes_are_equal(dtypes):
    a, b = (torch.tensor([0.1, 0.2, 0.7], dtype=dtype) for dtype in dtypes)
    x = 1e3 * torch.arange(3, dtype=F64)
    assert exact(a, b, (x.unsqueeze(1) - x).square()).cost == 0


@pytest.mark.parametrize(("K", "L"), [(1, 7), (99, 100), (400, 401), (700, 701)])
@pytest.mark.parametrize("uniform", [True, False])
def test_no_mass_of_weights_in_float32_is_lost(K, L, uniform):
    a, b, C = problem(K, L)
    if uniform:
        a, b = torch.full_like(a, 1 / K), torch.full_like(b, 1 / L)
    weights = a.float(), b.float()
    plan = exact(*weights, C)
    a, b = (w.double() for w in weights)
    assert_close(plan.coupling.sum(1), a, rtol=0, atol=1e-12)
    assert_close(plan.coupling.sum(0), b * (a.sum() / b.sum()), rtol=0, atol=1e-12)
    assert_close(plan.cost, a.sum() * exact(a / a.sum(), b / b.sum(), C).cost, rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"reg": -1.0}, ValueError, "reg must be finite and not negative, got -1.0"),
        ({"reg": math.nan}, ValueError, "reg must be finite and not negative, got nan"),
        ({"reg": math.inf}, ValueError, "reg must be finite and not negative, got inf"),
        ({"reg": "much"}, TypeError, "reg must be a number, got 'much'"),
        ({"reg_m": -1.0}, ValueError, "reg_m must be positive, got -1.0"),
        ({"reg_m": 0.0}, ValueError, "reg_m must be positive, got 0.0"),
        ({"reg_m": (1.0, math.nan)}, ValueError, "reg_m must be positive, got nan"),
        ({"reg_m": (1.0, 2.0, 3.0)}, ValueError, "one penalty or two, got 3"),
        ({"reg_m": True}, TypeError, "reg_m must be a number, got True"),
    ],
)
def test_penalties_that_are_none_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        solve(*problem(2, 2), **options)


def test_entropic_transport_wants_an_entropy():
    with pytest.raises(ValueError, match=r"reg must be finite and positive, got 0\.0"):
        entropic(*problem(2, 2), 0.0)


# --- costs on demand -----------------------------------------------------------------------------


def bounded(K, L, seed=0, looseness=0.3):
    """A problem, lower bounds of its costs, and a callable that tells costs and counts them."""
    a, b, C = problem(K, L, seed)
    slack = looseness * torch.rand(K, L, dtype=F64, generator=torch.Generator().manual_seed(seed))
    asked = []

    def costs(k, l):
        asked.append(torch.stack([k, l]))
        return C[k, l]

    return a, b, C, (C - slack).clamp(min=0), costs, asked


@pytest.mark.parametrize("reg_m", [None, 1.0, (math.inf, 0.1)])
@pytest.mark.parametrize("looseness", [0.0, 0.05, 1.0])
def test_costs_on_demand_lead_to_the_same_plan(reg_m, looseness):
    a, b, C, lower, costs, asked = bounded(12, 15, looseness=looseness)
    plan, expected = solve_bounded(a, b, lower, costs, reg_m=reg_m), solve(a, b, C, reg_m=reg_m)
    assert_close(plan.cost, expected.cost, rtol=1e-9, atol=0)
    assert_close(plan.coupling, expected.coupling, rtol=1e-6, atol=1e-9)
    pairs = torch.cat(asked, dim=1)
    assert pairs.shape[1] == pairs.unique(dim=1).shape[1]  # none twice
    if looseness < 1:
        assert pairs.shape[1] < C.numel() / 2


@pytest.mark.parametrize("reg_m", [None, 1.0])
def test_bounds_are_tightened_once_before_many_costs_are_computed(reg_m):
    a, b, C, lower, costs, asked = bounded(30, 30, looseness=5.0)
    calls = []

    def tighter():
        calls.append(sum(pairs.shape[1] for pairs in asked))
        return C - 0.01

    plan = solve_bounded(a, b, lower, costs, tighter=tighter, reg_m=reg_m)
    assert_close(plan.cost, solve(a, b, C, reg_m=reg_m).cost, rtol=1e-9, atol=0)
    assert len(calls) == 1
    assert calls[0] < C.numel() / 4
    assert sum(pairs.shape[1] for pairs in asked) < C.numel() / 2


def test_tight_bounds_are_not_tightened():
    a, b, _, lower, costs, _ = bounded(12, 15, looseness=0.05)
    solve_bounded(a, b, lower, costs, tighter=lambda: pytest.fail("not needed"))


def test_costs_on_demand_carry_gradients():
    a, b, C, lower, _, _ = bounded(6, 7)
    leaves = [t.clone().requires_grad_() for t in (a, b, C)]

    def tangent(k, l):
        return leaves[2][k, l] - C[k, l]

    plan = solve_bounded(*leaves[:2], lower, lambda k, l: C[k, l], tangent=tangent)
    found = torch.autograd.grad(plan.cost, leaves)
    expected = torch.autograd.grad(solve(*leaves).cost, leaves)
    assert_close(found[2], expected[2])
    assert_close(found[0], expected[0])  # potentials are unique here
    assert_close(found[1], expected[1])


def test_free_bounds_on_the_plan_ask_for_nothing_twice():
    a, _, _ = problem(5, 5)
    x = torch.arange(5, dtype=F64)
    calls = []

    def costs(k, l):
        calls.append(len(k))
        return (x[k] - x[l]).square()

    plan = solve_bounded(a, a, torch.zeros(5, 5, dtype=F64), costs)
    assert plan.cost.item() == 0
    assert sum(calls) <= 25
