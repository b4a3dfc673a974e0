"""The closed form of the Bures distance in the plane, against decompositions."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from skgmmot.gaussian.bures.plane import bures_squared_in_the_plane
from skgmmot.numerics.linalg import bures_map


def covariances(rng, n, condition=1.0):
    """Covariances of two features, whose deviations are in the ratio ``condition``."""
    A = rng.normal(size=(n, 2, 2))
    Q, _ = np.linalg.qr(A)
    return torch.tensor(Q * [1, condition**-2]) @ torch.tensor(Q).mT


def maps(source, target):
    """The optimal maps of all pairs ``(K, L, 2, 2)``."""
    return bures_map(source.unsqueeze(1), target)


@pytest.mark.parametrize("condition", [1.5, 1e3, 1e6])
def test_values_and_gradients_are_those_of_the_singular_value_decomposition(condition, rng):
    source, target = covariances(rng, 3, condition), covariances(rng, 4, condition)
    leaves = [S.clone().requires_grad_() for S in (source, target)]
    squared = bures_squared_in_the_plane(*leaves)
    products = torch.linalg.cholesky(source).mT.unsqueeze(1) @ torch.linalg.cholesky(target)
    traces = torch.einsum("kii->k", source).unsqueeze(1) + torch.einsum("kii->k", target)
    assert_close(
        squared, traces - 2 * torch.linalg.svdvals(products).sum(-1), rtol=1e-12, atol=1e-14
    )
    shares = torch.tensor(rng.random((3, 4)))
    found = torch.autograd.grad((shares * squared).sum(), leaves)
    identity = torch.eye(2, dtype=torch.float64)
    expected = (
        torch.einsum("kl,klij->kij", shares, identity - maps(source, target)),
        torch.einsum("kl,lkij->lij", shares, identity - maps(target, source)),
    )
    assert_close(found, expected, rtol=1e-14 * condition**2 + 1e-12, atol=1e-12)


def test_close_matrices_have_distances_of_all_digits():
    source = torch.tensor([[[2.0, 0.5], [0.5, 1.0]]], dtype=torch.float64)
    for step in (1e-3, 1e-6, 1e-9):
        scaled = source * (1 + step) ** 2  # B(S, t^2 S)^2 = (t - 1)^2 tr S
        (squared,) = bures_squared_in_the_plane(source, scaled)
        assert float(squared) == pytest.approx(3 * step**2, rel=1e-15 / step + 1e-12, abs=0)
    assert bures_squared_in_the_plane(source, source.clone()) == 0


def test_blocks_change_nothing(rng, monkeypatch):
    source, target = covariances(rng, 7, 2.0), covariances(rng, 5, 3.0)
    whole = bures_squared_in_the_plane(source, target)
    monkeypatch.setattr("skgmmot.gaussian.bures.plane.BLOCK_SIZE", 10)
    assert torch.equal(bures_squared_in_the_plane(source, target), whole)


@pytest.mark.parametrize(
    "singular", [[[1.0, 1.0], [1.0, 1.0]], [[0.0, 0.0], [0.0, 1.0]], [[1.0, 1e-3], [1e-3, 1e-6]]]
)
def test_singular_matrices_are_left_to_decompositions(singular, rng):
    singular = torch.tensor([singular], dtype=torch.float64)
    assert bures_squared_in_the_plane(covariances(rng, 2, 2.0), singular) is None
