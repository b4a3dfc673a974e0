"""The interior-point method of `all_pairs` on few pairs, for penalties without entropy.

An optimal plan uses hardly more pairs than there are rows and columns. The iteration therefore
holds the cheapest pairs of each row and column only, and takes in those whose constraint
``f + g <= C`` its potentials violate, so that in the end they are feasible for all. Its steps are
Mehrotra's: one factor gives a direction to the boundary, and from how far that leads, how much to
centre and the correction of second order. About twenty are needed, of which at 1,000 x 1,000 the
Cholesky factor is the longest part.
"""

import contextlib
import math
from typing import NamedTuple

import numpy as np
import scipy.linalg
import torch
from scipy.sparse import csr_array
from torch import Tensor

from skgmmot.transport.discrete.interior_point.all_pairs import (
    GAP,
    RIDGES,
    Iterate,
    raised,
    rounding_of_dual,
)
from skgmmot.transport.discrete.interior_point.problem import Penalised, marginal

#: Pairs of each row and of each column to start with, and largest number of new ones in a row.
N_PAIRS = 8
#: Steps at most: twenty are usual, a hundred where weights differ by ten orders of magnitude.
MAX_STEPS = 150
#: From this share of all pairs on, their matrices are multiplied as dense ones.
DENSE_SHARE = 0.25
#: Share of the way to the boundary, and the least share of the gap that is aimed at.
STEP_SHARE, LEAST_CENTRING = 0.995, 1e-4
#: New pairs have a slack of at least this, relative to that of the central path at equal masses.
LEAST_SLACK = 1e-3
#: Largest price of what marginals lack, relative to the value.
MAX_PRICE = 1e-5


class _Pairs(NamedTuple):
    """Some pairs of rows and columns, in the order of rows."""

    at: Tensor
    """Flat indices ``(n,)``, ascending."""
    i: Tensor
    """Rows."""
    j: Tensor
    """Columns."""
    c: Tensor
    """Costs."""
    shape: tuple[int, int]

    @classmethod
    def of(cls, at: Tensor, C: Tensor) -> "_Pairs":
        """The pairs of flat indices."""
        i, j = at // C.shape[1], at % C.shape[1]
        return cls(at, i, j, C[i, j], tuple(C.shape))

    def rows(self, values: Tensor) -> Tensor:
        """Sums of values ``(n,)`` over the pairs of each row."""
        return torch.bincount(self.i, values, self.shape[0])

    def columns(self, values: Tensor) -> Tensor:
        """Sums over the pairs of each column."""
        return torch.bincount(self.j, values, self.shape[1])

    def product(self, left: Tensor, right: Tensor) -> np.ndarray:
        """``A @ B.T (K, K)`` of two matrices ``(K, L)`` with these values at the pairs."""
        if len(self.at) > DENSE_SHARE * math.prod(self.shape):
            A, B = (self.matrix(values).numpy() for values in (left, right))
            return A @ B.T
        starts = np.searchsorted(self.i.numpy(), np.arange(self.shape[0] + 1))
        A, B = (csr_array((v.numpy(), self.j.numpy(), starts), self.shape) for v in (left, right))
        return (A @ B.T).toarray()

    def matrix(self, values: Tensor) -> Tensor:
        """The matrix ``(K, L)`` with these values at the pairs, and zeros."""
        whole = values.new_zeros(self.shape)
        whole.view(-1)[self.at] = values
        return whole


def solve_on_all(problem: Penalised) -> tuple[Tensor, Tensor, Tensor]:
    """Solve a transport problem with penalties by the same steps on all pairs, as `solve` does.

    Parameters
    ----------
    problem : Penalised
        As of `solve`.

    Returns
    -------
    tuple of three Tensors
        Potentials and plan, as of `solve`.

    Raises
    ------
    RuntimeError
        As of `solve`.

    Notes
    -----
    Slower than `solve` and more robust: of weights that differ by ten orders of magnitude and more,
    the pairs that are held need not lead to those that are violated.
    """
    return solve(problem, max(problem.C.shape))


def solve(problem: Penalised, n_pairs: int = N_PAIRS) -> tuple[Tensor, Tensor, Tensor]:
    """Solve a transport problem with penalties by the interior-point method on few pairs.

    Parameters
    ----------
    problem : Penalised
        The problem, with ``reg = 0`` and a finite penalty.
    n_pairs : int, default=8
        Pairs of each row and of each column to start with.

    Returns
    -------
    f, g : Tensor of shape (K,) and (L,)
        Potentials, feasible up to rounding.
    P : Tensor of shape (K, L)
        The plan, positive at the pairs that were held.

    Raises
    ------
    RuntimeError
        If it has not converged after `MAX_STEPS` steps.

    Notes
    -----
    Not differentiable. Costs ``O(K L + min(K, L)^3)`` a step.
    """
    a, b, C, lam0, lam1, reg = problem
    if len(a) > len(b):
        g, f, P = solve(Penalised(b, a, C.mT, lam1, lam0, reg), n_pairs)
        return f, g, P.mT
    C = C.contiguous()
    problem = problem._replace(C=C)
    pairs = _Pairs.of(_cheapest(C, n_pairs), C)
    point = _start(problem, pairs)
    for _ in range(MAX_STEPS):
        pairs, point, complete = _with_violated(problem, pairs, point)
        if complete and _solved(problem, pairs, point):
            f, g, P, *_ = _finished(problem, pairs, point)
            return f, g, pairs.matrix(P)
        point = _advance(problem, pairs, point)
    raise _stopped()


def _stopped() -> RuntimeError:
    return RuntimeError(
        f"the interior-point method must converge in {MAX_STEPS} of Mehrotra's steps, got an end "
        "before. Rescale costs and penalties to comparable size."
    )


def _cheapest(C: Tensor, n_pairs: int) -> Tensor:
    """Flat indices of the cheapest pairs of each row and column, ascending."""
    K, L = C.shape
    j = C.topk(min(n_pairs, L), 1, largest=False).indices
    i = C.topk(min(n_pairs, K), 0, largest=False).indices
    at = torch.cat(
        [(torch.arange(K).unsqueeze(1) * L + j).ravel(), (i * L + torch.arange(L)).ravel()]
    )
    return at.unique()


def _start(problem: Penalised, pairs: _Pairs) -> Iterate:
    """Start with potentials below all costs and penalties, far from every boundary."""
    a, b, _, lam0, lam1, _ = problem
    f, g = torch.full_like(a, -min(1.0, lam0)), torch.full_like(b, -min(1.0, lam1))
    a, b = raised(a, lam0), raised(b, lam1)
    p, q = marginal(f, lam0, a), marginal(g, lam1, b)
    Z = pairs.c - f[pairs.i] - g[pairs.j]
    P = a[pairs.i] * b[pairs.j] / Z
    return Iterate(f, g, P * (max(p.sum(), q.sum()) / P.sum()), Z, p, q)


def _with_violated(
    problem: Penalised, pairs: _Pairs, point: Iterate
) -> tuple[_Pairs, Iterate, bool]:
    """With the pairs whose constraints the potentials violate most; whether there were none."""
    f, g, P, Z, p, q = point
    S = problem.C - f.unsqueeze(1)
    S -= g
    S.view(-1)[pairs.at] = 0.0
    if not S.min() < 0:
        return pairs, point, True
    least, j = S.topk(min(N_PAIRS, S.shape[1]), 1, largest=False)
    new = least < 0
    i, j = torch.arange(len(S)).unsqueeze(1).expand_as(j)[new], j[new]
    mu = P @ Z / (p[pairs.i] @ q[pairs.j])
    slack = torch.maximum(-least[new], LEAST_SLACK * mu.sqrt())
    at, order = torch.cat([pairs.at, i * S.shape[1] + j]).sort()
    P, Z = torch.cat([P, mu * p[i] * q[j] / slack])[order], torch.cat([Z, slack])[order]
    return _Pairs.of(at, problem.C), point._replace(P=P, Z=Z), False


def _solved(problem: Penalised, pairs: _Pairs, point: Iterate) -> bool:
    """Whether the optimality conditions hold to rounding."""
    f, g, P, Z, _, _ = point
    a, b, _, lam0, lam1, _ = problem
    p, q = marginal(f, lam0, a), marginal(g, lam1, b)
    bound = max(float(a.sum()), float(b.sum()))
    value = min(bound, abs(problem.dual(f, g)))
    price = (p - pairs.rows(P)).abs() @ f.abs() + (q - pairs.columns(P)).abs() @ g.abs()
    rounding = rounding_of_dual(f, p, a, lam0, bound) + rounding_of_dual(g, q, b, lam1, bound)
    infeasible = P @ _rest(pairs, point).abs()
    return float(price) <= MAX_PRICE * value and float(P @ Z + infeasible) <= GAP * value + rounding


def _finished(problem: Penalised, pairs: _Pairs, point: Iterate) -> Iterate:
    """The iterate after a last step, which has the last digits, unless it leads away."""
    with contextlib.suppress(RuntimeError):
        following = _advance(problem, pairs, point)
        if _solved(problem, pairs, following) and following.P @ following.Z < point.P @ point.Z:
            return following
    return point


def _rest(pairs: _Pairs, point: Iterate) -> Tensor:
    """By how much slacks differ from those of the potentials."""
    return pairs.c - point.f[pairs.i] - point.g[pairs.j] - point.Z


def _advance(problem: Penalised, pairs: _Pairs, point: Iterate) -> Iterate:
    """One step of Mehrotra's, stopped short of the boundary."""
    P, Z, p, q = point[2:]
    direction = _directions(problem, pairs, point)
    centre = p[pairs.i] * q[pairs.j]
    first = direction(0.0)
    t = point.length(first, 1.0)
    gap = P @ Z
    left = float((P + t * first.P) @ (Z + t * first.Z) / gap)
    share = min(max(left**3, LEAST_CENTRING), 1.0) if math.isfinite(left) else 1.0
    change = direction(share * gap / centre.sum() * centre - first.P * first.Z)
    return point.moved(problem, change, point.length(change, STEP_SHARE))


def _directions(problem: Penalised, pairs: _Pairs, point: Iterate):
    """A function that returns Newton's direction to given products of plan and slacks ``(n,)``."""
    P, Z, p, q = point[2:]
    i, j, rest, W = pairs.i, pairs.j, _rest(pairs, point), P / Z
    ridges = p / problem.lam0, q / problem.lam1
    errors = point.errors(problem)
    D1 = pairs.columns(W) + ridges[1]
    share = W / D1[j]
    factor = _factor(pairs, share, W, ridges[0] + pairs.rows(share * ridges[1][j]))

    def direction(products: Tensor | float) -> Iterate:
        still = (products - P * (Z + rest)) / Z  # the change of P at constant f and g
        right0 = p - ridges[0] * errors[0] - pairs.rows(P + still)
        right1 = q - ridges[1] * errors[1] - pairs.columns(P + still)
        right = right0 - pairs.rows(share * right1[j])
        df = torch.from_numpy(scipy.linalg.cho_solve(factor, right.numpy(), check_finite=False))
        dg = (right1 - pairs.columns(W * df[i])) / D1
        move = df[i] + dg[j]
        changed = -ridges[0] * (df + errors[0]), -ridges[1] * (dg + errors[1])
        return Iterate(df, dg, still + W * move, rest - move, *changed)

    return direction


def _factor(pairs: _Pairs, share: Tensor, W: Tensor, remainder: Tensor):
    """The Cholesky factor of the Schur complement, whose diagonal is a sum without cancellation."""
    for ridge in RIDGES:
        M = pairs.product(share, W)
        np.fill_diagonal(M, 0.0)
        diagonal = M.sum(1) + remainder.numpy()
        np.negative(M, out=M)
        np.fill_diagonal(M, diagonal * (1 + ridge))
        with contextlib.suppress(scipy.linalg.LinAlgError, ValueError):  # or not finite
            return scipy.linalg.cho_factor(M.T, overwrite_a=True)
    raise _stopped()
