"""Any input of an estimator gives a finite, right result, or an error that says what came."""

import functools
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from promises.inputs import (
    NUMBERS,
    REFUSED,
    answered,
    arrays,
    assert_finite,
    classes,
    drawn,
    mostly,
    sample_weights,
    samples,
    seeds,
)
from scipy.special import logsumexp
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.dummy import DummyClassifier
from sklearn.svm import SVC

import skgmmot
from skgmmot import (
    AdaptedClassifier,
    DifferentiableGaussianMixture,
    GaussianMixtureSearch,
    MixtureEmbedding,
    MixtureImputer,
    MixtureRegressor,
    OTMap,
    PairwiseMW2,
    Prior,
    SemidiscreteGMM,
    SlicedWassersteinGMM,
    StudentMixture,
    UniformNoise,
    WassersteinQuantizer,
)

TYPES = ("full", "tied", "diag", "spherical")
#: What stands for a parameter that is no such thing.
ODD = (
    None,
    True,
    -1,
    0,
    1,
    0.5,
    -1.0,
    1e-300,
    1e300,
    float("nan"),
    float("inf"),
    1j,
    "",
    "full",
    "nan",
    b"",
    [],
    [1.0],
    [[]],
    [0.5, 0.5],
    ["a", "b"],
    (),
    {},
    set(),
    np.int64(2),
    np.float32(0.5),
    np.float64("nan"),
    np.array(2),
    np.array([1.0, np.nan]),
    np.zeros((2, 2)),
    np.ones((2, 2), dtype=complex),
    np.full((2, 2), "a"),
    np.zeros((2, 2, 2)),
    torch.tensor(2),
    torch.tensor([0.5, 0.5]),
    torch.ones(2, 2, requires_grad=True),
    torch.float32,
    np.random.default_rng(0),
    object(),
    int,
    lambda *_: None,
)


# --- judgement -----------------------------------------------------------------------------------


def numbers(array):
    """An answer as a numpy array of float64."""
    array = array.detach().cpu().numpy() if isinstance(array, torch.Tensor) else array
    return np.asarray(array, dtype=float)


def covariances_of(model, K, d):
    """The covariances as matrices (K, d, d)."""
    found, eye = numbers(model.covariances_), np.eye(d)
    name = getattr(model, "covariance_type_", model.covariance_type)
    if name == "lowrank":
        F, psi = found[..., :-1], found[..., -1]
        return F @ F.swapaxes(-1, -2) + psi[..., None] * eye
    if name in ("full", "tied"):
        return np.broadcast_to(found, (K, d, d))
    return (found if name == "diag" else found[:, None])[:, None, :] * eye


def covariances_of_factors(model, K, d):
    """The covariances whose inverses have the model's factors, from which densities come."""
    found, eye = numbers(model.precisions_cholesky_), np.eye(d)
    name = getattr(model, "covariance_type_", model.covariance_type)
    if name in ("full", "tied"):
        inverse = np.linalg.inv(np.broadcast_to(found, (K, d, d)))
    else:
        inverse = eye / (found if name == "diag" else found[:, None])[:, None, :]
    return inverse.swapaxes(-1, -2) @ inverse


def log_density(weights, means, covariances, x, eps=2.2e-16):
    """The log-density of one sample in extended precision, and how far rounding may have it off.

    Rounding of ``eps``: that of float64, or the one that covariances went through.
    """
    found, off = [], 0.0
    for w, m, S in zip(weights, means, covariances, strict=True):
        if w == 0:
            continue
        S, d = S.astype(np.longdouble), len(m)
        L = np.zeros((d, d), dtype=np.longdouble)
        for j in range(d):
            rest = S[j:, j] - L[j:, :j] @ L[j, :j]
            if rest[0] <= 0:
                return None
            L[j:, j] = rest / np.sqrt(rest[0])
        y = np.zeros(d, dtype=np.longdouble)
        for j in range(d):
            y[j] = (x[j] - m[j] - L[j, :j] @ y[:j]) / L[j, j]
        square, pivots = y @ y, np.diag(L)
        found.append(np.log(w) - np.log(pivots).sum() - (square + d * np.log(2 * np.pi)) / 2)
        condition = np.diag(S).max() / pivots.min() ** 2
        shift = np.abs(m).max() / pivots.min()
        off = max(off, eps * (100 * condition * (1 + square) + 10 * shift * (1 + square**0.5)))
    return np.float64(logsumexp(np.array(found, dtype=float))), float(off)


def check_mixture(model, K, d, weights=True):
    """Weights sum to one, and covariances are finite and positive semi-definite."""
    assert_finite(model.weights_, model.means_, model.covariances_)
    w, m = numbers(model.weights_), numbers(model.means_)
    assert w.shape == (K,) and m.shape == (K, d)
    assert (w >= 0).all() and abs(w.sum() - 1) < 1e-5, w
    each = covariances_of(model, K, d)
    for S in each:
        unit = np.sqrt(np.abs(np.diag(S)))
        assert (unit > 0).all(), S
        values = np.linalg.eigvalsh(S / unit / unit[:, None])
        assert values.min() > (-1e-6 if "32" in str(model.means_.dtype) else -1e-13), S
    return w, m, each


def check_answers(model, X, mixture=None):
    """Log-densities, labels, probabilities, criteria and samples of a fitted mixture."""
    log_p = answered(model.score_samples, X)
    if log_p is REFUSED:
        for method in ("predict", "predict_proba", "score", "bic", "aic"):
            assert answered(getattr(model, method), X) is REFUSED, method
        return
    dtype, log_p = log_p.dtype, numbers(log_p)
    assert not np.isnan(log_p).any() and (log_p < np.inf).all(), log_p
    proba, labels = numbers(answered(model.predict_proba, X)), answered(model.predict, X)
    K, labels = proba.shape[1], numbers(labels)
    assert (proba >= 0).all() and np.abs(proba.sum(1) - 1).max() < 1e-5, proba
    noisy = getattr(model, "noise_weight_", None) is not None
    labels = np.where(labels < 0, K - 1, labels) if noisy else labels
    assert set(labels) <= set(range(K))
    chosen = np.take_along_axis(proba, labels.astype(int)[:, None], axis=1)[:, 0]
    assert (chosen >= proba.max(axis=1) - 1e-4).all(), (proba, labels)
    score, bic, aic = (answered(getattr(model, name), X) for name in ("score", "bic", "aic"))
    with np.errstate(over="ignore"):
        assert np.isclose(
            score, (log_p / len(log_p)).sum(), rtol=1e-3 if "32" in str(dtype) else 1e-6
        ), score
    if np.abs(log_p).max() < 1e-2 * np.finfo(float).max / len(log_p):  # else sums overflow
        assert_finite(bic, aic)
    plain = isinstance(X, np.ndarray) and X.dtype == float and not np.ma.is_masked(X)
    if not plain or mixture is None or noisy or not np.isfinite(X).all():
        return
    references = [(mixture, 2.2e-16)]
    if "32" in str(model.means_.dtype) and hasattr(model, "precisions_cholesky_"):
        # covariances and factors were rounded, each for itself, and densities come from the factors
        weights, means, _ = mixture
        factored = weights, means, covariances_of_factors(model, *means.shape)
        references = [(factored, 2.2e-16), (mixture, 1.2e-7)]
    with np.errstate(all="ignore"):
        for i in {0, len(X) - 1}:
            for reference, eps in references:
                x = np.asarray(X)[i].astype(np.longdouble)
                expected = log_density(*reference, x, eps)
                if expected is not None and expected[1] < 1e-3 * (1 + abs(expected[0])):
                    tolerance = expected[1] + 1e-8 * (1 + abs(expected[0]))
                    assert log_p[i] == expected[0] or abs(log_p[i] - expected[0]) < tolerance, (
                        log_p[i],
                        expected,
                    )


def check_samples(model, d):
    """Samples are finite, and so many."""
    X, y = answered(model.sample, 7)
    assert_finite(X, y)
    assert X.shape == (7, d) and y.shape == (7,)
    for n in (0, -1, 1.5, "7", None, True, np.nan):
        assert answered(model.sample, n) is REFUSED


def check_saved(model, X, method):
    """A saved model answers with the same bits; of one on a graph, within rounding."""
    before = answered(getattr(model, method), X)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        if answered(model.save, path) is REFUSED:  # functions are not saved
            return
        after = answered(getattr(answered(skgmmot.load, path), method), X)
    assert (before is REFUSED) == (after is REFUSED)
    if before is not REFUSED:
        on_graph = getattr(before, "requires_grad", False)
        rtol, atol = (1e-9, 1e-12) if on_graph else (0, 0)
        np.testing.assert_allclose(numbers(after), numbers(before), rtol=rtol, atol=atol)


def refused_by(model):
    """A model that was not fitted says so."""
    for method in ("predict", "score_samples", "transform", "impute"):
        if hasattr(model, method):
            assert answered(getattr(model, method), [[0.0, 0.0]]) is REFUSED


# --- what is drawn -------------------------------------------------------------------------------

NUMBERS_OF_SAMPLES = st.one_of(NUMBERS, NUMBERS, NUMBERS, st.sampled_from([60, 1500]))
DIMENSIONS = st.one_of(st.integers(1, 4), st.integers(1, 4), st.sampled_from([9, 70]))


@st.composite
def inputs(draw, n=NUMBERS_OF_SAMPLES, d=DIMENSIONS):
    """Samples of any kind, and weights of them."""
    X = draw(samples(n, d))
    a = draw(mostly(None, "weights"))
    a = None if a is None else draw(sample_weights(len(X)))
    return draw(arrays(st.just(X))), a


def like(model):
    """The features of a fitted model, mostly."""
    return st.one_of(*[st.just(model.n_features_in_)] * 5, DIMENSIONS)


def shape_of(X):
    """Samples and features; (4, 2) of what has none."""
    shape = np.shape(X) if isinstance(X, np.ndarray | torch.Tensor) else ()
    return shape if len(shape) == 2 and all(shape) else (4, 2)


@st.composite
def starts(draw, K, X, name):
    """Weights, means and precisions to start from, of the right shapes or of others."""
    _, d = shape_of(X)
    rng = np.random.default_rng(draw(seeds))
    scale = draw(mostly(1.0, 1e-300, 1e-8, 1e8, 1e150, 1e300, 0.0, np.nan, np.inf))
    K, d = K + draw(mostly(0, 0, 0, 0, 1)), d + draw(mostly(0, 0, 0, 0, 1))
    B = rng.normal(size=(K, d, d))
    full = (B @ B.swapaxes(1, 2) + 0.1 * np.eye(d)) * scale
    diag = full.diagonal(axis1=1, axis2=2)
    shapes = {"full": full, "tied": full[0], "diag": diag, "spherical": diag[:, 0]}
    return {
        "weights_init": rng.dirichlet(np.ones(K) * draw(st.sampled_from([0.01, 1.0, 100.0]))),
        "means_init": rng.normal(size=(K, d)) * scale,
        "precisions_init": shapes[name if name in TYPES else "full"],
    }


def a_start(name):
    """Callable starts, good and bad."""
    return {
        "labels": lambda X, K, rng: rng.randint(K, size=len(X)),
        "one": lambda X, K, rng: np.zeros(len(X), dtype=int),
        "resp": lambda X, K, rng: rng.dirichlet(np.ones(K), size=len(X)),
        "nan": lambda X, K, rng: np.full((len(X), K), np.nan),
        "zeros": lambda X, K, rng: np.zeros((len(X), K)),
        "short": lambda X, K, rng: np.zeros(1, dtype=int),
        "none": lambda X, K, rng: None,
        "text": lambda X, K, rng: ["a"] * len(X),
        "large": lambda X, K, rng: np.full(len(X), 10**6),
    }[name]


CALLABLES = st.builds(
    a_start,
    st.sampled_from(["labels", "one", "resp", "nan", "zeros", "short", "none", "text", "large"]),
)
NAMED_STARTS = st.sampled_from(["kmeans", "k-means++", "random", "random_from_data"])
OF_ALL_FITS = {
    "max_iter": mostly(5, 0, 1, 100),
    "n_init": st.just(2),
    "warm_start": st.just(True),
    "tol": st.sampled_from([0.0, 1e-12, 1.0, float("inf"), 1e300]),
}
REG_COVARS = mostly(0.0, 1e-320, 1e-300, 1e-30, 1e-3, 1.0, 1e30, 1e150, 1e300, float("inf"))
PRIORS = st.one_of(
    st.just("auto"),
    st.builds(
        Prior,
        weight_concentration=mostly(1.0, 1e300, 2.0),
        mean_precision=mostly(0.01, 1e-300, 1e300),
        degrees_of_freedom=mostly(None, 4.0, 100.0, 1e300),
        scale=mostly(None, 1.0, 1e-300, 1e300),
    ),
)
NOISE = st.one_of(
    st.just("uniform"),
    st.builds(UniformNoise, weight=mostly(None, 0.5, 1e-300)),
    st.builds(UniformNoise, log_density=st.sampled_from([-1e300, -700.0, 0.0, 700.0, 1e300])),
)


@st.composite
def gaussian_options(draw, X, n_classes=3):
    """Parameters of a `DifferentiableGaussianMixture` for some samples."""
    K = draw(mostly(2, 1, 3, 5, 30))
    name = draw(mostly("full", "tied", "diag", "spherical", "lowrank"))
    given = draw(starts(K, X, name))
    mask = np.arange(K) == 0
    options = OF_ALL_FITS | {
        "reg_covar": REG_COVARS,
        "init_params": st.one_of(NAMED_STARTS, st.just("sinkhorn"), CALLABLES),
        "weights_init": st.just(given["weights_init"]),
        "means_init": st.just(given["means_init"]),
        "precisions_init": st.just(given["precisions_init"]),
        "e_step": st.just("sinkhorn"),
        "acceleration": st.sampled_from(["squarem", "newton"]),
        "gradient": st.sampled_from(["automatic", "one_step", "natural"]),
        "gradient_tol": st.sampled_from([1e-300, 1e-12, 1.0]),
        "fixed_weights": st.sampled_from([True, mask]),
        "fixed_means": st.sampled_from([True, mask]),
        "fixed_covariances": st.sampled_from([True, mask]),
        "prior": PRIORS,
        "labels": st.just("y"),
        "noise": NOISE,
        "missing_values": st.just("nan"),
        "rank": st.sampled_from([1, 2, 5]),
    }
    found = drawn(draw, options, most=4)
    for name_of, start in (("means", "means_init"), ("covariances", "precisions_init")):
        if f"fixed_{name_of}" in found:
            found[start] = given[start]
    return {"n_components": K, "covariance_type": name, "random_state": 0} | found


# --- the estimators ------------------------------------------------------------------------------


def check_fitted(model, X, other):
    """Everything that a fitted mixture answers."""
    K, d = np.shape(model.means_)
    mixture = check_mixture(model, K, d)
    check_answers(model, X, mixture)
    check_answers(model, other, mixture)
    check_samples(model, d)
    if d > 1:
        for part in (answered(model.condition, 0.5, 0), answered(model.marginal, [1, 0])):
            if part is not REFUSED:
                check_mixture(part, *np.shape(part.means_))


@given(st.data())
def test_gaussian_mixtures(data):
    X, a = data.draw(inputs())
    options = data.draw(gaussian_options(X))
    y = data.draw(classes(shape_of(X)[0])) if options.get("labels") == "y" else None
    model = answered(DifferentiableGaussianMixture, **options)
    if answered(model.fit, X, y, sample_weight=a) is REFUSED:
        refused_by(model)
        return
    other, _ = data.draw(inputs(d=like(model)))
    check_fitted(model, X, other)
    if model.warm_start and answered(model.fit, X, y, sample_weight=a) is not REFUSED:
        check_mixture(model, *np.shape(model.means_))
    if data.draw(st.booleans()):
        assert_finite(answered(model.standard_errors, X, a))
        gap = answered(model.entropic_ot_gap, X, a)
        assert gap is REFUSED or gap >= 0
        check_saved(model, X, "predict_proba")
    if model.missing_values == "nan":
        assert_finite(answered(model.impute, other), answered(model.impute, X, draw=True))
    if y is not None:
        proba = answered(model.predict_class_proba, X)
        assert_finite(proba)
        answered(model.predict_class, X)


@given(st.data())
def test_gaussian_mixtures_by_blocks(data):
    X, a = data.draw(inputs())
    options = data.draw(gaussian_options(X))
    if "e_step" in options:  # a pass over blocks costs more than its arithmetic
        options["max_iter"] = 3
    model = DifferentiableGaussianMixture(**options)
    if data.draw(st.booleans()):
        parts = np.array_split(X, 3) if isinstance(X, np.ndarray) and X.ndim else [X]
        whole = functools.partial(iter, parts)
        if answered(model.fit, whole, sample_weight=a) is REFUSED:
            return
    else:
        blocks = getattr(model, "partial_fit", None)  # None: says why as scikit-learn does
        if blocks is None or answered(blocks, X, sample_weight=a) is REFUSED:
            return
    check_mixture(model, *np.shape(model.means_))
    other, b = data.draw(inputs(d=like(model)))
    if not hasattr(model, "partial_fit"):
        return
    if answered(model.partial_fit, other, sample_weight=b) is not REFUSED:
        check_fitted(model, X, other)


@given(st.data())
def test_derivatives_of_fits(data):
    X = torch.tensor(data.draw(samples(st.integers(1, 30))), requires_grad=True)
    a = data.draw(st.one_of(st.none(), sample_weights(len(X), bad=False)))
    if (
        isinstance(a, np.ndarray) and a.dtype == float and a.max() > 1e-300
    ):  # else derivatives are not finite
        a = torch.tensor(a, requires_grad=True)
    model = DifferentiableGaussianMixture(**data.draw(gaussian_options(X)))
    if answered(model.fit, X, sample_weight=a) is REFUSED:
        return
    loss = model.means_.sum() + model.covariances_.sum() + model.weights_[0]
    if loss.requires_grad and answered(loss.backward) is not REFUSED:
        assert_finite(X.grad, getattr(a, "grad", None) if isinstance(a, torch.Tensor) else None)


@given(st.data())
def test_student_mixtures(data):
    X, a = data.draw(inputs())
    K, name = data.draw(mostly(2, 1, 3, 5)), data.draw(mostly("full", *TYPES[1:]))
    given = data.draw(starts(K, X, name))
    options = OF_ALL_FITS | {
        "reg_covar": REG_COVARS,
        "init_params": st.one_of(NAMED_STARTS, CALLABLES),
        **{key: st.just(value) for key, value in given.items()},
        "acceleration": st.just("squarem"),
        "degrees_of_freedom": st.sampled_from(
            [1.0, 1e-300, 0.1, 1e300, float("inf"), 0.0, -1.0, [1.0, 2.0], [3.0], float("nan")]
        ),
    }
    options = drawn(data.draw, options)
    model = StudentMixture(K, covariance_type=name, random_state=0, **options)
    if answered(model.fit, X, sample_weight=a) is REFUSED:
        refused_by(model)
        return
    other, _ = data.draw(inputs(d=like(model)))
    check_mixture(model, K, np.shape(model.means_)[1])
    assert (numbers(model.degrees_of_freedom_) > 0).all()
    check_answers(model, X)
    check_answers(model, other)
    X_drawn = answered(model.sample, 7)
    assert not np.isnan(numbers(X_drawn[0])).any()
    moments = answered(model.moments)
    if moments is not REFUSED:
        check_mixture(moments, *np.shape(moments.means_))
    check_saved(model, X, "predict_proba")


@given(st.data())
def test_semidiscrete_fits(data):
    X, a = data.draw(inputs(st.one_of(NUMBERS, st.just(60)), st.integers(1, 3)))
    K, name = data.draw(mostly(2, 1, 3, 5)), data.draw(mostly("full", *TYPES[1:]))
    options = {
        "reg_covar": REG_COVARS,
        "init_params": st.one_of(NAMED_STARTS, CALLABLES),
        "tol": st.sampled_from([0.0, 1e-12, 1.0]),
        "integration": st.sampled_from(["exact", "nodes"]),
        "warm_start": st.just(True),
    }
    options = {"max_iter": 3, "n_nodes": 32} | drawn(data.draw, options)
    model = SemidiscreteGMM(K, covariance_type=name, random_state=0, **options)
    if answered(model.fit, X, sample_weight=a) is REFUSED:
        refused_by(model)
        return
    other, b = data.draw(inputs(d=like(model)))
    assert_finite(model.distance_, model.distances_)
    check_fitted(model, X, other)
    if model.warm_start and answered(model.fit, other, sample_weight=b) is not REFUSED:
        check_mixture(model, *np.shape(model.means_))


@given(st.data())
def test_sliced_fits(data):
    X, a = data.draw(inputs(st.one_of(NUMBERS, st.just(60)), st.sampled_from([1, 2, 3, 9])))
    K, name = data.draw(mostly(2, 1, 3, 5)), data.draw(mostly("full", *TYPES[1:]))
    given = data.draw(starts(K, X, name))
    options = {
        "n_projections": st.sampled_from([1, 3, 40]),
        "projections": st.sampled_from(["random", "orthogonal", "max"]),
        "p": st.sampled_from([1.0, 1.5, 3.0, 50.0, 1e300, float("inf")]),
        "tol": st.sampled_from([0.0, 1.0, float("inf")]),
        "reg_covar": REG_COVARS,
        "n_init": st.just(1),
        "init_params": st.one_of(NAMED_STARTS, st.just("sinkhorn"), CALLABLES),
        **{key: st.just(value) for key, value in given.items()},
        "optimizer": st.sampled_from(["adam", torch.optim.SGD]),
        "learning_rate": st.sampled_from([1e-300, 1.0, 1e8, 1e300, float("inf")]),
        "batch_size": st.sampled_from([1, 5, 1000]),
        "refine": st.just("em"),
        "warm_start": st.just(True),
    }
    options = {"max_iter": data.draw(mostly(20, 0, 1))} | drawn(data.draw, options, most=4)
    model = SlicedWassersteinGMM(K, covariance_type=name, random_state=0, **options)
    fits = data.draw(mostly("fit", "partial_fit"))
    if answered(getattr(model, fits), X, sample_weight=a) is REFUSED:
        refused_by(model)
        return
    other, b = data.draw(inputs(d=like(model)))
    assert_finite(model.sliced_wasserstein_)
    assert not np.isnan(model.sliced_wassersteins_).any()  # steps may leave the range
    check_fitted(model, X, other)
    again = model.warm_start or fits == "partial_fit"
    if again and answered(getattr(model, fits), other, sample_weight=b) is not REFUSED:
        check_mixture(model, *np.shape(model.means_))
    check_saved(model, X, "predict_proba")


@given(st.data())
def test_searches(data):
    X, a = data.draw(inputs(st.one_of(NUMBERS, st.just(60)), st.integers(1, 3)))
    template = data.draw(gaussian_options(X))
    for name in ("n_components", "covariance_type", "random_state"):
        del template[name]
    options = {
        "criterion": st.sampled_from(["aic", "icl", "held_out"]),
        "mixture": st.just(DifferentiableGaussianMixture(**template)),
        "cv": st.sampled_from([2, 3, 100, 1, 0]),
        "patience": st.sampled_from([1, 3]),
    }
    numbers_of = data.draw(mostly((1, 2), 2, (3,), (1, 40), (), (2, 1), range(1, 3)))
    types = data.draw(mostly("full", ("full", "diag"), TYPES, "lowrank", ()))
    model = answered(
        GaussianMixtureSearch, numbers_of, types, random_state=0, **drawn(data.draw, options)
    )
    if answered(model.fit, X, sample_weight=a) is REFUSED:
        refused_by(model)
        return
    other, _ = data.draw(inputs(d=like(model)))
    check_fitted(model, X, other)
    assert not np.isnan(model.best_score_)
    check_saved(model, X, "predict_proba")


@given(st.data())
def test_regressors(data):
    X, a = data.draw(inputs(st.one_of(NUMBERS, st.just(60)), st.integers(1, 3)))
    n = shape_of(X)[0]
    Y = data.draw(arrays(samples(st.just(n), st.integers(1, 2))))
    if isinstance(Y, np.ndarray) and Y.ndim == 2 and Y.size and data.draw(st.booleans()):
        Y = Y[:, 0]
    template = data.draw(gaussian_options(X))
    for name in ("weights_init", "means_init", "precisions_init"):
        template.pop(name, None)
    options = {
        "mixture": st.just(DifferentiableGaussianMixture(**template)),
        "n_components": st.sampled_from([1, 2, 5]),
    }
    model = MixtureRegressor(random_state=0, **drawn(data.draw, options))
    if answered(model.fit, X, Y, sample_weight=a) is REFUSED:
        refused_by(model)
        return
    other, _ = data.draw(inputs(d=like(model)))
    for x in (X, other):
        mean = answered(model.predict, x)
        assert_finite(mean, answered(model.predict, x, return_std=True))
        assert_finite(answered(model.sample_y, x, 2, random_state=0))
    found = answered(model.log_density, X, Y)
    assert found is REFUSED or not np.isnan(numbers(found)).any()
    score = answered(model.score, X, Y, sample_weight=a)
    assert score is REFUSED or score <= 1 + 1e-9
    check_saved(model, X, "predict")


@given(st.data())
def test_imputers(data):
    X, a = data.draw(inputs(st.one_of(NUMBERS, st.just(60)), st.integers(1, 4)))
    options = {
        "mixture": st.just(DifferentiableGaussianMixture(**data.draw(gaussian_options(X)))),
        "n_components": st.sampled_from([1, 2, 5]),
        "draw": st.just(True),
        "add_indicator": st.just(True),
    }
    model = MixtureImputer(random_state=0, **drawn(data.draw, options))
    if answered(model.fit, X, sample_weight=a) is REFUSED:
        refused_by(model)
        return
    other, _ = data.draw(inputs(d=like(model)))
    for x in (X, other):
        found = answered(model.transform, x)
        assert_finite(found)
        if found is not REFUSED and isinstance(x, np.ndarray) and x.dtype == float:
            kept = np.isfinite(x) if not np.ma.is_masked(x) else ~x.mask
            np.testing.assert_array_equal(numbers(found)[:, : x.shape[1]][kept], x[kept])
    check_saved(model, X, "transform")


@given(st.data())
def test_quantisers(data):
    X, a = data.draw(inputs(st.one_of(NUMBERS, st.just(60)), st.integers(1, 3)))
    _, d = shape_of(X)
    K = data.draw(mostly(2, 1, 3, 8))
    start = np.random.default_rng(0).normal(size=(K, d))
    options = {
        "masses": st.just("free"),
        "init": st.sampled_from(["k-means++", start, 1e300 * start, start[0], start * np.nan]),
        "max_iter": st.sampled_from([1, 3]),
        "tol": st.sampled_from([0.0, 1.0, float("inf")]),
    }
    model = WassersteinQuantizer(K, random_state=0, **drawn(data.draw, options))
    if answered(model.fit, X, sample_weight=a) is REFUSED:
        refused_by(model)
        return
    assert_finite(model.cluster_centers_, model.masses_, model.potentials_, model.distance_)
    assert abs(numbers(model.masses_).sum() - 1) < 1e-5 and model.distance_ >= 0
    other, _ = data.draw(inputs(d=like(model)))
    for x in (X, other):
        labels = answered(model.predict, x)
        assert labels is REFUSED or set(numbers(labels)) <= set(range(K))
        assert_finite(answered(model.transform, x))
    check_saved(model, X, "predict")


@given(st.data())
def test_adapted_classifiers(data):
    X, a = data.draw(inputs(st.one_of(NUMBERS, st.just(60)), st.integers(1, 3)))
    n, d = shape_of(X)
    y = data.draw(classes(n))
    target, _ = data.draw(inputs(d=st.one_of(*[st.just(d)] * 5, DIMENSIONS)))
    options = {
        "strategy": st.just("random"),
        "class_wise": st.just(True),
        "reg": st.sampled_from([1e-300, 1.0, 1e300]),
        "reg_m": st.sampled_from([1e-300, 1.0, (float("inf"), 1.0)]),
        "shrinkage": st.sampled_from([None, 0.0, 0.5, 1.0]),
    }
    options = drawn(data.draw, options)
    ot_map = OTMap(target, n_components=data.draw(mostly(2, 1, 5)), random_state=0, **options)
    classifier = data.draw(mostly(Nearest(), DummyClassifier(), SVC(max_iter=10), Nearest, None))
    model = AdaptedClassifier(ot_map, classifier)
    if answered(model.fit, X, y, sample_weight=a) is REFUSED:
        refused_by(model)
        return
    other, _ = data.draw(inputs(d=like(model)))
    for x in (X, target, other):
        labels = answered(model.predict, x)
        assert labels is REFUSED or set(labels) <= set(model.classes_)
        assert_finite(answered(getattr(model, "predict_proba", lambda x: None), x))
    answered(model.score, X, y)


@given(st.data())
def test_embeddings(data):
    first, _ = data.draw(inputs())
    d = st.one_of(*[st.just(shape_of(first)[1])] * 20, DIMENSIONS)
    clouds = [first] + [data.draw(inputs(d=d))[0] for _ in range(data.draw(st.integers(0, 3)))]
    options = {
        "mixture": st.just(DifferentiableGaussianMixture(**data.draw(gaussian_options(first)))),
        "n_components": st.sampled_from([1, 2]),
    }
    model = MixtureEmbedding(random_state=0, **drawn(data.draw, options))
    if answered(model.fit, clouds) is REFUSED:
        return
    fitted = answered(model.transform, clouds)
    if fitted is REFUSED:
        return
    for mixture in fitted:
        check_mixture(mixture, *np.shape(mixture.means_))
    distances = answered(PairwiseMW2().fit_transform, fitted)
    assert_finite(distances)
    if distances is not REFUSED:
        D = numbers(distances)
        assert (D >= 0).all() and (D == D.T).all() and (np.diag(D) == 0).all()


class Nearest(ClassifierMixin, BaseEstimator):
    """The label of the nearest sample."""

    def fit(self, X, y, sample_weight=None):
        self.X_, self.y_, self.classes_ = X, y, np.unique(y)
        return self

    def predict(self, X):
        with np.errstate(all="ignore"):
            return self.y_[np.abs(X[:, None] - self.X_).max(-1).argmin(1)]


# --- parameters that are no such thing -----------------------------------------------------------

PLAIN = np.random.default_rng(0).normal(size=(20, 2))
MAKERS = {
    "gaussian": DifferentiableGaussianMixture,
    "student": StudentMixture,
    "sliced": SlicedWassersteinGMM,
    "semidiscrete": SemidiscreteGMM,
    "search": GaussianMixtureSearch,
    "regressor": MixtureRegressor,
    "imputer": MixtureImputer,
    "quantizer": WassersteinQuantizer,
}
QUICK = {
    "sliced": {"max_iter": 2, "n_components": 2},
    "semidiscrete": {"max_iter": 2, "n_nodes": 16, "n_components": 2},
    "search": {"n_components": (1, 2), "covariance_types": "diag"},
    "quantizer": {"max_iter": 2},
    "gaussian": {"n_components": 2},
    "student": {"n_components": 2},
}


@pytest.mark.parametrize("name", MAKERS)
@given(st.data())
def test_odd_parameters(name, data):
    make = MAKERS[name]
    parameter = data.draw(st.sampled_from(sorted(make().get_params(deep=False))))
    value = data.draw(st.sampled_from(ODD))
    if parameter in ("verbose", "checkpoint", "n_jobs"):
        return
    if value is int and parameter in ("init_params", "optimizer"):  # its errors are the caller's
        return
    model = answered(make, **QUICK.get(name, {}) | {parameter: value})
    if model is REFUSED:
        return
    y = (PLAIN[:, 0],) if name == "regressor" else ()
    if answered(model.fit, PLAIN, *y) is REFUSED:
        refused_by(model)
    elif hasattr(model, "means_"):
        check_mixture(model, *np.shape(model.means_))
