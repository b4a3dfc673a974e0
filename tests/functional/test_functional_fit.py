"""Whole fits as functions: their values, and their gradients."""

import pytest
import torch
from torch.testing import assert_close

from skgmmot import DifferentiableGaussianMixture
from skgmmot.functional import WarmStart, fit_em
from skgmmot.functional.covariance import covariance_type_of
from skgmmot.functional.em import em_step

TYPES = ["full", "tied", "diag", "spherical"]


@pytest.fixture(params=TYPES)
def problem(request, make_mixture, make_samples):
    """A start, samples around it and their weights, for each covariance type."""
    start = make_mixture(request.param, 2, 2, spread=2.5)
    X = make_samples(30, 2) + start.means.repeat(15, 1)
    a = make_samples(30, 1, seed=9).mul(0.3).exp().squeeze(1)
    return start, X, a


@pytest.mark.parametrize("fixed_weights", [False, True])
def test_the_function_fits_what_the_estimator_fits(problem, fixed_weights):
    start, X, a = problem
    kind = covariance_type_of(start.covariances)
    model = DifferentiableGaussianMixture(
        2,
        covariance_type=kind.name,
        weights_init=start.weights,
        means_init=start.means,
        precisions_init=kind.to_public(kind.precisions(kind.precision_factor(start.covariances))),
        fixed_weights=fixed_weights,
    ).fit(X, sample_weight=a)
    solution = fit_em(start, X, a, fixed_weights=fixed_weights)
    assert_close(solution.value.weights, model.weights_)
    assert_close(solution.value.means, model.means_)
    assert_close(kind.to_public(solution.value.covariances), model.covariances_)
    assert solution.n_iter == model.n_iter_


def test_fixed_weights_stay_and_the_rest_moves(problem):
    start, X, a = problem
    free, fixed = (em_step(start, X, a, fixed_weights=f) for f in (False, True))
    assert fixed.weights is start.weights
    assert_close(fixed.means, free.means)
    assert_close(fixed.covariances, free.covariances)
    solution = fit_em(start, X, a, fixed_weights=True)
    assert_close(solution.value.weights, start.weights)


def test_a_warm_start_goes_on_where_it_ended(problem):
    start, X, a = problem
    em = WarmStart(start, reg_covar=0.0)
    em(X, a)
    second = em(X, a)
    expected = em_step(em_step(start, X, a), X, a)
    for ours, theirs in zip(second, expected, strict=True):
        assert_close(ours, theirs)
    assert not second.means.requires_grad


def test_a_warm_start_is_differentiated_through_its_one_step(problem):
    start, X, _ = problem
    X.requires_grad_()
    em = WarmStart(start, reg_covar=0.0)
    gradient = torch.autograd.grad(em(X).means.sum(), X)
    assert_close(gradient, torch.autograd.grad(em_step(start, X).means.sum(), X))
    assert not em.theta.means.requires_grad
