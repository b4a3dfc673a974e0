"""Mixture estimators from parameters, and from parts of other mixtures."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from skgmmot._inputs import arrays
from skgmmot._inputs.features import checked_names, chosen_features, values_of
from skgmmot._inputs.mixtures import as_mixture, in_double, shown_type
from skgmmot._types import Array, Features
from skgmmot.gaussian.conditional import condition, marginal, other_features
from skgmmot.gaussian.covariance.registry import COVARIANCE_TYPES, FULL
from skgmmot.gaussian.mixture import GaussianMixtureParams


class MixtureParts:
    """What mixture estimators do with given parameters: show, marginalise, condition."""

    @classmethod
    def from_parameters(
        cls,
        weights: Array | Tensor,
        means: Array | Tensor,
        covariances: Array | Tensor,
        covariance_type: str | None = None,
        *,
        feature_names: Sequence[str] | None = None,
        **parameters: Any,
    ) -> Self:
        """Make an estimator of a mixture whose parameters are known.

        Parameters
        ----------
        weights : array-like or Tensor of shape (n_components,)
            Weights of the components, of sum one.
        means : array-like or Tensor of shape (n_components, n_features)
            Means.
        covariances : array-like or Tensor
            Covariances, in the shape of ``covariances_``: ``(K, d, d)`` if full, ``(d, d)`` if
            tied, ``(K, d)`` if diag, ``(K,)`` if spherical, ``(K, d, rank + 1)`` if lowrank.
        covariance_type : {'full', 'tied', 'diag', 'spherical', 'lowrank'}, default=None
            Their type; None finds it by their shape, where only one type has it.
        feature_names : list of str, default=None
            Names of the features, for ``feature_names_in_``.
        **parameters : dict
            Other parameters of the estimator, such as ``random_state``.

        Returns
        -------
        MixtureEstimator
            A fitted estimator of this class, ready to `sample`, `predict`, score, compare and map.
            Arrays, or tensors where one requires a gradient (they stay on its graph) or is not on
            the CPU. With ``warm_start=True``, `fit` starts from these parameters.

        Raises
        ------
        TypeError
            If the arrays do not hold real numbers, or for an unknown parameter.
        ValueError
            If the arrays are no mixture: of other shapes, weights negative or of another sum,
            covariances not symmetric or not positive semi-definite.

        Notes
        -----
        Covariances may be singular. Such a mixture can be sampled and compared, but has no density,
        and no ``precisions_``.

        Examples
        --------
        >>> from skgmmot import DifferentiableGaussianMixture
        >>> mixture = DifferentiableGaussianMixture.from_parameters(
        ...     [0.5, 0.5], [[0.0, 0.0], [4.0, 4.0]], [1.0, 2.0], "spherical"
        ... )
        >>> mixture.predict([[1.0, 0.0], [3.0, 5.0]])
        array([0, 1])
        """
        if "n_components" in parameters:
            raise TypeError(
                f"n_components must not be given, got {parameters['n_components']!r}. It is the "
                "number of rows of means."
            )
        given = [weights, means, covariances]
        if covariance_type is not None:
            given.append(_known_type(covariance_type))
        params, kind = as_mixture(tuple(given), "parameters", None)
        if len({t.dtype for t in params}) > 1:
            params = in_double(params)
        names = None
        if feature_names is not None:
            names = checked_names(feature_names, params.means.shape[1])
        kind = arrays.answer_kind(kind)
        return cls._known(params, kind, covariance_type, names=names, **parameters)

    @classmethod
    def _known(cls, params, kind, covariance_type=None, *, names=None, **parameters):
        """A fitted estimator of a mixture given as a value."""
        name = covariance_type or shown_type(params)
        covariance = COVARIANCE_TYPES[name].of_storage(params.covariances)
        parameters = _with_those_of(covariance, cls, parameters)
        mixture = cls(len(params.weights), covariance_type=name, **parameters)
        # where types are the same model, that of the name
        shape = covariance.shape(*params.means.shape)
        mixture._set_mixture(params._replace(covariances=params.covariances.view(shape)), kind)
        if names is not None:
            mixture.feature_names_in_ = names
        return mixture

    def _set_mixture(self, params: GaussianMixtureParams, kind) -> None:
        """Show a mixture that no samples were fitted to; singular ones have no precisions."""
        for name in ("precisions_", "precisions_cholesky_"):
            vars(self).pop(name, None)
        try:
            factors = params.prepare().factors
        except ValueError:
            factors = None  # a singular mixture can be sampled and compared, and has no density
        for name, tensor in self._public(params, factors).items():
            setattr(self, name, kind.restore(tensor.clone()))
        self.n_features_in_ = params.means.shape[1]

    def marginal(self, features: Features) -> Any:
        r"""Return the distribution of some features, a mixture again.

        .. math:: p(x_a) = \sum_k w_k \, N(x_a;\; m_{k,a},\; \Sigma_{k,aa})

        Parameters
        ----------
        features : int, str, slice, or list of int, str or bool
            Which features, in the order wanted: by number (from the end if negative), by a mask, a
            slice or, where the mixture was fitted to a data frame, by name.

        Returns
        -------
        MixtureEstimator
            A fitted estimator of this class with these features, of the same covariance type (of
            one that is not elementary, its base; of 'lowrank' with no more than ``rank`` of them,
            'full'), with this ``random_state`` and ``device``.
            Tensors stay on their graph.

        Raises
        ------
        NotFittedError
            Before `fit`.
        TypeError
            If ``features`` are neither numbers, names, truth values nor a slice.
        ValueError
            If ``features`` are empty, repeated or unknown.
        """
        params = self._params()
        chosen = self._chosen(features, params)
        return self._part(marginal(params, chosen), chosen, arrays.fitted_kind(self))

    def condition(self, values: float | Array | Tensor, features: Features) -> Any:
        r"""Return the distribution of the other features, given values of some.

        .. math::

            p(x_b \mid x_a) = \sum_k \gamma_k(x_a) \, N\bigl(x_b;\; m_{k,b} + B_k (x_a - m_{k,a}),
                \; \Sigma_{k,bb} - B_k \Sigma_{k,ab}\bigr),
            \qquad B_k = \Sigma_{k,ba} \Sigma_{k,aa}^{-1}

        Parameters
        ----------
        values : float, or array-like or Tensor of shape (m,)
            The values ``x_a``, one for each of ``features``, in their order. A labelled series is
            taken by its labels where features are named.
        features : int, str, slice, or list of int, str or bool
            Which features they are of, as in `marginal`. At least one must be left.

        Returns
        -------
        MixtureEstimator
            A fitted estimator of this class with the other features, in their order, of the same
            covariance type (of one that is not elementary, its base), with this ``random_state``
            and ``device``. Differentiable, and tensors, where the mixture or the values require a
            gradient.

        Raises
        ------
        NotFittedError
            Before `fit`.
        TypeError
            If ``features`` are neither numbers, names, truth values nor a slice.
        ValueError
            If ``features`` are empty, all, repeated or unknown, ``values`` are not finite or not
            one for each, or their covariance is singular.

        See Also
        --------
        skgmmot.MixtureRegressor : Predictions for many conditions at once.

        Notes
        -----
        In components without correlations (``'diag'``, ``'spherical'``) only the weights depend on
        the values. Values so far away that their density is zero belong to the component nearest in
        its own metric.
        """
        params = self._params()
        chosen = self._chosen(features, params)
        others = other_features(torch.tensor(chosen), params.means.shape[1]).tolist()
        given = values_of(values, features, len(chosen))
        kind = arrays.answer_kind(arrays.kind_of(values), fitted=arrays.fitted_kind(self))
        shown, device = params.means.dtype, kind.device if kind.is_tensor else None
        found = condition(
            in_double(params).to(device=device), given.to(device, torch.float64), chosen
        )
        if not torch.isfinite(found.means).all():
            raise ValueError(
                f"values must lead to finite means, got infinite ones for {given.tolist()}. Check "
                "their units."
            )
        return self._part(found.to(dtype=shown), others, kind)

    def _chosen(self, features, params) -> list[int]:
        """The numbers of features that a user chose."""
        names = getattr(self, "feature_names_in_", None)
        return chosen_features(features, params.means.shape[1], names)

    def _part(self, params, features: list[int], kind):
        """An estimator of this class of a mixture of some of the features."""
        names = getattr(self, "feature_names_in_", None)
        base = self._covariance().base
        if not base.fits(params.means.shape[1]):
            base = FULL
            params = params._replace(covariances=params.full_covariances(), covariance_type=FULL)
        same = {"missing_values": "nan"} if arrays.takes_missing(self) else {}
        return self._known(
            params,
            kind,
            base.name,
            names=None if names is None else np.asarray(names, dtype=object)[features],
            random_state=self.random_state,
            device=self.device,
            **same,
        )


def _with_those_of(covariance_type, cls, parameters: dict) -> dict:
    """Parameters of an estimator, with those that its covariance type has."""
    for name, value in covariance_type.parameters().items():
        if name not in cls._parameter_constraints:
            raise ValueError(
                f"covariance_type must be elementary for {cls.__name__}, got "
                f"{covariance_type.name!r}. Use DifferentiableGaussianMixture.from_parameters."
            )
        if parameters.setdefault(name, value) != value:
            raise ValueError(
                f"{name} must be that of covariances, {value}, got {parameters[name]}. Leave it "
                "out."
            )
    return parameters


def _known_type(name) -> str:
    """The name of a covariance type, validated."""
    if not isinstance(name, str) or name not in COVARIANCE_TYPES:
        raise ValueError(
            f"covariance_type must be one of {sorted(COVARIANCE_TYPES)}, got {name!r}. Name one of "
            "them, or leave it out."
        )
    return name
