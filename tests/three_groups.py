"""Three groups of samples in the plane, of each covariance type, for the tests of searches."""

import numpy as np

SHAPES = {
    "full": [[[1.0, 0.9], [0.9, 1.0]], [[1.0, -0.9], [-0.9, 1.0]], [[0.3, 0.0], [0.0, 0.3]]],
    "tied": [[[1.0, 0.8], [0.8, 1.0]]] * 3,
    "diag": [[[1.0, 0.0], [0.0, 0.1]], [[0.1, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 0.3]]],
    "spherical": [np.eye(2), 0.3 * np.eye(2), 0.1 * np.eye(2)],
}


def groups(name, n=200):
    """Three groups of a covariance type."""
    rng = np.random.default_rng(0)
    centres = [[0, 0], [5, 0], [0, 5]]
    pairs = zip(centres, SHAPES[name], strict=True)
    return np.vstack([rng.multivariate_normal(c, S, size=n) for c, S in pairs])
