"""Similarities of the space, and other orders of samples, features and components.

Where samples and mixtures are moved by ``x -> c Q x + t``, with ``Q`` a rotation or reflection (of
diagonal covariances, one that permutes axes), answers are moved with them: distances by ``c``,
points by the map, covariances by ``c^2 Q S Q^T``, densities by ``c^-d``. What has a unit is part of
the data: ``reg_covar``, ``reg``, ``reg_m`` are scaled by ``c^2``. Scales are 1e-8 to 1e8, offsets
up to 1e4 times the spread, at which the data themselves are rounded to 1e-12 of it.
"""

import math
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from promises.problems import (
    ELEMENTARY,
    SEEDS,
    TYPES,
    Similarity,
    assert_near,
    free_to_turn,
    generator,
    normal,
    random_mixture,
    random_samples,
    shuffled,
)

import skgmmot
import skgmmot.functional as F
from skgmmot import metrics
from skgmmot.gaussian.mixture import select

#: Closed forms of given mixtures: rounding of data at an offset of 1e4, times their conditioning.
CLOSED = 1e-10
#: What is solved to a relative tolerance of 1e-8 or better: plans with entropy, cells, barycentres.
SOLVED = 1e-9
#: Ends of iterations that stop by a tolerance, which carry rounding along: fits.
FITTED = 1e-8
#: Fits by exact transport, after a few steps far from their end: rounding grows on the way.
FITTED_BY_TRANSPORT = 1e-6
#: Gradients of the ends of fits, with a `gradient_tol` of 1e-9, of the largest entry.
GRADIENT = 1e-7
SCALES = st.sampled_from([1e-8, 0.1, 1.0, 3.0, 1e8])
OFFSETS = st.sampled_from([0.0, 1.0, 1e2, 1e4])
#: For what takes a tenth of a second or more.
rarely = settings(max_examples=max(2, settings().max_examples // 5))


def moved(seed, scale, offset, d, *names):
    """A similarity for mixtures of these types, and a source of random numbers."""
    of = generator(seed)
    return Similarity.random(d, of, scale=scale, offset=offset, axes=not free_to_turn(*names)), of


# --- distances -----------------------------------------------------------------------------------


def mw2(mu, nu, unit, **options):
    """MW2 squared; penalties have the unit of squares."""
    options = {name: value * unit**2 for name, value in options.items()}
    return metrics.MixtureWasserstein(squared=True, debiased="reg" in options, **options)(mu, nu)


DISTANCES = {
    "exact": (lambda mu, nu, unit: mw2(mu, nu, unit), CLOSED),
    "entropic": (lambda mu, nu, unit: mw2(mu, nu, unit, reg=0.5), SOLVED),
    "unbalanced": (lambda mu, nu, unit: mw2(mu, nu, unit, reg_m=3.0), SOLVED),
    "entropic and unbalanced": (lambda mu, nu, unit: mw2(mu, nu, unit, reg=0.5, reg_m=3.0), SOLVED),
}


@pytest.mark.parametrize("name", DISTANCES)
@given(SEEDS, SCALES, OFFSETS, st.integers(1, 5), st.sampled_from(TYPES), st.sampled_from(TYPES))
def test_mw2(name, seed, scale, offset, d, source, target):
    distance, tol = DISTANCES[name]
    by, of = moved(seed, scale, offset, d, source, target)
    mu, nu = random_mixture(source, 3, d, of), random_mixture(target, 4, d, of)
    expected = distance(mu, nu, 1.0)
    found = distance(shuffled(by.mixture(mu), of), shuffled(by.mixture(nu), of), scale)
    assert_near(found / scale**2, expected, tol, 1 + expected)


def rotated_lines(mu, d, seed=0):
    """Directions to slice along."""
    return F.directions("quasi", 12, d, generator=generator(seed)).to(mu.means)


#: Distances along given directions, which are turned with the rest.
SLICED = {
    "mixtures": lambda mu, nu, X, theta: F.sliced_wasserstein_between(mu, nu, theta),
    "mixtures, p=1": lambda mu, nu, X, theta: F.sliced_wasserstein_between(mu, nu, theta, p=1.0),
    "samples": lambda mu, nu, X, theta: F.sliced_wasserstein(mu, X, theta),
    "samples, exactly": lambda mu, nu, X, theta: F.sliced_wasserstein(mu, X, theta, exact=True),
    "two samples": lambda mu, nu, X, theta: F.sliced_wasserstein_of_samples(X[::2], X[1::2], theta),
}


@pytest.mark.parametrize("name", SLICED)
@given(SEEDS, SCALES, st.integers(1, 4), st.sampled_from(TYPES))
def test_sliced_distances_along_given_lines(name, seed, scale, d, of_type):
    by, of = moved(seed, scale, 1.0, d, of_type)
    mu, nu, X = *(random_mixture(of_type, 3, d, of) for _ in range(2)), normal(20, d, of=of)
    theta, power = rotated_lines(mu, d), 1 if "p=1" in name else 2
    expected = SLICED[name](mu, nu, X, theta)
    images = shuffled(by.mixture(mu), of), shuffled(by.mixture(nu), of), by.points(X)
    found = SLICED[name](*images, theta @ by.turn.mT)
    assert_near(found / scale**power, expected, CLOSED, 1 + float(expected.max()))


OF_TWO_MIXTURES = {
    "sliced": metrics.sliced_wasserstein_distance,
    "sliced, p=3": lambda mu, nu: metrics.sliced_wasserstein_distance(mu, nu, p=3),
    "MSW": metrics.sliced_mixture_wasserstein,
    "DSMW": lambda mu, nu: metrics.sliced_mixture_wasserstein(mu, nu, slicing="dsmw"),
}


@pytest.mark.parametrize("name", OF_TWO_MIXTURES)
@given(SEEDS, SCALES, OFFSETS, st.integers(1, 4), st.sampled_from(TYPES))
def test_sliced_distances_along_the_same_lines(name, seed, scale, offset, d, of_type):
    of = generator(seed)
    by = Similarity.random(d, of, scale=scale, offset=offset)._replace(turn=torch.eye(d).double())
    mu, nu = (random_mixture(of_type, 3, d, of) for _ in range(2))
    expected = OF_TWO_MIXTURES[name](mu, nu)
    found = OF_TWO_MIXTURES[name](shuffled(by.mixture(mu), of), shuffled(by.mixture(nu), of))
    assert_near(found / scale, expected, CLOSED, 1 + float(expected))


@given(SEEDS, SCALES, OFFSETS, st.integers(1, 5), st.sampled_from([0, 1]))
def test_bures_and_frechet(seed, scale, offset, d, ddof):
    by, of = moved(seed, scale, offset, d)
    mu, X = random_mixture("full", 2, d, of), random_samples(30, 2, d, of)
    for source, target in ((mu, by.mixture(mu)),):
        pairs = [[(m.means[k], m.covariances[k]) for k in (0, 1)] for m in (source, target)]
        expected, found = (metrics.bures_wasserstein_distance(*pair) for pair in pairs)
        assert_near(found / scale, expected, CLOSED, 1 + float(expected))
    expected = metrics.frechet_distance(X[:10], X[10:], ddof=ddof)
    order = torch.randperm(10, generator=of)
    found = metrics.frechet_distance(by.points(X[:10])[order], by.points(X[10:]), ddof=ddof)
    assert_near(found / scale, expected, CLOSED, 1 + float(expected))


@rarely
@given(SEEDS, SCALES, OFFSETS, st.sampled_from(ELEMENTARY), st.integers(2, 3))
def test_semidiscrete_distance(seed, scale, offset, of_type, d):
    by, of = moved(seed, scale, offset, d, of_type)
    mu, X = random_mixture(of_type, 3, d, of), 2 * normal(7, d, of=of)
    masses, order = normal(7, of=of).exp(), torch.randperm(7, generator=of)
    plan = metrics.semidiscrete_plan(mu, X, masses, integration="exact")
    images = shuffled(by.mixture(mu), of), by.points(X)[order], masses[order]
    found = metrics.semidiscrete_plan(*images, integration="exact")
    assert_near(found.cost / scale**2, plan.cost, SOLVED, 1 + float(plan.cost))
    assert_near(by.back(found.barycentres), plan.barycentres[order], SOLVED, 10)


@given(SEEDS, st.sampled_from([1e-4, 1.0, 1e4]), OFFSETS, st.floats(0, 2 * math.pi))
def test_semidiscrete_distance_of_an_image(seed, scale, offset, angle):
    """A grid has axes: it is moved, scaled, and turned by transposing."""
    of = generator(seed)
    values, X = normal(4, 4, of=of).exp(), torch.rand(6, 2, dtype=torch.float64, generator=of)
    shift = scale * offset * torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)
    extent = [float(shift[0]), float(shift[0] + scale), float(shift[1]), float(shift[1] + scale)]
    expected = skgmmot.semidiscrete_distance(skgmmot.GridDensity(values, origin="lower"), X)
    image = skgmmot.GridDensity(values.T, extent, origin="lower")
    found = skgmmot.semidiscrete_distance(image, scale * X.flip(1) + shift)
    assert_near(found / scale, expected, SOLVED)


@given(SEEDS, st.sampled_from([1e-4, 1.0, 1e4]), OFFSETS, st.integers(1, 3))
def test_stability_bounds(seed, scale, offset, d):
    by, of = moved(seed, scale, offset, d)
    mu, nu = (random_mixture("full", 3, d, of) for _ in range(2))
    fits = [m._replace(means=m.means + 0.1 * normal(3, d, of=of)) for m in (mu, nu)]
    bounds = metrics.stability_bounds(mu, nu, fits)
    order = torch.randperm(3, generator=of)
    images = [select(by.mixture(m), order) for m in (mu, nu, *fits)]
    found = metrics.stability_bounds(*images[:2], images[2:])
    for name in ("source", "target", "distance"):
        expected = getattr(bounds, name)
        assert_near(getattr(found, name) / scale**2, expected, CLOSED, 1 + expected)


# --- densities, maps, averages -------------------------------------------------------------------


@given(SEEDS, SCALES, OFFSETS, st.integers(1, 5), st.sampled_from(TYPES))
def test_densities(seed, scale, offset, d, of_type):
    by, of = moved(seed, scale, offset, d, of_type)
    mu, X = random_mixture(of_type, 3, d, of), 2 * normal(20, d, of=of)
    order = torch.randperm(3, generator=of)
    image, Y = select(by.mixture(mu), order), by.points(X)
    expected = F.log_density(mu, X)
    found = F.log_density(image, Y) + d * math.log(scale)
    assert_near(found, expected, CLOSED, 1 + float(expected.abs().max()))
    assert_near(F.responsibilities(image, Y), F.responsibilities(mu, X)[order], CLOSED)


@given(SEEDS, SCALES, OFFSETS, st.integers(2, 5), st.sampled_from(ELEMENTARY))
def test_conditionals(seed, scale, offset, d, of_type):
    """Features may be permuted and move by themselves; others are what is conditioned on."""
    by, of = moved(seed, scale, offset, d, "diag")
    mu, x = random_mixture(of_type, 3, d, of), normal(d, of=of)
    known = list(range(d - 1))
    to = [int(by.turn[:, j].abs().argmax()) for j in known]
    image, values = by.mixture(mu), by.points(x)[to]
    expected, found = F.condition(mu, x[:-1], known), F.condition(image, values, to)
    left = int(by.turn[:, -1].abs().argmax())
    sign = float(by.turn[left, -1])
    assert_near(found.weights, expected.weights, CLOSED)
    means = (found.means - by.shift[left]) / (scale * sign)
    assert_near(means, expected.means, CLOSED, 1 + float(expected.means.abs().max()))


@pytest.mark.parametrize("strategy", ["mean", "random"])
@given(SEEDS, SCALES, OFFSETS, st.integers(1, 4), st.sampled_from(ELEMENTARY))
def test_maps(strategy, seed, scale, offset, d, of_type):
    by, of = moved(seed, scale, offset, d, of_type)
    mu, nu, X = *(random_mixture(of_type, 3, d, of) for _ in range(2)), normal(20, d, of=of)
    options = {"strategy": strategy, "random_state": 0}
    plain = skgmmot.ot_map(mu, nu, **options)
    other = skgmmot.ot_map(by.mixture(mu), by.mixture(nu), **options)
    assert_near(other.distance_ / scale, plain.distance_, CLOSED, 1 + plain.distance_)
    expected = torch.as_tensor(plain.transform(X))
    found = by.back(torch.as_tensor(other.transform(by.points(X))))
    assert_near(found, expected, CLOSED, 1 + float(expected.abs().max()))


@given(SEEDS, SCALES, OFFSETS, st.integers(1, 4), st.sampled_from(ELEMENTARY), st.floats(0, 1))
def test_geodesics(seed, scale, offset, d, of_type, t):
    by, of = moved(seed, scale, offset, d, of_type)
    mu, nu = (random_mixture(of_type, 3, d, of) for _ in range(2))
    expected = by.mixture(F.interpolate(mu, nu, t))
    found = F.interpolate(by.mixture(mu), by.mixture(nu), t)
    assert_same_mixture(found, expected, scale, CLOSED)
    for reg in (0.0, 0.5):
        X = normal(5, d, of=of)
        flow = skgmmot.MixtureFlow(mu, nu, reg=reg)
        other = skgmmot.MixtureFlow(by.mixture(mu), by.mixture(nu), reg=scale**2 * reg)
        velocity = by.directions(torch.as_tensor(flow.velocity(t, X)))
        size = scale * (1 + float(velocity.abs().max()) / scale)
        assert_near(other.velocity(t, by.points(X)), velocity, SOLVED, size)


def assert_same_mixture(found, expected, scale, tol):
    """Mixtures whose components are in the same order agree, in units of the samples' spread."""
    assert_near(found.weights, expected.weights, tol)
    size = scale * (1 + float((expected.means - expected.means.mean(0)).abs().max()) / scale)
    assert_near(found.means, expected.means, tol, size)
    found, expected = found.full_covariances(), expected.full_covariances()
    assert_near(found, expected, tol, scale**2 + float(expected.abs().max()))


@pytest.mark.parametrize("solver", ["exact", "fixed_point"])
@given(SEEDS, SCALES, OFFSETS, st.integers(1, 3), st.sampled_from(ELEMENTARY))
def test_barycentres(solver, seed, scale, offset, d, of_type):
    by, of = moved(seed, scale, offset, d, of_type)
    mixtures = [random_mixture(of_type, 2, d, of) for _ in range(3)]
    options = {"solver": solver, "random_state": 0, "max_iter": 1000}
    if solver == "fixed_point":
        options |= {"init_params": mixtures[0]}
    plain = skgmmot.MixtureBarycenter(**options).fit(mixtures)
    if solver == "fixed_point":
        options |= {"init_params": by.mixture(mixtures[0])}
    found = skgmmot.MixtureBarycenter(**options).fit([by.mixture(m) for m in mixtures])
    assert_near(found.objective_ / scale**2, plain.objective_, SOLVED, 1 + plain.objective_)
    # components of an exact one are in no order, and a fixed point ends at a tolerance of 1e-7
    expected = by.mixture(plain._params())
    assert_near(mw2(found, expected, scale) / scale**2, 0, SOLVED)


@given(SEEDS, SCALES, OFFSETS, st.integers(1, 4))
def test_average_of_gaussians(seed, scale, offset, d):
    by, of = moved(seed, scale, offset, d)
    mu = random_mixture("full", 4, d, of)
    mean, S = F.gaussian_barycenter(mu.means, mu.covariances, mu.weights)
    image = shuffled(by.mixture(mu), of)
    found, T = F.gaussian_barycenter(image.means, image.covariances, image.weights)
    assert_near(by.back(found), mean, CLOSED, 10)
    assert_near(T, by.turn @ S @ by.turn.mT * scale**2, SOLVED, scale**2 * (1 + float(S.max())))


@given(SEEDS, SCALES, OFFSETS, st.integers(1, 3), st.sampled_from(ELEMENTARY))
def test_reduction(seed, scale, offset, d, of_type):
    by, of = moved(seed, scale, offset, d, of_type)
    mu = random_mixture(of_type, 5, d, of)
    options = {"n_components": 2, "random_state": 0}
    expected = by.mixture(skgmmot.reduce(mu, **options)._params())
    found = skgmmot.reduce(by.mixture(mu), **options)
    assert_near(mw2(found, expected, scale) / scale**2, 0, SOLVED)


# --- fits ----------------------------------------------------------------------------------------


def problem(seed, scale, offset, d, of_type="full", n=60):
    """A similarity, samples, and a mixture to start from."""
    by, of = moved(seed, scale, offset, d, of_type)
    X = random_samples(n, 3, d, of)
    start = random_mixture(of_type, 3, d, of)
    start = start._replace(means=X[torch.randperm(n, generator=of)[:3]])
    return by, of, X, start


def given_start(start):
    """Parameters of an estimator that starts there."""
    base = start.covariance_type
    precisions = base.to_public(base.precisions(start.prepare().factors))
    arrays = {"weights": start.weights, "means": start.means, "precisions": precisions}
    return {f"{name}_init": value.numpy() for name, value in arrays.items()}


def fitted(estimator, *data, **options):
    """The fit, whether or not it converged."""
    with warnings.catch_warnings(action="ignore"):
        return estimator.fit(*data, **options)


#: Options of EM from a given start. The paths of accelerators depend on axes: SQUAREM's steps are
#: measured along them, the coordinates of Newton's method are those of Cholesky factors. Where
#: samples turn, accelerated fits end elsewhere within `tol`.
EM_OPTIONS = {
    "plain": {},
    "squarem": {"acceleration": "squarem"},
    "newton": {"acceleration": "newton"},
    "sinkhorn": {"e_step": "sinkhorn"},
    "held means": {"fixed_means": True},
    "held weights": {"fixed_weights": True},
    "prior": {"prior": "auto"},
    "noise": {"noise": "uniform"},
}


def some_coincide(mixture):
    """Whether components coincide, nearly.

    Nothing determines their weights then, and the fourth power of their distance is all that the
    likelihood grows by: rounding decides where on the last steps Newton's method stops.
    """
    S, means = mixture.full_covariances(), mixture.means
    spread = S.diagonal(dim1=-2, dim2=-1).mean().sqrt()
    means_apart = (means[:, None] - means).norm(dim=-1) / spread
    covariances_apart = (S[:, None] - S).flatten(2).norm(dim=-1) / S.norm()
    near = (means_apart < NEAR) & (covariances_apart < NEAR)
    return bool(near.triu(1).any())


#: Components coincide, nearly, if they are no further apart in units of their spread.
NEAR = 1e-3


def turned_less(by, of, name):
    """The same similarity, without what a method depends on."""
    d = len(by.shift)
    if name == "newton":
        return by._replace(turn=torch.eye(d, dtype=torch.float64))
    if name in ("squarem", "noise"):  # noise fills a box
        return by._replace(turn=Similarity.random(d, of, axes=True).turn)
    return by


@pytest.mark.parametrize("name", EM_OPTIONS)
@given(SEEDS, SCALES, OFFSETS, st.integers(1, 4), st.sampled_from(ELEMENTARY))
def test_fits_from_a_given_start(name, seed, scale, offset, d, of_type):
    by, of, X, start = problem(seed, scale, offset, d, of_type)
    by = turned_less(by, of, name)
    options = {"n_components": 3, "covariance_type": of_type, **EM_OPTIONS[name]}
    mixture = skgmmot.DifferentiableGaussianMixture(**options, **given_start(start), reg_covar=1e-3)
    fitted(mixture, X)
    rows, components = torch.randperm(len(X), generator=of), torch.randperm(3, generator=of)
    given = given_start(select(by.mixture(start), components))
    options |= {"reg_covar": 1e-3 * scale**2}
    other = skgmmot.DifferentiableGaussianMixture(**options, **given)
    fitted(other, by.points(X)[rows])
    expected = select(by.mixture(mixture._params()), components)
    if name == "newton" and some_coincide(expected):
        logs = other.score_samples(by.points(X)) + d * math.log(scale)
        assert_near(logs, mixture.score_samples(X), FITTED, 1 + float(np.abs(logs).max()))
    else:
        assert_same_mixture(other._params(), expected, scale, FITTED)
    if name != "prior":  # whose log-density depends on the unit, too
        bound = other.lower_bound_ + d * math.log(scale)
        assert_near(bound, mixture.lower_bound_, FITTED, 1 + abs(mixture.lower_bound_))


#: Starts with the same random numbers: clusters are found by distances alone. ('random_from_data'
#: and 'random' draw rows by their numbers, so that no start moves with the order of the rows.)
STARTS = ["kmeans", "k-means++", "random_from_data", "random", "sinkhorn"]
FITS = {
    "EM": lambda unit, **o: skgmmot.DifferentiableGaussianMixture(
        3, reg_covar=1e-3 * unit**2, random_state=0, **o
    ),
    "Student": lambda unit, **o: skgmmot.StudentMixture(
        3, reg_covar=1e-3 * unit**2, random_state=0, max_iter=30, **o
    ),
    "semi-discrete": lambda unit, **o: skgmmot.SemidiscreteGMM(
        2, reg_covar=1e-3 * unit**2, random_state=0, max_iter=5, **o
    ),
}


def assert_moved_fit(make, X, by, tol=FITTED, **data):
    """The fit of moved samples is the moved fit."""
    mixture, other = make(1.0), make(by.scale)
    fitted(mixture, X, **data)
    fitted(other, by.points(X), **data)
    assert_same_mixture(other._params(), by.mixture(mixture._params()), by.scale, tol)
    return mixture, other


@pytest.mark.parametrize("start", STARTS)
@given(SEEDS, SCALES, OFFSETS, st.integers(1, 4), st.sampled_from(ELEMENTARY))
def test_fits_from_starts_of_a_seed(start, seed, scale, offset, d, of_type):
    by, of, X, _ = problem(seed, scale, offset, d, of_type)
    weights = normal(len(X), of=of).exp()
    options = {"covariance_type": of_type, "init_params": start}
    assert_moved_fit(lambda unit: FITS["EM"](unit, **options), X, by, sample_weight=weights)


@rarely
@given(SEEDS, SCALES, OFFSETS, st.integers(2, 4), st.sampled_from(["lowrank", *ELEMENTARY]))
def test_fits_of_labelled_samples(seed, scale, offset, d, of_type):
    """Of low rank they move and scale: factors begin along directions that are drawn for axes."""
    by, of, X, _ = problem(seed, scale, offset, d, of_type)
    if of_type == "lowrank":
        by = by._replace(turn=torch.eye(d, dtype=torch.float64))
    y = torch.randint(-1, 3, (len(X),), generator=of).numpy()
    y[:3] = range(3)
    options = {"covariance_type": of_type, "labels": "y"}
    assert_moved_fit(lambda unit: FITS["EM"](unit, **options), X, by, y=y)


@rarely
@given(SEEDS, SCALES, OFFSETS, st.integers(2, 4))
def test_fits_of_low_rank_from_a_given_mixture(seed, scale, offset, d):
    """Whose factors become factors, where axes become axes."""
    by, of, X, start = problem(seed, scale, offset, d, "lowrank")
    rows, components = torch.randperm(len(X), generator=of), torch.randperm(3, generator=of)
    options = {"tol": 0.0, "max_iter": 5}
    plain = F.fit_em(start, X, reg_covar=1e-3, **options)
    begun = select(by.mixture(start), components)
    other = F.fit_em(begun, by.points(X)[rows], reg_covar=1e-3 * scale**2, **options)
    expected = select(by.mixture(plain.value), components)
    assert_same_mixture(other.value, expected, scale, FITTED)


@given(SEEDS, SCALES, OFFSETS, st.integers(1, 4), st.sampled_from(ELEMENTARY))
def test_student_mixtures(seed, scale, offset, d, of_type):
    by, _, X, start = problem(seed, scale, offset, d, of_type)
    plain, other = (
        FITS["Student"](unit, covariance_type=of_type, **given_start(given))
        for unit, given in ((1.0, start), (scale, by.mixture(start)))
    )
    fitted(plain, X)
    fitted(other, by.points(X))
    assert_same_mixture(other._params(), by.mixture(plain._params()), scale, FITTED)
    nu, mu = (np.minimum(m.degrees_of_freedom_, 1e3) for m in (plain, other))
    assert_near(np.log(mu), np.log(nu), FITTED)
    scores = torch.as_tensor(other.score_samples(by.points(X))) + d * math.log(scale)
    assert_near(scores, plain.score_samples(X), FITTED, 10)


@rarely
@given(SEEDS, SCALES, OFFSETS, st.integers(1, 4), st.sampled_from(ELEMENTARY))
def test_student_mixtures_find_starts_without_outliers_of_a_feature(
    seed, scale, offset, d, of_type
):
    by, of, X, _ = problem(seed, scale, offset, d, of_type)
    by = by._replace(turn=Similarity.random(d, of, axes=True).turn)
    assert_moved_fit(lambda unit: FITS["Student"](unit, covariance_type=of_type), X, by)


@rarely
@given(SEEDS, SCALES, OFFSETS, st.sampled_from(ELEMENTARY))
def test_semidiscrete_fits_move_and_scale(seed, scale, offset, of_type):
    """Masses give way by a thousandth in a descent, each time where potentials begin."""
    by, _, X, _ = problem(seed, scale, offset, 2, of_type, n=20)
    by = by._replace(turn=torch.eye(2, dtype=torch.float64))
    make = FITS["semi-discrete"]
    fit, tol = partial(make, covariance_type=of_type), FITTED_BY_TRANSPORT
    plain, other = assert_moved_fit(fit, X, by, tol)
    assert_near(other.distance_ / scale, plain.distance_, tol)


@rarely
@given(SEEDS, SCALES, OFFSETS, st.integers(1, 3), st.sampled_from(ELEMENTARY))
def test_sliced_fits_move_and_scale(seed, scale, offset, d, of_type):
    """Along directions that are not turned with the samples."""
    by, _, X, _ = problem(seed, scale, offset, d, of_type)
    by = by._replace(turn=torch.eye(d, dtype=torch.float64))
    options = {"n_projections": 5, "max_iter": 10, "n_init": 1, "random_state": 0}

    def make(unit):
        return skgmmot.SlicedWassersteinGMM(3, covariance_type=of_type, **options)

    plain, other = assert_moved_fit(make, X, by)
    assert_near(other.sliced_wasserstein_ / scale, plain.sliced_wasserstein_, FITTED)


@given(SEEDS, SCALES, OFFSETS, st.integers(1, 3))
def test_search(seed, scale, offset, d):
    """Of full covariances, which are split along axes of their own; the halves are in no order."""
    by, _, X, _ = problem(seed, scale, offset, d)
    found = []
    for unit, points in ((1.0, X), (scale, by.points(X))):
        options = {"mixture": FITS["EM"](unit), "random_state": 0}
        found.append(fitted(skgmmot.GaussianMixtureSearch((1, 2), "full", **options), points))
    plain, other = found
    assert plain.best_params_ == other.best_params_
    assert_near(mw2(by.mixture(plain._params()), other, scale) / scale**2, 0, FITTED)


@given(SEEDS, SCALES, OFFSETS, st.integers(1, 3), st.integers(1, 2), st.sampled_from([1e-4, 1e4]))
def test_regression(seed, scale, offset, d, n_outputs, of_targets):
    """Features and targets have units of their own, and features may turn."""
    by, of, X, _ = problem(seed, scale, offset, d)
    out = Similarity.random(n_outputs, of, scale=of_targets, offset=offset)
    y = X @ normal(d, n_outputs, of=of) + 0.5 * normal(len(X), n_outputs, of=of)
    mixture = FITS["EM"](0.0, init_params=by_number, max_iter=5)
    plain, other = (skgmmot.MixtureRegressor(mixture) for _ in range(2))
    fitted(plain, X, y)
    fitted(other, by.points(X), out.points(y))
    expected = out.points(torch.as_tensor(plain.predict(X)).reshape(y.shape))
    found = torch.as_tensor(other.predict(by.points(X))).reshape(y.shape)
    assert_near(found, expected, FITTED, of_targets * (1 + float(y.abs().max())))


def by_number(X, n_components, random_state):
    """A start that depends on the order of the rows alone."""
    return np.arange(len(X)) % n_components


@rarely
@given(SEEDS, SCALES, OFFSETS, st.integers(2, 4), st.sampled_from(ELEMENTARY))
def test_imputation(seed, scale, offset, d, of_type):
    """Entries are missing of features: axes become axes."""
    by, of, X, start = problem(seed, scale, offset, d, "diag")
    start = random_mixture(of_type, 3, d, of)._replace(means=start.means)
    holes = torch.rand(X.shape, generator=of) < 0.2
    holes[:, 0] = False
    X = X.masked_fill(holes, torch.nan)
    Y = (scale * X[:, by.turn.abs().argmax(1)] * by.turn.sum(1)) + by.shift  # without 0 * NaN

    def impute(X, start, unit):
        given = {"covariance_type": of_type, **given_start(start)}
        imputer = skgmmot.MixtureImputer(FITS["EM"](unit, **given))
        return torch.as_tensor(fitted(imputer, X).transform(X))

    expected = by.points(impute(X, start, 1.0))
    found = impute(Y, by.mixture(start), scale)
    assert_near(found, expected, FITTED, scale * (1 + float(X.nan_to_num().abs().max())))


@pytest.mark.parametrize("masses", ["uniform", "free"])
@given(SEEDS, SCALES, OFFSETS, st.integers(1, 3))
def test_quantisers_of_samples(masses, seed, scale, offset, d):
    by, of, X, _ = problem(seed, scale, offset, d)
    order = torch.randperm(len(X), generator=of)
    options = {"masses": masses, "max_iter": 10}
    plain = skgmmot.WassersteinQuantizer(4, init=X[:4], **options)
    other = skgmmot.WassersteinQuantizer(4, init=by.points(X[:4]), **options)
    fitted(plain, X)
    fitted(other, by.points(X)[order])
    centres = by.points(torch.as_tensor(plain.cluster_centers_))
    size = scale * (1 + float(X.abs().max()))
    assert_near(other.cluster_centers_, centres, FITTED, size)
    assert_near(other.distance_ / scale, plain.distance_, FITTED)


@rarely
@given(SEEDS, st.sampled_from([1e-4, 1.0, 1e4]), OFFSETS, st.sampled_from(ELEMENTARY))
def test_quantisers_of_mixtures(seed, scale, offset, of_type):
    by, of = moved(seed, scale, offset, 2, of_type)
    mu, start = random_mixture(of_type, 3, 2, of), normal(3, 2, of=of)
    plain = skgmmot.WassersteinQuantizer(3, init=start, max_iter=3)
    other = skgmmot.WassersteinQuantizer(3, init=by.points(start), max_iter=3)
    fitted(plain, mu)
    fitted(other, shuffled(by.mixture(mu), of))
    centres = by.points(torch.as_tensor(plain.cluster_centers_))
    assert_near(other.cluster_centers_, centres, FITTED, 10 * scale)


@rarely
@given(SEEDS, SCALES, OFFSETS, st.integers(1, 3))
def test_embeddings_and_maps_between_samples(seed, scale, offset, d):
    by, of, X, _ = problem(seed, scale, offset, d)
    clouds = [X[:30], X[30:] + normal(d, of=of)]
    found = []
    for unit, points in ((1.0, clouds), (scale, [by.points(c) for c in clouds])):
        mixture = FITS["EM"](unit)
        with warnings.catch_warnings(action="ignore"):
            mixtures = skgmmot.MixtureEmbedding(mixture=mixture).fit_transform(points)
            distances = skgmmot.PairwiseMW2().fit_transform(mixtures)
            images = skgmmot.OTMap(points[1], mixture=mixture).fit(points[0]).transform(points[0])
        found.append((distances, torch.as_tensor(images)))
    assert_near(found[1][0] / scale, found[0][0], FITTED, 1 + found[0][0].max())
    expected = by.points(found[0][1])
    assert_near(found[1][1], expected, FITTED, scale * (1 + float(found[0][1].abs().max())))


@rarely
@given(SEEDS, SCALES, st.sampled_from([0.0, 1.0, 1e2]), st.integers(1, 3))
def test_gradients(seed, scale, offset, d):
    """Of a loss between a layer's mixture and another: they turn, and are scaled by c."""
    by, of, X, start = problem(seed, scale, offset, d)
    target = random_mixture("full", 2, d, of)
    found = []
    for unit, points, goal, begun in (
        (1.0, X, target, start),
        (scale, by.points(X), by.mixture(target), by.mixture(start)),
    ):
        points = points.clone().requires_grad_()
        options = {"tol": 1e-8, "reg_covar": 1e-2 * unit**2, "max_iter": 1000}
        options |= {"gradient_tol": 1e-9}
        with warnings.catch_warnings(action="ignore"):
            end = F.fit_em(begun, points, **options).value
        F.transport_plan(end, goal).cost.backward()
        found.append(points.grad)
    expected = by.directions(found[0])
    assert_near(found[1], expected, GRADIENT, float(expected.abs().max()))
