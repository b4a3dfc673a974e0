"""Tensors in, tensors out."""

from skgmmot.functional.fit import fit_em
from skgmmot.functional.fixed_point import Solution
from skgmmot.functional.mixture import GaussianMixtureParams
from skgmmot.functional.warm_start import WarmStart

__all__ = ["GaussianMixtureParams", "Solution", "WarmStart", "fit_em"]
