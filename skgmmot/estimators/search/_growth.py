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
from skgmmot.estimators.starts import assignments, drawing
from skgmmot.fitting.em.rows import EM
from skgmmot.fitting.samples import InMemory
from skgmmot.gaussian.covariance.registry import FULL, CovarianceType
from skgmmot.gaussian.evaluators import EStep
from skgmmot.gaussian.incomplete import by_pattern
from skgmmot.gaussian.mixture import EMPTY, GaussianMixtureParams, select
from skgmmot.numerics.fixed_point import Solution

#: A component has collapsed if its smallest variance is mostly ``reg_covar``, where the smallest of
#: all samples together is much larger.
COLLAPSED, WIDE = 10, 1000


def split(
    theta: GaussianMixtureParams, em: EM, covariance_type: CovarianceType, n_components: int
) -> GaussianMixtureParams:
    """Halve components of a mixture until there are so many.

    Parameters
    ----------
    theta : GaussianMixtureParams
        A mixture about the origin of the samples, fitted to them.
    em : EM
        The samples.
    covariance_type : CovarianceType
        The covariance type of all these mixtures.
    n_components : int
        How many components there shall be.

    Returns
    -------
    GaussianMixtureParams
        The mixture in which those components are halved, across their longest axis, whose samples
        their halves describe best.
    """
    while len(theta.weights) < n_components:
        theta = _halved(theta, em, covariance_type, n_components - len(theta.weights))
    return theta


def _halved(theta, em, covariance_type, n_new):
    """The mixture with at most so many of its components halved."""
    K, d = theta.means.shape
    # a covariance that all share says nothing of the halves
    own = FULL if covariance_type.shared else covariance_type
    halves = assignments.start(_halves(theta, em), em, own, 2 * K)
    gains = _gains(halves)
    chosen = gains.argsort(descending=True)[:n_new]
    kept = torch.ones(K, dtype=torch.bool, device=chosen.device)
    kept[chosen] = False
    new = select(halves, torch.cat([chosen, K + chosen]))
    weights = torch.cat([theta.weights[kept], new.weights])
    covariances = theta.covariances
    if not covariance_type.shared:
        covariances = torch.cat([covariances[kept], new.covariances])
    return GaussianMixtureParams(
        weights / weights.sum(),
        torch.cat([theta.means[kept], new.means]),
        covariances,
        covariance_type.reduced(K + len(chosen), d),
    )


def _halves(theta: GaussianMixtureParams, em: EM) -> assignments.Assignment:
    """Each component's responsibilities on one side of its mean, then all those on the other."""
    axes = torch.linalg.eigh(theta.full_covariances()).eigenvectors[..., -1]  # (K, d)
    step, heights = em.fastest(theta), (axes * theta.means).sum(1, keepdim=True)

    def blocks():
        for i in range(0, em.samples.n_samples, assignments.BLOCK):
            rows = slice(i, i + assignments.BLOCK)
            x, _ = em.rows(rows)
            resp, _ = step.responsibilities(em.samples[rows][0])
            above = axes @ x.mT > heights  # (K, b)
            yield rows, slice(None), torch.cat([resp * above, resp * ~above])

    return blocks


def _gains(halves: GaussianMixtureParams) -> Tensor:
    """What halving each component adds to the classification log-likelihood ``(K,)``."""
    K = len(halves.weights) // 2
    w, m = halves.weights.view(2, K), halves.means.view(2, K, -1)
    S = halves.full_covariances().view(2, K, *m.shape[2:], m.shape[2])
    gains = _lost(w, S, _whole(w, m, S)[1])
    return torch.where((w <= EMPTY).any(0) | gains.isnan(), -math.inf, gains)


def merge(
    theta: GaussianMixtureParams, covariance_type: CovarianceType, n_components: int
) -> GaussianMixtureParams:
    """Merge components of a mixture until there are so few.

    Parameters
    ----------
    theta : GaussianMixtureParams
        A mixture.
    covariance_type : CovarianceType
        The covariance type of all these mixtures.
    n_components : int
        How many components there shall be.

    Returns
    -------
    GaussianMixtureParams
        The mixture in which those pairs have become one Gaussian, of their mean and covariance,
        that lose the least classification log-likelihood.
    """
    while len(theta.weights) > n_components:
        theta = _merged(theta, covariance_type)
    return theta


def _merged(theta, covariance_type):
    """The mixture with one pair of components merged."""
    K, d = theta.means.shape
    pairs = torch.triu_indices(K, K, offset=1, device=theta.means.device)  # (2, P)
    w, m, S = theta.weights[pairs], theta.means[pairs], theta.full_covariances()[pairs]
    means, whole = _whole(w, m, S)
    storage = theta.covariances
    if not covariance_type.shared:
        diagonal = covariance_type.diagonal
        given = whole.diagonal(dim1=-2, dim2=-1) if diagonal else whole
        storage = covariance_type.nearest(given, w.sum(0))
        whole = covariance_type.to_full(storage, len(means), d)
    lost = _lost(w, S, whole)
    pair = int(torch.where(lost.isnan(), math.inf, lost).argmin())
    kept = torch.ones(K, dtype=torch.bool, device=w.device)
    kept[pairs[:, pair]] = False
    if not covariance_type.shared:
        storage = torch.cat([theta.covariances[kept], storage[pair : pair + 1]])
    return GaussianMixtureParams(
        torch.cat([theta.weights[kept], w[:, pair].sum(0, keepdim=True)]),
        torch.cat([theta.means[kept], means[pair : pair + 1]]),
        storage,
        covariance_type.reduced(K - 1, d),
    )


def _whole(w, m, S):
    """Means and covariances of pairs of Gaussians, from ``(2, P)``, ``(2, P, d)`` and matrices."""
    total = w.sum(0).clamp(min=torch.finfo(w.dtype).tiny)
    shares, difference = w / total, m[0] - m[1]
    means = (shares.unsqueeze(-1) * m).sum(0)
    between = shares.prod(0)[:, None, None] * difference.unsqueeze(-1) * difference.unsqueeze(-2)
    return means, (shares[..., None, None] * S).sum(0) + between


def _lost(w, S, whole):
    """The classification log-likelihood that pairs lose as wholes ``(P,)``."""
    # mass (log w - log det Sigma / 2), of both less that of the whole
    total = w.sum(0)
    apart = (torch.xlogy(w, w) - w * torch.logdet(S) / 2).sum(0)
    return apart - torch.xlogy(total, total) + total * torch.logdet(whole) / 2


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
