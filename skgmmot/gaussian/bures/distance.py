r"""The Bures distance between covariances, for all or chosen pairs, with closed-form gradients.

.. math:: B(S_0, S_1)^2 = \operatorname{tr}\bigl(S_0 + S_1 - 2 (S_0^{1/2} S_1 S_0^{1/2})^{1/2}\bigr)

is the covariances' part of the squared Wasserstein distance between Gaussians. With factors
``S = L @ L.T`` and the singular values ``s`` of ``L0.T @ L1`` it is
``|L0|^2 + |L1|^2 - 2 sum(s)``. Its derivative in ``S0`` is ``I - A`` with the map ``A`` of
`linalg.bures_map`. This is exact also at equal eigenvalues, where differentiating an
eigendecomposition gives NaN.

The squares ``s^2`` are the eigenvalues of ``L0.T @ S1 @ L0``, which take two thirds of the time.
They are used where their rounding errors, magnified by ``1 / s``, are small. Pairs are computed in
blocks that fit a cache, and blocks are shared among threads.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from skgmmot.gaussian.bures.plane import NEARLY_EQUAL, bures_squared_in_the_plane
from skgmmot.numerics.linalg import compare_bits, factor, inverse_factor, symmetrize
from skgmmot.numerics.threads import map_items

#: Largest relative error of the sum of roots of eigenvalues; with more, singular values are used.
MAX_EIGENVALUE_ERROR = 1e-13
#: Range of traces in which squares of products neither overflow nor underflow.
SAFE_TRACES = 1e-100, 1e100
#: Number of entries of a block of matrices: one MiB in float64, to fit a cache.
BLOCK_SIZE = 2**17


class Factored(NamedTuple):
    """Covariances with their traces, factors and condition numbers."""

    traces: Tensor
    """``tr S (K,)``."""
    factors: Tensor
    """``L (K, d, d)`` of `factor`."""
    condition: Tensor
    """``|L| |L^{-1}| / d (K,)`` in Frobenius norms; infinite where the rank is deficient."""

    def take(self, index: Tensor | slice) -> "Factored":
        """The covariances of an index."""
        return Factored(*(t[index] for t in self))


def factored(covariances: Tensor) -> Factored:
    """Compute traces, factors and condition numbers of covariances, as constants.

    Parameters
    ----------
    covariances : Tensor of shape (K, d, d)
        Symmetric positive semi-definite matrices.

    Returns
    -------
    Factored
        Traces, factors and condition numbers.
    """
    traces = covariances.detach().diagonal(dim1=-2, dim2=-1).sum(-1)
    factors = factor(covariances)
    identity = torch.eye(factors.shape[-1], dtype=factors.dtype, device=factors.device)
    inverses = torch.linalg.solve_triangular(factors, identity.expand_as(factors), upper=False)
    condition = (traces * inverses.square().sum((-2, -1))).sqrt() / factors.shape[-1]
    return Factored(traces, factors, condition.masked_fill(_is_deficient(factors), torch.inf))


def _is_deficient(factors: Tensor) -> Tensor:
    """Whether each factor is a symmetric root, as `factor` returns for rank deficient matrices."""
    zeros = (factors.diagonal(dim1=-2, dim2=-1) == 0).any(-1)
    return zeros | (factors.triu(1) != 0).any(-1).any(-1)


def bures_squared(
    source: Tensor, target: Tensor, prepared: tuple[Factored, Factored] | None = None
) -> Tensor:
    r"""Return all pairwise squared Bures distances between covariances.

    .. math::

        B(S_0, S_1)^2 = \operatorname{tr}\bigl(S_0 + S_1 - 2 (S_0^{1/2} S_1 S_0^{1/2})^{1/2}\bigr)

    Parameters
    ----------
    source : Tensor of shape (K, d, d)
        Symmetric positive semi-definite matrices.
    target : Tensor of shape (L, d, d)
        Symmetric positive semi-definite matrices.
    prepared : tuple of two Factored, default=None
        What `factored` makes of ``source`` and ``target``, if it is known.

    Returns
    -------
    Tensor of shape (K, L)
        Squared distances, non-negative, and zero between equal matrices. Exchanging the arguments
        gives the transpose, bit by bit.

    Notes
    -----
    Differentiable once, in closed form: ``d B^2 / dS0 = I - A`` with ``A`` of `bures_map`. Where
    ``S0 = L @ L.T`` is rank deficient, ``A`` includes the terms ``(I - R) A R`` and its transpose,
    with the projection ``R`` on the range, so that derivatives in ``L`` are correct. Costs
    ``O(K L d^3)``, and a few megabytes of memory beyond the result.

    References
    ----------
    .. [1] Delon and Desolneux 2020, optimal transport between Gaussian distributions.
    """
    which = compare_bits([source], [target])
    if which > 0:
        return bures_squared(target, source, prepared and prepared[::-1]).mT
    squared = bures_squared_in_the_plane(source, target) if source.shape[-1] == 2 else None
    if squared is None:
        values = _all_pairs(source, target, prepared or (factored(source), factored(target)))
        squared = _BuresSquared.apply(source, target, None, None, values)
    return squared.triu(1) + squared.triu(1).mT if which == 0 else squared


def bures_squared_pairs(
    source: Tensor,
    target: Tensor,
    k: Tensor,
    l: Tensor,
    prepared: tuple[Factored, Factored] | None = None,
) -> Tensor:
    """Return the squared Bures distances of given pairs of covariances.

    Parameters
    ----------
    source : Tensor of shape (K, d, d)
        Symmetric positive semi-definite matrices.
    target : Tensor of shape (L, d, d)
        Symmetric positive semi-definite matrices.
    k, l : Tensor of shape (n,)
        Indices of the pairs.
    prepared : tuple of two Factored, default=None
        What `factored` makes of ``source`` and ``target``, if it is known.

    Returns
    -------
    Tensor of shape (n,)
        Squared distances; differentiable as `bures_squared`.
    """
    prepared = prepared or (factored(source), factored(target))
    values = _chosen_pairs(source, target, prepared, k, l)
    return _BuresSquared.apply(source, target, k, l, values)


def _all_pairs(source: Tensor, target: Tensor, prepared: tuple[Factored, Factored]) -> Tensor:
    """All squared Bures distances ``(K, L)``."""
    K, L = len(source), len(target)
    k = torch.arange(K, device=source.device).repeat_interleave(L)
    l = torch.arange(L, device=source.device).repeat(K)
    return _chosen_pairs(source, target, prepared, k, l).view(K, L)


def _chosen_pairs(
    source: Tensor, target: Tensor, prepared: tuple[Factored, Factored], k: Tensor, l: Tensor
) -> Tensor:
    """Squared Bures distances of pairs ``(n,)``, block by block."""
    source, target = source.detach(), target.detach()
    length = max(1, BLOCK_SIZE // source.shape[-1] ** 2)
    blocks = list(zip(k.split(length), l.split(length), strict=True))

    def distances(pairs):
        k, l = pairs
        sides = prepared[0].take(k), prepared[1].take(l)
        squared, near = _block_of_pairs(*sides)
        if len(near):
            factors = (side.factors[near] for side in sides)
            squared[near] = _without_cancellation(source[k[near]], target[l[near]], *factors)
        return squared

    return torch.cat(map_items(distances, blocks, k.device))


def _block_of_pairs(source: Factored, target: Factored) -> tuple[Tensor, Tensor]:
    """Squared Bures distances of pairs, and the indices of those that suffer from cancellation."""
    products = source.factors.mT @ target.factors  # (b, d, d)
    traces = source.traces + target.traces
    unit = _units(traces)
    if unit is None:
        squared = traces - 2 * _nuclear_norm(products, source, target)
    else:
        products = products / unit.view(-1, 1, 1)
        squared = traces - 2 * unit * _nuclear_norm(products, source, target)
    return squared, (squared < NEARLY_EQUAL * traces).nonzero().squeeze(1)


def _without_cancellation(source: Tensor, target: Tensor, L0: Tensor, L1: Tensor) -> Tensor:
    """Squared Bures distances ``min_Q |L0 - L1 Q|^2`` over rotations, without cancellation."""
    left, _, right = torch.linalg.svd(L1.mT @ L0)
    squared = (L0 - L1 @ (left @ right)).square().sum((-2, -1))
    equal = (source == target).flatten(1).all(1)  # their distance is zero to rounding
    return squared.masked_fill(equal, 0.0)


def _units(traces: Tensor) -> Tensor | None:
    """Powers of two of the size of the traces if these cannot be squared safely, else None."""
    if not traces.numel():
        return None
    low, high = torch.aminmax(traces)
    if SAFE_TRACES[0] <= low and high <= SAFE_TRACES[1]:
        return None
    return torch.exp2(torch.frexp(traces).exponent.to(traces))


def _nuclear_norm_in_the_plane(p: Tensor, q: Tensor, r: Tensor, t: Tensor) -> Tensor:
    """Sums of both singular values of matrices ``((p, q), (r, t))``, in closed form."""
    return torch.maximum(torch.hypot(p + t, q - r), torch.hypot(p - t, q + r))


def _nuclear_norm(products: Tensor, source: Factored, target: Factored) -> Tensor:
    """Sums of singular values of ``L0.T @ L1 (b, d, d)``, by the fastest accurate method."""
    if products.shape[-1] == 1:
        return products.abs().flatten()
    if products.shape[-1] == 2:
        return _nuclear_norm_in_the_plane(*products.flatten(-2).unbind(-1))
    # Errors of eigenvalues are eps of the largest, and of their roots, on average, eps * condition.
    condition = source.condition * target.condition
    regular = condition * torch.finfo(products.dtype).eps <= MAX_EIGENVALUE_ERROR
    if regular.all():
        return _root_trace(products)
    norms = torch.empty_like(condition)
    norms[regular] = _root_trace(products[regular])
    norms[~regular] = torch.linalg.svdvals(products[~regular]).sum(-1)
    return norms


def _root_trace(products: Tensor) -> Tensor:
    """``tr (A A^T)^{1/2}``, from eigenvalues."""
    return torch.linalg.eigvalsh(products @ products.mT).clamp(min=0).sqrt().sum(-1)


class _BuresSquared(torch.autograd.Function):
    """Squared Bures distances of pairs (of all, if ``k`` is None), with the gradient ``I - A``."""

    @staticmethod
    def forward(ctx, source: Tensor, target: Tensor, k: Tensor | None, l, values: Tensor):
        ctx.save_for_backward(source, target, k, l)
        return values

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, cotangent: Tensor):
        source, target, *pairs = ctx.saved_tensors
        active = cotangent.nonzero(as_tuple=True)  # a plan is sparse, so few pairs have a cotangent
        k, l = active if pairs[0] is None else (index[active] for index in pairs)
        share = cotangent[active]
        gradients = [
            torch.zeros_like(S) if needed else None
            for S, needed in zip((source, target), ctx.needs_input_grad, strict=False)
        ]
        if not len(k):
            return *gradients, None, None, None
        length = max(1, BLOCK_SIZE // source.shape[-1] ** 2)
        factors = [factor(S) for S in (source, target)]
        inverses = [inverse_factor(L) for L in factors]
        regular = [not _is_deficient(L).any() for L in factors]
        for *indices, weight in zip(*(t.split(length) for t in (k, l, share)), strict=True):
            left, singular, right = torch.linalg.svd(
                factors[0][indices[0]].mT @ factors[1][indices[1]]
            )
            scaled = (weight.unsqueeze(-1) * singular).unsqueeze(-2)
            vectors = left, right.mT
            for i, (gradient, index) in enumerate(zip(gradients, indices, strict=True)):
                if gradient is not None:
                    half = inverses[i][index].mT @ vectors[i]
                    maps = (half * scaled) @ half.mT
                    if not regular[i]:
                        images = factors[1 - i][indices[1 - i]] @ vectors[1 - i]
                        across = images @ half.mT  # the map from the range to all directions
                        across -= factors[i][index] @ (inverses[i][index] @ across)
                        maps += 2 * weight.view(-1, 1, 1) * across
                    _add_slopes(gradient, index, weight, maps)
        return *gradients, None, None, None


def _add_slopes(gradient: Tensor, index: Tensor, weight: Tensor, maps: Tensor) -> None:
    """Add ``weight I - maps`` to the gradients of an index."""
    gradient.index_add_(0, index, -symmetrize(maps))
    diagonal = gradient.diagonal(dim1=-2, dim2=-1)
    diagonal.index_add_(0, index, weight.unsqueeze(-1).expand(-1, maps.shape[-1]))
