"""Sinkhorn's iteration and Newton's method on log-marginals."""

import math

import pytest
import torch
from torch.testing import assert_close

from skgmmot.transport.discrete import entropic
from skgmmot.transport.discrete.interior_point import all_pairs
from skgmmot.transport.discrete.interior_point.problem import Penalised

F64 = torch.float64


@pytest.fixture
def marginals():
    generator = torch.Generator().manual_seed(0)
    a, b, C = (
        torch.rand(*shape, dtype=F64, generator=generator) + 0.1 for shape in [(4,), (5,), (4, 5)]
    )
    return a / a.sum(), b / b.sum(), C


@pytest.mark.parametrize("penalties", [(math.inf, 0.5), (0.5, math.inf)])
def test_sinkhorn_finds_the_plan_of_the_interior_point_method(marginals, penalties):
    problem = Penalised(*marginals, *penalties, 1.5)
    f, g, P = entropic.sinkhorn(problem)
    expected = all_pairs.solve(problem)
    assert_close(P, expected.P, rtol=1e-8, atol=1e-10)
    # the gap between the two objectives proves the solution, whoever found it
    assert problem.primal(P) - problem.dual(f, g) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("smallest", [1.0, 1e-200])
def test_newton_on_log_marginals_meets_marginals_of_any_size(marginals, smallest):
    a, b, C = marginals
    a = a * torch.tensor([1.0, 1.0, 1.0, smallest], dtype=F64)
    a = a / a.sum()
    problem = Penalised(a, b, C, math.inf, math.inf, 0.05)
    f, g, P, value = entropic.log_domain_newton(problem)
    assert_close(P.sum(1) / a, torch.ones_like(a), rtol=1e-10, atol=0)
    assert_close(P.sum(0), b, rtol=1e-10, atol=0)
    assert problem.primal(P) == pytest.approx(value, rel=1e-10)
    assert problem.dual(f, g) == pytest.approx(value, rel=1e-10)


def test_softmin_of_constant_slack_is_that_slack():
    weights = torch.tensor([0.3, 0.7], dtype=F64)
    slack = torch.tensor([[2.0, 2.0], [-1.0, -1.0]], dtype=F64)
    for reg in (0.1, 10.0):
        assert_close(entropic.softmin(slack, weights, reg, math.inf), slack[:, 0])
        assert_close(entropic.softmin(slack, weights, reg, reg), slack[:, 0] / 2)


@pytest.mark.parametrize("reg", [1e-290, 1e-12, 1e280])
def test_softmin_of_slacks_that_are_large_against_the_entropy_is_the_least(reg):
    weights = torch.tensor([0.3, 0.7], dtype=F64)
    slack = torch.tensor([[3e299, 2e299], [-1e299, 4e299]], dtype=F64)
    assert_close(entropic.softmin(slack, weights, reg, math.inf), slack.amin(1))
