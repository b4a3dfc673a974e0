"""What a fit does by its E-step: climb, and put the end on the graph."""

import pytest
import torch
from torch.testing import assert_close

from skgmmot.fitting.em.gradient.movement import STRATEGIES
from skgmmot.functional import fit_em
from skgmmot.numerics.gradients import Strategy


@pytest.fixture
def problem(make_mixture, make_samples):
    """Three components in two dimensions and 60 samples that they overlap on."""
    return make_mixture("full", 3, 2), 1.5 * make_samples(60, 2)


def test_sinkhorn_em_is_not_accelerated(problem):
    with pytest.raises(ValueError, match="acceleration must be None with e_step='sinkhorn', got"):
        fit_em(*problem, e_step="sinkhorn", acceleration="squarem")


@pytest.fixture
def pair(covariance_type, make_mixture, make_samples):
    """Two components on two clouds of eight samples, and a loss of a fit to them."""
    theta = make_mixture(covariance_type, 2, 2, spread=1.0)
    centres = torch.tensor([[0.0, 3.0], [2.0, -1.0]]).double()
    X = torch.cat([make_samples(8, 2, seed) + centre for seed, centre in enumerate(centres)])
    a = torch.linspace(0.5, 1.5, 16, dtype=X.dtype)
    v = make_samples(*theta.means.shape, seed=5)

    def loss(logits, X, a, **options):
        start = theta._replace(weights=torch.softmax(logits, 0))
        fitted = fit_em(start, X, a, e_step="sinkhorn", reg_covar=0.05, **options).value
        return (v * fitted.means).sum() + fitted.full_covariances()[:, 0].sum()

    return loss, (theta.weights.log(), X, a)


def derivatives_and_differences(loss, inputs, **options):
    """Derivatives along one direction of each input, and finite differences of such fits."""
    leaves = [t.clone().requires_grad_() for t in inputs]
    found = torch.autograd.grad(loss(*leaves, **options), leaves)
    generator, step = torch.Generator().manual_seed(0), 1e-5
    for i, derivative in enumerate(found):
        along = torch.randn(derivative.shape, generator=generator, dtype=derivative.dtype)
        ahead, behind = (
            loss(
                *(t + sign * step * along if j == i else t for j, t in enumerate(leaves)), **options
            )
            for sign in (1, -1)
        )
        yield float((along * derivative).sum()), float((ahead - behind).detach()) / (2 * step)


def test_the_implicit_gradient_is_that_of_fixed_points_wherever_the_fit_stops(pair):
    for found, expected in derivatives_and_differences(*pair, tol=1e-3, gradient_tol=1e-8):
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_the_automatic_gradient_is_that_of_all_iterations(pair):
    options = {"gradient": "automatic", "tol": 0, "max_iter": 8}
    for found, expected in derivatives_and_differences(*pair, **options):
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_one_step_from_the_start_is_the_automatic_gradient_of_one_iteration(pair):
    loss, inputs = pair
    leaves = [t.clone().requires_grad_() for t in inputs[1:]]
    one, other = (
        torch.autograd.grad(loss(inputs[0], *leaves, gradient=g, max_iter=1), leaves)
        for g in ("one_step", "automatic")
    )
    for first, second in zip(one, other, strict=True):
        assert torch.allclose(first, second, atol=1e-12)
        assert first.abs().max() > 1e-3


@pytest.mark.parametrize("gradient", ["automatic", "one_step"])
def test_putting_a_fit_on_the_graph_does_not_change_it(problem, gradient):
    theta, X = problem
    options = {"e_step": "sinkhorn", "reg_covar": 1e-3, "tol": 0, "max_iter": 30}
    plain = fit_em(theta, X, **options).value
    on_graph = fit_em(theta, X.requires_grad_(), gradient=gradient, **options).value
    for one, other in zip(plain, on_graph, strict=True):
        assert torch.allclose(one, other, atol=1e-9)


# --- strategies ----------------------------------------------------------------------------------


class Halved(Strategy):
    """Half of the gradient through the last iteration; for few samples."""

    name = "halved"

    def check(self, loop):
        if loop.e_step.balanced:
            raise ValueError("gradient='halved' must have e_step='posterior'.")

    def attach(self, step, theta0, solution, **_):
        value = step(solution.previous).map(lambda t: t / 2 + t.detach() / 2)
        return solution._replace(value=value)


@pytest.fixture
def halved(monkeypatch):
    monkeypatch.setitem(STRATEGIES, Halved.name, Halved())
    return Halved.name


def test_a_new_strategy_takes_an_object_and_its_name_in_the_registry(problem, halved):
    theta0, X = problem

    def gradient(name):
        inputs = X.clone().requires_grad_()
        fitted = fit_em(theta0, inputs, gradient=name).value
        return torch.autograd.grad(fitted.means.square().sum(), inputs)[0]

    assert_close(gradient(halved), gradient("one_step") / 2)


def test_a_new_strategy_refuses_for_itself(problem, halved):
    theta0, X = problem
    with pytest.raises(ValueError, match="must have e_step='posterior'"):
        fit_em(theta0, X.clone().requires_grad_(), gradient=halved, e_step="sinkhorn")


def test_an_unknown_strategy_is_refused_though_nothing_is_differentiated(problem):
    with pytest.raises(ValueError, match=r"gradient must be one of \['automatic', .*'nonsense'"):
        fit_em(*problem, gradient="nonsense")
