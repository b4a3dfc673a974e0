"""Data for examples and tests: small generators, and loaders of files that ship in wheels."""

from pathlib import Path

import numpy as np


def load_photograph(source):
    """Load an RGB picture as numbers.

    Parameters
    ----------
    source : {'china', 'flower'} or path
        One of scikit-learn's two photographs (427 x 640 pixels), or an image file.

    Returns
    -------
    ndarray of shape (height, width, 3)
        Red, green and blue in [0, 1], float64.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not an image, or not an RGB one.

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
        with Image.open(source) as image:
            if image.mode != "RGB":
                raise ValueError(
                    f"{source} must be an RGB image, got mode {image.mode!r}. Convert it first, "
                    "for instance with PIL.Image.open(path).convert('RGB')."
                )
            return np.asarray(image, dtype=np.float64) / 255.0
    except UnidentifiedImageError:
        raise ValueError(
            f"{source} must be an image file, got one that no image format reads. "
            "Pass a JPEG or PNG file."
        ) from None
