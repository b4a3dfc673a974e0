r"""One-dimensional Wasserstein distances of mixtures, with derivatives, by quadrature.

A *slice* is a one-dimensional mixture; ``L`` of them, of ``K`` components each, are computed at
once. With the quantile functions ``q`` of the mixture and ``Q`` of the other side,

.. math:: W_p^p = \int_0^1 |q(u) - Q(u)|^p\, du.

By the envelope theorem derivatives are taken at a fixed potential ``psi``, where
``psi'(t) = p |t - T(t)|^{p-1} sign(t - T(t))`` and ``T = Q o F`` is the transport map. Integrating
by parts, the derivative in any parameter is ``int psi' dV`` for a smooth function ``V``; with
``z = (t - m_k) / s_k``:

===========  ====================================  ==========================
parameter    ``V(t)``                              ``V'(t)``
===========  ====================================  ==========================
mean         ``w_k Phi(z)``                        ``w_k phi(z) / s_k``
deviation    ``-w_k phi(z)``                       ``w_k z phi(z) / s_k``
weight       ``-(t - m_k) Phi(z) - s_k phi(z)``    ``-Phi(z)``
===========  ====================================  ==========================

(the last up to a constant, since weights sum to one). The value for p = 2 is of the same kind, with
the partial expectation ``H(u) = int_0^u q = sum_k w_k (m_k Phi(z) - s_k phi(z))``, ``dH/du = q``.
All these functions are approximated by cubic Hermite splines in ``u`` over *nodes*, everywhere as
dense as the narrowest component there needs. Samples then enter through two weights for each node,
and no quantile has to be solved for. The cost is ``O(n L)`` for the samples and ``O(nodes K L)``
for the mixture.
"""

import numpy as np
import torch
from torch import Tensor

from skgmmot.transport.sliced.slices import (
    Gradient,
    Slices,
    SortedSamples,
    centred,
    derivatives,
    evaluate,
    nodes,
    sort,
)

#: Standard deviations that nodes cover on both sides of a component's mean: 4e-8 of the mass is
#: outside, less than the error of the splines.
NODE_RANGE = 5.5
#: Nodes of a component that stands alone. Errors fall like the fourth power of their number.
N_NODES = 48
#: Largest number of entries of an array of samples: 1 MiB in float64, to stay in the cache.
CACHE_SIZE = 2**17
#: Nodes of the two-point Gauss rule on [0, 1], whose weights are equal, for exponents other than 2.
GAUSS_NODES = torch.tensor([0.5 - 3**-0.5 / 2, 0.5 + 3**-0.5 / 2], dtype=torch.float64)
#: Positions in an interval of levels at which two quantile functions are compared, to extrapolate
#: where they cross.
CROSSING_PROBES = (0.1, 0.9)
#: Intervals between nodes with less mass than this are treated as gaps of the mixture.
GAP_MASS = 1e-6
#: Relative difference below which a difference quotient is replaced by the derivative in between:
#: the errors of both are then about 1e-10.
MIN_RELATIVE_RISE = 1e-5


# --- splines over the levels of the nodes --------------------------------------------------------


class Spline:
    """Cubic Hermite interpolation in the level ``u`` between the nodes of slices.

    The slope of ``V`` is ``V'(t) dt/du``. Where there is hardly any density, ``dt/du = 1 / F'(t)``
    would make the interpolant overshoot; so it is limited to three times the slope of the chord.
    """

    def __init__(self, slices: Slices, n_nodes: int, node_range: float = NODE_RANGE):
        self.slices, self.table = slices, evaluate(slices, nodes(slices, n_nodes, node_range))
        # monotone despite rounding
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
        """Positions in [0, 1] of levels ``u`` in their intervals."""
        from_left = u - self.levels.gather(1, interval)
        return from_left.mul_(self.inverse.gather(1, interval)).clamp_(0, 1)

    def quantile(self, interval: Tensor, x: Tensor) -> Tensor:
        """Quantiles ``q(u)`` at positions ``x`` in intervals."""
        t, (left, right) = self.table.points, (self.slow_left, self.slow_right)
        start, end = t[:, :-1], t[:, 1:]
        left, right = left * self.widths, right * self.widths
        # A quartic bump gives each interval the exact mean: int q du = H(end) - H(start).
        bump = 30 * (self.mean - (start + end) / 2 - (left - right) / 12)
        bump = torch.where(self.smooth, bump, 0.0).gather(1, interval)
        q = _hermite(t, left, right, interval, x) + bump * (x * (1 - x)).square()
        return torch.minimum(torch.maximum(q, start.gather(1, interval)), end.gather(1, interval))

    def partial(self, u: Tensor, interval: Tensor) -> Tensor:
        """The partial expectation ``H(u)`` at levels in given intervals."""
        left, right = (
            t * self.widths for t in (self.table.points[:, :-1], self.table.points[:, 1:])
        )
        return _hermite(self.table.partial, left, right, interval, self.fraction(u, interval))

    def second_moment(self) -> Tensor:
        """``int q^2``, from the spline where it is smooth, else exact."""
        w, m, s = self.slices
        start, end, mean = self.table.points[:, :-1], self.table.points[:, 1:], self.mean
        spline = (2 * (start.square() + end.square()) - start * end) / 15
        spline += mean * (6 * mean - start - end) / 5
        excess = spline * self.widths - self.table.second.diff(dim=1)
        return (m.square() + s.square()) @ w + torch.where(self.smooth, excess, 0.0).sum(1)

    def identity_functional(self) -> tuple[Tensor, Tensor, Tensor]:
        """Coefficients of ``int t dV``, for increments of ``V`` and for ``V'`` at both ends.

        They integrate the spline where it is smooth, and a cubic in ``t`` elsewhere.
        """
        start, end, mean = self.table.points[:, :-1], self.table.points[:, 1:], self.mean
        rise = torch.where(self.smooth, 1.2 * mean - (start + end) / 10, (start + end) / 2)
        square = (end - start).square() / 12
        left = ((4 * start - end) / 30 - mean / 10) * self.widths * self.slow_left
        right = ((4 * end - start) / 30 - mean / 10) * self.widths * self.slow_right
        left = torch.where(self.smooth, left, -square)
        return rise, left, torch.where(self.smooth, right, square)


def _hermite(values, left, right, interval, x):
    """Cubic Hermite interpolation, with slopes in ``x`` at the left and right ends of intervals."""
    start, rise, left, right = (
        v.gather(1, interval) for v in (values, values.diff(dim=1), left, right)
    )
    # rise (3 x^2 - 2 x^3) + left (x - 2 x^2 + x^3) + right (x^3 - x^2), by Horner's rule
    cubic = left + right - 2 * rise
    return start + x * (left + x * (rise - left - cubic + x * cubic))


def to_nodes(left: Tensor, right: Tensor) -> Tensor:
    """Add coefficients of the left and right ends of intervals at the nodes that they share."""
    total = torch.nn.functional.pad(left, (0, 1))
    total[:, 1:] += right
    return total


# --- the squared distance to samples -------------------------------------------------------------


def squared(slices: Slices, samples: SortedSamples, n_nodes: int):
    """W2^2 between mixture and samples on each line, and a function that returns its derivatives.

    ``gradient(both)`` are the derivatives in the fields of the slices and, if both, in the samples.

    ``W2^2 = E t^2 + sum_i a_i y_i^2 - 2 S`` with the correlation ``S = int q Q``, summed by parts:
    ``S = y_n H(1) - sum_i (y_{i+1} - y_i) H(c_i)``.

    Near the minimum the two parts of ``int (q - Q) dV`` nearly cancel. Their errors cancel too,
    since both use the spline for ``q``.
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

    def gradient(both: bool):
        # int (q - Q) dV, with V at the nodes and at infinity: w_k, 0 and m_k (up to a constant)
        own, own_left, own_right = spline.identity_functional()
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
        partial = spline.partial(samples.levels, intervals(first)) if both else None
        return derivatives_of_squared(slices, samples, half, partial)

    return spline.second_moment() - 2 * S + samples.second_moment(), gradient


def derivatives_of_squared(slices, samples, half, partial):
    """Derivatives of W2^2 in the slices, from half of them, and with ``H`` in the samples.

    The derivative in a sample is ``2 a_i (y_i - mean of the mixture in its cell)``, and that mean
    is ``(H(c_i) - H(c_{i-1})) / a_i``.
    """
    gradient = Gradient(*(2 * part for part in half))
    if partial is None:
        return gradient
    total = (slices.means @ slices.weights).unsqueeze(1)
    cells = torch.cat([partial, total], dim=1).diff(dim=1, prepend=torch.zeros_like(total))
    return *gradient, 2 * (samples.masses * samples.values - cells)


def first_above(node_levels: Tensor, samples: SortedSamples) -> Tensor:
    """How many of the samples' levels are below the level of each node, ``(L, J)``.

    It is 0 for the first node and ``n - 1`` for the last. The interval from node j to the next
    contains levels ``first[j]`` to ``first[j + 1] - 1``.
    """
    n = samples.values.shape[1]
    if samples.equal:
        first = (node_levels * n).ceil_().long().sub_(1).clamp_(0, n - 1)
    else:
        first = torch.searchsorted(samples.levels.contiguous(), node_levels)
    first[:, 0], first[:, -1] = 0, n - 1
    return first


def repeat(values: Tensor, first: Tensor) -> Tensor:
    """Repeat values of intervals ``(L, J - 1)`` for every level in them, ``(L, n - 1)``.

    On a CPU by numpy, which is ten times faster.
    """
    counts = first.diff(dim=1)
    if values.device.type == "cpu":
        repeated = torch.from_numpy(np.repeat(values.numpy().ravel(), counts.numpy().ravel()))
    else:
        repeated = values.flatten().repeat_interleave(counts.flatten())
    return repeated.view(len(values), -1)


def intervals(first: Tensor) -> Tensor:
    """For each level of the samples, which interval between nodes it lies in, ``(L, n - 1)``."""
    indices = torch.arange(first.shape[1] - 1, device=first.device)
    return repeat(indices.expand(len(first), -1), first)


def moments(spline: Spline, samples: SortedSamples, first: Tensor) -> Tensor:
    """Moments ``sum (y_{i+1} - y_i) x_i^r`` over each interval, r = 0, ..., 3: ``(4, L, J - 1)``.

    They are computed for a few lines at a time, to stay in the cache.
    """
    n_lines, n = samples.values.shape
    length = max(1, CACHE_SIZE // n)
    blocks = [slice(i, i + length) for i in range(0, n_lines, length)]
    return torch.cat([_moments(spline, samples, first, block) for block in blocks], dim=1)


def _moments(spline, samples, first, rows):
    """`moments` of a block of lines."""
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
    """The quantile functions of slices."""

    def __init__(self, slices: Slices, n_nodes: int):
        self.spline = Spline(slices, n_nodes)
        self.levels, self.points = self.spline.levels, self.spline.table.points

    def locate(self, u: Tensor, right: bool = False) -> tuple[Tensor, Tensor]:
        """Intervals of levels ``(L, m)`` and positions in them.

        Where several nodes share a level, that is the interval that ends at the first of them or,
        if ``right``, the one that begins at the last.
        """
        last = self.levels.shape[1] - 2
        interval = (torch.searchsorted(self.levels, u, right=right) - 1).clamp_(0, last)
        return interval, self.spline.fraction(u, interval)

    def at(self, location: tuple[Tensor, Tensor]) -> Tensor:
        """Quantiles ``(L, m)`` at levels found by `locate`."""
        return self.spline.quantile(*location)

    def derivatives(self, location, slope: Tensor, other, p: float) -> Gradient:
        """Derivatives ``int psi' dV``, from ``psi'`` times the weights of the quadrature.

        Across a gap in the mass there are no levels to integrate over, but ``V`` may rise. There
        ``V`` is taken as linear in ``t``, and ``psi'`` as its mean over ``t``.
        """
        interval, x = location
        gap = self.spline.widths < GAP_MASS
        sums = []
        for _ in range(3):  # sums of 1, x and x^2 over each interval
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
        """Mean of ``psi'`` between neighbouring nodes, for a transport map linear in between."""
        low, high = self.levels[:, :-1].contiguous(), self.levels[:, 1:].contiguous()
        start = self.points[:, :-1] - other.at(other.locate(low))
        end = self.points[:, 1:] - other.at(other.locate(high, right=True))
        return mean_slope(start, end, p)


class SampleSide:
    """The quantile functions of sorted samples."""

    def __init__(self, samples: SortedSamples):
        self.values = samples.values
        self.levels = samples.levels.expand(len(self.values), -1).contiguous()

    def locate(self, u: Tensor, right: bool = False) -> Tensor:
        """Indices ``(L, m)`` of the samples at levels."""
        return torch.searchsorted(self.levels, u, right=right)

    def at(self, location: Tensor) -> Tensor:
        """Quantiles ``(L, m)`` at levels found by `locate`."""
        return self.values.gather(1, location)

    def derivatives(self, location, slope: Tensor, other, p: float) -> tuple[Tensor]:
        """Derivatives in the samples."""
        return (torch.zeros_like(self.values).scatter_add_(1, location, slope),)


def mean_slope(start: Tensor, end: Tensor, p: float) -> Tensor:
    """Mean of ``p |g|^(p-1) sign(g)``, the derivative of ``|g|^p``, for g from start to end."""
    rise, middle = end - start, (start + end) / 2
    slope = p * middle.abs() ** (p - 1) * middle.sign()
    # The quotient cancels where the ends are close; there the derivative in the middle is as good.
    apart = rise.abs() > MIN_RELATIVE_RISE * torch.maximum(start.abs(), end.abs())
    quotient = (end.abs() ** p - start.abs() ** p) / torch.where(apart, rise, 1.0)
    return torch.where(apart, quotient, slope)


def power(source, target, p: float):
    """W_p^p between two distributions on each line (two *sides*), and a function for derivatives.

    ``gradient(both)`` are the derivatives in the fields of the source and, if both, of the target.

    Computed by Gauss quadrature between neighbours among the levels of both sides and those where
    the two quantile functions cross, since ``|.|^p`` has a kink there.
    """
    first = torch.zeros_like(source.levels[:, :1])
    levels = sort(torch.cat([first, source.levels, target.levels, first + 1], dim=1))
    levels = _with_crossings(source, target, levels)
    widths = levels.diff(dim=1).unsqueeze(-1)
    u = (levels[:, :-1].unsqueeze(-1) + widths * GAUSS_NODES.to(levels)).flatten(1)
    weights = (widths / len(GAUSS_NODES)).expand(-1, -1, len(GAUSS_NODES)).flatten(1)
    here, there = source.locate(u), target.locate(u)
    gap = source.at(here) - target.at(there)
    distance = gap.abs()
    cost = (weights * distance**p).sum(1)

    def gradient(both: bool):
        slope = weights * p * distance ** (p - 1) * gap.sign()
        in_source = source.derivatives(here, slope, target, p)
        return (*in_source, *target.derivatives(there, -slope, source, p)) if both else in_source

    return cost, gradient


def _with_crossings(source, target, levels: Tensor) -> Tensor:
    """Insert a level between neighbours: where the quantile functions cross, or halfway."""
    start, widths = levels[:, :-1], levels.diff(dim=1)
    probes = (start + x * widths for x in CROSSING_PROBES)
    left, right = (source.at(source.locate(u)) - target.at(target.locate(u)) for u in probes)
    crossing = CROSSING_PROBES[0] + (CROSSING_PROBES[1] - CROSSING_PROBES[0]) * left / (
        left - right
    )
    crossing = torch.where((crossing > 0) & (crossing < 1), crossing, 0.5)
    between = torch.stack([start, start + crossing * widths], dim=2).flatten(1)
    return torch.cat([between, levels[:, -1:]], dim=1)
