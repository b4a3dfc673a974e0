"""Scorers: minus the distance to a mixture of held-out samples, in searches and pipelines."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skgmmot import DifferentiableGaussianMixture, MixtureWasserstein
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.metrics import (
    SCORERS,
    aic_scorer,
    bic_scorer,
    get_scorer,
    make_mixture_wasserstein_scorer,
    mixture_wasserstein_scorer,
)


def test_the_scorer_is_minus_the_distance_to_a_clone_fitted_to_held_out_samples(blobs):
    train, test = blobs[::2], blobs[1::2]
    model = DifferentiableGaussianMixture(2, random_state=0)
    fitted, held_out = clone(model).fit(train), clone(model).fit(test)
    score = mixture_wasserstein_scorer(fitted, test)
    assert score == -MixtureWasserstein()(fitted, held_out)
    assert score < 0
    assert -1e-12 < mixture_wasserstein_scorer(fitted, train) <= 0
    reference = GaussianMixture(3, random_state=0)
    scorer = make_mixture_wasserstein_scorer(reference, reg_m=1.0, squared=True)
    metric = MixtureWasserstein(reg_m=1.0, squared=True)
    assert scorer(fitted, test) == -metric(fitted, clone(reference).fit(test))
    assert not hasattr(reference, "means_")


def test_the_reference_is_fitted_to_the_classes_of_held_out_samples(blobs):
    y = (blobs[:, 0] > np.median(blobs[:, 0])).astype(int)
    model = DifferentiableGaussianMixture(2, labels="y", random_state=0)
    fitted = clone(model).fit(blobs[::2], y[::2])
    expected = -MixtureWasserstein()(fitted, clone(model).fit(blobs[1::2], y[1::2]))
    assert mixture_wasserstein_scorer(fitted, blobs[1::2], y[1::2]) == expected
    plain = clone(model).set_params(labels="ignore")
    given = make_mixture_wasserstein_scorer(plain)
    without = -MixtureWasserstein()(fitted, clone(plain).fit(blobs[1::2]))
    assert given(fitted, blobs[1::2], y[1::2]) == without
    scores = cross_val_score(model, blobs, y, scoring=mixture_wasserstein_scorer, cv=3)
    assert (scores < 0).all()
    with pytest.raises(ValueError, match="y"):
        mixture_wasserstein_scorer(fitted, blobs[1::2])
    for name in ("aic", "bic", "sliced_wasserstein"):  # what is scored takes no classes
        score = get_scorer(name)
        assert score(fitted, blobs, y) == score(fitted, blobs)


def test_scorers_take_tuples(blobs):
    train, test = blobs[::2], blobs[1::2]
    fitted = DifferentiableGaussianMixture(4, covariance_type="diag", random_state=0).fit(train)
    as_tuple = (fitted.weights_, fitted.means_, fitted.covariances_)
    for scorer in SCORERS.values():
        assert scorer(as_tuple, test) == scorer(fitted, test)
        as_value = GaussianMixtureParams(*map(torch.from_numpy, as_tuple))
        assert scorer(as_value, test) == scorer(fitted, test)


def test_criteria_choose_as_a_loop_over_them(blobs):
    model, rows = DifferentiableGaussianMixture(random_state=0), np.arange(len(blobs))
    for name in ("bic", "aic"):
        options = {"scoring": get_scorer(name), "cv": [(rows, rows)]}
        found = GridSearchCV(model, {"n_components": [1, 4, 6]}, **options).fit(blobs)
        fits = [clone(model).set_params(n_components=K).fit(blobs) for K in (1, 4, 6)]
        values = [-getattr(fitted, name)(blobs) for fitted in fits]
        np.testing.assert_allclose(found.cv_results_["mean_test_score"], values)
    piped = make_pipeline(StandardScaler(), GaussianMixture(2, random_state=0)).fit(blobs)
    scaled = piped[0].transform(blobs)
    assert bic_scorer(piped, blobs) == -piped[-1].bic(scaled)
    with pytest.raises(TypeError, match="a mixture with bic and aic, got KMeans"):
        aic_scorer(KMeans(2, n_init=1).fit(blobs), blobs)


@pytest.mark.parametrize("scoring", [mixture_wasserstein_scorer, get_scorer("mixture_wasserstein")])
@pytest.mark.parametrize("piped", [False, True])
def test_the_scorer_chooses_in_a_grid_search(blobs, scoring, piped):
    X = np.random.default_rng(0).permutation(blobs)
    model = DifferentiableGaussianMixture(3, random_state=0, reg_covar=1e-3)
    grid = {"covariance_type": ["full", "spherical"]}
    if piped:
        model = make_pipeline(StandardScaler(), model)
        grid = {f"differentiablegaussianmixture__{name}": v for name, v in grid.items()}
    search = GridSearchCV(model, grid, scoring=scoring, cv=3).fit(X)
    scores = search.cv_results_["mean_test_score"]
    assert np.isfinite(scores).all() and (scores < 0).all()
    assert search.best_score_ == scores.max()
    assert np.isfinite(cross_val_score(model, X, scoring=scoring, cv=3)).all()


@pytest.mark.parametrize("reference", [None, GaussianMixture(2, random_state=0)])
def test_the_last_step_of_a_pipeline_is_scored_on_what_the_others_make(blobs, reference):
    train, test = blobs[::2], 3 * blobs[1::2] + 50  # what is not transformed scores far worse
    last = DifferentiableGaussianMixture(3, random_state=0)
    pipeline = make_pipeline(StandardScaler(), PCA(), last).fit(train)
    held_out = pipeline[1].transform(pipeline[0].transform(test))
    expected = MixtureWasserstein()(last, clone(reference or last).fit(held_out))
    scorer = make_mixture_wasserstein_scorer(reference)
    assert scorer(pipeline, test) == -expected
    assert abs(scorer(last, test) + expected) > 1
    alone = make_pipeline(make_pipeline(clone(last))).fit(train)  # with no other steps
    assert scorer(alone, test) == scorer(alone[-1][-1], test)


@pytest.mark.usefixtures("random_seed")
def test_with_a_reference_the_score_rises_up_to_the_number_of_clusters(rng):
    centres = np.array([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
    X = rng.permutation(np.vstack([c + rng.normal(size=(150, 2)) for c in centres]))
    reference = DifferentiableGaussianMixture(6, random_state=0)
    scorer = make_mixture_wasserstein_scorer(reference)
    one, two, three, four = (
        cross_val_score(
            DifferentiableGaussianMixture(n, random_state=0), X, scoring=scorer, cv=3
        ).mean()
        for n in (1, 2, 3, 4)
    )
    assert one < two - 0.5 and two < three - 0.5
    assert abs(four - three) < 0.5


def test_scorers_are_found_by_name_and_pickled():
    assert get_scorer("mixture_wasserstein") is mixture_wasserstein_scorer
    assert get_scorer("accuracy") is not None
    copied = pickle.loads(pickle.dumps(make_mixture_wasserstein_scorer(GaussianMixture(2))))
    assert "GaussianMixture(n_components=2)" in repr(copied)
    assert get_scorer(len) is len
    for name in ("wasserstone", None, 3):
        with pytest.raises(ValueError, match=rf"name must be one of .* got {name!r}"):
            get_scorer(name)


@pytest.mark.parametrize(
    ("given", "shown"),
    [("a name", "str"), (3.0, "float"), (StandardScaler, "the class StandardScaler")],
)
def test_what_is_no_estimator_is_refused(blobs, given, shown):
    with pytest.raises(TypeError, match=f"reference must be a mixture estimator, got {shown}"):
        make_mixture_wasserstein_scorer(given)
    for scorer in SCORERS.values():
        with pytest.raises(TypeError, match=f"estimator must be a mixture estimator, got {shown}"):
            scorer(given, blobs)


def test_an_estimator_that_is_not_fitted_is_not_scored(blobs):
    with pytest.raises(NotFittedError):
        mixture_wasserstein_scorer(DifferentiableGaussianMixture(), blobs)
