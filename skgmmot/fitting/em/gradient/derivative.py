"""The derivative of one iteration of EM, by hand: no tape, and additive over blocks of samples.

One iteration is ``theta -> Statistics -> theta'``. The M-step is small. For the E-step, let
``c0_k, c1_k, C2_k`` be cotangents of mass, shift and scatter, ``y = x_i - m_k``, and

- ``h_ik = c0_k + <c1_k, y> + <y, C2_k y>``, what sample i adds for component k,
- ``r_ik = a_i gamma_ik (h_ik - sum_l gamma_il h_il)``, the cotangent of ``log w_k g_k(x_i)``.

The cotangent of ``theta`` is then the score of the moments with the signed weights ``r``, so that a
vector-Jacobian product is a pass over the samples like the E-step itself, with one product more.
That of ``x_i`` is ``sum_k a_i gamma_ik (c1_k + 2 C2_k y) - r_ik Lambda_k y``, that of ``a_i`` is
``sum_k gamma_ik h_ik``. The centres of the statistics are constants: they cancel in the M-step.

`adjoint` has this for blocks of samples, `e_step` for all of them; `LinearisedEM` puts E-step and
M-step together.
"""

import math
from functools import cached_property

import torch
from torch import Tensor

from skgmmot.fitting.em.constraint import FREE, Constraint
from skgmmot.fitting.em.gradient.adjoint import FeatureAdjoint, beside_noise, score, with_noise
from skgmmot.fitting.em.gradient.e_step import e_step_derivative
from skgmmot.fitting.em.gradient.gram import FeatureGram, SampleGram
from skgmmot.fitting.em.gradient.overlaps import MANY, Overlaps, has_matrix, is_small
from skgmmot.fitting.em.rows import EM
from skgmmot.fitting.em.step import m_step, scatter_about, share_of_samples, shifts, sums
from skgmmot.gaussian.coordinates import FisherCoordinates, velocities
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.gaussian.statistics import Statistics
from skgmmot.numerics.newton.linearisation import MovableLinearisation


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
    K = shift.shape[-2]
    of_mass = of_mass + _of_counted(theta, statistics, constraint, of_weights[..., :K])
    of_mass = of_mass + ((bent - of_shift) * shift).sum(-1)
    if theta.noise is not None:
        of_mass = torch.cat([of_mass, of_weights[..., K:]], dim=-1)
    return Statistics(of_mass, of_shift - 2 * bent, of_scatter, torch.zeros_like(of_mass.sum()))


def _of_counted(theta, statistics, constraint, u: Tensor) -> Tensor:
    """Cotangents ``(..., K)`` of the components' masses from those of what weights are made of."""
    if constraint.prior is None or theta.noise is None:
        return u
    mass = statistics.component_mass
    counted, free = mass + constraint.prior.of_weights, constraint.free_components(mass)
    share, total = share_of_samples(mass, counted, constraint), (counted * free).sum()
    total = torch.where(total > 0, total, 1.0)
    grows = (u * counted).sum(-1, keepdim=True) * (1 - share) / total  # of the share itself
    return u * share + grows * free


def information_within(
    theta: GaussianMixtureParams, statistics: Statistics, constraint: Constraint
) -> tuple[Tensor, Tensor] | None:
    """Return how much more is known of weights relative to one another than beside noise.

    Parameters
    ----------
    theta : GaussianMixtureParams
        The current mixture.
    statistics : Statistics
        Sums over all samples.
    constraint : Constraint
        That of the M-step.

    Returns
    -------
    tuple of two Tensors or None
        The ratio, and which components ``(K,)`` share what noise leaves, as zeros and ones. None
        where it is one: without noise, or a prior.
    """
    if constraint.prior is None or theta.noise is None:
        return None
    mass = statistics.component_mass
    counted = mass + constraint.prior.of_weights
    share = share_of_samples(mass, counted, constraint)
    return 1 / torch.where(share > 0, share, 1.0), constraint.free_components(mass)


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


class InCoordinates(MovableLinearisation):
    """The linearisation of an iteration of EM at a mixture, in coordinates of the mixture.

    Parameters
    ----------
    em : EM
        The iteration.
    theta : GaussianMixtureParams
        Where it starts, a constant.
    """

    def __init__(self, em: EM, theta: GaussianMixtureParams):
        self.em, self.theta = em, theta

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

    def change_to(self, theta: GaussianMixtureParams) -> Tensor:
        """The coordinates of the change that leads to a mixture ``(m,)``."""
        change = theta.map(torch.sub, self.theta)
        return self._coordinates.of_change(self.em.constraint.free(change))


class LinearisedEM(InCoordinates):
    """One iteration of EM at a mixture, and its derivative in Fisher's coordinates.

    Parameters
    ----------
    em : EM
        The iteration.
    theta : GaussianMixtureParams
        Where it starts, a constant.
    """

    def __init__(self, em: EM, theta: GaussianMixtureParams):
        super().__init__(em, theta)
        with torch.no_grad():
            self._e_step = e_step_derivative(em, theta)
            self._features, self._statistics = self._e_step.features, self._e_step.statistics
            self.value = m_step(theta, self._statistics, em.reg_covar, em.constraint)
            self.objective = em.objective(theta, self._statistics)
            share = shares(theta, self._statistics, em.constraint)
            within = information_within(theta, self._statistics, em.constraint)
            self._coordinates = FisherCoordinates(theta, share, within)
            self.residual = self.change_to(self.value)
        self._has_matrix = self._features is not None and has_matrix(self._features)
        size = self.residual.numel(), em.samples.n_samples
        self.small = self._has_matrix and is_small(self._features, *size)

    @property
    def _is_constant(self) -> bool:
        """Whether there is one component, all of whose moments are seen: it goes there at once."""
        whole = not self.em.parts and not self.em.samples.incomplete
        return whole and len(self.theta.weights) == 1

    @property
    def against(self) -> Tensor:
        """What ``reg_covar`` adds to the covariances, which the likelihood has no part in."""
        free = m_step(self.theta, self._statistics, 0.0, self.em.constraint)
        return self._coordinates.of_change(self.value.map(torch.sub, free))

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
        if "_matrix" in vars(self) or (self._has_matrix and math.prod(u.shape[:-1]) >= MANY):
            return u @ self._matrix
        if u.ndim > 1:  # a pass over the samples takes one
            return torch.stack([self.product(row) for row in u])
        with torch.no_grad():
            return self._encoded(self._pull(self._decoded(u)))

    def matrix(self) -> Tensor:
        """``dF/dtheta (m, m)``: its rows are the products of unit vectors."""
        return self._matrix if self._has_matrix else super().matrix()

    @cached_property
    def _matrix(self):
        """All products at once ``(m, m)``: one pass gives what is needed of the samples."""
        with torch.no_grad():
            adjoint, overlaps = self._unit_adjoint, Overlaps(self._features)
            moments = adjoint.moments(overlaps.product(adjoint.H, *self.em.samples.sum(overlaps)))
            moments = with_noise(self.theta, moments)
            return self._encoded(score(self.theta, self._coordinates.precisions, moments))

    @cached_property
    def _unit_adjoint(self):
        """The adjoint E-step for all unit vectors together."""
        return FeatureAdjoint(self._features, beside_noise(self._cotangents))

    @cached_property
    def _cotangents(self):
        """Cotangents of the statistics for each unit vector, ``(m, ...)``."""
        p = self.residual.numel()
        identity = torch.eye(p, dtype=self.residual.dtype, device=self.residual.device)
        return self._pulled_to_statistics(self._decoded(identity))

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
            of_weights = torch.where(zero, self._e_step.pull_to_weights(cotangents), of_weights)
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
        return self._e_step.pull(self._pulled_to_statistics(u))

    def pull_samples(self, u: GaussianMixtureParams) -> tuple[Tensor, Tensor]:
        """Cotangents of the samples ``(n, d)`` and of their weights ``(n,)``."""
        return self._e_step.pull_to_samples(self._pulled_to_statistics(u))

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
            cotangents = self._pulled_to_statistics(self._decoded(u))
            return self._e_step.pull_to_samples(cotangents, self._along(v))[0]

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

    def _pulled_to_statistics(self, u):
        """Cotangents of the statistics from those of the next mixture."""
        em = self.em
        return m_step_pullback(self.theta, self._statistics, u, em.reg_covar, em.constraint)


def _flat(statistics: Statistics) -> Tensor:
    """Mass, shift and scatter as vectors ``(..., q)``."""
    axis = statistics.mass.ndim - 1
    return torch.cat([t.flatten(axis) for t in statistics[:3]], dim=-1)
