"""Penalised and entropic plans: closed forms, POT, proofs, derivatives, invariances."""

import math

import ot
import pytest
import torch
from torch.testing import assert_close

from skgmmot.transport.discrete import entropic as log_domain
from skgmmot.transport.discrete import penalised, semi_dual
from skgmmot.transport.discrete.interior_point import all_pairs
from skgmmot.transport.discrete.interior_point.problem import Penalised
from skgmmot.transport.discrete.simpler import check_optimal
from skgmmot.transport.discrete.solvers import entropic, exact, solve, unbalanced

F64 = torch.float64


def problem(K, L, seed=0):
    """Weights and costs whose optimum is unique, and its potentials too."""
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.rand(n, dtype=F64, generator=generator) + 0.1 for n in (K, L))
    return a / a.sum(), b / b.sum(), torch.rand(K, L, dtype=F64, generator=generator)


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
    along = torch.cos(torch.arange(gradient.numel()).double()).view_as(gradient)
    if side < 2 and not kind.get("reg_m"):
        along -= along.mean()  # stays in the simplex

    def moved(by):
        moving = [t.detach() for t in inputs]
        moving[side] = moving[side] + by * along
        return solve(*moving, **kind).cost

    difference = (moved(1e-5) - moved(-1e-5)) / 2e-5
    assert_close((gradient * along).sum(), difference, rtol=1e-5, atol=1e-7)


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


def test_potentials_that_are_huge_prove_no_plan_that_is_dear():
    a, b, C = problem(6, 7)
    given = Penalised(a, b, C, 1.0, 1.0, 0.0)
    f, g, *_ = all_pairs.solve(given)
    dear = torch.outer(a, b)
    huge = f - 1e17, g + 1e17
    for reg in (0.0, 0.1):
        other = given._replace(lam0=math.inf, reg=reg)
        with pytest.raises(RuntimeError, match="must be solved to a gap of 1e-08 of its cost"):
            penalised._certified(other, other, *huge, dear)


def test_what_newton_and_the_interior_point_method_do_not_solve_is_solved_in_logarithms(
    monkeypatch,
):
    a, b, C = problem(6, 7)
    for reg in (1e-2, 0.1, 1.0):
        expected = entropic(a, b, C, reg)
        with monkeypatch.context() as patch:
            patch.setattr(semi_dual, "MAX_STEPS", 0)
            assert_close(entropic(a, b, C, reg), expected, rtol=1e-7, atol=1e-9)
            patch.setattr(all_pairs, "MAX_STEPS", 1)
            assert_close(entropic(a, b, C, reg), expected, rtol=1e-7, atol=1e-9)
            patch.setattr(log_domain, "MAX_STEPS", 1)
            with pytest.raises(RuntimeError, match="must meet its marginals in 1 steps, got"):
                entropic(a, b, C, reg)


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


def test_negative_costs_are_refused_where_mass_may_be_made():
    a, b, C = problem(2, 2)
    with pytest.raises(ValueError, match="costs must not be negative, got -"):
        unbalanced(a, b, C - 1, 1.0)
    assert_close(entropic(a, b, C - 1, 0.1).coupling, entropic(a, b, C, 0.1).coupling)


def test_marginals_of_an_entropic_plan_are_met_to_rounding():
    P = torch.tensor([[0.3, 0.2], [0.1, 0.4]], dtype=torch.float64)
    a, b = P.sum(1) + torch.tensor([1e-9, -1e-9]), P.sum(0) + torch.tensor([-3e-9, 3e-9])
    found = penalised._with_marginals(P, a, b)
    assert (found >= 0).all() and (found - P).abs().max() < 1e-8
    torch.testing.assert_close(found.sum(1), a, rtol=0, atol=4e-16)
    torch.testing.assert_close(found.sum(0), b, rtol=0, atol=4e-16)
    assert penalised._with_marginals(P, P.sum(1), P.sum(0)) is P


def test_independent_plans_of_too_large_a_mass_are_refused():
    a, b, C = problem(3, 4)
    with pytest.raises(
        ValueError, match=r"totals of a product below 1e\+300 with reg, got 1.0e\+200"
    ):
        solve(1e200 * a, 1e200 * b, C, reg=0.1, reg_m=1.0)
    assert solve(1e200 * a, 1e200 * b, C, reg_m=1.0).cost > 0
    with pytest.raises(ValueError, match="a transport cost in the range of float64, got totals of"):
        solve(a, 1e300 * b, 1e9 + C, reg_m=(1.0, math.inf))


@pytest.mark.parametrize(
    "kind",
    [*KINDS.values(), {"reg": 0.2, "costs": 0.0}, {"reg": 0.2, "smallest": 1e-14}],
    ids=[*KINDS, "free", "in logarithms"],
)
def test_every_plan_that_is_not_exact_is_certified_once(kind, monkeypatch):
    checked = []

    def check(problem, f, g, P, value):
        check_optimal(problem, f, g, P, value)
        checked.append(value)

    monkeypatch.setattr(penalised, "check_optimal", check)
    a, b, C = problem(6, 5)
    a[0] = kind.get("smallest", a[0])
    penalties = {name: kind[name] for name in ("reg", "reg_m") if name in kind}
    plan = solve(a / a.sum(), b, kind.get("costs", 1.0) * C, **penalties)
    assert len(checked) == bool(penalties)
    assert plan.gap < 1e-12
