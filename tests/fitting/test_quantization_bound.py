"""How far quantisations may be from the best: characteristic functions, bounds, errors of plans."""

import numpy as np
import pytest
import torch

from skgmmot import GridDensity
from skgmmot.fitting.quantization import Lloyd, Samples
from skgmmot.fitting.quantization_bound import (
    characteristic_of_grid,
    characteristic_of_mixture,
    cost_bound,
    cost_error,
)
from skgmmot.transport.discrete.clustering_bound import characteristic_of
from skgmmot.transport.semidiscrete.nodes import mixture_nodes, standard_nodes

W = torch.tensor(np.random.default_rng(3).normal(size=(4, 2)))


def pixels(density, finer):
    """The centres of pixels cut into finer ones, and their masses."""
    values = density.upwards().values.numpy()
    for axis in range(values.ndim):
        values = values.repeat(finer, axis)
    ends = zip(density.extent[::2], density.extent[1::2], values.shape[::-1], strict=True)
    axes = [low + (np.arange(n) + 0.5) * (high - low) / n for low, high, n in ends]
    grid = np.meshgrid(*axes[::-1], indexing="ij")[::-1]
    X = np.stack([g.ravel() for g in grid], axis=1)
    return torch.from_numpy(X), torch.from_numpy(values.ravel() / values.sum())


def image(*shape, periodic=False):
    values = torch.tensor(np.random.default_rng(0).random(shape) ** 2)
    extent = (1.0, 4.0, -1.0, 1.0, 0.0, 2.0)[: 2 * len(shape)]
    return GridDensity(values, extent, periodic=periodic)


@pytest.mark.parametrize("shape", [(5, 7), (3, 4, 2)])
def test_characteristic_function_of_a_grid(shape):
    density, w = image(*shape), torch.cat([W, W[:, :1]], 1)[:, : len(shape)]
    found = characteristic_of_grid(density.upwards(), w)
    expected = characteristic_of(*pixels(density, 8), w)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=4e-3)


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
def test_characteristic_function_of_a_mixture(make_mixture, covariance_type):
    mixture = make_mixture(covariance_type, 3, 2)
    nodes = mixture_nodes(mixture, torch.as_tensor(standard_nodes(2**13, 2)))
    found, expected = characteristic_of_mixture(mixture, W), characteristic_of(*nodes, W)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=3e-3)


def test_bounds_of_densities_are_those_of_fine_samples(make_mixture):
    density, mixture = image(6, 8), make_mixture("full", 3, 2)
    nodes = Samples(*mixture_nodes(mixture, torch.as_tensor(standard_nodes(2**11, 2))))
    for each, samples in ((density, Samples(*pixels(density, 4))), (mixture, nodes)):
        bound = cost_bound(each, 4, 0.5)
        assert bound == pytest.approx(cost_bound(samples, 4, 0.5), rel=5e-2)  # kernel or features
        assert cost_bound(nodes._replace(of=each), 4, 0.5) == bound > 0


def test_periodic_images_have_bounds_of_their_own():
    whole, periodic = (cost_bound(image(6, 8, periodic=p), 4, 0.2) for p in (False, True))
    assert 0 < periodic < whole


def uniform(m):
    return torch.full((m,), 1 / m, dtype=torch.float64)


@pytest.mark.parametrize("masses", [None, uniform(3)])
def test_errors_of_costs(make_mixture, masses):
    mixture, y = make_mixture("full", 2, 2), torch.tensor([[0.0, 1.0], [2.0, 0.0], [-1.0, -1.0]])
    y = y.double()
    exact = Lloyd(mixture, masses)
    plan, _ = exact.final_plan(y)
    assert 0 < cost_error(exact, y, plan) < 1e-6
    nodes = Samples(*mixture_nodes(mixture, torch.as_tensor(standard_nodes(256, 2))), of=mixture)
    by_nodes = Lloyd(nodes, masses)
    other, _ = by_nodes.final_plan(y)
    off = abs(float(plan.cost - other.cost))
    assert off < cost_error(by_nodes, y, other) < 100 * off
    of_samples = Lloyd(nodes._replace(of=None), masses)
    plan, _ = of_samples.final_plan(y)
    assert 0 < cost_error(of_samples, y, plan) < 1e-11
