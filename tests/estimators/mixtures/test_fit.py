"""The frame of a fit, the same for every estimator that fits a mixture to samples."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning

from skgmmot import (
    DifferentiableGaussianMixture,
    MixtureImputer,
    MixtureRegressor,
    SemidiscreteGMM,
    SlicedWassersteinGMM,
)
from skgmmot.estimators.mixtures._fit import FittedMixture
from skgmmot.numerics.runs import Runs

ESTIMATORS = {
    "likelihood": (DifferentiableGaussianMixture, {"tol": 1e-9}),
    "sliced": (SlicedWassersteinGMM, {"n_projections": 5, "tol": 1e-9}),
    "semidiscrete": (SemidiscreteGMM, {"tol": 1e-9}),
}


@pytest.fixture
def X():
    rng = np.random.default_rng(0)
    return np.concatenate([rng.normal(size=(30, 2)), rng.normal([2, 0], size=(20, 2))])


@pytest.fixture(params=ESTIMATORS)
def make(request):
    """An estimator of two components that needs more than a few iterations."""
    cls, options = ESTIMATORS[request.param]

    def estimator(**others):
        return cls(**{"n_components": 2, "random_state": 0, "max_iter": 3, **options, **others})

    return estimator


def quietly(function, *args, **options):
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        return function(*args, **options)


@pytest.mark.parametrize("cls", [cls for cls, _ in ESTIMATORS.values()])
def test_one_frame_serves_all_of_them(cls):
    assert issubclass(cls, FittedMixture)
    assert not {"_fit", "_fit_samples", "fit_predict"} & vars(cls).keys()


def test_fit_predict_is_fit_and_predict(make, X):
    labels = quietly(make().fit_predict, X)
    assert np.array_equal(labels, quietly(make().fit, X).predict(X))


def test_a_fit_that_has_not_converged_warns_at_the_line_of_the_caller(make, X):
    for method in ("fit", "fit_predict"):
        with pytest.warns(ConvergenceWarning) as caught:
            getattr(make(), method)(X)
        assert [w.filename for w in caught] == [__file__]


def test_no_iterations_are_no_failure_to_converge(make, X):
    with warnings.catch_warnings(action="error"):
        assert not make(max_iter=0).fit(X).converged_


@pytest.mark.parametrize(("n", "sample_weight"), [(1, None), (3, [1.0, 0.0, 0.0])])
def test_fewer_samples_than_components_are_refused(make, X, n, sample_weight):
    estimator = make(n_components=2)
    with pytest.raises(ValueError, match=r"minimum of 2|n_components = 2, n_samples = 1"):
        estimator.fit(X[:n], sample_weight=sample_weight)
    assert set(vars(estimator)) == set(estimator.get_params())


@pytest.fixture
def ends(monkeypatch):
    """The objectives at the ends of runs, larger ones being better."""
    found, end = [], Runs._end

    def note(runs, start, solution):
        found.append(runs.sign * solution.objective)
        last = end(runs, start, solution)
        assert runs.sign * runs.best.objective == max(found)
        return last

    monkeypatch.setattr(Runs, "_end", note)
    return found


def test_the_best_of_several_starts_is_kept(make, X, ends):
    quietly(make(n_init=3, init_params="random_from_data").fit, X)
    assert len(ends) == 3
    assert max(ends) > ends[-1], "the last start is not the best"


def test_a_warm_start_is_one_run_and_refuses_other_features(make, X, ends):
    estimator = quietly(make().fit, X).set_params(warm_start=True, n_init=3)
    del ends[:]
    quietly(estimator.fit, X)
    assert len(ends) == 1
    kept = estimator.means_
    with pytest.raises(ValueError, match=r"warm_start needs a fit of shape .* = \(2, 4\), got one"):
        estimator.fit(np.hstack([X, X]))
    assert estimator.means_ is kept


def test_an_interrupted_fit_shows_what_it_has_reached(make, X, monkeypatch):
    reach = Runs.reach

    def interrupt(runs, solution):
        reach(runs, solution)
        raise KeyboardInterrupt

    monkeypatch.setattr(Runs, "reach", interrupt)
    estimator = make()
    with pytest.raises(KeyboardInterrupt):
        estimator.fit(X)
    assert not estimator.converged_
    assert 1 <= estimator.n_iter_ <= 3
    assert torch.as_tensor(estimator.predict(X)).shape == (len(X),)


def test_one_iteration_that_is_not_enough_is_warned_of(make, X):
    with pytest.warns(ConvergenceWarning):
        make(max_iter=1).fit(X)


def test_mixtures_within_others_are_fitted_without_labels(X):
    mixture = DifferentiableGaussianMixture(2, labels="y")
    for fit in (MixtureImputer(mixture).fit, MixtureRegressor(mixture).fit):
        with pytest.raises(ValueError, match="mixture must have labels='ignore' here, got 'y'"):
            fit(np.asarray(X), np.zeros(len(X)))
