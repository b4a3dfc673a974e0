"""Two mixtures of two Gaussians in the plane, between which the tests of `OTMap` map."""

import numpy as np

SOURCE = (
    [0.6, 0.4],
    [[0.0, 0.0], [5.0, 0.0]],
    [[[1.0, 0.3], [0.3, 1.0]], [[2.0, 0.0], [0.0, 0.5]]],
)
TARGET = (
    [0.3, 0.7],
    [[0.0, 9.0], [6.0, 9.0]],
    [[[0.5, 0.0], [0.0, 3.0]], [[1.0, 0.5], [0.5, 1.0]]],
)


def draw(mixture, n, seed=0):
    """Samples of a mixture."""
    rng = np.random.default_rng(seed)
    k = rng.choice(len(mixture[0]), size=n, p=mixture[0])
    L = np.linalg.cholesky(mixture[2])
    return np.asarray(mixture[1])[k] + np.einsum("nij,nj->ni", L[k], rng.normal(size=(n, 2)))
