"""Cells of given masses: damped Newton on the heights of a power diagram.

The masses ``G_j(h)`` of the cells are minus the gradient of a convex function of the heights, whose
Hessian is a graph Laplacian: sites ``j, k`` with a common edge have ``dG_j / dh_k`` equal to the
mass along that edge over ``2 |y_j - y_k|``. Newton's method solves ``G(h) = b``, first in square
roots, ``sqrt(G(h)) = sqrt(b)``: in the plane the mass of a cell is about a square in its height, so
that steps are longer; where that gets stuck, and where the density is blurred, as it stands. A step
is halved until no cell loses more than half of the smallest mass and the error falls in proportion
(Kitagawa, Merigot and Thibert 2019): on a density with connected support this converges from any
heights whose cells all have mass, in the end quadratically.

Three things see to such a start where Voronoi's cells are none. A strictly convex function of the
sites gives every site a cell: here the smoothed potential of a solution for fewer sites, or the
potential of the optimal map between the Gaussians of the two moments. Where a cell still has next
to no mass, the density is *blurred* first, with ever smaller shares. And so it is where its support
is not connected.

A density is any object with ``box``, ``covariance()``, ``blurred(share)``, ``measure(diagram)`` and
``moments(diagram)`` as in `skgmmot.transport.semidiscrete.cell_integrals`, its mean at the origin.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import csc_matrix
from scipy.sparse.linalg import splu
from scipy.spatial import KDTree

from skgmmot.numerics.linalg import bures_map
from skgmmot.transport.discrete.assignment import assign_cells
from skgmmot.transport.discrete.network_simplex import network_simplex
from skgmmot.transport.semidiscrete.power_diagram import PowerDiagram, power_diagram

Array = np.ndarray

#: A start is good if every cell has at least this share of its mass.
GOOD_START = 1e-3
#: Voronoi's cells are tried if each has this share.
GOOD_VORONOI = 5e-2
#: Shares of the density that may be blurred, the first that gives a good start.
SHARES = (0.0, *(0.25**k for k in range(20, 0, -1)), 0.5)
#: Halvings of the logarithm of a light cell's depth.
N_BISECTIONS = 40
#: Where a start gets stuck, at least this share is blurred.
MORE = 0.25**9
#: Steps shorter than this are given up.
SHORTEST = 1e-8
#: Steps in which the error must halve; else the method is stuck.
WINDOW = 100
#: Sites of less than this share of the mean mass are put in where the others are right.
LIGHT = 1e-3
#: Rounding: the error of a cell's mass, and that of heights relative to the largest.
ROUNDING = 1e-15
#: The error of the masses that rounding excuses at most.
LEAST_PRECISE = 1e-6
#: How often a start may get stuck.
STUCK = 8
#: A problem of more sites than this starts from one of so many times fewer.
FEW_SITES, COARSENING = 100, 6
#: Costs between nodes and sites, at most, of the discrete problem that the last start is from.
MOST_COSTS = 2**22
#: The error that a problem is solved to if another starts from it.
ROUGH = 1e-2
#: How far a coarse potential is smoothed, in units of its typical second difference: the least that
#: leaves no cell without mass is nearest to the solution.
SMOOTHINGS = (1.5, 3.0, 6.0)


class Cells(NamedTuple):
    """A power diagram whose cells have given masses."""

    heights: Array
    """Heights h, ``(n,)``."""
    diagram: PowerDiagram
    """The cells."""
    masses: Array
    """What they hold, ``(n,)``."""
    along: Array
    """Masses along the edges between them, per length, ``(m,)``."""
    n_iter: int
    """Number of Newton steps."""
    converged: bool
    """Whether the masses are as they should be."""


class Target(NamedTuple):
    """What cells should hold: ``G_j = b_j (1 - slack (psi_j - mean of psi))``."""

    sites: Array
    """Sites, all different, with mean zero, ``(n, 2)``."""
    masses: Array
    """Masses ``b``, positive, of sum one, ``(n,)``."""
    slack: float = 0.0
    """How far masses give way to potentials; 0 is not at all."""
    level: Array | float = 0.0
    """Potentials are ``level - h``, ``(n,)``; a constant is of no account without slack."""

    def wanted(self, cells: "Cells") -> Array:
        """What the cells should hold, ``(n,)``."""
        psi = self.level - cells.heights
        return self.masses * (1 - self.slack * (psi - self.masses @ psi))

    def is_met(self, cells: "Cells", tol: float) -> bool:
        """Whether errors sum to at most ``tol``, and each is small for its own mass as well.

        As far as rounding lets them, where edges are between sites so near that it moves them.
        """
        error = np.abs(self.error(cells))
        if error.sum() > max(tol, LEAST_PRECISE):
            return False
        # the diagram is made of heights up to those of its guards
        largest = max(np.abs(cells.heights).max(), 4 * np.abs(cells.diagram.box.corners).max())
        rounding = ROUNDING * (1 + largest * _stiffness(self, cells)[2])
        allowed = tol**0.5 * self.masses + rounding
        return error.sum() <= tol + rounding.sum() and bool((error <= allowed).all())

    def error(self, cells: "Cells") -> Array:
        """What the cells hold too much, ``(n,)``."""
        return cells.masses - self.wanted(cells)

    def roots(self, cells: "Cells") -> tuple[Array, Array]:
        """Roots of what the cells hold and should hold, 0 where that is less than nothing."""
        return tuple(np.sqrt(np.maximum(m, 0.0)) for m in (cells.masses, self.wanted(cells)))


def cells_of_masses(
    density, target: Target, *, heights: Array | None = None, tol: float, max_iter: int
) -> Cells:
    """Find heights whose cells have given masses.

    Parameters
    ----------
    density : GridIntegrals or MixtureIntegrals
        A density of mass one with mean zero.
    target : Target
        The sites and their masses.
    heights : ndarray of shape (n,), default=None
        Where to start, if every cell has some mass there; others follow.
    tol : float
        Bound on the mass error, the sum of ``|G_j - b_j|``; its root bounds each error relative to
        ``b_j``, as far as rounding lets it.
    max_iter : int
        Largest number of Newton steps.

    Returns
    -------
    Cells
        Not having converged is data in it, not an error.

    Notes
    -----
    A step costs ``O(n log n)`` for the diagram and about ``O(n^1.5)`` for the linear system.

    References
    ----------
    .. [1] Kitagawa, Merigot and Thibert 2019, damped Newton algorithm.
    """
    n_iter = 0
    for start in _starts(density, target, heights):
        cells = _unblur(density, target, start, tol, max_iter - n_iter)
        n_iter += cells.n_iter
        if cells.converged:
            break
    return cells._replace(n_iter=n_iter)


def _unblur(density, target, cells, tol, max_iter) -> Cells:
    """Newton's method on densities that are blurred less and less, in the end not at all."""
    candidates, n_iter, n_stuck, gently = SHARES, 0, 0, False
    for _ in range(4 * len(SHARES)):
        share, blurred, start = _least_blurred(density, target, cells, candidates)
        goal = tol if share == 0 else max(tol, min(ROUGH, target.masses.min() / 10))
        measure = _of_roots if share == 0 and not gently else _of_masses
        cells = _newton(blurred, target, start, measure, goal, max_iter - n_iter)
        n_iter += cells.n_iter
        if n_iter >= max_iter or share == (0 if cells.converged else SHARES[-1]):
            break
        if cells.converged:  # blur less: a quarter as much, or as little as will do
            candidates = [s for s in SHARES if s <= share / 4]
            candidates = candidates[-1:] if gently else candidates
        else:  # stuck: blur more, and then less step by step
            n_stuck += 1
            if n_stuck > STUCK:
                break
            more, gently = min(max(16 * share, MORE), SHARES[-1]), True
            candidates = [s for s in SHARES if s >= more]
    return cells._replace(n_iter=n_iter, converged=cells.converged and share == 0)


def _least_blurred(density, target, cells, shares):
    """The least blurred density of which every cell has some, or the most blurred; its cells."""
    for share in shares:
        blurred = density.blurred(share) if share else density
        cells = evaluate(blurred, target.sites, cells.heights, cells.diagram)
        if _is_good(cells, target):
            break
    return share, blurred, cells


def _is_good(cells: Cells, target: Target, share: float = GOOD_START) -> bool:
    """Whether every cell has at least this share of its mass."""
    return bool((cells.masses >= share * target.masses).all())


def _newton(density, target: Target, cells: Cells, measure, tol, max_iter) -> Cells:
    """Damped Newton steps until the masses are right, no step helps, or there are no more."""
    step, earlier = 1.0, []
    floor = min(cells.masses.min(), target.masses.min()) / 2
    for n_iter in range(max_iter + 1):
        if target.is_met(cells, tol):
            return cells._replace(n_iter=n_iter, converged=True)
        if n_iter == max_iter:
            break
        before, excess = measure(target, cells)
        earlier.append(before)
        if n_iter >= WINDOW and before > earlier[-1 - WINDOW] / 2:
            break
        direction = _solve(_jacobian(target, cells), excess)
        if direction is None:
            break
        step = min(1.0, 4 * step)
        while step > SHORTEST:
            tried = evaluate(density, target.sites, cells.heights + step * direction)
            allowed = (1 - step / 2) * before
            if tried.masses.min() >= floor and measure(target, tried)[0] <= allowed:
                break
            step /= 2
        else:
            break
        cells = tried
    return cells._replace(n_iter=n_iter)


def _of_masses(target: Target, cells: Cells) -> tuple[float, Array]:
    """The error of the masses, and by how much Newton's step would lower them."""
    error = target.error(cells)
    return np.linalg.norm(error), error


def _of_roots(target: Target, cells: Cells) -> tuple[float, Array]:
    """The same for the square roots of the masses (Hellinger's distance).

    A step would lower ``G_j`` by ``2 (G_j - c sqrt(G_j b_j))``, with ``c`` such that these sum to
    zero, as changes of masses do. Along it the error falls at least as fast as in proportion.
    """
    held, wanted = target.roots(cells)
    mean = held * wanted
    excess = 2 * (cells.masses - cells.masses.sum() / mean.sum() * mean)
    return np.linalg.norm(held - wanted), excess


def evaluate(density, sites: Array, heights: Array, diagram: PowerDiagram | None = None) -> Cells:
    """Return the diagram of some heights and what its cells hold.

    Parameters
    ----------
    density : GridIntegrals or MixtureIntegrals
        A density of mass one with mean zero.
    sites : ndarray of shape (n, 2)
        Sites.
    heights : ndarray of shape (n,)
        Heights.
    diagram : PowerDiagram, default=None
        Their diagram, if it is at hand; taken if it is cut off where the density is.

    Returns
    -------
    Cells
        No steps taken, and no masses compared with.
    """
    if diagram is None or diagram.box is not density.box:
        diagram = power_diagram(sites, heights, density.box)
    return Cells(heights, diagram, *density.measure(diagram), 0, False)


def _jacobian(target: Target, cells: Cells) -> csc_matrix:
    """Minus the derivative of the error in the heights, ``(n, n)``: a Laplacian, plus the slack."""
    (left, right), weight, diagonal = _stiffness(target, cells)
    n = len(target.sites)
    # Constants are in the Laplacian's kernel; so little on the diagonal moves nothing else.
    diagonal = diagonal + target.slack * target.masses + 1e-12 * diagonal.max()
    each = np.arange(n)
    rows, columns = np.concatenate([left, right, each]), np.concatenate([right, left, each])
    return csc_matrix((np.concatenate([-weight, -weight, diagonal]), (rows, columns)), (n, n))


def _stiffness(target: Target, cells: Cells) -> tuple[Array, Array, Array]:
    """How much mass a height moves through each edge, and out of each cell; the cells' numbers."""
    pairs = cells.diagram.sites[: cells.diagram.n_interfaces].T
    weight = cells.along / (2 * np.hypot(*(target.sites[pairs[0]] - target.sites[pairs[1]]).T))
    n = len(target.sites)
    return pairs, weight, sum(np.bincount(side, weight, n) for side in pairs)


def _solve(jacobian: csc_matrix, error: Array) -> Array | None:
    """Solve with SuperLU, told that the matrix is symmetric and needs no pivoting.

    None if it is singular: where there is no density between cells, no height moves any mass.
    """
    options = {"SymmetricMode": True}
    try:
        factors = splu(jacobian, "MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options=options)
    except RuntimeError:
        return None
    direction = factors.solve(error)
    direction -= direction.mean()
    return direction if np.isfinite(direction).all() else None


# --- starts --------------------------------------------------------------------------------------


def _starts(density, target: Target, heights: Array | None) -> Iterator[Cells]:
    """Cells to start from: the quickest first, then the safest."""
    sites = target.sites
    # What was given, and Voronoi's cells (potentials of zero), if every cell has some mass.
    for proposal, share in ((heights, GOOD_START), (target.level, GOOD_VORONOI)):
        if np.shape(proposal) == target.masses.shape:
            cells = evaluate(density, sites, proposal)
            if _is_good(cells, target, share):
                yield cells
    if len(sites) > FEW_SITES:
        few = Target(*_coarsened(sites, target.masses))
        solved = cells_of_masses(density, few, tol=ROUGH, max_iter=200)
        if solved.converged:
            yield _refined(density, target, few, solved)
    yield evaluate(density, sites, _gaussian_heights(density, sites, target.masses))
    light = target.masses < LIGHT / len(sites)
    if light.any():
        few = Target(sites[~light], target.masses[~light] / target.masses[~light].sum())
        solved = cells_of_masses(density, few, tol=1e-6, max_iter=200)
        if solved.converged:
            yield _put_in(density, target, light, solved)
    if 4 * len(sites) ** 2 <= MOST_COSTS:
        yield evaluate(density, sites, _discrete_heights(density, sites, target.masses))


def _refined(density, target: Target, few: Target, solved: Cells) -> Cells:
    """Cells for all sites from those of a few, by the least smoothing that serves."""
    barycentres = density.moments(solved.diagram) / solved.masses[:, None]
    for smoothing in SMOOTHINGS:
        heights = _extended(few.sites, solved.heights, barycentres, target.sites, smoothing)
        cells = evaluate(density, target.sites, heights)
        if _is_good(cells, target):
            break
    return cells


def _put_in(density, target: Target, light: Array, solved: Cells) -> Cells:
    """Cells for all sites from those without the light ones: these by bisection, each by itself."""
    empty = lowest_empty(solved, target.sites[~light], target.sites[light])
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


def lowest_empty(cells: Cells, sites: Array, others: Array) -> Array:
    """Return the lowest heights at which planes of other sites stay below the envelope.

    Parameters
    ----------
    cells : Cells
        The cells.
    sites : ndarray of shape (n, 2)
        Their sites.
    others : ndarray of shape (m, 2)
        Other sites.

    Returns
    -------
    ndarray of shape (m,)
        Their heights: any lower, and they would have a cell.
    """
    d = cells.diagram
    inner = slice(d.n_interfaces)
    corners = np.vstack([d.start[inner], d.stop[inner], d.box.corners])
    owner = np.concatenate([d.sites[inner, 0], d.sites[inner, 0], d.owners])
    envelope = 2 * (corners * sites[owner]).sum(1) - cells.heights[owner]
    return np.array([(2 * corners @ y - envelope).max() for y in others])


def _gaussian_heights(density, sites: Array, masses: Array) -> Array:
    """The quadratic potential of the map from the sites' Gaussian to the density's.

    ``h(y) = <y, B y>`` puts ``B y`` into the cell of ``y``; B is shrunk to have it in the box.
    """
    moments = torch.as_tensor((masses * sites.T) @ sites), torch.as_tensor(density.covariance())
    B = bures_map(*moments).numpy()
    images = sites @ B
    used = np.maximum(images / density.box.low, images / density.box.high)  # 1 on the walls
    return (images * sites).sum(1) / max(1.0, 1.02 * used.max())


def _discrete_heights(density, sites: Array, masses: Array) -> Array:
    """The potential of discrete transport from nodes of the density, each cell with one at least.

    Neither gaps in the density nor sites that are much nearer to some than to others matter to it.
    """
    n = len(sites)
    nodes, a = density.nodes(max(4 * n, 256))
    b = (masses + 1 / n) / 2
    C = -2 * nodes @ sites.T
    P, _, psi = network_simplex(a, b, C - C.min())
    return -assign_cells(P, a, b, C, psi)[1]


def _coarsened(sites: Array, masses: Array) -> tuple[Array, Array]:
    """Fewer sites: the means of groups around some of them, and their masses."""
    n = len(sites) // COARSENING
    chosen = np.random.default_rng(0).choice(len(sites), n, replace=False)
    group = KDTree(sites[chosen]).query(sites)[1]
    total = np.bincount(group, masses, n)
    sums = [np.bincount(group, masses * coordinate, n) for coordinate in sites.T]
    return np.stack(sums, axis=1) / total[:, None], total


def _extended(few: Array, heights: Array, barycentres: Array, sites: Array, smoothing) -> Array:
    """A smooth convex function near the heights of a few sites, whose slopes are barycentres.

    ``h(y) = eps log sum_j exp((h_j + 2 <c_j, y - y_j>) / eps)``: the largest of the tangents,
    smoothed so far that sites beside one another see different slopes.
    """
    level = heights - 2 * (barycentres * few).sum(1)
    neighbours = KDTree(few).query(few, 5)[1][:, 1:]  # (j, 4)
    tangents = level[:, None] + 2 * np.einsum("jd,jkd->jk", barycentres, few[neighbours])
    eps = smoothing * np.median(heights[neighbours] - tangents)
    blocks = []
    for block in np.array_split(sites, max(1, len(sites) * len(few) // 2**20)):
        exponent = (level + 2 * block @ barycentres.T) / eps
        largest = exponent.max(1)
        blocks.append(largest + np.log(np.exp(exponent - largest[:, None]).sum(1)))
    return eps * np.concatenate(blocks)
