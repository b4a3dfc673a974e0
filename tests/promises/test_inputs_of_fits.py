"""Fits of tensors are finite and right at any mixture and samples, or refused by name."""

import math

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from promises.inputs import REFUSED, answered, assert_finite, drawn, mostly, seeds
from promises.mixture_inputs import reference_matrices
from promises.value_inputs import DOUBLE, any_refused, assert_mixture, problems

import skgmmot.functional as F
from skgmmot.numerics.newton.linearisation import AutogradLinearisation


@given(problems(), st.sampled_from([0.0, 1e-6, 1.0]))
def test_steps_of_em(problem, reg_covar):
    mixture, theta, X = problem
    if theta is REFUSED:
        return
    there = answered(F.em_step, theta, X, reg_covar=reg_covar)
    if there is REFUSED:
        return
    assert_mixture(there)
    plan = answered(F.plan_step, theta, X)
    if plan is REFUSED:
        return
    assert_finite(plan)
    assert (plan.sum(0) * len(X) - 1).abs().max() < 1e-9
    again = answered(F.mixture_step, plan, theta, X, reg_covar=reg_covar)
    assert again is not REFUSED
    size = max(float(t.abs().max()) for t in (X, theta.means))
    assert torch.allclose(again.weights, there.weights, rtol=0, atol=1e-9)
    masses = there.weights[:, None] > 1e-6
    gap = torch.where(masses, again.means - there.means, 0.0).abs().max()
    assert gap <= 1e-6 * size + 1e-300
    values = answered(F.log_density, theta, X), answered(F.log_density, there, X)
    if not any_refused(*values) and not reg_covar:
        before, after = (float(v.mean()) for v in values)
        _, precision = reference_matrices(mixture)
        if math.isfinite(before) and precision < 1e-3:
            assert after >= before - (1e-9 + precision) * (1 + abs(before) + abs(after))


@given(problems(), st.booleans())
def test_entropic_objectives(problem, balanced):
    _, theta, X = problem
    if theta is REFUSED:
        return
    cost = answered(F.entropic_ot_objective, theta, X, balanced=balanced)
    if cost is REFUSED:
        return
    assert not cost.isnan()
    values = answered(F.log_density, theta, X)
    if values is not REFUSED and values.isfinite().all() and cost.isfinite():
        free = -float(values.mean())
        gap = float(cost) - free
        assert gap > -1e-9 * (1 + abs(free)) and (balanced or gap < 1e-9 * (1 + abs(free)))


@given(problems(), st.data())
def test_fits_of_values(problem, data):
    _, theta, X = problem
    if theta is REFUSED:
        return
    options = {
        "e_step": data.draw(mostly("posterior", "sinkhorn")),
        "acceleration": data.draw(mostly(None, "squarem", "newton")),
        "reg_covar": data.draw(mostly(1e-6, 0.0, 1.0)),
        "max_iter": data.draw(mostly(5, 1)),
    }
    found = answered(F.fit_em, theta, X, **options)
    if found is not REFUSED:
        assert_mixture(found.value)
    covariance = answered(F.parameter_covariance, theta, X)
    if covariance is not REFUSED:
        assert_finite(covariance.covariance, covariance.errors)
        assert (covariance.errors >= 0).all()
    weights = torch.ones(len(X), dtype=DOUBLE)
    fitted = answered(F.fit_to_points, theta, X, weights, n_nodes=64, max_iter=2)
    if fitted is not REFUSED:
        assert_mixture(fitted.value)


@given(problems(), st.data())
def test_any_plan_costs_at_least_the_best(problem, data):
    _, theta, X = problem
    if theta is REFUSED:
        return
    rng = np.random.default_rng(data.draw(seeds))
    K, n = len(theta.weights), len(X)
    weights = torch.tensor(rng.random(n) * (rng.random(n) < data.draw(mostly(1.0, 0.5))))
    if not weights.any():
        weights[0] = 1.0
    best = answered(F.plan_step, theta, X, weights)
    other = torch.tensor(rng.dirichlet(np.ones(K), size=n).T) * (weights / weights.sum())
    values = answered(F.log_density, theta, X)
    if any_refused(best, values):
        return
    costs = [answered(F.plan_objective, P, theta, X, weights) for P in (best, other)]
    least, cost = (float(t) for t in costs)
    assert not math.isnan(cost) and not math.isnan(least)
    seen = values[weights > 0]
    if seen.isfinite().all() and math.isfinite(least):
        share = (weights / weights.sum())[weights > 0]
        rounding = 1e-9 * (1 + float(share @ seen.abs()))
        assert abs(least + float(share @ seen)) <= rounding
        assert cost >= least - rounding


@given(problems(), st.sampled_from(["one_step", "implicit", "automatic", "natural"]), st.data())
def test_fits_that_follow_samples(problem, gradient, data):
    _, theta, X = problem
    if theta is REFUSED:
        return
    options = {
        "gradient": gradient,
        "max_iter": data.draw(mostly(1, 3)),
        "gradient_tol": data.draw(mostly(0.1, 1e-6)),
        "reg_covar": data.draw(mostly(1e-6, 0.0, 1.0)),
    }
    em = answered(F.WarmStart, theta, **options)
    if em is REFUSED:
        return
    for step in range(3):
        X = (X.detach() * (1 + 1e-3 * step)).requires_grad_()
        before = em.theta
        found = answered(em, X)
        if found is REFUSED:
            assert em.theta is before  # the fit before stays
            return
        assert_mixture(found.detach())
        slope = answered(torch.autograd.grad, found.means.mean(), X)
        assert_finite(slope)


PRIORS = {
    "weight_concentration": mostly(1.0, 2.0, 1e6, 0.5, math.nan),
    "mean_precision": mostly(0.01, 1e-300, 1e6, 0.0),
    "degrees_of_freedom": mostly(None, 1e6, 1e-3),
    "scale": mostly(None, 1.0, 1e-300, 1e100, -1.0),
}


@given(problems(), st.data())
def test_fits_with_priors(problem, data):
    _, theta, X = problem
    if theta is REFUSED:
        return
    prior = answered(F.Prior, **drawn(data.draw, PRIORS))
    if prior is REFUSED:
        return
    options = {"reg_covar": data.draw(mostly(0.0, 1e-6)), "prior": prior}
    found = answered(F.fit_em, theta, X, max_iter=5, tol=0.0, **options)
    if found is REFUSED:
        return
    assert_mixture(found.value)
    if prior.weight_concentration > 1:
        assert (found.value.weights > 0).all()
    if not options["reg_covar"]:  # then the posterior density cannot fall
        values = np.array(found.objectives)
        assert (np.diff(values) >= -1e-7 * (1 + abs(values[1:]) + abs(values[:-1]))).all()


@given(problems(), st.sampled_from([2.0, 1.0, 3.0]), st.integers(1, 3))
def test_sliced_fits_of_values(problem, p, n_projections):
    _, theta, X = problem
    if theta is REFUSED:
        return
    objective = answered(
        F.SlicedObjective,
        X,
        theta.covariance_type,
        p=p,
        n_projections=n_projections,
        generator=torch.Generator().manual_seed(0),
    )
    if objective is REFUSED:
        return
    found = answered(F.fit_sliced, objective, theta, max_iter=12)
    if found is REFUSED:
        return
    assert_mixture(found.value)
    start = objective.distance(objective.to_mixture(objective.to_point(theta)))
    assert found.objective <= start or math.isnan(start)


@given(
    seeds,
    st.integers(1, 6),
    st.sampled_from([0.0, 0.5, 0.999]),
    st.sampled_from([1e-150, 1, 1e150]),
)
def test_slopes_of_fixed_points_of_linear_maps(seed, n, radius, size):
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.normal(size=(n, n)))
    values = radius * np.concatenate([[1], rng.uniform(-1, 1, n - 1)])
    A = torch.tensor(basis * values @ basis.T)
    b = torch.tensor(size * rng.normal(size=n), requires_grad=True)
    end = torch.linalg.solve(torch.eye(n, dtype=DOUBLE) - A, b.detach())
    solution = F.Solution((end,), (end,), 0.0, (), 1, True, 0.0)
    adjoint = F.Adjoint()
    (theta,) = F.implicit(lambda theta: (A @ theta[0] + b,), (end,), solution, adjoint=adjoint)
    (slope,) = torch.autograd.grad(theta.sum() / size, b)
    expected = torch.linalg.solve(torch.eye(n, dtype=DOUBLE) - A, torch.ones(n, dtype=DOUBLE))
    assert torch.allclose(slope * size, expected, rtol=1e-8)
    assert adjoint.residual < 1e-9
    linear = AutogradLinearisation(lambda theta: (A @ theta[0] + b.detach(),), (end,))
    assert abs(F.spectral_radius(linear) - radius) < 1e-7
