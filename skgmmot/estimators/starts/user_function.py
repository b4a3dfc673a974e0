"""Starts that a function of the user makes: labels or responsibilities, validated."""

import numpy as np
import torch
from torch import Tensor

from skgmmot._inputs.arrays import NUMPY, ArrayKind, as_tensor

#: How far sums of responsibilities may be from one, in float64 and in coarser precisions.
ROUNDING, COARSE_ROUNDING = 1e-6, 1e-3


def called(
    function, X: Tensor, n_components: int, rng: np.random.RandomState, kind: ArrayKind = NUMPY
) -> np.ndarray | Tensor:
    """Call the user's function, and validate what it returns.

    Parameters
    ----------
    function : callable
        ``function(X, n_components, random_state)``.
    X : Tensor of shape (n, d)
        Samples; the function gets a copy, in the kind of array that the user passed.
    n_components : int
        K.
    rng : RandomState
        Where it draws from.
    kind : ArrayKind, default=NUMPY
        The kind.

    Returns
    -------
    ndarray of int (n,) or Tensor of shape (n, K)
        Labels or responsibilities.

    Raises
    ------
    TypeError
        If it returns no numbers.
    ValueError
        If it returns something else than labels or responsibilities.
    """
    # small fits are without autograd, which a function may need for itself
    with torch.inference_mode(False), torch.enable_grad():
        shown = kind.restore(X.detach().clone() if kind.is_tensor else X)
        found = _numbers(function(shown, n_components, rng))
    if found.shape == (len(X),):
        return _labels(found, n_components)
    if found.shape == (len(X), n_components):
        return _responsibilities(found)
    raise ValueError(
        f"init_params must return labels of shape ({len(X)},) or responsibilities of shape "
        f"({len(X)}, {n_components}), got shape {tuple(found.shape)}. Return one entry or row for "
        "each sample."
    )


def _numbers(found) -> np.ndarray:
    """What was returned, as an array of numbers."""
    if isinstance(found, Tensor):
        found = found.detach().cpu()
        found = (as_tensor(found) if found.dtype == torch.bfloat16 else found).numpy()
    array = np.asarray(found)
    if array.dtype.kind not in "biuf":
        what = type(found).__name__ if array.ndim == 0 else f"an array of {array.dtype}"
        raise TypeError(
            f"init_params must return an array of labels or responsibilities, got {what}. Return "
            "integers from 0 to n_components - 1, or rows that sum to one."
        )
    return array


def _labels(labels: np.ndarray, n_components: int) -> np.ndarray:
    """Labels as integers."""
    whole = np.isfinite(labels)
    whole[whole] = labels[whole] == np.round(labels[whole])
    if not whole.all():
        raise ValueError(
            f"init_params must return labels that are integers, got {labels[~whole][0]} for sample "
            f"{int(np.argmin(whole))}. Return responsibilities of shape (n_samples, n_components) "
            "for samples that belong to several components."
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= n_components:
        raise ValueError(
            f"init_params must return labels from 0 to n_components - 1 = {n_components - 1}, got "
            f"{low} to {high}. Give every sample to one of the components."
        )
    return labels.astype(np.int64)


def _responsibilities(resp: np.ndarray) -> Tensor:
    """Responsibilities that are finite, not negative and of sum one."""
    bad = ~np.isfinite(resp).all(axis=1)
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(
            f"init_params must return responsibilities that are finite, got {resp[row].tolist()} "
            f"for sample {row}. Return non-negative rows that sum to one."
        )
    if resp.min() < 0:
        raise ValueError(
            f"init_params must return responsibilities that are not negative, got {resp.min():.3g}."
            " Return non-negative rows that sum to one."
        )
    totals = resp.sum(axis=1, dtype=np.float64)
    row = int(np.argmax(np.abs(totals - 1)))
    coarse = resp.dtype.kind == "f" and resp.dtype.itemsize < 8
    if abs(totals[row] - 1) > (COARSE_ROUNDING if coarse else ROUNDING):
        raise ValueError(
            f"init_params must return responsibilities whose rows sum to one, got {totals[row]:.6g}"
            f" for sample {row}. Divide each row by its sum."
        )
    return as_tensor(resp)
