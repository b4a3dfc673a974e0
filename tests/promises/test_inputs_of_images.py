"""Any image as a density gives a finite, right transport to points, or a named error."""

import math

import numpy as np
import ot
import torch
from hypothesis import given
from hypothesis import strategies as st
from promises.inputs import (
    KINDS,
    REFUSED,
    answered,
    arrays,
    assert_finite,
    mostly,
    sample_weights,
    seeds,
    spoiled,
)
from promises.mixture_inputs import number

import skgmmot.functional as F
from skgmmot import GridDensity, WassersteinQuantizer, semidiscrete_distance, semidiscrete_plan

#: Nodes that stand for a pixel in the reference, along each axis.
NODES = 4
LOOKS = {
    "noise": lambda rng, shape: rng.random(shape),
    "even": lambda rng, shape: np.full(shape, rng.random()),
    "gaps": lambda rng, shape: rng.integers(0, 2, shape) + (np.arange(shape[-1]) == 0) * 1.0,
    "one pixel": lambda rng, shape: (np.arange(math.prod(shape)) == 0).reshape(shape) * 1.0,
    "all magnitudes": lambda rng, shape: 10.0 ** rng.uniform(-300, 300, shape),
    "tiny": lambda rng, shape: rng.random(shape) * 1e-300,
    "huge": lambda rng, shape: rng.random(shape) * 1e300,
    "subnormal": lambda rng, shape: np.full(shape, 5e-324),
    "zeros": lambda rng, shape: np.zeros(shape),
    "signed": lambda rng, shape: rng.normal(size=shape),
    "no pixels": lambda rng, shape: np.zeros((*shape[:-1], 0)),
    "one axis": lambda rng, shape: rng.random(shape[-1]),
    "four axes": lambda rng, shape: rng.random((1, 1, *shape[-2:])),
}
GOOD = ("noise", "even", "gaps", "one pixel", "all magnitudes", "tiny", "huge", "subnormal")
SHARES = mostly(1.0, 0.5, 0.01, 1e-11, 0, 2, -1.0, math.nan, "1", None, True)


@st.composite
def extents(draw, d):
    """Ends of an image in d dimensions, absurd ones among them."""
    rng = np.random.default_rng(draw(seeds))
    low = rng.normal(size=d) + draw(mostly(0.0, 1.0, 1e3, 1e6))
    wide = 10.0 ** (rng.uniform(-1, 1, d) * draw(mostly(0, 1, 3, 8)))
    ends = np.stack([low, low + wide], 1).ravel() * 10.0 ** draw(mostly(0, -140, -8, 8, 140, 200))
    return draw(
        mostly(tuple(ends), None, None, list(ends), ends, (0, 1), tuple(-ends), "wide", (math.nan,))
    )


@st.composite
def images(draw, d, good=False):
    """A density of an image or, for three dimensions, of voxels."""
    rng = np.random.default_rng(draw(seeds))
    shape = tuple(draw(st.integers(1, 4)) for _ in range(d))
    values = LOOKS[draw(mostly("noise", *(GOOD if good else LOOKS)))](rng, shape)
    if good:
        form, extent = draw(mostly(np.asarray, torch.tensor)), draw(mostly(None, "given"))
        extent = extent and tuple(np.sort(rng.normal(size=(d, 2)) + 2).ravel())
    else:
        values, extent = draw(spoiled(values)), draw(extents(d))
        two_axes = values.ndim == 2 and values.size
        form = KINDS[draw(mostly("numpy", *KINDS))] if two_axes else np.asarray
        form = draw(mostly(form, torch.tensor))
    origin = draw(mostly("upper", "lower", *(() if good else ("middle", None))))
    periodic = draw(mostly(False, True, *(() if good else (1, "yes"))))
    try:
        return GridDensity(form(values), extent, origin, periodic)
    except (ValueError, TypeError, OverflowError):  # numbers that have no such form
        return GridDensity(values, extent, origin, periodic)


def ends_of(density):
    """Lower ends and sides of an image, (d,) each; what is no extent counts as a unit square."""
    try:
        ends = np.array([float(end) for end in density.extent]).reshape(-1, 2)
        assert np.isfinite(ends).all()
    except (TypeError, ValueError, AssertionError):
        ends = np.array([[0.0, 1.0]] * 2)
    return ends[:, 0], ends[:, 1] - ends[:, 0]


@st.composite
def places(draw, density, d):
    """Points in an image and around it."""
    rng, n = np.random.default_rng(draw(seeds)), draw(st.integers(1, 5))
    low, sides = ends_of(density)
    if len(low) != d:
        low, sides = np.zeros(d), np.ones(d)
    unit = {
        "inside": rng.random((n, d)),
        "equal": np.full((n, d), 0.3),
        "pairs": rng.random((n, d))[np.arange(n) // 2],
        "edges": rng.integers(0, 5, (n, d)) / 4,
        "collinear": rng.random((n, 1)) * np.ones(d),
        "nearly equal": 0.3 + 1e-9 * rng.normal(size=(n, d)),
        "outside": 3 + rng.normal(size=(n, d)),
        "far": 1e6 * rng.normal(size=(n, d)),
        "very far": 1e100 * rng.normal(size=(n, d)),
    }
    if density.periodic:  # the rounding of such places is many periods
        del unit["very far"]
    usual = ("inside", "inside", *unit)
    return low + sides * unit[draw(st.sampled_from(usual))]


def pixels(density, nodes=NODES):
    """Centres of parts of pixels (m, d), x first, their shares (m,), and a part's sides (d,)."""
    values = np.asarray(density.values, dtype=float)
    values = values[..., ::-1, :] if density.origin == "upper" else values
    values = values / values.max()
    for axis in range(values.ndim):
        values = values.repeat(nodes, axis)
    low, sides = ends_of(density)
    steps = sides / values.shape[::-1]
    centres = low + steps * (np.argwhere(np.ones(values.shape))[:, ::-1] + 0.5)
    return centres, values.ravel() / values.sum(), steps


def squared_distances(density, centres, points):
    """Between places and points, (m, n); to the nearest copy where the image is periodic."""
    gaps = centres[:, None] - points
    if density.periodic:
        _, sides = ends_of(density)
        gaps = gaps - sides * np.round(gaps / sides)
    return (gaps**2).sum(-1)


def bracket(density, points, b, mass):
    """Two squared costs between which that of transport lies, by a discrete problem of POT.

    A plan from the centres of a pixel's parts, carried over to the parts, costs the parts' variance
    more; and the cost of a density is within the distance between the centres and what is moved,
    all of a part or its corners.
    """
    centres, a, steps = pixels(density)
    C = squared_distances(density, centres, points)
    kept = a > 0
    C, a, b = C[kept], a[kept], mass * b / b.sum()
    size = max(C.max(), 1e-300)
    C = np.column_stack([C / size, np.zeros(len(C))])  # what stays, stays at no cost
    least = ot.emd2(a, np.append(b, max(1 - b.sum(), 0.0)), C, numItermax=10**6) * size
    least, spread, corner = max(least, 0.0), (steps**2).sum() / 12 * mass, 3 if mass < 1 else 1
    return max(math.sqrt(least) - math.sqrt(corner * spread), 0.0) ** 2, least + spread


def assert_in_bracket(cost, error, density, points, b, mass):
    """A cost is within what a discrete problem leaves open."""
    low, high = bracket(density, points, b, mass)
    slack = 1e-6 * high + error
    assert low - slack <= cost <= high + slack, (low, cost, high, error)


@given(st.data())
def test_transport_of_images(data):
    d = data.draw(mostly(2, 3))
    density = data.draw(images(d))
    X = data.draw(places(density, d if data.draw(mostly(*[True] * 8, False)) else 5 - d))
    a = data.draw(mostly(None, "weights"))
    a = None if a is None else data.draw(sample_weights(len(X)))
    options = {"mass": data.draw(SHARES)}
    points = data.draw(arrays(st.just(X)))
    found = answered(semidiscrete_distance, density, points, a, **options, return_error=True)
    assert_finite(found)
    plan = answered(semidiscrete_plan, density, points, a, **options)
    assert (found is REFUSED) == (plan is REFUSED)
    if plan is REFUSED:
        return
    assert_finite(*plan[:5], plan.mass_error)
    assert found[0] >= 0 and found[1] >= 0 and plan.error >= 0
    assert abs(number(plan.masses.sum()) - options["mass"]) < 1e-7
    polygons = answered(plan.cells.polygons if d == 2 else plan.cells.polyhedra)
    assert polygons is not REFUSED


@given(st.data())
def test_costs_of_images(data):
    d = data.draw(mostly(2, 3))
    density = data.draw(images(d, good=True))
    X, mass = data.draw(places(density, d)), data.draw(mostly(1.0, 0.5, 0.01)) if d == 2 else 1.0
    b = np.random.default_rng(data.draw(seeds)).dirichlet(np.ones(len(X)))
    plan = answered(semidiscrete_plan, density, X, b, mass=mass)
    if plan is not REFUSED:
        assert_in_bracket(number(plan.cost), plan.error, density, X, b, mass)
        assert np.abs(np.asarray(plan.masses) - mass * b).sum() < 1e-7 + plan.mass_error


@given(st.data())
def test_gradients_of_transport_of_images(data):
    density = data.draw(images(2, good=True))
    values = torch.tensor(np.asarray(density.values), dtype=torch.float64, requires_grad=True)
    X = torch.tensor(data.draw(places(density, 2)), requires_grad=True)
    b = torch.as_tensor(data.draw(sample_weights(len(X), bad=False)), dtype=torch.float64)
    b = b.clone().requires_grad_()
    mass = data.draw(mostly(1.0, 0.5))
    density = density._replace(values=values)
    value = answered(semidiscrete_distance, density, X, b, mass=mass, squared=True)
    if value is not REFUSED:
        slopes = answered(torch.autograd.grad, value, (values, X, b))
        assert not any(slope.isnan().any() for slope in slopes), slopes


@given(st.data())
def test_images_and_their_nearest_points(data):
    d = data.draw(mostly(2, 3))
    density = data.draw(images(d, good=True))
    X = data.draw(places(density, d))
    values = torch.tensor(np.asarray(density.values), dtype=torch.float64)
    plan = answered(F.nearest_plan, density._replace(values=values / values.max()), torch.tensor(X))
    if plan is REFUSED:
        return
    assert_finite(*plan[:5])
    centres, a, steps = pixels(density)
    least, spread = a @ squared_distances(density, centres, X).min(1), (steps**2).sum() / 12
    slack = 1e-6 * (least + spread) + plan.error
    low = max(math.sqrt(least) - math.sqrt(spread), 0.0) ** 2
    assert low - slack <= plan.cost <= least + spread + slack


@given(st.data())
def test_quantisers_of_images(data):
    d = data.draw(mostly(2, 3))
    density = data.draw(images(d))
    X = data.draw(places(density, d))
    K = data.draw(mostly(len(X), 1, 3, 0, "2"))
    options = {
        "masses": data.draw(mostly("uniform", "free")),
        "init": data.draw(mostly("random", X, "k-means++")),
        "max_iter": data.draw(mostly(2, 1)),
        "certify": data.draw(st.booleans()),
    }
    model = WassersteinQuantizer(K, random_state=0, **options)
    if answered(model.fit, density) is REFUSED:
        return
    assert_finite(model.cluster_centers_, model.masses_, model.potentials_, model.distance_)
    assert abs(number(model.masses_.sum()) - 1) < 1e-7 and model.distance_ >= 0
    if options["certify"]:
        assert_finite(model.error_, model.distance_error_)
        assert model.error_ >= 0 and model.distance_error_ >= 0
    for x in (X, data.draw(arrays(st.just(X)))):
        labels = answered(model.predict, x)
        assert labels is REFUSED or set(np.asarray(labels)) <= set(range(K))
        assert_finite(answered(model.transform, x))
