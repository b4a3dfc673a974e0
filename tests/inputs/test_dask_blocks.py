"""Blocks of dask: passes have the bits of a stream and survive kills; answers are lazy."""

import itertools
import os
import pickle
import signal
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from skgmmot import DifferentiableGaussianMixture, metrics
from skgmmot._inputs import arrays, dask_blocks, places
from skgmmot._inputs.dask_blocks import (
    SENT_ALONG,
    DaskBlocks,
    DaskSamples,
    answers,
    check_features,
    dtype_of,
    lent_pool,
)
from skgmmot.fitting.em.rows import EM
from skgmmot.gaussian.covariance.registry import COVARIANCE_TYPES
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.numerics import fixed_point

dask = pytest.importorskip("dask")
distributed = pytest.importorskip("distributed")
da = pytest.importorskip("dask.array")
dd = pytest.importorskip("dask.dataframe")

CHUNKS = (250, 100, 250)
EDGES = np.cumsum((0, *CHUNKS))


@pytest.fixture
def X(blobs, rng):
    """Samples in the order of no cloud."""
    return rng.permutation(blobs)


@pytest.fixture
def weights(X, rng):
    """Weights, some of them zero."""
    return rng.integers(0, 3, len(X)).astype(float)


def cut(array):
    """The blocks of an array in memory."""
    return [array[i:j] for i, j in itertools.pairwise(EDGES)]


def chunked(array, dtype=None):
    """The same blocks as a dask array."""
    return da.from_array(array.astype(dtype or array.dtype), chunks=(CHUNKS, *array.shape[1:]))


def chunked_by(n, array):
    """A dask array in blocks of n rows."""
    return da.from_array(array, chunks=(n, *array.shape[1:]))


def frame(X, n=3):
    """A data frame of n partitions."""
    return dd.from_pandas(pd.DataFrame(X, columns=["a", "b", "c"]), npartitions=n)


def read(X, sample_weight=None):
    """The samples of an estimator of no parameters."""
    return places.out_of_core(DifferentiableGaussianMixture(), X, sample_weight)[0]


def streamed(X, weights=None):
    """The same blocks as a function of blocks."""
    return read(lambda: iter(cut(X)), None if weights is None else (lambda: iter(cut(weights))))


def same(left, right):
    """Whether tuples of tensors have the same bits."""
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


# --- passes --------------------------------------------------------------------------------------


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


def test_data_frames_and_series_are_blocks_too(X, weights):
    df = frame(np.column_stack([X[:, :2], weights]))
    found, expected = (f.facts for f in (read(df[["a", "b"]], df["c"]), read(df[["a", "b"]])))
    assert found.n_samples == expected.n_samples == len(X)
    assert found.n_positive == (weights > 0).sum()
    torch.testing.assert_close(found.mean, torch.from_numpy(np.average(X[:, :2], 0, weights)))


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


# --- what is refused -----------------------------------------------------------------------------


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


def of_dtype(dtype):
    return da.zeros((10, 2), chunks=(5, 2), dtype=dtype)


def delayed_blocks(*blocks):
    """An array whose blocks need not have what is declared."""
    parts = [da.from_delayed(dask.delayed(b), (4, 2), dtype=float) for b in blocks]
    return da.concatenate(parts)


REFUSED = {
    "1-d": (lambda: da.zeros(10), r"X must have shape .*X\[:, None\]"),
    "series": (lambda: frame(np.ones((9, 3)))["a"], r"X must have shape .*X.to_frame\(\)"),
    "3-d": (lambda: da.zeros((4, 3, 2)), r"X must have shape .*got 3 axes. Make the axes"),
    "features in chunks": (
        lambda: da.zeros((10, 4), chunks=(5, 2)),
        r"chunked by rows only, got chunks of features \(2, 2\). Use X.rechunk\(\{1: -1\}\)",
    ),
    "objects": (lambda: of_dtype(object), r"must hold real numbers, got object.*astype\(float\)"),
    "complex": (lambda: of_dtype(complex), r"must hold real numbers, got complex128"),
    "times": (lambda: of_dtype("M8[s]"), r"must hold real numbers, got datetime64"),
    "words": (
        lambda: dd.from_pandas(pd.DataFrame({"n": [1.0], "word": ["a"]}), npartitions=1),
        r"must hold real numbers, got (str|object|string) in column 'word'",
    ),
    "delayed": (lambda: dask.delayed(np.ones)((3, 2)), "must be a dask array or data frame, got"),
    "NaN": (
        lambda: da.from_array(np.where(np.arange(20) == 13, np.nan, 0.0)[:, None], chunks=(5, 1)),
        r"block 2 of X is invalid: X must be finite, got NaN in 1 of 5 rows \(first: row 3\)",
    ),
    "large": (lambda: da.full((10, 2), 1e200, chunks=(5, 2)), r"block [01] of X .* Rescale X"),
    "no rows": (lambda: da.zeros((0, 2)), "X must have rows, got none in any block"),
    "one row": (lambda: da.zeros((1, 2)), "X must have at least 2 samples"),
    "mixed dtypes": (
        lambda: delayed_blocks(np.ones((4, 2)), np.ones((4, 2), np.float32)),
        r"one dtype, got torch.float32 in block 1 after torch.float64 in block 0. Use X.astype",
    ),
    "mixed features": (
        lambda: delayed_blocks(np.ones((4, 2)), np.ones((4, 3))),
        "block 1 of X is invalid: X has 3 features, but .* expecting 2",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_table_of_numbers_in_blocks_of_rows_is_refused(name):
    make, message = REFUSED[name]
    with pytest.raises((TypeError, ValueError), match=message):
        read(make())


REFUSED_WEIGHTS = {
    "in memory": (lambda x: np.ones(len(x)), r"must be a dask array or series.*from_array"),
    "a tensor on a graph": (lambda x: torch.ones(len(x), requires_grad=True), "without gradients"),
    "a column": (lambda x: da.ones((len(x), 1)), "must have shape"),
    "other chunks": (
        lambda x: da.ones(len(x), chunks=300),
        r"the row chunks of X, \(250, 100, 250",
    ),
    "other lengths": (
        lambda x: frame(np.ones((len(x) - 1, 3)))["a"],
        r"block [012] of X is invalid: .*sample_weight",
    ),
    "negative": (lambda x: -da.ones(len(x), chunks=(CHUNKS,)), "block [012] .*non-negative"),
    "words": (lambda x: da.full(len(x), "a", chunks=(CHUNKS,)), "sample_weight must hold real"),
    "zeros": (lambda x: da.zeros(len(x), chunks=(CHUNKS,)), "must have a positive sum"),
}


@pytest.mark.parametrize("name", REFUSED_WEIGHTS)
def test_weights_that_are_cut_otherwise_or_no_weights_are_refused(X, name):
    make, message = REFUSED_WEIGHTS[name]
    with pytest.raises((TypeError, ValueError), match=message):
        read(chunked(X), make(X))


def test_weights_of_dask_need_samples_of_dask(X, weights):
    with pytest.raises(TypeError, match=r"in memory where X is.*sample_weight.compute\(\)"):
        DifferentiableGaussianMixture().fit(X, sample_weight=chunked(weights))


def test_other_devices_are_refused(X):
    with pytest.raises(ValueError, match="device must be None or 'cpu' for samples of dask"):
        places.out_of_core(DifferentiableGaussianMixture(device="meta"), chunked(X))


# --- answers -------------------------------------------------------------------------------------


def first_columns(estimator, block):
    return np.asarray(block)[:, :2]


@pytest.fixture
def fitted(X):
    return DifferentiableGaussianMixture(2, random_state=0).fit(X)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
@pytest.mark.parametrize("method", ["predict", "predict_proba", "score_samples"])
def test_answers_are_lazy_arrays_that_say_what_they_hold(fitted, X, method, dtype):
    x = chunked(X.round(), dtype)
    answer, expected = getattr(fitted, method)(x), getattr(fitted, method)(X.round().astype(dtype))
    assert isinstance(answer, da.Array) and answer.chunks[0] == CHUNKS
    assert answer.dtype == expected.dtype and answer.shape == expected.shape
    assert type(answer._meta) is np.ndarray and answer._meta.dtype == expected.dtype
    computed = answer.compute()
    assert computed.dtype == expected.dtype
    np.testing.assert_allclose(computed, expected, rtol=1e-4 if dtype == "float32" else 1e-9)


def test_answers_keep_unknown_chunks(fitted, X):
    x = chunked(X)
    for some in (x[x[:, 0] > 0], x[x[:, 0] > 1e9]):
        answer = fitted.predict_proba(some)
        assert np.isnan(answer.shape[0]) and answer.shape[1] == 2
        assert answer.compute().shape == (len(some.compute()), 2)


def test_answers_for_data_frames_are_arrays(X):
    df = frame(X)
    fitted = DifferentiableGaussianMixture(2, random_state=0).fit(df)
    assert fitted.feature_names_in_.tolist() == ["a", "b", "c"]
    answer = fitted.score_samples(df)
    assert isinstance(answer, da.Array) and answer.npartitions == 3
    expected = fitted.score_samples(df.compute())
    np.testing.assert_allclose(answer.compute(), expected, rtol=1e-9)
    assert fitted.score_samples(df.astype("float32")).compute().dtype == np.float32
    with pytest.raises(ValueError, match="same order"):
        fitted.predict(df[["b", "a", "c"]])
    with pytest.warns(UserWarning, match="does not have valid feature names") as caught:
        fitted.predict(chunked(X)).compute()
    assert len(caught) == 1  # not once a block


def test_answers_refuse_what_can_be_known_and_raise_the_rest_when_computed(fitted, X):
    with pytest.raises(ValueError, match=r"2 features, but .* expecting 3"):
        fitted.predict(chunked(X[:, :2]))
    with pytest.raises(ValueError, match="rechunk"):
        fitted.predict(da.zeros((10, 3), chunks=(10, 1)))
    X[300] = np.nan
    answer = fitted.predict(chunked(X))
    with pytest.raises(ValueError, match="X must be finite, got NaN in 1 of 100 rows"):
        answer.compute()


def test_an_answer_may_go_by_the_number_of_the_row(fitted, X):
    def numbers(estimator, block, first_row):
        return first_row + np.arange(len(block))

    example = np.empty(0, dtype=int)
    answer = answers(fitted, chunked(X), numbers, example, by_row=True)
    assert answer.compute().tolist() == list(range(len(X)))
    with pytest.raises(ValueError, match=r"known lengths.*compute_chunk_sizes"):
        answers(fitted, chunked(X)[chunked(X)[:, 0] > 0], numbers, example, by_row=True)


def test_dtypes_and_features_are_told_before_anything_is_computed(X):
    assert dtype_of(frame(X.astype("float32"))) == np.float32
    assert dtype_of(frame(X)) == dtype_of(of_dtype(int)) == np.float64
    estimator = DifferentiableGaussianMixture()
    check_features(estimator, frame(X), reset=True)
    assert estimator.n_features_in_ == 3 and list(estimator.feature_names_in_) == list("abc")
    check_features(estimator, chunked(X[:, :2]), reset=True)
    assert estimator.n_features_in_ == 2 and not hasattr(estimator, "feature_names_in_")


@pytest.mark.parametrize("data", [np.ones((3, 2)), torch.ones(3), [[1.0]], pd.DataFrame(), None])
def test_only_collections_of_dask_are_of_dask(data):
    assert not arrays.is_dask(data)


METRICS = {
    "Fréchet": lambda mixture, x: metrics.frechet_distance(x, x),
    "semi-discrete": metrics.semidiscrete_distance,
    "its plan": metrics.semidiscrete_plan,
    "sliced": metrics.sliced_wasserstein_scorer,
    "arrays of a mixture": lambda mixture, x: metrics.mixture_wasserstein_distance(
        (x[0, :2], x[:2], x[0, :2]), mixture
    ),
}


@pytest.mark.parametrize("name", METRICS)
def test_metrics_of_samples_refuse_them(fitted, X, name):
    with pytest.raises(TypeError, match=r"in memory here, got a dask Array. Use .compute\(\)"):
        METRICS[name](fitted, chunked(X))


# --- a cluster of processes ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def client():
    """Two workers of one thread each, in processes of their own; nobody's default."""
    options = {"dashboard_address": ":0", "memory_limit": "2GiB", "silence_logs": 50}
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


def dying(flag):
    """A function of a block that kills its process, a worker, where it finds a flag."""
    here = os.getpid()

    def through(block):
        if os.getpid() == here:
            return block
        try:
            os.unlink(flag)
        except OSError:
            return block
        os.kill(os.getpid(), signal.SIGKILL)

    return through


@pytest.fixture
def flag(tmp_path):
    """The name of a file that kills who finds it."""
    return str(tmp_path / "kill")


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
        monkeypatch.setattr(dask_blocks, "TASK_BYTES", 1)
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


def test_errors_of_the_users_own_tasks_are_theirs(workers, X):
    def fail(block):
        raise ZeroDivisionError("of the user's own")

    with pytest.raises(ZeroDivisionError, match="of the user's own"):
        read(chunked(X).map_blocks(fail, dtype=float))


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
    killed, pid = next(iter(workers.run(os.getpid).items()))
    assert killed in samples.blocks._held_by().values()
    os.kill(pid, signal.SIGKILL)
    assert same(samples.sum(of), before)
    distributed.wait(x)
    assert killed not in samples.blocks._held_by().values()
    assert same(samples.sum(of), before)


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
    monkeypatch.setattr(dask_blocks, "ATTEMPTS", 2)  # each kill takes seconds

    def die(X, weights):
        os.kill(os.getpid(), signal.SIGKILL)

    scheduler = workers.cluster.scheduler
    allowed, scheduler.allowed_failures = scheduler.allowed_failures, 0
    try:
        with pytest.raises(RuntimeError, match=r"2 failures: the task .*each time.*smaller chunks"):
            DaskBlocks(chunked(X)[:250]).map(die)
    finally:
        scheduler.allowed_failures = allowed


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
