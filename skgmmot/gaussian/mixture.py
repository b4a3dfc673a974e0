"""Gaussian mixtures as values: densities and responsibilities.

``p(x) = sum_k w_k g_k(x)`` with ``g_k`` the density of ``N(m_k, Sigma_k)``. Everything is computed
in log space, and samples are centred at each component before anything else is done to them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from skgmmot.gaussian.covariance.base import CovarianceType, DensityType
from skgmmot.gaussian.covariance.low_rank import joined
from skgmmot.gaussian.covariance.registry import COVARIANCE_TYPES, DIAG, FULL, type_of_storage
from skgmmot.gaussian.covariance.typed import TypedTensors, as_pytree
from skgmmot.numerics.exponentials import log_sum_exp
from skgmmot.numerics.fixed_point import named

#: A component of less weight has no samples, and no scale and no say of its own.
EMPTY = 1e-12


@as_pytree
@dataclass(frozen=True, slots=True, eq=False)
class GaussianMixtureParams(TypedTensors):
    """A Gaussian mixture ``sum_k w_k N(m_k, Sigma_k)``: three tensors and a covariance type.

    It iterates over its three tensors, ``_replace`` and ``map`` change them, and torch walks it as
    a pytree. Changes and cotangents of mixtures are of this class too; their tensors may have axes
    before their own.

    Parameters
    ----------
    weights : Tensor of shape (K,)
        ``w``, non-negative, of sum one; with ``noise`` ``(K + 1,)``, its weight ``w_0`` last.
    means : Tensor of shape (K, d)
        ``m``.
    covariances : Tensor
        ``Sigma``, in the storage of their covariance type: ``(K, d, d)`` if full, ``(1, d, d)`` if
        tied, ``(K, d)`` if diagonal, ``(K, 1)`` if spherical.
    covariance_type : CovarianceType or str, default=None
        The type, or its name; if it is given, shapes are not checked. None finds an elementary one
        by the shape of the covariances; where two types are the same model, it is tied rather than
        full (for K = 1) and spherical rather than diagonal (for d = 1).
    noise : float, default=None
        Log-density of uniform noise beside the components, the same everywhere:
        ``p(x) = sum_k w_k g_k(x) + w_0 exp(noise)``. None is no noise.

    Raises
    ------
    ValueError
        If no type is given and the covariances have the shape of none, or no type has that name.
    """

    weights: Tensor
    means: Tensor
    covariances: Tensor
    covariance_type: Any = None  # given as its name, too, or not; then found, and always an object
    noise: float | None = None

    def __post_init__(self):
        given = self.covariance_type
        if isinstance(given, CovarianceType):
            return
        if given is None:
            found = type_of_storage(self.covariances, self.means)
        else:
            found = named("covariance_type", given, COVARIANCE_TYPES).of_storage(self.covariances)
        object.__setattr__(self, "covariance_type", found)

    def __repr__(self):
        shown = [*self._fields, "covariance_type", *([] if self.noise is None else ["noise"])]
        parts = ", ".join(f"{name}={getattr(self, name)!r}" for name in shown)
        return f"{type(self).__name__}({parts})"

    def translated(self, by: Tensor) -> "GaussianMixtureParams":
        """Return the mixture translated by a vector.

        Parameters
        ----------
        by : Tensor of shape (d,)
            What is added to its means.

        Returns
        -------
        GaussianMixtureParams
            The translated mixture.
        """
        return self._replace(means=self.means + by.to(self.means))

    def scaled(self, by: float) -> "GaussianMixtureParams":
        """Return the mixture scaled by a factor.

        Parameters
        ----------
        by : float
            What samples are multiplied by.

        Returns
        -------
        GaussianMixtureParams
            The scaled mixture.
        """
        once = self.covariance_type.scaled(self.covariances, by)  # by**2 may overflow
        covariances = self.covariance_type.scaled(once, by)
        return self._replace(means=self.means * by, covariances=covariances)

    @property
    def scatter_type(self) -> CovarianceType:
        """The type that takes scatter at this mixture."""
        return self.covariance_type.base.at(self.covariances)

    @property
    def component_weights(self) -> Tensor:
        """The weights ``(K,)`` of the components; with noise their sum is less than one."""
        return self.weights if self.noise is None else self.weights[:-1]

    def with_noise(self, weight: float | Tensor, noise: float) -> "GaussianMixtureParams":
        """Return a mixture of this one and uniform noise.

        Parameters
        ----------
        weight : float or Tensor of shape ()
            The weight of the noise, ``w_0``.
        noise : float
            Its log-density.

        Returns
        -------
        GaussianMixtureParams
            ``(1 - w_0) p(x) + w_0 exp(noise)``.
        """
        given = weight if isinstance(weight, Tensor) else torch.full_like(self.weights[:1], weight)
        share = given.to(self.weights).reshape(1)
        weights = torch.cat([self.weights * (1 - share), share])
        return self._replace(weights=weights, noise=noise)

    def without_noise(self) -> "GaussianMixtureParams":
        """Return the components alone.

        Returns
        -------
        GaussianMixtureParams
            The mixture of the components, with weights of sum one.
        """
        if self.noise is None:
            return self
        weights = self.component_weights
        return self._replace(weights=weights / weights.sum(), noise=None)

    def canonical(self) -> "GaussianMixtureParams":
        """Return the mixture in canonical storage, where several hold the same covariances.

        Returns
        -------
        GaussianMixtureParams
            The mixture.
        """
        return self._replace(covariances=self.covariance_type.canonical(self.covariances))

    def factors(self) -> tuple[Tensor, Tensor] | None:
        """Return factors and variances, ``Sigma_k = F_k @ F_k.T + diag(psi_k)``.

        Returns
        -------
        tuple of Tensor of shapes (K, d, r) and (K, d), or None
            None if its covariances are matrices.
        """
        base = self.in_base()
        return base.covariance_type.factors(base.covariances, *self.means.shape)

    def variances(self) -> Tensor:
        """Return the variances of the features in each component.

        Returns
        -------
        Tensor of shape (K, d)
            The diagonals of the covariance matrices.
        """
        return self.covariance_type.variances(self.covariances, *self.means.shape)

    def in_base(self) -> "GaussianMixtureParams":
        """Return the same mixture in the storage of the base of its covariance type.

        Returns
        -------
        GaussianMixtureParams
            The mixture, whose covariance type is its own base.
        """
        covariance_type = self.covariance_type
        if covariance_type.base is covariance_type:
            return self
        covariances = covariance_type.to_base(self.covariances, *self.means.shape)
        return self._replace(covariances=covariances, covariance_type=covariance_type.base)

    def out_of_base(self, covariance_type: CovarianceType) -> "GaussianMixtureParams":
        """Return the nearest mixture of a covariance type whose base is that of this mixture.

        Parameters
        ----------
        covariance_type : CovarianceType
            The type.

        Returns
        -------
        GaussianMixtureParams
            The mixture of that type.
        """
        if covariance_type.base is covariance_type:
            return self
        weights, d = self.component_weights, self.means.shape[1]
        covariances = covariance_type.from_base(self.covariances, weights, d)
        return self._replace(covariances=covariances, covariance_type=covariance_type)

    def full_covariances(self) -> Tensor:
        """Return one covariance matrix for each component, whatever the storage.

        Returns
        -------
        Tensor of shape (K, d, d)
            The matrices.
        """
        return self.covariance_type.to_full(self.covariances, *self.means.shape)

    def prepare(self) -> "PreparedMixture":
        """Factor the covariances, once, for evaluating densities.

        Returns
        -------
        PreparedMixture
            The mixture with its factors.

        Raises
        ------
        ValueError
            If a covariance is not positive definite.
        """
        weights, means, covariances = base = self.in_base()
        covariance_type = base.covariance_type
        factors = covariance_type.precision_factor(covariances)
        return PreparedMixture.of(weights, means, factors, covariance_type, self.noise)

    def unchecked(self) -> tuple["PreparedMixture", Tensor]:
        """Factor the covariances like `prepare`, without waiting for the device.

        Returns
        -------
        PreparedMixture
            The mixture with its factors.
        finite : Tensor of shape ()
            A number for ``check_positive``, which raises the error.
        """
        weights, means, covariances = base = self.in_base()
        factors, finite = base.covariance_type.unchecked_precision_factor(covariances)
        return PreparedMixture.of(weights, means, factors, base.covariance_type, self.noise), finite


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
        likewise; of low rank if all of them are that or diagonal; else full.
    """
    types = {m.covariance_type for m in mixtures}
    if len(types) == 1 and not mixtures[0].covariance_type.shared:
        (covariance_type,) = types
        covariances = [m.covariances for m in mixtures]
    elif all(each.diagonal for each in types):
        covariance_type = DIAG
        covariances = [m.in_base().covariances.expand_as(m.means) for m in mixtures]
    elif all(m.factors() is not None for m in mixtures):
        storage, covariance_type = joined([m.factors() for m in mixtures])
        covariances = [storage]
    else:
        covariance_type = FULL
        covariances = [m.full_covariances() for m in mixtures]
    shares = weights.to(mixtures[0].weights)
    return GaussianMixtureParams(
        torch.cat([share * m.weights for share, m in zip(shares, mixtures, strict=True)]),
        torch.cat([m.means for m in mixtures]),
        torch.cat(covariances),
        covariance_type,
    )


def least(*mixtures: GaussianMixtureParams) -> Tensor:
    """Return zero with zero derivatives in mixtures, as at a minimum.

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
    covariance_type, covariances = mixture.covariance_type, mixture.covariances
    if not covariance_type.shared:
        covariances = covariances[index]
    return GaussianMixtureParams(
        mixture.weights[index], mixture.means[index], covariances, covariance_type
    )


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
    """Precision factors ``P``, ``P @ P.T = Sigma^{-1}``, in the storage of their type."""
    covariance_type: DensityType
    """The type of the factors."""
    weights: Tensor | None = None
    """``w (K,)`` if they are on a graph and one is zero: ``log w`` has no derivative there, where
    densities have one."""
    noise: Tensor | None = None
    """``log w_0`` and the log-density of uniform noise, added ``()``; None is no noise."""

    @classmethod
    def of(
        cls,
        weights: Tensor,
        means: Tensor,
        factors: Tensor,
        covariance_type: DensityType,
        noise: float | None = None,
    ) -> "PreparedMixture":
        """The mixture of these weights, means and precision factors, perhaps with noise."""
        if noise is not None:
            share = weights[-1]  # there is no derivative where it is zero
            known = torch.where(share > 0, share, 1.0).log()
            joint = torch.where(share > 0, known, -torch.inf) + noise
            return cls.of(weights[:-1], means, factors, covariance_type)._replace(noise=joint)
        if weights.requires_grad:
            zero = weights.detach() == 0
            if zero.any():
                log_weights = weights.masked_fill(zero, 1.0).log().masked_fill(zero, -torch.inf)
                return cls(log_weights, means, factors, covariance_type, weights)
        return cls(weights.log(), means, factors, covariance_type)

    @property
    def scatter_type(self) -> DensityType:
        """The type that takes scatter at this mixture."""
        return self.covariance_type.at_factors(self.factors)

    @property
    def requires_grad(self) -> bool:
        """Whether any of it is on a graph."""
        noise = () if self.noise is None else (self.noise,)
        return any(t.requires_grad for t in (*self[:3], *noise))

    def to(self, **options) -> "PreparedMixture":
        """The same mixture, as a constant, with another ``device`` or ``dtype``."""
        tensors = (t.detach().to(**options) for t in self[:3])
        noise = None if self.noise is None else self.noise.detach().to(**options)
        return PreparedMixture(*tensors, self.covariance_type, noise=noise)

    def unshared(self) -> "PreparedMixture":
        """The same mixture with a covariance for each component."""
        covariance_type = self.covariance_type.unshared
        factors = self.factors.expand(covariance_type.shape(*self.means.shape))
        return self._replace(factors=factors, covariance_type=covariance_type)

    def log_normaliser(self, joint: Tensor) -> Tensor:
        """``log p (n,)`` from the log-joint of the components ``(K, n)``."""
        log_p = log_sum_exp(joint, 0)
        return log_p if self.noise is None else torch.logaddexp(log_p, self.noise)

    @property
    def row_size(self) -> int:
        """Numbers that a sample takes while its densities are worked out, for choosing blocks."""
        return self.means.numel()

    def prepare(self) -> "PreparedMixture":
        """Return itself."""
        return self

    def log_joint(self, X: Tensor) -> Tensor:
        """`log_joint` by its definition."""
        return self.log_joint_of_centred(X - self.means.unsqueeze(1))  # (K, n, d)

    def log_joint_of_centred(self, centred: Tensor) -> Tensor:
        """The same of samples centred at each component ``(K, n, d)``."""
        factors = self.factors.to(centred.dtype)
        return self.covariance_type.log_density(centred, factors, self.log_weights)
