"""Answers of estimators for samples of dask, which stay lazy."""

import functools
from collections.abc import Callable

import numpy as np

from skgmmot._inputs.dask.collections import check_features, dtype_of, is_frame, row_chunks
from skgmmot._inputs.dask.tasks import pickled, unpickled


def answers(
    estimator, X, function: Callable, example: np.ndarray | None = None, *, by_row: bool = False
):
    """``function(estimator, block)`` of all blocks as a lazy dask array with the row chunks of X.

    Parameters
    ----------
    estimator : BaseEstimator
        Fitted; the features of ``X`` are compared with its own.
    X : dask array or data frame
        Rows. Blocks without any are answered by nothing.
    function : callable
        Returns an array with as many rows as the block; it is pickled.
    example : ndarray, default=None
        An answer, of any number of rows, for its dtype and further axes; None has the function
        answer a row of zeros.
    by_row : bool, default=False
        Whether the function takes the number of a block's first row as its third argument.

    Returns
    -------
    dask array
        The answers.

    Raises
    ------
    TypeError, ValueError
        If ``X`` is no table of numbers chunked by rows, or has not the features of the fit.
    """
    check_features(estimator, X, reset=False)
    if by_row and np.isnan(row_chunks(X)).any():
        raise ValueError(
            "X must have chunks of known lengths where numbers are drawn for each row, got unknown "
            "ones. Use X.compute_chunk_sizes(), or X.to_dask_array(lengths=True) of a data frame."
        )
    nameless = object.__new__(type(estimator))  # names have been compared
    nameless.__dict__ = {k: v for k, v in vars(estimator).items() if k != "feature_names_in_"}
    if example is None:
        example = np.asarray(function(nameless, np.zeros((1, X.shape[1]), dtype_of(X))))
    meta = example[:0]
    of_block = (_RowAnswer if by_row else _Answer)(nameless, function, meta)
    if is_frame(X):
        return X.map_partitions(of_block, meta=meta)
    if meta.ndim == 1:
        return X.map_blocks(of_block, drop_axis=1, dtype=meta.dtype, meta=meta)
    chunks = (X.chunks[0], *((length,) for length in meta.shape[1:]))
    return X.map_blocks(of_block, chunks=chunks, dtype=meta.dtype, meta=meta)


class _Answer:
    """An estimator's answer for one block, whose dtype is that of ``meta``, which has no rows."""

    __name__ = "answer"  # in dask's keys

    def __init__(self, estimator, function, meta):
        self.estimator, self.function, self.meta = estimator, function, meta

    def __reduce__(self):
        return _answer, (type(self), pickled((self.estimator, self.function, self.meta)))

    def __call__(self, block, *arguments):
        if not len(block):
            return self.meta
        if hasattr(block, "columns"):
            block = block.set_axis(range(block.shape[1]), axis=1)
        found = np.asarray(self.function(self.estimator, block, *arguments))
        return found.astype(self.meta.dtype, copy=False)


def _answer(cls, sent):
    return cls(*unpickled(sent))


class _RowAnswer(_Answer):
    """The same where the function also takes the number of the block's first row."""

    def __call__(self, block, block_info=None):
        return super().__call__(block, block_info[0]["array-location"][0][0])


def by_method(name: str) -> Callable:
    """``getattr(estimator, name)(block)``, as a function to be pickled."""
    return functools.partial(_method, name)


def _method(name, estimator, block):
    return getattr(estimator, name)(block)
