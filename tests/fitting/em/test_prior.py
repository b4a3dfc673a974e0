"""Conjugate priors: the M-step, the objective, the gradient, and what is refused."""

from types import SimpleNamespace

import map_em
import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.mixture import BayesianGaussianMixture
from torch.testing import assert_close

from skgmmot import Prior
from skgmmot.fitting.em.constraint import FREE, constraint_of
from skgmmot.fitting.em.iterations import EMStep
from skgmmot.fitting.em.prior import check_prior
from skgmmot.fitting.em.rows import EM
from skgmmot.fitting.samples import InMemory
from skgmmot.functional import fit_em
from skgmmot.numerics import blocks

F64 = torch.float64
TYPES = ["full", "tied", "diag", "spherical"]
K, d = 3, 2
SCALES = {
    "full": [[2.0, 0.5], [0.5, 1.0]],
    "tied": [[2.0, 0.5], [0.5, 1.0]],
    "diag": [2.0, 1.0],
    "spherical": 1.5,
}


def prior_of(kind, **options):
    """A prior of two features, for the library and for the reference."""
    alpha, mean, kappa, nu = [1.5, 2.0, 1.0], [0.5, -1.0], 0.7, 5.0
    ours = Prior(alpha, mean, kappa, nu, SCALES[kind])
    theirs = SimpleNamespace(
        alpha=np.array(alpha), mean=np.array(mean), kappa=kappa, nu=nu, scale=np.array(SCALES[kind])
    )
    return ours, theirs


def dense(theta):
    """A mixture as arrays, with matrices."""
    return theta.weights.numpy(), theta.means.numpy(), theta.full_covariances().numpy()


@pytest.fixture(params=TYPES)
def problem(request, make_mixture, make_samples):
    """A covariance type, a start, samples around it and weights."""
    theta = make_mixture(request.param, K, d)
    theta = theta._replace(means=1.5 * theta.means)
    X = make_samples(12, d) + theta.means.repeat(4, 1) + 3
    return request.param, theta, X, make_samples(12, 1, seed=9).mul(0.3).exp().squeeze(1)


# --- closed forms --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TYPES)
def test_one_component_has_the_posterior_mode_in_closed_form(kind, make_mixture, make_samples):
    X = make_samples(7, d) + 2
    prior, _ = prior_of(kind)
    prior = Prior(2.0, prior.mean, 0.7, 5.0, prior.scale)
    found = fit_em(make_mixture(kind, 1, d), X, prior=prior, reg_covar=0.0, max_iter=3).value
    mu, n = torch.tensor([0.5, -1.0], dtype=F64), 7
    mean = (X.sum(0) + 0.7 * mu) / (n + 0.7)
    scatter = (X - mean).mT @ (X - mean) + 0.7 * torch.outer(mu - mean, mu - mean)
    scale = torch.tensor(SCALES[kind], dtype=F64)
    if kind in ("full", "tied"):
        expected = (scatter + scale) / (n + 5 + d + 2)
    elif kind == "diag":
        expected = torch.diag(scatter.diagonal() + scale) / (n + 5 + 3)
    else:
        expected = (scatter.trace() + scale) / (d * n + 5 + 2 + d) * torch.eye(d, dtype=F64)
    assert_close(found.weights, torch.ones(1, dtype=F64))
    assert_close(found.means[0], mean)
    assert_close(found.full_covariances()[0], expected)


def test_iterations_are_those_of_the_reference(problem):
    kind, theta, X, a = problem
    ours, theirs = prior_of(kind)
    expected = dense(theta)
    for _ in range(3):
        expected = map_em.step(kind, *expected, X.numpy(), a.numpy(), theirs)
    found = fit_em(theta, X, a, prior=ours, reg_covar=0.0, max_iter=3, tol=0.0).value
    for mine, other in zip(dense(found), expected, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-9, atol=1e-11)


def test_the_objective_is_the_log_posterior_up_to_a_constant(problem):
    kind, theta, X, a = problem
    ours, theirs = prior_of(kind)
    solution = fit_em(theta, X, a, prior=ours, reg_covar=0.0, max_iter=6, tol=0.0)
    point, expected = dense(theta), []
    for _ in range(6):
        expected.append(map_em.objective(kind, *point, X.numpy(), a.numpy(), theirs))
        point = map_em.step(kind, *point, X.numpy(), a.numpy(), theirs)
    # the constants of the densities do not change along the way
    np.testing.assert_allclose(np.diff(solution.objectives), np.diff(expected), atol=1e-9)


def test_defaults_are_those_of_fraley_and_raftery(problem):
    kind, theta, X, _ = problem
    cov = np.cov(X.numpy().T, bias=True) / K ** (2 / d)
    scale = {"diag": np.diag(cov), "spherical": np.trace(cov) / d}.get(kind, cov)
    theirs = SimpleNamespace(alpha=1.0, mean=X.mean(0).numpy(), kappa=0.01, nu=d + 2, scale=scale)
    expected = map_em.step(kind, *dense(theta), X.numpy(), np.ones(len(X)), theirs)
    found = fit_em(theta, X, prior="auto", reg_covar=0.0, max_iter=1, tol=0.0).value
    for mine, other in zip(dense(found), expected, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-9, atol=1e-11)


def test_a_number_is_that_multiple_of_the_identity(problem):
    kind, theta, X, _ = problem
    one = {"diag": 3 * np.ones(d), "spherical": 3.0}.get(kind, 3 * np.eye(d))
    given = [fit_em(theta, X, prior=Prior(scale=scale)).value for scale in (3, one)]
    assert_close(*map(tuple, given))


def test_means_shrink_as_those_of_sklearn(make_mixture, make_samples):
    # of its formulas only that of the means is the same: it finds expectations, not modes
    X = make_samples(20, 2) + 1
    theirs = BayesianGaussianMixture(mean_precision_prior=3.0, mean_prior=[5.0, 5.0])
    theirs.fit(X.numpy())
    prior = Prior(mean=[5.0, 5.0], mean_precision=3.0)
    ours = fit_em(make_mixture("full", 1, 2), X, prior=prior).value
    np.testing.assert_allclose(ours.means.numpy(), theirs.means_, rtol=1e-8)


# --- the objective -------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(100))
def test_no_iteration_lowers_the_objective(seed, make_mixture, make_samples):
    X = make_samples(4 + seed % 17, d, seed=seed)
    theta = make_mixture(TYPES[seed % 4], 1 + seed % 5, d, seed=seed)
    prior = Prior(1 + seed % 2, mean_precision=10.0 ** (seed % 4 - 2))
    options = {"prior": prior, "reg_covar": 0.0, "tol": 1e-9, "max_iter": 60}
    solution = fit_em(theta, X, acceleration="squarem" if seed % 3 == 0 else None, **options)
    objectives = np.array(solution.objectives)
    assert np.isfinite(objectives).all()
    # beside the rounding of sums of this size
    assert (np.diff(objectives) >= -1e-12 * (1 + np.abs(objectives[1:]))).all()


@pytest.mark.parametrize("seed", range(8))
def test_no_balanced_iteration_lowers_the_objective(seed, make_mixture, make_samples):
    X = make_samples(9 + seed, d, seed=seed)
    theta = make_mixture(TYPES[seed % 4], 2 + seed % 2, d, seed=seed)
    options = {"prior": "auto", "reg_covar": 0.0, "tol": 0.0, "max_iter": 150}
    objectives = np.array(fit_em(theta, X, e_step="sinkhorn", **options).objectives)
    # from the hundredth on an iteration allows an imbalance of 1e-4, and costs about its square
    assert (np.diff(objectives[100:]) >= -1e-7).all()


# --- beside noise --------------------------------------------------------------------------------

#: Whose weights stay, noise last.
MASKS = [None, [False, False, True], [True, False, False], [True, True, False]]


def beside_noise(kind, make_mixture, make_samples):
    """A problem of two components and noise, whose samples are a third far away."""
    theta, X, a = small(kind, make_mixture, make_samples)
    X = torch.cat([X, 3 * make_samples(5, 2, seed=3)])
    return theta.with_noise(0.2, -5.0), X, torch.cat([a, a[:5]])


def log_posterior(theta, X, a, alpha, free):
    """Log-likelihood and Dirichlet's density of the free weights, relative to their sum."""
    theta, log_p = theta.detach(), fit_density(theta, X)
    weights = theta.weights[: len(alpha)][free]
    relative = weights / weights.sum() if len(weights) else weights
    return float(a @ log_p + ((alpha[free] - 1) * relative.log()).sum())


def fit_density(theta, X):
    """``log(sum_k w_k g_k(x) + w_0 / V)``, with the densities of SciPy."""
    S, weights = theta.full_covariances().numpy(), theta.weights.numpy()
    each = [multivariate_normal.pdf(X.numpy(), m, s) for m, s in zip(theta.means, S, strict=True)]
    return torch.from_numpy(np.log(weights[:-1] @ np.array(each) + weights[-1] * np.exp(-5.0)))


@pytest.mark.parametrize("alpha", [1.0, 100.0, 1000.0])
@pytest.mark.parametrize("kind", TYPES)
def test_the_weight_of_noise_is_its_share_of_the_samples(alpha, kind, make_mixture, make_samples):
    theta, X, a = beside_noise(kind, make_mixture, make_samples)
    theta = theta._replace(means=torch.zeros_like(theta.means))
    theta = theta._replace(covariances=torch.ones_like(theta.covariances) * theta.covariances[:1])
    # components that coincide: the noise has the same share whatever their weights
    options = {"fixed_means": True, "fixed_covariances": True, "reg_covar": 0.0, "tol": 1e-14}
    options["max_iter"] = 10_000
    found = fit_em(theta, X, a, prior=Prior([alpha, 2 * alpha]), **options).value
    plain = fit_em(theta, X, a, **options).value
    assert_close(found.weights[-1], plain.weights[-1], rtol=1e-6, atol=0.0)
    if alpha > 1:  # w_1 = (s_1 + alpha - 1) / (s + 3 alpha - 2) with s_1 = w_1 s
        share = (found.weights[:-1] / found.weights[:-1].sum())[0]
        assert share == pytest.approx((alpha - 1) / (3 * alpha - 2), rel=1e-6)


@pytest.mark.parametrize("acceleration", [None, "squarem", "newton"])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("kind", TYPES)
def test_noise_leaves_the_largest_posterior(kind, mask, acceleration, make_mixture, make_samples):
    theta, X, a = beside_noise(kind, make_mixture, make_samples)
    alpha, fixed = torch.tensor([4.0, 2.0], dtype=F64), mask is not None and torch.tensor(mask)
    free = ~fixed[:2] if mask else torch.ones(2, dtype=torch.bool)
    held = {"fixed_weights": fixed, "reg_covar": 0.0, "acceleration": acceleration}
    held |= {"fixed_means": True, "fixed_covariances": True}
    if mask == MASKS[3]:
        held["fixed_means"] = False  # else nothing is left to fit
    options = {**held, "tol": 1e-14, "max_iter": 5000, "prior": Prior(alpha.tolist())}
    solution = fit_em(theta, X, a, **options)
    assert (np.diff(solution.objectives) > -1e-13).all()
    found = solution.value
    best = log_posterior(found, X, a, alpha, free)
    if mask != MASKS[3]:
        start = log_posterior(theta, X, a, alpha, free)
        gained = solution.objectives[-1] - solution.objectives[0]
        assert (best - start) / float(a.sum()) == pytest.approx(gained, abs=1e-9)
    moves = [(0, 1), (0, 2), (1, 2)]
    for i, j in moves:
        if mask and (mask[i] or mask[j]):
            continue
        for by in (1e-3, -1e-3):
            weights = found.weights.clone()
            weights[i] += by
            weights[j] -= by
            assert log_posterior(found._replace(weights=weights), X, a, alpha, free) < best


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("kind", TYPES)
def test_fits_beside_noise_have_right_derivatives(kind, mask, make_mixture, make_samples):
    theta, X, a = beside_noise(kind, make_mixture, make_samples)
    fixed, prior = mask is not None and torch.tensor(mask), Prior([4.0, 2.0], mean_precision=3.0)
    held = {"prior": prior, "fixed_weights": fixed}

    def fit(X, a):
        return tuple(fit_em(theta, X, a, tol=1e-8, gradient_tol=1e-10, **held).value)

    again = {"nondet_tol": 1e-8, "fast_mode": True, "atol": 1e-5, "rtol": 1e-4}
    inputs = [t.clone().requires_grad_() for t in (X, a)]
    assert torch.autograd.gradcheck(fit, inputs, **again)
    end = fit_em(theta, X, a, reg_covar=0.0, tol=1e-16, max_iter=5000, **held).value
    origin, samples = blocks.origin(X, a), InMemory(X, a)
    base = theta.covariance_type
    constraint = constraint_of(base, 2, weights=fixed, noise=True)
    constraint = constraint.under(prior, base, 2, samples, origin, 0.0)
    linear = EMStep(EM(samples, origin, 0.0, constraint), X, a).linearise(end.translated(-origin))
    J = linear.product(torch.eye(linear.residual.numel(), dtype=F64))
    assert_close(J, J.mT, rtol=1e-6, atol=1e-6)


# --- invariances ---------------------------------------------------------------------------------


def test_it_does_not_matter_where_the_samples_lie(problem):
    _, theta, X, a = problem
    far = torch.tensor([1e6, -1e6], dtype=F64)
    near = fit_em(theta, X, a, prior="auto").value
    there = fit_em(theta.translated(far), X + far, a, prior="auto").value.translated(-far)
    assert_close(tuple(there), tuple(near), rtol=1e-7, atol=1e-7)


def test_units_of_features_do_not_matter(make_mixture, make_samples):
    for kind in ("full", "tied", "diag"):
        theta, X = make_mixture(kind, K, d), make_samples(15, d)
        by = torch.tensor([100.0, 0.01], dtype=F64)
        axes = by if kind == "diag" else by.unsqueeze(1)
        scaled = theta._replace(
            means=theta.means * by,
            covariances=theta.covariances * (by**2 if kind == "diag" else axes * by),
        )
        options = {"prior": "auto", "reg_covar": 0.0}
        found, other = fit_em(theta, X, **options).value, fit_em(scaled, X * by, **options).value
        assert_close(other.means / by, found.means, rtol=1e-8, atol=1e-10)


def test_a_weight_of_two_is_a_sample_given_twice(problem):
    _, theta, X, _ = problem
    a = torch.ones(len(X), dtype=F64)
    a[:3] = 2
    once = fit_em(theta, X, a, prior="auto", tol=1e-8).value
    twice = fit_em(theta, torch.cat([X, X[:3]]), prior="auto", tol=1e-8).value
    assert_close(tuple(once), tuple(twice), rtol=1e-7, atol=1e-8)


def test_float32_samples_give_the_same_fit(problem):
    kind, theta, X, a = problem
    ours, _ = prior_of(kind)
    exact = fit_em(theta, X.float().double(), a.float().double(), prior=ours).value
    found = fit_em(theta, X.float(), a.float(), prior=ours).value
    assert found.means.dtype == torch.float32
    assert_close(tuple(found.to(dtype=F64)), tuple(exact), rtol=1e-4, atol=1e-4)


def test_squarem_ends_where_plain_em_does(problem):
    kind, theta, X, a = problem
    options = {"prior": prior_of(kind)[0], "tol": 1e-12, "max_iter": 5000}
    plain = fit_em(theta, X, a, **options)
    fast = fit_em(theta, X, a, acceleration="squarem", **options)
    assert_close(tuple(fast.value), tuple(plain.value), rtol=1e-4, atol=1e-4)


# --- collapse ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TYPES)
def test_duplicate_rows_and_too_many_components_give_finite_fits(kind, make_mixture, make_samples):
    X = make_samples(10, d).repeat(4, 1)
    theta = make_mixture(kind, 30, d)
    found = fit_em(theta, X, prior="auto", reg_covar=0.0, max_iter=200).value
    assert all(torch.isfinite(t).all() for t in found)
    variances = torch.linalg.eigvalsh(found.full_covariances())
    assert float(variances.min()) > 1e-4 * float(X.var(0).min())


def test_fewer_samples_than_features_have_the_diagonal_for_a_scale(make_mixture, make_samples):
    X, theta = make_samples(5, 8), make_mixture("full", 2, 8)
    found = fit_em(theta, X, prior="auto", reg_covar=0.0).value
    assert float(torch.linalg.eigvalsh(found.full_covariances()).min()) > 1e-3


def test_a_constant_feature_keeps_reg_covar(make_mixture, make_samples):
    X = make_samples(10, 2)
    X[:, 1] = 4.0
    theta = make_mixture("full", 2, 2)._replace(means=X[:2])
    found = fit_em(theta, X, prior="auto", reg_covar=1e-6).value
    assert_close(found.covariances[:, 1, 1], torch.full((2,), 1e-6, dtype=F64), rtol=1e-6, atol=0)
    with pytest.raises(ValueError, match="scale must be given where a feature of X is constant"):
        fit_em(theta, X, prior="auto", reg_covar=0.0)


def test_a_component_without_samples_is_at_the_prior(make_mixture, make_samples):
    kind, (prior, _) = "full", prior_of("full")
    theta = make_mixture(kind, 3, d)
    far = theta.means.clone()
    far[2] = 1e6
    solution = fit_em(theta._replace(means=far), make_samples(9, d), prior=prior, max_iter=1)
    assert_close(solution.value.means[2], torch.tensor([0.5, -1.0], dtype=F64))


# --- gradients -----------------------------------------------------------------------------------


def small(kind, make_mixture, make_samples):
    """Two components with overlap, nine samples and their weights."""
    means = torch.tensor([[-1.2, -0.6], [1.2, 0.6]], dtype=F64)
    theta = make_mixture(kind, 2, 2)._replace(means=means)
    X = make_samples(10, 2) * 0.8 + means.repeat(5, 1)
    return theta, X, make_samples(10, 1, seed=9).mul(0.3).exp().squeeze(1)


@pytest.mark.parametrize("gradient", ["implicit", "automatic"])
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("prior", ["auto", "given"])
def test_gradients_are_those_of_finite_differences(
    prior, kind, gradient, make_mixture, make_samples
):
    theta, X, a = small(kind, make_mixture, make_samples)
    # an implicit fit is polished from where EM ends
    iterations = {"tol": 1e-6} if gradient == "implicit" else {"tol": 0.0, "max_iter": 4}
    options = {"gradient": gradient, "gradient_tol": 1e-10, **iterations}

    def fit(X, a, mean, scale):
        given = Prior(2.0, mean, 0.5, 4.0, scale) if prior == "given" else Prior(1.5)
        return tuple(fit_em(theta, X, a, prior=given, **options).value)

    mean, scale = torch.tensor([0.3, -0.2], dtype=F64), torch.tensor(SCALES[kind], dtype=F64)
    inputs = [
        t.requires_grad_(i < 2 or prior == "given") for i, t in enumerate((X, a, mean, scale))
    ]
    # GMRES ends where its tolerance is met
    again = {"nondet_tol": 1e-8, "fast_mode": True}
    assert torch.autograd.gradcheck(fit, inputs, atol=1e-5, rtol=1e-4, **again)


@pytest.mark.parametrize("kind", TYPES)
def test_one_step_is_the_derivative_of_the_last_iteration(kind, make_mixture, make_samples):
    theta, X, a = small(kind, make_mixture, make_samples)
    X.requires_grad_()
    end = fit_em(theta, X, a, prior="auto", gradient="one_step")
    last = fit_em(end.previous, X, a, prior="auto", gradient="automatic", max_iter=1)
    found, expected = (torch.autograd.grad(s.value.means.sum(), X)[0] for s in (end, last))
    assert_close(found, expected)


@pytest.mark.parametrize("kind", TYPES)
def test_second_derivatives_are_right(kind, make_mixture, make_samples):
    theta, X, _ = small(kind, make_mixture, make_samples)

    def fit(x):
        X_ = torch.cat([x, X[2:]])
        options = {"prior": "auto", "gradient": "automatic", "max_iter": 1}
        return fit_em(theta, X_, **options).value.means

    assert torch.autograd.gradgradcheck(fit, [X[:2].clone().requires_grad_()], atol=1e-5)


@pytest.mark.parametrize("kind", TYPES)
def test_the_derivative_is_symmetric_at_the_fixed_point(kind, make_mixture, make_samples):
    theta, X, a = small(kind, make_mixture, make_samples)
    prior = Prior(2.0, mean_precision=3.0)
    end = fit_em(theta, X, a, prior=prior, reg_covar=0.0, tol=1e-16, max_iter=5000).value
    origin, samples = blocks.origin(X, a), InMemory(X, a)
    constraint = FREE.under(prior, theta.covariance_type, 2, samples, origin, 0.0)
    em = EM(samples, origin, 0.0, constraint)
    linear = EMStep(em, X, a).linearise(end.translated(-origin))
    J = linear.product(torch.eye(linear.residual.numel(), dtype=F64))
    assert_close(J, J.mT, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("gradient", ["implicit", "automatic"])
def test_balanced_fits_have_the_gradient_of_finite_differences(
    kind, gradient, make_mixture, make_samples
):
    theta, X, a = small(kind, make_mixture, make_samples)
    options = {"gradient": gradient, "gradient_tol": 1e-10, "e_step": "sinkhorn"}
    options["prior"] = Prior(3.0, mean_precision=0.5)
    options |= {"tol": 1e-4} if gradient == "implicit" else {"tol": 0.0, "max_iter": 3}

    def fit(X):
        return tuple(fit_em(theta, X, a, **options).value)[1:]

    # solvers of the adjoint equation stop by what they saw
    again = {"nondet_tol": 1e-9, "fast_mode": True}
    assert torch.autograd.gradcheck(fit, [X.requires_grad_()], atol=1e-5, rtol=1e-4, **again)


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"weight_concentration": 0.5}, ValueError, "at least 1, got 0.5"),
        ({"weight_concentration": [1.0, np.nan, 2.0]}, ValueError, "must be finite"),
        ({"weight_concentration": "many"}, TypeError, "must hold numbers, got 'many'"),
        ({"mean_precision": 0.0}, ValueError, "mean_precision must be positive and finite"),
        ({"mean_precision": -1}, ValueError, "improper; got -1"),
        ({"mean_precision": "auto"}, TypeError, "mean_precision must be a number"),
        ({"degrees_of_freedom": 0}, ValueError, "degrees_of_freedom must be positive"),
        ({"degrees_of_freedom": np.inf}, ValueError, "degrees_of_freedom must be positive"),
        ({"mean": [0.0, np.inf]}, ValueError, "mean must be finite"),
        ({"scale": np.nan}, ValueError, "scale must be finite"),
    ],
)
def test_improper_priors_are_refused_at_once(options, error, message):
    with pytest.raises(error, match=message):
        Prior(**options)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("full", {"degrees_of_freedom": 1.0}, "above 1 for 'full' covariances of 2 feature"),
        ("tied", {"degrees_of_freedom": 0.5}, "above 1 for 'tied' covariances"),
        ("full", {"scale": -1.0}, "scale must be symmetric, positive-definite"),
        ("full", {"scale": [[1.0, 2.0], [2.0, 1.0]]}, "scale must be symmetric, positive-definite"),
        ("diag", {"scale": [1.0, 0.0]}, "scale must be positive"),
        ("spherical", {"scale": 0.0}, "scale must be positive"),
        ("full", {"scale": [1.0, 2.0]}, r"scale must have shape \(2, 2\), got \(2,\)"),
        ("diag", {"scale": np.eye(2)}, r"scale must have shape \(2,\), got \(2, 2\)"),
        ("spherical", {"scale": [1.0, 2.0]}, r"scale must have shape \(\), got \(2,\)"),
        ("full", {"mean": [1.0, 2.0, 3.0]}, r"mean must have shape \(2,\), got \(3,\)"),
        ("full", {"mean": 1.0}, r"mean must have shape \(2,\), got \(\)"),
        ("full", {"weight_concentration": [1.0, 2.0]}, r"of shape \(3,\), got shape \(2,\)"),
    ],
)
def test_priors_of_other_shapes_are_refused(kind, options, message, make_mixture, make_samples):
    with pytest.raises(ValueError, match=message):
        fit_em(make_mixture(kind, 3, 2), make_samples(9, 2), prior=Prior(**options))


@pytest.mark.parametrize("prior", ["flat", None, 3, {"mean": 0}, Prior])
def test_what_is_no_prior_is_refused(prior):
    with pytest.raises((TypeError, ValueError), match="prior must be 'none', 'auto' or a"):
        check_prior(prior)


def test_the_movement_of_samples_has_no_prior(make_mixture, make_samples):
    X = make_samples(9, 2).requires_grad_()
    options = {"gradient": "natural", "fixed_weights": True, "prior": "auto"}
    with pytest.raises(ValueError, match="no prior and no fixed means or covariances"):
        fit_em(make_mixture("full", 3, 2), X, **options)
