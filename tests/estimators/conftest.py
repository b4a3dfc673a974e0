"""Fixtures of mixture estimators: how far two are apart, and what to start from."""

import numpy as np
import pytest

from skgmmot import DifferentiableGaussianMixture

PARAMETERS = ["weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_"]


@pytest.fixture
def difference():
    """The largest difference between the parameters of two fits."""

    def largest(first, second, names=PARAMETERS, shift=0.0):
        shifts = {"means_": shift}
        return max(
            np.abs(
                np.asarray(getattr(first, n)) + shifts.get(n, 0) - np.asarray(getattr(second, n))
            ).max()
            for n in names
        )

    return largest


@pytest.fixture
def unit_precisions(covariance_type):
    """Identities for four components in three dimensions."""
    return {
        "full": np.stack([np.eye(3)] * 4),
        "tied": np.eye(3),
        "diag": np.ones((4, 3)),
        "spherical": np.ones(4),
    }[covariance_type]


@pytest.fixture
def start(blobs):
    """A fit whose parameters start others, as arguments."""
    model = DifferentiableGaussianMixture(4, random_state=0).fit(blobs)
    return {
        "weights_init": model.weights_,
        "means_init": model.means_ + 0.1,
        "precisions_init": model.precisions_,
    }
