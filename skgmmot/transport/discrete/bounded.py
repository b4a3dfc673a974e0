"""Plans between weight vectors that are found while computing only the costs they may use.

A plan that is optimal for lower bounds of the costs, and uses only pairs whose bounds are the costs
themselves, is optimal. So bounds are replaced by costs where a plan uses them or might use them,
until it uses no others.
"""

from collections.abc import Callable, Sequence

import numpy as np

#: Largest share of the costs that is computed before the bounds are tightened: tighter bounds take
#: about as long as a quarter of the costs.
MAX_COSTS_SHARE = 0.25


class BoundedCosts:
    """Costs between lower bounds: known where they were computed, and estimated elsewhere.

    Unknown costs are estimated as their bounds plus the mean difference so far.

    Parameters
    ----------
    bounds : ndarray of shape (K, L)
        Lower bounds of the costs.
    compute : callable
        ``compute(k, l)`` returns the costs ``(n,)`` of the pairs of two arrays of indices.
    tighter : callable, default=None
        ``tighter()`` returns tighter bounds, which take longer to compute; called at most once.
    rise : float, default=0.0
        A first estimate of the mean difference between costs and bounds.
    max_share : float, default=1.0
        All costs are computed at once where plans may use more than this share of them.
    """

    def __init__(
        self,
        bounds: np.ndarray,
        compute: Callable[[np.ndarray, np.ndarray], np.ndarray],
        *,
        tighter: Callable[[], np.ndarray] | None = None,
        rise: float = 0.0,
        max_share: float = 1.0,
    ):
        self.bounds, self.compute, self.tighter = bounds, compute, tighter
        self.rise, self.max_share = rise, max_share
        self.known = np.zeros(bounds.shape, dtype=bool)
        self.C = bounds + rise

    def missing(self, at, P: np.ndarray, f: np.ndarray, g: np.ndarray) -> np.ndarray:
        """Which unknown costs among ``at`` a plan with these potentials uses or might use."""
        return ((P > 0) | (self.bounds[at] < f[:, None] + g)) & ~self.known[at]

    def learn(self, wanted: np.ndarray) -> None:
        """Compute costs, or first tighten all bounds where many are wanted."""
        share = wanted.mean()
        if self.tighter is not None and share > MAX_COSTS_SHARE:
            self.bounds, self.tighter = np.maximum(self.bounds, self.tighter()), None
        else:
            k, l = (~self.known if share > self.max_share else wanted).nonzero()
            self.C[k, l], self.known[k, l] = self.compute(k, l), True
        if self.known.any():
            self.rise = max(0.0, float((self.C - self.bounds)[self.known].mean()))
        self.C = np.where(self.known, self.C, self.bounds + self.rise)


def solve_in_step(costs: BoundedCosts, columns: Sequence[slice], solve: Callable) -> list:
    """Solve transport problems, whose costs are column blocks of one matrix, all together.

    Parameters
    ----------
    costs : BoundedCosts
        The costs of all problems, side by side.
    columns : sequence of slice
        The columns of each problem.
    solve : callable
        ``solve(j, C)`` returns the plan and the potentials of problem j with costs ``C``, and
        perhaps more.

    Returns
    -------
    list
        What ``solve`` returned last for each problem: its plan is optimal for the true costs.
    """
    found, unsolved = [None] * len(columns), range(len(columns))
    while True:
        wanted, solving = np.zeros(costs.C.shape, dtype=bool), unsolved
        unsolved = []
        for j in solving:
            at = np.s_[:, columns[j]]
            found[j] = solve(j, costs.C[at])
            wanted[at] = costs.missing(at, *(np.asarray(t) for t in found[j][:3]))
            if wanted[at].any():
                unsolved.append(j)
        if not unsolved:
            return found
        costs.learn(wanted)
