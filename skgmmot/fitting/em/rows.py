"""EM over all samples, wherever they live: what an iteration asks of them are sums."""

import copy
import functools
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from skgmmot.fitting.em.constraint import FREE, Constraint
from skgmmot.fitting.em.step import m_step
from skgmmot.fitting.groups import View
from skgmmot.fitting.samples import Samples
from skgmmot.gaussian.choice import cancellation, fastest_e_step, feature_e_step
from skgmmot.gaussian.covariance.base import check_positive
from skgmmot.gaussian.evaluators import EStep, FeatureEStep
from skgmmot.gaussian.incomplete.e_steps import IncompleteDefinition
from skgmmot.gaussian.local import local_sums
from skgmmot.gaussian.mixture import GaussianMixtureParams, PreparedMixture
from skgmmot.gaussian.statistics import Statistics, e_step
from skgmmot.numerics.blocks import MIN_BLOCK_ROWS


class EM:
    """One iteration of EM over all samples, block by block: ``theta -> (theta_next, objective)``.

    Parameters
    ----------
    samples : Samples
        The samples and their weights; in groups, if some see only a part of the mixture.
    origin : Tensor of shape (d,)
        A point near the samples' mean, in their dtype; mixtures are relative to it.
    reg_covar : float
        Added to the variances.
    constraint : Constraint, default=Constraint()
        What the M-step keeps, and the prior, whose mean is relative to the origin.
    """

    def __init__(self, samples: Samples, origin, reg_covar, constraint: Constraint = FREE):
        self.samples, self.origin = samples, origin
        self.reg_covar, self.constraint = reg_covar, constraint
        self.dtype = samples.dtype  # of the products
        self.total = samples.total  # weight
        self._last, self._next = None, None
        self._total_scatter = None
        self.parts = tuple(
            Part(EM(group.samples, origin[group.view.features], reg_covar), group.view, group.rows)
            for group in samples.groups
        )

    @property
    def X(self) -> Tensor:
        """Samples in memory ``(n, d)``."""
        return self.samples.X

    @property
    def sample_weight(self) -> Tensor | None:
        """The weights ``(n,)`` of samples in memory."""
        return self.samples.sample_weight

    def __call__(self, theta: GaussianMixtureParams) -> tuple[GaussianMixtureParams, float]:
        statistics = self.statistics(theta)
        theta_next = m_step(theta, statistics, self.reg_covar, self.constraint)
        log_likelihood = self._read(statistics.log_likelihood, theta_next)
        return theta_next, (log_likelihood + self.log_prior(theta)) / self.total

    def _read(self, log_likelihood: Tensor, theta_next: GaussianMixtureParams) -> float:
        """The log-likelihood on the host.

        Reading from another device waits for it. There all that the next iteration must know of its
        mixture is read at the same time.
        """
        if log_likelihood.device.type == "cpu":
            return float(log_likelihood)
        mixture, finite = theta_next.unchecked()
        found = torch.stack([log_likelihood, finite, cancellation(mixture)]).tolist()
        self._next = _Next(theta_next, mixture, *found[1:])
        return found[0]

    def objective(self, theta: GaussianMixtureParams, statistics: Statistics) -> float:
        """The mean log-likelihood or, with a prior, log posterior density up to a constant."""
        return (float(statistics.log_likelihood) + self.log_prior(theta)) / self.total

    def log_prior(self, theta: GaussianMixtureParams) -> float:
        """The log-density of the prior up to a constant; 0 without one."""
        return self.constraint.log_prior(theta)

    def under(self, constraint: Constraint) -> "EM":
        """The same iteration under another constraint; a copy."""
        if self.constraint is constraint:
            return self
        other = copy.copy(self)
        other.constraint = constraint
        return other

    def with_free_weights(self) -> "EM":
        """The same iteration with weights that are shares of the samples."""
        return self.under(self.constraint.with_free_weights())

    @contextmanager
    def at_work(self):
        """Have threads share the passes within, which build no graph; yields the iteration."""
        with torch.no_grad(), self.samples.at_work():
            yield self

    def in_float64(self) -> "EM":
        """The same iteration with products in float64 whatever the samples; a copy."""
        other = copy.copy(self)
        if self.dtype != torch.float64:
            other.dtype, other._last = torch.float64, None
            other.parts = tuple(part._replace(em=part.em.in_float64()) for part in self.parts)
        return other

    def exactly(self, theta: GaussianMixtureParams) -> tuple[FeatureEStep | None, Statistics]:
        """The E-step by features, or None where they are no good, and its sums, in float64."""
        with self.in_float64().at_work() as em:
            step, statistics = em.e_step(theta)
            if self.samples.incomplete:
                return None, statistics
            if not isinstance(step, FeatureEStep):
                step = feature_e_step(theta, em.dtype, self.origin)
            return step, statistics

    def rows(self, rows: slice) -> tuple[Tensor, Tensor | None]:
        """Some samples in memory relative to the origin, in float64, and their weights."""
        X, a = self.samples[rows]
        return X.double() - self.origin.double(), a

    def statistics(self, theta: GaussianMixtureParams) -> Statistics:
        """The E-step's sums over all samples, by the fastest way that is accurate."""
        return self.e_step(theta)[1]

    def e_step(self, theta: GaussianMixtureParams) -> tuple[EStep | None, Statistics]:
        """The E-step and its sums; of samples in groups, which have one each, the sums alone.

        The last one is kept: a derivative is often taken where an iteration has just been.
        """
        if not self._is_last(theta):
            step = None if self.parts else self.fastest(theta)
            sums = self.sums(step) if step is not None else self._sums_of_parts(theta)
            self._last = theta, step, sums
        return self._last[1:]

    def _sums_of_parts(self, theta):
        """The sums of all groups, for the whole mixture."""
        return added(
            part.view.lift(theta, part.em.statistics(part.view.of(theta))) for part in self.parts
        )

    def definition(
        self, theta: GaussianMixtureParams, X: Tensor, sample_weight: Tensor | None
    ) -> Statistics:
        """The sums by their definition, on the graph of all samples about the origin."""
        if not self.parts:
            return self._by_definition(theta, X, sample_weight)

        def of(part):
            X_seen = X[part.rows][:, part.view.features]
            a = None if sample_weight is None else sample_weight[part.rows]
            seen = part.em.definition(part.view.of(theta), X_seen, a)
            return part.view.lift(theta, seen)

        return added(map(of, self.parts))

    def _by_definition(self, theta, X, sample_weight):
        """The same for samples that see the whole mixture."""
        if not self.samples.incomplete:
            return e_step(theta, X, sample_weight)
        return Statistics(*IncompleteDefinition(theta).block(X, sample_weight, None))

    def _is_last(self, theta) -> bool:
        """Whether the last E-step was of this mixture; the next one is not compared with it."""
        if self._last is None or self._last[0] is theta:
            return self._last is not None
        made = self._next is not None and self._next.theta is theta
        return not made and all(map(torch.equal, self._last[0], theta))

    def sums(self, step: EStep) -> Statistics:
        """The sums of an E-step over all samples."""
        sums = self.samples.sum(local_sums(step))
        return step.statistics(*sums, total_scatter=self.total_scatter)

    def fastest(self, theta: GaussianMixtureParams) -> EStep:
        """The fastest E-step that is accurate; no block factors a covariance again."""
        if self.parts:
            raise ValueError(
                "samples in groups must be evaluated group by group, got one E-step for all of "
                "them. Use `statistics`, or samples without labels and missing values."
            )
        largest = None
        if self._next is not None and self._next.theta is theta:
            _, theta, finite, largest = self._next
            check_positive(finite)
        samples = self.samples
        size = samples.n_samples, self.dtype, self.origin, largest
        return fastest_e_step(theta, *size, incomplete=samples.incomplete)

    def overlap(self, theta) -> Tensor:
        """``sum_i a_i gamma_ik gamma_il (K, K)``: what components share of the samples."""
        return self.samples.sum(_Overlap(self.fastest(theta)))[0]

    def total_scatter(self) -> Tensor:
        """``sum_i a_i x_i x_i^T (1, d, d)`` about the origin, summed once."""
        if self._total_scatter is None:
            (self._total_scatter,) = self.samples.sum(_TotalScatter(self.origin))
        return self._total_scatter


class Part(NamedTuple):
    """An iteration over the samples of a group."""

    em: EM
    """Their sums at the mixture that they see."""
    view: View
    """What they see."""
    rows: Tensor
    """Which of all samples they are."""


def added(statistics) -> Statistics:
    """Add the statistics of several groups, in order.

    Parameters
    ----------
    statistics : iterable of Statistics
        Those of each group, about the same centres.

    Returns
    -------
    Statistics
        Their sum.
    """

    def add(total, more):
        return Statistics(*map(torch.add, total, more))

    return functools.reduce(add, statistics)


class _Next(NamedTuple):
    """The mixture of the next iteration, and what the host must know of it."""

    theta: GaussianMixtureParams
    prepared: PreparedMixture
    finite: float
    largest: float


class _Overlap:
    """``gamma_ik gamma_il``, over a block."""

    def __init__(self, step: EStep):
        self.step, self.row_size, self.min_rows = step, step.row_size, step.min_rows

    def block(self, X, sample_weight, buffers):
        resp, _ = self.step.responsibilities(X, buffers)
        weighted = resp if sample_weight is None else resp * sample_weight
        return ((weighted @ resp.mT).double(),)


class _TotalScatter:
    """``x x^T`` about an origin, over a block."""

    min_rows = MIN_BLOCK_ROWS

    def __init__(self, origin: Tensor):
        self.origin, self.row_size = origin.double(), len(origin)

    def block(self, X, sample_weight, buffers):
        x = X.double() - self.origin
        weighted = x if sample_weight is None else x * sample_weight.unsqueeze(1)
        return ((weighted.mT @ x).unsqueeze(0),)
