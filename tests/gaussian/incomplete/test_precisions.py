"""Samples of many patterns by the precisions of all features: against one pattern at a time."""

import math

import pytest
import torch
from torch.testing import assert_close

from skgmmot.gaussian.incomplete import precisions
from skgmmot.gaussian.incomplete.e_steps import IncompleteDefinition, IncompleteFeatures
from skgmmot.gaussian.incomplete.patterns import Patterns, by_pattern
from skgmmot.gaussian.incomplete.precisions import ByPrecisions
from skgmmot.gaussian.mixture import GaussianMixtureParams

F64, NAN = torch.float64, math.nan
K, d, n = 3, 12, 80


@pytest.fixture(params=["full", "tied"])
def mixture(request, make_mixture):
    """Three components in twelve dimensions."""
    return make_mixture(request.param, K, d)


@pytest.fixture
def incomplete(make_samples):
    """Samples with a fifth of their entries missing, nearly each with a pattern of its own."""
    X = 2 * make_samples(n, d)
    X[make_samples(n, d, seed=1) < -0.84] = NAN
    X[5] = NAN  # of which nothing is observed
    return X[by_pattern(X)]


def pattern_by_pattern(step):
    """The same E-step, without the short cut."""
    step._by_precisions = None
    return step


def buffers(_, shape, dtype):
    """New memory."""
    return torch.empty(shape, dtype=dtype)


@pytest.mark.parametrize("make", [IncompleteDefinition, IncompleteFeatures])
@pytest.mark.parametrize("weighted", [False, True])
def test_sums_are_those_of_one_pattern_at_a_time(mixture, incomplete, make, weighted):
    a = torch.arange(n, dtype=F64) % 4 if weighted else None
    origin = torch.linspace(-1, 1, d, dtype=F64)
    theta = mixture.translated(-origin)
    step, other = make(theta, origin), pattern_by_pattern(make(theta, origin))
    assert step.many_patterns(incomplete) and not other.many_patterns(incomplete)
    found, expected = step.block(incomplete, a, buffers), other.block(incomplete, a, buffers)
    for one, theirs in zip(found, expected, strict=True):
        assert_close(one, theirs, rtol=1e-11, atol=1e-11)
    assert_close(step.log_joint(incomplete), other.log_joint(incomplete), rtol=1e-12, atol=1e-12)


def test_missing_entries_have_their_conditional_means(mixture, incomplete):
    step, other = IncompleteDefinition(mixture), pattern_by_pattern(IncompleteDefinition(mixture))
    found, expected = step.conditional_mean(incomplete), other.conditional_mean(incomplete)
    assert_close(found, expected, rtol=1e-11, atol=1e-12)
    seen = ~incomplete.isnan()
    assert_close(found[seen], incomplete[seen], rtol=1e-14, atol=1e-14)


def test_two_features_have_the_formulas_of_the_plane():
    s, t, rho = 2.0, 0.5, 0.6
    S = torch.tensor([[[s * s, rho * s * t], [rho * s * t, t * t]]], dtype=F64)
    theta = GaussianMixtureParams(torch.ones(1, dtype=F64), torch.zeros(1, 2, dtype=F64), S)
    X = torch.tensor([[1.0, NAN], [NAN, 0.25]], dtype=F64)
    step = IncompleteDefinition(theta)
    found = step.many_patterns(X).complete(X, X.isnan())
    log_g = [
        -0.5 * (x / v) ** 2 - math.log(v * math.sqrt(2 * math.pi)) for x, v in ((1, s), (0.25, t))
    ]
    assert_close(found.joint[0], torch.tensor(log_g, dtype=F64))
    filled = torch.tensor([[1.0, rho * t / s], [0.25 * rho * s / t, 0.25]], dtype=F64)
    assert_close(found.centred[0], filled)
    rest = torch.tensor([t * t, s * s], dtype=F64) * (1 - rho**2)
    assert_close(found.covariances().flatten(), rest)


@pytest.mark.parametrize("covariance_type", ["full", "diag", "spherical"])
def test_it_is_chosen_where_patterns_have_fewer_samples_than_features(
    covariance_type, make_mixture, incomplete
):
    step = IncompleteDefinition(make_mixture(covariance_type, K, d))
    many = Patterns.number(incomplete.isnan())
    assert many > 60
    assert (step.many_patterns(incomplete) is not None) == (covariance_type == "full")
    repeated = incomplete[20::15].repeat_interleave(d, 0)
    assert step.many_patterns(repeated) is None
    assert (step.many_patterns(repeated[1:]) is not None) == (covariance_type == "full")


@pytest.mark.parametrize("unit", [1.0, 1e-6, 1e6])
def test_features_nearly_determined_by_others_are_taken_by_pattern(make_mixture, incomplete, unit):
    theta = make_mixture("full", K, d)
    theta = theta._replace(means=unit * theta.means, covariances=unit**2 * theta.covariances)
    covariances = theta.covariances.clone()
    covariances[1, 3] = covariances[1, :, 3] = covariances[1, 4]
    covariances[1, 3, 3] = covariances[1, 4, 4] * (1 + 1e-6)
    thin = theta._replace(covariances=covariances)
    assert IncompleteDefinition(theta).many_patterns(incomplete) is not None
    assert IncompleteDefinition(thin).many_patterns(incomplete) is None


def test_parts_that_are_held_at_once_add(monkeypatch, mixture, incomplete):
    step = IncompleteDefinition(mixture)
    expected = step.block(incomplete, None, None)
    monkeypatch.setattr(precisions, "HELD", 7 * K * (4 * d + 3 * d**2))
    assert len(ByPrecisions(step.theta, step.covariances, None).parts(incomplete.isnan())) == 12
    for one, theirs in zip(step.block(incomplete, None, None), expected, strict=True):
        assert_close(one, theirs, rtol=1e-12, atol=1e-12)


def test_samples_whose_squares_overflow_have_no_density(mixture, incomplete):
    far = torch.where(incomplete.isnan(), incomplete, 1e170)
    far = far[~far.isnan().all(1)]
    step = IncompleteDefinition(mixture)
    assert step.many_patterns(far)
    assert step.log_density(far).eq(-torch.inf).all()


def test_derivatives_are_those_of_one_pattern_at_a_time(mixture, incomplete):
    a = torch.linspace(0.5, 1.5, n, dtype=F64)
    leaves = [t.clone().requires_grad_() for t in (*mixture, incomplete.nan_to_num(), a)]
    slopes = []
    for prepare in (lambda step: step, pattern_by_pattern):
        theta = GaussianMixtureParams(*leaves[:3], mixture.covariance_type)
        X = torch.where(incomplete.isnan(), NAN, leaves[3])
        found = prepare(IncompleteDefinition(theta)).block(X, leaves[4], None)
        value = sum((t * torch.arange(1.0, t.numel() + 1).view(t.shape)).sum() for t in found)
        slopes.append(torch.autograd.grad(value, leaves))
    for i, (one, theirs) in enumerate(zip(*slopes, strict=True)):
        if i == 2:  # one way reads the lower half of a matrix, the other both
            one, theirs = one + one.mT, theirs + theirs.mT
        assert_close(one, theirs, rtol=1e-9, atol=1e-9)
