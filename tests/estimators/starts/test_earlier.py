"""Warm starts."""

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from skgmmot import DifferentiableGaussianMixture, SemidiscreteGMM


def fitted(X, covariance_type="full", **params):
    """Four components, from k-means, fitted."""
    params = {"n_components": 4, "random_state": 0, **params}
    return DifferentiableGaussianMixture(covariance_type=covariance_type, **params).fit(X)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_warm_start_goes_on_where_the_last_fit_stopped(blobs, covariance_type, difference):
    kwargs = {"covariance_type": covariance_type, "init_params": "random", "tol": 0.0}
    twice = fitted(blobs, max_iter=5, warm_start=True, **kwargs).fit(blobs)
    once = fitted(blobs, max_iter=10, **kwargs)
    assert difference(once, twice) < 1e-11
    assert twice.n_iter_ == 5


def test_a_warm_start_with_another_shape_is_refused(blobs):
    model = fitted(blobs, warm_start=True)
    with pytest.raises(ValueError, match="warm_start needs a fit of shape"):
        model.set_params(n_components=3).fit(blobs)
    with pytest.raises(ValueError, match="covariance_type must be that of the fit, got 'tied'"):
        model.set_params(n_components=4, covariance_type="tied").fit(blobs)
    with pytest.raises(ValueError, match="warm_start needs a fit of shape"):
        model.set_params(covariance_type="full").fit(blobs[:, :2])


NO_SAMPLES = "got components without samples: 1 of .. They have weight zero and are never predicted"


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
@pytest.mark.parametrize("acceleration", [None, "squarem"])
def test_a_component_without_samples_is_never_predicted_and_can_come_back(
    covariance_type, acceleration
):
    X = np.repeat([0.0, 1.0], 50)[:, None]  # two values, three components
    model = DifferentiableGaussianMixture(
        3,
        covariance_type=covariance_type,
        random_state=0,
        acceleration=acceleration,
        warm_start=True,
    )
    with pytest.warns(ConvergenceWarning, match=NO_SAMPLES):
        model.fit(X)
    assert model.weights_[2] == 0 and np.allclose(model.weights_[:2], 0.5)
    between = np.array([[0.49], [0.5], [0.51]])
    assert model.predict_proba(between)[:, 2].max() == 0 and model.predict(between).max() < 2
    theirs = GaussianMixture(2, covariance_type=covariance_type, random_state=0).fit(X)
    assert np.allclose(model.score_samples(between), theirs.score_samples(between), rtol=1e-9)
    assert model.score(X) == pytest.approx(theirs.score(X))
    if covariance_type in ("full", "diag", "spherical"):
        assert model.covariances_[2].item() == pytest.approx(np.var(X) + 1e-6)
    with pytest.warns(ConvergenceWarning, match=NO_SAMPLES):
        model.fit(X)  # there is nothing to come back for
    assert model.weights_[2] == 0
    model.fit(np.vstack([X, np.full((25, 1), 0.5)]))
    assert np.allclose(model.weights_, [0.4, 0.4, 0.2])
    assert model.predict(between)[1] == 2


def test_a_semidiscrete_warm_start_far_away_is_refused(blobs):
    model = SemidiscreteGMM(2, random_state=0, warm_start=True, max_iter=2)
    with pytest.warns(ConvergenceWarning):
        model.fit(1e29 * blobs[:20, :1])
    with pytest.raises(ValueError, match="warm_start needs an earlier fit near X, got one"):
        model.fit(blobs[:20, :1])
