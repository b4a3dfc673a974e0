"""The distance between two Gaussians by one decomposition, and what it leaves to others."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from skgmmot.gaussian.bures import pair
from skgmmot.gaussian.bures.distance import bures_squared
from skgmmot.gaussian.bures.gaussians import wasserstein_squared as by_tensors
from skgmmot.gaussian.bures.pair import squared_and_slopes, wasserstein_squared
from skgmmot.gaussian.bures.triangular import triangular_for
from skgmmot.numerics.linalg import bures_map


def covariance(rng, d, condition=10.0, axes=None):
    """A matrix of a condition, along random or given axes."""
    axes = np.linalg.qr(rng.normal(size=(d, d))).Q if axes is None else axes
    S = axes * np.geomspace(1, condition, d) @ axes.T
    return (S + S.T) / 2


def gaussian(rng, d, condition=10.0):
    """A mean and a covariance."""
    return rng.normal(size=d), covariance(rng, d, condition)


def leaves(one):
    """Tensors that require gradients."""
    return tuple(torch.tensor(t, requires_grad=True) for t in one)


@pytest.mark.parametrize("d", [1, 3, 64, 70, 200])
@pytest.mark.parametrize("condition", [1.0, 10.0, 200.0])
def test_values_and_gradients_are_those_by_tensors(d, condition, rng):
    both = gaussian(rng, d, condition), gaussian(rng, d)
    source, target = map(leaves, both)
    found, plain = wasserstein_squared(source, target), wasserstein_squared(*both)
    assert type(plain) is float and plain == pytest.approx(found.item(), rel=1e-14)
    expected = by_tensors(source, target)
    assert_close(found, expected, rtol=1e-13, atol=0)
    gradients = torch.autograd.grad(3 * found, [*source, *target])
    wanted = torch.autograd.grad(3 * expected, [*source, *target])
    assert_close(gradients, wanted, rtol=1e-10, atol=1e-10)
    for i, leaf in enumerate((*source, *target)):  # each may be the only one
        mixed = [leaf if i == j else t for j, t in enumerate((*both[0], *both[1]))]
        (alone,) = torch.autograd.grad(3 * wasserstein_squared(mixed[:2], mixed[2:]), leaf)
        assert_close(alone, gradients[i], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("d", [3, 70])
def test_exchanging_the_gaussians_changes_no_bit(d, rng):
    one, other = leaves(gaussian(rng, d)), leaves(gaussian(rng, d))
    there, back = wasserstein_squared(one, other), wasserstein_squared(other, one)
    assert torch.equal(there, back)
    gradients = [torch.autograd.grad(value, [*one, *other]) for value in (there, back)]
    assert all(map(torch.equal, *gradients))
    assert wasserstein_squared(one, one) is None


@pytest.mark.parametrize("d", [3, 70])
def test_near_distances_do_not_cancel(d, rng):
    S = covariance(rng, d)
    squared, slopes = squared_and_slopes(S, S * (1 + 1e-6) ** 2, differentiable=True)
    assert squared == pytest.approx(1e-12 * np.trace(S), rel=1e-8)
    one, other = slopes(2.0, (True, True))
    np.testing.assert_allclose(one, 2 * -1e-6 * np.eye(d), atol=1e-12)
    np.testing.assert_allclose(other, 2 * (1 - 1 / (1 + 1e-6)) * np.eye(d), atol=1e-12)


@pytest.mark.parametrize("d", [3, 20, 70])
@pytest.mark.parametrize("conditions", [(1e3, 1e3), (1e6, 1.0), (1.0, 1e6), (1e7, 1e7)])
def test_ill_conditioned_covariances_have_all_digits(d, conditions, rng):
    S0, S1 = (covariance(rng, d, c) / c for c in conditions)
    T0, T1 = map(torch.tensor, (S0, S1))
    squared, slopes = squared_and_slopes(S0, S1, differentiable=True)
    alone, _ = squared_and_slopes(S0, S1, differentiable=False)
    assert alone == pytest.approx(squared, rel=1e-12)
    assert squared == pytest.approx(bures_squared(T0[None], T1[None]).item(), rel=1e-12)
    for one, expected in zip(
        slopes(2.0, (True, True)), (bures_map(T0, T1), bures_map(T1, T0)), strict=True
    ):
        assert np.array_equal(one, one.T)
        tolerance = 1e-15 * max(conditions) * float(expected.abs().max())
        assert_close(torch.tensor(one), 2 * (torch.eye(d) - expected), rtol=0, atol=tolerance)
    assert slopes(1.0, (False, False)) == [None, None]


def test_what_rounding_would_show_in_is_found_by_singular_values(rng, monkeypatch):
    S0, S1 = covariance(rng, 6, 60.0), covariance(rng, 6, 60.0)
    plain, slopes = squared_and_slopes(S0, S1, differentiable=True)
    used = []
    monkeypatch.setattr(pair, "_norm", lambda S: 1e9)
    monkeypatch.setattr(pair, "_by_singular_values", recorded(pair._by_singular_values, used))
    squared, others = squared_and_slopes(S0, S1, differentiable=True)
    assert len(used) == 1
    assert squared == pytest.approx(plain, rel=1e-14)
    for one, other in zip(slopes(1.0, (True, True)), others(1.0, (True, True)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-11)


def recorded(function, calls):
    """The function, which notes that it was called."""

    def call(*arguments, **options):
        calls.append(arguments)
        return function(*arguments, **options)

    return call


@pytest.mark.parametrize("vectors", [False, True])
@pytest.mark.parametrize("condition", [3.0, 30.0, 1e3, 1e5])
def test_which_way_is_accurate_is_foreseen(condition, vectors, rng, monkeypatch):
    """Only what is thrown away would be computed twice."""
    S0, S1 = covariance(rng, 40, condition), covariance(rng, 40, condition)
    tried, used = [], []
    kind = triangular_for(40)
    monkeypatch.setattr(kind, "decompose", staticmethod(recorded(kind.decompose, tried)))
    monkeypatch.setattr(kind, "singular", staticmethod(recorded(kind.singular, used)))
    assert squared_and_slopes(S0, S1, differentiable=vectors)
    assert len(tried) + len(used) == 1


@pytest.mark.parametrize("condition", [1e2, 1e4, 1e6])
def test_covariances_along_opposed_axes_have_all_digits(condition, rng):
    axes = np.linalg.qr(rng.normal(size=(5, 5))).Q
    S0, S1 = (covariance(rng, 5, condition, a) / condition for a in (axes, axes[:, ::-1]))
    found, _ = squared_and_slopes(S0, S1, differentiable=False)
    variances = np.geomspace(1, condition, 5) / condition
    expected = ((variances**0.5 - variances[::-1] ** 0.5) ** 2).sum()
    assert found == pytest.approx(expected, rel=1e-14 * condition**0.5)


@pytest.mark.parametrize("d", [3, 70])
@pytest.mark.parametrize(
    ("at", "value"),
    [
        ((0, 0), np.nan),
        ((0, 1), np.nan),
        ((0, 1), np.inf),
        ((0, 0), 1e120),
        ((0, 0), -1.0),
        ((0, 1), 2.0),  # indefinite
        ((0, 1), 0.5),  # not symmetric
    ],
)
@pytest.mark.parametrize("swapped", [False, True])
def test_what_is_no_covariance_or_extreme_is_left_to_others(d, at, value, swapped, rng):
    good, bad = gaussian(rng, d), (np.zeros(d), np.eye(d))
    bad[1][at] = value
    if value != 0.5:
        bad[1][at[::-1]] = value
    both = (bad, good) if swapped else (good, bad)
    assert wasserstein_squared(*both) is None


def test_means_too_far_or_too_near_are_left_to_others(rng):
    mean, S = gaussian(rng, 3)
    assert wasserstein_squared((mean, S), (np.full(3, np.nan), S)) is None
    assert wasserstein_squared((mean, S), (np.full(3, 1e160), S)) is None
    tiny = 1e-200 * np.eye(3)
    assert wasserstein_squared((np.zeros(3), tiny), (np.zeros(3), 4 * tiny)) is None


def singular(rng, d, rank, units=1.0):
    """A mean and a covariance of a rank, in other units for each feature."""
    half = rng.normal(size=(rank, d)) * units
    return rng.normal(size=d) * units, half.T @ half


@pytest.mark.parametrize("d", [3, 6, 70])
@pytest.mark.parametrize("ranks", [(1, 1), (2, 1), (2, 3), (3, 2)])
def test_singular_covariances_have_the_value_and_the_gradient_by_tensors(d, ranks, rng):
    both = [singular(rng, d, rank) for rank in ranks]
    source, target = map(leaves, both)
    found, plain = wasserstein_squared(source, target), wasserstein_squared(*both)
    assert type(plain) is float and plain == pytest.approx(found.item(), rel=1e-14)
    assert found == wasserstein_squared(target, source)
    expected = by_tensors(source, target)
    assert_close(found, expected, rtol=1e-6, atol=0)  # the roots of rounding count
    gradients = torch.autograd.grad(3 * found, [*source, *target])
    wanted = torch.autograd.grad(3 * expected, [*source, *target])
    assert_close(gradients, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("d", [3, 70])
@pytest.mark.parametrize("swapped", [False, True])
def test_a_constant_feature_has_no_part_in_the_distance_but_its_mean(d, swapped, rng):
    good, flat = gaussian(rng, d), (np.zeros(d), np.eye(d))
    flat[1][0, 0] = 0.0
    both = (flat, good) if swapped else (good, flat)
    expected = by_tensors(*map(leaves, both)).item()
    assert wasserstein_squared(*both) == pytest.approx(expected, rel=1e-12)


def test_singular_covariances_have_the_distance_of_their_roots(rng):
    A, B = rng.normal(size=(4, 30)), rng.normal(size=(7, 30))
    norm = np.linalg.svd(A @ B.T, compute_uv=False).sum()
    expected = (A**2).sum() + (B**2).sum() - 2 * norm
    zero = np.zeros(30)
    found = wasserstein_squared((zero, A.T @ A), (zero, B.T @ B))
    assert found == pytest.approx(expected, rel=1e-7)


def test_ranks_do_not_depend_on_the_units_of_features(rng):
    units = np.geomspace(1e-12, 1e12, 5)
    S = singular(rng, 5, 3, units)[1]
    root = pair._root(S)
    assert root.shape == (3, 5)
    assert_close(root.T @ root, S, rtol=1e-9, atol=0)
    expected = bures_squared(*(torch.tensor(t)[None] for t in (S, np.eye(5)))).item()
    assert wasserstein_squared((np.zeros(5), S), (np.zeros(5), np.eye(5))) == pytest.approx(
        expected
    )
