"""Validation of densities and weighted points given by users."""

import math

import numpy as np
import torch

from skgmmot._inputs.arrays import as_tensor, kind_of
from skgmmot._inputs.mixtures import as_mixture, looks_like_mixture
from skgmmot.transport.semidiscrete.grid import GridDensity


def as_density(density, name="density"):
    """Validate a mixture or an image density; return it as a value.

    Parameters
    ----------
    density : GridDensity, fitted mixture estimator or tuple (weights, means, covariances)
        The user's density; covariances must be positive definite.
    name : str, default='density'
        What error messages call it.

    Returns
    -------
    density : GridDensity or GaussianMixtureParams
        The density, in float64.
    n_features : int
        Its dimension.
    kind : ArrayKind
        The kind of its arrays.

    Raises
    ------
    NotFittedError
        If it is an estimator that is not fitted.
    TypeError
        If it is something else.
    ValueError
        If it is not a density.
    """
    if isinstance(density, GridDensity):
        grid, kind = grid_density(density)
        return grid, grid.values.ndim, kind
    if not looks_like_mixture(density):
        raise TypeError(
            f"{name} must be a GridDensity, a fitted mixture estimator or a tuple (weights, means, "
            f"covariances), got {type(density).__name__}. Wrap an image: GridDensity(image)."
        )
    params, kind = as_mixture(density, name)
    variances = params.full_covariances().detach().diagonal(dim1=1, dim2=2)
    width = math.sqrt(float(variances.max()))
    check_squares(name, max(width, float(params.means.detach().abs().max())), width)
    if (torch.linalg.cholesky_ex(params.full_covariances().detach()).info > 0).any():
        raise ValueError(
            f"covariances of {name} must be positive definite, got one that is singular. Add to "
            "its diagonal, or increase reg_covar."
        )
    return params, params.means.shape[1], kind


#: Lengths of the last axis of colour pictures, which have at least so many rows and columns.
CHANNELS, MIN_SIDE = (3, 4), 16
#: Largest size whose squares and sums of squares float64 can hold; so for the inverse size.
MAX_SIZE = 1e150


def check_squares(name: str, largest: float, width: float = 1.0) -> None:
    """Raise if the square of a size, or of a nonzero width, over- or underflows float64."""
    if not largest < MAX_SIZE:
        raise ValueError(
            f"{name} must be smaller than {MAX_SIZE:.0e} for squared distances, got a size of "
            f"{largest:.1e}. Rescale it."
        )
    if 0 < width < 1 / MAX_SIZE:
        raise ValueError(
            f"{name} must be wider than {1 / MAX_SIZE:.0e} for squared distances, got a width of "
            f"{width:.1e}. Rescale it."
        )


def reshaping(name: str, array, remedy: str) -> str:
    """The remedy in the error message for an array that must have two axes."""
    if np.ndim(array) != 1:
        return remedy
    return f"Use {name}[:, None] if it holds one feature, {name}[None, :] if it holds one sample."


def grid_density(density):
    """Validate an image density; returns it in float64, rows upwards, and the kind of its array."""
    if density.origin not in ("upper", "lower"):
        raise ValueError(
            f"origin of a GridDensity must be 'upper' or 'lower', got {density.origin!r}. Pass "
            "'upper' if row 0 is at the top, as in a picture."
        )
    kind, values = kind_of(density.values), as_tensor(density.values, dtype=torch.float64)
    if values.ndim not in (2, 3) or 0 in values.shape:
        raise ValueError(
            f"values of a GridDensity must have shape (rows, columns), got {tuple(values.shape)}. "
            "Pass one number a pixel, or (layers, rows, columns) for a density in space."
        )
    if values.ndim == 3 and values.shape[2] in CHANNELS and min(values.shape[:2]) >= MIN_SIDE:
        raise ValueError(
            "values of a GridDensity must have shape (rows, columns), got those of a colour "
            f"picture, {tuple(values.shape)}. Average its channels; if it is a density in space, "
            "put the short axis first."
        )
    low, high = (float(v) for v in torch.aminmax(values.detach()))
    if not (low >= 0 and high < np.inf):
        raise ValueError(
            "values of a GridDensity must be finite and non-negative, got a range of "
            f"{low:.6g} to {high:.6g}. Subtract the minimum, or replace those pixels."
        )
    if high == 0:
        raise ValueError(
            "values of a GridDensity must have a positive total, got all zeros. Give some pixel a "
            "density."
        )
    extent = _ends(density.extent)
    if (
        len(extent) != 2 * values.ndim
        or not np.isfinite(extent).all()
        or not (np.array(extent[::2]) < extent[1::2]).all()
    ):
        ends = "(left, right, bottom, top) with left < right and bottom < top"
        if values.ndim == 3:
            ends = "two ends for each of x, y and z, the smaller first"
        raise ValueError(
            f"extent of a GridDensity must be {ends}, got {extent}. Set origin to turn the image "
            "upside down."
        )
    width = min(np.subtract(extent[1::2], extent[::2]))
    check_squares("extent of a GridDensity", max(map(abs, extent)), width)
    if not isinstance(density.periodic, bool | np.bool_):
        raise ValueError(
            f"periodic of a GridDensity must be True or False, got {density.periodic!r}. Pass True "
            "if the density repeats itself beyond each edge."
        )
    return density._replace(values=values / high, extent=extent).upwards(), kind


def _ends(extent) -> tuple[float, ...]:
    """The ends of an extent as floats."""
    try:
        return tuple(float(end) for end in extent)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"extent of a GridDensity must hold numbers, got {extent!r}. Pass for example "
            "(0, 1, 0, 1)."
        ) from error


def points_and_masses(points, weights, n_features: int):
    """Validate weighted points beside a density; tensors in float64, and the kinds of both."""
    kinds = [kind_of(points)] + ([] if weights is None else [kind_of(weights)])
    points = as_tensor(points, dtype=torch.float64)
    if points.ndim != 2 or points.shape[1] != n_features or not len(points):
        raise ValueError(
            f"points must have shape (n_points, {n_features}), as the density has {n_features} "
            f"features, got {tuple(points.shape)}. "
            + reshaping("points", points, "Pass one point a row.")
        )
    if not torch.isfinite(points).all():
        raise ValueError("points must be finite, got NaN or infinity. Drop those rows.")
    check_squares("points", float(points.detach().abs().max()))
    if weights is None:
        return points, points.new_ones(len(points)), kinds
    weights = as_tensor(weights, dtype=torch.float64).to(points.device)
    if weights.shape != points.shape[:1]:
        raise ValueError(
            f"weights must have shape ({len(points)},), got {tuple(weights.shape)}. "
            "Pass one weight a point."
        )
    low, high = (float(w) for w in torch.aminmax(weights.detach()))
    if not (low >= 0 and 0 < high < np.inf):
        raise ValueError(
            "weights must be finite and non-negative with a positive sum, got a range of "
            f"{low:.6g} to {high:.6g}. Use 0 for points that take nothing."
        )
    return points, weights / high, kinds
