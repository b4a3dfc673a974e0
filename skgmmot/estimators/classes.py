"""Predicting the classes of samples with a mixture whose components belong to classes."""

import functools
from typing import Any, overload

import numpy as np
import torch
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from skgmmot._inputs import arrays
from skgmmot._types import Array, Elsewhere
from skgmmot.estimators.mixtures._base import MixtureEstimator

#: What only a fit with labels leaves.
CLASSES = ("classes_", "components_of_class_", "_unknown_class")


def _takes_labels(estimator):
    """True where classes can be predicted; else raise, with the reason."""
    if estimator.labels == "ignore":
        raise AttributeError(
            "predicting classes needs labels='y', got 'ignore', with which a fit learns no "
            "classes. Set labels='y' and fit with y, or use predict, which gives components."
        )
    return True


class ClassPredictor(MixtureEstimator):
    """Base of the mixtures whose components may belong to classes."""

    @overload
    def predict_class(self, X: Elsewhere) -> Any: ...

    @overload
    def predict_class(self, X: Array) -> np.ndarray: ...

    @available_if(_takes_labels)
    def predict_class(self, X):
        """Predict the most probable class of each sample, with ``labels='y'``.

        Parameters
        ----------
        X : array-like, Tensor, dask array or data frame of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        array or Tensor of shape (n_samples,)
            Entries of ``classes_``; or, where a component of no class is likelier (all of them
            together), what marks an unknown class in the labels of the fit: -1, the empty text in
            arrays of text, None in arrays of objects. Text is always in NumPy arrays. Of samples
            of dask, a lazy dask array.

        Raises
        ------
        NotFittedError
            Before `fit`.
        AttributeError
            If ``labels='ignore'``.
        ValueError
            If ``X`` is invalid.

        See Also
        --------
        predict_class_proba : The probabilities.
        predict : Predicts components.
        """
        check_is_fitted(self, "classes_")
        codes = self._evaluate(functools.partial(_codes, self._components()), X)
        names = self._names()
        if arrays.is_dask(codes):
            return codes.map_blocks(functools.partial(_take, names), dtype=names.dtype)
        return _take(names, codes)

    @overload
    def predict_class_proba(self, X: Elsewhere) -> Any: ...

    @overload
    def predict_class_proba(self, X: Array) -> np.ndarray: ...

    @available_if(_takes_labels)
    def predict_class_proba(self, X):
        """Compute the probability of each class given each sample, with ``labels='y'``.

        Parameters
        ----------
        X : array-like, Tensor, dask array or data frame of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        array or Tensor of shape (n_samples, n_classes)
            Sums of the responsibilities of the components of each class, in the order of
            ``classes_``. What is missing to one is the probability of components of no class. Of
            samples of dask, a lazy dask array.

        Raises
        ------
        NotFittedError
            Before `fit`.
        AttributeError
            If ``labels='ignore'``.
        ValueError
            If ``X`` is invalid.
        """
        check_is_fitted(self, "classes_")
        components = self._components()
        return self._evaluate(functools.partial(_probabilities, components[:-1]), X)

    def _components(self) -> tuple[tuple[int, ...], ...]:
        """The components of each class, and of none."""
        of_classes = tuple(map(tuple, self.components_of_class_.values()))
        taken = {k for components in of_classes for k in components}
        return *of_classes, tuple(k for k in range(len(self.means_)) if k not in taken)

    def _names(self) -> np.ndarray:
        """The classes, and what marks an unknown one if a component is of no class."""
        names = self.classes_
        if not self._components()[-1] and not hasattr(self, "noise_weight_"):
            return names
        return np.append(names, np.array([self._unknown_class], dtype=_with_mark(names.dtype)))


def _with_mark(dtype: np.dtype) -> np.dtype:
    """The dtype of a mark beside names of a dtype."""
    return dtype if dtype.kind in "UO" else np.dtype(np.int64)


def _probabilities(components, step, X):
    """The share of each group of components in each sample ``(b, n_groups)``."""
    resp = step.responsibilities(X)[0]  # (K, b)
    return torch.stack([resp[list(group)].sum(0) for group in components], dim=1)


def _codes(components, step, X):
    """The place of the most probable group of components ``(b,)``, the first of equal ones."""
    found = _probabilities(components, step, X)
    if step.theta.noise is not None:  # it is of no class, either
        found[:, -1] = 1 - found[:, :-1].sum(1)
    return found.argmax(1)


def _take(names: np.ndarray, codes):
    """The names of classes at some places."""
    if isinstance(codes, torch.Tensor):
        if names.dtype.kind in "iub":
            return torch.from_numpy(names.astype(np.int64)).to(codes.device)[codes]
        codes = codes.cpu().numpy()
    return names[codes]
