"""Tensors in, tensors out."""

from skgmmot.fitting.em.fit import fit_em
from skgmmot.fitting.em.warm_start import WarmStart
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.numerics.fixed_point import Solution

__all__ = ["GaussianMixtureParams", "Solution", "WarmStart", "fit_em"]
