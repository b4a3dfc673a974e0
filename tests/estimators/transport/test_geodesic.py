"""`interpolate` and `MixtureFlow`: mixtures between two, as estimators, and their velocities."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.mixture import GaussianMixture
from torch import Tensor

import skgmmot.functional as F
from skgmmot import DifferentiableGaussianMixture, MixtureFlow, MixtureWasserstein, interpolate
from skgmmot.plotting import GaussianMixtureDisplay

SOURCE = ([0.6, 0.4], [[0.0, 0.0], [5.0, 0.0]], [[1.0, 2.0], [0.5, 3.0]], "diag")
TARGET = ([1.0], [[0.0, 8.0]], [[[2.0, 1.0], [1.0, 3.0]]])


def test_it_samples_scores_predicts_draws_and_compares():
    middle = interpolate(SOURCE, TARGET, 0.25)
    X, labels = middle.sample(20_000)
    assert np.allclose(X.mean(0), middle.weights_ @ middle.means_, atol=0.1)
    assert np.allclose(np.bincount(labels) / len(X), middle.weights_, atol=0.02)
    assert np.isfinite(middle.score_samples(X)).all()
    assert (middle.predict(middle.means_) == [0, 1]).all()
    GaussianMixtureDisplay.from_estimator(middle)
    distance = MixtureWasserstein()
    assert np.isclose(distance(SOURCE, middle), 0.25 * distance(SOURCE, TARGET))
    assert middle.covariance_type == "full" and middle.n_components == 2
    assert clone(middle).get_params() == middle.get_params()


def test_between_estimators_of_either_library_it_is_the_same(blobs):
    other = GaussianMixture(2, random_state=0).fit(blobs)
    ours = DifferentiableGaussianMixture(2, random_state=0).fit(blobs)
    target = ([0.3, 0.7], [[0.0] * 3, [9.0] * 3], [np.eye(3), 2 * np.eye(3)])
    means = [interpolate(m, target, 0.5).means_ for m in (ours, other)]
    assert np.allclose(*means)


def test_tensors_on_a_graph_give_tensors_and_arrays_give_arrays():
    source = tuple(torch.tensor(t, dtype=torch.float64) for t in SOURCE[:3])
    assert isinstance(interpolate((*source, "diag"), TARGET, 0.5).means_, np.ndarray)
    source[1].requires_grad_()
    middle = interpolate((*source, "diag"), TARGET, 0.5)
    assert all(isinstance(t, torch.Tensor) for t in (middle.means_, middle.covariances_))
    assert isinstance(middle.sample(3)[0], torch.Tensor)
    assert isinstance(interpolate(SOURCE, TARGET, 0.5).weights_, np.ndarray)


def test_the_covariance_type_of_both_is_kept(covariance_type, blobs):
    models = [
        DifferentiableGaussianMixture(K, covariance_type=covariance_type, random_state=0).fit(blobs)
        for K in (2, 3)
    ]
    middle = interpolate(*models, 0.5)
    assert middle.covariance_type == covariance_type
    assert middle.bic(blobs) > 0  # counts parameters by type


def test_a_singular_mixture_is_sampled_and_has_no_density():
    point = ([1.0], [[0.0, 0.0]], [np.zeros((2, 2))])
    line = ([1.0], [[2.0, 0.0]], [np.diag([4.0, 0.0])])
    middle = interpolate(point, line, 0.5)
    X, _ = middle.sample(1000)
    assert np.allclose(X[:, 1], 0) and np.isclose(X[:, 0].std(), 1, atol=0.1)
    with pytest.raises(ValueError, match="must have precisions_cholesky_ for densities"):
        middle.score_samples(X)
    with pytest.raises(ValueError, match="covariances_ are singular"):
        middle.predict(X)


@pytest.mark.parametrize("t", [-0.1, 1.1, np.nan])
def test_times_beyond_the_ends_are_refused(t):
    with pytest.raises(ValueError, match=f"t must be from 0 to 1, got {t}"):
        interpolate(SOURCE, TARGET, t)


@pytest.mark.parametrize("t", ["0.5", [0.5], True, None])
def test_times_that_are_no_numbers_are_refused(t):
    with pytest.raises(TypeError, match="t must be a number, got"):
        interpolate(SOURCE, TARGET, t)


def test_what_is_no_mixture_is_refused():
    with pytest.raises(TypeError, match="target must be a fitted mixture estimator or a tuple"):
        interpolate(SOURCE, np.ones((3, 2)), 0.5)
    with pytest.raises(NotFittedError):
        interpolate(DifferentiableGaussianMixture(), TARGET, 0.5)
    with pytest.raises(ValueError, match="equal numbers of features, got 2 and 3"):
        interpolate(SOURCE, ([1.0], [[0.0] * 3], [np.eye(3)]), 0.5)


# --- flows ---------------------------------------------------------------------------------------


def test_a_flow_shows_mixtures_velocities_and_paths_in_the_kind_of_its_arrays():
    flow = MixtureFlow(SOURCE, TARGET, reg=0.5)
    assert np.allclose(flow.plan, [[0.6], [0.4]])
    middle = flow.mixture(0.5)
    same = interpolate(SOURCE, TARGET, 0.5, reg=0.5)
    assert np.array_equal(middle.covariances_, same.covariances_)
    X = middle.means_.astype(np.float32)
    assert flow.velocity(0.5, X).dtype == flow.drift(0.5, X).dtype == np.float32
    times = np.linspace(0, 1, 5)
    assert flow.transport(X, times).shape == (5, 2, 2)
    paths = flow.paths(times, 3, random_state=0)
    assert paths.shape == (5, 3, 2)
    assert np.array_equal(paths, flow.paths(times, 3, random_state=0))
    generator = torch.Generator().manual_seed(0)  # the seed is the integer itself
    assert np.array_equal(paths, flow._flow.paths(times.tolist(), 3, generator=generator)[0])
    source = tuple(torch.tensor(t, dtype=torch.float64) for t in SOURCE[:3])
    source[1].requires_grad_()
    of_tensors = MixtureFlow((*source, "diag"), TARGET)
    assert isinstance(of_tensors.plan, torch.Tensor)
    assert isinstance(of_tensors.velocity(0.5, X), torch.Tensor)


def test_without_entropy_a_flow_of_one_gaussian_ends_where_its_map_does():
    source = ([1.0], [[0.0, 0.0]], [[[1.0, 0.3], [0.3, 2.0]]])
    X = np.random.default_rng(0).normal(size=(20, 2))
    ends = (
        F.GaussianMixtureParams(*map(torch.tensor, m)).map(Tensor.double) for m in (source, TARGET)
    )
    mapped = F.mean_map(F.mixture_map(*ends), torch.from_numpy(X))
    assert np.allclose(MixtureFlow(source, TARGET).transport(X, n_steps=40)[-1], mapped, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda flow: flow.velocity(1.5, [[0.0, 0.0]]), ValueError, "t must be from 0 to 1"),
        (lambda flow: flow.velocity("0", [[0.0, 0.0]]), TypeError, "t must be a number, got str"),
        (lambda flow: flow.velocity(0.5, [[0.0]]), ValueError, "1 feature"),
        (lambda flow: flow.drift(0.5, [[np.nan, 0.0]]), ValueError, "NaN"),
        (lambda flow: flow.transport([[0.0, 0.0]], 0.5), TypeError, "times must be a sequence"),
        (lambda flow: flow.transport([[0.0, 0.0]], [0, 1, 0.5]), ValueError, "ascend or descend"),
        (lambda flow: flow.transport([[0.0, 0.0]], n_steps=0), ValueError, "n_steps must be"),
        (lambda flow: flow.paths([1.0, 0.0]), ValueError, "times must ascend"),
        (lambda flow: flow.paths([]), ValueError, "one or more"),
        (lambda flow: flow.paths([0.5], 0.5), ValueError, "n_paths must be a positive integer"),
        (lambda flow: flow.paths([0.5], random_state="1"), ValueError, "cannot be used to seed"),
        (lambda flow: MixtureFlow(SOURCE, TARGET, reg=-1.0), ValueError, "reg must"),
        (lambda flow: interpolate(SOURCE, TARGET, 0.5, reg="1"), TypeError, "reg must"),
    ],
)
def test_what_is_no_time_sample_number_or_entropy_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call(MixtureFlow(SOURCE, TARGET))
