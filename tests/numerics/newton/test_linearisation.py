"""The derivative of a map at a point."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from skgmmot.numerics.newton.linearisation import AutogradLinearisation, spectral_radius

F64 = torch.float64


class Pair(NamedTuple):
    """A point with two leaves of different shapes."""

    left: Tensor
    right: Tensor


def F(theta):
    """A map that is nonlinear and whose derivative is not symmetric."""
    x, y = theta
    return Pair(torch.tanh(x + 0.3 * y.sum(0)), y.sin() + x.prod())


@pytest.fixture
def point(make_samples):
    return Pair(make_samples(1, 3, seed=1).squeeze(0), make_samples(2, 3, seed=2))


def test_products_are_those_with_the_transposed_jacobian(point, make_samples):
    linear = AutogradLinearisation(F, point)

    def flat(vector):
        return linear.encode(F(linear.decode(vector)))

    jacobian = torch.autograd.functional.jacobian(flat, linear.encode(point))
    u = make_samples(4, 9, seed=3)
    assert_close(linear.product(u), u @ jacobian, rtol=1e-13, atol=1e-14)
    assert_close(linear.matrix(), jacobian, rtol=1e-13, atol=1e-14)
    assert_close(linear.residual, flat(linear.encode(point)) - linear.encode(point))


@pytest.mark.parametrize("small", [True, False])
def test_the_adjoint_equation_is_solved_by_a_matrix_or_by_products(point, make_samples, small):
    linear = AutogradLinearisation(F, point)
    linear.small, b = small, make_samples(1, 9, seed=4).squeeze(0)
    x, _ = linear.solve(b, 1e-12)
    assert_close(x - linear.product(x), b, rtol=1e-9, atol=1e-9)


def test_a_change_of_coordinates_leads_back(point, make_samples):
    linear, change = AutogradLinearisation(F, point), make_samples(1, 9, seed=5).squeeze(0)
    moved = linear.retracted(change)
    assert type(moved) is Pair
    assert_close(linear.change_to(moved), change)


def test_the_spectral_radius_is_estimated_from_a_few_products(make_samples):
    Q, _ = torch.linalg.qr(make_samples(6, 6, seed=7))
    J = Q @ torch.diag(torch.linspace(0.99, 0.1, 6, dtype=F64)) @ Q.mT
    x = make_samples(6, 1, seed=8).squeeze(1)

    def F(theta):
        return (J @ (theta[0] - x) + x,)

    assert spectral_radius(AutogradLinearisation(F, (x,))) == pytest.approx(0.99)
    assert spectral_radius(AutogradLinearisation(F, (x,)), n_products=3) < 0.99 + 1e-12
