"""The objective of a fit at each iteration."""

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning, NotFittedError

from skgmmot import DifferentiableGaussianMixture
from skgmmot.plotting import FitTraceDisplay


def test_the_trace_is_that_of_the_best_start(fitted):
    display = FitTraceDisplay.from_estimator(fitted)
    (line,) = display.ax_.lines
    assert np.array_equal(line.get_ydata(), fitted.lower_bounds_)
    assert line.get_xdata()[0] == 1
    (text,) = display.ax_.get_legend().get_texts()
    assert text.get_text() == "best of 2 starts, converged"
    assert display.figure_ is display.ax_.figure


def test_two_fits_are_compared_in_the_same_axes(fitted, frame):
    with pytest.warns(ConvergenceWarning):
        other = DifferentiableGaussianMixture(2, max_iter=1, tol=0.0).fit(frame)
    ax = FitTraceDisplay.from_estimator(fitted, label="ours", color="black").ax_
    assert FitTraceDisplay.from_estimator(other, ax=ax).ax_ is ax
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts == ["ours", "the only start, not converged"]
    assert ax.lines[0].get_color() == "black"


def test_estimators_without_objectives_are_refused(fitted, frame):
    draw = FitTraceDisplay.from_estimator
    with pytest.raises(NotFittedError, match="got a DifferentiableGaussianMixture that is not"):
        draw(DifferentiableGaussianMixture())
    with pytest.raises(TypeError, match="must have lower_bounds_, got a KMeans without"):
        draw(KMeans(1, n_init=1).fit(frame))
    with pytest.raises(TypeError, match="must be a fitted mixture estimator, got list"):
        draw([1.0, 2.0])
    held = DifferentiableGaussianMixture(2, max_iter=0).fit(frame)
    with pytest.raises(ValueError, match="at least one iteration to draw"):
        draw(held)
