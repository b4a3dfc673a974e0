"""Decompositions of products of factors: sums of singular values, and slopes of distances."""

import pytest
import torch
from torch.testing import assert_close

from skgmmot.gaussian.bures import decomposition
from skgmmot.gaussian.bures.decomposition import (
    add_slopes,
    block_length,
    deviations,
    is_deficient,
    nuclear_norms,
)
from skgmmot.numerics.linalg import bures_map, factor

F64 = torch.float64


def conditioned(K, d, condition, seed):
    """Covariances of a condition number, in random axes."""
    generator = torch.Generator().manual_seed(seed)
    axes = torch.linalg.qr(torch.randn(K, d, d, dtype=F64, generator=generator)).Q
    variances = torch.logspace(0, -torch.log10(torch.tensor(condition)), d, dtype=F64)
    S = axes * variances @ axes.mT
    return (S + S.mT) / 2


def traces(*covariances):
    """Sums of traces."""
    return sum(S.diagonal(dim1=-2, dim2=-1).sum(-1) for S in covariances)


@pytest.mark.parametrize("unit", [1.0, 1e-140, 1e140])
@pytest.mark.parametrize("condition", [1.0, 1e3, 1e7])
@pytest.mark.parametrize("d", [1, 2, 5])
def test_norms_are_sums_of_singular_values_whatever_the_condition(d, condition, unit):
    S0, S1 = (unit * conditioned(4, d, condition, seed) for seed in (0, 1))
    S1[0] = S1[0] @ S1[0] / unit  # twice as ill-conditioned as the others
    L0, L1 = factor(S0), factor(S1)
    expected = torch.linalg.svdvals(L0.mT @ L1).sum(-1)
    assert_close(nuclear_norms(L0.mT @ L1, traces(S0, S1)), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [F64, torch.float32])
@pytest.mark.parametrize("condition", [1.0, 1e2, 1e9])
def test_deviations_are_roots_of_eigenvalues_whatever_the_condition(condition, dtype):
    S = conditioned(3, 4, condition, 5).to(dtype)
    expected = torch.logspace(0, -torch.log10(torch.tensor(condition)) / 2, 4, dtype=F64)
    found = deviations(S.requires_grad_(), factor(S))
    assert found.dtype == dtype and not found.requires_grad
    tolerance = 100 * condition**0.5 * torch.finfo(dtype).eps
    assert_close(found.double(), expected.expand(3, 4), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_slopes_are_maps_whether_by_eigenvectors_or_by_singular_vectors(dtype, monkeypatch):
    monkeypatch.setattr(decomposition, "BLOCK_SIZE", 100)  # several blocks
    S = [conditioned(3, 4, condition, 2).to(dtype) for condition in (10.0, 1e2)]
    S[0][1] = conditioned(1, 4, 1e6, 3)[0]  # for singular vectors
    pairs = torch.tensor([0, 1, 2, 2, 1, 0, 0, 2]), torch.tensor([0, 1, 2, 0, 0, 1, 2, 1])
    weights = torch.linspace(0.5, 2.0, 8, dtype=dtype)
    found = [torch.zeros_like(side) for side in S]
    add_slopes(tuple(found), tuple(factor(side) for side in S), pairs, weights)
    expected = [torch.zeros_like(side) for side in S]
    eye = torch.eye(4, dtype=dtype)
    for k, l, weight in zip(*pairs, weights, strict=True):
        expected[0][k] += weight * (eye - bures_map(S[0][k], S[1][l]))
        expected[1][l] += weight * (eye - bures_map(S[1][l], S[0][k]))
    rtol = 1e-9 if dtype == F64 else 2e-2  # 1e6 times epsilon
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other, rtol=rtol, atol=rtol)


def test_slopes_of_deficient_covariances_are_added_as_often_as_their_weights_say():
    S = conditioned(2, 3, 10.0, 0)
    S[1] = torch.tensor([[4.0, 2.0, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    L, pairs = factor(S), (torch.tensor([1, 1]), torch.tensor([0, 1]))
    one, weighted = torch.zeros_like(S), torch.zeros_like(S)
    add_slopes((one, None), (L, L), pairs, torch.ones(2, dtype=F64))
    add_slopes((weighted, None), (L, L), pairs, torch.full((2,), 3.0, dtype=F64))
    assert_close(weighted, 3 * one)
    assert is_deficient(L)[1] and one[1].abs().max() > 0.1


def test_well_conditioned_pairs_take_no_singular_vectors(monkeypatch):
    monkeypatch.setattr(decomposition, "_add_by_singular_vectors", None)
    L, index = factor(conditioned(2, 3, 10.0, 0)), torch.arange(2)
    found = torch.zeros(2, 3, 3, dtype=F64)
    add_slopes((found, None), (L, L), (index, index), torch.ones(2, dtype=F64))
    assert_close(found, torch.zeros_like(found))


def test_slopes_are_added_only_where_they_are_needed():
    S = conditioned(2, 3, 10.0, 0)
    L, index, found = factor(S), torch.arange(2), torch.zeros_like(S)
    add_slopes((None, found), (L, L.flip(0)), (index, index), torch.ones(2, dtype=F64))
    expected = torch.eye(3, dtype=F64) - bures_map(S.flip(0), S)
    assert_close(found, expected)


def test_only_symmetric_roots_are_deficient():
    S = conditioned(2, 3, 10.0, 0)
    S[1] = torch.ones(3, 3)
    assert is_deficient(factor(S)).tolist() == [False, True]


def test_a_block_has_at_least_one_pair():
    assert block_length(4) == 2**13
    assert block_length(10_000) == 1
