"""The mixtures that a map goes from and to: those that are given, or fitted to samples."""

import contextlib
import functools

import numpy as np
import torch
from sklearn.base import clone

from skgmmot._inputs import arrays
from skgmmot._inputs.dask.blocks import DaskBlocks
from skgmmot._inputs.dask.collections import check_features
from skgmmot._inputs.labels import class_labels
from skgmmot._inputs.mixtures import as_mixture, is_mixture
from skgmmot.estimators._default_mixture import DefaultMixture
from skgmmot.estimators.mixtures._fit import check_covariance_type, fitted_to
from skgmmot.estimators.mixtures.differentiable import DifferentiableGaussianMixture
from skgmmot.estimators.transport.geodesic import known_mixture
from skgmmot.gaussian.mixture import join
from skgmmot.numerics.linalg import oas_shrinkage

#: Components of the mixtures that `OTMap` fits unless told otherwise.
DEFAULT_COMPONENTS = 10
#: Components of fewer samples a feature have their covariances shrunk by ``shrinkage='auto'``.
MIN_SAMPLES_PER_FEATURE = 5


class MapEnds(DefaultMixture):
    """Fits the mixtures at both ends of a map, with the parameters of `OTMap`."""

    def _source_mixture(self, X, y, sample_weight):
        """The source as a fitted estimator or a tuple."""
        if is_mixture(X, "X"):
            return self._given_source(X, sample_weight)
        if arrays.is_dask(X):
            return self._dask_source(X, sample_weight)
        missing = arrays.takes_missing(self.mixture)
        tensor, kind = arrays.samples(self, X, reset=True, min_samples=2, missing=missing)
        tensor = tensor.detach()
        weights = arrays.sample_weights(sample_weight, tensor)
        samples = kind.restore(tensor)
        if weights is not None:
            weights = kind.restore(weights.detach())
        if self.class_wise:
            return self._fit_classes(samples, weights, y)
        return self._fit_mixture(self._new_mixture("X"), samples, weights)

    def _given_source(self, mixture, sample_weight):
        """A source that is a mixture already."""
        if self.class_wise:
            raise ValueError(
                "X must be samples with class_wise=True, got a mixture, whose classes are "
                "unknown. Pass the samples and their labels y."
            )
        if sample_weight is not None:
            raise ValueError(
                "sample_weight must be None where X is a mixture, got weights. Fit the mixture "
                "with them instead."
            )
        self.n_features_in_ = as_mixture(mixture, "X")[0].means.shape[1]
        vars(self).pop("feature_names_in_", None)
        if hasattr(mixture, "feature_names_in_"):
            self.feature_names_in_ = mixture.feature_names_in_
        return mixture

    def _dask_source(self, X, sample_weight):
        """A mixture fitted to samples of dask."""
        if self.class_wise:
            raise ValueError(
                "X must be in memory with class_wise=True, got samples of dask. Fit a mixture to "
                "each class, X[y == label], or use class_wise=False."
            )
        check_features(self, X, reset=True)
        return self._fit_mixture(self._new_mixture("X"), X, sample_weight)

    def _fit_classes(self, samples, weights, y):
        """A mixture of each class, joined with the classes' shares of the samples."""
        y, known = class_labels(y, samples)
        self.classes_, codes = np.unique(y[known], return_inverse=True)
        fitted, masses = [], []
        for code, label in enumerate(self.classes_):
            rows = known[codes == code]
            own = None if weights is None else weights[rows]
            masses.append(len(rows) if own is None else float(own.sum()))
            with _class_named(label):
                fitted.append(self._fit_mixture(self._new_mixture("X"), samples[rows], own))
        mixtures, kinds = zip(*(as_mixture(m) for m in fitted), strict=True)
        self.component_labels_ = self.classes_.repeat([len(m.weights) for m in mixtures])
        shares = torch.tensor(masses, dtype=torch.float64) / sum(masses)
        return known_mixture(join(mixtures, shares), arrays.answer_kind(*kinds))

    def _fit_mixture(self, mixture, samples, weights=None):
        """A mixture fitted to samples, its covariances shrunk where they stand on too few."""
        fitted = fitted_to(mixture, samples, weights)
        return _shrunk_mixture(fitted, functools.partial(_size, samples, weights), self.shrinkage)

    def _target_mixture(self, target, weights):
        """The target as a fitted estimator or a tuple, with the features of the fit."""
        if target is None:
            d = self.n_features_in_
            return np.ones(1), np.zeros((1, d)), np.eye(d)[None]
        if not is_mixture(target, "target"):
            mixture = self._new_mixture("target")
            if self.class_wise:
                mixture.set_params(n_components=len(self.component_labels_))
            samples = self._companion(target)
            if weights is not None:
                weights = arrays.sample_weights(weights, arrays.as_tensor(samples)).detach()
                weights = arrays.kind_of(samples).restore(weights)
            return self._fit_mixture(mixture, samples, weights)
        as_mixture(target, "target")
        names = [getattr(e, "feature_names_in_", None) for e in (self, target)]
        if all(n is not None for n in names) and not np.array_equal(*names):
            raise ValueError(
                f"target must be fitted to the features of X, {list(names[0])}, got "
                f"{list(names[1])}. Use the same columns in the same order."
            )
        return target

    def _companion(self, target):
        """Target samples, which must have the features of those of the fit."""
        if not arrays.is_dask(target):
            missing = arrays.takes_missing(self.mixture)
            return arrays.companion(self, target, "target", missing=missing)
        try:
            check_features(self, target, reset=False)
        except ValueError as error:
            raise ValueError(f"target must be samples like those of the fit. {error}") from error
        return target

    def _new_mixture(self, name):
        """An unfitted mixture for the samples of that name."""
        if self.mixture is None:
            mixture = self._default_mixture()
        else:
            check_covariance_type(self.mixture, name)
            mixture = clone(self.mixture)
        if self.n_components is not None:
            mixture.set_params(n_components=self.n_components)
        return mixture

    def _default_mixture(self):
        K = 1 if self.class_wise else DEFAULT_COMPONENTS
        return DifferentiableGaussianMixture(
            n_components=K, random_state=self.random_state, device=self.device
        )


@contextlib.contextmanager
def _class_named(label):
    """Say of which class the mixture is that cannot be fitted inside."""
    try:
        yield
    except ValueError as error:
        raise ValueError(
            f"the mixture of class {label} must be one that can be fitted. {error}"
        ) from error


def _size(samples, weights) -> float:
    """How many samples of equal weight would vary as much as these (Kish)."""
    if weights is not None:
        found = weights.sum() ** 2 / (weights**2).sum()
        return float(found.compute() if arrays.is_dask(weights) else found)
    return sum(DaskBlocks(samples).map(_n_rows)) if arrays.is_dask(samples) else len(samples)


def _n_rows(X, weights):
    return len(X)


def _shrunk_mixture(fitted, size, shrinkage):
    """A fitted mixture, or one in its place with covariances shrunk: see ``OTMap``.

    ``size()`` is the number of samples of equal weight that it was fitted to.
    """
    if not shrinkage:
        return fitted
    params, kind = as_mixture(fitted)
    params = params.in_base()
    covariances, d, base = params.covariances, params.means.shape[1], params.covariance_type
    if shrinkage == "auto":
        if base.diagonal or not base.elementary:  # few numbers, that many samples determine
            return fitted
        own = base.total(params.weights)  # the share of the samples that each matrix stands on
        n_samples = size()
        few = own * n_samples < MIN_SAMPLES_PER_FEATURE * d
        share = torch.where(few, oas_shrinkage(covariances, own * n_samples), 0.0)
    else:
        share = torch.full_like(base.total(params.weights), shrinkage)
    if not share.any():
        return fitted
    return known_mixture(params._replace(covariances=base.shrunk(covariances, share)), kind)
