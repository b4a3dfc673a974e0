"""Semi-discrete transport: a density onto weighted points.

``W2^2(rho, sum_j b_j delta_{y_j}) = max_psi int min_j (|x - y_j|^2 - psi_j) rho(x) dx + <b, psi>``:
each point takes the mass of its cell, the ``x`` where ``|x - y_j|^2 - psi_j`` is smallest, and at
the best potentials ``psi`` that is ``b_j``. The density is an image or a Gaussian mixture.

- In the plane the transport is exact: cells are a power diagram, integrals over them are closed
  forms for both densities, and damped Newton finds the potentials (`exact_plan`, here).
- In any dimension quasi-random nodes may stand for a mixture; what is left is discrete transport
  (`nodes_plan`, in `skgmmot.transport.semidiscrete.nodes`).

By the envelope theorem the cells may be held fixed in derivatives: ``2 b_j (y_j - barycentre_j)``
in the points, the potentials in their masses, and in the density the potential
``min_j (|x - y_j|^2 - psi_j)``, pushed through its parameters.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree
from torch import Tensor

from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.numerics.linalg import power_of_two
from skgmmot.transport.semidiscrete.cell_integrals import GridIntegrals, MixtureIntegrals
from skgmmot.transport.semidiscrete.damped_newton import (
    Cells,
    Target,
    cells_of_masses,
    evaluate,
    lowest_empty,
)
from skgmmot.transport.semidiscrete.grid import GridDensity
from skgmmot.transport.semidiscrete.power_diagram import Box, PowerDiagram

#: Points nearer than this share of their extent are merged, by the first that lets cells be found:
#: rounding moves an edge between two sites the more the nearer they are.
NEAREST = (1e-13, 1e-10, 1e-7)
#: A mass below this share of the whole is as good as none: less than rounding of all others.
LEAST_MASS = 1e-15


class SemidiscretePlan(NamedTuple):
    """A transport plan from a density to weighted points."""

    potentials: Tensor
    """``psi (n,)``: the derivative of the cost in the masses, of mean zero."""
    masses: Tensor
    """What each cell holds, ``(n,)``."""
    barycentres: Tensor
    """Where its middle is, ``(n, d)``; the point itself if the cell is empty."""
    cost: Tensor
    """``W2^2``, differentiable in the density, the points and their weights."""
    error: float
    """Estimated error of the cost: that of the nodes, or of merging points that are nearly equal; 0
    if the plan is exact."""
    n_iter: int
    """Newton steps; 0 for nodes."""
    cells: PowerDiagram | None
    """The cells, in the plane; None for nodes. Points that coincide share the first one's."""


def exact_plan(
    density: GridDensity | GaussianMixtureParams,
    points: Tensor,
    weights: Tensor,
    *,
    potentials: Tensor | None = None,
    slack: float = 0.0,
    tol: float = 1e-8,
    max_iter: int = 1000,
) -> SemidiscretePlan:
    """Solve semi-discrete transport in the plane, exactly.

    Parameters
    ----------
    density : GridDensity or GaussianMixtureParams
        An image, or a mixture in two dimensions with positive definite covariances.
    points : Tensor of shape (n, 2)
        Points ``y``, anywhere; some may coincide.
    weights : Tensor of shape (n,)
        Their masses, non-negative, of any positive sum.
    potentials : Tensor of shape (n,), default=None
        Potentials to start from, such as those of a plan for a density nearby.
    slack : float, default=0.0
        How far masses give way, in units of an inverse squared distance: the plan is the best for
        ``min_{b'} W2^2(rho, b') + sum_j (b'_j - b_j)^2 / (2 slack b_j)``, whose potentials change
        smoothly where a gap between clusters would make them jump. 0 is transport.
    tol : float, default=1e-8
        Bound on the sum of ``|mass of cell j - b_j|``; its root bounds each one relative to
        ``b_j``. Both as far as rounding lets them: masses below 1e-15 count as none, and edges
        between points that are nearly equal lie where rounding puts them.
    max_iter : int, default=1000
        Largest number of Newton steps; ten are typical.

    Returns
    -------
    SemidiscretePlan
        The plan is a constant; its cost carries the gradients of the envelope theorem.

    Raises
    ------
    RuntimeError
        If Newton's method does not get there, also with points merged that are nearer than 1e-7 of
        their extent.

    Notes
    -----
    Differentiable once in values, points, weights, means and covariances. Where points coincide,
    the gradient in them is one of several. A Newton step costs ``O(n log n)`` for the cells,
    ``O(n + edges of cells meeting lines of pixels)`` or ``O(n K)`` for the integrals, and about
    ``O(n^1.5)`` for the linear system.

    References
    ----------
    .. [1] Kitagawa, Merigot and Thibert 2019, damped Newton algorithm.
    """
    b = weights / weights.sum()
    cells = frame = None
    for nearest in NEAREST:
        fewer = _Frame(density, points, b, nearest)
        if cells is None or len(fewer.sites) < len(frame.sites):
            frame = fewer
            start = None if potentials is None else frame.heights(_numpy(potentials))
            cells = frame.solve(slack, start, tol, max_iter)
        if cells.converged:
            break
    if not cells.converged:
        error = np.abs(frame.target(slack).error(cells)).sum()
        raise RuntimeError(
            f"the masses of the cells must be right to {tol:.1e}, got an error of {error:.1e} "
            f"after {cells.n_iter} Newton steps. Drop masses that are nearly zero, leave out a "
            "point far from all others, add a small constant to an image with gaps, or let nodes "
            "stand for a mixture: method='nodes'."
        )
    moments = frame.density.moments(cells.diagram)
    psi = frame.potentials(cells)
    barycentres = frame.barycentres(cells, moments)
    masses = frame.spread(cells.masses)
    excess = psi - frame.b @ psi
    given = slack * excess * excess / 2  # what giving way saves, by mass
    cost = points.new_tensor(max(frame.cost(cells, moments) - frame.b @ given, 0.0))
    # Added zeros whose derivatives are those of the cost with the cells held fixed.
    if points.requires_grad:
        slope = 2 * masses[:, None] * (frame.y - barycentres)
        cost = cost + _zero(points, slope)
    if b.requires_grad:
        cost = cost + _zero(b, psi - given)
    if any(t.requires_grad for t in _parameters(density)):
        cost = cost + frame.envelope(density, cells)
    return SemidiscretePlan(
        *(torch.as_tensor(v).to(points) for v in (psi, masses, barycentres)),
        cost=cost,
        error=2 * math.sqrt(float(cost.detach())) * frame.moved(),
        n_iter=cells.n_iter,
        cells=frame.diagram(cells),
    )


def component_masses(mixture: GaussianMixtureParams, plan: SemidiscretePlan) -> Tensor:
    """Return how much of each component lies in each cell of a plan in the plane.

    Parameters
    ----------
    mixture : GaussianMixtureParams
        K components in two dimensions.
    plan : SemidiscretePlan
        A plan onto n points, with cells.

    Returns
    -------
    Tensor of shape (K, n)
        Rows sum to one. Not differentiable.
    """
    integrals, mean, unit = _integrals(mixture)
    d = plan.cells
    box = Box((d.box.low - mean) / unit, (d.box.high - mean) / unit)
    cells = d._replace(start=(d.start - mean) / unit, stop=(d.stop - mean) / unit, box=box)
    mass, _ = integrals.component_moments(cells)
    return torch.as_tensor(mass).to(mixture.means)


def nearest_plan(density: GridDensity | GaussianMixtureParams, points: Tensor) -> SemidiscretePlan:
    """Carry a density of the plane to the nearest points: Voronoi's cells, whatever they hold.

    ``cost = int min_j |x - y_j|^2 rho(x) dx``, the least over all masses of the points.

    Parameters
    ----------
    density : GridDensity or GaussianMixtureParams
        An image, or a mixture in two dimensions with positive definite covariances.
    points : Tensor of shape (n, 2)
        Points ``y``.

    Returns
    -------
    SemidiscretePlan
        With potentials of zero; constants.
    """
    frame = _Frame(density, points, torch.ones_like(points[:, 0]) / len(points))
    cells = evaluate(frame.density, frame.sites, frame.heights(np.zeros(len(points))))
    moments = frame.density.moments(cells.diagram)
    masses = frame.spread(cells.masses)
    barycentres = frame.barycentres(cells, moments)
    cost = frame.cost(cells, moments, cells.masses)
    shown = (torch.as_tensor(v).to(points) for v in (np.zeros_like(masses), masses, barycentres))
    return SemidiscretePlan(*shown, points.new_tensor(cost), 0.0, 0, frame.diagram(cells))


class _Frame:
    """A problem whose means are at the origin and whose numbers are near one.

    The density and the points have units of their own: scaling the points and the heights alike
    leaves the cells. Points that are equal but for rounding are merged, and those without mass are
    left out.
    """

    def __init__(self, density, points: Tensor, b: Tensor, nearest: float = NEAREST[0]):
        self.y, self.b = _numpy(points), _numpy(b)
        self.density, self.mean, self.unit = _integrals(density)
        base = self.y[self.b.argmax()]
        middle = self.b @ (self.y - base)  # about a point: far offsets keep their digits
        self.shift = (self.mean - base) - middle
        centred = self.y - base - middle
        self.full = np.flatnonzero(self.b >= LEAST_MASS)
        # the unit of the points; squares of those without mass must be numbers in it, too
        farthest = 1e-100 * np.abs(centred).max()
        self.step = power_of_two(max(np.abs(centred[self.full]).max(), farthest))
        self.centred = centred / self.step
        self.site, first = _merged(self.centred[self.full], nearest)  # of each point with mass
        self.first = self.full[first]  # the first point of each site
        self.sites = self.centred[self.first]
        self.masses = np.bincount(self.site, self.b[self.full])
        # |x - y|^2 differs between the two frames by 2 <shift, x - y>, up to a constant.
        curved = (self.centred**2).sum(1) * (self.step / self.unit)
        self.level = curved - 2 * self.centred @ (self.shift / self.unit)

    def solve(self, slack: float, start: np.ndarray | None, tol: float, max_iter: int) -> Cells:
        """Find the cells."""
        return cells_of_masses(
            self.density, self.target(slack), heights=start, tol=tol, max_iter=max_iter
        )

    def moved(self) -> float:
        """How far merging has moved the points, in the quadratic mean."""
        by = self.centred[self.full] - self.sites[self.site]
        return self.step * math.sqrt(self.b[self.full] @ (by**2).sum(1))

    def target(self, slack: float) -> Target:
        """What the cells should hold."""
        return Target(
            self.sites, self.masses, slack * self.unit * self.step, self.level[self.first]
        )

    def heights(self, potentials: np.ndarray) -> np.ndarray:
        """Heights from potentials of the points."""
        return (self.level - potentials / self.unit / self.step)[self.first]

    def potentials(self, cells: Cells) -> np.ndarray:
        """Potentials of the points; without mass, the largest one that leaves the cell empty."""
        heights = np.empty(len(self.b))
        heights[self.full] = cells.heights[self.site]
        empty = np.setdiff1d(np.arange(len(self.b)), self.full)
        heights[empty] = lowest_empty(cells, self.sites, self.centred[empty])
        psi = self.level - heights
        return (psi - psi.mean()) * self.unit * self.step

    def spread(self, masses: np.ndarray) -> np.ndarray:
        """Masses of the sites, shared out to the points."""
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
        """The dual objective at some masses, by default those of the points.

        A small error of the cells' masses changes it by its square only.
        """
        masses = self.masses if masses is None else masses
        largest = power_of_two(max(self.unit, self.step, *np.abs(self.shift)))
        unit, step, shift = self.unit / largest, self.step / largest, self.shift / largest
        squares = unit**2 * np.trace(self.density.covariance()) + shift @ shift
        potentials = self.level[self.first] - cells.heights
        mixed = cells.heights @ cells.masses - 2 * (self.sites * moments).sum()
        mixed += masses @ potentials
        return max(float(squares + unit * step * mixed), 0.0) * largest * largest

    def diagram(self, cells: Cells) -> PowerDiagram:
        """The cells where they are, numbered as the points."""
        d = cells.diagram
        return d._replace(
            sites=self.first[d.sites],
            start=self.unit * d.start + self.mean,
            stop=self.unit * d.stop + self.mean,
            owners=self.first[d.owners],
            n_sites=len(self.b),
            box=Box(self.unit * d.box.low + self.mean, self.unit * d.box.high + self.mean),
        )

    def envelope(self, density, cells: Cells) -> Tensor:
        """An added zero whose derivative is that of ``int phi rho`` with the potential fixed."""
        if isinstance(density, GridDensity):
            return self._envelope_of_image(density, cells)
        return self._envelope_of_mixture(density, cells)

    def _in_one_unit(self, cells: Cells) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Sites, heights and shift in the unit of the density."""
        ratio = self.step / self.unit
        return ratio * self.sites, ratio * cells.heights, self.shift / self.unit

    def _envelope_of_image(self, density: GridDensity, cells: Cells) -> Tensor:
        grid, (sites, heights, shift) = self.density, self._in_one_unit(cells)
        phi = grid.potential(cells.diagram, sites, heights)
        x, y = grid.centres(0), grid.centres(1)[:, None]
        phi += 2 * grid.pixel.prod() * (shift[0] * x + shift[1] * y)
        normalised = density.values / (density.values.sum() * float(grid.pixel.prod()))
        return _zero(normalised, self.unit**2 * phi)

    def _envelope_of_mixture(self, mixture: GaussianMixtureParams, cells: Cells) -> Tensor:
        """For ``x = m_k + L_k z``: ``E[grad phi]`` in means, ``E[grad phi z^T]`` in factors."""
        own, (sites, heights, shift) = self.density, self._in_one_unit(cells)
        mass, first = own.component_moments(cells.diagram)  # (K, n), (K, n, 2)
        squares = np.trace(own.covariances, axis1=1, axis2=2) + (own.means**2).sum(1)
        phi = squares - 2 * (first * sites).sum((1, 2)) + mass @ heights
        phi += 2 * own.means @ shift
        slope = 2 * (own.means + shift - mass @ sites)  # (K, 2)
        # E[grad phi (x - m)^T] Sigma^{-1} / 2 = I - sum_j y_j (int_j (x - m) g)^T Sigma^{-1}
        about = first - mass[..., None] * own.means[:, None]
        turned = sites.T @ about @ np.linalg.inv(own.covariances)  # (K, 2, 2)
        turned = np.eye(2) - (turned + turned.transpose(0, 2, 1)) / 2
        weights = own.weights
        return (
            _zero(mixture.weights, self.unit**2 * (phi - phi.mean()))
            + _zero(mixture.means, self.unit * weights[:, None] * slope)
            + _zero(mixture.full_covariances(), weights[:, None, None] * turned)
        )


def _merged(points: np.ndarray, nearest: float) -> tuple[np.ndarray, np.ndarray]:
    """The site of each point, where points nearer than rounding share one; each site's first."""
    distinct, first, site = np.unique(points, axis=0, return_index=True, return_inverse=True)
    site = site.ravel()
    pairs = KDTree(distinct).query_pairs(nearest, output_type="ndarray")
    if len(pairs):
        links = coo_array((np.ones(len(pairs)), pairs.T), shape=(len(distinct),) * 2)
        group = connected_components(links, directed=False)[1][site]
        _, first, site = np.unique(group, return_index=True, return_inverse=True)
    return site, first


def _integrals(density) -> tuple[GridIntegrals | MixtureIntegrals, np.ndarray, float]:
    """A density about its mean in a unit of its own, that mean and the unit."""
    if isinstance(density, GridDensity):
        left, right, bottom, top = density.extent
        corner, size = np.array([left, bottom], float), np.array([right - left, top - bottom])
        unit = power_of_two(size.max())
        box, values = Box(np.zeros(2), size / unit), _numpy(density.values)
        pixel = np.prod(box.high / values.shape[::-1])
        integrals, mean = GridIntegrals(values / (values.sum() * pixel), box).centred()
        return integrals, corner + unit * mean, unit
    weights, means, covariances = map(
        _numpy, (density.weights, density.means, density.full_covariances())
    )
    weights, base = weights / weights.sum(), means[0]
    deviations = np.sqrt(np.diagonal(covariances, axis1=1, axis2=2))
    unit = power_of_two(max(np.abs(means - base).max(), deviations.max()))
    moved = MixtureIntegrals(weights, (means - base) / unit, covariances / unit / unit)
    integrals, mean = moved.centred()
    return integrals, base + unit * mean, unit


def _parameters(density) -> tuple[Tensor, ...]:
    """The tensors that a density is made of."""
    return (density.values,) if isinstance(density, GridDensity) else tuple(density)


def _zero(tensor: Tensor, derivative: np.ndarray) -> Tensor:
    """Zero, with that derivative in the tensor."""
    return (torch.as_tensor(derivative).to(tensor) * (tensor - tensor.detach())).sum()


def _numpy(tensor: Tensor) -> np.ndarray:
    """A tensor for NumPy and SciPy, in float64."""
    return np.asarray(tensor.detach().cpu(), dtype=np.float64)
