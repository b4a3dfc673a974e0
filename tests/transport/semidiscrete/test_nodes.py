"""Semi-discrete transport by nodes: moments, gradients, errors, scales."""

import numpy as np
import pytest
import torch

from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.transport.discrete import column_generation
from skgmmot.transport.semidiscrete.nodes import mixture_nodes, nodes_plan, standard_nodes
from skgmmot.transport.semidiscrete.plan import exact_plan

DOUBLE = torch.float64


def mixture_problem(make_mixture, covariance_type, n=8, d=2):
    mixture = make_mixture(covariance_type, 3, d)
    g = torch.Generator().manual_seed(5)
    points = 2 * torch.randn(n, d, dtype=DOUBLE, generator=g)
    return mixture, points, torch.rand(n, dtype=DOUBLE, generator=g) + 0.1


def test_gradients_through_nodes_are_those_of_finite_differences(make_mixture):
    mixture, points, weights = mixture_problem(make_mixture, "full", d=3)

    def cost(logits, means, factors, points, weights):
        moved = GaussianMixtureParams(logits.softmax(0), means, factors @ factors.mT)
        options = {"n_nodes": 96, "estimate_error": False}
        return nodes_plan(moved, points, weights, **options).cost

    factors = torch.linalg.cholesky(mixture.covariances)
    inputs = (mixture.weights.log(), mixture.means, factors, points, weights)
    inputs = [t.clone().requires_grad_() for t in inputs]
    assert torch.autograd.gradcheck(cost, inputs, eps=1e-7, atol=1e-5)


@pytest.mark.usefixtures("random_seed")
def test_nodes_approach_the_exact_plan_by_the_error_they_estimate(make_mixture):
    mixture, points, weights = mixture_problem(make_mixture, "full")
    exact = exact_plan(mixture, points, weights)
    coarse, fine = (nodes_plan(mixture, points, weights, n_nodes=n) for n in (128, 2048))
    for plan, most in ((coarse, 0.1), (fine, 0.05)):
        assert abs(float(plan.cost - exact.cost)) < plan.error < most * float(exact.cost)
    assert fine.error < coarse.error
    assert torch.allclose(fine.masses, exact.masses)
    assert torch.allclose(fine.potentials, exact.potentials, atol=0.4)
    assert torch.allclose(fine.barycentres, exact.barycentres, atol=0.3)


def test_nodes_err_to_either_side_by_less_than_the_error_they_estimate(rng, random_seed):
    shares = []
    for seed in range(60):
        weights = torch.tensor(rng.dirichlet([3.0, 3.0]))
        A = torch.tensor(rng.normal(size=(2, 2, 2)))
        covariances = A @ A.mT + 0.1 * torch.eye(2, dtype=DOUBLE)
        mixture = GaussianMixtureParams(
            weights, torch.tensor(2 * rng.normal(size=(2, 2))), covariances
        )
        points, b = torch.tensor(2 * rng.normal(size=(10, 2))), torch.ones(10, dtype=DOUBLE)
        plan = nodes_plan(mixture, points, b, n_nodes=128, random_state=seed + 60 * random_seed)
        shares.append(float(plan.cost - exact_plan(mixture, points, b).cost) / plan.error)
    shares = np.array(shares)
    assert 0.3 < np.mean(shares > 0) < 0.7
    assert np.mean(np.abs(shares) <= 1) >= 0.98
    assert np.median(np.abs(shares)) > 0.1


def test_nodes_have_the_moments_of_the_mixture(make_mixture):
    z = torch.as_tensor(standard_nodes(64, 3))
    assert torch.allclose(z.mean(0), torch.zeros(3, dtype=DOUBLE), atol=1e-12)
    assert torch.allclose(z.mT @ z / 64, torch.eye(3, dtype=DOUBLE), atol=1e-12)
    mixture = make_mixture("full", 2, 3)
    nodes, a = mixture_nodes(mixture, z)
    assert torch.allclose(a @ nodes, mixture.weights @ mixture.means)
    centred = nodes[:64] - mixture.means[0]
    assert torch.allclose(centred.mT @ centred / 64, mixture.covariances[0])


@pytest.mark.parametrize("scale", [2.0**-400, 2.0**400])
def test_scale_does_not_count_for_nodes(make_mixture, scale):
    w, m, C = make_mixture("full", K=3, d=3)
    points = torch.randn(20, 3, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    weights = torch.ones(20, dtype=DOUBLE)
    expected = nodes_plan(GaussianMixtureParams(w, m, C), points, weights, n_nodes=128)
    scaled = GaussianMixtureParams(w, scale * m, scale**2 * C)
    plan = nodes_plan(scaled, scale * points, weights, n_nodes=128)
    assert plan.cost == scale**2 * expected.cost and plan.error == scale**2 * expected.error
    assert torch.equal(plan.potentials, scale**2 * expected.potentials)
    assert torch.equal(plan.barycentres, scale * expected.barycentres)


def test_too_many_nodes_are_refused(make_mixture):
    points = torch.zeros(2**14, 2, dtype=DOUBLE)
    with pytest.raises(ValueError, match=r"n_nodes times the number of points must be at most"):
        nodes_plan(make_mixture("full", 2, 2), points, torch.ones(2**14), n_nodes=2**14)


@pytest.mark.parametrize("mass", [1.0, 0.7])
def test_potentials_of_a_mixture_nearby_lead_to_the_same_plan(make_mixture, monkeypatch, mass):
    mixture, points, weights = mixture_problem(make_mixture, "full", n=40)
    options = {"n_nodes": 256, "estimate_error": False, "mass": mass}
    near = nodes_plan(mixture.translated(torch.tensor([0.01, 0.0])), points, weights, **options)
    cold = nodes_plan(mixture, points, weights, **options)
    monkeypatch.setattr(column_generation, "MIN_COSTS", 2_000)
    plan = nodes_plan(mixture, points, weights, potentials=near.potentials, **options)
    assert torch.allclose(plan.cost, cold.cost, rtol=1e-9)
    assert torch.allclose(plan.masses, cold.masses, atol=1e-12)
    assert torch.allclose(plan.barycentres, cold.barycentres, atol=1e-9)


@pytest.mark.parametrize("width", [1e-150, 1e-100])
def test_a_mixture_that_is_tiny_against_its_distance_from_the_points_is_one_point(width):
    variances = torch.full((2, 1), width, dtype=DOUBLE) * width
    mixture = GaussianMixtureParams(
        torch.full((2,), 0.5, dtype=DOUBLE), torch.zeros(2, 1, dtype=DOUBLE), variances, "spherical"
    )
    plan = nodes_plan(mixture, torch.tensor([[-1e12]], dtype=DOUBLE), torch.ones(1, dtype=DOUBLE))
    assert float(plan.cost) == pytest.approx(1e24) and np.isfinite(plan.error)


def test_nodes_of_singular_covariances_are_refused():
    covariances = torch.stack([torch.eye(2), torch.ones(2, 2)]).double()
    mixture = GaussianMixtureParams(
        torch.full((2,), 0.5).double(), torch.zeros(2, 2).double(), covariances
    )
    with pytest.raises(ValueError, match=r"must be positive definite .* components \[1\]"):
        mixture_nodes(mixture, torch.zeros(3, 2).double())
