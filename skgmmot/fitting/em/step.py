"""Expectation-maximisation as a map: ``theta_next = m_step(e_step(theta, X))``.

With responsibilities ``gamma_ik = w_k g_k(x_i) / sum_l w_l g_l(x_i)`` and sample weights ``a_i``,
the E-step returns sums over samples, *centred* at the current means:

- ``s0_k = sum_i a_i gamma_ik``,
- ``s1_k = sum_i a_i gamma_ik (x_i - m_k)``,
- ``S2_k = sum_i a_i gamma_ik (x_i - m_k)(x_i - m_k)^T``,

and the M-step reads the next mixture off them: ``w = s0 / sum s0``, ``m + s1 / s0``,
``S2 / s0 - (s1 / s0)(s1 / s0)^T + reg_covar I``. Being sums, they add over blocks of samples,
over devices and over machines; being centred, they keep their digits far from the origin.

`e_step` is the definition: differentiable, and accurate for any mixture. `em_products` has faster
ways to the same sums.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from skgmmot.gaussian.covariance.registry import CovarianceType, covariance_type_of
from skgmmot.gaussian.mixture import (
    GaussianMixtureParams,
    PreparedMixture,
    log_density,
    log_joint,
    responsibilities,
)


class Statistics(NamedTuple):
    """What the E-step sums over samples; adds field by field."""

    mass: Tensor
    """``s0 (K,)``."""
    shift: Tensor
    """``s1 (K, d)``, centred at the means."""
    scatter: Tensor
    """``S2``, centred at the means, in the storage of the covariances."""
    log_likelihood: Tensor
    """``sum_i a_i log p(x_i)``, a scalar."""

    def moved(self, by: Tensor, kind: CovarianceType) -> "Statistics":
        """The same samples about other centres, ``c - by`` instead of ``c``."""
        return self._replace(
            shift=self.shift + self.mass.unsqueeze(-1) * by,
            scatter=kind.move_scatter(self.scatter, self.mass, self.shift, by),
        )


def e_step(
    theta: GaussianMixtureParams | PreparedMixture,
    X: Tensor,
    sample_weight: Tensor | None = None,
) -> Statistics:
    """Sum the statistics of a block of samples.

    Parameters
    ----------
    theta : GaussianMixtureParams or PreparedMixture
        The current mixture, K components in d dimensions; prepared, if there are several blocks.
    X : Tensor of shape (n, d)
        Samples.
    sample_weight : Tensor of shape (n,), default=None
        Weights ``a``; None is one each.

    Returns
    -------
    Statistics
        Sums, centred at ``theta.means``; those of several blocks add.

    Raises
    ------
    ValueError
        If a covariance of ``theta`` is not positive definite.

    Notes
    -----
    Differentiable in everything. Costs ``O(n K d^2)`` (diagonal types ``O(n K d)``), holds
    ``(K, n, d)``.
    """
    theta = theta.prepare()
    joint = log_joint(theta, X)  # (K, n)
    log_p = torch.logsumexp(joint, dim=0)
    resp = (joint - log_p).exp()
    if theta.weights is not None:  # derivatives in weights of zero are asked for
        resp, log_p = responsibilities(theta, X), log_density(theta, X)
    if sample_weight is not None:
        resp, log_p = resp * sample_weight, log_p * sample_weight
    return moments(theta, X, resp)._replace(log_likelihood=log_p.sum())


def moments(theta: GaussianMixtureParams | PreparedMixture, X: Tensor, resp: Tensor) -> Statistics:
    """Sum mass, shift and scatter for given (weighted) responsibilities ``resp (K, n)``."""
    means, storage = theta[1:3]
    centred = X - means.unsqueeze(1)  # (K, n, d)
    return Statistics(
        mass=resp.sum(-1),
        shift=(resp.unsqueeze(-2) @ centred).squeeze(-2),
        scatter=covariance_type_of(storage).scatter(centred, resp),
        log_likelihood=resp.new_zeros(()),
    )


def m_step(
    theta: GaussianMixtureParams,
    statistics: Statistics,
    reg_covar: float = 0.0,
    *,
    fixed_weights: bool = False,
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
    fixed_weights : bool, default=False
        Whether the weights stay those of ``theta``.

    Returns
    -------
    GaussianMixtureParams
        The next mixture. A component without samples keeps its mean and covariance and has weight
        zero.
    """
    kind = covariance_type_of(theta.covariances)
    mass, alive = counted_mass(statistics.mass)
    shift = shifts(mass, statistics.shift, alive)
    each = mass if alive is None or kind.shared else torch.where(alive, mass, 1.0)
    covariances = kind.estimate(each, shift, statistics.scatter, reg_covar)
    if alive is not None:
        covariances = kind.where(alive, covariances, theta.covariances)
    return GaussianMixtureParams(
        weights=theta.weights if fixed_weights else mass / mass.sum(),
        means=theta.means + shift,
        covariances=covariances,
    )


def counted_mass(mass: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the components' mass as the M-step counts it, and which of them have any.

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
        Where it is not zero; None if that is everywhere.
    """
    constant = mass.detach()
    least = torch.finfo(torch.float64).eps * float(constant.sum())
    counted = mass + 10 * torch.finfo(mass.dtype).eps
    if not float(constant.min()) <= least:
        return counted, None
    alive = constant > least
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
    statistics = e_step(theta, X, sample_weight)
    return m_step(theta, statistics, reg_covar, fixed_weights=fixed_weights)
