"""Features that users choose, by number, mask, slice or name, and values of them."""

import numpy as np
import torch
from torch import Tensor

from skgmmot._inputs.arrays import as_tensor, forwards
from skgmmot.gaussian.conditional import feature_numbers


def chosen_features(features, n_features: int, names=None) -> list[int]:
    """Validate features that a user chose.

    Parameters
    ----------
    features : int, str, slice, or list of int, str or bool
        The user's argument; a mask has one truth value for each feature.
    n_features : int
        How many features there are.
    names : ndarray of str, default=None
        Their names, if they have any.

    Returns
    -------
    list of int
        Their numbers from 0, in the order given.

    Raises
    ------
    TypeError
        If they are neither numbers, truth values, names nor a slice.
    ValueError
        If there are none, or one of them is unknown, repeated or beyond the features.
    """
    if isinstance(features, slice):
        return _sliced(features, n_features)
    if isinstance(features, Tensor):
        features = features.detach().cpu()
    found = np.asarray(features)
    if _several_kinds(features, found):
        found = np.asarray(features, dtype=object)  # numpy would make one of them the other
    if found.ndim == 0:
        if found.dtype == bool:
            raise TypeError(
                f"features must be numbers, names, a mask or a slice, got {features!r}. Pass a "
                "list."
            )
        found = found[None]
    if found.dtype.kind in "UOT" and found.size and all(isinstance(f, str) for f in found.flat):
        return _named([str(f) for f in found.flat], names)
    if found.dtype.kind == "O" or found.dtype.kind not in "biuf":
        raise TypeError(
            "features must be numbers, names, truth values or a slice, and not several of these, "
            f"got {features!r}. Name each feature in the same way."
        )
    return feature_numbers(torch.from_numpy(forwards(found)), n_features).tolist()


def _several_kinds(features, found: np.ndarray) -> bool:
    """Whether a list has names or truth values beside others."""
    if not isinstance(features, list | tuple) or found.ndim != 1 or found.dtype.kind not in "Uiuf":
        return False
    wanted = (str,) if found.dtype.kind == "U" else (int, float, np.number)
    return not all(isinstance(f, wanted) and not isinstance(f, bool | np.bool_) for f in features)


def _sliced(features: slice, n_features: int) -> list[int]:
    """The positions in a slice, whose ends must be integers."""
    edges = (features.start, features.stop, features.step)
    if any(isinstance(edge, str) for edge in edges):
        raise TypeError(f"a slice of features must go by numbers, got {features}. List the names.")
    chosen = list(range(n_features))[features]
    if not chosen:
        raise ValueError(
            f"features must be at least one, got {features}, which holds none of {n_features}. "
            "Widen the slice."
        )
    return chosen


def _named(wanted: list[str], names) -> list[int]:
    """The numbers of features given by their names."""
    if names is None:
        raise ValueError(
            f"features must be numbers where they have no names, got {wanted}. Fit to a data "
            "frame, or pass feature_names to from_parameters."
        )
    known = {name: number for number, name in enumerate(names)}
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise ValueError(
            f"features must be among {list(known)}, got {unknown}. Check the names' spelling."
        )
    repeated = sorted({name for name in wanted if wanted.count(name) > 1})
    if repeated:
        raise ValueError(
            f"features must be distinct, got {repeated} more than once. Leave out the repeats."
        )
    return [known[name] for name in wanted]


def values_of(values, features, n_chosen: int) -> Tensor:
    """Validate the values of chosen features, one each; a tensor ``(n_chosen,)``.

    A labelled series is taken by its labels where the features are named.
    """
    try:
        found = as_tensor(_in_order(values, features))
    except ValueError as error:
        if "got the text" not in str(error):
            raise
        raise TypeError(f"values must be numbers, got {values!r}. Encode categories.") from error
    if found.ndim == 0:
        found = found.unsqueeze(0)
    if found.shape != (n_chosen,):
        hint = "Pass one value for each feature."
        if found.ndim == 2:
            hint = "For many conditions at once use MixtureRegressor or functional.condition."
        raise ValueError(
            f"values must have shape ({n_chosen},), one for each of {n_chosen} feature(s), got "
            f"{tuple(found.shape)}. {hint}"
        )
    if not torch.isfinite(found).all():
        raise ValueError(
            f"values must be finite, got {found.tolist()}. Leave out the features that are not "
            "known."
        )
    return found


def _in_order(values, features):
    """The values of a labelled series in the order of the features' names; others as they are."""
    if values is None or isinstance(values, dict | set | str):
        raise TypeError(
            f"values must be numbers in the order of features, got {type(values).__name__}. Pass a "
            "list."
        )
    labels = getattr(values, "index", None)
    if labels is None or callable(labels) or isinstance(features, slice):
        return values
    wanted, labels = np.atleast_1d(np.asarray(features, dtype=object)).tolist(), list(labels)
    if not all(isinstance(name, str) for name in [*wanted, *labels]):
        return values
    if sorted(labels) != sorted(wanted):
        raise ValueError(
            f"values must have the labels {wanted} of features, got {labels}. Select them with "
            "values[features]."
        )
    return values[wanted]


def checked_names(names, n_features: int) -> np.ndarray:
    """Validate the names of features; an array of objects, as scikit-learn keeps them."""
    found = [names] if isinstance(names, str) else list(names)
    strings = all(isinstance(name, str) for name in found)
    if not strings or len(found) != n_features or len(set(found)) < len(found):
        raise ValueError(
            f"feature_names must be {n_features} distinct string(s), one for each feature, got "
            f"{found}. Name each column of means."
        )
    return np.array([str(name) for name in found], dtype=object)
