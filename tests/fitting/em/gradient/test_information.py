"""The covariance of a mixture's parameters, against second derivatives by autograd."""

import pytest
import torch
from torch.testing import assert_close

from skgmmot.fitting.em.fit import fit_em
from skgmmot.fitting.em.gradient import information
from skgmmot.fitting.em.gradient.information import covariance_of, parameter_covariance
from skgmmot.fitting.em.rows import EM
from skgmmot.fitting.samples import InMemory
from skgmmot.gaussian.covariance.registry import COVARIANCE_TYPES, FULL
from skgmmot.gaussian.log_density import log_density
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.gaussian.sampling import sample

F64 = torch.float64
K, D, N = 3, 2, 400


@pytest.fixture(params=["weighted", "plain"])
def a(request, make_samples):
    if request.param == "plain":
        return None
    return make_samples(N, 1, seed=1).squeeze(1).mul(0.5).exp()


def maximum(theta0, X, a=None, **options):
    """A fixed point of EM, as near as its polish goes."""
    X = X.clone().requires_grad_()
    options = {"gradient_tol": 1e-10, "tol": 1e-6, "reg_covar": 0.0, **options}
    return fit_em(theta0, X, a, acceleration="newton", **options).value.detach()


@pytest.fixture
def drawn(make_mixture):
    """Samples of a mixture of a type, and the maximum of their likelihood near it."""

    def make(name, a=None, seed=0, **options):
        theta = make_mixture(name, K, D, seed=5)
        X, _ = sample(theta, N, generator=torch.Generator().manual_seed(seed))
        return X, maximum(theta, X, a, **options)

    return make


class Free:
    """Coordinates without constraints: all weights but the last, means, lower triangles."""

    def __init__(self, theta, fixed_weights=False):
        self.theta, self.fixed = theta, fixed_weights
        self.lower = torch.ones(theta.covariances.shape, dtype=torch.bool)
        if theta.covariance_type in (COVARIANCE_TYPES["full"], COVARIANCE_TYPES["tied"]):
            self.lower = self.lower.tril()
        first = theta.weights[: 0 if fixed_weights else -1]
        self.vector = torch.cat([first, theta.means.flatten(), theta.covariances[self.lower]])

    def mixture(self, vector):
        n_weights = 0 if self.fixed else K - 1
        w, m, s = vector.split([n_weights, K * D, len(vector) - n_weights - K * D])
        weights = self.theta.weights if self.fixed else torch.cat([w, 1 - w.sum()[None]])
        S = torch.zeros(self.lower.shape, dtype=F64).masked_scatter(self.lower, s)
        if self.theta.covariance_type in (COVARIANCE_TYPES["full"], COVARIANCE_TYPES["tied"]):
            S = S.tril() + S.tril(-1).mT
        return GaussianMixtureParams(weights, m.view(K, D), S, self.theta.covariance_type)


def by_autograd(theta, X, a, *, robust, fixed_weights=False):
    """The same from the Hessian of the log-likelihood, by the delta method."""
    free = Free(theta, fixed_weights)
    a = torch.ones(len(X), dtype=F64) if a is None else a

    def log_likelihoods(vector):
        return log_density(free.mixture(vector), X)

    def stored(vector):
        return torch.cat([t.flatten() for t in free.mixture(vector)])

    hessian = torch.autograd.functional.hessian(lambda v: a @ log_likelihoods(v), free.vector)
    slopes = torch.autograd.functional.jacobian(stored, free.vector)
    inverse = torch.linalg.inv(-hessian)
    if robust:
        of_samples = torch.autograd.functional.jacobian(
            log_likelihoods, free.vector, vectorize=True
        )
        scores = a[:, None] * of_samples
        inverse = inverse @ scores.mT @ scores @ inverse
    return slopes @ inverse @ slopes.mT


def test_it_is_that_of_the_second_derivative(drawn, a, covariance_type, monkeypatch):
    X, theta = drawn(covariance_type, a)
    expected = [by_autograd(theta, X, a, robust=robust) for robust in (False, True)]
    for small in (True, False):
        if not small:  # products with the derivative one by one
            monkeypatch.setattr(
                "skgmmot.fitting.em.gradient.derivative.has_matrix", lambda features: False
            )
        for robust in (False, True):
            found = parameter_covariance(theta, X, a, robust=robust)
            assert found.distance < 1e-6
            scale = expected[robust].diagonal().sqrt()
            error = (found.covariance - expected[robust]) / scale.outer(scale)
            assert error.abs().max() < 1e-6


@pytest.mark.parametrize("robust", [False, True])
def test_weights_that_are_known_have_no_error(drawn, covariance_type, robust):
    X, theta = drawn(covariance_type, fixed_weights=True)
    found = parameter_covariance(theta, X, robust=robust, fixed_weights=True).covariance
    expected = by_autograd(theta, X, None, robust=robust, fixed_weights=True)
    assert (found[:K] == 0).all()
    assert_close(found, expected, rtol=1e-6, atol=1e-6 * float(expected.diagonal().max()))


def test_one_gaussian_has_the_errors_of_the_textbook(make_samples):
    X = make_samples(N, D) @ torch.tensor([[2.0, 0.0], [1.0, 0.5]], dtype=F64)
    mean, S = X.mean(0), torch.cov(X.mT, correction=0)
    theta = GaussianMixtureParams(torch.ones(1).double(), mean[None], S[None], FULL)
    found = parameter_covariance(theta, X).covariance
    # var S_ij = (S_ii S_jj + S_ij^2) / n
    of_S = S.diagonal().outer(S.diagonal()) + S.square()
    assert found[0].abs().max() < 1e-15
    assert_close(found[1:3, 1:3], S / N)
    assert_close(found.diagonal()[3:].view(D, D), of_S / N)


@pytest.mark.parametrize("robust", [False, True])
def test_errors_do_not_depend_on_units_also_where_their_squares_leave_the_range(robust):
    X = torch.randn(50, D, dtype=F64)
    unit = torch.tensor([1.0, 1e100], dtype=F64)
    theta = GaussianMixtureParams(
        torch.ones(1).double(), X.mean(0)[None], X.var(0, False)[None], COVARIANCE_TYPES["diag"]
    )
    of_diagonal = parameter_covariance(theta, X, robust=robust)
    assert_close(of_diagonal.errors, of_diagonal.covariance.diagonal().clamp(min=0).sqrt())
    with pytest.raises(ValueError, match="standard errors must have squares within"):
        parameter_covariance(scaled(theta, unit), X * unit, robust=robust)
    em = EM(InMemory(X * unit), torch.zeros(D, dtype=F64), 0.0)
    found = covariance_of(em, scaled(theta, unit), robust=robust).errors
    assert_close(found / torch.cat([torch.ones(1).double(), unit, unit**2]), of_diagonal.errors)


def scaled(theta, unit):
    """A diagonal mixture in other units."""
    return theta._replace(means=theta.means * unit, covariances=theta.covariances * unit**2)


def test_counts_are_repeated_rows_and_robust_weights_have_only_ratios(drawn):
    a = torch.arange(N) % 3
    X, theta = drawn("full", a.double())
    counted = parameter_covariance(theta, X, a.double())
    repeated = parameter_covariance(theta, X.repeat_interleave(a, dim=0))
    assert_close(counted.covariance, repeated.covariance)
    once, twice = (parameter_covariance(theta, X, c * a.double(), robust=True) for c in (1, 2))
    assert_close(once.covariance, twice.covariance)


def test_it_does_not_depend_on_the_offset_nor_on_the_precision_of_samples(drawn):
    X, theta = drawn("full")
    near = parameter_covariance(theta, X).covariance
    by = torch.tensor([1e4, -1e4], dtype=F64)
    assert_close(parameter_covariance(theta.translated(by), X + by).covariance, near)
    found = parameter_covariance(theta, X.float()).covariance
    assert found.dtype == F64
    assert_close(found, near, rtol=1e-4, atol=1e-8)


def test_the_order_of_the_components_is_that_of_the_parameters(drawn):
    X, theta = drawn("diag")
    order = torch.tensor([2, 0, 1])
    moved = GaussianMixtureParams(*(t[order] for t in theta), theta.covariance_type)
    rows = (order[:, None] * D + torch.arange(D)).flatten()
    index = torch.cat([order, K + rows, K + K * D + rows])
    expected = parameter_covariance(theta, X).covariance[index][:, index]
    assert_close(parameter_covariance(moved, X).covariance, expected)


def test_the_distance_from_the_maximum_is_in_standard_errors(drawn):
    X, theta = drawn("full")
    errors = parameter_covariance(theta, X).covariance.diagonal().sqrt()
    means = theta.means + 0.01 * errors[K : K + K * D].view(K, D)
    found = parameter_covariance(theta._replace(means=means), X)
    assert 0.008 < found.distance < 0.012


@pytest.mark.parametrize(
    "change, message",
    [
        ({"weights": [0.5, 0.5, 0.0]}, r"components must have samples .* without: \[2\]"),
        ({"means": [[0.0, 0.0]] * 3}, "not positive definite .* fit with a smaller tol"),
    ],
)
@pytest.mark.parametrize("name", ["spherical", "full", "tied"])
def test_parameters_that_samples_do_not_determine_are_refused(drawn, name, change, message):
    X, theta = drawn(name)
    change = {name: torch.tensor(value, dtype=F64) for name, value in change.items()}
    with pytest.raises(ValueError, match=message):
        parameter_covariance(theta._replace(**change), X)


def test_variances_without_an_inverse_are_refused(make_samples):
    side = torch.tensor([[-3.0], [3.0]], dtype=F64)
    X = (make_samples(N, 1).view(2, -1, 1) + side[:, None]).view(-1, 1)

    def errors(variance):
        halves, unit = torch.full((2,), 0.5, dtype=F64), variance**0.5
        theta = GaussianMixtureParams(halves, unit * side, torch.full_like(side, variance), "diag")
        return parameter_covariance(theta, unit * X).errors

    assert_close(errors(1e-300)[2:4], 1e-150 * errors(1.0)[2:4], rtol=1e-8, atol=0)
    with pytest.raises(ValueError, match=r"inverses within float64 .* got one of 1.0e-309"):
        errors(1e-309)


def test_components_that_coincide_are_named(make_samples):
    X = make_samples(N, 1)
    twin = torch.tensor([0.5, 0.5], dtype=F64)
    variance = X.var(correction=0).expand(2, 1)
    theta = GaussianMixtureParams(twin, X.mean(0).expand(2, 1), variance, "diag")
    with pytest.raises(
        ValueError, match=r"determine all parameters.* in components \[[01], [01]\]"
    ):
        parameter_covariance(theta, X)


def test_types_that_are_not_elementary_and_large_mixtures_are_refused(drawn, monkeypatch):
    X, theta = drawn("full")
    monkeypatch.setattr(information, "MAX_PARAMETERS", 20)
    with pytest.raises(ValueError, match="at most 20 numbers for standard errors, got 21"):
        parameter_covariance(theta, X)
    other = type("Other", (type(FULL),), {"name": "other", "base": FULL})()
    other = theta._replace(covariance_type=other)
    with pytest.raises(ValueError, match="must be elementary for standard errors, got 'other'"):
        parameter_covariance(other, X)


def test_what_is_no_mixture_or_no_samples_is_refused(drawn):
    X, theta = drawn("full")
    with pytest.raises(TypeError, match="theta must be a GaussianMixtureParams"):
        parameter_covariance(tuple(theta), X)
    with pytest.raises(ValueError, match=r"X must have shape \(n, 2\), the features of theta,"):
        parameter_covariance(theta, X[:, :1])
