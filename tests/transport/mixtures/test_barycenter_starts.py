"""Where the fixed point of a barycentre starts."""

import pytest
import torch
from torch.testing import assert_close

from skgmmot.gaussian.covariance.registry import ELEMENTARY_TYPES
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.transport.mixtures.barycenter import exact_barycenter
from skgmmot.transport.mixtures.barycenter_starts import chained_start, spread_start
from skgmmot.transport.mixtures.distance import transport_plan

F64 = torch.float64


@pytest.fixture(params=[t.name for t in ELEMENTARY_TYPES])
def name(request):
    """A covariance type's name."""
    return request.param


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_a_spread_start_takes_one_component_of_each_group(make_mixture):
    mixture = make_mixture("full", 3, 2, spread=100.0)
    order = [0, 0, 0, 1, 1, 2]
    copies = GaussianMixtureParams(
        torch.full((6,), 1 / 6, dtype=F64), *(t[order] for t in mixture[1:])
    )
    for seed in range(5):
        found = spread_start(copies, 3, generator(seed))
        assert_close(found.weights.sort().values, torch.tensor([1, 2, 3], dtype=F64) / 6)
    assert len(spread_start(copies, 5, generator()).weights) == 5


def test_a_spread_start_halves_the_heaviest_where_there_are_too_few(name, make_mixture):
    mixture = make_mixture(name, 2, 2)._replace(weights=torch.tensor([0.3, 0.7], dtype=F64))
    found = spread_start(mixture, 4, generator())
    assert_close(found.weights, torch.tensor([0.3, 0.7 / 3, 0.7 / 3, 0.7 / 3], dtype=F64))
    assert transport_plan(found, mixture).cost < 1e-12


def test_a_chain_through_two_mixtures_is_their_barycentre(make_mixture):
    mixtures = [make_mixture("full", K, 2, seed=K) for K in (2, 3)]
    weights = torch.tensor([0.4, 0.6], dtype=F64)
    expected = exact_barycenter(mixtures, weights)
    start = chained_start(mixtures, weights, len(expected.weights), generator())
    assert transport_plan(start, expected).cost < 1e-12


def test_a_long_chain_stays_short(make_mixture):
    mixtures = [make_mixture("diag", 10, 2, seed=s) for s in range(12)]
    start = chained_start(mixtures, torch.full((12,), 1 / 12, dtype=F64), 2, generator())
    assert len(start.weights) == 2 and torch.isfinite(start.means).all()
