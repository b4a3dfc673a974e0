"""Covariance types, each an object."""
