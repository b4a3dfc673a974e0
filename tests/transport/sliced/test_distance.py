"""Sliced distances: closed forms, numerical integration, POT, derivatives, invariances, edges."""

import math

import numpy as np
import ot
import pytest
import scipy.integrate
import scipy.stats
import torch
from torch.testing import assert_close
from transport.sliced.differences import check_derivatives, symmetric
from transport.sliced.lines import ONE, chosen, generator, on_a_line

from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.gaussian.sampling import sample
from skgmmot.transport.sliced.distance import (
    sliced_wasserstein,
    sliced_wasserstein_between,
    wasserstein_on_lines,
)
from skgmmot.transport.sliced.slices import slice_samples, slices

F64 = torch.float64


# --- closed forms ------------------------------------------------------------------------------


@pytest.mark.parametrize("exact", [True, False])
def test_a_gaussian_and_one_sample_are_apart_by_bias_and_variance(exact):
    mixture = on_a_line([1.0], [1.0], [2.0])
    X = torch.tensor([[4.0]], dtype=F64)
    found = sliced_wasserstein(mixture, X, ONE, exact=exact)
    assert_close(found, torch.tensor([13.0], dtype=F64), rtol=1e-9 if exact else 5e-5, atol=0)


def test_the_mean_distance_of_a_gaussian_to_a_sample_is_a_closed_form():
    # E|Z| = sqrt(2 / pi) for p = 1; E|Z|^3 = 2 sqrt(2 / pi)
    mixture, X = on_a_line([1.0], [0.0], [2.0]), torch.zeros(1, 1, dtype=F64)
    half = math.sqrt(2 / math.pi)
    for p, expected, tol in [(1, 2 * half, 1e-5), (3, 16 * half, 1e-4), (1.5, None, 1e-4)]:
        if expected is None:
            expected = 2**p * 2 ** (p / 2) * math.gamma((p + 1) / 2) / math.sqrt(math.pi)
        found = sliced_wasserstein(mixture, X, ONE, p=p)
        assert_close(found, torch.tensor([expected], dtype=F64), rtol=tol, atol=0)
    found = sliced_wasserstein(mixture, X, ONE, p=1, exact=True)
    assert_close(found, torch.tensor([2 * half], dtype=F64))


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 3.0])
def test_shifting_a_mixture_moves_it_by_the_shift(p):
    mixture = on_a_line([0.3, 0.7], [0.0, 2.0], [0.5, 1.5])
    moved = mixture._replace(means=mixture.means + 3)
    found = sliced_wasserstein_between(mixture, moved, ONE, p=p)
    assert_close(found, torch.tensor([3.0**p], dtype=F64), rtol=1e-6, atol=0)


def test_two_gaussians_on_lines_are_apart_by_means_and_deviations(name, make_mixture):
    source, target = make_mixture(name, 1, 3, seed=1), make_mixture(name, 1, 3, seed=2)
    theta = chosen(7, 3)
    a, b = slices(source, theta), slices(target, theta)
    expected = (a.means - b.means).square() + (a.deviations - b.deviations).square()
    found = sliced_wasserstein_between(source, target, theta)
    assert_close(found, expected.squeeze(1), rtol=1e-5, atol=1e-6)


def test_slices_are_the_projected_covariances(name, make_mixture):
    mixture, theta = make_mixture(name, 4, 3), chosen(6, 3)
    lines = slices(mixture, theta)
    expected = torch.einsum("ld,kde,le->lk", theta, mixture.full_covariances(), theta)
    assert_close(lines.deviations.square(), expected)
    assert_close(lines.means, theta @ mixture.means.mT)


# --- peers -------------------------------------------------------------------------------------


def by_quad(mixture, X, p, sample_weight=None):
    """W_p^p on a line by SciPy: the quantiles solved for, the cells integrated one by one."""
    w, m, s = (t.flatten().numpy() for t in mixture)
    s = np.sqrt(s)
    order = np.argsort(X.flatten().numpy())
    y = X.flatten().numpy()[order]
    a = np.full(len(y), 1 / len(y)) if sample_weight is None else sample_weight.numpy()[order]
    levels = np.cumsum(a / a.sum())[:-1]

    def cdf(t):
        return w @ scipy.stats.norm.cdf(t, m, s)

    low, high = (m - 12 * s).min(), (m + 12 * s).max()
    q = [scipy.optimize.brentq(lambda t, c=c: cdf(t) - c, low, high, xtol=1e-13) for c in levels]
    edges = np.concatenate([[low], q, [high]])
    total = 0.0
    for left, right, value in zip(edges[:-1], edges[1:], y, strict=True):
        inside = [t for t in [value, *m] if left < t < right]
        total += scipy.integrate.quad(
            lambda t, v=value: abs(t - v) ** p * (w @ scipy.stats.norm.pdf(t, m, s)),
            left,
            right,
            points=inside or None,
            epsabs=1e-11,
            limit=200,
        )[0]
    return total


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 3.0])
def test_distance_is_that_of_numerical_integration(p, weighted, make_samples):
    mixture = on_a_line([0.3, 0.2, 0.5], [-2.0, 0.0, 1.0], [0.3, 1.0, 0.6])
    X = make_samples(9, 1)
    a = make_samples(9, 1, seed=1).flatten().exp() if weighted else None
    expected = torch.tensor([by_quad(mixture, X, p, a)], dtype=F64)
    found = sliced_wasserstein(mixture, X, ONE, p=p, sample_weight=a)
    assert_close(found, expected, rtol=2e-4 if p < 2 else 5e-5, atol=0)
    if p in (1, 2):
        found = sliced_wasserstein(mixture, X, ONE, p=p, sample_weight=a, exact=True)
        assert_close(found, expected, rtol=1e-8, atol=0)


def test_distance_between_mixtures_is_that_between_large_samples_of_them(make_mixture, random_seed):
    source, target = make_mixture("full", 3, 2, seed=1), make_mixture("diag", 2, 2, seed=2)
    theta, n = chosen(5, 2), 100_000
    X, Y = (
        sample(m, n, generator=generator(i + 2 * random_seed))[0]
        for i, m in enumerate((source, target))
    )
    between = sliced_wasserstein_between(source, target, theta)
    # four standard errors: a distance changes by no more than samples differ from their law
    error = (X @ theta.mT).std(0) / n**0.5, (Y @ theta.mT).std(0) / n**0.5
    found = sliced_wasserstein(source, Y, theta)
    assert ((found.sqrt() - between.sqrt()).abs() < 4 * error[1]).all()
    on_lines = ot.wasserstein_1d(X @ theta.mT, Y @ theta.mT, p=2)
    assert ((on_lines.sqrt() - between.sqrt()).abs() < 4 * (error[0] + error[1])).all()


# --- derivatives -------------------------------------------------------------------------------


def weighted_cost(p, exact):
    """A function of mixture, samples and directions; some directions count more than others."""

    def cost(weights, means, covariances, X, theta):
        mixture = GaussianMixtureParams(weights, means, symmetric(covariances))
        costs = sliced_wasserstein(mixture, X, theta, p=p, exact=exact)
        return costs @ torch.arange(1, len(costs) + 1).to(costs)

    return cost


@pytest.mark.parametrize(
    ("p", "exact", "rtol"),
    [
        (1.0, True, 1e-6),
        (2.0, True, 1e-7),
        (2.0, False, 1e-3),
        (1.5, False, 5e-3),
        (3.0, False, 1e-3),
    ],
)
def test_gradients_are_finite_differences_in_mixture_samples_and_directions(
    p, exact, rtol, name, make_mixture, make_samples
):
    inputs = [*make_mixture(name, 3, 2), 2 * make_samples(12, 2), chosen(3, 2)]
    check_derivatives(weighted_cost(p, exact), inputs, rtol)


@pytest.mark.parametrize(("p", "rtol"), [(2.0, 2e-4), (1.5, 5e-3)])
def test_gradients_between_mixtures_are_finite_differences(p, rtol, make_mixture):
    source, target = make_mixture("diag", 3, 2, seed=1), make_mixture("spherical", 2, 2, seed=2)
    theta = chosen(4, 2)

    def cost(*tensors):
        mixtures = GaussianMixtureParams(*tensors[:3]), GaussianMixtureParams(*tensors[3:])
        return sliced_wasserstein_between(*mixtures, theta, p=p).mean()

    check_derivatives(cost, [*source, *target], rtol)


def test_gradients_with_sample_weights_are_those_of_repeated_samples(make_mixture, make_samples):
    mixture, X, theta = make_mixture("full", 3, 2), make_samples(8, 2), chosen(4, 2)
    a = torch.tensor([1, 2, 3, 1, 0, 2, 1, 1])
    results = []
    for samples, weights in [(X, a.double()), (X.repeat_interleave(a, dim=0), None)]:
        leaves = [t.clone().requires_grad_() for t in mixture]
        value = sliced_wasserstein(
            GaussianMixtureParams(*leaves), samples, theta, sample_weight=weights
        ).mean()
        results.append((value, *torch.autograd.grad(value, leaves)))
    for found, expected in zip(*results, strict=True):
        assert_close(found, expected)


def test_the_samples_of_the_caller_stay_in_their_order(make_mixture, make_samples):
    # numbers are sorted in place on the way, and one direction in one dimension is a copy
    X, theta = make_samples(20, 1), ONE
    before = X.clone()
    sliced_wasserstein(make_mixture("full", 3, 1), X, theta)
    slice_samples(X, theta)
    assert torch.equal(X, before)


# --- invariances -------------------------------------------------------------------------------


def test_permuting_or_splitting_components_changes_nothing(make_mixture, make_samples):
    mixture, X, theta = make_mixture("full", 3, 2), make_samples(50, 2), chosen(5, 2)
    order, share = [2, 0, 1, 0], torch.tensor([1.0, 0.3, 1.0, 0.7], dtype=F64)
    same = GaussianMixtureParams(*(t[order] for t in mixture))
    same = same._replace(weights=same.weights * share)
    assert_close(
        sliced_wasserstein(same, X, theta), sliced_wasserstein(mixture, X, theta), rtol=1e-4, atol=0
    )
    assert sliced_wasserstein_between(mixture, same, theta).max() < 1e-9
    assert sliced_wasserstein_between(mixture, mixture, theta).max() == 0


def test_translating_far_away_keeps_the_digits(make_mixture, make_samples):
    mixture, X, theta = make_mixture("full", 3, 2), make_samples(50, 2), chosen(5, 2)
    far = 1e7
    moved = mixture._replace(means=mixture.means + far)
    assert_close(
        sliced_wasserstein(moved, X + far, theta),
        sliced_wasserstein(mixture, X, theta),
        rtol=1e-6,
        atol=0,
    )


def test_scaling_scales_the_distance(make_mixture, make_samples):
    mixture, X, theta = make_mixture("diag", 3, 2), make_samples(50, 2), chosen(5, 2)
    for scale in (1e-8, 1e8):
        scaled = mixture._replace(
            means=scale * mixture.means, covariances=scale**2 * mixture.covariances
        )
        found = sliced_wasserstein(scaled, scale * X, theta) / scale**2
        assert_close(found, sliced_wasserstein(mixture, X, theta), rtol=1e-9, atol=0)


def test_blocks_of_directions_change_nothing(make_mixture, make_samples, monkeypatch):
    mixture, X, theta = make_mixture("full", 3, 2), make_samples(50, 2), chosen(7, 2)
    expected = sliced_wasserstein(mixture, X, theta)
    between = sliced_wasserstein_between(mixture, make_mixture("diag", 2, 2), theta)
    monkeypatch.setattr("skgmmot.transport.sliced.distance.BLOCK_SIZE", 1)
    monkeypatch.setattr("skgmmot.transport.sliced.quadrature.CACHE_SIZE", 1)
    assert_close(sliced_wasserstein(mixture, X, theta), expected)
    assert_close(sliced_wasserstein_between(mixture, make_mixture("diag", 2, 2), theta), between)


# --- mixtures of slices ------------------------------------------------------------------------


# --- edges -------------------------------------------------------------------------------------


def test_exact_cells_of_other_exponents_are_refused(make_mixture, make_samples):
    with pytest.raises(ValueError, match=r"p must be 1 or 2 with exact=True, got 1\.5"):
        sliced_wasserstein(
            make_mixture("full", 2, 2), make_samples(5, 2), chosen(3, 2), p=1.5, exact=True
        )


@pytest.mark.parametrize("n_nodes", [1, 0, -3, 2.5, True])
def test_too_few_nodes_are_refused(make_mixture, make_samples, n_nodes):
    mixture = make_mixture("full", 2, 2)
    for distance, target in (
        (sliced_wasserstein, make_samples(5, 2)),
        (sliced_wasserstein_between, make_mixture("diag", 3, 2)),
    ):
        with pytest.raises(ValueError, match=r"n_nodes must be .* Pass 2 or more"):
            distance(mixture, target, chosen(3, 2), n_nodes=n_nodes)
        assert torch.isfinite(distance(mixture, target, chosen(3, 2), n_nodes=2)).all()


@pytest.mark.parametrize("exact", [True, False])
def test_duplicates_outliers_and_constant_features_give_the_right_distance(exact):
    mixture = on_a_line([0.5, 0.5], [0.0, 1.0], [1.0, 0.2])
    for values in ([2.0] * 6, [0.0, 0.0, 1.0, 1.0], [0.0, 0.1, 1e6]):
        X = torch.tensor(values, dtype=F64)[:, None]
        expected = torch.tensor([by_quad(mixture, X, 2.0)], dtype=F64)
        assert_close(sliced_wasserstein(mixture, X, ONE, exact=exact), expected, rtol=1e-4, atol=0)


def test_components_without_spread_are_points(make_samples):
    X = make_samples(30, 2)
    points = GaussianMixtureParams(
        torch.full((30,), 1 / 30, dtype=F64), X, torch.zeros(30, 1, dtype=F64)
    )
    leaves = [t.clone().requires_grad_() for t in points]
    costs = sliced_wasserstein(GaussianMixtureParams(*leaves), X, chosen(5, 2))
    assert costs.abs().max() < 1e-6
    for gradient in torch.autograd.grad(costs.sum(), leaves):
        assert torch.isfinite(gradient).all()


def test_components_without_weight_do_not_count(make_mixture, make_samples):
    mixture, X, theta = make_mixture("full", 3, 2), make_samples(40, 2), chosen(5, 2)
    empty = mixture._replace(weights=torch.tensor([0.4, 0.0, 0.6], dtype=F64))
    others = GaussianMixtureParams(*(t[[0, 2]] for t in empty))
    assert_close(
        sliced_wasserstein(empty, X, theta), sliced_wasserstein(others, X, theta), rtol=1e-4, atol=0
    )
    leaves = [t.clone().requires_grad_() for t in empty]
    costs = sliced_wasserstein(GaussianMixtureParams(*leaves), X, theta)
    for gradient in torch.autograd.grad(costs.sum(), leaves):
        assert torch.isfinite(gradient).all()


def test_float32_gives_float32_of_nearly_the_same_value(make_mixture, make_samples):
    mixture, X, theta = make_mixture("full", 3, 2), make_samples(100, 2), chosen(5, 2)
    single = GaussianMixtureParams(*(t.float().requires_grad_() for t in mixture))
    found = sliced_wasserstein(single, X.float(), theta)
    assert found.dtype == torch.float32
    assert_close(found.double(), sliced_wasserstein(mixture, X, theta), rtol=1e-4, atol=1e-5)
    assert all(g.dtype == torch.float32 for g in torch.autograd.grad(found.sum(), tuple(single)))


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0])
def test_the_distance_has_the_same_bits_with_and_without_a_gradient(p, make_mixture, make_samples):
    mixture, X, theta = make_mixture("full", 3, 2), make_samples(40, 2), chosen(4, 2)
    leaf = mixture._replace(means=mixture.means.clone().requires_grad_())
    for distance, other in ((sliced_wasserstein, X), (sliced_wasserstein_between, mixture)):
        without, asked = (distance(m, other, theta, p=p) for m in (mixture, leaf))
        assert asked.requires_grad
        assert not without.requires_grad
        assert torch.equal(without, asked)
        with torch.no_grad():
            assert torch.equal(distance(leaf, other, theta, p=p), asked)


def test_sorted_once_or_every_time_is_the_same(make_mixture, make_samples):
    mixture, X, theta = make_mixture("tied", 3, 2), make_samples(100, 2), chosen(5, 2)
    a = make_samples(100, 1, seed=3).flatten().exp()
    for weights in (None, a):
        found = wasserstein_on_lines(slices(mixture, theta), slice_samples(X, theta, weights))
        assert_close(found, sliced_wasserstein(mixture, X, theta, sample_weight=weights))


# --- between samples -----------------------------------------------------------------------------
