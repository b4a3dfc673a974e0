r"""Semi-discrete transport of a part of an image's mass to points.

.. math::

    \min_{\mu \le \rho,\ \mu(\mathbb{R}^2) = m} W_2^2(\mu, b)
        = \max_\psi \int \min\bigl(0, \min_j |x - y_j|^2 - \psi_j\bigr) \rho(x)\, dx
            + \langle b, \psi\rangle

for masses ``b`` of sum ``m``. The cells are those of a power diagram cut by discs of radius
``sqrt(psi_j)``. Their masses grow with the potentials, and the derivative of the mass of a cell in
its own potential has one more term, ``int_arcs rho / (2 sqrt(psi_j))``, so that there is no free
constant. Newton's method starts from the cells of transport of all of the density, cut by discs so
small that one cell has half of its mass left.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.spatial import KDTree
from torch import Tensor

from skgmmot.transport.semidiscrete.cells import (
    MIN_START_SHARE,
    ROUNDING,
    Cells,
    Target,
    evaluate,
    has_mass,
)
from skgmmot.transport.semidiscrete.damped_newton import (
    MEASURES,
    CellsOfHeights,
    newton_on_heights,
)
from skgmmot.transport.semidiscrete.partial.grid import DiscIntegrals
from skgmmot.transport.semidiscrete.partial.outlines import outlines
from skgmmot.transport.semidiscrete.periodic.cells import (
    PeriodicDiagram,
    PeriodicIntegrals,
    nearest_image,
    wrapped,
)
from skgmmot.transport.semidiscrete.periodic.problem import PeriodicProblem
from skgmmot.transport.semidiscrete.power_diagram import PowerDiagram
from skgmmot.transport.semidiscrete.scaled_problem import (
    MERGING_DISTANCES,
    ScaledProblem,
    centred_integrals,
    to_numpy,
    zero_with_derivative,
)
from skgmmot.transport.semidiscrete.starting_heights import LIGHT_SITE_SHARE, START_TOL

Array = np.ndarray

#: Least share of its mass that each cell has at the start, and the most that the least one has.
START_SHARES = (0.5, 0.9)
#: Largest number of bisections for the sizes of the discs at the start.
N_BISECTIONS = 60
#: Bisections of the logarithm of the excess of a light site's potential.
LIGHT_BISECTIONS = 40
#: Masses of so different sizes are found from the heaviest sites on: at each stage those of less
#: than this share of the mean mass are added.
MANY_MAGNITUDES, LIGHTER_SHARE = 1e3, 0.3
#: Shares of the mass that are transported one after the other, where the last alone fails.
MASSES = 0.25 ** np.arange(1, 50)
#: Amounts of blurring, of which a density with gaps that stop Newton's method gets less and less.
BLURRINGS = (*(0.25**k for k in range(1, 21)), 0.0)
#: Number of steps in which the error must halve, or else the method has stalled.
STALL_WINDOW = 30


class InPlane(NamedTuple):
    """The cells of a diagram as cells of a diagram in the plane, of sites or of their images."""

    diagram: PowerDiagram
    """The diagram in the plane."""
    sites: Array
    """Its sites, ``(q, 2)``."""
    potentials: Array
    """Their potentials, ``(q,)``."""
    owner: Array
    """The site of which each is an image, ``(q,)``."""
    offset: Array
    """The vector from there to the image, ``(q, 2)``."""

    def fold(self, values: Array, n: int) -> Array:
        """Sum values of images ``(q, ...)`` to those of their sites ``(n, ...)``."""
        folded = np.zeros((n, *values.shape[1:]))
        np.add.at(folded, self.owner, values)
        return folded


class UnitProblem(ScaledProblem):
    """A semi-discrete problem in the plane whose points have the unit and origin of the density.

    Parameters
    ----------
    density : GridDensity
        The density.
    points : Tensor of shape (n, 2)
        The points.
    b : Tensor of shape (n,)
        Their masses, of sum one.
    merging_distance : float, default=1e-13
        Points nearer than this are merged, in that unit.
    """

    def __init__(
        self, density, points: Tensor, b: Tensor, merging_distance: float = MERGING_DISTANCES[0]
    ):
        self.y, self.b = to_numpy(points), to_numpy(b)
        self.density, self.mean, self.unit = centred_integrals(density)
        self.step, self.shift = self.unit, np.zeros_like(self.mean)
        self.centred = (self.y - self.mean) / self.unit
        self.level = (self.centred**2).sum(1)
        self.full = self._with_mass()
        self._merge(merging_distance)


class PartialProblem:
    """A problem in which only a share of the density is transported.

    Parameters
    ----------
    density : GridDensity
        The density; its rows go up.
    points : Tensor of shape (n, 2)
        The points.
    b : Tensor of shape (n,)
        Their masses, of sum one.
    mass : float
        The share of the density that is transported, in (0, 1).
    merging_distance : float, default=1e-13
        Points nearer than this, in units of the density's size, are merged.
    """

    def __init__(self, density, points: Tensor, b: Tensor, mass: float, merging_distance=1e-13):
        self._parts = density, points, merging_distance
        kind = PeriodicProblem if density.periodic else UnitProblem
        self.whole, self.mass = kind(density, points, b, merging_distance), mass
        self.sites = self.whole.sites
        self.level = self.whole.level[self.whole.first]
        self.target = Target(self.sites, mass * self.whole.masses, 0.0, self.level)
        self.one = getattr(self.whole.density, "one", self.whole.density)
        self.discs = DiscIntegrals(self.one)
        self._last: Cells | None = None

    def solve(self, start: Array | None, tol: float, max_iter: int) -> Cells:
        """Find the cells of the prescribed masses, from potentials of the points or from others."""
        n_iter = 0
        for discs, target, begin in self._starts(start):
            final = target is self.target and discs is self.discs
            goal = tol if final else max(tol, START_TOL * target.masses.sum())
            self._last = self._newton(discs, target, begin, goal, max_iter - n_iter)
            n_iter += self._last.n_iter
            if n_iter >= max_iter or (final and self._last.converged):
                break
        return self._last._replace(n_iter=n_iter, converged=final and self._last.converged)

    def _starts(self, given: Array | None):
        """Yield integrals, target masses and cells to start from: the fastest first.

        After each the cells that Newton's method has reached are in `_last`.
        """
        if given is not None:
            potentials = given[self.whole.first] / self.whole.unit / self.whole.unit
            begin = self._evaluate(self.discs, self.level - potentials)
            if has_mass(begin, self.target, MIN_START_SHARE):
                yield self.discs, self.target, begin
        for share in (LIGHT_SITE_SHARE, LIGHTER_SHARE):
            light = self.whole.masses < share / len(self.sites)
            if light.any():
                yield self.discs, self.target, self._with_light_sites(light)
            if self.whole.masses.max() < MANY_MAGNITUDES * self.whole.masses.min():
                break
        # Small discs in Voronoi's cells, if these hold enough.
        voronoi = evaluate(self.whole.density, self.sites, self.level)
        if (voronoi.masses >= self.target.masses).all():
            yield self.discs, self.target, self._with_discs_cut(self.discs, self.level)
        whole = self.whole.solve(0.0, None, START_TOL, 200)
        yield self.discs, self.target, self._with_discs_cut(self.discs, whole.heights)
        # Less and less mass, where discs are far smaller than the cells of all of it.
        masses, heights = self.target.masses / self.mass, whole.heights
        for mass in MASSES[self.mass < MASSES]:
            target = self.target._replace(masses=mass * masses)
            yield self.discs, target, self._with_discs_cut(self.discs, heights, target)
            heights = self._last.heights
        yield self.discs, self.target, self._with_discs_cut(self.discs, heights)
        # Less and less blurring, where the density has gaps.
        heights = whole.heights
        for share in BLURRINGS:
            discs = self._blurred(share)
            begin = self._evaluate(discs, heights)
            if not has_mass(begin, self.target):
                begin = self._with_discs_cut(discs, heights)
            yield discs, self.target, begin
            heights = self._last.heights

    def _with_light_sites(self, light: Array) -> Cells:
        """The cells of all other sites, and light sites added, each with its mass by bisection."""
        whole, (density, points, distance) = self.whole, self._parts
        b = np.where(np.isin(np.arange(len(whole.b)), whole.full), whole.b, 0.0)
        b[whole.full[light[whole.site]]] = 0.0
        share = b.sum()
        others = PartialProblem(
            density, points.detach(), points.new_tensor(b / share), self.mass * share, distance
        )
        psi = others.potentials(others.solve(None, 1e-6 * share, 200)) / whole.unit / whole.unit
        empty = psi[whole.first]
        size = np.abs(empty).max() + 1.0
        low, high = np.full(light.sum(), math.log(ROUNDING)), np.zeros(light.sum())  # of log depths
        for _ in range(LIGHT_BISECTIONS):
            middle = (low + high) / 2
            deeper = empty.copy()
            deeper[light] += size * np.exp(middle)
            found = self._evaluate(self.discs, self.level - deeper)
            over = found.masses[light] > self.target.masses[light]
            low, high = np.where(over, low, middle), np.where(over, middle, high)
        return found

    def _blurred(self, share: float) -> DiscIntegrals:
        """The integrals over cells cut by discs of the density blurred by a share."""
        return DiscIntegrals(self.one.blurred(share)) if share else self.discs

    def _in_plane(self, diagram, potentials: Array) -> InPlane:
        """The diagram in the plane of a diagram of the sites."""
        if isinstance(diagram, PeriodicDiagram):
            owner, offset = diagram.owner, diagram.offset
            places = diagram.image_sites(self.sites)
            return InPlane(diagram.images, places, potentials[owner], owner, offset)
        owner = np.arange(len(self.sites))
        return InPlane(diagram, self.sites, potentials, owner, np.zeros_like(self.sites))

    def _evaluate(self, discs: DiscIntegrals, heights: Array, diagram=None) -> Cells:
        """The cells of given heights."""
        if diagram is None:
            diagram = self.whole.density.diagram(self.sites, heights)
        plane, n = self._in_plane(diagram, self.level - heights), len(self.sites)
        masses, along, around = discs.measure(plane.diagram, plane.sites, plane.potentials)
        radius = np.sqrt(np.maximum(self.level - heights, np.finfo(float).tiny))
        rim = plane.fold(around, n) / (2 * radius)
        return Cells(heights, diagram, plane.fold(masses, n), along, 0, False, rim)

    def _with_discs_cut(
        self, discs: DiscIntegrals, heights: Array, target: Target | None = None
    ) -> Cells:
        """Raise heights, or lower them, by a common amount, until some cell lacks some mass."""
        target = target or self.target
        cells = self._evaluate(discs, heights)
        plane = self._in_plane(cells.diagram, self.level - heights)
        lifted = (plane.sites**2).sum(1) - plane.potentials
        corners, envelope = plane.diagram.envelope(plane.sites, lifted)
        # potentials at which discs hold all of the box, and at which all are empty
        high, low = ((corners**2).sum(1) - envelope).max(), -plane.potentials.max()
        for _ in range(N_BISECTIONS):
            middle = (low + high) / 2
            cells = self._evaluate(discs, heights - middle, cells.diagram)
            least = (cells.masses / target.masses).min()
            if START_SHARES[0] <= least <= START_SHARES[1]:
                return cells
            low, high = (middle, high) if least < START_SHARES[0] else (low, middle)
        return self._evaluate(discs, heights - high, cells.diagram)

    def _newton(self, discs: DiscIntegrals, target: Target, cells: Cells, tol, max_iter) -> Cells:
        """Damped Newton steps, on roots of the masses and where these stall on the masses."""
        n_iter = 0
        of_heights = CellsOfHeights(
            lambda heights: self.whole.density.diagram(self.sites, heights),
            lambda heights, diagram: self._evaluate(discs, heights, diagram),
        )
        for measure in MEASURES:
            left = max_iter - n_iter
            cells = newton_on_heights(of_heights, target, cells, measure, tol, left, STALL_WINDOW)
            n_iter += cells.n_iter
            if cells.converged:
                break
        return cells._replace(n_iter=n_iter)

    def potentials(self, found: Cells) -> Array:
        """Potentials of the points; those without mass get the largest that leaves them no cell."""
        whole, psi = self.whole, np.zeros(len(self.whole.b))
        psi[whole.full] = (self.level - found.heights)[whole.site]
        empty = np.setdiff1d(np.arange(len(psi)), whole.full)
        if len(empty):
            psi[empty] = self._empty_potentials(found, whole.centred[empty])
        return psi * whole.unit * whole.unit

    def _empty_potentials(self, found: Cells, others: Array) -> Array:
        """The least ``|x - y|^2 - phi(x)`` in the box, ``phi`` being the minimum of the dual.

        It is at a corner of a cell, at the point of a disc that is nearest to y, or at the point of
        the box that is.
        """
        plane = self._in_plane(found.diagram, self.level - found.heights)
        segments, _ = outlines(plane.diagram, plane.sites, plane.potentials)
        box, density = plane.diagram.box, self.whole.density
        fixed = np.vstack([segments.start, segments.stop, box.corners])
        radius = np.sqrt(np.maximum(plane.potentials, 0.0))
        largest = plane.potentials.max()
        # the least power distance is that to the nearest of points in one more dimension
        lifted = KDTree(np.column_stack([plane.sites, np.sqrt(largest - plane.potentials)]))
        least = []
        for y in others:
            away = y - plane.sites
            if isinstance(density, PeriodicIntegrals):
                away = wrapped(away, density.period)
            away /= np.maximum(np.hypot(*away.T), np.finfo(float).tiny)[:, None]
            places = np.vstack([fixed, plane.sites + away * radius[:, None], y[None]])
            if isinstance(density, PeriodicIntegrals):
                places = nearest_image(places, box)
                squares = density.squares(places, y[None])[:, 0]
            else:
                places = np.clip(places, box.low, box.high)
                squares = ((places - y) ** 2).sum(1)
            phi = lifted.query(np.column_stack([places, np.zeros(len(places))]))[0] ** 2 - largest
            least.append((squares - np.minimum(phi, 0.0)).min())
        return np.array(least)

    def cost(self, moments: tuple[Array, Array, Array], plane: InPlane) -> float:
        """The dual objective at the prescribed masses, in units of the points."""
        masses, _, second = moments
        psi = plane.potentials
        of_sites = np.zeros(len(self.sites))
        of_sites[plane.owner] = psi
        value = self.target.masses @ of_sites + (second - psi * masses).sum()
        return max(float(value), 0.0) * self.whole.unit * self.whole.unit

    def size(self, moments: tuple[Array, Array, Array], plane: InPlane) -> float:
        """The sum of the sizes of the terms of `cost`, those of places far from the origin too."""
        masses, _, second = moments
        size = 2 * np.abs(plane.potentials) @ masses + np.abs(second).sum()
        unit, apart = self.whole.unit, np.sqrt(np.abs(second).sum() * self.mass)
        return float(unit * unit * size + unit * apart * np.abs(self.whole.mean).max())

    def results(self, found: Cells) -> tuple[Array, Array, Array, float, float]:
        """Potentials, masses and barycentres of the points, the cost, and the size of its terms."""
        plane = self._in_plane(found.diagram, self.level - found.heights)
        moments = self.discs.moments(plane.diagram, plane.sites, plane.potentials)
        around = plane.fold(moments[1], len(self.sites))
        around += found.masses[:, None] * self.sites
        return (
            self.potentials(found),
            self.whole.point_masses(found.masses),
            self.whole.barycentres(found, around),
            self.cost(moments, plane),
            self.size(moments, plane),
        )

    def envelope(self, density, found: Cells) -> Tensor:
        """A zero whose derivative in the values of the density is that of the cost."""
        plane = self._in_plane(found.diagram, self.level - found.heights)
        phi = self.discs.potential(plane.diagram, plane.sites, plane.potentials)
        values = density.values
        normalised = values / (values.sum() * float(self.discs.pixel.prod()))
        return zero_with_derivative(normalised, self.whole.unit**2 * phi)
