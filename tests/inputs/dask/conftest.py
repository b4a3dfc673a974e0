"""Samples, and a cluster of processes, for the tests of dask."""

import pytest

from skgmmot import DifferentiableGaussianMixture


@pytest.fixture
def X(blobs, rng):
    """Samples in the order of no cloud."""
    return rng.permutation(blobs)


@pytest.fixture
def weights(X, rng):
    """Weights, some of them zero."""
    return rng.integers(0, 3, len(X)).astype(float)


@pytest.fixture
def fitted(X):
    return DifferentiableGaussianMixture(2, random_state=0).fit(X)


@pytest.fixture(scope="session")
def client():
    """Two workers of one thread each, in processes of their own; nobody's default.

    They are forked from a process that has loaded the package: tests kill them by the dozen.
    """
    dask, distributed = pytest.importorskip("dask"), pytest.importorskip("distributed")
    options = {"dashboard_address": ":0", "memory_limit": "2GiB", "silence_logs": 50}
    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        distributed.utils.get_mp_context().set_forkserver_preload(["distributed", "skgmmot"])
        with (
            distributed.LocalCluster(n_workers=2, threads_per_worker=1, **options) as cluster,
            distributed.Client(cluster, set_as_default=False) as client,
        ):
            yield client


@pytest.fixture
def workers(client):
    """The same as the current client of one test.

    With both workers: dask does not replace one that is killed as it starts, and where it was the
    only one, nothing would ever be computed. If one comes back late there are three, which stay:
    dask may fail as it retires a worker that it has just met again.
    """
    n_lost = 2 - len(client.scheduler_info()["workers"])
    if n_lost > 0:
        client.cluster.scale(len(client.cluster.worker_spec) + n_lost)
    client.wait_for_workers(2, timeout=60)
    with client.as_current():
        yield client


@pytest.fixture
def flag(tmp_path):
    """The name of a file that kills who finds it."""
    return str(tmp_path / "kill")
