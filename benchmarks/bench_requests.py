"""What users of Gaussian mixtures ask for: one question and one table each.

    python benchmarks/bench_requests.py                  # all questions
    python benchmarks/bench_requests.py standard_errors  # some
    python benchmarks/bench_requests.py --quick          # fewer repeats

Writes ``results/bench_requests_QUESTION.csv`` for each, and all tables to ``bench_requests.md``.
"""

import argparse
import functools
import importlib.util
import inspect
import itertools
import time
import warnings
from pathlib import Path

import numpy as np
import sklearn
import torch
from _common import RESULTS, cpu_seconds, machine, markdown, peak_during, read_csv, write_csv
from scipy.optimize import linear_sum_assignment
from scipy.special import logsumexp, softmax
from scipy.stats import norm
from sklearn.datasets import (
    load_diabetes,
    load_digits,
    load_iris,
    load_linnerud,
    load_wine,
    make_friedman1,
)
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.discriminant_analysis import (
    LinearDiscriminantAnalysis,
    QuadraticDiscriminantAnalysis,
)
from sklearn.ensemble import RandomForestRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.experimental import enable_iterative_imputer  # noqa: F401 - makes it importable
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer
from sklearn.linear_model import LinearRegression
from sklearn.metrics import adjusted_rand_score, confusion_matrix, r2_score
from sklearn.mixture import BayesianGaussianMixture, GaussianMixture
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.preprocessing import StandardScaler
from sklearn.semi_supervised import LabelSpreading, SelfTrainingClassifier
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from skgmmot import (
    DifferentiableGaussianMixture,
    GaussianMixtureSearch,
    MixtureImputer,
    MixtureRegressor,
    Prior,
    StudentMixture,
)

TYPES = ("full", "tied", "diag", "spherical")

# --- standard errors ---------------------------------------------------------------------------


def standard_errors(quick):
    """Standard errors: coverage of 95 % intervals.

    Mixtures of three overlapping components in the plane are drawn and fitted (from their true
    means, tol=1e-8) 500 times. An interval is the estimate plus and minus 1.96 standard errors;
    covered: in how many per cent of fits it holds the true value, on average over the parameters of
    a kind. worst: of the single parameter farthest from 95 %; of 500 fits it has a standard error
    of 1. robust: the sandwich estimate. t, 5 degrees: components are of that distribution
    instead, far apart, and the true values are those of the moments.
    """
    repeats = 50 if quick else 500
    means = np.array([[0.0, 0.0], [3.0, 0.0], [1.0, 3.5]])
    weights = np.array([0.5, 0.3, 0.2])
    cases = [("full", 1000), ("full", 4000), ("tied", 1000), ("diag", 1000), ("spherical", 1000)]
    for name, n in cases:
        covariances = {
            "full": np.array([[[1.0, 0.3], [0.3, 0.5]], [[0.6, -0.2], [-0.2, 1]], np.eye(2)]),
            "tied": np.array([[1.0, 0.3], [0.3, 0.7]]),
            "diag": np.array([[1.0, 0.5], [0.6, 1.0], [1.0, 1.0]]),
            "spherical": np.array([1.0, 0.6, 0.8]),
        }[name]
        truth = (weights, means, covariances)
        yield from _coverage(name, n, truth, repeats)
    far = (weights, 6 * means, np.array([1.0, 0.6, 0.8])[:, None] * np.ones((3, 2)))
    yield from _coverage("diag", 4000, far, repeats, heavy=True)


def _coverage(covariance_type, n, truth, repeats, heavy=False):
    """How often the intervals of a fit hold the true parameters, plain and robust."""
    weights, means, covariances = truth
    source = DifferentiableGaussianMixture(3, covariance_type=covariance_type)
    source.weights_, source.means_, source.covariances_ = truth
    model = DifferentiableGaussianMixture(
        3, covariance_type=covariance_type, means_init=means, tol=1e-8, max_iter=5000
    )
    inside = {False: [], True: []}
    for seed in tqdm(range(repeats), desc=f"{covariance_type}, n={n}", leave=False):
        rng = np.random.default_rng(seed)
        if heavy:  # of variance one
            labels = rng.choice(3, size=n, p=weights)
            noise = rng.standard_t(5, size=(n, 2)) * np.sqrt(3 / 5)
            X = means[labels] + noise * np.sqrt(covariances[labels])
        else:
            X, _ = source.set_params(random_state=seed).sample(n)
        fitted = model.set_params(random_state=seed).fit(X)
        estimates = (fitted.weights_, fitted.means_, fitted.covariances_)
        for robust, found in inside.items():
            errors = fitted.standard_errors(X, robust=robust)
            found.append(
                [
                    np.abs(estimate - true) <= norm.ppf(0.975) * error
                    for estimate, true, error in zip(estimates, truth, errors, strict=True)
                ]
            )
    for robust, found in inside.items():
        each = [100 * np.mean(part, axis=0).ravel() for part in zip(*found, strict=True)]
        every = np.concatenate(each)
        yield {
            "samples of": "t, 5 degrees" if heavy else "the mixture",
            "type": covariance_type,
            "n": n,
            "robust": str(robust),
            "fits": repeats,
            "covered %, all": round(float(every.mean()), 1),
            "weights": round(float(each[0].mean()), 1),
            "means": round(float(each[1].mean()), 1),
            "covariances": round(float(each[2].mean()), 1),
            "worst": round(float(every[np.abs(every - 95).argmax()]), 1),
        }


# --- regression --------------------------------------------------------------------------------


def regression(quick):
    """Regression: held-out R2 and log-density of y.

    Five-fold cross-validation, means over the folds. Data that ship with scikit-learn, and
    simulated data of friedman1 (five of ten features count, not linearly). chosen: components and
    covariance type by the conditional log-density of an inner cross-validation. by hand: what the
    formulas of Gaussian mixture regression, written with numpy and SciPy alone for the same
    mixture, differ from predict and log_density, relative to the largest. Linear regression and the
    random forest have no density of their own: theirs are normal about their predictions, with the
    variance of the residuals (of the forest, of samples out of the bag).
    """
    sets = {
        "diabetes": load_diabetes(return_X_y=True, scaled=False),
        "linnerud": load_linnerud(return_X_y=True),
        "friedman1": make_friedman1(2000, noise=1.0, random_state=0),
    }
    for data, (X, y) in sets.items():
        for name, model in _regressions(len(X), quick).items():
            found = []
            folds = KFold(5, shuffle=True, random_state=0)
            for train, test in tqdm(list(folds.split(X)), desc=f"{data}, {name}", leave=False):
                found.append(_held_out(model, X, y, train, test))
            mean = {key: float(np.mean([f[key] for f in found])) for key in ("R2", "log-density")}
            shape = {"n": len(X), "d": X.shape[1], "outputs": y[0].size}
            yield {
                "data": data,
                **shape,
                "model": name,
                **mean,
                "fit s": float(np.mean([f["fit s"] for f in found])),
                "by hand": max((f["by hand"] for f in found if "by hand" in f), default=None),
                "chosen": ", ".join(f["chosen"] for f in found if "chosen" in f) or None,
            }


def _regressions(n, quick):
    """The models, by name."""
    mixture = DifferentiableGaussianMixture(init_params="sinkhorn", random_state=0)
    grid = {
        "mixture__n_components": [1, 2] if quick or n < 100 else [1, 2, 3, 5, 10],
        "mixture__covariance_type": ["full", "tied", "diag"],
    }
    search = GridSearchCV(MixtureRegressor(mixture), grid, scoring=_mean_log_density, cv=3)
    return {
        "linear": LinearRegression(),
        "random forest": RandomForestRegressor(
            50 if quick else 500, oob_score=True, min_samples_leaf=2, random_state=0
        ),
        "mixture, default": MixtureRegressor(random_state=0),
        "mixture, chosen": search,
    }


def _mean_log_density(regressor, X, y):
    """The score by which a mixture is chosen."""
    return regressor.log_density(X, y).mean()


def _held_out(model, X, y, train, test):
    """Scores of a model on a fold."""
    began = time.process_time()
    model.fit(X[train], y[train])
    found = {"fit s": time.process_time() - began}
    given, model = model, getattr(model, "best_estimator_", model)
    found["R2"] = r2_score(y[test], model.predict(X[test]))
    if isinstance(model, MixtureRegressor):
        density = model.log_density(X[test], y[test])
        by_hand = _by_hand(model.mixture_, X[test], y[test])
        found["by hand"] = max(
            float(np.abs(a - b).max() / np.abs(b).max())
            for a, b in zip((model.predict(X[test]), density), by_hand, strict=True)
        )
        if model is not given:
            found["chosen"] = f"{model.mixture_.n_components} {model.mixture_.covariance_type}"
    else:
        on_train = getattr(model, "oob_prediction_", None)
        on_train = model.predict(X[train]) if on_train is None else on_train
        deviation = np.std(y[train] - on_train, axis=0)
        density = norm.logpdf(y[test], model.predict(X[test]), deviation)
        density = density.reshape(len(test), -1).sum(1)
    return found | {"log-density": float(density.mean())}


def _by_hand(mixture, X, y):
    """Conditional means and log-densities by the formulas, a component and a sample at a time."""
    d, Y = X.shape[1], y.reshape(len(y), -1)
    shape = (mixture.n_components, d + Y.shape[1], d + Y.shape[1])
    covariances = np.asarray(mixture.covariances_)
    if mixture.covariance_type == "diag":
        covariances = np.stack([np.diag(v) for v in covariances])
    joint, means, log_densities = [], [], []
    for w, m, S in zip(
        mixture.weights_, mixture.means_, np.broadcast_to(covariances, shape), strict=True
    ):
        joint.append(np.log(w) + _log_normal(X - m[:d], S[:d, :d]))
        slope = np.linalg.solve(S[:d, :d], S[:d, d:])
        means.append(m[d:] + (X - m[:d]) @ slope)
        log_densities.append(_log_normal(Y - means[-1], S[d:, d:] - S[d:, :d] @ slope))
    weights = softmax(joint, axis=0)  # (K, n)
    mean = np.einsum("kn,knj->nj", weights, means)
    return mean.reshape(y.shape), logsumexp(log_densities, b=weights, axis=0)


def _log_normal(centred, covariance):
    """The log-density of a normal distribution about zero."""
    squares = (np.linalg.solve(covariance, centred.T) * centred.T).sum(0)
    log_det = np.linalg.slogdet(2 * np.pi * covariance).logabsdet
    return -(squares + log_det) / 2


# --- search --------------------------------------------------------------------------------------


def search(quick):
    """Search: the right number of components and covariance type.

    30 sets are drawn from mixtures of 2 to 6 components, each type in turn, in 2 to 5 features,
    with 400 to 2000 samples; no two means are nearer than 2.5, and some groups overlap. BIC chooses
    among 1 to 10 components of four types: a loop over scikit-learn's GaussianMixture with n_init=1
    and 5, and GaussianMixtureSearch at its defaults and without giving up any type. right: sets in
    which both are found. BIC: mean excess of the chosen one's over the best found by any. s: CPU
    seconds for all sets, taken in turns in one process; ratio: to the search's; median ratio: of
    single sets.
    """
    programs = {
        "scikit-learn, n_init=1": lambda X: _loop(X, 1),
        "scikit-learn, n_init=5": lambda X: _loop(X, 5),
        "search": lambda X: _search(X, 2),
        "search, patience=None": lambda X: _search(X, None),
    }
    right, spent, bics = ({name: [] for name in programs} for _ in range(3))
    for seed in tqdm(range(6 if quick else 30), desc="sets", leave=False):
        X, truth = _drawn(seed)
        for name, program in programs.items():
            began = time.process_time()
            *chosen, value = program(X)
            spent[name].append(time.process_time() - began)
            right[name].append(tuple(chosen) == truth)
            bics[name].append(value)
    lowest = np.min(list(bics.values()), axis=0)
    for name in programs:
        yield {
            "program": name,
            "sets": len(lowest),
            "right": sum(right[name]),
            "BIC": round(float(np.mean(bics[name] - lowest)), 2),
            "s": sum(spent[name]),
            "ratio": sum(spent[name]) / sum(spent["search"]),
            "median ratio": float(np.median(np.divide(spent[name], spent["search"]))),
        }


def _drawn(seed):
    """Samples of a mixture, its number of components and its type."""
    rng = np.random.default_rng(seed)
    name = TYPES[seed % 4]
    K, d, n = rng.integers(2, 7), rng.integers(2, 6), rng.integers(400, 2001)
    means = []
    while len(means) < K:  # no two nearer than two and a half
        mean = rng.uniform(-4, 4, size=d)
        if all(np.linalg.norm(mean - other) > 2.5 for other in means):
            means.append(mean)
    A = rng.normal(size=(K, d, d)) / np.sqrt(d)
    full = A @ A.transpose(0, 2, 1) + 0.2 * np.eye(d)
    variances = rng.uniform(0.2, 1.5, size=(K, d))
    covariances = {
        "full": full,
        "tied": np.broadcast_to(full[:1], full.shape),
        "diag": np.stack([np.diag(v) for v in variances]),
        "spherical": variances[:, 0, None, None] * np.eye(d),
    }[name]
    labels = rng.choice(K, size=n, p=rng.dirichlet(np.full(K, 5.0)))
    L = np.linalg.cholesky(covariances)
    X = np.array(means)[labels] + (L[labels] @ rng.normal(size=(n, d, 1)))[..., 0]
    return X, (int(K), name)


def _loop(X, n_init):
    """What a user writes with scikit-learn."""
    best = (None, None, np.inf)
    for name in TYPES:
        for K in range(1, 11):
            fitted = GaussianMixture(K, covariance_type=name, n_init=n_init, random_state=0).fit(X)
            bic = fitted.bic(X)
            if bic < best[2]:
                best = K, name, bic
    return best


def _search(X, patience):
    found = GaussianMixtureSearch(patience=patience, random_state=0).fit(X)
    return found.n_components_, found.covariance_type_, found.best_criterion_


# --- the tables --------------------------------------------------------------------------------

# --- collapse ------------------------------------------------------------------------------------


def collapse(quick):
    """Collapse: components on a few samples, and what they cost.

    Samples of three Gaussians in four features, fitted with nine components of full covariances
    (k-means, one start, max_iter=500). spurious: per cent of fits in which a component of positive
    weight has a standard deviation below a twentieth of the smallest that any of the true ones has
    in some direction. held out: mean log-density of 5,000 other samples, the median of the fits.
    worst: the tenth percentile. reg_covar tuned: the best on the held-out samples of 1e-4, 1e-3,
    ..., 1, chosen with hindsight for each fit. scale=3: with hindsight too, once for all fits.
    BayesianGaussianMixture: scikit-learn's defaults, a Dirichlet process or distribution.
    """
    repeats = 10 if quick else 50
    rng = np.random.default_rng(0)
    means = 3 * rng.normal(size=(3, 4))
    roots = rng.normal(size=(3, 4, 4)) / 2 + np.eye(4)
    covariances = roots @ roots.transpose(0, 2, 1)
    least = np.sqrt(np.linalg.eigvalsh(covariances).min())
    source = DifferentiableGaussianMixture.from_parameters([0.5, 0.3, 0.2], means, covariances)
    others, _ = source.set_params(random_state=10**6).sample(5000)
    for n in (20, 50, 100, 200, 500):
        found = {name: [] for name in _AGAINST_COLLAPSE}
        for seed in tqdm(range(repeats), desc=f"n={n}", leave=False):
            X, _ = source.set_params(random_state=seed).sample(n)
            for name, models_for in _AGAINST_COLLAPSE.items():
                began = time.process_time()
                models = [m.set_params(random_state=seed).fit(X) for m in models_for(X)]
                took = (time.process_time() - began) / len(models)
                best = max(models, key=lambda model: model.score(others))
                thin = np.sqrt(np.linalg.eigvalsh(best.covariances_)[best.weights_ > 1e-6].min())
                found[name].append((thin < least / 20, best.score(others), took))
        for name, rows in found.items():
            spurious, scores, seconds = map(np.array, zip(*rows, strict=True))
            yield {
                "n": n,
                "fit": name,
                "fits": repeats,
                "spurious %": 100 * spurious.mean(),
                "held out": np.median(scores),
                "worst": np.quantile(scores, 0.1),
                "fit s": np.median(seconds),
            }
        yield {"n": n, "fit": "the truth", "held out": source.score(others)}


def _ours(**options):
    return DifferentiableGaussianMixture(9, max_iter=500, **options)


def _theirs(kind):
    return BayesianGaussianMixture(
        n_components=9, max_iter=500, weight_concentration_prior_type=kind
    )


_AGAINST_COLLAPSE = {
    "plain": lambda X: [_ours()],
    "reg_covar tuned": lambda X: [_ours(reg_covar=10.0**-k) for k in range(5)],
    "prior='auto'": lambda X: [_ours(prior="auto")],
    "Prior(scale=3 * np.cov(X.T))": lambda X: [_ours(prior=Prior(scale=3 * np.cov(X.T)))],
    "BayesianGaussianMixture": lambda X: [_theirs("dirichlet_process")],
    "the same, Dirichlet distribution": lambda X: [_theirs("dirichlet_distribution")],
}


# --- known classes -----------------------------------------------------------------------------


def labels(quick):
    """Known classes: accuracy where few samples have labels.

    Wine and iris are standardised, digits are their first ten principal components, whitened. So
    many per cent of the samples of each class, at least one, have a label; accuracy is that of the
    others, on average over 20 draws (+- standard deviation). labels='y': one component a class,
    reg_covar=0.01 (digits 0.1), else the defaults. weighted: by sample_weight the labelled samples
    count for as much as all others together. Without labels: the same mixture, components matched
    to classes by the same labels. Discriminant analysis: scikit-learn's of the labelled samples
    alone, with Ledoit-Wolf shrinkage; self-training: SelfTrainingClassifier of it. failed: too few
    samples for a covariance of each class. LabelSpreading: the better of its two kernels, by the
    truth.
    """
    sets = {
        "iris": load_iris(return_X_y=True),
        "wine": load_wine(return_X_y=True),
        "digits": load_digits(return_X_y=True),
    }
    for data, (X, truth) in sets.items():
        scale = PCA(10, whiten=True, random_state=0) if data == "digits" else StandardScaler()
        X = scale.fit_transform(X)
        for share in (1, 5, 20):
            found = {}
            for seed in tqdm(range(3 if quick else 20), desc=f"{data}, {share} %", leave=False):
                y = _some_known(truth, share, np.random.default_rng(seed))
                for name, predict in _LEARNERS.items():
                    unknown = y < 0
                    predicted = predict(X, y)
                    score = np.nan if predicted is None else (predicted == truth)[unknown].mean()
                    found.setdefault(name, []).append(score)
            n_known = int((y >= 0).sum())
            spreading = [found.pop(f"LabelSpreading, {kernel}") for kernel in ("knn", "rbf")]
            found["LabelSpreading"] = max(spreading, key=np.mean)
            for name, scores in found.items():
                mean, spread = np.mean(scores), np.std(scores)
                yield {
                    "data": data,
                    "known %": share,
                    "known": n_known,
                    "program": name,
                    "accuracy %": "failed" if np.isnan(mean) else f"{100 * mean:.1f}",
                    "+-": "" if np.isnan(mean) else f"{100 * spread:.1f}",
                }


def _some_known(truth, share, rng):
    """So many per cent of the labels of each class, at least one; -1 for the others."""
    y = np.full(len(truth), -1)
    for name in np.unique(truth):
        rows = np.flatnonzero(truth == name)
        known = rng.choice(rows, max(1, round(share / 100 * len(rows))), replace=False)
        y[known] = name
    return y


def _by_mixture(covariance_type, *, with_labels=True, weighted=False):
    """What a mixture with a component a class predicts."""

    def predict(X, y):
        names = np.unique(y[y >= 0])
        reg_covar = 0.1 if len(names) == 10 else 0.01
        options = {"covariance_type": covariance_type, "reg_covar": reg_covar, "random_state": 0}
        if with_labels:
            mixture = DifferentiableGaussianMixture(len(names), labels="y", **options)
            known = y >= 0
            a = np.where(known, np.sum(~known) / np.sum(known), 1.0) if weighted else None
            return mixture.fit(X, y, a).predict_class(X)
        found = DifferentiableGaussianMixture(len(names), **options).fit_predict(X)
        table = confusion_matrix(y[y >= 0], found[y >= 0], labels=names)
        rows, columns = linear_sum_assignment(table, maximize=True)
        return names[rows[np.argsort(columns)]][found]

    return predict


def _by_classifier(make, *, unlabelled=False):
    """What a classifier of scikit-learn predicts; None where it cannot be fitted."""

    def predict(X, y):
        known = slice(None) if unlabelled else y >= 0
        try:
            return make().fit(X[known], y[known]).predict(X)
        except ValueError:
            return None

    return predict


def _quadratic():
    return QuadraticDiscriminantAnalysis(solver="eigen", shrinkage="auto")


def _linear():
    return LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")


_LEARNERS = {
    "labels='y', full": _by_mixture("full"),
    "labels='y', tied": _by_mixture("tied"),
    "labels='y', full, weighted": _by_mixture("full", weighted=True),
    "labels='y', tied, weighted": _by_mixture("tied", weighted=True),
    "without labels, full": _by_mixture("full", with_labels=False),
    "without labels, tied": _by_mixture("tied", with_labels=False),
    "quadratic discriminant": _by_classifier(_quadratic),
    "linear discriminant": _by_classifier(_linear),
    "self-training, quadratic": _by_classifier(
        lambda: SelfTrainingClassifier(_quadratic()), unlabelled=True
    ),
    "self-training, linear": _by_classifier(
        lambda: SelfTrainingClassifier(_linear()), unlabelled=True
    ),
    "LabelSpreading, knn": _by_classifier(lambda: LabelSpreading("knn"), unlabelled=True),
    "LabelSpreading, rbf": _by_classifier(lambda: LabelSpreading("rbf"), unlabelled=True),
}


# --- missing values ------------------------------------------------------------------------------


def missing(quick):
    """Missing values: entries imputed, and the mixture that is fitted.

    Of iris, wine and the four measurements of palmerpenguins (in units of their deviations; two
    penguins have none, which tgmm refuses and does not get), 10, 30 and 50 % of the entries of 80 %
    of the samples are removed at random, but never all of a sample, 5 times. RMSE: of the removed
    entries. held out: mean log-density of the other 20 %, which are complete, under a mixture of
    three components (full covariances; of wine tied) from five starts: by exact EM on what is left,
    or fitted to what another method has imputed. one component: MixtureImputer at its defaults, and
    the same mixture of three on what it imputed. s: CPU seconds for both; those of tgmm on wine at
    50 % are the mean of three of the five runs, as others ran beside the last two.
    """
    for data, (X, covariance_type) in _incomplete_data().items():
        for removed in (0.1, 0.3, 0.5):
            found = {}
            for seed in tqdm(range(2 if quick else 5), desc=f"{data} {removed}", leave=False):
                for name, row in _imputed(X, covariance_type, removed, seed):
                    found.setdefault(name, []).append(row)
            for name, rows in found.items():
                error, held_out, took = np.mean(rows, axis=0).tolist()
                yield {
                    "data": data,
                    "removed %": round(100 * removed),
                    "by": name,
                    "RMSE": None if np.isnan(error) else error,
                    "held out": held_out,
                    "s": took,
                }


def _incomplete_data():
    """Data sets, and the covariance type of their mixtures."""
    found = {"iris": (load_iris().data, "full"), "wine": (load_wine().data, "tied")}
    spec = importlib.util.find_spec("palmerpenguins")
    if spec is not None:  # its module would want more packages than its file does
        path = Path(spec.submodule_search_locations[0]) / "data" / "penguins.csv"
        numbers = np.genfromtxt(path, delimiter=",", skip_header=1, usecols=range(2, 6))
        found["penguins"] = numbers, "full"
    return found


def _imputed(X, covariance_type, removed, seed):
    """What each method makes of samples of which some entries are removed."""
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(X))
    train, test = X[rows[len(X) // 5 :]], X[rows[: len(X) // 5]]
    test = test[~np.isnan(test).any(1)]
    mean, deviation = np.nanmean(train, axis=0), np.nanstd(train, axis=0)
    train, test = (train - mean) / deviation, (test - mean) / deviation
    gone = (rng.random(train.shape) < removed) & ~np.isnan(train)
    gone[(gone | np.isnan(train)).all(1)] = False
    M = np.where(gone, np.nan, train)

    def mixture(**options):
        options = {"covariance_type": covariance_type, "tol": 1e-5, "max_iter": 1000, **options}
        return DifferentiableGaussianMixture(3, n_init=5, random_state=seed, **options)

    def row(impute, fit):
        began = time.process_time()
        filled = impute()
        score = fit(filled)
        return np.sqrt(np.mean((filled - train)[gone] ** 2)), score, time.process_time() - began

    def of_imputed(filled):
        return mixture().fit(filled).score(test)

    for name, imputer in _IMPUTERS.items():
        yield name, row(lambda imputer=imputer: imputer.fit_transform(M), of_imputed)
    ours = mixture(missing_values="nan")
    yield "skgmmot, exact EM", row(lambda: ours.fit(M).impute(M), lambda _: ours.score(test))
    with_prior = mixture(missing_values="nan", prior="auto")
    yield (
        "the same, prior='auto'",
        row(lambda: with_prior.fit(M).impute(M), lambda _: with_prior.score(test)),
    )
    if importlib.util.find_spec("tgmm") is not None:
        theirs = _tgmm(3, M, covariance_type, n_init=5, random_state=seed)

        def impute():
            filled, some = train.copy(), ~np.isnan(M).all(1)
            filled[some] = theirs.fit(torch.from_numpy(M[some])).impute(torch.from_numpy(M[some]))
            return filled

        def score(_):
            return float(theirs.score_samples(torch.from_numpy(test)).mean())

        yield "tgmm, missing='em'", row(impute, score)
    complete = train[~np.isnan(train).any(1)]
    yield "nothing removed", (np.nan, mixture().fit(complete).score(test), np.nan)


_IMPUTERS = {
    "mean": SimpleImputer(),
    "KNNImputer": KNNImputer(),
    "IterativeImputer": IterativeImputer(random_state=0, max_iter=30),
    "skgmmot, one component": MixtureImputer(),
}


def _tgmm(n_components, X, covariance_type, **options):
    """tgmm's mixture, in float64."""
    from tgmm import GaussianMixture as Theirs

    name = {"tied": "tied_full"}.get(covariance_type, covariance_type)
    options = {"tol": 1e-7, "max_iter": 1000, **options}
    return Theirs(n_components, X.shape[1], covariance_type=name, missing="em", **options)


def missing_time(quick):
    """Missing values: time of an iteration.

    Samples of five components in d features, with about 30 % of their entries missing, in so many
    patterns of observed features. ms: CPU time of one iteration of EM, the median of several, on
    the samples before and after that, in turns. ratio: the second over the first. setup: further
    CPU time of a fit before its first iteration, in iterations on complete samples.
    """
    K = 5
    cases = [(t, 100_000, 10, 100, np.float64) for t in TYPES]
    cases += [("full", 100_000, 10, 100, np.float32), ("full", 100_000, 10, 800, np.float64)]
    cases += [("full", 1000, 10, 100, np.float64), ("full", 150, 10, 20, np.float64)]
    cases += [(t, 1000, 50, 1000, np.float64) for t in ("full", "tied")]
    for covariance_type, n, d, n_patterns, dtype in cases:
        rng = np.random.default_rng(0)
        means = 3 * rng.normal(size=(K, d))
        X = (means[rng.integers(K, size=n)] + rng.normal(size=(n, d))).astype(dtype)
        patterns = np.zeros((0, d), dtype=bool)
        while len(patterns) < n_patterns:
            more = rng.random((4 * n_patterns, d)) < 0.3
            patterns = np.unique(np.vstack([patterns, more[~more.all(1)]]), axis=0)
            patterns = patterns[rng.permutation(len(patterns))[:n_patterns]]
        M = np.where(patterns[rng.integers(n_patterns, size=n)], dtype(np.nan), X)
        options = {"covariance_type": covariance_type, "means_init": means, "tol": 0}
        few, many = 1, 6 if n > 1000 or d > 10 else 101

        def took(samples, n_iter, options=options):
            model = DifferentiableGaussianMixture(
                K, max_iter=n_iter, missing_values="nan", init_params=_halves, **options
            )
            return cpu_seconds(lambda: model.fit(samples))

        times = []
        for _ in range(3 if quick else 9):
            turn = [[took(samples, m) for m in (few, many)] for samples in (X, M)]
            times.append([(b - a) / (many - few) for a, b in turn] + [turn[1][0] - turn[0][0]])
        plain, exact, setup = np.median(times, axis=0)
        yield {
            "type": covariance_type,
            "dtype": np.dtype(dtype).name,
            "n": n,
            "d": d,
            "patterns": n_patterns,
            "ms, complete": 1000 * plain,
            "ms, missing": 1000 * exact,
            "ratio": float(np.median([b / a for a, b, _ in times])),
            "setup": setup / plain,
        }


def _halves(X, n_components, random_state):
    """A start that costs nothing."""
    return np.arange(len(X)) % n_components


# --- outliers ------------------------------------------------------------------------------------


def robust(quick):
    """Robust: uniform outliers beside clusters.

    600 samples of four clusters in three features, whose covariances are of the type that is
    fitted, and outliers, uniform in a cube twice as wide as the one of their means: so many per
    cent of all samples. Every fit has one start of its defaults, each figure is the mean of 20 data
    sets. ARI: adjusted Rand index of the samples of clusters; those labelled as noise count as one
    more cluster. error: mean distance of the fitted means, matched, from the true ones; a cluster
    has standard deviations of about one. found: per cent of the outliers that are labelled as
    noise; lost: of the others. tgmm: version 0.4.3.
    """
    for share in (0, 5, 10, 20):
        rows = {name: {"outliers %": share, "fit": name} for name in _AGAINST_OUTLIERS}
        seconds, found, lost = ({name: [] for name in rows} for _ in range(3))
        for covariance_type in TYPES:
            scores = {name: [] for name in rows}
            for seed in tqdm(range(3 if quick else 20), desc=f"{covariance_type}, {share} %"):
                X, y, means = _contaminated(covariance_type, share / 100, seed)
                for name, fit in _AGAINST_OUTLIERS.items():
                    began = time.process_time()
                    centres, labels = fit(X, covariance_type, seed)
                    seconds[name].append(time.process_time() - began)
                    distances = np.linalg.norm(means[:, None] - centres, axis=-1)
                    rand = adjusted_rand_score(y[y >= 0], labels[y >= 0])
                    error = distances[linear_sum_assignment(distances)].mean()
                    scores[name].append((rand, error))
                    found[name] += list(labels[y < 0] < 0)
                    lost[name].append((labels[y >= 0] < 0).mean())
            for name, row in rows.items():
                row[f"ARI {covariance_type}"] = np.mean([s[0] for s in scores[name]])
                row[f"error {covariance_type}"] = np.mean([s[1] for s in scores[name]])
        for name, row in rows.items():
            labels_noise = "noise" in name
            row["found %"] = 100 * np.mean(found[name]) if labels_noise and share else ""
            row["lost %"] = 100 * np.mean(lost[name]) if labels_noise else ""
            row["fit s"] = np.median(seconds[name])
            order = ["outliers %", "fit", *(f"ARI {t}" for t in TYPES)]
            order += [*(f"error {t}" for t in TYPES), "found %", "lost %", "fit s"]
            yield {column: row[column] for column in order}


def _contaminated(covariance_type, share, seed, n=600, d=3, K=4):
    """Samples, their clusters (-1 for outliers), and the true means."""
    rng = np.random.default_rng(seed)
    means = rng.uniform(-10, 10, size=(K, d))
    while min(np.linalg.norm(a - b) for a, b in itertools.combinations(means, 2)) < 5:
        means = rng.uniform(-10, 10, size=(K, d))
    roots = {
        "full": np.eye(d) + 0.4 * rng.normal(size=(K, d, d)),
        "tied": np.repeat(np.eye(d)[None] + 0.4 * rng.normal(size=(1, d, d)), K, axis=0),
        "diag": np.stack([np.diag(v) for v in rng.uniform(0.5, 1.5, size=(K, d))]),
        "spherical": rng.uniform(0.5, 1.5, size=(K, 1, 1)) * np.eye(d),
    }[covariance_type]
    y = rng.integers(K, size=n)
    X = means[y] + np.einsum("nij,nj->ni", roots[y], rng.normal(size=(n, d)))
    outliers = rng.uniform(-20, 20, size=(round(n * share / (1 - share)), d))
    return np.concatenate([X, outliers]), np.r_[y, np.full(len(outliers), -1)], means


def _fitted(make):
    """A fit by an estimator with the parameters of scikit-learn."""

    def fit(X, covariance_type, seed):
        model = make(4, covariance_type=covariance_type, random_state=seed).fit(X)
        return model.means_, model.predict(X)

    return fit


def _of_tgmm(name, **options):
    """A fit by `tgmm`, which takes tensors; imported only here."""

    def fit(X, covariance_type, seed):
        import tgmm
        from tgmm.mixtures.student_t import StudentTMixture

        make = StudentTMixture if name == "StudentTMixture" else tgmm.GaussianMixture
        data = torch.from_numpy(X)
        covariance_type = {"tied": "tied_full"}.get(covariance_type, covariance_type)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = make(4, covariance_type=covariance_type, random_state=seed, **options)
            model.fit(data)
            return model.means_.numpy(), model.predict(data).numpy()

    return fit


_AGAINST_OUTLIERS = {
    "plain": _fitted(DifferentiableGaussianMixture),
    "noise='uniform'": _fitted(functools.partial(DifferentiableGaussianMixture, noise="uniform")),
    "StudentMixture": _fitted(StudentMixture),
    "scikit-learn": _fitted(GaussianMixture),
}
if importlib.util.find_spec("tgmm") is not None:
    _AGAINST_OUTLIERS |= {
        "tgmm, noise=True": _of_tgmm("GaussianMixture", noise=True),
        "tgmm, StudentTMixture": _of_tgmm("StudentTMixture"),
    }


# --- low rank ----------------------------------------------------------------------------------


def low_rank(quick):
    """Low rank: held-out log-likelihood, time and memory.

    digits: the images of 8 by 8 pixels, without those that hardly vary; embedding: 512 random
    convolution features of them (filters of 3 by 3 pixels, rectified, averaged over the image),
    standardised; simulated: 4,000 samples of 5 components with 10 factors in 2,000 features.
    reg_covar is 1e-3, for one component 1e-6, in the other program 0. held-out: mean log-likelihood
    of samples that were not fitted, over 3 folds (of the simulated ones the first). s: CPU seconds
    of a fit with its start; MB: largest memory beyond the data; numbers: parameters.
    """
    for name, X, cases in _many_features():
        folds = list(KFold(3, shuffle=True, random_state=0).split(X))
        folds = folds[:1] if quick or name == "simulated" else folds
        for K, kind, rank in cases:
            found = [_factored(K, kind, rank, X[train], X[test]) for train, test in folds]
            score, spent, memory, numbers = np.mean(found, axis=0)
            yield {
                "data": name,
                "features": X.shape[1],
                "model": kind,
                "components": K,
                "rank": rank or "",
                "held-out": f"{score:.2f}",
                "s": spent,
                "MB": round(memory),
                "numbers": int(numbers),
            }


def _many_features():
    """Data of many features, and the models to compare on them."""
    images = load_digits().images
    pixels = images.reshape(len(images), -1)
    one = [(1, kind, rank) for rank in (2, 10) for kind in ("FactorAnalysis", "lowrank")]
    one += [(1, "full", None), (1, "diag", None)]
    many = [(10, "lowrank", 2), (10, "lowrank", 5), (10, "full", None), (10, "diag", None)]
    yield "digits", pixels[:, pixels.var(0) > 0.1], one + many
    rng = np.random.default_rng(0)
    filters = rng.normal(size=(9, 512))
    patches = np.lib.stride_tricks.sliding_window_view(images, (3, 3), axis=(1, 2))
    features = np.maximum(patches.reshape(len(images), 36, 9) @ filters, 0).mean(1)
    embedding = StandardScaler().fit_transform(features)
    yield "embedding", embedding, one + [(5, k, r) for _, k, r in many]
    means, factors = rng.normal(size=(5, 2000)), rng.normal(size=(5, 10, 2000))
    parts = [m + rng.normal(size=(800, 10)) @ F for m, F in zip(means, factors, strict=True)]
    X = np.concatenate(parts) + rng.normal(size=(4000, 2000))
    yield "simulated", rng.permutation(X), [(5, "lowrank", 10), (5, "diag", None)]


def _factored(K, kind, rank, train, test):
    """Held-out log-likelihood, CPU seconds, megabytes and parameters of one model."""
    if kind == "FactorAnalysis":
        model = FactorAnalysis(rank, tol=1e-3, max_iter=5000, svd_method="lapack")
        numbers = train.shape[1] * (rank + 2) - rank * (rank - 1) // 2
    else:
        options = {"reg_covar": 1e-6 if K == 1 else 1e-3, "max_iter": 1000, "random_state": 0}
        model = DifferentiableGaussianMixture(K, covariance_type=kind, rank=rank or 1, **options)
    spent = []
    memory = peak_during(lambda: spent.append(cpu_seconds(lambda: model.fit(train))))
    if kind != "FactorAnalysis":
        numbers = model._n_parameters()
    return model.score(test), spent[0], memory, numbers


QUESTIONS = {
    "missing": missing,
    "missing_time": missing_time,
    "search": search,
    "standard_errors": standard_errors,
    "regression": regression,
    "collapse": collapse,
    "labels": labels,
    "robust": robust,
    "low_rank": low_rank,
}


def write():
    """Write the tables of all questions that have results."""
    lines = [
        "# What users ask for",
        "",
        f"Written by `python benchmarks/bench_requests.py` on {machine()};",
        f"torch {torch.__version__}, scikit-learn {sklearn.__version__}, one thread.",
    ]
    for name, question in QUESTIONS.items():
        table = read_csv(RESULTS / f"bench_requests_{name}.csv")
        if table:
            title, _, text = inspect.getdoc(question).partition("\n\n")
            lines += ["", f"## {title.rstrip('.')}", "", text, "", *markdown(table)]
    (RESULTS / "bench_requests.md").write_text("\n".join(lines) + "\n")


def main():
    """Read the arguments, run, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("questions", nargs="*", help="which, of " + ", ".join(QUESTIONS))
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    args = parser.parse_args()
    unknown = set(args.questions) - set(QUESTIONS)
    if unknown:
        parser.error(f"questions must be of {', '.join(QUESTIONS)}, got {', '.join(unknown)}")
    warnings.filterwarnings("ignore", category=ConvergenceWarning)
    warnings.filterwarnings("ignore", message="reg_covar must be small")
    RESULTS.mkdir(exist_ok=True)
    torch.set_num_threads(1)
    for name in args.questions or QUESTIONS:
        table = []
        with threadpool_limits(1):
            for row in QUESTIONS[name](args.quick):
                table.append(row)
                print(*markdown([row])[2:], flush=True)
        write_csv(table, RESULTS / f"bench_requests_{name}.csv")
    write()


if __name__ == "__main__":
    main()
