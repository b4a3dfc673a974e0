r"""Bounds of the errors of discrete plans, from potentials.

In the notation of `interior_point.problem`, let ``p, q`` be the marginals of a plan ``P``. For any
feasible potentials, its objective less the dual one is a sum of terms that are not negative,

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
#: Relative changes below this are taken to the third power: the next term is a rounding.
SMALL_CHANGE = 1e-8
#: Number of pairs that are certified at a time: 128 KiB in float64, of which several are in use.
BLOCK_SIZE = 2**14
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
        known, gap = self._sound(), self.gap(P)
        slopes = [abs(t) for t in known.potentials]
        priced = sum(float(t @ d) for t, d in zip(slopes, deviations, strict=True))
        sizes = sum(float(t @ m) for t, m in zip(slopes, masses, strict=True))
        size = max(abs(cost), float((P * abs(self.C)).sum()))
        error = gap + priced + known._repair(P, masses, deviations)
        n_sums = 1 + bool(self.reg) + sum(not held for held in self._held())
        error += EPS * (n_sums * size + sizes / 2) + (eps / 2 * size if eps > EPS else 0.0)
        largest = max(float(d.max()) for d in deviations) / float(self.weights[0].sum())
        return PlanErrors(gap, largest, error)

    def gap(self, P: Array, enough: float = 0.0) -> float:
        """The duality gap of a plan ``(K, L)`` between the marginals that it has.

        Where it is more than enough, other potentials are tried.
        """
        known, masses = self._sound(), (P.sum(1), P.sum(0))
        gap = known._gap(P, masses)
        if gap > enough:
            others = known._lower() if self.reg else known._fitted(P)
            if others is not None:
                gap = min(gap, others._gap(P, masses))
        return gap

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

    def _sound(self) -> "Certificate":
        """As it is scaled, with potentials of zero where they are infinite: at weights of zero."""
        known = self._scaled()
        f, g = (np.where(np.isfinite(t), t, 0.0) for t in known.potentials)
        return known._replace(potentials=(f, g))

    def _slacks(self, rows: slice = np.s_[:]) -> Array:
        """``C - f - g`` in some rows."""
        f, g = self.potentials
        S = self.C[rows] - f[rows, None]
        S -= g
        return S

    def _blocks(self) -> list[slice]:
        """Rows whose costs stay in the cache."""
        length = max(1, BLOCK_SIZE // max(1, self.C.shape[1]))
        return [slice(k, k + length) for k in range(0, len(self.C), length)]

    def _lower(self) -> "Certificate | None":
        """With potentials below all costs, whose rounding may be large against the entropy.

        None if they are already.
        """
        least = np.concatenate([self._slacks(rows).min(1) for rows in self._blocks()])
        if least.min() > 0:
            return None
        f, g = self.potentials
        largest = abs(self.C).max(1) + abs(f) + abs(g).max()
        return self._replace(potentials=(f + np.minimum(least, 0) - 2 * EPS * largest, g))

    def _fitted(self, P: Array) -> "Certificate | None":
        """With potentials of which those of pairs that the plan uses add up to the costs.

        In each group of nodes that such pairs join, potentials are known up to one number, for
        which the penalties have a closed form. None if both marginals are prescribed.
        """
        if all(self._held()):
            return None
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

    def _gap(self, P: Array, masses: tuple[Array, Array]) -> float:
        """The duality gap between the marginals that the plan has."""
        (a, b), total, least = self.weights, 0.0, 0.0
        for rows in self._blocks():
            S = self._slacks(rows)
            if self.reg:
                total += _divergence(P[rows], _quotient(-S, self.reg), a[rows, None], b)
            else:
                total, least = total + float((P[rows] * S).sum()), min(least, float(S.min()))
        gap = self.reg * total if self.reg else max(total, 0.0) - least * float(P.sum())
        for p, w, f, lam in zip(masses, self.weights, self.potentials, self.penalties, strict=True):
            if not math.isinf(lam):
                gap += lam * _divergence(p, _quotient(-f, lam), w)
        return gap

    def _repair(self, P, masses, deviations) -> float:
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
        S = np.maximum(self._slacks(), 0.0)
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
    some = functools.reduce(np.minimum, weights) > 0
    logs = x + sum(np.log(w, where=w > 0, out=np.zeros_like(w)) for w in weights)
    product = functools.reduce(np.multiply, weights)
    terms = np.broadcast_arrays(p, x, logs, product)
    if not some.all():
        some = np.broadcast_to(some, p.shape)
        terms = [t[some] for t in terms]
    p, x, logs, product = terms
    direct = (abs(x) < LARGEST_EXPONENT) & (product > 1 / LARGE_RATIO) & (product < LARGE_RATIO)
    q = np.where(direct, product, 1.0)
    q *= np.exp(np.where(direct, x, np.minimum(logs, LARGEST_LOGARITHM)))
    near = direct & (p / LARGE_RATIO <= q) & (p > 0)
    terms = [q[p == 0], q[near] * _excess(p[near] / q[near] - 1)]
    far = ~near & (p > 0)
    if far.any():
        t = logs[far] - np.log(p[far])  # KL is p (exp(t) - 1 - t)
        small = abs(t) < 1
        terms.append(p[far] * np.where(small, np.expm1(t, where=small, out=t * 0) - t, -1 - t))
        terms.append(np.where(small, 0.0, q[far]))
    with np.errstate(over="ignore"):
        return float(sum(np.sum(term) for term in terms))


def _excess(change: Array) -> Array:
    """``(1 + x) log(1 + x) - x``, for x not below -1."""
    excess = change * change * (0.5 - change / 6)
    large = abs(change) > SMALL_CHANGE
    if large.any():
        x = change[large]
        excess[large] = xlog1py(1 + x, x) - x
    return excess
