"""`MixtureImputer`: missing entries filled in by the conditional distribution of a mixture."""

from collections.abc import Sequence
from numbers import Integral
from typing import Any, Self, overload

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.utils._param_validation import HasMethods, Interval
from sklearn.utils.validation import _check_feature_names_in, check_is_fitted

from skgmmot._inputs import arrays
from skgmmot._inputs.mixtures import as_mixture
from skgmmot._types import Array, Device, Elsewhere, RandomState, Samples, fit_context
from skgmmot.estimators._default_mixture import DefaultMixture
from skgmmot.estimators.mixtures._base import whole_fit
from skgmmot.estimators.mixtures._fit import fitted_to
from skgmmot.estimators.mixtures.differentiable import DifferentiableGaussianMixture
from skgmmot.estimators.saving import SavedEstimator


class MixtureImputer(DefaultMixture, TransformerMixin, SavedEstimator):
    r"""Transformer that fills in missing entries by a Gaussian mixture.

    `fit` fits the mixture to what is observed, by exact EM; `transform` replaces each missing entry
    by its conditional mean given what is observed of the same sample, or by a draw from its
    conditional distribution.

    Parameters
    ----------
    mixture : DifferentiableGaussianMixture, default=None
        What is fitted, cloned each time, with ``missing_values='nan'`` and, if it has none, this
        ``random_state``. None is ``DifferentiableGaussianMixture()``, a single normal distribution.
        Its parameters can be set as ``mixture__tol`` and so on, also where it is None.
    draw : bool, default=False
        Whether to draw, instead of taking the mean. Means are the best guesses of single entries,
        but have too little variance, and draws have that of the data: of several imputations with
        different ``random_state``, results differ by what missing entries leave uncertain.
    add_indicator : bool, default=False
        Whether to append a column of 0 and 1 for each feature with missing entries in the fit.
    random_state : int, RandomState instance or None, default=None
        Controls the mixture's starts and the draws. An integer repeats the draws at every call.
    n_components : int, default=None
        Number of components; None leaves that of ``mixture``.
    device : str or torch.device, default=None
        Where to compute with the default mixture; None is where the data is.

    Attributes
    ----------
    mixture_ : DifferentiableGaussianMixture
        The fitted mixture.
    indicated_ : ndarray of int
        Features with missing entries in the fit, for which ``add_indicator`` appends columns; none
        without it.
    n_features_in_ : int
        Number of features d.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if ``X`` had any.

    See Also
    --------
    skgmmot.DifferentiableGaussianMixture.impute : The same of a fitted mixture.

    References
    ----------
    .. [1] Ghahramani and Jordan 1993, supervised learning from incomplete data.
    .. [2] Little and Rubin 2002, statistical analysis with missing data.

    Examples
    --------
    >>> import numpy as np
    >>> from skgmmot import MixtureImputer
    >>> X = np.array([[1.0, 2.0], [2.0, 4.1], [3.0, 5.9], [4.0, np.nan]])
    >>> MixtureImputer().fit_transform(X).round(1)
    array([[1. , 2. ],
           [2. , 4.1],
           [3. , 5.9],
           [4. , 7.9]])
    """

    _parameter_constraints: dict = {
        "mixture": [HasMethods(["fit"]), None],
        "draw": ["boolean"],
        "add_indicator": ["boolean"],
        "random_state": ["random_state"],
        "n_components": [Interval(Integral, 1, None, closed="left"), None],
        "device": [str, torch.device, None],
    }

    def __init__(
        self,
        mixture: BaseEstimator | None = None,
        *,
        draw: bool = False,
        add_indicator: bool = False,
        random_state: RandomState = None,
        n_components: int | None = None,
        device: Device = None,
    ) -> None:
        self.mixture = mixture
        self.draw = draw
        self.add_indicator = add_indicator
        self.random_state = random_state
        self.n_components = n_components
        self.device = device

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    @fit_context(prefer_skip_nested_validation=False)
    def fit(
        self, X: Samples, y: Samples | None = None, sample_weight: Samples | None = None
    ) -> Self:
        """Fit the mixture to what is observed.

        Parameters
        ----------
        X : array-like or Tensor of shape (n_samples, n_features)
            Samples; NaN is missing.
        y : None
            Ignored.
        sample_weight : array-like or Tensor of shape (n_samples,), default=None
            Non-negative weights.

        Returns
        -------
        MixtureImputer
            The fitted transformer.

        Raises
        ------
        TypeError
            If ``mixture`` is no DifferentiableGaussianMixture.
        ValueError
            If a parameter, ``X`` or ``sample_weight`` is invalid, or a feature is never observed;
            an earlier fit is then left as it was.
        """
        with whole_fit(self) as (fitted, _):
            samples, _ = arrays.samples(fitted, X, reset=True, min_samples=2, missing=True)
            fitted.mixture_ = fitted_to(fitted._new_mixture(), X, sample_weight)
            missing = torch.isnan(samples.detach()).any(0).cpu().numpy()
            fitted.indicated_ = np.flatnonzero(missing & self.add_indicator)
        return self

    def _check_attributes(self):
        """Refuse a file whose mixture or columns are not those of the features."""
        super()._check_attributes()
        if not hasattr(self, "mixture_"):
            return
        columns, d = getattr(self, "indicated_", None), self.n_features_in_
        sound = isinstance(columns, np.ndarray) and columns.dtype.kind == "i" and columns.ndim == 1
        if not sound or not ((columns >= 0) & (columns < d)).all():
            raise ValueError(f"indicated_ must be numbers of features, got {columns!r:.40}")
        if not isinstance(self.mixture_, DifferentiableGaussianMixture):
            raise ValueError("mixture_ must be a DifferentiableGaussianMixture")
        if as_mixture(self.mixture_, "mixture_")[0].means.shape[1] != d:
            raise ValueError(f"mixture_ must have the {d} feature(s) of the fit")

    def _new_mixture(self):
        """The unfitted mixture."""
        own = {"missing_values": "nan"}
        if self.n_components is not None:
            own["n_components"] = self.n_components
        if self.mixture is None:
            return self._default_mixture().set_params(**own)
        if not isinstance(self.mixture, DifferentiableGaussianMixture):
            raise TypeError(
                "mixture must be a DifferentiableGaussianMixture, got "
                f"{type(self.mixture).__name__}, which takes no missing entries. Pass one, or None."
            )
        mixture = clone(self.mixture)
        if mixture.random_state is None:
            own["random_state"] = self.random_state
        return mixture.set_params(**own)

    def _default_mixture(self):
        return DifferentiableGaussianMixture(random_state=self.random_state, device=self.device)

    @overload
    def transform(self, X: Elsewhere) -> Any: ...

    @overload
    def transform(self, X: Array) -> np.ndarray: ...

    def transform(self, X):
        """Fill in missing entries.

        Parameters
        ----------
        X : array-like or Tensor of shape (n_samples, n_features)
            Samples; NaN is missing.

        Returns
        -------
        array or Tensor of shape (n_samples, n_features)
            Complete samples, in the dtype of ``X``; observed entries as they are. With
            ``add_indicator``, its columns follow.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If ``X`` is infinite somewhere or has other features than the fit.
        """
        check_is_fitted(self)
        samples, _ = arrays.samples(self, X, reset=False, missing=True)
        found = self.mixture_.impute(X, draw=self.draw)
        if not len(self.indicated_):
            return found
        columns = torch.isnan(samples.detach())[:, self.indicated_]
        if isinstance(found, torch.Tensor):
            return torch.cat([found, columns.to(found)], dim=1)
        return np.hstack([found, columns.cpu().numpy().astype(found.dtype)])

    def get_feature_names_out(self, input_features: Sequence[str] | None = None) -> np.ndarray:
        """Return the names of the features of `transform`.

        Parameters
        ----------
        input_features : array-like of str of shape (n_features,), default=None
            Names of the features; None is those of the fit, or x0, x1, ...

        Returns
        -------
        ndarray of str
            The same names, and those of the columns of ``add_indicator``.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If the names are not those of the fit.
        """
        check_is_fitted(self, "n_features_in_")
        names = _check_feature_names_in(self, input_features)
        more = [f"missingindicator_{name}" for name in names[self.indicated_]]
        return np.concatenate([names, np.array(more, dtype=object)])
