"""Answers to float32 are those to the same numbers in float64, within the rounding of an answer.

Samples may be up to 1e4 spreads from the origin (where float32 itself rounds them to 1e-3 of a
spread), clouds may be thin and have many features. Where float64 refuses, float32 may, too.
"""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from promises.problems import SEEDS, TYPES, generator, normal, random_mixture

import skgmmot
from skgmmot import metrics

EPS = float(np.finfo(np.float32).eps)
OFFSETS = st.sampled_from([0.0, 1.0, 1e2, 1e3, 1e4])
#: Standard deviation of the thinnest direction, where the widest has one.
THIN = st.sampled_from([1.0, 0.1, 0.01])
FEATURES = st.sampled_from([1, 2, 3, 10, 40])
ELEMENTARY = st.sampled_from(["full", "tied", "diag", "spherical"])


def samples(seed, offset, thin, d, n=120):
    """Two clouds whose features have standard deviations from one to ``thin``, in float32."""
    of = generator(seed)
    widths = np.geomspace(1.0, thin, d)
    X = normal(n, d, of=of).numpy() + 3 * (np.arange(n) % 2)[:, None]
    away = normal(d, of=of).numpy()
    return np.float32(widths * X + offset * away / np.linalg.norm(away)), of


def both(compute, *data):
    """The answers in float32 and in float64 to the same numbers; None where both refuse."""
    found = []
    for dtype in (np.float32, np.float64):
        given = [np.asarray(x, dtype) for x in data]
        with warnings.catch_warnings(action="ignore"):
            try:
                found.append(compute(*given))
            except (ValueError, RuntimeError) as error:
                found.append(error)
    refused = [isinstance(f, Exception) for f in found]
    assert refused != [True, False], found[0]
    return None if any(refused) else found


def assert_close(found, expected, bound):
    """Numbers differ by no more than a bound (per number)."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert np.isfinite(found).all()
    error = (np.abs(found - expected) / bound).max()
    assert error <= 1, error


def spread_of(X):
    """Standard deviations of the features."""
    return X.astype(np.float64).std(0)


#: Errors of fits after ten iterations, in units of the spread, beside the rounding of the answer.
FITTED = 1e-3
EM = skgmmot.DifferentiableGaussianMixture
FITS = {
    "EM": lambda **o: EM(2, tol=0.0, max_iter=10, **o),
    "kept start": lambda **o: EM(2, max_iter=0, init_params="k-means++", **o),
    "squarem": lambda **o: EM(2, tol=0.0, max_iter=10, acceleration="squarem", **o),
    "sinkhorn": lambda **o: EM(2, tol=0.0, max_iter=3, e_step="sinkhorn", **o),
    "prior": lambda **o: EM(2, tol=0.0, max_iter=10, prior="auto", **o),
    "noise": lambda **o: EM(2, tol=0.0, max_iter=10, noise="uniform", **o),
    "Student": lambda **o: skgmmot.StudentMixture(2, tol=0.0, max_iter=10, **o),
    "sliced": lambda **o: skgmmot.SlicedWassersteinGMM(
        2, n_init=1, n_projections=20, max_iter=10, **o
    ),
    "semi-discrete": lambda **o: skgmmot.SemidiscreteGMM(2, n_nodes=32, max_iter=2, **o),
    "search": lambda reg_covar, covariance_type, **o: skgmmot.GaussianMixtureSearch(
        2, covariance_type, mixture=EM(reg_covar=reg_covar), **o
    ),
}


@pytest.mark.parametrize("name", FITS)
@given(SEEDS, OFFSETS, THIN, FEATURES, ELEMENTARY)
def test_fits(name, seed, offset, thin, d, of_type):
    X, _ = samples(seed, offset, thin, d)
    options = {"covariance_type": of_type, "reg_covar": 1e-6 * thin**2, "random_state": 0}
    found = both(lambda X: FITS[name](**options).fit(X), X)
    if found is not None:
        assert_same_fit(*found, X)


def assert_same_fit(single, double, X):
    """Parameters, densities and responsibilities agree."""
    assert single.means_.dtype == np.float32
    spread, d = spread_of(X), X.shape[1]
    assert_close(single.weights_, double.weights_, FITTED)
    assert_close(single.means_, double.means_, FITTED * spread + 2 * EPS * np.abs(double.means_))
    S, T = (m._params().full_covariances().double().numpy() for m in (single, double))
    # (one sample a component gives tied covariances wider than all samples)
    wide = np.maximum(spread, np.sqrt(T.diagonal(axis1=1, axis2=2)).max(0))
    assert_close(S, T, FITTED * np.outer(wide, wide))
    # means are rounded, in standard deviations of the thinnest component
    rounding = 4 * EPS * float(np.abs(X).max()) / np.sqrt(np.linalg.eigvalsh(T).min())
    scores = single.score_samples(X), double.score_samples(X.astype(np.float64))
    bound = (FITTED + rounding) * (d + np.abs(scores[1] - scores[1].max()))
    assert_close(*scores, bound)
    proba = double.predict_proba(X.astype(np.float64))
    assert_close(single.predict_proba(X), proba, bound[:, None])


@given(SEEDS, OFFSETS, THIN, st.sampled_from([2, 3, 10]))
def test_regression_and_imputation(seed, offset, thin, d):
    X, of = samples(seed, offset, thin, d)
    spread = spread_of(X)
    mixture = EM(2, tol=0.0, max_iter=5, reg_covar=1e-6 * thin**2, random_state=0)

    def predict(X):
        return skgmmot.MixtureRegressor(mixture).fit(X[:, :-1], X[:, -1]).predict(X[:, :-1])

    # what is predicted follows features whose means are rounded, of which the last is thinnest
    rounding = 4 * EPS * float(np.abs(X).max()) * d * spread[-1] / (0.5 * spread[-2])
    single, double = both(predict, X)
    assert_close(single, double, FITTED * spread[-1] + rounding + 2 * EPS * np.abs(double))
    holes = np.where(normal(*X.shape, of=of).numpy() > 1.5, np.nan, X)
    holes[:, 0] = X[:, 0]
    found = both(lambda X: skgmmot.MixtureImputer(mixture).fit_transform(X), holes)
    rounding = 4 * EPS * np.abs(X).max() * d * spread / (0.5 * spread[-1])
    assert_close(*found, FITTED * spread + rounding + 2 * EPS * np.abs(found[1]))


@pytest.mark.parametrize("masses", ["uniform", "free"])
@given(SEEDS, OFFSETS, THIN, FEATURES)
def test_quantisers(masses, seed, offset, thin, d):
    X, _ = samples(seed, offset, thin, d)

    def fit(X):
        return skgmmot.WassersteinQuantizer(4, masses=masses, init=X[:4], max_iter=5).fit(X)

    single, double = both(fit, X)
    centres = double.cluster_centers_
    bound = FITTED * spread_of(X).max() + 2 * EPS * np.abs(centres)
    assert_close(single.cluster_centers_, centres, bound)
    size = float(np.linalg.norm(spread_of(X)))
    assert_close(single.distance_, double.distance_, FITTED * size + EPS * np.abs(X).max())


# --- mixtures in float32 -------------------------------------------------------------------------


def mixture_arrays(mu, offset):
    """A mixture in float32: weights of sum one to its rounding."""
    weights, means, covariances = (t.numpy().astype(np.float32) for t in mu)
    return weights, means + np.float32(offset), covariances


#: Distances of given mixtures are computed in float64: to its rounding, and that of weights.
DISTANCES = {
    "exact": lambda mu, nu: metrics.mixture_wasserstein_distance(mu, nu, squared=True),
    "entropic": lambda mu, nu: metrics.mixture_wasserstein_distance(mu, nu, reg=0.5, squared=True),
    "penalised": lambda mu, nu: metrics.mixture_wasserstein_distance(
        mu, nu, reg_m=3.0, squared=True
    ),
    "sliced": lambda mu, nu: metrics.sliced_wasserstein_distance(mu, nu, n_projections=10),
    "MSW": lambda mu, nu: metrics.sliced_mixture_wasserstein(mu, nu, n_projections=10),
    "objective of barycentres": lambda mu, nu: skgmmot.MixtureBarycenter().fit([mu, nu]).objective_,
    "map": lambda mu, nu: skgmmot.ot_map(mu, nu).distance_,
}


@pytest.mark.parametrize("name", DISTANCES)
@given(SEEDS, OFFSETS, st.integers(1, 4), st.sampled_from(TYPES), st.sampled_from(TYPES))
def test_distances(name, seed, offset, d, source, target):
    of = generator(seed)
    pair = random_mixture(source, 3, d, of), random_mixture(target, 4, d, of)
    arrays = [a for mu in pair for a in mixture_arrays(mu, offset)]
    names = [mu.covariance_type.name for mu in pair]

    def distance(*arrays):
        return DISTANCES[name]((*arrays[:3], names[0]), (*arrays[3:], names[1]))

    single, double = both(distance, *arrays)
    assert_close(single, double, 1e-5 * (1 + abs(double)))


@given(SEEDS, OFFSETS, THIN, FEATURES)
def test_distances_between_samples(seed, offset, thin, d):
    X, _ = samples(seed, offset, thin, d)
    Y = X[: len(X) // 3]
    for distance in (metrics.frechet_distance, metrics.sliced_wasserstein_distance):
        assert_close(*both(distance, X, Y), EPS * float(np.linalg.norm(spread_of(X))))


@given(SEEDS, OFFSETS, st.integers(1, 4), ELEMENTARY)
def test_maps(seed, offset, d, of_type):
    of = generator(seed)
    pair = [random_mixture(of_type, 3, d, of) for _ in range(2)]
    arrays = [a for mu in pair for a in mixture_arrays(mu, offset)]
    X = np.float32(normal(20, d, of=of).numpy() + offset)

    def images(X, *arrays):
        return skgmmot.ot_map((*arrays[:3], of_type), (*arrays[3:], of_type)).transform(X)

    single, double = both(images, X, *arrays)
    size = np.abs(double - double.mean(0)).max()
    assert_close(single, double, 1e-4 * (1 + size) + 2 * EPS * np.abs(double))
