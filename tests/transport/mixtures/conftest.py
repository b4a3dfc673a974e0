"""Covariance types, and two mixtures."""

import pytest

from skgmmot.gaussian.covariance.registry import ELEMENTARY_TYPES


@pytest.fixture(params=[t.name for t in ELEMENTARY_TYPES])
def name(request):
    """A covariance type's name."""
    return request.param


@pytest.fixture
def pair(make_mixture):
    """Two mixtures of full covariances, of three and four components in two dimensions."""
    return make_mixture("full", 3, 2, seed=1), make_mixture("full", 4, 2, seed=2)
