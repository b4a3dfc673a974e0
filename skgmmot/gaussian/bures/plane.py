r"""The Bures distance between covariances of two features: values and gradients in closed form.

With Cholesky factors :math:`S = L L^T` and :math:`\delta = \sqrt{\det S}` the sum of the singular
values of :math:`L_0^T L_1` is

.. math::

    n = \operatorname{tr} (S_0^{1/2} S_1 S_0^{1/2})^{1/2}
      = \sqrt{\operatorname{tr} (S_0 S_1) + 2 \delta_0 \delta_1}
      = |(p + t, q - r)|
    \quad\text{for}\quad L_0^T L_1 = \begin{pmatrix} p & q \\ r & t \end{pmatrix},

and the optimal map from :math:`S_0` to :math:`S_1` is
:math:`A = (S_1 + \delta_1 \operatorname{adj}(S_0) / \delta_0) / n`.

Few pairs are computed by numpy: calls of torch would take longer than their arithmetic.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

#: Below this share of the traces, the distance is evaluated without cancellation.
NEARLY_EQUAL = 1e-3
#: Pairs up to which numpy is faster than torch, and pairs in a block of arrays that fit a cache.
FEW_PAIRS, BLOCK_SIZE = 2**12, 2**15

Array = Tensor | np.ndarray


class Triangles(NamedTuple):
    """The lower triangular factors of K matrices, by their entries ``(K,)``."""

    first: Array
    below: Array
    second: Array

    def take(self, index) -> "Triangles":
        """Those of an index."""
        return Triangles(*(t[index] for t in self))


def bures_squared_in_the_plane(source: Tensor, target: Tensor) -> Tensor | None:
    """Return all pairwise squared Bures distances, or None if a covariance is rank deficient.

    Parameters
    ----------
    source : Tensor of shape (K, 2, 2)
        Symmetric positive semi-definite matrices.
    target : Tensor of shape (L, 2, 2)
        Symmetric positive semi-definite matrices.

    Returns
    -------
    Tensor of shape (K, L) or None
        Squared distances, zero between equal matrices; differentiable once.
    """
    matrices = _arrays(source.shape[0] * target.shape[0], source.detach(), target.detach())
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        found = squared_and_slopes(_joined(matrices), len(source), torch.finfo(source.dtype).eps)
    if found is None:
        return None
    if torch.is_grad_enabled() and (source.requires_grad or target.requires_grad):
        return _InThePlane.apply(source, target, *found)
    return torch.as_tensor(found[0])


class _InThePlane(torch.autograd.Function):
    """Squared Bures distances of all pairs, with the gradient ``I - A``."""

    @staticmethod
    def forward(ctx, source: Tensor, target: Tensor, squared: Array, slopes: Callable):
        ctx.save_for_backward(source, target)
        ctx.slopes = slopes
        return torch.as_tensor(squared)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, cotangent: Tensor):
        _ = ctx.saved_tensors  # an error if they have changed since
        (weights,) = _arrays(cotangent.numel(), cotangent)
        gradients = ctx.slopes(weights, ctx.needs_input_grad[:2])
        return *(None if t is None else torch.as_tensor(t) for t in gradients), None, None


def squared_and_slopes(
    covariances: Array, n_sources: int, eps: float
) -> tuple[Array, Callable[..., list[Array | None]]] | None:
    """Return all pairwise squared Bures distances of constants, and what finds their gradients.

    Parameters
    ----------
    covariances : array or Tensor of shape (K + L, 2, 2)
        Symmetric matrices: those of the source, then those of the target.
    n_sources : int
        K.
    eps : float
        Relative precision of their entries.

    Returns
    -------
    squared : array or Tensor of shape (K, L)
        Squared distances, zero between equal matrices.
    slopes : callable
        ``slopes(weights, needed)`` returns the gradients of the sum of squared distances with
        weights ``(K, L)`` in both arguments, None where it is not ``needed``.

    Notes
    -----
    Returns None if a matrix is not positive definite, to rounding.
    """
    triangles = _triangles(covariances, 8 * eps)
    if triangles is None:
        return None
    sides = slice(n_sources), slice(n_sources, None)
    S0, S1 = (covariances[at] for at in sides)
    L0, L1 = (triangles.take(at) for at in sides)
    parts = _blocks(S0, S1, L0, L1)
    squared, norms = (_joined(part) for part in zip(*parts, strict=True))

    def slopes(weights, needed):
        sides = (S0, S1, L0, L1, weights, norms), (S1, S0, L1, L0, weights.T, norms.T)
        pairs = zip(sides, needed, strict=True)
        return [_slopes(*side) if wanted else None for side, wanted in pairs]

    return squared, slopes


def _arrays(n_pairs: int, *tensors: Tensor) -> list[Array]:
    """Constants on the CPU as numpy arrays, if there are few pairs."""
    few = n_pairs <= FEW_PAIRS and tensors[0].device.type == "cpu"
    return [t.numpy() if few else t for t in tensors]


def _triangles(covariances: Array, rounding: float) -> Triangles | None:
    """Cholesky factors, or None where what is left of a pivot is rounding."""
    variances, others, covariance = covariances[:, 0, 0], covariances[:, 1, 1], covariances[:, 1, 0]
    first = variances**0.5
    below = covariance / first
    pivots = others - below * below
    if not (pivots > rounding * others).all():  # as without a positive variance, where they are NaN
        return None
    return Triangles(first, below, pivots**0.5)


def _blocks(S0: Array, S1: Array, L0: Triangles, L1: Triangles) -> list[tuple[Array, Array]]:
    """Squared distances and sums ``n`` of singular values ``(rows, L)``, block by block."""
    length = max(1, BLOCK_SIZE // max(1, len(S1)))
    starts = range(0, max(1, len(S0)), length)
    rows = [slice(i, i + length) for i in starts]
    return [_block(S0[at], S1, L0.take(at), L1) for at in rows]


def _joined(parts: Sequence[Array]) -> Array:
    if len(parts) == 1:
        return parts[0]
    return (np.concatenate if isinstance(parts[0], np.ndarray) else torch.cat)(parts)


def _block(S0: Array, S1: Array, L0: Triangles, L1: Triangles) -> tuple[Array, Array]:
    """`_blocks` of one block."""
    a, b, c = (t[:, None] for t in L0)
    along = a * L1.first + b * L1.below + c * L1.second  # p + t
    across = b * L1.second - c * L1.below  # q - r
    norms = (np if isinstance(along, np.ndarray) else torch).hypot(along, across)
    traces = (S0[:, 0, 0] + S0[:, 1, 1])[:, None] + (S1[:, 0, 0] + S1[:, 1, 1])
    squared = traces - 2 * norms
    near = squared < NEARLY_EQUAL * traces
    if near.any():
        # min |L0 - L1 Q|^2 over rotations Q by an angle of this cosine and sine
        cos, sin = along / norms, across / norms
        exact = (a - L1.first * cos) ** 2 + (L1.first * sin) ** 2
        exact = exact + (b - L1.below * cos - L1.second * sin) ** 2
        exact = exact + (c + L1.below * sin - L1.second * cos) ** 2
        squared[near] = exact[near]
    return squared, norms


def _slopes(S0: Array, S1: Array, L0: Triangles, L1: Triangles, shares: Array, norms: Array):
    """``sum_l W_kl (I - A_kl)``: the gradient in ``S0`` of a weighted sum of squared distances."""
    sizes = [L.first + L.second for L in (L0, L1)]  # units, so that no product overflows
    scaled = shares / (norms / sizes[0][:, None] / sizes[1])
    slope = scaled @ (S1.reshape(-1, 4) / -sizes[1][:, None]) / sizes[0][:, None]  # (K, 4)
    weight = shares.sum(1)
    adjugate = (scaled @ (L1.first * L1.second / sizes[1])) / sizes[0]  # of S0 / delta0
    det_root = L0.first * L0.second
    slope[:, 0] += weight - adjugate * (S0[:, 1, 1] / det_root)
    slope[:, 3] += weight - adjugate * (S0[:, 0, 0] / det_root)
    slope[:, 1] += adjugate * (S0[:, 0, 1] / det_root)
    slope[:, 2] += adjugate * (S0[:, 1, 0] / det_root)
    return slope.reshape(-1, 2, 2)
