"""Sums over samples that the M-step reads a mixture off, centred at its means."""

from typing import NamedTuple

import torch
from torch import Tensor

from skgmmot.gaussian.covariance.base import CovarianceType
from skgmmot.gaussian.log_density import log_density, responsibilities
from skgmmot.gaussian.mixture import GaussianMixtureParams, PreparedMixture
from skgmmot.numerics.exponentials import exponentials
from skgmmot.numerics.linalg import product


class Statistics(NamedTuple):
    """Sums over samples, computed by the E-step and used by the M-step; those of blocks add."""

    mass: Tensor
    """``s0 (K,)``; with noise ``(K + 1,)``, that of the noise last."""
    shift: Tensor
    """``s1 (K, d)``, centred at the means."""
    scatter: Tensor
    """``S2``, centred at the means, in the storage of the base of their covariance type; of a low
    rank only its products with directions of the mixture, see `CovarianceType.at`."""
    log_likelihood: Tensor
    """``sum_i a_i log p(x_i)``, a scalar."""

    @property
    def component_mass(self) -> Tensor:
        """The mass of the components ``(K,)``."""
        K = self.shift.shape[-2]
        return self.mass if self.mass.shape[-1] == K else self.mass[..., :K]

    def beside(self, noise: Tensor) -> "Statistics":
        """The same with the mass of noise ``(..., )`` beside the components."""
        return self._replace(mass=torch.cat([self.mass, noise.unsqueeze(-1)], dim=-1))

    def recentred(self, by: Tensor, covariance_type: CovarianceType) -> "Statistics":
        """The same samples about other centres, ``c - by`` instead of ``c``."""
        return self._replace(
            shift=self.shift + self.component_mass.unsqueeze(-1) * by,
            scatter=covariance_type.move_scatter(self.scatter, self.component_mass, self.shift, by),
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
    centred = X - theta.means.unsqueeze(1)  # (K, n, d)
    joint = theta.log_joint_of_centred(centred)  # (K, n)
    top = joint.detach().amax(0)
    if theta.noise is not None:
        top = torch.maximum(top, theta.noise.detach())
    resp = exponentials(joint - top)
    total = resp.sum(0)
    if theta.noise is not None:
        total = total + (theta.noise - top).exp()
    resp, log_p = resp / total, total.log() + top
    if theta.weights is not None:  # derivatives in weights of zero are asked for
        resp, log_p = responsibilities(theta, X), log_density(theta, X)
    noise = None if theta.noise is None else (theta.noise - log_p).exp()
    if sample_weight is not None:
        resp, log_p = resp * sample_weight, log_p * sample_weight
        noise = None if noise is None else noise * sample_weight
    found = _moments(theta, centred, resp, log_p.sum())
    return found if noise is None else found.beside(noise.sum())


def moments(theta: GaussianMixtureParams | PreparedMixture, X: Tensor, resp: Tensor) -> Statistics:
    """Sum mass, shift and scatter for given (weighted) responsibilities ``resp (K, n)``."""
    return _moments(theta, X - theta.means.unsqueeze(1), resp, resp.new_zeros(()))


def _moments(theta, centred: Tensor, resp: Tensor, log_likelihood: Tensor) -> Statistics:
    """The same for samples centred at each component ``(K, n, d)``."""
    return Statistics(
        mass=resp.sum(-1),
        shift=product(resp.unsqueeze(-2), centred).squeeze(-2),
        scatter=theta.scatter_type.scatter(centred, resp),
        log_likelihood=log_likelihood,
    )
