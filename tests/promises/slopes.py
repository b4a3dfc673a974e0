"""Derivatives along directions, by differences with an estimate of their error."""

import itertools

import numpy as np
import torch
from hypothesis import assume

#: Ratio of successive steps and the first, of inputs of size one; their number from both sides, and
#: from one, where the error is a series in all powers.
RATIO, FIRST, N_CENTRAL, N_ONE_SIDED = 2.0, 0.02, 8, 14
#: A step at which smooth functions are linear, and rounding is a share of 1e-8.
SHORT = 1e-7


def slope(f, *, one_sided: bool = False) -> tuple[float, float]:
    """The derivative of a function of one variable at zero, and its error, by extrapolation.

    Ridders' method: differences at smaller and smaller steps, from both sides or from above, whose
    error is a series in ``h^2`` or ``h``. The error is the change from the last extrapolations.
    """
    steps = FIRST / RATIO ** np.arange(N_ONE_SIDED if one_sided else N_CENTRAL)
    if one_sided:
        start = f(0.0)
        row = [(f(h) - start) / h for h in steps]
    else:
        row = [(f(h) - f(-h)) / (2 * h) for h in steps]
    power, best, error = (RATIO if one_sided else RATIO**2), row[0], np.inf
    factor = power
    while len(row) > 1:
        better = [(factor * b - a) / (factor - 1) for a, b in itertools.pairwise(row)]
        for new, a, b in zip(better, row, row[1:], strict=False):
            if (change := max(abs(new - a), abs(new - b))) < error:
                best, error = new, change
        row, factor = better, factor * power
    return float(best), float(error)


def assert_slopes(function, inputs, directions, *, tol, one_sided=False, kinks=False):
    """Autograd's derivatives along directions are those of differences.

    Parameters
    ----------
    function : callable
        Tensors to a tensor of one or more numbers.
    inputs, directions : sequence of Tensor
        Where, and which way.
    tol : float
        Error that is allowed, relative to ``sum |gradient * direction|`` or, if less, to one.
        Examples where differences do not tell the derivative as well are rejected.
    one_sided : bool, default=False
        Whether the function is defined, or smooth, on one side only.
    kinks : bool, default=False
        Whether it has kinks, of which one may be between the steps and the point: an extrapolation
        that a much shorter step contradicts says nothing.
    """
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    values = function(*leaves)
    mask = torch.arange(1, values.numel() + 1, dtype=torch.float64).cos().reshape(values.shape)
    grads = torch.autograd.grad((values * mask).sum(), leaves, allow_unused=True)
    assert all(g is None or torch.isfinite(g).all() for g in grads), grads
    parts = [(g * u).sum() for g, u in zip(grads, directions, strict=True) if g is not None]
    size = sum(
        float((g * u).abs().sum()) for g, u in zip(grads, directions, strict=True) if g is not None
    )

    def along(t):
        moved = [x + t * u for x, u in zip(inputs, directions, strict=True)]
        with torch.no_grad():
            return float((function(*moved).detach() * mask).sum())

    expected, error = slope(along, one_sided=one_sided)
    allowed = tol * max(size, 1.0)
    if kinks:
        error = max(error, abs((along(SHORT) - along(-SHORT)) / (2 * SHORT) - expected))
    assume(error <= allowed)
    found = float(sum(parts))
    assert abs(found - expected) <= allowed + error, (found, expected, error, allowed)
