"""Covariance types of sliced mixtures."""

import pytest


@pytest.fixture(params=["full", "tied", "diag", "spherical"])
def name(request):
    return request.param
