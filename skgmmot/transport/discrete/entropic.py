"""Iterations for entropic discrete transport: Sinkhorn's, and Newton's on log-marginals."""

import math

import numpy as np
import torch
from torch import Tensor

from skgmmot.numerics.exponentials import log_sum_exp
from skgmmot.transport.discrete.interior_point.problem import Penalised
from skgmmot.transport.discrete.network_simplex import EPS

#: Largest error of the logarithm of a marginal, and of the marginals' total.
TOL = 1e-12
#: Largest duality gap of an accepted solution, relative to its cost.
GAP = 1e-8
#: Newton's method: largest number of steps, their largest length, and how often one is halved.
MAX_STEPS, MAX_STEP_LENGTH, MAX_HALVINGS = 200, 100.0, 12
#: Sinkhorn sweeps: each leaves at most a quarter of the error if no cost is above ``reg``, so that
#: these reach the precision of float64.
N_SWEEPS = 32
#: Groups of nodes that exchange less than this share of their mass are treated as disconnected.
MIN_EXCHANGE = 1e-14


def sinkhorn(problem: Penalised) -> tuple[Tensor, Tensor, Tensor]:
    """Solve semi-relaxed entropic transport of equal totals by Sinkhorn's iteration.

    After each sweep the potentials are shifted by the optimal constant, which the iteration alone
    would find slowly under a large penalty.

    Parameters
    ----------
    problem : Penalised
        The problem, with one prescribed marginal and no cost above ``reg``.

    Returns
    -------
    f, g : Tensor of shape (K,) and (L,)
        Potentials.
    P : Tensor of shape (K, L)
        The plan.
    """
    a, b, C, lam, other, reg = problem
    if math.isinf(lam):
        g, f, P = sinkhorn(Penalised(b, a, C.mT, other, lam, reg))
        return f, g, P.mT
    f = torch.zeros_like(a)
    for _ in range(N_SWEEPS):
        f = softmin(C - softmin(C.mT - f, a, reg, other), b, reg, lam)
        f = f + lam * torch.log1p(a @ torch.expm1(-f / lam) / a.sum())
    g = softmin(C.mT - f, a, reg, other)
    return f, g, problem.coupling(f, g)


def log_domain_newton(problem: Penalised) -> tuple[Tensor, Tensor, Tensor, float]:
    """Solve entropic transport with prescribed marginals by Newton's method on log-marginals.

    Solves ``log(P @ 1) = log(a)`` where ``P.T @ 1 = b``, for weights of any size, with steps that
    are halved until the dual objective does not fall.

    Parameters
    ----------
    problem : Penalised
        The problem, with ``reg > 0`` and infinite penalties.

    Returns
    -------
    f, g : Tensor of shape (K,) and (L,)
        Potentials.
    P : Tensor of shape (K, L)
        The plan.
    value : float
        The dual objective.

    Raises
    ------
    RuntimeError
        If the marginals are not met.
    """
    log_a, log_b, s = problem.a.log(), problem.b.log(), problem.C / problem.reg

    def at(f):
        logits = (log_a + f).unsqueeze(1) - s
        g = -log_sum_exp(logits, 0)
        return f, g, (logits + g + log_b).exp(), float(problem.a @ f + problem.b @ g)

    point = at(torch.zeros_like(problem.a))
    for _ in range(MAX_STEPS):
        f, g, P, value = point
        p = P.sum(1)
        wrong = log_a - p.log()
        if wrong.abs().max() <= TOL:
            break
        right = p * wrong.clamp(-MAX_STEP_LENGTH, MAX_STEP_LENGTH)
        df = _solve_laplacian((P / problem.b) @ P.mT, right)
        df = (df - df.median()).clamp(-MAX_STEP_LENGTH, MAX_STEP_LENGTH)
        rounding = 64 * EPS * (1 + float(problem.a @ f.abs() + problem.b @ g.abs()))
        tried = (at(f + 0.5**i * df) for i in range(MAX_HALVINGS))
        point = next((other for other in tried if other[3] >= value - rounding), point)
        if point[0] is f:
            break
    # The duality gap is the marginal errors weighted by the potentials.
    if not (p - problem.a).abs() @ (1 + f.abs()) <= GAP * abs(value) + TOL:
        raise RuntimeError(
            f"transport must meet its marginals in {MAX_STEPS} steps, got weights that are wrong "
            f"by {float((p - problem.a).abs().max()):.2g}. Use a larger reg, or leave out small "
            "weights."
        )
    return problem.reg * f, problem.reg * g, P, problem.reg * value


def _solve_laplacian(W: Tensor, right: Tensor) -> Tensor:
    """Solve ``(diag(W @ 1) - W) x = right`` by elimination without subtractions.

    So weights of very different sizes keep their digits. In each group of nodes that is nearly
    disconnected from the others, ``x`` is zero at the node of the largest weights.
    """
    order = W.sum(1).argsort()
    A, r, whole = W[order][:, order].numpy().copy(), right[order].numpy().copy(), W.sum(1)[order]
    shares, pivots = np.zeros_like(A), np.full(len(A), np.inf)
    for i in range(len(A) - 1):
        row = A[i, i + 1 :]
        if row.sum() > MIN_EXCHANGE * whole[i]:
            pivots[i] = row.sum()
            shares[i, i + 1 :] = row / pivots[i]
            A[i + 1 :, i + 1 :] += np.outer(shares[i, i + 1 :], row)
            r[i + 1 :] += shares[i, i + 1 :] * r[i]
    x = np.zeros_like(r)
    for i in reversed(range(len(A) - 1)):
        x[i] = r[i] / pivots[i] + shares[i] @ x
    return torch.from_numpy(x)[order.argsort()]


def softmin(slack: Tensor, weights: Tensor, reg: float, lam: float) -> Tensor:
    """Return the potentials of one Sinkhorn half-step, ``-reg log sum_j w_j exp(-s_ij / reg)``.

    Parameters
    ----------
    slack : Tensor of shape (K, L)
        Costs less the other side's potentials, ``s``.
    weights : Tensor of shape (L,)
        Weights ``w`` of the other side.
    reg : float
        Weight of the entropy.
    lam : float
        Penalty of this side's marginal, which shrinks the potentials by ``1 + reg / lam``.

    Returns
    -------
    Tensor of shape (K,)
        The potentials.
    """
    if (slack.abs() < reg).all():
        total = weights.sum()
        sums = total.log() + torch.log1p(torch.expm1(-slack / reg) @ weights / total)
        return sums * (-reg / (1 + reg / lam))
    least = slack.amin(1, keepdim=True)  # what is left of slacks may overflow: it counts as none
    sums = log_sum_exp(weights.log() - (slack - least) / reg, 1)
    return (least[:, 0] - reg * sums) / (1 + reg / lam)
