"""Generated inputs, plain and absurd, and the judgement of what comes of them."""

import re
import signal
import tempfile
import warnings
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse
import sklearn.utils
import torch
from hypothesis import strategies as st

import skgmmot

#: CPU seconds that a call may take.
LONGEST = 20
#: Where errors with a name are raised: here and in scikit-learn's validation.
NAMED_IN = tuple(str(Path(m.__file__).parent) for m in (skgmmot, sklearn.utils))
#: What errors say: what was needed and what came.
NAMED = re.compile(
    r"\bgot\b|\bGot\b|Found array with|not fitted yet|is expecting|feature names|must be passed"
    r"|Sparse data was passed|has no parameter|requires y to be passed|n_samples=\d+ should be"
    r"|ill-defined empirical covariance|inconsistent numbers of samples|Input X contains"
)
#: What a call returns that was refused by name.
REFUSED = type("Refused", (), {"__repr__": lambda self: "REFUSED"})()


class Hang(BaseException):
    """A call takes longer than any may."""


@contextmanager
def _in_time():
    """Raise `Hang` after `LONGEST` CPU seconds, where there are signals."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def stop(*_):
        raise Hang

    earlier = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, LONGEST)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, earlier)


def _where(error) -> str:
    """The file that raised an error."""
    traceback = error.__traceback__
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback.tb_frame.f_code.co_filename


def answered(call, *args, **options):
    """The answer of a call, or `REFUSED` if it raised an error that says what came.

    Fails for errors of another kind or from elsewhere (torch, numpy, scipy, POT), for numerical
    warnings of these, and for calls that take too long.
    """
    try:
        with _in_time(), warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            answer = call(*args, **options)
    except (ValueError, TypeError, RuntimeError) as error:
        named = type(error).__module__.startswith(("builtins", "sklearn"))
        named &= _where(error).startswith(NAMED_IN)
        if not named or not NAMED.search(str(error)):
            raise AssertionError(f"obscure {type(error).__name__}: {error}") from error
        return REFUSED
    except Hang as hang:
        raise AssertionError(f"a call took more than {LONGEST} s") from hang
    except Exception as error:
        raise AssertionError(f"obscure {type(error).__name__}: {error}") from error
    for each in warned:
        obscure = (RuntimeWarning, DeprecationWarning, FutureWarning)
        if issubclass(each.category, obscure) or "non-writ" in str(each.message):
            raise AssertionError(f"obscure {each.category.__name__}: {each.message}")
    return answer


def assert_finite(*answers):
    """Every number of every answer is finite."""
    for answer in answers:
        if isinstance(answer, tuple | list):
            assert_finite(*answer)
        elif answer is not REFUSED and answer is not None:
            if isinstance(answer, torch.Tensor):
                answer = answer.detach().cpu().numpy()
            assert np.isfinite(np.asarray(answer, dtype=float)).all(), answer


seeds = st.integers(0, 2**31 - 1)


def mostly(usual, *unusual):
    """One value every other time, else one of the others."""
    return st.sampled_from([usual] * len(unusual) + list(unusual))


def drawn(draw, options, most=3):
    """Some of the options."""
    names = draw(st.lists(st.sampled_from(sorted(options)), max_size=most, unique=True))
    return {name: draw(options[name]) for name in names}


def _clusters(rng, n, d):
    """Two or three clouds."""
    return 4 * rng.normal(size=(3, d))[rng.integers(rng.integers(1, 4), size=n)] + rng.normal(
        size=(n, d)
    )


def _collinear(rng, n, d):
    """All features are multiples of the first."""
    return rng.normal(size=(n, 1)) * rng.normal(size=d)


def _constant_column(rng, n, d):
    X = rng.normal(size=(n, d))
    X[:, rng.integers(d)] = rng.normal()
    return X


#: What samples look like, by name: functions of a generator, their number, and their features.
SHAPES_OF_DATA = {
    "clusters": _clusters,
    "normal": lambda rng, n, d: rng.normal(size=(n, d)),
    "duplicates": lambda rng, n, d: rng.normal(size=(3, d))[rng.integers(3, size=n)],
    "all equal": lambda rng, n, d: np.broadcast_to(rng.normal(size=d), (n, d)).copy(),
    "zeros": lambda rng, n, d: np.zeros((n, d)),
    "integers": lambda rng, n, d: rng.integers(-2, 3, size=(n, d)).astype(float),
    "constant column": _constant_column,
    "collinear": _collinear,
    "heavy tails": lambda rng, n, d: rng.standard_t(0.7, size=(n, d)),
    "one far off": lambda rng, n, d: rng.normal(size=(n, d)) + 1e8 * (np.arange(n) == 0)[:, None],
    "subnormal": lambda rng, n, d: rng.normal(size=(n, d)) * 5e-320,
}

#: Powers of ten that samples are multiplied by.
EXPONENTS = (-300, -200, -160, -150, -100, -30, -8, 8, 30, 100, 145, 150, 155, 200, 300)


#: Numbers of samples and of features.
NUMBERS, DIMENSIONS = st.integers(1, 30), st.integers(1, 4)


@st.composite
def samples(draw, n=NUMBERS, d=DIMENSIONS):
    """Finite samples (n, d) in float64: any look, scale (also one a feature), and offset."""
    n, d = draw(n), draw(d)
    rng = np.random.default_rng(draw(seeds))
    X = SHAPES_OF_DATA[draw(mostly("clusters", *list(SHAPES_OF_DATA)[1:]))](rng, n, d)
    exponents = np.full(d, draw(mostly(0, *EXPONENTS)), dtype=float)
    if draw(mostly(False, False, False, True)):
        exponents[draw(st.integers(0, d - 1))] = draw(st.sampled_from(EXPONENTS))
    offset = draw(mostly(0.0, 1.0, 1e3, 1e6, 1e9, 1e12))
    with np.errstate(over="ignore"):
        X = (X + offset * rng.choice([-1, 1], size=d)) * 10.0**exponents
    return np.nan_to_num(X)


@st.composite
def spoiled(draw, X, usual=True):
    """Samples, now and then with entries that are no number; without ``usual``, always."""
    values = (np.nan, np.inf, -np.inf)
    value = draw(mostly(*[None] * 6, *values) if usual else st.sampled_from(values))
    if value is None or not X.size:
        return X
    X, rng = np.array(X, dtype=float), np.random.default_rng(draw(seeds))
    bad = rng.random(X.shape) < draw(st.sampled_from([0.0, 0.3, 1.0]))
    bad.flat[rng.integers(X.size)] = True
    X[bad] = value
    return X


@st.composite
def sample_weights(draw, n, bad=True):
    """Weights of n samples: zero, tiny, huge; with ``bad`` now and then no weights at all."""
    rng = np.random.default_rng(draw(seeds))
    a = rng.random(n)
    good = {
        "plain": a,
        "ones": np.ones(n),
        "counts": rng.integers(0, 4, size=n) + (np.arange(n) == 0),
        "one": (np.arange(n) == n - 1).astype(float),
        "some zero": a * (rng.random(n) < 0.5) + (np.arange(n) == 0),
        "tiny": a * 1e-300,
        "huge": a * 1e300,
        "all magnitudes": 10.0 ** rng.uniform(-300, 300, size=n),
        "subnormal": np.full(n, 5e-324),
        "float32": a.astype(np.float32),
        "tensor": torch.from_numpy(a),
        "list": a.tolist(),
    }
    with np.errstate(divide="ignore", invalid="ignore"):
        refused = {
            "zeros": np.zeros(n),
            "negative": -a,
            "one negative": a - 10.0 * (np.arange(n) == 0),
            "nan": a / (np.arange(n) != 0) * 0.0,
            "inf": a / (np.arange(n) != 0),
            "long": np.ones(n + 1),
            "column": a[:, None],
            "empty": [],
            "text": ["heavy"] * n,
            "complex": a + 1j,
            "number": 2.0,
            "none of them": [None] * n,
        }
    usual = mostly("plain", *list(good)[1:])
    name = draw(st.one_of(usual, usual, st.sampled_from(list(refused))) if bad else usual)
    return (good | refused)[name]


def _memory_map(X):
    """Samples in a file that is gone once they are."""
    with tempfile.TemporaryFile() as file:
        mapped = np.memmap(file, dtype=float, mode="w+", shape=X.shape)
    mapped[:] = X
    return mapped


def _strided(X):
    wide = np.zeros((2 * X.shape[0], 3 * X.shape[1]), dtype=X.dtype)
    wide[::2, ::3] = X
    return wide[::2, ::3]


def _masked(X, some):
    mask = np.zeros(X.shape, dtype=bool)
    mask[:: 3 if some else len(X) + 1] = some
    return np.ma.array(X, mask=mask)


def _named(X):
    return pd.DataFrame(X, columns=[f"x{i}" for i in range(X.shape[1])])


def _mixed(X):
    frame = _named(X)
    frame["kind"] = "a"
    return frame


#: Kinds of array that hold the same numbers, as functions of float64 samples.
LAYOUTS = {
    "numpy": np.array,
    "fortran": np.asfortranarray,
    "strided": _strided,
    "backwards": lambda X: np.ascontiguousarray(X[::-1, ::-1])[::-1, ::-1],
    "read-only": lambda X: np.frombuffer(X.tobytes()).reshape(X.shape),
    "big-endian": lambda X: X.astype(">f8"),
    "memory map": _memory_map,
    "unmasked": lambda X: _masked(X, False),
    "matrix": lambda X: X.view(type("Subclass", (np.ndarray,), {})),
    "object": lambda X: X.astype(object),
    "texts of numbers": lambda X: X.astype(str),
    "list": np.ndarray.tolist,
    "tuple": lambda X: tuple(map(tuple, X.tolist())),
    "list of arrays": list,
    "pandas": _named,
    "nullable pandas": lambda X: _named(X).astype("Float64"),
    "torch": torch.tensor,
    "torch fortran": lambda X: torch.tensor(X.T.copy()).T,
    "torch with a gradient": lambda X: torch.tensor(X, requires_grad=True),
    "list of tensors": lambda X: list(torch.tensor(X)),
}


def _cast(dtype):
    def cast(X):
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return X.astype(dtype)

    return cast


#: Kinds of array whose numbers are others, by rounding.
ROUNDED = {
    **{
        name: _cast(name)
        for name in ("float32", "float16", "longdouble", "int64", "int32", "int8", "uint8", "bool")
    },
    "torch float32": lambda X: torch.tensor(X).float(),
    "torch float16": lambda X: torch.tensor(X).half(),
    "torch bfloat16": lambda X: torch.tensor(X).bfloat16(),
    "torch int64": lambda X: torch.tensor(X).long(),
    "torch bool": lambda X: torch.tensor(X).bool(),
}

#: What is no matrix of numbers.
ABSURD = {
    "complex": lambda X: X + 1j,
    "texts": lambda X: np.full(X.shape, "blue"),
    "bytes": lambda X: np.full(X.shape, b"blue"),
    "times": lambda X: np.zeros(X.shape, "datetime64[s]"),
    "durations": lambda X: np.zeros(X.shape, "timedelta64[s]"),
    "objects": lambda X: np.full(X.shape, object(), dtype=object),
    "none in it": lambda X: np.full(X.shape, None, dtype=object),
    "ragged": lambda X: [[0.0], [1.0, 2.0]],
    "record": lambda X: np.zeros(len(X), [("x", float), ("y", float)]),
    "masked": lambda X: _masked(X, True),
    "mixed pandas": _mixed,
    "categories": lambda X: _named(X).astype("category"),
    "sparse": scipy.sparse.csr_array,
    "torch sparse": lambda X: torch.tensor(X).to_sparse(),
    "torch complex": lambda X: torch.tensor(X) * 1j,
    "one axis": lambda X: X[:, 0],
    "three axes": lambda X: X[None],
    "no axes": lambda X: np.float64(X[0, 0]),
    "number": lambda X: 3.0,
    "no samples": lambda X: X[:0],
    "no features": lambda X: X[:, :0],
    "no torch samples": lambda X: torch.tensor(X)[:0],
    "empty list": lambda X: [],
    "list of empty": lambda X: [[]],
    "none": lambda X: None,
    "text": lambda X: "samples.csv",
    "generator": lambda X: (x for x in X),
    "set": lambda X: {1.0, 2.0},
    "dict": lambda X: {"x": X[:, 0]},
    "class": lambda X: np.ndarray,
    "object itself": lambda X: object(),
}

KINDS = LAYOUTS | ROUNDED | ABSURD
OFTEN = [list(kinds) for kinds in (LAYOUTS, LAYOUTS, LAYOUTS, ROUNDED, ABSURD)]


@st.composite
def arrays(draw, X=None):
    """Samples of any look, scale and kind, some of them spoiled or absurd."""
    X = draw(spoiled(draw(samples() if X is None else X)))
    kind = draw(st.one_of(*[st.just("numpy")] * 5, *map(st.sampled_from, OFTEN)))
    with suppress(ValueError):  # that numbers have no such form is numpy's business
        return KINDS[kind](X)
    return X


@st.composite
def classes(draw, n):
    """Labels of n samples, some of them unknown or absurd."""
    rng = np.random.default_rng(draw(seeds))
    y = rng.integers(-1, 2, size=n)
    with np.errstate(all="ignore"):
        return {
            "integers": y,
            "text": np.array(["", "a", "b"])[y + 1],
            "objects": np.array([None, "a", "b"], dtype=object)[y + 1],
            "floats": np.where(y < 0, np.nan, y),
            "tensor": torch.from_numpy(y),
            "list": y.tolist(),
            "unknown": np.full(n, -1),
            "halves": y + 0.5,
            "infinite": np.full(n, np.inf),
            "many": np.arange(n),
            "short": y[:-1],
            "column": y[:, None],
            "none": None,
            "complex": y + 1j,
            "huge": y * 10**15,
        }[draw(mostly("integers", *ALL_CLASSES))]


ALL_CLASSES = (
    "text",
    "objects",
    "floats",
    "tensor",
    "list",
    "unknown",
    "halves",
    "infinite",
    "many",
    "short",
    "column",
    "none",
    "complex",
    "huge",
)
