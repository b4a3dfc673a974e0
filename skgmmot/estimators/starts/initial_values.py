"""Initial values that the user gives, validated.

The texts of errors are those of scikit-learn: programs match them.
"""

import torch
from torch import Tensor

from skgmmot._inputs.arrays import as_tensor, check_range
from skgmmot.fitting.em.rows import EM
from skgmmot.gaussian.covariance.registry import CovarianceType


def given(estimator, em: EM, *, uniform: bool = False) -> tuple:
    """The validated initial weights, means (about the origin) and covariances, or None.

    ``uniform`` stands for weights that are not given.
    """
    shape = (estimator.n_components, len(em.origin))
    to = {"dtype": torch.float64, "device": em.origin.device}
    weights, means, covariances = None, None, None
    if uniform:
        weights = torch.full((estimator.n_components,), 1 / estimator.n_components, **to)
    if estimator.weights_init is not None:
        weights = check_weights(estimator.weights_init, estimator.n_components).to(**to)
    if estimator.means_init is not None:
        means = check_shape(estimator.means_init, shape, "means").to(**to)
        check_range(means.to(em.origin.dtype), "means_init")
        means = means - em.origin.double()
    if estimator.precisions_init is not None:
        covariances = check_precisions(
            estimator.precisions_init, estimator._covariance(), *shape
        ).to(**to)
    return weights, means, covariances


def check_shape(array, shape: tuple[int, ...], name: str) -> Tensor:
    """Validate the shape and finiteness of a given start."""
    tensor = as_tensor(array)
    if tensor.shape != shape:
        raise ValueError(
            f"The parameter '{name}' should have the shape of {shape}, but got "
            f"{tuple(tensor.shape)}. Match n_components and the features of X."
        )
    if not torch.isfinite(tensor).all():
        raise ValueError(
            f"The parameter '{name}' must be finite, got NaN or infinity. Replace those entries."
        )
    return tensor.detach()


def check_weights(weights, n_components: int) -> Tensor:
    """Validate ``weights_init``."""
    weights = check_shape(weights, (n_components,), "weights")
    low, high = float(weights.min()), float(weights.max())
    if low < 0 or high > 1:
        # (scikit-learn's text, whose two values stand the other way round)
        raise ValueError(
            "The parameter 'weights' should be in the range [0, 1], but got max value "
            f"{low:.5f}, min value {high:.5f}"
        )
    if abs(1 - float(weights.sum())) > (1e-6 if weights.dtype == torch.float32 else 1e-8):
        raise ValueError(
            "The parameter 'weights' should be normalized, but got sum(weights) = "
            f"{float(weights.sum()):.5f}. Divide by the sum."
        )
    return weights


def check_precisions(precisions, covariance_type: CovarianceType, *shape: int) -> Tensor:
    """Validate ``precisions_init`` and return the covariances, in storage."""
    base = covariance_type.base
    if not base.elementary:
        raise ValueError(
            f"precisions_init must be None with covariance_type={base.name!r}, whose precisions "
            f"are not stored, got a {type(precisions).__name__}. Start from "
            "DifferentiableGaussianMixture.from_parameters with warm_start=True."
        )
    precisions = check_shape(precisions, base.public_shape(*shape), f"{base.name} precision")
    precisions = base.from_public(precisions)
    requirement = base.not_precisions(precisions)
    if requirement:
        low, high = float(precisions.min()), float(precisions.max())
        raise ValueError(
            f"'{base.name} precision' should be {requirement}, got entries from {low:.3g} to "
            f"{high:.3g}. Pass inverse covariances."
        )
    covariances, (K, d) = base.from_precisions(precisions.double()), shape
    return covariance_type.from_base(covariances, covariances.new_full((K,), 1 / K), d)
