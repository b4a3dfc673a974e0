"""Starts from an estimator's own last fit."""

import numpy as np
import torch
from torch import Tensor

from skgmmot.fitting.em.rows import EM
from skgmmot.gaussian.choice import definition_e_step
from skgmmot.gaussian.mixture import GaussianMixtureParams, PreparedMixture
from skgmmot.numerics.blocks import MIN_BLOCK_ROWS


def earlier_mixture(estimator, d: int, device) -> GaussianMixtureParams:
    """The mixture of the estimator's own last fit, in float64."""
    expected = (estimator.n_components, d)
    if np.shape(estimator.means_) != expected:
        raise ValueError(
            f"warm_start needs a fit of shape (n_components, n_features) = {expected}, got one "
            f"of shape {np.shape(estimator.means_)}. Set warm_start=False to start anew."
        )
    options = {"dtype": torch.float64, "device": device}
    params, covariance_type = estimator._params(**options).detach(), estimator._covariance()
    try:
        params.prepare()
    except ValueError as error:
        if not hasattr(estimator, "precisions_cholesky_"):
            raise ValueError(
                "warm_start needs positive definite covariances_, got one that is singular. Add to "
                "its diagonal, or set warm_start=False to start anew."
            ) from error
        # thin covariances may be singular once they are rounded to float32; their factors are not
        factors = (
            estimator._tensors("precisions_cholesky_", covariance_type.base)[2]
            .to(**options)
            .detach()
        )
        covariances = covariance_type.base.from_precisions(covariance_type.base.precisions(factors))
        covariances = covariance_type.from_base(covariances, params.weights, params.means.shape[1])
        params = params._replace(covariances=covariances)
    return params


def earlier_fit(estimator, em: EM) -> GaussianMixtureParams:
    """The same about the samples' origin, where EM can go on from it."""
    params = earlier_mixture(estimator, len(em.origin), em.origin.device)
    return _revived(params.translated(-em.origin.double()), em)


def _revived(theta: GaussianMixtureParams, em: EM) -> GaussianMixtureParams:
    """The mixture with one sample's weight for components without any, where that is of use.

    The likelihood grows with a weight that is zero if the mean of ``g_k / p`` exceeds one.
    """
    empty = theta.weights == 0
    if not empty.any():
        return theta
    mixture = theta.prepare()
    (ratio,) = em.samples.sum(_DensityRatio(mixture, em.origin, em.samples.incomplete))
    weights = torch.where(empty & (ratio > em.total), 1 / em.samples.n_samples, theta.weights)
    return theta._replace(weights=weights / weights.sum())


class _DensityRatio:
    """``g_k / p``, over a block."""

    min_rows = MIN_BLOCK_ROWS

    def __init__(self, mixture: PreparedMixture, origin: Tensor, incomplete: bool):
        self.row_size, options = mixture.row_size, {"incomplete": incomplete}
        self.incomplete = incomplete
        unweighted = mixture._replace(log_weights=torch.zeros_like(mixture.log_weights))
        self.step = definition_e_step(mixture, origin, **options)
        self.unweighted = definition_e_step(unweighted, origin, **options)

    def block(self, X, sample_weight, buffers):
        ratio = (self.unweighted.log_joint(X) - self.step.log_density(X)).exp()
        if self.incomplete:
            ratio = ratio * ~torch.isnan(X).all(1)
        return ((ratio if sample_weight is None else ratio * sample_weight).sum(1),)
