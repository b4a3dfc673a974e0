"""Batches of samples of two clouds in the plane."""

import pytest
import torch


@pytest.fixture
def batch(make_batch):
    """Two clouds in the plane."""
    return make_batch(60)


@pytest.fixture
def make_batch():
    """Batches of samples of the same two clouds."""

    def make(n, seed=0, dtype=torch.float64):
        generator = torch.Generator().manual_seed(seed)
        X = torch.randn(n, 2, dtype=torch.float64, generator=generator)
        X[::2] = X[::2] * torch.tensor([1.0, 0.4]) + torch.tensor([4.0, 1.0])
        return X.to(dtype)

    return make
