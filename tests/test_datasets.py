"""Loaders: photographs as numbers, and clear words for what is not one."""

from importlib.metadata import version

import numpy as np
import pytest
from PIL import Image

from skgmmot.datasets import load_photograph, make_ring_square_line


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


def written(path, pixels, mode=None, **options):
    """The picture that is loaded from a file of such pixels."""
    Image.fromarray(pixels, mode).save(path, **options)
    return load_photograph(path)


@pytest.mark.parametrize("kind", ["png", "tiff", "jpeg"])
def test_grey_pictures_have_three_equal_channels(tmp_path, kind):
    grey = np.full((8, 8), 51, dtype=np.uint8)
    picture = written(tmp_path / f"a.{kind}", grey)
    assert picture.shape == (8, 8, 3) and np.allclose(picture, 0.2)


@pytest.mark.parametrize("kind", ["png", "tiff"])
@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
def test_grey_pictures_of_16_bits_keep_them(tmp_path, kind, dtype):
    if (dtype, kind) == (">u2", "png") and version("pillow") < "11":
        pytest.skip("Pillow does not write them")
    grey = np.array([[0, 1, 300], [13107, 65534, 65535]])
    Image.fromarray(grey.astype(dtype)).save(tmp_path / f"a.{kind}")
    assert np.array_equal(load_photograph(tmp_path / f"a.{kind}"), np.stack([grey / 65535] * 3, 2))


def test_a_tiff_may_have_fewer_bits_or_white_as_zero(tmp_path):
    path, grey = tmp_path / "a.tiff", np.array([[0, 4095]], dtype=np.uint16)
    Image.fromarray(grey).save(path, tiffinfo={262: 0})
    content = path.read_bytes()
    assert np.allclose(load_photograph(path)[0, :, 0], [1, 1 - 4095 / 65535])
    # 12 bits a sample: the two samples 0x000 and 0xfff in three bytes
    entry = content.index(b"\x02\x01\x03\x00\x01\x00\x00\x00\x10\x00")
    twelve = content[:entry] + content[entry:].replace(b"\x10\x00", b"\x0c\x00", 1)
    photometric = b"\x06\x01\x03\x00\x01\x00\x00\x00"
    twelve = twelve.replace(photometric + b"\x00", photometric + b"\x01")
    path.write_bytes(twelve[:-4] + b"\x00\x0f\xff\x00")
    assert load_photograph(path)[0, :, 0].tolist() == [0, 1]


def test_what_is_transparent_is_laid_over_white(tmp_path):
    pixels = np.array([[[255, 0, 0, 0], [255, 0, 0, 255], [0, 0, 0, 51]]], dtype=np.uint8)
    expected = [[[1, 1, 1], [1, 0, 0], [0.8, 0.8, 0.8]]]
    assert np.allclose(written(tmp_path / "a.png", pixels), expected)
    assert np.allclose(written(tmp_path / "a.tiff", pixels), expected)
    grey = np.array([[[0, 0], [0, 255], [0, 51]]], dtype=np.uint8)
    assert np.allclose(written(tmp_path / "b.png", grey)[0, :, 1], [1, 0, 0.8])


def test_palettes_are_looked_up(tmp_path):
    picture = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8)).convert("P")
    picture.putpalette([255, 0, 0, 0, 51, 0, 0, 0, 255])
    picture.save(tmp_path / "a.png")
    assert np.allclose(load_photograph(tmp_path / "a.png"), [[[1, 0, 0], [0, 0.2, 0], [0, 0, 1]]])
    picture.save(tmp_path / "b.png", transparency=1)
    assert np.allclose(load_photograph(tmp_path / "b.png"), [[[1, 0, 0], [1, 1, 1], [0, 0, 1]]])


@pytest.mark.parametrize(
    ("mode", "white"),
    [("1", 1), ("CMYK", (0, 0, 0, 0)), ("YCbCr", (255, 128, 128)), ("LAB", (255, 128, 128))],
)
def test_other_colour_spaces_are_converted(tmp_path, mode, white):
    if mode == "YCbCr" and version("pillow") < "11":
        pytest.skip("Pillow does not read what it writes")
    path = tmp_path / "a.tiff"
    Image.new(mode, (4, 3), white).save(path)
    picture = load_photograph(path)
    assert picture.shape == (3, 4, 3) and np.allclose(picture, 1, atol=1 / 255)  # 8 bits of Lab


@pytest.mark.parametrize("mode", ["I", "F"])
def test_numbers_of_unknown_range_are_refused(tmp_path, mode):
    path = tmp_path / "a.tiff"
    Image.new(mode, (4, 4)).save(path)
    with pytest.raises(ValueError, match=f"8 or 16 bits, got mode '{mode}', whose range .* Scale"):
        load_photograph(path)


def test_a_file_that_is_no_image_is_refused(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_text("not a picture")
    with pytest.raises(ValueError, match="must be an image file"):
        load_photograph(path)


def test_a_missing_file_is_refused():
    with pytest.raises(FileNotFoundError, match=r"got 'nowhere\.jpg', which is no file"):
        load_photograph("nowhere.jpg")


def test_the_ring_the_strip_and_the_frame_have_their_places_and_areas(random_seed):
    X, shape = make_ring_square_line(100_000, random_state=random_seed)
    ring, strip, frame = (X[shape == i] for i in range(3))
    radius = np.linalg.norm(ring - 1.5, axis=1)
    assert radius.min() >= 0.5 and radius.max() <= 1
    assert ((strip >= [2.5, 1.4]) & (strip <= [4, 1.6])).all()
    reach = np.abs(frame - [5.1, 1.5]).max(axis=1)
    assert reach.min() >= 0.9 and reach.max() <= 1.1
    areas = np.array([np.pi * 0.75, 0.3, 1.6])
    assert np.abs(np.bincount(shape) / len(X) - areas / areas.sum()).max() < 0.005


def test_the_shapes_are_filled_uniformly(random_seed):
    X, shape = make_ring_square_line(200_000, random_state=random_seed)
    # equal areas: the ring cut at half its area, quarters of the frame, its corners and its sides
    radius = np.linalg.norm(X[shape == 0] - 1.5, axis=1)
    assert abs((radius < np.sqrt((0.5**2 + 1) / 2)).mean() - 0.5) < 0.01
    frame = X[shape == 2] - [5.1, 1.5]
    assert np.abs(frame.mean(axis=0)).max() < 0.02
    in_corners = (np.abs(frame) > 0.9).all(axis=1).mean()
    assert abs(in_corners - 4 * 0.2**2 / 1.6) < 0.005
    strip = X[shape == 1]
    assert np.abs(np.histogram(strip[:, 0], 5)[0] / len(strip) - 0.2).max() < 0.015


def test_a_seed_repeats_the_draw():
    first, second, other = (make_ring_square_line(50, random_state=i)[0] for i in (3, 3, 4))
    assert np.array_equal(first, second) and not np.array_equal(first, other)


def test_no_samples_are_refused():
    with pytest.raises(ValueError, match="n_samples must be a positive integer, got 0"):
        make_ring_square_line(0)
    assert make_ring_square_line(1)[0].shape == (1, 2)


@pytest.mark.parametrize("kind", ["png", "jpeg", "tiff", "webp"])
def test_a_truncated_picture_is_refused_in_words(tmp_path, kind):
    path = tmp_path / f"picture.{kind}"
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    assert load_photograph(path).shape == (40, 40, 3)
    path.write_bytes(path.read_bytes()[:-800])
    with pytest.raises(ValueError, match="must be a"):
        load_photograph(path)


def test_formats_that_run_programs_are_not_opened(tmp_path):
    path = tmp_path / "picture.eps"
    Image.new("RGB", (4, 4)).save(path)
    with pytest.raises(ValueError, match="none of JPEG, PNG, TIFF, WEBP reads"):
        load_photograph(path)


def test_a_picture_of_too_many_pixels_is_not_read(tmp_path, monkeypatch):
    path = tmp_path / "picture.png"
    Image.new("RGB", (5, 4)).save(path)
    monkeypatch.setattr("skgmmot.datasets.MAX_PIXELS", 19)
    with pytest.raises(ValueError, match="at most 19 pixels, got 5 x 4"):
        load_photograph(path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_as_the_camera_was_held(tmp_path, orientation):
    """The eight orientations of EXIF, in which a picture with a red corner is written."""
    upright = np.zeros((6, 9, 3), dtype=np.uint8)
    upright[0, 0], upright[0, 1] = (255, 0, 0), (0, 255, 0)
    written = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: upright.swapaxes(0, 1)[::-1],
        7: upright.swapaxes(0, 1)[::-1, ::-1],
        8: upright.swapaxes(0, 1)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[274] = orientation
    for name in ("picture.png", "picture.webp"):
        path = tmp_path / name
        Image.fromarray(np.ascontiguousarray(written)).save(path, exif=exif, lossless=True)
        np.testing.assert_array_equal(load_photograph(path) * 255, upright)


def test_a_turned_picture_keeps_its_16_bits_and_its_transparency(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    deep = np.arange(6, dtype=np.uint16).reshape(2, 3) * 1000
    Image.fromarray(deep).save(tmp_path / "deep.png", exif=exif)
    found = load_photograph(tmp_path / "deep.png")
    np.testing.assert_allclose(found[..., 0] * 65535, np.rot90(deep, -1), rtol=1e-12)
    clear = np.zeros((2, 3, 4), dtype=np.uint8)
    Image.fromarray(clear).save(tmp_path / "clear.png", exif=exif)
    np.testing.assert_array_equal(load_photograph(tmp_path / "clear.png"), np.ones((3, 2, 3)))
