"""The derivative of EM over samples with missing entries: of a step, and of a fixed point."""

import math

import pytest
import torch
from torch.testing import assert_close

from skgmmot.fitting.em.constraint import Constraint
from skgmmot.fitting.em.e_steps import E_STEPS, Gradient
from skgmmot.fitting.em.fit import fit_from_starts
from skgmmot.fitting.em.iterations import EMStep
from skgmmot.fitting.em.rows import EM
from skgmmot.fitting.samples import InMemory
from skgmmot.gaussian.incomplete.patterns import by_pattern
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.numerics.gradients import GRADIENTS

F64 = torch.float64
K, d, n = 2, 3, 24


@pytest.fixture
def theta(covariance_type, make_mixture):
    """Two components in three dimensions."""
    return make_mixture(covariance_type, K, d, spread=1.0)


@pytest.fixture
def samples(make_samples):
    """Samples with missing entries, sorted, and their weights."""
    X = 2 * make_samples(n, d)
    X[make_samples(n, d, seed=1) < -0.5] = math.nan
    return X[by_pattern(X)], make_samples(n, 1, seed=2).squeeze(1).abs() + 0.5


def em_of(samples, **options):
    """The iteration about the origin."""
    return EM(InMemory(*samples, incomplete=True), torch.zeros(d, dtype=F64), 1e-6, **options)


def test_the_step_is_the_iteration_in_blocks(theta, samples):
    em = em_of(samples)
    found = EMStep(em, *samples)(theta)
    for ours, theirs in zip(found, em(theta)[0], strict=True):
        assert_close(ours, theirs)


def test_the_step_has_the_derivative_of_finite_differences(theta, samples):
    X, a = samples
    missing, base = X.isnan(), theta.covariance_type

    def after(weights, means, covariances, x, a):
        here = GaussianMixtureParams(weights, means, base.symmetric(covariances), base)
        x = torch.where(missing, math.nan, x)
        return tuple(EMStep(em_of((x.detach(), a.detach())), x, a)(here))

    inputs = [t.clone().requires_grad_() for t in (*theta, X.nan_to_num(), a)]
    assert torch.autograd.gradcheck(after, inputs, fast_mode=True)
    if base.diagonal:  # on autograd's tape, without any formula of ours
        assert torch.autograd.gradgradcheck(after, inputs, fast_mode=True)


def test_products_of_the_linearisation_are_those_of_the_step(theta, samples):
    linear = EMStep(em_of(samples), *samples).linearise(theta)
    u = linear.decode(torch.linspace(-1, 1, linear.residual.numel(), dtype=F64))
    start = theta.map(lambda t: t.clone().requires_grad_())
    found = torch.autograd.grad(EMStep(em_of(samples), *samples)(start), list(start), list(u))
    for ours, theirs in zip(linear.pull(u), found, strict=True):
        assert_close(ours, theirs)


def test_the_derivative_is_symmetric_at_a_fixed_point(theta, samples):
    em = em_of(samples)
    em.reg_covar = 0.0
    step = EMStep(em, *samples)
    linear = step.linearise(step.advance(theta, 80))
    size = linear.residual.numel()
    matrix = linear.product(torch.eye(size, dtype=F64))
    assert_close(matrix, matrix.mT, atol=1e-6, rtol=0)  # the residual is of that size
    assert torch.linalg.eigvalsh(matrix).max() < 1


def test_weights_grow_from_zero_as_finite_differences_say(samples, make_mixture):
    theta, em = make_mixture("diag", K, d, spread=0.1), em_of(samples)
    theta = theta._replace(covariances=4 * theta.covariances)

    def after(w):
        return EMStep(em, *samples)(theta._replace(weights=torch.stack([1 - w, w])))

    w = torch.zeros((), dtype=F64, requires_grad=True)
    found = torch.autograd.grad(after(w).means[0].sum() + after(w).weights[1], w)[0]
    h = 1e-7
    ends = [after(torch.tensor(h, dtype=F64)), after(torch.tensor(2 * h, dtype=F64))]
    # the mean of a component of no samples stays where it is: it jumps to where they draw it
    slope = (ends[1].means[0] - ends[0].means[0]).sum() + ends[1].weights[1] - ends[0].weights[1]
    assert float(found) == pytest.approx(float(slope) / h, rel=1e-4)


def test_one_component_is_not_where_it_goes_at_once(samples, make_mixture):
    linear = EMStep(em_of(samples), *samples).linearise(make_mixture("full", 1, d))
    u = torch.ones_like(linear.residual)
    assert linear.product(u).abs().max() > 0.01
    solved, _ = linear.solve(u, 1e-10)
    assert_close(solved - linear.product(solved), u)


def test_parameters_that_stay_have_the_derivative_one(samples, make_mixture):
    constraint = Constraint(means=torch.tensor([True, False]))
    theta = make_mixture("full", K, d)
    means = theta.means.clone().requires_grad_()
    em = em_of(samples, constraint=constraint)
    step = EMStep(em, *samples, theta._replace(means=means))
    after = step(theta)
    assert torch.equal(after.means[0], theta.means[0])
    found = torch.autograd.grad(after.means[0].sum(), means)[0]
    assert_close(found, torch.tensor([[1.0] * d, [0.0] * d], dtype=F64))


def test_the_gradient_of_a_fit_is_that_of_its_fixed_point(samples, make_mixture):
    X, missing = samples[0], samples[0].isnan()
    theta = make_mixture("diag", K, d)

    def fitted(X):
        em = em_of((X.detach(), None))
        how = Gradient(GRADIENTS["implicit"])
        options = {"tol": 1e-3, "max_iter": 200}
        return fit_from_starts(
            em, [(theta, -math.inf)], (X, None), E_STEPS["posterior"], how, **options
        )[0].value

    x = X.clone().requires_grad_()
    fitted(x).means.square().sum().backward()
    assert (x.grad[missing] == 0).all()
    way = torch.where(missing, 0.0, torch.linspace(-1, 1, X.numel(), dtype=F64).view_as(X))
    ends = [fitted((X + h * way).requires_grad_()).means.square().sum() for h in (1e-5, -1e-5)]
    slope = float((ends[0] - ends[1]).detach()) / 2e-5
    assert float((x.grad * way).sum()) == pytest.approx(slope, rel=1e-4)
