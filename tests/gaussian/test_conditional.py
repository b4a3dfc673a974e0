"""Marginal and conditional mixtures: closed forms, densities, derivatives, extremes."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from torch.testing import assert_close

from skgmmot.gaussian.conditional import (
    PreparedCondition,
    condition,
    feature_numbers,
    marginal,
    other_features,
)
from skgmmot.gaussian.covariance.base import CovarianceType
from skgmmot.gaussian.covariance.registry import COVARIANCE_TYPES, FULL, SPHERICAL
from skgmmot.gaussian.log_density import log_density, responsibilities
from skgmmot.gaussian.mixture import GaussianMixtureParams

F64 = torch.float64
K, d = 3, 4
GIVEN, OTHERS = [2, 0], [1, 3]


@pytest.fixture
def mixture(covariance_type, make_mixture):
    """Three components in four dimensions."""
    return make_mixture(covariance_type, K, d)


def dense(mixture):
    """Weights, means and matrices as numpy arrays."""
    return (t.numpy() for t in (mixture.weights, mixture.means, mixture.full_covariances()))


def by_hand(mixture, x):
    """The formulas, in numpy."""
    weights, means, covariances = dense(mixture)
    a, b = GIVEN, OTHERS
    shares, centres, rest = [], [], []
    for w, m, S in zip(weights, means, covariances, strict=True):
        slope = S[np.ix_(b, a)] @ np.linalg.inv(S[np.ix_(a, a)])
        shares.append(w * multivariate_normal(m[a], S[np.ix_(a, a)]).pdf(x))
        centres.append(m[b] + slope @ (x - m[a]))
        rest.append(S[np.ix_(b, b)] - slope @ S[np.ix_(a, b)])
    return np.array(shares) / sum(shares), np.array(centres), np.array(rest)


def test_a_marginal_has_the_blocks_of_its_features(mixture):
    found = marginal(mixture, GIVEN)
    _, means, covariances = dense(mixture)
    assert found.covariance_type is mixture.covariance_type
    assert_close(found.weights, mixture.weights, rtol=0, atol=0)
    np.testing.assert_array_equal(found.means, means[:, GIVEN])
    blocks = covariances[:, GIVEN][:, :, GIVEN]
    np.testing.assert_array_equal(found.full_covariances(), blocks)
    assert found.covariances.shape == mixture.covariance_type.shape(K, 2)


def test_a_conditional_is_the_closed_form(mixture, make_samples):
    x = make_samples(5, 2)
    batch = condition(mixture, x, GIVEN)
    assert batch.weights.shape == (5, K) and batch.means.shape == (5, K, 2)
    assert batch.covariances.shape == mixture.covariance_type.shape(K, 2)
    assert batch.covariance_type is mixture.covariance_type
    for i, row in enumerate(x):
        weights, means, covariances = by_hand(mixture, row.numpy())
        one = condition(mixture, row, GIVEN)
        np.testing.assert_allclose(one.weights, weights, rtol=1e-10)
        np.testing.assert_allclose(one.means, means, rtol=1e-10)
        np.testing.assert_allclose(one.full_covariances(), covariances, atol=1e-12)
        assert_close(batch.weights[i], one.weights)
        assert_close(batch.means[i], one.means)
        assert_close(batch.covariances, one.covariances)


def test_densities_of_the_parts_multiply_to_the_whole(mixture, make_samples):
    X = make_samples(20, d)
    given = log_density(marginal(mixture, GIVEN), X[:, GIVEN])
    others = [log_density(condition(mixture, x[GIVEN], GIVEN), x[None, OTHERS]) for x in X]
    assert_close(given + torch.cat(others), log_density(mixture, X))


@pytest.mark.parametrize("feature", [0, 1])
def test_in_the_plane_they_are_integrals_of_the_density(covariance_type, feature, make_mixture):
    mixture = make_mixture(covariance_type, K, 2)
    line = torch.linspace(-15, 15, 3001, dtype=F64)
    at = torch.full_like(line, 0.7)
    pairs = [at, line] if feature == 0 else [line, at]
    joint = log_density(mixture, torch.stack(pairs, dim=1)).exp()
    integral = torch.trapezoid(joint, line)
    x = torch.tensor([0.7], dtype=F64)
    found = log_density(marginal(mixture, [feature]), x[None]).exp()
    assert float(found) == pytest.approx(float(integral), rel=1e-9)
    conditional = condition(mixture, x, [feature])
    assert_close(log_density(conditional, line[:, None]).exp(), joint / integral)
    mean = torch.trapezoid(joint * line, line) / integral
    assert float(conditional.weights @ conditional.means[:, 0]) == pytest.approx(float(mean))
    second = torch.trapezoid(joint * (line - mean) ** 2, line) / integral
    prepared = PreparedCondition.of(mixture, [feature])
    resp = responsibilities(prepared.given, x[None])
    first, deviation = prepared.mean_and_deviation(x[None], resp)
    assert float(first) == pytest.approx(float(mean))
    assert float(deviation) == pytest.approx(math.sqrt(second))


def test_all_features_are_the_mixture_itself(mixture, make_samples):
    order = [3, 1, 0, 2]
    turned = marginal(mixture, order)
    X = make_samples(5, d)
    assert_close(log_density(turned, X[:, order]), log_density(mixture, X))


def test_conditions_follow_one_another(mixture):
    x = torch.tensor([0.3, -1.0, 0.5], dtype=F64)
    once = condition(mixture, x, [0, 2, 3])
    twice = condition(condition(mixture, x[:1], [0]), x[1:], [1, 2])
    for found, expected in zip(once, twice, strict=True):
        assert_close(found, expected)


def test_they_are_differentiable_in_everything(mixture, make_samples):
    x = make_samples(2, 2)

    def parts(weights, means, covariances, x):
        if not mixture.covariance_type.diagonal:
            covariances = (covariances + covariances.mT) / 2
        theta = GaussianMixtureParams(weights, means, covariances, mixture.covariance_type)
        return *marginal(theta, GIVEN), *condition(theta, x, GIVEN)

    inputs = [t.clone().requires_grad_() for t in (*mixture, x)]
    assert torch.autograd.gradcheck(parts, inputs)


def test_moments_and_log_densities_are_differentiable(mixture, make_samples):
    x, y = make_samples(2, 2), make_samples(2, 2, seed=1)

    def numbers(means, x, y):
        prepared = PreparedCondition.of(mixture._replace(means=means), GIVEN)
        resp = responsibilities(prepared.given, x)
        mean, deviation = prepared.mean_and_deviation(x, resp)
        return mean, deviation, prepared.log_density(x, y, resp.log()), prepared.mean(x, resp)

    inputs = [t.clone().requires_grad_() for t in (mixture.means, x, y)]
    assert torch.autograd.gradcheck(numbers, inputs)


@pytest.mark.parametrize("size", [1e3, 1e8, 1e160, 1e300])
def test_far_conditions_belong_to_one_component(mixture, size):
    x = torch.tensor([size, -size / 3], dtype=F64)
    found = condition(mixture, x, GIVEN)
    assert torch.isfinite(found.weights).all() and torch.isfinite(found.means).all()
    assert float(found.weights.sum()) == pytest.approx(1)
    assert float(found.weights.max()) == pytest.approx(1)


@pytest.mark.parametrize("size", [1e8, 1e160, 1e300])
def test_the_deviation_far_away_is_that_of_the_one_component(mixture, size):
    x = torch.tensor([[size, -size / 3]], dtype=F64, requires_grad=True)
    prepared = PreparedCondition.of(mixture, GIVEN)
    resp = responsibilities(prepared.given, x.detach())
    mean, deviation = prepared.mean_and_deviation(x, resp)
    k = int(resp[:, 0].argmax())
    expected = prepared.covariance_type.diagonals(prepared.covariances)
    expected = expected[min(k, len(expected) - 1)].sqrt()
    assert_close(deviation[0], expected.expand(2), rtol=1e-12, atol=0)
    assert_close(mean[0], prepared.component_means(x)[k, 0])
    (mean.sum() + deviation.sum() + 0 * x.sum()).backward()
    assert torch.isfinite(x.grad).all()


def test_a_far_condition_has_a_gradient(mixture):
    x = torch.tensor([1e200, 0.0], dtype=F64, requires_grad=True)
    found = condition(mixture, x, GIVEN)
    (found.weights @ found.means).sum().backward()
    assert torch.isfinite(x.grad).all()


def test_a_component_of_weight_zero_stays_so(mixture):
    weights = torch.tensor([0.5, 0.0, 0.5], dtype=F64)
    found = condition(mixture._replace(weights=weights), mixture.means[1, GIVEN], GIVEN)
    assert found.weights[1] == 0 and torch.isfinite(found.means).all()


def test_what_is_left_is_exactly_known_where_the_joint_covariance_is_singular():
    S = torch.tensor([[[2.0, 2.0, 4.0], [2.0, 3.0, 5.0], [4.0, 5.0, 9.0]]], dtype=F64)
    mixture = GaussianMixtureParams(torch.ones(1, dtype=F64), torch.zeros(1, 3, dtype=F64), S, FULL)
    found = condition(mixture, torch.tensor([1.0, 2.0], dtype=F64), [0, 1])
    assert_close(found.means, torch.tensor([[3.0]], dtype=F64))  # the third is their sum
    assert 0 <= found.covariances.item() < 1e-15  # 0 by most versions of LAPACK


@pytest.mark.parametrize("conditioning", [1e6, 1e10, 1e14])
def test_what_is_left_of_a_thin_covariance_is_positive_definite(conditioning, make_samples):
    turn, _ = torch.linalg.qr(make_samples(d, d))
    values = torch.logspace(0, -math.log10(conditioning), d, dtype=F64)
    S = (turn * values) @ turn.mT
    mixture = GaussianMixtureParams(
        torch.ones(1, dtype=F64), torch.zeros(1, d, dtype=F64), ((S + S.mT) / 2)[None], FULL
    )
    found = condition(mixture, torch.zeros(1, dtype=F64), [0])
    assert (torch.linalg.eigvalsh(found.covariances) > 0).all()
    exact = torch.linalg.inv(((turn / values) @ turn.mT)[1:, 1:])
    assert_close(found.covariances[0], exact, rtol=1e-3, atol=1e-15 * conditioning**0.5)


def test_float32_and_float64_agree(mixture):
    x = torch.tensor([0.3, -0.5])
    single = condition(mixture.to(dtype=torch.float32), x, GIVEN)
    double = condition(mixture, x.double(), GIVEN)
    assert single.weights.dtype == single.means.dtype == torch.float32
    for found, expected in zip(single, double, strict=True):
        assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


class SharedSphere(CovarianceType):
    """One variance for all components and features."""

    name, base, shared = "shared_sphere", SPHERICAL, True

    def shape(self, n_components, n_features):
        return (1, 1)

    def to_base(self, covariances, n_components, n_features):
        return covariances.expand(n_components, 1)


def test_parts_of_a_type_of_ones_own_are_of_its_base(monkeypatch, make_mixture):
    monkeypatch.setitem(COVARIANCE_TYPES, "shared_sphere", SharedSphere())
    sphere = make_mixture("spherical", K, d)
    sphere = sphere._replace(covariances=torch.full((K, 1), 2.0, dtype=F64))
    own = sphere._replace(
        covariances=torch.full((1, 1), 2.0, dtype=F64), covariance_type=SharedSphere()
    )
    x = torch.tensor([1.0, 0.0], dtype=F64)
    for found, expected in (
        (marginal(own, GIVEN), marginal(sphere, GIVEN)),
        (condition(own, x, GIVEN), condition(sphere, x, GIVEN)),
    ):
        assert found.covariance_type is SPHERICAL
        for t, u in zip(found, expected, strict=True):
            assert_close(t, u)


def test_draws_have_the_moments(mixture, random_seed):
    x = torch.tensor([[0.3, -0.5], [2.0, 1.0]], dtype=F64)
    prepared = PreparedCondition.of(mixture, GIVEN)
    resp = responsibilities(prepared.given, x)
    generator = torch.Generator().manual_seed(random_seed)
    uniforms = torch.rand(2, 40_000, dtype=F64, generator=generator)
    normals = torch.randn(2, 40_000, 2, dtype=F64, generator=generator)
    drawn = prepared.draw(x, resp, uniforms, normals)
    mean, deviation = prepared.mean_and_deviation(x, resp)
    assert_close(drawn.mean(1), mean, rtol=0, atol=0.05)  # 5 standard errors
    assert_close(drawn.std(1), deviation, rtol=0.05, atol=0)
    correlated = torch.cov(drawn[0].T)
    found = condition(mixture, x[0], GIVEN)
    centred = found.means - mean[0]
    between = (centred.mT * found.weights) @ centred
    within = torch.einsum("k,kij->ij", found.weights, found.full_covariances())
    assert_close(correlated, within + between, rtol=0.05, atol=0.05)


def test_the_last_level_draws_a_component_that_has_weight(mixture):
    theta = mixture._replace(weights=torch.tensor([0.5, 0.5, 0.0], dtype=F64))
    prepared = PreparedCondition.of(theta, GIVEN)
    x = theta.means[:1, GIVEN]
    resp = responsibilities(prepared.given, x)
    drawn = prepared.draw(x, resp, torch.ones(1, 1, dtype=F64), torch.zeros(1, 1, 2, dtype=F64))
    assert_close(drawn[0, 0], prepared.component_means(x)[1, 0])


def test_features_are_counted_from_either_end_or_chosen_by_a_mask():
    assert feature_numbers([-1, 0], 3).tolist() == [2, 0]
    assert feature_numbers(torch.tensor([True, False, True]), 3).tolist() == [0, 2]
    assert other_features(torch.tensor([2, 0]), 4).tolist() == [1, 3]


@pytest.mark.parametrize(
    ("features", "error", "message"),
    [
        ([], ValueError, "at least one feature, got none"),
        ([[0]], ValueError, r"got shape \(1, 1\)"),
        ([0, 0], ValueError, r"distinct, got \[0\] more than once"),
        ([0, -3], ValueError, r"distinct, got \[0\] more than once"),
        ([3], ValueError, r"numbers from -3 to 2 for 3 feature\(s\), got \[3\]"),
        ([-4, 1], ValueError, r"got \[-4\]"),
        ([0.5], TypeError, "integers, truth values or names, got torch.float32"),
        ([True], ValueError, "one truth value for each of 3"),
        ([False] * 3, ValueError, "got 0 true of 3"),
    ],
)
def test_features_that_are_none_are_refused(features, error, message):
    with pytest.raises(error, match=message):
        feature_numbers(features, 3)


def test_nothing_left_and_values_of_another_shape_are_refused(mixture):
    x = torch.zeros(d, dtype=F64)
    with pytest.raises(ValueError, match="leave at least one feature to describe, got all 4"):
        condition(mixture, x, range(d))
    for values in (x[:1], x[:3], torch.zeros(2, 3), torch.zeros(1, 1, 2), torch.tensor(1.0)):
        with pytest.raises(ValueError, match=r"values must have shape \(2,\) or \(n, 2\)"):
            condition(mixture, values, GIVEN)


def test_given_features_of_a_singular_covariance_are_refused(make_mixture):
    mixture = make_mixture("full", K, d)
    mixture.covariances[1, 0] = mixture.covariances[1, :, 0] = 0
    with pytest.raises(ValueError, match="must be positive definite, got one that is singular"):
        condition(mixture, torch.zeros(2, dtype=F64), [0, 1])
    found = condition(mixture, torch.zeros(2, dtype=F64), [1, 2])  # what is left may be singular
    assert torch.isfinite(found.covariances).all()
