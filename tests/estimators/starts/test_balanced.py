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


@pytest.mark.parametrize("weighted", [False, True])
def test_of_many_samples_some_are_drawn(blobs, weighted, monkeypatch):
    monkeypatch.setattr(balanced, "MOST_ROWS", 50)
    monkeypatch.setattr(balanced, "MOST_ROWS_EACH", 20)
    X, seen = torch.tensor(blobs - blobs.mean(0)), []
    a = (torch.arange(len(X)) % 3).double() if weighted else None
    em = EM(InMemory(X, a), torch.zeros(3).double(), 1e-6)
    step = balanced.SinkhornEM
    monkeypatch.setattr(balanced, "SinkhornEM", lambda em: seen.append(em) or step(em))
    starts = [
        balanced.balanced(em, (None,) * 3, COVARIANCE_TYPES["full"], 4, np.random.RandomState(s))
        for s in (0, 0, 1)
    ]
    assert torch.equal(starts[0].means, starts[1].means)
    assert not torch.equal(starts[0].means, starts[2].means)
    for some in seen:
        assert some.X.shape == (80, 3)  # 20 for each component
        assert len(some.X.unique(dim=0)) == 80
        if weighted:
            rows = (some.X.unsqueeze(1) == X).all(2).int().argmax(1)
            assert torch.equal(some.sample_weight, a[rows]) and (some.sample_weight > 0).all()


class _Ended:
    """A solution that is its start."""

    def __init__(self, value):
        self.value = value
