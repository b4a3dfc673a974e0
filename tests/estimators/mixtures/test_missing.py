"""Fits, predictions and imputation where entries of samples are missing."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone

from skgmmot import (
    DifferentiableGaussianMixture,
    GaussianMixtureSearch,
    MixtureWasserstein,
    OTMap,
    Prior,
    load,
)

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture
def X(rng):
    """Two clouds in three dimensions."""
    turn = np.array([[1, 0.8, 0.0], [0, 0.5, 0.3], [0, 0, 1]])
    return np.vstack([rng.normal(size=(40, 3)) @ turn, rng.normal([4, 0, 2], size=(40, 3))])


@pytest.fixture
def M(X, rng):
    """The same with a fifth of its entries missing, but something of each sample."""
    missing = rng.random(X.shape) < 0.2
    missing[missing.all(1)] = False
    return np.where(missing, np.nan, X)


def mixture(K=2, **options):
    """A mixture of samples with missing entries."""
    options = {"random_state": 0, "missing_values": "nan", **options}
    return DifferentiableGaussianMixture(K, **options)


def test_samples_without_missing_entries_have_the_bits_of_the_plain_fit(X, covariance_type):
    plain = mixture(covariance_type=covariance_type, missing_values="error").fit(X)
    found = mixture(covariance_type=covariance_type).fit(X)
    for name in ("weights_", "means_", "covariances_"):
        assert np.array_equal(getattr(plain, name), getattr(found, name))
    assert plain.lower_bounds_ == found.lower_bounds_
    assert np.array_equal(plain.score_samples(X), found.score_samples(X))


@pytest.mark.parametrize("value", [np.nan, float("nan"), np.float32("nan")])
def test_nan_means_the_same_as_its_name(value, M, tmp_path):
    expected = mixture(max_iter=3).fit(M)
    given = mixture(max_iter=3, missing_values=value, checkpoint=tmp_path / "fit.npz")
    found = clone(given).fit(M)
    assert np.array_equal(found.means_, expected.means_)
    assert np.array_equal(found.predict_proba(M), expected.predict_proba(M))
    for spelling in (value, "nan"):  # the checkpoint is that of the same fit
        given.set_params(missing_values=spelling).fit(M)
    found.save(tmp_path / "model.npz")
    assert np.array_equal(load(tmp_path / "model.npz").impute(M), expected.impute(M))


@pytest.mark.parametrize("value", [None, -1, "NaN", True, 0.0])
def test_other_marks_of_missing_values_are_refused(value, M):
    with pytest.raises(ValueError, match="'missing_values' parameter"):
        mixture(missing_values=value).fit(M)


def test_one_component_is_the_normal_distribution_of_em_by_hand(M):
    m, S = np.nanmean(M, axis=0), np.diag(np.nanvar(M, axis=0))
    for _ in range(60):
        filled, C = M.copy(), np.zeros((3, 3))
        for x in filled:
            u = np.isnan(x)
            if u.any():
                B = S[np.ix_(u, ~u)] @ np.linalg.inv(S[np.ix_(~u, ~u)])
                C[np.ix_(u, u)] += S[np.ix_(u, u)] - B @ S[np.ix_(~u, u)]
                x[u] = m[u] + B @ (x[~u] - m[~u])
        m = filled.mean(axis=0)
        S = ((filled - m).T @ (filled - m) + C) / len(M)
    found = mixture(1, tol=1e-12, max_iter=1000, reg_covar=0).fit(M)
    np.testing.assert_allclose(found.means_[0], m, rtol=1e-5)
    np.testing.assert_allclose(found.covariances_[0], S, rtol=1e-5)


@pytest.mark.parametrize("acceleration", [None, "squarem"])
def test_the_likelihood_never_decreases_and_is_that_of_the_score(M, covariance_type, acceleration):
    options = {"tol": 1e-6, "max_iter": 500, "acceleration": acceleration, "reg_covar": 0}
    found = mixture(covariance_type=covariance_type, **options).fit(M)
    assert found.converged_ and (np.diff(found.lower_bounds_) > -1e-12).all()
    assert found.score(M) == pytest.approx(found.lower_bound_, abs=1e-5)
    parameters = {"full": 19, "tied": 13, "diag": 13, "spherical": 9}[covariance_type]
    assert found.bic(M) == pytest.approx(
        -2 * found.score(M) * len(M) + parameters * math.log(len(M))
    )


def test_weights_are_counts_and_order_does_not_matter(M, rng):
    counts = rng.integers(0, 3, size=len(M))
    options = {"init_params": lambda X, K, _: (X[:, 0] > 2).astype(int), "tol": 1e-8}
    weighted = mixture(**options).fit(M, sample_weight=counts)
    repeated = mixture(**options).fit(np.repeat(M, counts, axis=0)[::-1])
    np.testing.assert_allclose(weighted.means_, repeated.means_, rtol=1e-10)
    np.testing.assert_allclose(weighted.covariances_, repeated.covariances_, rtol=1e-9)


def test_float32_and_far_offsets_keep_their_digits(M):
    found = mixture(init_params=lambda X, K, _: (X[:, 0] > X[:, 0].mean()).astype(int)).fit
    plain = found(M)
    shown, covariances = plain.means_.copy(), plain.covariances_.copy()
    np.testing.assert_allclose(found(M + 1e6).means_ - 1e6, shown, atol=1e-8)
    single = found(M.astype(np.float32))
    assert single.means_.dtype == np.float32
    np.testing.assert_allclose(single.covariances_, covariances, atol=1e-4)


@pytest.mark.parametrize("start", ["k-means++", "random", "random_from_data", "sinkhorn"])
def test_every_start_serves_and_repeats(M, start):
    one, other = (mixture(init_params=start, n_init=2).fit(M) for _ in range(2))
    assert np.isfinite(one.lower_bound_) and np.array_equal(one.means_, other.means_)


def test_a_callable_start_gets_complete_samples_in_their_order(M):
    seen = {}

    def start(X, K, random_state):
        seen["X"] = X
        return np.repeat([0, 1], 40)

    mixture(init_params=start).fit(M)
    assert np.isfinite(seen["X"]).all()
    np.testing.assert_array_equal(seen["X"][~np.isnan(M)], M[~np.isnan(M)])


def test_a_warm_start_goes_on(M):
    found = mixture(warm_start=True, tol=1e-6, max_iter=500).fit(M)
    lower = found.lower_bound_
    assert found.fit(M).n_iter_ == 1 and found.lower_bound_ >= lower


def test_what_is_fixed_stays_and_a_prior_counts(M):
    means = [[0.0, 0, 0], [4, 0, 2]]
    found = mixture(fixed_means=[True, False], means_init=means).fit(M)
    assert found.means_[0].tolist() == means[0] and found.means_[1].tolist() != means[1]
    shares = mixture(fixed_weights=True, weights_init=[0.3, 0.7]).fit(M)
    assert shares.weights_.tolist() == [0.3, 0.7]
    for prior in ("auto", Prior(scale=np.eye(3))):
        bounds = mixture(prior=prior, tol=1e-8).fit(M).lower_bounds_
        assert (np.diff(bounds) > -1e-9).all()


def test_a_checkpoint_is_that_of_samples_with_the_same_entries(M, tmp_path):
    file = tmp_path / "fit.npz"
    first = mixture(checkpoint=file).fit(M)
    assert np.array_equal(mixture(checkpoint=file).fit(M).means_, first.means_)
    with pytest.raises(ValueError, match="other numbers in samples"):
        mixture(checkpoint=file).fit(np.where(np.isnan(M), M, M + 1))


def test_blocks_have_the_bits_of_samples_in_memory_and_of_dask(M):
    da = pytest.importorskip("dask.array")
    whole = mixture().fit(M)
    one = mixture().fit(lambda: iter([M]))
    assert np.array_equal(one.means_, whole.means_)
    parts = mixture().fit(lambda: iter([M[:45], M[45:]]))
    np.testing.assert_allclose(parts.means_, whole.means_, rtol=1e-8)
    chunks = da.from_array(M, chunks=((45, 35), 3))
    assert np.array_equal(mixture().fit(chunks).means_, parts.means_)
    assert np.array_equal(whole.predict(chunks).compute(), whole.predict(M))
    assert one.score(lambda: iter([M[:45], M[45:]])) == pytest.approx(one.score(M))


def test_partial_fit_takes_blocks_with_and_without_missing_entries(M, X):
    found = mixture().partial_fit(M[::2]).partial_fit(M[1::2]).partial_fit(X)
    assert found.n_steps_ == 3 and np.isfinite(found.means_).all()
    assert found.score(M) > mixture(1).fit(M).score(M)


def test_data_frames_lists_and_masked_arrays_have_the_fit_of_arrays(M):
    means, missing = mixture().fit(M).means_, np.isnan(M)
    frame = pd.DataFrame(M, columns=list("abc"))
    kinds = {
        "frame": frame,
        "None in a column": frame.assign(a=frame["a"].astype(object).where(~missing[:, 0], None)),
        "NA": frame.convert_dtypes(),
        "masked": np.ma.array(np.nan_to_num(M), mask=missing),
        "objects": np.where(missing, None, M),
        "list": np.where(missing, None, M).tolist(),
        "tensor": torch.tensor(M),
    }
    for name, samples in kinds.items():
        fitted = mixture().fit(samples)
        assert np.array_equal(fitted.means_, means), name
        assert np.isfinite(fitted.impute(samples)).all(), name


def test_predictions_are_those_of_marginals_row_by_row(M):
    fitted = mixture().fit(M)
    proba, labels, density = fitted.predict_proba(M), fitted.predict(M), fitted.score_samples(M)
    assert np.array_equal(proba.argmax(1), labels)
    for i in range(0, len(M), 9):
        seen = np.flatnonzero(~np.isnan(M[i]))
        part = fitted.marginal(seen.tolist())
        np.testing.assert_allclose(part.predict_proba(M[i : i + 1, seen])[0], proba[i], atol=1e-12)
        np.testing.assert_allclose(part.score_samples(M[i : i + 1, seen]), density[i])
    nothing = np.full((1, 3), np.nan)
    assert abs(fitted.score_samples(nothing)) < 1e-15  # a sum of weights, rounded
    np.testing.assert_allclose(fitted.predict_proba(nothing)[0], fitted.weights_)
    assert fitted.marginal([0, 1]).missing_values == "nan"


def test_imputation_is_the_conditional_mean_and_keeps_what_is_observed(M, X):
    fitted, missing = mixture().fit(M), np.isnan(M)
    found = fitted.impute(M)
    assert np.array_equal(found[~missing], X[~missing]) and found.dtype == M.dtype
    i = int(np.flatnonzero(missing.any(1))[0])
    seen = np.flatnonzero(~missing[i]).tolist()
    rest = fitted.condition(M[i, seen], seen)
    np.testing.assert_allclose(found[i, missing[i]], rest.weights_ @ rest.means_)
    error = np.sqrt(np.mean((found - X)[missing] ** 2))
    by_mean = np.sqrt(np.mean((np.nanmean(M, axis=0) - X)[missing] ** 2))
    assert error < 0.8 * by_mean
    assert np.array_equal(fitted.impute(X), X)
    single = fitted.impute(M.astype(np.float32))
    assert single.dtype == np.float32
    # whatever missing_values says of samples of a fit
    assert np.isfinite(mixture(missing_values="error").fit(X).impute(M)).all()


def test_draws_repeat_and_have_more_variance_than_means(M):
    fitted, missing = mixture().fit(M), np.isnan(M)
    drawn = fitted.impute(M, draw=True)
    assert np.array_equal(drawn, fitted.impute(M, draw=True))
    assert np.array_equal(drawn[~missing], M[~missing])
    fitted.set_params(random_state=1)
    assert (fitted.impute(M, draw=True)[missing] != drawn[missing]).all()
    assert drawn[missing].var() > fitted.impute(M)[missing].var()


def test_imputed_entries_and_densities_are_differentiable(M):
    fitted, missing = mixture().fit(M), np.isnan(M)
    x = torch.tensor(M, requires_grad=True)
    (fitted.impute(x).square().sum() + fitted.score_samples(x).sum()).backward()
    assert (x.grad.numpy()[missing] == 0).all() and x.grad.isfinite().all()
    way = np.where(missing, 0.0, np.linspace(-1, 1, M.size).reshape(M.shape))
    ends = [
        np.square(fitted.impute(M + h * way)).sum() + fitted.score_samples(M + h * way).sum()
        for h in (1e-6, -1e-6)
    ]
    assert float((x.grad * torch.tensor(way)).sum()) == pytest.approx(
        (ends[0] - ends[1]) / 2e-6, rel=1e-6
    )


@pytest.mark.parametrize("gradient", ["implicit", "automatic", "one_step"])
def test_fits_are_differentiable_in_what_is_observed(M, gradient):
    M, a = M[::2], np.linspace(0.5, 1.5, len(M[::2]))
    missing = np.isnan(M)
    start = {"weights_init": [0.5, 0.5], "means_init": [[0, 0, 0], [4, 0, 2]]}
    start["precisions_init"] = [np.eye(3), np.eye(3)]
    plain = gradient == "automatic"  # through four iterations, not to the fixed point
    stop = {"tol": 0, "max_iter": 4} if plain else {"tol": 1e-14, "max_iter": 400}

    def loss(X, weights):
        fitted = mixture(gradient=gradient, **start, **stop).fit(X, sample_weight=weights)
        return sum(torch.as_tensor(t).square().sum() for t in (fitted.means_, fitted.covariances_))

    x, w = torch.tensor(M, requires_grad=True), torch.tensor(a, requires_grad=True)
    loss(x, w).backward()
    assert (x.grad.numpy()[missing] == 0).all() and x.grad.isfinite().all()
    if gradient == "one_step":
        return
    way = np.where(missing, 0.0, np.linspace(-1, 1, M.size).reshape(M.shape))
    ends = [float(loss(M + h * way, a + h * a**2)) for h in (1e-5, -1e-5)]
    found = float((x.grad * torch.tensor(way)).sum() + (w.grad * torch.tensor(a**2)).sum())
    assert found == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=2e-4)


def test_fits_are_sources_and_targets(M, X):
    fitted, plain = mixture().fit(M), mixture(missing_values="error").fit(X)
    assert MixtureWasserstein()(fitted, plain) < 1
    transport = OTMap(plain, mixture=fitted).fit(M)
    assert np.isfinite(transport.transform(X)).all()
    transport = OTMap(M + 1, mixture=mixture()).fit(M)
    np.testing.assert_allclose(transport.transform(X), X + 1, atol=0.2)
    with pytest.raises(ValueError, match="must be finite, got NaN"):
        transport.transform(M)


def refusal(samples, **options):
    """What a fit says of samples."""
    with pytest.raises(ValueError) as raised:
        mixture(**options).fit(samples)
    return str(raised.value)


def test_bad_input_is_named(M, X):
    assert "missing_values='nan' if entries are missing" in refusal(M, missing_values="error")
    assert "got infinity (inf) in 1 of 80 rows (first: row 3)" in refusal(
        np.where(np.arange(80)[:, None] == 3, np.inf, M)
    )
    M = M.copy()
    M[:, 1] = np.nan
    assert "none in 1 of 3 (first: 1)" in refusal(M)
    assert "(first: 'b')" in refusal(pd.DataFrame(M, columns=list("abc")))
    assert "none in 3 of 3" in refusal(np.full((10, 3), np.nan))
    few = np.full((6, 3), np.nan)
    few[0] = X[0]
    assert "got 1 of them and n_components = 2" in refusal(few)
    assert "e_step must be 'posterior'" in refusal(np.where(X > 4, np.nan, X), e_step="sinkhorn")
    tensor = torch.tensor(np.where(X > 4, np.nan, X), requires_grad=True)
    assert "missing, got 'lowrank'" in refusal(
        np.where(X > 4, np.nan, X), covariance_type="lowrank"
    )
    assert "noise must be 'none' where entries" in refusal(
        np.where(X > 4, np.nan, X), noise="uniform"
    )
    natural = {"gradient": "natural", "fixed_weights": True}
    assert "gradient must be a derivative" in refusal(tensor, **natural)


@pytest.mark.parametrize("method", ["predict", "score", "impute"])
def test_a_low_rank_fitted_to_complete_samples_refuses_missing_entries(X, method):
    options = {"covariance_type": "lowrank", "missing_values": "nan", "random_state": 0}
    mixture = DifferentiableGaussianMixture(2, **options).fit(X)
    with pytest.raises(ValueError, match=r"covariance_type must be .* missing, got 'lowrank'"):
        getattr(mixture, method)(np.where(X > 4, np.nan, X))


def test_pairs_that_are_never_seen_together_are_warned_of(X, rng):
    X = X.copy()
    X[::2, 0], X[1::2, 2] = np.nan, np.nan
    with pytest.warns(UserWarning, match=r"none for 1 pair\(s\): \(0, 2\)"):
        mixture(1).fit(X)
    assert np.isfinite(mixture(1, covariance_type="diag").fit(X).means_).all()
    alone = np.where(np.arange(20)[:, None] % 4 == np.arange(4), rng.normal(size=(20, 4)), np.nan)
    with pytest.warns(UserWarning, match=r"6 pair.*: \(0, 1\), .* \(1, 3\) \.\.\.\. Their"):
        mixture(1).fit(alone)


def test_patterns_of_single_samples_with_single_entries_serve(X):
    M = X[:12].copy()
    M[0], M[1], M[2] = [np.nan, 1, np.nan], [1, np.nan, np.nan], [np.nan, np.nan, 1]
    assert np.isfinite(mixture(1).fit(M).covariances_).all()


def test_samples_of_which_nothing_is_observed_do_not_count(M):
    nothing = np.vstack([M, np.full((5, 3), np.nan)])
    options = {"init_params": lambda X, K, _: (X[:, 0] > 2).astype(int)}
    found, plain = (mixture(**options).fit(x) for x in (nothing, M))
    np.testing.assert_allclose(found.means_, plain.means_, rtol=1e-10)
    assert found.score(nothing) == pytest.approx(found.score(M) * len(M) / len(nothing))


def beside_nothing(M, n=900):
    """Rows in another order, with n of which nothing is observed, and without these."""
    rows = np.vstack([M, np.full((n, M.shape[1]), np.nan)])
    rows = rows[np.random.default_rng(1).permutation(len(rows))]
    return rows, rows[~np.isnan(rows).all(1)]


def given(K, d):
    """A start, and what else a fit without any random numbers needs."""
    means = np.linspace(0, 3, K)[:, None].repeat(d, 1)
    return {"means_init": means, "precisions_init": [np.eye(d)] * K, "weights_init": [1 / K] * K}


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
@pytest.mark.parametrize("acceleration", [None, "squarem", "newton"])
def test_fits_and_criteria_are_as_without_samples_of_nothing(M, covariance_type, acceleration):
    options = given(2, 3) | {"covariance_type": covariance_type, "acceleration": acceleration}
    options["precisions_init"] = None
    options = {k: v for k, v in options.items() if v is not None}
    rows, without = beside_nothing(M)
    found, plain = (mixture(certify=True, **options).fit(x) for x in (rows, without))
    assert found.n_iter_ == plain.n_iter_
    assert found.n_samples_seen_ == plain.n_samples_seen_ == len(M)
    for name in ("lower_bound_", "means_", "error_"):
        np.testing.assert_allclose(getattr(found, name), getattr(plain, name), rtol=1e-7)
    assert found.solution_.gain == pytest.approx(plain.solution_.gain, rel=1e-5)
    total = found.score_samples(without).astype(float).sum()
    assert found.lower_bound_ == pytest.approx(total / len(M), abs=1e-2)
    for name in ("bic", "aic"):
        assert getattr(found, name)(rows) == pytest.approx(getattr(found, name)(without), rel=1e-12)
    # the criterion by its definition, and the score as the mean that scikit-learn has
    free = (found.aic(without) + 2 * total) / 2
    assert found.bic(rows) == pytest.approx(-2 * total + free * math.log(len(M)), rel=1e-10)
    assert found.score(rows) == pytest.approx(found.score_samples(rows).mean(), rel=1e-10)


def test_weights_and_blocks_of_nothing_do_not_count(M):
    rows, without = beside_nothing(M)
    a = np.where(np.isnan(rows).all(1), 5.0, 2.0)
    plain = mixture(**given(2, 3)).fit(without, sample_weight=np.full(len(M), 2.0))
    found = mixture(**given(2, 3)).fit(rows, sample_weight=a)
    assert found.lower_bound_ == pytest.approx(plain.lower_bound_, rel=1e-12)
    assert found.n_samples_seen_ == plain.n_samples_seen_ == 2 * len(M)
    expected = plain.bic(without, sample_weight=np.full(len(M), 2.0))
    assert found.bic(rows, sample_weight=a) == pytest.approx(expected, rel=1e-12)

    def blocks():
        return (rows[i : i + 100] for i in range(0, len(rows), 100))

    whole = mixture(**given(2, 3)).fit(without)
    da = pytest.importorskip("dask.array")
    for X in (blocks, da.from_array(rows, chunks=(300, 3))):
        found = mixture(**given(2, 3)).fit(X)
        assert found.lower_bound_ == pytest.approx(whole.lower_bound_, rel=1e-12)
        assert found.n_samples_seen_ == len(M)
        assert found.bic(X) == pytest.approx(whole.bic(without), rel=1e-10)
        assert found.score(X) == pytest.approx(found.score(rows), rel=1e-10)


def test_steps_are_as_without_samples_of_nothing(M):
    rows, without = beside_nothing(M)
    half = len(M) // 2
    n = np.flatnonzero(~np.isnan(rows).all(1))[half]
    found = mixture(**given(2, 3)).partial_fit(rows[:n]).partial_fit(np.full((4, 3), np.nan))
    found = found.partial_fit(rows[n:])
    plain = mixture(**given(2, 3)).partial_fit(without[:half]).partial_fit(without[half:])
    assert (found.n_samples_seen_, found.n_steps_) == (len(M), 2)
    for name in ("means_", "covariances_", "lower_bound_"):
        np.testing.assert_allclose(getattr(found, name), getattr(plain, name), rtol=1e-9)
    with pytest.raises(ValueError, match="an observed entry in each feature"):
        mixture(**given(2, 3)).partial_fit(np.full((4, 3), np.nan))


def test_a_search_is_as_without_samples_of_nothing(M):
    rows, without = beside_nothing(M)
    options = {"mixture": mixture(), "random_state": 0, "covariance_types": ["full", "diag"]}
    found, plain = (GaussianMixtureSearch([1, 2], **options).fit(x) for x in (rows, without))
    for name in ("bic", "aic", "icl", "log_likelihood"):
        np.testing.assert_array_equal(found.results_[name], plain.results_[name])
    best = found.best_estimator_
    assert best.bic(rows) == pytest.approx(found.best_criterion_, rel=1e-9)


def test_a_class_without_any_entry_has_no_say_in_the_likelihood(M):
    rows = np.vstack([M, np.full((60, 3), np.nan)])
    y = np.r_[np.full(len(M), -1), np.zeros(60)]
    y[:3], y[-63:-60] = 0, 1
    options = given(2, 3) | {"labels": "y", "tol": 1e-9, "max_iter": 300}
    found = mixture(**options).fit(rows, y)
    assert (np.diff(found.lower_bounds_) > -1e-12).all()
    plain = mixture(**options).fit(M, y[: len(M)])
    assert found.lower_bound_ == pytest.approx(plain.lower_bound_, rel=1e-10)


def test_what_takes_complete_samples_says_so(M):
    fitted = mixture().fit(M)
    for method in (fitted.entropic_ot_gap, fitted.standard_errors):
        with pytest.raises(ValueError, match=r"Impute them first, as by impute\(X\)"):
            method(M)
        with pytest.raises(ValueError, match=r"complete for .*, got missing entries"):
            method(lambda: iter([M]))


@pytest.mark.parametrize("start", ["kmeans", "k-means++", "random", "random_from_data"])
def test_classes_may_be_known_too(M, start):
    y = np.repeat([0, 1], 40)
    known = np.where(np.arange(80) % 3 == 0, y, -1)
    options = {"labels": "y", "tol": 1e-6, "max_iter": 500}
    found = mixture(init_params=start, **options).fit(M, known)
    assert (np.diff(found.lower_bounds_) > -1e-9).all()
    assert np.mean(found.predict_class(M) == y) > 0.95
    # each class alone, where all are known
    every = mixture(init_params=start, **options).fit(M, y)
    for k in (0, 1):
        alone = mixture(1, tol=1e-6, max_iter=500).fit(M[y == k])
        np.testing.assert_allclose(every.means_[k], alone.means_[0], atol=1e-3)


def test_gradients_serve_with_classes_and_missing_entries(M):
    M, y = M[::2], np.where(np.arange(40) % 3 == 0, np.repeat([0, 1], 20), -1)
    x = torch.tensor(M, requires_grad=True)
    options = {"labels": "y", "tol": 1e-13, "max_iter": 300}
    mixture(**options).fit(x, y).means_.square().sum().backward()
    assert (x.grad.numpy()[np.isnan(M)] == 0).all()
    way = np.where(np.isnan(M), 0.0, np.linspace(-1, 1, M.size).reshape(M.shape))
    ends = [np.square(mixture(**options).fit(M + h * way, y).means_).sum() for h in (1e-4, -1e-4)]
    found = float((x.grad * torch.tensor(way)).sum())
    assert found == pytest.approx((ends[0] - ends[1]) / 2e-4, rel=1e-3)
