"""Minima of small discrete transport problems: exactly, in fractions, and in many digits."""

import math
from fractions import Fraction
from itertools import chain

import mpmath as mp

DIGITS = 40


def exact_minimum(a, b, C) -> Fraction:
    """The minimum for exact numbers, by shortest paths; b is rescaled to the total of a."""
    a, b = ([Fraction(float(w)) for w in weights] for weights in (a, b))
    C = [[_fraction(c) for c in row] for row in C]
    b = [w * sum(a) / sum(b) for w in b]
    P = [[Fraction(0)] * len(b) for _ in a]
    while any(a):
        path = _shortest_path(a, b, C, P)
        (first, _, _), (_, last, _) = path[-1], path[0]
        amount = min(a[first], b[last], *(P[k][l] for k, l, sign in path if sign < 0))
        for k, l, sign in path:
            P[k][l] += sign * amount
        a[first] -= amount
        b[last] -= amount
    pairs = zip(chain.from_iterable(P), chain.from_iterable(C), strict=True)
    return sum(p * c for p, c in pairs)


def _fraction(number) -> Fraction:
    """A float or a number of mpmath, exactly."""
    sign, mantissa, exponent, _ = mp.mpf(number)._mpf_
    return Fraction((-1) ** sign * int(mantissa)) * Fraction(2) ** exponent


def _shortest_path(a, b, C, P):
    """The cheapest path from what is left of a to what is left of b, backwards: pairs and signs."""
    K, L = len(a), len(b)
    to_row, from_column = [0 if w else None for w in a], [None] * K
    to_column, from_row = [None] * L, [None] * L
    changed = True
    while changed:  # Bellman and Ford
        changed = False
        for k in range(K):
            for l in range(L):
                if to_row[k] is not None and _less(to_row[k] + C[k][l], to_column[l]):
                    to_column[l], from_row[l], changed = to_row[k] + C[k][l], k, True
                if (
                    P[k][l]
                    and to_column[l] is not None
                    and _less(to_column[l] - C[k][l], to_row[k])
                ):
                    to_row[k], from_column[k], changed = to_column[l] - C[k][l], l, True
    l = min((l for l in range(L) if b[l]), key=to_column.__getitem__)
    path = [(from_row[l], l, 1)]
    while from_column[k := path[-1][0]] is not None:
        l = from_column[k]
        path += [(k, l, -1), (from_row[l], l, 1)]
    return path


def _less(value, than) -> bool:
    return than is None or value < than


class Conditions:
    """The optimality conditions of a penalised problem, in many digits."""

    def __init__(self, a, b, C, penalties, reg, used):
        self.a, self.b = ([mp.mpf(float(w)) for w in weights] for weights in (a, b))
        if all(map(math.isinf, penalties)):
            ratio = mp.fsum(self.a) / mp.fsum(self.b)
            self.b = [w * ratio for w in self.b]
        self.C = [[mp.mpf(float(c)) for c in row] for row in C]
        self.lam, self.reg = [mp.mpf(lam) for lam in penalties], mp.mpf(reg)
        self.used = used

    def split(self, x):
        """Potentials and masses of the pairs in use from a vector."""
        K, L = len(self.a), len(self.b)
        f, g, masses = list(x[:K]), list(x[K : K + L]), list(x[K + L :])
        if self.reg:
            masses = [
                self.a[k] * self.b[l] * mp.exp((f[k] + g[l] - self.C[k][l]) / self.reg)
                for k, l in self.used
            ]
        return f, g, masses

    def marginal(self, side, index, potential):
        weight, lam = (self.a, self.b)[side][index], self.lam[side]
        return weight if mp.isinf(lam) else weight * mp.exp(-potential / lam)

    def residual(self, x):
        f, g, masses = self.split(x)
        rows = [self.marginal(0, k, f[k]) for k in range(len(f))]
        columns = [self.marginal(1, l, g[l]) for l in range(len(g))]
        for (k, l), mass in zip(self.used, masses, strict=True):
            rows[k] -= mass
            columns[l] -= mass
        slacks = [self.C[k][l] - f[k] - g[l] for k, l in self.used]
        return [*rows, *columns, *([] if self.reg else slacks)]

    def jacobian(self, x):
        f, g, masses = self.split(x)
        K, L = len(f), len(g)
        J = mp.zeros(len(x))
        for side, potentials in enumerate((f, g)):
            for i, potential in enumerate(potentials):
                if not mp.isinf(self.lam[side]):
                    at = i + side * K
                    J[at, at] = -self.marginal(side, i, potential) / self.lam[side]
        for i, (k, l) in enumerate(self.used):
            if self.reg:
                for row, column in ((k, k), (k, K + l), (K + l, k), (K + l, K + l)):
                    J[row, column] -= masses[i] / self.reg
            else:
                for node in (k, K + l):
                    J[K + L + i, node] = J[node, K + L + i] = -1
        return J

    def value(self, x):
        f, g, masses = self.split(x)
        value = mp.fsum(m * self.C[k][l] for m, (k, l) in zip(masses, self.used, strict=True))
        if self.reg:
            pairs = [self.a[k] * self.b[l] for k, l in self.used]
            value += self.reg * mp.fsum(map(divergence, masses, pairs))
        for side, potentials in enumerate((f, g)):
            if not mp.isinf(self.lam[side]):
                sums = [self.marginal(side, i, t) for i, t in enumerate(potentials)]
                value += self.lam[side] * mp.fsum(map(divergence, sums, (self.a, self.b)[side]))
        return value


def divergence(p, q):
    return (p * mp.log(p / q) if p else 0) - p + q


def penalised_minimum(a, b, C, penalties, reg, plan, f, g):
    """The minimum by Newton's method from a solution in float64; None if it does not converge."""
    with mp.workdps(DIGITS):
        K, L = C.shape
        used = [(k, l) for k in range(K) for l in range(L) if reg or plan[k, l] > 1e-9 * plan.sum()]
        conditions = Conditions(a, b, C, penalties, reg, used)
        x = [*f, *g] + ([] if reg else [plan[k, l] for k, l in used])
        x = [mp.mpf(float(t)) for t in x]
        free = all(map(math.isinf, penalties))  # f + c, g - c: one potential stays
        for _ in range(60):
            r = conditions.residual(x)
            if max(map(abs, r)) < mp.mpf(10) ** (6 - DIGITS) * (1 + max(map(abs, x))):
                return conditions.value(x) if _feasible(conditions, x) else None
            J, n = conditions.jacobian(x), K + L - 1 if free else len(x)
            try:
                step = list(mp.lu_solve(J[:n, :n], -mp.matrix(r[:n]))) + [0] * (len(x) - n)
            except ZeroDivisionError:
                return None
            largest = max(abs(t) for t in step[: K + L]) / reg if reg else 0
            x = [t + d / max(1, largest) for t, d in zip(x, step, strict=True)]
    return None


def _feasible(conditions, x) -> bool:
    if conditions.reg:
        return True
    f, g, masses = conditions.split(x)
    slacks = [c - f[k] - g[l] for k, row in enumerate(conditions.C) for l, c in enumerate(row)]
    return min(masses) > 0 and min(slacks) > -(mp.mpf(10) ** (10 - DIGITS)) * (1 + max(map(abs, x)))
