"""Whole fits as functions: their values, and their gradients."""

import math
import warnings

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from skgmmot import DifferentiableGaussianMixture
from skgmmot.fitting.em import rows
from skgmmot.fitting.em.constraint import constraint_of
from skgmmot.fitting.em.gradient import derivative
from skgmmot.fitting.em.iterations import EMStep
from skgmmot.fitting.em.rows import EM
from skgmmot.fitting.em.step import em_step
from skgmmot.fitting.samples import InMemory
from skgmmot.functional import GaussianMixtureParams, fit_em
from skgmmot.gaussian.log_density import log_density
from skgmmot.gaussian.mixture import select
from skgmmot.numerics import blocks
from skgmmot.numerics.adjoint import InexactGradientWarning
from skgmmot.numerics.gradients import GRADIENTS
from skgmmot.numerics.krylov import SOLVERS
from skgmmot.numerics.newton.linearisation import spectral_radius

F64 = torch.float64
TYPES = ["full", "tied", "diag", "spherical"]
TIGHT = {"tol": 1e-6, "max_iter": 500, "gradient_tol": 1e-9}


@pytest.fixture(params=TYPES)
def problem(request, make_mixture, make_samples):
    """A start, samples around it and their weights, for each covariance type."""
    return problem_of(request.param, make_mixture, make_samples)


def problem_of(name, make_mixture, make_samples, n=30, apart=1.6):
    means = apart * torch.tensor([[-1, -0.5], [1, 0.5]], dtype=F64)  # apart, with some overlap
    start = make_mixture(name, 2, 2)._replace(means=means)
    X = make_samples(n, 2) + means.repeat(n // 2, 1)
    a = make_samples(n, 1, seed=9).mul(0.3).exp().squeeze(1)
    return start, X, a


def loss(theta):
    """A function of everything in a mixture."""
    w, m, S = theta
    return (w**2 * torch.arange(1, len(w) + 1)).sum() + (m**3).sum() + S.sin().sum()


def gradients(start, X, a, **options):
    """Gradients of `loss` of the fit in the samples and their weights."""
    X, a = X.clone().requires_grad_(), a.clone().requires_grad_()
    return torch.autograd.grad(loss(fit_em(start, X, a, **options).value), (X, a))


def relative_error(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


# --- values ------------------------------------------------------------------------------------


@pytest.mark.parametrize("fixed_weights", [False, True])
def test_the_function_fits_what_the_estimator_fits(problem, fixed_weights):
    start, X, a = problem
    kind = start.covariance_type
    model = DifferentiableGaussianMixture(
        2,
        covariance_type=kind.name,
        weights_init=start.weights,
        means_init=start.means,
        precisions_init=kind.to_public(kind.precisions(kind.precision_factor(start.covariances))),
        fixed_weights=fixed_weights,
    ).fit(X, sample_weight=a)
    solution = fit_em(start, X, a, fixed_weights=fixed_weights)
    assert_close(solution.value.weights, torch.as_tensor(model.weights_))
    assert_close(solution.value.means, torch.as_tensor(model.means_))
    covariances = torch.as_tensor(model.covariances_)
    assert_close(kind.to_public(solution.value.covariances), covariances)
    assert solution.n_iter == model.n_iter_
    assert solution.converged


def test_fixed_weights_stay_and_the_rest_moves(problem):
    start, X, a = problem
    free, fixed = (em_step(start, X, a, fixed_weights=f) for f in (False, True))
    assert fixed.weights is start.weights
    assert_close(fixed.means, free.means)
    assert_close(fixed.covariances, free.covariances)
    solution = fit_em(start, X, a, fixed_weights=True)
    assert_close(solution.value.weights, start.weights)


@pytest.mark.parametrize("gradient", ["automatic", "one_step"])
def test_gradients_of_iterations_leave_the_fit_as_it_is(problem, gradient):
    start, X, a = problem
    plain = fit_em(start, X, a)
    on_graph = fit_em(start, X.requires_grad_(), a, gradient=gradient)
    assert_close(tuple(t.detach() for t in on_graph.value), tuple(plain.value))
    assert on_graph.residual == plain.residual
    assert not any(t.requires_grad for t in plain.value)


def test_implicit_gradients_polish_the_fit_to_where_em_would_end(problem):
    start, X, a = problem
    polished = fit_em(start, X.clone().requires_grad_(), a)
    end = fit_em(start, X, a, tol=1e-15, max_iter=20_000).value
    assert_close(tuple(t.detach() for t in polished.value), tuple(end), rtol=1e-5, atol=1e-5)
    assert polished.distance < 3e-7  # three times Newton's step and polished.residual < 1e-7


@pytest.mark.parametrize("seed", range(6))
def test_polishing_never_lowers_the_likelihood(seed, make_mixture, make_samples):
    start = make_mixture("full", 3, 2, seed=seed, spread=1.0)  # much overlap
    X = 1.5 * make_samples(200, 2, seed=seed) + start.means[torch.arange(200) % 3]
    plain = fit_em(start, X, reg_covar=0.0, tol=1e-4)
    polished = fit_em(start, X.requires_grad_(), reg_covar=0.0, tol=1e-4, max_polish=5000)
    gain = log_density(polished.value, X).mean() - log_density(plain.value, X).mean()
    assert gain.item() > -1e-12
    assert polished.distance < 3e-7  # three times Newton's step


@pytest.mark.parametrize(
    ("shape", "K", "name", "seed", "expected"),
    [  # mean log-likelihoods of plain EM at tol=1e-14; the other fixed points are 9e-3 or more away
        ((80, 1), 4, "diag", 32, -1.34625678),
        ((150, 3), 3, "full", 34, -4.01408910),
        ((80, 3), 3, "spherical", 56, -4.08496715),
    ],
)
def test_polishing_ends_where_plain_em_would_though_the_likelihood_is_flat(
    shape, K, name, seed, expected
):
    X = torch.tensor(np.random.default_rng(seed).normal(size=shape))  # one Gaussian
    full = torch.diag(X.var(0)).repeat(K, 1, 1)
    covariances = {
        "full": full,
        "diag": full.diagonal(dim1=1, dim2=2),
        "spherical": X.var(0).mean().repeat(K, 1),
    }
    start = GaussianMixtureParams(torch.full((K,), 1 / K, dtype=F64), X[:K], covariances[name])
    polished = fit_em(start, X.requires_grad_(), reg_covar=1e-3)
    assert polished.objective == pytest.approx(expected, abs=1e-7)


def test_the_residual_is_the_size_of_the_last_step(problem):
    start, X, a = problem
    sizes = [fit_em(start, X, a, max_iter=n, tol=0.0).residual for n in (1, 10, 100)]
    assert sizes[0] > 10 * sizes[1] > 100 * sizes[2] > 0
    assert math.isnan(fit_em(start, X, a, max_iter=0).residual)


# --- gradients against the automatic ones --------------------------------------------------------


@pytest.mark.parametrize("fixed_weights", [False, True])
@pytest.mark.parametrize("name", TYPES)
def test_implicit_gradients_are_the_automatic_ones_at_convergence(
    name, fixed_weights, make_mixture, make_samples
):
    start, X, a = problem_of(name, make_mixture, make_samples, apart=1.9)  # EM settles soon
    options = {"fixed_weights": fixed_weights, "reg_covar": 1e-3}
    expected = gradients(start, X, a, gradient="automatic", tol=0.0, max_iter=60, **options)
    found = gradients(start, X, a, **TIGHT, **options)
    for ours, theirs in zip(found, expected, strict=True):
        assert relative_error(ours, theirs) ** 2 < 1e-12


def test_all_ways_to_products_give_one_gradient(problem, monkeypatch):
    start, X, a = problem
    small = gradients(start, X, a, **TIGHT)
    monkeypatch.setattr(derivative, "has_matrix", lambda features: False)
    features = gradients(start, X, a, **TIGHT)
    monkeypatch.setattr(rows, "feature_e_step", lambda *args: None)
    definition = gradients(start, X, a, **TIGHT)
    assert_close(features, small, rtol=1e-6, atol=1e-8)
    assert_close(definition, small, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dtype", [F64, torch.float32])
@pytest.mark.parametrize("d", [2, 40])
@pytest.mark.parametrize("name", TYPES)
def test_one_gaussian_has_the_gradients_of_moments_and_no_system_to_solve(
    name, d, dtype, make_mixture, make_samples
):
    start, X = make_mixture(name, 1, d).to(dtype=dtype), make_samples(50, d).to(dtype)
    a = make_samples(50, 1, seed=9).exp().squeeze(1).to(dtype)
    leaves = X.clone().requires_grad_(), a.clone().requires_grad_()
    solution = fit_em(start, *leaves, reg_covar=0.0)
    found = torch.autograd.grad(loss(solution.value), leaves)
    expected = [t.double().requires_grad_() for t in (X, a)]
    share = expected[1] / expected[1].sum()
    mean = share @ expected[0]
    centred = expected[0] - mean
    S = torch.einsum("i,ij,ik->jk", share, centred, centred)
    storage = {"diag": S.diagonal()[None], "spherical": S.trace().view(1, 1) / d}.get(name, S[None])
    moments = GaussianMixtureParams(torch.ones(1, dtype=F64), mean[None], storage)
    expected = torch.autograd.grad(loss(moments), expected)
    rounding = 1e-10 if dtype == F64 else 1e-4  # X has 16 digits, or 7
    for ours, theirs in zip(found, expected, strict=True):
        assert relative_error(ours.double(), theirs) < rounding
    assert solution.adjoint.n_products == 1


@pytest.mark.parametrize("K", [2, 3])
def test_a_large_tied_covariance_takes_few_products(K, make_mixture, make_samples):
    d = 20  # 442 numbers or more, and no more than 63 features
    start = make_mixture("tied", K, d)
    X = make_samples(100, d) + start.means[torch.arange(100) % K]
    a = torch.ones(100, dtype=F64)
    expected = gradients(start, X, a, gradient="automatic", tol=0.0, max_iter=60)
    solution = fit_em(start, X.requires_grad_(), a, **TIGHT)
    found = torch.autograd.grad(loss(solution.value), X)[0]
    assert relative_error(found, expected[0]) < 1e-8
    assert solution.adjoint.n_products < 50


def test_automatic_gradients_are_those_of_the_tape(problem):
    start, X, a = problem
    leaves = [t.clone().requires_grad_() for t in (*start, X, a)]
    theta = GaussianMixtureParams(*leaves[:3])
    for _ in range(5):
        theta = em_step(theta, leaves[3], leaves[4], reg_covar=1e-3)
    expected = torch.autograd.grad(loss(theta), leaves)
    leaves = [t.clone().requires_grad_() for t in (*start, X, a)]
    options = {"gradient": "automatic", "tol": 0.0, "max_iter": 5, "reg_covar": 1e-3}
    found = fit_em(GaussianMixtureParams(*leaves[:3]), *leaves[3:], **options)
    assert_close(torch.autograd.grad(loss(found.value), leaves), expected)


def test_every_solver_gives_the_same_gradient(problem):
    start, X, a = problem
    expected = gradients(start, X, a, **TIGHT)  # by the one that is chosen
    for solve in [*SOLVERS, lambda matvec, b: SOLVERS["dense"](matvec, b)]:
        assert_close(gradients(start, X, a, solve=solve, **TIGHT), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", TYPES)
def test_the_dense_solver_takes_products_one_by_one(name, make_mixture, make_samples):
    means = torch.tensor([[-50.0], [50.0], [52.0]], dtype=F64)  # where features lose digits
    start = make_mixture(name, 3, 1)._replace(means=means)
    X, a = make_samples(60, 1) + means.repeat(20, 1), torch.ones(60, dtype=F64)
    expected = gradients(start, X, a, solve="gmres", **TIGHT)
    assert_close(gradients(start, X, a, solve="dense", **TIGHT), expected, rtol=1e-6, atol=1e-8)


def test_one_step_errs_as_the_adjoint_expects(problem):
    start, X, a = problem
    exact, _ = gradients(start, X, a, **TIGHT)
    X = X.clone().requires_grad_()
    solution = fit_em(start, X, a, **TIGHT)
    loss(solution.value).backward()
    cheap, _ = gradients(start, X.detach(), a, gradient="one_step", tol=1e-12, max_iter=2000)
    error = relative_error(cheap, exact)
    assert 0.3 * error < solution.adjoint.one_step_error < 3 * error
    assert 0 < solution.adjoint.spectral_radius < 1


def test_em_contracts_by_its_spectral_radius(problem):
    start, X, a = problem
    end = fit_em(start, X, a, tol=1e-15, max_iter=5000).value
    origin = blocks.origin(X, a)
    step = EMStep(EM(InMemory(X, a), origin, 1e-6), X, a)
    rate = spectral_radius(step.linearise(end.translated(-origin)))
    sizes = [fit_em(start, X, a, tol=0.0, max_iter=n).residual for n in (40, 60)]
    assert (sizes[1] / sizes[0]) ** (1 / 20) == pytest.approx(rate, rel=0.02)


def test_the_derivative_of_em_is_symmetric_at_its_fixed_point(problem):
    start, X, a = problem
    for fixed_weights in (False, True):
        options = {"reg_covar": 0.0, "fixed_weights": fixed_weights, "tol": 1e-15}
        end = fit_em(start, X, a, max_iter=5000, **options).value
        origin = blocks.origin(X, a)
        constraint = constraint_of(start.covariance_type, 2, weights=fixed_weights)
        em = EM(InMemory(X, a), origin, 0.0, constraint)
        step = EMStep(em, X, a, start if fixed_weights else None)
        linear = step.linearise(end.translated(-origin))
        J = linear.product(torch.eye(linear.residual.numel(), dtype=F64))
        assert_close(J, J.mT, rtol=1e-6, atol=1e-6)


# --- gradients against finite differences --------------------------------------------------------

GRADCHECK = {"fast_mode": True, "eps": 1e-5, "atol": 1e-5, "nondet_tol": 1e-8}


@pytest.mark.parametrize("fixed_weights", [False, True])
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_the_fit_passes_gradcheck_in_samples_and_weights(problem, gradient, fixed_weights):
    start, X, a = problem
    # one_step is the derivative of an iteration from a constant; the others, of whole fits
    max_iter = {"one_step": 1, "automatic": 5}.get(gradient, 12)
    options = {"gradient": gradient, "fixed_weights": fixed_weights, "tol": 0.0}

    def fit(X, a):
        value = fit_em(start, X, a, max_iter=max_iter, gradient_tol=1e-10, **options).value
        return value.means, value.covariances, *([] if fixed_weights else [value.weights])

    inputs = (X.requires_grad_(), a.requires_grad_())
    assert torch.autograd.gradcheck(fit, inputs, check_undefined_grad=False, **GRADCHECK)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_fixed_weights_have_a_gradient_too(gradient, problem):
    start, X, a = problem

    def fit(logits):
        theta0 = start._replace(weights=logits.softmax(0))
        max_iter = {"one_step": 1, "automatic": 5}.get(gradient, 12)
        options = {"gradient": gradient, "max_iter": max_iter, "tol": 0.0, "gradient_tol": 1e-10}
        return tuple(fit_em(theta0, X, a, fixed_weights=True, **options).value)

    logits = torch.tensor([0.3, -0.2], dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(fit, logits, check_undefined_grad=False, **GRADCHECK)


def test_automatic_gradients_pass_gradgradcheck(problem):
    start, X, a = problem

    def fit(X, a):
        options = {"gradient": "automatic", "max_iter": 2, "tol": 0.0, "reg_covar": 1e-3}
        return loss(fit_em(start, X, a, **options).value)

    inputs = (X[:8].clone().requires_grad_(), a[:8].clone().requires_grad_())
    assert torch.autograd.gradgradcheck(fit, inputs, fast_mode=True, atol=1e-4)


# --- the edges -----------------------------------------------------------------------------------


def test_a_single_component_has_the_gradient_of_its_moments(make_samples):
    X = make_samples(20, 2).requires_grad_()
    start = GaussianMixtureParams(
        torch.ones(1, dtype=F64), torch.zeros(1, 2, dtype=F64), torch.eye(2, dtype=F64)[None]
    )
    value = fit_em(start, X, reg_covar=0.0).value
    centred = (X - X.mean(0)).detach()
    (of_mean,) = torch.autograd.grad(value.means[0, 0], X, retain_graph=True)
    assert_close(of_mean, torch.tensor([[0.05, 0.0]], dtype=F64).expand(20, 2))
    (of_trace,) = torch.autograd.grad(value.covariances[0].trace(), X)
    assert_close(of_trace, 2 * centred / 20)


@pytest.mark.parametrize("name", TYPES)
def test_gradients_in_one_dimension_are_the_automatic_ones(name, make_mixture, make_samples):
    means = torch.tensor([[-1.8], [1.8]], dtype=F64)
    start = make_mixture(name, 2, 1)._replace(means=means)
    X = make_samples(40, 1) + means.repeat(20, 1)
    a = torch.ones(40, dtype=F64)
    expected = gradients(start, X, a, gradient="automatic", tol=0.0, max_iter=60)
    assert_close(gradients(start, X, a, **TIGHT), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", TYPES)
def test_gradients_are_right_where_covariances_are_equal_and_isotropic(name):
    # two crosses: samples of equal, isotropic covariance, each drawn twice
    cross = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]], dtype=F64)
    X = torch.cat([cross - 1.5, cross + 1.5]).repeat(2, 1)
    kind = {"full": (2, 2, 2), "tied": (1, 2, 2), "diag": (2, 2), "spherical": (2, 1)}[name]
    S = torch.eye(2, dtype=F64).expand(kind) if len(kind) == 3 else torch.ones(kind, dtype=F64)
    means = torch.tensor([[-1.5, -1.5], [1.5, 1.5]], dtype=F64)
    start = GaussianMixtureParams(torch.full((2,), 0.5, dtype=F64), means, S.clone())
    a = torch.ones(len(X), dtype=F64)
    expected = gradients(start, X, a, gradient="automatic", tol=0.0, max_iter=40)
    found = gradients(start, X, a, **TIGHT)
    assert all(torch.isfinite(t).all() for t in found)
    assert_close(found, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_an_empty_component_has_finite_gradients(gradient, problem):
    start, X, a = problem
    far = start.means.clone()
    far[0] += 1e3  # no sample comes near: its responsibilities underflow
    start = start._replace(means=far)
    found = gradients(start, X, a, gradient=gradient, reg_covar=1e-2, max_iter=20)
    assert all(torch.isfinite(t).all() for t in found)
    assert found[0].norm() > 0


def test_gradients_do_not_depend_on_the_offset_or_the_unit_of_the_samples(problem):
    start, X, a = problem
    X = X.clone().requires_grad_()
    options = {"reg_covar": 0.0, **TIGHT}
    (expected,) = torch.autograd.grad(fit_em(start, X, a, **options).value.means.sum(), X)
    w, m, S = start
    moved = GaussianMixtureParams(w, 1e-3 * m + 50.0, 1e-6 * S)
    far = (1e-3 * X.detach() + 50.0).requires_grad_()
    (found,) = torch.autograd.grad(fit_em(moved, far, a, **options).value.means.sum(), far)
    assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_gradients_in_float32_are_those_of_float64(problem):
    start, X, a = problem
    expected = gradients(start, X.float().double(), a.float().double(), **TIGHT)
    X, a = X.float().requires_grad_(), a.float().requires_grad_()
    value = fit_em(start.to(dtype=torch.float32), X, a, **TIGHT).value
    found = torch.autograd.grad(loss(value), (X, a))
    assert {t.dtype for t in (*value, *found)} == {torch.float32}
    for ours, theirs in zip(found, expected, strict=True):
        assert relative_error(ours.double(), theirs) < 1e-5


def test_threads_change_no_bit_of_a_gradient(make_mixture, make_samples):
    start, X, a = problem_of("full", make_mixture, make_samples, n=40_000)
    before, found = torch.get_num_threads(), []
    try:
        for n_threads in (1, 2):
            torch.set_num_threads(n_threads)
            found.append(gradients(start, X, a, gradient_tol=1e-2))
    finally:
        torch.set_num_threads(before)
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_samples_of_weight_zero_count_for_nothing(gradient, problem):
    start, X, a = problem
    outside = torch.cat([X, 3 * X[:4]]), torch.cat([a, torch.zeros(4, dtype=F64)])
    options = {"gradient": gradient, "max_iter": 20, "gradient_tol": 1e-9, "tol": 0.0}
    of_X, _ = gradients(start, *outside, **options)
    assert_close(of_X[:-4], gradients(start, X, a, **options)[0], rtol=1e-6, atol=1e-8)
    assert (of_X[-4:] == 0).all()


# --- what is said --------------------------------------------------------------------------------


def test_a_fit_far_from_its_fixed_point_warns_with_its_residual(problem):
    start, X, a = problem
    X.requires_grad_()
    with pytest.warns(InexactGradientWarning, match=r"residual of .* gradient may be off by .* >"):
        solution = fit_em(start, X, a, max_polish=1)
    assert solution.residual > 1e-6 and solution.distance > 1e-6
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit_em(start, X, a, max_polish=1, gradient_tol=100.0)
        fit_em(start, X, a)


def test_an_adjoint_equation_that_is_not_solved_warns(problem):
    start, X, a = problem

    def none(matvec, b):
        return b

    solution = fit_em(start, X.requires_grad_(), a, solve=none)
    with pytest.warns(InexactGradientWarning, match="adjoint equation was solved to a relative"):
        solution.value.means.sum().backward()


@pytest.fixture
def coinciding():
    """A fit of heavy tails by two Gaussians of one variance, whose means meet."""
    start = GaussianMixtureParams(
        torch.tensor([0.4, 0.6]), torch.tensor([[-0.1], [0.1]]), torch.ones(1, 1, 1), "tied"
    ).to(dtype=F64)
    X = torch.linspace(-1, 1.1, 40, dtype=F64).pow(5).unsqueeze(1).requires_grad_()
    fit = fit_em(start, X, reg_covar=1e-3, tol=1e-6)
    assert abs(fit.value.means[0] - fit.value.means[1]) < 1e-6
    return X, fit.value


def test_what_coinciding_components_determine_has_its_gradient_without_a_warning(coinciding):
    X, theta = coinciding
    (mean,) = torch.autograd.grad((theta.weights @ theta.means).sum(), X, retain_graph=True)
    assert_close(mean, torch.full_like(X, 1 / len(X)), rtol=1e-6, atol=1e-8)
    (variance,) = torch.autograd.grad(theta.covariances.sum(), X)
    assert_close(variance, 2 * (X - X.mean()).detach() / len(X), rtol=1e-6, atol=1e-8)


def test_the_gradient_of_weights_that_nothing_determines_warns(coinciding):
    X, theta = coinciding
    with pytest.warns(InexactGradientWarning, match="nothing determines a parameter"):
        theta.weights[0].backward()
    assert X.grad.isfinite().all()


def test_integers_carry_no_gradient(problem):
    start, X, a = problem
    with pytest.raises(TypeError, match=r"X must be float32 or float64, got torch\.int64"):
        fit_em(start, X.long(), a.requires_grad_())


@pytest.mark.parametrize(
    "change, error, message",
    [
        (lambda s, X, a: (tuple(s), X, a), TypeError, "theta0 must be a GaussianMixtureParams"),
        (lambda s, X, a: (s._replace(means=s.means / 0), X, a), ValueError, "theta0 must be fin"),
        (lambda s, X, a: (s, X.numpy(), a), TypeError, "X must be a tensor, got ndarray"),
        (lambda s, X, a: (s, X.half(), a), TypeError, "X must be float32 or float64, got torch"),
        (lambda s, X, a: (s, X[:, :1], a), ValueError, "the features of theta0, got"),
        (lambda s, X, a: (s, X[:0], a[:0]), ValueError, "the features of theta0, got"),
        (lambda s, X, a: (s, X * torch.nan, a), ValueError, "X must have a finite mean"),
        (lambda s, X, a: (s, X, a[1:]), ValueError, "sample_weight must have shape"),
        (lambda s, X, a: (s, X, a.tolist()), TypeError, "sample_weight must be a tensor"),
        (lambda s, X, a: (s, X, -a), ValueError, "sample_weight must be finite, non-negative"),
        (lambda s, X, a: (s, X, 0 * a), ValueError, "sample_weight must be finite, non-negative"),
    ],
)
def test_what_does_not_fit_together_is_refused(problem, change, error, message):
    with pytest.raises(error, match=message):
        fit_em(*change(*problem))


@pytest.mark.parametrize("field", ["weights", "means", "covariances"])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_one_number_of_the_start_that_is_none_is_refused(problem, field, bad):
    start, X, a = problem
    values = getattr(start, field).clone()
    values.view(-1)[-1] = bad
    with pytest.raises(ValueError, match="theta0 must be finite, got NaN or infinity"):
        fit_em(start._replace(**{field: values}), X, a)


@pytest.mark.parametrize("parameter", ["gradient", "acceleration", "solve", "e_step"])
def test_names_that_are_not_there_are_refused(problem, parameter):
    start, X, a = problem
    with pytest.raises(ValueError, match=f"{parameter} must be one of .* got 'magic'"):
        fit_em(start, X.requires_grad_(), a, **{parameter: "magic"})


def test_accelerated_iterations_are_not_unrolled(problem):
    start, X, a = problem
    options = {"gradient": "automatic", "acceleration": "squarem"}
    assert fit_em(start, X, a, **options).converged
    with pytest.raises(ValueError, match="gradient must be 'implicit' or 'one_step' when EM is"):
        fit_em(start, X.requires_grad_(), a, **options)


def test_nothing_is_polished_where_no_graph_is_built(problem):
    start, X, a = problem
    with torch.no_grad():
        solution = fit_em(start, X.requires_grad_(), a)
    assert math.isnan(solution.distance) and not solution.value.means.requires_grad


def test_implicit_gradients_are_differentiable_once(problem):
    start, X, a = problem
    value = fit_em(start, X.requires_grad_(), a).value
    with pytest.raises(RuntimeError, match="must be differentiated once"):
        torch.autograd.grad(value.means.sum(), X, create_graph=True)


def test_all_iterations_have_their_derivatives_in_a_weight_of_zero(covariance_type, make_mixture):
    start = make_mixture(covariance_type, 3, 2)
    X = start.means.repeat(20, 1) + torch.randn(60, 2, dtype=torch.float64)
    weights = torch.tensor([0.0, 0.4, 0.6], dtype=torch.float64, requires_grad=True)
    X.requires_grad_()

    def by_tape():
        theta = start._replace(weights=weights)
        for _ in range(3):
            theta = em_step(theta, X, reg_covar=1e-3)
        return theta

    options = {"gradient": "automatic", "tol": 0, "max_iter": 3, "reg_covar": 1e-3}
    by_hand = fit_em(start._replace(weights=weights), X, **options).value
    found, expected = (
        torch.autograd.grad(sum((t * t.detach().cos()).sum() for t in theta), (weights, X))
        for theta in (by_hand, by_tape())
    )
    assert found[0][0] != 0
    assert_close(found, expected)


@pytest.mark.parametrize("gradient", ["implicit", "natural"])
def test_a_fit_with_a_weight_of_zero_is_differentiated_as_one_without_it(
    covariance_type, gradient, make_mixture
):
    start = make_mixture(covariance_type, 3, 2)
    X = start.means.repeat(20, 1) + torch.randn(60, 2, dtype=torch.float64)
    start = start._replace(weights=torch.tensor([0.0, 0.4, 0.6], dtype=torch.float64))

    def gradient_of(theta, components):
        leaf = X.clone().requires_grad_()
        options = {"gradient": gradient, "fixed_weights": gradient == "natural", "reg_covar": 0.1}
        fitted = fit_em(theta, leaf, gradient_tol=1e-9, **options).value
        return torch.autograd.grad(fitted.means[components].sin().sum(), leaf)[0]

    found, expected = gradient_of(start, [1, 2]), gradient_of(select(start, [1, 2]), [0, 1])
    assert_close(found, expected, rtol=1e-6, atol=1e-8)
