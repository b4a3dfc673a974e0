"""Densities that are constant on the pixels of a grid, such as images."""

from typing import NamedTuple

from torch import Tensor


class GridDensity(NamedTuple):
    """A density in the plane that is constant on each pixel of a grid."""

    values: Tensor
    """``(rows, columns)``, non-negative, of any positive total; row 0 is the lowest."""
    extent: tuple[float, float, float, float] = (0.0, 1.0, 0.0, 1.0)
    """Left, right, lower and upper end of the image."""
