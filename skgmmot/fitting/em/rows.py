"""EM over all samples, block by block: the samples in memory, and their sums by threads."""

import copy
from contextlib import contextmanager

import torch
from torch import Tensor

from skgmmot.fitting.em.step import m_step
from skgmmot.gaussian.choice import fastest_e_step, feature_e_step
from skgmmot.gaussian.evaluators import EStep, FeatureEStep
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.gaussian.statistics import Statistics
from skgmmot.numerics.blocks import workers


class EM:
    """One iteration of EM over all samples, block by block: ``theta -> (theta_next, objective)``.

    Parameters
    ----------
    X : Tensor of shape (n, d)
        Samples, float32 or float64.
    sample_weight : Tensor of shape (n,) or None
        Their weights, in the dtype of ``X``.
    origin : Tensor of shape (d,)
        A point near the samples' mean, in the dtype of ``X``; mixtures are relative to it.
    reg_covar : float
        Added to the variances.
    pool : Workers, default=None
        Threads that share the passes. None needs `at_work` before the first pass, which makes them.
    fixed_weights : bool, default=False
        Whether the M-step leaves the weights.
    """

    def __init__(self, X, sample_weight, origin, reg_covar, pool=None, fixed_weights=False):
        self.X, self.sample_weight, self.origin = X, sample_weight, origin
        self.reg_covar, self.pool, self.fixed_weights = reg_covar, pool, fixed_weights
        self.dtype = X.dtype  # of the products
        self._last = None
        self.total = float(len(X) if sample_weight is None else sample_weight.double().sum())
        self._total_scatter = None

    def __call__(self, theta: GaussianMixtureParams) -> tuple[GaussianMixtureParams, float]:
        statistics = self.statistics(theta)
        theta_next = m_step(theta, statistics, self.reg_covar, fixed_weights=self.fixed_weights)
        return theta_next, float(statistics.log_likelihood) / self.total

    @contextmanager
    def at_work(self):
        """Have threads share the passes within, which build no graph; yields the iteration."""
        before = self.pool
        with torch.no_grad(), workers(self.X.device) as self.pool:
            try:
                yield self
            finally:
                self.pool = before

    def in_float64(self) -> "EM":
        """The same iteration with products in float64 whatever the samples; a copy."""
        other = copy.copy(self)
        if self.dtype != torch.float64:
            other.dtype, other._last = torch.float64, None
        return other

    def exactly(self, theta: GaussianMixtureParams) -> tuple[FeatureEStep | None, Statistics]:
        """The E-step by features, or None where they are no good, and its sums, in float64."""
        with self.in_float64().at_work() as em:
            step, statistics = em.e_step(theta)
            if not isinstance(step, FeatureEStep):
                step = feature_e_step(theta, em.dtype, self.origin)
            return step, statistics

    def sum(self, blocks) -> tuple[Tensor, ...]:
        """Add ``blocks.block(X, sample_weight, buffers)`` over all samples."""

        def block(rows, buffers):
            return blocks.block(*self._raw(rows), buffers)

        with workers(self.X.device) as pool:
            return pool.sum(block, len(self.X), blocks.row_size, min_rows=blocks.min_rows)

    def of_samples(self, blocks) -> tuple[Tensor, Tensor]:
        """``blocks.samples(X, sample_weight, buffers)``, a row and a number for each sample."""
        of_X, of_a = torch.empty_like(self.X), self.X.new_empty(len(self.X))

        def over_span(span, buffers):
            for rows in span:
                of_X[rows], of_a[rows] = blocks.samples(*self._raw(rows), buffers)

        with workers(self.X.device) as pool:
            row_size = blocks.row_size + blocks.sample_size
            list(pool.map(over_span, len(self.X), row_size, min_rows=blocks.min_rows))
        return of_X, of_a

    def _raw(self, rows: slice) -> tuple[Tensor, Tensor | None]:
        """A block of samples as they are, and its weights."""
        a = self.sample_weight
        return self.X[rows], None if a is None else a[rows]

    def rows(self, rows: slice) -> tuple[Tensor, Tensor | None]:
        """A block of samples relative to the origin, in float64, and its weights."""
        X, a = self._raw(rows)
        return X.double() - self.origin.double(), a

    def statistics(self, theta: GaussianMixtureParams) -> Statistics:
        """The E-step's sums over all samples, by the fastest way that is accurate."""
        return self.e_step(theta)[1]

    def e_step(self, theta: GaussianMixtureParams) -> tuple[EStep, Statistics]:
        """The E-step and its sums.

        The last one is kept: a derivative is often taken where an iteration has just been.
        """
        if self._last is None or not _same(self._last[0], theta):
            step = self._fastest(theta)
            self._last = theta, step, self._sums(step)
        return self._last[1:]

    def _fastest(self, theta: GaussianMixtureParams) -> EStep:
        """The fastest E-step that is accurate; no block factors a covariance again."""
        return fastest_e_step(theta, len(self.X), self.dtype, self.origin)

    def _sums(self, step: EStep) -> Statistics:
        """The sums of an E-step over all samples."""

        def block(rows, buffers):
            return step.block(*self._raw(rows), buffers)

        sums = self.pool.sum(block, len(self.X), step.row_size, min_rows=step.min_rows)
        return step.statistics(*sums, total_scatter=self.total_scatter)

    def overlap(self, theta) -> Tensor:
        """``sum_i a_i gamma_ik gamma_il (K, K)``: what components share of the samples."""
        step = self._fastest(theta)

        def block(rows, buffers):
            X, a = self._raw(rows)
            resp, _ = step.responsibilities(X, buffers)
            return (((resp if a is None else resp * a) @ resp.mT).double(),)

        return self.pool.sum(block, len(self.X), step.row_size, min_rows=step.min_rows)[0]

    def total_scatter(self) -> Tensor:
        """``sum_i a_i x_i x_i^T (1, d, d)`` about the origin, summed once."""
        if self._total_scatter is None:

            def block(rows, buffers):
                x, a = self.rows(rows)
                return (((x if a is None else x * a.unsqueeze(1)).mT @ x).unsqueeze(0),)

            (self._total_scatter,) = self.pool.sum(block, len(self.X), self.X.shape[1])
        return self._total_scatter


def _same(theta: GaussianMixtureParams, other: GaussianMixtureParams) -> bool:
    """Whether two mixtures are equal."""
    return theta is other or all(map(torch.equal, theta, other))
