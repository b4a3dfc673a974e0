"""Integrals over cells: against closed forms, brute force and finite differences."""

import numpy as np
import pytest
from scipy.stats import norm

from skgmmot.transport.semidiscrete.cell_integrals import GridIntegrals, MixtureIntegrals
from skgmmot.transport.semidiscrete.power_diagram import Box, power_diagram


@pytest.fixture
def grid(rng):
    """A random image on an oblong, of mass one, its mean at the origin."""
    values, box = rng.random((5, 7)), Box(np.array([1.0, 2.0]), np.array([2.0, 4.0]))
    return GridIntegrals(values / values.mean() / 2, box).centred()[0]


@pytest.fixture
def mixture(rng):
    """Three overlapping components, their mean at the origin."""
    A = 0.4 * rng.normal(size=(3, 2, 2))
    covariances = A @ A.transpose(0, 2, 1) + 0.05 * np.eye(2)
    means = rng.normal(size=(3, 2))
    return MixtureIntegrals(rng.dirichlet(np.ones(3)), means, covariances).centred()[0]


@pytest.fixture(params=["grid", "mixture"])
def density(request):
    """Both kinds."""
    return request.getfixturevalue(request.param)


def cells(rng, density, n=25):
    """Sites, heights and their diagram."""
    sites = 0.5 * rng.normal(size=(n, 2))
    heights = (sites**2).sum(1) - 0.05 * rng.random(n)
    return sites, heights, power_diagram(sites, heights, density.box)


def quadrature(density):
    """Many points of the box and the mass at each."""
    if isinstance(density, GridIntegrals):
        fine = 60
        sides = [
            density.box.low[i]
            + (np.arange(density.shape[i] * fine) + 0.5) * density.pixel[i] / fine
            for i in (0, 1)
        ]
        values = np.repeat(np.repeat(density.values, fine, 0), fine, 1)
        mass = values * density.pixel.prod() / fine**2
    else:
        sides = [np.linspace(density.box.low[i], density.box.high[i], 1500) for i in (0, 1)]
        x = np.stack(np.meshgrid(*sides), -1)
        mass = 0
        for w, m, S in zip(density.weights, density.means, density.covariances, strict=True):
            z = (x - m) @ np.linalg.inv(np.linalg.cholesky(S)).T
            mass = mass + w * norm.pdf(z).prod(-1) / np.sqrt(np.linalg.det(S))
        mass *= (sides[0][1] - sides[0][0]) * (sides[1][1] - sides[1][0])
    return np.stack(np.meshgrid(*sides), -1).reshape(-1, 2), mass.ravel()


def test_half_planes_of_a_gaussian_hold_what_the_normal_distribution_says():
    normal = MixtureIntegrals(np.ones(1), np.zeros((1, 2)), np.array([[[4.0, 1.0], [1.0, 1.0]]]))
    sites = np.array([[-1.0, 0.0], [1.0, 0.0]])
    # the border is x = psi / 4
    masses, along = normal.measure(power_diagram(sites, np.array([1.0 - 2.0, 1.0]), normal.box))
    assert np.allclose(masses, [norm.cdf(0.25), norm.sf(0.25)], atol=1e-15)
    assert np.isclose(along.sum(), norm.pdf(0.25) / 2)


def test_a_border_through_the_mean_halves_a_gaussian():
    normal = MixtureIntegrals(np.ones(1), np.zeros((1, 2)), np.eye(2)[None])
    sites = np.array([[-1.0, 0.3], [1.0, -0.3]])
    assert np.allclose(normal.measure(power_diagram(sites, np.ones(2), normal.box))[0], 0.5)


@pytest.mark.filterwarnings("error")
def test_a_border_all_but_through_the_mean_halves_a_gaussian():
    normal = MixtureIntegrals(np.ones(1), np.zeros((1, 2)), np.eye(2)[None])
    sites = np.array([[-1.0, 0.0], [1.0, 0.0]])
    masses, _ = normal.measure(power_diagram(sites, np.array([1e-310, 0.0]), normal.box))
    assert np.allclose(masses, 0.5)


def test_cells_of_an_even_image_hold_their_areas(rng):
    even = GridIntegrals(np.ones((8, 8)), Box(-np.full(2, 0.5), np.full(2, 0.5)))
    diagram = cells(rng, even)[2]
    masses, along = even.measure(diagram)
    lengths = np.hypot(*(diagram.stop - diagram.start)[: diagram.n_interfaces].T)
    assert np.allclose(along, lengths)
    for mass, polygon in zip(masses, diagram.polygons(), strict=True):
        x, y = polygon.T
        shoelace = (x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2 if len(x) else 0
        assert np.isclose(mass, shoelace, atol=1e-14)


def test_masses_and_moments_equal_those_by_brute_force(rng, density):
    sites, heights, diagram = cells(rng, density)
    x, mass = quadrature(density)
    owner = np.argmax(2 * x @ sites.T - heights, axis=1)
    expected = np.bincount(owner, mass, len(sites))
    moments = np.stack([np.bincount(owner, mass * c, len(sites)) for c in x.T], axis=1)
    found, _ = density.measure(diagram)
    assert np.abs(found - expected).max() < 3e-4
    assert np.abs(density.moments(diagram) - moments).max() < 3e-4
    assert np.isclose(found.sum(), 1)
    assert np.allclose(density.moments(diagram).sum(0), 0, atol=1e-12)
    assert np.allclose(density.covariance(), (mass * x.T) @ x, rtol=1e-3)


def test_an_edge_holds_the_derivative_of_its_cells_masses(rng, density):
    sites, heights, diagram = cells(rng, density)
    step, j = 1e-6, 4
    moved = []
    for sign in (1, -1):
        heights[j] += sign * step
        moved.append(density.measure(power_diagram(sites, heights, density.box))[0])
        heights[j] -= sign * step
    expected = (moved[0] - moved[1]) / (2 * step)
    found = np.zeros(len(sites))
    _, along = density.measure(diagram)
    for (left, right), mass in zip(diagram.sites, along, strict=False):
        flow = mass / (2 * np.linalg.norm(sites[left] - sites[right]))
        for here, there in [(left, right), (right, left)]:
            if here == j:
                found[there] += flow
                found[j] -= flow
    assert np.abs(found).max() > 0.01
    assert np.allclose(found, expected, atol=1e-8)


def test_the_potential_of_pixels_equals_that_by_brute_force(rng, grid):
    sites, heights, diagram = cells(rng, grid)
    x, _ = quadrature(grid)
    potential = (x**2).sum(1) - (2 * x @ sites.T - heights).max(1)
    rows, columns = grid.values.shape
    fine = potential.reshape(rows, 60, columns, 60).mean((1, 3)) * grid.pixel.prod()
    assert np.allclose(grid.potential(diagram, sites, heights), fine, atol=1e-6)


def test_a_translation_moves_nothing_but_the_mean(rng):
    values = rng.random((4, 4))
    values /= values.mean()
    near = GridIntegrals(values, Box(np.zeros(2), np.ones(2)))
    far = GridIntegrals(values, Box(np.full(2, 1e6), np.full(2, 1e6 + 1)))
    (near, m0), (far, m1) = near.centred(), far.centred()
    assert np.allclose(m1 - m0, 1e6)
    assert np.allclose(near.covariance(), far.covariance())


def test_components_far_from_a_cell_give_it_nothing():
    far = np.array([[-50.0, 0.0], [50.0, 0.0]])
    two = MixtureIntegrals(np.full(2, 0.5), far, np.stack([np.eye(2)] * 2))
    diagram = power_diagram(far / 50, np.ones(2), two.box)
    assert np.allclose(two.measure(diagram)[0], [0.5, 0.5], atol=1e-15)
    assert np.allclose(two.component_moments(diagram)[0], np.eye(2), atol=1e-15)


@pytest.mark.parametrize("width", [1.0, 1e-2, 1e-5])
def test_far_edges_count_by_how_they_cross_a_ray_as_by_their_angles(rng, width):
    means, sites = rng.normal(size=(12, 2)), rng.normal(size=(300, 2))
    A = width * rng.normal(size=(12, 2, 2))
    parts = rng.dirichlet(np.ones(12)), means, A @ A.mT + 1e-2 * width**2 * np.eye(2)
    crossing, by_angles = MixtureIntegrals(*parts), MixtureIntegrals(*parts)
    by_angles._rounding[:] = np.inf  # as if all means were on edges
    diagram = crossing.diagram(sites, (sites**2).sum(1))
    found, expected = (
        (*m.measure(diagram), *m.component_moments(diagram)) for m in (crossing, by_angles)
    )
    for one, other in zip(found, expected, strict=True):
        assert np.abs(one - other).max() < 1e-13 * max(1.0, np.abs(other).max())


@pytest.mark.parametrize("off", [0.0, 1e-17, 1e-9])
@pytest.mark.parametrize("width", [1.0, 1e-4, 1e-8])
def test_means_on_edges_and_corners_share_their_mass(off, width):
    square = np.array([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]])
    for sites in (square, square[:2], square[1:3]):
        on = MixtureIntegrals(np.ones(1), np.full((1, 2), off * width), width**2 * np.eye(2)[None])
        masses, _ = on.measure(on.diagram(sites, np.ones(len(sites))))
        assert np.allclose(masses, 1 / len(sites), atol=1e-8 if off > 1e-10 else 1e-14)


def test_nodes_have_the_moments_of_the_mixture(mixture):
    places, masses = mixture.nodes(3000)
    assert np.isclose(masses.sum(), 1) and (masses > 0).all()
    assert np.allclose(masses @ places, 0, atol=1e-3)
    assert np.allclose((places.T * masses) @ places, mixture.covariance(), atol=1e-2)
