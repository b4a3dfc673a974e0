"""Parameters that an estimator does not have, and which of its own may have been meant."""

import difflib
import functools
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral

from sklearn.utils._param_validation import Interval, InvalidParameterError

from skgmmot.numerics.counts import shown


class Absent:
    """What an estimator has not, though its base has; asked for, it says what to do instead.

    Parameters
    ----------
    advice : str
        Why not, and what to do.
    """

    def __init__(self, advice: str):
        self.advice = advice

    def __set_name__(self, owner, name):
        self.name = name

    def __get__(self, instance, owner):
        raise AttributeError(f"{owner.__name__} has no {self.name}: {self.advice}")


@functools.cache
def names_of(cls) -> tuple[str, ...] | None:
    """Return the names of an estimator's parameters; None where it takes any."""
    parameters = inspect.signature(cls.__init__).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return tuple(parameter.name for parameter in parameters if parameter.name != "self")


def refuse_unknown(cls, given, mixture_cls) -> None:
    """Raise for parameters given by names that an estimator does not have.

    Parameters
    ----------
    cls : type
        The estimator.
    given : iterable of str
        The names.
    mixture_cls : type
        The estimator whose parameters are meant where ``cls`` has a parameter ``mixture``.
    """
    known = names_of(cls)
    if known is None:
        return
    unknown = [name for name in given if name not in known]
    if not unknown:
        return
    name, hint = unknown[0], ""
    near = difflib.get_close_matches(name, known, 1, 0.8)
    of_mixture = name.rpartition("__")[2]
    if near:
        hint = f"Did you mean {near[0]!r}? "
    elif "mixture" in known and of_mixture in names_of(mixture_cls):
        hint = f"Pass mixture={mixture_cls.__name__}({of_mixture}=...). "
    raise TypeError(
        f"{cls.__name__} has no parameter {name!r}. {hint}Its parameters are {', '.join(known)}."
    )


def refuse_truth(constraints: dict, given: dict) -> None:
    """Raise for True and False where a number is counted, which Python takes as 1 and 0.

    Parameters
    ----------
    constraints : dict
        What each parameter may be, as for scikit-learn.
    given : dict
        Values of some parameters.
    """
    for name, value in given.items():
        if isinstance(value, bool) and any(map(_counts, constraints.get(name, ()))):
            raise ValueError(f"{name} must be an integer, got {value}. Pass {int(value)}.")


@contextmanager
def in_few_words(given: dict) -> Iterator[None]:
    """Shorten arrays in scikit-learn's error messages about parameters.

    Parameters
    ----------
    given : dict
        Values of some parameters.
    """
    try:
        yield
    except InvalidParameterError as error:
        text = str(error)
        for value in given.values():
            text = text.replace(repr(value), shown(value))
        raise InvalidParameterError(text) from None


def _counts(constraint) -> bool:
    """Whether a constraint is that of a count."""
    return isinstance(constraint, Interval) and constraint.type is Integral
