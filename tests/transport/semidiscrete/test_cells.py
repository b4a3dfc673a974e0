"""Cells with their masses, and the protocol of densities in the plane."""

import numpy as np
import pytest

from skgmmot.transport.semidiscrete.cell_integrals import GridIntegrals, MixtureIntegrals
from skgmmot.transport.semidiscrete.cells import (
    PlaneDensity,
    Target,
    evaluate,
    has_empty_cell,
    lowest_empty_heights,
)
from skgmmot.transport.semidiscrete.power_diagram import Box

DENSITIES = {
    "image": GridIntegrals(
        np.full((4, 3), 1 / 4), Box(np.array([-1.0, -1.0]), np.array([1.0, 1.0]))
    ),
    "mixture": MixtureIntegrals(np.ones(1), np.zeros((1, 2)), np.eye(2)[None]),
}
SITES = np.array([[-1.0, 0.1], [0.9, -0.4], [0.1, 0.3]])


@pytest.mark.parametrize("density", DENSITIES.values(), ids=DENSITIES)
def test_both_densities_are_densities_in_the_plane(density):
    assert isinstance(density, PlaneDensity)
    assert isinstance(density.blurred(0.1), PlaneDensity)
    assert not isinstance(SITES, PlaneDensity)


@pytest.mark.parametrize("density", DENSITIES.values(), ids=DENSITIES)
def test_a_further_site_has_a_cell_only_below_its_lowest_empty_height(density):
    sites, heights = SITES[:2], np.array([0.5, 0.2])
    cells = evaluate(density, sites, heights)
    (limit,) = lowest_empty_heights(cells, sites, SITES[2:])
    for height, empty in ((limit + 1e-6, True), (limit - 1e-6, False)):
        diagram = evaluate(density, SITES, np.append(heights, height)).diagram
        assert (len(diagram.polygons()[2]) == 0) == empty
        assert has_empty_cell(diagram) == empty


@pytest.mark.parametrize("density", DENSITIES.values(), ids=DENSITIES)
def test_the_cell_of_one_site_is_not_empty_and_one_that_fills_the_box_leaves_none(density):
    assert not has_empty_cell(density.diagram(SITES[:1], np.zeros(1)))
    assert has_empty_cell(density.diagram(SITES[:2], np.array([1e3, 0.0])))


def test_prescribed_masses_follow_the_potentials_by_the_slack():
    cells = evaluate(DENSITIES["mixture"], SITES, np.zeros(3))
    b = np.array([0.2, 0.3, 0.5])
    assert (Target(SITES, b).prescribed(cells) == b).all()
    psi = np.array([0.3, -0.1, 0.2])
    found = Target(SITES, b, slack=0.1, level=psi).prescribed(cells)
    assert found == pytest.approx(b * (1 - 0.1 * (psi - b @ psi)), rel=1e-14)
    assert found.sum() == pytest.approx(1, rel=1e-14)
