"""`SemidiscreteGMM`: the mixture nearest to samples in the Wasserstein distance."""

import math
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, Self

import torch
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions

from skgmmot._types import Device, RandomState, Samples
from skgmmot.estimators._progress import ProgressBar
from skgmmot.estimators.mixtures._base import CovarianceTypeName, in_dtype
from skgmmot.estimators.mixtures._fit import Fit, FittedMixture
from skgmmot.estimators.starts import assignments, earlier, units
from skgmmot.fitting.em.rows import EM
from skgmmot.fitting.samples import InMemory
from skgmmot.fitting.semidiscrete import (
    MAX_PARAMETER,
    distance_error,
    fit_to_points,
    outlier_ratio,
    robust_variance,
)
from skgmmot.gaussian.coordinates import with_added_variance
from skgmmot.numerics import blocks
from skgmmot.numerics.linalg import Rescaling
from skgmmot.numerics.runs import Runs

#: Share of the samples' variance added to that of a start's components: needles are far from all.
WIDENING = 0.01
#: How much further out than half of the samples one may be for cells of 64 bits to be told apart.
FARTHEST = 1e4


class SemidiscreteGMM(FittedMixture):
    """Gaussian mixture fitted by the Wasserstein distance to the samples.

    ``min_theta W2(sum_k w_k N(m_k, Sigma_k), sum_i a_i delta_{x_i})``: the mixture that takes the
    least work to be carried onto the samples. A sample draws only the mass that it weighs, from
    nearby, so that a few outliers move the fit a little; but likelihood is not what is maximised.

    Parameters
    ----------
    n_components : int, default=1
        Number of components K.
    covariance_type : {'full', 'tied', 'diag', 'spherical'}, default='full'
        What the components' covariances may be.
    integration : {'auto', 'exact', 'nodes'}, default='auto'
        ``'exact'``, for two features: the distance itself. ``'nodes'``: quasi-random nodes stand
        for the mixture, ``x = m_k + L_k z``, the same ``z`` all along. ``'auto'`` is the first for
        two features and the second otherwise.
    n_nodes : int, default=1024
        Number of nodes, where there are nodes.
    tol : float, default=1e-4
        The descent ends when five steps lower the squared distance by less than this share of it,
        or one step of Newton's method that is not cut off.
    reg_covar : float, default=1e-6
        Added to the variances, in squared units of ``X``; positive.
    max_iter : int, default=200
        Largest number of steps; 0 keeps the start.
    n_init : int, default=1
        Number of starts; the fit of least distance is kept.
    init_params : {'kmeans', 'k-means++', 'random', 'random_from_data'} or callable, \
            default='kmeans'
        How to start. A callable ``init_params(X, n_components, random_state)`` returns labels or
        responsibilities of ``X``, the samples of positive weight.
    random_state : int, RandomState instance or None, default=None
        Controls the starts, the nodes and `sample`.
    warm_start : bool, default=False
        Whether a further `fit` starts from the last solution.
    verbose : int, default=0
        1 shows a progress bar with the distance.
    certify : bool, default=False
        Whether to compute ``error_`` after the fit, which stays the same.
    device : str or torch.device, default=None
        Where the samples go; None is where they are. Plans are found on the CPU.

    Attributes
    ----------
    weights_ : array or Tensor of shape (n_components,)
        Weights of the components.
    means_ : array or Tensor of shape (n_components, n_features)
        Means.
    covariances_ : array or Tensor
        Covariances: ``(K, d, d)`` if full, ``(d, d)`` if tied, ``(K, d)`` if diag, ``(K,)`` if
        spherical.
    precisions_ : array or Tensor
        Inverse covariances, in the same shape.
    precisions_cholesky_ : array or Tensor
        Factors ``P`` of the precisions, ``P @ P.T``, in the same shape.
    distance_ : float
        The distance W2 reached, in units of ``X``: to the samples with masses that may give way by
        a thousandth where they are as far off as the samples are spread.
    error_ : float
        With ``certify``: an estimate of how far ``distance_`` may be from the distance of the
        fitted mixture to the samples, from one more plan: by what the masses gave way, by rounding
        or by the number of nodes. It does not say how much nearer another mixture may be.
    distances_ : list of float
        The same after each step.
    converged_ : bool
        Whether the best fit ended by ``tol``, or because no step lowered the distance.
    n_iter_ : int
        Steps of the best fit.
    n_features_in_ : int
        Number of features d.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if ``X`` had any.

    See Also
    --------
    skgmmot.DifferentiableGaussianMixture : The mixture of largest likelihood.
    skgmmot.semidiscrete_distance : The distance that is minimised.

    Notes
    -----
    In the plane fits take Newton steps, ten to thirty from k-means: one or two transport plans
    each, of a few Newton steps of their own of ``O(n log n + n K)``, and linear systems in the
    parameters, for thousands of samples. Starts far from the samples take many more. More than a
    thousand parameters, and nodes, are left to L-BFGS, a plan or two a step. Nodes hold
    ``n_nodes * n_samples`` costs, and the network simplex takes their number and more. A local
    optimum is reached, as by EM.

    References
    ----------
    .. [1] Kitagawa, Merigot and Thibert 2019, damped Newton algorithm.

    Examples
    --------
    >>> import numpy as np
    >>> from skgmmot import SemidiscreteGMM
    >>> rng = np.random.default_rng(0)
    >>> X = np.vstack([rng.normal(size=(50, 2)), [8, 0] + rng.normal(size=(50, 2))])
    >>> mixture = SemidiscreteGMM(n_components=2, random_state=0).fit(X)
    >>> np.sort(mixture.means_[:, 0].round()).astype(int)
    array([0, 8])
    """

    _parameter_constraints: dict = {
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "covariance_type": [CovarianceTypeName()],
        "integration": [StrOptions({"auto", "exact", "nodes"})],
        "n_nodes": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0.0, None, closed="left")],
        "reg_covar": [Interval(Real, 0.0, None, closed="neither")],
        "max_iter": [Interval(Integral, 0, None, closed="left")],
        "n_init": [Interval(Integral, 1, None, closed="left")],
        "init_params": [StrOptions(set(assignments.ASSIGNMENTS)), callable],
        "random_state": ["random_state"],
        "warm_start": ["boolean"],
        "verbose": ["verbose"],
        "certify": ["boolean"],
        "device": [str, torch.device, None],
    }

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: str = "full",
        integration: str = "auto",
        n_nodes: int = 1024,
        tol: float = 1e-4,
        reg_covar: float = 1e-6,
        max_iter: int = 200,
        n_init: int = 1,
        init_params: str | Callable[..., Any] = "kmeans",
        random_state: RandomState = None,
        warm_start: bool = False,
        verbose: int = 0,
        certify: bool = False,
        device: Device = None,
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.integration = integration
        self.n_nodes = n_nodes
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.certify = certify
        self.device = device

    def fit(
        self, X: Samples, y: Samples | None = None, sample_weight: Samples | None = None
    ) -> Self:
        """Fit the mixture.

        Parameters
        ----------
        X : array-like or Tensor of shape (n_samples, n_features)
            Samples.
        y : None
            Ignored.
        sample_weight : array-like or Tensor of shape (n_samples,), default=None
            Non-negative weights; a weight of 2 is a row given twice, 0 a row left out.

        Returns
        -------
        SemidiscreteGMM
            The fitted estimator.

        Raises
        ------
        ValueError
            If a parameter, ``X`` or ``sample_weight`` is invalid, or a sample too far from the
            rest for exact transport; an earlier fit is then left as it was.
        RuntimeError
            If the transport of a start cannot be found; likewise.

        Warns
        -----
        ConvergenceWarning
            If the best fit stopped at ``max_iter``.
        UserWarning
            If ``reg_covar`` exceeds a tenth of the smallest variance among the features that vary.
        """
        self._fit(X, sample_weight, y)
        return self

    def _fit_to(self, X, sample_weight, kind):
        return _Fit(self, X, sample_weight, kind)


class _Fit(Fit):
    """A descent of the distance to given samples, in a unit in which they are near one."""

    def __init__(self, estimator, X, sample_weight, kind):
        self.estimator, self.dtype, self.kind = estimator, X.dtype, kind
        if estimator.integration == "exact" and X.shape[1] != 2:
            raise ValueError(
                f"integration must be 'nodes' for {X.shape[1]} features, got 'exact', which "
                "is for the plane. Leave it at 'auto'."
            )
        self.exact = estimator.integration != "nodes" and X.shape[1] == 2
        X = X.detach()
        a = X.new_ones(len(X)) if sample_weight is None else sample_weight.detach()
        self.X, self.weights = X[a > 0], a[a > 0].double()
        X = self.X.double()
        mean = blocks.origin(X, self.weights)
        units.warn_of_units(estimator, units.variances(X, self.weights, mean), mean)
        self.scaling = Rescaling.of(X, math.sqrt(estimator.reg_covar))
        self.points, unit = self.scaling.apply(X), self.scaling.unit
        self.reg_covar = estimator.reg_covar / unit / unit
        self.bar = ProgressBar(
            estimator.verbose,
            estimator.max_iter,
            "semi-discrete fit",
            lambda s: {"distance": unit * math.sqrt(max(-s.objective, 0.0))},
        )
        self.runs = Runs(self.bar)
        self.error = None  # of the distance, in the unit, once it is known

    def solve(self, warm):
        """The fit of least distance."""
        e = self.estimator
        rng = check_random_state(e.random_state)
        starts = [self._earlier()] if warm else self._starts(rng)
        options = {
            "n_nodes": None if self.exact else e.n_nodes,
            "random_state": int(rng.randint(2**31 - 1)),
            "reg_covar": self.reg_covar,
            "tol": e.tol,
            "max_iter": e.max_iter,
        }
        if self.exact:
            _check_remoteness(self.points, self.weights)

        def run(start, callback):
            return fit_to_points(start, self.points, self.weights, callback=callback, **options)

        with self.bar:
            solution = self.runs.best_of(starts, run)
        if e.certify:
            nodes = options["n_nodes"], options["random_state"]
            self.error = distance_error(solution, self.points, self.weights, *nodes)
        return solution

    def _starts(self, rng) -> list:
        """The mixtures to start from."""
        e, starts, origin = self.estimator, [], torch.zeros_like(self.points[0])
        with EM(InMemory(self.points, self.weights), origin, self.reg_covar).at_work() as em:
            for _ in range(e.n_init):
                assignment = assignments.assign(
                    e.init_params, em, e.n_components, rng, self.kind, self.X
                )
                start = assignments.start(assignment, em, e._covariance(), e.n_components)
                starts.append(start._replace(weights=start.weights / start.weights.sum()))
        variance = WIDENING * robust_variance(self.points, self.weights)
        return [with_added_variance(start, variance) for start in starts]

    def _earlier(self):
        """The estimator's own last fit."""
        origin, unit = self.scaling.origin, self.scaling.unit
        params = earlier.earlier_mixture(self.estimator, len(origin), origin.device)
        params = params.translated(-origin).scaled(1 / unit)
        largest = max(float(t.abs().max()) for t in params)
        if not largest < MAX_PARAMETER:
            raise ValueError(
                "warm_start needs an earlier fit near X, got one whose means or variances are up "
                f"to {largest:.0e} in units of X. Set warm_start=False to start anew."
            )
        return params

    def not_converged(self, solution):
        """The warning, by how much the last step lowered the distance."""
        e, share = self.estimator, solution.change / -solution.objective
        return (
            f"The best fit stopped at max_iter={e.max_iter}; its last step lowered the "
            f"squared distance by {share:.1e} of it, tol={e.tol:.1e}"
            ". Increase max_iter or tol."
        )

    def show(self, solution):
        """Set the estimator's attributes, in the user's units, kind of array and dtype."""
        e, theta, unit = self.estimator, solution.value, self.scaling.unit
        factors = theta.prepare().factors / unit
        theta = theta.scaled(unit).translated(self.scaling.origin)
        shown = e._public(theta.detach(), factors.detach())
        for name, tensor in in_dtype(shown, self.dtype).items():
            setattr(e, name, self.kind.restore(tensor))
        e.distance_ = unit * math.sqrt(max(-solution.objective, 0.0))
        vars(e).pop("error_", None)
        if self.error is not None:
            e.error_ = unit * self.error
        e.distances_ = [unit * math.sqrt(max(-cost, 0.0)) for cost in solution.objectives]
        e.converged_, e.n_iter_ = solution.converged, solution.n_iter


def _check_remoteness(points, weights):
    """Refuse samples too far from the rest."""
    far = outlier_ratio(points, weights)
    if FARTHEST < far < math.inf:
        raise ValueError(
            f"X must hold no sample more than {FARTHEST:.0e} times as far out as half of the "
            f"samples for exact transport, got one {far:.1e} times as far out. Leave it out, "
            "or set integration='nodes'."
        )
