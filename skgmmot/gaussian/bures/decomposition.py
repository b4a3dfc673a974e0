r"""Decompositions of ``M = L0.T @ L1``, pair by pair: sums of singular values, and optimal maps.

With ``M = U diag(s) V^T`` the optimal maps between the covariances ``L0 @ L0.T`` and ``L1 @ L1.T``
are

.. math::

    A = L_0^{-T} U \operatorname{diag}(s) U^T L_0^{-1},
    \qquad A^{-1} = L_0 U \operatorname{diag}(1 / s) U^T L_0^T.

U and the squares of s are the eigenvectors and eigenvalues of ``M @ M.T``, which take half the time
of the singular values. They are used where their rounding errors, magnified by ``1 / s``, are
small.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from skgmmot.numerics.linalg import inverse_factor, symmetrize

Array = Tensor | np.ndarray

#: Largest relative error of roots of eigenvalues; with more, singular values are used.
MAX_EIGENVALUE_ERROR = 1e-13
#: Range of traces in which squares of products neither overflow nor underflow.
SAFE_TRACES = 1e-100, 1e100
#: Number of entries of a block of matrices: one MiB in float64, to fit a cache.
BLOCK_SIZE = 2**17


def block_length(n_features: int) -> int:
    """Return the number of pairs of covariances in a block that fits a cache.

    Parameters
    ----------
    n_features : int
        Their dimension d.

    Returns
    -------
    int
        The number, at least one.
    """
    return max(1, BLOCK_SIZE // n_features**2)


def is_deficient(factors: Tensor) -> Tensor:
    """Return which factors belong to covariances of deficient rank.

    Parameters
    ----------
    factors : Tensor of shape (K, d, d)
        What `skgmmot.numerics.linalg.factor` returns: symmetric roots of rank deficient matrices.

    Returns
    -------
    Tensor of bool of shape (K,)
        True for a symmetric root.
    """
    zeros = (factors.diagonal(dim1=-2, dim2=-1) == 0).any(-1)
    return zeros | (factors.triu(1) != 0).any(-1).any(-1)


def nuclear_norms(products: Tensor, traces: Tensor) -> Tensor:
    """Return the sums of the singular values of ``M = L0.T @ L1``, by the fastest accurate method.

    Parameters
    ----------
    products : Tensor of shape (b, m, n)
        Products of factors of covariances, with no more rows than columns.
    traces : Tensor of shape (b,)
        Sums of the traces of the two covariances.

    Returns
    -------
    Tensor of shape (b,)
        The sums.
    """
    unit = _units(traces)
    if unit is None:
        return _nuclear_norms(products)
    return unit * _nuclear_norms(products / unit.view(-1, 1, 1))


def deviations(covariances: Tensor, factors: Tensor) -> Tensor:
    """Return standard deviations of covariances along their axes, by the fastest accurate method.

    Parameters
    ----------
    covariances : Tensor of shape (K, d, d)
        The covariances.
    factors : Tensor of shape (K, d, d)
        Their factors.

    Returns
    -------
    Tensor of shape (K, d)
        The roots of the eigenvalues, descending; constants.
    """
    if torch.finfo(factors.dtype).eps <= MAX_EIGENVALUE_ERROR:
        roots, errors = _roots(torch.linalg.eigvalsh(covariances.detach()))
        if (errors.sum(-1) <= MAX_EIGENVALUE_ERROR * roots.sum(-1)).all():
            return roots.flip(-1)
    return torch.linalg.svdvals(factors)


def _units(traces: Tensor) -> Tensor | None:
    """Powers of two of the size of the traces if these cannot be squared safely, else None."""
    if not traces.numel():
        return None
    low, high = torch.aminmax(traces)
    if SAFE_TRACES[0] <= low and high <= SAFE_TRACES[1]:
        return None
    return torch.exp2(torch.frexp(traces).exponent.to(traces))


def _nuclear_norms(products: Tensor) -> Tensor:
    """The sums for products whose squares neither overflow nor underflow."""
    if products.shape[-2:] == (1, 1):
        return products.abs().flatten()
    if products.shape[-2:] == (2, 2):
        return _in_the_plane(*products.flatten(-2).unbind(-1))
    if torch.finfo(products.dtype).eps > MAX_EIGENVALUE_ERROR:
        return torch.linalg.svdvals(products).sum(-1)
    roots, errors = _roots(torch.linalg.eigvalsh(products @ products.mT))
    norms = roots.sum(-1)
    exact = errors.sum(-1) <= MAX_EIGENVALUE_ERROR * norms
    if not exact.all():
        norms[~exact] = torch.linalg.svdvals(products[~exact]).sum(-1)
    return norms


def _in_the_plane(p: Tensor, q: Tensor, r: Tensor, t: Tensor) -> Tensor:
    """Sums of both singular values of matrices ``((p, q), (r, t))``, in closed form."""
    return torch.maximum(torch.hypot(p + t, q - r), torch.hypot(p - t, q + r))


def roots_and_errors(eigenvalues: Array, eps: float) -> tuple[Array, Array]:
    """Return the roots of eigenvalues, and how far rounding may have moved them.

    Parameters
    ----------
    eigenvalues : Tensor or ndarray of shape (..., d)
        Ascending. What rounding does to each is in proportion to the largest.
    eps : float
        Their relative precision.

    Returns
    -------
    roots : Tensor or ndarray of shape (..., d)
        The roots; zero of what is negative.
    errors : Tensor or ndarray of shape (..., d)
        Their errors.
    """
    squares = eigenvalues.clip(0)
    roots = squares**0.5
    return roots, eps * squares[..., -1:] / roots


def _roots(eigenvalues: Tensor) -> tuple[Tensor, Tensor]:
    return roots_and_errors(eigenvalues, torch.finfo(eigenvalues.dtype).eps)


def add_slopes(
    gradients: tuple[Tensor | None, Tensor | None],
    factors: tuple[Tensor, Tensor],
    pairs: tuple[Tensor, Tensor],
    weights: Tensor,
) -> None:
    """Add the derivatives of a weighted sum of squared Bures distances, in the covariances.

    Parameters
    ----------
    gradients : tuple of two Tensor of shapes (K, d, d) and (L, d, d), or None
        What they are added to; None where they are not needed.
    factors : tuple of two Tensor of the same shapes
        Factors of the covariances.
    pairs : tuple of two Tensor of shape (n,)
        Indices ``k`` and ``l`` of the pairs of covariances.
    weights : Tensor of shape (n,)
        Their weights.

    Notes
    -----
    They are ``I - A``, with ``A`` as in `skgmmot.gaussian.bures.distance.bures_squared`.
    """
    for k, l, share in zip(
        *(t.split(block_length(factors[0].shape[-1])) for t in (*pairs, weights)), strict=True
    ):
        rest = ~_add_by_eigenvectors(gradients, factors, (k, l), share)
        if rest.any():
            _add_by_singular_vectors(gradients, factors, (k[rest], l[rest]), share[rest])


class Decomposition(NamedTuple):
    """``M @ M.T = U diag(s^2) U^T`` of b pairs of covariances."""

    vectors: Tensor
    """``U (b, m, m)``."""
    roots: Tensor
    """``s (b, m)``, ascending."""

    @property
    def exact(self) -> Tensor:
        """Which are accurate ``(b,)``; then no covariance is deficient."""
        ratios = self.roots[:, -1] / self.roots[:, 0]
        return torch.finfo(ratios.dtype).eps * ratios.square() <= MAX_EIGENVALUE_ERROR

    def take(self, index: Tensor) -> "Decomposition":
        """The pairs of an index."""
        return Decomposition(*(t[index] for t in self))

    def add_slopes(self, gradients, source: Tensor, pairs, weights: Tensor) -> None:
        """Add what `add_slopes` does for these pairs, with the factors ``(b, d, d)`` of sources."""
        if gradients[0] is not None:
            half = torch.linalg.solve_triangular(source.mT, self.vectors, upper=True)
            _add(gradients[0], pairs[0], weights, half * self.roots.sqrt().unsqueeze(-2))
        if gradients[1] is not None:
            half = source @ self.vectors
            _add(gradients[1], pairs[1], weights, half * self.roots.rsqrt().unsqueeze(-2))


def decompose(products: Tensor) -> Decomposition | None:
    """Decompose pairs of covariances by eigenvectors, or return None if numbers are extreme.

    Parameters
    ----------
    products : Tensor of shape (b, m, n)
        Products ``M = L0.T @ L1`` of factors of covariances, with no more rows than columns.

    Returns
    -------
    Decomposition or None
        The decomposition.
    """
    gram = products @ products.mT
    size = gram.diagonal(dim1=-2, dim2=-1).sum(-1).sqrt()
    safe = (SAFE_TRACES[0] <= size) & (size <= SAFE_TRACES[1])
    if not safe.all() or torch.finfo(gram.dtype).eps > MAX_EIGENVALUE_ERROR:
        return None
    eigenvalues, vectors = torch.linalg.eigh(gram)
    return Decomposition(vectors, _roots(eigenvalues)[0])


def _add_by_eigenvectors(gradients, factors, pairs, weights) -> Tensor:
    """`add_slopes` of the pairs of a block for which this is accurate; returns which these are."""
    L0, L1 = (L[index] for L, index in zip(factors, pairs, strict=True))
    found = decompose(L0.mT @ L1)
    if found is None:
        return torch.zeros_like(weights, dtype=torch.bool)
    exact = found.exact
    if not exact.all():
        found, L0, weights = found.take(exact), L0[exact], weights[exact]
        pairs = [index[exact] for index in pairs]
    found.add_slopes(gradients, L0, pairs, weights)
    return exact


def _add_by_singular_vectors(gradients, factors, pairs, weights) -> None:
    """`add_slopes` of the pairs of a block, which may be of deficient rank."""
    sides = [L[index] for L, index in zip(factors, pairs, strict=True)]
    left, roots, right = torch.linalg.svd(sides[0].mT @ sides[1])
    vectors = left, right.mT
    for i, gradient in enumerate(gradients):
        if gradient is not None:
            inverses = inverse_factor(sides[i])
            half = inverses.mT @ vectors[i]
            _add(gradient, pairs[i], weights, half * roots.sqrt().unsqueeze(-2))
            if is_deficient(sides[i]).any():
                across = sides[1 - i] @ vectors[1 - i] @ half.mT  # from the range to all directions
                across -= sides[i] @ (inverses @ across)
                gradient.index_add_(0, pairs[i], symmetrize(across) * (-2 * weights.view(-1, 1, 1)))


def _add(gradient, index, weights, half) -> None:
    """Add ``weights (I - half @ half.T)`` to the gradients of an index."""
    slopes = symmetrize(half @ half.mT) * (-weights.view(-1, 1, 1))
    slopes.diagonal(dim1=-2, dim2=-1).add_(weights.unsqueeze(-1))
    gradient.index_add_(0, index, slopes)
