r"""Bounds of the errors of discrete plans, from potentials.

In the notation of `interior_point`, let ``p, q`` be the marginals of a plan ``P``. For any feasible
potentials, its objective less the dual one is a sum of terms that are not negative,

.. math::

    \langle P, C - f - g\rangle
    \quad\text{or}\quad
    \mathrm{reg}\, KL\bigl(P \mid a b^T e^{(f + g - C) / \mathrm{reg}}\bigr),
    \qquad \lambda_0 KL(p \mid a e^{-f / \lambda_0}),
    \qquad \lambda_1 KL(q \mid b e^{-g / \lambda_1}),

and of ``<f, p - a> + <g, q - b>`` where the marginals are prescribed. Nothing cancels. The first
sum is the duality gap of the plan between the marginals that it has; the rest is what deviations
from prescribed marginals cost.
"""

import functools
import math
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, connected_components
from scipy.special import logsumexp, xlog1py

Array = np.ndarray

EPS = float(np.finfo(float).eps)
#: Pairs that move less than this share of both masses are rounding.
MIN_SHARE = 1e-9
#: Masses, and ratios of two, above this or below its inverse are taken in logarithms.
LARGE_RATIO = 1e100
#: Exponents of this size or larger are added to logarithms first.
LARGEST_EXPONENT = 300.0
#: The logarithm of the largest mass.
LARGEST_LOGARITHM = math.log(np.finfo(float).max)
#: Exponents are bounded by this.
LARGEST_QUOTIENT = 1e300


class PlanErrors(NamedTuple):
    """Bounds of the errors of a plan."""

    gap: float = 0.0
    """Duality gap between the marginals that the plan has, in the unit of the costs."""
    marginal_error: float = 0.0
    """Largest deviation from a prescribed marginal, relative to the total."""
    error: float = 0.0
    """Bound of the error of the cost."""


class Certificate(NamedTuple):
    """A discrete transport problem, and potentials that bound its minimum from below."""

    weights: tuple[Array, Array]
    """Weights ``a (K,)`` and ``b (L,)``; b counts relative to the total of a if both marginals are
    prescribed."""
    C: Array
    """Costs ``(K, L)``; those of pairs that the plan does not use may be lower bounds."""
    penalties: tuple[float, float]
    """Penalties of the marginals; infinite for a prescribed one."""
    reg: float
    """Weight of the entropy."""
    potentials: tuple[Array, Array]
    """``f (K,)`` and ``g (L,)``, feasible but for rounding."""

    def of(self, P: Array, cost: float, eps: float = EPS) -> PlanErrors:
        """The errors of a plan ``(K, L)`` and its cost, which has a relative precision."""
        P = np.asarray(P, dtype=float)
        masses, deviations = (P.sum(1), P.sum(0)), self._deviations(P)
        known = self._scaled()
        f, g = (np.where(np.isfinite(t), t, 0.0) for t in known.potentials)  # of weights of zero
        known = known._replace(potentials=(f, g))
        S = known._slacks()
        gap = known._gap(P, S, masses)
        if not self.reg and not all(self._held()):
            fitted = known._fitted(P)
            gap = min(gap, fitted._gap(P, fitted._slacks(), masses))
        elif self.reg and S.min() <= 0:  # rounding of the costs may be large against the entropy
            rounding = 2 * EPS * (abs(self.C) + abs(f[:, None]) + abs(g)).max(1)
            lower = known._replace(potentials=(f + np.minimum(S.min(1), 0) - rounding, g))
            gap = min(gap, lower._gap(P, lower._slacks(), masses))
        slopes = [abs(t) for t in known.potentials]
        priced = sum(float(t @ d) for t, d in zip(slopes, deviations, strict=True))
        sizes = sum(float(t @ m) for t, m in zip(slopes, masses, strict=True))
        size = max(abs(cost), float((P * abs(self.C)).sum()))
        error = gap + priced + self._repair(P, S, masses, deviations)
        n_sums = 1 + bool(self.reg) + sum(not held for held in self._held())
        error += EPS * (n_sums * size + sizes / 2) + (eps / 2 * size if eps > EPS else 0.0)
        largest = max(float(d.max()) for d in deviations) / float(self.weights[0].sum())
        return PlanErrors(gap, largest, error)

    def _held(self) -> list[bool]:
        """Which marginals are prescribed."""
        return [math.isinf(lam) for lam in self.penalties]

    def _scaled(self) -> "Certificate":
        """With weights of equal totals and small potentials, if both marginals are prescribed."""
        (a, b), (f, g) = self.weights, self.potentials
        if not all(self._held()):
            return self
        if self.reg:  # such plans are normalised against the product of the weights
            f = f - self.reg * math.log(a.sum())
        middle = float(a @ f / a.sum())
        weights = a, b * (a.sum() / b.sum())
        return self._replace(weights=weights, potentials=(f - middle, g + middle))

    def _slacks(self) -> Array:
        """``C - f - g``."""
        f, g = self.potentials
        return self.C - f[:, None] - g

    def _fitted(self, P: Array) -> "Certificate":
        """With potentials of which those of pairs that the plan uses add up to the costs.

        In each group of nodes that such pairs join, potentials are known up to one number, for
        which the penalties have a closed form.
        """
        K = len(P)
        both = np.concatenate(self.potentials)
        k, l = (MIN_SHARE * np.minimum.outer(P.sum(1), P.sum(0)) < P).nonzero()
        graph = csr_array((np.ones(len(k)), (k, K + l)), shape=(sum(P.shape),) * 2)
        n_groups, group = connected_components(graph, directed=False)
        for j in np.flatnonzero(np.bincount(group, minlength=n_groups) > 1):
            here = np.flatnonzero(group == j)
            order, before = breadth_first_order(graph, here[0], directed=False)
            for node in order[1:]:
                ends = sorted((node, before[node]))
                both[node] = self.C[ends[0], ends[1] - K] - both[before[node]]
            rows, columns = here[here < K], here[here >= K]
            sums = [
                float(logsumexp(-both[nodes] / lam, b=w[at]))
                for w, at, nodes, lam in zip(
                    self.weights, (rows, columns - K), (rows, columns), self.penalties, strict=True
                )
            ]
            shift = (sums[0] - sums[1]) / sum(1 / lam for lam in self.penalties)
            both[rows] += shift
            both[columns] -= shift
        f, g = both[:K], both[K:]
        alone = np.bincount(group, minlength=n_groups)[group] == 1
        f[alone[:K]] = (self.C[alone[:K]] - g).min(1)
        g[alone[K:]] = (self.C[:, alone[K:]] - f[:, None]).min(0)
        return self._replace(potentials=(f, g))

    def _deviations(self, P: Array) -> list[Array]:
        """Absolute deviations of marginals where these are prescribed, else zero; exact sums."""
        held, (a, b) = self._held(), self.weights
        more = math.fsum([*a, *-b]) / math.fsum(b) if all(held) else 0.0
        return [
            _deviations(rows, weights, excess) if prescribed else np.zeros_like(weights)
            for prescribed, rows, weights, excess in zip(
                held, (P, P.T), (a, b), (0.0, more), strict=True
            )
        ]

    def _gap(self, P: Array, S: Array, masses: tuple[Array, Array]) -> float:
        """The duality gap between the marginals that the plan has."""
        if self.reg:
            a, b = self.weights
            gap = self.reg * _divergence(P, _quotient(-S, self.reg), a[:, None], b)
        else:
            gap = max(float((P * S).sum()), 0.0) - min(float(S.min()), 0.0) * float(P.sum())
        for p, w, f, lam in zip(masses, self.weights, self.potentials, self.penalties, strict=True):
            if not math.isinf(lam):
                gap += lam * _divergence(p, _quotient(-f, lam), w)
        return gap

    def _repair(self, P, S, masses, deviations) -> float:
        """What it costs, beyond the potentials, to give a plan the marginals that are prescribed.

        Where only one is, mass is added where it costs nothing beyond them. Else rows and columns
        are scaled down where they have too much, and what they then lack is moved anywhere.
        """
        if self.reg:
            return self.reg * float(sum(d.sum() for d in deviations))
        if not all(self._held()) or not any(d.any() for d in deviations):
            return 0.0
        shares = [
            np.divide(d, m, out=np.zeros_like(d), where=m > 0)
            for d, m in zip(deviations, masses, strict=True)
        ]
        rows, columns = deviations[0] + P @ shares[1], deviations[1] + shares[0] @ P
        S = np.maximum(S, 0.0)
        return min(
            float(rows @ S[:, columns > 0].max(1, initial=0.0)),
            float(columns @ S[rows > 0].max(0, initial=0.0)),
        )


def _deviations(rows: Array, weights: Array, excess: float) -> Array:
    """``|sum of row - weight (1 + excess)|`` of each row, rounded once."""
    pairs = zip(rows, weights, strict=True)
    return np.array([abs(math.fsum([*row, -w]) - w * excess) for row, w in pairs])


def _quotient(x: Array, unit: float) -> Array:
    """``x / unit``, finite."""
    with np.errstate(over="ignore"):
        return np.clip(x / unit, -LARGEST_QUOTIENT, LARGEST_QUOTIENT)


def _divergence(p: Array, x: Array, *weights: Array) -> float:
    """``KL(p | q) = sum p log(p / q) - p + q`` for ``q = exp(x)`` times weights.

    Where a weight is zero, p is taken as zero.
    """
    some = np.broadcast_to(functools.reduce(np.minimum, weights) > 0, p.shape)
    p, x, *weights = (np.broadcast_to(t, p.shape)[some] for t in (p, x, *weights))
    logs, product = x + sum(np.log(w) for w in weights), functools.reduce(np.multiply, weights)
    direct = (abs(x) < LARGEST_EXPONENT) & (product > 1 / LARGE_RATIO) & (product < LARGE_RATIO)
    q = np.exp(np.minimum(logs, LARGEST_LOGARITHM))
    np.multiply(product, np.exp(x, where=direct, out=q * 0), where=direct, out=q)
    near = direct & (p / LARGE_RATIO <= q) & (p > 0)
    change = p[near] / q[near] - 1
    terms = [q[p == 0], q[near] * (xlog1py(1 + change, change) - change)]
    far = ~near & (p > 0)
    t = logs[far] - np.log(p[far])  # KL is p (exp(t) - 1 - t)
    small = abs(t) < 1
    terms.append(p[far] * np.where(small, np.expm1(t, where=small, out=t * 0) - t, -1 - t))
    terms.append(np.where(small, 0.0, q[far]))
    with np.errstate(over="ignore"):
        return float(sum(np.sum(term) for term in terms))
