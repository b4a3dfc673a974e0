"""The derivative of the E-step's sums over samples with missing entries, by autograd in blocks."""

from torch import Tensor

from skgmmot.fitting.em.gradient.adjoint import TapedAdjoint
from skgmmot.fitting.em.rows import EM
from skgmmot.gaussian.incomplete.e_steps import IncompleteDefinition
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
        return IncompleteAdjoint(self.theta, self.em.origin, cotangents)


class IncompleteAdjoint(TapedAdjoint):
    """Pulls cotangents of the statistics back through the E-step of incomplete samples.

    Parameters
    ----------
    theta : GaussianMixtureParams
        The current mixture, a constant.
    origin : Tensor of shape (d,)
        What the mixture is relative to.
    cotangents : Statistics
        Those of mass, shift and scatter, whose centres are constants.
    """

    min_rows = MIN_BLOCK_ROWS

    def __init__(self, theta: GaussianMixtureParams, origin: Tensor, cotangents: Statistics):
        super().__init__(theta, origin, cotangents)
        self.sample_size = theta.means.numel()

    def sums(self, theta, x, sample_weight):
        sums = Statistics(*IncompleteDefinition(theta).block(x, sample_weight, None))
        moved = theta.means - self.theta.means  # nowhere, with a derivative: centres are constants
        return sums.recentred(moved, theta.covariance_type.base)
