"""Arrays of other libraries are taken, with and without scikit-learn's dispatch, or named."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from skgmmot import DifferentiableGaussianMixture
from skgmmot.metrics import frechet_distance

ROOT = Path(__file__).parents[2]
#: Runs in a process of its own: SciPy reads the environment when it is imported.
PROGRAM = """
import array_api_strict as xp
import numpy as np
import torch
from sklearn import config_context

from skgmmot import (
    DifferentiableGaussianMixture, MixtureImputer, MixtureRegressor, MixtureWasserstein, OTMap,
    SemidiscreteGMM, SlicedWassersteinGMM, StudentMixture, WassersteinQuantizer,
)
from skgmmot.metrics import (
    frechet_distance, semidiscrete_distance, sliced_wasserstein_distance,
)

rng = np.random.default_rng(0)
samples = np.vstack([rng.normal(size=(40, 2)), 5 + rng.normal(size=(40, 2))])
weights = rng.uniform(0.5, 2, 80)
ball = ([1.0], [[0.0, 0.0]], [1.0], "spherical")
one = {"random_state": 0, "max_iter": 5}
two = {"n_components": 2, "random_state": 0}
USES = {
    "em": lambda X, a: DifferentiableGaussianMixture(**two).fit(X, sample_weight=a).means_,
    "predictions": lambda X, a: DifferentiableGaussianMixture(**two).fit(X).predict_proba(X),
    "student": lambda X, a: StudentMixture(**two).fit(X).means_,
    "sliced": lambda X, a: SlicedWassersteinGMM(**two, max_iter=5).fit(X).means_,
    "semi-discrete": lambda X, a: SemidiscreteGMM(**two, max_iter=3).fit(X).means_,
    "points": lambda X, a: WassersteinQuantizer(3, random_state=0).fit(X).cluster_centers_,
    "regression": lambda X, a: MixtureRegressor(random_state=0).fit(X, a).predict(X),
    "imputer": lambda X, a: MixtureImputer(random_state=0).fit(X).transform(X),
    "map": lambda X, a: OTMap(X + 1, **two).fit(X).transform(X),
    "moments": lambda X, a: frechet_distance(X, X + 1),
    "slices": lambda X, a: sliced_wasserstein_distance(ball, X, random_state=0),
    "cells": lambda X, a: semidiscrete_distance(ball, X),
    "mixtures": lambda X, a: MixtureWasserstein()((a / xp_of(a).sum(a), X, a, "spherical"), ball),
}


def xp_of(a):
    return a.__array_namespace__()


for dispatch in (False, True):
    with config_context(array_api_dispatch=dispatch):
        for name, use in USES.items():
            expected = np.asarray(use(samples, weights))
            found = use(xp.asarray(samples), xp.asarray(weights))
            assert isinstance(found, np.ndarray | float), (name, type(found))
            np.testing.assert_allclose(found, expected, rtol=1e-12, err_msg=name)
    with config_context(array_api_dispatch=dispatch):
        X = torch.tensor(samples)
        moved = DifferentiableGaussianMixture(**two).fit(X).predict_proba(X)
        assert isinstance(moved, torch.Tensor if dispatch else np.ndarray), type(moved)
"""


def test_arrays_of_the_standard_give_what_numpy_gives():
    pytest.importorskip("array_api_strict")
    if version("scikit-learn") < "1.8":
        pytest.importorskip("array_api_compat")  # later releases bring it along
    environment = os.environ | {"SCIPY_ARRAY_API": "1", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr


class OnDevice:
    """An array that numpy cannot read, as those of a GPU."""

    shape, ndim, dtype = (4, 2), 2, np.dtype(float)

    def __array_namespace__(self, api_version=None):
        return np

    def __array__(self, dtype=None, copy=None):
        raise TypeError("Implicit conversion to a NumPy array is not allowed")

    def __len__(self):
        return 4


@pytest.mark.parametrize(
    "use", [DifferentiableGaussianMixture().fit, lambda X: frechet_distance(X, np.eye(2))]
)
def test_what_numpy_cannot_read_is_named(use):
    with pytest.raises(TypeError, match=r"OnDevice.*torch\.from_dlpack"):
        use(OnDevice())
