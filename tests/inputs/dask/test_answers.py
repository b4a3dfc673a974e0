"""Answers for samples of dask are lazy arrays."""

import numpy as np
import pytest
from in_dask import CHUNKS, chunked, frame

from skgmmot import DifferentiableGaussianMixture, metrics
from skgmmot._inputs.dask.answers import answers

da = pytest.importorskip("dask.array")


def first_columns(estimator, block):
    return np.asarray(block)[:, :2]


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
