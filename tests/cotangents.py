"""Cotangents of mixtures, and memory for passes over samples."""

import torch

from skgmmot.gaussian.mixture import GaussianMixtureParams


def symmetric(theta, seed, *batch):
    """Cotangents of a mixture, symmetric where it is."""
    generator = torch.Generator().manual_seed(seed)
    w, m, S = (
        torch.randn(*batch, *t.shape, dtype=torch.float64, generator=generator) for t in theta
    )
    kind = theta.covariance_type
    return GaussianMixtureParams(w, m, 2 * kind.symmetric(S), kind)


def lend(name, shape, dtype):
    """Memory that is never reused."""
    return torch.empty(shape, dtype=dtype)
