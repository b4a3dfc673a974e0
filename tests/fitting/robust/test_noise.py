"""Uniform noise: its box and density, what looks like it, and EM with it against NumPy."""

import math

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from skgmmot.fitting.em.rows import EM
from skgmmot.fitting.robust.noise import UniformNoise, check_noise, clear_of_noise, looks_like_noise
from skgmmot.fitting.samples import InMemory
from skgmmot.functional import GaussianMixtureParams, em_step, fit_em, log_density
from skgmmot.gaussian.choice import fastest_e_step
from skgmmot.gaussian.evaluators import DefinitionEStep, FeatureEStep, WhiteningEStep
from skgmmot.gaussian.statistics import e_step
from skgmmot.numerics import blocks

F64 = torch.float64
TYPES = ("full", "tied", "diag", "spherical")
LOG_DENSITY = -4.0


def two_and_noise(n, seed=0):
    """Two clusters that overlap, a third of it noise, and weights."""
    gen = torch.Generator().manual_seed(seed)
    draw = [torch.randn(n // 3, 2, generator=gen, dtype=F64) for _ in range(2)]
    X = torch.cat(
        [
            draw[0],
            0.7 * draw[1] + torch.tensor([2.5, 0.0], dtype=F64),
            12 * torch.rand(n - 2 * (n // 3), 2, generator=gen, dtype=F64) - 6,
        ]
    )
    return X, torch.rand(len(X), generator=gen, dtype=F64) + 0.5


def start(kind):
    """Two components and noise."""
    identity = torch.eye(2, dtype=F64)
    covariances = {
        "full": identity.repeat(2, 1, 1),
        "tied": identity[None],
        "diag": torch.ones(2, 2, dtype=F64),
        "spherical": torch.ones(2, 1, dtype=F64),
    }[kind]
    weights = torch.tensor([0.4, 0.6], dtype=F64)
    means = torch.tensor([[0.0, 0.0], [2.5, 0.0]], dtype=F64)
    mixture = GaussianMixtureParams(weights, means, covariances, kind)
    return mixture.with_noise(0.2, LOG_DENSITY)


def test_an_iteration_is_that_of_one_more_component_of_constant_density():
    (X, a), theta = two_and_noise(60), start("full")
    joint = [
        math.log(w) + multivariate_normal.logpdf(X, m, S)
        for w, m, S in zip(theta.weights, theta.means, theta.covariances, strict=False)
    ]
    joint = np.stack([*joint, np.full(len(X), math.log(0.2) + LOG_DENSITY)])
    log_p = logsumexp(joint, axis=0)
    np.testing.assert_allclose(log_density(theta, X), log_p, rtol=1e-13)
    resp = torch.from_numpy(np.exp(joint - log_p)) * a
    found = em_step(theta, X, a)
    torch.testing.assert_close(found.weights, resp.sum(1) / a.sum(), rtol=1e-12, atol=0)
    means = (resp[:2] @ X) / resp[:2].sum(1, keepdim=True)
    torch.testing.assert_close(found.means, means, rtol=1e-10, atol=0)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("step", [DefinitionEStep, FeatureEStep, WhiteningEStep])
def test_all_ways_of_evaluation_agree(kind, step):
    if step is WhiteningEStep and kind in ("diag", "spherical"):
        return
    (X, a), theta = two_and_noise(900), start(kind)
    expected = e_step(theta, X, a)
    origin = blocks.origin(X, a)
    way = step(theta.translated(-origin), origin)
    two = (way.block(X[i], a[i], memory) for i in (slice(500), slice(500, None)))
    found = way.statistics(*map(sum, zip(*two, strict=True)), total_scatter=None)
    for there, here in zip(expected, found, strict=True):
        torch.testing.assert_close(here, there, rtol=1e-10, atol=1e-9)
    torch.testing.assert_close(way.log_density(X), log_density(theta, X), rtol=1e-11, atol=0)
    resp, _ = way.responsibilities(X)
    total = resp @ a
    torch.testing.assert_close(total, expected.component_mass, rtol=1e-10, atol=0)
    logs = way.log_responsibilities(X).exp()
    torch.testing.assert_close(logs, resp.double(), rtol=1e-9, atol=1e-12)


def memory(_, shape, dtype):
    return torch.empty(shape, dtype=dtype)


def test_what_is_far_from_everything_is_noise_and_has_its_density():
    X = torch.tensor([[1e200, 0.0], [1e30, -1e30], [0.0, 0.0]], dtype=F64)
    for way in (fastest_e_step(start("full"), 3, F64), fastest_e_step(start("full"), 1e6, F64)):
        resp = way.responsibilities(X)[0]
        assert (resp[:, :2] == 0).all() and resp[:, 2].sum() > 0.9
        torch.testing.assert_close(
            way.log_density(X)[:2], torch.full((2,), math.log(0.2) + LOG_DENSITY, dtype=F64)
        )


@pytest.mark.parametrize("acceleration", [None, "squarem"])
def test_the_likelihood_never_falls(acceleration):
    X, a = two_and_noise(90)
    solution = fit_em(start("full"), X, a, tol=1e-9, max_iter=200, acceleration=acceleration)
    assert solution.converged
    assert (np.diff(solution.objectives) > -1e-13).all()
    assert 0 < solution.value.weights[-1] < 1


def test_without_samples_noise_stays_without():
    X, _ = two_and_noise(60)
    theta = start("full")._replace(noise=-1e5)
    solution = fit_em(theta, X, max_iter=20, reg_covar=0.0)
    plain = fit_em(theta.without_noise(), X, max_iter=20, reg_covar=0.0)
    assert solution.value.weights[-1] == 0
    for there, here in zip(plain.value, solution.value.without_noise(), strict=True):
        torch.testing.assert_close(here, there, rtol=1e-9, atol=1e-12)


def loss(theta):
    direction = torch.tensor([[1.0, 2.0], [-1.0, 3.0]], dtype=F64)
    of_weights = theta.weights @ torch.tensor([1.0, -2.0, 3.0], dtype=F64)
    return (theta.means * direction).sum() + of_weights + theta.covariances.square().sum()


@pytest.mark.parametrize("kind", ["full", "tied"])
def test_gradients_are_those_of_finite_differences(kind):
    X, a = two_and_noise(36)
    derivative = {}
    for gradient in ("implicit", "automatic"):
        X_, a_ = X.clone().requires_grad_(), a.clone().requires_grad_()
        options = {"tol": 1e-12, "max_iter": 300, "gradient_tol": 1e-8, "reg_covar": 1e-3}
        loss(fit_em(start(kind), X_, a_, gradient=gradient, **options).value).backward()
        derivative[gradient] = X_.grad[5, 0], a_.grad[7]

    def fitted(dx, da):
        X_, a_ = X.clone(), a.clone()
        X_[5, 0] += dx
        a_[7] += da
        # on a graph, for which it is polished
        options = {"gradient_tol": 1e-10, "reg_covar": 1e-3}
        return float(loss(fit_em(start(kind), X_.requires_grad_(), a_, **options).value).detach())

    eps = 1e-5
    of_x = (fitted(eps, 0) - fitted(-eps, 0)) / (2 * eps)
    of_a = (fitted(0, eps) - fitted(0, -eps)) / (2 * eps)
    for found in derivative.values():  # EM ends by its tolerance, differences by their rounding
        np.testing.assert_allclose(found, (of_x, of_a), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("density", [-20.0, -60.0, -200.0])
@pytest.mark.parametrize("n", [60, 1200])  # by the definition, and by features
def test_the_gradient_beside_noise_that_vanishes_is_that_without_it(n, density):
    gen = torch.Generator().manual_seed(0)
    X = torch.randn(n, 2, generator=gen, dtype=F64)
    X[: n // 3] += torch.tensor([4.0, 0.0], dtype=F64)
    found = []
    for theta in (start("full")._replace(noise=density), start("full").without_noise()):
        X_ = X.clone().requires_grad_()
        solution = fit_em(theta, X_, tol=1e-10, max_iter=300, gradient="implicit")
        weights = solution.value.weights
        assert theta.noise is None or weights[-1] < 1e-12
        (solution.value.means.square().sum() + weights[0]).backward()
        assert solution.adjoint.residual < 1e-6
        assert solution.adjoint.spectral_radius < 1
        found.append(X_.grad)
    # both fits end within the tolerance of their gradients, 1e-6
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6 * float(found[1].abs().max()))


def test_the_gradient_in_blocks_is_that_of_the_tape():
    X, a = two_and_noise(3000)
    found = []
    for n in (len(X), 1200):  # by features, and by the definition
        X_ = X[:n].clone().requires_grad_()
        loss(fit_em(start("tied"), X_, a[:n], gradient="one_step", max_iter=3).value).backward()
        theta = fit_em(start("tied"), X[:n], a[:n], max_iter=2).value
        taped = X[:n].clone().requires_grad_()
        loss(em_step(theta, taped, a[:n], reg_covar=1e-6)).backward()
        found.append((X_.grad, taped.grad))
    for here, there in found:
        torch.testing.assert_close(here, there, rtol=1e-6, atol=1e-9)


def test_natural_movements_and_sinkhorn_refuse_noise():
    X = two_and_noise(60)[0].requires_grad_()
    with pytest.raises(ValueError, match=r"natural.*no noise"):
        fit_em(start("full"), X, gradient="natural", fixed_weights=True)
    with pytest.raises(ValueError, match="noise must be 'none' with e_step='sinkhorn'"):
        fit_em(start("full"), X.detach(), e_step="sinkhorn")
    with pytest.raises(ValueError, match=r"weights of shape \(3,\) with noise"):
        fit_em(start("full")._replace(weights=torch.ones(2) / 2), X)


# --- the box --------------------------------------------------------------------------------------


def test_the_density_is_one_over_the_volume():
    low, high = torch.tensor([0.0, -1.0]), torch.tensor([2.0, 4.0])
    log_density, box = UniformNoise().density(low, high, 1e-6)
    assert log_density == pytest.approx(-math.log(10))
    np.testing.assert_array_equal(box, [[0, -1], [2, 4]])
    given = UniformNoise(bounds=(-1, [1.0, 4.0]))
    assert given.density(low, high, 0.0)[0] == pytest.approx(-math.log(2 * 5))
    assert UniformNoise(log_density=3).density(low, high, 0.0) == (3.0, None)


def test_volumes_beyond_the_range_of_numbers_have_logarithms():
    largest = torch.full((100,), 1.5e308, dtype=F64)
    log_density, _ = UniformNoise().density(-largest, largest, 0.0)
    assert log_density == pytest.approx(-100 * (math.log(3) + 308 * math.log(10)), rel=1e-12)
    assert UniformNoise().density(largest * 0, largest * 0 + 1e-300, 0.0)[0] > 6e4


def test_a_constant_feature_does_not_tell_noise_from_components():
    zero = torch.zeros(1, dtype=F64)
    log_density, _ = UniformNoise().density(zero, zero, 1e-6)
    assert log_density == pytest.approx(-math.log(math.sqrt(2 * math.pi * 1e-6)))
    with pytest.raises(ValueError, match="positive volume, got samples of which feature 0"):
        UniformNoise().density(zero, zero, 0.0)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"bounds": 3.0}, TypeError, r"bounds must be a pair \(low, high\), got 3.0"),
        ({"bounds": (0.0, 1.0, 2.0)}, TypeError, "pair"),
        ({"bounds": ("a", "b")}, TypeError, "numbers"),
        ({"bounds": ([0, 0], [1, 1, 1])}, TypeError, "one shape"),
        ({"bounds": ([[0]], [[1]])}, ValueError, "two arrays"),
        ({"bounds": (1.0, 1.0)}, ValueError, "low < high"),
        ({"bounds": (1.0, 0.0)}, ValueError, "low < high"),
        ({"bounds": (0.0, math.inf)}, ValueError, "finite"),
        ({"bounds": (math.nan, 1.0)}, ValueError, "finite"),
        ({"bounds": (0.0, 1.0), "log_density": 0.0}, ValueError, "got both"),
        ({"log_density": "1"}, TypeError, "log_density must be a number"),
        ({"log_density": -math.inf}, ValueError, "log_density must be finite"),
        ({"log_density": math.nan}, ValueError, "log_density must be finite"),
        ({"weight": 0.0}, ValueError, "between 0 and 1, got 0.0"),
        ({"weight": 1.0}, ValueError, "between 0 and 1"),
        ({"weight": -0.1}, ValueError, "between 0 and 1"),
        ({"weight": True}, TypeError, "weight must be a number"),
        ({"fixed_weight": True}, ValueError, "weight must be given"),
        ({"fixed_weight": 1, "weight": 0.1}, TypeError, "True or False, got 1"),
    ],
)
def test_what_is_no_noise_is_refused(options, error, match):
    with pytest.raises(error, match=match):
        UniformNoise(**options)


def test_bounds_must_be_of_the_features():
    with pytest.raises(ValueError, match=r"shape \(3,\) each, the features of X, got 2 each"):
        UniformNoise(bounds=([0, 0], [1, 1])).density(torch.zeros(3), torch.ones(3), 0.0)
    assert check_noise("none") is None


# --- what looks like noise ------------------------------------------------------------------------


def test_most_of_scattered_samples_look_like_noise_and_few_of_the_others(random_seed):
    gen = torch.Generator().manual_seed(random_seed)
    cluster = torch.randn(300, 3, generator=gen, dtype=F64)
    scattered = 30 * torch.rand(60, 3, generator=gen, dtype=F64) - 15
    scale = torch.tensor([1.0, 1e6, 1e-6], dtype=F64)  # units do not matter
    noise = looks_like_noise(torch.cat([cluster, scattered]) * scale)
    assert noise[300:].double().mean() > 0.9
    assert noise[:300].double().mean() < 0.1


@pytest.mark.parametrize(
    "X",
    [
        torch.zeros(1, 2),
        torch.zeros(30, 2),
        torch.cat([torch.zeros(30, 1), torch.ones(3, 1)]),
        torch.arange(2.0)[:, None],
        torch.randn(40, 300, generator=torch.Generator().manual_seed(0)),
    ],
)
def test_any_samples_have_at_most_half_noise(X):
    assert 2 * int(looks_like_noise(X).sum()) <= len(X)


def test_samples_without_weight_are_not_looked_at_and_components_keep_theirs():
    X, _ = two_and_noise(90)
    a = torch.ones(len(X), dtype=F64)
    a[60:] = 0
    em = EM(InMemory(X, a), blocks.origin(X, a), 0.0)
    clear, weight = clear_of_noise(em, 2)
    assert clear.samples.n_samples <= 60 and (clear.sample_weight == 1).all()
    assert 0.02 <= weight <= 0.5
    assert clear_of_noise(em, 60)[0].samples.n_samples == 60
