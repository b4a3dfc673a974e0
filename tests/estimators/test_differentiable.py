"""DifferentiableGaussianMixture: scikit-learn's numbers, and right where others are wrong."""

import io
import pickle
from contextlib import redirect_stdout
from importlib.util import find_spec

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import config_context
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skgmmot import DifferentiableGaussianMixture
from skgmmot.fitting.em.iterations import EMStep
from skgmmot.fitting.em.rows import EM
from skgmmot.numerics.adjoint import InexactGradientWarning

PARAMETERS = ["weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_"]
IDENTITY = {
    "full": np.stack([np.eye(3)] * 4),
    "tied": np.eye(3),
    "diag": np.ones((4, 3)),
    "spherical": np.ones(4),
}


def difference(first, second, names=PARAMETERS, shift=0.0):
    """The largest difference between the parameters of two fits."""
    shifts = {"means_": shift}
    return max(
        np.abs(
            np.asarray(getattr(first, n)) + shifts.get(n, 0) - np.asarray(getattr(second, n))
        ).max()
        for n in names
    )


def fitted(X, covariance_type="full", **params):
    """Four components, from k-means, fitted."""
    params = {"n_components": 4, "random_state": 0, **params}
    return DifferentiableGaussianMixture(covariance_type=covariance_type, **params).fit(X)


# --- equal to scikit-learn -----------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("init_params", ["kmeans", "random"])
def test_twenty_iterations_equal_those_of_scikit_learn(blobs, covariance_type, init_params):
    params = {"covariance_type": covariance_type, "init_params": init_params, "random_state": 3}
    params |= {"max_iter": 20, "tol": 1e-9}
    theirs = GaussianMixture(4, **params).fit(blobs)
    ours = DifferentiableGaussianMixture(4, **params).fit(blobs)
    assert ours.n_iter_ == theirs.n_iter_
    assert ours.converged_ == theirs.converged_
    assert difference(ours, theirs) < 1e-10
    if hasattr(theirs, "lower_bounds_"):  # from scikit-learn 1.7 on
        assert np.allclose(ours.lower_bounds_, theirs.lower_bounds_, rtol=0, atol=1e-12)
    assert np.isclose(ours.lower_bound_, theirs.lower_bound_, rtol=0, atol=1e-12)


@pytest.mark.parametrize("init_params", ["k-means++", "random_from_data"])
def test_starts_from_single_samples_equal_those_of_scikit_learn(
    blobs, covariance_type, init_params
):
    # on centred data: scikit-learn's start of the tied type depends on where the origin is
    X = blobs - blobs.mean(0)
    params = {"covariance_type": covariance_type, "init_params": init_params, "random_state": 3}
    theirs = GaussianMixture(4, **params).fit(X)
    ours = DifferentiableGaussianMixture(4, **params).fit(X)
    assert ours.n_iter_ == theirs.n_iter_
    # their start subtracts moments of single samples, which leaves rounding of 1e-8 relative
    assert difference(ours, theirs) < 1e-8


@pytest.mark.parametrize(
    "given", [("means",), ("weights", "precisions"), ("weights", "means", "precisions")]
)
def test_given_starts_equal_those_of_scikit_learn(blobs, covariance_type, given):
    starts = {
        "weights": np.array([0.4, 0.3, 0.2, 0.1]),
        "means": blobs[::150],
        "precisions": IDENTITY[covariance_type],
    }
    params = {f"{name}_init": starts[name] for name in given}
    params |= {"covariance_type": covariance_type, "random_state": 0}
    theirs = GaussianMixture(4, **params).fit(blobs)
    ours = DifferentiableGaussianMixture(4, **params).fit(blobs)
    assert ours.n_iter_ == theirs.n_iter_
    assert difference(ours, theirs) < 1e-10


def test_predictions_and_criteria_equal_those_of_scikit_learn(blobs, covariance_type):
    params = {"covariance_type": covariance_type, "random_state": 0}
    theirs = GaussianMixture(4, **params).fit(blobs)
    ours = DifferentiableGaussianMixture(4, **params).fit(blobs)
    new = blobs[::3] + 0.5
    assert np.array_equal(ours.predict(new), theirs.predict(new))
    for method in ["predict_proba", "score_samples", "score", "aic", "bic"]:
        assert np.allclose(getattr(ours, method)(new), getattr(theirs, method)(new), rtol=1e-11)
    assert np.array_equal(ours.fit_predict(blobs), theirs.fit_predict(blobs))


def test_samples_are_the_draws_of_scikit_learn(blobs, covariance_type):
    theirs = GaussianMixture(4, covariance_type=covariance_type, random_state=0).fit(blobs)
    ours = fitted(blobs, covariance_type)
    X, y = ours.sample(200)
    expected, labels = theirs.sample(200)
    assert np.array_equal(y, labels)
    assert np.allclose(X, expected, rtol=0, atol=1e-6)  # the SVD inside depends on the last digits


def test_several_starts_share_one_random_stream(blobs):
    params = {"n_init": 4, "init_params": "random", "random_state": 5, "tol": 1e-5}
    theirs = GaussianMixture(4, **params).fit(blobs)
    ours = DifferentiableGaussianMixture(4, **params).fit(blobs)
    assert difference(ours, theirs) < 1e-9
    assert ours.n_iter_ == theirs.n_iter_


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_warm_start_goes_on_where_the_last_fit_stopped(blobs, covariance_type):
    kwargs = {"covariance_type": covariance_type, "init_params": "random", "tol": 0.0}
    twice = fitted(blobs, max_iter=5, warm_start=True, **kwargs).fit(blobs)
    once = fitted(blobs, max_iter=10, **kwargs)
    assert difference(once, twice) < 1e-11
    assert twice.n_iter_ == 5


def test_no_iterations_give_the_start(blobs, covariance_type):
    model = fitted(blobs, covariance_type, max_iter=0)
    assert (model.n_iter_, model.lower_bound_, model.lower_bounds_) == (0, -np.inf, [])
    assert not model.converged_
    theirs = GaussianMixture(4, covariance_type=covariance_type, random_state=0, max_iter=0)
    assert difference(model, theirs.fit(blobs)) < 1e-10


def test_no_iterations_from_single_samples_give_weights_that_sum_to_one(blobs):
    model = fitted(blobs, max_iter=0, init_params="k-means++")
    assert np.isclose(model.weights_.sum(), 1)


def test_no_iterations_keep_the_given_precisions(blobs, covariance_type):
    model = fitted(blobs, covariance_type, max_iter=0, precisions_init=IDENTITY[covariance_type])
    assert np.allclose(model.precisions_, IDENTITY[covariance_type])
    assert np.allclose(model.covariances_, IDENTITY[covariance_type])


def test_the_verbose_output_is_that_of_scikit_learn(blobs):
    printed = []
    for estimator in (GaussianMixture, DifferentiableGaussianMixture):
        params = {"n_init": 2, "init_params": "random", "verbose": 1, "verbose_interval": 2}
        with redirect_stdout(io.StringIO()) as out:
            estimator(4, random_state=0, **params).fit(blobs)
        printed.append(out.getvalue())
    assert printed[0] == printed[1]
    with redirect_stdout(io.StringIO()) as out:
        fitted(blobs, verbose=2, verbose_interval=1)
    assert "\t time lapse " in out.getvalue() and "\t ll change " in out.getvalue()
    assert "Initialization converged. time lapse" in out.getvalue()
    assert "\t lower bound " in out.getvalue()


def test_not_converging_warns(blobs):
    with pytest.warns(ConvergenceWarning, match="Best performing initialization did not converge"):
        fitted(blobs, max_iter=1, init_params="random")


# --- kinds of array ------------------------------------------------------------------------------


def test_every_kind_of_array_gives_the_same_fit(blobs, array_kind):
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


def test_tensors_come_back_where_scikit_learn_is_asked_for_them(blobs, monkeypatch):
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


def test_attributes_can_be_written(blobs):
    model = fitted(blobs)
    model.means_ += 10  # a fitted array is the user's own
    assert model.predict_proba(blobs + 10).shape == (600, 4)


def test_models_built_by_hand_predict_and_edits_take_effect(blobs):
    reference = fitted(blobs)
    by_hand = DifferentiableGaussianMixture(4)
    by_hand.weights_, by_hand.means_ = reference.weights_, reference.means_.copy()
    by_hand.covariances_ = reference.covariances_
    # the lower factor, as common code sets it: only X @ P and diag(P) may be relied on
    by_hand.precisions_cholesky_ = np.linalg.cholesky(np.linalg.inv(reference.covariances_))
    assert np.allclose(by_hand.score_samples(blobs), reference.score_samples(blobs))
    by_hand.means_ += 1
    assert np.allclose(by_hand.score_samples(blobs + 1), reference.score_samples(blobs))


def by_hand(reference, covariance_type="full", **changed):
    """A mixture whose attributes were set, as lists; those that are None are not."""
    model = DifferentiableGaussianMixture(4, covariance_type=covariance_type, random_state=0)
    for name in ("weights_", "means_", "covariances_", "precisions_cholesky_"):
        value = changed.get(name, getattr(reference, name))
        if value is not None:
            setattr(model, name, np.asarray(value).tolist())
    return model


@pytest.mark.parametrize("missing", [None, "precisions_cholesky_"])
def test_parameters_set_by_hand_may_be_lists_without_factors(blobs, covariance_type, missing):
    reference = fitted(blobs, covariance_type)
    model = by_hand(reference, covariance_type, **({missing: None} if missing else {}))
    assert np.allclose(model.score_samples(blobs), reference.score_samples(blobs), rtol=1e-9)
    assert np.isclose(model.bic(blobs), reference.bic(blobs))
    assert np.allclose(model.sample(5)[0], clone(reference).fit(blobs).sample(5)[0])
    assert model.entropic_ot_gap(blobs) == reference.entropic_ot_gap(blobs)


@pytest.mark.parametrize(
    "changed, error, message",
    [
        (
            {"weights_": None},
            NotFittedError,
            "means_ and precisions_cholesky_, got no w",
        ),
        ({"means_": None}, NotFittedError, "got no means_. Set what is missing, or call fit"),
        (
            {"covariances_": None, "precisions_cholesky_": None},
            NotFittedError,
            "got no covariances_",
        ),
        (
            {"covariances_": np.zeros((4, 3, 3)), "precisions_cholesky_": None},
            ValueError,
            "covariances_ are singular. Add to their diagonals",
        ),
        (
            {"precisions_cholesky_": np.stack([np.eye(3)] * 2)},
            ValueError,
            r"precisions_cholesky_ must have the 4 component\(s\) of means_, got 2. Keep the same",
        ),
        (
            {"precisions_cholesky_": np.eye(3)},
            ValueError,
            "covariance_type must be that of the fit",
        ),
        ({"weights_": [0.5, 0.5]}, ValueError, r"got shapes \(2,\) and \(4, 3\). Give one row"),
        ({"means_": np.zeros(4)}, ValueError, r"Use means\[:, None\] for one feature"),
        (
            {"means_": np.zeros((4, 2)), "precisions_cholesky_": np.stack([np.eye(2)] * 4)},
            ValueError,
            r"X must have the 2 feature\(s\) of means_, got 3",
        ),
    ],
)
def test_parameters_set_by_hand_that_do_not_fit_are_named(blobs, changed, error, message):
    with pytest.raises(error, match=message):
        by_hand(fitted(blobs), **changed).predict(blobs)


def test_some_of_the_components_may_be_kept(blobs, covariance_type):
    model = fitted(blobs, covariance_type)
    most = model.score_samples(blobs) + 1e-12
    model.means_, model.weights_ = model.means_[:3], model.weights_[:3]
    if covariance_type == "tied":
        assert (model.score_samples(blobs) <= most).all()
        return
    with pytest.raises(ValueError, match=r"must have the 3 component\(s\) of means_, got 4"):
        model.score_samples(blobs)
    model.precisions_cholesky_ = model.precisions_cholesky_[:3]
    assert (model.score_samples(blobs) <= most).all()
    with pytest.raises(ValueError, match=r"covariances_ must have the 3 component\(s\) of means_"):
        model.sample()


def test_a_fit_survives_pickling_cloning_and_joblib(blobs):
    model = fitted(torch.tensor(blobs, requires_grad=True))
    assert model.means_.requires_grad
    restored = pickle.loads(pickle.dumps(model))
    assert not restored.means_.requires_grad
    assert torch.equal(restored.means_, model.means_.detach())
    assert not hasattr(clone(model), "means_")
    jobs = (joblib.delayed(fitted)(blobs) for _ in range(2))
    for result in joblib.Parallel(n_jobs=2)(jobs):
        assert np.array_equal(result.means_, fitted(blobs).means_)


def test_it_works_in_pipelines_and_searches(blobs):
    pipeline = make_pipeline(StandardScaler(), DifferentiableGaussianMixture(random_state=0))
    grid = {
        "differentiablegaussianmixture__n_components": [1, 4],
        "differentiablegaussianmixture__covariance_type": ["full", "diag"],
    }
    shuffled = np.random.default_rng(1).permutation(blobs)
    search = GridSearchCV(pipeline, grid, cv=3).fit(shuffled)
    assert search.best_params_["differentiablegaussianmixture__n_components"] == 4
    assert cross_val_score(search.best_estimator_, shuffled, cv=3).shape == (3,)


def test_sample_weights_are_routed_through_searches(blobs, rng):
    weights = rng.integers(1, 4, size=len(blobs)).astype(float)
    with config_context(enable_metadata_routing=True):
        model = DifferentiableGaussianMixture(random_state=0)
        model.set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        search = GridSearchCV(model, {"n_components": [1, 4]}, cv=2)
        search.fit(blobs, sample_weight=weights)
        unweighted = GridSearchCV(
            DifferentiableGaussianMixture(random_state=0), {"n_components": [1, 4]}, cv=2
        ).fit(blobs)
    expected = clone(search.best_estimator_).fit(blobs, sample_weight=weights)
    assert difference(search.best_estimator_, expected) == 0
    assert search.best_score_ != unweighted.best_score_


def test_it_is_shown_as_scikit_learn_shows_estimators(blobs):
    model = fitted(blobs, covariance_type="tied")
    assert " ".join(repr(model).split()) == (
        "DifferentiableGaussianMixture(covariance_type='tied', n_components=4, random_state=0)"
    )
    assert "DifferentiableGaussianMixture" in model._repr_html_()


def test_the_device_is_where_the_work_and_the_answers_are(blobs):
    model = fitted(blobs, device="cpu")
    assert difference(model, fitted(blobs)) == 0
    X = torch.tensor(blobs, requires_grad=True)
    assert fitted(X, device=torch.device("cpu")).means_.device.type == "cpu"


# --- sample weights ------------------------------------------------------------------------------


@pytest.mark.parametrize("init_params", ["kmeans", "given"])
def test_integer_weights_are_repeated_rows(blobs, rng, covariance_type, init_params):
    weights = rng.integers(0, 4, size=len(blobs))
    params = {}
    if init_params == "given":
        params = {"means_init": blobs[::150], "weights_init": np.full(4, 0.25)}
        params |= {"precisions_init": IDENTITY[covariance_type]}
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


def test_weights_matter_up_to_a_factor_only(blobs, rng):
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
        (np.ones(3), "sample_weight.shape"),
        (torch.ones(3), "sample_weight must have shape"),
        (np.r_[np.ones(3), np.zeros(597)], "n_components = 4, n_samples = 3"),
    ],
)
def test_bad_weights_are_refused(blobs, weights, message):
    with pytest.raises(ValueError, match=message):
        fitted(blobs).fit(blobs, sample_weight=weights)


# --- right where others are wrong ----------------------------------------------------------------


@pytest.mark.parametrize("init_params", ["kmeans", "k-means++", "random", "random_from_data"])
def test_the_fit_moves_with_the_data(blobs, covariance_type, init_params):
    near = fitted(blobs, covariance_type, init_params=init_params)
    far = fitted(blobs + 1e7, covariance_type, init_params=init_params)
    assert far.n_iter_ == near.n_iter_
    assert difference(near, far, ["weights_", "covariances_"]) < 1e-6
    assert difference(near, far, ["means_"], shift=1e7) < 1e-6


def test_the_fit_moves_with_the_data_in_float32(blobs, covariance_type):
    near = fitted(blobs, covariance_type)
    far = fitted((blobs + 1e3).astype(np.float32), covariance_type)
    for name in ["weights_", "covariances_"]:
        error = np.abs(getattr(far, name) - getattr(near, name)).max()
        assert error < 1e-3 * np.abs(getattr(near, name)).max()
    assert np.abs(far.means_.astype(float) - 1e3 - near.means_).max() < 1e-3


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("way", ["the faster", "definition"])
def test_the_likelihood_never_falls(blobs, covariance_type, way, monkeypatch):
    if way == "definition":
        definition = lambda em, theta: em._by_definition(theta.prepare())  # noqa: E731
        monkeypatch.setattr(EM, "statistics", definition)
    model = fitted(blobs, covariance_type, init_params="random", tol=0, max_iter=60, reg_covar=0)
    bounds = np.array(model.lower_bounds_)
    assert np.diff(bounds).min() > -1e-10 * abs(bounds[-1])


def hard_data():
    """Data on which sums of squares, or counts, are extreme."""
    rng = np.random.default_rng(0)
    X = np.vstack([rng.normal(size=(100, 3)) + 5 * k for k in range(4)])
    return {
        "outlier at a million sigma": np.vstack([X, [[1e6, 1e6, 1e6]]]),
        "two outliers": np.vstack([X, [[1e6, 0, 0], [-1e6, 3, 2]]]),
        "duplicates": np.repeat(X[::80], 60, axis=0),
        "constant feature": np.c_[X, np.full(len(X), 123456.789)],
        "collinear features": np.c_[X, 2 * X[:, 0]],
        "as many components as samples": X[::100],
        "Cauchy tails": rng.standard_cauchy((1000, 3)),
        "tiny scale": 1e-12 * X,
        "huge scale": 1e12 * X,
        "time stamps": np.c_[1.7e9 + X[:, 0], X[:, 1:]],
    }


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", hard_data())
@pytest.mark.filterwarnings("ignore:reg_covar must be small")
def test_hard_data_give_a_finite_fit(name, dtype, covariance_type):
    X = hard_data()[name].astype(dtype)
    model = fitted(X, covariance_type)
    for parameter in PARAMETERS:
        assert np.isfinite(getattr(model, parameter)).all()
    assert np.isclose(model.weights_.sum(), 1, atol=1e-6)
    assert np.isfinite(model.score(X))
    assert np.allclose(model.predict_proba(X).sum(1), 1, atol=1e-5)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_two_hundred_components_on_three_hundred_samples_equal_scikit_learn(rng):
    X = rng.normal(size=(300, 2))
    theirs = GaussianMixture(200, random_state=0, max_iter=5).fit(X)
    ours = DifferentiableGaussianMixture(200, random_state=0, max_iter=5).fit(X)
    assert np.isclose(ours.score(X), theirs.score(X), rtol=1e-8)


NO_SAMPLES = "got components without samples: 1 of .. They have weight zero and are never predicted"


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
@pytest.mark.parametrize("acceleration", [None, "squarem"])
def test_a_component_without_samples_is_never_predicted_and_can_come_back(
    covariance_type, acceleration
):
    X = np.repeat([0.0, 1.0], 50)[:, None]  # two values, three components
    model = DifferentiableGaussianMixture(
        3,
        covariance_type=covariance_type,
        random_state=0,
        acceleration=acceleration,
        warm_start=True,
    )
    with pytest.warns(ConvergenceWarning, match=NO_SAMPLES):
        model.fit(X)
    assert model.weights_[2] == 0 and np.allclose(model.weights_[:2], 0.5)
    between = np.array([[0.49], [0.5], [0.51]])
    assert model.predict_proba(between)[:, 2].max() == 0 and model.predict(between).max() < 2
    theirs = GaussianMixture(2, covariance_type=covariance_type, random_state=0).fit(X)
    assert np.allclose(model.score_samples(between), theirs.score_samples(between), rtol=1e-9)
    assert model.score(X) == pytest.approx(theirs.score(X))
    if covariance_type in ("full", "diag", "spherical"):
        assert model.covariances_[2].item() == pytest.approx(np.var(X) + 1e-6)
    with pytest.warns(ConvergenceWarning, match=NO_SAMPLES):
        model.fit(X)  # there is nothing to come back for
    assert model.weights_[2] == 0
    model.fit(np.vstack([X, np.full((25, 1), 0.5)]))
    assert np.allclose(model.weights_, [0.4, 0.4, 0.2])
    assert model.predict(between)[1] == 2


def test_an_empty_component_keeps_its_mean_and_can_be_sampled_around(blobs):
    means = np.vstack([blobs[::200], [[1e4, 1e4, 1e4]]]).astype(np.float32)
    model = DifferentiableGaussianMixture(4, means_init=means, random_state=0)
    with pytest.warns(ConvergenceWarning, match=NO_SAMPLES):
        model.fit(blobs.astype(np.float32))
    assert np.allclose(model.means_[3], 1e4)
    assert model.weights_[3] == 0
    assert np.isfinite(model.sample(50)[0]).all()


@pytest.mark.parametrize(
    "dtype, far", [(np.float64, 1e200), (np.float64, 1e30), (np.float32, 1e30)]
)
def test_samples_whose_squares_overflow_belong_to_somebody(blobs, covariance_type, dtype, far):
    model = fitted(blobs.astype(dtype), covariance_type)
    X = np.array([[far, 0, 0], [0, -far, far]], dtype=dtype)
    proba = model.predict_proba(X)
    assert np.isfinite(proba).all() and np.allclose(proba.sum(1), 1)
    assert np.array_equal(model.predict(X), proba.argmax(1))
    nearer = model.predict(X / (far / 1e6))  # same directions, squares that do not overflow
    assert np.array_equal(model.predict(X), nearer)


@pytest.mark.parametrize("largest", [1e160, 1e300])
def test_samples_too_large_for_covariances_are_refused(blobs, largest):
    with pytest.raises(ValueError, match=r"X must be smaller than .* got an entry of size"):
        fitted(blobs * largest)


def legacy_state():
    """The state of numpy's global generator."""
    return np.random.get_state()[1].copy()  # noqa: NPY002


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_threads_change_no_bit_and_settings_stay(rng, covariance_type):
    X = rng.normal(size=(40_000, 3))
    state, before = legacy_state(), torch.get_num_threads()
    results = []
    for n_threads in (1, 2, 4):
        torch.set_num_threads(n_threads)
        results.append(fitted(X, covariance_type, init_params="random_from_data", max_iter=5))
        assert torch.get_num_threads() == n_threads
    torch.set_num_threads(before)
    assert difference(results[0], results[1]) == difference(results[0], results[2]) == 0
    assert np.array_equal(legacy_state(), state)
    assert torch.get_default_dtype() == torch.float32


# --- gradients -----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("gradient", ["implicit", "automatic"])
def test_the_fit_is_differentiable_in_the_data(rng, covariance_type, gradient):
    X = np.vstack([rng.normal(size=(20, 2)) + 4 * k for k in range(2)])
    start = {"means_init": X[[0, 39]], "weights_init": np.full(2, 0.5)}
    start["precisions_init"] = {
        "full": np.stack([np.eye(2)] * 2),
        "tied": np.eye(2),
        "diag": np.ones((2, 2)),
        "spherical": np.ones(2),
    }[covariance_type]
    model = DifferentiableGaussianMixture(
        2, covariance_type=covariance_type, gradient=gradient, tol=0, max_iter=60, **start
    )

    def fit(X, weights):
        fitted = clone(model).fit(X, sample_weight=weights)
        return fitted.weights_, fitted.means_, fitted.covariances_

    inputs = (torch.tensor(X, requires_grad=True), torch.ones(40).double().requires_grad_())
    assert torch.autograd.gradcheck(
        fit,
        inputs,
        eps=1e-5,
        atol=1e-5,
        fast_mode=True,
        nondet_tol=1e-8,
        check_undefined_grad=False,
    )


@pytest.mark.parametrize("gradient", ["automatic", "one_step"])
def test_the_value_of_the_fit_does_not_depend_on_gradients_of_iterations(blobs, gradient):
    X = torch.tensor(blobs)
    plain, on_graph = fitted(X), fitted(X.clone().requires_grad_(), gradient=gradient)
    assert on_graph.covariances_.requires_grad
    assert np.allclose(on_graph.means_.detach(), plain.means_, rtol=1e-10)


def test_the_implicit_gradient_is_that_of_the_polished_fit(blobs):
    model = fitted(torch.tensor(blobs, requires_grad=True))
    exact = fitted(blobs, tol=1e-14, max_iter=3000)
    assert np.allclose(model.means_.detach(), exact.means_, rtol=1e-5)
    assert model.n_iter_ == fitted(blobs).n_iter_
    assert model.solution_.distance < 1e-6
    assert not hasattr(fitted(blobs), "solution_")


def test_the_natural_gradient_of_a_fit_needs_weights_that_stay(blobs):
    X = torch.tensor(blobs, requires_grad=True)
    model = fitted(X, gradient="natural", fixed_weights=True)
    implicit = fitted(X, fixed_weights=True)
    natural, exact = (torch.autograd.grad(m.means_.square().sum(), X)[0] for m in (model, implicit))
    assert (natural * exact).sum() > 0 and not torch.allclose(natural, exact, rtol=0.1)
    with pytest.raises(ValueError, match="must have fixed_weights=True"):
        fitted(X, gradient="natural")
    assert fitted(blobs, gradient="natural").converged_  # nobody asks for a gradient


def test_the_fit_says_how_exact_its_gradient_is(blobs):
    X = torch.tensor(blobs, requires_grad=True)
    model = fitted(X)
    assert model.solution_.distance < 1e-6 and np.isnan(model.solution_.adjoint.residual)
    model.means_.sum().backward()
    adjoint = pickle.loads(pickle.dumps(model)).solution_.adjoint
    assert adjoint.residual < 1e-6 and 0.5 < adjoint.spectral_radius < 1
    assert 0 < adjoint.one_step_error < 1
    assert not hasattr(model.fit(blobs), "solution_")


def test_a_polished_fit_has_converged_however_few_iterations_it_had(blobs):
    model = fitted(torch.tensor(blobs, requires_grad=True), max_iter=2, tol=1e-9)
    assert model.converged_ and model.n_iter_ == 2
    assert model.lower_bound_ == pytest.approx(model.score(blobs), rel=1e-9)


def test_a_fit_far_from_its_fixed_point_says_so(blobs):
    X = torch.tensor(blobs[:60], requires_grad=True)
    with pytest.warns(InexactGradientWarning, match="implicit gradient may be off by"):
        fitted(X, gradient_tol=1e-300)


def test_an_interrupted_polish_keeps_the_fit(blobs, monkeypatch):
    def interrupted(self, theta):
        raise KeyboardInterrupt

    monkeypatch.setattr(EMStep, "linearise", interrupted)
    model = DifferentiableGaussianMixture(4, random_state=0)
    with pytest.raises(KeyboardInterrupt):
        model.fit(torch.tensor(blobs, requires_grad=True))
    assert np.allclose(model.means_, fitted(blobs).means_)


def test_nothing_is_on_a_graph_where_none_is_built(blobs):
    with torch.no_grad():
        model = fitted(torch.tensor(blobs, requires_grad=True))
    assert not model.means_.requires_grad and not hasattr(model, "solution_")
    assert np.allclose(model.means_, fitted(blobs).means_)


def test_starts_are_constants_of_the_gradient(blobs):
    start = fitted(blobs, max_iter=0)
    given = {"weights_init": start.weights_, "means_init": start.means_}
    given["precisions_init"] = start.precisions_
    found = []
    for params in ({}, given):
        X = torch.tensor(blobs, requires_grad=True)
        model = fitted(X, gradient="automatic", **params)
        found += torch.autograd.grad(model.means_.sum(), X)
    assert torch.allclose(*found, rtol=1e-6, atol=1e-8)


def test_the_best_of_several_starts_is_differentiated(blobs):
    X = torch.tensor(blobs, requires_grad=True)
    params = {"n_init": 5, "init_params": "random_from_data", "gradient_tol": 1e-8}
    model = fitted(X, **params)
    assert model.lower_bound_ > fitted(X, **{**params, "n_init": 1}).lower_bound_ - 1e-9
    (found,) = torch.autograd.grad(model.covariances_.sum(), X)
    given = {"weights_init": model.weights_, "means_init": model.means_}
    again = fitted(X, precisions_init=model.precisions_, gradient_tol=1e-8, **given)
    assert torch.allclose(found, torch.autograd.grad(again.covariances_.sum(), X)[0], rtol=1e-4)


def test_fixed_weights_are_uniform_or_those_given(blobs, covariance_type):
    model = fitted(blobs, covariance_type, fixed_weights=True)
    assert np.array_equal(model.weights_, np.full(4, 0.25))
    weights = np.array([0.1, 0.2, 0.3, 0.4])
    model = fitted(blobs, covariance_type, fixed_weights=True, weights_init=weights)
    assert np.allclose(model.weights_, weights, rtol=1e-15)
    assert not np.allclose(model.means_, fitted(blobs, covariance_type).means_)


def test_a_fit_with_fixed_weights_is_differentiable(blobs):
    X = torch.tensor(blobs, requires_grad=True)
    model = fitted(X, fixed_weights=True)
    model.means_.square().sum().backward()
    assert torch.isfinite(X.grad).all() and X.grad.abs().sum() > 0


def test_densities_are_differentiable_in_samples_and_parameters(blobs):
    X = torch.tensor(blobs, requires_grad=True)
    model = fitted(X)
    model.score_samples(X[:5]).sum().backward()
    assert torch.isfinite(X.grad).all() and X.grad.abs().sum() > 0


# --- what goes wrong -----------------------------------------------------------------------------

BAD_SAMPLES = [
    (np.ones(10), r"X must have shape \(n_samples, n_features\), got \(10,\). Reshape your data"),
    (
        torch.ones(10),
        r"X must have shape \(n_samples, n_features\), got \(10,\). Reshape your data",
    ),
    (torch.ones(2, 3, 4), r"X must have shape .* got \(2, 3, 4\). Flatten"),
    (np.ones((2, 3, 4)), "Found array with dim 3"),
    (np.empty((0, 3)), r"Found array with 0 sample\(s\)"),
    (torch.empty((0, 3)), r"X must have at least 2 sample\(s\)"),
    (torch.empty((10, 0)), r"X must have at least 2 sample\(s\) and 1 feature\(s\)"),
    (np.r_[np.ones((9, 3)), [[np.nan] * 3]], r"X must be finite, got NaN in 1 of 10 rows .*row 9"),
    (torch.full((9, 3), torch.inf), r"X must be finite, got infinity \(inf\) in 9 of 9 rows"),
    (np.ma.masked_less(np.arange(30.0).reshape(10, 3), 4), "X must have no masked entries, got 4"),
    (np.random.default_rng(0).normal(size=(3, 3)), "n_components = 4, n_samples = 3"),
    (np.full((9, 3), "a"), "could not convert string to float"),
]


@pytest.mark.parametrize("X, message", BAD_SAMPLES)
def test_bad_samples_are_refused_and_the_earlier_fit_stays(blobs, X, message):
    model = fitted(blobs)
    before = dict(vars(model))
    with pytest.raises(ValueError, match=message):
        model.fit(X)
    assert vars(model).keys() == before.keys()
    assert all(vars(model)[name] is value for name, value in before.items())


def test_complex_tensors_are_refused(blobs):
    with pytest.raises(TypeError, match=r"X must be real, got torch\.complex64"):
        fitted(torch.ones(5, 3, dtype=torch.complex64))


def test_a_fit_that_collapses_midway_leaves_the_earlier_fit(blobs):
    model = fitted(blobs)
    means = model.means_.copy()
    model.set_params(reg_covar=0)
    with pytest.raises(ValueError, match="ill-defined empirical covariance"):
        model.fit(np.c_[blobs, np.zeros(len(blobs))])
    assert np.array_equal(model.means_, means)
    assert model.n_features_in_ == 3
    assert model.predict(blobs).shape == (600,)


@pytest.mark.parametrize(
    "params, message",
    [
        ({"covariance_type": "round"}, "The 'covariance_type' parameter"),
        ({"init_params": "best"}, "The 'init_params' parameter"),
        ({"gradient": "exact"}, "The 'gradient' parameter"),
        ({"n_components": 0}, "The 'n_components' parameter"),
        ({"tol": -1.0}, "The 'tol' parameter"),
        ({"device": 3}, "The 'device' parameter"),
        ({"weights_init": [0.5, 0.5]}, "The parameter 'weights' should have the shape of"),
        ({"weights_init": [0.5, 0.5, 0.5, -0.5]}, r"should be in the range \[0, 1\]"),
        ({"weights_init": [0.5, 0.5, 0.5, 0.5]}, "should be normalized"),
        ({"means_init": np.ones((4, 2))}, "The parameter 'means' should have the shape of"),
        ({"means_init": np.full((4, 3), np.nan)}, "The parameter 'means' must be finite"),
        ({"precisions_init": np.ones((4, 3, 3))}, "should be symmetric, positive-definite"),
        ({"precisions_init": np.ones((4, 3)), "covariance_type": "full"}, "should have the shape"),
    ],
)
def test_bad_parameters_are_refused(blobs, params, message):
    with pytest.raises(ValueError, match=message):
        fitted(blobs, **params)


@pytest.mark.parametrize(
    "method", ["predict", "predict_proba", "score_samples", "score", "bic", "aic"]
)
def test_an_unfitted_mixture_is_refused(blobs, method):
    with pytest.raises(NotFittedError, match="is not fitted yet"):
        getattr(DifferentiableGaussianMixture(), method)(blobs)
    with pytest.raises(NotFittedError, match="is not fitted yet"):
        DifferentiableGaussianMixture().sample()


@pytest.mark.parametrize("n_samples", [0, -1, 2.5, "3"])
def test_a_number_of_samples_must_be_a_positive_integer(blobs, n_samples):
    with pytest.raises(ValueError, match="Invalid value for 'n_samples'"):
        fitted(blobs).sample(n_samples)


@pytest.mark.parametrize("make", [np.asarray, torch.tensor])
def test_samples_of_another_dimension_are_refused(blobs, make):
    with pytest.raises(ValueError, match="X has 2 features, but DifferentiableGaussianMixture"):
        fitted(blobs).predict(make(blobs[:, :2]))


@pytest.mark.parametrize("method", ["score", "bic", "predict", "sample"])
def test_another_covariance_type_than_that_of_the_fit_is_refused(blobs, method):
    model = fitted(blobs).set_params(covariance_type="diag")
    arguments = () if method == "sample" else (blobs,)
    with pytest.raises(ValueError, match="covariance_type must be that of the fit, got 'diag'"):
        getattr(model, method)(*arguments)


@pytest.mark.parametrize("device", ["nowhere", "cuda:99"])
def test_a_device_that_is_not_there_is_refused(blobs, device):
    with pytest.raises(ValueError, match=f"device must be one that torch has here, got '{device}'"):
        fitted(blobs, device=device)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_samples_on_another_accelerator_are_refused(device):
    # torch's 'meta' device stands for any accelerator
    X = torch.empty(10, 2, device="meta")
    with pytest.raises(ValueError, match="X must be on the device named, or on the CPU, got meta"):
        fitted(X, device=device)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("gradient", ["implicit", "automatic", "one_step"])
def test_gradients_on_a_gpu_are_those_of_the_cpu(blobs, gradient):
    found = []
    for device in ("cpu", "cuda"):
        X = torch.tensor(blobs, device=device, requires_grad=True)
        model = fitted(X, gradient=gradient, gradient_tol=1e-9)
        assert model.means_.device.type == device
        found.append(torch.autograd.grad(model.means_.sum(), X)[0].cpu())
    assert torch.allclose(*found, rtol=1e-5, atol=1e-7)


def test_a_warm_start_with_another_shape_is_refused(blobs):
    model = fitted(blobs, warm_start=True)
    with pytest.raises(ValueError, match="warm_start needs a fit of shape"):
        model.set_params(n_components=3).fit(blobs)
    with pytest.raises(ValueError, match="covariance_type must be that of the fit, got 'tied'"):
        model.set_params(n_components=4, covariance_type="tied").fit(blobs)
    with pytest.raises(ValueError, match="warm_start needs a fit of shape"):
        model.set_params(covariance_type="full").fit(blobs[:, :2])


def test_an_interrupted_fit_keeps_what_it_reached(blobs, monkeypatch):
    step, calls = EM.__call__, []

    def interrupted(self, theta):
        calls.append(theta)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return step(self, theta)

    monkeypatch.setattr(EM, "__call__", interrupted)
    model = DifferentiableGaussianMixture(4, init_params="random", random_state=0)
    with pytest.raises(KeyboardInterrupt):
        model.fit(blobs)
    monkeypatch.undo()
    assert model.n_iter_ == 3 and not model.converged_
    with pytest.warns(ConvergenceWarning):
        expected = clone(model).set_params(max_iter=3).fit(blobs)
    assert difference(model, expected) == 0


@pytest.mark.parametrize("gradient", ["automatic", "one_step"])
def test_an_unconverged_fit_says_how_far_its_gradient_is_from_a_fixed_point(blobs, gradient):
    model = DifferentiableGaussianMixture(4, init_params="random", max_iter=2, random_state=0)
    X = torch.tensor(blobs, requires_grad=True)
    with pytest.warns(ConvergenceWarning, match=r"the last step moved by [\d.e-]+ in units"):
        model.set_params(gradient=gradient).fit(X)


def test_gradients_through_all_iterations_need_plain_iterations(blobs):
    X = torch.tensor(blobs, requires_grad=True)
    with pytest.raises(ValueError, match="gradient must be 'implicit' or 'one_step' when EM is"):
        fitted(X, gradient="automatic", acceleration="squarem")
    assert fitted(X, acceleration="squarem").means_.requires_grad


# --- acceleration --------------------------------------------------------------------------------


def overlapping(seed):
    """Five components about one deviation apart, on which EM is slow."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(5, 2))
    return centres[rng.integers(5, size=2000)] + rng.normal(size=(2000, 2))


def test_acceleration_needs_at_most_half_the_passes():
    passes = {None: 0, "squarem": 0}
    for seed in range(3):
        X = overlapping(seed)
        bounds = {}
        for acceleration in passes:
            params = {"n_components": 5, "tol": 1e-7, "max_iter": 10_000}
            model = fitted(X, acceleration=acceleration, **params)
            assert model.converged_
            passes[acceleration] += model.n_iter_
            bounds[acceleration] = model.lower_bound_
        assert bounds["squarem"] > bounds[None] - 1e-4
    assert passes["squarem"] <= passes[None] / 2


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_acceleration_never_lowers_the_likelihood(blobs, covariance_type):
    params = {"tol": 0, "max_iter": 300}
    model = fitted(blobs, covariance_type, acceleration="squarem", init_params="random", **params)
    bounds = np.array(model.lower_bounds_)
    assert np.diff(bounds).min() > -1e-10 * abs(bounds[-1])
    assert len(bounds) <= model.n_iter_ == 300


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("kind", ["full", "tied"])
def test_acceleration_does_not_depend_on_the_order_of_the_features(rng, kind):
    X = rng.normal(size=(300, 6)) @ rng.normal(size=(6, 6)) + 2 * rng.integers(3, size=(300, 1))
    order = [3, 0, 5, 1, 4, 2]
    params = {"acceleration": "squarem", "tol": 0, "max_iter": 11, "weights_init": [1 / 3] * 3}
    params["precisions_init"] = np.eye(6) if kind == "tied" else np.stack([np.eye(6)] * 3)
    models = [
        fitted(X[:, o], kind, n_components=3, means_init=X[::100, o], **params)
        for o in (np.arange(6), order)
    ]
    assert len(models[0].lower_bounds_) > 8  # proposals that were kept
    assert np.allclose(models[1].means_, models[0].means_[:, order], rtol=0, atol=1e-10)


def test_acceleration_does_not_depend_on_the_units_of_the_features(blobs):
    params = {"acceleration": "squarem", "tol": 1e-9, "max_iter": 1000, "reg_covar": 0}
    params |= {"means_init": blobs[::150], "weights_init": np.full(4, 0.25)}
    params["precisions_init"] = np.stack([np.linalg.inv(np.cov(blobs.T))] * 4)
    units = np.array([1.0, 1e3, 1e-3])
    model = fitted(blobs, **params)
    params |= {"means_init": blobs[::150] * units}
    params["precisions_init"] = np.stack([np.linalg.inv(np.cov((blobs * units).T))] * 4)
    scaled = fitted(blobs * units, **params)
    assert abs(scaled.n_iter_ - model.n_iter_) <= 3
    assert np.allclose(scaled.means_ / units, model.means_, atol=1e-3)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("name", hard_data())
@pytest.mark.filterwarnings("ignore:reg_covar must be small")
def test_acceleration_takes_hard_data(name, covariance_type):
    model = fitted(hard_data()[name], covariance_type, acceleration="squarem", tol=1e-6)
    assert np.isfinite(model.score(hard_data()[name]))
