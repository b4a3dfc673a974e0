"""Starts by Sinkhorn-EM."""

import numpy as np
import pytest
import torch

from skgmmot.estimators.starts import balanced
from skgmmot.fitting.em.rows import EM
from skgmmot.fitting.samples import InMemory
from skgmmot.gaussian.covariance.registry import COVARIANCE_TYPES
from skgmmot.numerics.blocks import workers


@pytest.fixture
def em(blobs):
    """The samples of `blobs` about their mean, without weights."""
    X = torch.tensor(blobs - blobs.mean(0))
    with workers(X.device) as pool:
        yield EM(InMemory(X, None, pool), torch.zeros(3).double(), 1e-6)


def starts_of_sinkhorn_em(em, kind, monkeypatch):
    """Where Sinkhorn-EM would start with four components."""
    started = []
    monkeypatch.setattr(
        balanced,
        "iterate",
        lambda step, theta0, **options: started.append(theta0) or _Ended(theta0),
    )
    balanced.balanced(em, (None, None, None), kind, 4, np.random.RandomState(0))
    (theta,) = (theta0.mixture() for theta0 in started)
    return theta


def test_the_start_of_sinkhorn_em_is_small_copies_of_the_data(em, covariance_type, monkeypatch):
    theta = starts_of_sinkhorn_em(em, COVARIANCE_TYPES[covariance_type], monkeypatch)
    assert np.allclose(theta.weights, 0.25)
    S = np.cov(em.X.numpy().T, bias=True)
    diagonal = np.diag(S)
    expected = {
        "full": np.stack([S] * 4),
        "tied": S[None],
        "diag": np.stack([diagonal] * 4),
        "spherical": np.full((4, 1), diagonal.mean()),
    }[covariance_type]
    assert np.allclose(theta.covariances, 0.01 * expected, atol=1e-7)


@pytest.mark.parametrize("name", ["full", "tied", "diag"])
def test_its_centres_do_not_depend_on_the_units_of_features(blobs, name, monkeypatch):
    X, kind = torch.tensor(blobs - blobs.mean(0)), COVARIANCE_TYPES[name]
    units, found = torch.tensor([1e3, 1.0, 1e-3]).double(), []
    for x in (X, X * units):
        em = EM(InMemory(x, None), torch.zeros(3).double(), 0.0)
        found.append(starts_of_sinkhorn_em(em, kind, monkeypatch).means)
    torch.testing.assert_close(found[1], found[0] * units, rtol=1e-8, atol=1e-9)


class _Ended:
    """A solution that is its start."""

    def __init__(self, value):
        self.value = value
