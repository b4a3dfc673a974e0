"""Moments of samples that are shared among the components of a fixed mixture."""

import pytest
import torch
from torch.testing import assert_close

from skgmmot.fitting.assigned import AssignedMoments
from skgmmot.fitting.em.step import em_step
from skgmmot.gaussian.mixture import GaussianMixtureParams

F64 = torch.float64


@pytest.fixture
def X():
    return torch.randn(60, 3, dtype=F64, generator=torch.Generator().manual_seed(0))


def reference(covariance_type):
    """Two components, which overlap."""
    means = torch.tensor([[-1.0, 0.0, 0.0], [1.0, 0.5, 0.0]], dtype=F64)
    storage = {
        "full": torch.eye(3, dtype=F64).expand(2, 3, 3),
        "tied": torch.eye(3, dtype=F64).expand(1, 3, 3),
        "diag": torch.ones(2, 3, dtype=F64),
        "spherical": torch.ones(2, 1, dtype=F64),
    }
    weights = torch.tensor([0.3, 0.7], dtype=F64)
    return GaussianMixtureParams(weights, means, storage[covariance_type], covariance_type)


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
def test_the_mixture_is_one_iteration_of_em_whatever_the_batches(X, covariance_type):
    theta = reference(covariance_type)
    moments = AssignedMoments(theta)
    sums = moments.nothing()
    for batch in X.split(7):
        sums = moments.added(sums, batch)
    assert abs(moments.n_samples(sums) - 60) < 1e-9
    found, expected = moments.mixture(sums, ddof=0), em_step(theta, X)
    assert found.covariance_type is theta.covariance_type
    for ours, theirs in zip(found, expected, strict=True):
        assert_close(ours, theirs)


def test_a_mixture_with_full_covariances_has_the_moments_of_the_samples(X):
    moments = AssignedMoments(reference("full"))
    w, m, S = moments.mixture(moments.added(moments.nothing(), X), ddof=0)
    mean = w @ m
    assert_close(mean, X.mean(0))
    between = (w[:, None] * (m - mean)).mT @ (m - mean)
    assert_close((w[:, None, None] * S).sum(0) + between, X.T.cov(correction=0))


def test_a_gaussian_needs_no_reference_and_keeps_its_digits_far_from_the_origin(X):
    moments = AssignedMoments()
    far = X + 2.0**30  # exact for digits above 2^-22
    X = far - 2.0**30
    halves = [moments.nothing(), moments.added(moments.nothing(), far[:10])]
    halves.append(moments.added(moments.added(moments.nothing(), far[40:]), far[10:40]))
    for several in (halves, torch.stack(halves[1:])):
        found = moments.mixture(moments.pooled(several))
        assert_close(found.means[0], X.mean(0) + 2.0**30)
        assert_close(found.covariances[0], X.T.cov())


def test_sums_about_different_references_are_not_added(X):
    one = AssignedMoments(reference("diag"))
    other = AssignedMoments(reference("diag").translated(torch.ones(3)))
    sums = [moments.added(moments.nothing(), X) for moments in (one, other)]
    with pytest.raises(ValueError, match="reference must be the same mixture"):
        one.pooled(sums)
    assert one.pooled([one.nothing(), sums[0]]) is sums[0]


def test_the_number_of_features_is_that_of_the_reference_or_of_the_samples(X):
    moments = AssignedMoments()
    assert moments.n_features(moments.nothing()) is None
    assert moments.n_features(moments.nothing(3)) == 3
    assert moments.n_features(moments.added(moments.nothing(3), X)) == 3
    moments = AssignedMoments(reference("tied"))
    assert moments.n_features(moments.nothing()) == 3
