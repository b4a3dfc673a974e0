"""Optimal transport between Gaussian mixtures."""
