"""semidiscrete_distance and semidiscrete_plan: densities of every kind in, numbers out."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.exceptions import NotFittedError
from sklearn.mixture import GaussianMixture

from skgmmot import (
    DifferentiableGaussianMixture,
    GridDensity,
    semidiscrete_distance,
    semidiscrete_plan,
)

SQUARE = GridDensity(np.ones((8, 8)))
POINTS = np.array([[0.25, 0.5], [0.75, 0.5]])
NORMAL = ([1.0], [[0.0, 0.0]], [[4.0, 9.0]], "diag")


def test_the_distance_of_a_square_to_two_points_is_computed_by_hand():
    expected = (0.5**2 + 1) / 12
    assert math.isclose(semidiscrete_distance(SQUARE, POINTS, squared=True), expected)
    assert math.isclose(semidiscrete_distance(SQUARE, POINTS), math.sqrt(expected))


def test_in_a_periodic_box_distances_are_those_to_the_nearest_repetition():
    box = SQUARE._replace(periodic=True)
    assert math.isclose(semidiscrete_distance(box, [[0.0, 0.9]], squared=True), 1 / 6)
    plan = semidiscrete_plan(box, POINTS + np.array([0.5, 7.0]))
    assert math.isclose(plan.cost, (0.5**2 + 1) / 12)
    assert np.allclose(plan.barycentres, POINTS + np.array([0.5, 7.0]))
    assert [len(p) for p in plan.cells.polygons()] == [4, 4]


def test_voxels_and_mixtures_in_space_are_exact():
    cube = GridDensity(np.ones((1, 1, 1)))
    assert math.isclose(semidiscrete_distance(cube, [[0.5, 0.5, 0.5]], squared=True), 1 / 4)
    upper = GridDensity(np.arange(2.0)[:, None, None], origin="lower")  # the second layer
    assert upper.extent == (0, 0.5, 0, 0.5, 0, 1)
    assert np.allclose(semidiscrete_plan(upper, [[0, 0, 0]]).barycentres, [[0.25, 0.25, 0.75]])
    rows = GridDensity(np.arange(2.0)[None, :, None])  # the second row, which is below
    assert np.allclose(semidiscrete_plan(rows, [[0, 0, 0]]).barycentres, [[0.25, 0.25, 0.25]])
    normal = ([1.0], [[0.0, 0.0, 0.0]], [4.0], "spherical")
    pair = [[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
    exact = semidiscrete_plan(normal, pair, integration="exact")
    assert math.isclose(exact.cost, 13 - 4 * math.sqrt(2 / math.pi), rel_tol=1e-12)
    assert exact.cells.n_sites == 2 and exact.error < 1e-13
    nodes = semidiscrete_plan(normal, pair)
    assert nodes.cells is None and abs(nodes.cost - exact.cost) < nodes.error


def test_a_part_of_the_mass_is_that_of_discs_around_the_points():
    plan = semidiscrete_plan(SQUARE, POINTS, mass=0.2)
    assert np.allclose(plan.potentials, 0.1 / math.pi)  # squared radii
    distance = semidiscrete_distance(SQUARE, POINTS, mass=0.2)
    assert math.isclose(distance**2, 0.1**2 / math.pi) and math.isclose(plan.cost, distance**2)
    box = SQUARE._replace(periodic=True)
    moved = semidiscrete_distance(box, POINTS + np.array([0.3, 0.6]), mass=0.2)
    assert math.isclose(moved, distance)


@pytest.mark.parametrize("mass", [0.3, 0.7])
def test_a_part_of_a_mixture_is_found_by_nodes(mass):
    line = ([1.0], [[0.0]], [1.0], "spherical")
    radius = norm.ppf((1 + mass) / 2)
    expected = mass - 2 * radius * norm.pdf(radius)  # int_{-r}^r x^2 phi dx
    plan = semidiscrete_plan(line, [[0.0]], mass=mass)
    assert abs(plan.cost - expected) < plan.error < 2e-3
    assert math.isclose(plan.potentials[0], radius**2, rel_tol=1e-2)
    assert math.isclose(plan.masses[0], mass)
    points = torch.tensor(POINTS, requires_grad=True)
    semidiscrete_distance(NORMAL, points, mass=mass).backward()
    assert points.grad.abs().max() > 0


def test_images_estimators_and_tuples_are_densities(rng):
    X = rng.normal(size=(300, 2))
    ours = DifferentiableGaussianMixture(2, random_state=0).fit(X)
    theirs = GaussianMixture(2, random_state=0).fit(X)
    as_tuple = (ours.weights_, ours.means_, ours.covariances_)
    values = [semidiscrete_distance(m, X) for m in (ours, theirs, as_tuple)]
    assert np.allclose(values, values[0])
    assert 0 < values[0] < 0.3


def test_the_plan_comes_in_the_kind_of_its_input():
    plan = semidiscrete_plan(SQUARE, POINTS, [1, 3])
    assert isinstance(plan.barycentres, np.ndarray) and isinstance(plan.cost, float)
    assert np.allclose(plan.masses, [0.25, 0.75])
    assert [len(p) for p in plan.cells.polygons()] == [4, 4]
    points = torch.tensor(POINTS, requires_grad=True)
    plan = semidiscrete_plan(SQUARE, points)
    assert isinstance(plan.potentials, torch.Tensor) and plan.cost.requires_grad


def test_gradients_flow_to_whatever_is_a_tensor():
    image = torch.rand(8, 8, requires_grad=True)
    points = torch.tensor(POINTS + 0.1, requires_grad=True)
    semidiscrete_distance(GridDensity(image), points).backward()
    assert torch.isfinite(image.grad).all() and torch.isfinite(points.grad).all()
    assert points.grad.abs().max() > 0
    variances = torch.tensor([[4.0, 9.0]], requires_grad=True)
    semidiscrete_distance((*NORMAL[:2], variances, "diag"), POINTS).backward()
    assert variances.grad.min() > 0


def test_nodes_serve_any_dimension_and_agree_with_the_plane():
    exact = semidiscrete_distance(NORMAL, POINTS)
    assert math.isclose(
        semidiscrete_distance(NORMAL, POINTS, integration="nodes"), exact, rel_tol=1e-3
    )
    line = ([1.0], [[0.0]], [4.0], "spherical")
    # E(|x| - 1)^2 = 4 + 1 - 2 E|x|
    expected = 5 - 4 * math.sqrt(2 / math.pi) * 1
    plan = semidiscrete_plan(line, [[-1.0], [1.0]])
    assert abs(plan.cost - expected) < plan.error + 1e-6
    assert plan.cells is None and 0 < plan.error < 0.01
    assert math.isclose(plan.cost, expected, rel_tol=2e-3)


def test_at_zero_the_gradient_is_zero():
    # the only density at distance zero of a point is one that shrinks to it
    point = torch.zeros(1, 2, requires_grad=True, dtype=torch.float64)
    tiny = ([1.0], [[0.0, 0.0]], [[1e-300, 1e-300]], "diag")
    semidiscrete_distance(tiny, point).backward()
    assert torch.equal(point.grad, torch.zeros(1, 2))


@pytest.mark.parametrize(
    ("density", "points", "options", "message"),
    [
        (GridDensity(np.zeros((2, 2))), POINTS, {}, "must have a positive total, got all zeros"),
        (GridDensity(-np.ones((2, 2))), POINTS, {}, "must be finite and non-negative, got a range"),
        (GridDensity(np.full((2, 2), np.nan)), POINTS, {}, "must be finite and non-negative"),
        (GridDensity(np.ones(4)), POINTS, {}, r"must have shape \(rows, columns\), got \(4,\)"),
        (GridDensity(np.ones((2, 2)), (1, 0, 0, 1)), POINTS, {}, "extent of a GridDensity must be"),
        (SQUARE._replace(periodic="x"), POINTS, {}, "periodic of a GridDensity must be True or Fa"),
        (GridDensity(np.ones((16, 20, 3))), POINTS, {}, r"of a colour picture, \(16, 20, 3\)"),
        (GridDensity(np.ones((2, 2, 2)), (0, 1, 0, 1)), POINTS, {}, "must be two ends for each of"),
        (
            GridDensity(np.ones((2, 2, 2))),
            np.ones((1, 3)),
            {"mass": 0.5},
            r"mass must be 1 for three features, got 0\.5",
        ),
        (NORMAL, np.ones((3, 3)), {}, r"points must have shape \(n_points, 2\)"),
        (NORMAL, np.ones(3), {}, r"got \(3,\). Use points\[:, None\] if it holds one feature"),
        (NORMAL, np.empty((0, 2)), {}, r"points must have shape \(n_points, 2\)"),
        (NORMAL, [[0.0, np.nan]], {}, "points must be finite, got NaN or infinity"),
        (NORMAL, POINTS, {"weights": [1.0]}, r"weights must have shape \(2,\), got \(1,\)"),
        (NORMAL, POINTS, {"weights": [1.0, -1.0]}, "weights must be finite and non-negative"),
        (NORMAL, POINTS, {"weights": [0.0, 0.0]}, "with a positive sum, got a range of 0 to 0"),
        (
            NORMAL,
            POINTS,
            {"integration": "exakt"},
            "integration must be 'auto', 'exact' or 'nodes', got",
        ),
        (
            SQUARE,
            POINTS,
            {"mass": 0},
            r"mass must be a number in \(0, 1\], got 0\. It is the share",
        ),
        (SQUARE, POINTS, {"mass": 1.5}, r"mass must be a number in \(0, 1\], got 1\.5"),
        (SQUARE, POINTS, {"mass": "half"}, r"mass must be a number in \(0, 1\], got 'half'"),
        (
            NORMAL,
            POINTS,
            {"mass": 1e-20},
            r"mass must be at least 1e-12, got 1e-20\. The discs of smaller shares",
        ),
        (
            NORMAL,
            POINTS,
            {"mass": 0.5, "integration": "exact"},
            "integration must be 'nodes' for a part of a mixture, got 'exact' and mass=0.5",
        ),
        (NORMAL, POINTS, {"n_nodes": 0}, "n_nodes must be a positive integer, got 0"),
        (NORMAL, POINTS, {"n_nodes": True}, "n_nodes must be a positive integer, got True"),
        (SQUARE, POINTS, {"integration": "nodes"}, "integration must be 'exact' for a GridDensity"),
        (
            ([1.0], [[0.0]], [4.0], "spherical"),
            [[1.0]],
            {"integration": "exact"},
            "integration must be 'node",
        ),
        (([1.0], [[0.0, 0.0]], [[0.0, 1.0]], "diag"), POINTS, {}, "must be positive definite, got"),
    ],
)
def test_bad_input_is_refused_in_plain_words(density, points, options, message):
    with pytest.raises(ValueError, match=message):
        semidiscrete_distance(density, points, **options)


def test_other_things_are_no_densities():
    with pytest.raises(TypeError, match="density must be a GridDensity, a fitted mixture est"):
        semidiscrete_distance(np.ones((3, 3)), POINTS)
    with pytest.raises(NotFittedError):
        semidiscrete_distance(DifferentiableGaussianMixture(), POINTS)


@pytest.mark.parametrize(
    ("density", "points", "message"),
    [
        (SQUARE, 1e200 * POINTS, r"points must be smaller than 1e\+150 for squared distances"),
        (GridDensity(np.ones((2, 2)), (0, 1, 0, 1e-200)), POINTS, "must be wider than 1e-150 for"),
        (([1.0], [[1e200, 0.0]], [[4.0, 9.0]], "diag"), POINTS, r"density must be smaller than 1e"),
        (([1.0], [[0.0, 0.0]], [[1e-310, 1e-310]], "diag"), POINTS, "density must be wider than"),
    ],
)
def test_sizes_whose_squares_are_no_numbers_are_refused_in_words(density, points, message):
    with pytest.raises(ValueError, match=message):
        semidiscrete_distance(density, points)


def test_a_thousand_magnitudes_lie_between_a_density_and_its_points():
    far = semidiscrete_distance(NORMAL, 1e140 * POINTS, squared=True)
    assert math.isclose(far / 1e280, (0.25**2 + 0.75**2) / 2 + 0.5**2)
    near = semidiscrete_distance(NORMAL, 1e-300 * POINTS, squared=True)
    assert math.isclose(near, 13.0)
