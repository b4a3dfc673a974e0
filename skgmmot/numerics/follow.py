"""Fixed points that move a little at a time, as in a flow: the derivative kept between them.

Nothing here knows of Gaussians.
"""

import math

import torch
from torch import Tensor

from skgmmot.numerics.adjoint import Linearisation
from skgmmot.numerics.fixed_point import Point
from skgmmot.numerics.linalg import norm
from skgmmot.numerics.polish import NEWTON_RADIUS


class Carried:
    """What is known of ``dF/dtheta``, kept from one fixed point to the next.

    The inverse of ``I - dF/dtheta`` turns a residual into a step to the fixed point (Newton's
    method with a kept derivative). A second matrix turns cotangents of the fixed point into those
    to hand to one step: the same inverse for implicit gradients, another for natural steps. Both
    are found anew at the first, second, fourth ... use; where that changes the result, the count
    starts again. The inverse is also found anew where its step is too long.

    A kept inverse does not see a fixed point begin to repel. Until it is found anew it leads there
    as before.

    Parameters
    ----------
    stale : float
        Relative change of a result that starts the count again.

    Attributes
    ----------
    inverse : Tensor of shape (m, m)
        The inverse; None before the first use, and where the map was seen not to contract.
    matrix : Tensor of shape (m, m)
        What cotangents are multiplied by; None before the first use.
    age : int
        Uses since it last changed.
    ahead : tuple of Tensor
        Where its owner expects the next fixed point; None if it does not know.
    """

    def __init__(self, stale: float):
        self.stale = stale
        self.inverse, self.matrix, self.age, self.ahead = None, None, 0, None

    def renew(self) -> None:
        """Let the next use find the matrix anew."""
        self.age = 0

    def find(self, linearise, theta: Point, tol: float) -> tuple[Linearisation, Tensor] | None:
        """Find the fixed point by a step or two from nearby.

        Parameters
        ----------
        linearise : callable
            ``linearise(theta)`` is the `Linearisation` of the map at a point.
        theta : tuple of Tensor
            Where to look: `ahead`, or the last fixed point.
        tol : float
            Largest length of the step that remains.

        Returns
        -------
        tuple of Linearisation and Tensor of shape (m,), or None
            A point, and the step from it that remains; None where the fixed point is not near.
        """
        linear, reach = linearise(theta), NEWTON_RADIUS
        while linear.small:
            delta = self._newton(linear)
            if not norm(delta) <= tol:
                self._learn(linear.products(), linear.residual)
                delta = self._newton(linear)
            length = norm(delta)
            if length <= tol:
                return linear, delta
            if not length < reach:
                break
            linear, reach = linearise(linear.retracted(delta)), length / 2
        return None

    def _newton(self, linear):
        """The step to the fixed point; endless where nothing is known of it."""
        if self.inverse is None:
            return torch.full_like(linear.residual, math.inf)
        return self.inverse @ linear.residual

    def solve(self, matvec, b: Tensor) -> Tensor:
        """Solve ``matvec(x) = b``, as a solver of the adjoint equation."""

        def find():
            rows = self._learn(matvec, b)
            self.matrix = self.inverse
            return torch.linalg.solve(rows.mT, b)

        return self._recall(lambda: b @ self.matrix, find)

    def move(self, linear: Linearisation, v: Point) -> Tensor:
        """Return ``linear.movement(v, linear.natural(v))``, for one that has it and is small."""
        vector = linear.encode(v)

        def apply():  # compared are movements: what the matrix adds to them may be little
            return linear.movement(v, vector @ self.matrix)

        def find():
            self._learn(linear.products(), vector)
            self.matrix = linear.natural(torch.eye(len(vector)).to(vector))
            return apply()

        return self._recall(apply, find)

    def _recall(self, apply, find):
        """What applying the kept matrix gives, if it is young enough; else what is found."""
        kept = None if self.matrix is None else apply()
        self.age += 1
        if kept is not None and self.age & (self.age - 1):  # not a power of two
            return kept
        found = find()
        if kept is None or norm(kept - found) > self.stale * norm(found):
            self.age = 0
        return found

    def _learn(self, matvec, like):
        """The rows of an operator, whose inverse is kept if the map contracts."""
        rows = matvec(torch.eye(like.numel(), dtype=like.dtype, device=like.device))
        finite = bool(torch.isfinite(rows).all())
        contracts = finite and float(torch.linalg.eigvals(rows).real.min()) > 0
        self.inverse = torch.linalg.inv(rows) if contracts else None
        return rows
