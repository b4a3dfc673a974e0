"""What is quantised, samples or a density, in units of its size; and where the points start."""

import warnings

import numpy as np
import torch
from sklearn.cluster import kmeans_plusplus

from skgmmot._inputs import arrays
from skgmmot._inputs.densities import as_density, check_squares, reshaping
from skgmmot.fitting.quantization import Samples
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.gaussian.sampling import sample
from skgmmot.numerics.linalg import Rescaling, power_of_two
from skgmmot.transport.semidiscrete.grid import GridDensity
from skgmmot.transport.semidiscrete.nodes import mixture_nodes, standard_nodes

#: Columns from which on samples may be a picture, and the largest height of one for its width.
MIN_WIDTH, MAX_HEIGHT = 16, 4


def read_density(estimator, density, sample_weight):
    """Read a density as `Lloyd` takes it, with its rescaling, and the dtype and kind of results."""
    if sample_weight is not None:
        raise ValueError(
            "sample_weight must be None beside a density, got weights. Put them into the "
            "density itself."
        )
    density, estimator.n_features_in_, kind = as_density(density, "X")
    kind = arrays.answer_kind(kind)
    vars(estimator).pop("feature_names_in_", None)
    if isinstance(density, GridDensity):
        density, scaling = _rescaled_image(density._replace(values=density.values.detach()))
        return density, scaling, torch.float64, kind
    density = density.detach()
    deviations = density.full_covariances().diagonal(dim1=1, dim2=2).sqrt()
    scaling = Rescaling.of(density.means, float(deviations.max()))
    density = density.translated(-scaling.origin).scaled(1 / scaling.unit)
    if estimator.n_features_in_ != 2:
        each = max(1, estimator.n_nodes // len(density.weights))
        z = torch.as_tensor(standard_nodes(each, estimator.n_features_in_)).to(density.means)
        density = Samples(*mixture_nodes(density, z), of=density)
    return density, scaling, torch.float64, kind


def read_samples(estimator, X, sample_weight):
    """Read samples and their weights, with their rescaling, and the dtype and kind of results."""
    X, kind = arrays.samples(estimator, X, reset=True, sample_weight=sample_weight)
    arrays.check_range(X)
    if sample_weight is None and _may_be_picture(X):
        warnings.warn(
            f"X of shape {tuple(X.shape)} is taken as {len(X)} samples of {X.shape[1]} "
            "features. If it is a picture, pass GridDensity(X); if it is not, pass "
            "sample_weight=1.0.",
            UserWarning,
            stacklevel=4,
        )
    a = arrays.sample_weights(sample_weight, X)
    X, dtype = X.detach().double(), X.dtype
    a = X.new_ones(len(X)) if a is None else a.detach().double()
    X, a = X[a > 0], a[a > 0]
    if len(X) < estimator.n_clusters:
        raise ValueError(
            f"n_samples={len(X)} should be >= n_clusters={estimator.n_clusters}, counting samples "
            "of positive weight. Pass more samples or ask for fewer clusters."
        )
    scaling = Rescaling.of(X)
    spread = float((X - scaling.origin).abs().max())
    check_squares("X", spread, spread)
    return Samples(scaling.apply(X), a / a.sum()), scaling, dtype, kind


def start_of(estimator, density, scaling, rng) -> torch.Tensor:
    """The starting points, rescaled."""
    if not isinstance(estimator.init, str):
        given = _given_start(estimator).to(like(density))
        start = scaling.apply(given)
        if not torch.isfinite(start).all():
            raise ValueError(
                f"init must be points of about the size of the density, {scaling.unit:.1e}, "
                f"got one of size {float(given.abs().max()):.1e}. Pass points near it."
            )
        return start
    if not isinstance(density, Samples):
        if estimator.init == "k-means++":
            raise ValueError(
                "init must be 'random' or points for a density in the plane, got 'k-means++', "
                "which chooses among samples. Leave it out."
            )
        return _draw(density, estimator.n_clusters, rng)
    X, a = (t.cpu().numpy() for t in (density.X, density.a))
    if estimator.init == "k-means++":
        _, chosen = kmeans_plusplus(X, estimator.n_clusters, sample_weight=a, random_state=rng)
    else:
        chosen = rng.choice(len(X), estimator.n_clusters, replace=False, p=a)
    return density.X[torch.as_tensor(chosen).to(density.X.device)]


def _given_start(estimator) -> torch.Tensor:
    start = arrays.as_tensor(estimator.init, dtype=torch.float64).detach()
    shape = (estimator.n_clusters, estimator.n_features_in_)
    if start.shape != shape or not torch.isfinite(start).all():
        raise ValueError(
            f"init must be finite points of shape (n_clusters, n_features) = {shape}, got "
            f"shape {tuple(start.shape)}. "
            + reshaping("init", start, "Pass as many points as clusters.")
        )
    n_distinct = len(torch.unique(start, dim=0))
    if n_distinct < estimator.n_clusters:
        raise ValueError(
            f"init must be distinct points, got {n_distinct} different ones among "
            f"{estimator.n_clusters}. Move those that are equal: they would stay together."
        )
    return start


def _may_be_picture(X: torch.Tensor) -> bool:
    """Whether samples are as many as a picture has rows for its columns, and not negative."""
    n, d = X.shape
    return d >= MIN_WIDTH and n <= MAX_HEIGHT * d and float(X.min()) >= 0


def _rescaled_image(density: GridDensity) -> tuple[GridDensity, Rescaling]:
    """An image with its lower left corner at the origin, and where it was."""
    corner, size = _corner_and_size(density)
    scaling = Rescaling(density.values.new_tensor(corner), power_of_two(size.max()))
    extent = tuple(float(end) for side in size for end in (0.0, side / scaling.unit))
    return density._replace(extent=extent), scaling


def _corner_and_size(density: GridDensity) -> tuple[np.ndarray, np.ndarray]:
    """The corner of least coordinates and the lengths of the box of an image."""
    low, high = np.array(density.extent[::2], float), np.array(density.extent[1::2], float)
    return low, high - low


def like(density) -> torch.Tensor:
    """A tensor on the device of a density."""
    return density.values if isinstance(density, GridDensity) else density[0]


def _draw(density: GridDensity | GaussianMixtureParams, n: int, rng) -> torch.Tensor:
    """Draw from a density: ``(n, d)``."""
    if isinstance(density, GaussianMixtureParams):
        generator = torch.Generator(density.means.device).manual_seed(int(rng.randint(2**31)))
        return sample(density, n, generator=generator)[0]
    values = density.values.cpu().numpy()
    pixel = rng.choice(values.size, n, p=values.ravel() / values.sum())
    row_column = np.stack(np.unravel_index(pixel, values.shape), axis=1)
    share = (row_column[:, ::-1] + rng.uniform(size=(n, values.ndim))) / values.shape[::-1]
    corner, size = _corner_and_size(density)
    return torch.as_tensor(corner + share * size).to(density.values)
