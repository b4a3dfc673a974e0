"""Edges in the coordinates in which a Gaussian is standard normal, and integrals along them."""

import math
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr, owens_t

Array = np.ndarray

#: Standard deviations at which a normal density is cut off: less than 1e-18 of its mass is beyond.
CUTOFF_DEVIATIONS = 9.0
#: Gauss rules for edges up to 0.5 and 1.5 standard deviations long, with errors below 1e-13.
SHORT_EDGE_RULES = tuple(
    (length, np.polynomial.legendre.leggauss(n)) for length, n in ((0.5, 5), (1.5, 8))
)


class WhitenedEdges(NamedTuple):
    """Edges in the coordinates in which their component is standard normal; fields are ``(p,)``."""

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
    def between(
        cls, start: tuple[Array, Array], stop: tuple[Array, Array], inverse: tuple[Array, ...]
    ) -> "WhitenedEdges":
        """Whiten edges between points relative to means, by the rows of inverse factors."""
        a, b, c = inverse  # entries of triangular matrices
        x, y = a * start[0], b * start[0] + c * start[1]
        to_x, to_y = a * stop[0], b * stop[0] + c * stop[1]
        along_x, along_y = to_x - x, to_y - y
        length = np.maximum(np.hypot(along_x, along_y), np.finfo(float).tiny)
        along_x /= length
        along_y /= length
        begin, end = x * along_x + y * along_y, to_x * along_x + to_y * along_y
        return cls(along_x, along_y, length, x * along_y - y * along_x, begin, end)

    def turns(self) -> Array:
        """The angles of the edges as seen from the origin, in turns, with the offset's sign."""
        angle = np.arctan2(self.offset * self.length, self.offset**2 + self.begin * self.end)
        # a triangle of height zero is empty
        return np.where(self.offset == 0, 0.0, angle / (2 * math.pi))

    def take(self, index: Array) -> "WhitenedEdges":
        """The edges of an index."""
        return WhitenedEdges(*(t[index] for t in self))


def standard_normal_integrals(edges: WhitenedEdges) -> tuple[Array, Array, Array, Array]:
    """Integrate the standard normal density over edges, and over their triangles with the origin.

    Parameters
    ----------
    edges : WhitenedEdges
        Edges; p is their number.

    Returns
    -------
    triangles : ndarray of shape (p,)
        Masses of the triangles, with the sign of the offsets.
    turns : ndarray of shape (p,)
        Their angles at the origin, in turns, with the same sign.
    line : ndarray of shape (p,)
        Integrals of the density over the edges.
    distance : ndarray of shape (p,)
        Distances of the edges from the origin.
    """
    turns = edges.turns()
    # Beyond the cut-off the mass of a triangle is that of its angle.
    triangles = turns.copy()
    line = np.zeros_like(triangles)
    distance = np.hypot(edges.offset, np.maximum(0.0, np.maximum(edges.begin, -edges.end)))
    close = np.flatnonzero(distance < CUTOFF_DEVIATIONS)
    edges = edges.take(close)
    line[close] = normal_density(edges.offset) * (ndtr(edges.end) - ndtr(edges.begin))
    for longest, rule in SHORT_EDGE_RULES:
        short = edges.length <= longest
        triangles[close[short]] = _triangles_by_quadrature(edges.take(short), *rule)
        close, edges = close[~short], edges.take(~short)
    off = edges.offset != 0
    close, (_, _, _, offset, begin, end) = close[off], edges.take(off)
    with np.errstate(over="ignore"):  # Owen's function of infinite slopes is a quarter
        triangles[close] -= owens_t(offset, end / offset) - owens_t(offset, begin / offset)
    return triangles, turns, line, distance


def _triangles_by_quadrature(edges: WhitenedEdges, nodes: Array, weights: Array) -> Array:
    """Masses of triangles by Gauss quadrature along the edges.

    They are fluxes of ``z (1 - exp(-|z|^2 / 2)) / (2 pi |z|^2)``, whose divergence is the density.
    """
    total, height = np.zeros_like(edges.offset), edges.offset**2 + np.finfo(float).tiny
    for node, weight in zip(nodes, weights, strict=True):
        square = height + (edges.begin + (1 + node) / 2 * edges.length) ** 2
        total -= weight * np.expm1(-square / 2) / square
    return edges.offset * edges.length * total / (4 * math.pi)


def normal_density(t: Array) -> Array:
    """Return the density of the standard normal distribution.

    Parameters
    ----------
    t : ndarray
        Where.

    Returns
    -------
    ndarray
        The density there.
    """
    return np.exp(-(t**2) / 2) / math.sqrt(2 * math.pi)
