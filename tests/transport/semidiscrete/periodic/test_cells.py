"""Power diagrams in a periodic box: images, folded integrals, polygons."""

import numpy as np
import pytest

from skgmmot.transport.semidiscrete.cell_integrals import GridIntegrals
from skgmmot.transport.semidiscrete.cells import PlaneDensity, evaluate, has_empty_cell
from skgmmot.transport.semidiscrete.periodic.cells import (
    PeriodicIntegrals,
    covering_radius,
    images_of,
    nearest_image,
    wrapped,
)
from skgmmot.transport.semidiscrete.power_diagram import Box

BOX = Box(np.array([-1.0, -0.5]), np.array([1.0, 0.5]))
PERIOD = np.array([2.0, 1.0])


@pytest.fixture
def some(rng):
    """A density, sites and heights, whose potentials are of the size of squared distances."""
    values = rng.random((3, 4)) + 0.1
    one, _ = GridIntegrals(values / (values.sum() / 6), BOX).centred()
    sites = one.box.low + rng.random((9, 2)) * PERIOD
    return PeriodicIntegrals(one), sites, (sites**2).sum(1) - 0.1 * rng.random(9)


def nearest(density, sites, heights, n=200):
    """The cell, image and mass of each of many places, by comparing all 9 images."""
    places, mass = density.nodes(n * n)
    shifts = np.array([(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)]) * PERIOD
    psi = (sites**2).sum(1) - heights
    images = sites[:, None] + shifts  # (n, 9, 2)
    excess = ((places[:, None, None] - images) ** 2).sum(-1) - psi[:, None]
    best = excess.reshape(len(places), -1).argmin(1)
    return places, mass, best // 9, shifts[best % 9]


def test_integrals_are_those_of_the_nearest_images(some):
    density, sites, heights = some
    cells = evaluate(density, sites, heights)
    places, mass, cell, shift = nearest(density, sites, heights)
    assert np.allclose(cells.masses, np.bincount(cell, mass, 9), atol=2e-3)
    moved = places - shift
    first = np.stack([np.bincount(cell, mass * x, 9) for x in moved.T], axis=1)
    assert np.allclose(density.moments(cells.diagram), first, atol=2e-3)
    second = mass @ (moved**2).sum(1)
    assert np.isclose(density.second_moment(cells.diagram), second, rtol=5e-3)


def test_a_diagram_shows_that_a_cell_is_empty(some):
    density, sites, heights = some
    cells = evaluate(density, sites, heights)
    full = cells.masses > 0
    assert has_empty_cell(cells.diagram) and full.sum() == 8
    assert not has_empty_cell(density.diagram(sites[full], heights[full]))
    assert not has_empty_cell(density.diagram(sites[:1], heights[:1]))


def test_images_too_far_from_the_box_are_left_out(some):
    density, sites, heights = some
    owner, offset = images_of(sites, density.box)
    image, psi = sites[owner] + offset, (sites**2).sum(1) - heights
    away = ((image - image.clip(density.box.low, density.box.high)) ** 2).sum(1)
    near = away - psi[owner] <= covering_radius(sites, density.box) ** 2 - psi.min()
    assert len(density._images(sites, heights)[0]) == near.sum() < len(owner)


def test_images_left_out_have_no_cell(some):
    density, sites, heights = some
    owner, offset = images_of(sites, density.box)
    every = density.one.diagram(
        sites[owner] + offset, heights[owner] + (2 * sites[owner] * offset + offset**2).sum(1)
    )
    masses = np.bincount(owner, density.one.measure(every)[0], 9)
    cells = evaluate(density, sites, heights)
    assert len(cells.diagram.owner) < 36
    assert np.allclose(cells.masses, masses, rtol=1e-12)


def test_polygons_are_whole_cells_around_their_sites(some):
    density, sites, heights = some
    flat = PeriodicIntegrals(GridIntegrals(np.full((1, 1), 0.5), density.box))
    cells = evaluate(flat, sites, heights)
    for polygon, site, mass in zip(cells.diagram.polygons(), sites, cells.masses, strict=True):
        x, y = polygon.T
        area = (x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2
        assert np.isclose(area, 2 * mass, atol=1e-12)
        assert (np.abs(polygon - site) <= PERIOD / 2 + 1e-9).all()


def test_heights_at_which_cells_are_empty_are_the_lowest_such(some):
    density, sites, heights = some
    other = density.box.high[None] - 0.05
    cells = evaluate(density, sites, heights)
    lowest = density.lowest_empty_heights(cells, sites, other)
    for more, empty in ((1e-6, True), (-1e-3, False)):
        all_heights = np.append(heights, lowest + more)
        masses = evaluate(density, np.vstack([sites, other]), all_heights).masses
        assert (abs(masses[-1]) < 1e-14) == empty


def test_sites_are_moved_by_whole_periods():
    far = np.array([[1.0, 0.5], [7.25, -3.2], [-1.0, 0.49]])
    near = nearest_image(far, BOX)
    assert np.allclose(near, [[-1.0, -0.5], [-0.75, -0.2], [-1.0, 0.49]])
    assert np.allclose(wrapped(far - near, PERIOD), 0)


def test_no_place_is_farther_from_a_site_than_the_covering_radius(rng):
    sites = BOX.low + rng.random((20, 2)) * PERIOD
    flat = PeriodicIntegrals(GridIntegrals(np.full((1, 1), 0.5), BOX))
    places = flat.nodes(4000)[0]
    assert np.sqrt(flat.squares(places, sites).min(1).max()) <= covering_radius(sites, BOX)


def test_it_has_the_integrals_that_newtons_method_needs(some):
    density, _, _ = some
    needed = {"box", "covariance", "blurred", "nodes", "diagram", "measure", "moments"}
    assert needed <= {*dir(PlaneDensity), "box"} and needed <= {*dir(density), "box"}
    even = density.blurred(1.0)
    assert np.allclose(even.one.values, 0.5) and np.array_equal(even.period, PERIOD)
