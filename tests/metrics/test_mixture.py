"""MixtureWasserstein: mixtures of every kind in, a distance out."""

import math

import numpy as np
import ot
import pytest
import torch
from sklearn.exceptions import NotFittedError
from sklearn.mixture import GaussianMixture
from torch.testing import assert_close

from skgmmot import DifferentiableGaussianMixture, MixtureWasserstein
from skgmmot.functional import GaussianMixtureParams
from skgmmot.metrics import (
    bures_wasserstein_distance,
    mixture_wasserstein_distance,
    pairwise_mixture_wasserstein,
    sliced_mixture_wasserstein,
)


def mixture(rng, K=3, d=2):
    """Random weights, means and full covariances."""
    A = rng.normal(size=(K, d, d))
    return rng.dirichlet(np.ones(K)), 3 * rng.normal(size=(K, d)), A @ A.mT + 0.1 * np.eye(d)


def test_between_gaussians_on_the_line_it_is_the_distance_of_mean_and_deviation():
    value = MixtureWasserstein()(([1.0], [[1.0]], [[[4.0]]]), ([1.0], [[4.0]], [[[64.0]]]))
    assert np.isclose(value, np.hypot(3, 6))


def test_it_equals_pot(rng):
    source, target = mixture(rng), mixture(rng, K=5)
    w0, m0, S0, w1, m1, S1 = *source, *target
    metric = MixtureWasserstein(squared=True)
    assert np.isclose(metric(source, target), ot.gmm.gmm_ot_loss(m0, m1, S0, S1, w0, w1))
    assert np.allclose(metric.cost(source, target), ot.gmm.dist_bures_squared(m0, m1, S0, S1))
    plan = metric.plan(source, target)
    assert np.allclose(plan.sum(1), w0) and np.allclose(plan.sum(0), w1)
    assert np.isclose((plan * metric.cost(source, target)).sum(), metric(source, target))
    assert np.isclose(MixtureWasserstein()(source, target) ** 2, metric(source, target))


def test_it_is_a_distance(rng):
    metric = MixtureWasserstein()
    a, b, c = (mixture(rng, K) for K in (2, 3, 4))
    assert np.isclose(metric(a, b), metric(b, a))
    assert metric(a, c) <= metric(a, b) + metric(b, c) + 1e-12
    permuted = tuple(part[::-1].copy() for part in a)
    split = tuple(np.concatenate([p, p]) / (2 if i == 0 else 1) for i, p in enumerate(a))
    for same in (a, permuted, split):
        assert metric(a, same) <= 1e-9


@pytest.mark.parametrize("estimator", [GaussianMixture, DifferentiableGaussianMixture])
def test_fitted_estimators_of_every_type_are_mixtures(blobs, covariance_type, estimator):
    full = DifferentiableGaussianMixture(4, random_state=0).fit(blobs)
    other = estimator(2, covariance_type=covariance_type, random_state=0).fit(blobs)
    to_full = {
        "full": lambda S: S,
        "tied": lambda S: np.stack([S, S]),
        "diag": lambda S: np.stack([np.diag(v) for v in S]),
        "spherical": lambda S: np.stack([v * np.eye(3) for v in S]),
    }[covariance_type]
    written_out = (other.weights_, other.means_, to_full(other.covariances_))
    metric = MixtureWasserstein()
    assert np.isclose(metric(full, other), metric(full, written_out))
    assert metric(other, written_out) <= 1e-9


def test_tensors_give_a_tensor_with_gradients_in_both_mixtures(rng):
    source, target = (
        [torch.tensor(part, requires_grad=True) for part in mixture(rng)] for _ in range(2)
    )
    value = MixtureWasserstein()(tuple(source), tuple(target))
    value.backward()
    for part in (*source, *target):
        assert torch.isfinite(part.grad).all() and part.grad.abs().sum() > 0
    assert isinstance(MixtureWasserstein()(tuple(source), mixture(rng)), torch.Tensor)
    assert isinstance(MixtureWasserstein()(mixture(rng), mixture(rng)), float)


def test_the_gradient_between_equal_mixtures_is_zero_not_nan(rng):
    parts = mixture(rng)
    source = tuple(torch.tensor(part, requires_grad=True) for part in parts)
    MixtureWasserstein()(source, tuple(part.detach().clone() for part in source)).backward()
    assert torch.isfinite(source[1].grad).all()


@pytest.mark.parametrize(
    "bad, error, message",
    [
        ("mixture", TypeError, "source must be a fitted mixture estimator or a tuple"),
        (([1.0], [[0.0, 0.0]]), TypeError, "source must be a fitted .* got tuple of length 2"),
        (([1.0], [[0.0, 1j]], [np.eye(2)]), TypeError, "source must be .* must be real, got compl"),
        (DifferentiableGaussianMixture(), NotFittedError, "not fitted yet"),
        (([0.5], [[0.0, 0.0]], [np.eye(2)]), ValueError, "weights must be non-negative and sum"),
        (([1.5, -0.5], np.zeros((2, 2)), [np.eye(2)] * 2), ValueError, "minimum -0.5"),
        (([1.0], [[0.0, 0.0]], [-np.eye(2)]), ValueError, "semi-definite, got smallest eigenvalue"),
        (([1.0], [[0.0, 0.0]], [[[1.0, 0.5], [0.0, 1.0]]]), ValueError, "must be symmetric"),
        (([1.0], [[0.0, np.nan]], [np.eye(2)]), ValueError, "a mixture must be finite"),
        (([1.0, 0.0], [[0.0, 0.0]], [np.eye(2)]), ValueError, r"weights \(K,\) and means \(K, d\)"),
        (
            ([1.0], [[0.0, 0.0]], np.ones((7, 7))),
            ValueError,
            "must fit a covariance type, got shape",
        ),
        ((np.ones(2) / 2, np.zeros((2, 2)), np.eye(2)), ValueError, "must fit one covariance type"),
        (([1.0], [[0.0, 0.0]], [np.eye(2)], "round"), ValueError, "must be one of .* got 'round'"),
        (([1.0], [[0.0]], [[[1.0]]]), ValueError, "equal numbers of features, got 1 and 2"),
    ],
)
def test_what_is_not_a_mixture_is_refused(bad, error, message):
    with pytest.raises(error, match=message):
        MixtureWasserstein()(bad, ([1.0], [[0.0, 0.0]], [np.eye(2)]))


def test_every_shape_of_one_variance_is_one_variance():
    for covariances in ([1.0], [[1.0]], [[[1.0]]]):
        assert MixtureWasserstein()(([1.0], [[0.0]], covariances), ([1.0], [[0.0]], [4.0])) == 1


def test_gradients_at_variances_of_zero_are_finite():
    variances = torch.tensor([[0.0, 1.0]], dtype=torch.float64, requires_grad=True)
    source = (torch.ones(1), torch.zeros(1, 2), variances, "diag")
    for other in (0.0, 1.0):
        MixtureWasserstein()(source, ([1.0], [[1.0, 1.0]], [[other, 4.0]], "diag")).backward()
        assert torch.isfinite(variances.grad).all()


def test_the_name_of_the_type_decides_where_two_fit():
    shared = (np.ones(2) / 2, np.zeros((2, 2)), np.array([[4.0, 0.0], [0.0, 9.0]]))
    origin = ([1.0], [[0.0, 0.0]], [np.zeros((2, 2))])
    metric = MixtureWasserstein(squared=True)
    assert np.isclose(metric((*shared, "tied"), origin), 13)
    with pytest.raises(ValueError, match="fit a covariance type"):
        metric((*shared, "full"), origin)


def test_a_mixture_in_storage_has_one_covariance_type():
    variances = torch.tensor([[1.0, 4.0], [4.0, 9.0]])  # for K = d = 2 also the shape of a matrix
    value = GaussianMixtureParams(torch.tensor([0.5, 0.5]), torch.zeros(2, 2), variances)
    with pytest.raises(ValueError, match="must fit one covariance type"):
        MixtureWasserstein()(tuple(value), tuple(value))
    origin = ([1.0], [[0.0, 0.0]], [0.0], "spherical")
    assert_close(MixtureWasserstein(squared=True)(value, origin).item(), 9.0)


# The squared distance is not convex: a flow that has to split a weight can end here.
GAP = 0.25
HALVES = ([1 / 3] * 3, [[0.0], [1 - GAP], [1 + GAP]], [0.0] * 3, "spherical")


def _near_the_trap(a, e):
    """Weights 1/6, 1/6 and 2/3 at 0, 0 and 1, changed by ``a (2,)`` and ``e (3,)``."""
    weights = torch.stack([1 / 6 + a[0], 1 / 6 + a[1], 2 / 3 - a[0] - a[1]])
    means = torch.stack([e[0], e[1], 1 + e[2]]).unsqueeze(1)
    return weights, means, torch.zeros(3, dtype=torch.float64), "spherical"


def test_it_has_strict_local_minima_that_are_not_global():
    metric, zero = MixtureWasserstein(squared=True), torch.zeros(5, dtype=torch.float64)
    trapped = metric(_near_the_trap(zero[:2], zero[2:]), HALVES)
    assert_close(trapped.item(), 2 / 3 * GAP**2)
    for change in 0.01 * torch.randn(200, 5, dtype=torch.float64):
        assert metric(_near_the_trap(change[:2], change[2:]), HALVES) > trapped
    elsewhere = [1 / 6, 1 / 6, 0, 1 - GAP, GAP]  # the target itself
    there = torch.tensor(elsewhere, dtype=torch.float64)
    assert metric(_near_the_trap(there[:2], there[2:]), HALVES) < 1e-12


def test_a_flow_beside_a_local_minimum_ends_in_it():
    metric = MixtureWasserstein(squared=True)
    x = torch.tensor([0.01, 0.02, 0.05, -0.03, 0.04], dtype=torch.float64)
    for step in np.geomspace(0.02, 1e-4, 200):  # smaller and smaller: it has kinks in the weights
        x.requires_grad_()
        value = metric(_near_the_trap(x[:2], x[2:]), HALVES)
        x = (x - step * torch.autograd.grad(value, x)[0]).detach()
    assert_close(value.item(), 2 / 3 * GAP**2, rtol=0.02, atol=0)


# --- equal mixtures in other words --------------------------------------------------------------


def in_other_words(parts, dtype):
    """The same mixture: as it is, permuted, split, and split and permuted."""
    w, m, S = (np.asarray(part, dtype=dtype) for part in parts)
    order = np.array([2, 0, 1, 1, 2])
    share = np.array([0.3, 1.0, 0.9, 0.1, 0.7], dtype=dtype)
    return {
        "nothing": (w, m, S),
        "permuted": (w[[2, 0, 1]], m[[2, 0, 1]], S[[2, 0, 1]]),
        "split": (w[order] * share, m[order], S[order]),
    }


@pytest.mark.parametrize("change", ["nothing", "permuted", "split"])
@pytest.mark.parametrize(("dtype", "bound"), [(np.float64, 1e-9), (np.float32, 1e-6)])
@pytest.mark.parametrize("options", [{}, {"reg_m": 1.0}, {"reg_m": (math.inf, 0.1)}])
def test_the_same_mixture_in_other_words_is_at_distance_zero(rng, change, dtype, bound, options):
    metric = MixtureWasserstein(**options)
    for offset, scale in ((0.0, 1.0), (1e3, 1.0), (0.0, 10.0)):
        w, m, S = mixture(rng, K=3, d=4)
        words = in_other_words((w, scale * m + offset, scale**2 * S), dtype)
        same = words[change]
        tolerance = bound if options == {} else max(bound, 1e-7 * scale)
        assert metric(words["nothing"], same) <= tolerance
        assert metric(same, words["nothing"]) <= tolerance
        assert metric.pairwise([words["nothing"], same])[0, 1] <= tolerance


@pytest.mark.parametrize("other", ["full", "tied", "diag", "spherical"])
def test_types_that_describe_the_same_mixture_are_at_distance_zero(covariance_type, other, rng):
    # Spheres of one radius can be told in every type.
    w, m, v = rng.dirichlet(np.ones(3)), rng.normal(size=(3, 4)), 0.3
    told = {
        "full": (w, m, np.stack([v * np.eye(4)] * 3)),
        "tied": (w, m, v * np.eye(4), "tied"),
        "diag": (w, m, np.full((3, 4), v), "diag"),
        "spherical": (w, m, np.full(3, v), "spherical"),
    }
    assert MixtureWasserstein()(told[covariance_type], told[other]) <= 1e-9


# --- functions ----------------------------------------------------------------------------------


def test_the_object_shows_its_parameters():
    shown = repr(MixtureWasserstein(reg_m=(1.0, math.inf)))
    assert shown == "MixtureWasserstein(reg=0.0, reg_m=(1.0, inf), squared=False)"


def test_functions_are_the_object(rng):
    source, target = mixture(rng), mixture(rng, K=5)
    for options in ({}, {"squared": True}, {"reg": 0.1}, {"reg_m": 1.0}):
        expected = MixtureWasserstein(**options)(source, target)
        assert mixture_wasserstein_distance(source, target, **options) == expected


# --- edges --------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_array", [np.asarray, torch.tensor])
def test_equal_mixtures_are_at_no_distance_and_all_distances_are_symmetric(as_array, rng):
    a, b, c = (tuple(map(as_array, mixture(rng, K, d=3))) for K in (2, 4, 4))
    copy = tuple(t + 0 for t in b)
    metric = MixtureWasserstein()
    assert metric(b, copy) == 0 and metric(a, b) == metric(b, a)
    matrix = metric.pairwise([a, b, c], [c, copy])
    assert (matrix == metric.pairwise([c, copy], [a, b, c]).T).all()
    assert matrix[1, 1] == 0 and matrix[2, 0] == 0
    itself = metric.pairwise([a, b, copy])
    assert (itself == itself.T).all() and itself[1, 2] == 0
    assert (metric.pairwise([a, b], [a, b]) == itself[:2, :2]).all()
    gaussians = [(m[1][0], m[2][0]) for m in (b, c)]
    there, back = (bures_wasserstein_distance(*pair) for pair in (gaussians, gaussians[::-1]))
    assert there == back and bures_wasserstein_distance(gaussians[0], gaussians[0]) == 0


def test_the_gradient_at_equal_mixtures_is_zero(rng):
    source, target = (
        tuple(torch.tensor(t, requires_grad=True) for t in m) for m in (mixture(rng, d=3),) * 2
    )
    for squared in (True, False):
        value = MixtureWasserstein(squared=squared)(source, target)
        for gradient in torch.autograd.grad(value, (*source, *target)):
            assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("wrap", [np.asarray, torch.tensor])
@pytest.mark.parametrize("coarse", [np.float32, np.float16])
def test_a_coarse_covariance_of_low_rank_is_taken_beside_float64_means(coarse, wrap, rng):
    S = np.cov(rng.normal(size=(4, 20)).T).astype(coarse)  # eigenvalues below zero by rounding
    gaussian = ([1.0], wrap(np.zeros((1, 20))), wrap(S[None]))
    spread = MixtureWasserstein(squared=True)(gaussian, ([1.0], np.zeros((1, 20)), [[1e-12] * 20]))
    assert float(spread) == pytest.approx(
        np.trace(S.astype(float)), rel=1e-2 if coarse == np.float16 else 1e-4
    )
    exact = (wrap(np.ones(1)), wrap(np.zeros((1, 20))), wrap(S[None].astype(float)))
    with pytest.raises(ValueError, match="positive semi-definite"):
        MixtureWasserstein()(exact, exact)


@pytest.mark.parametrize("distance", [mixture_wasserstein_distance, sliced_mixture_wasserstein])
def test_weights_of_two_precisions_are_compared_in_the_coarser(distance, rng):
    w, means = rng.dirichlet(np.ones(30)), 1e3 * rng.normal(size=(30, 2))
    fine, coarse = ((v, means, np.ones(30), "spherical") for v in (w, w.astype(np.float32)))
    assert distance(fine, coarse) == distance(coarse, fine) == 0
    moved = (w.astype(np.float32), means + np.array([3.0, 4.0]), np.ones(30), "spherical")
    squared = 25.0 if distance is mixture_wasserstein_distance else 12.5
    assert distance(fine, moved, squared=True) == pytest.approx(squared, rel=1e-6)
    if distance is mixture_wasserstein_distance:
        assert not pairwise_mixture_wasserstein([fine, coarse]).any()


@pytest.mark.parametrize("exponent", [-490, -300, 300, 490])  # 3e-148 to 3e147
@pytest.mark.parametrize(("d", "rank"), [(1, 1), (2, 2), (4, 4), (4, 2)])
def test_distances_and_gradients_scale_with_the_data_however_small_or_large(d, rank, exponent, rng):
    def scaled(parts, s):
        w, m, B = (torch.tensor(t) for t in parts)
        return tuple(t.requires_grad_() for t in (w, m * s, B @ B.mT * s * s))

    parts = [
        (rng.dirichlet(np.ones(K)), rng.normal(size=(K, d)), rng.normal(size=(K, d, rank)))
        for K in (3, 4)
    ]
    unit = 2.0**exponent
    one, other = ([scaled(p, s) for p in parts] for s in (1.0, unit))
    values = [MixtureWasserstein()(*pair) for pair in (one, other)]
    assert_close(values[1] / unit, values[0])
    for value in values:
        value.backward()
    for i, factor in enumerate((1 / unit, 1.0, unit)):
        assert_close(other[0][i].grad * factor, one[0][i].grad, rtol=1e-9, atol=1e-12)
    constants = [[tuple(t.detach() for t in m) for m in pair] for pair in (one, other)]
    matrices = [pairwise_mixture_wasserstein(pair) for pair in constants]
    assert_close(matrices[1] / unit, matrices[0])


@pytest.mark.parametrize("s", [1e-155, 1e-170, 1e155])
@pytest.mark.parametrize("pairwise", [False, True])
def test_mixtures_whose_squares_are_no_numbers_are_refused(s, pairwise):
    a, b = (([1.0], [[m * s]], [[v * s * s]], "diag") for m, v in ((0.0, 1.0), (3.0, 4.0)))
    with pytest.raises(ValueError, match="mixture") as caught:
        pairwise_mixture_wasserstein([a, b]) if pairwise else MixtureWasserstein()(a, b)
    assert ("at least 1e-150, got" if s < 1 else "must be finite, got") in str(caught.value)


def test_points_without_spread_may_be_equal():
    points = ([0.5, 0.5], [[0.0], [1.0]], [[0.0], [0.0]], "diag")
    assert MixtureWasserstein()(points, (*points[:2], [[[0.0]], [[0.0]]], "full")) == 0
    still = ([1.0], [[0.0]], [[0.0]], "diag")
    assert MixtureWasserstein()(still, still) == 0
