"""Symmetric positive definite matrices: factors, the Bures term and its closed-form gradient.

For covariances ``S0, S1`` with factors ``S = L @ L.T``, the singular value decomposition
``L0.T @ L1 = U diag(s) V.T`` gives everything optimal transport asks of a pair of Gaussians:

- the Bures term ``tr(S0 + S1 - 2 (S0^{1/2} S1 S0^{1/2})^{1/2}) = |L0|^2 + |L1|^2 - 2 sum(s)``,
- the optimal linear map ``A = L0^{-T} U diag(s) U.T L0^{-1}``, the only symmetric positive ``A``
  with ``A S0 A = S1``,
- the gradient ``d/dS0 = I - A``, exact also at equal eigenvalues, where differentiating an
  eigendecomposition gives NaN.
"""

import torch
from torch import Tensor

#: Below this share of the traces, the Bures term is evaluated without cancellation.
NEARLY_EQUAL = 1e-3


def symmetrize(matrices: Tensor) -> Tensor:
    """Return the symmetric part of a batch of matrices."""
    return (matrices + matrices.mT) / 2


def root(values: Tensor) -> Tensor:
    """Return square roots that have a derivative of zero at zero.

    Parameters
    ----------
    values : Tensor
        Numbers that should not be negative; those below zero, by rounding, count as zero.

    Returns
    -------
    Tensor
        Their roots, in the same shape.
    """
    positive = values > 0
    return torch.where(positive, torch.where(positive, values, 1.0).sqrt(), 0.0)


def factor(covariances: Tensor) -> Tensor:
    """Return ``L`` with ``L @ L.T = covariances``: Cholesky's, or the symmetric square root.

    Cholesky's factor keeps relative accuracy in ill-conditioned matrices; where it fails, or a
    pivot is only rounding (rank deficient matrices), the symmetric square root stands in, with
    eigenvalues that are only rounding set to zero.

    Parameters
    ----------
    covariances : Tensor of shape (..., d, d)
        Symmetric positive semi-definite matrices.

    Returns
    -------
    Tensor of shape (..., d, d)
        The factors. Not differentiable; the functions built on it carry their own gradients.
    """
    covariances = covariances.detach()
    factors, failed = torch.linalg.cholesky_ex(covariances)
    rounding = 4 * covariances.shape[-1] * torch.finfo(covariances.dtype).eps
    pivots, variances = (t.diagonal(dim1=-2, dim2=-1) for t in (factors, covariances))
    deficient = (failed > 0) | (pivots.square() <= rounding * variances).any(-1)
    if deficient.any():
        eigenvalues, vectors = torch.linalg.eigh(covariances[deficient])
        eigenvalues[eigenvalues <= rounding * eigenvalues[..., -1:]] = 0
        factors[deficient] = (vectors * eigenvalues.sqrt().unsqueeze(-2)) @ vectors.mT
    return factors


def inverse_factor(factors: Tensor) -> Tensor:
    """Return the (pseudo-)inverses of a batch of factors made by `factor`."""
    regular = (factors.diagonal(dim1=-2, dim2=-1) > 0).all(-1)
    triangular = regular & (factors.triu(1) == 0).all(-1).all(-1)
    identity = torch.eye(factors.shape[-1], dtype=factors.dtype, device=factors.device)
    if triangular.all():
        return torch.linalg.solve_triangular(factors, identity.expand_as(factors), upper=False)
    inverses = torch.linalg.pinv(factors)
    inverses[triangular] = torch.linalg.solve_triangular(factors[triangular], identity, upper=False)
    return inverses


def bures_map(source: Tensor, target: Tensor) -> Tensor:
    """Return the optimal linear maps between centred Gaussians, pair by pair.

    ``A = S0^{-1/2} (S0^{1/2} S1 S0^{1/2})^{1/2} S0^{-1/2}``, symmetric, with ``A S0 A = S1``.

    Parameters
    ----------
    source, target : Tensor of shape (..., d, d)
        Covariances ``S0`` and ``S1``, broadcast against each other.

    Returns
    -------
    Tensor of shape (..., d, d)
        The maps. Where ``S0`` is rank deficient, the map of its range (its pseudo-inverse).

    Notes
    -----
    Not differentiable. Costs one singular value decomposition a pair.

    References
    ----------
    .. [1] Delon and Desolneux 2020, optimal transport between Gaussian distributions.
    """
    factors = factor(source)
    left, singular, _ = torch.linalg.svd(factors.mT @ factor(target))
    half = inverse_factor(factors).mT @ left  # (..., d, d)
    return symmetrize((half * singular.unsqueeze(-2)) @ half.mT)


class _BuresSquared(torch.autograd.Function):
    """All pairwise squared Bures distances, with the gradient ``I - A`` of each pair."""

    @staticmethod
    def forward(ctx, source: Tensor, target: Tensor) -> Tensor:
        ctx.save_for_backward(source, target)
        return _pairwise_bures(factor(source), factor(target))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, cotangent: Tensor):
        source, target = ctx.saved_tensors
        k, l = torch.nonzero(cotangent, as_tuple=True)  # a plan is sparse: few pairs matter
        share = cotangent[k, l].unsqueeze(-1).unsqueeze(-1)
        identity = torch.eye(source.shape[-1], dtype=source.dtype, device=source.device)
        gradients = [None, None]
        for side, (here, there, index) in enumerate(
            [(source[k], target[l], k), (target[l], source[k], l)]
        ):
            if ctx.needs_input_grad[side]:
                whole = torch.zeros_like(source if side == 0 else target)
                gradients[side] = whole.index_add_(
                    0, index, share * (identity - bures_map(here, there))
                )
        return tuple(gradients)


def _pairwise_bures(source: Tensor, target: Tensor) -> Tensor:
    """Squared Bures distances ``(K, L)`` from factors, without cancellation near zero."""
    products = source.mT.unsqueeze(1) @ target  # (K, L, d, d)
    traces = (source**2).sum((-2, -1)).unsqueeze(1) + (target**2).sum((-2, -1))  # (K, L)
    squared = traces - 2 * torch.linalg.svdvals(products).sum(-1)
    k, l = torch.nonzero(squared < NEARLY_EQUAL * traces, as_tuple=True)
    if len(k):
        # |L0 - L1 Q|^2 with the best rotation Q: the same number, each digit of it significant.
        left, _, right = torch.linalg.svd(products[k, l].mT)
        squared[k, l] = ((source[k] - target[l] @ (left @ right)) ** 2).sum((-2, -1))
    return squared.clamp(min=0)


def bures_squared(source: Tensor, target: Tensor) -> Tensor:
    """Return all pairwise squared Bures distances between covariances.

    ``B(S0, S1)^2 = tr(S0 + S1 - 2 (S0^{1/2} S1 S0^{1/2})^{1/2})``

    Parameters
    ----------
    source : Tensor of shape (K, d, d)
        Symmetric positive semi-definite matrices.
    target : Tensor of shape (L, d, d)
        Symmetric positive semi-definite matrices.

    Returns
    -------
    Tensor of shape (K, L)
        Squared distances, never negative; zero to rounding on equal matrices.

    Notes
    -----
    Differentiable once, in closed form: ``d B^2 / dS0 = I - A`` with ``A`` of `bures_map`.
    Costs ``O(K L d^3)``.

    References
    ----------
    .. [1] Delon and Desolneux 2020, optimal transport between Gaussian distributions.
    """
    return _BuresSquared.apply(source, target)
