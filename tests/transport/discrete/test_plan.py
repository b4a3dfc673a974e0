"""Optimal transport between weight vectors."""

import math

import numpy as np
import ot
import pytest
import scipy.optimize
import torch
from torch.testing import assert_close

from skgmmot.transport.discrete import interior_point, penalised
from skgmmot.transport.discrete.interior_point import divergence
from skgmmot.transport.discrete.plan import entropic, exact, solve, solve_bounded, unbalanced

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


# --- entropic, unbalanced, semi-relaxed ----------------------------------------------------------

#: Keywords of `solve`: every kind of transport there is.
KINDS = {
    "exact": {},
    "entropic": {"reg": 0.2},
    "unbalanced": {"reg_m": 0.5},
    "two penalties": {"reg_m": (2.0, 0.1)},
    "source held": {"reg_m": (math.inf, 0.3)},
    "target held": {"reg_m": (0.3, math.inf)},
    "unbalanced entropic": {"reg": 0.1, "reg_m": (1.0, 0.3)},
    "source held, entropic": {"reg": 0.1, "reg_m": (math.inf, 0.3)},
}


@pytest.fixture(params=KINDS)
def kind(request):
    """Keywords of `solve`."""
    return KINDS[request.param]


def kl(p, q):
    return (torch.xlogy(p, p / q) - p + q).sum()


def objective(a, b, C, P, reg=0.0, reg_m=None):
    """What is minimised; a marginal that is held costs nothing."""
    lam = reg_m if isinstance(reg_m, tuple) else (reg_m or math.inf,) * 2
    value = (P * C).sum()
    value = value + (reg * kl(P, torch.outer(a, b)) if reg else 0)
    for penalty, marginal, weights in zip(lam, (P.sum(1), P.sum(0)), (a, b), strict=True):
        value = value + (0 if math.isinf(penalty) else penalty * kl(marginal, weights))
    return value


def dual(a, b, C, plan, reg=0.0, reg_m=None):
    """The dual value of a plan's potentials, and how far they are from feasible."""
    lam = reg_m if isinstance(reg_m, tuple) else (reg_m or math.inf,) * 2
    derivatives = plan.source_potential, plan.target_potential
    # of phi(f) + reg (1 - P @ 1 / a), which is phi(f) (1 + reg / lam)
    derivatives = [d / (1 + reg / penalty) for d, penalty in zip(derivatives, lam, strict=True)]
    f, g = (
        d if math.isinf(penalty) else -penalty * torch.log1p(-d / penalty)
        for d, penalty in zip(derivatives, lam, strict=True)
    )
    value = a @ derivatives[0] + b @ derivatives[1]
    if reg:
        coupling = torch.outer(a, b) * torch.exp((f.unsqueeze(1) + g - C) / reg)
        return value - reg * (coupling.sum() - a.sum() * b.sum()), 0.0
    return value, (f.unsqueeze(1) + g - C).max().clamp(min=0)


@pytest.mark.parametrize("reg", [0.0, 0.7])
@pytest.mark.parametrize(("lam0", "lam1"), [(1.0, 1.0), (3.0, 0.2), (1e-3, 50.0)])
def test_mass_between_two_points_is_where_price_and_penalties_balance(lam0, lam1, reg):
    # cost + lam0 log(P / a) + lam1 log(P / b) + reg log(P / (a b)) = 0
    a, b, C = (torch.tensor(v, dtype=F64) for v in ([1.0], [2.0], [[1.5]]))
    plan = unbalanced(a, b, C, (lam0, lam1), reg)
    mass = math.exp((lam1 * math.log(2) + reg * math.log(2) - 1.5) / (lam0 + lam1 + reg))
    assert plan.coupling.item() == pytest.approx(mass, rel=1e-9)
    expected = objective(a, b, C, torch.tensor([[mass]], dtype=F64), reg, (lam0, lam1))
    assert plan.cost.item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("side", [0, 1])
def test_a_free_marginal_takes_the_cheapest(side):
    # With the target's penalty going to zero, every source goes to its nearest target.
    a, b, C = problem(4, 5)
    reg_m = (math.inf, 1e-9) if side == 0 else (1e-9, math.inf)
    cost = solve(a, b, C, reg_m=reg_m).cost
    expected = a @ C.amin(1) if side == 0 else b @ C.amin(0)
    assert cost.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("reg_m", [0.5, (2.0, 0.1)])
def test_unbalanced_plan_is_the_limit_of_pot(reg_m):
    a, b, C = problem(4, 5)
    expected = ot.unbalanced.mm_unbalanced(
        *(t.numpy() for t in (a, b, C)), reg_m, div="kl", numItermax=20_000, stopThr=1e-14
    )
    plan = unbalanced(a, b, C, reg_m)
    assert_close(plan.coupling, torch.from_numpy(expected), rtol=0, atol=1e-5)
    theirs = objective(a, b, C, torch.from_numpy(expected), reg_m=reg_m)
    assert -1e-12 < theirs - plan.cost < 1e-9


def test_entropic_plans_are_those_of_pot(kind):
    kind = {"reg": 0.2} | kind
    a, b, C = problem(4, 5)
    expected = ot.solve(
        *(t.numpy() for t in (C, a, b)),
        reg=kind["reg"],
        reg_type="kl",
        unbalanced=kind.get("reg_m"),
        max_iter=50_000,
        tol=1e-14,
    )
    plan = solve(a, b, C, **kind)
    assert_close(plan.coupling, torch.from_numpy(expected.plan), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("K", "L"), [(1, 1), (3, 4), (20, 15)])
def test_potentials_prove_every_plan_optimal(K, L, kind):
    a, b, C = problem(K, L)
    plan = solve(a, b, C, **kind)
    if not kind.get("reg_m"):  # centred: the constant is missing
        shift = plan.cost - a @ plan.source_potential - b @ plan.target_potential
        plan = plan._replace(source_potential=plan.source_potential + shift)
    assert_close(objective(a, b, C, plan.coupling, **kind), plan.cost, rtol=1e-12, atol=0)
    bound, infeasible = dual(a, b, C, plan, **kind)
    assert abs(plan.cost - bound) <= 1e-8 * plan.cost
    assert infeasible <= 1e-9


def test_plans_without_entropy_are_sparse():
    a, b, C = problem(20, 15)
    for reg_m in (1.0, (math.inf, 0.2), (1e-2, 1e-2)):
        assert (solve(a, b, C, reg_m=reg_m).coupling > 0).sum() <= 20 + 15 - 1


@pytest.mark.parametrize("side", [0, 1, 2])
def test_gradients_are_those_of_finite_differences(side, kind):
    inputs = list(problem(3, 4))
    inputs[side].requires_grad_()
    plan = solve(*inputs, **kind)
    (gradient,) = torch.autograd.grad(plan.cost, inputs[side])
    balanced = not kind.get("reg_m")

    def moved(index, by):
        moving = [t.detach().clone() for t in inputs]
        moving[side].view(-1)[index] += by
        if side < 2 and balanced:  # along the simplex
            moving[side].view(-1)[0] -= by
        return solve(*moving, **kind).cost

    for i in range(1, inputs[side].numel()):
        difference = (moved(i, 1e-5) - moved(i, -1e-5)) / 2e-5
        reference = gradient.view(-1)[0] if side < 2 and balanced else 0.0
        assert_close(gradient.view(-1)[i] - reference, difference, rtol=1e-5, atol=1e-7)


def test_large_penalties_hold_the_marginals_and_small_ones_destroy_all():
    a, b, C = problem(4, 5)
    expected = exact(a, b, C)
    costs = [solve(a, b, C, reg_m=lam).cost.item() for lam in (1e-6, 1e-2, 1.0, 1e4, 1e10)]
    assert costs == sorted(costs)
    assert costs[0] == pytest.approx(2e-6)
    assert solve(a, b, C, reg_m=1e-6).coupling.max() < 1e-6
    # The cost of holding less is of second order: |f|^2 / lam
    assert costs[3] == pytest.approx(expected.cost.item(), rel=1e-4)
    assert costs[4] == pytest.approx(expected.cost.item(), rel=1e-9)
    assert_close(solve(a, b, C, reg_m=1e10).coupling, expected.coupling, rtol=0, atol=1e-9)


def test_infinite_penalties_are_exact():
    a, b, C = problem(4, 5)
    for reg_m in (None, math.inf, (math.inf, math.inf)):
        assert_close(solve(a, b, C, reg_m=reg_m), exact(a, b, C), rtol=0, atol=0)


def test_a_small_entropy_is_nearly_exact_and_a_large_one_independent():
    a, b, C = problem(4, 5)
    expected = exact(a, b, C)
    costs = [entropic(a, b, C, reg).cost.item() for reg in (1e-6, 1e-3, 1.0, 1e6)]
    assert costs == sorted(costs)
    assert costs[0] == pytest.approx(expected.cost.item(), rel=1e-4)
    assert_close(entropic(a, b, C, 1e-6).coupling, expected.coupling, rtol=0, atol=1e-6)
    assert_close(entropic(a, b, C, 1e6).coupling, torch.outer(a, b), rtol=1e-5, atol=0)


def test_held_marginals_are_held(kind):
    a, b, C = problem(4, 5)
    P = solve(a, b, C, **kind).coupling
    lam = kind.get("reg_m", math.inf)
    lam = lam if isinstance(lam, tuple) else (lam, lam)
    for penalty, marginal, weights in zip(lam, (P.sum(1), P.sum(0)), (a, b), strict=True):
        assert torch.allclose(marginal, weights, atol=1e-11) == math.isinf(penalty)


def test_unbalanced_transport_between_different_totals_scales_with_both():
    a, b, C = problem(4, 5)
    plan = solve(a, 3 * b, C, reg_m=0.5)
    scaled = solve(1e-3 * a, 3e-3 * b, C, reg_m=0.5)
    assert_close(scaled.coupling, 1e-3 * plan.coupling)
    assert_close(scaled.cost, 1e-3 * plan.cost)
    assert_close(scaled.source_potential, plan.source_potential)


def test_transposing_and_permuting_a_problem_does_so_to_its_plan(kind):
    a, b, C = problem(4, 5)
    plan = solve(a, b, C, **kind)
    i, j = torch.tensor([2, 0, 3, 1]), torch.tensor([4, 2, 0, 1, 3])
    permuted = solve(a[i], b[j], C[i][:, j], **kind)
    assert_close(permuted.coupling, plan.coupling[i][:, j], rtol=1e-7, atol=1e-9)
    backwards = dict(kind)
    if isinstance(kind.get("reg_m"), tuple):
        backwards["reg_m"] = kind["reg_m"][::-1]
    transposed = solve(b, a, C.mT, **backwards)
    assert_close(transposed.cost, plan.cost)
    assert_close(transposed.coupling.mT, plan.coupling, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_plans_do_not_depend_on_the_unit_of_costs_and_penalties(scale, kind):
    a, b, C = problem(4, 5)
    lam = kind.get("reg_m")
    scaled = {"reg": scale * kind.get("reg", 0.0)}
    if lam is not None:
        scaled["reg_m"] = tuple(scale * v for v in (lam if isinstance(lam, tuple) else (lam, lam)))
    plan = solve(a, b, C, **kind)
    other = solve(a, b, scale * C, **scaled)
    assert_close(other.coupling, plan.coupling, rtol=1e-6, atol=1e-9)
    assert_close(other.cost, scale * plan.cost, rtol=1e-9, atol=0)


@pytest.mark.parametrize("lam", [1e-9, 1e-3, 1.0, 1e3, 1e9, (math.inf, 1.0)])
def test_equal_distributions_are_at_no_cost_whatever_the_penalty(lam):
    a, _, _ = problem(5, 5)
    x = torch.arange(5, dtype=F64)
    plan = unbalanced(a, a, (x.unsqueeze(1) - x).square(), lam)
    assert plan.cost.item() < 1e-20
    assert_close(plan.coupling, torch.diag(a))


@pytest.mark.parametrize("scale", [0.0, 1e-31, 1e-15, 1e-9, 1e-6, 1e-3])
@pytest.mark.parametrize("reg_m", [None, 1.0])
def test_costs_that_are_small_against_the_entropy_hardly_bend_the_independent_plan(scale, reg_m):
    a, b, C = problem(4, 5)
    plan = solve(a, b, scale * C, reg=0.5, reg_m=reg_m)
    independent = torch.outer(a, b)
    mean = (independent * C).sum()
    assert_close(plan.coupling, independent, rtol=4 * scale + 1e-12, atol=0)
    assert_close(plan.cost, scale * mean, rtol=4 * scale + 1e-8, atol=1e-40)
    expected = scale * (C @ b - (mean if reg_m else (C @ b).mean()))
    found = plan.source_potential - (plan.source_potential @ a if reg_m else 0)
    assert_close(found, expected, rtol=0, atol=scale * (4 * scale + 1e-6) + 1e-17)


@pytest.mark.parametrize("distance", [1e-3, 1e-6, 1e-10])
@pytest.mark.parametrize("lam", [1e-3, 1.0, 1e4, (math.inf, 1.0)])
def test_nearly_equal_distributions_are_no_further_than_by_exact_transport(lam, distance):
    a, _, _ = problem(20, 20)
    x, y = (torch.randn(20, 2, dtype=F64) for _ in range(2))
    C = (x.unsqueeze(1) - x - distance * y).square().sum(-1)
    plan = unbalanced(a, a, C, lam)
    bound = exact(a, a, C).cost
    assert 0 <= plan.cost <= bound * (1 + 1e-9)
    assert plan.cost > 0.9 * bound  # the penalties are large against the distance


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


@pytest.mark.parametrize("tiny", [1e-12, 1e-17, 1e-30, 1e-300])
@pytest.mark.parametrize("reg", [1e-2, 1.0])
def test_tiny_weights_change_no_entropic_plan_between_others(tiny, reg):
    a, b, C = problem(4, 5)
    expected = entropic(a, b, C, reg)
    far = torch.zeros(5, 6, dtype=F64)
    far[:4, :5], far[4, :5], far[:4, 5] = C, 3 * C[0], 7.0
    weights = (torch.cat([w, torch.tensor([tiny], dtype=F64)]) for w in (a, b))
    plan = entropic(*weights, far, reg)
    assert_close(plan.coupling[:4, :5], expected.coupling, rtol=0, atol=1e-11)
    assert_close(plan.cost, expected.cost, rtol=1e-9, atol=0)
    assert_close(plan.coupling[4].sum().item(), tiny, rtol=1e-11, atol=0)
    assert_close(plan.coupling[:, 5].sum().item(), tiny, rtol=1e-11, atol=0)


@pytest.mark.parametrize("tiny", [1e-17, 1e-100, 1e-300])
def test_a_tiny_weight_far_away_costs_what_it_weighs(tiny):
    a, b = torch.tensor([tiny, 1.0], dtype=F64), torch.tensor([0.5, 0.5], dtype=F64)
    C = 1e16 * torch.tensor([[2.0, 0.0], [1.0, 2.0]], dtype=F64)
    for reg in (1e-2, 1.0, 1e10):
        assert entropic(a, b, C, reg).cost.item() == pytest.approx(1.5e16, rel=1e-12)


@pytest.mark.parametrize("far", [1e3, 1e7, 99_999_999.0, 1e12])
@pytest.mark.parametrize("reg", [1e-2, 1.0, 30.0])
def test_a_far_component_leaves_the_entropic_plan_of_the_others(far, reg):
    a, b, C = problem(6, 7)
    expected = entropic(a, b, 100 * C, reg)
    costs = torch.full((7, 8), far**2, dtype=F64)
    costs[:6, :7], costs[6, 7] = 100 * C, 0.0
    last = torch.tensor([0.125], dtype=F64)
    plan = entropic(torch.cat([0.875 * a, last]), torch.cat([0.875 * b, last]), costs, reg)
    assert_close(plan.coupling[:6, :7], 0.875 * expected.coupling, rtol=0, atol=1e-11)
    # the entropy of the choice between the two parts
    divergence = -0.875 * math.log(0.875) - 0.125 * math.log(0.125)
    assert_close(plan.cost - reg * divergence, 0.875 * expected.cost, rtol=1e-8, atol=0)


@pytest.mark.parametrize("far", [1e3, 99_999_999.0, 1e10, 1e100])
@pytest.mark.parametrize("reg_m", [1.0, 1e3, 1e6, (2.0, 0.1)])
def test_a_far_component_leaves_the_unbalanced_plan_of_the_others(far, reg_m):
    a, b, C = problem(6, 7)
    expected = solve(a, b, 10 * C, reg_m=reg_m)
    costs = torch.full((7, 8), far**2, dtype=F64)
    costs[:6, :7], costs[6, 7] = 10 * C, 0.0
    last = torch.tensor([0.125], dtype=F64)
    weights = torch.cat([0.875 * a, last]), torch.cat([0.875 * b, last])
    assert_close(solve(*weights, costs, reg_m=reg_m).cost, 0.875 * expected.cost, rtol=1e-8, atol=0)


@pytest.mark.parametrize("far", [1e4, 1e8, 1e10, 1e100])
@pytest.mark.parametrize("reg_m", [1e-3, 1.0, 1e6])
@pytest.mark.parametrize("reg", [0.0, 1e-2, 1.0])
@pytest.mark.parametrize("share", [0.125, 1e-3])
def test_a_far_component_leaves_the_semi_relaxed_plan_of_the_others(far, reg_m, reg, share):
    a, b, C = problem(6, 7)
    costs = torch.full((7, 8), far**2, dtype=F64)
    costs[:6, :7], costs[6, 7] = 10 * C, 0.0
    last = torch.tensor([0.125], dtype=F64), torch.tensor([share], dtype=F64)
    weights = [torch.cat([0.875 * w, end]) for w, end in zip((a, b), last, strict=True)]
    expected = solve(0.875 * a, 0.875 * b, 10 * C, reg_m=(math.inf, reg_m), reg=reg)
    alone = reg_m * divergence(*last)
    if reg:  # the entropy of what goes nowhere, too
        alone = alone + reg * (divergence(last[0], last[0] * last[1]) + 0.875 * (0.125 + share))
    plan = solve(*weights, costs, reg_m=(math.inf, reg_m), reg=reg)
    assert_close(plan.cost, expected.cost + alone, rtol=1e-8, atol=0)
    assert_close(plan.coupling[:6, :7], expected.coupling, rtol=0, atol=1e-6)
    turned = solve(*weights[::-1], costs.mT, reg_m=(reg_m, math.inf), reg=reg)
    assert_close(turned.cost, plan.cost, rtol=1e-8, atol=0)


@pytest.mark.parametrize("costs", [[0.0, 0.0], [0.3, 1e20, 2.0], [1e20, 5.0, 1e100, 6.0]])
@pytest.mark.parametrize("reg_m", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("reg", [0.0, 1e-3, 10.0])
@pytest.mark.parametrize("total", [1e-3, 1.0, 1e3])
def test_one_source_that_is_held_is_shared_out_in_closed_form(costs, reg_m, reg, total):
    C = torch.tensor([costs], dtype=F64)
    b = total * torch.arange(1, C.shape[1] + 1, dtype=F64) / 10
    a = torch.tensor([0.7], dtype=F64)
    q = 0.7 * (b.log() - C[0] / (reg_m + reg)).softmax(0)
    expected = q @ C[0] + reg_m * divergence(q, b)
    if reg:
        expected = expected + reg * divergence(q, a * b)
    plan = solve(a, b, C, reg_m=(math.inf, reg_m), reg=reg)
    assert_close(plan.coupling[0], q, rtol=0, atol=1e-6)
    assert_close(plan.cost, expected, rtol=1e-8, atol=1e-14)


def test_potentials_that_are_huge_prove_no_plan_that_is_dear():
    a, b, C = problem(6, 7)
    given = interior_point.Penalised(a, b, C, 1.0, 1.0, 0.0)
    f, g, *_ = interior_point.solve(given)
    dear = torch.outer(a, b)
    huge = f - 1e17, g + 1e17
    for reg in (0.0, 0.1):
        other = given._replace(lam0=math.inf, reg=reg)
        with pytest.raises(RuntimeError, match="must be solved to a gap of 1e-08 of its cost"):
            penalised._certified(other, other, *huge, dear)


def test_what_the_interior_point_method_does_not_solve_is_solved_in_logarithms(monkeypatch):
    a, b, C = problem(6, 7)
    for reg in (1e-2, 0.1, 1.0):
        expected = entropic(a, b, C, reg)
        with monkeypatch.context() as patch:
            patch.setattr(interior_point, "MAX_STEPS", 1)
            assert_close(entropic(a, b, C, reg), expected, rtol=1e-7, atol=1e-9)
            patch.setattr(penalised, "MAX_STEPS", 1)
            with pytest.raises(RuntimeError, match="must meet its marginals in 1 steps, got"):
                entropic(a, b, C, reg)


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


@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_weights_of_zero_receive_nothing_and_have_finite_potentials(kind, dtype):
    *_, C = problem(3, 3)
    a, b = (torch.tensor(w, dtype=dtype) for w in ([0.5, 0.0, 0.5], [0.3, 0.7, 0.0]))
    plan = solve(a, b, C.to(dtype), **kind)
    assert plan.coupling[1].sum() == plan.coupling[:, 2].sum() == 0
    assert all(torch.isfinite(t).all() for t in plan)
    expected = solve(a[[0, 2]], b[:2], C.to(dtype)[[0, 2]][:, :2], **kind)
    assert_close(plan.cost, expected.cost)


def test_potential_of_a_weight_of_zero_is_the_derivative_of_giving_it_weight(kind):
    *_, C = problem(3, 3)
    a, b = (torch.tensor(w, dtype=F64) for w in ([0.5, 0.0, 0.5], [0.3, 0.7, 0.0]))
    plan = solve(a, b, C, **kind)
    step = torch.tensor([-1e-7, 1e-7, 0.0], dtype=F64)
    difference = (solve(a + step, b, C, **kind).cost - plan.cost) / 1e-7
    expected = plan.source_potential[1] - plan.source_potential[0]
    # exact plans may have several potentials there; entropies have a logarithm
    assert difference.item() == pytest.approx(expected.item(), abs=2e-5)


def test_plans_have_the_dtype_of_the_costs(kind):
    a, b, C = problem(3, 4)
    plan = solve(a.float(), b.float(), C.float(), **kind)
    assert {t.dtype for t in plan} == {torch.float32}
    assert_close(plan.cost.double(), solve(a, b, C, **kind).cost, rtol=1e-5, atol=0)


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


def test_negative_costs_are_refused_where_mass_may_be_made():
    a, b, C = problem(2, 2)
    with pytest.raises(ValueError, match="costs must not be negative, got -"):
        unbalanced(a, b, C - 1, 1.0)
    assert_close(entropic(a, b, C - 1, 0.1).coupling, entropic(a, b, C, 0.1).coupling)


def test_costs_are_small_against_the_entropy_for_each_mass_that_it_spreads():
    b, C = torch.tensor([1e-3], dtype=F64), torch.tensor([[0.8]], dtype=F64)
    a, lam, reg = torch.ones(1, dtype=F64), 1e-4, 1e6
    P = (((lam + reg) * (a * b).log() - C[0]) / (reg + 2 * lam)).exp()  # of derivative zero
    expected = lam * (divergence(P, a) + divergence(P, b)) + reg * divergence(P, a * b)
    expected = expected + (P * C).sum()
    assert_close(solve(a, b, C, reg_m=lam, reg=reg).cost, expected, rtol=1e-8, atol=0)


def sinkhorn(a, b, C, lam, reg, sweeps=200):
    """Plan and value under entropy with the target held: Sinkhorn's iteration in logarithms."""
    f = torch.zeros_like(a)
    for _ in range(sweeps):
        g = -torch.logsumexp(a.log() + f - C.mT / reg, 1)
        f = -lam / (lam + reg) * torch.logsumexp(b.log() + g - C / reg, 1)
    g = -torch.logsumexp(a.log() + f - C.mT / reg, 1)
    independent = a.unsqueeze(1) * b
    P = independent * (f.unsqueeze(1) + g - C / reg).exp()
    value = (P * C).sum() + reg * divergence(P, independent) + lam * divergence(P.sum(1), a)
    return P, value


@pytest.mark.parametrize("kind", ["even", "uneven", "one total"])
@pytest.mark.parametrize(
    ("lam", "reg"), [(1e-2, 1e3), (1e3, 1e3), (1.0, 1e5), (1e2, 1e5), (1e-2, 1e7), (1.0, 1e10)]
)
def test_a_large_entropy_gives_the_semi_relaxed_plan_of_sinkhorns_fixed_point(kind, lam, reg):
    for seed, (K, L) in enumerate([(2, 3), (2, 3), (5, 2), (5, 2), (5, 2), (8, 8)]):
        generator = torch.Generator().manual_seed(seed)
        a, b, C = (torch.rand(n, generator=generator, dtype=F64) for n in (K, L, (K, L)))
        a, b = {"even": (a, b), "uneven": (a**8, b**8), "one total": (a / a.sum(), b / b.sum())}[
            kind
        ]
        P, value = sinkhorn(a, b, 150 * C, lam, reg)
        plan = solve(a, b, 150 * C, reg_m=(lam, math.inf), reg=reg)
        turned = solve(b, a, 150 * C.mT, reg_m=(math.inf, lam), reg=reg)
        for coupling, cost in ((plan.coupling, plan.cost), (turned.coupling.mT, turned.cost)):
            assert_close(cost, value, rtol=1e-8, atol=0)
            assert_close(coupling, P, rtol=1e-8, atol=1e-12)
            assert_close(coupling.sum(0), b, rtol=1e-12, atol=0)


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
    plan = solve_bounded(leaves[0], leaves[1], lower, lambda k, l: leaves[2][k, l])
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
