"""Errors of sliced distances; their honesty is tested with the promises."""

import math

import pytest
import torch

from skgmmot.metrics import sliced_mixture_wasserstein, sliced_wasserstein_distance
from skgmmot.transport.sliced.directions import directions
from skgmmot.transport.sliced.distance import sliced_wasserstein, sliced_wasserstein_between
from skgmmot.transport.sliced.errors import (
    coarser,
    error_of_lines,
    mass_left_out,
    raised_deviations,
    rounding_of_lines,
)
from skgmmot.transport.sliced.samples import sliced_wasserstein_of_samples


def test_of_independent_lines_it_is_three_standard_errors(random_seed):
    costs = torch.randn(10_000, generator=torch.Generator().manual_seed(random_seed)).double()
    assert error_of_lines(costs, "random", 3) == pytest.approx(0.03, rel=0.05)


def test_a_single_direction_tells_nothing():
    one = torch.ones(1).double()
    assert math.isinf(error_of_lines(one, "random", 2)) and error_of_lines(one, "random", 1) == 0.0


def test_orthogonal_groups_of_equal_means_leave_that_of_an_incomplete_one():
    costs = torch.tensor([0.0, 1.0] * 50).double()
    assert error_of_lines(costs, "orthogonal", 2) == 0.0
    assert error_of_lines(costs, "random", 2) > 0.1
    assert 0 < error_of_lines(costs[:-1], "orthogonal", 2) < 0.1


def test_equal_angles_integrate_low_frequencies_exactly():
    angles = directions("quasi", 20, 2)
    smooth = error_of_lines(angles[:, 0] ** 2, "quasi", 2)
    kinked = error_of_lines(angles[:, 0].abs(), "quasi", 2)
    assert smooth < 1e-15 < 1e-4 < kinked < 1e-2
    assert abs(float(angles[:, 0].abs().mean()) - 2 / math.pi) < kinked


def test_parts_that_no_number_of_nodes_changes():
    costs = torch.ones(2).double()
    assert raised_deviations(costs, 2.0, 1.0, least=1.0) == 0.0
    assert raised_deviations(costs, 2.0, 1.0, least=0.0).max() < 1e-8
    assert 1e-17 < rounding_of_lines(costs, 1.0, 1.0).max() < 1e-14
    assert mass_left_out(costs, 1.0, 1.0).max() < 1e-7
    outside = math.erfc(5.5 / math.sqrt(2))  # two standard deviations wide, two apart
    assert mass_left_out(4 * costs, 2.0, 2.0) == pytest.approx([outside * 4 * (2 + 11)] * 2)
    assert coarser(36, 2.0) == (24, 18) and min(coarser(2, 1.0)) == 2


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0])
def test_each_line_has_an_error(make_mixture, make_samples, p):
    source, target, X = (
        make_mixture("full", 2, 3),
        make_mixture("diag", 3, 3, 1),
        make_samples(9, 3),
    )
    theta = directions("quasi", 6, 3)
    for function, sides in (
        (sliced_wasserstein, (source, X)),
        (sliced_wasserstein_between, (source, target)),
        (sliced_wasserstein_of_samples, (X, 2 * X)),
    ):
        costs, errors = function(*sides, theta, p=p, return_error=True)
        assert torch.equal(costs, function(*sides, theta, p=p)) and errors.shape == costs.shape
        assert (errors > 0).all() and (errors < 1e-2 * costs).all()


def test_exact_lines_have_only_rounding(make_mixture, make_samples):
    sides, theta = (make_mixture("full", 2, 3), make_samples(9, 3)), directions("quasi", 6, 3)
    _, errors = sliced_wasserstein(*sides, theta, exact=True, return_error=True)
    assert errors.max() < 1e-12
    costs, stated = sliced_wasserstein(*sides, theta, return_error=True)
    change = (costs - sliced_wasserstein(*sides, theta, exact=True)).mean().abs()
    assert 0 < change < stated.mean() < 1e-3


def test_distances_carry_units_and_graphs(make_mixture):
    source, target = make_mixture("full", 2, 3), make_mixture("full", 2, 3, seed=1)
    leaf = source.means.requires_grad_()
    for function in (sliced_wasserstein_distance, sliced_mixture_wasserstein):
        value, error = function(source, target, return_error=True)
        assert value.requires_grad and type(error) is float and 0 < error < float(value.detach())
        far, of_far = function(*(m.scaled(2.0**40) for m in (source, target)), return_error=True)
        assert torch.equal(far, 2.0**40 * value) and of_far == pytest.approx(2.0**40 * error)
    assert leaf.grad is None


def test_the_largest_distance_has_the_error_of_its_quadrature(make_mixture):
    source, target = make_mixture("full", 2, 3), make_mixture("full", 2, 3, seed=1)
    options = {"n_projections": 8, "return_error": True}
    _, error = sliced_wasserstein_distance(source, target, projections="max", **options)
    assert 0 < error < 1e-3
