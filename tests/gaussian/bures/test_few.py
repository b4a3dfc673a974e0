"""Squared Bures distances between few covariances by numpy, and their gradients."""

import itertools

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from skgmmot.gaussian.bures.distance import bures_squared
from skgmmot.gaussian.bures.few import squared_and_slopes


def covariances(rng, n, d, condition=10.0):
    """Matrices of a condition, along random axes."""
    axes = np.linalg.qr(rng.normal(size=(n, d, d))).Q
    return axes * np.geomspace(1, condition, d) @ axes.mT


@pytest.mark.parametrize("d", [1, 2, 3, 8, 70])
@pytest.mark.parametrize(("K", "L"), [(1, 1), (2, 5), (4, 3)])
@pytest.mark.parametrize("near", [False, True])
def test_values_and_gradients_are_those_between_tensors(d, K, L, near, rng):
    both = covariances(rng, K + L, d)
    if near:  # of the first pair; differences of traces would cancel
        both[K] = both[0] * (1 + 1e-6)
    weights = rng.random((K, L))
    squared, slopes = squared_and_slopes(both[:K], both[K:], differentiable=True)
    leaves = [torch.tensor(S).requires_grad_() for S in (both[:K], both[K:])]
    expected = bures_squared(*leaves)
    assert_close(torch.from_numpy(squared), expected.detach(), rtol=1e-12, atol=1e-14)
    gradients = torch.autograd.grad((torch.from_numpy(weights) * expected).sum(), leaves)
    found = [torch.from_numpy(t) for t in slopes(weights, (True, True))]
    assert_close(found, list(gradients), rtol=1e-10, atol=1e-11)
    (one, none), (nothing, other) = slopes(weights, (True, False)), slopes(weights, (False, True))
    assert none is nothing is None
    assert_close([torch.from_numpy(t) for t in (one, other)], found, rtol=0, atol=0)


def test_equal_matrices_are_at_distance_zero(rng):
    both = covariances(rng, 3, 4)
    squared, _ = squared_and_slopes(both, both, differentiable=False)
    assert (squared.diagonal() == 0).all()


@pytest.mark.parametrize(
    ("d", "bad"),
    [
        *itertools.product([2, 3], ["singular", "indefinite", "nan", "infinite"]),
        (3, "ill-conditioned"),  # in the plane there is a closed form
    ],
)
def test_what_is_not_regular_is_left_to_others(d, bad, rng):
    both = covariances(rng, 3, d)
    ends = {"singular": 0.0, "indefinite": -1.0, "nan": np.nan, "infinite": np.inf}
    both[1] = np.diag([*[1.0] * (d - 1), ends.get(bad, 1e-16)])
    with np.errstate(all="ignore"):
        assert squared_and_slopes(both[:1], both[1:], differentiable=False) is None
