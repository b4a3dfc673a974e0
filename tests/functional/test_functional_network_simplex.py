"""The network simplex, called directly and by POT's face."""

import numpy as np
import ot
import pytest

from skgmmot.functional import network_simplex as module
from skgmmot.functional.network_simplex import network_simplex


@pytest.fixture(params=["direct", "by POT's face"])
def simplex(request, monkeypatch):
    """The solver, by both ways to call it."""
    if request.param == "direct":
        assert module.emd_c is not None
    else:
        monkeypatch.setattr(module, "emd_c", None)
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
