"""What of a mixture stays during a fit: fixed weights, means and covariances."""

from dataclasses import replace

import torch
from torch import Tensor

from skgmmot._inputs.arrays import as_tensor
from skgmmot.fitting.em.constraint import FREE, Constraint, check_fixed_weights, constraint_of
from skgmmot.fitting.em.rows import EM
from skgmmot.fitting.robust.noise import UniformNoise
from skgmmot.gaussian.covariance.registry import CovarianceType
from skgmmot.gaussian.mixture import GaussianMixtureParams


def fixed(
    estimator,
    covariance_type: CovarianceType,
    noise: UniformNoise | None,
    n_features: int,
    device: torch.device,
) -> Constraint:
    """Which parameters of the mixture are fixed; their values come with the start."""
    K = estimator.n_components
    names = ("weights", "means", "covariances")
    masks = {name: getattr(estimator, f"fixed_{name}") for name in names}
    if all(mask is False for mask in masks.values()) and (noise is None or not noise.fixed_weight):
        return FREE
    options = {"device": device, "noise_is_free": noise is not None and not noise.fixed_weight}
    found = constraint_of(covariance_type.reduced(K, n_features), K, **masks, **options)
    if noise is None:
        return found
    if found.weights is not None and not noise.fixed_weight:
        raise ValueError(
            "fixed_weights must be False beside noise whose weight is fitted, got "
            f"{estimator.fixed_weights!r}: the components share what noise leaves. Fix that, too, "
            "by UniformNoise(weight=..., fixed_weight=True)."
        )
    if not noise.fixed_weight:
        return found
    of_components = torch.zeros(K, dtype=torch.bool, device=device)
    if found.weights is not None:
        of_components = found.weights
    own = of_components.new_ones(1)
    return replace(found, weights=torch.cat([of_components, own]))


def check_held(estimator, em: EM, given: tuple, warm: bool) -> Tensor | None:
    """Refuse to hold what is not given; return the means that are held, about zero."""
    constraint = of_components(em.constraint, estimator.n_components)
    masks = (constraint.weights, constraint.means, constraint.covariances)
    names = (("weights", "weights"), ("means", "means"), ("covariances", "precisions"))
    for mask, value, (fixed, initial) in zip(masks, given, names, strict=True):
        if mask is not None and value is None and not warm:
            raise ValueError(
                f"{initial}_init must be given where fixed_{fixed} holds some of it, got None. "
                "Pass the values that stay, and where the others start."
            )
    if given[0] is not None:
        check_fixed_weights(constraint, given[0])
    if constraint.means is None:
        return None
    means = estimator.means_ if given[1] is None else estimator.means_init
    return as_tensor(means).detach().to(dtype=torch.float64, device=em.samples.device)


def of_components(constraint: Constraint, n_components: int) -> Constraint:
    """The same without what it says of the weight of noise."""
    if constraint.weights is None or len(constraint.weights) == n_components:
        return constraint
    weights = constraint.weights[:n_components]
    return replace(constraint, weights=weights if weights.any() else None)


def held(theta: GaussianMixtureParams, given: tuple, em: EM) -> GaussianMixtureParams:
    """A start in which fixed parameters have their given values."""
    if not em.constraint.fixes:
        return theta
    parts = (t if g is None else g for t, g in zip(theta, given, strict=True))
    return em.constraint.keep(theta, GaussianMixtureParams(*parts, theta.covariance_type))
