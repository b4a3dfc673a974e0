"""The mixture nearest to points: closed forms, derivatives, and a distance that falls."""

import math

import numpy as np
import pytest
import torch

from skgmmot.fitting import semidiscrete
from skgmmot.fitting.semidiscrete import (
    SLACK,
    _median,
    _Transport,
    distance_error,
    fit_to_points,
    outlier_ratio,
    robust_variance,
)
from skgmmot.fitting.semidiscrete_newton import NewtonDescent
from skgmmot.gaussian.coordinates import RegularisedCoordinates
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.gaussian.sampling import sample
from skgmmot.transport.semidiscrete.plan import exact_plan

DOUBLE = torch.float64


def ones(n):
    return torch.ones(n, dtype=DOUBLE)


def single(covariance):
    """One component at the origin of the plane."""
    return GaussianMixtureParams(ones(1), torch.zeros(1, 2, dtype=DOUBLE), covariance)


def test_one_point_is_approached_by_a_narrow_component():
    point = torch.tensor([[3.0, -1.0]], dtype=DOUBLE)
    start = single(torch.ones(1, 1, dtype=DOUBLE))
    end = fit_to_points(start, point, ones(1), reg_covar=1e-4, tol=1e-12)
    assert torch.allclose(end.value.means, point, atol=1e-4)
    assert torch.allclose(end.value.covariances, torch.full((1, 1), 1e-4, dtype=DOUBLE), rtol=0.1)
    assert math.isclose(-end.objective, 2e-4, rel_tol=0.1)


def test_the_gaussian_nearest_to_two_points_is_computed_by_hand():
    # E(|s z| - 1)^2 = s^2 - 2 s sqrt(2 / pi) + 1 is least at s = sqrt(2 / pi): 1 - 2 / pi
    points = torch.tensor([[-1.0, 0.0], [1.0, 0.0]], dtype=DOUBLE)
    start = single(torch.tensor([[0.5, 0.5]], dtype=DOUBLE))
    end = fit_to_points(start, points, ones(2), reg_covar=1e-6, tol=1e-10)
    assert torch.allclose(end.value.means, torch.zeros(1, 2, dtype=DOUBLE), atol=1e-3)
    assert math.isclose(end.value.covariances[0, 0], 2 / math.pi, rel_tol=1e-3)
    assert math.isclose(-end.objective, 1 - 2 / math.pi, rel_tol=1e-3)


@pytest.mark.usefixtures("random_seed")
@pytest.mark.parametrize("n_nodes", [None, 256])
def test_the_distance_falls_and_is_that_of_the_end(make_mixture, covariance_type, n_nodes):
    X, _ = sample(make_mixture(covariance_type, 2, 2), 40)
    start = make_mixture(covariance_type, 2, 2, seed=1)
    end = fit_to_points(start, X, ones(40), n_nodes=n_nodes, max_iter=30)
    assert (np.diff(end.objectives) >= -1e-9).all()
    assert -end.objective < 0.5 * float(exact_plan(start, X, ones(40)).cost)
    assert end.value.covariances.shape == start.covariances.shape
    if n_nodes is None:
        assert math.isclose(-end.objective, exact_plan(end.value, X, ones(40)).cost, rel_tol=1e-2)


@pytest.mark.usefixtures("random_seed")
def test_at_the_end_no_direction_lowers_the_distance(make_mixture):
    X, _ = sample(make_mixture("full", 2, 2), 30)
    end = fit_to_points(make_mixture("full", 2, 2, seed=1), X, ones(30), tol=1e-9, max_iter=300)
    here = float(exact_plan(end.value, X, ones(30)).cost)
    coordinates = RegularisedCoordinates(end.value, 1e-6)
    free = coordinates.to_free(end.value)
    for seed in range(5):
        step = torch.randn(len(free), generator=torch.Generator().manual_seed(seed)).double()
        moved = coordinates.from_free(free + 0.03 * step / step.norm())
        assert float(exact_plan(moved, X, ones(30)).cost) > here


def test_free_coordinates_lead_back(make_mixture, covariance_type):
    mixture = make_mixture(covariance_type, 3, 2)
    coordinates = RegularisedCoordinates(mixture, 1e-3)
    back = coordinates.from_free(coordinates.to_free(mixture))
    for ours, expected in zip(back, mixture, strict=True):
        assert torch.allclose(ours, expected, atol=2e-6)


@pytest.mark.usefixtures("random_seed")
@pytest.mark.parametrize("n_nodes", [None, 64])
def test_the_distance_may_be_off_by_slack_and_nodes(make_mixture, n_nodes):
    start, points = make_mixture("full", 2, 2), make_mixture("full", 20, 2, 1).means
    end = fit_to_points(start, points, ones(20), n_nodes=n_nodes, max_iter=3)
    exact = math.sqrt(exact_plan(end.value, points, ones(20)).cost)
    off = abs(math.sqrt(-end.objective) - exact)
    assert 0 < 0.99 * off < distance_error(end, points, ones(20), n_nodes) < 100 * off


def test_no_steps_leave_the_start(make_mixture):
    start = make_mixture("full", 2, 2)
    end = fit_to_points(start, start.means, ones(2), max_iter=0)
    assert end.value is start and end.n_iter == 0 and end.objectives == ()
    assert not end.converged


@pytest.mark.usefixtures("random_seed")
def test_weights_of_two_are_points_given_twice(make_mixture):
    X, _ = sample(make_mixture("full", 2, 2), 15)
    start, twice = make_mixture("full", 2, 2, seed=1), ones(15)
    twice[:5] = 2
    weighted = fit_to_points(start, X, twice, tol=1e-8)
    repeated = fit_to_points(start, torch.cat([X, X[:5]]), ones(20), tol=1e-8)
    assert math.isclose(weighted.objective, repeated.objective, rel_tol=1e-6)


@pytest.mark.usefixtures("random_seed")
@pytest.mark.parametrize("weight", [0.2495, 0.2501])
def test_weights_are_settled_to_those_of_the_clusters(rng, weight):
    cluster = torch.tensor(rng.normal(size=(10, 2)))
    points = torch.cat([cluster, cluster + torch.tensor([25.0, 0.0], dtype=DOUBLE)])
    masses = torch.cat([0.25 * ones(10), 0.75 * ones(10)])
    mixture = GaussianMixtureParams(
        torch.tensor([weight, 1 - weight], dtype=DOUBLE),
        torch.tensor([[0.0, 0.0], [25.0, 0.0]], dtype=DOUBLE),
        0.8 * torch.ones(2, 2, dtype=DOUBLE),
    )
    transport = _Transport(points, masses, 1e-6, None, 0)
    settled = transport.with_corrected_weights(mixture, transport.plan(mixture))
    expected = torch.tensor([0.25, 0.75], dtype=DOUBLE)
    # all that is missing, but for what the tails of one component give to the other's points
    left = 0.05 * abs(weight - 0.25)
    assert torch.allclose(settled.weights, expected, rtol=0, atol=left)


def test_mixtures_that_are_no_numbers_are_turned_back_from(rng):
    # the first step along so steep a slope leads beyond what float64 holds
    points = torch.tensor(np.vstack([rng.normal(size=(40, 3)), 6 + rng.normal(size=(40, 3))]))
    start = GaussianMixtureParams(
        torch.tensor([1 - 2e-15, 2e-15], dtype=DOUBLE),
        points[:2],
        torch.stack([torch.eye(3, dtype=DOUBLE), 1e-2 * torch.eye(3, dtype=DOUBLE)]),
    )
    end = fit_to_points(start, points, ones(80), n_nodes=64, max_iter=5)
    assert all(torch.isfinite(t).all() for t in end.value)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("n_given", [1, 4])
def test_a_plan_that_fails_where_the_descent_is_raises_at_the_start_and_else_ends_it(
    n_given, monkeypatch
):
    calls, transport = [], _Transport.__call__

    def failing(self, mixture):
        calls.append(0)
        if len(calls) > n_given:
            raise RuntimeError("no plan")
        return transport(self, mixture)

    monkeypatch.setattr(_Transport, "__call__", failing)
    monkeypatch.setattr(semidiscrete, "MAX_COORDINATES", 0)  # left to L-BFGS
    points = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, 3.0]], dtype=DOUBLE)
    start = single(torch.tensor([[0.5, 0.5]], dtype=DOUBLE))
    if n_given == 1:
        with pytest.raises(RuntimeError, match="no plan"):
            fit_to_points(start, points, ones(3), reg_covar=1e-6)
    else:
        end = fit_to_points(start, points, ones(3), reg_covar=1e-6)
        assert all(torch.isfinite(t).all() for t in end.value)


@pytest.mark.usefixtures("random_seed")
@pytest.mark.parametrize("given", [1, 3])
def test_where_newtons_method_gives_up_lbfgs_goes_on(make_mixture, given, monkeypatch):
    X, _ = sample(make_mixture("full", 2, 2), 40)
    end = fit_to_points(make_mixture("full", 2, 2), X, ones(40), tol=1e-9).value
    # so near that both find the same minimum
    start = end._replace(means=end.means + 0.3, covariances=2 * end.covariances)
    whole, calls, at = fit_to_points(start, X, ones(40), tol=1e-9), [], NewtonDescent._at

    def giving_up(self, *args):
        calls.append(0)
        return at(self, *args) if len(calls) <= given else None

    monkeypatch.setattr(NewtonDescent, "_at", giving_up)
    end = fit_to_points(start, X, ones(40), tol=1e-9, max_iter=1000)
    assert len(calls) > given and end.converged
    assert math.isclose(end.objective, whole.objective, rel_tol=1e-5)


def test_a_fit_whose_last_plan_fails_keeps_the_distance_of_newtons_method(
    make_mixture, monkeypatch
):
    X, _ = sample(make_mixture("full", 2, 2), 40)
    start, plan, n_calls = make_mixture("full", 2, 2), _Transport.plan, []
    whole = fit_to_points(start, X, ones(40))

    def failing(self, mixture):
        n_calls.append(0)
        if len(n_calls) > 1:
            raise RuntimeError("no plan")
        return plan(self, mixture)

    monkeypatch.setattr(_Transport, "plan", failing)
    end = fit_to_points(start, X, ones(40))
    assert len(n_calls) == 2 and end.converged
    assert math.isclose(end.objective, whole.objective, rel_tol=1e-5)
    assert end.objectives[-1] == end.objective
    assert torch.allclose(end.value.means, whole.value.means)


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        ([0.2, 0.5, 0.3], 1.0),
        ([0.6, 0.1, 0.3], 3.0),
        ([0.3, 0.3, 0.4], 2.0),
        ([0.1, 0.1, 0.1], 3.0),
    ],
)
def test_the_median_is_weighted_and_never_beyond_the_last(share, expected):
    values = torch.tensor([3.0, 1.0, 2.0], dtype=DOUBLE)
    assert _median(values, torch.tensor(share, dtype=DOUBLE)) == expected


def test_a_fit_that_runs_out_of_steps_has_not_converged(make_mixture):
    X, _ = sample(make_mixture("full", 2, 2), 60)
    end = fit_to_points(make_mixture("full", 2, 2, seed=1), X, ones(60), tol=0.0, max_iter=3)
    assert not end.converged and end.n_iter == 3


def test_a_fit_without_tolerance_converges_where_no_step_lowers_the_distance():
    points = torch.tensor([[-1.0, 0.0], [1.0, 0.0]], dtype=DOUBLE)
    start = single(torch.eye(2, dtype=DOUBLE).unsqueeze(0))
    end = fit_to_points(start, points, ones(2), tol=0.0, max_iter=500)
    assert end.converged and end.n_iter < 500


def test_the_variance_of_a_start_is_the_mean_unless_outliers_make_it():
    points = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, 2.0], [0.0, -2.0]], dtype=DOUBLE)
    assert math.isclose(robust_variance(points, ones(4)), (0.5 + 2) / 2)
    far = torch.cat([points, points, torch.tensor([[1e4, 0.0]], dtype=DOUBLE)])
    # mean squares of the features about the medians: four of 1/2, four of 2 and the outlier
    assert math.isclose(robust_variance(far, ones(9)), 10 * 2)
    alike = torch.cat([torch.zeros(3, 2, dtype=DOUBLE), points[:1]])
    assert math.isclose(robust_variance(alike, ones(4)), (0.25 - 0.25**2) / 2)


@pytest.mark.parametrize(
    ("line", "expected"), [([-2, -1, 0, 1, 10], 10), ([0, 0, 0, 5], math.inf), ([3, 3, 3], 1)]
)
def test_the_farthest_point_is_compared_with_the_median(line, expected):
    points = torch.tensor(line, dtype=DOUBLE).unsqueeze(1)
    assert outlier_ratio(points, ones(len(line))) == pytest.approx(expected)


def test_the_slack_is_in_the_unit_of_potentials():
    points = torch.tensor([[-1.0, 0.0], [1.0, 0.0]], dtype=DOUBLE)
    slack = _Transport(points, ones(2), 0.5, None, 0).slack
    assert slack == pytest.approx(SLACK / math.sqrt(1 * (1 + 2 * 0.5)))
