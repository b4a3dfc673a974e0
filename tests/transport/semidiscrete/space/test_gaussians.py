"""Transport of a mixture in space: half spaces, finer rules, samples, finite differences."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.transport.semidiscrete.plan import exact_plan
from skgmmot.transport.semidiscrete.space import gaussians
from skgmmot.transport.semidiscrete.space.gaussians import SpaceMixtureIntegrals

DOUBLE = torch.float64


@pytest.fixture
def mixture(rng):
    """A mixture of two components, one of them narrow, with its mean at the origin."""
    A = rng.normal(size=(2, 3, 3)) * np.array([1.0, 0.2])[:, None, None]
    covariances = A @ A.transpose(0, 2, 1) + 0.01 * np.eye(3)
    one = SpaceMixtureIntegrals(np.array([0.3, 0.7]), rng.normal(size=(2, 3)), covariances)
    return one.centred()[0]


def cells_of(mixture, n, rng):
    sites = rng.normal(size=(n, 3))
    return sites, mixture.diagram(sites, (sites**2).sum(1) - 0.1 * rng.random(n))


def test_half_spaces_have_the_masses_of_a_line(mixture):
    sites = np.array([[0.3, -0.2, 0.5], [-0.4, 0.1, 0.2]])
    masses, along = mixture.measure(mixture.diagram(sites, np.array([0.2, 0.1])))
    normal, level = sites[1] - sites[0], (0.1 - 0.2) / 2
    middle = mixture.means @ normal
    deviation = np.sqrt([normal @ S @ normal for S in mixture.covariances])
    z = (level - middle) / deviation
    assert np.isclose(masses[0], mixture.weights @ norm.cdf(z), atol=1e-13)
    length = np.linalg.norm(normal)
    assert np.isclose(along[0], mixture.weights @ (norm.pdf(z) / deviation) * length, rtol=1e-12)


def test_finer_rules_change_nothing(mixture, rng, monkeypatch):
    _, diagram = cells_of(mixture, 30, rng)
    masses, moments = mixture.measure(diagram)[0], mixture.moments(diagram)
    monkeypatch.setattr(gaussians, "LONGEST_SIDE", 1.0)
    finer = mixture.centred()[0]
    assert np.allclose(masses, finer.measure(diagram)[0], rtol=0, atol=1e-12)
    assert np.allclose(moments, finer.moments(diagram), rtol=0, atol=1e-12)
    assert np.isclose(masses.sum(), 1, rtol=1e-14) and np.allclose(moments.sum(0), 0, atol=1e-14)


def test_nodes_resemble_the_mixture(mixture, rng):
    _, diagram = cells_of(mixture, 6, rng)
    places, mass = mixture.nodes(20_000)
    assert np.allclose((mass * places.T) @ places, mixture.covariance(), atol=5e-3)
    component, first = mixture.component_moments(diagram)
    assert component.shape == (2, 6) and first.shape == (2, 6, 3)
    assert np.allclose(component.sum(1), 1) and np.allclose(first.sum(1), mixture.means)


def test_a_gaussian_onto_points_of_a_line_is_transport_on_that_line():
    normal = GaussianMixtureParams(
        torch.ones(1, dtype=DOUBLE),
        torch.zeros(1, 3, dtype=DOUBLE),
        4 * torch.eye(3).double()[None],
    )
    points = torch.tensor([[-1.0, 0, 0], [1.0, 0, 0]], dtype=DOUBLE)
    plan = exact_plan(normal, points, torch.ones(2, dtype=DOUBLE))
    # E (|x| - 1)^2 + 8 = 4 + 1 - 2 E |x| + 8
    assert math.isclose(plan.cost, 13 - 4 * math.sqrt(2 / math.pi), rel_tol=1e-12)


def test_gradients_are_those_of_finite_differences(make_mixture):
    mixture = make_mixture("full", 2, 3)
    g = torch.Generator().manual_seed(5)
    points = 2 * torch.randn(4, 3, dtype=DOUBLE, generator=g)
    weights = torch.rand(4, dtype=DOUBLE, generator=g) + 0.2

    def cost(logits, means, covariances, points, weights):
        moved = GaussianMixtureParams(logits.softmax(0), means, (covariances + covariances.mT) / 2)
        return exact_plan(moved, points, weights, tol=1e-13).cost

    inputs = (mixture.weights.log(), mixture.means, mixture.covariances, points, weights)
    inputs = [t.clone().requires_grad_() for t in inputs]
    assert torch.autograd.gradcheck(cost, inputs, eps=1e-5, atol=1e-6, fast_mode=True)
