r"""Fit a mixture to weighted points by minimising the semi-discrete Wasserstein distance.

.. math:: \min_\theta W_2^2\Bigl(\text{mixture } \theta, \sum_j b_j \delta_{y_j}\Bigr)

is minimised in unconstrained coordinates, with the gradients of the envelope theorem. In the plane
the distance is exact and smooth in the mixture, and has second derivatives: Newton's method takes
about a dozen steps. In other dimensions the mixture is approximated by nodes ``x = m_k + L_k z``
with fixed ``z``, so that the objective is deterministic and its gradient is propagated through the
nodes. That is left to L-BFGS, as are mixtures of too many parameters for matrices, and what
Newton's method cannot go on with.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from skgmmot.fitting.semidiscrete_newton import MAX_PARAMETER, NewtonDescent
from skgmmot.gaussian.coordinates import RegularisedCoordinates
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.numerics.fixed_point import Solution
from skgmmot.numerics.linalg import error_of_root
from skgmmot.transport.semidiscrete.nodes import nodes_plan
from skgmmot.transport.semidiscrete.plan import SemidiscretePlan, component_masses, exact_plan

#: Length of the first step, in unconstrained coordinates.
FIRST_STEP = 0.1
#: Steps that L-BFGS remembers: with SciPy's ten, fits take a quarter more steps.
MEMORY = 30
#: Number of steps over which progress is measured, since the first ones of L-BFGS may be short.
PROGRESS_WINDOW = 5
#: Mass error to which plans are solved; derivatives are as accurate.
MASS_TOL = 1e-6
#: Slack of the masses, divided by the variance of the points or, if the mixture cannot be so
#: narrow, by their deviation times its own. Without slack the distance has a kink where the weights
#: of separate clusters are optimal, at which descent methods stall.
SLACK = 1e-3
#: Largest ratio of the mean of squared distances to their median at which the mean measures the
#: variance; above it, the mean is due to a few far points.
MAX_MEAN_TO_MEDIAN = 10.0
#: Largest number of coordinates of a mixture, and of their products with points, of which second
#: derivatives are made: 128 MiB.
MAX_COORDINATES, MAX_DERIVATIVES = 1_000, 2**24


def fit_to_points(
    theta0: GaussianMixtureParams,
    points: Tensor,
    weights: Tensor,
    *,
    n_nodes: int | None = None,
    random_state: int = 0,
    reg_covar: float = 1e-6,
    tol: float = 1e-4,
    max_iter: int = 200,
    callback: Callable[[Solution], bool | None] | None = None,
) -> Solution:
    """Fit a mixture to weighted points by minimising the Wasserstein distance.

    Parameters
    ----------
    theta0 : GaussianMixtureParams
        Where to start, with the covariance type of the result.
    points : Tensor of shape (n, d)
        Points ``y``.
    weights : Tensor of shape (n,)
        Their masses, non-negative, of positive sum.
    n_nodes : int, default=None
        Number of nodes that approximate the mixture; None is the exact distance, for d = 2.
    random_state : int, default=0
        Seed of the nodes.
    reg_covar : float, default=1e-6
        Added to the variances.
    tol : float, default=1e-4
        The descent ends when five steps lower the squared distance by less than this share of it,
        or one step of Newton's method that is not cut off.
    max_iter : int, default=200
        Largest number of steps; 0 returns the start.
    callback : callable, default=None
        Called with the `Solution` so far after each step; stops where it returns True.

    Returns
    -------
    Solution
        Its objectives are minus the squared distances, smoothed by the slack if exact.

    Raises
    ------
    RuntimeError
        If the transport of the start cannot be found.

    Notes
    -----
    A step of L-BFGS is one transport plan and its gradient, sometimes two. A Newton step also takes
    a linear system of the plan for each of the P parameters of the mixture, and ``O(n P^2)``.
    """
    transport = _Transport(points, weights, reg_covar, n_nodes, random_state)
    descent = _Descent(theta0, transport, reg_covar, tol, callback)
    descent.run_newton(max_iter)
    descent.run_lbfgs(max_iter)
    if n_nodes is not None or descent.stalled:
        # The distance has kinks in the weights, with nodes or between clusters too far apart for
        # the slack: continue with fixed weights.
        descent.solution = descent.solution._replace(converged=False)
        descent.run_lbfgs(max_iter, held=len(theta0.weights))
    return descent.settled()


def distance_error(
    solution: Solution,
    points: Tensor,
    weights: Tensor,
    n_nodes: int | None = None,
    random_state: int = 0,
) -> float:
    """Return how far the distance of a fit may be from that of its mixture, from one more plan.

    Parameters
    ----------
    solution : Solution
        What `fit_to_points` returned.
    points, weights : Tensor of shape (n, d) and (n,)
        The points and their masses.
    n_nodes : int, default=None
        The number of nodes of the fit; None if it was exact.
    random_state : int, default=0
        Their seed.

    Returns
    -------
    float
        An estimate: the difference to the distance without slack, or the spread between sets of
        nodes, as of `nodes_plan`.
    """
    mixture = solution.value.detach()
    if n_nodes is None:
        plan = exact_plan(mixture, points, weights)
    else:
        options = {"n_nodes": n_nodes, "random_state": random_state}
        plan = nodes_plan(mixture, points, weights, **options)
    cost = max(float(plan.cost), 0.0)
    apart = abs(math.sqrt(max(-solution.objective, 0.0)) - math.sqrt(cost))
    return apart + error_of_root(cost, plan.error)


def robust_variance(points: Tensor, weights: Tensor) -> float:
    """Return the mean variance of the features of weighted points, robust to outliers.

    Parameters
    ----------
    points : Tensor of shape (n, d)
        Points.
    weights : Tensor of shape (n,)
        Their masses, non-negative, of positive sum.

    Returns
    -------
    float
        The mean variance of the features, but at most ten times the median of squared distances
        from the medians, if that is not zero.
    """
    share = weights / weights.sum()
    mean = float(share @ (points - share @ points).square().mean(1))
    median = float(_median(_squares(points, share), share))
    return min(mean, MAX_MEAN_TO_MEDIAN * median) if median > 0 else mean


def outlier_ratio(points: Tensor, weights: Tensor) -> float:
    """Return the ratio of the largest to the median distance of points from their medians.

    Parameters
    ----------
    points : Tensor of shape (n, d)
        Points.
    weights : Tensor of shape (n,)
        Their masses, positive.

    Returns
    -------
    float
        The ratio; infinite if the median distance is zero and the largest is not.
    """
    share = weights / weights.sum()
    squares = _squares(points, share)
    largest = float(squares.max())
    median = float(_median(squares, share))
    return math.sqrt(largest / median) if median > 0 else math.inf if largest > 0 else 1.0


def _squares(points: Tensor, share: Tensor) -> Tensor:
    """Squared distances from the medians of the features, divided by their number."""
    middle = torch.stack([_median(feature, share) for feature in points.mT])
    return (points - middle).square().mean(1)


def _median(values: Tensor, share: Tensor) -> Tensor:
    """The weighted median."""
    order = values.argsort()
    return values[order[torch.searchsorted(share[order].cumsum(0), 0.5).clamp(max=len(order) - 1)]]


class _Descent:
    """Steps from a mixture, in one or more stages, with the best solution so far."""

    def __init__(self, theta0, transport: "_Transport", reg_covar, tol, callback):
        self.coordinates, self.transport = RegularisedCoordinates(theta0, reg_covar), transport
        self.tol, self.callback = tol, callback
        self.objectives: list[float] = []  # of all steps, and of those since the last `run`
        self.stage: list[float] = []
        self.stopped = False  # by the callback
        self.stalled = False  # whether no step lowers the distance, by rounding or at a kink
        cost = float(transport(theta0).detach())
        self.solution = Solution(theta0, theta0, -cost, (), 0, False, math.inf)

    def run_newton(self, max_iter: int) -> None:
        """Descend by Newton's method, where second derivatives exist, as far as it leads."""
        newton = self.transport.newton(self.coordinates, self.solution.value)
        if newton is None:
            return
        self.stage = [self.solution.objective]
        while self.solution.n_iter < max_iter and not self._ended():
            whole = newton.advance()
            if whole is None:
                self.solution = self.solution._replace(converged=newton.settled)
                break
            cramped = newton.n_free < PROGRESS_WINDOW
            window = 1 if whole else math.inf if cramped else PROGRESS_WINDOW
            self._record(newton.here.mixture.detach(), -newton.here.cost, window)
            self.transport.potentials = torch.as_tensor(newton.here.potentials())

    def run_lbfgs(self, max_iter: int, held: int = 0) -> None:
        """Descend until ``max_iter`` steps in all, with the first ``held`` coordinates fixed."""
        max_iter -= self.solution.n_iter
        if max_iter <= 0 or self._ended():
            return
        self.stage = [self.solution.objective]

        def objective(vector: np.ndarray) -> tuple[float, np.ndarray]:
            free = self._free(vector).requires_grad_()
            mixture = self.coordinates.from_free(free)
            if not all(bool((t.abs() < MAX_PARAMETER).all()) for t in mixture):
                return self._barrier(vector - self.reached)
            try:
                cost = self.transport(mixture)
            except (RuntimeError, np.linalg.LinAlgError):
                if not self.solution.n_iter and (vector == self.reached).all():
                    raise  # the start itself, as rounded by its coordinates
                return self._barrier(vector - self.reached)
            (slope,) = torch.autograd.grad(cost, free)
            slope[:held] = 0
            return float(cost.detach()), FIRST_STEP * slope.double().cpu().numpy()

        start = self.coordinates.to_free(self.solution.value).double().cpu().numpy() / FIRST_STEP
        self.reached = start
        options = {"maxiter": max_iter, "maxfun": 20 * max_iter, "maxcor": MEMORY}
        options |= {"ftol": 0.0, "gtol": 0.0}
        end = minimize(
            objective, start, jac=True, method="L-BFGS-B", callback=self._reach, options=options
        )
        self.stalled = end.status in (0, 2)
        self.solution = self.solution._replace(converged=self.solution.converged or self.stalled)

    def _barrier(self, step: np.ndarray) -> tuple[float, np.ndarray]:
        """Value and gradient where no plan is found: so large that the line search goes back."""
        height = -10 * self.solution.objective
        square = max(step @ step, np.finfo(float).tiny)  # also of no step: the descent ends there
        return 1.1 * height, 2 * height * step / square

    def _free(self, vector: np.ndarray) -> Tensor:
        """Unconstrained coordinates from those of L-BFGS, scaled by the first step."""
        return torch.as_tensor(FIRST_STEP * vector).to(self.transport.points)

    def _reach(self, intermediate_result) -> None:
        """Record a step, as a callback of SciPy, which requires the name of the argument."""
        self.reached = intermediate_result.x.copy()
        value = self.coordinates.from_free(self._free(self.reached))
        self._record(value, -float(intermediate_result.fun))
        if self._ended():
            raise StopIteration

    def _record(
        self, value: GaussianMixtureParams, objective: float, window: float = PROGRESS_WINDOW
    ) -> None:
        """Record a step, and whether so many steps lower the distance by little."""
        self.objectives.append(objective)
        self.stage.append(objective)
        before = self.stage[-1 - window] if len(self.stage) > window else -math.inf
        self.solution = Solution(
            value=value,
            previous=self.solution.value,
            objective=objective,
            objectives=(),
            n_iter=self.solution.n_iter + 1,
            converged=objective - before < -self.tol * before,
            change=objective - self.stage[-2],
        )
        if self.callback is not None:
            self.stopped = bool(self.callback(self.solution))

    def _ended(self) -> bool:
        """Whether no further step should be taken."""
        return self.stopped or self.solution.converged

    def settled(self) -> Solution:
        """The solution, with what the plan of its end tells."""
        transport = self.transport
        solution = self.solution._replace(objectives=tuple(self.objectives))
        if transport.n_nodes is not None or not solution.n_iter:
            return solution
        try:
            plan = transport.plan(solution.value)
        except (RuntimeError, np.linalg.LinAlgError):
            return solution  # masses were right enough for Newton's method, but not to the last
        value, objective = solution.value, -float(plan.cost.detach())
        return solution._replace(
            value=transport.with_corrected_weights(value, plan),
            objective=objective,
            objectives=(*self.objectives[:-1], objective),
        )


class _Transport:
    """Squared distances of mixtures to points, each solved from the potentials of the last plan."""

    def __init__(
        self, points: Tensor, weights: Tensor, reg_covar: float, n_nodes, random_state: int
    ):
        self.points, self.weights = points, weights
        self.n_nodes, self.random_state = n_nodes, random_state
        share = weights / weights.sum()
        variance = float(share @ (points - share @ points).square().sum(1))
        # Potentials are about as large as the points' deviation times that of the mixture.
        size = math.sqrt(variance * (variance + points.shape[1] * reg_covar))
        self.slack = SLACK / size if size > 0 else 0.0
        # With slack, mass errors change the cost by their square over the slack; outliers, which
        # make the slack small, need a smaller tolerance.
        share = (
            robust_variance(points, weights) * points.shape[1] / variance if variance > 0 else 1.0
        )
        self.tol = MASS_TOL * math.sqrt(min(1.0, share))
        self.potentials = None

    def __call__(self, mixture: GaussianMixtureParams) -> Tensor:
        """The squared distance, smoothed by the slack, differentiable in the mixture."""
        if self.n_nodes is not None:
            return self._by_nodes(mixture)
        return self.plan(mixture).cost

    def newton(self, coordinates, mixture: GaussianMixtureParams) -> NewtonDescent | None:
        """Newton's method from the mixture of the last plan; None where it does not serve."""
        size = sum(shape.numel() for shape in coordinates.free.shapes)
        too_many = size > MAX_COORDINATES or size * len(self.points) > MAX_DERIVATIVES
        if self.n_nodes is not None or too_many:
            return None
        descent = NewtonDescent(coordinates, self.points, self.weights, self.slack, self.tol)
        return descent if descent.start(mixture, self.potentials) else None

    def with_corrected_weights(
        self, mixture: GaussianMixtureParams, plan: SemidiscretePlan
    ) -> GaussianMixtureParams:
        """The mixture of a plan with weights corrected for the slack of the masses.

        Each component gets its share of the prescribed masses of cells, instead of their masses.
        """
        psi, b = plan.potentials, self.weights / self.weights.sum()
        should = 1 / (1 - self.slack * (psi - b @ psi))
        weights = mixture.weights * (component_masses(mixture, plan) @ should)
        return mixture._replace(weights=weights / weights.sum())

    def plan(self, mixture: GaussianMixtureParams) -> SemidiscretePlan:
        """The exact plan, from the potentials of the last one."""
        options = {"potentials": self.potentials, "slack": self.slack, "tol": self.tol}
        plan = exact_plan(mixture, self.points, self.weights, estimate_error=False, **options)
        self.potentials = plan.potentials
        return plan

    def _by_nodes(self, mixture: GaussianMixtureParams) -> Tensor:
        """The squared distance of the nodes."""
        options = {
            "n_nodes": self.n_nodes,
            "random_state": self.random_state,
            "estimate_error": False,
            "potentials": self.potentials,
        }
        plan = nodes_plan(mixture, self.points, self.weights, **options)
        self.potentials = plan.potentials
        return plan.cost
