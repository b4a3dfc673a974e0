"""Gaussian mixtures as values: densities and responsibilities.

``p(x) = sum_k w_k g_k(x)`` with ``g_k`` the density of ``N(m_k, Sigma_k)``. Everything is computed
in log space, and samples are centred at each component before anything else is done to them.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from skgmmot.gaussian.covariance.registry import covariance_type_of
from skgmmot.numerics.linalg import factor

#: A component of less weight has no samples, and no scale and no say of its own.
EMPTY = 1e-12
#: Below this log-density, where distances are ``1 / eps`` spreads, squares hide in their rounding
#: what sets components of equal covariances apart.
FAR = -(torch.finfo(torch.float64).eps ** -2)


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

    def moved(self, by: Tensor) -> "GaussianMixtureParams":
        """The same mixture elsewhere, its means moved by ``by (d,)``."""
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


class FreeCoordinates:
    """Coordinates of mixtures in which every vector is a mixture: logarithms and factors.

    Log-weights, means and free covariances, in units of the spread of one mixture, so that they do
    not depend on the units of the features.

    Parameters
    ----------
    like : GaussianMixtureParams
        A mixture of the shape and, roughly, the spread of those to come.
    """

    def __init__(self, like: GaussianMixtureParams):
        variances = like.full_covariances().diagonal(dim1=-2, dim2=-1) + like.means.square()
        self.scale = (like.weights @ variances).sqrt()  # (d,)
        self.kind = covariance_type_of(like.covariances)
        self.shapes = [t.shape for t in like]

    def to_free(self, mixture: GaussianMixtureParams) -> Tensor:
        """A mixture as a vector."""
        tiny = torch.finfo(mixture.weights.dtype).tiny
        parts = (
            mixture.weights.clamp(min=tiny).log(),
            mixture.means / self.scale,
            self._covariances_to_free(mixture.covariances),
        )
        return torch.cat([part.flatten() for part in parts])

    def from_free(self, vector: Tensor) -> GaussianMixtureParams:
        """A vector as a mixture."""
        parts = vector.split([shape.numel() for shape in self.shapes])
        weights, means, free = (p.view(s) for p, s in zip(parts, self.shapes, strict=True))
        return GaussianMixtureParams(
            torch.softmax(weights, dim=0),
            means * self.scale,
            self._covariances_from_free(free),
        )

    def _covariances_to_free(self, covariances: Tensor) -> Tensor:
        return self.kind.to_free(covariances, self.scale)

    def _covariances_from_free(self, free: Tensor) -> Tensor:
        return self.kind.from_free(free, self.scale)


class LogCoordinates(FreeCoordinates):
    """Free coordinates that change with the order of the features as these do; not differentiable.

    Covariances are logarithms ``log(L^{-1} Sigma L^{-T})`` relative to those of one mixture,
    ``L L^T``. Lengths and sums of vectors are then the same in any order of the features, which
    they are not where covariances are triangular factors.

    Parameters
    ----------
    like : GaussianMixtureParams
        A mixture of the shape and, roughly, the spread of those to come, of positive definite
        covariances.
    """

    def __init__(self, like: GaussianMixtureParams):
        super().__init__(like)
        self.inverses = self.kind.precision_factor(like.covariances)
        self.back = self.kind.transpose(self.kind.factor(like.covariances))

    def length(self, change: Tensor) -> float:
        """The length of a change, with means in units of their component's spread.

        The scale of the coordinates is that of the whole mixture, beside which components may be
        narrow.
        """
        weights, means, covariances = change.split([shape.numel() for shape in self.shapes])
        rows = (means.view(self.shapes[1]) * self.scale).unsqueeze(-2)
        rows = self.kind.apply(rows, self.inverses).flatten()  # L_k^{-1} dm_k
        return float(torch.linalg.vector_norm(torch.cat([weights, rows, covariances])))

    def _covariances_to_free(self, covariances: Tensor) -> Tensor:
        return self.kind.logarithm(self.kind.congruence(covariances, self.inverses))

    def _covariances_from_free(self, free: Tensor) -> Tensor:
        return self.kind.congruence(self.kind.exponential(free), self.back)


class FisherCoordinates:
    """Coordinates of small changes of a mixture, one unit long where they matter alike.

    They turn the Fisher information of a sample and its component into the identity: the squared
    length of a change is ``sum_k dw_k^2 / w_k + w_k |L_k^{-1} dm_k|^2 + w_k |L_k^{-1} dSigma_k
    L_k^{-T}|^2 / 2``, whatever the units of the features. In them the derivative of an EM iteration
    is symmetric at a fixed point (but for ``reg_covar``): the step is a gradient of the likelihood.

    Parameters
    ----------
    mixture : GaussianMixtureParams
        The mixture that is changed.
    share : Tensor of shape (K,)
        The components' share of the samples, ``w`` where weights are free.
    """

    def __init__(self, mixture: GaussianMixtureParams, share: Tensor):
        self.mixture, self.kind = mixture, covariance_type_of(mixture.covariances)
        self.factors = self.kind.factor(mixture.covariances)
        self.inverses = self.kind.precision_factor(mixture.covariances)
        self.precisions = self.kind.precisions(self.inverses)
        # a component without samples has no scale of its own
        share = torch.where(share > EMPTY, share, 1.0)
        self.root = share.sqrt()  # (K,)
        total = share.sum(0, keepdim=True) if self.kind.shared else share
        total = total * self.kind.pooled(mixture.means.shape[1]) / 2
        self.spread = total.sqrt().view(-1, *[1] * (mixture.covariances.ndim - 1))

    def of_change(self, change: GaussianMixtureParams) -> Tensor:
        """A change as a vector."""
        return self._join(
            change.weights / self.root,
            self._rows(change.means, self.inverses) * self.root.unsqueeze(-1),
            self.kind.congruence(change.covariances, self.inverses) * self.spread,
        )

    def of_cotangent(self, u: GaussianMixtureParams) -> Tensor:
        """Cotangents as vectors ``(..., m)``, so that products with changes stay what they are."""
        return self._join(
            u.weights * self.root,
            self._rows(u.means, self.factors) / self.root.unsqueeze(-1),
            self.kind.congruence(u.covariances, self.factors) / self.spread,
        )

    def cotangent(self, vector: Tensor) -> GaussianMixtureParams:
        """The inverse of `of_cotangent`."""
        weights, means, covariances = self._cut(vector)
        back = self.kind.transpose(self.inverses)
        return GaussianMixtureParams(
            weights / self.root,
            self._rows(means * self.root.unsqueeze(-1), back),
            self.kind.congruence(covariances * self.spread, back),
        )

    def moved(self, vector: Tensor) -> GaussianMixtureParams:
        """The mixture after a change, to first order; a mixture however long the vector."""
        weights, means, covariances = self._cut(vector)
        w, m, _ = self.mixture
        relative = weights * self.root / w.clamp(min=torch.finfo(w.dtype).tiny)
        weights = w * (1 + relative / 2).square()
        means = m + self._rows(means / self.root.unsqueeze(-1), self.kind.transpose(self.factors))
        # Sigma + dSigma ~ L (I + D / 2)^2 L^T with D = L^{-1} dSigma L^{-T}
        return GaussianMixtureParams(
            weights * (w.sum() / weights.sum()),
            means,
            self.kind.squared(covariances / (2 * self.spread), self.factors),
        )

    def of_velocities(self, shift: Tensor, bend: Tensor) -> Tensor:
        """The change of a mixture whose components move at these velocities, weights held."""
        _, means, covariances = self.mixture
        bent = self.kind.anticommutator(bend, covariances) * (2 / self.kind.pooled(means.shape[1]))
        return self.of_change(GaussianMixtureParams(torch.zeros_like(shift[..., 0]), shift, bent))

    def _rows(self, rows, storage):
        return self.kind.apply(rows.unsqueeze(-2), storage).squeeze(-2)

    def _join(self, weights, means, covariances):
        parts = zip((weights, means, covariances), self.mixture, strict=True)
        return torch.cat([p.flatten(p.ndim - t.ndim) for p, t in parts], dim=-1)

    def _cut(self, vector):
        parts = vector.split([t.numel() for t in self.mixture], dim=-1)
        pairs = zip(parts, self.mixture, strict=True)
        return [p.reshape(*p.shape[:-1], *t.shape) for p, t in pairs]


def velocities(
    mixture: GaussianMixtureParams, of_means: Tensor, of_covariances: Tensor
) -> tuple[Tensor, Tensor]:
    """Return how the components' mass moves up a function, in the geometry of transport.

    The gradient of a function of ``m`` and ``Sigma``, in the place x of the mass of a component of
    weight w, is ``(u + 2 U (x - m)) / w`` per unit of mass. For ``MW2^2`` it is twice the way from
    the target.

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
    """
    w, _, covariances = mixture
    kind = covariance_type_of(covariances)
    mass = torch.where(w > EMPTY, w, 1.0)  # a component without weight has no say
    total = w.sum(0, keepdim=True) if kind.shared else mass
    total = total.view(-1, *[1] * (covariances.ndim - 1))
    return of_means / mass.unsqueeze(-1), kind.symmetric(of_covariances) / total


def descended(
    mixture: GaussianMixtureParams, of_means: Tensor, of_covariances: Tensor, step: float
) -> GaussianMixtureParams:
    """Return a mixture whose components have moved down a function, weights held.

    The mass of each goes against its `velocities`, by an affine map. For half a step down ``MW2^2``
    these maps are those of optimal transport, and the mixture is the target.

    Parameters
    ----------
    mixture : GaussianMixtureParams
        K components in d dimensions.
    of_means : Tensor of shape (K, d)
        Cotangents of the means.
    of_covariances : Tensor
        Cotangents of the covariances, in storage.
    step : float
        How far.

    Returns
    -------
    GaussianMixtureParams
        The mixture there.
    """
    w, means, covariances = mixture
    kind = covariance_type_of(covariances)
    shift, bend = velocities(mixture, of_means, of_covariances)
    bend = bend * (-2 * step / kind.pooled(means.shape[1]))
    return GaussianMixtureParams(w, means - step * shift, kind.pushed(covariances, bend))


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


def log_joint(mixture: PreparedMixture, X: Tensor) -> Tensor:
    """Return ``log w_k g_k(x_i)``.

    Parameters
    ----------
    mixture : PreparedMixture
        K components in d dimensions.
    X : Tensor of shape (n, d)
        Samples.

    Returns
    -------
    Tensor of shape (K, n)
        One row a component: reductions over components then run along contiguous rows.

    Notes
    -----
    Differentiable in everything. Costs ``O(n K d^2)`` (diagonal types ``O(n K d)``) and holds
    ``(K, n, d)``: call it on blocks of samples.
    """
    return mixture.log_joint(X)


def log_density(mixture: GaussianMixtureParams | PreparedMixture, X: Tensor) -> Tensor:
    """Return the log-density of a mixture, ``log sum_k w_k g_k(x_i)``.

    Parameters
    ----------
    mixture : GaussianMixtureParams or PreparedMixture
        K components in d dimensions.
    X : Tensor of shape (n, d)
        Samples.

    Returns
    -------
    Tensor of shape (n,)
        Log-densities; ``-inf`` where a sample is so far away that its square overflows.

    Raises
    ------
    ValueError
        If a covariance is not positive definite.
    """
    mixture = mixture.prepare()
    joint = log_joint(mixture, X)
    return torch.logsumexp(joint, dim=0) + _of_zero_weights(mixture, X, joint)


def log_responsibilities(mixture: GaussianMixtureParams | PreparedMixture, X: Tensor) -> Tensor:
    """Return the log-posterior of the components, ``log w_k g_k(x_i) - log p(x_i)``.

    Parameters
    ----------
    mixture : GaussianMixtureParams or PreparedMixture
        K components in d dimensions.
    X : Tensor of shape (n, d)
        Samples.

    Returns
    -------
    Tensor of shape (K, n)
        Columns whose exponentials sum to one, also for samples so far away that their squares
        overflow: those belong to the component nearest in its own metric.

    Raises
    ------
    ValueError
        If a covariance is not positive definite.
    """
    mixture = mixture.prepare()
    joint = log_joint(mixture, X)
    overflowed = is_far(joint.detach())  # (n,)
    if not overflowed.any():
        return torch.log_softmax(joint, dim=0) - _of_zero_weights(mixture, X, joint)
    # Far samples stay off the graph, for the derivative of an overflow is not a number: another
    # point takes their place on it.
    near = torch.where(overflowed.unsqueeze(1), mixture.means[0].detach(), X)
    joint = log_joint(mixture, near)
    log_resp = torch.log_softmax(joint, dim=0) - _of_zero_weights(mixture, near, joint)
    one_hot = torch.zeros_like(log_resp)
    one_hot[:, overflowed] = _nearest(mixture, X.detach()[overflowed])
    return torch.where(overflowed, one_hot, log_resp)


def is_far(joint: Tensor) -> Tensor:
    """Return which samples are so far away that rounding hides whose they are.

    Parameters
    ----------
    joint : Tensor of shape (K, n)
        Their log-joint.

    Returns
    -------
    Tensor of shape (n,)
        True where all of it is below `FAR`, or where a square overflowed.
    """
    return ~(joint.amax(0) > FAR)


def responsibilities(mixture: GaussianMixtureParams | PreparedMixture, X: Tensor) -> Tensor:
    """Return the posterior of the components, ``w_k g_k(x_i) / p(x_i)``.

    Parameters
    ----------
    mixture : GaussianMixtureParams or PreparedMixture
        K components in d dimensions.
    X : Tensor of shape (n, d)
        Samples.

    Returns
    -------
    Tensor of shape (K, n)
        The exponentials of `log_responsibilities`. In a weight of zero they have the derivative
        that the logarithm has not, ``g_k / p``.

    Raises
    ------
    ValueError
        If a covariance is not positive definite.
    """
    mixture = mixture.prepare()
    resp = log_responsibilities(mixture, X).exp()
    if mixture.weights is None:
        return resp
    zero, share = _zero_shares(mixture, X, log_density(mixture, X))
    return resp.index_copy(0, zero, share)


def _of_zero_weights(mixture: PreparedMixture, X: Tensor, joint: Tensor) -> Tensor | float:
    """What components of weight zero add to the log-density: zeros with a derivative, or none."""
    if mixture.weights is None:
        return 0.0
    _, share = _zero_shares(mixture, X, torch.logsumexp(joint, dim=0))
    return torch.log1p(share.sum(0))


def _zero_shares(mixture: PreparedMixture, X: Tensor, log_p: Tensor) -> tuple[Tensor, Tensor]:
    """Components of weight zero, and ``w_k g_k(x_i) / p(x_i)``: zeros that have derivatives."""
    zero = (mixture.weights == 0).nonzero().squeeze(1)
    w, factors = mixture.weights[zero], mixture.factors
    if not covariance_type_of(factors).shared:
        factors = factors[zero]
    log_g = PreparedMixture(torch.zeros_like(w), mixture.means[zero], factors).log_joint(X)
    # Where such a component has all the density its derivative is huge, but no infinity.
    largest = math.log(torch.finfo(X.dtype).max) / 2
    ratio = (log_g - log_p).nan_to_num(-torch.inf).clamp(max=largest).exp()
    return zero, w.unsqueeze(1) * ratio


def sample(
    mixture: GaussianMixtureParams, n_samples: int, *, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Draw independent samples from a mixture, in random order.

    Parameters
    ----------
    mixture : GaussianMixtureParams
        K components in d dimensions.
    n_samples : int
        How many.
    generator : torch.Generator, default=None
        Source of random numbers, on the device of the mixture; None is torch's own.

    Returns
    -------
    X : Tensor of shape (n_samples, d)
        Samples ``m_k + L_k z``. Not differentiable.
    labels : Tensor of shape (n_samples,)
        Their components.
    """
    weights, means, _ = mixture.detach()
    labels = torch.multinomial(weights, n_samples, replacement=True, generator=generator)
    normal = torch.randn(
        n_samples, means.shape[1], generator=generator, dtype=means.dtype, device=means.device
    )
    X = means[labels]
    for k, L in enumerate(factor(mixture.full_covariances())):
        chosen = labels == k
        X[chosen] += normal[chosen] @ L.mT
    return X, labels


def rsample(
    mixture: GaussianMixtureParams, n_samples: int, *, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Draw weighted samples that are differentiable in the mixture.

    Each component gets its share of the samples, ``n_k`` of them (at least one), drawn as
    ``m_k + L_k z`` and weighted by ``a = w_k / n_k``. So ``sum_i a_i f(x_i)`` has the mean
    ``sum_k w_k E_k f``, and its derivatives have that mean's: in the means and covariances through
    the samples, in the weights through ``a``.

    Parameters
    ----------
    mixture : GaussianMixtureParams
        K components in d dimensions, of positive definite covariances.
    n_samples : int
        How many; at least the number of components of positive weight.
    generator : torch.Generator, default=None
        Source of random numbers, on the device of the mixture; None is torch's own.

    Returns
    -------
    X : Tensor of shape (n_samples, d)
        Samples, component by component, on the graph of the means and covariances.
    sample_weight : Tensor of shape (n_samples,)
        Their weights ``a``, of sum one, on the graph of the weights.

    Raises
    ------
    ValueError
        If there are fewer samples than components of positive weight.

    Notes
    -----
    No gradient passes from the samples' positions to the weights: moving mass between distant
    components along a path through the samples would have a huge variance, and ``a`` carries it
    without.
    """
    weights, means, covariances = mixture
    kind = covariance_type_of(covariances)
    counts = _shares(weights.detach(), n_samples)
    normal = torch.randn(
        n_samples, means.shape[1], generator=generator, dtype=means.dtype, device=means.device
    )
    factors = kind.transpose(kind.factor(covariances)).expand(len(weights), *covariances.shape[1:])
    parts = zip(means, normal.split(counts), factors.split(1), strict=True)
    X = torch.cat([m + kind.apply(z.unsqueeze(0), L).squeeze(0) for m, z, L in parts])
    counts = torch.tensor(counts, device=means.device)
    return X, (weights / counts.clamp(min=1)).repeat_interleave(counts)


def _shares(weights: Tensor, n_samples: int) -> list[int]:
    """Counts in proportion to the weights, by largest remainders, at least one each."""
    positive = weights > 0
    if n_samples < int(positive.sum()):
        raise ValueError(
            f"n_samples must be at least the number of components, {int(positive.sum())}, got "
            f"{n_samples}. Draw more samples."
        )
    quotas = (weights / weights.sum() * n_samples).double()
    counts = torch.where(positive, quotas.floor().clamp(min=1), 0.0)
    missing = n_samples - int(counts.sum())
    for _ in range(abs(missing)):  # at most one a component
        gap = quotas - counts
        if missing > 0:
            counts[gap.argmax()] += 1
        else:
            counts[gap.masked_fill(counts <= 1, torch.inf).argmin()] -= 1
    return counts.int().tolist()


def _nearest(mixture: PreparedMixture, X: Tensor) -> Tensor:
    """One-hot log-responsibilities ``(K, n)`` of samples at infinity, as constants.

    Along ``x = s u`` the squared distances are ``s^2 |u P_k|^2 - 2 s <u P_k, m_k P_k> + ...``: the
    first term decides, and where it is equal (shared covariances) the second.
    """
    mixture = mixture.to()
    kind = covariance_type_of(mixture.factors)
    X = X.to(mixture.factors.dtype)
    factors = mixture.factors / mixture.factors.abs().max()  # so that no product overflows
    u = (X / X.abs().amax(1, keepdim=True)).expand(len(mixture.means), -1, -1)  # (K, n, d)
    white = kind.apply(u, factors)
    first = white.square().sum(-1)
    second = (white * kind.apply(mixture.means.unsqueeze(1), factors)).sum(-1)
    first = first.masked_fill(torch.isneginf(mixture.log_weights).unsqueeze(1), torch.inf)
    tied = first <= first.amin(0) * (1 + 8 * torch.finfo(X.dtype).eps)
    winner = second.masked_fill(~tied, -torch.inf).argmax(0, keepdim=True)
    return torch.full_like(first, -torch.inf).scatter_(0, winner, 0.0)
