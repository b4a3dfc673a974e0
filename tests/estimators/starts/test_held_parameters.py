"""What of a mixture stays during a fit."""

import numpy as np
import pytest
import torch

from skgmmot import DifferentiableGaussianMixture

MASK = [True, False, False, False]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("mask", [True, MASK, np.array(MASK), torch.tensor(MASK)])
@pytest.mark.parametrize("what", ["weights", "means", "covariances"])
def test_bits_of_what_is_fixed_never_move(what, mask, dtype, blobs, start):
    far = np.array([1e3 / 3, -1e4 / 7, 0.1])
    start = start | {"means_init": start["means_init"] + far}
    X = (blobs + far).astype(dtype)
    options = {**start, f"fixed_{what}": mask, "random_state": 0}
    model = DifferentiableGaussianMixture(4, **options).fit(X)
    rows = np.broadcast_to(np.asarray(mask), 4)
    if what == "covariances":
        inverses = DifferentiableGaussianMixture(4, max_iter=0, **start).fit(X).covariances_
        np.testing.assert_array_equal(model.covariances_[rows], inverses[rows])
    else:
        given = np.asarray(start[f"{what}_init"], dtype=dtype)
        np.testing.assert_array_equal(getattr(model, f"{what}_")[rows], given[rows])
    shown = getattr(model, f"{what}_").copy()
    again = model.set_params(warm_start=True).fit(X[::2])
    np.testing.assert_array_equal(getattr(again, f"{what}_")[rows], shown[rows])


@pytest.mark.parametrize("acceleration", [None, "squarem"])
def test_all_that_is_not_fixed_is_at_its_constrained_maximum(acceleration, blobs, start):
    options = {"tol": 1e-12, "max_iter": 5000, "reg_covar": 0.0, "acceleration": acceleration}
    model = DifferentiableGaussianMixture(
        4, fixed_weights=MASK, fixed_means=[False, True, False, False], **start, **options
    ).fit(blobs)
    resp = model.predict_proba(blobs)
    free = np.array([1, 2, 3])
    rest = 1 - start["weights_init"][0]
    expected = rest * resp.sum(0)[free] / resp.sum(0)[free].sum()
    np.testing.assert_allclose(model.weights_[free], expected, rtol=1e-4)
    y = blobs - start["means_init"][1]  # about the mean that stays, not that of the samples
    scatter = (resp[:, 1, None] * y).T @ y / resp[:, 1].sum()
    np.testing.assert_allclose(model.covariances_[1], scatter, rtol=1e-3, atol=1e-3)


def test_samples_start_at_the_fixed_mean_that_is_theirs(blobs):
    found = DifferentiableGaussianMixture(4, random_state=0).fit(blobs)
    order = [2, 0, 3, 1]
    held = DifferentiableGaussianMixture(
        4, fixed_means=True, means_init=found.means_[order], random_state=0
    ).fit(blobs)
    np.testing.assert_allclose(held.weights_, found.weights_[order], atol=0.05)
