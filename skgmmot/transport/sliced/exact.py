"""Wasserstein distances on lines from mixtures to samples, by exact quantile cells.

The optimal map sends the part of the mixture between the quantiles ``q_{i-1}`` and ``q_i`` of two
cumulated sample weights to sample ``y_i``. With these quantiles everything is a closed form, for p
= 1 and p = 2: what `_sliced_quadrature` is measured against, at ``O(n K L)`` a Newton step.
"""

import torch
from torch.nn.functional import pad

from skgmmot.transport.sliced.quadrature import (
    Gradient,
    Slices,
    SortedSamples,
    Spline,
    Table,
    assemble_squared,
    centred,
    derivatives,
    evaluate,
    first_above,
    intervals,
)

#: The quantiles are first bracketed by nodes, which reach far into the tails.
N_NODES, REACH = 64, 9.0
#: Newton steps at most; halving the bracket as often would do as well.
MAX_STEPS = 60


def quantiles(slices: Slices, samples: SortedSamples) -> Table:
    """Solve ``F(t) = c`` for the samples' levels, to rounding."""
    spline, levels = Spline(slices, N_NODES, REACH), samples.levels
    interval = intervals(first_above(spline.levels, samples))
    points = spline.table.points
    low, high = points.gather(1, interval), points.gather(1, interval + 1)
    t = spline.quantile(interval, spline.fraction(levels, interval))
    for _ in range(MAX_STEPS):
        table = evaluate(slices, t)
        excess = table.levels - levels
        low, high = torch.where(excess < 0, t, low), torch.where(excess > 0, t, high)
        newton = t - excess / table.density
        step = torch.where((newton > low) & (newton < high), newton, (low + high) / 2)
        solved = (excess.abs() <= 2 * torch.finfo(t.dtype).eps) | (high <= low)
        if solved.all():
            break
        t = torch.where(solved, t, step)
    return table


def squared(slices: Slices, samples: SortedSamples, in_values: bool):
    """W2^2 to samples, its gradient, and that in the samples if asked for."""
    table = quantiles(slices, samples)
    rises = samples.values.diff(dim=1)
    w, m, s = slices
    last = samples.values[:, -1:]
    S = last.squeeze(1) * (m @ w) - (rises * table.partial).sum(1)
    below = derivatives(slices, table, rises, torch.zeros_like(rises))
    second = m.square() + s.square()
    half = Gradient(
        weights=centred(second / 2 - last * m, w) + below.weights,
        means=w * (m - last) + below.means,
        deviations=w * s + below.deviations,
    )
    partial = table.partial if in_values else None
    return assemble_squared(slices, samples, second @ w - 2 * S, half, partial)


def absolute(slices: Slices, samples: SortedSamples, in_values: bool):
    """W1 to samples, its gradient, and that in the samples if asked for.

    ``psi'`` is -1 on the part of a cell below its sample and 1 above: with ``r_i`` the sample, or
    the end of its cell nearest to it, ``int psi' dV = sum_i V(q_i) - 2 V(r_i) + V(q_{i-1})``.
    """
    w, m, _ = slices
    y, levels = samples.values, samples.levels
    cells = quantiles(slices, samples)
    infinity = torch.full_like(y[:, :1], torch.inf)
    lower = torch.cat([-infinity, cells.points], dim=1)
    upper = torch.cat([cells.points, infinity], dim=1)
    turns = evaluate(slices, torch.minimum(torch.maximum(y, lower), upper))  # at r_i
    inner = _sum(slices, cells)
    outer = _sum(slices, turns)
    # V at infinity is w_k for a mean, 0 for a deviation, and m_k up to a constant for a weight
    gradient = Gradient(
        weights=centred(m, w) + 2 * (inner.weights - outer.weights),
        means=w + 2 * (inner.means - outer.means),
        deviations=2 * (inner.deviations - outer.deviations),
    )
    above = pad(levels, (1, 0)) + pad(levels, (0, 1), value=1.0) - 2 * turns.levels
    moved = m @ w + 2 * (cells.partial.sum(1) - turns.partial.sum(1))
    return moved - (y * above).sum(1), gradient, -above if in_values else None


def _sum(slices: Slices, table: Table) -> Gradient:
    """``sum_j V(t_j)`` for the ``V`` of every parameter."""
    once = torch.ones_like(table.points)
    return derivatives(slices, table, once, torch.zeros_like(once))


#: Costs by their exponent.
COSTS = {1.0: absolute, 2.0: squared}
