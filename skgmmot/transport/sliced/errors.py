"""Errors of sliced distances: of each line, and of the mean over lines."""

import math

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor

from skgmmot.transport.sliced.quadrature import NODE_RANGE
from skgmmot.transport.sliced.slices import MIN_RELATIVE_DEVIATION, slices

#: Nodes of the two quadratures that another one is compared with, relative to its own; errors for
#: p = 2 fall like the fourth power of their number, and faster for others.
COARSER, COARSER_POWERS = (2 / 3, 1 / 2), (3 / 4, 2 / 3)
#: Weight of the second comparison, which shows a difference where the first is small by chance.
SECOND = 1 / 3
#: Mass of a component beyond the range of its nodes.
MASS_OUTSIDE = math.erfc(NODE_RANGE / math.sqrt(2))
#: Probability that a normal variable is below three standard deviations.
THREE_DEVIATIONS = 0.99865
#: Fewest equal angles whose mean is judged by their spectrum.
MIN_ANGLES = 8
#: Rounding of projections and quantiles, in units of the last place of the largest.
ROUNDING = 2 * float(np.finfo(float).eps)


def coarser(n_nodes: int, p: float) -> tuple[int, int]:
    """Return the numbers of nodes that a quadrature is compared with.

    Parameters
    ----------
    n_nodes : int
        Its own number.
    p : float
        Exponent of the distance.

    Returns
    -------
    tuple of two int
        Smaller numbers, at least two.
    """
    return tuple(max(2, round(n_nodes * x)) for x in (COARSER if p == 2 else COARSER_POWERS))


def rounding_of_lines(costs: Tensor, p: float, size: float, *, cancels: bool = False) -> Tensor:
    """Return the rounding of ``W_p^p`` along lines.

    Parameters
    ----------
    costs : Tensor of shape (L,)
        ``W_p^p``.
    p : float
        Exponent.
    size : float
        Largest distance of what is projected from the origin.
    cancels : bool, default=False
        Whether costs are differences of second moments.

    Returns
    -------
    Tensor of shape (L,)
        Their errors, constants.
    """
    shift, costs = ROUNDING * size, costs.detach().clamp(min=0)
    found = p * shift * costs ** ((p - 1) / p) + shift**p + ROUNDING * costs
    return found + ROUNDING * size**2 if cancels else found


def raised_deviations(costs: Tensor, p: float, size: float, least: float) -> Tensor | float:
    """Return what it changes in ``W_p^p`` that small standard deviations are raised to a least one.

    Parameters
    ----------
    costs : Tensor of shape (L,)
        ``W_p^p``.
    p : float
        Exponent.
    size : float
        Largest distance of what is projected from the origin.
    least : float
        Smallest standard deviation along a line.

    Returns
    -------
    Tensor of shape (L,) or float
        The changes; 0 if no deviation is raised.
    """
    shift = MIN_RELATIVE_DEVIATION * size
    if least > shift:
        return 0.0
    return p * shift * costs.detach().clamp(min=0) ** ((p - 1) / p) + shift**p


def mass_left_out(costs: Tensor, p: float, width: float) -> Tensor:
    """Return what the mass beyond the outermost nodes may change in ``W_p^p``.

    Parameters
    ----------
    costs : Tensor of shape (L,)
        ``W_p^p``.
    p : float
        Exponent.
    width : float
        Largest standard deviation along a line.

    Returns
    -------
    Tensor of shape (L,)
        The changes.
    """
    gap = costs.detach().clamp(min=0) ** (1 / p) + NODE_RANGE * width
    return MASS_OUTSIDE * p * width * gap ** (p - 1)


def error_of_lines(costs: Tensor, name: str, n_features: int) -> float:
    r"""Return the error of the mean over directions, from how costs differ among these.

    For independent directions it is three standard errors, :math:`3 s / \sqrt L`, by Student's
    distribution if there are few. Groups of orthogonal directions are independent of each other:
    it is that of their means, if this is smaller. For equal angles in the plane it is twice the
    largest coefficient among the highest quarter of the frequencies that these angles resolve; the
    mean of a smooth function is off by its coefficients at twice such frequencies and above. For
    other quasi-random directions it is that of independent ones, more than their error as a rule.

    Parameters
    ----------
    costs : Tensor of shape (L,)
        Costs along the directions, in their order.
    name : {'random', 'orthogonal', 'quasi'}
        How these were chosen.
    n_features : int
        Number of features d.

    Returns
    -------
    float
        The error; infinite for a single direction among many.
    """
    costs = costs.detach().to("cpu", torch.float64).numpy()
    if n_features == 1:
        return 0.0
    if name == "quasi" and n_features == 2 and len(costs) >= MIN_ANGLES:
        amplitudes = np.abs(np.fft.rfft(costs)) / len(costs)
        return 2 * float(amplitudes[3 * len(amplitudes) // 4 :].max())
    found, n_groups = _standard_error(costs), len(costs) // n_features
    if name == "orthogonal" and n_groups:
        n_grouped = n_groups * n_features
        groups = costs[:n_grouped].reshape(n_groups, n_features).mean(1)
        share = n_grouped / len(costs)
        of_rest = found * math.sqrt(1 - share) if share < 1 else 0.0  # of an incomplete group
        found = min(found, math.hypot(share * _standard_error(groups), of_rest))
    return found


def _standard_error(values) -> float:
    """Three standard errors of the mean of independent values, or what is as probable for few."""
    n = len(values)
    if n < 2:
        return math.inf
    return float(stdtrit(n - 1, THREE_DEVIATIONS) * values.std(ddof=1) / math.sqrt(n))


def rounding_of_costs(
    costs: Tensor, sides, theta: Tensor, p: float, *, cancels: bool = False, truncated: bool = False
) -> Tensor:
    """Return the rounding of costs between two sides, and what no number of nodes changes.

    Parameters
    ----------
    costs : Tensor of shape (L,)
        The costs.
    sides : tuple of two GaussianMixtureParams or Tensors
        Mixtures, or samples; these last.
    theta : Tensor of shape (L, d)
        The directions.
    p : float
        Exponent of the costs.
    cancels : bool, default=False
        As of `rounding_of_lines`.
    truncated : bool, default=False
        Whether mass beyond the nodes is left out.

    Returns
    -------
    Tensor of shape (L,)
        The error of each cost, in float64.
    """
    points = [side if isinstance(side, Tensor) else side.means for side in sides]
    origin = points[-1].detach().double().mean(0)
    mixtures = [side.detach() for side in sides if not isinstance(side, Tensor)]
    lines = [slices(m._replace(means=m.means - origin), theta.detach()) for m in mixtures]
    widths = [torch.cat([side.deviations.flatten() for side in lines])] if lines else []
    far = max(float((t.detach().double() - origin).norm(dim=1).max()) for t in points)
    size = far + max((float(t.max()) for t in widths), default=0.0)
    costs = costs.detach().double()
    found = rounding_of_lines(costs, p, size, cancels=cancels)
    if lines:
        found = found + raised_deviations(costs, p, size, float(widths[0].min()))
    if truncated:
        found = found + mass_left_out(costs, p, float(widths[0].max()))
    return found + torch.finfo(points[0].dtype).eps * costs
