"""Assignment of each sample to one cell of a discrete plan, with potentials that separate cells.

The network simplex ends at a vertex of the dual polytope, where samples lie on borders between
cells though the plan sends them to one cell only. At the centre of the set of optimal potentials,
a sample lies on a border only if optimal plans may send it to either side. Arrays are numpy's.
"""

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

Array = np.ndarray

#: Entries of the plan below this share of the sample's or the cell's mass are rounding.
MIN_SHARE = 1e-9
#: Share of the way from optimal potentials to those that favour the chosen cells: enough to break
#: ties in float64, and still optimal to eight digits.
TIE_BREAKING_STEP = 1e-8
#: Weight of the costs, beside the shares of a split sample, in the choice of its cell: equal shares
#: are then decided by the costs and not by the order of the samples.
COST_WEIGHT = 1e-3


def assign_cells(P: Array, a: Array, b: Array, C: Array, psi: Array) -> tuple[Array, Array]:
    """Assign each sample to one cell of an optimal plan.

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
        The cell of each sample. A sample that the plan splits goes to one of the cells that
        receive a part of it: with equal masses so that cells hold numbers of samples that differ
        by one at most, else to the cell that receives the largest part.
    psi : ndarray of shape (m,)
        Optimal potentials, of mean zero. ``C_ij - psi_j`` is smallest at the label, except where
        samples could be exchanged at no cost.
    """
    excess = C - psi
    best = excess.argmin(1)
    excess -= excess[np.arange(len(a)), best][:, None]
    # Entries of the size of rounding need not be optimal.
    held = (MIN_SHARE * np.minimum(a[:, None], b) < P) & (excess <= MIN_SHARE * C.max())
    label = np.where(held.any(1), np.where(held, P, 0.0).argmax(1), best)
    split = np.flatnonzero(held.sum(1) > 1)
    if len(split) and np.ptp(a) <= MIN_SHARE * a[0] and np.ptp(b) <= MIN_SHARE * b[0]:
        share = P[split] / a[split, None] - COST_WEIGHT * C[split] / (C[split].max() or 1.0)
        label[split] = _balanced_cells(held[split], share, label, split)
    psi = _central_potentials(*held.nonzero(), C, psi)
    if len(split):
        psi = psi + TIE_BREAKING_STEP * (
            _central_potentials(np.arange(len(a)), label, C, psi) - psi
        )
    return label, psi - psi.mean()


def _balanced_cells(held: Array, share: Array, label: Array, split: Array) -> Array:
    """Assign split samples to cells so that the numbers of samples differ by one at most."""
    m = held.shape[1]
    low, more = divmod(len(label), m)
    whole = np.bincount(np.delete(label, split), minlength=m)
    # A slot for each sample that a cell must have, and an expensive one for one more.
    must = np.repeat(np.arange(m), np.maximum(low - whole, 0))
    may = np.flatnonzero(whole <= low) if more else must[:0]
    cell = np.concatenate([must, may])
    row, slot = held[:, cell].nonzero()
    extra = (slot >= len(must)) * (len(split) + 1.0)
    cost = 2 - share[row, cell[slot]] + extra
    graph = csr_array((cost, (row, slot)), shape=(len(split), len(cell)))
    return cell[min_weight_full_bipartite_matching(graph)[1]]


def _central_potentials(row: Array, cell: Array, C: Array, psi: Array) -> Array:
    """The central potentials among those for which ``C_ij - psi_j`` is smallest at each row's cell.

    These are the potentials with ``psi_k - psi_j <= s_jk``, the least slack of a row of cell ``j``.
    Lengths of shortest paths from a cell, and to it, are such potentials. Their mean has a positive
    slack wherever any such potentials have.
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
