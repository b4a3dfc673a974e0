"""The fits of a search, compared."""

import pickle
import warnings

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.model_selection import ShuffleSplit
from three_groups import groups

from skgmmot import (
    DifferentiableGaussianMixture,
    GaussianMixtureSearch,
)
from skgmmot.estimators.search._comparison import Course


@pytest.mark.parametrize("criterion, K, n_samples", [("bic", 13, 12), ("held_out", 10, 9)])
def test_numbers_that_exceed_the_samples_are_left_out(criterion, K, n_samples):
    X = groups("spherical")[::50]
    with pytest.warns(UserWarning, match=f"at most .*, got {K} for {n_samples}. Larger"):
        found = GaussianMixtureSearch(
            [1, 2, 3, K], "spherical", criterion=criterion, cv=4, random_state=0
        ).fit(X)
    assert set(found.results_["n_components"]) == {1, 2, 3}


@pytest.mark.parametrize("largest, warned", [(2, True), (3, True), (5, False)])
def test_a_best_number_at_the_end_of_the_grid_is_warned_of(largest, warned):
    numbers = range(1, largest + 1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        GaussianMixtureSearch(numbers, "full", random_state=0).fit(groups("full"))
        GaussianMixtureSearch(largest, random_state=0).fit(groups("full"))  # no choice
    texts = [str(w.message) for w in caught if "must go beyond the best number" in str(w.message)]
    assert len(texts) == warned
    assert all(f"got {largest} for the best and the largest" in text for text in texts)


def test_types_without_hope_are_given_up_and_none_if_so_asked():
    X, options = groups("tied"), {"random_state": 0}
    pruned = GaussianMixtureSearch(**options).fit(X)
    whole = GaussianMixtureSearch(patience=None, **options).fit(X)
    assert len(whole.results_["criterion"]) == 40
    assert len(pruned.results_["criterion"]) < 30
    assert pruned.best_params_ == whole.best_params_


@pytest.mark.parametrize(
    "values, lowest, given_up",
    [
        ([100, 50, 70], 50, False),  # once
        ([100, 50, 70, 90], 50, True),
        ([100, 50, 55, 58], 50, False),  # not clearly
        ([1000, 900, 800], 0, True),  # 700 more at best
        ([1000, 900, 800], 89, True),
        ([1000, 900, 800], 101, False),
        ([1000, np.inf, np.inf], 1000, True),
        ([1000, 200], 0, False),
    ],
)
def test_hope_ends_after_clear_losses_or_too_far_behind(values, lowest, given_up):
    course = Course()
    course.values = dict(enumerate(values, start=1))
    course.judge(lowest, 7, 2)
    assert course.given_up == given_up


def test_hope_is_in_the_components_that_may_still_come(monkeypatch):
    seen = []
    monkeypatch.setattr(Course, "judge", lambda course, lowest, *given: seen.append(given))
    search = GaussianMixtureSearch((1, 2, 4), ("diag", "full"), patience=3, random_state=0)
    search.fit(groups("diag", n=30))
    assert seen == [(3, 3)] * 2 + [(2, 3)] * 2 + [(0, 3)] * 2


def test_held_out_likelihood_is_that_of_the_folds():
    X = groups("spherical")
    cv = ShuffleSplit(2, test_size=0.25, random_state=0)
    found = GaussianMixtureSearch((3,), "diag", criterion="held_out", cv=cv, random_state=0).fit(X)
    each = [
        DifferentiableGaussianMixture(3, covariance_type="diag", n_init=2, random_state=0)
        .fit(X[train])
        .score(X[test])
        for train, test in cv.split(X)
    ]
    assert found.results_["held_out"][0] == pytest.approx(np.mean(each), abs=1e-2)
    assert found.best_criterion_ == pytest.approx(-2 * len(X) * found.results_["held_out"][0])


def test_numbers_need_not_be_consecutive_nor_in_order():
    found = GaussianMixtureSearch([8, 1, 3, 3], "tied", random_state=0).fit(groups("tied"))
    assert found.results_["n_components"].tolist() == [1, 3, 8]
    assert found.n_components_ == 3


def test_a_type_that_fails_in_one_fold_is_not_chosen():
    X = groups("diag", n=20)
    X[:, 0] = np.where(np.arange(60) < 50, 0.0, X[:, 0])  # constant in the first fold's training
    mixture = DifferentiableGaussianMixture(reg_covar=0)
    cv = [(np.arange(40), np.arange(40, 60)), (np.arange(20, 60), np.arange(20))]

    class Cuts:
        def split(self, X, y=None, groups=None):
            return iter(cv)

    options = {"criterion": "held_out", "cv": Cuts(), "mixture": mixture, "random_state": 0}
    found = GaussianMixtureSearch((1, 2), ("full", "spherical"), **options).fit(X)
    assert found.covariance_type_ == "spherical"
    rows = pd.DataFrame(found.results_)
    assert np.isinf(rows.criterion[rows.covariance_type == "full"]).all()


class Elsewhere:
    """What joblib does with processes: tasks and their results are pickled."""

    n_calls = 0

    def __init__(self, n_jobs):
        assert n_jobs == 2

    def __call__(self, tasks):
        Elsewhere.n_calls += 1
        for function, arguments, options in tasks:
            arguments = pickle.loads(pickle.dumps(arguments))
            yield pickle.loads(pickle.dumps(function(*arguments, **options)))


@pytest.mark.parametrize("criterion", ["bic", "held_out"])
def test_processes_find_what_one_finds(criterion, monkeypatch):
    module = "skgmmot.estimators.search._comparison"
    monkeypatch.setattr(f"{module}.Parallel", Elsewhere)
    monkeypatch.setattr(f"{module}.delayed", joblib.delayed)
    options = {"criterion": criterion, "cv": 2, "random_state": 0}
    alone = GaussianMixtureSearch(range(1, 5), ("full", "diag"), **options)
    shared = clone(alone).set_params(n_jobs=2).fit(groups("diag", 60))
    assert Elsewhere.n_calls
    alone.fit(groups("diag", 60))
    assert shared.best_params_ == alone.best_params_
    for name, column in alone.results_.items():
        if name != "fit_time":
            np.testing.assert_array_equal(shared.results_[name], column)
    for name in ("weights_", "means_", "covariances_", "lower_bound_", "lower_bounds_"):
        found, expected = (getattr(s.best_estimator_, name) for s in (shared, alone))
        np.testing.assert_array_equal(found, expected)
