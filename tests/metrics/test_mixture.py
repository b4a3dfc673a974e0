"""MixtureWasserstein: mixtures of every kind in, a distance out."""

import math
import pickle

import numpy as np
import ot
import pytest
import scipy.linalg
import torch
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.testing import assert_close

from skgmmot import DifferentiableGaussianMixture, MixtureWasserstein
from skgmmot.functional import GaussianMixtureParams
from skgmmot.metrics import (
    SCORERS,
    bures_wasserstein_distance,
    frechet_distance,
    get_scorer,
    make_mixture_wasserstein_scorer,
    mixture_wasserstein_distance,
    mixture_wasserstein_scorer,
    pairwise_mixture_wasserstein,
    sliced_mixture_wasserstein,
)
from skgmmot.transport.discrete.plan import solve

#: Mixtures of one and of two features.
ONE, TWO = ([1.0], [[0.0]], [[[1.0]]]), ([1.0], [[0.0, 0.0]], [np.eye(2)])


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


# --- penalties ----------------------------------------------------------------------------------


def test_penalties_are_those_of_the_discrete_problem(rng):
    source, target = mixture(rng), mixture(rng, K=5)
    for options in ({"reg": 0.5}, {"reg_m": 2.0}, {"reg": 0.1, "reg_m": (math.inf, 2.0)}):
        metric = MixtureWasserstein(**options, squared=True)
        C = metric.cost(source, target)
        arrays = (torch.from_numpy(t) for t in (source[0], target[0], C))
        expected = solve(*arrays, **options)
        assert np.isclose(metric(source, target), expected.cost.item(), rtol=1e-12)
        assert np.allclose(metric.plan(source, target), expected.coupling.numpy(), atol=1e-12)
        root = MixtureWasserstein(**options)(source, target)
        assert np.isclose(root**2, expected.cost.item())


def test_penalties_between_hold_and_destroy(rng):
    source, target = mixture(rng), mixture(rng, K=5)
    values = [MixtureWasserstein(reg_m=lam)(source, target) for lam in (1e-9, 0.1, 1.0, 1e9)]
    assert values == sorted(values)
    assert values[0] < 1e-4
    assert np.isclose(values[-1], MixtureWasserstein()(source, target), rtol=1e-6)


@pytest.mark.parametrize("lam", [1e20, 1e25, 1e50, 1e300])
def test_enormous_penalties_hold(rng, lam):
    source, target = mixture(rng), mixture(rng, K=5)
    exact = MixtureWasserstein()
    for reg_m in (lam, (lam, math.inf), (math.inf, lam)):
        metric = MixtureWasserstein(reg_m=reg_m)
        assert np.isclose(metric(source, target), exact(source, target), rtol=1e-10)
        assert np.allclose(metric.plan(source, target), exact.plan(source, target), atol=1e-10)


def test_large_penalties_are_not_paid_for_the_rounding_of_weights(rng):
    source, target = (
        tuple(torch.tensor(t).float() for t in params) for params in (mixture(rng), mixture(rng, 5))
    )
    source[0][0] += 1e-7
    exact = MixtureWasserstein()(source, target)
    assert np.isclose(MixtureWasserstein(reg_m=1e16)(source, target), exact, rtol=1e-6)


def test_an_outlier_is_destroyed_rather_than_moved():
    eye = np.stack([np.eye(2)] * 2)
    source = ([0.5, 0.5], [[0.0, 0.0], [5.0, 0.0]], eye)
    target = (
        [0.45, 0.45, 0.1],
        [[0.0, 0.0], [5.0, 0.0], [1e4, 0.0]],
        np.stack([np.eye(2)] * 3),
    )
    assert MixtureWasserstein()(source, target) > 1e3
    plan = MixtureWasserstein(reg_m=1.0).plan(source, target)
    assert plan[:, 2].sum() < 1e-12
    assert np.allclose(plan[:, :2], np.diag([0.4743, 0.4743]), atol=1e-3)  # sqrt(0.5 * 0.45)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"reg": -0.1}, ValueError, "reg must be finite and not negative"),
        ({"reg": np.nan}, ValueError, "reg must be finite and not negative, got nan"),
        ({"reg_m": 0}, ValueError, "reg_m must be positive, got 0"),
        ({"reg_m": (-1.0, 1.0)}, ValueError, "reg_m must be positive, got -1"),
        ({"reg_m": np.nan}, ValueError, "reg_m must be positive, got nan"),
        ({"reg_m": "all"}, TypeError, "reg_m must be a number, got 'all'"),
    ],
)
def test_penalties_that_are_none_are_refused(options, error, message):
    gaussian = ([1.0], [[0.0]], [[[1.0]]])
    for call in (lambda m: m(gaussian, gaussian), lambda m: m.pairwise([gaussian] * 2)):
        with pytest.raises(error, match=message):
            call(MixtureWasserstein(**options))


# --- many mixtures ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"reg": 0.5}, {"reg_m": 1.0}, {"reg_m": (1.0, math.inf)}, {"squared": True}]
)
def test_pairwise_distances_are_those_of_the_pairs(rng, options):
    mixtures = [mixture(rng, K, d=3) for K in (1, 2, 3, 4)]
    others = [mixture(rng, K, d=3) for K in (5, 2)]
    metric = MixtureWasserstein(**options)
    among = metric.pairwise(mixtures)
    expected = np.array([[metric(a, b) for b in mixtures] for a in mixtures])
    assert np.allclose(among, expected, atol=1e-9)
    between = metric.pairwise(mixtures, others)
    assert np.allclose(between, [[metric(a, b) for b in others] for a in mixtures])
    assert np.array_equal(pairwise_mixture_wasserstein(mixtures, others, **options), between)


def test_pairwise_distances_take_every_kind_of_mixture(blobs):
    fitted = [
        DifferentiableGaussianMixture(3, covariance_type=name, random_state=0).fit(blobs)
        for name in ("full", "tied", "diag", "spherical")
    ]
    fitted.append(GaussianMixture(2, random_state=0).fit(blobs))
    metric = MixtureWasserstein()
    for chosen in (fitted, fitted[2:4]):
        found = metric.pairwise(chosen)
        assert isinstance(found, np.ndarray)
        assert np.allclose(found, [[metric(a, b) for b in chosen] for a in chosen], atol=1e-9)
        assert (found.diagonal() == 0).all()


def test_pairwise_distances_of_tensors_are_tensors_with_gradients(rng):
    mixtures = [tuple(torch.tensor(p, requires_grad=True) for p in mixture(rng)) for _ in range(3)]
    constant = MixtureWasserstein().pairwise([tuple(p.detach() for p in m) for m in mixtures])
    found = MixtureWasserstein().pairwise(mixtures)
    assert torch.allclose(found, constant)
    found.sum().backward()
    for part in (p for m in mixtures for p in m):
        assert torch.isfinite(part.grad).all() and part.grad.abs().sum() > 0


def test_a_progress_bar_is_shown_if_asked_for(rng, capsys):
    mixtures = [mixture(rng) for _ in range(3)]
    MixtureWasserstein().pairwise(mixtures)
    assert capsys.readouterr().err == ""
    MixtureWasserstein().pairwise(mixtures, progress=True)
    assert "3/3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("mixtures", "others", "error", "message"),
    [
        ([], None, ValueError, "mixtures must hold at least one mixture, got none"),
        ([ONE], [], ValueError, "others must hold at least one mixture, got none"),
        ("mixtures", None, TypeError, r"mixtures\[0\] must be a fitted mixture estimator"),
        (5, None, TypeError, "mixtures must be a sequence of mixtures, got int"),
        ([ONE, TWO], None, ValueError, "equal numbers of features"),
        ([ONE], [TWO], ValueError, "equal numbers of features, got 1 and 2"),
        (
            [ONE, DifferentiableGaussianMixture()],
            None,
            NotFittedError,
            r"mixtures\[1\] must be fitted: this DifferentiableGaussianMixture instance is not",
        ),
        ([ONE], [ONE, ([0.5], *ONE[1:])], ValueError, r"others\[1\] must be .* weights must be"),
    ],
)
def test_what_are_no_mixtures_is_refused(mixtures, others, error, message):
    with pytest.raises(error, match=message):
        MixtureWasserstein().pairwise(mixtures, others)


# --- functions ----------------------------------------------------------------------------------


def test_the_object_shows_its_parameters():
    shown = repr(MixtureWasserstein(reg_m=(1.0, math.inf)))
    assert shown == "MixtureWasserstein(reg=0.0, reg_m=(1.0, inf), squared=False)"


def test_functions_are_the_object(rng):
    source, target = mixture(rng), mixture(rng, K=5)
    for options in ({}, {"squared": True}, {"reg": 0.1}, {"reg_m": 1.0}):
        expected = MixtureWasserstein(**options)(source, target)
        assert mixture_wasserstein_distance(source, target, **options) == expected


def test_the_distance_between_gaussians_is_that_of_pot(rng):
    (_, (m0,), (S0,)), (_, (m1,), (S1,)) = mixture(rng, 1, 3), mixture(rng, 1, 3)
    expected = ot.gaussian.bures_wasserstein_distance(m0, m1, S0, S1)
    assert np.isclose(bures_wasserstein_distance((m0, S0), (m1, S1)), expected)
    squared = bures_wasserstein_distance((m0, S0), (m1, S1), squared=True)
    assert np.isclose(squared, expected**2)
    tensors = [torch.tensor(t, requires_grad=True) for t in (m0, S0)]
    bures_wasserstein_distance(tuple(tensors), (m1, S1)).backward()
    assert all(t.grad.abs().sum() > 0 for t in tensors)


def test_a_gaussian_has_a_matrix_variances_or_one_variance():
    point = ([0.0, 0.0], 0.0)
    for covariance, trace in ((2.0, 4.0), ([1.0, 2.0], 3.0), ([[1.0, 1.0], [1.0, 4.0]], 5.0)):
        squared = bures_wasserstein_distance(([3.0, 4.0], covariance), point, squared=True)
        assert np.isclose(squared, 25 + trace)


@pytest.mark.parametrize(
    ("gaussian", "error", "message"),
    [
        ([0.0, 0.0], ValueError, r"source must have a mean \(d,\)"),
        (np.zeros(2), TypeError, r"source must be a pair \(mean, covariance\), got ndarray"),
        (([0.0], [[-1.0]]), ValueError, "positive semi-definite"),
        (([0.0, 1.0], 1.0), ValueError, "equal numbers of features, got 2 and 1"),
        (([0.0], [[np.nan]]), ValueError, "must be finite"),
    ],
)
def test_what_is_no_gaussian_is_refused(gaussian, error, message):
    with pytest.raises(error, match=message):
        bures_wasserstein_distance(gaussian, ([0.0], 1.0))


# --- scorers ------------------------------------------------------------------------------------


def test_the_scorer_is_minus_the_distance_to_a_clone_fitted_to_held_out_samples(blobs):
    train, test = blobs[::2], blobs[1::2]
    model = DifferentiableGaussianMixture(2, random_state=0)
    fitted, held_out = clone(model).fit(train), clone(model).fit(test)
    score = mixture_wasserstein_scorer(fitted, test)
    assert score == -MixtureWasserstein()(fitted, held_out)
    assert score < 0
    assert -1e-12 < mixture_wasserstein_scorer(fitted, train) <= 0
    reference = GaussianMixture(3, random_state=0)
    scorer = make_mixture_wasserstein_scorer(reference, reg_m=1.0, squared=True)
    metric = MixtureWasserstein(reg_m=1.0, squared=True)
    assert scorer(fitted, test) == -metric(fitted, clone(reference).fit(test))
    assert not hasattr(reference, "means_")


def test_scorers_take_tuples(blobs):
    train, test = blobs[::2], blobs[1::2]
    fitted = DifferentiableGaussianMixture(4, covariance_type="diag", random_state=0).fit(train)
    as_tuple = (fitted.weights_, fitted.means_, fitted.covariances_)
    for scorer in SCORERS.values():
        assert scorer(as_tuple, test) == scorer(fitted, test)


@pytest.mark.parametrize("scoring", [mixture_wasserstein_scorer, get_scorer("mixture_wasserstein")])
@pytest.mark.parametrize("piped", [False, True])
def test_the_scorer_chooses_in_a_grid_search(blobs, scoring, piped):
    X = np.random.default_rng(0).permutation(blobs)
    model = DifferentiableGaussianMixture(3, random_state=0, reg_covar=1e-3)
    grid = {"covariance_type": ["full", "spherical"]}
    if piped:
        model = make_pipeline(StandardScaler(), model)
        grid = {f"differentiablegaussianmixture__{name}": v for name, v in grid.items()}
    search = GridSearchCV(model, grid, scoring=scoring, cv=3).fit(X)
    scores = search.cv_results_["mean_test_score"]
    assert np.isfinite(scores).all() and (scores < 0).all()
    assert search.best_score_ == scores.max()
    assert np.isfinite(cross_val_score(model, X, scoring=scoring, cv=3)).all()


@pytest.mark.parametrize("reference", [None, GaussianMixture(2, random_state=0)])
def test_the_last_step_of_a_pipeline_is_scored_on_what_the_others_make(blobs, reference):
    train, test = blobs[::2], 3 * blobs[1::2] + 50  # what is not transformed scores far worse
    last = DifferentiableGaussianMixture(3, random_state=0)
    pipeline = make_pipeline(StandardScaler(), PCA(), last).fit(train)
    held_out = pipeline[1].transform(pipeline[0].transform(test))
    expected = MixtureWasserstein()(last, clone(reference or last).fit(held_out))
    scorer = make_mixture_wasserstein_scorer(reference)
    assert scorer(pipeline, test) == -expected
    assert abs(scorer(last, test) + expected) > 1
    alone = make_pipeline(make_pipeline(clone(last))).fit(train)  # with no other steps
    assert scorer(alone, test) == scorer(alone[-1][-1], test)


def test_with_a_reference_the_score_rises_up_to_the_number_of_clusters(rng):
    centres = np.array([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
    X = rng.permutation(np.vstack([c + rng.normal(size=(150, 2)) for c in centres]))
    reference = DifferentiableGaussianMixture(6, random_state=0)
    scorer = make_mixture_wasserstein_scorer(reference)
    one, two, three, four = (
        cross_val_score(
            DifferentiableGaussianMixture(n, random_state=0), X, scoring=scorer, cv=3
        ).mean()
        for n in (1, 2, 3, 4)
    )
    assert one < two - 0.5 and two < three - 0.5
    assert abs(four - three) < 0.5


def test_scorers_are_found_by_name_and_pickled():
    assert get_scorer("mixture_wasserstein") is mixture_wasserstein_scorer
    assert get_scorer("accuracy") is not None
    copied = pickle.loads(pickle.dumps(make_mixture_wasserstein_scorer(GaussianMixture(2))))
    assert "GaussianMixture(n_components=2)" in repr(copied)
    with pytest.raises(ValueError, match=r"name must be one of .* got 'wasserstone'"):
        get_scorer("wasserstone")


def test_an_estimator_that_is_not_fitted_is_not_scored(blobs):
    with pytest.raises(NotFittedError):
        mixture_wasserstein_scorer(DifferentiableGaussianMixture(), blobs)


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


def frechet_by_scipy(X, Y):
    """FID as it is usually computed."""
    S0, S1 = np.cov(X.T), np.cov(Y.T)
    trace = np.trace(S0 + S1 - 2 * np.real(scipy.linalg.sqrtm(S0 @ S1)))
    return np.sum((X.mean(0) - Y.mean(0)) ** 2) + trace


def test_the_frechet_distance_is_that_of_unbiased_moments(rng):
    X, Y = rng.normal(size=(50, 4)), 2 * rng.normal(size=(30, 4)) + 1
    assert frechet_distance(X, Y, squared=True) == pytest.approx(frechet_by_scipy(X, Y))
    fits = [DifferentiableGaussianMixture(1, reg_covar=0).fit(Z) for Z in (X, Y)]
    assert frechet_distance(X, Y, ddof=0) == pytest.approx(MixtureWasserstein()(*fits))
    assert frechet_distance(X, X) == 0


def test_the_frechet_distance_takes_fewer_samples_than_features_and_has_their_gradient(rng):
    X, Y = (torch.tensor(rng.normal(size=(n, 12))) for n in (5, 7))
    found = frechet_distance(X, Y)
    assert found.item() == frechet_distance(X.numpy(), Y.numpy())
    A, B = ((Z - Z.mean(0)) / (len(Z) - 1) ** 0.5 for Z in (X, Y))
    nuclear = torch.linalg.svdvals(A @ B.mT).sum()
    squared = (X.mean(0) - Y.mean(0)).square().sum() + A.square().sum() + B.square().sum()
    assert_close(found**2, squared - 2 * nuclear)
    assert torch.autograd.gradcheck(frechet_distance, (X.requires_grad_(), Y.requires_grad_()))


@pytest.mark.parametrize(
    ("X", "message"),
    [
        ([1.0, 2.0], r"source must have shape"),
        ([[1.0]], "more than 1 samples"),
        ([[np.nan]] * 2, "finite"),
    ],
)
def test_samples_without_moments_have_no_frechet_distance(X, message):
    with pytest.raises(ValueError, match=message):
        frechet_distance(X, [[0.0], [1.0]])
    with pytest.raises(ValueError, match="ddof must be 0 or 1, got 2"):
        frechet_distance([[0.0], [1.0]], [[0.0], [1.0]], ddof=2)


# --- masses other than one, and the entropy without its bias -------------------------------------


@pytest.mark.parametrize("reg", [0.0, 0.7])
@pytest.mark.parametrize("reg_m", [1.0, (3.0, 0.2)])
def test_penalised_mixtures_may_have_any_masses(reg, reg_m):
    # one component each: cost + lam0 log(P / 2) + lam1 log(P / 3) + reg log(P / 6) = 0
    source, target = ([2.0], [[0.0]], [[1.0]], "diag"), ([3.0], [[1.0]], [[1.0]], "diag")
    lam = reg_m if isinstance(reg_m, tuple) else (reg_m, reg_m)
    logs = lam[0] * math.log(2) + lam[1] * math.log(3) + reg * math.log(6) - 1
    P = math.exp(logs / (sum(lam) + reg))
    parts = ((lam[0], 2.0), (lam[1], 3.0), (reg, 6.0))
    expected = P + sum(lam * (P * math.log(P / q) - P + q) for lam, q in parts)
    metric = MixtureWasserstein(reg, reg_m, squared=True)
    assert metric(source, target) == pytest.approx(expected, rel=1e-9)
    assert metric.plan(source, target) == pytest.approx(P, rel=1e-6)
    assert metric.pairwise([source], [target])[0, 0] == pytest.approx(expected, rel=1e-9)


def test_masses_that_must_be_held_or_are_none_are_refused():
    one, two = ([1.0], [[0.0]], [[1.0]], "diag"), ([2.0], [[0.0]], [[1.0]], "diag")
    for reg_m in (None, math.inf):
        with pytest.raises(
            ValueError, match="weights must be non-negative and sum to 1, got sum 2"
        ):
            mixture_wasserstein_distance(one, two, reg_m=reg_m)
    for weight in (0.0, -1.0):
        bad = ([weight], [[0.0]], [[1.0]], "diag")
        with pytest.raises(ValueError, match="non-negative and of positive sum, got sum"):
            mixture_wasserstein_distance(one, bad, reg_m=1.0)
    assert mixture_wasserstein_distance(one, two, reg_m=(math.inf, 1.0), squared=True) == (
        pytest.approx(1 - math.log(2))  # KL(1 | 2)
    )


def spread_out(scale):
    """Twelve narrow components, spread as a normal distribution of that deviation."""
    x = torch.special.ndtri((torch.arange(12, dtype=torch.float64) + 0.5) / 12).unsqueeze(1)
    weights = torch.full((12,), 1 / 12, dtype=torch.float64)
    return weights, scale * x, torch.full_like(x, 0.01)


@pytest.mark.parametrize(("reg", "biased"), [(0.5, 0.86), (1.0, 0.68)])
def test_the_entropic_distance_is_least_at_the_right_spread_without_its_bias(reg, biased):
    def slope(scale, **options):
        scale = torch.tensor(scale, dtype=torch.float64, requires_grad=True)
        metric = MixtureWasserstein(reg, squared=True, **options)
        (found,) = torch.autograd.grad(metric(spread_out(scale), spread_out(1.0)), scale)
        return found.item()

    assert slope(biased - 0.02) < 0 < slope(biased + 0.02)
    assert slope(1.0) > 0.1
    assert slope(1.0, debiased=True) == pytest.approx(0, abs=1e-9)
    assert slope(0.98, debiased=True) < -1e-3
    assert slope(1.02, debiased=True) > 1e-3


@pytest.mark.parametrize("options", [{"reg": 0.5}, {"reg": 0.5, "reg_m": 1.0}, {}, {"reg_m": 1.0}])
def test_without_bias_equal_mixtures_are_at_distance_zero_and_others_are_not(rng, options):
    metric = MixtureWasserstein(**options, squared=True, debiased=True)
    mixtures = [mixture(rng, K=K, d=2) for K in (1, 3, 4)]
    D = metric.pairwise(mixtures)
    assert (np.diag(D) == 0).all() and (D[~np.eye(3, dtype=bool)] > 0).all()
    assert (D == D.T).all()
    expected = [[metric(source, target) for target in mixtures] for source in mixtures]
    assert np.allclose(D, expected, rtol=1e-9, atol=1e-12)
    assert np.allclose(metric.pairwise(mixtures, mixtures[:2]), D[:, :2], rtol=1e-9, atol=1e-12)
    if "reg" not in options:
        assert np.allclose(D, MixtureWasserstein(**options, squared=True).pairwise(mixtures))
    assert mixture_wasserstein_distance(*mixtures[:2], **options, debiased=True) == (
        pytest.approx(math.sqrt(D[0, 1]))
    )


@pytest.mark.parametrize("options", [{"reg": 0.5}, {"reg": 0.5, "reg_m": 1.0}])
def test_gradients_without_bias_are_those_of_finite_differences(rng, options):
    target = mixture(rng, K=3, d=2)
    start = [torch.as_tensor(t) for t in mixture(rng, K=2, d=2)]
    metric = MixtureWasserstein(**options, squared=True, debiased=True)

    def value(shift, tilt):
        weights, means, covariances = start
        weights = weights + tilt * torch.tensor([1.0, -1.0], dtype=torch.float64)
        return metric((weights, means + shift, covariances * (1 + tilt)), target)

    zeros = torch.zeros(2, 2, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    leaves = [t.clone().requires_grad_() for t in zeros]
    assert torch.autograd.gradcheck(value, leaves, eps=1e-5, atol=1e-6)


def test_the_bias_is_not_taken_away_between_different_penalties():
    one = ([1.0], [[0.0]], [[1.0]], "diag")
    with pytest.raises(ValueError, match="one penalty for both marginals where the bias is taken"):
        mixture_wasserstein_distance(one, one, reg=1.0, reg_m=(1.0, 2.0), debiased=True)
    with pytest.raises(ValueError, match="one penalty for both marginals where the bias is taken"):
        MixtureWasserstein(1.0, (1.0, 2.0), debiased=True).pairwise([one])
    assert repr(MixtureWasserstein(1.0, debiased=True)).endswith("squared=False, debiased=True)")


def test_without_bias_unequal_masses_cost_what_they_differ_by():
    metric = MixtureWasserstein(reg=0.5, reg_m=1.0, squared=True, debiased=True)
    mixtures = [([m], [[0.0]], [[1.0]], "diag") for m in (1.0, 2.0, 3.0)]
    D = metric.pairwise(mixtures)
    assert (np.diag(D) == 0).all() and D[0, 1] > 0 and D[0, 2] > D[0, 1]
    assert D[0, 2] == pytest.approx(metric(mixtures[0], mixtures[2]), rel=1e-12)
    assert metric.pairwise(mixtures[:1], mixtures[1:])[0, 1] == pytest.approx(D[0, 2], rel=1e-9)
