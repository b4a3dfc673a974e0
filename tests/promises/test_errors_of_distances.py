"""What plans and distances say of their errors, against computations in many digits."""

import math

import mpmath as mp
import numpy as np
import pytest
import torch
from promises.honesty import assert_honest
from promises.transport_reference import exact_minimum, penalised_minimum

from skgmmot.transport.discrete.plan import exact, solve

#: Problems of each kind: a few in CI, and as many as the promise is for with ``--examples``.
FEW, MANY = 24, 120


@pytest.fixture(scope="module")
def n_problems(request):
    """Number of random problems of each test."""
    return FEW if request.config.getoption("--examples") == 10 else MANY


def _weights(rng, K, concentration=1.0):
    return rng.dirichlet(np.full(K, concentration))


def _transport_problem(rng, kind):
    """Weights and costs between points: near, with far ones, of few masses, tiny, nearly equal."""
    K, L = rng.integers(1, 6, size=2)
    x, y = rng.normal(size=(K, 2)), rng.normal(size=(L, 2))
    concentration = 0.1 if kind == 2 else 1.0
    a, b = _weights(rng, K, concentration), _weights(rng, L, concentration)
    if kind == 1:
        x[0] *= 1e5
    if kind == 3:
        x, y = x * 1e-20, y * 1e-20
    if kind == 4:
        x = 100 * x
        y, b = x + 1e-5 * rng.normal(size=x.shape), a
    if kind == 5:
        a, b = np.full(K, 1 / K), np.full(L, 1 / L)
    return a, b, np.square(x[:, None] - y).sum(-1)


def _difference(value, reference) -> float:
    with mp.workdps(60):
        return float(mp.mpf(float(value)) - reference)


def test_exact_plans(n_problems):
    rng = np.random.default_rng(0)
    stated, true = [], []
    for i in range(n_problems):
        problem = _transport_problem(rng, i % 6)
        plan = exact(*map(torch.from_numpy, problem))
        minimum = exact_minimum(*problem)
        stated.append(plan.error)
        with mp.workdps(60):
            true.append(_difference(plan.cost, mp.mpf(minimum.numerator) / minimum.denominator))
    assert_honest(stated, true, 0.0)


def _penalised_problem(rng, kind):
    """A problem with an entropy, penalties or both, and their weights."""
    a, b, C = _transport_problem(rng, 0)
    lam = [float(10 ** rng.uniform(-1, 2)) for _ in range(2)]
    reg = float(10 ** rng.uniform(-1.5, 1.5)) if kind < 4 else 0.0
    penalties = (math.inf, math.inf)
    if kind in (1, 4):
        penalties = tuple(lam)
    if kind in (2, 5):
        penalties = math.inf, lam[1]
    if kind == 3:
        C = C + 1e3
    if kind == 4:
        b = 3 * b
    unit = 10.0 ** rng.integers(-9, 9)
    return (a, b, unit * C), tuple(unit * t for t in penalties), unit * reg


def test_entropic_and_unbalanced_plans(n_problems):
    rng = np.random.default_rng(1)
    stated, true = [], []
    for i in range(n_problems):
        problem, penalties, reg = _penalised_problem(rng, i % 6)
        plan = solve(*map(torch.from_numpy, problem), reg=reg, reg_m=penalties)
        potentials = plan._of.f.numpy(), plan._of.g.numpy()
        minimum = penalised_minimum(*problem, penalties, reg, plan.coupling.numpy(), *potentials)
        if minimum is not None:
            stated.append(plan.error)
            true.append(_difference(plan.cost, minimum))
    assert len(stated) > 0.8 * n_problems
    assert_honest(stated, true, 0.0)
