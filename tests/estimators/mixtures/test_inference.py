"""Standard errors of fitted mixtures."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning, NotFittedError

from skgmmot import DifferentiableGaussianMixture


def mixture(X, sample_weight=None, n_components=2, **options):
    """A fit that has settled."""
    options = {"tol": 1e-10, "max_iter": 5000, "random_state": 0, **options}
    return DifferentiableGaussianMixture(n_components, **options).fit(
        X, sample_weight=sample_weight
    )


@pytest.fixture
def two(rng):
    """Two clouds that overlap, of 200 samples each."""
    return np.vstack([rng.normal(size=(200, 2)), rng.normal([3, 1], [1, 0.5], size=(200, 2))])


def test_errors_have_the_shapes_of_the_attributes(two, covariance_type):
    fitted = mixture(two, covariance_type=covariance_type)
    errors, covariance = fitted.standard_errors(two), fitted.covariance_of_parameters(two)
    flat = [np.ravel(part) for part in errors]
    assert errors.weights.shape == fitted.weights_.shape
    assert errors.means.shape == fitted.means_.shape
    assert errors.covariances.shape == fitted.covariances_.shape
    np.testing.assert_allclose(np.concatenate(flat) ** 2, covariance.diagonal())
    np.testing.assert_allclose(covariance, covariance.T)
    assert np.linalg.eigvalsh(covariance).min() > -1e-12
    # weights sum to one
    assert np.abs(covariance[:2].sum(axis=0)).max() < 1e-12


@pytest.mark.usefixtures("random_seed")
def test_errors_are_those_of_the_bootstrap(rng):
    X = np.concatenate([rng.normal(0, 1, 300), rng.normal(4, 0.7, 300)])[:, None]
    fitted = mixture(X)
    start = {"means_init": fitted.means_, "weights_init": fitted.weights_, "tol": 1e-6}
    again = [mixture(X[rng.integers(600, size=600)], **start) for _ in range(150)]
    for name in ("weights", "means", "covariances"):
        spread = np.std([getattr(fit, f"{name}_") for fit in again], axis=0)
        for robust in (False, True):
            errors = getattr(fitted.standard_errors(X, robust=robust), name)
            # 150 draws have a standard deviation that is right to 6 %, and 600 samples are few
            np.testing.assert_allclose(errors, spread, rtol=0.3)


@pytest.mark.usefixtures("random_seed")
def test_robust_errors_are_those_of_the_bootstrap_also_of_other_distributions(rng):
    X = rng.standard_t(5, size=(2000, 1))
    fitted = mixture(X, n_components=1)
    again = [mixture(X[rng.integers(2000, size=2000)], n_components=1) for _ in range(300)]
    spread = np.std([fit.covariances_.item() for fit in again])
    assert fitted.standard_errors(X, robust=True).covariances == pytest.approx(spread, rel=0.15)
    assert fitted.standard_errors(X).covariances < 0.75 * spread


def test_weights_make_it_robust_unless_they_are_counts(two, rng):
    counts = rng.integers(0, 3, size=len(two))
    fitted = mixture(two, counts)
    repeated = two.repeat(counts, axis=0)
    for robust, rows in [(False, (two, counts)), (None, (repeated, None))]:
        found = fitted.covariance_of_parameters(*rows, robust=robust)
        np.testing.assert_allclose(
            found, fitted.covariance_of_parameters(repeated, robust=False), rtol=1e-6, atol=1e-10
        )
    default, other = (fitted.standard_errors(two, c * counts) for c in (1, 7.5))
    np.testing.assert_allclose(default.means, other.means)
    np.testing.assert_array_equal(
        default.means, fitted.standard_errors(two, counts, robust=True).means
    )


def test_errors_are_arrays_for_every_kind_of_array(two, array_kind):
    fitted = mixture(array_kind(two))
    assert type(fitted.standard_errors(array_kind(two)).means) is np.ndarray


def test_errors_are_tensors_where_a_gradient_is_asked_for_and_in_the_dtype_of_samples(two):
    fitted = mixture(two)
    X = torch.tensor(two, requires_grad=True)
    errors = fitted.standard_errors(X)
    assert all(isinstance(part, torch.Tensor) and not part.requires_grad for part in errors)
    single = two.astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        assert mixture(single).standard_errors(single).covariances.dtype == np.float32


def test_samples_may_come_in_blocks(two, rng):
    a = rng.uniform(0.5, 2, size=400)
    fitted = mixture(two, a)
    for robust in (False, True):
        expected = fitted.covariance_of_parameters(two, a, robust=robust)
        found = fitted.covariance_of_parameters(
            lambda: iter([(two[:150], a[:150]), (two[150:], a[150:])]), robust=robust
        )
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-10)


def test_fixed_weights_have_no_error(two):
    fitted = mixture(two, fixed_weights=True)
    assert fitted.standard_errors(two).weights.tolist() == [0, 0]


def test_a_fit_that_stopped_early_is_warned_of(rng):
    X = np.concatenate([rng.normal(0, 1, 1520), rng.normal(2, 0.6, 480)])[:, None]
    early = DifferentiableGaussianMixture(2, tol=1e-4, random_state=0).fit(X)
    with pytest.warns(
        ConvergenceWarning, match=r"standard errors away. Fit with .* tol=1e-08"
    ) as w:
        early.standard_errors(X)
    assert w[0].filename == __file__
    mixture(X).standard_errors(X)


def test_a_component_that_reg_covar_holds_open_is_warned_of():
    X = np.repeat([[0.0], [1.0]], 50, axis=0)
    fitted = mixture(X)
    with pytest.warns(
        UserWarning, match="reg_covar must be small .* 1e-06 for a variance of 1e-06"
    ):
        fitted.covariance_of_parameters(X)


def test_errors_that_do_not_exist_are_refused(two):
    fitted = mixture(two)
    with pytest.raises(NotFittedError):
        DifferentiableGaussianMixture().standard_errors(two)
    with pytest.raises(ValueError, match=r"e_step must maximise the likelihood .* got 'sinkhorn'"):
        DifferentiableGaussianMixture(2, e_step="sinkhorn").fit(two).standard_errors(two)
    with pytest.raises(TypeError, match="robust must be True, False or None, got 'HC0'"):
        fitted.standard_errors(two, robust="HC0")
    with pytest.raises(ValueError, match="X has 1 features"):
        fitted.standard_errors(two[:, :1])
    with pytest.raises(ValueError, match="components must have samples"):
        fitted.standard_errors(two[:20] + 9)
    with pytest.warns(ConvergenceWarning, match="without samples"):
        fitted = mixture(two, n_components=3, init_params=lambda X, *_: (X[:, 0] > 1.5) * 1)
    with pytest.raises(ValueError, match=r"got some without: \[2\]"):
        fitted.standard_errors(two)
