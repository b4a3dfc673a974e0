"""What OTMap refuses, and what it keeps when a fit fails."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.neighbors import KernelDensity
from two_mixtures import SOURCE, TARGET, draw

from skgmmot import DifferentiableGaussianMixture, OTMap, ot_map


@pytest.fixture
def mixture():
    return DifferentiableGaussianMixture(2, random_state=0)


@pytest.mark.parametrize(
    "target, message",
    [
        (np.ones((10, 3)), "target must be samples like those of the fit. X has 3 features"),
        (np.ones(10), "target must be samples like those of the fit. target must have shape"),
        (
            np.full((10, 2), np.nan),
            "target must be samples like those of the fit. target must be finite, got NaN",
        ),
        (([1.0], [[0.0, 0.0, 0.0]], [np.eye(3)]), "equal numbers of features, got 2 and 3"),
        (([0.7], [[0.0, 0.0]], [np.eye(2)]), "weights must be non-negative and sum to 1"),
    ],
)
def test_a_bad_target_is_refused_and_the_earlier_fit_stays(mixture, target, message):
    transport = OTMap(TARGET, mixture=mixture).fit(draw(SOURCE, 100))
    plan = transport.plan_
    with pytest.raises(ValueError, match=message):
        transport.set_params(target=target).fit(draw(SOURCE, 100))
    assert transport.plan_ is plan


def test_a_target_with_other_columns_is_refused(mixture):
    X = pd.DataFrame(draw(SOURCE, 100), columns=["a", "b"])
    Y = pd.DataFrame(draw(TARGET, 100), columns=["b", "a"])
    with pytest.raises(ValueError, match="feature names"):
        OTMap(Y, mixture=mixture).fit(X)
    with pytest.raises(
        ValueError, match=r"target must be fitted to the features of X, \['a', 'b'\]"
    ):
        OTMap(clone(mixture).fit(Y), mixture=mixture).fit(X)


@pytest.mark.parametrize("params", [{"target": KernelDensity()}, {"mixture": KernelDensity()}])
def test_estimators_that_are_no_mixtures_are_refused(params):
    name = next(iter(params))
    with pytest.raises(TypeError, match=rf"{name} must be a .*Gaussian mixture.*got KernelDensity"):
        OTMap(**params).fit(draw(SOURCE, 50))


def test_a_singular_source_is_refused():
    singular = ([1.0], [[0.0, 0.0]], [np.diag([1.0, 0.0])])
    with pytest.raises(ValueError, match="source covariances must be positive definite to tell"):
        ot_map(singular, TARGET)


def test_a_map_keeps_what_it_was_fitted_to(mixture):
    target = clone(mixture).fit(draw(TARGET, 500))
    transport = OTMap(target, mixture=mixture).fit(draw(SOURCE, 500))
    before = transport.transform(draw(SOURCE, 10))
    target.fit(draw(SOURCE, 500))
    assert np.array_equal(transport.transform(draw(SOURCE, 10)), before)


@pytest.mark.parametrize("call", [ot_map, lambda s, t: OTMap(t).fit(draw(SOURCE, 50))])
def test_an_unfitted_target_is_refused(call, mixture):
    with pytest.raises(NotFittedError, match="is not fitted yet"):
        call(SOURCE, mixture)


def test_an_unfitted_map_is_refused():
    with pytest.raises(NotFittedError, match="is not fitted yet"):
        OTMap(TARGET).transform(np.ones((3, 2)))


@pytest.mark.parametrize("params", [{"strategy": "best"}, {"mixture": 3}, {"device": 3}])
def test_unknown_options_are_refused(params):
    with pytest.raises(ValueError, match=f"The '{next(iter(params))}' parameter"):
        OTMap(TARGET, **params).fit(draw(SOURCE, 50))
    with pytest.raises(ValueError, match=f"The '{next(iter(params))}' parameter"):
        ot_map(SOURCE, TARGET, **params)
    with pytest.raises(ValueError, match="The 'strategy' parameter"):
        ot_map(SOURCE, TARGET).set_params(strategy="best").transform([[0.0, 0.0]])


def test_samples_of_another_dimension_are_refused(mixture):
    transport = ot_map(SOURCE, TARGET)
    with pytest.raises(ValueError, match="X has 3 features, but OTMap is expecting 2"):
        transport.transform(np.ones((5, 3)))


def test_classes_need_samples():
    with pytest.raises(ValueError, match="X must be samples with class_wise=True, got a mixture"):
        OTMap(TARGET, class_wise=True).fit(SOURCE, [0])
    with pytest.raises(NotFittedError):
        OTMap(TARGET, class_wise=True).predict(np.ones((2, 2)))


def test_a_source_that_is_another_estimator_is_refused():
    with pytest.raises(TypeError, match=r"X must be a fitted Gaussian mixture.*got KernelDensity"):
        OTMap(TARGET).fit(KernelDensity())


@pytest.mark.parametrize(
    "params, message",
    [
        ({"reg": -1.0}, "The 'reg' parameter"),
        ({"reg": np.nan}, "The 'reg' parameter"),
        ({"reg_m": -1.0}, "The 'reg_m' parameter"),
        ({"reg_m": np.nan}, "The 'reg_m' parameter"),
        ({"reg_m": (1.0, -1.0)}, "reg_m must be positive, got -1"),
        ({"reg_m": (1.0, 2.0, 3.0)}, "reg_m must be one penalty or two, got 3"),
    ],
)
def test_penalties_that_cannot_be_are_refused(params, message):
    with pytest.raises(ValueError, match=message):
        ot_map(SOURCE, TARGET, **params)


@pytest.mark.parametrize("frame", [pd.DataFrame, lambda X, **_: X])
@pytest.mark.parametrize("target", [pd.DataFrame, lambda X, **_: X])
def test_names_of_features_are_those_of_who_has_any(frame, target):
    X, Y = draw(SOURCE, 60), draw(TARGET, 50)
    source = frame(X, columns=["a", "b"])
    one = DifferentiableGaussianMixture()
    transport = OTMap(target(Y, columns=["a", "b"]), mixture=one).fit(source)
    expected = OTMap(Y, mixture=one).fit(X)
    assert transport.score(source) == expected.score(X)
    assert np.array_equal(transport.transform(source), expected.transform(X))


def test_a_target_of_other_features_than_the_source_is_refused():
    X, Y = (pd.DataFrame(draw(m, 50), columns=["a", "b"]) for m in (SOURCE, TARGET))
    with pytest.raises(ValueError, match="target must be samples like those of the fit"):
        OTMap(Y.rename(columns={"b": "c"})).fit(X)


@pytest.mark.parametrize("convert", [np.asarray, pd.DataFrame, torch.as_tensor, np.ndarray.tolist])
def test_a_target_in_the_order_of_pot_is_refused(convert):
    X, Y = draw(SOURCE, 60), convert(draw(TARGET, 50))
    message = r"which looks like a target. Pass that as OTMap\(target=...\), then call fit"
    with pytest.raises(ValueError, match=message):
        OTMap().fit(X, Y)
    with pytest.raises(ValueError, match=message):
        OTMap().fit(X, np.zeros(60), Y)
