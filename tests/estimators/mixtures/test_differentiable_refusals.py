"""What a mixture refuses, and what an interrupted or failed fit keeps."""

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError

from skgmmot import DifferentiableGaussianMixture


def fitted(X, covariance_type="full", **params):
    """Four components, from k-means, fitted."""
    params = {"n_components": 4, "random_state": 0, **params}
    return DifferentiableGaussianMixture(covariance_type=covariance_type, **params).fit(X)


BAD_SAMPLES = [
    (np.ones(10), r"X must have shape \(n_samples, n_features\), got \(10,\). Reshape your data"),
    (
        torch.ones(10),
        r"X must have shape \(n_samples, n_features\), got \(10,\). Reshape your data",
    ),
    (torch.ones(2, 3, 4), r"X must have shape .* got \(2, 3, 4\). Reshape"),
    (np.ones((2, 3, 4)), r"X.reshape\(-1, 4\) if its last axis holds"),
    (np.empty((0, 3)), r"Found array with 0 sample\(s\)"),
    (torch.empty((0, 3)), r"X must have at least 2 sample\(s\)"),
    (torch.empty((10, 0)), r"X must have at least 2 sample\(s\) and 1 feature\(s\)"),
    (np.r_[np.ones((9, 3)), [[np.nan] * 3]], r"X must be finite, got NaN in 1 of 10 rows .*row 9"),
    (torch.full((9, 3), torch.inf), r"X must be finite, got infinity \(inf\) in 9 of 9 rows"),
    (np.ma.masked_less(np.arange(30.0).reshape(10, 3), 4), "X must have no masked entries, got 4"),
    (np.random.default_rng(0).normal(size=(3, 3)), "n_components = 4, n_samples = 3"),
    (np.full((9, 3), "a"), "the text 'a' in column 0"),
]


@pytest.mark.parametrize("X, message", BAD_SAMPLES)
def test_bad_samples_are_refused_and_the_earlier_fit_stays(blobs, X, message):
    model = fitted(blobs)
    before = dict(vars(model))
    with pytest.raises(ValueError, match=message):
        model.fit(X)
    assert vars(model).keys() == before.keys()
    assert all(vars(model)[name] is value for name, value in before.items())


def test_complex_tensors_are_refused(blobs):
    with pytest.raises(TypeError, match=r"X must be real, got torch\.complex64"):
        fitted(torch.ones(5, 3, dtype=torch.complex64))


@pytest.mark.parametrize(
    "params, message",
    [
        ({"covariance_type": "round"}, "The 'covariance_type' parameter"),
        ({"init_params": "best"}, "The 'init_params' parameter"),
        ({"gradient": "exact"}, "The 'gradient' parameter"),
        ({"n_components": 0}, "The 'n_components' parameter"),
        ({"tol": -1.0}, "The 'tol' parameter"),
        ({"device": 3}, "The 'device' parameter"),
        ({"weights_init": [0.5, 0.5]}, "The parameter 'weights' should have the shape of"),
        ({"weights_init": [0.5, 0.5, 0.5, -0.5]}, r"should be in the range \[0, 1\]"),
        ({"weights_init": [0.5, 0.5, 0.5, 0.5]}, "should be normalized"),
        ({"means_init": np.ones((4, 2))}, "The parameter 'means' should have the shape of"),
        ({"means_init": np.full((4, 3), np.nan)}, "The parameter 'means' must be finite"),
        ({"precisions_init": np.ones((4, 3, 3))}, "should be symmetric, positive-definite"),
        ({"precisions_init": np.ones((4, 3)), "covariance_type": "full"}, "should have the shape"),
    ],
)
def test_bad_parameters_are_refused(blobs, params, message):
    with pytest.raises(ValueError, match=message):
        fitted(blobs, **params)


@pytest.mark.parametrize(
    "method", ["predict", "predict_proba", "score_samples", "score", "bic", "aic"]
)
def test_an_unfitted_mixture_is_refused(blobs, method):
    with pytest.raises(NotFittedError, match="is not fitted yet"):
        getattr(DifferentiableGaussianMixture(), method)(blobs)
    with pytest.raises(NotFittedError, match="is not fitted yet"):
        DifferentiableGaussianMixture().sample()


@pytest.mark.parametrize("n_samples", [0, -1, 2.5, "3", True])
def test_a_number_of_samples_must_be_a_positive_integer(blobs, n_samples):
    with pytest.raises(ValueError, match="Invalid value for 'n_samples': it must be a positive"):
        fitted(blobs).sample(n_samples)


@pytest.mark.parametrize("make", [np.asarray, torch.tensor])
def test_samples_of_another_dimension_are_refused(blobs, make):
    with pytest.raises(ValueError, match="X has 2 features, but DifferentiableGaussianMixture"):
        fitted(blobs).predict(make(blobs[:, :2]))


@pytest.mark.parametrize("method", ["score", "bic", "predict", "sample"])
def test_another_covariance_type_than_that_of_the_fit_is_refused(blobs, method):
    model = fitted(blobs).set_params(covariance_type="diag")
    arguments = () if method == "sample" else (blobs,)
    with pytest.raises(ValueError, match="covariance_type must be that of the fit, got 'diag'"):
        getattr(model, method)(*arguments)


@pytest.mark.parametrize("device", ["nowhere", "cuda:99"])
def test_a_device_that_is_not_there_is_refused(blobs, device):
    with pytest.raises(ValueError, match=f"device must be one that torch has here, got '{device}'"):
        fitted(blobs, device=device)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_samples_on_another_accelerator_are_refused(device):
    # torch's 'meta' device stands for any accelerator
    X = torch.empty(10, 2, device="meta")
    with pytest.raises(ValueError, match="X must be on the device named, or on the CPU, got meta"):
        fitted(X, device=device)
