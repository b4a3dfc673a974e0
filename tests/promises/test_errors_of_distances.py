"""What plans and distances say of their errors, against computations in many digits."""

import itertools
import math

import mpmath as mp
import numpy as np
import pytest
import torch
from promises.gaussian_reference import gaussian_cost, sample_moments
from promises.honesty import assert_honest
from promises.transport_reference import exact_minimum, penalised_minimum

from skgmmot.metrics import (
    bures_wasserstein_distance,
    frechet_distance,
    mixture_wasserstein_distance,
    pairwise_mixture_wasserstein,
    sliced_mixture_wasserstein,
    sliced_wasserstein_distance,
)
from skgmmot.transport.discrete.solvers import exact, solve

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
        potentials = plan.solved.f.numpy(), plan.solved.g.numpy()
        minimum = penalised_minimum(*problem, penalties, reg, plan.coupling.numpy(), *potentials)
        if minimum is not None:
            stated.append(plan.error)
            true.append(_difference(plan.cost, minimum))
    assert len(stated) > 0.8 * n_problems
    assert_honest(stated, true, 0.0)


def _covariance(rng, d):
    B = rng.normal(size=(d, d))
    return B @ B.T / d + 0.3 * np.eye(d)


def _ill_conditioned(rng, d, condition):
    Q = np.linalg.qr(rng.normal(size=(d, d)))[0]
    S = (Q * np.logspace(0, -condition, d)) @ Q.T
    return (S + S.T) / 2


def _near(rng, mean, S, by):
    """A Gaussian at a small distance from another."""
    E = rng.normal(size=S.shape)
    return mean + by * rng.normal(size=len(mean)), S + by * (E + E.T)


def _gaussians(rng, kind):
    """Two Gaussians: of one kind for each number."""
    d = int(rng.integers(1, 6))
    means, (S, T) = rng.normal(size=(2, d)), (_covariance(rng, d) for _ in range(2))
    if kind in (1, 2):
        means[1], T = _near(rng, means[0], S, (1e-6, 1e-12)[kind - 1])
    if kind == 3:
        B = rng.normal(size=(d, max(1, d - 1)))
        S = B @ B.T
    if kind == 4:
        means[1] += 1e6
    if kind in (5, 6):
        S = _ill_conditioned(rng, d, rng.uniform(4, 14))
    if kind == 6:
        T = _ill_conditioned(rng, d, rng.uniform(4, 14))
    if kind == 7:
        unit = 10.0 ** rng.integers(-60, 60)
        means, S, T = unit * means, unit * (unit * S), unit * (unit * T)
    if kind == 8:
        means, S, T = (t.astype(np.float32).astype(float) for t in (means, S, T))
    if kind == 9:
        S, T = (np.diag(rng.gamma(1.0, size=d)) for _ in range(2))
    return (means[0], S), (means[1], T)


def _rooted(squared):
    with mp.workdps(120):
        return mp.sqrt(squared)


@pytest.mark.parametrize("squared", [True, False])
def test_gaussians(n_problems, squared):
    rng = np.random.default_rng(2)
    stated, true = [], []
    for i in range(n_problems):
        pair = _gaussians(rng, i % 10)
        value, error = bures_wasserstein_distance(*pair, squared=squared, return_error=True)
        cost = gaussian_cost(*pair)
        stated.append(error)
        true.append(_difference(value, cost if squared else _rooted(cost)))
    assert_honest(stated, true, 0.0)


def test_samples(n_problems):
    rng = np.random.default_rng(3)
    stated, true = [], []
    for i in range(n_problems):
        d = int(rng.integers(1, 5))
        X, Y = rng.normal(size=(20, d)), 2 * rng.normal(size=(30, d))
        if i % 4 == 1:
            X, Y = X + 1e6, Y + 1e6
        if i % 4 == 3:
            X = X[:, :1] * rng.normal(size=d)  # on a line
        value, error = frechet_distance(X, Y, return_error=True)
        stated.append(error)
        true.append(_difference(value, _rooted(gaussian_cost(*map(sample_moments, (X, Y))))))
    assert_honest(stated, true, 0.0)


def _mixtures(rng, kind):
    """Two mixtures: apart, near each other, in groups that are far apart, ill-conditioned."""
    K, L, d = rng.integers(1, 5), rng.integers(1, 5), int(rng.integers(1, 4))
    sides = []
    for n in (K, L):
        S = np.stack([_covariance(rng, d) for _ in range(n)])
        if kind == 3:
            S = np.stack([_ill_conditioned(rng, d, rng.uniform(2, 12)) for _ in range(n)])
        sides.append((_weights(rng, n), 3 * rng.normal(size=(n, d)), S))
    weights, means, S = sides[0]
    if kind == 1:
        moved = [_near(rng, *pair, 1e-7) for pair in zip(means, S, strict=True)]
        sides[1] = (weights, *(np.stack(t) for t in zip(*moved, strict=True)))
    if kind == 2:
        sides = [(w, m + 1e5 * rng.integers(0, 2, size=(len(m), 1)), S) for w, m, S in sides]
    return sides


def _minimum(source, target):
    """The squared distance in many digits."""
    C = [
        [gaussian_cost(*pair, digits=60) for pair in itertools.product([one], _components(target))]
        for one in _components(source)
    ]
    minimum = exact_minimum(source[0], target[0], C)
    with mp.workdps(60):
        return mp.mpf(minimum.numerator) / minimum.denominator


def _components(mixture):
    return list(zip(*mixture[1:], strict=True))


def test_mixtures(n_problems):
    rng = np.random.default_rng(4)
    stated, true = [], []
    for i in range(n_problems):
        pair = [tuple(side) for side in _mixtures(rng, i % 4)]
        value, error = mixture_wasserstein_distance(*pair, squared=i % 2 == 0, return_error=True)
        minimum = _minimum(*pair)
        stated.append(error)
        true.append(_difference(value, minimum if i % 2 == 0 else _rooted(minimum)))
    assert_honest(stated, true, 0.0)


def test_many_mixtures(n_problems):
    rng = np.random.default_rng(5)
    stated, true = [], []
    for _ in range(n_problems // 6):
        d = int(rng.integers(1, 4))
        mixtures = [
            (_weights(rng, K), rng.normal(size=(K, d)), np.stack([_covariance(rng, d)] * K))
            for K in (1, 2, 3, 2)
        ]
        values, errors = pairwise_mixture_wasserstein(mixtures, return_error=True)
        for i, j in itertools.combinations(range(4), 2):
            stated.append(errors[i, j])
            true.append(_difference(values[i, j], _rooted(_minimum(mixtures[i], mixtures[j]))))
    assert_honest(stated, true, 0.0)


PROJECTIONS = "quasi", "random", "orthogonal"


def test_sliced_distances_between_spheres(n_problems):
    rng = np.random.default_rng(6)
    stated, true = [], []
    for i in range(n_problems):
        d = int(rng.integers(1, 7))
        m, s = rng.normal(size=(2, d)), rng.gamma(2.0, size=2)
        sides = [([1.0], [mean], [sigma**2], "spherical") for mean, sigma in zip(m, s, strict=True)]
        options = {"projections": PROJECTIONS[i % 3], "random_state": i, "return_error": True}
        value, error = sliced_wasserstein_distance(*sides, **options)
        stated.append(error)
        true.append(value - np.sqrt(np.square(m[0] - m[1]).sum() / d + (s[0] - s[1]) ** 2))
    assert_honest(stated, true, 1e-15)


def _sides(rng, kind, d):
    """A mixture or samples, and samples or a mixture."""
    mixtures = [
        (_weights(rng, 2), 2 * rng.normal(size=(2, d)), [_covariance(rng, d) for _ in range(2)])
        for _ in range(2)
    ]
    samples = [rng.normal(size=(n, d)) * rng.gamma(2.0, size=d) for n in (30, 40)]
    return [(mixtures[0], samples[0]), mixtures, samples][kind]


def test_sliced_distances(n_problems):
    rng = np.random.default_rng(7)
    stated, true = [], []
    for i in range(n_problems if n_problems == MANY else 9):  # each exponent of each kind
        sides = _sides(rng, i % 3, int(rng.integers(2, 7)))
        options = {"p": [2.0, 1.0, 3.0][i // 3 % 3], "projections": PROJECTIONS[i // 9 % 3]}
        value, error = sliced_wasserstein_distance(
            *sides, **options, n_projections=30, random_state=i, return_error=True
        )
        longer = options | {"projections": "quasi"}
        stated.append(error)
        reference = sliced_wasserstein_distance(*sides, **longer, n_projections=1000)
        true.append(value - reference)
    assert_honest(stated, true, 0.0)


@pytest.mark.parametrize("slicing", ["msw", "dsmw"])
def test_sliced_distances_of_components(n_problems, slicing):
    rng = np.random.default_rng(8)
    stated, true = [], []
    for i in range(n_problems):
        sides = _sides(rng, 1, int(rng.integers(2, 7)))
        options = {"slicing": slicing, "squared": i % 2 == 0}
        value, error = sliced_mixture_wasserstein(
            *sides, **options, random_state=i, return_error=True
        )
        stated.append(error)
        true.append(value - sliced_mixture_wasserstein(*sides, **options, n_projections=5000))
    assert_honest(stated, true, 1e-14)


def test_quadrature_of_lines(n_problems):
    rng = np.random.default_rng(9)
    stated, true = [], []
    for i in range(n_problems):
        K, p = int(rng.integers(1, 4)), [2.0, 1.0][i % 2]
        mixture = _weights(rng, K), 3 * rng.normal(size=(K, 1)), rng.gamma(1.0, size=(K, 1)), "diag"
        X = 3 * rng.normal(size=(int(rng.integers(1, 200)), 1))
        value, error = sliced_wasserstein_distance(mixture, X, p=p, return_error=True)
        stated.append(error)
        true.append(value - sliced_wasserstein_distance(mixture, X, p=p, exact=True))
    assert_honest(stated, true, 1e-12)


def test_exact_quadrature(n_problems):
    rng = np.random.default_rng(10)
    stated, true = [], []
    for i in range(n_problems):
        m, s, y = rng.normal(), rng.gamma(1.0), np.sort(rng.normal(size=2))
        if i % 3 == 1:
            m, y = m + 1e6, y + 1e6
        if i % 3 == 2:
            s = s / 1e4
        side = [1.0], [[m]], [[s**2]], "diag"
        value, error = sliced_wasserstein_distance(side, y[:, None], exact=True, return_error=True)
        stated.append(error)
        true.append(_difference(value, _normal_to_two_points(m, s**2, *y)))
    assert_honest(stated, true, 0.0)


def _normal_to_two_points(mean, variance, low, high):
    """W2 from a normal distribution to two points of equal mass, divided at the mean."""
    with mp.workdps(60):
        mean, variance, low, high = (mp.mpf(float(t)) for t in (mean, variance, low, high))
        half = mp.sqrt(2 * variance / mp.pi)  # the means of both halves are off by so much
        squares = ((mean - low) ** 2 + (mean - high) ** 2) / 2
        return mp.sqrt(squares + variance - half * (high - low))
