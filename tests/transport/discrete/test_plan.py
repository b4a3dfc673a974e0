"""Transport plans as values: their parts, and the errors they carry."""

import pickle

import pytest
import torch

from skgmmot.transport.discrete.plan import Plan, known_costs, transposed
from skgmmot.transport.discrete.solvers import exact
from skgmmot.transport.mixtures.distance import transport_plan


def problem(K=5, L=4, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.rand(n, generator=generator).to(dtype) for n in (K, L))
    return a / a.sum(), b / b.sum(), torch.rand(K, L, generator=generator).to(dtype)


def test_a_plan_is_like_a_named_tuple():
    plan = exact(*problem())
    P, f, g, cost = plan
    assert len(plan) == 4 and plan[0] is P is plan.coupling and plan[-1] is cost is plan.cost
    assert plan[1:3] == (f, g) == (plan.source_potential, plan.target_potential)
    assert plan._asdict() == dict(zip(Plan._fields, plan, strict=True))
    assert "solved" not in repr(plan)
    with pytest.raises(AttributeError, match="cannot assign"):
        plan.cost = cost


@pytest.mark.parametrize("turned", [False, True])
def test_a_changed_plan_keeps_its_errors(turned):
    plan = transposed(exact(*problem())) if turned else exact(*problem())
    same = plan._replace(cost=plan.cost.clone(), target_potential=plan[2] + 1.0)
    assert same.error == plan.error and known_costs(same) is not None
    independent = torch.outer(plan.coupling.sum(1), plan.coupling.sum(0))
    worse = plan._replace(coupling=independent)
    excess = float((independent * torch.from_numpy(known_costs(plan))).sum() - plan.cost)
    assert worse.gap == pytest.approx(excess) and worse.marginal_error < 1e-15
    wrong = plan._replace(cost=plan.cost + 0.25)
    assert wrong.error == pytest.approx(0.25) and wrong.gap == plan.gap


def test_a_plan_has_the_errors_of_its_transpose():
    plan = exact(*problem())
    assert transposed(plan).error == plan.error > 0
    assert pickle.loads(pickle.dumps(plan)).error == plan.error


def test_the_plan_between_equal_mixtures_is_exact(make_mixture):
    mixture = make_mixture("full", 3, 2)
    plan = transport_plan(mixture, mixture)
    assert plan.gap == plan.marginal_error == plan.error == 0.0


def test_a_plan_of_tensors_has_no_errors():
    with pytest.raises(AttributeError, match="must be one that was just computed"):
        _ = Plan(*torch.ones(4, 1, 1)).error


def test_another_plan_between_equal_mixtures_has_no_errors(make_mixture):
    mixture = make_mixture("full", 3, 2)
    plan = transport_plan(mixture, mixture)
    assert plan._replace(cost=plan.cost.detach()).error == 0.0
    for other in ({"cost": plan.cost + 1.0}, {"coupling": plan.coupling.flip(0)}):
        with pytest.raises(AttributeError, match="Solve the problem again"):
            _ = plan._replace(**other).error
