"""Samples in blocks: their sums, their facts, and rows to start from."""

import pickle

import numpy as np
import pytest
import torch

from skgmmot.fitting import stream
from skgmmot.fitting.samples import InMemory
from skgmmot.fitting.stream import Stream, chosen, facts_of, merged, scaled, start_rows
from skgmmot.numerics.blocks import Workers, origin, workers

F64 = torch.float64


class Moments:
    """Weights, and first moments."""

    row_size, min_rows = 2**12, 16

    def block(self, X, sample_weight, buffers):
        a = X.new_ones(len(X)) if sample_weight is None else sample_weight
        return a.sum().double(), (a @ X).double()


@pytest.fixture(params=[F64, torch.float32], ids=str)
def X(request):
    X = 5 + torch.randn(1000, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
    return X.to(request.param)


@pytest.fixture
def a():
    """Weights of which some are zero, as a whole block of them is."""
    a = 7 * torch.rand(1000, dtype=F64, generator=torch.Generator().manual_seed(1))
    a[::3] = a[:130] = 0
    return a


def blocks(X, a, size):
    """A function that reads blocks of so many rows."""
    parts = X.split(size), [None] * len(X) if a is None else a.split(size)
    return lambda: iter(list(zip(*parts, strict=False)))


def weights_of(a, weighted):
    return a if weighted else None


@pytest.mark.parametrize("weighted", [False, True])
def test_one_block_is_samples_in_memory_bit_by_bit(X, a, weighted):
    a = weights_of(a, weighted)
    a_scaled = scaled(a, float(a.max()) if weighted else 1.0, X.dtype)
    memory, one = InMemory(X, a_scaled), Stream(blocks(X, a, 1000))
    assert all(map(torch.equal, one.sum(Moments()), memory.sum(Moments())))
    assert one.total == memory.total
    assert torch.equal(one.facts.origin, origin(X, a_scaled))
    assert (one.n_samples, one.n_features) == (memory.n_samples, memory.n_features)
    assert (one.dtype, one.device) == (memory.dtype, memory.device)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("size", [1, 7, 128, 999])
def test_blocks_of_any_size_have_equal_sums_and_facts(X, a, weighted, size):
    a = weights_of(a, weighted)
    one, many = Stream(blocks(X, a, 1000)), Stream(blocks(X, a, size))
    tol = 1e-12 if X.dtype == F64 else 1e-5
    torch.testing.assert_close(many.sum(Moments()), one.sum(Moments()), rtol=tol, atol=tol)
    for name in ("n_samples", "n_positive", "largest_weight"):
        assert getattr(many.facts, name) == getattr(one.facts, name)
    assert many.total == pytest.approx(one.total, rel=tol)
    weights = torch.ones(1000, dtype=F64) if a is None else a
    x, mean = X.double(), (weights @ X.double()) / weights.sum()
    torch.testing.assert_close(many.facts.mean, mean, rtol=1e-6 if tol > 1e-9 else 1e-12, atol=0)
    variances = weights @ (x - mean).square() / weights.sum()
    torch.testing.assert_close(many.facts.variances, variances, rtol=10 * tol, atol=0)


def test_the_same_blocks_give_the_same_bits(X, a):
    first, again = (Stream(blocks(X, a, 77)).sum(Moments()) for _ in range(2))
    assert all(map(torch.equal, first, again))


def test_any_number_of_threads_gives_the_same_bits(X, a):
    found = [
        Stream(blocks(X, a, 500), Workers(X.device, n_threads)).sum(Moments())
        for n_threads in (1, 2, 3)
    ]
    assert all(map(torch.equal, found[0] * 2, found[1] + found[2]))


def test_facts_are_small_records_that_merge_in_order(X, a):
    records = [pickle.loads(pickle.dumps(facts_of(*block))) for block in blocks(X, a, 300)()]
    found, expected = merged(records), Stream(blocks(X, a, 300)).facts
    assert torch.equal(found.sum, expected.sum)
    assert torch.equal(found.squares, expected.squares)
    assert found.total == expected.total
    assert len(pickle.dumps(records[0])) < 2000


def test_variances_keep_their_digits_far_from_zero():
    X = 1e8 + torch.randn(4000, 2, dtype=F64, generator=torch.Generator().manual_seed(2))
    found = Stream(blocks(X, None, 33)).facts.variances
    torch.testing.assert_close(found, X.var(0, correction=0), rtol=1e-7, atol=0)


def test_rows_to_start_from_do_not_depend_on_the_blocks(X, a):
    numbers = np.array([0, 3, 250, 400])  # of the rows of positive weight
    rows = (a > 0).nonzero()[:, 0][torch.from_numpy(numbers)]
    for size in (3, 70, 1000):
        taken, weights = Stream(blocks(X, a, size)).take(numbers)
        assert torch.equal(taken, X[rows])
        assert torch.equal(weights, scaled(a[rows], float(a.max()), X.dtype))
        everything, weights = Stream(blocks(X, a, size)).take()
        assert torch.equal(everything, X)
        assert torch.equal(weights, scaled(a, float(a.max()), X.dtype))
        assert torch.equal(Stream(blocks(X, None, size)).take(numbers)[0], X[numbers])


def test_chosen_rows_are_copies():
    X = torch.zeros(3, 2)
    assert chosen(X, None, None)[0].data_ptr() != X.data_ptr()


def test_the_rows_of_a_start_are_bounded_in_bytes_and_enough_for_its_clusters(X):
    facts = facts_of(X, None)
    assert start_rows(facts, 3) == stream.START_ROWS
    wide = facts._replace(sum=torch.zeros(10**6, dtype=F64), dtype=F64)
    assert start_rows(wide, 2) == stream.START_BYTES // 8 // 10**6
    assert start_rows(wide, 100) == 200


def test_a_pool_is_started_once_within_at_work(X):
    samples = Stream(blocks(X, None, 100))
    with samples.at_work() as pool:
        with samples.at_work() as again:
            assert again is pool
        assert samples.pool is pool
    assert samples.pool is None
    with workers(X.device) as pool, Stream(blocks(X, None, 100), pool).at_work() as used:
        assert used is pool


def test_what_a_block_raises_passes_through(X):
    reads = []

    def read():
        reads.append(1)
        yield X, None
        if len(reads) > 1:
            raise OSError("the disk is gone")

    samples = Stream(read)
    with pytest.raises(OSError, match="the disk is gone"):
        samples.sum(Moments())
    assert samples.pool is None


def test_a_fingerprint_is_that_of_memory_and_tells_the_blocks_apart(X, a):
    expected = InMemory(X, scaled(a, float(a.max()), X.dtype)).fingerprint()
    prints = [Stream(blocks(X, a, size)).fingerprint() for size in (1, 7, 10**4)]
    lengths = [found.pop("lengths of blocks") for found in prints]
    assert prints == [expected] * 3 and len(set(lengths)) == 3
    plain = Stream(blocks(X, None, 7)).fingerprint()
    assert plain["sample_weight"] is None and plain["samples"] == expected["samples"]
