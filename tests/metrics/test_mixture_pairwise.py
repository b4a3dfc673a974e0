"""Matrices of distances between many mixtures."""

import math
import pickle

import joblib
import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError
from sklearn.mixture import GaussianMixture

from skgmmot import DifferentiableGaussianMixture, MixtureWasserstein
from skgmmot.functional import GaussianMixtureParams, pairwise_squared
from skgmmot.metrics import pairwise_mixture_wasserstein

#: Mixtures of one and of two features.
ONE, TWO = ([1.0], [[0.0]], [[[1.0]]]), ([1.0], [[0.0, 0.0]], [np.eye(2)])


def mixture(rng, K=3, d=2):
    """Random weights, means and full covariances."""
    A = rng.normal(size=(K, d, d))
    return rng.dirichlet(np.ones(K)), 3 * rng.normal(size=(K, d)), A @ A.mT + 0.1 * np.eye(d)


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


@pytest.mark.parametrize(
    "options",
    [{}, {"reg": 0.5}, {"reg_m": (1.0, math.inf)}, {"reg": 0.5, "debiased": True}],
)
def test_jobs_share_the_rows_and_change_nothing(rng, options):
    mixtures = [mixture(rng, K, d=3) for K in (1, 2, 3, 2)]
    metric = MixtureWasserstein(**options)
    for others in (None, mixtures[:2], [*mixtures, mixtures[0]]):
        expected = metric.pairwise(mixtures, others)
        with joblib.parallel_config(backend="threading", n_jobs=2):  # starts faster than processes
            assert np.array_equal(metric.pairwise(mixtures, others), expected)
            found = pairwise_mixture_wasserstein(mixtures, others, n_jobs=-20, **options)
            assert np.array_equal(found, expected)
            assert np.array_equal(metric.pairwise(mixtures, others, n_jobs=9), expected)


def test_jobs_that_compute_few_of_the_costs_change_nothing_but_rounding(rng):
    mixtures = [mixture(rng, 10, d=8) for _ in range(7)]
    expected = pairwise_mixture_wasserstein(mixtures)
    with joblib.parallel_config(backend="threading"):
        found = pairwise_mixture_wasserstein(mixtures, n_jobs=3)
    np.testing.assert_allclose(found, expected, rtol=1e-13)  # sums of other batches of costs
    assert np.array_equal(found, found.T) and not found.diagonal().any()


def test_what_jobs_are_sent_can_be_pickled(rng):
    mixtures = [GaussianMixtureParams(*map(torch.tensor, mixture(rng))) for _ in range(5)]

    def run(rows, n_rows):
        return pickle.loads(pickle.dumps(rows))(range(n_rows))

    for others in (None, mixtures[2:]):
        found = pairwise_squared(mixtures, others, run=run)
        assert torch.equal(found, pairwise_squared(mixtures, others))


def test_gradients_are_computed_here(rng):
    mixtures = [tuple(torch.tensor(p, requires_grad=True) for p in mixture(rng)) for _ in range(3)]
    found = MixtureWasserstein().pairwise(mixtures, n_jobs=2)
    assert found.requires_grad


@pytest.mark.parametrize("n_jobs", [0, 1.5, "two"])
def test_numbers_of_jobs_are_integers_other_than_zero(n_jobs):
    with pytest.raises(ValueError, match="n_jobs must be None or an integer other than 0, got"):
        MixtureWasserstein().pairwise([ONE, ONE], n_jobs=n_jobs)


def test_a_progress_bar_is_shown_if_asked_for(rng, capsys):
    mixtures = [mixture(rng) for _ in range(3)]
    MixtureWasserstein().pairwise(mixtures)
    assert capsys.readouterr().err == ""
    MixtureWasserstein().pairwise(mixtures, verbose=1)
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
