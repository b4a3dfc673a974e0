"""`GaussianMixtureSearch`: chooses the number of components and the covariance type."""

import itertools
import math
import warnings
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
import torch
from joblib import effective_n_jobs
from scipy.stats import rankdata
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import KFold
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.parallel import Parallel, delayed

from skgmmot._inputs import arrays
from skgmmot._types import RandomState, Samples
from skgmmot.estimators._default_mixture import DefaultMixture
from skgmmot.estimators._progress import ProgressBar
from skgmmot.estimators.callbacks import Task
from skgmmot.estimators.mixtures._base import MixtureEstimator
from skgmmot.estimators.mixtures._em_fit import OF_ERRORS
from skgmmot.estimators.mixtures._fit import FittedMixture, check_enough
from skgmmot.estimators.mixtures._missing import check_observed
from skgmmot.estimators.mixtures.differentiable import DifferentiableGaussianMixture
from skgmmot.estimators.search._growth import (
    Candidate,
    Grown,
    advance,
    advance_elsewhere,
    samples_of,
)
from skgmmot.estimators.starts import units
from skgmmot.fitting.em.e_steps import E_STEPS
from skgmmot.fitting.em.rows import EM
from skgmmot.fitting.incomplete import ObservedSums, together
from skgmmot.gaussian.covariance.registry import COVARIANCE_TYPES
from skgmmot.numerics import blocks
from skgmmot.plotting._criterion import LABELS, CriterionDisplay

#: Differences of a criterion, in units of twice a log-likelihood, that count as clear.
CLEARLY = 10.0
#: Attributes of the best mixture that the search has, too.
SHOWN = (
    "weights_",
    "means_",
    "covariances_",
    "precisions_",
    "precisions_cholesky_",
    "converged_",
    "n_iter_",
)
COLLAPSED_TEXT = (
    "n_components must be few enough for the samples, got a best fit with a collapsed component, "
    "whose variance is that of reg_covar. Use fewer components, or a larger reg_covar."
)
LEFT_OUT = (
    "n_components must be at most the number of samples{}, got {} for {}. Larger numbers are left "
    "out."
)
AT_THE_END = (
    "n_components must go beyond the best number to show that it is the best, got {0} for the best "
    "and the largest. Compare more components, such as range(1, {1})."
)
CRITERIA = ("bic", "aic", "icl", "held_out")


class GaussianMixtureSearch(DefaultMixture, FittedMixture):
    r"""Gaussian mixture whose number of components and covariance type are chosen by a criterion.

    Mixtures of each covariance type are fitted with more and more components, each from starts of
    its own, from the last fit with components split, and from the next with components merged. A
    type is given up where further components do not help. The criteria are, with L the
    log-likelihood, p the number of free parameters and n of samples,

    .. math::

        \text{BIC} = -2 L + p \log n, \qquad \text{AIC} = -2 L + 2 p, \qquad
        \text{ICL} = \text{BIC} - 2 \sum_{ik} \gamma_{ik} \log \gamma_{ik},

    and minus twice the log-likelihood of held-out samples in cross-validation. The search is
    itself a fitted mixture, the best one: it predicts, and can be transported.

    Parameters
    ----------
    n_components : int or iterable of int, default=(1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
        Numbers of components to compare. Those that exceed the number of samples (of a fold) are
        left out.
    covariance_types : str or iterable of str, default=('full', 'tied', 'diag', 'spherical')
        Covariance types to compare.
    criterion : {'bic', 'aic', 'icl', 'held_out'}, default='bic'
        What to minimise. ``'bic'`` finds the components of the density, ``'icl'`` groups that are
        apart; ``'aic'`` and ``'held_out'`` the best density, with more components.
    mixture : DifferentiableGaussianMixture, default=None
        All other parameters of the fits, such as ``reg_covar``; None is
        ``DifferentiableGaussianMixture(n_init=2)``. Its ``n_init`` counts starts beside splits and
        merges, and its ``random_state`` is not used. They can also be set as
        ``set_params(mixture__reg_covar=...)``. With its ``missing_values='nan'`` entries may be
        missing.
    cv : int or splitter, default=5
        Folds, shuffled, or an object with scikit-learn's ``split``, for ``'held_out'``.
    patience : int, default=2
        A type is given up when this many numbers of components in a row were clearly worse than its
        best (by more than 10), or when it is so far behind the best of all that it would not catch
        up if each further component helped as much as the last ones. None compares all.
    random_state : int, RandomState instance or None, default=None
        Controls the starts, the folds and `sample`.
    verbose : int, default=0
        1 shows a progress bar over the fits, with the best criterion; types that are given up end
        it early.
    n_jobs : int, default=None
        Processes that share the covariance types, by joblib: None is 1, -1 all processors. The
        results are the same. Processes take seconds to start, and share what threads of one fit
        could use: they are for searches of minutes. Samples on another device than the CPU are
        fitted in this process.

    Attributes
    ----------
    best_estimator_ : DifferentiableGaussianMixture
        The best mixture, fitted to all samples.
    best_params_ : dict
        Its ``n_components`` and ``covariance_type``.
    best_criterion_ : float
        Its criterion.
    best_score_ : float
        The same as scikit-learn's searches have it, to be large: minus the criterion, or the mean
        log-likelihood of held-out samples.
    cv_results_ : dict of ndarrays
        The main columns of ``results_`` under the names of scikit-learn's searches: ``params``,
        ``param_n_components``, ``param_covariance_type``, ``mean_test_score``, ``rank_test_score``
        and ``mean_fit_time``.
    best_index_ : int
        Its row in ``results_``.
    results_ : dict of ndarrays
        A row for each fit, in the order of the fits; a frame by ``pandas.DataFrame(results_)``.
        ``n_components``, ``covariance_type``, ``criterion``, ``n_parameters``,
        ``log_likelihood`` (mean), ``bic``, ``aic``, ``icl``, ``held_out`` (mean log-likelihood, if
        it is the criterion), ``n_iter``, ``converged``, ``start`` (what the best run started
        from: ``'split'``, ``'merge'`` or ``init_params``), ``collapsed`` (the variance of
        a component is that of ``reg_covar`` alone, so that likelihoods cannot be compared: such a
        fit is chosen only if all are) and ``fit_time`` in seconds. Those given up have no row.
    error_, solution_ : float, Solution
        With ``certify=True`` of the ``mixture`` how far the best is from its fixed point, and its
        ``gain``.
    n_components_ : int
        The number of components K of the best.
    covariance_type_ : str
        Its covariance type.
    weights_ : array or Tensor of shape (K,)
        Its weights.
    means_ : array or Tensor of shape (K, n_features)
        Its means.
    covariances_ : array or Tensor
        Its covariances, as in `DifferentiableGaussianMixture`.
    precisions_ : array or Tensor
        Inverse covariances, in the same shape.
    precisions_cholesky_ : array or Tensor
        Factors ``P`` of the precisions, ``P @ P.T``, in the same shape.
    converged_ : bool
        Whether its fit converged.
    n_iter_ : int
        Iterations of its fit.
    n_features_in_ : int
        Number of features d.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if ``X`` had any.

    See Also
    --------
    skgmmot.DifferentiableGaussianMixture : The mixtures that are compared.

    Notes
    -----
    A fit that raises because a covariance is singular has criterion ``inf``. With ``'held_out'``
    all is done once more for each fold.

    References
    ----------
    .. [1] Biernacki, Celeux and Govaert 2000, the integrated completed likelihood.

    Examples
    --------
    >>> import numpy as np
    >>> from skgmmot import GaussianMixtureSearch
    >>> rng = np.random.default_rng(0)
    >>> X = np.vstack([rng.normal(c, 1, size=(100, 2)) for c in ([0, 0], [6, 0], [0, 6])])
    >>> search = GaussianMixtureSearch(n_components=range(1, 7), random_state=0).fit(X)
    >>> search.best_params_
    {'n_components': 3, 'covariance_type': 'spherical'}
    >>> search.predict([[6, 0]]).shape
    (1,)
    """

    _parameter_constraints: dict = {
        "n_components": [Interval(Integral, 1, None, closed="left"), Iterable],
        "covariance_types": [str, Iterable],
        "criterion": [StrOptions(set(CRITERIA))],
        "mixture": [MixtureEstimator, None],
        "cv": [Interval(Integral, 2, None, closed="left"), HasMethods(["split"])],
        "patience": [Interval(Real, 1, None, closed="left"), None],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
        "n_jobs": [Integral, None],
    }

    def __init__(
        self,
        n_components: int | Iterable[int] = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10),
        covariance_types: str | Iterable[str] = ("full", "tied", "diag", "spherical"),
        *,
        criterion: str = "bic",
        mixture: BaseEstimator | None = None,
        cv: Any = 5,
        patience: int = 2,
        random_state: RandomState = None,
        verbose: int = 0,
        n_jobs: int | None = None,
    ) -> None:
        self.n_components = n_components
        self.covariance_types = covariance_types
        self.criterion = criterion
        self.mixture = mixture
        self.cv = cv
        self.patience = patience
        self.random_state = random_state
        self.verbose = verbose
        self.n_jobs = n_jobs

    def fit(
        self, X: Samples, y: Samples | None = None, sample_weight: Samples | None = None
    ) -> Self:
        """Fit and compare all mixtures, and keep the best.

        Parameters
        ----------
        X : array-like or Tensor of shape (n_samples, n_features)
            Samples. The result is not differentiable in them: fit ``best_estimator_`` again for
            that.
        y : None
            Ignored.
        sample_weight : array-like or Tensor of shape (n_samples,), default=None
            How often each sample was seen: their sum is the number of samples of the criteria.

        Returns
        -------
        GaussianMixtureSearch
            The fitted estimator.

        Raises
        ------
        TypeError
            If ``mixture`` is another estimator.
        ValueError
            If a parameter, ``X`` or ``sample_weight`` is invalid, there are fewer samples (of a
            fold) than the fewest components, or every fit fails; an earlier fit is then left as it
            was.

        Warns
        -----
        ConvergenceWarning
            If the best fit has not converged, or has components without samples.
        UserWarning
            If ``reg_covar`` is large for the features, numbers of components are left out, or the
            best one is the largest of several.
        """
        self._fit(X, sample_weight, y)
        return self

    # --- what the frame of a fit needs ---------------------------------------------------------

    @property
    def device(self):
        """Where to compute, by ``mixture``."""
        return None if self.mixture is None else self.mixture.device

    @property
    def missing_values(self):
        """Whether entries of samples may be missing, by ``mixture``."""
        return "error" if self.mixture is None else self.mixture.missing_values

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = arrays.takes_missing(self)
        return tags

    @property
    def covariance_type(self):
        """The covariance type of the best; None before a fit."""
        return getattr(self, "covariance_type_", None)

    def _fit_to(self, X, sample_weight, kind):
        return _Comparison(self, self._template(), X, sample_weight, kind)

    def _fit_samples(self, X, sample_weight, reached, task):
        for attribute in [name for name in vars(self) if name.endswith("_")]:
            delattr(self, attribute)  # of an earlier fit; on a copy
        options = {"sample_weight": sample_weight, "missing": arrays.takes_missing(self)}
        X, kind = arrays.samples(self, X, reset=True, min_samples=2, **options)
        arrays.check_range(X)
        a, count = arrays.sample_weights(sample_weight, X), float(len(X))
        if a is not None:
            given = arrays.as_tensor(sample_weight).detach().double()
            count = float(given.expand(len(X)).sum())
            X, a = X[a > 0], a[a > 0].detach()
        comparison = self._fit_to(X.detach(), a, kind)
        texts = comparison.run(count, task)
        for text in texts:
            warnings.warn(text, ConvergenceWarning, stacklevel=5)
        for text in comparison.advice:
            warnings.warn(text, UserWarning, stacklevel=5)

    @property
    def best_score_(self) -> float:
        """The score of the best, as scikit-learn's searches have it."""
        return float(self.cv_results_["mean_test_score"][self.best_index_])

    @property
    def cv_results_(self) -> dict:
        """The scores of all fits, as scikit-learn's searches have them."""
        if not hasattr(self, "results_"):
            raise AttributeError(f"{type(self).__name__} has cv_results_ after fit. Call fit.")
        names, found = ("n_components", "covariance_type"), self.results_
        rows = zip(*(found[name].tolist() for name in names), strict=True)
        scores = found.get("held_out", -found["criterion"])
        return {
            "params": [dict(zip(names, row, strict=True)) for row in rows],
            **{f"param_{name}": found[name] for name in names},
            "mean_test_score": scores,
            "rank_test_score": rankdata(-np.nan_to_num(scores, nan=-np.inf), "min").astype(int),
            "mean_fit_time": found["fit_time"],
        }

    def _template(self):
        """The mixture that candidates are clones of."""
        if self.mixture is None:
            return self._default_mixture()
        mixture = self.mixture
        if not isinstance(mixture, DifferentiableGaussianMixture):
            raise TypeError(
                "mixture must be a DifferentiableGaussianMixture, got "
                f"{type(mixture).__name__}. Likelihoods of other fits cannot be compared so."
            )
        names = ("weights_init", "means_init", "precisions_init")
        given = [name for name in names if getattr(mixture, name) is not None]
        if given:
            raise ValueError(
                f"mixture must have no start of a fixed number of components, got {given[0]}. Set "
                "it to None, or use a function as init_params."
            )
        if mixture.checkpoint is not None:
            raise ValueError(
                f"mixture must have no checkpoint, got {str(mixture.checkpoint)!r}, which all fits "
                "would share. Set it to None; best_estimator_ may have one."
            )
        if mixture.noise != "none":
            raise ValueError(
                f"mixture must have noise='none', got {mixture.noise!r}. Compare the bic of "
                "fits with noise one by one."
            )
        held = mixture.fixed_means, mixture.fixed_covariances
        no_mask = isinstance(mixture.fixed_weights, bool) and all(f is False for f in held)
        if not no_mask or mixture.prior != "none":
            raise ValueError(
                "mixture must have no prior, no mask of fixed_weights and no fixed means or "
                "covariances, got some of them: candidates are compared by their likelihood. Unset "
                "them."
            )
        if mixture.labels != "ignore":
            raise ValueError(
                f"mixture must have labels='ignore', got {mixture.labels!r}: components of classes "
                "cannot be split and merged. Fit best_estimator_ with labels afterwards."
            )
        if E_STEPS[mixture.e_step].balanced:
            raise ValueError(
                f"mixture must maximise the likelihood, got e_step={mixture.e_step!r}. Use "
                "e_step='posterior', or init_params='sinkhorn'."
            )
        return mixture

    def _default_mixture(self):
        return DifferentiableGaussianMixture(n_init=2)

    def plot(self, ax: Any = None) -> Any:
        """Draw the criterion against the number of components, a line for each covariance type.

        A ring is around the best. A line ends where its type was given up; fits that failed or
        collapsed are left out.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes one.

        Returns
        -------
        matplotlib Axes
            The axes.

        Raises
        ------
        NotFittedError
            Before `fit`.

        See Also
        --------
        skgmmot.plotting.CriterionDisplay : The same for other criteria than that of the search.
        """
        return CriterionDisplay.from_estimator(self, ax=ax).ax_


class _Comparison:
    """All fits of a search to given samples."""

    def __init__(self, search, template, X, sample_weight, kind):
        self.search, self.template, self.kind = search, template, kind
        self.X, self.sample_weight = X, sample_weight
        self.numbers = _numbers(search.n_components)
        self.types, self.advice = _types(search.covariance_types), []
        n_informative = len(X) - int(torch.isnan(X).all(1).sum())
        check_enough(n_informative, self.numbers[0])
        self._leave_out(n_informative, "")
        origin, variances = self._moments(X, sample_weight)
        units.warn_of_units(template, variances, origin)
        rng = check_random_state(search.random_state)
        self.seeds = {K: rng.randint(2**31 - 1) for K in self.numbers}
        self.whole = self._grown(X, sample_weight)
        self.folds = list(self._folds(rng)) if search.criterion == "held_out" else []

    def _grown(self, X, a):
        samples, (origin, _) = samples_of(X, a), self._moments(X, a)
        return Grown(EM(samples, origin, self.template.reg_covar), self.kind, self.seeds)

    def _moments(self, X, a):
        """Means and variances of the features, of what is observed."""
        if not torch.isnan(X).any():
            origin = blocks.origin(X, a)
            return origin, units.variances(X, a, origin)
        name = "full" if "full" in self.types else self.types[0]
        estimator = self._estimator(self.numbers[0], name)
        if hasattr(self.search, "feature_names_in_"):
            estimator.feature_names_in_ = self.search.feature_names_in_
        check_observed(estimator, together(X, a))
        sums = ObservedSums.of(X, a)
        return sums.mean.to(X.dtype), sums.squares(X, a) / sums.total

    def _folds(self, rng):
        """Yield fits to the samples of each fold, and those held out, as EM."""
        cv = self.search.cv
        if isinstance(cv, str):  # texts can be split, too
            raise TypeError(
                f"cv must be a number of folds or a splitter, got {cv!r}. Pass for example 5."
            )
        if isinstance(cv, Integral):
            if cv > len(self.X):
                raise ValueError(
                    f"cv must be at most the number of samples, got {cv} for {len(self.X)}. "
                    "Decrease it."
                )
            cv = KFold(cv, shuffle=True, random_state=rng.randint(2**31 - 1))
        splits = list(cv.split(self.X))
        fewest = min((len(train) for train, _ in splits), default=len(self.X))
        if fewest < self.numbers[0]:
            raise ValueError(
                f"n_components must be at most the number of samples of a fold, got "
                f"{self.numbers[0]} for {fewest}. Ask for fewer components, or increase cv."
            )
        self._leave_out(fewest, " of a fold")
        for train, test in splits:
            grown = self._grown(*self._rows(train))
            held_out = samples_of(*self._rows(test))
            yield grown, EM(held_out, grown.em.origin, 0.0)

    def _leave_out(self, n_samples, of):
        """Compare no more components than samples."""
        if self.numbers[-1] > n_samples:
            self.advice.append(LEFT_OUT.format(of, self.numbers[-1], n_samples))
            self.numbers = [K for K in self.numbers if n_samples >= K]

    def _rows(self, rows):
        rows = torch.as_tensor(np.asarray(rows), device=self.X.device)
        a = self.sample_weight
        return self.X[rows], None if a is None else a[rows]

    def run(self, count: float, task: Task | None = None) -> list[str]:
        """Fit and compare, for so many samples in all; show the best, and return its warnings."""
        self.count, stop = count, False
        self.rows: dict = {}
        courses = {name: _Course() for name in self.types}
        total = len(self.numbers) * len(self.types)
        self.bar = ProgressBar(self.search.verbose, total, "search")
        with self.bar, warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # those of the best come later
            for position, K in enumerate(self.numbers):
                going = [name for name, course in courses.items() if not course.given_up]
                fits = self._fits(going if not stop else [], K, self.numbers[:position])
                for name in going:
                    if not stop:
                        candidate = None if task is None else task.subtask("fit of a candidate")
                        for k, spent in next(fits):
                            self._note(k, name, spent)
                        courses[name].values = {
                            k: row["criterion"] for (k, t), row in self.rows.items() if t == name
                        }
                        stop = candidate is not None and candidate.end()
                lowest = min(course.lowest for course in courses.values())
                for course in courses.values():
                    course.judge(lowest, self.numbers[-1] - K, self.search.patience)
        rows = list(self.rows.values())
        index = min(range(len(rows)), key=lambda i: (rows[i]["collapsed"], rows[i]["criterion"]))
        if not math.isfinite(rows[index]["criterion"]):
            raise ValueError(
                f"a mixture must fit the samples, got singular covariances in all {len(rows)} "
                "fit(s). Increase reg_covar of the mixture, or compare fewer components."
            )
        best = list(self.rows)[index]
        fitted = self.whole.best[best]
        if fitted.candidate is None:
            theta, estimator = fitted.solution.value, self._estimator(*best)
            chosen = Candidate(estimator, self.whole.em, self.kind, theta)
            fitted = fitted._replace(candidate=chosen)
        return self._show(rows, index, fitted)

    def _fits(self, names, K, fewer):
        """Fit so many components of some types; yield what was fitted of each, as `advance`."""
        estimators = [self._estimator(K, name) for name in names]
        if effective_n_jobs(self.search.n_jobs) == 1 or self.X.device.type != "cpu":
            yield from (advance(self._all(), estimator, fewer) for estimator in estimators)
            return
        parallel = Parallel(n_jobs=self.search.n_jobs)
        results = parallel(
            delayed(advance_elsewhere)(
                [grown.alone(estimator.covariance_type) for grown in self._all()], estimator, fewer
            )
            for estimator in estimators
        )
        for spent, fits in results:
            for grown, found in zip(self._all(), fits, strict=True):
                grown.take(found)
            yield spent

    def _all(self):
        """The fits to all samples, then those to the samples of each fold."""
        return [self.whole, *(grown for grown, _ in self.folds)]

    def _estimator(self, K, name):
        return clone(self.template).set_params(
            n_components=K, covariance_type=name, random_state=self.search.random_state
        )

    def _note(self, K, name, spent):
        """Write the row of a fit; one that failed has no likelihood."""
        fitted, p = self.whole.best.get((K, name)), self._n_parameters(K, name)
        if (K, name) in self.rows:
            spent += self.rows[K, name]["fit_time"]
        row = {"n_components": K, "covariance_type": name, "criterion": math.inf, "n_parameters": p}
        if any((K, name) not in grown.best for grown in self._all()):
            measured = dict.fromkeys(("log_likelihood", "bic", "aic", "icl", "held_out"), math.nan)
            row |= measured | {"n_iter": 0, "converged": False, "start": "", "collapsed": True}
        else:
            deviance, penalty = -2 * self.count * fitted.log_likelihood, p * math.log(self.count)
            row |= {
                "log_likelihood": fitted.log_likelihood,
                "bic": deviance + penalty,
                "aic": deviance + 2 * p,
                "icl": deviance + penalty + 2 * self.count * fitted.entropy,
                "held_out": self._held_out(K, name),
                "n_iter": fitted.solution.n_iter,
                "converged": fitted.solution.converged,
                "start": fitted.start,
                "collapsed": fitted.collapsed,
            }
            criterion = row[self.search.criterion]
            row["criterion"] = -2 * self.count * criterion if self.folds else criterion
        self.rows[K, name] = row | {"fit_time": spent}
        lowest = min(row["criterion"] for row in self.rows.values())
        self.bar.at(len(self.rows), **{f"best {LABELS[self.search.criterion]}": lowest})

    def _n_parameters(self, K, name):
        d = self.X.shape[1]
        return self._estimator(K, name)._covariance().n_parameters(K, d) + K * d + K - 1

    def _held_out(self, K, name):
        """The mean log-likelihood of held-out samples, over all folds."""
        if not self.folds:
            return math.nan
        total = weight = 0.0
        for grown, held_out in self.folds:
            with held_out.at_work() as em:
                statistics = em.statistics(grown.best[K, name].solution.value)
            total += float(statistics.log_likelihood)
            weight += held_out.total
        return total / weight

    def _show(self, rows, index, fitted):
        """Set the attributes of the search, and return what to warn of."""
        search, estimator = self.search, fitted.candidate.estimator
        names = [name for name in rows[0] if name != "held_out" or self.folds]
        search.results_ = {name: np.array([row[name] for row in rows]) for name in names}
        search.best_index_, search.best_criterion_ = index, float(rows[index]["criterion"])
        search.best_params_ = {n: rows[index][n] for n in ("n_components", "covariance_type")}
        for name in ("n_features_in_", "feature_names_in_"):
            if hasattr(search, name):
                setattr(estimator, name, getattr(search, name))
        fitted.candidate.show(fitted.solution)
        search.best_estimator_ = estimator
        search.n_components_ = estimator.n_components
        search.covariance_type_ = estimator.covariance_type
        for name in (*SHOWN, *OF_ERRORS):
            vars(search).pop(name, None)
            if name in vars(estimator):  # covariances of low rank have no precisions
                setattr(search, name, getattr(estimator, name))
        best = search.n_components_
        if len(self.numbers) > 1 and best == self.numbers[-1] < len(self.X):
            self.advice.append(AT_THE_END.format(best, 2 * best + 1))
        texts = fitted.candidate.remarks(fitted.solution)
        if fitted.collapsed:
            texts.append(COLLAPSED_TEXT)
        if not fitted.solution.converged and estimator.max_iter > 0:
            texts.append(fitted.candidate.not_converged(fitted.solution))
        return texts


class _Course:
    """The criterion of one covariance type, as the number of components grows."""

    def __init__(self):
        self.values, self.given_up = {}, False

    @property
    def lowest(self):
        """The least so far."""
        return min(self.values.values(), default=math.inf)

    def judge(self, lowest, remaining, patience):
        """Give up a type that more components cannot bring to the least criterion of all types."""
        if patience is None or self.given_up:
            return
        limit = self.lowest + CLEARLY
        clearly_worse = itertools.takewhile(
            lambda value: not value <= limit, reversed(self.values.values())
        )
        gains = [
            (self.values[k] - self.values[K]) / (K - k)
            for k, K in itertools.pairwise(self.values)
            if math.isfinite(self.values[k] - self.values[K])
        ][-2:]
        reach = self.lowest - remaining * max([0.0, *gains])
        behind = len(gains) == 2 and reach > lowest + CLEARLY
        self.given_up = len(list(clearly_worse)) >= patience or behind


def _numbers(given) -> list[int]:
    """The numbers of components, ascending."""
    is_one = isinstance(given, Integral) or getattr(given, "ndim", 1) == 0
    numbers = [given] if is_one else list(given)
    bad = [k for k in numbers if not isinstance(k, Integral) or isinstance(k, bool) or k < 1]
    if bad or not numbers:
        raise ValueError(
            "n_components must be one or more positive integers, got "
            f"{bad[0] if bad else 'none'!r}. Pass for example range(1, 11)."
        )
    return sorted({int(k) for k in numbers})


def _types(given) -> list[str]:
    """The names of the covariance types."""
    is_one = isinstance(given, str) or getattr(given, "ndim", 1) == 0
    names = [given] if is_one else list(given)
    bad = [name for name in names if not isinstance(name, str) or name not in COVARIANCE_TYPES]
    if bad or not names:
        raise ValueError(
            f"covariance_types must be one or more of {', '.join(COVARIANCE_TYPES)}, got "
            f"{bad[0] if bad else 'none'!r}. Pass for example ('full', 'diag')."
        )
    return list(dict.fromkeys(names))
