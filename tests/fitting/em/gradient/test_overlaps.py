"""The derivative of the E-step as a matrix, by the moments that components share."""

import math

import pytest
import torch
from cotangents import lend, symmetric
from torch.testing import assert_close

from skgmmot.fitting.em.gradient.adjoint import FeatureAdjoint, score
from skgmmot.fitting.em.gradient.derivative import LinearisedEM, m_step_pullback
from skgmmot.fitting.em.gradient.overlaps import Overlaps, has_matrix, is_small
from skgmmot.fitting.em.rows import EM
from skgmmot.fitting.samples import InMemory
from skgmmot.gaussian.evaluators import FeatureEStep
from skgmmot.gaussian.statistics import e_step

F64 = torch.float64


def test_products_with_the_matrix_are_passes(theta, X, a):
    about = theta.translated(torch.full((3,), -0.1, dtype=F64))
    step = FeatureEStep(about, torch.full((3,), 0.1, dtype=F64))
    statistics = e_step(theta, X, a)
    several = symmetric(theta, 11, 5)  # five cotangents at once
    overlaps = Overlaps(step)
    adjoint = FeatureAdjoint(step, m_step_pullback(theta, statistics, several))
    found = overlaps.product(adjoint.H, *overlaps.block(X, a, lend))
    for i, H in enumerate(adjoint.H):
        one = several.map(lambda t, i=i: t[i])
        single = FeatureAdjoint(step, m_step_pullback(theta, statistics, one))
        assert_close(single.H, H)
        assert_close(found[i], single.block(X, a, lend)[0])
    precisions = step.precisions
    moments = score(theta, precisions, adjoint.moments(found))
    last = score(theta, precisions, single.moments(found[4]))
    assert_close(tuple(t[4] for t in moments), tuple(last))


def test_the_matrix_has_the_products_one_by_one_as_rows_with_noise_too(theta, X, a):
    em = EM(InMemory(X, a), torch.zeros(3, dtype=F64), 1e-6)
    for mixture in (theta, theta.with_noise(0.2, -5.0)):
        linear = LinearisedEM(em, mixture)
        unit_vectors = torch.eye(linear.residual.numel(), dtype=F64)
        rows = [linear.product(e) for e in unit_vectors]  # each by a pass
        assert_close(linear.matrix(), torch.stack(rows))


def step_of(make_mixture, name, K, d, offset=0.0):
    theta = make_mixture(name, K, d)
    return FeatureEStep(theta.translated(torch.full((d,), offset, dtype=F64)), torch.zeros(d))


@pytest.mark.parametrize(
    "name, n_distinct",
    [("full", math.comb(3 + 4, 4)), ("tied", math.comb(3 + 2, 2)), ("spherical", 15)],
)
def test_equal_products_of_features_are_computed_once(name, n_distinct, make_mixture, make_samples):
    overlaps = Overlaps(step_of(make_mixture, name, 2, 3))
    assert len(overlaps.left) == n_distinct
    phi = overlaps.step.posterior(make_samples(7, 3), lend)[0]
    products = (phi[overlaps.left] * phi[overlaps.right])[overlaps.entries]
    assert_close(products, phi.unsqueeze(1) * phi)


def test_the_matrix_is_for_few_components_near_the_origin(make_mixture):
    def small(name, K, d, n):
        step = step_of(make_mixture, name, K, d)
        packed = step.theta.covariance_type.packed(make_mixture(name, K, d).covariances)
        return is_small(step, K + K * d + packed.numel(), n)

    assert small("full", 4, 3, 1000)
    assert small("full", 8, 8, 20_000)
    assert not small("full", 50, 8, 20_000)
    assert not small("full", 8, 12, 100)  # whose products cost less than the matrix's algebra
    assert small("tied", 2, 10, 1000)
    assert not small("tied", 2, 100, 1000)  # 5,252 numbers, 202 features
    assert has_matrix(step_of(make_mixture, "full", 4, 3))
    assert not has_matrix(step_of(make_mixture, "full", 4, 3, offset=1e3))
    assert not has_matrix(step_of(make_mixture, "diag", 2, 200))  # 401 features
