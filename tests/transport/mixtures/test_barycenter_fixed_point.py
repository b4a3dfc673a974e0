"""Barycentres with a given number of components, and the reduction of a mixture."""

import itertools

import numpy as np
import ot
import pytest
import torch
from torch.testing import assert_close

from skgmmot.gaussian.covariance.registry import COVARIANCE_TYPES, ELEMENTARY_TYPES, FULL
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.transport.mixtures import barycenter_fixed_point
from skgmmot.transport.mixtures.barycenter import common_type, exact_barycenter, objective
from skgmmot.transport.mixtures.barycenter_fixed_point import best_of_starts, improve, reduce
from skgmmot.transport.mixtures.distance import cost_matrix, transport_plan
from skgmmot.transport.mixtures.reduction_bound import reduction_error

F64 = torch.float64
WEIGHTS = torch.tensor([0.2, 0.3, 0.5], dtype=F64)
ONE = torch.ones(1, dtype=F64)


@pytest.fixture(params=[t.name for t in ELEMENTARY_TYPES])
def name(request):
    """A covariance type's name."""
    return request.param


@pytest.fixture
def three(make_mixture):
    """Three mixtures of a covariance type."""
    return lambda name, d=2: [make_mixture(name, K, d, seed=K) for K in (3, 2, 4)]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def uniform(mixture):
    return mixture._replace(weights=torch.full_like(mixture.weights, 1 / len(mixture.weights)))


# --- closed forms ------------------------------------------------------------------------------


def test_one_component_for_each_of_single_gaussians_is_exact(name, make_mixture):
    mixtures = [make_mixture(name, 1, 3, seed=s) for s in range(3)]
    start = make_mixture(name, 1, 3, seed=9)
    solution, value = improve(
        mixtures, WEIGHTS, start, covariance_type=common_type(mixtures), tol=1e-12
    )
    expected = exact_barycenter(mixtures, WEIGHTS)
    assert_close(solution.value.means, expected.means)
    assert_close(solution.value.covariances, expected.covariances, rtol=1e-5, atol=1e-6)
    assert value == pytest.approx(objective(expected, mixtures, WEIGHTS), rel=1e-9)


def test_reduction_to_one_gaussian_is_the_barycentre_of_the_components(make_mixture):
    mixture = make_mixture("diag", 5, 3)
    found = reduce(mixture, 1, generator())
    assert_close(found.means[0], mixture.weights @ mixture.means)
    deviation = mixture.weights @ mixture.covariances.sqrt()
    assert_close(found.covariances[0], deviation.square())


def test_reduction_finds_groups_of_equal_components(name, make_mixture):
    mixture = make_mixture(name, 3, 2, spread=10.0)
    order = [0, 1, 1, 2, 2, 2]
    share = torch.tensor([1.0, 0.5, 0.5, 0.2, 0.3, 0.5], dtype=F64)
    covariances = mixture.full_covariances()[order]
    split = GaussianMixtureParams(
        mixture.weights[order] * share,
        mixture.means[order],
        COVARIANCE_TYPES[name].nearest(covariances, share),
    )
    found = reduce(split, 3, generator(), n_init=3)
    assert transport_plan(found, mixture).cost < 1e-12
    assert found.covariance_type is COVARIANCE_TYPES[name]


# --- peer --------------------------------------------------------------------------------------


@pytest.mark.skipif(
    not hasattr(ot.gmm, "gmm_barycenter_fixed_point"), reason="POT has it from 0.9.6 on"
)
@pytest.mark.parametrize("projection", ["euclidean", "bures"])
@pytest.mark.parametrize("seed", range(3))
def test_the_objective_is_at_most_that_of_pot_from_the_same_start(projection, seed, make_mixture):
    mixtures = [make_mixture("full", K, 2, seed=10 * seed + K) for K in (3, 4, 5)]
    start = uniform(make_mixture("full", 4, 2, seed=500 + seed))
    means, covariances = ot.gmm.gmm_barycenter_fixed_point(
        [m.means.numpy() for m in mixtures],
        [m.covariances.numpy() for m in mixtures],
        [m.weights.numpy() for m in mixtures],
        start.means.numpy().copy(),
        start.covariances.numpy().copy(),
        WEIGHTS.numpy(),
        iterations=15,
        barycentric_proj_method=projection,
    )
    theirs = GaussianMixtureParams(start.weights, *map(torch.from_numpy, (means, covariances)))
    solution, value = improve(mixtures, WEIGHTS, start, covariance_type=FULL, fixed_weights=True)
    assert value <= objective(theirs, mixtures, WEIGHTS) + 1e-9
    assert_close(solution.value.weights, start.weights)
    # and with free weights, from that fixed point, lower still
    _, freed = improve(mixtures, WEIGHTS, solution.value, covariance_type=FULL)
    assert freed < value


def test_it_comes_near_the_exact_barycentre_and_never_below(name, three):
    mixtures = three(name)
    exact = exact_barycenter(mixtures, WEIGHTS)
    best = objective(exact, mixtures, WEIGHTS)
    K = len(exact.weights)
    _, value = best_of_starts(
        mixtures, WEIGHTS, K, generator(), covariance_type=common_type(mixtures), n_init=4
    )
    assert best - 1e-9 <= value <= 1.05 * best


# --- invariances -------------------------------------------------------------------------------


@pytest.mark.parametrize("fixed_weights", [True, False])
def test_no_iteration_raises_the_objective(name, fixed_weights, three, make_mixture):
    mixtures, covariance_type = three(name, d=3), COVARIANCE_TYPES[name]
    start = make_mixture(name, 4, 3, seed=77)
    options = {"covariance_type": covariance_type, "fixed_weights": fixed_weights}
    solution, value = improve(mixtures, WEIGHTS, start, tol=1e-9, **options)
    assert solution.converged
    values = [-v for v in solution.objectives] + [value]
    assert all(b <= a * (1 + 1e-9) for a, b in itertools.pairwise(values))
    assert value == pytest.approx(objective(solution.value, mixtures, WEIGHTS), rel=1e-7)


@pytest.mark.parametrize("narrow", ["tied", "diag", "spherical"])
def test_a_narrower_type_is_sought_and_found_at_its_best(narrow, three):
    mixtures, covariance_type = three("full"), COVARIANCE_TYPES[narrow]
    solution, value = best_of_starts(
        mixtures, WEIGHTS, 3, generator(), covariance_type=covariance_type, n_init=2
    )
    found = solution.value
    assert found.covariance_type is covariance_type
    for scale in (0.99, 1.01):
        other = found._replace(covariances=scale * found.covariances)
        assert objective(other, mixtures, WEIGHTS) > value
    turned = torch.linspace(0.99, 1.01, found.covariances.numel(), dtype=F64)
    if covariance_type.diagonal:
        other = found._replace(covariances=found.covariances * turned.view_as(found.covariances))
        assert objective(other, mixtures, WEIGHTS) > value


def test_fixed_weights_stay(three):
    solution, _ = best_of_starts(
        three("full"), WEIGHTS, 5, generator(), covariance_type=FULL, fixed_weights=True
    )
    assert_close(solution.value.weights, torch.full((5,), 0.2, dtype=F64))


def test_more_starts_are_no_worse(three):
    mixtures = three("full")
    values = [
        best_of_starts(mixtures, WEIGHTS, 3, generator(), covariance_type=FULL, n_init=n)[1]
        for n in (1, 4)
    ]
    assert values[0] >= values[1]


def test_the_best_of_several_starts_is_kept(three, monkeypatch):
    ends = iter([("first", 3.0), ("second", 1.0), ("third", 2.0)])
    monkeypatch.setattr(barycenter_fixed_point, "improve", lambda *_, **__: next(ends))
    options = {"covariance_type": FULL, "n_init": 3}
    assert best_of_starts(three("full"), WEIGHTS, 3, generator(), **options) == ("second", 1.0)


def test_reduction_to_more_components_is_nearer(name, make_mixture):
    mixture = make_mixture(name, 8, 2)
    costs = [
        transport_plan(mixture, reduce(mixture, K, generator(), n_init=5)).cost for K in (1, 3, 6)
    ]
    assert costs[0] > costs[1] > costs[2] > 0
    assert_close(tuple(reduce(mixture, 8, generator())), tuple(mixture))


def test_the_stated_error_of_a_reduction_is_that_of_its_bound(make_mixture):
    mixture = make_mixture("full", 6, 2)
    found, error = reduce(mixture, 3, generator(), n_init=2, return_error=True)
    assert_close(tuple(found), tuple(reduce(mixture, 3, generator(), n_init=2)))
    assert error == reduction_error(mixture, found, 3)
    assert 0 < error < float(transport_plan(mixture, found).cost.sqrt())
    itself, error = reduce(mixture, 6, generator(), return_error=True)
    assert_close(tuple(itself), tuple(mixture))
    assert 0 <= error < 1e-6  # distances round to the root of what costs round to


def test_the_weights_of_a_reduction_are_the_best(make_mixture):
    mixture = make_mixture("full", 8, 2)
    found = reduce(mixture, 3, generator())
    nearest = cost_matrix(mixture, found).amin(1)
    assert_close(transport_plan(mixture, found).cost, mixture.weights @ nearest)


# --- edges -------------------------------------------------------------------------------------


def test_points_are_reduced_as_k_means_does():
    rng = np.random.default_rng(0)
    X = torch.from_numpy(np.vstack([rng.normal(c, 0.1, size=(20, 2)) for c in (0.0, 5.0, 10.0)]))
    points = GaussianMixtureParams(
        torch.full((60,), 1 / 60, dtype=F64), X, torch.zeros(60, 2, 2, dtype=F64)
    )
    found = reduce(points, 3, generator(), n_init=3)
    expected = torch.stack([part.mean(0) for part in X.split(20)])
    order = found.means[:, 0].argsort()
    assert_close(found.means[order], expected)
    assert found.covariances.abs().max() == 0
