"""Damped Newton: cells of given masses, from any start, for awkward densities and sites."""

import numpy as np
import pytest
from images_in_the_plane import SIDE, image

from skgmmot.transport.semidiscrete import damped_newton
from skgmmot.transport.semidiscrete.cell_integrals import MixtureIntegrals
from skgmmot.transport.semidiscrete.cells import Target, evaluate
from skgmmot.transport.semidiscrete.damped_newton import cells_of_masses
from skgmmot.transport.semidiscrete.starting_heights import _gaussian_heights


def solve(density, sites, masses=None, **options):
    """Solve for sites that are moved to mean zero; equal masses unless told."""
    masses = np.full(len(sites), 1 / len(sites)) if masses is None else masses
    options = {"tol": 1e-8, "max_iter": 500, **options}
    cells = cells_of_masses(density, Target(sites - masses @ sites, masses), **options)
    return cells, np.abs(cells.masses - masses).sum()


def test_on_a_line_the_borders_are_quantiles():
    masses = np.array([0.1, 0.2, 0.3, 0.4])
    sites = np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [5.0, 0.0]])
    cells, _ = solve(image("even"), sites, masses, tol=1e-13)
    borders = sorted(cells.diagram.start[: cells.diagram.n_interfaces, 0])
    assert np.allclose(borders, np.array([0.1, 0.3, 0.6]) - 0.5)


@pytest.mark.parametrize("n", [200, 2000])
@pytest.mark.parametrize("name", ["even", "bumps"])
def test_masses_are_right_after_few_steps(rng, name, n):
    cells, error = solve(image(name), rng.random((n, 2)))
    assert cells.converged
    assert error <= 1e-8
    assert cells.n_iter <= 15


@pytest.mark.parametrize("name", ["gaps", "noise"])
def test_gaps_and_noise_are_no_obstacle(rng, name):
    masses = rng.dirichlet(np.ones(300))
    cells, error = solve(image(name), rng.random((300, 2)), masses)
    assert cells.converged
    assert error <= 1e-8


@pytest.mark.parametrize("layout", ["far", "line", "clusters", "heavy tails", "lattice"])
def test_awkward_sites_are_no_obstacle(rng, layout):
    sites = {
        "far": 0.1 * rng.random((400, 2)) + 50,
        "line": np.outer(rng.random(400), [1.0, 2.0]),
        "clusters": 0.01 * rng.normal(size=(400, 2)) + rng.integers(2, size=(400, 1)),
        "heavy tails": rng.standard_cauchy(size=(400, 2)),
        "lattice": np.stack(np.meshgrid(SIDE[::3], SIDE[::3]), -1).reshape(-1, 2),
    }[layout]
    cells, error = solve(image("bumps"), sites)
    assert cells.converged
    assert error <= 1e-8


def test_narrow_components_far_from_the_sites_are_no_obstacle(rng):
    A = 0.1 * rng.random((10, 2, 2))
    covariances = A @ A.transpose(0, 2, 1) + 1e-3 * np.eye(2)
    mixture = MixtureIntegrals(np.full(10, 0.1), rng.uniform(-1, 1, (10, 2)), covariances)
    cells, error = solve(mixture.centred()[0], rng.random((400, 2)) * [5, 2])
    assert cells.converged
    assert error <= 1e-8


def test_cells_find_their_way_across_a_gap():
    # every border inside the gap gives the same masses: there is no derivative to follow
    cells, error = solve(image("gaps"), np.array([[0.0, 0.0], [1.0, 0.0]]), np.array([0.2, 0.8]))
    assert cells.converged
    assert error <= 1e-8


def test_a_start_nearby_saves_steps_and_a_hopeless_one_does_no_harm(rng):
    density, sites = image("bumps"), rng.random((200, 2))
    cold, _ = solve(density, sites)
    warm, _ = solve(density, sites, heights=cold.heights + 1e-6 * rng.normal(size=200))
    hopeless, error = solve(density, sites, heights=rng.normal(size=200))
    assert warm.n_iter < cold.n_iter / 2
    assert hopeless.converged and error <= 1e-8


def test_what_has_not_converged_says_so(rng):
    cells, error = solve(image("bumps"), rng.random((200, 2)), max_iter=2)
    assert not cells.converged
    assert error > 1e-8


@pytest.mark.parametrize("measure", [damped_newton._mass_error, damped_newton._root_mass_error])
@pytest.mark.parametrize("slack", [0.0, 0.3])
def test_a_step_lowers_the_error_in_proportion(rng, slack, measure):
    density, sites = image("bumps"), rng.random((50, 2))
    sites -= sites.mean(0)
    target = Target(sites, rng.dirichlet(np.full(50, 5.0)), slack, (sites**2).sum(1))
    cells = evaluate(density, sites, _gaussian_heights(density, sites, target.masses))
    error, excess = measure(target, cells)
    step = damped_newton.solve_symmetric(damped_newton.jacobian(target, cells), excess)
    step -= step.mean()
    tiny = evaluate(density, sites, cells.heights + 1e-5 * step)
    assert error - measure(target, tiny)[0] > 0.99e-5 * error


@pytest.mark.parametrize("name", ["bumps", "noise"])
def test_fifteen_steps_are_enough_for_a_thousand_sites(rng, name):
    for _ in range(3):
        cells, error = solve(image(name), rng.random((1000, 2)))
        assert error <= 1e-8
        assert cells.n_iter <= 15


def test_cells_that_rounding_leaves_with_less_than_nothing_end_in_no_nan(rng):
    # two needles, a hundred thousand of their standard deviations apart
    needles = MixtureIntegrals(
        np.array([0.5, 0.5]),
        np.array([[0.0, 0.0], [100.0, 0.0]]),
        np.stack([1e-6 * np.eye(2)] * 2),
    )
    cells, _ = solve(needles.centred()[0], rng.normal(size=(40, 2)), max_iter=30)
    assert not cells.converged
    assert np.isfinite(cells.heights).all()


@pytest.mark.parametrize("slack", [0.0, 0.3])
def test_the_jacobian_is_that_of_finite_differences(rng, slack):
    density, sites = image("bumps"), rng.random((6, 2))
    sites -= sites.mean(0)
    target = Target(sites, rng.dirichlet(np.full(6, 5.0)), slack, (sites**2).sum(1))
    heights = _gaussian_heights(density, sites, target.masses)
    jacobian = damped_newton.jacobian(target, evaluate(density, sites, heights)).toarray()
    for j, unit in enumerate(1e-6 * np.eye(6)):
        after, before = (evaluate(density, sites, heights + sign * unit) for sign in (1.0, -1.0))
        slope = -(target.error(after) - target.error(before)) / 2e-6
        # but for a rank of one, which constants have no part in
        slope += slack * target.masses * target.masses[j]
        assert np.allclose(jacobian[:, j], slope, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("layout", ["cluster", "pair", "light", "heavy"])
@pytest.mark.parametrize("name", ["even", "bumps"])
def test_masses_and_distances_of_many_magnitudes_are_no_obstacle(rng, name, layout):
    sites, masses = rng.normal(size=(40, 2)), np.ones(40)
    if layout == "cluster":
        sites[2:] *= 1e-5
    elif layout == "pair":
        sites[1] = sites[0] + 1e-6
    elif layout == "light":
        masses[::2] = 10.0 ** -np.arange(1, 11).repeat(2)
    else:
        masses[1:] = 1e-9
    masses /= masses.sum()
    cells, error = solve(image(name), sites / np.abs(sites).max(), masses)
    assert cells.converged and error <= 1e-8
    assert (np.abs(cells.masses - masses) <= 1e-3 * masses + 1e-14).all()


def test_a_method_that_gets_nowhere_gives_up_soon(rng, monkeypatch):
    monkeypatch.setattr(damped_newton, "solve_symmetric", lambda jacobian, error: 1e-3 * error)
    cells, _ = solve(image("even"), rng.random((10, 2)), max_iter=10**6)
    assert not cells.converged and cells.n_iter < 5000
