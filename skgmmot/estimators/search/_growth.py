"""Mixtures of more and more components, each started from the last one, and from scratch."""

import functools
import math
import time
import warnings
from contextlib import suppress
from typing import NamedTuple

import numpy as np
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from skgmmot._inputs.arrays import ArrayKind
from skgmmot.estimators.mixtures._em_fit import EMFit
from skgmmot.estimators.mixtures._missing import to_start_from
from skgmmot.estimators.search._split_merge import merge, split
from skgmmot.estimators.starts import assignments, drawing
from skgmmot.fitting.em.rows import EM
from skgmmot.fitting.samples import InMemory
from skgmmot.gaussian.evaluators import EStep
from skgmmot.gaussian.incomplete.patterns import by_pattern
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.numerics.fixed_point import Solution

#: A component has collapsed if its smallest variance is mostly ``reg_covar``, where the smallest of
#: all samples together is much larger.
COLLAPSED, WIDE = 10, 1000


class Candidate(EMFit):
    """EM from one given start, with what the samples have prepared."""

    gradient = None

    def __init__(self, estimator, em: EM, kind: ArrayKind, start: GaussianMixtureParams):
        self._read(estimator, kind, em.samples.n_features, em.samples.device)
        self.incomplete = em.samples.incomplete
        self._begin(em.samples, em.origin)
        self.em, self.first = em.under(self.constraint), start

    def _starts(self, warm):
        start = self.first
        if self.estimator.fixed_weights:
            start = start._replace(weights=torch.full_like(start.weights, 1 / len(start.means)))
        yield start, -math.inf


class Fitted(NamedTuple):
    """The best fit of a number of components and a covariance type."""

    candidate: Candidate | None
    """What sets the attributes of its estimator; None of one fitted in another process."""
    solution: Solution
    """The end of the fit."""
    start: str
    """'split', or the name of the start from scratch."""
    collapsed: bool
    """Whether a component is held open by ``reg_covar`` alone."""
    log_likelihood: float = math.nan
    """The mean over the samples."""
    entropy: float = math.nan
    """The mean of the entropies of the samples' responsibilities."""


def _quality(found):
    """Collapsed fits are worst, then it is the likelihood."""
    return not found.collapsed, found.solution.objective


def samples_of(X: Tensor, sample_weight: Tensor | None) -> InMemory:
    """Samples in memory; those with missing entries, NaN, sorted by what is observed."""
    if not torch.isnan(X).any():
        return InMemory(X, sample_weight)
    order = by_pattern(X)
    a = None if sample_weight is None else sample_weight[order]
    return InMemory(X[order], a, incomplete=True)


class Grown:
    """Fits of more and more components to given samples, of several covariance types.

    Parameters
    ----------
    em : EM
        The samples.
    kind : ArrayKind
        The kind of array of the results.
    seeds : dict of int to int
        A seed for each number of components, which starts from scratch depend on alone.

    Attributes
    ----------
    best : dict of (int, str) to Fitted
        The best fit for each number of components and covariance type so far.
    """

    def __init__(self, em: EM, kind: ArrayKind, seeds: dict):
        self.em, self.kind, self.seeds, self.best = em, kind, seeds, {}
        self._last: dict[str, Fitted] = {}  # by type, where merges begin
        self._top: dict[str, Fitted] = {}  # and where splits do
        self._assigned: dict[tuple, assignments.Assignment] = {}

    def fits(self, name: str) -> tuple[dict, dict, dict]:
        """The fits of a covariance type, without what only this process can use.

        They are the best, the last and the top ones.
        """

        def lean(found):
            return {key: fitted._replace(candidate=None) for key, fitted in found.items()}

        best = {key: fitted for key, fitted in self.best.items() if key[1] == name}
        at_ends = ({name: ends[name]} if name in ends else {} for ends in (self._last, self._top))
        return lean(best), *map(lean, at_ends)

    def take(self, fits: tuple[dict, dict, dict]) -> None:
        """Take over the fits of one covariance type, made by another process."""
        for mine, theirs in zip((self.best, self._last, self._top), fits, strict=True):
            mine.update(theirs)

    def alone(self, name: str) -> "Grown":
        """A copy with the fits of one covariance type alone, for another process."""
        em = self.em
        samples = samples_of(em.X, em.sample_weight)
        other = Grown(EM(samples, em.origin, em.reg_covar, em.constraint), self.kind, self.seeds)
        other.take(self.fits(name))
        return other

    def fit(self, estimator) -> Fitted:
        """Fit an estimator, from its own starts and from the last fit of its covariance type.

        Parameters
        ----------
        estimator : DifferentiableGaussianMixture
            What to fit, of more components than those of its type before.

        Returns
        -------
        Fitted
            The best of its runs; runs in which a component collapsed come last.

        Raises
        ------
        ValueError
            If every run fails.
        """
        found, error = [], None
        for name, start in self._starts(estimator):
            try:
                found.append(self._run(estimator, name, start()))
            except ValueError as failed:  # a covariance is singular
                error = failed
        if not found:
            raise error
        best = max(found, key=_quality)
        self._last[estimator.covariance_type] = self._top[estimator.covariance_type] = best
        return self._kept(estimator, best)

    def refit(self, estimator) -> Fitted | None:
        """Fit an estimator again, from the last fit of its type, whose components are merged.

        Parameters
        ----------
        estimator : DifferentiableGaussianMixture
            What to fit, of fewer components than the last one.

        Returns
        -------
        Fitted or None
            The fit; None if it is no better than that before.
        """
        K, name = estimator.n_components, estimator.covariance_type
        last, before = self._last.get(name), self.best.get((K, name))
        if last is None:
            return None
        try:
            start = merge(last.solution.value, estimator._covariance(), K)
            found = self._run(estimator, "merge", start)
        except ValueError:  # a covariance is singular
            return None
        if before is not None and _quality(found) <= (
            not before.collapsed,
            before.solution.objective + estimator.tol,
        ):
            return None
        self._last[name] = found
        return self._kept(estimator, found)

    def _run(self, estimator, name, start):
        candidate = Candidate(estimator, self.em, self.kind, start)
        solution = candidate.solve(warm=False)
        collapsed = self._has_collapsed(solution.value, estimator.reg_covar)
        return Fitted(candidate, solution, name, collapsed)

    def _kept(self, estimator, found):
        log_likelihood, entropy = self._measures(found.solution.value)
        found = found._replace(log_likelihood=log_likelihood, entropy=entropy)
        self.best[estimator.n_components, estimator.covariance_type] = found
        return found

    def _measures(self, theta):
        """Mean log-likelihood and mean entropy."""
        with self.em.at_work() as em:
            (entropy,) = em.samples.sum(_Entropy(em.fastest(theta)))
            log_likelihood = em.statistics(theta).log_likelihood
        return float(log_likelihood) / em.total, float(entropy) / em.total

    def _starts(self, estimator):
        """Yield names, and functions that find a start."""
        K, name = estimator.n_components, estimator.init_params
        shown = getattr(name, "__name__", type(name).__name__) if callable(name) else name
        for run in range(estimator.n_init if K > 1 else 1):
            yield shown, functools.partial(self._from_scratch, estimator, run)
        if estimator.covariance_type in self._top:
            yield "split", functools.partial(self._split, estimator)

    def _split(self, estimator):
        largest = self._top[estimator.covariance_type].solution.value
        with self._complete.at_work() as em:
            return split(largest, em, estimator._covariance(), estimator.n_components)

    def _from_scratch(self, estimator, run):
        """A start by the name, or the function, of the estimator."""
        K, name = estimator.n_components, estimator.init_params
        rng = np.random.RandomState([self.seeds[K], run])
        with self._complete.at_work() as em:
            if not callable(name) and name in drawing.FITTED:
                return drawing.one_start(estimator, em, (None,) * 3, rng, run)
            if (K, run) not in self._assigned:  # covariance types share it
                self._assigned[K, run] = assignments.assign(name, em, K, rng, self.kind)
            start = assignments.start(self._assigned[K, run], em, estimator._covariance(), K)
        return start._replace(weights=start.weights / start.weights.sum())

    @functools.cached_property
    def _complete(self) -> EM:
        """The samples that starts are found from: what is missing is estimated."""
        em = self.em
        return to_start_from(em, em.X, em.sample_weight) if em.samples.incomplete else em

    def _has_collapsed(self, theta, reg_covar):
        """Whether a component is held open by ``reg_covar`` alone, where the samples are wide."""
        base = theta.in_base()
        least = base.covariance_type.least_eigenvalues(base.covariances)
        if least is None:
            least = base.covariance_type.deviations(base.covariances).square()
        least = float(least.min())
        return least < COLLAPSED * reg_covar and self._least_variance > WIDE * reg_covar

    @functools.cached_property
    def _least_variance(self):
        """The smallest variance of all samples, over all directions."""
        with self._complete.at_work() as em:
            return float(torch.linalg.eigvalsh(em.total_scatter()[0] / em.total)[0])


def advance(growns: list[Grown], estimator, fewer: list[int]) -> list[tuple[int, float]]:
    """Fit an estimator, and fewer components of its type again while that is an improvement.

    Parameters
    ----------
    growns : list of Grown
        Fits to all samples, and to those of each fold.
    estimator : DifferentiableGaussianMixture
        What to fit.
    fewer : list of int
        The numbers of components before, ascending.

    Returns
    -------
    list of (int, float)
        The numbers of components that were fitted, and the seconds that each took.
    """
    began, spent = time.perf_counter(), []
    for grown in growns:
        with suppress(ValueError):  # a covariance is singular
            grown.fit(estimator)
    spent.append((estimator.n_components, time.perf_counter() - began))
    for K in reversed(fewer):
        began = time.perf_counter()
        smaller = clone(estimator).set_params(n_components=K, random_state=estimator.random_state)
        improved = [grown.refit(smaller) is not None for grown in growns]
        if not any(improved):
            break
        spent.append((K, time.perf_counter() - began))
    return spent


def advance_elsewhere(growns: list[Grown], estimator, fewer: list[int]):
    """Do the same in another process.

    Parameters
    ----------
    growns : list of Grown
        Copies for one covariance type.
    estimator : DifferentiableGaussianMixture
        What to fit.
    fewer : list of int
        The numbers of components before.

    Returns
    -------
    spent : list of (int, float)
        As `advance`.
    fits : list of tuple
        What each of the originals is to take over.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        spent = advance(growns, estimator, fewer)
    return spent, [grown.fits(estimator.covariance_type) for grown in growns]


class _Entropy:
    """``-sum_k gamma_k log gamma_k``, over a block."""

    def __init__(self, step: EStep):
        self.step, self.row_size, self.min_rows = step, step.row_size, step.min_rows

    def block(self, X, sample_weight, buffers):
        resp, _ = self.step.responsibilities(X, buffers)
        each = torch.special.entr(resp.double()).sum(0)
        return ((each if sample_weight is None else each * sample_weight).sum(),)
