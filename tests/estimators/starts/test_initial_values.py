"""Initial values given by the user."""

import numpy as np
import pytest
from sklearn.mixture import GaussianMixture

from skgmmot import DifferentiableGaussianMixture


@pytest.mark.parametrize(
    "given", [("means",), ("weights", "precisions"), ("weights", "means", "precisions")]
)
def test_given_starts_equal_those_of_scikit_learn(
    blobs, covariance_type, given, difference, unit_precisions
):
    starts = {
        "weights": np.array([0.4, 0.3, 0.2, 0.1]),
        "means": blobs[::150],
        "precisions": unit_precisions,
    }
    params = {f"{name}_init": starts[name] for name in given}
    params |= {"covariance_type": covariance_type, "random_state": 0}
    theirs = GaussianMixture(4, **params).fit(blobs)
    ours = DifferentiableGaussianMixture(4, **params).fit(blobs)
    assert ours.n_iter_ == theirs.n_iter_
    assert difference(ours, theirs) < 1e-10


def fitted(X, covariance_type="full", **params):
    """Four components, from k-means, fitted."""
    params = {"n_components": 4, "random_state": 0, **params}
    return DifferentiableGaussianMixture(covariance_type=covariance_type, **params).fit(X)


@pytest.mark.parametrize("size", [1e152, -1e200, 1e299, 1e308])
def test_means_to_start_from_whose_squares_overflow_are_refused(blobs, size):
    means = blobs[:4] * [1, 1, 0] + [0, 0, size]
    with pytest.raises(ValueError, match=r"means_init must be smaller than 1\.3e\+151"):
        fitted(blobs, means_init=means)
    with pytest.raises(ValueError, match=r"means_init must be smaller than .* torch.float32"):
        fitted(blobs.astype("f"), means_init=means / size * 1e30)


@pytest.mark.parametrize(
    ("name", "precisions", "came"),
    [
        ("spherical", np.zeros(4), "positive, got entries from 0 to 0. Pass inverse"),
        ("diag", -np.ones((4, 3)), "positive, got entries from -1 to -1. Pass inverse"),
        ("full", np.ones((4, 3, 3)), "symmetric, positive-definite, got entries from 1 to 1"),
        ("lowrank", np.ones((4, 3)), "lowrank.*got a ndarray. Start from"),
    ],
)
def test_precisions_that_are_none_say_what_came(blobs, name, precisions, came):
    with pytest.raises(ValueError, match=came):
        fitted(blobs, name, precisions_init=precisions)
