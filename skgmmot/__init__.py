"""Gaussian mixtures and optimal transport, on torch, for scikit-learn."""

import importlib

from skgmmot.estimators.conditional.imputer import MixtureImputer
from skgmmot.estimators.conditional.regressor import MixtureRegressor
from skgmmot.estimators.mixtures._inference import StandardErrors
from skgmmot.estimators.mixtures.differentiable import DifferentiableGaussianMixture
from skgmmot.estimators.mixtures.semidiscrete import SemidiscreteGMM
from skgmmot.estimators.mixtures.sliced import SlicedWassersteinGMM
from skgmmot.estimators.robust.student import StudentMixture
from skgmmot.estimators.saving import load, save
from skgmmot.estimators.search.mixture_search import GaussianMixtureSearch
from skgmmot.estimators.transport.adapted_classifier import AdaptedClassifier
from skgmmot.estimators.transport.barycenter import MixtureBarycenter, reduce
from skgmmot.estimators.transport.embedding import MixtureEmbedding, PairwiseMW2
from skgmmot.estimators.transport.geodesic import MixtureFlow, interpolate
from skgmmot.estimators.transport.ot_map import OTMap, ot_map
from skgmmot.estimators.transport.quantizer import WassersteinQuantizer
from skgmmot.fitting.em.prior import Prior
from skgmmot.fitting.robust.noise import UniformNoise
from skgmmot.metrics import MixtureWasserstein, semidiscrete_distance, semidiscrete_plan
from skgmmot.transport.semidiscrete.grid import GridDensity

__version__ = "0.1.0"

__all__ = [
    "AdaptedClassifier",
    "DifferentiableGaussianMixture",
    "GaussianMixtureSearch",
    "GridDensity",
    "MixtureBarycenter",
    "MixtureEmbedding",
    "MixtureFlow",
    "MixtureImputer",
    "MixtureRegressor",
    "MixtureWasserstein",
    "OTMap",
    "PairwiseMW2",
    "Prior",
    "SemidiscreteGMM",
    "SlicedWassersteinGMM",
    "StandardErrors",
    "StudentMixture",
    "UniformNoise",
    "WassersteinQuantizer",
    "interpolate",
    "load",
    "ot_map",
    "reduce",
    "save",
    "semidiscrete_distance",
    "semidiscrete_plan",
]

#: Modules that are imported when they are first used.
_LAZY = ("datasets", "functional", "nn", "pictures")


def __getattr__(name):
    if name in _LAZY:
        return importlib.import_module(f"skgmmot.{name}")
    raise AttributeError(f"module 'skgmmot' has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *_LAZY})
