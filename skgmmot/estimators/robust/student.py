"""`StudentMixture`: mixtures of Student-t distributions, for samples with outliers."""

import os
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
import torch
from sklearn.mixture import GaussianMixture
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from skgmmot._inputs import arrays, places
from skgmmot._types import Array, Device, Features, Path, RandomState, Samples
from skgmmot.estimators.mixtures._base import CovarianceTypeName
from skgmmot.estimators.mixtures._fit import FittedMixture, check_enough
from skgmmot.estimators.mixtures.differentiable import DifferentiableGaussianMixture
from skgmmot.estimators.robust._student_fit import StudentFit, StudentOutOfCoreFit, check_degrees
from skgmmot.estimators.starts import drawing
from skgmmot.fitting.robust.conditional import StudentCondition
from skgmmot.fitting.robust.student import StudentEStep, StudentMixtureParams, moments_of
from skgmmot.fitting.robust.student_fit import ACCELERATIONS
from skgmmot.numerics.gradients import GRADIENTS


def _is_gaussian(estimator):
    """Whether it has what only Gaussian mixtures have; says why not."""
    raise AttributeError(
        f"{type(estimator).__name__} has no condition: degrees of freedom and scales depend on the "
        "values. Use moments().condition, or fit a MixtureRegressor with it."
    )


def _needed(degrees_of_freedom, n_components: int) -> Tensor:
    """Degrees of freedom that nothing is there to estimate from, validated."""
    nu = check_degrees(degrees_of_freedom, n_components)
    if nu is None:
        raise TypeError(
            "degrees_of_freedom must be given where no samples are fitted, got None. Pass "
            "degrees_of_freedom=, positive numbers; the covariances become scale matrices."
        )
    return nu


class StudentMixture(FittedMixture):
    r"""Mixture of Student-t distributions fitted by EM, for samples with outliers.

    .. math::

        p(x) = \sum_k w_k \, t_{\nu_k}(x;\; m_k, S_k), \qquad
        t_\nu(x; m, S) \propto \det(S)^{-1/2}
            \Bigl(1 + \frac{(x - m)^T S^{-1} (x - m)}{\nu}\Bigr)^{-(\nu + d) / 2}

    Samples far from a component count little in its location and its scale matrix, by the weights
    :math:`u = (\nu + d) / (\nu + \delta)` of their squared distance :math:`\delta`.

    Parameters
    ----------
    n_components : int, default=1
        Number of components K.
    covariance_type : {'full', 'tied', 'diag', 'spherical'}, default='full'
        What the components' scale matrices may be.
    degrees_of_freedom : float or array-like of shape (n_components,), default=None
        :math:`\nu`, positive; infinite for a Gaussian. None estimates one for each component,
        between 0.1 and 1000.
    tol : float, default=1e-3
        EM stops when the mean log-likelihood changes by less than this in one iteration, and no
        estimated degree of freedom would change by more than 3 % (or, if that is more, than the
        root of ``tol``).
    reg_covar : float, default=1e-6
        Added to the diagonals of the scale matrices, in squared units of ``X``.
    max_iter : int, default=100
        Largest number of EM iterations; 0 keeps the start.
    n_init : int, default=1
        Number of starts; the fit of largest lower bound is kept.
    init_params : str or callable, default='kmeans'
        How to start, as in `skgmmot.DifferentiableGaussianMixture`; without samples that look like
        outliers, as with its ``noise='uniform'``.
    weights_init : array-like of shape (n_components,), default=None
        Weights to start from.
    means_init : array-like of shape (n_components, n_features), default=None
        Locations to start from.
    precisions_init : array-like, default=None
        Inverse scale matrices to start from, in the shape of ``covariances_``.
    random_state : int, RandomState instance or None, default=None
        Controls the starts and `sample`.
    warm_start : bool, default=False
        Whether a further `fit` starts from the last solution.
    verbose : int, default=0
        1 prints the iterations, 2 also times and changes.
    verbose_interval : int, default=10
        Iterations between prints.
    acceleration : {'squarem'}, default=None
        Whether to extrapolate EM, all parameters at once. None takes degrees of freedom, if they
        are estimated, and the sizes of scale matrices by Newton's method in each iteration, which
        is mostly faster.
    gradient : {'implicit', 'automatic', 'one_step'}, default='implicit'
        How the fit is differentiated when ``X`` (or ``sample_weight``) is a tensor that requires a
        gradient.
    gradient_tol : float, default=1e-6
        For ``gradient='implicit'``: relative error accepted in the gradient.
    checkpoint : str or path-like, default=None
        File in which `fit` keeps its state, as in `skgmmot.DifferentiableGaussianMixture`.
    checkpoint_every : int, default=1
        Iterations between two writings of the checkpoint.
    certify : bool, default=False
        Whether to measure how far the fit is from its fixed point, by more passes over the samples:
        a few where EM is fast, up to 1000 where it is slow, of at most 4 million numbers ``n K d``
        in memory. The fit stays the same, and ``solution_`` and ``error_`` say what was found.
    device : str or torch.device, default=None
        Where to compute; None is where the data is.

    Attributes
    ----------
    weights_ : array or Tensor of shape (n_components,)
        Weights of the components.
    means_ : array or Tensor of shape (n_components, n_features)
        Locations; the means, where degrees of freedom exceed 1.
    covariances_ : array or Tensor
        Scale matrices, in scikit-learn's shapes of covariances. The covariances, where degrees of
        freedom exceed 2, are ``nu / (nu - 2)`` times as large.
    degrees_of_freedom_ : array or Tensor of shape (n_components,)
        Degrees of freedom, given or estimated.
    precisions_ : array or Tensor
        Inverse scale matrices, in the same shape.
    precisions_cholesky_ : array or Tensor
        Factors ``P`` of these, ``P @ P.T``, in the same shape.
    converged_ : bool
        Whether the best fit converged.
    n_iter_ : int
        Iterations of the best fit.
    lower_bound_ : float
        Mean log-likelihood of the best fit, before its last M-step.
    lower_bounds_ : list of float
        The same after each of its iterations.
    solution_ : Solution
        Where a gradient was asked for, and with ``certify``: how far the fit may be from its fixed
        point (``distance``, in units of the spread of the components), and how much
        ``lower_bound_`` may differ from its value there (``gain``).
    error_ : float
        Where it is known: ``solution_.distance``.
    n_features_in_ : int
        Number of features d.
    n_samples_seen_ : int or float
        Number of samples of the fit, the sum of their weights if they have any.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if ``X`` had any.

    See Also
    --------
    skgmmot.DifferentiableGaussianMixture : Gaussian components, and uniform noise beside them.

    Notes
    -----
    Distances, maps and barycentres take the Gaussian mixture of the same means and covariances,
    `moments`, and refuse components of two degrees of freedom or fewer, which have no covariance.

    One iteration costs as much as that of Gaussians with full covariances (or diagonal ones) and
    another power or two for each sample and component. Gradients hold one iteration over all
    samples, of at most 4 million numbers ``n K d``.

    References
    ----------
    .. [1] Peel and McLachlan 2000, robust mixture modelling using the t distribution.
    .. [2] Liu and Rubin 1995, ML estimation of the t distribution using EM and its extensions.

    Examples
    --------
    >>> import numpy as np
    >>> from skgmmot import StudentMixture
    >>> X = np.array([[0.0], [0.1], [0.2], [0.3], [0.4], [0.5], [50.0]])
    >>> StudentMixture(1, degrees_of_freedom=2.0).fit(X).means_.round(1)
    array([[0.3]])
    """

    _parameter_constraints: dict = {
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "covariance_type": [CovarianceTypeName(elementary=True)],
        "degrees_of_freedom": [Real, "array-like", torch.Tensor, None],
        "tol": [Interval(Real, 0.0, None, closed="left")],
        "reg_covar": [Interval(Real, 0.0, None, closed="left")],
        "max_iter": [Interval(Integral, 0, None, closed="left")],
        "n_init": [Interval(Integral, 1, None, closed="left")],
        "init_params": [StrOptions(drawing.STARTS), callable],
        "weights_init": ["array-like", torch.Tensor, None],
        "means_init": ["array-like", torch.Tensor, None],
        "precisions_init": ["array-like", torch.Tensor, None],
        "random_state": ["random_state"],
        "warm_start": ["boolean"],
        "verbose": ["verbose"],
        "verbose_interval": [Interval(Integral, 1, None, closed="left")],
        "acceleration": [StrOptions(set(ACCELERATIONS)), None],
        "gradient": [StrOptions(set(GRADIENTS))],
        "gradient_tol": [Interval(Real, 0.0, None, closed="neither")],
        "checkpoint": [str, os.PathLike, None],
        "checkpoint_every": [Interval(Integral, 1, None, closed="left")],
        "certify": ["boolean"],
        "device": [str, torch.device, None],
    }
    # what fits of Gaussian mixtures have beside, and this one has not
    fixed_weights = fixed_means = fixed_covariances = False
    e_step, prior, noise = "posterior", "none", "none"

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: str = "full",
        degrees_of_freedom: float | Array | None = None,
        tol: float = 1e-3,
        reg_covar: float = 1e-6,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: str | Callable[..., Any] = "kmeans",
        weights_init: Array | Tensor | None = None,
        means_init: Array | Tensor | None = None,
        precisions_init: Array | Tensor | None = None,
        random_state: RandomState = None,
        warm_start: bool = False,
        verbose: int = 0,
        verbose_interval: int = 10,
        acceleration: str | None = None,
        gradient: str = "implicit",
        gradient_tol: float = 1e-6,
        checkpoint: Path | None = None,
        checkpoint_every: int = 1,
        certify: bool = False,
        device: Device = None,
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.degrees_of_freedom = degrees_of_freedom
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.weights_init = weights_init
        self.means_init = means_init
        self.precisions_init = precisions_init
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.verbose_interval = verbose_interval
        self.acceleration = acceleration
        self.gradient = gradient
        self.gradient_tol = gradient_tol
        self.checkpoint = checkpoint
        self.checkpoint_every = checkpoint_every
        self.certify = certify
        self.device = device

    def fit(
        self, X: Samples, y: Samples | None = None, sample_weight: Samples | None = None
    ) -> Self:
        """Fit the mixture by EM.

        Parameters
        ----------
        X : array-like or Tensor of shape (n_samples, n_features), or callable
            Samples, in memory, in blocks or of dask, as `DifferentiableGaussianMixture.fit` takes.
        y : None
            Ignored.
        sample_weight : array-like or Tensor of shape (n_samples,), or callable, default=None
            Non-negative weights.

        Returns
        -------
        StudentMixture
            The fitted estimator.

        Raises
        ------
        ValueError
            If a parameter, ``X`` or ``sample_weight`` is invalid, a scale matrix collapses, or a
            gradient is asked for of more than 4 million numbers ``n K d``.
        TypeError
            If ``X`` or a block is not an array of numbers.

        Warns
        -----
        ConvergenceWarning
            If the best fit stopped at ``max_iter``, and was not polished either.
        UserWarning
            If ``reg_covar`` exceeds a tenth of the smallest variance among the features that vary.
        InexactGradientWarning
            If a gradient is asked for and may be further off than ``gradient_tol``.
        """
        self._fit(X, sample_weight)
        return self

    def _validated(self, X, sample_weight, *, first=True):
        """In memory as for all; elsewhere samples that hold their weights, None and the kind."""
        check_degrees(self.degrees_of_freedom, self.n_components)
        found = places.out_of_core(self, X, sample_weight, reset=first)
        if found is None:
            X, a, kind = super()._validated(X, sample_weight, first=first)
            self.n_samples_seen_ = arrays.total_weight(sample_weight, len(X))
            return X, a, kind
        samples, kind = found
        check_enough(samples.facts.n_positive, self.n_components)
        seen, n = samples.facts.total * samples.facts.largest_weight, samples.n_samples
        self.n_samples_seen_ = n if seen == n else seen
        return samples, None, kind

    def _fit_to(self, X, sample_weight, kind):
        if not isinstance(X, torch.Tensor):
            return StudentOutOfCoreFit(self, X, kind)
        return StudentFit(self, X, sample_weight, kind)

    @classmethod
    def from_parameters(  # type: ignore[override]  # without degrees of freedom there is no mixture
        cls,
        weights: Array | Tensor,
        means: Array | Tensor,
        covariances: Array | Tensor,
        covariance_type: str | None = None,
        *,
        degrees_of_freedom: float | Array,
        feature_names: Sequence[str] | None = None,
        **parameters: Any,
    ) -> Self:
        """Make an estimator of a mixture whose parameters are known.

        Parameters
        ----------
        weights : array-like or Tensor of shape (n_components,)
            Weights of the components, of sum one.
        means : array-like or Tensor of shape (n_components, n_features)
            Locations.
        covariances : array-like or Tensor
            Scale matrices, in the shape of ``covariances_``.
        covariance_type : {'full', 'tied', 'diag', 'spherical'}, default=None
            Their type; None finds it by their shape, where only one type has it.
        degrees_of_freedom : float or array-like of shape (n_components,)
            Degrees of freedom.
        feature_names : list of str, default=None
            Names of the features, for ``feature_names_in_``.
        **parameters : dict
            Other parameters of the estimator, such as ``random_state``.

        Returns
        -------
        StudentMixture
            A fitted estimator.

        Raises
        ------
        TypeError
            If the arrays do not hold real numbers, degrees of freedom are None, or for an unknown
            parameter.
        ValueError
            If the arrays are no mixture, or a degree of freedom is not positive.
        """
        nu = _needed(degrees_of_freedom, len(means))
        found = super().from_parameters(
            *(weights, means, covariances, covariance_type),
            feature_names=feature_names,
            degrees_of_freedom=degrees_of_freedom,
            **parameters,
        )
        found._set_degrees(nu, arrays.fitted_kind(found))
        return found

    @classmethod
    def from_sklearn(
        cls,
        mixture: GaussianMixture,
        *,
        degrees_of_freedom: float | Array | None = None,
        **parameters: Any,
    ) -> Self:
        r"""Make an estimator of the components of a fitted mixture of scikit-learn.

        Its covariances become scale matrices :math:`S`: components get heavier tails around the
        same centres, and the covariances :math:`\nu / (\nu - 2) \, S`.

        Parameters
        ----------
        mixture : sklearn.mixture.GaussianMixture
            A fitted mixture.
        degrees_of_freedom : float or array-like of shape (n_components,)
            Degrees of freedom, which a Gaussian mixture has not; infinite ones keep its density.
        **parameters : dict
            Other parameters of this class, such as ``random_state``.

        Returns
        -------
        StudentMixture
            A fitted estimator, as by `from_parameters`, with the parameters that both have where
            this class accepts their values.

        Raises
        ------
        TypeError
            If it is an estimator of another class, degrees of freedom are not given, or for an
            unknown parameter.
        ValueError
            If a degree of freedom is not positive.
        NotFittedError
            If it is not fitted.

        Examples
        --------
        >>> from sklearn.mixture import GaussianMixture
        >>> from skgmmot import StudentMixture
        >>> mixture = GaussianMixture(2, random_state=0).fit([[0.0], [1.0], [9.0]])
        >>> StudentMixture.from_sklearn(mixture, degrees_of_freedom=3.0)
        StudentMixture(degrees_of_freedom=3.0, n_components=2, random_state=0)
        """
        found = super().from_sklearn(mixture, degrees_of_freedom=degrees_of_freedom, **parameters)
        nu = _needed(degrees_of_freedom, len(found.means_))
        for name in ("converged_", "n_iter_", "lower_bound_", "lower_bounds_"):
            vars(found).pop(name, None)  # of the fit of Gaussians
        found._set_degrees(nu, arrays.fitted_kind(found))
        return found

    @classmethod
    def from_torch(
        cls,
        distribution: torch.distributions.Distribution,
        *,
        degrees_of_freedom: float | Array | None = None,
        **parameters: Any,
    ) -> Self:
        """Make an estimator of the components of a Gaussian distribution of torch.

        Its covariances become scale matrices, as in `from_sklearn`.

        Parameters
        ----------
        distribution : torch.distributions.MixtureSameFamily or MultivariateNormal
            A mixture of Gaussians, or one Gaussian; see `skgmmot.functional.from_torch`.
        degrees_of_freedom : float or array-like of shape (n_components,)
            Degrees of freedom, which Gaussians have not.
        **parameters : dict
            Other parameters of this class, such as ``random_state``.

        Returns
        -------
        StudentMixture
            A fitted estimator, as by `from_parameters`.

        Raises
        ------
        TypeError
            If it is another distribution, degrees of freedom are not given, or for an unknown
            parameter.
        ValueError
            If it has batches, or a degree of freedom is not positive.
        """
        return super().from_torch(distribution, degrees_of_freedom=degrees_of_freedom, **parameters)

    def moments(self) -> DifferentiableGaussianMixture:
        r"""Return the Gaussian mixture whose components have the same means and covariances.

        .. math:: \Sigma_k = \frac{\nu_k}{\nu_k - 2} S_k

        Returns
        -------
        DifferentiableGaussianMixture
            A fitted estimator, of the same covariance type (full, if scale matrices are tied and
            degrees of freedom differ). Tensors stay on their graph.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If a component has two degrees of freedom or fewer, and no covariance.
        """
        gaussians = moments_of(self._student())
        names = getattr(self, "feature_names_in_", None)
        kind, options = arrays.fitted_kind(self), {"random_state": self.random_state}
        name = self.covariance_type
        if self._covariance().shared and not gaussians.covariance_type.shared:
            name = gaussians.covariance_type.name
        return DifferentiableGaussianMixture._known(
            gaussians, kind, name, names=names, device=self.device, **options
        )

    @available_if(_is_gaussian)
    def condition(self, values: float | Array | Tensor, features: Features) -> Any:
        """Refuse: use ``moments().condition``.

        Parameters
        ----------
        values : float, or array-like of shape (m,)
            The values.
        features : int, str, slice, or list of int, str or bool
            Which features they are of.
        """

    def _conditioned(self, x, n_given: int) -> "StudentMixture":
        """The mixture of the other features, given the first ones."""
        fitted = arrays.fitted_kind(self)
        kind = arrays.answer_kind(arrays.kind_of(x), fitted=fitted)
        mixture, given = self._student(), arrays.as_tensor(x)
        device = kind.device if kind.is_tensor else mixture.means.device
        mixture, shown = mixture.to(device=device, dtype=torch.float64), mixture.means.dtype
        found = StudentCondition.of(mixture, range(n_given)).at(given.to(device, torch.float64))
        names = getattr(self, "feature_names_in_", None)
        part = self._known(
            found.gaussians().to(dtype=shown),
            kind,
            found.covariance_type.name,
            names=None if names is None else names[n_given:],
            random_state=self.random_state,
            device=self.device,
            degrees_of_freedom=found.degrees_of_freedom.detach().cpu().numpy(),
        )
        part._set_degrees(found.degrees_of_freedom, kind)
        return part

    def _part(self, params, features, kind):
        found = super()._part(params, features, kind)
        found.degrees_of_freedom = self.degrees_of_freedom
        found.degrees_of_freedom_ = self.degrees_of_freedom_
        return found

    # --- what sets it apart from Gaussians -----------------------------------------------------

    def _check_gaussian(self, what: str, method: str) -> None:
        """Refuse: others have no t distributions."""
        raise TypeError(
            f"the mixture must have Gaussian components to become {what}, got t distributions. "
            f"Use moments().{method}(), the Gaussian mixture of equal means and covariances, where "
            "all degrees of freedom are above 2."
        )

    def _degrees(self) -> torch.Tensor:
        """The fitted degrees of freedom."""
        check_is_fitted(self, "degrees_of_freedom_")
        nu, n_components = arrays.as_tensor(self.degrees_of_freedom_), len(self.means_)
        if nu.shape != (n_components,):
            raise ValueError(
                f"degrees_of_freedom_ must have shape ({n_components},), one for each of means_, "
                f"got {tuple(nu.shape)}. Keep the same components in both."
            )
        return nu

    def _student(self) -> StudentMixtureParams:
        """The fitted mixture as a value."""
        params = self._params()
        nu = self._degrees().to(params.means)
        return StudentMixtureParams(*params, nu, params.covariance_type)

    def _set_degrees(self, nu, kind):
        """Show degrees of freedom in the user's kind of array."""
        self.degrees_of_freedom_ = kind.restore(nu.to(arrays.as_tensor(self.means_).dtype))

    def _of_few(self, function, X):
        return None  # only densities of Gaussians are known to numpy

    def _evaluator(self, mixture, n_samples=None, dtype=torch.float64, **_):
        return StudentEStep(mixture, self._degrees().to(mixture.means), n_samples, dtype)

    def _tails(self, rng, X, labels):
        """Gaussian samples of the components, moved out to be those of t distributions."""
        nu = self._degrees().detach().cpu().double().numpy()[labels]
        scale = np.ones(len(X))
        heavy = np.isfinite(nu)
        scale[heavy] = rng.chisquare(nu[heavy]) / nu[heavy]
        means = arrays.as_tensor(self.means_).detach().cpu().double().numpy()[labels]
        return means + (X - means) / np.sqrt(scale)[:, None]

    def _n_parameters(self):
        learned = self.degrees_of_freedom is None
        return super()._n_parameters() + (len(self._degrees()) if learned else 0)
