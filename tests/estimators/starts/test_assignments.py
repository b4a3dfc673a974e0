"""Starts: scikit-learn's draws, and the moments of what they assign."""

import math
import tracemalloc

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans, kmeans_plusplus

from skgmmot.estimators.starts import assignments
from skgmmot.fitting.em.rows import EM
from skgmmot.fitting.samples import InMemory
from skgmmot.gaussian.covariance.registry import COVARIANCE_TYPES
from skgmmot.numerics.blocks import BLOCK_SIZE, origin, workers


@pytest.fixture
def em(blobs):
    """The samples of `blobs` about their mean, without weights."""
    X = torch.tensor(blobs - blobs.mean(0))
    with workers(X.device) as pool:
        yield EM(InMemory(X, None, pool), torch.zeros(3).double(), 1e-6)


def responsibilities(assignment, n_components=4):
    """All blocks of an assignment, ``(K, n)``."""
    found = torch.zeros(n_components, 600, dtype=torch.float64)
    for rows, components, resp in assignment():
        found[components, rows] = resp.double()
    return found.numpy()


def test_the_draws_are_those_of_scikit_learn(em):
    X = em.X.numpy()
    draw = {
        "kmeans": lambda rng: np.eye(4)[KMeans(4, n_init=1, random_state=rng).fit(X).labels_].T,
        "k-means++": lambda rng: one_hot(kmeans_plusplus(X, 4, random_state=rng)[1]),
        "random_from_data": lambda rng: one_hot(rng.choice(600, size=4, replace=False)),
        "random": lambda rng: normalised(rng.uniform(size=(600, 4))),
    }
    for name, theirs in draw.items():
        ours, reference = np.random.RandomState(7), np.random.RandomState(7)
        assignment = assignments.assign(name, em, 4, ours)
        assert np.allclose(responsibilities(assignment), theirs(reference))
        assert np.allclose(responsibilities(assignment), responsibilities(assignment))
        assert ours.uniform() == reference.uniform(), f"{name} leaves the stream elsewhere"


def of_samples(X, sample_weight=None):
    """EM over samples, about their mean."""
    X = torch.as_tensor(X)
    with workers(X.device) as pool:
        return EM(InMemory(X, sample_weight, pool), origin(X, sample_weight), 1e-6)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", ["kmeans", "k-means++"])
def test_ties_of_rounded_data_break_as_in_scikit_learn(rng, name, dtype):
    lattice = 50 + rng.integers(0, 10, (600, 2)).astype(dtype)
    em = of_samples(lattice)
    draw = {
        "kmeans": lambda K, rng: KMeans(K, n_init=1, random_state=rng).fit(lattice).labels_,
        "k-means++": lambda K, rng: kmeans_plusplus(lattice, K, random_state=rng)[1],
    }[name]
    for K in range(3, 8):
        found = responsibilities(assignments.assign(name, em, K, np.random.RandomState(K)), K)
        expected = draw(K, np.random.RandomState(K))
        if name == "kmeans":
            assert np.array_equal(found.argmax(0), expected)
        else:
            assert np.array_equal(found[:, expected], np.eye(K))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", ["kmeans", "k-means++"])
def test_starts_far_from_the_origin_are_those_near_it(rng, name, weighted):
    near = rng.integers(-512, 512, (600, 2)) / 1024.0
    weights = torch.tensor(rng.integers(1, 4, 600).astype(float)) if weighted else None
    found = [
        responsibilities(
            assignments.assign(name, of_samples(X, weights), 4, np.random.RandomState(0))
        )
        for X in (near, near + 2.0**33)
    ]
    assert np.array_equal(*found)


def test_float32_is_centred_where_its_mean_is_added_up_badly(rng):
    # numpy adds the rows of float32 one by one: from 1e5 rows at 1e4 on, the mean is off by 7
    X = (rng.normal(size=(100_000, 2)) + 1e4).astype(np.float32)
    assert np.abs(X.mean(0) - 1e4).max() > 1
    assert not assignments.centred_by_mean(of_samples(X))
    assert assignments.centred_by_mean(of_samples(X[:600]))


def test_kmeans_copies_no_samples_that_were_centred_for_it(rng):
    X = (rng.normal(size=(200_000, 8)) + 1e4).astype(np.float32)
    given, rng = X.copy(), np.random.RandomState(0)
    tracemalloc.start()  # of numpy, not of torch
    try:
        found = assignments.kmeans_labels(of_samples(X), 2, rng)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.5 * X.nbytes  # one temporary, of the variances
    np.testing.assert_array_equal(X, given)
    centred = X - np.float32(X.mean(0, dtype=float))
    expected = KMeans(2, n_init=1, random_state=np.random.RandomState(0)).fit(centred).labels_
    np.testing.assert_array_equal(found, expected)


def one_hot(indices):
    resp = np.zeros((4, 600))
    resp[np.arange(4), indices] = 1
    return resp


def normalised(drawn):
    return (drawn / drawn.sum(1, keepdims=True)).T


@pytest.mark.parametrize("name", ["kmeans", "random"])
def test_a_start_has_the_moments_of_its_assignment(em, covariance_type, name):
    kind = COVARIANCE_TYPES[covariance_type]
    assignment = assignments.assign(name, em, 4, np.random.RandomState(0))
    theta = assignments.start(assignment, em, kind, 4)
    resp, X = responsibilities(assignment), em.X.numpy()
    assert np.allclose(theta.weights, resp.mean(1))
    assert np.allclose(theta.means, resp @ X / resp.sum(1, keepdims=True))
    each = [np.cov(X.T, aweights=r, bias=True) for r in resp]
    expected = {
        "full": np.stack(each),
        "tied": np.tensordot(resp.mean(1), np.stack(each), 1)[None],
        "diag": np.stack([np.diag(S) for S in each]),
        "spherical": np.stack([[np.diag(S).mean()] for S in each]),
    }[covariance_type]
    regularisation = 1e-6 * (np.eye(3) if expected.ndim == 3 else 1)
    assert np.allclose(theta.covariances, expected + regularisation, atol=1e-12)


def test_random_responsibilities_of_several_blocks_are_drawn_as_of_one(em, monkeypatch):
    monkeypatch.setattr(assignments, "BLOCK", 128)  # the last of five blocks is shorter
    drawn = normalised(np.random.RandomState(3).uniform(size=(600, 4)))
    rng = np.random.RandomState(3)
    assert np.allclose(responsibilities(assignments.assign("random", em, 4, rng)), drawn)


@pytest.mark.parametrize("name", ["kmeans", "k-means++", "random", "random_from_data", "given"])
def test_a_block_centred_at_all_its_components_fits_a_cache(name):
    n, d, K = 3000, 64, 16
    X = torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    start = (lambda *_: np.full((n, K), 1 / K)) if name == "given" else name
    with workers(X.device) as pool:
        em = EM(InMemory(X, None, pool), X.mean(0), 1e-6)
        assignment = assignments.assign(start, em, K, np.random.RandomState(0))
        sizes = [math.prod(em.rows(rows)[0].shape) * len(resp) for rows, _, resp in assignment()]
    assert max(sizes) <= BLOCK_SIZE["cpu"] and len(sizes) > 1


def test_weighted_starts_choose_no_sample_of_weight_zero(blobs):
    X = torch.tensor(blobs)
    weights = torch.zeros(600, dtype=torch.float64)
    weights[:10] = 1
    with workers(X.device) as pool:
        em = EM(InMemory(X, weights, pool), X.mean(0), 1e-6)
        for name in ["k-means++", "random_from_data"]:
            rng = np.random.RandomState(0)
            resp = responsibilities(assignments.assign(name, em, 5, rng), 5)
            assert resp[:, :10].sum() == 5
