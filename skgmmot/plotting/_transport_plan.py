"""`TransportPlanDisplay`: which component goes where, as lines or as a matrix."""

import math
from typing import Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

from skgmmot._inputs.arrays import as_tensor
from skgmmot._inputs.mixtures import as_pair, common_feature_names
from skgmmot.gaussian.conditional import marginal
from skgmmot.numerics.threads import single_threaded_torch
from skgmmot.plotting._axes import axes_for, check_kind, part_of, two_features
from skgmmot.plotting._mixture import GaussianMixtureDisplay
from skgmmot.transport.discrete.solvers import penalties_of
from skgmmot.transport.mixtures.distance import transport_plan

KINDS = ("lines", "matrix")
#: Pairs with less of the largest mass are not joined.
LEAST = 1e-3
#: Matrices of at most so many rows and columns have their numbers written in.
MOST_WRITTEN = 8


class TransportPlanDisplay:
    """Plot of the optimal plan between the components of two mixtures.

    Parameters
    ----------
    plan : ndarray of shape (K, L)
        The mass moved between components.
    source : GaussianMixtureDisplay
        The source, in two features; None if only the matrix is drawn.
    target : GaussianMixtureDisplay
        The target, likewise.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes of the plot.
    figure_ : matplotlib Figure
        The figure of the plot.

    See Also
    --------
    skgmmot.MixtureWasserstein : The distance that the plan attains.
    TransportMapDisplay : What the plan does to samples.
    """

    def __init__(self, plan, source=None, target=None):
        self.plan = plan
        self.source = source
        self.target = target

    @classmethod
    def from_mixtures(
        cls, source, target, *, reg=0.0, reg_m=None, features=None, kind="lines", ax=None, **options
    ) -> Self:
        """Draw the plan between two mixtures.

        Parameters
        ----------
        source, target : fitted mixture estimator or tuple (weights, means, covariances)
            The mixtures, of K and L components.
        reg : float, default=0.0
            Weight of the plan's entropy, in squared units of the data; 0 is without.
        reg_m : float, tuple of two floats or None, default=None
            Penalties of the marginals, as in `skgmmot.MixtureWasserstein`; None prescribes both.
        features : list of int, str or bool, default=None
            The two features to draw for ``kind='lines'``; None is all of them. The plan is that of
            all features.
        kind : {'lines', 'matrix'}, default='lines'
            ``'lines'`` draws the ellipses of both mixtures, joined by lines whose width is
            proportional to the mass; ``'matrix'`` the plan as an image.
        ax : matplotlib Axes, default=None
            Where to draw; None makes one.
        **options : dict
            Passed to `plot`.

        Returns
        -------
        TransportPlanDisplay
            The display, drawn.

        Raises
        ------
        NotFittedError
            If an estimator is not fitted.
        TypeError
            If one is no mixture.
        ValueError
            If the mixtures differ in features, or there are not two to draw.
        """
        check_kind(kind, KINDS)
        *pair, _ = as_pair(source, target, any_mass=min(penalties_of(reg_m)) < math.inf)
        with single_threaded_torch():
            plan = transport_plan(*pair, reg=reg, reg_m=reg_m).coupling
        names = common_feature_names([source, target], "mixtures") if kind == "lines" else None
        return cls._of(plan, pair, features, names, kind).plot(ax, kind=kind, **options)

    @classmethod
    def from_estimator(cls, ot_map, *, features=None, kind="lines", ax=None, **options) -> Self:
        """Draw the plan of a fitted map.

        Parameters
        ----------
        ot_map : fitted OTMap or AdaptedClassifier
            The map. Its mixtures, entropy and penalties count.
        features : list of int, str or bool, default=None
            The two features to draw for ``kind='lines'``; None is all of them.
        kind : {'lines', 'matrix'}, default='lines'
            What to draw, as in `from_mixtures`.
        ax : matplotlib Axes, default=None
            Where to draw; None makes one.
        **options : dict
            Passed to `plot`.

        Returns
        -------
        TransportPlanDisplay
            The display, drawn.

        Raises
        ------
        NotFittedError
            If the map is not fitted.
        TypeError
            If it is another estimator.
        ValueError
            If there are not two features to draw.
        """
        check_kind(kind, KINDS)
        names = getattr(ot_map, "feature_names_in_", None)
        ot_map = part_of(ot_map, "ot_map_", "ot_map")
        if not hasattr(ot_map, "fit") or not hasattr(ot_map, "strategy"):
            raise TypeError(
                f"ot_map must be an OTMap, got {type(ot_map).__name__}. Fit one, or use "
                "from_mixtures(source, target)."
            )
        check_is_fitted(ot_map, "plan_")
        *pair, _ = as_pair(ot_map.source_mixture_, ot_map.target_mixture_)
        plan = as_tensor(ot_map.plan_)
        return cls._of(plan, pair, features, names, kind).plot(ax, kind=kind, **options)

    @classmethod
    def _of(cls, plan, pair, features, names, kind):
        """The display of a plan between two mixtures, which only lines need."""
        if kind != "lines":
            return cls(_array(plan))
        chosen, labels = two_features(features, pair[0].means.shape[1], names)
        return cls(_array(plan), *(_display(marginal(m, chosen), labels) for m in pair))

    def plot(
        self, ax=None, *, kind="lines", colors=("C0", "C1"), n_std=1.0, max_width=6.0, cmap="Blues"
    ) -> Self:
        """Draw the plan.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes one.
        kind : {'lines', 'matrix'}, default='lines'
            What to draw.
        colors : tuple of two colours, default=('C0', 'C1')
            Those of the source and of the target, for lines.
        n_std : float, default=1.0
            Length of the half-axes of ellipses in standard deviations.
        max_width : float, default=6.0
            Width of the line of the largest mass, in points.
        cmap : str or Colormap, default='Blues'
            Colours of the matrix.

        Returns
        -------
        TransportPlanDisplay
            Itself.

        Raises
        ------
        ValueError
            If the kind is unknown, or lines are to be drawn without the mixtures.
        """
        check_kind(kind, KINDS)
        if kind == "lines" and (self.source is None or self.target is None):
            raise ValueError(
                "kind must be 'matrix' for a plan without its mixtures, got 'lines'. Pass them, or "
                "use from_mixtures."
            )
        self.ax_ = axes_for(ax)
        self.figure_ = self.ax_.figure
        if kind == "lines":
            self._lines(colors, n_std, max_width)
        else:
            self._matrix(cmap)
        return self

    def _lines(self, colors, n_std, max_width):
        """Both mixtures, and a line for each pair that exchanges mass."""
        ax, plan, largest = self.ax_, self.plan, self.plan.max()
        displays = (self.source, self.target)
        for display, color in zip(displays, colors, strict=True):
            display.plot(ax, colors=[color] * len(display.weights), n_std=n_std)
        for k, l in zip(*np.nonzero(plan > LEAST * largest), strict=True):
            ends = np.stack([self.source.means[k], self.target.means[l]], axis=1)
            width = max_width * plan[k, l] / largest
            ax.plot(*ends, color="0.2", linewidth=width, alpha=0.6, solid_capstyle="round")
        for display, color, name in zip(displays, colors, ("source", "target"), strict=True):
            style = {"color": color, "edgecolors": "white", "zorder": 4, "s": 40}
            ax.scatter(*display.means.T, label=name, **style)
        ax.plot([], [], color="0.2", linewidth=max_width, alpha=0.6, label=f"mass {largest:.2g}")
        ax.legend()

    def _matrix(self, cmap):
        """The plan as an image with a colour bar."""
        image = self.ax_.imshow(self.plan, cmap=cmap, vmin=0.0, aspect="auto")
        self.figure_.colorbar(image, ax=self.ax_, label="mass")
        self.ax_.set(xlabel="component of the target", ylabel="component of the source")
        for axis in (self.ax_.xaxis, self.ax_.yaxis):
            axis.get_major_locator().set_params(integer=True)
        if max(self.plan.shape) <= MOST_WRITTEN:
            for (k, l), mass in np.ndenumerate(self.plan):
                color = "white" if mass > 0.6 * self.plan.max() else "black"
                self.ax_.text(l, k, f"{mass:.2g}", ha="center", va="center", color=color)


def _array(tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()


def _display(mixture, labels) -> GaussianMixtureDisplay:
    """The display of a mixture in the features to draw."""
    parts = (mixture.weights, mixture.means, mixture.full_covariances())
    return GaussianMixtureDisplay(*map(_array, parts), feature_names=labels)
