"""Splines over nodes: against exact cells, under more nodes, across gaps."""

import pytest
import torch
from torch.testing import assert_close
from transport.sliced.differences import differences, symmetric
from transport.sliced.lines import ONE, chosen, generator, on_a_line

from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.gaussian.sampling import sample
from skgmmot.transport.sliced.distance import (
    slice_samples,
    sliced_wasserstein,
    sliced_wasserstein_between,
    slices,
)
from skgmmot.transport.sliced.quadrature import mean_slope, squared

F64 = torch.float64


def test_splines_are_close_to_exact_cells(make_mixture, make_samples):
    # the claim of the docstring: 1e-5 of the largest entry, for the mean over directions
    mixture, X = make_mixture("full", 10, 2, spread=1.0), 1.5 * make_samples(2000, 2)
    theta = chosen(20, 2)
    leaves = [t.clone().requires_grad_() for t in mixture]
    results = []
    for exact in (False, True):
        value = sliced_wasserstein(GaussianMixtureParams(*leaves), X, theta, exact=exact).mean()
        results.append((value, *torch.autograd.grad(value, leaves)))
    for found, expected in zip(*results, strict=True):
        assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


def test_splines_are_accurate_for_a_mixture_that_fits_its_samples(make_mixture, random_seed):
    # the distance is a small difference there, and so are its gradients
    mixture = make_mixture("full", 4, 2)
    X, theta = sample(mixture, 3000, generator=generator(random_seed))[0], chosen(20, 2)
    expected = sliced_wasserstein(mixture, X, theta, exact=True).mean()
    assert expected < 1e-2 * X.var()
    found = sliced_wasserstein(mixture, X, theta).mean()
    assert abs(found / expected - 1) < 1e-3


def test_errors_fall_like_the_fourth_power_of_the_nodes(make_mixture, make_samples):
    mixture, X, theta = make_mixture("full", 5, 2), 2 * make_samples(500, 2), chosen(10, 2)
    expected = sliced_wasserstein(mixture, X, theta, exact=True)
    errors = [
        (sliced_wasserstein(mixture, X, theta, n_nodes=m) - expected).abs().mean() for m in (20, 40)
    ]
    assert errors[0] / errors[1] > 8


def weighted_cost(p, exact):
    """A function of mixture, samples and directions; some directions count more than others."""

    def cost(weights, means, covariances, X, theta):
        mixture = GaussianMixtureParams(weights, means, symmetric(covariances))
        costs = sliced_wasserstein(mixture, X, theta, p=p, exact=exact)
        return costs @ torch.arange(1, len(costs) + 1).to(costs)

    return cost


@pytest.mark.parametrize(("p", "n", "rtol"), [(2.0, 12, 2e-4), (2.0, 1000, 1e-3), (1.0, 12, 5e-2)])
def test_gradients_are_those_of_exact_cells(p, n, rtol, name, make_mixture, make_samples):
    inputs = [*make_mixture(name, 3, 2), 2 * make_samples(n, 2), chosen(3, 2)]
    leaves = [t.clone().requires_grad_() for t in inputs]
    expected, found = (
        torch.autograd.grad(weighted_cost(p, exact)(*leaves), leaves) for exact in (True, False)
    )
    for ours, exact in zip(found, expected, strict=True):
        assert (ours - exact).abs().max() < rtol * exact.abs().max()


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("n", [1, 2, 50, 4096])
def test_equal_weights_may_be_given_or_not(n, exact, make_mixture, make_samples):
    # without, levels are known to be multiples of 1 / n and are not searched for
    mixture, X, theta = make_mixture("full", 3, 2), make_samples(n, 2), chosen(4, 2)
    results = []
    for weights in (None, torch.full((n,), 0.3, dtype=F64)):
        leaves = [t.clone().requires_grad_() for t in (*mixture, X)]
        value = sliced_wasserstein(
            GaussianMixtureParams(*leaves[:3]), leaves[3], theta, sample_weight=weights, exact=exact
        ).mean()
        results.append((value, *torch.autograd.grad(value, leaves)))
    for found, expected in zip(*results, strict=True):
        assert_close(found, expected, rtol=1e-9, atol=1e-11)


def test_gradients_of_weights_across_a_gap_stay_finite(make_samples):
    # half of the mass on either side of a gap of a hundred deviations, and a level right in it
    mixture = on_a_line([0.5, 0.5], [-50.0, 50.0], [1.0, 1.0])
    X = torch.cat([make_samples(10, 1) - 50, make_samples(10, 1, seed=1) + 50])
    weights = mixture.weights.clone().requires_grad_()
    value = sliced_wasserstein(mixture._replace(weights=weights), X, ONE).sum()
    (gradient,) = torch.autograd.grad(value, weights)
    assert torch.isfinite(gradient).all()
    # moving mass e over the gap costs at most e times its squared width
    assert gradient.abs().max() < 1.1 * 100**2


def narrow(distance):
    """Two components a tenth wide, a given way to both sides of zero."""
    return on_a_line([0.8987, 0.1013], [-distance, distance], [0.1, 0.1])


#: What is across from a gap: costs of two narrow components far from each other.
ACROSS = {
    "wide mixture": lambda mixture, p: sliced_wasserstein_between(
        mixture, on_a_line([1.0], [0.0], [1.0]), ONE, p=p
    ),
    "wide mixture, as source": lambda mixture, p: sliced_wasserstein_between(
        on_a_line([1.0], [0.0], [1.0]), mixture, ONE, p=p
    ),
    "mixture with a gap": lambda mixture, p: sliced_wasserstein_between(
        mixture, on_a_line([0.3, 0.7], [-6.0, 6.0], [0.1, 0.2]), ONE, p=p
    ),
    "samples": lambda mixture, p: sliced_wasserstein(
        mixture, torch.linspace(-2, 2, 50, dtype=F64)[:, None] ** 3, ONE, p=p
    ),
    "weighted samples": lambda mixture, p: sliced_wasserstein(
        mixture,
        torch.linspace(-2, 2, 50, dtype=F64)[:, None] ** 3,
        ONE,
        p=p,
        sample_weight=torch.arange(1, 51).double(),
    ),
}


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("distance", [1.0, 6.0, 1e4])
@pytest.mark.parametrize("name", ACROSS)
def test_gradients_in_weights_across_a_gap_are_finite_differences(name, distance, p):
    mixture = narrow(distance)

    def cost(weights):
        return ACROSS[name](mixture._replace(weights=weights), p).sum()

    weights = mixture.weights.clone().requires_grad_()
    (found,) = torch.autograd.grad(cost(weights), weights)
    expected = differences(cost, mixture.weights, h=1e-5)
    # the value, and with it a difference, is within the spline's 1e-4
    assert (found - expected).abs().max() < 1e-3 * expected.abs().max()


def test_the_gradient_between_equal_mixtures_with_a_gap_is_zero():
    # any number up to the squared gap is a subgradient there; zero is the least
    mixture = narrow(50.0)
    weights = mixture.weights.clone().requires_grad_()
    cost = sliced_wasserstein_between(mixture._replace(weights=weights), mixture, ONE)
    (gradient,) = torch.autograd.grad(cost.sum(), weights)
    assert gradient.abs().max() < 1e-6


@pytest.mark.parametrize("weighted", [False, True])
def test_derivatives_in_the_samples_are_finite_differences(weighted, make_mixture, make_samples):
    lines, X = slices(make_mixture("full", 3, 2), chosen(2, 2)), 2 * make_samples(7, 2)
    a = make_samples(7, 1, seed=1).flatten().exp() if weighted else None
    samples = slice_samples(X, chosen(2, 2), a)
    *_, found = squared(lines, samples, n_nodes=200)[1](True)
    for i in range(7):
        step = 1e-5 * torch.eye(7, dtype=F64)[i]
        up, down = (
            squared(lines, samples._replace(values=samples.values + sign * step), 200)[0]
            for sign in (1, -1)
        )
        assert_close(found[:, i], (up - down) / 2e-5, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("p", [1.5, 2.0, 5.0])
@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_the_mean_slope_is_that_of_many_points_between_the_ends(p, scale):
    ends = torch.tensor([[1.0, 2.0], [-1.0, 3.0], [2.0, 2.0], [-2.0, -2.0 - 1e-9]], dtype=F64)
    start, end = scale * ends.mT
    g = start + (end - start) * (torch.arange(10**5, dtype=F64)[:, None] + 0.5) / 10**5
    expected = (p * g.abs() ** (p - 1) * g.sign()).mean(0)
    assert_close(mean_slope(start, end, p), expected, rtol=1e-6, atol=0)
