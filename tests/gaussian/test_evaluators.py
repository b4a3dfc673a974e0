"""The E-step on blocks of samples: matrix products against the definition."""

import pytest
import torch
from torch.testing import assert_close

from skgmmot.fitting.em.step import m_step
from skgmmot.gaussian.evaluators import DefinitionEStep, FeatureEStep, WhiteningEStep
from skgmmot.gaussian.log_density import log_density, responsibilities
from skgmmot.gaussian.statistics import e_step
from skgmmot.numerics.blocks import Buffers

F64 = torch.float64
K, d, n = 3, 2, 60


def by_features(theta, blocks, dtype=F64, origin=0.5):
    """The statistics of `FeatureEStep` over blocks of samples and weights."""
    origin = torch.full((theta.means.shape[1],), origin, dtype=F64)
    total = None
    if theta.covariance_type.shared:
        rows = [(x.double() - origin, torch.ones(len(x)) if w is None else w) for x, w in blocks]
        total = sum((x * w.unsqueeze(1)).mT @ x for x, w in rows).unsqueeze(0)
    step = FeatureEStep(theta.translated(-origin), origin, dtype)
    buffers = Buffers(torch.device("cpu"))
    sums = [step.block(x, w, buffers) for x, w in blocks]
    sums = (sum(parts) for parts in zip(*sums, strict=True))
    return step.statistics(*sums, total_scatter=lambda: total)


def assert_same_step(theta, found, expected, **tolerances):
    assert_close(m_step(theta, found), m_step(theta, expected), **tolerances)
    assert_close(found.log_likelihood, expected.log_likelihood, **tolerances)


@pytest.mark.parametrize(
    ("name", "n_components", "expected"),
    [("full", 1, 100), ("full", 400, 52), ("full", 1000, 25), ("diag", 1, 16)],
)
def test_blocks_of_many_features_are_long_enough_to_pay_for_their_matrices(
    name, n_components, expected, make_mixture
):
    assert DefinitionEStep(make_mixture(name, n_components, 100)).min_rows == expected


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
    step = WhiteningEStep(theta.translated(-origin), origin)
    found = step.statistics(*step.block(X, a, Buffers(torch.device("cpu"))))
    assert_close(found, e_step(theta, X, a), rtol=1e-10, atol=1e-10)


# --- densities and responsibilities --------------------------------------------------------------


def evaluators(theta, origin, dtype):
    """The E-steps by products that there are for a mixture about an origin, by name."""
    about = theta.translated(-origin)
    found = {"features": FeatureEStep(about, origin.to(dtype), dtype)}
    if theta.covariance_type.name == "full":
        found["whitening"] = WhiteningEStep(about, origin.to(dtype), dtype)
    return found


def assert_same_values(step, definition, X, **tolerances):
    """Every value of a sample is that of the definition."""
    for name in ("log_joint", "log_density", "log_responsibilities"):
        found, expected = getattr(step, name)(X), getattr(definition, name)(X)
        assert_close(found.double(), expected, **tolerances)
    found, expected = step.responsibilities(X), definition.responsibilities(X)
    assert_close(found[0].double(), expected[0], **tolerances)
    assert_close(found[1].double(), expected[1], **tolerances)


@pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 1e-9), (torch.float32, 1e-3)])
@pytest.mark.parametrize("offset", [0.0, 1e5])
@pytest.mark.parametrize("dimension", [1, 3, 35])
def test_all_e_steps_agree_to_rounding(
    dtype, tolerance, offset, dimension, theta, make_mixture, make_samples
):
    name = theta.covariance_type.name
    theta = make_mixture(name, K, dimension)
    theta = theta._replace(means=theta.means / 4)
    origin = torch.full((dimension,), offset, dtype=F64).to(dtype).double()
    theta, X = theta.translated(origin), make_samples(n, dimension) + origin
    X = X.to(dtype)
    definition = DefinitionEStep(theta.translated(-origin), origin)
    for step in evaluators(theta, origin, dtype).values():
        assert step.log_joint(X).dtype is dtype
        assert_same_values(step, definition, X, rtol=tolerance, atol=tolerance)


def test_the_definition_takes_samples_as_they_are_without_an_origin(theta, X):
    step = DefinitionEStep(theta)
    assert_close(step.log_density(X), log_density(theta, X))
    resp, x = step.responsibilities(X)
    assert_close(resp, responsibilities(theta, X))
    assert_close(x, X.mT)


def test_components_without_weight_have_no_density_and_no_responsibility(theta, X):
    theta = theta._replace(weights=torch.tensor([0.3, 0.7, 0.0], dtype=F64))
    origin = torch.zeros(d, dtype=F64)
    for step in (*evaluators(theta, origin, F64).values(), DefinitionEStep(theta, origin)):
        assert (step.log_joint(X)[2] == -torch.inf).all()
        assert (step.responsibilities(X)[0][2] == 0).all()
        assert_same_values(step, DefinitionEStep(theta, origin), X)


@pytest.mark.parametrize("size", [1e40, 1e160, 1e200])
def test_samples_whose_squares_overflow_are_treated_as_by_the_definition(size, theta, X):
    X = X.index_fill(0, torch.tensor([7]), size) * torch.tensor([1.0, -0.5], dtype=F64)
    origin = torch.zeros(d, dtype=F64)
    definition = DefinitionEStep(theta, origin)
    for step in evaluators(theta, origin, F64).values():
        assert_same_values(step, definition, X, rtol=1e-9, atol=1e-9)
    assert definition.log_density(X)[7] == -torch.inf or size == 1e40
    assert (definition.responsibilities(X)[0][:, 7].max() == 1).all()


def test_float32_samples_whose_squares_overflow_there_do_not_in_the_definition(theta, X):
    X = X.index_fill(0, torch.tensor([7]), 1e25).float()
    origin = torch.zeros(d)
    for step in evaluators(theta, origin.double(), torch.float32).values():
        assert torch.isfinite(step.log_density(X)).all()
        assert_close(step.responsibilities(X)[0].sum(0).double(), torch.ones(n, dtype=F64))


def test_responsibilities_hold_no_subnormal_numbers(theta):
    X = torch.linspace(0, 400, 4000, dtype=F64).unsqueeze(1).expand(-1, d)
    for step in evaluators(theta, torch.zeros(d, dtype=F64), F64).values():
        resp, _ = step.responsibilities(X)
        assert (resp[resp > 0] >= torch.finfo(F64).tiny).all()


def test_e_steps_lend_and_take_memory_as_they_are_told(theta, X):
    buffers = Buffers(torch.device("cpu"))
    for step in evaluators(theta, torch.zeros(d, dtype=F64), F64).values():
        expected, _ = step.responsibilities(X)
        assert_close(step.responsibilities(X, buffers)[0], expected)
