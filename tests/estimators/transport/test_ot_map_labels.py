"""OTMap with labels, sample weights, and few samples for their features."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from two_mixtures import SOURCE, TARGET, draw

from skgmmot import DifferentiableGaussianMixture, OTMap, ot_map


@pytest.fixture
def mixture():
    return DifferentiableGaussianMixture(2, random_state=0)


def test_labels_are_carried_to_the_target(labelled):
    X, y, Y = labelled
    mixture = DifferentiableGaussianMixture(2, random_state=0)
    transport = OTMap(Y, mixture=mixture, class_wise=True).fit(X, y)
    assert list(transport.classes_) == ["even", "odd"]
    assert list(transport.component_labels_) == ["even", "even", "odd", "odd"]
    assert transport.plan_.shape == (4, 4)
    assert np.mean(transport.predict(Y) == y) > 0.98
    proba = transport.predict_proba(Y)
    assert np.allclose(proba.sum(1), 1) and proba.shape == (400, 2)
    assert (transport.classes_[proba.argmax(1)] == transport.predict(Y)).all()
    near = np.abs(transport.transform(X) - Y).max(axis=1)
    assert np.median(near) < 1
    tensor = transport.predict_proba(torch.tensor(Y, requires_grad=True))
    assert isinstance(tensor, torch.Tensor) and np.allclose(tensor, proba)


def test_without_class_wise_labels_are_ignored(labelled):
    X, y, Y = labelled
    mixture = DifferentiableGaussianMixture(4, random_state=0)
    transport = OTMap(Y, mixture=mixture)
    assert np.array_equal(transport.fit(X, y).transform(X), transport.fit(X).transform(X))
    assert not hasattr(transport, "predict") and not hasattr(transport, "predict_proba")
    with pytest.raises(AttributeError):
        transport.predict(Y)


def test_a_classifier_after_the_map_lives_in_the_target_domain(labelled):
    X, y, Y = labelled
    mixture = DifferentiableGaussianMixture(2, random_state=0)
    classifier = KNeighborsClassifier()
    before = classifier.fit(X, y).score(Y, y)
    pipeline = make_pipeline(OTMap(Y, mixture=mixture, class_wise=True), classifier).fit(X, y)
    assert pipeline[-1].score(Y, y) > max(0.95, before + 0.2)
    assert pipeline.score(X, y) > 0.95


def test_a_search_chooses_the_components_of_a_pipeline(labelled):
    X, y, Y = labelled
    mixture = DifferentiableGaussianMixture(random_state=0)
    pipeline = make_pipeline(OTMap(Y, mixture=mixture, class_wise=True), KNeighborsClassifier())
    grid = {"otmap__mixture__n_components": [1, 2], "otmap__strategy": ["mean"]}
    search = GridSearchCV(pipeline, grid, cv=2, error_score="raise").fit(X, y)
    assert search.best_score_ > 0.9


def test_some_features_are_moved_by_a_column_transformer(labelled, mixture):
    X, _, Y = labelled
    frame = pd.DataFrame(np.c_[X, np.arange(400)], columns=["a", "b", "age"])
    target = pd.DataFrame(Y, columns=["a", "b"])
    parts = ColumnTransformer(
        [("moved", OTMap(target, mixture=mixture), ["a", "b"])],
        remainder="passthrough",
        verbose_feature_names_out=False,
    ).set_output(transform="pandas")
    moved = parts.fit_transform(frame)
    assert list(moved.columns) == ["a", "b", "age"]
    assert (moved["age"] == frame["age"]).all()
    expected = OTMap(target, mixture=mixture).fit(frame[["a", "b"]]).transform(frame[["a", "b"]])
    assert np.allclose(moved[["a", "b"]], expected)


def test_a_mixture_may_take_the_place_of_the_source_samples(mixture):
    model = clone(mixture).fit(pd.DataFrame(draw(SOURCE, 500), columns=["a", "b"]))
    transport = OTMap(TARGET).fit(model)
    assert transport.source_mixture_ is model
    assert list(transport.feature_names_in_) == ["a", "b"]
    X = pd.DataFrame(draw(SOURCE, 10), columns=["a", "b"])
    assert np.allclose(transport.transform(X), ot_map(model, TARGET).transform(X))
