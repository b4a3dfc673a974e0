"""Bures distances between covariance matrices."""

import mpmath
import numpy as np
import pytest
import scipy.linalg
import torch
from torch.testing import assert_close

from skgmmot.gaussian.bures import decomposition
from skgmmot.gaussian.bures.distance import (
    bures_squared,
    bures_squared_of_pairs,
    bures_squared_of_roots,
    bures_tangent,
    factored,
)
from skgmmot.numerics.linalg import bures_map, symmetrize

F64 = torch.float64


def eye(d, scale=1.0):
    return scale * torch.eye(d, dtype=F64)


def scipy_bures(source, target):
    root = scipy.linalg.sqrtm(source.numpy())
    middle = scipy.linalg.sqrtm(root @ target.numpy() @ root)
    return float(np.trace(source.numpy() + target.numpy() - 2 * np.real(middle)))


def conditioned(K, d, condition, seed=0):
    """Covariances of a condition number, in random axes; infinite is of half the rank."""
    generator = torch.Generator().manual_seed(seed)
    Q = torch.linalg.qr(torch.randn(K, d, d, dtype=F64, generator=generator)).Q
    values = torch.logspace(0, -np.log10(min(condition, 1e300)), d, dtype=F64)
    if np.isinf(condition):
        values = torch.linspace(1, 2, d, dtype=F64) * (torch.arange(d) < d // 2)
    return symmetrize((Q * values) @ Q.mT)


def exact_bures(source, target):
    """The squared Bures distance with sixty digits."""
    with mpmath.workdps(60):
        roots = []
        for S in (source, target):
            values, vectors = mpmath.eigsy(mpmath.matrix(S.tolist()))
            diagonal = mpmath.diag([mpmath.sqrt(max(v, 0)) for v in values])
            roots.append(vectors * diagonal * vectors.T)
        singular = mpmath.svd_r(roots[0] * roots[1], compute_uv=False)
        traces = sum(S[i, i] for S in (mpmath.matrix(source.tolist()),) for i in range(len(source)))
        traces += sum(mpmath.matrix(target.tolist())[i, i] for i in range(len(target)))
        return float(traces - 2 * sum(singular))


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


@pytest.mark.parametrize("d", [2, 5])
def test_bures_distances_are_those_of_scipy_square_roots(d, make_covariances):
    source, target = make_covariances(3, d, seed=1), make_covariances(4, d, seed=2)
    expected = [[scipy_bures(S0, S1) for S1 in target] for S0 in source]
    assert_close(bures_squared(source, target), torch.tensor(expected, dtype=F64))


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
    for power in (-900, 900):  # where products of two leave the range of numbers
        unit = 2.0**power
        assert_close(bures_squared(unit * S0, unit * S1), unit * bures_squared(S0, S1))


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
def test_bures_distance_takes_rank_deficient_matrices(
    kind, make_covariances, rank_deficient, pseudo_map
):
    S0, S1 = rank_deficient(kind), make_covariances(1, 3)[0]
    middle = pseudo_map(S0, S1) @ S0
    expected = (S0 + S1 - 2 * middle).trace()
    assert_close(bures_squared(S0[None], S1[None])[0, 0], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["diagonal", "line", "plane", "zero"])
def test_bures_gradient_is_finite_at_a_rank_deficient_matrix(
    kind, make_covariances, rank_deficient
):
    S0, S1 = rank_deficient(kind)[None].requires_grad_(), make_covariances(1, 3).requires_grad_()
    bures_squared(S0, S1).sum().backward()
    for gradient in (S0.grad, S1.grad):
        assert torch.isfinite(gradient).all()
        assert gradient.abs().max() < 1e3


@pytest.mark.parametrize("condition", [1e1, 1e4, 1e8, 1e12, np.inf])
@pytest.mark.parametrize("d", [2, 3, 6])
def test_bures_distances_keep_thirteen_digits_at_any_conditioning(condition, d):
    source, target = conditioned(2, d, condition, 1), conditioned(2, d, condition, 2)
    found = bures_squared(source, target)
    for k in range(2):
        for l in range(2):
            expected = exact_bures(source[k], target[l])
            # inputs of deficient rank are known to rounding only: their roots to its root
            tolerance = 1e-13 if np.isfinite(condition) else 1e-7
            assert found[k, l].item() == pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize("d", [1, 2, 3, 8])
@pytest.mark.parametrize("block_size", [1, 100, 2**17])
def test_threads_do_not_change_a_bit_and_blocks_nothing(
    d, block_size, monkeypatch, make_covariances
):
    source, target = make_covariances(5, d, seed=1), make_covariances(7, d, seed=2)
    expected = bures_squared(source, target)
    monkeypatch.setattr(decomposition, "BLOCK_SIZE", block_size)
    before, found = torch.get_num_threads(), []
    for n_threads in (1, 2):
        torch.set_num_threads(n_threads)
        found.append(bures_squared(source, target))
        assert torch.get_num_threads() == n_threads
    torch.set_num_threads(before)
    assert_close(found[0], found[1], rtol=0, atol=0)
    assert_close(found[0], expected, rtol=1e-14, atol=1e-15)


def chosen_pairs(source, target, k, l):
    """Squared distances of pairs, with their derivatives."""
    prepared = factored(source), factored(target)
    values = bures_squared_of_pairs(source, target, k, l, prepared)
    tangent = bures_tangent(source, target, k, l, prepared)
    assert not values.requires_grad and not tangent.any()
    return values + tangent


@pytest.mark.parametrize("d", [1, 2, 3])
def test_chosen_pairs_are_entries_of_the_matrix_with_its_gradient(d, make_covariances):
    source, target = make_covariances(3, d, seed=1), make_covariances(4, d, seed=2)
    target[1] = source[2]  # an equal pair
    k, l = torch.tensor([2, 0, 0, 1, 2]), torch.tensor([1, 3, 0, 2, 1])
    leaves = [S.clone().requires_grad_() for S in (source, target)]
    found = chosen_pairs(*leaves, k, l)
    expected = bures_squared(*leaves)[k, l]
    assert_close(found, expected, rtol=1e-12, atol=1e-14)
    weights = torch.tensor([1.0, 2.0, 3.0, 0.0, 4.0], dtype=F64)
    for f, e in zip(
        torch.autograd.grad(found @ weights, leaves),
        torch.autograd.grad(expected @ weights, leaves),
        strict=True,
    ):
        assert_close(f, e)
    assert chosen_pairs(source, target, k[:0], l[:0]).shape == (0,)


def test_ill_conditioned_and_regular_pairs_of_one_block_are_each_accurate(make_covariances):
    source = torch.cat([make_covariances(2, 4), conditioned(2, 4, 1e10), conditioned(1, 4, np.inf)])
    alone = torch.stack([bures_squared(S[None], source)[0] for S in source])
    assert_close(bures_squared(source, source), alone, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("d", "ranks"), [(2, (1, 1)), (4, (2, 2)), (4, (1, 3)), (4, (2, 4))])
@pytest.mark.parametrize("chosen", [False, True])
def test_derivatives_in_factors_of_low_rank_are_right(d, ranks, chosen):
    generator = torch.Generator().manual_seed(0)
    leaves = [torch.randn(3, d, rank, dtype=F64, generator=generator) for rank in ranks]

    def distances(*factors):
        covariances = [L @ L.mT for L in factors]
        if chosen:
            return chosen_pairs(*covariances, torch.tensor([0, 2]), torch.tensor([1, 1]))
        return bures_squared(*covariances)

    leaves = [L.requires_grad_() for L in leaves]
    assert torch.autograd.gradcheck(distances, leaves, eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("d", [1, 2, 3, 9])
@pytest.mark.parametrize("condition", [1e2, 1e12, np.inf])
def test_equal_covariances_are_at_no_distance_and_the_order_changes_no_bit(d, condition):
    source, target = conditioned(4, d, condition), conditioned(3, d, condition, seed=1)
    target[1] = source[2]
    found = bures_squared(source, target)
    assert found[2, 1] == 0
    assert torch.equal(found, bures_squared(target, source).mT)
    itself = bures_squared(source, source.clone())
    assert not itself.diagonal().any() and torch.equal(itself, itself.mT)
    k = torch.arange(4)
    assert not chosen_pairs(source, source, k, k).any()


def test_the_derivative_at_equal_covariances_is_zero(make_covariances):
    source, target = make_covariances(3, 4), make_covariances(3, 4)
    source.requires_grad_(), target.requires_grad_()
    bures_squared(source, target).diagonal().sum().backward()
    for tensor in (source, target):
        assert_close(tensor.grad, torch.zeros_like(tensor), rtol=0, atol=1e-13)


def roots(*sizes, d=4, seed=0):
    """Random matrices of numbers of rows."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, d, dtype=F64, generator=generator) for n in sizes]


@pytest.mark.parametrize("sizes", [(0, 2), (1, 1), (1, 3), (2, 2), (2, 5), (3, 3), (3, 8), (6, 5)])
@pytest.mark.parametrize("scale", [1.0, 1e-130, 1e130])
def test_distances_by_roots_are_those_between_the_covariances(sizes, scale):
    A, B = roots(*sizes)
    found = bures_squared_of_roots(scale * A, scale * B)
    # with sixty digits, as a covariance is known to rounding only
    with mpmath.workdps(60):
        exact = [mpmath.matrix(t.tolist()) if len(t) else mpmath.zeros(1, 4) for t in (A, B)]
        singular = mpmath.svd_r(exact[0] * exact[1].T, compute_uv=False)
        expected = sum(x**2 for t in exact for x in t) - 2 * sum(singular)
    assert found.item() == pytest.approx(float(expected) * scale**2, rel=1e-12)
    assert torch.equal(found, bures_squared_of_roots(scale * B, scale * A))


@pytest.mark.parametrize("sizes", [(1, 1), (1, 3), (2, 5), (5, 3), (3, 3), (6, 5)])
def test_distances_by_roots_pass_gradcheck(sizes):
    leaves = [t.requires_grad_() for t in roots(*sizes, d=6)]
    assert torch.autograd.gradcheck(bures_squared_of_roots, leaves)
    for i in (0, 1):  # one alone
        mixed = [t.detach() if j == i else t for j, t in enumerate(leaves)]
        assert torch.autograd.gradcheck(bures_squared_of_roots, mixed)


@pytest.mark.parametrize("step", [1e-3, 1e-6, 1e-9])
@pytest.mark.parametrize("rows", [0, 2])
def test_distances_by_roots_keep_their_digits_between_nearly_equal_ones(step, rows):
    Q = torch.linalg.qr(roots(5, d=5)[0]).Q
    A = torch.tensor([[1.0], [2.0], [3.0]], dtype=F64) * Q[:3]
    B = torch.cat([(1 + step) * A, step * Q[3 : 3 + rows]])  # orthogonal to the rows of A
    expected = step**2 * (A.square().sum() + rows)
    assert_close(bures_squared_of_roots(A, B), expected, rtol=1e-6, atol=0)


def test_equal_and_repeated_rows_have_distances_by_roots():
    (A,) = roots(3)
    assert bures_squared_of_roots(A, A.clone()) == 0
    leaf = A.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(bures_squared_of_roots(leaf, A), leaf)
    assert not gradient.any()
    # the same rows thrice: a root of three times the covariance, of one that is not unique
    thrice = A.repeat(3, 1).requires_grad_()
    value = bures_squared_of_roots(thrice, 2 * A)
    assert_close(value, (3**0.5 - 2) ** 2 * A.square().sum())
    (gradient,) = torch.autograd.grad(value, thrice)
    assert_close(gradient, 2 * (1 - 2 / 3**0.5) * thrice.detach())
