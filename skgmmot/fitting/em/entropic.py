"""Maximum likelihood is entropic optimal transport.

With costs ``C_ik = -log g_k(x_i)`` between samples of weights ``a`` (of sum one) and components of
weights ``w``, the negative mean log-likelihood is a transport problem of temperature one that is
free to choose what each component receives:

``-sum_i a_i log sum_k w_k g_k(x_i) = min_P <P, C> + KL(P | a w^T)``  over  ``P 1 = a``,

attained at the responsibilities, ``P = a gamma``. Asking in addition for ``P^T 1 = w`` gives the
*balanced* reading; it is no smaller, and equal where the responsibilities already share out the
samples by ``w``, as at every fixed point of EM. Its optimal plan are the responsibilities of a
*tilted* mixture, whose weights are ``t`` instead of ``w``, and ``log t`` solves a concave problem:

``max_t  sum_k w_k log(t_k / w_k) - sum_i a_i log sum_k t_k g_k(x_i)``.

EM descends the first reading by turns in plan and parameters; Sinkhorn-EM descends the balanced
one, see `skgmmot.fitting.em.sinkhorn`.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from skgmmot.gaussian.log_density import log_joint
from skgmmot.gaussian.mixture import GaussianMixtureParams

#: Steps in ``log t`` up to this long are not tried at double length.
SHORT = 0.5
#: Where Newton's method does not end: factors of heating and of cooling, where to give up with
#: each, and the imbalance left on the way.
HEATING, COOLING, HOTTEST, SLOWEST, WARM = 30.0, 4.0, 1e15, 1.1, 0.01


def entropic_ot_objective(
    theta: GaussianMixtureParams,
    X: Tensor,
    sample_weight: Tensor | None = None,
    *,
    balanced: bool = False,
) -> Tensor:
    """Return the entropic transport cost between samples and components.

    ``min_P <P, C> + KL(P | a w^T)`` with ``C_ik = -log g_k(x_i)``, over ``P 1 = a`` and, if
    balanced, ``P^T 1 = w``.

    Parameters
    ----------
    theta : GaussianMixtureParams
        K components in d dimensions, of positive weights.
    X : Tensor of shape (n, d)
        Samples.
    sample_weight : Tensor of shape (n,), default=None
        Their weights, scaled to sum one; None is uniform.
    balanced : bool, default=False
        Whether each component must receive its weight.

    Returns
    -------
    Tensor of shape ()
        The cost; not balanced, it is the negative mean log-likelihood.

    Raises
    ------
    ValueError
        If a covariance is not positive definite.
    RuntimeError
        If the balancing potentials are not found, for components too far from all samples.

    Notes
    -----
    Differentiable in everything; balanced once, in the weights up to a constant (they live on the
    simplex). Costs ``O(n K d^2)`` once and ``O(n K^2)`` for each of a few Newton steps; holds
    ``(K, n, d)``.

    References
    ----------
    .. [1] Vayer and Lasalle 2025, maximum likelihood as entropic transport.
    """
    a = torch.full_like(X[:, 0], 1 / len(X)) if sample_weight is None else sample_weight
    a = a / a.sum()
    X = torch.where((a > 0).unsqueeze(1), X, 0.0)  # a sample of weight zero is absent, wherever
    log_g = log_joint(theta.prepare()._replace(log_weights=torch.zeros_like(theta.weights)), X)
    if not balanced:
        return -_mean_log_density(theta.weights.log(), log_g, a)
    dense = functools.partial(_dense_dual, log_g=log_g.detach(), a=a.detach())
    log_tilt = balance(theta.weights.detach(), dense)
    prescribed = theta.weights @ (log_tilt - theta.weights.log())
    return prescribed - _mean_log_density(log_tilt, log_g, a)


def _mean_log_density(log_weights: Tensor, log_g: Tensor, a: Tensor) -> Tensor:
    """``sum_i a_i log sum_k t_k g_k(x_i)``."""
    return a @ torch.logsumexp(log_weights.unsqueeze(1) + log_g, dim=0)


class Dual(NamedTuple):
    """The concave problem of balance at a tilt ``log t``."""

    value: Tensor
    """``sum_i a_i log sum_k t_k g_k(x_i)``."""
    share: Tensor
    """What each component receives, ``(K,)``."""
    overlap: Callable[[], Tensor]
    """``sum_i a_i gamma_ik gamma_il (K, K)``, when it is asked for."""


def _dense_dual(log_tilt: Tensor, temperature: float = 1.0, *, log_g: Tensor, a: Tensor) -> Dual:
    """The problem on log-densities ``(K, n)`` in memory."""
    log_g = log_g / temperature
    log_resp = torch.log_softmax(log_tilt.unsqueeze(1) + log_g, dim=0)
    share = torch.logsumexp(log_resp + a.log(), dim=1).exp()
    value = _mean_log_density(log_tilt, log_g, a)
    return Dual(value, share, lambda: (log_resp.exp() * a) @ log_resp.mT.exp())


def balance(
    weights: Tensor,
    dual: Callable[..., Dual],
    *,
    start: Tensor | None = None,
    tol: float = 1e-13,
    max_iter: int = 30,
) -> Tensor:
    """Find the tilted weights whose responsibilities share out the samples as prescribed.

    ``max_t sum_k w_k log t_k - sum_i a_i log sum_k t_k g_k(x_i)``, by damped Newton steps in
    ``log t``, and Sinkhorn updates where these fail. Where samples are so far from components that
    this is nearly a linear programme, it is heated until it is easy, and cooled by degrees.

    Parameters
    ----------
    weights : Tensor of shape (K,)
        The prescribed shares ``w``, positive, of sum one.
    dual : callable
        ``(log t, temperature=1) -> Dual``, of the densities ``g_k^(1 / temperature)``.
    start : Tensor of shape (K,), default=None
        ``log t`` to start from; None is ``log w``.
    tol : float, default=1e-13
        Bound on ``sum_k |share_k - w_k|``, raised to what the dtype can tell.
    max_iter : int, default=30
        Largest number of steps at one temperature.

    Returns
    -------
    Tensor of shape (K,)
        ``log t``, with ``sum(t) = 1``. A constant.

    Raises
    ------
    RuntimeError
        If that is not found.
    """
    weights = weights / weights.sum()  # in this dtype
    tol = max(tol, 16 * len(weights) * torch.finfo(weights.dtype).eps)
    log_tilt = weights.log() if start is None else start
    found, missed = _newton(weights, dual, log_tilt, tol, max_iter)
    if not missed < tol:
        found, missed = _annealed(weights, dual, log_tilt, tol, max_iter)
    if not missed < tol:
        raise RuntimeError(
            f"balancing must end within {max_iter} steps, got shares that miss the weights by "
            f"{missed:.1e} in all. Start from components wider or nearer to the samples."
        )
    return found


def _annealed(weights, dual, log_tilt, tol, max_iter) -> tuple[Tensor, float]:
    """Heat until the problem is easy, then cool, by smaller degrees where a larger one fails."""
    temperature, cooling = 1.0, COOLING

    def solve(log_tilt, tol):
        return _newton(weights, lambda t: dual(t, temperature), log_tilt, tol, max_iter)

    missed, warm = math.inf, min(tol, WARM)
    while not missed < warm and temperature < HOTTEST:
        temperature *= HEATING
        found, missed = solve(log_tilt / temperature, warm)
    while temperature > 1 and cooling > SLOWEST:
        before, degree = temperature, min(cooling, temperature)
        temperature = before / degree
        goal = warm if temperature > 1 else tol
        further, missed = solve(found * degree, goal)
        if missed < goal:
            found = further
        else:
            temperature, cooling = before, math.sqrt(cooling)
    return found, missed if temperature == 1 else math.inf


def _newton(weights, dual, log_tilt, tol, max_iter) -> tuple[Tensor, float]:
    """Climb the concave problem; where that ended, and the imbalance left beyond rounding."""
    here, before = dual(log_tilt), math.inf
    for _ in range(max_iter):
        missed = imbalance(here.share, weights)
        stalled = missed > before / 2 and missed - _rounding(here, log_tilt) < tol
        if missed < tol or stalled:
            break
        before = missed
        step, here = _climbing(log_tilt, here, weights, dual)
        log_tilt = log_tilt + step
        shift = torch.logsumexp(log_tilt, dim=0)
        log_tilt, here = log_tilt - shift, here._replace(value=here.value - shift)
    return log_tilt, imbalance(here.share, weights) - _rounding(here, log_tilt)


def _rounding(here, log_tilt) -> float:
    """What rounding of log-densities makes of shares, at most."""
    largest = torch.maximum(log_tilt.abs().max(), here.value.abs())
    return 8 * torch.finfo(log_tilt.dtype).eps * float(largest)


def imbalance(share: Tensor, weights: Tensor) -> float:
    """Measure how far shares are from weights, ``sum_k |share_k - w_k|``.

    Parameters
    ----------
    share : Tensor of shape (K,)
        What each component receives, of sum one.
    weights : Tensor of shape (K,)
        What it shall receive.

    Returns
    -------
    float
        Between 0 and 2.
    """
    return float((share - weights).abs().sum())


def balance_gap_bound(weights: Tensor, share: Tensor) -> float:
    """Bound from below what balancing costs, given what components receive without it.

    ``sum_k w_k log(w_k / share_k)``: what one Sinkhorn update gains.

    Parameters
    ----------
    weights : Tensor of shape (K,)
        The weights ``w``, of sum one.
    share : Tensor of shape (K,)
        What each component receives by the responsibilities, of sum one.

    Returns
    -------
    float
        Not negative, and zero only where the shares are the weights: where there is no gap.

    Notes
    -----
    Equal to the gap if all samples have the same responsibilities; the more these differ, the
    further below.
    """
    w, share = (t.detach().cpu().numpy() for t in (weights, share))  # K numbers: torch is slower
    kept = w > 0
    ratio = np.maximum(share[kept], np.finfo(share.dtype).tiny) / w[kept]
    excess = ratio - 1
    near_one = ratio > 0.5
    logarithm = np.log1p(excess, out=np.log(ratio), where=near_one)  # exact near 1 and 0
    absent = share[~kept].sum()  # of weight zero they receive nothing, but for rounding
    return float((w[kept] * (excess - logarithm)).sum() + absent)


def curvature(here: Dual) -> Tensor:
    """Return minus the second derivative of the problem in ``log t``, made regular.

    Parameters
    ----------
    here : Dual
        The problem at a tilt.

    Returns
    -------
    Tensor of shape (K, K)
        ``diag(share) - overlap + 1 / K``: without the last term it would be singular along
        constants, and without a ridge of rounding size where components are far apart.
    """
    overlap = here.overlap()
    return (
        torch.diag(here.share * (1 + 1e-14)) - overlap + torch.full_like(overlap, 1 / len(overlap))
    )


def _climbing(log_tilt, here, weights, dual) -> tuple[Tensor, Dual]:
    """Halvings of the Newton step until it climbs, or Sinkhorn's update; doubled while that climbs.

    Where densities hardly overlap, the value is nearly piecewise linear, and any step too short.
    """
    missing = weights - here.share
    newton = torch.linalg.solve_ex(curvature(here), missing).result
    steps = [newton / 2**i for i in range(4)] if torch.isfinite(newton).all() else []
    rounding = 8 * torch.finfo(weights.dtype).eps * float(here.value.abs())

    def gain(step, there):
        return float(weights @ step - (there.value - here.value))

    for step in steps:
        there = dual(log_tilt + step)
        if gain(step, there) > 1e-4 * max(float(step @ missing), 0.0) - rounding:
            break
    else:
        step = sinkhorn_update(torch.zeros_like(log_tilt), weights, here.share)
        there = dual(log_tilt + step)
    while float(step.abs().max()) > SHORT:
        further = dual(log_tilt + 2 * step)
        if not gain(2 * step, further) > gain(step, there) + rounding:
            break
        step, there = 2 * step, further
    return step, there


def sinkhorn_update(
    log_weights: Tensor, prescribed: Tensor, share: Tensor, relaxation: float = 1.0
) -> Tensor:
    """Return the tilt after one Sinkhorn update, ``log t + relaxation * log(w / share)``.

    Parameters
    ----------
    log_weights : Tensor of shape (K,)
        ``log t``.
    prescribed : Tensor of shape (K,)
        What each component shall receive.
    share : Tensor of shape (K,)
        What it receives.
    relaxation : float, default=1.0
        Length of the update: below 2, or it diverges.

    Returns
    -------
    Tensor of shape (K,)
        The next ``log t``, normalised. Differentiable.

    References
    ----------
    .. [1] Thibault, Chizat, Dossal and Papadakis 2021, over-relaxed Sinkhorn.
    """
    tiny = torch.finfo(share.dtype).tiny
    missing = prescribed.log() - share.clamp(min=tiny).log()
    return torch.log_softmax(log_weights + relaxation * missing, dim=0)
