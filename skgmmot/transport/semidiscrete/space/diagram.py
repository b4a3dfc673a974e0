"""Power diagrams in a box of three dimensions.

As in the plane, the diagram is dual to the lower convex hull of the points ``(y_j, h_j)``, here in
four dimensions: a face of the hull, a tetrahedron, is a corner of the diagram, and an edge of the
hull between two sites is a facet between two cells, whose corners are those of the tetrahedra
around the edge. Guards far outside make all of them finite. Facets are clipped to the box.

An integral over a cell is a flux along the first axis through its facets and through the wall of
the box at the end of that axis. There the cells are those of a power diagram in the plane.
"""

import itertools
from typing import NamedTuple

import numpy as np

from skgmmot.transport.semidiscrete.power_diagram import (
    Box,
    PowerDiagram,
    convex_hull,
    guarded,
    power_diagram,
)
from skgmmot.transport.semidiscrete.space.polygons import Polygons

Array = np.ndarray

#: Directions of guards.
GUARDS = np.array(list(itertools.product((-1.0, 1.0), repeat=3)))
#: The wall that carries fluxes is so far outside the box, as a share of its side, that it does not
#: coincide with facets on the box itself, as those of lattices, of which rounding would lose some.
WALL_OFFSET = 1e-11


class Cuboid(NamedTuple):
    """A box in space with sides along the axes."""

    low: Array
    """The corner of the least coordinates, ``(3,)``."""
    high: Array
    """The corner of the largest coordinates, ``(3,)``."""

    @property
    def corners(self) -> Array:
        """The corners ``(8, 3)``."""
        return np.array(list(itertools.product(*zip(self.low, self.high, strict=True))))


class SpaceDiagram(NamedTuple):
    """The cells of sites in a box in space, given by the facets between them."""

    sites: Array
    """Indices of the two sites beside each facet, ``(m, 2)``."""
    facets: Polygons
    """The facets, counterclockwise as seen from the second site of each."""
    wall: PowerDiagram
    """The cells on the wall at the upper end of the first axis, in the other two coordinates."""
    owners: Array
    """Sites whose cells contain the corners of the box, ``(8,)``."""
    n_sites: int
    """Number of sites n, those with an empty cell included."""
    box: Cuboid
    """The box."""

    @property
    def n_interfaces(self) -> int:
        """Number of facets."""
        return len(self.sites)

    def gather(self, flux: Array) -> Array:
        """Sum fluxes from the first to the second site through facets, ``(m,)``, to ``(n,)``."""
        first, second = self.sites.T
        n = self.n_sites
        return (np.bincount(first, flux, n) - np.bincount(second, flux, n)).astype(float)

    def normals(self) -> Array:
        """Unit normals of the facets, from the first to the second site, ``(m, 3)``."""
        corners, of = self.facets.triangles()
        area = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        total = np.stack([np.bincount(of, x, self.n_interfaces) for x in area.T], axis=1)
        return total / np.maximum(np.linalg.norm(total, axis=1), np.finfo(float).tiny)[:, None]

    def separation(self, sites: Array) -> Array:
        """Distances between the sites beside the facets, ``(m,)``."""
        return np.linalg.norm(sites[self.sites[:, 0]] - sites[self.sites[:, 1]], axis=1)

    def envelope(self, sites: Array, heights: Array) -> tuple[Array, Array]:
        """The corners of all cells, ``(q, 3)``, and the highest plane there, ``(q,)``."""
        corners = np.vstack([self.facets.corners, self.box.corners])
        owner = np.concatenate([self.sites[self.facets.of, 0], self.owners])
        return corners, 2 * (corners * sites[owner]).sum(1) - heights[owner]

    def placed(self, unit: float, origin: Array) -> "SpaceDiagram":
        """The diagram in other coordinates, ``unit x + origin``."""
        corners = unit * self.facets.corners + origin
        box = Cuboid(unit * self.box.low + origin, unit * self.box.high + origin)
        wall = self.wall.placed(unit, origin[1:])
        return self._replace(facets=self.facets._replace(corners=corners), box=box, wall=wall)

    def renumbered(self, index: Array, n_sites: int) -> "SpaceDiagram":
        """The diagram with other indices of the sites."""
        return self._replace(
            sites=index[self.sites],
            owners=index[self.owners],
            wall=self.wall.renumbered(index, n_sites),
            n_sites=n_sites,
        )

    def polyhedra(self) -> list[Array]:
        """Return the corners of each cell; their convex hull is the cell.

        Returns
        -------
        list of n ndarrays of shape (number of corners, 3)
            ``(0, 3)`` for an empty cell. Corners may appear several times.
        """
        of, corners = self.facets.of, self.facets.corners
        owner = np.concatenate([self.sites[of, 0], self.sites[of, 1], self.owners])
        places = np.vstack([corners, corners, self.box.corners])
        order = np.argsort(owner, kind="stable")
        cuts = np.searchsorted(owner[order], np.arange(1, self.n_sites))
        return np.split(places[order], cuts)


def space_diagram(sites: Array, heights: Array, box: Cuboid) -> SpaceDiagram:
    """Return the power diagram of sites in a box in space.

    Parameters
    ----------
    sites : ndarray of shape (n, 3)
        Sites ``y``, anywhere; most accurate if the middle of both sites and box is the origin.
    heights : ndarray of shape (n,)
        Heights ``h``: the cell of ``y_j`` is where ``2 <x, y_j> - h_j`` is highest.
    box : Cuboid
        The box.

    Returns
    -------
    SpaceDiagram
        The cells, cut off at the box.

    Notes
    -----
    Costs about ``O(n log n)`` for sites that fill the space evenly, half of it in Qhull.
    """
    corners, pairs, of = _dual(*guarded(sites, heights, box.corners, GUARDS))
    facets = _ordered(corners, of, sites[pairs[:, 1]] - sites[pairs[:, 0]])
    high = box.high.copy()
    high[0] += WALL_OFFSET * (high[0] - box.low[0])
    facets = facets.within(box.low, high)
    left, of = np.unique(facets.of, return_inverse=True)
    owners = np.argmax(2 * box.corners @ sites.T - heights, axis=1)
    wall = _on_wall(sites[:, 1:], heights - 2 * high[0] * sites[:, 0], box)
    return SpaceDiagram(pairs[left], Polygons(facets.corners, of), wall, owners, len(sites), box)


def _on_wall(sites: Array, heights: Array, box: Cuboid) -> PowerDiagram:
    """The cells on the wall: of sites that coincide there, the one of the lowest height."""
    order = np.argsort(heights, kind="stable")
    _, first = np.unique(sites[order], axis=0, return_index=True)
    used = order[first]
    diagram = power_diagram(sites[used], heights[used], Box(box.low[1:], box.high[1:]))
    return diagram.renumbered(used, len(sites))


def _dual(sites: Array, heights: Array) -> tuple[Array, Array, Array]:
    """The corners of the facets, the sites beside each facet, and the facet of each corner.

    Guards are the last eight sites; facets beside one lie outside the box.
    """
    units = np.abs(sites).max(), np.abs(heights).max() or 1.0
    hull = convex_hull(np.column_stack([sites / units[0], heights / units[1]]))
    normals = hull.equations[:, :4]
    lower = normals[:, 3] < 0
    normals, simplices = normals[lower], hull.simplices[lower]
    v = normals[:, :3] / (-2 * normals[:, 3:]) * (units[1] / units[0])
    sides = np.array(list(itertools.combinations(range(4), 2)))
    pairs = np.sort(simplices[:, sides].reshape(-1, 2), axis=1).astype(np.intp)
    corner = np.repeat(np.arange(len(v)), len(sides))
    real = pairs[:, 1] < len(sites) - 8
    pairs, corner = pairs[real], corner[real]
    key, of = np.unique(pairs[:, 0] * len(sites) + pairs[:, 1], return_inverse=True)
    return v[corner], np.stack(np.divmod(key, len(sites)), axis=1), of


def _ordered(corners: Array, of: Array, normals: Array) -> Polygons:
    """Facets with their corners counterclockwise around the normals."""
    n = len(normals)
    count = np.maximum(np.bincount(of, minlength=n), 1)
    middle = np.stack([np.bincount(of, x, n) for x in corners.T], axis=1) / count[:, None]
    across = np.eye(3)[np.abs(normals).argmin(1)]
    first = np.cross(normals, across)
    first /= np.maximum(np.linalg.norm(first, axis=1), np.finfo(float).tiny)[:, None]
    size = np.maximum(np.linalg.norm(normals, axis=1), np.finfo(float).tiny)
    second = np.cross(normals / size[:, None], first)
    away = corners - middle[of]
    angle = np.arctan2((away * second[of]).sum(1), (away * first[of]).sum(1))
    order = np.lexsort((angle, of))
    return Polygons(corners[order], of[order])
