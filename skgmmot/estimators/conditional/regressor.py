"""`MixtureRegressor`: regression by the conditional distribution of a Gaussian mixture."""

from numbers import Integral
from typing import Any, Self, overload

import numpy as np
import torch
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.cluster import KMeans
from sklearn.metrics import r2_score
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import HasMethods, Interval
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from skgmmot._inputs import arrays
from skgmmot._inputs.features import values_of
from skgmmot._inputs.mixtures import as_mixture
from skgmmot._inputs.targets import regression_targets
from skgmmot._types import Array, Device, Elsewhere, RandomState, Samples, fit_context
from skgmmot.estimators._default_mixture import DefaultMixture
from skgmmot.estimators.mixtures._base import whole_fit
from skgmmot.estimators.mixtures._fit import check_covariance_type, fitted_to
from skgmmot.estimators.mixtures.differentiable import DifferentiableGaussianMixture
from skgmmot.estimators.robust.student import StudentMixture
from skgmmot.estimators.saving import SavedEstimator, named_function
from skgmmot.fitting.robust.conditional import StudentCondition
from skgmmot.gaussian.conditional import PreparedCondition
from skgmmot.numerics import blocks
from skgmmot.numerics.counts import positive_integer
from skgmmot.numerics.threads import single_threaded_torch

#: Components of the mixture that `MixtureRegressor` fits unless told otherwise: so many, but each
#: has at least so many samples for a column of ``X`` and ``y``, and one more. With fewer, the
#: regression of a component follows their noise.
DEFAULT_COMPONENTS, SAMPLES_PER_COLUMN = 3, 4


class MixtureRegressor(DefaultMixture, RegressorMixin, SavedEstimator):
    r"""Gaussian mixture regression: the conditional distribution of ``y`` given ``X``.

    `fit` fits a mixture to the samples ``(x_i, y_i)`` as one; `predict` computes the mean of its
    conditional distribution,

    .. math::

        \operatorname{E}[y \mid x] = \sum_k \gamma_k(x) \bigl(m_{k,y}
            + \Sigma_{k,yx} \Sigma_{k,xx}^{-1} (x - m_{k,x})\bigr),

    a linear regression in each component, weighted by its responsibility for ``x`` alone. The whole
    distribution is there, too: its deviation, draws, density, and the mixture itself. It may have
    several modes, and its width may depend on ``x``.

    Parameters
    ----------
    mixture : mixture estimator, default=None
        What is fitted to ``(X, y)``, cloned each time; None is
        ``DifferentiableGaussianMixture(n_components=3)`` with this ``random_state`` and ``device``,
        started by k-means of standardised columns: units of ``X`` and ``y`` do not matter. Of few
        samples it has fewer components: at most one for every ``4 (d + n_outputs + 1)`` samples.
        Its parameters can be set as ``mixture__tol`` and so on, also where it is None. A
        `StudentMixture` predicts by its own conditional distribution, which has t components; of
        a mixture with noise the components predict, without noise.
    random_state : int, RandomState instance or None, default=None
        Controls the default mixture's starts and `sample_y`.
    n_components : int, default=None
        Number of components, also where samples are few; None leaves that of ``mixture``.
    device : str or torch.device, default=None
        Where to compute; None is where the data is.

    Attributes
    ----------
    mixture_ : mixture estimator
        The mixture of ``(X, y)``: its first features are those of ``X``, and the outputs follow. If
        ``X`` and ``y`` have names, so has it.
    n_outputs_ : int
        Number of outputs.
    n_features_in_ : int
        Number of features d.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if ``X`` had any.

    See Also
    --------
    skgmmot.DifferentiableGaussianMixture : The mixture; its ``condition`` takes any features.

    Notes
    -----
    With full or tied covariances each component has its own linear regression (tied: of one slope
    for all). With diagonal and spherical ones ``y`` does not depend on ``x`` within a component:
    the prediction is a weighted mean of the components' means, and needs more components.

    One component with full covariances predicts as linear regression does, up to ``reg_covar``.

    Predictions cost ``O(n K d^2)`` and a few megabytes beyond the result, whatever ``n``.

    References
    ----------
    .. [1] Ghahramani and Jordan 1993, supervised learning from incomplete data via an EM approach.
    .. [2] Sung 2004, Gaussian mixture regression and classification.

    Examples
    --------
    >>> import numpy as np
    >>> from skgmmot import MixtureRegressor
    >>> rng = np.random.default_rng(0)
    >>> x = rng.uniform(-2, 2, size=500)
    >>> y = np.abs(x) + 0.1 * rng.normal(size=500)
    >>> regressor = MixtureRegressor(random_state=0).fit(x[:, None], y)
    >>> regressor.predict([[-1.0], [1.5]]).round(1)
    array([1. , 1.5])
    >>> mean, deviation = regressor.predict([[1.0]], return_std=True)
    >>> regressor.sample_y([[1.0]], n_samples=3).shape
    (1, 3)
    >>> bool(regressor.score(x[:, None], y) > 0.9)
    True
    """

    _parameter_constraints: dict = {
        "mixture": [HasMethods(["fit", "score_samples"]), None],
        "random_state": ["random_state"],
        "n_components": [Interval(Integral, 1, None, closed="left"), None],
        "device": [str, torch.device, None],
    }

    def __init__(
        self,
        mixture: BaseEstimator | None = None,
        *,
        random_state: RandomState = None,
        n_components: int | None = None,
        device: Device = None,
    ) -> None:
        self.mixture = mixture
        self.random_state = random_state
        self.n_components = n_components
        self.device = device

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    @fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: Samples, y: Samples, sample_weight: Samples | None = None) -> Self:
        """Fit a mixture to samples and their targets as one.

        Parameters
        ----------
        X : array-like or Tensor of shape (n_samples, n_features)
            Samples.
        y : array-like or Tensor of shape (n_samples,) or (n_samples, n_outputs)
            Targets. The fit is in float32 if both are, else in float64.
        sample_weight : array-like or Tensor of shape (n_samples,), default=None
            Non-negative weights; a weight of 2 is a row given twice, 0 a row left out.

        Returns
        -------
        MixtureRegressor
            The fitted estimator. If ``X``, ``y`` or the weights require a gradient, predictions are
            differentiable in them.

        Raises
        ------
        TypeError
            If ``mixture`` is not an estimator of Gaussian mixtures.
        ValueError
            If a parameter, ``X``, ``y`` or ``sample_weight`` is invalid; an earlier fit is then
            left as it was.
        """
        with whole_fit(self) as (fitted, _):
            fitted._fit_joint(X, y, sample_weight)
        return self

    def _check_attributes(self):
        """Refuse what is no mixture of features and outputs in a file."""
        super()._check_attributes()
        if not hasattr(self, "mixture_"):
            return
        m, single = getattr(self, "n_outputs_", None), getattr(self, "_single_output", None)
        if type(m) is not int or m < 1 or type(single) is not bool or (single and m != 1):
            raise ValueError(f"n_outputs_ must be a number of outputs, got {m!r:.40}")
        if isinstance(self.mixture_, StudentMixture):
            d = self.mixture_._student().means.shape[1]
        else:
            d = as_mixture(self.mixture_, "mixture_")[0].means.shape[1]
        if d != self.n_features_in_ + m:
            raise ValueError(
                f"mixture_ must have {self.n_features_in_} feature(s) and {m} output(s), got {d}"
            )

    def _fit_joint(self, X, y, sample_weight):
        """`fit`, on a copy."""
        kind = arrays.answer_kind(*(arrays.kind_of(given) for given in (X, y, sample_weight)))
        X, _ = arrays.samples(self, X, reset=True, min_samples=2, sample_weight=sample_weight)
        y = regression_targets(y, len(X))
        arrays.check_range(y.values, "y")
        joint = torch.cat([X, y.values.to(X.device)], dim=1)
        weights = arrays.sample_weights(sample_weight, joint)
        weights = None if weights is None else kind.restore(weights)
        n = len(joint) if weights is None else int((arrays.as_tensor(weights) > 0).sum())
        mixture = self._new_mixture(n // (SAMPLES_PER_COLUMN * (joint.shape[1] + 1)))
        self.mixture_ = fitted_to(mixture, kind.restore(joint, copy=False), weights)
        self.n_outputs_, self._single_output = y.values.shape[1], y.single
        if y.names is not None and hasattr(self, "feature_names_in_"):
            names = [*self.feature_names_in_, *y.names]
            if len(set(names)) == len(names):
                self.mixture_.feature_names_in_ = np.array(names, dtype=object)

    def _new_mixture(self, most):
        """The unfitted mixture; of a default one, at most so many components, but one."""
        n_components = self.n_components
        if self.mixture is None:
            mixture = self._default_mixture()
            if n_components is None:
                n_components = max(1, min(most, mixture.n_components))
        else:
            check_covariance_type(self.mixture, "X and y")
            mixture = clone(self.mixture)
        return mixture if n_components is None else mixture.set_params(n_components=n_components)

    def _default_mixture(self):
        return DifferentiableGaussianMixture(
            DEFAULT_COMPONENTS,
            init_params=scaled_kmeans,
            random_state=self.random_state,
            device=self.device,
        )

    def predict(self, X: Samples, return_std: bool = False) -> Any:
        """Predict the conditional mean of the targets.

        Parameters
        ----------
        X : array-like or Tensor of shape (n_samples, n_features)
            Samples.
        return_std : bool, default=False
            Whether to return the conditional standard deviation, too.

        Returns
        -------
        mean : array or Tensor of shape (n_samples,) or (n_samples, n_outputs)
            Conditional means, in the dtype of ``X`` and the shape of the fit's ``y``; a tensor, and
            differentiable, if ``X`` or the fitted tensors require a gradient.
        deviation : array or Tensor of the same shape
            Standard deviations, of each output by itself; only if ``return_std``. Of t components
            infinite where ``degrees_of_freedom_`` and ``n_features_in_`` are together 2 or less.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If ``X`` is invalid.
        """
        X, kind = self._samples(X)
        if not return_std:
            return self._shown(self._evaluate(_mean, X), kind)
        both = self._evaluate(_mean_and_deviation, X).split(self.n_outputs_, dim=1)
        return tuple(self._shown(part, kind) for part in both)

    @overload
    def log_density(self, X: Elsewhere, y: Samples) -> Any: ...

    @overload
    def log_density(self, X: Array, y: Samples) -> np.ndarray: ...

    def log_density(self, X, y):
        """Compute the conditional log-density of targets.

        Its mean over held-out samples compares models by the whole predicted distribution of ``y``,
        where `score` compares the means only.

        Parameters
        ----------
        X : array-like or Tensor of shape (n_samples, n_features)
            Samples.
        y : array-like or Tensor of shape (n_samples,) or (n_samples, n_outputs)
            Their targets.

        Returns
        -------
        array or Tensor of shape (n_samples,)
            ``log p(y_i | x_i)``, in the dtype of ``X``; a tensor, and differentiable, if ``X``,
            ``y`` or the fitted tensors require a gradient.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If ``X`` or ``y`` is invalid.
        """
        given = arrays.kind_of(y)
        X, kind = self._samples(X)
        y = self._targets(y, X)
        kind = arrays.joint_kind(kind, arrays.answer_kind(given))
        return kind.restore(self._evaluate(_log_density, X, y))

    @overload
    def sample_y(
        self, X: Elsewhere, n_samples: int = ..., random_state: RandomState = ...
    ) -> Any: ...

    @overload
    def sample_y(
        self, X: Array, n_samples: int = ..., random_state: RandomState = ...
    ) -> np.ndarray: ...

    def sample_y(self, X, n_samples=1, random_state=None):
        """Draw targets from their conditional distribution.

        Parameters
        ----------
        X : array-like or Tensor of shape (n_samples_X, n_features)
            Samples.
        n_samples : int, default=1
            How many targets to draw for each.
        random_state : int, RandomState instance or None, default=None
            Controls the draws; None is that of the estimator.

        Returns
        -------
        array or Tensor of shape (n_samples_X, n_samples) or (n_samples_X, n_outputs, n_samples)
            Targets, in the dtype of ``X``, shaped as by scikit-learn's Gaussian processes;
            constants.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If ``X`` is invalid, or ``n_samples`` is not a positive integer.
        """
        advice = "Draw at least one target for each sample."
        n_samples = positive_integer("n_samples", n_samples, advice)
        X, kind = self._samples(X)
        rng = check_random_state(self.random_state if random_state is None else random_state)
        shape = len(X), n_samples
        uniforms = torch.from_numpy(rng.random_sample(shape)).to(X.device)
        n_normals = self._prepared(X.device).n_normals
        normals = torch.from_numpy(rng.standard_normal((*shape, n_normals))).to(X.device)
        with torch.no_grad():
            drawn = self._evaluate(_draw, X.detach(), uniforms, normals).transpose(1, 2)
        return kind.restore(drawn.squeeze(1) if self._single_output else drawn)

    def condition(self, x: Array | Tensor) -> Any:
        """Return the conditional distribution of the targets at one sample.

        Parameters
        ----------
        x : array-like or Tensor of shape (n_features,)
            The sample; a labelled series is taken by its labels.

        Returns
        -------
        mixture estimator
            The mixture of the outputs, ready to score, sample, compare and map; of the class of
            ``mixture_``, if it is one of this package. Components of a `StudentMixture` have
            ``n_features_in_`` more degrees of freedom there, and a scale matrix each.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If ``x`` is not one finite value for each feature.
        """
        check_is_fitted(self, "mixture_")
        d = self.n_features_in_
        x = values_of(x, getattr(self, "feature_names_in_", slice(None)), d)
        mixture = self.mixture_
        if isinstance(mixture, StudentMixture):
            return mixture._conditioned(x, d)
        if not hasattr(mixture, "condition"):
            mixture = DifferentiableGaussianMixture._known(*as_mixture(mixture, "mixture_"))
        return mixture.condition(x, slice(d))

    def score(self, X: Samples, y: Samples, sample_weight: Samples | None = None) -> float:
        """Compute the coefficient of determination of predictions: 1 is best.

        Parameters
        ----------
        X : array-like or Tensor of shape (n_samples, n_features)
            Samples.
        y : array-like or Tensor of shape (n_samples,) or (n_samples, n_outputs)
            Their targets.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples.

        Returns
        -------
        float
            ``R^2``, the mean over outputs.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If ``X`` or ``y`` is invalid.
        """
        samples, _ = self._samples(X)
        true, found = self._targets(y, samples), self._evaluate(_mean, samples)
        weights = arrays.sample_weights(sample_weight, samples)
        numbers = [None if t is None else t.numpy(force=True) for t in (true, found, weights)]
        return r2_score(*numbers[:2], sample_weight=numbers[2])

    def _samples(self, X):
        """Validated samples, and the kind of the answer."""
        check_is_fitted(self, "mixture_")
        X, kind = arrays.samples(self, X, reset=False)
        fitted = arrays.fitted_kind(self.mixture_)
        kind = arrays.joint_kind(kind, arrays.answer_kind(fitted=fitted))
        return X.to(kind.device) if kind.is_tensor else X, kind

    def _targets(self, y, X):
        """Validated targets of samples, which must have the outputs of the fit."""
        values = regression_targets(y, len(X)).values
        if values.shape[1] != self.n_outputs_:
            raise ValueError(
                f"y must have the {self.n_outputs_} output(s) of the fit, got {values.shape[1]}. "
                "Pass the outputs of the fit."
            )
        return values.to(X.device)

    def _shown(self, values, kind):
        """Answers in the shape of the fit's targets and the user's kind of array."""
        return kind.restore(values.squeeze(1) if self._single_output else values)

    def _prepared(self, device):
        """The targets' distribution given samples."""
        given = range(self.n_features_in_)
        if isinstance(self.mixture_, StudentMixture):
            student = self.mixture_._student().to(device=device, dtype=torch.float64)
            return StudentCondition.of(student, given)
        mixture, _ = as_mixture(self.mixture_, "mixture_")
        return PreparedCondition.of(mixture.to(device=device), given)

    @single_threaded_torch()
    def _evaluate(self, function, X, *others):
        """Apply ``function(condition, E-step, block, ...)`` to blocks of samples and others."""
        prepared = self._prepared(X.device)

        def of(step, x, *rows):
            return function(prepared, step, x, *(r.double() for r in (x, *rows))).to(X.dtype)

        on_graph = prepared.requires_grad or any(t.requires_grad for t in (X, *others))
        if on_graph and torch.is_grad_enabled():
            return of(prepared.e_step(), X, *others)
        prepared = prepared.to()
        own = arrays.as_tensor(self.mixture_.means_).dtype
        step = prepared.e_step(len(X), torch.promote_types(own, X.dtype))
        return blocks.map_rows(
            lambda *rows: of(step, *rows),
            step.row_size + prepared.row_size + sum(t[:1].numel() for t in others),
            X,
            *others,
            min_rows=step.min_rows,
        )


@named_function
def scaled_kmeans(X, n_components, random_state):
    """Start from k-means of standardised columns, whatever the units of ``X`` and ``y``."""
    X = arrays.as_tensor(X).numpy(force=True)
    kmeans = KMeans(n_components, n_init=1, random_state=random_state)
    return kmeans.fit(StandardScaler().fit_transform(X)).labels_


def _mean(prepared, step, raw, x):
    return prepared.mean(x, step.responsibilities(raw)[0].double())


def _mean_and_deviation(prepared, step, raw, x):
    found = prepared.mean_and_deviation(x, step.responsibilities(raw)[0].double())
    return torch.cat(found, dim=1)


def _log_density(prepared, step, raw, x, y):
    return prepared.log_density(x, y, step.log_responsibilities(raw).double())


def _draw(prepared, step, raw, x, uniforms, normals):
    return prepared.draw(x, step.responsibilities(raw)[0].double(), uniforms, normals)
