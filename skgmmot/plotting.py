"""Plots of mixtures, with matplotlib."""

import numpy as np

from skgmmot._inputs.mixtures import as_mixture

__all__ = ["GaussianMixtureDisplay"]


class GaussianMixtureDisplay:
    """Plot of the components of a mixture as ellipses (two features) or ellipsoids (three).

    Parameters
    ----------
    weights : ndarray of shape (K,)
        Weights; a heavier component is drawn more opaque.
    means : ndarray of shape (K, d)
        Centres, for d = 2 or 3.
    covariances : ndarray of shape (K, d, d)
        Covariances; the axes of the ellipses are ``n_std`` standard deviations long.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes of the plot.
    """

    def __init__(self, weights, means, covariances):
        self.weights = weights
        self.means = means
        self.covariances = covariances

    @classmethod
    def from_estimator(cls, mixture, *, features=None, ax=None, **options):
        """Draw a fitted mixture.

        Parameters
        ----------
        mixture : fitted mixture estimator or tuple (weights, means, covariances)
            The mixture.
        features : sequence of int, default=None
            The two or three features to draw; None is all of them.
        ax : matplotlib Axes, default=None
            Where to draw; with ``projection='3d'`` for three features. None makes one.
        **options : dict
            Passed to `plot`.

        Returns
        -------
        GaussianMixtureDisplay
            The display, drawn.

        Raises
        ------
        ValueError
            If there are not two or three features, or one does not exist.
        """
        params, _ = as_mixture(mixture)
        covariances = params.full_covariances()
        weights, means, covariances = (
            t.detach().cpu().numpy() for t in (params.weights, params.means, covariances)
        )
        chosen = np.arange(means.shape[1]) if features is None else np.asarray(features)
        if len(chosen) not in (2, 3):
            raise ValueError(
                f"a mixture is drawn in 2 or 3 features, got {len(chosen)}. Choose some with "
                "features=(0, 1)."
            )
        if not ((chosen >= 0) & (chosen < means.shape[1])).all():
            raise ValueError(
                f"features must be from 0 to {means.shape[1] - 1}, got {chosen.tolist()}. "
                "Count the features from zero."
            )
        display = cls(weights, means[:, chosen], covariances[:, chosen[:, None], chosen])
        return display.plot(ax, **options)

    def plot(self, ax=None, *, colors=None, n_std=1.0):
        """Draw the mixture.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes one.
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
        ValueError
            If the axes or the colours do not fit the mixture.
        """
        import matplotlib.pyplot as plt

        d = self.means.shape[1]
        if ax is None:
            ax = plt.figure().add_subplot(projection="3d" if d == 3 else None)
        if (ax.name == "3d") != (d == 3):
            raise ValueError(
                f"ax must have {d} axes for {d} features, got projection {ax.name!r}. Make it with "
                "projection='3d' for three features, without for two."
            )
        if colors is None:
            colors = [f"C{k % 10}" for k in range(len(self.weights))]
        if len(colors) < len(self.weights):
            raise ValueError(
                f"colors must be one for each of {len(self.weights)} components, got {len(colors)}."
                " Pass more, or None."
            )
        opacity = 0.35 + 0.55 * self.weights / self.weights.max()
        draw = self._ellipsoid if d == 3 else self._ellipse
        for k in np.argsort(-self.weights):
            draw(ax, k, n_std, color=colors[k], alpha=opacity[k])
        self.ax_ = ax
        return self

    def _surface(self, k, unit, n_std):
        """Points of the unit sphere ``(..., d)`` on the ellipsoid of component k."""
        variances, axes = np.linalg.eigh(self.covariances[k])
        return self.means[k] + (unit * n_std * np.sqrt(variances.clip(0))) @ axes.T

    def _ellipse(self, ax, k, n_std, **style):
        angle = np.linspace(0, 2 * np.pi, 100)
        outline = self._surface(k, np.stack([np.cos(angle), np.sin(angle)], axis=-1), n_std)
        ax.fill(*outline.T, **style)

    def _ellipsoid(self, ax, k, n_std, **style):
        azimuth, polar = np.meshgrid(np.linspace(0, 2 * np.pi, 32), np.linspace(0, np.pi, 17))
        unit = np.stack(
            [np.cos(azimuth) * np.sin(polar), np.sin(azimuth) * np.sin(polar), np.cos(polar)],
            axis=-1,
        )
        ax.plot_surface(*np.moveaxis(self._surface(k, unit, n_std), -1, 0), linewidth=0, **style)
