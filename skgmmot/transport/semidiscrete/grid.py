"""Densities given by their values on a grid, such as images."""

from typing import NamedTuple

from torch import Tensor


class GridDensity(NamedTuple):
    """An image as a density in the plane: constant on each pixel."""

    values: Tensor
    """``(rows, columns)``, non-negative, of any positive total; row 0 is the lowest."""
    extent: tuple[float, float, float, float] = (0.0, 1.0, 0.0, 1.0)
    """Left, right, lower and upper end of the image."""
