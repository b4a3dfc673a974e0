"""Transport of voxels: integrals, closed forms, discrete transport, finite differences."""

import itertools
import math

import numpy as np
import ot
import pytest
import torch

from skgmmot.transport.semidiscrete.grid import GridDensity
from skgmmot.transport.semidiscrete.plan import exact_plan, nearest_plan
from skgmmot.transport.semidiscrete.space.diagram import Cuboid
from skgmmot.transport.semidiscrete.space.voxels import VoxelIntegrals

DOUBLE = torch.float64
CUBE = GridDensity(torch.ones(1, 1, 1, dtype=DOUBLE))
EXTENT, PERIOD = (0.0, 2.0, 0.0, 1.5, 1.0, 2.0), torch.tensor([2.0, 1.5, 1.0], dtype=DOUBLE)


def tensor(values):
    return torch.tensor(values, dtype=DOUBLE)


@pytest.fixture
def some(rng):
    """Voxels, sites and heights."""
    box = Cuboid(np.zeros(3), np.array([2.0, 1.5, 1.0]))
    values = rng.random((2, 3, 4)) + 0.1
    voxels, _ = VoxelIntegrals(values / values.sum() * 8, box).centred()
    sites = voxels.box.low + rng.random((9, 3)) * [2, 1.5, 1]
    return voxels, sites, (sites**2).sum(1) - 0.1 * rng.random(9)


def test_integrals_are_those_of_many_places(some):
    voxels, sites, heights = some
    diagram = voxels.diagram(sites, heights)
    places, mass = voxels.nodes(100_000)
    cell = (2 * places @ sites.T - heights).argmax(1)
    masses, _ = voxels.measure(diagram)
    assert np.allclose(masses, np.bincount(cell, mass, 9), atol=5e-4)
    moments = voxels.moments(diagram)
    assert np.allclose(moments[:, 2], np.bincount(cell, mass * places[:, 2], 9), atol=5e-4)
    assert np.allclose(moments[:, 0], np.bincount(cell, mass * places[:, 0], 9), atol=5e-4)
    assert np.isclose(masses.sum(), 1, rtol=1e-14) and np.allclose(moments.sum(0), 0, atol=1e-15)
    assert np.allclose((mass * places.T) @ places, voxels.covariance(), atol=1e-3)
    assert np.allclose(voxels.blurred(1.0).values, 1 / 3)


def test_derivatives_of_masses_are_integrals_over_facets(some):
    voxels, sites, heights = some
    diagram, h = voxels.diagram(sites, heights), 1e-6
    weight = voxels.measure(diagram)[1] / (2 * diagram.separation(sites))
    step = h * np.eye(9)[0]
    more, less = (voxels.measure(voxels.diagram(sites, heights + s))[0] for s in (step, -step))
    expected = np.zeros(9)
    for (left, right), w in zip(diagram.sites, weight, strict=True):
        if 0 in (left, right):
            expected[left + right] += w
            expected[0] -= w
    assert np.allclose((more - less) / (2 * h), expected, atol=1e-8)


@pytest.mark.parametrize("periodic", [False, True])
def test_a_lattice_costs_the_second_moment_of_its_cell(periodic):
    for n in (1, 2, 3):
        axis = (np.arange(n) + 0.5) / n
        lattice = tensor(list(itertools.product(axis, repeat=3)))
        plan = exact_plan(CUBE._replace(periodic=periodic), lattice, torch.ones(n**3).double())
        assert math.isclose(plan.cost, 3 / 12 / n**2, rel_tol=1e-10)
        assert torch.allclose(plan.barycentres, lattice)


def test_a_body_centred_lattice_has_truncated_octahedra():
    points = tensor([[0.1, 0.2, 0.3], [0.6, 0.7, 0.8]])
    plan = exact_plan(CUBE._replace(periodic=True), points, tensor([1.0, 1.0]))
    # the dimensionless second moment of a truncated octahedron, at a volume of one half
    assert math.isclose(plan.cost, 3 * 19 / (192 * 2 ** (1 / 3)) * 0.5 ** (2 / 3))
    shape = plan.cells.polyhedra()[0]
    assert (np.abs(shape - [0.1, 0.2, 0.3]).max(0) <= 0.5 + 1e-9).all()


def test_two_points_split_the_box_by_their_masses():
    plan = exact_plan(CUBE, tensor([[0.25, 0.5, 0.5], [9.0, 0.5, 0.5]]), tensor([1.0, 3.0]))
    assert torch.allclose(plan.barycentres, tensor([[0.125, 0.5, 0.5], [0.625, 0.5, 0.5]]))
    across = (0.25**3 / 12 + 0.25 * 0.125**2) + (0.75**3 / 12 + 0.75 * 8.375**2)
    assert math.isclose(plan.cost, across + 1 / 6)
    assert np.allclose([c.max(0) for c in plan.cells.polyhedra()], [[0.25, 1, 1], [1, 1, 1]])


@pytest.mark.parametrize("periodic", [False, True])
def test_voxels_equal_discrete_transport_and_gradients_finite_differences(periodic):
    g = torch.Generator().manual_seed(0)
    values = torch.rand(2, 3, 2, dtype=DOUBLE, generator=g) + 0.05
    points = 2.5 * torch.rand(5, 3, dtype=DOUBLE, generator=g) - 0.2
    weights = torch.rand(5, dtype=DOUBLE, generator=g) + 0.2

    def cost(points, weights):
        density = GridDensity(values, EXTENT, "lower", periodic)
        return exact_plan(density, points, weights, tol=1e-13).cost

    fine, axes = values, []
    for axis, (begin, length) in enumerate(((1.0, 1.0), (0.0, 1.5), (0.0, 2.0))):
        fine = fine.repeat_interleave(6, axis)
        n = fine.shape[axis]
        axes.append(begin + (torch.arange(n, dtype=DOUBLE) + 0.5) / n * length)
    nodes = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3).flip(1)
    away = (nodes[:, None] - points).abs()
    if periodic:
        away = torch.minimum(away % PERIOD, PERIOD - away % PERIOD)
    a, b = fine.flatten() / fine.sum(), weights / weights.sum()
    expected = ot.emd2(a, b, away.square().sum(-1))
    assert math.isclose(cost(points, weights), expected, rel_tol=5e-3)
    inputs = [t.requires_grad_() for t in (points, weights)]
    assert torch.autograd.gradcheck(cost, inputs, eps=1e-5, atol=1e-6, fast_mode=True)


def test_masses_of_many_magnitudes_and_equal_points_are_met():
    g = torch.Generator().manual_seed(2)
    points = torch.rand(20, 3, dtype=DOUBLE, generator=g)
    points[5] = points[6]
    weights = 10 ** (-6 * torch.rand(20, dtype=DOUBLE, generator=g)) * (torch.arange(20) != 3)
    values = torch.rand(3, 3, 3, dtype=DOUBLE, generator=g) * (torch.arange(3) != 1)
    plan = exact_plan(GridDensity(values), points, weights)
    assert torch.allclose(plan.masses, weights / weights.sum(), rtol=1e-3)
    assert torch.equal(plan.barycentres[3], points[3])


def test_free_masses_are_those_of_voronois_cells():
    plan = nearest_plan(CUBE, tensor([[0.0, 0.5, 0.5], [0.5, 0.5, 0.5]]))
    assert torch.allclose(plan.masses, tensor([0.25, 0.75]))
    assert math.isclose(plan.cost, (0.25**3 * 2 + 0.5**3) / 3 + 1 / 6)


def test_what_is_not_there_is_said():
    point, one = tensor([[0.5, 0.5, 0.5]]), tensor([1.0])
    with pytest.raises(ValueError, match=r"mass must be 1 for three features, got 0\.5"):
        exact_plan(CUBE, point, one, mass=0.5)
    needs = CUBE._replace(values=CUBE.values.clone().requires_grad_())
    with pytest.raises(ValueError, match=r"with three axes, got some that do\. Detach them"):
        exact_plan(needs, point, one)
