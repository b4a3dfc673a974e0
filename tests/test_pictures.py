"""Recoloured pictures: smooth where their sources are, and in the gamut."""

import numpy as np
import pytest

from skgmmot import DifferentiableGaussianMixture, OTMap
from skgmmot.datasets import load_photograph
from skgmmot.pictures import _interpolated, into_gamut, smooth_recolouring


@pytest.fixture(scope="module")
def photograph():
    return load_photograph("china")[::2, ::2]


def banding(source, result):
    """The share of neighbours alike in the source that a step parts in the result."""
    steps, pairs = 0, 0
    for axis in (0, 1):
        before, after = (np.abs(np.diff(p, axis=axis)).max(-1) for p in (source, result))
        alike = before < 2.5 / 255
        steps, pairs = steps + (after[alike] > 10 / 255).sum(), pairs + alike.sum()
    return steps / pairs


def test_no_change_of_colour_leaves_a_picture_as_it_is(photograph):
    inner = 0.3 + 0.4 * photograph.mean(-1, keepdims=True) + 0.05 * photograph
    assert np.allclose(smooth_recolouring(inner, inner), inner, rtol=0, atol=1e-12)


@pytest.mark.parametrize("radius", [None, 3, 40])
@pytest.mark.parametrize("size", [(90, 60), (61, 140), (3, 5)])
def test_a_constant_change_is_kept_to_the_last_digits(size, radius, rng):
    source = 0.5 + 0.1 * rng.uniform(size=(*size, 3))
    change = np.array([0.05, -0.1, 0.02])
    found = smooth_recolouring(source, source + change, radius=radius)
    assert np.allclose(found, source + change, rtol=0, atol=1e-12)


def test_an_affine_change_is_kept_where_the_source_has_contrast(photograph):
    A = np.array([[0.5, 0.1, 0.0], [0.0, 0.6, 0.1], [0.1, 0.0, 0.4]])
    recoloured = 0.15 + photograph @ A
    found = smooth_recolouring(photograph, recoloured)
    assert np.sqrt(np.mean((found - into_gamut(recoloured)) ** 2)) < 0.01
    finer = smooth_recolouring(photograph, recoloured, contrast=1e-4)
    assert np.abs(finer - into_gamut(recoloured)).max() < 1e-3


@pytest.mark.usefixtures("random_seed")
def test_noise_of_the_map_goes_and_edges_of_the_source_stay(rng):
    source = np.full((80, 120, 3), 0.3)
    source[:, 60:] = 0.7
    target = np.where(source < 0.5, [0.4, 0.3, 0.5], [0.6, 0.8, 0.5])
    found = smooth_recolouring(source, target + 0.1 * rng.normal(size=source.shape))
    assert np.abs(found - target).max() < 0.07  # noise of 0.1, sampled and averaged in the window
    assert (found[:, 60, 1] - found[:, 59, 1]).min() > 0.4


@pytest.mark.parametrize("n_components, reg_covar", [(3, 1e-4), (10, 1e-6), (30, 1e-6)])
def test_the_sky_has_no_bands_and_no_colour_is_clipped(photograph, n_components, reg_covar):
    target = load_photograph("flower")[::4, ::4].reshape(-1, 3)
    mixture = DifferentiableGaussianMixture(
        n_components, reg_covar=reg_covar, tol=1e-2, random_state=0
    )
    transport = OTMap(target, mixture=mixture).fit(photograph[::2, ::2].reshape(-1, 3))
    plain = transport.transform(photograph.reshape(-1, 3)).reshape(photograph.shape)
    smooth = smooth_recolouring(photograph, plain)
    assert banding(photograph, smooth) < 0.004
    if n_components > 3:
        assert banding(photograph, plain.clip(0, 1)) > 0.05
    assert smooth.min() >= 0 and smooth.max() <= 1
    clipped = ((plain <= 0) | (plain >= 1)).any(-1).mean()
    assert clipped > 0.03 and ((smooth == 0) | (smooth == 1)).any(-1).mean() < 0.01
    for moment in (np.mean, np.std):  # the palette is still that of the target, as far as before
        before, after = (moment(p.reshape(-1, 3), axis=0) for p in (plain, smooth))
        assert np.abs(after - before).max() < 0.025


def test_colours_go_to_the_gamut_along_their_hue():
    outside = np.array([[-0.2, 0.3, 0.5], [0.5, 1.4, 0.2], [1.2, 1.3, 1.1], [-1.0, -2.0, 0.0]])
    found = into_gamut(outside)
    assert found.min() >= 0 and found.max() <= 1
    for before, after in zip(outside[:2], found[:2], strict=True):
        away = before - before.mean(), after - after.mean()
        assert np.isclose(np.dot(*away), np.prod([np.linalg.norm(v) for v in away]))
        assert np.isclose(after.mean(), before.mean())
    assert np.allclose(found[2:], [[1, 1, 1], [0, 0, 0]])  # nothing is whiter or blacker


def test_colours_well_inside_stay_and_different_ones_stay_different():
    grey = np.full(3, 0.5)
    ray = grey + np.linspace(0, 1.2, 50)[:, None] * [0.4, -0.1, -0.3]
    found = into_gamut(ray)
    inside = np.abs(ray - grey).max(1) <= 0.45
    assert np.allclose(found[inside], ray[inside])
    assert (np.diff(found[:, 0]) > 0).all()
    assert np.array_equal(into_gamut(np.zeros((2, 4, 3))), np.zeros((2, 4, 3)))


GOOD = np.full((4, 5, 3), 0.5)


@pytest.mark.parametrize(
    "pictures, options, message",
    [
        ((GOOD.reshape(-1, 3), GOOD), {}, r"source must have shape \(height, width, 3\), got \(20"),
        (
            (GOOD, GOOD[:2]),
            {},
            r"recoloured must have the shape of source, \(4, 5, 3\), got \(2, 5",
        ),
        ((GOOD, GOOD * np.nan), {}, "recoloured must be finite"),
        ((np.where(np.arange(3) < 2, GOOD, np.inf), GOOD), {}, "source must be finite"),
        ((GOOD[:0], GOOD[:0]), {}, "source must have shape"),
        ((255 * GOOD, GOOD), {}, r"source must be in \[0, 1\], got values from 128 .* by 255"),
        ((GOOD - 1, GOOD), {}, r"source must be in \[0, 1\], got values from -0.5"),
        ((GOOD, GOOD), {"radius": 0}, "radius must be positive, got 0"),
        ((GOOD, GOOD), {"contrast": np.nan}, "contrast must be positive, got nan"),
    ],
)
def test_what_is_no_pair_of_pictures_is_refused(pictures, options, message):
    with pytest.raises(ValueError, match=message):
        smooth_recolouring(*pictures, **options)


def test_between_the_pixels_of_a_coarse_picture_it_is_linear(rng):
    offsets = rng.normal(size=(4, 5, 3))
    change = _interpolated(np.zeros((4, 5, 3, 3)), offsets, np.zeros((7, 9, 3)), 2)
    assert np.allclose(change[::2, ::2], offsets)
    assert np.allclose(change[1::2, ::2], (offsets[1:] + offsets[:-1]) / 2)
