"""Densities of many samples, by matrix products where these are accurate; without gradients."""

import torch
from torch import Tensor

from skgmmot.gaussian.mixture import PreparedMixture
from skgmmot.gaussian.products import FeatureEStep, WhiteningEStep, accurate_dtype

#: Blocks for samples that take more numbers than this would be too short for matrix products.
MOST_NUMBERS = 512
#: For fewer log-joint densities, samples times components, the definition is as fast.
MANY = 4096


class ProductMixture(PreparedMixture):
    """A prepared mixture whose log-joint is a few matrix products for a whole block of samples.

    It stands in for the `PreparedMixture` it is made of, and falls back to its definition where
    squares overflow.
    """

    step: FeatureEStep | WhiteningEStep
    dtype: torch.dtype

    @property
    def row_size(self) -> int:
        """Numbers that a sample takes in a block."""
        return min(self.step.row_size, MOST_NUMBERS)

    def log_joint(self, X: Tensor) -> Tensor:
        """The log-joint ``(K, b)`` of a block ``X (b, d)``, in the dtype of the products."""
        joint = self.step.log_joint(
            X, self.dtype, lambda _, shape, dtype: X.new_empty(shape, dtype=dtype)
        )
        return joint if torch.isfinite(joint.amax(0)).all() else super().log_joint(X)


def for_many(
    mixture: PreparedMixture, n_samples: int, dtype: torch.dtype | None = None
) -> PreparedMixture:
    """Prepare a mixture for many samples.

    Parameters
    ----------
    mixture : PreparedMixture
        K components in d dimensions.
    n_samples : int
        How many there are.
    dtype : torch.dtype, default=None
        That of the samples; None is that of the mixture.

    Returns
    -------
    PreparedMixture
        The same mixture; by products, if they are many and that keeps their digits.

    Notes
    -----
    Not differentiable.
    """
    if n_samples * len(mixture.means) < MANY:
        return mixture
    weights = mixture.log_weights.double().softmax(0)
    exact = mixture.to(dtype=torch.float64)
    # a number that samples can be subtracted from in their own dtype; the mixture is not rounded
    origin = (weights @ exact.means).to(mixture.means.dtype if dtype is None else dtype)
    centred = exact._replace(means=exact.means - origin.double())
    dtype = accurate_dtype(centred, origin.dtype)
    if dtype is None:
        return mixture
    kind = mixture.covariance_type
    whitened = WhiteningEStep.is_faster(kind, *mixture.means.shape)
    found = ProductMixture(*exact)
    found.step = (WhiteningEStep if whitened else FeatureEStep)(centred, origin)
    found.dtype = dtype
    return found
