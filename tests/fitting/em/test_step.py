"""The E-step, the M-step and what differentiates their fixed point."""

import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch.testing import assert_close

from skgmmot.fitting.em.step import counted_mass, em_step
from skgmmot.gaussian.covariance.registry import ELEMENTARY_TYPES
from skgmmot.gaussian.mixture import GaussianMixtureParams, select
from skgmmot.gaussian.statistics import e_step
from skgmmot.numerics.adjoint import automatic, implicit
from skgmmot.numerics.fixed_point import iterate
from skgmmot.numerics.linalg import symmetrize

F64 = torch.float64
K, d, n = 3, 2, 60


@pytest.fixture(params=[t.name for t in ELEMENTARY_TYPES])
def theta(request, make_mixture):
    """A mixture of each covariance type."""
    return make_mixture(request.param, K, d)


@pytest.fixture
def X(make_samples, theta):
    """Samples near the components, spread wider than they are."""
    return 1.5 * make_samples(n, d) + theta.means.repeat(n // K, 1)


@pytest.fixture(params=["unweighted", "weighted"])
def a(request, make_samples):
    """Sample weights, or none."""
    return None if request.param == "unweighted" else make_samples(n, 1, seed=9).exp().squeeze(1)


# --- closed forms ------------------------------------------------------------------------------


@pytest.mark.parametrize("dimension", [1, 3])
@pytest.mark.parametrize("name", [t.name for t in ELEMENTARY_TYPES])
def test_one_component_becomes_the_moments_of_the_weighted_samples(
    name, dimension, a, make_mixture, make_samples
):
    X = make_samples(n, dimension) + 5
    weights = torch.ones(n, dtype=F64) if a is None else a
    theta = em_step(make_mixture(name, 1, dimension), X, a, reg_covar=0.25)
    mean = weights @ X / weights.sum()
    S = ((X - mean) * weights.unsqueeze(1)).mT @ (X - mean) / weights.sum()
    if name in ("diag", "spherical"):
        S = torch.diag(S.diagonal())
    if name == "spherical":
        S = S.trace() / dimension * torch.eye(dimension, dtype=F64)
    assert_close(theta.weights, torch.ones(1, dtype=F64))
    assert_close(theta.means[0], mean)
    assert_close(theta.full_covariances()[0], S + 0.25 * torch.eye(dimension, dtype=F64))


# --- peers -------------------------------------------------------------------------------------


def test_one_iteration_is_that_of_sklearn(theta, X):
    kind = theta.covariance_type
    precisions = kind.precisions(kind.precision_factor(theta.covariances))
    theirs = GaussianMixture(
        K,
        covariance_type=kind.name,
        max_iter=1,
        tol=0.0,
        reg_covar=1e-3,
        weights_init=theta.weights.numpy(),
        means_init=theta.means.numpy(),
        precisions_init=kind.to_public(precisions).numpy(),
    )
    with pytest.warns(ConvergenceWarning, match="did not converge"):
        theirs.fit(X.numpy())
    ours = em_step(theta, X, reg_covar=1e-3)
    tolerances = {"rtol": 1e-10, "atol": 1e-12}
    assert_close(ours.weights, torch.from_numpy(theirs.weights_), **tolerances)
    assert_close(ours.means, torch.from_numpy(theirs.means_), **tolerances)
    covariances = kind.from_public(torch.from_numpy(theirs.covariances_))
    assert_close(ours.covariances, covariances, **tolerances)
    likelihood = e_step(theta, X).log_likelihood.item() / n
    assert likelihood == pytest.approx(theirs.lower_bound_, rel=1e-12)


# --- derivatives -------------------------------------------------------------------------------


def test_one_iteration_passes_gradcheck(theta, X, make_samples):
    def step(weights, means, covariances, X, a):
        if covariances.ndim == 3:
            covariances = symmetrize(covariances)
        return tuple(em_step(GaussianMixtureParams(weights, means, covariances), X, a))

    weights = make_samples(6, 1, seed=9).exp().squeeze(1)
    inputs = [t.clone().requires_grad_() for t in (*theta, X[:6], weights)]
    assert torch.autograd.gradcheck(step, inputs)


@pytest.mark.parametrize("name", [t.name for t in ELEMENTARY_TYPES])
def test_implicit_gradients_are_the_automatic_ones_at_convergence(name, make_mixture, make_samples):
    start = make_mixture(name, 2, d)
    start = start._replace(means=torch.tensor([[-2.0, 0.0], [2.0, 1.0]], dtype=F64))
    X = (make_samples(30, d) + start.means.repeat(15, 1)).requires_grad_()
    a = make_samples(30, 1, seed=9).mul(0.3).exp().squeeze(1).requires_grad_()

    def F(theta):
        return em_step(GaussianMixtureParams(*theta), X, a, reg_covar=1e-3)

    def step(theta):
        with torch.no_grad():
            return F(theta), 0.0

    solution = iterate(step, start, tol=0.0, max_iter=120)
    assert_close(solution.value, solution.previous, rtol=1e-12, atol=1e-12)
    # A loss that is symmetric in nothing: every entry has its own coefficient.
    coefficients = [make_samples(t.numel(), 1, seed=i).view_as(t) for i, t in enumerate(start)]
    gradients = []
    for strategy in (implicit, automatic):
        theta = strategy(F, start, solution)
        loss = sum((c * t).sum() for c, t in zip(coefficients, theta, strict=True))
        gradients.append(torch.autograd.grad(loss, (X, a)))
    for ours, expected in zip(*gradients, strict=True):
        assert expected.abs().max() > 1e-3
        assert_close(ours, expected, rtol=1e-7, atol=1e-9)


def test_masses_are_counted_as_by_sklearn_and_none_where_there_is_none():
    # ten epsilons are more than it, and a trillionth of a sample counts
    mass = torch.tensor([1e-12, 50.0, 0.0, 1e-17], dtype=F64, requires_grad=True)
    eps = torch.finfo(F64).eps
    counted, alive = counted_mass(mass)
    assert alive.tolist() == [True, True, False, False]
    assert_close(counted[0], mass[0] + 10 * eps, rtol=1e-9, atol=0)
    assert counted[2:].tolist() == [0.0, 0.0]
    assert torch.autograd.grad(counted.sum(), mass)[0].tolist() == [1.0] * 4
    counted, alive = counted_mass(mass[:2])
    assert alive is None
    assert_close(counted[0], mass[0] + 10 * eps, rtol=1e-9, atol=0)


# --- invariances -------------------------------------------------------------------------------


def test_scaled_weights_give_the_same_mixture(theta, X):
    assert_close(em_step(theta, X, torch.full((n,), 7.0, dtype=F64)), em_step(theta, X))


def test_components_may_be_permuted(theta, X, a):
    order = torch.tensor([2, 0, 1])

    def permuted(theta):
        shared = theta.covariance_type.shared
        S = theta.covariances if shared else theta.covariances[order]
        return GaussianMixtureParams(theta.weights[order], theta.means[order], S)

    assert_close(em_step(permuted(theta), X, a), permuted(em_step(theta, X, a)))


def test_likelihood_never_decreases(theta, X, a):
    likelihoods = []
    for _ in range(20):
        likelihoods.append(e_step(theta, X, a).log_likelihood)
        theta = em_step(theta, X, a)
    assert (torch.stack(likelihoods).diff() >= -1e-9).all()
    assert likelihoods[-1] > likelihoods[0] + 1e-3


# --- edges -------------------------------------------------------------------------------------


def test_a_component_without_mass_keeps_its_mean_and_has_no_weight(theta, X):
    far = theta._replace(means=theta.means + torch.tensor([[0.0], [0.0], [1e6]], dtype=F64))
    following = em_step(far, X, reg_covar=1e-3)
    assert all(torch.isfinite(t).all() for t in following)
    assert_close(following.means[2], far.means[2])
    assert following.weights[2] == 0
    if not theta.covariance_type.shared:
        assert torch.equal(following.covariances[2], theta.covariances[2])
    # the others are those of a mixture without it
    rest = em_step(select(theta, [0, 1]), X, reg_covar=1e-3)
    assert_close(select(following, [0, 1]), rest)


def test_an_iteration_has_its_derivatives_in_a_weight_of_zero(theta, X, a):
    theta = theta._replace(weights=torch.tensor([0.0, 0.4, 0.6], dtype=F64))
    if theta.covariance_type.shared:
        theta = theta._replace(means=theta.means[1:2].expand(K, -1))

    def living(weights):  # the others move; the component itself stays, but for its weight
        following = em_step(theta._replace(weights=weights), X, a, reg_covar=1e-3)
        return torch.cat([following.weights, following.means[1:].flatten()])

    found = torch.autograd.functional.jacobian(living, theta.weights)
    assert torch.isfinite(found).all()
    step = torch.tensor([1e-7, 0.0, 0.0], dtype=F64)
    expected = (living(theta.weights + step) - living(theta.weights)) / 1e-7
    assert_close(found[:, 0], expected, rtol=1e-3, atol=1e-3)  # up to the curvature


def test_components_that_coincide_stay_together(theta, X, a):
    same = GaussianMixtureParams(
        torch.full((K,), 1 / K, dtype=F64),
        theta.means[:1].expand(K, -1),
        theta.covariances[:1].expand_as(theta.covariances),
    )
    following = em_step(same, X, a)
    assert_close(following.weights, same.weights)
    assert_close(following.means, following.means[:1].expand(K, -1))


@pytest.mark.parametrize(("dtype", "offset"), [(torch.float32, 4096.0), (F64, 2.0**26)])
def test_an_iteration_far_from_the_origin_keeps_its_digits(dtype, offset, theta, X, a):
    # Multiples of 1/64 move by a power of two without rounding.
    X, means = ((64 * t).round() / 64 for t in (X, theta.means))
    theta = theta._replace(means=means)
    far = GaussianMixtureParams(*(t.to(dtype) for t in theta._replace(means=means + offset)))
    found = em_step(far, (X + offset).to(dtype), None if a is None else a.to(dtype))
    expected = em_step(theta, X, a)
    assert found.weights.dtype == dtype
    assert_close(found.weights.double(), expected.weights, rtol=1e-4, atol=0)
    assert_close(found.covariances.double(), expected.covariances, rtol=1e-4, atol=1e-4)
    assert_close(found.means.double() - offset, expected.means, rtol=0, atol=1e-3)


def test_covariances_that_are_not_positive_are_refused(theta, X):
    with pytest.raises(ValueError, match="ill-defined empirical covariance"):
        em_step(theta._replace(covariances=-theta.covariances), X)
