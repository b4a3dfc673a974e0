r"""Conjugate priors of mixtures, as the statistics of samples that were seen before.

Weights have a Dirichlet prior, means and covariances a normal-inverse-Wishart one,

.. math::

    p(\theta) \propto \prod_k w_k^{\alpha_k - 1}\;
        N\bigl(m_k; \mu, \Sigma_k / \kappa\bigr)\; IW\bigl(\Sigma_k; \nu, S\bigr).

Its logarithm has the form of the expected log-likelihood that the M-step maximises. It is the term
of :math:`\kappa` samples at :math:`\mu` with the scatter S around them, which count as
:math:`\alpha_k - 1` samples for the weights, :math:`\kappa` for the means and, for full
covariances, :math:`\nu + d + 2` for the covariances. The M-step adds their sums to those of the
samples, and nothing else changes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from skgmmot.fitting.samples import Samples
from skgmmot.gaussian.covariance.base import CovarianceType, ElementaryType
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.gaussian.statistics import Statistics
from skgmmot.numerics.blocks import MIN_BLOCK_ROWS

#: Least eigenvalue of the correlations of samples whose covariance is not singular.
SINGULAR = 1e-10
#: Mean precision and degrees of freedom (beside d) of Fraley and Raftery.
MEAN_PRECISION, MORE_THAN_FEATURES = 0.01, 2


@dataclass(frozen=True, eq=False)
class Prior:
    r"""Conjugate prior of a Gaussian mixture: Dirichlet and normal-inverse-Wishart.

    .. math::

        w \sim \mathrm{Dirichlet}(\alpha), \qquad
        m_k \mid \Sigma_k \sim N(\mu, \Sigma_k / \kappa), \qquad
        \Sigma_k \sim IW(\nu, S).

    With it EM finds the mixture of largest posterior density. The M-step has closed forms, for full
    covariances and the sums :math:`s_k` of the responsibilities

    .. math::

        w_k = \frac{s_k + \alpha_k - 1}{\sum_l (s_l + \alpha_l - 1)}, \quad
        m_k = \frac{s_k \bar x_k + \kappa \mu}{s_k + \kappa}, \quad
        \Sigma_k = \frac{\sum_i \gamma_{ik} (x_i - m_k)(x_i - m_k)^T
            + \kappa (\mu - m_k)(\mu - m_k)^T + S}{s_k + \nu + d + 2}.

    Parameters
    ----------
    weight_concentration : float or array-like of shape (n_components,), default=1.0
        :math:`\alpha \ge 1`; 1 leaves the weights to the likelihood.
    mean : array-like of shape (n_features,), default=None
        :math:`\mu`; None is the mean of the samples.
    mean_precision : float, default=0.01
        :math:`\kappa > 0`: how many samples the prior mean counts for.
    degrees_of_freedom : float, default=None
        :math:`\nu`, above ``d - 1`` for full and tied covariances, above 0 for variances. None is
        ``d + 2``.
    scale : float or array-like, default=None
        S, in the shape of one covariance of the type: ``(d, d)`` if full or tied, ``(d,)`` if
        diag, a number if spherical; a number is that multiple of the identity for each of them.
        None is the covariance of the samples divided by ``K^(2 / d)``.

    Raises
    ------
    TypeError
        If a number is not a number.
    ValueError
        If the prior is not proper: a concentration below one, a precision or a scale that is not
        positive, too few degrees of freedom, or anything that is not finite. What depends on the
        number of features is checked by the fit.

    Notes
    -----
    The names are those of `sklearn.mixture.BayesianGaussianMixture` without ``_prior``; ``scale``
    is its ``covariance_prior``. That class finds a distribution over mixtures, this a mixture.

    For *diag* covariances each variance has the inverse gamma prior :math:`(\sigma^2)^{-\nu/2 - 1}
    e^{-S/(2\sigma^2)}`, so that a covariance counts for :math:`\nu + 3` samples. For *spherical*
    ones the prior is the same for the one variance, and
    :math:`\sigma_k^2 = (S + \mathrm{tr}(\ldots)) / (d (s_k + 1) + \nu + 2)`. A *tied* covariance
    has one prior and counts for :math:`\nu + d + 1 + K`. Another registered type has the prior of
    its base in each component.

    With noise the Dirichlet distribution is that of the weights relative to what noise leaves, and
    the prior is flat in the weight of noise, which is its share of the samples.

    The defaults are those of Fraley and Raftery, but that ``diag`` has a scale for each feature,
    which does not depend on their units. Where the covariance of the samples is singular, its
    diagonal takes its place.

    Where ``mean`` and ``scale`` are tensors that require a gradient, `skgmmot.functional.fit_em` is
    differentiable in them; the defaults are differentiated as functions of the samples.

    References
    ----------
    .. [1] Fraley and Raftery 2007, Bayesian regularization for normal mixture estimation and
       model-based clustering.

    Examples
    --------
    >>> import numpy as np
    >>> from skgmmot import DifferentiableGaussianMixture, Prior
    >>> X = np.array([[0.0], [0.0], [1.0], [7.0], [8.0]])
    >>> prior = Prior(weight_concentration=2.0, mean=[0.0], scale=2.0)
    >>> mixture = DifferentiableGaussianMixture(2, prior=prior, random_state=0).fit(X)
    >>> np.sort(mixture.weights_).round(2)
    array([0.43, 0.57])
    """

    weight_concentration: Any = 1.0
    mean: Any = None
    mean_precision: float = MEAN_PRECISION
    degrees_of_freedom: float | None = None
    scale: Any = None

    def __post_init__(self):
        concentration = _tensor("weight_concentration", self.weight_concentration)
        if not (torch.isfinite(concentration) & (concentration >= 1)).all():
            raise ValueError(
                "weight_concentration must be finite and at least 1, got "
                f"{float(concentration.min()):.3g}. Less has no largest posterior density: it "
                "grows without bound as a weight vanishes."
            )
        _check_positive("mean_precision", self.mean_precision)
        if self.degrees_of_freedom is not None:
            _check_positive("degrees_of_freedom", self.degrees_of_freedom)
        if self.mean is not None and not torch.isfinite(_tensor("mean", self.mean)).all():
            raise ValueError("mean must be finite, got NaN or infinity. Replace those entries.")
        if self.scale is not None and not torch.isfinite(_tensor("scale", self.scale)).all():
            raise ValueError("scale must be finite, got NaN or infinity. Replace those entries.")

    def tensors(self) -> list[Tensor]:
        """Return the tensors that may require a gradient.

        Returns
        -------
        list of Tensor
            The mean and the scale, if they are tensors.
        """
        return [t for t in (self.mean, self.scale) if isinstance(t, Tensor)]

    def conjugate(
        self,
        covariance_type: CovarianceType,
        n_components: int,
        origin: Tensor,
        moments: Callable[[], tuple[Tensor, Tensor]],
        reg_covar: float,
    ) -> "ConjugatePrior":
        """Return the prior of mixtures of a type, about an origin.

        Parameters
        ----------
        covariance_type : CovarianceType
            The type.
        n_components : int
            K.
        origin : Tensor of shape (d,)
            What mixtures are relative to.
        moments : callable
            Computes the samples' mean ``(1, d)`` about the origin and their covariance, in the
            storage of the type's base; called if a default depends on them.
        reg_covar : float
            That of the fit. If it is positive, features may be constant.

        Returns
        -------
        ConjugatePrior
            The prior.

        Raises
        ------
        ValueError
            If a shape is another, or the prior is not proper.
        """
        K, d, base = n_components, len(origin), covariance_type.base
        if not base.elementary:
            raise ValueError(
                f"prior must be 'none' with covariance_type={covariance_type.name!r}, got one: it "
                "is conjugate to other covariances. Increase reg_covar to keep variances up."
            )
        to = {"dtype": torch.float64, "device": origin.device}
        concentration = _tensor("weight_concentration", self.weight_concentration).to(**to)
        if concentration.ndim and concentration.shape != (K,):
            raise ValueError(
                "weight_concentration must be a number or one for each component, of shape "
                f"({K},), got shape {tuple(concentration.shape)}. Match n_components."
            )
        if self.mean is None or self.scale is None:
            mean, scale = moments()
        if self.mean is not None:
            mean = _shaped("mean", _tensor("mean", self.mean), (d,)).to(**to) - origin.double()
        if self.scale is not None:
            scale = _given_scale(self.scale, base, d).to(**to)
        else:
            scale = _default_scale(scale, base, K, d, reg_covar)
        freedom = self.degrees_of_freedom
        freedom = d + MORE_THAN_FEATURES if freedom is None else float(freedom)
        least = base.least_degrees_of_freedom(d)
        if not freedom > least:
            raise ValueError(
                f"degrees_of_freedom must be above {least:g} for {covariance_type.name!r} "
                f"covariances of {d} feature(s), or the prior is improper; got {freedom:g}. "
                "Increase it, or leave it out."
            )
        return ConjugatePrior(
            of_weights=(concentration.expand(K) - 1).detach(),
            of_means=float(self.mean_precision),
            of_covariances=base.prior_mass(freedom, K, d) + 1,
            mean=mean.reshape(d),
            scale=scale / base.pooled(d),
        )


def _tensor(name: str, value) -> Tensor:
    """Numbers of a user as a tensor."""
    try:
        return torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"{name} must hold numbers, got {value!r}. Pass a number or an array."
        ) from error


def _check_positive(name: str, value) -> None:
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, got {value!r}. Pass a positive float.")
    if not 0 < value < math.inf:
        raise ValueError(
            f"{name} must be positive and finite, or the prior is improper; got {value!r}. Pass a "
            "small number for a weak prior."
        )


def _shaped(name: str, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    if tensor.shape != shape:
        raise ValueError(
            f"{name} must have shape {shape}, got {tuple(tensor.shape)}. Match the features of X "
            "and the covariance type."
        )
    return tensor


def _given_scale(scale, base: ElementaryType, d: int) -> Tensor:
    """The scale of a user, as one covariance in storage."""
    tensor = _tensor("scale", scale)
    if tensor.ndim == 0:
        identity = torch.eye(d, dtype=torch.float64, device=tensor.device).unsqueeze(0)
        storage = tensor * base.nearest(identity, identity.new_ones(1))
    else:
        one = base.shape(1, d)[1:]
        shape = () if one == (1,) and d > 1 else one
        storage = _shaped("scale", tensor, shape).unsqueeze(0)
    requirement = base.not_precisions(storage.detach())
    if requirement:
        raise ValueError(
            f"scale must be {requirement}, or the prior is improper; got {scale!r}. Pass the "
            "covariance that you expect, times the degrees of freedom."
        )
    return storage


def _default_scale(covariance: Tensor, base: ElementaryType, K: int, d: int, reg_covar: float):
    """The covariance of the samples, or its diagonal, divided by ``K^(2 / d)``."""
    variances = base.diagonals(covariance).detach()
    if not reg_covar > 0 and not (variances > 0).all():
        raise ValueError(
            "scale must be given where a feature of X is constant and reg_covar=0, got a variance "
            "of zero. Pass Prior(scale=...), or drop the feature."
        )
    if not base.diagonal and _is_singular(covariance.detach()[0]):
        covariance = base.nearest(base.diagonals(covariance), covariance.new_ones(1))
    return covariance / K ** (2 / d)


def _is_singular(covariance: Tensor) -> bool:
    spread = covariance.diagonal().clamp(min=0).sqrt()
    inverse = torch.where(spread > 0, 1 / spread, 0.0)
    return float(torch.linalg.eigvalsh(inverse[:, None] * covariance * inverse)[0]) < SINGULAR


@dataclass(frozen=True, eq=False)
class ConjugatePrior:
    """A prior as statistics of samples that were seen before, about an origin.

    Parameters
    ----------
    of_weights : Tensor of shape (K,)
        Their number in each component, where weights are estimated.
    of_means : float
        Their number in each component, where means are estimated.
    of_covariances : float
        Their number in each component, where covariances are estimated.
    mean : Tensor of shape (d,)
        Where they lie.
    scale : Tensor
        Their scatter about it, beside what the means add; one covariance, in the storage of the
        base of the type. Like the mean it may be on a graph.
    """

    of_weights: Tensor
    of_means: float
    of_covariances: float
    mean: Tensor
    scale: Tensor

    def statistics(self, theta: GaussianMixtureParams) -> Statistics:
        """The sums that the M-step adds, centred at the means of a mixture."""
        base, by = theta.covariance_type.base, self.mean - theta.means  # (K, d)
        shift = self.of_means * by
        mass = torch.full_like(by[:, 0], self.of_means)
        return Statistics(mass, shift, self.scale + base.outer(shift, by), mass.new_zeros(()))

    def scaled(self, by: float) -> "ConjugatePrior":
        """The same beside samples whose weights are scaled."""
        masses = {name: getattr(self, name) * by for name in ("of_weights", "of_means")}
        of_covariances, scale = self.of_covariances * by, self.scale * by
        return replace(self, **masses, of_covariances=of_covariances, scale=scale)

    def detach(self) -> "ConjugatePrior":
        """The same as a constant."""
        return replace(self, mean=self.mean.detach(), scale=self.scale.detach())

    def log_density(self, theta: GaussianMixtureParams, free: Tensor | None = None) -> Tensor:
        """The log-density of the prior, up to a constant.

        With noise its Dirichlet distribution is that of the weights relative to what noise leaves
        the components that are free, ones of ``free (K,)``; None is all of them.
        """
        d = theta.means.shape[1]
        factors, base = theta.prepare()[2:4]
        statistics = self.statistics(theta)
        mass = base.total(torch.full_like(statistics.mass, self.of_covariances))
        squares = base.pooled(d) * (statistics.scatter * base.precisions(factors)).sum()
        weights = theta.component_weights
        if theta.noise is not None:
            rest = (weights if free is None else weights * free).sum()
            relative = weights / rest.clamp(min=torch.finfo(weights.dtype).tiny)
            weights = relative if free is None else torch.where(free > 0, relative, weights)
        of_weights = torch.xlogy(self.of_weights, weights).sum()
        return of_weights + mass @ base.log_det(factors, d) - squares / 2

    def pull(self, theta: GaussianMixtureParams, cotangents: Statistics) -> tuple[Tensor, Tensor]:
        """Cotangents of ``mean`` and ``scale`` from those of the statistics."""
        base, d = theta.covariance_type.base, theta.means.shape[1]
        by = (self.mean - theta.means).unsqueeze(-2)
        bent = base.apply(by, cotangents.scatter).squeeze(-2) / base.pooled(d)
        of_mean = self.of_means * (cotangents.shift + 2 * bent).sum(0)
        return of_mean, cotangents.scatter.sum(0, keepdim=True)


class Moments:
    """Mass, mean and second moments of all samples about an origin, over a block.

    Parameters
    ----------
    origin : Tensor of shape (d,)
        The origin.
    base : ElementaryType
        The type in whose storage second moments are summed.
    """

    min_rows = MIN_BLOCK_ROWS

    def __init__(self, origin: Tensor, base: ElementaryType):
        self.origin, self.base, self.row_size = origin.double(), base, 2 * len(origin)

    def block(self, X: Tensor, sample_weight: Tensor | None, buffers) -> tuple[Tensor, ...]:
        """Sum the moments of samples ``(b, d)``."""
        x = (X.double() - self.origin).unsqueeze(0)
        a = x.new_ones(1, x.shape[1])
        if sample_weight is not None:
            a = a * sample_weight
        return a.sum(1), (a.unsqueeze(-1) * x).sum(1), self.base.scatter(x, a)

    def of(self, samples: Samples, on_graph=None) -> tuple[Tensor, Tensor]:
        """Mean ``(1, d)`` and covariance of samples, or of those on a graph ``(X, weights)``.

        Where entries are missing, it is that of independent features.
        """
        if samples.incomplete:
            return self._of_observed(samples, on_graph)
        sums = samples.sum(self) if on_graph is None else self.block(*on_graph, None)
        mass, first, second = sums
        mean = first / mass
        return mean, self.base.estimate(mass, mean, second, 0.0)

    def _of_observed(self, samples, on_graph):
        """Means and variances of the entries of each feature that are observed."""
        observed = _ObservedMoments(self.origin)
        sums = samples.sum(observed) if on_graph is None else observed.block(*on_graph, None)
        total, first, second = sums
        mean = (first / total).unsqueeze(0)
        variances = (second / total).unsqueeze(0) - mean.square()
        return mean, self.base.nearest(variances, torch.ones_like(mean[:, 0]))


class _ObservedMoments:
    """Weights, sums and sums of squares ``(d,)`` of observed entries about an origin."""

    min_rows = MIN_BLOCK_ROWS

    def __init__(self, origin: Tensor):
        self.origin, self.row_size = origin, 2 * len(origin)

    def block(self, X, sample_weight, buffers):
        missing = torch.isnan(X)
        x = torch.where(missing, 0.0, X).double() - self.origin
        a = (~missing).double()
        if sample_weight is not None:
            a = a * sample_weight.double().unsqueeze(1)
        return a.sum(0), (a * x).sum(0), (a * x.square()).sum(0)


PRIORS = {"none": None, "auto": Prior()}


def check_prior(prior) -> Prior | None:
    """Return a prior given by name or as such; None for none.

    Parameters
    ----------
    prior : {'none', 'auto'} or Prior
        What a user writes.

    Returns
    -------
    Prior or None
        The prior.

    Raises
    ------
    TypeError
        If it is something else.
    ValueError
        If there is no such name.
    """
    if isinstance(prior, Prior):
        return prior
    if not isinstance(prior, str):
        raise TypeError(
            f"prior must be 'none', 'auto' or a skgmmot.Prior, got {type(prior).__name__}. Pass "
            "Prior(...) with what you know."
        )
    if prior not in PRIORS:
        raise ValueError(
            f"prior must be 'none', 'auto' or a skgmmot.Prior, got {prior!r}. Name one of them."
        )
    return PRIORS[prior]
