"""Lines of tests, and mixtures on one."""

import torch

from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.transport.sliced.directions import directions

F64 = torch.float64
ONE = torch.ones(1, 1, dtype=F64)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def chosen(n_directions, n_features, name="quasi"):
    return directions(name, n_directions, n_features, generator=generator())


def on_a_line(weights, means, deviations):
    """A mixture in one dimension."""
    weights, means, deviations = (torch.tensor(t, dtype=F64) for t in (weights, means, deviations))
    return GaussianMixtureParams(weights, means[:, None], deviations[:, None] ** 2)
