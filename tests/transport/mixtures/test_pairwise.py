"""MW2 between many mixtures."""

import math

import pytest
import torch
from torch.testing import assert_close

from skgmmot.gaussian.covariance.registry import ELEMENTARY_TYPES
from skgmmot.transport.mixtures import distance, pairwise
from skgmmot.transport.mixtures.distance import cost_matrix, debiased_cost, transport_plan
from skgmmot.transport.mixtures.pairwise import pairwise_squared


@pytest.fixture
def mixtures(make_mixture):
    """Mixtures of different sizes in three dimensions."""
    return [make_mixture("full", K, 3, seed=K) for K in (1, 2, 4, 3)]


def one_by_one(sources, targets, **options):
    return torch.stack(
        [torch.stack([transport_plan(s, t, **options).cost for t in targets]) for s in sources]
    )


OPTIONS = [{}, {"reg": 0.5}, {"reg_m": 1.0}, {"reg_m": (1.0, math.inf)}, {"reg": 0.1, "reg_m": 2.0}]


@pytest.mark.parametrize("options", OPTIONS)
def test_all_pairs_are_what_each_pair_is(options, mixtures, make_mixture):
    others = [make_mixture("full", K, 3, seed=10 + K) for K in (2, 5)]
    expected = one_by_one(mixtures, others, **options)
    assert_close(pairwise_squared(mixtures, others, **options), expected)
    among = pairwise_squared(mixtures, **options)
    assert_close(among, one_by_one(mixtures, mixtures, **options), rtol=1e-7, atol=1e-14)
    assert torch.equal(among, among.mT) == (options.get("reg_m") != (1.0, math.inf))


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize(
    "names", [[t.name for t in ELEMENTARY_TYPES], ["diag", "spherical"], ["tied"] * 2]
)
def test_types_may_be_mixed(names, d, make_mixture):
    mixtures = [make_mixture(name, 3, d, seed=i) for i, name in enumerate(names)]
    assert_close(pairwise_squared(mixtures), one_by_one(mixtures, mixtures), atol=1e-14, rtol=1e-10)


@pytest.mark.parametrize("spread", [0.0, 1.0, 5.0])
def test_costs_on_demand_change_nothing(spread, make_mixture, monkeypatch):
    mixtures = [make_mixture("full", 6, 4, seed=i, spread=spread) for i in range(5)]
    expected = pairwise_squared(mixtures)  # all costs: these are few
    counted = []
    asked = pairwise.GaussianCosts.__call__

    def counting(costs, k, l):
        counted.append(len(k))
        return asked(costs, k, l)

    monkeypatch.setattr(pairwise, "MIN_BOUNDED_SIZE", 0)
    monkeypatch.setattr(pairwise, "MAX_COSTS_SHARE", 1.0)
    monkeypatch.setattr(pairwise.GaussianCosts, "__call__", counting)
    assert_close(pairwise_squared(mixtures), expected)
    n_pairs = 10 * 36
    assert sum(counted) <= n_pairs
    assert sum(counted) < n_pairs / 2 or spread < 5
    counted.clear()
    monkeypatch.setattr(
        pairwise, "MAX_COSTS_SHARE", -1.0
    )  # too many at once: the next rows take all
    assert_close(pairwise_squared(mixtures), expected)
    assert 0 < sum(counted) <= 4 * 36


@pytest.mark.parametrize("options", [{}, {"reg_m": 1.0}])
def test_one_pair_by_costs_on_demand_is_that_by_all_costs(options, make_mixture, monkeypatch):
    source, target = (make_mixture("full", 8, 4, seed=s).detach() for s in (1, 2))
    leaves = [type(m)(*(t.clone().requires_grad_() for t in m)) for m in (source, target)]
    expected = transport_plan(*leaves, **options)
    gradients = torch.autograd.grad(expected.cost, [t for m in leaves for t in m])
    monkeypatch.setattr(distance, "MIN_BOUNDED_SIZE", 0)
    plan = transport_plan(*leaves, **options)
    assert_close(plan.cost, expected.cost, rtol=1e-9, atol=0)
    assert_close(plan.coupling, expected.coupling, rtol=1e-6, atol=1e-9)
    found = torch.autograd.grad(plan.cost, [t for m in leaves for t in m])
    for f, e in zip(found, gradients, strict=True):
        assert_close(f, e, rtol=1e-6, atol=1e-8)
    assert_close(
        (plan.coupling * cost_matrix(source, target)).sum() * bool(not options),
        plan.cost.detach() * bool(not options),
    )


def test_rows_are_differentiable_where_a_mixture_is(mixtures):
    leaf = mixtures[1].means.clone().requires_grad_()
    moving = [mixtures[0], mixtures[1]._replace(means=leaf), mixtures[2]]
    found = pairwise_squared(moving)
    assert_close(found.detach(), pairwise_squared([m.detach() for m in moving]))
    (gradient,) = torch.autograd.grad(found[0].sum(), leaf, retain_graph=True)
    expected = transport_plan(moving[0], moving[1]).cost
    assert_close(gradient, torch.autograd.grad(expected, leaf)[0])
    with torch.no_grad():
        assert not pairwise_squared(moving).requires_grad


def test_one_mixture_is_at_no_cost_from_itself(mixtures):
    assert_close(pairwise_squared(mixtures[:1]), torch.zeros(1, 1, dtype=torch.float64))


def test_progress_is_tracked_over_the_sources(mixtures):
    seen = []

    def track(items):
        for item in items:
            seen.append(item)
            yield item

    pairwise_squared(mixtures, track=track)
    assert seen == [0, 1, 2, 3]


@pytest.mark.parametrize("options", [{"reg": 0.5}, {"reg": 0.5, "reg_m": 2.0}])
def test_debiased_costs_are_those_of_each_pair(mixtures, options):
    found = pairwise_squared(mixtures[:2], mixtures[1:], debiased=True, **options)
    for i, source in enumerate(mixtures[:2]):
        for j, target in enumerate(mixtures[1:]):
            assert_close(found[i, j], debiased_cost(source, target, **options))


@pytest.mark.parametrize("name, K, d", [("diag", 2, 2), ("full", 2, 3), ("full", 40, 12)])
def test_distances_whose_squares_overflow_are_refused(name, K, d, make_mixture):
    far = make_mixture(name, K, d)
    far = far._replace(means=far.means * 1e200)
    with pytest.raises(ValueError, match=r"got an infinite squared distance\. Divide"):
        pairwise_squared([make_mixture(name, K, d, seed=1), far])
