"""`FitTraceDisplay`: the objective at each iteration of a fit."""

from typing import Self

import numpy as np
from sklearn.exceptions import NotFittedError

from skgmmot.plotting._axes import axes_for, part_of


class FitTraceDisplay:
    """Plot of the objective of a fit at each of its iterations.

    Parameters
    ----------
    lower_bounds : array-like of shape (n_iter,)
        The objective after each iteration.
    converged : bool, default=None
        Whether the fit converged; a circle marks its end if so, a cross if not, nothing for None.
    n_init : int, default=1
        Of how many starts this is the best run.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes of the plot.
    figure_ : matplotlib Figure
        The figure of the plot.

    Notes
    -----
    What the lower bound is says the estimator: for plain EM, the mean log-likelihood.
    """

    def __init__(self, lower_bounds, *, converged=None, n_init=1):
        self.lower_bounds = lower_bounds
        self.converged = converged
        self.n_init = n_init

    @classmethod
    def from_estimator(cls, estimator, *, ax=None, **options) -> Self:
        """Draw the fit of a mixture.

        Parameters
        ----------
        estimator : fitted mixture estimator
            An estimator that has ``lower_bounds_``, of this package or of scikit-learn. Only the
            best of its ``n_init`` runs is kept there. A search shows its best fit, a
            `skgmmot.MixtureRegressor` or `skgmmot.MixtureImputer` that of its ``mixture_``.
        ax : matplotlib Axes, default=None
            Where to draw; axes of another display compare two fits. None makes one.
        **options : dict
            Passed to `plot`.

        Returns
        -------
        FitTraceDisplay
            The display, drawn.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        TypeError
            If it keeps no objectives.
        """
        estimator = part_of(estimator, "mixture_")
        bounds = getattr(estimator, "lower_bounds_", None)
        if bounds is None:
            raise _refusal(estimator)
        if not len(bounds):
            raise ValueError(
                "estimator must have at least one iteration to draw, got none, as with max_iter=0. "
                "Fit with more iterations."
            )
        converged = bool(estimator.converged_)
        display = cls(bounds, converged=converged, n_init=getattr(estimator, "n_init", 1))
        return display.plot(ax, **options)

    def plot(self, ax=None, *, label=None, **style) -> Self:
        """Draw the objective.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes one.
        label : str, default=None
            Name of the fit in the legend; None says of how many starts it is the best, and how it
            ended.
        **style : dict
            Passed to matplotlib's ``plot``.

        Returns
        -------
        FitTraceDisplay
            Itself.

        Raises
        ------
        ValueError
            If the axes are not flat.
        """
        self.ax_ = ax = axes_for(ax)
        self.figure_ = ax.figure
        values = np.asarray(self.lower_bounds, dtype=float)
        iterations = np.arange(1, len(values) + 1)
        marker = {None: "", True: "o", False: "x"}[self.converged]
        style = {"marker": marker, "markevery": [len(values) - 1], "markersize": 8} | style
        ax.plot(iterations, values, label=self._ending() if label is None else label, **style)
        ax.set(xlabel="iteration", ylabel="lower bound")
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.legend()
        return self

    def _ending(self) -> str:
        """Which run this is, and how it ended."""
        run = "the only start" if self.n_init == 1 else f"best of {self.n_init} starts"
        ends = {None: "", True: ", converged", False: ", not converged"}
        return run + ends[self.converged]


def _refusal(estimator) -> Exception:
    """The error for an estimator without objectives."""
    name = type(estimator).__name__
    if not hasattr(estimator, "fit"):
        return TypeError(
            f"estimator must be a fitted mixture estimator, got {name}. Pass one with "
            "lower_bounds_."
        )
    if not any(a.endswith("_") and not a.startswith("_") for a in vars(estimator)):
        return NotFittedError(f"estimator must be fitted, got a {name} that is not. Call fit.")
    return TypeError(
        f"estimator must have lower_bounds_, got a {name} without. Mixtures fitted by EM have "
        "them after fit, and not after partial_fit."
    )
