"""Fits and predictions at the same time are those of one after the other, and none hangs."""

import multiprocessing
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import pytest
import torch

import skgmmot
from skgmmot import metrics

#: Seconds after which something hangs: a hundred times what it takes.
LIMIT = 60
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*did not converge", "ignore:This process:DeprecationWarning"
)
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")


def clouds(seed):
    """Samples of two clouds, enough for several blocks."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(20_000, 3)) + 3 * rng.integers(2, size=(20_000, 1))


def whole(seed):
    """A fit, what it predicts, its gradient and its distance to another one, as arrays."""
    X = clouds(seed)
    options = {"random_state": 0, "max_iter": 5, "init_params": "random_from_data"}
    name = ("full", "tied", "diag", "spherical")[seed % 4]
    fitted = skgmmot.DifferentiableGaussianMixture(2, covariance_type=name, **options).fit(X)
    few = torch.tensor(X[:200], requires_grad=True)
    other = skgmmot.DifferentiableGaussianMixture(2, gradient="one_step", **options).fit(few)
    other.means_.square().sum().backward()
    return [
        *(fitted.weights_, fitted.means_, fitted.covariances_),
        *(fitted.predict_proba(X), fitted.score_samples(X), few.grad.numpy()),
        metrics.mixture_wasserstein_distance(fitted, (*(t[::-1] for t in SHIFTED), "spherical")),
    ]


#: A mixture to compare with.
SHIFTED = np.array([0.3, 0.7]), np.arange(6.0).reshape(2, 3), np.array([1.0, 2.0])


def checksum(seed):
    """What `whole` gives, as bytes."""
    return b"".join(np.asarray(part).tobytes() for part in whole(seed))


@pytest.fixture(scope="module")
def expected():
    """The results one after the other; this also wakes torch's own threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    (torch.ones(500, 500) @ torch.ones(500, 500)).exp()
    yield [checksum(seed) for seed in range(8)]
    torch.set_num_threads(before)


def test_eight_threads_fit_and_predict_at_once(expected):
    n_threads = torch.get_num_threads()
    with ThreadPoolExecutor(8) as pool:
        found = [pool.submit(checksum, seed) for seed in range(8)]
        assert [future.result(LIMIT) for future in found] == expected
    assert torch.get_num_threads() == n_threads


def test_eight_threads_use_one_estimator_at_once(expected):
    X = clouds(0)
    fitted = skgmmot.DifferentiableGaussianMixture(2, random_state=0, max_iter=3).fit(X)
    alone = fitted.predict_proba(X)
    with ThreadPoolExecutor(8) as pool:
        found = [pool.submit(fitted.predict_proba, X) for _ in range(8)]
        assert all(np.array_equal(future.result(LIMIT), alone) for future in found)


def test_processes_of_joblib_give_the_same(expected):
    jobs = (joblib.delayed(checksum)(seed) for seed in range(4))
    assert joblib.Parallel(n_jobs=2, backend="loky", timeout=LIMIT)(jobs) == expected[:4]


@needs_fork
def test_a_forked_process_gives_the_same(expected):
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, b"same" if checksum(0) == expected[0] else b"other")
        finally:
            os._exit(0)
    os.close(writing)
    end = time.monotonic() + LIMIT
    while not (ended := os.waitpid(child, os.WNOHANG)[0]) and time.monotonic() < end:
        time.sleep(0.01)
    if not ended:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    with os.fdopen(reading, "rb") as said:
        assert ended and said.read() == b"same"


@needs_fork
def test_a_pool_of_forked_processes_gives_the_same(expected):
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map_async(checksum, range(4)).get(LIMIT) == expected[:4]


@needs_fork
def test_a_process_is_forked_while_other_threads_fit(expected):
    with ThreadPoolExecutor(2) as threads:
        fits = [threads.submit(checksum, seed) for seed in range(4)]
        with multiprocessing.get_context("fork").Pool(1) as pool:
            assert pool.map_async(checksum, [5]).get(LIMIT) == expected[5:6]
        assert [future.result(LIMIT) for future in fits] == expected[:4]
