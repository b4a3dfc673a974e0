"""What of dask is a table of numbers in blocks of rows."""

import numpy as np
import pandas as pd
import pytest
import torch
from in_dask import CHUNKS, chunked, delayed_blocks, frame, of_dtype, read

from skgmmot import DifferentiableGaussianMixture
from skgmmot._inputs import arrays, places
from skgmmot._inputs.dask.collections import check_features, dtype_of

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")
dd = pytest.importorskip("dask.dataframe")


REFUSED = {
    "1-d": (lambda: da.zeros(10), r"X must have shape .*X\[:, None\]"),
    "series": (lambda: frame(np.ones((9, 3)))["a"], r"X must have shape .*X.to_frame\(\)"),
    "3-d": (lambda: da.zeros((4, 3, 2)), r"X must have shape .*got 3 axes. Make the axes"),
    "features in chunks": (
        lambda: da.zeros((10, 4), chunks=(5, 2)),
        r"chunked by rows only, got chunks of features \(2, 2\). Use X.rechunk\(\{1: -1\}\)",
    ),
    "objects": (lambda: of_dtype(object), r"must hold real numbers, got object.*astype\(float\)"),
    "complex": (lambda: of_dtype(complex), r"must hold real numbers, got complex128"),
    "times": (lambda: of_dtype("M8[s]"), r"must hold real numbers, got datetime64"),
    "words": (
        lambda: dd.from_pandas(pd.DataFrame({"n": [1.0], "word": ["a"]}), npartitions=1),
        r"must hold real numbers, got (str|object|string) in column 'word'",
    ),
    "delayed": (lambda: dask.delayed(np.ones)((3, 2)), "must be a dask array or data frame, got"),
    "NaN": (
        lambda: da.from_array(np.where(np.arange(20) == 13, np.nan, 0.0)[:, None], chunks=(5, 1)),
        r"block 2 of X is invalid: X must be finite, got NaN in 1 of 5 rows \(first: row 3\)",
    ),
    "large": (lambda: da.full((10, 2), 1e200, chunks=(5, 2)), r"block [01] of X .* Rescale X"),
    "no rows": (lambda: da.zeros((0, 2)), "X must have rows, got none in any block"),
    "one row": (lambda: da.zeros((1, 2)), "X must have at least 2 samples"),
    "mixed dtypes": (
        lambda: delayed_blocks(np.ones((4, 2)), np.ones((4, 2), np.float32)),
        r"one dtype, got torch.float32 in block 1 after torch.float64 in block 0. Use X.astype",
    ),
    "mixed features": (
        lambda: delayed_blocks(np.ones((4, 2)), np.ones((4, 3))),
        "block 1 of X is invalid: X has 3 features, but .* expecting 2",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_table_of_numbers_in_blocks_of_rows_is_refused(name):
    make, message = REFUSED[name]
    with pytest.raises((TypeError, ValueError), match=message):
        read(make())


REFUSED_WEIGHTS = {
    "in memory": (lambda x: np.ones(len(x)), r"must be a dask array or series.*from_array"),
    "a tensor on a graph": (lambda x: torch.ones(len(x), requires_grad=True), "without gradients"),
    "a column": (lambda x: da.ones((len(x), 1)), "must have shape"),
    "other chunks": (
        lambda x: da.ones(len(x), chunks=300),
        r"the row chunks of X, \(250, 100, 250",
    ),
    "other lengths": (
        lambda x: frame(np.ones((len(x) - 1, 3)))["a"],
        r"block [012] of X is invalid: .*sample_weight",
    ),
    "negative": (lambda x: -da.ones(len(x), chunks=(CHUNKS,)), "block [012] .*non-negative"),
    "words": (lambda x: da.full(len(x), "a", chunks=(CHUNKS,)), "sample_weight must hold real"),
    "zeros": (lambda x: da.zeros(len(x), chunks=(CHUNKS,)), "must have a positive sum"),
}


@pytest.mark.parametrize("name", REFUSED_WEIGHTS)
def test_weights_that_are_cut_otherwise_or_no_weights_are_refused(X, name):
    make, message = REFUSED_WEIGHTS[name]
    with pytest.raises((TypeError, ValueError), match=message):
        read(chunked(X), make(X))


def test_weights_of_dask_need_samples_of_dask(X, weights):
    with pytest.raises(TypeError, match=r"in memory where X is.*sample_weight.compute\(\)"):
        DifferentiableGaussianMixture().fit(X, sample_weight=chunked(weights))


def test_other_devices_are_refused(X):
    with pytest.raises(ValueError, match="device must be None or 'cpu' for samples of dask"):
        places.out_of_core(DifferentiableGaussianMixture(device="meta"), chunked(X))


def test_dtypes_and_features_are_told_before_anything_is_computed(X):
    assert dtype_of(frame(X.astype("float32"))) == np.float32
    assert dtype_of(frame(X)) == dtype_of(of_dtype(int)) == np.float64
    estimator = DifferentiableGaussianMixture()
    check_features(estimator, frame(X), reset=True)
    assert estimator.n_features_in_ == 3 and list(estimator.feature_names_in_) == list("abc")
    check_features(estimator, chunked(X[:, :2]), reset=True)
    assert estimator.n_features_in_ == 2 and not hasattr(estimator, "feature_names_in_")


@pytest.mark.parametrize("data", [np.ones((3, 2)), torch.ones(3), [[1.0]], pd.DataFrame(), None])
def test_only_collections_of_dask_are_of_dask(data):
    assert not arrays.is_dask(data)
