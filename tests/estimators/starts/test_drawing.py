"""Random numbers of starts."""

import numpy as np
import pytest
import torch

from skgmmot import DifferentiableGaussianMixture, Prior
from skgmmot.estimators.starts import drawing


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


def test_only_the_first_run_of_a_fitted_start_is_given_more_than_weights(monkeypatch):
    monkeypatch.setitem(drawing.FITTED, "fitted", lambda em, given, *_: given)
    estimator = DifferentiableGaussianMixture(2, init_params="fitted")
    weights, means = torch.tensor([0.3, 0.7]), torch.zeros(2, 3)
    given = [drawing.one_start(estimator, None, (weights, means, None), None, k) for k in range(3)]
    assert given == [(weights, means, None), (weights, None, None), (weights, None, None)]


def test_a_prior_that_overflows_is_refused_in_words_beside_fixed_means(blobs):
    options = {"fixed_means": True, "means_init": blobs[:2], "random_state": 0}
    prior = Prior(mean_precision=1e300)
    model = DifferentiableGaussianMixture(2, prior=prior, **options)
    with pytest.raises(ValueError, match="ill-defined"):
        model.fit(1e29 * blobs)
