"""Fixed points that move a little at a time, as in a flow: the derivative kept between them.

Nothing here knows of Gaussians.
"""

import torch
from torch import Tensor

from skgmmot.functional.adjoint import Linearisation
from skgmmot.functional.fixed_point import Point

#: A step from further away than so many tolerances is left to iterations.
REACH = 10
#: Relative change of a solution that calls for a new inverse.
STALE = 0.05


class Carried:
    """The inverse of ``I - dF/dtheta^T``, kept from one fixed point to the next.

    It turns a residual into a step to the fixed point (Newton's method with a kept derivative) and
    a cotangent into the solution of the adjoint equation. It is found anew at its first, second,
    fourth ... use; where that changes the solution, the count starts again.

    Attributes
    ----------
    inverse : Tensor of shape (m, m)
        The inverse; None before the first use, and where the map was seen not to contract.
    age : int
        Uses since it last changed.
    ahead : tuple of Tensor
        Where its owner expects the next fixed point; None if it does not know.
    """

    def __init__(self):
        self.inverse, self.age, self.ahead = None, 0, None

    def renew(self) -> None:
        """Let the next use find the inverse anew."""
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
        linear = None if self.inverse is None else linearise(theta)
        if linear is None or not linear.small:
            return None
        delta = linear.residual @ self.inverse
        if tol < _length(delta) <= REACH * tol:
            linear = linearise(linear.moved(delta))
            delta = linear.residual @ self.inverse
        return (linear, delta) if linear.small and _length(delta) <= tol else None

    def solve(self, matvec, b: Tensor) -> Tensor:
        """Solve ``matvec(x) = b``, as a solver of the adjoint equation."""
        kept = None if self.inverse is None else b @ self.inverse
        self.age += 1
        if kept is not None and self.age & (self.age - 1):  # not a power of two
            return kept
        rows = matvec(torch.eye(b.numel(), dtype=b.dtype, device=b.device))
        x = torch.linalg.solve(rows.mT, b)
        contracts = float(torch.linalg.eigvals(rows).real.min()) > 0
        self.inverse = torch.linalg.inv(rows) if contracts else None
        if kept is None or _length(kept - x) > STALE * _length(x):
            self.age = 0
        return x


def _length(vector: Tensor) -> float:
    return float(torch.linalg.vector_norm(vector))
