"""Samples of dask: passes have the bits of a stream and survive kills."""

import itertools
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from in_dask import chunked, chunked_by, cut, dying, frame, read, same, streamed

from skgmmot import DifferentiableGaussianMixture
from skgmmot._inputs import places
from skgmmot._inputs.dask.samples import DaskSamples
from skgmmot.fitting.em.rows import EM
from skgmmot.numerics import fixed_point

dask = pytest.importorskip("dask")
distributed = pytest.importorskip("distributed")
da = pytest.importorskip("dask.array")
dd = pytest.importorskip("dask.dataframe")


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sums_have_the_bits_of_a_stream_of_the_same_blocks(
    X, weights, make_mixture, covariance_type, dtype, weighted
):
    X = X.astype(dtype)
    a = weights if weighted else None
    by_dask = read(chunked(X), chunked(a) if weighted else None)
    by_stream = streamed(X, a)
    for field, other in zip(by_dask.facts, by_stream.facts, strict=True):
        assert torch.equal(field, other) if isinstance(field, torch.Tensor) else field == other
    origin = by_stream.facts.origin
    of = EM(by_stream, origin, 1e-6).fastest(make_mixture(covariance_type, 4, 3))
    assert same(by_dask.sum(of), by_stream.sum(of))


@pytest.mark.parametrize("numbers", [None, np.array([0, 3, 249, 251, 300]), np.array([380])])
def test_rows_are_taken_as_from_a_stream(X, weights, numbers):
    assert same(
        read(chunked(X), chunked(weights)).take(numbers), streamed(X, weights).take(numbers)
    )
    X_alone, none = read(chunked(X)).take(numbers)
    assert none is None and torch.equal(X_alone, streamed(X).take(numbers)[0])


def test_blocks_without_rows_do_not_count(X):
    x = chunked(X)
    holes = x[(x[:, 0] == X[0, 0]) | (x[:, 0] == X[599, 0])]  # none of the second block
    assert torch.equal(read(holes).take()[0], torch.from_numpy(X[[0, 599]]))
    kept = frame(X)
    kept = kept[kept["a"] > np.sort(X[:, 0])[-2]]  # one row in three partitions
    assert read(dd.concat([kept, frame(X)])).n_samples == len(X) + 1


def test_chunks_of_unknown_lengths_are_counted_in_the_first_pass(X):
    x = chunked(X)
    unknown = x[x[:, 0] > 0]
    assert np.isnan(unknown.shape[0])
    assert read(unknown, chunked(np.ones(len(X)))[x[:, 0] > 0]).n_samples == (X[:, 0] > 0).sum()


def changing(array, change):
    """A dask array whose second chunk is changed whenever it is computed after the first time."""
    calls = itertools.count()

    def second():
        return change(array[250:350].copy()) if next(calls) else array[250:350]

    delayed = da.from_delayed(dask.delayed(second, pure=False)(), array[250:350].shape, dtype=float)
    return da.concatenate([chunked(array).blocks[0], delayed, chunked(array).blocks[2]])


CHANGES = {
    "values": lambda rows: rows + 1.0,
    "order": lambda rows: rows[::-1],
    "fewer rows": lambda rows: rows[:-1],
    "no rows": lambda rows: rows[:0],
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("changed", ["X", "sample_weight"])
def test_chunks_that_come_out_otherwise_are_refused(X, rng, changed, change):
    a = rng.uniform(1.0, 2.0, len(X))
    samples, weights = chunked(X), chunked(a)
    if changed == "X":
        samples = changing(X, CHANGES[change])
    else:
        weights = changing(a, CHANGES[change])
    model = DifferentiableGaussianMixture(2, random_state=0)
    with pytest.raises(
        ValueError, match=r"same samples in every pass.*block 1|block 1 of X is inv"
    ):
        model.fit(samples, sample_weight=weights)
    assert not hasattr(model, "means_")


def from_files(X, tmp_path, through):
    """Blocks that are read from files."""

    def load(path):
        return through(np.load(path))

    parts = []
    for i, block in enumerate(cut(X)):
        path = str(tmp_path / f"{i}.npy")
        np.save(path, block)
        parts.append(da.from_delayed(dask.delayed(load)(path), block.shape, dtype=X.dtype))
    return da.concatenate(parts)


def from_graph(X, tmp_path, through):
    """Blocks that are computed from what stands in the graph."""
    return chunked(X).map_blocks(through, dtype=X.dtype)


def test_threads_and_processes_have_the_same_bits(workers, X, make_mixture):
    def sums():
        samples = read(chunked(X))
        return samples.sum(
            EM(samples, samples.facts.origin, 1e-6).fastest(make_mixture("full", 4, 3))
        )

    on_cluster = sums()
    for scheduler in ("threads", "synchronous"):
        with dask.config.set(scheduler=scheduler):
            assert same(sums(), on_cluster)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("source", [from_files, from_graph])
def test_workers_killed_in_iterations_leave_no_trace(
    workers, X, tmp_path, flag, source, monkeypatch
):
    mixture = DifferentiableGaussianMixture(4, tol=0.0, max_iter=6, random_state=0)
    passes, sum_of = [], DaskSamples.sum

    def counted(self, of):
        passes.append(of)
        if len(passes) in (2, 5):
            Path(flag).touch()
        return sum_of(self, of)

    monkeypatch.setattr(DaskSamples, "sum", counted)
    began = {w["id"] for w in workers.scheduler_info()["workers"].values()}
    mixture.fit(source(X, tmp_path, dying(flag)))
    assert not os.path.exists(flag) and len(passes) >= 6 and began
    expected = DifferentiableGaussianMixture(4, tol=0.0, max_iter=6, random_state=0)
    expected.fit(lambda: iter(cut(X)))
    for name in ("weights_", "means_", "covariances_", "lower_bounds_"):
        np.testing.assert_array_equal(getattr(mixture, name), getattr(expected, name))


def test_blocks_held_by_a_killed_worker_are_computed_again(workers, X, make_mixture):
    x = chunked_by(20, X).map_blocks(lambda block: block + 1, dtype=float).persist()
    distributed.wait(x)
    samples = read(x)
    of = EM(samples, samples.facts.origin, 1e-6).fastest(make_mixture("full", 4, 3))
    before = samples.sum(of)
    held = set(samples.blocks._held_by().values())  # a worker may have begun since, without any
    killed, pid = next(each for each in workers.run(os.getpid).items() if each[0] in held)
    os.kill(pid, signal.SIGKILL)
    assert same(samples.sum(of), before)
    distributed.wait(x)
    assert killed not in samples.blocks._held_by().values()
    assert same(samples.sum(of), before)


def test_fingerprints_are_those_of_a_stream_of_the_same_blocks(workers, X, weights):
    mixture = DifferentiableGaussianMixture()
    for a in (None, weights):
        given = None if a is None else chunked(a)
        found, _ = places.out_of_core(mixture, chunked(X), given)
        pairs = cut(X) if a is None else list(zip(cut(X), cut(a), strict=True))
        stream, _ = places.out_of_core(mixture, lambda pairs=pairs: iter(pairs))
        assert found.fingerprint() == stream.fingerprint()


def test_a_fit_that_is_stopped_goes_on_with_the_same_bits(workers, X, tmp_path, monkeypatch):
    mixture = DifferentiableGaussianMixture(3, n_init=2, tol=1e-6, random_state=0)
    expected = mixture.fit(chunked(X)).means_
    mixture.set_params(checkpoint=tmp_path / "fit.npz")
    with monkeypatch.context() as patch:
        patch.setattr("skgmmot.fitting.em.iterations.iterate", _interrupted_after(4))
        with pytest.raises(KeyboardInterrupt):
            mixture.fit(chunked(X))
    assert np.array_equal(mixture.fit(chunked(X)).means_, expected)
    with pytest.raises(ValueError, match="other numbers in lengths of blocks"):
        mixture.fit(chunked(X).rechunk((300, 3)))


def _interrupted_after(n_steps):
    """A loop that ends with an interruption."""

    def iterate(step, start, *, max_iter, **options):
        fixed_point.iterate(step, start, max_iter=n_steps, **options)
        raise KeyboardInterrupt

    return iterate
