"""Cells of a power diagram with their masses, and the masses that are prescribed for them."""

from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from skgmmot.transport.semidiscrete.power_diagram import Box, PowerDiagram

Array = np.ndarray

#: Every cell of a start has at least this share of its mass: Newton steps are damped by the
#: smallest mass, so that with much less they would be short.
MIN_START_SHARE = 1e-3
#: Rounding error of the mass of a cell, and of heights relative to the largest.
ROUNDING = 1e-15
#: Largest mass error that is accepted as rounding.
MAX_ROUNDING_ERROR = 1e-6


@runtime_checkable
class PlaneDensity(Protocol):
    """A density in the plane, of mass one, with its integrals over the cells of a power diagram."""

    box: Box
    """A rectangle that contains all of its mass, to rounding."""

    def centred(self) -> tuple["PlaneDensity", Array]:
        """The same density with its mean at the origin, and its mean ``(2,)``."""

    def covariance(self) -> Array:
        """The covariance ``(2, 2)`` of the density, whose mean must be the origin."""

    def blurred(self, share: float) -> "PlaneDensity":
        """A density smoothed by an amount ``share`` in [0, 1], with more mass in gaps."""

    def nodes(self, n: int) -> tuple[Array, Array]:
        """At least ``n`` points that approximate the density, and their positive masses."""

    def diagram(self, sites: Array, heights: Array) -> PowerDiagram:
        """The power diagram of sites of some heights, in the box."""

    def measure(self, diagram: PowerDiagram) -> tuple[Array, Array]:
        """Masses of the cells ``(n,)``, and line integrals over the edges between them ``(m,)``."""

    def moments(self, diagram: PowerDiagram) -> Array:
        """First moments ``int x rho`` of the cells, ``(n, 2)``."""


class Cells(NamedTuple):
    """A power diagram and the masses of its cells."""

    heights: Array
    """Heights h, ``(n,)``."""
    diagram: PowerDiagram
    """The cells."""
    masses: Array
    """Their masses, ``(n,)``."""
    along: Array
    """Line integrals of the density over the edges between them, ``(m,)``."""
    n_iter: int
    """Number of Newton steps."""
    converged: bool
    """Whether the masses are those of a target."""
    rim: Array | None = None
    """Derivatives of the masses in their own potentials by the arcs of the discs that cut the
    cells, ``int rho / (2 radius) (n,)``; None for whole cells."""


class Target(NamedTuple):
    """Sites and prescribed masses of their cells, ``b_j (1 - slack (psi_j - mean of psi))``."""

    sites: Array
    """Sites, all different, with mean zero, ``(n, 2)``."""
    masses: Array
    """Masses ``b``, positive, of sum one, ``(n,)``."""
    slack: float = 0.0
    """Sensitivity of the prescribed masses to the potentials; 0 for constant masses."""
    level: Array | float = 0.0
    """Potentials are ``level - h``, ``(n,)``."""

    def prescribed(self, cells: "Cells") -> Array:
        """The masses that the cells should have, ``(n,)``."""
        psi = self.level - cells.heights
        return self.masses * (1 - self.slack * (psi - self.masses @ psi))

    def is_met(self, cells: "Cells", tol: float) -> bool:
        """Whether errors sum to at most ``tol``, and each is at most ``sqrt(tol)`` of its mass.

        Both up to rounding, which matters for edges between sites that are very near each other.
        """
        error = np.abs(self.error(cells))
        if error.sum() > max(tol, MAX_ROUNDING_ERROR):
            return False
        # the largest height is that of a site or of a guard
        largest = max(np.abs(cells.heights).max(), 4 * np.abs(cells.diagram.box.corners).max())
        rounding = ROUNDING * (1 + largest * stiffness(self, cells)[2])
        allowed = tol**0.5 * self.masses + rounding
        return error.sum() <= tol + rounding.sum() and bool((error <= allowed).all())

    def error(self, cells: "Cells") -> Array:
        """Masses of the cells less the prescribed ones, ``(n,)``."""
        return cells.masses - self.prescribed(cells)

    def roots(self, cells: "Cells") -> tuple[Array, Array]:
        """Square roots of the cells' and the prescribed masses, 0 for negative ones."""
        return tuple(np.sqrt(np.maximum(m, 0.0)) for m in (cells.masses, self.prescribed(cells)))


def evaluate(
    density: PlaneDensity, sites: Array, heights: Array, diagram: PowerDiagram | None = None
) -> Cells:
    """Compute the power diagram of heights and the masses of its cells.

    Parameters
    ----------
    density : PlaneDensity
        A density of mass one with mean zero.
    sites : ndarray of shape (n, 2)
        Sites.
    heights : ndarray of shape (n,)
        Heights.
    diagram : PowerDiagram, default=None
        Their diagram, if known; used if its box is that of the density.

    Returns
    -------
    Cells
        The cells, with no Newton steps and not converged.
    """
    if diagram is None or diagram.box is not density.box:
        diagram = density.diagram(sites, heights)
    return Cells(heights, diagram, *density.measure(diagram), 0, False)


def has_mass(cells: Cells, target: Target, share: float = MIN_START_SHARE) -> bool:
    """Return whether every cell has at least a share of its prescribed mass.

    Parameters
    ----------
    cells : Cells
        The cells.
    target : Target
        The prescribed masses.
    share : float, default=1e-3
        The share.

    Returns
    -------
    bool
        True if no cell has less.
    """
    return bool((cells.masses >= share * target.masses).all())


def has_empty_cell(diagram: PowerDiagram) -> bool:
    """Return whether a cell is empty, as the diagram alone shows.

    Parameters
    ----------
    diagram : PowerDiagram
        The cells.

    Returns
    -------
    bool
        True if one of several sites has no neighbour: its cell is empty, or all others are.
    """
    neighbours = np.bincount(diagram.sites[: diagram.n_interfaces].ravel(), None, diagram.n_sites)
    return diagram.n_sites > 1 and not neighbours.all()


def stiffness(target: Target, cells: Cells) -> tuple[Array, Array, Array]:
    """Return the derivatives of the masses of the cells with respect to the heights.

    Parameters
    ----------
    target : Target
        The sites.
    cells : Cells
        The cells.

    Returns
    -------
    pairs : ndarray of shape (2, m)
        The two cells beside each edge.
    weight : ndarray of shape (m,)
        Their ``dG_j / dh_k``.
    diagonal : ndarray of shape (n,)
        ``-dG_j / dh_j`` of each cell.
    """
    pairs = cells.diagram.sites[: cells.diagram.n_interfaces].T
    weight = cells.along / (2 * cells.diagram.separation(target.sites))
    n = len(target.sites)
    return pairs, weight, sum(np.bincount(side, weight, n) for side in pairs)


def lowest_empty_heights(cells: Cells, sites: Array, others: Array) -> Array:
    """Return the lowest heights at which sites added to a power diagram have empty cells.

    Parameters
    ----------
    cells : Cells
        The cells.
    sites : ndarray of shape (n, 2)
        Their sites.
    others : ndarray of shape (m, 2)
        The sites to be added, each alone.

    Returns
    -------
    ndarray of shape (m,)
        The heights at which their planes touch the envelope; at any lower one a site has a cell.
    """
    corners, envelope = cells.diagram.envelope(sites, cells.heights)
    return np.array([(2 * corners @ y - envelope).max() for y in others])
