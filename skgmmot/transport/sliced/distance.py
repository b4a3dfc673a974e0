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
from skgmmot.transport.discrete.plan import Plan
from skgmmot.transport.discrete.solvers import exact as exact_transport
from skgmmot.transport.sliced import exact
from skgmmot.transport.sliced.errors import (
    SECOND,
    coarser,
    mass_left_out,
    raised_deviations,
    rounding_of_lines,
)
from skgmmot.transport.sliced.quadrature import N_NODES, MixtureSide, SampleSide, power, squared
from skgmmot.transport.sliced.slices import Slices, SortedSamples, slice_samples, slices

#: Largest number of entries of an array for a block of directions (8 MiB in float64).
BLOCK_SIZE = 2**20


# --- distances -----------------------------------------------------------------------------------


class _Envelope(torch.autograd.Function):
    """Costs ``(L,)`` from a function that computes their derivatives, too.

    ``function(*inputs)`` returns the costs and, for each input, the derivative of each cost; inputs
    with one axis are shared by all lines.
    """

    @staticmethod
    def forward(ctx, function, *inputs):
        costs, derivatives = function(*inputs)
        ctx.shared = [t.ndim == 1 for t in inputs]
        ctx.save_for_backward(*derivatives)
        return costs

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, cotangent):
        gradients = [None]
        for derivative, shared in zip(ctx.saved_tensors, ctx.shared, strict=True):
            if derivative is None:
                gradients.append(None)
            elif shared:
                gradients.append(cotangent @ derivative)
            else:
                gradients.append(cotangent.unsqueeze(1) * derivative)
        return tuple(gradients)


def _kernel(p: float, exactly: bool, n_nodes: int):
    """The function ``(slices, samples, in_values) -> costs, gradient, derivatives in samples``."""
    if exactly:
        if p not in exact.COSTS:
            raise ValueError(
                f"p must be 1 or 2 with exact=True, got {p}. Use exact=False for other exponents."
            )
        return exact.COSTS[p]
    if p == 2:
        return functools.partial(squared, n_nodes=n_nodes)
    return lambda lines, samples, in_values: power(
        MixtureSide(lines, n_nodes), SampleSide(samples), p
    )


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
        If ``exact`` and p is neither 1 nor 2.

    Notes
    -----
    Differentiable once, as `sliced_wasserstein`. Costs ``O(n L)`` and ``O(n_nodes K^2 L)``.
    """
    kernel = _kernel(p, exact, n_nodes)
    in_values = samples.values.requires_grad
    (n_lines, n), K = samples.values.shape, lines.means.shape[1]
    length = max(1, BLOCK_SIZE // (n * K if exact else max(n, n_nodes * K * K)))

    def compute(weights, means, deviations, values):
        whole = Slices(weights, means, deviations), samples._replace(values=values)
        blocks = [
            kernel(*(side.rows(slice(i, i + length)) for side in whole), in_values)
            for i in range(0, n_lines, length)
        ]
        costs, gradients, in_samples = zip(*blocks, strict=True)
        parts = [torch.cat(part) for part in zip(*gradients, strict=True)]
        return torch.cat(costs), (*parts, torch.cat(in_samples) if in_values else None)

    return _Envelope.apply(compute, *lines, samples.values)


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
    n_nodes : int, default=36
        Nodes of each component if not ``exact``. For p = 2 the mean over directions and its
        gradients in the mixture have errors of about 1e-5 relative to the largest entry (2e-4 for
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
        If ``exact`` and p is neither 1 nor 2.

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
        known = _rounding(costs, (mixture, X), theta, p, cancels=p == 2, truncated=not whole)
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
        return costs, _rounding(costs, (X, Y), theta, p)
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
    n_nodes : int, default=36
        Nodes of each component.
    return_error : bool, default=False
        Whether to return the errors of the lines, too, which takes about as long again.

    Returns
    -------
    Tensor of shape (m,)
        ``W_p^p`` in the dtype of the source; computed in float64.
    Tensor of shape (m,)
        Only with ``return_error``: estimates of their errors, in float64: the difference to fewer
        nodes, and rounding.

    Notes
    -----
    Differentiable once in all parameters of both. Exactly zero on equal mixtures. Costs
    ``O(m n_nodes (K^2 + L^2))``.
    """
    if return_error:
        sides = source, target
        costs = sliced_wasserstein_between(*sides, theta, p=p, n_nodes=n_nodes)
        with torch.no_grad():
            found = _change(sliced_wasserstein_between, *sides, theta, costs, n_nodes, p=p)
        return costs, found + _rounding(costs, sides, theta, p, truncated=True)
    lines = _project_both(source, target, theta)
    K = max(side.means.shape[1] for side in lines)
    length = max(1, BLOCK_SIZE // (n_nodes * K * K))

    def compute(*tensors):
        whole = Slices(*tensors[:3]), Slices(*tensors[3:])
        blocks = [
            power(*(MixtureSide(s.rows(slice(i, i + length)), n_nodes) for s in whole), p)
            for i in range(0, len(theta), length)
        ]
        costs, *gradients = zip(*blocks, strict=True)
        parts = [torch.cat(part) for side in gradients for part in zip(*side, strict=True)]
        return torch.cat(costs), parts

    return _Envelope.apply(compute, *lines[0], *lines[1]).to(source.means.dtype)


def _change(distance, source, target, theta, costs: Tensor, n_nodes: int, **options) -> Tensor:
    """How far costs are from those of fewer nodes, and of still fewer if that is more."""
    first, second = (
        (costs.detach() - distance(source, target, theta, n_nodes=n, **options)).abs().double()
        for n in coarser(n_nodes, options["p"])
    )
    return torch.maximum(first, SECOND * second)


def _rounding(
    costs: Tensor, sides, theta: Tensor, p: float, *, cancels: bool = False, truncated: bool = False
) -> Tensor:
    """The rounding of costs between two sides, and what no number of nodes changes."""
    points = [side if isinstance(side, Tensor) else side.means for side in sides]
    origin = points[-1].detach().double().mean(0)
    mixtures = [side.detach() for side in sides if not isinstance(side, Tensor)]
    lines = [slices(m._replace(means=m.means - origin), theta.detach()) for m in mixtures]
    widths = [torch.cat([side.deviations.flatten() for side in lines])] if lines else []
    far = max(float((t.detach().double() - origin).norm(dim=1).max()) for t in points)
    size = far + max((float(t.max()) for t in widths), default=0.0)
    costs = costs.detach().double()
    found = rounding_of_lines(costs, p, size, cancels=cancels)
    if lines:
        found = found + raised_deviations(costs, p, size, float(widths[0].min()))
    if truncated:
        found = found + mass_left_out(costs, p, float(widths[0].max()))
    return found + torch.finfo(points[0].dtype).eps * costs


# --- mixtures of slices --------------------------------------------------------------------------


def mixture_sliced_plan(
    source: GaussianMixtureParams, target: GaussianMixtureParams, theta: Tensor
) -> Plan:
    r"""Return the plan of MSW^2: optimal transport of components at costs of sliced distances.

    .. math::

        MSW^2 = \min_P \sum_{kl} P_{kl} SW_2^2(g_k, g_l), \qquad
        SW_2^2(g_k, g_l) = \operatorname{mean}_\theta \bigl(\langle\theta, m_k - m_l\rangle^2
            + (s_k(\theta) - s_l(\theta))^2\bigr)

    over couplings ``P`` of the weights.

    Parameters
    ----------
    source, target : GaussianMixtureParams
        Mixtures of K and L components in d dimensions.
    theta : Tensor of shape (m, d)
        Directions, of unit length.

    Returns
    -------
    Plan
        ``coupling (K, L)``, potentials, and ``cost``, differentiable in both mixtures.

    Notes
    -----
    Costs ``O(m (K + L) d^2 + m K L)``, without matrix square roots. ``MSW <= MW2``.

    References
    ----------
    .. [1] Piening and Beinert 2025, mixture sliced Wasserstein (MSW).
    """
    lines = _project_both(source, target, theta, 0.0)
    return exact_transport(*(side.weights for side in lines), _costs_on_lines(*lines).mean(0))


def _costs_on_lines(source: Slices, target: Slices) -> Tensor:
    """Squared distances ``(m, K, L)`` between components on each line."""
    pairs = zip(source[1:], target[1:], strict=True)
    return sum((one.unsqueeze(2) - other.unsqueeze(1)).square() for one, other in pairs)


def mixture_sliced_lines(
    source: GaussianMixtureParams, target: GaussianMixtureParams, theta: Tensor, coupling: Tensor
) -> Tensor:
    """Return the cost of a plan between components on each line; the mean of the best is MSW^2.

    Parameters
    ----------
    source, target : GaussianMixtureParams
        Mixtures of K and L components.
    theta : Tensor of shape (m, d)
        Directions, of unit length.
    coupling : Tensor of shape (K, L)
        The plan.

    Returns
    -------
    Tensor of shape (m,)
        The costs.
    """
    lines = _project_both(source, target, theta, 0.0)
    return (_costs_on_lines(*lines) * coupling).sum((1, 2))


def double_sliced_lines(
    source: GaussianMixtureParams, target: GaussianMixtureParams, theta: Tensor, phi: Tensor
) -> Tensor:
    """Return the terms of DSMW^2, a distance between mixtures that slices their components twice.

    The projection of component k on ``theta`` is the point ``(<theta, m_k>, s_k(theta))`` of the
    half plane, where the Euclidean distance is the Wasserstein distance between Gaussians. Slicing
    along ``phi`` turns these points into weighted numbers, for which transport is solved by
    sorting: ``DSMW^2 = mean W2^2(theta, phi)``.

    Parameters
    ----------
    source, target : GaussianMixtureParams
        Mixtures of K and L components in d dimensions.
    theta : Tensor of shape (m, d)
        Directions, of unit length.
    phi : Tensor of shape (m, 2)
        Directions in the half plane, one for each, of unit length.

    Returns
    -------
    Tensor of shape (m,)
        The terms, whose mean is the squared distance; differentiable in the means and covariances
        of both.

    Notes
    -----
    Costs ``O(m (K + L) d^2 + m (K + L) log(K + L))``, without a discrete transport problem.

    References
    ----------
    .. [1] Piening and Beinert 2025, double sliced mixture Wasserstein (DSMW).
    """
    import ot  # only here, since it takes longer to import than this package

    sides = _project_both(source, target, theta, 0.0)
    phi = phi.to(sides[0].means)
    points = [(side.means * phi[:, :1] + side.deviations * phi[:, 1:]).mT for side in sides]
    return ot.wasserstein_1d(*points, sides[0].weights, sides[1].weights, p=2)


def _project_both(source, target, theta, *least) -> tuple[Slices, Slices]:
    """Project both mixtures on the same directions, relative to the mean of the first one."""
    shares = source.weights.detach() / source.weights.detach().sum()
    origin = shares.to(source.means) @ source.means.detach()
    lines = (m._replace(means=m.means - origin) for m in (source, target))
    return tuple(slices(m, theta, *least) for m in lines)
