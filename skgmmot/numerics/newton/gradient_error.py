"""How far off the gradient through an iteration's end is, from a better fixed point."""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from skgmmot.numerics.fixed_point import Point
from skgmmot.numerics.linalg import norm
from skgmmot.numerics.newton.certify import CAUTION, nearest, remaining

#: Residual of the adjoint equation at the fixed point above which it has no solution, as where
#: nothing determines a parameter that the loss depends on.
UNSOLVABLE = 1e-6
#: Relative residual that its solution is asked for.
SOLVED = 1e-12
#: What was measured is multiplied by this: the better fixed point is not exact either.
MARGIN = 1.1
#: Passes that may be spent.
MAX_PASSES = 1000


class GradientError:
    """Compares a gradient through the end of a loop with that through its fixed point.

    Parameters
    ----------
    step : Step
        The iteration.
    at : tuple of Tensor
        The constant that the step which is differentiated starts from.
    end : tuple of Tensor
        The constant near a fixed point at which the loop ended.
    """

    def __init__(self, step, at: Point, end: Point):
        self._step, self._leaves = step.on_leaves()
        self._versions = [t._version for t in self._leaves]
        self._at, self._end = at, end

    def __call__(self, cotangent: Point, multiplier: Point) -> float:
        """Return the relative error of the gradient that a multiplier of the step gave.

        Parameters
        ----------
        cotangent : tuple of Tensor
            That of the end.
        multiplier : tuple of Tensor
            What was handed to the step: for one step the cotangent, and else the solution of the
            adjoint equation.

        Returns
        -------
        float
            An estimate of the largest error of the gradients in samples and in weights, relative to
            each; infinity if the fixed point does not determine them, NaN if there are none or the
            samples were changed since.
        """
        if not self._leaves or self._versions != [t._version for t in self._leaves]:
            return math.nan
        step = self._step
        at, end = (_rebuilt(theta, [t.detach() for t in theta]) for theta in (self._at, self._end))
        cotangent, multiplier = _rebuilt(end, cotangent), _rebuilt(end, multiplier)
        start = step.linearise(end)
        found, _ = nearest(step.linearise, start, advance=step.advance, max_passes=MAX_PASSES)
        there = step.linearise(found.theta)
        right = there.encode(cotangent)
        solution, products = there.solve(right, SOLVED)
        residual = products.residual(solution, right)
        if not residual <= UNSOLVABLE:
            return math.inf
        used = self._gradient(at, multiplier)
        better = self._gradient(found.theta, there.decode(solution))
        change, size = norm(start.change_to(found.theta)), norm(right)
        off = max(map(_relative, used, better))
        # what is left is to the way so far as the errors are to one another
        growth = max(norm(solution) / size if size else 1.0, off / change if change else 1.0)
        left, _ = remaining(there, found)
        rounding = max(torch.finfo(t.dtype).eps for t in self._leaves)
        return MARGIN * off + growth * (left + CAUTION * residual) + rounding

    def _gradient(self, theta: Point, multiplier: Point) -> Sequence[Tensor]:
        """The multiplier pulled back through one step."""
        with torch.enable_grad():
            pairs = [
                (t, u.to(t.dtype))
                for t, u in zip(self._step(theta), multiplier, strict=True)
                if u is not None and t.requires_grad
            ]
        outputs, cotangents = zip(*pairs, strict=True)
        return torch.autograd.grad(outputs, self._leaves, cotangents, materialize_grads=True)


def _rebuilt(like: Point, leaves: Iterable[Tensor]) -> Point:
    """A point with the structure of another."""
    return tree_unflatten(list(leaves), tree_flatten(like)[1])


def _relative(found: Tensor, expected: Tensor) -> float:
    """The size of a difference, relative to what is right."""
    error = norm(found - expected)
    return error / norm(expected) if expected.any() else (math.inf if error else 0.0)
