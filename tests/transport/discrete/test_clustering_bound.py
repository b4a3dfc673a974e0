"""Lower bounds of the cost of clustering: against the best clusters, found by going through all."""

import functools
import itertools

import numpy as np
import pytest
import torch

from skgmmot.transport.discrete import clustering_bound as module
from skgmmot.transport.discrete.clustering_bound import (
    characteristic_of,
    clustering_bound,
    density_bound,
    excess,
)


def cost_of(X, a, label, K):
    """The cost of given clusters."""
    parts = ((X[label == k], a[label == k]) for k in range(K))
    return sum(
        float(w @ ((x - w @ x / w.sum()) ** 2).sum(1)) for x, w in parts if len(x) and w.sum() > 0
    )


def least_cost(X, a, K):
    """The cost of the best clusters of a few samples."""
    labels = (np.array((0, *rest)) for rest in itertools.product(range(K), repeat=len(X) - 1))
    return min(cost_of(X, a, label, K) for label in labels)


def bounds(X, a, K, cost):
    """The bounds by the kernel and by features."""
    X, a = torch.from_numpy(X), torch.from_numpy(a)
    characteristic = functools.partial(characteristic_of, X, a)
    return clustering_bound(X, a, K, cost), density_bound(characteristic, X.shape[1], K, cost)


@pytest.mark.parametrize(("n", "d", "K"), [(7, 2, 3), (8, 1, 2), (6, 3, 3), (7, 9, 2)])
def test_no_clusters_cost_less(n, d, K):
    rng = np.random.default_rng(n + d)
    for scale in (1e-12, 1.0, 1e12):
        X, a = scale * rng.standard_t(3, size=(n, d)), rng.dirichlet(np.ones(n))
        least = least_cost(X, a, K)
        found = bounds(X, a, K, 1.5 * least)
        assert all(0.1 * least < bound <= least for bound in found)
        assert found[1] == pytest.approx(found[0], rel=0.3)


def test_clusters_far_apart_are_all_but_certain():
    rng = np.random.default_rng(0)
    label = np.repeat(np.arange(6), 10)
    X, a = 1e3 * rng.normal(size=(6, 2))[label] + rng.normal(size=(60, 2)), np.full(60, 1 / 60)
    cost = cost_of(X, a, label, 6)
    assert 0.9 * cost < bounds(X, a, 6, cost)[0] <= cost


def test_of_one_cluster_the_bound_is_the_variance():
    X, a = np.random.default_rng(0).normal(size=(30, 3)), np.full(30, 1 / 30)
    variance = X.var(0).sum()
    assert bounds(X, a, 1, variance) == pytest.approx((variance, variance), rel=1e-2)


def test_few_samples_and_many_points_cost_nothing():
    X, a = np.random.default_rng(0).normal(size=(5, 2)), np.full(5, 0.2)
    assert bounds(X, a, 5, 1e-3) == pytest.approx((0, 0), abs=1e-12)
    assert bounds(X, a, 5, 0.0) == (0, 0)
    assert bounds(X, a, 3000, 1e-3)[1] == 0


def test_many_samples_take_features(monkeypatch):
    X, a = np.random.default_rng(0).normal(size=(30, 2)), np.full(30, 1 / 30)
    kernel, features = bounds(X, a, 4, 0.5)
    monkeypatch.setattr(module, "MAX_KERNEL", 29)
    monkeypatch.setattr(module, "BLOCK_SIZE", 1000)  # seven rows at a time
    assert bounds(X, a, 4, 0.5)[0] == pytest.approx(features, rel=1e-12) != kernel


@pytest.mark.parametrize("period", [(1.0, 1.0), (1.0, 30.0), (2.0, 1.0, 1e5)])
def test_in_a_periodic_box_distances_are_to_the_nearest_image(period):
    rng, period = np.random.default_rng(0), np.array(period)
    X, a = rng.random((40, len(period))) * period, torch.full((40,), 1 / 40, dtype=torch.float64)
    shifted = (X + rng.integers(-2, 3, size=X.shape) * period) - 0.3 * period
    found = []
    for samples in (X, shifted):
        characteristic = functools.partial(characteristic_of, torch.from_numpy(samples), a)
        found.append(density_bound(characteristic, len(period), 3, 1e-2, torch.from_numpy(period)))
    assert found[1] == pytest.approx(found[0], rel=1e-6)
    centres = X[rng.choice(40, 3, replace=False)]
    for _ in range(20):  # of k-means on the torus
        away = X[:, None] - centres
        away -= period * np.round(away / period)
        label = (away**2).sum(-1).argmin(1)
        moves = [away[label == k, k].mean(0) if (label == k).any() else 0.0 for k in range(3)]
        centres = centres + moves
    cost = (away**2).sum(-1).min(1).mean()
    assert 0 < found[0] <= cost


def test_the_characteristic_function_is_that_of_samples():
    X, w = torch.tensor([[0.5], [2.0]]).double(), torch.tensor([[0.0], [0.3], [1.1]]).double()
    differences, sums = characteristic_of(X, torch.tensor([0.25, 0.75]).double(), w)
    assert differences[2, 1] == pytest.approx(0.25 * np.exp(0.4j) + 0.75 * np.exp(1.6j))
    assert sums[0, 1] == pytest.approx(0.25 * np.exp(0.15j) + 0.75 * np.exp(0.6j))


@pytest.mark.parametrize(("least", "expected"), [(1.5, 0.5 + 2e-12), (2.0, 2e-12), (2.1, 2e-12)])
def test_a_distance_exceeds_the_least_by_its_rounding_at_least(least, expected):
    assert excess(2.0, least) == expected
