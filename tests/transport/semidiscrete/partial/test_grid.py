"""Integrals of an image over polygons cut by discs."""

import numpy as np
import pytest

from skgmmot.transport.semidiscrete.cell_integrals import GridIntegrals
from skgmmot.transport.semidiscrete.partial.grid import DiscIntegrals
from skgmmot.transport.semidiscrete.power_diagram import Box, power_diagram


@pytest.fixture
def some(rng):
    """A density, sites some of which are outside it, and potentials of discs that overlap."""
    values = rng.random((4, 5))
    box = Box(np.array([-1.0, -0.75]), np.array([1.0, 0.75]))
    grid = GridIntegrals(values / values.sum() / 0.15, box)
    sites = 2.4 * (rng.random((7, 2)) - 0.5)
    potentials = 0.05 + 0.3 * rng.random(7)
    return grid, sites, potentials


def diagram_of(grid, sites, potentials):
    return power_diagram(sites, (sites**2).sum(1) - potentials, grid.box)


def test_integrals_are_those_of_many_places(some):
    grid, sites, potentials = some
    discs, diagram = DiscIntegrals(grid), diagram_of(*some)
    places, mass = grid.nodes(200_000)
    excess = ((places[:, None] - sites) ** 2).sum(-1) - potentials
    cell, phi = excess.argmin(1), excess.min(1)
    inside = phi < 0
    held, cell = mass[inside], cell[inside]
    at = places[inside] - sites[cell]
    masses, first, second = discs.moments(diagram, sites, potentials)
    assert np.allclose(masses, np.bincount(cell, held, 7), atol=5e-4)
    assert np.allclose(first[:, 0], np.bincount(cell, held * at[:, 0], 7), atol=5e-4)
    assert np.allclose(first[:, 1], np.bincount(cell, held * at[:, 1], 7), atol=5e-4)
    assert np.allclose(second, np.bincount(cell, held * (at**2).sum(1), 7), atol=5e-4)
    assert np.allclose(discs.measure(diagram, sites, potentials)[0], masses, atol=1e-15)


def test_the_potential_of_the_pixels_sums_to_the_dual(some):
    grid, sites, potentials = some
    discs, diagram = DiscIntegrals(grid), diagram_of(*some)
    masses, _, second = discs.moments(diagram, sites, potentials)
    dual = second - potentials * masses
    pixels = discs.potential(diagram, sites, potentials)
    assert np.isclose((grid.values * pixels).sum(), dual.sum(), rtol=1e-12)
    assert (pixels <= 1e-15).all() and pixels.shape == (4, 5)


def test_discs_that_hold_everything_leave_the_cells_as_they_are(some):
    grid, sites, potentials = some
    diagram = diagram_of(*some)
    found = DiscIntegrals(grid).measure(diagram, sites, potentials + 100)
    for mine, expected in zip(found, grid.measure(diagram), strict=False):
        assert np.allclose(mine, expected, atol=1e-14)
    assert np.allclose(found[2], 0, atol=1e-14)


def test_derivatives_of_masses_are_the_integrals_over_edges_and_arcs(some):
    grid, sites, potentials = some
    discs, h = DiscIntegrals(grid), 1e-6
    _, along, around = discs.measure(diagram_of(*some), sites, potentials)
    diagram = diagram_of(*some)
    for j in range(7):
        step = h * np.eye(7)[j]
        more, less = (
            discs.measure(diagram_of(grid, sites, p), sites, p)[0]
            for p in (potentials + step, potentials - step)
        )
        expected = np.zeros(7)
        expected[j] = around[j] / (2 * np.sqrt(potentials[j]))
        weight = along / (2 * diagram.separation(sites))
        for (left, right), w in zip(diagram.sites, weight, strict=False):
            if j in (left, right):
                expected[j] += w
                expected[left + right - j] -= w
        assert np.allclose((more - less) / (2 * h), expected, atol=1e-7)
