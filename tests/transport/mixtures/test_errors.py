"""Errors of MW2, of all its plans; their honesty is tested with the promises."""

import math

import pytest
import torch

from skgmmot.transport.discrete.plan import Plan
from skgmmot.transport.mixtures.distance import debiased_cost, transport_plan
from skgmmot.transport.mixtures.errors import cost_error, debiased_error
from skgmmot.transport.mixtures.pairwise import pairwise_squared


@pytest.mark.parametrize("reg", [0.0, 0.3])
@pytest.mark.parametrize("reg_m", [None, 2.0, (math.inf, 1.0)])
def test_every_plan_has_an_error_of_rounding(make_mixture, reg, reg_m):
    pair = make_mixture("full", 4, 3), make_mixture("diag", 3, 3, seed=1)
    plan = transport_plan(*pair, reg=reg, reg_m=reg_m)
    assert plan.error < cost_error(*pair, plan) < 1e-11 * float(plan.cost)


def test_the_order_of_the_arguments_does_not_matter(make_mixture):
    pair = make_mixture("full", 4, 3), make_mixture("tied", 3, 3, seed=1)
    errors = [cost_error(*p, transport_plan(*p)) for p in (pair, pair[::-1])]
    assert errors[0] == pytest.approx(errors[1], rel=1e-9)


def test_equal_mixtures_are_exactly_at_zero(make_mixture):
    mixture = make_mixture("full", 3, 2)
    assert cost_error(mixture, mixture, transport_plan(mixture, mixture)) == 0.0


def test_a_plan_whose_costs_are_not_all_computed(make_mixture):
    pair = make_mixture("full", 40, 5, spread=9.0), make_mixture("full", 40, 5, 1, spread=9.0)
    plan = transport_plan(*pair)
    assert plan.error < cost_error(*pair, plan) < 1e-12 * float(plan.cost)


def test_a_plan_of_tensors_is_refused(make_mixture):
    pair = make_mixture("diag", 2, 2), make_mixture("diag", 2, 2, seed=1)
    with pytest.raises(AttributeError, match="just computed"):
        cost_error(*pair, Plan(*transport_plan(*pair)))


def test_divergences_have_the_errors_of_three_costs(make_mixture):
    pair = make_mixture("full", 3, 2), make_mixture("full", 3, 2, seed=1)
    single, all_three = (
        cost_error(*pair, transport_plan(*pair, reg=0.5)),
        debiased_error(*pair, reg=0.5),
    )
    assert single < all_three < 10 * single


@pytest.mark.parametrize(
    "options", [{}, {"reg": 0.2}, {"reg_m": 1.0}, {"reg": 0.2, "debiased": True}]
)
@pytest.mark.parametrize("name", ["full", "diag"])
def test_pairwise_errors_are_those_of_the_pairs(make_mixture, options, name):
    mixtures = [make_mixture(name, K, 3, seed=K) for K in (2, 3, 4)]
    of_pair, debiased = dict(options), options.get("debiased")
    of_pair.pop("debiased", None)
    for targets in (None, mixtures[1:]):
        values, errors = pairwise_squared(mixtures, targets, **options, return_error=True)
        assert torch.equal(values, pairwise_squared(mixtures, targets, **options))
        for i, source in enumerate(mixtures):
            for j, target in enumerate(targets or mixtures):
                if debiased:
                    error = debiased_error(source, target, **of_pair)
                    assert values[i, j] == pytest.approx(
                        float(debiased_cost(source, target, **of_pair)), abs=1e-12
                    )
                else:
                    error = cost_error(source, target, transport_plan(source, target, **of_pair))
                assert float(errors[i, j]) == pytest.approx(error, rel=0.6, abs=1e-18)


def test_pairwise_with_gradients_and_bounded_costs(make_mixture):
    mixtures = [make_mixture("full", 30, 4, seed=K, spread=9.0) for K in (1, 2)]
    values, errors = pairwise_squared(mixtures, return_error=True)
    assert 0 < float(errors[0, 1]) < 1e-12 * float(values[0, 1]) and float(errors[0, 0]) == 0.0
    leaf = mixtures[0].means.requires_grad_()
    on_graph, others = pairwise_squared(mixtures, return_error=True)
    on_graph.sum().backward()
    assert leaf.grad is not None and not others.requires_grad
    assert float(others[0, 1]) == pytest.approx(float(errors[0, 1]), rel=0.6)
