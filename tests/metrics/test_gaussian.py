"""Distances between two Gaussians and between the moments of samples."""

import mpmath
import numpy as np
import ot
import pytest
import scipy.linalg
import torch
from torch.testing import assert_close

from skgmmot import DifferentiableGaussianMixture, MixtureWasserstein
from skgmmot.metrics import bures_wasserstein_distance, frechet_distance


def mixture(rng, K=3, d=2):
    """Random weights, means and full covariances."""
    A = rng.normal(size=(K, d, d))
    return rng.dirichlet(np.ones(K)), 3 * rng.normal(size=(K, d)), A @ A.mT + 0.1 * np.eye(d)


def test_the_distance_between_gaussians_is_that_of_pot(rng):
    (_, (m0,), (S0,)), (_, (m1,), (S1,)) = mixture(rng, 1, 3), mixture(rng, 1, 3)
    expected = ot.gaussian.bures_wasserstein_distance(m0, m1, S0, S1)
    assert np.isclose(bures_wasserstein_distance((m0, S0), (m1, S1)), expected)
    squared = bures_wasserstein_distance((m0, S0), (m1, S1), squared=True)
    assert np.isclose(squared, expected**2)
    tensors = [torch.tensor(t, requires_grad=True) for t in (m0, S0)]
    bures_wasserstein_distance(tuple(tensors), (m1, S1)).backward()
    assert all(t.grad.abs().sum() > 0 for t in tensors)


def test_a_gaussian_has_a_matrix_variances_or_one_variance():
    point = ([0.0, 0.0], 0.0)
    for covariance, trace in ((2.0, 4.0), ([1.0, 2.0], 3.0), ([[1.0, 1.0], [1.0, 4.0]], 5.0)):
        squared = bures_wasserstein_distance(([3.0, 4.0], covariance), point, squared=True)
        assert np.isclose(squared, 25 + trace)


@pytest.mark.parametrize(
    ("gaussian", "error", "message"),
    [
        ([0.0, 0.0], ValueError, r"source must have a mean \(d,\)"),
        (np.zeros(2), TypeError, r"source must be a pair \(mean, covariance\), got ndarray"),
        (([0.0], [[-1.0]]), ValueError, "positive semi-definite"),
        (([0.0, 1.0], 1.0), ValueError, "equal numbers of features, got 2 and 1"),
        (([0.0], [[np.nan]]), ValueError, "must be finite"),
    ],
)
def test_what_is_no_gaussian_is_refused(gaussian, error, message):
    with pytest.raises(error, match=message):
        bures_wasserstein_distance(gaussian, ([0.0], 1.0))


def frechet_by_scipy(X, Y):
    """FID as it is usually computed."""
    S0, S1 = np.cov(X.T), np.cov(Y.T)
    trace = np.trace(S0 + S1 - 2 * np.real(scipy.linalg.sqrtm(S0 @ S1)))
    return np.sum((X.mean(0) - Y.mean(0)) ** 2) + trace


def test_the_frechet_distance_is_that_of_unbiased_moments(rng):
    X, Y = rng.normal(size=(50, 4)), 2 * rng.normal(size=(30, 4)) + 1
    assert frechet_distance(X, Y, squared=True) == pytest.approx(frechet_by_scipy(X, Y))
    fits = [DifferentiableGaussianMixture(1, reg_covar=0).fit(Z) for Z in (X, Y)]
    assert frechet_distance(X, Y, ddof=0) == pytest.approx(MixtureWasserstein()(*fits))
    assert frechet_distance(X, X) == 0


def test_the_frechet_distance_takes_fewer_samples_than_features_and_has_their_gradient(rng):
    X, Y = (torch.tensor(rng.normal(size=(n, 12))) for n in (5, 7))
    found = frechet_distance(X, Y)
    assert found.item() == frechet_distance(X.numpy(), Y.numpy())
    A, B = ((Z - Z.mean(0)) / (len(Z) - 1) ** 0.5 for Z in (X, Y))
    nuclear = torch.linalg.svdvals(A @ B.mT).sum()
    squared = (X.mean(0) - Y.mean(0)).square().sum() + A.square().sum() + B.square().sum()
    assert_close(found**2, squared - 2 * nuclear)
    assert torch.autograd.gradcheck(frechet_distance, (X.requires_grad_(), Y.requires_grad_()))


@pytest.mark.parametrize("sizes", [(2, 2), (3, 9), (5, 40), (40, 5), (5, 200), (12, 12), (13, 14)])
@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("squared", [False, True])
def test_few_and_many_samples_have_the_distance_of_their_moments(sizes, ddof, squared, rng):
    X, Y = (rng.normal(size=(n, 12)) + 100 for n in sizes)
    moments = [(Z.mean(0), np.cov(Z.T, ddof=ddof)) for Z in (X, Y)]
    expected = bures_wasserstein_distance(*moments, squared=squared)
    found, error = frechet_distance(X, Y, ddof=ddof, squared=squared, return_error=True)
    plain = frechet_distance(X, Y, ddof=ddof, squared=squared)
    assert plain == frechet_distance(Y, X, ddof=ddof, squared=squared)
    assert abs(found - plain) <= error
    assert plain == pytest.approx(expected, rel=1e-6)
    few = min(sizes) <= 12 and np.prod(sizes) <= 4 * 12**2  # else by singular covariances
    assert error < (1e-12 if few else 1e-6) * found


def test_the_error_of_the_frechet_distance_of_few_samples_is_honest(rng):
    ratios = []
    for case in range(40):
        n, m = rng.integers(2, 8, size=2)
        offset, apart = 10.0 ** rng.integers(-2, 4), 10.0 ** rng.integers(-4, 2)
        X = rng.normal(size=(n, 8)) + offset
        Y = X + apart * rng.normal(size=(n, 8)) if case % 2 else rng.normal(size=(m, 8)) + offset
        found, error = frechet_distance(X, Y, squared=True, return_error=True)
        ratios.append(abs(found - exact_frechet(X, Y)) / error)
    assert np.sum(np.array(ratios) > 1) == 0
    assert np.median(ratios) > 1 / 30


@pytest.mark.parametrize("n", [4, 7, 30])
def test_the_error_covers_what_rounding_leaves_between_the_same_samples_in_another_order(n, rng):
    for _ in range(20):
        X = rng.normal(size=(n, 5)) * 10.0 ** rng.integers(-8, 8, size=5)
        found, error = frechet_distance(X, rng.permutation(X), return_error=True)
        assert found <= error


def exact_frechet(X, Y):
    """The squared distance with sixty digits."""
    with mpmath.workdps(60):
        means, centred = [], []
        for Z in (X, Y):
            Z = mpmath.matrix(Z.tolist())
            means.append([sum(Z[:, j]) / Z.rows for j in range(Z.cols)])
            rows = [[Z[i, j] - means[-1][j] for j in range(Z.cols)] for i in range(Z.rows)]
            centred.append(mpmath.matrix(rows) / mpmath.sqrt(Z.rows - 1))
        singular = mpmath.svd_r(centred[0] * centred[1].T, compute_uv=False)
        squares = sum(x**2 for A in centred for x in A) - 2 * sum(singular)
        return float(sum((a - b) ** 2 for a, b in zip(*means, strict=True)) + squares)


@pytest.mark.parametrize("n", [5, 50])
@pytest.mark.parametrize("scale", [1e-300, 1e-140, 1e140, 1e300])
def test_the_frechet_distance_is_homogeneous_at_any_scale(n, scale, rng):
    X, Y = rng.normal(size=(n, 6)), 2 * rng.normal(size=(n, 6))
    expected, error = frechet_distance(X, Y, return_error=True)
    found = frechet_distance(scale * X, scale * Y, return_error=True)
    assert found == pytest.approx((scale * expected, scale * error), rel=1e-9, abs=0)
    if 1e-150 < scale < 1e150:
        squared = frechet_distance(scale * X, scale * Y, squared=True)
        assert squared == pytest.approx(found[0] ** 2, rel=1e-9, abs=0)
    else:
        with pytest.raises(ValueError, match="a squared distance must be within float64"):
            frechet_distance(scale * X, scale * Y, squared=True)


@pytest.mark.parametrize(
    ("X", "message"),
    [
        ([1.0, 2.0], r"source must have shape"),
        ([[1.0]], "more than 1 samples"),
        ([[np.nan]] * 2, "finite"),
    ],
)
def test_samples_without_moments_have_no_frechet_distance(X, message):
    with pytest.raises(ValueError, match=message):
        frechet_distance(X, [[0.0], [1.0]])
    with pytest.raises(ValueError, match="ddof must be 0 or 1, got 2"):
        frechet_distance([[0.0], [1.0]], [[0.0], [1.0]], ddof=2)
