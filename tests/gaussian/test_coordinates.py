"""Coordinates: isometries, first order, units, and steps down transport."""

import pytest
import torch
from torch.testing import assert_close

from skgmmot.gaussian.coordinates import (
    FisherCoordinates,
    LogCoordinates,
    descended,
    retracted_weights,
    velocities,
)
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.transport.mixtures.distance import transport_plan

K, d = 3, 2


def change_of(theta, seed):
    generator = torch.Generator().manual_seed(seed)
    w, m, S = (torch.randn(t.shape, dtype=t.dtype, generator=generator) for t in theta)
    return GaussianMixtureParams(w - w.mean(), m, S + S.mT if S.ndim == 3 else S)


def pairing(left, right):
    return sum((p * q).sum() for p, q in zip(left, right, strict=True))


def test_fisher_coordinates_keep_the_product_of_changes_and_cotangents(theta):
    coordinates = FisherCoordinates(theta, theta.weights)
    change, u = change_of(theta, 1), change_of(theta, 2)
    product = coordinates.of_change(change) @ coordinates.of_cotangent(u)
    assert_close(product, pairing(change, u))
    assert_close(tuple(coordinates.cotangent(coordinates.of_cotangent(u))), tuple(u))


def test_fisher_coordinates_measure_by_the_information_of_a_sample(theta):
    # the curvature of the expected log-joint under the mixture itself, by autograd
    change = change_of(theta, 3)
    t = torch.zeros((), dtype=theta.means.dtype, requires_grad=True)
    moved = GaussianMixtureParams(*(p + t * q for p, q in zip(theta, change, strict=True)))
    S, now = theta.full_covariances(), moved.full_covariances()
    shift = (moved.means - theta.means).unsqueeze(-1)
    inverse = torch.linalg.inv(now)
    trace = ((S + shift @ shift.mT) * inverse).sum((-2, -1))
    expected = theta.weights @ (moved.weights.log() - (torch.logdet(now) + trace) / 2)
    (first,) = torch.autograd.grad(expected, t, create_graph=True)
    (second,) = torch.autograd.grad(first, t)
    vector = FisherCoordinates(theta, theta.weights).of_change(change)
    assert_close(vector.square().sum(), -second)


def test_fisher_coordinates_move_a_mixture_to_first_order(theta):
    coordinates = FisherCoordinates(theta, theta.weights)
    change, step = change_of(theta, 4), 1e-6
    moved = coordinates.retracted(step * coordinates.of_change(change))
    for after, before, expected in zip(moved, theta, change, strict=True):
        assert_close((after - before) / step, expected, rtol=1e-4, atol=1e-4)


def test_fisher_coordinates_move_a_mixture_to_a_mixture(theta):
    vector = 30 * FisherCoordinates(theta, theta.weights).of_change(change_of(theta, 5))
    moved = FisherCoordinates(theta, theta.weights).retracted(vector)
    assert_close(moved.weights.sum(), theta.weights.sum())
    assert (torch.linalg.eigvalsh(moved.full_covariances()) > -1e-9).all()


def test_fisher_coordinates_do_not_depend_on_the_units_of_the_features(theta):
    change, scale = change_of(theta, 6), torch.tensor(1e3, dtype=theta.means.dtype)

    def scaled(mixture):
        w, m, S = mixture
        return GaussianMixtureParams(w, scale * m, scale**2 * S)

    assert_close(
        FisherCoordinates(scaled(theta), theta.weights).of_change(scaled(change)),
        FisherCoordinates(theta, theta.weights).of_change(change),
    )


def test_half_a_step_down_transport_is_the_target(theta, make_mixture):
    means = 50 * theta.means
    name = theta.covariance_type.name
    target = make_mixture(name, K, d, seed=8)._replace(weights=theta.weights)
    target = target._replace(means=means + target.means)
    theta = theta._replace(means=means)
    leaves = [t.clone().requires_grad_() for t in theta[1:]]
    cost = transport_plan(GaussianMixtureParams(theta.weights, *leaves), target).cost
    found = descended(theta, *torch.autograd.grad(cost, leaves), 0.5)
    assert_close(tuple(found), tuple(target), rtol=1e-9, atol=1e-9)


def test_a_small_step_is_the_change_at_these_velocities(theta):
    cotangents = change_of(theta, 3)
    coordinates = FisherCoordinates(theta, theta.weights)
    step = 1e-7
    moved = descended(theta, cotangents.means, cotangents.covariances, step)
    change = GaussianMixtureParams(*(a - b for a, b in zip(moved, theta, strict=True)))
    found = velocities(theta, cotangents.means, cotangents.covariances)
    expected = -coordinates.of_velocities(*found)
    assert_close(coordinates.of_change(change) / step, expected, rtol=1e-5, atol=1e-4)


def test_logarithms_lead_back_and_are_as_long_in_any_order_of_the_features(
    make_mixture, covariance_type
):
    theta0 = GaussianMixtureParams(*make_mixture(covariance_type, K=3, d=4))
    weights, means, covariances = make_mixture(covariance_type, K=3, d=4, seed=1)
    theta = GaussianMixtureParams(weights, means, covariances)
    free = LogCoordinates(theta0)
    for found, expected in zip(free.from_free(free.to_free(theta)), theta, strict=True):
        assert_close(found, expected, rtol=1e-10, atol=1e-12)
    order = torch.tensor([2, 0, 3, 1])

    def turned(mixture):
        covariances = mixture.covariances
        if covariances.shape[-1] == 4:
            covariances = covariances[..., order]
        if covariances.ndim == 3:
            covariances = covariances[:, order]
        return mixture._replace(means=mixture.means[:, order], covariances=covariances)

    other = LogCoordinates(turned(theta0)).to_free(turned(theta)).norm()
    assert_close(other, free.to_free(theta).norm(), rtol=1e-10, atol=0)


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_a_mean_that_moves_by_one_standard_deviation_moves_by_one(
    make_mixture, covariance_type, offset
):
    weights, means, covariances = make_mixture(covariance_type, K=3, d=4)
    means = means + offset * torch.arange(3.0).unsqueeze(1)  # components far apart, or not
    theta = GaussianMixtureParams(weights, means, covariances)
    free = LogCoordinates(theta)
    axis = torch.linalg.cholesky(theta.full_covariances()[1])[:, 0]
    moved = theta._replace(means=means.index_add(0, torch.tensor([1]), axis.unsqueeze(0)))
    length = free.length(free.to_free(moved) - free.to_free(theta))
    assert length == pytest.approx(1.0, rel=1e-9)


def test_retracted_weights_are_weights_and_right_to_first_order():
    w, change = torch.tensor([0.5, 0.3, 0.2, 0.0]), torch.tensor([0.3, -0.2, -0.1, 0.0])
    moved = retracted_weights(w, 1e-3 * change)
    assert_close(moved, w + 1e-3 * change, rtol=0, atol=1e-6)
    far = retracted_weights(w, -100 * change)
    assert_close(far.sum(), w.sum())
    assert (far >= 0).all() and far[3] == 0
