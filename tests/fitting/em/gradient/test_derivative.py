"""The derivative of one EM iteration by hand, against autograd's tape."""

import pytest
import torch
from torch.testing import assert_close

from skgmmot.fitting.em.gradient.adjoint import FeatureAdjoint, score
from skgmmot.fitting.em.gradient.derivative import FeatureCovariance, is_small, m_step_pullback
from skgmmot.fitting.em.step import m_step
from skgmmot.gaussian.covariance.registry import ELEMENTARY_TYPES
from skgmmot.gaussian.evaluators import FeatureEStep
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.gaussian.statistics import Statistics, e_step

F64 = torch.float64


@pytest.fixture(params=[t.name for t in ELEMENTARY_TYPES])
def theta(request, make_mixture):
    """Four overlapping components in three dimensions."""
    return make_mixture(request.param, 4, 3)


@pytest.fixture(params=["weighted", "plain"])
def a(request, make_samples):
    return make_samples(50, 1, seed=1).squeeze(1).exp() if request.param == "weighted" else None


@pytest.fixture
def X(make_samples):
    return 2 * make_samples(50, 3)


def symmetric(theta, seed, *batch):
    """Cotangents of a mixture, symmetric where it is."""
    generator = torch.Generator().manual_seed(seed)
    w, m, S = (torch.randn(*batch, *t.shape, dtype=F64, generator=generator) for t in theta)
    kind = theta.covariance_type
    return GaussianMixtureParams(w, m, 2 * kind.symmetric(S), kind)


def lend(name, shape, dtype):
    """Memory that is never reused."""
    return torch.empty(shape, dtype=dtype)


def inner(left, right):
    return sum((p * q).sum() for p, q in zip(left, right, strict=True))


def test_the_m_step_is_pulled_back_as_autograd_does(theta, X, a):
    statistics = Statistics(*(t.detach() for t in e_step(theta, X, a)))
    u = symmetric(theta, 3)
    leaves = Statistics(*(t.clone().requires_grad_() for t in statistics))
    expected = torch.autograd.grad(inner(m_step(theta, leaves, 1e-3), u), leaves[:3])
    assert_close(tuple(m_step_pullback(theta, statistics, u)[:3]), expected)


def test_products_of_the_features_covariance_are_passes(theta, X, a):
    about = theta.translated(torch.full((3,), -0.1, dtype=F64))
    step = FeatureEStep(about, torch.full((3,), 0.1, dtype=F64))
    statistics = e_step(theta, X, a)
    several = symmetric(theta, 11, 5)  # five cotangents at once
    covariance = FeatureCovariance(step)
    adjoint = FeatureAdjoint(step, m_step_pullback(theta, statistics, several))
    found = covariance.product(adjoint.H, *covariance.block(X, a, lend))
    for i, H in enumerate(adjoint.H):
        one = several.map(lambda t, i=i: t[i])
        single = FeatureAdjoint(step, m_step_pullback(theta, statistics, one))
        assert_close(single.H, H)
        assert_close(found[i], single.block(X, a, lend)[0])
    precisions = step.precisions
    moments = score(theta, precisions, adjoint.moments(found))
    last = score(theta, precisions, single.moments(found[4]))
    assert_close(tuple(t[4] for t in moments), tuple(last))


def test_the_features_covariance_is_for_small_mixtures_near_the_origin(make_mixture):
    def step(K, d, offset=0.0):
        theta = make_mixture("full", K, d)
        return FeatureEStep(theta.translated(torch.full((d,), offset, dtype=F64)), torch.zeros(d))

    assert is_small(step(4, 3))
    assert not is_small(step(20, 3))
    assert not is_small(step(4, 3, offset=1e3))


def test_a_tied_covariance_of_many_numbers_and_no_features_is_not_small(make_mixture):
    def step(d):
        theta = make_mixture("tied", 2, d)
        return FeatureEStep(theta, torch.zeros(d))

    assert is_small(step(10))  # 122 numbers
    assert not is_small(step(20))  # 442 numbers, 42 features
