"""A mixture of three components in the plane, with sixty samples and their weights."""

import pytest

from skgmmot.gaussian.covariance.registry import ELEMENTARY_TYPES


@pytest.fixture(params=[t.name for t in ELEMENTARY_TYPES])
def theta(request, make_mixture):
    """A mixture of each covariance type."""
    return make_mixture(request.param, 3, 2)


@pytest.fixture
def X(make_samples, theta):
    """Samples near the components, spread wider than they are."""
    return 1.5 * make_samples(60, 2) + theta.means.repeat(20, 1)


@pytest.fixture(params=["unweighted", "weighted"])
def a(request, make_samples):
    """Sample weights, or none."""
    return None if request.param == "unweighted" else make_samples(60, 1, seed=9).exp().squeeze(1)
