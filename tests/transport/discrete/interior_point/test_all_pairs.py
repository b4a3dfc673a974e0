"""The interior-point method for penalised transport, piece by piece."""

import pytest
import torch
from torch.testing import assert_close

from skgmmot.transport.discrete.interior_point import all_pairs
from skgmmot.transport.discrete.interior_point.all_pairs import laplacian_solve, solve
from skgmmot.transport.discrete.interior_point.problem import (
    Penalised,
)

F64 = torch.float64


def problem(K=5, L=7, lam0=1.0, lam1=0.3, reg=0.0):
    a, b = (torch.rand(n, dtype=F64) + 0.1 for n in (K, L))
    return Penalised(a / a.sum(), b / b.sum(), torch.rand(K, L, dtype=F64), lam0, lam1, reg)


@pytest.mark.parametrize("shape", [(4, 6), (6, 4)])
def test_the_system_is_solved_where_one_ridge_alone_is_not_zero(shape):
    W = torch.rand(*shape, dtype=F64)
    ridges = [torch.zeros(n, dtype=F64) for n in shape]
    ridges[shape.index(4)][2] = 0.7
    x, y = (torch.rand(n, dtype=F64) for n in shape)
    right = W.sum(1) * x + W @ y + ridges[0] * x, W.sum(0) * y + W.mT @ x + ridges[1] * y
    assert_close(laplacian_solve(W, *ridges, *right), (x, y))


@pytest.mark.parametrize("ridge", [1.0, 1e-14, 0.0])
@pytest.mark.parametrize("shape", [(4, 6), (6, 4)])
def test_the_system_is_solved_without_cancellation(ridge, shape):
    W = torch.rand(*shape, dtype=F64) ** 20  # entries of all sizes
    ridges = [ridge * torch.rand(n, dtype=F64) for n in shape]
    x, y = (torch.rand(n, dtype=F64) for n in shape)
    right = W.sum(1) * x + W @ y + ridges[0] * x, W.sum(0) * y + W.mT @ x + ridges[1] * y
    found = laplacian_solve(W, *ridges, *right)
    # without ridges x + c, y - c is as good: only the sums count
    assert_close(found[0].unsqueeze(1) + found[1], x.unsqueeze(1) + y, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("reg", [0.0, 0.1])
def test_every_plan_costs_at_least_what_any_potentials_prove(reg):
    given = problem(reg=reg)
    for _ in range(20):
        f, g = -torch.rand(5, dtype=F64), -torch.rand(7, dtype=F64)  # feasible: costs are positive
        P = torch.rand(5, 7, dtype=F64) / 10
        assert given.dual(f, g) <= given.primal(P)
    point = solve(given)
    assert given.primal(point.P) == pytest.approx(given.dual(point.f, point.g), rel=1e-9)


def test_potentials_stay_feasible_without_entropy():
    given = problem()
    point = solve(given)
    assert (given.C - point.f.unsqueeze(1) - point.g >= -1e-14).all()
    assert (point.P > 0).all()


def test_a_problem_in_another_unit_has_its_value_in_that_unit():
    given = problem(reg=0.2)
    P = torch.rand(5, 7, dtype=F64)
    assert given.in_unit(4.0).primal(P) == pytest.approx(given.primal(P) / 4)


def test_stopping_early_says_so(monkeypatch):
    monkeypatch.setattr(all_pairs, "MAX_STEPS", 3)
    with pytest.raises(RuntimeError, match="must converge in 3 steps, got gap"):
        solve(problem())
