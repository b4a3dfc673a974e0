"""Quantisation: the points that stand best for a density or for samples, by Lloyd's steps.

``min_y W2^2(rho, sum_j b_j delta_{y_j})``: with the cells held fixed, the best place for a point is
the barycentre of its cell; with the points held fixed, the best cells are those of the transport
plan. One after the other, the cost never rises. With given masses ``b`` the cells are those of a
power diagram; with free masses they are Voronoi's, and the steps are those of k-means.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from skgmmot.numerics.linalg import power_of_two, squared_distances
from skgmmot.transport.discrete.assignment import assign_cells
from skgmmot.transport.discrete.plan import exact
from skgmmot.transport.semidiscrete.plan import SemidiscretePlan, exact_plan, nearest_plan

#: Numbers that a block of distances to points may hold.
BLOCK_SIZE = 2**22
#: Squared distances below this are zero.
TINY = 1e-200


class Samples(NamedTuple):
    """Weighted samples as a density: masses at places."""

    X: Tensor
    """``(n, d)``."""
    a: Tensor
    """Their masses, ``(n,)``, of sum one."""


class Lloyd:
    """One step of Lloyd: every point to the barycentre of its cell.

    Parameters
    ----------
    density : GridDensity, GaussianMixtureParams or Samples
        What the points stand for; a mixture has two dimensions.
    masses : Tensor of shape (n,) or None
        Masses ``b`` of the points, positive, of sum one; None leaves them free.

    Notes
    -----
    A step for `iterate`: ``(points,) -> ((barycentres,), -log cost)``, so that changes are
    relative. The last plan is kept as ``plan``, and its potentials are where the next one starts;
    between samples and points of given masses also as ``coupling (n, m)``.
    """

    def __init__(self, density, masses: Tensor | None):
        self.density, self.masses = density, masses
        self.plan: SemidiscretePlan | None = None
        self.coupling: Tensor | None = None

    def __call__(self, theta: tuple[Tensor]) -> tuple[tuple[Tensor], float]:
        (points,) = theta
        self.plan = self._solve(points)
        return (self.plan.barycentres,), -math.log(max(float(self.plan.cost), TINY))

    def _solve(self, points: Tensor) -> SemidiscretePlan:
        """The plan onto the points."""
        if isinstance(self.density, Samples):
            return self._nearest(points) if self.masses is None else self._balanced(points)
        if self.masses is None:
            return nearest_plan(self.density, points)
        last = None if self.plan is None else self.plan.potentials
        return exact_plan(self.density, points, self.masses, potentials=last)

    def _balanced(self, points: Tensor) -> SemidiscretePlan:
        """Discrete transport of the samples onto points of given masses."""
        X, a = self.density
        plan = exact(a, self.masses, squared_distances(X, points))
        self.coupling = plan.coupling
        barycentres = (plan.coupling.mT @ X) / self.masses.unsqueeze(1)
        return SemidiscretePlan(
            plan.target_potential, self.masses, barycentres, plan.cost, 0.0, 0, None
        )

    def final_plan(self, points: Tensor) -> tuple[SemidiscretePlan, Tensor | None]:
        """Find the plan onto points where the steps end, and the cell of each sample.

        Parameters
        ----------
        points : Tensor of shape (m, d)
            The points.

        Returns
        -------
        plan : SemidiscretePlan
            The plan; of potentials that leave a choice, those in the middle, which tell the cells
            of the samples apart.
        label : Tensor of shape (n,) or None
            The cells; None for a density that is none of samples.
        """
        self((points,))
        if not isinstance(self.density, Samples):
            return self.plan, None
        X, a = self.density
        if self.masses is None:
            return self.plan, nearest_cell(X, points, self.plan.potentials)
        C, psi = squared_distances(X, points), self.plan.potentials
        arrays = (t.cpu().numpy() for t in (self.coupling, a, self.masses, C, psi))
        label, psi = (torch.from_numpy(t).to(X.device) for t in assign_cells(*arrays))
        return self.plan._replace(potentials=psi), label

    def _nearest(self, points: Tensor) -> SemidiscretePlan:
        """Each sample to the nearest point."""
        X, a = self.density
        label = nearest_cell(X, points, torch.zeros_like(points[:, 0]))
        cost = (X - points[label]).square().sum(1)
        masses = torch.zeros_like(points[:, 0]).index_add_(0, label, a)
        sums = torch.zeros_like(points).index_add_(0, label, a.unsqueeze(1) * X)
        held = masses.unsqueeze(1) > 0
        barycentres = torch.where(held, sums / torch.where(held, masses.unsqueeze(1), 1.0), points)
        return SemidiscretePlan(
            torch.zeros_like(masses), masses, barycentres, a @ cost, 0.0, 0, None
        )


def nearest_cell(X: Tensor, points: Tensor, potentials: Tensor) -> Tensor:
    """Find the cell of each sample.

    Parameters
    ----------
    X : Tensor of shape (n, d)
        Samples.
    points : Tensor of shape (m, d)
        Points ``y``.
    potentials : Tensor of shape (m,)
        Potentials ``psi``.

    Returns
    -------
    Tensor of shape (n,)
        The point with the smallest ``|x - y_j|^2 - psi_j``; of several the first.
    """
    unit = power_of_two(float(torch.maximum(X.abs().amax(), points.abs().amax())))
    points, potentials = points / unit, potentials / unit / unit
    blocks = X.split(max(1, BLOCK_SIZE // len(points)))
    found = [(squared_distances(x / unit, points) - potentials).argmin(1) for x in blocks]
    return torch.cat(found)
