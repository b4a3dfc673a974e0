"""Discrete optimal transport between two weight vectors, differentiable in weights and costs.

A solver takes marginals ``a (K,)``, ``b (L,)`` and costs ``C (K, L)`` and returns a `Plan`. `solve`
chooses among the solvers by the penalties. ``KL(p | q) = sum p log(p / q) - p + q``.
"""

import math
from collections.abc import Callable
from numbers import Real

import numpy as np
import torch
from torch import Tensor

from skgmmot.transport.discrete.bounded import BoundedCosts, solve_in_step
from skgmmot.transport.discrete.penalised import TransportSolution, solve_constants
from skgmmot.transport.discrete.plan import Plan

#: Largest cost: sums of a few costs and potentials are then numbers, too.
LARGEST_COST = 2.0**1020


def exact(a: Tensor, b: Tensor, C: Tensor) -> Plan:
    r"""Solve discrete optimal transport exactly, by the network simplex.

    .. math:: \min_{P \ge 0} \langle P, C\rangle, \qquad P 1 = a, \quad P^T 1 = b

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
        If a cost or a weight is NaN or infinite, or a cost above 1e307.
    RuntimeError
        If the network simplex stops early, or the duality gap of its plan exceeds 1e-9 of the cost
        that remains after subtracting the minima of rows and columns.

    Notes
    -----
    Solved in float64. The marginals of ``P`` are right to 1e-12 of the total. For weights in
    float32, mass of the size of their rounding is dropped if it would make up much of the cost.
    Weights of different dtypes are compared in the coarser one.
    """
    return solve(a, b, C)


def entropic(a: Tensor, b: Tensor, C: Tensor, reg: float) -> Plan:
    r"""Solve discrete optimal transport with entropic regularisation.

    .. math::

        \min_{P \ge 0} \langle P, C\rangle + \mathrm{reg}\, KL(P \mid a b^T),
        \qquad P 1 = a, \quad P^T 1 = b

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
        Its cost is the minimum, entropy included: zero only if ``C`` is zero, and not less than
        that of `exact`. Gradients as in `exact`.

    Raises
    ------
    ValueError
        If a cost, a weight or ``reg`` is NaN, infinite or of the wrong sign, or a cost above 1e307.
    RuntimeError
        If it does not converge.

    Notes
    -----
    Solved by Newton steps on the dual, in about the same time for any ``reg``, where Sinkhorn's
    iteration needs in the order of ``max(C) / reg`` sweeps.

    References
    ----------
    .. [1] Cuturi 2013, entropic optimal transport.
    """
    return solve(a, b, C, reg=_penalty("reg", reg))


def unbalanced(
    a: Tensor, b: Tensor, C: Tensor, reg_m: float | tuple[float, float], reg: float = 0.0
) -> Plan:
    r"""Solve unbalanced discrete optimal transport, whose marginals are penalised.

    .. math::

        \min_{P \ge 0} \langle P, C\rangle + \lambda_0 KL(P 1 \mid a)
            + \lambda_1 KL(P^T 1 \mid b) + \mathrm{reg}\, KL(P \mid a b^T)

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
        cost above which mass is destroyed and created instead of transported. One number is used
        for both; ``math.inf`` prescribes that marginal (semi-relaxed transport).
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
        If a cost, a weight or a penalty is NaN, infinite or of the wrong sign, or a cost above
        1e307.
    RuntimeError
        If the duality gap stays above 1e-8 of the cost that remains after subtracting the minima
        along a prescribed marginal and the cost of the difference of the totals.

    Notes
    -----
    The potentials, and with them the marginals, are found by an interior-point method; with
    entropy by Newton's method on the dual, or by Sinkhorn's iteration if one marginal is prescribed
    and no cost is above ``reg``. Without entropy, the plan is then the exact one between these
    marginals.

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
        Penalties of the marginals; None prescribes both.

    Returns
    -------
    Plan
        That of `exact`, `entropic` or `unbalanced`.

    Raises
    ------
    ValueError
        If a cost, a weight or a penalty is NaN, infinite or of the wrong sign, or a cost above
        1e307.
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
    tangent: Callable[[Tensor, Tensor], Tensor] | None = None,
    tighter: Callable[[], Tensor] | None = None,
    reg_m: float | tuple[float, float] | None = None,
) -> Plan:
    """Solve discrete optimal transport while computing only the costs that the plan may use.

    A plan that is optimal for lower bounds of the costs, and uses only pairs whose bounds are the
    costs themselves, is optimal. So bounds are replaced by costs where the plan uses them or might
    use them, until it uses no others. Before many costs would be computed, all bounds are replaced
    by tighter ones.

    Parameters
    ----------
    a : Tensor of shape (K,)
        Source weights.
    b : Tensor of shape (L,)
        Target weights.
    lower : Tensor of shape (K, L)
        Lower bounds of the costs, not negative.
    costs : callable
        ``costs(k, l)`` returns the costs ``(n,)`` of the pairs of two index tensors, as constants.
    tangent : callable, default=None
        ``tangent(k, l)`` returns zeros ``(n,)`` with the derivatives of these costs; called once,
        with the pairs that the plan uses. None are constants.
    tighter : callable, default=None
        ``tighter()`` returns tighter lower bounds ``(K, L)``, which take longer to compute; called
        at most once.
    reg_m : float, tuple of two floats or None, default=None
        Penalties of the marginals; None prescribes both.

    Returns
    -------
    Plan
        That of `solve` on the matrix of all costs; its cost is differentiable in ``a``, ``b`` and
        what ``tangent`` is differentiable in.

    Raises
    ------
    ValueError
        If a bound, a weight or a penalty is NaN, infinite or of the wrong sign.
    RuntimeError
        If it does not converge.
    """
    penalties = penalties_of(reg_m)
    a_, b_, bounds = _constants(a, b, lower)

    def compute(*pairs):
        found = costs(*(torch.from_numpy(index).to(lower.device) for index in pairs))
        return found.to("cpu", torch.float64).numpy()

    def tightened():
        return tighter().detach().to("cpu", torch.float64).numpy()

    def solve_with(_, C):
        return solve_constants(a_, b_, torch.from_numpy(C), penalties, 0.0, _precision(a, b))

    known = BoundedCosts(bounds.numpy(), compute, tighter=tighter and tightened)
    (solution,) = solve_in_step(known, [slice(None)], solve_with)
    lowest = torch.from_numpy(np.where(known.known, known.C, known.bounds))
    solution = solution._replace(problem=solution.problem._replace(C=lowest))
    plan = _as_plan(a, b, lower.detach(), solution)
    if tangent is None:
        return plan
    used = plan.coupling.nonzero(as_tuple=True)
    return plan._replace(cost=plan.cost + plan.coupling[used] @ tangent(*used))


def same_precision(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return weights rounded to the coarser of their dtypes, in which equal weights compare equal.

    Parameters
    ----------
    a, b : Tensor of shape (K,) and (L,)
        Weights.

    Returns
    -------
    tuple of two Tensors
        The weights, both in the dtype with fewer digits.
    """
    if a.dtype == b.dtype:
        return a, b
    coarser = max(a.dtype, b.dtype, key=lambda dtype: torch.finfo(dtype).eps)
    return a.to(coarser), b.to(coarser)


def penalties_of(reg_m: float | tuple[float, float] | None) -> tuple[float, float]:
    """Validate the penalties of the marginals, and return one for each.

    Parameters
    ----------
    reg_m : float, tuple of two floats or None
        The argument of the user.

    Returns
    -------
    tuple of two floats
        ``(lam0, lam1)``, infinite where the marginal is prescribed.

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
    """Validate the weight of the entropy, and return it as a float.

    Parameters
    ----------
    reg : float
        The argument of the user.

    Returns
    -------
    float
        The weight.

    Raises
    ------
    TypeError
        If it is not a number.
    ValueError
        If it is negative or not finite.
    """
    return _penalty("reg", reg, zero=True)


def _penalty(name: str, value, *, zero: bool = False, infinite: bool = False) -> float:
    """Validate a penalty, and return it as a float."""
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
    """Weights and costs as float64 constants on the CPU, checked to be finite."""
    a, b, C = (t.detach().to("cpu", torch.float64) for t in (*same_precision(a, b), C))
    sizes = [np.maximum.reduce(np.abs(t.numpy()), None) for t in (a, b, C)]
    if not math.isfinite(sum(sizes)):
        raise ValueError(
            "weights and costs must be finite, got NaN or infinity. Check the two distributions."
        )
    if sizes[2] > LARGEST_COST:
        raise ValueError(
            f"costs must be at most {LARGEST_COST:.0e}, got {sizes[2]:.1e}, so that sums of "
            "potentials stay within float64. Choose a larger unit."
        )
    return a, b, C


def _precision(a: Tensor, b: Tensor) -> float:
    """The machine epsilon of the coarser dtype of two weights."""
    return max(torch.finfo(weights.dtype).eps for weights in (a, b))


def _as_plan(a: Tensor, b: Tensor, C: Tensor, solution: TransportSolution) -> Plan:
    """Convert a solution to the dtype and device of the costs, and attach the cost's gradients."""
    P, f, g = (t.to(C) for t in (solution.P, *solution.derivatives))
    cost = C.new_full((), solution.value)
    if a.requires_grad or b.requires_grad or C.requires_grad:
        cost = _Envelope.apply(a, b, C, f, g, P, cost)
    return Plan(P, f, g, cost, solution)


class _Envelope(torch.autograd.Function):
    """The minimum as a function of weights and costs: its derivatives are potentials and plan."""

    @staticmethod
    def forward(ctx, a: Tensor, b: Tensor, C: Tensor, f: Tensor, g: Tensor, P: Tensor, cost):
        ctx.save_for_backward(f, g, P)
        return cost

    @staticmethod
    def backward(ctx, cotangent: Tensor):
        gradients = zip(ctx.saved_tensors, ctx.needs_input_grad, strict=False)
        slopes = (cotangent * slope if needed else None for slope, needed in gradients)
        return *slopes, None, None, None, None
