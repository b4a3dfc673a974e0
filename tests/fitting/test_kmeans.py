"""k-means: scikit-learn's labels, inertia and random numbers, on any device."""

import numpy as np
import pytest
import torch
from simulated_device import counting, simulated_device
from sklearn.cluster import KMeans, kmeans_plusplus
from sklearn.exceptions import ConvergenceWarning

from skgmmot.fitting import kmeans as module
from skgmmot.fitting.kmeans import Weighted, kmeans, seeds
from skgmmot.numerics import blocks

PRECISIONS_AND_STARTS = [(np.float64, 1), (np.float32, 1), (np.float64, 3), (np.float32, 3)]
DATA = [(500, 2, 3), (1000, 5, 8), (3000, 3, 20), (300, 10, 4)]


def samples(seed, dtype=np.float64):
    """Overlapping clouds, centred, and weights."""
    rng, (n, d, K) = np.random.default_rng(seed), DATA[seed % len(DATA)]
    X = rng.normal(size=(n, d)) + 2 * rng.normal(size=(K, d))[rng.integers(0, K, n)]
    X = (X - X.mean(0)).astype(dtype)
    return X, rng.uniform(0.1, 3, n).astype(dtype), K


def cases():
    """Seeds with each precision and number of starts; for the most samples, with one in turn."""
    for seed in range(20):
        most = seed % len(DATA) == 2
        each = PRECISIONS_AND_STARTS
        for dtype, n_init in [each[seed // len(DATA) % 4]] if most else each:
            yield seed, dtype, n_init


def ours(X, K, seed, a=None, **options):
    a = None if a is None else torch.tensor(a)
    return kmeans(torch.tensor(X), K, np.random.RandomState(seed), a, **options)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("seed", "dtype", "n_init"), list(cases()))
def test_clusters_are_those_of_scikit_learn(seed, dtype, n_init, weighted):
    X, a, K = samples(seed, dtype)
    a = a if weighted else None
    theirs = KMeans(K, n_init=n_init, random_state=seed).fit(X, sample_weight=a)
    found = ours(X, K, seed, a, n_init=n_init)
    np.testing.assert_array_equal(found.labels, theirs.labels_)
    precision = 1e-10 if dtype == np.float64 else 1e-5  # scikit-learn sums up in float32
    np.testing.assert_allclose(found.inertia, theirs.inertia_, rtol=precision)
    np.testing.assert_allclose(
        found.centres, theirs.cluster_centers_, rtol=precision, atol=10 * precision
    )
    assert found.n_iter == theirs.n_iter_


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_seeds_and_what_they_leave_of_the_random_numbers_are_scikit_learns(seed, weighted):
    X, a, K = samples(seed)
    theirs, mine = np.random.RandomState(seed), np.random.RandomState(seed)
    _, expected = kmeans_plusplus(X, K, sample_weight=a if weighted else None, random_state=theirs)
    found = seeds(torch.tensor(X), K, mine, torch.tensor(a) if weighted else None)
    np.testing.assert_array_equal(found, expected)
    assert mine.uniform() == theirs.uniform()


def test_results_do_not_depend_on_the_length_of_blocks(monkeypatch):
    X, a, K = samples(1)
    expected = ours(X, K, 1, a)
    monkeypatch.setattr(module, "MIN_ROWS", 1)
    monkeypatch.setitem(blocks.BLOCK_ROWS, "cpu", 37)
    found = ours(X, K, 1, a)
    assert torch.equal(found.labels, expected.labels)
    torch.testing.assert_close(found.inertia, expected.inertia)


def test_the_variance_that_a_tolerance_is_a_share_of_is_that_of_all_blocks(monkeypatch):
    X, a, _ = samples(1)
    X = torch.tensor(np.sort(X, axis=0) + 3)
    monkeypatch.setattr(module, "MIN_ROWS", 1)
    monkeypatch.setitem(blocks.BLOCK_ROWS, "cpu", 37)
    found = Weighted(X, torch.tensor(a)).variance()
    torch.testing.assert_close(found, X.var(0, correction=0).mean())


def from_seeds(monkeypatch, X, indices, a=None, **options):
    """Our clusters, and scikit-learn's, from given samples."""
    monkeypatch.setattr(module, "_seeds", lambda *args: torch.as_tensor(indices))
    theirs = KMeans(len(indices), init=X[indices], n_init=1, **options).fit(X, sample_weight=a)
    return ours(X, len(indices), 0, a, **options), theirs


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_a_cluster_that_empties_goes_to_the_farthest_sample(seed, weighted, monkeypatch):
    X, a, _ = samples(seed)
    X[1] = X[0]  # of two equal centres the second one is empty
    found, theirs = from_seeds(monkeypatch, X, [0, 1, 2, 3], a if weighted else None)
    np.testing.assert_array_equal(found.labels, theirs.labels_)
    assert len(found.labels.unique()) == 4
    options = {"a": a if weighted else None, "max_iter": 1}  # after which all centres are moved
    found, theirs = from_seeds(monkeypatch, X, [0, 1, 2, 3], **options)
    np.testing.assert_allclose(found.centres, theirs.cluster_centers_)
    np.testing.assert_array_equal(found.labels, theirs.labels_)


@pytest.mark.parametrize("seed", range(5))
def test_several_empty_clusters_go_to_the_farthest_samples(seed, monkeypatch):
    X, a, _ = samples(seed)
    X[1:4] = X[0]
    found, theirs = from_seeds(monkeypatch, X, [0, 1, 2, 3, 4], a)
    pairs = {*zip(found.labels.tolist(), theirs.labels_.tolist(), strict=True)}
    assert len(pairs) == 5  # equal but for the order in which they are filled
    np.testing.assert_allclose(found.inertia, theirs.inertia_)


def test_fewer_different_samples_than_clusters_leave_clusters_empty():
    X = np.repeat([[-1.0], [0.0], [1.0]], 5, axis=0)
    with pytest.warns(ConvergenceWarning):
        theirs = KMeans(5, n_init=1, random_state=0).fit(X)
    found = ours(X, 5, 0)
    np.testing.assert_array_equal(found.labels, theirs.labels_)
    assert found.inertia == 0


def test_samples_of_weight_zero_are_labelled_and_count_for_nothing():
    X, a, K = samples(0)
    a[::3] = 0
    found = ours(X, K, 0, a)
    np.testing.assert_array_equal(
        found.labels, KMeans(K, n_init=1, random_state=0).fit(X, sample_weight=a).labels_
    )


def test_iterations_end_at_their_largest_number():
    X, _, K = samples(2)
    theirs = KMeans(K, n_init=1, random_state=0, max_iter=2).fit(X)
    found = ours(X, K, 0, max_iter=2)
    np.testing.assert_array_equal(found.labels, theirs.labels_)
    assert found.n_iter == theirs.n_iter_ == 2


def test_the_host_waits_once_an_iteration_and_moves_only_random_numbers():
    X, a, K = samples(2)
    expected = ours(X, K, 0, a)
    with simulated_device() as device:
        on_device = torch.tensor(X).to(device), torch.tensor(a).to(device)
        with counting() as counts:
            found = kmeans(on_device[0], K, np.random.RandomState(0), on_device[1])
        assert torch.equal(found.labels.cpu(), expected.labels)
    assert found.n_iter == expected.n_iter
    assert counts.totals()["synchronisations"] <= found.n_iter + 1  # and once for the tolerance
    assert counts.to_host.total() == 0
    assert counts.transfers() == 1
