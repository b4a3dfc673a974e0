"""Random covariances, mixtures and samples in float64, each made from a seed."""

import pytest
import torch

from skgmmot.functional.mixture import GaussianMixtureParams


def _normal(*shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


@pytest.fixture
def make_samples():
    """Standard normal samples ``(n, d)``."""
    return lambda n, d, seed=0: _normal(n, d, seed=seed)


@pytest.fixture
def make_covariances():
    """Well-conditioned covariances ``(K, d, d)``."""

    def make(K, d, seed=0):
        B = _normal(K, d, d, seed=seed)
        return B @ B.mT / d + 0.3 * torch.eye(d, dtype=torch.float64)

    return make


@pytest.fixture
def make_mixture(make_covariances):
    """A mixture of a covariance type, given by its name."""

    def make(name, K, d, seed=0, spread=2.0):
        weights = _normal(K, seed=seed + 1000).mul(0.5).softmax(0)
        means = spread * _normal(K, d, seed=seed + 2000)
        full = make_covariances(K, d, seed=seed + 3000)
        variances = full.diagonal(dim1=-2, dim2=-1)
        storage = {
            "full": full,
            "tied": full[:1],
            "diag": variances,
            "spherical": variances.mean(-1, keepdim=True),
        }
        return GaussianMixtureParams(weights, means, storage[name].clone())

    return make
