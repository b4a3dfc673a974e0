"""How far a quantisation may be from the best one, and its distance from the right one."""

import functools
import math

import numpy as np
import torch
from torch import Tensor

from skgmmot.fitting.quantization import Lloyd, Samples
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.numerics.linalg import squared_distances
from skgmmot.transport.discrete.certificate import EPS, Certificate
from skgmmot.transport.discrete.clustering_bound import (
    characteristic_of,
    clustering_bound,
    density_bound,
)
from skgmmot.transport.semidiscrete.grid import GridDensity
from skgmmot.transport.semidiscrete.nodes import (
    LEVEL_OF_OTHERS,
    N_OTHERS,
    mixture_nodes,
    nodes_plan,
    standard_nodes,
)
from skgmmot.transport.semidiscrete.plan import SemidiscretePlan, exact_plan, nearest_plan


def cost_bound(
    density: GridDensity | GaussianMixtureParams | Samples, n_points: int, cost: float
) -> float:
    """Return a lower bound of the squared distance of any points to a density.

    Parameters
    ----------
    density : GridDensity, GaussianMixtureParams or Samples
        What is quantised; nodes of a mixture stand for it.
    n_points : int
        Number of points.
    cost : float
        The squared distance of some points, in whose size the bound is looked for.

    Returns
    -------
    float
        The bound, whatever the masses of the points.
    """
    if isinstance(density, Samples):
        if density.of is None:
            return clustering_bound(density.X, density.a, n_points, cost)
        density = density.of
    if isinstance(density, GaussianMixtureParams):
        characteristic = functools.partial(characteristic_of_mixture, density)
        return density_bound(characteristic, density.means.shape[1], n_points, cost)
    density = density.upwards()
    period = density.values.new_tensor(_sides(density)) if density.periodic else None
    characteristic = functools.partial(characteristic_of_grid, density)
    return density_bound(characteristic, density.values.ndim, n_points, cost, period)


def cost_error(step: Lloyd, points: Tensor, plan: SemidiscretePlan) -> float:
    """Return how far the squared distance of points to a density may be off.

    Parameters
    ----------
    step : Lloyd
        The density and the masses; its last plan is that of the points.
    points : Tensor of shape (m, d)
        The points.
    plan : SemidiscretePlan
        The plan from the density to them.

    Returns
    -------
    float
        For samples a bound: the duality gap of the plan, deviations of masses, rounding. For
        densities an estimate: that of `exact_plan`, or the cost of other nodes.
    """
    density, masses = step.density, step.masses
    if not isinstance(density, Samples):
        if masses is None:
            return nearest_plan(density, points).error
        return exact_plan(density, points, masses, potentials=plan.potentials).error
    X, a, mixture = density
    cost = float(plan.cost)
    if mixture is not None:
        return _error_of_nodes(mixture, len(X), points, masses, cost)
    if masses is None:
        return EPS * (4 + X.shape[1]) * cost
    weights, C = (a.cpu().numpy(), masses.cpu().numpy()), squared_distances(X, points)
    potentials = step.coupling.f, step.coupling.g
    certificate = Certificate(weights, C.cpu().numpy(), (math.inf, math.inf), 0.0, potentials)
    return certificate.of(step.coupling.dense(), cost).error


def _error_of_nodes(mixture, n_nodes: int, points: Tensor, masses, cost: float) -> float:
    """The error of a cost by nodes, from that of other nodes."""
    if masses is not None:
        other = nodes_plan(mixture, points, masses, n_nodes=n_nodes, random_state=1)
        return abs(cost - float(other.cost)) + other.error
    each, d = n_nodes // len(mixture.weights), points.shape[1]
    costs = []
    for seed in range(1, 1 + N_OTHERS):
        z = torch.as_tensor(standard_nodes(each, d, seed)).to(points)
        costs.append(float(Lloyd(Samples(*mixture_nodes(mixture, z)), None).nearest(points).cost))
    spread = LEVEL_OF_OTHERS * float(np.std(costs, ddof=1))
    return max(abs(cost - float(np.mean(costs))) + spread / math.sqrt(N_OTHERS), spread)


def characteristic_of_grid(density: GridDensity, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """Return the characteristic function of a density on a grid at differences and sums.

    Parameters
    ----------
    density : GridDensity
        An image or voxels, whose rows go up.
    frequencies : Tensor of shape (m, d)
        Frequencies.

    Returns
    -------
    tuple of two Tensors of shape (m, m)
        As `characteristic_of`: that of the centres of pixels, times that of one pixel.
    """
    values = density.values.detach().cpu().double()
    frequencies = frequencies.cpu()
    lengths = [side / n for side, n in zip(_sides(density), values.shape[::-1], strict=True)]
    axes = [
        start + length * (torch.arange(n, dtype=torch.float64) + 0.5)
        for start, length, n in zip(density.extent[::2], lengths, values.shape[::-1], strict=True)
    ]
    centres = torch.stack(torch.meshgrid(*axes[::-1], indexing="ij")[::-1], dim=-1).flatten(0, -2)
    kept = values.flatten() > 0
    weights = values.flatten()[kept]
    found = characteristic_of(centres[kept], weights / weights.sum(), frequencies)
    half = frequencies * torch.tensor(lengths, dtype=torch.float64) / (2 * math.pi)
    rows, columns = half.unsqueeze(1), half.unsqueeze(0)
    pixel = (torch.sinc(rows - columns).prod(-1), torch.sinc(rows + columns).prod(-1))
    return found[0] * pixel[0], found[1] * pixel[1]


def characteristic_of_mixture(
    mixture: GaussianMixtureParams, frequencies: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the characteristic function of a Gaussian mixture at differences and sums.

    Parameters
    ----------
    mixture : GaussianMixtureParams
        K components in d dimensions.
    frequencies : Tensor of shape (m, d)
        Frequencies ``w``.

    Returns
    -------
    tuple of two Tensors of shape (m, m)
        As `characteristic_of`: ``sum_k w_k exp(i m_k^T u - u^T Sigma_k u / 2)``.
    """
    w, found = frequencies.to(mixture.means), [0.0, 0.0]
    parts = mixture.weights, mixture.means, mixture.full_covariances()
    for weight, mean, covariance in zip(*parts, strict=True):
        products, phases = w @ covariance @ w.mT, w @ mean
        squares = products.diagonal() / 2
        decay = -(squares.unsqueeze(1) + squares)
        for at, sign in enumerate((-1, 1)):
            phase = phases.unsqueeze(1) + sign * phases
            found[at] = found[at] + weight * torch.polar(torch.exp(decay - sign * products), phase)
    return found[0], found[1]


def _sides(density: GridDensity) -> list[float]:
    """The lengths of an image in each direction."""
    return [
        end - start for start, end in zip(density.extent[::2], density.extent[1::2], strict=True)
    ]
