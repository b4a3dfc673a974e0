"""MW2 between few components with matrices: the same numbers with fewer calls.

Between few components the arithmetic takes less time than what is around it. Here arrays of float64
are compared by numpy, and the gradient is one operation of torch.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from torch import Tensor

from skgmmot.gaussian.bures.few import squared_and_slopes
from skgmmot.gaussian.bures.pair import symmetric_value
from skgmmot.numerics.linalg import is_symmetric
from skgmmot.transport.discrete.network_simplex import network_simplex
from skgmmot.transport.discrete.solvers import LARGEST_COST

#: Largest number of entries of the matrices of all pairs of components, if there are several.
MOST_ENTRIES = 2**15
#: Squared distances below this are left to what tells small mixtures from equal ones.
LEAST_SQUARE = 1e-300
#: Largest deviation of a sum of weights from one.
MAX_DEVIATION = 1e-5


class FewPairs(NamedTuple):
    """MW2 squared between two mixtures, and what its gradient is made of."""

    cost: float
    """MW2 squared."""
    plan: np.ndarray
    """``P (K, L)``."""
    potentials: tuple[np.ndarray, np.ndarray]
    """Optimal potentials, ``(K,)`` and ``(L,)``."""
    apart: np.ndarray
    """Differences of means, ``(K, L, d)``."""
    slopes: Callable
    """Gradients in the covariances; see `squared_and_slopes`."""

    def gradients(self, scale: float, needed: tuple[bool, ...]) -> list[np.ndarray | None]:
        """Gradients in weights, means and covariances of both mixtures, where they are needed."""
        P = scale * self.plan
        pulls = 2 * P[..., None] * self.apart  # (K, L, d)
        slopes = self.slopes(P, needed[2::3]) if any(needed[2::3]) else (None, None)
        f, g = (t - t.mean() for t in self.potentials)
        found = scale * f, pulls.sum(1), slopes[0], scale * g, -pulls.sum(0), slopes[1]
        return [t if wanted else None for t, wanted in zip(found, needed, strict=True)]


def squared_distance(source: tuple, target: tuple) -> float | Tensor | None:
    r"""Return MW2 squared between two mixtures of few components, if it is found the short way.

    .. math:: \min_{P \in \Pi(a, b)} \sum_{kl} P_{kl} \, W_2^2(g_k, g_l)

    Parameters
    ----------
    source : tuple of weights (K,), means (K, d) and covariances (K, d, d)
        Arrays or tensors of float64 on the CPU, of these shapes but otherwise as users gave them.
    target : tuple of weights (L,), means (L, d) and covariances (L, d, d)
        Likewise.

    Returns
    -------
    float, Tensor of shape () or None
        A tensor if there is one among the arguments; differentiable once. None between many
        components, equal mixtures, or arrays that are not mixtures of regular covariances.
        Exchanging the arguments changes no bit.

    References
    ----------
    .. [1] Delon and Desolneux 2020, discrete formulation of MW2.
    """
    (K, d), (L, other) = source[1].shape, target[1].shape
    if d != other or (max(K, L) > 1 and K * L * d**2 > MOST_ENTRIES):
        return None
    return symmetric_value(_solve, source, target)


def _solve(a, m0, S0, b, m1, S1, *, differentiable: bool) -> FewPairs | None:
    """The cost and the parts of its gradient, or None; see `squared_distance`."""
    if not (_is_simplex(a) and _is_simplex(b) and is_symmetric(S0) and is_symmetric(S1)):
        return None
    bures = squared_and_slopes(S0, S1, differentiable=differentiable)
    if bures is None:
        return None
    squared, slopes = bures
    apart = m0[:, None] - m1
    C = np.add.reduce(apart * apart, -1) + squared
    if not np.add.reduce(C, None) <= LARGEST_COST:
        return None
    P, f, g = network_simplex(a, b, C)
    cost = float(np.add.reduce(P * C, None))
    if not cost > LEAST_SQUARE:
        return None
    return FewPairs(cost, P, (f, g), apart, slopes)


def _is_simplex(weights: np.ndarray) -> bool:
    """Whether weights are not negative and of sum one."""
    total = np.add.reduce(weights)
    return abs(total - 1) <= MAX_DEVIATION and np.minimum.reduce(weights) >= 0
