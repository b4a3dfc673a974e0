"""Mixtures as users give them: shapes, precision, and what is refused."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from skgmmot._inputs.mixtures import (
    as_mixture,
    as_pair,
    in_double,
    is_mixture,
    mixture_from_tuple,
    rounding,
    with_plain_matrices,
)
from skgmmot.gaussian.covariance.registry import COVARIANCE_TYPES, SPHERICAL
from skgmmot.gaussian.mixture import GaussianMixtureParams


@pytest.mark.parametrize("mixture_type", ["public", "storage"])
@pytest.mark.parametrize(
    "name, public, storage",
    [
        ("full", (3, 2, 2), (3, 2, 2)),
        ("tied", (2, 2), (1, 2, 2)),
        ("diag", (3, 2), (3, 2)),
        ("spherical", (3,), (3, 1)),
    ],
)
def test_covariances_are_recognised_by_their_shape(name, public, storage, mixture_type):
    shape = public if mixture_type == "public" else storage
    covariances = np.eye(2) * np.ones(shape) if name in ("full", "tied") else np.ones(shape)
    for covariance_type in (None, name):
        params, kind = mixture_from_tuple(
            [0.2, 0.3, 0.5], np.zeros((3, 2)), covariances, covariance_type
        )
        assert params.covariances.shape == storage
        assert not kind.is_tensor


@pytest.mark.parametrize(
    ("dtype", "accepted", "refused"), [(np.float64, 1e-6, 1e-3), (np.float16, 3e-3, 1e-2)]
)
def test_weights_sum_to_one_to_their_precision(dtype, accepted, refused):
    for off in (accepted, -accepted):
        weights = np.array([0.5, 0.5 + off], dtype)
        mixture_from_tuple(weights, np.zeros((2, 2)), np.ones(2), "spherical")
    for off in (refused, -refused):
        weights = np.array([0.5, 0.5 + off], dtype)
        with pytest.raises(ValueError, match="weights must be non-negative and sum to 1, got sum"):
            mixture_from_tuple(weights, np.zeros((2, 2)), np.ones(2), "spherical")


def test_means_of_one_axis_are_told_how_to_get_two():
    with pytest.raises(ValueError, match=r"and \(2,\). Use means\[:, None\] for one feature"):
        mixture_from_tuple([0.5, 0.5], [0.0, 1.0], [1.0, 1.0])


@pytest.mark.parametrize("shape", [(0, 2), (1, 0)])
def test_a_mixture_of_nothing_is_refused(shape):
    weights, covariances = np.full(shape[0], 1.0), np.ones(shape)
    with pytest.raises(ValueError, match="at least one component and one feature, got means of sh"):
        mixture_from_tuple(weights, np.zeros(shape), covariances, "diag")


def test_arrays_of_a_mixture_keep_their_precision_and_weights_sum_to_one_in_double():
    weights = np.full(3, 1 / 3, dtype=np.float32)
    params, _ = mixture_from_tuple(weights, np.zeros((3, 2)), np.ones(3), "spherical")
    assert (params.weights.dtype, params.means.dtype) == (torch.float32, torch.float64)
    assert in_double(params).weights.sum() == 1
    assert weights.astype(float).sum() != 1


@pytest.mark.parametrize(
    ("array", "eps"),
    [
        (np.ones(2, np.float16), 2**-10),
        (torch.ones(2, dtype=torch.bfloat16), 2**-7),
        (np.ones(2, np.float32), 2**-23),
        (np.ones(2), 2**-52),
        (np.ones(2, int), 2**-52),
        (torch.ones(2, dtype=torch.int32), 2**-52),
        ([1.0, 1.0], 2**-52),
    ],
)
def test_the_precision_of_an_array_is_that_of_its_dtype(array, eps):
    assert rounding(array) == eps


@pytest.mark.parametrize("name", ["diag", "spherical"])
def test_a_negative_variance_is_named_by_its_component(name):
    variances = np.ones((3, 2)) if name == "diag" else np.ones((3, 1))
    variances[1, 0] = -0.5
    with pytest.raises(ValueError, match=r"smallest eigenvalue -0\.5 in component 1"):
        mixture_from_tuple(np.full(3, 1 / 3), np.zeros((3, 2)), variances, name)


def test_times_are_no_points_of_a_mixture():
    times = np.ones((1, 1)).astype("datetime64[s]")
    with pytest.raises(TypeError, match="must hold numbers, got datetime64"):
        mixture_from_tuple([1.0], times, np.ones((1, 1, 1)))


def test_finite_numbers_whose_sum_is_infinite_are_accepted():
    means = np.full((2, 1), 1e308)
    params, _ = mixture_from_tuple([0.5, 0.5], means, np.ones((2, 1)), "diag")
    assert np.array_equal(params.means, means)
    means[1] = -np.inf
    with pytest.raises(ValueError, match="must be finite"):
        mixture_from_tuple([0.5, 0.5], means, np.ones((2, 1)), "diag")


def test_matrices_are_symmetric_up_to_a_share_of_their_size():
    matrices = np.array([[[1e8, 1.0], [0.0, 1e8]], [[1e-8, 0.0], [0.0, 1e-8]]])
    mixture_from_tuple([0.5, 0.5], np.zeros((2, 2)), matrices)
    matrices[1, 0, 1] = 1e-12
    with pytest.raises(ValueError, match="must be symmetric"):
        mixture_from_tuple([0.5, 0.5], np.zeros((2, 2)), matrices)


def test_mixtures_that_are_compared_have_weights_of_one_dtype_and_the_rest_in_double():
    weights = np.full(3, 1 / 3)
    coarse = weights.astype(np.float32), np.zeros((3, 1), np.float32), np.ones(3, np.float32)
    fine = torch.tensor(weights), torch.zeros(3, 1), torch.ones(3, 1)
    source, target, kind = as_pair((*coarse, "spherical"), (*fine, "spherical"))
    assert kind.is_tensor
    assert torch.equal(source.weights, target.weights)
    assert source.weights.dtype == torch.float32
    assert {t.dtype for m in (source, target) for t in (m.means, m.covariances)} == {torch.float64}


@pytest.mark.parametrize("name", list(COVARIANCE_TYPES))
@pytest.mark.parametrize("K, d", [(3, 2), (1, 2), (3, 1), (1, 1)])
def test_a_value_is_a_mixture_of_its_own_type(name, K, d, make_mixture):
    kind, value = COVARIANCE_TYPES[name], make_mixture(name, K, d)
    value = value._replace(covariance_type=kind)
    assert is_mixture(value)
    params, _ = as_mixture(value)
    assert params.covariance_type == (kind.reduced(K, d) if K * d > 1 else SPHERICAL)
    assert_close(params.full_covariances(), value.full_covariances())
    named, _ = as_mixture((*value, name))
    assert named.covariance_type == params.covariance_type


def test_factors_of_a_single_number_are_its_variance():
    found, _ = as_mixture(([1.0], [[0.0]], [[[3.0, 1.0]]], "lowrank"))
    assert found.covariance_type == SPHERICAL
    assert found.covariances.tolist() == [[10.0]]


def test_a_value_with_noise_is_read_as_its_components_like_an_estimator_with_noise():
    weights, means = torch.tensor([0.25, 0.75]).double(), torch.zeros(2, 1).double()
    alone = GaussianMixtureParams(weights, means, torch.ones(2, 1).double(), "spherical")
    found, _ = as_mixture(alone.with_noise(0.2, -3.0))
    assert torch.allclose(found.weights, weights) and found.noise is None


def test_singular_covariances_of_many_features_are_not_refused_for_rounding(rng):
    factors = 1 + rng.normal(size=(400, 2)) / 10
    params, _ = as_mixture(([1.0], [np.zeros(400)], [factors @ factors.T]))
    assert params.means.shape == (1, 400)


def test_one_component_of_one_feature_and_a_factor_has_the_sum_of_both_variances():
    params, _ = as_mixture(([1.0], [[2.0]], [[[3.0, 1.0]]], "lowrank"))
    assert params.full_covariances().tolist() == [[[10.0]]]


FLAT = np.ones(2) / 2, np.zeros((2, 3)), np.stack([np.eye(3)] * 2)


@pytest.mark.parametrize(
    ("parts", "plain"),
    [
        (FLAT, True),
        ((*FLAT, "full"), True),
        ((*FLAT, "tied"), False),
        (tuple(map(torch.from_numpy, FLAT)), True),
        ((torch.from_numpy(FLAT[0]), *FLAT[1:]), True),
        ((FLAT[0].tolist(), *FLAT[1:]), False),
        ((FLAT[0], FLAT[1].astype(np.float32), FLAT[2]), False),
        ((FLAT[0], FLAT[1].astype(">f8"), FLAT[2]), False),
        ((FLAT[0], torch.from_numpy(FLAT[1]).to_sparse(), FLAT[2]), False),
        ((*FLAT[:2], FLAT[2][:1]), False),
        ((*FLAT[:2], np.ones((2, 3))), False),
        ((FLAT[0][:1], *FLAT[1:]), False),
        ((*FLAT, np.ones(2)), False),
        ((FLAT[0][:0], FLAT[1][:0], FLAT[2][:0]), False),
    ],
)
def test_which_mixtures_need_no_conversion(parts, plain):
    assert with_plain_matrices(parts) is plain
