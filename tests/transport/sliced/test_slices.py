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
    nodes,
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


def on_one_line(means, deviations):
    """Components of equal weight."""
    means, deviations = (torch.tensor([t], dtype=F64) for t in (means, deviations))
    return Slices(torch.full((means.numel(),), 1 / means.numel(), dtype=F64), means, deviations)


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_nodes_of_components_apart_are_those_of_each_alone(scale):
    one, other = on_one_line([0.0], [scale]), on_one_line([1e6 * scale], [3 * scale])
    alone = nodes(one, 21, 5.0)
    assert_close(alone, scale * torch.linspace(-5.5, 5.5, 23, dtype=F64).unsqueeze(0))
    both = on_one_line([0.0, 1e6 * scale], [scale, 3 * scale])
    found, expected = nodes(both, 21, 5.0), torch.cat([alone, nodes(other, 21, 5.0)], dim=1)
    # one step less: the end of one and the start of the other are one level of the steps
    assert found.shape[1] == expected.shape[1] - 1
    apart = (found.unsqueeze(2) - expected.unsqueeze(1)).abs().amin(2)
    assert apart.max() < 1e-9 * scale


def test_nodes_are_as_dense_as_the_narrowest_component_needs():
    # ten alike need no more than one, and a narrow one inside a wide one its own
    many = nodes(on_one_line([0.0] * 10, [1.0] * 10), 21, 5.0)
    assert_close(many, nodes(on_one_line([0.0], [1.0]), 21, 5.0))
    found = nodes(on_one_line([0.0, 0.0], [1.0, 0.1]), 21, 5.0)[0]
    inside = found.abs() < 0.5
    assert found.diff()[inside[:-1] & inside[1:]].max() < 1.1 * 0.05
    assert found.diff().max() < 1.1 * 0.5 and found.diff().min() > 0
    assert_close(found[[0, -1]], torch.tensor([-5.5, 5.5], dtype=F64))
    assert len(found) == 1 + round(22 - 2.2 + 22)  # steps of the wide one outside, and the other's


def test_nodes_of_a_line_do_not_depend_on_the_others(lines):
    together = nodes(lines, 21, 5.0)
    for i in range(2):
        alone = nodes(lines.rows(slice(i, i + 1)), 21, 5.0)[0]
        assert_close(together[i, : len(alone)], alone, rtol=0, atol=1e-14)
        assert (together[i, len(alone) :] == together[i, -1]).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nodes_of_what_is_not_finite_are_not_finite(value):
    found = nodes(on_one_line([0.0, value], [1.0, 1.0]), 21, 5.0)
    assert not torch.isfinite(found).all()
    found = nodes(on_one_line([0.0, 1.0], [1.0, value]), 21, 5.0)
    assert not torch.isfinite(found).all()


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
