"""Bounds of Bures distances: never above the distances, and close to them."""

import pytest
import torch
from torch.testing import assert_close

from skgmmot.gaussian.bures.bounds import POWERS, _coefficients, _nodes, bures_lower_bounds
from skgmmot.gaussian.bures.distance import bures_squared, factored

F64 = torch.float64


def random_covariances(K, d, seed, rank=None, spread=0.0):
    """Covariances of a rank, whose axes have deviations spread over a power of ten."""
    generator = torch.Generator().manual_seed(seed)
    factors = torch.randn(K, d, rank or d, dtype=F64, generator=generator)
    factors = factors * torch.logspace(0, -spread, d, dtype=F64).unsqueeze(1)
    return factors @ factors.mT / d


ENSEMBLES = {
    "regular": lambda seed: random_covariances(9, 6, seed) + 0.3 * torch.eye(6, dtype=F64),
    "ill-conditioned": lambda seed: random_covariances(9, 5, seed, spread=5.0),
    "rank deficient": lambda seed: random_covariances(9, 5, seed, rank=2),
    "isotropic": lambda seed: torch.eye(4, dtype=F64).expand(5, 4, 4) * (seed + 1),
    "zero": lambda seed: torch.zeros(3, 4, 4, dtype=F64),
    "of one feature": lambda seed: random_covariances(4, 1, seed),
    "of many features": lambda seed: random_covariances(3, 80, seed),
    "huge": lambda seed: 1e100 * random_covariances(4, 5, seed),
    "tiny": lambda seed: 1e-100 * random_covariances(4, 5, seed),
    "of all sizes": lambda seed: (
        random_covariances(9, 5, seed) * torch.logspace(-20, 20, 9, dtype=F64).view(-1, 1, 1)
    ),
}


def bounds_and_distances(source, target):
    """Lower bounds and what they bound, in units of the traces."""
    prepared = factored(source), factored(target)
    traces = prepared[0].traces.unsqueeze(1) + prepared[1].traces
    traces = traces.clamp(min=torch.finfo(traces.dtype).tiny)
    bounds = bures_lower_bounds(*prepared)
    return bounds / traces, bures_squared(source, target, prepared) / traces


@pytest.mark.parametrize("name", ENSEMBLES)
def test_bounds_are_below_the_distances(name):
    source, target = ENSEMBLES[name](1), torch.cat([ENSEMBLES[name](2), ENSEMBLES[name](1)])
    bounds, distances = bounds_and_distances(source, target)
    assert bounds.isfinite().all()
    assert (bounds <= distances).all()


@pytest.mark.parametrize(("name", "mean_gap"), [("regular", 0.02), ("isotropic", 1e-3)])
def test_bounds_are_close_to_the_distances(name, mean_gap):
    bounds, distances = bounds_and_distances(ENSEMBLES[name](1), ENSEMBLES[name](2))
    assert (distances - bounds).mean() < mean_gap


def test_bounds_between_regular_and_deficient_covariances_are_below_the_distances():
    source, target = random_covariances(6, 5, 0), random_covariances(7, 5, 1, rank=1)
    bounds, distances = bounds_and_distances(source, target)
    assert (bounds <= distances).all()


@pytest.mark.parametrize("setting", ["highest", "medium"])
def test_bounds_hold_at_any_setting_of_products_in_single_precision(setting):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(setting)
    try:
        bounds, distances = bounds_and_distances(*(ENSEMBLES["regular"](seed) for seed in (1, 2)))
    finally:
        torch.set_float32_matmul_precision(before)
    assert (bounds <= distances).all()
    assert (distances - bounds).mean() < 0.02


def test_bounds_do_not_depend_on_blocks(monkeypatch):
    prepared = factored(random_covariances(9, 5, 0)), factored(random_covariances(11, 5, 1))
    expected = bures_lower_bounds(*prepared)
    monkeypatch.setattr("skgmmot.gaussian.bures.bounds.BLOCK_SIZE", 60)
    assert_close(bures_lower_bounds(*prepared), expected, rtol=0, atol=1e-2)  # in single precision


def test_the_polynomial_is_nowhere_below_the_root():
    L = factored(random_covariances(9, 6, 0)).factors
    for nodes in (_nodes(L, L), _nodes(torch.eye(6, dtype=F64).expand(2, 6, 6), L[:2])):
        coefficients = torch.from_numpy(_coefficients(nodes))
        x = torch.logspace(-12, 3, 2000, dtype=F64)
        terms = coefficients * x.unsqueeze(1) ** torch.from_numpy(POWERS)
        rounding = 1e-12 * terms.abs().sum(1)
        assert (terms.sum(1) - x.sqrt() >= -rounding).all()
        at_nodes = coefficients * torch.from_numpy(nodes[:, None] ** POWERS)
        assert_close(at_nodes.sum(1), torch.from_numpy(nodes**0.5), rtol=1e-9, atol=0)


def test_bounds_of_float32_covariances_allow_for_their_rounding():
    source, target = (ENSEMBLES["regular"](seed).float() for seed in (1, 2))
    bounds, distances = bounds_and_distances(source, target)
    assert bounds.dtype == torch.float32
    assert (bounds <= distances).all()
