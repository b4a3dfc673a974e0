"""Rounding of distances between Gaussians; its honesty is tested with the promises."""

import math

import pytest
import torch

from skgmmot.gaussian.bures.distance import bures_squared_of_roots
from skgmmot.gaussian.bures.rounding import (
    CostRounding,
    _of_norms,
    covariance_radii,
    roots_error,
)
from skgmmot.gaussian.covariance.low_rank import LOW_RANK
from skgmmot.gaussian.covariance.registry import DIAG, FULL, SPHERICAL
from skgmmot.numerics.linalg import factor

EPS = torch.finfo(torch.float64).eps
FIRST = torch.zeros(1, dtype=torch.long)


def bound(mean, covariances, types, squared):
    means = torch.zeros(1, len(mean)).double(), torch.tensor([mean]).double()
    sides = [t for side in zip(means, covariances, strict=True) for t in side]
    return float(CostRounding(*sides, types)(FIRST, FIRST, torch.tensor([squared]).double()))


def test_of_well_conditioned_covariances_it_is_a_few_units_in_the_last_place():
    eye = torch.eye(3).double()[None]
    found = bound([0.0, 0, 0], (eye, 4 * eye), (FULL, FULL), 3.0)
    assert EPS < found < 100 * EPS


def test_it_grows_with_the_condition():
    bounds = [
        bound([0.0, 0], (rotated(ratio), torch.eye(2).double()[None]), (FULL, FULL), 1.0)
        for ratio in (1.0, 1e-4, 1e-8, 1e-12)
    ]
    assert bounds == sorted(bounds) and bounds[-1] > 1e4 * bounds[0]


def test_roots_of_squares_are_as_uncertain_as_the_smallest_is_small():
    found = _of_norms(torch.tensor([[1.0, 1.0, 0.01]]).double(), EPS)
    assert float(found) == pytest.approx(EPS * math.sqrt(1 + 1 + 100**2), rel=1e-6, abs=0)
    # by singular values instead
    far = _of_norms(torch.tensor([[1.0, 1.0, 1e-6]]).double(), EPS)
    assert float(far) == pytest.approx(EPS * math.sqrt(3), rel=1e-6, abs=0)


def test_near_zero_it_is_relative_to_the_distance():
    eye = torch.eye(3).double()[None]
    assert bound([0.0, 0, 0], (eye, (1 + 1e-9) ** 2 * eye), (FULL, FULL), 3e-18) < 1e-23


def test_diagonal_covariances_keep_their_digits_at_any_condition():
    variances = torch.tensor([[1.0, 1e-14]]).double()
    for types, other in (((DIAG, DIAG), 2 * variances), ((DIAG, SPHERICAL), variances[:, 1:])):
        assert bound([0.0, 0], (variances, other), types, 1e-14) < 1e-22


def test_far_means_count_by_their_squared_distance():
    eye = torch.eye(2).double()[None]
    assert 1e12 * EPS < bound([1e6, 0], (eye, eye), (FULL, FULL), 1e12) < 1e13 * EPS


def test_in_float32_it_is_that_of_float32():
    eye, one = torch.eye(2)[None], torch.zeros(1, 2)
    single = CostRounding(one, eye, one + 1, 4 * eye, (FULL, FULL))
    assert float(single(FIRST, FIRST, torch.tensor([4.0]).double())) > 1e-7


def test_few_factors_in_many_features():
    d = 150
    stored = [torch.ones(1, d, 2).double() * scale for scale in (1.0, 2.0)]
    assert 0 < bound([0.0] * d, stored, (LOW_RANK, LOW_RANK), 50.0) < 1e-10


def rotated(ratio):
    """A matrix of a condition number, whose axes are not those of the features."""
    Q = torch.tensor([[0.8, 0.6], [-0.6, 0.8]]).double()
    return (Q @ torch.diag(torch.tensor([1.0, ratio]).double()) @ Q.mT)[None]


def test_the_radius_of_a_singular_covariance_is_the_root_of_rounding():
    ones = torch.ones(1, 2, 2).double()
    radius = float(covariance_radii(ones, factor(ones), EPS))
    assert EPS**0.5 / 2 < radius < 4 * EPS**0.5
    zero = torch.zeros(1, 2, 2).double()
    assert float(covariance_radii(zero, factor(zero), EPS)) == 0.0


def test_distances_by_roots_are_off_by_a_few_units_in_the_last_place():
    A, B = torch.eye(3, 8).double(), 2 * torch.eye(5, 8).double()
    squared = bures_squared_of_roots(A, B)
    assert EPS < roots_error(A, B, squared) < 100 * EPS
    # relative to the distance where it is small
    near = A + 1e-9 * torch.ones(3, 8).double()
    assert roots_error(A, near, bures_squared_of_roots(A, near)) < 1e-22
    assert roots_error(A[:0], B, B.square().sum()) < 100 * EPS
