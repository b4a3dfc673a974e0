"""MW2, Bures and sliced distances are metrics, to rounding; what holds of the others.

A triangle inequality may fail by 1e-9 of its right side, and by 1e-14 of the size of the mixtures,
which is what rounding does to distances between nearly equal ones.
"""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from promises.random_mixtures import TYPES, components, in_order, size, triple

from skgmmot.metrics import (
    MixtureWasserstein,
    bures_wasserstein_distance,
    sliced_mixture_wasserstein,
    sliced_wasserstein_distance,
)

#: What a triangle inequality may lack, in units of its right side and of the mixtures' size.
RELATIVE, ABSOLUTE = 1e-9, 1e-14
#: Relative error of entropic costs.
GAP = 1e-8
MW2 = MixtureWasserstein()
SEEDS = st.integers(0, 2**32 - 1)


def assert_metric(D, scale):
    """The axioms for a matrix of distances of three."""
    assert (D.diagonal() == 0).all()
    assert (D >= 0).all()
    assert np.array_equal(D, D.T)
    for i, j, k in itertools.permutations(range(3)):
        right = D[i, k] + D[k, j]
        assert D[i, j] <= right * (1 + RELATIVE) + ABSOLUTE * scale, (i, j, k)


def matrix(distance, three):
    """All distances of three, in both orders."""
    return np.array([[distance(left, right) for right in three] for left in three])


@given(SEEDS)
def test_mw2_is_a_metric(seed):
    three = triple(seed)
    D = matrix(MW2, three)
    assert_metric(D, size(three))
    for i, j in itertools.combinations(range(3), 2):
        if three[i][3] == three[j][3]:  # of two types, also equal covariances differ by rounding
            assert (D[i, j] == 0) == (components(three[i]) == components(three[j]))


@given(SEEDS)
def test_matrices_of_mw2_are_symmetric_to_the_bit(seed):
    three = triple(seed)
    D = MW2.pairwise(three)
    assert_metric(D, size(three))
    np.testing.assert_allclose(D, matrix(MW2, three), rtol=RELATIVE, atol=ABSOLUTE * size(three))
    assert np.array_equal(MW2.pairwise(three[:2], three[1:]), MW2.pairwise(three[1:], three[:2]).T)


@given(SEEDS, st.sampled_from(TYPES))
def test_mw2_is_exactly_zero_between_the_same_components_in_another_order(seed, covariance_type):
    weights, means, covariances, name = triple(seed, [covariance_type])[0]
    order = np.random.default_rng(seed).permutation(len(weights))
    turned = weights[order], means[order], in_order(covariances, order, name), name
    assert MW2((weights, means, covariances, name), turned) == 0


@given(SEEDS)
def test_the_distance_between_gaussians_is_a_metric(seed):
    three = triple(seed, ("full", "tied", "diag"))
    gaussians = [(means[0], covariances[0]) for _, means, covariances, _ in three]
    assert_metric(matrix(bures_wasserstein_distance, gaussians), size(three))


@pytest.mark.parametrize("slicing", ["msw", "dsmw"])
@given(SEEDS)
def test_sliced_distances_between_mixtures_are_metrics(slicing, seed):
    three = triple(seed)

    def distance(left, right):
        return sliced_mixture_wasserstein(left, right, slicing=slicing, n_projections=7)

    assert_metric(matrix(distance, three), size(three))


@given(SEEDS, st.sampled_from([1, 1.5, 2, 3]))
def test_sliced_distances_between_samples_are_metrics(seed, p):
    three = [(means, weights) for weights, means, _, _ in triple(seed)]

    def distance(left, right):
        (X, v), (Y, w) = left, right
        options = {"p": p, "n_projections": 7, "source_weight": v, "sample_weight": w}
        return sliced_wasserstein_distance(X, Y, **options)

    points = [(weights, X, np.zeros_like(X), "diag") for X, weights in three]
    assert_metric(matrix(distance, three), size(points))


@given(SEEDS, st.floats(-2, 2))
def test_debiased_entropic_mw2_is_zero_on_equal_mixtures_symmetric_and_not_negative(seed, power):
    # not negative between diagonal covariances only, and without a triangle inequality
    three = triple(seed, ("diag", "spherical"))
    reg = 10.0**power * size(three) ** 2
    S = matrix(MixtureWasserstein(reg=reg, debiased=True, squared=True), three)
    T = matrix(MixtureWasserstein(reg=reg, squared=True), three)
    assert (S.diagonal() == 0).all()
    assert np.array_equal(S, S.T)
    assert (S >= -GAP * T).all()
