"""Images in the unit square, as densities of semi-discrete problems."""

import numpy as np

from skgmmot.transport.semidiscrete.cell_integrals import GridIntegrals
from skgmmot.transport.semidiscrete.power_diagram import Box

SIDE = (np.arange(64) + 0.5) / 64
X, Y = np.meshgrid(SIDE, SIDE)


def image(name):
    """Images of mass one, from easy to awkward."""
    values = {
        "even": np.ones((64, 64)),
        "bumps": np.exp(-50 * ((X - 0.3) ** 2 + (Y - 0.3) ** 2))
        + np.exp(-50 * ((X - 0.7) ** 2 + (Y - 0.7) ** 2)),
        "gaps": (np.abs(X - 0.25) < 0.15) | (np.abs(X - 0.8) < 0.1),
        "noise": np.random.default_rng(1).random((64, 64)),
    }[name]
    box = Box(np.zeros(2), np.ones(2))
    return GridIntegrals(values / values.mean(), box).centred()[0]
