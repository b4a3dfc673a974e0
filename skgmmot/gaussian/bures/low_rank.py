r"""The Bures distance and the optimal map between covariances ``F F^T + diag(psi)``.

With the nodes and weights of a quadrature of the square root,
:math:`x^{1/2} \approx \sum_j c_j \, x / (x + \tau_j)`, the optimal map from ``S0`` to ``S1`` is

.. math::

    A = S_0^{-1} (S_0 S_1)^{1/2} = \sum_j c_j (S_0 + \tau_j S_1^{-1})^{-1}.

Each term is, by Woodbury's identity, a diagonal matrix less one of rank ``r0 + r1``. The diagonal
matrices sum up to ``diag(psi1 / psi0)^{1/2}`` exactly. Nothing here has ``d x d`` numbers.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from skgmmot.numerics.threads import map_items

#: Relative error of the quadrature.
QUADRATURE_ERROR = 1e-15
#: Matrices are faster up to so many features, or so many for each factor.
MAX_DENSE_FEATURES, MAX_DENSE_SHARE = 100, 4
#: Numbers in the tensors of some nodes at a time: 16 MiB in float64.
NODES_AT_ONCE = 2**21
#: Part of a map's correction that is left out where it is stored.
COMPRESSION = 1e-15

Factors = tuple[Tensor, Tensor]


def root_quadrature(low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    r"""Return nodes and weights of a rational approximation of the square root.

    .. math::

        x^{1/2} \approx \sum_j c_j \frac{x}{x + \tau_j},
        \qquad \text{low} \le x \le \text{high}

    Parameters
    ----------
    low, high : float
        The range, positive.

    Returns
    -------
    nodes : array of shape (N,)
        ``tau``, positive.
    weights : array of shape (N,)
        ``c``, positive.

    Notes
    -----
    The trapezoidal rule after a conformal map by elliptic functions; its error falls like
    ``exp(-2 pi^2 N / (log(high / low) + 3))``.

    References
    ----------
    .. [1] Hale, Higham and Trefethen 2008, method 3.
    """
    share = min(low / high, 0.5)  # a range may be wider than it need be
    high = low / share
    N = math.ceil((3 - math.log(share)) * -math.log(QUADRATURE_ERROR) / (2 * math.pi**2))
    # sc(u) of the modulus with the complement share^{1/2}, by theta functions of its nome; half of
    # the interval gives the other half, by symmetry
    quarter, other = (math.pi / 2 / _mean(math.sqrt(x)) for x in (share, 1 - share))
    nome = math.exp(-math.pi * quarter / other)
    y = math.pi / 2 / other * (np.arange((N + 1) // 2) + 0.5) * quarter / N
    n = np.arange(8)[:, None]
    signs, halves, wholes = (-1.0) ** n, nome ** (n + 0.5) ** 2, nome ** (n + 1.0) ** 2
    theta_1 = 2 * (signs * halves * np.sinh((2 * n + 1) * y)).sum(0)
    theta_4 = 1 - 2 * (signs * wholes * np.cosh(2 * (n + 1) * y)).sum(0)
    sc = (1 + 2 * wholes.sum()) / (2 * halves.sum()) * theta_1 / theta_4
    squares = sc**2
    slopes = np.sqrt((1 + squares) * (1 + share * squares))
    back = (slopes / (math.sqrt(share) * squares))[: N // 2]
    nodes = np.concatenate([low * squares, high / squares[: N // 2]])
    scale = 2 * quarter * math.sqrt(low) / (math.pi * N)
    return nodes, scale * np.concatenate([slopes, back])


def _mean(b: float) -> float:
    """The arithmetic-geometric mean of one and a positive number."""
    a = 1.0
    for _ in range(12):
        a, b = (a + b) / 2, math.sqrt(a * b)
    return a


def is_dense(n_features: int, rank: int) -> bool:
    """Return whether computing with full matrices is faster than with factors.

    Parameters
    ----------
    n_features : int
        Their dimension d.
    rank : int
        The factors of both covariances together.

    Returns
    -------
    bool
        True for few features, or ranks that are not low.
    """
    return n_features <= max(MAX_DENSE_FEATURES, MAX_DENSE_SHARE * rank)


class OptimalMap(NamedTuple):
    """The optimal map between two covariances, ``diag(diagonal) - left @ right.T``."""

    diagonal: Tensor
    """``(psi1 / psi0)^{1/2} (d,)``."""
    left: Tensor
    """``(d, c)``."""
    right: Tensor
    """``(d, c)``."""

    def apply(self, columns: Tensor) -> Tensor:
        """``A @ columns`` for columns ``(d, n)``."""
        return self.diagonal.unsqueeze(-1) * columns - self.left @ (self.right.mT @ columns)

    def diagonals(self) -> Tensor:
        """The diagonal of ``A (d,)``."""
        return self.diagonal - (self.left * self.right).sum(-1)

    def compressed(self) -> "OptimalMap":
        """The same with as few columns as it needs."""
        Q, T = torch.linalg.qr(self.left)
        inner = T @ (self.right.mT @ Q)  # symmetric
        values, vectors = torch.linalg.eigh((inner + inner.mT) / 2)
        kept = values.abs() > COMPRESSION * values.abs().max()
        vectors = Q @ vectors[:, kept]
        return OptimalMap(self.diagonal, vectors * values[kept], vectors)


def optimal_map(source: Factors, target: Factors) -> OptimalMap:
    """Return the optimal map between two covariances, as constants.

    Parameters
    ----------
    source, target : tuple of Tensor of shapes (d, r) and (d,)
        Factors and positive variances of each.

    Returns
    -------
    OptimalMap
        The map.

    Notes
    -----
    Costs ``O(N d r^2)`` for the N nodes of `root_quadrature`, 20 to 50 as a rule.
    """
    (F0, psi0), (F1, psi1) = ([t.detach() for t in each] for each in (source, target))
    low, high = _range(source, target)
    nodes, weights = (torch.from_numpy(t).to(F0) for t in root_quadrature(low, high))
    r = F0.shape[1] + F1.shape[1]
    left, right = [], []
    for tau, c in zip(*(t.split(_at_once(len(psi0), r)) for t in (nodes, weights)), strict=True):
        L, R = _terms(F0, psi0, F1, psi1, tau[:, None])
        left.append((L * c[:, None, None]).transpose(0, 1).flatten(1))
        right.append(R.transpose(0, 1).flatten(1))
    return OptimalMap((psi1 / psi0).sqrt(), torch.cat(left, 1), torch.cat(right, 1))


def _at_once(d: int, r: int) -> int:
    """How many nodes are worked on at a time."""
    return max(1, NODES_AT_ONCE // (d * r))


def _terms(F0, psi0, F1, psi1, tau) -> tuple[Tensor, Tensor]:
    """``(S0 + tau S1^{-1})^{-1} = diag(psi1 / (psi0 psi1 + tau)) - left @ right^T`` of some nodes.

    With the inverse of ``S1`` as the minimum over its factors, the small systems have a symmetric
    part of at least one: nothing cancels.
    """
    inverse = 1 / (psi0 * psi1 + tau)  # (N, d)
    across = (tau.sqrt() * inverse).unsqueeze(-1) * F1
    first = (psi1 * inverse).unsqueeze(-1) * F0
    second = (psi0 * inverse).unsqueeze(-1) * F1
    inner = _inner(F0.mT @ first, F0.mT @ across, F1.mT @ second)
    left, right = torch.cat([first, -across], dim=-1), torch.cat([first, across], dim=-1)
    return left @ torch.linalg.inv(inner), right


def _inner(first: Tensor, corner: Tensor, second: Tensor) -> Tensor:
    """The small systems ``[[I + first, -corner], [corner^T, I + second]]``."""
    rows = torch.cat([first, -corner], dim=-1), torch.cat([corner.mT, second], dim=-1)
    inner = torch.cat(rows, dim=-2)
    inner.diagonal(dim1=-2, dim2=-1).add_(1)
    return inner


def root_trace(source: Factors, target: Factors) -> Tensor:
    """Return ``tr (S0 S1)^{1/2} = tr(A S0)`` of two covariances, a constant.

    Parameters
    ----------
    source, target : tuple of Tensor of shapes (d, r) and (d,)
        Factors and positive variances of each.

    Returns
    -------
    Tensor of shape ()
        The trace.

    Notes
    -----
    Costs ``O(N d r^2)``, in matrix products: for all nodes at once, sums over features with the
    weights of the nodes.
    """
    (F0, psi0), (F1, psi1) = source, target
    nodes, weights = (torch.from_numpy(t).to(F0) for t in root_quadrature(*_range(source, target)))
    inverse = 1 / (psi0 * psi1 + nodes.unsqueeze(1))  # (N, d)
    roots = nodes.sqrt().unsqueeze(1)
    pairs = (F0, F0), (F0, F1), (F1, F1)
    tables = [(left.unsqueeze(2) * right.unsqueeze(1)).flatten(1) for left, right in pairs]

    def sums(*of_features):
        """``F0^T a F0, F0^T b F1, F1^T c F1`` of every node, for weights ``a, b, c (N, d)``."""
        return [
            (each @ table).view(len(nodes), left.shape[1], right.shape[1])
            for each, table, (left, right) in zip(of_features, tables, pairs, strict=True)
        ]

    first, corner, second = sums(psi1 * inverse, roots * inverse, psi0 * inverse)
    # R^T S0 L of the terms of the map, from its variances and from its factors
    own, mixed, other = sums(
        psi0 * (psi1 * inverse).square(),
        psi0 * psi1 * roots * inverse.square(),
        psi0 * (roots * inverse).square(),
    )
    middle = torch.cat(
        [torch.cat([own, -mixed], dim=-1), torch.cat([mixed.mT, -other], dim=-1)], dim=-2
    )
    seen = torch.cat([first, -corner], dim=-1)  # F0^T L
    middle = middle + torch.cat([first, corner.mT], dim=-2) @ seen
    solved = torch.linalg.solve(_inner(first, corner, second), middle)
    less = weights @ solved.diagonal(dim1=-2, dim2=-1).sum(-1)
    return (psi0 * psi1).sqrt().sum() + (psi1 / psi0).sqrt() @ F0.square().sum(1) - less


def _range(source: Factors, target: Factors) -> tuple[float, float]:
    """Bounds of the eigenvalues of ``S0 S1``."""
    products = source[1] * target[1]
    largest = [
        1 + torch.linalg.matrix_norm((F / psi.sqrt().unsqueeze(-1)).detach(), 2).square()
        for F, psi in (source, target)
        if F.shape[-1]  # of no factors torch before 2.7 has no norm
    ]
    return float(products.min()), float(products.max() * math.prod(largest))


def bures_squared_of_factors(source: Factors, target: Factors) -> Tensor:
    r"""Return all pairwise squared Bures distances between covariances ``F F^T + diag(psi)``.

    Parameters
    ----------
    source : tuple of Tensor of shapes (K, d, r0) and (K, d)
        Factors and positive variances.
    target : tuple of Tensor of shapes (L, d, r1) and (L, d)
        Likewise.

    Returns
    -------
    Tensor of shape (K, L)
        Squared distances, non-negative, and zero between equal factors and variances. They are
        differences of traces, with errors of some 1e-14 of these.

    Notes
    -----
    Differentiable once, in closed form: ``2 (I - A) F`` in the factors and ``diag(I - A)`` in the
    variances, with A of `optimal_map`. Costs ``O(K L d r^2)``.

    References
    ----------
    .. [1] Hale, Higham and Trefethen 2008, the square root by rational functions.
    """
    return _BuresSquared.apply(*source, *target)


def _part(factors: Factors, index: int) -> Factors:
    """One covariance."""
    return tuple(t[index] for t in factors)


def _trace(factors: Factors) -> Tensor:
    """Its trace."""
    return factors[0].square().sum() + factors[1].sum()


def _distance(pair: tuple[Factors, Factors]) -> Tensor:
    """The squared distance of a pair."""
    source, target = pair
    if source[0].shape == target[0].shape and all(map(torch.equal, source, target)):
        return source[1].new_zeros(())
    return (_trace(source) + _trace(target) - 2 * root_trace(source, target)).clamp(min=0)


def _slopes(share: Tensor, source: Factors, target: Factors) -> Factors:
    """The derivative of a share of the squared distance in the source."""
    A, F = optimal_map(source, target), source[0]
    return 2 * share * (F - A.apply(F)), share * (1 - A.diagonals())


class _BuresSquared(torch.autograd.Function):
    """Squared Bures distances of all pairs."""

    @staticmethod
    def forward(ctx, *factors):
        ctx.save_for_backward(*factors)
        source, target = factors[:2], factors[2:]
        pairs = [
            (_part(source, k), _part(target, l))
            for k in range(len(source[0]))
            for l in range(len(target[0]))
        ]
        found = map_items(_distance, pairs, factors[0].device)
        size = len(source[0]), len(target[0])
        return torch.stack(found).view(size) if found else factors[0].new_zeros(size)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, cotangents):
        factors = ctx.saved_tensors
        found = [torch.zeros_like(t) for t in factors]
        sides = factors[:2], factors[2:]
        for k, l in cotangents.nonzero().tolist():  # a plan is sparse
            pair = _part(sides[0], k), _part(sides[1], l)
            for i, index in enumerate((k, l)):
                if any(ctx.needs_input_grad[2 * i : 2 * i + 2]):
                    slopes = _slopes(cotangents[k, l], pair[i], pair[1 - i])
                    for j, slope in enumerate(slopes):
                        found[2 * i + j][index] += slope
        return tuple(found)
