"""Values of the package in files: as tensors and plain values, and checked when they come back."""

import functools
import os
import pathlib
from dataclasses import fields
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from skgmmot.fitting.em.prior import Prior
from skgmmot.fitting.em.sinkhorn import TiltedMixture
from skgmmot.fitting.robust.noise import UniformNoise
from skgmmot.fitting.robust.student import StudentMixtureParams
from skgmmot.gaussian.covariance.registry import COVARIANCE_TYPES
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.numerics.archive import Kind
from skgmmot.numerics.fixed_point import LoopState, Solution
from skgmmot.numerics.minimise import DescentState
from skgmmot.numerics.runs import Reached
from skgmmot.transport.discrete.plan import Plan
from skgmmot.transport.semidiscrete.grid import GridDensity

#: The axes of each tensor of a mixture but its covariances, by the number of components and
#: features; and what may be infinite: logarithms of weights that are zero.
AXES = {
    "weights": lambda K, d: (K,),
    "log_weights": lambda K, d: (K,),
    "prescribed": lambda K, d: (K,),
    "means": lambda K, d: (K, d),
    "allowed": lambda K, d: (),
    "degrees_of_freedom": lambda K, d: (K,),
}
MAY_BE_MINUS_INFINITY, MAY_BE_INFINITE = "log_weights", "degrees_of_freedom"


def _take_mixture(theta) -> dict:
    """A mixture's tensors and the name of its type."""
    name = theta.covariance_type.name
    registered = COVARIANCE_TYPES.get(name)
    if registered is None or registered.of_storage(theta.covariances) != theta.covariance_type:
        raise TypeError(
            f"covariance_type must be registered to be stored, got {name!r}. Add it to "
            "COVARIANCE_TYPES under its name."
        )
    kept = {"covariance_type": name}
    if theta.noise is not None:
        kept["noise"] = theta.noise
    return dict(zip(theta._fields, theta, strict=True)) | kept


def _make_mixture(cls, parts: dict):
    """A mixture of such parts, if that is what they are."""
    parts = dict(parts)
    name, noise = parts.pop("covariance_type"), parts.pop("noise", None)
    if name not in COVARIANCE_TYPES:
        raise ValueError(f"covariance_type must be registered, got {str(name)[:40]!r}")
    K_d = parts["means"].shape
    noise_is_sound = isinstance(noise, float) and cls is GaussianMixtureParams
    if noise is not None and not noise_is_sound:
        raise ValueError("noise of a mixture must be a number")
    if parts.keys() != set(cls._fields) or len(K_d) != 2:
        raise ValueError("a mixture must have a matrix of means and its other tensors")
    covariance_type = COVARIANCE_TYPES[name].of_storage(parts["covariances"])
    for field, tensor in parts.items():
        shape = AXES[field](*K_d) if field in AXES else covariance_type.shape(*K_d)
        if field == "weights" and noise is not None:
            shape = (K_d[0] + 1,)
        if not isinstance(tensor, Tensor) or tensor.shape != shape:
            raise ValueError(f"{field} of a mixture must have shape {tuple(shape)}")
        if tensor.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"{field} of a mixture must be float32 or float64")
        finite = tensor.exp() if field == MAY_BE_MINUS_INFINITY else tensor
        finite = 1 / tensor if field == MAY_BE_INFINITE else finite
        if not torch.isfinite(finite).all():
            raise ValueError(f"{field} of a mixture must be finite")
    constants = {} if noise is None else {"noise": noise}
    return cls(**parts, covariance_type=covariance_type, **constants)


def _mixture(cls) -> Kind:
    return Kind(cls, _take_mixture, functools.partial(_make_mixture, cls))


def _take_solution(solution: Solution) -> dict:
    """A solution; what backward has found stays behind."""
    objectives = np.array(solution.objectives, dtype=np.float64)
    return solution._asdict() | {"objectives": objectives, "adjoint": None}


def _make_solution(parts: dict) -> Solution:
    objectives = parts["objectives"]
    if objectives.dtype != np.float64 or objectives.ndim != 1:
        raise ValueError("objectives of a solution must be a list of numbers")
    solution = Solution(**parts | {"objectives": tuple(objectives.tolist())})
    numbers = solution.objective, solution.change, solution.residual, solution.distance
    sound = type(solution.n_iter) is int and type(solution.converged) is bool
    if not sound or solution.n_iter < 0 or not all(type(number) is float for number in numbers):
        raise ValueError("a solution must have counts and numbers")
    return solution


def record(cls, **types) -> Kind:
    """How the values of a class of named fields are stored, by the types that fields must have.

    Parameters
    ----------
    cls : type
        A named tuple or a dataclass.
    **types : type or tuple of types
        The type of each field; fields that are left out may be anything.

    Returns
    -------
    Kind
        The kind.
    """
    names = getattr(cls, "_fields", None) or tuple(field.name for field in fields(cls))

    def take(value):
        return {name: getattr(value, name) for name in names}

    def make(parts):
        for name, expected in types.items():
            if name in parts and not isinstance(parts[name], expected):
                raise ValueError(f"{name} of a {cls.__name__} must be of another kind")
        return cls(**parts)

    return Kind(cls, take, make)


#: What fits are made of.
KINDS: tuple[Kind, ...] = (
    _mixture(GaussianMixtureParams),
    _mixture(TiltedMixture),
    _mixture(StudentMixtureParams),
    Kind(Solution, _take_solution, _make_solution),
    record(LoopState, solution=Solution, proposed=bool, accelerator=dict),
    record(
        DescentState,
        best=Solution,
        leaves=tuple,
        optimizer=dict,
        stage=int,
        idle=int,
        reference=float,
    ),
    record(
        Reached,
        run=int,
        loop=(LoopState, DescentState, type(None)),
        best_loop=(LoopState, DescentState, type(None)),
        best=(Solution, type(None)),
        random=dict,
        results=dict,
    ),
)


# --- what estimators have beside fits ------------------------------------------------------------

#: Sources of random numbers that may be named in a file.
BIT_GENERATORS = {
    cls.__name__: cls
    for cls in (np.random.MT19937, np.random.PCG64, np.random.PCG64DXSM, np.random.Philox)
} | {np.random.SFC64.__name__: np.random.SFC64}


def _bit_generator(name):
    """A source of random numbers of that name, of no particular state."""
    if name not in BIT_GENERATORS:
        raise ValueError(f"random numbers must come from a generator of numpy, got {name!r}")
    return BIT_GENERATORS[name]()


def _make_random_state(state: dict) -> np.random.RandomState:
    found = np.random.RandomState(_bit_generator(state["bit_generator"]))
    found.set_state(state)
    return found


def _make_generator(state: dict) -> np.random.Generator:
    found = _bit_generator(state["bit_generator"])
    found.state = state
    return np.random.Generator(found)


class Frame(NamedTuple):
    """A data frame as arrays."""

    library: str
    """The package that it is of, a name among `FRAMES`."""
    columns: dict
    """Arrays by the names of columns."""


#: Packages of data frames.
FRAMES = ("pandas", "polars")


def as_frame(value) -> Frame | None:
    """Return a data frame as arrays; None for anything else.

    Parameters
    ----------
    value : object
        Any value. The index of a data frame of pandas is left out.

    Returns
    -------
    Frame or None
        Its columns.

    Raises
    ------
    TypeError
        If a column has a dtype that numpy has not, or two columns have one name.
    """
    library = type(value).__module__.partition(".")[0]
    if library not in FRAMES or type(value).__name__ != "DataFrame":
        return None
    columns = {name: value[name].to_numpy() for name in value.columns}
    if len(columns) != len(value.columns):
        raise TypeError(
            f"a data frame must have columns of different names to be stored, got "
            f"{list(value.columns)}. Rename them."
        )
    return Frame(library, columns)


def from_frame(frame: Frame):
    """Return the data frame of some arrays.

    Parameters
    ----------
    frame : Frame
        Its columns, and the package that it is of, which must be installed.

    Returns
    -------
    DataFrame
        The data frame.
    """
    if frame.library == "pandas":
        import pandas

        return pandas.DataFrame(frame.columns)
    import polars

    return polars.DataFrame(frame.columns)


def _make_frame(parts: dict) -> Frame:
    frame = Frame(**parts)
    if frame.library not in FRAMES or not isinstance(frame.columns, dict):
        raise ValueError(f"a data frame must be of pandas or polars, got {frame.library!r:.40}")
    return frame


#: What estimators are made of.
MODEL_KINDS: tuple[Kind, ...] = (
    *KINDS,
    record(Plan, **dict.fromkeys(Plan._fields, Tensor)),
    record(GridDensity),
    record(Prior),
    record(UniformNoise),
    Kind(Frame, Frame._asdict, _make_frame),
    Kind(torch.device, str, torch.device),
    Kind(range, lambda r: [r.start, r.stop, r.step], lambda parts: range(*parts)),
    Kind(type(pathlib.Path()), os.fspath, pathlib.Path),
    Kind(np.random.RandomState, lambda r: r.get_state(legacy=False), _make_random_state),
    Kind(np.random.Generator, lambda g: g.bit_generator.state, _make_generator),
)
