"""Sinkhorn-EM in the estimator: as its E-step, as a start, and the gap of a fit."""

import io
import pickle
from contextlib import redirect_stdout

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.metrics import adjusted_rand_score
from sklearn.utils._param_validation import InvalidParameterError

from skgmmot import DifferentiableGaussianMixture
from skgmmot.datasets import make_ring_square_line
from skgmmot.fitting.em.entropic import entropic_ot_objective
from skgmmot.fitting.em.rows import EM

PARAMETERS = ["weights_", "means_", "covariances_"]


def fitted(X, sample_weight=None, **params):
    """Four components of prescribed weights, from k-means, fitted."""
    params = {"n_components": 4, "e_step": "sinkhorn", "random_state": 0, **params}
    return DifferentiableGaussianMixture(**params).fit(X, sample_weight=sample_weight)


def difference(first, second):
    """The largest difference between the parameters of two fits."""
    pairs = [(getattr(first, n), getattr(second, n)) for n in PARAMETERS]
    return max(np.abs(np.asarray(one) - np.asarray(other)).max() for one, other in pairs)


def stretched_blobs(seed, stretch):
    """Two round clusters, six standard deviations apart, stretched across."""
    rng = np.random.default_rng(seed)
    y = rng.integers(2, size=400)
    return (rng.normal(size=(400, 2)) + np.outer(6 * y, [0.0, 1.0])) * [stretch, 1.0], y


# --- the E-step ----------------------------------------------------------------------------------


def test_weights_stay_uniform_and_components_share_out_the_samples(blobs, covariance_type):
    model = fitted(blobs, covariance_type=covariance_type, tol=1e-8, max_iter=1000)
    assert np.array_equal(model.weights_, np.full(4, 0.25))
    assert model.converged_
    # the balanced cost bounds the likelihood: by the gap, where the fit ends
    assert model.score(blobs) - model.lower_bound_ == pytest.approx(
        model.entropic_ot_gap_, abs=1e-6
    )


def test_weights_stay_those_that_are_given(blobs):
    weights = np.array([0.4, 0.3, 0.2, 0.1])
    for options in ({}, {"fixed_weights": True}, {"init_params": "sinkhorn"}):
        model = fitted(blobs, weights_init=weights, **options)
        assert np.allclose(model.weights_, weights, rtol=0, atol=1e-15)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_lower_bound_rises_once_balanced(blobs):
    bounds = fitted(blobs, tol=0, max_iter=290).lower_bounds_
    assert min(np.diff(bounds[-30:])) > -1e-10


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_integer_weights_are_repeated_rows_and_zero_is_absence(blobs, covariance_type, dtype):
    X = blobs.astype(dtype)
    times = np.arange(len(X)) % 3
    params = {"covariance_type": covariance_type, "means_init": X[[10, 200, 350, 500]]}
    params |= (
        {"precisions_init": np.linalg.inv(np.cov(blobs.T))} if (covariance_type == "tied") else {}
    )
    weighted = fitted(X, times, **params)
    repeated = fitted(np.repeat(X, times, axis=0), **params)
    present = fitted(X[times > 0], times[times > 0], **params)
    tolerance = 1e-10 if dtype == np.float64 else 2e-3
    assert difference(weighted, repeated) < tolerance
    assert difference(weighted, present) < tolerance
    assert weighted.means_.dtype == dtype


def test_float32_ends_where_float64_does(blobs, covariance_type):
    params = {"covariance_type": covariance_type, "tol": 1e-5, "max_iter": 500}
    params["means_init"] = blobs[[10, 200, 350, 500]]
    single, double = (fitted(blobs.astype(t), **params) for t in (np.float32, np.float64))
    assert single.lower_bound_ == pytest.approx(double.lower_bound_, abs=1e-3)


def test_no_iterations_give_the_start(blobs):
    model = fitted(blobs, max_iter=0)
    assert (model.n_iter_, model.lower_bound_) == (0, -np.inf)
    assert np.array_equal(model.weights_, np.full(4, 0.25))
    assert model.entropic_ot_gap_ > 0


def test_a_warm_start_rests_where_the_last_fit_ended(blobs):
    model = fitted(blobs, tol=1e-7, max_iter=2000, warm_start=True)
    bound, means = model.lower_bound_, model.means_.copy()
    model.fit(blobs)
    assert model.n_iter_ <= 3
    assert model.lower_bound_ == pytest.approx(bound, abs=1e-4)
    assert np.allclose(model.means_, means, atol=1e-2)


def test_one_component_is_that_of_em(blobs):
    plain = DifferentiableGaussianMixture(1).fit(blobs)
    for options in ({"e_step": "sinkhorn"}, {"init_params": "sinkhorn"}):
        assert difference(plain, DifferentiableGaussianMixture(1, **options).fit(blobs)) < 1e-10


@pytest.mark.parametrize(
    "X",
    [
        np.repeat(np.random.default_rng(1).normal(size=(6, 3)), 20, axis=0),
        np.random.default_rng(2).normal(size=(5, 3)),
        np.random.default_rng(3).standard_cauchy(size=(100, 2)),
        np.random.default_rng(4).normal(size=(100, 3)) * [1.0, 1e-6, 0.0] + [1e6, 0.0, 1.0],
    ],
    ids=["six points", "one sample too many", "cauchy", "thin, constant, far"],
)
@pytest.mark.parametrize("options", [{"e_step": "sinkhorn"}, {"init_params": "sinkhorn"}])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore:reg_covar must be small")
def test_awkward_samples_are_shared_out_all_the_same(X, options):
    model = DifferentiableGaussianMixture(4, random_state=0, **options).fit(X)
    assert all(np.isfinite(getattr(model, name)).all() for name in PARAMETERS)
    assert np.isfinite(model.entropic_ot_gap(X))


def test_verbose_fits_speak_as_plain_ones(blobs):
    with redirect_stdout(io.StringIO()) as out:
        fitted(blobs, verbose=1, verbose_interval=5)
    assert out.getvalue().startswith("Initialization 0\n  Iteration 5\n")
    assert out.getvalue().endswith("Initialization converged.\n")


def test_an_interrupted_fit_keeps_what_it_reached(blobs, monkeypatch):
    model = fitted(blobs)
    calls = []

    def interrupt(log, solution):
        calls.append(solution)
        if len(calls) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("skgmmot.estimators._progress.VerboseLog.step", interrupt)
    with pytest.raises(KeyboardInterrupt):
        model.fit(blobs + 1)
    assert model.n_iter_ == 2
    assert np.array_equal(model.weights_, np.full(4, 0.25))
    assert model.entropic_ot_gap_ == pytest.approx(model.entropic_ot_gap(blobs + 1))


def test_it_is_cloned_pickled_and_predicts(blobs):
    model = fitted(blobs)
    assert clone(model).e_step == "sinkhorn"
    again = pickle.loads(pickle.dumps(model))
    assert np.array_equal(again.predict(blobs), model.predict(blobs))
    assert np.array_equal(clone(model).fit_predict(blobs), model.predict(blobs))


# --- what is refused -----------------------------------------------------------------------------


def test_what_cannot_be_is_refused_in_plain_words(blobs):
    model = fitted(blobs)
    before = model.means_
    message = "acceleration must be None with e_step='sinkhorn', got 'newton', which extrapolates"
    with pytest.raises(ValueError, match=message):
        model.set_params(acceleration="newton").fit(blobs)
    assert model.means_ is before
    message = "weights must be positive where each component receives its weight, got 0 in comp"
    weights = [0.5, 0.5, 0.0, 0.0]
    for options in ({}, {"e_step": "posterior", "init_params": "sinkhorn"}):
        with pytest.raises(ValueError, match=message):
            fitted(blobs, weights_init=weights, **options)
    for name in ("e_step", "init_params"):
        with pytest.raises(InvalidParameterError, match=f"The '{name}' parameter .* must be a str"):
            fitted(blobs, **{name: "balanced"})


# --- the gap -------------------------------------------------------------------------------------


def test_the_gap_is_that_of_the_two_readings(blobs, covariance_type, rng):
    model = DifferentiableGaussianMixture(
        4, covariance_type=covariance_type, max_iter=0, random_state=0
    ).fit(blobs)
    a = rng.uniform(size=len(blobs))
    samples = torch.tensor(blobs), torch.tensor(a)
    free, balanced = (
        float(entropic_ot_objective(model._params(), *samples, balanced=b)) for b in (False, True)
    )
    gap = model.entropic_ot_gap(blobs, sample_weight=a)
    assert gap > 1e-3
    assert gap == pytest.approx(balanced - free, abs=1e-10)


def test_there_is_no_gap_where_em_ends(blobs):
    plain = DifferentiableGaussianMixture(4, tol=1e-13, max_iter=5000, random_state=0).fit(blobs)
    assert 0 <= plain.entropic_ot_gap(blobs) < 1e-10
    assert 0 <= plain.entropic_ot_gap_ < 1e-10
    assert fitted(blobs, weights_init=[0.7, 0.1, 0.1, 0.1]).entropic_ot_gap_ > 1e-3


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_plain_fit_bounds_its_gap_from_the_last_pass(blobs, covariance_type, dtype, rng):
    a = rng.uniform(size=len(blobs))
    options = {"covariance_type": covariance_type, "random_state": 0, "tol": 0.0}
    X = blobs.astype(dtype)
    before, after = (
        DifferentiableGaussianMixture(4, max_iter=i, **options).fit(X, sample_weight=a)
        for i in (2, 3)
    )
    w, share = before.weights_.astype(np.float64), after.weights_.astype(np.float64)
    assert after.entropic_ot_gap_ == pytest.approx(w @ np.log(w / share), rel=1e-2, abs=1e-9)
    assert 0 < after.entropic_ot_gap_ <= before.entropic_ot_gap(X, sample_weight=a)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_bound_takes_no_pass_of_its_own(blobs, monkeypatch):
    passes = []
    sums = EM.sums
    monkeypatch.setattr(EM, "sums", lambda *given: passes.append(1) or sums(*given))
    model = DifferentiableGaussianMixture(4, max_iter=5, tol=0.0, random_state=0).fit(blobs)
    assert model.n_iter_ == len(passes) == 5
    assert model.entropic_ot_gap_ > 0


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_bound_is_that_of_the_best_start(blobs):
    options = {"init_params": "random_from_data", "max_iter": 4, "tol": 0.0}
    several = DifferentiableGaussianMixture(4, n_init=4, random_state=2, **options).fit(blobs)
    rng, runs = np.random.RandomState(2), []
    for _ in range(4):
        runs.append(DifferentiableGaussianMixture(4, random_state=rng, **options).fit(blobs))
    best = max(runs, key=lambda model: model.lower_bound_)
    assert best is not runs[-1]
    assert several.entropic_ot_gap_ == pytest.approx(best.entropic_ot_gap_, rel=1e-12)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_weights_that_are_held_leave_a_gap(blobs):
    held = DifferentiableGaussianMixture(
        4, fixed_weights=True, weights_init=[0.7, 0.1, 0.1, 0.1], random_state=0
    ).fit(blobs)
    assert 1e-3 < held.entropic_ot_gap_ <= held.entropic_ot_gap(blobs) + 1e-6
    start = DifferentiableGaussianMixture(4, max_iter=0, random_state=0).fit(blobs)
    assert 0 <= start.entropic_ot_gap_ <= start.entropic_ot_gap(blobs)


def test_a_polished_fit_has_next_to_no_gap(blobs):
    options = {"tol": 1e-4, "max_iter": 500, "random_state": 0}
    X = torch.tensor(blobs, requires_grad=True)
    plain = DifferentiableGaussianMixture(4, **options).fit(blobs)
    polished = DifferentiableGaussianMixture(4, **options).fit(X)
    assert polished.entropic_ot_gap_ < 1e-12 < plain.entropic_ot_gap_
    one_step = DifferentiableGaussianMixture(4, gradient="one_step", **options).fit(X)
    assert one_step.entropic_ot_gap_ == pytest.approx(plain.entropic_ot_gap_, rel=1e-9)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_gap_of_a_fit_is_kept_and_replaced_with_the_fit(blobs):
    model = DifferentiableGaussianMixture(4, max_iter=2, warm_start=True, random_state=0)
    first = model.fit(blobs).entropic_ot_gap_
    assert pickle.loads(pickle.dumps(model)).entropic_ot_gap_ == first
    with pytest.raises(ValueError, match="NaN"):
        model.fit(np.full_like(blobs, np.nan))
    assert model.entropic_ot_gap_ == first
    for _ in range(20):
        model.fit(blobs)
    assert 0 <= model.entropic_ot_gap_ < first / 10


def test_the_gap_keeps_its_digits_where_one_sample_is_far_away(blobs):
    model = DifferentiableGaussianMixture(4, max_iter=2, tol=1, random_state=0).fit(blobs)
    near, far = (model.entropic_ot_gap(np.vstack([blobs, np.full((1, 3), x)])) for x in (1e4, 1e8))
    assert near == pytest.approx(far, rel=1e-6)
    assert near > 1e-6
    with pytest.raises(ValueError, match=r"X must be smaller than 1.3e.151 for covariances in"):
        model.entropic_ot_gap(np.vstack([blobs, np.full((1, 3), 1e200)]))


def test_a_component_of_weight_zero_receives_nothing(blobs):
    model = fitted(blobs, n_components=3)
    gap = model.entropic_ot_gap(blobs)
    model.weights_ = np.append(model.weights_, 0.0)
    model.means_ = np.vstack([model.means_, blobs.mean(0)])
    model.covariances_ = np.concatenate([model.covariances_, np.eye(3)[None]])
    assert model.entropic_ot_gap(blobs) == pytest.approx(gap, abs=1e-10)


# --- derivatives ---------------------------------------------------------------------------------


@pytest.mark.parametrize("fixed_weights", [False, True])
@pytest.mark.parametrize("gradient", ["implicit", "automatic"])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_gradient_is_that_of_finite_differences(rng, gradient, fixed_weights):
    X = torch.tensor(np.vstack([rng.normal(size=(12, 2)), 3 + rng.normal(size=(8, 2))]))
    a = torch.linspace(0.5, 1.5, len(X), dtype=X.dtype)
    options = {"tol": 0, "max_iter": 15} if gradient == "automatic" else {"gradient_tol": 1e-8}

    def loss(X, a):
        model = fitted(
            X,
            a,
            n_components=2,
            means_init=[[0.0, 0.0], [3.0, 3.0]],
            precisions_init=[np.eye(2)] * 2,
            reg_covar=0.05,
            gradient=gradient,
            fixed_weights=fixed_weights,
            **options,
        )
        return model.means_.square().sum() + model.covariances_[:, 0, 1].sum()

    leaves = X.clone().requires_grad_(), a.clone().requires_grad_()
    found = torch.autograd.grad(loss(*leaves), leaves)
    along, step = torch.tensor(rng.normal(size=X.shape)), 1e-5
    ahead, behind = (float(loss(leaves[0] + s * step * along, leaves[1]).detach()) for s in (1, -1))
    expected = (ahead - behind) / (2 * step)
    assert float((along * found[0]).sum()) == pytest.approx(expected, rel=1e-5, abs=1e-6)
    ahead, behind = (float(loss(leaves[0], leaves[1] * (1 + s * step)).detach()) for s in (1, -1))
    # the size of the weights does not matter
    assert float((a * found[1]).sum()) == pytest.approx(0, abs=1e-6)
    assert ahead == pytest.approx(behind, abs=1e-7)


def test_a_fit_that_is_asked_for_its_gradient_tells_how_near_its_fixed_point_it_is(blobs):
    model = fitted(torch.tensor(blobs, requires_grad=True))
    assert model.solution_.distance < 1e-7
    model.means_.sum().backward()
    assert 0 < model.solution_.adjoint.spectral_radius < 1


# --- the start -----------------------------------------------------------------------------------


@pytest.mark.parametrize("stretch", [5, 10, 20, 40])
def test_stretched_clusters_are_found_where_k_means_starts_fail(stretch):
    found = {"kmeans": [], "sinkhorn": []}
    for seed in range(4):
        X, y = stretched_blobs(seed, stretch)
        for init_params, scores in found.items():
            model = DifferentiableGaussianMixture(2, init_params=init_params, random_state=seed)
            scores.append(adjusted_rand_score(y, model.fit_predict(X)))
    assert np.mean(found["sinkhorn"]) > 0.9
    assert np.mean(found["kmeans"]) < 0.7


def test_a_start_does_not_depend_on_scales_and_directions(blobs, rng):
    A, model = rng.normal(size=(3, 3)), DifferentiableGaussianMixture(4, init_params="sinkhorn")
    model.set_params(random_state=0, max_iter=0, reg_covar=0)
    start, moved = clone(model).fit(blobs), clone(model).fit(blobs @ A + 5)
    assert np.allclose(moved.means_, start.means_ @ A + 5, atol=1e-4)
    assert np.allclose(moved.covariances_, A.T @ start.covariances_ @ A, atol=1e-4)


def test_a_given_start_is_used_once_and_the_next_one_is_another():
    X, _ = make_ring_square_line(random_state=0)
    means = X.mean(0) + 0.1 * np.random.default_rng(0).normal(size=(10, 2))
    params = {"means_init": means, "precisions_init": [100 * np.eye(2)] * 10, "random_state": 0}
    params |= {"init_params": "sinkhorn", "max_iter": 300}
    once, twice = (DifferentiableGaussianMixture(10, n_init=n, **params).fit(X) for n in (1, 3))
    assert twice.lower_bound_ >= once.lower_bound_
    same = DifferentiableGaussianMixture(10, **{**params, "random_state": 1}).fit(X)
    assert np.array_equal(same.means_, once.means_)  # nothing was drawn


def test_through_all_iterations_the_gradient_arrives_where_components_hardly_overlap(rng):
    # Sinkhorn updates hardly move there: their derivatives would not settle with their values
    X = rng.normal(size=(50, 2)) + np.outer(np.arange(50) % 2, [8, 0])
    options = {"covariance_type": "tied", "weights_init": [0.4, 0.6], "tol": 1e-12, "max_iter": 200}
    found = []
    for gradient in ("implicit", "automatic"):
        points = torch.tensor(X, requires_grad=True)
        model = fitted(points, n_components=2, gradient=gradient, **options)
        found += torch.autograd.grad(model.means_.square().sum(), points)
    assert torch.allclose(*found, rtol=1e-7, atol=1e-7)
