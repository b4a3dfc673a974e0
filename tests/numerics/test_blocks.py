"""Blocks, threads and sums: the same result however the work is cut."""

import threading

import pytest
import torch

from skgmmot.numerics import blocks
from skgmmot.numerics.blocks import map_rows, origin, row_spans, workers


@pytest.mark.parametrize("n_rows, block", [(1, 16), (16, 16), (17, 16), (10_000, 16), (5, 1000)])
def test_spans_cover_the_rows_in_order_once(n_rows, block):
    spans = row_spans(n_rows, block)
    assert len(spans) <= blocks.N_SPANS
    rows = [i for span in spans for rows in span for i in range(n_rows)[rows]]
    assert rows == list(range(n_rows))


def test_rows_are_mapped_in_order_with_their_companions():
    X, others = torch.arange(5000.0).view(-1, 1), torch.arange(5000.0)
    out = map_rows(lambda x, o: x.squeeze(1) + o, 4000, X, others)
    assert torch.equal(out, 2 * torch.arange(5000.0))


def test_a_buffer_is_used_again_for_as_many_numbers_or_fewer():
    buffers = blocks.Buffers(torch.device("cpu"))
    first = buffers("a", (3, 4), torch.float64)
    for shape in ((3, 4), (12,), (2, 5)):
        again = buffers("a", shape, torch.float64)
        assert again.shape == shape and again.data_ptr() == first.data_ptr()
    assert buffers("a", (13,), torch.float64).shape == (13,)


def test_thread_settings_are_restored_after_an_error():
    before = torch.get_num_threads()

    def fail(block):
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        map_rows(fail, 1, torch.ones(10, 1))
    assert torch.get_num_threads() == before


def test_overlapping_users_have_all_threads_and_leave_the_setting():
    before, found = torch.get_num_threads(), []
    entered, leave = threading.Event(), threading.Event()

    def work():
        with workers(torch.device("cpu")) as pool:
            found.append(pool.n_threads)
            entered.set()
            leave.wait(10)
        found.append(torch.get_num_threads())

    torch.set_num_threads(4)
    other = threading.Thread(target=work)
    with workers(torch.device("cpu")) as first, workers(torch.device("cpu")) as second:
        assert first.n_threads == second.n_threads == 4
        other.start()
        assert entered.wait(10)
    assert torch.get_num_threads() == 4
    leave.set()
    other.join()
    assert found == [4, 4]
    assert torch.get_num_threads() == 4
    torch.set_num_threads(before)


def test_the_mean_of_many_weighted_rows_is_that_of_repeated_ones():
    X = torch.randn(2**16 + 5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    a = torch.arange(len(X)) % 3  # of zeros, too
    found = origin(X, a.double())
    torch.testing.assert_close(found, X.repeat_interleave(a, dim=0).mean(0), rtol=0, atol=1e-12)
    assert torch.equal(origin(X, torch.ones(len(X), dtype=torch.float64)), origin(X, None))


def test_the_mean_of_weights_whose_sum_overflows_is_finite():
    X = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64)
    assert origin(X, torch.tensor([1.5e308, 0.0, 1.5e308], dtype=torch.float64)) == 1


def test_threads_write_to_what_was_allocated_in_inference_mode(monkeypatch):
    monkeypatch.setitem(blocks.BLOCK_SIZE, "cpu", 64)
    before, X = torch.get_num_threads(), torch.arange(600.0).view(200, 3)
    torch.set_num_threads(2)
    with torch.inference_mode():
        found = blocks.map_rows(lambda x: x + 1, 3, X)
        with workers(torch.device("cpu")) as pool:  # one span here, then several in threads

            def total(rows, buffers):
                sums = buffers("sums", (3,), X.dtype)
                return (torch.sum(X[rows], 0, out=sums).clone(),)

            few = pool.sum(total, 2, 1)[0]
            many = pool.sum(total, 200, 3)[0]
    torch.set_num_threads(before)
    assert torch.equal(found, X + 1)
    assert torch.equal(few, X[:2].sum(0)) and torch.equal(many, X.sum(0))
