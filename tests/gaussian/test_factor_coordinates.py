"""Coordinates of changes of mixtures of factor analysers."""

import pytest
import torch
from torch.testing import assert_close

from skgmmot.gaussian.coordinates import FisherCoordinates
from skgmmot.gaussian.covariance.low_rank import LowRank
from skgmmot.gaussian.factor_coordinates import FactorCoordinates, fisher_coordinates

F64 = torch.float64
K, d, r = 2, 5, 2


@pytest.fixture
def theta(make_mixture, make_samples):
    """A mixture of rank two."""
    like = make_mixture("diag", K, d)
    F = make_samples(K * d, r).view(K, d, r)
    storage = torch.cat([F, like.covariances.unsqueeze(-1)], dim=-1)
    return like._replace(covariances=storage, covariance_type=LowRank(r))


def change_of(theta, seed):
    """A random change of a mixture."""
    generator = torch.Generator().manual_seed(seed)
    return theta.map(lambda t: torch.randn(t.shape, dtype=F64, generator=generator))


def rotation_of(theta, seed=1):
    """A change that rotates the factors."""
    generator = torch.Generator().manual_seed(seed)
    A = torch.randn(K, r, r, dtype=F64, generator=generator)
    F = theta.covariances[..., :-1] @ (A - A.mT)
    storage = torch.cat([F, torch.zeros(K, d, 1, dtype=F64)], dim=-1)
    return theta.map(torch.zeros_like)._replace(covariances=storage)


def test_products_of_changes_and_cotangents_are_kept_but_for_rotations(theta):
    coordinates = fisher_coordinates(theta, theta.weights)
    assert isinstance(coordinates, FactorCoordinates)
    change, u = change_of(theta, 1), change_of(theta, 2)
    u = coordinates.cotangent(coordinates.of_cotangent(u))  # that sees no rotation
    product = sum((a * b).sum() for a, b in zip(change, u, strict=True))
    assert_close(coordinates.of_change(change) @ coordinates.of_cotangent(u), product)
    assert_close(coordinates.of_change(rotation_of(theta)).norm(), torch.zeros((), dtype=F64))


def test_a_move_is_the_change_to_first_order(theta):
    coordinates = FactorCoordinates(theta, theta.weights)
    vector = coordinates.of_change(change_of(theta, 3))
    vector = coordinates.of_change(coordinates.retracted(1e-6 * vector).map(torch.sub, theta))
    again = coordinates.of_change(coordinates.retracted(vector).map(torch.sub, theta))
    assert_close(again, vector, rtol=1e-4, atol=1e-10)
    far = coordinates.retracted(1e7 * vector)
    assert (far.covariances[..., -1] > 0).all()
    assert_close(far.weights.sum(), torch.ones((), dtype=F64))


def test_means_are_measured_by_their_covariance(theta, make_samples):
    nothing = theta.map(torch.zeros_like)
    change = nothing._replace(means=make_samples(K, d, seed=4))
    full = theta._replace(covariances=theta.full_covariances(), covariance_type="full")
    nothing = full.map(torch.zeros_like)
    length = FisherCoordinates(full, full.weights).of_change(nothing._replace(means=change.means))
    found = FactorCoordinates(theta, theta.weights).of_change(change)
    assert_close(found.norm(), length.norm())


def test_the_square_of_an_elementary_type_is_fishers(make_mixture):
    full = make_mixture("full", K, d)
    assert isinstance(fisher_coordinates(full, full.weights), FisherCoordinates)
