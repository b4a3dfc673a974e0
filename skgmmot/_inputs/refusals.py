"""Error messages for samples that are no matrix of numbers, and for numbers that are no count."""

from numbers import Integral
from typing import NoReturn

import numpy as np


def positive_integer(name: str, value, advice: str = "Pass 1 or more.") -> int:
    """Return a count as an int, or raise with advice what to do."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value!r}. {advice}")
    return int(value)


def refuse_other_axes(name: str, shape) -> None:
    """Raise for arrays that do not have two axes, one of samples and one of features."""
    if len(shape) == 2:
        return
    shape = tuple(shape)
    if len(shape) == 1:
        remedy = f"{name}[:, None] if it holds one feature, {name}[None, :] if it holds one sample"
    elif not shape:
        remedy = f"[[{name}]] if it is one sample of one feature"
    else:
        remedy = (
            f"{name}.reshape(-1, {shape[-1]}) if it is a picture, whose samples are pixels, "
            f"{name}.reshape({shape[0]}, -1) if each {name}[i] is one sample"
        )
    raise ValueError(
        f"{name} must have shape (n_samples, n_features), got {shape}. Reshape your data: {remedy}."
    )


def refuse_text(name: str, X, error: Exception) -> NoReturn:
    """Raise for text among numbers, naming the column and the first of it."""
    columns = getattr(X, "columns", None)
    if columns is not None:
        named = [(f" in column {label!r}", X[label]) for label in columns]
    elif np.ndim(X) == 2:
        named = [(f" in column {i}", column) for i, column in enumerate(np.asarray(X).T)]
    else:
        named = [("", X)]
    for where, column in named:
        for value in np.asarray(column).ravel():
            if isinstance(value, str) and not is_number(value):
                raise ValueError(
                    f"{name} must hold numbers, got the text {str(value)!r}{where}. Drop the "
                    "column, or encode it, as by sklearn.preprocessing.OneHotEncoder."
                ) from error
    raise ValueError(
        f"{name} must hold numbers, got others: {error}. Convert them to floats."
    ) from error


def is_number(text: str) -> bool:
    """Whether a text can be converted to a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True
