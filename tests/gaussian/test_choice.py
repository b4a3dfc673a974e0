"""Densities of many samples by matrix products."""

import pytest
import torch
from torch.testing import assert_close

from skgmmot.gaussian.choice import ProductMixture, for_many
from skgmmot.gaussian.covariance.registry import COVARIANCE_TYPES
from skgmmot.gaussian.log_density import log_density, log_joint, log_responsibilities
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.gaussian.products import FeatureEStep, WhiteningEStep

F64 = torch.float64


def mixture(covariance_type, K=4, d=3, offset=0.0):
    """A mixture of unequal weights and scales."""
    A = torch.randn(K, d, d, dtype=F64)
    covariances = A @ A.mT / d + 0.3 * torch.eye(d, dtype=F64)
    storage = {
        "full": covariances,
        "tied": covariances[:1],
        "diag": covariances.diagonal(dim1=1, dim2=2),
        "spherical": covariances[:, 0, :1],
    }[covariance_type]
    assert storage.shape == COVARIANCE_TYPES[covariance_type].shape(K, d)
    means = torch.randn(K, d, dtype=F64) + offset
    return GaussianMixtureParams(torch.arange(1, K + 1).to(F64) / (K * (K + 1) / 2), means, storage)


@pytest.mark.parametrize("d, step", [(3, FeatureEStep), (40, WhiteningEStep)])
@pytest.mark.parametrize("dtype, tolerance", [(F64, 1e-11), (torch.float32, 1e-4)])
def test_products_give_the_log_joint_of_the_definition(covariance_type, d, step, dtype, tolerance):
    theta = mixture(covariance_type, d=d, offset=5.0)
    X = 5 + torch.randn(2000, d, dtype=F64)
    fast = for_many(GaussianMixtureParams(*(t.to(dtype) for t in theta)).prepare(), len(X))
    assert isinstance(fast, ProductMixture)
    assert type(fast.step) is (step if covariance_type == "full" else FeatureEStep)
    found = log_joint(fast, X.to(dtype))
    assert found.dtype == fast.dtype
    assert_close(found.double(), log_joint(theta.prepare(), X), rtol=tolerance, atol=tolerance)


def test_few_samples_or_narrow_components_keep_the_definition(covariance_type):
    prepared = mixture(covariance_type).prepare()
    assert for_many(prepared, 10) is prepared
    narrow = prepared._replace(factors=1e8 * prepared.factors)
    assert for_many(narrow, 2000) is narrow


def test_samples_whose_squares_overflow_are_treated_as_by_the_definition(covariance_type):
    theta = mixture(covariance_type)
    X = torch.randn(2000, 3, dtype=F64)
    X[7] = torch.tensor([1e200, -1e200, 1e180], dtype=F64)
    fast, slow = for_many(theta.prepare(), len(X)), theta.prepare()
    assert_close(log_density(fast, X), log_density(slow, X))
    assert log_density(fast, X)[7] == -torch.inf
    assert_close(log_responsibilities(fast, X), log_responsibilities(slow, X))


@pytest.mark.parametrize("d", [3, 40])
def test_components_without_weight_have_no_density(covariance_type, d):
    theta = mixture(covariance_type, d=d)
    theta = theta._replace(weights=torch.tensor([0.0, 0.5, 0.2, 0.3], dtype=F64))
    X = torch.randn(2000, d, dtype=F64)
    fast = for_many(theta.prepare(), len(X))
    assert (log_joint(fast, X)[0] == -torch.inf).all()
    assert_close(log_density(fast, X), log_density(theta, X), rtol=1e-11, atol=1e-11)
