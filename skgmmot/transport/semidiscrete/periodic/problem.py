"""Semi-discrete problems in a periodic box, in centred coordinates and units of the box."""

import numpy as np
from torch import Tensor

from skgmmot.transport.semidiscrete.cells import Cells
from skgmmot.transport.semidiscrete.damped_newton import cells_of_masses
from skgmmot.transport.semidiscrete.grid import GridDensity
from skgmmot.transport.semidiscrete.periodic.cells import (
    PeriodicDiagram,
    PeriodicIntegrals,
    nearest_image,
    wrapped,
)
from skgmmot.transport.semidiscrete.scaled_problem import (
    MERGING_DISTANCES,
    ScaledProblem,
    centred_integrals,
    to_numpy,
)

#: All points are moved by this share of the box, far less than what costs are accurate to, so that
#: the edges of the cells of a lattice do not lie on the walls: where they do, rounding decides
#: which cells meet them.
GENERIC_SHIFT = 1e-12 * np.array([0.6180339887, 0.7548776662, 0.8191725134])


class PeriodicProblem(ScaledProblem):
    """A semi-discrete problem in a periodic box.

    Points are moved into the box by whole periods. They have the unit and the origin of the box,
    since scaling the points alone would move their images.

    Parameters
    ----------
    density : GridDensity
        The density, periodic.
    points : Tensor of shape (n, d)
        The points.
    b : Tensor of shape (n,)
        Their masses, of sum one.
    merging_distance : float, default=1e-13
        Points nearer than this share of the box are merged.
    """

    def __init__(
        self, density, points: Tensor, b: Tensor, merging_distance: float = MERGING_DISTANCES[0]
    ):
        self.y, self.b = to_numpy(points), to_numpy(b)
        one, self.mean, self.unit = centred_integrals(density)
        self.density, self.step = PeriodicIntegrals(one), self.unit
        self.shift = np.zeros_like(self.mean)
        moved = GENERIC_SHIFT[: len(self.mean)] * self.density.period
        # a remainder is exact, so that no digits are lost to periods between a point and the box
        lower, upper = np.reshape(density.extent, (-1, 2)).T
        near = np.remainder(self.y, upper - lower)
        self.centred = nearest_image((near - self.mean) / self.unit + moved, one.box)
        self.level = (self.centred**2).sum(1)
        self.full = self._with_mass()
        self._merge(merging_distance, self.density.period)

    def solve(self, slack: float, start: np.ndarray | None, tol: float, max_iter: int) -> Cells:
        """Find the cells of the prescribed masses."""
        options = {"heights": start, "tol": tol, "max_iter": max_iter}
        target = self.target(slack)
        return cells_of_masses(self.density, target, starts=self.density.starts, **options)

    def barycentres(self, cells: Cells, moments: np.ndarray) -> np.ndarray:
        """Barycentres of the cells around the points; the points themselves for empty cells."""
        barycentres = self.y.copy()
        held = cells.masses[self.site] > 0
        site, point = self.site[held], self.full[held]
        away = moments[site] / cells.masses[site, None] - self.sites[site]
        merged = wrapped(self.sites[site] - self.centred[point], self.density.period)
        barycentres[point] += self.unit * (away + merged)
        return barycentres

    def diagram(self, cells: Cells) -> PeriodicDiagram:
        """The cells in the coordinates and with the indices of the points."""
        d = cells.diagram
        images, owner = d.images, self.first[d.owner]
        place = self.unit * d.image_sites(self.sites) + self.mean
        shown = images.placed(self.unit, self.mean)
        return PeriodicDiagram(shown, owner, place - self.y[owner], len(self.b))

    def _merged_by(self) -> np.ndarray:
        return wrapped(super()._merged_by(), self.density.period)

    def _empty_heights(self, cells: Cells, others: np.ndarray) -> np.ndarray:
        return self.density.lowest_empty_heights(cells, self.sites, others)

    def _second_moment(self, cells: Cells) -> float:
        return self.density.second_moment(cells.diagram)

    def _envelope_of_image(self, density: GridDensity, cells: Cells) -> Tensor:
        d = cells.diagram
        heights = d.image_heights(self.sites, cells.heights)
        return self._envelope_of_grid(
            density, self.density.one, d.images, d.image_sites(self.sites), heights
        )
