"""Labels of users: of classes, some of them unknown, and what is no labels but a target."""

import numpy as np
from sklearn.utils import check_consistent_length, column_or_1d
from sklearn.utils.multiclass import check_classification_targets

#: The label of samples whose class is not known, as in scikit-learn and POT.
UNLABELLED = -1


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


def class_labels(y, samples):
    """The labels of samples, validated, and the rows of those that are known."""
    if y is None:
        raise ValueError(
            "class_wise=True requires y to be passed, but the target y is None. Pass "
            "the labels of the source samples."
        )
    y = column_or_1d(y)
    check_consistent_length(samples, y)
    known = np.flatnonzero(y != UNLABELLED)
    check_classification_targets(y[known])
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
