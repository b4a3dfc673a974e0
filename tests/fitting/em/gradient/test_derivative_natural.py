"""Natural steps: both ways to the Gram matrix lead to the same."""

import torch
from torch.testing import assert_close

from skgmmot.fitting.em.constraint import constraint_of
from skgmmot.fitting.em.gradient import derivative
from skgmmot.fitting.em.rows import EM
from skgmmot.fitting.samples import InMemory
from skgmmot.gaussian.sampling import rsample

F64 = torch.float64


def test_both_ways_to_the_gram_matrix_agree(
    covariance_type, make_mixture, make_samples, monkeypatch
):
    theta = make_mixture(covariance_type, 3, 2, spread=1.5)
    theta = theta._replace(weights=torch.full((3,), 1 / 3, dtype=F64))
    X, _ = rsample(theta, 120, generator=torch.Generator().manual_seed(1))
    a = make_samples(120, 1, seed=2).mul(0.5).exp().squeeze(1)
    constraint = constraint_of(theta.covariance_type, len(theta.weights), weights=True)
    em = EM(InMemory(X, a), torch.zeros(2, dtype=F64), 1e-6, constraint)
    linear = derivative.LinearisedEM(em, theta)
    assert linear.small
    units = torch.eye(linear.residual.numel(), dtype=F64)
    expected = linear.natural(units)
    monkeypatch.setattr(derivative, "FeatureGram", None)
    linear.small = False
    linear._forward = lambda change: change @ linear._matrix.mT
    assert_close(linear.natural(units), expected, rtol=1e-8, atol=1e-10)
