"""The Wasserstein distance between Gaussians."""

import numpy as np
import ot
import pytest
import torch
from torch.testing import assert_close

from skgmmot.gaussian.bures.gaussians import (
    GaussianCosts,
    are_factored,
    bures_wasserstein_squared,
    commute,
    wasserstein_squared,
)
from skgmmot.gaussian.covariance.registry import (
    COVARIANCE_TYPES,
    DIAG,
    FULL,
    SPHERICAL,
    TIED,
    type_of_storage,
)
from skgmmot.numerics.linalg import bures_map, symmetrize

F64 = torch.float64


@pytest.fixture
def gaussians(make_covariances, make_samples):
    """Three source and two target Gaussians in four dimensions."""
    return (
        make_samples(3, 4, seed=1),
        make_covariances(3, 4, seed=2),
        make_samples(2, 4, seed=3),
        make_covariances(2, 4, seed=4),
    )


@pytest.mark.parametrize("axes", ["variances", "matrices"])
def test_distance_in_one_dimension_is_that_of_means_and_standard_deviations(axes):
    m0, s0 = torch.tensor([[0.0], [3.0]], dtype=F64), torch.tensor([[1.0], [4.0]], dtype=F64)
    m1, s1 = torch.tensor([[1.0]], dtype=F64), torch.tensor([[9.0]], dtype=F64)
    if axes == "matrices":
        s0, s1 = s0.unsqueeze(-1), s1.unsqueeze(-1)
    expected = torch.tensor([[1.0 + 4.0], [4.0 + 1.0]], dtype=F64)
    assert_close(bures_wasserstein_squared(m0, s0, m1, s1), expected)


def test_distance_between_equal_covariances_is_that_of_the_means(gaussians):
    m0, S0, m1, _ = gaussians
    S = S0[:1].expand(3, -1, -1)
    squared = bures_wasserstein_squared(m0, S, m1, S[:2])
    assert_close(squared, torch.cdist(m0, m1).square())


def test_distances_are_those_of_pot(gaussians):
    m0, S0, m1, S1 = (t.numpy() for t in gaussians)
    expected = ot.gmm.dist_bures_squared(m0, m1, S0, S1)
    assert_close(bures_wasserstein_squared(*gaussians), torch.from_numpy(np.real(expected)))


def test_distance_of_one_pair_is_that_of_pot(gaussians):
    m0, S0, m1, S1 = (t[0] for t in gaussians)
    expected = ot.gaussian.bures_wasserstein_distance(*(t.numpy() for t in (m0, m1, S0, S1)))
    squared = wasserstein_squared((m0, S0), (m1, S1))
    assert squared.shape == ()
    assert squared.item() == pytest.approx(np.real(expected) ** 2)


@pytest.mark.usefixtures("random_seed")
def test_distance_is_the_cost_of_the_optimal_map(gaussians, make_samples):
    m0, S0, m1, S1 = (t[0] for t in gaussians)
    z = make_samples(20_000, 4)
    x = m0 + (z - z.mean(0)) @ torch.linalg.cholesky(S0).mT
    images = m1 + (x - m0) @ bures_map(S0, S1)
    cost = (images - x).square().sum(1).mean().item()
    assert cost == pytest.approx(wasserstein_squared((m0, S0), (m1, S1)).item(), rel=0.02)


def test_distances_between_matrices_pass_gradcheck(gaussians):
    def distances(m0, S0, m1, S1):
        return bures_wasserstein_squared(m0, symmetrize(S0), m1, symmetrize(S1))

    inputs = [t[:2, :3].clone() if t.ndim == 2 else t[:2, :3, :3].clone() for t in gaussians]
    assert torch.autograd.gradcheck(distances, [t.requires_grad_() for t in inputs])


def test_distances_between_variances_pass_gradcheck(gaussians):
    m0, S0, m1, S1 = gaussians
    variances = [S.diagonal(dim1=-2, dim2=-1).clone() for S in (S0, S1)]
    inputs = [t.requires_grad_() for t in (m0, variances[0], m1, variances[1])]
    assert torch.autograd.gradcheck(bures_wasserstein_squared, inputs)


def test_gradient_is_zero_between_equal_isotropic_gaussians():
    m = torch.zeros(3, dtype=F64, requires_grad=True)
    S = torch.eye(3, dtype=F64).requires_grad_()
    wasserstein_squared((m, S), (m.detach(), S.detach())).backward()
    assert_close(m.grad, torch.zeros(3, dtype=F64))
    assert_close(S.grad, torch.zeros(3, 3, dtype=F64))


def test_variances_and_diagonal_matrices_are_equally_far(gaussians):
    m0, S0, m1, S1 = gaussians
    v0, v1 = (S.diagonal(dim1=-2, dim2=-1) for S in (S0, S1))
    expected = bures_wasserstein_squared(m0, torch.diag_embed(v0), m1, torch.diag_embed(v1))
    assert_close(bures_wasserstein_squared(m0, v0, m1, v1), expected)


def test_distance_is_symmetric(gaussians):
    m0, S0, m1, S1 = gaussians
    assert_close(
        bures_wasserstein_squared(m0, S0, m1, S1), bures_wasserstein_squared(m1, S1, m0, S0).mT
    )


@pytest.mark.parametrize("offset", [1.0, 1e4, 1e8])
def test_distance_ignores_a_common_translation(offset, gaussians):
    m0, S0, m1, S1 = gaussians
    moved = bures_wasserstein_squared(m0 + offset, S0, m1 + offset, S1)
    assert_close(moved, bures_wasserstein_squared(*gaussians), rtol=1e-14 * offset + 1e-12, atol=0)


def test_distance_holds_in_float32_at_a_far_offset(gaussians):
    # Squares of differences, not differences of squares: the latter are wrong by 1e1 here.
    m0, S0, m1, S1 = (t.float() for t in gaussians)
    squared = bures_wasserstein_squared(m0 + 1e4, S0, m1 + 1e4, S1)
    assert squared.dtype == torch.float32
    assert_close(squared.double(), bures_wasserstein_squared(*gaussians), rtol=1e-2, atol=0)


@pytest.mark.parametrize("d", [1, 2, 5, 130])
def test_spheres_and_covariances_of_low_rank_are_as_far_as_their_matrices(d, make_samples):
    m0, m1, s = (
        make_samples(3, d),
        make_samples(2, d, seed=1),
        torch.tensor([[1.0], [4.0]]).double(),
    )
    low = torch.stack([make_samples(3, d, seed=2), make_samples(3, d, seed=3).exp()], -1)
    types = COVARIANCE_TYPES["lowrank"], SPHERICAL
    found = bures_wasserstein_squared(m0, low, m1, s, covariance_types=types)
    full = low[..., :1] @ low[..., :1].mT + torch.diag_embed(low[..., 1])
    spheres = s.unsqueeze(-1) * torch.eye(d, dtype=F64)
    assert_close(found, bures_wasserstein_squared(m0, full, m1, spheres))
    turned = bures_wasserstein_squared(m1, s, m0, low, covariance_types=types[::-1])
    assert_close(turned, found.mT)


@pytest.fixture
def storages(make_covariances):
    """The covariances of three Gaussians in four dimensions, in every storage."""
    S = make_covariances(3, 4, seed=7)
    variances = S.diagonal(dim1=-2, dim2=-1).clone()
    return {"full": S, "tied": S[:1], "diag": variances, "spherical": variances[:, :1].clone()}


@pytest.mark.parametrize("other", ["full", "tied", "diag", "spherical"])
@pytest.mark.parametrize("name", ["full", "tied", "diag", "spherical"])
def test_every_pair_of_storages_gives_what_their_matrices_give(name, other, storages, make_samples):
    S0, S1 = storages[name], 1.3 * storages[other]
    means = make_samples(3, 4, seed=1), make_samples(3, 4, seed=2)
    leaves = [t.clone().requires_grad_() for t in (means[0], S0, means[1], S1)]
    found = bures_wasserstein_squared(*leaves)
    pairs = zip(leaves[::2], leaves[1::2], strict=True)
    full = [type_of_storage(S, m).to_full(S, 3, 4) for m, S in pairs]
    expected = bures_wasserstein_squared(leaves[0], full[0], leaves[2], full[1])
    assert_close(found, expected)
    weights = make_samples(3, 3, seed=3)
    for f, e in zip(
        torch.autograd.grad((found * weights).sum(), leaves),
        torch.autograd.grad((expected * weights).sum(), leaves),
        strict=True,
    ):
        assert_close(f, e)


def test_spheres_told_as_spheres_and_as_matrices_are_equal():
    v = torch.tensor([[0.3], [1.7]], dtype=F64)
    m = torch.zeros(2, 5, dtype=F64)
    squared = bures_wasserstein_squared(m, v, m, SPHERICAL.to_full(v, 2, 5))
    assert (squared.diagonal() < 1e-28).all()
    assert_close(squared[0, 1], 5 * (v[0, 0].sqrt() - v[1, 0].sqrt()) ** 2)


def test_diagonal_types_commute_and_spheres_with_all():
    assert not any(commute(FULL, other) for other in (FULL, TIED, DIAG))
    assert not any(commute(TIED, other) for other in (FULL, TIED, DIAG))
    assert commute(DIAG, DIAG)
    assert all(commute(SPHERICAL, t) and commute(t, SPHERICAL) for t in COVARIANCE_TYPES.values())


def test_costs_as_asked_are_entries_of_the_matrix_above_their_bounds(gaussians):
    expected = bures_wasserstein_squared(*gaussians)
    costs = GaussianCosts.between(*gaussians)
    assert_close(costs.all(), expected)
    assert (costs.lower_bounds() <= expected).all()
    k, l = torch.tensor([2, 0]), torch.tensor([1, 1])
    assert_close(costs(k, l), expected[k, l])
    part = costs.part(slice(1, 3), slice(1, 2))
    assert_close(part.all(), expected[1:, 1:])
    assert_close(part(torch.tensor([1]), torch.tensor([0])), expected[2, 1:])


def test_lower_bounds_are_reached_by_parallel_axes_and_equal_gaussians(make_covariances):
    means, S = torch.zeros(6, 5, dtype=F64), make_covariances(6, 5)
    vectors = torch.linalg.eigh(S[:1]).eigenvectors
    values = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0], dtype=F64)
    parallel = (vectors * values) @ vectors.mT
    costs = GaussianCosts.between(means, S, means[:1], parallel)
    bounds, distances = costs.lower_bounds(), costs.all()
    assert (bounds <= distances + 1e-14).all()
    assert_close(bounds[0], distances[0])
    assert (bounds[1:] < 0.99 * distances[1:]).any()
    assert (GaussianCosts.between(means, S, means, S).lower_bounds().diagonal() == 0).all()


@pytest.mark.parametrize(
    ("ranks", "n_features", "expected"),
    [((1, 1), 500, True), ((0, 2), 500, True), ((0, 0), 500, False), ((1, 1), 4, False)],
)
def test_few_factors_of_many_features_are_kept_and_others_made_matrices(
    ranks, n_features, expected
):
    factors = [(torch.zeros(2, n_features, r), torch.ones(2, n_features)) for r in ranks]
    assert are_factored(*factors) == expected
    assert not are_factored(factors[0], None)
