"""Fixtures: seeds, small data sets, and the kinds of array that users hand in."""

import numpy as np
import pandas as pd
import pytest
import torch


@pytest.fixture
def rng():
    """A generator, the same for every test."""
    return np.random.default_rng(0)


@pytest.fixture(autouse=True)
def torch_seed():
    """Seed torch before each test."""
    torch.manual_seed(0)


@pytest.fixture
def blobs(rng):
    """Four overlapping clouds of 150 samples in three dimensions."""
    centres = 3 * rng.normal(size=(4, 3))
    return np.vstack([c + rng.normal(size=(150, 3)) @ rng.normal(size=(3, 3)) for c in centres])


ARRAY_KINDS = {
    "list": np.ndarray.tolist,
    "numpy": np.asarray,
    "fortran": np.asfortranarray,
    "read-only": lambda X: np.frombuffer(X.tobytes()).reshape(X.shape),
    "pandas": lambda X: pd.DataFrame(X, columns=[f"x{i}" for i in range(X.shape[1])]),
    "torch": torch.tensor,
}


@pytest.fixture(params=ARRAY_KINDS)
def array_kind(request):
    """A function from a float64 numpy array to one kind of array."""
    return ARRAY_KINDS[request.param]


COVARIANCE_TYPES = ["full", "tied", "diag", "spherical"]


@pytest.fixture(params=COVARIANCE_TYPES)
def covariance_type(request):
    """Each of the four names."""
    return request.param
