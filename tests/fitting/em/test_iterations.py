"""EM as a map: its value and derivatives in blocks, and its accelerated iterations."""

import math

import pytest
import torch
from torch.testing import assert_close

from skgmmot.fitting.em.constraint import FREE, constraint_of
from skgmmot.fitting.em.iterations import ACCELERATIONS, EMStep, climb, named
from skgmmot.fitting.em.prior import Prior
from skgmmot.fitting.em.rows import EM
from skgmmot.fitting.em.step import em_step, m_step
from skgmmot.fitting.samples import InMemory
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.numerics.blocks import workers
from skgmmot.numerics.linalg import symmetrize

F64 = torch.float64
REG = 1e-3


@pytest.fixture
def problem(covariance_type, make_mixture, make_samples):
    """A mixture, samples around it and their weights."""
    theta = make_mixture(covariance_type, 3, 2)
    X = make_samples(30, 2) + theta.means.repeat(10, 1)
    return theta, X, make_samples(30, 1, seed=9).mul(0.3).exp().squeeze(1)


def in_blocks(X, a=None, held=None, origin=None):
    """The iteration over samples, on the graph of what is on one; weights of ``held`` stay."""
    origin = torch.zeros(X.shape[1], dtype=F64) if origin is None else origin
    constants = X.detach(), None if a is None else a.detach()
    with workers(X.device) as pool:
        constraint = FREE
        if held is not None:
            K = len(held.weights)
            constraint = constraint_of(held.covariance_type, K, weights=True)
        em = EM(InMemory(*constants, pool), origin, REG, constraint)
    return EMStep(em, X, a, held)


def on_graph(theta, *others):
    """Leaves: a mixture and tensors."""
    leaves = [t.clone().requires_grad_() for t in (*theta, *others)]
    return GaussianMixtureParams(*leaves[:3]), *leaves[3:]


def loss(theta):
    """A function of everything in a mixture."""
    w, m, S = theta
    return (w**2 * torch.arange(1, len(w) + 1)).sum() + (m**3).sum() + S.sin().sum()


def test_the_iteration_and_its_derivatives_are_those_of_the_definition(problem):
    theta, X, a = on_graph(*problem)
    found, expected = in_blocks(X, a)(theta), em_step(theta, X, a, reg_covar=REG)
    assert_close(tuple(found), tuple(expected))
    gradients = [torch.autograd.grad(loss(value), (*theta, X, a)) for value in (found, expected)]
    assert_close(*gradients)


def test_samples_may_be_about_an_origin(problem):
    theta, X, a = problem
    origin = torch.tensor([3.0, -2.0], dtype=F64)
    assert_close(
        tuple(in_blocks(X + origin, a, origin=origin)(theta)), tuple(in_blocks(X, a)(theta))
    )


def test_only_what_is_on_a_graph_gets_a_gradient(problem):
    constant, X, a = problem
    theta, x = on_graph(constant, X)
    (of_x,) = torch.autograd.grad(loss(in_blocks(x, a)(constant)), x)
    expected = torch.autograd.grad(loss(em_step(theta, x, a, reg_covar=REG)), (*theta, x))
    assert_close(of_x, expected[3])
    of_theta = torch.autograd.grad(loss(in_blocks(X, a)(theta)), tuple(theta))
    assert_close(of_theta, expected[:3])


def test_weights_that_stay_are_those_given(problem):
    theta, X, a = problem
    weights = torch.tensor([0.2, 0.3, 0.5], dtype=F64, requires_grad=True)
    found = in_blocks(X, a, theta._replace(weights=weights))(theta)
    expected = em_step(theta._replace(weights=weights), X, a, reg_covar=REG, fixed_weights=True)
    assert_close(tuple(found), tuple(expected))
    gradients = [torch.autograd.grad(loss(value), weights) for value in (found, expected)]
    assert_close(*gradients)


def test_second_derivatives_are_those_of_the_definition(problem):
    theta, X, a = on_graph(*problem)

    def second(value):
        first = torch.autograd.grad(loss(value), (*theta, X, a), create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), (*theta, X, a))

    origin = torch.tensor([3.0, -2.0], dtype=F64)
    found = second(in_blocks(X + origin, a, origin=origin)(theta))
    expected = second(em_step(theta, X, a, reg_covar=REG))
    for ours, reference in zip(found, expected, strict=True):
        scale = reference.abs().max()
        assert_close(ours / scale, reference / scale, rtol=1e-7, atol=1e-9)


def test_derivatives_that_are_differentiated_count_what_goes_through_iterations_once(problem):
    theta, X, a = problem

    def second(twice):
        x = X.clone().requires_grad_()
        (first,) = torch.autograd.grad(loss(twice(x)), x, create_graph=True)
        return first.detach(), torch.autograd.grad(first.square().sum(), x)[0]

    def twice_by_definition(x):
        return em_step(em_step(theta, x, a, reg_covar=REG), x, a, reg_covar=REG)

    found = second(lambda x: in_blocks(x, a)(in_blocks(x, a)(theta)))
    expected = second(twice_by_definition)
    for ours, reference in zip(found, expected, strict=True):
        assert_close(ours, reference, rtol=1e-7, atol=1e-9 * float(reference.abs().max()))


def test_the_linearisation_at_a_mixture_is_kept_until_another_is_asked_for(problem):
    theta, X, a = problem
    step = in_blocks(X, a)
    kept = step.linearise(theta)
    assert step.linearise(GaussianMixtureParams(*(t.clone() for t in theta))) is kept
    other = step.linearise(theta._replace(means=theta.means + 1e-9))
    assert other is not kept
    assert not torch.equal(other.value.means, kept.value.means)


def test_free_weights_move_and_constants_carry_no_graph(problem):
    theta, X, a = problem
    held = theta._replace(weights=torch.tensor([0.2, 0.3, 0.5], dtype=F64, requires_grad=True))
    stay = in_blocks(X.clone().requires_grad_(), a, held)
    assert_close(tuple(stay.with_free_weights()(theta)), tuple(in_blocks(X, a)(theta)))
    still = stay.detach()(theta)
    assert not any(t.requires_grad for t in still)
    assert_close(tuple(still), tuple(t.detach() for t in stay(theta)))
    assert_close(tuple(in_blocks(X).detach()(theta)), tuple(in_blocks(X)(theta)))


@pytest.mark.parametrize("graph", ["samples", "weights", "both", "samples without weights"])
def test_an_iteration_on_leaves_has_the_gradients_of_the_same_iteration(problem, graph):
    theta, X, a = problem
    X = X.clone().requires_grad_(graph != "weights")
    a = None if "without" in graph else a.clone().requires_grad_(graph in ("weights", "both"))
    held = theta._replace(weights=torch.tensor([0.2, 0.3, 0.5], dtype=F64, requires_grad=True))
    inputs = [t for t in (X, a) if t is not None and t.requires_grad]
    for step, stay in ((in_blocks(X, a), False), (in_blocks(X, a, held), True)):
        alone, leaves = step.on_leaves()
        found = alone(theta)
        assert_close(tuple(found), tuple(step(theta)))
        assert not (stay and found.weights.requires_grad)
        assert all(one is not other for one, other in zip(leaves, inputs, strict=True))
        expected = torch.autograd.grad(loss(step(theta)), inputs)
        assert_close(torch.autograd.grad(loss(found), leaves), expected)


@pytest.mark.parametrize("given", [{"mean": [0.5, -1.0]}, {"scale": 1.5}], ids=["mean", "scale"])
def test_what_a_prior_takes_from_samples_has_a_gradient_where_the_rest_is_given(problem, given):
    theta, X, _ = problem
    X, samples, origin = X.clone().requires_grad_(), InMemory(X), torch.zeros(2, dtype=F64)
    given, of_type = Prior(mean_precision=3.0, **given), theta.covariance_type
    constraint = FREE.under(given, of_type, 3, samples, origin, REG, (X, None))
    em = EM(samples, origin, REG, constraint)
    definition = m_step(theta, em.definition(theta, X, None), REG, constraint)
    values = EMStep(em, X)(theta), definition
    gradients = [torch.autograd.grad(loss(v), X, retain_graph=True) for v in values]
    assert_close(*gradients)


def slow_problem(make_samples):
    """Two components with overlap: plain EM takes 167 iterations."""
    X = make_samples(200, 1)
    X = torch.cat([X[:100] - 1.5, X[100:] + 1.5])
    w, m = torch.tensor([0.4, 0.6], dtype=F64), torch.tensor([[-0.5], [0.7]], dtype=F64)
    return GaussianMixtureParams(w, m, torch.ones(2, 1, dtype=F64)), X


def counted(X):
    """The iteration on constants, and the list that it adds its objectives to."""
    em, objectives = in_blocks(X).em, []

    def step(theta):
        theta_next, objective = em(theta)
        objectives.append(objective)
        return theta_next, objective

    return step, objectives


def test_accelerated_iterations_end_where_plain_ones_do_after_fewer(make_samples):
    theta, X = slow_problem(make_samples)
    ends, lengths = [], []
    for acceleration in (None, "squarem"):
        step, objectives = counted(X)
        ends.append(climb(step, theta, tol=1e-12, max_iter=5000, acceleration=acceleration))
        lengths.append(len(objectives))
    assert ends[0].converged and ends[1].converged
    assert_close(tuple(ends[1].value), tuple(ends[0].value), rtol=1e-5, atol=1e-5)
    assert lengths[1] < lengths[0] / 3


@pytest.mark.parametrize("radius", [1e-9, 1e-2])
def test_no_jump_is_longer_than_the_radius(make_samples, radius):
    theta, X = slow_problem(make_samples)
    step, _ = counted(X)
    start = climb(step, theta, tol=0.0, max_iter=10).value
    plain = climb(step, start, tol=0.0, max_iter=2).value
    jumps = []
    for bound in (radius, math.inf):
        options = {"acceleration": "squarem", "radius": bound}
        there = climb(step, start, tol=0.0, max_iter=3, **options).previous  # the first proposal
        jumps.append((there.means - plain.means).norm().item())
    # components are about one wide: the radius is in their units
    assert 0.2 * radius < jumps[0] < 1.2 * radius < jumps[1]


def test_polishing_takes_as_many_iterations_as_it_is_given(make_samples):
    theta, X = slow_problem(make_samples)
    step = in_blocks(X)
    once, often = step.advance(theta, 1), step.advance(theta, 100)
    assert_close(tuple(once), tuple(em_step(theta, X, reg_covar=REG)))
    assert_close(tuple(often), tuple(em_step(often, X, reg_covar=REG)), rtol=0, atol=1e-6)
    held = theta._replace(weights=torch.tensor([0.37, 0.63], dtype=F64))
    assert torch.equal(in_blocks(X, held=held).advance(held, 9).weights, held.weights)


def test_the_callback_sees_every_iteration_and_the_first_change_has_its_reference(make_samples):
    theta, X = slow_problem(make_samples)
    step, objectives = counted(X)
    seen = []
    climb(step, theta, tol=0.0, max_iter=4, callback=lambda s: seen.append(s.n_iter))
    assert seen == [1, 2, 3, 4]
    # one iteration is enough where its objective is that of before
    assert climb(step, theta, tol=1e-3, max_iter=9, objective=objectives[0]).n_iter == 1


def test_names_are_looked_up_or_refused():
    assert named("acceleration", "newton", ACCELERATIONS) is ACCELERATIONS["newton"]
    message = r"acceleration must be one of \['newton', 'squarem'\], got 'fast'"
    with pytest.raises(ValueError, match=message):
        named("acceleration", "fast", ACCELERATIONS)


def test_gradcheck_of_an_iteration_in_blocks(problem):
    theta, X, a = problem

    def step(weights, means, covariances, X, a):
        covariances = symmetrize(covariances) if covariances.ndim == 3 else covariances
        return tuple(in_blocks(X, a)(GaussianMixtureParams(weights, means, covariances)))

    inputs = [t.clone().requires_grad_() for t in (*theta, X[:6], a[:6])]
    assert torch.autograd.gradcheck(step, inputs)
