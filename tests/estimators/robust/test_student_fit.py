"""Fits of t distributions: out of memory, gradients, degrees of freedom that are given."""

import math

import numpy as np
import pytest
import torch

from skgmmot import DifferentiableGaussianMixture, StudentMixture
from skgmmot.estimators.robust import _student_fit


def test_given_degrees_of_freedom_stay(X):
    found = StudentMixture(2, degrees_of_freedom=[3, math.inf], random_state=0).fit(X)
    assert found.degrees_of_freedom_.tolist() == [3, math.inf]
    assert found._n_parameters() == 11
    gaussian = StudentMixture(2, degrees_of_freedom=np.inf, tol=1e-6, random_state=0).fit(X)
    start = {name: getattr(gaussian, f"{name}_") for name in ("weights", "means", "precisions")}
    start = {f"{name}_init": value for name, value in start.items()}
    plain = DifferentiableGaussianMixture(2, **start).fit(X)
    np.testing.assert_allclose(gaussian.means_, plain.means_, atol=1e-2)
    assert gaussian.score(X) == pytest.approx(plain.score(X), abs=1e-5)


def test_infinite_degrees_of_freedom_are_estimated_from_there_on(X, fitted):
    gaussian = StudentMixture(2, degrees_of_freedom=np.inf, random_state=0, warm_start=True).fit(X)
    found = gaussian.set_params(degrees_of_freedom=None).fit(X)
    np.testing.assert_allclose(found.degrees_of_freedom_, fitted.degrees_of_freedom_, rtol=0.1)


def test_blocks_and_dask_give_the_fit_of_memory(X, fitted):
    parts = StudentMixture(2, random_state=0).fit(lambda: iter(np.array_split(X, 3)))
    np.testing.assert_allclose(parts.degrees_of_freedom_, fitted.degrees_of_freedom_, rtol=1e-10)
    da = pytest.importorskip("dask.array")
    lazy = StudentMixture(2, random_state=0).fit(da.from_array(X, chunks=(len(X), 2)))
    np.testing.assert_array_equal(lazy.means_, fitted.means_)


def test_gradients_reach_degrees_of_freedom(X, monkeypatch):
    data = torch.from_numpy(X).requires_grad_()
    found = StudentMixture(2, random_state=0).fit(data)
    found.degrees_of_freedom_.sum().backward()
    assert torch.isfinite(data.grad).all() and data.grad.any()
    assert found.solution_.residual < 1e-5
    assert found.score_samples(data.detach()).requires_grad
    monkeypatch.setattr(_student_fit, "MAX_TAPE", 100)
    with pytest.raises(ValueError, match="at most 100 numbers n K d, got 1200"):
        StudentMixture(2, random_state=0).fit(data)


@pytest.mark.parametrize(
    ("given", "error", "match"),
    [
        (0.0, ValueError, "positive, got 0"),
        (-1.0, ValueError, "positive, got -1"),
        (math.nan, ValueError, "positive, got nan"),
        ([3.0, -2.0], ValueError, "positive, got -2"),
        ([1.0, 2.0, 3.0], ValueError, r"shape \(2,\), one for each component, got shape \(3,\)"),
        ([[1.0], [2.0]], ValueError, "got shape"),
        (["a", "b"], TypeError, "degrees_of_freedom must be None, a number"),
        ([True, False], TypeError, "positive floats"),
    ],
)
def test_what_is_no_degree_of_freedom_is_refused(X, given, error, match):
    with pytest.raises(error, match=match):
        StudentMixture(2, degrees_of_freedom=given).fit(X)
