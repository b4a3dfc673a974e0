"""Plans in a periodic box: closed forms, discrete transport, finite differences, symmetries."""

import itertools
import math
from fractions import Fraction

import numpy as np
import ot
import pytest
import torch

from skgmmot.transport.semidiscrete.grid import GridDensity
from skgmmot.transport.semidiscrete.plan import exact_plan, nearest_plan

DOUBLE = torch.float64
EVEN = GridDensity(torch.ones(1, 1, dtype=DOUBLE), periodic=True)
EXTENT, PERIOD = (0.0, 2.0, 1.0, 2.5), torch.tensor([2.0, 1.5], dtype=DOUBLE)


def problem(n=9, seed=0):
    """An image, points partly outside it, and weights."""
    g = torch.Generator().manual_seed(seed)
    values = torch.rand(4, 5, dtype=DOUBLE, generator=g) + 0.05
    points = 3 * torch.rand(n, 2, dtype=DOUBLE, generator=g) - 1
    return values, points, torch.rand(n, dtype=DOUBLE, generator=g) + 0.2


def cost(values, points, weights):
    return exact_plan(GridDensity(values, EXTENT, "lower", True), points, weights, tol=1e-13).cost


def ones(points):
    return torch.ones_like(points[:, 0])


def test_one_point_anywhere_costs_the_second_moment_of_the_box_around_it():
    for place in ([0.5, 0.5], [0.9, 0.1], [-7.3, 12.0], [0.0, 1.0]):
        point = torch.tensor([place], dtype=DOUBLE)
        plan = exact_plan(EVEN, point, ones(point))
        assert math.isclose(plan.cost, 1 / 6)
        assert torch.allclose(plan.barycentres, point)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_a_lattice_costs_the_second_moment_of_its_cell(n):
    grid = torch.tensor(list(itertools.product(range(n), repeat=2)), dtype=DOUBLE) / n + 0.123
    plan = exact_plan(EVEN, grid, ones(grid))
    assert math.isclose(plan.cost, 2 / 12 / n**2, rel_tol=1e-12)
    assert torch.allclose(plan.barycentres, grid)


@pytest.mark.parametrize("size", [1, 8])
@pytest.mark.parametrize("extent", [(0.0, 1.0, 0.0, 1.0), (0.0, 0.3, 0.1, 0.4)])
def test_lattices_whose_cells_end_at_the_walls_are_no_special_cases(size, extent):
    box = GridDensity(torch.ones(size, size, dtype=DOUBLE), extent, periodic=True)
    side, corner = extent[1], torch.tensor(extent[::2], dtype=DOUBLE)
    for n in (1, 2, 3):
        grid = (torch.tensor(list(itertools.product(range(n), repeat=2)), dtype=DOUBLE) + 0.5) / n
        plan = exact_plan(box, corner + side * grid, ones(grid))
        assert math.isclose(plan.cost, side**2 * 2 / 12 / n**2, rel_tol=1e-10)


def test_a_hexagonal_lattice_has_the_least_cost_of_all():
    # two points in a box of sides 1 and sqrt(3): all cells are regular hexagons of area sqrt(3)/2
    box = EVEN._replace(extent=(0.0, 1.0, 0.0, math.sqrt(3)))
    points = torch.tensor([[0.1, 0.2], [0.6, 0.2 + math.sqrt(3) / 2]], dtype=DOUBLE)
    plan = exact_plan(box, points, ones(points))
    assert math.isclose(plan.cost, 5 * math.sqrt(3) / 54 * math.sqrt(3) / 2)
    assert [len(p) for p in plan.cells.polygons()] == [6, 6]


def test_strips_of_unequal_masses_are_computed_by_hand():
    points = torch.tensor([[0.0, 0.0], [0.5, 0.0]], dtype=DOUBLE)
    plan = exact_plan(EVEN, points, torch.tensor([1.0, 3.0], dtype=DOUBLE))
    assert math.isclose(plan.cost, (0.25**3 + 0.75**3 + 1) / 12)
    # at the border, a distance of 1/8 to one and 3/8 to the other
    assert math.isclose(plan.potentials[1] - plan.potentials[0], (9 - 1) / 64)


def test_an_image_equals_discrete_transport_of_its_pixels():
    values, points, weights = problem()
    fine = values.repeat_interleave(12, 0).repeat_interleave(12, 1).flatten()
    x, y = (np.arange(60) + 0.5) / 30, (np.arange(48) + 0.5) / 32 + 1
    nodes = torch.tensor(np.stack(np.meshgrid(x, y), -1).reshape(-1, 2))
    away = (nodes[:, None] - points).remainder(PERIOD)
    C = torch.minimum(away, PERIOD - away).square().sum(-1)
    expected = ot.emd2(fine / fine.sum(), weights / weights.sum(), C)
    assert math.isclose(cost(values, points, weights), expected, rel_tol=1e-3)


def test_gradients_are_those_of_finite_differences():
    values, points, weights = problem(4)
    inputs = [t.clone().requires_grad_() for t in (values[:2, :3], points, weights)]
    assert torch.autograd.gradcheck(cost, inputs, eps=1e-5, atol=1e-6, fast_mode=True)


def test_moving_points_by_whole_periods_or_all_by_the_same_vector_changes_nothing():
    values, points, weights = problem()
    here = cost(values, points, weights)
    whole = torch.randint(-5, 6, points.shape, generator=torch.Generator().manual_seed(1))
    assert torch.isclose(cost(values, points + whole * PERIOD, weights), here, rtol=1e-12)
    even = torch.ones_like(values)
    moved = cost(even, points + torch.tensor([0.77, -0.31]), weights)
    assert torch.isclose(moved, cost(even, points, weights), rtol=1e-12)


@pytest.mark.parametrize("exponent", [20, 50, 300])
def test_points_a_great_many_periods_away_are_where_their_digits_say(exponent):
    values, near, weights = problem()
    far = near + PERIOD * 2.0**exponent  # rounded: up to 2^51 periods some digits are left
    exact = zip(far.flatten().tolist(), 9 * PERIOD.tolist(), strict=True)
    moved = torch.tensor([float(Fraction(x) % Fraction(p)) for x, p in exact], dtype=DOUBLE)
    moved = moved.reshape(far.shape)
    assert torch.isclose(cost(values, far, weights), cost(values, moved, weights), rtol=1e-12)


def test_barycentres_and_polygons_are_near_the_points_as_given():
    values, points, weights = problem()
    far = points + 3 * PERIOD
    plan = exact_plan(GridDensity(values, EXTENT, "lower", True), far, weights)
    assert ((plan.barycentres - far).abs() <= PERIOD / 2).all()
    for polygon, barycentre in zip(plan.cells.polygons(), plan.barycentres.numpy(), strict=True):
        assert (polygon.min(0) < barycentre).all() and (barycentre < polygon.max(0)).all()


def test_points_that_coincide_across_a_wall_share_a_cell():
    points = torch.tensor([[0.0, 0.5], [1.0, 0.5], [1.0 - 1e-16, 0.5], [0.5, 0.5]], dtype=DOUBLE)
    plan = exact_plan(EVEN, points, torch.tensor([1.0, 1.0, 1.0, 3.0], dtype=DOUBLE))
    assert math.isclose(plan.cost, (0.5**2 + 1) / 12)
    assert torch.allclose(plan.masses, torch.tensor([1.0, 1.0, 1.0, 3.0], dtype=DOUBLE) / 6)
    assert torch.allclose(plan.barycentres, points, atol=1e-9)


@pytest.mark.parametrize("spread", [1e-6, 0.05, 1.0])
@pytest.mark.parametrize("n", [2, 150])
def test_masses_are_met_wherever_the_points_are(n, spread):
    g = torch.Generator().manual_seed(n)
    points = 1 + spread * torch.randn(n, 2, dtype=DOUBLE, generator=g)
    values = torch.rand(6, 6, dtype=DOUBLE, generator=g) * (torch.arange(6) != 2)
    weights = torch.rand(n, dtype=DOUBLE, generator=g) + 0.1
    plan = exact_plan(GridDensity(values, EXTENT, "lower", True), points, weights)
    assert torch.allclose(plan.masses, weights / weights.sum(), rtol=1e-4)
    assert abs(float(plan.potentials.mean())) < 1e-12


def test_a_point_without_mass_has_the_largest_potential_that_leaves_it_no_cell():
    points = torch.tensor([[0.1, 0.1], [0.6, 0.4], [0.9, 0.8]], dtype=DOUBLE)
    weights = torch.tensor([1.0, 2.0, 0.0], dtype=DOUBLE, requires_grad=True)
    plan = exact_plan(EVEN, points, weights)
    (slope,) = torch.autograd.grad(plan.cost, weights)
    more = torch.tensor([0.0, 0.0, 1e-6], dtype=DOUBLE)
    change = exact_plan(EVEN, points, weights.detach() + more).cost - plan.cost.detach()
    assert math.isclose(change / 1e-6, slope[2], rel_tol=1e-2)


def test_free_masses_are_those_of_voronois_cells():
    points = torch.tensor([[0.1, 0.5], [0.4, 0.5]], dtype=DOUBLE)
    plan = nearest_plan(EVEN, points)
    assert torch.allclose(plan.masses, torch.tensor([0.5, 0.5], dtype=DOUBLE))
    # borders at 0.25 and 0.75: distances up to 0.15 on one side and 0.35 on the other
    assert math.isclose(plan.cost, 2 * (0.15**3 + 0.35**3) / 3 + 1 / 12)
