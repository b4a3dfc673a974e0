"""A mixture, samples and weights for derivatives of EM."""

import pytest

from skgmmot.gaussian.covariance.registry import ELEMENTARY_TYPES


@pytest.fixture(params=[t.name for t in ELEMENTARY_TYPES])
def theta(request, make_mixture):
    """Four overlapping components in three dimensions."""
    return make_mixture(request.param, 4, 3)


@pytest.fixture(params=["weighted", "plain"])
def a(request, make_samples):
    return make_samples(50, 1, seed=1).squeeze(1).exp() if request.param == "weighted" else None


@pytest.fixture
def X(make_samples):
    return 2 * make_samples(50, 3)
