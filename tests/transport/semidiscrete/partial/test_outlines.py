"""Boundaries of polygons cut by discs: areas by hand, quarters of circles."""

import math

import numpy as np
import pytest

from skgmmot.transport.semidiscrete.partial.outlines import Arcs, outlines, quarter_arcs
from skgmmot.transport.semidiscrete.power_diagram import Box, power_diagram

SQUARE = Box(np.array([-1.0, -1.0]), np.array([1.0, 1.0]))


def areas(sites, potentials, box=SQUARE):
    """Areas of the cells, by Green's theorem around each site: segments and sectors."""
    sites = np.asarray(sites, float)
    diagram = power_diagram(sites, (sites**2).sum(1) - potentials, box)
    segments, arcs = outlines(diagram, sites, np.asarray(potentials, float))
    (x, y), (to_x, to_y) = (
        (end - sites[segments.cell]).T for end in (segments.start, segments.stop)
    )
    straight = np.bincount(segments.cell, (x * to_y - y * to_x) / 2, len(sites))
    return straight + np.bincount(arcs.cell, arcs.radius**2 * arcs.angle / 2, len(sites))


@pytest.mark.parametrize(
    ("sites", "potentials", "expected"),
    [
        ([[0.0, 0.0]], [0.25], [math.pi / 4]),  # inside
        ([[0.0, 0.0]], [9.0], [4.0]),  # around the box
        ([[1.0, 1.0]], [0.25], [math.pi / 16]),  # at a corner
        ([[0.0, -1.0]], [0.25], [math.pi / 8]),  # on a wall
        ([[3.0, 0.0]], [1.0], [0.0]),  # outside, not reaching the box
        ([[1.5, 0.0]], [1.0], [math.acos(0.5) - 0.5 * math.sqrt(0.75)]),  # reaching into it
        ([[0.0, 0.0]], [-1.0], [0.0]),  # no disc
        ([[-0.5, 0.0], [0.5, 0.0]], [0.04, 0.09], [0.04 * math.pi, 0.09 * math.pi]),  # apart
    ],
)
def test_areas_of_discs_in_a_square_are_those_of_geometry(sites, potentials, expected):
    assert np.allclose(areas(sites, potentials), expected, atol=1e-14)


def test_discs_that_meet_share_their_union():
    found = areas([[-0.2, 0.0], [0.2, 0.0]], [0.16, 0.16])
    # each disc less a segment beyond the line between them
    half = 0.16 * math.pi - (0.16 * math.acos(0.5) - 0.2 * math.sqrt(0.12))
    assert np.allclose(found, half)


def test_a_disc_around_a_square_cuts_its_corners_off():
    radius = 1.2
    corner = math.acos(1 / radius)
    sector = (math.pi / 2 - 2 * corner) * radius**2 / 2
    expected = 4 * (sector + radius * math.sin(corner))
    assert np.allclose(areas([[0.0, 0.0]], [radius**2]), expected)


def test_quarters_cover_arcs_in_both_directions():
    begin, angle = np.array([-3.0, 3.0, 0.3, math.pi / 2]), np.array([3.1, -3.1, 0.2, 1.0])
    arcs = Arcs(np.arange(4), np.zeros((4, 2)), np.ones(4), begin, angle)
    parts, quarter = quarter_arcs(arcs)
    assert np.allclose(np.bincount(parts.cell, parts.angle), angle)
    middle = parts.begin + parts.angle / 2
    assert np.array_equal(np.floor(middle / (math.pi / 2)) % 4, quarter)
    assert (np.abs(parts.angle) <= math.pi / 2 + 1e-15).all()
    assert len(parts.cell) == 3 + 3 + 1 + 1
