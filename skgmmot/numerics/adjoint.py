"""Derivatives of a fixed point ``theta = F(theta)``.

Nothing here knows of Gaussians. Each is a function ``(F, theta0, solution) -> theta`` that puts the
end of the loop on the autograd graph; see `skgmmot.numerics.gradients` for their choice by name.

- `automatic` runs all iterations again on the graph;
- `one_step` puts the last iteration on it, and ignores how the ones before depend on the data;
- `implicit` differentiates the equation ``theta = F(theta)``: exact at a fixed point, at the
  memory of one step;
- `natural` solves that equation for the data: a movement of them that moves the fixed point as it
  would go by itself. It is not a gradient, but a descent direction.

``F`` is any differentiable callable. What `implicit` needs of its derivative in ``theta`` is a
`Linearisation`: autograd gives one of any map, and a map may bring one that is faster.
"""

import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from skgmmot.numerics.fixed_point import Point, Solution
from skgmmot.numerics.krylov import Products
from skgmmot.numerics.linalg import norm
from skgmmot.numerics.newton.linearisation import (
    AutogradLinearisation,
    Linearisation,
    Map,
    MovableLinearisation,
    detached,
    flatten,
    rebuild,
    unflatten,
)

Solver = Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]


class InexactGradientWarning(UserWarning):
    """An implicit gradient may be further off than its tolerance."""


class BackwardNotes:
    """What the last backward through the end of a loop leaves, to find the gradient's error from.

    Parameters
    ----------
    measure : callable, default=None
        ``measure(cotangent, multiplier)`` is the error of the gradient that backward got by handing
        the multiplier to one step, for the cotangent of the end. None finds no error.
    """

    def __init__(self, measure: Callable[[Point, Point], float] | None = None):
        self._measure, self._used, self._error = measure, None, None

    def use(self, cotangent: Point, multiplier: Point) -> None:
        """Record what backward got, and what it handed to one step."""
        self._used, self._error = (cotangent, multiplier), None

    @property
    def error(self) -> float:
        """Estimate of the gradient's relative error in the samples or weights, the larger one.

        It compares with the gradient at a better fixed point, for the same cotangent, and is found
        when it is first asked for. Infinity where the loss depends on what nothing determines;
        NaN before backward, if the samples were changed in place since, and in copies made before
        it was asked for.
        """
        if self._error is None and None not in (self._used, self._measure):
            self._error = self._measure(*self._used)
        return math.nan if self._error is None else self._error

    def __getstate__(self):
        """Copies keep the error if it is known, but no samples to find it from."""
        return {**vars(self), "_measure": None, "_used": None}


class LastStep(BackwardNotes):
    """Diagnostics of a gradient through the last step alone.

    Parameters
    ----------
    measure : callable, default=None
        As in `BackwardNotes`.
    """

    def __repr__(self):
        return "LastStep()"

    def noted(self, theta: Point) -> Point:
        """Return the end of the loop, from which backward takes notes."""
        return rebuild(theta, _Noted.apply(self, *theta))


class _Noted(torch.autograd.Function):
    """Tensors as they are, whose cotangents are noted."""

    @staticmethod
    def forward(ctx, notes, *leaves):
        ctx.notes = notes
        copies = tuple(t.clone() for t in leaves)
        needed = ctx.needs_input_grad[1:]
        ctx.mark_non_differentiable(*(t for t, on in zip(copies, needed, strict=True) if not on))
        return copies

    @staticmethod
    def backward(ctx, *cotangents):
        v = [u.detach() for u in cotangents]
        ctx.notes.use(v, v)
        return None, *cotangents


class Adjoint(BackwardNotes):
    """Diagnostics of an implicit gradient, which backward fills in; NaN before.

    Parameters
    ----------
    tol : float, default=inf
        Residual above which backward warns.
    measure : callable, default=None
        What ``error`` is found by: ``measure(cotangent, multiplier)``, of the end of the loop and
        of what was handed to one step. None finds none, as for ``implicit`` by itself.

    Attributes
    ----------
    n_products : int
        Products with the transposed derivative of one step, in the last backward.
    residual : float
        Residual of the adjoint equation, relative to its right-hand side.
    """

    def __init__(self, tol: float = math.inf, measure=None):
        super().__init__(measure)
        self.tol = tol
        self.n_products, self._residual, self._seen = 0, None, None

    def __repr__(self):
        return (
            f"Adjoint(n_products={self.n_products}, residual={self.residual:.1e}, "
            f"spectral_radius={self.spectral_radius:.4g}, one_step_error={self.one_step_error:.2g})"
        )

    def note(self, products: Products, u: Tensor, v: Tensor) -> None:
        """Record the solution ``u`` of ``(I - dF/dtheta^T) u = v``."""
        self.n_products, self._residual = len(products), None
        self._seen = products, u, v
        if self.tol < math.inf and not self.residual <= self.tol:
            warnings.warn(
                f"The adjoint equation was solved to a relative residual of {self.residual:.1e} > "
                f"gradient_tol={self.tol:.1e}. Take another solver or a larger gradient_tol; where "
                "nothing determines a parameter, as the weights of two components that coincide, "
                "take fewer components, or a loss that does not depend on it.",
                InexactGradientWarning,
                stacklevel=2,
            )

    @property
    def residual(self) -> float:
        """Residual of the adjoint equation, relative to its right-hand side."""
        if self._residual is None and self._seen is not None:
            products, u, v = self._seen
            self._residual = products.residual(u, v)
        return math.nan if self._residual is None else self._residual

    @property
    def spectral_radius(self) -> float:
        """Largest modulus of an eigenvalue of ``dF/dtheta``, estimated from the products."""
        values = None if self._seen is None else self._seen[0].ritz_values()
        if values is None or not len(values):
            return math.nan
        return float((1 - values).abs().max())

    @property
    def one_step_error(self) -> float:
        """Estimate of the relative error that ``'one_step'`` would have made."""
        if self._seen is None:
            return math.nan
        _, u, v = self._seen
        size = norm(u)
        return norm(u - v) / size if size else 0.0


def automatic(F: Map, theta0: Point, solution: Solution) -> Point:
    """Unroll: run the iterations of ``solution`` again from ``theta0``, on the graph.

    Memory grows with the number of iterations.
    """
    theta = theta0
    for _ in range(solution.n_iter):
        theta = F(theta)
    return theta


def one_step(F: Map, theta0: Point, solution: Solution) -> Point:
    """Put only the last iteration on the graph; biased by the contraction rate of ``F``."""
    return F(detached(solution.previous)) if solution.n_iter else theta0


def implicit(
    F: Map,
    theta0: Point,
    solution: Solution,
    *,
    solve: Solver | None = None,
    tol: float = 1e-10,
    linearise: Callable[[Point], Linearisation] | None = None,
    adjoint: Adjoint | None = None,
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
        Ignored: the fixed point does not depend on where the loop started.
    solution : Solution
        The end of the loop.
    solve : callable, default=None
        ``solve(matvec, b)``, the linear solver, for example `neumann`. None makes the matrix where
        that is cheap, and is GMRES elsewhere.
    tol : float, default=1e-10
        Residual to which GMRES then solves, relative to the cotangent.
    linearise : callable, default=None
        ``linearise(theta)`` is the ``Linearisation`` of ``F`` at a point; None is autograd's.
    adjoint : Adjoint, default=None
        Where backward takes notes.

    Returns
    -------
    tuple of Tensor
        The fixed point, on the graph of whatever ``F`` closes over.

    Raises
    ------
    RuntimeError
        In backward, if it is asked to build a graph: the gradient is differentiable once.

    References
    ----------
    .. [1] Boite, Tanguy, Delon, Desolneux and Flamary 2025, implicit differentiation of EM.
    """
    constant = detached(solution.value)
    linear = AutogradLinearisation(F, constant) if linearise is None else linearise(constant)
    adjoint = Adjoint() if adjoint is None else adjoint
    flat = flatten(F(constant))

    def solved(v: Tensor | None) -> Tensor | None:
        if v is None or not v.any():
            return v
        _check_once("implicit gradients")
        cotangent = unflatten(v, constant)
        right = linear.encode(cotangent)
        if solve is None:
            u, products = linear.solve(right, tol)
        else:
            products = linear.products()
            u = solve(products, right)
        adjoint.note(products, u, right)
        multiplier = linear.decode(u)
        adjoint.use(cotangent, multiplier)
        return flatten(multiplier)

    if flat.requires_grad:
        flat.register_hook(solved)
    # The value is the fixed point itself; only the derivative is that of the further step.
    flat = flatten(constant) + (flat - flat.detach())
    return unflatten(flat, constant)


def natural(
    F: Map,
    theta0: Point,
    solution: Solution,
    *,
    linearise: Callable[[Point], MovableLinearisation],
    data: Tensor,
    move: Callable[[MovableLinearisation, Point], Tensor] | None = None,
    asked: "Asked | None" = None,
) -> Point:
    """Have backward return a movement of the data with which the fixed point descends its loss.

    It is used like a gradient but is none: to first order it moves the fixed point by a given step,
    the descent of the loss as a function of the fixed point, however slowly ``F`` converges. If the
    data can move the fixed point that way at all, the loss decreases along it.

    Parameters
    ----------
    F : callable
        Ignored: what is to be known of it, ``linearise`` knows.
    theta0 : tuple of Tensor
        Ignored, as by `implicit`.
    solution : Solution
        The end of the loop, at a fixed point.
    linearise : callable
        ``linearise(theta)`` is the `MovableLinearisation` of ``F`` at a point.
    data : Tensor
        What moves.
    move : callable, default=None
        ``move(linear, v)`` is the movement for a cotangent; None is what ``linear`` says.
    asked : Asked, default=None
        Where backward takes notes.

    Returns
    -------
    tuple of Tensor
        The fixed point, on the graph of ``data``.

    Raises
    ------
    RuntimeError
        In backward, if it is asked to build a graph.
    """
    constant = detached(solution.value)
    asked = Asked() if asked is None else asked
    moving = _Movement.apply(linearise(constant), move or _move, asked, data, *constant)
    return rebuild(constant, moving)


class Asked:
    """The movement that backward through `natural` asked for, and from what; None before.

    Attributes
    ----------
    cotangent : tuple of Tensor
        The cotangent of the fixed point.
    movement : Tensor
        What it returned for the data, a copy.
    """

    def __init__(self):
        self.cotangent, self.movement = None, None

    def note(self, cotangent: Point, movement: Tensor) -> None:
        """Take note of the last one."""
        self.cotangent, self.movement = cotangent, movement.clone()


class _Movement(torch.autograd.Function):
    """A fixed point as it is, and the movement of the data that its cotangent calls for."""

    @staticmethod
    def forward(ctx, linear, move, asked, data, *theta):
        ctx.linear, ctx.move, ctx.asked = linear, move, asked
        return tuple(t.clone() for t in theta)

    @staticmethod
    def backward(ctx, *cotangents):
        _check_once("natural steps")
        v = rebuild(ctx.linear.theta, cotangents)
        movement = ctx.move(ctx.linear, v)
        ctx.asked.note(v, movement)
        return None, None, None, movement, *(None for _ in cotangents)


def _check_once(what: str) -> None:
    """Refuse to build a graph in backward."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            f"{what} must be differentiated once, got create_graph=True. Use the strategy "
            "'automatic' for derivatives of derivatives."
        )


def _move(linear, v):
    return linear.movement(v, linear.natural(linear.encode(v)))
