"""`StudentMixture`, the estimator."""

import math
import pickle

import numpy as np
import pytest
from heavy_tails import drawn
from scipy.stats import multivariate_t
from sklearn.base import clone

import skgmmot
from skgmmot import DifferentiableGaussianMixture, MixtureWasserstein, OTMap, StudentMixture

TYPES = ("full", "tied", "diag", "spherical")


@pytest.mark.parametrize("covariance_type", TYPES)
def test_heavy_tails_are_fitted(random_seed, covariance_type):
    X = drawn(random_seed)
    found = StudentMixture(2, covariance_type=covariance_type, random_state=0).fit(X)
    means = found.means_[found.means_[:, 0].argsort()]
    np.testing.assert_allclose(means, [[0, 0], [8, 2]], atol=0.4)  # about three standard errors
    gaussian = DifferentiableGaussianMixture(2, covariance_type=covariance_type, random_state=0)
    assert found.bic(X) < gaussian.fit(X).bic(X)
    assert found.covariances_.shape == gaussian.covariances_.shape
    assert (np.diff(found.lower_bounds_) > -1e-12).all()


def test_densities_predictions_and_samples_agree(X, fitted):
    each = [
        w * multivariate_t(m, S, nu).pdf(X)
        for w, m, S, nu in zip(
            *(fitted.weights_, fitted.means_, fitted.covariances_, fitted.degrees_of_freedom_),
            strict=True,
        )
    ]
    np.testing.assert_allclose(fitted.score_samples(X), np.log(sum(each)), rtol=1e-9)
    proba = np.stack(each, 1) / sum(each)[:, None]
    np.testing.assert_allclose(fitted.predict_proba(X), proba, atol=1e-10)
    np.testing.assert_array_equal(fitted.predict(X), proba.argmax(1))
    drawn, labels = fitted.sample(4000)
    inner = np.median(np.abs(drawn[labels == 0, 0] - fitted.means_[0, 0]))
    expected = multivariate_t(shape=fitted.covariances_[0], df=fitted.degrees_of_freedom_[0])
    own = np.median(np.abs(expected.rvs(4000, random_state=0)[:, 0]))
    assert inner == pytest.approx(own, rel=0.1)
    np.testing.assert_array_equal(fitted.sample(4000)[0], drawn)


def test_distances_and_maps_are_those_of_equal_moments(X, fitted):
    same = fitted.moments()
    nu = fitted.degrees_of_freedom_[:, None, None]
    np.testing.assert_allclose(same.covariances_, fitted.covariances_ * nu / (nu - 2), rtol=1e-12)
    assert MixtureWasserstein()(fitted, same) == 0
    moved = OTMap(target=same).fit(fitted).transform(X[:3])
    np.testing.assert_allclose(moved, X[:3], atol=1e-9)
    heavy = StudentMixture.from_parameters([1.0], [[0.0]], [1.0], "spherical", degrees_of_freedom=2)
    with pytest.raises(ValueError, match=r"source must have means and covariances.*above 2"):
        MixtureWasserstein()(heavy, same.marginal(0))


def test_parts_and_parameters_given(fitted, X):
    part = fitted.marginal([1])
    again = StudentMixture.from_parameters(
        *(fitted.weights_, fitted.means_[:, 1:], fitted.covariances_[:, 1:, 1:], "full"),
        degrees_of_freedom=fitted.degrees_of_freedom_,
    )
    np.testing.assert_allclose(part.score_samples(X[:, 1:]), again.score_samples(X[:, 1:]))
    with pytest.raises(AttributeError) as refusal:
        fitted.condition(1.0, 0)
    assert "moments().condition" in str(refusal.value.__cause__)
    with pytest.raises(TypeError, match="degrees_of_freedom"):
        StudentMixture.from_parameters([1.0], [[0.0]], [1.0], "spherical")


def test_weights_count_as_repeated_rows(X):
    a = np.r_[np.full(150, 2), np.ones(150, dtype=int)]
    start = {"means_init": [[0, 0], [8, 2]], "precisions_init": np.stack([np.eye(2)] * 2)}
    mixture = StudentMixture(2, weights_init=[0.5, 0.5], **start)
    weighted = mixture.fit(X, sample_weight=a).means_
    repeated = mixture.fit(np.repeat(X, a, axis=0)).means_
    np.testing.assert_allclose(weighted, repeated, rtol=1e-9)


def test_single_precision_has_the_same_fit(X, fitted):
    single = StudentMixture(2, random_state=0).fit(X.astype(np.float32))
    assert single.degrees_of_freedom_.dtype == single.means_.dtype == np.float32
    np.testing.assert_allclose(single.means_, fitted.means_, rtol=1e-3, atol=1e-3)


def test_copies_files_checkpoints_and_warm_starts(X, fitted, tmp_path):
    for other in (pickle.loads(pickle.dumps(fitted)), clone(fitted).fit(X)):
        np.testing.assert_array_equal(other.score_samples(X), fitted.score_samples(X))
    skgmmot.save(fitted, tmp_path / "model.npz")
    loaded = skgmmot.load(tmp_path / "model.npz")
    np.testing.assert_array_equal(loaded.score_samples(X), fitted.score_samples(X))
    options = {"checkpoint": tmp_path / "fit.npz", "degrees_of_freedom": [3.0, math.inf]}
    options["random_state"] = 0
    once, again = (StudentMixture(2, **options).fit(X) for _ in range(2))
    np.testing.assert_array_equal(once.means_, again.means_)
    warm = clone(fitted).set_params(warm_start=True).fit(X)
    first = warm.lower_bound_
    assert warm.fit(X).lower_bound_ >= first and warm.n_iter_ <= 3


def test_few_samples_in_many_features():
    wide = np.random.default_rng(0).standard_t(3, size=(12, 30))
    found = StudentMixture(2, covariance_type="diag", reg_covar=1e-2, random_state=0).fit(wide)
    assert np.isfinite(found.score(wide))


@pytest.mark.parametrize("value", [[], [3.0], [3.0, 4.0, 5.0], [[3.0], [4.0]], 3.0])
def test_degrees_of_freedom_set_by_hand_that_do_not_fit_are_told_what_to_be(X, fitted, value):
    mixture = clone(fitted).fit(X)
    mixture.degrees_of_freedom_ = np.array(value)
    with pytest.raises(ValueError, match=r"degrees_of_freedom_ must have shape \(2,\), one for"):
        mixture.predict(X)
