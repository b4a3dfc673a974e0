"""The derivative of a map at a point: for Newton's method, and for gradients of fixed points."""

import math
from collections.abc import Callable, Iterable
from typing import Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from skgmmot.numerics.fixed_point import Point
from skgmmot.numerics.krylov import Products, dense, gmres
from skgmmot.numerics.threads import single_threaded_torch

#: Up to this many numbers, a derivative from autograd is small.
SMALL = 40
Map = Callable[[Point], Point]


class Linearisation(Protocol):
    """A map ``F`` and its derivative at a point, in coordinates of its own."""

    theta: Point
    """The point, a constant."""
    residual: Tensor
    """``F(theta) - theta``, as a vector ``(m,)``."""
    small: bool
    """Whether all products at once, a matrix, cost less than those of a Krylov space in turn."""
    objective: float = -math.inf
    """The objective at the point, where it is known."""

    inverse: Callable[[Tensor], Tensor] | None = None
    """An approximate inverse of ``I - dF/dtheta`` ``(m,) -> (m,)``, where one is known."""

    def product(self, u: Tensor) -> Tensor:
        """``dF/dtheta^T u`` for one cotangent ``(m,)`` or several ``(..., m)``."""

    def matrix(self) -> Tensor:
        """``dF/dtheta (m, m)``: its rows are the products of unit vectors."""
        return self.product(torch.eye(len(self.residual)).to(self.residual))

    def encode(self, u: Point) -> Tensor:
        """A cotangent as a vector."""

    def decode(self, vector: Tensor) -> Point:
        """A vector as a cotangent."""

    def retracted(self, vector: Tensor) -> Point:
        """The point that a vector of coordinates leads to."""

    def change_to(self, theta: Point) -> Tensor:
        """The coordinates of the change that leads to a point ``(m,)``."""

    @property
    def against(self) -> Tensor:
        """The part of the residual that is not the gradient of an objective ``(m,)``."""
        return torch.zeros_like(self.residual)

    @single_threaded_torch()
    def solve(self, b: Tensor, tol: float) -> tuple[Tensor, Products]:
        """Solve ``(I - dF/dtheta^T) x = b``, and return the products that it took."""
        products = self.products()
        if self.inverse is not None:
            x = self.inverse(gmres(lambda v: products(self.inverse(v)), b, tol=tol))
            if products.residual(x, b) <= 2 * tol:  # else the inverse is of a singular matrix
                return x, products
            products = self.products()
        return (dense if self.small else gmres)(products, b, tol=tol), products

    def products(self) -> Products:
        """``I - dF/dtheta^T``, as an operator that remembers."""
        return Products(lambda u: u - self.product(u), small=self.small)


class MovableLinearisation(Linearisation, Protocol):
    """A `Linearisation` of a map that depends on data, which may be moved."""

    def natural(self, v: Tensor) -> Tensor:
        """The cotangent to hand to one step, for that of the fixed point ``(..., m)``."""

    def movement(self, v: Point, u: Tensor) -> Tensor:
        """Compute minus the movement of the data from a cotangent of the fixed point."""


class AutogradLinearisation(Linearisation):
    """A map and its derivative at a point, which autograd finds.

    Parameters
    ----------
    F : callable
        The map.
    theta : tuple of Tensor
        The point. Its entries, one after another, are the coordinates.
    """

    def __init__(self, F: Map, theta: Point):
        self.theta = detached(theta)
        with torch.enable_grad():
            self._inputs = rebuild(theta, [t.clone().requires_grad_() for t in self.theta])
            self._outputs = F(self._inputs)
        self.residual = flatten(detached(self._outputs)) - flatten(self.theta)
        self.small = self.residual.numel() <= SMALL

    def product(self, u: Tensor) -> Tensor:
        """``dF/dtheta^T u`` for one cotangent ``(m,)`` or several ``(..., m)``."""
        if u.ndim > 1:
            return torch.stack([self.product(row) for row in u])
        # A leaf that F leaves constant has no derivative, and no part in the product.
        moving = [t.requires_grad for t in self._outputs]
        pairs = zip(self._outputs, self.decode(u), strict=True)
        outputs, cotangents = zip(
            *(p for p, moves in zip(pairs, moving, strict=True) if moves), strict=True
        )
        return self.encode(
            torch.autograd.grad(
                outputs, self._inputs, cotangents, retain_graph=True, materialize_grads=True
            )
        )

    def encode(self, u: Point) -> Tensor:
        """A cotangent as a vector."""
        return flatten(u)

    def decode(self, vector: Tensor) -> Point:
        """A vector as a cotangent."""
        return unflatten(vector, self.theta)

    def retracted(self, vector: Tensor) -> Point:
        """The point plus a vector of coordinates."""
        return unflatten(flatten(self.theta) + vector, self.theta)

    def change_to(self, theta: Point) -> Tensor:
        """The difference of two points ``(m,)``."""
        return flatten(theta) - flatten(self.theta)


def spectral_radius(linear: Linearisation, *, n_products: int = 30) -> float:
    """Estimate the largest modulus of an eigenvalue of ``dF/dtheta``.

    The rate at which the iteration converges, and the relative error of ``'one_step'`` in the
    direction in which it converges slowest.

    Parameters
    ----------
    linear : Linearisation
        The map at its fixed point.
    n_products : int, default=30
        Dimension of the Krylov space of the estimate.

    Returns
    -------
    float
        The largest Ritz value, never larger than the truth for a symmetric derivative.
    """
    generator = torch.Generator().manual_seed(0)
    size = linear.residual.numel()
    b = torch.randn(size, generator=generator, dtype=torch.float64).to(linear.residual)
    products = linear.products()
    gmres(products, b, tol=0.0, max_iter=n_products)
    return float((1 - products.ritz_values()).abs().max())


def detached(theta: Point) -> Point:
    """Return the same point as a constant.

    Parameters
    ----------
    theta : tuple of Tensor
        A point.

    Returns
    -------
    tuple of Tensor
        Its leaves without their graph.
    """
    return rebuild(theta, [t.detach() for t in theta])


def rebuild(like: Point, leaves: Iterable[Tensor]) -> Point:
    """Return a point with the structure of another and leaves of its own.

    Parameters
    ----------
    like : tuple of Tensor
        A point.
    leaves : iterable of Tensor
        As many leaves.

    Returns
    -------
    tuple of Tensor
        The point with these leaves.
    """
    return tree_unflatten(leaves, tree_flatten(like)[1])


def flatten(theta: Point) -> Tensor:
    """Concatenate the leaves of a point.

    Parameters
    ----------
    theta : tuple of Tensor
        A point.

    Returns
    -------
    Tensor of shape (m,)
        All its numbers.
    """
    return torch.cat([t.reshape(-1) for t in theta])


def unflatten(flat: Tensor, like: Point) -> Point:
    """Cut vectors into the shapes of a point.

    Parameters
    ----------
    flat : Tensor of shape (..., m)
        One vector, as of `flatten`, or several.
    like : tuple of Tensor
        A point.

    Returns
    -------
    tuple of Tensor
        Leaves of its shapes, with the axes of several vectors before their own.
    """
    parts = flat.split([t.numel() for t in like], dim=-1)
    shapes = [(*flat.shape[:-1], *t.shape) for t in like]
    return rebuild(like, [p.reshape(s) for p, s in zip(parts, shapes, strict=True)])
