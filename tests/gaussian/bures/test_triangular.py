"""Products with a triangular factor, by LAPACK and in blocks, against products of matrices."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from skgmmot.gaussian.bures.triangular import BLOCK, MOST_FEATURES, triangular_for

SIZES = [1, 5, MOST_FEATURES, MOST_FEATURES + 1, BLOCK, 2 * BLOCK + 7]


def covariance(rng, d):
    """A matrix that is well conditioned."""
    F = rng.normal(size=(d, d)) / d**0.5
    return F @ F.T + 0.3 * np.eye(d)


@pytest.mark.parametrize("d", SIZES)
def test_products_and_solutions_are_those_of_matrices(d, rng):
    S, other, scale = covariance(rng, d), covariance(rng, d), rng.random(d) + 0.5
    L = triangular_for(d).of(S)
    lower = np.linalg.cholesky(S)
    assert_allclose(np.tril(L.congruent(other)), np.tril(lower.T @ other @ lower), atol=1e-13)
    R = triangular_for(d).of(other)
    product = np.asarray(L.adjoint_times(R))
    assert_allclose(product, lower.T @ np.linalg.cholesky(other), atol=1e-13)
    assert_allclose(L.pivots, lower.diagonal(), rtol=1e-13)
    left, roots, right = map(np.asarray, L.singular(L.adjoint_times(R), vectors=True))
    assert_allclose(left * roots @ right.T, product, atol=1e-12)
    nothing, alone, none = L.singular(L.adjoint_times(R), vectors=False)
    assert nothing is none is None
    assert_allclose(alone, roots, rtol=1e-12)
    values, vectors = L.decompose(L.congruent(other), vectors=True)
    alone, nothing = L.decompose(L.congruent(other), vectors=False)
    assert nothing is None
    assert_allclose(alone, values, rtol=1e-12)
    V = np.asarray(vectors)
    assert_allclose(V * values @ V.T, lower.T @ other @ lower, atol=1e-12)
    assert_allclose(V.T @ V, np.eye(d), atol=1e-12)
    before = V.copy()
    times, solved = L.times(vectors, scale), L.adjoint_solve(vectors, scale)
    assert_allclose(np.asarray(times), lower @ V * scale, atol=1e-13)
    assert_allclose(lower.T @ np.asarray(solved), V * scale, atol=1e-12)
    gram = L.gram(times)
    assert_allclose(gram, np.asarray(times) @ np.asarray(times).T, atol=1e-12)
    assert np.array_equal(gram, gram.T)
    assert np.array_equal(np.asarray(vectors), before)


@pytest.mark.parametrize("d", [3, MOST_FEATURES + 1])
def test_what_has_no_regular_factor_has_none(d):
    singular = np.ones((d, d)) + np.diag([0.0, 0.0, *[1.0] * (d - 2)])
    for S in (singular, -np.eye(d), np.zeros((d, d))):
        assert triangular_for(d).of(S) is None


@pytest.mark.parametrize("d", [3, MOST_FEATURES + 1])
def test_arrays_of_any_memory_are_taken_and_left_as_they_are(d, rng):
    S, other = covariance(rng, d), covariance(rng, d)
    expected = np.asarray(triangular_for(d).of(S).congruent(other))
    for form in (np.asfortranarray, lambda S: S[::-1, ::-1].copy()[::-1, ::-1]):
        one, two = form(S), form(other)
        one.flags.writeable = two.flags.writeable = False
        assert_allclose(np.tril(triangular_for(d).of(one).congruent(two)), np.tril(expected))
        assert np.array_equal(one, S) and np.array_equal(two, other)
