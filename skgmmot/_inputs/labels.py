"""Labels of users: of classes, some of them unknown, and what is no labels but a target."""

from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import NamedTuple

import numpy as np
import torch
from sklearn.utils import check_consistent_length, column_or_1d
from sklearn.utils.multiclass import check_classification_targets

from skgmmot._inputs.arrays import refuse_masked
from skgmmot._inputs.refusals import numbers_only

#: The label of samples whose class is not known, as in scikit-learn and POT.
UNLABELLED = -1
#: What stands for an unknown class in arrays of text, and what numpy makes of other marks there.
NO_TEXT, MARKS_AS_TEXT = "", ("nan", "None", "<NA>", str(UNLABELLED))
MARKS = (
    f"{UNLABELLED} marks an unknown class, in arrays of text {NO_TEXT!r}, in arrays of objects "
    "also None and NaN"
)


def refuse_target(X, y, sample_weight, target):
    """Refuse a target in place of labels or weights: a mixture, or rows as those of the source."""
    if len(_shape(sample_weight)) == 2 and _shape(sample_weight)[1:] == _shape(X)[1:]:
        raise ValueError(
            f"sample_weight must be one number for each source sample, got an array of shape "
            f"{_shape(sample_weight)}, which looks like a target. Pass that as OTMap(target=...), "
            "then call fit(X, y)."
        )
    shape = _shape(y)
    if isinstance(y, tuple) and len(y) in (3, 4) and len(_shape(y[1])) == 2:
        what = "a tuple of weights, means and covariances"
    elif hasattr(y, "covariance_type"):
        what = type(y).__name__
    elif len(shape) == 2 and _shape(X)[1:] in ((), shape[1:]):
        if target is not None and _shape(X)[:1] == shape[:1]:
            return  # beside a target: the outputs of a regression later in a pipeline
        what = f"an array of shape {shape}"
    else:
        return
    raise ValueError(
        f"y must be labels of the source samples, got {what}, which looks like a target. Pass that "
        "as OTMap(target=...), then call fit(X)."
    )


def _shape(array):
    """The shape of an array-like, or () if it has none."""
    if hasattr(array, "shape"):
        return tuple(array.shape)
    try:
        return np.asarray(array).shape
    except ValueError:  # rows of different lengths
        return ()


def source_labels(y, samples, *, class_wise: bool = False) -> np.ndarray:
    """The class of each sample; with ``class_wise``, -1 marks samples of unknown class."""
    if y is None:
        what = "class_wise=True" if class_wise else "a classifier"
        raise ValueError(
            f"{what} requires y to be passed, but the target y is None. Pass the labels of the "
            "source samples."
        )
    if isinstance(y, torch.Tensor):
        y = y.detach().cpu().numpy()
    refuse_masked("y", y)
    with numbers_only("y", y):
        y = column_or_1d(y, warn=not class_wise)
    check_consistent_length(samples, y)
    if y.dtype.kind == "f" and not np.isfinite(y).all():
        came = "NaN" if np.isnan(y).any() else "infinity (inf)"
        raise ValueError(
            f"y must hold a label for each sample, got {came}. Leave these samples out, or, with "
            f"class_wise=True, mark those of unknown class by {UNLABELLED}."
        )
    known = y[y != UNLABELLED] if class_wise else y
    _sorted(known)
    try:
        check_classification_targets(known)
    except ValueError as error:
        raise ValueError(f"y must hold labels of classes, got others. {error}") from error
    return y


def class_labels(y, samples):
    """The labels of samples, validated, and the rows of those that are known."""
    y = source_labels(y, samples, class_wise=True)
    known = np.flatnonzero(y != UNLABELLED)
    found = np.unique(y[known]).tolist()
    if len(known) < len(y) and len(found) < 2:
        raise ValueError(
            f"y must have two classes or more beside {UNLABELLED}, which marks samples of "
            f"unknown class, got {found}. If it is a class, name it otherwise."
        )
    if str(UNLABELLED) in found:
        raise ValueError(
            f"y must mark samples of unknown class by the number {UNLABELLED}, got it as a string. "
            "Make y an array of dtype object."
        )
    return y, known


# --- classes of a fit, and their components -----------------------------------------------------


class Classes(NamedTuple):
    """The classes of samples, and the components of each."""

    names: np.ndarray
    """The classes, sorted."""
    components: tuple[tuple[int, ...], ...]
    """Those of each class, numbers from 0 on."""
    codes: np.ndarray
    """The place of each sample's class among the names ``(n,)``; -1 if unknown."""
    unknown: int | str | None
    """What marks an unknown class among labels of this kind."""


def classes_of(y, n_samples: int, n_components: int, components_of_class=None) -> Classes:
    """Validate the labels of samples, and the components of each class.

    Parameters
    ----------
    y : array-like or Tensor of shape (n,)
        Integers, text or objects.
    n_samples : int
        n.
    n_components : int
        K.
    components_of_class : mapping, default=None
        The components of each class, a number or several. None gives each class one, in sorted
        order.

    Returns
    -------
    Classes
        The classes.

    Raises
    ------
    TypeError
        If an argument is of another kind.
    ValueError
        If ``y`` has another length or no known class, or components and classes do not match.
    """
    labels = _labels(y, n_samples)
    known, unknown = _known(labels)
    if not known.any():
        raise ValueError(
            f"y must have the class of some samples for labels='y', got none that is known ({MARKS}"
            "). Set labels='ignore' to fit without classes."
        )
    if labels.dtype.kind == "f":
        labels = _whole(labels, known)
    names = _sorted(labels[known])
    if components_of_class is None:
        components = _one_each(names, n_components)
    else:
        names, components = _given(components_of_class, names, n_components)
    codes = np.full(n_samples, -1)
    codes[known] = np.searchsorted(names, labels[known])
    return Classes(names, components, codes, unknown)


def _labels(y, n_samples: int) -> np.ndarray:
    """Labels as an array ``(n,)`` of numbers, text or objects."""
    if y is None:
        raise ValueError(
            "labels='y' requires y to be passed, but the target y is None. Pass the class of each "
            f"sample ({MARKS}), or set labels='ignore'."
        )
    if isinstance(y, torch.Tensor):
        y = y.detach().cpu().numpy()
    labels = np.asarray(y)
    if labels.ndim != 1 or len(labels) != n_samples:
        raise ValueError(
            f"y must have shape ({n_samples},), one class a sample of X, got {labels.shape}. "
            + ("Use y.ravel()." if labels.size == n_samples else f"Label all samples: {MARKS}.")
        )
    if labels.dtype.kind not in "biufUO":
        raise TypeError(
            f"y must be an array of integers, text or objects, got one of {labels.dtype}. Use "
            "y.astype(str), or the codes of its categories."
        )
    return labels


def _known(labels: np.ndarray) -> tuple[np.ndarray, int | str | None]:
    """Which labels are known, and what marks the others."""
    kind = labels.dtype.kind
    if kind == "U":
        bad = [mark for mark in MARKS_AS_TEXT if mark in labels]
        if bad:
            raise ValueError(
                f"y must mark unknown classes by {NO_TEXT!r} in an array of text, got {bad[0]!r}, "
                "which may be another mark turned into text. Make y an array of dtype object, or "
                "name the class otherwise."
            )
        return labels != NO_TEXT, NO_TEXT
    if kind == "O":
        return np.array([not _is_mark(label) for label in labels], dtype=bool), None
    return ~np.isnan(labels) & (labels != UNLABELLED), UNLABELLED


def _is_mark(label) -> bool:
    """Whether an object marks an unknown class: -1, the empty text, None, NaN or pandas's NA."""
    if isinstance(label, float):
        return label != label or label == UNLABELLED
    is_number = isinstance(label, Integral) and not isinstance(label, bool)
    if is_number or isinstance(label, str):
        return label in (UNLABELLED, NO_TEXT)
    return label is None or type(label).__name__ == "NAType"


def _whole(labels: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Classes that were stored as floats, beside NaN for unknown ones."""
    given = labels[known]
    bad = given[given != np.round(given)] if np.isfinite(given).all() else given[np.isinf(given)]
    if len(bad):
        raise ValueError(
            f"y must be classes, got {bad[0]}. Unknown label type: continuous. Pass integers or "
            "text, or set labels='ignore' if y is the target of a regression."
        )
    return np.where(known, labels, UNLABELLED).astype(np.int64)


def _sorted(labels: np.ndarray) -> np.ndarray:
    """The different classes in order."""
    try:
        return np.unique(labels)
    except TypeError as error:
        kinds = sorted({type(label).__name__ for label in labels})
        raise TypeError(
            f"y must be classes of one kind, got {', '.join(kinds)}, which have no order. Use "
            "y.astype(str)."
        ) from error


def _one_each(names: np.ndarray, n_components: int) -> tuple[tuple[int, ...], ...]:
    """One component a class, in order."""
    if len(names) > n_components:
        raise ValueError(
            "n_components must be at least the number of classes in y, got n_components="
            f"{n_components} for {len(names)} classes: {_listed(names.tolist())}. Use more "
            "components, or mark other classes as unknown."
        )
    return tuple((k,) for k in range(len(names)))


def _given(given, found: np.ndarray, n_components: int):
    """The classes and components that a user names, validated."""
    if not isinstance(given, Mapping):
        raise TypeError(
            "components_of_class must map classes to components, got "
            f"{type(given).__name__}. Pass for example {{'a': [0, 1], 'b': [2]}}, or None for one "
            "component a class."
        )
    marks = [name for name in given if name is None or name in (UNLABELLED, NO_TEXT)]
    if marks:
        raise ValueError(
            f"components_of_class must name classes, got {marks[0]!r}, which marks an unknown "
            "class. Leave it out: components of no class are for samples of unknown class alone."
        )
    missing = [name for name in found.tolist() if name not in given]
    if missing:
        raise ValueError(
            f"components_of_class must name all classes in y, got none for {_listed(missing)}; it "
            f"names {_listed(given)}. Give each of them components, or mark it as unknown in y."
        )
    names = _sorted(np.array(list(given), dtype=None if found.dtype.kind != "O" else object))
    owner: dict[int, object] = {}
    components = []
    for name in names.tolist():
        of_name = _numbers(name, given[name], n_components)
        for k in of_name:
            if k in owner:
                raise ValueError(
                    f"components_of_class must give each component to one class, got {k} for "
                    f"{owner[k]!r} and {name!r}. Leave it to one of them."
                )
            owner[k] = name
        components.append(of_name)
    return names, tuple(components)


def _numbers(name, given, n_components: int) -> tuple[int, ...]:
    """The components of one class."""
    several = isinstance(given, Iterable) and not isinstance(given, str)
    numbers = list(given) if several else [given]
    bad = [k for k in numbers if not isinstance(k, Integral) or isinstance(k, bool)]
    if bad or not numbers:
        raise ValueError(
            f"components_of_class must give each class one or more numbers of components, got "
            f"{given!r} for {name!r}. Pass for example [0, 1]."
        )
    outside = [k for k in numbers if not 0 <= k < n_components]
    if outside:
        raise ValueError(
            f"components_of_class must name components from 0 to n_components - 1 = "
            f"{n_components - 1}, got {outside[0]} for {name!r}. Use more components."
        )
    return tuple(sorted({int(k) for k in numbers}))


def _listed(names) -> str:
    """A few names in words."""
    names = [repr(name) for name in list(names)[:4]] + (["..."] if len(names) > 4 else [])
    return ", ".join(names)
