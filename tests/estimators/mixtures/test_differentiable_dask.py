"""Fits to dask arrays and data frames: as those to the same blocks in memory."""

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skgmmot import DifferentiableGaussianMixture, SemidiscreteGMM, SlicedWassersteinGMM
from skgmmot.estimators.starts import drawing

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")
dd = pytest.importorskip("dask.dataframe")

CHUNK = 200


@pytest.fixture
def X(blobs, rng):
    """Samples in the order of no cloud."""
    return rng.permutation(blobs)


def chunked(array):
    return da.from_array(array, chunks=(CHUNK, *array.shape[1:]))


def blocks(array):
    """The same blocks as a function of blocks."""
    return lambda: (array[i : i + CHUNK] for i in range(0, len(array), CHUNK))


def assert_same(left, right):
    for name in ("weights_", "means_", "covariances_", "precisions_cholesky_", "lower_bounds_"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name))
    assert (left.n_iter_, left.converged_) == (right.n_iter_, right.converged_)


OPTIONS = {
    "plain": {},
    "several starts": {"n_init": 3},
    "Sinkhorn-EM": {"e_step": "sinkhorn", "max_iter": 500, "tol": 1e-4},
    "a start by Sinkhorn-EM": {"init_params": "sinkhorn"},
    "squarem": {"acceleration": "squarem", "tol": 1e-6},
    "newton": {"acceleration": "newton", "tol": 1e-6},
    "random responsibilities": {"init_params": "random", "max_iter": 500},
    "fixed weights": {"fixed_weights": True},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_fits_have_the_bits_of_the_same_blocks_in_memory(X, options):
    mixture = DifferentiableGaussianMixture(4, random_state=0, **options)
    by_blocks = DifferentiableGaussianMixture(4, random_state=0, **options).fit(blocks(X))
    assert_same(mixture.fit(chunked(X)), by_blocks)
    in_memory = DifferentiableGaussianMixture(4, random_state=0, **options).fit(X)
    np.testing.assert_allclose(mixture.means_, in_memory.means_, rtol=1e-7, atol=1e-9)


def test_covariance_types_and_weights(X, rng, covariance_type):
    options = {"covariance_type": covariance_type, "random_state": 0}
    a = rng.integers(0, 3, len(X)).astype(float)
    weighted = DifferentiableGaussianMixture(3, **options).fit(chunked(X), sample_weight=chunked(a))
    expected = DifferentiableGaussianMixture(3, **options)
    assert_same(weighted, expected.fit(blocks(X), sample_weight=blocks(a)))


def test_one_block_has_the_bits_of_memory(X):
    options = {"n_components": 3, "random_state": 0}
    found = DifferentiableGaussianMixture(**options).fit(da.from_array(X, chunks=-1))
    assert_same(found, DifferentiableGaussianMixture(**options).fit(X))


def test_starts_come_from_a_sample_of_many_rows(X, monkeypatch):
    monkeypatch.setattr(drawing, "start_rows", lambda facts, n_components: 100)
    options = {"n_components": 4, "random_state": 0}
    found = DifferentiableGaussianMixture(**options).fit(chunked(X))
    assert_same(found, DifferentiableGaussianMixture(**options).fit(blocks(X)))


def test_data_frames_give_their_names_and_may_bring_their_weights(X, rng):
    table = pd.DataFrame(X, columns=["a", "b", "c"]).assign(w=rng.random(len(X)))
    df = dd.from_pandas(table, npartitions=3)
    options = {"n_components": 3, "random_state": 0}
    mixture = DifferentiableGaussianMixture(**options).fit(df[["a", "b"]], sample_weight=df["w"])
    assert mixture.feature_names_in_.tolist() == ["a", "b"]
    expected = DifferentiableGaussianMixture(**options)
    expected.fit(table[["a", "b"]], sample_weight=table["w"])
    np.testing.assert_allclose(mixture.means_, expected.means_, rtol=1e-7, atol=1e-9)
    labels = mixture.fit_predict(df[["a", "b"]])
    assert isinstance(labels, da.Array) and len(labels.compute()) == len(X)
    refitted = mixture.fit(chunked(X))
    assert not hasattr(refitted, "feature_names_in_") and refitted.n_features_in_ == 3


def test_files_are_read_in_blocks(X, tmp_path):
    zarr = str(tmp_path / "X.zarr")
    chunked(X).to_zarr(zarr)
    for i, block in enumerate(blocks(X)()):
        pd.DataFrame(block, columns=["a", "b", "c"]).to_parquet(tmp_path / f"{i}.parquet")
    options = {"n_components": 3, "random_state": 0}
    expected = DifferentiableGaussianMixture(**options).fit(blocks(X))
    for X in (da.from_zarr(zarr), dd.read_parquet(tmp_path / "*.parquet")):
        assert_same(DifferentiableGaussianMixture(**options).fit(X), expected)


@pytest.mark.parametrize("dtype", ["float32", "int16", "bool"])
def test_dtypes_are_those_of_a_fit_in_memory(X, dtype):
    X = (X > 0) + np.arange(3) * (X > 1) if dtype == "bool" else X * 10
    x = X.astype(dtype)
    mixture = DifferentiableGaussianMixture(2, random_state=0, reg_covar=1e-3).fit(chunked(x))
    assert mixture.means_.dtype == (np.float32 if dtype == "float32" else np.float64)


@pytest.mark.parametrize("refined", [False, True])
def test_pipelines_pass_collections_on(X, refined):
    steps = [FunctionTransformer(lambda X: X / 2)] if refined else []
    mixture = DifferentiableGaussianMixture(3, random_state=0)
    pipeline = make_pipeline(*steps, mixture).fit(chunked(X))
    expected = DifferentiableGaussianMixture(3, random_state=0)
    assert_same(mixture, expected.fit(blocks(X / 2 if refined else X)))
    assert isinstance(pipeline.predict(chunked(X)), da.Array)


def test_warm_starts_go_on(X):
    mixture = DifferentiableGaussianMixture(4, random_state=0, warm_start=True, tol=1e-7)
    mixture.set_params(max_iter=500).fit(chunked(X))
    assert mixture.n_iter_ > 2
    again = mixture.fit(chunked(X))
    assert again.n_iter_ <= 2


def assert_learned_alike(left, right):
    for name in ("weights_", "means_", "covariances_", "n_steps_", "n_samples_seen_"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name))


@pytest.mark.parametrize("weighted", [False, True])
def test_partial_fit_takes_a_step_a_block_in_one_pass(X, rng, covariance_type, weighted):
    a = rng.integers(0, 3, len(X)).astype(float) if weighted else None
    mixtures = [DifferentiableGaussianMixture(3, covariance_type=covariance_type, random_state=0)]
    mixtures.append(clone(mixtures[0]))
    computed = []

    def counted(block):
        computed.append(len(block))
        return block

    x = chunked(X).map_blocks(counted, dtype=float, meta=np.empty((0, 3)))
    mixtures[0].partial_fit(x, sample_weight=chunked(a) if weighted else None)
    mixtures[1].partial_fit(blocks(X), sample_weight=blocks(a) if weighted else None)
    assert_learned_alike(*mixtures)
    assert computed == [CHUNK] * 3 and mixtures[0].n_steps_ == 3
    assert mixtures[0].partial_fit(x).n_steps_ == 6


def test_partial_fit_takes_data_frames_and_chunks_of_unknown_lengths(X, rng):
    table = pd.DataFrame(X, columns=["a", "b", "c"]).assign(w=rng.random(len(X)))
    df, options = dd.from_pandas(table, npartitions=3), {"n_components": 3, "random_state": 0}
    expected = DifferentiableGaussianMixture(**options)
    expected.partial_fit(blocks(table[["a", "b"]]), sample_weight=blocks(table["w"]))
    mixture = DifferentiableGaussianMixture(**options)
    mixture.partial_fit(df[["a", "b"]], sample_weight=df["w"])
    assert_learned_alike(mixture, expected)
    assert mixture.feature_names_in_.tolist() == ["a", "b"]
    x = chunked(X)
    some = x[(x[:, 0] > 0) & (da.arange(len(X), chunks=CHUNK) >= CHUNK)]  # none of the first chunk
    mixture = DifferentiableGaussianMixture(**options).partial_fit(some)
    assert (mixture.n_steps_, mixture.n_samples_seen_) == (2, (X[CHUNK:, 0] > 0).sum())


REFUSED_BLOCKS = {
    "features": (lambda X: chunked(X[:, :2]), r"block 0 of X .*X has 2 features"),
    "NaN": (
        lambda X: chunked(np.where(np.arange(600)[:, None] == 450, np.nan, X)),
        r"block 2 of X \(from row 400\) is invalid: .*NaN",
    ),
    "chunks of features": (lambda X: da.zeros((6, 3), chunks=(6, 1)), "chunked by rows only"),
    "no rows": (lambda X: da.zeros((0, 3)), "X must have rows, got none in any block"),
    "objects": (lambda X: chunked(X.astype(object)), "must hold real numbers, got object"),
    "dtypes": (
        lambda X: da.concatenate(
            [
                da.from_delayed(dask.delayed(X[:400]), (400, 3), dtype=float),
                da.from_delayed(dask.delayed(X[400:].astype("f4")), (200, 3), dtype=float),
            ]
        ),
        "blocks must have one dtype, got torch.float32 after torch.float64",
    ),
}


@pytest.mark.parametrize("name", REFUSED_BLOCKS)
def test_partial_fit_that_fails_leaves_the_model_as_it_was(X, name):
    make, message = REFUSED_BLOCKS[name]
    mixture = DifferentiableGaussianMixture(2, random_state=0).partial_fit(X)
    before = dict(vars(mixture))
    with pytest.raises((TypeError, ValueError), match=message):
        mixture.partial_fit(make(X))
    assert vars(mixture) == before


def test_partial_fit_refuses_weights_that_are_cut_otherwise(X):
    mixture = DifferentiableGaussianMixture(2)
    with pytest.raises(ValueError, match="the row chunks of X"):
        mixture.partial_fit(chunked(X), sample_weight=da.ones(len(X), chunks=300))
    with pytest.raises(TypeError, match="must be a dask array or series"):
        mixture.partial_fit(chunked(X), sample_weight=np.ones(len(X)))
    with pytest.raises(TypeError, match="in memory where X is"):
        mixture.partial_fit(X, sample_weight=da.ones(len(X)))
    df = dd.from_pandas(pd.DataFrame(X), npartitions=3)
    shorter = dd.from_pandas(pd.Series(np.ones(len(X) - 1)), npartitions=3)
    with pytest.raises(ValueError, match=r"block 2 of X is invalid: sample_weight must have shape"):
        mixture.partial_fit(df, sample_weight=shorter)
    assert not hasattr(mixture, "means_")


def test_a_fit_that_fails_leaves_the_last_one(X):
    mixture = DifferentiableGaussianMixture(2, random_state=0).fit(X)
    before = mixture.means_
    bad = X.copy()
    bad[300, 1] = np.inf
    with pytest.raises(ValueError, match=r"block 1 of X .*infinity"):
        mixture.fit(chunked(bad))
    assert mixture.means_ is before
    with pytest.raises(ValueError, match="Expected n_samples >= n_components"):
        DifferentiableGaussianMixture(7).fit(da.zeros((5, 2), chunks=(2, 2)))


def test_gradients_are_refused(X):
    mixture = DifferentiableGaussianMixture(2)
    with pytest.raises(ValueError, match="must require no gradient where X is of dask"):
        mixture.fit(chunked(X), sample_weight=torch.ones(len(X), requires_grad=True))


def test_the_entropic_gap_is_that_of_memory(X):
    mixture = DifferentiableGaussianMixture(3, random_state=0).fit(X)
    gap = mixture.entropic_ot_gap(X)
    assert mixture.entropic_ot_gap(chunked(X)) == pytest.approx(gap, abs=1e-9)


def test_scores_are_computed_in_blocks(X, rng):
    mixture = DifferentiableGaussianMixture(3, random_state=0).fit(X)
    a = rng.random(len(X))
    for name in ("score", "bic", "aic"):
        of = getattr(mixture, name)
        assert of(chunked(X)) == pytest.approx(of(X), rel=1e-12)
        weighted = of(chunked(X), sample_weight=chunked(a))
        assert weighted == pytest.approx(of(X, sample_weight=a), rel=1e-12)


@pytest.mark.parametrize("estimator", [SlicedWassersteinGMM(), SemidiscreteGMM()])
def test_fits_that_need_all_samples_at_once_refuse_collections(X, estimator):
    with pytest.raises(TypeError, match=r"in memory here, got a dask Array. Use X.compute\(\)"):
        estimator.fit(chunked(X))
    estimator.set_params(max_iter=0, random_state=0).fit(X[:50])
    assert isinstance(estimator.predict(chunked(X)), da.Array)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"covariance_type": "diag", "acceleration": "squarem"},
        {"acceleration": "newton", "prior": "auto"},
        {"e_step": "sinkhorn"},
        {"noise": "uniform"},
        {"missing_values": "nan"},
    ],
    ids=str,
)
def test_how_far_a_fit_is_from_its_fixed_point_is_measured_there_as_in_memory(X, rng, options):
    if "missing_values" in options:
        X = np.where(rng.random(X.shape) < 0.05, np.nan, X)
    unit = np.ones((2, 3)) if "covariance_type" in options else np.stack([np.eye(3)] * 2)
    start = {"means_init": X[np.isfinite(X).all(1)][:2], "precisions_init": unit}
    start["weights_init"] = np.full(2, 0.5)  # the rest of a start would be drawn from other rows
    mixture = DifferentiableGaussianMixture(2, certify=True, max_iter=500, **start, **options)
    expected, *found = (clone(mixture).fit(data) for data in (X, chunked(X), blocks(X)))
    for other in found:
        for name in ("distance", "gain", "objective"):
            value = getattr(expected.solution_, name)
            assert getattr(other.solution_, name) == pytest.approx(value, rel=1e-6, abs=1e-11)
        assert other.error_ == other.solution_.distance > 0


def test_a_partial_fit_says_nothing_of_its_fixed_point(X):
    mixture = DifferentiableGaussianMixture(2, certify=True, random_state=0).fit(chunked(X))
    assert mixture.error_ > 0
    mixture.partial_fit(X[:50])
    assert not hasattr(mixture, "error_") and not hasattr(mixture, "solution_")


def test_searches_run_on_workers_of_dask(X):
    """Each fit of a search is a task; here on threads, which a cluster of processes replaces."""
    distributed = pytest.importorskip("distributed")
    grid = {"n_components": [2, 4], "random_state": range(2)}  # in place of n_init
    search = GridSearchCV(DifferentiableGaussianMixture(max_iter=200), grid, cv=3)
    alone = clone(search).fit(X)
    options = {"dashboard_address": ":0", "silence_logs": 50, "processes": False}
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=2, **options) as cluster,
        distributed.Client(cluster),
    ):
        with joblib.parallel_config(backend="dask"):
            found = clone(search).fit(X)
        best = found.best_estimator_
        assert best.set_params(warm_start=True).fit(chunked(X)).n_iter_ <= 3
    assert found.best_params_ == alone.best_params_
    scores = "mean_test_score"
    np.testing.assert_allclose(found.cv_results_[scores], alone.cv_results_[scores], rtol=1e-9)
