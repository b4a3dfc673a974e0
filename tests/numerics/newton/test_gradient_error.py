"""Errors of gradients, against closed forms."""

import copy
import math

import pytest
import torch

from skgmmot.numerics.fixed_point import Solution
from skgmmot.numerics.gradients import GRADIENTS
from skgmmot.numerics.newton.linearisation import AutogradLinearisation

F64 = torch.float64


class Root:
    """``(a, b) -> (a, 0.9 b + 0.05 x / b)``: the fixed point ``b`` is the root of ``x / 2``."""

    def __init__(self, x):
        self.x = x

    def __call__(self, theta):
        a, b = theta
        return a + 0 * self.x, 0.9 * b + 0.05 * self.x / b

    def linearise(self, theta):
        return AutogradLinearisation(Root(self.x.detach()), theta)

    def advance(self, theta, n):
        for _ in range(n):
            theta = Root(self.x.detach())(theta)
        return theta

    def on_leaves(self):
        leaf = self.x.detach().requires_grad_(self.x.requires_grad)
        return Root(leaf), [leaf] if leaf.requires_grad else []


def end(name, b):
    """The end of a loop at some point near the fixed point one, for ``x = 2``, on the graph."""
    step = Root(torch.tensor([2.0], dtype=F64, requires_grad=True))
    theta = torch.tensor([3.0], dtype=F64), torch.tensor([b], dtype=F64)
    with torch.no_grad():
        value = step(theta)
    if name == "implicit":
        theta = value
    solution = Solution(value, theta, 0.0, (), 1, True, 0.0)
    return step.x, GRADIENTS[name].attach(step, theta, solution)


@pytest.mark.parametrize("name", ["implicit", "one_step"])
@pytest.mark.parametrize("b", [1.0, 1.001, 0.98])
def test_the_error_is_that_to_the_gradient_at_the_fixed_point(name, b):
    x, found = end(name, b)
    assert math.isnan(found.adjoint.error)  # before backward
    (gradient,) = torch.autograd.grad(found.value[1].sum(), x)
    true = abs(gradient.item() / 0.25 - 1)  # b = sqrt(x / 2)
    assert true <= found.adjoint.error <= 1.3 * true + 1e-9


@pytest.mark.parametrize("name", ["implicit", "one_step"])
def test_the_error_is_infinite_where_the_loss_depends_on_what_nothing_determines(name):
    _, found = end(name, 1.01)
    sum(t.sum() for t in found.value).backward()
    assert found.adjoint.error == math.inf


def test_the_error_is_of_samples_as_they_were():
    x, found = end("implicit", 1.01)
    found.value[1].sum().backward()
    unasked = copy.deepcopy(found.adjoint)
    with torch.no_grad():
        x += 1
    assert math.isnan(unasked.error) and math.isnan(found.adjoint.error)


def test_copies_keep_an_error_that_is_known():
    _, found = end("one_step", 1.01)
    found.value[1].sum().backward()
    error = found.adjoint.error
    assert copy.deepcopy(found.adjoint).error == error > 0.5
