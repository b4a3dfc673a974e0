"""Newton's method for degrees of freedom and widths."""

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_t

from skgmmot.fitting.robust.student import LEAST, MOST, StudentMixtureParams, e_step
from skgmmot.fitting.robust.student_fit import StudentEM
from skgmmot.fitting.robust.tails import LONGEST, tail_step
from skgmmot.fitting.samples import InMemory
from skgmmot.gaussian.covariance.registry import COVARIANCE_TYPES
from skgmmot.numerics.fixed_point import iterate

F64 = torch.float64
MEANS = np.array([[0.0, 0.0], [3.0, 1.0]])
SHAPES = np.array([[[1.0, 0.3], [0.3, 0.7]], [[1.4, -0.2], [-0.2, 0.9]]])


@pytest.fixture
def X(random_seed):
    """Samples of two t distributions of 3 and 8 degrees of freedom."""
    rng = np.random.default_rng(random_seed)
    parts = zip(MEANS, SHAPES, [3, 8], [900, 600], strict=True)
    return np.concatenate([multivariate_t(m, S, nu).rvs(n, rng) for m, S, nu, n in parts])


def mixture(kind, nu=(3.5, 7.0)):
    storage = SHAPES if kind == "full" else SHAPES[:1]
    tensors = ([0.6, 0.4], MEANS, storage, nu)
    tensors = (torch.tensor(np.asarray(t), dtype=F64) for t in tensors)
    return StudentMixtureParams(*tensors, COVARIANCE_TYPES[kind])


def derivatives(f, at, eps=1e-4):
    """The gradient and the Hessian of a function by central differences."""
    E = eps * np.eye(len(at))
    gradient = [(f(at + e) - f(at - e)) / (2 * eps) for e in E]
    hessian = [
        [(f(at + e + h) - f(at + e - h) - f(at - e + h) + f(at - e - h)) / (4 * eps**2) for h in E]
        for e in E
    ]
    return np.array(gradient), np.array(hessian)


@pytest.mark.parametrize("kind", ["full", "tied"])
def test_the_step_is_newtons_by_finite_differences(X, kind):
    theta = mixture(kind)
    shapes = np.broadcast_to(theta.covariances.numpy(), SHAPES.shape)
    nu = theta.degrees_of_freedom.numpy()

    def logs(widths, log_nu):
        parts = zip(MEANS, shapes, widths, log_nu, strict=True)
        return [multivariate_t(m, np.exp(c) * S, np.exp(v)).logpdf(X) for m, S, c, v in parts]

    joint = np.log(theta.weights.numpy())[:, None] + logs([0, 0], np.log(nu))
    resp = np.exp(joint - np.logaddexp(*joint))
    n_widths = len(theta.covariances)

    def likelihood(at):
        return (resp * logs(np.broadcast_to(at[:n_widths], 2), at[n_widths:])).sum() / len(X)

    gradient, hessian = derivatives(likelihood, np.r_[np.zeros(n_widths), np.log(nu)])
    assert (np.linalg.eigvalsh(hessian) < 0).all()
    expected = -np.linalg.solve(hessian, gradient)
    found = tail_step(theta, e_step(theta, torch.from_numpy(X)))
    np.testing.assert_allclose(np.log(found.degrees.numpy() / nu), expected[n_widths:], atol=1e-5)
    assert found.largest == pytest.approx(np.abs(expected[n_widths:]).max(), abs=1e-5)
    # EM's own widths: tr(S^-1 S') / d, about the locations of before
    y = X - MEANS[:, None]
    distances = np.einsum("kni,kij,knj->kn", y, np.linalg.inv(shapes), y)
    u = (nu[:, None] + 2) / (nu[:, None] + distances)
    mass, spread = resp.sum(1), (resp * u * distances).sum(1) / 2
    of_em = np.log(spread.sum() / mass.sum() if kind == "tied" else spread / mass)
    np.testing.assert_allclose(found.widths.numpy() + of_em, expected[:n_widths], atol=1e-5)


@pytest.mark.parametrize("kind", ["full", "tied"])
@pytest.mark.parametrize("reg_covar", [0.0, 0.05])
def test_a_fixed_point_of_em_stays(X, kind, reg_covar):
    samples = torch.from_numpy(X)
    em = StudentEM(InMemory(samples, None), torch.zeros(2, dtype=F64), reg_covar)
    end = iterate(em, mixture(kind), tol=0.0, max_iter=1500).value
    found = tail_step(end, e_step(end, samples), reg_covar)
    assert found.largest < 1e-5
    np.testing.assert_allclose(found.widths, 0, atol=1e-5)
    for part in (0.5, 1.0):
        moved = found.of(end, part)
        torch.testing.assert_close(moved.covariances, end.covariances, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["full", "tied"])
def test_components_without_samples_stay_and_steps_are_bounded(kind):
    theta = mixture(kind, nu=(900.0, 5.0))
    theta = theta._replace(weights=torch.tensor([1.0, 0.0], dtype=F64))
    normal = np.random.default_rng(0).normal(size=(500, 2)) @ np.linalg.cholesky(SHAPES[0]).T
    found = tail_step(theta, e_step(theta, torch.from_numpy(normal)))
    assert found.degrees[1] == 5
    assert LEAST <= found.degrees[0] <= MOST
    assert torch.isfinite(found.widths).all()
    if kind == "full":
        assert found.widths[1] == 0


def test_far_from_the_maximum_the_step_is_uphill_and_not_known_to_be_the_last():
    theta = mixture("full", nu=(500.0, 500.0))
    theta = theta._replace(weights=torch.tensor([1.0, 0.0], dtype=F64))
    X = multivariate_t(MEANS[0], SHAPES[0], 3).rvs(2000, 0)
    found = tail_step(theta, e_step(theta, torch.from_numpy(X)))
    assert float(found.degrees[0]) == pytest.approx(500 / 4)
    assert found.largest == LONGEST
