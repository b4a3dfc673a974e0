"""Natural movements: samples moved such that their mixture descends its own loss.

A movement is used in place of a gradient, but is not a derivative. This module has what is
particular to EM; `skgmmot.numerics.adjoint.natural` has the rest.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from skgmmot.fitting.em.constraint import Constraint
from skgmmot.fitting.em.e_steps import EStep
from skgmmot.fitting.em.gradient.gram import MAX_GRAM_SIZE
from skgmmot.gaussian.coordinates import descended
from skgmmot.numerics.adjoint import Asked, natural
from skgmmot.numerics.gradients import GRADIENTS, Strategy
from skgmmot.numerics.newton.follow import Carried

#: Samples count as moved as proposed if the rest of their movement is at most this share of it.
ASTRAY = 0.1


class Request(NamedTuple):
    """The options of a fit that is to be differentiated, for strategies to check beforehand."""

    acceleration: str | None
    """What extrapolates the iterations, by its name."""
    constraint: Constraint
    """What of the mixture stays."""
    prior: object
    """Its prior, a name or what a fit has of it; None or 'none' is none."""
    e_step: EStep
    """The E-step."""
    size: int
    """Numbers that the mixture stores."""
    beside: Iterable[Tensor | None]
    """What the fit depends on beside the samples."""
    noise: bool = False
    """Whether there is uniform noise beside the components."""


class Natural(Strategy):
    """A movement of the samples instead of a gradient; see `natural`."""

    name = "natural"
    at_fixed_point = True
    follows_data = True

    def check(self, loop: Request) -> None:
        """Refuse fits in which not only samples move, and mixtures that are too large."""
        constraint = loop.constraint
        if not constraint.fixes_weights or loop.e_step.balanced:
            raise ValueError(
                "gradient='natural' must have fixed_weights=True and e_step='posterior', got "
                f"fixed_weights={constraint.fixes_weights}, e_step={loop.e_step.name!r}: "
                "samples take no weight along from one component to another. Set them, or use "
                "gradient='implicit'."
            )
        if not constraint.moves_all_moments or loop.prior not in (None, "none"):
            raise ValueError(
                "gradient='natural' must have no prior and no fixed means or covariances, got "
                "some, which do not follow the samples. Use gradient='implicit'."
            )
        if loop.noise:
            raise ValueError(
                "gradient='natural' must have no noise, got some, which samples would move into "
                "and out of. Use gradient='implicit'."
            )
        if any(t is not None and t.requires_grad for t in loop.beside):
            raise ValueError(
                "gradient='natural' must be used for samples alone, got a start or a sample_weight "
                "that requires a gradient. Detach it, or use gradient='implicit'."
            )
        if loop.size > MAX_GRAM_SIZE:
            raise ValueError(
                f"gradient='natural' must have a mixture of at most {MAX_GRAM_SIZE} numbers, got "
                f"{loop.size}. Use another covariance_type, fewer components, or "
                "gradient='one_step'."
            )

    def keep(self, stale):
        """The inverse of ``I - dF/dtheta``, and the matrix of the movement."""
        return Carried(stale)

    def attach(self, step, theta0, solution, *, carried=None, **_):
        """Put the fixed point on the graph of the samples."""
        asked = Asked()
        value = natural(
            step,
            theta0,
            solution,
            linearise=step.linearise,
            data=step.X,
            move=None if carried is None else carried.move,
            asked=asked,
        )
        return solution._replace(value=value, adjoint=asked)

    def ahead(self, theta, asked, went, weights):
        """The mixture moved as backward asked for, as far as samples have followed; else None."""
        if not isinstance(asked, Asked) or asked.movement is None:
            return None
        step = _step(went, -asked.movement, weights)
        if not step > 0:
            return None
        _, of_means, of_covariances = asked.cotangent
        there = descended(theta.to(dtype=of_means.dtype), of_means, of_covariances, step)
        try:
            there.prepare()
        except ValueError:  # a component was asked to shrink to a point or a line
            return None
        return there


def _step(went: Tensor, asked: Tensor, sample_weight: Tensor | None) -> float:
    """The step that samples have made the way they were asked to; 0 if they went another way."""
    asked = asked * len(asked)
    if sample_weight is not None:
        a = sample_weight.detach().to(asked.dtype)
        asked = asked * torch.where(a > 0, a.mean() / a, 0.0).unsqueeze(1)
        went = went * (a > 0).unsqueeze(1)  # where samples without weight go is all one
    step = (went * asked).sum() / asked.square().sum()
    astray = torch.linalg.vector_norm(went - step * asked)
    return float(step) if astray <= ASTRAY * torch.linalg.vector_norm(went) else 0.0


#: Movements of samples that take the place of a gradient, by name; and with the gradients.
MOVEMENTS = {strategy.name: strategy for strategy in (Natural(),)}
STRATEGIES = GRADIENTS | MOVEMENTS
