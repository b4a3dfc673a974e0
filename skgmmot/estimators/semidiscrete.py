"""`SemidiscreteGMM`: the mixture nearest to samples in the Wasserstein distance."""

import math
import warnings
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.base import _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions

from skgmmot._inputs import arrays
from skgmmot.estimators import _init
from skgmmot.estimators._base import MixtureEstimator, whole_fit
from skgmmot.fitting.em.rows import EM
from skgmmot.fitting.semidiscrete import (
    fit_to_points,
    outlier_ratio,
    robust_variance,
    with_added_variance,
)
from skgmmot.gaussian.covariance.registry import COVARIANCE_TYPES
from skgmmot.numerics import blocks
from skgmmot.numerics.linalg import Rescaling

#: Share of the samples' variance added to that of a start's components: needles are far from all.
WIDENING = 0.01
#: How much further out than half of the samples one may be for cells of 64 bits to be told apart.
FARTHEST = 1e4


class SemidiscreteGMM(MixtureEstimator):
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
    method : {'auto', 'exact', 'nodes'}, default='auto'
        ``'exact'``, for two features: the distance itself. ``'nodes'``: quasi-random nodes stand
        for the mixture, ``x = m_k + L_k z``, the same ``z`` all along. ``'auto'`` is the first for
        two features and the second otherwise.
    n_nodes : int, default=1024
        Number of nodes, where there are nodes.
    tol : float, default=1e-4
        The descent ends when five steps lower the squared distance by less than this share of it.
    reg_covar : float, default=1e-6
        Added to the variances, in squared units of ``X``; positive.
    max_iter : int, default=200
        Largest number of steps; 0 keeps the start.
    n_init : int, default=1
        Number of starts; the fit of least distance is kept.
    init_params : {'kmeans', 'k-means++', 'random', 'random_from_data'}, default='kmeans'
        How to start.
    random_state : int, RandomState instance or None, default=None
        Controls the starts, the nodes and `sample`.
    warm_start : bool, default=False
        Whether a further `fit` starts from the last solution.
    verbose : int, default=0
        1 prints the distance after every tenth step.
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
    A step costs one or two transport plans. In the plane that is a few Newton steps of
    ``O(n log n + n K)`` from the last potentials, for thousands of samples; starts far from the
    samples take many more. Nodes hold ``n_nodes * n_samples`` costs, and the network simplex takes
    their number and more. A local optimum is reached, as by EM.

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
        "covariance_type": [StrOptions(set(COVARIANCE_TYPES))],
        "method": [StrOptions({"auto", "exact", "nodes"})],
        "n_nodes": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0.0, None, closed="left")],
        "reg_covar": [Interval(Real, 0.0, None, closed="neither")],
        "max_iter": [Interval(Integral, 0, None, closed="left")],
        "n_init": [Interval(Integral, 1, None, closed="left")],
        "init_params": [StrOptions(set(_init.ASSIGNMENTS))],
        "random_state": ["random_state"],
        "warm_start": ["boolean"],
        "verbose": ["verbose"],
        "device": [str, torch.device, None],
    }

    def __init__(
        self,
        n_components=1,
        *,
        covariance_type="full",
        method="auto",
        n_nodes=1024,
        tol=1e-4,
        reg_covar=1e-6,
        max_iter=200,
        n_init=1,
        init_params="kmeans",
        random_state=None,
        warm_start=False,
        verbose=0,
        device=None,
    ):
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.method = method
        self.n_nodes = n_nodes
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.device = device

    def fit(self, X, y=None, sample_weight=None):
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
        self._fit(X, sample_weight)
        return self

    def fit_predict(self, X, y=None, sample_weight=None):
        """Fit the mixture and predict the component of each sample.

        Parameters
        ----------
        X : array-like or Tensor of shape (n_samples, n_features)
            Samples.
        y : None
            Ignored.
        sample_weight : array-like or Tensor of shape (n_samples,), default=None
            Non-negative weights.

        Returns
        -------
        array or Tensor of shape (n_samples,)
            What ``fit(X).predict(X)`` gives.

        Raises
        ------
        ValueError
            As `fit`.
        """
        return self._fit(X, sample_weight).predict(X)

    @_fit_context(prefer_skip_nested_validation=True)
    def _fit(self, X, sample_weight):
        with whole_fit(self) as (fitted, reached):
            fitted._fit_validated(X, sample_weight, reached)
        return self

    def _fit_validated(self, X, sample_weight, reached):
        """`fit`, on a copy."""
        warm = self.warm_start and hasattr(self, "converged_")
        X, kind = arrays.samples(self, X, reset=True, min_samples=2, sample_weight=sample_weight)
        a = arrays.sample_weights(sample_weight, X)
        arrays.check_range(X)
        self._check(X, a)
        X, dtype = X.detach().double(), X.dtype
        a = X.new_ones(len(X)) if a is None else a.detach().double()
        X, a = X[a > 0], a[a > 0]
        _init.warn_of_units(self, X, a, blocks.origin(X, a))
        scaling = Rescaling.of(X, math.sqrt(self.reg_covar))
        X = scaling.apply(X)
        rng = check_random_state(self.random_state)
        starts = [self._warm_start(scaling)] if warm else self._starts(X, a, scaling, rng)
        seed = int(rng.randint(2**31 - 1))
        runs = _Runs(self.verbose, scaling.unit)

        def show(solution):
            self._set_attributes(solution, scaling, dtype, kind)

        reached.best, reached.show = lambda: runs.best, show
        show(self._best(X, a, scaling, starts, seed, runs))

    def _check(self, X, sample_weight):
        n_samples = len(X) if sample_weight is None else int((sample_weight > 0).sum())
        if n_samples < self.n_components:
            raise ValueError(
                "Expected n_samples >= n_components but got n_components = "
                f"{self.n_components}, n_samples = {n_samples}. Pass more samples or ask for "
                "fewer components."
            )
        if self.method == "exact" and X.shape[1] != 2:
            raise ValueError(
                f"method must be 'nodes' for {X.shape[1]} features, got 'exact', which is for the "
                "plane. Leave it at 'auto'."
            )

    def _reg_covar(self, scaling) -> float:
        """What is added to the variances, in the unit of the rescaled samples."""
        return self.reg_covar / scaling.unit / scaling.unit

    def _starts(self, X, a, scaling, rng) -> list:
        """The mixtures to start from."""
        starts, kind, origin = [], self._covariance(), torch.zeros_like(X[0])
        with torch.no_grad(), blocks.workers(X.device) as pool:
            em = EM(X, a, origin, self._reg_covar(scaling), pool)
            for _ in range(self.n_init):
                assignment = _init.assign(self.init_params, em, self.n_components, rng)
                start = _init.start(assignment, em, kind, self.n_components)
                starts.append(start._replace(weights=start.weights / start.weights.sum()))
        variance = WIDENING * robust_variance(X, a)
        return [with_added_variance(start, variance) for start in starts]

    def _warm_start(self, scaling):
        expected = (self.n_components, len(scaling.origin))
        if np.shape(self.means_) != expected:
            raise ValueError(
                f"warm_start needs a fit of shape (n_components, n_features) = {expected}, got one "
                f"of shape {np.shape(self.means_)}. Set warm_start=False to start anew."
            )
        params = self._params(dtype=torch.float64, device=scaling.origin.device).detach()
        return params._replace(
            means=scaling.apply(params.means),
            covariances=params.covariances / scaling.unit / scaling.unit,
        )

    def _best(self, points, weights, scaling, starts, seed, runs):
        """The fit of least distance."""
        exact = self.method == "exact" or (self.method == "auto" and points.shape[1] == 2)
        options = {
            "n_nodes": None if exact else self.n_nodes,
            "seed": seed,
            "reg_covar": self._reg_covar(scaling),
            "tol": self.tol,
            "max_iter": self.max_iter,
            "callback": runs.reach,
        }
        if exact:
            self._check_remoteness(points, weights)
        for start in starts:
            runs.end(fit_to_points(start, points, weights, **options))
        best = runs.best
        if not best.converged and self.max_iter > 0:
            warnings.warn(
                f"The best fit stopped at max_iter={self.max_iter}; its last step lowered the "
                f"squared distance by {best.change / -best.objective:.1e} of it, tol={self.tol:.1e}"
                ". Increase max_iter or tol.",
                ConvergenceWarning,
                stacklevel=6,
            )
        return best

    @staticmethod
    def _check_remoteness(points, weights):
        far = outlier_ratio(points, weights)
        if FARTHEST < far < math.inf:
            raise ValueError(
                f"X must hold no sample more than {FARTHEST:.0e} times as far out as half of the "
                f"samples for exact transport, got one {far:.1e} times as far out. Leave it out, "
                "or set method='nodes'."
            )

    def _set_attributes(self, solution, scaling, dtype, kind):
        """Show the fit in the user's kind of array and dtype."""
        covariance, theta, unit = self._covariance(), solution.value, scaling.unit
        factors = covariance.precision_factor(theta.covariances) / unit
        shown = {
            "weights_": theta.weights,
            "means_": scaling.invert(theta.means),
            "covariances_": covariance.to_public(theta.covariances * unit * unit),
            "precisions_cholesky_": covariance.to_public(factors),
            "precisions_": covariance.to_public(covariance.precisions(factors)),
        }
        for name, tensor in shown.items():
            setattr(self, name, kind.restore(_fitting(tensor.detach(), dtype, name)))
        self.distance_ = unit * math.sqrt(max(-solution.objective, 0.0))
        self.distances_ = [unit * math.sqrt(max(-cost, 0.0)) for cost in solution.objectives]
        self.converged_, self.n_iter_ = solution.converged, solution.n_iter


def _fitting(tensor, dtype, name):
    """A result in the dtype of the samples, if that can hold it."""
    shown = tensor.to(dtype)
    if not torch.isfinite(shown).all():
        raise ValueError(
            f"X must have a scale at which {name} is finite in {dtype}, got an entry of "
            f"{float(tensor.abs().max()):.1e}. Rescale X, pass float64 or increase reg_covar."
        )
    return shown


class _Runs:
    """The best run so far; before the first one ends, what it has reached."""

    def __init__(self, verbose, unit):
        self.verbose, self.unit, self.best = verbose, unit, None
        self._ended, self._objectives = False, []

    def reach(self, solution):
        """Note a step."""
        if self.verbose and solution.n_iter % 10 == 0:
            distance = self.unit * math.sqrt(-solution.objective)
            print(f"  Iteration {solution.n_iter}\t distance {distance:.5g}")
        if not self._ended:
            self._objectives.append(solution.objective)
            self.best = solution._replace(objectives=tuple(self._objectives))

    def end(self, solution):
        """Note the end of a run."""
        if not self._ended or solution.objective > self.best.objective:
            self.best = solution
        self._ended = True
