"""The derivative of one iteration of EM by autograd, block by block, for any covariance type.

The E-step is differentiated on the tape of one block at a time, and the M-step, which is small, on
a tape of its own: a vector-Jacobian product is a pass over the samples, like that by hand.
"""

import functools

import torch
from torch import Tensor

from skgmmot.fitting.em.gradient.adjoint import TapedAdjoint, leaf, pulled
from skgmmot.fitting.em.gradient.derivative import InCoordinates, shares
from skgmmot.fitting.em.rows import EM
from skgmmot.fitting.em.step import m_step
from skgmmot.fitting.groups import WHOLE, View
from skgmmot.gaussian.factor_coordinates import fisher_coordinates
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.gaussian.statistics import Statistics, e_step


class ViewedAdjoint(TapedAdjoint):
    """Pulls cotangents of the statistics back through the E-step of samples with a view.

    Parameters
    ----------
    theta : GaussianMixtureParams
        The current mixture, a constant.
    origin : Tensor of shape (d,)
        What the mixture is relative to.
    cotangents : Statistics
        Those of mass, shift and scatter.
    view : View, default=Whole()
        What the samples see of the mixture.
    """

    min_rows = 16

    def __init__(self, theta, origin: Tensor, cotangents: Statistics, view: View = WHOLE):
        super().__init__(theta, origin, cotangents)
        self.view = view

    def sums(self, theta, x, sample_weight):
        return self.view.lift(theta, e_step(self.view.of(theta), x, sample_weight))


class TapedEM(InCoordinates):
    """One iteration of EM at a mixture, and its derivative, where there is none by hand.

    Parameters
    ----------
    em : EM
        The iteration.
    theta : GaussianMixtureParams
        Where it starts, a constant.
    """

    small = False

    def __init__(self, em: EM, theta: GaussianMixtureParams):
        super().__init__(em, theta)
        with torch.no_grad():
            _, self._statistics = em.exactly(theta)
            self.value = m_step(theta, self._statistics, em.reg_covar, em.constraint)
            self.objective = em.objective(theta, self._statistics)
            share = shares(theta, self._statistics, em.constraint)
            self._coordinates = fisher_coordinates(theta, share)
            self.residual = self.change_to(self.value)

    def product(self, u: Tensor) -> Tensor:
        """``dF/dtheta^T u`` for one cotangent ``(m,)`` or several ``(..., m)``."""
        if u.ndim > 1:
            return torch.stack([self.product(row) for row in u])
        return self._encoded(self.pull(self._decoded(u)))

    def pull(self, u: GaussianMixtureParams) -> GaussianMixtureParams:
        """Cotangents of ``theta`` from those of ``F(theta)``."""
        tensors, cotangents = self._through_m_step(u)
        for em, view, _ in self._parts():
            adjoint = ViewedAdjoint(self.theta, em.origin, cotangents, view)
            tensors = [*map(torch.add, tensors, em.samples.sum(adjoint))]
        return GaussianMixtureParams(*tensors, self.theta.covariance_type)

    def pull_samples(self, u: GaussianMixtureParams) -> tuple[Tensor, Tensor]:
        """Cotangents of the samples ``(n, d)`` and of their weights ``(n,)``."""
        samples, cotangents = self.em.samples, self._through_m_step(u)[1]
        of_X, of_a = torch.zeros_like(samples.X), samples.X.new_zeros(samples.n_samples)
        for em, view, rows in self._parts():
            adjoint = ViewedAdjoint(self.theta, em.origin, cotangents, view)
            X, of_a[rows] = em.samples.map(adjoint)
            seen = X.new_zeros(len(X), samples.n_features)
            seen[:, view.features] = X
            of_X[rows] = seen
        return of_X, of_a

    def _parts(self):
        """The iteration over each group of samples, what they see, and which they are."""
        em = self.em
        return [(p.em, p.view, p.rows) for p in em.parts] or [(em, WHOLE, slice(None))]

    def natural(self, v: Tensor) -> Tensor:
        """Refuse: samples that go along with components have no such statistics."""
        return self.movement(self.theta, v)

    def movement(self, v: GaussianMixtureParams, u: Tensor) -> Tensor:
        """Refuse likewise."""
        raise ValueError(
            "gradient='natural' must be used with an elementary covariance type, got "
            f"{self.theta.covariance_type.name!r}. Use gradient='implicit'."
        )

    def _through_m_step(self, u) -> tuple[tuple[Tensor, ...], Statistics]:
        """Cotangents of the mixture by way of the M-step alone, and those of the sums."""
        found = pulled(*self._m_step, u, again=True)
        nothing = torch.zeros_like(self._statistics.log_likelihood)
        return found[:3], Statistics(*found[3:], nothing)

    @functools.cached_property
    def _m_step(self) -> tuple[GaussianMixtureParams, list[Tensor]]:
        """The next mixture on a tape, and the mixture and sums that it is made of."""
        em, statistics = self.em, self._statistics
        with torch.enable_grad():
            theta = self.theta.map(leaf)
            sums = [leaf(t) for t in statistics[:3]]
            about = Statistics(*sums, statistics.log_likelihood)
            return m_step(theta, about, em.reg_covar, em.constraint), [*theta, *sums]
