"""Sliced distances between mixtures by their components: closed forms, POT, derivatives."""

import numpy as np
import ot
import torch
from torch.testing import assert_close
from transport.sliced.differences import check_derivatives
from transport.sliced.lines import chosen

from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.transport.mixtures.distance import transport_plan
from skgmmot.transport.sliced.mixtures import double_sliced_lines, mixture_sliced_plan
from skgmmot.transport.sliced.slices import slices

F64 = torch.float64


def test_mixture_sliced_distance_is_below_mw2_and_zero_on_equal_mixtures(name, make_mixture):
    source, target = make_mixture(name, 3, 3, seed=1), make_mixture("full", 4, 3, seed=2)
    theta = chosen(200, 3)
    plan = mixture_sliced_plan(source, target, theta)
    assert 0 < plan.cost < transport_plan(source, target).cost
    assert_close(plan.coupling.sum(1), source.weights)
    assert mixture_sliced_plan(source, source, theta).cost < 1e-15


def test_mixture_sliced_distance_of_isotropic_gaussians_is_a_closed_form():
    # SW2^2 = |m0 - m1|^2 / d + (s0 - s1)^2, for E <theta, v>^2 = |v|^2 / d
    one = torch.ones(1, dtype=F64)
    source = GaussianMixtureParams(one, torch.zeros(1, 3, dtype=F64), one[None])
    target = GaussianMixtureParams(one, torch.full((1, 3), 2.0, dtype=F64), 9 * one[None])
    plan = mixture_sliced_plan(source, target, chosen(2048, 3))
    assert_close(plan.cost, torch.tensor(4.0 + 4.0, dtype=F64), rtol=1e-3, atol=0)


def test_double_sliced_distance_is_that_of_pot_on_each_line(make_mixture):
    source, target = make_mixture("full", 3, 3, seed=1), make_mixture("diag", 4, 3, seed=2)
    theta, phi = chosen(6, 3), chosen(6, 2)
    a, b = slices(source, theta), slices(target, theta)
    expected = [
        ot.emd2_1d(
            (phi[l, 0] * a.means[l] + phi[l, 1] * a.deviations[l]).numpy(),
            (phi[l, 0] * b.means[l] + phi[l, 1] * b.deviations[l]).numpy(),
            a.weights.numpy(),
            b.weights.numpy(),
        )
        for l in range(6)
    ]
    assert_close(
        double_sliced_lines(source, target, theta, phi).mean().item(), float(np.mean(expected))
    )
    assert double_sliced_lines(source, source, theta, phi).mean() < 1e-15


def test_gradients_of_mixture_sliced_distances_are_finite_differences(make_mixture):
    source, target = make_mixture("diag", 3, 2, seed=1), make_mixture("diag", 2, 2, seed=2)
    theta, phi = chosen(4, 2), chosen(4, 2, "random")
    for function in (
        lambda s: mixture_sliced_plan(s, target, theta).cost,
        lambda s: double_sliced_lines(s, target, theta, phi).mean(),
    ):

        def cost(means, covariances, function=function):
            return function(GaussianMixtureParams(source.weights, means, covariances))

        check_derivatives(cost, [source.means, source.covariances], 1e-6)
