r"""The distance between two Gaussians, and its gradient, by one decomposition and few calls.

With Cholesky's factor of one, :math:`S_0 = L L^T`, and eigenvectors of
:math:`L^T S_1 L = V \operatorname{diag}(s^2) V^T`, the squared distance is
:math:`\operatorname{tr} S_0 + \operatorname{tr} S_1 - 2 \sum_i s_i`, and the optimal maps are

.. math::

    A = L^{-T} V \operatorname{diag}(s) V^T L^{-1},
    \qquad A^{-1} = L V \operatorname{diag}(1 / s) V^T L^T.

The other covariance is not factored. Rounding moves the eigenvalues by about
:math:`\epsilon |S_0| |S_1|`; where this is too much, singular values of :math:`L^T R` with Cholesky
factors of both are used. Singular covariances are factored into as many columns as their ranks.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
import torch
from scipy.linalg import lapack
from torch import Tensor

from skgmmot.gaussian.bures.decomposition import MAX_EIGENVALUE_ERROR, SAFE_TRACES
from skgmmot.gaussian.bures.distance import bures_squared_of_roots, without_cancellation
from skgmmot.gaussian.bures.plane import NEARLY_EQUAL
from skgmmot.gaussian.bures.triangular import triangular_for
from skgmmot.numerics.linalg import compare_bits, factor, is_symmetric, symmetrize

EPS = float(np.finfo(float).eps)
#: Steps of the power iteration for norms. From a vector that has a usual share of the first
#: eigenvector, ``d^(-1/2)``, they find more than a quarter of the norm in thousands of features.
NORM_STEPS = 3
#: Range of squared distances; smaller ones are left to what tells them from zero.
RANGE = 1e-300, 1e300


def wasserstein_squared(
    source: tuple[np.ndarray | Tensor, ...], target: tuple[np.ndarray | Tensor, ...]
) -> float | Tensor | None:
    r"""Return the squared Wasserstein distance between two Gaussians, if it is found by this way.

    .. math::

        |m_0 - m_1|^2 + \operatorname{tr}\bigl(S_0 + S_1 - 2 (S_0^{1/2} S_1 S_0^{1/2})^{1/2}\bigr)

    Parameters
    ----------
    source, target : tuple of mean (d,) and covariance (d, d)
        Arrays or tensors of float64 on the CPU.

    Returns
    -------
    float, Tensor of shape () or None
        A tensor if there is one among the arguments; differentiable once. None between equal
        Gaussians, and where `squared_and_slopes` is. Exchanging the arguments changes no bit.
    """
    return symmetric_value(_solve, source, target)


class Found(Protocol):
    """A value of a function of arrays, and what its gradient is made of."""

    @property
    def cost(self) -> float:
        """The value."""

    def gradients(self, scale: float, needed: tuple[bool, ...]) -> list[np.ndarray | None]:
        """The gradients of ``scale`` times the value in all arrays, None where not needed."""


def symmetric_value(
    solve: Callable[..., Found | None],
    source: tuple[np.ndarray | Tensor, ...],
    target: tuple[np.ndarray | Tensor, ...],
) -> float | Tensor | None:
    """Return the value of a symmetric function of arrays or tensors, which is found by numpy.

    Parameters
    ----------
    solve : callable
        ``solve(*source, *target, differentiable=...)`` with arrays finds the value, or None.
    source, target : tuple of arrays or tensors on the CPU
        As many in both.

    Returns
    -------
    float, Tensor of shape () or None
        A tensor if there is one among the arguments; differentiable once, by one operation of
        torch. None where ``solve`` finds none, and between equal arguments. Exchanging the
        arguments changes no bit.
    """
    given, n = (*source, *target), len(source)
    arrays = [t.numpy(force=True) if isinstance(t, Tensor) else t for t in given]
    which = compare_bits(arrays[:n], arrays[n:])
    if which == 0:
        return None
    if which > 0:
        given, arrays = [*given[n:], *given[:n]], [*arrays[n:], *arrays[:n]]
    tensors = [t for t in given if isinstance(t, Tensor)]
    on_graph = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        found = solve(*arrays, differentiable=on_graph)
    if found is None or not tensors:
        return found and found.cost
    return _Value.apply(found, *given) if on_graph else _as_tensor(found)


class _Value(torch.autograd.Function):
    """A value whose gradients are known."""

    @staticmethod
    def forward(ctx, found: Found, *given):
        ctx.save_for_backward(*(t for t in given if isinstance(t, Tensor)))
        ctx.found = found
        return _as_tensor(found)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, cotangent: Tensor):
        _ = ctx.saved_tensors  # an error if they have changed since
        gradients = ctx.found.gradients(float(cotangent), ctx.needs_input_grad[1:])
        return None, *(None if t is None else torch.from_numpy(t) for t in gradients)


def _as_tensor(found: Found) -> Tensor:
    """The value as a constant."""
    return torch.tensor(found.cost, dtype=torch.float64, device="cpu")


class _BetweenGaussians(NamedTuple):
    """The squared distance, and what its gradient is made of."""

    cost: float
    apart: np.ndarray
    """The difference of the means ``(d,)``."""
    slopes: Callable
    """Gradients in the covariances; see `squared_and_slopes`."""

    def gradients(self, scale, needed):
        pull, slopes = 2 * scale * self.apart, self.slopes(scale, needed[1::2])
        found = pull, slopes[0], -pull, slopes[1]
        return [t if wanted else None for t, wanted in zip(found, needed, strict=True)]


def _solve(m0, S0, m1, S1, *, differentiable: bool) -> _BetweenGaussians | None:
    """The squared distance between Gaussians and the parts of its gradient, or None."""
    if not (is_symmetric(S0) and is_symmetric(S1)):
        return None
    bures, apart = squared_and_slopes(S0, S1, differentiable=differentiable), m0 - m1
    if bures is None:
        return None
    cost = float(apart @ apart) + bures[0]
    return _BetweenGaussians(cost, apart, bures[1]) if RANGE[0] < cost < RANGE[1] else None


def squared_and_slopes(
    source: np.ndarray, target: np.ndarray, *, differentiable: bool
) -> tuple[float, Callable[..., list[np.ndarray | None]]] | None:
    """Return the squared Bures distance between two covariances, and what finds its gradient.

    Parameters
    ----------
    source, target : ndarray of shape (d, d)
        Symmetric matrices, float64.
    differentiable : bool
        Whether gradients will be asked for.

    Returns
    -------
    squared : float
        The squared distance; see `skgmmot.gaussian.bures.distance.bures_squared`.
    slopes : callable
        ``slopes(weight, needed)`` returns the gradients of ``weight`` times the squared distance in
        both covariances, None where it is not ``needed``.

    Notes
    -----
    Returns None if a matrix is not positive semi-definite, to rounding, or of an extreme size.
    Costs a Cholesky factor, two products with it and the decomposition; gradients cost two more
    products each. Between ill-conditioned matrices it costs the factors of both and a decomposition
    by singular values; of ranks q and r, ``O(d (q^2 + r^2))`` and three products.
    """
    traces = [float(np.add.reduce(S.diagonal())) for S in (source, target)]
    if not (SAFE_TRACES[0] <= min(traces) and max(traces) <= SAFE_TRACES[1]):
        return None
    if not np.linalg.norm(source) * np.linalg.norm(target) < np.inf:
        return None
    found, L = None, triangular_for(len(source)).of(source)
    if L is not None:
        found = _by_eigenvalues(L, source, target, differentiable)
        found = found or _by_singular_values(L, target, differentiable)
    if found is None:
        return _of_deficient_rank(source, target, differentiable)
    squared = sum(traces) - 2 * found.norm
    if squared < NEARLY_EQUAL * sum(traces):
        squared = _without_cancellation(source, target)

    def slopes(weight, needed):
        pairs = zip(found.halves, needed, strict=True)
        return [_slope(L.gram(half()), weight) if wanted else None for half, wanted in pairs]

    return squared, slopes


class _Decomposition(NamedTuple):
    """The sum of singular values, and what makes the optimal maps."""

    norm: float
    halves: tuple[Callable, Callable]
    """They return ``H``, for the optimal maps ``H @ H.T`` from either covariance to the other."""


def _by_eigenvalues(L, source, target, vectors: bool) -> _Decomposition | None:
    """The decomposition of ``L.T @ S1 @ L``, or None where rounding would show."""
    size = _norm(source)
    # if both covariances are alike, the eigenvalues are about the fourth powers of the pivots
    if not _are_accurate(np.sort(L.pivots) ** 4, size**2, vectors):
        return None
    eigenvalues, V = L.decompose(L.congruent(target), vectors=vectors)
    # the Frobenius norm is larger, but takes less time
    units = (size * float(norm(target)) for norm in (np.linalg.norm, _norm))
    if not any(_are_accurate(eigenvalues, max(unit, eigenvalues[-1]), vectors) for unit in units):
        return None
    roots = eigenvalues**0.5
    return _Decomposition(
        float(np.add.reduce(roots)),
        (lambda: L.adjoint_solve(V, roots**0.5), lambda: L.times(V, roots**-0.5)),
    )


def _by_singular_values(L, target, vectors: bool) -> _Decomposition | None:
    """The decomposition of ``L.T @ R`` with Cholesky's factor ``R`` of the other covariance."""
    R = type(L).of(target)
    if R is None:
        return None
    left, roots, right = L.singular(L.adjoint_times(R), vectors=vectors)
    return _Decomposition(
        float(np.add.reduce(roots)),
        (lambda: L.adjoint_solve(left, roots**0.5), lambda: R.adjoint_solve(right, roots**0.5)),
    )


def _of_deficient_rank(source, target, differentiable: bool):
    """`squared_and_slopes` by factors of as many columns as the ranks; None of no covariances."""
    found = [_root(S) for S in (source, target)]
    if any(root is None for root in found):
        return None
    roots = [torch.from_numpy(root).requires_grad_(differentiable) for root in found]
    with torch.set_grad_enabled(differentiable):
        squared = bures_squared_of_roots(*roots)

    def slopes(weight, needed):
        pulls = torch.autograd.grad(squared, roots, retain_graph=True, materialize_grads=True)
        found = zip((root.detach() for root in roots), pulls, needed, strict=True)
        return [
            _slope(_map_of(A, A - pull / 2), weight) if wanted else None
            for A, pull, wanted in found
        ]

    return float(squared.detach()), slopes


def _root(covariance: np.ndarray) -> np.ndarray | None:
    """As many rows ``A`` as the rank, to rounding, with ``A.T @ A`` the covariance, or None.

    They are Cholesky's factor of the correlations, with pivots.
    """
    variances = covariance.diagonal()
    if variances.min() < 0:
        return None
    unit = np.where(variances > 0, variances, 1.0) ** 0.5
    correlations = covariance / unit / unit[:, None]
    rounding = 4 * len(unit) * EPS
    upper, pivots, rank, _ = lapack.dpstrf(correlations, tol=rounding)
    root = np.zeros((rank, len(unit)))
    root[:, pivots - 1] = np.triu(upper[:rank])
    rest = np.abs(root.T @ root - correlations).max()
    return root * unit if rest <= 2 * rounding else None


def _map_of(root: Tensor, images: Tensor) -> np.ndarray:
    """The symmetric map, of the least norm, of the rows of a root to their images ``(r, d)``."""
    Q, R = torch.linalg.qr(root.mT)
    dual = torch.linalg.solve_triangular(R, Q.mT, upper=True)  # ``dual @ root.T`` is the identity
    found = dual.mT @ images
    return symmetrize(2 * found - found @ dual.mT @ root).numpy()


def _are_accurate(eigenvalues: np.ndarray, largest: float, vectors: bool) -> bool:
    """Whether the sum of the roots of ascending eigenvalues, or the maps, have all digits.

    Rounding moves each eigenvalue by its share of ``largest``.
    """
    if not eigenvalues[0] > 0:
        return False
    if vectors:
        return EPS * largest <= MAX_EIGENVALUE_ERROR * eigenvalues[0]
    roots = eigenvalues**0.5
    errors = EPS * largest * np.add.reduce(1 / roots)
    return errors <= MAX_EIGENVALUE_ERROR * np.add.reduce(roots)


def _norm(matrix: np.ndarray) -> float:
    """The largest eigenvalue, or somewhat less."""
    vector, norm = np.cos(np.arange(1.0, len(matrix) + 1)), 1.0
    for _ in range(1 + NORM_STEPS):
        vector = matrix @ (vector / norm)
        norm = float(vector @ vector) ** 0.5
    return norm


def _without_cancellation(source: np.ndarray, target: np.ndarray) -> float:
    """The squared distance between nearly equal covariances."""
    S0, S1 = (torch.tensor(S).unsqueeze(0) for S in (source, target))
    return float(without_cancellation(S0, S1, factor(S0), factor(S1)))


def _slope(optimal: np.ndarray, weight: float) -> np.ndarray:
    """``weight (I - A)``, in the memory of the optimal map ``A``."""
    optimal *= -weight
    optimal.ravel("K")[:: len(optimal) + 1] += weight
    return optimal
