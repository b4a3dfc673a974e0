"""Densities, responsibilities and samples of mixtures."""

import pytest
import scipy.stats
import torch
from sklearn.mixture import GaussianMixture
from torch.testing import assert_close

from skgmmot.gaussian.covariance.registry import COVARIANCE_TYPES, covariance_type_of
from skgmmot.gaussian.mixture import (
    FisherCoordinates,
    GaussianMixtureParams,
    LogCoordinates,
    descended,
    join,
    log_density,
    log_joint,
    log_responsibilities,
    responsibilities,
    rsample,
    sample,
    select,
    velocities,
    with_mass,
)
from skgmmot.numerics.linalg import symmetrize
from skgmmot.transport.mixtures.distance import transport_plan

F64 = torch.float64
K, d = 3, 2


@pytest.fixture(params=COVARIANCE_TYPES)
def theta(request, make_mixture):
    """A mixture of each covariance type."""
    return make_mixture(request.param, K, d)


def params(*fields):
    return GaussianMixtureParams(*(torch.tensor(t, dtype=F64) for t in fields))


def permuted(theta, order):
    shared = covariance_type_of(theta.covariances).shared
    S = theta.covariances if shared else theta.covariances[order]
    return GaussianMixtureParams(theta.weights[order], theta.means[order], S)


def as_sklearn(theta):
    """The same mixture as a fitted scikit-learn estimator."""
    kind = covariance_type_of(theta.covariances)
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


def test_full_covariances_are_one_matrix_a_component(theta):
    full = theta.full_covariances()
    assert full.shape == (K, d, d)
    densities = [scipy.stats.multivariate_normal(*p) for p in zip(theta.means, full, strict=True)]
    X = theta.means + 1
    joint = torch.stack([torch.from_numpy(p.logpdf(X.numpy())) for p in densities])
    assert_close(log_joint(theta.prepare(), X), joint + theta.weights.log().unsqueeze(1))


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


def test_samples_have_the_moments_and_the_labels_of_the_mixture(theta):
    n = 40_000
    X, labels = sample(theta, n, generator=torch.Generator().manual_seed(0))
    assert X.shape == (n, d)
    counts = torch.bincount(labels, minlength=K).numpy()
    assert scipy.stats.chisquare(counts, n * theta.weights.numpy()).pvalue > 1e-3
    for k, S in enumerate(theta.full_covariances()):
        members = X[labels == k]
        error = (members.mean(0) - theta.means[k]) / (S.diagonal() / len(members)).sqrt()
        assert error.abs().max() < 4
        assert_close(members.mT.cov(), S, rtol=0, atol=0.06 * S.diagonal().max().item())


def test_samples_come_again_from_the_same_seed_and_in_random_order(theta):
    (X, labels), (again, _) = (
        sample(theta, 100, generator=torch.Generator().manual_seed(3)) for _ in range(2)
    )
    assert_close(X, again, rtol=0, atol=0)
    assert not (labels.diff() >= 0).all()


def test_samples_of_a_degenerate_component_stay_on_its_line():
    theta = params([1.0], [[1.0, 1.0]], [[[1.0, 1.0], [1.0, 1.0]]])
    X, _ = sample(theta, 50, generator=torch.Generator().manual_seed(0))
    assert_close(X[:, 0], X[:, 1])
    assert X[:, 0].std() > 0.5


def test_samples_carry_no_gradient(theta):
    theta = GaussianMixtureParams(*(t.requires_grad_() for t in theta))
    assert not sample(theta, 3)[0].requires_grad


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


# --- coordinates of changes --------------------------------------------------------------------


def change_of(theta, seed):
    generator = torch.Generator().manual_seed(seed)
    w, m, S = (torch.randn(t.shape, dtype=t.dtype, generator=generator) for t in theta)
    return GaussianMixtureParams(w - w.mean(), m, S + S.mT if S.ndim == 3 else S)


def pairing(left, right):
    return sum((p * q).sum() for p, q in zip(left, right, strict=True))


def test_fisher_coordinates_keep_the_product_of_changes_and_cotangents(theta):
    coordinates = FisherCoordinates(theta, theta.weights)
    change, u = change_of(theta, 1), change_of(theta, 2)
    product = coordinates.of_change(change) @ coordinates.of_cotangent(u)
    assert_close(product, pairing(change, u))
    assert_close(tuple(coordinates.cotangent(coordinates.of_cotangent(u))), tuple(u))


def test_fisher_coordinates_measure_by_the_information_of_a_sample(theta):
    # the curvature of the expected log-joint under the mixture itself, by autograd
    change = change_of(theta, 3)
    t = torch.zeros((), dtype=theta.means.dtype, requires_grad=True)
    moved = GaussianMixtureParams(*(p + t * q for p, q in zip(theta, change, strict=True)))
    S, now = theta.full_covariances(), moved.full_covariances()
    shift = (moved.means - theta.means).unsqueeze(-1)
    inverse = torch.linalg.inv(now)
    trace = ((S + shift @ shift.mT) * inverse).sum((-2, -1))
    expected = theta.weights @ (moved.weights.log() - (torch.logdet(now) + trace) / 2)
    (first,) = torch.autograd.grad(expected, t, create_graph=True)
    (second,) = torch.autograd.grad(first, t)
    vector = FisherCoordinates(theta, theta.weights).of_change(change)
    assert_close(vector.square().sum(), -second)


def test_fisher_coordinates_move_a_mixture_to_first_order(theta):
    coordinates = FisherCoordinates(theta, theta.weights)
    change, step = change_of(theta, 4), 1e-6
    moved = coordinates.moved(step * coordinates.of_change(change))
    for after, before, expected in zip(moved, theta, change, strict=True):
        assert_close((after - before) / step, expected, rtol=1e-4, atol=1e-4)


def test_fisher_coordinates_move_a_mixture_to_a_mixture(theta):
    vector = 30 * FisherCoordinates(theta, theta.weights).of_change(change_of(theta, 5))
    moved = FisherCoordinates(theta, theta.weights).moved(vector)
    assert_close(moved.weights.sum(), theta.weights.sum())
    assert (torch.linalg.eigvalsh(moved.full_covariances()) > -1e-9).all()


def test_fisher_coordinates_do_not_depend_on_the_units_of_the_features(theta):
    change, scale = change_of(theta, 6), torch.tensor(1e3, dtype=theta.means.dtype)

    def scaled(mixture):
        w, m, S = mixture
        return GaussianMixtureParams(w, scale * m, scale**2 * S)

    assert_close(
        FisherCoordinates(scaled(theta), theta.weights).of_change(scaled(change)),
        FisherCoordinates(theta, theta.weights).of_change(change),
    )


def test_half_a_step_down_transport_is_the_target(theta, make_mixture):
    means = 50 * theta.means
    name = covariance_type_of(theta.covariances).name
    target = make_mixture(name, K, d, seed=8)._replace(weights=theta.weights)
    target = target._replace(means=means + target.means)
    theta = theta._replace(means=means)
    leaves = [t.clone().requires_grad_() for t in theta[1:]]
    cost = transport_plan(GaussianMixtureParams(theta.weights, *leaves), target).cost
    found = descended(theta, *torch.autograd.grad(cost, leaves), 0.5)
    assert_close(tuple(found), tuple(target), rtol=1e-9, atol=1e-9)


def test_a_small_step_is_the_change_at_these_velocities(theta):
    cotangents = change_of(theta, 3)
    coordinates = FisherCoordinates(theta, theta.weights)
    step = 1e-7
    moved = descended(theta, cotangents.means, cotangents.covariances, step)
    change = GaussianMixtureParams(*(a - b for a, b in zip(moved, theta, strict=True)))
    found = velocities(theta, cotangents.means, cotangents.covariances)
    expected = -coordinates.of_velocities(*found)
    assert_close(coordinates.of_change(change) / step, expected, rtol=1e-5, atol=1e-4)


# --- weighted samples on the graph ---------------------------------------------------------------


def test_weighted_samples_have_the_moments_of_the_mixture(theta):
    X, a = rsample(theta, 200_000, generator=torch.Generator().manual_seed(0))
    assert_close(a.sum(), torch.ones((), dtype=a.dtype))
    mean = theta.weights @ theta.means
    assert_close(a @ X, mean, rtol=0, atol=0.03)
    second = theta.full_covariances() + theta.means.unsqueeze(-1) * theta.means.unsqueeze(-2)
    expected = (theta.weights.view(-1, 1, 1) * second).sum(0)
    assert_close((X * a.unsqueeze(1)).mT @ X, expected, rtol=0.02, atol=0.1)


def test_the_gradient_of_weighted_samples_is_that_of_the_mean_they_estimate(theta):
    # E |x|^2 = sum_k w_k (|m_k|^2 + tr Sigma_k)
    leaves = GaussianMixtureParams(*(t.clone().requires_grad_() for t in theta))
    traces = leaves.full_covariances().diagonal(dim1=-2, dim2=-1).sum(-1)
    exact = leaves.weights @ (leaves.means.square().sum(-1) + traces)
    expected = torch.autograd.grad(exact, leaves)
    X, a = rsample(leaves, 200_000, generator=torch.Generator().manual_seed(1))
    found = torch.autograd.grad(a @ X.square().sum(-1), leaves)
    for ours, theirs in zip(found, expected, strict=True):
        if theirs.ndim == 3:  # a covariance counts by its symmetric part
            ours, theirs = (ours + ours.mT) / 2, (theirs + theirs.mT) / 2
        assert_close(ours, theirs, rtol=0.05, atol=0.1)


@pytest.mark.parametrize(
    ("weights", "n_samples", "counts"),
    [
        ([0.5, 0.3, 0.2], 10, [5, 3, 2]),
        ([0.34, 0.33, 0.33], 10, [4, 3, 3]),
        ([0.999, 5e-4, 5e-4], 10, [8, 1, 1]),
        ([0.5, 0.5, 0.0], 7, [4, 3, 0]),
    ],
)
def test_each_component_gets_its_share_of_samples(weights, n_samples, counts):
    weights = torch.tensor(weights, dtype=torch.float64, requires_grad=True)
    means = torch.tensor([[0.0], [100.0], [200.0]], dtype=torch.float64)
    X, a = rsample(GaussianMixtureParams(weights, means, torch.ones(3, 1).double()), n_samples)
    found = torch.bincount((X[:, 0] / 100).round().long(), minlength=3)
    assert found.tolist() == counts
    (gradient,) = torch.autograd.grad(a.sum(), weights)
    assert_close(gradient, (torch.tensor(counts) > 0).double())


def test_weighted_samples_need_one_for_each_component(theta):
    with pytest.raises(ValueError, match="n_samples must be at least the number of components"):
        rsample(theta, 1)


@pytest.mark.parametrize("name", COVARIANCE_TYPES)
def test_densities_pass_gradcheck_in_samples_and_mixture(name, make_mixture, make_samples):
    theta, X = make_mixture(name, 2, 2), make_samples(5, 2)

    def density(X, *leaves):
        w, m, S = leaves
        return log_density(GaussianMixtureParams(w, m, (S + S.mT) / 2 if S.ndim == 3 else S), X)

    inputs = [t.clone().requires_grad_() for t in (X, *theta)]
    assert torch.autograd.gradcheck(density, inputs)


# --- joined and selected -------------------------------------------------------------------------


@pytest.mark.parametrize("other", COVARIANCE_TYPES)
@pytest.mark.parametrize("name", COVARIANCE_TYPES)
def test_joined_mixtures_have_the_mean_of_their_densities(name, other, make_mixture, make_samples):
    parts = [make_mixture(name, 2, 3, seed=1), make_mixture(other, 3, 3, seed=2)]
    weights, X = torch.tensor([0.3, 0.7], dtype=torch.float64), make_samples(20, 3)
    joined = join(parts, weights)
    densities = torch.stack([log_density(part, X).exp() for part in parts])
    assert_close(log_density(joined, X).exp(), weights @ densities)
    kinds = {name, other}
    expected = "full" if kinds & {"full", "tied"} else "diag" if len(kinds) == 2 else name
    assert covariance_type_of(joined.covariances).name == expected


@pytest.mark.parametrize("name", COVARIANCE_TYPES)
def test_components_without_weight_are_dropped_from_the_same_distribution(
    name, make_mixture, make_samples
):
    weights = torch.tensor([0.4, 0.0, 0.6], dtype=torch.float64)
    mixture, X = make_mixture(name, 3, 2)._replace(weights=weights), make_samples(20, 2)
    kept = with_mass(mixture)
    assert len(kept.weights) == 2
    assert_close(log_density(kept, X), log_density(mixture, X))
    assert_close(tuple(kept), tuple(select(mixture, [0, 2])))


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


def test_logarithms_lead_back_and_are_as_long_in_any_order_of_the_features(
    make_mixture, covariance_type
):
    theta0 = GaussianMixtureParams(*make_mixture(covariance_type, K=3, d=4))
    weights, means, covariances = make_mixture(covariance_type, K=3, d=4, seed=1)
    theta = GaussianMixtureParams(weights, means, covariances)
    free = LogCoordinates(theta0)
    for found, expected in zip(free.from_free(free.to_free(theta)), theta, strict=True):
        assert_close(found, expected, rtol=1e-10, atol=1e-12)
    order = torch.tensor([2, 0, 3, 1])

    def turned(mixture):
        covariances = mixture.covariances
        if covariances.shape[-1] == 4:
            covariances = covariances[..., order]
        if covariances.ndim == 3:
            covariances = covariances[:, order]
        return mixture._replace(means=mixture.means[:, order], covariances=covariances)

    other = LogCoordinates(turned(theta0)).to_free(turned(theta)).norm()
    assert_close(other, free.to_free(theta).norm(), rtol=1e-10, atol=0)


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_a_mean_that_moves_by_one_standard_deviation_moves_by_one(
    make_mixture, covariance_type, offset
):
    weights, means, covariances = make_mixture(covariance_type, K=3, d=4)
    means = means + offset * torch.arange(3.0).unsqueeze(1)  # components far apart, or not
    theta = GaussianMixtureParams(weights, means, covariances)
    free = LogCoordinates(theta)
    axis = torch.linalg.cholesky(theta.full_covariances()[1])[:, 0]
    moved = theta._replace(means=means.index_add(0, torch.tensor([1]), axis.unsqueeze(0)))
    length = free.length(free.to_free(moved) - free.to_free(theta))
    assert length == pytest.approx(1.0, rel=1e-9)
