"""How far Gaussians are from barycentres: closed forms, tolerances, singular covariances, units."""

import pytest
import torch

from skgmmot.gaussian.bures.barycenter import gaussian_barycenter
from skgmmot.gaussian.bures.barycenter_error import barycenter_error
from skgmmot.gaussian.bures.gaussians import bures_wasserstein_squared

F64 = torch.float64
WEIGHTS = torch.tensor([0.2, 0.3, 0.5], dtype=F64)
ORIGIN = torch.zeros(3, 3, dtype=F64)


def objective(S, covariances):
    origin = torch.zeros(1, S.shape[-1], dtype=F64)
    return WEIGHTS @ bures_wasserstein_squared(origin, S[None], ORIGIN, covariances)[0]


@pytest.mark.parametrize("scale", [1e-60, 1.0, 1e60])
def test_of_diagonal_matrices_the_error_is_known(scale):
    generator = torch.Generator().manual_seed(0)
    deviations = 0.3 + torch.rand(3, 3, dtype=F64, generator=generator)
    barycentre = WEIGHTS @ deviations
    S, others = (scale**2 * torch.diag_embed(t.square()) for t in (barycentre, deviations))
    assert barycenter_error(S, ORIGIN, others, WEIGHTS).distance < 1e-12 * scale
    away = barycentre + torch.tensor([0.01, -0.02, 0.03])
    off = scale * float((away - barycentre).norm())
    found = barycenter_error(scale**2 * torch.diag(away.square()), ORIGIN, others, WEIGHTS)
    assert off < found.distance < 5 * off
    assert off**2 < found.gap < 5 * off**2


def test_of_variances_it_is_the_deviation_from_the_mean_one():
    variances = torch.tensor([[1.0, 4.0], [9.0, 4.0]], dtype=F64)
    means, weights = torch.ones(2, 2, dtype=F64), torch.tensor([0.5, 0.5], dtype=F64)
    found = barycenter_error(torch.tensor([4.0, 9.0], dtype=F64), means, variances, weights)
    assert found.distance == pytest.approx(1.0) and found.gap == pytest.approx(1.0)
    *_, error = gaussian_barycenter(means, variances, weights, return_error=True)
    assert 0 < error.distance < 1e-14


@pytest.mark.parametrize("tol", [1e-1, 1e-3, 1e-8])
def test_a_looser_iteration_is_further_off(make_covariances, tol):
    S = make_covariances(3, 3)
    _, best = gaussian_barycenter(ORIGIN, S, WEIGHTS, tol=1e-15, max_iter=100)
    _, found, error = gaussian_barycenter(ORIGIN, S, WEIGHTS, tol=tol, return_error=True)
    origin = torch.zeros(1, 3, dtype=F64)
    apart = bures_wasserstein_squared(origin, found[None], origin, best[None]).clamp(min=0).sqrt()
    assert float(apart) <= float(error.distance) < 20 * tol
    assert objective(found, S) - objective(best, S) <= error.gap + 1e-14


def test_singular_covariances_have_bounds():
    generator = torch.Generator().manual_seed(0)
    for rank in (1, 2):
        L = torch.randn(3, 3, rank, dtype=F64, generator=generator)
        S = L @ L.mT
        _, found, error = gaussian_barycenter(ORIGIN, S, WEIGHTS, return_error=True)
        assert error.gap < 1e-3 * objective(found, S)
        *_, of_points = gaussian_barycenter(ORIGIN, 0 * S, WEIGHTS, return_error=True)
        assert of_points == (0.0, 0.0)


def test_not_the_barycentre_at_all(make_covariances):
    S = make_covariances(3, 3)
    _, best = gaussian_barycenter(ORIGIN, S, WEIGHTS)
    for other in (S[0], 0 * S[0], 100 * S[1]):
        excess = objective(other, S) - objective(best, S)
        assert excess <= barycenter_error(other, ORIGIN, S, WEIGHTS).gap + 1e-12


def test_many_problems_at_once_and_float32(make_covariances, make_samples):
    S = torch.stack([make_covariances(3, 3, seed=k) for k in range(4)])
    means = make_samples(3, 3).expand(4, 3, 3)
    options = {"max_iter": 3, "return_error": True}
    *_, error = gaussian_barycenter(means, S, WEIGHTS, **options)
    assert error.distance.shape == error.gap.shape == (4,)
    *_, one = gaussian_barycenter(means[2], S[2], WEIGHTS, **options)
    assert float(one.distance) == pytest.approx(float(error.distance[2]), rel=1e-2)
    *_, rough = gaussian_barycenter(means.float(), S.float(), WEIGHTS.float(), return_error=True)
    assert (rough.distance > 1e-8).all() and (rough.distance < 1e-4).all()
