"""An image as a density: where its rows and columns lie."""

import pickle

import pytest
import torch
from torch.testing import assert_close

from skgmmot.transport.semidiscrete.grid import GridDensity
from skgmmot.transport.semidiscrete.plan import exact_plan, nearest_plan

DOUBLE = torch.float64


def mean_of(density):
    """The mean of a density: the barycentre of the only cell."""
    one = torch.ones(1, dtype=DOUBLE)
    return exact_plan(density, torch.zeros(1, 2, dtype=DOUBLE), one).barycentres[0]


def test_the_first_row_is_the_lowest_if_the_origin_is_and_the_first_column_the_leftmost():
    values = torch.zeros(2, 4, dtype=DOUBLE)
    values[0, 3] = 2.0
    density = GridDensity(values, origin="lower")
    assert_close(mean_of(density), torch.tensor([7 / 8, 1 / 8], dtype=DOUBLE))
    elsewhere = GridDensity(values, (-1.0, 1.0, 10.0, 14.0), "lower")
    assert_close(mean_of(elsewhere), torch.tensor([0.75, 11.0], dtype=DOUBLE))


def test_values_are_shares_of_their_total():
    values = torch.tensor([[1.0], [3.0]], dtype=DOUBLE)
    density = GridDensity(values, origin="lower")
    assert_close(mean_of(density), torch.tensor([0.25, 5 / 8], dtype=DOUBLE))


@pytest.mark.parametrize(
    ("shape", "extent"),
    [
        ((3, 3), (0, 1, 0, 1)),
        ((3, 4), (0, 1, 0, 0.75)),
        ((5, 1), (0, 0.2, 0, 1)),
        ((427, 640), (0, 1, 0, 427 / 640)),
        ((1, 1), (0, 1, 0, 1)),
    ],
)
def test_pixels_are_squares_unless_an_extent_is_given(shape, extent):
    values = torch.ones(shape, dtype=DOUBLE)
    density = GridDensity(values)
    assert density.extent == extent
    rows = values.tolist()
    assert GridDensity(rows).extent == GridDensity(values.numpy()).extent == extent
    assert GridDensity(values, (0, 2, 0, 3)).extent == (0, 2, 0, 3)
    replaced = density.upwards()._replace(periodic=True)
    assert type(replaced) is GridDensity and replaced.extent == extent
    assert pickle.loads(pickle.dumps(density)).extent == extent


def test_rows_go_down_as_in_pictures_or_up():
    values = torch.rand(3, 4, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    down = values.clone().requires_grad_()
    up = values.flip(0).requires_grad_()
    means = mean_of(GridDensity(down)), mean_of(GridDensity(up, origin="lower"))
    assert_close(*means)
    points = torch.tensor([[0.2, 0.1], [0.7, 0.9]], dtype=DOUBLE)
    for density in (GridDensity(down), GridDensity(up, origin="lower")):
        exact_plan(density, points, torch.ones(2, dtype=DOUBLE)).cost.backward()
    assert_close(down.grad, up.grad.flip(0))
    nearest = [nearest_plan(d, points) for d in (GridDensity(values), GridDensity(values.flip(0)))]
    assert nearest[0].masses[1] != nearest[1].masses[1]
