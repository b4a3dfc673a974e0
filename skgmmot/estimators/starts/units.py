"""The variances of features, and a warning where ``reg_covar`` drowns one."""

import functools
import warnings

import torch
from torch import Tensor

from skgmmot.numerics.blocks import block_length

#: Share of a feature's variance from which ``reg_covar`` is warned of.
NOTICED = 0.1


def warn_of_units(estimator, variances: Tensor, about: Tensor) -> None:
    """Warn where ``reg_covar`` drowns a feature of samples, whose mean, in their dtype, is given.

    Features that are constant but for their rounding do not count; a covariance type of one
    variance for all features has their mean to compare with.
    """
    variances = variances.cpu().numpy()
    if estimator.reg_covar <= NOTICED * variances.min():
        return
    rounding = max(8 * torch.finfo(about.dtype).eps, 1e-12) * about.double().abs().cpu().numpy()
    variances = variances[variances > rounding**2]
    if not len(variances):
        return
    pooled = estimator._covariance().base.pooled(len(about)) > 1
    smallest = float(variances.mean() if pooled else variances.min())
    if estimator.reg_covar > NOTICED * smallest:
        warnings.warn(
            "reg_covar must be small against the variances of the features, got "
            f"{estimator.reg_covar:.2g} for a variance of {smallest:.2g}. Rescale "
            f"X, for example with StandardScaler, or set reg_covar={1e-6 * smallest:.0e}, up to "
            f"{1e-2 * smallest:.0e} where components have few samples for so many features.",
            stacklevel=8,
        )


def variances(X: Tensor, sample_weight: Tensor | None, about: Tensor) -> Tensor:
    """The variance of each feature, in float64."""
    length = block_length(X.device, X.shape[1])
    if sample_weight is None:
        sums, total = ((x - about).double().square().sum(0) for x in X.split(length)), len(X)
    else:
        blocks = zip(X.split(length), sample_weight.double().split(length), strict=True)
        sums = (a @ (x - about).double().square() for x, a in blocks)
        total = sample_weight.sum(dtype=torch.float64)
    return functools.reduce(torch.add, sums) / total
