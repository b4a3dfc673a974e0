"""The criterion of a search."""

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.mixture import GaussianMixture

from skgmmot import GaussianMixtureSearch
from skgmmot.plotting import CriterionDisplay

#: A table of five fits, of which one has collapsed and one failed.
RESULTS = {
    "n_components": np.array([1, 1, 2, 2, 3]),
    "covariance_type": np.array(["full", "diag", "full", "diag", "full"]),
    "criterion": np.array([5.0, 6.0, 3.0, np.inf, 1.0]),
    "bic": np.array([5.0, 6.0, 3.0, np.nan, 1.0]),
    "icl": np.array([5.0, 6.0, 4.0, np.nan, 2.0]),
    "collapsed": np.array([False, False, False, True, True]),
}


def test_a_line_for_each_type_without_fits_that_failed_or_collapsed():
    display = CriterionDisplay(RESULTS, 2, "icl").plot()
    full, diag, ring = display.ax_.lines
    assert (full.get_xdata().tolist(), full.get_ydata().tolist()) == ([1, 2], [5, 4])
    assert (diag.get_xdata().tolist(), diag.get_ydata().tolist()) == ([1], [6])
    assert (ring.get_xdata().tolist(), ring.get_ydata().tolist()) == ([2], [4])
    assert full.get_marker() != diag.get_marker()
    assert [line.get_label() for line in (full, diag)] == ["full", "diag, given up"]
    assert display.ax_.get_ylabel() == "ICL"
    assert display.figure_ is display.ax_.figure


def test_held_out_is_minus_twice_the_log_likelihood_of_the_criterion():
    with pytest.raises(ValueError, match=r"criterion must be one of \['bic', 'icl'\], got 'held"):
        CriterionDisplay(RESULTS, 2, "held_out").plot()
    results = RESULTS | {"held_out": -RESULTS["criterion"] / 100}
    ax = CriterionDisplay(results, 2, "held_out").plot().ax_
    assert ax.lines[0].get_ydata().tolist() == [5, 3]
    assert ax.get_ylabel() == "-2 held-out log-likelihood"


def test_a_search_is_drawn_by_another_criterion(frame):
    search = GaussianMixtureSearch((1, 2), "spherical", random_state=0)
    with pytest.raises(NotFittedError):
        CriterionDisplay.from_estimator(search)
    with pytest.warns(UserWarning, match="go beyond the best number"):
        search.fit(frame)
    ax = CriterionDisplay.from_estimator(search, criterion="aic").ax_
    assert np.array_equal(ax.lines[0].get_ydata(), search.results_["aic"])
    assert CriterionDisplay.from_estimator(search).ax_.get_ylabel() == "BIC"
    with pytest.raises(TypeError, match="must be a GaussianMixtureSearch, got GaussianMixture"):
        CriterionDisplay.from_estimator(GaussianMixture().fit(frame))
