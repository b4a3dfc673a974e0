"""The E-step on blocks of samples: by its definition, and as a few large matrix products.

`EStep` is what all three ways have in common. `FeatureEStep` writes log-densities as linear
functions of quadratic features; `WhiteningEStep` squares products with triangular matrices, which
is faster for few components in many dimensions. Both are much faster than `DefinitionEStep` for
many samples, are not differentiable, and lose digits where components are much narrower than their
distance from the origin. `skgmmot.gaussian.choice` chooses among them.
"""

import math
from collections.abc import Callable
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from skgmmot.gaussian.covariance.base import LOG_2PI, ElementaryType
from skgmmot.gaussian.log_density import (
    is_far,
    log_density,
    log_joint,
    log_responsibilities,
    responsibilities,
)
from skgmmot.gaussian.statistics import Statistics, e_step, moments
from skgmmot.numerics.blocks import MIN_BLOCK_ROWS
from skgmmot.numerics.exponentials import LEAST

#: Blocks of fewer rows make matrix products slow, however many numbers a row takes.
MIN_PRODUCT_ROWS = 512
#: Numbers of a block (16 MiB in float64) up to which the definition takes as many rows as features:
#: with fewer, a quarter of its time goes to adding up matrices.
MATRIX_BLOCK_SIZE = 2**21
#: Entries of samples so large are near the end of the range: what is not a number overflowed.
HUGE = 1e150


class EStep(Protocol):
    """A mixture, evaluated on blocks of samples.

    Samples ``X (b, d)`` may be a view, in float32 or float64. ``buffers(name, shape, dtype)`` gives
    memory for intermediate results, which the next block may reuse; None is new memory.
    """

    dtype: torch.dtype
    """That of the results."""
    row_size: int
    """Numbers that a sample takes in a block, for choosing the length of blocks."""
    min_rows: int
    """Shorter blocks are slow."""

    def log_joint(self, X: Tensor) -> Tensor:
        """Return ``log w_k g_k(x_i) (K, b)``."""

    def log_density(self, X: Tensor) -> Tensor:
        """Return ``log sum_k w_k g_k(x_i) (b,)``."""

    def log_responsibilities(self, X: Tensor) -> Tensor:
        """Return the log-posterior of the components ``(K, b)``."""

    def responsibilities(self, X: Tensor, buffers=None) -> tuple[Tensor, Tensor]:
        """Return the posterior of the components ``(K, b)``, and samples about the origin."""

    def products(self, X: Tensor, buffers) -> tuple[Tensor, Tensor]:
        """Return what `accumulate` takes, and the log-joint ``(K, b)``."""

    def accumulate(self, lifted: Tensor, resp: Tensor, buffers) -> tuple[Tensor, ...]:
        """Sum a block for given (weighted) responsibilities ``(K, b)``."""

    def block(self, X: Tensor, sample_weight: Tensor | None, buffers) -> tuple[Tensor, ...]:
        """Sum over one block what `statistics` needs; the sums of several blocks add."""

    def statistics(
        self, *sums: Tensor, total_scatter: Callable[[], Tensor] | None = None
    ) -> Statistics:
        """Turn the sums over all blocks into statistics centred at the means.

        ``total_scatter()`` gives ``sum_i a_i x_i x_i^T (1, d, d)`` about the origin: only a
        covariance that all components share may need it.
        """


class DefinitionEStep:
    """The E-step by its definition: accurate for any mixture, and differentiable.

    Parameters
    ----------
    theta : GaussianMixtureParams or PreparedMixture
        A mixture about the origin, in float64.
    origin : Tensor of shape (d,), default=None
        The origin; None is zero.

    Raises
    ------
    ValueError
        If a covariance is not positive definite.

    Notes
    -----
    Samples in float32 are computed with in float64: components may be as thin as their rounding.
    Costs ``O(n K d^2)`` (diagonal types ``O(n K d)``) and holds ``(K, b, d)``.
    """

    dtype = torch.float64

    def __init__(self, theta, origin=None):
        self.theta, self.origin = theta.prepare(), origin
        self.row_size = self.theta.means.numel()
        # A block adds to K matrices: that must cost less than its products.
        per_feature = math.prod(self.theta.factors.shape[1:]) // self.theta.means.shape[1]
        enough = min(per_feature, MATRIX_BLOCK_SIZE // self.row_size)
        self.min_rows = max(MIN_BLOCK_ROWS, per_feature // 4, enough)

    def about_origin(self, X: Tensor) -> Tensor:
        """Samples ``(b, d)`` about the origin."""
        return X if self.origin is None else X.double() - self.origin.double()

    def log_joint(self, X):
        return log_joint(self.theta, self.about_origin(X))

    def log_density(self, X):
        found = log_density(self.theta, self.about_origin(X))
        lost = found.detach().isnan()
        if lost.any():  # projections overflowed, of both signs
            found = found.masked_fill(lost & (X.detach().abs().amax(1) > HUGE), -torch.inf)
        return found

    def log_responsibilities(self, X):
        return log_responsibilities(self.theta, self.about_origin(X))

    def responsibilities(self, X, buffers=None):
        x = self.about_origin(X)
        return responsibilities(self.theta, x), x.mT

    def products(self, X, buffers):
        x = self.about_origin(X)
        return x, log_joint(self.theta, x)

    def accumulate(self, lifted, resp, buffers):
        return tuple(moments(self.theta, lifted, resp)[:3])

    def block(self, X, sample_weight, buffers):
        return tuple(e_step(self.theta, self.about_origin(X), sample_weight))

    def statistics(self, *sums, total_scatter=None):
        return Statistics(*sums)


class ProductEStep:
    """What the E-steps by matrix products share: a mixture about an origin, and a dtype.

    Samples whose squares overflow take the definition instead, with their whole block, except in
    `block`.

    Parameters
    ----------
    theta : GaussianMixtureParams or PreparedMixture
        A mixture, in float64, about the origin.
    origin : Tensor of shape (d,)
        A point near the samples' mean.
    dtype : torch.dtype, default=torch.float64
        That of the products.
    apart : bool, default=False
        Whether the shares of a sample that are accumulated may have any sum. Then, and with noise,
        the scatter about a covariance that components share is not that of all samples: they are
        given one each, and their scatters are added.

    Raises
    ------
    ValueError
        If a covariance is not positive definite.
    """

    min_rows = MIN_PRODUCT_ROWS

    def __init__(self, theta, origin, dtype=torch.float64, apart=False):
        self.theta, self.origin, self.dtype = theta.prepare(), origin, dtype
        self.noise, self.pools = None, False
        if self.theta.noise is not None:
            self.noise = self.theta.noise.to(dtype)
        if apart or self.theta.noise is not None:
            self.pools = self.theta.covariance_type.shared
            self.theta = self.theta.unshared()
        log_weights, means, self.factors = self.theta[:3]
        self.covariance_type = covariance_type = self.theta.covariance_type
        constant = log_weights + covariance_type.log_det(self.factors, means.shape[1])
        self.constant = constant - means.shape[1] * LOG_2PI / 2  # log-joint at the means
        self.origin_column = origin.to(dtype).unsqueeze(1)

    @cached_property
    def definition(self) -> DefinitionEStep:
        """The same E-step by its definition."""
        return DefinitionEStep(self.theta, self.origin)

    @cached_property
    def precisions(self) -> Tensor:
        """The inverses of the covariances, in storage."""
        return self.covariance_type.precisions(self.factors)

    def products(self, X: Tensor, buffers) -> tuple[Tensor, Tensor]:
        """Return what sums are made of, samples about the origin first, and the log-joint.

        They are ``(., b)`` and ``(K, b)``, the latter without the quadratic term that all
        components share.
        """
        raise NotImplementedError

    def log_joint(self, X):
        lifted, joint = self.products(X, _new_memory(X))
        if self.covariance_type.shared:
            whitened = self.factors[0].mT.to(self.dtype) @ lifted[: X.shape[1]]
            joint.sub_(whitened.square_().sum(0), alpha=0.5)
        return joint if torch.isfinite(joint.amax(0)).all() else self.definition.log_joint(X)

    def compared(self, X: Tensor) -> Tensor:
        """Return the log-joint ``(K, b)`` without the quadratic term that all components share."""
        return self.products(X, _new_memory(X))[1]

    def log_density(self, X):
        return self.theta.log_normaliser(self.log_joint(X))

    def log_responsibilities(self, X):
        joint = self.compared(X)
        if is_far(joint).any():
            return self.definition.log_responsibilities(X)
        if self.noise is not None:
            return joint - self.theta.log_normaliser(joint)
        return torch.log_softmax(joint, dim=0)

    def responsibilities(self, X, buffers=None):
        lifted, joint = self.products(X, _new_memory(X) if buffers is None else buffers)
        if is_far(joint).any():
            return self.definition.responsibilities(X)
        resp = joint.div_(self.exponentiate(joint)[0])
        return torch.nn.functional.threshold_(resp, LEAST[resp.dtype], 0.0), lifted[: X.shape[1]]

    def exponentiate(self, joint: Tensor) -> tuple[Tensor, Tensor]:
        """Turn a log-joint ``(K, b)`` in place into responsibilities before they are normalised.

        Returns their sum ``(b,)``, with that of noise, and the logarithm that was taken out of them
        ``(b,)``.
        """
        top = joint.amax(0)
        if self.noise is not None:
            top = torch.maximum(top, self.noise)
        # The floor keeps subnormal numbers out, which are slow and which no sum sees.
        floor = math.log(torch.finfo(joint.dtype).tiny) + 8
        joint.sub_(top).clamp_(min=floor).exp_()
        total = joint.sum(0)
        return (total if self.noise is None else total + (self.noise - top).exp()), top

    def noise_mass(
        self, total: Tensor, top: Tensor, sample_weight: Tensor | None
    ) -> tuple[Tensor, ...]:
        """What noise has of a block, ``()``, in a tuple; an empty one without noise."""
        if self.noise is None:
            return ()
        share = (self.noise - top).exp_().div_(total)
        if sample_weight is not None:
            share.mul_(sample_weight)
        return (share.sum(dtype=torch.float64),)

    def _about_means(self, found: Statistics, noise: tuple[Tensor, ...]) -> Statistics:
        """Sums about the origin at the means; with those of noise, pooled if components share."""
        found = found.recentred(-self.theta.means, self.covariance_type)
        if self.pools:
            found = found._replace(scatter=found.scatter.sum(-3, keepdim=True))
        return found.beside(*noise) if noise else found

    @staticmethod
    def normalise(resp: Tensor, total: Tensor, top: Tensor, sample_weight: Tensor | None) -> Tensor:
        """Divide by the sum, in place, times the samples' weights; return the log-likelihood."""
        log_p = total.log().add_(top)
        if sample_weight is None:
            resp.mul_(total.reciprocal_())
        else:
            resp.mul_(torch.div(sample_weight, total))
            log_p.mul_(sample_weight)
        return log_p.sum(dtype=torch.float64)


def _new_memory(X: Tensor):
    """Buffers of new memory on the device of samples."""
    return lambda _, shape, dtype: X.new_empty(shape, dtype=dtype)


def coefficients_on_features(
    covariance_type: ElementaryType,
    means: Tensor,
    constant: Tensor,
    slope: Tensor,
    curvature: Tensor,
) -> Tensor:
    """Write functions of the samples as coefficients on the quadratic features of `FeatureEStep`.

    Parameters
    ----------
    covariance_type : ElementaryType
        The type, in whose storage the curvatures are.
    means : Tensor of shape (..., K, d)
        ``m``.
    constant : Tensor of shape (..., K)
        The functions are ``constant_k + <slope_k, y> - <y, curvature_k y> / 2`` with
        ``y = x - m_k``, without ``<x, curvature x> / 2`` where all components share it.
    slope : Tensor of shape (..., K, d)
        Their slopes at the means.
    curvature : Tensor
        Matrices in storage, with the axes of the means in front.

    Returns
    -------
    Tensor of shape (..., K, d + 1 + q)
        The coefficients.
    """
    bent = covariance_type.apply(means.unsqueeze(-2), curvature).squeeze(-2)  # (..., K, d)
    constant = constant - (slope * means).sum(-1) - (bent * means).sum(-1) / 2
    quadratic = covariance_type.quadratic_coefficients(curvature).expand(*bent.shape[:-1], -1)
    return torch.cat([slope + bent, constant.unsqueeze(-1), quadratic], dim=-1)


class FeatureEStep(ProductEStep):
    r"""The E-step as two matrix products, on quadratic features of the samples.

    .. math:: \log w_k g_k(x) = \langle C_k, \phi(x) \rangle, \qquad
        \phi(x) = (x, 1, \mathrm{quadratic}(x)),

    so that the joint densities of a block are ``C @ phi`` and its sums ``resp @ phi.T``. Symmetry
    halves the work of ``d x d`` products, and every elementwise operation runs along contiguous
    rows. The quadratic term of a covariance that all components share is the same for all of them:
    it is left out, and its sum over the samples is the total scatter.

    Parameters
    ----------
    theta : GaussianMixtureParams or PreparedMixture
        A mixture, in float64, about the origin.
    origin : Tensor of shape (d,)
        A point near the samples' mean.
    dtype : torch.dtype, default=torch.float64
        That of the products.
    apart : bool, default=False
        As in `ProductEStep`.

    Raises
    ------
    ValueError
        If a covariance is not positive definite.

    Notes
    -----
    Costs ``2 n K q`` multiplications, ``q = (d + 1)(d + 2) / 2`` for the full type, ``2 d + 1``
    for the diagonal, ``d + 2`` for the spherical and ``d + 1`` for the tied one.
    """

    def __init__(self, theta, origin, dtype=torch.float64, apart=False):
        super().__init__(theta, origin, dtype, apart)
        no_slope = torch.zeros_like(self.theta.means)
        self.coefficients = self.of_features(self.constant, no_slope, self.precisions)
        self._coefficients = self.coefficients.to(dtype)
        self.row_size = sum(self.coefficients.shape)

    def of_features(self, constant: Tensor, slope: Tensor, curvature: Tensor) -> Tensor:
        """Write functions of the samples as coefficients ``(K, d + 1 + q)`` on the features.

        They are ``constant_k + <slope_k, y> - <y, curvature_k y> / 2`` with ``y = x - m_k``, and
        without ``<x, curvature x> / 2`` where all components share it.
        """
        return coefficients_on_features(
            self.covariance_type, self.theta.means, constant, slope, curvature
        )

    def block(self, X, sample_weight, buffers):
        """Sum over one block: ``resp @ phi.T (K, d + 1 + q)`` and the log-likelihood."""
        phi, resp, total, top = self.posterior(X, buffers)
        noise = self.noise_mass(total, top, sample_weight)
        log_likelihood = self.normalise(resp, total, top, sample_weight)
        return *self.accumulate(phi, resp, buffers), log_likelihood, *noise

    def accumulate(self, lifted, resp, buffers):
        return ((resp @ lifted.mT).double(),)

    def products(self, X, buffers):
        (b, d), (K, width) = X.shape, self.coefficients.shape
        phi = buffers("features", (width, b), self.dtype)
        torch.sub(X.mT, self.origin_column, out=phi[:d])
        phi[d] = 1
        self.covariance_type.quadratic(phi[:d], out=phi[d + 1 :])
        return phi, torch.mm(self._coefficients, phi, out=buffers("resp", (K, b), self.dtype))

    def posterior(self, X: Tensor, buffers) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Features of a block, and its responsibilities before they are normalised.

        Returns ``phi (width, b)``, ``resp (K, b)``, their sum ``(b,)`` and the logarithm that was
        taken out of them ``(b,)``.
        """
        phi, resp = self.products(X, buffers)
        return phi, resp, *self.exponentiate(resp)

    def statistics(self, sums, log_likelihood, *noise, total_scatter=None):
        """Turn the sums over all blocks into statistics centred at the means."""
        total = None
        if self.covariance_type.shared:
            total = total_scatter()
            log_likelihood = log_likelihood - (self.precisions * total).sum() / 2
        return self.moments(sums, total, *noise)._replace(log_likelihood=log_likelihood)

    def moments(self, sums: Tensor, total_scatter: Tensor | None, *noise: Tensor) -> Statistics:
        """Turn ``resp @ phi.T`` into moments centred at the means.

        ``total_scatter``, for a type with a shared covariance, is the scatter about the origin.
        """
        d, scatter = self.theta.means.shape[1], total_scatter
        if not self.covariance_type.shared:
            scatter = self.covariance_type.from_quadratic(sums[..., d + 1 :], d)
        zero = sums.new_zeros(())
        return self._about_means(Statistics(sums[..., d], sums[..., :d], scatter, zero), noise)


class WhiteningEStep(ProductEStep):
    """The E-step of full covariances as products with triangular matrices.

    Squared distances are ``|P_k^T (x - m_k)|^2`` with triangular ``P_k``, and second moments are
    symmetric: of either, a few columns at a time and for all components at once, only the rows
    that are not zero, or not known, are computed.

    Parameters
    ----------
    theta : GaussianMixtureParams or PreparedMixture
        A mixture, in float64, about the origin.
    origin : Tensor of shape (d,)
        A point near the samples' mean.
    dtype : torch.dtype, default=torch.float64
        That of the products.
    apart : bool, default=False
        As in `ProductEStep`.

    Raises
    ------
    ValueError
        If a covariance is not positive definite.

    Notes
    -----
    Costs about ``n K d (d + 16)`` multiplications: a few more than features, which need not be
    made, however, and whose products have bad shapes when there are few components.
    """

    #: Columns at a time.
    WIDTH = 16

    def __init__(self, theta, origin, dtype=torch.float64, apart=False):
        super().__init__(theta, origin, dtype, apart)
        K, d = self.theta.means.shape
        self.row_size = K * self.WIDTH + K + d
        shift = self.covariance_type.apply(self.theta.means.unsqueeze(1), self.factors).squeeze(1)
        columns = zip(self.factors.split(self.WIDTH, -1), shift.split(self.WIDTH, -1), strict=True)
        #: For each few columns: transposed triangular factors ``(K w, rows)`` and ``m P (K w, 1)``.
        self.columns = [
            (P[:, :rows].mT.reshape(-1, rows).to(dtype), m.reshape(-1, 1).to(dtype))
            for rows, (P, m) in zip(self._rows(d), columns, strict=True)
        ]

    def _rows(self, d: int) -> list[int]:
        """Rows of the upper triangle that reach into each few columns."""
        return [min(start + self.WIDTH, d) for start in range(0, d, self.WIDTH)]

    def products(self, X, buffers):
        (b, d), K = X.shape, len(self.constant)
        x = torch.sub(X.mT, self.origin_column, out=buffers("samples", (d, b), self.dtype))
        joint = buffers("resp", (K, b), self.dtype)
        joint.copy_(self.constant.unsqueeze(1).expand(K, b))
        lent = buffers("products", (K * self.WIDTH, b), self.dtype)
        for P, m in self.columns:
            whitened = torch.addmm(m, P, x[: P.shape[1]], beta=-1, out=lent[: len(P)])
            joint.sub_(whitened.square_().view(K, -1, b).sum(1), alpha=0.5)
        return x, joint

    def block(self, X, sample_weight, buffers):
        """Sum over one block, about the origin: mass, shift, lower triangles, log-likelihood."""
        x, resp = self.products(X, buffers)
        total, top = self.exponentiate(resp)
        noise = self.noise_mass(total, top, sample_weight)
        log_likelihood = self.normalise(resp, total, top, sample_weight)
        return *self.accumulate(x, resp, buffers), log_likelihood, *noise

    def accumulate(self, lifted, resp, buffers):
        x, (d, b), K = lifted, lifted.shape, len(resp)
        lent = buffers("products", (K * self.WIDTH, b), self.dtype)
        second = self.constant.new_zeros(K, d, d)
        for rows, part in zip(self._rows(d), x.split(self.WIDTH), strict=True):
            weighted = lent[: K * len(part)]
            torch.mul(resp.unsqueeze(1), part, out=weighted.view(K, -1, b))
            second[:, rows - len(part) : rows, :rows] = (weighted @ x[:rows].mT).view(K, -1, rows)
        return resp.sum(1).double(), (resp @ x.mT).double(), second

    def statistics(self, mass, shift, second, log_likelihood, *noise, total_scatter=None):
        """Turn the sums over all blocks into statistics centred at the means."""
        scatter = second.tril() + second.tril(-1).mT
        return self._about_means(Statistics(mass, shift, scatter, log_likelihood), noise)
