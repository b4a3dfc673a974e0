"""Samples with heavy tails."""

import numpy as np
from scipy.stats import multivariate_t


def drawn(random_seed):
    """Two clusters, around 0 and (8, 2), of t distributions with 3 degrees of freedom."""
    shapes = [np.eye(2), 2 * np.eye(2)]
    centres = zip([[0, 0], [8, 2]], shapes, [1, 2], strict=True)
    return np.concatenate(
        [
            multivariate_t(m, S, 3).rvs(150, random_state=seed + 10 * random_seed)
            for m, S, seed in centres
        ]
    )
