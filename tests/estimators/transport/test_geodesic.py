"""`interpolate`: a mixture on the way, as an estimator."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.mixture import GaussianMixture

from skgmmot import DifferentiableGaussianMixture, MixtureWasserstein, interpolate
from skgmmot.plotting import GaussianMixtureDisplay

SOURCE = ([0.6, 0.4], [[0.0, 0.0], [5.0, 0.0]], [[1.0, 2.0], [0.5, 3.0]], "diag")
TARGET = ([1.0], [[0.0, 8.0]], [[[2.0, 1.0], [1.0, 3.0]]])


def test_it_samples_scores_predicts_draws_and_compares():
    middle = interpolate(SOURCE, TARGET, 0.25)
    X, labels = middle.sample(20_000)
    assert np.allclose(X.mean(0), middle.weights_ @ middle.means_, atol=0.1)
    assert np.allclose(np.bincount(labels) / len(X), middle.weights_, atol=0.02)
    assert np.isfinite(middle.score_samples(X)).all()
    assert (middle.predict(middle.means_) == [0, 1]).all()
    GaussianMixtureDisplay.from_estimator(middle)
    distance = MixtureWasserstein()
    assert np.isclose(distance(SOURCE, middle), 0.25 * distance(SOURCE, TARGET))
    assert middle.covariance_type == "full" and middle.n_components == 2
    assert clone(middle).get_params() == middle.get_params()


def test_between_estimators_of_either_library_it_is_the_same(blobs):
    other = GaussianMixture(2, random_state=0).fit(blobs)
    ours = DifferentiableGaussianMixture(2, random_state=0).fit(blobs)
    target = ([0.3, 0.7], [[0.0] * 3, [9.0] * 3], [np.eye(3), 2 * np.eye(3)])
    means = [interpolate(m, target, 0.5).means_ for m in (ours, other)]
    assert np.allclose(*means)


def test_tensors_on_a_graph_give_tensors_and_arrays_give_arrays():
    source = tuple(torch.tensor(t, dtype=torch.float64) for t in SOURCE[:3])
    assert isinstance(interpolate((*source, "diag"), TARGET, 0.5).means_, np.ndarray)
    source[1].requires_grad_()
    middle = interpolate((*source, "diag"), TARGET, 0.5)
    assert all(isinstance(t, torch.Tensor) for t in (middle.means_, middle.covariances_))
    assert isinstance(middle.sample(3)[0], torch.Tensor)
    assert isinstance(interpolate(SOURCE, TARGET, 0.5).weights_, np.ndarray)


def test_the_covariance_type_of_both_is_kept(covariance_type, blobs):
    models = [
        DifferentiableGaussianMixture(K, covariance_type=covariance_type, random_state=0).fit(blobs)
        for K in (2, 3)
    ]
    middle = interpolate(*models, 0.5)
    assert middle.covariance_type == covariance_type
    assert middle.bic(blobs) > 0  # counts parameters by type


def test_a_singular_mixture_is_sampled_and_has_no_density():
    point = ([1.0], [[0.0, 0.0]], [np.zeros((2, 2))])
    line = ([1.0], [[2.0, 0.0]], [np.diag([4.0, 0.0])])
    middle = interpolate(point, line, 0.5)
    X, _ = middle.sample(1000)
    assert np.allclose(X[:, 1], 0) and np.isclose(X[:, 0].std(), 1, atol=0.1)
    with pytest.raises(ValueError, match="must have precisions_cholesky_ for densities"):
        middle.score_samples(X)
    with pytest.raises(ValueError, match="covariances_ are singular"):
        middle.predict(X)


@pytest.mark.parametrize("t", [-0.1, 1.1, np.nan])
def test_times_beyond_the_ends_are_refused(t):
    with pytest.raises(ValueError, match=f"t must be from 0 to 1, got {t}"):
        interpolate(SOURCE, TARGET, t)


@pytest.mark.parametrize("t", ["0.5", [0.5], True, None])
def test_times_that_are_no_numbers_are_refused(t):
    with pytest.raises(TypeError, match="t must be a number, got"):
        interpolate(SOURCE, TARGET, t)


def test_what_is_no_mixture_is_refused():
    with pytest.raises(TypeError, match="target must be a fitted mixture estimator or a tuple"):
        interpolate(SOURCE, np.ones((3, 2)), 0.5)
    with pytest.raises(NotFittedError):
        interpolate(DifferentiableGaussianMixture(), TARGET, 0.5)
    with pytest.raises(ValueError, match="equal numbers of features, got 2 and 3"):
        interpolate(SOURCE, ([1.0], [[0.0] * 3], [np.eye(3)]), 0.5)
