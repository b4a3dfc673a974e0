"""Exact discrete transport by POT's network simplex, with a check that its plan is optimal.

POT's simplex treats reduced costs below about 1e-15 of the largest cost as zero, and rounds
potentials to as much. With one far component, plans between the others would be arbitrary.
Therefore costs are first reduced (by the minima of rows and columns, which changes no optimal plan)
and divided by the largest. The duality gap of the result must be small relative to the remaining
cost. Where it is not, the costs are reduced by the potentials, cut off at a bound on the costs that
an optimal plan uses, and solved again on the new, smaller scale.

POT's checks and conversions take ten times as long as its solver on a 10 x 10 problem, and there
may be thousands of these. Therefore the compiled solver is called directly if this version of POT
has it in the usual module, and `ot.emd` otherwise.
"""

import functools
import math
import warnings

import numpy as np

#: Relative precision of float64.
EPS = float(np.finfo(np.float64).eps)
#: Largest number of pivots; POT's default is too small for a thousand components.
MAX_PIVOTS = 10**7
#: A plan is accepted as optimal if its duality gap is below this share of its reduced cost.
GAP = 1e-9
#: A gap below this share of the largest cost is none: it comes from weights below it.
NO_GAP = 1e-60
#: Largest number of solutions on smaller scales; each gains about ten digits.
MAX_REFINEMENTS = 12
#: Mass of the size of rounding may be dropped only below this share of both its weights: it may be
#: all that a small weight has.
MAX_DROPPED_SHARE = 1e-3
#: Largest share of the total mass that a plan may lack.
MAX_MISSING_MASS = 1e-12


def network_simplex(
    a: np.ndarray, b: np.ndarray, C: np.ndarray, eps: float = EPS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    r"""Solve discrete optimal transport exactly, by the network simplex.

    .. math:: \min_{P \ge 0} \langle P, C\rangle, \qquad P 1 = a, \quad P^T 1 = b

    Parameters
    ----------
    a : ndarray of shape (K,)
        Source weights, float64, not negative, of positive sum.
    b : ndarray of shape (L,)
        Target weights, float64, rescaled to the total of ``a``.
    C : ndarray of shape (K, L)
        Costs, float64 and finite.
    eps : float, default=2.2e-16
        Relative precision of the weights; differences of this size may be left untransported.

    Returns
    -------
    P : ndarray of shape (K, L)
        The plan, with at most ``K + L - 1`` positive entries. Its marginals are right to 1e-12 of
        the total. More mass than that is dropped only for weights of fewer digits, if their
        rounding would make up much of the cost.
    f : ndarray of shape (K,)
        Source potentials: ``f_k + g_l <= C_kl``, also at weights of zero.
    g : ndarray of shape (L,)
        Target potentials.

    Raises
    ------
    ValueError
        If weights have no positive sum, or a cost is NaN or infinite.
    RuntimeError
        If the network simplex stops early, or the duality gap of its plan stays above 1e-9 of the
        cost that remains after subtracting the minima of rows and columns.
    """
    total, target, C = np.add.reduce(a), np.add.reduce(b), np.ascontiguousarray(C)
    if not (total > 0 and target > 0):
        raise ValueError(
            f"weights must have positive sums, got {total} and {target}. Check the distributions."
        )
    a, b = a / total, b / target
    least = min(np.minimum.reduce(a), np.minimum.reduce(b))
    if 1 in C.shape and least >= 0 and np.isfinite(C).all():  # there is one plan
        f, g = (np.zeros(1), C[0]) if len(C) == 1 else (C[:, 0], np.zeros(1))
        return total * np.outer(a, b), f, g
    if least > 0:
        P, f, g = _solve_reduced(a, b, C, eps)
    else:
        k, l = a != 0, b != 0
        P, f, g = np.zeros_like(C), np.zeros_like(a), np.zeros_like(b)
        P[np.ix_(k, l)], f[k], g[l] = _solve_reduced(a[k], b[l], C[np.ix_(k, l)], eps)
        f[~k] = (C[np.ix_(~k, l)] - g[l]).min(1)
        g[~l] = (C[:, ~l] - f[:, None]).min(0)  # over all rows, so that all constraints hold
    return (P if total == 1 else total * P), f, g


def _solve_reduced(a, b, C, eps):
    """Plan and potentials between positive weights of sum one, with a duality gap below `GAP`."""
    u = np.minimum.reduce(C, 1)
    R = C - u[:, None]
    v = np.minimum.reduce(R, 0)
    R -= v
    unit = np.maximum.reduce(R, None)
    if not unit < np.inf:
        raise ValueError(
            f"costs must be finite, got differences of {unit}. Check the scale of the data."
        )
    if unit > 0:
        R /= unit
    P, f, g, used = _plan(a, b, R, R, eps)
    mass = P.ravel()[used]
    value = mass @ R.ravel()[used]
    if value > 0:
        S = R - f[:, None]
        S -= g
        gap = mass @ S.ravel()[used] - np.minimum.reduce(S, None)
        # The gap is not meaningful below the rounding error of the potentials.
        rounding = EPS * ((f @ f) ** 0.5 + (g @ g) ** 0.5)
        if not gap + rounding <= GAP * value:
            P, f, g = _refine(a, b, R, eps, P, f, g, used)
    f *= unit
    f += u
    g *= unit
    g += v
    return P, f, g


def _refine(a, b, R, eps, P, f, g, used):
    """Refine a plan and potentials by solving again with reduced costs, on smaller scales."""
    S, source, target = R, [np.zeros_like(f)], [np.zeros_like(g)]  # the terms of the potentials
    for _ in range(MAX_REFINEMENTS):
        mass = P.ravel()[used]
        value = mass @ R.ravel()[used]
        if value == 0:
            return P, np.zeros_like(f), np.zeros_like(g)
        reduced, minima, rounding = _reduced(S, f, g)
        gap, accepted = mass @ reduced.ravel()[used] + rounding, max(GAP * value, NO_GAP)
        # An optimal plan differs from this one by cycles that alternate between the two, in which
        # its costs are at most the sum of this plan's: a bound on the costs that it can use.
        largest = S.ravel()[used].max(), reduced.ravel()[used].max() + rounding
        if largest[1] < largest[0] or gap <= accepted:
            middle = np.full_like(f, np.median(f))
            S, source, target = reduced, [*source, f, minima, -middle], [*target, g, middle[:1]]
        if gap <= accepted:
            return P, _exact_sum(source), _exact_sum(target)
        unit = min(S.shape) * min(largest)
        if not unit:  # what is left of the gap is the rounding of the potentials
            break
        P, f, g, used = _plan(a, b, np.minimum(S / unit, 1.0), R, eps)
        f, g = unit * f, unit * g
    raise RuntimeError(
        f"transport must be solved to a gap of {GAP} of its cost, got {gap:.2g} of {value:.2g} in "
        "units of the largest cost. Leave out weights and costs that are too far from the others."
    )


def _reduced(R, f, g):
    """``R - f - g`` in twofold precision, less the minima of its rows; these; a rounding bound."""
    column = f[:, None]
    first = R - column
    back = first - R
    error = (R - (first - back)) - (column + back)
    second = first - g
    back = second - first
    error += (first - (second - back)) - (g + back)
    S = second + error
    minima = S.min(1)
    return S - minima[:, None], minima, EPS**2 * (abs(f).max() + abs(g).max())


def _exact_sum(parts):
    """The sum of vectors, rounded only once, since large terms may cancel."""
    return np.array([math.fsum(entries) for entries in np.stack(np.broadcast_arrays(*parts), 1)])


def _plan(a, b, C, R, eps):
    """Plan and potentials for costs C, and the flat indices of the plan's positive entries.

    Entries of the size of rounding are dropped where their cost in R would matter.
    """
    P, f, g = _emd(a, b, C)
    flat = P.ravel()
    used = flat.nonzero()[0]
    mass, rounding_mass = flat[used], sum(C.shape) * eps
    if not abs(np.add.reduce(mass) - 1) <= MAX_MISSING_MASS:
        raise _stopped(f"a mass of {mass.sum()} instead of 1")
    if np.minimum.reduce(mass) <= rounding_mass:
        # These entries come from differences of the weights in their last bits.
        k, l = np.divmod(used, len(b))
        rounding = mass <= np.minimum(rounding_mass, MAX_DROPPED_SHARE * np.minimum(a[k], b[l]))
        cost = mass * R.ravel()[used]
        if cost[rounding].sum() >= eps**0.5 * cost[~rounding].sum():
            flat[used[rounding]] = 0
            used = used[~rounding]
    return P, f, g, used


def _emd(a, b, C):
    """Plan and potentials between positive weights, by POT's compiled solver."""
    solver = _solver()
    if solver is None:
        return _public_emd(a, b, C)
    emd_c, check_result = solver
    P, _, f, g, code = emd_c(a, b, C, MAX_PIVOTS, 1)
    if code != 1:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # its text is in the error
            raise _stopped(check_result(code))
    return P, f, g


@functools.cache
def _solver():
    """POT's compiled solver and its translation of exit codes, imported at the first use."""
    try:
        from ot.lp.emd_wrap import check_result, emd_c
    except ImportError:  # a version of POT with other modules
        return None
    return emd_c, check_result


def _public_emd(a, b, C):
    """Plan and potentials between positive weights, by POT's public function."""
    import ot  # only here, since it takes longer to import than this package

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        P, log = ot.emd(a, b, C, numItermax=MAX_PIVOTS, log=True, check_marginals=False)
    if log["warning"]:
        raise _stopped(log["warning"])
    return P, log["u"], log["v"]


def _stopped(message):
    return RuntimeError(
        f"the network simplex must end at an optimum, got {message!r}. "
        "Rescale the costs, which should be finite and of comparable size."
    )
