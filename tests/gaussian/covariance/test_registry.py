"""The four covariance types."""

import copy
import pickle

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.mixture import GaussianMixture
from torch.testing import assert_close

from skgmmot.gaussian.covariance.base import CovarianceType, check_positive
from skgmmot.gaussian.covariance.registry import (
    COVARIANCE_TYPES,
    DIAG,
    ELEMENTARY_TYPES,
    FULL,
    SPHERICAL,
    TIED,
    type_of_storage,
)
from skgmmot.numerics.linalg import symmetrize

F64 = torch.float64
ILL_DEFINED = "ill-defined empirical covariance"
K, d = 3, 4


@pytest.fixture(params=[t.name for t in ELEMENTARY_TYPES])
def name(request):
    """A covariance type's name."""
    return request.param


@pytest.fixture
def mixture(name, make_mixture):
    """Three components in four dimensions."""
    return make_mixture(name, K, d)


def moments(name, X, resp, centres):
    """Second moments by their definition, in storage."""
    centred = X - centres.unsqueeze(1)
    full = torch.einsum("kn,kni,knj->kij", resp, centred, centred)
    diagonal = full.diagonal(dim1=-2, dim2=-1)
    return {
        "full": full,
        "tied": full.sum(0, keepdim=True),
        "diag": diagonal,
        "spherical": diagonal.mean(-1, keepdim=True),
    }[name]


@pytest.fixture
def weighted(make_samples):
    """Samples, and weighted responsibilities of three components."""
    X = make_samples(30, d, seed=7)
    return X, make_samples(K, 30, seed=8).exp()


# --- against matrices --------------------------------------------------------------------------


def test_deviations_are_roots_of_eigenvalues(name, mixture):
    kind, S = COVARIANCE_TYPES[name], mixture.covariances
    found = kind.deviations(S).expand(-1, d).sort(dim=-1).values
    expected = torch.linalg.eigvalsh(kind.to_full(S, len(S), d)).sqrt()
    assert_close(found, expected)


def test_covariances_are_shrunk_as_their_matrices(name, mixture):
    kind, S = COVARIANCE_TYPES[name], mixture.covariances
    share = torch.tensor([0.0, 0.3, 1.0], dtype=F64)[-len(S) :]
    full = kind.to_full(S, len(S), d)
    variance = full.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] * torch.eye(d, dtype=F64)
    expected = torch.lerp(full, variance, share[:, None, None])
    assert_close(kind.to_full(kind.shrunk(S, share), len(S), d), expected)


def test_the_derivative_of_the_m_step_is_that_of_autograd(name, mixture, weighted):
    kind, (X, resp) = COVARIANCE_TYPES[name], weighted
    mass = resp.sum(1)
    shift = (resp @ X) / mass[:, None] - mixture.means
    scatter = kind.scatter(X - mixture.means.unsqueeze(1), resp)
    cotangents = torch.stack([mixture.covariances, 2 * mixture.covariances])
    found = kind.estimate_pullback(mass, shift, scatter, cotangents)
    assert_close(
        found, tuple(CovarianceType.estimate_pullback(kind, *(mass, shift, scatter, cotangents)))
    )


# --- closed forms ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("means", "storage", "kind"),
    [
        ((3, 2), (3, 2, 2), FULL),
        ((3, 2), (1, 2, 2), TIED),
        ((3, 2), (3, 2), DIAG),
        ((3, 2), (3, 1), SPHERICAL),
        ((1, 2), (1, 2, 2), TIED),
        ((1, 2), (1, 2), DIAG),
        ((3, 1), (3, 1, 1), FULL),
        ((3, 1), (3, 1), SPHERICAL),
        ((1, 1), (1, 1), SPHERICAL),
        ((1, 1), (1, 1, 1), TIED),
    ],
)
def test_storage_and_means_tell_the_type(means, storage, kind):
    assert type_of_storage(torch.ones(storage), torch.ones(means)) is kind


@pytest.mark.parametrize("shape", [(3,), (1, 3, 4, 4), (3, 10, 4), (2, 4, 4), (4, 4), (3, 4, 1)])
def test_storage_that_fits_no_type_is_refused(shape):
    with pytest.raises(ValueError, match=r"covariances of 3 components in 4 dimensions must have"):
        type_of_storage(torch.ones(shape), torch.ones(3, 4))


def test_means_that_are_no_matrix_have_no_type_of_storage():
    with pytest.raises(ValueError, match=r"means must have shape \(K, d\), got \(3,\)"):
        type_of_storage(torch.ones(3, 1), torch.ones(3))
    with pytest.raises(TypeError, match="means and covariances must be tensors, got Tensor, list"):
        type_of_storage([1.0], torch.ones(3, 1))


def test_types_are_equal_wherever_they_were_copied():
    for kind in COVARIANCE_TYPES.values():
        for other in (copy.deepcopy(kind), pickle.loads(pickle.dumps(kind))):
            assert other == kind
            assert hash(other) == hash(kind)
    assert len(set(COVARIANCE_TYPES.values())) == 5
    assert repr(DIAG) == "<covariance type 'diag'>"


def test_types_are_found_by_their_names():
    assert {kind.name for kind in COVARIANCE_TYPES.values()} == set(COVARIANCE_TYPES)
    assert [name for name, kind in COVARIANCE_TYPES.items() if kind.shared] == ["tied"]


def test_log_density_in_one_dimension_is_the_normal_one():
    kind, x = SPHERICAL, torch.tensor([[[0.0], [2.0]]], dtype=F64)
    factors = kind.precision_factor(torch.tensor([[4.0]], dtype=F64))
    expected = scipy.stats.norm(0, 2).logpdf([[0.0, 2.0]])
    assert_close(kind.log_density(x, factors), torch.from_numpy(expected))


def test_scatter_and_estimate_are_their_definitions(name, mixture, weighted):
    (X, resp), kind = weighted, COVARIANCE_TYPES[name]
    centred = X - mixture.means.unsqueeze(1)
    mass, shift = resp.sum(1), torch.einsum("kn,kni->ki", resp, centred)
    scatter = kind.scatter(centred, resp)
    assert_close(scatter, moments(name, X, resp, mixture.means))
    assert scatter.shape == kind.shape(K, d)

    means = (resp @ X) / mass.unsqueeze(1)
    expected = moments(name, X, resp, means)
    expected = expected / (mass.sum() if kind.shared else mass.view(K, *[1] * (expected.ndim - 1)))
    full = kind.to_full(expected, K, d) + 0.1 * torch.eye(d, dtype=F64)
    estimate = kind.estimate(mass, shift / mass.unsqueeze(1), scatter, 0.1)
    assert_close(kind.to_full(estimate, K, d), full)


@pytest.mark.parametrize(("n_components", "n_samples"), [(1, 9), (2, 7), (3, 4), (3, 9), (4, 20)])
@pytest.mark.parametrize("width", [1.0, 1e-7])
@pytest.mark.parametrize("apart", [0.0, 1e-7, 1.0])
def test_the_pooled_scatter_has_all_digits(n_components, n_samples, width, apart, make_samples):
    n_features = 70  # one product for all components, where there are enough samples for them
    means = 1 + apart * make_samples(n_components, n_features, seed=1)
    which = torch.arange(n_samples) % n_components
    X = means[which] + width * make_samples(n_samples, n_features, seed=2)
    centred = X - means.unsqueeze(1)
    resp = (-(centred / width).square().mean(-1)).softmax(0) * torch.linspace(0, 2, n_samples)
    exact = [t.numpy().astype(np.longdouble) for t in (X, means, resp.double())]
    c = exact[0] - exact[1][:, None]
    expected = (c * exact[2][..., None]).swapaxes(1, 2).reshape(n_components, n_features, -1) @ c
    expected = expected.sum(0)
    with torch.no_grad():
        found = TIED.scatter(centred, resp.double())
    assert found.shape == (1, n_features, n_features)
    error = np.abs(found[0].numpy() - expected).max() / np.abs(expected).max()
    assert error < 2e-15
    with torch.enable_grad():  # one product a component
        assert_close(TIED.scatter(centred, resp.double()), found, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("n_features", [2, 64, 130])  # in one strip and in several
def test_no_components_have_no_scatter(name, n_features):
    kind, nobody = COVARIANCE_TYPES[name], torch.zeros(0, 5, n_features, dtype=F64)
    found = kind.scatter(nobody, nobody[..., 0])
    assert_close(found, torch.zeros(kind.shape(0, n_features), dtype=F64))


def test_start_counts_unassigned_samples_in_the_tied_type_alone(name, weighted):
    (X, resp), kind = weighted, COVARIANCE_TYPES[name]
    scatter = moments(name, X, resp, torch.zeros(K, d, dtype=F64))
    unassigned = 5 * torch.eye(d, dtype=F64)
    zero = torch.zeros_like(unassigned)
    without, start = (kind.start(resp.sum(1), scatter, u, 0.1) for u in (zero, unassigned))
    added = unassigned / resp.sum() if kind.shared else zero
    assert_close(kind.to_full(start, K, d), kind.to_full(without, K, d) + added)


# --- peers -------------------------------------------------------------------------------------


def test_log_density_is_that_of_scipy(name, mixture, make_samples):
    kind, X = COVARIANCE_TYPES[name], make_samples(10, d)
    factors = kind.precision_factor(mixture.covariances)
    found = kind.log_density(X - mixture.means.unsqueeze(1), factors)
    for k, S in enumerate(mixture.full_covariances()):
        expected = scipy.stats.multivariate_normal(mixture.means[k], S).logpdf(X.numpy())
        assert_close(found[k], torch.from_numpy(expected))


def test_public_storage_and_parameter_count_are_those_of_sklearn(name, mixture, make_samples):
    kind, X = COVARIANCE_TYPES[name], make_samples(60, d).numpy()
    theirs = GaussianMixture(K, covariance_type=name, random_state=0, max_iter=300).fit(X)
    public = kind.to_public(mixture.covariances)
    assert public.shape == theirs.covariances_.shape
    assert_close(kind.from_public(public), mixture.covariances)
    # Their difference is (log n - 2) times the number of parameters.
    expected = (theirs.bic(X) - theirs.aic(X)) / (np.log(len(X)) - 2)
    assert kind.n_parameters(K, d) + K * d + K - 1 == pytest.approx(expected)


def test_precisions_invert_covariances_and_come_back(name, mixture):
    kind = COVARIANCE_TYPES[name]
    precisions = kind.precisions(kind.precision_factor(mixture.covariances))
    inverse = torch.linalg.inv(mixture.full_covariances())
    assert_close(kind.to_full(precisions, K, d), inverse)
    assert_close(kind.from_precisions(precisions), mixture.covariances)
    assert kind.not_precisions(precisions) == ""


def test_log_det_is_half_that_of_the_precisions(name, mixture):
    kind = COVARIANCE_TYPES[name]
    log_det = kind.log_det(kind.precision_factor(mixture.covariances), d)
    expected = -torch.linalg.slogdet(mixture.full_covariances()).logabsdet / 2
    assert_close(log_det.expand(K), expected)


# --- derivatives -------------------------------------------------------------------------------


def test_log_density_passes_gradcheck(name, make_mixture, make_samples):
    kind, theta = COVARIANCE_TYPES[name], make_mixture(name, 2, 3)
    centred = make_samples(4, 3) - theta.means.unsqueeze(1)

    def density(centred, covariances):
        if covariances.ndim == 3:
            covariances = symmetrize(covariances)
        return kind.log_density(centred, kind.precision_factor(covariances))

    inputs = (centred.requires_grad_(), theta.covariances.requires_grad_())
    assert torch.autograd.gradcheck(density, inputs)


# --- invariances -------------------------------------------------------------------------------


def test_second_moments_move_to_other_centres(name, weighted, make_samples):
    (X, resp), kind = weighted, COVARIANCE_TYPES[name]
    centres, by = make_samples(K, d, seed=1), make_samples(K, d, seed=2)
    shift = torch.einsum("kn,kni->ki", resp, X - centres.unsqueeze(1))
    scatter = moments(name, X, resp, centres)
    moved = kind.move_scatter(scatter, resp.sum(1), shift, by)
    assert_close(moved, moments(name, X, resp, centres - by))


def test_quadratic_features_give_densities_and_moments(name, mixture, weighted):
    (X, resp), kind = weighted, COVARIANCE_TYPES[name]
    features = torch.empty(kind.n_quadratic(d), len(X), dtype=F64)
    kind.quadratic(X.mT.contiguous(), out=features)
    if kind.shared:
        assert kind.n_quadratic(d) == 0
        return
    factors = kind.precision_factor(mixture.covariances)
    precisions = kind.to_full(kind.precisions(factors), K, d)
    expected = -torch.einsum("ni,kij,nj->kn", X, precisions, X) / 2
    assert_close(kind.quadratic_coefficients(kind.precisions(factors)) @ features, expected)
    found = kind.from_quadratic(resp @ features.mT, d)
    assert_close(found, moments(name, X, resp, torch.zeros(K, d, dtype=F64)))


# --- edges -------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_covariances_that_are_not_positive_are_refused(bad, name, mixture):
    storage = mixture.covariances.clone()
    storage[-1] = torch.full_like(storage[-1], bad)
    with pytest.raises(ValueError, match=ILL_DEFINED):
        COVARIANCE_TYPES[name].precision_factor(storage)
    _, finite = COVARIANCE_TYPES[name].unchecked_precision_factor(storage)
    with pytest.raises(ValueError, match=ILL_DEFINED):
        check_positive(float(finite))


def test_covariances_are_factored_without_the_check_alike(name, mixture):
    factors, finite = COVARIANCE_TYPES[name].unchecked_precision_factor(mixture.covariances)
    assert torch.equal(factors, COVARIANCE_TYPES[name].precision_factor(mixture.covariances))
    assert finite.shape == ()
    check_positive(float(finite))


@pytest.mark.parametrize(
    ("kind", "precisions", "fault"),
    [
        (FULL, [[[1.0, 0.5], [0.2, 1.0]]], "symmetric, positive-definite"),
        (FULL, [[[1.0, 2.0], [2.0, 1.0]]], "symmetric, positive-definite"),
        (TIED, [[[0.0, 0.0], [0.0, 1.0]]], "symmetric, positive-definite"),
        (DIAG, [[1.0, -1.0]], "positive"),
        (SPHERICAL, [[0.0]], "positive"),
        (SPHERICAL, [[float("nan")]], "positive"),
    ],
)
def test_what_precisions_lack_is_named(kind, precisions, fault):
    assert kind.not_precisions(torch.tensor(precisions)) == fault


def test_log_density_holds_in_float32(name, mixture, make_samples):
    kind, centred = COVARIANCE_TYPES[name], make_samples(10, d).expand(K, -1, -1)
    expected = kind.log_density(centred, kind.precision_factor(mixture.covariances))
    factors = kind.precision_factor(mixture.covariances.float())
    found = kind.log_density(centred.float(), factors)
    assert found.dtype == torch.float32
    assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


def test_what_types_keep_may_be_used_with_gradients_after_inference():
    d = 9  # of no other test
    with torch.inference_mode():
        FULL.from_quadratic(torch.ones(2, d * (d + 1) // 2), d)
    precisions = torch.eye(d).expand(2, d, d).clone().requires_grad_()
    FULL.quadratic_coefficients(precisions).sum().backward()
    assert_close(precisions.grad.diagonal(dim1=1, dim2=2), torch.full((2, d), -0.5))


def test_marginals_and_regressions_are_those_of_the_matrices(mixture):
    covariance_type, full = mixture.covariance_type, mixture.full_covariances()
    given, others = torch.tensor([2, 0]), torch.tensor([1, 3])
    block = covariance_type.marginal(mixture.covariances, given)
    assert_close(covariance_type.to_full(block, K, 2), full[:, given][:, :, given])
    slopes, left = covariance_type.regression(mixture.covariances, given, others)
    a, b, across = (
        full[:, i][:, :, j] for i, j in ((given, given), (others,) * 2, (others, given))
    )
    expected = across @ torch.linalg.inv(a)
    if covariance_type.diagonal:
        assert slopes is None
    else:
        assert_close(slopes.expand_as(expected), expected)
    assert_close(covariance_type.to_full(left, K, 2), b - expected @ across.mT)


def test_without_correlations_what_is_not_observed_keeps_its_variance():
    variances = torch.tensor([[4.0, 9.0, 1.0]], dtype=F64)
    observed = torch.tensor([[True, False, False]])
    found = DIAG.observed(variances, observed)
    assert found.factors.flatten().tolist() == [0.5, 0.0, 0.0]
    assert found.root.flatten().tolist() == [0.0, 3.0, 1.0]
    assert found.remainder.flatten().tolist() == [0.0, 9.0, 1.0]
