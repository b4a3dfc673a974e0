"""Second derivatives of semi-discrete transport, against differences of first ones."""

import numpy as np
import pytest
import torch

from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.transport.semidiscrete.cells import evaluate
from skgmmot.transport.semidiscrete.scaled_problem import ScaledProblem
from skgmmot.transport.semidiscrete.second_order import second_order

DOUBLE = torch.float64


def symmetric(entries):
    """A matrix from its entries (1, 1), (1, 2), (2, 2)."""
    a, b, c = entries
    return np.array([[a, b], [b, c]])


def moved(mixture, component, change):
    """A mixture with a change of the six parameters of one component, relative to it."""
    weights, means, covariances = (t.clone() for t in mixture)
    L = torch.linalg.cholesky(covariances[component])
    weights[component] += change[0]
    means[component] += L @ torch.tensor(change[1:3])
    covariances[component] = L @ torch.tensor(np.eye(2) + symmetric(change[3:])) @ L.mT
    return GaussianMixtureParams(weights, means, covariances)


def duals(mixture, points, b, potentials):
    """The dual objective without a constant, its gradient and the cells' masses, at potentials.

    Weights need not sum to one: masses and costs are those of the shares, times their sum.
    """
    total = float(mixture.weights.sum())
    problem = ScaledProblem(mixture, points, b)
    cells = evaluate(problem.density, problem.sites, problem.heights(potentials))
    moments = problem.density.moments(cells.diagram)
    psi = problem.unit * problem.step * (problem.level[problem.first] - cells.heights)
    value = problem.cost(cells, moments) - problem.masses @ psi
    return total * value, total * cells.masses, problem, cells


@pytest.fixture(params=[0, 1])
def case(request, make_mixture):
    """Three components, fifteen points, their masses, and any potentials that leave each a cell."""
    mixture = make_mixture("full", 3, 2, seed=request.param, spread=1.0)
    rng = np.random.default_rng(request.param)
    points = torch.tensor(3.0 + 2 * rng.normal(size=(15, 2)))
    points = torch.cat([points, points[:2]])  # some coincide
    b = torch.tensor(rng.dirichlet(np.ones(17)))
    potentials = 0.3 * rng.normal(size=17)
    potentials[15:] = potentials[:2]
    return mixture, points, b, potentials


@pytest.mark.parametrize("component", [0, 2])
def test_first_derivatives_are_differences_of_values(case, component):
    mixture, *rest = case
    *_, problem, cells = duals(mixture, *rest)
    second = second_order(problem, cells)
    one = 1e-5 * np.eye(6)[0]
    for entry, step in enumerate(1e-5 * np.eye(6)):
        ahead, behind = (moved(mixture, component, s * step) for s in (1, -1))
        slope = second.gradient[component, entry]
        if not entry:  # is known up to a constant: the weight is that of the next component
            ahead, behind = moved(ahead, 1, -one), moved(behind, 1, one)
            slope -= second.gradient[1, 0]
        values, masses = zip(*(duals(m, *rest)[:2] for m in (ahead, behind)), strict=True)
        assert slope == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-6, abs=1e-7)
        expected = second.masses[component, entry] - (0 if entry else second.masses[1, 0])
        # sites are in one order in all problems
        np.testing.assert_allclose(expected, (masses[0] - masses[1]) / 2e-5, atol=1e-8)


@pytest.mark.parametrize("component", [0, 1])
def test_second_derivatives_are_differences_of_first_ones(case, component):
    mixture, *rest = case
    *_, problem, cells = duals(mixture, *rest)
    hessian = second_order(problem, cells).hessian[component]
    assert np.array_equal(hessian, hessian.T)
    w, h = float(mixture.weights[component]), 1e-4

    def value(*changes):
        return duals(moved(mixture, component, sum(changes)), *rest)[0]

    for i, one in enumerate(h * np.eye(6)):
        for j, other in enumerate(h * np.eye(6)[: i + 1]):
            both = value(one, other) - value(one, -other) - value(-one, other)
            expected = (both + value(-one, -other)) / (4 * h * h)
            assert hessian[i, j] == pytest.approx(expected, rel=1e-4, abs=1e-4 * w)
