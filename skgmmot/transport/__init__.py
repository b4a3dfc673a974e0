"""Optimal transport between weights, mixtures, lines, and from densities to points."""
