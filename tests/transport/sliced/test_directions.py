"""Directions to slice along: uniform, repeated by their seed, turned uphill."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from transport.sliced.lines import ONE, chosen, generator

from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.transport.sliced.directions import DIRECTIONS, ascend, directions
from skgmmot.transport.sliced.distance import sliced_wasserstein, sliced_wasserstein_between

F64 = torch.float64


@pytest.mark.parametrize("way", DIRECTIONS)
@pytest.mark.parametrize("d", [1, 2, 3, 10])
def test_directions_are_unit_vectors_without_a_preferred_one(way, d):
    theta = torch.cat([directions(way, 4 * d, d, generator=generator(i)) for i in range(500)])
    assert_close(theta.norm(dim=1), torch.ones(len(theta), dtype=F64))
    if d > 1:
        second = theta.mT @ theta / len(theta)  # E theta theta^T = I / d on the sphere
        assert (second - torch.eye(d) / d).abs().max() < 0.05 / math.sqrt(d)


def test_directions_repeat_with_their_seed():
    for way in DIRECTIONS:
        draws = [directions(way, 8, 5, generator=generator(i)) for i in (1, 1, 2)]
        assert torch.equal(draws[0], draws[1])
        assert not torch.equal(draws[0], draws[2])


def test_orthogonal_directions_are_orthogonal_in_groups():
    theta = chosen(7, 3, "orthogonal")
    assert_close(theta[:3] @ theta[:3].mT, torch.eye(3, dtype=F64))
    assert_close(theta[3:6] @ theta[3:6].mT, torch.eye(3, dtype=F64))
    assert theta.shape == (7, 3)


def test_on_a_line_one_direction_is_all():
    assert torch.equal(directions("random", 50, 1), ONE)


@pytest.mark.parametrize("d", [2, 5])
def test_quasi_directions_estimate_the_distance_better(d, make_mixture, random_seed):
    source, target = make_mixture("full", 2, d, seed=1), make_mixture("full", 2, d, seed=2)
    spread = {}
    for way in ("random", "quasi"):
        means = [
            sliced_wasserstein_between(
                source, target, directions(way, 32, d, generator=generator(i + 60 * random_seed))
            )
            .mean()
            .item()
            for i in range(60)
        ]
        spread[way] = np.std(means)
    # about half, up to 0.7 by the mixtures; sixty draws know a ratio to an eighth
    assert spread["quasi"] < {2: 0.6, 5: 0.9}[d] * spread["random"]


def test_steps_uphill_grow_by_half():
    # from 3 radians off the top, three steps go 0.5, 0.75 and 1.125 towards it
    start = torch.tensor([[3.0]], dtype=F64)
    start = torch.cat([start.cos(), start.sin()], dim=1)
    _, costs = ascend(lambda theta: theta[:, 0], start, n_steps=3)
    assert_close(costs, torch.tensor([0.625], dtype=F64).cos())


@pytest.mark.usefixtures("random_seed")
def test_ascent_finds_the_direction_in_which_mixtures_differ(make_samples):
    # they differ along the first axis only
    d = 6
    X = make_samples(400, d)
    X = (X - X.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(X.mT.cov(correction=0))).mT
    eye = torch.eye(d, dtype=F64)
    mixture = GaussianMixtureParams(torch.ones(1, dtype=F64), 3 * eye[:1], eye.unsqueeze(0))

    def cost(theta):
        return sliced_wasserstein(mixture, X, theta)

    start = chosen(4, d)
    theta, costs = ascend(cost, start)
    assert (costs >= cost(start)).all()
    assert not theta.requires_grad and not costs.requires_grad
    assert_close(cost(theta), costs)
    assert theta[costs.argmax(), 0].abs() > 0.99
