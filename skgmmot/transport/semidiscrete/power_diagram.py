"""Power diagrams in a rectangle: the cells of semi-discrete transport in the plane.

The cell of a site ``y_j`` of height ``h_j`` is the set of ``x`` where its plane
``2 <x, y_j> - h_j`` is the highest. With ``h_j = |y_j|^2 - psi_j`` that is where
``|x - y_j|^2 - psi_j`` is smallest, and with equal ``psi`` the cells are Voronoi's. The upper
envelope of the planes is dual to the lower convex hull of the points ``(y_j, h_j)``: a face of the
hull is a corner of the diagram, and an edge between two faces is an edge between two cells.

Four *guards* surround the sites, far outside, with planes below the envelope in the rectangle. So
all corners are finite, and one site, two sites or sites on a line are no special cases.

Cells are given by their edges, since integrals over a cell are fluxes through its boundary (Green's
theorem). Where an edge meets the rectangle, the boundary continues along its walls. Walls are edges
too: from each meeting point a path runs counterclockwise to the lower right corner, so that the
integral over any cell is one signed sum over edges.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.spatial import ConvexHull, QhullError

Array = np.ndarray

#: Outward normals of the right, upper, left and lower wall: the order of a walk counterclockwise.
NORMALS = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])


#: Directions of guards.
GUARDS = np.array([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]])
#: Corners whose owners are found lie inside the rectangle by half of this share of its sides.
CORNER_OFFSET = 1e-9


class Box(NamedTuple):
    """A rectangle with sides along the axes."""

    low: Array
    """The lower left corner, ``(2,)``."""
    high: Array
    """The upper right corner, ``(2,)``."""

    @property
    def corners(self) -> Array:
        """The corners ``(4, 2)``: wall ``i`` ends at corner ``i``, the last one is lower right."""
        (left, bottom), (right, top) = self.low, self.high
        return np.array([[right, top], [left, top], [left, bottom], [right, bottom]])


class PowerDiagram(NamedTuple):
    """The cells of sites in a rectangle, given by directed edges between two cells each.

    Edges ``[:n_interfaces]`` lie between two cells, the others on the walls of the rectangle.
    """

    sites: Array
    """Indices of the sites on the left and on the right of each edge, ``(m, 2)``."""
    start: Array
    """Where each edge starts, ``(m, 2)``."""
    stop: Array
    """Where it ends, ``(m, 2)``."""
    n_interfaces: int
    """Number of edges between two cells."""
    owners: Array
    """Sites whose cells contain the corners of the rectangle, ``(4,)``, as in `Box.corners`."""
    n_sites: int
    """Number of sites n, those with an empty cell included."""
    box: Box
    """The rectangle."""

    def gather(self, flux: Array, whole) -> Array:
        """Sum fluxes through the edges to integrals over the cells.

        Parameters
        ----------
        flux : ndarray of shape (m, ...)
            The flux from left to right through each edge.
        whole : ndarray of shape (...)
            The integral over the whole rectangle.

        Returns
        -------
        ndarray of shape (n, ...)
            The integral over each cell; their sum is ``whole``.
        """
        left, right = self.sites.T
        columns = [
            np.bincount(left, column, self.n_sites) - np.bincount(right, column, self.n_sites)
            for column in flux.reshape(len(flux), math.prod(flux.shape[1:])).T
        ]
        total = np.stack(columns, axis=-1).reshape(self.n_sites, *flux.shape[1:]).astype(float)
        total[self.owners[-1]] += whole
        return total

    def separation(self, sites: Array) -> Array:
        """Distances between the sites beside the edges between two cells, ``(n_interfaces,)``."""
        return np.hypot(*_difference(sites, self.sites[: self.n_interfaces]).T)

    def envelope(self, sites: Array, heights: Array) -> tuple[Array, Array]:
        """The corners of all cells, ``(q, 2)``, and the highest plane there, ``(q,)``."""
        inner = slice(self.n_interfaces)
        corners = np.vstack([self.start[inner], self.stop[inner], self.box.corners])
        owner = np.concatenate([self.sites[inner, 0], self.sites[inner, 0], self.owners])
        return corners, 2 * (corners * sites[owner]).sum(1) - heights[owner]

    def placed(self, unit: float, origin: Array) -> "PowerDiagram":
        """The diagram in other coordinates, ``unit x + origin``."""
        ends = self.start, self.stop, self.box.low, self.box.high
        start, stop, low, high = (unit * end + origin for end in ends)
        return self._replace(start=start, stop=stop, box=Box(low, high))

    def renumbered(self, index: Array, n_sites: int) -> "PowerDiagram":
        """The diagram with other indices of the sites."""
        return self._replace(sites=index[self.sites], owners=index[self.owners], n_sites=n_sites)

    def polygons(self) -> list[Array]:
        """Return the corners of each cell, counterclockwise.

        Returns
        -------
        list of n ndarrays of shape (number of corners, 2)
            ``(0, 2)`` for an empty cell.
        """
        inner = slice(self.n_interfaces)
        owner = np.concatenate([*self.sites[inner].T, *self.sites[inner].T, self.owners])
        ends = self.start[inner], self.start[inner], self.stop[inner], self.stop[inner]
        points = np.vstack([*ends, self.box.corners])
        order = np.argsort(owner, kind="stable")
        cuts = np.searchsorted(owner[order], np.arange(1, self.n_sites))
        return [_convex_order(part) for part in np.split(points[order], cuts)]


def power_diagram(sites: Array, heights: Array, box: Box) -> PowerDiagram:
    """Return the power diagram of sites in a rectangle.

    Parameters
    ----------
    sites : ndarray of shape (n, 2)
        Sites ``y``, anywhere; most accurate if the middle of both sites and box is the origin.
    heights : ndarray of shape (n,)
        Heights ``h``: the cell of ``y_j`` is where ``2 <x, y_j> - h_j`` is highest.
    box : Box
        The rectangle.

    Returns
    -------
    PowerDiagram
        The cells, cut off at the rectangle.

    Notes
    -----
    Costs ``O(n log n)``, nearly all of it in Qhull. Cells may be empty; of sites that coincide,
    only one has a cell.
    """
    corners, pairs = _dual(*guarded(sites, heights, box.corners, GUARDS))
    start, stop = corners[:, 0], corners[:, 1]
    direction, between = stop - start, _difference(sites, pairs)
    # The left site lies a quarter turn counterclockwise from the edge's direction.
    turned = direction[:, 0] * between[:, 1] - direction[:, 1] * between[:, 0] < 0
    pairs[turned] = pairs[turned, ::-1]
    kept, start, stop, entry, exit_ = _clipped(start, stop, box)
    # Slightly inside: at a corner itself an edge along a wall would leave the owner to rounding.
    corners = box.corners + CORNER_OFFSET * (box.low + box.high - 2 * box.corners)
    owners = np.argmax(2 * corners @ sites.T - heights, axis=1)
    inner = pairs[kept]
    walls, wall_start, wall_stop, base = _walls(inner, (start, entry), (stop, exit_), box)
    owners[-1] = owners[-1] if base is None else base
    return PowerDiagram(
        np.vstack([inner, walls]),
        np.vstack([start, wall_start]),
        np.vstack([stop, wall_stop]),
        len(inner),
        owners,
        len(sites),
        box,
    )


def guarded(sites: Array, heights: Array, corners: Array, directions: Array) -> tuple[Array, Array]:
    """Append guards, far sites whose planes are below the envelope everywhere in a box.

    Parameters
    ----------
    sites : ndarray of shape (n, d)
        Sites.
    heights : ndarray of shape (n,)
        Their heights.
    corners : ndarray of shape (2^d, d)
        The corners of the box.
    directions : ndarray of shape (g, d)
        Where the guards are, seen from the origin.

    Returns
    -------
    sites : ndarray of shape (n + g, d)
        All sites, guards last.
    heights : ndarray of shape (n + g,)
        Their heights.
    """
    extent = np.abs(corners).max(0).sum()
    # A lower bound of the envelope: the largest, over planes, of their minima over the corners.
    lowest = (2 * sites @ corners.T - heights[:, None]).min(1).max()
    reach = 1.5 * (np.abs(sites).max() or 1.0)
    below = np.full(len(directions), 2.2 * reach * extent - lowest)
    return np.vstack([sites, reach * directions]), np.append(heights, below)


def _dual(sites: Array, heights: Array) -> tuple[Array, Array]:
    """Compute the edges of the diagram from the convex hull: ends ``(m, 2, 2)``, sites ``(m, 2)``.

    Guards are the last four sites; edges beside one are left out.
    """
    units = np.abs(sites).max(), np.abs(heights).max() or 1.0
    hull = convex_hull(np.column_stack([sites / units[0], heights / units[1]]))
    normals = hull.equations[:, :3]
    lower = normals[:, 2] < 0
    # A face lies on the plane h = 2 <v, y> - const, and v is its corner of the diagram.
    v = normals[:, :2] / np.where(lower, -2 * normals[:, 2], 1.0)[:, None] * (units[1] / units[0])
    face, opposite = np.nonzero(
        lower[:, None] & lower[hull.neighbors] & (hull.neighbors > np.arange(len(lower))[:, None])
    )
    others = np.array([[1, 2], [0, 2], [0, 1]])[opposite]
    pairs = np.take_along_axis(hull.simplices[face], others, axis=1).astype(np.intp)
    corners = v[np.column_stack([face, hull.neighbors[face, opposite]])]
    # edges beside a guard lie outside the rectangle
    real = (pairs < len(sites) - 4).all(1) & (corners[:, 0] != corners[:, 1]).any(1)
    return corners[real], pairs[real]


def convex_hull(points: Array) -> ConvexHull:
    """Compute a convex hull with simplices as faces.

    Parameters
    ----------
    points : ndarray of shape (n, d + 1)
        Sites and heights.

    Returns
    -------
    scipy.spatial.ConvexHull
        The hull.

    Raises
    ------
    ArithmeticError
        If the points are flat.
    """
    # Nearly coplanar faces need not be merged, since edges between them have nearly no length (Q0).
    # Where rounding makes the hull concave they must be merged (Qt), and where all points are
    # nearly coplanar Qhull perturbs them (QJ).
    for options in ("Qt Q0", "Qt", "QJ"):
        try:
            return ConvexHull(points, qhull_options=options)
        except QhullError as error:
            failure = error
    raise ArithmeticError(
        "sites and heights must span a power diagram, got a flat one. Merge points that are nearly "
        "equal, or leave out one far from all others."
    ) from failure


def _difference(sites: Array, pairs: Array) -> Array:
    """The vectors from the second to the first site of each pair."""
    return sites[pairs[:, 0]] - sites[pairs[:, 1]]


def _clipped(start: Array, stop: Array, box: Box):
    """Clip edges to the rectangle.

    Returns the indices of the edges that remain, their ends, and the walls at which they enter and
    leave the rectangle (-1: none).
    """
    low, high = box.low, box.high
    # an edge on a wall has nothing on its other side
    inner = np.flatnonzero(~((start == stop) & ((start == low) | (start == high))).any(1))
    start, stop = start[inner], stop[inner]
    points, low, high = np.hstack([start, stop]), np.tile(low, 2), np.tile(high, 2)
    crossing = np.flatnonzero(((points < low) | (points > high)).any(1))
    inside = np.delete(np.arange(len(start)), crossing)
    some, *cut = _clip(start[crossing], stop[crossing], box)
    none = np.full(len(inside), -1)
    whole = inside, start[inside], stop[inside], none, none
    parts = zip(whole, (crossing[some], *cut), strict=True)
    kept, *ends = (np.concatenate(part) for part in parts)
    return inner[kept], *ends


def _clip(start: Array, stop: Array, box: Box):
    """Clip edges of which a part is outside the rectangle; returns what `_clipped` does."""
    offsets = np.concatenate([box.high, -box.low])
    # Signed distances inside each wall, (m, 4), equal at a corner for all edges that share it.
    before, after = offsets - start @ NORMALS.T, offsets - stop @ NORMALS.T
    with np.errstate(divide="ignore", invalid="ignore"):
        crossing = before / (before - after)
    enters = np.where(before < 0, np.where(after < 0, np.inf, crossing), 0.0)
    leaves = np.where(after < 0, np.where(before < 0, -np.inf, crossing), 1.0)
    first, last = enters.max(1), leaves.min(1)
    kept = np.flatnonzero(first < last)
    entry = np.where(first[kept] > 0, enters[kept].argmax(1), -1)
    exit_ = np.where(last[kept] < 1, leaves[kept].argmin(1), -1)
    start, direction = start[kept], (stop - start)[kept]
    new_start = _on_wall(start + first[kept, None] * direction, entry, box)
    new_stop = np.where(exit_[:, None] < 0, stop[kept], start + last[kept, None] * direction)
    return kept, new_start, _on_wall(new_stop, exit_, box), entry, exit_


def _on_wall(points: Array, wall: Array, box: Box) -> Array:
    """Snap points to their walls, to undo rounding."""
    points = points.clip(box.low, box.high)
    met = np.flatnonzero(wall >= 0)
    axis = wall[met] % 2
    points[met, axis] = np.where(wall[met] < 2, box.high[axis], box.low[axis])
    return points


def _walls(pairs: Array, entries, exits, box: Box):
    """Paths along the walls from where edges meet them, and the cell at their common end.

    At an exit, the cell on the left continues counterclockwise; at an entry, the one on the right.
    """
    (start, entry), (stop, exit_) = entries, exits
    out, into = exit_ >= 0, entry >= 0
    points = np.vstack([stop[out], start[into]])
    wall = np.concatenate([exit_[out], entry[into]])
    sites = np.vstack([pairs[out], pairs[into, ::-1]])
    if not len(points):
        return sites, points, points, None
    corners = box.corners
    paths = []
    for side in range(4):
        here, passing = wall == side, wall <= side
        begin = np.where(here[:, None], points, corners[side - 1])[passing]
        paths.append((sites[passing], begin, np.broadcast_to(corners[side], begin.shape)))
    # Counterclockwise from the last corner, the cell before the first meeting point contains it.
    along = np.abs(points - corners[wall - 1]).sum(1)
    base = sites[np.lexsort((along, wall))[0], 1]
    return *(np.vstack(part) for part in zip(*paths, strict=True)), base


def _convex_order(points: Array) -> Array:
    """The corners of a convex polygon, counterclockwise, each once."""
    if not len(points):
        return points
    points = np.unique(points, axis=0)
    dx, dy = (points - points.mean(0)).T
    return points[np.argsort(np.arctan2(dy, dx))]
