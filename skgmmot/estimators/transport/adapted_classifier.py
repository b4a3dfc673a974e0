"""`AdaptedClassifier` trains a classifier on mapped samples, and predicts target samples."""

from typing import Any, Self, overload

import numpy as np
import torch
from sklearn.base import (
    BaseEstimator,
    ClassifierMixin,
    MetaEstimatorMixin,
    clone,
)
from sklearn.utils import get_tags
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, has_fit_parameter
from torch import Tensor

from skgmmot._inputs import arrays
from skgmmot._inputs.labels import class_labels, source_labels
from skgmmot._types import Array, Elsewhere, Samples, fit_context
from skgmmot.estimators.saving import SavedEstimator
from skgmmot.estimators.transport.ot_map import OTMap
from skgmmot.numerics.threads import unchanged_settings


def _classifier_has(method):
    """Whether the classifier, fitted or not, has a method."""
    return lambda self: hasattr(getattr(self, "classifier_", self.classifier), method)


class AdaptedClassifier(ClassifierMixin, MetaEstimatorMixin, SavedEstimator):
    """Classifier of target samples, trained on the images of labelled source samples.

    `fit` maps source samples to the target by an `OTMap` and fits the classifier to their images
    and labels. `predict` takes samples of the target, which it does not map.

    Parameters
    ----------
    ot_map : OTMap
        The map, unfitted; its ``target`` are samples of the target, without labels, or a mixture.
    classifier : classifier
        What is fitted to the images; unfitted.

    Attributes
    ----------
    ot_map_ : OTMap
        The fitted map.
    classifier_ : classifier
        The classifier, fitted to the images.
    classes_ : ndarray of shape (n_classes,)
        The labels.
    n_features_in_ : int
        Number of features d.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if ``X`` had any. The classifier is given arrays without names.

    See Also
    --------
    OTMap : The map; with ``class_wise=True`` it carries labels to the target by itself.

    Notes
    -----
    In ``make_pipeline(OTMap(target), classifier)``, `predict` and `score` map their argument: such
    a pipeline predicts labels of *source* samples, and is wrong for target samples.

    Held-out source samples say nothing about parameters of the map. To choose these by
    cross-validation, label a few target samples, and test on them alone: stack both and pass
    ``cv=[(source_rows, target_rows)]`` to the search.

    Steps that are fitted to the features, such as a scaler, belong into ``classifier``, or before
    the target is given to the map: the map does not apply them to its ``target``.

    References
    ----------
    .. [1] Montesuma, Ngole Mboula and Souloumiac 2024, mixtures in domain adaptation.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import make_blobs
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skgmmot import AdaptedClassifier, OTMap
    >>> X, y = make_blobs(300, centers=[[0, 0], [6, 0], [0, 4]], random_state=0)
    >>> target = X @ [[1.0, 0.4], [-0.4, 1.5]] + [5.0, 5.0]
    >>> LogisticRegression().fit(X, y).score(target, y) < 0.8
    True
    >>> transport = OTMap(target, n_components=3, random_state=0)
    >>> adapted = AdaptedClassifier(transport, LogisticRegression()).fit(X, y)
    >>> adapted.score(target, y) > 0.95
    True
    """

    _parameter_constraints: dict = {
        "ot_map": [OTMap],
        "classifier": "no_validation",  # its message would show the target of a map given here
    }

    def __init__(self, ot_map: OTMap, classifier: BaseEstimator) -> None:
        self.ot_map = ot_map
        self.classifier = classifier

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        if _is_classifier(self.classifier):
            tags.classifier_tags = get_tags(self.classifier).classifier_tags
        return tags

    @unchanged_settings()
    @fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: Samples, y: Samples | None, sample_weight: Samples | None = None) -> Self:
        """Fit the map, and the classifier to the images of source samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Source samples.
        y : array-like of shape (n_samples,)
            Their labels. If the map is ``class_wise``, -1 means that the class is not known: such
            samples are left out.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights of the source samples, for the map and the classifier.

        Returns
        -------
        AdaptedClassifier
            The fitted classifier.

        Raises
        ------
        TypeError
            If ``classifier`` has no `fit` and `predict`.
        ValueError
            If the map has no target, the classifier takes no weights but some are given, or an
            argument is invalid; an earlier fit is then left as it was.
        """
        if not _is_classifier(self.classifier):
            is_class = isinstance(self.classifier, type)
            cls = self.classifier if is_class else type(self.classifier)
            came = f"the class {cls.__name__}" if is_class else cls.__name__
            raise TypeError(
                "classifier must be an estimator that has fit and predict, got "
                f"{came}. Pass the map first: "
                "AdaptedClassifier(OTMap(X_target), classifier)."
            )
        if self.ot_map.target is None:
            raise ValueError(
                "ot_map must have a target, got None. Pass the unlabelled samples of the target: "
                "OTMap(X_target)."
            )
        arrays.refuse_functions(X)
        fitted, known = self._shallow_copy(), slice(None)
        samples = _in_numpy(arrays.samples(fitted, X, reset=True, min_samples=2)[0])
        if self.ot_map.class_wise:
            labels, known = class_labels(y, samples)
        else:
            labels = source_labels(y, samples)
        weights = {}
        if sample_weight is not None:
            weights["sample_weight"] = self._checked_weights(sample_weight, samples)
        ot_map = clone(self.ot_map).set_output(transform="default")
        ot_map.fit(samples, labels, **weights)
        weights = {name: values[known] for name, values in weights.items()}
        images = np.asarray(ot_map.transform(samples[known]))
        classifier = _fitted(clone(self.classifier), images, labels[known], weights)
        fitted.ot_map_, fitted.classifier_ = ot_map, classifier
        fitted.classes_ = classifier.classes_
        self.__dict__ = vars(fitted)
        return self

    def _checked_weights(self, sample_weight, X):
        """Weights as an array, which the classifier must take."""
        if not has_fit_parameter(self.classifier, "sample_weight"):
            raise ValueError(
                "classifier must be one whose fit takes sample_weight, got "
                f"{type(self.classifier).__name__}. Leave the weights out."
            )
        weights = arrays.weights_as_given(sample_weight, torch.from_numpy(X))
        arrays.refuse_zero_weights(float(weights.max()))
        return _in_numpy(weights).astype(X.dtype)

    @overload
    def predict(self, X: Elsewhere) -> Any: ...

    @overload
    def predict(self, X: Array) -> np.ndarray: ...

    def predict(self, X):
        """Predict the labels of target samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples of the target.

        Returns
        -------
        ndarray of shape (n_samples,)
            Their labels.
        """
        X = self._target_samples(X)
        return self.classifier_.predict(X)

    @overload
    def predict_proba(self, X: Elsewhere) -> Any: ...

    @overload
    def predict_proba(self, X: Array) -> np.ndarray: ...

    @available_if(_classifier_has("predict_proba"))
    def predict_proba(self, X):
        """Compute the probabilities of the labels of target samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples of the target.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Probabilities, in the order of ``classes_``.
        """
        X = self._target_samples(X)
        return self.classifier_.predict_proba(X)

    @overload
    def predict_log_proba(self, X: Elsewhere) -> Any: ...

    @overload
    def predict_log_proba(self, X: Array) -> np.ndarray: ...

    @available_if(_classifier_has("predict_log_proba"))
    def predict_log_proba(self, X):
        """Compute the logarithms of the probabilities of the labels of target samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples of the target.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Their logarithms.
        """
        X = self._target_samples(X)
        return self.classifier_.predict_log_proba(X)

    @overload
    def decision_function(self, X: Elsewhere) -> Any: ...

    @overload
    def decision_function(self, X: Array) -> np.ndarray: ...

    @available_if(_classifier_has("decision_function"))
    def decision_function(self, X):
        """Compute the classifier's decision values of target samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples of the target.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_classes)
            The values.
        """
        X = self._target_samples(X)
        return self.classifier_.decision_function(X)

    def _target_samples(self, X):
        """Validated samples, as an array without names."""
        check_is_fitted(self, "classifier_")
        return _in_numpy(arrays.samples(self, X, reset=False)[0])


def _is_classifier(estimator) -> bool:
    """Whether this is an estimator that can be fitted and predicts."""
    can = all(hasattr(estimator, method) for method in ("fit", "predict"))
    return can and not isinstance(estimator, type)


def _fitted(classifier, images, labels, weights):
    """A classifier fitted to the images of samples; its errors say that they are its own."""
    try:
        return classifier.fit(images, labels, **weights)
    except ValueError as error:
        classes = len(np.unique(labels))
        raise ValueError(
            f"classifier must be one that can be fitted to {len(images)} images of samples of "
            f"{classes} class(es), got an error of {type(classifier).__name__}: {error}"
        ) from error


def _in_numpy(tensor: Tensor) -> np.ndarray:
    """A tensor as an array, which classifiers take."""
    return tensor.detach().cpu().numpy()
