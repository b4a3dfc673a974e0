"""Samples: moments, labels, seeds and derivatives."""

import pytest
import scipy.stats
import torch
from torch.testing import assert_close

from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.gaussian.sampling import matched_samples, rsample, sample

F64 = torch.float64


K, d = 3, 2


def params(*fields):
    return GaussianMixtureParams(*(torch.tensor(t, dtype=F64) for t in fields))


def test_samples_have_the_moments_and_the_labels_of_the_mixture(theta, random_seed):
    n = 40_000
    X, labels = sample(theta, n, generator=torch.Generator().manual_seed(random_seed))
    assert X.shape == (n, d)
    counts = torch.bincount(labels, minlength=K).numpy()
    assert scipy.stats.chisquare(counts, n * theta.weights.numpy()).pvalue > 1e-3
    for k, S in enumerate(theta.full_covariances()):
        members = X[labels == k]
        error = (members.mean(0) - theta.means[k]) / (S.diagonal() / len(members)).sqrt()
        assert error.abs().max() < 4
        assert_close(members.mT.cov(), S, rtol=0, atol=0.06 * S.diagonal().max().item())


def test_samples_come_again_from_the_same_seed_and_in_random_order(theta):
    (X, labels), (again, _) = (
        sample(theta, 100, generator=torch.Generator().manual_seed(3)) for _ in range(2)
    )
    assert_close(X, again, rtol=0, atol=0)
    assert not (labels.diff() >= 0).all()


def test_samples_of_a_degenerate_component_stay_on_its_line(random_seed):
    theta = params([1.0], [[1.0, 1.0]], [[[1.0, 1.0], [1.0, 1.0]]])
    X, _ = sample(theta, 50, generator=torch.Generator().manual_seed(random_seed))
    assert_close(X[:, 0], X[:, 1])
    assert X[:, 0].std() > 0.5


def test_samples_carry_no_gradient(theta):
    theta = GaussianMixtureParams(*(t.requires_grad_() for t in theta))
    assert not sample(theta, 3)[0].requires_grad


def test_weighted_samples_have_the_moments_of_the_mixture(theta, random_seed):
    X, a = rsample(theta, 200_000, generator=torch.Generator().manual_seed(random_seed))
    assert_close(a.sum(), torch.ones((), dtype=a.dtype))
    mean = theta.weights @ theta.means
    assert_close(a @ X, mean, rtol=0, atol=0.03)
    second = theta.full_covariances() + theta.means.unsqueeze(-1) * theta.means.unsqueeze(-2)
    expected = (theta.weights.view(-1, 1, 1) * second).sum(0)
    assert_close((X * a.unsqueeze(1)).mT @ X, expected, rtol=0.02, atol=0.1)


def test_the_gradient_of_weighted_samples_is_that_of_the_mean_they_estimate(theta, random_seed):
    # E |x|^2 = sum_k w_k (|m_k|^2 + tr Sigma_k)
    leaves = GaussianMixtureParams(*(t.clone().requires_grad_() for t in theta))
    traces = leaves.full_covariances().diagonal(dim1=-2, dim2=-1).sum(-1)
    exact = leaves.weights @ (leaves.means.square().sum(-1) + traces)
    expected = torch.autograd.grad(exact, leaves)
    X, a = rsample(leaves, 200_000, generator=torch.Generator().manual_seed(random_seed + 1))
    found = torch.autograd.grad(a @ X.square().sum(-1), leaves)
    for ours, theirs in zip(found, expected, strict=True):
        if theirs.ndim == 3:  # a covariance counts by its symmetric part
            ours, theirs = (ours + ours.mT) / 2, (theirs + theirs.mT) / 2
        assert_close(ours, theirs, rtol=0.05, atol=0.1)


@pytest.mark.parametrize(
    ("weights", "n_samples", "counts"),
    [
        ([0.5, 0.3, 0.2], 10, [5, 3, 2]),
        ([0.34, 0.33, 0.33], 10, [4, 3, 3]),
        ([0.999, 5e-4, 5e-4], 10, [8, 1, 1]),
        ([0.5, 0.5, 0.0], 7, [4, 3, 0]),
        ([0.61, 0.24, 0.15], 10, [6, 2, 2]),  # the largest remainder, not the largest share
    ],
)
def test_each_component_gets_its_share_of_samples(weights, n_samples, counts):
    weights = torch.tensor(weights, dtype=torch.float64, requires_grad=True)
    means = torch.tensor([[0.0], [100.0], [200.0]], dtype=torch.float64)
    X, a = rsample(GaussianMixtureParams(weights, means, torch.ones(3, 1).double()), n_samples)
    found = torch.bincount((X[:, 0] / 100).round().long(), minlength=3)
    assert found.tolist() == counts
    (gradient,) = torch.autograd.grad(a.sum(), weights)
    assert_close(gradient, (torch.tensor(counts) > 0).double())


def test_weighted_samples_need_one_for_each_component(theta):
    with pytest.raises(ValueError, match="n_samples must be at least the number of components"):
        rsample(theta, 1)


@pytest.mark.parametrize(
    "covariances", [torch.zeros(1, 2, 2), torch.ones(1, 2, 2), torch.zeros(1, 2)]
)
def test_singular_covariances_have_no_derivative_along_draws(covariances):
    theta = GaussianMixtureParams(torch.ones(1), torch.zeros(1, 2), covariances)
    with pytest.raises(ValueError, match="ill-defined empirical covariance"):
        rsample(theta, 3)


def test_matched_samples_have_the_very_moments_of_each_component(theta):
    mixture = theta
    X, a = matched_samples(mixture, 200, generator=torch.Generator().manual_seed(0))
    assert X.shape == (200, d) and not X.requires_grad
    ends = torch.cumsum(mixture.weights, 0)
    labels = torch.searchsorted(ends, (torch.cumsum(a, 0) - a / 2).to(ends))
    for k, S in enumerate(mixture.full_covariances()):
        members, weights = X[labels == k], a[labels == k]
        assert_close(weights.sum(), mixture.weights[k])
        assert_close(members.mean(0), mixture.means[k], rtol=0, atol=1e-12)
        assert_close(members.mT.cov(correction=0), S, rtol=1e-10, atol=1e-12)


def test_matched_samples_of_few_keep_the_mean_and_the_size():
    mixture = params([0.25, 0.75], [[1.0, 2.0], [5.0, 5.0]], [[1.0, 4.0], [1.0, 1.0]])
    X, a = matched_samples(mixture, 4, generator=torch.Generator().manual_seed(0))
    assert_close(X[:1], mixture.means[:1])  # one sample of a component is its mean
    assert_close(a, torch.full((4,), 0.25, dtype=F64))
    many = [
        matched_samples(mixture, 8, generator=torch.Generator().manual_seed(s))[0][:2]
        for s in range(2000)
    ]
    variances = torch.stack([(x - x.mean(0)).square().mean(0) for x in many]).mean(0)
    assert_close(variances, mixture.covariances[0], rtol=0.1, atol=0)
