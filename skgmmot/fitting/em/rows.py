"""EM over all samples, block by block: where rows live in memory and how their sums are made."""

import copy
from contextlib import contextmanager

import torch
from torch import Tensor

from skgmmot.fitting.em.step import m_step
from skgmmot.gaussian.covariance.base import CovarianceType
from skgmmot.gaussian.log_density import log_responsibilities
from skgmmot.gaussian.mixture import GaussianMixtureParams, PreparedMixture
from skgmmot.gaussian.products import (
    MAX_QUADRATIC,
    FeatureEStep,
    ProductEStep,
    WhiteningEStep,
    accurate_dtype,
    quadratic_share,
)
from skgmmot.gaussian.statistics import Statistics, e_step
from skgmmot.numerics.blocks import MIN_BLOCK_ROWS, workers

#: Blocks of fewer rows make matrix products slow, however many numbers a row takes.
PRODUCT_ROWS = 512


#: Up to so many numbers, samples times components times features, the definition is fastest.
FEW = 2**12


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
        Threads that share the passes; None takes `at_work` before the first one.
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
                step, _ = em._features(theta.prepare())
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

    def e_step(self, theta: GaussianMixtureParams) -> tuple[ProductEStep | None, Statistics]:
        """The E-step by products, or None where they are no good, and its sums.

        The last one is kept: a derivative is often taken where an iteration has just been.
        """
        if self._last is None or not all(map(torch.equal, self._last[0], theta)):
            mixture = theta.prepare()  # once an iteration: no block factors anything again
            self._last = theta, *self._sums(mixture)
        return self._last[1:]

    def _sums(self, mixture: PreparedMixture) -> tuple[ProductEStep | None, Statistics]:
        """The fastest E-step that is accurate, None for the definition, and its sums."""
        if self._is_small(mixture):
            return None, self._by_definition(mixture)
        if WhiteningEStep.is_faster(mixture.covariance_type, *mixture.means.shape):
            dtype = accurate_dtype(mixture, self.dtype)
            step = None if dtype is None else WhiteningEStep(mixture, self.origin)
        else:
            step, dtype = self._features(mixture)
        if step is None:
            return None, self._by_definition(mixture)
        return step, self._by_products(step, dtype)

    def _is_small(self, mixture: PreparedMixture) -> bool:
        """Whether neither products nor blocks are worth their trouble."""
        return len(self.X) * mixture.row_size < FEW

    def _features(self, mixture) -> tuple[FeatureEStep | None, torch.dtype | None]:
        """The E-step by features and the dtype of its products; None where that is no good."""
        kind = mixture.covariance_type
        if quadratic_share(kind, len(self.origin)) > MAX_QUADRATIC:
            return None, None
        dtype = accurate_dtype(mixture, self.dtype)
        if dtype is None:
            return None, None
        return FeatureEStep(mixture, self.origin, self.total_scatter(kind)), dtype

    def _by_products(self, step, dtype) -> Statistics:
        def block(rows, buffers):
            return step.block(*self._raw(rows), dtype, buffers)

        sums = self.pool.sum(block, len(self.X), step.row_size, min_rows=PRODUCT_ROWS)
        return step.statistics(*sums)

    def _by_definition(self, mixture: PreparedMixture) -> Statistics:
        """The sums in float64 whatever the samples: components are as thin as their rounding."""

        def block(rows, buffers):
            return e_step(mixture, *self.rows(rows))

        if self._is_small(mixture):
            return e_step(mixture, *self.rows(slice(None)))
        # A block adds to K matrices: that must not cost more than its products.
        min_rows = max(MIN_BLOCK_ROWS, mixture.factors[0].numel() // (4 * len(self.origin)))
        sums = self.pool.sum(block, len(self.X), mixture.row_size, min_rows=min_rows)
        return Statistics(*sums)

    def overlap(self, theta) -> Tensor:
        """``sum_i a_i gamma_ik gamma_il (K, K)``: what components share of the samples."""
        mixture = theta.prepare()
        step, dtype = self._features(mixture)

        def block(rows, buffers):
            x, a = self.rows(rows)
            if dtype is None:
                resp = log_responsibilities(mixture, x).exp()
            else:
                _, resp, total, _ = step.posterior(self.X[rows], dtype, buffers)
                resp.div_(total)
            return (((resp if a is None else resp * a) @ resp.mT).double(),)

        by_definition = dtype is None
        row_size = theta.means.numel() if by_definition else step.row_size
        min_rows = MIN_BLOCK_ROWS if by_definition else PRODUCT_ROWS
        return self.pool.sum(block, len(self.X), row_size, min_rows=min_rows)[0]

    def total_scatter(self, kind: CovarianceType) -> Tensor | None:
        """``sum_i a_i x_i x_i^T (1, d, d)`` about the origin, if the type has a use for it."""
        if not kind.shared:
            return None
        if self._total_scatter is None:

            def block(rows, buffers):
                x, a = self.rows(rows)
                return (((x if a is None else x * a.unsqueeze(1)).mT @ x).unsqueeze(0),)

            (self._total_scatter,) = self.pool.sum(block, len(self.X), self.X.shape[1])
        return self._total_scatter
