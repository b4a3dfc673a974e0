"""Distances and maps between covariances of low rank are those of matrices."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from skgmmot.gaussian.bures.distance import bures_squared
from skgmmot.gaussian.bures.low_rank import (
    bures_squared_of_factors,
    is_dense,
    optimal_map,
    root_quadrature,
)

F64 = torch.float64


def factors(K, d, r, seed=0, size=1.0, decades=0.0):
    """Random factors and variances that spread over some decades."""
    generator = torch.Generator().manual_seed(seed)
    F = size * torch.randn(K, d, r, dtype=F64, generator=generator)
    return F, 10 ** (-decades * torch.rand(K, d, dtype=F64, generator=generator))


def matrices(given):
    """The covariances."""
    F, psi = given
    return F @ F.mT + torch.diag_embed(psi)


@pytest.mark.parametrize("low", [1.0, 0.9, 1e-2, 1e-8, 1e-16, 1e-30])
def test_the_quadrature_is_the_root_on_its_range(low):
    nodes, weights = root_quadrature(low, 1.0)
    x = np.geomspace(low, 1.0, 200)
    found = (weights * x[:, None] / (x[:, None] + nodes)).sum(1)
    np.testing.assert_allclose(found, np.sqrt(x), rtol=2e-14)


CASES = [
    (2, 1, 1, 1.0, 0.0),
    (12, 2, 0, 1.0, 1.0),
    (15, 4, 3, 30.0, 2.0),
    (20, 3, 5, 1.0, 6.0),
    (8, 8, 9, 1.0, 1.0),
]


@pytest.mark.parametrize(("d", "r0", "r1", "size", "decades"), CASES)
def test_distances_are_those_of_matrices(d, r0, r1, size, decades):
    source = factors(2, d, r0, 1, size, decades)
    target = factors(3, d, r1, 2, size, decades)
    found = bures_squared_of_factors(source, target)
    assert_close(found, bures_squared(matrices(source), matrices(target)), rtol=1e-11, atol=1e-12)
    assert_close(bures_squared_of_factors(target, source), found.mT, rtol=1e-11, atol=1e-12)
    assert (bures_squared_of_factors(source, source).diagonal() == 0).all()


@pytest.mark.parametrize(("d", "r0", "r1", "size", "decades"), CASES)
def test_the_map_carries_one_covariance_to_the_other(d, r0, r1, size, decades):
    source, target = (
        tuple(t[0] for t in factors(1, d, r, seed, size, decades)) for r, seed in ((r0, 3), (r1, 4))
    )
    S0, S1 = matrices(source), matrices(target)
    for A in (optimal_map(source, target), optimal_map(source, target).compressed()):
        matrix = A.apply(torch.eye(d, dtype=F64))
        assert_close(matrix, matrix.mT, rtol=1e-10, atol=1e-10)
        assert_close(matrix @ S0 @ matrix, S1, rtol=1e-9, atol=1e-10 * float(S1.max()))
        assert (torch.linalg.eigvalsh((matrix + matrix.mT) / 2) > 0).all()
        assert_close(A.diagonals(), matrix.diagonal())
    assert A.left.shape[1] <= d


def test_distances_do_not_depend_on_the_rotation_and_scale_with_the_unit():
    source, target = factors(2, 10, 3, 1), factors(2, 10, 2, 2)
    found = bures_squared_of_factors(source, target)
    Q = torch.linalg.qr(factors(1, 3, 3)[0]).Q
    turned = source[0] @ Q, source[1]
    assert_close(bures_squared_of_factors(turned, target), found)
    scaled = [(1e6 * F, 1e12 * psi) for F, psi in (source, target)]
    assert_close(bures_squared_of_factors(*scaled), 1e12 * found)


def test_distances_are_differentiable():
    inputs = [*factors(2, 4, 2, 1), *factors(2, 4, 1, 2)]
    inputs = [t.requires_grad_() for t in inputs]
    assert torch.autograd.gradcheck(lambda *t: bures_squared_of_factors(t[:2], t[2:]), inputs)


def test_nothing_has_as_many_numbers_as_a_matrix():
    d = 30_000  # 7 GB
    source, target = factors(1, d, 1, 1), factors(1, d, 1, 2)
    found = bures_squared_of_factors(source, target)
    traces = sum(F.square().sum() + psi.sum() for F, psi in (source, target))
    assert 0 < float(found) < float(traces)


def test_matrices_are_for_few_features_and_high_ranks():
    assert is_dense(50, 1)
    assert is_dense(1000, 600)
    assert not is_dense(1000, 20)
