"""The mixture nearest to weighted points in the Wasserstein distance.

``min_theta W2^2(mixture theta, sum_j b_j delta_{y_j})`` by L-BFGS in free coordinates, with the
gradients of the envelope theorem. In the plane the distance is exact and smooth in the mixture. In
other dimensions fixed nodes ``x = m_k + L_k z`` stand for it, so that the objective is one function
all along and its gradient goes through the nodes.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from skgmmot.functional.covariance import covariance_type_of
from skgmmot.functional.fixed_point import Solution
from skgmmot.functional.mixture import FreeCoordinates, GaussianMixtureParams
from skgmmot.functional.semidiscrete import exact_plan, nodes_plan

#: Share of ``reg_covar`` that free covariances have at least, so that their logarithms are finite.
LEAST = 1e-3
#: Length of the first step, in free coordinates.
FIRST_STEP = 0.1
#: Mass error to which plans are solved: derivatives are as accurate.
MASS_TOL = 1e-6


class Regularised:
    """Free coordinates of mixtures whose variances are nowhere below ``reg_covar``.

    Parameters
    ----------
    like : GaussianMixtureParams
        A mixture of the shape and spread of those to come.
    reg_covar : float
        Added to the variances.
    """

    def __init__(self, like: GaussianMixtureParams, reg_covar: float):
        self.free, self.reg_covar = FreeCoordinates(like), reg_covar

    def to_free(self, mixture: GaussianMixtureParams) -> Tensor:
        """A mixture, whose variances are above ``reg_covar``, as a vector."""
        return self.free.to_free(_add_variance(mixture, -(1 - LEAST) * self.reg_covar))

    def from_free(self, vector: Tensor) -> GaussianMixtureParams:
        """A vector as a mixture."""
        return _add_variance(self.free.from_free(vector), self.reg_covar)


def fit_to_points(
    theta0: GaussianMixtureParams,
    points: Tensor,
    weights: Tensor,
    *,
    n_nodes: int | None = None,
    seed: int = 0,
    reg_covar: float = 1e-6,
    tol: float = 1e-4,
    max_iter: int = 200,
    callback: Callable[[Solution], None] | None = None,
) -> Solution:
    """Descend to a mixture nearest to weighted points.

    Parameters
    ----------
    theta0 : GaussianMixtureParams
        Where to start, of the covariance type wanted.
    points : Tensor of shape (n, d)
        Points ``y``.
    weights : Tensor of shape (n,)
        Their masses, non-negative, of positive sum.
    n_nodes : int, default=None
        Number of nodes that stand for the mixture; None is the exact distance, for d = 2.
    seed : int, default=0
        Of the nodes.
    reg_covar : float, default=1e-6
        Added to the variances.
    tol : float, default=1e-4
        The descent ends when a step lowers the squared distance by less than this share of it.
    max_iter : int, default=200
        Largest number of steps; 0 returns the start.
    callback : callable, default=None
        Called with the `Solution` so far after each step.

    Returns
    -------
    Solution
        Its objectives are minus the squared distances.

    Raises
    ------
    RuntimeError
        If the transport of a mixture on the way cannot be found.

    Notes
    -----
    A step is one transport plan and its gradient, sometimes two.
    """
    coordinates = Regularised(theta0, reg_covar)
    transport = _Transport(points, weights, n_nodes, seed)
    first = float(transport(theta0).detach())
    solution = Solution(theta0, theta0, -first, (), 0, False, math.inf)
    costs = [first]

    def objective(vector: np.ndarray) -> tuple[float, np.ndarray]:
        free = torch.as_tensor(FIRST_STEP * vector).to(points).requires_grad_()
        cost = transport(coordinates.from_free(free))
        (slope,) = torch.autograd.grad(cost, free)
        return float(cost.detach()), FIRST_STEP * slope.double().cpu().numpy()

    def reach(intermediate_result) -> None:
        nonlocal solution
        costs.append(float(intermediate_result.fun))
        change = costs[-2] - costs[-1]
        free = torch.as_tensor(FIRST_STEP * intermediate_result.x).to(points)
        theta = coordinates.from_free(free)
        converged = change < tol * costs[-2]
        n_iter = solution.n_iter + 1
        solution = Solution(theta, solution.value, -costs[-1], (), n_iter, converged, change)
        if callback is not None:
            callback(solution)
        if converged:
            raise StopIteration

    if max_iter > 0:
        # L-BFGS makes its first step of length one in its own coordinates.
        start = coordinates.to_free(theta0).double().cpu().numpy() / FIRST_STEP
        options = {"maxiter": max_iter, "maxfun": 20 * max_iter, "ftol": 0.0, "gtol": 0.0}
        end = minimize(
            objective, start, jac=True, method="L-BFGS-B", callback=reach, options=options
        )
        # No step lowers the distance any more: rounding, or a kink of the nodes' distance.
        stalled = end.status in (0, 2)
        solution = solution._replace(converged=solution.converged or stalled)
    return solution._replace(objectives=tuple(-cost for cost in costs[1:]))


class _Transport:
    """The squared distance of mixtures to the points, each from the potentials of the last."""

    def __init__(self, points: Tensor, weights: Tensor, n_nodes: int | None, seed: int):
        self.points, self.weights, self.n_nodes, self.seed = points, weights, n_nodes, seed
        self._potentials = None

    def __call__(self, mixture: GaussianMixtureParams) -> Tensor:
        if self.n_nodes is not None:
            options = {"n_nodes": self.n_nodes, "seed": self.seed, "estimate_error": False}
            return nodes_plan(mixture, self.points, self.weights, **options).cost
        options = {"potentials": self._potentials, "tol": MASS_TOL}
        plan = exact_plan(mixture, self.points, self.weights, **options)
        self._potentials = plan.potentials
        return plan.cost


def _add_variance(mixture: GaussianMixtureParams, variance: float) -> GaussianMixtureParams:
    """The mixture with a variance added in every direction."""
    added = variance
    if not covariance_type_of(mixture.covariances).diagonal:
        added = variance * torch.eye(mixture.means.shape[1]).to(mixture.means)
    return mixture._replace(covariances=mixture.covariances + added)
