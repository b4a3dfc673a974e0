"""The loop to a fixed point, its gradients and the adjoint solver."""

import math
from typing import NamedTuple

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from torch import Tensor
from torch.testing import assert_close

from skgmmot.functional.adjoint import GRADIENTS, automatic, implicit, one_step
from skgmmot.functional.fixed_point import iterate
from skgmmot.functional.krylov import gmres

F64 = torch.float64


class Pair(NamedTuple):
    """A point with two leaves of different shapes."""

    left: Tensor
    right: Tensor


def scalar(value):
    return torch.tensor([value], dtype=F64)


def run(F, theta0, max_iter=200):
    """Iterate ``F`` without a graph, ``max_iter`` times."""

    def step(theta):
        with torch.no_grad():
            return F(theta), 0.0

    return iterate(step, theta0, tol=0.0, max_iter=max_iter)


def halving(theta):
    """A step towards 2 whose objective is the point itself."""
    return ((theta[0] / 2 + 1),), float(theta[0])


def coupled(W, b):
    """A contraction of a `Pair`, nonlinear and not symmetric."""

    def F(theta):
        x, y = theta
        return Pair(torch.tanh(W @ x + 0.3 * y.sum(0)), 0.4 * y.sin() + b * x.sum())

    return F


@pytest.fixture
def contraction(make_samples):
    """Parameters of `coupled` and where to start."""
    W, b = 0.2 * make_samples(3, 3, seed=1), make_samples(2, 3, seed=2)
    start = Pair(torch.zeros(3, dtype=F64), torch.zeros(2, 3, dtype=F64))
    return W, 0.2 * b, start


# --- the loop ----------------------------------------------------------------------------------


def test_loop_stops_when_the_objective_changes_by_less_than_tol():
    solution = iterate(halving, (scalar(0.0),), tol=0.2, max_iter=50)
    # Objectives 0, 1, 1.5, 1.75, 1.875: the first change below 0.2 is the last one.
    assert solution.objectives == (0.0, 1.0, 1.5, 1.75, 1.875)
    assert (solution.n_iter, solution.converged) == (5, True)
    assert solution.change == pytest.approx(0.125)
    assert solution.objective == 1.875
    assert solution.previous[0].item() == 1.875
    assert solution.value[0].item() == 1.9375


@pytest.mark.parametrize(("tol", "n_iter"), [(0.125, 6), (0.126, 5), (0.0, 7)])
def test_tol_is_a_strict_bound(tol, n_iter):
    assert iterate(halving, (scalar(0.0),), tol=tol, max_iter=7).n_iter == n_iter


def test_tol_of_zero_never_stops_even_at_the_fixed_point():
    solution = iterate(halving, (scalar(2.0),), tol=0.0, max_iter=4)
    assert (solution.n_iter, solution.converged, solution.change) == (4, False, 0.0)


def test_loop_of_no_iterations_returns_the_start():
    theta0 = (scalar(3.0),)
    solution = iterate(halving, theta0, tol=1.0, max_iter=0)
    assert solution.value is theta0
    assert solution.previous is theta0
    assert (solution.n_iter, solution.converged, solution.objectives) == (0, False, ())
    assert solution.objective == -math.inf


def test_loop_compares_its_first_objective_with_the_given_one():
    solution = iterate(halving, (scalar(2.0),), tol=1e-3, max_iter=9, objective=2.0)
    assert (solution.n_iter, solution.converged) == (1, True)


def test_loop_calls_back_after_each_iteration():
    seen = []
    solution = iterate(halving, (scalar(0.0),), tol=0.2, max_iter=50, callback=seen.append)
    assert [s.n_iter for s in seen] == [1, 2, 3, 4, 5]
    assert [s.objective for s in seen] == list(solution.objectives)
    assert seen[-1].value is solution.value


def test_an_objective_that_is_not_a_number_is_not_convergence():
    solution = iterate(lambda theta: (theta, math.nan), (scalar(0.0),), tol=1.0, max_iter=3)
    assert (solution.n_iter, solution.converged) == (3, False)


# --- gradients ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [("implicit", 1 / (1 - 0.6)), ("automatic", (1 - 0.6**5) / (1 - 0.6)), ("one_step", 1.0)],
)
def test_gradients_of_an_affine_contraction_are_its_geometric_sums(name, expected):
    b = scalar(0.7).requires_grad_()

    def F(theta):
        return (0.6 * theta[0] + b,)

    theta0 = (scalar(0.0),)
    (theta,) = GRADIENTS[name](F, theta0, run(F, theta0, max_iter=5))
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


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_return_the_end_of_the_loop_in_its_own_kind_of_tuple(name, contraction):
    W, b, start = contraction
    F = coupled(W.requires_grad_(), b.requires_grad_())
    solution = run(F, start, max_iter=7)
    theta = GRADIENTS[name](F, start, solution)
    assert type(theta) is Pair
    for ours, theirs in zip(theta, solution.value, strict=True):
        assert_close(ours.detach(), theirs)
        assert ours.requires_grad


@pytest.mark.parametrize("name", ["automatic", "one_step"])
def test_gradients_of_no_iterations_return_the_start(name):
    theta0 = (scalar(1.0).requires_grad_(),)
    assert GRADIENTS[name](None, theta0, iterate(None, theta0, tol=0, max_iter=0))[0] is theta0[0]


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

    def dense(matvec, v):
        matrix = torch.stack([matvec(e) for e in torch.eye(len(v), dtype=v.dtype)], dim=1)
        return torch.linalg.solve(matrix, v)

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


# --- the adjoint solver ------------------------------------------------------------------------


@pytest.fixture
def system(make_samples):
    """A matrix that is not symmetric, and a right-hand side."""
    A = make_samples(30, 30, seed=3) / 12 + torch.eye(30, dtype=F64)
    return A, make_samples(30, 1, seed=4).squeeze(1)


def test_gmres_solves_what_a_direct_solver_and_scipy_solve(system):
    A, b = system
    x = gmres(lambda u: A @ u, b)
    assert_close(x, torch.linalg.solve(A, b), rtol=1e-7, atol=1e-9)
    theirs, failed = scipy.sparse.linalg.gmres(A.numpy(), b.numpy(), rtol=1e-12, restart=30)
    assert not failed
    assert_close(x, torch.from_numpy(np.asarray(theirs)), rtol=1e-7, atol=1e-9)


def test_gmres_needs_one_product_a_distinct_eigenvalue():
    A = torch.diag(torch.tensor([1.0] * 20 + [3.0] * 20, dtype=F64))
    products = []

    def matvec(u):
        products.append(u)
        return A @ u

    b = torch.arange(1, 41, dtype=F64)
    assert_close(gmres(matvec, b), b / A.diagonal())
    assert len(products) == 2


def test_gmres_does_no_more_products_than_allowed_and_gets_nearer_with_each(system):
    A, b = system
    residuals = []
    for max_iter in (1, 2, 4, 8, 16):
        products = []
        x = gmres(lambda u, p=products: p.append(u) or A @ u, b, max_iter=max_iter)
        assert len(products) == max_iter
        residuals.append((A @ x - b).norm().item())
    assert residuals == sorted(residuals, reverse=True)
    assert residuals[-1] < 0.1 * residuals[0]


@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1e6, 1e10, 1e13, 1e16, 1e30])
def test_gmres_is_as_exact_for_right_hand_sides_of_any_size(scale, system):
    A, b = system
    x = gmres(lambda u: A @ u, scale * b)
    assert ((A @ x - scale * b).norm() / (scale * b).norm()).item() < 1e-9


def test_gmres_of_zero_is_zero():
    zero = torch.zeros(4, dtype=F64)
    assert_close(gmres(lambda u: u, zero), zero, rtol=0, atol=0)


def test_gmres_solves_a_singular_system_that_has_a_solution():
    A = torch.diag(torch.tensor([2.0, 0.0, 4.0], dtype=F64))
    b = torch.tensor([1.0, 0.0, 1.0], dtype=F64)
    assert_close(gmres(lambda u: A @ u, b), torch.tensor([0.5, 0.0, 0.25], dtype=F64))


def test_gmres_works_in_float32(system):
    A, b = (t.float() for t in system)
    x = gmres(lambda u: A @ u, b)
    assert x.dtype == torch.float32
    assert ((A @ x - b).norm() / b.norm()).item() < 1e-5
