"""Lines as wide as the mass is large, and the matrix."""

import numpy as np
import pandas as pd
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from skgmmot import AdaptedClassifier, MixtureWasserstein, OTMap
from skgmmot.plotting import TransportPlanDisplay

SOURCE = ([0.5, 0.5], [[0.0, 0.0], [0.0, 4.0]], [1.0, 1.0], "spherical")
TARGET = ([0.25, 0.75], [[6.0, 0.0], [6.0, 4.0]], [1.0, 1.0], "spherical")


def test_lines_join_components_by_their_mass():
    display = TransportPlanDisplay.from_mixtures(SOURCE, TARGET, max_width=9.0)
    assert np.allclose(display.plan, [[0.25, 0.25], [0, 0.5]])
    lines = [line for line in display.ax_.lines if len(line.get_xdata())]
    widths = {tuple(np.ravel(line.get_ydata())): line.get_linewidth() for line in lines}
    assert widths == pytest.approx({(0.0, 0.0): 4.5, (0.0, 4.0): 4.5, (4.0, 4.0): 9.0})
    texts = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert texts == ["source", "target", "mass 0.5"]
    assert len(display.ax_.patches) == 4
    assert display.figure_ is display.ax_.figure


def test_the_matrix_is_the_plan_with_entropy_and_penalties():
    display = TransportPlanDisplay.from_mixtures(SOURCE, TARGET, reg=5.0, reg_m=20.0, kind="matrix")
    expected = MixtureWasserstein(5.0, 20.0).plan(SOURCE, TARGET)
    (image,) = display.ax_.images
    assert np.allclose(image.get_array(), expected)
    assert len(display.figure_.axes) == 2  # with the colour bar
    assert len(display.ax_.texts) == 4


@pytest.mark.parametrize("kind", ["lines", "matrix"])
def test_a_fitted_map_shows_its_own_plan(kind, rng):
    X = pd.DataFrame(rng.normal(size=(60, 3)), columns=["a", "b", "c"])
    ot_map = OTMap(X + 3, n_components=2, reg=0.5, reg_m=5.0, random_state=0).fit(X)
    options = {"features": ["c", "a"], "kind": kind}
    display = TransportPlanDisplay.from_estimator(ot_map, **options)
    assert np.array_equal(display.plan, ot_map.plan_)
    both = ot_map.source_mixture_, ot_map.target_mixture_
    same = TransportPlanDisplay.from_mixtures(*both, reg=0.5, reg_m=5.0, features=[2, 0], kind=kind)
    assert np.allclose(display.plan, same.plan)
    if kind == "lines":
        assert display.ax_.get_xlabel() == "c"
        assert np.array_equal(display.source.means, both[0].means_[:, [2, 0]])
    classes = (X["a"] > 0).to_numpy()
    adapted = AdaptedClassifier(ot_map, LogisticRegression()).fit(X, classes)
    display = TransportPlanDisplay.from_estimator(adapted, **options)
    assert np.array_equal(display.plan, adapted.ot_map_.plan_)


def test_other_estimators_have_no_plan(fitted):
    with pytest.raises(TypeError, match=r"must be an OTMap, got .* use from_mixtures"):
        TransportPlanDisplay.from_estimator(fitted)
    with pytest.raises(NotFittedError):
        TransportPlanDisplay.from_estimator(OTMap())
    with pytest.raises(TypeError, match="must not be a pipeline"):
        TransportPlanDisplay.from_estimator(make_pipeline(OTMap()))


def test_features_have_names_and_the_plan_is_that_of_all(fitted):
    display = TransportPlanDisplay.from_mixtures(fitted, fitted, features=["age", "width"])
    assert (display.ax_.get_xlabel(), display.ax_.get_ylabel()) == ("age", "width")
    assert np.array_equal(display.source.means, fitted.means_[:, [3, 0]])


def test_what_cannot_be_drawn_is_refused(fitted):
    draw = TransportPlanDisplay.from_mixtures
    with pytest.raises(ValueError, match="features must be two for this picture, got 4 of 4"):
        draw(fitted, fitted)
    with pytest.raises(ValueError, match="equal numbers of features"):
        draw(fitted, SOURCE)
    with pytest.raises(ValueError, match=r"kind must be one of \['lines', 'matrix'\]"):
        draw(SOURCE, TARGET, kind="image")
    with pytest.raises(TypeError, match="source must be a fitted mixture estimator"):
        draw(np.zeros((3, 2)), TARGET)
    with pytest.raises(ValueError, match="kind must be 'matrix' for a plan without its mixtures"):
        TransportPlanDisplay(np.eye(2)).plot()
