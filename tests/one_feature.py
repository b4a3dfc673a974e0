"""Gaussians of one feature."""

import torch

from skgmmot.gaussian.mixture import GaussianMixtureParams


def line(mean, deviation):
    """A Gaussian of one feature."""
    variance = torch.tensor([[deviation**2]], dtype=torch.float64)
    return GaussianMixtureParams(
        torch.ones(1, dtype=torch.float64), torch.tensor([[mean]], dtype=torch.float64), variance
    )
