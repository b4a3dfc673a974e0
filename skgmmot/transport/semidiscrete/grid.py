"""Densities that are constant on the pixels of a grid, such as images."""

from typing import NamedTuple

from torch import Tensor


class GridDensity(NamedTuple):
    """A density in the plane that is constant on each pixel of a grid."""

    values: Tensor
    """``(rows, columns)``, non-negative, of any positive total."""
    extent: tuple[float, float, float, float] = (0.0, 1.0, 0.0, 1.0)
    """Left, right, lower and upper end of the image."""
    origin: str = "upper"
    """Where row 0 is, as in matplotlib's ``imshow``: ``'upper'`` for pictures, whose rows go down;
    ``'lower'`` for values of a function of (y, x), whose rows go up."""

    periodic: bool = False
    """Whether the density repeats itself beyond each edge of the image: distances are then to the
    nearest of all repetitions of a point."""

    def upwards(self) -> "GridDensity":
        """The same density with rows that go up."""
        if self.origin == "lower":
            return self
        return self._replace(values=self.values.flip(0), origin="lower")
