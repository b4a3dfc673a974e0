"""The E-step that is chosen for a mixture and its samples."""

import pytest
import torch
from torch.testing import assert_close

from skgmmot.gaussian.choice import (
    accurate_dtype,
    fastest_e_step,
    feature_e_step,
    is_small,
    whitening_is_faster,
)
from skgmmot.gaussian.covariance.registry import COVARIANCE_TYPES
from skgmmot.gaussian.evaluators import DefinitionEStep, FeatureEStep, WhiteningEStep
from skgmmot.gaussian.log_density import log_density, log_joint, log_responsibilities

F64, F32 = torch.float64, torch.float32


def scaled(make_mixture, name, K, d, size=1.0, offset=0.0):
    """A mixture whose covariances are of the order of one, and means of a size about an offset."""
    theta = make_mixture(name, K, d)
    return theta._replace(means=size * theta.means + offset)


# --- what is chosen ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "n", "K", "d", "size", "dtype", "expected", "products"),
    [
        # few samples
        ("full", 10, 4, 3, 1, F64, DefinitionEStep, F64),
        ("full", 100, 3, 2, 1, F32, DefinitionEStep, F64),
        ("full", 90, 10, 100, 1, F64, DefinitionEStep, F64),
        ("tied", 10, 10, 10, 1, F64, DefinitionEStep, F64),
        # many
        ("full", 2000, 4, 3, 1, F64, FeatureEStep, F64),
        ("full", 2000, 4, 3, 1, F32, FeatureEStep, F32),
        ("full", 2000, 40, 40, 1, F64, FeatureEStep, F64),
        ("full", 2000, 4, 40, 1, F64, WhiteningEStep, F64),
        ("full", 2000, 4, 40, 0.1, F32, WhiteningEStep, F32),
        ("full", 200, 10, 100, 1, F64, WhiteningEStep, F64),
        ("tied", 2000, 4, 100, 1, F64, FeatureEStep, F64),
        ("diag", 2000, 4, 100, 0.1, F32, FeatureEStep, F32),
        ("spherical", 2000, 4, 100, 1, F64, FeatureEStep, F64),
        # components far from each other
        ("full", 2000, 4, 3, 30, F32, FeatureEStep, F64),
        ("full", 2000, 4, 3, 1e4, F32, DefinitionEStep, F64),
        ("diag", 2000, 4, 3, 1e4, F64, DefinitionEStep, F64),
        ("full", 2000, 4, 40, 1e4, F64, DefinitionEStep, F64),
    ],
)
@pytest.mark.parametrize("about_origin", [False, True])
def test_the_fastest_accurate_e_step_is_chosen(
    name, n, K, d, size, dtype, expected, products, about_origin, make_mixture
):
    theta = scaled(make_mixture, name, K, d, size)
    origin = (theta.weights @ theta.means).to(dtype)
    if about_origin:
        step = fastest_e_step(theta.translated(-origin), n, dtype, origin)
    else:
        step = fastest_e_step(theta, n, dtype)
    assert type(step) is expected
    assert step.dtype is products


def test_products_choose_an_origin_in_the_middle_of_the_mixture(make_mixture):
    theta = scaled(make_mixture, "full", 4, 3, offset=1e6 + 0.3)
    assert type(fastest_e_step(theta, 2000, F64)) is FeatureEStep
    assert type(fastest_e_step(theta, 2000, F64, torch.zeros(3))) is DefinitionEStep
    step = fastest_e_step(theta, 2000, F32)
    assert step.origin.dtype is F32
    assert_close(step.theta.means + step.origin.double(), theta.means, rtol=1e-15, atol=0)


@pytest.mark.parametrize("n_samples", [10, 10_000])
def test_features_for_derivatives_do_not_depend_on_the_number_of_samples(n_samples, make_mixture):
    theta, origin = make_mixture("full", 3, 2), torch.zeros(2)
    assert is_small(theta.prepare(), n_samples) is (n_samples == 10)
    assert type(feature_e_step(theta, F64, origin)) is FeatureEStep


def test_features_for_derivatives_are_none_where_they_are_too_many_or_lose_digits(make_mixture):
    assert feature_e_step(make_mixture("full", 2, 90), F64, torch.zeros(90)) is None
    assert feature_e_step(make_mixture("tied", 2, 90), F64, torch.zeros(90)) is not None
    far = scaled(make_mixture, "full", 2, 3, offset=1e6)
    assert feature_e_step(far, F64, torch.zeros(3)) is None


@pytest.mark.parametrize(
    ("dtype", "offset", "best"),
    [
        (F64, 0, F64),
        (F64, 30, F64),
        (F64, 1e4, None),
        (F32, 0, F32),
        (F32, 30, F64),
        (F32, 1e4, None),
    ],
)
def test_products_tell_which_dtype_keeps_enough_digits(
    covariance_type, dtype, offset, best, make_mixture
):
    theta = make_mixture(covariance_type, 3, 2)
    theta = theta._replace(means=theta.means / 2 + offset)
    assert accurate_dtype(theta.prepare(), dtype) is best


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
    assert whitening_is_faster(kind, n_components, n_features) is faster


# --- what it computes ----------------------------------------------------------------------------


@pytest.mark.parametrize("d", [3, 40])
@pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 1e-11), (F32, 1e-4)])
def test_products_give_the_log_joint_of_the_definition(
    covariance_type, d, dtype, tolerance, make_mixture, make_samples
):
    theta = scaled(make_mixture, covariance_type, 4, d, size=0.5, offset=5.0)
    X = 5 + make_samples(2000, d)
    step = fastest_e_step(theta.to(dtype=dtype), len(X), dtype)
    found = step.log_joint(X.to(dtype))
    assert found.dtype == step.dtype
    assert_close(found.double(), log_joint(theta.prepare(), X), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("offset", [0.0, 1e6 + 0.3])
@pytest.mark.parametrize("d", [3, 40])
def test_samples_in_float32_far_away_do_not_round_the_mixture(
    covariance_type, d, offset, make_mixture, make_samples
):
    theta = scaled(make_mixture, covariance_type, 4, d, size=0.1, offset=offset)
    X = (theta.means.repeat(500, 1) + make_samples(2000, d)).float()
    step = fastest_e_step(theta, len(X), F32)
    assert not isinstance(step, DefinitionEStep)
    expected = log_density(theta, X.double())
    assert_close(step.log_density(X).double(), expected, rtol=1e-4, atol=1e-4)


def test_a_float32_mixture_is_exact_in_itself(covariance_type, make_mixture, make_samples):
    theta, X = make_mixture(covariance_type, 4, 3).to(dtype=F32), make_samples(2000, 3)
    step = fastest_e_step(theta, len(X), F64)
    expected = log_responsibilities(theta.to(dtype=F64), X)
    # the factors are those of float32 covariances
    assert_close(step.log_responsibilities(X), expected, rtol=1e-4, atol=1e-4)
