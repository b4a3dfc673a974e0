"""Lloyd's steps: closed forms, scikit-learn's k-means, and a cost that never rises."""

import math

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from skgmmot.fitting.quantization import Lloyd, Samples, nearest_cell
from skgmmot.numerics.fixed_point import iterate
from skgmmot.transport.semidiscrete.grid import GridDensity

DOUBLE = torch.float64


def samples(n=200, seed=0):
    """Samples of equal mass in the plane."""
    X = torch.randn(n, 2, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))
    return Samples(X, torch.full((n,), 1 / n, dtype=DOUBLE))


def square():
    return GridDensity(torch.ones(8, 8, dtype=DOUBLE))


@pytest.mark.parametrize("masses", [None, torch.full((2,), 0.5, dtype=DOUBLE)])
def test_two_points_of_a_square_end_in_the_middle_of_its_halves(masses):
    start = torch.tensor([[0.2, 0.4], [0.9, 0.5]], dtype=DOUBLE)
    step = Lloyd(square(), masses)
    solution = iterate(step, (start,), tol=1e-12, max_iter=200)
    expected = torch.tensor([[0.25, 0.5], [0.75, 0.5]], dtype=DOUBLE)
    assert solution.converged
    assert torch.allclose(solution.value[0], expected, atol=1e-5)
    assert math.isclose(math.exp(-solution.objective), (0.5**2 + 1) / 12, rel_tol=1e-9)


def test_with_free_masses_samples_are_clustered_as_by_k_means():
    density = samples()
    start = density.X[:5]
    step = Lloyd(density, None)
    (points,) = iterate(step, (start,), tol=0, max_iter=100).value
    kmeans = KMeans(5, init=start.numpy(), n_init=1, tol=0, max_iter=300).fit(density.X.numpy())
    assert np.allclose(points.numpy(), kmeans.cluster_centers_)
    step((points,))
    assert math.isclose(200 * float(step.plan.cost), kmeans.inertia_, rel_tol=1e-9)


@pytest.mark.parametrize("uniform", [True, False])
@pytest.mark.parametrize("density", [samples(), square()], ids=["samples", "square"])
def test_the_cost_never_rises(density, uniform):
    start = torch.rand(9, 2, dtype=DOUBLE)
    masses = torch.full((9,), 1 / 9, dtype=DOUBLE) if uniform else None
    solution = iterate(Lloyd(density, masses), (start,), tol=0, max_iter=20)
    assert (np.diff(solution.objectives) > -1e-12).all()


def test_equal_masses_are_equal_up_to_samples_on_borders():
    step = Lloyd(samples(), torch.full((8,), 1 / 8, dtype=DOUBLE))
    points = iterate(step, (samples().X[:8],), tol=1e-6, max_iter=100).value
    step(points)
    label = nearest_cell(samples().X, points[0], step.plan.potentials)
    assert torch.allclose(step.plan.masses, torch.full((8,), 1 / 8, dtype=DOUBLE))
    # the network simplex has up to seven samples on borders, which may be split
    assert (torch.bincount(label) - 25).abs().sum() / 2 <= 7


def test_a_point_that_is_nearest_to_nothing_stays_where_it_is():
    start = torch.tensor([[0.0, 0.0], [1e3, 1e3]], dtype=DOUBLE)
    for density in (samples(), square()):
        step = Lloyd(density, None)
        (points,), _ = step((start,))
        assert torch.equal(points[1], start[1])
        assert step.plan.masses[1] == 0


def test_a_free_plan_on_an_image_has_the_masses_and_cost_of_the_nearest_points():
    g = torch.Generator().manual_seed(3)
    values, points = torch.rand(10, 10, dtype=DOUBLE, generator=g), torch.rand(6, 2).double()
    step = Lloyd(GridDensity(values, origin="lower"), None)
    step((points,))
    side = (torch.arange(400, dtype=DOUBLE) + 0.5) / 400
    x = torch.stack(torch.meshgrid(side, side, indexing="xy"), -1).reshape(-1, 2)
    mass = values.repeat_interleave(40, 0).repeat_interleave(40, 1).flatten()
    label = nearest_cell(x, points, torch.zeros(6, dtype=DOUBLE))
    cost = (x - points[label]).square().sum(1)
    masses = torch.zeros(6, dtype=DOUBLE).index_add_(0, label, mass / mass.sum())
    assert torch.allclose(step.plan.masses, masses, atol=1e-3)
    assert math.isclose(step.plan.cost, float(mass @ cost / mass.sum()), rel_tol=1e-3)


def test_unequal_masses_take_unequal_shares_of_the_samples():
    X = torch.tensor([[0.0], [1.0], [2.0], [6.0], [7.0]], dtype=DOUBLE)
    a, masses = torch.full((5,), 0.2, dtype=DOUBLE), torch.tensor([0.5, 0.2, 0.3], dtype=DOUBLE)
    step = Lloyd(Samples(X, a), masses)
    (points,), _ = step((torch.tensor([[0.0], [3.0], [8.0]], dtype=DOUBLE),))
    # in order: 0, 1 and half of 2; the other half of 2 and half of 6; the other half of 6, and 7
    expected = [(0 + 1 + 2 / 2) / 2.5, (2 / 2 + 6 / 2) / 1, (6 / 2 + 7) / 1.5]
    assert torch.allclose(points.flatten(), torch.tensor(expected, dtype=DOUBLE))
    assert torch.equal(step.plan.masses, masses)
    cost = 0 + 1 + 4 / 2 + 1 / 2 + 9 / 2 + 4 / 2 + 1
    assert math.isclose(step.plan.cost, 0.2 * cost)


@pytest.mark.parametrize("size", [1e-200, 1.0, 1e200])
def test_the_nearest_cell_is_found_where_squares_leave_the_range_of_numbers(size):
    X = size * torch.tensor([[0.0, 0.0], [2.0, 1.0], [5.0, 5.0]], dtype=DOUBLE)
    points = size * torch.tensor([[2.0, 2.0], [4.0, 4.0], [1.0, 1e9]], dtype=DOUBLE)
    assert nearest_cell(X, points, torch.zeros(3, dtype=DOUBLE)).tolist() == [0, 0, 1]


@pytest.mark.parametrize("masses", [None, torch.tensor([0.5, 0.25, 0.25], dtype=DOUBLE)])
def test_samples_have_cells_and_images_have_none(masses):
    density, points = samples(40), samples(3, seed=1).X
    plan, label = Lloyd(density, masses).final_plan(points)
    assert label.shape == (40,)
    shares = torch.bincount(label, minlength=3) / 40
    assert torch.allclose(shares.double(), plan.masses, atol=2 / 40)  # two samples on borders
    assert Lloyd(square(), masses).final_plan(points)[1] is None


def test_a_line_is_quantised():
    X = torch.tensor([[0.0], [1.0], [4.0], [7.0]], dtype=DOUBLE)
    cloud = Samples(X, torch.full((4,), 0.25, dtype=DOUBLE))
    plan, label = Lloyd(cloud, None).final_plan(torch.tensor([[0.0], [6.0]], dtype=DOUBLE))
    assert label.tolist() == [0, 0, 1, 1]
    assert torch.allclose(plan.masses, torch.tensor([0.5, 0.5], dtype=DOUBLE))
    assert math.isclose(float(plan.cost), 0.25 * (0 + 1 + 4 + 1))
