"""A covariance type of one's own: one object and its line in the registry."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch.testing import assert_close

from skgmmot import (
    DifferentiableGaussianMixture,
    MixtureBarycenter,
    OTMap,
    Prior,
    SemidiscreteGMM,
    SlicedWassersteinGMM,
    WassersteinQuantizer,
)
from skgmmot.fitting.em.step import m_step
from skgmmot.functional import fit_em, transport_plan
from skgmmot.gaussian.covariance.base import CovarianceType
from skgmmot.gaussian.covariance.registry import COVARIANCE_TYPES, DIAG, FULL, SPHERICAL
from skgmmot.gaussian.log_density import log_density, log_responsibilities
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.gaussian.statistics import moments
from skgmmot.metrics import (
    mixture_wasserstein_distance,
    semidiscrete_distance,
    sliced_mixture_wasserstein,
    sliced_wasserstein_distance,
)

F64 = torch.float64


class SharedSphere(CovarianceType):
    """One variance for all components and features, ``(1, 1)``."""

    name, base, shared = "shared_sphere", SPHERICAL, True

    def shape(self, n_components, n_features):
        return (1, 1)

    def n_parameters(self, n_components, n_features):
        return 1

    def to_base(self, covariances, n_components, n_features):
        return covariances.expand(n_components, 1)

    def nearest(self, matrices, weights):
        return (SPHERICAL.nearest(matrices, weights).mT @ weights / weights.sum()).view(1, 1)

    def estimate(self, mass, shift, scatter, reg_covar):
        within = scatter - mass.unsqueeze(-1) * SPHERICAL.outer(shift, shift)
        return within.sum(0, keepdim=True) / mass.sum() + reg_covar

    def to_public(self, storage):
        return storage.view(())

    def from_public(self, array):
        return array.view(1, 1)


class Factors(CovarianceType):
    """The covariances of probabilistic principal components: a sphere and one direction more.

    They are stored as matrices ``(K, d, d)``.
    """

    name, base = "factors", FULL

    def shape(self, n_components, n_features):
        return (n_components, n_features, n_features)

    def n_parameters(self, n_components, n_features):
        return n_components * (n_features + 1)

    def to_base(self, covariances, n_components, n_features):
        return covariances

    def nearest(self, matrices, weights):
        values, vectors = torch.linalg.eigh(FULL.nearest(matrices, weights))
        rest = values[:, :-1].mean(-1, keepdim=True).expand_as(values[:, :-1])
        values = torch.cat([rest, values[:, -1:]], dim=-1)
        return (vectors * values.unsqueeze(-2)) @ vectors.mT

    def estimate(self, mass, shift, scatter, reg_covar):
        return self.nearest(FULL.estimate(mass, shift, scatter, reg_covar), mass)


class Deviations(CovarianceType):
    """Spherical covariances, stored as standard deviations ``(K, 1)``."""

    name, base = "deviations", SPHERICAL

    def shape(self, n_components, n_features):
        return (n_components, 1)

    def n_parameters(self, n_components, n_features):
        return n_components

    def to_base(self, covariances, n_components, n_features):
        return covariances.square()

    def nearest(self, matrices, weights):
        return SPHERICAL.nearest(matrices, weights).sqrt()

    def estimate(self, mass, shift, scatter, reg_covar):
        return SPHERICAL.estimate(mass, shift, scatter, reg_covar).sqrt()

    def scaled(self, covariances, factor):
        return covariances * factor**0.5


KINDS = {kind.name: kind for kind in (SharedSphere(), Factors())}
K, d = 3, 3


@pytest.fixture(params=KINDS)
def name(request, monkeypatch):
    """A type of one's own, registered."""
    monkeypatch.setitem(COVARIANCE_TYPES, request.param, KINDS[request.param])
    return request.param


@pytest.fixture
def X(make_samples):
    """Samples of three overlapping clusters of unequal spreads."""
    noise, centres = make_samples(150, d, seed=1), 2.5 * torch.eye(d, dtype=F64)
    scale = torch.tensor([[1.0, 0.5, 0.8]], dtype=F64)
    return centres.repeat(50, 1) + noise * scale


@pytest.fixture
def fitted(name, X):
    """An estimator fitted to them."""
    return DifferentiableGaussianMixture(
        K, covariance_type=name, tol=1e-9, max_iter=1000, reg_covar=0.0, random_state=0
    ).fit(X.numpy())


def as_full(mixture):
    """A fitted estimator as a mixture with one matrix a component."""
    kind, (weights, means) = (
        KINDS[mixture.covariance_type],
        map(torch.from_numpy, (mixture.weights_, mixture.means_)),
    )
    storage = kind.from_public(torch.as_tensor(np.asarray(mixture.covariances_)))
    return GaussianMixtureParams(weights, means, kind.to_full(storage, *means.shape), FULL)


def test_it_is_refused_while_it_is_not_registered(X):
    with pytest.raises(ValueError, match=r"'covariance_type' parameter .* must be a str among"):
        DifferentiableGaussianMixture(K, covariance_type="shared_sphere").fit(X)


def test_arrays_without_a_type_are_of_an_elementary_one(name, X, make_mixture):
    full, sphere = make_mixture("full", K, d), make_mixture("spherical", 1, d)
    assert GaussianMixtureParams(*full).covariance_type is FULL
    assert mixture_wasserstein_distance(tuple(full), full) == 0
    assert mixture_wasserstein_distance(tuple(sphere), sphere) == 0
    theta = start("shared_sphere", X)
    with pytest.raises(ValueError, match=r"must have shape .* or name the covariance_type"):
        GaussianMixtureParams(*theta)
    assert GaussianMixtureParams(*start(name, X), name).covariance_type is KINDS[name]


def test_descents_in_storage_need_an_elementary_type(name, X):
    for estimator in (SlicedWassersteinGMM, MixtureBarycenter):
        with pytest.raises(ValueError, match="'covariance_type' parameter"):
            estimator(K, covariance_type=name).fit(X)


def test_a_fit_is_a_fixed_point_of_its_closed_form(fitted, X):
    resp = torch.from_numpy(fitted.predict_proba(X.numpy())).mT
    _, means, covariances = as_full(fitted)
    mass = resp.sum(1)
    assert_close(means, resp @ X / mass.unsqueeze(1), rtol=1e-5, atol=1e-5)
    centred = X - means.unsqueeze(1)
    scatter = (centred * resp.unsqueeze(-1)).mT @ centred
    identity = torch.eye(d, dtype=F64)
    if fitted.covariance_type == "shared_sphere":
        variance = scatter.diagonal(dim1=1, dim2=2).sum() / (len(X) * d)
        expected = variance * identity.expand(K, d, d)
    else:
        values, vectors = torch.linalg.eigh(scatter / mass[:, None, None])
        noise = values[:, :-1].mean(1)[:, None, None]
        lead = vectors[:, :, -1:] * (values[:, -1, None, None] - noise).sqrt()
        expected = lead @ lead.mT + noise * identity
    assert_close(covariances, expected, rtol=1e-5, atol=1e-5)


def test_the_shared_variance_is_the_mean_of_the_diagonal_type(X):
    resp = torch.softmax(X @ X[:K].mT, dim=1).mT
    theta = start("shared_sphere", X)
    diag = theta._replace(covariances=torch.ones(K, d, dtype=F64), covariance_type=DIAG)
    found = m_step(theta, moments(theta, X, resp)).covariances
    variances = m_step(diag, moments(diag, X, resp)).covariances
    assert_close(found, (resp.sum(1) @ variances / len(X)).mean().view(1, 1))


def test_for_one_component_a_shared_sphere_is_a_sphere(monkeypatch, X):
    monkeypatch.setitem(COVARIANCE_TYPES, "shared_sphere", KINDS["shared_sphere"])
    one, sphere, diag = (
        DifferentiableGaussianMixture(1, covariance_type=t).fit(X.numpy())
        for t in ("shared_sphere", "spherical", "diag")
    )
    assert one.covariances_.shape == ()
    assert one.covariances_ == pytest.approx(sphere.covariances_[0], rel=1e-12)
    assert one.covariances_ == pytest.approx(diag.covariances_.mean(), rel=1e-12)
    assert one.lower_bound_ == pytest.approx(sphere.lower_bound_, rel=1e-12)


def test_densities_are_those_of_full_matrices(fitted, X):
    full = as_full(fitted)
    expected = log_density(full, X).numpy()
    np.testing.assert_allclose(fitted.score_samples(X.numpy()), expected, rtol=1e-10)
    resp = log_responsibilities(full, X).exp().mT.numpy()
    np.testing.assert_allclose(fitted.predict_proba(X.numpy()), resp, rtol=1e-8, atol=1e-12)
    np.testing.assert_array_equal(fitted.predict(X.numpy()), resp.argmax(1))
    n_parameters = KINDS[fitted.covariance_type].n_parameters(K, d) + K * d + K - 1
    bic = -2 * expected.sum() + n_parameters * np.log(len(X))
    assert fitted.bic(X.numpy()) == pytest.approx(bic)


def test_samples_have_its_moments(fitted, random_seed):
    fitted.random_state = random_seed
    Y, labels = fitted.sample(60_000)
    _, means, covariances = as_full(fitted)
    for k in range(K):
        np.testing.assert_allclose(np.cov(Y[labels == k].T), covariances[k], atol=0.05)
        np.testing.assert_allclose(Y[labels == k].mean(0), means[k], atol=0.05)


def test_saved_and_fitted_on_it_is_the_same(fitted, X):
    loaded = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(loaded.predict_proba(X.numpy()), fitted.predict_proba(X.numpy()))
    again = loaded.set_params(warm_start=True).fit(X.numpy())
    np.testing.assert_allclose(again.means_, fitted.means_, atol=1e-4)
    assert again.n_iter_ <= 2


def start(name, X):
    """Means at three samples, and one wide covariance."""
    wide = KINDS[name].nearest(2 * torch.ones(K, d, dtype=F64), torch.ones(K, dtype=F64))
    weights = torch.full((K,), 1 / K, dtype=F64)
    return GaussianMixtureParams(weights, X[:K].detach().clone(), wide, KINDS[name])


@pytest.mark.parametrize(
    "options",
    [
        {"gradient": "implicit"},
        {"gradient": "implicit", "fixed_weights": True},
        {"gradient": "implicit", "e_step": "sinkhorn"},
        {"gradient": "implicit", "acceleration": "squarem"},
        {"gradient": "automatic"},
        {"gradient": "implicit", "prior": "auto"},
        {"gradient": "automatic", "prior": "auto", "fixed_means": [True, False, False]},
        {"gradient": "implicit", "fixed_weights": [True, False, False], "fixed_means": True},
    ],
)
def test_gradients_are_finite_differences(name, options, X):
    options = options | {"tol": 1e-13, "max_iter": 2000, "reg_covar": 1e-3}
    a, theta0 = torch.linspace(0.5, 1.5, len(X), dtype=F64), start(name, X)
    generator = torch.Generator().manual_seed(3)
    dX, da, *v = (
        torch.randn(t.shape, dtype=F64, generator=generator)
        for t in (X, a, theta0.weights, theta0.means, theta0.full_covariances())
    )

    def loss(X, a):
        theta = fit_em(theta0, X, a, **options).value
        numbers = theta.weights, theta.means, theta.full_covariances()
        return sum((p * q).sum() for p, q in zip(numbers, v, strict=True))

    inputs = X.clone().requires_grad_(), a.clone().requires_grad_()
    of_X, of_a = torch.autograd.grad(loss(*inputs), inputs)
    eps = 1e-5
    with torch.no_grad():
        ahead, behind = (loss(X + t * dX, a + t * da) for t in (eps, -eps))
    found = (of_X * dX).sum() + (of_a * da).sum()
    assert_close(found, (ahead - behind) / (2 * eps), rtol=1e-4, atol=1e-5)


def test_a_prior_is_that_of_its_base(name, X):
    options = {"prior": Prior(2.0, scale=1.0), "reg_covar": 0.0, "tol": 1e-12, "max_iter": 300}
    solution = fit_em(start(name, X), X[:12], **options)
    assert (np.diff(solution.objectives) >= -1e-13).all()
    same = fit_em(start(name, X), X[:12], fixed_covariances=True, **options).value
    assert torch.equal(same.covariances, start(name, X).covariances)


def test_it_has_no_natural_gradient(name, X):
    options = {"gradient": "natural", "fixed_weights": True}
    theta = fit_em(start(name, X), X.clone().requires_grad_(), **options).value
    with pytest.raises(ValueError, match="covariance_type must be elementary for velocities"):
        theta.means.sum().backward()


def test_transport_is_that_of_full_matrices(fitted, X):
    other = DifferentiableGaussianMixture(2, random_state=0).fit(X.numpy() + 1)
    full, distance = as_full(fitted), mixture_wasserstein_distance
    assert distance(fitted, other) == pytest.approx(float(distance(full, other)), rel=1e-9)
    ours, theirs = (OTMap(other).fit(s) for s in (fitted, full))
    for rows in (X[:5].numpy(), X.numpy()):
        images = theirs.transform(rows)
        np.testing.assert_allclose(ours.transform(rows), images, rtol=1e-7, atol=1e-9)
    assert ours.distance_ == pytest.approx(theirs.distance_, rel=1e-9)
    back = OTMap(fitted).fit(other)
    assert back.distance_ == pytest.approx(ours.distance_, rel=1e-9)


def test_the_distance_is_differentiable_in_its_storage(name, X, make_mixture):
    theta, target = start(name, X), make_mixture("full", 2, d)

    def cost(S):
        return transport_plan(theta._replace(covariances=(S + S.mT) / 2), target).cost

    assert torch.autograd.gradcheck(cost, theta.covariances.clone().requires_grad_())


# --- storage that is not linear in the covariances -----------------------------------------------


@pytest.fixture
def spheres(monkeypatch, make_mixture):
    """A spherical mixture, and the same one stored as deviations."""
    monkeypatch.setitem(COVARIANCE_TYPES, "deviations", Deviations())
    sphere = make_mixture("spherical", K, d)
    return sphere, sphere._replace(
        covariances=sphere.covariances.sqrt(), covariance_type=Deviations()
    )


@pytest.mark.parametrize("n_features", [2, d])
@pytest.mark.parametrize("what", ["semidiscrete", "sliced", "samples", "quantizer"])
def test_a_change_of_unit_scales_the_storage(what, n_features, spheres, X):
    points = 50 * X[:5, :n_features].numpy()

    def result(mixture):
        mixture = mixture._replace(means=mixture.means[:, :n_features])
        if what == "semidiscrete":
            return semidiscrete_distance(mixture, points, integration="nodes", n_nodes=64)
        if what == "sliced":
            other = spheres[0].scaled(9.0)
            other = other._replace(means=other.means[:, :n_features])
            return sliced_mixture_wasserstein(mixture, other)
        if what == "samples":
            return sliced_wasserstein_distance(mixture, points)
        quantizer = WassersteinQuantizer(2, n_nodes=64 * K, tol=0.1, random_state=0)
        return torch.as_tensor(quantizer.fit(mixture.scaled(8.0)).cluster_centers_)

    sphere, stored = spheres
    assert_close(result(stored), result(sphere))


@pytest.mark.parametrize(
    "estimator",
    [
        DifferentiableGaussianMixture(2, e_step="sinkhorn"),
        DifferentiableGaussianMixture(2, init_params="sinkhorn"),
        SemidiscreteGMM(2, tol=1e-6, warm_start=True),
    ],
)
def test_fits_are_those_of_the_same_model(estimator, spheres, X):
    X = 8 * X[:40, :2].numpy()
    stored, sphere = (
        clone(estimator).set_params(covariance_type=name, random_state=0)
        for name in ("deviations", "spherical")
    )
    for _ in range(2):
        stored.fit(X), sphere.fit(X)
    np.testing.assert_allclose(stored.means_, sphere.means_, rtol=1e-6)
    np.testing.assert_allclose(np.square(stored.covariances_[:, 0]), sphere.covariances_, rtol=1e-6)


@pytest.mark.parametrize("gradient", ["implicit", "automatic"])
def test_derivatives_are_those_at_the_given_reg_covar(gradient, spheres, X):
    options = {"gradient": gradient, "reg_covar": 0.5, "tol": 1e-10, "max_iter": 500}

    def derivative(theta0):
        inputs = X.clone().requires_grad_()
        theta = fit_em(theta0._replace(means=X[:K].clone()), inputs, **options).value
        return torch.autograd.grad((theta.means**3 + theta.full_covariances()).sum(), inputs)[0]

    sphere, stored = spheres
    assert_close(derivative(stored), derivative(sphere), rtol=1e-5, atol=1e-6)
