"""Densities and responsibilities of Gaussian mixtures, by their definition."""

import math

import torch
from torch import Tensor

from skgmmot.gaussian.mixture import GaussianMixtureParams, PreparedMixture
from skgmmot.numerics.exponentials import exponentials

#: Below this log-density, where distances are about 1e12 spreads, squares hide in their rounding
#: what sets components of equal covariances apart.
FAR = -(torch.finfo(torch.float64).eps ** -1.5)
#: The same by the dtype of the log-joint. In float32 it is where rounding errors reach one: what is
#: farther away is left to float64.
FAR_IN = {torch.float64: FAR, torch.float32: -1 / torch.finfo(torch.float32).eps}


def log_joint(mixture: PreparedMixture, X: Tensor) -> Tensor:
    """Return ``log w_k g_k(x_i)``.

    Parameters
    ----------
    mixture : PreparedMixture
        K components in d dimensions.
    X : Tensor of shape (n, d)
        Samples.

    Returns
    -------
    Tensor of shape (K, n)
        One row a component: reductions over components then run along contiguous rows.

    Notes
    -----
    Differentiable in everything. Costs ``O(n K d^2)`` (diagonal types ``O(n K d)``) and holds
    ``(K, n, d)``: call it on blocks of samples.
    """
    return mixture.log_joint(X)


def log_density(mixture: GaussianMixtureParams | PreparedMixture, X: Tensor) -> Tensor:
    """Return the log-density of a mixture, ``log sum_k w_k g_k(x_i)``.

    Parameters
    ----------
    mixture : GaussianMixtureParams or PreparedMixture
        K components in d dimensions.
    X : Tensor of shape (n, d)
        Samples.

    Returns
    -------
    Tensor of shape (n,)
        Log-densities; ``-inf`` where a sample is so far away that its square overflows.

    Raises
    ------
    ValueError
        If a covariance is not positive definite.
    """
    mixture = mixture.prepare()
    joint = log_joint(mixture, X)
    return mixture.log_normaliser(joint) + _of_zero_weights(mixture, X, joint)


def log_responsibilities(mixture: GaussianMixtureParams | PreparedMixture, X: Tensor) -> Tensor:
    """Return the log-posterior of the components, ``log w_k g_k(x_i) - log p(x_i)``.

    Parameters
    ----------
    mixture : GaussianMixtureParams or PreparedMixture
        K components in d dimensions.
    X : Tensor of shape (n, d)
        Samples.

    Returns
    -------
    Tensor of shape (K, n)
        Columns whose exponentials sum to one, also for samples so far away that their squares
        overflow: those belong to the component nearest in its own metric. With noise the rest is
        its share, and samples so far away are noise.

    Raises
    ------
    ValueError
        If a covariance is not positive definite.
    """
    mixture = mixture.prepare()
    joint = log_joint(mixture, X)
    overflowed = is_far(joint.detach())  # (n,)
    if not overflowed.any():
        return _log_posterior(mixture, joint) - _of_zero_weights(mixture, X, joint)
    # Far samples stay off the graph, for the derivative of an overflow is not a number: another
    # point takes their place on it.
    near = torch.where(overflowed.unsqueeze(1), mixture.means[0].detach(), X)
    joint = log_joint(mixture, near)
    log_resp = _log_posterior(mixture, joint) - _of_zero_weights(mixture, near, joint)
    one_hot = torch.zeros_like(log_resp)
    one_hot[:, overflowed] = nearest(mixture, X.detach()[overflowed])
    if mixture.noise is not None:
        nobody = torch.isfinite(mixture.noise.detach())
        one_hot = torch.where(nobody, -torch.inf, one_hot)
    return torch.where(overflowed, one_hot, log_resp)


def posterior(mixture: PreparedMixture, joint: Tensor) -> Tensor:
    """Return the posterior of the components from their log-joint.

    Parameters
    ----------
    mixture : PreparedMixture
        K components in d dimensions, perhaps with noise.
    joint : Tensor of shape (K, n)
        What `log_joint` gives.

    Returns
    -------
    Tensor of shape (K, n)
        ``w_k g_k(x_i) / p(x_i)``; with noise, columns of a sum below one.
    """
    if mixture.noise is None:
        return torch.softmax(joint, dim=0)
    return exponentials(joint - mixture.log_normaliser(joint))


def _log_posterior(mixture: PreparedMixture, joint: Tensor) -> Tensor:
    """The log-posterior of the components ``(K, n)`` from their log-joint."""
    if mixture.noise is None:
        return torch.log_softmax(joint, dim=0)
    return joint - mixture.log_normaliser(joint)


def is_far(joint: Tensor) -> Tensor:
    """Return which samples are too far away for their responsibilities to survive rounding.

    Parameters
    ----------
    joint : Tensor of shape (K, n)
        Their log-joint, perhaps without what all components share.

    Returns
    -------
    Tensor of shape (n,)
        True where all of it is below `FAR_IN` its dtype, or where a product overflowed.
    """
    return are_far(joint.amax(0))


def are_far(largest: Tensor) -> Tensor:
    """Return the same from the largest log-joint of each sample.

    Parameters
    ----------
    largest : Tensor of shape (n,)
        Its maximum over the components.

    Returns
    -------
    Tensor of shape (n,)
        True where it is below `FAR_IN` its dtype, or where a product overflowed.
    """
    return ~((largest > FAR_IN[largest.dtype]) & (largest < torch.inf))


def responsibilities(mixture: GaussianMixtureParams | PreparedMixture, X: Tensor) -> Tensor:
    """Return the posterior of the components, ``w_k g_k(x_i) / p(x_i)``.

    Parameters
    ----------
    mixture : GaussianMixtureParams or PreparedMixture
        K components in d dimensions.
    X : Tensor of shape (n, d)
        Samples.

    Returns
    -------
    Tensor of shape (K, n)
        The exponentials of `log_responsibilities`, zero where they are negligible. In a weight of
        zero they have the derivative that the logarithm has not, ``g_k / p``.

    Raises
    ------
    ValueError
        If a covariance is not positive definite.
    """
    mixture = mixture.prepare()
    resp = exponentials(log_responsibilities(mixture, X))
    if mixture.weights is None:
        return resp
    zero, share = _zero_shares(mixture, X, log_density(mixture, X))
    return resp.index_copy(0, zero, share)


def _of_zero_weights(mixture: PreparedMixture, X: Tensor, joint: Tensor) -> Tensor | float:
    """What components of weight zero add to the log-density: zeros with a derivative, or none."""
    if mixture.weights is None:
        return 0.0
    _, share = _zero_shares(mixture, X, mixture.log_normaliser(joint))
    return torch.log1p(share.sum(0))


def _zero_shares(mixture: PreparedMixture, X: Tensor, log_p: Tensor) -> tuple[Tensor, Tensor]:
    """Components of weight zero, and ``w_k g_k(x_i) / p(x_i)``: zeros that have derivatives."""
    zero = (mixture.weights == 0).nonzero().squeeze(1)
    w, factors, covariance_type = mixture.weights[zero], mixture.factors, mixture.covariance_type
    if not covariance_type.shared:
        factors = factors[zero]
    log_g = PreparedMixture(
        torch.zeros_like(w), mixture.means[zero], factors, covariance_type
    ).log_joint(X)
    # Where such a component has all the density its derivative is huge, but no infinity.
    largest = math.log(torch.finfo(X.dtype).max) / 2
    ratio = (log_g - log_p).nan_to_num(-torch.inf).clamp(max=largest).exp()
    return zero, w.unsqueeze(1) * ratio


def nearest(mixture: PreparedMixture, X: Tensor) -> Tensor:
    """One-hot log-responsibilities ``(K, n)`` of samples at infinity, as constants.

    Along ``x = s u`` the squared distances are ``s^2 |u P_k|^2 - 2 s <u P_k, m_k P_k> + ...``: the
    first term decides, and where it is equal (shared covariances) the second.

    Parameters
    ----------
    mixture : PreparedMixture
        K components.
    X : Tensor of shape (n, d)
        Samples.

    Returns
    -------
    Tensor of shape (K, n)
        0 for the nearest component, minus infinity for the others.
    """
    mixture = mixture.to()
    covariance_type = mixture.covariance_type
    X = X.to(mixture.factors.dtype)
    largest = mixture.factors.abs().max()
    factors = covariance_type.divided(mixture.factors, largest)  # so that no product overflows
    u = (X / X.abs().amax(1, keepdim=True)).expand(len(mixture.means), -1, -1)  # (K, n, d)
    white = covariance_type.apply(u, factors)
    first = white.square().sum(-1)
    second = (white * covariance_type.apply(mixture.means.unsqueeze(1), factors)).sum(-1)
    first = first.masked_fill(torch.isneginf(mixture.log_weights).unsqueeze(1), torch.inf)
    tied = first <= first.amin(0) * (1 + 8 * torch.finfo(X.dtype).eps)
    winner = second.masked_fill(~tied, -torch.inf).argmax(0, keepdim=True)
    return torch.full_like(first, -torch.inf).scatter_(0, winner, 0.0)
