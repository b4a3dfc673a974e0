"""What all displays need: matplotlib, axes, and the names of the features on them."""

import numpy as np

from skgmmot._inputs.arrays import as_tensor
from skgmmot._inputs.features import chosen_features


def pyplot():
    """The module ``matplotlib.pyplot``, which is optional."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            "displays must have matplotlib, which cannot be imported. Install it, or skgmmot with "
            "its extra 'plot'."
        ) from error
    return plt


def part_of(estimator, attribute: str, name: str = "estimator"):
    """What an estimator has under an attribute, also the best of a search; else itself."""
    estimator = getattr(estimator, "best_estimator_", estimator)
    if hasattr(estimator, "steps"):
        raise TypeError(
            f"{name} must not be a pipeline, got one: its last step is in the features of the step "
            "before. Pass pipeline[-1], and samples that went through pipeline[:-1].transform."
        )
    return getattr(estimator, attribute, estimator)


def axes_for(ax, n_axes: int = 2):
    """The axes given, validated, or new ones."""
    plt = pyplot()
    if ax is None:
        projection = "3d" if n_axes == 3 else None
        return plt.figure(layout="constrained").add_subplot(projection=projection)
    if not hasattr(ax, "plot") or not hasattr(ax, "name"):
        raise TypeError(
            f"ax must be matplotlib Axes, got {type(ax).__name__}. Pass one of them, or None."
        )
    if (ax.name == "3d") != (n_axes == 3):
        features = "1 feature" if n_axes == 1 else f"{n_axes} features"
        raise ValueError(
            f"ax must have {max(n_axes, 2)} axes for {features}, got projection {ax.name!r}. Make "
            "it with projection='3d' for three features, else without."
        )
    return ax


def check_kind(kind, kinds) -> None:
    """Raise if a kind of picture is not among those there are."""
    if kind not in kinds:
        raise ValueError(f"kind must be one of {list(kinds)}, got {kind!r}. Choose one.")


def features_to_draw(features, n_features: int, names=None):
    """The numbers of the features to draw, and what axes are called, or None for no names.

    Features without names are numbered where they were chosen.
    """
    if features is None:
        return list(range(n_features)), None if names is None else [str(name) for name in names]
    chosen = chosen_features(features, n_features, names)
    return chosen, [f"feature {i}" if names is None else str(names[i]) for i in chosen]


def two_features(features, n_features: int, names=None):
    """The same for pictures in the plane."""
    if n_features < 2:
        raise ValueError(
            f"there must be at least two features for this picture, got {n_features}. Draw "
            "densities with GaussianMixtureDisplay, or a plan with kind='matrix'."
        )
    chosen, labels = features_to_draw(features, n_features, names)
    if len(chosen) != 2:
        raise ValueError(
            f"features must be two for this picture, got {len(chosen)} of {n_features}. Choose "
            "them with features=(0, 1)."
        )
    return chosen, labels


def name_axes(ax, labels) -> None:
    """Write the names of features on axes that have none."""
    for label, axis in zip(labels or (), "xyz", strict=False):
        if not getattr(ax, f"get_{axis}label")():
            ax.set(**{f"{axis}label": label})


def as_rows(X, n_features: int) -> np.ndarray:
    """Samples as an array ``(n, d)`` of numbers."""
    rows = as_tensor(X).detach().cpu().numpy()
    if rows.ndim != 2 or rows.shape[1] != n_features or not len(rows):
        raise ValueError(
            f"X must have shape (n_samples, {n_features}) and at least one row, got {rows.shape}. "
            "Pass the samples with all features of the fit."
        )
    return rows


def spread(n: int, most: int) -> np.ndarray:
    """At most so many numbers below n, evenly spread."""
    if most < 1:
        raise ValueError(f"the largest number to draw must be at least 1, got {most}. Increase it.")
    return np.unique(np.linspace(0, n - 1, min(n, most)).astype(int))
