"""Displays: ellipses where the mixture is."""

import matplotlib as mpl
import numpy as np
import pytest

mpl.use("agg")
import matplotlib.pyplot as plt

from skgmmot.plotting import GaussianMixtureDisplay


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


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


def test_features_are_chosen(rng):
    A = rng.normal(size=(2, 4, 4))
    mixture = ([0.5, 0.5], rng.normal(size=(2, 4)), A @ A.mT)
    display = GaussianMixtureDisplay.from_estimator(mixture, features=(3, 1))
    assert np.array_equal(display.means, mixture[1][:, [3, 1]])
    assert np.allclose(display.covariances[1], (A @ A.mT)[1][np.ix_([3, 1], [3, 1])])
    with pytest.raises(ValueError, match="drawn in 2 or 3 features, got 4"):
        GaussianMixtureDisplay.from_estimator(mixture)
    with pytest.raises(ValueError, match=r"features must be from 0 to 3, got \[0, 9\]"):
        GaussianMixtureDisplay.from_estimator(mixture, features=(0, 9))
    with pytest.raises(ValueError, match="colors must be one for each of 2 components, got 1"):
        GaussianMixtureDisplay.from_estimator(mixture, features=(0, 1), colors=["r"])
    with pytest.raises(ValueError, match="ax must have 3 axes for 3 features"):
        flat = plt.figure().add_subplot()
        GaussianMixtureDisplay.from_estimator(mixture, features=(0, 1, 2), ax=flat)
