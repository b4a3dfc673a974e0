"""Exponentials without underflow.

Processors compute exponentials whose results are subnormal numbers or zero up to ten times slower
than others, and products with subnormal numbers, too. Where samples are a few dozen deviations from
most components, nearly all densities are such numbers, and none of them changes a sum.
"""

import torch
from torch import Tensor

#: Differences to a largest logarithm below the first, in float64 and float32, count as minus
#: infinity: exponentials above it stay normal numbers when they are multiplied by small weights.
LEAST_LOGARITHM = {torch.float64: -600.0, torch.float32: -70.0}
#: Exponentials up to these are zero.
LEAST = {torch.float64: 1e-260, torch.float32: 4e-31}
#: Below so many numbers torch's own function takes less time.
MIN_SIZE = 2**12


def exponentials(x: Tensor) -> Tensor:
    """Return the exponentials of differences to a largest number, zero where they are negligible.

    Parameters
    ----------
    x : Tensor
        Numbers whose largest are about zero, in float64 or float32. Constants are overwritten: new
        memory may take longer than the exponentials.

    Returns
    -------
    Tensor
        ``exp(x)``; zero where that is below 1e-260 in float64, or 4e-31 in float32.

    Notes
    -----
    Differentiable, with a derivative of zero where the result is.
    """
    least_logarithm, least = LEAST_LOGARITHM[x.dtype], LEAST[x.dtype]
    if x.requires_grad:
        return torch.nn.functional.threshold(x.clamp(min=least_logarithm).exp(), least, 0.0)
    return torch.nn.functional.threshold_(x.clamp_(min=least_logarithm).exp_(), least, 0.0)


def log_sum_exp(x: Tensor, dim: int) -> Tensor:
    """Return ``log sum exp(x)`` along a dimension.

    Parameters
    ----------
    x : Tensor
        Numbers, perhaps minus infinity, in float64 or float32.
    dim : int
        The dimension that is summed.

    Returns
    -------
    Tensor
        `torch.logsumexp`, to rounding, in at most its time.

    Notes
    -----
    Differentiable.
    """
    if x.numel() < MIN_SIZE:
        return torch.logsumexp(x, dim)
    top = x.detach().amax(dim, keepdim=True)
    shift = torch.where(top.isfinite(), top, 0.0)  # where all are infinite, so is the result
    sums = (x - shift).clamp_(min=LEAST_LOGARITHM[x.dtype]).exp_().sum(dim)
    return sums.log() + top.squeeze(dim)
