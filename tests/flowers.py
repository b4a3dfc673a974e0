"""Fisher's irises, of which the species of some are known, and a mixture that takes them."""

import numpy as np
from sklearn.datasets import load_iris

from skgmmot import DifferentiableGaussianMixture

IRIS, SPECIES = load_iris(return_X_y=True)


def twelve_known(rng):
    """The species of four flowers each, drawn at random; -1 for the others."""
    y = np.full(150, -1)
    known = [rng.choice(np.flatnonzero(c == SPECIES), 4, replace=False) for c in range(3)]
    y[np.concatenate(known)] = SPECIES[np.concatenate(known)]
    return y


def mixture(n_components=3, **options):
    """A mixture that takes classes into account."""
    options = {"labels": "y", "random_state": 0} | options
    return DifferentiableGaussianMixture(n_components, **options)
