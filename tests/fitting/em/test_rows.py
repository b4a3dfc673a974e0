"""EM in blocks: the same sums however they are made and cut."""

import pytest
import torch
from torch.testing import assert_close

from skgmmot.fitting.em.rows import EM
from skgmmot.fitting.em.step import em_step, m_step
from skgmmot.fitting.samples import InMemory
from skgmmot.gaussian.covariance.registry import COVARIANCE_TYPES
from skgmmot.gaussian.evaluators import (
    DefinitionEStep,
    FeatureEStep,
    ProductEStep,
    WhiteningEStep,
)
from skgmmot.gaussian.log_density import log_density
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.gaussian.statistics import e_step
from skgmmot.numerics import blocks
from skgmmot.numerics.blocks import workers


def by_features(em, theta):
    """Sums by features, in the dtype of the samples."""
    return em.sums(FeatureEStep(theta, em.origin, em.X.dtype))


def by_whitening(em, theta):
    """Sums by triangular products; by features where there is none of them."""
    if theta.covariances.ndim < 3 or len(theta.covariances) == 1:
        return by_features(em, theta)
    return em.sums(WhiteningEStep(theta, em.origin, em.X.dtype))


def by_definition(em, theta):
    """Sums by the definition."""
    return em.sums(DefinitionEStep(theta, em.origin))


WAYS = {"features": by_features, "whitening": by_whitening, "definition": by_definition}


def problem(covariance_type, dtype=torch.float64, n=5000, d=3, K=4):
    """Samples, weights and a mixture nearby."""
    X = torch.randn(n, d, dtype=torch.float64) * torch.tensor([1.0, 2.0, 0.5]) + 1
    storage = COVARIANCE_TYPES[covariance_type].shape(K, d)
    S = torch.eye(d).expand(storage) if len(storage) == 3 else torch.ones(storage)
    theta = GaussianMixtureParams(torch.full((K,), 1 / K), X[:K], S.clone())
    return X.to(dtype), torch.rand(n).to(dtype), GaussianMixtureParams(*(t.double() for t in theta))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_all_ways_to_the_sums_make_the_same_step(covariance_type, way, weighted, dtype, tolerance):
    X, a, theta = problem(covariance_type, dtype)
    a = a if weighted else None
    expected = em_step(theta, X.double(), None if a is None else a.double())
    with workers(X.device) as pool:
        em = EM(InMemory(X, a, pool), torch.zeros(3, dtype=dtype), 0.0)
        statistics = WAYS[way](em, theta)
    step = m_step(theta, statistics)
    for found, reference in zip(step, expected, strict=True):
        assert torch.allclose(found, reference, rtol=tolerance, atol=tolerance)
    if not weighted:
        log_likelihood = e_step(theta, X.double()).log_likelihood
        assert torch.allclose(statistics.log_likelihood, log_likelihood, rtol=tolerance)


@pytest.mark.parametrize("way", WAYS)
def test_the_length_of_blocks_changes_nothing_to_rounding(covariance_type, way, monkeypatch):
    X, a, theta = problem(covariance_type)
    results = []
    for length in (32, 300, 5000):
        monkeypatch.setitem(blocks.BLOCK_ROWS, "cpu", length)
        monkeypatch.setattr(ProductEStep, "min_rows", 16)
        with workers(X.device) as pool:
            results.append(WAYS[way](EM(InMemory(X, a, pool), X.mean(0), 0.0), theta))
    for other in results[1:]:
        for found, reference in zip(other, results[0], strict=True):
            assert torch.allclose(found, reference, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("dtype", "variance", "expected", "products"),
    [
        (torch.float64, 1.0, FeatureEStep, torch.float64),
        (torch.float32, 1.0, FeatureEStep, torch.float32),
        # narrow against the distance from the origin: features in float64, then the definition
        (torch.float32, 1e-3, FeatureEStep, torch.float64),
        (torch.float32, 1e-12, DefinitionEStep, torch.float64),
        (torch.float64, 1e-12, DefinitionEStep, torch.float64),
    ],
)
def test_sums_are_made_by_the_fastest_way_that_is_accurate(dtype, variance, expected, products):
    X, _, theta = problem("full", dtype)
    theta = theta._replace(covariances=variance * theta.covariances)
    with workers(X.device) as pool:
        step, _ = EM(InMemory(X, None, pool), torch.zeros(3, dtype=dtype), 0.0).e_step(theta)
    assert type(step) is expected
    assert step.dtype is products


@pytest.mark.parametrize(("d", "K", "products"), [(5, 4, FeatureEStep), (40, 4, WhiteningEStep)])
def test_many_dimensions_are_whitened_by_columns(d, K, products):
    X = torch.randn(1000, d, dtype=torch.float64)
    A = torch.randn(K, d, d, dtype=torch.float64)
    theta = GaussianMixtureParams(
        torch.full((K,), 1 / K).double(), X[:K], A @ A.mT / d + torch.eye(d)
    )
    expected = em_step(theta, X)
    with workers(X.device) as pool:
        em = EM(InMemory(X, None, pool), X.mean(0), 0.0)
        found, _ = em(theta.translated(-X.mean(0)))
        assert type(em.e_step(theta.translated(-X.mean(0)))[0]) is products
    for ours, reference in zip(found.translated(X.mean(0)), expected, strict=True):
        assert torch.allclose(ours, reference, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("d", [3, 100])
def test_components_as_thin_as_the_rounding_of_float32_are_summed_in_float64(d):
    X = torch.randn(200, 1, generator=torch.Generator().manual_seed(0)).expand(200, d).contiguous()
    S = torch.ones(d, d, dtype=torch.float64) + 1e-6 * torch.eye(d, dtype=torch.float64)
    means = torch.tensor([[-1.0 / 3], [1.0 / 7]], dtype=torch.float64).expand(2, d)
    theta = GaussianMixtureParams(torch.tensor([0.3, 0.7]).double(), means, S.expand(2, d, d))
    origin = torch.full((d,), 0.1)
    with workers(X.device) as pool:
        found = EM(InMemory(X, None, pool), origin, 0.0).statistics(theta.translated(-origin))
    assert_close(found, e_step(theta.translated(-origin), X.double() - origin.double()))


def test_covariances_are_factored_once_an_iteration_however_many_blocks(monkeypatch):
    X, a, theta = problem("full", d=3)
    theta = theta._replace(covariances=1e-12 * theta.covariances)
    monkeypatch.setitem(blocks.BLOCK_ROWS, "cpu", 100)
    factored = []
    kind = type(COVARIANCE_TYPES["full"])
    of = kind.precision_factor
    monkeypatch.setattr(kind, "precision_factor", lambda *args: factored.append(1) or of(*args))
    with workers(X.device) as pool:
        EM(InMemory(X, a, pool), X.mean(0), 0.0).statistics(theta)
    assert len(factored) == 1


def test_rows_are_about_the_origin_in_float64():
    X = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 7.0]])
    a = torch.tensor([1.0, 0.5, 0.25])
    em = EM(InMemory(X, a), torch.tensor([1.0, 3.0]), 0.0)
    x, weights = em.rows(slice(1, 3))
    assert torch.equal(x, torch.tensor([[2.0, 1.0], [4.0, 4.0]], dtype=torch.float64))
    assert torch.equal(weights, a[1:])


def test_without_a_prior_the_objective_is_the_mean_log_density(covariance_type):
    X, _, theta = problem(covariance_type)
    with workers(X.device) as pool:
        em = EM(InMemory(X, None, pool), torch.zeros(3, dtype=X.dtype), 0.0)
        found = em.objective(theta, em.statistics(theta))
    assert found == pytest.approx(float(log_density(theta, X).mean()), rel=1e-12)
