"""Fixed points of slowly changing maps: the inverse derivative is kept from one to the next."""

import math

import torch
from torch import Tensor

from skgmmot.numerics.fixed_point import Point
from skgmmot.numerics.krylov import solved
from skgmmot.numerics.linalg import norm
from skgmmot.numerics.newton.linearisation import Linearisation
from skgmmot.numerics.newton.polish import NEWTON_RADIUS


class Carried:
    """The inverse of ``I - dF/dtheta``, kept from one fixed point to the next.

    The inverse turns a residual into a step to the fixed point (Newton's method with a kept
    derivative). A second matrix turns cotangents of the fixed point into cotangents of one
    iteration: the same inverse for implicit gradients, another one for natural steps. Both are
    computed again at the first, second, fourth ... use; if that changes the result by more than
    ``stale``, the count starts again. The inverse is also computed again where its step is too
    long.

    A kept inverse does not show that ``F`` has ceased to contract; until it is computed again, its
    steps still lead to the fixed point.

    Parameters
    ----------
    stale : float
        Relative change of a result that starts the count again.

    Attributes
    ----------
    inverse : Tensor of shape (m, m)
        The inverse; None before the first use, and where ``F`` did not contract.
    matrix : Tensor of shape (m, m)
        The matrix that cotangents are multiplied by; None before the first use.
    age : int
        Number of uses since the matrix last changed by more than ``stale``.
    ahead : tuple of Tensor
        Prediction of the next fixed point, set by the caller; None if there is none.
    """

    def __init__(self, stale: float):
        self.stale = stale
        self.inverse, self.matrix, self.age, self.ahead = None, None, 0, None

    def renew(self) -> None:
        """Have the matrix computed again at the next use."""
        self.age = 0

    def find(self, linearise, theta: Point, tol: float) -> tuple[Linearisation, Tensor] | None:
        """Find the fixed point by a few Newton steps from a point nearby.

        Parameters
        ----------
        linearise : callable
            ``linearise(theta)`` is the `Linearisation` of the map at a point.
        theta : tuple of Tensor
            Where to start: `ahead`, or the last fixed point.
        tol : float
            Largest length of the step that remains.

        Returns
        -------
        tuple of Linearisation and Tensor of shape (m,), or None
            A point, and the Newton step that remains from it; None if the fixed point is not
            near.
        """
        linear, reach = linearise(theta), NEWTON_RADIUS
        while linear.small:
            delta = self._newton_step(linear)
            if not norm(delta) <= tol:
                self._compute_inverse(linear.products(), linear.residual)
                delta = self._newton_step(linear)
            length = norm(delta)
            if length <= tol:
                return linear, delta
            if not length < reach:
                break
            linear, reach = linearise(linear.retracted(delta)), length / 2
        return None

    def _newton_step(self, linear):
        """The Newton step to the fixed point; infinite where no inverse is kept."""
        if self.inverse is None:
            return torch.full_like(linear.residual, math.inf)
        return self.inverse @ linear.residual

    def solve(self, matvec, b: Tensor) -> Tensor:
        """Solve the adjoint equation ``matvec(x) = b`` with the kept inverse."""

        def find():
            rows = self._compute_inverse(matvec, b)
            self.matrix = self.inverse
            return solved(rows.mT, b)

        return self._kept_or_found(lambda: b @ self.matrix, find)

    def move(self, linear: Linearisation, v: Point) -> Tensor:
        """Return ``linear.movement(v, linear.natural(v))`` with the kept matrix of ``natural``."""
        vector = linear.encode(v)

        def apply():  # movements are compared, as the matrix may contribute little to them
            return linear.movement(v, vector @ self.matrix)

        def find():
            self._compute_inverse(linear.products(), vector)
            self.matrix = linear.natural(torch.eye(len(vector)).to(vector))
            return apply()

        return self._kept_or_found(apply, find)

    def _kept_or_found(self, apply, find):
        """The result of ``apply`` with the kept matrix, or of ``find`` when one is due."""
        kept = None if self.matrix is None else apply()
        self.age += 1
        if kept is not None and self.age & (self.age - 1):  # not a power of two
            return kept
        found = find()
        if kept is None or norm(kept - found) > self.stale * norm(found):
            self.age = 0
        return found

    def _compute_inverse(self, matvec, like):
        """Compute the matrix of an operator, and keep its inverse if the map contracts."""
        rows = matvec(torch.eye(like.numel(), dtype=like.dtype, device=like.device))
        finite = bool(torch.isfinite(rows).all())
        contracts = finite and float(torch.linalg.eigvals(rows).real.min()) > 0
        self.inverse = torch.linalg.inv(rows) if contracts else None
        return rows
