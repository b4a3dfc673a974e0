"""Discrete transport between constant tensors, solved to a certified duality gap.

`plan` attaches the gradients. Weights may be zero, and of any size.
"""

import contextlib
import functools
import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from skgmmot.transport.discrete import semi_dual
from skgmmot.transport.discrete.column_generation import sparse_exact
from skgmmot.transport.discrete.entropic import log_domain_newton, sinkhorn, softmin
from skgmmot.transport.discrete.interior_point import all_pairs, few_pairs
from skgmmot.transport.discrete.interior_point.problem import Penalised, conjugate, marginal
from skgmmot.transport.discrete.network_simplex import EPS, network_simplex
from skgmmot.transport.discrete.simpler import (
    EQUAL,
    LARGE_PENALTY,
    ROUNDINGS,
    ZERO_COST,
    check_optimal,
    extended,
    rounding_penalty,
    solve_by_simpler,
)

#: Costs are cut off at these multiples of the penalties plus ``reg``, the smaller one first.
#: Entries of the optimal plan above it have about ``exp(-100)`` of the mass. With weights down to
#: 1e-300, whose logarithms are about -700, the larger multiple may be needed.
COST_CUTOFFS = 1e2, 1e4
#: Weights below this share of the total are solved for in logarithms.
MIN_PLAIN_WEIGHT = 1e-10
#: Bound of the mass of the independent plan, which is the product of both.
MOST_MASS = 1e300
#: Values below this share of the cost of a simple plan are computed again, in units of themselves.
SMALL_VALUE = 1e-4
#: Costs below this share of ``reg`` leave the independent plan optimal to rounding.
NEGLIGIBLE_COST = 1e-9
#: A penalty of this multiple of the largest cost prescribes its marginal to rounding.
PRESCRIBING_PENALTY = 1e16
#: Marginals of entropic plans that are wrong by less than this share of the total are left.
ROUNDED_MARGINALS = 1e-13
#: Fewest costs for which the interior-point method on few pairs is faster than on all.
MIN_SPARSE_COSTS = 2**14


class TransportSolution(NamedTuple):
    """Plan, potentials, derivatives and value of a solved problem, in float64 on the CPU."""

    P: Tensor
    """Plan ``(K, L)``."""
    f: Tensor
    """Feasible source potentials ``(K,)``, in general not the derivatives in the weights."""
    g: Tensor
    """Feasible target potentials ``(L,)``."""
    derivatives: tuple[Tensor, Tensor]
    """Derivatives of the value in the source and the target weights."""
    value: float
    problem: Penalised
    """What was solved, which the plan and the potentials are for."""


def solve_constants(
    a: Tensor,
    b: Tensor,
    C: Tensor,
    penalties: tuple[float, float] = (math.inf, math.inf),
    reg: float = 0.0,
    eps: float = EPS,
) -> TransportSolution:
    """Solve discrete transport between constant weights, with validated penalties.

    Parameters
    ----------
    a : Tensor of shape (K,)
        Source weights, float64 on the CPU, as the others.
    b : Tensor of shape (L,)
        Target weights.
    C : Tensor of shape (K, L)
        Costs.
    penalties : tuple of two floats, default=(inf, inf)
        Penalties of the marginals; infinite for a prescribed one.
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
        If a cost is negative and a marginal is penalised, if the cost of the plan leaves the range,
        or with entropy if the independent plan has too large a mass.
    RuntimeError
        If the solver stops early, or the duality gap is too large.
    """
    held = [math.isinf(lam) for lam in penalties]
    if all(held) and not reg:
        P, f, g = network_simplex(a.numpy(), b.numpy(), C.numpy(), eps)
        value = float(np.add.reduce(P * C.numpy(), None))
        centred = f - np.add.reduce(f / len(f)), g - np.add.reduce(g / len(g))
        P, f, g, *derivatives = map(torch.from_numpy, (P, f, g, *centred))
        problem = Penalised(a, b, C, *penalties, reg)
        return TransportSolution(P, f, g, tuple(derivatives), value, problem)
    if all(held):
        return _entropic(a, b * (a.sum() / b.sum()), C, reg, eps)
    if C.min() < 0:
        raise ValueError(
            f"costs must not be negative, got {float(C.min()):.3g}. Use squared distances."
        )
    penalties = _prescribed(penalties, C)
    totals = float(a.sum()), float(b.sum())
    if reg and not totals[0] * totals[1] < MOST_MASS:
        raise ValueError(
            f"weights must have totals of a product below {MOST_MASS:.0e} with reg, got "
            f"{totals[0]:.1e} and {totals[1]:.1e}. Divide them by their sums."
        )
    large = any(LARGE_PENALTY * C.max() < lam < math.inf for lam in penalties) and bool(C.max() > 0)
    if large and abs(totals[0] - totals[1]) <= max(EQUAL, ROUNDINGS * eps) * max(totals):
        b = b * (totals[0] / totals[1])
        penalties = _bounded_penalties(penalties, C)
    P, f, g, value = _penalised(a, b, C, penalties, reg)
    if math.isinf(value):
        raise ValueError(
            "weights must have a transport cost in the range of float64, got totals of "
            f"{totals[0]:.1e} and {totals[1]:.1e}. Divide them by their sums."
        )
    derivatives = (
        _derivative(f, penalties[0], reg, float(b.sum())),
        _derivative(g, penalties[1], reg, float(a.sum())),
    )
    return TransportSolution(P, f, g, derivatives, value, Penalised(a, b, C, *penalties, reg))


def _entropic(a, b, C, reg, eps) -> TransportSolution:
    """Entropic transport with prescribed marginals.

    The potentials of the exact plan are subtracted from the costs first. This does not change the
    optimal plan, and of the remaining costs only those not large against ``reg`` matter.
    """
    P, *potentials = network_simplex(a.numpy(), b.numpy(), C.numpy(), eps)
    P, f, g = (torch.from_numpy(t) for t in (P, *potentials))
    S = (C - f.unsqueeze(1) - g).clamp(min=0).masked_fill(P > 0, 0)
    constant, mass = float((P * (C - S)).sum()), float(a.sum())
    P, df, dg, value = _penalised(a / mass, b / mass, S, (math.inf, math.inf), reg)
    P, f, g = _with_marginals(P, a / mass, b / mass), f + df, g + dg
    # KL(m P | m^2 a b^T) = m KL(P | a b^T) + m^2 - m - m log m, for P, a and b of sum one
    value = constant + mass * value
    if abs(mass - 1) > EQUAL:
        value += reg * mass * (mass - 1 - math.log(mass))
    problem = Penalised(a, b, C, math.inf, math.inf, reg)
    return TransportSolution(mass * P, f, g, (f - f.mean(), g - g.mean()), value, problem)


def _with_marginals(P: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The plan with marginals of sum one that are right to rounding, where they were not.

    Rows and columns that have too much are scaled down, and what is then missing is added.
    """
    if max((P.sum(1) - a).abs().max(), (P.sum(0) - b).abs().max()) <= ROUNDED_MARGINALS:
        return P
    P = P * torch.where(P.sum(1) > a, a / P.sum(1), 1.0).unsqueeze(1)
    P = P * torch.where(P.sum(0) > b, b / P.sum(0), 1.0)
    rows, columns = (a - P.sum(1)).clamp(min=0), (b - P.sum(0)).clamp(min=0)
    return P + rows.unsqueeze(1) * (columns / columns.sum().clamp(min=torch.finfo(P.dtype).tiny))


def _prescribed(penalties, C: Tensor) -> tuple[float, float]:
    """Make a penalty infinite where it prescribes its marginal to rounding, but not both."""
    lam0, lam1 = penalties
    larger = PRESCRIBING_PENALTY * max(min(penalties), float(C.max()))
    if max(penalties) < larger:
        return penalties
    return (math.inf, lam1) if lam0 > lam1 else (lam0, math.inf)


def _bounded_penalties(penalties, C: Tensor) -> tuple[float, float]:
    """Bound penalties to a size with the same minimum, at which rounding is not a cost."""
    bound = PRESCRIBING_PENALTY * float(C.max())
    return tuple(lam if math.isinf(lam) else min(lam, bound) for lam in penalties)


def _derivative(f: Tensor, lam: float, reg: float, total: float) -> Tensor:
    """The derivative of the cost in the weights of one side, given its potentials.

    It is ``phi(f) + reg (total - P @ 1 / a)``, where the other side's weights sum to ``total``.
    """
    derivative = conjugate(f, lam)
    return derivative + reg * (total - 1 + derivative / lam)


def _penalised(a, b, C, penalties, reg) -> tuple[Tensor, Tensor, Tensor, float]:
    """Plan, potentials and value of a penalised problem; weights may be zero."""
    k, l = a > 0, b > 0
    if k.all() and l.all():
        f, g, P, value = _solved(Penalised(a, b, C.contiguous(), *penalties, reg))
        return P, f, g, value
    given = Penalised(a[k], b[l], C[k][:, l], *penalties, reg)
    f, g, inner, value = _solved(given)
    P = torch.zeros_like(C)
    P[k.unsqueeze(1) & l] = inner.flatten()
    f, g = extended(f, g, C, k, l, given)
    return P, f, g, value


def _solved(given: Penalised) -> tuple[Tensor, Tensor, Tensor, float]:
    """Potentials, plan and value of a problem, or of a simpler one of the same solution."""
    try:
        return _solve(given)
    except RuntimeError:
        found = solve_by_simpler(given, _solve)
        if found is None:
            raise
        return found


def _solve(given: Penalised) -> tuple[Tensor, Tensor, Tensor, float]:
    """Potentials, plan and value with a certified gap, by the solver that fits the problem."""
    problem, df, dg, mass, constant = _centred(given)
    cuts = [COST_CUTOFFS[-1]] if all(math.isinf(lam) for lam in given[3:5]) else COST_CUTOFFS
    while True:
        try:
            f, g, plan, value = _solve_cut_off(problem, cuts[0])
            return f + df, g + dg, mass * plan, mass * value + constant
        except RuntimeError:  # try again with a larger cut-off
            if len(cuts) == 1:
                raise
            cuts = cuts[1:]


def _solve_cut_off(problem: Penalised, cut: float) -> tuple[Tensor, Tensor, Tensor, float]:
    """Potentials, plan and value with a certified gap, found with costs cut off at a bound."""
    near = _cut_off(problem, cut)
    plan, largest, reg = _simple_plan(near), float(near.C.abs().max()), problem.reg
    rounding = max(ZERO_COST * largest, rounding_penalty(problem))
    negligible = NEGLIGIBLE_COST * reg * float(problem.a.sum() * problem.b.sum())
    value = float((plan * near.C).sum())  # penalties, which take longer, can only add to it
    if not reg or value <= max(rounding, negligible):
        value = near.primal(plan)
    free = value <= rounding  # whether the plan is optimal to rounding
    if reg and value <= negligible:
        free |= float((plan * near.C.square()).sum()) <= NEGLIGIBLE_COST * reg * value
    if free and near.C.min() >= 0 and problem.primal(plan) <= value:
        f, g = _simple_potentials(problem)
        check_optimal(problem, f, g, plan, value)
        return f, g, plan, value
    unit = (largest if reg else value) or 1.0
    f, g, plan, value = _solve_certified(problem.in_unit(unit), near.in_unit(unit))
    if not reg and 0 < value < SMALL_VALUE:  # else rounding would be that of a larger cost
        with contextlib.suppress(RuntimeError):
            scale = unit * value
            f, g, plan, value = _solve_certified(problem.in_unit(scale), near.in_unit(scale))
            unit = scale
    return unit * f, unit * g, plan, unit * value


def _centred(problem: Penalised) -> tuple[Penalised, Tensor, Tensor, float, float]:
    """The same problem with totals of one and, if semi-relaxed, without what all plans cost.

    Also returns what is then missing from the potentials, by what mass plan and value are to be
    multiplied, and what is then missing from the value. The mass is the one at which totals add
    nothing to the costs: that of a prescribed marginal, or a geometric mean of the totals.
    Problems with both marginals prescribed stay as they are.
    """
    a, b, C, lam0, lam1, reg = problem
    rows, columns = torch.zeros_like(a), torch.zeros_like(b)
    held = math.isinf(lam0), math.isinf(lam1)
    if all(held):
        return problem, rows, columns, 1.0, 0.0
    A, B = float(a.sum()), float(b.sum())
    log_a, log_b, largest = math.log(A), math.log(B), max(lam0, lam1, reg)
    shares = [*map(float, held), 0.0] if any(held) else [v / largest for v in (lam0, lam1, reg)]
    s0, s1, s2 = (share / sum(shares) for share in shares)
    # logarithms of the mass over A, B and A B
    over = s1 * (log_b - log_a) + s2 * log_b, s0 * (log_a - log_b) + s2 * log_a
    over_both = -(s0 * log_b + s1 * log_a)
    _, total, log_share = min(zip(map(abs, over), (A, B), over, strict=True))
    mass, constant = total * math.exp(log_share), 0.0
    for lam, t, total in ((lam0, over[0], A), (lam1, over[1], B), (reg, over_both, A * B)):
        if 0 < lam < math.inf:
            constant += lam * _divergence_of_totals(mass, total, t)
    if held[0]:
        rows = C.amin(1)
        shifts = lam1 * over[1] + reg * over_both, -lam1 * over[1]
    elif held[1]:
        columns = C.amin(0)
        shifts = -lam0 * over[0], lam0 * over[0] + reg * over_both
    else:
        shifts = -lam0 * over[0], -lam1 * over[1]
    constant += float(a @ rows + b @ columns)
    centred = problem._replace(a=a / A, b=b / B, C=C - rows.unsqueeze(1) - columns)
    return centred, rows + shifts[0], columns + shifts[1], mass, constant


def _divergence_of_totals(p: float, q: float, log_ratio: float) -> float:
    """``KL(p | q)`` of two numbers, given ``log(p / q)``."""
    if abs(log_ratio) < 1:
        return p * (math.expm1(-log_ratio) + log_ratio)
    return p * (log_ratio - 1) + q


def _cut_off(problem: Penalised, cut: float) -> Penalised:
    """The problem with costs cut off at a multiple of the penalties plus ``reg``.

    Where mass is moved, ``C = f + g - reg log(P / a b^T)``, with ``f = -lam0 log(P @ 1 / a)`` where
    the source is penalised, and ``f <= -g`` at a cost of zero where it is prescribed. Entries with
    larger costs therefore have negligible mass.
    """
    largest = cut * (problem.reg + sum(v for v in problem[3:5] if not math.isinf(v)))
    return problem._replace(C=problem.C.clamp(max=largest))


def _solve_certified(problem: Penalised, near: Penalised) -> tuple[Tensor, Tensor, Tensor, float]:
    """Potentials, plan and value with a certified gap, by the solver that fits the problem."""
    held = math.isinf(problem.lam0), math.isinf(problem.lam1)
    if problem.reg and any(held) and not all(held) and problem.C.max() <= problem.reg:
        solvers = [sinkhorn]
    elif problem.reg:
        solvers = [semi_dual.newton, all_pairs.solve]
    elif problem.C.numel() >= MIN_SPARSE_COSTS:
        solvers = [few_pairs.solve, few_pairs.solve_on_all]
    else:
        solvers = [all_pairs.solve, few_pairs.solve_on_all]
    # the first is faster, the second more robust
    attempts = [functools.partial(_solved_by, solver, problem, near) for solver in solvers]
    if all(held):  # the logarithmic form is slower, and keeps all digits of small weights
        are_small = min(problem.a.min(), problem.b.min()) <= MIN_PLAIN_WEIGHT
        attempts.insert(0 if are_small else len(attempts), lambda: _in_logarithms(problem))
    for attempt in attempts:
        try:
            return attempt()
        except RuntimeError as error:
            failure = error
    raise failure


def _solved_by(solver, problem: Penalised, near: Penalised) -> tuple[Tensor, Tensor, Tensor, float]:
    """Potentials, plan and value with a certified gap, by a solver."""
    f, g, P, *_ = solver(near)
    return f, g, *_certified(problem, near, f, g, P)


def _in_logarithms(problem: Penalised) -> tuple[Tensor, Tensor, Tensor, float]:
    """Potentials, plan and value with a certified gap, by the logarithmic form."""
    f, g, P, value = log_domain_newton(problem)
    check_optimal(problem, f, g, P, value)
    return f, g, P, value


def _certified(
    problem: Penalised, near: Penalised, f: Tensor, g: Tensor, P: Tensor
) -> tuple[Tensor, float]:
    """A plan whose gap to the dual objective is small, sparse if possible, and its value.

    Potentials of the problem with costs cut off are a lower bound for this one, too, if the plan
    does not use these costs. Costs are in units of the cost of a simple plan, or with entropy of
    the largest cost.
    """
    if not problem.reg:
        with contextlib.suppress(RuntimeError):
            return _checked(problem, near, f, g, _between_marginals(near, f, g))
    return _checked(problem, near, f, g, P)


def _checked(problem: Penalised, near: Penalised, f, g, P) -> tuple[Tensor, float]:
    """A plan without pairs that are cut off, of the prescribed marginal, and its value."""
    P = _with_prescribed_marginal(P.masked_fill(near.C < problem.C, 0), problem)
    value = problem.primal(P)
    check_optimal(near, f, g, P, value)  # which the potentials are for, and has lower costs
    return P, value


def _with_prescribed_marginal(P: Tensor, problem: Penalised) -> Tensor:
    """Rescale a plan to meet a prescribed marginal, if there is one."""
    held = math.isinf(problem.lam0), math.isinf(problem.lam1)
    if held == (True, False):
        return P * (problem.a / P.sum(1)).unsqueeze(1)
    if held == (False, True):
        return P * (problem.b / P.sum(0))
    return P


def _simple_plan(problem: Penalised) -> Tensor:
    """A nearly optimal plan: the independent one, the exact one between the weights, or zero."""
    a, b, C, lam0, lam1, reg = problem
    if reg:
        total = b.sum() if math.isinf(lam0) else a.sum() if math.isinf(lam1) else 1.0
        return problem.independent() / total
    total = b.sum() if math.isinf(lam1) else a.sum()
    plan, *_ = network_simplex(*(t.numpy() for t in (a / a.sum(), b / b.sum(), C)))
    plan = total * torch.from_numpy(plan)
    none = torch.zeros_like(plan)
    held = math.isinf(lam0) or math.isinf(lam1)
    return plan if held or problem.primal(plan) <= problem.primal(none) else none


def _simple_potentials(problem: Penalised) -> tuple[Tensor, Tensor]:
    """Potentials of a simple plan that is optimal to rounding."""
    a, b, C, lam0, lam1, reg = problem
    f, g = torch.zeros_like(a), torch.zeros_like(b)
    if reg:  # one Sinkhorn sweep, whose error is about (C / reg)^2
        f = softmin(C, b, reg, lam0)
        g = softmin((C - f.unsqueeze(1)).mT, a, reg, lam1)
    return f, g


def _between_marginals(problem: Penalised, f: Tensor, g: Tensor) -> Tensor:
    """The exact plan between the marginals that penalties assign to potentials."""
    p, q = marginal(f, problem.lam0, problem.a), marginal(g, problem.lam1, problem.b)
    total = q.sum() if math.isinf(problem.lam1) else p.sum()  # that of a prescribed marginal
    if min(p.sum(), q.sum()) == 0:
        return torch.zeros_like(problem.C)
    weights = (t.numpy() / float(t.sum()) for t in (p, q))
    return total * torch.from_numpy(sparse_exact(*weights, problem.C.numpy(), g.numpy()).dense())
