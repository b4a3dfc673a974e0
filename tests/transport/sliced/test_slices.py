"""Projections on lines, and distribution functions of one-dimensional mixtures."""

import pytest
import torch
from scipy.stats import norm
from torch.testing import assert_close

from skgmmot.transport.sliced.directions import directions
from skgmmot.transport.sliced.slices import (
    Slices,
    SortedSamples,
    derivatives,
    evaluate,
    slice_samples,
    slices,
)

F64 = torch.float64


@pytest.fixture
def lines():
    """Three components on two lines."""
    generator = torch.Generator().manual_seed(0)
    means, deviations = (torch.rand(2, 3, dtype=F64, generator=generator) + 0.2 for _ in range(2))
    return Slices(torch.tensor([0.2, 0.3, 0.5], dtype=F64), means, deviations)


POINTS = torch.linspace(-2, 3, 7, dtype=F64).expand(2, 7)


def test_the_table_has_distribution_function_density_and_partial_moments(lines):
    table = evaluate(lines, POINTS)
    t = POINTS.unsqueeze(1).numpy()
    w, m, s = (
        v.numpy() for v in (lines.weights[None, :, None], *(v[..., None] for v in lines[1:]))
    )
    z = (t - m) / s
    assert_close(table.levels.numpy(), (w * norm.cdf(z)).sum(1), rtol=1e-12, atol=1e-15)
    assert_close(table.density.numpy(), (w * norm.pdf(z) / s).sum(1), rtol=1e-12, atol=1e-15)
    partial = (w * (m * norm.cdf(z) - s * norm.pdf(z))).sum(1)
    assert_close(table.partial.numpy(), partial, rtol=1e-10, atol=1e-14)


def test_functionals_of_v_are_derivatives_of_its_antiderivative(lines):
    # sum_j c_j V(t_j) is minus the derivative of sum_j c_j G(t_j), with G the antiderivative of F
    values = torch.linspace(-1, 1, 7, dtype=F64).expand(2, 7)

    def objective(weights, means, deviations):
        t = POINTS.unsqueeze(1)
        m, s = means.unsqueeze(-1), deviations.unsqueeze(-1)
        z = (t - m) / s
        density = torch.exp(-z.square() / 2) / (2 * torch.pi) ** 0.5
        G = (t - m) * torch.special.ndtr(z) + s * density
        return -(values * (weights[:, None] * G).sum(1)).sum()

    leaves = [v.clone().requires_grad_() for v in lines]
    of_weights, *expected = torch.autograd.grad(objective(*leaves), leaves)
    found = derivatives(lines, evaluate(lines, POINTS), values, torch.zeros_like(values))
    assert_close(found.means, expected[0], rtol=1e-10, atol=1e-12)
    assert_close(found.deviations, expected[1], rtol=1e-10, atol=1e-12)
    total = found.weights.sum(0)  # centred line by line
    assert_close(total - total[0], of_weights - of_weights[0], rtol=1e-10, atol=1e-12)


def test_projections_of_a_mixture_have_its_moments_along_directions(make_mixture):
    mixture, theta = make_mixture("full", 3, 4), directions("orthogonal", 4, 4)
    found = slices(mixture, theta)
    covariances = mixture.full_covariances()
    assert_close(found.means, theta @ mixture.means.mT)
    expected = torch.einsum("li,kij,lj->lk", theta, covariances, theta).sqrt()
    assert_close(found.deviations, expected)


@pytest.mark.parametrize("weighted", [False, True])
def test_projected_samples_are_sorted_with_their_weights(weighted):
    generator = torch.Generator().manual_seed(0)
    X, theta = torch.randn(9, 2, dtype=F64, generator=generator), directions("quasi", 3, 2)
    a = torch.rand(9, dtype=F64, generator=generator) if weighted else None
    found = slice_samples(X, theta, a)
    assert (found.values.diff(dim=1) >= 0).all()
    share = torch.full((9,), 1 / 9, dtype=F64) if a is None else a / a.sum()
    second = (theta @ X.mT).square() @ share
    assert_close(found.second_moment(), second)
    assert_close(found.rows(slice(1, 2)).values, found.values[1:2])
    assert isinstance(found, SortedSamples) and found.equal != weighted
