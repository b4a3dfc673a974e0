"""The network simplex, called directly and by POT's face."""

from fractions import Fraction
from itertools import permutations

import numpy as np
import ot
import pytest
import scipy.optimize

from skgmmot.transport.discrete import network_simplex as module
from skgmmot.transport.discrete.network_simplex import network_simplex


@pytest.fixture(params=["direct", "by POT's face"])
def simplex(request, monkeypatch):
    """The solver, by both ways to call it."""
    if request.param == "direct":
        assert module._solver() is not None
    else:
        monkeypatch.setattr(module, "_solver", lambda: None)
    return network_simplex


@pytest.mark.parametrize("zeros", [0, 2])
def test_plan_and_potentials_are_optimal(simplex, rng, zeros):
    a, b, C = rng.dirichlet(np.ones(6)), rng.dirichlet(np.ones(9)), rng.random((6, 9))
    a[:zeros], b[3 : 3 + zeros] = 0, 0
    P, f, g = simplex(a, b, C)
    b = b * (a.sum() / b.sum())
    assert np.allclose(P.sum(1), a) and np.allclose(P.sum(0), b)
    slack = C - f[:, None] - g
    assert slack.min() > -1e-12 and abs(slack[P > 0]).max() < 1e-12
    assert np.isclose((P * C).sum(), ot.emd2(a / a.sum(), b / b.sum(), C) * a.sum())


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (4, 1)])
def test_between_one_point_and_others_there_is_one_plan(simplex, rng, shape):
    a, b, C = (
        3 * rng.dirichlet(np.ones(shape[0])),
        rng.dirichlet(np.ones(shape[1])),
        rng.random(shape),
    )
    b[0] = 0.0 if shape[1] > 1 else b[0]
    P, f, g = simplex(a, b, C)
    assert np.allclose(P, np.outer(a, b / b.sum()), rtol=1e-15)
    assert np.allclose(f[:, None] + g, C, rtol=1e-15)
    with np.errstate(invalid="ignore"), pytest.raises(ValueError, match="must be finite"):
        simplex(a, b, np.full(shape, np.inf))


def test_mass_of_the_size_of_rounding_goes_nowhere(simplex):
    a = np.array([0.1, 0.2, 0.7])
    b = np.array([0.1 * 0.3 + 1e-16, 0.2 * 0.9, 0.2 * 0.1, 0.7, 0.1 * 0.7])
    x, y = np.array([0.0, 1.0, 2.0]), np.array([0.0, 1.0, 1.0, 2.0, 0.0])
    P, _, _ = simplex(a, b, (x[:, None] - y) ** 2)
    assert (P > 0).sum() == 5
    assert (P * (x[:, None] - y) ** 2).sum() == 0


def test_small_weights_are_not_rounding(simplex):
    a, b = np.array([1.0, 1e-18]), np.array([1.0])
    P, _, _ = simplex(a, b, np.array([[1.0], [1e18]]))
    assert P[1, 0] == pytest.approx(1e-18)


def test_a_problem_without_solution_says_so(simplex):
    with pytest.raises(RuntimeError, match="must end at an optimum, got 'Problem infeasible"):
        simplex(np.array([-1.0, 2.0]), np.array([0.5, 0.5]), np.ones((2, 2)))
    with pytest.raises(RuntimeError, match="must end at an optimum, got 'Problem infeasible"):
        simplex(np.array([-1.0, 2.0]), np.array([1.0]), np.ones((2, 1)))


def value(P, C):
    """The cost of a plan without rounding."""
    k, l = P.nonzero()
    return sum(Fraction(float(P[i])) * Fraction(float(C[i])) for i in zip(k, l, strict=True))


@pytest.mark.parametrize("sentinel", [1e3, 1e7, 99_999_999.0, 1e10, 1e20])
@pytest.mark.parametrize("seed", range(3))
def test_plans_beside_a_far_component_are_those_without_it(seed, sentinel):
    rng = np.random.default_rng(seed)
    a, b = rng.dirichlet(np.ones(8)), rng.dirichlet(np.ones(8))
    x, y = (np.vstack([rng.normal(size=(8, 2)), [[sentinel, 0.0]]]) for _ in range(2))
    C = ((x[:, None] - y) ** 2).sum(-1)
    P, f, g = network_simplex(np.append(0.9 * a, 0.1), np.append(0.9 * b, 0.1), C)
    near = C[:-1, :-1].copy()
    expected = network_simplex(0.9 * a, 0.9 * b, near)[0]
    assert float(value(P, C) / value(expected, near)) == pytest.approx(1, abs=1e-9)
    assert (near - f[:-1, None] - g[:-1] >= -1e-7 * near.max()).all()


@pytest.mark.parametrize("sentinel", [1e7, 99_999_999.0, 1e15])
def test_mass_that_must_go_far_goes_from_where_it_is_cheapest(sentinel):
    # two of three points stay, one of them goes to the far one: which is a matter of the others
    x, y = np.array([0.0, 1.0, 3.0]), np.array([0.2, 1.1, sentinel])
    C = (x[:, None] - y) ** 2
    P, _, _ = network_simplex(np.ones(3), np.ones(3), C)
    costs = {order: value(np.eye(3)[list(order)], C) for order in permutations(range(3))}
    assert value(P, C) == min(costs.values())


@pytest.mark.parametrize("scale", [1e-290, 1e-150, 2.0**-60, 1e-16, 1e150, 1e290])
@pytest.mark.parametrize("n", [1, 2, 9, 40])
def test_plans_are_the_best_assignments_on_every_scale(rng, n, scale):
    C = rng.exponential(size=(n, n)) ** 4
    P, f, g = network_simplex(np.ones(n), np.ones(n), scale * C)
    k, l = scipy.optimize.linear_sum_assignment(C)
    assert (P * C).sum() == pytest.approx(C[k, l].sum(), rel=1e-12)
    assert f.sum() + g.sum() == pytest.approx(scale * C[k, l].sum(), rel=1e-9, abs=0)


@pytest.mark.parametrize("constants", [1e4, 1e8])
def test_what_rows_and_columns_cost_changes_no_plan(rng, constants):
    C = rng.integers(0, 1000, size=(12, 12)).astype(float)
    u, v = constants * rng.integers(-9, 9, size=(2, 12))
    k, l = scipy.optimize.linear_sum_assignment(C)
    P, _, _ = network_simplex(np.ones(12), np.ones(12), C + u[:, None] + v)
    assert (P * C).sum() == C[k, l].sum()


@pytest.mark.parametrize("share", [1e-2, 1e-6])
@pytest.mark.parametrize("total", [1e-12, 1.0, 1e12])
def test_the_total_is_a_unit(rng, share, total):
    a, b = np.array([share, 1 - share]), np.array([0.4, 0.5, 0.1])
    C = rng.random((2, 3))
    P, _, _ = network_simplex(total * a, total * b, C)
    assert np.allclose(P.sum(1), total * a, rtol=1e-12, atol=0)
    assert np.allclose(P.sum(0), total * b, rtol=1e-12, atol=0)
    assert np.allclose(P, total * network_simplex(a, b, C)[0], rtol=1e-12, atol=0)


def test_a_plan_that_is_not_proven_is_solved_again_and_refused_if_that_fails(rng, monkeypatch):
    a, C = np.ones(6), rng.random((6, 6))
    right = (network_simplex(a, a, C)[0] * C).sum()
    solve, calls = module._emd, []

    def wrong(a, b, C):
        """The first plan of the simplex is any, with potentials that prove nothing."""
        calls.append(C)
        if len(calls) > 1:
            return solve(a, b, C)
        return np.outer(a, b), np.zeros_like(a), np.zeros_like(b)

    monkeypatch.setattr(module, "_emd", wrong)
    assert (network_simplex(a, a, C)[0] * C).sum() == pytest.approx(right, rel=1e-12)
    assert len(calls) == 2
    calls.clear()
    monkeypatch.setattr(module, "MAX_REFINEMENTS", 1)
    with pytest.raises(RuntimeError, match="must be solved to a gap of 1e-09 of its cost, got"):
        network_simplex(a, a, C)


def test_missing_mass_is_refused(rng, monkeypatch):
    solve = module._emd
    monkeypatch.setattr(module, "_emd", lambda a, b, C: (0.9 * solve(a, b, C)[0], a, b))
    with pytest.raises(RuntimeError, match=r"got 'a mass of 0\.8"):
        network_simplex(np.ones(3), np.ones(3), rng.random((3, 3)))


@pytest.mark.parametrize("eps", [2.0**-52, 2.0**-23])
def test_no_precision_of_weights_drops_what_a_marginal_needs(rng, eps):
    for K, L in ((1, 1), (1, 7), (40, 41), (400, 401)):
        for a, b in ((np.ones(K), np.ones(L)), (rng.dirichlet(np.ones(n)) for n in (K, L))):
            a, b = a / a.sum(), b / b.sum()
            P, _, _ = network_simplex(a, b, rng.random((K, L)), eps)
            assert max(abs(P.sum(1) - a).max(), abs(P.sum(0) - b).max()) < 1e-12


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("whole", [False, True])
def test_costs_that_are_no_numbers_are_refused(bad, whole):
    C = np.ones((2, 3))
    C[0, : 3 if whole else 1] = bad
    with np.errstate(invalid="ignore"), pytest.raises(ValueError, match="costs must be finite"):
        network_simplex(np.ones(2), np.ones(3), C)


@pytest.mark.parametrize("bad", [0.0, np.nan])
def test_weights_of_no_mass_are_refused(bad):
    with pytest.raises(ValueError, match="weights must have positive sums, got"):
        network_simplex(np.array([bad, bad]), np.ones(2), np.ones((2, 2)))


def test_reduced_costs_keep_digits_that_cancel(rng):
    R, f, g = rng.normal(size=(3, 4)), 1e9 * rng.normal(size=3), 1e9 * rng.normal(size=4)
    R = (f[:, None] + g) + R  # rounded: what is left of these sums is below their rounding
    S, minima, bound = module._reduced(R, f, g)
    exact = [
        [Fraction(R[i, j]) - Fraction(f[i]) - Fraction(g[j]) for j in range(4)] for i in (0, 1, 2)
    ]
    for i, row in enumerate(exact):
        assert minima[i] == pytest.approx(float(min(row)), rel=0, abs=1e-15 + bound)
        for j, value in enumerate(row):
            assert S[i, j] == pytest.approx(float(value - min(row)), rel=0, abs=2e-15 + 2 * bound)
