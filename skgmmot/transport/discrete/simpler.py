"""Penalised problems that no solver solves, from the solutions of simpler problems.

Weights, costs and penalties of very different sizes are more than float64 resolves at once. What
then matters is often the solution of a simpler problem: without entropy, with a marginal prescribed
instead of penalised, or without small weights that attract no mass. Its potentials and plan are
completed to ones of the whole problem, and accepted if they certify each other.
"""

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from skgmmot.transport.discrete.certificate import Certificate
from skgmmot.transport.discrete.entropic import GAP, softmin
from skgmmot.transport.discrete.interior_point.problem import Penalised, marginal
from skgmmot.transport.discrete.network_simplex import EPS, network_simplex
from skgmmot.transport.discrete.semi_dual import translation

#: Duality gaps up to this share of what the potentials make of a plan are rounding.
ROUNDING_GAP = 64 * EPS
#: Costs below this share of the largest one are zero, to rounding.
ZERO_COST = 1e-16
#: Totals that differ by less than this share, or by this many roundings of the weights, are equal.
EQUAL, ROUNDINGS = 1e-12, 8
#: A penalty above this multiple of the largest cost makes rounding of the weights count as cost.
LARGE_PENALTY = 1e6
#: Weights below one of these shares of the total are left out.
SMALL_SHARES = 0.0, 1e-14, 1e-40, 1e-100
#: Weights that attract more than this share of the mass are taken in again.
MIN_USED = 1e-18

#: Potentials, plan and value.
Solved = tuple[Tensor, Tensor, Tensor, float]


def solve_by_simpler(
    problem: Penalised, solve: Callable[[Penalised], Solved]
) -> tuple[Tensor, Tensor, Tensor, float] | None:
    """Solve a problem through a simpler one that has the same solution to rounding.

    Parameters
    ----------
    problem : Penalised
        The problem, with positive weights.
    solve : callable
        Returns potentials, plan and value of a problem, or raises RuntimeError.

    Returns
    -------
    tuple or None
        Potentials ``f (K,)``, ``g (L,)``, the plan ``(K, L)`` and its value, with a certified gap;
        None if no simpler problem has led to one.
    """
    for simpler, share in itertools.product(_simpler(problem), SMALL_SHARES):
        with contextlib.suppress(RuntimeError):
            f, g, P = _without_small(problem, simpler, share, solve)
            value = problem.primal(P)
            check_optimal(problem, f, g, P, value)
            return f, g, P, value
    return None


def check_optimal(problem: Penalised, f: Tensor, g: Tensor, P: Tensor, value: float) -> None:
    """Raise unless potentials certify a plan: the one rule by which penalised plans are accepted.

    The duality gap must be at most `GAP` of the cost, or else rounding: of marginals, of the
    largest cost, of which a share of `ZERO_COST` is zero, or of potentials not larger than that.

    Parameters
    ----------
    problem : Penalised
        The problem.
    f, g : Tensor of shape (K,) and (L,)
        Potentials.
    P : Tensor of shape (K, L)
        The plan.
    value : float
        Its cost.

    Raises
    ------
    RuntimeError
        If the gap is larger, or a prescribed marginal is wrong.
    """
    a, b, C, lam0, lam1, reg = (t.numpy() if isinstance(t, Tensor) else t for t in problem)
    known = Certificate((a, b), C, (lam0, lam1), reg, (f.numpy(), g.numpy()))
    mass, sums = float(P.sum()), (P.sum(1), P.sum(0))
    highest = mass * float(abs(C).max())
    priced = float(sums[0] @ f.abs() + sums[1] @ g.abs())
    rounding = ROUNDING_GAP * min(priced, highest) + ZERO_COST * highest
    rounding += rounding_penalty(problem) + reg * (ROUNDINGS * EPS) ** 2 * mass
    accepted = GAP * abs(value) + rounding
    gap = known.gap(P.numpy(), accepted)
    if not (gap <= accepted and _marginal_error(problem, *sums) <= EQUAL):
        raise RuntimeError(
            f"transport must be solved to a gap of {GAP} of its cost, got {gap:.2g} of "
            f"{value:.2g}. Rescale costs and penalties to comparable size."
        )


def _marginal_error(problem: Penalised, p: Tensor, q: Tensor) -> float:
    """Largest deviation from a prescribed marginal, relative to the total."""
    a, b, held = problem.a, problem.b, [math.isinf(lam) for lam in problem[3:5]]
    total = a.sum()
    if all(held):
        b = b * (total / b.sum())
    deviations = [(m - w).abs().max() for m, w, h in zip((p, q), (a, b), held, strict=True) if h]
    return float(max(deviations, default=0.0) / total)


def rounding_penalty(problem: Penalised) -> float:
    """Return the penalty of marginals that differ from the weights by rounding.

    Parameters
    ----------
    problem : Penalised
        The problem.

    Returns
    -------
    float
        The penalty.
    """
    lam = max((v for v in problem[3:5] if not math.isinf(v)), default=0.0)
    return lam * (ROUNDINGS * EPS) ** 2 * float(problem.a.sum() + problem.b.sum())


def extended(
    f: Tensor, g: Tensor, C: Tensor, k: Tensor, l: Tensor, part: Penalised
) -> tuple[Tensor, Tensor]:
    """Extend potentials to the weights that a problem leaves out: the marginal cost of mass there.

    Parameters
    ----------
    f, g : Tensor of shape (n_k,) and (n_l,)
        Potentials of the weights that are in the problem.
    C : Tensor of shape (K, L)
        All costs.
    k, l : Tensor of shape (K,) and (L,)
        Which weights are in the problem.
    part : Penalised
        The problem.

    Returns
    -------
    tuple of two Tensors
        Potentials of all weights.
    """
    whole = C.new_zeros(len(C)), C.new_zeros(C.shape[1])
    whole[0][k], whole[1][l] = f, g
    if part.reg:
        whole[0][~k] = softmin(C[~k][:, l] - g, part.b, part.reg, part.lam0)
        whole[1][~l] = softmin((C[k][:, ~l].mT - f), part.a, part.reg, part.lam1)
    else:  # over all rows, so that all constraints hold
        whole[0][~k] = (C[~k][:, l] - g).amin(1)
        whole[1][~l] = (C[:, ~l] - whole[0].unsqueeze(1)).amin(0)
    return whole


def _simpler(problem: Penalised) -> Iterator[Penalised]:
    """The problem without entropy or with large penalties prescribing their marginals."""
    *constants, lam0, lam1, reg = problem
    large = LARGE_PENALTY * float(problem.C.max())
    held = [math.inf if lam >= large else lam for lam in (lam0, lam1)]
    # dictionaries are sets that keep the order
    for entropy, lam in itertools.product({0.0: 0, reg: 0}, {(*held,): 0, (lam0, lam1): 0}):
        yield Penalised(*constants, *lam, entropy)


def _without_small(
    problem: Penalised, simpler: Penalised, share: float, solve: Callable[[Penalised], Solved]
) -> tuple[Tensor, Tensor, Tensor]:
    """Potentials and plan from a simpler problem without small weights that attract no mass."""
    a, b, C, lam0, lam1, reg = simpler
    k, l = a >= share * a.sum(), b >= share * b.sum()
    while True:
        part = simpler._replace(a=a[k], b=b[l], C=C[k][:, l])
        exact = not reg and math.isinf(lam0) and math.isinf(lam1)
        f, g, inner, _ = (_exact if exact else solve)(part)
        f, g = extended(f, g, C, k, l, part)
        wider = _used(f, lam0, a, k), _used(g, lam1, b, l)
        if torch.equal(wider[0], k) and torch.equal(wider[1], l):
            break
        k, l = wider
    if (lam0, lam1) != problem[3:5]:
        shift = translation(problem, f, g)
        f, g = f + shift, g - shift
    P = torch.zeros_like(C)
    P[k.unsqueeze(1) & l] = inner.flatten()
    return f, g, _completed(problem, problem.coupling(f, g) if reg else P, f, g)


def _used(f: Tensor, lam: float, weights: Tensor, kept: Tensor) -> Tensor:
    """Which weights are kept or attract mass."""
    masses = marginal(f, lam, weights)
    return kept | (masses > MIN_USED * masses[kept].sum())


def _exact(problem: Penalised) -> Solved:
    """Potentials, plan and value where both marginals are prescribed."""
    P, f, g = map(torch.from_numpy, network_simplex(*(t.numpy() for t in problem[:3])))
    return f, g, P, float((P * problem.C).sum())


def _completed(problem: Penalised, P: Tensor, f: Tensor, g: Tensor) -> Tensor:
    """The plan with the prescribed marginals, or if there are none with the best total."""
    if math.isfinite(problem.lam0) and math.isfinite(problem.lam1):
        total = marginal(f, problem.lam0, problem.a).sum()
        return P if problem.reg else P * (total / P.sum())
    P = _filled(P, problem.a, problem.C - g, problem.lam0)
    return _filled(P.mT, problem.b, problem.C.mT - f, problem.lam1).mT


def _filled(P: Tensor, weights: Tensor, slack: Tensor, lam: float) -> Tensor:
    """A plan whose rows have their weights if these are prescribed, put where they cost least."""
    if math.isfinite(lam):
        return P
    P = torch.where((P.sum(1) > 0).unsqueeze(1), P, slack == slack.amin(1, keepdim=True))
    return P * (weights / P.sum(1)).unsqueeze(1)
