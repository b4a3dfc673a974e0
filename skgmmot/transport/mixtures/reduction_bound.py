"""How far a reduced mixture may be from the best one of as many components.

The reduction of components to fewer ones is a clustering in the Wasserstein distance of Gaussians.
That distance is not less than that of the means and of the standard deviations along any axes,
since correlations are at most one. So no reduction costs less than the best clusters of these.
"""

import math

import torch
from torch import Tensor

from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.numerics.linalg import Rescaling, error_of_root
from skgmmot.transport.discrete.clustering_bound import clustering_bound, excess
from skgmmot.transport.mixtures.distance import transport_plan
from skgmmot.transport.mixtures.errors import cost_error

#: Rounding of variances along axes, relative to the largest and the number of features.
EPS = 4 * torch.finfo(torch.float64).eps


def reduction_error(
    mixture: GaussianMixtureParams, reduced: GaussianMixtureParams, n_components: int
) -> float:
    """Return a bound of how much nearer to a mixture any with so many components may be.

    Parameters
    ----------
    mixture : GaussianMixtureParams
        The given mixture.
    reduced : GaussianMixtureParams
        What it is reduced to.
    n_components : int
        The number of components that others may have.

    Returns
    -------
    float
        The distance MW2 between the two, less a lower bound of that of any other, in units of the
        data.
    """
    pair = [m.detach().map(Tensor.double) for m in (mixture, reduced)]
    size = float(pair[0].full_covariances().diagonal(dim1=1, dim2=2).max()) ** 0.5
    scaling = Rescaling.of(pair[0].means, size)
    pair = [m.translated(-scaling.origin).scaled(1 / scaling.unit) for m in pair]
    plan = transport_plan(*pair)
    cost = max(float(plan.cost), 0.0)
    distance, rounding = math.sqrt(cost), error_of_root(cost, cost_error(*pair, plan))
    nearest = distance_bound(pair[0], n_components, cost)
    return scaling.unit * (excess(distance, nearest) + rounding)


def distance_bound(mixture: GaussianMixtureParams, n_components: int, cost: float) -> float:
    """Return a lower bound of the distance MW2 of any mixture of so many components to a given one.

    Parameters
    ----------
    mixture : GaussianMixtureParams
        M components in d dimensions, near one in size.
    n_components : int
        The number of components of the other.
    cost : float
        The squared distance of some such mixture, in whose size the bound is looked for.

    Returns
    -------
    float
        The bound.
    """
    weights = mixture.weights / mixture.weights.sum()
    deviations, rounding = _deviations(mixture, weights)
    images = torch.cat([mixture.means, deviations], dim=1)
    least = math.sqrt(clustering_bound(images, weights, n_components, cost))
    return max(least - rounding, 0.0)


def _deviations(mixture, weights: Tensor) -> tuple[Tensor, float]:
    """Deviations ``(M, d)`` along the axes of the mean covariance, and how far they may be off."""
    S = mixture.full_covariances()
    axes = torch.linalg.eigh(torch.einsum("k,kij->ij", weights, S)).eigenvectors
    variances = torch.einsum("ia,kij,ja->ka", axes, S, axes)
    rounding = EPS * variances.shape[1] * variances.amax(1, keepdim=True)
    high = (variances + rounding).clamp(min=0).sqrt()
    low = (variances - rounding).clamp(min=0).sqrt()
    return variances.clamp(min=0).sqrt(), float((weights @ (high - low).square().sum(1)).sqrt())
