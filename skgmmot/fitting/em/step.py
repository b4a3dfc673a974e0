"""Expectation-maximisation as a map: ``theta_next = m_step(e_step(theta, X))``.

With responsibilities ``gamma_ik = w_k g_k(x_i) / sum_l w_l g_l(x_i)`` and sample weights ``a_i``,
the E-step returns sums over samples, *centred* at the current means:

- ``s0_k = sum_i a_i gamma_ik``,
- ``s1_k = sum_i a_i gamma_ik (x_i - m_k)``,
- ``S2_k = sum_i a_i gamma_ik (x_i - m_k)(x_i - m_k)^T``,

and the M-step reads the next mixture off them: ``w = s0 / sum s0``, ``m + s1 / s0``,
``S2 / s0 - (s1 / s0)(s1 / s0)^T + reg_covar I``. Being sums, they add over blocks of samples,
over devices and over machines; being centred, they keep their digits far from the origin.

`e_step` is the definition: differentiable, and accurate for any mixture. The classes of
`skgmmot.gaussian.evaluators` compute the same sums faster.
"""

import torch
from torch import Tensor

from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.gaussian.statistics import Statistics, e_step


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
    covariance_type = theta.covariance_type
    mass, alive = counted_mass(statistics.mass)
    shift = shifts(mass, statistics.shift, alive)
    each = mass if alive is None or covariance_type.shared else torch.where(alive, mass, 1.0)
    covariances = covariance_type.estimate(each, shift, statistics.scatter, reg_covar)
    if alive is not None:
        covariances = covariance_type.where(alive, covariances, theta.covariances)
    return GaussianMixtureParams(
        weights=theta.weights if fixed_weights else mass / mass.sum(),
        means=theta.means + shift,
        covariances=covariances,
        covariance_type=covariance_type,
    )


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
