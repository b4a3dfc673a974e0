"""Discrete transport between constants: the exact solver or the interior-point method, certified.

What `discrete` puts on the graph. Weights may be zero, and of any size.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from skgmmot.functional import interior_point
from skgmmot.functional.interior_point import Penalised, conjugate, marginal
from skgmmot.functional.network_simplex import EPS, network_simplex

#: A solution is refused if its gap, relative to its cost, is larger.
GAP = 1e-8
#: A plan that costs less than this share of the largest cost is free.
NOTHING = 1e-16
#: Costs below this share of the entropy's weight do not bend the independent plan.
SMALL = 1e-9
#: A penalty of so many times the largest cost may be paid for the rounding of the weights; one of
#: more than the second number holds its marginal to rounding, if totals are equal.
LARGE, HOLDING = 1e6, 1e16
#: Totals are equal that differ by less than this share, or this many roundings of the weights.
EQUAL, ROUNDINGS = 1e-12, 8


class TransportSolution(NamedTuple):
    """What a solver finds, in float64 on the CPU."""

    P: Tensor
    f: Tensor
    """Potentials: feasible, and not yet derivatives in the weights."""
    g: Tensor
    derivatives: tuple[Tensor, Tensor]
    """The derivatives of the value in both weights."""
    value: float


def solve_constants(
    a: Tensor,
    b: Tensor,
    C: Tensor,
    penalties: tuple[float, float] = (math.inf, math.inf),
    reg: float = 0.0,
    eps: float = EPS,
) -> TransportSolution:
    """Solve a transport problem whose penalties are known to be positive.

    Parameters
    ----------
    a : Tensor of shape (K,)
        Source weights, float64 on the CPU, as the others.
    b : Tensor of shape (L,)
        Target weights.
    C : Tensor of shape (K, L)
        Costs.
    penalties : tuple of two floats, default=(inf, inf)
        Penalties of the marginals; infinite where one is held.
    reg : float, default=0.0
        Weight of the entropy.
    eps : float, default=2.2e-16
        Relative precision of the weights.

    Returns
    -------
    TransportSolution
        The plan, potentials, derivatives and value.

    Raises
    ------
    ValueError
        If a cost is negative and a marginal is not held.
    RuntimeError
        If the solver stops early, or the gap to the dual problem is too large.
    """
    held = [math.isinf(lam) for lam in penalties]
    if all(held) and not reg:
        P, f, g = network_simplex(a.numpy(), b.numpy(), C.numpy(), eps)
        centred = f - f.sum() / len(f), g - g.sum() / len(g)
        P, f, g, *derivatives = map(torch.from_numpy, (P, f, g, *centred))
        return TransportSolution(P, f, g, tuple(derivatives), float((P * C).sum()))
    if all(held):
        b = b * (a.sum() / b.sum())
    elif C.min() < 0:
        raise ValueError(
            f"costs must not be negative, got {float(C.min()):.3g}. Use squared distances."
        )
    totals = float(a.sum()), float(b.sum())
    large = any(LARGE * C.max() < lam < math.inf for lam in penalties) and bool(C.max() > 0)
    if large and abs(totals[0] - totals[1]) <= max(EQUAL, ROUNDINGS * eps) * max(totals):
        b = b * (totals[0] / totals[1])
        penalties = _bounded(penalties, C)
    P, f, g, value = _penalised(a, b, C, penalties, reg)
    derivatives = (
        _derivative(f, penalties[0], reg, float(b.sum())),
        _derivative(g, penalties[1], reg, float(a.sum())),
    )
    if all(held):
        derivatives = tuple(t - t.mean() for t in derivatives)
    return TransportSolution(P, f, g, derivatives, value)


def _bounded(penalties, C: Tensor) -> tuple[float, float]:
    """Penalties of the same minimum, not so large that rounding times a penalty is a cost."""
    bound = HOLDING * float(C.max())
    return tuple(lam if math.isinf(lam) else min(lam, bound) for lam in penalties)


def _derivative(f: Tensor, lam: float, reg: float, total: float) -> Tensor:
    """The derivative of the cost in the weights of one side, given its potentials.

    ``phi(f) + reg (total - P @ 1 / a)``, where the other side's weights sum to ``total``.
    """
    derivative = conjugate(f, lam)
    return derivative + reg * (total - 1 + derivative / lam)


def _penalised(a, b, C, penalties, reg) -> tuple[Tensor, Tensor, Tensor, float]:
    """Plan, potentials and value of a penalised problem; weights may be zero."""
    k, l, mass = a > 0, b > 0, 1.0 if reg else float(max(a.sum(), b.sum()))
    problem = Penalised(a[k] / mass, b[l] / mass, C[k][:, l], *penalties, reg)
    inner, largest = _simple_plan(problem), float(C.abs().max())
    value = problem.primal(inner)
    free = value <= max(NOTHING * largest, SMALL * reg) and bool(C.min() >= 0)
    unit = (largest if reg else value) or 1.0
    problem, value = problem.in_unit(unit), value / unit
    if not free:
        f, g, inner, *_ = interior_point.solve(problem)
        inner, value = _certified(problem, f, g, inner)
    else:  # no plan costs noticeably less
        f, g = _simple_potentials(problem)
    P = torch.zeros_like(C)
    P[k.unsqueeze(1) & l] = mass * inner.flatten()
    f, g = (unit * t for t in _extended(f, g, C / unit, k, l, problem))
    return P, f, g, unit * mass * value


def _certified(problem: Penalised, f: Tensor, g: Tensor, P: Tensor) -> tuple[Tensor, float]:
    """A plan that potentials prove optimal, sparse if it can be, and its value."""
    bound, rounding = problem.dual(f, g), problem.rounding(f, g)
    for plan in [P] if problem.reg else [_between_marginals(problem, f, g), P]:
        value = problem.primal(plan)
        if value - bound <= GAP * max(abs(value), abs(bound)) + rounding:
            return plan, value
    raise RuntimeError(
        f"transport must be solved to a gap of {GAP} of its cost, got {value - bound:.2g} of "
        f"{value:.2g}. Rescale costs and penalties to comparable size."
    )


def _simple_plan(problem: Penalised) -> Tensor:
    """A plan not much worse than the best: independent, exact between the weights, or none."""
    a, b, C, lam0, lam1, reg = problem
    if reg:
        return problem.independent()
    total = b.sum() if math.isinf(lam1) else a.sum()
    plan = total * _exact_plan(a / a.sum(), b / b.sum(), C)
    none = torch.zeros_like(plan)
    held = math.isinf(lam0) or math.isinf(lam1)
    return plan if held or problem.primal(plan) <= problem.primal(none) else none


def _simple_potentials(problem: Penalised) -> tuple[Tensor, Tensor]:
    """The potentials of a simple plan that is as good as optimal."""
    a, b, C, lam0, lam1, reg = problem
    f, g = torch.zeros_like(a), torch.zeros_like(b)
    if reg:  # one sweep of Sinkhorn, which contracts by about the costs over reg
        f = _softmin(C, b, reg, lam0)
        g = _softmin((C - f.unsqueeze(1)).mT, a, reg, lam1)
    return f, g


def _between_marginals(problem: Penalised, f: Tensor, g: Tensor) -> Tensor:
    """The exact plan between the marginals that belong to potentials."""
    p, q = marginal(f, problem.lam0, problem.a), marginal(g, problem.lam1, problem.b)
    total = q.sum() if math.isinf(problem.lam1) else p.sum()  # that of a marginal that is held
    if total == 0:
        return torch.zeros_like(problem.C)
    return total * _exact_plan(p / p.sum(), q / q.sum(), problem.C)


def _exact_plan(a: Tensor, b: Tensor, C: Tensor) -> Tensor:
    """The exact plan between weights of one total."""
    return torch.from_numpy(network_simplex(*(t.numpy() for t in (a, b, C)))[0])


def _extended(f, g, C, k, l, problem: Penalised) -> tuple[Tensor, Tensor]:
    """Potentials also at weights of zero: what a first bit of mass there would cost."""
    whole = C.new_zeros(len(C)), C.new_zeros(C.shape[1])
    whole[0][k], whole[1][l] = f, g
    if problem.reg:
        whole[0][~k] = _softmin(C[~k][:, l] - g, problem.b, problem.reg, problem.lam0)
        whole[1][~l] = _softmin((C[k][:, ~l].mT - f), problem.a, problem.reg, problem.lam1)
    else:
        whole[0][~k] = (C[~k][:, l] - g).amin(1)
        whole[1][~l] = (C[:, ~l] - whole[0].unsqueeze(1)).amin(0)  # over all: feasible together
    return whole


def _softmin(slack: Tensor, weights: Tensor, reg: float, lam: float) -> Tensor:
    """Potentials that make marginals right under entropy, one for each row of slacks."""
    if (slack.abs() < reg).all():
        total = weights.sum()
        sums = total.log() + torch.log1p(torch.expm1(-slack / reg) @ weights / total)
    else:
        sums = torch.logsumexp(weights.log() - slack / reg, dim=1)
    return sums * (-reg / (1 + reg / lam))
