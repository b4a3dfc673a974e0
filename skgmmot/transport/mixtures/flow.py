r"""Flows of samples along geodesics and Schrodinger bridges between mixtures.

For each pair of Gaussians that the plan joins, a coupling of the two has the cross-covariance
:math:`C = E[(x_0 - m_0)(x_1 - m_1)^T]`. With a Brownian bridge of variance :math:`\sigma^2` around
the line between :math:`x_0` and :math:`x_1`, the law at time ``t`` is Gaussian with the covariance

.. math::

    S_t = (1 - t)^2 S_0 + t^2 S_1 + t (1 - t) (C + C^T + \sigma^2 I).

Without entropy :math:`\sigma = 0` and :math:`C = S_0 A` with the optimal linear map A. With entropy
``reg``, :math:`\sigma^2 = \text{reg} / 2` and, with :math:`M = S_0^{1/2} S_1 S_0^{1/2}`,

.. math::

    C = \tfrac12 S_0^{1/2} \bigl((4 M + \sigma^4 I)^{1/2} - \sigma^2 I\bigr) S_0^{-1/2}.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from skgmmot.gaussian.bures.barycenter import align
from skgmmot.gaussian.covariance.base import CovarianceType
from skgmmot.gaussian.covariance.registry import DIAG, FULL, SPHERICAL, TIED
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.numerics import blocks
from skgmmot.numerics.counts import positive_integer
from skgmmot.numerics.linalg import factor, schur_complement, squared_distances, symmetrize
from skgmmot.transport.discrete.plan import Plan
from skgmmot.transport.discrete.solvers import entropy_of, solve
from skgmmot.transport.mixtures.distance import check_dimensions, transport_plan
from skgmmot.transport.mixtures.maps import MixtureMap, each_by_its_own, mean_map


def entropic_costs(
    source: GaussianMixtureParams, target: GaussianMixtureParams, reg: float
) -> Tensor:
    r"""Return the entropic transport costs between the components of two mixtures.

    .. math::

        \min_\pi \; E_\pi |x - y|^2 + \text{reg} \operatorname{KL}(\pi | g_k \otimes g_l)
        = |m_0 - m_1|^2 + \operatorname{tr}(S_0 + S_1) - \sum_i (s_i - \sigma^2)
        + \sigma^2 \sum_i \log \frac{s_i + \sigma^2}{2 \sigma^2}

    with :math:`\sigma^2 = \text{reg} / 2` and :math:`s_i = (4 \mu_i + \sigma^4)^{1/2}` for the
    eigenvalues :math:`\mu_i` of :math:`S_0^{1/2} S_1 S_0^{1/2}`.

    Parameters
    ----------
    source : GaussianMixtureParams
        K components in d dimensions.
    target : GaussianMixtureParams
        L components in d dimensions.
    reg : float
        Weight of the entropy, positive, in squared units of the means.

    Returns
    -------
    Tensor of shape (K, L)
        Costs.

    Notes
    -----
    Not differentiable. Costs ``O(K L d^3)``.

    References
    ----------
    .. [1] Janati, Muzellec, Peyre and Cuturi 2020, theorem 1.
    """
    variance = reg / 2
    matrices = source.full_covariances(), target.full_covariances()
    factors = [factor(S) for S in matrices]
    roots = torch.linalg.svdvals(factors[0].mT.unsqueeze(1) @ factors[1])  # (K, L, d)
    excess = _excess(roots, variance)
    entropy = variance * torch.log1p(excess / 2 / variance)
    traces = [S.diagonal(dim1=-2, dim2=-1).sum(-1) for S in matrices]
    spread = traces[0].unsqueeze(1) + traces[1] - (excess - entropy).sum(-1)
    return squared_distances(source.means, target.means) + spread


@dataclass(frozen=True, eq=False)
class PairFlow:
    r"""The mixtures between two mixtures, as a flow of samples in time.

    A pair of components, of weight :math:`P_{kl}`, is joined by a coupling of its Gaussians: with
    factors :math:`S_0 = F F^T` and independent standard normal :math:`u, v`,

    .. math:: x_0 = m_0 + F u, \qquad x_1 = m_1 + G u + R v, \qquad S_1 = G G^T + R R^T,

    and a Brownian bridge of variance :math:`\sigma^2` leads from the one to the other.

    Parameters
    ----------
    weights : Tensor of shape (p,)
        Weights of the pairs, of sum one.
    source_means, target_means : Tensor of shape (p, d)
        Means at the ends.
    factors : Tensor of shape (p, d, d)
        ``F``.
    gains : Tensor of shape (p, d, d)
        ``G``.
    rest : Tensor of shape (p, d, d)
        ``R R^T``; zero without entropy.
    variance : float
        ``sigma^2``: the variance that Brownian motion gains in the time from 0 to 1.
    covariance_type : CovarianceType
        The type of the mixtures.
    """

    weights: Tensor
    source_means: Tensor
    target_means: Tensor
    factors: Tensor
    gains: Tensor
    rest: Tensor
    variance: float
    covariance_type: CovarianceType

    def mixture(self, t: float) -> GaussianMixtureParams:
        """Return the mixture at a time.

        Parameters
        ----------
        t : float
            Time, 0 at the source and 1 at the target.

        Returns
        -------
        GaussianMixtureParams
            A component for each pair, in the same order at every time.
        """
        means = torch.lerp(self.source_means, self.target_means, t)
        covariances = self.covariance_type.nearest(self._covariances(t), self.weights)
        return GaussianMixtureParams(self.weights, means, covariances, self.covariance_type)

    def _covariances(self, t: float) -> Tensor:
        """``S_t (p, d, d)``."""
        M = torch.lerp(self.factors, self.gains, t)
        return symmetrize(M @ M.mT + t**2 * self.rest) + self._identity(t * (1 - t))

    def _identity(self, share: float) -> Tensor:
        """A share of the bridge's variance in all directions."""
        d = self.source_means.shape[1]
        identity = torch.eye(d, dtype=self.factors.dtype, device=self.factors.device)
        return self.variance * share * identity

    def _slopes(self, t: float) -> Tensor:
        """``E[dx/dt (x - m)^T] S_t^{-1} (p, d, d)``: velocities are linear within a component."""
        M, change = torch.lerp(self.factors, self.gains, t), self.gains - self.factors
        together = change @ M.mT + t * self.rest + self._identity(0.5 - t)
        try:
            lower = torch.linalg.cholesky(self._covariances(t))
        except torch.linalg.LinAlgError as error:
            raise ValueError(
                f"covariances at time {t:g} must be positive definite for a velocity at every "
                "point, got one that is singular. Add to the diagonals of those at the ends, or "
                "pass reg > 0 and times between 0 and 1."
            ) from error
        return symmetrize(torch.cholesky_solve(together.mT, lower).mT)

    def velocity(self, t: float) -> MixtureMap:
        r"""Return the velocity field at a time, the one of least kinetic energy.

        .. math::

            v(x) = \sum_{kl} \gamma_{kl}(x) \bigl(m_1 - m_0 + B_{kl} (x - m_t)\bigr)

        with the responsibilities :math:`\gamma` of the mixture at time ``t``. Within a component
        it is the gradient of a function; samples that follow it have the law of the mixture at
        every time.

        Parameters
        ----------
        t : float
            Time.

        Returns
        -------
        MixtureMap
            The field, to be evaluated by `field_at`.

        Raises
        ------
        ValueError
            If a covariance at that time is singular.
        """
        return self._field(t, self._slopes(t))

    def drift(self, t: float) -> MixtureMap:
        r"""Return the drift of the diffusion ``dx = drift dt + sigma dB`` with the same laws.

        .. math:: v(x) + \tfrac12 \sigma^2 \nabla \log \mu_t(x)

        Parameters
        ----------
        t : float
            Time.

        Returns
        -------
        MixtureMap
            The field, to be evaluated by `field_at`.

        Raises
        ------
        ValueError
            If a covariance at that time is singular.
        """
        slopes = self._slopes(t) - self.variance / 2 * torch.linalg.inv(self._covariances(t))
        return self._field(t, slopes)

    def _field(self, t: float, slopes: Tensor) -> MixtureMap:
        """A mean of fields ``m_1 - m_0 + B (x - m_t)`` by the responsibilities at time t."""
        mixture = self.mixture(t)
        origin = mixture.weights @ mixture.means
        at_origin = (slopes @ (origin - mixture.means).unsqueeze(2)).squeeze(2)
        offsets = self.target_means - self.source_means + at_origin
        pairs = torch.arange(len(self.weights), device=slopes.device)
        affine = torch.cat([slopes, offsets.unsqueeze(2)], dim=2)
        share = torch.ones_like(self.weights)
        return MixtureMap(mixture.prepare(), pairs, pairs, share, origin, affine)

    def transport(self, X: Tensor, times: Sequence[float], n_steps: int = 50) -> Tensor:
        """Move samples along the velocity field, by the Runge-Kutta method of order four.

        Parameters
        ----------
        X : Tensor of shape (n, d)
            Samples at the first time.
        times : sequence of T float
            Ascending or descending times.
        n_steps : int, default=50
            Steps for a unit of time, at least one between two times.

        Returns
        -------
        Tensor of shape (T, n, d)
            Their positions at each time.

        Raises
        ------
        ValueError
            If ``n_steps`` is no positive integer, or a covariance on the way is singular.
        """
        n_steps = positive_integer("n_steps", n_steps)
        positions = [X]
        for start, end in itertools.pairwise(times):
            count = max(1, math.ceil(abs(end - start) * n_steps - 1e-9))
            h, X, here = (end - start) / count, positions[-1], self.velocity(start)
            for i in range(count):
                t = start + i * h
                middle, there = self.velocity(t + h / 2), self.velocity(t + h)
                X, here = _runge_kutta(X, h, here, middle, there), there
            positions.append(X)
        return torch.stack(positions)

    def paths(
        self, times: Sequence[float], n_paths: int, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draw paths from the bridges between the components, exactly at the given times.

        Parameters
        ----------
        times : sequence of T float
            Ascending times in [0, 1].
        n_paths : int
            Number of paths.
        generator : torch.Generator, default=None
            Source of random numbers, on the device of the mixtures; None is torch's own.

        Returns
        -------
        paths : Tensor of shape (T, n_paths, d)
            Positions. At each time they have the law of the mixture; without entropy they are
            lines.
        labels : Tensor of shape (n_paths,)
            The pair of each path.

        Raises
        ------
        ValueError
            If ``n_paths`` is no positive integer.
        """
        n_paths = positive_integer("n_paths", n_paths)
        pair = torch.multinomial(self.weights, n_paths, replacement=True, generator=generator)
        d, like = self.source_means.shape[1], self.source_means

        def normal(*shape):
            return torch.randn(*shape, dtype=like.dtype, device=like.device, generator=generator)

        u, v = normal(2, n_paths, d)
        source = _mapped(self.factors, self.source_means, pair, u)
        target = _mapped(self.gains, self.target_means, pair, u)
        target += _mapped(factor(self.rest), torch.zeros_like(like), pair, v)
        t = torch.tensor([0.0, *times, 1.0], dtype=like.dtype, device=like.device)
        gaps = t.diff().clamp(min=0).sqrt().reshape(-1, 1, 1)
        walk = (gaps * normal(len(t) - 1, n_paths, d)).cumsum(0)  # Brownian motion at t[1:]
        t = t[1:-1].reshape(-1, 1, 1)
        bridge = math.sqrt(self.variance) * (walk[:-1] - t * walk[-1])
        return torch.lerp(source, target, t) + bridge, pair


def field_at(field: MixtureMap, X: Tensor) -> Tensor:
    """Evaluate a field of `PairFlow` at samples.

    Parameters
    ----------
    field : MixtureMap
        A velocity or drift.
    X : Tensor of shape (n, d)
        Samples.

    Returns
    -------
    Tensor of shape (n, d)
        Its values, in the dtype of the samples.
    """
    field = field.for_samples(X)
    return blocks.map_rows(lambda block: mean_map(field, block), field.mean_row_size, X)


def _runge_kutta(X: Tensor, h: float, here, middle, there) -> Tensor:
    """One step of length h, by the fields at its start, its middle and its end."""
    k1 = field_at(here, X)
    k2 = field_at(middle, X + h / 2 * k1)
    k3 = field_at(middle, X + h / 2 * k2)
    k4 = field_at(there, X + h * k3)
    return X + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def _mapped(matrices: Tensor, offsets: Tensor, pair: Tensor, normal: Tensor) -> Tensor:
    """Images of samples ``(n, d)``, each by the matrix and the offset of its pair."""
    affine = torch.cat([matrices, offsets.unsqueeze(2)], dim=2)
    return each_by_its_own(affine, pair, normal.mT.contiguous()).mT


def mixture_flow(
    source: GaussianMixtureParams,
    target: GaussianMixtureParams,
    *,
    reg: float = 0.0,
    plan: Plan | None = None,
) -> tuple[Plan, PairFlow]:
    r"""Return the flow along the geodesic or, with entropy, the Schrodinger bridge of two mixtures.

    Parameters
    ----------
    source : GaussianMixtureParams
        K components in d dimensions, of any covariance type.
    target : GaussianMixtureParams
        L components in d dimensions.
    reg : float, default=0.0
        Weight of the entropy of the coupling of samples, in squared units of the means. Brownian
        motion of the bridge gains the variance ``reg / 2``; 0 is the geodesic.
    plan : Plan, default=None
        The plan between components. None is the optimal one for the entropic costs between
        Gaussians: a linear programme.

    Returns
    -------
    plan : Plan
        The plan.
    flow : PairFlow
        The flow, of at most ``K + L - 1`` pairs for an optimal plan.

    Raises
    ------
    ValueError
        If the dimensions differ, or ``reg`` is negative.

    Notes
    -----
    Not differentiable. The couplings between samples are mixtures of Gaussian couplings, as in
    MW2. For one component each this is the Schrodinger bridge; for several it is the best of this
    form.

    References
    ----------
    .. [1] Bunne, Hsieh, Cuturi and Krause 2023, theorem 3, for the bridge between Gaussians.
    .. [2] Rapakoulias, Pedram and Tsiotras 2024, for that between mixtures.
    """
    source, target = source.detach(), target.detach()
    check_dimensions(source, target)
    reg = entropy_of(reg)
    if plan is None:
        plan = (
            solve(source.weights, target.weights, entropic_costs(source, target, reg))
            if reg
            else transport_plan(source, target)
        )
    k, l = torch.nonzero(plan.coupling, as_tuple=True)
    mass = plan.coupling[k, l]
    factors, end = source.full_covariances()[k], target.full_covariances()[l]
    factors = factor(factors)
    gains = _gains(factors, end, reg / 2)
    rest = schur_complement(end, gains) if reg else torch.zeros_like(end)
    shares = (mass / mass.sum()).to(factors.dtype)
    means = source.means[k], target.means[l]
    covariance_type = common_type(source, target)
    return plan, PairFlow(shares, *means, factors, gains, rest, reg / 2, covariance_type)


def _gains(factors: Tensor, end: Tensor, variance: float) -> Tensor:
    """``G = C^T F^{-T}``, where ``C`` is the cross-covariance of the optimal coupling."""
    if not variance:
        return align(factor(end), factors)
    left, roots, _ = torch.linalg.svd(factors.mT @ factor(end))
    share = 2 / (_excess(roots, variance) + 2 * variance)
    return end @ factors @ (left * share.unsqueeze(-2)) @ left.mT


def _excess(roots: Tensor, variance: float) -> Tensor:
    """``(4 roots^2 + variance^2)^{1/2} - variance``, without squares, which may overflow."""
    doubled = 2 * roots
    whole = torch.hypot(doubled, torch.full_like(doubled, variance))
    return doubled * (doubled / (whole + variance))


def common_type(source: GaussianMixtureParams, target: GaussianMixtureParams) -> CovarianceType:
    """Return the simplest covariance type of the mixtures between two.

    Parameters
    ----------
    source, target : GaussianMixtureParams
        The mixtures.

    Returns
    -------
    CovarianceType
        'spherical', 'diag' or 'tied' if both are, else 'full'.
    """
    types = [m.covariance_type.base for m in (source, target)]
    if all(each.diagonal for each in types):
        return SPHERICAL if all(each == SPHERICAL for each in types) else DIAG
    return TIED if all(each.shared for each in types) else FULL
