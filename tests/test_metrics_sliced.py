"""Sliced distances and their scorer: mixtures, estimators and samples in, numbers out."""

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skgmmot import DifferentiableGaussianMixture, MixtureWasserstein, SlicedWassersteinGMM
from skgmmot.metrics import (
    get_scorer,
    sliced_mixture_wasserstein,
    sliced_wasserstein_distance,
    sliced_wasserstein_scorer,
)

BALL = ([1.0], [[0.0, 0.0]], [1.0], "spherical")
TWO = ([0.25, 0.75], [[0.0, 0.0], [4.0, 1.0]], [[1.0, 1.0], [4.0, 0.5]], "diag")


# --- the sliced distance -----------------------------------------------------------------------


def test_a_ball_and_a_point_are_a_closed_form():
    # E <theta, x>^2 + 1 = |x|^2 / 2 + 1 in the plane
    for exact in (False, True):
        found = sliced_wasserstein_distance(BALL, [[3.0, 4.0]], exact=exact)
        assert abs(found**2 - 13.5) < 1e-6


def test_distances_to_mixtures_are_near_those_to_their_samples():
    mixture = DifferentiableGaussianMixture()
    mixture.fit(np.random.default_rng(0).normal(size=(50, 2)))
    sampler = GaussianMixture(2, covariance_type="diag", random_state=0)
    X = np.random.default_rng(1).normal(size=(300, 2)) * [1, 3] + [2, 0]
    sampler.fit(X)
    drawn, _ = sampler.sample(50_000)
    found = sliced_wasserstein_distance(mixture, sampler)
    assert abs(sliced_wasserstein_distance(mixture, drawn) / found - 1) < 0.02


def test_the_distance_is_symmetric_and_zero_on_equal_mixtures():
    assert sliced_wasserstein_distance(TWO, TWO) == 0
    there, back = sliced_wasserstein_distance(BALL, TWO), sliced_wasserstein_distance(TWO, BALL)
    assert abs(there - back) < 1e-6 * there


@pytest.mark.parametrize("p", [1, 1.5, 3])
def test_larger_exponents_give_larger_distances(p):
    distances = [sliced_wasserstein_distance(BALL, TWO, p=q) for q in (p, p + 0.5)]
    assert distances[0] < distances[1]


def test_the_largest_distance_is_above_the_mean_and_below_w2():
    mean = sliced_wasserstein_distance(BALL, TWO)
    largest = sliced_wasserstein_distance(BALL, TWO, projections="max", n_projections=5)
    assert mean < largest < MixtureWasserstein()(BALL, TWO)
    shift = ([1.0], [[3.0, 4.0]], [1.0], "spherical")
    assert abs(sliced_wasserstein_distance(BALL, shift, projections="max") - 5) < 1e-4


def test_sample_weights_are_repeated_samples(rng):
    X, a = rng.normal(size=(6, 2)), np.array([1, 2, 0, 3, 1, 1])
    weighted = sliced_wasserstein_distance(TWO, X, sample_weight=a)
    assert abs(weighted - sliced_wasserstein_distance(TWO, np.repeat(X, a, axis=0))) < 1e-7


def test_tensors_give_tensors_with_gradients(rng):
    X = torch.tensor(rng.normal(size=(20, 2)), requires_grad=True)
    means = torch.tensor([[0.0, 0.0], [2.0, 1.0]], dtype=torch.float64, requires_grad=True)
    mixture = (torch.tensor([0.5, 0.5]), means, torch.ones(2, 1, dtype=torch.float64), "spherical")
    sliced_wasserstein_distance(mixture, X).backward()
    # moving everything changes nothing
    assert torch.allclose(X.grad.sum(0), -means.grad.sum(0), atol=1e-6)
    assert isinstance(sliced_wasserstein_distance(BALL, X.detach().numpy()), float)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"p": 0.5}, "p must be a number of at least 1, got 0.5"),
        ({"n_projections": 0}, "n_projections must be a positive integer, got 0"),
        ({"projections": "spiral"}, "projections must be one of .* got 'spiral'"),
        ({"p": 3, "exact": True}, "p must be 1 or 2 where cells are exact, got 3"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        sliced_wasserstein_distance(BALL, [[1.0, 2.0]], **options)


def test_sides_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="equal numbers of features, got 2 and 1"):
        sliced_wasserstein_distance(BALL, ([1.0], [[0.0]], [[1.0]], "diag"))
    with pytest.raises(ValueError, match=r"points must have shape \(n_points, 2\)"):
        sliced_wasserstein_distance(BALL, [[1.0, 2.0, 3.0]])
    with pytest.raises(ValueError, match="points must be finite"):
        sliced_wasserstein_distance(BALL, [[1.0, np.nan]])
    with pytest.raises(NotFittedError):
        sliced_wasserstein_distance(SlicedWassersteinGMM(), [[1.0, 2.0]])


# --- MSW and DSMW ------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["msw", "dsmw"])
def test_sliced_mixture_distances_are_distances(method):
    three = ([0.5, 0.5], [[9.0, 0.0], [0.0, 9.0]], [1.0, 2.0], "spherical")
    mixtures = [BALL, TWO, three]
    D = np.array(
        [[sliced_mixture_wasserstein(a, b, method=method) for b in mixtures] for a in mixtures]
    )
    assert np.allclose(D, D.T) and np.allclose(np.diag(D), 0, atol=1e-7)
    assert (D[0, 2] <= D[0, 1] + D[1, 2]) and (D[np.triu_indices(3, 1)] > 0).all()
    squared = sliced_mixture_wasserstein(BALL, TWO, method=method, squared=True)
    assert np.isclose(squared, D[0, 1] ** 2)


def test_msw_is_below_mw2_and_of_one_component_the_sliced_distance():
    other = ([1.0], [[1.0, 2.0]], [[4.0, 0.5]], "diag")
    assert sliced_mixture_wasserstein(BALL, TWO) < MixtureWasserstein()(BALL, TWO)
    found = sliced_mixture_wasserstein(BALL, other)
    assert abs(found - sliced_wasserstein_distance(BALL, other)) < 1e-5


def test_unknown_methods_and_other_dimensions_are_refused():
    with pytest.raises(ValueError, match="method must be 'msw' or 'dsmw', got 'mw'"):
        sliced_mixture_wasserstein(BALL, TWO, method="mw")
    with pytest.raises(ValueError, match="n_projections must be a positive integer"):
        sliced_mixture_wasserstein(BALL, TWO, n_projections=0)
    with pytest.raises(ValueError, match="equal numbers of features, got 2 and 1"):
        sliced_mixture_wasserstein(BALL, ([1.0], [[0.0]], [[1.0]], "diag"))


# --- the scorer --------------------------------------------------------------------------------


def test_the_scorer_chooses_the_number_of_components(rng):
    centres = np.array([[0, 0], [9, 0], [0, 9]])
    X = centres[rng.integers(3, size=300)] + rng.normal(size=(300, 2))
    pipeline = make_pipeline(StandardScaler(), DifferentiableGaussianMixture(random_state=0))
    search = GridSearchCV(
        pipeline,
        {"differentiablegaussianmixture__n_components": [1, 2, 3]},
        scoring=sliced_wasserstein_scorer,
        cv=3,
    ).fit(X)
    assert search.best_params_ == {"differentiablegaussianmixture__n_components": 3}


def test_the_scorer_is_minus_the_distance_and_has_a_name(rng):
    X = rng.normal(size=(50, 2))
    mixture = GaussianMixture(random_state=0).fit(X)
    assert get_scorer("sliced_wasserstein") is sliced_wasserstein_scorer
    assert sliced_wasserstein_scorer(mixture, X) == -sliced_wasserstein_distance(mixture, X)
    with pytest.raises(NotFittedError):
        sliced_wasserstein_scorer(GaussianMixture(), X)
