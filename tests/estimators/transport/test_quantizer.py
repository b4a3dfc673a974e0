"""WassersteinQuantizer: samples, images and mixtures in, points out."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skgmmot import (
    DifferentiableGaussianMixture,
    GridDensity,
    WassersteinQuantizer,
    semidiscrete_distance,
)

SQUARE = GridDensity(np.ones((8, 8)))
MIXTURE = ([0.5, 0.5], [[0.0, 0.0], [6.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]], "diag")


def test_points_of_equal_mass_share_an_image_equally(random_seed):
    quantizer = WassersteinQuantizer(16, random_state=random_seed, tol=1e-3).fit(SQUARE)
    assert np.allclose(quantizer.masses_, 1 / 16)
    assert quantizer.converged_ and quantizer.n_iter_ > 1
    expected = semidiscrete_distance(SQUARE, quantizer.cluster_centers_)
    assert np.isclose(quantizer.distance_, expected)
    grid = np.random.default_rng(random_seed).random((20_000, 2))
    counts = np.bincount(quantizer.predict(grid), minlength=16) / 20_000
    assert np.abs(counts - 1 / 16).max() < 0.01
    # hexagons: the distance of the best n points is about sqrt(0.1604 / n) (areas of one)
    assert 0.1604 < 16 * quantizer.distance_**2 < 0.18
    assert not hasattr(quantizer, "labels_")


def test_points_in_a_periodic_box_are_those_of_all_its_repetitions():
    box = GridDensity(np.ones((1, 1)), extent=(1, 3, 0, 1), periodic=True)
    quantizer = WassersteinQuantizer(8, random_state=0, tol=1e-3).fit(box)
    centres = quantizer.cluster_centers_
    assert (centres >= [1, 0]).all() and (centres < [3, 1]).all()
    assert np.isclose(quantizer.distance_, semidiscrete_distance(box, centres))
    again = centres + np.array([4, -3])
    assert np.array_equal(quantizer.predict(again), np.arange(8))
    assert np.allclose(np.diag(quantizer.transform(again)), 0, atol=1e-12)
    assert quantizer.transform(np.random.default_rng(0).random((50, 2))).max() <= 1.25**0.5
    assert pickle.loads(pickle.dumps(quantizer)).periodic_extent_ == (1, 3, 0, 1)
    assert not hasattr(quantizer.fit(box._replace(periodic=False)), "periodic_extent_")


def test_a_cube_is_quantised_by_its_octants():
    start = np.array(list(np.ndindex(2, 2, 2))) / 2 + 0.2
    for periodic in (False, True):
        cube = GridDensity(np.ones((1, 1, 1)), periodic=periodic)
        quantizer = WassersteinQuantizer(8, init=start, tol=1e-9).fit(cube)
        assert np.isclose(quantizer.distance_**2, 3 / 12 / 4)
        assert np.array_equal(quantizer.predict(start), np.arange(8))
    drawn = WassersteinQuantizer(3, random_state=0, tol=0.1).fit(cube)
    assert drawn.cluster_centers_.shape == (3, 3)


def test_free_masses_of_samples_are_those_of_k_means(blobs):
    quantizer = WassersteinQuantizer(4, masses="free", init=blobs[:4], tol=1e-9).fit(blobs)
    kmeans = KMeans(4, init=blobs[:4], n_init=1, tol=0).fit(blobs)
    assert np.allclose(quantizer.cluster_centers_, kmeans.cluster_centers_)
    assert np.array_equal(quantizer.labels_, kmeans.labels_)
    assert np.isclose(len(blobs) * quantizer.distance_**2, kmeans.inertia_)
    assert np.array_equal(quantizer.fit_predict(blobs), kmeans.labels_)
    assert np.allclose(quantizer.transform(blobs), kmeans.transform(blobs))
    assert quantizer.get_feature_names_out()[0] == "wassersteinquantizer0"


def test_equal_masses_of_samples_balance_the_clusters(blobs):
    quantizer = WassersteinQuantizer(6, init="k-means++", random_state=0).fit(blobs)
    assert (np.bincount(quantizer.labels_) == 100).all()
    assert np.array_equal(quantizer.predict(blobs), quantizer.labels_)
    assert np.allclose(quantizer.masses_, 1 / 6)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_labels_are_those_of_the_plan_and_of_predict_where_samples_are_split(rng, dtype):
    for n, n_clusters in ((103, 50), (40, 7), (11, 10)):
        X = rng.normal(size=(n, 2)).astype(dtype)
        quantizer = WassersteinQuantizer(n_clusters, random_state=0).fit(X)
        assert set(np.bincount(quantizer.labels_)) == {n // n_clusters, n // n_clusters + 1}
        assert np.array_equal(quantizer.predict(X), quantizer.labels_)


def test_samples_of_no_weight_are_labelled_by_their_cells(rng):
    X, weights = rng.normal(size=(50, 2)), rng.integers(0, 3, size=50) * 1e-3
    quantizer = WassersteinQuantizer(4, random_state=0).fit(X, sample_weight=weights)
    assert len(np.unique(quantizer.labels_)) == 4
    assert np.array_equal(quantizer.labels_, quantizer.predict(X))
    masses = np.bincount(quantizer.labels_, weights / weights.sum())
    assert np.abs(masses - 0.25).max() < weights.max() / weights.sum()


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


@pytest.mark.parametrize("masses", ["uniform", "free"])
def test_a_mixture_is_quantised_in_the_plane_and_elsewhere(masses):
    quantizer = WassersteinQuantizer(6, masses=masses, random_state=0)
    plane = clone(quantizer).fit(MIXTURE)
    if masses == "uniform":  # three points a component
        assert (plane.cluster_centers_[:, 0] > 3).sum() == 3
    line = clone(quantizer).fit(([0.5, 0.5], [[0.0], [6.0]], [1.0, 1.0], "spherical"))
    assert line.cluster_centers_.shape == (6, 1)
    assert np.allclose(line.masses_.sum(), 1)
    fitted = DifferentiableGaussianMixture(2, random_state=0).fit(plane.cluster_centers_)
    assert clone(quantizer).set_params(max_iter=200).fit(fitted).converged_


def test_a_mixture_in_the_plane_is_integrated_exactly():
    # the half planes of a standard normal distribution have their means at sqrt(2 / pi)
    normal = ([1.0], [[0.0, 0.0]], [1.0], "spherical")
    quantizer = WassersteinQuantizer(2, random_state=0, tol=1e-10, n_nodes=16).fit(normal)
    lengths = np.linalg.norm(quantizer.cluster_centers_, axis=1)
    assert np.allclose(lengths, np.sqrt(2 / np.pi), rtol=1e-6)
    assert np.isclose(quantizer.distance_**2, 2 - 2 / np.pi, rtol=1e-9)


def test_weights_of_samples_count(rng):
    X = np.array([[0.0], [1.0], [10.0], [11.0]])
    quantizer = WassersteinQuantizer(1).fit(X, sample_weight=[1, 1, 0, 0])
    assert np.allclose(quantizer.cluster_centers_, 0.5)


def test_kind_and_dtype_are_those_of_the_samples(blobs):
    X = torch.tensor(blobs, dtype=torch.float32)
    quantizer = WassersteinQuantizer(3, random_state=0).fit(X)
    assert quantizer.cluster_centers_.dtype == quantizer.transform(X).dtype == np.float32
    quantizer.fit(X.requires_grad_())
    assert quantizer.cluster_centers_.dtype == torch.float32
    assert isinstance(quantizer.labels_, torch.Tensor)
    assert quantizer.transform(X.detach()).dtype == torch.float32
    for on_graph, kind in ((False, np.ndarray), (True, torch.Tensor)):
        image = GridDensity(torch.ones(4, 4, requires_grad=on_graph))
        assert isinstance(WassersteinQuantizer(2).fit(image).cluster_centers_, kind)


def test_it_goes_into_pipelines_and_pickles(blobs):
    pipeline = make_pipeline(StandardScaler(), WassersteinQuantizer(3, random_state=0))
    labels = pipeline.fit_predict(blobs)
    assert np.array_equal(pickle.loads(pickle.dumps(pipeline)).predict(blobs), labels)


def test_a_seed_repeats_the_fit(blobs):
    first, second = (WassersteinQuantizer(3, random_state=1).fit(blobs) for _ in range(2))
    assert np.array_equal(first.cluster_centers_, second.cluster_centers_)


@pytest.mark.parametrize("masses", ["uniform", "free"])
@pytest.mark.parametrize("kind", ["samples", "float32", "image", "mixture", "nodes"])
def test_errors_are_known_where_they_are_asked_for(blobs, kind, masses):
    X = {
        "samples": blobs,
        "float32": blobs.astype(np.float32),
        "image": SQUARE,
        "mixture": MIXTURE,
        "nodes": ([0.5, 0.5], [[0.0, 0.0, 1.0], [6.0, 0.0, 0.0]], [1.0, 2.0], "spherical"),
    }[kind]
    options = {"masses": masses, "n_nodes": 256, "tol": 1e-2, "random_state": 0}
    quantizer = WassersteinQuantizer(3, **options)
    without = clone(quantizer).fit(X)
    assert not hasattr(without, "error_")
    quantizer.set_params(certify=True).fit(X)
    assert np.array_equal(quantizer.cluster_centers_, without.cluster_centers_)
    assert 0 < quantizer.distance_error_ < quantizer.error_ < 0.8 * quantizer.distance_
    assert isinstance(quantizer.error_, float)
    assert not hasattr(quantizer.set_params(certify=False).fit(X), "error_")


def test_a_poor_fit_has_a_large_error(blobs):
    init = blobs.mean(0) + np.array([[100.0, 0.0, 0.0], [99.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    options = {"masses": "free", "certify": True}
    with pytest.warns(ConvergenceWarning, match="no mass"):
        poor = WassersteinQuantizer(3, init=init, **options).fit(blobs)
    good = WassersteinQuantizer(3, init="k-means++", random_state=0, **options).fit(blobs)
    assert poor.error_ > poor.distance_ - good.distance_ > good.error_


def test_stopping_early_is_said(blobs):
    with pytest.warns(ConvergenceWarning, match=r"Lloyd's steps stopped at max_iter=1 with a rel"):
        quantizer = WassersteinQuantizer(4, max_iter=1, random_state=0).fit(blobs)
    assert not quantizer.converged_ and quantizer.n_iter_ == 1


def test_without_tolerance_it_ends_where_nothing_moves(blobs):
    quantizer = WassersteinQuantizer(3, masses="free", tol=0, random_state=0).fit(blobs)
    assert quantizer.converged_ and quantizer.n_iter_ < quantizer.max_iter


def test_points_that_nothing_is_nearest_to_are_named():
    X = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    init = np.array([[0.0, 0.0], [1.0, 0.4], [50.0, 50.0]])
    with pytest.warns(ConvergenceWarning, match="1 of 3 points have no mass"):
        quantizer = WassersteinQuantizer(3, masses="free", init=init).fit(X)
    assert quantizer.masses_[2] == 0


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
def test_bad_input_is_refused_and_leaves_the_earlier_fit(options, X, message):
    quantizer = WassersteinQuantizer(random_state=0).fit(SQUARE)
    before = quantizer.cluster_centers_
    with pytest.raises(ValueError, match=message):
        quantizer.set_params(**options).fit(X)
    assert quantizer.cluster_centers_ is before


def test_weights_beside_a_density_are_refused():
    with pytest.raises(ValueError, match="sample_weight must be None beside a density"):
        WassersteinQuantizer().fit(SQUARE, sample_weight=[1.0])


def test_it_must_be_fitted_first():
    with pytest.raises(NotFittedError):
        WassersteinQuantizer().predict(np.ones((3, 2)))


def test_a_picture_that_is_no_density_is_told_how_to_be_one():
    picture = np.random.default_rng(0).uniform(size=(20, 16))
    quantizer = WassersteinQuantizer(2, random_state=0)
    with pytest.warns(UserWarning, match=r"X of shape \(20, 16\) is taken as 20 samples of 16"):
        quantizer.fit(picture)
    assert quantizer.fit(picture, sample_weight=1.0).cluster_centers_.shape == (2, 16)
    assert quantizer.fit(GridDensity(picture)).cluster_centers_.shape == (2, 2)
    quantizer.fit(picture - 1)  # warnings are errors here


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("cluster_centers_", np.zeros(2), r"must have shape \(n_clusters, 2\), got \(2,\)"),
        ("cluster_centers_", np.zeros((3, 4)), r"n_clusters, 2\), got \(3, 4\)"),
        ("cluster_centers_", np.zeros((2, 2)), r"potentials_ must have shape \(2,\), one for each"),
        ("potentials_", np.zeros(0), r"potentials_ must have shape \(3,\), one .* got \(0,\)"),
        ("potentials_", np.zeros((3, 1)), r"got \(3, 1\)\. Set both"),
    ],
)
def test_points_set_by_hand_that_do_not_fit_are_told_what_to_be(attribute, value, message):
    X = np.random.default_rng(0).normal(size=(20, 2))
    quantizer = WassersteinQuantizer(3, random_state=0).fit(X)
    setattr(quantizer, attribute, value)
    with pytest.raises(ValueError, match=message):
        quantizer.predict(X)
