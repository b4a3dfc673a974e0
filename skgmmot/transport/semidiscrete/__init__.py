"""Optimal transport from a density to weighted points."""
