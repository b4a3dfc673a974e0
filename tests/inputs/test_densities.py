"""Densities and weighted points as users give them: units, kinds, and what is refused."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from skgmmot import GridDensity
from skgmmot._inputs.densities import (
    MAX_SIZE,
    as_density,
    check_squares,
    grid_density,
    points_and_masses,
    reshaping,
)
from skgmmot.gaussian.mixture import GaussianMixtureParams

DOUBLE = torch.float64
NORMAL = ([1.0], [[0.0, 0.0, 1.0]], [[4.0, 9.0, 1.0]], "diag")


def test_an_image_is_measured_against_its_largest_pixel():
    density, kind = grid_density(
        GridDensity(np.array([[0, 2], [1, 4]], dtype=np.float32), origin="lower")
    )
    assert_close(density.values, torch.tensor([[0.0, 0.5], [0.25, 1.0]], dtype=DOUBLE))
    assert density.extent == (0.0, 1.0, 0.0, 1.0) and not kind.is_tensor
    assert grid_density(GridDensity(torch.ones(2, 2)))[1].is_tensor


def test_images_are_in_the_plane_and_mixtures_where_they_are():
    density, n_features, _ = as_density(GridDensity(np.ones((2, 3))))
    assert isinstance(density, GridDensity) and n_features == 2
    density, n_features, kind = as_density(NORMAL)
    assert isinstance(density, GaussianMixtureParams) and n_features == 3
    assert density.means.dtype == DOUBLE and not kind.is_tensor


def test_masses_are_measured_against_the_largest():
    points, masses, kinds = points_and_masses([[0, 1], [2, 3]], torch.tensor([1.0, 4.0]), 2)
    assert_close(points, torch.tensor([[0.0, 1.0], [2.0, 3.0]], dtype=DOUBLE))
    assert_close(masses, torch.tensor([0.25, 1.0], dtype=DOUBLE))
    assert [kind.is_tensor for kind in kinds] == [False, True]
    _, masses, kinds = points_and_masses(np.zeros((3, 2)), None, 2)
    assert_close(masses, torch.ones(3, dtype=DOUBLE))
    assert len(kinds) == 1


@pytest.mark.parametrize("size", [0.0, 1.0, MAX_SIZE / 2])
@pytest.mark.parametrize("width", [0.0, 1 / MAX_SIZE, MAX_SIZE])
def test_sizes_and_widths_with_squares_are_let_by(size, width):
    check_squares("it", size, width)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (
            (MAX_SIZE,),
            r"it must be smaller than 1e\+150 for squared distances, got a size of 1\.0e",
        ),
        ((np.nan,), r"it must be smaller than 1e\+150"),
        ((1.0, 0.9 / MAX_SIZE), "it must be wider than 1e-150 for squared distances, got a width"),
    ],
)
def test_sizes_and_widths_without_squares_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        check_squares("it", *sizes)


def test_the_size_of_a_mixture_is_that_of_its_means_and_deviations():
    with pytest.raises(ValueError, match=r"density must be smaller .* got a size of 2\.0e\+160"):
        as_density(([1.0], [[-2e160]], [[1.0]], "diag"))
    with pytest.raises(ValueError, match=r"density must be wider .* got a width of 1\.0e-152"):
        as_density(([1.0], [[0.0]], [[1e-304]], "diag"))


@pytest.mark.parametrize(
    "extent",
    [(1, 1, 0, 1), (0, 1, 1, 0), (0, 1, 0, np.inf), (0, 1, 0), (0, 1, 2, 2)],
)
def test_an_extent_must_have_an_inside(extent):
    with pytest.raises(ValueError, match="left < right and bottom < top, got"):
        grid_density(GridDensity(np.ones((2, 2)), extent))


def test_an_origin_is_upper_or_lower_and_rows_then_go_up():
    density, _ = grid_density(GridDensity(np.array([[0.0, 2.0], [1.0, 4.0]])))
    assert density.origin == "lower" and density.values[0, 1] == 1.0
    with pytest.raises(ValueError, match="origin of a GridDensity must be 'upper' or 'lower', got"):
        grid_density(GridDensity(np.ones((2, 2)), origin="top"))


@pytest.mark.parametrize("extent", [(0, 1, 0, 1e-200), (0, 1e-200, 0, 1)])
def test_an_extent_must_not_be_thinner_than_squares_allow(extent):
    with pytest.raises(ValueError, match="extent of a GridDensity must be wider"):
        grid_density(GridDensity(np.ones((2, 2)), extent))


def test_an_array_of_one_axis_is_told_how_to_get_two():
    assert reshaping("X", [1.0, 2.0], "Else.").startswith("Use X[:, None] if it holds one feature")
    assert reshaping("X", [[1.0, 2.0]], "Else.") == "Else."


def test_other_things_are_no_densities():
    with pytest.raises(TypeError, match=r"density must be a GridDensity.*got ndarray"):
        as_density(np.ones((3, 3)))
    with pytest.raises(ValueError, match="covariances of density must be positive definite"):
        as_density(([1.0], [[0.0, 0.0]], [[[1.0, 1.0], [1.0, 1.0]]]))


def test_an_image_of_one_row_is_a_density_and_one_of_none_is_refused():
    density, _ = grid_density(GridDensity(np.ones((1, 3)), extent=(0, 3, 0, 1)))
    assert density.values.shape == (1, 3)
    with pytest.raises(ValueError, match=r"must have shape \(rows, columns\), got \(0, 3\)"):
        grid_density(GridDensity(np.ones((0, 3)), extent=(0, 3, 0, 1)))


@pytest.mark.parametrize("extent", ["abcd", 3.0, (0, 1, 0, None), (0, 1, 0, "x")])
def test_ends_that_are_no_numbers_are_refused(extent):
    with pytest.raises(TypeError, match="extent of a GridDensity must hold numbers, got"):
        grid_density(GridDensity(np.ones((2, 2)), extent))
