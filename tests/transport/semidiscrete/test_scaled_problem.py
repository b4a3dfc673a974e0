"""Semi-discrete problems in centred coordinates: merged points, heights and potentials."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.gaussian.sampling import sample
from skgmmot.transport.semidiscrete.cells import evaluate
from skgmmot.transport.semidiscrete.scaled_problem import (
    ScaledProblem,
    centred_integrals,
    zero_with_derivative,
)

F64 = torch.float64
MIXTURE = GaussianMixtureParams(
    torch.tensor([0.4, 0.6], dtype=F64),
    torch.tensor([[1e3, 2.0], [1001.0, 5.0]], dtype=F64),
    torch.eye(2, dtype=F64).expand(2, 2, 2) * 4,
)
POINTS = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [5.0, 5.0]], dtype=F64)
MASSES = torch.tensor([0.2, 0.1, 0.3, 0.4, 0.0], dtype=F64)


def test_equal_points_share_a_site_and_points_without_mass_have_none():
    problem = ScaledProblem(MIXTURE, POINTS, MASSES)
    assert len(problem.sites) == 3
    assert problem.masses.sum() == pytest.approx(1, rel=1e-14)
    shares = problem.point_masses(problem.masses)
    assert_close(torch.from_numpy(shares), MASSES)
    assert problem.merging_error() == 0


def test_merging_displaces_points_by_its_error():
    near = POINTS.clone()
    near[3, 0] += 1e-9
    problem = ScaledProblem(MIXTURE, near, MASSES, 1e-7)
    assert len(problem.sites) == 3
    assert problem.merging_error() == pytest.approx(1e-9 * 0.4**0.5, rel=1e-3)


def test_potentials_are_those_that_heights_were_made_of():
    problem = ScaledProblem(MIXTURE, POINTS, MASSES)
    psi = np.array([0.3, 0.1, -0.2, 0.1, 0.0])
    cells = evaluate(problem.density, problem.sites, problem.heights(psi))
    found = problem.potentials(cells)
    # up to a constant; numbers of size 1e6 (squared offsets) are rounded
    assert_close(
        torch.from_numpy(found)[:4] - found[0],
        torch.from_numpy(psi)[:4] - psi[0],
        rtol=0,
        atol=1e-8,
    )


def test_integrals_are_centred_in_a_unit_of_their_size():
    integrals, mean, unit = centred_integrals(MIXTURE)
    assert_close(torch.from_numpy(mean), MIXTURE.weights @ MIXTURE.means)
    assert np.abs(integrals.weights @ integrals.means).max() < 1e-15
    assert 0.5 < np.abs(integrals.means).max() * unit <= 3 and unit == 2.0


def test_a_zero_has_the_derivative_it_is_given():
    x = torch.ones(3, dtype=F64, requires_grad=True)
    zero = zero_with_derivative(x, np.array([1.0, -2.0, 3.0]))
    zero.backward()
    assert zero == 0
    assert_close(x.grad, torch.tensor([1.0, -2.0, 3.0], dtype=F64))


def test_the_unit_is_that_of_the_widest_component():
    one, wide = torch.eye(2, dtype=F64), 1e200 * torch.eye(2, dtype=F64)
    density = GaussianMixtureParams(
        torch.full((2,), 0.5, dtype=F64), torch.zeros(2, 2, dtype=F64), torch.stack([one, wide])
    )
    integrals, _, unit = centred_integrals(density)
    assert 0.5e100 < unit <= 1e100
    assert 1 <= np.abs(integrals.covariances).max() < 4


def test_heights_of_no_potentials_give_each_sample_to_its_nearest_point(random_seed):
    points = MIXTURE.means[0] + torch.tensor([[-1.0, 2.0], [3.0, 0.0], [0.0, 5.0]], dtype=F64)
    problem = ScaledProblem(MIXTURE, points, torch.ones(3, dtype=F64))
    cells = evaluate(problem.density, problem.sites, problem.heights(np.zeros(3)))
    X, _ = sample(MIXTURE, 50_000, generator=torch.Generator().manual_seed(random_seed))
    counts = torch.cdist(X, points).argmin(1).bincount(minlength=3) / len(X)
    assert np.abs(cells.masses[problem.site] - counts.numpy()).max() < 0.01


@pytest.mark.parametrize("far", [1.0, 300.0])
def test_the_cost_of_one_point_is_the_second_moment_about_it(far):
    point = far * torch.tensor([[3.0, -1.0]], dtype=F64)
    problem = ScaledProblem(MIXTURE, point, torch.ones(1, dtype=F64))
    cells = evaluate(problem.density, problem.sites, problem.heights(np.zeros(1)))
    moments = problem.density.moments(cells.diagram)
    means = MIXTURE.means - point
    expected = MIXTURE.weights @ (means.square().sum(1) + 8.0)
    assert problem.cost(cells, moments) == pytest.approx(float(expected), rel=1e-9)
