"""Fixed points ``theta = F(theta)``: the one loop, and three ways to differentiate its end.

Nothing here knows of Gaussians. A point ``theta`` is a tuple of tensors. A *step* maps
``theta`` to ``(F(theta), objective)``. A *gradient strategy* is a function
``(F, theta0, solution) -> theta`` that puts the end of the loop on the autograd graph:

- `automatic` runs all iterations again on the graph;
- `one_step` puts the last iteration on it, and forgets how the ones before depend on the data;
- `implicit` differentiates the equation ``theta = F(theta)``: exact at a fixed point, at the
  memory of one step.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Point = tuple[Tensor, ...]


class Solution(NamedTuple):
    """Where a loop ended, and how."""

    value: Point
    """The last point."""
    previous: Point
    """The point before it: ``value = F(previous)``; the start if there was no iteration."""
    objective: float
    """The objective at `previous`, ``-inf`` before the first iteration."""
    objectives: tuple[float, ...]
    """The objective of every iteration."""
    n_iter: int
    """Number of iterations."""
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
    callback: Callable[[Solution], None] | None = None,
) -> Solution:
    """Iterate ``theta = F(theta)`` until the objective changes by less than ``tol``.

    Parameters
    ----------
    step : callable
        ``theta -> (F(theta), objective at theta)``.
    theta0 : tuple of Tensor
        Where to start.
    tol : float
        Bound on the absolute change of the objective, strict: 0 never stops.
    max_iter : int
        Largest number of iterations; 0 returns the start.
    objective : float, default=-inf
        Objective that the first change is measured against.
    callback : callable, default=None
        Called with the `Solution` so far after each iteration.

    Returns
    -------
    Solution
        Not having converged is data in it, not an error.
    """
    solution = Solution(theta0, theta0, objective, (), 0, False, math.inf)
    objectives: list[float] = []
    for n_iter in range(1, max_iter + 1):
        theta, value = step(solution.value)
        objectives.append(value)
        change = value - solution.objective
        solution = Solution(theta, solution.value, value, (), n_iter, abs(change) < tol, change)
        if callback is not None:
            callback(solution)
        if solution.converged:
            break
    return solution._replace(objectives=tuple(objectives))


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
    with torch.enable_grad():
        inputs = _rebuild(constant, [t.clone().requires_grad_() for t in constant])
        outputs = F(inputs)

    # A leaf that F leaves constant has no derivative, and no part in the products.
    moving = [i for i, t in enumerate(outputs) if t.requires_grad]

    def adjoint(v: Tensor | None) -> Tensor | None:
        def matvec(u: Tensor) -> Tensor:
            # u -> u - dF/dtheta^T u
            cotangents = _unflatten(u, outputs)
            products = torch.autograd.grad(
                [outputs[i] for i in moving],
                inputs,
                [cotangents[i] for i in moving],
                retain_graph=True,
                materialize_grads=True,
            )
            return u - _flatten(products)

        return None if v is None else solve(matvec, v)

    if flat.requires_grad:
        flat.register_hook(adjoint)
    # The value is the fixed point itself; only the derivative is that of the further step.
    flat = _flatten(constant) + (flat - flat.detach())
    return _rebuild(constant, _unflatten(flat, constant))


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
