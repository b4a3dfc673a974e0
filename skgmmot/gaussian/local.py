"""The E-step's sums for many components, of which each sample has a part in few.

Samples of a block are sorted into cells. In each, components whose responsibilities are below
rounding for all its samples are left out: a ball around the cell bounds the distances from its
samples to a component. The others are summed by the definition.
"""

import math

import torch
from torch import Tensor

from skgmmot.gaussian.evaluators import DefinitionEStep, EStep
from skgmmot.gaussian.statistics import e_step

#: Components from which on, and features up to which, cells are worth their time.
MIN_LOCAL_COMPONENTS, MAX_LOCAL_FEATURES = 64, 4
#: Samples of a cell at most.
CELL_SIZE = 256


def local_sums(step: EStep) -> "EStep | LocalSums":
    """Return what sums an E-step over samples: itself, or its sums cell by cell.

    Parameters
    ----------
    step : EStep
        A mixture of K components in d dimensions.

    Returns
    -------
    EStep or LocalSums
        The latter for the definition of a mixture with many components in few dimensions.
    """
    if not isinstance(step, DefinitionEStep):
        return step
    theta = step.theta
    (K, d), covariance_type = theta.means.shape, theta.covariance_type
    whole = covariance_type.shared or covariance_type.sketched or theta.noise is not None
    if whole or K < MIN_LOCAL_COMPONENTS or d > MAX_LOCAL_FEATURES:
        return step
    return LocalSums(step)


class LocalSums:
    """The sums of an E-step by its definition, without components that are far from a cell.

    What is left out is less than the rounding of a responsibility.

    Parameters
    ----------
    step : DefinitionEStep
        A mixture of components with a covariance each, without noise.

    Notes
    -----
    Costs ``O(n M d^2)`` for M components near each cell, and ``O(n K d^2 / 256)`` to find them.
    """

    min_rows = CELL_SIZE

    def __init__(self, step: DefinitionEStep):
        self.step, self.row_size = step, 8 * step.theta.means.shape[1]

    def block(self, X: Tensor, sample_weight: Tensor | None, buffers) -> tuple[Tensor, ...]:
        """Sum mass, shift, scatter and log-likelihood over a block."""
        if len(X) <= CELL_SIZE:
            return self.step.block(X, sample_weight, buffers)
        theta, x = self.step.theta, self.step.about_origin(X)
        rows = cells(x, CELL_SIZE)
        K, d = theta.means.shape
        shapes = (K,), (K, d), theta.covariance_type.shape(K, d), ()
        *sums, log_likelihood = (theta.means.new_zeros(shape) for shape in shapes)
        for index, near in zip(rows, self._near(x, rows), strict=True):
            components = near.nonzero().squeeze(1)
            part = theta._replace(
                log_weights=theta.log_weights[components],
                means=theta.means[components],
                factors=theta.factors[components],
            )
            found = e_step(part, x[index], None if sample_weight is None else sample_weight[index])
            for total, of_part in zip(sums, found, strict=False):
                total.index_add_(0, components, of_part)
            log_likelihood += found.log_likelihood
        return *sums, log_likelihood

    def _near(self, x: Tensor, rows: list[Tensor]) -> Tensor:
        """Which components may have a part in the samples of each cell ``(cells, K)``."""
        theta = self.step.theta
        covariance_type, d = theta.covariance_type, x.shape[1]
        centres = torch.stack([x[index].mean(0) for index in rows])
        radii = torch.stack(
            [(x[i] - c).square().sum(1).max().sqrt() for i, c in zip(rows, centres, strict=True)]
        )
        to_centres = centres - theta.means.unsqueeze(1)  # (K, cells, d)
        distances = covariance_type.squared_distances(to_centres, theta.factors).sqrt()
        diagonals = covariance_type.precision_diagonals(theta.factors).expand(len(theta.means), d)
        reach = diagonals.sum(1, keepdim=True).sqrt() * radii  # (K, cells)
        largest = (theta.log_weights + covariance_type.log_det(theta.factors, d)).unsqueeze(1)
        at_most = largest - (distances - reach).clamp(min=0).square() / 2
        at_least = (largest - (distances + reach).square() / 2).amax(0)
        rounding = math.log(torch.finfo(theta.means.dtype).eps / len(theta.means))
        return ~(at_most < at_least + rounding).mT  # (not >=: what is not a number is near)


def cells(x: Tensor, size: int) -> list[Tensor]:
    """Sort points into cells of near ones, by halving along the feature of the largest range.

    Parameters
    ----------
    x : Tensor of shape (n, d)
        Points.
    size : int
        Number of points of a cell at most.

    Returns
    -------
    list of Tensor
        The indices of the points of each cell.
    """
    found, left = [], [torch.arange(len(x), device=x.device)]
    while left:
        index = left.pop()
        if len(index) <= size:
            found.append(index)
            continue
        points = x[index]
        low, high = torch.aminmax(points, dim=0)
        order = points[:, int((high - low).argmax())].argsort()
        left += index[order].tensor_split(2)
    return found
