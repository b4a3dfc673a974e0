"""What is quantised is read in units of its size, wherever it is."""

import copy

import numpy as np
import pytest
from sklearn.base import clone

from skgmmot import GridDensity, WassersteinQuantizer

SQUARE = GridDensity(np.ones((8, 8)))


@pytest.fixture(scope="module")
def fitted_to_square():
    return WassersteinQuantizer(random_state=0).fit(SQUARE)


@pytest.mark.parametrize("masses", ["uniform", "free"])
@pytest.mark.parametrize("scale", [2.0**-480, 1e-8, 2.0**-30, 1e100, 2.0**490])
def test_small_and_large_samples_are_quantised_alike(blobs, masses, scale):
    quantizer = WassersteinQuantizer(6, masses=masses, init=blobs[:6], max_iter=20, tol=1e-2)
    expected = clone(quantizer).fit(blobs)
    quantizer.set_params(init=scale * blobs[:6]).fit(scale * blobs)
    assert np.array_equal(quantizer.labels_, expected.labels_)
    assert np.array_equal(quantizer.predict(scale * blobs), expected.labels_)
    assert np.allclose(quantizer.transform(scale * blobs) / scale, expected.transform(blobs))
    exact = np.log2(scale) % 1 == 0
    assert np.isclose(quantizer.distance_ / scale, expected.distance_, rtol=0 if exact else 1e-9)


@pytest.mark.parametrize("masses", ["uniform", "free"])
def test_samples_far_from_the_origin_in_any_order_are_quantised_alike(blobs, rng, masses):
    X = np.round(blobs[:103] * 2**20) / 2**20  # so that the offset below rounds nothing
    quantizer = WassersteinQuantizer(6, masses=masses, init=X[:6])
    near = clone(quantizer).fit(X)
    far = clone(quantizer).set_params(init=X[:6] + 2.0**30).fit(X + 2.0**30)
    assert np.array_equal(far.labels_, near.labels_)
    assert np.array_equal(far.predict(X + 2.0**30), near.labels_)
    assert np.isclose(far.distance_, near.distance_, rtol=1e-7)
    order = rng.permutation(len(X))
    assert np.array_equal(clone(quantizer).fit(X[order]).labels_, near.labels_[order])


@pytest.mark.parametrize("density", ["image", "plane", "line"])
def test_densities_of_any_size_anywhere_are_quantised_alike(density):
    def fit(scale, shift):
        if density == "image":
            X = GridDensity(np.ones((4, 4)), (shift, shift + scale, shift, shift + 2 * scale))
        else:
            means = np.array([[0.0, 1.0], [3.0, 0.0]])[:, : 1 + (density == "plane")]
            X = ([0.5, 0.5], scale * means + shift, np.full(means.shape, scale**2), "diag")
        return WassersteinQuantizer(5, random_state=0, tol=1e-2, n_nodes=64).fit(X)

    expected = fit(1.0, 0.0)
    for scale, shift in ((2.0**-400, 0.0), (2.0**400, 0.0), (1.0, 2.0**20)):
        found = fit(scale, shift)
        centres = (found.cluster_centers_ - shift) / scale
        assert np.allclose(centres, expected.cluster_centers_, rtol=0, atol=1e-7)
        assert np.isclose(found.distance_ / scale, expected.distance_, rtol=1e-9)


@pytest.mark.parametrize(
    ("options", "X", "message"),
    [
        ({"n_clusters": 5}, np.ones((3, 2)), "n_samples=3 should be >= n_clusters=5"),
        ({"init": np.ones(2)}, SQUARE, r"got shape \(2,\). Use init\[:, None\] if it holds one"),
        ({"init": np.ones((2, 3))}, SQUARE, r"init must be finite points of shape .* = \(8, 2\)"),
        (
            {"init": np.zeros((8, 2))},
            SQUARE,
            "init must be distinct points, got 1 different ones am",
        ),
        (
            {"init": np.eye(8)[:, :2] * 1e300 + np.arange(8)[:, None] * 1e298},
            np.eye(8)[:, :2] * 1e-100,
            r"init must be points of about the size of the density, .*, got one of size 1\.0e\+300",
        ),
        ({"init": "k-means++"}, SQUARE, "init must be 'random' or points for a density in the pl"),
        ({}, GridDensity(np.zeros((2, 2))), "must have a positive total, got all zeros"),
        ({}, np.eye(9) * 1e200, r"X must be smaller than 1\.3e\+151 for covariances"),
        ({}, np.eye(9) * 1e-200, r"X must be wider than 1e-150 for squared distances, got a width"),
        ({}, GridDensity(np.ones((2, 2)), (0, 1e200, 0, 1)), r"extent of a GridDensity must be sm"),
        ({}, ([1.0], [[0.0]], [[1e-310]], "diag"), r"X must be wider than 1e-150 for squared dis"),
    ],
)
def test_bad_input_is_refused_and_leaves_the_earlier_fit(fitted_to_square, options, X, message):
    quantizer = copy.deepcopy(fitted_to_square)
    before = quantizer.cluster_centers_
    with pytest.raises(ValueError, match=message):
        quantizer.set_params(**options).fit(X)
    assert quantizer.cluster_centers_ is before


def test_weights_beside_a_density_are_refused():
    with pytest.raises(ValueError, match="sample_weight must be None beside a density"):
        WassersteinQuantizer().fit(SQUARE, sample_weight=[1.0])


def test_a_picture_that_is_no_density_is_told_how_to_be_one():
    picture = np.random.default_rng(0).uniform(size=(20, 16))
    quantizer = WassersteinQuantizer(2, random_state=0)
    with pytest.warns(UserWarning, match=r"X of shape \(20, 16\) is taken as 20 samples of 16"):
        quantizer.fit(picture)
    assert quantizer.fit(picture, sample_weight=1.0).cluster_centers_.shape == (2, 16)
    assert quantizer.fit(GridDensity(picture)).cluster_centers_.shape == (2, 2)
    quantizer.fit(picture - 1)  # warnings are errors here
