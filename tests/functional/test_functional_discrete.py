"""Optimal transport between weight vectors."""

import numpy as np
import ot
import pytest
import scipy.optimize
import torch
from torch.testing import assert_close

from skgmmot.functional.discrete import exact

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
