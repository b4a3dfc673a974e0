"""Gaussian mixtures and optimal transport, on torch, for scikit-learn."""

from skgmmot.estimators.differentiable import DifferentiableGaussianMixture
from skgmmot.estimators.ot_map import OTMap, ot_map
from skgmmot.estimators.quantizer import WassersteinQuantizer
from skgmmot.estimators.semidiscrete import SemidiscreteGMM
from skgmmot.functional.semidiscrete import GridDensity
from skgmmot.metrics import MixtureWasserstein, semidiscrete_distance, semidiscrete_plan

__version__ = "0.1.0.dev0"

__all__ = [
    "DifferentiableGaussianMixture",
    "GridDensity",
    "MixtureWasserstein",
    "OTMap",
    "SemidiscreteGMM",
    "WassersteinQuantizer",
    "ot_map",
    "semidiscrete_distance",
    "semidiscrete_plan",
]
