"""Samples of Gaussian mixtures, independent or differentiable in the mixture."""

import torch
from torch import Tensor

from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.numerics.counts import positive_integer


def sample(
    mixture: GaussianMixtureParams, n_samples: int, *, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Draw independent samples from a mixture, in random order.

    Parameters
    ----------
    mixture : GaussianMixtureParams
        K components in d dimensions.
    n_samples : int
        Number of samples.
    generator : torch.Generator, default=None
        Source of random numbers, on the device of the mixture; None is torch's own.

    Returns
    -------
    X : Tensor of shape (n_samples, d)
        Samples ``m_k + L_k z``. Not differentiable.
    labels : Tensor of shape (n_samples,)
        Their components.

    Raises
    ------
    ValueError
        If ``n_samples`` is no positive integer.
    """
    n_samples = positive_integer("n_samples", n_samples)
    weights, means, covariances = mixture = mixture.detach().in_base()
    covariance_type, d = mixture.covariance_type, means.shape[1]
    labels = torch.multinomial(weights, n_samples, replacement=True, generator=generator)
    size = n_samples, covariance_type.n_normals(d)
    normal = torch.randn(*size, generator=generator, dtype=means.dtype, device=means.device)
    X = means[labels]
    each = covariance_type.colouring(covariances).expand(len(weights), *covariances.shape[1:])
    for k, colouring in enumerate(each.split(1)):
        chosen = labels == k
        X[chosen] += covariance_type.coloured(normal[chosen].unsqueeze(0), colouring).squeeze(0)
    return X, labels


def rsample(
    mixture: GaussianMixtureParams, n_samples: int, *, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Draw weighted samples that are differentiable in the mixture's parameters.

    Each component gets ``n_k`` samples in proportion to its weight (at least one), drawn as
    ``m_k + L_k z`` and weighted by ``a = w_k / n_k``. So ``sum_i a_i f(x_i)`` is an unbiased
    estimate of ``sum_k w_k E_k f``, and its derivatives are unbiased, too: in the means and
    covariances through the samples, in the weights through ``a``.

    Parameters
    ----------
    mixture : GaussianMixtureParams
        K components in d dimensions, of positive definite covariances.
    n_samples : int
        Number of samples, at least the number of components of positive weight.
    generator : torch.Generator, default=None
        Source of random numbers, on the device of the mixture; None is torch's own.

    Returns
    -------
    X : Tensor of shape (n_samples, d)
        Samples, component by component, differentiable in the means and covariances.
    sample_weight : Tensor of shape (n_samples,)
        Their weights ``a``, of sum one, differentiable in the weights.

    Raises
    ------
    ValueError
        If ``n_samples`` is no positive integer, or less than the number of components of positive
        weight, or a covariance is not positive definite.

    Notes
    -----
    The positions of the samples have no derivative in the weights. A gradient by moving mass along
    paths between distant components would have a large variance; that of ``a`` has none.
    """
    n_samples = positive_integer("n_samples", n_samples)
    mixture = mixture.in_base()
    covariance_type, covariances = mixture.covariance_type, mixture.covariances
    covariance_type.precision_factor(covariances.detach())  # raises where there is no derivative
    colouring = covariance_type.differentiable_colouring(covariances)
    return _by_component(mixture, colouring, n_samples, generator)


def matched_samples(
    mixture: GaussianMixtureParams, n_samples: int, *, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Draw weighted samples whose moments, component by component, are those of the mixture.

    Parameters
    ----------
    mixture : GaussianMixtureParams
        K components in d dimensions.
    n_samples : int
        Number of samples, at least the number of components of positive weight.
    generator : torch.Generator, default=None
        Source of random numbers, on the device of the mixture; None is torch's own.

    Returns
    -------
    X : Tensor of shape (n_samples, d)
        Samples, component by component. Not differentiable. The means of a component's samples are
        its own and, where these are more than its features, so are the covariances.
    sample_weight : Tensor of shape (n_samples,)
        Their weights, of sum one: those of each component have its weight.

    Raises
    ------
    ValueError
        If ``n_samples`` is no positive integer, or less than the number of components of positive
        weight.
    """
    n_samples = positive_integer("n_samples", n_samples)
    mixture = mixture.detach().in_base()
    colouring = mixture.covariance_type.colouring(mixture.covariances)
    return _by_component(mixture, colouring, n_samples, generator, _standardised)


def _by_component(mixture, colouring, n_samples, generator, adjusted=lambda normal: normal):
    """Samples ``m_k + L_k z``, component by component, and their weights."""
    weights, means, covariances = mixture
    covariance_type = mixture.covariance_type
    counts = _proportional_counts(weights.detach(), n_samples)
    size = n_samples, covariance_type.n_normals(means.shape[1])
    normal = torch.randn(*size, generator=generator, dtype=means.dtype, device=means.device)
    each = colouring.expand(len(weights), *covariances.shape[1:])
    parts = zip(means, map(adjusted, normal.split(counts)), each.split(1), strict=True)
    X = torch.cat([m + covariance_type.coloured(z.unsqueeze(0), L).squeeze(0) for m, z, L in parts])
    counts = torch.tensor(counts, device=means.device)
    return X, (weights / counts.clamp(min=1)).repeat_interleave(counts)


def _standardised(normal: Tensor) -> Tensor:
    """Normal numbers moved to mean zero and, if there are enough of them, covariance one."""
    n, d = normal.shape
    centred = normal - normal.mean(0) if n else normal
    if n > d:
        return n**0.5 * torch.linalg.qr(centred).Q
    return centred * (n / max(n - 1, 1)) ** 0.5


def _proportional_counts(weights: Tensor, n_samples: int) -> list[int]:
    """Counts in proportion to the weights, at least one each, by the largest remainder method."""
    positive = weights > 0
    if n_samples < int(positive.sum()):
        raise ValueError(
            f"n_samples must be at least the number of components, {int(positive.sum())}, got "
            f"{n_samples}. Draw more samples."
        )
    quotas = (weights / weights.sum() * n_samples).double()
    counts = torch.where(positive, quotas.floor().clamp(min=1), 0.0)
    missing = n_samples - int(counts.sum())
    for _ in range(abs(missing)):  # at most one for each component
        gap = quotas - counts
        if missing > 0:
            counts[gap.argmax()] += 1
        else:
            counts[gap.masked_fill(counts <= 1, torch.inf).argmin()] -= 1
    return counts.int().tolist()
