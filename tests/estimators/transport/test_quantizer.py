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


def test_it_must_be_fitted_first():
    with pytest.raises(NotFittedError):
        WassersteinQuantizer().predict(np.ones((3, 2)))


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
