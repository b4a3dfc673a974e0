"""Smoothing of recoloured pictures, and mapping of their colours into the gamut."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.ndimage import map_coordinates, uniform_filter

__all__ = ["into_gamut", "smooth_recolouring"]

#: Default radius of windows, as a share of the picture's shorter side.
RADIUS_SHARE = 1 / 20
#: Number of samples along the radius of a window: the cost does then not grow with the radius.
RADIUS_SAMPLES = 8
#: Share of the way from grey to the edge of the gamut from which on colours are compressed.
COMPRESSION_START = 0.9


def smooth_recolouring(
    source: np.ndarray, recoloured: np.ndarray, *, radius: int | None = None, contrast: float = 0.03
) -> np.ndarray:
    """Smooth the change of colours between a picture and its recoloured version by a guided filter.

    The change ``recoloured - source`` is replaced by the local affine function of the source's
    colours that is nearest to it. So edges and details of the source are kept, and artefacts of the
    recolouring (bands, blocks, noise and haloes) are removed. Colours outside the gamut are then
    moved towards the grey of the same mean, which keeps their hue.

    Parameters
    ----------
    source : array-like of shape (height, width, 3)
        The picture as it was, in [0, 1].
    recoloured : array-like of shape (height, width, 3)
        Its recoloured version, such as the images of its pixels under `OTMap`; unclipped.
    radius : int, default=None
        Radius in pixels of the windows in which the change is one affine function; None is a
        twentieth of the shorter side. Changes between larger parts of a picture are kept.
    contrast : float, default=0.03
        Regions of the source whose colours differ by less are treated as one surface, in which the
        change is constant.

    Returns
    -------
    ndarray of shape (height, width, 3)
        The recoloured picture, in [0, 1].

    Raises
    ------
    ValueError
        If the pictures are not RGB, not finite or not of one size, if ``source`` is not in [0, 1],
        or a parameter is not positive.

    Notes
    -----
    Costs ``O(height width)`` for any radius: windows are sampled at about 17 points along each
    side, and the affine functions are interpolated between them.

    References
    ----------
    .. [1] Rabin, Delon and Gousseau 2011, regularisation of transport maps for colour transfer.
    .. [2] He, Sun and Tang 2013, the guided filter, equations 5, 6 and 8.

    Examples
    --------
    >>> import numpy as np
    >>> from skgmmot.pictures import smooth_recolouring
    >>> rng = np.random.default_rng(0)
    >>> source = np.tile(np.linspace(0.2, 0.6, 90)[:, None, None], (1, 60, 3))
    >>> recoloured = source * [1.0, 0.8, 0.6] + 0.05 * rng.normal(size=source.shape)
    >>> smooth = smooth_recolouring(source, recoloured)
    >>> bool((smooth - source * [1.0, 0.8, 0.6]).std() < 0.05 / 5)
    True
    """
    source, recoloured = _pictures(source, recoloured)
    for name, value in (("radius", radius), ("contrast", contrast)):
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be positive, got {value!r}. Omit it to use the default.")
    radius = max(2, round(min(source.shape[:2]) * RADIUS_SHARE)) if radius is None else radius
    step = max(1, int(radius) // RADIUS_SAMPLES)
    guide, change = source[::step, ::step], (recoloured - source)[::step, ::step]
    slopes, offsets = _affine_in_windows(guide, change, max(1, round(radius / step)), contrast)
    return into_gamut(source + _interpolated(slopes, offsets, source, step))


def into_gamut(colours: ArrayLike) -> np.ndarray:
    """Map colours into [0, 1] by moving them towards the grey of the same mean.

    Parameters
    ----------
    colours : array-like of shape (..., 3)
        Red, green and blue.

    Returns
    -------
    ndarray of shape (..., 3)
        Colours of the same hue. Those beyond 0.9 of the way from grey to the edge are compressed
        into the last tenth, so that different colours stay different.

    Examples
    --------
    >>> from skgmmot.pictures import into_gamut
    >>> into_gamut([[0.5, 0.4, 0.6], [-0.2, 0.3, 0.5]]).round(2)
    array([[0.5 , 0.4 , 0.6 ],
           [0.  , 0.25, 0.35]])
    """
    colours = np.asarray(colours, dtype=np.float64)
    grey = colours.mean(axis=-1, keepdims=True).clip(0, 1)
    away = colours - grey
    room = np.where(away > 0, 1 - grey, grey)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(away == 0, 0, np.abs(away) / room).max(axis=-1, keepdims=True)
        kept = COMPRESSION_START + (1 - COMPRESSION_START) * np.tanh(
            (share - COMPRESSION_START) / (1 - COMPRESSION_START)
        )
        scale = np.where(share > COMPRESSION_START, kept / share, 1)
    return (grey + scale * away).clip(0, 1)  # the clip is for rounding


def _pictures(source, recoloured):
    """Validate two pictures, and return them as arrays."""
    found = [np.asarray(picture, dtype=np.float64) for picture in (source, recoloured)]
    for name, picture in zip(("source", "recoloured"), found, strict=True):
        if picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
            raise ValueError(
                f"{name} must have shape (height, width, 3), got {picture.shape}. "
                "Reshape the pixels to the picture."
            )
        if not np.isfinite(picture).all():
            raise ValueError(f"{name} must be finite, got NaN or infinity. Replace those pixels.")
    if not (found[0].min() >= 0 and found[0].max() <= 1):
        raise ValueError(
            f"source must be in [0, 1], got values from {found[0].min():.3g} to "
            f"{found[0].max():.3g}. Divide both pictures by 255 if they are of 8 bits."
        )
    if found[0].shape != found[1].shape:
        raise ValueError(
            f"recoloured must have the shape of source, {found[0].shape}, got {found[1].shape}. "
            "Reshape the images of the pixels."
        )
    return found


def _affine_in_windows(guide, change, radius, contrast):
    """Least-squares affine functions of windows, averaged: slopes ``(h, w, 3, 3)`` and offsets."""
    h, w, _ = guide.shape

    def mean(values):
        flat = values.reshape(h, w, -1)
        return uniform_filter(flat, (2 * radius + 1, 2 * radius + 1, 0)).reshape(values.shape)

    guide_mean, change_mean = mean(guide), mean(change)
    centred = guide - guide.mean(axis=(0, 1))
    centred_mean = mean(centred)

    def covariance(values, values_mean):
        products = mean(centred[..., :, None] * values[..., None, :])
        return products - centred_mean[..., :, None] * values_mean[..., None, :]

    regularised = covariance(centred, centred_mean) + contrast**2 * np.eye(3)
    slopes = np.linalg.solve(regularised, covariance(change, change_mean))
    offsets = change_mean - np.einsum("hwi,hwij->hwj", guide_mean, slopes)
    return mean(slopes), mean(offsets)


def _interpolated(slopes, offsets, guide, step):
    """Evaluate affine functions, given at every ``step``-th pixel, at all pixels of the guide."""
    at = np.indices(guide.shape[:2]) / step

    def everywhere(values):
        return map_coordinates(values, at, order=1, mode="nearest")

    change = np.empty_like(guide)
    for j in range(3):
        change[..., j] = everywhere(offsets[..., j])
        for i in range(3):
            change[..., j] += everywhere(slopes[..., i, j]) * guide[..., i]
    return change
