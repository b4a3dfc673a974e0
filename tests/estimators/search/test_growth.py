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
from skgmmot.estimators.search._growth import advance


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
    d, table = X.shape[1], found.results_
    assert table["n_parameters"].tolist() == [2 * 2 * d, 3 * 2 * d]  # no weights
    assert found.best_estimator_.bic(X) == pytest.approx(found.best_criterion_, rel=1e-9)


def test_as_many_starts_are_tried_as_the_mixture_has_but_one_for_one_component():
    X, calls = groups("diag", n=30), []

    def at_random(X, n_components, random_state):
        calls.append(n_components)
        return random_state.randint(n_components, size=len(X))

    mixture = DifferentiableGaussianMixture(init_params=at_random, n_init=3)
    GaussianMixtureSearch((1, 2, 3), "diag", mixture=mixture, random_state=0).fit(X)
    assert calls == [1, 2, 2, 2, 3, 3, 3]


@pytest.mark.parametrize(("tol", "merged"), [(1e-3, True), (10.0, False)])
def test_merged_fits_count_where_they_are_better_by_more_than_tol(tol, merged):
    options = {"mixture": DifferentiableGaussianMixture(tol=tol, max_iter=500), "random_state": 0}
    found = GaussianMixtureSearch(range(1, 7), "full", patience=None, **options)
    assert ("merge" in found.fit(groups("full")).results_["start"]) == merged


class Grown:
    """Fits of which some numbers of components are better than before."""

    def __init__(self, *better):
        self.better, self.fitted = better, []

    def fit(self, estimator):
        self.fitted.append(estimator.n_components)

    def refit(self, estimator):
        self.fit(estimator)
        return "better" if estimator.n_components in self.better else None


def test_fewer_components_are_fitted_again_while_samples_or_a_fold_are_better():
    growns = [Grown(4), Grown(3, 4), Grown()]
    spent = advance(growns, DifferentiableGaussianMixture(5), [1, 2, 3, 4])
    assert [K for K, _ in spent] == [5, 4, 3]
    assert all(grown.fitted == [5, 4, 3, 2] for grown in growns)


def test_collapsed_fits_are_not_chosen():
    rng = np.random.default_rng(0)
    X = np.vstack([rng.normal(size=(60, 2)), np.full((4, 2), 30.0)])  # four equal rows
    found = GaussianMixtureSearch(range(1, 5), "full", patience=None, random_state=0).fit(X)
    rows = pd.DataFrame(found.results_)
    assert rows.collapsed.any()
    assert not rows.collapsed[found.best_index_]
    with pytest.warns(ConvergenceWarning, match="a best fit with a collapsed component"):
        GaussianMixtureSearch(4, "full", random_state=0).fit(X)
