"""The E-step by matrix products, against its definition."""

import pytest
import torch
from torch.testing import assert_close

from skgmmot.fitting.em.step import m_step
from skgmmot.gaussian.covariance.registry import COVARIANCE_TYPES
from skgmmot.gaussian.products import FeatureEStep, WhiteningEStep, accurate_dtype
from skgmmot.gaussian.statistics import e_step
from skgmmot.numerics.blocks import Buffers

F64 = torch.float64
K, d, n = 3, 2, 60


@pytest.fixture(params=COVARIANCE_TYPES)
def theta(request, make_mixture):
    """A mixture of each covariance type."""
    return make_mixture(request.param, K, d)


@pytest.fixture
def X(make_samples, theta):
    """Samples near the components, spread wider than they are."""
    return 1.5 * make_samples(n, d) + theta.means.repeat(n // K, 1)


@pytest.fixture(params=["unweighted", "weighted"])
def a(request, make_samples):
    """Sample weights, or none."""
    return None if request.param == "unweighted" else make_samples(n, 1, seed=9).exp().squeeze(1)


def by_features(theta, blocks, dtype=F64, origin=0.5):
    """The statistics of `FeatureEStep` over blocks of samples and weights."""
    origin = torch.full((theta.means.shape[1],), origin, dtype=F64)
    total = None
    if theta.covariance_type.shared:
        rows = [(x.double() - origin, torch.ones(len(x)) if w is None else w) for x, w in blocks]
        total = sum((x * w.unsqueeze(1)).mT @ x for x, w in rows).unsqueeze(0)
    step = FeatureEStep(theta._replace(means=theta.means - origin), origin, total)
    buffers = Buffers(torch.device("cpu"))
    sums = [step.block(x, w, dtype, buffers) for x, w in blocks]
    return step.statistics(*(sum(parts) for parts in zip(*sums, strict=True)))


def assert_same_step(theta, found, expected, **tolerances):
    assert_close(m_step(theta, found), m_step(theta, expected), **tolerances)
    assert_close(found.log_likelihood, expected.log_likelihood, **tolerances)


def test_features_give_the_statistics_of_the_definition(theta, X, a):
    expected = e_step(theta, X, a)
    found = by_features(theta, [(X, a)])
    tolerances = {"rtol": 1e-10, "atol": 1e-10}
    assert_same_step(theta, found, expected, **tolerances)
    if not theta.covariance_type.shared:
        assert_close(found, expected, **tolerances)


def test_features_sum_over_blocks_of_unequal_length(theta, X, a):
    rows = [slice(0, 7), slice(7, 40), slice(40, n)]
    blocks = [(X[r], None if a is None else a[r]) for r in rows]
    expected = by_features(theta, [(X, a)])
    assert_close(by_features(theta, blocks), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("dimension", [1, 5])
def test_features_work_in_any_dimension_and_on_views(dimension, theta, make_mixture, make_samples):
    theta = make_mixture(theta.covariance_type.name, K, dimension)
    X = make_samples(2 * n, dimension + 1)[::2, 1:]
    expected = e_step(theta, X)
    assert_same_step(theta, by_features(theta, [(X, None)]), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_features_take_samples_in_float32(dtype, theta, X, a):
    X, a = X.float(), None if a is None else a.float()
    found = by_features(theta, [(X, a)], dtype=dtype)
    assert found.mass.dtype == F64
    expected = e_step(theta, X.double(), None if a is None else a.double())
    tolerance = 1e-4 if dtype == torch.float32 else 1e-9
    assert_same_step(theta, found, expected, rtol=tolerance, atol=tolerance)


def test_features_do_not_depend_on_the_origin(theta, X, a):
    expected = by_features(theta, [(X, a)])
    assert_same_step(theta, by_features(theta, [(X, a)], origin=-3.0), expected)


def test_features_take_components_without_mass_and_far_samples(theta, X, a):
    theta = theta._replace(weights=torch.tensor([0.3, 0.7, 0.0], dtype=F64))
    X = torch.cat([X[:-1], torch.full((1, d), 200.0, dtype=F64)])
    found, expected = by_features(theta, [(X, a)]), e_step(theta, X, a)
    assert expected.mass[2] == 0
    assert found.mass[2] < 1e-300
    assert_close(found.mass, expected.mass)
    assert_close(found.shift, expected.shift)
    assert_close(found.log_likelihood, expected.log_likelihood)


@pytest.mark.parametrize(
    ("dtype", "offset", "best"),
    [
        (F64, 0, F64),
        (F64, 30, F64),
        (F64, 1e4, None),
        (torch.float32, 0, torch.float32),
        (torch.float32, 30, F64),
        (torch.float32, 1e4, None),
    ],
)
def test_features_tell_which_dtype_keeps_enough_digits(dtype, offset, best, theta):
    theta = theta._replace(means=theta.means / 2 + offset)
    assert accurate_dtype(theta.prepare(), dtype) is best


def test_weights_are_repeated_rows(theta, X):
    counts = torch.arange(n) % 4
    expected = e_step(theta, X.repeat_interleave(counts, dim=0))
    assert_close(by_features(theta, [(X, counts.double())])[:2], expected[:2])


@pytest.mark.parametrize(("dimension", "width"), [(3, 16), (16, 16), (35, 16), (5, 2)])
def test_whitening_by_columns_gives_the_statistics_of_the_definition(
    dimension, width, a, make_mixture, make_samples, monkeypatch
):
    monkeypatch.setattr(WhiteningEStep, "WIDTH", width)
    theta, X = make_mixture("full", K, dimension), make_samples(n, dimension)
    origin = torch.full((dimension,), 0.5, dtype=F64)
    step = WhiteningEStep(theta._replace(means=theta.means - origin), origin)
    found = step.statistics(*step.block(X, a, F64, Buffers(torch.device("cpu"))))
    assert_close(found, e_step(theta, X, a), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("name", "n_components", "n_features", "faster"),
    [
        ("full", 10, 64, True),
        ("full", 10, 16, False),
        ("full", 32, 64, False),
        ("full", 32, 128, True),
        ("tied", 10, 128, False),
        ("diag", 10, 128, False),
        ("spherical", 10, 128, False),
    ],
)
def test_whitening_is_for_few_full_components_in_many_dimensions(
    name, n_components, n_features, faster
):
    kind = COVARIANCE_TYPES[name]
    assert WhiteningEStep.is_faster(kind, n_components, n_features) is faster
