"""Densities, ellipses and contours where the mixture is."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.base import is_regressor
from sklearn.exceptions import NotFittedError
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skgmmot import (
    DifferentiableGaussianMixture,
    GaussianMixtureSearch,
    MixtureImputer,
    MixtureRegressor,
    StudentMixture,
)
from skgmmot.functional import GaussianMixtureParams
from skgmmot.plotting import FitTraceDisplay, GaussianMixtureDisplay


def test_ellipses_have_axes_of_that_many_deviations():
    mixture = ([1.0], [[1.0, 2.0]], [[[4.0, 0.0], [0.0, 9.0]]])
    display = GaussianMixtureDisplay.from_estimator(mixture, n_std=2)
    (ellipse,) = display.ax_.patches
    assert np.allclose(ellipse.get_xy().min(0), [1 - 4, 2 - 6], atol=0.02)
    assert np.allclose(ellipse.get_xy().max(0), [1 + 4, 2 + 6], atol=0.02)


def test_three_features_are_drawn_as_ellipsoids_in_the_given_axes():
    ax = plt.figure().add_subplot(projection="3d")
    mixture = ([0.5, 0.5], np.eye(2, 3), np.stack([np.eye(3)] * 2))
    display = GaussianMixtureDisplay.from_estimator(mixture, ax=ax, colors=["r", "g"])
    assert display.ax_ is ax
    assert len(ax.collections) == 2


@pytest.mark.parametrize(
    "estimator",
    [
        MixtureRegressor(random_state=0),
        MixtureImputer(n_components=2, random_state=0),
        GaussianMixtureSearch((1, 2), "diag", random_state=0),
        GridSearchCV(DifferentiableGaussianMixture(random_state=0), {"n_components": [1, 2]}),
    ],
)
def test_estimators_with_a_mixture_inside_show_it(estimator, rng):
    X = np.vstack([rng.normal(c, 1, size=(30, 2)) for c in (0, 6)])
    fitted = estimator.fit(X[:, :1], X[:, 1]) if is_regressor(estimator) else estimator.fit(X)
    inside = getattr(fitted, "mixture_", getattr(fitted, "best_estimator_", None))
    display = GaussianMixtureDisplay.from_estimator(fitted, X)
    assert np.array_equal(display.means, inside.means_)
    assert np.array_equal(FitTraceDisplay.from_estimator(fitted).lower_bounds, inside.lower_bounds_)


def test_a_pipeline_is_refused_since_its_features_are_others(rng):
    pipeline = make_pipeline(StandardScaler(), DifferentiableGaussianMixture())
    pipeline.fit(X := rng.normal(size=(20, 2)))
    for draw in (GaussianMixtureDisplay.from_estimator, FitTraceDisplay.from_estimator):
        with pytest.raises(TypeError, match=r"must not be a pipeline, .* Pass pipeline\[-1\]"):
            draw(pipeline)
    GaussianMixtureDisplay.from_estimator(pipeline[-1], pipeline[:-1].transform(X))


def test_features_are_chosen(rng):
    A = rng.normal(size=(2, 4, 4))
    mixture = ([0.5, 0.5], rng.normal(size=(2, 4)), A @ A.mT)
    display = GaussianMixtureDisplay.from_estimator(mixture, features=(3, 1))
    assert np.array_equal(display.means, mixture[1][:, [3, 1]])
    assert np.allclose(display.covariances[1], (A @ A.mT)[1][np.ix_([3, 1], [3, 1])])
    with pytest.raises(ValueError, match=r"features must be numbers from -4 to 3 .* got \[9\]"):
        GaussianMixtureDisplay.from_estimator(mixture, features=(0, 9))
    with pytest.raises(ValueError, match="colors must be one for each of 2 components, got 1"):
        GaussianMixtureDisplay.from_estimator(mixture, features=(0, 1), colors=["r"])
    with pytest.raises(ValueError, match="ax must have 3 axes for 3 features"):
        flat = plt.figure().add_subplot()
        GaussianMixtureDisplay.from_estimator(mixture, features=(0, 1, 2), ax=flat)


MIXTURE = ([0.25, 0.75], [[0.0, 1.0], [4.0, 1.0]], [[[1.0, 0.5], [0.5, 1.0]], [[0.25, 0], [0, 4]]])


def test_one_feature_is_drawn_as_the_density_and_those_of_the_components():
    display = GaussianMixtureDisplay.from_estimator(MIXTURE, features=0)
    total, *parts = display.ax_.lines
    x = total.get_xdata()
    expected = [0.25 * norm.pdf(x, 0, 1), 0.75 * norm.pdf(x, 4, 0.5)]
    assert np.allclose([part.get_ydata() for part in parts], expected)
    assert np.allclose(total.get_ydata(), sum(expected))
    assert np.trapezoid(total.get_ydata(), x) == pytest.approx(1, abs=1e-3)  # tails beyond 4 std
    assert display.ax_.get_xlabel() == "feature 0"
    assert display.figure_ is display.ax_.figure


def test_contours_hold_their_shares_of_the_mass(rng):
    one = ([1.0], [[1.0, 2.0]], [[[4.0, 1.0], [1.0, 9.0]]])
    ax = GaussianMixtureDisplay.from_estimator(one, kind="contours").ax_
    levels = ax.collections[0].levels
    # the density at the edge of the region of mass p is (1 - p) times the largest
    largest = 1 / (2 * np.pi * np.sqrt(35))
    assert np.allclose(levels / largest, 1 - np.array([0.95, 0.8, 0.6, 0.4, 0.2]), atol=0.02)


def test_more_features_are_a_grid_of_pairs_with_names(fitted, frame):
    display = GaussianMixtureDisplay.from_estimator(fitted, frame)
    assert display.ax_.shape == (4, 4)
    below = np.tril(np.ones((4, 4), bool))
    assert [ax.get_visible() for ax in display.ax_.ravel()] == below.ravel().tolist()
    assert [ax.get_xlabel() for ax in display.ax_[3]] == list(frame.columns)
    assert [len(ax.patches) for ax in display.ax_[2]][:2] == [2, 2]
    assert np.allclose(display.X, frame)
    for bad in (plt.figure().add_subplot(), plt.figure().subplots(2, 2)):
        with pytest.raises(ValueError, match=r"ax must be an array of Axes of shape \(4, 4\)"):
            GaussianMixtureDisplay.from_estimator(fitted, ax=bad)


def test_features_are_chosen_by_name(fitted, frame):
    display = GaussianMixtureDisplay.from_estimator(fitted, frame, features=["depth", "width"])
    assert (display.ax_.get_xlabel(), display.ax_.get_ylabel()) == ("depth", "width")
    assert np.array_equal(display.means, fitted.means_[:, [2, 0]])
    assert np.allclose(display.X, frame[["depth", "width"]])
    assert np.array_equal(display.labels, fitted.predict(frame))
    with pytest.raises(ValueError, match=r"features must be among .* got \['hight'\]"):
        GaussianMixtureDisplay.from_estimator(fitted, features=["hight", "width"])


@pytest.mark.parametrize("as_given", [np.asarray, torch.tensor, np.ndarray.tolist])
def test_samples_have_the_colour_of_their_component(as_given):
    X = np.array([[0.0, 1.0], [4.0, 1.0], [0.5, 1.5]])
    display = GaussianMixtureDisplay.from_estimator(MIXTURE, as_given(X), colors=["red", "blue"])
    assert display.labels.tolist() == [0, 1, 0]
    red, blue = display.ax_.collections
    assert np.allclose(red.get_offsets(), X[[0, 2]])
    assert np.allclose(blue.get_facecolor()[0, :3], [0, 0, 1])


def test_noise_is_grey_and_many_samples_are_thinned(rng):
    X = np.vstack([rng.normal(size=(80, 2)), [[40.0, 40.0], [-40.0, 30.0]]])
    mixture = DifferentiableGaussianMixture(1, noise="uniform").fit(X)
    display = GaussianMixtureDisplay.from_estimator(mixture, X)
    assert (display.labels[-2:] == -1).all()
    noise = display.ax_.collections[-1]
    assert np.array_equal(noise.get_offsets(), X[display.labels == -1])
    assert len(GaussianMixtureDisplay.from_estimator(mixture, X, max_samples=10).X) == 10
    in_one = GaussianMixtureDisplay.from_estimator(mixture, X, features=1)
    assert len(in_one.ax_.lines[0].get_xdata()) == (display.labels == -1).sum()


def test_noise_of_a_mixture_as_a_value_is_grey():
    means = torch.tensor([[0.0, 0.0], [3.0, 0.0]])
    value = GaussianMixtureParams(torch.full((2,), 0.5), means, torch.ones(2, 2), "diag")
    X = [[0.0, 0.0], [3.0, 0.5], [20.0, 0.0]]
    display = GaussianMixtureDisplay.from_estimator(value.with_noise(0.2, -8.0), X)
    assert display.labels.tolist() == [0, 1, -1]
    assert np.allclose(display.weights, 0.5)


def test_low_rank_in_many_features_is_drawn_without_large_matrices(rng):
    d = 20_000  # a matrix of these takes 3 GB
    mixture = ([1.0], np.zeros((1, d)), np.ones((1, d, 2)), "lowrank")
    display = GaussianMixtureDisplay.from_estimator(mixture, features=(5, 0))
    assert np.allclose(display.covariances, [[2, 1], [1, 2]])
    with pytest.raises(ValueError, match=r"at most 8 features to be drawn in all.* got 20000"):
        GaussianMixtureDisplay.from_estimator(mixture)


def test_scikit_learns_mixtures_are_drawn(frame):
    mixture = GaussianMixture(2, covariance_type="tied", random_state=0).fit(frame)
    display = GaussianMixtureDisplay.from_estimator(mixture, frame, features=["age", "width"])
    assert len(display.ax_.patches) == 2
    assert np.allclose(display.covariances[1], mixture.covariances_[np.ix_([3, 0], [3, 0])])


def test_other_estimators_and_pictures_are_refused(frame, fitted):
    draw = GaussianMixtureDisplay.from_estimator
    with pytest.raises(NotFittedError):
        draw(GaussianMixture())
    with pytest.raises(TypeError, match="must be a fitted mixture estimator"):
        draw(frame)
    with pytest.raises(ValueError, match=r"kind must be one of \['ellipses', 'contours'\]"):
        draw(MIXTURE, kind="lines")
    with pytest.raises(ValueError, match="kind must be 'ellipses' for three features"):
        draw(fitted, features=(0, 1, 2), kind="contours")
    with pytest.raises(ValueError, match=r"X must have shape \(n_samples, 2\)"):
        draw(MIXTURE, np.zeros((3, 4)))
    with pytest.raises(ValueError, match="X must be finite, got NaN"):
        draw(MIXTURE, [[0.0, np.nan]])
    with pytest.raises(ValueError, match="positive definite"):
        draw(([1.0], [[0.0, 0.0]], [[[1.0, 1.0], [1.0, 1.0]]]), kind="contours")


def test_other_components_have_ellipses_and_no_gaussian_densities(frame):
    mixture = StudentMixture(1, degrees_of_freedom=5.0, tol=1e-2).fit(frame)
    draw = GaussianMixtureDisplay.from_estimator
    variances = draw(mixture, features=(0, 1)).covariances[0].diagonal()
    assert np.allclose(variances, mixture.covariances_[0].diagonal()[:2] * 5 / 3)
    with pytest.raises(TypeError, match="must be of Gaussians for densities"):
        draw(mixture, features=0)
