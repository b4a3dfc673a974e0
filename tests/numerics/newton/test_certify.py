"""Statements of how far a point is from its fixed point."""

import math

import pytest
import torch

from skgmmot.numerics.newton.certify import FLAT, certify, remaining
from skgmmot.numerics.newton.linearisation import AutogradLinearisation
from skgmmot.numerics.newton.polish import Polished


class Ascent:
    """Gradient steps of an objective, whose derivative is symmetric."""

    def __init__(self, objective, rate):
        self.objective, self.rate = objective, rate

    def __call__(self, theta):
        with torch.enable_grad():
            (x,) = theta
            x = x if x.requires_grad else x.clone().requires_grad_()
            (g,) = torch.autograd.grad(self.objective(x), x, create_graph=True)
        return (x + self.rate * g,)

    def linearise(self, theta):
        linear = AutogradLinearisation(self, theta)
        linear.objective = float(self.objective(theta[0]))
        return linear

    def advance(self, theta, n_steps):
        for _ in range(n_steps):
            theta = tuple(t.detach() for t in self(theta))
        return theta

    def certify(self, *x, max_passes=200):
        theta = (torch.tensor(x, dtype=torch.float64),)
        objective = float(self.objective(theta[0]))
        options = {"advance": self.advance, "max_passes": max_passes}
        return certify(self.linearise, theta, objective, **options)


@pytest.mark.parametrize("slowest", [0.5, 1e-3, 1e-6])
def test_distance_and_gain_of_a_quadratic_are_twice_the_true_ones(slowest):
    H = torch.tensor([0.9, slowest], dtype=torch.float64)
    step = Ascent(lambda x: -0.5 * (H * x * x).sum(), 1.0)
    found = step.certify(0.03, 0.04)
    assert found.distance == pytest.approx(2 * 0.05, rel=0.1)
    assert found.gain == pytest.approx(0.9 * 0.03**2 + slowest * 0.04**2, rel=0.1)
    assert found.n_passes <= 6


def test_a_singular_fixed_point_is_not_stated_to_be_nearer_than_it_is():
    """The residual is the cube of the distance: Newton's step goes a third of the way."""
    step = Ascent(lambda x: -0.25 * (x**4).sum(), 0.1)
    found = step.certify(0.3)
    assert 0.3 <= found.distance < 1.0
    assert 0.25 * 0.3**4 <= found.gain < 30 * 0.25 * 0.3**4


def test_flat_directions_do_not_count():
    H = torch.tensor([0.9, 0.0], dtype=torch.float64)
    found = Ascent(lambda x: -0.5 * (H * x * x).sum(), 1.0).certify(0.1, 0.7)
    assert found.distance == pytest.approx(0.2, rel=0.1)
    assert found.gain == pytest.approx(0.9 * 0.1**2, rel=0.1)


def test_nothing_is_left_at_a_fixed_point():
    found = Ascent(lambda x: -0.5 * (x * x).sum(), 0.5).certify(0.0, 0.0)
    assert found.distance == found.gain == 0.0


def test_what_is_left_is_finite_where_newtons_step_is_not():
    here = Ascent(lambda x: -0.5 * (x * x).sum(), 0.5).linearise((torch.ones(2).double(),))
    found = Polished(here.theta, 1e-12, math.inf, 1, math.inf)
    distance, gain = remaining(here, found)
    assert distance == pytest.approx(3e-12 / FLAT) and 0 < gain < 1e-15 / FLAT
