"""Semi-discrete problems in the plane, in centred coordinates and units of their size."""

import math

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree
from torch import Tensor

from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.numerics.linalg import power_of_two
from skgmmot.transport.semidiscrete.cell_integrals import GridIntegrals, MixtureIntegrals
from skgmmot.transport.semidiscrete.cells import Cells, Target, lowest_empty_heights
from skgmmot.transport.semidiscrete.damped_newton import cells_of_masses
from skgmmot.transport.semidiscrete.grid import GridDensity
from skgmmot.transport.semidiscrete.power_diagram import Box, PowerDiagram
from skgmmot.transport.semidiscrete.space.diagram import Cuboid, SpaceDiagram
from skgmmot.transport.semidiscrete.space.gaussians import SpaceMixtureIntegrals
from skgmmot.transport.semidiscrete.space.voxels import VoxelIntegrals

#: Points nearer than this share of their extent are merged. Larger shares are tried if cells are
#: not found: rounding displaces the edge between two sites the more, the nearer they are.
MERGING_DISTANCES = (1e-13, 1e-10, 1e-7)
#: A mass below this share of the total is treated as zero: it is less than rounding of the others.
MIN_MASS = 1e-15


class ScaledProblem:
    """A semi-discrete problem in the plane, centred and scaled so that its numbers are near one.

    The density and the points have units of their own, since scaling the points and the heights
    alike does not change the cells. Points that are equal up to rounding are merged, and those
    without mass are left out.

    Parameters
    ----------
    density : GridDensity or GaussianMixtureParams
        The density.
    points : Tensor of shape (n, 2)
        The points.
    b : Tensor of shape (n,)
        Their masses, of sum one.
    merging_distance : float, default=1e-13
        Points nearer than this share of their extent are merged.
    """

    def __init__(
        self, density, points: Tensor, b: Tensor, merging_distance: float = MERGING_DISTANCES[0]
    ):
        self.y, self.b = to_numpy(points), to_numpy(b)
        self.density, self.mean, self.unit = centred_integrals(density)
        base = self.y[self.b.argmax()]
        middle = self.b @ (
            self.y - base
        )  # relative to a point, to avoid cancellation far from the origin
        self.shift = (self.mean - base) - middle
        centred = self.y - base - middle
        self.full = self._with_mass()
        # the unit of the points, in which squares of those without mass must not overflow
        farthest = 1e-100 * np.abs(centred).max()
        self.step = power_of_two(max(np.abs(centred[self.full]).max(), farthest))
        self.centred = centred / self.step
        self._merge(merging_distance)
        # |x - y|^2 differs between the two units by 2 <shift, x - y>, up to a constant.
        curved = (self.centred**2).sum(1) * (self.step / self.unit)
        self.level = curved - 2 * self.centred @ (self.shift / self.unit)

    def _with_mass(self) -> np.ndarray:
        """The indices of the points with mass."""
        return np.flatnonzero(self.b >= MIN_MASS)

    def _merge(self, nearest: float, period: np.ndarray | None = None) -> None:
        """Make the sites of the points with mass, one for nearly equal points."""
        # the site of each point with mass
        self.site, first = _merged(self.centred[self.full], nearest, period)
        self.first = self.full[first]  # the first point of each site
        self.sites = self.centred[self.first]
        self.masses = np.bincount(self.site, self.b[self.full])

    def solve(self, slack: float, start: np.ndarray | None, tol: float, max_iter: int) -> Cells:
        """Find the cells of the prescribed masses."""
        return cells_of_masses(
            self.density, self.target(slack), heights=start, tol=tol, max_iter=max_iter
        )

    def merging_error(self) -> float:
        """Root mean squared displacement of the points by merging."""
        by = self._merged_by()
        return self.step * math.sqrt(self.b[self.full] @ (by**2).sum(1))

    def _merged_by(self) -> np.ndarray:
        """Displacements of the points with mass by merging."""
        return self.centred[self.full] - self.sites[self.site]

    def target(self, slack: float) -> Target:
        """Sites and prescribed masses."""
        return Target(
            self.sites, self.masses, slack * self.unit * self.step, self.level[self.first]
        )

    def heights(self, potentials: np.ndarray) -> np.ndarray:
        """Heights of the sites from potentials of the points."""
        return (self.level - potentials / self.unit / self.step)[self.first]

    def potentials(self, cells: Cells) -> np.ndarray:
        """Potentials of the points; those without mass get the largest that leaves them no cell."""
        heights = np.empty(len(self.b))
        heights[self.full] = cells.heights[self.site]
        empty = np.setdiff1d(np.arange(len(self.b)), self.full)
        heights[empty] = self._empty_heights(cells, self.centred[empty])
        psi = self.level - heights
        return (psi - psi.mean()) * self.unit * self.step

    def _empty_heights(self, cells: Cells, others: np.ndarray) -> np.ndarray:
        """The lowest heights at which others have empty cells."""
        return lowest_empty_heights(cells, self.sites, others)

    def point_masses(self, masses: np.ndarray) -> np.ndarray:
        """Masses of the points, from those of the sites."""
        shared = np.zeros(len(self.b))
        shared[self.full] = masses[self.site] * self.b[self.full] / self.masses[self.site]
        return shared

    def barycentres(self, cells: Cells, moments: np.ndarray) -> np.ndarray:
        """Barycentres of the points' cells; the points themselves where a cell is empty."""
        barycentres = self.y.copy()
        held = self.full[cells.masses[self.site] > 0]
        middle = moments / np.where(cells.masses > 0, cells.masses, 1.0)[:, None]
        middle = self.unit * middle + self.mean
        barycentres[held] = middle[self.site[cells.masses[self.site] > 0]]
        return barycentres

    def cost(self, cells: Cells, moments: np.ndarray, masses: np.ndarray | None = None) -> float:
        """The dual objective at given masses, by default those of the points.

        An error of the cells' masses changes it to second order only.
        """
        masses = self.masses if masses is None else masses
        largest = power_of_two(max(self.unit, self.step, *np.abs(self.shift)))
        unit, step, shift = self.unit / largest, self.step / largest, self.shift / largest
        squares = unit**2 * self._second_moment(cells) + shift @ shift
        potentials = self.level[self.first] - cells.heights
        mixed = cells.heights @ cells.masses - 2 * (self.sites * moments).sum()
        mixed += masses @ potentials
        return max(float(squares + unit * step * mixed), 0.0) * largest * largest

    def smoothed_cost(self, cells: Cells, moments: np.ndarray, target: Target) -> float:
        """The dual objective, less what the slack of the prescribed masses saves."""
        psi = target.level - cells.heights
        saved = target.slack / 2 * target.masses @ (psi - target.masses @ psi) ** 2
        return self.cost(cells, moments) - self.unit * self.step * float(saved)

    def size(self, cells: Cells, moments: np.ndarray) -> float:
        """The sum of the sizes of the terms of `cost`, those of places far from the origin too."""
        sizes = np.abs(cells.heights) @ cells.masses + 2 * np.abs(self.sites * moments).sum()
        sizes += self.masses @ np.abs(self.level[self.first] - cells.heights)
        shift, places = np.linalg.norm(self.shift), np.abs(self.mean).max()
        squares = self.unit**2 * self._second_moment(cells) + shift * (shift + places)
        return float(squares + self.unit * self.step * sizes)

    def _second_moment(self, cells: Cells) -> float:
        """The integral of ``|x|^2`` over all cells."""
        return np.trace(self.density.covariance())

    def diagram(self, cells: Cells) -> PowerDiagram | SpaceDiagram:
        """The cells in the coordinates and with the indices of the points."""
        d = cells.diagram.renumbered(self.first, len(self.b))
        return d.placed(self.unit, self.mean)

    def envelope(self, density, cells: Cells) -> Tensor:
        """A zero whose derivative in the density is that of ``int phi rho`` at fixed ``phi``."""
        if isinstance(density, GridDensity):
            return self._envelope_of_image(density, cells)
        return self._envelope_of_mixture(density, cells)

    def in_one_unit(self, cells: Cells) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return sites, heights and shift in the unit of the density.

        Parameters
        ----------
        cells : Cells
            The cells.

        Returns
        -------
        sites, heights, shift : ndarray of shape (n, 2), (n,) and (2,)
            The numbers.
        """
        ratio = self.step / self.unit
        return ratio * self.sites, ratio * cells.heights, self.shift / self.unit

    def _envelope_of_image(self, density: GridDensity, cells: Cells) -> Tensor:
        sites, heights, shift = self.in_one_unit(cells)
        return self._envelope_of_grid(density, self.density, cells.diagram, sites, heights, shift)

    def _envelope_of_grid(
        self, density: GridDensity, grid, diagram, sites, heights, shift=(0.0, 0.0)
    ) -> Tensor:
        """The envelope in the values of a grid, whose integrals are given in its own unit."""
        phi = grid.potential(diagram, sites, heights)
        x, y = grid.centres(0), grid.centres(1)[:, None]
        phi += 2 * grid.pixel.prod() * (shift[0] * x + shift[1] * y)
        normalised = density.values / (density.values.sum() * float(grid.pixel.prod()))
        return zero_with_derivative(normalised, self.unit**2 * phi)

    def _envelope_of_mixture(self, mixture: GaussianMixtureParams, cells: Cells) -> Tensor:
        """Derivatives for ``x = m_k + L_k z``: ``E[grad phi]`` and ``E[grad phi z^T]``."""
        own, (sites, heights, shift) = self.density, self.in_one_unit(cells)
        mass, first = own.component_moments(cells.diagram)  # (K, n), (K, n, 2)
        squares = np.trace(own.covariances, axis1=1, axis2=2) + (own.means**2).sum(1)
        phi = squares - 2 * (first * sites).sum((1, 2)) + mass @ heights
        phi += 2 * own.means @ shift
        slope = 2 * (own.means + shift - mass @ sites)  # (K, 2)
        # E[grad phi (x - m)^T] Sigma^{-1} / 2 = I - sum_j y_j (int_j (x - m) g)^T Sigma^{-1}
        about = first - mass[..., None] * own.means[:, None]
        turned = sites.T @ about @ np.linalg.inv(own.covariances)  # (K, 2, 2)
        turned = np.eye(own.means.shape[1]) - (turned + turned.transpose(0, 2, 1)) / 2
        weights = own.weights
        return (
            zero_with_derivative(mixture.weights, self.unit**2 * (phi - phi.mean()))
            + zero_with_derivative(mixture.means, self.unit * weights[:, None] * slope)
            + zero_with_derivative(mixture.full_covariances(), weights[:, None, None] * turned)
        )


def _merged(
    points: np.ndarray, nearest: float, period: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The site of each point, shared by nearly equal points, and the first point of each site."""
    distinct, first, site = np.unique(points, axis=0, return_index=True, return_inverse=True)
    site = site.ravel()
    places = distinct
    if period is not None:
        places = distinct % period
        places[places >= period] = 0.0  # by rounding
    tree = KDTree(places, boxsize=period)
    pairs = tree.query_pairs(nearest, output_type="ndarray")
    if len(pairs):
        links = coo_array((np.ones(len(pairs)), pairs.T), shape=(len(distinct),) * 2)
        group = connected_components(links, directed=False)[1][site]
        _, first, site = np.unique(group, return_index=True, return_inverse=True)
    return site, first


def centred_integrals(density) -> tuple[GridIntegrals | MixtureIntegrals, np.ndarray, float]:
    """Return the integrator over cells of a density, after centring and scaling that density.

    Parameters
    ----------
    density : GridDensity or GaussianMixtureParams
        The density.

    Returns
    -------
    integrals : GridIntegrals or MixtureIntegrals
        The density relative to its mean, in the unit, in which its size is near one.
    mean : ndarray of shape (2,)
        Its mean.
    unit : float
        The unit, a power of two.
    """
    if isinstance(density, GridDensity):
        corner, end = np.array(density.extent[::2], float), np.array(density.extent[1::2], float)
        size = end - corner
        unit = power_of_two(size.max())
        values = to_numpy(density.values)
        kind, of = (VoxelIntegrals, Cuboid) if len(size) == 3 else (GridIntegrals, Box)
        pixel = np.prod(size / unit / values.shape[::-1])
        box = of(np.zeros(len(size)), size / unit)
        integrals, mean = kind(values / (values.sum() * pixel), box).centred()
        return integrals, corner + unit * mean, unit
    weights, means, covariances = map(
        to_numpy, (density.weights, density.means, density.full_covariances())
    )
    weights, base = weights / weights.sum(), means[0]
    deviations = np.sqrt(np.diagonal(covariances, axis1=1, axis2=2))
    unit = power_of_two(max(np.abs(means - base).max(), deviations.max()))
    kind = SpaceMixtureIntegrals if means.shape[1] == 3 else MixtureIntegrals
    scaled = kind(weights, (means - base) / unit, covariances / unit / unit)
    integrals, mean = scaled.centred()
    return integrals, base + unit * mean, unit


def zero_with_derivative(tensor: Tensor, derivative: np.ndarray) -> Tensor:
    """Return a scalar that is zero and whose gradient with respect to a tensor is given.

    Parameters
    ----------
    tensor : Tensor
        The tensor.
    derivative : ndarray of the shape of ``tensor``
        The derivative.

    Returns
    -------
    Tensor of shape ()
        Zero, on the graph of the tensor.
    """
    return (torch.as_tensor(derivative).to(tensor) * (tensor - tensor.detach())).sum()


def to_numpy(tensor: Tensor) -> np.ndarray:
    """Return a tensor as a float64 array of numpy.

    Parameters
    ----------
    tensor : Tensor
        The tensor.

    Returns
    -------
    ndarray
        Its values.
    """
    return np.asarray(tensor.detach().cpu(), dtype=np.float64)
