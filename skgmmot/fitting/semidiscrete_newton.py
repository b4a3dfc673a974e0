r"""Newton's method for the mixture nearest to points, by exact transport in the plane.

The squared distance is the largest dual objective ``D(theta, h)`` over heights ``h`` of the cells.
With the derivatives of ``D`` in both (`skgmmot.transport.semidiscrete.second_order`) the second
derivative of the distance is

.. math::

    D_{\theta\theta} + D_{\theta h} M^{-1} D_{h\theta}, \qquad M = -D_{hh},

where ``M`` is the matrix of the inner Newton steps, factored anyway. Steps minimise the quadratic
model of the distance in a trust region, in which means move by about a standard deviation. The same
solutions of linear systems tell how the heights change along a step, so that the plan ahead takes
one or two inner steps.

Cells need not have their masses exactly. For errors ``e`` of the masses the distance is
``D + e^T M^{-1} e / 2``, and its gradient ``D_theta + D_{theta h} M^{-1} e``, both up to higher
orders; so inner steps end when that correction is small against the progress of the outer step. Any
heights bound the distance from below: where they show that a step leads uphill, no plan is solved.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse.linalg import SuperLU
from torch import Tensor

from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.numerics.newton.polish import SymmetricModel
from skgmmot.transport.semidiscrete.cells import Cells, evaluate, has_mass
from skgmmot.transport.semidiscrete.damped_newton import factorised, jacobian, newton_step
from skgmmot.transport.semidiscrete.scaled_problem import ScaledProblem, to_numpy
from skgmmot.transport.semidiscrete.second_order import second_order

Array = np.ndarray

#: Radius of the first trust region, in standard deviations of components and logarithms of weights.
FIRST_RADIUS = 1.0
#: By how much it grows after a good step, and where it is too small for any.
GROWTH, LEAST_RADIUS = 1.5, 1e-7
#: Radius in which five steps of little gain say that there is little; smaller ones only say that
#: steps were short, as where the weights of separate clusters are settled.
CRAMPED = 0.05
#: Refused steps after which the masses are made right first.
PATIENCE = 2
#: A step is taken if the distance falls by this share of what the model says; the region shrinks
#: below the second, and grows above the third.
LEAST_GAIN, POOR_GAIN, GOOD_GAIN = 0.01, 0.25, 0.75
#: Squared length of a change of a coordinate by one, beside the change of the mixture: of what is
#: without effect, such as a factor of all weights.
LENGTH_OF_COORDINATES = 1e-2
#: Share of the model's curvature that is added where there is none, for the same reason.
LEAST_CURVATURE = 1e-10
#: Mass errors of plans, relative to the share of the distance that a step should save, at most.
FORCING, LOOSEST = 1.0, 0.1
#: Largest correction of the distance for errors of the masses, as a share of what a step should
#: save: its own error is of a higher order.
LARGEST_CORRECTION = 0.02
#: Inner steps that a plan may take, and the shortest: with more, the outer step was too long.
MOST_INNER_STEPS, SHORTEST_INNER_STEP = 8, 0.2
#: Share of the distance that is rounding.
ROUNDING = 1e-12
#: Lengths of changes of ``w``, relative to it, of ``mu`` and of the entries of ``S``.
LENGTHS = np.array([1.0, 1.0, 1.0, math.sqrt(0.5), 1.0, math.sqrt(0.5)])
#: Bound of the parameters of a mixture, in units of the points: beyond it squares would overflow.
MAX_PARAMETER = 1e30


class Place(NamedTuple):
    """A mixture, and cells that nearly have the prescribed masses."""

    free: Tensor
    """Its coordinates."""
    mixture: GaussianMixtureParams
    """The mixture."""
    problem: ScaledProblem
    """Its transport problem."""
    cells: Cells
    """The cells."""
    factors: SuperLU
    """Factors of ``M``."""
    missed: Array
    """Errors ``e`` of the masses, ``(n,)``."""
    left: Array
    """``M^{-1} e``, what is left to the right heights."""
    cost: float
    """The squared distance."""

    def potentials(self, change: Array | float = 0.0) -> Array:
        """Potentials of the points, corrected for the errors of the masses, after a change of the
        heights."""
        heights = self.cells.heights + self.left + change
        return self.problem.potentials(self.cells._replace(heights=heights))


class Model(NamedTuple):
    """The quadratic model of the squared distance at a place."""

    gradient: Array
    """In the coordinates, ``(P,)``."""
    hessian: Array
    """``(P, P)``."""
    heights: Array
    """Derivatives of the heights of the cells, ``(n, P)``."""
    back: Array
    """Changes of the coordinates from those in which the trust region is a ball, ``(P, P)``."""
    within: SymmetricModel
    """The model in a ball."""
    downhill: Tensor
    """Minus the gradient there, ``(P,)``."""


class NewtonDescent:
    """Newton steps from a mixture, down the squared distance.

    Parameters
    ----------
    coordinates : RegularisedCoordinates
        Unconstrained coordinates of mixtures.
    points : Tensor of shape (n, 2)
        Points.
    weights : Tensor of shape (n,)
        Their masses, of positive sum.
    slack : float
        Slack of the masses, as in `exact_plan`; positive.
    tol : float
        Least mass error to which plans are solved.
    """

    def __init__(self, coordinates, points: Tensor, weights: Tensor, slack: float, tol: float):
        self.coordinates, self.points, self.b = coordinates, points, weights / weights.sum()
        self.slack, self.tol, self.radius = slack, tol, FIRST_RADIUS
        self.here: Place | None = None
        self.settled, self.n_free = False, 0

    def start(self, mixture: GaussianMixtureParams, potentials: Tensor) -> bool:
        """Begin at a mixture.

        Parameters
        ----------
        mixture : GaussianMixtureParams
            K components in the plane.
        potentials : Tensor of shape (n,)
            The potentials of its plan.

        Returns
        -------
        bool
            Whether all cells have mass there, as needed.
        """
        free = self.coordinates.to_free(mixture)
        self.here = self._at(free, (to_numpy(potentials),))
        return self.here is not None

    def advance(self) -> bool | None:
        """Go one step down, after shorter ones if the first leads uphill.

        Returns
        -------
        bool or None
            Whether it was Newton's own, not cut off by the trust region; None if there is no step.
            Then `settled` tells whether that is because there is nothing to gain but rounding.
            `n_free` counts the last steps that were not cramped.
        """
        n_refusals = 0
        model = self._model(self.here)
        while self.radius > LEAST_RADIUS:
            found = model.within.step(model.downhill, self.radius)
            u = model.back @ found.delta.numpy()
            gain = -float(model.gradient @ u + u @ model.hessian @ u / 2)
            if not gain > ROUNDING * self.here.cost:
                self.settled = gain >= 0
                return None
            ahead = self._ahead(model, u, gain)
            share = 0.0 if ahead is None else (self.here.cost - ahead.cost) / gain
            length = float(torch.linalg.vector_norm(found.delta))
            if share < POOR_GAIN:
                self.radius = length / (2 if share >= LEAST_GAIN else 4)
            elif share > GOOD_GAIN and found.shift:
                self.radius *= GROWTH
            if share >= LEAST_GAIN:
                self.here = ahead
                self.n_free = self.n_free + 1 if length >= CRAMPED else 0
                return not found.shift
            n_refusals += 1
            if n_refusals == PATIENCE:  # masses here may be too far off for what is left to gain
                self.here = self._tightened(self.here) or self.here
                model = self._model(self.here)
        return None

    def _tightened(self, here: Place) -> Place | None:
        """The place with its masses as right as can be."""
        return self._settle(here.free, here.mixture, here.problem, here.cells, 0.0, math.inf)

    def _ahead(self, model: Model, u: Array, gain: float) -> Place | None:
        """The place after a change of coordinates that should save so much; None if uphill."""
        here = self.here
        free = here.free + torch.as_tensor(u).to(here.free)
        ceiling = here.cost - LEAST_GAIN * gain
        guesses = here.potentials(model.heights @ u), here.potentials()
        return self._at(free, guesses, min(1.0, gain / here.cost), ceiling)

    def _at(self, free: Tensor, guesses, share=1.0, ceiling=math.inf) -> Place | None:
        """The place of coordinates, from the first of some potentials whose cells have mass.

        None if there are none, or as in `_settle`.
        """
        mixture = self.coordinates.from_free(free)
        if not all(bool((t.abs() < MAX_PARAMETER).all()) for t in mixture):
            return None
        try:
            problem = ScaledProblem(mixture, self.points, self.b)
            target = problem.target(self.slack)
            for potentials in guesses:
                heights = problem.heights(potentials)
                cells = evaluate(problem.density, problem.sites, heights)
                if has_mass(cells, target):
                    return self._settle(free, mixture, problem, cells, share, ceiling)
        except (ArithmeticError, np.linalg.LinAlgError):
            return None  # no diagram, or a covariance that is not positive definite to rounding
        return None

    def _settle(self, free, mixture, problem, cells, share: float, ceiling: float) -> Place | None:
        """Inner steps until masses are right enough for a step that should save such a share.

        None where they are many, or the distance is above a ceiling.
        """
        tol, small = min(LOOSEST, max(self.tol, FORCING * share)), LARGEST_CORRECTION * share
        target, unit = problem.target(self.slack), problem.unit * problem.step
        for _ in range(MOST_INNER_STEPS + 1):
            moments = problem.density.moments(cells.diagram)
            cost = problem.smoothed_cost(cells, moments, target)
            factors = factorised(jacobian(target, cells))
            if cost > ceiling or factors is None:
                return None
            missed = target.error(cells)
            left = factors.solve(missed)
            correction = unit * float(missed @ left) / 2
            if not math.isfinite(correction):
                return None
            if correction <= max(small, ROUNDING) * cost and target.is_met(cells, tol):
                cost += correction
                return Place(free, mixture, problem, cells, factors, missed, left, cost)
            cells = newton_step(problem.density, target, cells, factors, SHORTEST_INNER_STEP)
            if cells is None:
                return None
        return None

    def _model(self, here: Place) -> Model:
        """The model of the squared distance at a place."""
        problem, second = here.problem, second_order(here.problem, here.cells)
        K, n, P = *second.masses.shape[::2], len(here.free)
        slopes, curvature = self._whitened(here, second.gradient.ravel())
        by_component = slopes.reshape(K, 6, P)
        hessian = slopes.T @ (second.hessian @ by_component).reshape(6 * K, P) + curvature
        masses = second.masses.reshape(6 * K, n).T @ slopes  # (n, P)
        heights = here.factors.solve(np.ascontiguousarray(masses))
        unit = problem.unit * problem.step
        hessian += unit * masses.T @ heights
        gradient = slopes.T @ second.gradient.ravel() + unit * here.missed @ heights
        w = np.maximum(problem.density.weights, np.finfo(float).tiny)
        lengths = np.broadcast_to(LENGTHS, (K, 6)).copy()
        lengths[:, 0] /= w
        relative = (lengths[..., None] * by_component).reshape(6 * K, P)
        metric = relative.T @ relative + LENGTH_OF_COORDINATES * np.eye(P)
        hessian = (hessian + hessian.T) / 2
        back = np.linalg.inv(np.linalg.cholesky(metric)).T
        inner = back.T @ hessian @ back
        inner += LEAST_CURVATURE * np.abs(inner).max() * np.eye(P)
        within, downhill = torch.from_numpy(inner), torch.from_numpy(-back.T @ gradient)
        return Model(gradient, hessian, heights, back, SymmetricModel.of_hessian(within), downhill)

    def _whitened(self, here: Place, gradient: Array) -> tuple[Array, Array]:
        """Derivatives of weights and whitened means and covariances in the coordinates.

        Returns the first, ``(6 K, P)``, and the product of the second ones with a gradient in
        these parameters, ``(P, P)``.
        """
        mixture = here.mixture
        inverse = torch.linalg.inv(torch.linalg.cholesky(mixture.full_covariances()))
        free = here.free.detach().requires_grad_()
        moved = self.coordinates.from_free(free)
        mean = (inverse @ (moved.means - mixture.means).unsqueeze(-1)).squeeze(-1)
        S = inverse @ moved.full_covariances() @ inverse.mT
        entries = moved.weights, *mean.mT, S[:, 0, 0], S[:, 0, 1], S[:, 1, 1]
        parameters = torch.stack(entries, dim=1).flatten()
        along = parameters @ torch.as_tensor(gradient).to(parameters)
        (slope,) = torch.autograd.grad(along, free, create_graph=True)
        return _jacobian(parameters, free), _jacobian(slope, free)


def _jacobian(values: Tensor, free: Tensor) -> Array:
    """The derivatives of values on the graph of a vector, all at once."""
    each = torch.eye(len(values)).to(values)
    (rows,) = torch.autograd.grad(values, free, each, is_grads_batched=True, retain_graph=True)
    return rows.double().cpu().numpy()
