"""What an M-step keeps, and what it maximises beside the likelihood."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from skgmmot.fitting.em.prior import ConjugatePrior, Moments, Prior
from skgmmot.fitting.samples import Samples
from skgmmot.gaussian.covariance.base import CovarianceType
from skgmmot.gaussian.mixture import GaussianMixtureParams


@dataclass(frozen=True, eq=False, repr=False)
class Constraint:
    """Parameters that stay as they are, and a prior of the others.

    Masks ``(K,)`` say which components keep their weight, mean or covariance; None is no one. What
    stays has the values of the mixture that an iteration starts from.

    Parameters
    ----------
    weights : Tensor of shape (K,), default=None
        Whose weights stay, with noise ``(K + 1,)``. The others share the rest.
    means : Tensor of shape (K,), default=None
        Whose means stay.
    covariances : Tensor of shape (K,), default=None
        Whose covariances stay: all or none, if components share one.
    prior : ConjugatePrior, default=None
        What is added to the log-likelihood.
    """

    weights: Tensor | None = None
    means: Tensor | None = None
    covariances: Tensor | None = None
    prior: ConjugatePrior | None = None

    def __repr__(self):
        fields = ((name, getattr(self, name)) for name in self.__dataclass_fields__)
        given = ", ".join(f"{name}={value}" for name, value in fields if value is not None)
        return f"Constraint({given})"

    @cached_property
    def fixes(self) -> bool:
        """Whether anything stays."""
        return any(mask is not None for mask in (self.weights, self.means, self.covariances))

    @cached_property
    def moves_all_moments(self) -> bool:
        """Whether means and covariances are those of maximum likelihood."""
        return self.means is None and self.covariances is None and self.prior is None

    @cached_property
    def fixes_weights(self) -> bool:
        """Whether all weights stay."""
        return self.weights is not None and bool(self.weights.all())

    def under(
        self,
        prior: Prior,
        covariance_type: CovarianceType,
        n_components: int,
        samples: Samples,
        origin: Tensor,
        reg_covar: float,
        on_graph: tuple[Tensor, Tensor | None] | None = None,
        unit: float = 1.0,
    ) -> "Constraint":
        """The same with a prior of mixtures of a type, about an origin.

        What the prior takes from the samples is on the graph of ``on_graph``, a pair of samples
        and weights, if that is given. ``unit`` is the weight of one sample.
        """
        moments = Moments(origin, covariance_type.base)
        conjugate = prior.conjugate(
            covariance_type, n_components, origin, lambda: moments.of(samples, on_graph), reg_covar
        )
        return replace(self, prior=conjugate if unit == 1 else conjugate.scaled(unit))

    def detach(self) -> "Constraint":
        """The same as a constant."""
        return self if self.prior is None else replace(self, prior=self.prior.detach())

    def with_free_weights(self) -> "Constraint":
        """The same for means and covariances alone; weights are shares of the samples."""
        if not self.fixes and self.prior is None:
            return self
        prior = self.prior
        if prior is not None:
            prior = replace(prior, of_weights=torch.zeros_like(prior.of_weights))
        return replace(self, weights=None, prior=prior)

    def free_components(self, like: Tensor) -> Tensor:
        """Which components ``(K,)`` have weights that do not stay, as zeros and ones."""
        if self.weights is None:
            return torch.ones_like(like)
        return (~self.weights[: len(like)]).to(like)

    def log_prior(self, theta: GaussianMixtureParams) -> float:
        """The log-density of the prior up to a constant; 0 without one."""
        if self.prior is None:
            return 0.0
        return float(self.prior.log_density(theta, self.free_components(theta.component_weights)))

    def next_weights(self, weights: Tensor, mass: Tensor) -> Tensor:
        """Weights in proportion to masses, after those that stay have got theirs."""
        if self.weights is None:
            return mass / mass.sum()
        if self.fixes_weights:
            return weights
        shared = mass.masked_fill(self.weights, 0.0)
        if not shared.any():  # nobody is there to share
            return weights
        rest = 1 - weights.masked_fill(~self.weights, 0.0).sum()
        return torch.where(self.weights, weights, rest * shared / shared.sum())

    def weights_pullback(self, weights: Tensor, mass: Tensor, u: Tensor) -> Tensor:
        """Cotangents of the masses from those of `next_weights`."""
        rest = 1.0
        if self.weights is not None:
            if self.fixes_weights:
                return torch.zeros_like(u)
            rest = 1 - weights.masked_fill(~self.weights, 0.0).sum()
            mass = mass.masked_fill(self.weights, 0.0)
        expected = (u * mass).sum(-1, keepdim=True) / mass.sum()
        found = rest * (u - expected) / mass.sum()
        return found if self.weights is None else found.masked_fill(self.weights, 0.0)

    def rest_pullback(self, mass: Tensor, u: Tensor) -> Tensor:
        """Cotangents of the weights that stay from those of `next_weights`."""
        if self.weights is None:
            return torch.zeros_like(u)
        if self.fixes_weights:
            return u
        shared = mass.masked_fill(self.weights, 0.0)
        lost = (u * shared).sum(-1, keepdim=True) / shared.sum()
        return (u - lost).masked_fill(~self.weights, 0.0)

    def keep(self, theta: GaussianMixtureParams, held: GaussianMixtureParams):
        """A mixture with the values of another where these stay, bit by bit.

        Weights that do not stay are scaled to sum to the rest.
        """
        if not self.fixes:
            return theta
        weights = theta.weights
        if self.weights is not None:
            weights = self.next_weights(held.weights, weights)
        return self.keep_moments(theta._replace(weights=weights), held)

    def keep_moments(self, theta: GaussianMixtureParams, held: GaussianMixtureParams):
        """A mixture with the means and covariances of another where these stay."""
        if self.means is None and self.covariances is None:
            return theta
        means, covariances = theta.means, theta.covariances
        if self.means is not None:
            means = torch.where(self.means.unsqueeze(-1), held.means, means)
        if self.covariances is not None:
            shared, each = theta.covariance_type.shared, theta.covariance_type.each
            mask = self.covariances[:1] if shared else self.covariances
            covariances = torch.where(each(mask), held.covariances, covariances)
        return theta._replace(means=means, covariances=covariances)

    def free(self, change: GaussianMixtureParams) -> GaussianMixtureParams:
        """A change or cotangent of mixtures, perhaps with axes before its own, at free entries."""
        if not self.fixes:
            return change
        zeros = change.map(torch.zeros_like)
        found = self.keep_moments(change, zeros)
        if self.weights is not None:
            found = found._replace(weights=change.weights.masked_fill(self.weights, 0.0))
        return found

    def of_free(self, u: GaussianMixtureParams, theta: GaussianMixtureParams):
        """Cotangents ``u`` of a mixture as `keep` passes them on, without what stays."""
        u = self.free(u)
        if self.weights is None or self.fixes_weights:
            return u
        return u._replace(weights=self.weights_pullback(theta.weights, theta.weights, u.weights))

    def free_means(self, shift: Tensor) -> Tensor:
        """Shifts of means ``(..., K, d)``: none where they stay."""
        return shift if self.means is None else shift.masked_fill(self.means.unsqueeze(-1), 0.0)


#: Maximum likelihood of everything.
FREE = Constraint()

#: Rounding of a sum of weights.
ROUNDING = 1e-9


def constraint_of(
    covariance_type: CovarianceType,
    n_components: int,
    *,
    weights=False,
    means=False,
    covariances=False,
    device: torch.device | None = None,
    noise: bool = False,
    noise_is_free: bool = False,
) -> Constraint:
    """Return the constraint that some parameters stay, from what a user says.

    Parameters
    ----------
    covariance_type : CovarianceType
        The type of the covariances.
    n_components : int
        K.
    weights : bool or array-like of bool of shape (K,), default=False
        Whose weights stay: all, none or a mask.
    means : bool or array-like of bool of shape (K,), default=False
        Whose means stay.
    covariances : bool or array-like of bool of shape (K,), default=False
        Whose covariances stay.
    device : torch.device, default=None
        Where the masks are to be.
    noise : bool, default=False
        Whether there is noise: the mask of weights then is ``(K + 1,)``, its own last.
    noise_is_free : bool, default=False
        Whether there is noise which the mask does not say of, and whose weight is fitted.

    Returns
    -------
    Constraint
        The constraint, without a prior.

    Raises
    ------
    TypeError
        If a mask is not of truth values.
    ValueError
        If a mask has another shape, some of a shared covariance is to stay, or everything.
    """
    masks = {"means": means, "covariances": covariances}
    masks = {name: _mask(f"fixed_{name}", m, n_components) for name, m in masks.items()}
    n_weights = n_components + noise
    masks = {"weights": _mask("fixed_weights", weights, n_weights), **masks}
    mask = masks["covariances"]
    if covariance_type.shared and mask is not None and not mask.all():
        raise ValueError(
            f"fixed_covariances must be True or False with {covariance_type.name!r} covariances, "
            f"got a mask of {int(mask.sum())} of {n_components} components, which share one "
            "covariance. Fix it or leave it free."
        )
    stays = {name: m is not None and bool(m.all()) for name, m in masks.items()}
    n_fixed = 0 if masks["weights"] is None else int(masks["weights"].sum())
    stays["weights"] = n_weights - n_fixed + noise_is_free < 2  # one alone has what is left
    if all(stays.values()):
        raise ValueError(
            "fixed_weights, fixed_means and fixed_covariances must leave something to fit, got all "
            "of them fixed. Free some of it."
        )
    masks = {name: None if m is None else m.to(device) for name, m in masks.items()}
    return Constraint(**masks) if any(m is not None for m in masks.values()) else FREE


def n_free_parameters(
    covariance_type: CovarianceType,
    n_components: int,
    n_features: int,
    *,
    weights=False,
    means=False,
    covariances=False,
    noise: bool = False,
    noise_is_free: bool = False,
) -> int:
    """Count the parameters of a mixture that a fit estimates.

    Parameters
    ----------
    covariance_type : CovarianceType
        The type of the covariances.
    n_components : int
        K.
    n_features : int
        Their dimension d.
    weights : bool or array-like of bool of shape (K,), default=False
        Whose weights stay: all, none or a mask.
    means : bool or array-like of bool of shape (K,), default=False
        Whose means stay.
    covariances : bool or array-like of bool of shape (K,), default=False
        Whose covariances stay; a shared one counts as fixed if any does.
    noise : bool, default=False
        Whether there is noise.
    noise_is_free : bool, default=False
        Whether its weight is fitted.

    Returns
    -------
    int
        The number: all weights that are free but one, and the free means and covariances.

    Raises
    ------
    TypeError
        If a mask is not of truth values.
    ValueError
        If a mask has another shape.
    """
    K, d = n_components, n_features
    masks = {"weights": weights, "means": means, "covariances": covariances}
    masks = {name: _mask(f"fixed_{name}", mask, K) for name, mask in masks.items()}
    free = {name: K if m is None else K - int(m.sum()) for name, m in masks.items()}
    of_weights = free["weights"] + (noise and noise_is_free)
    n_covariances = free["covariances"]
    if covariance_type.shared and n_covariances < K:
        n_covariances = 0
    of_covariances = covariance_type.n_parameters(n_covariances, d) if n_covariances else 0
    return int(max(of_weights - 1, 0) + d * free["means"] + of_covariances)


def _mask(name: str, given, n_components: int) -> Tensor | None:
    """A mask ``(K,)``, or None if nothing is fixed."""
    if given is False:
        return None
    if given is True:
        return torch.ones(n_components, dtype=torch.bool)
    try:
        mask = (
            given.detach().cpu() if isinstance(given, Tensor) else torch.tensor(np.asarray(given))
        )
        of_truth = mask.dtype == torch.bool
    except (TypeError, ValueError) as error:
        raise TypeError(_MASK.format(name, n_components, repr(given))) from error
    if not of_truth:
        raise TypeError(_MASK.format(name, n_components, f"numbers of {mask.dtype}"))
    if mask.ndim == 0:
        mask = mask.expand(n_components)
    if mask.shape != (n_components,):
        raise ValueError(_MASK.format(name, n_components, f"shape {tuple(mask.shape)}"))
    return mask.clone() if mask.any() else None


_MASK = (
    "{0} must be True, False or a mask of truth values of shape ({1},), got {2}. Say for each "
    "component whether it stays."
)


def check_fixed_weights(constraint: Constraint, weights: Tensor) -> None:
    """Refuse weights that stay but leave nothing for the others.

    Parameters
    ----------
    constraint : Constraint
        Which weights stay.
    weights : Tensor of shape (K,)
        Their values, and those of the others.

    Raises
    ------
    ValueError
        If one is negative, or their sum is one or more while other weights are free.
    """
    if constraint.weights is None or constraint.fixes_weights:
        return
    kept = weights.detach()[constraint.weights]
    total, smallest = float(kept.sum()), float(kept.min())
    if smallest < 0:
        raise ValueError(
            f"fixed weights must not be negative, got {smallest:.6g}. Pass probabilities."
        )
    if total > 1 - ROUNDING:
        raise ValueError(
            "fixed weights must have a sum below one where others are free, got "
            f"{total:.6g}. Decrease them, or fix all."
        )
