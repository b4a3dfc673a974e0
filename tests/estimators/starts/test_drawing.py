"""Random numbers of starts, and what they choose."""

import numpy as np
import pytest
import torch

from skgmmot import DifferentiableGaussianMixture
from skgmmot.estimators.starts import assignments, drawing
from skgmmot.fitting.em.rows import EM
from skgmmot.fitting.samples import InMemory
from skgmmot.numerics.blocks import workers


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


def test_a_seed_gives_the_numbers_of_a_new_generator():
    expected = np.random.RandomState(5).normal(size=(2, 3))
    for _ in range(2):  # the second time it is one that was used before
        with drawing.random_numbers(5) as rng, drawing.random_numbers(np.int64(5)) as other:
            assert rng is not other
            found = np.array([rng.normal(size=3), rng.normal(size=3)])
            np.testing.assert_array_equal(found, expected)
            np.testing.assert_array_equal(other.normal(size=3), expected[0])


def test_generators_of_the_user_are_used_themselves():
    theirs = np.random.RandomState(0)
    with drawing.random_numbers(theirs) as rng:
        assert rng is theirs
    with drawing.random_numbers(None) as rng:
        assert rng is np.random.mtrand._rand


def test_only_the_first_run_of_a_fitted_start_is_given_more_than_weights(em, monkeypatch):
    monkeypatch.setitem(drawing.FITTED, "fitted", lambda em, given, *_: given)
    estimator = DifferentiableGaussianMixture(2, init_params="fitted")
    weights, means = torch.tensor([0.3, 0.7]), torch.zeros(2, 3)
    given = [drawing.one_start(estimator, em, (weights, means, None), None, k) for k in range(3)]
    assert given == [(weights, means, None), (weights, None, None), (weights, None, None)]
