"""Fits to samples that come in blocks, against the same samples in memory."""

import ctypes
import gc
import multiprocessing
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning

from skgmmot import DifferentiableGaussianMixture, SlicedWassersteinGMM
from skgmmot._inputs import places
from skgmmot.fitting import stream

SHOWN = ["weights_", "means_", "covariances_", "precisions_cholesky_", "lower_bounds_", "n_iter_"]


@pytest.fixture(scope="module")
def X():
    rng = np.random.default_rng(0)
    return 4 * rng.normal(size=(4, 3))[rng.integers(4, size=1500)] + rng.normal(size=(1500, 3))


@pytest.fixture(scope="module")
def a(X):
    a = np.random.default_rng(1).uniform(size=len(X))
    a[::5] = 0
    return a


def in_blocks(X, size, a=None):
    """A function that returns blocks of rows, with their weights if there are any."""

    def blocks():
        for i in range(0, len(X), size):
            rows = slice(i, i + size)
            yield X[rows] if a is None else (X[rows], a[rows])

    return blocks


def fitted(X, sample_weight=None, **parameters):
    mixture = DifferentiableGaussianMixture(4, **{"random_state": 0, "max_iter": 30, **parameters})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return mixture.fit(X, sample_weight=sample_weight)


def assert_equal(first, second, tol=0.0):
    for name in SHOWN:
        one, other = np.asarray(getattr(first, name)), np.asarray(getattr(second, name))
        np.testing.assert_allclose(other, one, rtol=tol, atol=tol, err_msg=name)
    assert second.entropic_ot_gap_ == pytest.approx(first.entropic_ot_gap_, rel=0, abs=tol)


PARAMETERS = [
    {},
    {"covariance_type": "tied"},
    {"covariance_type": "diag"},
    {"covariance_type": "spherical"},
    {"init_params": "k-means++", "n_init": 3, "max_iter": 2},  # (at the end runs tie to rounding)
    {"init_params": "random"},
    {"init_params": "random_from_data"},
    {"init_params": "sinkhorn"},
    {"e_step": "sinkhorn", "max_iter": 2},
    {"acceleration": "squarem"},
    {"acceleration": "newton"},
    {"fixed_weights": True, "weights_init": [0.1, 0.2, 0.3, 0.4]},
    {"means_init": np.arange(12.0).reshape(4, 3)},
    {"max_iter": 0},
]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("parameters", PARAMETERS, ids=lambda p: "-".join(map(str, p)) or "default")
def test_one_block_gives_the_bits_of_memory_and_many_its_numbers(X, a, parameters, weighted):
    a = a if weighted else None
    memory = fitted(X, a, **parameters)
    assert_equal(memory, fitted(in_blocks(X, len(X), a), **parameters))
    many = fitted(in_blocks(X, 400, a), **parameters)
    assert_equal(memory, many, 1e-10)
    assert_equal(many, fitted(in_blocks(X, 400, a), **parameters))


def test_float32_blocks_stay_float32(X):
    memory, blocks = fitted(X.astype("f4")), fitted(in_blocks(X.astype("f4"), 1500))
    assert blocks.means_.dtype == np.float32
    assert_equal(memory, blocks)
    assert_equal(memory, fitted(in_blocks(X.astype("f4"), 100)), 1e-4)


def test_a_warm_start_goes_on_from_the_last_fit(X):
    fits = []
    for samples in (X, in_blocks(X, 1500)):
        mixture = DifferentiableGaussianMixture(4, random_state=0, max_iter=2, warm_start=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            fits.append(mixture.fit(samples).fit(samples))
    assert_equal(*fits)


def test_verbose_prints_what_a_fit_in_memory_prints(X, capsys):
    fitted(X, verbose=1, verbose_interval=1)
    memory = capsys.readouterr().out
    fitted(in_blocks(X, 1500), verbose=1, verbose_interval=1)
    assert capsys.readouterr().out == memory
    assert "Iteration 2" in memory


@pytest.mark.parametrize("weighted", [False, True])
def test_beyond_the_limit_the_start_is_found_from_rows_whatever_the_blocks(
    X, a, weighted, monkeypatch
):
    monkeypatch.setattr(stream, "START_ROWS", 200)
    a = a if weighted else None
    first = fitted(in_blocks(X, 1500, a), max_iter=100)
    assert_equal(first, fitted(in_blocks(X, 33, a), max_iter=100), 1e-10)
    memory = fitted(X, a, max_iter=100)
    assert first.lower_bound_ == pytest.approx(memory.lower_bound_, abs=0.05)


def test_a_start_never_has_rows_of_weight_zero_only(X, monkeypatch):
    monkeypatch.setattr(stream, "START_ROWS", 50)
    a = np.zeros(len(X))
    a[[3, 700, 1400, 1401, 1402, 1403]] = 1.0
    found = fitted(in_blocks(X, 100, a), max_iter=1)
    assert np.isfinite(found.means_).all()


# --- what is refused, and what stays ------------------------------------------------------------


def failing(X, error, at_pass, after=100):
    """Blocks that end in an error, at one of the passes."""
    passes = []

    def blocks():
        passes.append(1)
        yield X[:after]
        if len(passes) == at_pass:
            raise error
        yield X[after:]

    return blocks


@pytest.mark.parametrize("at_pass", [1, 2, 3])
@pytest.mark.parametrize(
    "error", [OSError("the disk is gone"), ValueError("mine"), KeyboardInterrupt("stop")], ids=repr
)
def test_an_error_in_a_pass_passes_through_and_leaves_the_earlier_fit(X, error, at_pass):
    mixture = fitted(X)
    before = dict(vars(mixture))
    with pytest.raises(type(error), match=f"^{error}$"):
        mixture.fit(failing(X[:, :2], error, at_pass))
    assert vars(mixture) == before


def test_an_interrupted_fit_keeps_the_best_state_so_far(X):
    mixture = DifferentiableGaussianMixture(4, random_state=0, tol=0.0)
    with pytest.raises(KeyboardInterrupt):
        mixture.fit(failing(X, KeyboardInterrupt, at_pass=6))  # facts, start, three iterations
    assert mixture.n_iter_ == 3
    assert not mixture.converged_
    reference = fitted(in_blocks(X, 1500), max_iter=3, tol=0.0)
    np.testing.assert_allclose(mixture.means_, reference.means_, rtol=0, atol=1e-10)


def test_an_exhausted_iterator_leaves_the_earlier_fit(X):
    mixture = fitted(X)
    before, blocks = dict(vars(mixture)), iter([X])
    with pytest.raises(ValueError, match="must return a fresh iterator at every call"):
        mixture.fit(lambda: blocks)
    assert vars(mixture) == before
    with pytest.raises(TypeError, match=r"got list_iterator.*a function that"):
        mixture.fit(iter([X]))
    with pytest.raises(TypeError, match=r"got generator.*a function that"):
        mixture.fit(block for block in [X])


def test_fewer_rows_than_components_are_refused(X):
    with pytest.raises(ValueError, match="n_components = 4, n_samples = 3"):
        fitted(in_blocks(X[:3], 2))
    a = np.r_[np.ones(3), np.zeros(len(X) - 3)]
    with pytest.raises(ValueError, match="n_components = 4, n_samples = 3"):
        fitted(in_blocks(X, 100, a))


def test_a_reg_covar_that_drowns_a_feature_is_warned_of(X):
    with pytest.warns(UserWarning, match="reg_covar must be small") as caught:
        DifferentiableGaussianMixture(2, reg_covar=1.0).fit(in_blocks(X / 10, 100))
    assert caught[0].filename == __file__


@pytest.mark.parametrize("method", ["predict", "predict_proba", "score_samples", "fit_predict"])
def test_results_for_each_sample_are_taken_block_by_block(X, method):
    mixture = fitted(X)
    with pytest.raises(TypeError, match="or predict one by one"):
        getattr(mixture, method)(in_blocks(X, 100))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("method", ["score", "bic", "aic", "entropic_ot_gap"])
def test_what_sums_over_samples_reads_blocks(X, a, method, weighted):
    mixture, a = fitted(X), a if weighted else None
    expected = getattr(mixture, method)(X, sample_weight=a)
    for blocks in (in_blocks(X, 400, a), in_blocks(X, 1500, a)):
        assert getattr(mixture, method)(blocks) == pytest.approx(expected, rel=1e-11, abs=1e-12)
    if weighted:
        assert getattr(mixture, method)(in_blocks(X, 400), sample_weight=a) == pytest.approx(
            expected, rel=1e-11, abs=1e-12
        )


def test_scores_of_blocks_that_are_none_are_refused(X):
    mixture = fitted(X)
    with pytest.raises(ValueError, match=r"block 0 .*has 2 features"):
        mixture.score(in_blocks(X[:, :2], 100))
    with pytest.raises(ValueError, match="positive sum"):
        mixture.score(in_blocks(X, 100, np.zeros(len(X))))


def test_a_sample_of_weight_zero_counts_for_no_score(X):
    far = np.vstack([X, np.full((1, 3), 1e200)])
    a = np.r_[np.ones(len(X)), 0.0]
    with np.errstate(over="ignore"):
        found = fitted(X).score(in_blocks(far, 100, a))
    assert found == pytest.approx(fitted(X).score(X), rel=1e-12)


def test_other_estimators_say_that_they_take_arrays(X):
    with pytest.raises(TypeError, match="X must be an array here, got function"):
        SlicedWassersteinGMM(2).fit(in_blocks(X, 100))


# --- files ---------------------------------------------------------------------------------------


def test_a_map_in_a_file_is_read_in_blocks(X, a, tmp_path, monkeypatch):
    np.save(tmp_path / "X.npy", X)
    X_mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    in_memory = fitted(X, a)
    assert_equal(in_memory, fitted(X_mapped, a))
    monkeypatch.setattr(places, "MEMORY_MAP_BYTES", 100)
    monkeypatch.setattr(places, "BLOCK_BYTES", 100 * X[0].nbytes)
    assert_equal(fitted(in_blocks(X, 100, a)), fitted(X_mapped, a))
    for method in ("predict", "predict_proba", "score_samples"):
        expected = getattr(in_memory, method)(X)
        found = getattr(in_memory, method)(X_mapped)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)
        assert found.dtype == expected.dtype
    assert in_memory.score(X_mapped, sample_weight=a) == pytest.approx(in_memory.score(X, None, a))
    assert np.array_equal(in_memory.fit_predict(X_mapped), in_memory.predict(X))


def test_parquet_batches_are_blocks(X, tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    pa = pytest.importorskip("pyarrow")
    table = pa.table({name: X[:, i] for i, name in enumerate("abc")})
    pq.write_table(table, tmp_path / "X.parquet", row_group_size=300)
    found = fitted(lambda: pq.ParquetFile(tmp_path / "X.parquet").iter_batches(batch_size=400))
    assert list(found.feature_names_in_) == ["a", "b", "c"]
    assert_equal(fitted(X), found, 1e-10)


def test_chunks_of_zarr_are_blocks(X, tmp_path):
    zarr = pytest.importorskip("zarr")
    array = zarr.create_array(tmp_path / "X.zarr", shape=X.shape, chunks=(250, 3), dtype=X.dtype)
    array[:] = X
    found = fitted(lambda: (array[i : i + 250] for i in range(0, len(X), 250)))
    assert_equal(fitted(X), found, 1e-10)


def test_a_torch_dataset_is_read_in_blocks(X, a):
    dataset = torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(a))
    found = fitted(lambda: (dataset[i : i + 400] for i in range(0, len(dataset), 400)))
    assert_equal(fitted(X, a), found, 1e-10)
    loader = torch.utils.data.DataLoader(dataset, batch_size=400)
    assert_equal(found, fitted(lambda: map(tuple, loader)))


def megabytes(field):
    """A line of what Linux knows of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(s for s in lines if s.startswith(field)).split()[1]) / 1024


def peak(function):
    """By how many MB a call exceeds what the process holds."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # else what is free here would be taken first
    Path("/proc/self/clear_refs").write_text("5")  # forgets the mark so far
    before = megabytes("VmRSS")
    function()
    return megabytes("VmHWM") - before


def send_peaks(path, sender):
    """The peaks of a fit, a score and a prediction, in a process of their own."""
    places.MEMORY_MAP_BYTES = places.BLOCK_BYTES = 2**20
    stream.START_ROWS = 2000

    def mapped():
        return np.load(path, mmap_mode="r")

    warnings.simplefilter("ignore")
    mixture = DifferentiableGaussianMixture(4, max_iter=2, tol=0.0, random_state=0)
    mixture.fit(mapped()[: 2**17])  # what is loaded and kept once
    calls = mixture.fit, mixture.score, mixture.predict
    sender.send([peak(lambda call=call: call(mapped())) for call in calls])


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's high-water mark")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_memory_does_not_grow_with_a_map(tmp_path):
    np.save(tmp_path / "X.npy", np.random.default_rng(0).normal(size=(2**21, 4)))  # 64 MB
    forked = multiprocessing.get_context("fork")
    receiver, sender = forked.Pipe(duplex=False)
    process = forked.Process(target=send_peaks, args=(tmp_path / "X.npy", sender))
    process.start()
    sender.close()
    of_fit, of_score, of_predict = receiver.recv()
    process.join()
    assert of_fit < 24
    assert of_score < 24
    assert of_predict < 16 + 24  # with the result
