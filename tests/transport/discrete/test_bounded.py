"""Costs between bounds, learned until plans are optimal."""

import numpy as np
import pytest

from skgmmot.transport.discrete.bounded import BoundedCosts, solve_in_step
from skgmmot.transport.discrete.network_simplex import network_simplex

COLUMNS = [slice(0, 4), slice(4, 9)]


@pytest.fixture
def problem(rng):
    """Costs of two problems side by side, lower bounds of them, and weights."""
    C = rng.random((6, 9)) + np.abs(np.arange(6)[:, None] - np.arange(9))
    return C, C * rng.uniform(0.5, 0.95, size=C.shape), np.full(6, 1 / 6)


def solved(C, bounds, a, **options):
    """The costs of both plans, and the pairs whose costs were computed."""
    computed = []

    def compute(k, l):
        computed.extend(zip(k, l, strict=True))
        return C[k, l]

    known = BoundedCosts(bounds, compute, **options)

    def solve(j, costs):
        n = costs.shape[1]
        return network_simplex(a, np.full(n, 1 / n), costs)

    plans = solve_in_step(known, COLUMNS, solve)
    return [(P * C[:, at]).sum() for (P, _, _), at in zip(plans, COLUMNS, strict=True)], computed


def expected(C, a):
    """The costs of the plans between which all costs are known."""
    plans = [
        network_simplex(a, np.full(n, 1 / n), C[:, at])[0]
        for n, at in zip((4, 5), COLUMNS, strict=True)
    ]
    return [(P * C[:, at]).sum() for P, at in zip(plans, COLUMNS, strict=True)]


@pytest.mark.parametrize("rise", [0.0, 0.5])
def test_plans_are_optimal_although_few_costs_are_computed(rise, problem):
    C, bounds, a = problem
    values, computed = solved(C, bounds, a, rise=rise)
    assert values == pytest.approx(expected(C, a), rel=1e-14)
    assert len(set(computed)) == len(computed) < C.size


def test_bounds_are_tightened_once_before_many_costs_are_computed(problem):
    C, bounds, a = problem
    calls = []

    def tighter():
        calls.append(1)
        return 0.999 * C

    values, computed = solved(C, 0.1 * bounds, a, tighter=tighter)
    assert values == pytest.approx(expected(C, a), rel=1e-14)
    assert len(calls) == 1
    assert len(computed) < len(solved(C, 0.1 * bounds, a)[1])


def test_all_costs_are_computed_where_plans_may_use_a_large_share(problem):
    C, bounds, a = problem
    values, computed = solved(C, bounds, a, max_share=0.0)
    assert values == pytest.approx(expected(C, a), rel=1e-14)
    assert len(computed) == C.size
