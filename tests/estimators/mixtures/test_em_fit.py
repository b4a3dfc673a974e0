"""Fits by EM: what they warn of, keep and refuse."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.mixture import GaussianMixture
from sklearn.utils.validation import check_is_fitted

from skgmmot import DifferentiableGaussianMixture
from skgmmot.fitting.em.rows import EM


def fitted(X, covariance_type="full", **params):
    """Four components, from k-means, fitted."""
    params = {"n_components": 4, "random_state": 0, **params}
    return DifferentiableGaussianMixture(covariance_type=covariance_type, **params).fit(X)


def test_several_starts_share_one_random_stream(blobs, difference):
    params = {"n_init": 4, "init_params": "random", "random_state": 5, "tol": 1e-5}
    theirs = GaussianMixture(4, **params).fit(blobs)
    ours = DifferentiableGaussianMixture(4, **params).fit(blobs)
    assert difference(ours, theirs) < 1e-9
    assert ours.n_iter_ == theirs.n_iter_


def test_no_iterations_give_the_start(blobs, covariance_type, difference):
    model = fitted(blobs, covariance_type, max_iter=0)
    assert (model.n_iter_, model.lower_bound_, model.lower_bounds_) == (0, -np.inf, [])
    assert not model.converged_
    theirs = GaussianMixture(4, covariance_type=covariance_type, random_state=0, max_iter=0)
    assert difference(model, theirs.fit(blobs)) < 1e-10


def test_no_iterations_from_single_samples_give_weights_that_sum_to_one(blobs):
    model = fitted(blobs, max_iter=0, init_params="k-means++")
    assert np.isclose(model.weights_.sum(), 1)


def test_no_iterations_keep_the_given_precisions(blobs, covariance_type, unit_precisions):
    model = fitted(blobs, covariance_type, max_iter=0, precisions_init=unit_precisions)
    assert np.allclose(model.precisions_, unit_precisions)
    assert np.allclose(model.covariances_, unit_precisions)


def test_not_converging_warns(blobs):
    with pytest.warns(ConvergenceWarning, match="Best performing initialization did not converge"):
        fitted(blobs, max_iter=1, init_params="random")


def test_a_fit_that_collapses_midway_leaves_the_earlier_fit(blobs):
    model = fitted(blobs)
    means = model.means_.copy()
    model.set_params(reg_covar=0)
    with pytest.raises(ValueError, match="ill-defined empirical covariance"):
        model.fit(np.c_[blobs, np.zeros(len(blobs))])
    assert np.array_equal(model.means_, means)
    assert model.n_features_in_ == 3
    assert model.predict(blobs).shape == (600,)


def test_an_interrupted_fit_keeps_what_it_reached(blobs, monkeypatch, difference):
    step, calls = EM.__call__, []

    def interrupted(self, theta):
        calls.append(theta)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return step(self, theta)

    monkeypatch.setattr(EM, "__call__", interrupted)
    model = DifferentiableGaussianMixture(4, init_params="random", random_state=0)
    with pytest.raises(KeyboardInterrupt):
        model.fit(blobs)
    monkeypatch.undo()
    assert model.n_iter_ == 3 and not model.converged_
    check_is_fitted(model)  # also after a first fit; converged_ tells
    assert model.predict_proba(blobs).shape == (len(blobs), 4)
    with pytest.warns(ConvergenceWarning):
        expected = clone(model).set_params(max_iter=3).fit(blobs)
    assert difference(model, expected) == 0


def test_a_first_fit_that_is_interrupted_before_its_start_is_none(blobs):
    def interrupted(X, n_components, random_state):
        raise KeyboardInterrupt

    model = DifferentiableGaussianMixture(4, init_params=interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.fit(blobs)
    with pytest.raises(NotFittedError):
        model.predict(blobs)


@pytest.mark.parametrize("scale", [1e-140, 1e-100, 1e-62, 1e62, 1e100, 1e140])
def test_a_gradient_in_units_whose_squares_leave_the_range_is_refused(rng, scale):
    X = np.vstack([rng.normal(size=(12, 2)), 5 + rng.normal(size=(12, 2))])
    with pytest.raises(ValueError, match=r"X must have variances from 1e-120 to 1e.120 for a grad"):
        fitted(torch.tensor(X * scale, requires_grad=True), reg_covar=0)


def test_a_gradient_in_units_near_the_ends_of_the_range_is_that_of_others(rng):
    X = np.vstack([rng.normal(size=(12, 2)), 5 + rng.normal(size=(12, 2))])
    gradients = []
    for scale in (1, 1e-55, 1e55):
        samples = torch.tensor(X * scale, requires_grad=True)
        fitted(samples, reg_covar=0).means_[0, 0].backward()
        gradients.append(samples.grad)
    for found in gradients[1:]:
        torch.testing.assert_close(found, gradients[0], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("total", [1e-300, 1e-130, 1e130, 1e300])
def test_a_gradient_with_a_prior_needs_weights_that_count(rng, total):
    X = torch.tensor(rng.normal(size=(10, 1)), requires_grad=True)
    model = DifferentiableGaussianMixture(2, prior="auto", random_state=0)
    with pytest.raises(ValueError, match=r"sample_weight must have a sum from 1e-120 to 1e.120"):
        model.fit(X, sample_weight=np.full(10, total / 10))
