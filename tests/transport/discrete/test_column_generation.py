"""Exact transport of large problems, against the simplex of all pairs."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from skgmmot.transport.discrete import column_generation as module
from skgmmot.transport.discrete.column_generation import sparse_exact
from skgmmot.transport.discrete.network_simplex import network_simplex


@pytest.fixture(autouse=True)
def large(monkeypatch):
    """Take what these tests solve for large problems."""
    monkeypatch.setattr(module, "MIN_COSTS", 2_000)
    monkeypatch.setattr(module, "MIN_COSTS_ALONE", 2_000)


def problem(name, rng):
    """Masses, and costs between samples and points."""
    X, Y = rng.normal(size=(500, 2)), rng.normal(size=(60, 2))
    a, b = np.ones(500), np.ones(60)
    if name == "points among the samples":
        Y = X[:60]
    if name == "weights":
        a, b = rng.exponential(size=500), rng.exponential(size=60) ** 3
    if name == "points elsewhere":
        Y = 0.1 * Y + 5
    if name == "clusters of other shares":
        X[:50, 0] += 50
        Y[20:, 0] += 50
    if name == "ties":
        X, Y = np.round(X), np.round(Y)
    if name == "one sample far away":
        X[0] = 1e4
    if name == "few points":
        Y, b = Y[:5], b[:5]
    if name == "few samples":
        X, a = X[:80], a[:80]
    if name == "ten features":
        X, Y = rng.normal(size=(500, 10)), rng.normal(size=(60, 10))
    return a / a.sum(), b / b.sum(), cdist(X, Y, "sqeuclidean")


CASES = (
    "ordinary",
    "points among the samples",
    "weights",
    "points elsewhere",
    "clusters of other shares",
    "ties",
    "one sample far away",
    "few points",
    "few samples",
    "ten features",
)


@pytest.mark.parametrize("name", CASES)
def test_the_plan_is_that_of_all_pairs(name, rng):
    a, b, C = problem(name, rng)
    P, _, g = network_simplex(a, b, C)
    for start in (None, g + 1e-3 * g.std() * rng.normal(size=len(g))):
        plan = sparse_exact(a, b, C, start)
        value = plan.mass @ C[plan.row, plan.column]
        assert value == pytest.approx((P * C).sum(), rel=1e-9)
        Q = plan.dense()
        assert np.allclose(Q.sum(0), b, rtol=0, atol=1e-12)
        assert np.allclose(Q.sum(1), a, rtol=0, atol=1e-12)
        assert a @ plan.f + b @ plan.g == pytest.approx(value, rel=1e-9)
        assert (C - plan.f[:, None] - plan.g).min() > -1e-12 * C.max()


@pytest.mark.parametrize("scale", [1e-150, 1e150])
def test_the_unit_of_the_costs_does_not_matter(scale, rng):
    a, b, C = problem("ordinary", rng)
    plan, scaled = sparse_exact(a, b, C), sparse_exact(a, b, scale * C)
    assert (plan.dense() == pytest.approx(scaled.dense(), abs=1e-12)) and scaled.mass.all()


@pytest.mark.skipif(module._sparse_solver() is None, reason="POT has it from 0.9.7 on")
def test_candidates_suffice(rng, monkeypatch):
    a, b, C = problem("ordinary", rng)
    g = sparse_exact(a, b, C).g
    monkeypatch.setattr(module, "network_simplex", None)
    C = C + 1e-4 * rng.random(C.shape)
    assert len(sparse_exact(a, b, C, g).mass) < 600


@pytest.mark.parametrize("name", ["solver", "rounds", "zero"])
def test_all_pairs_are_taken_where_candidates_do_not_do(name, rng, monkeypatch):
    a, b, C = problem("ordinary", rng)
    if name == "solver":
        monkeypatch.setattr(module, "_sparse_solver", lambda: None)
    if name == "rounds":
        monkeypatch.setattr(module, "MAX_ROUNDS", 0)
    if name == "zero":
        a[3] = 0
    P, _, g = network_simplex(a, b, C)
    plan = sparse_exact(a, b, C)
    assert np.array_equal(plan.dense(), P) and np.array_equal(plan.g, g)


def test_masses_of_another_total_move_that_total(rng):
    a, b, C = problem("ordinary", rng)
    assert sparse_exact(3 * a, b, C).dense().sum() == pytest.approx(3)


def test_costs_must_be_finite(rng):
    a, b, C = problem("ordinary", rng)
    C[0, 0] = np.inf
    with pytest.raises(ValueError, match="costs must be finite"):
        sparse_exact(a, b, C)
