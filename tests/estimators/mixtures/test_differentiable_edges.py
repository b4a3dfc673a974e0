"""Fits to hard data: invariances, empty components, large numbers, acceleration."""

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from skgmmot import DifferentiableGaussianMixture
from skgmmot.fitting.em.rows import EM
from skgmmot.gaussian.evaluators import DefinitionEStep

PARAMETERS = ["weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_"]


def fitted(X, covariance_type="full", **params):
    """Four components, from k-means, fitted."""
    params = {"n_components": 4, "random_state": 0, **params}
    return DifferentiableGaussianMixture(covariance_type=covariance_type, **params).fit(X)


@pytest.mark.parametrize("init_params", ["kmeans", "k-means++", "random", "random_from_data"])
def test_the_fit_moves_with_the_data(blobs, covariance_type, init_params, difference):
    near = fitted(blobs, covariance_type, init_params=init_params)
    far = fitted(blobs + 1e7, covariance_type, init_params=init_params)
    assert far.n_iter_ == near.n_iter_
    assert difference(near, far, ["weights_", "covariances_"]) < 1e-6
    assert difference(near, far, ["means_"], shift=1e7) < 1e-6


def test_the_fit_moves_with_the_data_in_float32(blobs, covariance_type):
    near = fitted(blobs, covariance_type)
    far = fitted((blobs + 1e3).astype(np.float32), covariance_type)
    for name in ["weights_", "covariances_"]:
        error = np.abs(getattr(far, name) - getattr(near, name)).max()
        assert error < 1e-3 * np.abs(getattr(near, name)).max()
    assert np.abs(far.means_.astype(float) - 1e3 - near.means_).max() < 1e-3


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("way", ["the faster", "definition"])
def test_the_likelihood_never_falls(blobs, covariance_type, way, monkeypatch):
    if way == "definition":
        monkeypatch.setattr(
            EM, "fastest", lambda em, theta: DefinitionEStep(theta.prepare(), em.origin)
        )
    model = fitted(blobs, covariance_type, init_params="random", tol=0, max_iter=60, reg_covar=0)
    bounds = np.array(model.lower_bounds_)
    assert np.diff(bounds).min() > -1e-10 * abs(bounds[-1])


def hard_data():
    """Data on which sums of squares, or counts, are extreme."""
    rng = np.random.default_rng(0)
    X = np.vstack([rng.normal(size=(100, 3)) + 5 * k for k in range(4)])
    return {
        "outlier at a million sigma": np.vstack([X, [[1e6, 1e6, 1e6]]]),
        "two outliers": np.vstack([X, [[1e6, 0, 0], [-1e6, 3, 2]]]),
        "duplicates": np.repeat(X[::80], 60, axis=0),
        "constant feature": np.c_[X, np.full(len(X), 123456.789)],
        "collinear features": np.c_[X, 2 * X[:, 0]],
        "as many components as samples": X[::100],
        "Cauchy tails": rng.standard_cauchy((1000, 3)),
        "tiny scale": 1e-12 * X,
        "huge scale": 1e12 * X,
        "time stamps": np.c_[1.7e9 + X[:, 0], X[:, 1:]],
    }


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", hard_data())
@pytest.mark.filterwarnings("ignore:reg_covar must be small")
def test_hard_data_give_a_finite_fit(name, dtype, covariance_type):
    X = hard_data()[name].astype(dtype)
    model = fitted(X, covariance_type)
    for parameter in PARAMETERS:
        assert np.isfinite(getattr(model, parameter)).all()
    assert np.isclose(model.weights_.sum(), 1, atol=1e-6)
    assert np.isfinite(model.score(X))
    assert np.allclose(model.predict_proba(X).sum(1), 1, atol=1e-5)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_two_hundred_components_on_three_hundred_samples_equal_scikit_learn(rng):
    X = rng.normal(size=(300, 2))
    theirs = GaussianMixture(200, random_state=0, max_iter=5).fit(X)
    ours = DifferentiableGaussianMixture(200, random_state=0, max_iter=5).fit(X)
    assert np.isclose(ours.score(X), theirs.score(X), rtol=1e-8)


NO_SAMPLES = "got components without samples: 1 of .. They have weight zero and are never predicted"


def test_an_empty_component_keeps_its_mean_and_can_be_sampled_around(blobs):
    means = np.vstack([blobs[::200], [[1e4, 1e4, 1e4]]]).astype(np.float32)
    model = DifferentiableGaussianMixture(4, means_init=means, random_state=0)
    with pytest.warns(ConvergenceWarning, match=NO_SAMPLES):
        model.fit(blobs.astype(np.float32))
    assert np.allclose(model.means_[3], 1e4)
    assert model.weights_[3] == 0
    assert np.isfinite(model.sample(50)[0]).all()


@pytest.mark.parametrize(
    "dtype, far", [(np.float64, 1e200), (np.float64, 1e30), (np.float32, 1e30)]
)
def test_samples_whose_squares_overflow_belong_to_somebody(blobs, covariance_type, dtype, far):
    model = fitted(blobs.astype(dtype), covariance_type)
    X = np.array([[far, 0, 0], [0, -far, far]], dtype=dtype)
    proba = model.predict_proba(X)
    assert np.isfinite(proba).all() and np.allclose(proba.sum(1), 1)
    assert np.array_equal(model.predict(X), proba.argmax(1))
    nearer = model.predict(X / (far / 1e6))  # same directions, squares that do not overflow
    assert np.array_equal(model.predict(X), nearer)


@pytest.mark.parametrize("largest", [1e160, 1e300])
def test_samples_too_large_for_covariances_are_refused(blobs, largest):
    with pytest.raises(ValueError, match=r"X must be smaller than .* got an entry of size"):
        fitted(blobs * largest)


def legacy_state():
    """The state of numpy's global generator."""
    return np.random.get_state()[1].copy()  # noqa: NPY002


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_threads_change_no_bit_and_settings_stay(rng, covariance_type, difference):
    X = rng.normal(size=(40_000, 3))
    state, before = legacy_state(), torch.get_num_threads()
    results = []
    for n_threads in (1, 2, 4):
        torch.set_num_threads(n_threads)
        results.append(fitted(X, covariance_type, init_params="random_from_data", max_iter=5))
        assert torch.get_num_threads() == n_threads
    torch.set_num_threads(before)
    assert difference(results[0], results[1]) == difference(results[0], results[2]) == 0
    assert np.array_equal(legacy_state(), state)
    assert torch.get_default_dtype() == torch.float32


def overlapping(seed):
    """Five components about one deviation apart, on which EM is slow."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(5, 2))
    return centres[rng.integers(5, size=500)] + rng.normal(size=(500, 2))


def test_acceleration_needs_at_most_half_the_passes():
    passes = {None: 0, "squarem": 0}
    for seed in range(3):
        X = overlapping(seed)
        bounds = {}
        for acceleration in passes:
            params = {"n_components": 5, "tol": 1e-7, "max_iter": 10_000}
            model = fitted(X, acceleration=acceleration, **params)
            assert model.converged_
            passes[acceleration] += model.n_iter_
            bounds[acceleration] = model.lower_bound_
        assert bounds["squarem"] > bounds[None] - 1e-4
    assert passes["squarem"] <= passes[None] / 2


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_acceleration_never_lowers_the_likelihood(blobs, covariance_type):
    params = {"tol": 0, "max_iter": 300}
    model = fitted(blobs, covariance_type, acceleration="squarem", init_params="random", **params)
    bounds = np.array(model.lower_bounds_)
    assert np.diff(bounds).min() > -1e-10 * abs(bounds[-1])
    assert len(bounds) <= model.n_iter_ == 300


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("kind", ["full", "tied"])
def test_acceleration_does_not_depend_on_the_order_of_the_features(rng, kind):
    X = rng.normal(size=(300, 6)) @ rng.normal(size=(6, 6)) + 2 * rng.integers(3, size=(300, 1))
    order = [3, 0, 5, 1, 4, 2]
    params = {"acceleration": "squarem", "tol": 0, "max_iter": 11, "weights_init": [1 / 3] * 3}
    params["precisions_init"] = np.eye(6) if kind == "tied" else np.stack([np.eye(6)] * 3)
    models = [
        fitted(X[:, o], kind, n_components=3, means_init=X[::100, o], **params)
        for o in (np.arange(6), order)
    ]
    assert len(models[0].lower_bounds_) > 8  # proposals that were kept
    assert np.allclose(models[1].means_, models[0].means_[:, order], rtol=0, atol=1e-10)


def test_acceleration_does_not_depend_on_the_units_of_the_features(blobs):
    params = {"acceleration": "squarem", "tol": 1e-9, "max_iter": 1000, "reg_covar": 0}
    params |= {"means_init": blobs[::150], "weights_init": np.full(4, 0.25)}
    params["precisions_init"] = np.stack([np.linalg.inv(np.cov(blobs.T))] * 4)
    units = np.array([1.0, 1e3, 1e-3])
    model = fitted(blobs, **params)
    params |= {"means_init": blobs[::150] * units}
    params["precisions_init"] = np.stack([np.linalg.inv(np.cov((blobs * units).T))] * 4)
    scaled = fitted(blobs * units, **params)
    assert abs(scaled.n_iter_ - model.n_iter_) <= 3
    assert np.allclose(scaled.means_ / units, model.means_, atol=1e-3)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("name", hard_data())
@pytest.mark.filterwarnings("ignore:reg_covar must be small")
def test_acceleration_takes_hard_data(name, covariance_type):
    model = fitted(hard_data()[name], covariance_type, acceleration="squarem", tol=1e-6)
    assert np.isfinite(model.score(hard_data()[name]))
