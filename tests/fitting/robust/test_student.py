"""Mixtures of Student-t distributions as values: densities, sums, the M-step, moments."""

import math

import numpy as np
import pytest
import torch
from scipy.special import digamma
from scipy.stats import multivariate_normal, multivariate_t

from skgmmot.fitting.robust.student import (
    LEAST,
    MOST,
    StudentEStep,
    StudentMixtureParams,
    e_step,
    m_step,
    moments_of,
    next_degrees,
)
from skgmmot.gaussian.covariance.registry import COVARIANCE_TYPES
from skgmmot.gaussian.log_density import log_responsibilities
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.numerics import blocks

F64 = torch.float64
TYPES = ("full", "tied", "diag", "spherical")


def two(kind="full", nu=(3.0, 8.0)):
    """Two components in the plane."""
    identity = torch.eye(2, dtype=F64)
    storage = {
        "full": torch.stack([identity, 2 * identity + 0.5]),
        "tied": 1.5 * identity[None],
        "diag": torch.tensor([[1.0, 2.0], [0.5, 1.0]], dtype=F64),
        "spherical": torch.tensor([[1.0], [2.0]], dtype=F64),
    }[kind]
    weights, means = torch.tensor([0.4, 0.6], dtype=F64), torch.tensor([[0.0, 0], [3, 1]]).double()
    nu = torch.tensor(nu, dtype=F64)
    return StudentMixtureParams(weights, means, storage, nu, COVARIANCE_TYPES[kind])


@pytest.fixture(scope="module")
def X():
    return torch.randn(1500, 2, generator=torch.Generator().manual_seed(0), dtype=F64) * 3


@pytest.fixture(scope="module")
def a():
    return torch.rand(1500, generator=torch.Generator().manual_seed(1), dtype=F64) + 0.5


def evaluator(theta, n_samples=None, **options):
    prepared = theta.gaussians().prepare()
    return StudentEStep(prepared, theta.degrees_of_freedom, n_samples, **options)


@pytest.mark.parametrize("n_samples", [None, 1500])
def test_densities_are_those_of_scipy(X, n_samples):
    theta = two()
    parts = zip(*(t.numpy() for t in theta), strict=True)
    expected = [math.log(w) + multivariate_t(m, S, nu).logpdf(X.numpy()) for w, m, S, nu in parts]
    found = evaluator(theta, n_samples).log_joint(X)
    np.testing.assert_allclose(found, np.stack(expected), rtol=0, atol=1e-10)


def test_infinite_degrees_of_freedom_are_gaussian(X):
    theta = two(nu=(math.inf, 1e9))
    parts = zip(theta.weights, theta.means, theta.covariances, strict=True)
    expected = [math.log(w) + multivariate_normal.logpdf(X, m, S) for w, m, S in parts]
    step = evaluator(theta)
    np.testing.assert_allclose(step.log_joint(X), np.stack(expected), rtol=0, atol=1e-11)
    assert (step.scales(step.distances(X)) == 1).all()


def test_far_samples_belong_to_the_heaviest_tail_and_have_a_density():
    X = torch.tensor([[1e200, 0.0], [3e160, -1e160]], dtype=F64)
    for n_samples in (None, 1e5):
        step = evaluator(two(), n_samples)
        assert step.responsibilities(X)[0][0].tolist() == [1.0, 1.0]
        expected = multivariate_t([0, 0], np.eye(2), 3).logpdf([[1e100, 0.0]])
        slope = -5 * 100 * math.log(10)  # nu + d powers of the distance
        assert float(step.log_density(X)[0]) == pytest.approx(
            math.log(0.4) + float(expected) + slope
        )
    near = X.clone()
    near[1] = 0
    near.requires_grad_()
    evaluator(two()).log_density(near).sum().backward()
    assert torch.isfinite(near.grad).all() and near.grad[0].eq(0).all()


@pytest.mark.parametrize("kind", TYPES)
def test_sums_of_blocks_are_those_of_the_definition(X, a, kind):
    theta, expected = two(kind), e_step(two(kind), X, a)
    origin = blocks.origin(X, a)
    step = evaluator(theta.translated(-origin), len(X), origin=origin)
    two_blocks = [step.block(X[i], a[i], memory) for i in (slice(600), slice(600, None))]
    found = step.statistics(*map(sum, zip(*two_blocks, strict=True)))
    for name in ("mass", "tails", "squares"):
        here, there = getattr(found, name), getattr(expected, name)
        torch.testing.assert_close(here, there, rtol=1e-10, atol=0)
    for here, there in zip(found.weighted, expected.weighted, strict=True):
        torch.testing.assert_close(here, there, rtol=1e-9, atol=1e-8)


def memory(_, shape, dtype):
    return torch.empty(shape, dtype=dtype)


def test_an_iteration_is_that_of_peel_and_mclachlan(X, a):
    theta = two()
    parts = zip(theta.means.numpy(), theta.covariances.numpy(), strict=True)
    ys = ((X.numpy() - m, np.linalg.inv(S)) for m, S in parts)
    distance = np.stack([np.einsum("ni,ij,nj->n", y, P, y) for y, P in ys])
    nu = theta.degrees_of_freedom.numpy()
    resp = torch.softmax(evaluator(theta).log_joint(X), 0).numpy() * a.numpy()
    u = (nu[:, None] + 2) / (nu[:, None] + distance)
    found = m_step(theta, e_step(theta, X, a))
    mass = resp.sum(1)
    np.testing.assert_allclose(found.weights, mass / mass.sum(), rtol=1e-12)
    means = ((resp * u) @ X.numpy()) / (resp * u).sum(1)[:, None]
    np.testing.assert_allclose(found.means, means, rtol=1e-11)
    for k in range(2):
        y = X.numpy() - means[k]
        scatter = ((resp * u)[k, :, None] * y).T @ y / mass[k]
        np.testing.assert_allclose(found.covariances[k], scatter, rtol=1e-10)
    new = found.degrees_of_freedom.numpy()
    half = (nu + 2) / 2
    tails = (resp * (np.log(u) - u)).sum(1) / mass
    left = np.log(new / 2) - digamma(new / 2) + 1 + tails + digamma(half) - np.log(half)
    np.testing.assert_allclose(left, 0, atol=1e-12)


def test_degrees_of_freedom_stay_in_their_range_and_have_derivatives():
    nu = torch.tensor([5.0, 5.0, 5.0], dtype=F64)
    tails = torch.tensor([0.0, -1e9, -1.1], dtype=F64, requires_grad=True)
    found = next_degrees(nu, tails, 2)
    assert found.tolist()[:2] == pytest.approx([MOST, LEAST])
    (slope,) = torch.autograd.grad(found.sum(), tails)
    eps = 1e-6
    moved = next_degrees(nu, tails.detach() + eps, 2) - next_degrees(nu, tails.detach() - eps, 2)
    assert slope[:2].tolist() == [0, 0]
    assert float(slope[2]) == pytest.approx(float(moved[2]) / (2 * eps), rel=1e-6)


def test_a_component_without_samples_stays(X):
    theta = two()._replace(means=torch.tensor([[0.0, 0], [1e12, 0]], dtype=F64))
    found = m_step(theta, e_step(theta, X[:50]))
    far = e_step(theta._replace(weights=torch.tensor([1.0, 0.0], dtype=F64)), X[:50])
    stays = m_step(theta, far)
    assert stays.weights[1] == 0 and stays.means[1, 0] == 1e12
    assert stays.degrees_of_freedom[1] == theta.degrees_of_freedom[1]
    assert all(torch.isfinite(t).all() for t in found)


@pytest.mark.parametrize("kind", TYPES)
def test_moments_are_those_of_the_components(kind):
    theta = two(kind)
    found = moments_of(theta)
    each = theta.gaussians().full_covariances()
    factor = torch.tensor([3.0, 8 / 6], dtype=F64)[:, None, None]
    torch.testing.assert_close(found.full_covariances(), each * factor)
    equal = moments_of(theta._replace(degrees_of_freedom=torch.full((2,), 4.0, dtype=F64)))
    assert equal.covariance_type == theta.covariance_type
    torch.testing.assert_close(equal.full_covariances(), 2 * each)
    infinite = moments_of(theta._replace(degrees_of_freedom=torch.full((2,), math.inf).double()))
    torch.testing.assert_close(infinite.full_covariances(), each)


def test_without_a_covariance_there_are_no_moments():
    with pytest.raises(ValueError, match=r"above 2 for a covariance, got 2 in component 1"):
        moments_of(two(nu=(3.0, 2.0)))


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("size", [1e160, -1e200, 1e300])
def test_samples_far_from_gaussian_components_alone_belong_to_the_widest(kind, size):
    theta = two(kind, nu=(math.inf, math.inf))
    X = torch.tensor([[size, 0.0], [0.0, 0.0], [size, size]], dtype=F64)
    step = evaluator(theta)
    resp = step.responsibilities(X)[0]
    expected = log_responsibilities(
        GaussianMixtureParams(theta.weights, theta.means, theta.covariances, theta.covariance_type),
        X,
    ).exp()
    torch.testing.assert_close(resp, expected)
    assert torch.isneginf(step.log_density(X)[[0, 2]]).all()
    torch.testing.assert_close(step.log_responsibilities(X).exp(), resp)
