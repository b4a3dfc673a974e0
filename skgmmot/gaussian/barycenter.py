"""Barycentres of Gaussians: between two of them the geodesic, among several a fixed point.

Let ``S = L @ L.T``. The Bures distance is a distance of factors up to a rotation,
``B(S0, S1) = min_Q |L0 - L1 Q|``, attained at the polar factor ``Q`` of ``L1.T @ L0``. Geodesics
and barycentres are therefore means of *aligned* factors: ``(1 - t) L0 + t L1 Q`` between two, and
among several the fixed point of ``L = sum_j lambda_j L_j Q_j(L)``. No inverse is taken, so that
matrices of deficient rank are as good as any. Deviations ``(..., d)`` are factors of diagonal
covariances: they are aligned as they are, and one mean is the barycentre.
"""

import torch
from torch import Tensor

from skgmmot.numerics.linalg import factor, symmetrize


def align(factors: Tensor, reference: Tensor) -> Tensor:
    """Return the factors ``L Q`` of the same covariances that are nearest to others.

    Parameters
    ----------
    factors : Tensor of shape (..., d, d) or (p, d)
        Factors ``L``; with two axes, deviations.
    reference : Tensor of the same shape
        What they should be near to.

    Returns
    -------
    Tensor of the same shape
        ``L Q`` with ``Q`` the polar factor of ``L.T @ reference``: deviations as they are.

    Notes
    -----
    Not differentiable. Costs one singular value decomposition a pair.
    """
    if factors.ndim == 2:
        return factors
    left, _, right = torch.linalg.svd(factors.mT @ reference)
    return factors @ (left @ right)


def euclidean_factors(
    factors: Tensor, component: Tensor, share: Tensor, n_components: int
) -> Tensor:
    """Return factors of mean covariances: where to start, for their range holds all others.

    Parameters
    ----------
    factors : Tensor of shape (p, d, d) or (p, d)
        Factors of the Gaussians, one a pair; with two axes, deviations.
    component : Tensor of shape (p,)
        The mean that each pair counts for.
    share : Tensor of shape (p,)
        The pairs' weights, of sum one over the pairs of a mean.
    n_components : int
        How many means K.

    Returns
    -------
    Tensor of shape (K, d, d) or (K, d)
        Factors of ``sum_p share_p L_p L_p^T``. Not differentiable.
    """
    matrices = factors.ndim == 3
    share = share.view(-1, *[1] * (factors.ndim - 1))
    covariances = factors @ factors.mT if matrices else factors.square()
    mean = covariances.new_zeros(n_components, *covariances.shape[1:])
    mean.index_add_(0, component, share * covariances)
    return factor(mean) if matrices else mean.sqrt()


def barycenter_factors(
    start: Tensor,
    factors: Tensor,
    component: Tensor,
    share: Tensor,
    *,
    project=None,
    tol: float = 1e-8,
    max_iter: int = 500,
) -> Tensor:
    """Return the factors of many barycentres at once, each of its own Gaussians.

    ``L_i = sum_p share_p L_p Q_p(L_i)`` over the pairs ``p`` of barycentre ``i``.

    Parameters
    ----------
    start : Tensor of shape (K, d, d) or (K, d)
        Factors to start from, or deviations.
    factors : Tensor of shape (p, d, d) or (p, d)
        Factors of the Gaussians, one a pair.
    component : Tensor of shape (p,)
        The barycentre ``i`` that each pair counts for.
    share : Tensor of shape (p,)
        The pairs' weights, of sum one over the pairs of a barycentre.
    project : callable, default=None
        The nearest factors of a kind, ``(K, d, d) -> (K, d, d)``: restricts the barycentres to
        a linear set of factors. None restricts nothing.
    tol : float, default=1e-8
        The iteration stops when every factor changes by less than this, relatively.
    max_iter : int, default=500
        Largest number of iterations.

    Returns
    -------
    Tensor of shape (K, d, d) or (K, d)
        The factors. A barycentre without pairs keeps its start.

    Notes
    -----
    Not differentiable. Every iteration lowers the sum of squared distances: first over the
    rotations, then over the factors. It costs one singular value decomposition a pair.

    References
    ----------
    .. [1] Alvarez-Esteban, del Barrio, Cuesta-Albertos and Matran 2016, the fixed point.
    """
    share = share.view(-1, *[1] * (factors.ndim - 1))
    empty = torch.ones(len(start), dtype=torch.bool, device=start.device)
    empty[component] = False
    L = start
    for _ in range(max_iter):
        mean = torch.zeros_like(L).index_add_(0, component, share * align(factors, L[component]))
        mean[empty] = L[empty]
        mean = mean if project is None else project(mean)
        change = (mean - L).flatten(1).norm(dim=1)
        settled = (change <= tol * mean.flatten(1).norm(dim=1)).all()
        L = mean
        if settled:
            break
    return L


def gaussian_barycenter(
    means: Tensor,
    covariances: Tensor,
    weights: Tensor,
    *,
    tol: float = 1e-8,
    max_iter: int = 500,
) -> tuple[Tensor, Tensor]:
    """Return the Wasserstein barycentre of Gaussians: ``min_g sum_j weights_j W2(g, g_j)^2``.

    Parameters
    ----------
    means : Tensor of shape (..., J, d)
        Means of the J Gaussians of each problem.
    covariances : Tensor of shape (..., J, d, d) or (..., J, d)
        Their covariances, which may be singular, or variances where there is no correlation.
    weights : Tensor of shape (..., J) or (J,)
        Non-negative weights of sum one.
    tol : float, default=1e-8
        The iteration stops when every factor changes by less than this, relatively.
    max_iter : int, default=500
        Largest number of iterations.

    Returns
    -------
    mean : Tensor of shape (..., d)
        ``sum_j weights_j m_j``.
    covariance : Tensor of shape (..., d, d) or (..., d)
        The fixed point of ``S = sum_j weights_j (S^{1/2} S_j S^{1/2})^{1/2}``; for variances the
        square of the mean deviation.

    Notes
    -----
    Not differentiable. Two Gaussians need one iteration, several of moderate condition about ten,
    each ``O(J d^3)``; variances need none.

    References
    ----------
    .. [1] Alvarez-Esteban, del Barrio, Cuesta-Albertos and Matran 2016, the fixed point.
    """
    weights = weights.expand(means.shape[:-1])
    mean = (weights.unsqueeze(-1) * means).sum(-2)
    *batch, J, _ = means.shape
    matrices = covariances.ndim > means.ndim
    storage = covariances.shape[len(batch) + 1 :]
    factors = (factor(covariances) if matrices else covariances.sqrt()).reshape(-1, *storage)
    component = torch.arange(len(factors), device=means.device) // J
    shares = weights.reshape(-1)
    n_problems = len(factors) // J
    # From any point of the geodesic between two Gaussians one iteration is exact.
    start = factors[::2] if J == 2 else euclidean_factors(factors, component, shares, n_problems)
    L = barycenter_factors(start, factors, component, shares, tol=tol, max_iter=max_iter)
    covariance = symmetrize(L @ L.mT) if matrices else L.square()
    return mean, covariance.reshape(*batch, *storage)
