r"""Mixtures of Student-t distributions as values: densities, E-step and M-step.

A t distribution of location m, scale matrix S and :math:`\nu` degrees of freedom is a Gaussian of
covariance S / u whose scale u has a gamma distribution. With :math:`\delta_{ik} = (x_i - m_k)^T
S_k^{-1} (x_i - m_k)` the E-step finds responsibilities :math:`\gamma_{ik}` and expected scales

.. math:: u_{ik} = \frac{\nu_k + d}{\nu_k + \delta_{ik}},

small for samples far away. The sums are those of a Gaussian mixture with the weights
:math:`\gamma u` in place of :math:`\gamma`, and two more for each component. They add over blocks.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from skgmmot.fitting.em.step import Sums, counted_mass, scatter_about, shifts
from skgmmot.gaussian.choice import fastest_e_step
from skgmmot.gaussian.covariance.base import LOG_2PI, CovarianceType
from skgmmot.gaussian.covariance.typed import TypedTensors, as_pytree
from skgmmot.gaussian.evaluators import DefinitionEStep, EStep
from skgmmot.gaussian.log_density import nearest
from skgmmot.gaussian.mixture import GaussianMixtureParams, PreparedMixture
from skgmmot.gaussian.statistics import Statistics
from skgmmot.numerics.exponentials import log_sum_exp

#: Degrees of freedom are estimated between these; larger ones are those of a Gaussian, nearly.
LEAST, MOST = 0.1, 1e3
#: Given degrees of freedom from here on are infinite: the component is a Gaussian.
GAUSSIAN = 1e6
#: Steps of Newton's method for the degrees of freedom, which converges quadratically.
NEWTON_STEPS = 8


@as_pytree
@dataclass(frozen=True, slots=True, eq=False)
class StudentMixtureParams(TypedTensors):
    """A mixture of Student-t distributions: four tensors and a covariance type.

    Parameters
    ----------
    weights : Tensor of shape (K,)
        ``w``, of sum one.
    means : Tensor of shape (K, d)
        Locations ``m``.
    covariances : Tensor
        Scale matrices ``S``, in the storage of their covariance type.
    degrees_of_freedom : Tensor of shape (K,)
        ``nu``, positive; infinite for Gaussians.
    covariance_type : CovarianceType
        The type of the scale matrices.
    """

    weights: Tensor
    means: Tensor
    covariances: Tensor
    degrees_of_freedom: Tensor
    covariance_type: CovarianceType

    noise = None

    @property
    def component_weights(self) -> Tensor:
        """The weights: there is no noise."""
        return self.weights

    def gaussians(self) -> GaussianMixtureParams:
        """The Gaussians of the same locations and scale matrices."""
        return GaussianMixtureParams(
            self.weights, self.means, self.covariances, self.covariance_type
        )

    def without_noise(self) -> GaussianMixtureParams:
        """The Gaussians of the same locations and scale matrices."""
        return self.gaussians()

    def canonical(self) -> "StudentMixtureParams":
        """The same mixture: an elementary type has one storage for it."""
        return self

    def translated(self, by: Tensor) -> "StudentMixtureParams":
        """The same mixture with ``by (d,)`` added to its locations."""
        return self._replace(means=self.means + by.to(self.means))


def moments_of(theta: StudentMixtureParams) -> GaussianMixtureParams:
    r"""Return the Gaussian mixture whose components have the same means and covariances.

    .. math:: \Sigma_k = \frac{\nu_k}{\nu_k - 2} S_k

    Parameters
    ----------
    theta : StudentMixtureParams
        A mixture of t distributions with more than two degrees of freedom.

    Returns
    -------
    GaussianMixtureParams
        Of the same covariance type; full, if it is tied and degrees of freedom differ.

    Raises
    ------
    ValueError
        If a component has no covariance.
    """
    nu, gaussians = theta.degrees_of_freedom, theta.gaussians()
    least = float(nu.min())
    if not least > 2:
        raise ValueError(
            f"degrees of freedom must be above 2 for a covariance, got {least:.3g} in component "
            f"{int(nu.argmin())}. Use the Gaussians of the same scale, (weights_, means_, "
            "covariances_, covariance_type), or fix larger degrees_of_freedom."
        )
    factor = torch.where(torch.isinf(nu), 1.0, nu / (nu - 2))
    covariance_type = theta.covariance_type
    if covariance_type.shared and bool((nu == nu[0]).all()):
        return gaussians._replace(covariances=theta.covariances * factor[0])
    base, covariance_type = gaussians.in_base(), covariance_type.base.unshared
    storage = base.covariances.expand(covariance_type.shape(*base.means.shape))
    covariances = storage * covariance_type.each(factor)
    return base._replace(covariances=covariances, covariance_type=covariance_type)


class StudentStatistics(NamedTuple):
    """Sums over samples; those of blocks add."""

    mass: Tensor
    """``sum_i a_i gamma_ik (K,)``."""
    weighted: Statistics
    """Mass, shift and scatter with the weights ``a_i gamma_ik u_ik``; the log-likelihood."""
    tails: Tensor
    """``sum_i a_i gamma_ik (log u_ik - u_ik) (K,)``."""
    squares: Tensor
    """``sum_i a_i gamma_ik u_ik^2 (K,)``."""


class StudentEStep:
    """A mixture of t distributions, evaluated on blocks as an `EStep` evaluates Gaussians.

    It takes squared distances from the fastest accurate E-step of Gaussians.

    Parameters
    ----------
    mixture : PreparedMixture
        The Gaussians of the same locations and scale matrices.
    degrees_of_freedom : Tensor of shape (K,)
        ``nu``.
    n_samples : int, default=None
        In all blocks; None takes the definition, which is differentiable.
    dtype : torch.dtype, default=torch.float64
        As in `fastest_e_step`.
    origin : Tensor of shape (d,), default=None
        What the mixture is relative to.

    Attributes
    ----------
    theta : PreparedMixture
        The Gaussians, without their constants: their log-joint is minus half the distances.
    """

    def __init__(
        self,
        mixture: PreparedMixture,
        degrees_of_freedom: Tensor,
        n_samples: float | None = None,
        dtype: torch.dtype = torch.float64,
        origin: Tensor | None = None,
    ):
        d = mixture.means.shape[1]
        log_det = mixture.covariance_type.log_det(mixture.factors, d)
        constant = (d * LOG_2PI / 2 - log_det).expand(len(mixture.means))
        self.theta = mixture._replace(log_weights=constant, weights=None)
        if n_samples is None:
            self.step: EStep = DefinitionEStep(self.theta, origin)
        else:
            self.step = fastest_e_step(self.theta, n_samples, dtype, origin, apart=True)
        self.dtype = self.step.dtype
        self.row_size = self.step.row_size + 3 * len(constant)
        self.min_rows = self.step.min_rows
        self.n_features, nu = d, degrees_of_freedom.to(mixture.means.dtype)
        self.nu = torch.where(nu < GAUSSIAN, nu, torch.inf).unsqueeze(1)  # (K, 1)
        peak = mixture.log_weights + log_det + log_constant(self.nu.squeeze(1), d)
        self.peak = peak.unsqueeze(1)

    def _log_joint(self, distances: Tensor) -> Tensor:
        """The log-joint ``(K, b)`` from squared distances."""
        nu = self.nu.to(distances.dtype)
        finite = torch.where(torch.isinf(nu), 1.0, nu)
        heavy = (finite + self.n_features) / 2 * torch.log1p(distances / finite)
        return self.peak.to(distances.dtype) - torch.where(torch.isinf(nu), distances / 2, heavy)

    def scales(self, distances: Tensor) -> Tensor:
        """``u (K, b)`` from squared distances."""
        nu = self.nu.to(distances.dtype)
        found = (nu + self.n_features) / (nu + distances)
        return torch.where(torch.isinf(nu), 1.0, found)

    def distances(self, X: Tensor) -> Tensor:
        """Squared distances ``(K, b)``."""
        return (-2 * self.step.log_joint(X)).clamp(min=0)

    def log_joint(self, X: Tensor) -> Tensor:
        """``log w_k t_k(x_i) (K, b)``."""
        joint = self._log_joint(self.distances(X))
        far = ~torch.isfinite(joint.detach().amax(0))
        if not far.any():
            return joint
        # off the graph, for the derivative of an overflow is not a number
        near = torch.where(far.unsqueeze(1), self.theta.means[0].detach().to(X), X)
        constant = torch.zeros_like(joint)
        constant[:, far] = self._far(X.detach()[far]).to(joint)
        return torch.where(far, constant, self._log_joint(self.distances(near)))

    def _far(self, X: Tensor) -> Tensor:
        """The log-joint of samples whose squared distances overflow, as constants."""
        size = X.abs().amax(1, keepdim=True).double()
        theta = self.theta.to(dtype=torch.float64)
        directions = (X.double() / size).expand(len(self.nu), -1, -1)
        white = theta.covariance_type.apply(directions, theta.factors)
        log_distance = 2 * (size.log().squeeze(1) + torch.linalg.vector_norm(white, dim=-1).log())
        nu, peak = self.nu.detach().double(), self.peak.detach().double()
        finite = torch.where(torch.isinf(nu), 1.0, nu)
        found = peak - (finite + self.n_features) / 2 * (log_distance - finite.log())
        return torch.where(torch.isinf(nu), -torch.inf, found)

    def log_density(self, X: Tensor) -> Tensor:
        """``log sum_k w_k t_k(x_i) (b,)``."""
        return log_sum_exp(self.log_joint(X), 0)

    def log_responsibilities(self, X: Tensor) -> Tensor:
        """The log-posterior of the components ``(K, b)``."""
        return torch.log_softmax(self._told_apart(X), dim=0)

    def _told_apart(self, X: Tensor) -> Tensor:
        """The log-joint; one-hot where Gaussian components alone leave nothing of it."""
        joint = self.log_joint(X)
        nothing = torch.isneginf(joint.detach().amax(0))
        if not nothing.any():
            return joint
        one_hot = torch.zeros_like(joint)
        theta = self.theta._replace(log_weights=self.peak.detach().squeeze(1))
        one_hot[:, nothing] = nearest(theta, X.detach()[nothing]).to(joint)
        return torch.where(nothing, one_hot, joint)

    def responsibilities(self, X: Tensor, buffers=None) -> tuple[Tensor, Tensor]:
        """The posterior of the components ``(K, b)``, and the samples ``(d, b)``."""
        return torch.softmax(self._told_apart(X), dim=0), X.mT

    def block(self, X: Tensor, sample_weight: Tensor | None, buffers) -> tuple[Tensor, ...]:
        """Sum over one block what `statistics` needs."""
        lifted, joint = self.step.products(X, buffers)
        distances = joint.mul(-2).clamp_(min=0)
        joint = self._log_joint(distances)
        log_p = log_sum_exp(joint, 0)
        resp, u = (joint - log_p).exp_(), self.scales(distances)
        if sample_weight is not None:
            resp, log_p = resp * sample_weight, log_p * sample_weight
        weighted = resp * u
        sums = self.step.accumulate(lifted, weighted, buffers)
        tails = (resp * u.log() - weighted).sum(1, dtype=torch.float64)
        squares = (weighted * u).sum(1, dtype=torch.float64)
        mass, log_p = (t.sum(-1, dtype=torch.float64) for t in (resp, log_p))
        return *sums, mass, tails, squares, log_p

    def statistics(self, *sums: Tensor) -> StudentStatistics:
        """Turn the sums over all blocks into statistics centred at the locations."""
        *accumulated, mass, tails, squares, log_likelihood = sums
        weighted = self.step.statistics(*accumulated, log_likelihood)
        return StudentStatistics(mass, weighted, tails, squares)


def log_constant(nu: Tensor, d: int) -> Tensor:
    """Compute the log-density of t distributions of unit scale at their location.

    Parameters
    ----------
    nu : Tensor of shape (K,)
        Degrees of freedom, perhaps infinite.
    d : int
        Number of features.

    Returns
    -------
    Tensor of shape (K,)
        The logarithms of their peaks.
    """
    finite = torch.where(torch.isinf(nu), 1.0, nu)
    ratio = torch.lgamma((finite + d) / 2) - torch.lgamma(finite / 2)
    of_student = ratio - d / 2 * (finite * math.pi).log()
    return torch.where(torch.isinf(nu), -d * LOG_2PI / 2, of_student)


def e_step(
    theta: StudentMixtureParams, X: Tensor, sample_weight: Tensor | None = None
) -> StudentStatistics:
    """Sum the statistics by their definition; differentiable in everything.

    Parameters
    ----------
    theta : StudentMixtureParams
        K components in d dimensions.
    X : Tensor of shape (n, d)
        Samples.
    sample_weight : Tensor of shape (n,), default=None
        Their weights.

    Returns
    -------
    StudentStatistics
        Sums, centred at the locations.
    """
    step = StudentEStep(theta.gaussians().prepare(), theta.degrees_of_freedom)
    return step.statistics(*step.block(X, sample_weight, None))


def m_step(
    theta: StudentMixtureParams,
    statistics: StudentStatistics,
    reg_covar: float = 0.0,
    *,
    learns: bool = True,
) -> StudentMixtureParams:
    r"""Return the mixture of largest expected likelihood, given the E-step's sums.

    .. math::

        w_k = \frac{s_k}{\sum_l s_l}, \quad
        m_k = \frac{\sum_i \gamma_{ik} u_{ik} x_i}{\sum_i \gamma_{ik} u_{ik}}, \quad
        S_k = \frac{1}{s_k} \sum_i \gamma_{ik} u_{ik} (x_i - m_k)(x_i - m_k)^T, \quad
        s_k = \sum_i \gamma_{ik},

    and :math:`\nu_k` solves :math:`\log(\nu / 2) - \psi(\nu / 2) + c_k = 0`.

    Parameters
    ----------
    theta : StudentMixtureParams
        The mixture that the statistics are centred at.
    statistics : StudentStatistics
        Sums over all samples.
    reg_covar : float, default=0.0
        Added to the diagonals of the scale matrices.
    learns : bool, default=True
        Whether degrees of freedom are estimated.

    Returns
    -------
    StudentMixtureParams
        The next mixture. A component without samples stays, with weight zero.

    References
    ----------
    .. [1] Peel and McLachlan 2000, robust mixture modelling using the t distribution.
    """
    mass, alive = counted_mass(statistics.mass)
    weighted, covariance_type = statistics.weighted, theta.covariance_type
    each, scales = mass, weighted.mass
    if alive is not None:
        each = mass if covariance_type.shared else torch.where(alive, mass, 1.0)
        scales = torch.where(alive, scales, 1.0)
    total = Sums(mass, scales, each, weighted.shift, weighted.scatter, alive)
    shift = shifts(total.of_means, total.shift, alive)
    scatter = scatter_about(theta, total, shift)
    estimate = covariance_type.at(theta.covariances).estimate
    covariances = estimate(each, torch.zeros_like(shift), scatter, reg_covar)
    nu = theta.degrees_of_freedom.detach()
    if learns:
        tails = statistics.tails / (mass if alive is None else torch.where(alive, mass, 1.0))
        nu = next_degrees(theta.degrees_of_freedom, tails, shift.shape[1])
    if alive is not None:
        covariances = covariance_type.where(alive, covariances, theta.covariances)
        nu = torch.where(alive, nu, theta.degrees_of_freedom)
    parts = mass / mass.sum(), theta.means + shift, covariances, nu
    return StudentMixtureParams(*parts, covariance_type)


def next_degrees(nu: Tensor, tails: Tensor, d: int) -> Tensor:
    r"""Return the degrees of freedom of largest expected likelihood.

    .. math::

        \log \frac{\nu}{2} - \psi\Bigl(\frac{\nu}{2}\Bigr) = -1
            - \frac{1}{s_k} \sum_i \gamma_{ik} (\log u_{ik} - u_{ik})
            - \psi\Bigl(\frac{\nu_k + d}{2}\Bigr) + \log \frac{\nu_k + d}{2}

    Parameters
    ----------
    nu : Tensor of shape (K,)
        The current ones.
    tails : Tensor of shape (K,)
        Means of ``log u - u``.
    d : int
        Number of features.

    Returns
    -------
    Tensor of shape (K,)
        Between `LEAST` and `MOST`; differentiable.
    """
    half = (nu + d) / 2
    level = -1 - tails - torch.digamma(half) + half.log()  # (K,), positive but for rounding
    with torch.no_grad():
        low, high = (_excess(nu.new_tensor(bound))[0] for bound in (MOST, LEAST))
        target = level.clamp(low, high)
        log_nu = nu.clamp(LEAST, MOST).log()
        for _ in range(NEWTON_STEPS):  # the logarithm of the left side is nearly linear in it
            value, slope = _excess(log_nu.exp())
            log_nu = log_nu - (value.log() - target.log()) * value / slope
            log_nu = log_nu.clamp(math.log(LEAST), math.log(MOST))
        found = log_nu.exp()
        inside = (level > low) & (level < high)
        _, slope = _excess(found)
    # one more step, on the graph: the derivative of the root
    moved = found * (1 + (level - level.detach()) / slope)
    return torch.where(inside, moved, found)


def _excess(nu: Tensor) -> tuple[Tensor, Tensor]:
    """``log(nu / 2) - psi(nu / 2)``, which decreases from infinity to 0; the slope in log nu."""
    half = nu / 2
    return half.log() - torch.digamma(half), 1 - half * torch.polygamma(1, half)
