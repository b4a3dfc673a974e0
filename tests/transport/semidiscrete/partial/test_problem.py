"""Plans of a part of an image: discs, discrete transport, finite differences, hard cases."""

import math

import numpy as np
import ot
import pytest
import torch

from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.transport.semidiscrete.grid import GridDensity
from skgmmot.transport.semidiscrete.plan import exact_plan

DOUBLE = torch.float64
EVEN = GridDensity(torch.ones(1, 1, dtype=DOUBLE))
EXTENT, PERIOD = (0.0, 2.0, 0.0, 1.5), torch.tensor([2.0, 1.5], dtype=DOUBLE)


def tensor(values):
    return torch.tensor(values, dtype=DOUBLE)


def problem(n=7, seed=0):
    """An image, points partly outside it, and weights."""
    g = torch.Generator().manual_seed(seed)
    values = torch.rand(4, 5, dtype=DOUBLE, generator=g) + 0.05
    points = 2.5 * torch.rand(n, 2, dtype=DOUBLE, generator=g) - 0.2
    return values, points, torch.rand(n, dtype=DOUBLE, generator=g) + 0.2


@pytest.mark.parametrize("periodic", [False, True])
def test_points_far_apart_take_discs(periodic):
    b = np.array([0.05, 0.1, 0.05])
    points = tensor([[0.2, 0.2], [0.75, 0.8], [0.7, 0.2]])
    plan = exact_plan(EVEN._replace(periodic=periodic), points, tensor(b), mass=0.2)
    assert math.isclose(plan.cost, (b**2).sum() / (2 * math.pi))  # int_0^r 2 pi s^3 ds
    assert np.allclose(plan.potentials, b / math.pi)  # squared radii
    assert torch.allclose(plan.barycentres, points)


def test_a_disc_runs_through_the_walls_of_a_periodic_box_and_is_cut_at_those_of_others():
    corner, r2 = tensor([[0.0, 0.0]]), 0.8 / math.pi
    plan = exact_plan(EVEN, corner, tensor([1.0]), mass=0.2)  # a quarter of a disc
    assert math.isclose(plan.cost, 0.1 * r2)
    assert torch.allclose(plan.barycentres, tensor([[1, 1]]) * 4 * math.sqrt(r2) / (3 * math.pi))
    plan = exact_plan(EVEN._replace(periodic=True), corner, tensor([1.0]), mass=0.2)
    assert math.isclose(plan.cost, 0.2**2 / (2 * math.pi))
    assert torch.allclose(plan.barycentres, corner, atol=1e-14)


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("mass", [0.3, 0.95])
def test_an_image_equals_discrete_transport_with_one_more_point(periodic, mass):
    values, points, weights = problem()
    fine = values.repeat_interleave(12, 0).repeat_interleave(12, 1).flatten()
    x, y = (np.arange(60) + 0.5) / 30, (np.arange(48) + 0.5) / 32
    nodes = tensor(np.stack(np.meshgrid(x, y), -1).reshape(-1, 2))
    away = (nodes[:, None] - points).abs()
    if periodic:
        away = torch.minimum(away % PERIOD, PERIOD - away % PERIOD)
    C = torch.nn.functional.pad(away.square().sum(-1), (0, 1))
    b = torch.cat([mass * weights / weights.sum(), tensor([1 - mass])])
    expected = ot.emd2(fine / fine.sum(), b, C)
    density = GridDensity(values, EXTENT, "lower", periodic)
    plan = exact_plan(density, points, weights, mass=mass)
    assert math.isclose(plan.cost, expected, rel_tol=1e-3)
    assert torch.allclose(plan.masses, b[:-1])


@pytest.mark.parametrize("periodic", [False, True])
def test_gradients_are_those_of_finite_differences(periodic):
    values, points, weights = problem(4)

    def cost(values, points, weights):
        density = GridDensity(values, EXTENT, "lower", periodic)
        return exact_plan(density, points, weights, mass=0.5, tol=1e-13).cost

    inputs = [t.clone().requires_grad_() for t in (values[:2, :3], points, weights)]
    assert torch.autograd.gradcheck(cost, inputs, eps=1e-5, atol=1e-6, fast_mode=True)


@pytest.mark.parametrize("mass", [1e-4, 1e-9])
def test_small_discs_are_accurate_relative_to_their_size(mass):
    grid = GridDensity(torch.ones(5, 5, dtype=DOUBLE))
    for place in ([0.5, 0.5], [0.4, 0.63], [0.2, 0.6]):  # in a pixel, beside and at a corner of one
        plan = exact_plan(grid, tensor([place]), tensor([1.0]), mass=mass)
        assert math.isclose(plan.cost, mass**2 / (2 * math.pi), rel_tol=1e-6)


def test_all_but_nothing_of_the_mass_costs_as_much_as_all():
    values, points, weights = problem()
    density = GridDensity(values, EXTENT, "lower")
    costs = [exact_plan(density, points, weights, mass=m).cost for m in (0.99999, 1.0)]
    assert math.isclose(*costs, rel_tol=1e-4)
    assert costs[0] < costs[1]


def test_the_cost_is_that_of_moving_each_cell_and_grows_by_the_potentials():
    values, points, weights = problem()
    density = GridDensity(values, EXTENT, "lower")
    plan = exact_plan(density, points, weights, mass=0.4)
    more = exact_plan(density, points, weights, mass=0.4 + 1e-6, potentials=plan.potentials)
    slope = weights @ plan.potentials / weights.sum()
    assert math.isclose((more.cost - plan.cost) / 1e-6, slope, rel_tol=1e-4)
    assert more.n_iter < plan.n_iter


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("mass", [1e-6, 0.1, 0.9])
def test_masses_are_met_wherever_the_points_are(periodic, mass):
    g = torch.Generator().manual_seed(3)
    points = 0.9 + 0.3 * torch.randn(15, 2, dtype=DOUBLE, generator=g)
    values = torch.rand(8, 8, dtype=DOUBLE, generator=g) * (torch.arange(8) != 4)
    weights = torch.rand(15, dtype=DOUBLE, generator=g) + 0.1
    plan = exact_plan(GridDensity(values, periodic=periodic), points, weights, mass=mass)
    assert torch.allclose(plan.masses, mass * weights / weights.sum(), rtol=1e-3)


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("place", [[0.5, 0.5], [0.31, 0.3], [0.95, 0.05], [1.4, 0.6]])
def test_a_point_without_mass_has_the_largest_potential_that_leaves_it_no_cell(place, periodic):
    box, points = EVEN._replace(periodic=periodic), tensor([[0.1, 0.1], [0.3, 0.3], place])
    weights = tensor([1.0, 2.0, 0.0])
    plan = exact_plan(box, points, weights, mass=0.3)
    more = exact_plan(box, points, weights + tensor([0.0, 0.0, 3e-7]), mass=0.3 + 3e-8)
    slope = plan.potentials[2]
    assert math.isclose((more.cost - plan.cost) / 3e-8, slope, rel_tol=1e-2, abs_tol=1e-6)


def test_points_that_coincide_share_a_disc():
    plan = exact_plan(EVEN, tensor([[0.5, 0.5]] * 3), tensor([1.0, 1.0, 2.0]), mass=0.3)
    assert math.isclose(plan.cost, 0.3**2 / (2 * math.pi))
    assert torch.allclose(plan.masses, tensor([0.075, 0.075, 0.15]))


def test_what_is_not_there_is_said():
    normal = GaussianMixtureParams(tensor([1.0]), tensor([[0.0, 0.0]]), tensor([[1.0, 1.0]]))
    points, weights = tensor([[0.0, 0.0]]), tensor([1.0])
    with pytest.raises(ValueError, match=r"mass must be 1 for a mixture or with slack, got 0\.5"):
        exact_plan(normal, points, weights, mass=0.5)
    with pytest.raises(ValueError, match="mass must be 1 for a mixture or with slack"):
        exact_plan(EVEN, points, weights, mass=0.5, slack=0.1)
    with pytest.raises(RuntimeError, match=r"after 0 Newton steps\. Drop masses that are nearly"):
        exact_plan(EVEN, tensor([[0.0, 0.0], [1.0, 0.0]]), tensor([1.0, 9.0]), mass=0.5, max_iter=0)


def test_points_so_far_that_rounding_hides_their_rims_are_refused_at_once():
    points, weights = tensor([[0.5, 0.2], [0.0, 0.0]]), tensor([1.0, 1.0])
    points[1, 0] = 1e10
    with pytest.raises(ValueError, match=r"points must be within 5e\+08 sizes .* got one at 1"):
        exact_plan(EVEN, points, weights, mass=0.5)
    one = torch.tensor([1.0, 0.0], dtype=DOUBLE)  # a point without mass has no disc
    assert math.isclose(exact_plan(EVEN, points, one, mass=0.01).cost, 1e-4 / (2 * math.pi))


def test_masses_of_six_magnitudes_are_met_from_the_heaviest_on():
    g = torch.Generator().manual_seed(0)
    points = torch.rand(30, 2, dtype=DOUBLE, generator=g)
    weights = 10 ** (-6 * torch.rand(30, dtype=DOUBLE, generator=g))
    plan = exact_plan(EVEN, points, weights, mass=0.5)
    assert torch.allclose(plan.masses, 0.5 * weights / weights.sum(), rtol=1e-3)
    assert plan.n_iter < 20
