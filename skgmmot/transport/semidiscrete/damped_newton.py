r"""Damped Newton method for the heights of a power diagram whose cells have given masses.

The masses :math:`G_j(h)` of the cells are minus the gradient of a convex function of the heights.
Its Hessian is a graph Laplacian: for sites ``j, k`` with a common edge,

.. math::

    \frac{\partial G_j}{\partial h_k} = \frac{1}{2 |y_j - y_k|} \int_{\text{edge } jk} \rho.

Newton's method solves ``G(h) = b``. It first solves the equivalent ``sqrt(G(h)) = sqrt(b)``, since
in the plane the mass of a cell is roughly quadratic in its height, which allows longer steps. Where
that stalls, and on blurred densities, it solves ``G(h) = b`` itself. A step is halved until no cell
falls below half of the smallest mass and the error decreases in proportion (Kitagawa, Merigot and
Thibert 2019). On a density with connected support this converges, in the end quadratically, from
any heights whose cells all have mass.

Such heights come from `starting_heights`. Where a cell still has nearly no mass, or the support is
not connected, the problem is solved for *blurred* densities first, with less and less blurring.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from scipy.sparse import csc_matrix
from scipy.sparse.linalg import SuperLU, splu

from skgmmot.transport.semidiscrete.cells import (
    Cells,
    PlaneDensity,
    Target,
    evaluate,
    has_empty_cell,
    has_mass,
    stiffness,
)
from skgmmot.transport.semidiscrete.power_diagram import PowerDiagram
from skgmmot.transport.semidiscrete.starting_heights import START_TOL, starting_cells

Array = np.ndarray

#: Amounts of blurring, of which the first is used that gives every cell some mass.
BLURRINGS = (0.0, *(0.25**k for k in range(20, 0, -1)), 0.5)
#: Least blurring after Newton's method has stalled: less has hardly any effect.
MIN_RESTART_BLURRING = 0.25**9
#: Shortest damping factor of a Newton step: below it, no step decreases the error.
MIN_STEP = 1e-8
#: The first length tried is so many times that of the step before. More is refused too often.
GROWTH = 2.0
#: Number of steps in which the error must halve, or else the method has stalled.
STALL_WINDOW = 100
#: Number of times that the method may stall from one start.
MAX_STALLS = 8


class CellsOfHeights(NamedTuple):
    """Cells as functions of the heights of their sites."""

    diagram: Callable[[Array], PowerDiagram]
    """The power diagram of heights."""
    cells: Callable[[Array, PowerDiagram], Cells]
    """The cells, with their masses, of heights and the power diagram of these."""


def _whole_cells(density: PlaneDensity, sites: Array) -> CellsOfHeights:
    """The cells of a power diagram, that no discs cut, as functions of the heights."""
    return CellsOfHeights(
        lambda heights: density.diagram(sites, heights),
        lambda heights, diagram: evaluate(density, sites, heights, diagram),
    )


def cells_of_masses(
    density: PlaneDensity,
    target: Target,
    *,
    heights: Array | None = None,
    tol: float,
    max_iter: int,
    starts: Callable[..., Iterator[Cells]] = starting_cells,
) -> Cells:
    """Find heights whose power diagram has cells of given masses.

    Parameters
    ----------
    density : PlaneDensity
        A density of mass one with mean zero.
    target : Target
        The sites and their masses.
    heights : ndarray of shape (n,), default=None
        Heights to start from, used if every cell has some mass there; other starts follow.
    tol : float
        Bound on the mass error, the sum of ``|G_j - b_j|``; its root bounds each error relative to
        ``b_j``. Both up to rounding.
    max_iter : int
        Largest number of Newton steps.
    starts : callable, default=starting_cells
        Yields cells to start from, one after the other until a start succeeds.

    Returns
    -------
    Cells
        Its field ``converged`` tells whether the masses are met; if not, that is no error.

    Notes
    -----
    A step costs ``O(n log n)`` for the diagram and about ``O(n^1.5)`` for the linear system.

    References
    ----------
    .. [1] Kitagawa, Merigot and Thibert 2019, damped Newton algorithm.
    """
    n_iter = 0
    for start in starts(density, target, heights, cells_of_masses):
        cells = _newton_with_blurring(density, target, start, tol, max_iter - n_iter)
        n_iter += cells.n_iter
        if cells.converged:
            break
    return cells._replace(n_iter=n_iter)


def _newton_with_blurring(density, target, cells, tol, max_iter) -> Cells:
    """Newton's method on densities with less and less blurring, in the end none."""
    candidates, n_iter, n_stalls, slowly = BLURRINGS, 0, 0, False
    for _ in range(4 * len(BLURRINGS)):
        share, blurred, start = _first_blurring(density, target, cells, candidates)
        goal = tol if share == 0 else max(tol, min(START_TOL, target.masses.min() / 10))
        measure = MEASURES[0] if share == 0 and not slowly else MEASURES[1]
        of_heights = _whole_cells(blurred, target.sites)
        cells = newton_on_heights(of_heights, target, start, measure, goal, max_iter - n_iter)
        n_iter += cells.n_iter
        if n_iter >= max_iter or share == (0 if cells.converged else BLURRINGS[-1]):
            break
        if cells.converged:  # blur less: at most a quarter as much
            candidates = [s for s in BLURRINGS if s <= share / 4]
            candidates = candidates[-1:] if slowly else candidates
        else:  # stalled: blur more, and decrease the blurring in smaller steps
            n_stalls += 1
            if n_stalls > MAX_STALLS:
                break
            more, slowly = min(max(16 * share, MIN_RESTART_BLURRING), BLURRINGS[-1]), True
            candidates = [s for s in BLURRINGS if s >= more]
    return cells._replace(n_iter=n_iter, converged=cells.converged and share == 0)


def _first_blurring(density, target, cells, shares):
    """The first blurring, in order, that gives every cell mass, with its density and cells."""
    for share in shares:
        blurred = density.blurred(share) if share else density
        cells = evaluate(blurred, target.sites, cells.heights, cells.diagram)
        if has_mass(cells, target):
            break
    return share, blurred, cells


def newton_on_heights(
    of_heights: CellsOfHeights,
    target: Target,
    cells: Cells,
    measure: Callable[[Target, Cells], tuple[float, Array]],
    tol: float,
    max_iter: int,
    stall_window: int = STALL_WINDOW,
) -> Cells:
    """Take damped Newton steps until the masses are met or the method stalls.

    Parameters
    ----------
    of_heights : CellsOfHeights
        The cells as functions of the heights.
    target : Target
        The prescribed masses.
    cells : Cells
        Where to start; every cell must have mass.
    measure : callable
        The error that a step lowers, one of `MEASURES`.
    tol : float
        Bound on the mass error, as in `cells_of_masses`.
    max_iter : int
        Largest number of steps.
    stall_window : int, default=100
        Number of steps in which the error must halve.

    Returns
    -------
    Cells
        The last cells. Not converged if the method has stalled or ``max_iter`` is met.
    """
    step, earlier = 1.0, []
    floor = min(cells.masses.min(), target.masses.min()) / 2
    for n_iter in range(max_iter + 1):
        if target.is_met(cells, tol):
            return cells._replace(n_iter=n_iter, converged=True)
        if n_iter == max_iter:
            break
        before, excess = measure(target, cells)
        earlier.append(before)
        if n_iter >= stall_window and before > earlier[-1 - stall_window] / 2:
            break
        direction = solve_symmetric(jacobian(target, cells), excess)
        if direction is None:
            break
        went = _damped(of_heights, target, cells, direction, measure, floor, min(1, GROWTH * step))
        if went is None:
            break
        cells, step = went
    return cells._replace(n_iter=n_iter)


def _damped(of_heights, target, cells, direction, measure, floor, step, shortest=MIN_STEP):
    """Cells after a step that is halved until it serves, and its length; None if it never does."""
    before = measure(target, cells)[0]
    if cells.rim is None:  # a common constant changes no cell
        direction = direction - direction.mean()
    while step > shortest:
        heights = cells.heights + step * direction
        diagram = of_heights.diagram(heights)
        if floor <= 0 or not has_empty_cell(diagram):  # masses take as long as the diagram
            tried = of_heights.cells(heights, diagram)
            allowed = (1 - step / 2) * before
            if tried.masses.min() >= floor and measure(target, tried)[0] <= allowed:
                return tried, step
        step /= 2
    return None


def newton_step(
    density: PlaneDensity, target: Target, cells: Cells, factors: SuperLU, shortest: float
) -> Cells | None:
    """Take one damped Newton step.

    Parameters
    ----------
    density : PlaneDensity
        A density of mass one with mean zero.
    target : Target
        The sites and their masses.
    cells : Cells
        Where to start; every cell must have mass.
    factors : SuperLU
        Factors of the `jacobian` there.
    shortest : float
        The step is halved as long as it is longer than this share of a whole one.

    Returns
    -------
    Cells or None
        Cells of a smaller error; None if there is no such step.
    """
    direction = factors.solve(_root_mass_error(target, cells)[1])
    floor = min(cells.masses.min(), target.masses.min()) / 2
    of_heights = _whole_cells(density, target.sites)
    went = _damped(of_heights, target, cells, direction, _root_mass_error, floor, 1.0, shortest)
    return None if went is None else went[0]


def _mass_error(target: Target, cells: Cells) -> tuple[float, Array]:
    """Norm of the mass error, and the decrease of the masses that the Newton step aims at."""
    error = target.error(cells)
    return np.linalg.norm(error), error


def _root_mass_error(target: Target, cells: Cells) -> tuple[float, Array]:
    """Norm of the error of the square roots of the masses, and the decrease of the masses.

    A step lowers ``G_j`` by ``2 (G_j - c sqrt(G_j b_j))``, with ``c`` such that these changes sum
    to zero, as changes of masses of whole cells must; where discs cut the cells, it is 1.
    """
    held, wanted = target.roots(cells)
    mean = held * wanted
    c = cells.masses.sum() / mean.sum() if cells.rim is None else 1.0
    return np.linalg.norm(held - wanted), 2 * (cells.masses - c * mean)


#: The errors that steps lower. Those of roots allow longer steps; those of masses where they stall.
MEASURES = (_root_mass_error, _mass_error)


def jacobian(target: Target, cells: Cells) -> csc_matrix:
    """Return minus the derivative of the mass error in the heights.

    Parameters
    ----------
    target : Target
        The sites and their masses.
    cells : Cells
        The cells.

    Returns
    -------
    csc_matrix of shape (n, n)
        A graph Laplacian, plus the slack and what discs that cut the cells add.
    """
    (left, right), weight, diagonal = stiffness(target, cells)
    n = len(target.sites)
    # Constants are in the Laplacian's kernel; a tiny diagonal makes it regular.
    diagonal = diagonal + target.slack * target.masses + 1e-12 * diagonal.max()
    if cells.rim is not None:
        diagonal = diagonal + cells.rim
    each = np.arange(n)
    rows, columns = np.concatenate([left, right, each]), np.concatenate([right, left, each])
    return csc_matrix((np.concatenate([-weight, -weight, diagonal]), (rows, columns)), (n, n))


def solve_symmetric(matrix: csc_matrix, right: Array) -> Array | None:
    """Solve a linear system with SuperLU in its symmetric mode, without pivoting.

    Parameters
    ----------
    matrix : csc_matrix of shape (n, n)
        The matrix, diagonally dominant.
    right : ndarray of shape (n,)
        The right side.

    Returns
    -------
    ndarray of shape (n,) or None
        The solution; None for a singular matrix, as where there is no density on the edges of a
        cell.
    """
    factors = factorised(matrix)
    if factors is None:
        return None
    solution = factors.solve(right)
    return solution if np.isfinite(solution).all() else None


def factorised(matrix: csc_matrix) -> SuperLU | None:
    """Return factors of a matrix, by SuperLU in its symmetric mode, without pivoting.

    Parameters
    ----------
    matrix : csc_matrix of shape (n, n)
        The matrix, diagonally dominant.

    Returns
    -------
    SuperLU or None
        The factors; None for a singular matrix.
    """
    options = {"SymmetricMode": True}
    try:
        return splu(matrix, "MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options=options)
    except RuntimeError:
        return None
