"""Maps of a tuple of tensors, iterated without a graph."""

import torch

from skgmmot.numerics.fixed_point import iterate


def scalar(value):
    """A number as a leaf."""
    return torch.tensor([value], dtype=torch.float64)


def run(F, theta0, max_iter=200):
    """Iterate ``F`` without a graph, ``max_iter`` times."""

    def step(theta):
        with torch.no_grad():
            return F(theta), 0.0

    return iterate(step, theta0, tol=0.0, max_iter=max_iter)
