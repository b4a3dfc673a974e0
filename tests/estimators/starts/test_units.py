"""The warning where reg_covar drowns a feature."""

import re

import numpy as np
import pytest

from skgmmot import DifferentiableGaussianMixture, SemidiscreteGMM


@pytest.mark.parametrize("make", [DifferentiableGaussianMixture, SemidiscreteGMM])
def test_a_reg_covar_that_drowns_a_feature_is_warned_of(rng, make):
    X = np.concatenate([rng.normal(size=(100, 2)), 6 + rng.normal(size=(100, 2))])
    drowned = X * [1.0, 1e-4]
    message = r"must be small .* got 1e-06 for a variance of 9.6e-08. .* or set reg_covar="
    with pytest.warns(UserWarning, match=message) as caught:
        make(2, random_state=0).fit(drowned)
    assert caught[0].filename == __file__
    remedies = re.findall(r"\de-\d+", str(caught[0].message).rsplit("=", 1)[1])
    assert len(remedies) == 2
    for remedy in map(float, remedies):
        make(2, reg_covar=remedy, random_state=0).fit(drowned)
    make(2, random_state=0).fit(X * [1.0, 1e-2])


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_feature_that_is_constant_is_not_drowned(rng, dtype):
    X = np.column_stack([rng.normal(size=300), np.full(300, 123456.789)]).astype(dtype)
    DifferentiableGaussianMixture(2, random_state=0).fit(X)


def test_one_variance_for_all_features_is_compared_with_their_mean(rng):
    X = rng.normal(size=(300, 2)) * [1.0, 1e-4]
    DifferentiableGaussianMixture(2, covariance_type="spherical", random_state=0).fit(X)


def test_the_variances_of_weighted_samples_are_those_of_repeated_rows(rng):
    X = np.concatenate([1e-4 * rng.normal(size=(100, 1)), rng.normal(size=(100, 1))])
    mixture = DifferentiableGaussianMixture(1)
    mixture.fit(X)
    with pytest.warns(UserWarning, match="reg_covar must be small"):
        mixture.fit(X, sample_weight=np.repeat([1.0, 0.0], 100))
