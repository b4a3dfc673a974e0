"""Quantisation of samples or a density in the Wasserstein distance."""

import functools
import math
import warnings
from numbers import Integral, Real
from typing import Any, Self, overload

import numpy as np
import torch
from sklearn.base import (
    ClassNamePrefixFeaturesOutMixin,
    ClusterMixin,
    TransformerMixin,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from skgmmot._inputs import arrays
from skgmmot._inputs.mixtures import looks_like_mixture
from skgmmot._types import Array, Device, Elsewhere, Mixture, RandomState, fit_context
from skgmmot.estimators._progress import ProgressBar
from skgmmot.estimators.callbacks import (
    CallbackSupportMixin,
    called_log,
    fit_task,
    fitted_as_far,
)
from skgmmot.estimators.mixtures._base import whole_fit
from skgmmot.estimators.saving import SavedEstimator
from skgmmot.estimators.transport._quantizer_inputs import (
    like,
    read_density,
    read_samples,
    start_of,
)
from skgmmot.fitting.quantization import Lloyd, Samples, nearest_cell, squares_to
from skgmmot.fitting.quantization_bound import cost_bound, cost_error
from skgmmot.numerics.fixed_point import iterate
from skgmmot.numerics.linalg import error_of_root, power_of_two
from skgmmot.numerics.threads import single_threaded_torch
from skgmmot.transport.discrete.clustering_bound import excess
from skgmmot.transport.semidiscrete.grid import GridDensity

#: Attributes that only fits with known errors have.
OF_ERRORS = ("error_", "distance_error_")


class WassersteinQuantizer(
    CallbackSupportMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    ClusterMixin,
    SavedEstimator,
):
    r"""Points that approximate samples or a density best in the 2-Wasserstein distance.

    .. math:: \min_y W_2\Bigl(\rho, \sum_j b_j \delta_{y_j}\Bigr)

    by Lloyd's algorithm: each point moves to the barycentre of its cell in the optimal plan. With
    equal masses :math:`b_j`, all cells have the same mass (balanced k-means, stippling); with free
    masses, each sample is assigned to the nearest point (k-means).

    Parameters
    ----------
    n_clusters : int, default=8
        Number of points.
    masses : {'uniform', 'free'}, default='uniform'
        Masses of the points: all equal, or those of the samples nearest to each.
    init : {'random', 'k-means++'} or array-like of shape (n_clusters, n_features), default='random'
        Starting points: samples (or draws from the density) chosen at random or, for samples, by
        k-means++; or given points.
    max_iter : int, default=100
        Largest number of steps.
    tol : float, default=1e-4
        Stops when one step lowers the squared distance by less than this share of it.
    n_nodes : int, default=4096
        Number of quasi-random nodes that replace a mixture unless it has two features.
    random_state : int, RandomState instance or None, default=None
        Controls the start.
    verbose : int, default=0
        1 shows a progress bar with the distance.
    certify : bool, default=False
        Whether to compute ``error_`` and ``distance_error_`` after the fit, which stays the same.
    device : str or torch.device, default=None
        Where to compute with samples; None is where they are. Cells in the plane are computed on
        the CPU.

    Attributes
    ----------
    cluster_centers_ : array or Tensor of shape (n_clusters, n_features)
        The points.
    masses_ : array or Tensor of shape (n_clusters,)
        Masses of their cells, of sum one.
    potentials_ : array or Tensor of shape (n_clusters,)
        Potentials: the cell of point j is the set where ``|x - y_j|^2 - psi_j`` is smallest.
    labels_ : array or Tensor of shape (n_samples,)
        Indices of the cells of the samples, if it was fitted to samples.
    periodic_extent_ : tuple of float
        Where the periodic box of the density is (left, right, lower and upper end), in which the
        points are and distances are those to the nearest image; only if it is periodic.
    distance_ : float
        The distance W2 reached, in units of the features.
    error_ : float
        With ``certify``: a bound of how much less than ``distance_`` the distance of any
        ``n_clusters`` points may be, whatever their masses. It is loose, since it is found without
        a search: a third to a half of the distance even of the best points if clusters touch, less
        if they are apart; all of it from 2,047 points on.
    distance_error_ : float
        With ``certify``: how far ``distance_`` may be from the distance of these points. For
        samples a bound, from the duality gap of the plan and its masses; for an image or a mixture
        an estimate, of its cells or its nodes.
    n_iter_ : int
        Number of steps.
    converged_ : bool
        Whether ``tol`` was reached within ``max_iter`` steps.
    n_features_in_ : int
        Number of features d.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if ``X`` had any.

    See Also
    --------
    skgmmot.semidiscrete_plan : The cells of given points.
    skgmmot.SemidiscreteGMM : The mixture nearest to samples in the same distance.

    Notes
    -----
    Each step solves one transport problem: for an image or a mixture in the plane by a few Newton
    steps from the last potentials; for samples and equal masses by the network simplex, with
    ``n_samples * n_clusters`` costs in memory; for free masses by one pass over the samples. The
    result is a local optimum, as for k-means.

    References
    ----------
    .. [1] Kitagawa, Merigot and Thibert 2019, damped Newton algorithm for the cells.

    Examples
    --------
    >>> import numpy as np
    >>> from skgmmot import GridDensity, WassersteinQuantizer
    >>> square = GridDensity(np.ones((8, 8)))
    >>> quantizer = WassersteinQuantizer(4, tol=1e-9, random_state=0).fit(square)
    >>> quantizer.masses_.round(6)
    array([0.25, 0.25, 0.25, 0.25])
    >>> quantizer.predict(quantizer.cluster_centers_)
    array([0, 1, 2, 3])
    """

    _parameter_constraints: dict = {
        "n_clusters": [Interval(Integral, 1, None, closed="left")],
        "masses": [StrOptions({"uniform", "free"})],
        "init": [StrOptions({"random", "k-means++"}), "array-like", torch.Tensor],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0.0, None, closed="left")],
        "n_nodes": [Interval(Integral, 1, None, closed="left")],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
        "certify": ["boolean"],
        "device": [str, torch.device, None],
    }

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        masses: str = "uniform",
        init: str | Array | Tensor = "random",
        max_iter: int = 100,
        tol: float = 1e-4,
        n_nodes: int = 4096,
        random_state: RandomState = None,
        verbose: int = 0,
        certify: bool = False,
        device: Device = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.masses = masses
        self.init = init
        self.max_iter = max_iter
        self.tol = tol
        self.n_nodes = n_nodes
        self.random_state = random_state
        self.verbose = verbose
        self.certify = certify
        self.device = device

    @fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X: Samples | Mixture | GridDensity,
        y: Samples | None = None,
        sample_weight: Samples | None = None,
    ) -> Self:
        """Compute the points.

        Parameters
        ----------
        X : array-like or Tensor of shape (n_samples, n_features), GridDensity or mixture
            What to quantise: samples, an image or voxels, or a mixture (a fitted estimator or a
            tuple ``(weights, means, covariances)``). An array is always samples; wrap a picture in
            `GridDensity`.
        y : None
            Ignored.
        sample_weight : array-like or Tensor of shape (n_samples,), default=None
            Non-negative weights of the samples.

        Returns
        -------
        WassersteinQuantizer
            The fitted estimator.

        Raises
        ------
        ValueError
            If a parameter, ``X`` or ``sample_weight`` is invalid, or there are fewer samples than
            points; an earlier fit is then left as it was.

        Warns
        -----
        ConvergenceWarning
            If the steps ended at ``max_iter``, or leave points without mass.
        UserWarning
            If samples may be a picture: non-negative, of 16 features or more, at most four times
            as many samples as features, and without ``sample_weight``.
        """
        with fit_task(self, X, y, sample_weight) as task, whole_fit(self) as (fitted, reached):
            fitted._fit_validated(X, sample_weight, reached, task)
        return self

    def _fit_validated(self, X, sample_weight, reached, task):
        """`fit`, on a copy."""
        is_density = looks_like_mixture(X) or isinstance(X, GridDensity)
        read = read_density if is_density else read_samples
        density, scaling, dtype, kind = read(self, X, sample_weight)
        vars(self).pop("periodic_extent_", None)
        if isinstance(density, GridDensity) and density.periodic:
            self.periodic_extent_ = tuple(float(end) for end in X.extent)
        start = start_of(self, density, scaling, check_random_state(self.random_state))
        free = self.masses == "free"
        step = Lloyd(density, None if free else torch.full_like(start[:, 0], 1 / self.n_clusters))

        def show(on, solution):
            points = on._in_box(scaling.invert(solution.value[0])).to(dtype)
            plan, label = step.final_plan(scaling.apply(points.double()))
            on._set_attributes(points, plan, scaling, dtype, kind)
            on.n_iter_, on.converged_ = solution.n_iter, solution.converged
            vars(on).pop("labels_", None)
            if not is_density:
                on.labels_ = on._labels(X, sample_weight, label, kind)
            return plan

        reached.show = functools.partial(show, self)

        def log(bar):
            return called_log(
                bar, task, self.max_iter, functools.partial(fitted_as_far, self, show)
            )

        for name in OF_ERRORS:
            vars(self).pop(name, None)
        plan = show(self, self._quantize(step, start, scaling.unit, reached, log))
        if self.certify:
            self._certify(step, plan, scaling)
        if n_idle := int((plan.masses == 0).sum()):
            warnings.warn(
                f"{n_idle} of {self.n_clusters} points have no mass: nothing is nearest to them. "
                "Start them elsewhere by init, or ask for fewer.",
                ConvergenceWarning,
                stacklevel=4,
            )

    def _certify(self, step, plan, scaling):
        """Set how far the distance may be from the least one, and from that of the points."""
        points = scaling.apply(arrays.as_tensor(self.cluster_centers_).to(like(step.density)))
        square = max(float(plan.cost), 0.0)
        least = math.sqrt(cost_bound(step.density, self.n_clusters, square)) * scaling.unit
        self.error_ = excess(self.distance_, least)
        self.distance_error_ = error_of_root(square, cost_error(step, points, plan)) * scaling.unit

    def _quantize(self, step, start, unit, reached, called):
        """Iterate Lloyd's steps until convergence."""
        tol = max(self.tol, np.finfo(float).tiny)  # no change at all is below it
        last = []

        def note(solution):
            last[:] = [solution]
            return log.step(solution)

        def shown(solution):
            return {"distance": unit * math.exp(-solution.objective / 2)}  # -log of its square

        reached.best = lambda: last[0] if last else None
        with ProgressBar(self.verbose, self.max_iter, "quantisation", shown) as bar:
            log = called(bar)
            solution = iterate(step, (start,), tol=tol, max_iter=self.max_iter, callback=note)
            log.end(solution)
        if not solution.converged and solution.n_iter == self.max_iter:
            warnings.warn(
                f"Lloyd's steps stopped at max_iter={self.max_iter} with a relative change of "
                f"{solution.change:.1e} > tol={self.tol:.1e}. Increase max_iter or tol.",
                ConvergenceWarning,
                stacklevel=5,
            )
        return solution

    def _set_attributes(self, points, plan, scaling, dtype, kind):
        """Set the fitted attributes in the user's kind of array and dtype."""
        self.cluster_centers_ = kind.restore(points)
        self.masses_ = kind.restore(plan.masses.to(dtype))
        self.potentials_ = kind.restore(plan.potentials * scaling.unit * scaling.unit)
        self.distance_ = float(plan.cost.clamp(min=0).sqrt()) * scaling.unit

    def _labels(self, X, sample_weight, label, kind):
        """The cells of all samples; those of samples of weight zero are predicted."""
        X, _ = arrays.samples(self, X, reset=False)
        if len(label) < len(X):
            kept = arrays.sample_weights(sample_weight, X) > 0
            labels = arrays.as_tensor(self.predict(X)).to(label)
            label = labels.masked_scatter(kept.to(label.device), label)
        return kind.restore(label)

    @overload
    def predict(self, X: Elsewhere) -> Any: ...

    @overload
    def predict(self, X: Array) -> np.ndarray: ...

    @single_threaded_torch()
    def predict(self, X):
        """Find the cell of each sample.

        Parameters
        ----------
        X : array-like or Tensor of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        array or Tensor of shape (n_samples,)
            Indices into ``cluster_centers_``: smallest ``|x - y_j|^2 - psi_j``.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If ``X`` is invalid.
        """
        X, kind, centres = self._beside(X)
        potentials = arrays.as_tensor(self.potentials_).to(centres)
        if potentials.shape != centres.shape[:1]:
            raise ValueError(
                f"potentials_ must have shape ({len(centres)},), one for each of cluster_centers_, "
                f"got {tuple(potentials.shape)}. Set both."
            )
        return kind.restore(nearest_cell(X.double(), centres, potentials, self._period(centres)))

    @overload
    def transform(self, X: Elsewhere) -> Any: ...

    @overload
    def transform(self, X: Array) -> np.ndarray: ...

    @single_threaded_torch()
    def transform(self, X):
        """Compute the Euclidean distances of samples to all points.

        In a periodic box they are those to the nearest image of a point.

        Parameters
        ----------
        X : array-like or Tensor of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        array or Tensor of shape (n_samples, n_clusters)
            Euclidean distances, in the dtype of ``X``.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If ``X`` is invalid.
        """
        X, kind, centres = self._beside(X)
        X, dtype = X.double(), X.dtype
        unit = power_of_two(float(torch.maximum(X.abs().amax(), centres.abs().amax())))
        period = self._period(centres)
        period = None if period is None else period / unit
        distances = squares_to(X / unit, centres / unit, period).sqrt() * unit
        return kind.restore(distances.to(dtype))

    def _beside(self, X):
        """Samples, their kind, and the points where the samples are, in float64."""
        check_is_fitted(self, "cluster_centers_")
        X, kind = arrays.samples(self, X, reset=False)
        X = X.detach()
        centres = arrays.as_tensor(self.cluster_centers_, dtype=torch.float64).to(X.device)
        if centres.ndim != 2 or centres.shape[1] != X.shape[1]:
            raise ValueError(
                f"cluster_centers_ must have shape (n_clusters, {X.shape[1]}), got "
                f"{tuple(centres.shape)}. Set points with the features of the fit."
            )
        return X, kind, centres

    def _period(self, like: torch.Tensor) -> torch.Tensor | None:
        """The lengths of the periodic box, if the density was periodic."""
        if not hasattr(self, "periodic_extent_"):
            return None
        ends = np.array(self.periodic_extent_)
        return like.new_tensor(ends[1::2] - ends[::2])

    def _in_box(self, points: torch.Tensor) -> torch.Tensor:
        """Points moved into the periodic box, if the density was periodic."""
        period = self._period(points)
        if period is None:
            return points
        corner = points.new_tensor(self.periodic_extent_[::2])
        return corner + (points - corner).remainder(period)

    @property
    def _n_features_out(self):
        return len(self.cluster_centers_)
