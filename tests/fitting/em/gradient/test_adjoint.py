"""The derivative of the E-step over blocks, against autograd's tape."""

import pytest
import torch
from cotangents import lend, symmetric
from torch.testing import assert_close

from skgmmot.fitting.em.gradient.adjoint import CentredAdjoint, FeatureAdjoint, score
from skgmmot.gaussian.evaluators import FeatureEStep
from skgmmot.gaussian.log_density import log_joint
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.gaussian.statistics import Statistics, e_step

F64 = torch.float64


def as_leaves(theta):
    return GaussianMixtureParams(*(t.clone().requires_grad_() for t in theta))


def cotangents_of_statistics(theta, seed):
    u = symmetric(theta, seed)
    return Statistics(u.weights, u.means, u.covariances, torch.zeros((), dtype=F64))


def inner(left, right):
    return sum((p * q).sum() for p, q in zip(left, right, strict=True))


@pytest.fixture(params=["features", "centred"])
def make_adjoint(request):
    """Either way to pull cotangents back through the E-step, about the origin 0.1."""

    def make(theta, cotangents):
        origin = torch.full((3,), 0.1, dtype=F64)
        about = theta.translated(-origin)
        if request.param == "centred":
            return CentredAdjoint(about, origin, cotangents)
        return FeatureAdjoint(FeatureEStep(about, origin), cotangents)

    return make


def test_the_score_is_that_of_the_log_joint(theta, X):
    signed = symmetric(theta, 5).weights.unsqueeze(1) * X[:, 0]  # (K, n), of both signs
    leaves = as_leaves(theta)
    expected = torch.autograd.grad((signed * log_joint(leaves.prepare(), X)).sum(), leaves)
    kind = theta.covariance_type
    centred = X - theta.means.unsqueeze(1)
    moments = Statistics(
        signed.sum(1), (signed.unsqueeze(-1) * centred).sum(1), kind.scatter(centred, signed), None
    )
    precisions = kind.precisions(kind.precision_factor(theta.covariances))
    assert_close(tuple(score(theta, precisions, moments)), expected)


def test_the_e_step_is_pulled_back_to_the_mixture(theta, X, a, make_adjoint):
    cotangents = cotangents_of_statistics(theta, 7)
    leaves = as_leaves(theta)
    # the centres of the statistics are constants: move them back to where they were
    kind = theta.covariance_type
    found = e_step(leaves, X, a).recentred(leaves.means - theta.means, kind)
    expected = torch.autograd.grad(inner(found[:3], cotangents[:3]), leaves)
    adjoint = make_adjoint(theta, cotangents)
    moments = adjoint.moments(*adjoint.block(X, a, lend))
    precisions = kind.precisions(kind.precision_factor(theta.covariances))
    assert_close(tuple(score(theta, precisions, moments)), expected, rtol=1e-11, atol=1e-11)


def test_the_e_step_is_pulled_back_to_samples_and_their_weights(theta, X, a, make_adjoint):
    cotangents = cotangents_of_statistics(theta, 9)
    X = X.clone().requires_grad_()
    weights = (torch.ones(len(X), dtype=F64) if a is None else a.clone()).requires_grad_()
    sums = e_step(theta, X, weights)
    expected = torch.autograd.grad(inner(sums[:3], cotangents[:3]), (X, weights))
    found = make_adjoint(theta, cotangents).samples(X.detach(), a, lend)
    assert_close(found, expected, rtol=1e-11, atol=1e-11)


def test_blocks_add(theta, X, a, make_adjoint):
    adjoint = make_adjoint(theta, cotangents_of_statistics(theta, 13))
    halves = [
        adjoint.block(X[rows], None if a is None else a[rows], lend)
        for rows in (slice(0, 20), slice(20, 50))
    ]
    assert_close(tuple(p + q for p, q in zip(*halves, strict=True)), adjoint.block(X, a, lend))


def test_a_component_of_weight_zero_has_no_score_in_its_weight(theta, X):
    kind = theta.covariance_type
    dead = theta._replace(weights=torch.tensor([0.5, 0.5, 0.0, 0.0], dtype=F64))
    moments = Statistics(*(torch.zeros_like(t) for t in theta), None)
    found = score(dead, kind.precisions(kind.precision_factor(theta.covariances)), moments)
    assert all(torch.isfinite(t).all() for t in found)
