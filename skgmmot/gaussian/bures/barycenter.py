"""Wasserstein barycentres of Gaussians, by a fixed point iteration on factors of covariances.

Let ``S = L @ L.T``. The Bures distance is a distance of factors up to a rotation,
``B(S0, S1) = min_Q |L0 - L1 Q|``, attained at the polar factor ``Q`` of ``L1.T @ L0``. Geodesics
and barycentres are therefore means of *aligned* factors: ``(1 - t) L0 + t L1 Q`` between two, and
among several the fixed point of ``L = sum_j lambda_j L_j Q_j(L)``. No inverse is needed, so that
rank deficient matrices are allowed. Factors of diagonal covariances are standard deviations
``(..., d)``, which are aligned already; their mean is the barycentre.
"""

from typing import Literal, overload

import torch
from torch import Tensor

from skgmmot.gaussian.bures.barycenter_error import BarycenterError, barycenter_error
from skgmmot.gaussian.covariance.base import ElementaryType
from skgmmot.gaussian.covariance.registry import FULL, type_of_gaussians


def align(factors: Tensor, reference: Tensor) -> Tensor:
    """Rotate factors ``L`` of covariances to the factors ``L Q`` nearest to a reference.

    Parameters
    ----------
    factors : Tensor of shape (..., d, d)
        Factors ``L``.
    reference : Tensor of the same shape
        The reference factors.

    Returns
    -------
    Tensor of the same shape
        ``L Q`` with ``Q`` the polar factor of ``L.T @ reference``.

    Notes
    -----
    Not differentiable. Costs one singular value decomposition for each pair.
    """
    return FULL.align(factors, reference)


def euclidean_factors(
    factors: Tensor,
    component: Tensor,
    share: Tensor,
    n_components: int,
    covariance_type: ElementaryType,
) -> Tensor:
    """Return factors of weighted mean covariances, whose range contains that of each covariance.

    Parameters
    ----------
    factors : Tensor of shape (p, d, d) or (p, d)
        Factors of the Gaussians, matrices or deviations.
    component : Tensor of shape (p,)
        Index of the mean that each Gaussian belongs to.
    share : Tensor of shape (p,)
        Weights of the Gaussians, of sum one for each mean.
    n_components : int
        Number of means K.
    covariance_type : ElementaryType
        Full for matrices, diagonal for deviations.

    Returns
    -------
    Tensor of shape (K, d, d) or (K, d)
        Factors of ``sum_p share_p L_p L_p^T``. Not differentiable.
    """
    covariances = covariance_type.from_root(factors, 0.0)
    mean = covariances.new_zeros(n_components, *covariances.shape[1:])
    mean.index_add_(0, component, covariance_type.each(share) * covariances)
    return covariance_type.root(mean)


def barycenter_factors(
    start: Tensor,
    factors: Tensor,
    component: Tensor,
    share: Tensor,
    *,
    covariance_type: ElementaryType,
    project=None,
    tol: float = 1e-8,
    max_iter: int = 500,
) -> Tensor:
    r"""Return factors of several barycentres at once, each of its own Gaussians.

    .. math:: L_i = \sum_p \lambda_p L_p Q_p(L_i)

    over the Gaussians ``p`` of barycentre ``i``.

    Parameters
    ----------
    start : Tensor of shape (K, d, d) or (K, d)
        Factors to start from, or deviations.
    factors : Tensor of shape (p, d, d) or (p, d)
        Factors of the Gaussians.
    component : Tensor of shape (p,)
        Index ``i`` of the barycentre that each Gaussian belongs to.
    share : Tensor of shape (p,)
        Weights of the Gaussians, of sum one for each barycentre.
    covariance_type : ElementaryType
        Full for matrices, diagonal for deviations.
    project : callable, default=None
        Projection ``(K, d, d) -> (K, d, d)`` of factors on a linear set, to which the barycentres
        are restricted. None is no restriction.
    tol : float, default=1e-8
        The iteration stops when every factor changes by less than this, relatively.
    max_iter : int, default=500
        Largest number of iterations.

    Returns
    -------
    Tensor of shape (K, d, d) or (K, d)
        The factors. A barycentre without Gaussians keeps its start.

    Notes
    -----
    Not differentiable. Every iteration lowers the sum of squared distances: first over the
    rotations, then over the factors. It costs one singular value decomposition for each Gaussian.

    References
    ----------
    .. [1] Alvarez-Esteban, del Barrio, Cuesta-Albertos and Matran 2016, the fixed point.
    """
    share = covariance_type.each(share)
    empty = torch.ones(len(start), dtype=torch.bool, device=start.device)
    empty[component] = False
    L = start
    for _ in range(max_iter):
        aligned = share * covariance_type.align(factors, L[component])
        mean = torch.zeros_like(L).index_add_(0, component, aligned)
        mean[empty] = L[empty]
        mean = mean if project is None else project(mean)
        change = (mean - L).flatten(1).norm(dim=1)
        converged = (change <= tol * mean.flatten(1).norm(dim=1)).all()
        L = mean
        if converged:
            break
    return L


@overload
def gaussian_barycenter(
    means: Tensor,
    covariances: Tensor,
    weights: Tensor,
    *,
    tol: float = ...,
    max_iter: int = ...,
    return_error: Literal[False] = ...,
) -> tuple[Tensor, Tensor]: ...


@overload
def gaussian_barycenter(
    means: Tensor,
    covariances: Tensor,
    weights: Tensor,
    *,
    tol: float = ...,
    max_iter: int = ...,
    return_error: Literal[True],
) -> tuple[Tensor, Tensor, BarycenterError]: ...


def gaussian_barycenter(
    means: Tensor,
    covariances: Tensor,
    weights: Tensor,
    *,
    tol: float = 1e-8,
    max_iter: int = 500,
    return_error: bool = False,
) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, BarycenterError]:
    r"""Return the Wasserstein barycentre of Gaussians.

    .. math:: \min_g \sum_j \lambda_j W_2(g, g_j)^2

    Parameters
    ----------
    means : Tensor of shape (..., J, d)
        Means of the J Gaussians of each problem.
    covariances : Tensor of shape (..., J, d, d) or (..., J, d)
        Their covariances, which may be singular, or variances of diagonal covariances.
    weights : Tensor of shape (..., J) or (J,)
        Non-negative weights of sum one.
    tol : float, default=1e-8
        The iteration stops when every factor changes by less than this, relatively.
    max_iter : int, default=500
        Largest number of iterations.
    return_error : bool, default=False
        Whether to return bounds of the errors, too.

    Returns
    -------
    mean : Tensor of shape (..., d)
        ``sum_j weights_j m_j``.
    covariance : Tensor of shape (..., d, d) or (..., d)
        The fixed point of ``S = sum_j weights_j (S^{1/2} S_j S^{1/2})^{1/2}``; for variances the
        square of the mean deviation.
    error : BarycenterError
        Only with ``return_error``: its ``distance`` bounds the distance W2 to the true barycentre,
        and its ``gap`` how much less the objective of any distribution may be; each ``(...)``, in
        float64. Sharp to a factor of about two between covariances that are not singular.

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
    covariance_type = type_of_gaussians(covariances, means)
    storage = covariances.shape[len(batch) + 1 :]
    factors = covariance_type.root(covariances).reshape(-1, *storage)
    component = torch.arange(len(factors), device=means.device) // J
    shares = weights.reshape(-1)
    n_problems = len(factors) // J
    # From any point of the geodesic between two Gaussians one iteration is exact.
    start = factors[::2]
    if J != 2:
        start = euclidean_factors(factors, component, shares, n_problems, covariance_type)
    L = barycenter_factors(
        start,
        factors,
        component,
        shares,
        covariance_type=covariance_type,
        tol=tol,
        max_iter=max_iter,
    )
    covariance = covariance_type.from_root(L, 0.0).reshape(*batch, *storage)
    if not return_error:
        return mean, covariance
    return mean, covariance, barycenter_error(covariance, means, covariances, weights)
