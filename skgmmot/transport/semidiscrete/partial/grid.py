"""Integrals of the density of an image over polygons cut by discs.

By Green's theorem an integral of ``f rho`` is the flux ``int F dy`` through the boundary, with
``F(x, y) = int_{y_j}^x f rho ds`` from the column of the cell's site. Coordinates are relative to
the site, so that integrals over small discs are accurate relative to their size. Segments and arcs
are cut where they meet lines between pixels. On each piece F is a polynomial in the coordinates:
Gauss rules are exact on segments, and on arcs of at most a quarter of a turn, whose integrands are
trigonometric polynomials of degree four, their error is below rounding.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from skgmmot.transport.semidiscrete.cell_integrals import (
    GAUSS_NODES,
    GridIntegrals,
    edge_crossings,
)
from skgmmot.transport.semidiscrete.partial.outlines import Arcs, Segments, outlines, quarter_arcs
from skgmmot.transport.semidiscrete.power_diagram import PowerDiagram

Array = np.ndarray

#: Gauss rule on [0, 1] for arcs of up to a quarter of a turn.
ARC_RULE = tuple(
    (t + 1) / 2 if k == 0 else t / 2 for k, t in enumerate(np.polynomial.legendre.leggauss(10))
)


class Nodes(NamedTuple):
    """One node of a quadrature rule on each piece of the boundaries."""

    cell: Array
    """The cell around which the boundary runs, ``(p,)``."""
    site: Array
    """Its site, ``(p, 2)``."""
    x: Array
    """First coordinate, relative to the site."""
    y: Array
    """Second coordinate, relative to the site."""
    dy: Array
    """The weight of the rule times the derivative of y along the piece."""
    pixel: tuple[Array, Array]
    """Row and column of the piece's pixel, counted from 1; 0 and the last are outside the image."""


class DiscIntegrals:
    """Integrals over cells cut by discs of a density that is constant on the pixels of a grid.

    Parameters
    ----------
    grid : GridIntegrals
        The density.
    """

    def __init__(self, grid: GridIntegrals):
        self.grid, self.box, self.pixel = grid, grid.box, grid.pixel
        columns = grid.box.low[0] + np.arange(grid.shape[0] + 1) * grid.pixel[0]
        # ``int s^k ds`` over the columns, for k = 0, 1, 2
        self.powers = [np.diff(columns ** (k + 1)) / (k + 1) for k in range(3)]
        self.value = np.pad(grid.values, 1)
        self.low = np.concatenate([[0.0], columns])  # left of the image F is zero
        self.left = [
            np.pad(np.cumsum(grid.values * power, axis=1), ((1, 1), (2, 0)))
            for power in self.powers
        ]

    def measure(
        self, diagram: PowerDiagram, sites: Array, potentials: Array
    ) -> tuple[Array, Array, Array]:
        """Masses of the cells, and integrals over straight edges and circles.

        Parameters
        ----------
        diagram : PowerDiagram
            The cells before they are cut.
        sites : ndarray of shape (n, 2)
            Their sites.
        potentials : ndarray of shape (n,)
            Squared radii of the discs.

        Returns
        -------
        masses : ndarray of shape (n,)
            Masses of the cells.
        along : ndarray of shape (n_interfaces,)
            Integrals of the density over the edges between two cells, inside the discs.
        around : ndarray of shape (n,)
            Integrals over the arcs.
        """
        n = len(sites)
        segments, arcs = self._pieces(*outlines(diagram, sites, potentials))
        masses = np.zeros(n)
        for nodes in self._nodes(segments, arcs, sites):
            masses += np.bincount(nodes.cell, self._along_row(nodes, 0) * nodes.dy, n)
        (straight, pixel), (round_, at) = segments, arcs
        amount = self.value[pixel] * np.hypot(*(straight.stop - straight.start).T)
        used = straight.edge >= 0
        along = np.bincount(straight.edge[used], amount[used], diagram.n_interfaces)
        around = np.bincount(round_.cell, self.value[at] * round_.radius * round_.angle, n)
        return masses, along, around

    def moments(
        self, diagram: PowerDiagram, sites: Array, potentials: Array
    ) -> tuple[Array, Array, Array]:
        """Masses ``(n,)`` and, about the sites, first ``(n, 2)`` and second moments ``(n,)``."""
        n = len(sites)
        total = np.zeros((4, n))
        for nodes in self._nodes(*self._pieces(*outlines(diagram, sites, potentials)), sites):
            flux = [self._along_row(nodes, k) * nodes.dy for k in range(3)]
            parts = flux[0], flux[1], flux[0] * nodes.y, flux[2] + flux[0] * nodes.y**2
            total += [np.bincount(nodes.cell, part, n) for part in parts]
        return total[0], total[1:3].T, total[3]

    def potential(self, diagram: PowerDiagram, sites: Array, potentials: Array) -> Array:
        """Integrals over each pixel of ``min(0, min_j |x - y_j|^2 - psi_j)``: ``(rows, columns)``.

        A piece of a boundary stands for the strip on its left: the pixels further left in its row,
        whole, and its own up to the piece.
        """
        rows, columns = self.value.shape
        size, sums, own = rows * columns, np.zeros((3, rows, columns)), np.zeros(rows * columns)
        for cell, site, away, y, dy, pixel in self._nodes(
            *self._pieces(*outlines(diagram, sites, potentials)), sites
        ):
            x = site[:, 0] + away
            level = site[:, 0] ** 2 + y**2 - potentials[cell]
            terms = level * dy, -2 * site[:, 0] * dy, dy
            index, low = pixel[0] * columns + pixel[1], self.low[pixel[1]]
            for k, term in enumerate(terms):
                sums[k] += np.bincount(index, term, size).reshape(rows, columns)
                own += np.bincount(index, term * (x ** (k + 1) - low ** (k + 1)) / (k + 1), size)
        right = np.cumsum(sums[..., ::-1], axis=-1)[..., ::-1] - sums
        whole = sum(r[1:-1, 1:-1] * power for r, power in zip(right, self.powers, strict=True))
        return whole + own.reshape(rows, columns)[1:-1, 1:-1]

    def _along_row(self, nodes: Nodes, k: int) -> Array:
        """``F`` of ``f = x^k`` at the nodes, x being relative to the site.

        Nodes in the site's column or beside it need no tables, whose differences would cancel.
        """
        row, column = nodes.pixel
        at = nodes.site[:, 0]
        own = np.floor((at - self.box.low[0]) / self.pixel[0])
        own = np.clip(own, -1, self.grid.shape[0]).astype(np.intp) + 1
        line = np.where(own == column, 0.0, self.low[np.maximum(own, column)] - at)
        near = self.value[row, own] * line ** (k + 1)
        near += self.value[row, column] * (nodes.x ** (k + 1) - line ** (k + 1))
        near /= k + 1
        far = np.flatnonzero(np.abs(own - column) > 1)
        if len(far):
            row, column, own, at, x = (t[far] for t in (row, column, own, at, nodes.x))
            steps = [
                self._left_of(row, column, at + x, j) - self._left_of(row, own, at, j)
                for j in range(k + 1)
            ]
            powers = enumerate(steps)
            near[far] = sum(math.comb(k, j) * (-at) ** (k - j) * step for j, step in powers)
        return near

    def _left_of(self, row: Array, column: Array, x: Array, k: int) -> Array:
        """``int_{-inf}^x s^k rho ds`` at places in pixels of rows and columns."""
        low, value = self.low[column], self.value[row, column]
        return self.left[k][row, column] + value * (x ** (k + 1) - low ** (k + 1)) / (k + 1)

    def _nodes(self, segments, arcs, sites: Array) -> Iterator[Nodes]:
        """The nodes on all pieces, one of each piece at a time."""
        straight, pixel = segments
        step, site = straight.stop - straight.start, sites[straight.cell]
        for t in GAUSS_NODES:
            x, y = (straight.start - site + t * step).T
            yield Nodes(straight.cell, site, x, y, step[:, 1] / 2, pixel)
        round_, pixel = arcs
        for t, weight in zip(*ARC_RULE, strict=True):
            theta = round_.begin + t * round_.angle
            across, up = round_.radius * np.cos(theta), round_.radius * np.sin(theta)
            dy = weight * round_.angle * across
            yield Nodes(round_.cell, round_.centre, across, up, dy, pixel)

    def _pieces(self, segments: Segments, arcs: Arcs):
        """Segments and arcs cut at the lines between pixels, each with the pixels of its pieces."""
        start, stop = (
            (ends - self.box.low) / self.pixel for ends in (segments.start, segments.stop)
        )
        which, begin, end = edge_crossings(start, stop)
        step = (segments.stop - segments.start)[which]
        first = segments.start[which]
        straight = Segments(
            segments.cell[which],
            first + begin[:, None] * step,
            first + end[:, None] * step,
            segments.edge[which],
        )
        middle = start[which] + ((begin + end) / 2)[:, None] * (stop - start)[which]
        inside = np.clip(np.floor(middle).astype(np.intp), 0, self.grid.shape - 1) + 1
        return (straight, (inside[:, 1], inside[:, 0])), self._arc_pieces(*quarter_arcs(arcs))

    def _arc_pieces(self, arcs: Arcs, quarter: Array) -> tuple[Arcs, tuple[Array, Array]]:
        """Quarter arcs cut at the lines between pixels and at the walls, and their pixels."""
        which, shares = [np.arange(len(arcs.cell))], [np.zeros(len(arcs.cell))]
        for axis in (0, 1):
            arc, line = self._lines_met(arcs, axis)
            ratio = (self.box.low[axis] + line * self.pixel[axis]) - arcs.centre[arc, axis]
            within = _angle_in_quarter(ratio / arcs.radius[arc], (quarter[arc] + 3 * axis) % 4)
            turned = arcs.begin[arc] - math.pi / 2 * np.floor_divide(
                arcs.begin[arc] + arcs.angle[arc] / 2, math.pi / 2
            )
            which.append(arc)
            shares.append(np.clip((within - turned) / arcs.angle[arc], 0.0, 1.0))
        arc, begin = np.concatenate(which), np.concatenate(shares)
        order = np.lexsort((begin, arc))
        arc, begin = arc[order], begin[order]
        end = np.append(begin[1:], 1.0)
        end[:-1][arc[1:] != arc[:-1]] = 1.0
        cut = Arcs(*(t[arc] for t in arcs))
        middle = cut.begin + (begin + end) / 2 * cut.angle
        cut = cut._replace(begin=cut.begin + begin * cut.angle, angle=(end - begin) * cut.angle)
        place = cut.centre + cut.radius[:, None] * np.stack([np.cos(middle), np.sin(middle)], 1)
        pixel = np.floor((place - self.box.low) / self.pixel)
        pixel = np.clip(pixel, -1, self.grid.shape).astype(np.intp) + 1
        return cut, (pixel[:, 1], pixel[:, 0])

    def _lines_met(self, arcs: Arcs, axis: int) -> tuple[Array, Array]:
        """The arcs that meet lines between pixels, and the lines, each pair once."""
        turn = np.sin if axis else np.cos
        places = (
            (arcs.centre[:, axis] + arcs.radius * turn(theta) - self.box.low[axis])
            / self.pixel[axis]
            for theta in (arcs.begin, arcs.begin + arcs.angle)
        )
        first, last = places
        most = self.grid.shape[axis]
        low = np.clip(np.floor(np.minimum(first, last)) + 1, 0, most + 1)
        high = np.clip(np.ceil(np.maximum(first, last)), 0, most + 1)
        counts = np.maximum(high - low, 0).astype(np.intp)
        arc = np.repeat(np.arange(len(counts)), counts)
        before = np.cumsum(counts) - counts
        return arc, low[arc] + np.arange(len(arc)) - before[arc]


def _angle_in_quarter(cosine: Array, quarter: Array) -> Array:
    """Angles from the start of a quarter of a turn, in [0, pi / 2], whose cosines are given."""
    # cos(q pi / 2 + t) is cos t, -sin t, -cos t and sin t in the four quarters
    value = np.clip(np.where((quarter == 1) | (quarter == 2), -cosine, cosine), 0.0, 1.0)
    return np.where(quarter % 2, np.arcsin(value), np.arccos(value))
