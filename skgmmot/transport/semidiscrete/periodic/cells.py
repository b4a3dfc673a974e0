r"""Power diagrams in a periodic box, and integrals over their cells.

The distance of ``x`` to a site is that to the nearest of its *images* ``y + k``, where ``k`` is any
vector of whole periods. All images of a site have the same potential, so that each point of the
cell of an image is nearer to it than to the site's other images: the cell lies within half a period
of its image along each axis. In one period of the box therefore only those images have cells which
are at most half a period away from it: two along each axis.

Cells are those of the images in one period, added up by site. First moments are relative: each
piece of a cell is moved back by its image's offset, as if the cell was around its site.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from scipy.spatial import ConvexHull, KDTree, QhullError

from skgmmot.transport.discrete.assignment import assign_cells
from skgmmot.transport.discrete.network_simplex import network_simplex
from skgmmot.transport.semidiscrete.cells import (
    MIN_START_SHARE,
    Cells,
    Target,
    evaluate,
    has_mass,
)
from skgmmot.transport.semidiscrete.power_diagram import Box, PowerDiagram
from skgmmot.transport.semidiscrete.starting_heights import (
    MAX_DIRECT_SITES,
    MAX_DISCRETE_COSTS,
    MIN_VORONOI_SHARE,
    SMOOTHINGS,
    START_TOL,
    coarsened,
    smoothed_heights,
)

Array = np.ndarray

#: Images are kept to this share of the largest potential beyond the reach of cells, for rounding.
REACH_MARGIN = 1e-9
#: Corners of a polygon nearer than this share of its size are one, and so are directions of edges.
SAME_CORNER = 1e-8


class PeriodicDiagram(NamedTuple):
    """The cells of sites in a periodic box, as those of their images in one period."""

    images: PowerDiagram
    """The cells of the images, cut off at the box."""
    owner: Array
    """Index of the site of each image, ``(q,)``."""
    offset: Array
    """The vector from the site to each image, ``(q, d)``."""
    n_sites: int
    """Number of sites n, those with an empty cell included."""

    @property
    def box(self) -> Box:
        """The box."""
        return self.images.box

    @property
    def n_interfaces(self) -> int:
        """Number of edges between two cells of images."""
        return self.images.n_interfaces

    @property
    def sites(self) -> Array:
        """Indices of the sites on the left and on the right of each edge, ``(m, 2)``."""
        return self.owner[self.images.sites]

    def image_sites(self, sites: Array) -> Array:
        """The places of all images, ``(q, d)``."""
        return sites[self.owner] + self.offset

    def image_heights(self, sites: Array, heights: Array) -> Array:
        """The heights of all images, ``(q,)``."""
        return image_heights(sites, heights, self.owner, self.offset)

    def separation(self, sites: Array) -> Array:
        """Distances between the images beside the edges between two cells, ``(n_interfaces,)``."""
        return self.images.separation(self.image_sites(sites))

    def fold(self, values: Array) -> Array:
        """Sum values of the images, ``(q, ...)``, to those of their sites, ``(n, ...)``."""
        folded = np.zeros((self.n_sites, *values.shape[1:]))
        np.add.at(folded, self.owner, values)
        return folded

    def polygons(self) -> list[Array]:
        """Return the corners of each whole cell around its site, counterclockwise.

        Returns
        -------
        list of n ndarrays of shape (number of corners, 2)
            ``(0, 2)`` for an empty cell. Cells are not cut off at the box.
        """
        return [_hull(corners) for corners in self._around_sites(self.images.polygons())]

    def polyhedra(self) -> list[Array]:
        """Return the corners of each whole cell around its site; their convex hull is the cell.

        Returns
        -------
        list of n ndarrays of shape (number of corners, 3)
            ``(0, 3)`` for an empty cell. Corners may appear several times or lie inside.
        """
        return self._around_sites(self.images.polyhedra())

    def _around_sites(self, parts: list[Array]) -> list[Array]:
        """Corners of the cells of images, moved to their sites."""
        moved = [[np.empty((0, self.offset.shape[1]))] for _ in range(self.n_sites)]
        for owner, offset, part in zip(self.owner, self.offset, parts, strict=True):
            moved[owner].append(part - offset)
        return [np.vstack(of_one) for of_one in moved]


def image_heights(sites: Array, heights: Array, owner: Array, offset: Array) -> Array:
    """Return the heights of images, whose potentials are those of their sites.

    Parameters
    ----------
    sites : ndarray of shape (n, d)
        Sites.
    heights : ndarray of shape (n,)
        Heights ``|y|^2 - psi``.
    owner : ndarray of shape (q,)
        The site of each image.
    offset : ndarray of shape (q, d)
        The vector from the site to each image.

    Returns
    -------
    ndarray of shape (q,)
        ``|y + k|^2 - psi``.
    """
    return heights[owner] + (2 * (sites[owner] * offset) + offset**2).sum(1)


def images_of(sites: Array, box: Box) -> tuple[Array, Array]:
    """Return the images of sites that are at most half a period away from a box.

    Parameters
    ----------
    sites : ndarray of shape (n, d)
        Sites in the box.
    box : Box
        The box.

    Returns
    -------
    owner : ndarray of shape (2**d n,)
        The site of each image.
    offset : ndarray of shape (2**d n, d)
        The vector from the site to each image.
    """
    across = np.where(sites < (box.low + box.high) / 2, 1.0, -1.0) * (box.high - box.low)
    shifts = [across * np.array(used) for used in itertools.product((0, 1), repeat=len(box.low))]
    return np.tile(np.arange(len(sites)), len(shifts)), np.vstack(shifts)


class PeriodicIntegrals:
    """Integrals of a density over the cells of a periodic box.

    Parameters
    ----------
    one : GridIntegrals
        The density on one period of the box.
    """

    def __init__(self, one):
        self.one, self.box = one, one.box
        self._reach: tuple[Array, float] | None = None

    @property
    def period(self) -> Array:
        """Lengths of the box, ``(d,)``."""
        return self.box.high - self.box.low

    def covariance(self) -> Array:
        """The covariance of the density on one period, whose mean must be the origin."""
        return self.one.covariance()

    def blurred(self, share: float) -> "PeriodicIntegrals":
        """The density mixed, with weight ``share``, with the uniform density on the box."""
        return PeriodicIntegrals(self.one.blurred(share))

    def nodes(self, n: int) -> tuple[Array, Array]:
        """At least ``n`` points that approximate the density, and their positive masses."""
        return self.one.nodes(n)

    def diagram(self, sites: Array, heights: Array) -> PeriodicDiagram:
        """The power diagram of sites in the box, of some heights."""
        owner, offset = self._images(sites, heights)
        lifted = image_heights(sites, heights, owner, offset)
        images = self.one.diagram(sites[owner] + offset, lifted)
        return PeriodicDiagram(images, owner, offset, len(sites))

    def _images(self, sites: Array, heights: Array) -> tuple[Array, Array]:
        """The images that may have a cell in the box: their sites and offsets.

        In the box the least ``|x - y_j|^2 - psi_j`` is at most the square of the covering radius,
        less the lowest potential. The covering radius of the last sites is cached.
        """
        if self._reach is None or self._reach[0] is not sites:
            self._reach = sites, covering_radius(sites, self.box)
        owner, offset = images_of(sites, self.box)
        potentials, image = (sites**2).sum(1) - heights, sites[owner] + offset
        away = np.maximum(0.0, np.maximum(self.box.low - image, image - self.box.high))
        least = (away**2).sum(1) - potentials[owner]
        highest = self._reach[1] ** 2 - potentials.min()
        near = least <= highest + REACH_MARGIN * (np.abs(potentials).max() + highest)
        return owner[near], offset[near]

    def measure(self, diagram: PeriodicDiagram) -> tuple[Array, Array]:
        """Masses of the cells, and integrals over the edges between those of images."""
        masses, along = self.one.measure(diagram.images)
        return diagram.fold(masses), along

    def moments(self, diagram: PeriodicDiagram) -> Array:
        """First moments of the cells around their sites, ``(n, d)``."""
        masses, _ = self.one.measure(diagram.images)
        moved = self.one.moments(diagram.images) - masses[:, None] * diagram.offset
        return diagram.fold(moved)

    def second_moment(self, diagram: PeriodicDiagram) -> float:
        """The integral of ``|x|^2`` over all cells around their sites."""
        masses, _ = self.one.measure(diagram.images)
        moments, offset = self.one.moments(diagram.images), diagram.offset
        moved = masses @ (offset**2).sum(1) - 2 * (moments * offset).sum()
        return float(np.trace(self.one.covariance()) + moved)

    def squares(self, places: Array, sites: Array) -> Array:
        """Squared distances of places in the box to sites, ``(p, n)``."""
        total = 0.0
        for x, y, period in zip(places.T, sites.T, self.period, strict=True):
            away = np.abs(x[:, None] - y)
            total = total + np.minimum(away, period - away) ** 2
        return total

    def lowest_empty_heights(self, cells: Cells, sites: Array, others: Array) -> Array:
        """The lowest heights at which sites, each added alone, have empty cells."""
        d = cells.diagram
        lifted = d.image_heights(sites, cells.heights)
        corners, envelope = d.images.envelope(d.image_sites(sites), lifted)
        phi = (corners**2).sum(1) - envelope
        highest = [(phi - self.squares(corners, y[None])[:, 0]).max() for y in others]
        return (others**2).sum(1) + np.array(highest).reshape(len(others))

    def starts(
        self, _, target: Target, heights: Array | None, solve: Callable[..., Cells]
    ) -> Iterator[Cells]:
        """Yield cells to start Newton's method from, as `starting_cells` does elsewhere."""
        sites = target.sites
        voronoi = (sites**2).sum(1)
        for proposal, share in ((heights, MIN_START_SHARE), (voronoi, MIN_VORONOI_SHARE)):
            if np.shape(proposal) == target.masses.shape:
                cells = evaluate(self, sites, proposal)
                if has_mass(cells, target, share):
                    yield cells
        if len(sites) > MAX_DIRECT_SITES:
            fewer = Target(*coarsened(sites, target.masses))
            solved = solve(self, fewer, tol=START_TOL, max_iter=200, starts=self.starts)
            if solved.converged:
                yield self._from_coarse(target, fewer, solved)
        if 4 * len(sites) ** 2 <= MAX_DISCRETE_COSTS:
            yield evaluate(self, sites, voronoi - self._discrete_potentials(target))
        yield evaluate(self, sites, voronoi)

    def _from_coarse(self, target: Target, fewer: Target, solved: Cells) -> Cells:
        """Cells for all sites from those of a coarse problem, with the least smoothing."""
        d = solved.diagram
        middle = (self.moments(d) / solved.masses[:, None])[d.owner] + d.offset
        lifted = d.image_heights(fewer.sites, solved.heights)
        for smoothing in SMOOTHINGS:
            heights = smoothed_heights(
                d.image_sites(fewer.sites), lifted, middle, target.sites, smoothing
            )
            cells = evaluate(self, target.sites, heights)
            if has_mass(cells, target):
                break
        return cells

    def _discrete_potentials(self, target: Target) -> Array:
        """Potentials of discrete transport from nodes of the density."""
        n = len(target.sites)
        nodes, a = self.nodes(max(4 * n, 256))
        b = (target.masses + 1 / n) / 2
        C = self.squares(nodes, target.sites)
        P, _, psi = network_simplex(a, b, C)
        return assign_cells(P, a, b, C, psi)[1]


def wrapped(vectors: Array, period: Array) -> Array:
    """Return vectors moved by whole periods to within half a period of zero.

    Parameters
    ----------
    vectors : ndarray of shape (n, d)
        Vectors.
    period : ndarray of shape (d,)
        The period along each axis.

    Returns
    -------
    ndarray of shape (n, d)
        The shortest vectors that differ by whole periods.
    """
    return vectors - period * np.round(vectors / period)


def nearest_image(sites: Array, box: Box) -> Array:
    """Return the images of sites in a box.

    Parameters
    ----------
    sites : ndarray of shape (n, d)
        Sites, anywhere.
    box : Box
        The box.

    Returns
    -------
    ndarray of shape (n, d)
        The images, on the lower walls rather than on the upper ones.
    """
    period = box.high - box.low
    within = (sites - box.low) % period
    return box.low + np.where(within < period, within, 0.0)


def _hull(points: Array) -> Array:
    """The corners of the convex hull of points, counterclockwise; none for an empty cell.

    Where pieces of a cell meet at walls, points lie on its edges, up to rounding.
    """
    if not len(points):
        return points
    nearly = SAME_CORNER * np.abs(points - points[0]).max()
    _, first = np.unique(
        np.round((points - points[0]) / (nearly or 1.0)), axis=0, return_index=True
    )
    try:
        hull = points[first][ConvexHull(points[first]).vertices]
    except (QhullError, ValueError):  # a cell without area
        return points[:0]
    before, after = hull - np.roll(hull, 1, axis=0), np.roll(hull, -1, axis=0) - hull
    turn = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
    return hull[turn > SAME_CORNER * np.hypot(*before.T) * np.hypot(*after.T)]


def covering_radius(sites: Array, box: Box) -> float:
    """Return a bound of the distance from a point of a periodic box to the nearest site.

    Parameters
    ----------
    sites : ndarray of shape (n, d)
        Sites in the box.
    box : Box
        The box.

    Returns
    -------
    float
        The bound, from the distances at about as many places as there are sites.
    """
    period = box.high - box.low
    n = math.ceil(len(sites) ** (1 / len(period)))
    each = (np.arange(n) + 0.5) / n
    places = np.stack(np.meshgrid(*([each] * len(period))), axis=-1).reshape(-1, len(period))
    inside = np.minimum(sites - box.low, np.nextafter(period, 0))
    tree = KDTree(inside, boxsize=period)
    return tree.query(places * period)[0].max() + np.linalg.norm(period) / (2 * n)
