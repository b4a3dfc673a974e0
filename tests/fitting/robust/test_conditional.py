"""Conditional distributions of mixtures of t distributions."""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import quad

from skgmmot.fitting.robust.conditional import StudentCondition
from skgmmot.fitting.robust.student import StudentEStep, StudentMixtureParams
from skgmmot.gaussian.conditional import PreparedCondition
from skgmmot.gaussian.covariance.registry import COVARIANCE_TYPES

F64 = torch.float64
TYPES = ("full", "tied", "diag", "spherical")


def mixture(kind, d, nu=(3.0, 12.0)):
    """Two components in d dimensions, the second one perhaps Gaussian."""
    gen = torch.Generator().manual_seed(d)
    A = torch.randn(2, d, d, generator=gen, dtype=F64)
    full = A @ A.mT + 0.5 * torch.eye(d, dtype=F64)
    storage = {
        "full": full,
        "tied": full[:1],
        "diag": full.diagonal(dim1=1, dim2=2),
        "spherical": full.diagonal(dim1=1, dim2=2).mean(1, keepdim=True),
    }[kind]
    means = torch.randn(2, d, generator=gen, dtype=F64)
    tensors = torch.tensor([0.3, 0.7]).double(), means, storage, torch.tensor(nu).double()
    return StudentMixtureParams(*tensors, COVARIANCE_TYPES[kind])


def log_density(theta, X, features=None):
    """The log-density of some features, by scipy."""
    d = theta.means.shape[1]
    chosen = np.arange(d) if features is None else np.array(features)
    S = theta.gaussians().full_covariances().numpy()[:, chosen[:, None], chosen]
    parts = zip(theta.means.numpy()[:, chosen], S, theta.degrees_of_freedom.numpy(), strict=True)
    each = [stats.multivariate_t(m, s, nu).logpdf(X) for m, s, nu in parts]
    return np.logaddexp(*(np.log(theta.weights.numpy())[:, None] + np.reshape(each, (2, -1))))


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("nu", [(3.0, 12.0), (0.7, np.inf)])
def test_densities_are_joint_ones_over_marginal_ones(kind, nu, rng):
    theta = mixture(kind, 4, nu)
    X = 3 * rng.normal(size=(20, 4))
    prepared = StudentCondition.of(theta, [0, 1])
    x, y = torch.from_numpy(X[:, :2]), torch.from_numpy(X[:, 2:])
    log_resp = prepared.e_step().log_responsibilities(x)
    found = prepared.log_density(x, y, log_resp)
    expected = log_density(theta, X) - log_density(theta, X[:, :2], [0, 1])
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)
    at = prepared.at(x[0])  # the same as a mixture of its own
    own = StudentEStep(at.gaussians().prepare(), at.degrees_of_freedom).log_density(y[:1])
    np.testing.assert_allclose(own, expected[:1], rtol=1e-10)


@pytest.mark.parametrize("x", [0.3, -9.0])
@pytest.mark.parametrize("kind", ["full", "tied"])
def test_means_and_deviations_are_those_of_the_joint_density(kind, x):
    theta = mixture(kind, 2)

    def integral(f):
        """The integral of f(y) p(x, y) over y."""

        def under(u):  # y = u / (1 - u^2)
            y = u / (1 - u * u)
            joint = np.exp(log_density(theta, np.array([[x, y]]))[0])
            return f(y) * joint * (1 + u * u) / (1 - u * u) ** 2

        return quad(under, -1, 1, epsabs=1e-13, epsrel=1e-9, limit=500)[0]

    mass = integral(lambda y: 1.0)
    mean = integral(lambda y: y) / mass
    variance = integral(lambda y: (y - mean) ** 2) / mass
    prepared, at = StudentCondition.of(theta, [0]), torch.tensor([[x]], dtype=F64)
    resp = prepared.e_step().responsibilities(at)[0]
    found = prepared.mean_and_deviation(at, resp)
    assert float(found[0]) == pytest.approx(mean, rel=1e-5, abs=1e-6)
    assert float(found[1]) == pytest.approx(np.sqrt(variance), rel=1e-4)
    assert float(prepared.mean(at, resp)) == float(found[0])


def test_deviations_are_infinite_without_a_variance():
    prepared = StudentCondition.of(mixture("full", 2, (0.5, 30.0)), [0])
    at = torch.zeros(1, 1, dtype=F64)
    for resp, finite in (([0.5, 0.5], False), ([0.0, 1.0], True)):
        resp = torch.tensor(resp, dtype=F64).unsqueeze(1)
        assert bool(torch.isfinite(prepared.mean_and_deviation(at, resp)[1])) == finite


def test_draws_have_the_conditional_distribution(random_seed):
    theta, rng = mixture("full", 2, (1.5, 6.0)), np.random.default_rng(random_seed)
    prepared, at = StudentCondition.of(theta, [0]), torch.tensor([[2.0]], dtype=F64)
    resp = prepared.e_step().responsibilities(at)[0]
    n = 4000
    uniforms = torch.from_numpy(rng.random((1, n)))
    normals = torch.from_numpy(rng.normal(size=(1, n, prepared.n_normals)))
    drawn = prepared.draw(at, resp, uniforms, normals)[0, :, 0].numpy()
    S, m, nu = (t.numpy() for t in (theta.covariances, theta.means, theta.degrees_of_freedom))
    slope = S[:, 1, 0] / S[:, 0, 0]
    place = m[:, 1] + slope * (2 - m[:, 0])
    width = (nu + (2 - m[:, 0]) ** 2 / S[:, 0, 0]) / (nu + 1) * (S[:, 1, 1] - slope * S[:, 0, 1])

    def distribution(y):
        each = stats.t.cdf((y[:, None] - place) / np.sqrt(width), nu + 1)
        return each @ resp[:, 0].numpy()

    assert stats.kstest(drawn, distribution).pvalue > 1e-4


def test_infinite_degrees_of_freedom_are_gaussians(rng):
    theta = mixture("full", 3, (np.inf, np.inf))
    gaussian = PreparedCondition.of(theta.gaussians(), [2, 0])
    student = StudentCondition.of(theta, [2, 0])
    x, y = torch.from_numpy(rng.normal(size=(5, 2))), torch.from_numpy(rng.normal(size=(5, 1)))
    resp = gaussian.e_step().responsibilities(x)[0]
    pairs = zip(
        student.mean_and_deviation(x, resp), gaussian.mean_and_deviation(x, resp), strict=True
    )
    for found, expected in pairs:
        torch.testing.assert_close(found, expected)
    found = student.log_density(x, y, resp.log())
    torch.testing.assert_close(found, gaussian.log_density(x, y, resp.log()))
