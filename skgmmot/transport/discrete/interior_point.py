r"""An interior-point method for discrete transport with penalties, entropy, or both.

The problem, with ``KL(p | q) = sum p log(p / q) - p + q``, and its dual:

.. math::

    \min_{P \ge 0}\; \langle P, C\rangle + \mathrm{reg}\, KL(P \mid a b^T)
        + \lambda_0 KL(P 1 \mid a) + \lambda_1 KL(P^T 1 \mid b)

    \max_{f, g}\; \langle a, \phi_0(f)\rangle + \langle b, \phi_1(g)\rangle
        - \mathrm{reg} \sum_{kl} a_k b_l \bigl(e^{(f_k + g_l - C_{kl}) / \mathrm{reg}} - 1\bigr)

where :math:`\phi(f) = \lambda (1 - e^{-f / \lambda})`. With :math:`\lambda = \infty` the
marginal is prescribed, and :math:`\phi(f) = f`. With ``reg = 0`` the last term is the constraint
``f + g <= C``.

The method follows the central path ``P * Z = mu p q^T`` to ``mu = 0``, where ``p, q`` are the
marginals of ``P`` and ``Z = C - f - g + reg log(P / a b^T)``, in about twenty Newton steps for any
penalties. Each solves a system whose matrix is a graph Laplacian plus a diagonal, without
cancellation.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

#: The iteration stops at this duality gap relative to the value, without entropy.
GAP = 1e-11
#: Newton steps at most; twenty to seventy are needed, more in larger problems.
MAX_STEPS = 300
#: The iteration starts with marginals of at least this share of the total, where penalised.
LEAST_START = 1e-12
#: Bound of the exponent in marginals: ``exp`` of more would overflow in float32.
LARGEST_EXPONENT = 80.0
#: Bound of the exponent in entropic plans.
LARGEST_CLAMP = 300.0


class Penalised(NamedTuple):
    """A transport problem with penalties, in float64 and with positive weights."""

    a: Tensor
    """Source weights ``(K,)``."""
    b: Tensor
    """Target weights ``(L,)``."""
    C: Tensor
    """Costs ``(K, L)``, at most about one; not negative if a penalty is finite."""
    lam0: float
    """Penalty of the source marginal; infinite if it is prescribed."""
    lam1: float
    """Penalty of the target marginal."""
    reg: float
    """Weight of the entropy."""

    def in_unit(self, unit: float) -> "Penalised":
        """The same problem with its costs measured in another unit."""
        return Penalised(self.a, self.b, *(value / unit for value in self[2:]))

    def primal(self, P: Tensor) -> float:
        """The primal objective of a plan, assuming that prescribed marginals are met."""
        value = (P * self.C).sum()
        for marginal, weights, lam in (
            (P.sum(1), self.a, self.lam0),
            (P.sum(0), self.b, self.lam1),
        ):
            if not math.isinf(lam):
                value = value + lam * divergence(marginal, weights)
        if self.reg:
            value = value + self.reg * self._divergence(P)
        return float(value)

    def dual(self, f: Tensor, g: Tensor) -> float:
        """The dual objective of potentials, a lower bound of the primal."""
        value = self.a @ conjugate(f, self.lam0, 700.0) + self.b @ conjugate(g, self.lam1, 700.0)
        if self.reg:
            change = torch.expm1(self.exponent(f, g))  # exact where costs are small against reg
            value = value - self.reg * (self.independent() * change).sum()
        return float(value)

    def _divergence(self, P: Tensor) -> Tensor:
        """``KL(P | a b^T)``."""
        independent = self.independent()
        if independent.min() > 0:
            return divergence(P, independent)
        logs = self.a.log().unsqueeze(1) + self.b.log()  # a product of weights underflows
        return (torch.xlogy(P, P) - P * logs - P + independent).sum()

    def independent(self) -> Tensor:
        """The independent plan ``a b^T``."""
        return self.a.unsqueeze(1) * self.b

    def coupling(self, f: Tensor, g: Tensor) -> Tensor:
        """The entropic plan of potentials, ``a b^T exp((f + g - C) / reg)``."""
        independent = self.independent()
        if independent.min() > 0:
            return independent * self.exponent(f, g).exp()
        logs = self.a.log().unsqueeze(1) + self.b.log()
        exponent = (f.unsqueeze(1) + g - self.C) / self.reg
        return (exponent + logs).clamp(max=LARGEST_CLAMP).exp()

    def exponent(self, f: Tensor, g: Tensor) -> Tensor:
        """``(f + g - C) / reg``, bounded so that its exponential is finite."""
        return ((f.unsqueeze(1) + g - self.C) / self.reg).clamp(max=LARGEST_CLAMP)


def conjugate(f: Tensor, lam: float, most: float = LARGEST_EXPONENT) -> Tensor:
    """Return ``lam (1 - exp(-f / lam))``, the derivative of a penalised cost in the weights.

    Parameters
    ----------
    f : Tensor of shape (K,)
        Potentials.
    lam : float
        Penalty of the marginal; infinite if it is prescribed.
    most : float, default=80.0
        Bound of the exponent.

    Returns
    -------
    Tensor of shape (K,)
        The derivative, finite in float32, too; ``f`` itself if the marginal is prescribed.
    """
    return f if math.isinf(lam) else -lam * torch.expm1((-f / lam).clamp(max=most))


def marginal(f: Tensor, lam: float, weights: Tensor) -> Tensor:
    """Return ``w exp(-f / lam)``, the marginal of the optimal plan of potentials under a penalty.

    Parameters
    ----------
    f : Tensor of shape (K,)
        Potentials.
    lam : float
        Penalty of the marginal; infinite if it is prescribed.
    weights : Tensor of shape (K,)
        Weights ``w``.

    Returns
    -------
    Tensor of shape (K,)
        The marginal; ``w`` if it is prescribed.
    """
    return weights if math.isinf(lam) else weights * torch.exp(-f / lam)


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence ``KL(p | q) = sum p log(p / q) - p + q``.

    Parameters
    ----------
    p : Tensor
        Masses, not negative.
    q : Tensor of the shape of p
        Masses, positive.

    Returns
    -------
    Tensor of shape ()
        The divergence, exact to rounding also where ``p`` is nearly ``q``.
    """
    change = p / q - 1
    return (q * (torch.special.xlog1py(1 + change, change) - change)).sum()


class Iterate(NamedTuple):
    """An iterate of the method: potentials, plan, slacks and marginals."""

    f: Tensor
    g: Tensor
    P: Tensor
    Z: Tensor
    p: Tensor
    q: Tensor


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
    p = marginal(f, problem.lam0, _raised(problem.a, problem.lam0))
    q = marginal(g, problem.lam1, _raised(problem.b, problem.lam1))
    Z = problem.C - f.unsqueeze(1) - g
    P = _raised(problem.a, problem.lam0).unsqueeze(1) * _raised(problem.b, problem.lam1)
    if not problem.reg:
        P = P / Z
        P = P * (max(p.sum(), q.sum()) / P.sum())
    return Iterate(f, g, P, Z, p, q)


def _raised(weights: Tensor, lam: float) -> Tensor:
    """Weights to start from: small ones are raised under a penalty, where they may attract mass."""
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
    rounding = _rounding(f, p, problem.a, problem.lam0, bound)
    rounding += _rounding(g, q, problem.b, problem.lam1, bound)
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


def _rounding(f: Tensor, p: Tensor, weights: Tensor, lam: float, most: float) -> float:
    """Rounding error of the dual objective near the optimum, where large terms may cancel.

    ``lam`` bounds what destroyed mass contributes, and ``most`` the mass of the marginal.
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
    errors = _error(f, p, problem.a, problem.lam0), _error(g, q, problem.b, problem.lam1)
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
    positive = [(P, dP), (Z, dZ), (p, dp), (q, dq)]
    fastest = max(float((-change / value).max()) for value, change in positive)
    t = min(1.0, 0.99 / fastest) if fastest > 0 else 1.0
    f, g = f + t * df, g + t * dg
    p = _marginal_after(f, p + t * dp, problem.a, problem.lam0)
    q = _marginal_after(g, q + t * dq, problem.b, problem.lam1)
    return Iterate(f, g, P + t * dP, Z + t * dZ, p, q)


def _error(f: Tensor, p: Tensor, weights: Tensor, lam: float) -> Tensor:
    """Error of ``p`` against `marginal`, as a difference of potentials."""
    return torch.zeros_like(f) if math.isinf(lam) else f + lam * torch.log(p / weights)


def _marginal_after(f: Tensor, p: Tensor, weights: Tensor, lam: float) -> Tensor:
    """The marginal after a step; in closed form where ``f / lam`` is small, for precision."""
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
    share = W / D1
    M = share @ W.mT
    M.fill_diagonal_(0)
    remainder = ridge0 + share @ ridge1
    if not remainder.any():
        remainder[M.sum(1).argmax()] = 1.0  # f + g alone is determined: fix a potential
    M = torch.diag(M.sum(1) + remainder) - M
    factor, failed = torch.linalg.cholesky_ex(M)
    if failed:
        M.diagonal().mul_(1 + 1e-13)
        factor = torch.linalg.cholesky_ex(M).L
    x = torch.cholesky_solve((right0 - share @ right1).unsqueeze(1), factor).squeeze(1)
    return x, (right1 - W.mT @ x) / D1
