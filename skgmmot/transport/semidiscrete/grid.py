"""Densities that are constant on the pixels of a grid, such as images, or on its voxels."""

from typing import NamedTuple, Self

import numpy as np
from torch import Tensor


class _Grid(NamedTuple):
    """The fields of a `GridDensity`."""

    values: Tensor
    """``(rows, columns)`` or ``(layers, rows, columns)``, non-negative, of any positive total."""
    extent: tuple[float, ...]
    """Left, right, lower and upper end of the image and, in space, where the first layer begins and
    the last one ends. By default its pixels are squares, its longest side has length 1, and its
    lower left corner is the origin."""
    origin: str
    """Where row 0 is, as in matplotlib's ``imshow``: ``'upper'`` for pictures, whose rows go down;
    ``'lower'`` for values of a function of (y, x), whose rows go up. Layers always go up."""
    periodic: bool
    """Whether the density repeats itself beyond each edge of the image: distances are then to the
    nearest of all repetitions of a point."""


class GridDensity(_Grid):
    """A density that is constant on each pixel of a grid in the plane, or on each voxel in space.

    Parameters
    ----------
    values : array-like or Tensor of shape (rows, columns) or (layers, rows, columns)
        Densities of the pixels, non-negative, of any positive total: axes are y and x or, in space,
        z, y and x.
    extent : tuple of float, default=None
        Left, right, lower and upper end of the image and, in space, where the first layer begins
        and the last one ends. With None its pixels are squares, its longest side has length 1, and
        its lower left corner is the origin.
    origin : {'upper', 'lower'}, default='upper'
        Where row 0 is, as in matplotlib's ``imshow``: ``'upper'`` for pictures, whose rows go down;
        ``'lower'`` for values of a function of (y, x), whose rows go up. Layers always go up.
    periodic : bool, default=False
        Whether the density repeats itself beyond each edge of the image: distances are then to the
        nearest of all repetitions of a point.

    Examples
    --------
    >>> import numpy as np
    >>> from skgmmot import GridDensity
    >>> GridDensity(np.ones((427, 640))).extent
    (0.0, 1.0, 0.0, 0.6671875)
    """

    __slots__ = ()

    def __new__(cls, values, extent=None, origin="upper", periodic=False) -> Self:
        """Make one; of what has no rows and columns, validation says so later."""
        if extent is None:
            shape = np.shape(values)
            longest = max(shape, default=0) if len(shape) in (2, 3) else 0
            sides = [side / longest for side in shape[::-1]] if longest else [1.0, 1.0]
            extent = tuple(end for side in sides for end in (0.0, side))
        return super().__new__(cls, values, extent, origin, periodic)

    def upwards(self) -> "GridDensity":
        """The same density with rows that go up."""
        if self.origin == "lower":
            return self
        return self._replace(values=self.values.flip(-2), origin="lower")
