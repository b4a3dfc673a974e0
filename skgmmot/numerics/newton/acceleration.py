"""Newton's method for fixed points that plain iterations approach slowly."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from skgmmot.numerics.fixed_point import Acceleration, Point
from skgmmot.numerics.krylov import gmres
from skgmmot.numerics.linalg import norm
from skgmmot.numerics.newton.linearisation import Linearisation

# --- a model of the derivative -------------------------------------------------------------------

#: Doublings of the number of iterations that are predicted at once, if what each doubling adds is
#: not negligible before.
DOUBLINGS, NEGLIGIBLE = 40, 1e-12
#: Vectors that a model of low rank keeps; when there are more, half of them are dropped.
LARGEST_BASIS = 80
#: Rows of a matrix whose powers cost less than passes over the data.
LARGEST_MATRIX = 200
#: Products of a Krylov space, and the error of its solution, for a new model of low rank.
KRYLOV_PRODUCTS, KRYLOV_TOL = 15, 0.1


class Jump(NamedTuple):
    """Many iterations of a linear map at once."""

    delta: Tensor
    """The change of the point ``(m,)``."""
    n_iter: float
    """Number of iterations; infinity leads to the fixed point."""
    gain: float
    """By how much the objective should grow."""
    residual: Tensor
    """What ``F(theta) - theta`` should be there ``(m,)``."""
    of: Callable[[Tensor], Tensor]
    """The change for any residual, by as many iterations."""


class DerivativeModel:
    r"""An estimate ``Q T Q^T`` of an almost symmetric derivative of a map, from products with it.

    Each product ``J v`` adds the smallest symmetric matrix, in the Frobenius norm, that makes it
    right (Powell's symmetric Broyden update).

    Parameters
    ----------
    basis : Tensor of shape (m, k)
        ``Q``, orthonormal. Where k = m it stays; else products add to it.
    matrix : Tensor of shape (k, k)
        ``T``.
    exact : bool, default=False
        Whether it is the derivative itself.
    """

    def __init__(self, basis: Tensor, matrix: Tensor, exact: bool = False):
        self.basis, self.matrix, self.exact = basis, matrix, exact

    @classmethod
    def at(cls, linear: Linearisation) -> tuple["DerivativeModel", int]:
        """The model of a map at a point: its derivative where that is small, else in a subspace.

        Also returns the number of passes that it took, the matrix or each product being one.
        """
        residual, m = linear.residual.cpu(), linear.residual.numel()
        if linear.small and m <= LARGEST_MATRIX:
            return cls(torch.eye(m, dtype=residual.dtype), linear.matrix().cpu(), True), 1
        model = cls(residual.new_zeros(m, 0), residual.new_zeros(0, 0))
        seen = []

        def product(u):
            seen.append((u, linear.product(u)))
            return u - seen[-1][1]

        gmres(product, linear.residual, tol=KRYLOV_TOL, max_iter=KRYLOV_PRODUCTS)
        for v, image in seen:
            model.observe(v.cpu(), image.cpu())
        return model, len(seen)

    def observe(self, v: Tensor, image: Tensor) -> None:
        """Have the estimate map a vector to its image."""
        length = norm(v)
        if not length or not torch.isfinite(image).all():
            return
        v, image = v / length, image / length
        if self.basis.shape[1] < len(v):
            self._extend(v)
            self._extend(image)
        a, b = v @ self.basis, image @ self.basis
        error = b - self.matrix @ a
        cross = torch.outer(error, a)
        self.matrix = self.matrix + cross + cross.mT - (error @ a) * torch.outer(a, a)
        if len(self.matrix) > LARGEST_BASIS and self.basis.shape[1] < len(v):
            values, vectors = torch.linalg.eigh((self.matrix + self.matrix.mT) / 2)
            largest = vectors[:, values.abs().argsort(descending=True)[: LARGEST_BASIS // 2]]
            self.basis, self.matrix = self.basis @ largest, largest.mT @ self.matrix @ largest

    def _extend(self, v):
        """Add a vector to the basis."""
        length = norm(v)
        for _ in range(2):  # once is not orthogonal where little is left
            v = v - self.basis @ (v @ self.basis)
        if norm(v) > 1e-8 * length:
            self.basis = torch.cat([self.basis, (v / norm(v)).unsqueeze(1)], dim=1)
            self.matrix = torch.nn.functional.pad(self.matrix, (0, 1, 0, 1))

    def product(self, v: Tensor) -> Tensor:
        """The estimate of ``J v``."""
        return self.basis @ (self.matrix @ (v @ self.basis))

    def jump(self, residual: Tensor, radius: float) -> Jump:
        r"""Return the change by as many iterations as lead no further than a radius.

        N iterations of the linear map, :math:`(1 + J + \dots + J^{N - 1})` times the residual, by
        doubling N. For large N that is Newton's step where the map contracts, and away from the
        point where it does not. One iteration may lead further.
        """
        basis = self.basis  # products replace it
        along = residual @ basis
        aside = norm(residual - basis @ along)  # what one iteration makes zero

        def fits(change):
            return math.hypot(norm(change), aside) <= radius  # False for what is not a number

        powers, changes = [self.matrix], [along]
        while len(changes) < DOUBLINGS:
            further = powers[-1] @ changes[-1]
            if not fits(changes[-1] + further):
                break
            changes.append(changes[-1] + further)
            if norm(further) <= NEGLIGIBLE * norm(changes[-1]):
                break
            powers.append(powers[-1] @ powers[-1])
        else:
            further = torch.zeros_like(along)
        recipe, n_iter = [len(changes) - 1], math.inf
        if norm(further) > NEGLIGIBLE * norm(changes[-1]):
            delta, n_iter = changes[-1], 2 ** (len(changes) - 1)
            for k in reversed(range(len(changes) - 1)):
                longer = changes[k] + powers[k] @ delta
                if fits(longer):
                    recipe, delta, n_iter = [*recipe, k], longer, n_iter + 2**k

        def of(residual):
            along = residual @ basis
            partial = [along]
            for power in powers[: recipe[0]]:
                partial.append(partial[-1] + power @ partial[-1])
            change = partial[-1]
            for k in recipe[1:]:
                change = partial[k] + powers[k] @ change
            return residual + basis @ (change - along)

        delta = of(residual)
        left = residual - delta + self.product(delta)
        gain = float(delta @ (residual + left)) / 2
        return Jump(delta, n_iter, gain, left, of)


# --- the iteration -------------------------------------------------------------------------------

#: Length of the first jump, and of the longest. Coordinates are scaled so that one is the standard
#: deviation of a component.
FIRST_RADIUS, LONGEST_RADIUS = 0.2, 2.0
#: The change that the error of a predicted residual leads to, relative to the jump: above the first
#: the jump was too long or the model too old, above the second it is refused, since it may lead
#: elsewhere than the iterations do.
LARGE_ERROR, TOO_LARGE_ERROR = 0.2, 0.4
#: Plain iterations go on as long as the growth of the objective falls by this factor in each, but
#: at least this many times.
FAST, N_PLAIN = 0.81, 30
#: A residual that is rounding.
STILL = 1e-13


class Newton(Acceleration):
    r"""Newton's method along the path of a fixed point iteration, which it never leaves far.

    After the first plain steps, each proposal is where many of them would lead if the map were
    linear, in a symmetric model of its derivative (an exponential integrator of the flow of the
    iterations; Newton's step near the fixed point). A step there shows how right that was: it
    corrects the model, and says how long the next jump may be.

    Parameters
    ----------
    linearise : callable
        ``linearise(theta)`` is the `Linearisation` of the map, in coordinates in which the
        derivative is symmetric near a fixed point and the residual is the objective's gradient.
        It should cost no pass over the data where a step has just been.

    Attributes
    ----------
    n_derivatives : int
        Matrices of derivatives, or products with them, so far.
    """

    def __init__(self, linearise: Callable[[Point], Linearisation]):
        self.linearise = linearise
        self.n_derivatives = 0
        self._objective, self._changes, self._n_plain = -math.inf, [], 0
        self._begun = False
        self._radius, self._model, self._fresh = FIRST_RADIUS, None, False
        self._n_rejected, self._waiting = 0, 0
        self._point, self._linear, self._jump = None, None, None

    def arrive(self, point: Point, objective: float, was_proposed: bool) -> bool:
        """Note a step from a point; False refuses a point that the iterations may not come to."""
        if not was_proposed:
            self._changes = [*self._changes, objective - self._objective][-3:]
            self._n_plain += 1
        linear = None if self._model is None else self.linearise(point)
        if linear is not None and self._linear is not None:
            error = self._learn(linear, was_proposed)
            if was_proposed and not self._judge(error):
                return False
        self._objective = objective
        self._point, self._linear, self._jump = point, linear, None
        return True

    def may_fall(self, fall: float, objective: float) -> bool:
        """Whether the objective may fall after a jump: as far as plain iterations let it."""
        against = self._linear.against.cpu() @ self._jump.delta
        return super().may_fall(fall - abs(float(against)), objective)

    def _learn(self, linear, was_proposed):
        """Correct the model by the last step; return the relative error that a jump had made."""
        before, now = self._linear.residual.cpu(), linear.residual.cpu()
        delta = self._jump.delta if was_proposed else before
        self._model.observe(delta, delta + now - before)
        if not was_proposed:
            return 0.0
        return norm(self._jump.of(now - self._jump.residual)) / norm(delta)

    def _judge(self, error):
        """Whether a jump was right enough, and how long the next one may be."""
        exact = self._model.exact
        if exact and not error <= TOO_LARGE_ERROR:
            return False
        if exact and not self._fresh and error > LARGE_ERROR:
            self._model = None
        elif error > LARGE_ERROR:
            self._radius = min(self._radius, norm(self._jump.delta)) / 2
        elif error < LARGE_ERROR / 2 and self._jump.n_iter < math.inf:
            self._radius = min(2 * self._radius, LONGEST_RADIUS)
        self._fresh, self._n_rejected = False, 0
        return True

    def converged(self, settled: bool, tol: float) -> bool:
        """Whether the objective should grow by less than ``tol`` on all the way to its limit."""
        if not tol or (self._model is None and not settled):
            return False
        if not self._is_near(tol):
            return False
        if not self._fresh:
            self._model, self._jump = None, None
        return self._is_near(tol)

    def _is_near(self, tol):
        jump = self._next()
        if jump is not None and norm(self._linear.residual) <= STILL:
            return True  # also at a saddle, which plain iterations do not leave
        return jump is not None and jump.n_iter == math.inf and jump.gain < tol

    def propose(self, point: Point, image: Point, was_proposed: bool) -> Point | None:
        """Return where many iterations lead; None while they are fast, or had better be plain."""
        self._point = point
        self._begun = self._begun or self._model is not None or self._is_slow()
        if not self._begun:
            return None
        if self._waiting:
            self._waiting -= 1
            return None
        jump = self._next()
        if jump is None:
            return None
        return self._linear.retracted(jump.delta.to(self._linear.residual))

    def _is_slow(self):
        changes = self._changes
        return self._n_plain >= N_PLAIN and not changes[-1] < FAST * changes[0]

    def _next(self):
        """The jump from the present point; None where there is none."""
        if self._jump is None:
            if self._linear is None:
                self._linear = self.linearise(self._point)
            residual = self._linear.residual.cpu()
            if not torch.isfinite(residual).all():
                return None
            if self._model is None:
                self._model, n_passes = DerivativeModel.at(self._linear)
                self._fresh, self.n_derivatives = True, self.n_derivatives + n_passes
            self._jump = self._model.jump(residual, self._radius)
        return self._jump

    def reject(self) -> None:
        """Note that the last proposal was rejected; the more in a row, the more plain steps."""
        if self._fresh or not self._model.exact:
            self._radius = min(self._radius, norm(self._jump.delta)) / 4
        if self._model.exact:
            self._model = None
        self._jump = None
        self._waiting, self._n_rejected = 2**self._n_rejected - 1, self._n_rejected + 1

    def state(self) -> dict:
        """What it has seen so far, for `restore`."""
        names = (
            "objective",
            "changes",
            "n_plain",
            "begun",
            "radius",
            "fresh",
            "n_rejected",
            "waiting",
        )
        model = self._model
        return {name: getattr(self, f"_{name}") for name in names} | {
            "changes": list(self._changes),
            "model": None if model is None else [model.basis, model.matrix, model.exact],
            "n_derivatives": self.n_derivatives,
        }

    def restore(self, state: dict) -> None:
        """Go on from what `state` returned."""
        for name, value in state.items():
            setattr(self, name if name == "n_derivatives" else f"_{name}", value)
        self._changes = list(self._changes)
        self._model = None if self._model is None else DerivativeModel(*self._model)
        self._point, self._linear, self._jump = None, None, None
