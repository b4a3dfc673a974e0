"""Matrices of distances between many mixtures."""

import math

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError
from sklearn.mixture import GaussianMixture

from skgmmot import DifferentiableGaussianMixture, MixtureWasserstein
from skgmmot.metrics import (
    pairwise_mixture_wasserstein,
)

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
