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
from scipy.special import ndtr, owens_t

from skgmmot.transport.semidiscrete.power_diagram import Box, PowerDiagram, power_diagram

Array = np.ndarray

#: Standard deviations at which a normal density is cut off: less than 1e-18 of its mass is beyond.
CUTOFF_DEVIATIONS = 9.0
#: Nodes of the two-point Gauss rule on [0, 1], exact for cubic polynomials.
GAUSS_NODES = np.array([0.5 - math.sqrt(1 / 12), 0.5 + math.sqrt(1 / 12)])
#: Gauss rules for edges up to 0.5 and 1.5 standard deviations long, with errors below 1e-13.
SHORT_EDGE_RULES = tuple(
    (length, np.polynomial.legendre.leggauss(n)) for length, n in ((0.5, 5), (1.5, 8))
)


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
        self._cached: tuple[PowerDiagram, WhitenedEdges, Array, Array] | None = None

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
        white, triangles, line = self._whitened(diagram)
        masses = diagram.gather(self.weights @ triangles, 1.0)
        length = np.hypot(*(diagram.stop - diagram.start).T)
        scale = self.weights / np.linalg.det(self.factors)
        along = scale @ (line * length / white.length)
        return masses, along[: diagram.n_interfaces]

    def moments(self, diagram: PowerDiagram) -> Array:
        """First moments ``int x rho`` of the cells, ``(n, 2)``."""
        return np.tensordot(self.weights, self.component_moments(diagram)[1], axes=1)

    def component_moments(self, diagram: PowerDiagram) -> tuple[Array, Array]:
        """Masses ``(K, n)`` and first moments ``int x g_k (K, n, 2)`` of the cells."""
        white, triangles, line = self._whitened(diagram)
        mass = np.stack([diagram.gather(flux, 1.0) for flux in triangles])
        # int z phi = -oint phi n, with n pointing outwards: to the right of an edge
        flux = np.stack([-line * white.along_y, line * white.along_x], axis=-1)
        first = np.stack([diagram.gather(f, np.zeros(2)) for f in flux])  # of z
        return mass, first @ self.factors.mT + mass[..., None] * self.means[:, None]

    def _whitened(self, diagram: PowerDiagram) -> tuple["WhitenedEdges", Array, Array]:
        """Edges whitened by each component, masses of their triangles, and line integrals.

        Those of the last diagram are cached, since moments are computed right after masses.
        """
        if self._cached is None or self._cached[0] is not diagram:
            inverse = np.linalg.inv(self.factors)
            edges = WhitenedEdges.between(
                *((ends - self.means[:, None]).transpose(2, 0, 1) for ends in diagram[1:3]), inverse
            )
            self._cached = diagram, edges, *_standard_normal_integrals(edges)
        return self._cached[1:]


class WhitenedEdges(NamedTuple):
    """Edges in the coordinates in which a component is standard normal; fields are ``(K, m)``."""

    along_x: Array
    """First coordinate of the unit vector along the edge."""
    along_y: Array
    """Second coordinate; the normal ``(along_y, -along_x)`` points to the edge's right."""
    length: Array
    """Lengths."""
    offset: Array
    """Signed distance of the line from the origin, positive if the origin is on its left."""
    begin: Array
    """Coordinate of the edge's start along its line, from the foot of the perpendicular."""
    end: Array
    """Coordinate of its end."""

    @classmethod
    def between(cls, start: Array, stop: Array, inverse: Array) -> "WhitenedEdges":
        """Whiten edges between points ``(2, K, m)`` relative to the means, by inverse factors."""
        a, b, c = (inverse[:, i, j, None] for i, j in ((0, 0), (1, 0), (1, 1)))  # triangular
        x, y = a * start[0], b * start[0] + c * start[1]
        to_x, to_y = a * stop[0], b * stop[0] + c * stop[1]
        along_x, along_y = to_x - x, to_y - y
        length = np.maximum(np.hypot(along_x, along_y), np.finfo(float).tiny)
        along_x /= length
        along_y /= length
        begin, end = x * along_x + y * along_y, to_x * along_x + to_y * along_y
        return cls(along_x, along_y, length, x * along_y - y * along_x, begin, end)

    def flat(self) -> "WhitenedEdges":
        """The fields flattened over components, ``(K m,)``."""
        return WhitenedEdges(*(t.ravel() for t in self))

    def take(self, index: Array) -> "WhitenedEdges":
        """The edges of an index."""
        return WhitenedEdges(*(t[index] for t in self))


def _standard_normal_integrals(edges: WhitenedEdges) -> tuple[Array, Array]:
    """Masses of the triangles between edges and the origin, and line integrals over the edges.

    Masses of triangles have the sign of the offsets.
    """
    edges, shape = edges.flat(), edges.offset.shape
    # Beyond the cut-off the mass of a triangle is that of its angle.
    angle = np.arctan2(edges.offset * edges.length, edges.offset**2 + edges.begin * edges.end)
    # a triangle of height zero is empty
    triangles = np.where(edges.offset == 0, 0.0, angle / (2 * math.pi))
    line = np.zeros_like(triangles)
    distance = np.hypot(edges.offset, np.maximum(0.0, np.maximum(edges.begin, -edges.end)))
    close = np.flatnonzero(distance < CUTOFF_DEVIATIONS)
    edges = edges.take(close)
    line[close] = _normal(edges.offset) * (ndtr(edges.end) - ndtr(edges.begin))
    for longest, rule in SHORT_EDGE_RULES:
        short = edges.length <= longest
        triangles[close[short]] = _triangles_by_quadrature(edges.take(short), *rule)
        close, edges = close[~short], edges.take(~short)
    off = edges.offset != 0
    close, (_, _, _, offset, begin, end) = close[off], edges.take(off)
    with np.errstate(over="ignore"):  # Owen's function of infinite slopes is a quarter
        triangles[close] -= owens_t(offset, end / offset) - owens_t(offset, begin / offset)
    return triangles.reshape(shape), line.reshape(shape)


def _triangles_by_quadrature(edges: WhitenedEdges, nodes: Array, weights: Array) -> Array:
    """Masses of triangles by Gauss quadrature along the edges.

    They are fluxes of ``z (1 - exp(-|z|^2 / 2)) / (2 pi |z|^2)``, whose divergence is the density.
    """
    total, height = np.zeros_like(edges.offset), edges.offset**2 + np.finfo(float).tiny
    for node, weight in zip(nodes, weights, strict=True):
        square = height + (edges.begin + (1 + node) / 2 * edges.length) ** 2
        total -= weight * np.expm1(-square / 2) / square
    return edges.offset * edges.length * total / (4 * math.pi)


def _normal(t: Array) -> Array:
    """The density of the standard normal distribution."""
    return np.exp(-(t**2) / 2) / math.sqrt(2 * math.pi)
