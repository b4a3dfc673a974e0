"""Wasserstein distances on lines, from mixtures to samples and to mixtures, with derivatives.

A *slice* is a mixture on a line; ``L`` of them, of ``K`` components each, are worked on at once.
With ``q`` the quantile function of the mixture and ``Q`` that of the other side,
``W_p^p = int_0^1 |q(u) - Q(u)|^p du``.

A derivative holds the potential ``psi`` fixed (envelope theorem), where
``psi'(t) = p |t - T(t)|^{p-1} sign(t - T(t))`` and ``T = Q o F`` is the transport map. By parts,
the derivative in any parameter is ``int psi' dV`` of a smooth function ``V``; with
``z = (t - m_k) / s_k``:

===========  ====================================  ==========================
parameter    ``V(t)``                              ``V'(t)``
===========  ====================================  ==========================
mean         ``w_k Phi(z)``                        ``w_k phi(z) / s_k``
deviation    ``-w_k phi(z)``                       ``w_k z phi(z) / s_k``
weight       ``-(t - m_k) Phi(z) - s_k phi(z)``    ``-Phi(z)``
===========  ====================================  ==========================

(the last up to a constant, for weights sum to one). The value for p = 2 is of the same kind, with
the partial expectation ``H(u) = int_0^u q = sum_k w_k (m_k Phi(z) - s_k phi(z))``, ``dH/du = q``.
All of them are read off cubic Hermite splines in ``u`` over *nodes*, a few for each component, so
that samples enter by two weights a node and no quantile is solved for: ``O(n L)`` for the samples
and ``O(nodes K L)`` for the mixture.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

SQRT_2PI = math.sqrt(2 * math.pi)
SQRT_HALF = math.sqrt(0.5)
#: Nodes of a component reach this many deviations to both sides of its mean.
REACH = 5.5
#: Nodes of a component. Errors fall like the fourth power of their number.
N_NODES = 36
#: Exponents below are raised to it: exp is several times slower where it underflows.
UNDERFLOW = -700.0
#: Numbers that one array of the passes over the samples may hold.
CACHED = 2**17
#: Gauss's points on [0, 1], of equal weights, where the exponent is not 2.
GAUSS = torch.tensor([0.5 - 3**-0.5 / 2, 0.5 + 3**-0.5 / 2], dtype=torch.float64)
#: Where two quantile functions are compared to see whether they cross between two levels.
PROBES = (0.1, 0.9)
#: Between neighbouring nodes with less mass than this there is a gap.
GAP = 1e-6
#: Ends closer than this share of their size are one point to a difference quotient.
CLOSE = 1e-5


class Slices(NamedTuple):
    """Mixtures on L lines, of the same weights, in float64."""

    weights: Tensor
    """``w (K,)``, of sum one."""
    means: Tensor
    """``m (L, K)``."""
    deviations: Tensor
    """``s (L, K)``, positive."""

    def rows(self, rows: slice) -> "Slices":
        """Some of the lines."""
        return Slices(self.weights, self.means[rows], self.deviations[rows])


class SortedSamples(NamedTuple):
    """Weighted samples on L lines, ascending, in float64."""

    values: Tensor
    """``y (L, n)``."""
    masses: Tensor
    """Their weights, ``(1, 1)`` if they are equal, else ``(L, n)``; each row of sum one."""
    levels: Tensor
    """Cumulated weights of all but the last, ``(1, n - 1)`` or ``(L, n - 1)``."""

    @property
    def equal(self) -> bool:
        """Whether the weights are equal, and levels multiples of one over n."""
        return self.masses.numel() == 1

    def second_moment(self) -> Tensor:
        """``sum a_i y_i^2 (L,)``."""
        if self.equal:  # nothing of the size of the samples is allocated
            return torch.linalg.vecdot(self.values, self.values) * self.masses.squeeze()
        return torch.linalg.vecdot(self.values, self.masses * self.values)

    def rows(self, rows: slice) -> "SortedSamples":
        """Some of the lines."""
        masses, levels = (t if len(t) == 1 else t[rows] for t in self[1:])
        return SortedSamples(self.values[rows], masses, levels)


class Gradient(NamedTuple):
    """Derivatives in the parameters of slices, line by line, ``(L, K)`` each."""

    weights: Tensor
    """Of weighted sum zero: the derivative where weights are normalised."""
    means: Tensor
    deviations: Tensor


class Table(NamedTuple):
    """Slices evaluated at J points a line."""

    points: Tensor
    """``t (L, J)``."""
    levels: Tensor
    """``u = F(t) (L, J)``."""
    density: Tensor
    """``F'(t) (L, J)``."""
    partial: Tensor
    """``H(u) = int_{-inf}^t tau dF (L, J)``."""
    second: Tensor
    """``int_{-inf}^t tau^2 dF (L, J)``."""
    basis: Tensor
    """``2 Phi(z) - 1`` above ``exp(-z^2 / 2)``, ``(L, 2 K, J)``."""


def sort(values: Tensor) -> Tensor:
    """Sort rows of numbers that nobody else needs; on a CPU by numpy, faster and in place."""
    if values.device.type != "cpu":
        return values.sort(dim=1).values
    values.numpy().sort(axis=1)
    return values


def nodes(slices: Slices, n_nodes: int, reach: float) -> Tensor:
    """Equidistant points around each component, ascending: ``(L, K n_nodes)``."""
    z = torch.linspace(-reach, reach, n_nodes, dtype=torch.float64, device=slices.means.device)
    return sort((slices.means.unsqueeze(-1) + slices.deviations.unsqueeze(-1) * z).flatten(1))


def evaluate(slices: Slices, points: Tensor) -> Table:
    """Evaluate slices at points ``(L, J)``."""
    w, m, s = slices
    K = m.shape[1]
    z = (points.unsqueeze(1) - m.unsqueeze(-1)).mul_(SQRT_HALF / s.unsqueeze(-1))
    basis = z.new_empty(len(z), 2 * K, z.shape[2])
    torch.erf(z, out=basis[:, :K])
    torch.exp(z.square_().neg_().clamp_(min=UNDERFLOW), out=basis[:, K:])
    half, wide, none = (w / 2).expand_as(m), w * s / SQRT_2PI, torch.zeros_like(m)
    of_erf = torch.stack([half, none, half * m, none, half * (m.square() + s.square())], dim=1)
    of_bell = torch.stack([none, wide / s.square(), -wide, wide, -wide * m], dim=1)
    sums = torch.cat([of_erf, of_bell], dim=2) @ basis  # (L, 5, J)
    sums += of_erf.sum(2, keepdim=True)  # Phi = (1 + erf) / 2
    levels, density, partial, spread, second = sums.unbind(1)
    return Table(points, levels, density, partial, second - points * spread, basis)


def derivatives(slices: Slices, table: Table, values: Tensor, slopes: Tensor) -> Gradient:
    """Apply ``V -> sum_j values_j V(t_j) + slopes_j V'(t_j)`` to the ``V`` of every parameter."""
    w, m, s = slices
    t = table.points
    rows = torch.stack([values, values * t + slopes, slopes, slopes * t], dim=1)  # (L, 4, J)
    above, bell = (rows @ table.basis.mT).split(m.shape[1], dim=2)  # (L, 4, K)
    cdf, cdf_t, *_ = ((above + rows.sum(2, keepdim=True)) / 2).unbind(1)
    bell, _, bell_slope, bell_slope_t = (bell / SQRT_2PI).unbind(1)
    return Gradient(
        weights=centred(m * cdf - cdf_t - s * bell, w),
        means=w * (cdf + bell_slope / s),
        deviations=w * ((bell_slope_t - m * bell_slope) / s.square() - bell),
    )


def centred(potential: Tensor, weights: Tensor) -> Tensor:
    """The potential of weighted sum zero."""
    return potential - (potential @ weights).unsqueeze(1)


# --- splines over the levels of the nodes --------------------------------------------------------


class Spline:
    """Cubic Hermite interpolation in the level ``u`` between the nodes of slices.

    The slope of ``V`` is ``V'(t) dt/du``. Where there is hardly any density, ``dt/du = 1 / F'(t)``
    would make it overshoot: ``dt/du`` is at most three times that of the chord.
    """

    def __init__(self, slices: Slices, n_nodes: int, reach: float = REACH):
        self.slices, self.table = slices, evaluate(slices, nodes(slices, n_nodes, reach))
        # ascending, in spite of rounding
        self.levels = self.table.levels.cummax(1).values.clamp_(0, 1)
        self.widths = self.levels.diff(dim=1)  # (L, J - 1)
        self.inverse = torch.where(self.widths > 0, self.widths.reciprocal(), 0.0)
        steepest = 3 * self.table.points.diff(dim=1) * self.inverse
        slowness = self.table.density.reciprocal()
        self.slow_left = torch.minimum(slowness[:, :-1], steepest)
        self.slow_right = torch.minimum(slowness[:, 1:], steepest)
        low, high = (f(self.slow_left, self.slow_right) for f in (torch.minimum, torch.maximum))
        self.smooth = (6 * low > steepest) & (1.5 * high < steepest)  # within 2 of the chord
        self.mean = self.table.partial.diff(dim=1) * self.inverse  # of t, in an interval

    def fraction(self, u: Tensor, interval: Tensor) -> Tensor:
        """Position of levels ``u`` in their intervals, from 0 to 1."""
        from_left = u - self.levels.gather(1, interval)
        return from_left.mul_(self.inverse.gather(1, interval)).clamp_(0, 1)

    def quantile(self, interval: Tensor, x: Tensor) -> Tensor:
        """``q(u)`` at positions ``x`` in intervals."""
        t, (left, right) = self.table.points, (self.slow_left, self.slow_right)
        start, end = t[:, :-1], t[:, 1:]
        left, right = left * self.widths, right * self.widths
        # A bump gives each interval its mean: int q du = H(end) - H(start).
        bump = 30 * (self.mean - (start + end) / 2 - (left - right) / 12)
        bump = torch.where(self.smooth, bump, 0.0).gather(1, interval)
        q = _hermite(t, left, right, interval, x) + bump * (x * (1 - x)).square()
        return torch.minimum(torch.maximum(q, start.gather(1, interval)), end.gather(1, interval))

    def partial(self, u: Tensor, interval: Tensor) -> Tensor:
        """``H(u)`` at levels in given intervals; its slope is ``t``."""
        left, right = (
            t * self.widths for t in (self.table.points[:, :-1], self.table.points[:, 1:])
        )
        return _hermite(self.table.partial, left, right, interval, self.fraction(u, interval))

    def own_square(self) -> Tensor:
        """``int q^2``, of the spline where it is smooth."""
        w, m, s = self.slices
        start, end, mean = self.table.points[:, :-1], self.table.points[:, 1:], self.mean
        spline = (2 * (start.square() + end.square()) - start * end) / 15
        spline += mean * (6 * mean - start - end) / 5
        excess = spline * self.widths - self.table.second.diff(dim=1)
        return (m.square() + s.square()) @ w + torch.where(self.smooth, excess, 0.0).sum(1)

    def own_functional(self) -> tuple[Tensor, Tensor, Tensor]:
        """``int t dV``: weights of rises of ``V``, and of ``V'`` at the ends of intervals.

        Of the spline where it is smooth, and of a cubic in ``t`` elsewhere.
        """
        start, end, mean = self.table.points[:, :-1], self.table.points[:, 1:], self.mean
        rise = torch.where(self.smooth, 1.2 * mean - (start + end) / 10, (start + end) / 2)
        square = (end - start).square() / 12
        left = ((4 * start - end) / 30 - mean / 10) * self.widths * self.slow_left
        right = ((4 * end - start) / 30 - mean / 10) * self.widths * self.slow_right
        left = torch.where(self.smooth, left, -square)
        return rise, left, torch.where(self.smooth, right, square)


def _hermite(values, left, right, interval, x):
    """Interpolate values at nodes, with slopes by ``x`` at the ends of intervals."""
    start, rise, left, right = (
        v.gather(1, interval) for v in (values, values.diff(dim=1), left, right)
    )
    # rise (3 x^2 - 2 x^3) + left (x - 2 x^2 + x^3) + right (x^3 - x^2), by Horner's rule
    cubic = left + right - 2 * rise
    return start + x * (left + x * (rise - left - cubic + x * cubic))


def to_nodes(left: Tensor, right: Tensor) -> Tensor:
    """Gather what belongs to the ends of intervals at the nodes between them."""
    total = torch.nn.functional.pad(left, (0, 1))
    total[:, 1:] += right
    return total


# --- the squared distance to samples -------------------------------------------------------------


def squared(slices: Slices, samples: SortedSamples, in_values: bool, n_nodes: int):
    """W2^2 to samples, its gradient, and that in the samples if asked for.

    ``W2^2 = E t^2 + sum_i a_i y_i^2 - 2 S`` with the correlation ``S = int q Q``, summed by parts:
    ``S = y_n H(1) - sum_i (y_{i+1} - y_i) H(c_i)``.

    Near the minimum the two parts of ``int (q - Q) dV`` nearly cancel; so do their errors if the
    spline stands for ``q`` in both.
    """
    spline, y = Spline(slices, n_nodes), samples.values
    w, m, _ = slices
    t, table, last = spline.table.points, spline.table, y[:, -1:]
    first = first_above(spline.levels, samples)
    m0, m1, m2, m3 = moments(spline, samples, first)
    right = 3 * m2 - 2 * m3
    slope_left, slope_right = (m1 - 2 * m2 + m3) * spline.widths, (m3 - m2) * spline.widths
    below = to_nodes(m0 - right, right) * table.partial + to_nodes(slope_left, slope_right) * t
    S = last.squeeze(1) * (m @ w) - below.sum(1)
    # int (q - Q) dV, with V at the nodes and at infinity: w_k, 0 and m_k (up to a constant)
    own, own_left, own_right = spline.own_functional()
    values = to_nodes(m0 - right - own, right + own)
    values[:, 0] += t[:, 0]
    values[:, -1] -= t[:, -1]
    slopes = to_nodes(
        own_left + slope_left * spline.slow_left, own_right + slope_right * spline.slow_right
    )
    inner, ahead = derivatives(slices, table, values, slopes), t[:, -1:] - last
    half = Gradient(
        centred(ahead * m, w) + inner.weights, ahead * w + inner.means, inner.deviations
    )
    partial = spline.partial(samples.levels, intervals(first)) if in_values else None
    return assemble_squared(slices, samples, spline.own_square() - 2 * S, half, partial)


def assemble_squared(slices, samples, without_squares, half, partial):
    """Add the squares of the samples to W2^2, double half the gradient, and add that in samples.

    The derivative in a sample is ``2 a_i (y_i - mean of the mixture in its cell)``, and that mean
    is ``(H(c_i) - H(c_{i-1})) / a_i``.
    """
    y = samples.values
    cost = without_squares + samples.second_moment()
    gradient = Gradient(*(2 * part for part in half))
    if partial is None:
        return cost, gradient, None
    total = (slices.means @ slices.weights).unsqueeze(1)
    moved = torch.cat([partial, total], dim=1).diff(dim=1, prepend=torch.zeros_like(total))
    return cost, gradient, 2 * (samples.masses * y - moved)


def first_above(node_levels: Tensor, samples: SortedSamples) -> Tensor:
    """Count the samples' levels below each node's, ``(L, J)``; none below the first, all the last.

    The interval from node j to the next holds levels ``first[j]`` to ``first[j + 1] - 1``.
    """
    n = samples.values.shape[1]
    if samples.equal:
        first = (node_levels * n).ceil_().long().sub_(1).clamp_(0, n - 1)
    else:
        first = torch.searchsorted(samples.levels.contiguous(), node_levels)
    first[:, 0], first[:, -1] = 0, n - 1
    return first


def repeat(values: Tensor, first: Tensor) -> Tensor:
    """Give what belongs to intervals ``(L, J - 1)`` to every level in them ``(L, n - 1)``.

    On a CPU by numpy, which is ten times faster there.
    """
    counts = first.diff(dim=1)
    if values.device.type == "cpu":
        repeated = torch.from_numpy(np.repeat(values.numpy().ravel(), counts.numpy().ravel()))
    else:
        repeated = values.flatten().repeat_interleave(counts.flatten())
    return repeated.view(len(values), -1)


def intervals(first: Tensor) -> Tensor:
    """The interval of each level ``(L, n - 1)``."""
    indices = torch.arange(first.shape[1] - 1, device=first.device)
    return repeat(indices.expand(len(first), -1), first)


def moments(spline: Spline, samples: SortedSamples, first: Tensor) -> Tensor:
    """``sum (y_{i+1} - y_i) x_i^r`` over each interval, r = 0, ..., 3: ``(4, L, J - 1)``.

    Few lines at a time, whose numbers stay in a cache.
    """
    n_lines, n = samples.values.shape
    length = max(1, CACHED // n)
    blocks = [slice(i, i + length) for i in range(0, n_lines, length)]
    return torch.cat([_moments(spline, samples, first, block) for block in blocks], dim=1)


def _moments(spline, samples, first, rows):
    """`moments` of some lines."""
    first, samples = first[rows], samples.rows(rows)
    x = samples.levels - repeat(spline.levels[rows, :-1], first)
    x.mul_(repeat(spline.inverse[rows], first)).clamp_(0, 1)
    y, found = samples.values, [samples.values.gather(1, first)]
    sums, terms = torch.zeros_like(y), y.diff(dim=1)
    for _ in range(3):
        torch.cumsum(terms.mul_(x), dim=1, out=sums[:, 1:])
        found.append(sums.gather(1, first))
    return torch.stack(found).diff(dim=2)


# --- other exponents, and two mixtures -----------------------------------------------------------


class MixtureSide:
    """Slices as a quantile function."""

    def __init__(self, slices: Slices, n_nodes: int):
        self.spline = Spline(slices, n_nodes)
        self.levels, self.points = self.spline.levels, self.spline.table.points

    def locate(self, u: Tensor, right: bool = False) -> tuple[Tensor, Tensor]:
        """Intervals of levels ``(L, m)`` and positions in them.

        Where several nodes share a level: the interval that ends at the first of them or, to the
        right, the one that begins at the last.
        """
        last = self.levels.shape[1] - 2
        interval = (torch.searchsorted(self.levels, u, right=right) - 1).clamp_(0, last)
        return interval, self.spline.fraction(u, interval)

    def at(self, place: tuple[Tensor, Tensor]) -> Tensor:
        """Quantiles at places ``(L, m)``."""
        return self.spline.quantile(*place)

    def derivatives(self, place, slope: Tensor, other, p: float) -> Gradient:
        """``int psi' dV`` for ``slope``, the values of ``psi'`` times the weights of the rule.

        Across a gap in the mass the rule in levels sees nothing, and ``V`` may still rise by far.
        There ``V`` is linear in ``t``, and its rise counts by the mean of ``psi'`` over ``t``.
        """
        interval, x = place
        gap = self.spline.widths < GAP
        sums = []
        for _ in range(3):  # of 1, x and x^2 over each interval
            total = torch.zeros_like(self.spline.widths).scatter_add_(1, interval, slope)
            sums.append(total.masked_fill_(gap, 0.0))
            slope = slope * x
        e0, e1, e2 = sums
        spline, right = self.spline, 6 * (e1 - e2) * self.spline.inverse
        right += torch.where(gap, self._mean_slopes(other, p), 0.0)
        left = (e0 - 4 * e1 + 3 * e2) * spline.slow_left
        slopes = to_nodes(left, (3 * e2 - 2 * e1) * spline.slow_right)
        return derivatives(spline.slices, spline.table, to_nodes(-right, right), slopes)

    def _mean_slopes(self, other, p: float) -> Tensor:
        """Mean of ``psi'`` between neighbouring nodes, with a transport map linear between them."""
        low, high = self.levels[:, :-1].contiguous(), self.levels[:, 1:].contiguous()
        start = self.points[:, :-1] - other.at(other.locate(low))
        end = self.points[:, 1:] - other.at(other.locate(high, right=True))
        return mean_slope(start, end, p)


class SampleSide:
    """Sorted samples as a quantile function."""

    def __init__(self, samples: SortedSamples):
        self.values = samples.values
        self.levels = samples.levels.expand(len(self.values), -1).contiguous()

    def locate(self, u: Tensor, right: bool = False) -> Tensor:
        """Indices of the samples at levels ``(L, m)``."""
        return torch.searchsorted(self.levels, u, right=right)

    def at(self, place: Tensor) -> Tensor:
        """Quantiles at places ``(L, m)``."""
        return self.values.gather(1, place)

    def derivatives(self, place, slope: Tensor, other, p: float) -> Tensor:
        """Derivatives in the samples."""
        return torch.zeros_like(self.values).scatter_add_(1, place, slope)


def mean_slope(start: Tensor, end: Tensor, p: float) -> Tensor:
    """Mean of the derivative of ``|g|^p`` over ``g`` from start to end."""
    rise, middle = end - start, (start + end) / 2
    slope = p * middle.abs() ** (p - 1) * middle.sign()
    # The quotient loses digits where the ends are close; there the middle is as good.
    apart = rise.abs() > CLOSE * torch.maximum(start.abs(), end.abs())
    quotient = (end.abs() ** p - start.abs() ** p) / torch.where(apart, rise, 1.0)
    return torch.where(apart, quotient, slope)


def power(source, target, p: float):
    """W_p^p between two sides, and the derivatives in both.

    By Gauss's rule between neighbours among the levels of both sides and those where the two
    quantile functions cross, for ``|.|^p`` has a kink there.
    """
    first = torch.zeros_like(source.levels[:, :1])
    levels = sort(torch.cat([first, source.levels, target.levels, first + 1], dim=1))
    levels = _with_crossings(source, target, levels)
    widths = levels.diff(dim=1).unsqueeze(-1)
    u = (levels[:, :-1].unsqueeze(-1) + widths * GAUSS.to(levels)).flatten(1)
    weights = (widths / len(GAUSS)).expand(-1, -1, len(GAUSS)).flatten(1)
    here, there = source.locate(u), target.locate(u)
    gap = source.at(here) - target.at(there)
    distance = gap.abs()
    cost = (weights * distance**p).sum(1)
    slope = weights * p * distance ** (p - 1) * gap.sign()
    in_source = source.derivatives(here, slope, target, p)
    return cost, in_source, target.derivatives(there, -slope, source, p)


def _with_crossings(source, target, levels: Tensor) -> Tensor:
    """Put one more level between neighbours: where the quantile functions cross, or halfway."""
    start, widths = levels[:, :-1], levels.diff(dim=1)
    probes = (start + x * widths for x in PROBES)
    left, right = (source.at(source.locate(u)) - target.at(target.locate(u)) for u in probes)
    crossing = PROBES[0] + (PROBES[1] - PROBES[0]) * left / (left - right)
    crossing = torch.where((crossing > 0) & (crossing < 1), crossing, 0.5)
    between = torch.stack([start, start + crossing * widths], dim=2).flatten(1)
    return torch.cat([between, levels[:, -1:]], dim=1)
