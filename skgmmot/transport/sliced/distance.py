r"""Sliced Wasserstein distances from a mixture to weighted samples, and between two mixtures.

The projection of a mixture on a unit vector ``theta`` is the one-dimensional mixture
:math:`\sum_k w_k N(\langle\theta, m_k\rangle, \theta^T \Sigma_k \theta)`, for which optimal
transport matches quantiles. The sliced distance is the mean over directions,
:math:`SW_p^p = \operatorname{mean}_l W_p^p(\theta_l)`; the max-sliced distance is the largest. The
functions return ``W_p^p`` for every direction.
"""

import functools
from typing import Literal, overload

import torch
from torch import Tensor

from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.transport.sliced import exact
from skgmmot.transport.sliced.errors import (
    SECOND,
    coarser,
    rounding_of_costs,
)
from skgmmot.transport.sliced.quadrature import N_NODES, MixtureSide, SampleSide, power, squared
from skgmmot.transport.sliced.slices import (
    Slices,
    SortedSamples,
    check_nodes,
    slice_samples,
    slices,
    slices_of_both,
)

#: Largest number of entries of an array for a block of directions (8 MiB in float64).
BLOCK_SIZE = 2**20


# --- distances -----------------------------------------------------------------------------------


class _Envelope(torch.autograd.Function):
    """Costs ``(L,)`` from a function that computes their derivatives, too.

    ``function()`` returns the costs and, for each input, the derivative of each cost; inputs with
    one axis are shared by all lines.
    """

    @staticmethod
    def forward(ctx, function, *inputs):
        costs, derivatives = function()
        ctx.shared = [t.ndim == 1 for t in inputs]
        ctx.save_for_backward(*derivatives)
        return costs

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, cotangent):
        gradients = [None]
        for derivative, shared in zip(ctx.saved_tensors, ctx.shared, strict=True):
            if shared:
                gradients.append(cotangent @ derivative)
            else:
                gradients.append(cotangent.unsqueeze(1) * derivative)
        return tuple(gradients)


def _costs(kernel, sides, source, target, length: int) -> Tensor:
    """Costs ``(L,)`` of two sides, differentiable in the source's and the target's tensors.

    ``kernel(*sides)``, of a block of lines, returns the costs and a function: ``gradient(both)``
    are the derivatives in each tensor of the source and, if both, of the target.
    """
    both = _is_asked(target)
    asked = both or _is_asked(source)

    def compute():
        costs, derivatives = [], []
        for i in range(0, len(sides[0].means), length):
            found, gradient = kernel(*(side.rows(slice(i, i + length)) for side in sides))
            costs.append(found)
            if asked:
                derivatives.append(gradient(both))
        return torch.cat(costs), [torch.cat(part) for part in zip(*derivatives, strict=True)]

    return _Envelope.apply(compute, *source, *(target if both else ())) if asked else compute()[0]


def _is_asked(tensors) -> bool:
    """Whether a gradient is asked for in one of some tensors."""
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def _kernel(p: float, exactly: bool, n_nodes: int):
    """The function ``(slices, samples) -> costs, gradient``."""
    if exactly:
        if p not in exact.COSTS:
            raise ValueError(
                f"p must be 1 or 2 with exact=True, got {p}. Use exact=False for other exponents."
            )
        return exact.COSTS[p]
    if p == 2:
        return functools.partial(squared, n_nodes=n_nodes)
    return lambda lines, samples: power(MixtureSide(lines, n_nodes), SampleSide(samples), p)


def wasserstein_on_lines(
    lines: Slices,
    samples: SortedSamples,
    *,
    p: float = 2.0,
    exact: bool = False,
    n_nodes: int = N_NODES,
) -> Tensor:
    """Return ``W_p^p`` between one-dimensional mixtures and sorted samples, for each line.

    This is the part of `sliced_wasserstein` after projecting and sorting, for several steps along
    the same directions.

    Parameters
    ----------
    lines : Slices
        L one-dimensional mixtures.
    samples : SortedSamples
        Samples on the same lines.
    p, exact, n_nodes : float, bool, int
        As in `sliced_wasserstein`.

    Returns
    -------
    Tensor of shape (L,)
        ``W_p^p``, float64.

    Raises
    ------
    ValueError
        If ``exact`` and p is neither 1 nor 2, or ``n_nodes`` is no integer of at least 2.

    Notes
    -----
    Differentiable once, as `sliced_wasserstein`. Costs ``O(n L)`` and ``O(n_nodes K^2 L)``.
    """
    check_nodes(n_nodes)
    kernel = _kernel(p, exact, n_nodes)
    n, K = samples.values.shape[1], lines.means.shape[1]
    length = max(1, BLOCK_SIZE // (n * K if exact else max(n, n_nodes * K * K)))
    return _costs(kernel, (lines, samples), lines, (samples.values,), length)


@overload
def sliced_wasserstein(
    mixture: GaussianMixtureParams,
    X: Tensor,
    theta: Tensor,
    *,
    p: float = ...,
    sample_weight: Tensor | None = ...,
    exact: bool = ...,
    n_nodes: int = ...,
    return_error: Literal[False] = ...,
) -> Tensor: ...
@overload
def sliced_wasserstein(
    mixture: GaussianMixtureParams,
    X: Tensor,
    theta: Tensor,
    *,
    p: float = ...,
    sample_weight: Tensor | None = ...,
    exact: bool = ...,
    n_nodes: int = ...,
    return_error: Literal[True],
) -> tuple[Tensor, Tensor]: ...
def sliced_wasserstein(
    mixture: GaussianMixtureParams,
    X: Tensor,
    theta: Tensor,
    *,
    p: float = 2.0,
    sample_weight: Tensor | None = None,
    exact: bool = False,
    n_nodes: int = N_NODES,
    return_error: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Return ``W_p^p`` between the projections of a mixture and of samples, for each direction.

    .. math:: W_p^p(\theta) = \int_0^1 |q(u) - Q(u)|^p\, du

    with the quantile functions of the projected mixture and the projected samples.

    Parameters
    ----------
    mixture : GaussianMixtureParams
        K components in d dimensions; its weights are normalised.
    X : Tensor of shape (n, d)
        Samples.
    theta : Tensor of shape (L, d)
        Directions, of unit length.
    p : float, default=2.0
        Exponent, at least 1.
    sample_weight : Tensor of shape (n,), default=None
        Weights of the samples, constants; None is equal ones.
    exact : bool, default=False
        Whether to solve for the n - 1 quantiles that divide the mixture among the samples, for p =
        1 or 2: exact to rounding, at several times the cost.
    n_nodes : int, default=48
        Nodes of a component that stands alone, if not ``exact``; where components overlap, nodes
        are as dense as the narrowest of them needs. For p = 2 the mean over directions and its
        gradients in the mixture have errors of up to 3e-5 relative to the largest entry (2e-4 for
        a fitted mixture, whose distance is a small difference), which decrease like
        ``n_nodes**-4``. For p = 1 errors of gradients are a few percent with a dozen samples, and
        1e-3 with a thousand.
    return_error : bool, default=False
        Whether to return the errors of the lines, too, which takes about as long again.

    Returns
    -------
    Tensor of shape (L,)
        ``W_p^p`` in powers of the units of ``X`` and in its dtype; computed in float64.
    Tensor of shape (L,)
        Only with ``return_error``: estimates of their errors, in float64: the difference to fewer
        nodes, and rounding.

    Raises
    ------
    ValueError
        If ``exact`` and p is neither 1 nor 2, or ``n_nodes`` is no integer of at least 2.

    Notes
    -----
    Differentiable once, by the envelope theorem, in the weights, means and covariances, in the
    samples and in the directions. Costs ``O(L n (d + log n))`` to project and sort, ``O(L n)`` and
    ``O(L n_nodes K^2)`` for the rest (``O(L n K)`` a Newton step where ``exact``). Works in blocks
    of directions, so that memory does not grow with L unless a gradient in the samples or the
    directions is required.

    References
    ----------
    .. [1] Kolouri, Rohde and Hoffmann 2018, the sliced distance between mixture and samples.
    """
    options = {"p": p, "sample_weight": sample_weight, "exact": exact}
    if return_error:
        costs = sliced_wasserstein(mixture, X, theta, **options, n_nodes=n_nodes)
        if exact:
            found = torch.zeros_like(costs.detach(), dtype=torch.float64)
        else:
            with torch.no_grad():
                found = _change(sliced_wasserstein, mixture, X, theta, costs, n_nodes, **options)
        whole = exact or p == 2
        known = rounding_of_costs(
            costs, (mixture, X), theta, p, cancels=p == 2, truncated=not whole
        )
        return costs, found + known
    origin = X.detach().mean(0)
    centred, X = mixture._replace(means=mixture.means - origin), X - origin
    length = max(1, BLOCK_SIZE // len(X))
    costs = [
        wasserstein_on_lines(
            slices(centred, block),
            slice_samples(X, block, sample_weight),
            p=p,
            exact=exact,
            n_nodes=n_nodes,
        )
        for block in theta.split(length)
    ]
    return torch.cat(costs).to(X.dtype)


@overload
def sliced_wasserstein_between(
    source: GaussianMixtureParams,
    target: GaussianMixtureParams,
    theta: Tensor,
    *,
    p: float = ...,
    n_nodes: int = ...,
    return_error: Literal[False] = ...,
) -> Tensor: ...
@overload
def sliced_wasserstein_between(
    source: GaussianMixtureParams,
    target: GaussianMixtureParams,
    theta: Tensor,
    *,
    p: float = ...,
    n_nodes: int = ...,
    return_error: Literal[True],
) -> tuple[Tensor, Tensor]: ...
def sliced_wasserstein_between(
    source: GaussianMixtureParams,
    target: GaussianMixtureParams,
    theta: Tensor,
    *,
    p: float = 2.0,
    n_nodes: int = N_NODES,
    return_error: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Return ``W_p^p`` between the projections of two mixtures, for each direction.

    Parameters
    ----------
    source, target : GaussianMixtureParams
        Mixtures of K and L components in d dimensions; their weights are normalised.
    theta : Tensor of shape (m, d)
        Directions, of unit length.
    p : float, default=2.0
        Exponent, at least 1.
    n_nodes : int, default=48
        Nodes of a component that stands alone; fewer where components overlap.
    return_error : bool, default=False
        Whether to return the errors of the lines, too, which takes about as long again.

    Returns
    -------
    Tensor of shape (m,)
        ``W_p^p`` in the dtype of the source; computed in float64.
    Tensor of shape (m,)
        Only with ``return_error``: estimates of their errors, in float64: the difference to fewer
        nodes, and rounding.

    Raises
    ------
    ValueError
        If ``n_nodes`` is no integer of at least 2.

    Notes
    -----
    Differentiable once in all parameters of both. Exactly zero on equal mixtures. Costs
    ``O(m n_nodes (K^2 + L^2))``.
    """
    check_nodes(n_nodes)
    if return_error:
        sides = source, target
        costs = sliced_wasserstein_between(*sides, theta, p=p, n_nodes=n_nodes)
        with torch.no_grad():
            found = _change(sliced_wasserstein_between, *sides, theta, costs, n_nodes, p=p)
        return costs, found + rounding_of_costs(costs, sides, theta, p, truncated=True)
    lines = slices_of_both(source, target, theta)
    K = max(side.means.shape[1] for side in lines)
    length = max(1, BLOCK_SIZE // (n_nodes * K * K))

    def kernel(*sides):
        return power(*(MixtureSide(side, n_nodes) for side in sides), p)

    return _costs(kernel, lines, *lines, length).to(source.means.dtype)


def _change(distance, source, target, theta, costs: Tensor, n_nodes: int, **options) -> Tensor:
    """How far costs are from those of fewer nodes, and of still fewer if that is more."""
    first, second = (
        (costs.detach() - distance(source, target, theta, n_nodes=n, **options)).abs().double()
        for n in coarser(n_nodes, options["p"])
    )
    return torch.maximum(first, SECOND * second)
