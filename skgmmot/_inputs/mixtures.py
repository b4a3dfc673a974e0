"""Validation of mixtures given by users: fitted estimators and tuples of arrays."""

import functools
import math
from collections.abc import Sequence

import numpy as np
import torch
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from skgmmot._inputs.arrays import ArrayKind, as_tensor, joint_kind, kind_of, on_device
from skgmmot.gaussian.covariance.base import CovarianceType
from skgmmot.gaussian.covariance.registry import (
    COVARIANCE_TYPES,
    ELEMENTARY_TYPES,
    FULL,
    SPHERICAL,
)
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.numerics.linalg import is_symmetric
from skgmmot.transport.mixtures.distance import check_dimensions


def attributes(mixture, covariance_like, name="a mixture") -> tuple:
    """The weights, means and another attribute of a fitted estimator, ours or scikit-learn's."""
    names = ("weights_", "means_", covariance_like)
    missing = [n for n in names if not hasattr(mixture, n)]
    if missing:
        raise NotFittedError(
            f"{name} must have {names[0]}, {names[1]} and {names[2]}, got no "
            f"{' and no '.join(missing)}. Set what is missing, or call fit."
        )
    return tuple(getattr(mixture, n) for n in names)


def is_mixture(given, name="target") -> bool:
    """Whether an argument is a mixture; False if it may be samples.

    Parameters
    ----------
    given : fitted mixture estimator, tuple (weights, means, covariances), or array-like
        The user's argument.
    name : str, default='target'
        Its name in error messages.

    Returns
    -------
    bool
        True for the first two.

    Raises
    ------
    TypeError
        If it is an estimator of something else.
    """
    found = looks_like_mixture(given)
    if hasattr(given, "fit") and not found:
        raise TypeError(
            f"{name} must be a fitted Gaussian mixture, a tuple (weights, means, covariances) or "
            f"samples, got {type(given).__name__}. Fit a DifferentiableGaussianMixture first."
        )
    return found


def looks_like_mixture(given) -> bool:
    """Whether this is an estimator of mixtures or a tuple, valid or not."""
    return isinstance(given, tuple) or hasattr(given, "covariance_type")


def as_mixture(mixture, name="mixture", dtype=torch.float64, *, any_mass=False):
    """Validate a fitted estimator (ours or scikit-learn's) or a tuple; return it as a value.

    Parameters
    ----------
    mixture : fitted mixture estimator or tuple (weights, means, covariances)
        The user's mixture; a fourth entry of a tuple is its covariance type.
    name : str, default='mixture'
        Its name in error messages.
    dtype : torch.dtype, default=torch.float64
        That of the value; None keeps that of each array.
    any_mass : bool, default=False
        Whether weights may have any positive sum.

    Returns
    -------
    params : GaussianMixtureParams
        The mixture.
    kind : ArrayKind
        The kind of its arrays.

    Raises
    ------
    NotFittedError
        If the estimator is not fitted.
    TypeError
        If it is something else, or its numbers are complex.
    ValueError
        If the arrays are not a mixture.
    """
    given = parts_of(mixture, name)
    try:
        params, kind = mixture_from_tuple(*given, any_mass=any_mass)
    except (TypeError, ValueError) as error:
        refusal = TypeError if isinstance(error, TypeError) else ValueError
        raise refusal(f"{name} must be a Gaussian mixture. {error}") from error
    # float64: distances between close mixtures are small differences of large numbers
    return params if dtype is None else in_double(params).to(dtype=dtype), kind


def parts_of(mixture, name: str) -> tuple:
    """The arrays of a fitted estimator, as they are, and its type; a tuple is that already."""
    if isinstance(mixture, tuple) and len(mixture) in (3, 4):
        return mixture
    if hasattr(mixture, "moments"):
        mixture = _moments(mixture, name)
    if isinstance(mixture, GaussianMixtureParams):
        return (*mixture.without_noise(), mixture.covariance_type)
    if hasattr(mixture, "covariance_type"):
        check_is_fitted(mixture, "means_", msg=_not_fitted(name))
        covariance_type = getattr(mixture, "covariance_type_", mixture.covariance_type)
        return (*attributes(mixture, "covariances_", name), covariance_type)
    size = f" of length {len(mixture)}" if isinstance(mixture, tuple) else ""
    raise TypeError(
        f"{name} must be a fitted mixture estimator or a tuple (weights, means, covariances), got "
        f"{type(mixture).__name__}{size}. Fit a DifferentiableGaussianMixture to samples first."
    )


def with_plain_matrices(parts: tuple) -> bool:
    """Whether these are arrays or tensors of float64 on the CPU, with a matrix a component.

    Only kinds and shapes are looked at.
    """
    weights, means, covariances, *kind = parts
    if not (in_plain_double(weights) and in_plain_double(means) and in_plain_double(covariances)):
        return False
    named = kind[0] if kind else None
    if not (named is None or named is FULL or (isinstance(named, str) and named == FULL.name)):
        return False
    K, d = means.shape if means.ndim == 2 else (0, 0)
    return K * d > 0 and weights.shape == (K,) and covariances.shape == (K, d, d)


def in_plain_double(array) -> bool:
    """Whether this is a plain array or tensor of float64 on the CPU."""
    if type(array) is np.ndarray:
        return array.dtype == np.float64
    plain = type(array) in (Tensor, torch.nn.Parameter) and array.layout == torch.strided
    return plain and array.dtype == torch.float64 and array.is_cpu


def _moments(mixture, name: str):
    """The Gaussian mixture of the same moments as one of other components."""
    check_is_fitted(mixture, "means_", msg=_not_fitted(name))
    try:
        return mixture.moments()
    except ValueError as error:
        raise ValueError(f"{name} must have means and covariances. {error}") from error


def _not_fitted(name) -> str:
    """The message for an estimator without a fit, as scikit-learn's, and which one it is."""
    return (
        f"{name.replace('%', '%%')} must be fitted: this %(name)s instance is not fitted yet. Call "
        "'fit' with appropriate arguments before using it."
    )


def shown_type(params: GaussianMixtureParams) -> str:
    """The name of a mixture's covariance type; that of one component with a matrix is full."""
    return params.covariance_type.public_name(len(params.weights))


def as_mixtures(mixtures, name="X", device=None, dtype=torch.float64, *, any_mass=False):
    """Validate several mixtures; return them as values on one device, see `together`.

    Parameters
    ----------
    mixtures : sequence of fitted mixture estimators or tuples (weights, means, covariances)
        The user's argument.
    name : str, default='X'
        Its name in error messages.
    device : str or torch.device, default=None
        Where they are put; None is where the first one is.
    dtype : torch.dtype, default=torch.float64
        That of the values; None keeps that of each array.
    any_mass : bool, default=False
        Whether weights may have any positive sum.

    Returns
    -------
    params : list of GaussianMixtureParams
        The mixtures.
    kind : ArrayKind
        The joint kind of their arrays.

    Raises
    ------
    NotFittedError
        If an estimator is not fitted.
    TypeError
        If this is not a sequence of mixtures.
    ValueError
        If there are none, or they differ in dimension, or one is not a mixture.
    """
    if hasattr(mixtures, "fit") or not hasattr(mixtures, "__len__"):
        raise TypeError(
            f"{name} must be a sequence of mixtures, got {type(mixtures).__name__}. Put it in a "
            "list."
        )
    if len(mixtures) == 0:
        raise ValueError(f"{name} must hold at least one mixture, got none. Pass fitted mixtures.")
    values = [
        as_mixture(m, f"{name}[{i}]", dtype, any_mass=any_mass) for i, m in enumerate(mixtures)
    ]
    dimensions = [params.means.shape[1] for params, _ in values]
    for i, d in enumerate(dimensions):
        if d != dimensions[0]:
            raise ValueError(
                f"{name} must hold mixtures with equal numbers of features, got {dimensions[0]} in "
                f"{name}[0] and {d} in {name}[{i}]. Describe all by the same features."
            )
    kind = joint_kind(*(kind for _, kind in values))
    first = on_device(values[0][0].means, device or kind.device)
    return together([params for params, _ in values], first.device), kind


def as_pair(source, target, *, any_mass=False):
    """Validate two mixtures; return them as values that can be compared, see `together`.

    Parameters
    ----------
    source, target : fitted mixture estimator or tuple (weights, means, covariances)
        The user's argument.
    any_mass : bool, default=False
        Whether weights may have any positive sum.

    Returns
    -------
    source, target : GaussianMixtureParams
        The mixtures.
    kind : ArrayKind
        The joint kind of their arrays.

    Raises
    ------
    NotFittedError
        If an estimator is not fitted.
    TypeError
        If a mixture is neither an estimator nor a tuple.
    ValueError
        If they differ in dimension, or one is not a mixture.
    """
    source, source_kind = as_mixture(source, "source", None, any_mass=any_mass)
    target, target_kind = as_mixture(target, "target", None, any_mass=any_mass)
    check_dimensions(source, target)
    kind = joint_kind(source_kind, target_kind)
    return *together([source, target], kind.device), kind


def as_two_sequences(
    mixtures, others, names: tuple[str, str], *, any_mass=False
) -> tuple[list[GaussianMixtureParams], list[GaussianMixtureParams] | None, ArrayKind]:
    """Validate two sequences of mixtures, the second perhaps None; return also their kind."""
    options = {"dtype": None, "any_mass": any_mass}
    sources, kind = as_mixtures(mixtures, names[0], **options)
    if others is None:
        return sources, None, kind
    targets, other_kind = as_mixtures(others, names[1], **options)
    check_dimensions(sources[0], targets[0])
    kind = joint_kind(kind, other_kind)
    both = together([*sources, *targets], kind.device)
    return both[: len(sources)], both[len(sources) :], kind


def together(
    mixtures: list[GaussianMixtureParams], device: torch.device
) -> list[GaussianMixtureParams]:
    """Bring mixtures to one device, one dtype of weights, and float64 otherwise.

    Distances between close mixtures are small differences of large numbers, hence float64. Weights
    are rounded to the coarsest of their dtypes, in which equal weights compare equal; from this
    dtype, transport plans take how precise the weights are.
    """
    coarsest = max((m.weights.dtype for m in mixtures), key=lambda dtype: torch.finfo(dtype).eps)
    return [
        GaussianMixtureParams(
            m.weights.to(device, coarsest),
            m.means.to(device, torch.float64),
            m.covariances.to(device, torch.float64),
            m.covariance_type,
        )
        for m in mixtures
    ]


def common_feature_names(mixtures, name="X"):
    """The common feature names of fitted mixtures, or None if none has any."""
    known = [
        (i, m.feature_names_in_) for i, m in enumerate(mixtures) if hasattr(m, "feature_names_in_")
    ]
    for i, names in known:
        if not np.array_equal(names, known[0][1]):
            raise ValueError(
                f"{name} must hold mixtures of the same features, got {list(known[0][1])} in "
                f"{name}[{known[0][0]}] and {list(names)} in {name}[{i}]. Use the same columns in "
                "the same order."
            )
    return known[0][1] if known else None


def mixture_from_tuple(weights, means, covariances, covariance_type=None, *, any_mass=False):
    """Validate a mixture given as arrays; returns tensors, each in its own dtype, and their kind.

    ``covariances`` is taken in scikit-learn's shapes, or in those of
    `skgmmot.gaussian.covariance.registry`; ``covariance_type`` is needed where not
    just one elementary type fits. With ``any_mass``, weights may have any positive sum.
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
    found = {}
    for covariance in _possible_types(covariance_type, covariances):
        storage, public, reduced = _shapes(covariance, K, d)
        if covariances.shape == storage:
            found[reduced] = covariances
        elif covariances.shape == public:
            found[reduced] = covariance.from_public(covariances)
    if K == d == 1 and found:
        covariance, storage = found.popitem()  # all types are the same there
        found = {SPHERICAL: covariance.to_full(storage, K, d).reshape(1, 1)}
    if len(found) != 1:
        requirement = "fit one covariance type" if found else "fit a covariance type"
        raise ValueError(
            f"covariances of {K} components in {d} dimensions must {requirement}, got shape "
            f"{tuple(covariances.shape)}. Use (K, d, d), (1, d, d) if tied, (K, d) if diagonal, "
            "(K, 1) if spherical, or name the covariance_type (the fourth entry of a tuple)."
        )
    ((covariance, covariances),) = found.items()
    tensors = (t.to(device=kind.device) for t in (weights, means, covariances))
    params = GaussianMixtureParams(*tensors, covariance)
    check_mixture(params, *eps, any_mass=any_mass)
    return params, kind


@functools.lru_cache(maxsize=256)
def _shapes(covariance: CovarianceType, K: int, d: int) -> tuple:
    """The shapes of a type's storage, here and for users, and the type that is the same model."""
    return covariance.shape(K, d), covariance.public_shape(K, d), covariance.reduced(K, d)


def _possible_types(covariance_type, covariances: Tensor) -> Sequence[CovarianceType]:
    """The types that a mixture may have, given its type, the name of one, or None."""
    if covariance_type is None:
        return ELEMENTARY_TYPES
    if isinstance(covariance_type, CovarianceType):
        return [covariance_type]
    if covariance_type not in COVARIANCE_TYPES:
        raise ValueError(
            f"the covariance type of a mixture must be one of {sorted(COVARIANCE_TYPES)}, got "
            f"{covariance_type!r}. Name one of them, or leave it out."
        )
    return [COVARIANCE_TYPES[covariance_type].of_storage(covariances)]


def rounding(array) -> float:
    """The machine epsilon of an array's dtype; that of float64 if it holds no floats."""
    return _precision(getattr(array, "dtype", None))


@functools.lru_cache(maxsize=64)
def _precision(dtype) -> float:
    if isinstance(dtype, torch.dtype):
        found = torch.finfo(dtype).eps if dtype.is_floating_point else 0.0
    else:
        is_float = isinstance(dtype, np.dtype) and dtype.kind == "f"
        found = float(np.finfo(dtype).eps) if is_float else 0.0
    return max(found, torch.finfo(torch.float64).eps)


def in_double(mixture: GaussianMixtureParams) -> GaussianMixtureParams:
    """Convert a mixture to float64; weights of another dtype are normalised there."""
    weights = mixture.weights.double()
    if mixture.weights.dtype != torch.float64:
        weights = weights / weights.detach().sum()
    return mixture.map(Tensor.double)._replace(weights=weights)


def check_means(weights: Tensor, means: Tensor) -> None:
    """Raise if the shapes of weights and means do not agree."""
    if means.ndim == 2 and weights.shape == means.shape[:1]:
        return
    remedy = "Give one row of means a weight."
    if weights.ndim == 2 and means.ndim == 1:
        remedy = "Pass weights first: (weights, means, covariances)."
    elif means.ndim == 1:
        remedy = "Use means[:, None] for one feature, means[None, :] for one component."
    raise ValueError(
        "a mixture must have weights (K,) and means (K, d), got shapes "
        f"{tuple(weights.shape)} and {tuple(means.shape)}. {remedy}"
    )


def check_mixture(
    params, weights_eps: float, covariances_eps: float, *, any_mass: bool = False
) -> None:
    """Raise if weights are not on the simplex, or covariances not positive semi-definite.

    ``weights_eps`` and ``covariances_eps`` are the machine epsilons of the user's arrays.
    """
    # numpy: a tenth of the time, for few numbers
    weights, means, covariances = (t.numpy(force=True) for t in params.in_base())
    if not _all_finite(weights, means, covariances):
        raise ValueError("a mixture must be finite, got NaN or infinity. Check its parameters.")
    total, least = np.add.reduce(weights, dtype=np.float64), np.minimum.reduce(weights)
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
    smallest, largest = (
        params.covariance_type.base.least_eigenvalues(torch.from_numpy(covariances)),
        0.0,
    )
    if smallest is not None:
        smallest = smallest.numpy()
    else:
        if not is_symmetric(covariances):
            _check_symmetric(covariances, max(1e-5, 4 * covariances_eps))
        matrices = torch.from_numpy(covariances).double()
        if not np.count_nonzero(torch.linalg.cholesky_ex(matrices).info.numpy()):
            return  # positive definite
        eigenvalues = torch.linalg.eigvalsh(matrices).numpy()
        smallest, largest = eigenvalues[:, 0], eigenvalues[:, -1]
    # eigenvalues are rounded by eps times the largest
    scale = np.maximum(np.abs(covariances).reshape(len(covariances), -1).max(1), largest)
    if (smallest < -100 * covariances_eps * scale).any():
        worst = int(smallest.argmin())
        raise ValueError(
            "covariances must be positive semi-definite, got smallest eigenvalue "
            f"{float(smallest[worst]):.3g} in component {worst}. Increase reg_covar, or add to "
            "the diagonal."
        )


def _all_finite(*arrays: np.ndarray) -> bool:
    """Whether all entries are finite: they are where their sum is."""
    with np.errstate(over="ignore", invalid="ignore"):
        total = sum(np.add.reduce(array, None) for array in arrays)
    return math.isfinite(total) or all(np.isfinite(array).all() for array in arrays)


def _check_symmetric(matrices: np.ndarray, tol: float) -> None:
    """Raise if the asymmetry of a matrix exceeds ``tol`` times its largest entry."""
    asymmetry = np.abs(matrices - matrices.swapaxes(1, 2)).max((1, 2))
    if (asymmetry > tol * np.abs(matrices).max((1, 2))).any():
        raise ValueError("covariances must be symmetric, got one that is not. Average with .mT.")
