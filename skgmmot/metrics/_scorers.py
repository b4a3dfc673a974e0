"""Scorers of fitted mixtures: transport distances to held-out samples, information criteria."""

import sklearn.metrics
from sklearn.base import clone
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from skgmmot._inputs.mixtures import as_mixture, shown_type
from skgmmot.estimators.mixtures.differentiable import DifferentiableGaussianMixture
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.metrics._mixture import MixtureWasserstein
from skgmmot.metrics._sliced import sliced_wasserstein_distance
from skgmmot.numerics.threads import single_threaded_torch


def make_mixture_wasserstein_scorer(reference=None, *, reg=0.0, reg_m=None, squared=False):
    r"""Make a scorer that compares a fitted mixture with held-out samples by MW2.

    .. math:: \text{score} = -\operatorname{MW}_2(\text{estimator}, \text{reference})

    where the *reference* is a mixture fitted to the held-out samples, and with ``labels='y'`` to
    their classes ``y``. Larger is better, 0 is best.

    Parameters
    ----------
    reference : mixture estimator, default=None
        Mixture that is cloned and fitted to the held-out samples; None is the estimator that is
        scored or, for a tuple ``(weights, means, covariances)``, an estimator with as many
        components of its covariance type.
    reg : float, default=0.0
        Weight of the entropy; see `MixtureWasserstein`.
    reg_m : float, tuple of two floats or None, default=None
        Penalties of the marginals, which limit the influence of outliers.
    squared : bool, default=False
        Whether to score by the square.

    Returns
    -------
    callable
        ``scorer(estimator, X, y=None) -> float``, for the parameter ``scoring`` of
        ``GridSearchCV`` or ``cross_val_score``.

    Raises
    ------
    TypeError
        If the reference is no estimator.
    ValueError
        If ``reg`` or ``reg_m`` is no penalty.

    Notes
    -----
    With ``reference=None`` the score measures how much a fit depends on its samples. It compares
    settings with equal ``n_components``, such as covariance types, regularisations and starts. It
    does not choose ``n_components``: fewer components always depend less on the samples. With
    one ``reference`` for all candidates, with more components than any of them, the score rises
    steeply up to the number of clusters and slowly after it: choose the number at the bend. That
    needs well separated clusters and many held-out samples for each component of the reference.

    A pipeline's last step is scored, on samples transformed by its other steps. There must be as
    many held-out samples as the reference needs.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.model_selection import cross_val_score
    >>> from skgmmot import DifferentiableGaussianMixture
    >>> from skgmmot.metrics import make_mixture_wasserstein_scorer
    >>> rng = np.random.default_rng(0)
    >>> X = np.vstack([rng.normal(size=(200, 2)), 9 + rng.normal(size=(200, 2))])
    >>> X = rng.permutation(X)
    >>> reference = DifferentiableGaussianMixture(6, random_state=0)
    >>> scorer = make_mixture_wasserstein_scorer(reference)
    >>> for n in (1, 2, 4):
    ...     mixture = DifferentiableGaussianMixture(n, random_state=0)
    ...     print(n, round(cross_val_score(mixture, X, scoring=scorer, cv=3).mean()))
    1 -9
    2 -3
    4 -3
    """
    if reference is not None:
        _check_estimator("reference", reference)
    return _MixtureWassersteinScorer(reference, MixtureWasserstein(reg, reg_m, squared=squared))


def _check_estimator(name: str, estimator) -> None:
    """Raise for what is no estimator in scikit-learn's sense."""
    is_class = isinstance(estimator, type)
    if is_class or not (hasattr(estimator, "fit") and hasattr(estimator, "get_params")):
        kind = f"the class {estimator.__name__}" if is_class else type(estimator).__name__
        raise TypeError(
            f"{name} must be a mixture estimator, got {kind}. Pass for example "
            "DifferentiableGaussianMixture(3)."
        )


class _MixtureWassersteinScorer:
    """Scorer by minus MW2 to a reference fitted to the held-out samples."""

    def __init__(self, reference, metric):
        self.reference, self.metric = reference, metric

    def __call__(self, estimator, X, y=None):
        estimator, X = last_step(estimator, X)
        reference = self.reference
        if reference is None:
            reference = _alike(estimator) if _is_value(estimator) else estimator
        reference = clone(reference)
        fitted = reference.fit(X) if y is None else reference.fit(X, y)
        return -float(self.metric(estimator, fitted))

    def __repr__(self):
        return f"make_mixture_wasserstein_scorer(reference={self.reference!r})"


def _alike(mixture):
    """An estimator with the number of components and the covariance type of a tuple."""
    params, _ = as_mixture(mixture, "estimator")
    return DifferentiableGaussianMixture(
        len(params.weights), covariance_type=shown_type(params), random_state=0
    )


def _is_value(mixture) -> bool:
    """Whether this is a tuple or `GaussianMixtureParams`, which need not be fitted."""
    return isinstance(mixture, tuple | GaussianMixtureParams)


def last_step(estimator, X):
    """The last step of a fitted pipeline, and samples as its other steps transform them."""
    while isinstance(estimator, Pipeline):
        if len(estimator) > 1:
            X = estimator[:-1].transform(X)
        estimator = estimator[-1]
    if not _is_value(estimator):
        _check_estimator("estimator", estimator)
        check_is_fitted(estimator)
    return estimator, X


#: Minus MW2 between a fitted mixture and a clone of it fitted to held-out samples.
mixture_wasserstein_scorer = make_mixture_wasserstein_scorer()


@single_threaded_torch()
def sliced_wasserstein_scorer(estimator, X, y=None):
    """Score a fitted mixture by minus its sliced Wasserstein distance to held-out samples.

    Parameters
    ----------
    estimator : fitted mixture estimator, pipeline or tuple (weights, means, covariances)
        Of this package or of scikit-learn; a pipeline's last step is scored, on the samples as its
        other steps transform them.
    X : array-like or Tensor of shape (n_samples, n_features)
        Held-out samples.
    y : None
        Ignored.

    Returns
    -------
    float
        ``-SW_2`` over 100 directions, in units of the data: larger is better. Between a
        distribution and n samples of it, about minus its standard deviation over ``sqrt(n)``.

    Raises
    ------
    NotFittedError
        Before ``fit``.
    ValueError
        If ``X`` is invalid.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.model_selection import GridSearchCV
    >>> from skgmmot import DifferentiableGaussianMixture
    >>> from skgmmot.metrics import sliced_wasserstein_scorer
    >>> search = GridSearchCV(
    ...     DifferentiableGaussianMixture(random_state=0),
    ...     {"n_components": [1, 3]},
    ...     scoring=sliced_wasserstein_scorer,
    ... )
    >>> bool(search.fit(load_iris().data[::2]).best_score_ < 0)
    True
    """
    return -float(sliced_wasserstein_distance(*last_step(estimator, X)))


def bic_scorer(estimator, X, y=None):
    """Score a fitted mixture by minus its Bayesian information criterion.

    Parameters
    ----------
    estimator : fitted mixture estimator, pipeline or tuple (weights, means, covariances)
        Of this package or of scikit-learn; a pipeline's last step is scored, on the samples as its
        other steps transform them.
    X : array-like or Tensor of shape (n_samples, n_features)
        The samples of the fit.
    y : None
        Ignored.

    Returns
    -------
    float
        ``-estimator.bic(X)``: larger is better.

    Raises
    ------
    NotFittedError
        Before ``fit``.
    ValueError
        If ``X`` is invalid.

    See Also
    --------
    skgmmot.GaussianMixtureSearch : Compares more mixtures in less time.

    Notes
    -----
    The criterion counts parameters because it is computed on the samples of the fit: pass ``cv``
    with one split of which both parts are all samples, as below. On held-out samples
    ``score``, the mean log-likelihood, needs no correction.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.model_selection import GridSearchCV
    >>> from skgmmot import DifferentiableGaussianMixture
    >>> from skgmmot.metrics import bic_scorer
    >>> X, rows = load_iris().data, np.arange(150)
    >>> search = GridSearchCV(
    ...     DifferentiableGaussianMixture(random_state=0),
    ...     {"n_components": [1, 2, 3], "covariance_type": ["full", "tied", "diag"]},
    ...     scoring=bic_scorer,
    ...     cv=[(rows, rows)],
    ... )
    >>> search.fit(X).best_params_
    {'covariance_type': 'full', 'n_components': 2}
    """
    estimator, X = _with_criteria(estimator, X)
    return -float(estimator.bic(X))


def aic_scorer(estimator, X, y=None):
    """Score a fitted mixture by minus its Akaike information criterion.

    Parameters
    ----------
    estimator : fitted mixture estimator, pipeline or tuple (weights, means, covariances)
        As in `bic_scorer`.
    X : array-like or Tensor of shape (n_samples, n_features)
        The samples of the fit.
    y : None
        Ignored.

    Returns
    -------
    float
        ``-estimator.aic(X)``: larger is better.

    Raises
    ------
    NotFittedError
        Before ``fit``.
    ValueError
        If ``X`` is invalid.

    See Also
    --------
    bic_scorer : With an example.
    """
    estimator, X = _with_criteria(estimator, X)
    return -float(estimator.aic(X))


def _with_criteria(estimator, X):
    """A mixture estimator that has ``bic`` and ``aic``, and samples as it takes them."""
    estimator, X = last_step(estimator, X)
    if _is_value(estimator):
        params, _ = as_mixture(estimator, "estimator")
        values = (tensor.detach() for tensor in params)
        estimator = DifferentiableGaussianMixture.from_parameters(
            *values, covariance_type=params.covariance_type.name
        )
    elif not hasattr(estimator, "bic"):
        raise TypeError(
            f"estimator must be a mixture with bic and aic, got {type(estimator).__name__}. Score "
            "a DifferentiableGaussianMixture."
        )
    return estimator, X


#: The scorers of this package by name.
SCORERS = {
    "aic": aic_scorer,
    "bic": bic_scorer,
    "mixture_wasserstein": mixture_wasserstein_scorer,
    "sliced_wasserstein": sliced_wasserstein_scorer,
}


def get_scorer(name):
    """Get a scorer by name: one of this package, or one of scikit-learn's.

    Scikit-learn has no place to register scorers, so ``scoring="bic"`` and
    ``scoring="mixture_wasserstein"`` do not work there; ``scoring=get_scorer("bic")`` does.

    Parameters
    ----------
    name : str or callable
        A name in ``SCORERS`` or in ``sklearn.metrics.get_scorer_names()``; a callable is returned.

    Returns
    -------
    callable
        ``scorer(estimator, X, y=None) -> float``.

    Raises
    ------
    ValueError
        If there is no such scorer.

    Examples
    --------
    >>> from skgmmot.metrics import get_scorer, mixture_wasserstein_scorer
    >>> get_scorer("mixture_wasserstein") is mixture_wasserstein_scorer
    True
    """
    if isinstance(name, str) and name in SCORERS:
        return SCORERS[name]
    if isinstance(name, str) and name in sklearn.metrics.get_scorer_names():
        return sklearn.metrics.get_scorer(name)
    if callable(name):
        return name
    raise ValueError(
        f"name must be one of {sorted(SCORERS)} or of scikit-learn's scorers, got {name!r}. "
        "See sklearn.metrics.get_scorer_names()."
    )
