"""Predictions for few samples in numpy: calls of torch would take longer than their arithmetic.

The functions of the log-joint ``(K, n)`` agree with those of `skgmmot.gaussian.log_density` to
rounding.
"""

import functools

import numpy as np

from skgmmot._inputs.arrays import is_plain
from skgmmot.gaussian.covariance.base import LOG_2PI, DensityType
from skgmmot.gaussian.log_density import FAR

#: Most samples times components times features for which numpy is faster than torch.
MOST_NUMBERS = 2**15


def needs_no_check(estimator, X) -> bool:
    """Return whether all that is left to check about samples is what `evaluate` looks at.

    Parameters
    ----------
    estimator : MixtureEstimator
        A fitted mixture or, perhaps, one that is not.
    X : array-like
        Samples, as a user gave them.

    Returns
    -------
    bool
        False if they must be converted, or compared with names, or moved to a device.
    """
    fitted = vars(estimator)
    named = "feature_names_in_" in fitted
    return is_plain(X) and not named and fitted.get("device") is None


def evaluate(estimator, function, X: np.ndarray) -> np.ndarray | None:
    """Return ``function(log-joint)`` of few samples, or None.

    Parameters
    ----------
    estimator : MixtureEstimator
        A mixture of Gaussians.
    function : callable
        One of `log_density`, `labels` and `responsibilities`.
    X : ndarray
        Samples, in float32 or float64.

    Returns
    -------
    ndarray or None
        What the function gives, floats in the dtype of the samples. None leaves the samples to the
        general way: there are many, or they are not valid; there is noise, the fitted parameters
        are tensors or were set to something else; or a sample is far from all components.
    """
    fitted = vars(estimator)
    parameters = [fitted.get(name) for name in ("weights_", "means_", "precisions_cholesky_")]
    if not all(map(is_plain, parameters)) or "noise_weight_" in fitted:
        return None
    weights, means, factors = parameters
    few = X.ndim == means.ndim == 2 and 0 < X.size * len(means) <= MOST_NUMBERS
    d = X.shape[-1]
    if not few or not d == means.shape[1] == fitted.get("n_features_in_", d):
        return None
    base = estimator._covariance().base
    known = weights.shape == means.shape[:1] and factors.shape == _public(base, *means.shape)
    if not known or not np.isfinite(X).all():
        return None
    arrays = (array.astype(np.float64, copy=False) for array in (weights, means, factors, X))
    weights, means, factors, x = arrays
    factors = factors.reshape(base.shape(*means.shape))
    joint = log_joint(weights, means, factors, base, x)
    if joint is None:
        return None
    found = function(joint)
    return found.astype(X.dtype, copy=False) if found.dtype.kind == "f" else found


@functools.lru_cache
def _public(covariance_type: DensityType, n_components: int, n_features: int):
    """The shape of precision factors as scikit-learn shows them."""
    return covariance_type.public_shape(n_components, n_features)


def log_joint(
    weights: np.ndarray,
    means: np.ndarray,
    factors: np.ndarray,
    covariance_type: DensityType,
    X: np.ndarray,
) -> np.ndarray | None:
    """Return ``log w_k g_k(x_i)`` of samples that are not far from all components.

    Parameters
    ----------
    weights : ndarray of shape (K,)
        Weights, in float64 like all arrays here.
    means : ndarray of shape (K, d)
        Means.
    factors : ndarray
        Precision factors, in the storage of their type.
    covariance_type : DensityType
        The type of the factors.
    X : ndarray of shape (n, d)
        Samples.

    Returns
    -------
    ndarray of shape (K, n) or None
        None where this is work for torch: a type without arithmetic in numpy, a sample so far away
        that its log-joint is rounding, or parameters that are no mixture.
    """
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        found = covariance_type.whitened_arrays(X - means[:, None], factors)
        if found is None:
            return None
        white, log_det = found
        largest = np.log(weights) + log_det - means.shape[1] * LOG_2PI / 2
        joint = largest[:, None] - np.einsum("knd,knd->kn", white, white) / 2
        # (a comparison with what is not a number is False)
        return joint if np.minimum.reduce(np.maximum.reduce(joint)) > FAR else None


def log_density(joint: np.ndarray) -> np.ndarray:
    """Return the log-densities ``(n,)``."""
    top = np.maximum.reduce(joint)
    return np.log(np.add.reduce(np.exp(joint - top))) + top


def labels(joint: np.ndarray) -> np.ndarray:
    """Return the most probable components ``(n,)``."""
    return joint.argmax(0)


def responsibilities(joint: np.ndarray) -> np.ndarray:
    """Return the posterior of the components ``(n, K)``."""
    shares = np.exp(joint - np.maximum.reduce(joint))
    return np.ascontiguousarray((shares / np.add.reduce(shares)).T)
