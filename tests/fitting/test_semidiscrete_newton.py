"""Newton's method for the mixture nearest to points: derivatives, ends and where it gives up."""

import math

import numpy as np
import pytest
import torch

from skgmmot.fitting import semidiscrete
from skgmmot.fitting.semidiscrete import _Transport, fit_to_points
from skgmmot.gaussian.coordinates import RegularisedCoordinates
from skgmmot.gaussian.sampling import sample
from skgmmot.transport.semidiscrete.cells import evaluate

DOUBLE = torch.float64


def descent_at(mixture, points, weights, reg_covar=1e-6):
    """Newton's method at a mixture, and the distance it descends."""
    transport = _Transport(points, weights, reg_covar, None, 0)
    transport.tol = 1e-11
    coordinates = RegularisedCoordinates(mixture, reg_covar)
    transport(mixture)
    return transport.newton(coordinates, mixture), transport, coordinates


@pytest.fixture
def points(rng):
    """Two clouds, a point far from both and some that coincide."""
    clouds = np.vstack([rng.normal(size=(25, 2)), 0.5 * rng.normal(size=(20, 2)) + [4, 1]])
    return torch.tensor(np.vstack([clouds, [[9.0, -6.0]], clouds[:3]]))


@pytest.mark.usefixtures("random_seed")
def test_the_model_is_that_of_the_distance(make_mixture, covariance_type, points, rng):
    mixture = make_mixture(covariance_type, 3, 2)
    weights = torch.tensor(rng.uniform(0.5, 2, len(points)))
    descent, transport, coordinates = descent_at(mixture, points, weights)
    model, free = descent._model(descent.here), descent.here.free

    def slope(vector):
        vector = vector.clone().requires_grad_()
        return torch.autograd.grad(transport(coordinates.from_free(vector)), vector)[0].numpy()

    scale = np.abs(model.hessian).max()
    np.testing.assert_allclose(model.gradient, slope(free), atol=1e-4 * np.abs(slope(free)).max())
    for seed in range(3):
        u = torch.randn(len(free), generator=torch.Generator().manual_seed(seed)).double()
        change = (slope(free + 1e-4 * u) - slope(free - 1e-4 * u)) / 2e-4
        np.testing.assert_allclose(model.hessian @ u.numpy(), change, atol=1e-3 * scale)


@pytest.mark.usefixtures("random_seed")
def test_errors_of_masses_are_corrected_to_higher_order(make_mixture, points):
    mixture, weights = make_mixture("full", 3, 2), torch.ones(len(points), dtype=DOUBLE)
    descent, *_ = descent_at(mixture, points, weights)
    exact, model = descent.here, descent._model(descent.here)
    problem = exact.problem
    error = np.random.default_rng(0).normal(size=problem.masses.shape)
    for size, worst in ((1e-4, 1e-3), (1e-6, 1e-5)):
        heights = exact.cells.heights + size * error
        cells = evaluate(problem.density, problem.sites, heights)
        off = descent._settle(exact.free, exact.mixture, problem, cells, 1.0, math.inf)
        assert np.abs(off.missed).sum() > 10 * np.abs(exact.missed).sum()
        assert math.isclose(off.cost, exact.cost, rel_tol=worst * size)
        gradient = descent._model(off).gradient
        np.testing.assert_allclose(gradient, model.gradient, atol=worst * np.abs(gradient).max())


@pytest.mark.usefixtures("random_seed")
def test_it_ends_where_lbfgs_ends(make_mixture, covariance_type, points, monkeypatch):
    # from a start near the clouds, so that both find the same minimum
    mixture = make_mixture(covariance_type, 2, 2)
    means = torch.tensor([[0.0, 0.0], [4.0, 1.0]], dtype=DOUBLE)
    start = mixture._replace(means=means, weights=torch.full((2,), 0.5, dtype=DOUBLE))
    weights = torch.ones(len(points), dtype=DOUBLE)
    fast = fit_to_points(start, points, weights, tol=1e-9)
    monkeypatch.setattr(semidiscrete, "MAX_COORDINATES", 0)
    slow = fit_to_points(start, points, weights, tol=1e-9, max_iter=1000)
    assert fast.converged and fast.n_iter < slow.n_iter
    assert math.isclose(fast.objective, slow.objective, rel_tol=1e-6)
    for ours, theirs in zip(fast.value, slow.value, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-2)


@pytest.mark.usefixtures("random_seed")
def test_steps_near_the_end_are_newtons_and_converge_quadratically(make_mixture, points):
    X, _ = sample(make_mixture("full", 2, 2), 100)
    start = make_mixture("full", 2, 2)
    descent, *_ = descent_at(start, X, torch.ones(100, dtype=DOUBLE))
    costs = [descent.here.cost]
    while descent.advance() is not None:
        costs.append(descent.here.cost)
    assert descent.settled and (np.diff(costs) < 0).all()
    widths = torch.linalg.eigvalsh(descent.here.mixture.full_covariances())
    if widths.min() > 1e-2:  # at the least width, reg_covar, second derivatives vanish
        assert len(costs) < 30
        left = np.array(costs) / costs[-1] - 1
        # one step from half of a per mille of the end is at most a few millionths away
        first = np.flatnonzero(left < 5e-4)[0]
        assert left[min(first + 1, len(left) - 1)] < 5e-6
