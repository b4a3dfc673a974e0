"""What a mixture is fitted to: kinds of array, precisions, weights."""

from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import config_context
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.preprocessing import StandardScaler

from skgmmot import DifferentiableGaussianMixture

PARAMETERS = ["weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_"]


def fitted(X, covariance_type="full", **params):
    """Four components, from k-means, fitted."""
    params = {"n_components": 4, "random_state": 0, **params}
    return DifferentiableGaussianMixture(covariance_type=covariance_type, **params).fit(X)


def test_every_kind_of_array_gives_the_same_fit(blobs, array_kind, difference):
    X = array_kind(blobs)
    model = fitted(X)
    assert difference(model, fitted(blobs)) < 1e-12
    for result in (model.means_, model.predict(X), model.predict_proba(X), model.score_samples(X)):
        assert isinstance(result, np.ndarray)
    assert isinstance(model.score(X), float)
    assert np.isclose(model.bic(X), fitted(blobs).bic(blobs))
    assert isinstance(model.sample(3)[0], np.ndarray)


def test_a_fit_to_samples_that_require_a_gradient_answers_tensors_to_all(blobs):
    on_graph = fitted(torch.tensor(blobs, requires_grad=True))
    for X in (blobs, torch.tensor(blobs)):
        assert on_graph.score_samples(X).requires_grad
        assert isinstance(on_graph.predict(X), torch.Tensor)
    assert isinstance(on_graph.sample(2)[1], torch.Tensor)
    plain = fitted(blobs)
    X = torch.tensor(blobs, requires_grad=True)
    assert plain.score_samples(X).requires_grad
    assert torch.equal(plain.predict(X), torch.tensor(plain.predict(X.detach())))


def test_a_histogram_chooses_the_components_that_its_repeated_rows_choose(rng):
    drawn = np.concatenate([rng.normal(-3, 1, 400), rng.normal(3, 1, 200)]).round(1)
    values, counts = np.unique(drawn, return_counts=True)
    histogram, rows = values[:, None], drawn[:, None]
    found = []
    for K in range(1, 5):
        means = np.linspace(-3, 3, K + 2)[1:-1, None]
        model = DifferentiableGaussianMixture(K, means_init=means, weights_init=np.full(K, 1 / K))
        model.fit(histogram, sample_weight=counts)
        for name in ("bic", "aic"):
            ours = getattr(model, name)(histogram, sample_weight=counts)
            assert np.isclose(ours, getattr(model, name)(rows), rtol=1e-12)
        found.append(model.bic(histogram, sample_weight=torch.tensor(counts)))
    assert np.argmin(found) == 1  # two peaks
    assert np.isclose(model.bic(histogram, sample_weight=2), model.bic(np.repeat(histogram, 2, 0)))


@pytest.mark.parametrize("name", ["bic", "aic"])
def test_criteria_refuse_weights_that_are_none(blobs, name):
    for weights in ([1.0, 2.0], np.full(600, -1.0), np.zeros(600)):
        with pytest.raises(ValueError, match=r"(?i)sample.weight"):
            getattr(fitted(blobs), name)(blobs, sample_weight=weights)


def test_weights_that_require_a_gradient_carry_it_beside_any_samples(blobs):
    found = []
    for X in (blobs, torch.tensor(blobs)):
        weights = torch.ones(600, requires_grad=True)
        means = fitted(X).fit(X, sample_weight=weights).means_
        found.append(torch.autograd.grad(means.square().sum(), weights)[0])
    assert found[0].abs().max() > 0 and torch.equal(*found)


def test_labels_of_tensors_are_used_as_those_of_arrays(blobs):
    X = torch.tensor(blobs)
    (rows,) = fitted(blobs).predict(X).nonzero()
    assert np.array_equal(rows, np.flatnonzero(fitted(blobs).predict(blobs)))


def test_tensors_come_back_where_scikit_learn_is_asked_for_them(blobs, monkeypatch, difference):
    if find_spec("sklearn.externals.array_api_compat") is None:  # before scikit-learn 1.7
        pytest.importorskip("array_api_compat")
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")
    with config_context(array_api_dispatch=True):
        model = fitted(torch.tensor(blobs))
        assert isinstance(fitted(blobs).predict(blobs), np.ndarray)
    assert isinstance(model.means_, torch.Tensor) and isinstance(model.predict(blobs), torch.Tensor)
    assert difference(model, fitted(blobs)) < 1e-12


def test_float32_stays_float32(blobs, covariance_type):
    X = blobs.astype(np.float32)
    model = fitted(X, covariance_type)
    for name in PARAMETERS:
        assert getattr(model, name).dtype == np.float32
    assert model.predict_proba(X).dtype == model.score_samples(X).dtype == np.float32
    double = fitted(blobs, covariance_type)
    for name in ["weights_", "means_", "covariances_"]:
        expected = getattr(double, name)
        assert np.abs(getattr(model, name) - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("offset", [1e5, 1e6])
def test_a_model_in_float64_is_not_rounded_to_the_samples_it_is_asked_of(
    blobs, covariance_type, offset
):
    model = fitted(blobs + offset, covariance_type)
    narrow = (blobs + offset).astype(np.float32)  # rounded samples, asked of in either dtype
    for rows in (narrow[:50], narrow, torch.tensor(narrow[:50], requires_grad=True)):
        wide = rows.detach().double().numpy() if torch.is_tensor(rows) else rows.astype(np.float64)
        for name, tolerance in (("score_samples", 4e-6), ("predict_proba", 1e-6)):
            found, expected = getattr(model, name)(rows), getattr(model, name)(wide)
            assert found.dtype in (np.float32, torch.float32)
            assert np.abs(torch.as_tensor(found).detach().numpy() - expected).max() < tolerance
        if not torch.is_tensor(rows):
            assert np.array_equal(model.predict(rows), model.predict(wide))


def grey_pixels():
    """Grey pixels, as red, green and blue: two tones in a space of one dimension."""
    rng = np.random.default_rng(0)
    tone = np.concatenate([rng.integers(20, 90, 500), rng.integers(150, 250, 500)])
    return np.repeat(tone[:, None], 3, axis=1), 2


def one_column_thirty_times():
    """One feature, given thirty times."""
    return np.repeat(np.random.default_rng(0).normal(size=(500, 1)), 30, axis=1), 2


def standardised_digits():
    """Images of digits, standardised: some pixels are the same everywhere."""
    return StandardScaler().fit_transform(load_digits().data), 20


@pytest.mark.parametrize("data", [grey_pixels, one_column_thirty_times, standardised_digits])
def test_thin_components_are_fitted_in_float32_as_in_float64(data):
    X, n_components = data()
    X = X.astype(np.float32)
    narrow, wide = (
        DifferentiableGaussianMixture(n_components, random_state=0).fit(x)
        for x in (X, X.astype(np.float64))
    )
    assert narrow.n_iter_ == wide.n_iter_
    assert narrow.lower_bound_ == pytest.approx(wide.lower_bound_, rel=1e-6)
    assert narrow.score(X) == pytest.approx(wide.score(X), rel=1e-5)
    if data is standardised_digits:
        assert narrow.score(X) == pytest.approx(77.4675, abs=1e-3)
        assert narrow.n_iter_ == 5
    # shown in float32 the covariances may be singular; a warm start goes on all the same
    again = narrow.set_params(warm_start=True).fit(X)
    assert again.lower_bound_ > wide.lower_bound_ - 1e-4


def test_integers_are_scored_as_the_numbers_they_are(blobs, covariance_type):
    whole = (20 * blobs).round()
    for dtype in [np.int64, np.int16]:
        model = fitted(whole.astype(dtype), covariance_type)
        assert np.isclose(model.score(whole.astype(dtype)), model.score(whole), rtol=1e-12)
    positive = (whole - whole.min()) % 256
    model = fitted(positive.astype(np.uint8), covariance_type)
    assert np.isclose(model.score(positive.astype(np.uint8)), model.score(positive), rtol=1e-12)
    assert np.isclose(model.bic(positive.astype(int).tolist()), model.bic(positive))


def test_names_of_features_are_kept_and_compared(blobs):
    frame = pd.DataFrame(blobs, columns=list("abc"))
    model = fitted(frame)
    assert list(model.feature_names_in_) == ["a", "b", "c"]
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame[["c", "b", "a"]])


def test_the_device_is_where_the_work_and_the_answers_are(blobs, difference):
    model = fitted(blobs, device="cpu")
    assert difference(model, fitted(blobs)) == 0
    X = torch.tensor(blobs, requires_grad=True)
    assert fitted(X, device=torch.device("cpu")).means_.device.type == "cpu"


@pytest.mark.parametrize("init_params", ["kmeans", "given"])
def test_integer_weights_are_repeated_rows(
    blobs, rng, covariance_type, init_params, difference, unit_precisions
):
    weights = rng.integers(0, 4, size=len(blobs))
    params = {}
    if init_params == "given":
        params = {"means_init": blobs[::150], "weights_init": np.full(4, 0.25)}
        params |= {"precisions_init": unit_precisions}
    estimator = DifferentiableGaussianMixture(
        4, covariance_type=covariance_type, random_state=0, **params
    )
    repeated = np.repeat(blobs, weights, axis=0)
    expected = clone(estimator).fit(repeated)
    weighted = clone(estimator).fit(blobs, sample_weight=weights)
    assert difference(weighted, expected) < 1e-10
    assert weighted.n_iter_ == expected.n_iter_
    assert np.isclose(weighted.score(blobs, sample_weight=weights), expected.score(repeated))
    kept = weights > 0
    absent = clone(estimator).fit(blobs[kept], sample_weight=weights[kept])
    assert difference(weighted, absent) < 1e-10
    labels = clone(estimator).fit_predict(blobs, sample_weight=weights)
    assert np.array_equal(labels, weighted.predict(blobs))


def test_weights_matter_up_to_a_factor_only(blobs, rng, difference):
    weights = rng.uniform(size=len(blobs))
    for scale in (1e-300, 1e-15, 1000):
        pair = (fitted_weighted(blobs, c * weights) for c in (1, scale))
        assert difference(*pair) < 1e-9
    assert difference(fitted_weighted(blobs, np.full(600, 7.0)), fitted_weighted(blobs, None)) == 0


def fitted_weighted(X, weights):
    """Four components with sample weights."""
    model = DifferentiableGaussianMixture(4, random_state=0, init_params="random", tol=1e-8)
    return model.fit(X, sample_weight=weights)


@pytest.mark.parametrize(
    "weights, message",
    [
        (np.full(600, -1.0), "sample_weight must be finite and non-negative, got a range of -1.0"),
        (torch.zeros(600), "sample_weight must have a positive sum"),
        (np.zeros(600), "[Ss]ample.weights? must"),
        (np.ones(3), r"sample_weight must have shape \(600,\), got \(3,\)"),
        (torch.ones(3), "sample_weight must have shape"),
        (np.r_[np.ones(3), np.zeros(597)], "n_components = 4, n_samples = 3"),
    ],
)
def test_bad_weights_are_refused(blobs, weights, message):
    with pytest.raises(ValueError, match=message):
        fitted(blobs).fit(blobs, sample_weight=weights)


@pytest.mark.parametrize(
    ("name", "scale", "precisions"),
    [
        ("diag", 1e-10, None),
        ("spherical", 1e-10, None),
        ("lowrank", 1e-10, None),
        ("spherical", 1.0, [1e150, 1.0]),
        ("spherical", 1.0, [1.0, 1e-60]),
    ],
)
def test_covariances_that_float32_cannot_hold_are_refused_in_words(name, scale, precisions):
    X = scale * np.repeat(np.eye(2), 4, axis=0)
    held = False if precisions is None else [True, True]
    options = {"reg_covar": 1e-60, "fixed_covariances": held, "precisions_init": precisions}
    model = DifferentiableGaussianMixture(2, covariance_type=name, random_state=0, **options)
    with pytest.raises(ValueError, match=r"X must have a scale at which|or scale the input data"):
        model.set_params(max_iter=0).fit(X.astype(np.float32))
    model.fit(X)
    assert np.isfinite(model.score_samples(X)).all()
