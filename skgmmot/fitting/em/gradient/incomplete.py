"""The derivative of the E-step's sums over samples with missing entries, by autograd in blocks."""

import torch
from torch import Tensor

from skgmmot.fitting.em.rows import EM
from skgmmot.gaussian.incomplete import IncompleteDefinition
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.gaussian.statistics import Statistics
from skgmmot.numerics.blocks import MIN_BLOCK_ROWS


class IncompleteEStepDerivative:
    """The E-step's sums over samples with missing entries at a mixture, and their derivative.

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
        The sums.
    """

    features = None

    def __init__(self, em: EM, theta: GaussianMixtureParams):
        self.em, self.theta = em, theta
        self.statistics = em.exactly(theta)[1]

    def pull(self, cotangents: Statistics) -> GaussianMixtureParams:
        """Cotangents of the mixture from those of the sums."""
        found = self.em.samples.sum(self._adjoint(cotangents))
        return GaussianMixtureParams(*found, self.theta.covariance_type)

    def pull_to_weights(self, cotangents: Statistics) -> Tensor:
        """Cotangents of the weights ``(K,)``, also where they are zero."""
        return self.pull(cotangents).weights

    def pull_to_samples(
        self, cotangents: Statistics, along: Statistics | None = None
    ) -> tuple[Tensor, Tensor]:
        """Cotangents of the samples ``(n, d)``, zero where missing, and of their weights ``(n,)``.

        Samples do not go ``along`` with components here: there is no natural movement.
        """
        return self.em.samples.map(self._adjoint(cotangents))

    def _adjoint(self, cotangents):
        return RecordedAdjoint(self.theta, self.em.origin, cotangents)


class RecordedAdjoint:
    """Pulls cotangents of the statistics back through the E-step, as autograd records it.

    Parameters
    ----------
    theta : GaussianMixtureParams
        The current mixture.
    origin : Tensor of shape (d,)
        What the mixture is relative to.
    cotangents : Statistics
        Those of mass, shift and scatter, whose centres are constants.

    Notes
    -----
    Holds some ten arrays of ``(K, b, d)`` for a block of b samples.
    """

    min_rows = MIN_BLOCK_ROWS

    def __init__(self, theta: GaussianMixtureParams, origin: Tensor, cotangents: Statistics):
        self.theta, self.origin, self.cotangents = theta, origin, cotangents
        self.row_size = 4 * theta.means.numel()
        self.sample_size = theta.means.numel()

    def block(self, X: Tensor, sample_weight: Tensor | None, buffers) -> tuple[Tensor, ...]:
        """Cotangents of weights, means and covariances over one block; those of blocks add."""
        with torch.enable_grad():
            theta = self.theta.map(lambda t: t.detach().clone().requires_grad_())
            return self._pulled(theta, X, sample_weight, list(theta))

    def samples(self, X: Tensor, sample_weight: Tensor | None, buffers) -> tuple[Tensor, Tensor]:
        """Cotangents of the samples ``(b, d)`` and of their weights ``(b,)``."""
        a = X.new_ones(len(X)) if sample_weight is None else sample_weight
        with torch.enable_grad():
            X, a = (t.detach().double().requires_grad_() for t in (X, a))
            return self._pulled(self.theta.detach(), X, a, [X, a])

    def _pulled(self, theta, X, sample_weight, inputs):
        step = IncompleteDefinition(theta, self.origin)
        sums = Statistics(*step.block(X, sample_weight, None))
        moved = theta.means - self.theta.means.detach()  # nowhere, with a derivative
        sums = sums.recentred(moved, theta.covariance_type.base)
        found = torch.autograd.grad(
            sums[:3], inputs, self.cotangents[:3], allow_unused=True, materialize_grads=True
        )
        return tuple(t.detach() for t in found)
