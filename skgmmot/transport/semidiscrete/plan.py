r"""Semi-discrete optimal transport from a density to weighted points.

.. math::

    W_2^2\Bigl(\rho, \sum_j b_j \delta_{y_j}\Bigr)
        = \max_\psi \int \min_j \bigl(|x - y_j|^2 - \psi_j\bigr) \rho(x)\, dx
            + \langle b, \psi\rangle

Each point receives the mass of its cell, the set of ``x`` where ``|x - y_j|^2 - psi_j`` is
smallest; at the optimal potentials ``psi`` that mass is ``b_j``. The density is an image or a
Gaussian mixture.

- In the plane the transport is exact: cells form a power diagram, integrals over them have closed
  forms for both densities, and a damped Newton method finds the potentials (`exact_plan`, here). So
  it is in space, where integrals of a mixture over polyhedra are found by quadrature on facets.
- In any dimension a mixture can be approximated by quasi-random nodes, which leaves a discrete
  problem (`nodes_plan`, in `skgmmot.transport.semidiscrete.nodes`).

By the envelope theorem derivatives are taken with the cells held fixed. They are
``2 b_j (y_j - barycentre_j)`` in the points, the potentials in the masses, and in the density the
potential ``min_j (|x - y_j|^2 - psi_j)``, propagated to its parameters.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.transport.semidiscrete.cells import (
    evaluate,
)
from skgmmot.transport.semidiscrete.errors import (
    EPS,
    UNKNOWN,
    errors_of_part,
    errors_of_sums,
    errors_of_whole,
    rounding_of,
)
from skgmmot.transport.semidiscrete.grid import GridDensity
from skgmmot.transport.semidiscrete.partial.problem import PartialProblem
from skgmmot.transport.semidiscrete.periodic.cells import PeriodicDiagram
from skgmmot.transport.semidiscrete.periodic.problem import PeriodicProblem
from skgmmot.transport.semidiscrete.power_diagram import Box, PowerDiagram
from skgmmot.transport.semidiscrete.scaled_problem import (
    MERGING_DISTANCES,
    MIN_MASS,
    ScaledProblem,
    centred_integrals,
    to_numpy,
    zero_with_derivative,
)
from skgmmot.transport.semidiscrete.space.diagram import SpaceDiagram

#: Rims of discs around points further away than so many times the distance at which their
#: rounding is the tolerance are not found.
RIMS_NEAR = 10.0


class SemidiscretePlan(NamedTuple):
    """A transport plan from a density to weighted points."""

    potentials: Tensor
    """``psi (n,)``: the derivative of the cost in the masses, of mean zero."""
    masses: Tensor
    """Masses of the cells, ``(n,)``."""
    barycentres: Tensor
    """Barycentres of the cells, ``(n, d)``; the point itself if its cell is empty."""
    cost: Tensor
    """``W2^2``, differentiable in the density, the points and their weights."""
    error: float
    """Estimated error of the cost, in its unit. Exact plans: by missed masses, rounding,
    quadrature, and points that were merged as nearly equal. Nodes: by their number. NaN if it was
    not asked for."""
    n_iter: int
    """Number of Newton steps; 0 for nodes."""
    cells: PowerDiagram | SpaceDiagram | PeriodicDiagram | None
    """The cells; None for nodes. Points that coincide share the cell of the first."""
    mass_error: float = math.nan
    """The sum of ``|mass of cell j - b_j|``, for a density of mass one, and of its rounding. It is
    zero where masses are free."""


def exact_plan(
    density: GridDensity | GaussianMixtureParams,
    points: Tensor,
    weights: Tensor,
    *,
    potentials: Tensor | None = None,
    slack: float = 0.0,
    mass: float = 1.0,
    tol: float = 1e-8,
    max_iter: int = 1000,
    estimate_error: bool = True,
) -> SemidiscretePlan:
    """Solve semi-discrete optimal transport in two or three dimensions, by damped Newton steps.

    Parameters
    ----------
    density : GridDensity or GaussianMixtureParams
        An image, voxels, or a mixture in two or three dimensions with positive definite
        covariances.
    points : Tensor of shape (n, d)
        Points ``y``, anywhere; some may coincide.
    weights : Tensor of shape (n,)
        Their masses, non-negative, of any positive sum.
    potentials : Tensor of shape (n,), default=None
        Potentials to start from, such as those of a plan for a density nearby.
    slack : float, default=0.0
        Sensitivity of the masses to the potentials, in units of an inverse squared distance. The
        plan then minimises ``W2^2(rho, b') + sum_j (b'_j - b_j)^2 / (2 slack b_j)`` over masses
        ``b'``, too. Its potentials depend smoothly on the density, where a gap between clusters
        would make them jump. With 0 the masses are ``b``.
    mass : float, default=1.0
        Share of an image's mass that is transported, in (0, 1]. The rest stays where it is, at no
        cost: the masses of the cells sum to ``mass``, potentials are those of the dual problem
        without a free constant, and a cell is that of the diagram cut by the disc of radius
        ``sqrt(psi_j)`` around its point.
    tol : float, default=1e-8
        Bound on the sum of ``|mass of cell j - b_j|``; its root bounds each term relative to
        ``b_j``. Both up to rounding: masses below 1e-15 are treated as zero, and edges between
        nearly equal points are not known to more than rounding.
    max_iter : int, default=1000
        Largest number of Newton steps; ten are typical.
    estimate_error : bool, default=True
        Whether to estimate the errors of the cost and the masses, which takes about as long as the
        linear algebra of one Newton step, and for a mixture in space one quadrature more.

    Returns
    -------
    SemidiscretePlan
        The plan is a constant; its cost carries the gradients of the envelope theorem.

    Raises
    ------
    ValueError
        If a mixture or voxels shall be transported in part, or an image in part and with slack or
        to points beyond 1e8 times its size, or if the values of voxels require a gradient.
    RuntimeError
        If Newton's method does not converge, not even with points merged that are nearer than 1e-7
        of their extent.

    Notes
    -----
    Differentiable once in values (of images), points, weights, means and covariances. Where points
    coincide, the gradient in them is a subgradient. In the plane a Newton step costs ``O(n log n)``
    for the cells, ``O(n + edges of cells meeting lines of pixels)`` or ``O(n K)`` for the
    integrals, and about ``O(n^1.5)`` for the linear system. In space it takes some times as long
    for voxels and some hundred times for a mixture, whose masses have quadrature errors below
    1e-12.

    References
    ----------
    .. [1] Kitagawa, Merigot and Thibert 2019, damped Newton algorithm.
    """
    density, b = _upwards(density), weights / weights.sum()
    _refuse_in_space(density, points, mass)
    if mass < 1:
        options = {"tol": tol, "max_iter": max_iter, "estimate_error": estimate_error}
        return _partial_plan(density, points, b, mass, potentials, slack, **options)
    cells = problem = None
    for distance in MERGING_DISTANCES[points.shape[1] - 2 :]:  # in space rounding is coarser
        merged = _problem_of(density)(density, points, b, distance)
        if cells is None or len(merged.sites) < len(problem.sites):
            problem = merged
            start = None if potentials is None else problem.heights(to_numpy(potentials))
            cells = problem.solve(slack, start, tol, max_iter)
        if cells.converged:
            break
    if not cells.converged:
        error = np.abs(problem.target(slack).error(cells)).sum()
        raise RuntimeError(
            f"the masses of the cells must be right to {tol:.1e}, got an error of {error:.1e} "
            f"after {cells.n_iter} Newton steps. Drop masses that are nearly zero, leave out a "
            "point far from all others, add a small constant to an image with gaps, or approximate "
            "a mixture by nodes: integration='nodes'."
        )
    moments = problem.density.moments(cells.diagram)
    psi = problem.potentials(cells)
    barycentres = problem.barycentres(cells, moments)
    masses = problem.point_masses(cells.masses)
    excess = psi - problem.b @ psi
    given = slack * excess * excess / 2  # what the slack saves, per unit of mass
    cost = points.new_tensor(max(problem.cost(cells, moments) - problem.b @ given, 0.0))
    # Add zeros whose derivatives are those of the cost with the cells held fixed.
    if points.requires_grad:
        slope = 2 * masses[:, None] * (problem.y - barycentres)
        cost = cost + zero_with_derivative(points, slope)
    if b.requires_grad:
        cost = cost + zero_with_derivative(b, psi - given)
    if any(t.requires_grad for t in _parameters(density)):
        cost = cost + problem.envelope(density, cells)
    found = UNKNOWN
    if estimate_error:
        value = float(cost.detach())
        found = errors_of_whole(problem, problem.target(slack), cells, moments, value)
    return SemidiscretePlan(
        *(torch.as_tensor(v).to(points) for v in (psi, masses, barycentres)),
        cost=cost,
        error=found.cost + rounding_of(cost),
        n_iter=cells.n_iter,
        cells=problem.diagram(cells),
        mass_error=found.mass,
    )


def _partial_plan(
    density, points, b, mass, start, slack, *, tol, max_iter, estimate_error
) -> SemidiscretePlan:
    """`exact_plan` of a part of the density's mass."""
    if not isinstance(density, GridDensity) or slack:
        raise ValueError(
            f"mass must be 1 for a mixture or with slack, got {mass:.6g}. Approximate a mixture by "
            "nodes, integration='nodes', or transport an image."
        )
    start = None if start is None else to_numpy(start)
    problem = found = None
    for distance in MERGING_DISTANCES:
        merged = PartialProblem(density, points, b, mass, distance)
        _refuse_far_discs(merged, tol)
        if found is None or len(merged.sites) < len(problem.sites):
            problem = merged
            found = problem.solve(start, tol, max_iter)
        if found.converged:
            break
    if not found.converged:
        error = np.abs(problem.target.error(found)).sum()
        raise RuntimeError(
            f"the masses of the cells must be right to {tol:.1e}, got an error of {error:.1e} "
            f"after {found.n_iter} Newton steps. Drop masses that are nearly zero, leave out "
            "a point far from all others, or add a small constant to an image with gaps."
        )
    psi, masses, barycentres, value, size = problem.results(found)
    cost = points.new_tensor(value)
    if points.requires_grad:
        slope = 2 * masses[:, None] * (problem.whole.y - barycentres)
        cost = cost + zero_with_derivative(points, slope)
    if b.requires_grad:
        cost = cost + zero_with_derivative(b, mass * psi)
    if density.values.requires_grad:
        cost = cost + problem.envelope(density, found)
    errors = errors_of_part(problem, found, size, value) if estimate_error else UNKNOWN
    return SemidiscretePlan(
        *(torch.as_tensor(v).to(points) for v in (psi, masses, barycentres)),
        cost=cost,
        error=errors.cost + rounding_of(cost),
        n_iter=found.n_iter,
        cells=problem.whole.diagram(found),
        mass_error=errors.mass,
    )


def _refuse_far_discs(problem: PartialProblem, tol: float) -> None:
    """Raise where the rim of a point's disc is not known to what its mass must be."""
    heavy = problem.target.masses > MIN_MASS
    distance, known = math.sqrt(problem.level[heavy].max(initial=0.0)), tol / EPS
    if distance > RIMS_NEAR * known:
        raise ValueError(
            f"points must be within {RIMS_NEAR * known:.0e} sizes of an image of which a part is "
            f"transported, got one at {distance:.1e}, whose disc's rim is lost in rounding. Leave "
            "it out, or transport all of the mass: mass=1."
        )


def _refuse_in_space(density, points: Tensor, mass: float) -> None:
    """Raise for what is computed in the plane only."""
    if points.shape[1] == 3 and mass < 1:
        raise ValueError(
            f"mass must be 1 for three features, got {mass:.6g}. Approximate a mixture by nodes, "
            "integration='nodes'; voxels are transported whole."
        )
    if points.shape[1] == 3 and isinstance(density, GridDensity) and density.values.requires_grad:
        raise ValueError(
            "values of a GridDensity must not require a gradient with three axes, got some that "
            "do. Detach them: gradients are those in the points and their weights."
        )


def component_masses(mixture: GaussianMixtureParams, plan: SemidiscretePlan) -> Tensor:
    """Return the masses of each component of a mixture in the cells of a plan in the plane.

    Parameters
    ----------
    mixture : GaussianMixtureParams
        K components in two dimensions.
    plan : SemidiscretePlan
        A plan onto n points, with cells.

    Returns
    -------
    Tensor of shape (K, n)
        The masses; rows sum to one. Not differentiable.
    """
    integrals, mean, unit = centred_integrals(mixture)
    d = plan.cells
    box = Box((d.box.low - mean) / unit, (d.box.high - mean) / unit)
    cells = d._replace(start=(d.start - mean) / unit, stop=(d.stop - mean) / unit, box=box)
    mass, _ = integrals.component_moments(cells)
    return torch.as_tensor(mass).to(mixture.means)


def nearest_plan(
    density: GridDensity | GaussianMixtureParams, points: Tensor, *, estimate_error: bool = True
) -> SemidiscretePlan:
    r"""Transport a density to the nearest of given points, with free masses.

    The cells are Voronoi's, and the cost is the smallest over all masses of the points:

    .. math:: \int \min_j |x - y_j|^2 \rho(x)\, dx

    Parameters
    ----------
    density : GridDensity or GaussianMixtureParams
        An image, voxels, or a mixture in two or three dimensions with positive definite
        covariances.
    points : Tensor of shape (n, d)
        Points ``y``.
    estimate_error : bool, default=True
        Whether to estimate the error of the cost.

    Returns
    -------
    SemidiscretePlan
        With potentials of zero; constants.
    """
    density = _upwards(density)
    problem = _problem_of(density)(density, points, torch.ones_like(points[:, 0]) / len(points))
    cells = evaluate(problem.density, problem.sites, problem.heights(np.zeros(len(points))))
    moments = problem.density.moments(cells.diagram)
    masses = problem.point_masses(cells.masses)
    barycentres = problem.barycentres(cells, moments)
    cost = problem.cost(cells, moments, cells.masses)
    shown = (torch.as_tensor(v).to(points) for v in (np.zeros_like(masses), masses, barycentres))
    error = errors_of_sums(problem, cells, moments).cost if estimate_error else math.nan
    cost = points.new_tensor(cost)
    error += rounding_of(cost)
    return SemidiscretePlan(*shown, cost, error, 0, problem.diagram(cells), 0.0)


def _problem_of(density) -> type[ScaledProblem]:
    """The class of problems of a density."""
    periodic = isinstance(density, GridDensity) and density.periodic
    return PeriodicProblem if periodic else ScaledProblem


def _upwards(density):
    """A density, the rows of an image going up."""
    return density.upwards() if isinstance(density, GridDensity) else density


def _parameters(density) -> tuple[Tensor, ...]:
    """The tensors of a density."""
    return (density.values,) if isinstance(density, GridDensity) else tuple(density)
