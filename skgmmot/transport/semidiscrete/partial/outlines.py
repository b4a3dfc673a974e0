r"""Boundaries of the cells of partial transport: polygons cut by discs, as segments and arcs.

The part of a density that stays where it is can be seen as sent to one more point at no cost, of
potential zero. The cell of ``y_j`` is then that of the power diagram cut by the disc where
``|x - y_j|^2 <= psi_j``. Its boundary is found edge by edge: what lies inside the disc stays, and
what lies outside is projected from the site onto the circle. The projections of all edges add up
to the arcs of the boundary. They may run back and forth over an arc; integrals along both
directions cancel, so that the same sum is right for any polygon, also for the walls of a power
diagram, which are signed paths.
"""

import math
from typing import NamedTuple

import numpy as np

from skgmmot.transport.semidiscrete.power_diagram import PowerDiagram

Array = np.ndarray


class Segments(NamedTuple):
    """Straight parts of the boundaries of cells."""

    cell: Array
    """The cell around which each one runs counterclockwise, ``(s,)``."""
    start: Array
    """Where it starts, ``(s, 2)``."""
    stop: Array
    """Where it ends, ``(s, 2)``."""
    edge: Array
    """The edge between two cells on whose left side the cell is, ``(s,)``; -1: any other."""


class Arcs(NamedTuple):
    """Parts of the boundaries of cells on circles around their sites."""

    cell: Array
    """The cell, ``(s,)``."""
    centre: Array
    """Its site, ``(s, 2)``."""
    radius: Array
    """The radius, ``(s,)``."""
    begin: Array
    """The angle at which the arc begins, ``(s,)``."""
    angle: Array
    """The signed angle from there to its end, less than half a turn, ``(s,)``."""


def outlines(diagram: PowerDiagram, sites: Array, potentials: Array) -> tuple[Segments, Arcs]:
    """Return the boundaries of the cells of a power diagram cut by discs around their sites.

    Parameters
    ----------
    diagram : PowerDiagram
        The diagram.
    sites : ndarray of shape (n, 2)
        Its sites.
    potentials : ndarray of shape (n,)
        Squared radii of the discs; where one is not positive, the cell is empty.

    Returns
    -------
    segments : Segments
        What lies inside the discs.
    arcs : Arcs
        What lies on the circles.
    """
    cell, start, stop, edge = _sided_edges(diagram)
    used = potentials[cell] > 0
    cell, start, stop, edge = (t[used] for t in (cell, start, stop, edge))
    site, radius = sites[cell], np.sqrt(potentials[cell])
    first, step = start - site, stop - start
    length = np.hypot(*step.T)
    along = step / np.maximum(length, np.finfo(float).tiny)[:, None]
    # The foot of the perpendicular from the site, and half of the chord that the line cuts out.
    foot, away = -(first * along).sum(1), first[:, 0] * along[:, 1] - first[:, 1] * along[:, 0]
    chord = np.sqrt(np.maximum((radius - away) * (radius + away), 0.0))
    meets = np.abs(away) < radius
    enter = np.where(meets, np.clip(foot - chord, 0.0, length), 0.0)
    leave = np.where(meets, np.clip(foot + chord, enter, length), 0.0)
    at = start + along * enter[:, None], start + along * leave[:, None]
    at = (
        np.where((enter > 0)[:, None], at[0], start),
        np.where((leave < length)[:, None], at[1], stop),
    )
    inside, before, after = leave > enter, enter > 0, leave < length
    at[1][~inside & after] = at[0][~inside & after]
    segments = Segments(cell[inside], at[0][inside], at[1][inside], edge[inside])
    arcs = (
        _projected(cell[part], site[part], radius[part], ends[0][part], ends[1][part])
        for part, ends in ((before, (start, at[0])), (after, (at[1], stop)))
    )
    return segments, Arcs(*(np.concatenate(parts) for parts in zip(*arcs, strict=True)))


def _sided_edges(d: PowerDiagram) -> tuple[Array, Array, Array, Array]:
    """Each edge once around the cell on its left, and once backwards around that on its right."""
    left, right = d.sites.T
    corners, base = d.box.corners, np.full(4, d.owners[-1])
    edge = np.full(2 * len(left) + 4, -1)
    edge[: d.n_interfaces] = np.arange(d.n_interfaces)
    return (
        np.concatenate([left, right, base]),
        np.vstack([d.start, d.stop, np.roll(corners, 1, axis=0)]),
        np.vstack([d.stop, d.start, corners]),
        edge,
    )


def _projected(cell: Array, site: Array, radius: Array, start: Array, stop: Array) -> Arcs:
    """The projections of segments outside the discs onto the circles."""
    (x, y), (to_x, to_y) = (start - site).T, (stop - site).T
    angle = np.arctan2(x * to_y - y * to_x, x * to_x + y * to_y)
    turned = angle != 0
    parts = cell, site, radius, np.arctan2(y, x), angle
    return Arcs(*(part[turned] for part in parts))


def quarter_arcs(arcs: Arcs) -> tuple[Arcs, Array]:
    """Cut arcs at the multiples of a right angle, so that coordinates along them are monotone.

    Parameters
    ----------
    arcs : Arcs
        The arcs.

    Returns
    -------
    arcs : Arcs
        Their parts.
    quarter : ndarray of shape (s,)
        The quarter of the circle of each part: 0 is from 0 to a right angle.
    """
    first, last = arcs.begin / (math.pi / 2), (arcs.begin + arcs.angle) / (math.pi / 2)
    low, high = np.minimum(first, last), np.maximum(first, last)
    parts, quarters = [], []
    for cut in range(3):  # less than half a turn meets at most three quarters
        quarter = np.floor(low) + cut
        begin, end = np.maximum(low, quarter), np.minimum(high, quarter + 1)
        used = begin < end
        backwards = (last < first)[used]
        begin, end = begin[used], end[used]
        begin, end = np.where(backwards, end, begin), np.where(backwards, begin, end)
        part = Arcs(*(t[used] for t in arcs))
        turn = math.pi / 2
        parts.append(part._replace(begin=begin * turn, angle=(end - begin) * turn))
        quarters.append(quarter[used].astype(np.intp) % 4)
    return Arcs(*(np.concatenate(t) for t in zip(*parts, strict=True))), np.concatenate(quarters)
