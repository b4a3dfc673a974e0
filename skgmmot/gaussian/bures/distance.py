r"""The Bures distance between covariances, for all or chosen pairs, with closed-form gradients.

.. math:: B(S_0, S_1)^2 = \operatorname{tr}\bigl(S_0 + S_1 - 2 (S_0^{1/2} S_1 S_0^{1/2})^{1/2}\bigr)

is the covariances' part of the squared Wasserstein distance between Gaussians. With factors
``S = L @ L.T`` and the singular values ``s`` of ``L0.T @ L1`` it is
``|L0|^2 + |L1|^2 - 2 sum(s)``. Its derivative in ``S0`` is ``I - A`` with the map ``A`` of
`linalg.bures_map`. This is exact also at equal eigenvalues, where differentiating an
eigendecomposition gives NaN.

Pairs are computed in blocks that fit a cache, and blocks are shared among threads.

A factor may be any matrix with ``S = L @ L.T``, such as centred samples in columns. Of fewer
samples than features these take less time than covariances, which are singular, and do not square
their rounding.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from skgmmot.gaussian.bures.decomposition import (
    add_slopes,
    block_length,
    decompose,
    nuclear_norms,
)
from skgmmot.gaussian.bures.plane import NEARLY_EQUAL, bures_squared_in_the_plane
from skgmmot.numerics.linalg import compare_bits, factor, norm, power_of_two
from skgmmot.numerics.threads import map_items


class Factored(NamedTuple):
    """Covariances with their traces and factors."""

    traces: Tensor
    """``tr S (K,)``."""
    factors: Tensor
    """``L (K, d, d)`` of `factor`."""

    def take(self, index: Tensor | slice) -> "Factored":
        """The covariances of an index."""
        return Factored(*(t[index] for t in self))


def factored(covariances: Tensor) -> Factored:
    """Compute traces and factors of covariances, as constants.

    Parameters
    ----------
    covariances : Tensor of shape (K, d, d)
        Symmetric positive semi-definite matrices.

    Returns
    -------
    Factored
        Traces and factors.
    """
    traces = covariances.detach().diagonal(dim1=-2, dim2=-1).sum(-1)
    return Factored(traces, factor(covariances))


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
        prepared = prepared or (factored(source), factored(target))
        values = _all_pairs(source, target, prepared)
        squared = _BuresSquared.apply(source, target, None, None, values, prepared)
    return squared.triu(1) + squared.triu(1).mT if which == 0 else squared


def bures_squared_of_pairs(
    source: Tensor, target: Tensor, k: Tensor, l: Tensor, prepared: tuple[Factored, Factored]
) -> Tensor:
    """Return the squared Bures distances of given pairs of covariances, as constants.

    Parameters
    ----------
    source : Tensor of shape (K, d, d)
        Symmetric positive semi-definite matrices.
    target : Tensor of shape (L, d, d)
        Symmetric positive semi-definite matrices.
    k, l : Tensor of shape (n,)
        Indices of the pairs.
    prepared : tuple of two Factored
        What `factored` makes of ``source`` and ``target``.

    Returns
    -------
    Tensor of shape (n,)
        Squared distances, as `bures_squared`.
    """
    source, target = source.detach(), target.detach()

    def distances(pairs):
        k, l = pairs
        one, other = prepared[0].take(k), prepared[1].take(l)
        traces = one.traces + other.traces
        squared = traces - 2 * nuclear_norms(one.factors.mT @ other.factors, traces)
        near = (squared < NEARLY_EQUAL * traces).nonzero().squeeze(1)
        if len(near):
            factors = one.factors[near], other.factors[near]
            squared[near] = without_cancellation(source[k[near]], target[l[near]], *factors)
        return squared

    length = block_length(source.shape[-1])
    blocks = list(zip(k.split(length), l.split(length), strict=True))
    return torch.cat(map_items(distances, blocks, k.device))


def bures_tangent(
    source: Tensor, target: Tensor, k: Tensor, l: Tensor, prepared: tuple[Factored, Factored]
) -> Tensor:
    """Return zeros with the derivatives of the squared Bures distances of given pairs.

    Parameters
    ----------
    source : Tensor of shape (K, d, d)
        Symmetric positive semi-definite matrices.
    target : Tensor of shape (L, d, d)
        Symmetric positive semi-definite matrices.
    k, l : Tensor of shape (n,)
        Indices of the pairs.
    prepared : tuple of two Factored
        What `factored` makes of ``source`` and ``target``.

    Returns
    -------
    Tensor of shape (n,)
        Zeros, differentiable as `bures_squared`.
    """
    zeros = prepared[0].traces.new_zeros(len(k))
    return _BuresSquared.apply(source, target, k, l, zeros, prepared)


def _all_pairs(source: Tensor, target: Tensor, prepared: tuple[Factored, Factored]) -> Tensor:
    """All squared Bures distances ``(K, L)``."""
    K, L = len(source), len(target)
    k = torch.arange(K, device=source.device).repeat_interleave(L)
    l = torch.arange(L, device=source.device).repeat(K)
    return bures_squared_of_pairs(source, target, k, l, prepared).view(K, L)


def without_cancellation(source: Tensor, target: Tensor, L0: Tensor, L1: Tensor) -> Tensor:
    """Return squared Bures distances ``min_Q |L0 - L1 Q|^2`` over rotations, pair by pair.

    Parameters
    ----------
    source, target : Tensor of shape (b, d, d)
        Covariances that are nearly equal, so that differences of traces would cancel.
    L0, L1 : Tensor of shape (b, d, d)
        Their factors.

    Returns
    -------
    Tensor of shape (b,)
        The squared distances.
    """
    left, _, right = torch.linalg.svd(L1.mT @ L0)
    squared = (L0 - L1 @ (left @ right)).square().sum((-2, -1))
    equal = (source == target).flatten(1).all(1)  # their distance is zero to rounding
    return squared.masked_fill(equal, 0.0)


class _BuresSquared(torch.autograd.Function):
    """Squared Bures distances of pairs (of all, if ``k`` is None), with the gradient ``I - A``."""

    @staticmethod
    def forward(ctx, source: Tensor, target: Tensor, k: Tensor | None, l, values: Tensor, prepared):
        ctx.save_for_backward(k, l, *(side.factors for side in prepared))
        return values

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, cotangent: Tensor):
        *pairs, source, target = ctx.saved_tensors
        factors = source, target
        active = cotangent.nonzero(as_tuple=True)  # a plan is sparse, so few pairs have a cotangent
        weights = cotangent[active]
        if pairs[0] is not None:
            active = [index[active] for index in pairs]
        gradients = [
            torch.zeros_like(L) if needed else None
            for L, needed in zip(factors, ctx.needs_input_grad, strict=False)
        ]
        add_slopes(gradients, factors, active, weights)
        return *gradients, None, None, None, None


def bures_squared_of_roots(source: Tensor, target: Tensor) -> Tensor:
    r"""Return the squared Bures distance between covariances ``A^T A`` and ``B^T B``.

    .. math:: B^2 = |A|^2 + |B|^2 - 2 \sum_i s_i

    with the singular values :math:`s` of :math:`A B^T = U \operatorname{diag}(s) V^T`.

    Parameters
    ----------
    source : Tensor of shape (m, d)
        The matrix A, such as centred samples.
    target : Tensor of shape (n, d)
        The matrix B.

    Returns
    -------
    Tensor of shape ()
        The squared distance, non-negative, and zero between equal matrices. Exchanging the
        arguments changes no bit.

    Notes
    -----
    Differentiable once: the derivative in A is ``2 (A - U V^T B)``, over the singular values that
    are positive to rounding. With ``m <= n`` it costs ``O(m n (d + m))``.
    """
    which = compare_bits([source], [target])
    if which > 0:
        return bures_squared_of_roots(target, source)
    if which == 0 or not len(source):
        return (source - target).square().sum() if which == 0 else target.square().sum()
    unit = power_of_two(max(norm(source.detach()), norm(target.detach())))
    return _OfRoots.apply(source / unit, target / unit) * unit**2


class _OfRoots(torch.autograd.Function):
    """The squared distance by roots with no more rows than in the second, of sizes of one."""

    @staticmethod
    def forward(ctx, source: Tensor, target: Tensor):
        traces = source.square().sum() + target.square().sum()
        product = source @ target.mT
        squared = traces - 2 * nuclear_norms(product.unsqueeze(0), traces.unsqueeze(0)).squeeze(0)
        near = squared < NEARLY_EQUAL * traces
        if near or any(ctx.needs_input_grad):
            aligning = _polar_factor(product)
            ctx.save_for_backward(source, target, aligning)
        if near:  # without cancellation: what remains when one is turned onto the other
            turned = aligning @ target
            squared = (source - turned).square().sum()
            squared = squared + (target - aligning.mT @ turned).square().sum()
        return squared

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, cotangent: Tensor):
        source, target, aligning = ctx.saved_tensors
        scale = 2 * cotangent
        slopes = [None, None]
        if ctx.needs_input_grad[0]:
            slopes[0] = scale * (source - aligning @ target)
        if ctx.needs_input_grad[1]:
            slopes[1] = scale * (target - aligning.mT @ source)
        return tuple(slopes)


def _polar_factor(product: Tensor) -> Tensor:
    """``U V^T`` of ``M = U diag(s) V^T`` with no more rows than columns, over positive ``s``."""
    found = decompose(product.unsqueeze(0))
    if found is not None and found.exact:
        U, s = (t.squeeze(0) for t in found)
        return (U / s) @ (U.mT @ product)
    U, s, Vh = torch.linalg.svd(product, full_matrices=False)
    positive = s > max(product.shape) * torch.finfo(s.dtype).eps * s[0]
    return U[:, positive] @ Vh[positive]
