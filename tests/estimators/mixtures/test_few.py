"""Predictions for few samples, which numpy answers."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch

from skgmmot import DifferentiableGaussianMixture, StudentMixture
from skgmmot.estimators.mixtures import _base, _few
from skgmmot.gaussian.covariance.registry import COVARIANCE_TYPES, LOW_RANK

METHODS = ["score_samples", "predict", "predict_proba"]


@pytest.fixture
def torch_answers(monkeypatch):
    """Samples that torch was asked about, in a list."""
    asked, general = [], _base.MixtureEstimator._blockwise

    def blockwise(self, function, X):
        asked.append(X)
        return general(self, function, X)

    monkeypatch.setattr(_base.MixtureEstimator, "_blockwise", blockwise)
    return asked


def fitted(X, covariance_type="full", **options):
    options = {"n_components": 3, "random_state": 0, "max_iter": 5, "tol": 1.0} | options
    return DifferentiableGaussianMixture(covariance_type=covariance_type, **options).fit(X)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("model_dtype", [np.float32, np.float64])
def test_numpy_answers_as_torch_does(blobs, covariance_type, model_dtype, dtype, torch_answers):
    model = fitted(blobs.astype(model_dtype), covariance_type)
    few, many = blobs[:20].astype(dtype), np.tile(blobs, (20, 1)).astype(dtype)
    for method in METHODS:
        found, expected = getattr(model, method)(few), getattr(model, method)(many)[:20]
        assert found.dtype == expected.dtype and found.flags.writeable
        eps = np.finfo(dtype).eps
        np.testing.assert_allclose(found, expected, rtol=64 * eps, atol=64 * eps)
    assert [len(X) for X in torch_answers] == [len(many)] * len(METHODS)


def test_one_sample_after_another_is_as_all_at_once(blobs):
    model = fitted(blobs)
    rows = np.concatenate([model.predict_proba(x[None]) for x in blobs[:10]])
    np.testing.assert_allclose(rows, model.predict_proba(blobs)[:10], atol=1e-13)


def test_edits_count(blobs, torch_answers):
    model = fitted(blobs, "diag")
    before = model.score_samples(blobs[:3])
    model.precisions_cholesky_ *= 1e3  # in place
    assert (model.score_samples(blobs[:3]) < before).all()
    assert not torch_answers


def test_components_of_weight_zero_have_no_share(blobs):
    model = fitted(blobs)
    model.weights_ = np.array([0.0, 0.5, 0.5])
    shares = model.predict_proba(model.means_)
    assert (shares[:, 0] == 0).all()
    np.testing.assert_allclose(shares.sum(1), 1)


ARRAYS = {
    "list": np.ndarray.tolist,
    "float16": lambda X: X.astype(np.float16),
    "tensor": torch.tensor,
    "fortran": np.asfortranarray,
    "read-only": lambda X: np.frombuffer(X.tobytes()).reshape(X.shape),
    "foreign byte order": lambda X: X.astype(">f8"),
    "frame": lambda X: pd.DataFrame(X, columns=list("abc")),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_any_array_has_the_same_answer(blobs, case, torch_answers):
    model, few = fitted(blobs), blobs[:4].astype(np.float16).astype(float)
    if case == "frame":
        model = fitted(pd.DataFrame(blobs, columns=list("abc")))
    for method in METHODS:
        found = getattr(model, method)(ARRAYS[case](few))
        np.testing.assert_array_equal(found, getattr(fitted(blobs), method)(few))
    assert not torch_answers


def test_far_samples_go_to_torch(blobs, torch_answers):
    assert len(fitted(blobs).predict(blobs[:4] + 1e200)) == 4
    assert len(torch_answers) == 1


def test_special_models_go_to_torch(blobs, torch_answers):
    fitted(blobs, noise="uniform").predict(blobs[:4])
    StudentMixture(2, random_state=0, max_iter=2, tol=9.0).fit(blobs).score_samples(blobs[:4])
    fitted(torch.tensor(blobs, requires_grad=True)).predict(blobs[:4])
    fitted(blobs).score_samples(torch.tensor(blobs[:4], requires_grad=True))
    assert len(torch_answers) == 4


INVALID = {
    "NaN": lambda X: np.where(X[0, 0] == X, np.nan, X),
    "infinity": lambda X: np.where(X[0, 0] == X, np.inf, X),
    "a feature too many": lambda X: np.hstack([X, X[:, :1]]),
    "one axis": lambda X: X[0],
    "no rows": lambda X: X[:0],
}


@pytest.mark.parametrize("case", INVALID)
def test_invalid_samples_are_refused_as_ever(blobs, case):
    model = fitted(blobs)
    for method in METHODS:
        with pytest.raises(ValueError, match=r"X |0 sample"):
            getattr(model, method)(INVALID[case](blobs[:4]))


def test_parameters_of_another_type_are_refused_as_ever(blobs):
    model = fitted(blobs)
    model.covariance_type = "diag"
    with pytest.raises(ValueError, match="covariance_type must be that of the fit"):
        model.predict(blobs[:4])


def test_many_samples_go_to_torch(blobs, torch_answers):
    model = fitted(blobs)
    n = _few.MOST_NUMBERS // blobs.shape[1] // 3
    X = np.tile(blobs, (n // len(blobs) + 1, 1))[:n]
    model.predict(X)
    assert not torch_answers
    model.predict(np.vstack([X, X[:1]]))
    assert len(torch_answers) == 1


#: Precision factors of variances 4 (and 1/4) in storage, and the deviations of the features.
FACTORS = {
    "full": (np.stack([np.diag([0.5, 2.0]), np.diag([2.0, 0.5])]), [[2.0, 0.5], [0.5, 2.0]]),
    "tied": (np.diag([0.5, 2.0])[None], [[2.0, 0.5]] * 2),
    "diag": (np.array([[0.5, 2.0], [2.0, 0.5]]), [[2.0, 0.5], [0.5, 2.0]]),
    "spherical": (np.array([[0.5], [2.0]]), [[2.0, 2.0], [0.5, 0.5]]),
}
WEIGHTS, MEANS = np.array([0.25, 0.75]), np.array([[0.0, 1.0], [3.0, -1.0]])


def joint_of(name, X, weights=WEIGHTS, means=MEANS):
    return _few.log_joint(weights, means, FACTORS[name][0], COVARIANCE_TYPES[name], X)


@pytest.mark.parametrize("name", FACTORS)
def test_the_log_joint_is_that_of_normal_distributions(name, rng):
    X = rng.normal(size=(5, 2))
    normal = scipy.stats.norm(MEANS[:, None], np.array(FACTORS[name][1])[:, None])
    expected = np.log(WEIGHTS)[:, None] + normal.logpdf(X).sum(-1)
    np.testing.assert_allclose(joint_of(name, X), expected, rtol=1e-14)


def test_correlated_features(rng):
    covariance = np.array([[2.0, 0.8], [0.8, 0.5]])
    factor = np.linalg.inv(np.linalg.cholesky(covariance)).T[None]
    X, one = rng.normal(size=(5, 2)), np.ones(1)
    joint = _few.log_joint(one, MEANS[:1], factor, COVARIANCE_TYPES["full"], X)
    expected = scipy.stats.multivariate_normal(MEANS[0], covariance).logpdf(X)
    np.testing.assert_allclose(joint[0], expected, rtol=1e-13)


def test_what_follows_from_a_log_joint():
    joint = np.log([[0.1, 1e-3, 1.0], [0.3, 4e-3, 0.2]])
    joint[0, 2] = -np.inf  # a component of weight zero
    np.testing.assert_allclose(_few.log_density(joint), np.log([0.4, 5e-3, 0.2]))
    np.testing.assert_array_equal(_few.labels(joint), [1, 1, 1])
    expected = [[0.25, 0.75], [0.2, 0.8], [0.0, 1.0]]
    found = _few.responsibilities(joint)
    np.testing.assert_allclose(found, expected, rtol=1e-14)
    assert found.flags.c_contiguous


def test_densities_below_the_range_keep_their_logarithms():
    joint = np.array([[-2000.0], [-2000.0 + np.log(3)]])
    np.testing.assert_allclose(_few.log_density(joint), -2000 + np.log(4), rtol=1e-15)
    np.testing.assert_allclose(_few.responsibilities(joint), [[0.25, 0.75]])


@pytest.mark.parametrize("far", [1e17, 1e200])
def test_far_samples_are_left_to_torch(far):
    assert joint_of("diag", np.array([[0.0, 0.0], [far, 0.0]])) is None


def test_parameters_that_are_no_mixture_are_left_to_torch():
    X = np.zeros((1, 2))
    assert joint_of("diag", X, weights=np.array([np.nan, np.nan])) is None
    assert joint_of("diag", X, means=np.full((2, 2), np.nan)) is None
    low_rank = LOW_RANK.with_rank(1)
    assert _few.log_joint(WEIGHTS, MEANS, np.ones((2, 2, 2)), low_rank, X) is None
