"""Intervals for MW2 between mixtures estimated from samples."""

import math

import numpy as np
import pytest
import torch
from sklearn.mixture import BayesianGaussianMixture, GaussianMixture

from skgmmot import (
    DifferentiableGaussianMixture,
    GaussianMixtureSearch,
    SlicedWassersteinGMM,
    StudentMixture,
)
from skgmmot.metrics import (
    mixture_wasserstein_distance,
    mixture_wasserstein_interval,
    stability_bounds,
)


@pytest.fixture(scope="module")
def problem():
    """Two fits, the second one of two components, and their samples."""
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(150, 2)), rng.normal((1, 0), size=(200, 2))
    Y[:80] += [0, 8]
    fits = [DifferentiableGaussianMixture(k, random_state=0).fit(S) for k, S in ((1, X), (2, Y))]
    return *fits, X, Y


def interval(problem, **options):
    return mixture_wasserstein_interval(*problem, n_resamples=20, random_state=0, **options)


def as_numbers(result):
    return np.array(tuple(result))


def parameters(mixture):
    return mixture.weights_, mixture.means_, mixture.covariances_


def test_the_interval_is_around_the_distance_of_the_fits(problem):
    found = interval(problem)
    assert math.isclose(found.value, mixture_wasserstein_distance(*problem[:2]), rel_tol=1e-12)
    assert 0 < found.low < found.value < found.high
    assert found.error == max(found.value - found.low, found.high - found.value) < found.bound
    wider = interval(problem, level=0.999)
    assert wider.low < found.low and found.high < wider.high


def test_the_interval_of_two_gaussians_is_that_of_the_difference_of_their_means(rng, random_seed):
    n = 2000
    X, Y = rng.normal(size=(n, 1)), rng.normal(size=(n, 1)) + 5
    fits = [DifferentiableGaussianMixture(1).fit(S) for S in (X, Y)]
    for method in ("resample", "parametric"):
        found = mixture_wasserstein_interval(*fits, X, Y, method=method, random_state=random_seed)
        width = 2 * 1.96 * math.sqrt(2 / n)
        # each end, a quantile of 200 draws, has a standard error of 5 % of the width
        assert abs((found.high - found.low) / width - 1) < 0.3


def test_near_zero_the_interval_begins_there(rng, random_seed):
    X, Y = rng.normal(size=(2, 100, 2))
    fits = [DifferentiableGaussianMixture(1).fit(S) for S in (X, Y)]
    found = mixture_wasserstein_interval(*fits, X, Y, random_state=random_seed)
    assert found.low == 0 < found.value <= found.high < 0.7  # five standard deviations
    same = mixture_wasserstein_interval(fits[0], fits[0], X, X, random_state=random_seed)
    assert same.low == same.value == 0 < same.high


def test_the_interval_does_not_depend_on_processes_kinds_of_arrays_and_units(problem):
    found = interval(problem)
    source, target, X, Y = problem
    with_jobs = interval(problem, n_jobs=2)
    assert with_jobs == found
    tensors = [tuple(map(torch.tensor, parameters(m))) for m in (source, target)]
    given = (*tensors, torch.tensor(X), Y.tolist())
    assert interval(given) == found
    moved = []
    for w, m, S in map(parameters, (source, target)):
        moved.append((w, 1024 * m, 1024**2 * S))
    scaled = interval((*moved, 1024 * X, 1024 * Y), reg_covar=1024**2 * 1e-6)
    assert np.allclose(as_numbers(scaled), 1024 * as_numbers(found), rtol=1e-9)
    far = [(w, m + 1e6, S) for w, m, S in map(parameters, (source, target))]
    shifted = as_numbers(interval((*far, X + 1e6, Y + 1e6)))
    assert np.allclose(shifted[:4], as_numbers(found)[:4], rtol=1e-4)


def test_samples_whose_squares_leave_the_range_have_an_interval(problem):
    X = problem[2]
    far = ([1.0], [[0.0, 0.0]], [[1e307, 1e307]], "diag")
    found = interval((far, far, 1e160 * X, 1e160 * X), method="parametric")
    assert found.value == 0 < found.high < 1e155


def test_the_bound_is_infinite_where_the_information_is_not_known(problem):
    source, target, X, Y = problem
    empty = (
        [1.0, 0.0],
        np.vstack([source.means_, [[9.0, 9.0]]]),
        np.repeat(source.covariances_, 2, 0),
    )
    found = interval((empty, target, X, Y), method="parametric")
    assert found.bound == math.inf and math.isfinite(found.error)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "jackknife"}, "method must be 'resample' or 'parametric', got 'jackknife'"),
        ({"level": 95}, r"level must be a number in \(0, 1\), got 95"),
        ({"n_resamples": 5}, "n_resamples must be at least 20, got 5"),
        ({"n_resamples": 2.5}, "n_resamples must be a positive integer, got 2.5"),
        ({"reg_covar": -1.0}, "reg_covar must be a non-negative number, got -1.0"),
    ],
)
def test_options_that_are_none_are_refused(problem, options, message):
    with pytest.raises(ValueError, match=message):
        mixture_wasserstein_interval(*problem, **options)


def test_samples_that_do_not_fit_are_refused(problem):
    source, target, X, Y = problem
    for wrong, message in (
        (X[:, :1], r"X must have shape \(n_samples, 2\), as its mixture has features, got"),
        (X[0], r"X must have shape .* Use X\[:, None\]"),
        (np.where(X > 2, np.nan, X), "X must be finite, got NaN or infinity"),
        (X[:1], "X must have at least 2 samples, got 1"),
    ):
        with pytest.raises(ValueError, match=message):
            mixture_wasserstein_interval(source, target, wrong, Y)


OF_ANOTHER_KIND = {
    "noise": ({"noise": "uniform"}, "noise of {} must be 'none'"),
    "prior": ({"prior": "auto"}, "prior, fixed_means and fixed_covariances of {} must be unset"),
    "e_step": ({"e_step": "sinkhorn"}, "e_step of {} must maximise the likelihood"),
    "weights": ({"fixed_weights": True}, "fixed_weights be unset, too"),
    "means": ({"fixed_means": True, "means_init": [[1.0, 0.0]]}, "fixed_means .* of {} must"),
    "labels": ({"labels": "y"}, "labels of {} must be 'ignore'"),
}


@pytest.mark.parametrize("case", OF_ANOTHER_KIND)
def test_fits_of_other_models_are_refused(problem, case):
    source, _, X, _ = problem
    options, match = OF_ANOTHER_KIND[case]
    other = DifferentiableGaussianMixture(1, **options)
    with pytest.raises(ValueError, match=match.format("target")):
        mixture_wasserstein_interval(source, other.fit(X, np.zeros(len(X), int)), X, X)
    with pytest.raises(ValueError, match=match.format("source")):
        stability_bounds(other, source, 100)
    assert stability_bounds(other, source, (source, source)).target == 0  # errors are given


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_fits_by_other_estimators_are_refused(problem):
    source, _, X, _ = problem
    others = [
        StudentMixture(1, degrees_of_freedom=5.0),
        SlicedWassersteinGMM(1, max_iter=2, tol=1.0),
        BayesianGaussianMixture(n_components=1),
    ]
    for other in others:
        name = type(other).__name__
        with pytest.raises(ValueError, match=f"the fit of target must be the .* got a {name}"):
            mixture_wasserstein_interval(source, other.fit(X), X, X)
        with pytest.raises(ValueError, match=f"the fit of source must be the .* got a {name}"):
            stability_bounds(other, source, 100)


def test_plain_fits_of_any_maker_have_one_interval(problem):
    source, target, X, Y = problem
    expected = as_numbers(interval(problem))
    theirs = GaussianMixture(1).fit(X)
    search = GaussianMixtureSearch(1, "full").fit(X)
    for same in (parameters(source), theirs, search):
        found = as_numbers(interval((same, target, X, Y)))
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_fits_to_other_or_weighted_samples_are_refused(problem):
    source, target, X, Y = problem
    with pytest.raises(ValueError, match=r"X must be the samples .* got 100 for .* 150"):
        interval((source, target, X[:100], Y))
    weighted = DifferentiableGaussianMixture(1).fit(Y, sample_weight=np.arange(len(Y)))
    with pytest.raises(ValueError, match=r"Y must be the samples .* total weight 19900"):
        interval((source, weighted, X, Y))
