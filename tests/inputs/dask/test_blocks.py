"""Blocks of dask: what is sent to workers, and which share a task."""

import numpy as np
import pandas as pd
import pytest
import torch
from in_dask import chunked, chunked_by, frame, read

from skgmmot._inputs.dask.blocks import DaskBlocks

dask = pytest.importorskip("dask")
distributed = pytest.importorskip("distributed")
da = pytest.importorskip("dask.array")
dd = pytest.importorskip("dask.dataframe")


def test_data_frames_and_series_are_blocks_too(X, weights):
    df = frame(np.column_stack([X[:, :2], weights]))
    found, expected = (f.facts for f in (read(df[["a", "b"]], df["c"]), read(df[["a", "b"]])))
    assert found.n_samples == expected.n_samples == len(X)
    assert found.n_positive == (weights > 0).sum()
    torch.testing.assert_close(found.mean, torch.from_numpy(np.average(X[:, :2], 0, weights)))


def test_data_in_the_graph_is_sent_once(workers, rng):
    blocks = DaskBlocks(da.from_array(rng.normal(size=(50_000, 4)), chunks=(10_000, 4)))
    for (block,) in blocks._blocks:
        held = [getattr(task, "value", task) for task in dict(block.dask).values()]
        assert not any(isinstance(value, np.ndarray) for value in held)
    assert blocks.map(lambda X, weights: len(X)) == [10_000] * 5


def test_blocks_that_a_worker_holds_share_tasks(workers, rng, monkeypatch):
    X, a = rng.normal(size=(640, 3)), rng.uniform(size=640)
    table = pd.DataFrame(X, columns=list("abc")).assign(w=a)
    held = [
        *workers.persist([chunked_by(20, X), chunked_by(20, a)]),
        workers.persist(dd.from_pandas(table, npartitions=32)),
    ]
    distributed.wait(held)
    n_workers = len(workers.scheduler_info()["workers"])
    for blocks in (DaskBlocks(held[0]), DaskBlocks(*held[:2]), DaskBlocks(held[2])):
        groups = blocks._groups(range(32))
        assert sorted(i for group in groups for i in group) == list(range(32))
        assert n_workers <= len(groups) <= 2 * n_workers
        arguments = {i: (i,) for i in rng.permutation(32).tolist()}
        monkeypatch.setattr("skgmmot._inputs.dask.blocks.TASK_BYTES", 1)
        assert len(blocks._groups(range(32))) == 32
        monkeypatch.undo()
        found = blocks.map(lambda X, w, i: (i, len(X), w is None or len(w) == len(X)), arguments)
        assert found == [(i, 20, True) for i in arguments]


def test_blocks_that_no_worker_holds_are_a_task_each(workers, X):
    assert DaskBlocks(chunked(X)[:, :2])._groups([2, 0]) == [[0], [1]]
    with dask.config.set(scheduler="threads"):
        assert DaskBlocks(chunked(X))._groups([2, 0]) == [[0], [1]]


def test_memory_maps_in_the_graph_are_refused_on_a_cluster_only(workers, X, tmp_path):
    np.save(tmp_path / "X.npy", X)
    x = da.from_array(np.load(tmp_path / "X.npy", mmap_mode="r"), chunks=(100, 3))
    with pytest.raises(ValueError, match=r"memory map.*map_blocks"):
        DaskBlocks(x)
    with dask.config.set(scheduler="threads"):
        assert len(DaskBlocks(x)) == 6
