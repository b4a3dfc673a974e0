"""EM that Newton's method continues."""

import itertools

import numpy as np
import pytest
import torch

from skgmmot.estimators.mixtures.differentiable import DifferentiableGaussianMixture
from skgmmot.fitting.em.fit import fit_em
from skgmmot.fitting.em.prior import Prior
from skgmmot.gaussian.covariance.registry import COVARIANCE_TYPES
from skgmmot.gaussian.mixture import GaussianMixtureParams

F64 = torch.float64
#: What changes of the objective are rounding.
ROUNDING = 1e-12


def problem(seed, name="full", n=200, d=2, K=3):
    """Samples of overlapping components, and a start."""
    rng = np.random.default_rng(seed)
    centres = 1.5 * rng.normal(size=(K, d))
    X = torch.from_numpy(centres[rng.integers(K, size=n)] + rng.normal(size=(n, d)))
    shape = COVARIANCE_TYPES[name].shape(K, d)
    S = torch.eye(d, dtype=F64).expand(shape) if len(shape) == 3 else torch.ones(shape, dtype=F64)
    start = GaussianMixtureParams(torch.full((K,), 1 / K, dtype=F64), X[:K], S.clone())
    return start, X, torch.from_numpy(rng.uniform(size=n))


def both(start, X, a=None, *, tol=1e-9, acceleration=None, **options):
    """EM at a tolerance and Newton's, both to the same end."""
    other = {"tol": tol / 100, "max_iter": 20_000, "acceleration": acceleration}
    ends = other, {"tol": tol, "max_iter": 300, "acceleration": "newton"}
    return tuple(fit_em(start, X, a, **end, **options) for end in ends)


@pytest.mark.parametrize("name", COVARIANCE_TYPES)
@pytest.mark.parametrize("weighted", [False, True])
def test_newton_ends_where_em_does_for_each_covariance_type(name, weighted):
    start, X, a = problem(0, name)
    plain, fast = both(start, X, a if weighted else None)
    assert fast.converged and plain.converged
    assert fast.objective == pytest.approx(plain.objective, abs=1e-7)
    assert fast.n_iter < plain.n_iter / 3


@pytest.mark.parametrize(
    "options",
    [
        {"fixed_weights": True},
        {"fixed_weights": torch.tensor([True, False, False])},
        {"fixed_means": torch.tensor([True, False, False])},
        {"fixed_covariances": True},
        {"prior": "auto"},
        {"prior": Prior(weight_concentration=3.0)},
    ],
    ids=["weights", "a weight", "a mean", "covariances", "prior", "counts"],
)
def test_newton_keeps_what_is_fixed_and_climbs_the_posterior(options):
    start, X, _ = problem(1)
    other, fast = both(start, X, acceleration="squarem", **options)
    assert fast.converged
    assert fast.objective == pytest.approx(other.objective, abs=1e-7)
    for given, name in ((start, "weights"), (start, "means"), (start, "covariances")):
        fixed = options.get(f"fixed_{name}", False)
        mask = torch.as_tensor(fixed).expand(3)
        assert torch.equal(getattr(fast.value, name)[mask], getattr(given, name)[mask])


@pytest.mark.parametrize("K", [1, 2])
def test_one_component_takes_one_step_and_a_fixed_point_none(K):
    start, X, _ = problem(2, K=K)
    if K == 2:  # EM does not leave equal components
        start = start._replace(means=torch.zeros(2, 2, dtype=F64))
    solution = fit_em(start, X, tol=1e-8, acceleration="newton")
    assert solution.converged and solution.n_iter <= 3
    expected = X.mean(0).expand(K, 2)
    torch.testing.assert_close(solution.value.means, expected, rtol=0, atol=ROUNDING)


def test_covariances_without_a_derivative_by_hand_are_refused():
    X = problem(0, d=6)[1].numpy()
    mixture = DifferentiableGaussianMixture(2, covariance_type="lowrank", acceleration="newton")
    with pytest.raises(ValueError, match="acceleration must be None or 'squarem' with 'lowrank'"):
        mixture.fit(X)


def test_labels_and_noise_change_what_newton_fits():
    _, X, _ = problem(0)
    labels = np.full(200, -1)
    labels[:20] = np.arange(20) % 3
    options = {"max_iter": 20_000, "random_state": 0}
    for given, y in (({"labels": "y"}, labels), ({"noise": "uniform"}, None)):
        bounds, n_iter = [], []
        for tol, name in ((1e-11, None), (1e-9, "newton")):
            mixture = DifferentiableGaussianMixture(
                3, acceleration=name, tol=tol, **given, **options
            )
            mixture.fit(X.numpy(), y)
            bounds.append(mixture.lower_bound_)
            n_iter.append(mixture.n_iter_)
        assert bounds[1] == pytest.approx(bounds[0], abs=1e-7)
        assert n_iter[1] < n_iter[0]


def test_the_likelihood_never_falls():
    for seed in range(100):
        start, X, _ = problem(seed, list(COVARIANCE_TYPES)[seed % 4], n=60, K=2)
        options = {"tol": 1e-10, "max_iter": 60, "acceleration": "newton"}
        objectives = fit_em(start, X, **options).objectives
        for before, after in itertools.pairwise(objectives):
            assert after >= before - 1e-8  # reg_covar lets EM itself lose as much


def test_a_large_mixture_is_fitted_by_products():
    start, X, _ = problem(3, n=300, d=6, K=5)
    plain, fast = both(start, X, tol=1e-8)
    assert fast.converged
    assert fast.objective == pytest.approx(plain.objective, abs=1e-7)
    assert fast.n_iter < plain.n_iter


def test_newton_fits_float32_samples_to_the_end():
    start, X, _ = problem(0)
    fast = fit_em(start, X.float(), tol=1e-10, max_iter=300, acceleration="newton")
    exact = fit_em(start, X.float().double(), tol=1e-10, max_iter=300, acceleration="newton")
    assert fast.value.means.dtype == torch.float32
    assert fast.converged and fast.objective == pytest.approx(exact.objective, abs=1e-10)


def test_tol_bounds_what_is_left_to_the_limit():
    start, X, _ = problem(0)
    limit = both(start, X, tol=1e-12)[1].objective
    for tol in (1e-2, 1e-4, 1e-6):
        solution = fit_em(start, X, tol=tol, max_iter=300, acceleration="newton")
        assert solution.converged and limit - solution.objective < 3 * tol
    assert limit - fit_em(start, X, tol=1e-4, max_iter=300).objective > 1e-3  # plain EM


def test_components_that_lose_their_samples_are_no_obstacle():
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(size=(150, 2)), np.full((6, 2), 3.0)])
    options = {"means_init": [[0, 0], [3, 3], [3, 3.1]], "random_state": 0, "reg_covar": 1e-3}
    fits = [
        DifferentiableGaussianMixture(3, acceleration=name, tol=1e-9, max_iter=5000, **options).fit(
            X
        )
        for name in (None, "newton")
    ]
    assert fits[1].converged_
    assert fits[1].score(X) == pytest.approx(fits[0].score(X), abs=1e-6)


def test_newton_goes_on_from_the_last_fit_and_keeps_the_best_start(capsys):
    _, X, _ = problem(0)
    options = {"acceleration": "newton", "tol": 1e-8, "max_iter": 300, "random_state": 0}
    mixture = DifferentiableGaussianMixture(3, warm_start=True, verbose=1, **options).fit(X.numpy())
    assert mixture.fit(X.numpy()).n_iter_ == 1
    assert "converged" in capsys.readouterr().out
    several = DifferentiableGaussianMixture(3, n_init=2, **options).fit(X.numpy())
    assert several.lower_bound_ >= mixture.lower_bound_ - 1e-8
