"""All fits of a search for a number of components and a covariance type, compared."""

import itertools
import math
import warnings
from numbers import Integral

import numpy as np
import torch
from joblib import effective_n_jobs
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import KFold
from sklearn.utils import check_random_state
from sklearn.utils.parallel import Parallel, delayed

from skgmmot.estimators._progress import ProgressBar
from skgmmot.estimators.callbacks import Task
from skgmmot.estimators.mixtures._em_fit import OF_ERRORS
from skgmmot.estimators.mixtures._fit import check_enough
from skgmmot.estimators.mixtures._missing import check_observed
from skgmmot.estimators.search._growth import (
    Candidate,
    Grown,
    advance,
    advance_elsewhere,
    samples_of,
)
from skgmmot.estimators.starts import units
from skgmmot.fitting.em.rows import EM
from skgmmot.fitting.incomplete import ObservedSums, together
from skgmmot.gaussian.covariance.registry import COVARIANCE_TYPES
from skgmmot.numerics import blocks
from skgmmot.plotting._criterion import LABELS

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


class Comparison:
    """All fits of a search to given samples, of each of which something is observed."""

    def __init__(self, search, template, X, sample_weight, kind):
        self.search, self.template, self.kind = search, template, kind
        self.X, self.sample_weight = X, sample_weight
        self.numbers = _numbers(search.n_components)
        self.types, self.advice = _types(search.covariance_types), []
        check_enough(len(X), self.numbers[0])
        self._leave_out(len(X), "")
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
        """Fit and compare, counting so many samples; show the best, and return its warnings."""
        self.count, stop = count, False
        self.rows: dict = {}
        courses = {name: Course() for name in self.types}
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
        return self._estimator(K, name)._n_free(K, self.X.shape[1])

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


class Course:
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
