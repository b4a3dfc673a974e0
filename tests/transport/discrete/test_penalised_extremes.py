"""Penalised plans where weights, distances, costs or penalties are tiny or huge."""

import functools
import math

import mpmath as mp
import numpy as np
import pytest
import torch
from torch.testing import assert_close

from skgmmot.transport.discrete.interior_point.problem import divergence
from skgmmot.transport.discrete.solvers import entropic, exact, solve, unbalanced

F64 = torch.float64


def problem(K, L, seed=0):
    """Weights and costs whose optimum is unique, and its potentials too."""
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.rand(n, dtype=F64, generator=generator) + 0.1 for n in (K, L))
    return a / a.sum(), b / b.sum(), torch.rand(K, L, dtype=F64, generator=generator)


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


@pytest.mark.parametrize("scale", [0.0, 1e-31])
def test_without_costs_the_mass_is_that_of_the_prescribed_side(scale):
    a, b, C = problem(4, 5)
    for reg_m in ((math.inf, 1.0), (1.0, math.inf)):
        weights = [
            w * (1.0 if math.isinf(lam) else 2.0) for w, lam in zip((a, b), reg_m, strict=True)
        ]
        plan = solve(*weights, scale * C, reg=0.5, reg_m=reg_m)
        assert_close(plan.coupling, torch.outer(a, b))


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


@pytest.mark.parametrize(
    "seed, reg", [(3, 1e-4), (4, 1e-2), (5, 1e-3), (10, 1e-4), (15, 1e-2), (17, 1e-3)]
)
def test_weights_of_many_sizes_have_entropic_plans_however_small_the_entropy(seed, reg):
    rng = np.random.default_rng(seed)
    a, b = (torch.from_numpy(rng.dirichlet(np.full(n, 0.15))) for n in (40, 50))
    x, y = (torch.from_numpy(rng.normal(size=(n, 2)) + s) for n, s in ((40, 0.0), (50, 1.0)))
    C = torch.cdist(x, y).square()
    plan, without = entropic(a, b, C, reg), exact(a, b, C)
    most = without.cost + reg * divergence(without.coupling, a.unsqueeze(1) * b)
    assert without.cost * (1 - 1e-9) <= plan.cost <= most * (1 + 1e-9)
    assert plan.gap <= 1e-8 * float(plan.cost)
    assert_close(plan.coupling.sum(1), a, rtol=0, atol=1e-12)
    assert_close(plan.coupling.sum(0), b, rtol=0, atol=1e-12)


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


@functools.cache
def semi_relaxed(reg_m, reg):
    """The plan of the components that are near."""
    a, b, C = problem(6, 7)
    return solve(0.875 * a, 0.875 * b, 10 * C, reg_m=(math.inf, reg_m), reg=reg)


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
    expected = semi_relaxed(reg_m, reg)
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


def test_costs_are_small_against_the_entropy_for_each_mass_that_it_spreads():
    b, C = torch.tensor([1e-3], dtype=F64), torch.tensor([[0.8]], dtype=F64)
    a, lam, reg = torch.ones(1, dtype=F64), 1e-4, 1e6
    P = (((lam + reg) * (a * b).log() - C[0]) / (reg + 2 * lam)).exp()  # of derivative zero
    expected = lam * (divergence(P, a) + divergence(P, b)) + reg * divergence(P, a * b)
    expected = expected + (P * C).sum()
    assert_close(solve(a, b, C, reg_m=lam, reg=reg).cost, expected, rtol=1e-8, atol=0)


def sinkhorn(a, b, C, lam, reg, sweeps=60):
    """Plan and value under entropy with the target held: Sinkhorn's iteration in logarithms.

    A sweep divides the error by at least ``1 + reg / lam``, which is 2 or more here.
    """
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


def one_pair(A, B, cost, penalties, reg):
    """The plan and the value between one source and one target, in many digits."""
    with mp.workdps(60):
        terms = [(lam, mp.mpf(w)) for lam, w in zip((*penalties, reg), (A, B), strict=False)]
        terms.append((reg, mp.mpf(A) * mp.mpf(B)))
        held = [w for lam, w in terms if math.isinf(lam)]
        terms = [(mp.mpf(lam), w) for lam, w in terms if 0 < lam < math.inf]
        x = mp.exp(
            (mp.fsum(lam * mp.log(w) for lam, w in terms) - mp.mpf(cost))
            / mp.fsum(lam for lam, _ in terms)
        )
        x = held[0] if held else x
        value = cost * x + mp.fsum(lam * (x * mp.log(x / w) - x + w) for lam, w in terms)
        return float(x), float(value)


TOTALS = (2.0, 3.0), (1e100, 1.0), (1.0, 1e-60), (3e66, 8e-49), (1e-200, 1e-90), (1e290, 1e-280)


@pytest.mark.parametrize("totals", TOTALS)
@pytest.mark.parametrize("reg", [0.0, 1e-3, 1e6])
@pytest.mark.parametrize("reg_m", [(0.3, 0.3), (0.3, 1e8), (math.inf, 0.3), (0.3, math.inf)])
def test_totals_of_any_two_sizes_keep_their_digits(totals, reg, reg_m):
    expected = one_pair(*totals, 0.7, reg_m, reg)
    a, b = (torch.tensor([total], dtype=F64) for total in totals)
    plan = solve(a, b, torch.tensor([[0.7]], dtype=F64), reg=reg, reg_m=reg_m)
    assert_close(plan.coupling.item(), expected[0], rtol=1e-9, atol=0)
    assert_close(plan.cost.item(), expected[1], rtol=1e-11, atol=0)
    assert 0 <= plan.error <= 1e-7 * expected[1]


def test_a_mass_near_the_end_of_the_range_has_an_error():
    a, b = torch.tensor([1e300], dtype=F64), torch.ones(1, dtype=F64)
    plan = unbalanced(a, b, torch.ones(1, 1, dtype=F64), 1.0)
    assert 0 <= plan.error < 1e-12 * plan.cost.item()


def test_large_penalties_leave_potentials_that_fit_the_plan():
    # the mass was once found from a difference of logarithms of its totals, times the penalty
    a, b, C = problem(3, 4, seed=3)
    reg_m, reg = (1e14, 1e-9), 1e-3
    plan = unbalanced(7 * a, 6 * b, C, reg_m, reg)
    assert plan.gap <= 1e-8 * plan.cost.item()
    assert_close(plan.coupling.sum(1), 7 * a, rtol=1e-9, atol=0)
