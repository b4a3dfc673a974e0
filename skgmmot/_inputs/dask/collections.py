"""What users hand in: dask arrays and data frames, refused unless they are tables of numbers."""

import sys
from typing import Any

import numpy as np
from sklearn.utils.validation import validate_data

from skgmmot._inputs.arrays import is_dask


def _is_array(data) -> bool:
    module = sys.modules.get("dask.array")
    return module is not None and isinstance(data, module.Array)


def is_frame(data) -> bool:
    module = sys.modules.get("dask.dataframe")
    return module is not None and isinstance(data, module.DataFrame | module.Series)


def check_rows(X) -> None:
    """Refuse a collection of dask that is no table of numbers, cut into blocks of whole rows."""
    if not (is_frame(X) or _is_array(X)):
        raise TypeError(
            f"X must be a dask array or data frame, got a dask {type(X).__name__}. Make it one, "
            "as by dask.array.from_delayed."
        )
    if X.ndim != 2:
        fix = f"Use {'X.to_frame()' if is_frame(X) else 'X[:, None]'} if it holds one feature."
        if X.ndim > 2:
            fix = "Make the axes of each sample one, as by X.reshape."
        axes = "1 axis" if X.ndim == 1 else f"{X.ndim} axes"
        raise ValueError(f"X must have shape (n_samples, n_features), got {axes}. {fix}")
    _check_numbers("X", X)
    if _is_array(X) and (X.numblocks[1] != 1 or np.isnan(X.shape[1])):
        raise ValueError(
            f"X must be chunked by rows only, got chunks of features {X.chunks[1]}. Use "
            "X.rechunk({1: -1})."
        )


def check_weights(sample_weight, X) -> None:
    """Refuse weights of dask that are not cut as the samples are; chunks may be unknown."""
    if sample_weight is None:
        return
    if getattr(sample_weight, "requires_grad", False):
        raise ValueError(
            "sample_weight must require no gradient where X is of dask, which is fitted without "
            "gradients, got a tensor that does. Fit tensors in memory for a gradient."
        )
    if not is_dask(sample_weight) or not (is_frame(sample_weight) or _is_array(sample_weight)):
        raise TypeError(
            "sample_weight must be a dask array or series, as X is of dask, got "
            f"{type(sample_weight).__name__}. Use dask.array.from_array(sample_weight, "
            "chunks=X.chunks[0])."
        )
    if sample_weight.ndim != 1:
        raise ValueError(
            f"sample_weight must have shape (n_samples,), got {sample_weight.ndim} axes. Pass one "
            "weight a sample."
        )
    _check_numbers("sample_weight", sample_weight)
    rows, own = (row_chunks(data) for data in (X, sample_weight))
    known = [(a, b) for a, b in zip(rows, own, strict=False) if not np.isnan(a + b)]
    if len(rows) != len(own) or any(a != b for a, b in known):
        raise ValueError(
            f"sample_weight must have the row chunks of X, {_shortened(rows)}, got "
            f"{_shortened(own)}. Use sample_weight.rechunk((X.chunks[0],)), or columns of one data "
            "frame for both."
        )


def row_chunks(data) -> tuple:
    """The numbers of rows of the blocks; NaN where they are not known."""
    return (np.nan,) * data.npartitions if is_frame(data) else data.chunks[0]


def _shortened(chunks) -> str:
    """A few chunks, and how many there are."""
    few = ", ".join(map(str, chunks[:4]))
    return f"({few})" if len(chunks) <= 4 else f"({few}, ... {len(chunks)} in all)"


def _check_numbers(name: str, data) -> None:
    """Refuse a declared dtype that holds no real numbers."""
    dtypes: Any = getattr(data, "dtypes", None) if is_frame(data) else data.dtype
    columns = dtypes.items() if hasattr(dtypes, "items") else [(None, dtypes)]
    for column, dtype in columns:
        if getattr(dtype, "kind", "O") not in "biuf":
            where = "" if column is None else f" in column {column!r}"
            raise TypeError(
                f"{name} must hold real numbers, got {dtype}{where}. Use .astype(float) if they "
                "are numbers, encode categories, and give times a unit."
            )


def dtype_of(X) -> np.dtype:
    """float32 if all declared numbers are, else float64."""
    dtypes = set(X.dtypes) if is_frame(X) else {X.dtype}
    return np.dtype(np.float32 if dtypes == {np.dtype(np.float32)} else np.float64)


def check_features(estimator, X, *, reset: bool) -> None:
    """Set, or compare, the number and names of an estimator's features; see `check_rows`."""
    check_rows(X)
    example = X._meta if is_frame(X) else np.empty((0, X.shape[1]))
    validate_data(estimator, example, reset=reset, skip_check_array=True)
