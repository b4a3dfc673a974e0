"""Geodesics and bridges between mixtures, and their velocity fields."""

import pytest
import torch
from one_feature import line
from torch.testing import assert_close

from skgmmot.gaussian.covariance.registry import COVARIANCE_TYPES, ELEMENTARY_TYPES
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.numerics.linalg import bures_map
from skgmmot.transport.mixtures.distance import transport_plan
from skgmmot.transport.mixtures.geodesic import interpolate

F64 = torch.float64


def distance(source, target):
    return transport_plan(source, target).cost.sqrt()


def test_the_geodesic_between_gaussians_carries_the_source_by_the_mean_of_the_maps(
    name, make_mixture
):
    source, target = (make_mixture(name, 1, 3, seed=s) for s in (1, 2))
    S, t = source.full_covariances()[0], 0.3
    A = (1 - t) * torch.eye(3, dtype=F64) + t * bures_map(S, target.full_covariances()[0])
    middle = interpolate(source, target, t)
    assert_close(middle.means, (1 - t) * source.means + t * target.means)
    assert_close(middle.full_covariances()[0], A @ S @ A)


def test_the_geodesic_in_one_dimension_has_the_mean_deviation():
    middle = interpolate(line(0.0, 1.0), line(8.0, 5.0), 0.25)
    assert_close(middle.means.item(), 2.0)
    assert_close(middle.covariances.item(), 4.0)


@pytest.mark.parametrize("other", [t.name for t in ELEMENTARY_TYPES])
def test_geodesics_have_constant_speed(name, other, make_mixture):
    source, target = make_mixture(name, 3, 4, seed=1), make_mixture(other, 5, 4, seed=2)
    whole, times = distance(source, target), [0.0, 0.2, 0.7, 1.0]
    stations = [interpolate(source, target, t) for t in times]
    assert distance(source, stations[0]) < 1e-6 and distance(stations[-1], target) < 1e-6
    for t, at in zip(times, stations, strict=True):
        assert_close(at.weights.sum().item(), 1.0)
        assert len(at.weights) <= 3 + 5 - 1
        for s, before in zip(times, stations, strict=True):
            assert abs(distance(before, at) - abs(t - s) * whole) < 1e-6


@pytest.mark.parametrize("other", [t.name for t in ELEMENTARY_TYPES])
def test_the_geodesic_keeps_the_covariance_type_that_both_mixtures_have(name, other, make_mixture):
    source, target = make_mixture(name, 3, 4, seed=1), make_mixture(other, 5, 4, seed=2)
    kind = interpolate(source, target, 0.5).covariance_type
    both = {name, other}
    expected = name if len(both) == 1 else "diag" if both == {"diag", "spherical"} else "full"
    assert kind is COVARIANCE_TYPES[expected]


def test_a_geodesic_runs_backwards_as_forwards(name, make_mixture):
    source, target = make_mixture(name, 3, 2, seed=1), make_mixture(name, 4, 2, seed=2)
    there, back = interpolate(source, target, 0.3), interpolate(target, source, 0.7)
    assert distance(there, back) < 1e-6


@pytest.mark.parametrize("rank", [0, 1])
def test_singular_covariances_are_on_geodesics_too(rank, make_covariances, make_mixture):
    target = make_mixture("full", 1, 3, seed=1)
    S = torch.zeros(1, 3, 3, dtype=F64)
    S[0, :rank, :rank] = 4.0
    source = GaussianMixtureParams(target.weights, torch.zeros(1, 3, dtype=F64), S)
    whole = distance(source, target)
    for t in (0.25, 1.0):
        at = interpolate(source, target, t)
        assert_close(distance(source, at), t * whole, rtol=1e-7, atol=1e-7)
        assert distance(at, target) < (1 - t) * whole + 1e-6


def test_a_plan_of_ones_own_is_followed(pair):
    source, target = pair
    independent = source.weights.unsqueeze(1) * target.weights
    plan = transport_plan(source, target)._replace(coupling=independent)
    middle = interpolate(source, target, 0.5, plan)
    assert_close(middle.weights, independent.flatten())
    assert len(middle.means) == 12


# --- flows and bridges ---------------------------------------------------------------------------
