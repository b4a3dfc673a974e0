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

import torch
from torch import Tensor

from skgmmot.numerics.linalg import inverse_factor, symmetrize

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


def nuclear_norms(source: Tensor, target: Tensor, traces: Tensor) -> Tensor:
    """Return the sums of the singular values of ``L0.T @ L1``, by the fastest accurate method.

    Parameters
    ----------
    source, target : Tensor of shape (b, d, d)
        Factors of covariances.
    traces : Tensor of shape (b,)
        Sums of the traces of the two covariances.

    Returns
    -------
    Tensor of shape (b,)
        The sums.
    """
    products, unit = source.mT @ target, _units(traces)
    if unit is None:
        return _nuclear_norms(products)
    return unit * _nuclear_norms(products / unit.view(-1, 1, 1))


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
    if products.shape[-1] == 1:
        return products.abs().flatten()
    if products.shape[-1] == 2:
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


def _roots(eigenvalues: Tensor) -> tuple[Tensor, Tensor]:
    """Roots of ascending eigenvalues ``(b, d)``, and their rounding errors.

    The error of an eigenvalue is that of the largest.
    """
    squares = eigenvalues.clamp(min=0)
    roots = squares.sqrt()
    return roots, torch.finfo(roots.dtype).eps * squares[..., -1:] / roots


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


def _add_by_eigenvectors(gradients, factors, pairs, weights) -> Tensor:
    """`add_slopes` of the pairs of a block for which this is accurate; returns which these are."""
    L0, L1 = (L[index] for L, index in zip(factors, pairs, strict=True))
    products = L0.mT @ L1
    gram = products @ products.mT
    size = gram.diagonal(dim1=-2, dim2=-1).sum(-1).sqrt()
    safe = (SAFE_TRACES[0] <= size) & (size <= SAFE_TRACES[1])
    if not safe.all() or torch.finfo(gram.dtype).eps > MAX_EIGENVALUE_ERROR:
        return torch.zeros_like(safe)
    eigenvalues, vectors = torch.linalg.eigh(gram)
    roots, errors = _roots(eigenvalues)
    exact = errors[:, 0] <= MAX_EIGENVALUE_ERROR * roots[:, 0]  # then no factor is deficient
    if not exact.all():
        L0, vectors, roots, weights = (t[exact] for t in (L0, vectors, roots, weights))
        pairs = [index[exact] for index in pairs]
    if gradients[0] is not None:
        half = torch.linalg.solve_triangular(L0.mT, vectors, upper=True)
        _add(gradients[0], pairs[0], weights, half * roots.unsqueeze(-2), half)
    if gradients[1] is not None:
        half = L0 @ vectors
        _add(gradients[1], pairs[1], weights, half / roots.unsqueeze(-2), half)
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
            _add(gradient, pairs[i], weights, half * roots.unsqueeze(-2), half)
            if is_deficient(sides[i]).any():
                across = sides[1 - i] @ vectors[1 - i] @ half.mT  # from the range to all directions
                across -= sides[i] @ (inverses @ across)
                gradient.index_add_(0, pairs[i], symmetrize(across) * (-2 * weights.view(-1, 1, 1)))


def _add(gradient, index, weights, left, right) -> None:
    """Add ``weights (I - left @ right.T)`` to the gradients of an index."""
    maps = (left * weights.view(-1, 1, 1)) @ right.mT
    gradient.index_add_(0, index, -symmetrize(maps))
    diagonal = gradient.diagonal(dim1=-2, dim2=-1)
    diagonal.index_add_(0, index, weights.unsqueeze(-1).expand(-1, maps.shape[-1]))
