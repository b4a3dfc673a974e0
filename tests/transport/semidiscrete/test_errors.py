"""Errors of semi-discrete plans: each of their parts, where it is all there is."""

import math

import numpy as np
import torch

from skgmmot.transport.semidiscrete.grid import GridDensity
from skgmmot.transport.semidiscrete.nodes import nodes_plan
from skgmmot.transport.semidiscrete.plan import exact_plan, nearest_plan

DOUBLE = torch.float64


def square(n=4, **options):
    return GridDensity(torch.ones(n, n, dtype=DOUBLE), (0, 1, 0, 1), "lower", **options)


def line(*places):
    return torch.tensor([[x, 0.5] for x in places], dtype=DOUBLE)


def test_missed_masses_cost_what_they_are_stated_to():
    points = torch.rand(30, 2, dtype=DOUBLE)
    b = torch.rand(30, dtype=DOUBLE) + 0.1
    best = exact_plan(square(), points, b)
    rough = exact_plan(square(), points, b, tol=1e-2)
    missed = float(best.cost - rough.cost)
    assert 1e-9 < missed < rough.error < 4 * missed
    assert math.isclose(rough.mass_error, float((rough.masses - b / b.sum()).abs().sum()))
    assert best.error < 1e-14 and best.mass_error < 1e-8


def test_merged_and_dropped_points_are_part_of_the_error():
    b = torch.tensor([0.5, 0.25, 0.25], dtype=DOUBLE)
    merged = exact_plan(square(), line(0.0, 1.0, 1.0 + 1e-13), b)
    assert 1e-14 < merged.error < 1e-12
    far = 1e3  # a mass of 1e-16 there costs 1e-10
    dropped = exact_plan(square(), line(0.0, 1.0, far), torch.tensor([0.5, 0.5, 1e-16]))
    kept = exact_plan(square(), line(0.0, 1.0), torch.ones(2, dtype=DOUBLE))
    true = 1e-16 * (far - 0.75) ** 2
    assert float(abs(kept.cost - dropped.cost)) < 1e-14 < true * 0.9 < dropped.error < 10 * true


def test_rounding_to_single_precision_is_part_of_the_error():
    mixture = [torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None]]
    from skgmmot.gaussian.mixture import GaussianMixtureParams

    mixture = GaussianMixtureParams(*mixture)
    for plan in (exact_plan(mixture, line(-1, 1).float(), torch.ones(2)),):
        assert 1e-8 < plan.error / float(plan.cost) < 1e-6
    nodes = nodes_plan(mixture, line(-1, 1).float(), torch.ones(2))
    assert nodes.error > 1e-7 * float(nodes.cost)


def test_errors_are_estimated_only_where_they_are_asked_for():
    points, b = line(0.2, 0.7), torch.ones(2, dtype=DOUBLE)
    for options in ({}, {"mass": 0.5}):
        plan = exact_plan(square(), points, b, estimate_error=False, **options)
        same = exact_plan(square(), points, b, **options)
        assert math.isnan(plan.error) and math.isnan(plan.mass_error)
        assert plan.cost == same.cost and same.error < 1e-14
    assert math.isnan(nearest_plan(square(), points, estimate_error=False).error)
    nearest = nearest_plan(square(), points)
    assert 0 < nearest.error < 1e-14 and nearest.mass_error == 0


def test_a_point_far_from_the_origin_has_errors_of_the_size_of_its_rounding():
    grid = square()
    far = grid._replace(extent=tuple(e + 1e6 for e in grid.extent))
    points, b = line(0.25, 2.0), torch.ones(2, dtype=DOUBLE)
    plan, here = exact_plan(far, points + 1e6, b), exact_plan(grid, points, b)
    assert float(abs(plan.cost - here.cost)) <= plan.error < 1e-8 and here.error < 1e-14
    assert np.isfinite(plan.mass_error)
