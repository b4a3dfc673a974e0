"""Fixed points ``theta = F(theta)``: the one loop, its acceleration, and its derivatives.

Nothing here knows of Gaussians. A point ``theta`` is a tuple of tensors. A *step* maps
``theta`` to ``(F(theta), objective)``. A *gradient strategy* is a function
``(F, theta0, solution) -> theta`` that puts the end of the loop on the autograd graph:

- `automatic` runs all iterations again on the graph;
- `one_step` puts the last iteration on it, and forgets how the ones before depend on the data;
- `implicit` differentiates the equation ``theta = F(theta)``: exact at a fixed point, at the
  memory of one step.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Point = tuple[Tensor, ...]

#: A proposal may lower the objective by this much, relatively: it is what rounding does.
ROUNDING = 1e-13


class Solution(NamedTuple):
    """Where a loop ended, and how."""

    value: Point
    """The last point."""
    previous: Point
    """The point before it: ``value = F(previous)``; the start if there was no step."""
    objective: float
    """The objective at `previous`, ``-inf`` before the first step."""
    objectives: tuple[float, ...]
    """The objective at every step, dropped proposals left out."""
    n_iter: int
    """Number of steps, dropped proposals included."""
    converged: bool
    """Whether the last change of the objective was below the tolerance."""
    change: float
    """The last change of the objective."""


def iterate(
    step: Callable[[Point], tuple[Point, float]],
    theta0: Point,
    *,
    tol: float,
    max_iter: int,
    objective: float = -math.inf,
    accelerator: "Squarem | None" = None,
    callback: Callable[[Solution], None] | None = None,
) -> Solution:
    """Iterate ``theta = F(theta)`` until the objective changes by less than ``tol``.

    Parameters
    ----------
    step : callable
        ``theta -> (F(theta), objective at theta)``; ``F`` never lowers the objective.
    theta0 : tuple of Tensor
        Where to start.
    tol : float
        Bound on the absolute change of the objective by one plain step, strict: 0 never stops.
    max_iter : int
        Largest number of steps; 0 returns the start.
    objective : float, default=-inf
        Objective that the first change is measured against.
    accelerator : Squarem, default=None
        Proposes points further along the way. A proposal that lowers the objective is dropped,
        at the price of its step, and the plain iteration goes on; None proposes nothing.
    callback : callable, default=None
        Called with the `Solution` so far after each step that counts.

    Returns
    -------
    Solution
        Not having converged is data in it, not an error.
    """
    solution = Solution(theta0, theta0, objective, (), 0, False, math.inf)
    objectives: list[float] = []
    proposal = None
    for n_iter in range(1, max_iter + 1):
        point = solution.value if proposal is None else proposal
        try:
            theta, value = step(point)
        except ValueError:
            if proposal is None:
                raise
            value = -math.inf  # a proposal outside the domain of F
        if proposal is not None and not value >= solution.objective - ROUNDING * abs(value):
            accelerator.reject()
            proposal, solution = None, solution._replace(n_iter=n_iter)
            continue
        objectives.append(value)
        change = value - solution.objective
        converged = proposal is None and abs(change) < tol
        solution = Solution(theta, point, value, (), n_iter, converged, change)
        if callback is not None:
            callback(solution)
        if converged:
            break
        if accelerator is not None:
            proposal = accelerator.propose(point, theta, proposal is not None)
    return solution._replace(objectives=tuple(objectives))


class Squarem:
    """Squared extrapolation: two plain steps tell where the third may jump.

    From ``x0, x1 = F(x0), x2 = F(x1)`` in free coordinates, with ``r = x1 - x0`` and
    ``v = (x2 - x1) - r``, the proposal is ``x0 + 2 a r + a^2 v`` of length ``a = |r| / |v|``. A
    bound on ``a`` grows fourfold when it was reached and the proposal kept, and falls fourfold when
    one was dropped. The step after a proposal is the first plain step of the next.

    Parameters
    ----------
    to_free : callable
        ``theta -> Tensor (m,)``: coordinates in which every vector is a point.
    from_free : callable
        Its inverse.

    References
    ----------
    .. [1] Varadhan and Roland 2008, scheme S3.
    """

    def __init__(self, to_free, from_free):
        self.to_free, self.from_free = to_free, from_free
        self.visited: list[Tensor] = []
        self.length, self.longest = 0.0, 4.0

    def propose(self, point: Point, image: Point, was_proposed: bool) -> Point | None:
        """After the step from ``point`` to ``image``: a point to try next, or None."""
        if was_proposed:
            self.visited = []
            if self.length == self.longest:
                self.longest *= 4
        elif not self.visited:
            self.visited = [self.to_free(point)]
        self.visited.append(self.to_free(image))
        if len(self.visited) < 3:
            return None
        x0, x1, x2 = self.visited
        self.visited = []
        r, v = x1 - x0, x2 - 2 * x1 + x0
        a = float(torch.linalg.vector_norm(r) / torch.linalg.vector_norm(v))
        self.length = min(a, self.longest)
        if not self.length > 1:  # also where there was no change at all: 0 / 0
            return None
        return self.from_free(x0 + 2 * self.length * r + self.length**2 * v)

    def reject(self) -> None:
        """Note that the last proposal was dropped."""
        self.visited = []
        self.longest = max(2.0, self.length / 4)


# --- gradient strategies -----------------------------------------------------------------------


def automatic(F: Callable[[Point], Point], theta0: Point, solution: Solution) -> Point:
    """Unroll: run the iterations of ``solution`` again from ``theta0``, on the graph.

    Memory grows with the number of iterations.
    """
    theta = theta0
    for _ in range(solution.n_iter):
        theta = F(theta)
    return theta


def one_step(F: Callable[[Point], Point], theta0: Point, solution: Solution) -> Point:
    """Put only the last iteration on the graph; biased by the contraction rate of ``F``."""
    return F(_detached(solution.previous)) if solution.n_iter else theta0


def implicit(
    F: Callable[[Point], Point],
    theta0: Point,
    solution: Solution,
    *,
    solve: Callable[[Callable[[Tensor], Tensor], Tensor], Tensor] | None = None,
    pullback: Callable[[Point], Callable[[Point], Point]] | None = None,
) -> Point:
    """Differentiate ``theta = F(theta)`` itself, by the implicit function theorem.

    The invariant is ``F(theta) == theta``. With ``v`` the cotangent of the fixed point, backward
    solves ``(I - dF/dtheta^T) u = v``, each product one vector-Jacobian product of one step, and
    hands ``u`` to that step. The error is of the order of the residual ``F(theta) - theta``.

    Parameters
    ----------
    F : callable
        One step, differentiable.
    theta0 : tuple of Tensor
        Returned if there was no iteration.
    solution : Solution
        The end of the loop.
    solve : callable, default=None
        ``solve(matvec, b)``, the linear solver; None is `gmres`.
    pullback : callable, default=None
        ``pullback(theta)`` is the map ``u -> dF/dtheta^T u``; None takes it from autograd.

    Returns
    -------
    tuple of Tensor
        The fixed point, on the graph of whatever ``F`` closes over.

    References
    ----------
    .. [1] Boite, Tanguy, Delon, Desolneux and Flamary 2025, implicit differentiation of EM.
    """
    if not solution.n_iter:
        return theta0
    solve = gmres if solve is None else solve
    constant = _detached(solution.value)
    flat = _flatten(F(constant))
    pull = (functools.partial(traced, F) if pullback is None else pullback)(constant)

    def adjoint(v: Tensor | None) -> Tensor | None:
        def matvec(u: Tensor) -> Tensor:
            # u -> u - dF/dtheta^T u
            return u - _flatten(pull(_rebuild(constant, _unflatten(u, constant))))

        return None if v is None else solve(matvec, v)

    if flat.requires_grad:
        flat.register_hook(adjoint)
    # The value is the fixed point itself; only the derivative is that of the further step.
    flat = _flatten(constant) + (flat - flat.detach())
    return _rebuild(constant, _unflatten(flat, constant))


def traced(F: Callable[[Point], Point], theta: Point) -> Callable[[Point], Point]:
    """Put ``F(theta)`` on autograd's tape, once, and return the map ``u -> dF/dtheta^T u``.

    Parameters
    ----------
    F : callable
        A map between tuples of tensors.
    theta : tuple of Tensor
        Where.

    Returns
    -------
    callable
        From cotangents of ``F(theta)`` to those of ``theta``.
    """
    with torch.enable_grad():
        inputs = _rebuild(theta, [t.detach().clone().requires_grad_() for t in theta])
        outputs = F(inputs)
    # A leaf that F leaves constant has no derivative, and no part in the products.
    moving = [i for i, t in enumerate(outputs) if t.requires_grad]

    def pull(u: Point) -> Point:
        found = torch.autograd.grad(
            [outputs[i] for i in moving],
            inputs,
            [u[i] for i in moving],
            retain_graph=True,
            materialize_grads=True,
        )
        return _rebuild(theta, found)

    return pull


#: Gradient strategies by name.
GRADIENTS = {"implicit": implicit, "automatic": automatic, "one_step": one_step}


# --- adjoint solvers ---------------------------------------------------------------------------


def gmres(
    matvec: Callable[[Tensor], Tensor], b: Tensor, *, tol: float = 1e-10, max_iter: int = 200
) -> Tensor:
    """Solve ``matvec(x) = b`` by GMRES without restart, on the device of ``b``.

    Parameters
    ----------
    matvec : callable
        The linear operator, ``(m,) -> (m,)``.
    b : Tensor of shape (m,)
        The right-hand side.
    tol : float, default=1e-10
        Bound on the residual relative to ``b``.
    max_iter : int, default=200
        Largest number of products.

    Returns
    -------
    Tensor of shape (m,)
        The solution with the smallest residual in the Krylov space reached.
    """
    norm = torch.linalg.vector_norm(b)
    if norm == 0:
        return torch.zeros_like(b)
    size = min(max_iter, b.numel())
    basis = [b / norm]
    hessenberg = torch.zeros(size + 1, size, dtype=torch.float64)
    rhs = torch.zeros(size + 1, dtype=torch.float64)
    rhs[0] = norm
    for j in range(size):
        w = matvec(basis[j])
        stacked = torch.stack(basis)
        for _ in range(2):  # classical Gram-Schmidt, twice, is as orthogonal as modified
            h = stacked @ w
            w = w - h @ stacked
            hessenberg[: j + 1, j] += h.to(hessenberg)
        length = torch.linalg.vector_norm(w)
        hessenberg[j + 1, j] = length
        H, r = hessenberg[: j + 2, : j + 1], rhs[: j + 2]
        y = torch.linalg.lstsq(H, r.unsqueeze(1)).solution.squeeze(1)
        residual = torch.linalg.vector_norm(H @ y - r) / rhs[0]
        if residual <= tol or length <= 1e-14:
            break
        basis.append(w / length)
    return y.to(b) @ torch.stack(basis[: len(y)])


def _detached(theta: Point) -> Point:
    """The same point as a constant."""
    return _rebuild(theta, [t.detach() for t in theta])


def _rebuild(like: Point, leaves: list[Tensor]) -> Point:
    """Put leaves into the kind of tuple that ``like`` is."""
    return type(like)(*leaves) if hasattr(like, "_fields") else tuple(leaves)


def _flatten(theta) -> Tensor:
    """Concatenate the leaves of a point."""
    return torch.cat([t.reshape(-1) for t in theta])


def _unflatten(flat: Tensor, like: Point) -> list[Tensor]:
    """Cut a vector into the shapes of a point."""
    parts = flat.split([t.numel() for t in like])
    return [part.view(t.shape) for part, t in zip(parts, like, strict=True)]
