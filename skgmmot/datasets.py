"""Data sets for examples and tests: photographs, and generators of samples."""

import math
from os import PathLike
from pathlib import Path

import numpy as np
from sklearn.utils import check_random_state

from skgmmot.numerics.counts import positive_integer

__all__ = ["load_photograph", "make_ring_square_line"]

#: Image formats that are read; decoders of others may execute code.
FORMATS = ("JPEG", "PNG", "TIFF", "WEBP")
#: Largest number of pixels of a picture: 1.2 GB in float64.
MAX_PIXELS = 50_000_000


def load_photograph(source: str | PathLike[str]) -> np.ndarray:
    """Load a picture as an array of red, green and blue.

    Parameters
    ----------
    source : {'china', 'flower'} or path
        One of scikit-learn's two photographs (427 x 640 pixels), or a JPEG, PNG, TIFF or WebP file
        of at most 50 million pixels.

        Pictures that are not RGB are converted: grey ones, of 8 or 16 bits, have three equal
        channels; palettes are looked up; what is transparent is laid over white; CMYK, YCbCr and
        Lab are converted by Pillow, without the file's colour profile. A photograph whose EXIF data
        say how the camera was held is turned upright.

    Returns
    -------
    ndarray of shape (height, width, 3)
        Red, green and blue in [0, 1], float64.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not such an image, is truncated or too large, or has numbers of no known
        range (32-bit integers, floats).

    Examples
    --------
    >>> from skgmmot.datasets import load_photograph
    >>> load_photograph("china").shape
    (427, 640, 3)
    """
    if str(source) in ("china", "flower"):
        from sklearn.datasets import load_sample_image

        return load_sample_image(f"{source}.jpg") / 255.0
    from PIL import Image, UnidentifiedImageError

    if not Path(source).is_file():
        raise FileNotFoundError(
            f"source must be 'china', 'flower' or an image file, got {str(source)!r}, which is no "
            "file. Check the path."
        )
    try:
        with Image.open(source, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(
                    f"{source} must have at most {MAX_PIXELS} pixels, got {image.width} x "
                    f"{image.height}. Make it smaller first."
                )
            return _as_rgb(_upright(image), source)
    except UnidentifiedImageError:
        raise ValueError(
            f"{source} must be an image file, got one that none of {', '.join(FORMATS)} reads. "
            "Convert it to one of them."
        ) from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{source} must be a whole image of at most {MAX_PIXELS} pixels, got one that cannot "
            f"be read: {error}. Save it again, or make it smaller."
        ) from error


def _upright(image):
    """The image turned or mirrored as its EXIF data say; without any, itself."""
    from PIL import ExifTags, ImageOps

    if image.getexif().get(ExifTags.Base.Orientation, 1) == 1:
        return image
    turned = ImageOps.exif_transpose(image)
    turned.format = image.format  # by which 16-bit grey is recognised
    return turned


def _as_rgb(image, source):
    """Red, green and blue in [0, 1] of an opened image of any mode."""
    from PIL import Image

    mode = image.mode
    if mode.startswith("I;16") or (mode == "I" and image.format == "PNG"):  # "I" by old Pillows
        return np.repeat(_grey_of_16_bits(image)[..., None], 3, axis=2)
    if mode in ("I", "F"):
        raise ValueError(
            f"{source} must hold numbers of 8 or 16 bits, got mode {mode!r}, whose range is not "
            "known. Scale its numbers to 0 to 255, and save them as 8-bit grey."
        )
    if "transparency" in image.info or mode in ("RGBA", "RGBa", "LA", "PA"):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"), dtype=np.float64) / 255.0


def _grey_of_16_bits(image):
    """Grey in [0, 1], with the range and direction that a TIFF's tags give."""
    tags = getattr(image, "tag_v2", {})
    bits, white_is_zero = tags.get(258, (16,))[0], tags.get(262) == 0
    grey = np.asarray(image, dtype=np.float64) / (2**bits - 1)
    return 1 - grey if white_is_zero else grey


def make_ring_square_line(
    n_samples: int = 850, *, random_state=None
) -> tuple[np.ndarray, np.ndarray]:
    """Draw samples uniformly from a ring, a square frame and the strip between them.

    The ring is centred at (1.5, 1.5), with radii 0.5 and 1; the strip is [2.5, 4] x [1.4, 1.6]; the
    frame is centred at (5.1, 1.5), with half-widths 0.9 and 1.1.

    Parameters
    ----------
    n_samples : int, default=850
        Number of samples.
    random_state : int, RandomState instance or None, default=None
        Source of random numbers.

    Returns
    -------
    X : ndarray of shape (n_samples, 2)
        Samples in random order.
    shape : ndarray of shape (n_samples,)
        Where each comes from: 0 the ring, 1 the strip, 2 the frame.

    Raises
    ------
    ValueError
        If ``n_samples`` is not positive.

    References
    ----------
    .. [1] Kolouri, Rohde and Hoffmann 2018, ring-square-line data.

    Examples
    --------
    >>> from skgmmot.datasets import make_ring_square_line
    >>> X, shape = make_ring_square_line(random_state=0)
    >>> X.shape
    (850, 2)
    """
    n_samples = positive_integer("n_samples", n_samples, "Draw at least one.")
    rng = check_random_state(random_state)
    areas = np.array([math.pi * (1 - 0.5**2), 1.5 * 0.2, 2.2**2 - 1.8**2])
    shape = rng.choice(3, size=n_samples, p=areas / areas.sum())
    first, second = rng.uniform(size=(2, n_samples))
    # for a uniform density, squared radii of circles and squares are uniform
    radius = np.sqrt(0.5**2 + first * (1 - 0.5**2))
    ring = radius * [np.cos(2 * np.pi * second), np.sin(2 * np.pi * second)]
    strip = np.array([1.5 * (first - 0.5), 0.2 * (second - 0.5)])
    reach = np.sqrt(0.9**2 + first * (1.1**2 - 0.9**2))
    frame = reach * _around_a_square(4 * second)
    centres = np.array([[1.5, 1.5], [3.25, 1.5], [5.1, 1.5]])
    return centres[shape] + np.choose(shape, [ring, strip, frame]).T, shape


def _around_a_square(turn):
    """Points ``(2, n)`` on the square of half-width one, ``turn`` sides away from a corner."""
    side, along = np.divmod(turn, 1)
    along = 2 * along - 1
    one = np.ones_like(along)
    return np.choose(side.astype(int), [[along, -one], [one, along], [-along, one], [-one, -along]])
