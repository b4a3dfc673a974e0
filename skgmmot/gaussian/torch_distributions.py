"""Gaussian mixtures as distributions of torch, and back."""

import torch
from torch import Tensor
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    LowRankMultivariateNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
)

from skgmmot.gaussian.covariance.registry import DIAG, ELEMENTARY_TYPES, FULL, SPHERICAL, TIED
from skgmmot.gaussian.mixture import GaussianMixtureParams


def in_elementary(mixture: GaussianMixtureParams) -> GaussianMixtureParams:
    """Return the same mixture in an elementary covariance type, which other packages have, too.

    Parameters
    ----------
    mixture : GaussianMixtureParams
        K components in d dimensions.

    Returns
    -------
    GaussianMixtureParams
        The mixture in its base or, where that is no elementary type, with full covariances.
    """
    base = mixture.in_base()
    if base.covariance_type in ELEMENTARY_TYPES:
        return base
    return GaussianMixtureParams(base.weights, base.means, mixture.full_covariances(), FULL)


def to_torch(mixture: GaussianMixtureParams) -> MixtureSameFamily:
    """Return a mixture as a distribution of torch.

    Parameters
    ----------
    mixture : GaussianMixtureParams
        K components in d dimensions.

    Returns
    -------
    MixtureSameFamily
        Of `torch.distributions.MultivariateNormal`, of ``LowRankMultivariateNormal`` where
        covariances are of low rank, or of independent ``Normal`` features where they are diagonal.
        On the graph of the mixture; weights are divided by their sum.

    Raises
    ------
    ValueError
        If a covariance is not positive definite.

    See Also
    --------
    from_torch : The way back.
    """
    base = mixture.in_base()
    covariance_type, means = base.covariance_type, base.means
    covariance_type.precision_factor(base.covariances.detach())  # raises, and says which
    if covariance_type.diagonal:
        components = Independent(Normal(means, base.covariances.sqrt().expand_as(means)), 1)
    elif not covariance_type.elementary:
        components = LowRankMultivariateNormal(means, *base.factors())
    else:
        components = MultivariateNormal(means, scale_tril=torch.linalg.cholesky(base.covariances))
    return MixtureSameFamily(Categorical(base.weights), components)


def from_torch(distribution: Distribution) -> GaussianMixtureParams:
    """Return a distribution of torch as a mixture.

    Parameters
    ----------
    distribution : MixtureSameFamily, MultivariateNormal, LowRankMultivariateNormal or Independent
        A mixture of Gaussians (multivariate, low-rank, independent ``Normal`` features or, in one
        dimension, ``Normal``), or one Gaussian; without batches.

    Returns
    -------
    GaussianMixtureParams
        The mixture, on the graph of the distribution: *diag* if the features are independent, else
        *full*; *spherical* where the features share one number in memory, and *tied* where the
        components share one matrix, as those of `to_torch` do.

    Raises
    ------
    TypeError
        If it is another distribution.
    ValueError
        If it has batches.

    See Also
    --------
    to_torch : The way back.
    """
    weights, components = _weights_and_components(distribution)
    if len(weights.shape) > 1 or components.batch_shape != weights.shape:
        raise ValueError(
            f"distribution must be one mixture, without batches, got batches of shape "
            f"{tuple(distribution.batch_shape)}. Take one of them."
        )
    if isinstance(components, MultivariateNormal | LowRankMultivariateNormal):
        means, covariances = components.mean, components.covariance_matrix
        if _repeats(covariances, 0):
            return GaussianMixtureParams(weights, means, covariances[:1], TIED)
        return GaussianMixtureParams(weights, means, covariances, FULL)
    if isinstance(components, Normal):  # of one dimension
        means, deviations = components.loc.unsqueeze(-1), components.scale.unsqueeze(-1)
    else:
        means, deviations = components.base_dist.loc, components.base_dist.scale
    if _repeats(deviations, 1):
        return GaussianMixtureParams(weights, means, deviations[:, :1].square(), SPHERICAL)
    return GaussianMixtureParams(weights, means, deviations.square(), DIAG)


def _weights_and_components(distribution: Distribution) -> tuple[Tensor, Distribution]:
    """The weights of a mixture or of one Gaussian, and its components."""
    components = distribution
    if isinstance(distribution, MixtureSameFamily):
        components = distribution.component_distribution
    if not _is_gaussian(components):
        raise TypeError(
            "distribution must be a MixtureSameFamily of MultivariateNormal, Independent(Normal, "
            f"1) or Normal, or one of these, got {_named(distribution)}. Give its weights, means "
            "and covariances to from_parameters."
        )
    if components is not distribution:
        return distribution.mixture_distribution.probs, components
    components = distribution.expand((1, *distribution.batch_shape))
    return components.mean.new_ones(1), components


def _is_gaussian(components: Distribution) -> bool:
    """Whether components are Gaussians of one or several dimensions."""
    if isinstance(components, Independent):
        one = components.reinterpreted_batch_ndims == 1
        return one and isinstance(components.base_dist, Normal)
    return isinstance(components, MultivariateNormal | LowRankMultivariateNormal | Normal)


def _repeats(tensor: Tensor, axis: int) -> bool:
    """Whether all slices along an axis are the same memory."""
    return tensor.shape[axis] > 1 and tensor.stride(axis) == 0


def _named(distribution) -> str:
    """What was given, in words."""
    name = type(distribution).__name__
    if isinstance(distribution, MixtureSameFamily):
        return f"{name} of {_named(distribution.component_distribution)}"
    if isinstance(distribution, Independent):
        ndims = distribution.reinterpreted_batch_ndims
        return f"{name}({_named(distribution.base_dist)}, {ndims})"
    return name
