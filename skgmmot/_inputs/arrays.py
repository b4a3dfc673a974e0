"""Conversion of users' arrays to tensors, and of results to the users' kind of array.

numpy arrays, lists and data frames are validated by scikit-learn, torch tensors by the same rules
on their own device. float32 and float64 are kept, everything else becomes float64. Only this module
distinguishes kinds of arrays: metrics return results in `joint_kind`, which is tensors for tensors,
and estimators in `answer_kind`, which is tensors only if torch is needed.
"""

import math
import sys
import warnings
from collections.abc import Sized
from numbers import Number, Real
from os import PathLike
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn import get_config
from sklearn.utils.validation import check_array, validate_data
from torch import Tensor

from skgmmot._inputs.refusals import numbers_only, refuse_other_axes

FLOATS = (torch.float64, torch.float32)
PLAIN = (np.dtype(np.float64), np.dtype(np.float32))


class ArrayKind(NamedTuple):
    """The kind of array that a user passed, in which results are returned."""

    is_tensor: bool
    device: torch.device
    on_graph: bool = False

    def restore(self, tensor: Tensor, *, copy: bool = True):
        """Convert a result to the user's kind: a tensor on their device, or a numpy array.

        ``copy=False`` saves the memory of a large result that nothing else holds.
        """
        if self.is_tensor:
            return tensor.to(self.device)
        array = tensor.detach().cpu().numpy()
        return array.copy() if copy else array


NUMPY = ArrayKind(False, torch.device("cpu"))


def kind_of(array) -> ArrayKind:
    """The kind of an array."""
    if not isinstance(array, Tensor):
        return NUMPY
    return ArrayKind(True, array.device, array.requires_grad)


def joint_kind(*kinds: ArrayKind) -> ArrayKind:
    """The common kind of several arrays: tensors if any is, on the accelerator of any."""
    if all(kind is NUMPY for kind in kinds):
        return NUMPY
    elsewhere = {kind.device for kind in kinds if kind.device.type != "cpu"}
    if len(elsewhere) > 1:
        raise ValueError(
            "tensors used together must be on one device, or on the CPU, got "
            f"{' and '.join(sorted(map(str, elsewhere)))}. Move one side with .to(device)."
        )
    return ArrayKind(
        any(kind.is_tensor for kind in kinds),
        next(iter(elsewhere), NUMPY.device),
        any(kind.on_graph for kind in kinds),
    )


def answer_kind(*given: ArrayKind, fitted: ArrayKind = NUMPY) -> ArrayKind:
    """The kind in which an estimator returns results: numpy arrays unless torch is needed.

    Torch is needed if an argument requires a gradient or is not on the CPU, if the estimator's
    fitted attributes are tensors, or if scikit-learn's option ``array_api_dispatch`` is on and an
    argument is a tensor. Any other tensor is an array-like, as for scikit-learn.
    """
    if not any(kind.is_tensor for kind in (*given, fitted)):
        return NUMPY
    kind = joint_kind(*given, fitted)
    in_play = fitted.is_tensor or kind.on_graph or kind.device.type != "cpu"
    if in_play or (kind.is_tensor and get_config()["array_api_dispatch"]):
        return kind
    return NUMPY


def fitted_kind(estimator) -> ArrayKind:
    """The kind of an estimator's fitted attributes."""
    fitted = (v for name, v in vars(estimator).items() if name[-1:] == "_")
    return joint_kind(*(kind_of(v) for v in fitted if isinstance(v, Tensor)))


def as_tensor(array, *, device=None, dtype=None) -> Tensor:
    """An array of numbers as a tensor; float32 and float64 are kept, the rest becomes float64."""
    tensor = array if isinstance(array, Tensor) else torch.from_numpy(_floats(array))
    is_float = tensor.dtype in FLOATS
    if not is_float and tensor.is_complex():
        raise TypeError(f"an array must be real, got {tensor.dtype}. Complex data not supported.")
    if tensor.layout != torch.strided:
        raise TypeError(
            f"an array must be dense, got a tensor of {tensor.layout}. Use .to_dense()."
        )
    if not is_float:
        tensor = tensor.double()
    return tensor if device is dtype is None else tensor.to(device=device, dtype=dtype)


def _floats(array) -> np.ndarray:
    if is_plain(array) and array.flags.c_contiguous and array.flags.writeable:
        return forwards(array)
    if is_dask(array):
        raise TypeError(
            f"an array must be in memory here, got a dask {type(array).__name__}. Use .compute() "
            "on as many rows as fit there, or pass a mixture fitted to all of them."
        )
    refuse_masked("an array", array)
    given, is_class = from_other_library("an array", array), isinstance(array, type)
    with numbers_only("an array", given):
        array = np.asarray(None if is_class else given)
    # numpy makes an array without axes of an object that it cannot look into
    is_object = array.dtype == object and array.ndim == 0
    if is_class or (is_object and not hasattr(given, "__float__")):
        what = repr(given) if is_class or given is None else type(given).__name__
        raise TypeError(
            f"an array must hold numbers, got {what}. Pass an array or a list; make a list "
            "of an iterator by list(...)."
        )
    refuse_times("an array", array.dtype)
    if np.iscomplexobj(array):
        raise TypeError(f"an array must be real, got {array.dtype}. Complex data not supported.")
    if array.dtype not in (np.float32, np.float64):
        with numbers_only("an array", given):
            array = array.astype(np.float64)
    # torch cannot share memory that runs backwards or is in foreign byte order
    array = np.require(array, dtype=array.dtype.newbyteorder("="), requirements=["C"])
    array = forwards(array)
    return array if array.flags.writeable else np.asarray(_Shared(array))


def forwards(array: np.ndarray) -> np.ndarray:
    """The array, copied if an axis runs backwards; numpy calls one of length one contiguous."""
    return array if min(array.strides, default=0) >= 0 else array.copy(order="C")


class _Shared:
    """A read-only array as an object whose memory torch shares; the tensor is never written to."""

    def __init__(self, array):
        self.array = array  # holds the memory
        self.__array_interface__ = array.__array_interface__ | {"data": (array.ctypes.data, False)}


def is_plain(array) -> bool:
    """Whether this is a plain numpy array of float32 or float64, not of a subclass."""
    return type(array) is np.ndarray and array.dtype in PLAIN


def samples(
    estimator,
    X,
    *,
    reset: bool,
    min_samples: int = 1,
    sample_weight=None,
    missing: bool = False,
) -> tuple[Tensor, ArrayKind]:
    """Validate samples and return them as a tensor ``(n, d)`` on the estimator's device.

    Parameters
    ----------
    estimator : BaseEstimator
        Its ``n_features_in_`` is set (``reset``) or compared, and its ``device`` is used.
    X : array-like or Tensor of shape (n, d)
        The user's samples.
    reset : bool
        Whether this is a fit.
    min_samples : int, default=1
        Least number of samples.
    sample_weight : array-like or Tensor, default=None
        Weights of the samples of a fit; they count for the kind too.
    missing : bool, default=False
        Whether entries may be missing: NaN, None or masked.

    Returns
    -------
    tensor : Tensor of shape (n, d)
        float32 or float64, NaN where entries are missing; without a ``device``, it is where the
        answer will be.
    kind : ArrayKind
        The kind in which to return results; see `answer_kind`.

    Raises
    ------
    ValueError
        For another number of axes, no samples, no features, NaN, infinity, masked entries,
        another number of features than at fit, or tensors on two accelerators.
    TypeError
        For complex tensors, times, and generators or data loaders instead of arrays.
    """
    fitted = NUMPY if reset else fitted_kind(estimator)
    kind = answer_kind(kind_of(X), kind_of(sample_weight), fitted=fitted)
    tensor = _validated(estimator, X, reset, min_samples, missing=missing)
    if getattr(estimator, "device", None) is None and kind.is_tensor:
        tensor = tensor.to(kind.device)
    return tensor, kind


def takes_missing(estimator) -> bool:
    """Whether entries of its samples may be missing, by its parameter ``missing_values``."""
    value = getattr(estimator, "missing_values", "error")
    if isinstance(value, str):
        return value == "nan"
    return isinstance(value, Real) and math.isnan(value)


def is_dask(data) -> bool:
    """Whether this is a collection of dask; dask is not imported to find out."""
    return "dask" in sys.modules and type(data).__module__.partition(".")[0] == "dask"


#: What to do with samples that cannot be an array.
OR_BLOCKS = (
    ", or fit a DifferentiableGaussianMixture to a function that returns a fresh iterator of "
    "blocks at every call."
)


def _refuse_other_objects(X) -> None:
    """Raise for generators, data loaders, functions and times, which are not arrays of numbers."""
    if hasattr(X, "__iter__") and not hasattr(X, "__len__") and not hasattr(X, "__array__"):
        raise TypeError(
            f"X must be an array, got {type(X).__name__}, which can be read once. Put its parts "
            f"together first, as by np.vstack(list(X)){OR_BLOCKS}"
        )
    if isinstance(X, str | PathLike):
        raise TypeError(
            f"X must be an array, got the {type(X).__name__} {str(X)!r}. Read the file first"
            f"{OR_BLOCKS}"
        )
    if type(X).__module__.startswith("torch.utils.data"):
        raise TypeError(
            f"X must be an array, got {type(X).__name__}. Put the samples of its batches together "
            "first, as by torch.cat(list(X)), or torch.cat([batch[0] for batch in X]) where these "
            f"are tuples{OR_BLOCKS}"
        )
    if is_dask(X):
        raise TypeError(
            f"X must be an array in memory here, got a dask {type(X).__name__}. Use X.compute(), "
            "or some of its rows; a DifferentiableGaussianMixture is fitted to all of them in "
            "blocks, and its mixture can take the place of samples elsewhere."
        )
    refuse_functions(X)
    if not isinstance(getattr(X, "shape", ()), Sized):  # a class has that of its instances
        raise TypeError(f"X must be an array, got {X!r}. Pass an array of numbers{OR_BLOCKS}")
    refuse_times("X", *np.atleast_1d(getattr(X, "dtypes", [getattr(X, "dtype", None)])))


def is_function(X) -> bool:
    """Whether samples are a function, which returns blocks, and not an array."""
    return callable(X) and not hasattr(X, "__array__") and not hasattr(X, "shape")


def refuse_functions(X) -> None:
    """Raise for functions that return blocks, where there is a result for each sample."""
    if is_function(X):
        raise TypeError(
            f"X must be an array here, got {type(X).__name__}. Put its blocks together first, as "
            "by np.vstack(list(X())), or predict one by one, as by (mixture.predict(block) for "
            "block in X()). fit, score, bic and aic of a DifferentiableGaussianMixture take "
            "functions."
        )


def refuse_masked(name: str, array) -> None:
    """Raise for masked entries, whose values numpy would take as they are."""
    if np.ma.isMaskedArray(array) and np.ma.getmaskarray(array).any():
        raise ValueError(
            f"{name} must have no masked entries, got {int(np.ma.getmaskarray(array).sum())}. "
            "Drop those samples or fill them in."
        )


def refuse_times(name: str, *dtypes) -> None:
    """Raise for dates and durations, which numpy would convert to counts of an unknown unit."""
    times = [dtype for dtype in dtypes if getattr(dtype, "kind", "") in ("m", "M")]
    if times:
        raise TypeError(
            f"{name} must hold numbers, got {times[0]}. Choose a unit: (t - t.min()) / "
            "np.timedelta64(1, 'D') are days."
        )


def _numbers(estimator, X, reset: bool, min_samples: int) -> np.ndarray:
    """Call scikit-learn's `validate_data`; explain errors about entries that are not numbers."""
    with numbers_only("X", X):
        return validate_data(
            estimator,
            X,
            reset=reset,
            dtype=[np.float64, np.float32],
            ensure_all_finite=False,
            ensure_min_samples=min_samples,
        )


def _validated(
    estimator, X, reset: bool, min_samples: int, name: str = "X", *, missing: bool = False
) -> Tensor:
    """Validate samples ``(n, d)``; return them on the estimator's device, or their own."""
    if X is None:
        raise ValueError(
            f"{name} must be an array of shape (n_samples, n_features), got None. Pass samples."
        )
    if not is_plain(X):
        X = _readable(name, X, missing)
    if hasattr(X, "shape"):
        refuse_other_axes(name, X.shape)
    if _is_ready(estimator, X, reset, min_samples):
        X = as_tensor(X)
    if isinstance(X, Tensor):
        tensor = _checked_tensor(estimator, X, reset, min_samples)
    else:
        refuse_masked("X", X)
        tensor = as_tensor(_numbers(estimator, X, reset, min_samples))
    tensor = on_device(tensor, getattr(estimator, "device", None))
    _check_finite(tensor, name, estimator, missing)
    return tensor


def _readable(name: str, X, missing: bool):
    """Samples that may be no array of floats, as what scikit-learn or torch can read."""
    if isinstance(X, list | tuple):
        with numbers_only(name, X):
            X = np.asarray(X)
    X = from_other_library(name, X)
    if missing:
        X = with_nan(X)
    _refuse_other_objects(X)
    return X


def from_other_library(name: str, array):
    """numpy's array of one of another library (by the array API standard); others as they are."""
    is_other = hasattr(array, "__array_namespace__") and not isinstance(array, type)
    if not is_other or isinstance(array, np.ndarray | Tensor):
        return array
    try:
        return np.asarray(array)
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        kind = f"{type(array).__module__}.{type(array).__qualname__}"
        raise TypeError(
            f"{name} must be an array that numpy can read, got {kind}. Pass torch.from_dlpack of "
            "it, which stays on its device."
        ) from error


def _is_ready(estimator, X, reset: bool, min_samples: int) -> bool:
    """Whether scikit-learn's validation, slower than a small prediction, is known to pass."""
    if not is_plain(X) or X.ndim != 2 or len(X) < min_samples or X.shape[1] < 1:
        return False
    same = X.shape[1] == getattr(estimator, "n_features_in_", X.shape[1])
    return reset or (same and not hasattr(estimator, "feature_names_in_"))


def on_device(tensor: Tensor, device) -> Tensor:
    """Move samples to the device given by the user, if any."""
    if device is None:
        return tensor
    if tensor.device.type != "cpu" and torch.device(device).type != tensor.device.type:
        raise ValueError(
            f"X must be on the device named, or on the CPU, got {tensor.device} and "
            f"device={str(device)!r}. Pass X.to({str(device)!r}), or device=None."
        )
    try:
        return tensor.to(torch.device(device))
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        raise ValueError(
            f"device must be one that torch has here, got {str(device)!r}: {error}. Use 'cpu', or "
            "None for where the data is."
        ) from error


def _checked_tensor(estimator, X: Tensor, reset: bool, min_samples: int) -> Tensor:
    """The checks of scikit-learn's `validate_data` for a tensor on any device."""
    if X.is_complex():
        raise TypeError(f"X must be real, got {X.dtype}. Complex data not supported.")
    if X.layout != torch.strided:
        raise TypeError(f"X must be dense, got a tensor of {X.layout}. Use X.to_dense().")
    n_samples, n_features = X.shape
    if n_samples < min_samples or n_features < 1:
        raise ValueError(
            f"X must have at least {min_samples} sample(s) and 1 feature(s), got {tuple(X.shape)}."
            " Pass more data."
        )
    if reset:
        estimator.n_features_in_ = n_features
        vars(estimator).pop("feature_names_in_", None)
    elif n_features != getattr(estimator, "n_features_in_", n_features):
        raise ValueError(
            f"X has {n_features} features, but {type(estimator).__name__} is expecting "
            f"{estimator.n_features_in_} features as input. Pass the features of the fit."
        )
    return X if X.dtype in FLOATS else X.double()


def companion(estimator, X, name: str, *, missing: bool = False):
    """Validate a second set of samples, which must have the features of those of the fit.

    Entries may be ``missing`` or not. Returns them in the kind in which the fit returns results
    for ``X``. Names of features are compared where both have them; scikit-learn would warn of names
    that only one has.
    """
    options: dict[str, Any] = {"name": name, "missing": missing}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "X (has|does not have valid) feature names", UserWarning)
        try:
            tensor = _validated(estimator, X, reset=False, min_samples=2, **options)
        except ValueError as error:
            raise ValueError(f"{name} must be samples like those of the fit. {error}") from error
    return answer_kind(kind_of(X)).restore(tensor)


def with_nan(X):
    """Samples whose masked entries, and those of a data frame that are None or NA, are NaN."""
    if np.ma.isMaskedArray(X):
        numbers = X if X.dtype in (np.float32, np.float64) else X.astype(np.float64)
        return numbers.filled(np.nan)
    if getattr(getattr(X, "dtype", None), "kind", "") == "O":
        return np.where(X == None, np.nan, X)  # noqa: E711 - each entry
    if hasattr(X, "columns") and hasattr(X, "isna") and not is_dask(X):
        kinds = zip(X.columns, X.dtypes, strict=True)
        objects = [name for name, dtype in kinds if getattr(dtype, "kind", "") == "O"]
        if objects:
            X = X.copy()
            X[objects] = X[objects].where(X[objects].notna(), np.nan)
    return X


def _check_finite(X: Tensor, name: str = "X", estimator=None, missing: bool = False) -> None:
    """Raise if an entry is infinite, or NaN where none may be missing, naming the rows."""
    extremes = torch.aminmax(X.detach())  # NaN if any entry is; takes no memory
    if all(math.isfinite(float(x)) for x in extremes):
        return
    bad = torch.isinf(X) if missing else ~torch.isfinite(X)
    if not bad.any():
        return
    what = "NaN" if torch.isnan(X[bad]).any() else "infinity (inf)"
    bad = bad.any(dim=1)
    row, n_bad = int(bad.nonzero()[0]), int(bad.sum())
    advice = "Remove or impute these rows."
    if what == "NaN" and takes_missing(estimator):
        advice = "Impute them first, as by impute(X): this takes complete samples."
    elif what == "NaN" and hasattr(estimator, "missing_values"):
        outside = isinstance(getattr(type(estimator), "missing_values", None), property)
        which = "mixture__missing_values" if outside else "missing_values"
        advice = f"Remove or impute these rows, or set {which}='nan' if entries are missing."
    raise ValueError(
        f"{name} must be finite, got {what} in {n_bad} of {len(X)} rows (first: row {row}). "
        f"{advice}"
    )


def check_range(X: Tensor, name: str = "X") -> None:
    """Raise if the second moments of samples would overflow their dtype."""
    low, high = (float(x) for x in torch.aminmax(X.detach()))
    if math.isnan(low):  # entries are missing
        low, high = (float(x) for x in torch.aminmax(X.detach().nan_to_num()))
    largest, limit = max(-low, high), torch.finfo(X.dtype).max ** 0.5 / 1e3
    if largest > limit:
        raise ValueError(
            f"{name} must be smaller than {limit:.1e} for covariances in {X.dtype}, got an entry "
            f"of size {largest:.1e}. Rescale {name} or drop that sample."
        )


def sample_weights(sample_weight, X: Tensor) -> Tensor | None:
    """Validate sample weights for ``X (n, d)``: non-negative, finite, not all zero.

    Returns a tensor ``(n,)`` in the dtype and on the device of ``X``, on the graph if it was. The
    largest weight is scaled to one: only ratios matter, and none of them then underflows.
    """
    if sample_weight is None:
        return None
    weights = weights_as_given(sample_weight, X)
    high = float(weights.detach().max())
    refuse_zero_weights(high)
    return (weights / high).to(X.dtype)


def refuse_zero_weights(positive: float) -> None:
    """Raise if all weights are zero, given the largest, their sum or how many are not."""
    if positive == 0:
        raise ValueError(
            "sample_weight must have a positive sum, got all zeros. Give some sample weight."
        )


def refuse_dask_weights(sample_weight) -> None:
    """Raise for weights of dask, where samples are not."""
    if is_dask(sample_weight):
        raise TypeError(
            "sample_weight must be an array in memory where X is, got a dask "
            f"{type(sample_weight).__name__}. Use sample_weight.compute()."
        )


def n_axes(array) -> int:
    """The number of axes of an array-like."""
    return array.ndim if hasattr(array, "ndim") else np.asarray(array).ndim


def refuse_no_weights(sample_weight) -> None:
    """Raise for iterators, sets, strings, classes and the like, which are not arrays of numbers."""
    is_class = isinstance(sample_weight, type)
    # numpy makes an array without axes, of objects or text, of what it cannot look into
    is_one = not is_class and n_axes(sample_weight) == 0
    if is_class or (is_one and not isinstance(sample_weight, Number | np.ndarray | Tensor)):
        came = repr(sample_weight) if is_class else type(sample_weight).__name__
        raise TypeError(
            f"sample_weight must be an array of numbers, got {came}. Pass one weight a sample, as "
            "by np.array(list(weights))."
        )


def weights_as_given(sample_weight, X: Tensor) -> Tensor:
    """Validate sample weights for ``X (n, d)``, of which all may be zero; float64, not scaled."""
    refuse_dask_weights(sample_weight)
    if is_function(sample_weight):
        raise TypeError(
            f"sample_weight must be an array, got {type(sample_weight).__name__}, which goes with "
            "a function that returns blocks of X. Pass one weight a sample."
        )
    refuse_no_weights(sample_weight)
    if isinstance(sample_weight, Real):
        weights = torch.full((len(X),), float(sample_weight), dtype=torch.float64)
    elif isinstance(sample_weight, Tensor):
        weights = as_tensor(sample_weight).double()
    else:
        weights = torch.from_numpy(_weights_in_numpy(sample_weight))
    weights = weights.to(X.device)
    if weights.shape != X.shape[:1]:
        raise ValueError(
            f"sample_weight must have shape ({len(X)},), got {tuple(weights.shape)}. Pass one "
            "weight a sample."
        )
    low, high = (float(w) for w in torch.aminmax(weights.detach()))
    if not (low >= 0 and high < np.inf):
        raise ValueError(
            f"sample_weight must be finite and non-negative, got a range of {low} to {high}. "
            "Use 0 for samples to leave out."
        )
    return weights


def _weights_in_numpy(sample_weight) -> np.ndarray:
    """A copy of weights in float64, of any shape and values."""
    sample_weight = from_other_library("sample_weight", sample_weight)
    refuse_masked("sample_weight", sample_weight)
    with numbers_only("sample_weight", sample_weight, of_text="Pass one number a sample."):
        return check_array(
            sample_weight,
            dtype=np.float64,
            order="C",
            copy=True,
            ensure_2d=False,
            allow_nd=True,
            ensure_all_finite=False,
            ensure_min_samples=0,
            input_name="sample_weight",
        )


def total_weight(sample_weight, n_samples: int) -> int | float:
    """The sum of samples' weights as the user gave them; their number if none are given."""
    if sample_weight is None:
        return n_samples
    weights = as_tensor(sample_weight, dtype=torch.float64).detach().expand(n_samples)
    return float(weights.sum())
