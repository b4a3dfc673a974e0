"""EM as block-coordinate descent: the objective of any plan, and its two half steps."""

import pytest
import torch
from torch.autograd import gradcheck
from torch.testing import assert_close

from skgmmot.fitting.em.coordinate_descent import mixture_step, plan_objective, plan_step
from skgmmot.fitting.em.entropic import entropic_ot_objective
from skgmmot.fitting.em.step import em_step
from skgmmot.gaussian.covariance.registry import ELEMENTARY_TYPES


@pytest.fixture(params=[t.name for t in ELEMENTARY_TYPES])
def problem(request, make_mixture, make_samples):
    """A mixture of each covariance type, samples that it overlaps on, and their weights."""
    generator = torch.Generator().manual_seed(5)
    a = torch.rand(50, generator=generator, dtype=torch.float64) + 0.1
    return make_mixture(request.param, 3, 2), 1.5 * make_samples(50, 2), a


def other_plans(plan, a):
    """Plans of the same samples, in other shares of the components."""
    yield a / a.sum() * torch.full_like(plan, 1 / 3)
    yield 0.7 * plan + 0.3 * plan.roll(1, 0)


def test_the_least_objective_of_a_mixture_is_its_negative_log_likelihood(problem):
    theta, X, a = problem
    plan = plan_step(theta, X, a)
    assert_close(plan.sum(0), a / a.sum())
    least = plan_objective(plan, theta, X, a)
    assert_close(least, entropic_ot_objective(theta, X, a), rtol=1e-10, atol=1e-10)
    assert all(plan_objective(P, theta, X, a) > least for P in other_plans(plan, a))


def test_two_half_steps_are_an_iteration_of_em_and_none_goes_up(problem):
    theta, X, a = problem
    values = []
    for _ in range(4):
        plan = plan_step(theta, X, a)
        values.append(float(plan_objective(plan, theta, X, a)))
        following = mixture_step(plan, theta, X)
        values.append(float(plan_objective(plan, following, X, a)))
        assert_close(tuple(following), tuple(em_step(theta, X, a)))
        theta = following
    assert values == sorted(values, reverse=True)


def test_the_mixture_of_a_plan_is_a_stationary_point(problem):
    theta, X, a = problem
    for plan in other_plans(plan_step(theta, X, a), a):
        best = mixture_step(plan, theta, X).map(lambda t: t.requires_grad_())
        plan_objective(plan, best, X, a).backward()
        slopes = best.weights.grad  # along the simplex
        assert_close(slopes, slopes.mean().expand(3), rtol=0, atol=1e-9)
        assert float(best.means.grad.abs().max()) < 1e-9
        slopes = best.covariance_type.base.symmetric(best.covariances.grad)
        assert float(slopes.abs().max()) < 1e-9


def test_it_passes_gradcheck_in_plan_mixture_and_samples(make_mixture, make_samples):
    theta, X = make_mixture("full", 2, 2), make_samples(5, 2)
    plan = plan_step(theta, X) * 0.9

    def objective(plan, weights, means, X):
        return plan_objective(plan, theta._replace(weights=weights, means=means), X)

    inputs = [t.clone().requires_grad_() for t in (plan, theta.weights, theta.means, X)]
    assert gradcheck(objective, inputs)


def test_mass_where_there_is_none_costs_infinitely_much_and_none_costs_nothing(
    make_mixture, make_samples
):
    theta, X = make_mixture("full", 2, 2), make_samples(5, 2)
    empty = theta._replace(weights=torch.tensor([0.0, 1.0], dtype=X.dtype))
    plan = plan_step(empty, X)
    assert torch.isfinite(plan_objective(plan, empty, X))
    assert plan_objective(torch.full_like(plan, 0.1), empty, X) == torch.inf
    assert_close(mixture_step(plan, empty, X).means[0], theta.means[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda P: P.mT, "shape \\(3, 50\\)"),
        (lambda P: -P, "negative"),
        (lambda P: P * torch.nan, "nan"),
    ],
)
def test_what_is_no_plan_is_refused(change, message, problem):
    theta, X, a = problem
    plan = change(plan_step(theta, X, a))
    with pytest.raises(ValueError, match=message):
        plan_objective(plan, theta, X, a)
    with pytest.raises(ValueError, match=message):
        mixture_step(plan, theta, X)


def test_a_weight_of_zero_to_which_nothing_goes_has_the_derivative_of_the_mass(problem):
    theta, X = problem[:2]
    K = len(theta.weights)
    weights = torch.eye(K, dtype=X.dtype)[0].requires_grad_()
    plan = torch.zeros(K, len(X), dtype=X.dtype)
    plan[0] = 1 / len(X)
    plan_objective(plan, theta._replace(weights=weights), X).backward()
    assert_close(weights.grad[1:], torch.ones(K - 1, dtype=X.dtype))
