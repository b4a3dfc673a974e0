"""Transport to points on a line, in many digits: an independent reference for semi-discrete costs.

The density splits into what is across the line, which costs its second moment, and its marginal
along the line, whose optimal map is monotone.
"""

import itertools
import math

import mpmath as mp
import numpy as np
import torch
from scipy.stats import chi2

from skgmmot import GridDensity
from skgmmot.gaussian.mixture import GaussianMixtureParams

#: Decimal digits: far offsets and small units leave 30 of them.
DIGITS = 50
#: Steps of bisection and of Newton's method for a quantile.
BISECTIONS, NEWTON_STEPS = 60, 6


class NormalMixture:
    """A mixture on the line."""

    def __init__(self, weights, means, deviations):
        total = mp.fsum(weights)
        self.parts = [(w / total, m, s) for w, m, s in zip(weights, means, deviations, strict=True)]
        self.second = mp.fsum(w * (m * m + s * s) for w, m, s in self.parts)

    def level(self, q):
        """Mass below a place."""
        return mp.fsum(w * mp.ncdf((q - m) / s) for w, m, s in self.parts)

    def first(self, q):
        """The integral of x below a place."""
        z = [(w, m, s, (q - m) / s) for w, m, s in self.parts]
        return mp.fsum(w * (m * mp.ncdf(t) - s * mp.npdf(t)) for w, m, s, t in z)

    def quantile(self, level):
        """The place below which a mass lies."""
        low = min(m - 40 * s for _, m, s in self.parts)
        high = max(m + 40 * s for _, m, s in self.parts)
        with mp.workdps(20):
            for _ in range(BISECTIONS):
                q = (low + high) / 2
                low, high = (q, high) if self.level(q) < level else (low, q)
        for _ in range(NEWTON_STEPS):
            slope = mp.fsum(w * mp.npdf((q - m) / s) / s for w, m, s in self.parts)
            q -= (self.level(q) - level) / slope if slope else 0
        return q


class Histogram:
    """A density on an interval of the line, constant on pieces of one length."""

    def __init__(self, masses, low, high):
        total, n = mp.fsum(masses), len(masses)
        self.masses, self.step = [m / total for m in masses], (high - low) / n
        self.edges = [low + k * self.step for k in range(n + 1)]
        squares = (a * a + a * b + b * b for a, b in zip(self.edges, self.edges[1:], strict=False))
        self.second = mp.fsum(m * s / 3 for m, s in zip(self.masses, squares, strict=True))

    def _piece(self, q):
        q = min(max(q, self.edges[0]), self.edges[-1])
        return min(int((q - self.edges[0]) / self.step), len(self.masses) - 1), q

    def level(self, q):
        """Mass below a place."""
        k, q = self._piece(q)
        return mp.fsum(self.masses[:k]) + self.masses[k] * (q - self.edges[k]) / self.step

    def first(self, q):
        """The integral of x below a place."""
        k, q = self._piece(q)
        whole = mp.fsum(self.masses[i] * (self.edges[i] + self.edges[i + 1]) / 2 for i in range(k))
        return whole + self.masses[k] / self.step * (q * q - self.edges[k] ** 2) / 2

    def quantile(self, level):
        """The place below which a mass lies."""
        below = mp.mpf(0)
        for mass, edge in zip(self.masses, self.edges, strict=False):
            if below + mass >= level:
                return edge + self.step * (level - below) / mass
            below += mass
        return self.edges[-1]


def cost_on_line(density, places, masses):
    """``W2^2`` from a density on the line to points."""
    order, total = sorted(range(len(places)), key=places.__getitem__), mp.fsum(masses)
    cost, level, before = density.second, mp.mpf(0), mp.mpf(0)
    for k in order:
        share = masses[k] / total
        level += share
        upto = density.first(mp.inf if k == order[-1] else density.quantile(level))
        cost += share * places[k] ** 2 - 2 * places[k] * (upto - before)
        before = upto
    return cost


def masses_on_line(density, places, potentials):
    """Masses of the cells of potentials, all of which must have some."""
    order = sorted(range(len(places)), key=places.__getitem__)
    ends = [mp.mpf(0)]
    for j, k in itertools.pairwise(order):
        apart = places[k] - places[j]
        middle = (places[k] ** 2 - places[j] ** 2 - potentials[k] + potentials[j]) / (2 * apart)
        ends.append(density.level(middle))
    masses = dict(zip(order, np.diff([*ends, mp.mpf(1)]), strict=True))
    return [masses[k] for k in range(len(places))]


def exact(array):
    """Numbers of many digits."""
    return [mp.mpf(float(x)) for x in np.asarray(array).ravel()]


def mixture_problem(rng, d, *, n_components=3, offset=0.0, unit=1.0):
    """A mixture and points on a line, and the same on that line: density, places, and the rest."""
    K, along = n_components, rng.integers(1, 4, size=d)
    if rng.random() < 0.3:
        along = np.eye(d, dtype=int)[0]
    # few digits, so that the points lie on the line to the bit
    t = np.unique(np.round(rng.normal(size=rng.integers(2, 9)) * 2**10) / 2**10)
    y = (np.round(rng.normal(size=d) * 4) / 4 + t[:, None] * along) * unit + offset
    weights, b = (
        rng.dirichlet(np.full(K, 3.0)),
        rng.dirichlet(np.full(len(y), rng.choice([0.5, 5]))),
    )
    means, A = 2 * rng.normal(size=(K, d)) * unit + offset, rng.normal(size=(K, d, d))
    covariances = (A @ A.transpose(0, 2, 1) + 0.1 * np.eye(d)) * unit**2
    with mp.workdps(DIGITS):
        U = [mp.mpf(int(u)) for u in along]
        length = mp.sqrt(mp.fsum(u * u for u in U))
        origin = exact(y[0])

        def project(place):
            away = (p - o for p, o in zip(exact(place), origin, strict=True))
            return mp.fsum(p * u for p, u in zip(away, U, strict=True)) / length

        W = exact(weights)
        squares = [
            mp.fsum((p - o) ** 2 for p, o in zip(exact(m), origin, strict=True)) for m in means
        ]
        traces = [mp.fsum(exact(np.diagonal(S))) for S in covariances]
        second = mp.fsum(w * (q + t) for w, q, t in zip(W, squares, traces, strict=True)) / mp.fsum(
            W
        )
        quadratic = [
            mp.fsum(mp.mpf(float(S[i, j])) * U[i] * U[j] for i in range(d) for j in range(d))
            for S in covariances
        ]
        line = NormalMixture(
            W, [project(m) for m in means], [mp.sqrt(q) / length for q in quadratic]
        )
        places = [project(p) for p in y]
    mixture = GaussianMixtureParams(*map(torch.tensor, (weights, means, covariances)))
    return mixture, torch.tensor(y), torch.tensor(b), (line, places, second - line.second)


def image_problem(rng, d, *, offset=0.0, unit=1.0):
    """An image or voxels and points on a horizontal line, and the same on that line."""
    values = rng.random(tuple(rng.integers(1, 6, size=d)))
    values *= rng.random(values.shape) < 0.8
    values += 0.01
    ends = [e for _ in range(d) for e in (offset, offset + unit * rng.choice([0.5, 1, 2]))]
    y = np.repeat(offset + unit * rng.normal(size=(1, d)), rng.integers(2, 9), axis=0)
    y[:, 0] = offset + unit * rng.normal(size=len(y))
    b = rng.dirichlet(np.full(len(y), rng.choice([0.5, 5])))
    with mp.workdps(DIGITS):
        marginals = []
        for i in range(d):
            moved = np.moveaxis(values, d - 1 - i, 0)
            masses = [mp.fsum(exact(part)) for part in moved]
            start = mp.mpf(float(y[0, i]))
            low, high = (mp.mpf(float(e)) - start for e in ends[2 * i : 2 * i + 2])
            marginals.append(Histogram(masses, low, high))
        line, across = marginals[0], mp.fsum(m.second for m in marginals[1:])
        places = [p - mp.mpf(float(y[0, 0])) for p in exact(y[:, 0])]
    grid = GridDensity(torch.tensor(values), tuple(ends), "lower")
    return grid, torch.tensor(y), torch.tensor(b), (line, places, across)


def reference_cost(problem):
    """``W2^2`` of a problem on a line, in many digits."""
    _, _, b, (line, places, across) = problem
    with mp.workdps(DIGITS):
        return across + cost_on_line(line, places, exact(b))


def cost_error(problem, cost) -> float:
    """How far a cost of a problem on a line is off."""
    with mp.workdps(DIGITS):
        return float(mp.mpf(float(cost)) - reference_cost(problem))


def mass_error(problem, potentials) -> float:
    """The sum of errors of the masses of the cells of potentials."""
    _, _, b, (line, places, _) = problem
    with mp.workdps(DIGITS):
        found = masses_on_line(line, places, exact(potentials))
        total = mp.fsum(exact(b))
        return float(mp.fsum(abs(m - x / total) for m, x in zip(found, exact(b), strict=True)))


def partial_normal(d: int, share: float) -> float:
    """``W2^2`` from the nearest share of a standard normal density to its mean."""
    radius = chi2.ppf(share, d)
    return d * chi2.cdf(radius, d + 2) if math.isfinite(radius) else float(d)
