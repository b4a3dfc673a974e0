"""Error messages for samples that are no matrix of numbers."""

import numpy as np
import pandas as pd
import pytest
import torch

from skgmmot import DifferentiableGaussianMixture, OTMap, SlicedWassersteinGMM, WassersteinQuantizer
from skgmmot.metrics import sliced_wasserstein_distance

PICTURE = np.random.default_rng(0).uniform(size=(6, 5, 3))
FITS = [DifferentiableGaussianMixture(), OTMap(), SlicedWassersteinGMM(), WassersteinQuantizer(2)]


@pytest.mark.parametrize("estimator", FITS, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("convert", [np.asarray, torch.as_tensor, list])
def test_a_picture_is_no_matrix_and_the_message_says_how_to_make_one(estimator, convert):
    message = (
        r"X must have shape \(n_samples, n_features\), got \(6, 5, 3\). Reshape your data: "
        r"X.reshape\(-1, 3\) if its last axis holds the features, as of a picture, whose "
        r"samples are pixels, X.reshape\(6, -1\) if"
    )
    with pytest.raises(ValueError, match=message):
        estimator.fit(convert(PICTURE))


def test_a_picture_as_target_is_called_so():
    with pytest.raises(ValueError, match=r"target must have shape .* target.reshape\(-1, 3\) if"):
        OTMap(PICTURE).fit(PICTURE.reshape(-1, 3))
    with pytest.raises(ValueError, match=r"target must be finite, got NaN in 1 of 5 rows"):
        OTMap(np.r_[PICTURE[0, :4], np.full((1, 3), np.nan)]).fit(PICTURE.reshape(-1, 3))


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.zeros(3), r"got \(3,\). Reshape your data: X\[:, None\] if it holds one feature, X\[N"),
        (np.zeros((2, 2, 2, 2)), r"X.reshape\(-1, 2\) if .* X.reshape\(2, -1\) if each X\[i\]"),
        (
            np.zeros((2, 3, 8, 8)),
            r"moveaxis\(X, 1, -1\).reshape\(-1, 3\) if its samples",
        ),
        (
            np.zeros((3, 8, 7)),
            r"np.moveaxis\(X, 0, -1\).reshape\(-1, 3\) if its sam",
        ),
        ([np.zeros((2, 3)), np.zeros((4, 3))], "must have rows of one length.* by np.vstack"),
        (None, "X must be an array of shape .n_samples, n_features., got None. Pass samples."),
        (np.float64(3.0), r"got \(\). Reshape your data: \[\[X\]\] if it is one sample"),
    ],
)
def test_other_numbers_of_axes_are_told_how_to_be_reshaped(X, message):
    with pytest.raises(ValueError, match=message):
        DifferentiableGaussianMixture().fit(X)


WORDS = ["3.5", "4", "many"]


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (pd.DataFrame({"a": [0.0, 1, 2], "size": WORDS}), "text 'many' in column 'size'. Drop"),
        (
            pd.DataFrame({"a": [0.0, 1, 2], "size": pd.Categorical(WORDS)}),
            "text 'many' in column 'size'. Drop the column, or encode it",
        ),
        (pd.DataFrame([[0.0, "x"], [1.0, "y"]]), "text 'x' in column 1"),
        (np.array([[0.0, "b"], [1.0, 2.0]], dtype=object), "text 'b' in column 1"),
        (np.array([["1", "b"], ["c", "2"]]), "text 'c' in column 0"),
        ([["1", "b"], ["c", "2"]], "text 'c' in column 0"),
    ],
    ids=["frame", "categories", "numbered frame", "objects", "texts", "list"],
)
def test_text_is_named_with_its_column(X, message):
    with pytest.raises(ValueError, match=f"X must hold numbers, got the {message}"):
        DifferentiableGaussianMixture().fit(X)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (pd.DataFrame({"a": [0.0, 1], "who": ["x", "y"]}), "text 'x' in column 'who'"),
        ([[0.0, "b"], [1.0, 2.0]], "text 'b' in column 1"),
        (["a", "b"], "text 'a'"),
    ],
)
def test_text_given_to_a_metric_is_named(given, message):
    with pytest.raises(ValueError, match=f"must hold numbers, got the {message}"):
        sliced_wasserstein_distance([[0.0, 1.0]], given)


def test_numbers_written_as_text_are_numbers_as_in_scikit_learn():
    X = pd.DataFrame({"a": [0.0, 1.0, 2.0], "b": ["1", "3", "8"]})
    assert DifferentiableGaussianMixture().fit(X).means_[0, 1] == 4


GRAPH = torch.ones(2, requires_grad=True)
NOT_NUMBERS = {
    "ragged": ([[0.0], [1.0, 2.0]], ValueError, "rows of one length, got a list of several"),
    "ragged tuple": (((0.0, 1.0), (1.0,)), ValueError, "rows of one length, got a tuple of"),
    "bytes": (
        np.full((3, 2), b"blue"),
        ValueError,
        "hold numbers, got the text 'blue' in col",
    ),
    "complex": (np.ones((3, 2)) + 1j, ValueError, "be real, got complex.*Complex data not supp"),
    "complex list": ([[1j], [2.0]], ValueError, "be real, got complex numbers"),
    "objects": ([[object()], [0.0]], TypeError, "hold numbers, got object: float"),
    "sets": ([[{1.0}], [0.0]], TypeError, "hold numbers, got set: float"),
    "tensors": ([GRAPH, GRAPH], TypeError, r"got a list of tensors that require a gradient. Pass"),
}


@pytest.mark.parametrize("kind", NOT_NUMBERS)
def test_what_is_not_numbers_is_named(kind):
    X, error, message = NOT_NUMBERS[kind]
    with pytest.raises(error, match=f"X must .*{message}"):
        DifferentiableGaussianMixture().fit(X)


@pytest.mark.parametrize("fit", [DifferentiableGaussianMixture, WassersteinQuantizer])
@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([np.nan, 1.0], "sample_weight must be finite and non-negative, got a range of nan"),
        ([np.inf, 1.0], "sample_weight must be finite and non-negative, got a range of 1.0 to inf"),
        (["heavy", "1"], "got the text 'heavy'. Pass one number a sample"),
        ([1j, 1.0], "sample_weight must be real"),
        ([[1.0], [1.0]], r"sample_weight must have shape \(2,\), got \(2, 1\)"),
        ([1.0], r"sample_weight must have shape \(2,\), got \(1,\)"),
        ([0.0, 0.0], "positive sum, got all zeros"),
        ([None, 1.0], "sample_weight must be finite and non-negative, got a range of nan"),
        (np.ma.array([1.0, 2.0], mask=[0, 1]), "sample_weight must have no masked entries, got 1"),
    ],
)
def test_weights_that_are_no_numbers_are_named(fit, weights, message):
    with pytest.raises(ValueError, match=message):
        fit(1).fit([[0.0], [1.0]], sample_weight=weights)
