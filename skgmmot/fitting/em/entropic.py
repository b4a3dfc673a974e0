r"""Maximum likelihood as entropic optimal transport between samples and components.

With costs :math:`C_{ik} = -\log g_k(x_i)` between samples of weights ``a`` (of sum one) and
components of weights ``w``, the negative mean log-likelihood is a semi-relaxed entropic transport
problem with regularisation one:

.. math::

    -\sum_i a_i \log \sum_k w_k g_k(x_i)
        = \min_{P 1 = a}\; \langle P, C\rangle + KL(P \mid a w^T),

attained at the responsibilities, ``P = a gamma``. The *balanced* problem has the constraint
``P^T 1 = w``, too. Its minimum is not smaller, and it is equal where the responsibilities already
assign the share ``w`` of the samples to each component, as at every fixed point of EM. Its optimal
plan consists of the responsibilities of a *tilted* mixture, whose weights are ``t`` instead of
``w``, and ``log t`` solves a concave problem:

.. math:: \max_t\; \sum_k w_k \log(t_k / w_k) - \sum_i a_i \log \sum_k t_k g_k(x_i).

EM minimises the first problem alternately over the plan and the parameters. Sinkhorn-EM minimises
the balanced one, see `skgmmot.fitting.em.sinkhorn`.
"""

import contextlib
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from skgmmot.gaussian.log_density import log_density, log_joint
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.numerics.exponentials import exponentials, log_sum_exp
from skgmmot.transport.discrete.column_generation import sparse_exact

#: Newton steps from where a caller starts; where they do not suffice, the start is bad.
QUICK = 4
#: Log-densities of a linear programme at most, and samples for each component: for more it takes
#: longer than annealing.
MOST_LINEAR, MOST_SAMPLES = 2**19, 2**12
#: Steps in ``log t`` longer than this are also tried at double length; shorter ones are in the
#: range of quadratic convergence.
MIN_DOUBLED_STEP = 0.5
#: Annealing, where Newton's method fails at temperature one: factors by which the temperature is
#: raised and lowered,
HEATING, COOLING = 30.0, 4.0
#: and the largest temperature and the smallest factor of lowering it, beyond which annealing fails.
MAX_TEMPERATURE, MIN_COOLING = 1e15, 1.1
#: An imbalance of more than this is none of rounding: samples are not where weights say.
MAX_ROUNDING = 0.01


def entropic_ot_objective(
    theta: GaussianMixtureParams,
    X: Tensor,
    sample_weight: Tensor | None = None,
    *,
    balanced: bool = False,
) -> Tensor:
    r"""Return the entropic transport cost between samples and components.

    .. math:: \min_P\; \langle P, C\rangle + KL(P \mid a w^T), \qquad C_{ik} = -\log g_k(x_i)

    over plans with ``P 1 = a`` and, if balanced, ``P^T 1 = w``.

    Parameters
    ----------
    theta : GaussianMixtureParams
        K components in d dimensions.
    X : Tensor of shape (n, d)
        Samples.
    sample_weight : Tensor of shape (n,), default=None
        Their weights, scaled to sum one; None is uniform.
    balanced : bool, default=False
        Whether the second marginal must be the weights.

    Returns
    -------
    Tensor of shape ()
        The cost. If not balanced, it is the negative mean log-likelihood.

    Raises
    ------
    ValueError
        If a covariance is not positive definite.
    RuntimeError
        If the balanced problem is not solved to 0.01 in the shares, or to rounding, as for
        components too far from all samples.

    Notes
    -----
    Differentiable in all arguments; if balanced, once, and in the weights up to a constant (their
    sum is one). Costs ``O(n K d^2)``, and ``O(n K^2)`` for each of a few Newton steps; allocates
    ``(K, n, d)``.

    References
    ----------
    .. [1] Vayer and Lasalle 2025, maximum likelihood as entropic transport.
    """
    a = masses_of_samples(X, sample_weight)
    X = torch.where((a > 0).unsqueeze(1), X, 0.0)  # samples of weight zero do not count
    if not balanced:
        return -(a @ log_density(theta, X))
    log_g, weights = log_densities_of_components(theta, X), theta.weights
    empty = weights == 0
    if empty.any():
        return _balanced(weights[~empty], log_g[~empty], a, weights[empty], log_g[empty])
    return _balanced(weights, log_g, a)


def _balanced(weights: Tensor, log_g: Tensor, a: Tensor, *empty: Tensor) -> Tensor:
    """The balanced cost of components with weights, and the derivative in weights of zero."""
    dense = functools.partial(dense_dual, log_g=log_g.detach(), a=a.detach())
    log_tilt = balance(weights.detach(), dense, linear=linear_start(weights, log_g, a))
    cost = weights @ (log_tilt - weights.log()) - _mean_log_density(log_tilt, log_g, a)
    if not empty:
        return cost
    zeros, others = empty
    log_p = log_sum_exp(log_tilt.unsqueeze(1) + log_g, 0)
    # where a weight is small, t / w is the inverse of the mean of g / p
    slope = -log_sum_exp(others - log_p + a.log(), 1) - 1
    return cost + zeros @ slope.clamp(max=torch.finfo(slope.dtype).max).detach()


def masses_of_samples(X: Tensor, sample_weight: Tensor | None) -> Tensor:
    """Return the weights of samples, of sum one.

    Parameters
    ----------
    X : Tensor of shape (n, d)
        Samples.
    sample_weight : Tensor of shape (n,) or None
        Their weights; None is equal ones.

    Returns
    -------
    Tensor of shape (n,)
        ``a``.
    """
    a = torch.full_like(X[:, 0], 1 / len(X)) if sample_weight is None else sample_weight
    return a / a.sum()


def log_densities_of_components(theta: GaussianMixtureParams, X: Tensor) -> Tensor:
    """Evaluate the log-densities of all components.

    Parameters
    ----------
    theta : GaussianMixtureParams
        K components in d dimensions.
    X : Tensor of shape (n, d)
        Samples.

    Returns
    -------
    Tensor of shape (K, n)
        ``log g_k(x_i)``.
    """
    return log_joint(theta.prepare()._replace(log_weights=torch.zeros_like(theta.weights)), X)


def _mean_log_density(log_weights: Tensor, log_g: Tensor, a: Tensor) -> Tensor:
    """``sum_i a_i log sum_k t_k g_k(x_i)``."""
    return a @ log_sum_exp(log_weights.unsqueeze(1) + log_g, 0)


class Dual(NamedTuple):
    """The concave dual problem of balancing, evaluated at ``log t``."""

    value: Tensor
    """``sum_i a_i log sum_k t_k g_k(x_i)``."""
    share: Tensor
    """Share of the samples of each component, ``sum_i a_i gamma_ik (K,)``."""
    overlap: Callable[[], Tensor]
    """Computes ``sum_i a_i gamma_ik gamma_il (K, K)``."""


def dense_dual(log_tilt: Tensor, temperature: float = 1.0, *, log_g: Tensor, a: Tensor) -> Dual:
    """Evaluate the dual problem from log-densities in memory.

    Parameters
    ----------
    log_tilt : Tensor of shape (K,)
        ``log t``.
    temperature : float, default=1.0
        Densities are raised to the power of one over it.
    log_g : Tensor of shape (K, n)
        Log-densities of the components.
    a : Tensor of shape (n,)
        Weights of the samples, of sum one.

    Returns
    -------
    Dual
        The problem.
    """
    joint = log_tilt.unsqueeze(1) + log_g / temperature
    top = joint.amax(0)
    resp = exponentials(joint.sub_(top))
    total = resp.sum(0)
    resp.div_(total)
    return Dual(a @ (total.log() + top), resp @ a, lambda: (resp * a) @ resp.mT)


def without_entropy(
    weights: Tensor, log_g: Tensor, a: Tensor, start: Tensor | None = None
) -> Tensor:
    r"""Solve the problem of `balance` without entropy, a linear programme.

    .. math:: \max_t\; \sum_k w_k \log t_k - \sum_i a_i \max_k \log t_k g_k(x_i)

    Where few samples are between components, its solution is near that of balance.

    Parameters
    ----------
    weights : Tensor of shape (K,)
        The prescribed shares ``w``, of sum one.
    log_g : Tensor of shape (K, n)
        Log-densities of the components.
    a : Tensor of shape (n,)
        Weights of the samples, of sum one.
    start : Tensor of shape (K,), default=None
        ``log t`` to start from, such as the solution of a problem nearby; None is none.

    Returns
    -------
    Tensor of shape (K,)
        ``log t``, with ``sum(t) = 1``.

    Raises
    ------
    RuntimeError
        If a log-density is not finite, or if it is not solved to rounding.
    """
    if not torch.isfinite(log_g).all():
        raise RuntimeError("log-densities must be finite. Choose a larger unit.")
    problem = [t.double().cpu().numpy() for t in (a, weights, -log_g.mT)]
    plan = sparse_exact(*problem, None if start is None else start.double().cpu().numpy())
    return torch.log_softmax(torch.from_numpy(plan.g).to(weights), dim=0)


def linear_start(weights: Tensor, log_g: Tensor, a: Tensor) -> Callable[[Tensor], Tensor] | None:
    """Return what `balance` takes as ``linear``.

    Parameters
    ----------
    weights, log_g, a : Tensor of shape (K,), (K, n) and (n,)
        As in `without_entropy`.

    Returns
    -------
    callable or None
        None where the linear programme would be too large.
    """
    if log_g.numel() > MOST_LINEAR or log_g.shape[1] > MOST_SAMPLES * len(log_g):
        return None
    return functools.partial(without_entropy, weights.detach(), log_g.detach(), a.detach())


def balance(
    weights: Tensor,
    dual: Callable[..., Dual],
    *,
    start: Tensor | None = None,
    tol: float = 1e-13,
    max_iter: int = 30,
    linear: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    r"""Find the tilted weights whose responsibilities assign prescribed shares of the samples.

    .. math:: \max_t\; \sum_k w_k \log t_k - \sum_i a_i \log \sum_k t_k g_k(x_i)

    is maximised by damped Newton steps in ``log t``, and Sinkhorn updates where these fail. Where
    components are so far apart that this is nearly a linear programme, Newton's method starts again
    from the solution of that. If it fails there, too, the problem is annealed: solved at a higher
    temperature first, which is then lowered.

    Parameters
    ----------
    weights : Tensor of shape (K,)
        The prescribed shares ``w``, positive, of sum one.
    dual : callable
        ``(log t, temperature=1) -> Dual``, of the densities ``g_k^(1 / temperature)``.
    start : Tensor of shape (K,), default=None
        ``log t`` to start from; None is ``log w``.
    tol : float, default=1e-13
        Bound on ``sum_k |share_k - w_k|``, raised to rounding errors of the dtype and of
        log-densities, though not above 0.01.
    max_iter : int, default=30
        Largest number of steps at each temperature.
    linear : callable, default=None
        The solution without entropy (`without_entropy`), as a function of where to start; None is
        none.

    Returns
    -------
    Tensor of shape (K,)
        ``log t``, with ``sum(t) = 1``. A constant.

    Raises
    ------
    RuntimeError
        If the shares do not meet the tolerance.
    """
    weights = weights / weights.sum()  # in this dtype
    tol = max(tol, 16 * len(weights) * torch.finfo(weights.dtype).eps)
    log_tilt = weights.log() if start is None else start
    quickly = max_iter if linear is None else min(QUICK, max_iter)
    found, missed = _newton_on_tilt(weights, dual, log_tilt, tol, quickly)
    if not missed < tol and linear is not None:
        with contextlib.suppress(RuntimeError):
            found, missed = _newton_on_tilt(weights, dual, linear(log_tilt), tol, max_iter)
    if not missed < tol:
        found, cooled = _annealed(weights, dual, log_tilt, tol, max_iter)
        missed = cooled if math.isfinite(cooled) else missed
    if not missed < tol:
        raise RuntimeError(
            f"balancing must converge in {max_iter} steps, got shares that differ from the weights "
            f"by {missed:.1e} in all. Start from wider components, or means nearer to the samples."
        )
    return found


def _annealed(weights, dual, log_tilt, tol, max_iter) -> tuple[Tensor, float]:
    """Raise the temperature until the problem is solved, then lower it in steps that succeed."""
    temperature, cooling = 1.0, COOLING

    def solve(log_tilt):
        return _newton_on_tilt(weights, lambda t: dual(t, temperature), log_tilt, tol, max_iter)

    missed = math.inf
    while not missed < tol and temperature < MAX_TEMPERATURE:
        temperature *= HEATING
        found, missed = solve(log_tilt / temperature)
    while temperature > 1 and cooling > MIN_COOLING:
        before, degree = temperature, min(cooling, temperature)
        temperature = before / degree
        further, missed = solve(found * degree)
        if missed < tol:
            found = further
        else:
            temperature, cooling = before, math.sqrt(cooling)
    return found, missed if temperature == 1 else math.inf


def _newton_on_tilt(weights, dual, log_tilt, tol, max_iter) -> tuple[Tensor, float]:
    """Maximise by damped Newton steps; returns ``log t`` and the imbalance beyond rounding."""
    here, before = dual(log_tilt), math.inf
    for _ in range(max_iter):
        missed = imbalance(here.share, weights)
        stalled = missed > before / 2 and missed - _rounding(here, log_tilt) < tol
        if missed < tol or stalled:
            break
        before = missed
        step, here = _ascent_step(log_tilt, here, weights, dual)
        log_tilt = log_tilt + step
        shift = torch.logsumexp(log_tilt, dim=0)
        log_tilt, here = log_tilt - shift, here._replace(value=here.value - shift)
    return log_tilt, imbalance(here.share, weights) - _rounding(here, log_tilt)


def _rounding(here, log_tilt) -> float:
    """A bound on the errors of shares from rounding of log-densities, as far as it is accepted."""
    largest = torch.maximum(log_tilt.abs().max(), here.value.abs())
    return min(8 * torch.finfo(log_tilt.dtype).eps * float(largest), MAX_ROUNDING)


def imbalance(share: Tensor, weights: Tensor) -> float:
    """Return the total difference of shares and weights, ``sum_k |share_k - w_k|``.

    Parameters
    ----------
    share : Tensor of shape (K,)
        Shares of the samples of each component, of sum one.
    weights : Tensor of shape (K,)
        Prescribed shares.

    Returns
    -------
    float
        Between 0 and 2.
    """
    return float((share - weights).abs().sum())


def balance_gap_bound(weights: Tensor, share: Tensor) -> float:
    r"""Return a lower bound of the difference of the balanced and the semi-relaxed cost.

    .. math:: \sum_k w_k \log(w_k / \text{share}_k)

    This is the increase of the dual by one Sinkhorn update.

    Parameters
    ----------
    weights : Tensor of shape (K,)
        The weights ``w``, of sum one.
    share : Tensor of shape (K,)
        Shares of the samples of each component by the responsibilities, of sum one.

    Returns
    -------
    float
        The bound: not negative, and zero only if the shares are the weights, so that there is no
        gap.

    Notes
    -----
    Equal to the gap if all samples have the same responsibilities; the more these differ, the
    smaller.
    """
    tiny, total = torch.finfo(share.dtype).tiny, 0.0
    for w, s in zip(weights.tolist(), share.tolist(), strict=True):  # K numbers: torch is slower
        if w > 0:
            ratio = max(s, tiny) / w
            logarithm = math.log1p(ratio - 1) if ratio > 0.5 else math.log(ratio)  # exact near 1, 0
            total += w * (ratio - 1 - logarithm)
        else:
            total += s  # components of weight zero have no share, up to rounding
    return total


def curvature(here: Dual) -> Tensor:
    """Return minus the Hessian of the dual problem in ``log t``, regularised.

    Parameters
    ----------
    here : Dual
        The dual problem at ``log t``.

    Returns
    -------
    Tensor of shape (K, K)
        ``diag(share) - overlap + 1 / K``, and a ridge of the size of rounding. Without the last
        term it would be singular along constants, and without the ridge where components are far
        apart.
    """
    overlap = here.overlap()
    return (
        torch.diag(here.share * (1 + 1e-14)) - overlap + torch.full_like(overlap, 1 / len(overlap))
    )


def _ascent_step(log_tilt, here, weights, dual) -> tuple[Tensor, Dual]:
    """A Newton step halved until it increases the dual, or else a Sinkhorn update.

    The step is then lengthened while that increases the dual, by a factor that grows, and starts
    anew where it was too large: where densities hardly overlap, the dual is nearly piecewise
    linear, and Newton steps are many times too short.
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
    factor = 2.0
    while float(step.abs().max()) > MIN_DOUBLED_STEP:
        further = dual(log_tilt + factor * step)
        if gain(factor * step, further) > gain(step, there) + rounding:
            step, there, factor = factor * step, further, factor**2
        elif factor > 2:
            factor = 2.0
        else:
            break
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
        Prescribed shares of the samples of each component.
    share : Tensor of shape (K,)
        Its present shares.
    relaxation : float, default=1.0
        Over-relaxation; the iteration diverges from 2 on.

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
