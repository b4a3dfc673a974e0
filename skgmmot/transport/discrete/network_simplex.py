"""Exact transport between weight vectors: POT's network simplex, and a proof of what it returns.

POT's simplex takes reduced costs for zero up to about 1e-15 of the largest cost, and rounds
potentials to as much: beside one far component, plans between the others would be anything. So
costs are reduced first (by the minima of rows and columns, which changes no plan) and divided by
the largest. What comes back must have a gap to the dual problem that is small relative to the cost
that is left; where it is not, the costs are reduced by the potentials, cut off where no optimal
plan can reach, and solved again on their new, smaller scale.

POT's checks and conversions take ten times as long as its solver on a 10 x 10 problem, and there
may be thousands of them; so the solver is called directly where POT has it in the usual place, and
`ot.emd` is called where it has not.
"""

import functools
import math
import warnings

import numpy as np

#: Relative precision of float64.
EPS = float(np.finfo(np.float64).eps)
#: Pivots at most; POT's own default is reached by a thousand components.
MAX_PIVOTS = 10**7
#: A plan is optimal if its gap is less than this share of its cost, after reduction.
GAP = 1e-9
#: Solutions on a smaller scale at most; each gains ten digits or so.
MAX_REFINEMENTS = 12
#: Mass of the size of rounding may be dropped if it is less than this share of both weights that it
#: comes from and goes to: small ones take what is lost in rounding large ones.
NEGLIGIBLE = 1e-3
#: Mass that may be missing, relative to all.
MISSING = 1e-12


def network_simplex(
    a: np.ndarray, b: np.ndarray, C: np.ndarray, eps: float = EPS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Solve ``min_P sum(P * C)`` over ``P >= 0`` with ``P @ 1 = a`` and ``P.T @ 1 = b``.

    Parameters
    ----------
    a : ndarray of shape (K,)
        Source weights, float64, not negative, of positive sum.
    b : ndarray of shape (L,)
        Target weights, float64, rescaled to the total of ``a``.
    C : ndarray of shape (K, L)
        Costs, float64 and finite.
    eps : float, default=2.2e-16
        Relative precision of the weights: what they differ in by rounding goes nowhere.

    Returns
    -------
    P : ndarray of shape (K, L)
        The plan: at most ``K + L - 1`` entries are positive. Its marginals are right to 1e-12 of
        the total, and more than that is dropped only where, for weights of fewer digits, it is
        their rounding that would cost most.
    f : ndarray of shape (K,)
        Potentials with ``f_k + g_l <= C_kl``, also at weights of zero.
    g : ndarray of shape (L,)
        Likewise.

    Raises
    ------
    ValueError
        If weights have no positive sum, or a cost is NaN or infinite.
    RuntimeError
        If the network simplex stops early, or no potentials prove its plan optimal to a gap of
        1e-9, relative to the cost that is left when the minima of rows and columns are taken away.
    """
    total, target, C = a.sum(), b.sum(), np.ascontiguousarray(C)
    if not (total > 0 and target > 0):
        raise ValueError(
            f"weights must have positive sums, got {total} and {target}. Check the distributions."
        )
    a, b = a / total, b / target
    if a.all() and b.all():
        P, f, g = _proven(a, b, C, eps)
    else:
        k, l = a != 0, b != 0
        P, f, g = np.zeros_like(C), np.zeros_like(a), np.zeros_like(b)
        P[np.ix_(k, l)], f[k], g[l] = _proven(a[k], b[l], C[np.ix_(k, l)], eps)
        f[~k] = (C[np.ix_(~k, l)] - g[l]).min(1)
        g[~l] = (C[:, ~l] - f[:, None]).min(0)  # over all: feasible together
    return (P if total == 1 else total * P), f, g


def _proven(a, b, C, eps):
    """Plan and potentials between positive weights of sum one, proven optimal."""
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
        # Where potentials are rounded to more than that, the gap is made of rounding.
        rounding = EPS * ((f @ f) ** 0.5 + (g @ g) ** 0.5)
        if not gap + rounding <= GAP * value:
            P, f, g = _refined(a, b, R, eps, P, f, g, used)
    f *= unit
    f += u
    g *= unit
    g += v
    return P, f, g


def _refined(a, b, R, eps, P, f, g, used):
    """Solve again on smaller scales, from a plan and potentials of too large a one."""
    S, source, target = R, [np.zeros_like(f)], [np.zeros_like(g)]  # whose sums are the potentials
    for _ in range(MAX_REFINEMENTS):
        mass = P.ravel()[used]
        value = mass @ R.ravel()[used]
        if value == 0:
            return P, np.zeros_like(f), np.zeros_like(g)
        reduced, least, rounding = _reduced(S, f, g)
        gap = mass @ reduced.ravel()[used] + rounding
        # An optimal plan differs from this one by cycles that take turns between the two: no
        # cost there is larger than all costs of this plan in the cycle.
        reach = S.ravel()[used].max(), reduced.ravel()[used].max() + rounding
        if reach[1] < reach[0] or gap <= GAP * value:
            middle = np.full_like(f, np.median(f))
            S, source, target = reduced, [*source, f, least, -middle], [*target, g, middle[:1]]
        if gap <= GAP * value:
            return P, _total(source), _total(target)
        unit = min(S.shape) * min(reach)
        P, f, g, used = _plan(a, b, np.minimum(S / unit, 1.0), R, eps)
        f, g = unit * f, unit * g
    raise RuntimeError(
        f"transport must be solved to a gap of {GAP} of its cost, got {gap:.2g} of {value:.2g} in "
        "units of the largest cost. Leave out weights and costs that are too far from the others."
    )


def _reduced(R, f, g):
    """``R - f - g`` as if rounded once, less the least of each row; that least; the rounding."""
    column = f[:, None]
    first = R - column
    back = first - R
    error = (R - (first - back)) - (column + back)
    second = first - g
    back = second - first
    error += (first - (second - back)) - (g + back)
    S = second + error
    least = S.min(1)
    return S - least[:, None], least, EPS**2 * (abs(f).max() + abs(g).max())


def _total(parts):
    """The sum of vectors, rounded once: large parts of it may cancel."""
    return np.array([math.fsum(entries) for entries in np.stack(np.broadcast_arrays(*parts), 1)])


def _plan(a, b, C, R, eps):
    """Plan for costs C, without rounding that is dear in R; potentials; where it is positive."""
    P, f, g = _emd(a, b, C)
    flat = P.ravel()
    used = flat.nonzero()[0]
    mass, few = flat[used], sum(C.shape) * eps
    if not abs(mass.sum() - 1) <= MISSING:
        raise _stopped(f"a mass of {mass.sum()} instead of 1")
    if mass.min() <= few:
        # Weights that differ in their last bits send these elsewhere. It is no transport.
        k, l = np.divmod(used, len(b))
        rounding = mass <= np.minimum(few, NEGLIGIBLE * np.minimum(a[k], b[l]))
        cost = mass * R.ravel()[used]
        if cost[rounding].sum() >= eps**0.5 * cost[~rounding].sum():
            flat[used[rounding]] = 0
            used = used[~rounding]
    return P, f, g, used


def _emd(a, b, C):
    """Plan and potentials between positive weights."""
    solver = _solver()
    if solver is None:
        return _emd_by_its_face(a, b, C)
    emd_c, check_result = solver
    P, _, f, g, code = emd_c(a, b, C, MAX_PIVOTS, 1)
    if code != 1:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # said in the error
            raise _stopped(check_result(code))
    return P, f, g


@functools.cache
def _solver():
    """POT's solver and its reading of exit codes, loaded when they are needed first."""
    try:
        from ot.lp.emd_wrap import check_result, emd_c
    except ImportError:  # another POT than those that were tried
        return None
    return emd_c, check_result


def _emd_by_its_face(a, b, C):
    import ot  # takes longer to load than this package

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
