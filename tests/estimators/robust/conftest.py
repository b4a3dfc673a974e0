"""Samples with heavy tails, and the fit to them."""

import pytest
from heavy_tails import drawn

from skgmmot import StudentMixture


@pytest.fixture(scope="module")
def X():
    return drawn(0)


@pytest.fixture(scope="module")
def fitted(X):
    return StudentMixture(2, random_state=0).fit(X)
