"""Tensors in, tensors out."""

from skgmmot.functional.fit import WarmStart, fit_em
from skgmmot.functional.fixed_point import Solution
from skgmmot.functional.mixture import GaussianMixtureParams

__all__ = ["GaussianMixtureParams", "Solution", "WarmStart", "fit_em"]
