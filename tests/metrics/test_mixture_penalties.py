"""MixtureWasserstein with penalties, an entropy, and the bias of the entropy taken away."""

import math

import numpy as np
import pytest
import torch

from skgmmot import MixtureWasserstein
from skgmmot.metrics import (
    mixture_wasserstein_distance,
)
from skgmmot.transport.discrete.solvers import solve


def mixture(rng, K=3, d=2):
    """Random weights, means and full covariances."""
    A = rng.normal(size=(K, d, d))
    return rng.dirichlet(np.ones(K)), 3 * rng.normal(size=(K, d)), A @ A.mT + 0.1 * np.eye(d)


def test_penalties_are_those_of_the_discrete_problem(rng):
    source, target = mixture(rng), mixture(rng, K=5)
    for options in ({"reg": 0.5}, {"reg_m": 2.0}, {"reg": 0.1, "reg_m": (math.inf, 2.0)}):
        metric = MixtureWasserstein(**options, squared=True)
        C = metric.cost(source, target)
        arrays = (torch.from_numpy(t) for t in (source[0], target[0], C))
        expected = solve(*arrays, **options)
        assert np.isclose(metric(source, target), expected.cost.item(), rtol=1e-12)
        assert np.allclose(metric.plan(source, target), expected.coupling.numpy(), atol=1e-12)
        root = MixtureWasserstein(**options)(source, target)
        assert np.isclose(root**2, expected.cost.item())


def test_penalties_between_hold_and_destroy(rng):
    source, target = mixture(rng), mixture(rng, K=5)
    values = [MixtureWasserstein(reg_m=lam)(source, target) for lam in (1e-9, 0.1, 1.0, 1e9)]
    assert values == sorted(values)
    assert values[0] < 1e-4
    assert np.isclose(values[-1], MixtureWasserstein()(source, target), rtol=1e-6)


@pytest.mark.parametrize("lam", [1e20, 1e25, 1e50, 1e300])
def test_enormous_penalties_hold(rng, lam):
    source, target = mixture(rng), mixture(rng, K=5)
    exact = MixtureWasserstein()
    for reg_m in (lam, (lam, math.inf), (math.inf, lam)):
        metric = MixtureWasserstein(reg_m=reg_m)
        assert np.isclose(metric(source, target), exact(source, target), rtol=1e-10)
        assert np.allclose(metric.plan(source, target), exact.plan(source, target), atol=1e-10)


def test_large_penalties_are_not_paid_for_the_rounding_of_weights(rng):
    source, target = (
        tuple(torch.tensor(t).float() for t in params) for params in (mixture(rng), mixture(rng, 5))
    )
    source[0][0] += 1e-7
    exact = MixtureWasserstein()(source, target)
    assert np.isclose(MixtureWasserstein(reg_m=1e16)(source, target), exact, rtol=1e-6)


def test_an_outlier_is_destroyed_rather_than_moved():
    eye = np.stack([np.eye(2)] * 2)
    source = ([0.5, 0.5], [[0.0, 0.0], [5.0, 0.0]], eye)
    target = (
        [0.45, 0.45, 0.1],
        [[0.0, 0.0], [5.0, 0.0], [1e4, 0.0]],
        np.stack([np.eye(2)] * 3),
    )
    assert MixtureWasserstein()(source, target) > 1e3
    plan = MixtureWasserstein(reg_m=1.0).plan(source, target)
    assert plan[:, 2].sum() < 1e-12
    assert np.allclose(plan[:, :2], np.diag([0.4743, 0.4743]), atol=1e-3)  # sqrt(0.5 * 0.45)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"reg": -0.1}, ValueError, "reg must be finite and not negative"),
        ({"reg": np.nan}, ValueError, "reg must be finite and not negative, got nan"),
        ({"reg_m": 0}, ValueError, "reg_m must be positive, got 0"),
        ({"reg_m": (-1.0, 1.0)}, ValueError, "reg_m must be positive, got -1"),
        ({"reg_m": np.nan}, ValueError, "reg_m must be positive, got nan"),
        ({"reg_m": "all"}, TypeError, "reg_m must be a number, got 'all'"),
    ],
)
def test_penalties_that_are_none_are_refused(options, error, message):
    gaussian = ([1.0], [[0.0]], [[[1.0]]])
    for call in (lambda m: m(gaussian, gaussian), lambda m: m.pairwise([gaussian] * 2)):
        with pytest.raises(error, match=message):
            call(MixtureWasserstein(**options))


@pytest.mark.parametrize("reg", [0.0, 0.7])
@pytest.mark.parametrize("reg_m", [1.0, (3.0, 0.2)])
def test_penalised_mixtures_may_have_any_masses(reg, reg_m):
    # one component each: cost + lam0 log(P / 2) + lam1 log(P / 3) + reg log(P / 6) = 0
    source, target = ([2.0], [[0.0]], [[1.0]], "diag"), ([3.0], [[1.0]], [[1.0]], "diag")
    lam = reg_m if isinstance(reg_m, tuple) else (reg_m, reg_m)
    logs = lam[0] * math.log(2) + lam[1] * math.log(3) + reg * math.log(6) - 1
    P = math.exp(logs / (sum(lam) + reg))
    parts = ((lam[0], 2.0), (lam[1], 3.0), (reg, 6.0))
    expected = P + sum(lam * (P * math.log(P / q) - P + q) for lam, q in parts)
    metric = MixtureWasserstein(reg, reg_m, squared=True)
    assert metric(source, target) == pytest.approx(expected, rel=1e-9)
    assert metric.plan(source, target) == pytest.approx(P, rel=1e-6)
    assert metric.pairwise([source], [target])[0, 0] == pytest.approx(expected, rel=1e-9)


def test_masses_that_must_be_held_or_are_none_are_refused():
    one, two = ([1.0], [[0.0]], [[1.0]], "diag"), ([2.0], [[0.0]], [[1.0]], "diag")
    for reg_m in (None, math.inf):
        with pytest.raises(
            ValueError, match="weights must be non-negative and sum to 1, got sum 2"
        ):
            mixture_wasserstein_distance(one, two, reg_m=reg_m)
    for weight in (0.0, -1.0):
        bad = ([weight], [[0.0]], [[1.0]], "diag")
        with pytest.raises(ValueError, match="non-negative and of positive sum, got sum"):
            mixture_wasserstein_distance(one, bad, reg_m=1.0)
    assert mixture_wasserstein_distance(one, two, reg_m=(math.inf, 1.0), squared=True) == (
        pytest.approx(1 - math.log(2))  # KL(1 | 2)
    )


def spread_out(scale):
    """Twelve narrow components, spread as a normal distribution of that deviation."""
    x = torch.special.ndtri((torch.arange(12, dtype=torch.float64) + 0.5) / 12).unsqueeze(1)
    weights = torch.full((12,), 1 / 12, dtype=torch.float64)
    return weights, scale * x, torch.full_like(x, 0.01)


@pytest.mark.parametrize(("reg", "biased"), [(0.5, 0.86), (1.0, 0.68)])
def test_the_entropic_distance_is_least_at_the_right_spread_without_its_bias(reg, biased):
    def slope(scale, **options):
        scale = torch.tensor(scale, dtype=torch.float64, requires_grad=True)
        metric = MixtureWasserstein(reg, squared=True, **options)
        (found,) = torch.autograd.grad(metric(spread_out(scale), spread_out(1.0)), scale)
        return found.item()

    assert slope(biased - 0.02) < 0 < slope(biased + 0.02)
    assert slope(1.0) > 0.1
    assert slope(1.0, debiased=True) == pytest.approx(0, abs=1e-9)
    assert slope(0.98, debiased=True) < -1e-3
    assert slope(1.02, debiased=True) > 1e-3


@pytest.mark.parametrize("options", [{"reg": 0.5}, {"reg": 0.5, "reg_m": 1.0}, {}, {"reg_m": 1.0}])
def test_without_bias_equal_mixtures_are_at_distance_zero_and_others_are_not(rng, options):
    metric = MixtureWasserstein(**options, squared=True, debiased=True)
    mixtures = [mixture(rng, K=K, d=2) for K in (1, 3, 4)]
    D = metric.pairwise(mixtures)
    assert (np.diag(D) == 0).all() and (D[~np.eye(3, dtype=bool)] > 0).all()
    assert (D == D.T).all()
    expected = [[metric(source, target) for target in mixtures] for source in mixtures]
    assert np.allclose(D, expected, rtol=1e-9, atol=1e-12)
    assert np.allclose(metric.pairwise(mixtures, mixtures[:2]), D[:, :2], rtol=1e-9, atol=1e-12)
    if "reg" not in options:
        assert np.allclose(D, MixtureWasserstein(**options, squared=True).pairwise(mixtures))
    assert mixture_wasserstein_distance(*mixtures[:2], **options, debiased=True) == (
        pytest.approx(math.sqrt(D[0, 1]))
    )


@pytest.mark.parametrize("options", [{"reg": 0.5}, {"reg": 0.5, "reg_m": 1.0}])
def test_gradients_without_bias_are_those_of_finite_differences(rng, options):
    target = mixture(rng, K=3, d=2)
    start = [torch.as_tensor(t) for t in mixture(rng, K=2, d=2)]
    metric = MixtureWasserstein(**options, squared=True, debiased=True)

    def value(shift, tilt):
        weights, means, covariances = start
        weights = weights + tilt * torch.tensor([1.0, -1.0], dtype=torch.float64)
        return metric((weights, means + shift, covariances * (1 + tilt)), target)

    zeros = torch.zeros(2, 2, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    leaves = [t.clone().requires_grad_() for t in zeros]
    assert torch.autograd.gradcheck(value, leaves, eps=1e-5, atol=1e-6)


def test_the_bias_is_not_taken_away_between_different_penalties():
    one = ([1.0], [[0.0]], [[1.0]], "diag")
    with pytest.raises(ValueError, match="one penalty for both marginals where the bias is taken"):
        mixture_wasserstein_distance(one, one, reg=1.0, reg_m=(1.0, 2.0), debiased=True)
    with pytest.raises(ValueError, match="one penalty for both marginals where the bias is taken"):
        MixtureWasserstein(1.0, (1.0, 2.0), debiased=True).pairwise([one])
    assert repr(MixtureWasserstein(1.0, debiased=True)).endswith("squared=False, debiased=True)")


def test_without_bias_unequal_masses_cost_what_they_differ_by():
    metric = MixtureWasserstein(reg=0.5, reg_m=1.0, squared=True, debiased=True)
    mixtures = [([m], [[0.0]], [[1.0]], "diag") for m in (1.0, 2.0, 3.0)]
    D = metric.pairwise(mixtures)
    assert (np.diag(D) == 0).all() and D[0, 1] > 0 and D[0, 2] > D[0, 1]
    assert D[0, 2] == pytest.approx(metric(mixtures[0], mixtures[2]), rel=1e-12)
    assert metric.pairwise(mixtures[:1], mixtures[1:])[0, 1] == pytest.approx(D[0, 2], rel=1e-9)
