"""Projections of mixtures and samples on lines, and functions of one-dimensional mixtures."""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.numerics.counts import positive_integer

SQRT_2PI = math.sqrt(2 * math.pi)
SQRT_HALF = math.sqrt(0.5)
#: Lower bound of exponents: exp is several times slower where it underflows.
MIN_EXPONENT = -700.0
#: Smallest standard deviation, relative to the mixture's extent: smaller ones are raised to it.
MIN_RELATIVE_DEVIATION = 1e-9


class Slices(NamedTuple):
    """One-dimensional mixtures on L lines, with common weights, in float64."""

    weights: Tensor
    """``w (K,)``, of sum one."""
    means: Tensor
    """``m (L, K)``."""
    deviations: Tensor
    """``s (L, K)``, positive."""

    def rows(self, rows: slice) -> "Slices":
        """The mixtures on a range of lines."""
        return Slices(self.weights, self.means[rows], self.deviations[rows])


class SortedSamples(NamedTuple):
    """Sorted weighted samples on L lines, in float64."""

    values: Tensor
    """``y (L, n)``."""
    masses: Tensor
    """Their weights, ``(1, 1)`` if all are equal, else ``(L, n)``; each row has sum one."""
    levels: Tensor
    """Cumulative weights, without the last, ``(1, n - 1)`` or ``(L, n - 1)``."""

    @property
    def equal(self) -> bool:
        """Whether all weights are equal."""
        return self.masses.numel() == 1

    def second_moment(self) -> Tensor:
        """Second moments ``sum a_i y_i^2``, ``(L,)``."""
        if self.equal:  # without allocating an array of the size of the samples
            return torch.linalg.vecdot(self.values, self.values) * self.masses.squeeze()
        return torch.linalg.vecdot(self.values, self.masses * self.values)

    def rows(self, rows: slice) -> "SortedSamples":
        """The samples on a range of lines."""
        masses, levels = (t if len(t) == 1 else t[rows] for t in self[1:])
        return SortedSamples(self.values[rows], masses, levels)


class Gradient(NamedTuple):
    """Derivatives of a cost of each line in the parameters of slices, ``(L, K)`` each."""

    weights: Tensor
    """With weighted sum zero, as for weights that are normalised."""
    means: Tensor
    deviations: Tensor


class Table(NamedTuple):
    """Distribution functions, densities and partial moments of slices, at J points of each line."""

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
    """``2 Phi(z) - 1`` and ``exp(-z^2 / 2)``, stacked to ``(L, 2 K, J)``."""


def sort(values: Tensor) -> Tensor:
    """Sort rows; on a CPU in place and by numpy, which is faster."""
    if values.device.type != "cpu":
        return values.sort(dim=1).values
    values.numpy().sort(axis=1)
    return values


def check_nodes(n_nodes: int) -> None:
    """Refuse numbers of nodes between which there is nothing to interpolate."""
    if positive_integer("n_nodes", n_nodes, "Pass 2 or more.") < 2:
        raise ValueError(f"n_nodes must be at least 2, got {n_nodes}. Pass 2 or more.")


def nodes(slices: Slices, n_nodes: int, node_range: float) -> Tensor:
    """Sorted points, everywhere as dense as the narrowest component there needs, ``(L, J)``.

    One component has ``n_nodes`` equidistant ones within ``node_range`` deviations of its mean, and
    one more on each side; lines that need fewer than others repeat their last.
    """
    means, step = slices.means, 2 * node_range / (n_nodes - 1)
    reach = (node_range + step) * slices.deviations
    low, high = means - reach, means + reach
    edges = sort(torch.cat([low, high], dim=1))  # (L, 2 K)
    middles = ((edges[:, 1:] + edges[:, :-1]) / 2).unsqueeze(1)
    within = (low.unsqueeze(2) <= middles) & (middles <= high.unsqueeze(2))  # (L, K, 2 K - 1)
    density = (within / (step * slices.deviations).unsqueeze(2)).amax(1)
    before = torch.nn.functional.pad((density * edges.diff(dim=1)).cumsum(1), (1, 0))
    total, most = before[:, -1:], means.shape[1] * (n_nodes + 1)
    n_steps = total.nan_to_num(0.0).clamp(1, most).round()
    longest = int(n_steps.amax())
    counts = torch.arange(longest + 1, dtype=total.dtype, device=total.device)
    wanted = (counts * (total / n_steps)).minimum(total)
    piece = torch.searchsorted(before, wanted).sub_(1).clamp_(0, density.shape[1] - 1)
    density, start, before = (t.gather(1, piece) for t in (density, edges, before))
    return wanted.sub_(before).div_(density).add_(start)


def evaluate(slices: Slices, points: Tensor) -> Table:
    """Tabulate distribution functions, densities and partial moments at points ``(L, J)``."""
    w, m, s = slices
    K = m.shape[1]
    z = (points.unsqueeze(1) - m.unsqueeze(-1)).mul_(SQRT_HALF / s.unsqueeze(-1))
    basis = z.new_empty(len(z), 2 * K, z.shape[2])
    torch.erf(z, out=basis[:, :K])
    torch.exp(z.square_().neg_().clamp_(min=MIN_EXPONENT), out=basis[:, K:])
    half, wide, none = (w / 2).expand_as(m), w * s / SQRT_2PI, torch.zeros_like(m)
    of_erf = torch.stack([half, none, half * m, none, half * (m.square() + s.square())], dim=1)
    of_density = torch.stack([none, wide / s.square(), -wide, wide, -wide * m], dim=1)
    sums = torch.cat([of_erf, of_density], dim=2) @ basis  # (L, 5, J)
    sums += of_erf.sum(2, keepdim=True)  # Phi = (1 + erf) / 2
    levels, density, partial, spread, second = sums.unbind(1)
    return Table(points, levels, density, partial, second - points * spread, basis)


def derivatives(slices: Slices, table: Table, values: Tensor, slopes: Tensor) -> Gradient:
    """Derivatives of a cost in the parameters of each line's mixture, as sums over points.

    They are ``sum_j values_j V(t_j) + slopes_j V'(t_j)``; `quadrature` has a table of ``V``.
    """
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
    """Subtract from each row its weighted mean."""
    return potential - (potential @ weights).unsqueeze(1)


def slices(
    mixture: GaussianMixtureParams, theta: Tensor, least: float = MIN_RELATIVE_DEVIATION
) -> Slices:
    r"""Project a mixture on directions, to L one-dimensional mixtures.

    .. math:: \sum_k w_k N(\langle\theta, m_k\rangle, \theta^T \Sigma_k \theta)

    Parameters
    ----------
    mixture : GaussianMixtureParams
        K components in d dimensions; the weights are normalised.
    theta : Tensor of shape (L, d)
        Directions.
    least : float, default=1e-9
        Least standard deviation, relative to the root of the largest second moment about the origin
        of a component that has mass.

    Returns
    -------
    Slices
        In float64; differentiable in the mixture and the directions.

    Notes
    -----
    Costs ``O(L K d^2)``, or ``O(L K d)`` for diagonal types.
    """
    mixture = mixture.in_base()
    weights, means, covariances = mixture.to(dtype=torch.float64)
    theta = theta.to(means)
    variances = mixture.covariance_type.variances_along(theta, covariances)  # (L, K or 1)
    projected = theta @ means.mT  # (L, K)
    second = (projected.square() + variances).detach() * (weights > 0)
    lowest = second.amax(1, keepdim=True) * least**2
    lowest = lowest.clamp(min=torch.finfo(torch.float64).tiny)
    deviations = torch.maximum(variances, lowest).sqrt()
    return Slices(weights / weights.sum(), projected, deviations.expand_as(projected))


def slice_samples(X: Tensor, theta: Tensor, sample_weight: Tensor | None = None) -> SortedSamples:
    """Project samples on directions and sort them.

    Parameters
    ----------
    X : Tensor of shape (n, d)
        Samples.
    theta : Tensor of shape (L, d)
        Directions.
    sample_weight : Tensor of shape (n,), default=None
        Weights of the samples, constants; None is equal ones.

    Returns
    -------
    SortedSamples
        In float64; differentiable in the samples and the directions.

    Notes
    -----
    Costs ``O(L n (d + log n))`` and holds ``L n`` numbers.
    """
    projected = (theta.to(X) @ X.mT).double()  # (L, n)
    n = len(X)
    if sample_weight is None and not projected.requires_grad:
        values = sort(projected)
    else:
        order = _argsort(projected.detach())
        values = projected.gather(1, order)
    if sample_weight is None:
        masses = projected.new_full((1, 1), 1 / n)
        levels = (torch.arange(1, n, device=X.device).double() / n).unsqueeze(0)
        return SortedSamples(values, masses, levels)
    masses = sample_weight.detach().double()
    masses = (masses / masses.sum())[order]
    return SortedSamples(values, masses, masses.cumsum(1)[:, :-1].clamp_(max=1))


def _argsort(values: Tensor) -> Tensor:
    """Return indices that sort each row; on a CPU computed by numpy, which is faster."""
    if values.device.type != "cpu":
        return values.argsort(dim=1)
    return torch.from_numpy(np.argsort(values.numpy(), axis=1))


def slices_of_both(
    source: GaussianMixtureParams,
    target: GaussianMixtureParams,
    theta: Tensor,
    least: float = MIN_RELATIVE_DEVIATION,
) -> tuple[Slices, Slices]:
    """Project two mixtures on the same directions, relative to the mean of the first one.

    Parameters
    ----------
    source, target : GaussianMixtureParams
        The mixtures.
    theta : Tensor of shape (L, d)
        Directions.
    least : float, default=1e-9
        As of `slices`.

    Returns
    -------
    tuple of two Slices
        Their projections.
    """
    shares = source.weights.detach() / source.weights.detach().sum()
    origin = shares.to(source.means) @ source.means.detach()
    lines = (m._replace(means=m.means - origin) for m in (source, target))
    return tuple(slices(m, theta, least) for m in lines)
