"""The exact barycentre of mixtures, and what barycentres minimise."""

import itertools
import math

import pytest
import torch
from torch.testing import assert_close

from skgmmot.gaussian.bures.barycenter import gaussian_barycenter
from skgmmot.gaussian.covariance.registry import COVARIANCE_TYPES, ELEMENTARY_TYPES, FULL
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.transport.mixtures.barycenter import (
    common_type,
    exact_barycenter,
    lower_bound,
    objective,
)
from skgmmot.transport.mixtures.distance import transport_plan
from skgmmot.transport.mixtures.geodesic import interpolate

F64 = torch.float64
WEIGHTS = torch.tensor([0.2, 0.3, 0.5], dtype=F64)


@pytest.fixture(params=[t.name for t in ELEMENTARY_TYPES])
def name(request):
    """A covariance type's name."""
    return request.param


@pytest.fixture
def three(make_mixture):
    """Three mixtures of a covariance type."""
    return lambda name: [make_mixture(name, K, 2, seed=K) for K in (3, 2, 4)]


def distance(source, target):
    return transport_plan(source, target).cost.clamp(min=0).sqrt()


# --- closed forms ------------------------------------------------------------------------------


def test_single_gaussians_have_the_barycentre_of_gaussians(name, make_mixture):
    mixtures = [make_mixture(name, 1, 3, seed=s) for s in range(3)]
    found = exact_barycenter(mixtures, WEIGHTS)
    means = torch.cat([m.means for m in mixtures])
    covariances = torch.cat([m.full_covariances() for m in mixtures])
    mean, covariance = gaussian_barycenter(means, covariances, WEIGHTS)
    assert_close(found.means[0], mean)
    assert_close(found.full_covariances()[0], covariance, rtol=1e-7, atol=1e-9)


def test_two_mixtures_have_theirs_on_the_geodesic(name, make_mixture):
    source, target = make_mixture(name, 3, 2, seed=1), make_mixture(name, 4, 2, seed=2)
    weights = torch.tensor([0.3, 0.7], dtype=F64)
    found = exact_barycenter([source, target], weights)
    assert distance(found, interpolate(source, target, 0.7)) < 1e-7
    # lambda_0 (0.7 MW2)^2 + lambda_1 (0.3 MW2)^2 = lambda_0 lambda_1 MW2^2
    expected = 0.3 * 0.7 * transport_plan(source, target).cost.item()
    assert objective(found, [source, target], weights) == pytest.approx(expected, rel=1e-9)


def test_one_mixture_is_its_own_barycentre(make_mixture):
    mixture = make_mixture("full", 3, 2)
    found = exact_barycenter([mixture], torch.ones(1, dtype=F64))
    assert_close(tuple(found), tuple(mixture))


def test_points_on_a_line_are_joined_by_their_order():
    # In one dimension the barycentre averages quantiles.
    def points(*positions):
        means = torch.tensor(positions, dtype=F64).unsqueeze(1)
        weights = torch.full((len(positions),), 1 / len(positions), dtype=F64)
        return GaussianMixtureParams(weights, means, torch.zeros_like(means))

    mixtures = [points(0.0, 1.0), points(5.0, 2.0), points(7.0, 3.0)]
    found = exact_barycenter(mixtures, WEIGHTS)
    assert_close(found.weights, torch.full((2,), 0.5, dtype=F64))
    low, high = 0.3 * 2 + 0.5 * 3, 0.2 * 1 + 0.3 * 5 + 0.5 * 7
    assert_close(found.means.flatten().sort().values, torch.tensor([low, high], dtype=F64))


# --- peers -------------------------------------------------------------------------------------


def test_it_is_no_worse_than_any_other_mixture(name, three, make_mixture):
    mixtures = three(name)
    best = objective(exact_barycenter(mixtures, WEIGHTS), mixtures, WEIGHTS)
    chain = interpolate(interpolate(*mixtures[:2], 0.6), mixtures[2], 0.5)
    others = [*mixtures, chain, *(make_mixture(name, 5, 2, seed=s) for s in range(50, 55))]
    for other in others:
        assert best <= objective(other, mixtures, WEIGHTS) + 1e-9


# --- invariances -------------------------------------------------------------------------------


def test_it_has_few_components_of_the_common_type(name, three):
    mixtures = three(name)
    found = exact_barycenter(mixtures, WEIGHTS)
    assert len(found.weights) <= 3 + 2 + 4 - 2
    assert_close(found.weights.sum().item(), 1.0)
    assert found.covariance_type is COVARIANCE_TYPES[name]


def test_the_order_of_the_mixtures_does_not_matter(three):
    mixtures = three("full")
    found = exact_barycenter(mixtures, WEIGHTS)
    turned = exact_barycenter(mixtures[::-1], WEIGHTS.flip(0))
    assert distance(found, turned) < 1e-6


def test_the_barycentre_of_equal_mixtures_is_that_mixture(make_mixture):
    mixture = make_mixture("full", 3, 2)
    permuted = GaussianMixtureParams(*(t[[2, 0, 1]] for t in mixture))
    found = exact_barycenter([mixture, permuted, mixture], WEIGHTS)
    assert distance(found, mixture) < 1e-6
    assert objective(found, [mixture] * 3, WEIGHTS) < 1e-12


@pytest.mark.parametrize("one, other", list(itertools.combinations(COVARIANCE_TYPES, 2)))
def test_mixed_types_have_a_full_barycentre_unless_all_are_diagonal(one, other, make_mixture):
    mixtures = [make_mixture(t, 3, 2, seed=i) for i, t in enumerate([one, other, one])]
    expected = "diag" if {one, other} == {"diag", "spherical"} else "full"
    assert common_type(mixtures) is COVARIANCE_TYPES[expected]
    found = exact_barycenter(mixtures, WEIGHTS)
    assert found.covariance_type is COVARIANCE_TYPES[expected]
    full = [m._replace(covariances=m.full_covariances(), covariance_type=FULL) for m in mixtures]
    assert distance(found, exact_barycenter(full, WEIGHTS)) < 1e-5


def test_the_lower_bound_is_attained_by_two_mixtures(make_mixture):
    mixtures = [make_mixture("full", 2, 2, seed=seed) for seed in range(3)]
    of_two, of_three = (
        (
            lower_bound(mixtures[:J], w),
            objective(exact_barycenter(mixtures[:J], w), mixtures[:J], w),
        )
        for J, w in ((2, WEIGHTS[:2] / WEIGHTS[:2].sum()), (3, WEIGHTS))
    )
    assert math.isclose(*of_two, rel_tol=1e-9)
    assert 0 < of_three[0] < of_three[1]


@pytest.mark.parametrize("n_mixtures", [1, 2, 3, 4])
def test_the_exact_barycentre_is_certified_to_rounding(n_mixtures, make_mixture):
    mixtures = [make_mixture("full", 2 + k % 2, 2, k) for k in range(n_mixtures)]
    weights = torch.full((n_mixtures,), 1 / n_mixtures, dtype=torch.float64)
    found, error = exact_barycenter(mixtures, weights, return_error=True)
    value = objective(found, mixtures, weights)
    assert 0 <= error <= 1e-11 * value
    # a mixture nearby is worse, by all that the error does not say
    moved = found._replace(means=found.means + 1e-4)
    assert objective(moved, mixtures, weights) >= value - error
    assert lower_bound(mixtures, weights) <= value + 1e-12
