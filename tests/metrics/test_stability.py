"""Bounds of the errors of MW2 that are due to fits."""

import numpy as np
import pytest

from skgmmot import DifferentiableGaussianMixture
from skgmmot.metrics import MixtureWasserstein, stability_bounds

SQUARED = MixtureWasserstein(squared=True)
COVARIANCES = {
    "full": np.array([[[1.0, 0.3], [0.3, 0.5]], [[0.6, 0.0], [0.0, 1.2]], np.eye(2)]),
    "tied": np.array([[1.0, 0.3], [0.3, 0.5]]),
    "diag": np.array([[1.0, 0.5], [0.6, 1.2], [1.0, 1.0]]),
    "spherical": np.array([1.0, 0.6, 1.3]),
}


def mixture(spread=4.0, angle=0.0, covariance_type="full"):
    """Three components in the plane, as far apart as spread says."""
    turns = angle + 2 * np.pi * np.arange(3) / 3
    means = spread * np.column_stack([np.cos(turns), np.sin(turns)])
    return np.array([0.5, 0.3, 0.2]), means, COVARIANCES[covariance_type], covariance_type


def fitted(true, n_samples, seed):
    """A fit that starts at the true mixture."""
    rng = np.random.default_rng(seed)
    weights, means, covariances, _ = true
    parts = zip(means, covariances, rng.multinomial(n_samples, weights), strict=True)
    X = np.vstack([rng.multivariate_normal(*part) for part in parts])
    start = {"weights_init": weights, "means_init": means}
    start["precisions_init"] = np.linalg.inv(covariances)
    return DifferentiableGaussianMixture(3, tol=1e-6, max_iter=1000, **start).fit(X)


def test_the_bounds_hold_for_the_errors_of_fits():
    trues = mixture(), mixture(angle=0.8)
    for seed in range(5):
        founds = fitted(trues[0], 500, seed), fitted(trues[1], 500, seed + 100)
        bounds = stability_bounds(*trues, founds)
        assert SQUARED(founds[0], trues[0]) <= bounds.source
        assert SQUARED(founds[1], trues[1]) <= bounds.target
        assert abs(SQUARED(*founds) - SQUARED(*trues)) <= bounds.distance


def test_expected_errors_are_the_mean_errors_of_fits(random_seed):
    true = mixture(2.5)
    expected = stability_bounds(true, true, 1000).source_errors
    found = [
        stability_bounds(true, true, (fitted(true, 1000, 48 * random_seed + s), true))
        for s in range(48)
    ]
    mean = np.mean([bounds.source_errors for bounds in found], axis=0)
    assert np.allclose(mean, expected, rtol=0.35)  # four standard errors of a mean of 48 draws


def test_errors_of_one_gaussian_have_a_closed_form():
    single = ([1.0], [[0.0, 0.0]], [[4.0, 1.0]], "diag")
    errors = stability_bounds(single, single, 100).source_errors
    assert errors.weights == pytest.approx(0, abs=1e-6)
    assert errors.means == pytest.approx(np.sqrt(5 / 100), rel=0.05)
    # the deviation s of a normal sample has the variance s^2 / (2 n)
    assert errors.roots == pytest.approx(np.sqrt(5 / 200), rel=0.05)


@pytest.mark.parametrize("covariance_type", COVARIANCES)
def test_given_errors_are_those_of_the_given_fit(covariance_type):
    source = mixture(covariance_type=covariance_type)
    moved = (*source[:1], source[1] + [3.0, 4.0], *source[2:])
    errors = stability_bounds(source, source, (moved, source)).source_errors
    assert np.allclose(errors, [0, 5, 0])


@pytest.mark.parametrize("covariance_type", COVARIANCES)
def test_they_fall_like_the_root_of_the_number_of_samples(covariance_type):
    source = mixture(covariance_type=covariance_type)
    few, many = (stability_bounds(source, mixture(angle=0.8), n) for n in (1000, 100_000))
    assert np.allclose(few.source_errors, 10 * np.array(many.source_errors))
    assert few.distance > 9 * many.distance > 0


def test_moving_both_mixtures_changes_nothing():
    pair = mixture(), mixture(angle=0.8)
    moved = [(w, m + 100.0, S, name) for w, m, S, name in pair]
    assert np.allclose(stability_bounds(*pair, 500)[:3], stability_bounds(*moved, 500)[:3])


@pytest.mark.parametrize("unit", [2.0**-530, 2.0**-300, 2.0**300])
def test_errors_scale_with_the_unit_also_where_squares_of_variances_leave_the_range(unit):
    w, m, S, name = source = mixture()
    scaled = (w, unit * m, unit * S * unit, name)
    errors = stability_bounds(scaled, scaled, 500).source_errors
    expected = stability_bounds(source, source, 500).source_errors
    # variances of 1e-319 have three digits
    rtol = 1e-12 if unit > 2.0**-500 else 1e-2
    assert errors.weights == pytest.approx(expected.weights, rel=rtol)
    assert np.array(errors[1:]) / unit == pytest.approx(np.array(expected[1:]), rel=rtol)


@pytest.mark.parametrize(
    ("n_samples", "message"),
    [
        (0, "n_samples must be a positive integer, got 0"),
        (10.5, "n_samples must be a positive integer or a fitted mixture, got 10.5"),
        ((1, 2, 3), "one for each of the two mixtures, got 3"),
        (("5", 5), "got '5'"),
        ((([1.0], [[0.0]], [1.0], "spherical"), 5), "equal numbers of features"),
        ((([1.0], [[0.0, 0.0]], [[1.0, 1.0]], "diag"), 5), "components of its mixture, 3, got 1"),
    ],
)
def test_what_is_no_number_of_samples_is_refused(n_samples, message):
    with pytest.raises(ValueError, match=message):
        stability_bounds(mixture(), mixture(), n_samples)


def test_mixtures_whose_errors_are_not_to_be_expected_are_refused():
    low_rank = ([1.0], [[0.0, 0.0]], [[[1.0, 2.0], [0.0, 1.0]]], "lowrank")
    empty = ([1.0, 0.0], [[0.0, 0.0], [1.0, 0.0]], [1.0, 2.0], "spherical")
    with pytest.raises(ValueError, match=r"covariance_type must be .* got 'lowrank'. Pass two"):
        stability_bounds(low_rank, low_rank, 100)
    assert stability_bounds(low_rank, low_rank, (low_rank, low_rank)).distance == 0
    with pytest.raises(ValueError, match=r"weights must be positive .* component\(s\) \[1\]"):
        stability_bounds(empty, mixture(), 100)
