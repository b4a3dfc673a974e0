"""Square roots, Bures distances and optimal linear maps of covariance matrices."""

import numpy as np
import ot
import pytest
import scipy.linalg
import torch
from torch.testing import assert_close

from skgmmot.functional.linalg import (
    bures_map,
    bures_squared,
    factor,
    inverse_factor,
    root,
    symmetrize,
)

F64 = torch.float64


def eye(d, scale=1.0):
    return scale * torch.eye(d, dtype=F64)


def rank_deficient(kind):
    """A covariance of rank lower than its size."""
    generator = torch.Generator().manual_seed(5)
    if kind == "diagonal":
        return torch.diag(torch.tensor([2.0, 0.0, 1.0], dtype=F64))
    if kind == "zero":
        return torch.zeros(3, 3, dtype=F64)
    B = torch.randn(3, 1 if kind == "line" else 2, dtype=F64, generator=generator)
    return B @ B.mT


def pseudo_map(source, target):
    """The optimal map by eigenvalues, with pseudo-inverses."""
    values, vectors = np.linalg.eigh(source.numpy())
    kept = values > 1e-8
    roots = np.sqrt(values[kept])
    V = vectors[:, kept]
    root, inverse = (V * roots) @ V.T, (V / roots) @ V.T
    values, vectors = np.linalg.eigh(root @ target.numpy() @ root)
    middle = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    return torch.from_numpy(inverse @ middle @ inverse)


def scipy_bures(source, target):
    root = scipy.linalg.sqrtm(source.numpy())
    middle = scipy.linalg.sqrtm(root @ target.numpy() @ root)
    return float(np.trace(source.numpy() + target.numpy() - 2 * np.real(middle)))


# --- closed forms ------------------------------------------------------------------------------


@pytest.mark.parametrize(("s0", "s1"), [(1.0, 1.0), (4.0, 1.0), (1e-6, 9.0), (1e8, 1.0)])
def test_bures_distance_in_one_dimension_is_that_of_standard_deviations(s0, s1):
    S0, S1 = eye(1, s0).unsqueeze(0), eye(1, s1).unsqueeze(0)
    expected = torch.tensor([[(s0**0.5 - s1**0.5) ** 2]], dtype=F64)
    assert_close(bures_squared(S0, S1), expected)
    assert_close(bures_map(S0, S1), torch.full((1, 1, 1), (s1 / s0) ** 0.5, dtype=F64))


def test_bures_distance_of_diagonal_matrices_is_that_of_standard_deviations():
    s0, s1 = torch.tensor([[1.0, 4.0, 9.0], [0.1, 5.0, 2.0]], dtype=F64)
    S0, S1 = torch.diag(s0), torch.diag(s1)
    expected = (s0.sqrt() - s1.sqrt()).square().sum()
    assert_close(bures_squared(S0[None], S1[None])[0, 0], expected)
    assert_close(bures_map(S0, S1), torch.diag((s1 / s0).sqrt()))


@pytest.mark.parametrize("kind", ["diagonal", "line", "plane", "zero"])
def test_factor_reproduces_regular_and_rank_deficient_covariances_of_one_batch(
    kind, make_covariances
):
    S = torch.cat([make_covariances(2, 3), rank_deficient(kind)[None]])
    L = factor(S)
    assert_close(L @ L.mT, S)


def test_inverse_factor_inverts_triangular_and_symmetric_factors_of_one_batch(make_covariances):
    S = make_covariances(2, 3)
    L = torch.stack([torch.linalg.cholesky(S[0]), S[1]])
    assert_close(inverse_factor(L) @ L, eye(3).expand(2, 3, 3))


def test_root_has_no_derivative_where_there_is_none():
    values = torch.tensor([4.0, 0.0, -1e-20], dtype=torch.float64, requires_grad=True)
    roots = root(values)
    assert_close(roots.tolist(), [2.0, 0.0, 0.0])
    assert_close(torch.autograd.grad(roots.sum(), values)[0].tolist(), [0.25, 0.0, 0.0])


def test_symmetrize_keeps_the_symmetric_part():
    A = torch.tensor([[1.0, 2.0], [4.0, 3.0]])
    assert_close(symmetrize(A), torch.tensor([[1.0, 3.0], [3.0, 3.0]]))


# --- peers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [2, 5])
def test_bures_distances_are_those_of_scipy_square_roots(d, make_covariances):
    source, target = make_covariances(3, d, seed=1), make_covariances(4, d, seed=2)
    expected = [[scipy_bures(S0, S1) for S1 in target] for S0 in source]
    assert_close(bures_squared(source, target), torch.tensor(expected, dtype=F64))


@pytest.mark.parametrize("d", [2, 5])
def test_bures_map_is_the_map_of_pot(d, make_covariances):
    S0, S1 = make_covariances(2, d)
    zero = np.zeros(d)
    expected, _ = ot.gaussian.bures_wasserstein_mapping(zero, zero, S0.numpy(), S1.numpy())
    assert_close(bures_map(S0, S1), torch.from_numpy(np.real(expected)))


# --- derivatives -------------------------------------------------------------------------------


def test_bures_distance_passes_gradcheck(make_covariances):
    source, target = make_covariances(2, 3, seed=1), make_covariances(1, 3, seed=2)

    def distances(S0, S1):
        return bures_squared(symmetrize(S0), symmetrize(S1))

    assert torch.autograd.gradcheck(distances, (source.requires_grad_(), target.requires_grad_()))


@pytest.mark.parametrize(("s0", "s1"), [(1.0, 1.0), (2.0, 0.5)])
def test_bures_gradient_is_exact_at_equal_eigenvalues(s0, s1):
    S0, S1 = eye(4, s0).unsqueeze(0).requires_grad_(), eye(4, s1).unsqueeze(0).requires_grad_()
    bures_squared(S0, S1).sum().backward()
    assert_close(S0.grad[0], eye(4, 1 - (s1 / s0) ** 0.5))
    assert_close(S1.grad[0], eye(4, 1 - (s0 / s1) ** 0.5))


def test_bures_gradient_sums_only_over_pairs_that_matter(make_covariances):
    S0 = make_covariances(2, 3, seed=1).requires_grad_()
    S1 = make_covariances(3, 3, seed=2)
    cotangent = torch.tensor([[0.0, 0.7, 0.0], [0.0, 0.0, 0.0]], dtype=F64)
    (gradient,) = torch.autograd.grad(bures_squared(S0, S1), S0, cotangent)
    assert_close(gradient[0], 0.7 * (eye(3) - bures_map(S0[0], S1[1])))
    assert_close(gradient[1], torch.zeros(3, 3, dtype=F64))


def test_bures_gradient_of_a_zero_cotangent_is_zero(make_covariances):
    S = make_covariances(2, 3).requires_grad_()
    (gradient,) = torch.autograd.grad(0 * bures_squared(S, S.detach()).sum(), S)
    assert_close(gradient, torch.zeros_like(S), rtol=0, atol=0)


def test_bures_distance_refuses_a_second_derivative(make_covariances):
    S0, S1 = (S.requires_grad_() for S in make_covariances(2, 3).unsqueeze(1))
    loss = bures_squared(S0, S1).square().sum()
    (gradient,) = torch.autograd.grad(loss, S0, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


# --- invariances -------------------------------------------------------------------------------


def test_bures_distance_is_symmetric_and_satisfies_the_triangle_inequality(make_covariances):
    S = make_covariances(6, 3)
    B = bures_squared(S, S)
    assert_close(B, B.mT)
    distance = B.sqrt()
    assert (distance.unsqueeze(1) <= distance.unsqueeze(2) + distance + 1e-12).all()


def test_bures_distance_ignores_rotations_and_follows_scale(make_covariances):
    S0, S1 = make_covariances(2, 4).unsqueeze(1)
    Q = torch.linalg.qr(make_covariances(1, 4, seed=9)[0]).Q
    assert_close(bures_squared(Q @ S0 @ Q.mT, Q @ S1 @ Q.mT), bures_squared(S0, S1))
    scaled = bures_squared(1e-8 * S0, 1e-8 * S1)
    assert_close(scaled, 1e-8 * bures_squared(S0, S1), rtol=1e-9, atol=0)


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


# --- edges -------------------------------------------------------------------------------------


@pytest.mark.parametrize("smallest", [1.0, 1e-4, 1e-8, 1e-12])
def test_bures_distance_is_zero_on_equal_matrices(smallest, make_covariances):
    Q = torch.linalg.qr(make_covariances(1, 3)[0]).Q
    S = (Q * torch.tensor([1.0, 1.0, smallest], dtype=F64)) @ Q.mT
    S = symmetrize(S)[None]
    assert 0 <= bures_squared(S, S.clone()).item() <= 1e-25


@pytest.mark.parametrize("step", [1e-1, 3e-2, 1e-3, 1e-6])
def test_bures_distance_keeps_its_digits_between_nearly_equal_matrices(step, make_covariances):
    S = make_covariances(1, 3)
    expected = step**2 * S[0].trace()
    assert_close(bures_squared(S, (1 + step) ** 2 * S)[0, 0], expected, rtol=1e-8, atol=0)


def test_bures_distance_and_map_hold_in_float32(make_covariances):
    source, target = make_covariances(3, 3, seed=1), make_covariances(2, 3, seed=2)
    B = bures_squared(source.float(), target.float())
    assert B.dtype == torch.float32
    assert_close(B.double(), bures_squared(source, target), rtol=1e-4, atol=1e-5)
    A = bures_map(source[0].float(), target[0].float())
    assert_close(A.double(), bures_map(source[0], target[0]), rtol=1e-4, atol=1e-5)
    assert (bures_squared(source.float(), source.float()).diagonal() <= 1e-10).all()


@pytest.mark.parametrize("kind", ["diagonal", "line", "plane", "zero"])
def test_bures_distance_takes_rank_deficient_matrices(kind, make_covariances):
    S0, S1 = rank_deficient(kind), make_covariances(1, 3)[0]
    middle = pseudo_map(S0, S1) @ S0
    expected = (S0 + S1 - 2 * middle).trace()
    assert_close(bures_squared(S0[None], S1[None])[0, 0], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["diagonal", "line", "plane", "zero"])
def test_bures_map_of_a_rank_deficient_source_is_the_map_of_its_range(kind, make_covariances):
    S0, S1 = rank_deficient(kind), make_covariances(1, 3)[0]
    assert_close(bures_map(S0, S1), pseudo_map(S0, S1), rtol=1e-6, atol=1e-6)


def test_bures_map_of_rank_deficient_sources_does_not_depend_on_rounding(make_covariances):
    # Whether Cholesky's algorithm fails on such matrices is a matter of the last bit.
    B = 0.2 * torch.randn(50, 3, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    B += torch.eye(3, 2, dtype=F64)
    S0, S1 = B @ B.mT, make_covariances(1, 3)[0]
    assert len(torch.linalg.cholesky_ex(S0).info.unique()) == 2
    expected = torch.stack([pseudo_map(S, S1) for S in S0])
    assert_close(bures_map(S0, S1.expand_as(S0)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["diagonal", "line", "plane", "zero"])
def test_bures_gradient_is_finite_at_a_rank_deficient_matrix(kind, make_covariances):
    S0, S1 = rank_deficient(kind)[None].requires_grad_(), make_covariances(1, 3).requires_grad_()
    bures_squared(S0, S1).sum().backward()
    for gradient in (S0.grad, S1.grad):
        assert torch.isfinite(gradient).all()
        assert gradient.abs().max() < 1e3
