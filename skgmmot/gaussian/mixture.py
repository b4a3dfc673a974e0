"""Gaussian mixtures as values: densities and responsibilities.

``p(x) = sum_k w_k g_k(x)`` with ``g_k`` the density of ``N(m_k, Sigma_k)``. Everything is computed
in log space, and samples are centred at each component before anything else is done to them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from skgmmot.gaussian.covariance.registry import covariance_type_of

#: A component of less weight has no samples, and no scale and no say of its own.
EMPTY = 1e-12


class GaussianMixtureParams(NamedTuple):
    """A Gaussian mixture ``sum_k w_k N(m_k, Sigma_k)``: three tensors, one value.

    The shape of ``covariances`` is their type; see `skgmmot.gaussian.covariance.registry`.
    """

    weights: Tensor
    """``w (K,)``, non-negative, of sum one."""
    means: Tensor
    """``m (K, d)``."""
    covariances: Tensor
    """``Sigma``, in the storage of their covariance type."""

    def to(self, **options) -> "GaussianMixtureParams":
        """The same mixture with another ``device`` or ``dtype``."""
        return GaussianMixtureParams(*(t.to(**options) for t in self))

    def detach(self) -> "GaussianMixtureParams":
        """The same mixture as a constant."""
        return GaussianMixtureParams(*(t.detach() for t in self))

    def translated(self, by: Tensor) -> "GaussianMixtureParams":
        """The same mixture with its means translated by ``by (d,)``."""
        return self._replace(means=self.means + by.to(self.means))

    def full_covariances(self) -> Tensor:
        """One covariance matrix a component, ``(K, d, d)``, whatever the storage."""
        kind = covariance_type_of(self.covariances)
        return kind.to_full(self.covariances, *self.means.shape)

    def prepare(self) -> "PreparedMixture":
        """Factor the covariances, once, for evaluating densities."""
        factors = covariance_type_of(self.covariances).precision_factor(self.covariances)
        return PreparedMixture.of(self.weights, self.means, factors)


def join(mixtures: Sequence[GaussianMixtureParams], weights: Tensor) -> GaussianMixtureParams:
    """Return the mixture of mixtures, ``sum_j weights_j mu_j``.

    Parameters
    ----------
    mixtures : sequence of J GaussianMixtureParams
        Mixtures in d dimensions.
    weights : Tensor of shape (J,)
        Their weights.

    Returns
    -------
    GaussianMixtureParams
        All their components, one mixture after the other. Diagonal if all of them are, spherical
        likewise, else full.
    """
    kinds = [covariance_type_of(m.covariances) for m in mixtures]
    if not all(kind.diagonal for kind in kinds):
        covariances = [m.full_covariances() for m in mixtures]
    elif len(set(kinds)) > 1:
        covariances = [m.covariances.expand_as(m.means) for m in mixtures]
    else:
        covariances = [m.covariances for m in mixtures]
    shares = weights.to(mixtures[0].weights)
    return GaussianMixtureParams(
        torch.cat([share * m.weights for share, m in zip(shares, mixtures, strict=True)]),
        torch.cat([m.means for m in mixtures]),
        torch.cat(covariances),
    )


def least(*mixtures: GaussianMixtureParams) -> Tensor:
    """Return zero as a function of mixtures that is least there: its derivatives are zero too.

    Parameters
    ----------
    *mixtures : GaussianMixtureParams
        Mixtures, perhaps on a graph.

    Returns
    -------
    Tensor of shape ()
        Zero, in the dtype of the first one's means.
    """
    zero = mixtures[0].means.new_zeros(())
    for tensor in (t for mixture in mixtures for t in mixture if t.requires_grad):
        zero = zero + 0 * (tensor - tensor.detach()).sum()
    return zero


def select(mixture: GaussianMixtureParams, index) -> GaussianMixtureParams:
    """Return some components of a mixture, with their weights as they are.

    Parameters
    ----------
    mixture : GaussianMixtureParams
        K components.
    index : Tensor or list
        Which ones: numbers, which may repeat, or truth values.

    Returns
    -------
    GaussianMixtureParams
        These components, of the same covariance type.
    """
    covariances = mixture.covariances
    if not covariance_type_of(covariances).shared:
        covariances = covariances[index]
    return GaussianMixtureParams(mixture.weights[index], mixture.means[index], covariances)


def with_mass(mixture: GaussianMixtureParams) -> GaussianMixtureParams:
    """Return a mixture without the components of weight zero.

    Parameters
    ----------
    mixture : GaussianMixtureParams
        The mixture.

    Returns
    -------
    GaussianMixtureParams
        The same distribution.
    """
    return select(mixture, mixture.weights > 0)


class PreparedMixture(NamedTuple):
    """A mixture with its covariances factored: what densities are evaluated from."""

    log_weights: Tensor
    """``log w (K,)``."""
    means: Tensor
    """``m (K, d)``."""
    factors: Tensor
    """Precision factors ``P``, ``P @ P.T = Sigma^{-1}``, in the storage of the covariances."""
    weights: Tensor | None = None
    """``w (K,)`` if they are on a graph and one is zero: ``log w`` has no derivative there, where
    densities have one."""

    @classmethod
    def of(cls, weights: Tensor, means: Tensor, factors: Tensor) -> "PreparedMixture":
        """The mixture of these weights, means and precision factors."""
        if weights.requires_grad:
            zero = weights.detach() == 0
            if zero.any():
                log_weights = weights.masked_fill(zero, 1.0).log().masked_fill(zero, -torch.inf)
                return cls(log_weights, means, factors, weights)
        return cls(weights.log(), means, factors)

    @property
    def requires_grad(self) -> bool:
        """Whether any of it is on a graph."""
        return any(t.requires_grad for t in self[:3])

    def to(self, **options) -> "PreparedMixture":
        """The same mixture, as a constant, with another ``device`` or ``dtype``."""
        return PreparedMixture(*(t.detach().to(**options) for t in self[:3]))

    @property
    def row_size(self) -> int:
        """Numbers that a sample takes while its densities are worked out, for choosing blocks."""
        return self.means.numel()

    def prepare(self) -> "PreparedMixture":
        """Return itself."""
        return self

    def log_joint(self, X: Tensor) -> Tensor:
        """`log_joint` by its definition."""
        centred = X - self.means.unsqueeze(1)  # (K, n, d)
        kind = covariance_type_of(self.factors)
        return self.log_weights.unsqueeze(1) + kind.log_density(
            centred, self.factors.to(centred.dtype)
        )
