"""Mixtures of three spherical components, to which losses lead."""

TARGET = ([0.5, 0.3, 0.2], [[0.0, 4.0], [4.0, 0.0], [-4.0, -4.0]], [1.0, 0.5, 2.0], "spherical")
#: Weights that a fit with fixed, uniform weights can reach.
EVEN = ([1 / 3] * 3, *TARGET[1:])
