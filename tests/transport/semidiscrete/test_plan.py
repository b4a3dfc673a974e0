"""Semi-discrete plans: exact in the plane, by nodes elsewhere, with gradients."""

import math

import numpy as np
import ot
import pytest
import torch
from scipy.stats import norm

from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.gaussian.sampling import sample
from skgmmot.transport.semidiscrete.grid import GridDensity
from skgmmot.transport.semidiscrete.plan import component_masses, exact_plan, nearest_plan

DOUBLE = torch.float64
EXTENT = (0.0, 2.0, 1.0, 4.0)


def problem(n=12, seed=0):
    """An image, points partly outside it, and weights."""
    g = torch.Generator().manual_seed(seed)
    values = torch.rand(6, 5, dtype=DOUBLE, generator=g)
    points = 3 * torch.rand(n, 2, dtype=DOUBLE, generator=g) + 0.5
    weights = torch.rand(n, dtype=DOUBLE, generator=g) + 0.1
    return values, points, weights


def image_cost(values, points, weights):
    return exact_plan(GridDensity(values, EXTENT, "lower"), points, weights, tol=1e-13).cost


def even(n=8):
    return GridDensity(torch.ones(n, n, dtype=DOUBLE))


def test_one_point_costs_the_second_moment():
    plan = exact_plan(even(), torch.tensor([[2.0, 0.5]], dtype=DOUBLE), torch.ones(1, dtype=DOUBLE))
    assert math.isclose(plan.cost, 1.5**2 + 2 / 12)
    assert torch.allclose(plan.barycentres, torch.full((1, 2), 0.5, dtype=DOUBLE))
    assert plan.n_iter == 0


def test_two_points_halve_the_square():
    points = torch.tensor([[0.25, 0.5], [0.75, 0.5]], dtype=DOUBLE)
    plan = exact_plan(even(), points, torch.ones(2, dtype=DOUBLE))
    assert torch.allclose(plan.barycentres, points)
    assert math.isclose(plan.cost, (0.5**2 + 1) / 12)
    assert torch.allclose(plan.potentials, torch.zeros(2, dtype=DOUBLE), atol=1e-9)


def test_a_gaussian_onto_points_of_a_line_is_transport_on_that_line():
    S = torch.tensor([[[4.0, 0.0], [0.0, 9.0]]], dtype=DOUBLE)
    mixture = GaussianMixtureParams(torch.ones(1, dtype=DOUBLE), torch.zeros(1, 2).double(), S)
    points = torch.tensor([[-1.0, 0.0], [1.0, 0.0]], dtype=DOUBLE)
    plan = exact_plan(mixture, points, torch.ones(2, dtype=DOUBLE))
    # E(|x| - 1)^2 + 9 = 4 + 1 - 2 E|x| + 9, E|x| = 2 sqrt(2 / pi)
    assert math.isclose(plan.cost, 14 - 4 * math.sqrt(2 / math.pi), rel_tol=1e-12)


def test_an_image_equals_discrete_transport_of_its_pixels():
    values, points, weights = problem()
    fine = values.repeat_interleave(12, 0).repeat_interleave(12, 1)
    x = (np.arange(60) + 0.5) / 60 * 2
    y = (np.arange(72) + 0.5) / 72 * 3 + 1
    nodes = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
    a, b = fine.flatten().numpy(), weights.numpy()
    expected = ot.emd2(a / a.sum(), b / b.sum(), ot.dist(nodes, points.numpy()))
    assert math.isclose(image_cost(values, points, weights), expected, rel_tol=1e-3)


def test_the_plan_is_consistent_with_itself():
    values, points, weights = problem()
    plan = exact_plan(GridDensity(values, EXTENT, "lower"), points, weights)
    b = weights / weights.sum()
    assert torch.allclose(plan.masses, b, atol=1e-9)
    assert plan.error < 1e-14 and plan.cells.n_sites == 12
    assert abs(float(plan.potentials.mean())) < 1e-12
    # all barycentres together are the mean of the image
    mean = exact_plan(GridDensity(values, EXTENT, "lower"), points[:1], weights[:1]).barycentres[0]
    assert torch.allclose(b @ plan.barycentres, mean)
    polygons = plan.cells.polygons()
    assert min(p[:, 1].min() for p in polygons) == 1 and max(p[:, 0].max() for p in polygons) == 2


def test_gradients_in_an_image_its_points_and_masses_are_those_of_finite_differences():
    inputs = [t.requires_grad_() for t in problem(8)]
    assert torch.autograd.gradcheck(image_cost, inputs, eps=1e-5, atol=1e-6, fast_mode=True)


def mixture_problem(make_mixture, covariance_type, n=8, d=2):
    mixture = make_mixture(covariance_type, 3, d)
    g = torch.Generator().manual_seed(5)
    points = 2 * torch.randn(n, d, dtype=DOUBLE, generator=g)
    return mixture, points, torch.rand(n, dtype=DOUBLE, generator=g) + 0.1


def test_gradients_in_a_mixture_are_those_of_finite_differences(make_mixture, covariance_type):
    mixture, points, weights = mixture_problem(make_mixture, covariance_type)

    def cost(logits, means, covariances, points, weights):
        covariances = (covariances + covariances.mT) / 2 if covariances.ndim == 3 else covariances
        moved = GaussianMixtureParams(logits.softmax(0), means, covariances)
        return exact_plan(moved, points, weights, tol=1e-13).cost

    inputs = (mixture.weights.log(), *mixture[1:], points, weights)
    inputs = [t.clone().requires_grad_() for t in inputs]
    assert torch.autograd.gradcheck(cost, inputs, eps=1e-5, atol=1e-6, fast_mode=True)


def test_many_samples_of_a_mixture_cost_little_more_than_nothing(make_mixture, random_seed):
    mixture = make_mixture("full", 3, 2)
    X, _ = sample(mixture, 1000, generator=torch.Generator().manual_seed(random_seed))
    plan = exact_plan(mixture, X, torch.ones(1000, dtype=DOUBLE))
    assert 0 < plan.cost < 0.02 * X.var(0).sum()


def test_translating_points_and_image_together_changes_nothing():
    values, points, weights = problem()
    left, right, bottom, top = EXTENT
    far = GridDensity(values, (left + 1e5, right + 1e5, bottom - 1e5, top - 1e5), "lower")
    moved = points + torch.tensor([1e5, -1e5], dtype=DOUBLE)
    plan = exact_plan(far, moved, weights)
    here = exact_plan(GridDensity(values, EXTENT, "lower"), points, weights)
    assert torch.isclose(plan.cost, here.cost)
    assert torch.allclose(plan.potentials, here.potentials, atol=1e-6)


def test_scale_of_image_and_weights_does_not_count():
    values, points, weights = problem()
    assert torch.isclose(
        image_cost(values, points, weights), image_cost(1e5 * values, points, 1e-5 * weights)
    )


@pytest.mark.parametrize("density", ["image", "mixture"])
@pytest.mark.parametrize(("scale", "shift"), [(2.0**-400, 0.0), (2.0**400, 0.0), (1.0, 2.0**20)])
def test_scale_and_place_of_density_and_points_do_not_count(make_mixture, density, scale, shift):
    values, points, weights = problem()
    mixture = make_mixture("full", K=3, d=2)

    def solve(scale, shift):
        y = (scale * points + shift).requires_grad_()
        if density == "image":
            left, right, low, high = (scale * e + shift for e in EXTENT)
            parameters = [values.clone().requires_grad_()]
            grid = GridDensity(*parameters, (left, right, low, high), "lower")
            plan = exact_plan(grid, y, weights)
            unit = [scale**2]
        else:
            w, m, C = mixture
            parameters = [t.clone().requires_grad_() for t in (w, scale * m + shift, scale**2 * C)]
            plan = exact_plan(GaussianMixtureParams(*parameters), y, weights)
            unit = [scale**2, scale, 1.0]
        slopes = torch.autograd.grad(plan.cost, [y, *parameters])
        units = [scale, *unit]
        return plan, [slope / unit for slope, unit in zip(slopes, units, strict=True)]

    (plan, slopes), (expected, expected_slopes) = solve(scale, shift), solve(1.0, 0.0)
    close = {"rtol": 0, "atol": 1e-8 if shift else 1e-13}
    assert torch.allclose(plan.cost / scale**2, expected.cost, **close)
    assert torch.allclose(plan.potentials / scale**2, expected.potentials, **close)
    assert torch.allclose((plan.barycentres - shift) / scale, expected.barycentres, **close)
    for slope, expected_slope in zip(slopes, expected_slopes, strict=True):
        assert torch.allclose(slope, expected_slope, **close)


def test_points_that_rounding_cannot_tell_apart_share_a_cell_and_say_what_that_costs():
    _, points, _ = problem()
    near = points[3] + 1e-12
    plan = exact_plan(even(), torch.vstack([points, near]), torch.ones(13, dtype=DOUBLE))
    twice = exact_plan(even(), torch.vstack([points, points[3:4]]), torch.ones(13, dtype=DOUBLE))
    assert math.isclose(plan.cost, twice.cost, rel_tol=1e-10)
    assert twice.error < 1e-14 < plan.error < 1e-10
    assert torch.allclose(plan.masses, torch.full((13,), 1 / 13, dtype=DOUBLE), atol=1e-7)


@pytest.mark.parametrize("light", [1e-6, 1e-12])
def test_masses_are_met_relative_to_themselves(light):
    _, points, weights = problem()
    weights[1:] = light
    plan = exact_plan(even(), points, weights)
    assert torch.allclose(plan.masses, weights / weights.sum(), rtol=1e-3, atol=0)
    # nearly all goes to the heavy point
    alone = exact_plan(even(), points[:1], weights[:1])
    assert math.isclose(plan.cost, alone.cost, rel_tol=40 * light + 1e-12)


@pytest.mark.parametrize("separation", [50.0, 95.0, 1e3, 1e5])
def test_components_far_apart_for_their_width_are_no_obstacle(separation):
    mixture = GaussianMixtureParams(
        torch.tensor([0.5, 0.5], dtype=DOUBLE),
        torch.tensor([[0.0, 0.0], [separation, 0.0]], dtype=DOUBLE),
        torch.ones(2, 2, dtype=DOUBLE),
    )
    points = torch.tensor([[-1.0, 0.0], [separation + 1.0, 0.0]], dtype=DOUBLE)
    for share in (0.5, 0.3, 1e-3):
        weights = torch.tensor([share, 1 - share], dtype=DOUBLE)
        plan = exact_plan(mixture, points, weights)
        assert math.isclose(plan.masses[0], share, rel_tol=1e-6)
        # on a line: what lies left of q goes to the left point, the rest c = separation + 1 far
        q, c = float(norm.ppf(min(2 * share, 1 - 1e-16))), separation + 1
        left = 4 * share - (q + 2) * norm.pdf(q)
        right = (1 - 2 * share) * (1 + c**2) + (q - 2 * c) * norm.pdf(q)
        expected = 1 + (left + right) / 2 + 1
        # squares of the separation cancel
        assert math.isclose(plan.cost, expected, rel_tol=1e-7, abs_tol=1e-15 * separation**2)


def test_points_that_coincide_share_a_cell():
    values, points, weights = problem()
    twice = torch.cat([points, points[:1]])
    split = torch.cat([weights, weights[:1] / 4])
    split[0] *= 3 / 4
    plan, single = (
        exact_plan(GridDensity(values, EXTENT, "lower"), *both)
        for both in [(twice, split), (points, weights)]
    )
    assert torch.isclose(plan.cost, single.cost)
    assert torch.allclose(plan.masses, split / split.sum(), atol=1e-9)
    assert torch.equal(plan.barycentres[0], plan.barycentres[-1])
    assert plan.potentials[0] == plan.potentials[-1]


def test_a_point_without_mass_changes_nothing_and_has_the_right_slope():
    values, points, weights = problem()
    more = torch.cat([points, torch.tensor([[1.0, 2.0]], dtype=DOUBLE)])
    none = torch.cat([weights, torch.zeros(1, dtype=DOUBLE)]).requires_grad_()
    plan = exact_plan(GridDensity(values, EXTENT, "lower"), more, none, tol=1e-13)
    assert torch.isclose(plan.cost.detach(), image_cost(values, points, weights))
    assert plan.masses[-1] == 0 and torch.equal(plan.barycentres[-1], more[-1])
    (slope,) = torch.autograd.grad(plan.cost, none)
    step = 1e-6
    some = torch.cat([weights, torch.full((1,), step, dtype=DOUBLE)])
    expected = (image_cost(values, more, some) - plan.cost.detach()) / step
    assert math.isclose(slope[-1], expected, rel_tol=1e-2)


def test_potentials_of_a_plan_nearby_save_steps():
    values, points, weights = problem(60)
    cold = exact_plan(GridDensity(values, EXTENT, "lower"), points, weights)
    moved = points + 1e-4 * torch.randn(60, 2, dtype=DOUBLE)
    options = {"potentials": cold.potentials}
    warm = exact_plan(GridDensity(values, EXTENT, "lower"), moved, weights, **options)
    assert warm.n_iter < cold.n_iter
    assert torch.isclose(warm.cost, image_cost(values, moved, weights))


def test_float32_comes_back_as_float32():
    values, points, weights = (t.float() for t in problem())
    plan = exact_plan(GridDensity(values, EXTENT, "lower"), points.requires_grad_(), weights)
    assert {plan.cost.dtype, plan.potentials.dtype, plan.barycentres.dtype} == {torch.float32}
    assert math.isclose(plan.cost.detach(), image_cost(*problem()), rel_tol=1e-5)
    plan.cost.backward()
    assert points.grad.dtype == torch.float32


def test_what_has_not_converged_is_an_error():
    values, points, weights = problem()
    with pytest.raises(
        RuntimeError, match=r"masses of the cells must be right to 1\.0e-08, got an"
    ):
        exact_plan(GridDensity(values, EXTENT, "lower"), points, weights, max_iter=1)


def test_slack_makes_masses_give_way_to_potentials_and_keeps_gradients(make_mixture):
    mixture, points, weights = mixture_problem(make_mixture, "full")
    b, slack = weights / weights.sum(), 0.01
    plan = exact_plan(mixture, points, weights, slack=slack, tol=1e-12)
    psi = plan.potentials - b @ plan.potentials
    assert torch.allclose(plan.masses, b * (1 - slack * psi))
    # least over all masses of the distance plus what giving way costs
    given = ((plan.masses - b) ** 2 / b).sum() / (2 * slack)
    assert torch.isclose(plan.cost, exact_plan(mixture, points, plan.masses).cost + given)
    assert plan.cost < exact_plan(mixture, points, weights).cost

    def cost(means, points, weights):
        moved = mixture._replace(means=means)
        return exact_plan(moved, points, weights, slack=slack, tol=1e-13).cost

    inputs = [t.clone().requires_grad_() for t in (mixture.means, points, weights)]
    assert torch.autograd.gradcheck(cost, inputs, eps=1e-5, atol=1e-6, fast_mode=True)


@pytest.mark.parametrize("far", [1e3, 1e140])
def test_a_point_of_no_mass_may_be_anywhere(far):
    points = torch.tensor([[0.5, 0.5], [far, 0.0]], dtype=DOUBLE)
    plan = exact_plan(even(), points, torch.tensor([1.0, 1e-200], dtype=DOUBLE))
    assert math.isclose(plan.cost, 1 / 6) and torch.isfinite(plan.potentials).all()
    # it is nearest to the lower right corner: (far - 1)^2 - (1 / 4 + 1 / 4) more than the other
    expected = (far - 1) ** 2 - 0.5
    assert math.isclose(plan.potentials[1] - plan.potentials[0], expected, rel_tol=1e-9)


def test_components_lie_in_the_cells_of_a_plan_as_their_samples_do(make_mixture, random_seed):
    mixture, points, weights = mixture_problem(make_mixture, "full")
    plan = exact_plan(mixture, points, weights)
    mass = component_masses(mixture, plan)
    assert torch.allclose(mixture.weights @ mass, plan.masses)
    X, labels = sample(mixture, 20_000, generator=torch.Generator().manual_seed(random_seed))
    cell = ((X.unsqueeze(1) - points).square().sum(2) - plan.potentials).argmin(1)
    for k in range(3):
        counted = torch.bincount(cell[labels == k], minlength=len(points)) / (labels == k).sum()
        assert torch.allclose(mass[k], counted.double(), atol=0.03)


@pytest.mark.parametrize("away", [(1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0)])
def test_a_point_whose_cell_begins_at_a_wall_has_no_mass(away):
    points = torch.tensor([[0.5, 0.5], [0.5, 0.5]], dtype=DOUBLE)
    points[1] += torch.tensor(away, dtype=DOUBLE)
    plan = nearest_plan(even(), points)
    assert torch.allclose(plan.masses, torch.tensor([1.0, 0.0], dtype=DOUBLE), atol=1e-12)
    assert math.isclose(plan.cost, 1 / 6)
