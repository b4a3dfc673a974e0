"""Sinkhorn-EM: where it ends, and its derivatives."""

import numpy as np
import pytest
import torch

from skgmmot import DifferentiableGaussianMixture
from skgmmot.fitting.em import sinkhorn
from skgmmot.fitting.em.constraint import FREE
from skgmmot.fitting.em.entropic import entropic_ot_objective, log_densities_of_components
from skgmmot.fitting.em.iterations import EMStep
from skgmmot.fitting.em.prior import Prior
from skgmmot.fitting.em.rows import EM
from skgmmot.fitting.em.sinkhorn import ANY, SinkhornEM, SinkhornStep, untilted
from skgmmot.fitting.samples import InMemory
from skgmmot.functional import fit_em
from skgmmot.gaussian.log_density import log_joint
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.numerics import blocks
from skgmmot.numerics.fixed_point import iterate


@pytest.fixture
def problem(make_mixture, make_samples):
    """Three components in two dimensions and 60 samples that they overlap on."""
    return make_mixture("full", 3, 2), 1.5 * make_samples(60, 2)


@pytest.fixture
def typed_problem(covariance_type, make_mixture, make_samples):
    """The same for each covariance type."""
    return make_mixture(covariance_type, 3, 2), 1.5 * make_samples(60, 2)


def sinkhorn_em(theta, X, a=None, **options):
    with torch.no_grad(), blocks.workers(X.device) as pool:
        em = EM(InMemory(X, a, pool), blocks.origin(X, a), 1e-3)
        start = untilted(theta.translated(-em.origin))
        return iterate(SinkhornEM(em), start, **options).value.mixture().translated(em.origin)


def polished(theta, X, reg_covar):
    """The fixed point of Sinkhorn-EM: a fit that is asked for its gradient is brought there."""
    options = {"e_step": "sinkhorn", "reg_covar": reg_covar, "gradient_tol": 1e-9}
    return fit_em(theta, X.clone().requires_grad_(), **options).value.detach()


def test_sinkhorn_em_ends_where_the_balanced_cost_is_least(typed_problem):
    theta, X = typed_problem
    fitted = polished(theta, X, 1e-3)
    assert torch.equal(fitted.weights, theta.weights)
    # reg_covar is no part of the cost: the means alone are stationary
    means = fitted.means.clone().requires_grad_()
    cost = entropic_ot_objective(fitted._replace(means=means), X, balanced=True)
    (gradient,) = torch.autograd.grad(cost, means)
    assert float(gradient.abs().max()) < 1e-6


@pytest.mark.parametrize("allowed", [ANY, 0.0])
def test_the_objective_is_minus_the_balanced_cost_or_what_an_update_makes_of_it(problem, allowed):
    theta, X = problem
    a = torch.linspace(0.5, 1.5, len(X), dtype=X.dtype)
    em = SinkhornEM(EM(InMemory(X, a), torch.zeros_like(X[0]), 1e-3))
    after, objective = em(untilted(theta, allowed))
    assert float(after.allowed) == pytest.approx(0.9 * allowed)
    w, log_t, log_g = theta.weights, after.log_weights, log_densities_of_components(theta, X)
    share = torch.softmax(log_t.unsqueeze(1) + log_g, 0) @ (a / a.sum())
    assert float((share - w).abs().max()) < 1e-10 or allowed
    dual = w @ log_t - (a / a.sum()) @ torch.logsumexp(log_t.unsqueeze(1) + log_g, 0)
    assert objective == pytest.approx(-float(dual - w @ share.log()), abs=1e-12)
    balanced = float(entropic_ot_objective(theta, X, a, balanced=True))
    if allowed:
        assert objective > -balanced + 1e-6  # no dual value is above the least cost
    else:
        assert objective == pytest.approx(-balanced, abs=1e-10)
        at_balance = untilted(theta)._replace(log_weights=log_t)
        assert em.objective(at_balance) == pytest.approx(-balanced, abs=1e-10)


def test_the_objective_has_the_mean_log_density_of_a_prior_more(problem):
    theta, X = problem
    samples, origin, objectives = InMemory(X), torch.zeros_like(X[0]), []
    prior = Prior(2.0, mean=[1.0, -1.0], mean_precision=3.0)
    under_prior = FREE.under(prior, theta.covariance_type, 3, samples, origin, 1e-3)
    for constraint in (FREE, under_prior):
        em = SinkhornEM(EM(samples, origin, 1e-3, constraint))
        after, objective = em(untilted(theta, 0.0))
        tilted = untilted(theta)._replace(log_weights=after.log_weights)
        assert objective == pytest.approx(em.objective(tilted), abs=1e-10)
        objectives.append(objective)
    log_density = em.em.log_prior(untilted(theta))
    assert objectives[1] - objectives[0] == pytest.approx(log_density / len(X), abs=1e-10)
    assert log_density < -1


@pytest.mark.parametrize("weighted", [False, True])
def test_the_gap_is_that_between_both_readings(problem, weighted):
    theta, X = problem
    a = torch.linspace(0.5, 1.5, len(X), dtype=X.dtype) if weighted else None
    free, balanced = (entropic_ot_objective(theta, X, a, balanced=b) for b in (False, True))
    em = SinkhornEM(EM(InMemory(X, a), torch.zeros_like(X[0]), 1e-3))
    assert em.gap(untilted(theta)) == pytest.approx(float(balanced - free), rel=1e-9)


def thin_on_a_line():
    """Four thin components on a line."""
    means = torch.tensor([[0.0], [2.0], [5.0], [5.5]]).double()
    variances = torch.full((4, 1), 1e-6).double()
    return GaussianMixtureParams(torch.full((4,), 0.25).double(), means, variances, "spherical")


def test_log_densities_are_held_for_long_balancing_with_the_result_of_passes(monkeypatch):
    theta, X = thin_on_a_line(), torch.tensor([[0.0], [1.0], [5.0]]).double()
    found, passes, dual = {}, [], SinkhornEM.dual
    monkeypatch.setattr(SinkhornEM, "dual", lambda *args: passes.append(0) or dual(*args))
    for held in (0, 2**22):
        monkeypatch.setattr(sinkhorn, "HELD", held)
        em = SinkhornEM(EM(InMemory(X, None), torch.zeros(1).double(), 1e-3))
        passes.clear()
        found[held] = em.balance(untilted(theta)).log_weights, len(passes)
    torch.testing.assert_close(found[0][0], found[2**22][0])
    assert found[2**22][1] < found[0][1] / 2


def test_samples_of_weight_zero_are_not_held():
    theta, X = thin_on_a_line(), torch.tensor([[0.0], [1.0], [5.0], [1e200]]).double()
    found = []
    for samples in (InMemory(X[:3], None), InMemory(X, torch.tensor([1.0, 1, 1, 0]).double())):
        em = SinkhornEM(EM(samples, torch.zeros(1).double(), 1e-3))
        log_g, a = em._held(untilted(theta))
        dual = sinkhorn.dense_dual(theta.weights.log(), log_g=log_g, a=a)
        found.append(torch.stack([dual.value, *dual.share]))
    torch.testing.assert_close(found[1], found[0])


@pytest.mark.parametrize("weighted", [False, True])
def test_groups_far_apart_are_balanced_in_few_evaluations(monkeypatch, weighted):
    generator = torch.Generator().manual_seed(0)
    means = torch.tensor([[0.0, 0.0], [50.0, 0.0], [0.0, 60.0], [70.0, 80.0]]).double()
    labels = torch.arange(400) ** 2 % 7 % 4
    X = means[labels] + torch.randn(400, 2, generator=generator).double()
    a = torch.arange(400).double() % 3 if weighted else None
    weights = torch.full((4,), 0.25).double()
    theta = GaussianMixtureParams(weights, 0.8 * means, torch.ones(4, 1).double(), "spherical")
    calls, dense = [], sinkhorn.dense_dual
    noting = lambda *args, **held: calls.append(args) or dense(*args, **held)  # noqa: E731
    monkeypatch.setattr(sinkhorn, "dense_dual", noting)
    em = SinkhornEM(EM(InMemory(X, a), torch.zeros(2).double(), 1e-3))
    share = em.em.statistics(em.balance(untilted(theta))).mass / em.em.total
    assert torch.allclose(share, weights, atol=1e-9)
    assert 5 < len(calls) < 100


def test_sinkhorn_em_starts_from_tiny_components_far_from_all_samples(problem):
    theta, X = problem
    eye = torch.eye(X.shape[1], dtype=X.dtype)
    far = theta._replace(means=theta.means + 10, covariances=1e-2 * eye.expand(3, -1, -1).clone())
    fitted = sinkhorn_em(far, X, tol=1e-8, max_iter=500)
    assert all(torch.isfinite(t).all() for t in fitted)
    assert float((fitted.weights @ fitted.means - X.mean(0)).abs().max()) < 1e-3


def test_integer_weights_are_repeated_samples(problem):
    theta, X = problem
    times = torch.arange(len(X)) % 3
    weighted, repeated = (
        sinkhorn_em(theta, *args, tol=0, max_iter=30)
        for args in ((X, times.double()), (X.repeat_interleave(times, 0),))
    )
    for one, other in zip(weighted, repeated, strict=True):
        assert torch.allclose(one, other, atol=1e-10)


def test_a_heated_mixture_has_the_responsibilities_of_flattened_densities(typed_problem):
    theta, X = typed_problem
    joint = log_joint(theta.prepare(), X)
    heated = untilted(theta).heated(7.0)
    shift = theta.weights.log() * (1 - 1 / 7)  # the tilt is no part of what is flattened
    found = log_joint(heated, X) - shift.unsqueeze(1)
    assert torch.allclose(torch.softmax(found, 0), torch.softmax(joint / 7, 0), atol=1e-12)


@pytest.mark.parametrize(("covariance_type", "seed"), [("full", 0), ("tied", 1), ("full", 2)])
def test_components_as_thin_as_reg_covar_are_balanced(rng, covariance_type, seed):
    # fewer samples than features, of sizes from 1e-3 to 1e3: log-densities of size 1e11
    X = rng.normal(size=(11, 15)) * 10 ** np.linspace(-3, 3, 15)
    options = {"init_params": "sinkhorn", "reg_covar": 1e-8, "random_state": seed}
    model = DifferentiableGaussianMixture(3, covariance_type=covariance_type, **options).fit(X)
    assert np.isfinite(model.lower_bound_) and (model.weights_ > 0).all()


def test_weights_must_be_positive(problem):
    theta, X = problem
    dead = theta._replace(weights=torch.tensor([0.5, 0.0, 0.5]).double())
    message = "weights must be positive where each .* got 0 in component 1. Leave it out."
    with pytest.raises(ValueError, match=message):
        fit_em(dead, X, e_step="sinkhorn")


# --- derivatives ---------------------------------------------------------------------------------


@pytest.mark.parametrize("allowed", [2.0, 0.02])  # any imbalance; less than there is
def test_the_iteration_on_the_graph_is_that_on_constants(problem, allowed):
    theta, X = problem
    em = EM(InMemory(X), torch.zeros_like(X[0]), 0.0)
    start = untilted(theta, allowed)
    moved = SinkhornStep(EMStep(em, X), theta.weights)(start)
    with em.at_work():
        expected, _ = SinkhornEM(em)(start)
    for found, theirs in zip(moved.mixture(), expected.mixture(), strict=True):
        torch.testing.assert_close(found, theirs, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(moved.log_weights, expected.log_weights, rtol=1e-8, atol=1e-8)
    assert float(moved.allowed) == float(expected.allowed) == pytest.approx(0.9 * allowed)


def test_the_balanced_iteration_has_a_symmetric_derivative_where_it_rests(problem):
    theta, X = problem
    fitted = polished(theta, X, 0.0)
    em = EM(InMemory(X), torch.zeros_like(X[0]), 0.0)
    linear = SinkhornStep(EMStep(em, X), fitted.weights).linearise(untilted(fitted))
    jacobian = linear.product(torch.eye(len(linear.residual), dtype=X.dtype))
    assert float(linear.residual.norm()) < 1e-6
    assert float((jacobian - jacobian.mT).abs().max()) < 1e-5
    assert 0 < float(torch.linalg.eigvalsh(jacobian).max()) < 1
