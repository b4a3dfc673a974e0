"""Torch modules: a layer that fits a Gaussian mixture to each batch by EM, and MW2 as a loss."""

from skgmmot.nn.layers import EMLayer
from skgmmot.nn.loss import MixtureWassersteinLoss
from skgmmot.nn.patches import MultiscalePatchLoss

__all__ = ["EMLayer", "MixtureWassersteinLoss", "MultiscalePatchLoss"]
