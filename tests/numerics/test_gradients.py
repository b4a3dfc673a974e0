"""Gradient strategies as objects."""

import math
from typing import NamedTuple

import pytest
import torch
from torch.testing import assert_close

from skgmmot.numerics.adjoint import Adjoint, InexactGradientWarning
from skgmmot.numerics.fixed_point import Solution
from skgmmot.numerics.gradients import GRADIENTS, Strategy
from skgmmot.numerics.newton.linearisation import AutogradLinearisation

RATE = 0.6


class Loop(NamedTuple):
    """A loop as strategies see it beforehand."""

    acceleration: str | None = None


class Affine:
    """``theta -> RATE theta + b``, a step with its derivative."""

    def __init__(self, b):
        self.b = b

    def __call__(self, theta):
        return (RATE * theta[0] + self.b,)

    def linearise(self, theta):
        return AutogradLinearisation(Affine(self.b.detach()), theta)


@pytest.fixture
def step():
    return Affine(torch.tensor([0.7], dtype=torch.float64, requires_grad=True))


def end_of(step, n_iter=5):
    """The end of so many iterations from zero."""
    points = [(torch.zeros(1, dtype=torch.float64),)]
    with torch.no_grad():
        for _ in range(n_iter):
            points.append(step(points[-1]))
    return points[0], Solution(points[-1], points[-2], 0.0, (), n_iter, True, 0.0)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("implicit", 1 / (1 - RATE)),
        ("automatic", (1 - RATE**5) / (1 - RATE)),
        ("one_step", 1.0),
    ],
)
def test_a_strategy_attaches_its_own_derivative_to_the_end_of_a_loop(name, expected, step):
    theta0, solution = end_of(step)
    found = GRADIENTS[name].attach(step, theta0, solution)
    (gradient,) = torch.autograd.grad(found.value[0].sum(), step.b)
    assert gradient.item() == pytest.approx(expected)
    assert_close(found.value[0].detach(), solution.value[0])
    assert found._replace(value=None, adjoint=None) == solution._replace(value=None)
    assert isinstance(found.adjoint, Adjoint) == GRADIENTS[name].at_fixed_point


@pytest.mark.parametrize("solve", ["gmres", "neumann", "dense", torch.linalg.lstsq])
def test_the_implicit_strategy_takes_solvers_by_name_or_as_they_are(solve, step):
    given = solve if isinstance(solve, str) else lambda matvec, b: b / matvec(torch.ones_like(b))
    found = GRADIENTS["implicit"].attach(step, *end_of(step, 60), tol=1e-8, solve=given)
    (gradient,) = torch.autograd.grad(found.value[0].sum(), step.b)
    assert gradient.item() == pytest.approx(2.5, rel=1e-8)  # as accurate as it was asked to be


def test_the_implicit_strategy_refuses_unknown_solvers_and_warns_of_bad_ones(step):
    with pytest.raises(ValueError, match=r"solve must be one of \['dense', .*got 'nonsense'"):
        GRADIENTS["implicit"].attach(step, *end_of(step), solve="nonsense")
    found = GRADIENTS["implicit"].attach(step, *end_of(step), tol=1e-3, solve=lambda _, b: b)
    with pytest.warns(InexactGradientWarning, match="adjoint equation"):
        found.value[0].sum().backward()


def test_only_the_implicit_strategy_keeps_something_and_uses_it_again(step):
    assert [name for name, s in GRADIENTS.items() if s.keep(0.1) is not None] == ["implicit"]
    carried = GRADIENTS["implicit"].keep(0.1)
    for _ in range(3):
        found = GRADIENTS["implicit"].attach(step, *end_of(step), carried=carried)
        (gradient,) = torch.autograd.grad(found.value[0].sum(), step.b)
        assert gradient.item() == pytest.approx(2.5)
    assert carried.age == 2  # the first use found it
    assert_close(carried.inverse, torch.tensor([[2.5]], dtype=torch.float64))


def test_only_the_automatic_strategy_refuses_accelerated_loops():
    for name, strategy in GRADIENTS.items():
        strategy.check(Loop())
        if name != "automatic":
            strategy.check(Loop("squarem"))
    with pytest.raises(ValueError, match="gradient must be 'implicit' or 'one_step'"):
        GRADIENTS["automatic"].check(Loop("squarem"))


def test_a_strategy_says_where_the_fixed_point_is_only_if_it_knows():
    for strategy in (*GRADIENTS.values(), Strategy()):
        assert strategy.ahead((torch.zeros(1),), None, torch.zeros(1), None) is None
        assert not strategy.follows_data


@pytest.mark.parametrize("name", ["implicit", "one_step"])
def test_a_step_that_cannot_be_taken_again_has_no_error(name, step):
    found = GRADIENTS[name].attach(step, *end_of(step))
    found.value[0].sum().backward()
    assert math.isnan(found.adjoint.error)
