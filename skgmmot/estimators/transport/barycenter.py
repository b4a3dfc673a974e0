"""Barycentres of Gaussian mixtures in MW2, and the reduction of a mixture."""

import math
import warnings
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Literal, Self, overload

import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from torch import Tensor

from skgmmot._inputs import arrays
from skgmmot._inputs.mixtures import as_mixture, as_mixtures, common_feature_names, shown_type
from skgmmot._types import Array, Device, Mixture, RandomState, Samples, fit_context
from skgmmot.estimators._progress import ProgressBar
from skgmmot.estimators.callbacks import CallbackSupportMixin, called_log, fit_task
from skgmmot.estimators.mixtures._base import CovarianceTypeName, MixtureEstimator, whole_fit
from skgmmot.estimators.mixtures.differentiable import DifferentiableGaussianMixture
from skgmmot.estimators.transport.geodesic import known_mixture
from skgmmot.gaussian.covariance.registry import COVARIANCE_TYPES
from skgmmot.gaussian.mixture import GaussianMixtureParams, with_mass
from skgmmot.numerics.counts import positive_integer
from skgmmot.numerics.threads import single_threaded_torch
from skgmmot.transport.mixtures import barycenter, barycenter_fixed_point

#: Largest numbers of tuples of components for which ``solver='auto'`` is exact, and for which
#: ``solver='exact'`` is allowed.
MAX_AUTO_TUPLES, MAX_EXACT_TUPLES = 10_000, 1_000_000
#: Rounding error of an objective, relative to it.
ROUNDING = 1e-12


class MixtureBarycenter(CallbackSupportMixin, MixtureEstimator):
    r"""Barycentre of Gaussian mixtures in the mixture Wasserstein distance MW2.

    .. math:: \min_\nu \sum_j \lambda_j \operatorname{MW}_2^2(\nu, \mu_j)

    over all Gaussian mixtures :math:`\nu`, or over those with a given number of components.

    Parameters
    ----------
    n_components : int, default=None
        Largest number of components of the barycentre; those of weight zero are dropped. None does
        not limit the exact barycentre, which has at most ``K_1 + ... + K_J - J + 1``; for the fixed
        point, None is the number of components of the largest mixture.
    covariance_type : {'full', 'tied', 'diag', 'spherical'}, default=None
        Type of the covariances; None is the type that all mixtures share, else full. For any
        other type, the fixed point minimises over mixtures of that type.
    solver : {'auto', 'exact', 'fixed_point'}, default='auto'
        ``'exact'`` solves a linear programme over all tuples of components, one from each mixture.
        ``'fixed_point'`` alternates between plans and components, from several starts, and
        ends in a local minimum. ``'auto'`` is exact if ``n_components`` is None and there are two
        mixtures or at most 10,000 tuples.
    fixed_weights : bool, default=False
        Whether the weights are fixed to be equal, or to those of ``init_params``, instead of
        optimised.
    init_params : fitted mixture estimator or tuple (weights, means, covariances), default=None
        The mixture to start the fixed point from; None makes ``n_init`` starts along geodesics
        between the mixtures.
    n_init : int, default=5
        Number of starts of the fixed point; the barycentre of smallest objective is kept.
    tol : float, default=1e-7
        The fixed point stops when the objective changes by less than this in one iteration,
        relative to the variance of the mixtures.
    max_iter : int, default=100
        Largest number of iterations of the fixed point.
    random_state : int, RandomState instance or None, default=None
        Controls the starts and `sample`.
    verbose : int, default=0
        1 shows a progress bar over the iterations of the fixed point, with the objective.
    device : str or torch.device, default=None
        Where to compute; None is where the mixtures are.

    Attributes
    ----------
    weights_ : array or Tensor of shape (K,)
        Weights of the components.
    means_ : array or Tensor of shape (K, n_features)
        Means.
    covariances_ : array or Tensor
        Covariances, in the shape of ``covariance_type_``. Those of singular mixtures are singular;
        then there are no precisions and no densities.
    precisions_ : array or Tensor
        Inverse covariances, in the same shape.
    precisions_cholesky_ : array or Tensor
        Factors ``P`` of the precisions, ``P @ P.T``, in the same shape.
    covariance_type_ : str
        The covariance type.
    solver_ : str
        ``'exact'`` or ``'fixed_point'``.
    objective_ : float
        ``sum_j lambda_j MW2(nu, mu_j)^2``, in squared units of the data.
    error_ : float
        Bound of how much less the objective of any mixture may be, in its unit. Exact: the duality
        gap of the linear programme, of the size of rounding. Fixed point: ``objective_`` less
        ``sum_{i < j} lambda_i lambda_j MW2(mu_i, mu_j)^2``, which is no less than what a given
        number of components costs, and may be most of it.
    converged_ : bool
        Whether the best fixed point converged; true if exact.
    n_iter_ : int
        Iterations of the best fixed point; 0 if exact.
    n_features_in_ : int
        Number of features d.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if the mixtures agree on them.

    See Also
    --------
    skgmmot.interpolate : Between two mixtures, at any time.
    skgmmot.reduce : One mixture, with fewer components.

    Notes
    -----
    A mixture is a fitted estimator of this package or of scikit-learn, or a tuple ``(weights,
    means, covariances)``; numbers of components and covariance types may differ. The barycentre is
    a mixture estimator like any other: it predicts, samples and scores samples. It is a constant:
    no gradient flows to the mixtures. One iteration of the fixed point costs ``O(K M d^3)`` for
    M components in all mixtures together.

    References
    ----------
    .. [1] Delon and Desolneux 2020, multi-marginal problem and barycentres.
    .. [2] Tanguy, Delon and Gozlan 2024, fixed point of barycentres with generic costs.

    Examples
    --------
    >>> from skgmmot import MixtureBarycenter
    >>> left = ([0.5, 0.5], [[-4.0, 0.0], [-4.0, 9.0]], [1.0, 1.0], "spherical")
    >>> right = ([0.5, 0.5], [[4.0, 1.0], [4.0, 8.0]], [9.0, 9.0], "spherical")
    >>> average = MixtureBarycenter().fit([left, right])
    >>> average.means_
    array([[0. , 0.5],
           [0. , 8.5]])
    >>> average.covariances_
    array([4., 4.])
    """

    _parameter_constraints: dict = {
        "n_components": [Interval(Integral, 1, None, closed="left"), None],
        "covariance_type": [CovarianceTypeName(elementary=True), None],
        "solver": [StrOptions({"auto", "exact", "fixed_point"})],
        "fixed_weights": ["boolean"],
        "init_params": [HasMethods(["score_samples"]), tuple, GaussianMixtureParams, None],
        "n_init": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0.0, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
        "device": [str, torch.device, None],
    }

    def __init__(
        self,
        n_components: int | None = None,
        *,
        covariance_type: str | None = None,
        solver: str = "auto",
        fixed_weights: bool = False,
        init_params: Mixture | None = None,
        n_init: int = 5,
        tol: float = 1e-7,
        max_iter: int = 100,
        random_state: RandomState = None,
        verbose: int = 0,
        device: Device = None,
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.solver = solver
        self.fixed_weights = fixed_weights
        self.init_params = init_params
        self.n_init = n_init
        self.tol = tol
        self.max_iter = max_iter
        self.random_state = random_state
        self.verbose = verbose
        self.device = device

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags._skip_test = True  # scikit-learn's checks fit arrays of samples; this fits mixtures
        return tags

    @fit_context(prefer_skip_nested_validation=False)
    def fit(
        self,
        X: Sequence[Mixture],
        y: Samples | None = None,
        sample_weight: Array | Tensor | None = None,
    ) -> Self:
        """Compute the barycentre of mixtures.

        Parameters
        ----------
        X : sequence of J fitted mixture estimators or tuples (weights, means, covariances)
            The mixtures, of one dimension d.
        y : None
            Ignored.
        sample_weight : array-like of shape (J,), default=None
            Weights ``lambda`` of the mixtures, scaled to sum one; None is equal weights.

        Returns
        -------
        MixtureBarycenter
            The fitted barycentre.

        Raises
        ------
        NotFittedError
            If an estimator is not fitted.
        TypeError
            If ``X`` holds something else than mixtures.
        ValueError
            If a parameter or ``sample_weight`` is invalid, there is no mixture, the mixtures differ
            in features, or parameters contradict each other; an earlier fit is then left as it was.

        Warns
        -----
        ConvergenceWarning
            If the best fixed point stopped at ``max_iter``.
        """
        with fit_task(self, X, y, sample_weight) as task, whole_fit(self) as (fitted, reached):
            fitted._fit_validated(X, sample_weight, reached, task)
        return self

    def _fit_validated(self, X, sample_weight, reached, task):
        """`fit`, on a copy."""
        mixtures, kind = as_mixtures(X, device=self.device)
        names = common_feature_names(X)
        weights = arrays.sample_weights(sample_weight, mixtures[0].means.new_empty(len(X), 1))
        weights = mixtures[0].means.new_ones(len(X)) if weights is None else weights.detach()
        mixtures = [m for m, positive in zip(mixtures, weights > 0, strict=True) if positive]
        weights = weights[weights > 0] / weights.sum()

        exact = self._is_exact(mixtures)
        bound = None if exact else barycenter.lower_bound(mixtures, weights)

        def show(params, how, bound=bound):
            self._show(params, how, arrays.answer_kind(kind))
            rounding = ROUNDING * (self.objective_ + bound)
            self.error_ = max(self.objective_ - bound, 0.0) + rounding
            vars(self).pop("feature_names_in_", None)
            if names is not None:
                self.feature_names_in_ = names

        if exact:
            show(*self._exact(mixtures, weights))
            return
        runs = []  # the best so far
        reached.best = lambda: runs[-1] if runs else None
        reached.show = lambda solution: show(*_described(solution))
        show(*_described(self._fixed_point(mixtures, weights, runs.append, task)))

    def _is_exact(self, mixtures) -> bool:
        """Whether the exact barycentre is computed; raises if it is requested but impossible."""
        n_tuples = math.prod(len(m.weights) for m in mixtures)
        hindrance = self._hindrance(mixtures, n_tuples)
        if self.solver == "exact" and hindrance:
            raise ValueError(
                f"solver='exact' must have {hindrance}. Use solver='fixed_point' instead."
            )
        small = len(mixtures) <= 2 or n_tuples <= MAX_AUTO_TUPLES
        return self.solver == "exact" or (self.solver == "auto" and small and not hindrance)

    def _hindrance(self, mixtures, n_tuples) -> str:
        """The condition of the exact barycentre that is not met; empty if all are."""
        if self.n_components is not None:
            return f"n_components=None, got {self.n_components}: it has as many as it needs"
        if self.fixed_weights or self.init_params is not None:
            return "no fixed weights and no start, got one of them: it is unique"
        if not self._wanted_type(mixtures).holds(barycenter.common_type(mixtures)):
            return (
                "a covariance_type that holds the barycentre of these mixtures, such as 'full', "
                f"got {self.covariance_type!r}"
            )
        if len(mixtures) > 2 and n_tuples > MAX_EXACT_TUPLES:
            return f"at most {MAX_EXACT_TUPLES} tuples of components, got {n_tuples}"
        return ""

    def _wanted_type(self, mixtures):
        """The covariance type of the barycentre."""
        if self.covariance_type is None:
            return barycenter.common_type(mixtures)
        return COVARIANCE_TYPES[self.covariance_type]

    def _exact(self, mixtures, weights):
        """The exact barycentre, the attributes that describe the solution, and a lower bound."""
        error = None
        if len(mixtures) > 2:
            found, error = barycenter.exact_barycenter(mixtures, weights, return_error=True)
        else:  # the lower bound is attained
            found = barycenter.exact_barycenter(mixtures, weights)
        wanted = self._wanted_type(mixtures)
        covariances = wanted.nearest(found.full_covariances(), found.weights)
        found = found._replace(covariances=covariances, covariance_type=wanted)
        value = barycenter.objective(found, mixtures, weights)
        how = {"solver_": "exact", "objective_": value, "converged_": True, "n_iter_": 0}
        if error is None:
            return found, how, barycenter.lower_bound(mixtures, weights)
        return found, how, value - error

    def _fixed_point(self, mixtures, weights, callback, task):
        """The barycentre with a given number of components, the best of several starts."""
        options = {"covariance_type": self._wanted_type(mixtures)}
        options |= {name: getattr(self, name) for name in ("fixed_weights", "tol", "max_iter")}
        start = self._start(mixtures)
        with ProgressBar(
            self.verbose, self.max_iter, "barycentre", lambda s: {"objective": -s.objective}
        ) as bar:
            log = called_log(bar, task, None, lambda solution: None)
            options["on_step"] = log.step
            if start is None:
                solution, value = self._from_starts(mixtures, weights, callback, options)
            else:
                improve = barycenter_fixed_point.improve
                solution, value = improve(mixtures, weights, start, **options)
            log.end(solution)
        if not solution.converged and solution.n_iter >= self.max_iter:
            warnings.warn(
                f"The barycentre's fixed point stopped at max_iter={self.max_iter} with change "
                f"{solution.change:.2g} of its objective {value:.3g}. Increase max_iter or tol.",
                ConvergenceWarning,
                stacklevel=5,
            )
        return solution._replace(objective=-value)

    def _from_starts(self, mixtures, weights, callback, options):
        """The best of several starts, and its objective."""
        K = self.n_components or max(len(m.weights) for m in mixtures)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        return barycenter_fixed_point.best_of_starts(
            mixtures,
            weights,
            K,
            torch.Generator().manual_seed(seed),
            n_init=self.n_init,
            callback=lambda solution, value: callback(solution._replace(objective=-value)),
            **options,
        )

    def _start(self, mixtures) -> GaussianMixtureParams | None:
        """The mixture to start from, if one is given."""
        if self.init_params is None:
            return None
        start, _ = as_mixture(self.init_params, "init_params")
        d = mixtures[0].means.shape[1]
        if self.n_components not in (None, len(start.weights)) or start.means.shape[1] != d:
            expected = len(start.weights) if self.n_components is None else self.n_components
            raise ValueError(
                f"init_params must have {expected} component(s) in {d} dimension(s), got "
                f"{len(start.weights)} in {start.means.shape[1]}. Leave n_components=None to take "
                "its number."
            )
        return start.to(device=mixtures[0].means.device)

    def _show(self, params, how, kind):
        """Set the fitted attributes."""
        for name, value in how.items():
            setattr(self, name, value)
        self.covariance_type_ = self.covariance_type or shown_type(params)
        self._set_mixture(params, kind)


def _described(solution):
    """The barycentre of a fixed point, and the attributes that describe the solution."""
    how = {"solver_": "fixed_point", "objective_": -solution.objective}
    how |= {"converged_": solution.converged, "n_iter_": solution.n_iter}
    return with_mass(solution.value), how


@overload
def reduce(
    mixture: Mixture,
    n_components: int,
    *,
    n_init: int = ...,
    random_state: RandomState = ...,
    return_error: Literal[False] = ...,
) -> DifferentiableGaussianMixture: ...


@overload
def reduce(
    mixture: Mixture,
    n_components: int,
    *,
    n_init: int = ...,
    random_state: RandomState = ...,
    return_error: Literal[True],
) -> tuple[DifferentiableGaussianMixture, float]: ...


@single_threaded_torch()
def reduce(
    mixture: Mixture,
    n_components: int,
    *,
    n_init: int = 5,
    random_state: RandomState = None,
    return_error: bool = False,
) -> DifferentiableGaussianMixture | tuple[DifferentiableGaussianMixture, float]:
    r"""Return a mixture with fewer components, close to a given one in MW2, as an estimator.

    .. math:: \min_\nu \operatorname{MW}_2^2(\mu, \nu)

    over mixtures :math:`\nu` with ``n_components`` components, by composite transport: alternately
    each component is assigned to the nearest, and each group is replaced by its barycentre.

    Parameters
    ----------
    mixture : fitted mixture estimator or tuple (weights, means, covariances)
        The mixture to reduce.
    n_components : int
        Number of components to keep; a mixture that has no more is returned as it is.
    n_init : int, default=5
        Number of starts; the result of smallest distance is kept.
    random_state : int, RandomState instance or None, default=None
        Controls the starts.
    return_error : bool, default=False
        Whether to return a bound of the error, too.

    Returns
    -------
    reduced : DifferentiableGaussianMixture
        The reduced mixture, of the same covariance type, as an estimator with its parameters set.
    error : float
        Only with ``return_error``: a bound of how much less than MW2 to this mixture that to any
        mixture with ``n_components`` components may be, in units of the data. It is loose, since it
        is found without a search: a fifth to two fifths of the distance for the best mixture.

    Raises
    ------
    NotFittedError
        If the estimator is not fitted.
    TypeError
        If ``mixture`` is not a mixture.
    ValueError
        If ``n_components`` or ``n_init`` is no positive integer, or the mixture is not one.

    Warns
    -----
    UserWarning
        If the mixture has fewer components than ``n_components``.

    See Also
    --------
    skgmmot.MixtureBarycenter : The same for several mixtures.

    Notes
    -----
    No samples are needed. The result is close in MW2, not in likelihood: a group of components is
    replaced by one of their average covariance, not by one that covers them all.

    References
    ----------
    .. [1] Zhang, Zhang and Chen 2023, reduction by composite transport.

    Examples
    --------
    >>> from skgmmot import reduce
    >>> fine = ([0.25, 0.25, 0.5], [[0.0], [0.2], [9.0]], [1.0, 1.0, 4.0], "spherical")
    >>> coarse = reduce(fine, 2, random_state=0)
    >>> sorted(coarse.means_[:, 0].tolist())
    [0.1, 9.0]
    """
    n_components = positive_integer("n_components", n_components)
    params, kind = as_mixture(mixture, "mixture")
    if n_components > len(params.weights):
        warnings.warn(
            f"n_components must be at most the {len(params.weights)} of the mixture, got "
            f"{n_components}. The mixture is returned as it is: components can be removed only.",
            UserWarning,
            stacklevel=3,
        )
    seed = int(check_random_state(random_state).randint(2**31 - 1))
    generator = torch.Generator().manual_seed(seed)
    given, kind = (params, n_components, generator), arrays.answer_kind(kind)
    if not return_error:
        return known_mixture(barycenter_fixed_point.reduce(*given, n_init=n_init), kind)
    found, error = barycenter_fixed_point.reduce(*given, n_init=n_init, return_error=True)
    return known_mixture(found, kind), error
