"""Components of a mixture halved and merged, to start fits of more or of fewer."""

import math

import torch
from torch import Tensor

from skgmmot.estimators.starts import assignments
from skgmmot.fitting.em.rows import EM
from skgmmot.gaussian.covariance.registry import FULL, CovarianceType
from skgmmot.gaussian.mixture import EMPTY, GaussianMixtureParams, select


def split(
    theta: GaussianMixtureParams, em: EM, covariance_type: CovarianceType, n_components: int
) -> GaussianMixtureParams:
    """Halve components of a mixture until there are so many.

    Parameters
    ----------
    theta : GaussianMixtureParams
        A mixture about the origin of the samples, fitted to them.
    em : EM
        The samples.
    covariance_type : CovarianceType
        The covariance type of all these mixtures.
    n_components : int
        How many components there shall be.

    Returns
    -------
    GaussianMixtureParams
        The mixture in which those components are halved, across their longest axis, whose samples
        their halves describe best.
    """
    while len(theta.weights) < n_components:
        theta = _halved(theta, em, covariance_type, n_components - len(theta.weights))
    return theta


def _halved(theta, em, covariance_type, n_new):
    """The mixture with at most so many of its components halved."""
    K, d = theta.means.shape
    # a covariance that all share says nothing of the halves
    own = FULL if covariance_type.shared else covariance_type
    halves = assignments.start(_halves(theta, em), em, own, 2 * K)
    gains = _gains(halves)
    chosen = gains.argsort(descending=True)[:n_new]
    kept = torch.ones(K, dtype=torch.bool, device=chosen.device)
    kept[chosen] = False
    new = select(halves, torch.cat([chosen, K + chosen]))
    weights = torch.cat([theta.weights[kept], new.weights])
    covariances = theta.covariances
    if not covariance_type.shared:
        covariances = torch.cat([covariances[kept], new.covariances])
    return GaussianMixtureParams(
        weights / weights.sum(),
        torch.cat([theta.means[kept], new.means]),
        covariances,
        covariance_type.reduced(K + len(chosen), d),
    )


def _halves(theta: GaussianMixtureParams, em: EM) -> assignments.Assignment:
    """Each component's responsibilities on one side of its mean, then all those on the other."""
    axes = torch.linalg.eigh(theta.full_covariances()).eigenvectors[..., -1]  # (K, d)
    step, heights = em.fastest(theta), (axes * theta.means).sum(1, keepdim=True)
    length = assignments.rows_at_once(em.X, 2 * len(axes))

    def blocks():
        for i in range(0, em.samples.n_samples, length):
            rows = slice(i, i + length)
            x, _ = em.rows(rows)
            resp, _ = step.responsibilities(em.samples[rows][0])
            above = axes @ x.mT > heights  # (K, b)
            yield rows, slice(None), torch.cat([resp * above, resp * ~above])

    return blocks


def _gains(halves: GaussianMixtureParams) -> Tensor:
    """What halving each component adds to the classification log-likelihood ``(K,)``."""
    K = len(halves.weights) // 2
    w, m = halves.weights.view(2, K), halves.means.view(2, K, -1)
    S = halves.full_covariances().view(2, K, *m.shape[2:], m.shape[2])
    gains = _lost(w, S, _whole(w, m, S)[1])
    return torch.where((w <= EMPTY).any(0) | gains.isnan(), -math.inf, gains)


def merge(
    theta: GaussianMixtureParams, covariance_type: CovarianceType, n_components: int
) -> GaussianMixtureParams:
    """Merge components of a mixture until there are so few.

    Parameters
    ----------
    theta : GaussianMixtureParams
        A mixture.
    covariance_type : CovarianceType
        The covariance type of all these mixtures.
    n_components : int
        How many components there shall be.

    Returns
    -------
    GaussianMixtureParams
        The mixture in which those pairs have become one Gaussian, of their mean and covariance,
        that lose the least classification log-likelihood.
    """
    while len(theta.weights) > n_components:
        theta = _merged(theta, covariance_type)
    return theta


def _merged(theta, covariance_type):
    """The mixture with one pair of components merged."""
    K, d = theta.means.shape
    pairs = torch.triu_indices(K, K, offset=1, device=theta.means.device)  # (2, P)
    w, m, S = theta.weights[pairs], theta.means[pairs], theta.full_covariances()[pairs]
    means, whole = _whole(w, m, S)
    storage = theta.covariances
    if not covariance_type.shared:
        diagonal = covariance_type.diagonal
        given = whole.diagonal(dim1=-2, dim2=-1) if diagonal else whole
        storage = covariance_type.nearest(given, w.sum(0))
        whole = covariance_type.to_full(storage, len(means), d)
    lost = _lost(w, S, whole)
    pair = int(torch.where(lost.isnan(), math.inf, lost).argmin())
    kept = torch.ones(K, dtype=torch.bool, device=w.device)
    kept[pairs[:, pair]] = False
    if not covariance_type.shared:
        storage = torch.cat([theta.covariances[kept], storage[pair : pair + 1]])
    return GaussianMixtureParams(
        torch.cat([theta.weights[kept], w[:, pair].sum(0, keepdim=True)]),
        torch.cat([theta.means[kept], means[pair : pair + 1]]),
        storage,
        covariance_type.reduced(K - 1, d),
    )


def _whole(w, m, S):
    """Means and covariances of pairs of Gaussians, from ``(2, P)``, ``(2, P, d)`` and matrices."""
    total = w.sum(0).clamp(min=torch.finfo(w.dtype).tiny)
    shares, difference = w / total, m[0] - m[1]
    means = (shares.unsqueeze(-1) * m).sum(0)
    between = shares.prod(0)[:, None, None] * difference.unsqueeze(-1) * difference.unsqueeze(-2)
    return means, (shares[..., None, None] * S).sum(0) + between


def _lost(w, S, whole):
    """The classification log-likelihood that pairs lose as wholes ``(P,)``."""
    # mass (log w - log det Sigma / 2), of both less that of the whole
    total = w.sum(0)
    apart = (torch.xlogy(w, w) - w * torch.logdet(S) / 2).sum(0)
    return apart - torch.xlogy(total, total) + total * torch.logdet(whole) / 2
