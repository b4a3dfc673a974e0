"""The derivative of the E-step's sums over all samples, also where these are in groups."""

from functools import cached_property

import torch
from torch import Tensor

from skgmmot.fitting.em.gradient.adjoint import (
    CentredAdjoint,
    FeatureAdjoint,
    ZeroWeightAdjoint,
    beside_noise,
    pulled,
    score,
    with_noise,
)
from skgmmot.fitting.em.gradient.incomplete import IncompleteEStepDerivative
from skgmmot.fitting.em.rows import EM, Part, added
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.gaussian.statistics import Statistics


def e_step_derivative(
    em: EM, theta: GaussianMixtureParams
) -> "EStepDerivative | GroupedEStepDerivative | IncompleteEStepDerivative":
    """Return the E-step's sums at a mixture, and their derivative.

    Parameters
    ----------
    em : EM
        The iteration over the samples.
    theta : GaussianMixtureParams
        The mixture, a constant.

    Returns
    -------
    EStepDerivative, GroupedEStepDerivative or IncompleteEStepDerivative
        By whether the samples are in groups, or have missing entries.
    """
    if em.parts:
        return GroupedEStepDerivative(em, theta)
    return (IncompleteEStepDerivative if em.samples.incomplete else EStepDerivative)(em, theta)


class EStepDerivative:
    """The E-step's sums at a mixture that all samples see, and their derivative.

    Parameters
    ----------
    em : EM
        The iteration over the samples.
    theta : GaussianMixtureParams
        The mixture, a constant.

    Attributes
    ----------
    features : FeatureEStep or None
        The E-step by quadratic features, where they are accurate.
    statistics : Statistics
        The sums.
    """

    def __init__(self, em: EM, theta: GaussianMixtureParams):
        self.em, self.theta = em, theta
        self.features, self.statistics = em.exactly(theta)

    @cached_property
    def _precisions(self):
        step = self.features
        if step is not None and not step.pools:
            return step.precisions
        prepared = self.theta.prepare()
        return prepared.covariance_type.precisions(prepared.factors)

    def pull(self, cotangents: Statistics) -> GaussianMixtureParams:
        """Cotangents of the mixture from those of the sums; none of weights that are zero."""
        adjoint = self._adjoint(cotangents)
        moments = with_noise(self.theta, adjoint.moments(*self.em.samples.sum(adjoint)))
        return score(self.theta, self._precisions, moments)

    def pull_to_weights(self, cotangents: Statistics) -> Tensor:
        """Cotangents of the weights ``(K,)``, also where they are zero; that of noise is none."""
        cotangents = beside_noise(cotangents)
        found = self.em.samples.sum(ZeroWeightAdjoint(self.theta, self.em.origin, cotangents))[0]
        return found if self.theta.noise is None else torch.cat([found, found.new_zeros(1)])

    def pull_to_samples(
        self, cotangents: Statistics, along: Statistics | None = None
    ) -> tuple[Tensor, Tensor]:
        """Cotangents of the samples ``(n, d)`` and of their weights ``(n,)``.

        Samples may go along with the components, which have the velocities ``along``.
        """
        of_X, of_a = self.em.samples.map(self._adjoint(cotangents, along))
        if self.theta.noise is not None:  # what was taken from all h
            of_a = of_a + cotangents.mass[-1].to(of_a.dtype)
        return of_X, of_a

    def _adjoint(self, cotangents, along=None):
        cotangents = beside_noise(cotangents)
        if self.features is not None:
            return FeatureAdjoint(self.features, cotangents, along)
        return CentredAdjoint(self.theta, self.em.origin, cotangents, along)


class GroupedEStepDerivative:
    """The same for samples in groups, which see different parts of the mixture.

    Parameters
    ----------
    em : EM
        The iteration over the samples.
    theta : GaussianMixtureParams
        The mixture, a constant.

    Attributes
    ----------
    features : None
        There are no features that all samples share.
    statistics : Statistics
        The sums over all groups, for the whole mixture.
    """

    features = None

    def __init__(self, em: EM, theta: GaussianMixtureParams):
        self.em = em
        self._parts = [_PartDerivative(part, theta) for part in em.parts]
        self.statistics = added(part.statistics for part in self._parts)

    def pull(self, cotangents: Statistics) -> GaussianMixtureParams:
        """Cotangents of the mixture from those of the sums; none of weights that are zero."""
        found, *others = (part.pull(cotangents) for part in self._parts)
        for other in others:
            found = found.map(torch.add, other)
        return found

    def pull_to_weights(self, cotangents: Statistics) -> Tensor:
        """Cotangents of the weights ``(K,)``, also where they are zero."""
        return sum(part.pull_to_weights(cotangents) for part in self._parts)

    def pull_to_samples(self, cotangents: Statistics) -> tuple[Tensor, Tensor]:
        """Cotangents of the samples ``(n, d)`` and of their weights ``(n,)``.

        Those of features that are not observed are zero.
        """
        samples = self.em.samples
        of_X = torch.zeros_like(samples.X)
        of_a = samples.X.new_zeros(samples.n_samples)
        for part in self._parts:
            X, of_a[part.rows] = part.pull_to_samples(cotangents)
            rows = X.new_zeros(len(X), samples.n_features)
            rows[:, part.view.features] = X
            of_X[part.rows] = rows
        return of_X, of_a


class _PartDerivative:
    """The sums of one group, for the whole mixture, and their derivative.

    What leads from the mixture to its part and back is small, and on autograd's tape. A view has
    sums about the means that it is given; here their centres are constants.
    """

    def __init__(self, part: Part, theta: GaussianMixtureParams):
        self.view, self.rows = part.view, part.rows
        with torch.enable_grad():
            self._theta = theta.detach().map(lambda t: t.clone().requires_grad_())
            self._seen = part.view.of(self._theta)
            self._of_seen = e_step_derivative(part.em, self._seen.detach())
            sums = self._of_seen.statistics
            self._sums = Statistics(*(t.clone().requires_grad_() for t in sums))
            moved = self._seen.means.detach() - self._seen.means
            about = self._sums.recentred(moved, self._seen.covariance_type.base)
            lifted, moved = part.view.lift(self._theta, about), self._theta.means - theta.means
            self._lifted = lifted.recentred(moved, theta.covariance_type.base)
        self.statistics = Statistics(*(t.detach() for t in self._lifted))

    def pull(self, cotangents):
        of_sums, directly = self._through_lift(cotangents)
        return self._of_theta(self._of_seen.pull(of_sums)).map(torch.add, directly)

    def pull_to_weights(self, cotangents):
        of_sums, directly = self._through_lift(cotangents)
        seen = self._seen.detach().map(torch.zeros_like)
        seen = seen._replace(weights=self._of_seen.pull_to_weights(of_sums))
        return self._of_theta(seen).weights + directly.weights

    def pull_to_samples(self, cotangents):
        return self._of_seen.pull_to_samples(self._through_lift(cotangents)[0])

    def _through_lift(self, cotangents):
        """Cotangents of the sums of the group, and of what the mixture does to the lifted ones."""
        inputs = (*self._sums[:3], *self._theta)
        found = pulled(self._lifted[:3], inputs, cotangents[:3], again=True)
        nothing = torch.zeros_like(self._sums.log_likelihood)
        of_theta = GaussianMixtureParams(*found[3:], self._theta.covariance_type)
        return Statistics(*found[:3], nothing), of_theta

    def _of_theta(self, of_seen):
        """Cotangents of the mixture from those of the part that is seen."""
        found = pulled(self._seen, self._theta, of_seen, again=True)
        return GaussianMixtureParams(*found, self._theta.covariance_type)
