"""Error messages for samples that are no matrix of numbers."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import numpy as np

#: Numbers of channels of a picture.
CHANNELS = (1, 3, 4)


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
        remedy = f"{name}.reshape({shape[0]}, -1) if each {name}[i] is one sample"
        if shape[-3] in CHANNELS and shape[-1] not in CHANNELS:
            pixels = f"np.moveaxis({name}, {len(shape) - 3}, -1).reshape(-1, {shape[-3]})"
            remedy = f"{pixels} if its samples are pixels, {remedy}"
        else:
            remedy = (
                f"{name}.reshape(-1, {shape[-1]}) if its last axis holds the features, as of a "
                f"picture, whose samples are pixels, {remedy}"
            )
    raise ValueError(
        f"{name} must have shape (n_samples, n_features), got {shape}. Reshape your data: {remedy}."
    )


#: What to do with text among samples.
ENCODE = "Drop the column, or encode it, as by sklearn.preprocessing.OneHotEncoder."
COMPLEX = (
    "be real, got complex numbers. Complex data not supported: pass real and imaginary parts, or "
    "sizes, as numbers of their own."
)
#: Parts of messages of numpy, scikit-learn and torch, what kind of error they are, and what an
#: array must be, what came and what to do.
NOT_NUMBERS = (
    ("Complex data", ValueError, COMPLEX),
    ("not 'complex'", ValueError, COMPLEX),
    (
        "inhomogeneous shape",
        ValueError,
        "have rows of one length, got a {kind} of several. Join arrays by np.vstack, fill up "
        "rows, or leave some out.",
    ),
    (
        "requires grad",
        TypeError,
        "be an array or one tensor, got a {kind} of tensors that require a gradient. Pass "
        "torch.stack of them.",
    ),
    (
        "Cannot cast array data",
        TypeError,
        "be one array of numbers, got a {kind} of records. Stack the fields that are features.",
    ),
    ("too large to convert", TypeError, "hold numbers of float64, got {error}. Pass floats."),
    (
        "float() argument",
        TypeError,
        "hold numbers, got {entry}: {error}. Encode categories; of dates, np.asarray(X, "
        "'datetime64[s]').astype(float) are seconds.",
    ),
)


@contextmanager
def numbers_only(name: str, X, *, of_text: str = ENCODE) -> Iterator[None]:
    """Say what came where numpy, scikit-learn and torch cannot make numbers of it."""
    try:
        yield
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        if "could not convert string" in str(error):
            _refuse_text(name, X, error, of_text)
        for part, refusal, text in NOT_NUMBERS:
            if part in str(error):
                entry = re.search("not '([^']+)'", str(error))
                kind = type(X).__name__
                known = {"kind": kind, "entry": entry[1] if entry else kind, "error": error}
                raise refusal(f"{name} must {text.format(**known)}") from error
        raise


def _refuse_text(name: str, X, error: Exception, advice: str) -> NoReturn:
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
            if isinstance(value, str | bytes) and not _is_number(value):
                raise ValueError(
                    f"{name} must hold numbers, got the text {_as_text(value)!r}{where}. {advice}"
                ) from error
    raise ValueError(
        f"{name} must hold numbers, got others: {error}. Convert them to floats."
    ) from error


def _as_text(value: str | bytes) -> str:
    """A text of any type as one of Python."""
    return str(value, "utf-8", "replace") if isinstance(value, bytes) else str(value)


def _is_number(text: str | bytes) -> bool:
    """Whether a text can be converted to a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True
