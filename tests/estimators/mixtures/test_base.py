"""What every estimator does: fits that are interrupted, and processes that are forked."""

import copy
import inspect
import os
import sys
import threading
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.mixture import GaussianMixture

import skgmmot
from skgmmot import (
    DifferentiableGaussianMixture,
    MixtureBarycenter,
    MixtureEmbedding,
    MixtureWasserstein,
    OTMap,
    PairwiseMW2,
    SemidiscreteGMM,
    SlicedWassersteinGMM,
    UniformNoise,
    WassersteinQuantizer,
)
from skgmmot.numerics.runs import Runs

PACKAGE = str(Path(skgmmot.__file__).parent)
#: Points of a fit at which it is interrupted.
N_POINTS = 12


class Stop(BaseException):
    """An interruption that nobody but the test knows."""


def calls_of(function, stop_at=None, error=Stop):
    """Call a function and count the package's own calls in this thread; interrupt it at one."""
    n_calls = 0

    def count(frame, event, argument):
        nonlocal n_calls
        code = frame.f_code
        # (what is raised where a generator is thrown away is lost)
        if code.co_filename.startswith(PACKAGE) and not code.co_flags & inspect.CO_GENERATOR:
            n_calls += 1
            if n_calls == stop_at:
                sys.settrace(None)
                raise error

    traced = sys.gettrace()  # a coverage run
    sys.settrace(count)
    try:
        function()
    finally:
        sys.settrace(traced)
    return n_calls


def frame(d):
    X = np.random.default_rng(d).normal(size=(40, d)) + 5 * (np.arange(40) % 2)[:, None]
    return pd.DataFrame(X, columns=[f"x{i} of {d}" for i in range(d)])


def known(d):
    return [DifferentiableGaussianMixture(2, random_state=s).fit(frame(d)) for s in range(3)]


ESTIMATORS = {
    "EM": (DifferentiableGaussianMixture(2, n_init=2, random_state=0), frame),
    "Sinkhorn-EM": (DifferentiableGaussianMixture(2, e_step="sinkhorn", random_state=0), frame),
    "sliced": (SlicedWassersteinGMM(2, max_iter=8, n_projections=5, random_state=0), frame),
    "refined": (SlicedWassersteinGMM(2, max_iter=4, refine="em", random_state=0), frame),
    "semi-discrete": (SemidiscreteGMM(2, max_iter=4, n_nodes=64, random_state=0), frame),
    "quantizer": (WassersteinQuantizer(4, masses="free", random_state=0), frame),
    "barycentre": (MixtureBarycenter(2, n_init=3, random_state=0), known),
    "map": (OTMap(mixture=DifferentiableGaussianMixture(2), random_state=0), frame),
    "embedding": (MixtureEmbedding(2), lambda d: [frame(d).to_numpy()]),
    "pairwise": (PairwiseMW2(), known),
}


def state(estimator):
    """All attributes, in a form that can be compared."""
    return {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in vars(estimator).items()
        if not name.startswith("_") and name not in ("source_mixture_", "target_mixture_")
    }


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("name", ESTIMATORS)
def test_an_interrupted_fit_is_the_earlier_one_or_its_own_best_whole(name):
    estimator, data = ESTIMATORS[name]
    first, second = data(2), data(3)
    before, threads = torch.get_num_threads(), set(threading.enumerate())
    torch.set_num_threads(2)
    finished, n_kept = set(vars(estimator.fit(second))), 0
    n_calls = calls_of(lambda: estimator.fit(second))
    fitted = estimator.fit(first)
    points = np.unique(np.linspace(1, n_calls, N_POINTS).astype(int))
    for point in points:
        estimator = copy.deepcopy(fitted)
        earlier = state(estimator)
        with pytest.raises(Stop):
            calls_of(partial(estimator.fit, second), stop_at=point)
        assert torch.get_num_threads() == 2
        if state(estimator) == earlier:
            n_kept += 1
        else:
            # what a stage that was not reached would add is missing, and nothing else
            assert finished - set(vars(estimator)) <= {"lower_bound_"}
            assert estimator.feature_names_in_.tolist() == list(frame(3).columns)
            assert not estimator.converged_
            whole(estimator, second)
    torch.set_num_threads(before)
    in_one_go = isinstance(estimator, (OTMap, MixtureEmbedding, PairwiseMW2))
    assert n_kept == len(points) if in_one_go else 1 <= n_kept < len(points)
    left = set(threading.enumerate()) - threads
    assert not [t for t in left if "ThreadPoolExecutor" in t.name]


def whole(estimator, X):
    """Use every part of a fit of three features."""
    if isinstance(estimator, WassersteinQuantizer):
        assert estimator.transform(X).shape == (40, 4)
        assert np.array_equal(estimator.predict(X), estimator.labels_)
        assert estimator.masses_.sum() == pytest.approx(1)
        return
    assert estimator.means_.shape == (2, 3)
    assert estimator.weights_.sum() == pytest.approx(1)
    assert np.allclose(estimator.precisions_ @ estimator.covariances_, np.eye(3), atol=1e-6)
    if not isinstance(estimator, MixtureBarycenter):
        assert np.isfinite(estimator.score(X))


@pytest.mark.parametrize("n_iter", [1, 5])
def test_an_interrupted_fit_keeps_all_iterations(monkeypatch, n_iter):
    X = frame(3)
    options = {"init_params": "random", "random_state": 0, "tol": 0.0}
    with warnings.catch_warnings(action="ignore"):
        expected = DifferentiableGaussianMixture(2, max_iter=n_iter, **options).fit(X)
    mixture = DifferentiableGaussianMixture(2, **options)
    note = Runs.reach

    def reach(runs, solution):
        note(runs, solution)
        if solution.n_iter == n_iter:
            raise KeyboardInterrupt

    monkeypatch.setattr(Runs, "reach", reach)
    with pytest.raises(KeyboardInterrupt):
        mixture.fit(X)
    assert np.array_equal(mixture.means_, expected.means_)
    assert mixture.lower_bounds_ == expected.lower_bounds_
    assert mixture.entropic_ot_gap_ == expected.entropic_ot_gap_
    assert mixture.n_iter_ == n_iter


def test_a_first_fit_that_is_interrupted_early_leaves_nothing():
    mixture = DifferentiableGaussianMixture(2, random_state=0)
    with pytest.raises(KeyboardInterrupt):
        calls_of(lambda: mixture.fit(frame(3)), stop_at=20, error=KeyboardInterrupt)
    assert set(vars(mixture)) == set(mixture.get_params())


# --- forked processes ----------------------------------------------------------------------------


def in_child(function, limit=60):
    """Call a function in a forked process; returns its exit status, or None if it hangs."""
    child = os.fork()
    if child == 0:
        try:
            function()
        except BaseException:
            os._exit(1)
        os._exit(0)
    end = time.monotonic() + limit
    while time.monotonic() < end:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return status
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return None


def backward_through_a_fit(X):
    """Differentiate a fit in the samples; the gradient of a mean sums to the identity."""
    X = X.clone().requires_grad_()
    DifferentiableGaussianMixture(2, random_state=0).fit(X).means_.sum().backward()
    assert torch.isfinite(X.grad).all() and X.grad.any()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    "work", ["predict", "fit", "sliced", "quantize", "map", "distance", "backward", "torch"]
)
def test_a_forked_process_does_not_wait_for_threads_of_its_parent(work):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40_000, 4)) + 5 * rng.integers(2, size=(40_000, 1))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    mixture = DifferentiableGaussianMixture(2, random_state=0).fit(X)
    (torch.ones(500, 500) @ torch.ones(500, 500)).exp()  # wakes torch's own threads
    tasks = {
        "predict": lambda: mixture.predict(X),
        "fit": lambda: DifferentiableGaussianMixture(2, random_state=0).fit(X),
        "sliced": lambda: SlicedWassersteinGMM(2, max_iter=10, random_state=0).fit(X[::4]),
        "quantize": lambda: WassersteinQuantizer(2, masses="free", max_iter=2).fit(X),
        "map": lambda: OTMap(mixture).fit(mixture).transform(X),
        "distance": lambda: MixtureWasserstein()(mixture, mixture),
        "backward": lambda: backward_through_a_fit(torch.from_numpy(X)),
        "torch": lambda: (torch.ones(500, 500) @ torch.ones(500, 500)).exp().sum().item(),
    }
    status = in_child(tasks[work])
    torch.set_num_threads(before)
    assert status == 0


# --- saved estimators ----------------------------------------------------------------------------


def saved_estimators():
    """Fitted estimators of every kind, and samples."""
    X = np.random.default_rng(0).normal(size=(60, 2))
    mixtures = [DifferentiableGaussianMixture(2, random_state=0).fit(Y) for Y in (X, X + 3)]
    return X, {
        "mixture": mixtures[0],
        "blocks": DifferentiableGaussianMixture(2).partial_fit(X).partial_fit(X),
        "sliced": SlicedWassersteinGMM(2, max_iter=3, random_state=0).fit(X),
        "semidiscrete": SemidiscreteGMM(2, n_nodes=64, max_iter=3, random_state=0).fit(X),
        "quantizer": WassersteinQuantizer(2, max_iter=2, random_state=0).fit(X),
        "barycenter": MixtureBarycenter(random_state=0).fit(mixtures),
        "map": OTMap(mixtures[1], random_state=0).fit(X),
    }


def leaves(state):
    """What a state holds, however deep."""
    if hasattr(state, "__getstate__") and hasattr(state, "get_params"):
        state = state.__getstate__()
    if isinstance(state, dict):
        state = list(state.values())
    if isinstance(state, (list, tuple)):
        return [leaf for part in state for leaf in leaves(part)]
    return [state]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_saved_estimators_hold_arrays_and_plain_numbers_only():
    plain = (np.ndarray, np.generic, str, int, float, bool, type(None))
    for name, estimator in saved_estimators()[1].items():
        others = [leaf for leaf in leaves(estimator) if not isinstance(leaf, plain)]
        assert not others, (name, others)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_estimators_go_through_skops():
    io = pytest.importorskip("skops.io")
    X, estimators = saved_estimators()
    for name, estimator in estimators.items():
        saved = io.dumps(estimator)
        types = io.get_untrusted_types(data=saved)
        assert all(t.startswith("skgmmot.estimators.") for t in types), (name, types)
        again = io.loads(saved, trusted=types)
        method = "transform" if name == "map" else "predict"
        assert np.array_equal(getattr(again, method)(X), getattr(estimator, method)(X)), name


@pytest.mark.parametrize(
    ("covariances", "message"),
    [
        (np.ones((3, 2)), r"covariances_ must have the 2 component\(s\) of means_, got 3"),
        (np.ones(2), "covariance_type must be that of the fit, got 'diag'"),
        (np.ones((2, 5)), "covariance_type must be that of the fit, got 'diag'"),
        (np.ones((5, 5, 5)), "covariance_type must be that of the fit, got 'diag'"),
    ],
)
def test_covariances_set_by_hand_that_do_not_fit_are_told_what_to_be(covariances, message):
    X = np.random.default_rng(0).normal(size=(30, 2))
    model = DifferentiableGaussianMixture(2, covariance_type="diag", random_state=0).fit(X)
    model.covariances_ = covariances
    with pytest.raises(ValueError, match=message):
        model.sample(3)


@pytest.mark.parametrize("name", ["round", "", None, ["full"], 1e308])
def test_a_covariance_type_set_after_the_fit_is_refused_by_name(name):
    X = np.random.default_rng(0).normal(size=(30, 2))
    model = DifferentiableGaussianMixture(2, random_state=0).fit(X).set_params(covariance_type=name)
    for ask in (model.predict, model.score_samples, model.bic):
        with pytest.raises(ValueError, match=r"covariance_type must be one of .*full.* got"):
            ask(X)


def test_samples_are_those_of_sklearn():
    theirs = GaussianMixture(2, random_state=0)
    theirs.weights_, theirs.means_ = np.array([0.4, 0.6]), np.array([[0.0, 0.0], [5.0, 1.0]])
    theirs.covariances_ = np.array([[[2.0, 0.3], [0.3, 1.0]], [[1.0, 0.0], [0.0, 0.5]]])
    parameters = theirs.weights_, theirs.means_, theirs.covariances_
    theirs.precisions_cholesky_ = None  # fitted
    ours = DifferentiableGaussianMixture.from_parameters(*parameters, random_state=0)
    for found, expected in zip(ours.sample(50), theirs.sample(50), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("ratio", [1e6, 1e12, 1e30, 1e100, 1e-100])
def test_samples_keep_the_spread_of_features_in_other_units(ratio, random_seed):
    unit = np.array([[1.0, 0.6], [0.6, 1.0]])
    covariance = unit * [1, ratio] * np.array([[1], [ratio]])
    mixture = DifferentiableGaussianMixture.from_parameters(
        [1.0], [[0.0, 0.0]], covariance[None], random_state=random_seed
    )
    X, _ = mixture.sample(10_000)
    np.testing.assert_allclose(np.cov(X.T) / covariance, 1, rtol=0.1)  # 5 standard errors


@pytest.mark.parametrize("scale", [1e-150, 1e150])
def test_samples_have_the_spread_of_covariances_near_the_ends_of_the_range(scale):
    mixture = DifferentiableGaussianMixture.from_parameters(
        [1.0], [[0.0]], [[[scale**2]]], random_state=0
    )
    X, _ = mixture.sample(4000)
    assert np.std(X / scale) == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 3.0]])
def test_the_score_is_a_mean_also_where_the_sum_leaves_the_range(weights):
    mixture = DifferentiableGaussianMixture.from_parameters([1.0], [[0.0]], [[[1.0]]])
    assert mixture.score([[1.2e154]] * 3, sample_weight=weights) == pytest.approx(-7.2e307)


#: Two components of equal spread, one of each side of the first axis, by the type of covariances.
EQUAL = {
    "full": np.stack([np.eye(2)] * 2),
    "tied": np.eye(2),
    "diag": np.ones((2, 2)),
    "spherical": np.ones(2),
    "lowrank": np.stack([np.array([[1e-3, 1.0], [0.0, 1.0]])] * 2),
}


@pytest.mark.parametrize("missing", ["error", "nan"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", EQUAL)
def test_far_rows_belong_to_the_component_on_their_side(kind, dtype, missing):
    if (kind, missing) == ("lowrank", "nan"):
        return  # takes complete samples only
    options = {"missing_values": missing}
    parameters = [0.5, 0.5], [[0.0, 0.0], [0.1, 0.0]], EQUAL[kind], kind
    mixture = DifferentiableGaussianMixture.from_parameters(*parameters, **options)
    near = np.random.default_rng(0).normal(size=(5000, 2))
    if missing == "nan":
        near[::9, 1] = np.nan
    for distance in 10.0 ** np.arange(3, 31, 3):
        for side in (0, 1):
            far = distance * np.array([[2 * side - 1, 0.3]])
            X = np.vstack([near, far]).astype(dtype)
            assert mixture.predict(X)[-1] == mixture.predict(X[-1:])[0] == side
            for resp in (mixture.predict_proba(X)[-1], mixture.predict_proba(X[-1:])[0]):
                np.testing.assert_allclose(resp, [1 - side, side], atol=1e-12)


@pytest.mark.parametrize("far", [[1e160, 1e160], [1e308, 1e308], [-1e308, 1e308], [1e308, np.nan]])
@pytest.mark.parametrize("scale", [1.0, 1e-4])
def test_the_density_of_a_far_row_is_zero_alone_and_among_many(far, scale):
    covariances = scale * np.array([[[1, 0.5], [0.5, 1]], [[1, -0.5], [-0.5, 1]]])
    parameters = [0.5, 0.5], [[0.0, 0.0], [5.0, 5.0]], covariances
    X = np.random.default_rng(0).normal(size=(3000, 2))
    for missing in ("error", "nan"):
        mixture = DifferentiableGaussianMixture.from_parameters(*parameters, missing_values=missing)
        if missing == "nan":
            X[::7, 0] = np.nan
        elif np.isnan(far).any():
            continue
        assert mixture.score_samples([far])[0] == -np.inf
        found = mixture.score_samples(np.vstack([X, far]))
        assert found[-1] == -np.inf
        assert np.isfinite(found[:-1]).all()
        assert mixture.score(np.vstack([X, far])) == -np.inf


@pytest.mark.parametrize(
    ("options", "n_fixed"),
    [
        ({}, 0),
        ({"fixed_weights": True}, 1),
        ({"fixed_means": True}, 4),
        ({"fixed_means": [True, False]}, 2),
        ({"fixed_covariances": [False, True]}, 3),
        ({"fixed_covariances": True, "fixed_means": True}, 10),
        ({"e_step": "sinkhorn"}, 1),
        ({"noise": "uniform"}, -1),
        ({"noise": UniformNoise(weight=0.2, fixed_weight=True)}, 0),
        ({"noise": UniformNoise(weight=0.2, fixed_weight=True), "fixed_weights": True}, 1),
    ],
)
def test_criteria_count_what_is_fitted(options, n_fixed):
    X = np.random.default_rng(0).normal(size=(120, 2)) + 5 * (np.arange(120) % 2)[:, None]
    given = {"means_init": [[0.0, 0.0], [5.0, 5.0]], "precisions_init": [np.eye(2)] * 2}
    given |= {"weights_init": [0.5, 0.5], "tol": 1e-5}
    mixture = DifferentiableGaussianMixture(2, **given, **options).fit(X)
    n_free = GaussianMixture(2, **given).fit(X)._n_parameters() - n_fixed
    log_likelihood = mixture.score_samples(X).sum()
    assert mixture.aic(X) == pytest.approx(-2 * log_likelihood + 2 * n_free, rel=1e-12)
    bic = -2 * log_likelihood + n_free * np.log(len(X))
    assert mixture.bic(X) == pytest.approx(bic, rel=1e-12)
    assert mixture.bic(lambda: iter([X[:50], X[50:]])) == pytest.approx(bic, rel=1e-12)
