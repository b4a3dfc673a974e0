"""Mixtures as distributions of torch, and back."""

import pytest
import torch
from torch.distributions import (
    Categorical,
    Independent,
    Laplace,
    LowRankMultivariateNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
)

from skgmmot.gaussian.log_density import log_density
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.gaussian.torch_distributions import from_torch, to_torch

LOADINGS = torch.ones(2, 3, 1)
WEIGHTS = Categorical(torch.tensor([0.25, 0.75], dtype=torch.float64))


def density(mixture, X):
    """The log-density by our own formula."""
    return log_density(mixture, X)


def test_densities_are_equal_and_mixtures_come_back(covariance_type, make_mixture, make_samples):
    theta, X = make_mixture(covariance_type, 3, 2), make_samples(5, 2)
    distribution = to_torch(theta)
    assert distribution.event_shape == (2,) and distribution.batch_shape == ()
    torch.testing.assert_close(distribution.log_prob(X), density(theta, X))
    again = from_torch(distribution)
    assert again.covariance_type is theta.covariance_type
    for tensor, expected in zip(again, theta, strict=True):
        torch.testing.assert_close(tensor, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtypes_are_kept(covariance_type, dtype, make_mixture):
    theta = make_mixture(covariance_type, 3, 2).to(dtype=dtype)
    assert to_torch(theta).sample((4,)).dtype == dtype
    assert {tensor.dtype for tensor in from_torch(to_torch(theta))} == {dtype}


def test_gradients_flow_there_and_back(covariance_type, make_mixture, make_samples):
    theta, X = make_mixture(covariance_type, 2, 2), make_samples(4, 2)
    leaves = [tensor.clone().requires_grad_() for tensor in theta]
    ours = GaussianMixtureParams(*leaves, theta.covariance_type)
    expected = torch.autograd.grad(density(ours, X).sum(), leaves)
    found = torch.autograd.grad(to_torch(ours).log_prob(X).sum(), leaves)
    back = torch.autograd.grad(density(from_torch(to_torch(ours)), X).sum(), leaves)
    for name, ours_, theirs, again in zip(theta._fields, expected, found, back, strict=True):
        if name == "weights":  # torch divides weights by their sum: derivatives along the simplex
            ours_ = ours_ - ours_ @ theta.weights
        elif ours_.ndim == 3:  # a derivative in a symmetric matrix, of which torch reads a half
            ours_, theirs, again = (t + t.mT for t in (ours_, theirs, again))
        torch.testing.assert_close(theirs, ours_)
        torch.testing.assert_close(again, ours_)


@pytest.mark.parametrize(
    ("components", "name"),
    [
        (MultivariateNormal(torch.zeros(2, 3), torch.eye(3)), "tied"),
        (MultivariateNormal(torch.zeros(2, 3), torch.eye(3).repeat(2, 1, 1)), "full"),
        (MultivariateNormal(torch.zeros(2, 3), precision_matrix=torch.eye(3)), "tied"),
        (
            LowRankMultivariateNormal(torch.zeros(2, 3), LOADINGS, torch.ones(2, 3)),
            "full",
        ),
        (Independent(Normal(torch.zeros(2, 3), torch.ones(2, 3)), 1), "diag"),
        (Independent(Normal(torch.zeros(2, 3), torch.ones(2, 1)), 1), "spherical"),
        (Normal(torch.zeros(2), torch.ones(2)), "diag"),
    ],
)
def test_all_gaussians_of_torch_become_mixtures(components, name, make_samples):
    distribution = MixtureSameFamily(Categorical(torch.tensor([0.25, 0.75])), components)
    theta = from_torch(distribution)
    assert theta.covariance_type.name == name and theta.weights.tolist() == [0.25, 0.75]
    one_dimension = not distribution.event_shape
    X = make_samples(5, 1 if one_dimension else 3).float()
    expected = distribution.log_prob(X.squeeze(-1) if one_dimension else X)
    torch.testing.assert_close(density(theta, X), expected)


@pytest.mark.parametrize(
    "distribution",
    [
        MultivariateNormal(torch.ones(3), torch.eye(3)),
        Independent(Normal(torch.ones(3), torch.ones(3)), 1),
        Normal(torch.tensor(1.0), torch.tensor(2.0)),
    ],
)
def test_one_gaussian_is_a_mixture_of_one(distribution):
    theta = from_torch(distribution)
    assert theta.weights.tolist() == [1.0] and theta.means.shape[0] == 1
    torch.testing.assert_close(theta.means[0], distribution.mean.reshape(-1))


@pytest.mark.parametrize(
    ("distribution", "message"),
    [
        (MixtureSameFamily(WEIGHTS, Laplace(torch.zeros(2), torch.ones(2))), "of Laplace"),
        (Independent(Normal(torch.zeros(2, 3), torch.ones(2, 3)), 2), r"Independent\(Normal, 2\)"),
        (WEIGHTS, "Categorical"),
        ("normal", "str"),
    ],
)
def test_other_distributions_are_named(distribution, message):
    with pytest.raises(TypeError, match=f"distribution must be a Mixture.*got .*{message}"):
        from_torch(distribution)


def test_batches_are_refused():
    components = Independent(Normal(torch.zeros(5, 2, 3), torch.ones(5, 2, 3)), 1)
    batched = MixtureSameFamily(Categorical(torch.ones(5, 2)), components)
    with pytest.raises(ValueError, match="without batches"):
        from_torch(batched)
    with pytest.raises(ValueError, match=r"without batches, got batches of shape \(4,\)"):
        from_torch(MultivariateNormal(torch.zeros(4, 3), torch.eye(3)))


def test_singular_covariances_have_no_distribution(make_mixture):
    theta = make_mixture("full", 2, 2)
    with pytest.raises(ValueError, match="covariance"):
        to_torch(theta._replace(covariances=torch.zeros(2, 2, 2, dtype=torch.float64)))
