"""Estimators with a mixture inside, ``mixture=None`` being a default one."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from two_mixtures import SOURCE, TARGET, draw

from skgmmot import (
    DifferentiableGaussianMixture,
    GaussianMixtureSearch,
    MixtureEmbedding,
    MixtureRegressor,
    OTMap,
)

WITH_MIXTURE = [
    OTMap(TARGET, random_state=3),
    OTMap(TARGET, class_wise=True, random_state=3),
    MixtureRegressor(random_state=3),
    MixtureEmbedding(4, random_state=3),
    GaussianMixtureSearch(),
]


@pytest.mark.parametrize("estimator", WITH_MIXTURE, ids=lambda e: type(e).__name__)
def test_parameters_are_set_on_the_default_mixture(estimator):
    default = clone(estimator)._default_mixture()
    changed = clone(estimator).set_params(mixture__tol=0.5, mixture__reg_covar=0.1)
    assert changed.get_params()["mixture__tol"] == 0.5
    expected = default.set_params(tol=0.5, reg_covar=0.1)
    assert changed.mixture.get_params() == expected.get_params()


@pytest.mark.parametrize("estimator", WITH_MIXTURE, ids=lambda e: type(e).__name__)
def test_a_refused_parameter_changes_nothing(estimator):
    changed = clone(estimator)
    with pytest.raises(ValueError, match="Invalid parameter 'tolerance' for estimator Differ"):
        changed.set_params(mixture__tolerance=0.5)
    assert changed.mixture is None


def test_what_is_set_beside_counts_for_the_default_mixture():
    transport = OTMap(TARGET).set_params(class_wise=True, random_state=7, mixture__tol=0.5)
    assert transport.mixture.n_components == 1 and transport.mixture.random_state == 7
    given = DifferentiableGaussianMixture(4)
    transport = OTMap(TARGET).set_params(mixture=given, mixture__tol=0.5)
    assert transport.mixture is given and given.tol == 0.5


def test_the_number_of_components_of_a_map_is_a_parameter():
    X, y = draw(SOURCE, 200), np.arange(200) % 2
    assert OTMap(TARGET, n_components=3).fit(X).plan_.shape == (3, 2)
    mixture = DifferentiableGaussianMixture(5, covariance_type="diag", random_state=0)
    transport = OTMap(draw(TARGET, 100), mixture=mixture, n_components=3).fit(X)
    assert transport.plan_.shape == (3, 3)
    assert transport.source_mixture_.covariance_type == "diag" and mixture.n_components == 5
    transport = OTMap(draw(TARGET, 100), n_components=2, class_wise=True).fit(X, y)
    assert transport.plan_.shape == (4, 4)
    search = GridSearchCV(OTMap(TARGET, random_state=0), {"n_components": [1, 2]}, cv=2).fit(X)
    assert search.best_params_ == {"n_components": 2}
    with pytest.raises(ValueError, match="The 'n_components' parameter"):
        OTMap(TARGET, n_components=0).fit(X)
