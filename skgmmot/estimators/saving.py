"""Save estimators and mixtures to files that hold no code, and load them."""

import inspect
import os
import types
from collections.abc import Callable
from typing import Any

import torch
from sklearn.base import BaseEstimator
from sklearn.mixture import BayesianGaussianMixture, GaussianMixture

from skgmmot._inputs.states import packed, unpacked
from skgmmot._inputs.stored import MODEL_KINDS, Frame, as_frame, from_frame
from skgmmot._types import Device, Path
from skgmmot.estimators._parameters import in_few_words, refuse_truth, refuse_unknown
from skgmmot.estimators.documented import Documented
from skgmmot.numerics import archive
from skgmmot.numerics.archive import Kind

WHAT, VERSION = "skgmmot model", 1
#: Estimators of scikit-learn that ours may hold.
OF_SKLEARN = (GaussianMixture, BayesianGaussianMixture)
#: Attributes that are no part of a model: what is called during a fit.
LEFT_OUT = {"_skl_callbacks", "_callback_fit_ctx", "_parent_callback_ctx"}
#: More features than any file holds.
MOST_FEATURES = 2**40
#: The attribute in which scikit-learn keeps what was requested with ``set_fit_request``.
REQUESTS = "_metadata_request"
#: Functions of this package that may be parameters, by the names that files hold.
FUNCTIONS: dict[str, Callable] = {}


def named_function(function: Callable) -> Callable:
    """Decorate a function that may be a parameter of an estimator: files name it."""
    FUNCTIONS[function.__name__] = function
    return function


class SavedEstimator(Documented, BaseEstimator):
    """Base of all estimators: how they are saved, in each of the ways that there are.

    A state is a dictionary of parameters and attributes. Subclasses whose attributes can be
    computed from others override `_state` and `_set_state`.
    """

    _classes: dict[str, type] = {}

    def __new__(cls, *args, **params):
        """Refuse parameters that it does not have, with a hint."""
        refuse_unknown(cls, params, SavedEstimator._classes["DifferentiableGaussianMixture"])
        return super().__new__(cls)

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        if cls.__module__.partition(".")[0] == __name__.partition(".")[0]:
            SavedEstimator._classes[cls.__name__] = cls

    def _validate_params(self):
        """Validate parameters; True and False are no counts."""
        given = self.get_params(deep=False)
        with in_few_words(given):
            super()._validate_params()
        refuse_truth(self._parameter_constraints, given)

    def _state(self) -> dict:
        """The parameters and attributes that the estimator is saved as."""
        return vars(self).copy()

    def _set_state(self, state: dict) -> None:
        """Take over parameters and attributes."""
        vars(self).update(state)

    def _check_attributes(self) -> None:
        """Refuse attributes, which came from a file, that no fit sets."""
        d = getattr(self, "n_features_in_", 1)
        if not isinstance(d, int) or isinstance(d, bool) or not 0 < d < MOST_FEATURES:
            raise ValueError(f"n_features_in_ must be a number of features, got {d!r:.40}")

    def _shallow_copy(self):
        """A copy with the same parameters and attributes, to be given others."""
        copied = object.__new__(type(self))
        copied.__dict__ = vars(self).copy()
        return copied

    def __getstate__(self):
        """The state without tensors or graphs, for pickle, joblib, copies and skops."""
        return packed(self._state())

    def __setstate__(self, state):
        """Take over such a state."""
        self._set_state(unpacked(state))

    def save(self, path: Path) -> None:
        """Save the estimator to a file that holds no code; `skgmmot.load` loads it.

        Parameters
        ----------
        path : str or path-like
            Where to. A file that is there is replaced, at once and whole.

        Raises
        ------
        TypeError
            If a parameter or an attribute is a function, or of a class that cannot be saved.
        OSError
            If the file cannot be written; an earlier one is then left as it was.

        See Also
        --------
        skgmmot.load : Load it.
        skgmmot.save : The same for mixtures that are values, and for several models.
        """
        save(self, path)


def save(model: Any, path: Path) -> None:
    """Save a model to a file that holds no code.

    Parameters
    ----------
    model : estimator, GaussianMixtureParams, or list, tuple or dict of these
        What to save: estimators of this package, fitted or not, with the estimators and arrays
        among their parameters; `sklearn.mixture.GaussianMixture` and
        `sklearn.mixture.BayesianGaussianMixture`; mixtures of tensors; also arrays and tensors.
        Tensors are saved without their graph.
    path : str or path-like
        Where to. A file that is there is replaced, at once and whole.

    Raises
    ------
    TypeError
        If something in the model cannot be saved: a function, an estimator of another package, an
        object that is no array.
    ValueError
        If the file would be larger than 8 GB.
    OSError
        If the file cannot be written; an earlier one is then left as it was.

    See Also
    --------
    load : Load it.

    Notes
    -----
    The file is an uncompressed ``.npz``, whatever its name ends with: arrays and one JSON member.
    Equal models give equal files.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> import skgmmot
    >>> X = np.random.default_rng(0).normal(size=(100, 2))
    >>> mixture = skgmmot.DifferentiableGaussianMixture(2, random_state=0).fit(X)
    >>> path = os.path.join(tempfile.mkdtemp(), "mixture.npz")
    >>> skgmmot.save(mixture, path)
    >>> loaded = skgmmot.load(path)
    >>> bool(np.all(loaded.predict_proba(X) == mixture.predict_proba(X)))
    True
    """
    path = _checked(path)
    kinds = _kinds()
    if isinstance(model, BaseEstimator) and type(model) not in {kind.cls for kind in kinds}:
        raise TypeError(_unknown("model", model))
    try:
        archive.write(path, model, what=WHAT, version=VERSION, kinds=kinds)
    except OSError as error:  # which names the unfinished file
        raise type(error)(error.errno, error.strerror, path) from error


def load(path: Path, *, device: Device = None) -> Any:
    """Load a model from a file that `save` wrote.

    Parameters
    ----------
    path : str or path-like
        The file.
    device : str or torch.device, default=None
        Where tensors go, wherever they were; None is the CPU. Parameters are not changed: set
        ``device`` of an estimator with ``set_params`` if it names a device that is not here.

    Returns
    -------
    estimator, GaussianMixtureParams, or list, tuple or dict of these
        The model, equal to the last bit.

    Raises
    ------
    ArchiveError
        A `ValueError`, if the file is not one of `save`: truncated, damaged, of a newer release,
        or something else.
    OSError
        If there is no such file, or it cannot be read.

    See Also
    --------
    save : Save a model.

    Notes
    -----
    Files from strangers are safe to load: they hold numbers, strings and names of the estimators
    of this package and of the mixtures of scikit-learn, and nothing in them is run or imported.
    """
    path = _checked(path)
    device = None if device is None else torch.device(device)
    return archive.read(path, what=WHAT, version=VERSION, kinds=_kinds(), device=device)


def _checked(path) -> str:
    """The path of a file."""
    if not isinstance(path, str | os.PathLike):
        raise TypeError(
            f"path must be a string or a path, got {type(path).__name__}. Call save(model, path) "
            "and load(path)."
        )
    path = os.fspath(path)
    if os.path.isdir(path):
        raise IsADirectoryError(f"path must be a file, got the folder {path!r}. Name a file in it.")
    return path


# --- estimators in files -------------------------------------------------------------------------


def _kinds() -> list[Kind]:
    """How all that models are made of is stored."""
    classes = [*SavedEstimator._classes.values(), *OF_SKLEARN]
    functions = Kind(types.FunctionType, _name_of, FUNCTIONS.__getitem__)
    return [*MODEL_KINDS, functions, *map(_estimator, classes)]


def _estimator(cls) -> Kind:
    return Kind(cls, _take, _maker(cls))


def _name_of(function: Callable) -> str:
    """The name of a function of this package."""
    name = function.__name__
    if FUNCTIONS.get(name) is not function:
        raise TypeError(
            f"a model must hold no functions to be saved, got {function.__qualname__}: files hold "
            "no code. Use joblib."
        )
    return name


def _take(estimator: BaseEstimator) -> dict:
    """The parameters and the attributes of an estimator, as values that are stored."""
    ours = isinstance(estimator, SavedEstimator)
    state = estimator._state() if ours else vars(estimator).copy()
    state = {name: value for name, value in state.items() if name not in LEFT_OUT}
    if REQUESTS in state:
        state[REQUESTS] = _take_requests(state[REQUESTS])
    names = estimator._get_param_names()
    for name, value in state.items():
        _check(f"{type(estimator).__name__}.{name}", value, name in names)
        frame = as_frame(value)
        state[name] = value if frame is None else frame
    parameters = {name: state.pop(name) for name in names}
    return {"parameters": parameters, "attributes": state}


def _maker(cls) -> Callable[[Any], BaseEstimator]:
    def make(parts):
        parameters, attributes = parts["parameters"], parts["attributes"]
        unknown = parameters.keys() - set(cls._get_param_names())
        if unknown:
            raise ValueError(
                f"{cls.__name__} has no parameter {', '.join(sorted(map(str, unknown)))} in this "
                "release"
            )
        estimator = object.__new__(cls)
        vars(estimator).update(_defaults(cls))  # the release of the file may not have had all
        for name in attributes:
            if not isinstance(name, str) or hasattr(cls, name):
                raise ValueError(f"{cls.__name__} has another attribute {name!r}")
        state = {
            name: from_frame(value) if isinstance(value, Frame) else value
            for name, value in (parameters | attributes).items()
        }
        if REQUESTS in state:
            state[REQUESTS] = _make_requests(estimator, state[REQUESTS])
        if isinstance(estimator, SavedEstimator):
            estimator._set_state(state)
            estimator._check_attributes()
        else:
            vars(estimator).update(state)
        return estimator

    return make


def _defaults(cls) -> dict:
    """The defaults of the parameters of a class."""
    parameters = inspect.signature(cls).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def _check(place: str, value, is_parameter: bool) -> None:
    """Refuse functions and estimators that are not stored, by the names of the parameters."""
    if isinstance(value, BaseEstimator) and type(value) not in OF_SKLEARN:
        if SavedEstimator._classes.get(type(value).__name__) is not type(value):
            raise TypeError(_unknown(place, value))
    elif callable(value) and value not in FUNCTIONS.values():
        name = getattr(value, "__qualname__", type(value).__name__)
        remedy = (
            f"Use set_params({place.rpartition('.')[2]}=...) first, which does not change what is "
            "fitted"
            if is_parameter
            else "Remove it"
        )
        raise TypeError(
            f"{place} must be no function to be saved, got {name}: files hold no code. {remedy}, "
            "or use joblib."
        )


def _unknown(place: str, value) -> str:
    cls = type(value)
    return (
        f"{place} must be an estimator of skgmmot or a mixture of scikit-learn to be saved, got "
        f"{cls.__name__} of {cls.__module__}. Use joblib or skops."
    )


def _take_requests(requests) -> dict:
    """What metadata an estimator requests, by methods."""
    methods = {name: value for name, value in vars(requests).items() if hasattr(value, "requests")}
    return {name: dict(value.requests) for name, value in methods.items() if value.requests}


def _make_requests(estimator: BaseEstimator, requests: dict):
    """The object in which scikit-learn keeps them."""
    found = estimator._get_metadata_request()
    for method, names in requests.items():
        vars(found)[method].requests.update(names)
    return found
