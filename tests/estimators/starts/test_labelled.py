"""Starts of samples of which some classes are known."""

import numpy as np
import pytest
from flowers import IRIS, SPECIES, mixture, twelve_known


@pytest.fixture
def y(rng):
    return twelve_known(rng)


@pytest.mark.parametrize("init_params", ["kmeans", "k-means++", "random", "sinkhorn"])
def test_each_start_leads_known_samples_to_their_components(covariance_type, init_params, y):
    options = {"covariance_type": covariance_type, "init_params": init_params, "tol": 1e-6}
    found = mixture(max_iter=1000, **options).fit(IRIS, y)
    assert np.all(np.diff(found.lower_bounds_) > -1e-6)  # reg_covar is no part of it
    known, predicted = y >= 0, found.predict(IRIS)
    assert (predicted[known & (y == 0)] == 0).all()
    np.testing.assert_array_equal(found.predict_class(IRIS), predicted)
    joint = found.predict_proba(IRIS)[known, y[known]]
    log_likelihood = found.score_samples(IRIS)
    log_likelihood[known] += np.log(joint)
    assert found.converged_
    np.testing.assert_allclose(found.lower_bound_, log_likelihood.mean(), rtol=1e-3)


def test_a_callable_start_is_put_in_the_order_of_the_classes(y):
    turned = (SPECIES + 1) % 3
    for start in (lambda X, K, rng: turned, lambda X, K, rng: np.eye(3)[turned]):
        found = mixture(init_params=start, max_iter=0).fit(IRIS, y)
        expected = np.array([IRIS[c == SPECIES].mean(0) for c in range(3)])
        np.testing.assert_allclose(found.means_, expected)


def test_further_runs_start_without_the_means_of_the_classes(y):
    options = {"tol": 1e-6, "max_iter": 500}
    kept = np.where(SPECIES == 2, 0, y)  # one class is two clouds: its mean is between them
    kept[SPECIES == 1] = 1
    components = {0: [0, 2], 1: [1]}
    once, several = (
        mixture(n_init=n, components_of_class=components, **options).fit(IRIS, kept) for n in (1, 4)
    )
    assert several.lower_bound_ >= once.lower_bound_
