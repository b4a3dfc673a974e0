"""AdaptedClassifier: a classifier trained on mapped samples, which predicts target samples."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from skgmmot import AdaptedClassifier, OTMap

ONE = ([1.0], [[0.0]], [1.0], "spherical")


class ToItself(OTMap):
    """A map whose target is the source: the checks have data of many features, but no target."""

    def fit(self, X, y=None, sample_weight=None):
        self.target = X
        return super().fit(X, y, sample_weight)


def expected_failures(estimator):
    why = "weights of the source are none of the target, which is the source here"
    return {"check_sample_weight_equivalence_on_dense_data": why}


@parametrize_with_checks(
    [AdaptedClassifier(ToItself(ONE, n_components=1), LogisticRegression())],
    expected_failed_checks=expected_failures,
)
def test_it_passes_the_checks_of_scikit_learn(estimator, check):
    check(estimator)


def test_it_predicts_target_samples_as_the_classifier_of_images_does(labelled):
    X, y, Y = labelled
    transport = OTMap(Y, n_components=2, class_wise=True, random_state=0)
    adapted = AdaptedClassifier(transport, LogisticRegression()).fit(X, y)
    images = clone(transport).fit(X, y).transform(X)
    expected = LogisticRegression().fit(images, y)
    assert np.array_equal(adapted.predict(Y), expected.predict(Y))
    assert np.array_equal(adapted.predict_proba(Y), expected.predict_proba(Y))
    assert np.array_equal(adapted.predict_log_proba(Y), expected.predict_log_proba(Y))
    assert np.array_equal(adapted.decision_function(Y), expected.decision_function(Y))
    assert adapted.score(Y, y) == expected.score(Y, y)
    assert list(adapted.classes_) == ["even", "odd"]
    assert not hasattr(transport, "plan_") and adapted.ot_map_.plan_.shape == (4, 4)


def test_a_pipeline_of_both_is_for_source_samples(labelled):
    X, y, Y = labelled
    steps = OTMap(Y, n_components=2, class_wise=True, random_state=0), KNeighborsClassifier()
    pipeline, adapted = make_pipeline(*steps).fit(X, y), AdaptedClassifier(*steps).fit(X, y)
    assert adapted.score(Y, y) > 0.95 > pipeline.score(Y, y)
    assert pipeline.score(X, y) > 0.95


def test_a_search_goes_over_the_map_and_the_classifier_by_labelled_target_samples(labelled):
    X, y, Y = labelled
    adapted = AdaptedClassifier(OTMap(Y, class_wise=True, random_state=0), KNeighborsClassifier())
    grid = {"ot_map__n_components": [1, 2], "classifier__n_neighbors": [1, 5]}
    grid["ot_map__mixture__reg_covar"] = [1e-3]
    both, labels = np.r_[X, Y[:60]], np.r_[y, y[:60]]
    cv = [(np.arange(400), np.arange(400, 460))]
    search = GridSearchCV(adapted, grid, cv=cv, refit=False, error_score="raise").fit(both, labels)
    chosen = clone(adapted).set_params(**search.best_params_).fit(X, y)
    assert search.best_score_ == chosen.score(Y[:60], y[:60]) > 0.95


def test_weights_are_those_of_rows_for_both(labelled):
    X, y, Y = labelled
    copies = np.random.default_rng(0).integers(0, 3, size=400)
    adapted = AdaptedClassifier(OTMap(Y, class_wise=True, random_state=0), LogisticRegression())
    weighted = clone(adapted).fit(X, y, sample_weight=copies)
    repeated = clone(adapted).fit(X.repeat(copies, axis=0), y.repeat(copies))
    # to the tolerance of logistic regression
    assert np.allclose(weighted.predict_proba(Y), repeated.predict_proba(Y), atol=1e-3)


def test_samples_of_unknown_class_are_left_out_where_the_map_leaves_them_out(labelled):
    X, y, Y = labelled
    partly = np.where(np.arange(400) < 40, -1, (y == "odd") + 1)
    adapted = AdaptedClassifier(OTMap(Y, class_wise=True, random_state=0), LogisticRegression())
    assert list(adapted.fit(X, partly).classes_) == [1, 2]
    assert np.array_equal(adapted.predict(Y), clone(adapted).fit(X[40:], partly[40:]).predict(Y))
    adapted.set_params(ot_map__class_wise=False)
    assert list(adapted.fit(X, partly).classes_) == [-1, 1, 2]


@pytest.mark.parametrize("output", ["default", "pandas"])
def test_data_frames_are_checked_for_their_columns(output, labelled):
    X, y, Y = (pd.DataFrame(v, columns=["a", "b"]) if v.ndim == 2 else v for v in labelled)
    transport = OTMap(Y, n_components=2, class_wise=True, random_state=0).set_output(
        transform=output
    )
    adapted = AdaptedClassifier(transport, KNeighborsClassifier()).fit(X, y)
    assert adapted.score(Y, y) > 0.8 and list(adapted.feature_names_in_) == ["a", "b"]
    with pytest.raises(ValueError, match="feature names should match"):
        adapted.predict(Y[["b", "a"]])


def test_only_what_the_classifier_can_is_there(labelled):
    _, _, Y = labelled
    adapted = AdaptedClassifier(OTMap(Y), RidgeClassifier())
    assert not hasattr(adapted, "predict_proba") and hasattr(adapted, "decision_function")
    with pytest.raises(NotFittedError):
        adapted.predict(Y)


@pytest.mark.parametrize(
    ("ot_map", "classifier", "weights", "message"),
    [
        (OTMap(), LogisticRegression(), None, "ot_map must have a target, got None. Pass the"),
        (LogisticRegression(), LogisticRegression(), None, "The 'ot_map' parameter"),
        (OTMap(ONE), KNeighborsClassifier(), [1.0, 1.0], "classifier must be one whose fit takes"),
        (OTMap(ONE), LogisticRegression(), [1.0, -1.0], "must be finite and non-negative"),
        (OTMap(ONE), LogisticRegression(), [0.0, 0.0], "must have a positive sum, got all zeros"),
        (
            OTMap(np.ones((3, 2)), n_components=1),
            LogisticRegression(),
            None,
            "target must be samples like those",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_plain_words(ot_map, classifier, weights, message):
    with pytest.raises(ValueError, match=message):
        AdaptedClassifier(ot_map, classifier).fit([[0.0], [1.0]], [0, 1], weights)


@pytest.mark.parametrize(
    ("y", "error", "message"),
    [
        (None, ValueError, "a classifier requires y to be passed, but the target y is None"),
        ([0.0, np.nan], ValueError, "y must hold a label for each sample, got NaN"),
        ([0.0, np.inf], ValueError, "y must hold a label for each sample, got infinity"),
        ([0.5, 1.0], ValueError, "y must hold labels of classes, got others. Unknown label type"),
        ([1j, 1.0], ValueError, "y must be real, got complex numbers"),
        (np.array([None, "a"]), TypeError, "y must be classes of one kind, got NoneType, str"),
        ([0, 1, 1], ValueError, "inconsistent numbers of samples"),
        (
            [1, 1],
            ValueError,
            r"fitted to 2 images of samples of 1 class\(es\), got an error of Log",
        ),
    ],
)
def test_what_is_no_label_is_refused_in_plain_words(y, error, message):
    with pytest.raises(error, match=message):
        AdaptedClassifier(OTMap(ONE, n_components=1), LogisticRegression()).fit([[0.0], [1.0]], y)


@pytest.mark.parametrize("classifier", [None, LogisticRegression])
def test_what_is_no_classifier_is_named_and_can_be_asked_for_its_tags(classifier):
    adapted = AdaptedClassifier(OTMap(ONE), classifier)
    with pytest.raises(TypeError, match="classifier must be an estimator that has fit and predict"):
        adapted.fit([[0.0], [1.0]], [0, 1])
    with pytest.raises(NotFittedError):
        adapted.predict([[0.0]])


def test_a_map_in_the_place_of_the_classifier_is_named_without_its_target():
    with pytest.raises(
        TypeError, match=r"got OTMap. Pass the map first: AdaptedClassifier\("
    ) as error:
        AdaptedClassifier(OTMap(ONE), OTMap(np.zeros((99, 1)))).fit([[0.0], [1.0]], [0, 1])
    assert len(str(error.value)) < 200


class Unwilling(LogisticRegression):
    """A classifier whose fit fails."""

    def fit(self, X, y, sample_weight=None):
        raise ValueError("not today")


def test_a_fit_that_fails_leaves_the_earlier_one(labelled):
    X, y, target = labelled
    adapted = AdaptedClassifier(OTMap(target, random_state=0), LogisticRegression()).fit(X, y)
    expected = adapted.predict(target)
    wide = np.hstack([X, X])
    adapted.set_params(ot_map__target=wide, classifier=Unwilling())
    with pytest.raises(ValueError, match="not today"):
        adapted.fit(pd.DataFrame(wide).add_prefix("x"), y)
    assert adapted.n_features_in_ == 2 and not hasattr(adapted, "feature_names_in_")
    np.testing.assert_array_equal(adapted.predict(target), expected)


def test_tensors_are_taken_as_arrays_are(labelled):
    X, y, target = labelled
    model = AdaptedClassifier(OTMap(target, n_components=4, random_state=0), LogisticRegression())
    expected = model.fit(X, y).predict(target)
    graph = torch.tensor(X, requires_grad=True)
    found = model.fit(graph, torch.tensor(y == "odd")).predict(torch.tensor(target))
    assert ((expected == "odd") == found).all()
