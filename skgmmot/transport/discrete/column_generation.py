"""Exact discrete transport of many rows and columns by column generation.

The network simplex is given a few *candidate* pairs of each row: those of the least reduced costs
``C_ij - f_i - g_j``, and those of a plan that is surely feasible. Its potentials give new reduced
costs, and pairs where these are negative become candidates too, until the duality gap over all
pairs is rounding. Good potentials to start from, such as those of a problem nearby, take one or two
such rounds.

Problems that are small, have masses of zero, or are not solved to a small gap in this way are
solved by `network_simplex`. Arrays are numpy's.
"""

import functools
from typing import NamedTuple

import numpy as np

from skgmmot.transport.discrete.network_simplex import (
    EPS,
    GAP,
    MAX_MISSING_MASS,
    MAX_PIVOTS,
    network_simplex,
)

Array = np.ndarray

#: Fewest costs of a problem for which candidates are faster than all pairs: from potentials of a
#: problem nearby, and without any.
MIN_COSTS, MIN_COSTS_ALONE = 2**14, 2**16
#: Candidates of each row in the first round, or a sixth of the columns, at least two, where that is
#: less; in others twice as many, where there are better ones.
N_CANDIDATES = 12
#: Largest number of rounds.
MAX_ROUNDS = 6
#: Potentials to start from are those of a problem with so many times fewer rows.
COARSENING = 4
#: Number of costs in a block of rows: 1 MiB in float64, to stay in the cache.
BLOCK_SIZE = 2**17


class SparsePlan(NamedTuple):
    """An optimal plan by its positive entries, and optimal potentials."""

    row: Array
    """Rows of the entries, ``(k,)``."""
    column: Array
    """Their columns."""
    mass: Array
    """The masses moved."""
    f: Array
    """Potentials of the rows, ``(n,)``: ``f_i + g_j <= C_ij`` up to rounding."""
    g: Array
    """Potentials of the columns, ``(m,)``."""

    def dense(self) -> Array:
        """The plan as a matrix ``(n, m)``."""
        P = np.zeros((len(self.f), len(self.g)))
        P[self.row, self.column] = self.mass
        return P


def sparse_exact(
    a: Array, b: Array, C: Array, g: Array | None = None, eps: float = EPS
) -> SparsePlan:
    """Solve discrete optimal transport exactly, starting from potentials.

    Parameters
    ----------
    a : ndarray of shape (n,)
        Masses of the rows, float64, not negative, of positive sum.
    b : ndarray of shape (m,)
        Masses of the columns, rescaled to the total of ``a``.
    C : ndarray of shape (n, m)
        Costs, float64 and finite.
    g : ndarray of shape (m,), default=None
        Potentials of the columns to start from, such as those of a similar problem.
    eps : float, default=2.2e-16
        Relative precision of the masses, as in `network_simplex`.

    Returns
    -------
    SparsePlan
        The plan; its duality gap is below 1e-9 of the cost that remains after subtracting the
        minima of rows and columns.

    Raises
    ------
    ValueError
        If masses have no positive sum, or a cost is NaN or infinite.
    RuntimeError
        As `network_simplex`.

    Notes
    -----
    Holds a few numbers for each row, beside the costs. Small problems ignore ``g``.
    """
    plan = None
    if _suits_candidates(a, b, C):
        total = a.sum()
        shares = a / total, b / b.sum()
        if g is not None:
            plan = _generate(*shares, C, g)
        if plan is None and C.size >= MIN_COSTS_ALONE and len(a) >= COARSENING * len(b):
            plan = _generate(*shares, C, _from_some_rows(a, b, C))
    if plan is not None:
        return plan._replace(mass=total * plan.mass)
    P, f, g = network_simplex(a, b, C, eps)
    row, column = P.nonzero()
    return SparsePlan(row, column, P[row, column], f, g)


def _suits_candidates(a: Array, b: Array, C: Array) -> bool:
    """Whether a problem is large, and without masses of zero or infinite costs."""
    large = C.size >= MIN_COSTS and _sparse_solver() is not None
    return bool(large and a.min() > 0 and b.min() > 0 and np.isfinite(C).all())


@functools.cache
def _sparse_solver():
    """POT's compiled solver for given pairs, imported at the first use; None if it has none."""
    try:
        from ot.lp.emd_wrap import emd_c_sparse
    except ImportError:  # before version 0.9.7
        return None
    return emd_c_sparse


def _from_some_rows(a: Array, b: Array, C: Array) -> Array:
    """Potentials of the columns from a problem with a quarter of the rows."""
    rows = np.random.default_rng(0).choice(len(a), -(-len(a) // COARSENING), replace=False)
    return sparse_exact(a[rows], b, C[rows]).g


def _generate(a: Array, b: Array, C: Array, g: Array) -> SparsePlan | None:
    """Solve with more and more candidates; None where that does not lead to a small gap."""
    bound, f = _bound(a, b, C), _row_minima(C, g)
    candidates, rows, feasible = np.empty(0, int), np.arange(len(a)), _feasible_pairs(a, b, C)
    n_candidates = min(N_CANDIDATES, max(2, len(b) // 6))
    for doubling in range(MAX_ROUNDS):
        new = _cheapest(C, g, rows, n_candidates << doubling)
        candidates = _union(candidates, new)
        row, column = np.divmod(_union(candidates, feasible), len(b))
        # with reduced costs, the new potentials are near zero and keep more digits
        found = _solve(a, b, row, column, C[row, column] - f[row] - g[column])
        if found is None:
            return None
        used, mass, df, dg, separate = found
        middle = np.median(dg)  # potentials may be shifted by a large number
        expected, g = f + (df + middle), g + (dg - middle)
        if separate.any():
            f = _row_minima(C[:, ~separate], g[~separate])
            g[separate] = _row_minima(C[:, separate].T, f)
        f = _row_minima(C, g)
        i, j = row[used], column[used]
        gap = mass @ (C[i, j] - f[i] - g[j])
        rounding = EPS * (np.abs(f).max() + np.abs(g).max())
        if gap + rounding <= GAP * (mass @ C[i, j] - bound):
            return SparsePlan(i, j, mass, f, g)
        rows, feasible = np.flatnonzero(f < expected), i * len(b) + j
    return None


def _solve(a, b, row, column, costs):
    """Used pairs, their masses and both potentials at given pairs; None without a solution.

    Columns that no pairs link to the others in the final tree have meaningless potentials; the last
    array marks these.
    """
    unit = costs.max() or 1.0
    zero = np.zeros(len(a)), np.zeros(len(b))
    ends = row.astype(np.uint64), column.astype(np.uint64)
    i, j, mass, _, f, g, code = _sparse_solver()(a, b, *ends, costs / unit, MAX_PIVOTS, *zero)
    moved = np.bincount(i.astype(np.intp), mass, len(a))
    if code != 1 or not np.abs(moved - a).sum() <= MAX_MISSING_MASS:
        return None
    key = i.astype(np.intp) * len(b) + j.astype(np.intp)
    separate = g - g.min() > len(a) + len(b)  # longer than any path of pairs
    return np.searchsorted(row * len(b) + column, key), mass, unit * f, unit * g, separate


def _feasible_pairs(a: Array, b: Array, C: Array) -> Array:
    """Pairs ``i m + j`` between which some plan moves all mass, not too expensively.

    Both sides are sorted by the difference of their costs to two far ends of the other: of squared
    distances that is a linear function. Mass is then moved in order.
    """
    first = C[0].argmax()
    second = C[C[:, first].argmax()].argmin()
    rows = np.argsort(C[:, first] - C[:, second], kind="stable")
    low, high = rows[0], rows[-1]
    columns = np.argsort(C[low] - C[high], kind="stable")
    levels = np.cumsum(a[rows])[:-1], np.cumsum(b[columns])[:-1]
    merged = np.sort(np.concatenate(levels))
    i, j = (np.append(0, np.searchsorted(side, merged, side="right")) for side in levels)
    return rows[i] * len(b) + columns[j]


def _union(*pairs: Array) -> Array:
    """Sorted pairs, each once; by sorting, which is several times faster than numpy's `unique`."""
    together = np.sort(np.concatenate(pairs))
    return together[np.append(True, np.diff(together) > 0)]


def _blocks(C: Array):
    """Slices of rows."""
    length = max(1, BLOCK_SIZE // C.shape[1])
    return [slice(k, k + length) for k in range(0, len(C), length)]


def _row_minima(C: Array, g: Array) -> Array:
    """The largest potentials of the rows beside those of the columns."""
    return np.concatenate([(C[block] - g).min(1) for block in _blocks(C)])


def _bound(a: Array, b: Array, C: Array) -> float:
    """What every plan costs: the minima of rows, and those of columns after subtracting these."""
    u, v = np.empty(len(a)), np.full(len(b), np.inf)
    for block in _blocks(C):
        u[block] = C[block].min(1)
        np.minimum(v, (C[block] - u[block, None]).min(0), out=v)
    return a @ u + b @ v


def _cheapest(C: Array, g: Array, rows: Array, n_candidates: int) -> Array:
    """The pairs ``i m + j`` of some rows with the least reduced costs."""
    m, parts = C.shape[1], []
    k = min(n_candidates, m)
    for part in np.array_split(rows, max(1, len(rows) * m // BLOCK_SIZE)):
        column = np.argpartition(C[part] - g, k - 1, axis=1)[:, :k]
        parts.append((part[:, None] * m + column).ravel())
    return np.concatenate(parts)
