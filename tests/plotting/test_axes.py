"""matplotlib is optional; axes are validated."""

import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest

from skgmmot.plotting import _axes


def test_without_matplotlib_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match="its extra 'plot'"):
        _axes.pyplot()


def test_axes_are_validated():
    with pytest.raises(TypeError, match="ax must be matplotlib Axes, got ndarray"):
        _axes.axes_for(plt.figure().subplots(1, 2))
    with pytest.raises(ValueError, match="ax must have 2 axes for 2"):
        _axes.axes_for(plt.figure().add_subplot(projection="3d"))


def test_names_on_axes_are_kept():
    ax = plt.figure().add_subplot()
    ax.set_xlabel("mine")
    _axes.name_axes(ax, ["width", "height"])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("mine", "height")


def test_rows_are_spread_evenly():
    assert np.array_equal(_axes.spread(3, 10), [0, 1, 2])
    assert np.array_equal(_axes.spread(101, 3), [0, 50, 100])
    with pytest.raises(ValueError, match="must be at least 1, got 0"):
        _axes.spread(3, 0)


def test_one_feature_is_no_picture_in_the_plane():
    with pytest.raises(ValueError, match="at least two features for this picture, got 1"):
        _axes.two_features(None, 1)
    with pytest.raises(ValueError, match="features must be two for this picture, got 3 of 3"):
        _axes.two_features(None, 3)
