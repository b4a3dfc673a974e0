"""The maps of a plan between two mixtures, there and back, and how far their images reach."""

import warnings
from functools import cached_property
from typing import NamedTuple

import torch

from skgmmot.numerics.linalg import error_of_root
from skgmmot.transport.discrete.plan import transposed
from skgmmot.transport.mixtures.errors import cost_error
from skgmmot.transport.mixtures.maps import mixture_map

#: A mixture reaches so many deviations around its means; images so many times further out than the
#: target reaches are warned of.
REACH_DEVIATIONS, WARNED_REACHES = 5, 10


class Maps:
    """The maps of a plan between two mixtures, there and back, and how far both reach."""

    def __init__(self, source, target, plan, error=None):
        self.ends = source, target, plan
        if error is not None:  # that of a plan that was saved
            self.error = error
        self.there = mixture_map(source, target, plan)
        self.source_reach, self.target_reach = Reach.of(source), Reach.of(target)

    @cached_property
    def error(self):
        """A bound of the error of the distance between the mixtures; None for a file without."""
        source, target, plan = self.ends
        if not plan.has_errors:
            return None
        return error_of_root(max(float(plan.cost), 0.0), cost_error(source, target, plan))

    @cached_property
    def back(self):
        """The maps of the transposed plan."""
        source, target, plan = self.ends
        try:
            return mixture_map(target, source, transposed(plan))
        except ValueError as error:
            raise ValueError(
                f"target_mixture_ must be one from which samples can be moved back. {error}"
            ) from error


class Reach(NamedTuple):
    """How far the components of a mixture reach in each feature, and what is far beyond."""

    low: torch.Tensor
    high: torch.Tensor
    far_below: torch.Tensor
    far_above: torch.Tensor

    @classmethod
    def of(cls, mixture):
        """Where components end on each side, and what is far beyond."""
        mixture = mixture.in_base()
        deviations = mixture.covariance_type.diagonals(mixture.covariances).sqrt()
        spread = REACH_DEVIATIONS * deviations
        counts = mixture.weights > 0
        low, high = (mixture.means - spread)[counts], (mixture.means + spread)[counts]
        low, high = low.amin(0), high.amax(0)
        # A feature in which the mixture is all but constant is seen in units of the others.
        width = (high - low).maximum((high - low).square().mean().sqrt())
        middle, half = (low + high) / 2, WARNED_REACHES * width / 2
        return cls(low, high, middle - half, middle + half)


def warn_of_far_images(images, reach):
    """Warn if images lie far outside the range of the target."""
    low, high, far_below, far_above = (t.to(images) for t in reach)
    least, most = torch.aminmax(images)  # a tenth of the time of one a feature
    if least >= far_below.max() and most <= far_above.min():
        return
    extremes = torch.stack(torch.aminmax(images, dim=0))
    beyond = (far_below - extremes).maximum(extremes - far_above)
    if not (beyond > 0).any():
        return
    distances = beyond / (far_above - far_below)
    i, j = divmod(int(distances.argmax()), len(low))
    warnings.warn(
        f"images should lie about where the target does, got one at {extremes[i, j]:.3g} in "
        f"feature {j}, where the target reaches from {low[j]:.3g} to {high[j]:.3g}. A map "
        "stretches what lies off a component that is thin: increase shrinkage or the mixture's "
        "reg_covar, or use fewer components.",
        UserWarning,
        stacklevel=5,
    )
