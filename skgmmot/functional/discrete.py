"""Optimal transport between two weight vectors, with POT inside.

A solver takes marginals ``a (K,)``, ``b (L,)`` and costs ``C (K, L)`` and returns a `Plan`; `solve`
chooses among them by the penalties it is given. ``KL(p | q) = sum p log(p / q) - p + q``.
"""

import math
import warnings
from numbers import Real
from typing import NamedTuple

import numpy as np
import ot
import torch
from torch import Tensor

from skgmmot.functional import interior_point
from skgmmot.functional.interior_point import Penalised, conjugate, marginal

#: A solution is refused if its gap, relative to its cost, is larger.
GAP = 1e-8
#: A plan that costs less than this share of the largest cost is free.
NOTHING = 1e-16
#: Relative precision of the computations.
EPS = torch.finfo(torch.float64).eps


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
        If the network simplex stops early.
    """
    masses, costs = _as_problem(a, b, C)
    masses[1] = masses[1] * (masses[0].sum() / masses[1].sum())
    eps = max(torch.finfo(weights.dtype).eps for weights in (a, b))
    P, f, g = _network_simplex(*masses, costs, eps)
    k, l = (weights > 0 for weights in masses)
    if not (k.all() and l.all()):
        f, g = _extended(f[k], g[l], costs, k, l)
    f, g = f - f.mean(), g - g.mean()
    return _plan(a, b, C, P, f, g, (P * costs).sum())


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
    return unbalanced(a, b, C, math.inf, _penalty("reg", reg))


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
        If the relative gap to the dual problem stays above 1e-8.

    Notes
    -----
    An interior-point method finds the potentials and with them both marginals; without entropy,
    the plan is then the exact one between these.

    References
    ----------
    .. [1] Chizat, Peyre, Schmitzer and Vialard 2018, unbalanced transport and its dual.
    """
    penalties, reg = _penalties(reg_m), _penalty("reg", reg, zero=True)
    held = [math.isinf(lam) for lam in penalties]
    if not reg and all(held):
        return exact(a, b, C)
    masses, costs = _as_problem(a, b, C)
    if all(held):
        masses[1] = masses[1] * (masses[0].sum() / masses[1].sum())
    if costs.min() < 0 and not all(held):
        raise ValueError(
            f"costs must not be negative, got {float(costs.min()):.3g}. Use squared distances."
        )
    P, f, g, value = _penalised(*masses, costs, penalties, reg)
    totals = float(masses[1].sum()), float(masses[0].sum())
    f, g = (
        _derivative(t, lam, reg, total)
        for t, lam, total in zip((f, g), penalties, totals, strict=True)
    )
    if all(held):
        f, g = f - f.mean(), g - g.mean()
    return _plan(a, b, C, P, f, g, value)


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
    return unbalanced(a, b, C, math.inf if reg_m is None else reg_m, reg)


def _penalties(reg_m) -> tuple[float, float]:
    """Both penalties as numbers."""
    both = reg_m if isinstance(reg_m, tuple | list) else (reg_m, reg_m)
    if len(both) != 2:
        raise ValueError(
            f"reg_m must be one penalty or two, got {len(both)}. Give one for the source and one "
            "for the target."
        )
    return tuple(_penalty("reg_m", lam, infinite=True) for lam in both)


def _penalty(name: str, value, *, zero: bool = False, infinite: bool = False) -> float:
    """A penalty as a number."""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(
            f"{name} must be a number, got {value!r}. It is a penalty in the unit of the costs."
        )
    value = float(value)
    if not ((value > 0 or (zero and value == 0)) and (value < math.inf or infinite)):
        requirement = "not be negative" if zero else "be positive"
        requirement += "" if infinite else " and be finite"
        raise ValueError(
            f"{name} must {requirement}, got {value}. It is a penalty in the unit of the costs."
        )
    return value


def _as_problem(a: Tensor, b: Tensor, C: Tensor) -> tuple[list[Tensor], Tensor]:
    """Weights and costs as constants for the solvers: float64, on the CPU."""
    if not all(torch.isfinite(t).all() for t in (a, b, C)):
        raise ValueError(
            "weights and costs must be finite, got NaN or infinity. Check the two distributions."
        )
    a, b, C = (t.detach().to("cpu", torch.float64) for t in (a, b, C))
    return [a, b], C


def _plan(a, b, C, P, f, g, value) -> Plan:
    """A solution in the dtype and on the device of the costs, with the gradients of its cost."""
    P, f, g, value = (t.to(C) for t in (P, f, g, value))
    # Added zeros whose derivatives are the plan and the potentials.
    costs, sources, targets = (t - t.detach() for t in (C, a.to(C), b.to(C)))
    return Plan(P, f, g, value + (P * costs).sum() + f @ sources + g @ targets)


def _network_simplex(
    a: Tensor, b: Tensor, C: Tensor, eps: float = EPS
) -> tuple[Tensor, Tensor, Tensor]:
    """The exact plan between weights of one total and of relative precision eps; potentials."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # said again below, as an error
        coupling, log = ot.emd(
            *(np.ascontiguousarray(t) for t in (a, b, C)),
            numItermax=10**7,
            log=True,
            check_marginals=False,
        )
    if log["warning"]:
        raise RuntimeError(
            f"the network simplex must end at an optimum, got {log['warning']!r}. "
            "Rescale the costs, which should be finite and of comparable size."
        )
    P, f, g = (torch.as_tensor(v) for v in (coupling, log["u"], log["v"]))
    # Weights that differ in their last bit send that bit elsewhere. It is no transport: a mass of
    # the size of rounding that is most of neither weight it comes from and goes to.
    rounding = sum(P.shape) * eps * a.sum()
    limit = (torch.minimum(a.unsqueeze(1), b) / 2).clamp(max=rounding)
    return P.masked_fill(limit > P, 0), f, g


def _derivative(f: Tensor, lam: float, reg: float, total: float) -> Tensor:
    """The derivative of the cost in the weights of one side, given its potentials.

    ``phi(f) + reg (total - P @ 1 / a)``, where the other side's weights sum to ``total``.
    """
    derivative = conjugate(f, lam)
    return derivative + reg * (total - 1 + derivative / lam)


def _penalised(a, b, C, penalties, reg) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Plan, potentials and value of a penalised problem; weights may be zero."""
    k, l, mass = a > 0, b > 0, 1.0 if reg else float(max(a.sum(), b.sum()))
    problem = Penalised(a[k] / mass, b[l] / mass, C[k][:, l], *penalties, reg)
    inner, largest = _simple_plan(problem), float(C.abs().max())
    value = problem.primal(inner)
    free = value <= NOTHING * largest and bool(C.min() >= 0)  # no plan can cost less
    unit = (largest if reg else value) or 1.0
    problem, value = problem.in_unit(unit), value / unit
    f, g = torch.zeros_like(problem.a), torch.zeros_like(problem.b)
    if not free:
        f, g, inner, *_ = interior_point.solve(problem)
        inner, value = _certified(problem, f, g, inner)
    P = torch.zeros_like(C)
    P[k.unsqueeze(1) & l] = mass * inner.flatten()
    f, g = (unit * t for t in _extended(f, g, C / unit, k, l, problem))
    return P, f, g, torch.tensor(unit * mass * value, dtype=C.dtype)


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
    plan = total * _network_simplex(a / a.sum(), b / b.sum(), C)[0]
    none = torch.zeros_like(plan)
    held = math.isinf(lam0) or math.isinf(lam1)
    return plan if held or problem.primal(plan) <= problem.primal(none) else none


def _between_marginals(problem: Penalised, f: Tensor, g: Tensor) -> Tensor:
    """The exact plan between the marginals that belong to potentials."""
    p, q = marginal(f, problem.lam0, problem.a), marginal(g, problem.lam1, problem.b)
    total = q.sum() if math.isinf(problem.lam1) else p.sum()  # that of a marginal that is held
    if total == 0:
        return torch.zeros_like(problem.C)
    return total * _network_simplex(p / p.sum(), q / q.sum(), problem.C)[0]


def _extended(f, g, C, k, l, problem: Penalised | None = None) -> tuple[Tensor, Tensor]:
    """Potentials also at weights of zero: what a first bit of mass there would cost."""
    whole = C.new_zeros(len(C)), C.new_zeros(C.shape[1])
    whole[0][k], whole[1][l] = f, g
    if problem is None or not problem.reg:
        whole[0][~k] = (C[~k][:, l] - g).amin(1)
        whole[1][~l] = (C[:, ~l] - whole[0].unsqueeze(1)).amin(0)  # from all: feasible together
    else:
        whole[0][~k] = _softmin(C[~k][:, l] - g, problem.b, problem.reg, problem.lam0)
        whole[1][~l] = _softmin((C[k][:, ~l].mT - f), problem.a, problem.reg, problem.lam1)
    return whole


def _softmin(slack: Tensor, weights: Tensor, reg: float, lam: float) -> Tensor:
    """Potentials that make marginals right under entropy, one for each row of slacks."""
    return torch.logsumexp(weights.log() - slack / reg, dim=1) * (-reg / (1 + reg / lam))
