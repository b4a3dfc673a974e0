"""What every mixture estimator does once it is fitted: predict, score, sample, select."""

import functools
import inspect
import math
from collections.abc import Callable
from contextlib import contextmanager, suppress
from typing import Any, overload

import numpy as np
import torch
from sklearn.base import DensityMixin
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import StrOptions, validate_parameter_constraints
from sklearn.utils.validation import check_is_fitted

from skgmmot._inputs import arrays, places
from skgmmot._inputs.dask.answers import answers
from skgmmot._inputs.mixtures import attributes, check_means
from skgmmot._types import Array, Elsewhere, Samples
from skgmmot.estimators._parameters import in_few_words, refuse_truth
from skgmmot.estimators.interchange import Interchange
from skgmmot.estimators.mixtures import _few
from skgmmot.estimators.mixtures._parts import MixtureParts
from skgmmot.estimators.saving import SavedEstimator
from skgmmot.fitting.em.constraint import n_free_parameters
from skgmmot.fitting.em.e_steps import E_STEPS
from skgmmot.gaussian.choice import definition_e_step, fastest_e_step
from skgmmot.gaussian.covariance.registry import COVARIANCE_TYPES
from skgmmot.gaussian.evaluators import EStep
from skgmmot.gaussian.incomplete.patterns import by_pattern, informative_weight
from skgmmot.gaussian.log_density import are_far
from skgmmot.gaussian.mixture import GaussianMixtureParams, PreparedMixture
from skgmmot.numerics import blocks
from skgmmot.numerics.counts import positive_integer
from skgmmot.numerics.fixed_point import Solution
from skgmmot.numerics.threads import single_threaded_torch

#: Ratio of variances up to which samples are drawn without bringing them to one, and how negative
#: an eigenvalue of correlations may be by rounding.
MAGNITUDES, INDEFINITE = 1e8, 1e-6
#: Attributes that are finite arrays.
ARRAYS = {"weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_"}
#: Attributes that only fits with noise have.
OF_NOISE = ("noise_weight_", "noise_log_density_", "noise_bounds_")
#: The label of noise.
NOISE = -1


class CovarianceTypeName(StrOptions):
    """The name of a covariance type that is registered when it is validated.

    ``elementary`` says whether it must have the arithmetic of an `ElementaryType` itself, and
    ``sketched`` whether not even its base need have it.
    """

    def __init__(self, elementary=False, sketched=False):
        self.elementary, self.sketched = elementary, sketched
        super().__init__(set())

    def _allows(self, covariance_type):
        """Whether a type has the arithmetic that is needed."""
        if self.elementary:
            return covariance_type.elementary
        return self.sketched or covariance_type.base.elementary

    @property
    def options(self):
        """The names of such types."""
        return {name for name, each in COVARIANCE_TYPES.items() if self._allows(each)}

    @options.setter
    def options(self, _):
        """Nothing is kept: types may be registered later."""


@functools.lru_cache
def _defaults(estimator_class) -> dict:
    """The default of each parameter of a class of estimators."""
    parameters = inspect.signature(estimator_class).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters}


class Reached:
    """Where a fit says what it has reached, should it be interrupted."""

    best: Callable[[], Solution | None] = staticmethod(lambda: None)
    """Gives the best state so far; None before there is one."""
    show: Callable[[Solution], None]
    """Sets all attributes of a state."""


@contextmanager
def whole_fit(estimator):
    """Give a copy of an estimator to fit, whose attributes it then takes over all at once.

    A fit that fails leaves it as it was. So does an interrupted one (``KeyboardInterrupt``, and
    whatever else is not an ``Exception``), unless it has reached something to show.

    Yields
    ------
    fitted : BaseEstimator
        The copy.
    reached : Reached
        Where the fit says what it has reached.
    """
    fitted, reached = estimator._shallow_copy(), Reached()
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


class MixtureEstimator(MixtureParts, Interchange, DensityMixin, SavedEstimator):
    """Base of the mixture estimators.

    A fitted mixture is its attributes ``weights_``, ``means_``, ``covariances_`` and
    ``precisions_cholesky_``: nothing is cached behind them, so models built by hand and later
    edits count.
    """

    # What a fit sets: arrays, or tensors where results are tensors.
    weights_: Any
    means_: Any
    covariances_: Any
    precisions_cholesky_: Any
    n_features_in_: int

    def _validate_params(self):
        """Validate parameters; those at their defaults, for which it takes as long, are valid."""
        given = {
            name: getattr(self, name)
            for name, default in _defaults(type(self)).items()
            if getattr(self, name) is not default
        }
        with in_few_words(given):
            validate_parameter_constraints(self._parameter_constraints, given, type(self).__name__)
        refuse_truth(self._parameter_constraints, given)

    def _check_attributes(self):
        """Refuse what is no mixture of finite numbers in a file."""
        super()._check_attributes()
        for name in ARRAYS & vars(self).keys():
            if not torch.isfinite(arrays.as_tensor(vars(self)[name])).all():
                raise ValueError(f"{name} of a mixture must be finite")

    def _covariance(self):
        """The covariance type: that of the fit where the mixture has its type from elsewhere."""
        name = getattr(self, "covariance_type_", self.covariance_type)
        found = COVARIANCE_TYPES.get(name) if isinstance(name, str) else None
        if found is None:
            raise ValueError(
                f"covariance_type must be one of {', '.join(COVARIANCE_TYPES)}, got {name!r}. Set "
                "it to that of the fit."
            )
        if hasattr(self, "rank"):
            return found.with_rank(self.rank)
        covariances = getattr(self, "covariances_", None)  # of a class that fits others
        return found if covariances is None else found.of_storage(covariances)

    def _tensors(self, name, covariance) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The fitted weights, means and a covariance-like attribute, in the storage of a type.

        They may have been set by hand: one may be missing, or have other components.
        """
        weights, means, array = map(arrays.as_tensor, attributes(self, name))
        check_means(weights, means)
        shape = tuple(array.shape)
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
        covariance_type = self._covariance()
        weights, means, covariances = self._tensors("covariances_", covariance_type)
        covariance_type = covariance_type.reduced(*means.shape)
        params = GaussianMixtureParams(weights, means, covariances, covariance_type)
        return params.to(dtype=dtype, device=device)

    def _prepared(self, like: torch.Tensor) -> PreparedMixture:
        """The fitted mixture ready for densities, in float64 and on the device of ``like``."""
        base = self._covariance().base
        if hasattr(self, "precisions_cholesky_"):
            weights, means, factors = self._tensors("precisions_cholesky_", base)
        else:
            weights, means, factors = self._factored()
        if like.shape[1] != means.shape[1]:
            raise ValueError(
                f"X must have the {means.shape[1]} feature(s) of means_, got {like.shape[1]}. Pass "
                "the features of the mixture."
            )
        to: dict[str, Any] = {"dtype": torch.float64, "device": like.device}
        weights, means, factors = (t.to(**to) for t in (weights, means, factors))
        base, noise = base.reduced(*means.shape), None
        if (share := getattr(self, "noise_weight_", None)) is not None:
            noise, share = float(self.noise_log_density_), arrays.as_tensor(share).to(**to)
            weights = torch.cat([weights * (1 - share), share.reshape(1)])
        return PreparedMixture.of(weights, means, factors, base, noise)

    def _factored(self):
        """The fitted weights and means, and factors of the precisions that nobody has set."""
        params = self._params()
        try:
            factors = params._replace(covariances=params.covariances.double()).prepare().factors
            return params.weights, params.means, factors
        except ValueError as error:
            raise ValueError(
                "a mixture must have precisions_cholesky_ for densities and predictions, got none: "
                "covariances_ are singular. Add to their diagonals."
            ) from error

    def _public(self, theta: GaussianMixtureParams, factors) -> dict[str, torch.Tensor]:
        """A mixture, and factors of its precisions unless they are None, as attributes."""
        covariance = self._covariance()
        shown = {
            "weights_": theta.weights,
            "means_": theta.means,
            "covariances_": covariance.to_public(theta.covariances),
        }
        base = covariance.base
        if factors is not None and base.elementary:  # else they would be matrices
            shown["precisions_cholesky_"] = base.to_public(factors)
            shown["precisions_"] = base.to_public(base.precisions(factors))
        return shown

    def _set_parameters(self, theta: GaussianMixtureParams, dtype, kind) -> None:
        """Show a fit in the user's kind of array and dtype."""
        for name in ("precisions_", "precisions_cholesky_"):
            vars(self).pop(name, None)
        shown = self._public(theta, theta.prepare().factors)
        if dtype != torch.float64 and "precisions_" not in shown:  # the rounded ones may have none
            theta.detach().to(dtype=dtype).to(dtype=torch.float64).prepare()
        for name, tensor in in_dtype(shown, dtype).items():
            setattr(self, name, kind.restore(tensor))

    def _evaluate(self, function, X):
        """The results of ``function(E-step, block)`` on samples, in the user's kind of array."""
        found = self._of_few(function, X) if _few.needs_no_check(self, X) else None
        return self._evaluate_checked(function, X) if found is None else found

    def _of_few(self, function, X):
        """The same of few samples, in numpy; None leaves them to torch."""
        return _few.evaluate(self, IN_NUMPY[function], X) if function in IN_NUMPY else None

    @single_threaded_torch()
    def _evaluate_checked(self, function, X):
        if not hasattr(self, "means_"):  # the check takes as long as a small prediction
            check_is_fitted(self)
        if arrays.is_dask(X):
            return answers(self, X, functools.partial(_evaluated, function))
        if places.is_large_map(X):
            return self._evaluate_blocks(function, X)
        X, kind = arrays.samples(self, X, reset=False, missing=arrays.takes_missing(self))
        if not kind.is_tensor and X.device.type == "cpu":
            found = self._of_few(function, X.numpy())
            if found is not None:
                return found
        return kind.restore(self._blockwise(function, X))

    def _evaluate_blocks(self, function, X):
        """The same for samples on disk, of which only a block is in memory at a time."""
        reader = places.reader_of(self, X, in_range=False)
        found, done = None, 0
        for block, _ in reader():
            values = self._blockwise(function, block)
            if found is None:
                found = values.new_empty(len(X), *values.shape[1:])
            found[done : done + len(block)] = values
            done += len(block)
        return reader.kind.restore(found, copy=False)

    def _blockwise(self, function, X):
        """Numbers in the dtype of the samples; the mixture is not rounded to it."""
        mixture, incomplete, back = self._prepared(X), False, None
        if arrays.takes_missing(self) and torch.isnan(X).any():
            order = by_pattern(X)
            X, back, incomplete = X[order], order.argsort(), True

        def values(step, block):
            found = function(step, block)
            return found.to(X.dtype) if found.is_floating_point() else found

        if X.requires_grad or mixture.requires_grad:
            found = values(self._evaluator(mixture, incomplete=incomplete), X)
        else:
            dtype = torch.promote_types(arrays.as_tensor(self.means_).dtype, X.dtype)
            step = self._evaluator(mixture, len(X), dtype, incomplete=incomplete)
            found = blocks.map_rows(
                lambda block: values(step, block), step.row_size, X, min_rows=step.min_rows
            )
        return found if back is None else found[back]

    def _evaluator(
        self, mixture: PreparedMixture, n_samples=None, dtype=None, *, incomplete=False
    ) -> EStep:
        """The fastest E-step for so many samples; None is the definition, on the graph."""
        if n_samples is None:
            return definition_e_step(mixture, incomplete=incomplete)
        return fastest_e_step(mixture, n_samples, dtype, incomplete=incomplete)

    @overload
    def score_samples(self, X: Elsewhere) -> Any: ...

    @overload
    def score_samples(self, X: Array) -> np.ndarray: ...

    def score_samples(self, X):
        """Compute the log-density of each sample.

        Parameters
        ----------
        X : array-like, Tensor, dask array or data frame of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        array or Tensor of shape (n_samples,)
            ``log p(x_i)``, in the dtype of ``X``; a tensor, and differentiable, if ``X`` or the
            fitted tensors require a gradient. Of samples of dask, a lazy dask array. With noise
            that of the whole model, whose noise is as dense everywhere as in its box.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If ``X`` is not a finite matrix with the features of the fit.
        """
        return self._evaluate(_log_density, X)

    @single_threaded_torch()
    def score(
        self, X: Samples, y: Samples | None = None, sample_weight: Samples | None = None
    ) -> float:
        """Compute the mean log-density of samples: larger is better.

        Parameters
        ----------
        X : array-like or Tensor of shape (n_samples, n_features), or callable
            Samples, or a function that returns an iterator of blocks of them; see `fit`.
        y : None
            Ignored.
        sample_weight : array-like of shape (n_samples,), or callable, default=None
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
        sums = self._sums(X, sample_weight)
        if sums is not None:
            log_likelihood, total, _ = sums
            return log_likelihood / total
        X, _ = arrays.samples(self, X, reset=False, missing=arrays.takes_missing(self))
        a = arrays.sample_weights(sample_weight, X)
        values = self._blockwise(_log_density, X).detach().cpu().numpy()
        if a is None:
            return _mean(values)
        weights = a.detach().cpu().numpy().astype(np.float64)
        kept = weights > 0  # a sample of weight zero is absent, even where its log-density is -inf
        return _mean(values[kept], weights[kept])

    @overload
    def predict(self, X: Elsewhere) -> Any: ...

    @overload
    def predict(self, X: Array) -> np.ndarray: ...

    def predict(self, X):
        """Predict the most probable component of each sample.

        Parameters
        ----------
        X : array-like, Tensor, dask array or data frame of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        array or Tensor of shape (n_samples,)
            Component indices, -1 for noise. Of samples of dask, a lazy dask array.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If ``X`` is invalid.
        """
        return self._evaluate(_labels, X)

    @overload
    def predict_proba(self, X: Elsewhere) -> Any: ...

    @overload
    def predict_proba(self, X: Array) -> np.ndarray: ...

    def predict_proba(self, X):
        """Compute the probability of each component given each sample.

        Parameters
        ----------
        X : array-like, Tensor, dask array or data frame of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        array or Tensor of shape (n_samples, n_components)
            Responsibilities; rows sum to one. If the mixture was fitted with noise, its probability
            is one more column, the last. Of samples of dask, a lazy dask array.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If ``X`` is invalid.
        """
        return self._evaluate(_responsibilities, X)

    @single_threaded_torch()
    def sample(self, n_samples: int = 1) -> tuple[Any, Any]:
        """Draw samples from the fitted mixture, from its components without noise.

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
        name = "Invalid value for 'n_samples': it"  # in scikit-learn's words
        n_samples = positive_integer(name, n_samples, "Draw at least one sample.")
        rng = check_random_state(self.random_state)
        kind = arrays.fitted_kind(self)
        params = self._params(dtype=torch.float64, device="cpu").detach().in_base()
        weights = params.weights.numpy()
        counts = rng.multinomial(n_samples, weights / weights.sum())
        # A shared covariance is stored once; every component reads that one.
        each = params.covariances.expand(len(weights), *params.covariances.shape[1:])
        drawn = [
            _draw(rng, mean, cov, int(count), params.covariance_type)
            for mean, cov, count in zip(params.means.numpy(), each, counts, strict=True)
            if count
        ]
        labels = np.repeat(np.arange(len(counts)), counts)
        X = self._tails(rng, np.vstack(drawn), labels)
        return kind.restore(torch.from_numpy(X)), kind.restore(torch.from_numpy(labels))

    def _tails(self, rng, X, labels):
        """Samples of the components, made of those of their Gaussians."""
        return X

    def _n_parameters(self):
        """Number of free parameters: those that the fit estimates."""
        return self._n_free(*np.shape(self.means_))

    def _n_free(self, n_components, n_features):
        """The same of so many components and features, by what the parameters say stays."""
        names = ("weights", "means", "covariances")
        fixed = {name: getattr(self, f"fixed_{name}", False) for name in names}
        e_step = E_STEPS.get(getattr(self, "e_step", "posterior"))
        if e_step is not None and e_step.balanced:  # to weights that are prescribed
            fixed["weights"] = True
        noise = getattr(self, "noise_weight_", None) is not None
        held = getattr(getattr(self, "noise", None), "fixed_weight", False)
        of_noise = {"noise": noise, "noise_is_free": not held}
        covariance_type = self._covariance()
        return n_free_parameters(covariance_type, n_components, n_features, **fixed, **of_noise)

    @single_threaded_torch()
    def _sums(self, X, sample_weight):
        """The log-likelihood of samples in blocks, and the sum of their weights; else None.

        Beside it is the sum of the weights of samples of which anything is observed.
        """
        check_is_fitted(self)
        of_block = functools.partial(_sums_of, self)
        parts = places.each_block(self, X, sample_weight, of_block)
        if parts is None:
            return None
        log_likelihood, total, observed = map(sum, zip(*parts, strict=True))
        arrays.refuse_zero_weights(total)
        return log_likelihood, total, observed

    def _log_likelihood(self, X, sample_weight):
        """The log-likelihood of samples, and their number, which is the sum of their weights.

        Samples of which nothing is observed have a log-density of zero, and do not count.
        """
        sums = self._sums(X, sample_weight)
        if sums is not None:
            return sums[0], sums[2]
        score = self.score(X, sample_weight=sample_weight)
        total = observed = arrays.total_weight(sample_weight, len(X))
        if arrays.takes_missing(self):
            X, _ = arrays.samples(self, X, reset=False, missing=True)
            observed = seen_weight(self, X, sample_weight)
        return score * total, observed

    def bic(self, X: Samples, sample_weight: Samples | None = None) -> float:
        """Compute the Bayesian information criterion on samples: lower is better.

        Parameters
        ----------
        X : array-like or Tensor of shape (n_samples, n_features), or callable
            Samples, or a function that returns an iterator of blocks of them; see `fit`.
        sample_weight : array-like or Tensor of shape (n_samples,), or callable, default=None
            How often each sample was seen. Not only ratios matter: their sum is the number of
            samples.

        Returns
        -------
        float
            ``-2 log-likelihood + (number of parameters) log(n_samples)``. Fixed parameters do not
            count, and neither do samples of which nothing is observed.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If ``X`` or ``sample_weight`` is invalid.
        """
        log_likelihood, n_samples = self._log_likelihood(X, sample_weight)
        return -2 * log_likelihood + self._n_parameters() * math.log(n_samples)

    def aic(self, X: Samples, sample_weight: Samples | None = None) -> float:
        """Compute the Akaike information criterion on samples: lower is better.

        Parameters
        ----------
        X : array-like or Tensor of shape (n_samples, n_features), or callable
            Samples, or a function that returns an iterator of blocks of them; see `fit`.
        sample_weight : array-like or Tensor of shape (n_samples,), or callable, default=None
            How often each sample was seen. Not only ratios matter: their sum is the number of
            samples.

        Returns
        -------
        float
            ``-2 log-likelihood + 2 (number of parameters)``. Fixed parameters do not count.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If ``X`` or ``sample_weight`` is invalid.
        """
        return -2 * self._log_likelihood(X, sample_weight)[0] + 2 * self._n_parameters()


def seen_weight(estimator, X: torch.Tensor, sample_weight=None) -> int | float:
    """The sum of samples' weights as the user gave them, of those with any observed entry."""
    if not arrays.takes_missing(estimator):
        return arrays.total_weight(sample_weight, len(X))
    a = None
    if sample_weight is not None:
        a = arrays.as_tensor(sample_weight, dtype=torch.float64).expand(len(X)).to(X.device)
    return informative_weight(X.detach(), a)


def in_dtype(shown: dict[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Attributes of a mixture in the dtype of the samples, if that can hold them."""
    found = {name: tensor.to(dtype) for name, tensor in shown.items()}
    if all(math.isfinite(float(tensor.detach().sum())) for tensor in found.values()):
        return found
    for name, tensor in found.items():  # sums may overflow where numbers do not
        if not torch.isfinite(tensor).all():
            raise ValueError(
                f"X must have a scale at which {name} is finite in {dtype}, got an entry of "
                f"{float(shown[name].detach().abs().max()):.1e}. Rescale X, pass float64 or "
                "increase reg_covar."
            )
    return found


def _mean(values, weights=None) -> float:
    """The mean of log-densities, also where their sum leaves the range."""
    with np.errstate(over="ignore"):
        found = np.average(values, weights=weights)
        if np.isinf(found) and np.isfinite(values).all():
            weights = np.ones(len(values)) if weights is None else weights
            found = np.sum(values * (weights / weights.sum()))
    return float(found)


def _sums_of(estimator, X, weights):
    """The log-likelihood of a block, and the sum of its weights: of all rows, and as observed."""
    values = estimator._blockwise(_log_density, X).double()
    observed = seen_weight(estimator, X, weights)
    if weights is not None:
        kept = weights > 0  # (as in `score`)
        values, weights = values[kept] * weights[kept], weights[kept]
    total = len(values) if weights is None else float(weights.sum())
    return float(values.sum()), total, observed


def _evaluated(function, estimator, X):
    """`MixtureEstimator._evaluate`, to be pickled."""
    return estimator._evaluate(function, X)


def _draw(rng, mean, covariance, size, covariance_type):
    """Draw from one component, with scikit-learn's random numbers."""
    if covariance_type.elementary and not covariance_type.diagonal:
        return _draw_by_matrix(rng, mean, covariance.numpy(), size)
    normals = rng.standard_normal(size=(size, covariance_type.n_normals(len(mean))))
    if covariance_type.diagonal:
        return mean + normals * np.sqrt(covariance.numpy())
    colouring = covariance_type.colouring(covariance)
    return mean + covariance_type.coloured(torch.from_numpy(normals), colouring).numpy()


def _draw_by_matrix(rng, mean, covariance, size):
    """Draw by singular values, whose rounding is in the unit of the largest variance.

    Where variances are of many magnitudes, they are brought to one first.
    """
    variances = covariance.diagonal()
    units = np.sqrt(np.where(variances > 0, variances, 1.0))
    correlations = covariance / units / units[:, None]
    if (least := np.linalg.eigvalsh(correlations)[0]) < -INDEFINITE:
        raise ValueError(
            "covariances_ must be positive semi-definite for samples, got correlations with the "
            f"eigenvalue {least:.2g}. Set them anew, or fit again."
        )
    # numpy's own check is in absolute numbers
    options = {"size": size, "check_valid": "ignore"}
    if 0 < variances.max() / MAGNITUDES <= variances.min():
        return rng.multivariate_normal(mean, covariance, **options)
    return mean + units * rng.multivariate_normal(0 * mean, correlations, **options)


def _log_density(step: EStep, X):
    return step.log_density(X)


def _labels(step: EStep, X):
    noise = step.theta.noise
    # what all components share would hide by rounding what sets far samples apart
    compare = step.log_joint if noise is not None else getattr(step, "compared", step.log_joint)
    joint = compare(X)
    largest, labels = joint.max(0)  # many times faster than argmax, and equal
    if noise is None and are_far(largest).any():
        labels = step.log_responsibilities(X).max(0).indices
    return labels if noise is None else torch.where(largest >= noise, labels, NOISE)


def _responsibilities(step: EStep, X):
    resp = step.responsibilities(X)[0].mT
    if step.theta.noise is None:
        return resp
    return torch.cat([resp, (1 - resp.sum(1, keepdim=True)).clamp(min=0)], dim=1)


#: The same functions of the log-joint of few samples, in numpy.
IN_NUMPY = {
    _log_density: _few.log_density,
    _labels: _few.labels,
    _responsibilities: _few.responsibilities,
}
