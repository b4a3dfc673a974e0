"""Fits of more and more components: their starts, and which count."""

import numpy as np
import pandas as pd
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from three_groups import groups

from skgmmot import (
    DifferentiableGaussianMixture,
    GaussianMixtureSearch,
)


def test_no_fit_is_worse_than_one_from_a_start_of_its_own():
    X = groups("full")
    options = {"tol": 1e-4, "max_iter": 500}
    mixture = DifferentiableGaussianMixture(**options)
    found = GaussianMixtureSearch(range(1, 7), mixture=mixture, patience=None, random_state=0)
    rows = pd.DataFrame(found.fit(X).results_)
    assert len(rows) == 24
    for row in rows.itertuples():
        theirs = GaussianMixture(
            row.n_components, covariance_type=row.covariance_type, random_state=0, **options
        )
        assert row.log_likelihood > theirs.fit(X).score(X) - 2e-3
    assert set(rows.start) <= {"kmeans", "split", "merge"}
    grown = rows[rows.covariance_type == "full"].log_likelihood
    assert (np.diff(grown) > -1e-3).all(), "a component more is never worse"


def test_starts_and_options_are_those_of_the_mixture():
    X = groups("diag")
    for start in ("sinkhorn", lambda X, K, rng: rng.randint(K, size=len(X))):
        mixture = DifferentiableGaussianMixture(init_params=start, reg_covar=1e-3, n_init=2)
        found = GaussianMixtureSearch((2, 3), "diag", mixture=mixture, random_state=0).fit(X)
        assert found.n_components_ == 3
        assert found.best_estimator_.init_params is start
        assert found.best_estimator_.reg_covar == 1e-3
    mixture = DifferentiableGaussianMixture(fixed_weights=True)
    found = GaussianMixtureSearch((2, 3), "diag", mixture=mixture, random_state=0).fit(X)
    np.testing.assert_allclose(found.weights_, 1 / 3)


def test_collapsed_fits_are_not_chosen():
    rng = np.random.default_rng(0)
    X = np.vstack([rng.normal(size=(60, 2)), np.full((4, 2), 30.0)])  # four equal rows
    found = GaussianMixtureSearch(range(1, 5), "full", patience=None, random_state=0).fit(X)
    rows = pd.DataFrame(found.results_)
    assert rows.collapsed.any()
    assert not rows.collapsed[found.best_index_]
    with pytest.warns(ConvergenceWarning, match="a best fit with a collapsed component"):
        GaussianMixtureSearch(4, "full", random_state=0).fit(X)
