"""Counts among arguments: one check, and the words of its error."""

from collections.abc import Sized
from numbers import Integral

#: Longest representation of a value in an error message.
MAX_SHOWN = 200


def shown(value) -> str:
    """Return what a value is, for an error message: its representation, or in few words.

    Parameters
    ----------
    value : object
        Anything.

    Returns
    -------
    str
        Its ``repr``; for arrays and containers whose own is long, their type and size.
    """
    said = repr(value)
    shape, kind = getattr(value, "shape", None), type(value).__name__
    if len(said) <= MAX_SHOWN or not (shape or isinstance(value, Sized)):
        return said
    return f"{kind} of shape {tuple(shape)}" if shape else f"{kind} of length {len(value)}"


def positive_integer(name: str, value, advice: str = "Pass 1 or more.") -> int:
    """Return a count as an int, or raise with advice what to do.

    Parameters
    ----------
    name : str
        The argument's name, for the error.
    value : object
        What was passed.
    advice : str, default='Pass 1 or more.'
        What to do, the error's last sentence.

    Returns
    -------
    int
        The count.

    Raises
    ------
    ValueError
        If it is no positive integer; True is none.
    """
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a positive integer, got {shown(value)}. {advice}")
    return int(value)
