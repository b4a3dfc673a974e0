r"""An interior-point method for discrete transport with penalties, entropy, or both.

In the notation of `problem`, it follows the central path ``P * Z = mu p q^T`` to ``mu = 0``,
where ``p, q`` are the marginals of ``P`` and ``Z = C - f - g + reg log(P / a b^T)``, in about
twenty Newton steps for any penalties. Each solves a system whose matrix is a graph Laplacian plus a
diagonal, without cancellation.
"""

import contextlib
import math
from typing import NamedTuple

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from skgmmot.transport.discrete.interior_point.problem import (
    Penalised,
    marginal,
)

#: The iteration stops at this duality gap relative to the value, without entropy.
GAP = 1e-11
#: Newton steps at most; twenty to seventy are needed, more in larger problems.
MAX_STEPS = 300
#: Share of the way to the boundary that a step goes.
STEP_SHARE = 0.99
#: The iteration starts with marginals of at least this share of the total, where penalised.
LEAST_START = 1e-12
#: What is added to a diagonal, relatively, where rounding leaves a system indefinite.
RIDGES = 0.0, 1e-13, 1e-10


class Iterate(NamedTuple):
    """An iterate of the method, or its changes: potentials, plan, slacks and marginals."""

    f: Tensor
    g: Tensor
    P: Tensor
    Z: Tensor
    p: Tensor
    q: Tensor

    def errors(self, problem: Penalised) -> tuple[Tensor, Tensor]:
        """The errors of both marginals, as differences of potentials."""
        return (
            potential_error(self.f, self.p, problem.a, problem.lam0),
            potential_error(self.g, self.q, problem.b, problem.lam1),
        )

    def length(self, change: "Iterate", most: float) -> float:
        """The step that goes so much of the way to the boundary, at most one."""
        fastest = max(
            float((-step / value).max()) for value, step in zip(self[2:], change[2:], strict=True)
        )
        return min(1.0, most / fastest) if fastest > 0 else 1.0

    def moved(self, problem: Penalised, change: "Iterate", t: float) -> "Iterate":
        """The iterate after a step of length ``t``."""
        f, g, P, Z, p, q = (value + t * step for value, step in zip(self, change, strict=True))
        p = marginal_after(f, p, problem.a, problem.lam0)
        return Iterate(f, g, P, Z, p, marginal_after(g, q, problem.b, problem.lam1))


def solve(problem: Penalised) -> Iterate:
    """Solve a transport problem with penalties or entropy by the interior-point method.

    Parameters
    ----------
    problem : Penalised
        The problem, with ``reg > 0`` or a finite penalty.

    Returns
    -------
    Iterate
        Potentials ``f (K,)`` and ``g (L,)``, feasible if ``reg = 0``; the plan ``P (K, L)``,
        positive everywhere; slacks ``Z`` and marginals ``p, q``.

    Raises
    ------
    RuntimeError
        If it has not converged after `MAX_STEPS` steps.

    Notes
    -----
    Not differentiable. Costs ``O(K L min(K, L))`` a step.
    """
    point = _start(problem)
    for _ in range(MAX_STEPS):
        if _solved(problem, point):
            return point
        point = _advance(problem, point)
    raise RuntimeError(
        f"the interior-point method must converge in {MAX_STEPS} steps, got gap "
        f"{float((point.P * point.Z).sum()):.2g}. Rescale costs and penalties to comparable size."
    )


def _start(problem: Penalised) -> Iterate:
    """Start with potentials below all costs and penalties, far from every boundary."""
    f = torch.full_like(problem.a, -min(1.0, problem.lam0))
    g = torch.full_like(problem.b, -min(1.0, problem.lam1))
    p = marginal(f, problem.lam0, raised(problem.a, problem.lam0))
    q = marginal(g, problem.lam1, raised(problem.b, problem.lam1))
    Z = problem.C - f.unsqueeze(1) - g
    P = raised(problem.a, problem.lam0).unsqueeze(1) * raised(problem.b, problem.lam1)
    if not problem.reg:
        P = P / Z
        P = P * (max(p.sum(), q.sum()) / P.sum())
    return Iterate(f, g, P, Z, p, q)


def raised(weights: Tensor, lam: float) -> Tensor:
    """Return weights to start from: small ones are raised where they may attract mass.

    Parameters
    ----------
    weights : Tensor of shape (K,)
        Weights.
    lam : float
        Penalty of the marginal; infinite if it is prescribed.

    Returns
    -------
    Tensor of shape (K,)
        Weights of at least `LEAST_START` of the total; as they are if the marginal is prescribed.
    """
    return weights if math.isinf(lam) else weights.clamp(min=LEAST_START * float(weights.sum()))


def _solved(problem: Penalised, point: Iterate) -> bool:
    """Whether the optimality conditions hold to rounding."""
    f, g, P, Z, p, q = point
    reg = problem.reg
    gap = float((P * Z).sum())
    p, q = marginal(f, problem.lam0, problem.a), marginal(g, problem.lam1, problem.b)
    if reg:
        P = problem.coupling(f, g)
    # Bounds of the mass and the value: costs are at most about one, and mass that of the weights.
    bound = max(float(problem.a.sum()), float(problem.b.sum()))
    mass = min(bound, max(float(p.sum()), float(q.sum())))
    value = min(bound, abs(problem.dual(f, g)))
    # marginal errors relative to the mass, and weighted by the potentials relative to the value
    wrong = (p - P.sum(1)).abs(), (q - P.sum(0)).abs()
    share = float(wrong[0].sum() + wrong[1].sum())
    price = float(wrong[0] @ (f.abs() + reg) + wrong[1] @ (g.abs() + reg))
    tol = tolerance(reg) if reg else 1e-4
    rounding = rounding_of_dual(f, p, problem.a, problem.lam0, bound)
    rounding += rounding_of_dual(g, q, problem.b, problem.lam1, bound)
    if share > tol * mass + (rounding / reg if reg else 0.0) and price > 0.1 * tol * value:
        return False
    return gap <= GAP * (value + reg * mass) + rounding


def tolerance(reg: float) -> float:
    """Return the largest error of marginals that counts as rounding, relative to the mass.

    Parameters
    ----------
    reg : float
        Weight of the entropy, in the unit of the costs.

    Returns
    -------
    float
        Marginals depend on ``(f + g - C) / reg``, whose rounding grows as ``reg`` falls.
    """
    return max(1e-12 / max(1.0, reg), 4e-15 / min(1.0, reg))


def rounding_of_dual(f: Tensor, p: Tensor, weights: Tensor, lam: float, most: float) -> float:
    """Return the rounding of the dual objective near the optimum, where large terms may cancel.

    Parameters
    ----------
    f : Tensor of shape (K,)
        Potentials of one side.
    p : Tensor of shape (K,)
        Their marginal.
    weights : Tensor of shape (K,)
        Weights.
    lam : float
        Penalty of the marginal, which bounds what destroyed mass contributes.
    most : float
        Bound of the mass of the marginal.

    Returns
    -------
    float
        The rounding that this side contributes.
    """
    terms = weights @ f.clamp(min=0, max=lam) - p.clamp(max=most) @ f.clamp(max=0)
    return 4 * torch.finfo(f.dtype).eps * float(terms)


def _advance(problem: Penalised, point: Iterate) -> Iterate:
    """One Newton step towards a tenth of the present gap, stopped short of the boundary."""
    f, g, P, Z, p, q = point
    independent = problem.independent()
    centre = p.unsqueeze(1) * q
    mu = 0.1 * (P * Z).sum() / centre.sum() * centre
    rest = problem.C - f.unsqueeze(1) - g - Z
    if problem.reg:
        rest = rest + problem.reg * torch.log(P / independent)
    W = P / (Z + problem.reg)
    still = (mu - P * (Z + rest)) / (Z + problem.reg)  # the change of P at constant f and g
    # lam log(p / a) + f = 0, linearised: dp = -ridge (df + error)
    ridges = p / problem.lam0, q / problem.lam1
    errors = point.errors(problem)
    df, dg = laplacian_solve(
        W,
        *ridges,
        p - ridges[0] * errors[0] - (P + still).sum(1),
        q - ridges[1] * errors[1] - (P + still).sum(0),
    )
    move = df.unsqueeze(1) + dg
    dP = still + W * move
    dZ = rest - move + problem.reg * dP / P
    dp, dq = -ridges[0] * (df + errors[0]), -ridges[1] * (dg + errors[1])
    change = Iterate(df, dg, dP, dZ, dp, dq)
    return point.moved(problem, change, point.length(change, STEP_SHARE))


def potential_error(f: Tensor, p: Tensor, weights: Tensor, lam: float) -> Tensor:
    """Return the error of a marginal against `marginal`, as a difference of potentials.

    Parameters
    ----------
    f : Tensor of shape (K,)
        Potentials.
    p : Tensor of shape (K,)
        A marginal, positive.
    weights : Tensor of shape (K,)
        Weights.
    lam : float
        Penalty of the marginal; infinite if it is prescribed.

    Returns
    -------
    Tensor of shape (K,)
        ``f + lam log(p / w)``; zero if the marginal is prescribed.
    """
    return torch.zeros_like(f) if math.isinf(lam) else f + lam * torch.log(p / weights)


def marginal_after(f: Tensor, p: Tensor, weights: Tensor, lam: float) -> Tensor:
    """Return the marginal after a step; in closed form where ``f / lam`` is small, for precision.

    Parameters
    ----------
    f : Tensor of shape (K,)
        Potentials after the step.
    p : Tensor of shape (K,)
        The marginal after a step in a straight line.
    weights : Tensor of shape (K,)
        Weights.
    lam : float
        Penalty of the marginal; infinite if it is prescribed.

    Returns
    -------
    Tensor of shape (K,)
        The marginal.
    """
    near = (f.abs() < lam) & (weights > LEAST_START * weights.sum())
    return torch.where(near, marginal(f, lam, weights), p)


def laplacian_solve(
    W: Tensor, ridge0: Tensor, ridge1: Tensor, right0: Tensor, right1: Tensor
) -> tuple[Tensor, Tensor]:
    """Solve ``[[D0, W], [W.T, D1]] (x, y) = (right0, right1)``, ``D`` the sums of W plus ridges.

    Parameters
    ----------
    W : Tensor of shape (K, L)
        Weights, not negative.
    ridge0, ridge1 : Tensor of shape (K,) and (L,)
        What is added to the sums of rows and columns of W; not negative.
    right0, right1 : Tensor of shape (K,) and (L,)
        The right-hand side.

    Returns
    -------
    x : Tensor of shape (K,)
        The first part of the solution; without ridges, of one of those that differ by a constant.
    y : Tensor of shape (L,)
        The second part.

    Notes
    -----
    With the sign of y flipped the matrix is a graph Laplacian plus the ridges. The diagonal of its
    Schur complement is computed as the sum of the other entries and the ridges' remainder, without
    cancellation.
    """
    if len(ridge0) > len(ridge1):
        y, x = laplacian_solve(W.mT, ridge1, ridge0, right1, right0)
        return x, y
    D1 = W.sum(0) + ridge1
    root = W * D1.rsqrt()
    remainder = ridge0 + root @ (ridge1 * D1.rsqrt())
    if not remainder.any():
        remainder[W.sum(1).argmax()] = 1.0  # f + g alone is determined: fix a potential
    right = right0 - W @ (right1 / D1)
    x = torch.from_numpy(_solve_schur(root.numpy(), remainder.numpy(), right.numpy()))
    return x, (right1 - W.mT @ x) / D1


def _solve_schur(root: np.ndarray, remainder: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solve ``(diag(M @ 1 + remainder) - M) x = right`` for the others than diagonals of ``M``."""
    for ridge in RIDGES:
        upper = scipy.linalg.blas.dsyrk(-1.0, root.T, trans=1)  # of root @ root.T
        np.fill_diagonal(upper, 0.0)
        diagonal = remainder - upper.sum(0) - upper.sum(1)
        np.fill_diagonal(upper, diagonal * (1 + ridge))
        with contextlib.suppress(scipy.linalg.LinAlgError):
            factor = scipy.linalg.cho_factor(upper, overwrite_a=True, check_finite=False)
            return scipy.linalg.cho_solve(factor, right, check_finite=False)
    raise RuntimeError("a system must be positive definite. Rescale costs and penalties.")
