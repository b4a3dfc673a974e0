"""The choice of a number of components and a covariance type."""

import pickle

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from three_groups import groups

from skgmmot import (
    DifferentiableGaussianMixture,
    GaussianMixtureSearch,
    MixtureWasserstein,
    OTMap,
    SemidiscreteGMM,
)
from skgmmot.metrics import bic_scorer


@pytest.fixture(scope="module")
def search():
    """A search among one to six components, fitted to three round groups."""
    return GaussianMixtureSearch(range(1, 7), random_state=0).fit(groups("spherical"))


@pytest.mark.parametrize("criterion", ["bic", "icl"])
def test_the_true_number_and_type_are_found(covariance_type, criterion):
    X = groups(covariance_type)
    found = GaussianMixtureSearch(range(1, 6), criterion=criterion, random_state=0).fit(X)
    assert found.best_params_ == {"n_components": 3, "covariance_type": covariance_type}


@pytest.mark.parametrize("criterion", ["aic", "held_out"])
def test_other_criteria_find_at_least_the_groups(criterion):
    X = groups("full")
    found = GaussianMixtureSearch(range(1, 6), "full", criterion=criterion, random_state=0).fit(X)
    assert found.n_components_ >= 3


def test_criteria_are_those_of_the_fits(search):
    X, best = groups("spherical"), search.best_estimator_
    row = pd.DataFrame(search.results_).iloc[search.best_index_]
    assert row.bic == pytest.approx(best.bic(X))
    assert row.aic == pytest.approx(best.aic(X))
    assert row.criterion == search.best_criterion_ == row.bic
    assert row.log_likelihood == pytest.approx(best.score(X))
    resp = best.predict_proba(X)
    assert row.icl - row.bic == pytest.approx(-2 * (resp * np.log(resp + 1e-300)).sum(), rel=1e-6)
    assert row.n_parameters == best._n_parameters()
    assert row.criterion == search.results_["criterion"].min()


def test_it_is_a_fitted_mixture_itself(search):
    X, best = groups("spherical"), search.best_estimator_
    for method in ("predict", "predict_proba", "score_samples"):
        np.testing.assert_array_equal(getattr(search, method)(X), getattr(best, method)(X))
    assert search.score(X) == best.score(X)
    assert search.bic(X) == best.bic(X)
    assert search.sample(5)[0].shape == (5, 2)
    assert MixtureWasserstein()(search, best) == 0
    assert OTMap(best).fit(search).transform(X).shape == X.shape
    assert best.standard_errors(X).means.shape == (3, 2)
    assert type(best) is DifferentiableGaussianMixture
    assert clone(best).fit(X).score(X) == pytest.approx(best.score(X), abs=1e-3)


def test_scores_have_the_names_of_scikit_learn(search):
    """Of its searches with the scorers for the same criteria."""
    X, table = groups("spherical"), search.cv_results_
    assert search.best_score_ == pytest.approx(bic_scorer(search.best_estimator_, X))
    assert table["rank_test_score"][search.best_index_] == 1
    assert table["params"][search.best_index_] == search.best_params_
    frame = pd.DataFrame(table)
    assert list(frame.param_n_components) == [p["n_components"] for p in table["params"]]
    best = frame.sort_values("mean_test_score").iloc[-1]
    assert best.params == search.best_params_ and best.rank_test_score == 1
    held_out = GaussianMixtureSearch((1, 2), "diag", criterion="held_out", random_state=0).fit(X)
    assert held_out.best_score_ == held_out.results_["held_out"][held_out.best_index_]
    unfitted = GaussianMixtureSearch()
    assert not hasattr(unfitted, "best_score_") and not hasattr(unfitted, "cv_results_")


@pytest.fixture(scope="module")
def incomplete():
    """Three groups, of which a fifth of the entries is missing."""
    X = groups("spherical", n=100)
    return np.where(np.random.default_rng(1).random(X.shape) < 0.2, np.nan, X)


@pytest.mark.parametrize("criterion", ["bic", "icl", "held_out"])
@pytest.mark.parametrize("missing", ["nan", np.nan])
def test_entries_may_be_missing_where_the_mixture_takes_them(criterion, missing, incomplete):
    mixture = DifferentiableGaussianMixture(missing_values=missing)
    options = {"mixture": mixture, "criterion": criterion, "random_state": 0}
    found = GaussianMixtureSearch((1, 2, 3, 4), "spherical", **options).fit(incomplete)
    assert found.n_components_ == 3
    assert np.array_equal(found.predict(incomplete), found.best_estimator_.predict(incomplete))
    if criterion == "bic":
        assert found.best_criterion_ == pytest.approx(found.best_estimator_.bic(incomplete))
        apart = clone(found.best_estimator_).set_params(n_init=5, random_state=0).fit(incomplete)
        assert found.score(incomplete) > apart.score(incomplete) - 1e-3
        weighted = clone(found).fit(np.vstack([incomplete] * 2), None, np.repeat([1.0, 0.0], 300))
        assert weighted.best_criterion_ == pytest.approx(found.best_criterion_, rel=1e-6)


def test_complete_samples_have_the_same_search_where_entries_may_be_missing(search):
    mixture = DifferentiableGaussianMixture(n_init=2, missing_values="nan")
    options = {"mixture": mixture, "random_state": 0}
    found = GaussianMixtureSearch(range(1, 7), **options).fit(groups("spherical"))
    assert np.array_equal(found.means_, search.means_)


def test_missing_entries_are_refused_with_the_name_of_the_parameter(incomplete):
    search = GaussianMixtureSearch((1, 2), random_state=0)
    with pytest.raises(ValueError, match=r"X must be .* set mixture__missing_values='nan' if"):
        search.fit(incomplete)
    search.set_params(mixture__missing_values="nan")
    with pytest.raises(ValueError, match=r"observed entry in each feature, got none .* \(first: 1"):
        search.fit(np.where([False, True], np.nan, incomplete))


def test_equal_seeds_give_equal_searches(search):
    again = clone(search).fit(groups("spherical"))
    for name, column in search.results_.items():
        if name != "fit_time":
            np.testing.assert_array_equal(column, again.results_[name])
    loaded = pickle.loads(pickle.dumps(search))
    np.testing.assert_array_equal(loaded.means_, search.means_)


def test_counts_are_repeated_rows(search):
    X, a = groups("spherical")[::2], np.full(300, 2)
    options = {"n_components": (1, 2, 3), "random_state": 0}
    weighted = GaussianMixtureSearch(**options).fit(X, sample_weight=a)
    repeated = GaussianMixtureSearch(**options).fit(X.repeat(2, axis=0))
    assert weighted.best_params_ == repeated.best_params_
    assert weighted.best_criterion_ == pytest.approx(repeated.best_criterion_, rel=1e-4)
    less = GaussianMixtureSearch(**options).fit(
        np.vstack([X, [[1e3, 1e3]]]), sample_weight=np.r_[a, 0]
    )
    assert less.best_criterion_ == weighted.best_criterion_


def test_results_are_arrays_or_tensors_as_other_results(array_kind):
    X = groups("spherical", n=50)
    options = {"n_components": (2, 3), "covariance_types": "diag", "random_state": 0}
    found = GaussianMixtureSearch(**options).fit(array_kind(X))
    assert type(found.means_) is np.ndarray
    assert found.predict(array_kind(X)).shape == (150,)
    found = GaussianMixtureSearch(**options).fit(torch.tensor(X, requires_grad=True))
    assert isinstance(found.means_, torch.Tensor)
    assert not found.means_.requires_grad
    found = GaussianMixtureSearch(**options).fit(X.astype(np.float32))
    assert found.means_.dtype == np.float32


def test_the_plot_has_a_line_for_each_type(search):
    plt.switch_backend("agg")
    ax = search.plot()
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["full", "tied", "diag", "spherical"]
    assert ax.get_ylabel() == "BIC"
    assert search.plot(ax) is ax
    plt.close("all")
    with pytest.raises(NotFittedError):
        GaussianMixtureSearch().plot()


def test_a_search_that_is_not_fitted_is_no_mixture_yet():
    with pytest.raises(NotFittedError):
        MixtureWasserstein()(GaussianMixtureSearch(), GaussianMixtureSearch())
    with pytest.raises(NotFittedError):
        GaussianMixtureSearch().predict([[0.0]])


def test_verbose_shows_a_bar_over_the_fits(capsys):
    search = GaussianMixtureSearch((1, 2), "diag", verbose=1, random_state=0).fit(groups("diag"))
    shown = capsys.readouterr()
    assert "2/2 [" in shown.err and not shown.out
    assert f"best BIC={search.results_['criterion'].min():.5g}" in shown.err


BAD = [
    ({"n_components": []}, ValueError, r"n_components must be .* got 'none'. Pass for example"),
    ({"n_components": (1, 0)}, ValueError, "one or more positive integers, got 0"),
    ({"n_components": (1, 2.5)}, ValueError, "got 2.5"),
    ({"n_components": 700}, ValueError, "n_components = 700, n_samples = 600. Pass more samples"),
    ({"n_components": 0}, ValueError, "The 'n_components' parameter"),
    ({"n_components": np.array(2)}, ValueError, r"one or more positive integers, got array\(2\)"),
    ({"n_components": torch.tensor(2)}, ValueError, r"positive integers, got tensor\(2\)"),
    ({"covariance_types": np.array(2)}, ValueError, r"covariance_types must be .* got array\(2\)"),
    ({"covariance_types": np.array("diag")}, ValueError, r"covariance_types .* got array\("),
    ({"covariance_types": ()}, ValueError, "covariance_types must be one or more of full, tied"),
    ({"covariance_types": ("full", "round")}, ValueError, "got 'round'. Pass for example"),
    ({"criterion": "mdl"}, ValueError, "The 'criterion' parameter"),
    ({"cv": 1, "criterion": "held_out"}, ValueError, "The 'cv' parameter"),
    ({"cv": "5", "criterion": "held_out"}, TypeError, "cv must be a number of folds .* got '5'"),
    ({"cv": 601, "criterion": "held_out"}, ValueError, "cv must be at most .* got 601 for 600"),
    ({"n_components": 590, "criterion": "held_out"}, ValueError, "of a fold, got 590 for 480"),
    ({"patience": 0}, ValueError, "The 'patience' parameter"),
    ({"mixture": SemidiscreteGMM()}, TypeError, "mixture must be a Differentiable.* got Semidis"),
    (
        {"mixture": DifferentiableGaussianMixture(means_init=[[0.0, 0.0]])},
        ValueError,
        "no start of a fixed number of components, got means_init",
    ),
    (
        {"mixture": DifferentiableGaussianMixture(e_step="sinkhorn")},
        ValueError,
        "mixture must maximise the likelihood, got e_step='sinkhorn'",
    ),
    (
        {"mixture": DifferentiableGaussianMixture(checkpoint="fit.pt")},
        ValueError,
        "mixture must have no checkpoint, got 'fit.pt'",
    ),
    (
        {"mixture": DifferentiableGaussianMixture(prior="auto")},
        ValueError,
        "mixture must have no prior",
    ),
]


@pytest.mark.parametrize("params, error, message", BAD)
def test_what_cannot_be_searched_is_refused(params, error, message):
    with pytest.raises(error, match=message):
        GaussianMixtureSearch(**params).fit(groups("spherical"))


def test_a_search_in_which_all_fits_fail_leaves_the_earlier_one():
    found = GaussianMixtureSearch((2, 3), "full", random_state=0).fit(groups("full"))
    means = found.means_
    found.set_params(mixture=DifferentiableGaussianMixture(reg_covar=0))
    with pytest.raises(ValueError, match="got singular covariances in all 2 fit"):
        found.fit(np.c_[groups("full"), np.zeros(600)])
    assert found.means_ is means


def test_units_that_reg_covar_drowns_are_warned_of_once():
    with pytest.warns(UserWarning, match="reg_covar must be small") as caught:
        GaussianMixtureSearch((1, 2), "diag", random_state=0).fit(1e-4 * groups("diag"))
    assert len([w for w in caught if "reg_covar must be small" in str(w.message)]) == 1
    assert caught[0].filename == __file__


def test_a_certified_search_has_the_errors_of_its_best_fit():
    mixture = DifferentiableGaussianMixture(certify=True)
    search = GaussianMixtureSearch([3], "full", mixture=mixture, random_state=0).fit(groups("full"))
    best = search.best_estimator_
    assert 0 < search.error_ == best.error_ < 1
    assert search.solution_.gain == best.solution_.gain
    assert not hasattr(search.set_params(mixture=None).fit(groups("full")), "error_")


@pytest.mark.parametrize("name", ["from_parameters", "from_sklearn", "from_torch"])
def test_a_search_is_not_made_of_a_known_mixture(name):
    for of in (GaussianMixtureSearch, GaussianMixtureSearch()):
        assert not hasattr(of, name)
        with pytest.raises(AttributeError, match=rf"has no {name}: .* Use that of Differentiable"):
            getattr(of, name)


def test_parts_of_a_search_are_those_of_its_best_mixture():
    X = np.random.default_rng(0).normal(size=(60, 3)) @ [[1, 0.5, 0], [0, 1, 0.5], [0, 0, 1]]
    search = GaussianMixtureSearch(2, "full", random_state=0).fit(X)
    for method, given in (("marginal", ([2, 0],)), ("condition", (0.3, 1))):
        found = getattr(search, method)(*given)
        expected = getattr(search.best_estimator_, method)(*given)
        assert isinstance(found, DifferentiableGaussianMixture)
        np.testing.assert_array_equal(found.weights_, expected.weights_)
        np.testing.assert_array_equal(found.means_, expected.means_)
        np.testing.assert_array_equal(found.covariances_, expected.covariances_)
