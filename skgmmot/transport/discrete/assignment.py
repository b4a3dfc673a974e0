"""One cell for each sample of a discrete plan, and potentials that tell these cells apart.

The network simplex ends at a corner of the dual polytope, where samples lie on borders between
cells though the plan sends them to one cell only. The middle of the optimal potentials has only
those samples on borders that every optimal plan may send to either side. Arrays are numpy's.
"""

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

Array = np.ndarray

#: A share of a sample, or of a cell, that is less than this is rounding.
LEAST_SHARE = 1e-9
#: How far potentials are moved towards those of the cells, of the way: ties are then broken, and
#: they are still right to as many digits.
NUDGE = 1e-8
#: Equal shares of a sample are told apart by this times its costs, so that the order of the samples
#: does not.
TIES = 1e-3


def assigned(P: Array, a: Array, b: Array, C: Array, psi: Array) -> tuple[Array, Array]:
    """Give each sample one cell of an optimal plan.

    Parameters
    ----------
    P : ndarray of shape (n, m)
        The plan, with at most ``n + m - 1`` positive entries.
    a : ndarray of shape (n,)
        Masses of the samples, positive.
    b : ndarray of shape (m,)
        Masses of the cells, positive.
    C : ndarray of shape (n, m)
        Costs.
    psi : ndarray of shape (m,)
        Optimal potentials of the cells.

    Returns
    -------
    label : ndarray of shape (n,)
        The cell of each sample; one that the plan splits goes to one of the cells that it is split
        between. If masses are equal, cells then hold equal numbers of samples, or as nearly so as
        their numbers allow; if not, it goes to the cell that gets most of it.
    psi : ndarray of shape (m,)
        Optimal potentials, of mean zero, for which ``C_ij - psi_j`` is smallest at the label,
        unless samples can be exchanged at no cost.
    """
    excess = C - psi
    best = excess.argmin(1)
    excess -= excess[np.arange(len(a)), best][:, None]
    # What the plan does with masses of the size of rounding need not be optimal.
    held = (LEAST_SHARE * np.minimum(a[:, None], b) < P) & (excess <= LEAST_SHARE * C.max())
    label = np.where(held.any(1), np.where(held, P, 0.0).argmax(1), best)
    split = np.flatnonzero(held.sum(1) > 1)
    if len(split) and np.ptp(a) <= LEAST_SHARE * a[0] and np.ptp(b) <= LEAST_SHARE * b[0]:
        share = P[split] / a[split, None] - TIES * C[split] / (C[split].max() or 1.0)
        label[split] = _balanced(held[split], share, label, split)
    psi = _middle(*held.nonzero(), C, psi)
    if len(split):
        psi = psi + NUDGE * (_middle(np.arange(len(a)), label, C, psi) - psi)
    return label, psi - psi.mean()


def _balanced(held: Array, share: Array, label: Array, split: Array) -> Array:
    """Cells of the samples that are split, so that no cell lacks a sample or has one too many."""
    m = held.shape[1]
    low, more = divmod(len(label), m)
    whole = np.bincount(np.delete(label, split), minlength=m)
    # A place for each sample that a cell must have, and a dear one for the one that it may have.
    must = np.repeat(np.arange(m), np.maximum(low - whole, 0))
    may = np.flatnonzero(whole <= low) if more else must[:0]
    cell = np.concatenate([must, may])
    row, place = held[:, cell].nonzero()
    dear = (place >= len(must)) * (len(split) + 1.0)
    cost = 2 - share[row, cell[place]] + dear
    graph = csr_array((cost, (row, place)), shape=(len(split), len(cell)))
    return cell[min_weight_full_bipartite_matching(graph)[1]]


def _middle(row: Array, cell: Array, C: Array, psi: Array) -> Array:
    """The middle of all potentials for which each row's cost less potential is smallest there.

    They are those with ``psi_k - psi_j <= s_jk``, the least slack of a row of cell ``j``. The
    shortest paths from a cell, and those to it, are such potentials; the mean of them all has a
    slack wherever any has.
    """
    order = np.argsort(cell, kind="stable")
    row, cell = row[order], cell[order]
    slack = C[row] - psi - (C[row, cell] - psi[cell])[:, None]
    here, first = np.unique(cell, return_index=True)
    D = np.full((len(psi), len(psi)), np.inf)
    D[here] = np.maximum(np.minimum.reduceat(slack, first), 0.0)
    for k in here:  # Floyd and Warshall
        np.minimum(D, D[:, k, None] + D[k], out=D)
    between = D[np.ix_(here, here)]
    middle = psi.copy()
    middle[here] += (between.mean(0) - between.mean(1)) / 2
    return middle
