"""The E-step as a few large matrix products: faster than its definition, not differentiable.

`FeatureEStep` writes log-densities as linear functions of quadratic features; `WhiteningEStep`
squares products with triangular matrices, which is faster for few components in many dimensions.
Both lose digits when components are much narrower than their distance from the origin
(`accurate_dtype` tells).
"""

import math
from functools import cached_property

import torch
from torch import Tensor

from skgmmot.gaussian.covariance.base import LOG_2PI, CovarianceType
from skgmmot.gaussian.mixture import PreparedMixture
from skgmmot.gaussian.statistics import Statistics

#: Quadratic features are used up to this many for each feature: d = 80 for full covariances, any d
#: for the other types.
MAX_QUADRATIC = 40
#: Largest rounding error of log-densities accepted, by the dtype of the products.
TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-5}


def cancellation(mixture: PreparedMixture) -> float:
    """Return how much larger than log-densities are the terms that cancel in products.

    Near the centre of component k these are ``m_i Lambda_ij m_j`` of its precision. Their rounding
    errors have random signs: together about ``eps sum_i m_i^2 Lambda_ii``.

    Parameters
    ----------
    mixture : PreparedMixture
        A mixture about the origin.

    Returns
    -------
    float
        ``max_k sum_i m_i^2 Lambda_ii``.
    """
    diagonals = mixture.covariance_type.precision_diagonals(mixture.factors)
    return float((mixture.means.square() * diagonals).sum(-1).max())


def accurate_dtype(mixture: PreparedMixture, dtype: torch.dtype) -> torch.dtype | None:
    """Return the fastest dtype in which products keep enough digits.

    Parameters
    ----------
    mixture : PreparedMixture
        A mixture about the origin, in float64.
    dtype : torch.dtype
        That of the samples.

    Returns
    -------
    torch.dtype or None
        That of the samples, float64, or None: only the definition is accurate enough.
    """
    largest = cancellation(mixture)
    for candidate in (dtype, torch.float64):
        if largest * torch.finfo(candidate).eps < TOLERANCE[candidate]:
            return candidate
    return None


class ProductEStep:
    """What the E-steps by matrix products share: a mixture about an origin, and their accuracy.

    Parameters
    ----------
    theta : GaussianMixtureParams or PreparedMixture
        A mixture, in float64, about the origin.
    origin : Tensor of shape (d,)
        A point near the samples' mean.

    Raises
    ------
    ValueError
        If a covariance is not positive definite.
    """

    def __init__(self, theta, origin):
        self.theta, self.origin = theta.prepare(), origin
        log_weights, means, self.factors = self.theta[:3]
        self.kind = kind = self.theta.covariance_type
        constant = log_weights + kind.log_det(self.factors, means.shape[1])
        self.constant = constant - means.shape[1] * LOG_2PI / 2  # log-joint at the means

    @cached_property
    def precisions(self) -> Tensor:
        """The inverses of the covariances, in storage."""
        return self.kind.precisions(self.factors)

    @property
    def cancellation(self) -> float:
        """How much larger than log-densities are the terms that cancel in them."""
        return cancellation(self.theta)

    def centred(self, X: Tensor, out: Tensor) -> Tensor:
        """Write samples ``X (b, d)``, which may be a view, about the origin into ``out (d, b)``."""
        return torch.sub(X.mT, self.origin.to(out).unsqueeze(1), out=out)

    def products(self, X: Tensor, dtype: torch.dtype, buffers) -> tuple[Tensor, Tensor]:
        """Return what sums are made of, samples about the origin first, and the log-joint.

        For a block ``X (b, d)``, in memory that ``buffers(name, shape, dtype)`` lends: ``(., b)``
        and ``(K, b)``, the latter without the quadratic term that all components share.
        """
        raise NotImplementedError

    def log_joint(self, X: Tensor, dtype: torch.dtype, buffers) -> Tensor:
        """The log-joint ``(K, b)`` of a block."""
        lifted, joint = self.products(X, dtype, buffers)
        if self.kind.shared:
            whitened = self.factors[0].mT.to(dtype) @ lifted[: X.shape[1]]
            joint.sub_(whitened.square_().sum(0), alpha=0.5)
        return joint

    @staticmethod
    def exponentiate(joint: Tensor) -> tuple[Tensor, Tensor]:
        """Turn a log-joint ``(K, b)`` in place into responsibilities before they are normalised.

        Returns their sum ``(b,)`` and the logarithm that was taken out of them ``(b,)``.
        """
        top = joint.amax(0)
        # The floor keeps subnormal numbers out, which are slow and which no sum sees.
        floor = math.log(torch.finfo(joint.dtype).tiny) + 8
        joint.sub_(top).clamp_(min=floor).exp_()
        return joint.sum(0), top

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


def quadratic_share(kind: CovarianceType, n_features: int) -> float:
    """Return the number of quadratic features for each linear one.

    Parameters
    ----------
    kind : CovarianceType
        Type of the covariances.
    n_features : int
        Their dimension d.

    Returns
    -------
    float
        Their number over ``d + 1``.
    """
    return kind.n_quadratic(n_features) / (n_features + 1)


class FeatureEStep(ProductEStep):
    """The E-step as two matrix products, on quadratic features of the samples.

    ``log w_k g_k(x) = <C_k, phi(x)>`` with ``phi(x) = (x, 1, quadratic(x))``, so that the joint
    densities of a block are ``C @ phi`` and its sums ``resp @ phi.T``. Symmetry halves the work
    of ``d x d`` products, and every elementwise operation runs along contiguous rows.

    Parameters
    ----------
    theta : GaussianMixtureParams
        The current mixture, in float64, about the origin.
    origin : Tensor of shape (d,)
        A point near the samples' mean.
    total_scatter : Tensor of shape (1, d, d), default=None
        ``sum_i a_i x_i x_i^T`` over all samples, for a type with a shared covariance: its
        quadratic term is the same for all components, so this constant is all it needs.

    Raises
    ------
    ValueError
        If a covariance is not positive definite.

    Notes
    -----
    Costs ``2 n K q`` multiplications, ``q = (d + 1)(d + 2) / 2`` for the full type, ``2 d + 1``
    for the diagonal, ``d + 2`` for the spherical and ``d + 1`` for the tied one.
    """

    def __init__(self, theta, origin, total_scatter=None):
        super().__init__(theta, origin)
        self.total_scatter = total_scatter
        self.coefficients = self.of_features(
            self.constant, torch.zeros_like(theta.means), self.precisions
        )
        #: Numbers that a sample takes in a block.
        self.row_size = sum(self.coefficients.shape)

    def of_features(self, constant: Tensor, slope: Tensor, curvature: Tensor) -> Tensor:
        """Write functions of the samples as coefficients ``(K, d + 1 + q)`` on the features.

        They are ``constant_k + <slope_k, y> - <y, curvature_k y> / 2`` with ``y = x - m_k``, and
        without ``<x, curvature x> / 2`` where all components share it.
        """
        means = self.theta.means
        bent = self.kind.apply(means.unsqueeze(1), curvature).squeeze(-2)  # (K, d)
        constant = constant - (slope * means).sum(-1) - (bent * means).sum(-1) / 2
        quadratic = self.kind.quadratic_coefficients(curvature).expand(*bent.shape[:-1], -1)
        return torch.cat([slope + bent, constant.unsqueeze(-1), quadratic], dim=-1)

    def block(
        self, X: Tensor, sample_weight: Tensor | None, dtype: torch.dtype, buffers
    ) -> tuple[Tensor, Tensor]:
        """Sum over one block: ``resp @ phi.T (K, d + 1 + q)`` and the log-likelihood.

        ``X (b, d)`` may be a view; ``buffers(name, shape, dtype)`` lends memory for the products.
        """
        phi, resp, total, top = self.posterior(X, dtype, buffers)
        log_likelihood = self.normalise(resp, total, top, sample_weight)
        return (resp @ phi.mT).double(), log_likelihood

    def products(self, X, dtype, buffers):
        (b, d), (K, width) = X.shape, self.coefficients.shape
        phi = buffers("features", (width, b), dtype)
        self.centred(X, out=phi[:d])
        phi[d] = 1
        self.kind.quadratic(phi[:d], out=phi[d + 1 :])
        return phi, torch.mm(self.coefficients.to(dtype), phi, out=buffers("resp", (K, b), dtype))

    def posterior(
        self, X: Tensor, dtype: torch.dtype, buffers
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Features of a block, and its responsibilities before they are normalised.

        Returns ``phi (width, b)``, ``resp (K, b)``, their sum ``(b,)`` and the logarithm that was
        taken out of them ``(b,)``.
        """
        phi, resp = self.products(X, dtype, buffers)
        return phi, resp, *self.exponentiate(resp)

    def statistics(self, sums: Tensor, log_likelihood: Tensor) -> Statistics:
        """Turn the sums of all blocks into statistics centred at the means."""
        if self.kind.shared:
            log_likelihood = log_likelihood - (self.precisions * self.total_scatter).sum() / 2
        return self.moments(sums, self.total_scatter)._replace(log_likelihood=log_likelihood)

    def moments(self, sums: Tensor, total_scatter: Tensor | None) -> Statistics:
        """Turn ``resp @ phi.T`` into moments centred at the means.

        ``total_scatter``, for a type with a shared covariance, is the scatter about the origin.
        """
        means, d = self.theta.means, self.theta.means.shape[1]
        scatter = total_scatter
        if not self.kind.shared:
            scatter = self.kind.from_quadratic(sums[..., d + 1 :], d)
        zero = sums.new_zeros(())
        return Statistics(sums[..., d], sums[..., :d], scatter, zero).recentred(-means, self.kind)


class WhiteningEStep(ProductEStep):
    """The E-step of full covariances as products with triangular matrices.

    Squared distances are ``|P_k^T (x - m_k)|^2`` with triangular ``P_k``, and second moments are
    symmetric: of either, a few columns at a time and for all components at once, only the rows
    that are not zero, or not known, are computed.

    Parameters
    ----------
    theta : GaussianMixtureParams
        The current mixture, in float64, about the origin.
    origin : Tensor of shape (d,)
        A point near the samples' mean.

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
    #: Faster than features above this many quadratic ones for each feature (d = 32), and up to so
    #: many components.
    MIN_QUADRATIC, MAX_COMPONENTS = 16, 16

    def __init__(self, theta, origin):
        super().__init__(theta, origin)
        K, d = theta.means.shape
        #: Numbers that a sample takes in a block.
        self.row_size = K * self.WIDTH + K + d
        shift = self.kind.apply(theta.means.unsqueeze(1), self.factors).squeeze(1)
        columns = zip(self.factors.split(self.WIDTH, -1), shift.split(self.WIDTH, -1), strict=True)
        #: For each few columns: transposed triangular factors ``(K w, rows)`` and ``m P (K w, 1)``.
        self.columns = [
            (P[:, :rows].mT.reshape(-1, rows), m.reshape(-1, 1))
            for rows, (P, m) in zip(self._rows(d), columns, strict=True)
        ]

    @classmethod
    def is_faster(cls, kind: CovarianceType, n_components: int, n_features: int) -> bool:
        """Whether features are slower, or out of the question."""
        share = quadratic_share(kind, n_features)
        few = n_components <= cls.MAX_COMPONENTS
        return share > MAX_QUADRATIC or (share > cls.MIN_QUADRATIC and few)

    def _rows(self, d: int) -> list[int]:
        """Rows of the upper triangle that reach into each few columns."""
        return [min(start + self.WIDTH, d) for start in range(0, d, self.WIDTH)]

    def products(self, X, dtype, buffers):
        (b, d), K = X.shape, len(self.constant)
        x = self.centred(X, out=buffers("samples", (d, b), dtype))
        joint = buffers("resp", (K, b), dtype)
        joint.copy_(self.constant.unsqueeze(1).expand(K, b))
        lent = buffers("products", (K * self.WIDTH, b), dtype)
        for P, m in self.columns:
            P, m = P.to(dtype), m.to(dtype)
            whitened = torch.addmm(m, P, x[: P.shape[1]], beta=-1, out=lent[: len(P)])
            joint.sub_(whitened.square_().view(K, -1, b).sum(1), alpha=0.5)
        return x, joint

    def block(
        self, X: Tensor, sample_weight: Tensor | None, dtype: torch.dtype, buffers
    ) -> tuple[Tensor, ...]:
        """Sum over one block, about the origin: mass, shift, lower triangles, log-likelihood."""
        x, resp = self.products(X, dtype, buffers)
        (d, b), K = x.shape, len(resp)
        log_likelihood = self.normalise(resp, *self.exponentiate(resp), sample_weight)
        lent = buffers("products", (K * self.WIDTH, b), dtype)
        second = self.constant.new_zeros(K, d, d)
        for rows, part in zip(self._rows(d), x.split(self.WIDTH), strict=True):
            weighted = lent[: K * len(part)]
            torch.mul(resp.unsqueeze(1), part, out=weighted.view(K, -1, b))
            second[:, rows - len(part) : rows, :rows] = (weighted @ x[:rows].mT).view(K, -1, rows)
        return resp.sum(1).double(), (resp @ x.mT).double(), second, log_likelihood

    def statistics(self, mass, shift, second, log_likelihood) -> Statistics:
        """Turn the sums of all blocks into statistics centred at the means."""
        scatter = second.tril() + second.tril(-1).mT
        return Statistics(mass, shift, scatter, log_likelihood).recentred(
            -self.theta.means, self.kind
        )
