"""Samples cut into blocks in memory, in dask, and as a function of blocks."""

import itertools
import os
import signal

import numpy as np
import pandas as pd
import pytest
import torch

from skgmmot import DifferentiableGaussianMixture
from skgmmot._inputs import places

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")
dd = pytest.importorskip("dask.dataframe")


CHUNKS = (250, 100, 250)
EDGES = np.cumsum((0, *CHUNKS))


def cut(array):
    """The blocks of an array in memory."""
    return [array[i:j] for i, j in itertools.pairwise(EDGES)]


def chunked(array, dtype=None):
    """The same blocks as a dask array."""
    return da.from_array(array.astype(dtype or array.dtype), chunks=(CHUNKS, *array.shape[1:]))


def chunked_by(n, array):
    """A dask array in blocks of n rows."""
    return da.from_array(array, chunks=(n, *array.shape[1:]))


def frame(X, n=3):
    """A data frame of n partitions."""
    return dd.from_pandas(pd.DataFrame(X, columns=["a", "b", "c"]), npartitions=n)


def read(X, sample_weight=None):
    """The samples of an estimator of no parameters."""
    return places.out_of_core(DifferentiableGaussianMixture(), X, sample_weight)[0]


def streamed(X, weights=None):
    """The same blocks as a function of blocks."""
    return read(lambda: iter(cut(X)), None if weights is None else (lambda: iter(cut(weights))))


def same(left, right):
    """Whether tuples of tensors have the same bits."""
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def of_dtype(dtype):
    return da.zeros((10, 2), chunks=(5, 2), dtype=dtype)


def delayed_blocks(*blocks):
    """An array whose blocks need not have what is declared."""
    parts = [da.from_delayed(dask.delayed(b), (4, 2), dtype=float) for b in blocks]
    return da.concatenate(parts)


def dying(flag):
    """A function of a block that kills its process, a worker, where it finds a flag."""
    here = os.getpid()

    def through(block):
        if os.getpid() == here:
            return block
        try:
            os.unlink(flag)
        except OSError:
            return block
        os.kill(os.getpid(), signal.SIGKILL)

    return through
