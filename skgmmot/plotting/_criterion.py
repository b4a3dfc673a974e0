"""`CriterionDisplay`: the criterion of a search by number of components and covariance type."""

from itertools import cycle
from typing import Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

from skgmmot.plotting._axes import axes_for

#: What the criteria are called in plots.
LABELS = {"bic": "BIC", "aic": "AIC", "icl": "ICL", "held_out": "-2 held-out log-likelihood"}


class CriterionDisplay:
    """Plot of a criterion against the number of components, a line for each covariance type.

    Parameters
    ----------
    results : dict of ndarrays
        The table of a search, ``results_`` of `skgmmot.GaussianMixtureSearch`.
    best_index : int
        The row of the fit that was chosen.
    criterion : {'bic', 'aic', 'icl', 'held_out'}
        The criterion to draw.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes of the plot.
    figure_ : matplotlib Figure
        The figure of the plot.

    See Also
    --------
    skgmmot.GaussianMixtureSearch : The search.
    """

    def __init__(self, results, best_index, criterion):
        self.results = results
        self.best_index = best_index
        self.criterion = criterion

    @classmethod
    def from_estimator(cls, search, *, criterion=None, ax=None) -> Self:
        """Draw a fitted search.

        Parameters
        ----------
        search : fitted GaussianMixtureSearch
            The search.
        criterion : {'bic', 'aic', 'icl', 'held_out'}, default=None
            The criterion to draw; None is that of the search. ``'held_out'`` is known only where it
            is that.
        ax : matplotlib Axes, default=None
            Where to draw; None makes one.

        Returns
        -------
        CriterionDisplay
            The display, drawn.

        Raises
        ------
        NotFittedError
            If the search is not fitted.
        TypeError
            If it is another estimator.
        ValueError
            If the criterion is unknown.
        """
        if not hasattr(search, "covariance_types"):
            raise TypeError(
                f"search must be a GaussianMixtureSearch, got {type(search).__name__}. Fit one, or "
                "draw its own results."
            )
        check_is_fitted(search)
        criterion = search.criterion if criterion is None else criterion
        return cls(search.results_, search.best_index_, criterion).plot(ax)

    def plot(self, ax=None) -> Self:
        """Draw the criterion, with a ring around the fit that was chosen.

        A line ends where its type was given up, which the legend says. Fits that failed or
        collapsed are left out.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes one.

        Returns
        -------
        CriterionDisplay
            Itself.

        Raises
        ------
        ValueError
            If the criterion is unknown.
        """
        K, values = self.results["n_components"], self._values()
        self.ax_ = ax = axes_for(ax)
        self.figure_ = ax.figure
        drawn = np.isfinite(values) & ~self.results["collapsed"]
        types = self.results["covariance_type"]
        for name, marker in zip(dict.fromkeys(types), cycle("os^Dv"), strict=False):
            rows = drawn & (types == name)
            given_up = ", given up" if K[types == name].max() < K.max() else ""
            ax.plot(K[rows], values[rows], marker=marker, label=f"{name}{given_up}")
        best = self.best_index
        ax.plot(K[best], values[best], "o", color="black", markersize=12, fillstyle="none")
        ax.set(xlabel="components", ylabel=LABELS[self.criterion])
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.legend()
        return self

    def _values(self) -> np.ndarray:
        """The criterion of each fit, which is to be small."""
        known = [name for name in LABELS if name in self.results]
        if self.criterion not in known:
            raise ValueError(
                f"criterion must be one of {known}, got {self.criterion!r}. 'held_out' needs a "
                "search with that criterion."
            )
        # the table has the mean held-out log-likelihood; the criterion is -2 times the sum
        return self.results["criterion" if self.criterion == "held_out" else self.criterion]
