"""Polishing: fixed points by a few steps of Newton's method, from a point nearby."""

import math
import warnings

import pytest
import torch
from iterated import run, scalar

from skgmmot.numerics.adjoint import Adjoint, implicit
from skgmmot.numerics.newton.linearisation import AutogradLinearisation
from skgmmot.numerics.newton.polish import _KrylovStep, polish

F64 = torch.float64


@pytest.fixture
def slow(make_samples):
    """A gradient map that contracts by 0.99 and bends, whose fixed point is ``x``."""
    Q, _ = torch.linalg.qr(make_samples(6, 6, seed=7))
    H = Q @ torch.diag(torch.linspace(0.01, 0.9, 6, dtype=F64)) @ Q.mT
    x = 0.2 * make_samples(6, 1, seed=8).squeeze(1)

    def F(theta):
        z = theta[0] - x
        return (theta[0] - H @ z - 0.3 * z**3,)

    def advance(theta, n_steps):
        return run(F, theta, max_iter=n_steps).value

    return F, advance, x


def test_polish_finds_a_fixed_point_that_iterations_crawl_to(slow):
    F, advance, x = slow
    start = (x + 0.1,)
    found = polish(
        lambda t: AutogradLinearisation(F, t), start, advance=advance, tol=1e-8, max_passes=500
    )
    assert (found.theta[0] - x).norm() < 1e-8
    assert found.distance < 1e-8
    assert found.n_passes < 100 and (advance(start, 100)[0] - x).norm() > 0.005


def test_polish_estimates_how_far_it_still_is(slow):
    F, advance, x = slow
    start = (x + 0.001,)
    found = polish(
        lambda t: AutogradLinearisation(F, t), start, advance=advance, tol=0.0, max_passes=1
    )
    assert found.distance == pytest.approx(math.sqrt(6) * 0.001, rel=0.2)
    assert found.theta is start or torch.equal(found.theta[0], start[0])


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("against", [False, True])
def test_steps_that_lower_the_objective_are_refused(slow, small, against):
    F, advance, x = slow
    plain = []  # where the objective is what it was

    class Falling(AutogradLinearisation):
        """The objective falls at every point but those of plain iterations."""

        def __init__(self, theta):
            super().__init__(F, theta)
            self.small = small
            self.objective = 0.0 if any(torch.equal(theta[0], z) for z in plain) else -1.0

        @property
        def against(self):  # along every step, more than the objective
            return 1e9 * self.residual if against else torch.zeros_like(self.residual)

    def advance_and_note(theta, n_steps):
        plain.append(advance(theta, n_steps)[0])
        return (plain[-1],)

    start = advance_and_note((x + 0.1,), 1)
    found = polish(Falling, start, advance=advance_and_note, tol=1e-8, max_passes=200)
    if against:  # what works against it may lower it
        assert found.distance < 1e-8
    else:
        assert len(plain) > 3 and found.distance > 1e-3
        assert any(torch.equal(found.theta[0], z) for z in plain)


def test_polish_leaves_points_that_repel():
    def F(theta):  # 0 repels, 1 and -1 attract
        return (theta[0] + 0.2 * (theta[0] - theta[0] ** 3),)

    def advance(theta, n_steps):
        return run(F, theta, max_iter=n_steps).value

    found = polish(
        lambda t: AutogradLinearisation(F, t),
        (scalar(0.01),),
        advance=advance,
        tol=1e-9,
        max_passes=900,
    )
    assert found.theta[0].item() == pytest.approx(1.0)


def test_polish_ends_at_once_where_nothing_moves():
    found = polish(
        lambda t: AutogradLinearisation(lambda theta: theta, t),
        (scalar(3.0),),
        advance=None,
        tol=0.0,
        max_passes=10,
    )
    assert (found.distance, found.residual, found.n_passes) == (0.0, 0.0, 1)


def test_polished_points_are_differentiated_without_warning(slow):
    F, advance, x = slow
    found = polish(
        lambda t: AutogradLinearisation(F, t), (x + 0.1,), advance=advance, tol=1e-9, max_passes=500
    )
    b = torch.zeros(6, dtype=F64, requires_grad=True)
    solution = run(F, found.theta, max_iter=0)._replace(value=found.theta)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (theta,) = implicit(lambda t: (F(t)[0] + b,), None, solution, adjoint=Adjoint(tol=1e-6))
        jacobian = torch.stack(
            [torch.autograd.grad(theta[i], b, retain_graph=True)[0] for i in range(6)]
        )
    # theta = theta - H (theta - x) + b moves by H^{-1} db
    assert torch.linalg.eigvalsh(jacobian).max().item() == pytest.approx(100, rel=1e-6)


def test_polish_gives_up_where_the_iterations_leave_their_domain():
    def F(theta):  # runs away from 0, to where it is not defined
        if theta[0].abs() > 1:
            raise ValueError("outside")
        return (1.5 * theta[0] + 0.1,)

    def advance(theta, n_steps):
        return run(F, theta, max_iter=n_steps).value

    start = (scalar(0.3),)
    found = polish(
        lambda t: AutogradLinearisation(F, t), start, advance=advance, tol=1e-9, max_passes=900
    )
    assert found.distance == math.inf
    assert found.theta[0].item() <= 1


@pytest.mark.parametrize(
    ("size", "share", "tol"), [(1e-6, 0.1, 0.03), (0.05, 0.1, 0.05), (1, 1, 0.1)]
)
def test_the_linear_solve_leaves_a_third_of_the_share_that_may_remain(size, share, tol):
    class Linear:
        residual = scalar(size)

        def solve(self, b, tol):
            self.tol = tol
            return b, ()

    linear = Linear()
    assert _KrylovStep(linear, share).length == pytest.approx(size)
    assert linear.tol == pytest.approx(tol)


@pytest.mark.parametrize("small", [True, False])
def test_polish_ends_at_rounding_where_the_tolerance_is_below(small, slow):
    F, advance, x = slow

    def linearise(theta):
        here = AutogradLinearisation(F, theta)
        here.small = small
        return here

    found = polish(linearise, (x + 0.1,), advance=advance, tol=1e-30, max_passes=1000)
    assert found.n_passes < 150
    assert found.distance < 1e-12
    assert (found.theta[0] - x).norm() < 1e-13
