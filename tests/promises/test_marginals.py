"""Transport plans have the marginals that were asked for, at any magnitude of costs and weights."""

import math

import numpy as np
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from promises.inputs import REFUSED, answered

from skgmmot.functional import GaussianMixtureParams, transport_plan
from skgmmot.transport.discrete.solvers import solve

#: Largest error of a marginal, as a share of the total mass.
ERROR = 1e-12
SEEDS = st.integers(0, 2**32 - 1)
POWERS = st.floats(-6, 2)


def weights(rng, n, least):
    """Weights that are equal, partly zero, or of magnitudes down to the least."""
    drawn = rng.dirichlet(np.full(n, 10.0 ** rng.uniform(-1, 1))) + 1e-12
    match rng.integers(4):
        case 0:
            drawn *= 10.0 ** rng.uniform(least, 0, size=n)
        case 1:
            drawn[rng.random(n) < 0.4] = 0
        case 2:
            drawn = np.ones(n)
    return drawn / drawn.sum() if drawn.sum() > 0 else np.full(n, 1 / n)


def costs(rng, K, L):
    """Costs of twenty orders of magnitude, squared distances, or many ties; never all zero."""
    match rng.integers(4):
        case 0:
            C = rng.random((K, L)) * 10.0 ** rng.uniform(-20, 0, size=(K, L))
        case 1:
            C = (rng.normal(size=(K, 1)) - rng.normal(size=L)) ** 2
        case 2:
            far = 10.0 ** rng.uniform(0, 10, size=K)[:, None] * 10.0 ** rng.uniform(0, 10, size=L)
            C = rng.random((K, L)) * far
        case 3:
            C = rng.integers(0, 3, size=(K, L)).astype(float)
    return (C + (C.max() == 0)) * 10.0 ** rng.integers(-5, 5)


def problem(seed, least=-300):
    """Weights and costs as tensors."""
    rng = np.random.default_rng(seed)
    K, L = rng.integers(1, 9, size=2)
    given = weights(rng, K, least), weights(rng, L, least), costs(rng, K, L)
    return map(torch.from_numpy, given)


def error(marginal, expected):
    """The largest difference from weights, both normalised in float64."""
    expected = expected.double()
    return float((marginal / marginal.sum() - expected / expected.sum()).abs().max())


@given(SEEDS)
@example(3435023)  # a gap of 1e-69 of the largest cost
def test_exact_plans(seed):
    a, b, C = problem(seed)
    P = solve(a, b, C).coupling
    assert (P >= 0).all()
    assert error(P.sum(1), a) <= ERROR and error(P.sum(0), b) <= ERROR


@given(SEEDS, POWERS)
def test_entropic_plans(seed, power):
    a, b, C = problem(seed)
    P = solve(a, b, C, reg=10.0**power * float(C.max())).coupling
    assert (P >= 0).all()
    assert error(P.sum(1), a) <= ERROR and error(P.sum(0), b) <= ERROR


@given(SEEDS, st.floats(-20, 20), st.booleans(), st.booleans())
def test_the_prescribed_marginal_of_semi_relaxed_plans(seed, power, first, entropy):
    a, b, C = problem(seed)
    lam = 10.0**power * float(C.max())
    reg_m = (math.inf, lam) if first else (lam, math.inf)
    plan = answered(solve, a, b, C, reg_m=reg_m, reg=lam / 10 if entropy else 0.0)
    if plan is REFUSED:  # a few of a thousand, whose digits do not suffice
        return
    P = plan.coupling
    assert (P >= 0).all()
    assert (error(P.sum(1), a) if first else error(P.sum(0), b)) <= ERROR


@given(SEEDS, st.sampled_from([None, -4, -3, -2, 0]), st.sampled_from(["both", "one", "none"]))
def test_plans_between_many_points_of_very_different_weights(seed, power, prescribed):
    rng = np.random.default_rng(seed)
    sides = []
    for _ in range(2):
        n = int(rng.integers(20, 70))
        shares = rng.dirichlet(np.full(n, 10.0 ** rng.uniform(-1.2, 0)))
        sides.append((np.maximum(shares, 1e-100), rng.normal(size=(n, 2)) + rng.uniform(0, 3)))
    (a, x), (b, y) = sides
    C = ((x[:, None] - y) ** 2).sum(-1)
    lam = tuple(10.0 ** rng.uniform(-3, 4, size=2) * C.mean())
    reg_m = {"both": None, "one": (math.inf, lam[1]), "none": lam}[prescribed]
    reg = 0.0 if power is None else 10.0**power * float(C.mean())
    plan = solve(*map(torch.from_numpy, (a, b, C)), reg=reg, reg_m=reg_m)
    P = plan.coupling
    assert plan.gap <= 1e-8 * float(plan.cost)
    if prescribed != "none":
        assert error(P.sum(1), torch.from_numpy(a)) <= ERROR
    if prescribed == "both":
        assert error(P.sum(0), torch.from_numpy(b)) <= ERROR


@given(SEEDS, st.sampled_from([0.0, 0.1]))
def test_weights_in_float32_are_renormalised_in_float64(seed, reg):
    a, b, C = problem(seed, least=-30)
    a, b = a.float(), b.float()
    P = solve(a, b, C, reg=reg * float(C.max())).coupling
    assert P.dtype == torch.float64
    # the exact solver may drop mass of the size of the weights' rounding where it would cost much
    allowed = ERROR if reg else 8 * torch.finfo(torch.float32).eps
    assert error(P.sum(1), a) <= allowed and error(P.sum(0), b) <= allowed


@given(SEEDS, st.sampled_from([0.0, 0.01, 1.0]))
@example(826328102, 1.0)
def test_plans_between_mixtures(seed, reg):
    rng = np.random.default_rng(seed)
    sides = []
    for _ in range(2):
        K = int(rng.integers(1, 7))
        parts = weights(rng, K, -300), 10.0 ** rng.uniform(0, 5) * rng.normal(size=(K, 2))
        variances = 10.0 ** rng.uniform(-5, 5, size=(K, 2))
        sides.append(GaussianMixtureParams(*map(torch.from_numpy, (*parts, variances)), "diag"))
    P = transport_plan(*sides, reg=reg).coupling
    assert error(P.sum(1), sides[0].weights) <= ERROR
    assert error(P.sum(0), sides[1].weights) <= ERROR
