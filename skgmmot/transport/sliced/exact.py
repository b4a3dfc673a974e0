"""One-dimensional Wasserstein distances from mixtures to samples, exact to rounding.

The optimal map sends the part of the mixture between the quantiles ``q_{i-1}`` and ``q_i`` of two
cumulative sample weights to sample ``y_i``. Given these quantiles, costs and derivatives have
closed forms for p = 1 and p = 2. This is the reference for `quadrature`, and takes ``O(n K L)`` for
each Newton step.
"""

import torch
from torch.nn.functional import pad

from skgmmot.transport.sliced.quadrature import (
    Spline,
    derivatives_of_squared,
    first_above,
    intervals,
)
from skgmmot.transport.sliced.slices import (
    Gradient,
    Slices,
    SortedSamples,
    Table,
    centred,
    derivatives,
    evaluate,
)

#: Nodes of each component that bracket the quantiles, and the standard deviations that they cover:
#: less than 1e-18 of the mass is outside.
N_NODES, NODE_RANGE = 64, 9.0
#: Largest number of Newton steps: as many bisections of a bracket would suffice, too.
MAX_STEPS = 60


def quantiles(slices: Slices, samples: SortedSamples) -> Table:
    """The mixture's quantiles at the samples' levels, by Newton steps safeguarded by bisection."""
    spline, levels = Spline(slices, N_NODES, NODE_RANGE), samples.levels
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


def squared(slices: Slices, samples: SortedSamples):
    """W2^2 between mixture and samples on each line, and a function that returns its derivatives.

    ``gradient(both)`` are the derivatives in the fields of the slices and, if both, in the samples.
    """
    table = quantiles(slices, samples)
    rises = samples.values.diff(dim=1)
    w, m, s = slices
    last = samples.values[:, -1:]
    S = last.squeeze(1) * (m @ w) - (rises * table.partial).sum(1)
    second = m.square() + s.square()

    def gradient(both: bool):
        below = derivatives(slices, table, rises, torch.zeros_like(rises))
        half = Gradient(
            weights=centred(second / 2 - last * m, w) + below.weights,
            means=w * (m - last) + below.means,
            deviations=w * s + below.deviations,
        )
        partial = table.partial if both else None
        return derivatives_of_squared(slices, samples, half, partial)

    return second @ w - 2 * S + samples.second_moment(), gradient


def absolute(slices: Slices, samples: SortedSamples):
    """W1 between mixture and samples on each line, and a function that returns its derivatives.

    ``gradient(both)`` are the derivatives in the fields of the slices and, if both, in the samples.

    ``psi'`` is -1 on the part of a cell below its sample and 1 above. With ``r_i`` the point of the
    cell nearest to its sample, ``int psi' dV = sum_i V(q_i) - 2 V(r_i) + V(q_{i-1})``.
    """
    w, m, _ = slices
    y, levels = samples.values, samples.levels
    cells = quantiles(slices, samples)
    infinity = torch.full_like(y[:, :1], torch.inf)
    lower = torch.cat([-infinity, cells.points], dim=1)
    upper = torch.cat([cells.points, infinity], dim=1)
    sign_changes = evaluate(slices, torch.minimum(torch.maximum(y, lower), upper))  # at r_i
    above = pad(levels, (1, 0)) + pad(levels, (0, 1), value=1.0) - 2 * sign_changes.levels
    means = m @ w + 2 * (cells.partial.sum(1) - sign_changes.partial.sum(1))

    def gradient(both: bool):
        inner, outer = _sum(slices, cells), _sum(slices, sign_changes)
        # V at infinity is w_k for a mean, 0 for a deviation, and m_k up to a constant for a weight
        in_slices = Gradient(
            weights=centred(m, w) + 2 * (inner.weights - outer.weights),
            means=w + 2 * (inner.means - outer.means),
            deviations=2 * (inner.deviations - outer.deviations),
        )
        return (*in_slices, -above) if both else in_slices

    return means - (y * above).sum(1), gradient


def _sum(slices: Slices, table: Table) -> Gradient:
    """``sum_j V(t_j)`` for each parameter; see `derivatives`."""
    once = torch.ones_like(table.points)
    return derivatives(slices, table, once, torch.zeros_like(once))


#: The exact costs, by their exponent.
COSTS = {1.0: absolute, 2.0: squared}
