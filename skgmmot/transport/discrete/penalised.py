"""Discrete transport between constants: the exact solver or the interior-point method, certified.

What `discrete` puts on the graph. Weights may be zero, and of any size.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from skgmmot.transport.discrete import interior_point
from skgmmot.transport.discrete.interior_point import Penalised, conjugate, divergence, marginal
from skgmmot.transport.discrete.network_simplex import EPS, network_simplex

#: A solution is refused if its gap, relative to its cost, is larger.
GAP = 1e-8
#: Gaps up to this share of what a simple plan costs are rounding, however small the cost is.
LEAST_GAP = 64 * EPS
#: A plan that costs less than this share of the largest cost is free.
NOTHING = 1e-16
#: Costs above so many times the entropy's weight and the penalties, more than the optimum has, are
#: not paid by any mass that counts, or by any that is a number: by weights of 1e-300, logarithms
#: are 700.
CUTS = 1e2, 1e4
FAR = CUTS[-1]
#: Weights below this share of the total are a matter of logarithms.
TINY = 1e-10
#: Steps in logarithms at most, how long they may be, and how often they are halved.
MAX_STEPS, LARGEST_STEP, HALVINGS = 200, 100.0, 12
#: Sinkhorn's sweeps: each leaves a quarter of the error at most if no cost is above ``reg``.
SWEEPS = 32
#: Components hang together that exchange more than this share of their mass.
APART = 1e-14
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
        return _entropic(a, b * (a.sum() / b.sum()), C, reg, eps)
    if C.min() < 0:
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
    return TransportSolution(P, f, g, derivatives, value)


def _entropic(a, b, C, reg, eps) -> TransportSolution:
    """Transport with an entropy between marginals that are held.

    The potentials of the exact plan are taken from the costs first. This changes no plan, and
    leaves costs of which only those count that are not large against the weight of the entropy.
    """
    P, *potentials = network_simplex(a.numpy(), b.numpy(), C.numpy(), eps)
    P, f, g = (torch.from_numpy(t) for t in (P, *potentials))
    S = (C - f.unsqueeze(1) - g).clamp(min=0)
    constant, mass = float((P * (C - S)).sum()), float(a.sum())
    P, df, dg, value = _penalised(a / mass, b / mass, S, (math.inf, math.inf), reg)
    f, g = f + df, g + dg
    # KL(m P | m^2 a b^T) = m KL(P | a b^T) + m^2 - m - m log m, for P, a and b of sum one
    value = constant + mass * value
    if abs(mass - 1) > EQUAL:
        value += reg * mass * (mass - 1 - math.log(mass))
    return TransportSolution(mass * P, f, g, (f - f.mean(), g - g.mean()), value)


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
    given = Penalised(a[k] / mass, b[l] / mass, C[k][:, l], *penalties, reg)
    problem, df, dg, constant = _centred(given)
    cuts = [FAR] if all(math.isinf(lam) for lam in penalties) else CUTS
    while True:
        try:
            f, g, inner, value = _proven(problem, cuts[0])
            break
        except RuntimeError:  # solved again with other costs cut off
            if len(cuts) == 1:
                raise
            cuts = cuts[1:]
    P = torch.zeros_like(C)
    P[k.unsqueeze(1) & l] = mass * inner.flatten()
    f, g = _extended(f + df, g + dg, C, k, l, given)
    return P, f, g, mass * (value + constant)


def _proven(problem: Penalised, cut: float) -> tuple[Tensor, Tensor, Tensor, float]:
    """Potentials, plan and value, by way of lower costs: none above a multiple of what is paid."""
    near = _near(problem, cut)
    plan, largest, reg = _simple_plan(near), float(near.C.abs().max()), problem.reg
    value = near.primal(plan)
    small = SMALL * reg * float(problem.a.sum() * problem.b.sum())
    free = value <= max(NOTHING * largest, small, _noise(problem)) and near.C.min() >= 0
    if free and problem.primal(plan) <= value:  # no plan costs noticeably less
        return *_simple_potentials(problem), plan, value
    unit = (largest if reg else value) or 1.0
    f, g, plan, value = _solved(problem.in_unit(unit), near.in_unit(unit))
    return unit * f, unit * g, plan, unit * value


def _noise(problem: Penalised) -> float:
    """What penalties make of weights that differ by rounding."""
    lam = max((v for v in problem[3:5] if not math.isinf(v)), default=0.0)
    return lam * (ROUNDINGS * EPS) ** 2 * float(problem.a.sum() + problem.b.sum())


def _centred(problem: Penalised) -> tuple[Penalised, Tensor, Tensor, float]:
    """The problem less what all plans pay, where one marginal is held: a problem of equal totals.

    Also what is taken from the potentials and the value.
    """
    a, b, C, lam0, lam1, reg = problem
    if math.isinf(lam0) == math.isinf(lam1):
        return problem, torch.zeros_like(a), torch.zeros_like(b), 0.0
    if math.isinf(lam1):
        turned = Penalised(b, a, C.mT, lam1, lam0, reg)
        (b, a, C, *_), dg, df, constant = _centred(turned)
        return problem._replace(a=a, b=b, C=C.mT), df, dg, constant
    least, A, B = C.amin(1), a.sum(), b.sum()
    ratio = (A / B).log()
    constant = a @ least + lam1 * divergence(A, B) + reg * A * (ratio + B - A)
    df = least + (lam1 + reg) * ratio
    centred = problem._replace(b=b * (A / B), C=C - least.unsqueeze(1))
    return centred, df, torch.full_like(b, -lam1 * float(ratio)), float(constant)


def _near(problem: Penalised, cut: float) -> Penalised:
    """The problem with costs cut off where no mass that counts is moved.

    Where mass is moved, ``C = f + g - reg log(P / a b^T)``, with ``f = -lam0 log(P @ 1 / a)`` where
    the source is penalised, and ``f <= -g`` at a cost of zero where it is held.
    """
    far = cut * (problem.reg + sum(v for v in problem[3:5] if not math.isinf(v)))
    return problem._replace(C=problem.C.clamp(max=far))


def _solved(problem: Penalised, near: Penalised) -> tuple[Tensor, Tensor, Tensor, float]:
    """Potentials, plan and value, proven optimal."""
    held = math.isinf(problem.lam0), math.isinf(problem.lam1)
    if not all(held):
        by_sweeps = any(held) and problem.C.max() <= problem.reg
        f, g, P, *_ = _by_sweeps(problem) if by_sweeps else interior_point.solve(near)
        return f, g, *_certified(problem, near, f, g, P)
    if min(problem.a.min(), problem.b.min()) <= TINY:
        return _by_logarithms(problem)
    try:
        f, g, P, *_ = interior_point.solve(near)
        return f, g, *_certified(problem, near, f, g, P)
    except RuntimeError:  # solved again in another form
        return _by_logarithms(problem)


def _by_sweeps(problem: Penalised) -> tuple[Tensor, Tensor, Tensor]:
    """Potentials and plan by Sinkhorn's iteration, for one held marginal and equal totals.

    Each sweep shifts the potentials exactly, which would converge slowly under a large penalty.
    """
    a, b, C, lam, other, reg = problem
    if math.isinf(lam):
        g, f, P = _by_sweeps(Penalised(b, a, C.mT, other, lam, reg))
        return f, g, P.mT
    f = torch.zeros_like(a)
    for _ in range(SWEEPS):
        f = _softmin(C - _softmin(C.mT - f, a, reg, other), b, reg, lam)
        f = f + lam * torch.log1p(a @ torch.expm1(-f / lam) / a.sum())
    g = _softmin(C.mT - f, a, reg, other)
    return f, g, problem.coupling(f, g)


def _by_logarithms(problem: Penalised) -> tuple[Tensor, Tensor, Tensor, float]:
    """Potentials, plan and value under entropy between marginals that are held, of any size.

    Newton's method for ``log(P @ 1) = log(a)`` where ``P.T @ 1 = b``, each step as long as it
    raises the dual value.
    """
    log_a, log_b, s = problem.a.log(), problem.b.log(), problem.C / problem.reg

    def at(f):
        logits = (log_a + f).unsqueeze(1) - s
        g = -torch.logsumexp(logits, 0)
        return f, g, (logits + g + log_b).exp(), float(problem.a @ f + problem.b @ g)

    point = at(torch.zeros_like(problem.a))
    for _ in range(MAX_STEPS):
        f, g, P, value = point
        p = P.sum(1)
        wrong = log_a - p.log()
        if wrong.abs().max() <= EQUAL:
            break
        right = p * wrong.clamp(-LARGEST_STEP, LARGEST_STEP)
        df = _grounded((P / problem.b) @ P.mT, right)
        df = (df - df.median()).clamp(-LARGEST_STEP, LARGEST_STEP)
        rounding = 64 * EPS * (1 + float(problem.a @ f.abs() + problem.b @ g.abs()))
        tried = (at(f + 0.5**i * df) for i in range(HALVINGS))
        point = next((other for other in tried if other[3] >= value - rounding), point)
        if point[0] is f:
            break
    # The gap to the dual value is that of wrong marginals at their potentials.
    if not (p - problem.a).abs() @ (1 + f.abs()) <= GAP * abs(value) + EQUAL:
        raise RuntimeError(
            f"transport must meet its marginals in {MAX_STEPS} steps, got weights that are wrong "
            f"by {float((p - problem.a).abs().max()):.2g}. Use a larger reg, or leave out small "
            "weights."
        )
    return problem.reg * f, problem.reg * g, P, problem.reg * value


def _grounded(W: Tensor, right: Tensor) -> Tensor:
    """A solution of ``(diag(W @ 1) - W) x = right``, by elimination without any subtraction.

    Weights of very different sizes keep their digits. Of nodes that hang together, and hardly with
    others, one is held: that of the largest weights.
    """
    order = W.sum(1).argsort()
    A, r, whole = W[order][:, order].numpy().copy(), right[order].numpy().copy(), W.sum(1)[order]
    shares, pivots = np.zeros_like(A), np.full(len(A), np.inf)
    for i in range(len(A) - 1):
        row = A[i, i + 1 :]
        if row.sum() > APART * whole[i]:
            pivots[i] = row.sum()
            shares[i, i + 1 :] = row / pivots[i]
            A[i + 1 :, i + 1 :] += np.outer(shares[i, i + 1 :], row)
            r[i + 1 :] += shares[i, i + 1 :] * r[i]
    x = np.zeros_like(r)
    for i in reversed(range(len(A) - 1)):
        x[i] = r[i] / pivots[i] + shares[i] @ x
    return torch.from_numpy(x)[order.argsort()]


def _certified(
    problem: Penalised, near: Penalised, f: Tensor, g: Tensor, P: Tensor
) -> tuple[Tensor, float]:
    """A plan that potentials prove optimal, sparse if it can be, and its value.

    Potentials of a problem with lower costs prove as much of this one, if the plan uses none. The
    unit is what a simple plan costs, or under entropy the largest cost.
    """
    bound = near.dual(f, g)
    for plan in [P] if problem.reg else [_between_marginals(near, f, g), P]:
        plan = _feasible(plan.masked_fill(near.C < problem.C, 0), problem)
        value = problem.primal(plan)
        if abs(value - bound) <= GAP * max(abs(value), abs(bound)) + LEAST_GAP:
            return plan, value
    raise RuntimeError(
        f"transport must be solved to a gap of {GAP} of its cost, got {value - bound:.2g} of "
        f"{value:.2g}. Rescale costs and penalties to comparable size."
    )


def _feasible(P: Tensor, problem: Penalised) -> Tensor:
    """The plan with the marginal that is held, where one is."""
    held = math.isinf(problem.lam0), math.isinf(problem.lam1)
    if held == (True, False):
        return P * (problem.a / P.sum(1)).unsqueeze(1)
    if held == (False, True):
        return P * (problem.b / P.sum(0))
    return P


def _simple_plan(problem: Penalised) -> Tensor:
    """A plan not much worse than the best: independent, exact between the weights, or none."""
    a, b, C, lam0, lam1, reg = problem
    if reg:
        total = b.sum() if math.isinf(lam0) else a.sum() if math.isinf(lam1) else 1.0
        return problem.independent() / total
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
    if min(p.sum(), q.sum()) == 0:
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
