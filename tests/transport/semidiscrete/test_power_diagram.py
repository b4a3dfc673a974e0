"""Power diagrams: the cells tile the rectangle and are where their plane is highest."""

import numpy as np
import pytest

from skgmmot.transport.semidiscrete.power_diagram import Box, power_diagram

BOX = Box(np.array([-0.5, -0.7]), np.array([0.5, 0.7]))


def area(polygon):
    """Area of a polygon, counterclockwise."""
    x, y = polygon.T
    return (x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2 if len(polygon) > 2 else 0.0


def areas(diagram):
    """Areas of the cells, by the flux of (x, 0)."""
    start, stop = diagram.start, diagram.stop
    flux = (stop - start)[:, 1] * ((start + stop)[:, 0] / 2 - BOX.low[0])
    return diagram.gather(flux, np.prod(BOX.high - BOX.low))


def owners(sites, heights, points):
    """The cell of each point, by definition."""
    return np.argmax(2 * points @ sites.T - heights, axis=1)


def layouts(rng):
    """Sites in general position, on a line, outside, on a lattice, one and two of them."""
    lattice = np.stack(np.meshgrid(np.arange(7) / 7, np.arange(7) / 7), -1).reshape(-1, 2) - 0.5
    return {
        "random": rng.uniform(-0.5, 0.5, (60, 2)),
        "line": np.outer(rng.uniform(-1, 1, 20), [1.0, 1.0]),
        "outside": rng.uniform([2.5, 0.5], [3.5, 1.5], (30, 2)),
        "below": rng.uniform([-2.3, -2.5], [-0.3, -0.5], (26, 2)),
        "lattice": lattice,
        "one": np.array([[0.0, 0.0]]),
        "two": np.array([[-1.0, 1.0], [1.0, -1.0]]),
    }


def test_two_equal_sites_share_the_rectangle():
    diagram = power_diagram(np.array([[-0.2, 0.0], [0.2, 0.0]]), np.full(2, 0.04), BOX)
    assert diagram.n_interfaces == 1
    assert np.allclose(areas(diagram), 0.7)
    left, right = diagram.polygons()
    assert np.allclose(sorted(left[:, 0]), [-0.5, -0.5, 0, 0])
    assert np.allclose(sorted(right[:, 1]), [-0.7, -0.7, 0.7, 0.7])


def test_a_potential_moves_the_border_as_computed_by_hand():
    # |x + 1|^2 - psi = |x - 1|^2 at x = psi / 4
    sites = np.array([[-1.0, 0.0], [1.0, 0.0]])
    diagram = power_diagram(sites, np.array([1.0 - 0.8, 1.0]), BOX)
    assert np.allclose(diagram.start[0, 0], 0.2)
    assert np.allclose(areas(diagram), [0.7 * 1.4, 0.3 * 1.4])


@pytest.mark.usefixtures("random_seed")
@pytest.mark.parametrize("name", ["random", "line", "outside", "below", "lattice", "one", "two"])
@pytest.mark.parametrize("spread", [0.0, 0.05])
def test_cells_are_where_their_plane_is_highest(rng, name, spread):
    sites = layouts(rng)[name]
    heights = (sites**2).sum(1) - spread * rng.random(len(sites))
    diagram = power_diagram(sites, heights, BOX)
    polygons = diagram.polygons()
    found = areas(diagram)
    assert np.allclose(found, [area(p) for p in polygons], atol=1e-12)
    assert np.isclose(found.sum(), 1.4)
    points = rng.uniform(BOX.low, BOX.high, (20_000, 2))
    counted = np.bincount(owners(sites, heights, points), minlength=len(sites))
    assert np.abs(found / 1.4 - counted / 20_000).max() < 0.015
    for j, polygon in enumerate(polygons):
        if found[j] > 1e-6:
            assert owners(sites, heights, polygon.mean(0)[None]) == j
            # corners of the cell lie on its plane and no plane is above it there
            planes = 2 * polygon @ sites.T - heights
            assert np.allclose(planes.max(1), planes[:, j], atol=1e-9)


def test_a_site_whose_plane_is_nowhere_highest_has_no_cell(rng):
    sites = rng.uniform(-0.5, 0.5, (20, 2))
    heights = (sites**2).sum(1)
    heights[7] += 1.0
    diagram = power_diagram(sites, heights, BOX)
    assert areas(diagram)[7] == 0
    assert diagram.polygons()[7].shape == (0, 2)


def test_of_two_equal_sites_one_has_the_cell(rng):
    sites = rng.uniform(-0.5, 0.5, (20, 2))
    twice = np.vstack([sites, sites[3]])
    found = areas(power_diagram(twice, (twice**2).sum(1), BOX))
    assert np.isclose(found[[3, 20]].sum(), areas(power_diagram(sites, (sites**2).sum(1), BOX))[3])
    assert found[[3, 20]].min() == 0


def test_cells_do_not_depend_on_the_order_of_sites_or_a_common_height(rng):
    sites = rng.uniform(-0.5, 0.5, (40, 2))
    heights = (sites**2).sum(1)
    expected = areas(power_diagram(sites, heights, BOX))
    order = rng.permutation(40)
    found = areas(power_diagram(sites[order], heights[order] + 3.0, BOX))
    assert np.allclose(found, expected[order], atol=1e-12)


def test_sites_off_a_lattice_by_rounding_are_no_obstacle(rng):
    # where Qhull finds a dent it must merge faces
    lattice = np.stack(np.meshgrid(np.arange(40) / 40, np.arange(40) / 40), -1).reshape(-1, 2)
    sites = lattice - 0.4875 + 1e-13 * rng.normal(size=(1600, 2))
    inside = Box(np.full(2, -0.5), np.full(2, 0.5))
    for heights in ((sites**2).sum(1), (sites**2).sum(1) + 1e-15 * rng.normal(size=1600)):
        diagram = power_diagram(sites, heights, inside)
        middle = (diagram.start + diagram.stop)[:, 0] / 2 - inside.low[0]
        found = diagram.gather((diagram.stop - diagram.start)[:, 1] * middle, 1.0)
        assert np.allclose(found, 1 / 1600, atol=1e-9)
