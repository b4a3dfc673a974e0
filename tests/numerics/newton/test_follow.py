"""Fixed points that move."""

import pytest
import torch

from skgmmot.numerics.newton.follow import Carried
from skgmmot.numerics.newton.linearisation import AutogradLinearisation

F64 = torch.float64


class Moving:
    """``theta -> theta - H (theta - x) - (theta - x)^3 / 10``, whose fixed point is ``x``."""

    def __init__(self, make_samples):
        Q, _ = torch.linalg.qr(make_samples(6, 6, seed=7))
        self.H = Q @ torch.diag(torch.linspace(0.05, 0.9, 6, dtype=F64)) @ Q.mT
        self.x = torch.zeros(6, dtype=F64)

    def __call__(self, theta):
        z = theta[0] - self.x
        return (theta[0] - self.H @ z - z**3 / 10,)

    def linearise(self, theta):
        return AutogradLinearisation(self, theta)


@pytest.fixture
def F(make_samples):
    return Moving(make_samples)


@pytest.fixture
def carried(F):
    """What the fixed point at zero leaves behind."""
    carried = Carried(0.05)
    carried.solve(F.linearise((F.x,)).products(), torch.ones(6, dtype=F64))
    return carried


def end(found):
    """Where the last step leads."""
    linear, delta = found
    return linear.retracted(delta)[0]


def test_a_kept_inverse_finds_a_fixed_point_that_moved(F, carried):
    last, F.x = F.x, F.x + 0.05
    assert (end(carried.find(F.linearise, (last,), 0.1)) - F.x).norm() < 1e-2


def test_a_second_step_is_taken_where_one_is_not_enough(F, carried):
    last, F.x = F.x, F.x + 0.2
    linear, delta = carried.find(F.linearise, (last,), 0.1)
    assert not torch.equal(linear.theta[0], last) and delta.norm() <= 0.1
    assert (linear.retracted(delta)[0] - F.x).norm() < 1e-2


def test_an_inverse_that_leads_astray_is_found_anew(F, carried):
    F.H = F.H / 3  # the kept inverse goes a third of the way
    found = carried.find(F.linearise, (F.x + 0.2,), 0.01)
    assert (end(found) - F.x).norm() < 0.01
    torch.testing.assert_close(carried.inverse @ F.H, torch.eye(6, dtype=F64), rtol=0, atol=0.2)


def test_newtons_step_solves_the_equation_itself_and_not_the_adjoint_one(F, make_samples):
    F.H = F.H + torch.triu(make_samples(6, 6, seed=8), 1) / 20  # no longer symmetric
    assert (end(Carried(0.05).find(F.linearise, (F.x + 1e-3,), 0.1)) - F.x).norm() < 1e-6


@pytest.mark.parametrize(("distance", "is_near"), [(0.45, True), (0.55, False)])
def test_nothing_is_found_beyond_the_radius(F, carried, distance, is_near):
    # Newton's method would converge from all of them: the map is nearly linear there
    start = F.x + distance / 6**0.5
    for known in (carried, Carried(0.05)):
        found = known.find(F.linearise, (start,), 0.01)
        assert (found is not None) == is_near
        assert found is None or (end(found) - F.x).norm() < 0.01


def test_nothing_is_found_far_away(F, carried):
    assert carried.find(F.linearise, (F.x + 3,), 0.1) is None
    assert Carried(0.05).find(F.linearise, (F.x + 3,), 0.1) is None


def test_fixed_points_that_repel_are_left_alone(F):
    F.H = -F.H
    assert Carried(0.05).find(F.linearise, (F.x + 0.1,), 0.05) is None


class Natural:
    """A linearisation whose natural step is its cotangent."""

    def __init__(self, linear):
        self.encode, self.products = linear.encode, linear.products

    def natural(self, v):
        return v

    def movement(self, v, u):
        return u


def test_an_inverse_is_found_anew_with_the_matrix_of_natural_steps(F, carried):
    F.H = -F.H  # from now on the fixed point repels, which a kept inverse does not see
    assert carried.find(F.linearise, (F.x,), 0.1) is not None
    for _ in range(2):
        carried.move(Natural(F.linearise((F.x,))), (torch.ones(6, dtype=F64),))
    assert carried.inverse is None
    assert carried.find(F.linearise, (F.x,), 0.1) is None


def test_one_direction_that_repels_is_enough(F, carried):
    eigenvalues, Q = torch.linalg.eigh(F.H)
    eigenvalues[0] *= -1
    F.H = Q @ torch.diag(eigenvalues) @ Q.mT
    for _ in range(4):
        carried.solve(F.linearise((F.x,)).products(), torch.ones(6, dtype=F64))
    assert carried.inverse is None


def test_what_is_not_finite_is_not_kept(F):
    F.H = torch.full_like(F.H, torch.nan)
    carried = Carried(0.05)
    assert carried.find(F.linearise, (F.x,), 0.1) is None
    assert carried.inverse is None


def test_an_inverse_is_kept_only_while_it_serves(F, carried):
    b = torch.arange(6, dtype=F64)
    products = [F.linearise((F.x,)).products() for _ in range(8)]
    exact = torch.linalg.solve(F.H, b)  # symmetric
    for operator in products:
        torch.testing.assert_close(carried.solve(operator, b), exact)
    taken = [bool(len(p)) for p in products]
    # found anew when it is one, two, four or eight calls old
    assert taken == [True, True, False, True, False, False, False, True]
    F.H = F.H / 2
    for _ in range(8):  # at the latest when its age has doubled
        found = carried.solve(F.linearise((F.x,)).products(), b)
    torch.testing.assert_close(found, 2 * exact)


def test_an_inverse_of_a_map_that_repels_is_not_kept(F, carried):
    F.H = -F.H
    for _ in range(4):
        carried.solve(F.linearise((F.x,)).products(), torch.ones(6, dtype=F64))
    assert carried.inverse is None
