"""An image as a density: where its rows and columns lie."""

import torch
from torch.testing import assert_close

from skgmmot.transport.semidiscrete.grid import GridDensity
from skgmmot.transport.semidiscrete.plan import exact_plan

DOUBLE = torch.float64


def mean_of(density):
    """The mean of a density: the barycentre of the only cell."""
    one = torch.ones(1, dtype=DOUBLE)
    return exact_plan(density, torch.zeros(1, 2, dtype=DOUBLE), one).barycentres[0]


def test_the_first_row_is_the_lowest_and_the_first_column_the_leftmost():
    values = torch.zeros(2, 4, dtype=DOUBLE)
    values[0, 3] = 2.0
    assert_close(mean_of(GridDensity(values)), torch.tensor([7 / 8, 1 / 4], dtype=DOUBLE))
    elsewhere = GridDensity(values, (-1.0, 1.0, 10.0, 14.0))
    assert_close(mean_of(elsewhere), torch.tensor([0.75, 11.0], dtype=DOUBLE))


def test_values_are_shares_of_their_total():
    values = torch.tensor([[1.0], [3.0]], dtype=DOUBLE)
    assert_close(mean_of(GridDensity(values)), torch.tensor([0.5, 5 / 8], dtype=DOUBLE))
