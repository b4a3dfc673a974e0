"""What every mixture estimator does once it is fitted: predict, score, sample, select."""

import math
from collections.abc import Callable
from contextlib import contextmanager, suppress
from numbers import Integral

import numpy as np
import torch
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.exceptions import NotFittedError
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from skgmmot._inputs import arrays
from skgmmot.gaussian.covariance.registry import COVARIANCE_TYPES, covariance_type_of
from skgmmot.gaussian.log_density import for_many
from skgmmot.gaussian.mixture import (
    GaussianMixtureParams,
    PreparedMixture,
    is_far,
    log_density,
    log_joint,
    log_responsibilities,
    responsibilities,
)
from skgmmot.numerics import blocks
from skgmmot.numerics.fixed_point import Solution
from skgmmot.numerics.threads import single_threaded_torch
from skgmmot.transport.semidiscrete.plan import GridDensity

NOT_CONVERGED = (
    "Best performing initialization did not converge. Try different init parameters, or increase "
    "max_iter, tol, or check for degenerate data."
)


class Reached:
    """Where a fit says what it has reached, should it be interrupted."""

    best: Callable[[], Solution | None] = staticmethod(lambda: None)
    """Gives the best state so far; None before there is one."""
    show: Callable[[Solution], None]
    """Sets all attributes of a state."""


@contextmanager
def whole_fit(estimator):
    """Lend a copy of an estimator to fit, whose attributes it then takes over all at once.

    A fit that fails leaves it as it was. So does an interrupted one (``KeyboardInterrupt``, and
    whatever else is not an ``Exception``), unless it has reached something to show.

    Yields
    ------
    fitted : BaseEstimator
        The copy.
    reached : Reached
        Where the fit says what it has reached.
    """
    fitted, reached = object.__new__(type(estimator)), Reached()
    fitted.__dict__ = vars(estimator).copy()
    with single_threaded_torch():
        try:
            yield fitted, reached
        except Exception:
            raise
        except BaseException:
            with suppress(ValueError):  # parameters that are no mixture are not worth keeping
                if (best := reached.best()) is not None:
                    reached.show(best._replace(converged=False))
                    estimator.__dict__ = vars(fitted)
            raise
    estimator.__dict__ = vars(fitted)


class MixtureEstimator(DensityMixin, BaseEstimator):
    """Base of the mixture estimators.

    A fitted mixture is its attributes ``weights_``, ``means_``, ``covariances_`` and
    ``precisions_cholesky_``: nothing is cached behind them, so models built by hand and later
    edits count.
    """

    def _covariance(self):
        """The covariance type: that of the fit where the mixture has its type from elsewhere."""
        return COVARIANCE_TYPES[getattr(self, "covariance_type_", self.covariance_type)]

    def _tensors(self, name) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The fitted weights, means and a covariance-like attribute, in storage.

        They may have been set by hand: one may be missing, or have other components.
        """
        weights, means, array = map(arrays.as_tensor, attributes(self, name))
        arrays.check_means(weights, means)
        covariance, shape = self._covariance(), tuple(array.shape)
        expected = covariance.public_shape(*means.shape)
        if shape == expected:
            return weights, means, covariance.from_public(array)
        K, d = means.shape
        other_type = any(shape == t.public_shape(K, d) for t in COVARIANCE_TYPES.values())
        if not other_type and shape and shape == covariance.public_shape(shape[0], d):
            raise ValueError(
                f"{name} must have the {K} component(s) of means_, got {shape[0]}. Keep the same "
                "components in weights_, means_, covariances_ and precisions_cholesky_."
            )
        raise ValueError(
            f"covariance_type must be that of the fit, got {self.covariance_type!r} for fitted "
            f"parameters of shape {shape} instead of {expected}. Fit again."
        )

    def _params(self, dtype=None, device=None) -> GaussianMixtureParams:
        """The fitted mixture as a value."""
        check_is_fitted(self, "means_")
        return GaussianMixtureParams(*self._tensors("covariances_")).to(dtype=dtype, device=device)

    def _prepared(self, like: torch.Tensor) -> PreparedMixture:
        """The fitted mixture ready for densities, in float64 and on the device of ``like``."""
        if hasattr(self, "precisions_cholesky_"):
            weights, means, factors = self._tensors("precisions_cholesky_")
        else:
            weights, means, factors = self._factored()
        if like.shape[1] != means.shape[1]:
            raise ValueError(
                f"X must have the {means.shape[1]} feature(s) of means_, got {like.shape[1]}. Pass "
                "the features of the mixture."
            )
        to = {"dtype": torch.float64, "device": like.device}
        weights, means, factors = (t.to(**to) for t in (weights, means, factors))
        return PreparedMixture.of(weights, means, factors)

    def _factored(self):
        """The fitted weights and means, and factors of the precisions that nobody has set."""
        weights, means, covariances = self._tensors("covariances_")
        try:
            return weights, means, self._covariance().precision_factor(covariances.double())
        except ValueError as error:
            raise ValueError(
                "a mixture must have precisions_cholesky_ for densities and predictions, got none: "
                "covariances_ are singular. Add to their diagonals."
            ) from error

    def _set_parameters(self, theta: GaussianMixtureParams, dtype, kind) -> None:
        """Show a fit in the user's kind of array and dtype."""
        covariance = self._covariance()
        factors = covariance.precision_factor(theta.covariances)
        shown = {
            "weights_": theta.weights,
            "means_": theta.means,
            "covariances_": covariance.to_public(theta.covariances),
            "precisions_cholesky_": covariance.to_public(factors),
            "precisions_": covariance.to_public(covariance.precisions(factors)),
        }
        for name, tensor in shown.items():
            setattr(self, name, kind.restore(tensor.to(dtype)))

    def _set_mixture(self, params: GaussianMixtureParams, kind) -> None:
        """Show a mixture that no samples were fitted to; singular ones have no precisions."""
        covariance = self._covariance()
        shown = {
            "weights_": params.weights,
            "means_": params.means,
            "covariances_": covariance.to_public(params.covariances),
        }
        for name in ("precisions_", "precisions_cholesky_"):
            vars(self).pop(name, None)
        try:
            factors = covariance.precision_factor(params.covariances)
        except ValueError:
            factors = None  # a singular mixture can be sampled and compared, and has no density
        if factors is not None:
            shown["precisions_"] = covariance.to_public(covariance.precisions(factors))
            shown["precisions_cholesky_"] = covariance.to_public(factors)
        for name, tensor in shown.items():
            setattr(self, name, kind.restore(tensor.clone()))
        self.n_features_in_ = params.means.shape[1]

    @single_threaded_torch()
    def _evaluate(self, function, X):
        """Apply ``function(prepared mixture, block)`` to blocks of validated samples."""
        check_is_fitted(self)
        X, kind = arrays.samples(self, X, reset=False)
        return self._blockwise(function, X), kind

    def _blockwise(self, function, X):
        """Numbers in the dtype of the samples; the mixture is not rounded to it."""
        mixture = self._prepared(X)

        def values(mixture, block):
            found = function(mixture, block)
            return found.to(X.dtype) if found.is_floating_point() else found

        if X.requires_grad or mixture.requires_grad:
            return values(mixture, X)
        own = arrays.as_tensor(self.means_).dtype
        mixture = for_many(mixture, len(X), torch.promote_types(own, X.dtype))
        return blocks.map_rows(lambda block: values(mixture, block), mixture.row_size, X)

    def score_samples(self, X):
        """Compute the log-density of each sample.

        Parameters
        ----------
        X : array-like or Tensor of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        array or Tensor of shape (n_samples,)
            ``log p(x_i)``, in the dtype of ``X``; a tensor, and differentiable, if ``X`` or the
            fitted tensors require a gradient.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If ``X`` is not a finite matrix with the features of the fit.
        """
        values, kind = self._evaluate(log_density, X)
        return kind.restore(values)

    @single_threaded_torch()
    def score(self, X, y=None, sample_weight=None):
        """Compute the mean log-density of samples: larger is better.

        Parameters
        ----------
        X : array-like or Tensor of shape (n_samples, n_features)
            Samples.
        y : None
            Ignored.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples.

        Returns
        -------
        float
            ``sum_i a_i log p(x_i) / sum_i a_i``.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If ``X`` or ``sample_weight`` is invalid.
        """
        check_is_fitted(self)
        X, _ = arrays.samples(self, X, reset=False)
        weights = arrays.sample_weights(sample_weight, X)
        values = self._blockwise(log_density, X).detach().cpu().numpy()
        if weights is None:
            return float(np.mean(values))
        weights = weights.detach().cpu().numpy().astype(np.float64)
        kept = weights > 0  # a sample of weight zero is absent, even where its log-density is -inf
        return float(np.average(values[kept], weights=weights[kept]))

    def predict(self, X):
        """Predict the most probable component of each sample.

        Parameters
        ----------
        X : array-like or Tensor of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        array or Tensor of shape (n_samples,)
            Component indices.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If ``X`` is invalid.
        """
        labels, kind = self._evaluate(_labels, X)
        return kind.restore(labels)

    def predict_proba(self, X):
        """Compute the probability of each component given each sample.

        Parameters
        ----------
        X : array-like or Tensor of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        array or Tensor of shape (n_samples, n_components)
            Responsibilities; rows sum to one.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If ``X`` is invalid.
        """
        resp, kind = self._evaluate(_responsibilities, X)
        return kind.restore(resp)

    @single_threaded_torch()
    def sample(self, n_samples=1):
        """Draw samples from the fitted mixture.

        Parameters
        ----------
        n_samples : int, default=1
            How many.

        Returns
        -------
        X : array or Tensor of shape (n_samples, n_features)
            Samples, float64, component by component. An integer ``random_state`` repeats them.
        y : array or Tensor of shape (n_samples,)
            Their components.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If ``n_samples`` is not a positive integer.
        """
        check_is_fitted(self)
        if not isinstance(n_samples, Integral) or n_samples < 1:
            raise ValueError(
                f"Invalid value for 'n_samples': it must be a positive integer, got {n_samples!r}. "
                "The sampling requires at least one sample."
            )
        rng = check_random_state(self.random_state)
        kind, covariance = arrays.fitted_kind(self), self._covariance()
        params = self._params(dtype=torch.float64, device="cpu").detach()
        weights = params.weights.numpy()
        counts = rng.multinomial(n_samples, weights / weights.sum())
        # A shared covariance is stored once; every component reads that one.
        each = params.covariances.expand(len(weights), *params.covariances.shape[1:]).numpy()
        drawn = [
            _draw(rng, mean, cov, int(count), covariance.diagonal)
            for mean, cov, count in zip(params.means.numpy(), each, counts, strict=True)
            if count
        ]
        labels = torch.from_numpy(np.repeat(np.arange(len(counts)), counts))
        return kind.restore(torch.from_numpy(np.vstack(drawn))), kind.restore(labels)

    def _n_parameters(self):
        """Number of free parameters."""
        K, d = np.shape(self.means_)
        return int(self._covariance().n_parameters(K, d) + K * d + K - 1)

    def _log_likelihood(self, X, sample_weight):
        """The log-likelihood of samples, and their number, which is the sum of their weights."""
        score = self.score(X, sample_weight=sample_weight)
        n_samples = len(X)
        if sample_weight is not None:
            weights = arrays.as_tensor(sample_weight, dtype=torch.float64)
            n_samples = float(weights.detach().expand(n_samples).sum())
        return score * n_samples, n_samples

    def bic(self, X, sample_weight=None):
        """Compute the Bayesian information criterion on samples: lower is better.

        Parameters
        ----------
        X : array-like or Tensor of shape (n_samples, n_features)
            Samples.
        sample_weight : array-like or Tensor of shape (n_samples,), default=None
            How often each sample was seen. Not only ratios matter: their sum is the number of
            samples.

        Returns
        -------
        float
            ``-2 log-likelihood + (number of parameters) log(n_samples)``.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If ``X`` or ``sample_weight`` is invalid.
        """
        log_likelihood, n_samples = self._log_likelihood(X, sample_weight)
        return -2 * log_likelihood + self._n_parameters() * math.log(n_samples)

    def aic(self, X, sample_weight=None):
        """Compute the Akaike information criterion on samples: lower is better.

        Parameters
        ----------
        X : array-like or Tensor of shape (n_samples, n_features)
            Samples.
        sample_weight : array-like or Tensor of shape (n_samples,), default=None
            How often each sample was seen. Not only ratios matter: their sum is the number of
            samples.

        Returns
        -------
        float
            ``-2 log-likelihood + 2 (number of parameters)``.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If ``X`` or ``sample_weight`` is invalid.
        """
        return -2 * self._log_likelihood(X, sample_weight)[0] + 2 * self._n_parameters()

    def __getstate__(self):
        """Pickle fitted tensors without their graph."""
        return {
            name: value.detach() if isinstance(value, torch.Tensor) else value
            for name, value in super().__getstate__().items()
        }


def _draw(rng, mean, covariance, size, diagonal):
    """Draw from one component, with scikit-learn's random numbers."""
    if diagonal:
        return mean + rng.standard_normal(size=(size, len(mean))) * np.sqrt(covariance)
    return rng.multivariate_normal(mean, covariance, size)


def _labels(mixture: PreparedMixture, X):
    joint = log_joint(mixture, X)
    if is_far(joint).any():
        joint = log_responsibilities(mixture, X)
    return joint.max(0).indices  # many times faster than argmax, and equal


def _responsibilities(mixture: PreparedMixture, X):
    return responsibilities(mixture, X).mT


def attributes(mixture, covariance_like, name="a mixture") -> tuple:
    """The weights, the means and another attribute of a fitted mixture, ours or scikit-learn's."""
    names = ("weights_", "means_", covariance_like)
    missing = [n for n in names if not hasattr(mixture, n)]
    if missing:
        raise NotFittedError(
            f"{name} must have {names[0]}, {names[1]} and {names[2]}, got no "
            f"{' and no '.join(missing)}. Set what is missing, or call fit."
        )
    return tuple(getattr(mixture, n) for n in names)


def is_mixture(given, name="target") -> bool:
    """Whether what was given is a mixture rather than samples.

    Parameters
    ----------
    given : fitted mixture estimator, tuple (weights, means, covariances), or array-like
        What the user handed in.
    name : str, default='target'
        What error messages call it.

    Returns
    -------
    bool
        True for the first two.

    Raises
    ------
    TypeError
        If it is an estimator of something else.
    """
    if hasattr(given, "fit") and not hasattr(given, "covariance_type"):
        raise TypeError(
            f"{name} must be a fitted Gaussian mixture, a tuple (weights, means, covariances) or "
            f"samples, got {type(given).__name__}. Fit a DifferentiableGaussianMixture first."
        )
    return isinstance(given, tuple) or hasattr(given, "covariance_type")


def as_mixture(mixture, name="mixture", dtype=torch.float64, *, any_mass=False):
    """A fitted estimator (ours or scikit-learn's) or a tuple of arrays, as a value.

    Parameters
    ----------
    mixture : fitted mixture estimator or tuple (weights, means, covariances)
        What the user handed in; a fourth entry of a tuple is its covariance type.
    name : str, default='mixture'
        What error messages call it.
    dtype : torch.dtype, default=torch.float64
        That of the value; None keeps that of each array.
    any_mass : bool, default=False
        Whether weights may have any positive sum.

    Returns
    -------
    params : GaussianMixtureParams
        The mixture.
    kind : ArrayKind
        The kind of its arrays.

    Raises
    ------
    NotFittedError
        If the estimator is not fitted.
    TypeError
        If it is something else, or its numbers are complex.
    ValueError
        If the arrays are not a mixture.
    """
    if hasattr(mixture, "covariance_type"):
        check_is_fitted(mixture, "means_", msg=_not_fitted(name))
        covariance_type = getattr(mixture, "covariance_type_", mixture.covariance_type)
        arrays = (*attributes(mixture, "covariances_", name), covariance_type)
    elif isinstance(mixture, GaussianMixtureParams):
        arrays = (*mixture, covariance_type_of(mixture.covariances).name)
    elif isinstance(mixture, tuple) and len(mixture) in (3, 4):
        arrays = mixture
    else:
        size = f" of length {len(mixture)}" if isinstance(mixture, tuple) else ""
        raise TypeError(
            f"{name} must be a fitted mixture estimator or a tuple (weights, means, covariances), "
            f"got {type(mixture).__name__}{size}. Fit a DifferentiableGaussianMixture to samples "
            "first."
        )
    try:
        params, kind = arrays.mixture_from_tuple(*arrays, any_mass=any_mass)
    except (TypeError, ValueError) as error:
        refusal = TypeError if isinstance(error, TypeError) else ValueError
        raise refusal(f"{name} must be a Gaussian mixture. {error}") from error
    # float64: distances between close mixtures are small differences of large numbers
    return params if dtype is None else arrays.in_double(params).to(dtype=dtype), kind


def _not_fitted(name) -> str:
    """The message for an estimator without a fit, as scikit-learn's, and which one it is."""
    return (
        f"{name.replace('%', '%%')} must be fitted: this %(name)s instance is not fitted yet. Call "
        "'fit' with appropriate arguments before using it."
    )


def shown_type(params: GaussianMixtureParams) -> str:
    """The name of a mixture's covariance type: of a single matrix, full rather than tied."""
    kind = covariance_type_of(params.covariances)
    return "full" if kind.shared and len(params.weights) == 1 else kind.name


def as_mixtures(mixtures, name="X", device=None, dtype=torch.float64, *, any_mass=False):
    """Several mixtures as values, on one device.

    Parameters
    ----------
    mixtures : sequence of fitted mixture estimators or tuples (weights, means, covariances)
        What the user handed in.
    name : str, default='X'
        What error messages call it.
    device : str or torch.device, default=None
        Where they are put; None is where the first one is.
    dtype : torch.dtype, default=torch.float64
        That of the values; None keeps that of each array.
    any_mass : bool, default=False
        Whether weights may have any positive sum.

    Returns
    -------
    params : list of GaussianMixtureParams
        The mixtures.
    kind : ArrayKind
        The joint kind of their arrays.

    Raises
    ------
    NotFittedError
        If an estimator is not fitted.
    TypeError
        If this is not a sequence of mixtures.
    ValueError
        If there are none, or they differ in dimension, or one is not a mixture.
    """
    if hasattr(mixtures, "fit") or not hasattr(mixtures, "__len__"):
        raise TypeError(
            f"{name} must be a sequence of mixtures, got {type(mixtures).__name__}. Put it in a "
            "list."
        )
    if len(mixtures) == 0:
        raise ValueError(f"{name} must hold at least one mixture, got none. Pass fitted mixtures.")
    values = [
        as_mixture(m, f"{name}[{i}]", dtype, any_mass=any_mass) for i, m in enumerate(mixtures)
    ]
    dimensions = [params.means.shape[1] for params, _ in values]
    for i, d in enumerate(dimensions):
        if d != dimensions[0]:
            raise ValueError(
                f"{name} must hold mixtures with equal numbers of features, got {dimensions[0]} in "
                f"{name}[0] and {d} in {name}[{i}]. Describe all by the same features."
            )
    kind = arrays.joint_kind(*(kind for _, kind in values))
    first = arrays.moved(values[0][0].means, device or kind.device)
    return [params.to(device=first.device) for params, _ in values], kind


def common_feature_names(mixtures, name="X"):
    """The feature names that fitted mixtures agree on, or None if none has any."""
    known = [
        (i, m.feature_names_in_) for i, m in enumerate(mixtures) if hasattr(m, "feature_names_in_")
    ]
    for i, names in known:
        if not np.array_equal(names, known[0][1]):
            raise ValueError(
                f"{name} must hold mixtures of the same features, got {list(known[0][1])} in "
                f"{name}[{known[0][0]}] and {list(names)} in {name}[{i}]. Use the same columns in "
                "the same order."
            )
    return known[0][1] if known else None


def as_density(density, name="density"):
    """A mixture or an image, as a value.

    Parameters
    ----------
    density : GridDensity, fitted mixture estimator or tuple (weights, means, covariances)
        What the user handed in; covariances must be positive definite.
    name : str, default='density'
        What error messages call it.

    Returns
    -------
    density : GridDensity or GaussianMixtureParams
        The density, in float64.
    n_features : int
        Its dimension.
    kind : ArrayKind
        The kind of its arrays.

    Raises
    ------
    NotFittedError
        If it is an estimator that is not fitted.
    TypeError
        If it is something else.
    ValueError
        If it is not a density.
    """
    if isinstance(density, GridDensity):
        grid, kind = arrays.grid_density(density)
        return grid, 2, kind
    is_mixture = isinstance(density, tuple) or hasattr(density, "covariance_type")
    if not is_mixture:
        raise TypeError(
            f"{name} must be a GridDensity, a fitted mixture estimator or a tuple (weights, means, "
            f"covariances), got {type(density).__name__}. Wrap an image: GridDensity(image)."
        )
    params, kind = as_mixture(density, name)
    variances = params.full_covariances().detach().diagonal(dim1=1, dim2=2)
    width = math.sqrt(float(variances.max()))
    arrays.check_squares(name, max(width, float(params.means.detach().abs().max())), width)
    if (torch.linalg.cholesky_ex(params.full_covariances().detach()).info > 0).any():
        raise ValueError(
            f"covariances of {name} must be positive definite, got one that is singular. Add to "
            "its diagonal, or increase reg_covar."
        )
    return params, params.means.shape[1], kind
