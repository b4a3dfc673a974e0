"""Low-rank covariances: every number is that of the matrices they stand for."""

import pytest
import torch
from torch.testing import assert_close

from skgmmot.fitting.em.step import em_step
from skgmmot.gaussian.conditional import condition, marginal
from skgmmot.gaussian.covariance.low_rank import LowRank
from skgmmot.gaussian.covariance.registry import DIAG, FULL
from skgmmot.gaussian.log_density import log_density, log_responsibilities
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.gaussian.sampling import rsample, sample
from skgmmot.gaussian.statistics import e_step

F64 = torch.float64
K, d = 3, 6


@pytest.fixture(params=[1, 2, 4])
def theta(request, make_mixture):
    """A mixture of some rank."""
    return low_rank(make_mixture, request.param)


def low_rank(make_mixture, rank, n_features=d, seed=0):
    """A mixture of low rank with random factors."""
    generator = torch.Generator().manual_seed(seed)
    F = torch.randn(K, n_features, rank, dtype=F64, generator=generator)
    like = make_mixture("diag", K, n_features, seed=seed)
    storage = torch.cat([F, like.covariances.unsqueeze(-1)], dim=-1)
    return like._replace(covariances=storage, covariance_type=LowRank(rank))


def as_full(theta):
    """The same mixture with matrices."""
    return theta._replace(covariances=theta.full_covariances(), covariance_type=FULL)


def turned(theta, seed=5):
    """The same mixture with other factors."""
    r = theta.covariance_type.rank
    generator = torch.Generator().manual_seed(seed)
    Q = torch.linalg.qr(torch.randn(K, r, r, dtype=F64, generator=generator)).Q
    F, psi = theta.covariances.split([r, 1], dim=-1)
    return theta._replace(covariances=torch.cat([F @ Q, psi], dim=-1))


def test_densities_and_responsibilities_are_those_of_matrices(theta, make_samples):
    X = 3 * make_samples(40, d)
    assert_close(log_density(theta, X), log_density(as_full(theta), X))
    assert_close(log_responsibilities(theta, X), log_responsibilities(as_full(theta), X))
    far = 1e200 * X[:3]
    assert_close(log_responsibilities(theta, far), log_responsibilities(as_full(theta), far))
    assert_close(theta.variances(), as_full(theta).variances())
    diagonals = theta.covariance_type.precision_diagonals(theta.prepare().factors)
    assert_close(diagonals, torch.linalg.inv(theta.full_covariances()).diagonal(dim1=1, dim2=2))


def test_densities_are_differentiable(make_mixture, make_samples):
    theta, X = low_rank(make_mixture, 2, 3), make_samples(4, 3)

    def of(covariances):
        return log_density(theta._replace(covariances=covariances), X)

    assert torch.autograd.gradcheck(of, theta.covariances.clone().requires_grad_())


def test_scatter_is_that_of_matrices_along_directions(theta, make_samples):
    X, kind = make_samples(40, d), theta.scatter_type
    found, whole = e_step(theta, X), e_step(as_full(theta), X)
    assert_close(found.scatter[..., :-1], whole.scatter @ kind.directions)
    assert_close(found.scatter[..., -1], whole.scatter.diagonal(dim1=1, dim2=2))
    precisions = torch.diag_embed(1 / theta.covariances[..., -1])
    precisions = precisions - kind.directions @ kind.directions.mT
    assert_close(precisions, torch.linalg.inv(theta.full_covariances()))
    by = make_samples(K, d, seed=3)
    moved = found.recentred(by, kind).scatter
    centred = X - (theta.means - by).unsqueeze(1)
    resp = log_responsibilities(theta, X).exp()
    assert_close(moved, kind.scatter(centred, resp))


def test_an_iteration_is_that_of_factor_analysers_and_climbs(theta, make_samples):
    X = make_samples(60, d) @ make_samples(d, d, seed=2)
    before = log_density(theta, X).mean()
    for _ in range(4):
        resp = log_responsibilities(theta, X).exp()
        after = em_step(theta, X)
        for k in range(K):  # Ghahramani and Hinton 1996, equations 15 and 16, about the next mean
            # (and the factors' covariance goes into the loadings: Liu, Rubin and Wu 1998)
            F, psi = theta.covariances[k, :, :-1], theta.covariances[k, :, -1]
            y, a = X - after.means[k], resp[k]
            beta = F.mT @ torch.linalg.inv(F @ F.mT + psi.diag())
            z = y @ beta.mT
            identity = torch.eye(F.shape[1], dtype=F64)
            moments = a.sum() * (identity - beta @ F) + (z * a.unsqueeze(1)).mT @ z
            loadings = (y * a.unsqueeze(1)).mT @ z @ torch.linalg.inv(moments)
            left = (a @ y.square() - (loadings * ((y * a.unsqueeze(1)).mT @ z)).sum(1)) / a.sum()
            values, vectors = torch.linalg.eigh(moments / a.sum())
            loadings = loadings @ (vectors * values.sqrt()) @ vectors.mT
            assert_close(after.covariances[k, :, :-1], loadings)
            assert_close(after.covariances[k, :, -1], left)
        theta, likelihood = after, log_density(after, X).mean()
        assert likelihood >= before - 1e-12
        before = likelihood


def test_an_iteration_does_not_see_the_rotation_of_factors(theta, make_samples):
    X = make_samples(60, d)
    one, other = em_step(theta, X), em_step(turned(theta), X)
    assert_close(other.full_covariances(), one.full_covariances())
    assert_close(turned(one).covariances, em_step(turned(theta), X).covariances)


def test_canonical_factors_are_ordered_and_have_signs(theta):
    found = theta.canonical()
    assert_close(found.full_covariances(), theta.full_covariances())
    assert_close(turned(theta).canonical().covariances, found.covariances)
    W = found.covariances[..., :-1] / found.covariances[..., -1:].sqrt()
    gram = W.mT @ W
    lengths = gram.diagonal(dim1=1, dim2=2)
    assert_close(gram, torch.diag_embed(lengths))
    assert (lengths.diff(dim=-1) <= 0).all()
    assert (W.gather(1, W.abs().argmax(1, keepdim=True)) > 0).all()


def test_parameters_are_counted_without_rotations():
    assert LowRank(1).n_parameters(2, 5) == 2 * 10
    assert LowRank(3).n_parameters(1, 10) == 10 * 4 - 3
    assert LowRank(3).n_parameters(1, 3) == 6  # as many as a matrix has


def test_samples_have_the_covariances(make_mixture, random_seed):
    theta = low_rank(make_mixture, 2, seed=random_seed)
    X, labels = sample(theta, 200_000, generator=torch.Generator().manual_seed(random_seed))
    for k in range(K):
        found = torch.cov(X[labels == k].mT)
        assert_close(found, theta.full_covariances()[k], atol=0.1, rtol=0.05)
    X, a = rsample(theta, 100_000, generator=torch.Generator().manual_seed(random_seed))
    mean = theta.weights @ theta.means
    assert_close(a @ X, mean, atol=0.02, rtol=0.02)


def test_parts_are_those_of_matrices(theta, make_samples):
    some, values = [4, 0, 2], make_samples(1, 3)[0]
    found = marginal(theta, torch.tensor(some))
    assert_close(found.full_covariances(), marginal(as_full(theta), some).full_covariances())
    found, expected = condition(theta, values, some), condition(as_full(theta), values, some)
    assert found.covariance_type == theta.covariance_type
    assert_close(found.weights, expected.weights)
    assert_close(found.means, expected.means)
    assert_close(found.full_covariances(), expected.full_covariances())


def test_units_and_coordinates_come_back(theta):
    assert_close(theta.scaled(1e3).full_covariances(), 1e6 * theta.full_covariances())
    chart = theta.covariance_type.chart(theta.covariances)
    other = 2 * theta.covariances
    assert_close(chart.from_free(chart.to_free(other)), other)


def test_the_nearest_to_matrices_of_its_rank_is_the_same(make_mixture):
    theta = low_rank(make_mixture, 1)
    found = theta.covariance_type.nearest(theta.full_covariances(), theta.weights)
    matrices = theta.covariance_type.to_full(found, K, d)
    assert_close(matrices, theta.full_covariances(), atol=1e-3, rtol=1e-3)
    diagonal = theta.covariance_type.nearest(theta.variances(), theta.weights)
    assert_close(theta.covariance_type.to_full(diagonal, K, d), torch.diag_embed(theta.variances()))


def test_types_are_of_a_rank():
    storage = torch.ones(2, 5, 4)
    assert LowRank().of_storage(storage) == LowRank(3) != LowRank(2)
    assert LowRank(3).holds(LowRank(2))
    assert LowRank(3).holds(DIAG)
    assert not LowRank(2).holds(LowRank(3))
    weights, means = torch.ones(2) / 2, torch.zeros(2, 5)
    assert GaussianMixtureParams(weights, means, storage, "lowrank").covariance_type == LowRank(3)


def test_variances_along_directions_are_those_of_matrices(theta, make_samples):
    directions, kind = make_samples(4, d), theta.covariance_type
    found = kind.variances_along(directions, theta.covariances)
    full = theta.full_covariances()
    assert_close(found, FULL.variances_along(directions, full))
    share = torch.tensor([0.0, 0.5, 1.0], dtype=F64)
    shrunk = kind.to_full(kind.shrunk(theta.covariances, share), K, d)
    assert_close(shrunk, FULL.shrunk(full, share))


def test_matrices_of_many_features_are_refused():
    kind = LowRank(1)
    with pytest.raises(ValueError, match="few features where they become matrices"):
        kind.to_full(torch.ones(1, 20_000, 2), 1, 20_000)


def test_variances_of_nothing_are_refused(make_mixture):
    theta = low_rank(make_mixture, 1)
    theta.covariances[0, 0, -1] = 0
    with pytest.raises(ValueError, match="ill-defined empirical covariance"):
        theta.prepare()
