r"""Symmetric positive definite matrices: factors, square roots and optimal transport maps.

For covariances :math:`S_0, S_1` with factors :math:`S = L L^T`, the singular value decomposition
:math:`L_0^T L_1 = U \operatorname{diag}(s) V^T` gives both the squared Bures distance and the
optimal transport map between centred Gaussians:

.. math::

    \operatorname{tr}\bigl(S_0 + S_1 - 2 (S_0^{1/2} S_1 S_0^{1/2})^{1/2}\bigr)
        = |L_0|^2 + |L_1|^2 - 2 \sum_i s_i,
    \qquad A = L_0^{-T} U \operatorname{diag}(s) U^T L_0^{-1},

where ``A`` is the only symmetric positive matrix with ``A S0 A = S1``.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

Bits = Tensor | np.ndarray


class Rescaling(NamedTuple):
    """A translation and a change of unit, ``x -> (x - origin) / unit``, to numbers near one."""

    origin: Tensor
    """``(d,)``."""
    unit: float
    """A power of two, so that dividing by it does not round."""

    @classmethod
    def of(cls, X: Tensor, min_size: float = 0.0) -> "Rescaling":
        """Translate points ``(n, d)`` by their median and divide by the largest difference to it.

        The median of a feature is one of its values, so that differences to it are as exact as the
        values. Differences below ``min_size`` count as ``min_size``.
        """
        origin = X.detach().median(0).values
        size = max(float((X.detach() - origin).abs().max()), min_size)
        return cls(origin, power_of_two(size))

    def apply(self, X: Tensor) -> Tensor:
        """Points relative to the origin, in the unit."""
        return (X - self.origin.to(X)) / self.unit

    def invert(self, X: Tensor) -> Tensor:
        """The inverse of `apply`."""
        return self.unit * X + self.origin.to(X)


def power_of_two(size: float) -> float:
    """Return the largest power of two that is at most a size: dividing by it does not round.

    Parameters
    ----------
    size : float
        A size, not negative.

    Returns
    -------
    float
        The power; 1 for a size of zero.
    """
    return 2.0 ** (math.frexp(size)[1] - 1) if size > 0 else 1.0


def compare_bits(left: Iterable[Bits], right: Iterable[Bits]) -> int:
    """Compare sequences of tensors or arrays by the first pair that differs, by shape, then bits.

    A function of two arguments that puts them in this order is symmetric to the last bit.

    Parameters
    ----------
    left, right : iterable of Tensor or ndarray
        As many on each side, or one that is the start of the other.

    Returns
    -------
    int
        -1 or 1; 0 if all pairs are bitwise equal.
    """
    for one, other in zip(left, right, strict=False):
        if one is other:
            continue
        if one.shape != other.shape:
            return -1 if tuple(one.shape) < tuple(other.shape) else 1
        keys = [
            np.asarray(t.detach().cpu() if isinstance(t, Tensor) else t).tobytes()
            for t in (one, other)
        ]
        if keys[0] != keys[1]:
            return -1 if keys[0] < keys[1] else 1
    return 0


def norm(vector: Tensor) -> float:
    """Return the Euclidean norm of a tensor as a number.

    Parameters
    ----------
    vector : Tensor
        Of any shape.

    Returns
    -------
    float
        The root of the sum of squares of its entries.
    """
    return float(torch.linalg.vector_norm(vector))


def product(left: Tensor, right: Tensor) -> Tensor:
    """Return ``left @ right``, of two batches of one length by the call with the least overhead.

    Parameters
    ----------
    left : Tensor of shape (..., m, n)
        Matrices.
    right : Tensor of shape (..., n, p)
        Matrices.

    Returns
    -------
    Tensor of shape (..., m, p)
        Their products.
    """
    if left.ndim == right.ndim == 3 and len(left) == len(right):
        return torch.bmm(left, right)
    return left @ right


def symmetrize(matrices: Tensor) -> Tensor:
    """Return the symmetric part of a batch of matrices."""
    return (matrices + matrices.mT).div_(2)  # in place, to avoid a copy of a large matrix


def is_symmetric(matrices: Bits) -> bool:
    """Return whether matrices are symmetric, to the last bit.

    Parameters
    ----------
    matrices : Tensor or ndarray of shape (..., d, d)
        The matrices.

    Returns
    -------
    bool
        True if all are.
    """
    return bool((matrices == matrices.mT).all())


def rotation(matrices: Tensor) -> Tensor:
    """Return the orthogonal factors ``Q`` of ``Q @ S`` with ``S`` symmetric positive definite.

    Parameters
    ----------
    matrices : Tensor of shape (..., r, r)
        Invertible matrices.

    Returns
    -------
    Tensor of shape (..., r, r)
        The orthogonal matrices that are nearest to them. Differentiable once, also at equal
        singular values, where differentiating a singular value decomposition gives NaN.
    """
    return _Rotation.apply(matrices)


class _Rotation(torch.autograd.Function):
    """Orthogonal polar factors."""

    @staticmethod
    def forward(ctx, matrices):
        left, values, right = torch.linalg.svd(matrices)
        ctx.save_for_backward(left, values, right)
        return left @ right

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, cotangents):
        # dQ = A ((X - X^T) / (s_i + s_j)) B^T with X = A^T dM B, M = A diag(s) B^T
        left, values, right = ctx.saved_tensors
        inner = left.mT @ cotangents @ right.mT
        sums = values.unsqueeze(-1) + values.unsqueeze(-2)
        return left @ ((inner - inner.mT) / sums) @ right


def safe_sqrt(values: Tensor) -> Tensor:
    """Return square roots whose derivative at zero is zero instead of infinite.

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


def error_of_root(power: float, error: float, p: float = 2.0) -> float:
    """Return how far the p-th root of a number may be off.

    Parameters
    ----------
    power : float
        The number, non-negative.
    error : float
        How far it may be off; the true number is not negative either.
    p : float, default=2.0
        Exponent, at least 1.

    Returns
    -------
    float
        The largest change of the root.
    """
    if error == 0 or not math.isfinite(error):
        return error
    root = power ** (1 / p)
    if error >= power:
        return max(root, (power + error) ** (1 / p) - root)
    return -root * math.expm1(math.log1p(-error / power) / p)  # roots are concave


def errors_of_roots(squares: Tensor, errors: Tensor) -> Tensor:
    """Return `error_of_root` of each entry.

    Parameters
    ----------
    squares : Tensor
        Numbers that should not be negative; those below zero, by rounding, count as zero.
    errors : Tensor of the same shape
        How far they may be off.

    Returns
    -------
    Tensor of the same shape
        The largest changes of the roots, constants.
    """
    pairs = zip(squares.detach().flatten().tolist(), errors.flatten().tolist(), strict=True)
    found = [error_of_root(max(square, 0.0), error) for square, error in pairs]
    return errors.new_tensor(found).view(errors.shape)


def factor(covariances: Tensor) -> Tensor:
    """Return factors ``L`` of covariances ``L @ L.T``: Cholesky's, or symmetric square roots.

    Cholesky's factor keeps relative accuracy in ill-conditioned matrices. Where it fails, or a
    pivot is of the size of rounding (rank deficient matrices), the factor is the symmetric square
    root, with eigenvalues of the size of rounding set to zero.

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
    deficient = (failed > 0) | has_small_pivots(factors, covariances)
    if deficient.any():
        eigenvalues, vectors = torch.linalg.eigh(covariances[deficient])
        eigenvalues[eigenvalues <= _rounding(covariances) * eigenvalues[..., -1:]] = 0
        factors[deficient] = (vectors * eigenvalues.sqrt().unsqueeze(-2)) @ vectors.mT
    return factors


def has_small_pivots(factors: Bits, covariances: Bits) -> Bits:
    """Return where a pivot of Cholesky's factor is of the size of rounding.

    Parameters
    ----------
    factors : Tensor or ndarray of shape (..., d, d)
        Cholesky's factors.
    covariances : Tensor or ndarray of shape (..., d, d)
        The matrices.

    Returns
    -------
    Tensor or ndarray of bool of shape (...)
        True for matrices that are rank deficient, to rounding.
    """
    rounding = _rounding(covariances)
    pivots, variances = (t.diagonal(0, -2, -1) for t in (factors, covariances))
    return (pivots**2 <= rounding * variances).any(-1)


def _rounding(matrices: Bits) -> float:
    """What share of the largest is rounding, in factors of matrices."""
    library = torch if isinstance(matrices, Tensor) else np
    return 4 * matrices.shape[-1] * float(library.finfo(matrices.dtype).eps)


def schur_complement(block: Tensor, half: Tensor) -> Tensor:
    r"""Return ``S - H H^T``, positive semi-definite despite rounding.

    Parameters
    ----------
    block : Tensor of shape (..., d, d)
        Covariances ``S``.
    half : Tensor of shape (..., d, m)
        ``H``, with ``S - H H^T`` positive semi-definite but for rounding.

    Returns
    -------
    Tensor of shape (..., d, d)
        The differences. Eigenvalues of the size of the rounding errors of ``S`` are set to zero,
        in units of its deviations; the derivative is that of the difference.
    """
    difference = symmetrize(block - half @ half.mT)
    deviations = block.detach().diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()
    scale = torch.where(deviations > 0, deviations, 1.0)
    scale = scale.unsqueeze(-1) * scale.unsqueeze(-2)
    values, vectors = torch.linalg.eigh(difference.detach() / scale)
    rounding = 4 * sum(half.shape[-2:]) * torch.finfo(block.dtype).eps
    values = torch.where(values > rounding, values, 0.0)
    clean = symmetrize((vectors * values.unsqueeze(-2)) @ vectors.mT * scale)
    return difference + (clean - difference.detach())


def inverse_factor(factors: Tensor) -> Tensor:
    """Return the (pseudo-)inverses of a batch of factors made by `factor`."""
    regular = (factors.diagonal(dim1=-2, dim2=-1) > 0).all(-1)
    triangular = regular & (factors.triu(1) == 0).all(-1).all(-1)
    identity = torch.eye(factors.shape[-1], dtype=factors.dtype, device=factors.device)
    if triangular.all():
        return torch.linalg.solve_triangular(factors, identity.expand_as(factors), upper=False)
    inverses = torch.empty_like(factors)
    inverses[~triangular] = torch.linalg.pinv(factors[~triangular], hermitian=True)  # of roots
    inverses[triangular] = torch.linalg.solve_triangular(factors[triangular], identity, upper=False)
    return inverses


def bures_map(source: Tensor, target: Tensor) -> Tensor:
    r"""Return the matrices of the optimal transport maps between centred Gaussians, pair by pair.

    .. math:: A = S_0^{-1/2} (S_0^{1/2} S_1 S_0^{1/2})^{1/2} S_0^{-1/2}

    ``A`` is symmetric, with ``A S0 A = S1``.

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


def shrunk(covariances: Tensor, share: Tensor) -> Tensor:
    r"""Return covariances shrunk towards the multiple of the identity of the same trace.

    .. math:: (1 - s) S + s \frac{\operatorname{tr} S}{d} I

    Parameters
    ----------
    covariances : Tensor of shape (K, d, d)
        The covariances.
    share : Tensor of shape (K,)
        Shrinkage ``s``: 0 leaves them as they are, 1 makes them multiples of the identity.

    Returns
    -------
    Tensor of the shape of ``covariances``
        The shrunk covariances.
    """
    share = share[:, None, None]
    variance = covariances.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    identity = torch.eye(covariances.shape[1]).to(covariances)
    return (1 - share) * covariances + share * variance * identity


def oas_shrinkage(covariances: Tensor, n_samples: Tensor) -> Tensor:
    r"""Return the oracle approximating shrinkage (OAS) of sample covariances of normal data.

    .. math::

        \min\Bigl(1, \frac{\operatorname{tr}(S^2) + \operatorname{tr}(S)^2}
            {(n + 1) (\operatorname{tr}(S^2) - \operatorname{tr}(S)^2 / d)}\Bigr)

    Parameters
    ----------
    covariances : Tensor of shape (K, d, d)
        Sample covariances.
    n_samples : Tensor of shape (K,)
        Number of samples n that each was computed from.

    Returns
    -------
    Tensor of shape (K,)
        The shares for `shrunk`, in [0, 1].

    References
    ----------
    .. [1] Chen, Wiesel, Eldar and Hero 2010, equation 23, with 1 - 2/d and n + 1 - 2/d
       simplified to 1 and n + 1 as scikit-learn does.
    """
    trace = covariances.diagonal(dim1=1, dim2=2).sum(1)
    squares = (covariances / trace[:, None, None]).square().sum((1, 2))  # of those of trace 1
    excess = squares - 1 / covariances.shape[1]  # 0 for spheres
    share = (squares + 1) / ((n_samples + 1) * excess)
    return torch.where(excess > 0, share, 1.0).clamp(max=1)


def squared_distances(source: Tensor, target: Tensor) -> Tensor:
    """Return all pairwise squared Euclidean distances, without cancellation.

    Parameters
    ----------
    source : Tensor of shape (K, d)
        Points.
    target : Tensor of shape (L, d)
        Points.

    Returns
    -------
    Tensor of shape (K, L)
        ``|x_k - y_l|^2``, differentiable once.
    """
    return torch.cdist(source, target, compute_mode="donot_use_mm_for_euclid_dist").square()


class _Deviations(torch.autograd.Function):
    """Square roots of eigenvalues, descending; those of zero have a derivative of zero."""

    @staticmethod
    def forward(ctx, covariances: Tensor) -> Tensor:
        vectors, deviations, _ = torch.linalg.svd(factor(covariances))
        ctx.save_for_backward(vectors, deviations)
        return deviations

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, cotangent: Tensor) -> Tensor:
        vectors, deviations = ctx.saved_tensors
        slopes = torch.where(deviations > 0, cotangent / (2 * deviations), 0.0)
        return (vectors * slopes.unsqueeze(-2)) @ vectors.mT


def standard_deviations(covariances: Tensor) -> Tensor:
    """Return standard deviations along the principal axes of covariances.

    Parameters
    ----------
    covariances : Tensor of shape (K, d, d)
        Symmetric positive semi-definite matrices.

    Returns
    -------
    Tensor of shape (K, d)
        Square roots of the eigenvalues, descending; differentiable once, also at equal
        eigenvalues. The derivative of those that are zero is zero.
    """
    return _Deviations.apply(covariances)
