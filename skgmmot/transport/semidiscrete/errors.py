"""Errors of exact semi-discrete plans: by missed masses, rounding, quadrature and merged points."""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from skgmmot.transport.semidiscrete.cells import ROUNDING, Cells, Target, stiffness
from skgmmot.transport.semidiscrete.damped_newton import jacobian, solve_symmetric
from skgmmot.transport.semidiscrete.partial.problem import PartialProblem
from skgmmot.transport.semidiscrete.scaled_problem import ScaledProblem
from skgmmot.transport.semidiscrete.space.gaussians import SpaceMixtureIntegrals

Array = np.ndarray

#: Rounding error of a sum, relative to the sum of the sizes of its terms.
EPS = float(np.finfo(float).eps)
ROUNDING_OF_SUMS = 2 * EPS


class Errors(NamedTuple):
    """Errors of a plan."""

    cost: float
    """Error of its cost, in the unit of the cost."""
    mass: float
    """The sum of ``|mass of cell j - b_j|``."""


#: Errors that were not estimated.
UNKNOWN = Errors(math.nan, math.nan)


def errors_of_whole(
    problem: ScaledProblem, target: Target, cells: Cells, moments: Array, cost: float
) -> Errors:
    """Return the errors of a plan for all of the density.

    Parameters
    ----------
    problem : ScaledProblem
        The problem.
    target : Target
        The prescribed masses.
    cells : Cells
        The cells.
    moments : ndarray of shape (n, d)
        Their first moments.
    cost : float
        The cost of the plan.

    Returns
    -------
    Errors
        Estimates; the one by missed masses is right to second order in these.
    """
    sums = errors_of_sums(problem, cells, moments)
    in_cost = sums.cost + problem.unit * problem.step * missed(target, cells)
    in_cost += merging_error(problem, cost) + dropped_error(problem, cells)
    return Errors(float(in_cost), sums.mass + mass_error(problem, target, cells))


def errors_of_sums(problem: ScaledProblem, cells: Cells, moments: Array) -> Errors:
    """Return the errors by rounding of sums, and by quadrature where there are no closed forms.

    Parameters
    ----------
    problem : ScaledProblem
        The problem.
    cells : Cells
        The cells.
    moments : ndarray of shape (n, d)
        Their first moments.

    Returns
    -------
    Errors
        Those of quadrature are twice the changes by a finer one. Masses: without rounding.
    """
    rounding = float(ROUNDING_OF_SUMS * problem.size(cells, moments))
    if not isinstance(problem.density, SpaceMixtureIntegrals):
        return Errors(rounding, 0.0)
    finer = problem.density.finer()
    masses = finer.measure(cells.diagram)[0] - cells.masses
    moments = finer.moments(cells.diagram) - moments
    mixed = abs(float(cells.heights @ masses - 2 * (problem.sites * moments).sum()))
    in_cost = rounding + 2 * problem.unit * problem.step * mixed
    return Errors(in_cost, 2 * float(np.abs(masses).sum()))


def rounding_of(cost: Tensor) -> float:
    """Return the rounding of a cost that was worked out in float64 to its own dtype.

    Parameters
    ----------
    cost : Tensor of shape ()
        The cost.

    Returns
    -------
    float
        At most half a unit in the last place, and as much again; 0 in float64.
    """
    return (
        0.0 if cost.dtype == torch.float64 else torch.finfo(cost.dtype).eps * float(cost.detach())
    )


def errors_of_part(problem: PartialProblem, cells: Cells, sizes: float, cost: float) -> Errors:
    """Return the errors of a plan for a part of the density.

    Parameters
    ----------
    problem : PartialProblem
        The problem.
    cells : Cells
        The cells.
    sizes : float
        The sum of the sizes of the terms of its cost.
    cost : float
        The cost of the plan.

    Returns
    -------
    Errors
        Estimates, as for all of the density.
    """
    in_cost = problem.whole.unit**2 * missed(problem.target, cells)
    in_cost += ROUNDING_OF_SUMS * sizes + merging_error(problem.whole, cost)
    return Errors(float(in_cost), mass_error(problem.whole, problem.target, cells))


def missed(target: Target, cells: Cells) -> float:
    r"""Estimate how far the dual objective of potentials is below the largest one.

    The masses of their cells have errors ``e``. With the derivative ``H`` of masses in potentials
    the difference is

    .. math:: \tfrac12 e^T H^{-1} e

    to second order, and at most ``|e|_1 / 2`` times the largest difference of potentials.

    Parameters
    ----------
    target : Target
        The prescribed masses.
    cells : Cells
        The cells.

    Returns
    -------
    float
        Twice the first of these, since it leaves out higher orders, or the second if it is less.
    """
    e, H = target.error(cells), jacobian(target, cells)
    reach = np.abs(cells.diagram.box.corners).max()
    largest = 4 * reach * (np.abs(target.sites).max() if cells.rim is None else reach)
    step = solve_symmetric(H, e)
    bound = float(largest * np.abs(e).sum())
    return bound if step is None else min(bound, max(float(e @ step), 0.0))


def mass_error(problem: ScaledProblem, target: Target, cells: Cells) -> float:
    """Return the sum of errors of masses, and of their rounding.

    Parameters
    ----------
    problem : ScaledProblem
        The problem.
    target : Target
        The prescribed masses.
    cells : Cells
        The cells.

    Returns
    -------
    float
        The sum. Heights are rounded as places are, which are rounded the more the farther they are
        from the origin.
    """
    places = EPS * np.abs(problem.mean).max() / problem.unit
    heights = ROUNDING * np.abs(cells.heights).max() + 4 * places * np.abs(target.sites).max()
    rounding = 4 * ROUNDING * cells.masses + heights * stiffness(target, cells)[2]
    return float((np.abs(target.error(cells)) + rounding).sum())


def merging_error(problem: ScaledProblem, cost: float) -> float:
    """Return how far the cost may change if points that were merged are where they were given.

    Parameters
    ----------
    problem : ScaledProblem
        The problem.
    cost : float
        Its cost.

    Returns
    -------
    float
        A bound.
    """
    moved = problem.merging_error()
    return (2 * math.sqrt(cost) + moved) * moved


def dropped_error(problem: ScaledProblem, cells: Cells) -> float:
    """Return the cost of the masses that are treated as zero.

    Parameters
    ----------
    problem : ScaledProblem
        The problem.
    cells : Cells
        The cells.

    Returns
    -------
    float
        To first order.
    """
    dropped = np.setdiff1d(np.arange(len(problem.b)), problem.full)
    if not problem.b[dropped].any():
        return 0.0
    psi = problem.potentials(cells)
    return float(problem.b[dropped] @ np.abs(psi[dropped] - problem.b @ psi))
