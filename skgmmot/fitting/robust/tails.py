r"""Newton's method for the tails of t distributions: their degrees of freedom and their widths.

EM finds both slowly, since a wider distribution of lighter tails is nearly as likely. With the
shares :math:`\gamma_{ik}` of an E-step kept, the log-likelihood of one component in :math:`\log c`
and :math:`\log \nu`, for the scale matrix :math:`c S`, is

.. math:: \sum_i \gamma_{ik} \Bigl( \log \Gamma\bigl(\tfrac{\nu + d}{2}\bigr)
    - \log \Gamma\bigl(\tfrac{\nu}{2}\bigr) - \tfrac{d}{2} \log (\nu c)
    - \tfrac{\nu + d}{2} \log\bigl(1 + \tfrac{\delta_{ik}}{\nu c}\bigr) \Bigr).

All its first and second derivatives follow from the sums of :math:`\gamma u, \gamma u^2` and
:math:`\gamma \log u`.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from skgmmot.fitting.em.step import counted_mass
from skgmmot.fitting.robust.student import (
    LEAST,
    MOST,
    StudentMixtureParams,
    StudentStatistics,
)

#: Longest step in the logarithms of degrees of freedom and of widths.
LONGEST = math.log(4.0)
#: Fits may end where no logarithm of a degree of freedom would change by as much.
SETTLED = 0.03


class TailStep(NamedTuple):
    """Where Newton's method goes on from a mixture."""

    widths: Tensor
    """Change of the logarithm of each scale matrix from EM's ``(K or 1,)``."""
    degrees: Tensor
    """Degrees of freedom ``(K,)``."""
    largest: float
    """Largest change of the logarithm of a degree of freedom, the longest where the log-likelihood
    is not concave, so that its maximum may be anywhere."""

    def of(self, theta: StudentMixtureParams, part: float = 1.0) -> StudentMixtureParams:
        """EM's next mixture with these widths and degrees of freedom, or a part of the way."""
        covariances = theta.covariances * theta.covariance_type.each((part * self.widths).exp())
        nu = theta.degrees_of_freedom
        nu = nu * (self.degrees / nu) ** part
        return theta._replace(covariances=covariances, degrees_of_freedom=nu)


class Slopes(NamedTuple):
    """Derivatives of the log-likelihood in log c and log nu, each ``(K,)``."""

    width: Tensor
    nu: Tensor
    width_width: Tensor
    width_nu: Tensor
    nu_nu: Tensor


def tail_step(
    theta: StudentMixtureParams, statistics: StudentStatistics, reg_covar: float = 0.0
) -> TailStep:
    """Return the step of Newton's method in the widths and degrees of freedom of all components.

    Parameters
    ----------
    theta : StudentMixtureParams
        The mixture, of finite degrees of freedom.
    statistics : StudentStatistics
        The E-step's sums there.
    reg_covar : float, default=0.0
        What EM adds to the diagonals of scale matrices: both then have the same fixed points.

    Returns
    -------
    TailStep
        The step, uphill also where the log-likelihood is not concave.

    References
    ----------
    .. [1] Liu and Rubin 1995, ML estimation of the t distribution using EM and its extensions.
    """
    nu, d = theta.degrees_of_freedom, theta.means.shape[1]
    mass, alive = counted_mass(statistics.mass)
    mass = mass if alive is None else torch.where(alive, mass, 1.0)
    share = mass if alive is None else torch.where(alive, mass, 0.0)
    shared = theta.covariance_type.shared

    def joint(values: Tensor) -> Tensor:
        """What one width for all components has of each."""
        return (share * values).sum(0, keepdim=True) / share.sum() if shared else values

    added = reg_covar * _inverse_trace(theta) if reg_covar else 0.0
    means = (t / mass for t in (statistics.weighted.mass, statistics.tails, statistics.squares))
    of = _slopes(nu, d, *means, added)
    # an axis in which the log-likelihood curves upwards counts as if it curved downwards
    curvature = -of.nu_nu.abs()
    ratio = of.width_nu / curvature
    bend = joint(of.width_width - ratio * of.width_nu)
    of_em = joint(1 + 2 / d * of.width).log()
    width = torch.where(bend < 0, -joint(of.width - ratio * of.nu) / bend, of_em)
    width = width.clamp(-LONGEST, LONGEST)
    log_nu = -(of.nu + of.width_nu * width) / curvature
    degrees = (nu * log_nu.clamp(-LONGEST, LONGEST).exp()).clamp(LEAST, MOST)
    widths = width - of_em
    if alive is not None:
        degrees = torch.where(alive, degrees, nu)
        widths = widths if shared else torch.where(alive, widths, 0.0)
    change = (degrees / nu).log().abs()
    known = (of.nu_nu < 0) & (bend < 0)
    change = torch.where(known | (change == 0), change, LONGEST)
    return TailStep(widths, degrees, float(change.max()))


def _inverse_trace(theta: StudentMixtureParams) -> Tensor:
    """The traces ``(K or 1,)`` of the inverse scale matrices."""
    covariance_type, d = theta.covariance_type, theta.means.shape[1]
    factors = theta.gaussians().prepare().factors
    return covariance_type.precision_diagonals(factors).expand(-1, d).sum(-1)


def _slopes(nu: Tensor, d: int, u: Tensor, tails: Tensor, squares: Tensor, added) -> Slopes:
    """Derivatives for one sample, from the means of ``u``, ``log u - u`` and ``u^2``.

    ``added`` is the trace of ``reg_covar`` in units of the scale matrices, which the M-step of
    these takes for as many squared distances.
    """
    near, half, more = nu / (nu + d), nu / 2, (nu + d) / 2
    q = 1 - near * u  # the mean of delta / (nu + delta)
    spread = near * u - near.square() * squares  # that of q (1 - q)
    heights = -near.log() - (tails + u)  # that of log(1 + delta / nu)
    level = torch.digamma(more) - torch.digamma(half) - d / nu - heights
    in_nu = nu * level / 2 + more * q  # nu times the derivative in nu
    gammas = torch.polygamma(1, more) - torch.polygamma(1, half)
    return Slopes(
        width=more * q - d / 2 + added / 2,
        nu=in_nu,
        width_width=-more * spread - added / 2,
        width_nu=half * q - more * spread,
        nu_nu=in_nu + nu.square() * gammas / 4 + d / 2 + (half - d / 2) * q - more * spread,
    )
