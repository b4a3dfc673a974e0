"""Starts: scikit-learn's draws, and the moments of what they assign."""

import re

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans, kmeans_plusplus

from skgmmot import DifferentiableGaussianMixture, SemidiscreteGMM
from skgmmot.estimators.mixtures import _init
from skgmmot.fitting.em.rows import EM
from skgmmot.fitting.samples import InMemory
from skgmmot.gaussian.covariance.registry import COVARIANCE_TYPES
from skgmmot.numerics.blocks import origin, workers


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
        assignment = _init.assign(name, em, 4, ours)
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
        found = responsibilities(_init.assign(name, em, K, np.random.RandomState(K)), K)
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
        responsibilities(_init.assign(name, of_samples(X, weights), 4, np.random.RandomState(0)))
        for X in (near, near + 2.0**33)
    ]
    assert np.array_equal(*found)


def test_float32_is_centred_where_its_mean_is_added_up_badly(rng):
    # numpy adds the rows of float32 one by one: from 1e5 rows at 1e4 on, the mean is off by 7
    X = (rng.normal(size=(100_000, 2)) + 1e4).astype(np.float32)
    assert np.abs(X.mean(0) - 1e4).max() > 1
    assert not _init._centred_by_mean(of_samples(X))
    assert _init._centred_by_mean(of_samples(X[:600]))


@pytest.mark.parametrize("make", [DifferentiableGaussianMixture, SemidiscreteGMM])
def test_a_reg_covar_that_drowns_a_feature_is_warned_of(rng, make):
    X = np.concatenate([rng.normal(size=(100, 2)), 6 + rng.normal(size=(100, 2))])
    drowned = X * [1.0, 1e-4]
    message = r"must be small .* got 1e-06 for a variance of 9.6e-08. .* or set reg_covar="
    with pytest.warns(UserWarning, match=message) as caught:
        make(2, random_state=0).fit(drowned)
    assert caught[0].filename == __file__
    remedies = re.findall(r"\de-\d+", str(caught[0].message).rsplit("=", 1)[1])
    assert len(remedies) == 2
    for remedy in map(float, remedies):
        make(2, reg_covar=remedy, random_state=0).fit(drowned)
    make(2, random_state=0).fit(X * [1.0, 1e-2])


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_feature_that_is_constant_is_not_drowned(rng, dtype):
    X = np.column_stack([rng.normal(size=300), np.full(300, 123456.789)]).astype(dtype)
    DifferentiableGaussianMixture(2, random_state=0).fit(X)


def test_one_variance_for_all_features_is_compared_with_their_mean(rng):
    X = rng.normal(size=(300, 2)) * [1.0, 1e-4]
    DifferentiableGaussianMixture(2, covariance_type="spherical", random_state=0).fit(X)


def test_the_variances_of_weighted_samples_are_those_of_repeated_rows(rng):
    X = np.concatenate([1e-4 * rng.normal(size=(100, 1)), rng.normal(size=(100, 1))])
    mixture = DifferentiableGaussianMixture(1)
    mixture.fit(X)
    with pytest.warns(UserWarning, match="reg_covar must be small"):
        mixture.fit(X, sample_weight=np.repeat([1.0, 0.0], 100))


def one_hot(indices):
    resp = np.zeros((4, 600))
    resp[np.arange(4), indices] = 1
    return resp


def normalised(drawn):
    return (drawn / drawn.sum(1, keepdims=True)).T


@pytest.mark.parametrize("name", ["kmeans", "random"])
def test_a_start_has_the_moments_of_its_assignment(em, covariance_type, name):
    kind = COVARIANCE_TYPES[covariance_type]
    assignment = _init.assign(name, em, 4, np.random.RandomState(0))
    theta = _init.start(assignment, em, kind, 4)
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


def test_weighted_starts_choose_no_sample_of_weight_zero(blobs):
    X = torch.tensor(blobs)
    weights = torch.zeros(600, dtype=torch.float64)
    weights[:10] = 1
    with workers(X.device) as pool:
        em = EM(InMemory(X, weights, pool), X.mean(0), 1e-6)
        for name in ["k-means++", "random_from_data"]:
            rng = np.random.RandomState(0)
            resp = responsibilities(_init.assign(name, em, 5, rng), 5)
            assert resp[:, :10].sum() == 5


def test_the_start_of_sinkhorn_em_is_small_copies_of_the_data(em, covariance_type, monkeypatch):
    started = []
    monkeypatch.setattr(
        _init, "iterate", lambda step, theta0, **options: started.append(theta0) or _Ended(theta0)
    )
    kind = COVARIANCE_TYPES[covariance_type]
    _init.balanced(em, (None, None, None), kind, 4, np.random.RandomState(0))
    (theta,) = (theta0.mixture() for theta0 in started)
    assert np.allclose(theta.weights, 0.25)
    S = np.cov(em.X.numpy().T, bias=True)
    diagonal = np.diag(S)
    expected = {
        "full": np.stack([S] * 4),
        "tied": S[None],
        "diag": np.stack([diagonal] * 4),
        "spherical": np.full((4, 1), diagonal.mean()),
    }[covariance_type]
    assert np.allclose(theta.covariances, 0.01 * expected, atol=1e-7)


class _Ended:
    """A solution that is its start."""

    def __init__(self, value):
        self.value = value


def test_a_seed_gives_the_numbers_of_a_new_generator():
    expected = np.random.RandomState(5).normal(size=(2, 3))
    for _ in range(2):  # the second time it is one that was used before
        with _init.random_numbers(5) as rng, _init.random_numbers(np.int64(5)) as other:
            assert rng is not other
            found = np.array([rng.normal(size=3), rng.normal(size=3)])
            np.testing.assert_array_equal(found, expected)
            np.testing.assert_array_equal(other.normal(size=3), expected[0])


def test_generators_of_the_user_are_used_themselves():
    theirs = np.random.RandomState(0)
    with _init.random_numbers(theirs) as rng:
        assert rng is theirs
    with _init.random_numbers(None) as rng:
        assert rng is np.random.mtrand._rand


def test_random_responsibilities_of_several_blocks_are_drawn_as_of_one(em, monkeypatch):
    monkeypatch.setattr(_init, "BLOCK", 128)  # the last of five blocks is shorter
    drawn = normalised(np.random.RandomState(3).uniform(size=(600, 4)))
    rng = np.random.RandomState(3)
    assert np.allclose(responsibilities(_init.assign("random", em, 4, rng)), drawn)
