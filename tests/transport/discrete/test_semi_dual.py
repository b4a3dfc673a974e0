"""Newton's method on the dual of entropic transport, as a function of the source's potentials."""

import math

import pytest
import torch
from torch.testing import assert_close

from skgmmot.transport.discrete import semi_dual
from skgmmot.transport.discrete.interior_point import all_pairs
from skgmmot.transport.discrete.interior_point.problem import Penalised, marginal

F64 = torch.float64
PENALTIES = [(math.inf, math.inf), (0.3, 0.5), (0.3, math.inf), (math.inf, 0.3), (1e4, 1e5)]


def problem(penalties, reg, shape=(12, 7), smallest=1.0):
    """Random weights and squared distances."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(n, dtype=F64, generator=generator) + 0.1 for n in shape)
    x, y = (torch.rand(n, 2, dtype=F64, generator=generator) for n in shape)
    a[0] = smallest
    return Penalised(a / a.sum(), b / b.sum(), torch.cdist(x, y).square(), *penalties, reg)


@pytest.mark.parametrize("penalties", PENALTIES)
@pytest.mark.parametrize("reg", [1e-3, 0.05, 10.0])
@pytest.mark.parametrize("shape", [(12, 7), (3, 9), (1, 4)])
def test_newton_finds_the_plan_of_the_interior_point_method(penalties, reg, shape):
    given = problem(penalties, reg, shape)
    f, g, P = semi_dual.newton(given)
    expected = all_pairs.solve(given)
    assert_close(P, expected.P, rtol=1e-6, atol=1e-10)
    # the gap between the two objectives proves the solution, whoever found it
    assert given.primal(P) - given.dual(f, g) == pytest.approx(0, abs=1e-10)
    assert_close(P, given.coupling(f, g))


@pytest.mark.parametrize("penalties", PENALTIES)
def test_newton_gives_a_tiny_weight_its_mass_to_all_digits(penalties):
    given = problem(penalties, 0.05, smallest=1e-30)
    f, _, P = semi_dual.newton(given)
    expected = marginal(f, given.lam0, given.a)
    assert_close(P.sum(1), expected, rtol=1e-9, atol=0)


def test_newton_takes_few_steps(monkeypatch):
    monkeypatch.setattr(semi_dual, "MAX_STEPS", 15)
    for penalties in PENALTIES:
        for reg in (1e-3, 0.05, 1.0):
            semi_dual.newton(problem(penalties, reg))


@pytest.mark.parametrize("max_steps", [1, 30])
def test_newton_says_so_where_it_does_not_meet_the_marginals(max_steps, monkeypatch):
    monkeypatch.setattr(semi_dual, "MAX_STEPS", max_steps)
    reg, penalty = (1e-4, 0.3) if max_steps == 1 else (1e-6, 1e-4)  # or whose mass underflows
    with pytest.raises(RuntimeError, match=f"must meet the marginals in {max_steps} steps, got"):
        semi_dual.newton(problem((penalty, 0.3), reg))


def test_the_plan_of_a_half_step_is_that_of_its_potentials():
    given = problem((0.7, 2.0), 0.05)
    f = torch.rand(12, dtype=F64)
    g, P = semi_dual._half_step(given, f)
    assert_close(P, given.coupling(f, g), rtol=1e-12, atol=0)
    assert_close(P.sum(0), marginal(g, given.lam1, given.b), rtol=1e-13, atol=0)


@pytest.mark.parametrize("penalties", [(math.inf, math.inf), (0.7, 2.0)])
def test_sweeps_meet_rows_without_mass_in_logarithms(penalties):
    given = problem(penalties, 0.05)
    f = torch.zeros(12, dtype=F64)
    f[2] = -40.0  # exp(-800) of its mass
    g, P = semi_dual._half_step(given, f)
    assert P[2].sum() < 1e-100
    point = semi_dual._swept(given, f, g, P)
    assert semi_dual._error(point) < 0.5 * given.a[2]
    assert_close(point.P, given.coupling(point.f, point.g), rtol=1e-10, atol=0)
    assert_close(point.P.sum(0), marginal(point.g, given.lam1, given.b), rtol=1e-12, atol=0)


def test_no_step_follows_one_that_lacks_nothing(monkeypatch):
    steps = []

    def advance(problem, point, original=semi_dual._advance):
        steps.append(semi_dual._error(point))
        return original(problem, point)

    monkeypatch.setattr(semi_dual, "_advance", advance)
    given = problem((math.inf, math.inf), 0.3)
    semi_dual.newton(given)
    assert len(steps) < 4
    assert all(error > semi_dual.NO_ERROR * float(given.a.sum()) for error in steps)
