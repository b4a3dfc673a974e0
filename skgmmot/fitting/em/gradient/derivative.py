"""The derivative of one iteration of EM, by hand: no tape, and additive over blocks of samples.

One iteration is ``theta -> Statistics -> theta'``. The M-step is small. For the E-step, let
``c0_k, c1_k, C2_k`` be cotangents of mass, shift and scatter, ``y = x_i - m_k``, and

- ``h_ik = c0_k + <c1_k, y> + <y, C2_k y>``, what sample i adds for component k,
- ``r_ik = a_i gamma_ik (h_ik - sum_l gamma_il h_il)``, the cotangent of ``log w_k g_k(x_i)``.

The cotangent of ``theta`` is then the score of the moments with the signed weights ``r``, so that a
vector-Jacobian product is a pass over the samples like the E-step itself, with one product more.
That of ``x_i`` is ``sum_k a_i gamma_ik (c1_k + 2 C2_k y) - r_ik Lambda_k y``, that of ``a_i`` is
``sum_k gamma_ik h_ik``. The centres of the statistics are constants: they cancel in the M-step.

As for the E-step there are two ways: `FeatureAdjoint` works on quadratic features,
`CentredAdjoint` on samples centred at each component. `LinearisedEM` puts it all together, for
whoever sums blocks over all samples.
"""

import math
from functools import cached_property

import torch
from torch import Tensor

from skgmmot.fitting.em.constraint import FREE, Constraint
from skgmmot.fitting.em.gradient.gram import FeatureGram, SampleGram
from skgmmot.fitting.em.rows import EM
from skgmmot.fitting.em.step import m_step, scatter_about, shifts, sums
from skgmmot.gaussian.choice import cancellation
from skgmmot.gaussian.coordinates import FisherCoordinates, velocities
from skgmmot.gaussian.evaluators import FeatureEStep
from skgmmot.gaussian.log_density import log_joint
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.gaussian.statistics import Statistics, moments
from skgmmot.numerics.adjoint import MovableLinearisation


def score(
    theta: GaussianMixtureParams, precisions: Tensor, statistics: Statistics
) -> GaussianMixtureParams:
    """Differentiate ``sum_ik r_ik log w_k g_k(x_i)`` in ``theta``, given the moments under ``r``.

    Parameters
    ----------
    theta : GaussianMixtureParams
        K components in d dimensions.
    precisions : Tensor
        The inverses of its covariances, in the storage of the base of their type.
    statistics : Statistics
        Moments centred at the means, with weights ``r`` of any sign; they may have axes before
        their own.

    Returns
    -------
    GaussianMixtureParams
        The derivatives. A component of weight zero has none in its weight here, whose moments
        under ``r`` are zero as well; see `ZeroWeightAdjoint`.
    """
    covariance_type, size = theta.covariance_type, theta.means.shape
    base, share = covariance_type.base, covariance_type.base.pooled(size[1]) / 2
    of_base = share * base.score(precisions, statistics.mass, statistics.scatter)
    return GaussianMixtureParams(
        weights=torch.where(theta.weights > 0, statistics.mass / theta.weights, 0.0),
        means=base.apply(statistics.shift.unsqueeze(-2), precisions).squeeze(-2),
        covariances=covariance_type.base_pullback(theta.covariances, *size, of_base),
        covariance_type=covariance_type,
    )


def m_step_pullback(
    theta: GaussianMixtureParams,
    statistics: Statistics,
    u: GaussianMixtureParams,
    reg_covar: float = 0.0,
    constraint: Constraint = FREE,
) -> Statistics:
    """Return cotangents of the statistics from those of the M-step's mixture.

    Parameters
    ----------
    theta : GaussianMixtureParams
        The mixture that the statistics are centred at.
    statistics : Statistics
        Sums over all samples.
    u : GaussianMixtureParams
        Cotangents of the next mixture; they may have axes before their own.
    reg_covar : float, default=0.0
        That of the M-step. Its derivative depends on it where the covariance type is curved.
    constraint : Constraint, default=Constraint()
        That of the M-step.

    Returns
    -------
    Statistics
        ``c0``, ``c1`` and ``C2``; the log-likelihood has none.
    """
    covariance_type, total = theta.covariance_type, sums(theta, statistics, constraint)
    base, alive, u = covariance_type.base, total.alive, constraint.free(u)
    of_covariances = u.covariances
    if alive is not None:  # what has no samples stays as it is: no sum has a say in it
        of_covariances = covariance_type.where(
            alive, of_covariances, torch.zeros_like(of_covariances)
        )
    shift = constraint.free_means(shifts(total.of_means, total.shift, alive))
    of_mass, _, of_scatter = covariance_type.estimate_pullback(
        total.of_covariances,
        torch.zeros_like(shift),
        scatter_about(theta, total, shift),
        of_covariances,
        reg_covar,
    )
    # the scatter about the next means is S2 - s0 b b^T where they are free, with b = s1 / s0
    bent = base.apply(shift.unsqueeze(-2), of_scatter).squeeze(-2) / base.pooled(shift.shape[-1])
    of_shift = shifts(total.of_means, u.means, alive)
    of_weights = constraint.weights_pullback(theta.weights, total.of_weights, u.weights)
    of_mass = of_mass + of_weights + ((bent - of_shift) * shift).sum(-1)
    return Statistics(of_mass, of_shift - 2 * bent, of_scatter, torch.zeros_like(of_mass.sum()))


def shares(
    theta: GaussianMixtureParams, statistics: Statistics, constraint: Constraint = FREE
) -> Tensor | tuple[Tensor, Tensor, Tensor]:
    """Return the shares of the samples that `FisherCoordinates` measure changes by.

    In them the derivative of an M-step with a prior, or with parameters that stay, is symmetric at
    a fixed point, too.

    Parameters
    ----------
    theta : GaussianMixtureParams
        The current mixture.
    statistics : Statistics
        Sums over all samples.
    constraint : Constraint, default=Constraint()
        That of the M-step.

    Returns
    -------
    Tensor of shape (K,) or tuple of three
        One for each component, or for its weight, mean and covariance.
    """
    if constraint.prior is None and (constraint.weights is None or constraint.fixes_weights):
        return statistics.mass / statistics.mass.sum()
    total, n = sums(theta, statistics, constraint), statistics.mass.sum()
    known = torch.where(total.of_weights > 0, total.of_weights, torch.inf)
    of_weights = theta.weights.square() * n / known  # s / w^2 is the information of a weight
    return of_weights, total.of_means / n, total.of_covariances / n


#: Eigenvalues of a Gram matrix below this share of the largest are none: a symmetric matrix is
#: stored with twice the numbers that it has, and weights that are fixed have no derivative.
SINGULAR = 1e-12

#: Up to this many features of all components together, their covariance costs less than the
#: products of a Krylov space; in float64 it must not lose more than ten digits.
SMALL, SMALL_CANCELLATION = 128, 1e3
#: And up to this many numbers of the mixture, which are the rows of the matrix: a tied covariance
#: has many of them and no features at all.
SMALL_MATRIX = 200


def is_small(step: FeatureEStep) -> bool:
    """Whether products with the derivative are best computed by `FeatureCovariance`.

    Parameters
    ----------
    step : FeatureEStep
        The E-step at the current mixture.

    Returns
    -------
    bool
        True where it is cheap and keeps its digits.
    """
    n_numbers = sum(t.numel() for t in step.theta[:3])
    few = step.coefficients.numel() <= SMALL and n_numbers <= SMALL_MATRIX
    return few and float(cancellation(step.theta)) <= SMALL_CANCELLATION


class FeatureCovariance:
    """All there is to know of the samples for products: features' covariance over components.

    The sums of a pass are linear in the coefficients ``H`` of ``h``: ``sum_i r_ik phi_i`` is the
    product of ``H`` with ``sum_i a_i (diag(gamma_i) - gamma_i gamma_i^T) x phi_i phi_i^T``. Where
    that matrix is small, one pass finds it and no product takes another.

    Parameters
    ----------
    step : FeatureEStep
        The E-step at the current mixture.
    """

    min_rows = 512

    def __init__(self, step: FeatureEStep):
        self.step = step
        self.row_size = 2 * step.coefficients.numel()

    def block(self, X: Tensor, sample_weight: Tensor | None, buffers) -> tuple[Tensor, Tensor]:
        """Sum ``gamma_k phi phi^T (K, width, width)`` and ``gamma gamma^T x phi phi^T``."""
        phi, resp, total, _ = self.step.posterior(X, buffers)
        lent = buffers("products", (len(resp), *phi.shape), torch.float64)
        products = torch.mul(resp.div_(total).unsqueeze(1), phi, out=lent)  # (K, width, b)
        weighted = products if sample_weight is None else products * sample_weight
        return weighted @ phi.mT, weighted.flatten(0, 1) @ products.flatten(0, 1).mT

    def product(self, H: Tensor, own: Tensor, joint: Tensor) -> Tensor:
        """The sums ``(..., K, width)`` for coefficients ``H``, given the sums of all blocks."""
        within = (H.unsqueeze(-2) @ own).squeeze(-2)
        return within - (H.flatten(-2) @ joint).view_as(H)


class FeatureAdjoint:
    """Pulls cotangents of the statistics back through the E-step, on quadratic features.

    With ``h = H @ phi`` beside the log-joint ``C @ phi``, the pass is three matrix products.

    Parameters
    ----------
    step : FeatureEStep
        The E-step at the current mixture.
    cotangents : Statistics
        ``c0 (K,)``, ``c1 (K, d)`` and ``C2`` in the storage of the covariances, symmetric.
    along : Statistics, default=None
        Velocities ``shift`` and ``bend`` of components, which samples go along with.
    """

    #: Blocks of fewer rows make matrix products slow.
    min_rows = 512

    def __init__(self, step: FeatureEStep, cotangents: Statistics, along: Statistics | None = None):
        self.step, self.covariance_type = step, step.covariance_type
        self.H, self.curvature = self._on_features(cotangents)
        self.slopes, self.bent = self.H, self.curvature  # of what moves samples, gamma held
        if along is not None:
            slopes, bent = self._on_features(along)
            self.slopes, self.bent = self.H + slopes, self.curvature + bent
        K, width = step.coefficients.shape
        self.row_size, self.sample_size = 2 * K + width, 2 * width

    def _on_features(self, cotangents):
        """Coefficients of ``h`` on the features, and its curvature, in storage."""
        curvature = (
            -2 * cotangents.scatter / self.covariance_type.pooled(self.step.theta.means.shape[1])
        )
        H = self.step.of_features(cotangents.mass, cotangents.shift, curvature)
        return H, curvature

    def _responsibilities(self, X, sample_weight, buffers):
        """``phi``, ``gamma``, ``r`` and ``sum_k gamma_ik h_ik`` of a block."""
        phi, resp, total, _ = self.step.posterior(X, buffers)
        resp.div_(total)
        signed = torch.mm(self.H, phi, out=buffers("signed", resp.shape, torch.float64))
        expected = (resp * signed).sum(0)
        signed.sub_(expected).mul_(resp)
        if sample_weight is not None:
            signed.mul_(sample_weight)
        return phi, resp, signed, expected

    def block(self, X: Tensor, sample_weight: Tensor | None, buffers) -> tuple[Tensor]:
        """Sum ``r @ phi.T`` over one block; those of several blocks add."""
        phi, _, signed, _ = self._responsibilities(X, sample_weight, buffers)
        return (signed @ phi.mT,)

    def moments(self, sums: Tensor) -> Statistics:
        """Turn the sums of all blocks into the moments under ``r``."""
        # sum_k r_ik = 0, and so is the scatter of all components together about one point.
        nothing = torch.zeros_like(self.curvature) if self.covariance_type.shared else None
        return self.step.moments(sums, nothing)

    def samples(self, X: Tensor, sample_weight: Tensor | None, buffers) -> tuple[Tensor, Tensor]:
        """Cotangents of the samples ``(b, d)`` and of their weights ``(b,)``."""
        d = X.shape[1]
        phi, resp, signed, expected = self._responsibilities(X, sample_weight, buffers)
        if sample_weight is not None:
            resp.mul_(sample_weight)
        lent = buffers("cotangents", phi.shape, torch.float64)
        cotangents = torch.mm(self.slopes.mT, resp, out=lent)
        cotangents.addmm_(self.step.coefficients.mT, signed)
        x = phi[:d]
        found = cotangents[:d] + self.covariance_type.quadratic_pullback(x, cotangents[d + 1 :])
        if (
            self.covariance_type.shared
        ):  # the quadratic term that all components share is no feature
            expected = expected - (x * (self.curvature[0] @ x)).sum(0) / 2
            bent = self.bent[0] @ x
            found -= bent if sample_weight is None else bent * sample_weight
        return found.mT, expected


class CentredAdjoint:
    """Pulls cotangents of the statistics back through the E-step, as it is defined.

    Parameters
    ----------
    theta : GaussianMixtureParams
        The current mixture.
    origin : Tensor of shape (d,)
        What the mixture is relative to.
    cotangents : Statistics
        ``c0 (K,)``, ``c1 (K, d)`` and ``C2`` in the storage of the covariances, symmetric.
    along : Statistics, default=None
        Velocities ``shift`` and ``bend`` of components, which samples go along with.

    Notes
    -----
    Holds ``(K, b, d)`` for a block of b samples.
    """

    min_rows = 16

    def __init__(
        self,
        theta: GaussianMixtureParams,
        origin: Tensor,
        cotangents: Statistics,
        along: Statistics | None = None,
    ):
        self.theta, self.origin, self.cotangents = theta, origin, cotangents
        self.along = along
        self.prepared = theta.prepare()
        self.covariance_type = self.prepared.covariance_type
        self.form = cotangents.scatter / self.covariance_type.pooled(theta.means.shape[1])
        self.row_size = 2 * theta.means.numel()
        self.sample_size = theta.means.numel()

    def _responsibilities(self, X, sample_weight):
        """Samples about the origin, ``gamma``, ``r``, ``C2 y`` and ``sum_k gamma_ik h_ik``."""
        x = X.double() - self.origin.double()
        resp = torch.softmax(log_joint(self.prepared, x), dim=0)  # (K, b)
        bent, h = self._added(x)
        expected = (resp * h).sum(0)
        signed = resp * (h - expected)
        if sample_weight is not None:
            resp, signed = resp * sample_weight, signed * sample_weight
        return x, resp, signed, bent, expected

    def _added(self, x):
        """``C2 y (K, b, d)`` and ``h (K, b)`` of samples about the origin."""
        y = x - self.theta.means.unsqueeze(1)
        bent = self.covariance_type.apply(y, self.form)
        h = ((self.cotangents.shift.unsqueeze(1) + bent) * y).sum(-1)
        return bent, h + self.cotangents.mass.unsqueeze(1)

    def block(self, X: Tensor, sample_weight: Tensor | None, buffers) -> tuple[Tensor, ...]:
        """Sum the moments under ``r`` over one block; those of several blocks add."""
        x, _, signed, _, _ = self._responsibilities(X, sample_weight)
        return tuple(moments(self.theta, x, signed))

    def moments(self, *sums: Tensor) -> Statistics:
        """Turn the sums of all blocks into the moments under ``r``."""
        return Statistics(*sums)

    def samples(self, X: Tensor, sample_weight: Tensor | None, buffers) -> tuple[Tensor, Tensor]:
        """Cotangents of the samples ``(b, d)`` and of their weights ``(b,)``."""
        x, resp, signed, bent, expected = self._responsibilities(X, sample_weight)
        precisions = self.covariance_type.precisions(self.prepared.factors)
        y = x - self.theta.means.unsqueeze(1)
        slopes = self.cotangents.shift.unsqueeze(1) + 2 * bent
        if self.along is not None:
            form = self.along.scatter / self.covariance_type.pooled(x.shape[1])
            slopes = (
                slopes + self.along.shift.unsqueeze(1) + 2 * self.covariance_type.apply(y, form)
            )
        pull = self.covariance_type.apply(y, precisions)
        return (resp.unsqueeze(-1) * slopes - signed.unsqueeze(-1) * pull).sum(0), expected


class ZeroWeightAdjoint(CentredAdjoint):
    """Pulls cotangents of the statistics back to weights that are zero, by the definition.

    That of ``w_k`` is ``sum_i a_i (g_ik / p_i) (h_ik - sum_l gamma_il h_il)``; of other weights it
    is the same, by way of ``r``.

    Parameters
    ----------
    theta : GaussianMixtureParams
        The current mixture.
    origin : Tensor of shape (d,)
        What the mixture is relative to.
    cotangents : Statistics
        As in `CentredAdjoint`.
    """

    def __init__(self, theta: GaussianMixtureParams, origin: Tensor, cotangents: Statistics):
        super().__init__(theta, origin, cotangents)
        self.unweighted = self.prepared._replace(log_weights=torch.zeros_like(theta.weights))

    def block(self, X: Tensor, sample_weight: Tensor | None, buffers) -> tuple[Tensor]:
        """Sum the cotangents of all weights ``(K,)`` over one block."""
        x = X.double() - self.origin.double()
        joint = log_joint(self.prepared, x)
        log_p = torch.logsumexp(joint, dim=0)
        # where such a component has all the density, the derivative is huge, but no infinity
        largest = math.log(torch.finfo(joint.dtype).max) / 2
        ratio = (log_joint(self.unweighted, x) - log_p).clamp(max=largest).exp()  # (K, b)
        _, h = self._added(x)
        ratio = ratio * (h - ((joint - log_p).exp() * h).sum(0))
        return ((ratio if sample_weight is None else ratio * sample_weight).sum(1),)


class LinearisedEM(MovableLinearisation):
    """One iteration of EM at a mixture, and its derivative in Fisher's coordinates.

    Parameters
    ----------
    em : EM
        The iteration.
    theta : GaussianMixtureParams
        Where it starts, a constant.
    """

    def __init__(self, em: EM, theta: GaussianMixtureParams):
        self.em, self.theta = em, theta
        with torch.no_grad():
            self._features, self._statistics = em.exactly(theta)
            self.value = m_step(theta, self._statistics, em.reg_covar, em.constraint)
            self.objective = em.objective(theta, self._statistics)
            share = shares(theta, self._statistics, em.constraint)
            self._coordinates = FisherCoordinates(theta, share)
            self.residual = self._coordinates.of_change(em.constraint.free(self._change()))
        self.small = self._features is not None and is_small(self._features)

    @property
    def _is_constant(self) -> bool:
        """Whether there is one component: its moments are where it goes, wherever it starts."""
        return len(self.theta.weights) == 1

    def solve(self, b: Tensor, tol: float):
        """Solve ``(I - dF/dtheta^T) x = b``."""
        if not self._is_constant:
            return super().solve(b, tol)
        products = self.products()
        return products(b), products

    def product(self, u: Tensor) -> Tensor:
        """``dF/dtheta^T u`` for one cotangent ``(m,)`` or several ``(..., m)``."""
        if self._is_constant:
            return torch.zeros_like(u)
        if self.small:
            return u @ self._matrix
        if u.ndim > 1:  # a pass over the samples takes one
            return torch.stack([self.product(row) for row in u])
        with torch.no_grad():
            return self._encoded(self._pull(self._decoded(u)))

    @cached_property
    def _matrix(self):
        """All products at once ``(m, m)``: one pass gives what is needed of the samples."""
        with torch.no_grad():
            adjoint, covariance = self._unit_adjoint, FeatureCovariance(self._features)
            moments = adjoint.moments(
                covariance.product(adjoint.H, *self.em.samples.sum(covariance))
            )
            return self._encoded(score(self.theta, self._coordinates.precisions, moments))

    @cached_property
    def _unit_adjoint(self):
        """The adjoint E-step for all unit vectors together."""
        return FeatureAdjoint(self._features, self._cotangents)

    @cached_property
    def _cotangents(self):
        """Cotangents of the statistics for each unit vector, ``(m, ...)``."""
        p = self.residual.numel()
        identity = torch.eye(p, dtype=self.residual.dtype, device=self.residual.device)
        return self._pulled_to_statistics(self._decoded(identity))

    def _decoded(self, vector):
        return self.em.constraint.free(self.decode(vector))

    def _encoded(self, u):
        return self.encode(self.em.constraint.of_free(u, self.theta))

    def encode(self, u: GaussianMixtureParams) -> Tensor:
        """The coordinates of a cotangent, a vector."""
        return self._coordinates.of_cotangent(u)

    def decode(self, vector: Tensor) -> GaussianMixtureParams:
        """A vector as a cotangent."""
        return self._coordinates.cotangent(vector)

    def retracted(self, vector: Tensor) -> GaussianMixtureParams:
        """The mixture that a vector of coordinates leads to."""
        return self.em.constraint.keep(self._coordinates.retracted(vector), self.theta)

    def pull(self, u: GaussianMixtureParams) -> GaussianMixtureParams:
        """Cotangents of ``theta`` from those of ``F(theta)``."""
        found, constraint = self._pull(u), self.em.constraint
        total = sums(self.theta, self._statistics, constraint)
        if total.alive is None and not constraint.fixes and constraint.prior is None:
            return found
        cotangents = self._pulled_to_statistics(u)
        # A weight grows from zero where it is let.
        zero, covariance_type = self.theta.weights == 0, self.theta.covariance_type
        of_weights, means, covariances = found
        if zero.any():
            adjoint = ZeroWeightAdjoint(self.theta, self.em.origin, cotangents)
            of_weights = torch.where(zero, self.em.samples.sum(adjoint)[0], of_weights)
        if total.alive is not None:  # A component without samples stays.
            free = constraint.free(u)
            means = torch.where(total.alive.unsqueeze(1), means, free.means)
            covariances = covariance_type.where(total.alive, covariances, free.covariances)
        found = found._replace(weights=of_weights, means=means, covariances=covariances)
        return found.map(torch.add, self._of_what_stays(total, u, cotangents))

    def _of_what_stays(self, total, u, cotangents):
        """What ``F(theta)`` has of ``theta`` itself, beside by way of the responsibilities."""
        constraint, base = self.em.constraint, self.theta.covariance_type.base
        direct = u.map(torch.sub, constraint.free(u))
        # the scatter is about the means: where they are free that cancels
        bent = base.apply(total.shift.unsqueeze(-2), cotangents.scatter).squeeze(-2)
        about = -2 * bent / base.pooled(bent.shape[-1])
        means = direct.means + about - constraint.free_means(about)
        weights = constraint.rest_pullback(total.of_weights, u.weights)
        return direct._replace(weights=weights, means=means)

    def pull_prior(self, u: GaussianMixtureParams) -> tuple[Tensor, Tensor]:
        """Cotangents of the prior's ``mean`` and ``scale``."""
        return self.em.constraint.prior.pull(self.theta, self._pulled_to_statistics(u))

    def _pull(self, u):
        """The same but that components without samples are constants: they are no fixed point's."""
        adjoint = self._adjoint(u)
        moments = adjoint.moments(*self.em.samples.sum(adjoint))
        return score(self.theta, self._coordinates.precisions, moments)

    def pull_samples(self, u: GaussianMixtureParams) -> tuple[Tensor, Tensor]:
        """Cotangents of the samples ``(n, d)`` and of their weights ``(n,)``."""
        return self.em.samples.map(self._adjoint(u))

    def natural(self, v: Tensor) -> Tensor:
        """The cotangent to hand to one iteration, beside that of samples carried along.

        The cotangent ``v (m,)`` of the fixed point, or several if it is small, calls for velocities
        of the components. Samples that go along with them, each with its own, move the fixed point
        about that way; the result ``u`` is the least correction, in ``sum_i a_i |dx_i|^2``, that
        makes it go just there: ``gram u = (I - dF/dtheta) change - dF/dX along``.
        """
        with torch.no_grad():
            along = self._along(self.decode(v))
            change = self._coordinates.of_velocities(along.shift, along.scatter)
            gram, effect = self._products(along)
            # A unit diagonal: what is singular does not depend on the units of the features.
            size = gram.diagonal().sqrt()
            scale = torch.where(size > 0, 1 / size, 0.0)
            scaled = scale[:, None] * gram * scale
            inverse = torch.linalg.pinv(scaled, rtol=SINGULAR, hermitian=True)
            return ((change - self._forward(change) - effect) * scale) @ inverse * scale

    def movement(self, v: GaussianMixtureParams, u: Tensor) -> Tensor:
        """Minus the samples' natural step ``(n, d)``, weighed, for ``u = natural(v)``."""
        with torch.no_grad():
            return self.em.samples.map(self._adjoint(self._decoded(u), self._along(v)))[0]

    def _along(self, v):
        """The velocities that a cotangent calls for, per sample, as cotangents of statistics."""
        found = velocities(self.theta, v.means, v.covariances)
        shift, bend = (t / self.em.total for t in found)
        nothing = torch.zeros_like(shift[..., 0])
        return Statistics(nothing, shift, bend, nothing.new_zeros(()))

    def _forward(self, change):
        """``dF/dtheta change``; where products are dear by symmetry, exact for ``reg_covar=0``."""
        if self.small and not self._is_constant:
            return change @ self._matrix.mT
        return self.product(change)

    def _products(self, along):
        """``gram (m, m)`` of ``dF/dX``, and what samples carried along do to one iteration."""
        if self.small and not self._coordinates.base.shared:
            c, way = self._unit_adjoint.H, FeatureAdjoint(self._features, along).H
            c, way = c.flatten(-2), way.flatten(-2)  # (m, K width)
            gram, effect = self.em.samples.sum(FeatureGram(self._features))
        else:
            c, way = _flat(self._cotangents), _flat(along)  # (m, q)
            gram, effect = self.em.samples.sum(SampleGram(self.theta, self.em.origin))
        return c @ gram @ c.mT, way @ effect.mT @ c.mT

    def _change(self):
        return self.value.map(torch.sub, self.theta)

    def _pulled_to_statistics(self, u):
        """Cotangents of the statistics from those of the next mixture."""
        em = self.em
        return m_step_pullback(self.theta, self._statistics, u, em.reg_covar, em.constraint)

    def _adjoint(self, u, along=None):
        """The adjoint E-step for cotangents of the next mixture."""
        cotangents = self._pulled_to_statistics(u)
        if self._features is not None:
            return FeatureAdjoint(self._features, cotangents, along)
        return CentredAdjoint(self.theta, self.em.origin, cotangents, along)


def _flat(statistics: Statistics) -> Tensor:
    """Mass, shift and scatter as vectors ``(..., q)``."""
    axis = statistics.mass.ndim - 1
    return torch.cat([t.flatten(axis) for t in statistics[:3]], dim=-1)
