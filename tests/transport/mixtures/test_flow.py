"""Flows of samples along geodesics and Schrodinger bridges."""

import numpy as np
import ot
import pytest
import torch
from one_feature import line
from scipy.stats import norm
from torch.testing import assert_close

from skgmmot.gaussian.log_density import log_density
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.gaussian.sampling import sample
from skgmmot.numerics.linalg import bures_map
from skgmmot.transport.mixtures.distance import transport_plan
from skgmmot.transport.mixtures.flow import entropic_costs, field_at, mixture_flow
from skgmmot.transport.mixtures.geodesic import interpolate

F64 = torch.float64
REG = 1.5


def roots(S):
    values, vectors = torch.linalg.eigh(S)
    return (vectors * values.sqrt()) @ vectors.mT


def flow_between(source, target, reg=0.0):
    return mixture_flow(source, target, reg=reg)[1]


def test_the_velocity_between_gaussians_is_that_of_the_moving_map(name, make_mixture):
    source, target = (make_mixture(name, 1, 3, seed=s) for s in (1, 2))
    eye, t = torch.eye(3, dtype=F64), 0.3
    A = bures_map(source.full_covariances()[0], target.full_covariances()[0])
    x0 = torch.linspace(-2, 2, 12, dtype=F64).reshape(4, 3)
    x = (1 - t) * x0 + t * (target.means + (x0 - source.means) @ A)
    expected = (x0 - source.means) @ (A - eye) + target.means - source.means
    assert_close(field_at(flow_between(source, target).velocity(t), x), expected)


def test_the_bridge_between_gaussians_has_the_published_covariance(make_mixture):
    source, target = (make_mixture("full", 1, 3, seed=s) for s in (1, 2))
    S0, S1 = (m.full_covariances()[0] for m in (source, target))
    eye, t, variance = torch.eye(3, dtype=F64), 0.3, REG / 2
    root = roots(S0)
    D = roots(4 * root @ S1 @ root + variance**2 * eye)
    C = (root @ D @ torch.linalg.inv(root) - variance * eye) / 2
    expected = (1 - t) ** 2 * S0 + t**2 * S1 + t * (1 - t) * (C + C.mT + variance * eye)
    flow = flow_between(source, target, REG)
    assert_close(flow.factors[0] @ flow.gains[0].mT, C)
    assert_close(flow.mixture(t).covariances[0], expected)


def test_entropic_costs_are_those_of_sinkhorn_on_a_grid():
    means, deviations = (0.3, -0.4), (0.7, 1.2)
    x = np.linspace(-10, 10, 401)
    a, b = (norm(m, s).pdf(x) for m, s in zip(means, deviations, strict=True))
    a, b = a / a.sum(), b / b.sum()
    C = (x[:, None] - x) ** 2
    P = ot.bregman.sinkhorn_log(a, b, C, REG, stopThr=1e-12, numItermax=5000)
    cost = (P * C).sum() + REG * (P * np.log(np.maximum(P, 1e-300) / np.outer(a, b))).sum()
    source, target = (line(m, s) for m, s in zip(means, deviations, strict=True))
    assert_close(entropic_costs(source, target, REG).item(), cost, rtol=1e-8, atol=0)


@pytest.mark.parametrize("reg", [0.0, REG])
def test_the_ends_of_a_flow_are_the_mixtures(reg, name, make_mixture):
    source, target = make_mixture(name, 3, 2, seed=1), make_mixture(name, 4, 2, seed=2)
    flow = flow_between(source, target, reg)
    for t, end in ((0.0, source), (1.0, target)):
        assert flow.mixture(t).covariance_type == end.covariance_type.base
        assert float(transport_plan(flow.mixture(t), end).cost) < 1e-12


def test_a_bridge_of_little_entropy_is_the_geodesic(pair):
    geodesic, bridge = (interpolate(*pair, 0.4, reg=reg) for reg in (0.0, 1e-7))
    assert float(transport_plan(geodesic, bridge).cost) < 1e-6


@pytest.mark.parametrize("reg", [0.0, REG])
def test_the_velocity_satisfies_the_continuity_equation(reg, pair):
    flow, t, h = flow_between(*pair, reg), 0.4, 1e-4
    X = flow.mixture(t).means + 0.3

    def flux(X):
        density = log_density(flow.mixture(t), X).exp()
        return density.unsqueeze(1) * field_at(flow.velocity(t), X)

    steps = h * torch.eye(2, dtype=F64)
    divergence = sum((flux(X + e) - flux(X - e)) @ e / (2 * h * h) for e in steps)
    after, before = (log_density(flow.mixture(t + s), X).exp() for s in (h, -h))
    assert_close((after - before) / (2 * h), -divergence, rtol=1e-5, atol=1e-8)


def test_the_drift_of_a_bridge_is_the_velocity_and_half_its_variance_times_the_score(pair):
    flow, t = flow_between(*pair, REG), 0.4
    X = (flow.mixture(t).means + 0.3).requires_grad_()
    (score,) = torch.autograd.grad(log_density(flow.mixture(t), X).sum(), X)
    X = X.detach()
    change = field_at(flow.drift(t), X) - field_at(flow.velocity(t), X)
    assert_close(change, REG / 4 * score)


@pytest.mark.parametrize("reg", [0.0, REG])
def test_samples_that_follow_the_velocity_have_the_law_of_the_mixture(reg, pair, random_seed):
    source, target = pair
    X, _ = sample(source, 1000, generator=torch.Generator().manual_seed(random_seed))
    flow = flow_between(source, target, reg)
    there = flow.transport(X, [0.0, 1.0], 10)[-1]
    assert_close(there.mean(0), target.weights @ target.means, rtol=0, atol=0.2)
    finer = flow.transport(X[:100], [0.0, 1.0], 20)[-1]
    assert_close(there[:100], finer, rtol=0, atol=5e-3)  # 2 ** -4 of it at half the step
    back = flow.transport(finer, [1.0, 0.0], 20)[-1]
    assert_close(back, X[:100], rtol=0, atol=5e-3)


@pytest.mark.parametrize("reg", [0.0, REG])
def test_paths_have_the_law_of_the_mixture_and_the_variance_of_brownian_motion(
    reg, pair, random_seed
):
    flow = flow_between(*pair, reg)
    times = torch.linspace(0, 1, 41).tolist()
    paths, labels = flow.paths(times, 3000, generator=torch.Generator().manual_seed(random_seed))
    at = flow.mixture(times[10])
    assert_close(paths[10].mean(0), at.weights @ at.means, rtol=0, atol=0.15)
    spread = flow.mixture(times[10]).full_covariances()[labels[0]]
    own = paths[10][labels == labels[0]]
    assert_close(torch.cov(own.mT), spread, rtol=0.25, atol=0.25)
    lines = torch.lerp(paths[0], paths[-1], torch.tensor(times, dtype=F64).reshape(-1, 1, 1))
    squares = (paths - lines).diff(dim=0).square().sum((0, 2)).mean()
    # a bridge's increments: variance times d, less the share of its pinned end
    assert_close(float(squares), reg / 2 * 2 * (1 - 1 / 40), rtol=0.05, atol=1e-20)


def test_a_singular_mixture_has_no_velocity(pair):
    point = GaussianMixtureParams(
        torch.ones(1, dtype=F64), torch.zeros(1, 2, dtype=F64), torch.zeros(1, 2, 2, dtype=F64)
    )
    with pytest.raises(ValueError, match="covariances at time 0 must be positive definite"):
        flow_between(point, pair[1]).velocity(0.0)
    assert torch.isfinite(flow_between(point, pair[1], REG).velocity(0.5).affine).all()


@pytest.mark.parametrize("reg", [1e160, 1e300])
def test_a_huge_entropy_leaves_the_ends_independent(reg, pair):
    source, target = pair
    costs = entropic_costs(source, target, reg)
    traces = (m.variances().sum(1) for m in pair)
    between = (source.means.unsqueeze(1) - target.means).square().sum(-1)
    assert_close(costs, between + next(traces).unsqueeze(1) + next(traces))
    _, flow = mixture_flow(source, target, reg=reg)
    assert flow.gains.abs().max() < 1e-100
