"""Fits to samples of which some classes are known."""

import pickle

import numpy as np
import pytest
import torch
from flowers import IRIS, SPECIES, mixture, twelve_known
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.testing import assert_close

from skgmmot import DifferentiableGaussianMixture, GaussianMixtureSearch, OTMap, Prior

NAMES = np.array(["setosa", "versicolor", "virginica"])


@pytest.fixture
def y(rng):
    return twelve_known(rng)


def parameters(fitted):
    return fitted.weights_, fitted.means_, fitted.covariances_


# --- all classes are known: closed forms ----------------------------------------------------------


def test_all_labels_with_full_covariances_are_quadratic_discriminant_analysis():
    found = mixture(reg_covar=0.0).fit(IRIS, SPECIES)
    reference = QuadraticDiscriminantAnalysis(store_covariance=True).fit(IRIS, SPECIES)
    np.testing.assert_allclose(found.weights_, reference.priors_)
    np.testing.assert_allclose(found.means_, reference.means_)
    # divided by n or, before scikit-learn 1.8, by n - 1
    ratio = reference.covariance_[0][0, 0] / found.covariances_[0, 0, 0]
    assert min(abs(ratio - 1), abs(ratio - 50 / 49)) < 1e-10
    covariances = found.covariances_ * ratio
    np.testing.assert_allclose(covariances, reference.covariance_, rtol=1e-10, atol=1e-12)
    assert found.converged_ and found.n_iter_ == 2


def test_all_labels_with_a_tied_covariance_are_linear_discriminant_analysis():
    found = mixture(covariance_type="tied", reg_covar=0.0).fit(IRIS, SPECIES)
    reference = LinearDiscriminantAnalysis("lsqr", store_covariance=True).fit(IRIS, SPECIES)
    np.testing.assert_allclose(found.covariances_, reference.covariance_, rtol=1e-10)
    np.testing.assert_array_equal(found.predict_class(IRIS), reference.predict(IRIS))
    shares = reference.predict_proba(IRIS)
    np.testing.assert_allclose(found.predict_class_proba(IRIS), shares, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_all_labels_with_variances_are_naive_bayes(weighted, rng):
    a = rng.uniform(0.5, 2, size=150) if weighted else None
    found = mixture(covariance_type="diag", reg_covar=0.0).fit(IRIS, NAMES[SPECIES], a)
    reference = GaussianNB(var_smoothing=0).fit(IRIS, NAMES[SPECIES], a)
    np.testing.assert_allclose(found.weights_, reference.class_prior_)
    np.testing.assert_allclose(found.covariances_, reference.var_, rtol=1e-9)
    np.testing.assert_array_equal(found.predict_class(IRIS), reference.predict(IRIS))
    shares = reference.predict_proba(IRIS)
    np.testing.assert_allclose(found.predict_class_proba(IRIS), shares, rtol=1e-8, atol=1e-12)
    spherical = mixture(covariance_type="spherical", reg_covar=0.0).fit(IRIS, SPECIES, a)
    np.testing.assert_allclose(spherical.covariances_, reference.var_.mean(1), rtol=1e-9)


# --- some are ------------------------------------------------------------------------------------


def test_few_labels_tell_species_apart_that_overlap(y):
    found = mixture().fit(IRIS, NAMES.astype(object)[y] * (y >= 0))
    assert (found.predict_class(IRIS) == NAMES[SPECIES]).mean() > 0.95
    assert found.fit_predict(IRIS, y).tolist() == found.predict(IRIS).tolist()


def test_labels_are_permuted_with_their_components(y):
    options = {"tol": 1e-10, "max_iter": 1000}
    found = mixture(**options).fit(IRIS, y)
    turned = mixture(**options, components_of_class={0: 2, 1: 0, 2: 1}).fit(IRIS, y)
    for ours, other in zip(parameters(found), parameters(turned), strict=True):
        np.testing.assert_allclose(np.asarray(other)[[2, 0, 1]], ours, rtol=1e-6, atol=1e-8)
    np.testing.assert_array_equal(found.predict_class(IRIS), turned.predict_class(IRIS))


def test_a_weight_of_two_is_a_sample_given_twice(y):
    a = np.where(np.arange(150) < 75, 2.0, 1.0)
    options = {"covariance_type": "diag", "tol": 1e-10, "max_iter": 2000}
    found = mixture(**options).fit(IRIS, y, a)
    again = mixture(**options).fit(np.vstack([IRIS, IRIS[:75]]), np.r_[y, y[:75]])
    for ours, other in zip(parameters(found), parameters(again), strict=True):
        np.testing.assert_allclose(ours, other, rtol=1e-5, atol=1e-7)
    a[y == 1] = 0  # a class without weight is not there
    absent = mixture(**options).fit(IRIS, y, a)
    assert np.isfinite(absent.means_).all() and absent.classes_.tolist() == [0, 1, 2]


def test_what_is_fixed_a_prior_and_an_acceleration_go_with_labels(y):
    means = np.array([IRIS[c == SPECIES].mean(0) for c in range(3)])
    fixed = mixture(means_init=means, fixed_means=[True, False, False]).fit(IRIS, y)
    np.testing.assert_array_equal(fixed.means_[0], means[0])
    assert not np.array_equal(fixed.means_[1], means[1])
    assert mixture(prior=Prior(mean_precision=1.0)).fit(IRIS, y).converged_
    options = {"tol": 1e-9, "max_iter": 2000}
    plain, fast = mixture(**options), mixture(acceleration="squarem", **options)
    np.testing.assert_allclose(fast.fit(IRIS, y).means_, plain.fit(IRIS, y).means_, atol=1e-3)
    assert fast.n_iter_ < plain.n_iter_


def test_float32_samples_are_fitted_in_float32(y):
    found = mixture().fit(IRIS.astype(np.float32), y)
    assert found.means_.dtype == np.float32
    np.testing.assert_allclose(found.means_, mixture().fit(IRIS, y).means_, rtol=1e-4)


def test_warm_starts_go_on_and_revive_components_of_classes(y):
    found = mixture(warm_start=True, max_iter=3)
    with pytest.warns(match="did not converge"):
        found.fit(IRIS, y)
    first = found.lower_bound_
    assert found.set_params(max_iter=100).fit(IRIS, y).lower_bound_ > first
    found.weights_ = np.array([0.0, 0.5, 0.5])
    assert found.fit(IRIS, y).weights_[0] > 0.3


def test_a_checkpoint_is_of_its_labels(y, tmp_path):
    path = str(tmp_path / "fit.npz")
    options = {"checkpoint": path, "components_of_class": {0: 0, 1: [1], 2: [2]}}
    first = mixture(**options).fit(IRIS, y)
    np.testing.assert_array_equal(mixture(**options).fit(IRIS, y).means_, first.means_)
    other = np.where(y == 0, -1, y)
    other[0] = 0
    with pytest.raises(ValueError, match="other numbers in groups"):
        mixture(**options).fit(IRIS, other)
    options["components_of_class"] = {0: 1, 1: [0], 2: [2]}
    with pytest.raises(ValueError, match="with components_of_class="):
        mixture(**options).fit(IRIS, y)


def test_searches_and_pipelines_pass_labels_through(y):
    grid = {"covariance_type": ["tied", "diag"]}
    search = GridSearchCV(mixture(), grid, cv=3, error_score="raise").fit(IRIS, y)
    assert search.best_estimator_.classes_.tolist() == [0, 1, 2]
    pipeline = make_pipeline(StandardScaler(), mixture()).fit(IRIS, y)
    scaled = pipeline[0].transform(IRIS)
    assert (pipeline[-1].predict_class(scaled) == SPECIES).mean() > 0.9
    restored = pickle.loads(pickle.dumps(pipeline[-1]))
    assert (restored.predict_class(scaled) == pipeline[-1].predict_class(scaled)).all()
    source = OTMap(IRIS + 1, mixture=mixture(labels="ignore")).fit(IRIS)
    assert source.transform(IRIS).shape == IRIS.shape


def test_without_labels_nothing_changes(y):
    plain = DifferentiableGaussianMixture(3, random_state=0).fit(IRIS)
    ignored = DifferentiableGaussianMixture(3, random_state=0).fit(IRIS, y)
    assert all(map(np.array_equal, parameters(plain), parameters(ignored)))


# --- gradients -----------------------------------------------------------------------------------


@pytest.mark.parametrize("gradient", ["implicit", "automatic", "one_step"])
def test_a_fit_is_differentiated_as_it_moves(gradient, y):
    automatic = gradient != "implicit"
    loop = {"tol": 0.0, "max_iter": 1} if automatic else {"tol": 1e-12, "max_iter": 2000}
    start = mixture().fit(IRIS, y)
    given = {"weights_init": start.weights_, "means_init": start.means_}
    given["precisions_init"] = start.precisions_
    options = {"gradient": gradient, "reg_covar": 0.01, **loop, **given}
    a = torch.rand(150, dtype=torch.float64) + 0.5

    def loss(X, a):
        found = mixture(**options).fit(X, y, a)
        parts = (torch.as_tensor(part) for part in parameters(found))
        return sum(part.sin().sum() for part in parts)

    X = torch.tensor(IRIS, requires_grad=True)
    weights = a.clone().requires_grad_()
    with pytest.warns() if automatic else torch.enable_grad():
        loss(X, weights).backward()
        way, other, h = torch.randn_like(X), torch.randn_like(a), 1e-5
        with torch.no_grad():
            up, down = (loss(X + s * h * way, a + s * h * other) for s in (1, -1))
    found = (X.grad * way).sum() + (weights.grad * other).sum()
    assert_close(found, (up - down) / (2 * h), rtol=1e-4, atol=1e-6)


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, message",
    [
        ({"e_step": "sinkhorn"}, "e_step must be 'posterior' for labels='y', got 'sinkhorn'"),
        ({"labels": "x"}, "The 'labels' parameter"),
        ({"components_of_class": [0]}, "The 'components_of_class' parameter"),
        ({"n_components": 2}, "n_components must be at least the number of classes in y"),
        ({"weights_init": [0, 0.5, 0.5]}, r"got 0 for component\(s\) \[0\] of class 0"),
    ],
)
def test_what_does_not_go_with_labels_is_refused(options, message, y):
    with pytest.raises(ValueError, match=message):
        mixture(**options).fit(IRIS, y)


def test_places_and_uses_without_labels_are_refused(y):
    with pytest.raises(ValueError, match=r"X must be in memory for labels='y', got function"):
        mixture().fit(lambda: iter([IRIS]), y)
    with pytest.raises(ValueError, match="labels='y' requires y to be passed, but the target y is"):
        mixture().fit(IRIS)
    with pytest.raises(AttributeError, match="partial_fit"):
        mixture().partial_fit(IRIS, y)
    with pytest.raises(ValueError, match="labels must be 'ignore' for standard errors"):
        mixture().fit(IRIS, y).standard_errors(IRIS)
    with pytest.raises(ValueError, match="mixture must have labels='ignore'"):
        GaussianMixtureSearch(mixture=mixture()).fit(IRIS)
    X = torch.tensor(IRIS, requires_grad=True)
    with pytest.raises(ValueError, match="must be a derivative for labels='y', got 'natural'"):
        mixture(gradient="natural", fixed_weights=True).fit(X, y)
