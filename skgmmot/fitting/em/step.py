"""Expectation-maximisation as a map: ``theta_next = m_step(e_step(theta, X))``.

With responsibilities ``gamma_ik = w_k g_k(x_i) / sum_l w_l g_l(x_i)`` and sample weights ``a_i``,
the E-step returns sums over samples, *centred* at the current means:

- ``s0_k = sum_i a_i gamma_ik``,
- ``s1_k = sum_i a_i gamma_ik (x_i - m_k)``,
- ``S2_k = sum_i a_i gamma_ik (x_i - m_k)(x_i - m_k)^T``,

and the M-step reads the next mixture off them: ``w = s0 / sum s0``, ``m + s1 / s0``,
``S2 / s0 - (s1 / s0)(s1 / s0)^T + reg_covar I``. Being sums, they add over blocks of samples,
over devices and over machines; being centred, they keep their digits far from the origin.

A `Constraint` has some parameters stay, or adds the sums of a prior's samples, see `prior`. The
scatter is then taken about the next means: ``S2 - s1 b^T - b s1^T + s0 b b^T`` where they shift by
``b``.

`e_step` is the definition: differentiable, and accurate for any mixture. The classes of
`skgmmot.gaussian.evaluators` compute the same sums faster.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from skgmmot.fitting.em.constraint import FREE, Constraint, constraint_of
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.gaussian.statistics import Statistics, e_step


class Sums(NamedTuple):
    """Sums that an M-step divides: those of the samples, and of a prior's."""

    of_weights: Tensor
    """Masses that weights are in proportion to: ``(K,)``, with noise ``(K + 1,)``,"""
    of_means: Tensor
    """that means are divided by,"""
    of_covariances: Tensor
    """and covariances; positive, unless components share one."""
    shift: Tensor
    """``s1 (K, d)``, centred at the means."""
    scatter: Tensor
    """``S2``, likewise."""
    alive: Tensor | None
    """Which components ``(K,)`` have any mass; None if all."""


def sums(
    theta: GaussianMixtureParams, statistics: Statistics, constraint: Constraint = FREE
) -> Sums:
    """Return what an M-step divides, given the sums over all samples.

    Parameters
    ----------
    theta : GaussianMixtureParams
        The mixture that the statistics are centred at.
    statistics : Statistics
        Sums over all samples.
    constraint : Constraint, default=Constraint()
        Its prior counts.

    Returns
    -------
    Sums
        Sums over all samples and those of the prior.
    """
    mass, shift, scatter, _ = statistics
    if theta.noise is not None:
        mass = statistics.component_mass
    if constraint.prior is None:
        mass, alive = counted_mass(mass)
        divided = alive is not None and not theta.covariance_type.shared
        each = torch.where(alive, mass, 1.0) if divided else mass
        return Sums(_beside_noise(mass, statistics), mass, each, shift, scatter, alive)
    prior, before = constraint.prior, constraint.prior.statistics(theta)
    counted = mass + prior.of_weights
    if theta.noise is not None:  # the prior is flat in the weight of noise
        counted = counted * share_of_samples(mass, counted, constraint)
    return Sums(
        _beside_noise(counted, statistics),
        mass + prior.of_means,
        mass + prior.of_covariances,
        shift + before.shift,
        scatter + before.scatter,
        None,
    )


def share_of_samples(mass: Tensor, counted: Tensor, constraint: Constraint) -> Tensor:
    """Return which share the samples have of the masses of components whose weights are free.

    Parameters
    ----------
    mass : Tensor of shape (K,)
        Masses of the samples.
    counted : Tensor of shape (K,)
        The same with those of a prior's.
    constraint : Constraint
        Which weights stay.

    Returns
    -------
    Tensor of shape ()
        The ratio of the sums. Beside noise, whose weight is the share of the samples that it has
        whatever the prior, the components share what is left in proportion to ``counted``.
    """
    free = constraint.free_components(mass)
    tiny = torch.finfo(mass.dtype).tiny
    return (mass * free).sum() / (counted * free).sum().clamp(min=tiny)


def _beside_noise(mass: Tensor, statistics: Statistics) -> Tensor:
    """Masses that weights are in proportion to, and after them that of noise, if there is any."""
    if statistics.mass.shape == mass.shape:
        return mass
    return torch.cat([mass, statistics.mass[len(mass) :]])


def m_step(
    theta: GaussianMixtureParams,
    statistics: Statistics,
    reg_covar: float = 0.0,
    constraint: Constraint = FREE,
) -> GaussianMixtureParams:
    """Return the mixture of largest expected likelihood, given the E-step's sums.

    Parameters
    ----------
    theta : GaussianMixtureParams
        The mixture that the statistics are centred at.
    statistics : Statistics
        Sums over all samples.
    reg_covar : float, default=0.0
        Added to the variances.
    constraint : Constraint, default=Constraint()
        What stays as in ``theta``, and the prior, with which it is the largest expected posterior
        density.

    Returns
    -------
    GaussianMixtureParams
        The next mixture. Without a prior, a component without samples keeps its mean and covariance
        and has weight zero.
    """
    covariance_type, total = theta.covariance_type, sums(theta, statistics, constraint)
    shift = constraint.free_means(shifts(total.of_means, total.shift, total.alive))
    if constraint.moves_all_moments:
        scatter, about = total.scatter, shift
    else:  # the mean of the scatter is not where it is taken about, or counts for less
        scatter, about = scatter_about(theta, total, shift), torch.zeros_like(shift)
    estimate = covariance_type.at(theta.covariances).estimate
    covariances = estimate(total.of_covariances, about, scatter, reg_covar)
    if total.alive is not None:
        covariances = covariance_type.where(total.alive, covariances, theta.covariances)
    weights = constraint.next_weights(theta.weights, total.of_weights)
    parts = weights, theta.means + shift, covariances
    found = GaussianMixtureParams(*parts, covariance_type, theta.noise)
    return constraint.keep_moments(found, theta)


def scatter_about(theta: GaussianMixtureParams, total: Sums, shift: Tensor) -> Tensor:
    """Return the scatter about the next means.

    Parameters
    ----------
    theta : GaussianMixtureParams
        The mixture that the sums are centred at.
    total : Sums
        The sums.
    shift : Tensor of shape (K, d)
        The way that each mean goes.

    Returns
    -------
    Tensor
        Second moments, in the storage of the base.
    """
    move_scatter = theta.covariance_type.base.at(theta.covariances).move_scatter
    return move_scatter(total.scatter, total.of_means, total.shift, -shift)


def counted_mass(mass: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the masses that the M-step divides by, and which components have samples.

    Parameters
    ----------
    mass : Tensor of shape (K,)
        ``s0``, over all samples.

    Returns
    -------
    mass : Tensor of shape (K,)
        As in scikit-learn, ten epsilons more than it is; but exactly zero where it is nothing
        beside the rounding of the total. Its derivative is one everywhere.
    alive : Tensor of shape (K,) or None
        Where it is not zero; on the CPU, None if that is everywhere. On other devices that is not
        asked, since the host would wait for the answer.
    """
    constant, eps = mass.detach(), torch.finfo(torch.float64).eps
    counted = mass + 10 * torch.finfo(mass.dtype).eps
    if mass.device.type == "cpu":
        numbers = constant.tolist()
        if not min(numbers) <= eps * sum(numbers):
            return counted, None
    # (not >: what is not a number stays so)
    alive = ~(constant <= eps * constant.sum())
    return torch.where(alive, counted, mass - constant), alive


def shifts(mass: Tensor, shift: Tensor, alive: Tensor | None) -> Tensor:
    """Return ``s1_k / s0_k``, the way that each mean goes; none where there is no mass.

    Parameters
    ----------
    mass : Tensor of shape (K,)
        ``s0``.
    shift : Tensor of shape (..., K, d)
        ``s1``.
    alive : Tensor of shape (K,) or None
        Where there is mass; None if everywhere.

    Returns
    -------
    Tensor of shape (..., K, d)
        Their ratios.
    """
    if alive is None:
        return shift / mass.unsqueeze(-1)
    ratios = shift / torch.where(alive, mass, 1.0).unsqueeze(-1)
    return torch.where(alive.unsqueeze(-1), ratios, 0.0)


def em_step(
    theta: GaussianMixtureParams,
    X: Tensor,
    sample_weight: Tensor | None = None,
    *,
    reg_covar: float = 0.0,
    fixed_weights: bool = False,
    constraint: Constraint | None = None,
) -> GaussianMixtureParams:
    """One iteration of EM: ``m_step(e_step(theta, X))``.

    Parameters
    ----------
    theta : GaussianMixtureParams
        The current mixture, K components in d dimensions.
    X : Tensor of shape (n, d)
        Samples.
    sample_weight : Tensor of shape (n,), default=None
        Weights of the samples; None is one each.
    reg_covar : float, default=0.0
        Added to the variances.
    fixed_weights : bool, default=False
        Whether the weights stay: responsibilities use them, the M-step leaves them.
    constraint : Constraint, default=None
        What stays, and the prior, as in ``m_step``, in the place of ``fixed_weights``.

    Returns
    -------
    GaussianMixtureParams
        The next mixture, whose likelihood is no smaller (for ``reg_covar=0``).

    Raises
    ------
    ValueError
        If a covariance of ``theta`` is not positive definite.

    Notes
    -----
    Differentiable in everything.
    """
    if constraint is None:
        K, noise = len(theta.means), theta.noise is not None
        fixed = {"weights": fixed_weights, "device": theta.weights.device, "noise": noise}
        constraint = constraint_of(theta.covariance_type, K, **fixed)
    statistics = e_step(theta, X, sample_weight)
    return m_step(theta, statistics, reg_covar, constraint)
