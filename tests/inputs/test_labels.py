"""Labels of users: what is refused, and what is no class."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.mixture import GaussianMixture
from two_mixtures import SOURCE, TARGET, draw

from skgmmot import DifferentiableGaussianMixture, OTMap
from skgmmot._inputs.labels import class_labels


@pytest.fixture
def mixture():
    return DifferentiableGaussianMixture(2, random_state=0)


@pytest.mark.parametrize(
    "y, message",
    [
        (None, "requires y to be passed, but the target y is None"),
        (np.zeros(3), "inconsistent numbers of samples"),
        (np.linspace(0, 1, 400), "Unknown label type: continuous"),
        (np.r_[np.zeros(399), 1], r"the mixture of class 1.0 must be one that can be fitted. .*"),
    ],
)
def test_labels_that_make_no_classes_are_refused(y, message, labelled):
    X, good, Y = labelled
    transport = OTMap(Y, class_wise=True, random_state=0).fit(X, good)
    plan = transport.plan_
    with pytest.raises(ValueError, match=message):
        transport.fit(X, y)
    assert transport.plan_ is plan and len(transport.classes_) == 2


@pytest.mark.parametrize("options", [{}, {"class_wise": True}, {"target": TARGET}])
@pytest.mark.parametrize(
    "given, what",
    [
        (draw(TARGET, 40), r"an array of shape \(40, 2\)"),
        (torch.tensor(draw(TARGET, 40)), r"an array of shape \(40, 2\)"),
        (pd.DataFrame(draw(TARGET, 40)), r"an array of shape \(40, 2\)"),
        (draw(TARGET, 40).tolist(), r"an array of shape \(40, 2\)"),
        (TARGET, "a tuple of weights, means and covariances"),
        (GaussianMixture().fit(draw(TARGET, 40)), "GaussianMixture"),
    ],
    ids=["array", "tensor", "frame", "lists", "tuple", "mixture"],
)
def test_a_target_in_the_place_of_labels_is_refused(options, given, what):
    message = rf"y must be labels of the source samples, got {what}, .*OTMap\(target=\.\.\.\)"
    with pytest.raises(ValueError, match=message):
        OTMap(**options).fit(draw(SOURCE, 50), given)
    with pytest.raises(ValueError, match=message):
        OTMap(**options).fit_transform(draw(SOURCE, 50), given)
    if "target" not in options:  # then also with as many rows as the source, or a source mixture
        for X in (draw(SOURCE, 40), SOURCE):
            with pytest.raises(ValueError, match=message):
                OTMap(**options).fit(X, given)


@pytest.mark.parametrize(
    "y", [tuple([0, 1] * 25), np.arange(100.0).reshape(50, 2), np.ones((50, 3)), ["a"] * 50]
)
def test_what_a_later_step_of_a_pipeline_predicts_is_let_by(y, mixture):
    X = draw(SOURCE, 50)
    transport = OTMap(TARGET, mixture=mixture)
    assert np.array_equal(transport.fit_transform(X, y), transport.fit_transform(X))


@pytest.mark.parametrize(
    "names", [np.array([0, 1]), np.array([2.0, -3.0]), np.array(["odd", "even"], dtype=object)]
)
def test_samples_of_unknown_class_are_left_out(labelled, names):
    X, y, Y = labelled
    y = names[(y == "odd").astype(int)]
    hidden = np.arange(400) % 3 == 0
    transport = OTMap(Y, class_wise=True, random_state=0)
    partly = clone(transport).fit(X, np.where(hidden, -1, y))
    without = clone(transport).fit(X[~hidden], y[~hidden])
    assert list(partly.classes_) == sorted(names)
    assert np.array_equal(partly.transform(X), without.transform(X))
    assert np.array_equal(partly.predict(Y), without.predict(Y))


@pytest.mark.parametrize("y", [np.full(400, -1), np.where(np.arange(400) % 2, 1, -1)])
def test_minus_one_and_one_other_label_are_no_classes(labelled, y):
    X, good, Y = labelled
    with pytest.raises(ValueError, match="y must have two classes or more beside -1, which marks"):
        OTMap(Y, class_wise=True).fit(X, y)
    with pytest.raises(ValueError, match="by the number -1, got it as a string"):
        OTMap(Y, class_wise=True).fit(X, np.where(np.arange(400) % 3, good, "-1"))


@pytest.mark.parametrize(
    "y, message",
    [
        ([0.0, np.nan, 1.0], "y must hold a label for each sample, got NaN"),
        ([0.5, 1.5, 0.25], "y must hold labels of classes, got others. Unknown label type"),
    ],
)
def test_labels_of_classes_are_no_measurements(y, message):
    with pytest.raises(ValueError, match=message):
        class_labels(np.array(y), np.ones((3, 1)))
