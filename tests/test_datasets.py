"""Loaders: photographs as numbers, and clear words for what is not one."""

import numpy as np
import pytest
from PIL import Image

from skgmmot.datasets import load_photograph


@pytest.mark.parametrize("name", ["china", "flower"])
def test_the_two_photographs_are_rgb_between_zero_and_one(name):
    picture = load_photograph(name)
    assert picture.shape == (427, 640, 3)
    assert picture.dtype == np.float64
    assert picture.min() >= 0 and picture.max() <= 1


def test_a_file_is_read_as_it_was_written(tmp_path, rng):
    pixels = rng.integers(0, 256, size=(5, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.array_equal(load_photograph(tmp_path / "a.png"), pixels / 255)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_an_image_that_is_not_rgb_is_refused(tmp_path, mode):
    path = tmp_path / "a.tiff"
    Image.new(mode, (4, 4)).save(path)
    with pytest.raises(ValueError, match=f"must be an RGB image, got mode '{mode}'. Convert it"):
        load_photograph(path)


def test_a_file_that_is_no_image_is_refused(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_text("not a picture")
    with pytest.raises(ValueError, match="must be an image file"):
        load_photograph(path)


def test_a_missing_file_is_refused():
    with pytest.raises(FileNotFoundError, match=r"got 'nowhere\.jpg', which is no file"):
        load_photograph("nowhere.jpg")
