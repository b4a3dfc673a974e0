"""MixtureBarycenter, an average of mixtures, and reduce."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.mixture import GaussianMixture

from skgmmot import (
    DifferentiableGaussianMixture,
    MixtureBarycenter,
    MixtureWasserstein,
    interpolate,
    reduce,
)

rng = np.random.default_rng(0)


def random_mixture(K, d=2, seed=0):
    """A mixture of full covariances, as a tuple."""
    rng = np.random.default_rng(seed)
    B = rng.normal(size=(K, d, d))
    covariances = B @ B.swapaxes(1, 2) + 0.3 * np.eye(d)
    return rng.dirichlet(np.full(K, 5.0)), 3 * rng.normal(size=(K, d)), covariances


@pytest.fixture
def mixtures():
    return [random_mixture(K, seed=K) for K in (3, 2, 4)]


def total(mixture, mixtures, weights):
    distance = MixtureWasserstein(squared=True)
    return sum(w * distance(mixture, m) for w, m in zip(weights, mixtures, strict=True))


# --- what it finds -------------------------------------------------------------------------------


def test_its_objective_is_the_mean_squared_distance(mixtures):
    weights = np.array([1.0, 2.0, 3.0])
    for solver, K in [("exact", None), ("fixed_point", 4)]:
        average = MixtureBarycenter(K, solver=solver, random_state=0)
        average.fit(mixtures, sample_weight=weights)
        assert average.solver_ == solver and average.converged_
        assert np.isclose(average.objective_, total(average, mixtures, weights / 6), rtol=1e-6)


def test_of_two_mixtures_it_is_on_the_geodesic(mixtures):
    average = MixtureBarycenter().fit(mixtures[:2], sample_weight=[0.75, 0.25])
    assert average.solver_ == "exact"
    assert MixtureWasserstein()(average, interpolate(*mixtures[:2], 0.25)) < 1e-6


def test_the_exact_one_is_the_best_and_more_components_are_better(mixtures):
    exact = MixtureBarycenter().fit(mixtures)
    values = [
        MixtureBarycenter(K, random_state=0).fit(mixtures).objective_
        for K in (1, 3, len(exact.weights_))
    ]
    assert values[0] > values[1] > values[2] > exact.objective_ - 1e-9
    assert values[2] < 1.05 * exact.objective_


def test_fixed_weights_are_uniform_or_those_of_the_start(mixtures):
    average = MixtureBarycenter(4, fixed_weights=True, random_state=0).fit(mixtures)
    assert np.allclose(average.weights_, 0.25)
    start = random_mixture(3, seed=9)
    held = MixtureBarycenter(init_params=start, fixed_weights=True).fit(mixtures)
    assert np.allclose(held.weights_, start[0]) and held.n_iter_ > 0
    free = MixtureBarycenter(init_params=start).fit(mixtures)
    assert free.objective_ < held.objective_


def test_a_weight_of_zero_leaves_a_mixture_out(mixtures):
    some = MixtureBarycenter(3, random_state=0).fit(mixtures, sample_weight=[1, 0, 1])
    others = MixtureBarycenter(3, random_state=0).fit([mixtures[0], mixtures[2]])
    assert np.allclose(some.means_, others.means_)


def test_many_mixtures_are_averaged_by_the_fixed_point():
    mixtures = [random_mixture(6, seed=s) for s in range(8)]
    average = MixtureBarycenter(n_init=1, random_state=0).fit(mixtures)
    assert average.solver_ == "fixed_point"
    assert 1 < len(average.weights_) <= 6
    single = MixtureBarycenter(1).fit(mixtures)
    assert average.objective_ < single.objective_


def test_the_covariance_type_is_the_common_one_or_the_one_asked_for(covariance_type):
    X, y = load_iris(return_X_y=True)
    model = DifferentiableGaussianMixture(2, covariance_type=covariance_type, random_state=0)
    fitted = [clone(model).fit(X[y == c]) for c in range(3)]
    average = MixtureBarycenter().fit(fitted)
    assert average.covariance_type_ == covariance_type
    full = MixtureBarycenter(covariance_type="full").fit(fitted)
    assert full.solver_ == "exact" and full.covariance_type_ == "full"
    assert MixtureWasserstein()(average, full) < 1e-6
    narrow = MixtureBarycenter(covariance_type="spherical", random_state=0).fit(fitted)
    assert narrow.covariances_.ndim == 1
    assert narrow.objective_ > average.objective_ - 1e-9


# --- the estimator -------------------------------------------------------------------------------


def test_it_predicts_samples_and_scores_like_any_mixture(mixtures):
    average = MixtureBarycenter(3, random_state=0).fit(mixtures)
    X, labels = average.sample(5000)
    assert np.isfinite(average.score_samples(X)).all()
    assert average.predict_proba(X).shape == (5000, len(average.weights_))
    assert np.mean(average.predict(X) == labels) > 0.5
    assert average.bic(X) > 0
    twin = GaussianMixture(len(average.weights_))
    twin.weights_, twin.means_ = average.weights_, average.means_
    twin.covariances_, twin.precisions_cholesky_ = (
        average.covariances_,
        average.precisions_cholesky_,
    )
    assert np.allclose(twin.score_samples(X), average.score_samples(X))


def test_it_clones_pickles_and_repeats_itself(mixtures):
    average = MixtureBarycenter(3, random_state=0).fit(mixtures)
    again = clone(average).fit(mixtures)
    assert np.array_equal(again.means_, average.means_)
    restored = pickle.loads(pickle.dumps(average))
    assert np.array_equal(restored.predict(average.means_), average.predict(average.means_))


def test_mixtures_of_either_library_are_averaged_with_their_feature_names():
    data = load_iris(as_frame=True)
    parts = [data.data[data.target == c] for c in range(3)]
    models = [GaussianMixture(2, random_state=0), DifferentiableGaussianMixture(2, random_state=0)]
    averages = [MixtureBarycenter().fit([clone(m).fit(X) for X in parts]) for m in models]
    assert np.isclose(averages[0].objective_, averages[1].objective_)
    assert list(averages[0].feature_names_in_) == list(data.data.columns)
    averages[0].predict(parts[0])  # a frame with these names
    turned = GaussianMixture().fit(parts[1][parts[1].columns[::-1]])
    with pytest.raises(ValueError, match=r"X must hold mixtures of the same features.*in X\[1\]"):
        MixtureBarycenter().fit([GaussianMixture().fit(parts[0]), turned])


def test_tensors_that_require_a_gradient_give_tensors(mixtures):
    tensors = tuple(torch.tensor(t) for t in mixtures[0])
    assert isinstance(MixtureBarycenter().fit([tensors, *mixtures[1:]]).means_, np.ndarray)
    tensors[1].requires_grad_()
    average = MixtureBarycenter().fit([tensors, *mixtures[1:]])
    assert isinstance(average.means_, torch.Tensor)
    expected = MixtureBarycenter().fit(mixtures)
    assert np.allclose(average.means_.numpy(), expected.means_)


def test_the_average_of_clouds_of_points_has_no_density():
    points = [(np.full(3, 1 / 3), rng.normal(size=(3, 2)), np.zeros((3, 2, 2))) for _ in range(3)]
    average = MixtureBarycenter().fit(points)
    assert np.allclose(average.covariances_, 0)
    with pytest.raises(ValueError, match="must have precisions_cholesky_ for densities"):
        average.score_samples(np.zeros((1, 2)))


@pytest.mark.parametrize(("most", "is_refused"), [(8, False), (7, True)])
def test_the_exact_barycentre_is_of_so_many_tuples_at_most(most, is_refused, monkeypatch):
    monkeypatch.setattr("skgmmot.estimators.transport.barycenter.MAX_EXACT_TUPLES", most)
    average, mixtures = MixtureBarycenter(solver="exact"), [random_mixture(2) for _ in range(3)]
    if is_refused:
        with pytest.raises(ValueError, match="at most 7 tuples of components, got 8"):
            average.fit(mixtures)
    else:
        average.fit(mixtures)


# --- what goes wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "X, error, message",
    [
        ([], ValueError, "X must hold at least one mixture, got none"),
        (None, TypeError, "X must be a sequence of mixtures, got NoneType"),
        (GaussianMixture(), TypeError, "X must be a sequence of mixtures, got GaussianMixture"),
        ([np.ones((5, 2))], TypeError, r"X\[0\] must be a fitted mixture estimator or a tuple"),
        (
            [random_mixture(2), random_mixture(2, d=3)],
            ValueError,
            r"equal numbers of features, got 2 in X\[0\] and 3 in X\[1\]",
        ),
        (
            [random_mixture(2), ([0.5], [[0.0, 0.0]], [np.eye(2)])],
            ValueError,
            "weights must be non-negative and sum to 1",
        ),
        ([random_mixture(2), GaussianMixture()], NotFittedError, "not fitted yet"),
    ],
)
def test_what_are_no_mixtures_is_refused_and_the_earlier_fit_stays(X, error, message, mixtures):
    average = MixtureBarycenter().fit(mixtures)
    means = average.means_
    with pytest.raises(error, match=message):
        average.fit(X)
    assert average.means_ is means


@pytest.mark.parametrize(
    "params, message",
    [
        ({"n_components": 3}, "n_components=None, got 3"),
        ({"fixed_weights": True}, "no fixed weights and no start, got one of them"),
        ({"covariance_type": "diag"}, "a covariance_type that holds the barycentre.*got 'diag'"),
    ],
)
def test_what_the_exact_solver_cannot_do_is_refused(params, message, mixtures):
    with pytest.raises(ValueError, match=f"solver='exact' must have {message}"):
        MixtureBarycenter(solver="exact", **params).fit(mixtures)


def test_too_many_tuples_are_refused_by_the_exact_solver():
    mixtures = [random_mixture(11, seed=s) for s in range(6)]
    with pytest.raises(ValueError, match="at most 1000000 tuples of components, got 1771561"):
        MixtureBarycenter(solver="exact").fit(mixtures)


def test_a_start_that_does_not_fit_is_refused(mixtures):
    with pytest.raises(
        ValueError, match=r"init_params must have 4 component\(s\) in 2 .* got 3 in 2"
    ):
        MixtureBarycenter(4, init_params=random_mixture(3)).fit(mixtures)
    with pytest.raises(
        ValueError, match=r"init_params must have 3 component\(s\) in 2 .* got 3 in 3"
    ):
        MixtureBarycenter(init_params=random_mixture(3, d=3)).fit(mixtures)


@pytest.mark.parametrize(
    "weights, message",
    [
        ([1, 1], "sample_weight"),
        ([1, -1, 1], "sample_weight must be finite and non-negative"),
        ([0, 0, 0], "[Ss]ample.weights? must"),
    ],
)
def test_bad_weights_of_the_mixtures_are_refused(weights, message, mixtures):
    with pytest.raises(ValueError, match=message):
        MixtureBarycenter().fit(mixtures, sample_weight=weights)


@pytest.mark.parametrize(
    "params",
    [{"n_components": 0}, {"solver": "best"}, {"covariance_type": "round"}, {"n_init": 0}],
)
def test_unknown_options_are_refused(params, mixtures):
    with pytest.raises(ValueError, match=f"The '{next(iter(params))}' parameter"):
        MixtureBarycenter(**params).fit(mixtures)


def test_a_device_that_is_not_there_is_refused(mixtures):
    with pytest.raises(ValueError, match="device must be one that torch has here, got 'nowhere'"):
        MixtureBarycenter(device="nowhere").fit(mixtures)


def test_stopping_early_is_said(mixtures):
    with pytest.warns(ConvergenceWarning, match="fixed point stopped at max_iter=1 with change"):
        average = MixtureBarycenter(3, max_iter=1, random_state=0).fit(mixtures)
    assert not average.converged_


def test_an_unfitted_barycentre_is_refused():
    with pytest.raises(NotFittedError):
        MixtureBarycenter().predict(np.ones((2, 2)))


# --- reduce --------------------------------------------------------------------------------------


def test_a_reduced_mixture_is_near_and_small(covariance_type, blobs):
    fine = DifferentiableGaussianMixture(12, covariance_type=covariance_type, random_state=0)
    fine.fit(blobs)
    coarse = reduce(fine, 4, random_state=0)
    assert coarse.n_components == len(coarse.weights_) == 4
    assert coarse.covariance_type == covariance_type
    distance = MixtureWasserstein()
    assert distance(fine, coarse) < distance(fine, reduce(fine, 1))
    assert np.isfinite(coarse.score_samples(blobs)).all()
    assert np.allclose(coarse.weights_ @ coarse.means_, blobs.mean(0))
    same, error = reduce(fine, 4, random_state=0, return_error=True)
    assert np.array_equal(same.means_, coarse.means_)
    assert 0 < error < 0.6 * distance(fine, coarse)
    with pytest.warns(UserWarning, match="n_components must be at most the 12 of the mixture, got"):
        same = reduce(fine, 20)
    assert distance(fine, same) < 1e-6


@pytest.mark.parametrize(
    "params, message",
    [
        ({"n_components": 0}, "n_components must be a positive integer, got 0"),
        ({"n_components": 2.5}, "n_components must be a positive integer, got 2.5"),
        ({"n_components": 2, "n_init": 0}, "n_init must be a positive integer, got 0"),
        ({"n_components": 40, "n_init": "2"}, "n_init must be a positive integer, got '2'"),
    ],
)
@pytest.mark.filterwarnings("ignore:n_components must be at most")
def test_numbers_that_cannot_be_are_refused_by_reduce(params, message, mixtures):
    with pytest.raises(ValueError, match=message):
        reduce(mixtures[0], **params)
    with pytest.raises(TypeError, match="mixture must be a fitted mixture estimator or a tuple"):
        reduce(np.ones((3, 2)), 2)
