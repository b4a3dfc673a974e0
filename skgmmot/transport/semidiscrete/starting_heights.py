"""Heights at which every cell of a power diagram has mass, to start Newton's method from.

A strictly convex function of the sites gives every site a cell. Here it is the smoothed potential
of a problem with fewer sites, or the potential of the optimal map between the Gaussians with the
covariances of the sites and the density.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from scipy.spatial import KDTree

from skgmmot.numerics.linalg import bures_map
from skgmmot.transport.discrete.assignment import assign_cells
from skgmmot.transport.discrete.network_simplex import network_simplex
from skgmmot.transport.semidiscrete.cells import (
    MIN_START_SHARE,
    ROUNDING,
    Cells,
    PlaneDensity,
    Target,
    evaluate,
    has_mass,
    lowest_empty_heights,
)

Array = np.ndarray

#: Voronoi's cells are a start if each has this share of its mass: with less, others are faster.
MIN_VORONOI_SHARE = 5e-2
#: Sites of less than this share of the mean mass are added to the cells of the others.
LIGHT_SITE_SHARE = 1e-3
#: Bisections of the logarithm of a light cell's depth below the envelope.
N_BISECTIONS = 40
#: Problems of more sites start from a coarser one, of so many times fewer sites.
MAX_DIRECT_SITES, COARSENING = 100, 6
#: Mass error to which a coarser problem is solved.
START_TOL = 1e-2
#: Largest number of costs of the discrete problem between nodes and sites (32 MiB in float64).
MAX_DISCRETE_COSTS = 2**22
#: Exponents of a smoothing that are computed at once: 1 MiB in float64, to stay in the cache.
MAX_EXPONENTS = 2**17
#: Smoothings of a coarse potential, in units of its typical second difference. The first that
#: leaves no cell without mass is nearest to the solution.
SMOOTHINGS = (1.5, 3.0, 6.0)


def starting_cells(
    density: PlaneDensity, target: Target, heights: Array | None, solve: Callable[..., Cells]
) -> Iterator[Cells]:
    """Yield cells to start Newton's method from: the fastest start first, the most robust last.

    Parameters
    ----------
    density : PlaneDensity
        A density of mass one with mean zero.
    target : Target
        The sites and their masses.
    heights : ndarray of shape (n,) or None
        Heights that are tried first.
    solve : callable
        `cells_of_masses`, for coarser problems.

    Yields
    ------
    Cells
        The cells of each start.
    """
    sites = target.sites
    # The given heights, and Voronoi's cells (potentials of zero), if every cell has some mass.
    for proposal, share in ((heights, MIN_START_SHARE), (target.level, MIN_VORONOI_SHARE)):
        if np.shape(proposal) == target.masses.shape:
            cells = evaluate(density, sites, proposal)
            if has_mass(cells, target, share):
                yield cells
    if len(sites) > MAX_DIRECT_SITES:
        fewer = Target(*coarsened(sites, target.masses))
        solved = solve(density, fewer, tol=START_TOL, max_iter=200)
        if solved.converged:
            yield _from_coarse(density, target, fewer, solved)
    yield evaluate(density, sites, _gaussian_heights(density, sites, target.masses))
    light = target.masses < LIGHT_SITE_SHARE / len(sites)
    if light.any():
        fewer = Target(sites[~light], target.masses[~light] / target.masses[~light].sum())
        solved = solve(density, fewer, tol=1e-6, max_iter=200)
        if solved.converged:
            yield _insert_light_sites(density, target, light, solved)
    if 4 * len(sites) ** 2 <= MAX_DISCRETE_COSTS:
        yield evaluate(density, sites, _discrete_heights(density, sites, target.masses))


def _from_coarse(density, target: Target, fewer: Target, solved: Cells) -> Cells:
    """Cells for all sites from those of a coarse problem, with the least sufficient smoothing."""
    barycentres = density.moments(solved.diagram) / solved.masses[:, None]
    for smoothing in SMOOTHINGS:
        heights = smoothed_heights(
            fewer.sites, solved.heights, barycentres, target.sites, smoothing
        )
        cells = evaluate(density, target.sites, heights)
        if has_mass(cells, target):
            break
    return cells


def _insert_light_sites(density, target: Target, light: Array, solved: Cells) -> Cells:
    """Add light sites to the cells of the others, with heights found by bisection for each."""
    empty = lowest_empty_heights(solved, target.sites[~light], target.sites[light])
    heights = np.empty(len(target.sites))
    heights[~light] = solved.heights
    largest = np.abs(empty).max() + np.abs(solved.heights).max()
    low, high = np.full(len(empty), math.log(ROUNDING)), np.zeros(len(empty))  # of log depths
    for _ in range(N_BISECTIONS):
        middle = (low + high) / 2
        heights[light] = empty - largest * np.exp(middle)
        cells = evaluate(density, target.sites, heights)
        over = cells.masses[light] > target.masses[light]
        low, high = np.where(over, low, middle), np.where(over, middle, high)
    heights[light] = empty - largest * np.exp(high)
    return evaluate(density, target.sites, heights)


def _gaussian_heights(density, sites: Array, masses: Array) -> Array:
    """Heights ``<y, B y>``, from the map ``B`` between Gaussians with the two covariances.

    They put ``B y`` into the cell of ``y``; B is scaled down so that all ``B y`` are in the box.
    """
    moments = torch.as_tensor((masses * sites.T) @ sites), torch.as_tensor(density.covariance())
    B = bures_map(*moments).numpy()
    images = sites @ B
    used = np.maximum(images / density.box.low, images / density.box.high)  # 1 on the walls
    return (images * sites).sum(1) / max(1.0, 1.02 * used.max())


def _discrete_heights(density, sites: Array, masses: Array) -> Array:
    """Potentials of discrete transport from nodes of the density, at least one for each cell.

    This start is the most robust, to gaps in the density and to uneven distances between sites.
    """
    n = len(sites)
    nodes, a = density.nodes(max(4 * n, 256))
    b = (masses + 1 / n) / 2
    C = -2 * nodes @ sites.T
    P, _, psi = network_simplex(a, b, C - C.min())
    return -assign_cells(P, a, b, C, psi)[1]


def coarsened(sites: Array, masses: Array) -> tuple[Array, Array]:
    """Merge sites into groups around random ones.

    Parameters
    ----------
    sites : ndarray of shape (n, d)
        Sites.
    masses : ndarray of shape (n,)
        Their masses.

    Returns
    -------
    sites : ndarray of shape (n // 6, d)
        The means of the groups.
    masses : ndarray of shape (n // 6,)
        Their masses.
    """
    n = len(sites) // COARSENING
    chosen = np.random.default_rng(0).choice(len(sites), n, replace=False)
    group = KDTree(sites[chosen]).query(sites)[1]
    total = np.bincount(group, masses, n)
    sums = [np.bincount(group, masses * coordinate, n) for coordinate in sites.T]
    return np.stack(sums, axis=1) / total[:, None], total


def smoothed_heights(
    few: Array, heights: Array, barycentres: Array, sites: Array, smoothing
) -> Array:
    """Extend the heights of a coarse problem to all sites by a smooth convex function.

    ``h(y) = eps log sum_j exp((h_j + 2 <c_j, y - y_j>) / eps)``, a smooth maximum of the tangents
    with the barycentres ``c_j`` as slopes, smooth enough for neighbouring sites to have different
    slopes.

    Parameters
    ----------
    few : ndarray of shape (m, d)
        Sites of the coarse problem.
    heights : ndarray of shape (m,)
        Their heights.
    barycentres : ndarray of shape (m, d)
        Barycentres of their cells.
    sites : ndarray of shape (n, d)
        All sites.
    smoothing : float
        The scale ``eps``, in units of the typical second difference of the coarse heights.

    Returns
    -------
    ndarray of shape (n,)
        The heights of all sites.
    """
    level = heights - 2 * (barycentres * few).sum(1)
    neighbours = KDTree(few).query(few, 5)[1][:, 1:]  # (j, 4)
    tangents = level[:, None] + 2 * np.einsum("jd,jkd->jk", barycentres, few[neighbours])
    eps = smoothing * np.median(heights[neighbours] - tangents)
    slopes = torch.as_tensor(2 * barycentres.T / eps)
    least_log = math.log(ROUNDING / len(few))  # of a summand: exp is slow where it underflows
    parts = []
    for block in torch.as_tensor(sites).split(max(1, MAX_EXPONENTS // len(few))):
        exponent = torch.addmm(torch.as_tensor(level / eps), block, slopes)
        largest = exponent.amax(1, keepdim=True)
        summands = exponent.sub_(largest).clamp_(min=least_log).exp_()
        parts.append(largest.squeeze(1) + summands.sum(1).log_())
    return eps * torch.cat(parts).numpy()
