"""Sliced distances between weighted samples, by sorting them on each line."""

from typing import Literal, overload

import torch
from torch import Tensor

from skgmmot.transport.sliced.errors import rounding_of_costs
from skgmmot.transport.sliced.slices import SortedSamples, slice_samples


@overload
def sliced_wasserstein_of_samples(
    X: Tensor,
    Y: Tensor,
    theta: Tensor,
    *,
    p: float = ...,
    X_weight: Tensor | None = ...,
    Y_weight: Tensor | None = ...,
    return_error: Literal[False] = ...,
) -> Tensor: ...


@overload
def sliced_wasserstein_of_samples(
    X: Tensor,
    Y: Tensor,
    theta: Tensor,
    *,
    p: float = ...,
    X_weight: Tensor | None = ...,
    Y_weight: Tensor | None = ...,
    return_error: Literal[True],
) -> tuple[Tensor, Tensor]: ...


def sliced_wasserstein_of_samples(
    X: Tensor,
    Y: Tensor,
    theta: Tensor,
    *,
    p: float = 2.0,
    X_weight: Tensor | None = None,
    Y_weight: Tensor | None = None,
    return_error: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Return ``W_p^p`` between the projections of two sets of samples, for each direction.

    .. math:: W_p^p(\theta) = \int_0^1 |q_X(u) - q_Y(u)|^p \, \mathrm{d}u

    with the quantile functions of the projected samples, which are constant between levels.

    Parameters
    ----------
    X : Tensor of shape (n, d)
        Samples.
    Y : Tensor of shape (m, d)
        Other samples.
    theta : Tensor of shape (L, d)
        Directions, of unit length.
    p : float, default=2.0
        Exponent, at least 1.
    X_weight, Y_weight : Tensor of shape (n,) and (m,), default=None
        Non-negative weights of the samples, constants; None is equal ones.
    return_error : bool, default=False
        Whether to return the errors of the lines, too.

    Returns
    -------
    Tensor of shape (L,)
        ``W_p^p``, float64.
    Tensor of shape (L,)
        Only with ``return_error``: estimates of their errors, which are rounding.

    Notes
    -----
    Differentiable in both and in the directions. Costs ``O(L (n + m) (d + log(n + m)))`` and holds
    ``L (n + m)`` numbers.
    """
    if return_error:
        options = {"p": p, "X_weight": X_weight, "Y_weight": Y_weight}
        costs = sliced_wasserstein_of_samples(X, Y, theta, **options)
        return costs, rounding_of_costs(costs, (X, Y), theta, p)
    n, m = len(X), len(Y)
    origin = Y.detach().mean(0)  # projections keep the digits of differences
    sides = ((X, X_weight), (Y, Y_weight))
    sorted_sides = [slice_samples(side - origin, theta, weight) for side, weight in sides]
    if X_weight is not None or Y_weight is not None:
        return _between_sorted(*sorted_sides, p)
    x, y = (side.values for side in sorted_sides)
    # levels i / n and j / m as integers, i m and j n, between which both quantiles are constant
    ends = torch.cat([torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n]).unique()
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])
    i, j = ((starts // size).to(x.device) for size in (m, n))
    widths = ((ends - starts).double() / (n * m)).to(x.device)
    return (x[:, i] - y[:, j]).abs().pow(p) @ widths


def _between_sorted(x: SortedSamples, y: SortedSamples, p: float) -> Tensor:
    """``W_p^p`` between weighted samples on lines: levels are merged line by line."""
    x_levels, y_levels = (side.levels.expand(len(side.values), -1).contiguous() for side in (x, y))
    ends = torch.cat([x_levels, y_levels, torch.ones_like(x.values[:, :1])], dim=1)
    ends = ends.sort(dim=1).values
    starts = torch.nn.functional.pad(ends[:, :-1], (1, 0))
    middles = (starts + ends) / 2
    at = [torch.searchsorted(levels, middles) for levels in (x_levels, y_levels)]
    gaps = x.values.gather(1, at[0]) - y.values.gather(1, at[1])
    return (gaps.abs().pow(p) * (ends - starts)).sum(1)
