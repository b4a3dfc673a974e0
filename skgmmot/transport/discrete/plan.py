"""Optimal transport between two weight vectors, with POT inside.

A solver takes marginals ``a (K,)``, ``b (L,)`` and costs ``C (K, L)`` and returns a `Plan`; `solve`
chooses among them by the penalties it is given. ``KL(p | q) = sum p log(p / q) - p + q``.
"""

import math
from collections.abc import Callable
from numbers import Real
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from skgmmot.transport.discrete.penalised import TransportSolution, solve_constants

#: Bounds are tightened before more than this share of the costs are computed.
MANY = 0.25


class Plan(NamedTuple):
    """A transport plan, its potentials and its cost."""

    coupling: Tensor
    """``P (K, L)``: the mass moved from each source component to each target component."""
    source_potential: Tensor
    """``f (K,)``: the derivative of the cost in ``a``; of mean zero if both marginals are held."""
    target_potential: Tensor
    """``g (L,)``: the derivative of the cost in ``b``, likewise."""
    cost: Tensor
    """What was minimised, penalties included, differentiable in ``a``, ``b`` and ``C``. The part
    that is transport alone is ``sum(P * C)``."""


def exact(a: Tensor, b: Tensor, C: Tensor) -> Plan:
    """Solve discrete optimal transport exactly, by the network simplex.

    ``min_P sum(P * C)`` over ``P >= 0`` with ``P @ 1 = a`` and ``P.T @ 1 = b``.

    Parameters
    ----------
    a : Tensor of shape (K,)
        Source weights.
    b : Tensor of shape (L,)
        Target weights, rescaled to the total of ``a``.
    C : Tensor of shape (K, L)
        Costs.

    Returns
    -------
    Plan
        The plan is a constant; its cost carries the gradients of the envelope theorem: ``P`` in
        the costs, the dual potentials (centred: they live on the simplex's tangent) in the weights.

    Raises
    ------
    ValueError
        If a cost or a weight is NaN or infinite.
    RuntimeError
        If the network simplex stops early, or its plan cannot be proven optimal: the gap to the
        dual problem must be 1e-9 at most of the cost that is left when the minima of rows and
        columns are taken away.

    Notes
    -----
    Solved in float64. The marginals of ``P`` are right to 1e-12 of the total; of weights in
    float32, mass of the size of their rounding goes nowhere if it would make up the cost. Weights
    of different dtypes are compared in the coarser one.
    """
    return solve(a, b, C)


def entropic(a: Tensor, b: Tensor, C: Tensor, reg: float) -> Plan:
    """Solve discrete optimal transport with an entropy, which spreads the plan.

    ``min_P sum(P * C) + reg KL(P | a b^T)`` over ``P >= 0`` with ``P @ 1 = a`` and ``P.T @ 1 = b``.

    Parameters
    ----------
    a : Tensor of shape (K,)
        Source weights.
    b : Tensor of shape (L,)
        Target weights, rescaled to the total of ``a``.
    C : Tensor of shape (K, L)
        Costs.
    reg : float
        Weight of the entropy, positive, in the unit of the costs.

    Returns
    -------
    Plan
        Its cost is the minimum, entropy included: zero only if ``C`` is, and not less than that of
        `exact`. Gradients as there.

    Raises
    ------
    ValueError
        If a cost, a weight or ``reg`` is not a number that it can be.
    RuntimeError
        If it does not converge.

    Notes
    -----
    Solved by Newton steps, in about the same time for any ``reg``, where Sinkhorn's iteration
    needs in the order of ``max(C) / reg`` sweeps.

    References
    ----------
    .. [1] Cuturi 2013, entropic optimal transport.
    """
    return solve(a, b, C, reg=_penalty("reg", reg))


def unbalanced(
    a: Tensor, b: Tensor, C: Tensor, reg_m: float | tuple[float, float], reg: float = 0.0
) -> Plan:
    """Solve discrete optimal transport whose marginals are penalised instead of held.

    ``min_{P >= 0} sum(P * C) + lam0 KL(P @ 1 | a) + lam1 KL(P.T @ 1 | b) + reg KL(P | a b^T)``

    Parameters
    ----------
    a : Tensor of shape (K,)
        Source weights.
    b : Tensor of shape (L,)
        Target weights; of another total than ``a`` if a penalty is finite.
    C : Tensor of shape (K, L)
        Costs, not negative.
    reg_m : float or tuple of two floats
        Penalties ``(lam0, lam1)`` of the source and the target, in the unit of the costs: about the
        cost above which mass is destroyed and made instead of moved. One number is both;
        ``math.inf`` holds that marginal (semi-relaxed transport).
    reg : float, default=0.0
        Weight of the entropy.

    Returns
    -------
    Plan
        Its cost is the minimum, penalties included. The potentials are the derivatives in the
        weights, ``lam0 (1 - P @ 1 / a)`` where the source is penalised. Without entropy at most
        ``K + L - 1`` entries of the plan are positive.

    Raises
    ------
    ValueError
        If a cost, a weight or a penalty is not a number that it can be.
    RuntimeError
        If the gap to the dual problem stays above 1e-8 of the cost that is left when the minima
        along a marginal that is held, and what the difference of the totals costs, are taken away.

    Notes
    -----
    An interior-point method finds the potentials and with them both marginals (Sinkhorn's
    iteration, where one is held and no cost is above ``reg``); without entropy, the plan is then
    the exact one between these.

    References
    ----------
    .. [1] Chizat, Peyre, Schmitzer and Vialard 2018, unbalanced transport and its dual.
    """
    return solve(a, b, C, reg=reg, reg_m=reg_m)


def solve(
    a: Tensor,
    b: Tensor,
    C: Tensor,
    *,
    reg: float = 0.0,
    reg_m: float | tuple[float, float] | None = None,
) -> Plan:
    """Solve discrete optimal transport: exact, entropic, unbalanced or semi-relaxed.

    Parameters
    ----------
    a : Tensor of shape (K,)
        Source weights.
    b : Tensor of shape (L,)
        Target weights.
    C : Tensor of shape (K, L)
        Costs.
    reg : float, default=0.0
        Weight of the entropy; 0 is without.
    reg_m : float, tuple of two floats or None, default=None
        Penalties of the marginals; None holds both.

    Returns
    -------
    Plan
        That of `exact`, `entropic` or `unbalanced`.

    Raises
    ------
    ValueError
        If a cost, a weight or a penalty is not a number that it can be.
    RuntimeError
        If it does not converge.
    """
    penalties, reg = penalties_of(reg_m), entropy_of(reg)
    problem = _constants(a, b, C)
    return _as_plan(a, b, C, solve_constants(*problem, penalties, reg, _precision(a, b)))


def solve_bounded(
    a: Tensor,
    b: Tensor,
    lower: Tensor,
    costs: Callable[[Tensor, Tensor], Tensor],
    *,
    tighter: Callable[[], Tensor] | None = None,
    reg_m: float | tuple[float, float] | None = None,
) -> Plan:
    """Solve discrete optimal transport whose costs are dear to compute, by computing few of them.

    A plan that is optimal for lower bounds of the costs, and uses only pairs whose bounds are the
    costs themselves, is optimal. So bounds are replaced by costs where the plan uses them, and
    where it might, until it uses no others; and all by tighter bounds, before many are.

    Parameters
    ----------
    a : Tensor of shape (K,)
        Source weights.
    b : Tensor of shape (L,)
        Target weights.
    lower : Tensor of shape (K, L)
        Lower bounds of the costs, not negative.
    costs : callable
        ``costs(k, l)`` returns the costs ``(n,)`` of the pairs of two index tensors.
    tighter : callable, default=None
        ``tighter()`` returns other lower bounds ``(K, L)``, closer and dearer; called at most once.
    reg_m : float, tuple of two floats or None, default=None
        Penalties of the marginals; None holds both.

    Returns
    -------
    Plan
        That of `solve` on the matrix of all costs; its cost is differentiable in ``a``, ``b`` and
        what ``costs`` are differentiable in.

    Raises
    ------
    ValueError
        If a bound, a weight or a penalty is not a number that it can be.
    RuntimeError
        If it does not converge.
    """
    penalties = penalties_of(reg_m)
    a_, b_, bounds = _constants(a, b, lower)
    C = bounds.clone()  # costs that are known, and guesses of the others
    asked, position = [], torch.full(C.shape, -1)  # where the costs of a pair are among those asked
    while True:
        solution = solve_constants(a_, b_, C, penalties, 0.0, _precision(a, b))
        may_be_used = bounds < solution.f.unsqueeze(1) + solution.g
        wanted = (position < 0) & (may_be_used | (solution.P > 0))
        if not wanted.any():
            break
        if tighter is not None and wanted.double().mean() > MANY:
            bounds, tighter = torch.maximum(bounds, tighter().to(bounds)), None
        else:
            k, l = wanted.nonzero(as_tuple=True)
            position[k, l] = torch.arange(len(k)) + sum(len(t) for t in asked)
            asked.append(costs(k.to(lower.device), l.to(lower.device)))
            C[k, l] = asked[-1].detach().to(C)
        known = position >= 0
        # Where bounds are as far below the costs as they were so far.
        C = torch.where(known, C, bounds + (C - bounds)[known].mean().nan_to_num().clamp(min=0))
    plan = _as_plan(a, b, lower.detach(), solution)
    k, l = solution.P.nonzero(as_tuple=True)
    used = torch.cat(asked)[position[k, l].to(lower.device)] if asked else lower.new_zeros(0)
    return plan._replace(cost=plan.cost + plan.coupling[k, l] @ (used - used.detach()))


def same_precision(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return weights in the coarser of their dtypes, in which equal ones are equal.

    Parameters
    ----------
    a, b : Tensor of shape (K,) and (L,)
        Weights.

    Returns
    -------
    tuple of two Tensors
        The same; rounded to the other's dtype where that holds fewer digits.
    """
    if a.dtype == b.dtype:
        return a, b
    coarser = max(a.dtype, b.dtype, key=lambda dtype: torch.finfo(dtype).eps)
    return a.to(coarser), b.to(coarser)


def penalties_of(reg_m: float | tuple[float, float] | None) -> tuple[float, float]:
    """Return the penalties of both marginals.

    Parameters
    ----------
    reg_m : float, tuple of two floats or None
        What the user gave.

    Returns
    -------
    tuple of two floats
        ``(lam0, lam1)``, infinite where the marginal is held.

    Raises
    ------
    TypeError
        If a penalty is not a number.
    ValueError
        If it is not positive.
    """
    if reg_m is None:
        return math.inf, math.inf
    both = reg_m if isinstance(reg_m, tuple | list) else (reg_m, reg_m)
    if len(both) != 2:
        raise ValueError(
            f"reg_m must be one penalty or two, got {len(both)}. Give one for the source and one "
            "for the target."
        )
    return tuple(_penalty("reg_m", lam, infinite=True) for lam in both)


def entropy_of(reg: float) -> float:
    """Return the weight of the entropy.

    Parameters
    ----------
    reg : float
        What the user gave.

    Returns
    -------
    float
        The same.

    Raises
    ------
    TypeError
        If it is not a number.
    ValueError
        If it is negative or not finite.
    """
    return _penalty("reg", reg, zero=True)


def transposed(plan: Plan) -> Plan:
    """Return the plan from the target to the source.

    Parameters
    ----------
    plan : Plan
        The plan from the source to the target.

    Returns
    -------
    Plan
        The same plan the other way round.
    """
    return Plan(plan.coupling.mT, plan.target_potential, plan.source_potential, plan.cost)


def _penalty(name: str, value, *, zero: bool = False, infinite: bool = False) -> float:
    """A penalty as a number."""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(
            f"{name} must be a number, got {value!r}. It is a penalty in the unit of the costs."
        )
    value = float(value)
    if not ((value > 0 or (zero and value == 0)) and (value < math.inf or infinite)):
        requirement = "be " + ("" if infinite else "finite and ")
        requirement += "not negative" if zero else "positive"
        raise ValueError(
            f"{name} must {requirement}, got {value}. It is a penalty in the unit of the costs."
        )
    return value


def _constants(a: Tensor, b: Tensor, C: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weights and costs as the solvers want them: float64, on the CPU, and finite."""
    a, b, C = (t.detach().to("cpu", torch.float64) for t in (*same_precision(a, b), C))
    sizes = [np.maximum.reduce(np.abs(t.numpy()), None) for t in (a, b, C)]
    if not math.isfinite(sum(sizes)):
        raise ValueError(
            "weights and costs must be finite, got NaN or infinity. Check the two distributions."
        )
    return a, b, C


def _precision(a: Tensor, b: Tensor) -> float:
    """The relative precision of weights."""
    return max(torch.finfo(weights.dtype).eps for weights in (a, b))


def _as_plan(a: Tensor, b: Tensor, C: Tensor, solution: TransportSolution) -> Plan:
    """A solution in the dtype and on the device of the costs, with the gradients of its cost."""
    P, f, g = (t.to(C) for t in (solution.P, *solution.derivatives))
    cost = C.new_tensor(solution.value)
    # Added zeros whose derivatives are the plan and the potentials.
    for constant, variable in ((P, C), (f, a), (g, b)):
        if variable.requires_grad:
            cost = cost + (constant * (variable - variable.detach())).sum()
    return Plan(P, f, g, cost)
