"""Derivatives of fits with low-rank covariances, by autograd block by block."""

import pytest
import torch
from torch.testing import assert_close

from skgmmot.fitting.em.gradient.taped import TapedEM
from skgmmot.fitting.em.rows import EM
from skgmmot.fitting.em.step import em_step
from skgmmot.fitting.samples import InMemory
from skgmmot.functional import fit_em
from skgmmot.gaussian.covariance.low_rank import LowRank
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.numerics.newton.linearisation import AutogradLinearisation

F64 = torch.float64
K, d, r = 2, 4, 1


@pytest.fixture
def X(make_samples):
    """Samples of two thin clusters, with one factor each."""
    z, noise = make_samples(80, 1), make_samples(80, d, seed=1)
    lines = torch.tensor([[1.0, 2.0, 0.0, -1.0], [2.0, 0.0, 1.0, 1.0]], dtype=F64).repeat(40, 1)
    centres = torch.tensor([[0.0] * d, [5.0] * d], dtype=F64).repeat(40, 1)
    return centres + z * lines + 0.5 * noise


@pytest.fixture
def theta0(X):
    """A start."""
    kind = LowRank(r)
    covariances = kind.begun(torch.ones(K, d, dtype=F64))
    weights = torch.full((K,), 1 / K, dtype=F64)
    return GaussianMixtureParams(weights, X[:K].clone(), covariances, kind)


@pytest.mark.parametrize(
    "options",
    [
        {"gradient": "implicit"},
        {"gradient": "implicit", "fixed_weights": True},
        {"gradient": "implicit", "fixed_means": [True, False]},
        {"gradient": "implicit", "fixed_covariances": [False, True]},
        {"gradient": "implicit", "e_step": "sinkhorn", "acceleration": None},
        {"gradient": "automatic", "acceleration": None, "max_iter": 20, "tol": 0.0},
    ],
)
def test_gradients_are_finite_differences(options, X, theta0):
    # an implicit fit is polished from where EM ends
    defaults = {"acceleration": "squarem", "tol": 1e-6, "gradient_tol": 1e-9, "reg_covar": 1e-3}
    options = defaults | options
    a = torch.linspace(0.5, 1.5, len(X), dtype=F64)
    generator = torch.Generator().manual_seed(3)
    shapes = X.shape, a.shape, (K,), (K, d), (K, d, d)
    dX, da, *v = (torch.randn(s, dtype=F64, generator=generator) for s in shapes)

    def loss(X, a):
        theta = fit_em(theta0, X, a, **options).value
        numbers = theta.weights, theta.means, theta.full_covariances()
        return sum((p * q).sum() for p, q in zip(numbers, v, strict=True))

    inputs = X.clone().requires_grad_(), a.clone().requires_grad_()
    of_X, of_a = torch.autograd.grad(loss(*inputs), inputs)
    eps = 1e-4
    ahead, behind = (loss((X + t * dX).requires_grad_(), a + t * da).detach() for t in (eps, -eps))
    found = (of_X * dX).sum() + (of_a * da).sum()
    assert_close(found, (ahead - behind) / (2 * eps), rtol=1e-4, atol=1e-4)


def test_products_are_those_of_autograd_and_symmetric_at_a_fixed_point(X, theta0):
    theta = fit_em(theta0, X, tol=1e-15, max_iter=2000, reg_covar=0.0).value
    em = EM(InMemory(X), torch.zeros(d, dtype=F64), 0.0)
    linear = TapedEM(em, theta)
    assert linear.residual.norm() < 1e-5
    identity = torch.eye(linear.residual.numel(), dtype=F64)
    J = linear.product(identity)
    assert_close(J, J.mT, atol=1e-5, rtol=1e-5)
    whole = AutogradLinearisation(lambda theta: em_step(theta, X), theta)
    u = theta.map(torch.ones_like)
    u = linear.decode(linear.encode(u))
    expected = linear.encode(whole.decode(whole.product(whole.encode(u))))
    assert_close(linear.product(linear.encode(u)), expected, rtol=1e-8, atol=1e-10)


def test_it_has_no_natural_gradient(X, theta0):
    options = {"gradient": "natural", "fixed_weights": True}
    theta = fit_em(theta0, X.clone().requires_grad_(), **options).value
    with pytest.raises(ValueError, match="'natural' must be used with an elementary covariance"):
        theta.means.sum().backward()
