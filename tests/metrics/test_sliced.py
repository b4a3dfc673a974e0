"""Sliced distances as users call them."""

import functools

import numpy as np
import ot
import pandas as pd
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skgmmot import DifferentiableGaussianMixture, MixtureWasserstein
from skgmmot.metrics import (
    get_scorer,
    sliced_mixture_wasserstein,
    sliced_wasserstein_distance,
    sliced_wasserstein_scorer,
)
from skgmmot.transport.sliced.directions import directions

SLICINGS = ["msw", "dsmw"]
SOURCE = (np.array([0.3, 0.7]), np.array([[0.0, 1.0], [3.0, 0.0]]), np.ones(2) / 2, "spherical")
TARGET = (np.array([1.0]), np.array([[2.0, -1.0]]), np.array([[2.0, 0.3]]), "diag")


def test_one_component_moved_is_seen_in_every_direction_by_its_cosine():
    moved = ([1.0], [[2.0, 0.0]], [[2.0, 0.3]], "diag")
    still = ([1.0], [[0.0, 0.0]], [[2.0, 0.3]], "diag")
    assert sliced_mixture_wasserstein(still, moved, squared=True) == pytest.approx(2.0)  # 4 / d


@pytest.mark.parametrize("slicing", SLICINGS)
def test_equal_and_permuted_mixtures_are_at_distance_zero(slicing):
    permuted = (*(np.asarray(part)[::-1] for part in SOURCE[:3]), "spherical")
    assert sliced_mixture_wasserstein(SOURCE, permuted, slicing=slicing) == pytest.approx(
        0, abs=1e-9
    )


@pytest.mark.parametrize("slicing", SLICINGS)
def test_it_is_symmetric_and_the_square_of_its_root(slicing):
    value = sliced_mixture_wasserstein(SOURCE, TARGET, slicing=slicing)
    assert value == pytest.approx(sliced_mixture_wasserstein(TARGET, SOURCE, slicing=slicing))
    square = sliced_mixture_wasserstein(SOURCE, TARGET, slicing=slicing, squared=True)
    assert value**2 == pytest.approx(square)


def test_dsmw_in_one_dimension_is_that_of_means_and_deviations():
    source, target = (([1.0], [[m]], [s**2], "spherical") for m, s in ((0.0, 1.0), (3.0, 5.0)))
    value = sliced_mixture_wasserstein(source, target, slicing="dsmw", squared=True)
    assert value == pytest.approx((3**2 + 4**2) / 2)


@pytest.mark.parametrize("slicing", SLICINGS)
def test_far_components_without_mass_change_nothing(slicing):
    narrow = ([1.0], [[0.0, 0.0]], [[1e-8, 1e-6]], "diag")
    far = ([0.0, 1.0], [[1e8, 1e8], [0.0, 3e-4]], [[1.0, 1.0], [1e-6, 1e-8]], "diag")
    alone = ([1.0], *(part[1:] for part in far[1:3]), "diag")
    assert sliced_mixture_wasserstein(narrow, far, slicing=slicing) == pytest.approx(
        sliced_mixture_wasserstein(narrow, alone, slicing=slicing), rel=1e-7
    )


def test_slices_see_no_more_than_mw2():
    assert sliced_mixture_wasserstein(SOURCE, TARGET) < MixtureWasserstein()(SOURCE, TARGET)


@pytest.mark.parametrize("slicing", SLICINGS)
def test_gradients_are_those_of_finite_differences(slicing):
    means = torch.tensor(SOURCE[1], requires_grad=True)
    variances = torch.tensor(SOURCE[2], requires_grad=True)

    def distance(means, variances):
        source = (torch.tensor(SOURCE[0]), means, variances, "spherical")
        return sliced_mixture_wasserstein(source, TARGET, slicing=slicing)

    assert torch.autograd.gradcheck(distance, (means, variances))


def test_a_standard_normal_is_its_spread_from_the_origin():
    standard = ([1.0], [[0.0, 0.0]], [1.0], "spherical")
    assert sliced_wasserstein_distance(standard, np.zeros((3, 2))) == pytest.approx(1.0, rel=1e-4)
    first = sliced_wasserstein_distance(standard, np.zeros((3, 2)), p=1)
    assert first == pytest.approx(np.sqrt(2 / np.pi), rel=1e-4)


def test_weights_count_as_repeats(rng):
    X = rng.normal(size=(20, 2))
    times = rng.integers(0, 3, size=20)
    weighted = sliced_wasserstein_distance(SOURCE, X, times)
    assert weighted == pytest.approx(sliced_wasserstein_distance(SOURCE, X.repeat(times, axis=0)))


@pytest.mark.parametrize("weighted", [(), ("source",), ("source", "target")])
@pytest.mark.parametrize("p", [1, 2, 3.5])
def test_two_sets_of_samples_have_the_distance_of_pot(weighted, p, rng):
    X, Y = rng.normal(size=(30, 2)), 1 + 2 * rng.normal(size=(20, 2))
    a = rng.integers(0, 4, size=30) if "source" in weighted else None
    b = rng.uniform(size=20) if "target" in weighted else None
    found = sliced_wasserstein_distance(X, Y, b, p=p, source_weight=a)
    generator = torch.Generator().manual_seed(0)
    theta = directions("quasi", 100, 2, generator=generator).numpy().T
    shares = [None if w is None else w / w.sum() for w in (a, b)]
    expected = ot.sliced_wasserstein_distance(X, Y, *shares, projections=theta, p=p)
    assert found == pytest.approx(expected, rel=1e-9)
    swapped = sliced_wasserstein_distance(Y, X, a, p=p, source_weight=b)
    assert swapped == pytest.approx(found, rel=1e-9)


def test_samples_and_a_mixture_may_be_in_either_order(rng):
    X, weights = rng.normal(size=(30, 2)), rng.uniform(size=30)
    found = sliced_wasserstein_distance(X, SOURCE, source_weight=weights)
    assert found == sliced_wasserstein_distance(SOURCE, X, weights)


def test_samples_may_be_at_any_scale_and_many(rng, monkeypatch):
    X, Y = rng.normal(size=(30, 2)), 1 + rng.normal(size=(20, 2))
    found = sliced_wasserstein_distance(X, Y)
    for scale in (2.0**500, 2.0**-500):
        assert sliced_wasserstein_distance(X * scale, Y * scale) == found * scale
    monkeypatch.setattr("skgmmot.metrics._sliced.BLOCK_SIZE", 100)
    assert sliced_wasserstein_distance(X, Y) == pytest.approx(found, rel=1e-14)
    frame = pd.DataFrame(X.astype(np.float32))
    assert sliced_wasserstein_distance(frame, Y.tolist()) == pytest.approx(found, rel=1e-6)
    assert sliced_wasserstein_distance(X, X[::-1]) == 0
    largest = sliced_wasserstein_distance(X, Y, projections="max")
    assert found < largest <= np.linalg.norm(X.mean(0) - Y.mean(0)) + 2


@pytest.mark.parametrize("p", [1, 2, 3])
@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.0, 4.0]])
def test_two_sets_of_samples_are_differentiable(p, weights, rng):
    X = torch.tensor(rng.normal(size=(4, 2)), requires_grad=True)
    Y = torch.tensor(1 + rng.normal(size=(3, 2)), requires_grad=True)

    def distance(X, Y):
        options = {"p": p, "n_projections": 7, "source_weight": weights}
        return sliced_wasserstein_distance(X, Y, **options)

    assert torch.autograd.gradcheck(distance, (X, Y))
    same = sliced_wasserstein_distance(X, X, weights, p=p, source_weight=weights)
    same.backward()
    assert same == 0 and (X.grad == 0).all()


def test_bad_sides_are_named(rng):
    X = rng.normal(size=(5, 2))
    cases = [
        (X, X[:, :1], r"target must have shape \(n_samples, 2\), as the source has features, got"),
        (X[:, 0], X, r"source must have shape .* got \(5,\). Use source\[:, None\]"),
        (X, X * np.nan, "target must be finite"),
        (X[:0], X, r"source must have shape \(n_samples, n_features\), got \(0, 2\)"),
    ]
    for source, target, message in cases:
        with pytest.raises(ValueError, match=message):
            sliced_wasserstein_distance(source, target)
    with pytest.raises(ValueError, match="sample_weight"):
        sliced_wasserstein_distance(X, X, source_weight=np.ones(3))
    for source, target, name in ((KMeans(2), X, "source"), (X, KMeans(2), "target")):
        with pytest.raises(TypeError, match=f"{name} must be a fitted Gaussian mixture"):
            sliced_wasserstein_distance(source, target)


def test_tensors_come_back_as_tensors_with_a_gradient(rng):
    X = torch.tensor(rng.normal(size=(30, 2)), requires_grad=True)
    sliced_wasserstein_distance(SOURCE, X).backward()
    assert torch.isfinite(X.grad).all()
    assert X.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("p", "to", "expected"),
    [(1, "mixture", 2.563), (2, "mixture", 2.669), (1, "samples", 6.0), (3, "samples", 5.639)],
)
def test_gradients_in_weights_are_right_across_a_gap(p, to, expected):
    # from central differences of the value, with weights (0.9 + h, 0.1 - h)
    target = ([1.0], [[0.0]], [[1.0]], "diag") if to == "mixture" else [[-2.0], [0.0], [3.0]]
    weights = torch.tensor([0.9, 0.1], dtype=torch.float64, requires_grad=True)
    narrow = (weights, torch.tensor([[-6.0], [6.0]]), torch.tensor([[0.01], [0.01]]), "diag")
    sliced_wasserstein_distance(narrow, target, p=p).backward()
    assert float(weights.grad[0] - weights.grad[1]) == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("exact", [True, False])
def test_a_ball_and_a_point_are_a_closed_form(exact):
    # E <theta, x>^2 + 1 = |x|^2 / 2 + 1 in the plane
    ball = ([1.0], [[0.0, 0.0]], [1.0], "spherical")
    found = sliced_wasserstein_distance(ball, [[3.0, 4.0]], exact=exact)
    assert found**2 == pytest.approx(13.5, rel=1e-9 if exact else 5e-5)


def test_the_distance_between_mixtures_is_near_that_to_a_sample_of_one(rng, random_seed):
    truth = DifferentiableGaussianMixture(2, random_state=random_seed).fit(rng.normal(size=(50, 2)))
    drawn, _ = truth.sample(50_000)
    between = sliced_wasserstein_distance(SOURCE, truth)
    assert sliced_wasserstein_distance(SOURCE, drawn) == pytest.approx(between, rel=0.02)
    assert between == pytest.approx(sliced_wasserstein_distance(truth, SOURCE), rel=1e-6)
    assert sliced_wasserstein_distance(SOURCE, SOURCE) == 0


def scaled(mixture, scale, moved=0.0):
    """A mixture in another unit, elsewhere."""
    weights, means, covariances, name = mixture
    return weights, means * scale + moved, covariances * scale**2, name


@pytest.mark.parametrize("projections", ["quasi", "max"])
@pytest.mark.parametrize("p", [1, 2, 20])
@pytest.mark.parametrize("to", ["mixture", "samples"])
def test_distances_are_homogeneous_whatever_the_scale(to, p, projections):
    options = {"p": p, "projections": projections, "n_projections": 5}
    points = np.array([[0.5, 1.0], [-2.0, 0.25], [4.0, -1.0]])

    def distance(scale):
        target = scaled(TARGET, scale) if to == "mixture" else points * scale
        return sliced_wasserstein_distance(scaled(SOURCE, scale), target, **options)

    expected = distance(1.0)
    for exponent in (-400, 400):
        assert distance(2.0**exponent) == 2.0**exponent * expected


@pytest.mark.parametrize("slicing", SLICINGS)
@pytest.mark.parametrize("squared", [False, True])
def test_distances_between_components_are_homogeneous_whatever_the_scale(slicing, squared):
    options = {"slicing": slicing, "squared": squared}
    for exponent in (-400, 400):
        near, far = scaled(SOURCE, 2.0**exponent), scaled(TARGET, 2.0**exponent)
        found = sliced_mixture_wasserstein(near, far, **options)
        unit = 2.0 ** (2 * exponent if squared else exponent)
        assert found == unit * sliced_mixture_wasserstein(SOURCE, TARGET, **options)


@pytest.mark.parametrize("size", [1e-300, 1e-200, 1e200, 1e300])
def test_points_are_at_their_distance_where_squares_leave_the_range_of_numbers(size):
    point = ([1.0], [[0.0]], [[0.0]], "diag")
    for p in (1, 2, 20):
        found = sliced_wasserstein_distance(point, [[size]], p=p)
        assert found == pytest.approx(size, rel=1e-8)  # points are 1e-9 wide
    moved = ([1.0], [[size]], [[0.0]], "diag")
    assert sliced_mixture_wasserstein(point, moved) == pytest.approx(size, rel=1e-12)
    with pytest.raises(ValueError, match=r"must be of a size whose distance float64 can hold"):
        sliced_mixture_wasserstein(point, moved, squared=True)


def test_high_powers_of_small_differences_do_not_vanish():
    one, small = (
        sliced_wasserstein_distance(SOURCE, scaled(SOURCE, 1.0, moved=by), p=100)
        for by in (1.0, 1e-4)  # whose power is 1e-400
    )
    assert small == pytest.approx(1e-4 * one, rel=1e-4)


def test_gradients_scale_with_the_unit():
    gradients = []
    for scale in (1.0, 2.0**-300, 2.0**300):
        weights, means, variances, name = scaled(SOURCE, scale)
        means = torch.tensor(means, requires_grad=True)
        target = scaled(TARGET, scale)
        sliced_wasserstein_distance((weights, means, variances, name), target, p=20).backward()
        gradients.append(means.grad)
    assert torch.equal(gradients[0], gradients[1]) and torch.equal(gradients[0], gradients[2])


@pytest.mark.parametrize("p", [1, 2, 3])
def test_equal_mixtures_have_finite_gradients(p):
    means = torch.tensor(SOURCE[1], requires_grad=True)
    sliced_wasserstein_distance((SOURCE[0], means, *SOURCE[2:]), SOURCE, p=p).backward()
    assert torch.isfinite(means.grad).all()


@pytest.mark.parametrize(
    ("size", "p", "message"),
    [
        (1.7e308, 2, "source and target must differ by what float64 can hold"),
        (1.0, 5000, "p must be smaller for these sides, got 5000"),
    ],
)
def test_what_leaves_the_range_of_numbers_is_refused(size, p, message):
    with pytest.raises(ValueError, match=message):
        sliced_wasserstein_distance(SOURCE, [[-size, 0.0], [size, 0.0]], p=p)


def test_the_largest_distance_is_above_the_mean_and_below_mw2():
    mean = sliced_wasserstein_distance(SOURCE, TARGET)
    largest = sliced_wasserstein_distance(SOURCE, TARGET, projections="max", n_projections=5)
    assert mean < largest < MixtureWasserstein()(SOURCE, TARGET)
    moved = (SOURCE[0], SOURCE[1] + [3, 4], *SOURCE[2:])
    found = sliced_wasserstein_distance(SOURCE, moved, projections="max", n_projections=5)
    assert found == pytest.approx(5, rel=1e-4)


@pytest.mark.parametrize("projections", ["random", "orthogonal"])
def test_other_directions_estimate_the_same_distance(projections):
    options = {"projections": projections, "n_projections": 2000}
    found = sliced_wasserstein_distance(SOURCE, TARGET, **options)
    assert found == pytest.approx(sliced_wasserstein_distance(SOURCE, TARGET), rel=0.05)


def test_unknown_directions_and_exact_cells_of_other_exponents_are_refused():
    with pytest.raises(ValueError, match=r"projections must be one of .* got 'spiral'"):
        sliced_wasserstein_distance(SOURCE, TARGET, projections="spiral")
    with pytest.raises(ValueError, match="p must be 1 or 2 with exact=True, got 3"):
        sliced_wasserstein_distance(SOURCE, np.zeros((3, 2)), p=3, exact=True)


def test_the_last_step_of_a_pipeline_is_scored_on_what_the_others_make(rng):
    X = rng.normal(size=(60, 2)) * [1, 9]
    pipeline = make_pipeline(StandardScaler(), DifferentiableGaussianMixture()).fit(X)
    expected = -sliced_wasserstein_distance(pipeline[-1], pipeline[:-1].transform(X))
    assert sliced_wasserstein_scorer(pipeline, X) == expected
    alone = make_pipeline(DifferentiableGaussianMixture()).fit(X)
    assert sliced_wasserstein_scorer(alone, X) == sliced_wasserstein_scorer(alone[-1], X)


def test_the_scorer_chooses_components_in_a_search(rng):
    X = np.vstack([rng.normal(size=(100, 2)), 8 + rng.normal(size=(100, 2))])
    grid = {"n_components": [1, 2]}
    search = GridSearchCV(
        DifferentiableGaussianMixture(random_state=0),
        grid,
        scoring=get_scorer("sliced_wasserstein"),
    )
    assert search.fit(rng.permutation(X)).best_params_ == {"n_components": 2}


def test_an_unfitted_estimator_has_no_score(rng):
    with pytest.raises(NotFittedError):
        sliced_wasserstein_scorer(DifferentiableGaussianMixture(), rng.normal(size=(5, 2)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_projections": 0}, "n_projections must be a positive integer, got 0"),
        ({"n_projections": 2.5}, "n_projections must be a positive integer, got 2.5"),
        ({"n_projections": True}, "n_projections must be a positive integer, got True"),
        ({"slicing": "sw"}, "slicing must be 'msw' or 'dsmw', got 'sw'"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        sliced_mixture_wasserstein(SOURCE, TARGET, **options)


@pytest.mark.parametrize("p", [0.5, float("nan"), float("inf"), "2"])
def test_bad_exponents_are_refused(p):
    with pytest.raises(ValueError, match="p must be a finite number of at least 1"):
        sliced_wasserstein_distance(SOURCE, np.zeros((3, 2)), p=p)


def test_bad_samples_are_refused():
    with pytest.raises(ValueError, match=r"X must have shape \(n_samples, 2\), .* got \(3, 1\)"):
        sliced_wasserstein_distance(SOURCE, np.zeros((3, 1)))
    with pytest.raises(ValueError, match=r"got \(3,\). Use X\[:, None\] if it holds one feature"):
        sliced_wasserstein_distance(([1.0], [[0.0]], [1.0], "spherical"), [0.0, 1.0, 2.0])
    with pytest.raises(ValueError, match="X must be finite, got NaN or infinity"):
        sliced_wasserstein_distance(SOURCE, np.array([[0.0, np.nan]]))


def test_mixtures_of_different_dimensions_are_refused():
    line = ([1.0], [[0.0]], [1.0], "spherical")
    with pytest.raises(ValueError, match="source and target must have equal numbers of features"):
        sliced_mixture_wasserstein(SOURCE, line)


SLICED = {
    "msw": sliced_mixture_wasserstein,
    "dsmw": functools.partial(sliced_mixture_wasserstein, slicing="dsmw"),
    "p=2": sliced_wasserstein_distance,
    "p=1": functools.partial(sliced_wasserstein_distance, p=1),
}


@pytest.mark.parametrize("name", SLICED)
def test_equal_mixtures_are_at_no_sliced_distance_and_it_is_symmetric(name, rng):
    distance = SLICED[name]
    a, b = (
        (rng.dirichlet(np.ones(K)), rng.normal(size=(K, 3)), rng.uniform(1, 2, (K, 3)), "diag")
        for K in (3, 4)
    )
    assert distance(a, a) == 0
    assert distance(a, b) == distance(b, a)


def test_the_widest_component_sets_the_unit():
    variances = np.array([1e-300, 1e300])
    source = np.array([0.5, 0.5]), np.zeros((2, 2)), variances, "spherical"
    point = np.array([1.0]), np.zeros((1, 2)), np.zeros(1), "spherical"
    expected = np.sqrt(variances.mean())
    assert sliced_wasserstein_distance(source, point) == pytest.approx(expected, rel=1e-3)


def test_distances_between_samples_are_symmetric_to_the_bit(rng):
    X, Y = rng.normal(size=(7, 3)), 50 + rng.normal(size=(9, 3))
    v, w = rng.random(7), rng.random(9)
    there = sliced_wasserstein_distance(X, Y, w, source_weight=v)
    assert there == sliced_wasserstein_distance(Y, X, v, source_weight=w)
    assert sliced_wasserstein_distance(X, Y, w) == sliced_wasserstein_distance(
        Y, X, source_weight=w
    )
    one = sliced_wasserstein_distance(X, X, v), sliced_wasserstein_distance(X, X, source_weight=v)
    assert one[0] == one[1]
