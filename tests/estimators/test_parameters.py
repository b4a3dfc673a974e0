"""Names of parameters that estimators do not have."""

import inspect
import pickle

import numpy as np
import pytest
from sklearn.base import clone

import skgmmot
from skgmmot import (
    DifferentiableGaussianMixture,
    GaussianMixtureSearch,
    MixtureBarycenter,
    MixtureImputer,
    OTMap,
)


@pytest.mark.parametrize(
    ("cls", "name", "hint"),
    [
        (GaussianMixtureSearch, "covariance_type", "Did you mean 'covariance_types'[?]"),
        (GaussianMixtureSearch, "estimator__tol", r"Pass mixture=Diff.*Mixture\(tol=\.\.\.\)"),
        (GaussianMixtureSearch, "mixture__tol", r"Pass mixture=Diff.*Mixture\(tol=\.\.\.\)"),
        (GaussianMixtureSearch, "missing_values", r"Pass mixture=Diff.*\(missing_values=\.\.\.\)"),
        (OTMap, "covariance_type", r"Pass mixture=Diff.*\(covariance_type=\.\.\.\)"),
        (MixtureImputer, "max_iter", r"Pass mixture=Diff.*\(max_iter=\.\.\.\)"),
        (DifferentiableGaussianMixture, "n_component", "Did you mean 'n_components'[?]"),
        (DifferentiableGaussianMixture, "regularisation", "Its parameters are n_components, "),
        (MixtureBarycenter, "tolerance", "Its parameters are n_components, "),
    ],
)
def test_a_parameter_that_an_estimator_does_not_have_is_named(cls, name, hint):
    with pytest.raises(TypeError, match=rf"{cls.__name__} has no parameter '{name}'\. {hint}"):
        cls(**{name: 1})


def test_subclasses_and_copies_are_made_as_ever():
    class Own(DifferentiableGaussianMixture):
        """One with parameters of its own, and one more."""

        def __init__(self, depth=1, **others):
            super().__init__(**others)
            self.depth = depth

    assert Own(3, tol=0.1).tol == 0.1
    with pytest.raises(TypeError, match="unexpected keyword"):
        Own(none=1)
    model = OTMap([[0.0, 1.0]], strategy="random")
    for same in (clone(model), pickle.loads(pickle.dumps(model))):
        assert same.strategy == "random"
    for name in skgmmot.__all__:
        thing = getattr(skgmmot, name)
        if inspect.isclass(thing) and hasattr(thing, "get_params"):
            assert "args" not in inspect.signature(thing).parameters


@pytest.mark.parametrize(
    ("cls", "name"),
    [
        (DifferentiableGaussianMixture, "n_components"),
        (DifferentiableGaussianMixture, "max_iter"),
        (skgmmot.SlicedWassersteinGMM, "n_projections"),
        (skgmmot.WassersteinQuantizer, "n_clusters"),
        (skgmmot.MixtureRegressor, "n_components"),
        (MixtureImputer, "n_components"),
    ],
)
@pytest.mark.parametrize("value", [True, False])
def test_truth_is_no_count(cls, name, value):
    y = ([0.0, 1.0],) if cls is skgmmot.MixtureRegressor else ()
    message = rf"{name}.* (must be an integer, got True\. Pass 1|Got False)|must be an integer"
    with pytest.raises(ValueError, match=message):
        cls(**{name: value}).fit([[0.0], [1.0]], *y)


@pytest.mark.parametrize(
    ("estimator", "came"),
    [
        (
            DifferentiableGaussianMixture(labels=np.arange(150)),
            r"Got ndarray of shape \(150,\) instead",
        ),
        (
            skgmmot.WassersteinQuantizer(np.zeros((30, 4))),
            r"Got ndarray of shape \(30, 4\) instead",
        ),
    ],
)
def test_arrays_in_the_place_of_parameters_are_told_in_few_words(estimator, came):
    with pytest.raises(ValueError, match=came):
        estimator.fit([[0.0], [1.0]])


def test_modules_that_are_not_imported_at_first_are_found():
    for name in ("datasets", "functional", "nn", "pictures", "metrics", "plotting"):
        assert getattr(skgmmot, name).__name__ == f"skgmmot.{name}"
        assert name in dir(skgmmot)
    with pytest.raises(AttributeError, match="module 'skgmmot' has no attribute 'pixels'"):
        skgmmot.pixels  # noqa: B018
