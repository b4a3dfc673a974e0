"""Derivatives of fixed points, and fixed points made exact."""

import math
from typing import NamedTuple

import pytest
import torch
from iterated import run, scalar
from torch import Tensor
from torch.testing import assert_close

from skgmmot.numerics.adjoint import Adjoint, InexactGradientWarning, automatic, implicit, one_step
from skgmmot.numerics.fixed_point import iterate
from skgmmot.numerics.krylov import Products, dense, gmres, neumann

F64 = torch.float64
DERIVATIVES = {"implicit": implicit, "automatic": automatic, "one_step": one_step}


class Pair(NamedTuple):
    """A point with two leaves of different shapes."""

    left: Tensor
    right: Tensor


def coupled(W, b):
    """A contraction of a `Pair`, nonlinear and not symmetric."""

    def F(theta):
        x, y = theta
        return Pair(torch.tanh(W @ x + 0.3 * y.sum(0) + 0.5), 0.4 * y.sin() + b * x.sum())

    return F


@pytest.fixture
def contraction(make_samples):
    """Parameters of `coupled` and where to start."""
    W, b = 0.2 * make_samples(3, 3, seed=1), make_samples(2, 3, seed=2)
    start = Pair(torch.zeros(3, dtype=F64), torch.zeros(2, 3, dtype=F64))
    return W, 0.2 * b, start


# --- strategies --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [("implicit", 1 / (1 - 0.6)), ("automatic", (1 - 0.6**5) / (1 - 0.6)), ("one_step", 1.0)],
)
def test_gradients_of_an_affine_contraction_are_its_geometric_sums(name, expected):
    b = scalar(0.7).requires_grad_()

    def F(theta):
        return (0.6 * theta[0] + b,)

    theta0 = (scalar(0.0),)
    (theta,) = DERIVATIVES[name](F, theta0, run(F, theta0, max_iter=5))
    (gradient,) = torch.autograd.grad(theta.sum(), b)
    assert gradient.item() == pytest.approx(expected)


def test_implicit_differentiates_a_square_root():
    x = torch.tensor([2.0, 9.0, 0.25], dtype=F64, requires_grad=True)

    def babylonian(theta):
        return ((theta[0] + x / theta[0]) / 2,)

    theta0 = (torch.ones(3, dtype=F64),)
    (root,) = implicit(babylonian, theta0, run(babylonian, theta0, max_iter=20))
    (gradient,) = torch.autograd.grad(root.sum(), x)
    assert_close(root, x.sqrt())
    assert_close(gradient, 0.5 / x.sqrt())


@pytest.mark.parametrize("name", DERIVATIVES)
def test_gradients_return_the_end_of_the_loop_in_its_own_kind_of_tuple(name, contraction):
    W, b, start = contraction
    F = coupled(W.requires_grad_(), b.requires_grad_())
    solution = run(F, start, max_iter=7)
    theta = DERIVATIVES[name](F, start, solution)
    assert type(theta) is Pair
    for ours, theirs in zip(theta, solution.value, strict=True):
        assert_close(ours.detach(), theirs)
        assert ours.requires_grad


@pytest.mark.parametrize("name", ["automatic", "one_step"])
def test_gradients_of_no_iterations_return_the_start(name):
    theta0 = (scalar(1.0).requires_grad_(),)
    assert DERIVATIVES[name](None, theta0, iterate(None, theta0, tol=0, max_iter=0))[0] is theta0[0]


@pytest.mark.parametrize("strategy", [implicit, automatic])
def test_gradients_of_a_coupled_contraction_pass_gradcheck(strategy, contraction):
    W, b, start = contraction

    def fixed_point(W, b):
        F = coupled(W, b)
        return tuple(strategy(F, start, run(F, start)))

    # Undefined cotangents come from gradcheck itself alone.
    inputs = (W.requires_grad_(), b.requires_grad_())
    assert torch.autograd.gradcheck(fixed_point, inputs, check_undefined_grad=False)


def test_one_step_is_the_gradient_of_the_last_step(contraction):
    W, b, start = contraction
    F = coupled(W.requires_grad_(), b)
    solution = run(F, start, max_iter=5)
    expected = torch.autograd.grad(F(solution.previous).left.sum(), W)
    assert_close(torch.autograd.grad(one_step(F, start, solution).left.sum(), W), expected)


def test_implicit_does_not_depend_on_the_start(contraction):
    W, b, start = contraction
    W.requires_grad_()
    F = coupled(W, b)
    gradients = []
    for theta0 in (start, Pair(start.left + 1, start.right - 1)):
        theta = implicit(F, theta0, run(F, theta0))
        gradients += torch.autograd.grad(theta.left.sum() + theta.right.square().sum(), W)
    assert_close(*gradients)


def test_implicit_goes_backward_twice_and_takes_another_solver(contraction):
    W, b, start = contraction
    F = coupled(W.requires_grad_(), b)

    loss = implicit(F, start, run(F, start)).left.square().sum()
    first = torch.autograd.grad(loss, W, retain_graph=True)
    assert_close(torch.autograd.grad(loss, W), first)
    other = implicit(F, start, run(F, start), solve=dense).left.square().sum()
    assert_close(torch.autograd.grad(other, W), first)


def test_implicit_takes_a_step_that_leaves_a_leaf_constant():
    b = scalar(0.7).requires_grad_()

    def F(theta):
        return (scalar(3.0), 0.5 * theta[1] + theta[0] * b)

    theta0 = (scalar(3.0), scalar(0.0))
    theta = implicit(F, theta0, run(F, theta0))
    (gradient,) = torch.autograd.grad(theta[1].sum(), b)
    assert gradient.item() == pytest.approx(6.0)


def test_implicit_says_that_it_is_differentiable_once():
    b = scalar(0.7).requires_grad_()

    def F(theta):
        return (0.6 * theta[0] + b.sin(),)

    (theta,) = implicit(F, (scalar(0.0),), run(F, (scalar(0.0),)))
    with pytest.raises(RuntimeError, match="implicit gradients must be differentiated once"):
        torch.autograd.grad(theta.sum(), b, create_graph=True)


def test_automatic_is_differentiable_twice():
    b = scalar(0.7).requires_grad_()

    def F(theta):
        return (0.6 * theta[0] + b.sin(),)

    (theta,) = automatic(F, (scalar(0.0),), run(F, (scalar(0.0),)))
    (first,) = torch.autograd.grad(theta.sum(), b, create_graph=True)
    (second,) = torch.autograd.grad(first, b)
    assert second.item() == pytest.approx(-math.sin(0.7) / 0.4)


def test_backward_takes_notes(contraction):
    W, b, start = contraction
    F = coupled(W.requires_grad_(), b)
    adjoint = Adjoint()
    assert math.isnan(adjoint.spectral_radius) and math.isnan(adjoint.one_step_error)
    solution = run(F, start)
    theta = implicit(F, start, solution, adjoint=adjoint)
    (exact,) = torch.autograd.grad(theta.left.sum(), W)

    def flat(z):
        return torch.cat([t.flatten() for t in F(Pair(z[:3], z[3:].view(2, 3)))])

    point = torch.cat([t.flatten() for t in solution.value])
    J = torch.autograd.functional.jacobian(flat, point)
    assert adjoint.spectral_radius == pytest.approx(
        torch.linalg.eigvals(J).abs().max().item(), rel=1e-6
    )
    assert adjoint.residual < 1e-9
    assert adjoint.n_products == len(point)
    v = torch.cat([torch.ones(3), torch.zeros(6)]).to(F64)
    u = torch.linalg.solve((torch.eye(9, dtype=F64) - J).mT, v)
    assert adjoint.one_step_error == pytest.approx(((u - v).norm() / u.norm()).item(), rel=1e-6)
    cheap = one_step(F, start, solution).left.sum()
    biased = torch.autograd.grad(cheap, W)[0]
    assert 0 < ((biased - exact).norm() / exact.norm()).item() < 3 * adjoint.one_step_error


def test_backward_warns_of_an_adjoint_equation_that_was_not_solved(contraction):
    W, b, start = contraction
    F = coupled(W.requires_grad_(), b)

    def two_terms(matvec, v):
        return neumann(matvec, v, n_terms=2)

    theta = implicit(F, start, run(F, start), solve=two_terms, adjoint=Adjoint(tol=1e-6))
    with pytest.warns(InexactGradientWarning, match="solved to a relative residual of .* > grad"):
        theta.left.sum().backward()


@pytest.mark.parametrize("solve", [gmres, dense])
def test_notes_of_a_gradient_of_zero_are_numbers(solve, recwarn):
    adjoint, products = Adjoint(tol=1e-6), Products(lambda u: u / 2)
    nothing = torch.zeros(3, dtype=F64)
    adjoint.note(products, solve(products, nothing), nothing)
    assert (adjoint.residual, adjoint.one_step_error) == (0.0, 0.0)
    radius = "0.5" if solve is dense else "nan"  # no product has seen anything
    assert repr(adjoint).endswith(f"spectral_radius={radius}, one_step_error=0)")
    assert not recwarn.list
