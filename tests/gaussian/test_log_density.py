"""Densities and responsibilities: closed forms, scikit-learn, derivatives, and samples far away."""

import pytest
import scipy.stats
import torch
from sklearn.mixture import GaussianMixture
from torch.testing import assert_close

from skgmmot.gaussian.covariance.registry import COVARIANCE_TYPES, ELEMENTARY_TYPES
from skgmmot.gaussian.log_density import (
    log_density,
    log_joint,
    log_responsibilities,
    responsibilities,
)
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.gaussian.sampling import sample
from skgmmot.numerics.linalg import symmetrize

F64 = torch.float64


K, d = 3, 2


def params(*fields):
    return GaussianMixtureParams(*(torch.tensor(t, dtype=F64) for t in fields))


def permuted(theta, order):
    shared = theta.covariance_type.shared
    S = theta.covariances if shared else theta.covariances[order]
    return GaussianMixtureParams(theta.weights[order], theta.means[order], S)


def as_sklearn(theta):
    """The same mixture as a fitted scikit-learn estimator."""
    kind = theta.covariance_type
    theirs = GaussianMixture(len(theta.means), covariance_type=kind.name)
    factors = kind.precision_factor(theta.covariances)
    theirs.weights_, theirs.means_ = theta.weights.numpy(), theta.means.numpy()
    theirs.covariances_ = kind.to_public(theta.covariances).numpy()
    theirs.precisions_cholesky_ = kind.to_public(factors).numpy()
    return theirs


def test_density_of_one_component_in_one_dimension_is_the_normal_one():
    theta = params([1.0], [[1.0]], [[4.0]])
    x = torch.tensor([[1.0], [-3.0]], dtype=F64)
    expected = torch.from_numpy(scipy.stats.norm(1, 2).logpdf(x.squeeze(1).numpy()))
    assert_close(log_density(theta, x), expected)
    assert_close(log_responsibilities(theta, x), torch.zeros(1, 2, dtype=F64))


def test_responsibilities_of_two_equal_components_are_logistic():
    theta = params([0.25, 0.75], [[-1.0], [1.0]], [[1.0], [1.0]])
    x = torch.linspace(-3, 3, 7, dtype=F64).unsqueeze(1)
    expected = torch.sigmoid(2 * x.squeeze(1) + torch.log(torch.tensor(3.0, dtype=F64)))
    assert_close(log_responsibilities(theta, x)[1].exp(), expected)


def test_densities_and_responsibilities_are_those_of_sklearn(theta, make_samples):
    X, theirs = 3 * make_samples(20, d), as_sklearn(theta)
    expected = torch.from_numpy(theirs.score_samples(X.numpy()))
    assert_close(log_density(theta, X), expected)
    assert_close(log_density(theta.prepare(), X), expected)
    expected = torch.from_numpy(theirs.predict_proba(X.numpy())).mT
    assert_close(log_responsibilities(theta, X).exp(), expected)
    assert_close(log_responsibilities(theta.prepare(), X).exp(), expected)


@pytest.mark.parametrize("function", [log_density, log_responsibilities])
def test_densities_pass_gradcheck(function, theta, make_samples):
    def evaluate(weights, means, covariances, X):
        if covariances.ndim == 3:
            covariances = symmetrize(covariances)
        return function(GaussianMixtureParams(weights, means, covariances), X)

    inputs = [t.requires_grad_() for t in (*theta, make_samples(3, d))]
    assert torch.autograd.gradcheck(evaluate, inputs)


def test_components_may_be_permuted(theta, make_samples):
    X, order = make_samples(20, d), torch.tensor([2, 0, 1])
    other = permuted(theta, order)
    assert_close(log_density(other, X), log_density(theta, X))
    assert_close(log_responsibilities(other, X), log_responsibilities(theta, X)[order])


@pytest.mark.parametrize("offset", [10.0, 1e6])
def test_densities_ignore_a_common_translation(offset, theta, make_samples):
    X = make_samples(20, d)
    moved = theta._replace(means=theta.means + offset)
    assert_close(log_density(moved, X + offset), log_density(theta, X), rtol=1e-7, atol=1e-7)


def test_responsibilities_sum_to_one_and_are_joint_over_density(theta, make_samples):
    X = 20 * make_samples(50, d)
    log_resp = log_responsibilities(theta, X)
    assert_close(log_resp.exp().sum(0), torch.ones(50, dtype=F64))
    assert_close(log_resp, log_joint(theta.prepare(), X) - log_density(theta, X))


def test_a_component_without_mass_changes_nothing(make_mixture, make_samples):
    theta, X = make_mixture("full", K, d), make_samples(10, d).requires_grad_()
    theta = theta._replace(weights=torch.tensor([0.4, 0.6, 0.0], dtype=F64))
    others = GaussianMixtureParams(*(t[:2] for t in theta))
    density = log_density(theta, X)
    assert_close(density, log_density(others, X))
    assert_close(log_responsibilities(theta, X)[2].exp(), torch.zeros(10, dtype=F64))
    (gradient,) = torch.autograd.grad(density.sum(), X)
    (expected,) = torch.autograd.grad(log_density(others, X).sum(), X)
    assert_close(gradient, expected)
    assert (sample(theta, 1000)[1] < 2).all()


def test_densities_hold_in_float32_far_from_the_origin(theta, make_samples):
    # Multiples of 1/64 move by 4096 without rounding: what is left is the formula's own error.
    X, means = ((64 * t).round() / 64 for t in (make_samples(20, d), theta.means))
    far = GaussianMixtureParams(theta.weights, means + 4096, theta.covariances)
    far = GaussianMixtureParams(*(t.float() for t in far))
    found = log_density(far, (X + 4096).float())
    assert found.dtype == torch.float32
    expected = log_density(theta._replace(means=means), X)
    assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


def test_covariances_that_are_not_positive_are_refused(theta, make_samples):
    broken = theta._replace(covariances=0 * theta.covariances)
    for function in (log_density, log_responsibilities):
        with pytest.raises(ValueError, match="ill-defined empirical covariance"):
            function(broken, make_samples(2, d))


@pytest.mark.parametrize("size", [1e160, 1e250, 1e307])
def test_samples_whose_squares_overflow_belong_to_one_component(size, theta):
    directions = torch.tensor([[1.0, 0.0], [0.0, -1.0], [-1.0, 0.5]], dtype=F64)
    X = torch.cat([size * directions, theta.means])
    log_resp = log_responsibilities(theta, X)
    assert_close(log_resp.exp().sum(0), torch.ones(len(X), dtype=F64))
    assert (log_resp[:, :3].exp().amax(0) == 1).all()
    # Far along a direction, the order of the components does not change any more.
    near = log_responsibilities(theta, 1e9 * directions).argmax(0)
    assert_close(log_resp[:, :3].argmax(0), near)
    assert_close(log_resp[:, 3:], log_responsibilities(theta, theta.means))
    assert (log_density(theta, X)[:3] == -torch.inf).all()


def test_samples_whose_squares_overflow_never_belong_to_a_component_without_mass():
    theta = params([0.0, 1.0], [[5.0], [0.0]], [[100.0], [1.0]])
    log_resp = log_responsibilities(theta, torch.tensor([[1e200]], dtype=F64))
    assert_close(log_resp.exp(), torch.tensor([[0.0], [1.0]], dtype=F64))


def test_a_sample_whose_square_overflows_leaves_the_gradients_of_the_others(theta, make_samples):
    X = make_samples(3, d)
    gradients = []
    for rows in (X, torch.cat([X, torch.full((1, d), 1e200, dtype=F64)])):
        leaf = rows.clone().requires_grad_()
        log_responsibilities(theta, leaf)[0, :3].sum().backward()
        gradients.append(leaf.grad)
    assert_close(gradients[1][:3], gradients[0])
    assert_close(gradients[1][3], torch.zeros(d, dtype=F64))


@pytest.mark.parametrize("name", [t.name for t in ELEMENTARY_TYPES])
def test_densities_pass_gradcheck_in_samples_and_mixture(name, make_mixture, make_samples):
    theta, X = make_mixture(name, 2, 2), make_samples(5, 2)

    def density(X, *leaves):
        w, m, S = leaves
        return log_density(GaussianMixtureParams(w, m, (S + S.mT) / 2 if S.ndim == 3 else S), X)

    inputs = [t.clone().requires_grad_() for t in (X, *theta)]
    assert torch.autograd.gradcheck(density, inputs)


def test_densities_and_responsibilities_have_their_derivatives_in_a_weight_of_zero(covariance_type):
    weights = torch.tensor([0.0, 0.5, 0.5], dtype=F64, requires_grad=True)
    ones = torch.ones(COVARIANCE_TYPES[covariance_type].shape(3, 1), dtype=F64)
    means = torch.tensor([[0.0], [1.0], [2.0]], dtype=F64)
    X = torch.tensor([[0.3]], dtype=F64)

    def mixture(weights):
        return GaussianMixtureParams(weights, means, ones)

    (found,) = torch.autograd.grad(log_density(mixture(weights), X).sum(), weights)
    expected = torch.tensor([1.877357, 1.53705, 0.46295], dtype=F64)  # g_k / p
    assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert log_responsibilities(mixture(weights), X)[0] == -torch.inf
    by_logarithm = log_responsibilities(mixture(weights), X)[1, 0]
    (found,) = torch.autograd.grad(by_logarithm, weights)
    assert found[0].item() == pytest.approx(-1.877357, abs=1e-5)

    def probabilities(weights):
        return responsibilities(mixture(weights), X)[:, 0]

    found = torch.autograd.functional.jacobian(probabilities, weights)
    step = torch.tensor([1e-7, 0.0, 0.0], dtype=F64)
    finite = (probabilities(weights + step) - probabilities(weights)) / 1e-7
    assert_close(found[:, 0], finite, rtol=1e-5, atol=1e-5)
    second = torch.autograd.functional.hessian(lambda w: log_density(mixture(w), X).sum(), weights)
    assert_close(second, -torch.outer(expected, expected), rtol=1e-5, atol=1e-5)  # -g g^T / p^2
