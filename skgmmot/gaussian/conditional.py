r"""Marginal and conditional distributions of Gaussian mixtures, which are mixtures again.

With the features split into those that are given, *a*, and the others, *b*:

.. math::

    p(x_b \mid x_a) = \sum_k \gamma_k(x_a) \, N\bigl(x_b;\; m_{k,b} + B_k (x_a - m_{k,a}),\;
        \Sigma_{k,bb} - B_k \Sigma_{k,ab}\bigr),
    \qquad B_k = \Sigma_{k,ba} \Sigma_{k,aa}^{-1},

where :math:`\gamma_k(x_a)` are the responsibilities of the marginal of :math:`x_a`. Each component
is a linear regression whose errors do not depend on :math:`x_a`: only means and weights do.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from skgmmot.gaussian.choice import fastest_e_step
from skgmmot.gaussian.covariance.base import DensityType
from skgmmot.gaussian.evaluators import DefinitionEStep, EStep
from skgmmot.gaussian.log_density import responsibilities
from skgmmot.gaussian.mixture import GaussianMixtureParams, PreparedMixture
from skgmmot.numerics.exponentials import log_sum_exp
from skgmmot.numerics.linalg import product, safe_sqrt


def marginal(
    mixture: GaussianMixtureParams, features: Sequence[int] | Tensor
) -> GaussianMixtureParams:
    r"""Return the distribution of some features of a mixture.

    .. math:: p(x_a) = \sum_k w_k \, N(x_a;\; m_{k,a},\; \Sigma_{k,aa})

    Parameters
    ----------
    mixture : GaussianMixtureParams
        K components in d dimensions.
    features : sequence of int or Tensor of shape (m,)
        Which features, in the order wanted: distinct numbers, from the end if negative, or a mask
        of d truth values.

    Returns
    -------
    GaussianMixtureParams
        The mixture in m dimensions; its covariance type is that of the mixture, or the base of one
        that is not elementary.

    Raises
    ------
    TypeError
        If features are not numbers.
    ValueError
        If there are no features, or one of them is repeated or beyond d.

    Notes
    -----
    Differentiable in everything. Covariances may be singular.
    """
    weights, means, covariances = mixture = mixture.in_base()
    chosen = feature_numbers(features, means.shape[1]).to(means.device)
    covariance_type = mixture.covariance_type
    covariances = covariance_type.marginal(covariances, chosen)
    return GaussianMixtureParams(weights, means[:, chosen], covariances, covariance_type)


def condition(
    mixture: GaussianMixtureParams, values: Tensor, features: Sequence[int] | Tensor
) -> GaussianMixtureParams:
    r"""Return the distribution of a mixture's other features, given values of some.

    .. math::

        p(x_b \mid x_a) = \sum_k \gamma_k(x_a) \, N\bigl(x_b;\; m_{k,b} + B_k (x_a - m_{k,a}),\;
            \Sigma_{k,bb} - B_k \Sigma_{k,ab}\bigr),
        \qquad B_k = \Sigma_{k,ba} \Sigma_{k,aa}^{-1}

    Parameters
    ----------
    mixture : GaussianMixtureParams
        K components in d dimensions.
    values : Tensor of shape (m,) or (n, m)
        The values ``x_a`` of one condition, or of n.
    features : sequence of int or Tensor of shape (m,)
        Which features they are of: distinct numbers, from the end if negative, or a mask of d truth
        values. At least one must be left.

    Returns
    -------
    GaussianMixtureParams
        The mixture of the others, in their order, in d - m dimensions. For n conditions, weights
        ``(n, K)`` and means ``(n, K, d - m)`` have an axis for them in front; the covariances, in
        the storage of their type, are the same for all. The covariance type is that of the
        mixture, or the base of one that is not elementary.

    Raises
    ------
    TypeError
        If features are not numbers.
    ValueError
        If no feature is given or left, one is repeated or beyond d, there is not one value for
        each, or their covariance is singular in a component.

    Notes
    -----
    Differentiable in everything. Weights sum to one also where the given values are so far away
    that their density is zero: the component nearest in its own metric has it all. In components
    without correlations (diagonal and spherical covariances) only the weights depend on the values.

    Costs ``O(K d^3 + n K m d)``.
    """
    prepared = PreparedCondition.of(mixture, features)
    n_given = prepared.given.means.shape[1]
    if values.ndim not in (1, 2) or values.shape[-1] != n_given:
        raise ValueError(
            f"values must have shape ({n_given},) or (n, {n_given}), a value for each feature that "
            f"is given, got {tuple(values.shape)}. Pass one row for each condition."
        )
    return prepared.at(values)


def feature_numbers(features: Sequence[int] | Tensor, n_features: int) -> Tensor:
    """Return the numbers of features, counted from the start, validated.

    Parameters
    ----------
    features : sequence of int or Tensor of shape (m,)
        Distinct numbers, from the end if negative, or a mask of ``n_features`` truth values.
    n_features : int
        How many features there are.

    Returns
    -------
    Tensor of shape (m,)
        Integers from 0, in the order given.

    Raises
    ------
    TypeError
        If they are not numbers.
    ValueError
        If there are none, or one of them is repeated or beyond ``n_features``.
    """
    chosen = torch.as_tensor(features)
    if chosen.ndim != 1 or not len(chosen):
        raise ValueError(
            "features must be a list of at least one feature, got "
            f"{'none' if chosen.ndim == 1 else f'shape {tuple(chosen.shape)}'}. Name those wanted."
        )
    if chosen.dtype == torch.bool:
        return _chosen_by(chosen, n_features)
    if chosen.is_floating_point() or chosen.is_complex():
        raise TypeError(
            f"features must be integers, truth values or names, got {chosen.dtype}. Convert them "
            "with int, or, in condition(values, features), pass values first."
        )
    beyond = (chosen < -n_features) | (chosen >= n_features)
    if beyond.any():
        raise ValueError(
            f"features must be numbers from {-n_features} to {n_features - 1} for {n_features} "
            f"feature(s), got {chosen[beyond].tolist()}. Count from 0."
        )
    chosen = torch.where(chosen < 0, chosen + n_features, chosen)
    found, times = chosen.unique(return_counts=True)
    if len(found) < len(chosen):
        raise ValueError(
            f"features must be distinct, got {found[times > 1].tolist()} more than once. Leave "
            "out the repeats."
        )
    return chosen


def other_features(given: Tensor, n_features: int) -> Tensor:
    """Return the numbers of the features that are not given, ascending.

    Parameters
    ----------
    given : Tensor of shape (m,)
        Numbers from 0.
    n_features : int
        How many features there are.

    Returns
    -------
    Tensor of shape (n_features - m,)
        The others.

    Raises
    ------
    ValueError
        If there are none.
    """
    if len(given) == n_features:
        raise ValueError(
            f"features must leave at least one feature to describe, got all {n_features} of them. "
            "For the density at a point use score_samples or log_density."
        )
    left = torch.ones(n_features, dtype=torch.bool, device=given.device)
    left[given] = False
    return left.nonzero().squeeze(1)


def _chosen_by(mask: Tensor, n_features: int) -> Tensor:
    """The numbers of the features that a mask is true for."""
    if len(mask) != n_features or not mask.any():
        raise ValueError(
            f"a mask of features must have one truth value for each of {n_features} and choose at "
            f"least one, got {int(mask.sum())} true of {len(mask)}. Pass {n_features} truth values."
        )
    return mask.nonzero().squeeze(1)


class PreparedCondition(NamedTuple):
    """A mixture whose features are split in two, factored once, for any number of conditions."""

    given: PreparedMixture
    """The marginal of the features that are given, ``d1`` of them."""
    means: Tensor
    """Means ``(K, d2)`` of the others."""
    slopes: Tensor | None
    """``B (K or 1, d2, d1)``; None if all are zero."""
    covariances: Tensor
    """Conditional covariances, in the storage of their type."""
    covariance_type: DensityType
    """The type of these covariances."""

    @classmethod
    def of(cls, mixture: GaussianMixtureParams, features) -> "PreparedCondition":
        """Split the features of a mixture into those that are given and the others."""
        _, means, covariances = mixture = mixture.in_base()
        d, covariance_type = means.shape[1], mixture.covariance_type
        given = feature_numbers(features, d).to(means.device)
        others = other_features(given, d)
        try:
            first = marginal(mixture, given).prepare()
        except ValueError as error:
            raise ValueError(
                "covariances of the features that are given must be positive definite, got one "
                "that is singular. Give fewer features, or add to the diagonal of covariances_."
            ) from error
        slopes, rest = covariance_type.regression(covariances, given, others)
        return cls(first, means[:, others], slopes, rest, covariance_type)

    @property
    def n_normals(self) -> int:
        """How many normal numbers `draw` makes a draw of."""
        return self.covariance_type.n_normals(self.means.shape[1])

    @property
    def requires_grad(self) -> bool:
        """Whether any of it is on a graph."""
        tensors = self.means, self.slopes, self.covariances
        return self.given.requires_grad or any(t is not None and t.requires_grad for t in tensors)

    @property
    def row_size(self) -> int:
        """Numbers that a condition takes while its components are worked out."""
        return self.given.means.numel() + 2 * self.means.numel()

    def to(self, **options) -> "PreparedCondition":
        """The same, as a constant, with another ``device`` or ``dtype``."""
        slopes = None if self.slopes is None else self.slopes.detach().to(**options)
        means, covariances = (t.detach().to(**options) for t in (self.means, self.covariances))
        given = self.given.to(**options)
        return PreparedCondition(given, means, slopes, covariances, self.covariance_type)

    def e_step(self, n_samples: int | None = None, dtype=torch.float64) -> EStep:
        """The marginal of what is given, ready for so many samples; None is its definition."""
        if n_samples is None:
            return DefinitionEStep(self.given)
        return fastest_e_step(self.given, n_samples, dtype)

    def component_means(self, values: Tensor) -> Tensor:
        """Conditional means of each component ``(K, n, d2)``, for values ``(n, d1)``."""
        means = self.means.unsqueeze(1)
        if self.slopes is None:
            return means.expand(-1, len(values), -1)
        centred = values - self.given.means.unsqueeze(1)  # (K, n, d1)
        return means + product(centred, self.slopes.mT)

    def at(self, values: Tensor) -> GaussianMixtureParams:
        """The mixture for values ``(d1,)``, or the mixtures for ``(n, d1)``."""
        rows = values.view(-1, values.shape[-1])
        weights = responsibilities(self.given, rows).mT  # (n, K)
        means = self.component_means(rows).transpose(0, 1)  # (n, K, d2)
        if values.ndim == 1:
            weights, means = weights.squeeze(0), means.squeeze(0)
        return GaussianMixtureParams(weights, means, self.covariances, self.covariance_type)

    def mean(self, values: Tensor, resp: Tensor) -> Tensor:
        """Conditional means ``(n, d2)``, with the responsibilities ``(K, n)`` of the values."""
        return (resp.unsqueeze(-1) * self.component_means(values)).sum(0)

    def mean_and_deviation(self, values: Tensor, resp: Tensor) -> tuple[Tensor, Tensor]:
        """Conditional means and standard deviations ``(n, d2)`` of each feature."""
        means, shares = self.component_means(values), resp.unsqueeze(-1)
        mean = (shares * means).sum(0)
        variances = self.covariance_type.diagonals(self.covariances).unsqueeze(1)
        # (far away squares overflow: those of components without a share do not count)
        between = torch.where(shares > 0, means - mean, 0.0)
        within_and_between = variances + between.square()  # (K, n, d2)
        return mean, safe_sqrt((shares * within_and_between).sum(0))

    def log_density(self, values: Tensor, others: Tensor, log_resp: Tensor) -> Tensor:
        """``log p(x_b | x_a) (n,)`` at values ``(n, d1)`` and ``(n, d2)``.

        ``log_resp (K, n)`` are log-responsibilities of the former.
        """
        factors = self.covariance_type.precision_factor(self.covariances)
        centred = others - self.component_means(values)
        return log_sum_exp(self.covariance_type.log_density(centred, factors) + log_resp, 0)

    def draw(self, values: Tensor, resp: Tensor, uniforms: Tensor, normals: Tensor) -> Tensor:
        """Draws ``(n, s, d2)``, from random numbers ``(n, s)`` and ``(n, s, n_normals)``."""
        return self.drawn(values, self.labels(resp, uniforms), normals)

    def labels(self, resp: Tensor, uniforms: Tensor) -> Tensor:
        """Draws of components ``(n, s)``, from uniform numbers."""
        cumulated = resp.mT.cumsum(1)  # (n, K)
        levels = uniforms.to(resp) * cumulated[:, -1:]
        # a level at the sum, by rounding, belongs to the last component that has any weight
        last = (resp > 0).int().cumsum(0).argmax(0).unsqueeze(1)
        return torch.searchsorted(cumulated, levels, right=True).minimum(last)

    def drawn(self, values: Tensor, labels: Tensor, normals: Tensor) -> Tensor:
        """Draws ``(n, s, d2)`` of given components ``(n, s)``, from normal numbers."""
        means = self.component_means(values).transpose(0, 1)  # (n, K, d2)
        drawn = means.gather(1, labels.unsqueeze(2).expand(-1, -1, means.shape[2]))
        each = self.covariance_type.colouring(self.covariances)
        for k, colouring in enumerate(each.expand(len(self.means), *each.shape[1:]).split(1)):
            chosen = labels == k
            rows = normals[chosen].unsqueeze(0)
            drawn[chosen] += self.covariance_type.coloured(rows, colouring).squeeze(0)
        return drawn
