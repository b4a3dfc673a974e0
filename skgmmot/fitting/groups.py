"""Samples in groups, each of which sees a part of a mixture: some components, or some features.

The samples of a group are evaluated with the mixture ``view.of(theta)``: of the components that
are possible for them, in the features that are observed. Their sums are centred at its means, and
``view.lift`` turns them into sums for the whole mixture. The sums of all groups add, so that EM and
its M-step are as ever.
"""

from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from skgmmot.fitting.samples import InMemory, digest
from skgmmot.gaussian.mixture import GaussianMixtureParams, select
from skgmmot.gaussian.statistics import Statistics


class View(Protocol):
    """The part of a mixture that the samples of a group are evaluated with, and the way back.

    Both functions are differentiable in everything. A view can be pickled, and its ``repr`` tells
    it from others: it is part of the fingerprint of samples.
    """

    features: slice | Tensor
    """Which features of the samples are evaluated: a slice, or their numbers."""

    def of(self, theta: GaussianMixtureParams) -> GaussianMixtureParams:
        """The mixture that the group's samples are evaluated with.

        The sum of its weights is the probability that a sample is in such a group, if that depends
        on the components: they are not normalised.
        """

    def lift(self, theta: GaussianMixtureParams, statistics: Statistics) -> Statistics:
        """The expected sums of the whole mixture, given those of ``of(theta)``.

        Those given are centred at the means of ``of(theta)``, the result at those of ``theta``.
        """


class Whole:
    """The view of samples of which nothing is known: the whole mixture."""

    features = slice(None)

    def of(self, theta):
        return theta

    def lift(self, theta, statistics):
        return statistics

    def __repr__(self):
        return "Whole()"


WHOLE = Whole()


@dataclass(frozen=True)
class Possible:
    """The view of samples that belong to one of some components.

    The others, and noise, have a log-density of -inf. The weights stay: what such a sample adds to
    the log-likelihood is the logarithm of ``sum_{k possible} w_k g_k(x)``, the density of its value
    and its label together.

    Parameters
    ----------
    components : tuple of int
        Which ones.
    """

    components: tuple[int, ...]

    features = slice(None)

    def of(self, theta):
        return select(theta, self._index(theta.means))

    def lift(self, theta, statistics):
        index, K, base = self._index(theta.means), len(theta.means), theta.covariance_type.base

        def placed(part):  # zeros where nothing is possible
            return part.new_zeros(K, *part.shape[1:]).index_copy(0, index, part)

        mass, shift, scatter, log_likelihood = statistics
        scatter = scatter if base.shared else placed(scatter)
        found = Statistics(placed(mass), placed(shift), scatter, log_likelihood)
        return found if theta.noise is None else found.beside(mass.new_zeros(()))

    def _index(self, like):
        return torch.tensor(self.components, device=like.device)


class Group(NamedTuple):
    """Samples that see the same part of the mixture."""

    rows: Tensor
    """Which of all samples they are, in order."""
    samples: InMemory
    """Their features that are evaluated, and their weights."""
    view: View
    """What they see."""


class Grouped(InMemory):
    """Samples in one tensor, in groups that see different parts of a mixture.

    Parameters
    ----------
    X : Tensor of shape (n, d)
        All samples.
    sample_weight : Tensor of shape (n,) or None
        Their weights.
    groups : iterable of (Tensor of int64, View)
        The rows of each group, in order, and what they see. Every row is in one group. Sums are
        added in the order of the groups.
    incomplete : bool, default=False
        Whether entries may be missing, NaN; rows of a group are best sorted by their pattern.

    Notes
    -----
    The groups hold a copy of the samples. What is summed without a view is summed over all samples
    as they are.
    """

    def __init__(
        self,
        X: Tensor,
        sample_weight: Tensor | None,
        groups: Iterable[tuple[Tensor, View]],
        *,
        incomplete: bool = False,
    ):
        super().__init__(X, sample_weight, incomplete=incomplete)
        self.groups = tuple(
            Group(rows, InMemory(*self._seen(rows, view), incomplete=incomplete), view)
            for rows, view in groups
        )

    def _seen(self, rows, view):
        X, a = self[rows]
        return X[:, view.features].contiguous(), a

    @contextmanager
    def at_work(self):
        """Have the same threads share the passes over all samples, and over those of each group."""
        with super().at_work() as pool:
            before = [group.samples.pool for group in self.groups]
            for group in self.groups:
                group.samples.pool = pool
            try:
                yield pool
            finally:
                for group, earlier in zip(self.groups, before, strict=True):
                    group.samples.pool = earlier

    def fingerprint(self) -> dict:
        """What tells them from other samples, and their groups from other groups."""
        of_groups = [[repr(group.view), digest(group.rows)] for group in self.groups]
        return {**super().fingerprint(), "groups": of_groups}
