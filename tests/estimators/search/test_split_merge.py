"""Starts from a fit of fewer or of more components."""

import math

import numpy as np
import pytest
import torch

from skgmmot.estimators.search._split_merge import _lost, _whole, merge, split
from skgmmot.estimators.starts import assignments
from skgmmot.fitting.em.rows import EM
from skgmmot.fitting.samples import InMemory
from skgmmot.gaussian.covariance.registry import COVARIANCE_TYPES
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.gaussian.sampling import sample


@pytest.fixture
def em():
    """Samples of three far groups in the plane, about their mean."""
    rng = np.random.default_rng(0)
    centres = np.array([[-10.0, 0.0], [10.0, 3.0], [10.0, -3.0]])
    X = torch.tensor(np.vstack([rng.normal(c, 0.5, size=(100, 2)) for c in centres]))
    return EM(InMemory(X - X.mean(0)), torch.zeros(2, dtype=torch.float64), 1e-6)


def fit(em, K, name, labels):
    """The mixture of some labels."""
    kind, resp = COVARIANCE_TYPES[name], torch.eye(K, dtype=torch.float64)[labels].T
    return _moments(em, resp, kind)


def _moments(em, resp, kind):

    return assignments.start(lambda: iter([(slice(None), slice(None), resp)]), em, kind, len(resp))


def test_the_component_of_two_groups_is_halved(em, covariance_type):
    kind = COVARIANCE_TYPES[covariance_type]
    two = fit(em, 2, covariance_type, torch.tensor([0, 1, 1]).repeat_interleave(100))
    three = split(two, em, kind, 3)
    centres = em.X.view(3, 100, 2).mean(1)
    distances = torch.cdist(three.means, centres).amin(0)
    assert distances.max() < 1
    assert three.weights.sum() == pytest.approx(1)
    assert three.covariance_type == kind.reduced(3, 2)
    three.prepare()


def test_halves_are_halved_until_there_are_enough(em, covariance_type):
    kind = COVARIANCE_TYPES[covariance_type]
    one = fit(em, 1, covariance_type, torch.zeros(300, dtype=torch.long))
    many = split(one, em, kind, 7)
    assert many.means.shape == (7, 2)
    assert many.covariances.shape == kind.shape(7, 2)
    many.prepare()
    samples = InMemory(em.X, torch.linspace(0, 1, 300, dtype=torch.float64))
    weighted = EM(samples, em.origin, 1e-6)
    assert split(one, weighted, kind, 2).weights[0] != split(one, em, kind, 2).weights[0]


def test_a_split_component_is_merged_again(em, covariance_type):
    kind = COVARIANCE_TYPES[covariance_type]
    labels = torch.arange(3).repeat_interleave(100)
    three = fit(em, 3, covariance_type, labels)
    four = split(three, em, kind, 4)
    back = merge(four, kind, 3)
    order = torch.cdist(back.means, three.means).argmin(0)
    torch.testing.assert_close(back.means[order], three.means, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(back.weights[order], three.weights)
    if not kind.shared:
        torch.testing.assert_close(back.covariances[order], three.covariances, rtol=0.2, atol=0.01)


def test_merged_components_keep_the_moments_of_the_mixture(make_mixture):
    theta = make_mixture("full", 5, 3)

    def moments(theta):
        mean = theta.weights @ theta.means
        outer = theta.means.unsqueeze(2) * theta.means.unsqueeze(1)
        second = torch.tensordot(theta.weights, theta.full_covariances() + outer, dims=1)
        return mean, second

    for K in (4, 2, 1):
        merged = merge(theta, COVARIANCE_TYPES["full"], K)
        assert len(merged.weights) == K
        torch.testing.assert_close(moments(merged), moments(theta))


def test_what_a_whole_loses_is_the_classification_log_likelihood_of_both(make_mixture):
    theta = make_mixture("full", 2, 3)
    w, m, S = theta.weights[:, None], theta.means[:, None], theta.covariances[:, None]
    mean, whole = _whole(w, m, S)
    torch.testing.assert_close(mean[0], theta.weights @ theta.means)

    def of_samples(w, S):
        """What samples of mass w, mean m and covariance S add to it."""
        return w * (w.log() - torch.logdet(2 * math.pi * S) / 2 - 3 / 2)

    expected = of_samples(w, S).sum(0) - of_samples(w.sum(0), whole)
    torch.testing.assert_close(_lost(w, S, whole), expected)


def test_components_without_samples_are_not_halved(em):
    theta = GaussianMixtureParams(
        torch.tensor([1.0, 0.0], dtype=torch.float64),
        torch.tensor([[0.0, 0.0], [50.0, 50.0]], dtype=torch.float64),
        torch.stack([100 * torch.eye(2, dtype=torch.float64)] * 2),
    )
    three = split(theta, em, COVARIANCE_TYPES["full"], 3)
    assert (three.weights > 0).sum() == 2
    assert sample(three, 10)[0].isfinite().all()
