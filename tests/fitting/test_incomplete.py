"""What is known of samples with missing entries, and how they are filled in for a start."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from skgmmot.fitting.incomplete import ObservedSums, filled, n_informative, together
from skgmmot.fitting.samples import InMemory, in_memory
from skgmmot.fitting.stream import Stream, facts_of, merged

F64, NAN = torch.float64, math.nan


@pytest.fixture
def incomplete(make_samples):
    """Correlated samples in three dimensions with missing entries, and weights."""
    X = make_samples(90, 3) @ torch.tensor([[1.0, 2, 0], [0, 0.3, 0], [0, 0, 1]], dtype=F64) + 5
    X[make_samples(90, 3, seed=1) < -0.7] = NAN
    return X, make_samples(90, 1, seed=2).squeeze(1).abs()


def test_sums_over_observed_entries_are_those_of_numpy(incomplete):
    X, a = incomplete
    sums = ObservedSums.of(X, a)
    for j in range(3):
        seen = ~X[:, j].isnan()
        x, w = X[seen, j].numpy(), a[seen].numpy()
        mean = np.average(x, weights=w)
        assert float(sums.mean[j]) == pytest.approx(mean)
        squares = float(sums.squares(X, a)[j])
        assert squares == pytest.approx(w @ (x - mean) ** 2)


def test_pairs_are_counted_where_both_are_observed():
    X = torch.tensor([[1.0, NAN, 2.0], [NAN, 1.0, 2.0], [NAN, NAN, NAN]], dtype=F64)
    assert together(X, None).tolist() == [[1, 0, 1], [0, 1, 1], [1, 1, 2]]
    weights = torch.tensor([1.0, 0.0, 1.0])
    assert together(X, weights).diagonal().tolist() == [1, 0, 1]
    assert n_informative(X, None) == 2 and n_informative(X, weights) == 1


def test_missing_entries_are_filled_by_regression_on_the_others(incomplete):
    X, a = incomplete
    found, missing = filled(X, a), X.isnan()
    assert torch.equal(found[~missing], X[~missing]) and found.isfinite().all()
    # the second feature is twice the first, nearly
    rows = missing[:, 1] & ~missing[:, 0]
    assert_close(found[rows, 1], 2 * X[rows, 0] - 5, atol=1.0, rtol=0)
    assert_close(filled(X.float(), a.float()), found.float(), rtol=1e-4, atol=1e-4)


def test_a_constant_feature_and_two_never_observed_together_are_filled_by_means():
    X = torch.tensor([[1.0, NAN, 3.0], [2.0, NAN, NAN], [NAN, 4.0, 3.0], [NAN, 8.0, 3.0]]).double()
    found = filled(X, None)
    assert_close(found[:2, 1], torch.full((2,), 6.0, dtype=F64))
    assert_close(found[1, 2], torch.tensor(3.0, dtype=F64))


def test_facts_of_blocks_merge_to_those_of_all_rows(incomplete):
    X, a = incomplete
    whole = facts_of(X, a)
    parts = merged(facts_of(X[i : i + 30], a[i : i + 30]) for i in (0, 30, 60))
    assert_close(parts.mean, whole.mean)
    assert_close(parts.variances, whole.variances)
    complete = torch.cat([X.nan_to_num(1.0)[:30], X[30:]])  # a block without missing entries
    parts = merged(facts_of(complete[i : i + 30], None) for i in (0, 30, 60))
    assert_close(parts.mean, facts_of(complete, None).mean)
    assert_close(parts.variances, facts_of(complete, None).variances)


def test_blocks_say_whether_entries_are_missing(incomplete):
    X, _ = incomplete
    assert Stream(lambda: iter([(X[:45], None), (X[45:], None)])).incomplete
    assert not Stream(lambda: iter([(X.nan_to_num(), None)])).incomplete
    assert not InMemory(X.nan_to_num()).incomplete


def test_samples_in_memory_are_sorted_with_their_weights(incomplete):
    X, a = incomplete
    samples = in_memory(X, a, incomplete=True)
    order = [int((a == w).nonzero()) for w in samples.sample_weight]
    assert_close(samples.X, X[order], equal_nan=True)
    assert in_memory(X, a, incomplete=False).X is X
