"""Figures without a screen, closed after each test, and one fit that all displays show."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from skgmmot import DifferentiableGaussianMixture

mpl.use("agg")
import matplotlib.pyplot as plt


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="session")
def frame():
    """Two groups in four named features."""
    rng = np.random.default_rng(0)
    rows = np.vstack([rng.normal(c, 1, size=(30, 4)) for c in (0, 6)])
    return pd.DataFrame(rows, columns=["width", "height", "depth", "age"])


@pytest.fixture(scope="session")
def fitted(frame):
    """A mixture of two components, fitted to them from two starts."""
    return DifferentiableGaussianMixture(2, n_init=2, random_state=0).fit(frame)
