"""Derivatives of a fit in data, weights and parameters."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from skgmmot import DifferentiableGaussianMixture
from skgmmot.fitting.em.iterations import EMStep
from skgmmot.numerics.adjoint import InexactGradientWarning


def fitted(X, covariance_type="full", **params):
    """Four components, from k-means, fitted."""
    params = {"n_components": 4, "random_state": 0, **params}
    return DifferentiableGaussianMixture(covariance_type=covariance_type, **params).fit(X)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("gradient", ["implicit", "automatic"])
def test_the_fit_is_differentiable_in_the_data(rng, covariance_type, gradient):
    X = np.vstack([rng.normal(size=(20, 2)) + 4 * k for k in range(2)])
    start = {"means_init": X[[0, 39]], "weights_init": np.full(2, 0.5)}
    start["precisions_init"] = {
        "full": np.stack([np.eye(2)] * 2),
        "tied": np.eye(2),
        "diag": np.ones((2, 2)),
        "spherical": np.ones(2),
    }[covariance_type]
    model = DifferentiableGaussianMixture(
        2, covariance_type=covariance_type, gradient=gradient, tol=0, max_iter=20, **start
    )

    def fit(X, weights):
        fitted = clone(model).fit(X, sample_weight=weights)
        return fitted.weights_, fitted.means_, fitted.covariances_

    inputs = (torch.tensor(X, requires_grad=True), torch.ones(40).double().requires_grad_())
    assert torch.autograd.gradcheck(
        fit,
        inputs,
        eps=1e-5,
        atol=1e-5,
        fast_mode=True,
        nondet_tol=1e-8,
        check_undefined_grad=False,
    )


@pytest.mark.parametrize("gradient", ["automatic", "one_step"])
def test_the_value_of_the_fit_does_not_depend_on_gradients_of_iterations(blobs, gradient):
    X = torch.tensor(blobs)
    plain, on_graph = fitted(X), fitted(X.clone().requires_grad_(), gradient=gradient)
    assert on_graph.covariances_.requires_grad
    assert np.allclose(on_graph.means_.detach(), plain.means_, rtol=1e-10)


def test_the_implicit_gradient_is_that_of_the_polished_fit(blobs):
    model = fitted(torch.tensor(blobs, requires_grad=True))
    exact = fitted(blobs, tol=1e-14, max_iter=3000)
    assert np.allclose(model.means_.detach(), exact.means_, rtol=1e-5)
    assert model.n_iter_ == fitted(blobs).n_iter_
    assert model.solution_.distance < 1e-6
    assert not hasattr(fitted(blobs), "solution_")


def test_the_natural_gradient_of_a_fit_needs_weights_that_stay(blobs):
    X = torch.tensor(blobs, requires_grad=True)
    model = fitted(X, gradient="natural", fixed_weights=True)
    implicit = fitted(X, fixed_weights=True)
    natural, exact = (torch.autograd.grad(m.means_.square().sum(), X)[0] for m in (model, implicit))
    assert (natural * exact).sum() > 0 and not torch.allclose(natural, exact, rtol=0.1)
    with pytest.raises(ValueError, match="must have fixed_weights=True"):
        fitted(X, gradient="natural")
    assert fitted(blobs, gradient="natural").converged_  # nobody asks for a gradient


def test_the_fit_says_how_exact_its_gradient_is(blobs):
    X = torch.tensor(blobs, requires_grad=True)
    model = fitted(X)
    assert model.solution_.distance < 1e-6 and np.isnan(model.solution_.adjoint.residual)
    model.means_.sum().backward()
    adjoint = pickle.loads(pickle.dumps(model)).solution_.adjoint
    assert adjoint.residual < 1e-6 and 0.5 < adjoint.spectral_radius < 1
    assert 0 < adjoint.one_step_error < 1
    assert not hasattr(model.fit(blobs), "solution_")


def test_a_fit_says_how_wrong_a_gradient_of_one_step_is(blobs):
    X = torch.tensor(blobs, requires_grad=True)
    exact, cheap = fitted(X), fitted(X, gradient="one_step", tol=1e-9, max_iter=500)
    right, found = (torch.autograd.grad(m.means_.square().sum(), X)[0] for m in (exact, cheap))
    true = ((found - right).norm() / right.norm()).item()
    assert true <= cheap.solution_.adjoint.error <= 1.3 * true
    assert exact.solution_.adjoint.error < 1e-6
    assert np.isnan(pickle.loads(pickle.dumps(fitted(X))).solution_.adjoint.error)


def test_a_polished_fit_has_converged_however_few_iterations_it_had(blobs):
    model = fitted(torch.tensor(blobs, requires_grad=True), max_iter=2, tol=1e-9)
    assert model.converged_ and model.n_iter_ == 2
    assert model.lower_bound_ == pytest.approx(model.score(blobs), rel=1e-9)


def test_a_fit_far_from_its_fixed_point_says_so(blobs):
    X = torch.tensor(blobs[::40, :1], requires_grad=True)
    with pytest.warns(InexactGradientWarning, match="implicit gradient may be off by"):
        fitted(X, n_components=2, gradient_tol=1e-300)


def test_an_interrupted_polish_keeps_the_fit(blobs, monkeypatch):
    def interrupted(self, theta):
        raise KeyboardInterrupt

    monkeypatch.setattr(EMStep, "linearise", interrupted)
    model = DifferentiableGaussianMixture(4, random_state=0)
    with pytest.raises(KeyboardInterrupt):
        model.fit(torch.tensor(blobs, requires_grad=True))
    assert np.allclose(model.means_, fitted(blobs).means_)


def test_nothing_is_on_a_graph_where_none_is_built(blobs):
    with torch.no_grad():
        model = fitted(torch.tensor(blobs, requires_grad=True))
    assert not model.means_.requires_grad and not hasattr(model, "solution_")
    assert np.allclose(model.means_, fitted(blobs).means_)


def test_starts_are_constants_of_the_gradient(blobs):
    start = fitted(blobs, max_iter=0)
    given = {"weights_init": start.weights_, "means_init": start.means_}
    given["precisions_init"] = start.precisions_
    found = []
    for params in ({}, given):
        X = torch.tensor(blobs, requires_grad=True)
        model = fitted(X, gradient="automatic", **params)
        found += torch.autograd.grad(model.means_.sum(), X)
    assert torch.allclose(*found, rtol=1e-6, atol=1e-8)


def test_the_best_of_several_starts_is_differentiated(blobs):
    X = torch.tensor(blobs, requires_grad=True)
    params = {"n_init": 5, "init_params": "random_from_data", "gradient_tol": 1e-8}
    model = fitted(X, **params)
    assert model.lower_bound_ > fitted(X, **{**params, "n_init": 1}).lower_bound_ - 1e-9
    (found,) = torch.autograd.grad(model.covariances_.sum(), X)
    given = {"weights_init": model.weights_, "means_init": model.means_}
    again = fitted(X, precisions_init=model.precisions_, gradient_tol=1e-8, **given)
    assert torch.allclose(found, torch.autograd.grad(again.covariances_.sum(), X)[0], rtol=1e-4)


def test_fixed_weights_are_uniform_or_those_given(blobs, covariance_type):
    model = fitted(blobs, covariance_type, fixed_weights=True)
    assert np.array_equal(model.weights_, np.full(4, 0.25))
    weights = np.array([0.1, 0.2, 0.3, 0.4])
    model = fitted(blobs, covariance_type, fixed_weights=True, weights_init=weights)
    assert np.allclose(model.weights_, weights, rtol=1e-15)
    assert not np.allclose(model.means_, fitted(blobs, covariance_type).means_)


def test_a_fit_with_fixed_weights_is_differentiable(blobs):
    X = torch.tensor(blobs, requires_grad=True)
    model = fitted(X, fixed_weights=True)
    model.means_.square().sum().backward()
    assert torch.isfinite(X.grad).all() and X.grad.abs().sum() > 0


def test_densities_are_differentiable_in_samples_and_parameters(blobs):
    X = torch.tensor(blobs, requires_grad=True)
    model = fitted(X)
    model.score_samples(X[:5]).sum().backward()
    assert torch.isfinite(X.grad).all() and X.grad.abs().sum() > 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("gradient", ["implicit", "automatic", "one_step"])
def test_gradients_on_a_gpu_are_those_of_the_cpu(blobs, gradient):
    found = []
    for device in ("cpu", "cuda"):
        X = torch.tensor(blobs, device=device, requires_grad=True)
        model = fitted(X, gradient=gradient, gradient_tol=1e-9)
        assert model.means_.device.type == device
        found.append(torch.autograd.grad(model.means_.sum(), X)[0].cpu())
    assert torch.allclose(*found, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("gradient", ["automatic", "one_step"])
def test_an_unconverged_fit_says_how_far_its_gradient_is_from_a_fixed_point(blobs, gradient):
    model = DifferentiableGaussianMixture(4, init_params="random", max_iter=2, random_state=0)
    X = torch.tensor(blobs, requires_grad=True)
    with pytest.warns(ConvergenceWarning, match=r"the last step moved by [\d.e-]+ in units"):
        model.set_params(gradient=gradient).fit(X)


def test_gradients_through_all_iterations_need_plain_iterations(blobs):
    X = torch.tensor(blobs, requires_grad=True)
    with pytest.raises(ValueError, match="gradient must be 'implicit' or 'one_step' when EM is"):
        fitted(X, gradient="automatic", acceleration="newton")
    assert fitted(X, acceleration="newton").means_.requires_grad
