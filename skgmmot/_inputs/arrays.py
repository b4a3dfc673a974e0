"""The border: what users hand in becomes tensors, and results go back in kind.

numpy arrays, lists and data frames come in by scikit-learn's validation; torch tensors by the same
rules, on their own device. float32 and float64 are kept, everything else becomes float64. Outside
this module no code asks what kind of array it was given: metrics answer in `joint_kind`, tensors
for tensors, and estimators in `answer_kind`, tensors where torch is in play.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from sklearn import get_config
from sklearn.utils.validation import _check_sample_weight, validate_data
from torch import Tensor

from skgmmot.gaussian.covariance.registry import COVARIANCE_TYPES
from skgmmot.gaussian.mixture import GaussianMixtureParams

FLOATS = (torch.float64, torch.float32)
#: Numbers below this have squares, and sums of squares, in float64; and so have their inverses.
LARGEST = 1e150


class ArrayKind(NamedTuple):
    """What a user handed in, so that results can be given back alike."""

    is_tensor: bool
    device: torch.device
    on_graph: bool = False

    def restore(self, tensor: Tensor, *, copy: bool = True):
        """A result in the user's kind of array: a tensor on their device, or a numpy array.

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
    """The kind of arrays used together: tensors if any is one, elsewhere if any is elsewhere."""
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
    """The kind in which an estimator answers: tensors where torch is in play, else numpy arrays.

    Torch is in play if what was given requires a gradient or is not on the CPU, if the estimator's
    fitted attributes are tensors, or if scikit-learn's option ``array_api_dispatch`` asks for
    tensors in return for tensors. Any other tensor is an array-like, as for scikit-learn.
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
    tensors = [(name, v) for name, v in vars(estimator).items() if isinstance(v, Tensor)]
    return joint_kind(*(kind_of(v) for name, v in tensors if name.endswith("_")))


def as_tensor(array, *, device=None, dtype=None) -> Tensor:
    """An array of numbers as a tensor; float32 and float64 are kept, the rest becomes float64."""
    tensor = array if isinstance(array, Tensor) else torch.from_numpy(_floats(array))
    if tensor.is_complex():
        raise TypeError(f"an array must be real, got {tensor.dtype}. Complex data not supported.")
    if tensor.dtype not in FLOATS:
        tensor = tensor.double()
    return tensor.to(device=device, dtype=dtype)


def _floats(array) -> np.ndarray:
    if _is_plain(array) and array.flags.c_contiguous and array.flags.writeable:
        return array
    array = np.asarray(array)
    _refuse_times("an array", array.dtype)
    if np.iscomplexobj(array):
        raise TypeError(f"an array must be real, got {array.dtype}. Complex data not supported.")
    if array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float64)
    # torch cannot share memory that runs backwards or is in foreign byte order
    array = np.require(array, dtype=array.dtype.newbyteorder("="), requirements=["C"])
    return array if array.flags.writeable else np.asarray(_Shared(array))


class _Shared:
    """A read-only array as torch can share it: torch has no such tensors, and nobody writes."""

    def __init__(self, array):
        self.array = array  # holds the memory
        self.__array_interface__ = array.__array_interface__ | {"data": (array.ctypes.data, False)}


def _is_plain(array) -> bool:
    """Whether this is nothing but a numpy array of float32 or float64."""
    return type(array) is np.ndarray and array.dtype in (np.float64, np.float32)


def samples(
    estimator, X, *, reset: bool, min_samples: int = 1, sample_weight=None
) -> tuple[Tensor, ArrayKind]:
    """Validate samples and return them as a tensor ``(n, d)`` on the estimator's device.

    Parameters
    ----------
    estimator : BaseEstimator
        Whose ``n_features_in_`` is set (``reset``) or compared, and whose ``device`` counts.
    X : array-like or Tensor of shape (n, d)
        What the user handed in.
    reset : bool
        Whether this is a fit.
    min_samples : int, default=1
        Fewer are refused.
    sample_weight : array-like or Tensor, default=None
        Weights that stand beside the samples of a fit: their kind counts too.

    Returns
    -------
    tensor : Tensor of shape (n, d)
        float32 or float64; without a ``device``, it is where the answer will be.
    kind : ArrayKind
        For giving results back; see `answer_kind`.

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
    tensor = _validated(estimator, X, reset, min_samples)
    if estimator.device is None and kind.is_tensor:
        tensor = tensor.to(kind.device)
    return tensor, kind


def _check_kind(X) -> None:
    """Refuse what is no array of numbers, and would be taken for one."""
    if hasattr(X, "__iter__") and not hasattr(X, "__len__") and not hasattr(X, "__array__"):
        raise TypeError(
            f"X must be an array, got {type(X).__name__}. Put its parts together first, as by "
            "np.vstack(list(X))."
        )
    if type(X).__module__.startswith("torch.utils.data"):
        raise TypeError(
            f"X must be an array, got {type(X).__name__}. Put its batches together first, as by "
            "torch.cat(list(X))."
        )
    _refuse_times("X", *np.atleast_1d(getattr(X, "dtypes", [getattr(X, "dtype", None)])))


def _refuse_times(name: str, *dtypes) -> None:
    """Refuse dates and durations, which numpy would turn into counts of any unit."""
    times = [dtype for dtype in dtypes if getattr(dtype, "kind", "") in ("m", "M")]
    if times:
        raise TypeError(
            f"{name} must hold numbers, got {times[0]}. Choose a unit: (X - X.min()) / "
            "np.timedelta64(1, 'D') are days."
        )


def _numbers(estimator, X, reset: bool, min_samples: int) -> np.ndarray:
    """`validate_data` of scikit-learn, which says what to do of objects that are no numbers."""
    try:
        return validate_data(
            estimator,
            X,
            reset=reset,
            dtype=[np.float64, np.float32],
            ensure_all_finite=False,
            ensure_min_samples=min_samples,
        )
    except TypeError as error:
        if "float()" not in str(error):
            raise
        raise TypeError(
            f"X must hold numbers: {error}. Encode categories; of dates, "
            "np.asarray(X, 'datetime64[s]').astype(float) are seconds."
        ) from error


def _validated(estimator, X, reset: bool, min_samples: int) -> Tensor:
    """Finite samples ``(n, d)``, on the device that the estimator names or on their own."""
    if isinstance(X, list | tuple):
        X = np.asarray(X)
    _check_kind(X)
    shape = getattr(X, "shape", None)
    if shape is not None and len(shape) == 1:
        raise ValueError(
            f"X must have shape (n_samples, n_features), got {tuple(shape)}. Reshape your data: "
            "X[:, None] if it holds one feature, X[None, :] if it holds one sample."
        )
    if _is_ready(estimator, X, reset, min_samples):
        X = as_tensor(X)
    if isinstance(X, Tensor):
        tensor = _checked_tensor(estimator, X, reset, min_samples)
    else:
        if np.ma.isMaskedArray(X) and np.ma.getmaskarray(X).any():
            raise ValueError(
                f"X must have no masked entries, got {int(np.ma.getmaskarray(X).sum())}. "
                "Drop those samples or fill them in."
            )
        tensor = as_tensor(_numbers(estimator, X, reset, min_samples))
    tensor = moved(tensor, estimator.device)
    _check_finite(tensor)
    return tensor


def _is_ready(estimator, X, reset: bool, min_samples: int) -> bool:
    """Whether scikit-learn's validation, which takes longer than small predictions, would pass."""
    if not _is_plain(X) or X.ndim != 2 or len(X) < min_samples or X.shape[1] < 1:
        return False
    same = X.shape[1] == getattr(estimator, "n_features_in_", X.shape[1])
    return reset or (same and not hasattr(estimator, "feature_names_in_"))


def moved(tensor: Tensor, device) -> Tensor:
    """The tensor on a device that the user named."""
    if device is None:
        return tensor
    if tensor.device.type != "cpu" and torch.device(device).type != tensor.device.type:
        raise ValueError(
            f"X must be on the device named, or on the CPU, got {tensor.device} and "
            f"device={str(device)!r}. Pass X.to({str(device)!r}), or device=None."
        )
    try:
        return tensor.to(torch.device(device))
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device must be one that torch has here, got {str(device)!r}: {error}. Use 'cpu', or "
            "None for where the data is."
        ) from error


def _checked_tensor(estimator, X: Tensor, reset: bool, min_samples: int) -> Tensor:
    """What `validate_data` does, for a tensor on any device."""
    if X.is_complex():
        raise TypeError(f"X must be real, got {X.dtype}. Complex data not supported.")
    if X.layout != torch.strided:
        raise TypeError(f"X must be dense, got a tensor of {X.layout}. Use X.to_dense().")
    if X.ndim != 2:
        raise ValueError(
            f"X must have shape (n_samples, n_features), got {tuple(X.shape)}. "
            "Flatten the axes of each sample into features."
        )
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


def companion(estimator, X, name: str):
    """Validate samples that stand beside those of the fit: the same features, by number and name.

    Returns what a fit takes to answer in the kind that ``X`` asks for.
    """
    try:
        tensor = _validated(estimator, X, reset=False, min_samples=2)
    except ValueError as error:
        raise ValueError(f"{name} must be samples like those of the fit. {error}") from error
    return answer_kind(kind_of(X)).restore(tensor)


def _check_finite(X: Tensor) -> None:
    """Refuse NaN and infinity, saying where."""
    extremes = torch.aminmax(X.detach())  # NaN if any entry is; takes no memory
    if all(math.isfinite(float(x)) for x in extremes):
        return
    bad = ~torch.isfinite(X).all(dim=1)
    row = int(bad.nonzero()[0])
    what = "NaN" if torch.isnan(X[bad]).any() else "infinity (inf)"
    raise ValueError(
        f"X must be finite, got {what} in {int(bad.sum())} of {len(X)} rows (first: row {row}). "
        "Remove or impute these rows."
    )


def check_range(X: Tensor) -> None:
    """Refuse samples whose second moments would overflow their dtype."""
    low, high = (float(x) for x in torch.aminmax(X.detach()))
    largest, limit = max(-low, high), torch.finfo(X.dtype).max ** 0.5 / 1e3
    if largest > limit:
        raise ValueError(
            f"X must be smaller than {limit:.1e} for covariances in {X.dtype}, got an entry of "
            f"size {largest:.1e}. Rescale X or drop that sample."
        )


def check_squares(name: str, largest: float, width: float = 1.0) -> None:
    """Refuse a size, or a width that is not zero, whose square float64 cannot hold."""
    if not largest < LARGEST:
        raise ValueError(
            f"{name} must be smaller than {LARGEST:.0e} for squared distances, got a size of "
            f"{largest:.1e}. Rescale it."
        )
    if 0 < width < 1 / LARGEST:
        raise ValueError(
            f"{name} must be wider than {1 / LARGEST:.0e} for squared distances, got a width of "
            f"{width:.1e}. Rescale it."
        )


def sample_weights(sample_weight, X: Tensor) -> Tensor | None:
    """Validate sample weights for ``X (n, d)``: non-negative, finite, not all zero.

    Returns a tensor ``(n,)`` in the dtype and on the device of ``X``, on the graph if it was. The
    largest weight is scaled to one: only ratios matter, and none of them then underflows.
    """
    if sample_weight is None:
        return None
    if isinstance(sample_weight, Tensor):
        weights = as_tensor(sample_weight, device=X.device).double()
        if weights.shape != X.shape[:1]:
            raise ValueError(
                f"sample_weight must have shape ({len(X)},), got {tuple(weights.shape)}. "
                "Pass one weight a sample."
            )
    else:
        weights = torch.from_numpy(
            _check_sample_weight(sample_weight, np.empty((len(X), 1)), dtype=np.float64, copy=True)
        ).to(X.device)
    low, high = (float(w) for w in torch.aminmax(weights.detach()))
    if not (low >= 0 and high < np.inf):
        raise ValueError(
            f"sample_weight must be finite and non-negative, got a range of {low} to {high}. "
            "Use 0 for samples to leave out."
        )
    if high == 0:
        raise ValueError(
            "sample_weight must have a positive sum, got all zeros. Give some sample weight."
        )
    return (weights / high).to(X.dtype)


def mixture_from_tuple(weights, means, covariances, covariance_type=None, *, any_mass=False):
    """Validate a mixture given as arrays; returns tensors, each in its own dtype, and their kind.

    ``covariances`` is taken in scikit-learn's shapes, or in those of
    `skgmmot.gaussian.covariance.registry`; ``covariance_type`` is needed only where two fit. With
    ``any_mass``, weights may have any positive sum.
    """
    kind = joint_kind(*(kind_of(t) for t in (weights, means, covariances)))
    eps = rounding(weights), rounding(covariances)
    weights, means, covariances = (as_tensor(t) for t in (weights, means, covariances))
    check_means(weights, means)
    K, d = means.shape
    if K == 0 or d == 0:
        raise ValueError(
            "a mixture must have at least one component and one feature, got means of shape "
            f"{(K, d)}. Pass one row of means for each component."
        )
    if covariance_type is not None and covariance_type not in COVARIANCE_TYPES:
        raise ValueError(
            f"the covariance type of a mixture must be one of {sorted(COVARIANCE_TYPES)}, got "
            f"{covariance_type!r}. Name one of them, or leave it out."
        )
    found = {}
    for name in COVARIANCE_TYPES if covariance_type is None else [covariance_type]:
        covariance = COVARIANCE_TYPES[name]
        storage = covariance.shape(K, d)
        if covariances.shape == storage:
            found[storage] = covariances
        elif covariances.shape == covariance.public_shape(K, d):
            found[storage] = covariance.from_public(covariances)
    if K == d == 1 and found:
        found = {(1, 1): covariances.reshape(1, 1)}  # all types are the same there
    if len(found) != 1:
        requirement = "fit one covariance type" if found else "fit a covariance type"
        raise ValueError(
            f"covariances of {K} components in {d} dimensions must {requirement}, got shape "
            f"{tuple(covariances.shape)}. Use (K, d, d), (1, d, d) if tied, (K, d) if diagonal, "
            "(K, 1) if spherical, or name the type as a fourth entry."
        )
    (covariances,) = found.values()
    params = GaussianMixtureParams(
        *(t.to(device=kind.device) for t in (weights, means, covariances))
    )
    check_mixture(params, *eps, any_mass=any_mass)
    return params, kind


def rounding(array) -> float:
    """The relative precision of an array as it was given; that of float64 if it holds no floats."""
    dtype = getattr(array, "dtype", None)
    if isinstance(dtype, torch.dtype):
        found = torch.finfo(dtype).eps if dtype.is_floating_point else 0.0
    else:
        is_float = isinstance(dtype, np.dtype) and dtype.kind == "f"
        found = float(np.finfo(dtype).eps) if is_float else 0.0
    return max(found, torch.finfo(torch.float64).eps)


def of_one_precision(*mixtures: GaussianMixtureParams) -> list[GaussianMixtureParams]:
    """Mixtures with all weights in the coarsest of their dtypes, in which equal ones are equal."""
    coarsest = max((m.weights.dtype for m in mixtures), key=lambda dtype: torch.finfo(dtype).eps)
    return [m._replace(weights=m.weights.to(coarsest)) for m in mixtures]


def in_double(mixture: GaussianMixtureParams) -> GaussianMixtureParams:
    """A mixture in float64; weights of fewer digits are made to sum to one there."""
    weights = mixture.weights.double()
    if mixture.weights.dtype != torch.float64:
        weights = weights / weights.detach().sum()
    return GaussianMixtureParams(weights, mixture.means.double(), mixture.covariances.double())


def check_means(weights: Tensor, means: Tensor) -> None:
    """Refuse weights and means that do not belong together."""
    if means.ndim == 2 and weights.shape == means.shape[:1]:
        return
    remedy = "Give one row of means a weight."
    if means.ndim == 1:
        remedy = "Use means[:, None] for one feature, means[None, :] for one component."
    raise ValueError(
        "a mixture must have weights (K,) and means (K, d), got shapes "
        f"{tuple(weights.shape)} and {tuple(means.shape)}. {remedy}"
    )


def reshaping(name: str, array, remedy: str) -> str:
    """The remedy for an array that has not two axes: of one axis, a second one."""
    if np.ndim(array) != 1:
        return remedy
    return f"Use {name}[:, None] if it holds one feature, {name}[None, :] if it holds one sample."


def check_mixture(
    params, weights_eps: float, covariances_eps: float, *, any_mass: bool = False
) -> None:
    """Refuse a mixture with weights off the simplex or covariances that are not positive.

    The last two are the precisions of the arrays that were given.
    """
    # numpy: a tenth of the time, for few numbers
    weights, means, covariances = (t.detach().cpu().numpy() for t in params)
    if not all(np.isfinite(t).all() for t in (weights, means, covariances)):
        raise ValueError("a mixture must be finite, got NaN or infinity. Check its parameters.")
    total, least = weights.sum(dtype=np.float64), weights.min()
    if any_mass:
        if least < 0 or not 0 < total < np.inf:
            raise ValueError(
                "weights must be non-negative and of positive sum, got sum "
                f"{total:.6g} and minimum {least:.3g}. Leave out components without mass."
            )
    elif least < 0 or abs(total - 1) > max(1e-5, 4 * weights_eps):
        raise ValueError(
            "weights must be non-negative and sum to 1, got sum "
            f"{total:.6g} and minimum {least:.3g}. Normalise them."
        )
    axes = tuple(range(1, covariances.ndim))
    scale, smallest = np.abs(covariances).max(axes), covariances.min(axes)
    if covariances.ndim == 3:
        asymmetry = np.abs(covariances - covariances.swapaxes(1, 2)).max(axes)
        if (asymmetry > max(1e-5, 4 * covariances_eps) * scale).any():
            raise ValueError(
                "covariances must be symmetric, got one that is not. Average with .mT."
            )
        matrices = torch.from_numpy(covariances).double()
        if not torch.linalg.cholesky_ex(matrices).info.any():
            return  # positive definite
        smallest = torch.linalg.eigvalsh(matrices)[:, 0].numpy()
    if (smallest < -100 * covariances_eps * scale).any():
        worst = int(smallest.argmin())
        raise ValueError(
            "covariances must be positive semi-definite, got smallest eigenvalue "
            f"{float(smallest[worst]):.3g} in component {worst}. Increase reg_covar, or add to "
            "the diagonal."
        )


def grid_density(density):
    """Validate an image density; returns it in float64 and the kind of its array."""
    kind, values = kind_of(density.values), as_tensor(density.values, dtype=torch.float64)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(
            f"values of a GridDensity must have shape (rows, columns), got {tuple(values.shape)}. "
            "Pass one number a pixel; average the channels of a colour image."
        )
    low, high = (float(v) for v in torch.aminmax(values.detach()))
    if not (low >= 0 and high < np.inf):
        raise ValueError(
            "values of a GridDensity must be finite and non-negative, got a range of "
            f"{low:.6g} to {high:.6g}. Subtract the minimum, or replace those pixels."
        )
    if high == 0:
        raise ValueError(
            "values of a GridDensity must have a positive total, got all zeros. Give some pixel a "
            "density."
        )
    extent = tuple(float(e) for e in density.extent)
    if (
        len(extent) != 4
        or not np.isfinite(extent).all()
        or not (extent[0] < extent[1] and extent[2] < extent[3])
    ):
        raise ValueError(
            "extent of a GridDensity must be (left, right, bottom, top) with left < right and "
            f"bottom < top, got {extent}. Rows of the image run upwards: flip it, not its extent."
        )
    width = min(extent[1] - extent[0], extent[3] - extent[2])
    check_squares("extent of a GridDensity", max(map(abs, extent)), width)
    return type(density)(values / high, extent), kind


def points_and_masses(points, weights, n_features: int):
    """Validate weighted points beside a density; tensors in float64, and the kinds of both."""
    kinds = [kind_of(points)] + ([] if weights is None else [kind_of(weights)])
    points = as_tensor(points, dtype=torch.float64)
    if points.ndim != 2 or points.shape[1] != n_features or not len(points):
        raise ValueError(
            f"points must have shape (n_points, {n_features}), as the density has {n_features} "
            f"features, got {tuple(points.shape)}. "
            + reshaping("points", points, "Pass one point a row.")
        )
    if not torch.isfinite(points).all():
        raise ValueError("points must be finite, got NaN or infinity. Drop those rows.")
    check_squares("points", float(points.detach().abs().max()))
    if weights is None:
        return points, points.new_ones(len(points)), kinds
    weights = as_tensor(weights, dtype=torch.float64).to(points.device)
    if weights.shape != points.shape[:1]:
        raise ValueError(
            f"weights must have shape ({len(points)},), got {tuple(weights.shape)}. "
            "Pass one weight a point."
        )
    low, high = (float(w) for w in torch.aminmax(weights.detach()))
    if not (low >= 0 and 0 < high < np.inf):
        raise ValueError(
            "weights must be finite and non-negative with a positive sum, got a range of "
            f"{low:.6g} to {high:.6g}. Use 0 for points that take nothing."
        )
    return points, weights / high, kinds
