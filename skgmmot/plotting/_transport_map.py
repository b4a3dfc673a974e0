"""`TransportMapDisplay`: samples before and after a map."""

from typing import Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

from skgmmot._inputs.arrays import as_tensor
from skgmmot.plotting._axes import as_rows, axes_for, name_axes, part_of, spread, two_features


class TransportMapDisplay:
    """Plot of samples before and after a map, with arrows between some of them.

    Parameters
    ----------
    before : ndarray of shape (n, 2)
        Samples in the features to draw.
    after : ndarray of shape (n, 2)
        Their images.
    feature_names : sequence of two str, default=None
        What the axes are called.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes of the plot.
    figure_ : matplotlib Figure
        The figure of the plot.

    See Also
    --------
    skgmmot.OTMap : The map.
    TransportPlanDisplay : The plan that it follows.
    """

    def __init__(self, before, after, *, feature_names=None):
        self.before = before
        self.after = after
        self.feature_names = feature_names

    @classmethod
    def from_estimator(
        cls, ot_map, X, *, features=None, ax=None, max_samples=2000, **options
    ) -> Self:
        """Draw what a fitted map does to samples.

        Parameters
        ----------
        ot_map : fitted OTMap or AdaptedClassifier
            The map, or another transformer whose images have the features of the samples.
        X : array-like or Tensor of shape (n_samples, n_features)
            Samples with all features of the fit.
        features : list of int, str or bool, default=None
            The two features to draw, by number or name; None is all of them.
        ax : matplotlib Axes, default=None
            Where to draw; None makes one.
        max_samples : int, default=2000
            Samples that are drawn at most, evenly spread over the rows. All are mapped.
        **options : dict
            Passed to `plot`.

        Returns
        -------
        TransportMapDisplay
            The display, drawn.

        Raises
        ------
        NotFittedError
            If the map is not fitted.
        TypeError
            If it maps no samples.
        ValueError
            If there are not two features to draw, or images have other features.
        """
        names, given = getattr(ot_map, "feature_names_in_", None), ot_map
        ot_map = part_of(ot_map, "ot_map_", "ot_map")
        if not hasattr(ot_map, "transform"):
            raise TypeError(
                f"ot_map must have transform, got {type(ot_map).__name__}. Pass a fitted OTMap."
            )
        check_is_fitted(ot_map)
        chosen, labels = two_features(features, ot_map.n_features_in_, names)
        before = as_rows(X, ot_map.n_features_in_)
        after = _image_rows(ot_map.transform(X if ot_map is given else before), before)
        drawn = spread(len(before), max_samples)
        display = cls(before[drawn][:, chosen], after[drawn][:, chosen], feature_names=labels)
        return display.plot(ax, **options)

    def plot(self, ax=None, *, n_arrows=50, colors=("C0", "C1")) -> Self:
        """Draw the samples.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes one.
        n_arrows : int, default=50
            Arrows at most, evenly spread over the rows; 0 draws none.
        colors : tuple of two colours, default=('C0', 'C1')
            Those of the samples and of their images.

        Returns
        -------
        TransportMapDisplay
            Itself.

        Raises
        ------
        ValueError
            If the axes are not flat.
        """
        self.ax_ = ax = axes_for(ax)
        self.figure_ = ax.figure
        for rows, color, name in zip(
            (self.before, self.after), colors, ("before", "after"), strict=True
        ):
            ax.scatter(*rows.T, s=10, color=color, alpha=0.5, linewidths=0, label=name)
        if n_arrows:
            some = spread(len(self.before), n_arrows)
            ends = (*self.before[some].T, *(self.after - self.before)[some].T)
            style = {"angles": "xy", "scale_units": "xy", "scale": 1, "width": 0.003}
            ax.quiver(*ends, color="0.3", alpha=0.7, **style)
        name_axes(ax, self.feature_names)
        ax.legend()
        return self


def _image_rows(images, before) -> np.ndarray:
    """Images as an array, which must have the shape of the samples."""
    after = as_tensor(images).detach().cpu().numpy()
    if after.shape != before.shape:
        raise ValueError(
            f"images must have the shape of the samples, {before.shape}, got {after.shape}. Pass a "
            "map between the same features."
        )
    return after
