"""Fixed points to high accuracy, from a point nearby.

Both ways need coordinates in which the derivative of the map is symmetric near the fixed point, and
the residual is the gradient of an objective. Where the derivative is a small matrix, steps are
those of a `SymmetricModel` within a trust region; elsewhere Newton's, in a Krylov space.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from skgmmot.numerics.fixed_point import Point
from skgmmot.numerics.linalg import norm
from skgmmot.numerics.newton.linearisation import Linearisation
from skgmmot.numerics.threads import single_threaded_torch

Linearise = Callable[[Point], Linearisation]
Tolerance = Callable[[Linearisation], float]
Advance = Callable[[Point, int], Point]

#: Longest Newton step that is taken. Coordinates are scaled so that one is the standard deviation
#: of a component; within half of it the linearisation still describes the map.
NEWTON_RADIUS = 0.5
#: Plain iterations where steps fail, at first; twice as many each time.
N_STEPS = 4
#: Fall of the objective that may be rounding, relative to one and its size.
LEAST_FALL = 1e-9
#: A residual below the first that has not halved at so many points in a row is rounding.
ROUNDING, MOST_STALE = 1e-12, 4


class Polished(NamedTuple):
    """A fixed point, and how accurate it is."""

    theta: Point
    """The point."""
    residual: float
    """``|F(theta) - theta|``."""
    distance: float
    """Estimate of the distance to the fixed point."""
    n_passes: int
    """Number of evaluations of ``F``, of matrices of its derivative, and of products with it."""
    gain: float
    """Estimate of what the objective still grows by on the way there."""
    contracts: bool = False
    """Whether ``F`` contracts there, as far as its derivative is known."""


@single_threaded_torch()
def polish(
    linearise: Linearise, theta: Point, *, advance: Advance, tol: float | Tolerance, max_passes: int
) -> Polished:
    r"""Find a fixed point of ``F`` by Newton steps, or by iterations of ``F`` where these fail.

    .. math:: \bigl(I - \partial F / \partial\theta\bigr)\, \delta = F(\theta) - \theta

    In coordinates in which the derivative is symmetric near the fixed point, its products with
    cotangents, those of implicit gradients, are products with changes of ``theta`` too.

    Parameters
    ----------
    linearise : callable
        ``linearise(theta)`` is a `Linearisation` in coordinates in which the derivative is
        symmetric near the fixed point.
    theta : tuple of Tensor
        Where to start.
    advance : callable
        ``advance(theta, n)`` is the point after ``n`` iterations of ``F``.
    tol : float or callable
        Bound on the distance to the fixed point, or what gives it for the linearisation at a point.
    max_passes : int
        Largest number, roughly, of evaluations of ``F``, matrices and products.

    Returns
    -------
    Polished
        The point and its accuracy; that of rounding where the tolerance is below. Where its
        derivative is small, the linearisation there has an approximate inverse.
    """
    here = linearise(theta)
    way = _by_matrices if here.small else _by_products
    bound = tol if callable(tol) else lambda _: tol
    return way(linearise, here, advance=advance, bound=bound, max_passes=max_passes)


class _Residuals:
    """Sizes of residuals from point to point."""

    def __init__(self):
        self.least, self.n_stale = math.inf, 0

    def end_with(self, size: float) -> bool:
        """Whether they are down to rounding, so that nothing is gained by going on."""
        self.n_stale = 0 if size < self.least / 2 else self.n_stale + 1
        self.least = min(self.least, size)
        return self.least < ROUNDING and self.n_stale > MOST_STALE


def _falls(here: Linearisation, ahead: Linearisation, delta: Tensor) -> bool:
    """Whether a step lowers the objective by more than what works against it, and rounding.

    A component of hardly any weight may go anywhere in a short step; others must not follow.
    """
    fall = here.objective - ahead.objective
    if not fall > LEAST_FALL * (1 + abs(here.objective)):
        return False
    return fall > 2 * abs(float(here.against @ delta))


def _at(linearise: Linearise, theta: Point) -> Linearisation | None:
    """The linearisation at a point, or None outside the domain of the map."""
    try:
        return linearise(theta)
    except ValueError:
        return None


# --- small derivatives: a trust region ------------------------------------------------------------

#: Lengths of the first step, and of the longest. Longer ones led to other fixed points than plain
#: iterations in some flat problems.
FIRST_RADIUS, LONGEST_RADIUS = 0.05, 0.1
#: A step is refused if the objective grows by less than this share of what the model says.
LEAST_GAIN = 0.1
#: The change that the error of a predicted residual leads to, relative to the step: below the first
#: steps may be longer, above the second the model is too old.
SMALL_ERROR, LARGE_ERROR = 0.25, 0.8
#: Steps that are refused in a row before plain iterations go on.
MOST_REFUSALS = 4
#: Factorisations that a step may take, its least length where it is shortened, and the length aimed
#: at, both as shares of the radius.
MOST_SHIFTS, LEAST_SHARE, AIM = 20, 0.7, 0.9


class Step(NamedTuple):
    """A step ``(M + shift I)^{-1} residual`` of a model ``M``."""

    delta: Tensor
    """The step ``(m,)``."""
    shift: float
    """Zero for Newton's step."""
    solve: Callable[[Tensor], Tensor]
    """``(M + shift I)^{-1}`` times any vector."""
    distance: float
    """Length of Newton's step, also where the model is not positive definite."""

    def gain(self, residual: Tensor) -> float:
        """What the objective should grow by on the way to the fixed point."""
        if self.shift:
            return norm(residual) * self.distance / 2
        return float(residual @ self.delta) / 2


class SymmetricModel:
    """A symmetric estimate ``M`` of ``I - dF/dtheta``, which is corrected by each step taken.

    Parameters
    ----------
    derivative : Tensor of shape (m, m)
        ``dF/dtheta`` at a point.
    """

    def __init__(self, derivative: Tensor):
        self.matrix = -(derivative + derivative.mT) / 2
        self.matrix.diagonal().add_(1)

    @classmethod
    def of_hessian(cls, matrix: Tensor) -> "SymmetricModel":
        """The model of a function with this second derivative: residuals are descent directions.

        Parameters
        ----------
        matrix : Tensor of shape (m, m)
            The second derivative, symmetric.

        Returns
        -------
        SymmetricModel
            The model.
        """
        model = cls.__new__(cls)
        model.matrix = matrix
        return model

    def observe(self, delta: Tensor, change: Tensor) -> None:
        """Have the model map a step to a change, by the smallest symmetric correction (Powell)."""
        square = delta @ delta
        error = (change - self.matrix @ delta) / square
        cross = torch.outer(error, delta)
        along = (error @ delta) / square
        self.matrix = self.matrix + cross + cross.mT - along * torch.outer(delta, delta)

    def step(self, residual: Tensor, radius: float) -> Step:
        """Return the step within a radius that leads to the largest objective, or nearly so.

        Where Newton's is too long, or the model is not positive definite, it is that of a larger
        matrix ``M + shift I``, about as long as the radius.
        """
        least, distance, found = norm(residual) / radius, None, None
        low, high, shift = 0.0, math.inf, 0.0
        for _ in range(MOST_SHIFTS):
            factor = self._factor(shift)
            if factor is None:
                distance = self._newton_length(residual) if distance is None else distance
                low = max(shift, 1e-3 * least)
                shift = 2 * low if high == math.inf else math.sqrt(low * high)
                continue
            delta = _solved(factor, residual)
            length = norm(delta)
            distance = length if distance is None else distance
            if length > radius:  # Newton's method for 1 / length as a function of the shift
                half = torch.linalg.solve_triangular(factor, delta.unsqueeze(1), upper=False)
                low, excess = shift, length / (AIM * radius) - 1
                shift += excess * (length / norm(half)) ** 2
                continue
            found, high = Step(delta, shift, partial(_solved, factor), distance), shift
            if not shift or length >= LEAST_SHARE * radius:
                return found
            shift = math.sqrt(low * high) if low else high / 4
        return found or Step(residual / least, least, lambda v: v / least, distance)

    def _factor(self, shift):
        """Cholesky's factor of the matrix with a shift; None if there is none."""
        shifted = self.matrix.clone()
        shifted.diagonal().add_(shift)
        factor, failed = torch.linalg.cholesky_ex(shifted)
        return None if failed else factor

    def _newton_length(self, residual):
        solution, failed = torch.linalg.solve_ex(self.matrix, residual)
        return math.inf if failed else norm(solution)


def _solved(factor: Tensor, b: Tensor) -> Tensor:
    """``(L L^T)^{-1} b``."""
    return torch.cholesky_solve(b.unsqueeze(1), factor).squeeze(1)


class _TrustRegion:
    """Steps of a model from point to point, and how far it is trusted."""

    def __init__(self, here: Linearisation):
        self.here, self.radius, self.n_refusals = here, FIRST_RADIUS, 0
        self.model, self.fresh = None, False

    def renew(self) -> None:
        """Compute the model here."""
        self.model, self.fresh = SymmetricModel(self.here.matrix()), True

    def judge(self, step: Step, ahead: Linearisation | None) -> None:
        """Go to where a step led, or refuse it; see how right the model was."""
        delta, before = step.delta, self.here.residual
        gain, error, length = -math.inf, math.inf, norm(delta)
        if ahead is not None:
            expected = step.shift * delta  # the residual there, by the model
            gain = float(delta @ (before + ahead.residual) / (delta @ (before + expected)))
            error = norm(step.solve(ahead.residual - expected)) / length
            self.model.observe(delta, before - ahead.residual)
        refused = not gain >= LEAST_GAIN or _falls(self.here, ahead, delta)
        if refused or not error <= LARGE_ERROR:
            self.radius = min(self.radius, length) / (4 if refused else 2)
            self.model = self.model if self.fresh else None
        elif step.shift and error < SMALL_ERROR:
            self.radius = min(2 * self.radius, LONGEST_RADIUS)
        if refused:
            self.n_refusals += 1
        else:
            self.here, self.fresh, self.n_refusals = ahead, False, 0


def _by_matrices(linearise, here, *, advance, bound, max_passes) -> Polished:
    """Steps within a trust region, of a model that is computed again when it is too old."""
    region, n_passes, n_steps, residuals = _TrustRegion(here), 1, N_STEPS, _Residuals()
    while True:
        here = region.here
        size = norm(here.residual)
        if not size:
            return Polished(here.theta, 0.0, 0.0, n_passes, 0.0, True)
        if region.model is None:
            region.renew()
            n_passes += 1
        step = region.model.step(here.residual, region.radius)
        done = step.distance <= bound(here) or residuals.end_with(size)
        if done or n_passes >= max_passes:
            here.inverse = None if step.shift else step.solve
            gain, contracts = step.gain(here.residual), not step.shift
            return Polished(here.theta, size, step.distance, n_passes, gain, contracts)
        if region.n_refusals <= MOST_REFUSALS:
            region.judge(step, _at(linearise, here.retracted(step.delta)))
            n_passes += 1
            continue
        n_steps = min(n_steps, max_passes - n_passes)
        here = _at(lambda theta, n=n_steps: linearise(advance(theta, n)), here.theta)
        if here is None:  # iterations of F leave its domain, too
            return Polished(region.here.theta, size, math.inf, n_passes, math.inf)
        region, n_passes, n_steps = _TrustRegion(here), n_passes + n_steps + 1, 2 * n_steps


# --- large derivatives: a Krylov space ------------------------------------------------------------


def _by_products(linearise, here, *, advance, bound, max_passes) -> Polished:
    """Newton steps, by products; their Ritz values show whether ``F`` contracts.

    Where it does not, as at a saddle of the objective, Newton steps would converge to a point that
    iterations of ``F`` leave, so ``F`` is iterated instead.
    """
    step, n_passes, n_steps, residuals = None, 1, N_STEPS, _Residuals()
    while True:
        step = _KrylovStep(here) if step is None else step
        n_passes += step.n_passes
        done = step.length <= bound(here) or residuals.end_with(step.size)
        if done or n_passes >= max_passes:
            left = step.length, n_passes, step.gain, step.contracts
            return Polished(here.theta, step.size, *left)
        ahead = _at(linearise, here.retracted(step.delta)) if step.trusted else None
        if ahead is not None and not _falls(here, ahead, step.delta):
            size, tol = norm(ahead.residual), bound(ahead)
            expected = step.length * size / step.size
            if expected <= tol:
                gain = size * expected / 2
                return Polished(ahead.theta, size, expected, n_passes + 1, gain, True)
            following = _KrylovStep(ahead, share_left=tol / expected)
            n_passes += 1
            if following.length < step.length / 2 and following.trusted:
                here, step = ahead, following
                continue
            n_passes += following.n_passes
        n_steps = min(n_steps, max_passes - n_passes)
        ahead = _at(lambda theta, n=n_steps: linearise(advance(theta, n)), here.theta)
        if ahead is None:  # iterations of F leave its domain, too
            return Polished(here.theta, step.size, math.inf, n_passes, math.inf)
        here, step = ahead, None
        n_passes += n_steps + 1
        n_steps *= 2


class _KrylovStep:
    """The solution ``delta`` of ``(I - dF/dtheta) delta = F(theta) - theta``.

    The tolerance of the linear solve is the residual's size, since the linearisation is no more
    accurate than that, but need not be below ``share_left``, the share of the step that may remain.
    """

    def __init__(self, linear: Linearisation, share_left: float = 0.0):
        self.size = norm(linear.residual)
        self.delta, self._products = linear.residual, ()
        if self.size:
            tol = min(0.1, max(self.size, 0.3 * share_left))
            self.delta, self._products = linear.solve(linear.residual, tol)
        self.length, self.n_passes = norm(self.delta), len(self._products)
        self.gain = float(linear.residual @ self.delta) / 2

    @property
    def trusted(self) -> bool:
        """Whether the step is short and ``F`` contracts on the Krylov space of the solve."""
        return self.length < NEWTON_RADIUS and self.contracts

    @property
    def contracts(self) -> bool:
        """Whether ``F`` contracts on the Krylov space of the solve."""
        return not self._products or float(self._products.ritz_values().real.min()) > 0
