"""Coordinates of mixtures and of their changes, and gradients in the geometry of transport."""

import torch
from torch import Tensor

from skgmmot.gaussian.mixture import EMPTY, GaussianMixtureParams

#: Smallest variances of the coordinates' covariances, relative to ``reg_covar``, so that their
#: logarithms are finite.
MIN_FREE_VARIANCE = 1e-3


class FreeCoordinates:
    """Unconstrained coordinates of mixtures: log-weights, means and factors of covariances.

    They are in units of the second moments of one mixture, so that they do not depend on the units
    of the features.

    Parameters
    ----------
    like : GaussianMixtureParams
        A mixture of the same shape, and roughly the same size, as those to convert.
    """

    def __init__(self, like: GaussianMixtureParams):
        variances = like.variances() + like.means.square()
        self.scale = (like.component_weights @ variances).sqrt()  # (d,)
        self.covariance_type, self.noise, like = like.covariance_type, like.noise, like.in_base()
        self.base = like.covariance_type
        self.shapes = [t.shape for t in like]

    def to_free(self, mixture: GaussianMixtureParams) -> Tensor:
        """The coordinates of a mixture."""
        tiny = torch.finfo(mixture.weights.dtype).tiny
        parts = (
            mixture.weights.clamp(min=tiny).log(),
            mixture.means / self.scale,
            self._covariances_to_free(mixture.in_base().covariances),
        )
        return torch.cat([part.flatten() for part in parts])

    def from_free(self, vector: Tensor) -> GaussianMixtureParams:
        """The mixture of coordinates."""
        parts = vector.split([shape.numel() for shape in self.shapes])
        weights, means, free = (p.view(s) for p, s in zip(parts, self.shapes, strict=True))
        return GaussianMixtureParams(
            torch.softmax(weights, dim=0),
            means * self.scale,
            self._covariances_from_free(free),
            self.base,
            self.noise,
        ).out_of_base(self.covariance_type)

    def _covariances_to_free(self, covariances: Tensor) -> Tensor:
        return self.base.to_free(covariances, self.scale)

    def _covariances_from_free(self, free: Tensor) -> Tensor:
        return self.base.from_free(free, self.scale)


class RegularisedCoordinates:
    """Unconstrained coordinates of mixtures whose variances are at least ``reg_covar``.

    Parameters
    ----------
    like : GaussianMixtureParams
        A mixture of the same shape and size as those to convert.
    reg_covar : float
        Added to the variances.
    """

    def __init__(self, like: GaussianMixtureParams, reg_covar: float):
        self.free, self.reg_covar = FreeCoordinates(like), reg_covar

    def to_free(self, mixture: GaussianMixtureParams) -> Tensor:
        """The coordinates of a mixture, whose variances must be at least ``reg_covar``."""
        return self.free.to_free(
            with_added_variance(mixture, -(1 - MIN_FREE_VARIANCE) * self.reg_covar)
        )

    def from_free(self, vector: Tensor) -> GaussianMixtureParams:
        """The mixture of coordinates."""
        return with_added_variance(self.free.from_free(vector), self.reg_covar)


def with_added_variance(mixture: GaussianMixtureParams, variance: float) -> GaussianMixtureParams:
    """Add a multiple of the identity to the covariances of a mixture.

    Parameters
    ----------
    mixture : GaussianMixtureParams
        K components in d dimensions.
    variance : float
        The variance to add.

    Returns
    -------
    GaussianMixtureParams
        The mixture with covariances ``Sigma_k + variance I``.
    """
    added = variance
    covariance_type, mixture = mixture.covariance_type, mixture.in_base()
    if not covariance_type.diagonal:
        added = variance * torch.eye(mixture.means.shape[1]).to(mixture.means)
    return mixture._replace(covariances=mixture.covariances + added).out_of_base(covariance_type)


class LogCoordinates(FreeCoordinates):
    """Unconstrained coordinates with matrix logarithms of covariances; not differentiable.

    The coordinates of a covariance are ``log(L^{-1} Sigma L^{-T})`` relative to that of one
    mixture, ``L L^T``. Lengths of vectors do not depend on the order of the features, as they do
    for triangular factors. Those of a low rank are factors, and logarithms of what is left.

    Parameters
    ----------
    like : GaussianMixtureParams
        A mixture of the same shape, and roughly the same size, as those to convert, with positive
        definite covariances.
    """

    def __init__(self, like: GaussianMixtureParams):
        super().__init__(like)
        self.chart = self.base.chart(like.in_base().covariances)

    def length(self, change: Tensor) -> float:
        """The length of a change, with means in units of their component's standard deviations.

        The coordinates themselves are scaled by the whole mixture, which may be much wider than its
        components.
        """
        weights, means, covariances = change.split([shape.numel() for shape in self.shapes])
        rows = (means.view(self.shapes[1]) * self.scale).unsqueeze(-2)
        rows = self.chart.whitened(rows).flatten()  # L_k^{-1} dm_k
        return float(torch.linalg.vector_norm(torch.cat([weights, rows, covariances])))

    def _covariances_to_free(self, covariances: Tensor) -> Tensor:
        return self.chart.to_free(covariances)

    def _covariances_from_free(self, free: Tensor) -> Tensor:
        return self.chart.from_free(free)


class FisherCoordinates:
    r"""Coordinates of changes of a mixture in which the complete-data Fisher information is one.

    The squared length of a change, for any units of the features, is

    .. math::

        \sum_k \frac{dw_k^2}{w_k} + w_k |L_k^{-1} dm_k|^2
            + \frac{w_k}{2} |L_k^{-1} d\Sigma_k L_k^{-T}|^2.

    In these coordinates an EM step is a gradient of the likelihood, so that the derivative of an EM
    iteration is symmetric at a fixed point (up to ``reg_covar``).

    Parameters
    ----------
    mixture : GaussianMixtureParams
        The mixture at which changes are measured.
    share : Tensor of shape (K,) or tuple of three
        The components' shares of the samples, equal to ``w`` unless weights are fixed; with noise
        ``(K + 1,)`` like ``w``. Three, for weights, means and covariances, if they are not
        determined by the same samples: a weight of share s has the information ``1 / s``.
    within : tuple of two Tensors, default=None
        With noise, how many times as much is known of the components' weights relative to one
        another, and which components ``(K,)`` these are, as zeros and ones. None is once.
    """

    def __init__(
        self,
        mixture: GaussianMixtureParams,
        share: Tensor | tuple[Tensor, ...],
        within: tuple[Tensor, Tensor] | None = None,
    ):
        base, self.mixture = mixture.in_base(), mixture
        self.base = base.covariance_type
        self.factors = self.base.factor(base.covariances)
        self.inverses = self.base.precision_factor(base.covariances)
        self.precisions = self.base.precisions(self.inverses)
        if mixture.noise is not None and isinstance(share, torch.Tensor):
            share = share, share[:-1], share[:-1]
        shares = (share,) if isinstance(share, torch.Tensor) else share
        # a component without samples has a scale of one
        shares = [torch.where(each > EMPTY, each, 1.0) for each in shares]
        self.weight_root, self.root = shares[0].sqrt(), shares[len(shares) // 2].sqrt()  # (K,)
        self.within = None if within is None else self._relative(*within)
        total = self.base.total(shares[-1]) * self.base.pooled(mixture.means.shape[1]) / 2
        self.spread = self.base.each(total.sqrt())
        self._chart = self if base is mixture else _Chart(mixture, self)

    def of_change(self, change: GaussianMixtureParams) -> Tensor:
        """The coordinates of a change of the parameters."""
        return self._join(
            self._stretched(change.weights / self.weight_root, 1),
            self._rows(change.means, self.inverses) * self.root.unsqueeze(-1),
            self._chart.covariances_of_change(change.covariances),
        )

    def of_cotangent(self, u: GaussianMixtureParams) -> Tensor:
        """Coordinates ``(..., m)`` of cotangents, which keep their products with changes."""
        return self._join(
            self._stretched(u.weights * self.weight_root, -1),
            self._rows(u.means, self.factors) / self.root.unsqueeze(-1),
            self._chart.covariances_of_cotangent(u.covariances),
        )

    def cotangent(self, vector: Tensor) -> GaussianMixtureParams:
        """The cotangent of dual coordinates, the inverse of `of_cotangent`."""
        weights, means, covariances = self._cut(vector)
        back = self.base.transpose(self.inverses)
        return GaussianMixtureParams(
            self._stretched(weights, 1) / self.weight_root,
            self._rows(means * self.root.unsqueeze(-1), back),
            self._chart.cotangent_covariances(covariances),
            self.mixture.covariance_type,
        )

    def retracted(self, vector: Tensor) -> GaussianMixtureParams:
        """The mixture after a change, correct to first order; a valid mixture for any vector."""
        weights, means, covariances = self._cut(vector)
        w, m, _ = self.mixture
        means = m + self._rows(means / self.root.unsqueeze(-1), self.base.transpose(self.factors))
        return self.mixture._replace(
            weights=retracted_weights(w, self._stretched(weights, -1) * self.weight_root),
            means=means,
            covariances=self._chart.changed_covariances(covariances),
        )

    def of_velocities(self, shift: Tensor, bend: Tensor) -> Tensor:
        """The coordinates of the change along `velocities`, at constant weights."""
        _, means, covariances = self.mixture
        bent = self.base.anticommutator(bend, covariances) * (2 / self.base.pooled(means.shape[1]))
        nothing = torch.zeros_like(shift[..., 0])
        return self.of_change(GaussianMixtureParams(nothing, shift, bent, self.base))

    def covariances_of_change(self, change: Tensor) -> Tensor:
        """The coordinates ``(..., q)`` of a change of the covariances."""
        return self.base.packed(self.base.congruence(change, self.inverses) * self.spread)

    def covariances_of_cotangent(self, u: Tensor) -> Tensor:
        """The coordinates ``(..., q)`` of cotangents of the covariances."""
        return self.base.packed(self.base.congruence(u, self.factors) / self.spread)

    def cotangent_covariances(self, coordinates: Tensor) -> Tensor:
        """The inverse of `covariances_of_cotangent`."""
        back = self.base.transpose(self.inverses)
        return self.base.congruence(self._unpacked(coordinates) * self.spread, back)

    def changed_covariances(self, coordinates: Tensor) -> Tensor:
        """The covariances after a change: positive definite, however large."""
        # Sigma + dSigma ~ L (I + D / 2)^2 L^T with D = L^{-1} dSigma L^{-T}
        return self.base.squared(self._unpacked(coordinates) / (2 * self.spread), self.factors)

    def _relative(self, times, shares_rest):
        """Roots of what weights are known by ``(K + 1,)``, but along their common way ``(K + 1,)``.

        That is the unit vector of a change of all components in proportion, against noise.
        """
        weights = self.mixture.component_weights * shares_rest
        way = torch.cat([weights.sqrt(), weights.new_zeros(1)])
        way = way / torch.linalg.vector_norm(way).clamp(min=torch.finfo(way.dtype).tiny)
        roots = torch.cat([times.sqrt().expand(len(weights)), weights.new_ones(1)])
        return roots, way

    def _stretched(self, weights, power: int):
        """Coordinates of weights ``(..., K + 1)`` with the information that is within components.

        ``power`` is 1, or -1 for the inverse.
        """
        if self.within is None:
            return weights
        roots, way = self.within
        along = (weights @ way).unsqueeze(-1) * way
        return (weights - along) * roots**power + along

    def _unpacked(self, coordinates):
        return self.base.unpacked(coordinates, self.factors.shape)

    def _rows(self, rows, storage):
        return self.base.apply(rows.unsqueeze(-2), storage).squeeze(-2)

    def _join(self, weights, means, covariances):
        return torch.cat([weights, means.flatten(-2), covariances], dim=-1)

    def _cut(self, vector):
        w, m, _ = self.mixture
        weights, means, covariances = vector.tensor_split([len(w), len(w) + m.numel()], dim=-1)
        return weights, means.unflatten(-1, m.shape), covariances


def retracted_weights(weights: Tensor, change: Tensor) -> Tensor:
    """Return weights after a change, correct to first order: ``w (1 + dw / 2 w)^2``, rescaled.

    Parameters
    ----------
    weights : Tensor of shape (K,)
        The weights before.
    change : Tensor of shape (K,)
        Their change ``dw``.

    Returns
    -------
    Tensor of shape (K,)
        Weights that are not negative and have the same sum; zeros stay zero.
    """
    relative = change / weights.clamp(min=torch.finfo(weights.dtype).tiny)
    moved = weights * (1 + relative / 2).square()
    return moved * (weights.sum() / moved.sum())


class _Chart:
    """Coordinates of changes of covariances of any type, by the metric of its base.

    A change of the storage, as a vector s, changes the base's coordinates by ``J s``. With R the
    root of ``J^T J``, the coordinates ``R s`` have the same length.
    """

    def __init__(self, mixture: GaussianMixtureParams, base: FisherCoordinates):
        self.covariances, covariance_type = mixture.covariances, mixture.covariance_type
        J = torch.autograd.functional.jacobian(
            lambda storage: covariance_type.to_base(storage, *mixture.means.shape), self.covariances
        )
        rows = J.reshape(*base.factors.shape, -1).movedim(-1, 0)
        rows = base.covariances_of_change(rows)  # J^T
        values, vectors = torch.linalg.eigh(rows @ rows.mT)
        # a storage may hold numbers, or sums of them, that the covariances do not depend on
        rounding = len(values) * torch.finfo(values.dtype).eps * float(values[-1])
        values, vectors = values[values > rounding], vectors[:, values > rounding]
        self.root = vectors * values.sqrt() @ vectors.mT
        self.inverse = vectors / values.sqrt() @ vectors.mT

    def covariances_of_change(self, change):
        return change.flatten(-len(self.covariances.shape)) @ self.root

    def covariances_of_cotangent(self, u):
        return u.flatten(-len(self.covariances.shape)) @ self.inverse

    def cotangent_covariances(self, coordinates):
        return (coordinates @ self.root).unflatten(-1, self.covariances.shape)

    def changed_covariances(self, coordinates):
        return self.covariances + (coordinates @ self.inverse).view_as(self.covariances)


def velocities(
    mixture: GaussianMixtureParams, of_means: Tensor, of_covariances: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the Wasserstein gradient of a function of a mixture, a velocity field per component.

    The gradient of a function of ``m`` and ``Sigma`` with respect to the position x of the mass of
    a component of weight w is the affine velocity field ``(u + 2 U (x - m)) / w``. For ``MW2^2`` it
    is twice the displacement from the target.

    Parameters
    ----------
    mixture : GaussianMixtureParams
        K components in d dimensions.
    of_means : Tensor of shape (..., K, d)
        Cotangents ``u`` of the means.
    of_covariances : Tensor
        Cotangents ``U`` of the covariances, in storage.

    Returns
    -------
    shift : Tensor of shape (..., K, d)
        ``u / w``.
    bend : Tensor
        The symmetric part of ``U / w``, in storage.

    Raises
    ------
    ValueError
        If the covariance type is not elementary.
    """
    w, covariance_type = mixture.weights, mixture.covariance_type
    if not covariance_type.elementary:
        raise ValueError(
            "covariance_type must be elementary for velocities of components, got "
            f"{covariance_type.name!r}. Use gradient='implicit'."
        )
    mass = torch.where(w > EMPTY, w, 1.0)  # components without weight do not matter
    total = covariance_type.each(w.sum(0, keepdim=True) if covariance_type.shared else mass)
    return of_means / mass.unsqueeze(-1), covariance_type.symmetric(of_covariances) / total


def descended(
    mixture: GaussianMixtureParams, of_means: Tensor, of_covariances: Tensor, step: float
) -> GaussianMixtureParams:
    """Return a mixture after a gradient descent step in Wasserstein geometry, at constant weights.

    The mass of each component moves against its `velocities`, by an affine map. For a function
    ``MW2^2`` and a step of one half, these maps are those of optimal transport, and the result is
    the target.

    Parameters
    ----------
    mixture : GaussianMixtureParams
        K components in d dimensions.
    of_means : Tensor of shape (K, d)
        Cotangents of the means.
    of_covariances : Tensor
        Cotangents of the covariances, in storage.
    step : float
        Step length.

    Returns
    -------
    GaussianMixtureParams
        The mixture after the step.
    """
    _, means, covariances = mixture
    covariance_type = mixture.covariance_type
    shift, bend = velocities(mixture, of_means, of_covariances)
    bend = bend * (-2 * step / covariance_type.pooled(means.shape[1]))
    pushed = covariance_type.pushed(covariances, bend)
    return mixture._replace(means=means - step * shift, covariances=pushed)
