"""Integrals over polyhedra of a density that is constant on the voxels of a grid.

The integral of ``f rho`` over a cell is the flux ``int F dA_x`` through its boundary, with
``F(x, y, z) = int_{-inf}^x f rho ds`` and ``dA_x`` the area projected along the first axis. Facets
are cut where they meet planes between voxels; on each piece F is a polynomial of at most degree
two, for which the midpoints of a triangle's sides are an exact rule. Of the walls only the one at
the upper end of the first axis carries a flux: its cells are those of a density in the plane.
"""

import math

import numpy as np

from skgmmot.transport.semidiscrete.cell_integrals import GridIntegrals
from skgmmot.transport.semidiscrete.power_diagram import Box
from skgmmot.transport.semidiscrete.space.diagram import Cuboid, SpaceDiagram, space_diagram

Array = np.ndarray


class VoxelIntegrals:
    """Integrals over cells of a density that is constant on the voxels of a grid.

    Parameters
    ----------
    values : ndarray of shape (layers, rows, columns)
        Density of each voxel, of total mass one; axes are z, y and x.
    box : Cuboid
        The box that the grid covers.
    """

    def __init__(self, values: Array, box: Cuboid):
        self.values, self.box = values, box
        self.shape = np.array(values.shape[::-1])
        self.pixel = (box.high - box.low) / self.shape
        ends = box.low[0] + np.arange(self.shape[0] + 1) * self.pixel[0]
        # ``int s^k rho ds`` over the voxels of a row, and left of each, for k = 0 and 1
        parts = [values * np.diff(ends ** (k + 1)) / (k + 1) for k in range(2)]
        self._left = [np.cumsum(part, axis=2) - part for part in parts]
        self._rows = [GridIntegrals(p.sum(2), Box(box.low[1:], box.high[1:])) for p in parts]

    def centred(self) -> tuple["VoxelIntegrals", Array]:
        """The same density with its mean at the origin, and its mean."""
        mass = self.values * self.pixel.prod()
        others = ((0, 1), (0, 2), (1, 2))
        mean = np.array([mass.sum(other) @ self.centres(k) for k, other in enumerate(others)])
        return VoxelIntegrals(self.values, Cuboid(self.box.low - mean, self.box.high - mean)), mean

    def covariance(self) -> Array:
        """The covariance ``(3, 3)`` of the density, whose mean must be the origin."""
        mass = self.values * self.pixel.prod()
        places = np.stack(np.meshgrid(*map(self.centres, range(3)), indexing="ij"), axis=-1)
        places = places.transpose(2, 1, 0, 3).reshape(-1, 3)
        return (mass.ravel() * places.T) @ places + np.diag(self.pixel**2) / 12

    def blurred(self, share: float) -> "VoxelIntegrals":
        """The density mixed, with weight ``share``, with the uniform density on the box."""
        even = 1 / np.prod(self.box.high - self.box.low)
        return VoxelIntegrals((1 - share) * self.values + share * even, self.box)

    def nodes(self, n: int) -> tuple[Array, Array]:
        """At least ``n`` points that approximate the density, and their positive masses."""
        fine = math.ceil((n / np.count_nonzero(self.values)) ** (1 / 3))
        each = (np.arange(fine) + 0.5) / fine
        z, y, x = (np.add.outer(k, each).ravel() for k in map(np.arange, self.values.shape))
        mass = self.values
        for axis in range(3):
            mass = np.repeat(mass, fine, axis=axis)
        places = np.stack(np.meshgrid(z, y, x, indexing="ij"), axis=-1).reshape(-1, 3)[:, ::-1]
        mass = mass.ravel()
        used = mass > 0
        return (self.box.low + places * self.pixel)[used], mass[used] / mass.sum()

    def centres(self, axis: int) -> Array:
        """One coordinate of the voxels' centres: x for axis 0, y for 1, z for 2."""
        return self.box.low[axis] + (np.arange(self.shape[axis]) + 0.5) * self.pixel[axis]

    def diagram(self, sites: Array, heights: Array) -> SpaceDiagram:
        """The power diagram of sites of some heights, in the box."""
        return space_diagram(sites, heights, self.box)

    def measure(self, diagram: SpaceDiagram) -> tuple[Array, Array]:
        """Masses of the cells ``(n,)``, and integrals over the facets between them ``(m,)``."""
        corners, facet, voxel = self._pieces(diagram)
        area = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]) / 2
        value, low = self.values[voxel], self.box.low[0] + voxel[2] * self.pixel[0]
        x = np.minimum(corners[..., 0].mean(1), self.box.high[0])
        height = self._left[0][voxel] + value * (x - low)
        m = diagram.n_interfaces
        masses = diagram.gather(np.bincount(facet, area[:, 0] * height, m))
        masses += self._rows[0].measure(diagram.wall)[0]
        return masses, np.bincount(facet, value * np.linalg.norm(area, axis=1), m)

    def moments(self, diagram: SpaceDiagram) -> Array:
        """First moments ``int x rho`` of the cells, ``(n, 3)``; the mean must be the origin."""
        corners, facet, voxel = self._pieces(diagram)
        area = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])[:, 0] / 2
        value, low = self.values[voxel], self.box.low[0] + voxel[2] * self.pixel[0]
        total = np.zeros((3, len(facet)))
        for k in range(3):
            x, y, z = (corners[:, k] + corners[:, k - 1]).T / 2
            x = np.minimum(x, self.box.high[0])
            height = self._left[0][voxel] + value * (x - low)
            first = self._left[1][voxel] + value * (x - low) * (x + low) / 2
            total += np.stack([first, y * height, z * height])
        m = diagram.n_interfaces
        moments = np.stack(
            [diagram.gather(np.bincount(facet, part * area / 3, m)) for part in total], axis=1
        )
        along, _ = self._rows[1].measure(diagram.wall)
        along[diagram.wall.owners[-1]] -= 1.0  # the whole is zero there, not one
        moments[:, 0] += along
        moments[:, 1:] += self._rows[0].moments(diagram.wall)
        return moments

    def _pieces(self, diagram: SpaceDiagram) -> tuple[Array, Array, tuple[Array, Array, Array]]:
        """Facets cut into triangles within voxels, their facets, and their voxels."""
        pieces, origin = diagram.facets, np.arange(diagram.n_interfaces)
        for axis in range(3):
            if self.shape[axis] > 1:
                options = self.box.low[axis], self.pixel[axis], self.shape[axis]
                pieces, of = pieces.slabs(axis, *options)
                origin = origin[of]
        corners, of = pieces.triangles()
        place = (corners.mean(1) - self.box.low) / self.pixel
        voxel = np.clip(np.floor(place).astype(np.intp), 0, self.shape - 1)
        return corners, origin[of], (voxel[:, 2], voxel[:, 1], voxel[:, 0])
