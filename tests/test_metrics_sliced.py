"""Sliced distances as users call them."""

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV

from skgmmot import DifferentiableGaussianMixture, MixtureWasserstein
from skgmmot.metrics import (
    get_scorer,
    sliced_mixture_wasserstein,
    sliced_wasserstein_distance,
    sliced_wasserstein_scorer,
)

METHODS = ["msw", "dsmw"]
SOURCE = (np.array([0.3, 0.7]), np.array([[0.0, 1.0], [3.0, 0.0]]), np.ones(2) / 2, "spherical")
    np.array([0.3, 0.7]),
    np.array([[0.0, 1.0], [3.0, 0.0]]),
    np.array([1.0, 0.5]),
    "spherical",
)
TARGET = (np.array([1.0]), np.array([[2.0, -1.0]]), np.array([[2.0, 0.3]]), "diag")


def test_one_component_moved_is_seen_in_every_direction_by_its_cosine():
    moved = ([1.0], [[2.0, 0.0]], [[2.0, 0.3]], "diag")
    still = ([1.0], [[0.0, 0.0]], [[2.0, 0.3]], "diag")
    assert sliced_mixture_wasserstein(still, moved, squared=True) == pytest.approx(2.0)  # 4 / d


@pytest.mark.parametrize("method", METHODS)
def test_equal_and_permuted_mixtures_are_at_distance_zero(method):
    permuted = (*(np.asarray(part)[::-1] for part in SOURCE[:3]), "spherical")
    assert sliced_mixture_wasserstein(SOURCE, permuted, method=method) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_it_is_symmetric_and_the_square_of_its_root(method):
    value = sliced_mixture_wasserstein(SOURCE, TARGET, method=method)
    assert value == pytest.approx(sliced_mixture_wasserstein(TARGET, SOURCE, method=method))
    square = sliced_mixture_wasserstein(SOURCE, TARGET, method=method, squared=True)
    assert value**2 == pytest.approx(square)


def test_slices_see_no_more_than_mw2():
    assert sliced_mixture_wasserstein(SOURCE, TARGET) < MixtureWasserstein()(SOURCE, TARGET)


@pytest.mark.parametrize("method", METHODS)
def test_gradients_are_those_of_finite_differences(method):
    means = torch.tensor(SOURCE[1], requires_grad=True)
    variances = torch.tensor(SOURCE[2], requires_grad=True)

    def distance(means, variances):
        source = (torch.tensor(SOURCE[0]), means, variances, "spherical")
        return sliced_mixture_wasserstein(source, TARGET, method=method)

    assert torch.autograd.gradcheck(distance, (means, variances))


def test_a_standard_normal_is_its_spread_from_the_origin():
    standard = ([1.0], [[0.0, 0.0]], [1.0], "spherical")
    assert sliced_wasserstein_distance(standard, np.zeros((3, 2))) == pytest.approx(1.0, rel=1e-4)
    first = sliced_wasserstein_distance(standard, np.zeros((3, 2)), p=1)
    assert first == pytest.approx(np.sqrt(2 / np.pi), rel=1e-4)


def test_weights_count_as_repeats(rng):
    X = rng.normal(size=(20, 2))
    times = rng.integers(0, 3, size=20)
    weighted = sliced_wasserstein_distance(SOURCE, X, times)
    assert weighted == pytest.approx(sliced_wasserstein_distance(SOURCE, X.repeat(times, axis=0)))


def test_tensors_come_back_as_tensors_with_a_gradient(rng):
    X = torch.tensor(rng.normal(size=(30, 2)), requires_grad=True)
    sliced_wasserstein_distance(SOURCE, X).backward()
    assert torch.isfinite(X.grad).all()
    assert X.grad.abs().sum() > 0


def test_the_scorer_chooses_components_in_a_search(rng):
    X = np.vstack([rng.normal(size=(100, 2)), 8 + rng.normal(size=(100, 2))])
    grid = {"n_components": [1, 2]}
    search = GridSearchCV(
        DifferentiableGaussianMixture(random_state=0),
        grid,
        scoring=get_scorer("sliced_wasserstein"),
    )
    assert search.fit(rng.permutation(X)).best_params_ == {"n_components": 2}


def test_an_unfitted_estimator_has_no_score(rng):
    with pytest.raises(NotFittedError):
        sliced_wasserstein_scorer(DifferentiableGaussianMixture(), rng.normal(size=(5, 2)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_projections": 0}, "n_projections must be a positive integer, got 0"),
        ({"n_projections": 2.5}, "n_projections must be a positive integer, got 2.5"),
        ({"method": "sw"}, "method must be 'msw' or 'dsmw', got 'sw'"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        sliced_mixture_wasserstein(SOURCE, TARGET, **options)


@pytest.mark.parametrize("p", [0.5, float("nan"), float("inf"), "2"])
def test_bad_exponents_are_refused(p):
    with pytest.raises(ValueError, match="p must be a finite number of at least 1"):
        sliced_wasserstein_distance(SOURCE, np.zeros((3, 2)), p=p)


def test_bad_samples_are_refused():
    with pytest.raises(ValueError, match=r"X must have shape \(n_samples, 2\), .* got \(3, 1\)"):
        sliced_wasserstein_distance(SOURCE, np.zeros((3, 1)))
    with pytest.raises(ValueError, match="X must be finite, got NaN or infinity"):
        sliced_wasserstein_distance(SOURCE, np.array([[0.0, np.nan]]))


def test_mixtures_of_different_dimensions_are_refused():
    line = ([1.0], [[0.0]], [1.0], "spherical")
    with pytest.raises(ValueError, match="source and target must have equal numbers of features"):
        sliced_mixture_wasserstein(SOURCE, line)
