"""Samples before and after a map."""

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.dummy import DummyClassifier
from sklearn.exceptions import NotFittedError
from sklearn.mixture import GaussianMixture

from skgmmot import AdaptedClassifier, OTMap
from skgmmot.plotting import TransportMapDisplay


@pytest.fixture(scope="module")
def ot_map(fitted):
    return OTMap(fitted).fit(fitted)


def test_arrows_lead_from_samples_to_their_images(rng):
    X = rng.normal(size=(40, 2))
    one = ([1.0], [[0.0, 0.0]], [1.0], "spherical")
    ot_map = OTMap(([1.0], [[5.0, 1.0]], [4.0], "spherical")).fit(one)
    display = TransportMapDisplay.from_estimator(ot_map, X, n_arrows=10)
    before, after, arrows = display.ax_.collections
    assert np.allclose(before.get_offsets(), X)
    assert np.allclose(after.get_offsets(), [5, 1] + 2 * X)
    assert arrows.N == 10
    assert np.allclose(arrows.U[0], 5 + X[0, 0])
    texts = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert texts == ["before", "after"]
    few = TransportMapDisplay.from_estimator(ot_map, X, max_samples=7, n_arrows=0)
    assert len(few.before) == 7 and len(few.ax_.collections) == 2


def test_the_map_of_an_adapted_classifier_is_drawn(frame, fitted):
    y = (frame["age"] > 3).astype(int)
    adapted = AdaptedClassifier(OTMap(fitted, n_components=2), DummyClassifier()).fit(frame, y)
    display = TransportMapDisplay.from_estimator(adapted, frame, features=["age", "width"])
    assert display.ax_.get_xlabel() == "age"
    images = adapted.ot_map_.transform(frame.to_numpy())
    assert np.array_equal(display.after, images[:, [3, 0]])


def test_features_are_chosen_by_name(ot_map, frame):
    display = TransportMapDisplay.from_estimator(ot_map, frame, features=["age", "width"])
    assert (display.ax_.get_xlabel(), display.ax_.get_ylabel()) == ("age", "width")
    assert np.allclose(display.after, frame[["age", "width"]], atol=1e-8)  # onto itself


def test_what_is_no_map_of_samples_is_refused(ot_map, frame):
    draw = TransportMapDisplay.from_estimator
    with pytest.raises(TypeError, match="ot_map must have transform, got GaussianMixture"):
        draw(GaussianMixture(), frame)
    with pytest.raises(NotFittedError):
        draw(OTMap(), frame)
    with pytest.raises(ValueError, match="features must be two for this picture, got 4 of 4"):
        draw(ot_map, frame)
    with pytest.raises(ValueError, match=r"images must have the shape of the samples, \(60, 4\)"):
        draw(PCA(2).fit(frame), frame, features=(0, 1))
    with pytest.raises(ValueError, match="images must have the shape of the samples"):
        draw(KMeans(3, n_init=1).fit(frame), frame, features=(0, 1))
