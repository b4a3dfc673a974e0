"""Starts of Newton's method: heights at which every cell has mass."""

import numpy as np
import pytest
from images_in_the_plane import image

from skgmmot.transport.semidiscrete.cells import MIN_START_SHARE, Target, evaluate
from skgmmot.transport.semidiscrete.damped_newton import cells_of_masses
from skgmmot.transport.semidiscrete.starting_heights import (
    _gaussian_heights,
    _insert_light_sites,
    starting_cells,
)


def test_the_start_for_many_sites_comes_from_few_and_is_good(rng):
    density, sites = image("bumps"), rng.random((2000, 2))
    sites -= sites.mean(0)
    masses = np.full(2000, 1 / 2000)
    cells = next(starting_cells(density, Target(sites, masses), None, cells_of_masses))
    assert cells.masses.min() > MIN_START_SHARE * masses.min()
    gaussian = evaluate(density, sites, _gaussian_heights(density, sites, masses))
    assert np.abs(cells.masses - masses).sum() < np.abs(gaussian.masses - masses).sum()


@pytest.mark.parametrize("light_mass", [1e-4, 1e-9])
def test_a_light_site_is_given_nearly_its_mass_between_the_others(light_mass):
    density = image("even")
    sites = np.array([[-0.3, -0.2], [0.3, 0.1], [0.0, 0.05]])
    light, masses = np.array([False, False, True]), np.array([0.5, 0.5, light_mass])
    heavy = evaluate(density, sites[~light], (sites[~light] ** 2).sum(1))
    cells = _insert_light_sites(density, Target(sites, masses / masses.sum()), light, heavy)
    assert np.isclose(cells.masses[2], light_mass, rtol=0.2, atol=0)
    assert np.allclose(cells.masses[:2], heavy.masses, atol=2e-4)
