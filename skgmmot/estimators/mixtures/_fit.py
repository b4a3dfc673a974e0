"""What every estimator does that fits a mixture to samples: the frame of a fit."""

import warnings
from abc import ABC, abstractmethod
from contextlib import nullcontext
from typing import Any, overload

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import has_fit_parameter

from skgmmot._inputs import arrays
from skgmmot._types import Array, Elsewhere, Samples, fit_context
from skgmmot.estimators.callbacks import (
    CallbackSupportMixin,
    Task,
    called_log,
    fit_task,
    fitted_as_far,
)
from skgmmot.estimators.mixtures._base import MixtureEstimator, whole_fit
from skgmmot.estimators.mixtures._checkpoint import Checkpoint
from skgmmot.numerics.fixed_point import Solution
from skgmmot.numerics.runs import Runs

NOT_CONVERGED = (
    "Best performing initialization did not converge. Try different init parameters, or increase "
    "max_iter, tol, or check for degenerate data."
)


class Fit(ABC):
    """A fit of a mixture to given samples, by the parameters of an estimator."""

    estimator: "FittedMixture"
    """Whose parameters count, and whose attributes are set."""
    runs: Runs
    """The best run so far."""
    checkpoint: Checkpoint | None = None
    """What keeps their state in a file; None keeps nothing."""

    @abstractmethod
    def solve(self, warm: bool) -> Solution:
        """Run from every start or, if warm, from the estimator's own last fit."""

    @abstractmethod
    def show(self, solution: Solution) -> None:
        """Set the estimator's attributes."""

    @property
    def n_steps(self) -> int | None:
        """Largest number of steps of a run that are noted; None is any number."""
        return None

    def attributes(self, solution: Solution) -> dict:
        """The attributes of an estimator that is fitted as far as that."""
        estimator = self.estimator

        def show(on, solution):
            self.estimator = on
            try:
                self.show(solution)
            finally:
                self.estimator = estimator

        return fitted_as_far(estimator, show, solution)

    def not_converged(self, solution: Solution) -> str:
        """What the warning says where the best run has not converged."""
        return NOT_CONVERGED

    def remarks(self, solution: Solution) -> list[str]:
        """What else to warn of."""
        return []


class FittedMixture(CallbackSupportMixin, MixtureEstimator):
    """Base of the estimators that fit a mixture to samples from several starts."""

    @overload
    def fit_predict(
        self, X: Elsewhere, y: Samples | None = ..., sample_weight: Samples | None = ...
    ) -> Any: ...

    @overload
    def fit_predict(
        self, X: Array, y: Samples | None = ..., sample_weight: Samples | None = ...
    ) -> np.ndarray: ...

    def fit_predict(self, X, y=None, sample_weight=None):
        """Fit the mixture and predict the component of each sample.

        Parameters
        ----------
        X : array-like or Tensor of shape (n_samples, n_features)
            Samples.
        y : array-like of shape (n_samples,), default=None
            As in `fit`, which ignores it unless a parameter says otherwise.
        sample_weight : array-like or Tensor of shape (n_samples,), default=None
            Non-negative weights.

        Returns
        -------
        array or Tensor of shape (n_samples,)
            What ``fit(X, y).predict(X)`` gives.

        Raises
        ------
        ValueError
            As `fit`.
        TypeError
            As `fit`; also if ``X`` is a function that returns blocks.
        """
        arrays.refuse_functions(X)
        return self._fit(X, sample_weight, y, **self._from_y(y)).predict(X)

    def _from_y(self, y) -> dict:
        """What of ``y`` a fit takes into account, by name."""
        return {}

    @fit_context(prefer_skip_nested_validation=True)
    def _fit(self, X, sample_weight, given=None, /, **known):
        with fit_task(self, X, given, sample_weight) as task, whole_fit(self) as (fitted, reached):
            fitted._fit_samples(X, sample_weight, reached, task, **known)
        return self

    def _fit_samples(self, X, sample_weight, reached, task: Task | None, **known):
        """`fit`, on a copy."""
        warm = self._is_warm()
        fit = self._fit_to(*self._validated(X, sample_weight), **known)
        reached.best, reached.show = lambda: fit.runs.best, fit.show
        fit.runs.log = called_log(fit.runs.log, task, fit.n_steps, fit.attributes)
        with nullcontext() if fit.checkpoint is None else fit.checkpoint.guarded():
            solution = fit.solve(warm)
        texts = fit.remarks(solution)
        if not solution.converged and self.max_iter > 0 and not fit.runs.stopped:
            texts = [fit.not_converged(solution), *texts]
        for text in texts:
            warnings.warn(text, ConvergenceWarning, stacklevel=5)
        fit.show(solution)

    def _is_warm(self) -> bool:
        """Whether `fit` goes on from the last one."""
        return self.warm_start and hasattr(self, "means_")

    @abstractmethod
    def _fit_to(self, X, sample_weight, kind) -> Fit:
        """The fit to validated samples, their weights or None, which came in a kind of array."""

    def _validated(self, X, sample_weight, *, first=True):
        """Samples, their weights or None, and the kind of array that they came in."""
        least = 2 if first else 1
        options = {"sample_weight": sample_weight, "missing": arrays.takes_missing(self)}
        X, kind = arrays.samples(self, X, reset=first, min_samples=least, **options)
        a = arrays.sample_weights(sample_weight, X)
        if first:
            check_enough(len(X) if a is None else int((a > 0).sum()), self.n_components)
        arrays.check_range(X)
        return X, a, kind


def check_enough(n_samples: int, n_components: int) -> None:
    """Refuse fewer samples (of positive weight) than components."""
    if n_samples < n_components:
        raise ValueError(
            "Expected n_samples >= n_components but got n_components = "
            f"{n_components}, n_samples = {n_samples}. Pass more samples or ask for "
            "fewer components."
        )


def fitted_to(mixture, samples, sample_weight=None):
    """Fit a mixture estimator that a user gave, ours or not, to samples and their weights."""
    if arrays.is_dask(samples) and not isinstance(mixture, FittedMixture):
        raise ValueError(
            "mixture must be a DifferentiableGaussianMixture for samples of dask, got "
            f"{type(mixture).__name__}, which would bring them into memory. Use samples.compute() "
            "if they fit there."
        )
    if getattr(mixture, "labels", "ignore") != "ignore":
        raise ValueError(
            f"mixture must have labels='ignore' here, got {mixture.labels!r}: it is fitted without "
            "classes. Set labels back, or fit the mixture by itself."
        )
    if sample_weight is None:
        return mixture.fit(samples)
    if not has_fit_parameter(mixture, "sample_weight"):
        raise ValueError(
            f"mixture must be one whose fit takes sample_weight, got {type(mixture).__name__}. Use "
            "a DifferentiableGaussianMixture."
        )
    return mixture.fit(samples, sample_weight=sample_weight)


def check_covariance_type(mixture, name: str) -> None:
    """Refuse an estimator, given for the samples of that name, that is no Gaussian mixture."""
    if not hasattr(mixture, "covariance_type"):
        raise TypeError(
            f"mixture must be a Gaussian mixture estimator for {name}, got "
            f"{type(mixture).__name__}. Pass a DifferentiableGaussianMixture."
        )
