"""Exact transport between weight vectors by POT's network simplex, and nothing else.

POT's checks and conversions take ten times as long as its solver on a 10 x 10 problem, and there
may be thousands of them; so the solver is called directly where POT has it in the usual place, and
`ot.emd` is called where it has not.
"""

import warnings

import numpy as np
import ot

try:
    from ot.lp.emd_wrap import check_result, emd_c
except ImportError:  # another POT than those that were tried
    emd_c = None

#: Relative precision of float64.
EPS = float(np.finfo(np.float64).eps)
#: Pivots at most; POT's own default is reached by a thousand components.
MAX_PIVOTS = 10**7


def network_simplex(
    a: np.ndarray, b: np.ndarray, C: np.ndarray, eps: float = EPS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Solve ``min_P sum(P * C)`` over ``P >= 0`` with ``P @ 1 = a`` and ``P.T @ 1 = b``.

    Parameters
    ----------
    a : ndarray of shape (K,)
        Source weights, float64, not negative.
    b : ndarray of shape (L,)
        Target weights, float64, rescaled to the total of ``a``.
    C : ndarray of shape (K, L)
        Costs, float64 and finite.
    eps : float, default=2.2e-16
        Relative precision of the weights. Mass of the size of rounding goes nowhere.

    Returns
    -------
    P : ndarray of shape (K, L)
        The plan: at most ``K + L - 1`` entries are positive.
    f : ndarray of shape (K,)
        Potentials with ``f_k + g_l <= C_kl``, also at weights of zero.
    g : ndarray of shape (L,)
        Likewise.

    Raises
    ------
    RuntimeError
        If the network simplex stops early.
    """
    total = a.sum()
    b = b * (total / b.sum())
    if a.all() and b.all():
        P, f, g = _emd(a, b, np.ascontiguousarray(C))
    else:
        k, l = a != 0, b != 0
        P, f, g = np.zeros_like(C), np.zeros_like(a), np.zeros_like(b)
        P[np.ix_(k, l)], f[k], g[l] = _emd(a[k], b[l], C[np.ix_(k, l)])
        f[~k] = (C[np.ix_(~k, l)] - g[l]).min(1)
        g[~l] = (C[:, ~l] - f[:, None]).min(0)  # over all: feasible together
    # Weights that differ in their last bit send that bit elsewhere. It is no transport: a mass of
    # the size of rounding that is most of neither weight it comes from and goes to.
    rounding = (P > 0) & (sum(C.shape) * eps * total > P)
    if rounding.any():
        P[rounding & (np.minimum(a[:, None], b) / 2 > P)] = 0
    return P, f, g


def _emd(a, b, C):
    """Plan and potentials between positive weights."""
    if emd_c is None:
        return _emd_by_its_face(a, b, C)
    P, _, f, g, code = emd_c(a, b, C, MAX_PIVOTS, 1)
    if code != 1:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # said in the error
            raise _stopped(check_result(code))
    return P, f, g


def _emd_by_its_face(a, b, C):
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
