"""Sums over samples in memory."""

import itertools
import json

import pytest
import torch

from skgmmot.fitting.samples import InMemory, positions_looked_at
from skgmmot.numerics.blocks import workers

F64 = torch.float64


class Moments:
    """Weights, and first moments."""

    row_size, min_rows, sample_size = 2**12, 16, 1

    def block(self, X, sample_weight, buffers):
        a = X.new_ones(len(X)) if sample_weight is None else sample_weight
        return a.sum(), a @ X

    def samples(self, X, sample_weight, buffers):
        return 2 * X, X.sum(1)


@pytest.fixture
def X():
    return torch.randn(1000, 3, dtype=F64, generator=torch.Generator().manual_seed(0))


def test_sums_are_those_of_all_rows_at_once(X):
    a = torch.rand(1000, dtype=F64, generator=torch.Generator().manual_seed(1))
    for weights in (None, a):
        samples = InMemory(X, weights)
        expected = Moments().block(X, weights, None)
        torch.testing.assert_close(samples.sum(Moments()), expected, rtol=1e-13, atol=1e-13)
        assert samples.total == pytest.approx(float(expected[0]), rel=1e-13)


def test_a_pool_is_started_once_within_at_work(X):
    samples = InMemory(X)
    alone = samples.sum(Moments())
    with samples.at_work() as pool:
        with samples.at_work() as again:
            assert again is pool
        assert samples.pool is pool
        assert all(map(torch.equal, samples.sum(Moments()), alone))
    assert samples.pool is None


def test_a_pool_of_the_caller_stays_open(X):
    with workers(X.device) as pool:
        samples = InMemory(X, None, pool)
        with samples.at_work() as used:
            assert used is pool
        assert samples.pool is pool


def test_what_is_computed_for_each_sample_keeps_their_order(X):
    of_X, of_a = InMemory(X).map(Moments())
    assert torch.equal(of_X, 2 * X)
    assert torch.equal(of_a, X.sum(1))


def test_a_fingerprint_tells_samples_apart(X):
    a = torch.rand(1000, dtype=F64, generator=torch.Generator().manual_seed(1))
    moved, heavier = X.clone(), a.clone()
    moved[-1, 0] += 1e-12
    heavier[-1] += 1e-12
    each = [(X, None), (X, a), (X.float(), None), (X[1:], None), (moved, None), (X, heavier)]
    prints = [InMemory(*samples).fingerprint() for samples in each]
    assert all(prints.count(one) == 1 for one in prints)
    assert json.loads(json.dumps(prints)) == prints
    fortran = X.mT.contiguous().mT
    assert InMemory(fortran, a.clone()).fingerprint() == prints[1]


@pytest.mark.parametrize("n", [1, 2, 1023, 1024, 1025, 10**9])
def test_a_fingerprint_looks_at_samples_from_the_first_to_the_last(n):
    positions = positions_looked_at(n).tolist()
    assert (positions[0], positions[-1]) == (0, n - 1)
    assert len(set(positions)) == len(positions) == min(n, 1024)
    gaps = {b - a for a, b in itertools.pairwise(positions)}
    assert not gaps or max(gaps) - min(gaps) <= 1
