"""Factors, deviations and optimal linear maps of covariance matrices."""

import math

import numpy as np
import ot
import pytest
import torch
from sklearn.covariance import oas
from torch.testing import assert_close

from skgmmot.numerics.linalg import (
    Rescaling,
    bures_map,
    compare_bits,
    error_of_root,
    errors_of_roots,
    factor,
    inverse_factor,
    is_symmetric,
    oas_shrinkage,
    power_of_two,
    product,
    safe_sqrt,
    schur_complement,
    shrunk,
    squared_distances,
    standard_deviations,
    symmetrize,
)

F64 = torch.float64


def eye(d, scale=1.0):
    return scale * torch.eye(d, dtype=F64)


@pytest.mark.parametrize("kind", ["diagonal", "line", "plane", "zero"])
def test_factor_reproduces_regular_and_rank_deficient_covariances_of_one_batch(
    kind, make_covariances, rank_deficient
):
    S = torch.cat([make_covariances(2, 3), rank_deficient(kind)[None]])
    L = factor(S)
    assert_close(L @ L.mT, S)


def test_inverse_factor_inverts_triangular_and_symmetric_factors_of_one_batch(make_covariances):
    S = make_covariances(2, 3)
    L = torch.stack([torch.linalg.cholesky(S[0]), S[1]])
    assert_close(inverse_factor(L) @ L, eye(3).expand(2, 3, 3))


def test_inverse_factor_of_a_singular_root_is_its_pseudo_inverse(make_covariances, rank_deficient):
    L = factor(torch.cat([make_covariances(1, 3), rank_deficient("plane")[None]]))
    for batch in (L, L[1]):
        assert_close(inverse_factor(batch), torch.linalg.pinv(batch), rtol=1e-12, atol=1e-12)


def test_root_has_no_derivative_where_there_is_none():
    values = torch.tensor([4.0, 0.0, -1e-20], dtype=torch.float64, requires_grad=True)
    roots = safe_sqrt(values)
    assert_close(roots.tolist(), [2.0, 0.0, 0.0])
    assert_close(torch.autograd.grad(roots.sum(), values)[0].tolist(), [0.25, 0.0, 0.0])


def test_symmetrize_keeps_the_symmetric_part():
    A = torch.tensor([[1.0, 2.0], [4.0, 3.0]])
    assert_close(symmetrize(A), torch.tensor([[1.0, 3.0], [3.0, 3.0]]))


@pytest.mark.parametrize("d", [2, 5])
def test_bures_map_is_the_map_of_pot(d, make_covariances):
    S0, S1 = make_covariances(2, d)
    zero = np.zeros(d)
    expected, _ = ot.gaussian.bures_wasserstein_mapping(zero, zero, S0.numpy(), S1.numpy())
    assert_close(bures_map(S0, S1), torch.from_numpy(np.real(expected)))


def test_bures_map_moves_source_to_target_and_back(make_covariances):
    S0, S1 = make_covariances(2, 4)
    A = bures_map(S0, S1)
    assert_close(A, A.mT, rtol=0, atol=0)
    assert (torch.linalg.eigvalsh(A) > 0).all()
    assert_close(A @ S0 @ A, S1)
    assert_close(A @ bures_map(S1, S0), eye(4))


def test_bures_map_broadcasts(make_covariances):
    S = make_covariances(3, 2)
    maps = bures_map(S.unsqueeze(1), S)
    assert maps.shape == (3, 3, 2, 2)
    assert_close(maps[0, 2], bures_map(S[0], S[2]))


@pytest.mark.parametrize("kind", ["diagonal", "line", "plane", "zero"])
def test_bures_map_of_a_rank_deficient_source_is_the_map_of_its_range(
    kind, make_covariances, rank_deficient, pseudo_map
):
    S0, S1 = rank_deficient(kind), make_covariances(1, 3)[0]
    assert_close(bures_map(S0, S1), pseudo_map(S0, S1), rtol=1e-6, atol=1e-6)


def test_bures_map_of_rank_deficient_sources_does_not_depend_on_rounding(
    make_covariances, pseudo_map
):
    # Whether Cholesky's algorithm fails on such matrices is a matter of the last bit.
    B = 0.2 * torch.randn(50, 3, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    B += torch.eye(3, 2, dtype=F64)
    S0, S1 = B @ B.mT, make_covariances(1, 3)[0]
    assert len(torch.linalg.cholesky_ex(S0).info.unique()) == 2
    expected = torch.stack([pseudo_map(S, S1) for S in S0])
    assert_close(bures_map(S0, S1.expand_as(S0)), expected, rtol=1e-5, atol=1e-5)


def test_standard_deviations_are_roots_of_eigenvalues_with_their_gradient(make_covariances):
    S = make_covariances(3, 4)
    expected = torch.linalg.eigvalsh(S).sqrt().flip(-1)
    assert_close(standard_deviations(S), expected)
    assert torch.autograd.gradcheck(
        lambda t: standard_deviations(symmetrize(t)), S.clone().requires_grad_()
    )


def test_the_gradient_of_deviations_is_finite_at_equal_and_at_zero_eigenvalues(rank_deficient):
    for S in (eye(3)[None], rank_deficient("plane")[None], torch.zeros(1, 3, 3, dtype=F64)):
        S = S.clone().requires_grad_()
        standard_deviations(S).square().sum().backward()
        assert torch.isfinite(S.grad).all()
    S = eye(3, 4.0)[None].requires_grad_()
    standard_deviations(S).sum().backward()
    assert_close(S.grad[0], eye(3, 0.25))


def test_squared_distances_do_not_cancel():
    x = torch.tensor([[1e8, 0.0], [1e8 + 1, 1.0]], dtype=F64)
    assert_close(squared_distances(x, x), torch.tensor([[0.0, 2.0], [2.0, 0.0]], dtype=F64))
    x.requires_grad_()
    squared_distances(x, x.detach()).sum().backward()
    assert_close(x.grad, torch.tensor([[-2.0, -2.0], [2.0, 2.0]], dtype=F64))


def test_sequences_of_tensors_are_ordered_by_the_first_pair_that_differs():
    a, b, long = (torch.tensor(v) for v in ([1.0, 2.0], [1.0, 3.0], [0.0, 0.0, 0.0]))
    assert compare_bits([a, a], [a.clone(), a]) == 0
    for left, right in (([a], [b]), ([a], [long]), ([a, a], [a, b]), ([-a], [a])):
        assert compare_bits(left, right) == -compare_bits(right, left) != 0


@pytest.mark.parametrize("n", [5, 20, 300])
@pytest.mark.parametrize("d", [2, 8, 30])
def test_the_share_to_shrink_is_that_of_scikit_learn(n, d, rng):
    X = rng.normal(size=(n, d)) * np.linspace(1, 9, d)
    X -= X.mean(0)
    covariance = torch.from_numpy(X.T @ X / n)[None]
    expected, share = oas(X, assume_centered=True)
    found = oas_shrinkage(covariance, torch.tensor([float(n)]))
    assert_close(found.item(), share)
    assert_close(shrunk(covariance, found)[0], torch.from_numpy(expected))


def test_shrinking_keeps_the_trace_and_ends_at_a_sphere(make_covariances):
    S, share = make_covariances(3, 4), torch.tensor([0.0, 0.3, 1.0], dtype=F64)
    found = shrunk(S, share)
    assert_close(found[0], S[0])
    assert_close(found.diagonal(dim1=1, dim2=2).sum(1), S.diagonal(dim1=1, dim2=2).sum(1))
    assert_close(found[2], eye(4, S[2].trace() / 4))
    assert oas_shrinkage(found[2:], torch.tensor([1e6])).item() == 1  # spheres stay spheres


@pytest.mark.parametrize("scale", [1e-300, 1e-100, 1e200, 1e300])
def test_the_share_to_shrink_does_not_depend_on_the_units(scale):
    X = np.random.default_rng(0).normal(size=(12, 4))
    covariance, n = torch.from_numpy(np.cov(X.T))[None], torch.tensor([12.0])
    share = oas_shrinkage(covariance, n)
    assert share.item() == pytest.approx(0.8066, abs=1e-4)
    assert oas_shrinkage(scale * covariance, n).item() == pytest.approx(share.item(), rel=1e-12)


def test_points_are_rescaled_by_a_power_of_two_about_their_median_and_back():
    X = torch.tensor([[1.0, 5.0], [2.0, 5.5], [9.0, 4.0]], dtype=F64)
    scaling = Rescaling.of(X)
    assert_close(scaling.origin, torch.tensor([2.0, 5.0], dtype=F64))
    assert scaling.unit == 4.0  # the largest difference is 7
    assert_close(scaling.apply(X), (X - scaling.origin) / 4, rtol=0, atol=0)
    assert_close(scaling.invert(scaling.apply(X)), X, rtol=0, atol=0)
    assert Rescaling.of(X, 100.0).unit == 64.0
    assert Rescaling.of(X, 1e-3).unit == 4.0
    assert Rescaling.of(X[:1]).unit == 1.0


@pytest.mark.parametrize(
    ("size", "power"),
    [(0.0, 1.0), (1.0, 1.0), (1.99, 1.0), (2.0, 2.0), (0.3, 0.25), (1e-300, 2.0**-997)],
)
def test_the_power_of_two_is_the_largest_below_a_size(size, power):
    assert power_of_two(size) == power


@pytest.mark.parametrize(
    "left, right", [((4,), (4,)), ((1,), (4,)), ((4,), (1,)), ((2, 4), (4,)), ((), ())]
)
def test_products_are_those_of_matmul(left, right, rng):
    left, right = (
        torch.tensor(rng.normal(size=(*b, *s))) for b, s in ((left, (2, 3)), (right, (3, 5)))
    )
    assert_close(product(left, right), left @ right, rtol=1e-14, atol=1e-14)


def test_schur_complements_are_positive_semi_definite_despite_rounding(make_samples):
    B = make_samples(4, 2)
    scale = torch.logspace(-6, 6, 4, dtype=torch.float64)
    half = B * scale.unsqueeze(1)
    block = half @ half.mT
    found = schur_complement(block, half)
    assert not found.any()
    left = torch.diag(scale.square())
    assert_close(schur_complement(block + left, half) / left.diagonal(), torch.eye(4).to(left))


def test_schur_complements_are_differentiable(make_covariances, make_samples):
    block, half = make_covariances(2, 3), 0.1 * make_samples(6, 2).view(2, 3, 2)

    def of_symmetric(block, half):
        return schur_complement((block + block.mT) / 2, half)

    inputs = block.requires_grad_(), half.requires_grad_()
    assert torch.autograd.gradcheck(of_symmetric, inputs)


def test_roots_of_powers():
    assert error_of_root(8.0, 19.0, 3.0) == pytest.approx(2.0)  # 8 may be 0
    assert error_of_root(8.0, 1e-12, 3.0) == pytest.approx(1e-12 / 12)
    assert error_of_root(0.0, 8.0, 3.0) == 2.0 and error_of_root(1.0, 0.0, 2.0) == 0.0
    assert error_of_root(2.0, math.inf) == math.inf == error_of_root(2.0, math.inf, 3.0)


def test_errors_of_roots_are_the_larger_change():
    assert error_of_root(4.0, 0.0) == 0
    assert error_of_root(0.0, 4.0) == 2  # true numbers are not negative
    assert error_of_root(4.0, 3.0) == 1  # the root of one
    assert error_of_root(1.0, 8.0) == 2  # the root of nine
    assert math.isclose(error_of_root(4.0, 1e-20), 1e-20 / 4)  # without cancellation
    assert math.isnan(error_of_root(4.0, math.nan))
    together = errors_of_roots(torch.tensor([[4.0, -1e-9]]), torch.tensor([[3.0, 4.0]]))
    assert together.tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor])
def test_symmetry_is_to_the_last_bit(kind):
    matrices = np.array([np.eye(2), [[1.0, 0.3], [0.3, 2.0]]])
    assert is_symmetric(kind(matrices)) is True
    matrices[1, 0, 1] = np.nextafter(0.3, 1)
    assert is_symmetric(kind(matrices)) is False
