"""Targets of regressions: one number for each sample, or several."""

from typing import NamedTuple

import numpy as np
import torch
from sklearn.utils import check_array, check_consistent_length
from torch import Tensor

from skgmmot._inputs.arrays import (
    as_tensor,
    from_other_library,
    is_function,
    refuse_masked,
    refuse_times,
)
from skgmmot._inputs.refusals import numbers_only


class Targets(NamedTuple):
    """Validated targets."""

    values: Tensor
    """``(n, m)``, float32 or float64."""
    single: bool
    """Whether they came without an axis for several outputs."""
    names: list[str] | None
    """Names of the outputs, if they have any."""


def regression_targets(y, n_samples: int) -> Targets:
    """Validate the targets of a regression.

    Parameters
    ----------
    y : array-like or Tensor of shape (n_samples,) or (n_samples, n_outputs)
        The user's argument.
    n_samples : int
        How many samples there are.

    Returns
    -------
    Targets
        The targets as a matrix, on their device and graph.

    Raises
    ------
    TypeError
        If they are no array, sparse or complex tensors, or times.
    ValueError
        If they are missing, masked, of another shape or length, not finite, texts or booleans.
    """
    if y is None:
        raise ValueError(
            "a regression requires y to be passed, but the target y is None. Pass one number, or "
            "one row of numbers, for each sample."
        )
    names = None if isinstance(y, Tensor) else _names(y)
    _refuse_other_objects(y)
    _refuse_booleans(y)
    if not isinstance(y, Tensor):
        y = _numbers(y)
    values = as_tensor(y)
    if values.ndim not in (1, 2) or 0 in values.shape[1:]:
        raise ValueError(
            "y must have shape (n_samples,) or (n_samples, n_outputs), got "
            f"{tuple(values.shape)}. Pass one number, or one row of numbers, for each sample."
        )
    check_consistent_length(np.empty(n_samples), np.empty(len(values)))
    if not torch.isfinite(values).all():
        bad = ~torch.isfinite(values.view(len(values), -1)).all(1)
        what = "NaN" if torch.isnan(values).any() else "infinity (inf)"
        raise ValueError(
            f"y must be finite, got {what} in {int(bad.sum())} of {len(values)} rows (first: row "
            f"{int(bad.nonzero()[0])}). Remove these rows."
        )
    single = values.ndim == 1
    return Targets(values.unsqueeze(1) if single else values, single, names)


def _refuse_other_objects(y) -> None:
    """Raise for what is no array of numbers, or would become other numbers."""
    if isinstance(y, Tensor):
        if y.layout != torch.strided:
            raise TypeError(f"y must be dense, got a tensor of {y.layout}. Use y.to_dense().")
        return
    if is_function(y) or not (hasattr(y, "__len__") or hasattr(y, "__array__") or np.isscalar(y)):
        raise TypeError(
            f"y must be an array, got {type(y).__name__}. Put its parts together first, as by "
            "np.concatenate(list(y))."
        )
    refuse_masked("y", y)
    refuse_times("y", *np.atleast_1d(getattr(y, "dtypes", [getattr(y, "dtype", None)])))


#: What to do with targets that name classes.
CLASSES = (
    "Use a classifier for classes, such as DifferentiableGaussianMixture(labels='y'), or encode "
    "them as numbers"
)


def _refuse_booleans(y) -> None:
    """Raise for booleans, which numpy and torch would convert to 0 and 1."""
    for column in _columns(y):
        if isinstance(column, Tensor):
            found = column.dtype == torch.bool
        else:
            with numbers_only("y", y):
                values = np.asarray(column)
            if values.dtype == object and values.size:  # as of pandas' own type of booleans
                values = np.asarray(values.ravel()[0])
            found = values.dtype.kind == "b"
        if found:
            raise ValueError(f"y must hold numbers, got booleans. {CLASSES}, by y.astype(float).")


def _numbers(y) -> np.ndarray:
    """Call scikit-learn's `check_array`."""
    y = from_other_library("y", y)
    with numbers_only("y", y, of_text=f"{CLASSES}."):
        return check_array(
            y,
            dtype=[np.float64, np.float32],
            ensure_2d=False,
            allow_nd=True,
            ensure_all_finite=False,
            ensure_min_samples=0,
            input_name="y",
        )


def _columns(y) -> list:
    """The columns of a frame, or the array itself."""
    return [y[name] for name in y.columns] if hasattr(y, "columns") else [y]


def _names(y) -> list[str] | None:
    """The names of a series or of the columns of a frame, if they are strings."""
    found = list(getattr(y, "columns", [getattr(y, "name", None)]))
    return found if found and all(isinstance(name, str) for name in found) else None
