"""Samples in blocks at the border: what a block may be, and what is refused."""

import numpy as np
import pandas as pd
import pytest
import torch

from skgmmot import DifferentiableGaussianMixture
from skgmmot._inputs import arrays, places

X = np.random.default_rng(0).normal(size=(60, 2))
W = np.random.default_rng(1).uniform(size=60)


def cut(array, size=20):
    return [array[i : i + size] for i in range(0, len(array), size)]


def read(blocks, sample_weight=None, passes=2):
    """All rows and weights after so many passes."""
    samples, kind = places.out_of_core(DifferentiableGaussianMixture(), blocks, sample_weight)
    for _ in range(passes - 1):
        rows, weights = samples.take()
    return rows, weights, kind


def test_samples_in_memory_are_left_alone():
    for array in (X, X.tolist(), torch.from_numpy(X), pd.DataFrame(X), "text", None, 3):
        assert places.out_of_core(DifferentiableGaussianMixture(), array) is None


def frames():
    return (pd.DataFrame(b, columns=["a", "b"]) for b in cut(X))


def record_batches():
    pa = pytest.importorskip("pyarrow")
    table = pa.table({"a": X[:, 0], "b": X[:, 1]})
    return iter(table.to_batches(max_chunksize=20))


BLOCKS = {
    "arrays": lambda: iter(cut(X)),
    "a list": lambda: cut(X),
    "lists of rows": lambda: iter([b.tolist() for b in cut(X)]),
    "views": lambda: (np.asfortranarray(b)[::-1][::-1] for b in cut(X)),
    "read-only": lambda: (np.frombuffer(b.tobytes()).reshape(-1, 2) for b in cut(X)),
    "tensors": lambda: iter(torch.from_numpy(X).split(20)),
    "frames": frames,
    "record batches": record_batches,
    "with empty ones": lambda: iter([X[:0], X[:30], X[30:30], X[30:]]),
    "one": lambda: iter([X]),
}


@pytest.mark.parametrize("blocks", BLOCKS.values(), ids=BLOCKS)
def test_a_block_may_be_what_an_array_may_be(blocks):
    rows, weights, kind = read(blocks)
    assert torch.equal(rows, torch.from_numpy(X))
    assert weights is None
    assert kind == arrays.NUMPY


@pytest.mark.parametrize(
    ("blocks", "weights"),
    [
        (lambda: zip(cut(X), cut(W), strict=True), None),
        (lambda: iter(cut(X)), lambda: iter(cut(W))),
        (lambda: iter(cut(X)), W),
        (lambda: iter(cut(X)), W.tolist()),
        (lambda: iter(cut(X)), pd.Series(W, index=np.arange(60) + 100)),
        (lambda: iter(cut(X)), torch.from_numpy(W)),
    ],
    ids=["pairs", "function", "array", "list", "series", "tensor"],
)
def test_weights_come_as_pairs_as_blocks_or_at_once(blocks, weights):
    expected = arrays.sample_weights(W, torch.from_numpy(X))
    assert torch.equal(read(blocks, weights)[1], expected)


def test_a_number_is_a_weight_of_all():
    assert torch.equal(read(lambda: iter(cut(X)), 3.0)[1], torch.ones(60, dtype=torch.float64))


def test_integers_become_float64_and_float32_stays():
    assert read(lambda: iter(cut(X.astype("i4"))))[0].dtype == torch.float64
    assert read(lambda: iter(cut(X.astype("f4"))))[0].dtype == torch.float32


def test_names_of_features_are_those_of_the_first_frame():
    mixture = DifferentiableGaussianMixture()
    places.out_of_core(mixture, frames)
    assert list(mixture.feature_names_in_) == ["a", "b"]
    blocks = cut(pd.DataFrame(X, columns=["a", "b"]))
    blocks[2] = blocks[2].rename(columns={"b": "c"})
    with pytest.raises(ValueError, match=r"(?s)block 2 of X \(from row 40\).*feature names"):
        read(lambda: iter(blocks))


def once(blocks):
    """A function that returns the same iterator at every call."""
    blocks = iter(blocks)
    return lambda: blocks


def shrinking(sizes=(60, 50)):
    sizes = iter(sizes)
    return lambda: iter([X[: next(sizes)]])


def drawn(seed=0):
    """A function that returns other samples at every call."""
    rng = np.random.default_rng(seed)
    return lambda: (rng.normal(size=(20, 2)) for _ in range(3))


def shuffled(seed=0):
    rng = np.random.default_rng(seed)
    return lambda: iter([rng.permutation(X)])


def reweighted(seed=0):
    """Pairs whose weights are drawn anew."""
    rng = np.random.default_rng(seed)
    return lambda: iter([(X, rng.uniform(1.0, 2.0, len(X)))])


def with_entry(value):
    bad = X.astype(type(value) if isinstance(value, str) else float, copy=True)
    bad[45, 1] = value
    return cut(bad)


def grown(dtype=float, shape=(20, 2)):
    return [*cut(X), np.ones(shape, dtype)]


REFUSED = [
    (once(cut(X)), ValueError, "fresh iterator at every call, got nothing"),
    (shrinking(), ValueError, "same samples at every call, got 50 rows after 60"),
    (shrinking((50, 60)), ValueError, "same samples at every call, got 60 rows after 50"),
    (drawn(), ValueError, "same samples in the same order at every call, got other rows"),
    (shuffled(), ValueError, "same samples in the same order at every call, got other rows"),
    (reweighted(), ValueError, "at every call, got other rows or weights"),
    (lambda: iter([]), ValueError, "must return blocks with rows, got none"),
    (lambda: iter([X[:0]]), ValueError, "must return blocks with rows, got none"),
    (lambda: X, TypeError, r"X\(\) must return an iterator of blocks, got ndarray"),
    (lambda: torch.ones(3, 2), TypeError, "must return an iterator of blocks, got Tensor"),
    (lambda: pd.DataFrame(X), TypeError, "must return an iterator of blocks, got DataFrame"),
    (lambda: None, TypeError, "must return an iterator of blocks, got NoneType"),
    (lambda: "text", TypeError, "must return an iterator of blocks, got str"),
    (lambda: {"a": X}, TypeError, "must return an iterator of blocks, got dict"),
    (lambda: {1.0, 2.0}, TypeError, "must return an iterator of blocks, got set"),
    (lambda: iter([np.ndarray]), TypeError, "block 0 .*must be an array, got <class 'numpy.nda"),
    (lambda: iter([np]), TypeError, "block 0 .*must be an array, got <module 'numpy'"),
    (lambda: iter([X[:1]]), ValueError, "at least 2 samples, got 1"),
    (lambda: iter(X), ValueError, r"block 0 .*must have shape \(n_samples, n_features\), got"),
    (lambda: iter([X[None]]), ValueError, "block 0 of X"),
    (lambda: grown(shape=(20, 3)), ValueError, r"block 3 of X \(from row 60\).*X has 3 features"),
    (lambda: grown("f4"), ValueError, "block 3 .*one dtype, got torch.float32 after torch.float64"),
    (lambda: grown(complex), (TypeError, ValueError), "block 3 .*(?i:complex)"),
    (lambda: with_entry(np.nan), ValueError, r"block 2 .*NaN in 1 of 20 rows \(first: row 5\)"),
    (lambda: with_entry(np.inf), ValueError, r"block 2 .*infinity .* \(first: row 5\)"),
    (lambda: with_entry(1e200), ValueError, "block 2 .*must be smaller than"),
    (lambda: with_entry("tall"), ValueError, "block 0 .*tall|block 2 .*tall"),
    (lambda: iter([X, "text"]), (TypeError, ValueError), "block 1 of X"),
    (lambda: iter([X, None]), (TypeError, ValueError), "block 1 of X"),
    (lambda: iter([X, 3.0]), (TypeError, ValueError), "block 1 of X"),
    (lambda: iter([X, {"a": 1}]), (TypeError, ValueError), "block 1 of X"),
    (lambda: iter([[torch.ones(3, 2)]]), TypeError, r"block 0 .*a list of tensors.*block\[0\]"),
    (lambda: iter([torch.ones(3, 2, requires_grad=True)]), ValueError, "without gradients"),
    (lambda: zip([X, X], [W, None], strict=True), ValueError, "block 1 .*got one without after"),
    (lambda: zip([X, X], [None, W], strict=True), ValueError, "block 1 .*got one with after"),
    (lambda: iter([(X, W[:7])]), ValueError, r"block 0 .*must have shape \(60,\), got \(7,\)"),
    (lambda: iter([(X, -W)]), ValueError, "block 0 .*finite and non-negative"),
    (lambda: iter([(X, 0 * W)]), ValueError, "must have a positive sum, got all zeros"),
]


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize(("blocks", "error", "message"), REFUSED)
def test_blocks_that_are_none_are_refused_by_name(blocks, error, message):
    with pytest.raises(error, match=message):
        read(blocks)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (W[:50], r"block 2 .*must have shape \(20,\), got \(10,\)"),
        (np.append(W, 1.0), r"must have shape \(60,\), got \(61,\)"),
        (lambda: iter(cut(W)[:2]), "got fewer blocks"),
        (lambda: iter([*cut(W), W]), "got more blocks"),
        (lambda: W, r"sample_weight\(\) must return an iterator of blocks"),
        (np.full(60, np.nan), "finite and non-negative"),
        (np.zeros(60), "positive sum"),
        (["a"] * 60, "must hold numbers, got the text 'a'"),
    ],
)
def test_weights_that_do_not_fit_the_blocks_are_refused(weights, message):
    with pytest.raises((TypeError, ValueError), match=message):
        read(lambda: iter(cut(X)), weights)


@pytest.mark.parametrize("weights", [W, lambda: iter(cut(W))], ids=["array", "function"])
def test_weights_are_given_once(weights):
    with pytest.raises(ValueError, match="must be given once"):
        read(lambda: zip(cut(X), cut(W), strict=True), weights)


def test_weights_in_blocks_need_samples_in_blocks():
    with pytest.raises(TypeError, match="sample_weight must be an array, got function"):
        DifferentiableGaussianMixture().fit(X, sample_weight=lambda: iter([W]))


@pytest.mark.parametrize("given", [np.ndarray, pd.DataFrame, torch.Tensor, np])
def test_classes_and_modules_are_no_samples(given):
    with pytest.raises(TypeError, match=r"X must be an array, got <(class|module)"):
        DifferentiableGaussianMixture().fit(given)


@pytest.mark.parametrize(
    "weights",
    [(1.0 for _ in X), iter(W), map(float, W), {1.0, 2.0}, {0: 1.0}, "text", np.ndarray, object()],
    ids=["generator", "iterator", "map", "set", "dict", "text", "class", "object"],
)
@pytest.mark.parametrize("samples", [X, lambda: iter(cut(X))], ids=["memory", "blocks"])
def test_weights_that_are_no_array_are_refused(samples, weights):
    with pytest.raises(TypeError, match="sample_weight must be an array of numbers, got"):
        DifferentiableGaussianMixture().fit(samples, sample_weight=weights)


@pytest.mark.parametrize("number", [2, 2.0, np.float64(2.0), np.int64(2), np.array(2.0)])
def test_a_number_of_any_type_is_a_weight_of_all(number):
    mixture = DifferentiableGaussianMixture().fit(lambda: iter(cut(X)), sample_weight=number)
    assert mixture.n_samples_seen_ == 120


def test_an_error_of_the_user_passes_through():
    def blocks():
        yield X
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match=r"^mine$"):
        read(blocks)


# --- memory-mapped files -------------------------------------------------------------------------


@pytest.fixture
def small_limits(monkeypatch):
    """Maps of more than 100 bytes are read in blocks of 7 rows."""
    monkeypatch.setattr(places, "MEMORY_MAP_BYTES", 100)
    monkeypatch.setattr(places, "BLOCK_BYTES", 7 * 16)


def mapped(path, array, mode="r"):
    """An array in a file."""
    np.save(path / "X.npy", array)
    return np.load(path / "X.npy", mmap_mode=mode)


VIEWS = {
    "all": lambda X: X,
    "rows": lambda X: X[11:50],
    "every other row": lambda X: X[::2],
    "from the end": lambda X: X[::-1],
    "one column": lambda X: X[:, 1:],
    "columns first": lambda X: X.reshape(2, 60).T,
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("dtype", ["f8", "f4", ">f8", "i4"])
def test_every_view_of_a_map_is_read_in_blocks(tmp_path, small_limits, view, dtype):
    X_mapped = view(mapped(tmp_path, (100 * X).astype(dtype)))
    assert places.is_large_map(X_mapped)
    rows, weights, _ = read(X_mapped)
    expected = arrays.as_tensor(np.asarray(view((100 * X).astype(dtype))).copy())
    assert torch.equal(rows, expected)
    assert weights is None
    n = len(X_mapped)
    assert torch.equal(read(X_mapped, W[:n])[1], arrays.sample_weights(W[:n], expected))


@pytest.mark.parametrize("mode", ["r+", "c", "w+"])
def test_changes_that_were_not_flushed_are_read_and_kept(tmp_path, small_limits, mode):
    if mode == "w+":
        X_mapped = np.memmap(tmp_path / "X", dtype="f8", mode=mode, shape=X.shape, offset=24)
        X_mapped[:] = X
    else:
        X_mapped = mapped(tmp_path, X, mode)
    X_mapped[3] = [7.0, 8.0]
    assert read(X_mapped)[0][3].tolist() == [7.0, 8.0]
    assert X_mapped[3].tolist() == [7.0, 8.0]


def test_small_maps_copies_of_maps_and_maps_of_other_shapes_are_arrays(tmp_path, monkeypatch):
    X_mapped = mapped(tmp_path, X)
    assert not places.is_large_map(X_mapped)
    monkeypatch.setattr(places, "MEMORY_MAP_BYTES", 100)
    assert places.is_large_map(X_mapped)
    assert isinstance(X_mapped.copy(), np.memmap)
    for array in (X_mapped.copy(), X_mapped[0], X_mapped.reshape(2, 30, 2), X):
        assert not places.is_large_map(array)


def test_a_bad_entry_of_a_map_is_named(tmp_path, small_limits):
    bad = X.copy()
    bad[45, 0] = np.nan
    with pytest.raises(ValueError, match=r"block 6 of X \(from row 42\).*first: row 3"):
        read(mapped(tmp_path, bad))
