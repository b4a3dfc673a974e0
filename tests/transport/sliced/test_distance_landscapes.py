"""The sliced distance as a function of the means of a mixture: where its minima are."""

import numpy as np
import pytest
import torch

from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.transport.sliced.distance import sliced_wasserstein

MEANS = (0.0, 5.0)


@pytest.fixture(scope="module")
def objective():
    """The squared distance of two Gaussians on the line to samples of two, given the means."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(400, 2, generator=generator, dtype=torch.float64)
    X = (noise + torch.tensor(MEANS)).reshape(-1, 1)
    direction = torch.ones(1, 1, dtype=torch.float64)

    def of(first, second):
        means = torch.tensor([[first], [second]], dtype=torch.float64)
        equal = torch.full((2,), 0.5, dtype=torch.float64)
        mixture = GaussianMixtureParams(equal, means, torch.ones(2, 1).double())
        return float(sliced_wasserstein(mixture, X, direction))

    return of


def minima(values):
    """Grid points whose values are smaller than those of all their neighbours."""
    padded = np.pad(values, 1, constant_values=np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3,) * values.ndim)
    around = windows.reshape(*values.shape, -1)
    return np.argwhere((values == around.min(-1)) & ((around == values[..., None]).sum(-1) == 1))


def test_of_one_mean_it_has_one_minimum(objective):
    grid = np.linspace(-10, 15, 101)
    found = minima(np.array([objective(first, MEANS[1]) for first in grid]))
    assert grid[found[:, 0]] == pytest.approx([MEANS[0]], abs=0.26)


def test_of_two_means_it_has_two_that_exchange_them(objective):
    grid = np.linspace(-3, 8, 23)
    found = minima(np.array([[objective(a, b) for b in grid] for a in grid]))
    assert np.allclose(grid[found], [MEANS, MEANS[::-1]], atol=0.51)
