"""Tasks are tried again, and what is sent once stays."""

import os
import pickle
import signal
import threading
from pathlib import Path

import pytest
import torch
from in_dask import CHUNKS, chunked, dying, read

from skgmmot._inputs.dask.blocks import DaskBlocks
from skgmmot._inputs.dask.tasks import SENT_ALONG, lent_pool
from skgmmot.gaussian.covariance.registry import COVARIANCE_TYPES
from skgmmot.gaussian.mixture import GaussianMixtureParams

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")


def test_large_functions_are_sent_once(X):
    n = SENT_ALONG // 8

    class Long:
        numbers = torch.arange(n, dtype=torch.float64)
        row_size, min_rows = 1, 16

        def block(self, X, sample_weight, buffers):
            return (self.numbers * len(X),)

    assert torch.equal(read(chunked(X)).sum(Long())[0], Long.numbers * len(X))


def test_each_thread_has_buffers_of_its_own():
    found = [lent_pool()]
    other = threading.Thread(target=lambda: found.append(lent_pool()))
    other.start()
    other.join()
    assert found[0] is lent_pool() and found[0] is not found[1]


def test_what_is_sent_compares_after_it_was_unpickled(covariance_type):
    kept = COVARIANCE_TYPES[covariance_type]
    sent = pickle.loads(pickle.dumps(kept))
    assert sent == kept and hash(sent) == hash(kept) and sent.base is sent
    theta = GaussianMixtureParams(
        torch.ones(1), torch.zeros(1, 2), torch.ones(kept.shape(1, 2)), kept
    )
    assert pickle.loads(pickle.dumps(theta)).in_base().covariance_type == kept


def test_errors_of_the_users_own_tasks_are_theirs(workers, X):
    def fail(block):
        raise ZeroDivisionError("of the user's own")

    with pytest.raises(ZeroDivisionError, match="of the user's own"):
        read(chunked(X).map_blocks(fail, dtype=float))


def test_a_pass_is_tried_again(workers, X, flag):
    scheduler = workers.cluster.scheduler
    allowed, scheduler.allowed_failures = scheduler.allowed_failures, 0
    Path(flag).touch()
    try:
        blocks = DaskBlocks(chunked(X).map_blocks(dying(flag), dtype=float))
        assert blocks.map(lambda X, weights: len(X)) == list(CHUNKS)
    finally:
        scheduler.allowed_failures = allowed


def test_data_that_was_scattered_is_lost_with_its_worker(workers, X, flag):
    future = workers.scatter(X)
    x = da.from_delayed(dask.delayed(future), X.shape, dtype=float)
    blocks, kill = DaskBlocks(x), dying(flag)
    assert blocks.map(lambda X, weights: len(X)) == [len(X)]
    Path(flag).touch()
    with pytest.raises(RuntimeError, match=r"3 failures: data .* is lost.*scattered"):
        blocks.map(lambda X, weights: kill(X))


def test_a_pass_that_kills_every_worker_says_what_died(workers, X, monkeypatch):
    monkeypatch.setattr("skgmmot._inputs.dask.tasks.ATTEMPTS", 2)  # each kill takes seconds

    def die(X, weights):
        os.kill(os.getpid(), signal.SIGKILL)

    scheduler = workers.cluster.scheduler
    allowed, scheduler.allowed_failures = scheduler.allowed_failures, 0
    try:
        with pytest.raises(RuntimeError, match=r"2 failures: the task .*each time.*smaller chunks"):
            DaskBlocks(chunked(X)[:250]).map(die)
    finally:
        scheduler.allowed_failures = allowed
