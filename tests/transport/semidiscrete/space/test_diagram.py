"""Power diagrams in a box in space."""

import itertools

import numpy as np
import pytest
from scipy.spatial import ConvexHull

from skgmmot.transport.semidiscrete import power_diagram as module
from skgmmot.transport.semidiscrete.cells import has_empty_cell
from skgmmot.transport.semidiscrete.space.diagram import Cuboid, space_diagram

BOX = Cuboid(np.array([-1.0, -0.75, -0.5]), np.array([1.0, 0.75, 0.5]))


@pytest.fixture
def some(rng):
    """Sites, some outside the box, and heights at which one has no cell."""
    sites = 2.2 * (rng.random((12, 3)) - 0.5)
    heights = (sites**2).sum(1) - 0.1 * rng.random(12)
    heights[3] += 9
    return sites, heights, space_diagram(sites, heights, BOX)


def volumes(diagram):
    return np.array([ConvexHull(c).volume if len(c) else 0.0 for c in diagram.polyhedra()])


def test_cells_fill_the_box_and_belong_to_the_highest_plane(some):
    sites, heights, diagram = some
    found = volumes(diagram)
    assert np.isclose(found.sum(), 3) and found[3] == 0 and (np.delete(found, 3) > 0).all()
    for j, corners in enumerate(diagram.polyhedra()):
        if len(corners):
            planes = 2 * sites @ corners.mean(0) - heights
            assert planes.argmax() == j


def test_facets_lie_where_two_planes_are_equal_and_normals_point_to_the_second(some):
    sites, heights, diagram = some
    of, corners = diagram.facets.of, diagram.facets.corners
    level = [2 * (corners * sites[k[of]]).sum(1) - heights[k[of]] for k in diagram.sites.T]
    assert np.allclose(*level, atol=1e-12)
    across = sites[diagram.sites[:, 1]] - sites[diagram.sites[:, 0]]
    length = diagram.separation(sites)
    assert np.allclose(diagram.normals(), across / length[:, None])
    places, envelope = diagram.envelope(sites, heights)
    assert np.allclose(envelope, (2 * places @ sites.T - heights).max(1), atol=1e-9)


def test_one_site_and_sites_on_a_line_are_no_special_cases():
    one = space_diagram(np.zeros((1, 3)), np.zeros(1), BOX)
    assert one.n_interfaces == 0 and np.allclose(volumes(one), 3)
    line = np.array([[-0.5, 0, 0], [0.0, 0, 0], [0.5, 0, 0]])
    assert np.allclose(volumes(space_diagram(line, (line**2).sum(1), BOX)), [1.125, 0.75, 1.125])


def test_a_diagram_shows_that_a_cell_is_empty(some):
    sites, heights, diagram = some
    others = np.arange(12) != 3
    full = space_diagram(sites[others], heights[others], BOX)
    assert volumes(full).min() > 0 == volumes(diagram)[3]
    assert has_empty_cell(diagram) and not has_empty_cell(full)


def test_a_lattice_has_the_cells_of_a_lattice():
    sites = np.array(list(itertools.product((-0.5, 0, 0.5), repeat=3))) * [4 / 3, 1, 2 / 3]
    assert np.allclose(volumes(space_diagram(sites, (sites**2).sum(1), BOX)), 3 / 27)


def test_other_coordinates_and_indices_do_not_change_the_cells(some):
    _, _, diagram = some
    index = np.arange(12)[::-1]
    moved = diagram.placed(2.0, np.array([5.0, 0.0, 1.0])).renumbered(index, 12)
    assert np.allclose(volumes(moved), 8 * volumes(diagram)[::-1])
    assert np.allclose(moved.box.low, [3.0, -1.5, 0.0])
    assert np.allclose(moved.wall.box.low, [-1.5, 0.0])


def test_a_flat_hull_is_refused_in_words(monkeypatch):
    def fails(*_, **__):
        raise module.QhullError("flat")

    monkeypatch.setattr(module, "ConvexHull", fails)
    with pytest.raises(ArithmeticError, match="must span a power diagram, got a flat one"):
        space_diagram(np.zeros((2, 3)), np.zeros(2), BOX)
