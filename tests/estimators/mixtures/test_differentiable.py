"""DifferentiableGaussianMixture: scikit-learn's numbers, and right where others are wrong."""

import pickle

import joblib
import numpy as np
import pytest
import torch
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skgmmot import DifferentiableGaussianMixture


def fitted(X, covariance_type="full", **params):
    """Four components, from k-means, fitted."""
    params = {"n_components": 4, "random_state": 0, **params}
    return DifferentiableGaussianMixture(covariance_type=covariance_type, **params).fit(X)


# --- equal to scikit-learn -----------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("init_params", ["kmeans", "random"])
def test_twenty_iterations_equal_those_of_scikit_learn(
    blobs, covariance_type, init_params, difference
):
    params = {"covariance_type": covariance_type, "init_params": init_params, "random_state": 3}
    params |= {"max_iter": 20, "tol": 1e-9}
    theirs = GaussianMixture(4, **params).fit(blobs)
    ours = DifferentiableGaussianMixture(4, **params).fit(blobs)
    assert ours.n_iter_ == theirs.n_iter_
    assert ours.converged_ == theirs.converged_
    assert difference(ours, theirs) < 1e-10
    if hasattr(theirs, "lower_bounds_"):  # from scikit-learn 1.7 on
        assert np.allclose(ours.lower_bounds_, theirs.lower_bounds_, rtol=0, atol=1e-12)
    assert np.isclose(ours.lower_bound_, theirs.lower_bound_, rtol=0, atol=1e-12)


@pytest.mark.parametrize("init_params", ["k-means++", "random_from_data"])
def test_starts_from_single_samples_equal_those_of_scikit_learn(
    blobs, covariance_type, init_params, difference
):
    # on centred data: scikit-learn's start of the tied type depends on where the origin is
    X = blobs - blobs.mean(0)
    params = {"covariance_type": covariance_type, "init_params": init_params, "random_state": 3}
    theirs = GaussianMixture(4, **params).fit(X)
    ours = DifferentiableGaussianMixture(4, **params).fit(X)
    assert ours.n_iter_ == theirs.n_iter_
    # their start subtracts moments of single samples, which leaves rounding of 1e-8 relative
    assert difference(ours, theirs) < 1e-8


@pytest.mark.parametrize("n_features", [64, 130])
def test_wide_samples_are_fitted_as_by_scikit_learn(rng, covariance_type, n_features):
    X = rng.normal(size=(500, n_features)) + 3 * (np.arange(500) % 3)[:, None]
    params = {"covariance_type": covariance_type, "random_state": 0}
    theirs = GaussianMixture(3, **params).fit(X)
    ours = DifferentiableGaussianMixture(3, **params).fit(X)
    assert ours.n_iter_ == theirs.n_iter_
    assert np.allclose(ours.score_samples(X), theirs.score_samples(X), rtol=1e-9)


def test_predictions_and_criteria_equal_those_of_scikit_learn(blobs, covariance_type):
    params = {"covariance_type": covariance_type, "random_state": 0}
    theirs = GaussianMixture(4, **params).fit(blobs)
    ours = DifferentiableGaussianMixture(4, **params).fit(blobs)
    new = blobs[::3] + 0.5
    assert np.array_equal(ours.predict(new), theirs.predict(new))
    for method in ["predict_proba", "score_samples", "score", "aic", "bic"]:
        assert np.allclose(getattr(ours, method)(new), getattr(theirs, method)(new), rtol=1e-11)
    assert np.array_equal(ours.fit_predict(blobs), theirs.fit_predict(blobs))


def test_samples_are_the_draws_of_scikit_learn(blobs, covariance_type):
    theirs = GaussianMixture(4, covariance_type=covariance_type, random_state=0).fit(blobs)
    ours = fitted(blobs, covariance_type)
    X, y = ours.sample(200)
    expected, labels = theirs.sample(200)
    assert np.array_equal(y, labels)
    assert np.allclose(X, expected, rtol=0, atol=1e-6)  # the SVD inside depends on the last digits


# --- edited, copied, searched, shown --------------------------------------------------------------


def test_attributes_can_be_written(blobs):
    model = fitted(blobs)
    model.means_ += 10  # a fitted array is the user's own
    assert model.predict_proba(blobs + 10).shape == (600, 4)


def test_models_built_by_hand_predict_and_edits_take_effect(blobs):
    reference = fitted(blobs)
    by_hand = DifferentiableGaussianMixture(4)
    by_hand.weights_, by_hand.means_ = reference.weights_, reference.means_.copy()
    by_hand.covariances_ = reference.covariances_
    # the lower factor, as common code sets it: only X @ P and diag(P) may be relied on
    by_hand.precisions_cholesky_ = np.linalg.cholesky(np.linalg.inv(reference.covariances_))
    assert np.allclose(by_hand.score_samples(blobs), reference.score_samples(blobs))
    by_hand.means_ += 1
    assert np.allclose(by_hand.score_samples(blobs + 1), reference.score_samples(blobs))


def by_hand(reference, covariance_type="full", **changed):
    """A mixture whose attributes were set, as lists; those that are None are not."""
    model = DifferentiableGaussianMixture(4, covariance_type=covariance_type, random_state=0)
    for name in ("weights_", "means_", "covariances_", "precisions_cholesky_"):
        value = changed.get(name, getattr(reference, name))
        if value is not None:
            setattr(model, name, np.asarray(value).tolist())
    return model


@pytest.mark.parametrize("missing", [None, "precisions_cholesky_"])
def test_parameters_set_by_hand_may_be_lists_without_factors(blobs, covariance_type, missing):
    reference = fitted(blobs, covariance_type)
    model = by_hand(reference, covariance_type, **({missing: None} if missing else {}))
    assert np.allclose(model.score_samples(blobs), reference.score_samples(blobs), rtol=1e-9)
    assert np.isclose(model.bic(blobs), reference.bic(blobs))
    assert np.allclose(model.sample(5)[0], clone(reference).fit(blobs).sample(5)[0])
    assert model.entropic_ot_gap(blobs) == reference.entropic_ot_gap(blobs)


@pytest.mark.parametrize(
    "changed, error, message",
    [
        (
            {"weights_": None},
            NotFittedError,
            "means_ and precisions_cholesky_, got no w",
        ),
        ({"means_": None}, NotFittedError, "got no means_. Set what is missing, or call fit"),
        (
            {"covariances_": None, "precisions_cholesky_": None},
            NotFittedError,
            "got no covariances_",
        ),
        (
            {"covariances_": np.zeros((4, 3, 3)), "precisions_cholesky_": None},
            ValueError,
            "covariances_ are singular. Add to their diagonals",
        ),
        (
            {"precisions_cholesky_": np.stack([np.eye(3)] * 2)},
            ValueError,
            r"precisions_cholesky_ must have the 4 component\(s\) of means_, got 2. Keep the same",
        ),
        (
            {"precisions_cholesky_": np.eye(3)},
            ValueError,
            "covariance_type must be that of the fit",
        ),
        ({"weights_": [0.5, 0.5]}, ValueError, r"got shapes \(2,\) and \(4, 3\). Give one row"),
        ({"means_": np.zeros(4)}, ValueError, r"Use means\[:, None\] for one feature"),
        (
            {"means_": np.zeros((4, 2)), "precisions_cholesky_": np.stack([np.eye(2)] * 4)},
            ValueError,
            r"X must have the 2 feature\(s\) of means_, got 3",
        ),
    ],
)
def test_parameters_set_by_hand_that_do_not_fit_are_named(blobs, changed, error, message):
    with pytest.raises(error, match=message):
        by_hand(fitted(blobs), **changed).predict(blobs)


def test_some_of_the_components_may_be_kept(blobs, covariance_type):
    model = fitted(blobs, covariance_type)
    most = model.score_samples(blobs) + 1e-12
    model.means_, model.weights_ = model.means_[:3], model.weights_[:3]
    if covariance_type == "tied":
        assert (model.score_samples(blobs) <= most).all()
        return
    with pytest.raises(ValueError, match=r"must have the 3 component\(s\) of means_, got 4"):
        model.score_samples(blobs)
    model.precisions_cholesky_ = model.precisions_cholesky_[:3]
    assert (model.score_samples(blobs) <= most).all()
    with pytest.raises(ValueError, match=r"covariances_ must have the 3 component\(s\) of means_"):
        model.sample()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_fit_survives_pickling_cloning_and_joblib(blobs):
    model = fitted(torch.tensor(blobs, requires_grad=True))
    assert model.means_.requires_grad
    restored = pickle.loads(pickle.dumps(model))
    assert not restored.means_.requires_grad
    assert torch.equal(restored.means_, model.means_.detach())
    assert not hasattr(clone(model), "means_")
    jobs = (joblib.delayed(fitted)(blobs) for _ in range(2))
    # forked processes, which import nothing; large arrays are mapped, here those of 1 kB
    for result in joblib.Parallel(n_jobs=2, backend="multiprocessing", max_nbytes=1000)(jobs):
        assert np.array_equal(result.means_, fitted(blobs).means_)


def test_it_works_in_pipelines_and_searches(blobs):
    pipeline = make_pipeline(StandardScaler(), DifferentiableGaussianMixture(random_state=0))
    grid = {
        "differentiablegaussianmixture__n_components": [1, 4],
        "differentiablegaussianmixture__covariance_type": ["full", "diag"],
    }
    shuffled = np.random.default_rng(1).permutation(blobs)
    search = GridSearchCV(pipeline, grid, cv=3).fit(shuffled)
    assert search.best_params_["differentiablegaussianmixture__n_components"] == 4
    assert cross_val_score(search.best_estimator_, shuffled, cv=3).shape == (3,)


def test_sample_weights_are_routed_through_searches(blobs, rng, difference):
    weights = rng.integers(1, 4, size=len(blobs)).astype(float)
    with config_context(enable_metadata_routing=True):
        model = DifferentiableGaussianMixture(random_state=0)
        model.set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        search = GridSearchCV(model, {"n_components": [1, 4]}, cv=2)
        search.fit(blobs, sample_weight=weights)
        unweighted = GridSearchCV(
            DifferentiableGaussianMixture(random_state=0), {"n_components": [1, 4]}, cv=2
        ).fit(blobs)
    expected = clone(search.best_estimator_).fit(blobs, sample_weight=weights)
    assert difference(search.best_estimator_, expected) == 0
    assert search.best_score_ != unweighted.best_score_


def test_it_is_shown_as_scikit_learn_shows_estimators(blobs):
    model = fitted(blobs, covariance_type="tied")
    assert " ".join(repr(model).split()) == (
        "DifferentiableGaussianMixture(covariance_type='tied', n_components=4, random_state=0)"
    )
    assert "DifferentiableGaussianMixture" in model._repr_html_()
