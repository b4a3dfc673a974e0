"""Barycentres of Gaussians and the alignment of their factors."""

import itertools

import ot
import pytest
import torch
from torch.testing import assert_close

from skgmmot.gaussian.bures.barycenter import align, barycenter_factors, gaussian_barycenter
from skgmmot.gaussian.bures.gaussians import bures_wasserstein_squared
from skgmmot.gaussian.covariance.registry import FULL
from skgmmot.numerics.linalg import bures_map, factor

F64 = torch.float64
WEIGHTS = torch.tensor([0.2, 0.3, 0.5], dtype=F64)


def objective(mean, covariance, means, covariances, weights=WEIGHTS):
    """Weighted sum of squared distances from one Gaussian to others."""
    one = mean.unsqueeze(0), covariance.unsqueeze(0)
    return weights @ bures_wasserstein_squared(*one, means, covariances)[0]


# --- closed forms ------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [1, 3])
def test_deviations_are_averaged(d, make_samples, make_covariances):
    means, variances = make_samples(3, d), make_samples(3, d, seed=1).square()
    mean, found = gaussian_barycenter(means, variances, WEIGHTS)
    assert_close(mean, WEIGHTS @ means)
    assert_close(found, (WEIGHTS @ variances.sqrt()).square())
    _, full = gaussian_barycenter(means, torch.diag_embed(variances), WEIGHTS)
    assert_close(full, torch.diag_embed(found))


def test_two_gaussians_have_theirs_on_the_geodesic(make_samples, make_covariances):
    S = make_covariances(2, 4)
    weights = torch.tensor([0.3, 0.7], dtype=F64)
    A = 0.3 * torch.eye(4, dtype=F64) + 0.7 * bures_map(S[0], S[1])
    _, found = gaussian_barycenter(make_samples(2, 4), S, weights, max_iter=1)
    assert_close(found, A @ S[0] @ A)


def test_the_barycentre_of_equal_gaussians_is_that_gaussian(make_samples, make_covariances):
    S = make_covariances(1, 3).expand(3, -1, -1)
    _, found = gaussian_barycenter(make_samples(3, 3), S, WEIGHTS)
    assert_close(found, S[0])


def test_it_is_a_fixed_point(make_samples, make_covariances):
    S = make_covariances(3, 4)
    _, found = gaussian_barycenter(make_samples(3, 4), S, WEIGHTS)
    mean_map = torch.einsum("j,jab->ab", WEIGHTS, bures_map(found, S))
    assert_close(mean_map, torch.eye(4, dtype=F64), rtol=0, atol=1e-7)


# --- peer --------------------------------------------------------------------------------------


def test_it_is_that_of_pot(make_samples, make_covariances):
    means, S = make_samples(3, 5), make_covariances(3, 5)
    mean, found = gaussian_barycenter(means, S, WEIGHTS)
    arrays = (t.numpy() for t in (means, S, WEIGHTS))
    theirs = ot.gaussian.bures_wasserstein_barycenter(*arrays, eps=1e-12)
    assert_close(mean, torch.from_numpy(theirs[0]))
    assert_close(found, torch.from_numpy(theirs[1]), rtol=1e-6, atol=1e-8)
    assert objective(mean, found, means, S) <= (
        objective(*map(torch.from_numpy, theirs), means, S) + 1e-12
    )


# --- invariances -------------------------------------------------------------------------------


def test_many_problems_at_once_are_each_solved(make_samples, make_covariances):
    means, S = make_samples(6, 3).view(2, 3, 3), make_covariances(6, 3).view(2, 3, 3, 3)
    weights = torch.stack([WEIGHTS, WEIGHTS.flip(0)])
    mean, found = gaussian_barycenter(means, S, weights)
    for i in range(2):
        alone = gaussian_barycenter(means[i], S[i], weights[i])
        assert_close((mean[i], found[i]), alone, rtol=1e-7, atol=1e-9)


def test_every_iteration_lowers_the_objective(make_samples, make_covariances):
    means, S = make_samples(3, 4), make_covariances(3, 4)
    values = [
        objective(*gaussian_barycenter(means, S, WEIGHTS, tol=0, max_iter=i), means, S)
        for i in range(8)
    ]
    assert all(b <= a + 1e-12 for a, b in itertools.pairwise(values))
    assert values[-1] < values[0]


def test_a_rotation_turns_the_barycentre_with_it(make_samples, make_covariances):
    S, means = make_covariances(3, 3), make_samples(3, 3)
    Q = torch.linalg.qr(make_samples(3, 3, seed=5)).Q
    _, found = gaussian_barycenter(means, S, WEIGHTS)
    _, turned = gaussian_barycenter(means @ Q.mT, Q @ S @ Q.mT, WEIGHTS)
    assert_close(turned, Q @ found @ Q.mT)


def test_aligned_factors_are_of_the_same_matrices_at_the_bures_distance(make_covariances):
    S0, S1 = make_covariances(4, 3), make_covariances(4, 3, seed=9)
    L0 = factor(S0)
    near = align(factor(S1), L0)
    assert_close(near @ near.mT, S1)
    zero = torch.zeros(1, 3, dtype=F64)
    for i in range(4):
        expected = bures_wasserstein_squared(zero, S0[i : i + 1], zero, S1[i : i + 1])
        assert_close((near[i] - L0[i]).square().sum(), expected.squeeze())


# --- edges -------------------------------------------------------------------------------------


def test_lines_in_three_directions_have_a_barycentre_that_is_no_line():
    # Pairwise 60 degrees apart: no choice of signs correlates all three perfectly.
    angle = torch.arange(3, dtype=F64) * torch.pi / 3
    u = torch.stack([angle.cos(), angle.sin()], dim=1)
    S, means = u.unsqueeze(2) * u.unsqueeze(1), torch.zeros(3, 2, dtype=F64)
    third = torch.full((3,), 1 / 3, dtype=F64)
    mean, found = gaussian_barycenter(means, S, third)
    best_line = min(
        objective(mean, v.outer(v), means, S, third)
        for a in torch.linspace(0, torch.pi, 90, dtype=F64)
        for r in torch.linspace(0.1, 1.2, 23, dtype=F64)
        for v in [r * torch.stack([a.cos(), a.sin()])]
    )
    assert objective(mean, found, means, S, third) < best_line - 1e-2
    assert torch.linalg.eigvalsh(found)[0] > 0.05


def test_points_have_a_point_as_barycentre(make_samples):
    means, zero = make_samples(3, 2), torch.zeros(3, 2, 2, dtype=F64)
    mean, found = gaussian_barycenter(means, zero, WEIGHTS)
    assert_close(mean, WEIGHTS @ means)
    assert_close(found, zero[0])


def test_float32_stays_float32(make_samples, make_covariances):
    means, S = make_samples(3, 3), make_covariances(3, 3)
    exact = gaussian_barycenter(means, S, WEIGHTS)[1]
    found = gaussian_barycenter(means.float(), S.float(), WEIGHTS.float(), tol=1e-5)[1]
    assert found.dtype == torch.float32
    assert_close(found.double(), exact, rtol=1e-4, atol=1e-5)


def test_a_barycentre_without_gaussians_keeps_its_start(make_covariances):
    L = factor(make_covariances(3, 2))
    component, share = torch.tensor([2, 0]), torch.ones(2, dtype=F64)
    found = barycenter_factors(L, L[[1, 1]], component, share, covariance_type=FULL)
    assert_close(found[1], L[1])
    assert_close(found[0] @ found[0].mT, L[1] @ L[1].mT)
