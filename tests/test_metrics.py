"""MixtureWasserstein: mixtures of every kind in, a distance out."""

import numpy as np
import ot
import pytest
import torch
from sklearn.exceptions import NotFittedError
from sklearn.mixture import GaussianMixture
from torch.testing import assert_close

from skgmmot import DifferentiableGaussianMixture, MixtureWasserstein
from skgmmot.functional import GaussianMixtureParams


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
        (([1.0], [[0.0, 0.0]]), TypeError, "source must be a fitted mixture estimator or a tuple"),
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
