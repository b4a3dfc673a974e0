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
``moments(diagram)`` as in `skgmmot.functional.cell_integrals`, its mean at the origin.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import csc_matrix
from scipy.sparse.linalg import splu
from scipy.spatial import KDTree

from skgmmot.functional.linalg import bures_map
from skgmmot.functional.power_diagram import PowerDiagram, power_diagram

Array = np.ndarray

#: A start is good if every cell has at least this share of its mass.
GOOD_START = 1e-3
#: Voronoi's cells are tried if each has this share.
GOOD_VORONOI = 5e-2
#: Shares of the density that may be blurred, the first that gives a good start.
SHARES = (0.0, *(0.25**k for k in range(12, 0, -1)), 0.5)
#: Steps shorter than this are given up.
SHORTEST = 1e-8
#: A problem of more sites than this starts from one of so many times fewer.
FEW_SITES, COARSENING = 100, 6
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
        Bound on the mass error, the sum of ``|G_j - b_j|``.
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
    candidates, n_iter, gently = SHARES, 0, False
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
            more, gently = min(max(16 * share, SHARES[4]), SHARES[-1]), True
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
    step = 1.0
    floor = min(cells.masses.min(), target.masses.min()) / 2
    for n_iter in range(max_iter + 1):
        if np.abs(target.error(cells)).sum() <= tol:
            return cells._replace(n_iter=n_iter, converged=True)
        if n_iter == max_iter:
            break
        before, excess = measure(target, cells)
        direction = _solve(_jacobian(target, cells), excess)
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
    left, right = cells.diagram.sites[: cells.diagram.n_interfaces].T
    weight = cells.along / (2 * np.hypot(*(target.sites[left] - target.sites[right]).T))
    n = len(target.sites)
    diagonal = np.bincount(left, weight, n) + np.bincount(right, weight, n)
    # Constants are in the Laplacian's kernel; so little on the diagonal moves nothing else.
    diagonal += target.slack * target.masses + 1e-12 * diagonal.max()
    each = np.arange(n)
    rows, columns = np.concatenate([left, right, each]), np.concatenate([right, left, each])
    return csc_matrix((np.concatenate([-weight, -weight, diagonal]), (rows, columns)), (n, n))


def _solve(jacobian: csc_matrix, error: Array) -> Array:
    """Solve with SuperLU, told that the matrix is symmetric and needs no pivoting."""
    options = {"SymmetricMode": True}
    factors = splu(jacobian, "MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options=options)
    direction = factors.solve(error)
    return direction - direction.mean()


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


def _refined(density, target: Target, few: Target, solved: Cells) -> Cells:
    """Cells for all sites from those of a few, by the least smoothing that serves."""
    barycentres = density.moments(solved.diagram) / solved.masses[:, None]
    for smoothing in SMOOTHINGS:
        heights = _extended(few.sites, solved.heights, barycentres, target.sites, smoothing)
        cells = evaluate(density, target.sites, heights)
        if _is_good(cells, target):
            break
    return cells


def _gaussian_heights(density, sites: Array, masses: Array) -> Array:
    """The quadratic potential of the map from the sites' Gaussian to the density's.

    ``h(y) = <y, B y>`` puts ``B y`` into the cell of ``y``; B is shrunk to have it in the box.
    """
    moments = torch.as_tensor((masses * sites.T) @ sites), torch.as_tensor(density.covariance())
    B = bures_map(*moments).numpy()
    images = sites @ B
    used = np.maximum(images / density.box.low, images / density.box.high)  # 1 on the walls
    return (images * sites).sum(1) / max(1.0, 1.02 * used.max())


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
