"""`GaussianMixtureDisplay`: densities, ellipses and ellipsoids of a mixture."""

from typing import Self

import numpy as np
import torch

from skgmmot._inputs.arrays import as_tensor
from skgmmot._inputs.mixtures import as_mixture
from skgmmot.gaussian.conditional import marginal
from skgmmot.gaussian.log_density import log_joint, log_responsibilities
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.plotting._axes import (
    as_rows,
    axes_for,
    check_kind,
    features_to_draw,
    name_axes,
    part_of,
    pyplot,
    spread,
)

KINDS = ("ellipses", "contours")
#: Features of which all pairs are drawn without being chosen.
MOST_PAIRED = 8
#: Shares of the mass in the regions that contours bound.
SHARES = (0.95, 0.8, 0.6, 0.4, 0.2)
#: Bars of the histogram of a feature.
N_BINS = 40
#: Standard deviations of each component that densities are drawn for.
REACH = 4.0


class GaussianMixtureDisplay:
    """Plot of a mixture: densities, ellipses or contours, ellipsoids, or all pairs of features.

    One feature is drawn as the density and that of each component, two as an ellipse for each
    component or as contours of the density, three as ellipsoids. For more there is a grid of
    panels: features one by one on the diagonal, their pairs below.

    Parameters
    ----------
    weights : ndarray of shape (K,)
        Weights; a heavier component is drawn more opaque.
    means : ndarray of shape (K, d)
        Centres.
    covariances : ndarray of shape (K, d, d)
        Covariances; the axes of the ellipses are ``n_std`` standard deviations long.
    feature_names : sequence of d str, default=None
        What the axes are called; None leaves them as they are.
    X : ndarray of shape (n, d), default=None
        Samples that are drawn with the mixture.
    labels : ndarray of int of shape (n,), default=None
        The component of each sample, -1 for noise; None draws them all alike.
    has_density : bool, default=True
        Whether components are Gaussian, so that there are densities to draw.

    Attributes
    ----------
    ax_ : matplotlib Axes, or ndarray of Axes of shape (d, d)
        The axes of the plot; an array for more than three features.
    figure_ : matplotlib Figure
        The figure of the plot.

    See Also
    --------
    TransportPlanDisplay : Two mixtures and the plan between them.

    Notes
    -----
    Densities are those of the components, without uniform noise beside them. Of mixtures in many
    features only the marginals of those that are drawn are computed.
    """

    def __init__(
        self,
        weights,
        means,
        covariances,
        *,
        feature_names=None,
        X=None,
        labels=None,
        has_density=True,
    ):
        self.weights = weights
        self.means = means
        self.covariances = covariances
        self.feature_names = feature_names
        self.X = X
        self.labels = labels
        self.has_density = has_density

    @classmethod
    def from_estimator(
        cls, mixture, X=None, *, features=None, ax=None, max_samples=5000, **options
    ) -> Self:
        """Draw a fitted mixture, and samples.

        Parameters
        ----------
        mixture : fitted mixture estimator or tuple (weights, means, covariances)
            The mixture; of Student-t components the ellipses of the same covariances. Of a search
            the best one, and of a `skgmmot.MixtureRegressor` or `skgmmot.MixtureImputer` its
            ``mixture_``.
        X : array-like or Tensor of shape (n_samples, n_features), default=None
            Samples with all features of the mixture. They are drawn in the colour of their most
            probable component, noise in grey.
        features : int, str, slice, or list of int, str or bool, default=None
            The features to draw, by number or name. None is all of them, up to 8.
        ax : matplotlib Axes, or array of Axes of shape (d, d), default=None
            Where to draw: with ``projection='3d'`` for three features, an array for d > 3. None
            makes it.
        max_samples : int, default=5000
            Samples that are drawn at most, evenly spread over the rows.
        **options : dict
            Passed to `plot`.

        Returns
        -------
        GaussianMixtureDisplay
            The display, drawn.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        TypeError
            If it is no mixture.
        ValueError
            If a feature does not exist, there are too many, or ``X`` has others.
        """
        mixture = part_of(mixture, "mixture_", "mixture")
        value = isinstance(mixture, GaussianMixtureParams)
        params, _ = as_mixture(mixture.without_noise() if value else mixture)
        d = params.means.shape[1]
        names = getattr(mixture, "feature_names_in_", None)
        if features is None and d > MOST_PAIRED:
            raise ValueError(
                f"a mixture must have at most {MOST_PAIRED} features to be drawn in all pairs of "
                f"them, got {d}. Choose some with features=(0, 1)."
            )
        chosen, labels = features_to_draw(features, d, names)
        if labels is None and d > 3:
            labels = [f"feature {i}" for i in chosen]
        samples = {} if X is None else cls._samples(mixture, params, X, chosen, max_samples)
        shown = marginal(params, chosen)
        arrays = (shown.weights, shown.means, shown.full_covariances())
        display = cls(
            *(t.detach().cpu().numpy() for t in arrays),
            feature_names=labels,
            has_density=not hasattr(mixture, "moments"),
            **samples,
        )
        return display.plot(ax, **options)

    @staticmethod
    def _samples(mixture, params, X, chosen, most) -> dict:
        """Some of the samples in the chosen features, and their components."""
        rows = as_rows(X, params.means.shape[1])
        if hasattr(mixture, "predict"):
            labels = as_tensor(mixture.predict(X))
        else:
            if not np.isfinite(rows).all():
                raise ValueError(
                    "X must be finite, got NaN or infinity. Leave out rows with missing values, or "
                    "draw an estimator that takes them."
                )
            whole = mixture if isinstance(mixture, GaussianMixtureParams) else params
            labels = _most_probable(whole.to(dtype=torch.float64), torch.from_numpy(rows))
        drawn = spread(len(rows), most)
        return {"X": rows[drawn][:, chosen], "labels": labels.cpu().numpy()[drawn].astype(int)}

    def plot(self, ax=None, *, kind="ellipses", colors=None, n_std=1.0) -> Self:
        """Draw the mixture.

        Parameters
        ----------
        ax : matplotlib Axes, or array of Axes of shape (d, d), default=None
            Where to draw; None makes it.
        kind : {'ellipses', 'contours'}, default='ellipses'
            How pairs of features are drawn. ``'contours'`` are of the density: they bound the
            smallest regions that hold 20, 40, 60, 80 and 95 % of the mass.
        colors : sequence of K colours, default=None
            One a component; None is matplotlib's cycle.
        n_std : float, default=1.0
            Length of the half-axes in standard deviations.

        Returns
        -------
        GaussianMixtureDisplay
            Itself.

        Raises
        ------
        TypeError
            If there are densities to draw, and components are not Gaussian.
        ValueError
            If the axes, the colours or the kind do not fit the mixture, or a density is to be drawn
            where a covariance is singular.
        """
        d = self.means.shape[1]
        check_kind(kind, KINDS)
        if kind == "contours" and d == 3:
            raise ValueError(
                "kind must be 'ellipses' for three features, got 'contours'. Choose two features, "
                "or draw ellipsoids."
            )
        if not self.has_density and (kind == "contours" or d not in (2, 3)):
            raise TypeError(
                "mixture must be of Gaussians for densities, got one of other components. Draw two "
                "or three of its features as ellipses."
            )
        if colors is None:
            colors = [f"C{k % 10}" for k in range(len(self.weights))]
        if len(colors) < len(self.weights):
            raise ValueError(
                f"colors must be one for each of {len(self.weights)} components, got {len(colors)}."
                " Pass more, or None."
            )
        if d > 3:
            self.ax_ = self._grid(ax, kind, colors, n_std)
        else:
            self.ax_ = axes_for(ax, d)
            self._panel(self.ax_, list(range(d)), kind, colors, n_std)
        self.figure_ = np.ravel(self.ax_)[0].figure
        return self

    def _grid(self, ax, kind, colors, n_std):
        """All pairs of features below the diagonal, on which they are one by one."""
        d = self.means.shape[1]
        if ax is None:
            size = max(6.4, 1.6 * d)
            figure = pyplot().figure(figsize=(size, size), layout="constrained")
            ax = figure.subplots(d, d, sharex="col")
        axes = np.asarray(ax, dtype=object)
        if axes.shape != (d, d):
            raise ValueError(
                f"ax must be an array of Axes of shape ({d}, {d}) for {d} features, got shape "
                f"{axes.shape}. Make it with plt.subplots({d}, {d}), or choose two features."
            )
        for i, j in np.ndindex(d, d):
            panel = axes_for(axes[i, j])
            panel.set_visible(j <= i)
            if j <= i:
                self._panel(panel, [j] if i == j else [j, i], kind, colors, n_std)
                panel.set(**{"xlabel": ""} if i < d - 1 else {})
                panel.set(**{"ylabel": ""} if j > 0 else {})
        return axes

    def _panel(self, ax, features, kind, colors, n_std):
        """Draw one, two or three features."""
        if self.X is not None:
            self._scatter(ax, features, colors)
        if len(features) == 1:
            self._curves(ax, features, colors)
        elif kind == "contours":
            self._contours(ax, features)
        else:
            opacity = 0.35 + 0.55 * self.weights / self.weights.max()
            draw = self._ellipsoid if len(features) == 3 else self._ellipse
            for k in np.argsort(-self.weights):
                draw(ax, k, features, n_std, color=colors[k], alpha=opacity[k])
        names = self.feature_names
        name_axes(ax, names and [names[i] for i in features])

    def _scatter(self, ax, features, colors):
        """The samples: points, or a histogram of one feature; noise is grey."""
        labels = np.zeros(len(self.X), int) if self.labels is None else self.labels
        groups = [(self.X[labels == k][:, features].T, colors[k]) for k in range(len(colors))]
        groups = [(rows, color) for rows, color in groups if rows.size]
        noise = self.X[labels < 0][:, features].T
        if len(features) == 1:
            if groups:
                rows, shades = zip(*groups, strict=True)
                values = [row[0][np.isfinite(row[0])] for row in rows]
                bins = np.histogram_bin_edges(np.concatenate(values), N_BINS)
                style = {"color": shades, "alpha": 0.3, "stacked": True, "density": True}
                ax.hist(values, bins, **style)
            ax.plot(noise[0], np.zeros(noise.shape[1]), "|", color="0.6", markersize=10)
            return
        for rows, color in groups:
            ax.scatter(*rows, s=8, color=color, alpha=0.6, linewidths=0)
        if noise.size:
            ax.scatter(*noise, s=16, color="0.6", marker="x", linewidths=1)

    def _density(self, points, features):
        """The weighted densities ``(K, n)`` of the components at points of some features."""
        covariances = self.covariances[:, np.array(features)[:, None], features]
        arrays = (self.weights, self.means[:, features], covariances, points)
        *mixture, X = (torch.from_numpy(np.asarray(a, dtype=np.float64)) for a in arrays)
        try:
            prepared = GaussianMixtureParams(*mixture, "full").prepare()
        except ValueError as error:
            raise ValueError(
                "covariances must be positive definite for densities, got a singular one. Draw two "
                "or three features as ellipses, or add to the diagonals."
            ) from error
        return log_joint(prepared, X).exp().numpy()

    def _axis(self, feature, n_of_each):
        """Coordinates that cover all components of a feature, finer where one is narrow."""
        held = self.weights > 0
        centre = self.means[held, feature, None]
        std = np.sqrt(self.covariances[held, feature, feature].clip(0))[:, None]
        own = centre + std * np.linspace(-REACH, REACH, n_of_each)
        return np.unique(np.concatenate([own.ravel(), np.linspace(own.min(), own.max(), 100)]))

    def _curves(self, ax, features, colors):
        """The density of one feature and those of the components."""
        x = self._axis(features[0], 101)
        densities = self._density(x[:, None], features)
        ax.plot(x, densities.sum(0), color="0.2", linewidth=1.5, label="mixture")
        for k, density in enumerate(densities):
            name = None if k else "components"
            ax.plot(x, density, color=colors[k], linestyle="--", linewidth=1.2, label=name)
        ax.set(ylabel=ax.get_ylabel() or "density")
        ax.set_ylim(bottom=0)
        if self.means.shape[1] == 1:
            ax.legend()

    def _contours(self, ax, features):
        """Lines around the smallest regions that hold given shares of the mass."""
        n_of_each = int(np.clip(150 // len(self.weights), 3, 31))
        x, y = (self._axis(feature, n_of_each) for feature in features)
        points = np.stack(np.meshgrid(x, y), axis=-1)
        values = self._density(points.reshape(-1, 2), features).sum(0)
        mass = values * np.outer(np.gradient(y), np.gradient(x)).ravel()
        descending = np.argsort(-values)
        held = mass[descending].cumsum()
        last = np.searchsorted(held, np.array(SHARES) * held[-1])
        levels, first = np.unique(values[descending][last], return_index=True)
        lines = ax.contour(x, y, values.reshape(len(y), len(x)), levels, colors="0.2")
        names = {level: f"{100 * SHARES[i]:.0f} %" for level, i in zip(levels, first, strict=True)}
        if self.means.shape[1] == 2:  # panels of a grid are too small
            ax.clabel(lines, levels[::2], fmt=names, fontsize=7)

    def _surface(self, k, features, unit, n_std):
        """Points of the unit sphere ``(..., d)`` on the ellipsoid of component k."""
        variances, axes = np.linalg.eigh(self.covariances[k][np.ix_(features, features)])
        return self.means[k, features] + (unit * n_std * np.sqrt(variances.clip(0))) @ axes.T

    def _ellipse(self, ax, k, features, n_std, *, color, alpha):
        """An ellipse; light inside where there are samples below it."""
        angle = np.linspace(0, 2 * np.pi, 100)
        unit = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
        outline = self._surface(k, features, unit, n_std).T
        if self.X is None:
            ax.fill(*outline, color=color, alpha=alpha)
        else:
            ax.fill(*outline, color=color, alpha=0.25 * alpha, zorder=2, linewidth=0)
            ax.plot(*outline, color=color, linewidth=2, zorder=3)

    def _ellipsoid(self, ax, k, features, n_std, *, color, alpha):
        """An ellipsoid; light where there are samples in it."""
        azimuth, polar = np.meshgrid(np.linspace(0, 2 * np.pi, 32), np.linspace(0, np.pi, 17))
        unit = np.stack(
            [np.cos(azimuth) * np.sin(polar), np.sin(azimuth) * np.sin(polar), np.cos(polar)],
            axis=-1,
        )
        surface = np.moveaxis(self._surface(k, features, unit, n_std), -1, 0)
        alpha = alpha if self.X is None else 0.5 * alpha
        ax.plot_surface(*surface, linewidth=0, color=color, alpha=alpha)


def _most_probable(mixture: GaussianMixtureParams, X: torch.Tensor) -> torch.Tensor:
    """The most probable component of each sample, -1 for noise."""
    resp = log_responsibilities(mixture, X.to(mixture.means)).exp()
    largest, labels = resp.max(0)
    noise = mixture.noise is not None
    return torch.where((1 - resp.sum(0) > largest) & noise, -1, labels)
