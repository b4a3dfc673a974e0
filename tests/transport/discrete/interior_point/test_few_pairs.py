"""The interior-point method on few pairs: against all pairs, and where few are too few."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from skgmmot.transport.discrete import penalised
from skgmmot.transport.discrete.interior_point import all_pairs, few_pairs
from skgmmot.transport.discrete.interior_point.problem import Penalised
from skgmmot.transport.discrete.simpler import check_optimal
from skgmmot.transport.discrete.solvers import unbalanced

PENALTIES = [(1.0, 1.0), (0.01, 5.0), (100.0, 100.0), (math.inf, 0.3), (2.0, math.inf)]


def problem(K, L, penalties, seed=0):
    """Points in the plane, squared distances, and weights that are not alike."""
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(n, 2, dtype=torch.float64, generator=generator) for n in (K, L))
    a, b = (torch.rand(n, dtype=torch.float64, generator=generator) + 0.1 for n in (K, L))
    return Penalised(a / a.sum(), b / b.sum(), torch.cdist(x, y).square(), *penalties, 0.0)


@pytest.mark.parametrize("K, L", [(1, 1), (1, 9), (40, 30), (30, 40)])
@pytest.mark.parametrize("penalties", PENALTIES)
def test_potentials_and_plan_certify_each_other(K, L, penalties):
    given = problem(K, L, penalties)
    f, g, P = few_pairs.solve(given)
    P = penalised._with_prescribed_marginal(P, given)
    check_optimal(given, f, g, P, given.primal(P))
    assert given.primal(P) == pytest.approx(given.dual(f, g), rel=1e-10)


@pytest.mark.parametrize("penalties", PENALTIES)
def test_potentials_are_those_of_all_pairs(penalties):
    given = problem(40, 30, penalties)
    f, g, P = few_pairs.solve(given)
    everywhere = all_pairs.solve(given)
    assert given.dual(f, g) == pytest.approx(given.dual(everywhere.f, everywhere.g), rel=1e-10)
    # marginals under a penalty are unique
    marginals = [m for m, lam in zip((P.sum(1), P.sum(0)), penalties, strict=True) if lam < 1e9]
    for mine, theirs in zip(
        marginals,
        [m for m, lam in zip((everywhere.p, everywhere.q), penalties, strict=True) if lam < 1e9],
        strict=True,
    ):
        assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_pairs_that_are_violated_are_taken_in():
    # far apart in total, so that the cheapest pairs of many rows are the same few columns
    given = problem(60, 60, (50.0, 50.0))
    given = given._replace(b=given.b.square() / given.b.square().sum())
    f, g, P = few_pairs.solve(given, n_pairs=1)
    assert (given.C - f.unsqueeze(1) - g).min() > -1e-12
    everywhere = all_pairs.solve(given)
    assert given.primal(P) == pytest.approx(given.dual(everywhere.f, everywhere.g), rel=1e-9)
    assert 120 < (P > 0).sum() < 1800


@pytest.mark.parametrize("transposed", [False, True])
def test_large_problems_are_solved_so_and_to_the_same_cost(transposed, monkeypatch):
    a, b, C, *_ = problem(130, 150, (1.0, 1.0))
    if transposed:
        a, b, C = b, a, C.mT
    with monkeypatch.context() as patch:
        patch.setattr(all_pairs, "solve", None)  # not called
        few = unbalanced(a, b, C, 2.0)
    monkeypatch.setattr(penalised, "MIN_SPARSE_COSTS", math.inf)
    everywhere = unbalanced(a, b, C, 2.0)
    assert float(few.cost) == pytest.approx(float(everywhere.cost), rel=1e-12)
    assert_close(few.source_potential, everywhere.source_potential, rtol=1e-7, atol=1e-9)
    assert few.gap < 1e-12 and (few.coupling > 0).sum() <= 280


def test_where_few_pairs_stop_early_all_are_used(monkeypatch):
    a, b, C, *_ = problem(130, 130, (1.0, 1.0))
    expected, n_steps = float(unbalanced(a, b, C, 2.0).cost), few_pairs.MAX_STEPS
    monkeypatch.setattr(few_pairs, "MAX_STEPS", 3)
    with pytest.raises(RuntimeError, match="must converge in 3 of Mehrotra's steps"):
        few_pairs.solve(Penalised(a, b, C, 2.0, 2.0, 0.0))
    whole = few_pairs.solve_on_all

    def with_all_steps(given):
        monkeypatch.setattr(few_pairs, "MAX_STEPS", n_steps)
        return whole(given)

    monkeypatch.setattr(few_pairs, "solve_on_all", with_all_steps)
    assert float(unbalanced(a, b, C, 2.0).cost) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(
    ("seed", "penalties"),
    [(13, (math.inf, 0.5)), (26, (20.0, math.inf)), (43, (3.0, 1e3)), (44, (0.3, 1.0))],
)
def test_weights_of_very_different_sizes_are_transported(seed, penalties):
    """Some are 1e-30 of others; the plain steps of `all_pairs` stall there."""
    rng = np.random.default_rng(seed)
    a, b = (torch.from_numpy(rng.dirichlet(np.full(n, 0.08))) for n in (40, 50))
    x, y = (torch.from_numpy(rng.normal(size=n) + shift) for n, shift in ((40, 0.0), (50, 1.0)))
    C = (x.unsqueeze(1) - y).square()
    with pytest.raises(RuntimeError, match="300 steps"):
        all_pairs.solve(Penalised(a, b, C, *penalties, 0.0))
    plan = unbalanced(a, b, C, penalties)
    # what the heavy ones cost is nearly all, and the light ones add at most their own penalties
    k, l = a > 1e-13, b > 1e-13
    heavy = unbalanced(a[k], b[l], C[k][:, l], penalties)
    assert plan.gap <= 1e-8 * float(plan.cost)
    assert float(plan.cost) == pytest.approx(float(heavy.cost), rel=1e-9)
    assert int((~k).sum() + (~l).sum()) > 5


def test_what_is_not_finite_is_an_error():
    given = problem(5, 5, (1.0, 1.0))
    with pytest.raises(RuntimeError, match="must converge"):
        few_pairs.solve(given._replace(C=given.C * math.nan))
