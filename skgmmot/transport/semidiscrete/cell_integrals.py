"""Integrals of densities in the plane over the cells of a power diagram, in closed form.

Two densities of mass one, both with their mean at the origin:

- `GridIntegrals`, constant on each pixel of an image. The flux of ``f rho`` through an edge is
  ``int F dy`` with ``F(x, y) = int_{-inf}^x f rho ds``. The edge is cut where it meets lines
  between pixels, and on each piece ``F`` is a polynomial.
- `MixtureIntegrals`, a Gaussian mixture. In coordinates in which a component is standard normal, an
  edge and the origin form a triangle, whose mass is an angle minus two values of Owen's function
  or, for a short edge, a smooth integral for which a few Gauss nodes suffice. First moments are
  line integrals of the density, by parts.

Both are a `PlaneDensity`. For derivatives in the density there are also `GridIntegrals.potential`
and `MixtureIntegrals.component_moments`. Arrays are numpy's, in float64.
"""

import math
from typing import NamedTuple

import numpy as np

from skgmmot.transport.semidiscrete.power_diagram import Box, PowerDiagram, power_diagram
from skgmmot.transport.semidiscrete.whitened_edges import (
    CUTOFF_DEVIATIONS,
    WhitenedEdges,
    standard_normal_integrals,
)

Array = np.ndarray

#: Deviations from an edge below which a mean is taken to be on it.
ON_EDGE = 1e-6
#: Rounding of places, relative to the rectangle.
ROUNDING = 1e-13
#: Nodes of the two-point Gauss rule on [0, 1], exact for cubic polynomials.
GAUSS_NODES = np.array([0.5 - math.sqrt(1 / 12), 0.5 + math.sqrt(1 / 12)])


class GridIntegrals:
    """Integrals over cells of a density that is constant on the pixels of a grid.

    Parameters
    ----------
    values : ndarray of shape (rows, columns)
        Density of each pixel, of total mass one; rows run upwards.
    box : Box
        The rectangle that the grid covers.
    """

    def __init__(self, values: Array, box: Box):
        self.values, self.box = values, box
        self.shape = np.array(values.shape[::-1])  # as coordinates: columns first
        self.pixel = (box.high - box.low) / self.shape
        # mass per unit of height, left of each pixel in its row
        self._left = self.pixel[0] * (np.cumsum(values, axis=1) - values)

    def centred(self) -> tuple["GridIntegrals", Array]:
        """The same density with its mean at the origin, and its mean."""
        mass = self.values * self.pixel.prod()
        mean = np.array([mass.sum(0) @ self.centres(0), mass.sum(1) @ self.centres(1)])
        return GridIntegrals(self.values, Box(self.box.low - mean, self.box.high - mean)), mean

    def covariance(self) -> Array:
        """The covariance ``(2, 2)`` of the density, whose mean must be the origin."""
        x, y = self.centres(0), self.centres(1)
        mass = self.values * self.pixel.prod()
        mixed = y @ mass @ x
        squares = mass.sum(0) @ x**2, mass.sum(1) @ y**2
        return np.array([[squares[0], mixed], [mixed, squares[1]]]) + np.diag(self.pixel**2) / 12

    def blurred(self, share: float) -> "GridIntegrals":
        """The density mixed, with weight ``share``, with the uniform density on the box."""
        even = 1 / np.prod(self.box.high - self.box.low)
        return GridIntegrals((1 - share) * self.values + share * even, self.box)

    def nodes(self, n: int) -> tuple[Array, Array]:
        """At least ``n`` points that approximate the density, and their positive masses."""
        fine = math.ceil(math.sqrt(n / np.count_nonzero(self.values)))
        each = (np.arange(fine) + 0.5) / fine
        row, column = (np.add.outer(k, each) for k in map(np.arange, self.values.shape))
        x, y = (t.ravel() * size for t, size in zip((column, row), self.pixel, strict=True))
        mass = np.repeat(np.repeat(self.values, fine, axis=0), fine, axis=1).ravel()
        places = self.box.low + np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
        used = mass > 0
        return places[used], mass[used] / mass.sum()

    def diagram(self, sites: Array, heights: Array) -> PowerDiagram:
        """The power diagram of sites of some heights, in the box."""
        return power_diagram(sites, heights, self.box)

    def measure(self, diagram: PowerDiagram) -> tuple[Array, Array]:
        """Masses of the cells ``(n,)``, and line integrals over the edges between them ``(m,)``."""
        pieces = self._cut(diagram)
        middle = pieces.at(0.5)
        value, left = self._look_up(pieces)
        flux = pieces.rise * (left + value * (middle[:, 0] - pieces.low[:, 0]))
        through = np.bincount(pieces.edge, flux, len(diagram.sites))
        along = np.bincount(pieces.edge, value * pieces.length, len(diagram.sites))
        return diagram.gather(through, 1.0), along[: diagram.n_interfaces]

    def moments(self, diagram: PowerDiagram) -> Array:
        """First moments ``int x rho`` of the cells, ``(n, 2)``."""
        pieces = self._cut(diagram)
        value, left = self._look_up(pieces)
        centres = self.centres(0) * self.values * self.pixel[0]
        left_x = (np.cumsum(centres, axis=1) - centres)[tuple(pieces.pixel.T[::-1])]
        flux = np.zeros((len(value), 2))
        for x, y in (pieces.at(t).T for t in GAUSS_NODES):
            inside = x - pieces.low[:, 0]
            flux[:, 0] += left_x + value * inside * (x + pieces.low[:, 0]) / 2
            flux[:, 1] += (left + value * inside) * y
        flux *= pieces.rise[:, None] / 2
        through = [np.bincount(pieces.edge, part, len(diagram.sites)) for part in flux.T]
        return diagram.gather(np.stack(through, axis=1), np.zeros(2))

    def potential(self, diagram: PowerDiagram, sites: Array, heights: Array) -> Array:
        """Integrals over each pixel of ``min_j |x|^2 - 2 <x, y_j> + h_j``: ``(rows, columns)``.

        In a row, the minimum is that of the rightmost cell plus a jump, linear in x, at each edge
        further right: on the pixels left of an edge's own, whole; on its own, up to the edge.
        """
        pieces = self._cut(diagram)
        left, right = diagram.sites[pieces.edge].T
        slope_x, slope_y = (-2 * (sites[left] - sites[right])).T
        jump = heights[left] - heights[right]
        level = pieces.rise * (jump + slope_y * pieces.at(0.5)[:, 1])
        row, column = pieces.pixel[:, 1], pieces.pixel[:, 0]
        whole = (
            self._sum_right_of_pixels(row, column, level),
            self._sum_right_of_pixels(row, column, pieces.rise * slope_x),
        )
        own = np.zeros(len(level))
        for x, y in (pieces.at(t).T for t in GAUSS_NODES):
            inside = x - pieces.low[:, 0]
            own += inside * (jump + slope_y * y + slope_x * (x + pieces.low[:, 0]) / 2)
        own *= pieces.rise / 2
        size = self.values.size
        partial = np.bincount(row * self.shape[0] + column, own, size).reshape(self.values.shape)
        x, y = self.centres(0), self.centres(1)[:, None]
        base, height = sites[diagram.owners[-1]], heights[diagram.owners[-1]]
        squares = x**2 + y**2 + (self.pixel**2).sum() / 12
        last = (squares - 2 * (base[0] * x + base[1] * y) + height) * self.pixel.prod()
        return last + self.pixel[0] * (whole[0] + whole[1] * x) + partial

    def _sum_right_of_pixels(self, row: Array, column: Array, amount: Array) -> Array:
        """Sums over all pieces further right in the same row, ``(rows, columns)``."""
        size = self.values.size
        summed = np.bincount(row * self.shape[0] + column, amount, size).reshape(self.values.shape)
        return np.cumsum(summed[:, ::-1], axis=1)[:, ::-1] - summed

    def centres(self, axis: int) -> Array:
        """One coordinate of the pixels' centres: x for axis 0, y for axis 1."""
        return self.box.low[axis] + (np.arange(self.shape[axis]) + 0.5) * self.pixel[axis]

    def _look_up(self, pieces: "EdgePieces") -> tuple[Array, Array]:
        """The value of each piece's pixel, and the mass per unit of height left of it."""
        index = tuple(pieces.pixel.T[::-1])
        return self.values[index], self._left[index]

    def _cut(self, diagram: PowerDiagram) -> "EdgePieces":
        """Cut the edges where they meet the lines between pixels."""
        start = (diagram.start - self.box.low) / self.pixel
        stop = (diagram.stop - self.box.low) / self.pixel
        # Nothing flows through horizontal walls or the left one.
        passive = (start[:, 1] == stop[:, 1]) | ((start[:, 0] == 0) & (stop[:, 0] == 0))
        passive[: diagram.n_interfaces] = False
        used = np.flatnonzero(~passive)
        start, stop = start[used], stop[used]
        edge, begin, end = edge_crossings(start, stop)
        step = stop[edge] - start[edge]
        middle = start[edge] + ((begin + end) / 2)[:, None] * step
        pixel = np.clip(middle.astype(np.intp), 0, self.shape - 1)
        span = (end - begin)[:, None] * step * self.pixel
        first = self.box.low + (start[edge] + begin[:, None] * step) * self.pixel
        return EdgePieces(used[edge], first, span, pixel, self.box.low + pixel * self.pixel)


class EdgePieces(NamedTuple):
    """Edges cut into pieces at the lines between pixels."""

    edge: Array
    """Index of each piece's edge, ``(p,)``."""
    first: Array
    """Its start, ``(p, 2)``."""
    span: Array
    """The vector from its start to its end, ``(p, 2)``."""
    pixel: Array
    """Column and row of its pixel, ``(p, 2)``."""
    low: Array
    """Lower left corner of its pixel, ``(p, 2)``."""

    def at(self, t: float) -> Array:
        """The points ``first + t span`` of the pieces, ``(p, 2)``."""
        return self.first + t * self.span

    @property
    def rise(self) -> Array:
        """Change of height along each piece, ``(p,)``."""
        return self.span[:, 1]

    @property
    def length(self) -> Array:
        """Lengths of the pieces, ``(p,)``."""
        return np.hypot(*self.span.T)


def edge_crossings(start: Array, stop: Array) -> tuple[Array, Array, Array]:
    """Cut edges at integer coordinates.

    Parameters
    ----------
    start, stop : ndarray of shape (n_edges, 2)
        The ends of each edge.

    Returns
    -------
    edge : ndarray of shape (n_pieces,)
        The edge of each piece, along the edges in their order.
    begin, end : ndarray of shape (n_pieces,)
        The parameters in [0, 1] at which a piece begins and ends on its edge.
    """
    low, high = np.minimum(start, stop), np.maximum(start, stop)
    first = np.floor(low) + 1
    counts = np.maximum(np.ceil(high) - first, 0).astype(np.intp)
    edges, shares = [np.arange(len(start))], [np.zeros(len(start))]
    for axis in (0, 1):
        edge = np.repeat(np.arange(len(start)), counts[:, axis])
        before = np.cumsum(counts[:, axis]) - counts[:, axis]
        line = first[edge, axis] + np.arange(len(edge)) - before[edge]
        edges.append(edge)
        shares.append((line - start[edge, axis]) / (stop[edge, axis] - start[edge, axis]))
    edge, begin = np.concatenate(edges), np.concatenate(shares)
    order = np.argsort(edge + begin / 2)  # by edge, then along it
    edge, begin = edge[order], begin[order]
    end = np.append(begin[1:], 1.0)
    end[:-1][edge[1:] != edge[:-1]] = 1.0
    return edge, begin, end


class MixtureIntegrals:
    """Integrals over cells of a Gaussian mixture in the plane.

    Parameters
    ----------
    weights : ndarray of shape (K,)
        Weights, of sum one.
    means : ndarray of shape (K, 2)
        Means.
    covariances : ndarray of shape (K, 2, 2)
        Covariances, positive definite.
    """

    def __init__(self, weights: Array, means: Array, covariances: Array):
        self.weights, self.means, self.covariances = weights, means, covariances
        self.factors = np.linalg.cholesky(covariances)
        reach = CUTOFF_DEVIATIONS * np.sqrt(np.diagonal(covariances, axis1=1, axis2=2))
        self.box = Box((means - reach).min(0), (means + reach).max(0))
        # of places, in units of each component's smallest deviation or of less
        size = np.abs([self.box.low, self.box.high]).max()
        self._rounding = ROUNDING * size * np.abs(np.linalg.inv(self.factors)).sum((1, 2))
        self._cached: tuple[PowerDiagram, NearEdges] | None = None

    def centred(self) -> tuple["MixtureIntegrals", Array]:
        """The same density with its mean at the origin, and its mean."""
        mean = self.weights @ self.means
        return type(self)(self.weights, self.means - mean, self.covariances), mean

    def covariance(self) -> Array:
        """The covariance ``(2, 2)`` of the density, whose mean must be the origin."""
        within = np.tensordot(self.weights, self.covariances, axes=1)
        return within + (self.weights * self.means.T) @ self.means

    def blurred(self, share: float) -> "MixtureIntegrals":
        """The mixture with a share of its whole covariance added to every component's."""
        wider = self.covariances + share * self.covariance()
        return type(self)(self.weights, self.means, wider)

    def nodes(self, n: int) -> tuple[Array, Array]:
        """At least ``n`` points that approximate the density, and their positive masses."""
        used = self.weights > 0
        each = math.ceil(n / np.count_nonzero(used))
        radius = np.sqrt(-2 * np.log1p(-(np.arange(each) + 0.5) / each))
        angle = math.pi * (3 - math.sqrt(5)) * np.arange(each)  # Vogel's spiral
        z = radius * np.stack([np.cos(angle), np.sin(angle)])  # (2, each)
        places = self.means[used, None] + (self.factors[used] @ z).transpose(0, 2, 1)
        return places.reshape(-1, 2), np.repeat(self.weights[used] / each, each)

    def diagram(self, sites: Array, heights: Array) -> PowerDiagram:
        """The power diagram of sites of some heights, in the box."""
        return power_diagram(sites, heights, self.box)

    def measure(self, diagram: PowerDiagram) -> tuple[Array, Array]:
        """Masses of the cells ``(n,)``, and line integrals over the edges between them ``(m,)``."""
        near = self.near(diagram)
        masses = diagram.gather(self.weights @ near.fluxes, 1.0)
        scale = self.weights / np.linalg.det(self.factors)
        stretched = near.spread(near.line / near.white.length)
        along = scale @ stretched * np.hypot(*(diagram.stop - diagram.start).T)
        return masses, along[: diagram.n_interfaces]

    def moments(self, diagram: PowerDiagram) -> Array:
        """First moments ``int x rho`` of the cells, ``(n, 2)``."""
        return np.tensordot(self.weights, self.component_moments(diagram)[1], axes=1)

    def component_moments(self, diagram: PowerDiagram) -> tuple[Array, Array]:
        """Masses ``(K, n)`` and first moments ``int x g_k (K, n, 2)`` of the cells."""
        near = self.near(diagram)
        mass = np.stack([diagram.gather(flux, 1.0) for flux in near.fluxes])
        # int z phi = -oint phi n, with n pointing outwards: to the right of an edge
        normal = -near.line * near.white.along_y, near.line * near.white.along_x
        flux = np.stack([near.spread(part) for part in normal], axis=-1)
        first = np.stack([diagram.gather(f, np.zeros(2)) for f in flux])  # of z
        return mass, first @ self.factors.mT + mass[..., None] * self.means[:, None]

    def near(self, diagram: PowerDiagram) -> "NearEdges":
        """The edges near each component, with their integrals.

        Those of the last diagram are cached, since moments are computed right after masses.
        """
        if self._cached is None or self._cached[0] is not diagram:
            self._cached = diagram, self._integrated(diagram)
        return self._cached[1]

    def _integrated(self, diagram: PowerDiagram) -> "NearEdges":
        """Integrate over the edges near each component.

        The mass of a far triangle is its angle, as seen from the mean. All angles around a cell sum
        to one turn if the mean is inside and else to none. So do those of edges that cross a ray
        from the mean, if each counts as a turn: they stand for the far ones.
        """
        near = self._within_reach(diagram)
        white = self._whitened(diagram, near)
        triangles, turns, line, distance = standard_normal_integrals(white)
        fluxes = self._crossings(diagram)
        fluxes[near] += triangles - turns
        # a mean on an edge is on either side of it, by rounding: its angles are all kept
        on_edge = self._rounding > 1.0
        on_edge[near[0][distance < np.maximum(self._rounding, ON_EDGE)[near[0]]]] = True
        if on_edge.any():
            every = np.nonzero(np.broadcast_to(on_edge[:, None], fluxes.shape))
            fluxes[every] = self._whitened(diagram, every).turns()
            held = on_edge[near[0]]
            fluxes[near[0][held], near[1][held]] = triangles[held]
        return NearEdges(near, white, fluxes, line)

    def _within_reach(self, diagram: PowerDiagram) -> tuple[Array, Array]:
        """Components and edges whose rectangles meet, that of a component up to the cut-off."""
        found = True
        ends = zip(diagram.start.T, diagram.stop.T, strict=True)
        reach = CUTOFF_DEVIATIONS * np.sqrt(np.diagonal(self.covariances, axis1=1, axis2=2))
        for (start, stop), mean, width in zip(ends, self.means.T, reach.T, strict=True):
            low, high = np.minimum(start, stop), np.maximum(start, stop)
            found = found & (low < (mean + width)[:, None]) & (high > (mean - width)[:, None])
        return np.nonzero(found)

    def _crossings(self, diagram: PowerDiagram) -> Array:
        """How each edge crosses the ray to the right of each mean, ``(K, m)``: 1 upwards, or -1."""
        (x, y), (to_x, to_y) = diagram.start.T, diagram.stop.T
        height = self.means[:, 1, None]
        crosses = (y > height) != (to_y > height)
        k, edge = np.nonzero(crosses)
        x, y, to_x, to_y = (t[edge] for t in (x, y, to_x, to_y))
        left = (to_x - x) * (self.means[k, 1] - y) - (to_y - y) * (self.means[k, 0] - x)
        upwards = to_y > y
        turns = np.zeros(crosses.shape)
        turns[k, edge] = np.where((left > 0) == upwards, np.where(upwards, 1.0, -1.0), 0.0)
        return turns

    def _whitened(self, diagram: PowerDiagram, pairs: tuple[Array, Array]) -> "WhitenedEdges":
        """Edges whitened by components."""
        k, edge = pairs
        inverse = np.linalg.inv(self.factors)
        x, y = (mean[k] for mean in self.means.T)
        start, stop = (
            (end[:, 0][edge] - x, end[:, 1][edge] - y) for end in (diagram.start, diagram.stop)
        )
        # triangular
        a, b, c = (inverse[:, i, j][k] for i, j in ((0, 0), (1, 0), (1, 1)))
        return WhitenedEdges.between(start, stop, (a, b, c))


class NearEdges(NamedTuple):
    """Pairs of a component and an edge that may be near each other, with their integrals."""

    pairs: tuple[Array, Array]
    """Component and edge of each of p pairs."""
    white: "WhitenedEdges"
    """The edges, whitened by the component."""
    fluxes: Array
    """Fluxes through all edges, ``(K, m)``, whose sums over the edges of a cell are its masses."""
    line: Array
    """Line integrals over the edges, ``(p,)``; those of all others are zero."""

    def spread(self, values: Array) -> Array:
        """Values of the pairs as ``(K, m)``, zero elsewhere."""
        table = np.zeros(self.fluxes.shape)
        table[self.pairs] = values
        return table
