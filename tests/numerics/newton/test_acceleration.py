"""Newton's method for fixed points."""

import math
from types import SimpleNamespace

import pytest
import torch
from iterated import run

from skgmmot.numerics.fixed_point import iterate
from skgmmot.numerics.newton.acceleration import LONGEST_RADIUS, DerivativeModel, Newton
from skgmmot.numerics.newton.linearisation import AutogradLinearisation

F64 = torch.float64


def model_of(J):
    return DerivativeModel(torch.eye(len(J), dtype=F64), J)


@pytest.mark.parametrize("n_iter", [1, 2, 13, 100])
def test_a_jump_is_many_iterations_of_the_linear_map(n_iter, make_samples):
    J = make_samples(4, 4, seed=1) / 4
    r = make_samples(4, 1, seed=2).squeeze(1)
    J = J + 0.99 * torch.eye(4, dtype=F64)  # grows in each iteration, so that the radius decides
    delta = torch.zeros_like(r)
    for _ in range(n_iter):
        delta = J @ delta + r
    radius = float(delta.norm()) * (1 + 1e-9)
    jump = model_of(J).jump(r, radius)
    assert jump.n_iter == n_iter
    torch.testing.assert_close(jump.delta, delta)
    torch.testing.assert_close(jump.residual, r - delta + J @ delta)
    torch.testing.assert_close(jump.of(2 * r), 2 * delta)


def test_a_jump_without_bound_is_newtons_step(make_samples):
    J = torch.diag(torch.tensor([0.9999, 0.5, -0.3], dtype=F64))
    r = make_samples(3, 1, seed=2).squeeze(1)
    jump = model_of(J).jump(r, math.inf)
    assert jump.n_iter == math.inf
    torch.testing.assert_close(jump.delta, r / (1 - J.diagonal()), rtol=1e-9, atol=0)
    assert jump.gain == pytest.approx(float(r @ jump.delta) / 2)


@pytest.mark.parametrize("rank", [0, 5])
def test_a_model_has_the_products_that_it_has_seen(rank, make_samples):
    A = make_samples(5, 5, seed=3)
    J = A + A.mT
    model = DerivativeModel(torch.eye(5, dtype=F64)[:, :rank], torch.zeros(rank, rank, dtype=F64))
    Q, _ = torch.linalg.qr(make_samples(5, 3, seed=4))
    for v in Q.mT:  # orthogonal ones, which leave each other's products alone
        model.observe(v, J @ v)
    for v in Q.mT:
        torch.testing.assert_close(model.product(v), J @ v)
    torch.testing.assert_close(model.basis.mT @ model.basis, torch.eye(5, dtype=F64))


def test_newton_takes_fewer_steps_and_is_restored_from_any_of_its_states(slow):
    F, _, x = slow
    states = []

    class Journal:
        loop = None

        def step(self, loop):
            states.append(loop)

    def step(theta):  # the map is the gradient of this
        z = (theta[0] - x).unsqueeze(0)
        H = (x - F((x + 1e-4 * torch.eye(6, dtype=F64),))[0]) / 1e-4 + torch.eye(6, dtype=F64)
        return F(theta), float(-(z @ H @ z.mT).sum() / 2 - 0.075 * (z**4).sum())

    def run(loop=None):
        journal = Journal()
        journal.loop = loop
        newton = Newton(lambda theta: AutogradLinearisation(F, theta))
        options = {"accelerator": newton, "journal": journal}
        return iterate(step, (x + 0.1,), tol=1e-13, max_iter=1000, **options)

    first = run()
    assert first.converged and first.n_iter < 60
    assert (first.value[0] - x).norm() < 1e-5
    assert all(b >= a - 1e-15 for a, b in zip(first.objectives, first.objectives[1:], strict=False))
    for state in list(states)[::5]:
        assert run(state).value[0].tolist() == first.value[0].tolist()


def test_a_plain_step_shows_the_model_what_the_derivative_does_to_it(make_samples):
    A = make_samples(5, 5, seed=3)
    J, c = (A + A.mT) / 20, torch.ones(5, dtype=F64)

    def F(theta):
        return (J @ theta[0] + c,)

    newton = Newton(lambda theta: AutogradLinearisation(F, theta))
    blank = [torch.eye(5, dtype=F64)[:, :0], torch.zeros(0, 0, dtype=F64), False]
    newton.restore(newton.state() | {"model": blank})
    first, second = (c,), F((c,))
    assert newton.arrive(first, 0.0, False) and newton.arrive(second, 1.0, False)
    step = second[0] - first[0]
    model = DerivativeModel(*newton.state()["model"])
    torch.testing.assert_close(model.product(step), J @ step)


def before_a_jump(**state):
    """Newton's method on a line, where the iteration is said to contract by 0.99, and its jump."""

    def linearise(point):
        return SimpleNamespace(residual=point[0], retracted=lambda v: (v,), against=point[0])

    newton = Newton(linearise)
    model = [torch.eye(1, dtype=F64), torch.full((1, 1), 0.99, dtype=F64), state.pop("exact", True)]
    newton.restore(newton.state() | {"model": model, "begun": True, "radius": 0.2} | state)
    first = (torch.full((1,), 0.01, dtype=F64),)
    assert newton.arrive(first, 0.0, False)
    (delta,) = newton.propose(first, first, False)
    return newton, delta


@pytest.mark.parametrize(
    ("error", "state", "stays", "radius"),
    [
        (0.05, {}, True, 0.4),  # of at most twice the length
        (0.15, {}, True, 0.2),
        (0.3, {}, True, None),  # by a new model
        (0.3, {"fresh": True}, True, 0.1),
        (0.5, {}, False, 0.2),
        (0.5, {"exact": False}, True, 0.1),
    ],
)
def test_how_wrong_a_jump_was_says_whether_it_stays_and_how_long_the_next_is(
    error, state, stays, radius
):
    newton, delta = before_a_jump(**state)
    assert 0.18 < float(delta) <= 0.2
    # the residual that the model predicts, and what leads to a change of that share of the jump
    there = (0.01 * (1 - delta + error),)
    assert newton.arrive(there, 1.0, True) == stays
    after = newton.state()
    assert (after["model"] is None) == (radius is None)
    assert after["radius"] == pytest.approx(radius or 0.2, rel=0.1)


def test_the_objective_may_fall_by_what_rounds_and_what_the_gradient_has_against_the_jump():
    newton, delta = before_a_jump()
    against = 0.01 * float(delta)
    assert newton.may_fall(0.999 * against, 1.0) and newton.may_fall(against + 1e-16, 1.0)
    assert not newton.may_fall(1.001 * against, 1.0)


def test_jumps_grow_up_to_the_longest():
    def F(theta):
        return (0.99 * theta[0],)

    points = []
    options = {
        "accelerator": Newton(lambda theta: AutogradLinearisation(F, theta)),
        "callback": lambda found: points.append(found.value[0]),
    }
    with torch.no_grad():
        end = iterate(
            lambda theta: (F(theta), -float(theta[0].square().sum())),
            (torch.full((1,), 30.0, dtype=F64),),
            tol=1e-9,
            max_iter=100,
            **options,
        )
    jumps = torch.cat(points).diff().abs()
    assert 1.9 < jumps.max() < 2.4 and LONGEST_RADIUS == 2  # and a plain step of at most 0.3
    assert end.converged and abs(end.value[0]) < 1e-3


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
