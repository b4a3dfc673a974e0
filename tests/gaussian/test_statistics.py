"""Sums over samples: their definitions, and how they add and move."""

import pytest
import torch
from torch.testing import assert_close

from skgmmot.gaussian.log_density import log_density, log_responsibilities
from skgmmot.gaussian.statistics import Statistics, e_step, moments

F64 = torch.float64


K, d, n = 3, 2, 60


def test_statistics_are_their_definitions(theta, X, a):
    weights = torch.ones(n, dtype=F64) if a is None else a
    resp = log_responsibilities(theta, X).exp() * weights
    centred = X - theta.means.unsqueeze(1)
    statistics = e_step(theta, X, a)
    assert_close(statistics.mass, resp.sum(1))
    assert_close(statistics.shift, torch.einsum("kn,kni->ki", resp, centred))
    kind = theta.covariance_type
    assert_close(statistics.scatter, kind.scatter(centred, resp))
    assert_close(statistics.log_likelihood, weights @ log_density(theta, X))
    assert_close(moments(theta, X, resp)[:3], statistics[:3])


def test_statistics_add_over_blocks(theta, X, a):
    rows = [slice(0, 7), slice(7, n)]
    parts = [e_step(theta, X[r], None if a is None else a[r]) for r in rows]
    assert_close(Statistics(*map(torch.add, *parts)), e_step(theta, X, a))


def test_weights_are_repeated_rows(theta, X):
    counts = torch.arange(n) % 4
    expected = e_step(theta, X.repeat_interleave(counts, dim=0))
    assert_close(e_step(theta, X, counts.double()), expected)


def test_statistics_move_to_other_centres(theta, X, a):
    by = torch.arange(K * d, dtype=F64).view(K, d)
    resp = log_responsibilities(theta, X).exp() * (1 if a is None else a)
    expected = moments(theta._replace(means=theta.means - by), X, resp)
    assert_close(e_step(theta, X, a).recentred(by, theta.covariance_type)[:3], expected[:3])


@pytest.mark.parametrize("name", ["full", "tied"])
def test_strips_of_triangles_hold_all_of_them(name, make_mixture, make_samples):
    wide = make_mixture(name, 2, 66)  # the last strip is narrower than the others
    X = make_samples(50, 66)
    expected = e_step(wide, X)  # with a graph, scatter is one product
    with torch.no_grad():
        assert_close(e_step(wide, X), expected)
    centred = X - wide.means.unsqueeze(1)
    whitened = torch.linalg.solve_triangular(
        torch.linalg.cholesky(wide.full_covariances()), centred.mT, upper=False
    )
    joint = wide.weights.log().unsqueeze(1) - whitened.square().sum(1) / 2
    joint = joint - torch.linalg.slogdet(wide.full_covariances()).logabsdet.unsqueeze(1) / 2
    assert_close(joint.softmax(0).sum(1), expected.mass)


def test_a_sample_that_is_far_from_a_component_is_none_of_its(theta, X):
    far = theta._replace(means=theta.means + torch.tensor([[0.0], [0.0], [1e6]], dtype=F64))
    statistics = e_step(far, X)
    assert statistics.mass[2] == 0
    assert_close(statistics.mass[:2].sum(), torch.tensor(float(n), dtype=F64))
