"""How far reductions may be from the best ones: against going through all groups of components."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.transport.mixtures.distance import transport_plan
from skgmmot.transport.mixtures.reduction_bound import distance_bound, reduction_error


def diagonal(M=6, d=2, seed=0):
    rng = np.random.default_rng(seed)
    parts = rng.dirichlet(np.full(M, 3.0)), rng.normal(size=(M, d)), rng.gamma(1.0, size=(M, d))
    return GaussianMixtureParams(*map(torch.tensor, parts), "diag")


def best_of_groups(mixture, K):
    """The best reduction of a diagonal mixture: groups become their mean in mean and deviation."""
    w, found = mixture.weights, []
    images = torch.cat([mixture.means, mixture.covariances.sqrt()], 1)
    for label in itertools.product(range(K), repeat=len(w)):
        share = torch.nn.functional.one_hot(torch.tensor(label), K).double().mT * w
        if (share.sum(1) == 0).any():
            continue
        middle = share @ images / share.sum(1, keepdim=True)
        cost = float(w @ (images - middle[list(label)]).square().sum(1))
        found.append((cost, share.sum(1), middle))
    cost, weights, middle = min(found, key=lambda each: each[0])
    means, deviations = middle.chunk(2, dim=1)
    return math.sqrt(cost), GaussianMixtureParams(weights, means, deviations**2, "diag")


@pytest.mark.parametrize("K", [1, 2, 3])
@pytest.mark.parametrize("seed", [0, 1])
def test_no_mixture_is_nearer_than_the_bound(K, seed):
    mixture = diagonal(seed=seed)
    least, best = best_of_groups(mixture, K)
    assert_close(transport_plan(mixture, best).cost, torch.tensor(least**2).double())
    assert 0.5 * least < distance_bound(mixture, K, 2 * least**2) <= least
    assert 0 < reduction_error(mixture, best, K) < 0.5 * least
    worse = best._replace(means=best.means + 1.0)
    off = math.sqrt(transport_plan(mixture, worse).cost) - least
    assert off < reduction_error(mixture, worse, K)


def test_matrices_have_the_bound_of_their_axes():
    """A rotation changes no distance."""
    mixture = diagonal()
    Q = torch.linalg.qr(torch.tensor([[1.0, 2.0], [-3.0, 1.0]]).double())[0]
    turned = GaussianMixtureParams(
        mixture.weights, mixture.means @ Q.mT, Q @ mixture.full_covariances() @ Q.mT
    )
    assert distance_bound(turned, 2, 0.5) == pytest.approx(distance_bound(mixture, 2, 0.5))


@pytest.mark.parametrize("scale", [1e-60, 1e60])
def test_errors_have_the_unit_of_the_data(scale):
    mixture, reduced = diagonal(), diagonal(2)
    error = reduction_error(mixture, reduced, 2)
    scaled = [m.scaled(scale) for m in (mixture, reduced)]
    assert reduction_error(*scaled, 2) == pytest.approx(scale * error)


def test_a_mixture_itself_has_no_error():
    mixture = diagonal()
    assert reduction_error(mixture, mixture, 6) == 0.0
