r"""Optimal quantisation of a density or of samples by Lloyd's algorithm.

.. math:: \min_y W_2^2\Bigl(\rho, \sum_j b_j \delta_{y_j}\Bigr)

With the cells held fixed, the optimal position of a point is the barycentre of its cell; with the
points held fixed, the optimal cells are those of the transport plan. Alternating both never raises
the cost. With given masses ``b`` the cells form a power diagram; with free masses they are
Voronoi's, and the steps are those of k-means.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.numerics.linalg import power_of_two, squared_distances
from skgmmot.transport.discrete.assignment import assign_cells
from skgmmot.transport.discrete.column_generation import SparsePlan, sparse_exact
from skgmmot.transport.semidiscrete.plan import SemidiscretePlan, exact_plan, nearest_plan

#: Largest number of entries of a block of distances to points (32 MiB in float64).
BLOCK_SIZE = 2**22
#: Smallest squared distance, so that its logarithm is finite.
MIN_COST = 1e-200


class Samples(NamedTuple):
    """Weighted samples, as a density to quantise."""

    X: Tensor
    """Samples, ``(n, d)``."""
    a: Tensor
    """Their masses, ``(n,)``, of sum one."""
    of: GaussianMixtureParams | None = None
    """The mixture that they are nodes of."""


class Lloyd:
    """One step of Lloyd's algorithm: each point moves to the barycentre of its cell.

    Parameters
    ----------
    density : GridDensity, GaussianMixtureParams or Samples
        The density to quantise; a mixture must have two dimensions.
    masses : Tensor of shape (n,) or None
        Masses ``b`` of the points, positive, of sum one; None leaves them free.

    Notes
    -----
    This is a step for `iterate`: ``(points,) -> ((barycentres,), -log cost)``, so that changes of
    the objective are relative. The last plan is kept as ``plan``, and the next one starts from its
    potentials; between samples and points of given masses it is also kept as ``coupling``.
    """

    def __init__(self, density, masses: Tensor | None):
        self.density, self.masses = density, masses
        self.plan: SemidiscretePlan | None = None
        self.coupling: SparsePlan | None = None

    def __call__(self, theta: tuple[Tensor]) -> tuple[tuple[Tensor], float]:
        (points,) = theta
        self.plan = self._solve(points)
        return (self.plan.barycentres,), -math.log(max(float(self.plan.cost), MIN_COST))

    def _solve(self, points: Tensor) -> SemidiscretePlan:
        """The transport plan to the points."""
        if isinstance(self.density, Samples):
            return self.nearest(points) if self.masses is None else self._balanced(points)
        if self.masses is None:
            return nearest_plan(self.density, points, estimate_error=False)
        last = None if self.plan is None else self.plan.potentials
        options = {"potentials": last, "estimate_error": False}
        return exact_plan(self.density, points, self.masses, **options)

    def _balanced(self, points: Tensor) -> SemidiscretePlan:
        """Discrete transport of the samples to points of given masses."""
        X, a, _ = self.density
        C = squared_distances(X, points)
        last = None if self.plan is None else self.plan.potentials.cpu().numpy()
        arrays = (t.cpu().numpy() for t in (a, self.masses, C))
        self.coupling = plan = sparse_exact(*arrays, last)
        row, column, mass, g = (
            torch.from_numpy(t).to(X.device) for t in (plan.row, plan.column, plan.mass, plan.g)
        )
        sums = torch.zeros_like(points).index_add_(0, column, mass.unsqueeze(1) * X[row])
        barycentres = sums / self.masses.unsqueeze(1)
        cost = mass @ C[row, column]
        return SemidiscretePlan(g - g.mean(), self.masses, barycentres, cost, 0.0, 0, None)

    def final_plan(self, points: Tensor) -> tuple[SemidiscretePlan, Tensor | None]:
        """Solve for the plan to the final points, and assign each sample to a cell.

        Parameters
        ----------
        points : Tensor of shape (m, d)
            The points.

        Returns
        -------
        plan : SemidiscretePlan
            The plan. Where potentials are not unique, they are central ones, which separate the
            cells of the samples.
        label : Tensor of shape (n,) or None
            Index of the cell of each sample; None for other densities.
        """
        self((points,))
        if not isinstance(self.density, Samples):
            return self.plan, None
        X, a, _ = self.density
        if self.masses is None:
            return self.plan, nearest_cell(X, points, self.plan.potentials)
        C, psi = squared_distances(X, points), self.plan.potentials
        arrays = (t.cpu().numpy() for t in (a, self.masses, C, psi))
        assigned = assign_cells(self.coupling.dense(), *arrays)
        label, psi = (torch.from_numpy(t).to(X.device) for t in assigned)
        return self.plan._replace(potentials=psi), label

    def nearest(self, points: Tensor) -> SemidiscretePlan:
        """Return the plan that sends each sample to the nearest point.

        Parameters
        ----------
        points : Tensor of shape (m, d)
            The points.

        Returns
        -------
        SemidiscretePlan
            The plan, with potentials of zero.
        """
        X, a, _ = self.density
        label = nearest_cell(X, points, torch.zeros_like(points[:, 0]))
        cost = (X - points[label]).square().sum(1)
        masses = torch.zeros_like(points[:, 0]).index_add_(0, label, a)
        sums = torch.zeros_like(points).index_add_(0, label, a.unsqueeze(1) * X)
        held = masses.unsqueeze(1) > 0
        barycentres = torch.where(held, sums / torch.where(held, masses.unsqueeze(1), 1.0), points)
        return SemidiscretePlan(
            torch.zeros_like(masses), masses, barycentres, a @ cost, 0.0, 0, None
        )


def nearest_cell(
    X: Tensor, points: Tensor, potentials: Tensor, period: Tensor | None = None
) -> Tensor:
    """Return the index of the cell that each sample lies in.

    Parameters
    ----------
    X : Tensor of shape (n, d)
        Samples.
    points : Tensor of shape (m, d)
        Points ``y``.
    potentials : Tensor of shape (m,)
        Potentials ``psi``.
    period : Tensor of shape (d,), default=None
        Lengths of a periodic box, in which distances are those to the nearest image of a point.

    Returns
    -------
    Tensor of shape (n,)
        Index of the smallest ``|x - y_j|^2 - psi_j``; the first of several.
    """
    unit = power_of_two(float(torch.maximum(X.abs().amax(), points.abs().amax())))
    points, potentials = points / unit, potentials / unit / unit
    period = None if period is None else period / unit
    blocks = X.split(max(1, BLOCK_SIZE // len(points)))
    found = [(squares_to(x / unit, points, period) - potentials).argmin(1) for x in blocks]
    return torch.cat(found)


def squares_to(X: Tensor, points: Tensor, period: Tensor | None = None) -> Tensor:
    """Return squared distances, in a periodic box those to the nearest image.

    Parameters
    ----------
    X : Tensor of shape (n, d)
        Samples.
    points : Tensor of shape (m, d)
        Points.
    period : Tensor of shape (d,), default=None
        Lengths of the periodic box; None for all of space.

    Returns
    -------
    Tensor of shape (n, m)
        The squared distances.
    """
    if period is None:
        return squared_distances(X, points)
    total = X.new_zeros(len(X), len(points))
    for x, y, length in zip(X.mT, points.mT, period, strict=True):
        away = x.unsqueeze(1) - y
        total += (away - length * (away / length).round()).square()
    return total
