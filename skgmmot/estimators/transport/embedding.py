"""Transformers of point clouds into mixtures, and of mixtures into MW2 distances."""

import functools
import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    clone,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._param_validation import HasMethods, Interval
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import check_is_fitted
from tqdm import tqdm

from skgmmot._inputs import arrays
from skgmmot._inputs.dask.tasks import in_tasks
from skgmmot._inputs.mixtures import as_mixtures, as_two_sequences
from skgmmot._inputs.seeds import seed_of
from skgmmot._types import Penalties, RandomState, Samples, fit_context
from skgmmot.estimators._default_mixture import DefaultMixture
from skgmmot.estimators.mixtures.differentiable import DifferentiableGaussianMixture
from skgmmot.estimators.saving import SavedEstimator
from skgmmot.numerics.linalg import safe_sqrt
from skgmmot.numerics.threads import single_threaded_torch, unchanged_settings
from skgmmot.transport.mixtures.pairwise import pairwise_squared


class _OfObjects(TransformerMixin, SavedEstimator):
    """Base of transformers whose samples are point clouds or mixtures, not rows of numbers."""

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags._skip_test = True  # scikit-learn's checks fit arrays of numbers
        return tags


class MixtureEmbedding(DefaultMixture, _OfObjects):
    """Transformer that fits a Gaussian mixture to each of many point clouds.

    Parameters
    ----------
    n_components : int, default=5
        Number of components of each mixture, if ``mixture`` is None.
    mixture : mixture estimator, default=None
        Estimator that is cloned and fitted to each cloud; None is
        ``DifferentiableGaussianMixture(n_components)`` with this ``random_state``.
    n_jobs : int, default=None
        Number of processes that fit; None is one. Without effect on clouds of dask.
    random_state : int, RandomState instance or None, default=None
        Controls the starts of the mixtures, unless ``mixture`` has its own ``random_state``. `fit`
        takes or draws one seed, which all clouds share: the mixture of a cloud does not depend on
        the other clouds, and is the same at every call of `transform`.
    verbose : int, default=0
        1 shows a progress bar over the clouds, unless they are of dask. Iterations are shown by
        ``verbose`` of ``mixture``.

    Attributes
    ----------
    n_features_in_ : int
        Number of features d of the points.

    See Also
    --------
    PairwiseMW2 : The distances between the mixtures.

    Notes
    -----
    A *sample* here is a whole cloud, an array of shape ``(n_points, d)`` with its own number of
    points, and the data ``X`` is a list of them (or an array of objects, or of shape
    ``(n_samples, n_points, d)``). scikit-learn's splitters and searches cut such data as any other.

    Clouds may be dask arrays or data frames. Each is brought into memory and fitted by one task, on
    the current client or on threads, with the result of the same cloud in memory.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.model_selection import cross_val_score
    >>> from sklearn.neighbors import KNeighborsClassifier
    >>> from sklearn.pipeline import make_pipeline
    >>> from skgmmot import MixtureEmbedding, PairwiseMW2
    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(12) % 2
    >>> clouds = [rng.normal(scale=1 + 4 * label, size=(90 + i, 2)) for i, label in enumerate(y)]
    >>> neighbours = KNeighborsClassifier(n_neighbors=3, metric="precomputed")
    >>> model = make_pipeline(MixtureEmbedding(2, random_state=0), PairwiseMW2(), neighbours)
    >>> cross_val_score(model, clouds, y, cv=3)
    array([1., 1., 1.])
    """

    _parameter_constraints: dict = {
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "mixture": [HasMethods(["fit", "score_samples"]), None],
        "n_jobs": [Integral, None],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        n_components: int = 5,
        *,
        mixture: BaseEstimator | None = None,
        n_jobs: int | None = None,
        random_state: RandomState = None,
        verbose: int = 0,
    ) -> None:
        self.n_components = n_components
        self.mixture = mixture
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    @fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: Sequence[Any], y: Samples | None = None) -> Self:
        """Record the number of features; mixtures are fitted by `transform`.

        Parameters
        ----------
        X : sequence of array-like, Tensor or dask collection of shape (n_points, n_features)
            The clouds.
        y : None
            Ignored.

        Returns
        -------
        MixtureEmbedding
            Itself.

        Raises
        ------
        TypeError
            If ``X`` is not a sequence of arrays, or ``mixture`` not a Gaussian mixture.
        ValueError
            If a parameter is invalid, there are no clouds, or they differ in features.
        """
        found = {"n_features_in_": _n_features(X, None), "_seed": seed_of(self.random_state)}
        self._new_mixture()
        vars(self).update(found)
        return self

    def transform(self, X: Sequence[Any]) -> list[Any]:
        """Fit a mixture to each cloud.

        Parameters
        ----------
        X : sequence of array-like, Tensor or dask collection of shape (n_points, n_features)
            The clouds, those of the fit or new.

        Returns
        -------
        list of fitted mixture estimators
            One for each cloud.

        Raises
        ------
        NotFittedError
            Before `fit`.
        TypeError
            If ``X`` is not a sequence of arrays.
        ValueError
            If the clouds differ in features from each other or from the fit, or a mixture cannot be
            fitted to one; the message says to which.

        Warns
        -----
        ConvergenceWarning
            If some fits did not converge: one warning for all of them.
        """
        check_is_fitted(self, "n_features_in_")
        self._validate_params()
        _n_features(X, self.n_features_in_)
        mixture = self._new_mixture()
        caller = os.getpid()
        with (
            _no_convergence_warnings()
        ):  # said once for all clouds; also by threads of this process
            if any(map(arrays.is_dask, X)):
                task = functools.partial(_fitted_in_task, mixture, caller)
                fitted = in_tasks(task, [((i,), cloud) for i, cloud in enumerate(X)])
            else:
                counted = enumerate(X)
                if self.verbose:
                    counted = tqdm(counted, "clouds", len(X))
                jobs = (delayed(_fitted)(clone(mixture), caller, cloud, i) for i, cloud in counted)
                fitted = Parallel(n_jobs=self.n_jobs)(jobs)
        early = [i for i, m in enumerate(fitted) if not getattr(m, "converged_", True)]
        if early:
            warnings.warn(
                f"The mixtures of {len(early)} of {len(fitted)} clouds did not converge (first: "
                f"X[{early[0]}]). Pass a mixture with a larger max_iter or tol.",
                ConvergenceWarning,
                stacklevel=2,
            )
        return fitted

    def _new_mixture(self):
        """The mixture estimator to clone for each cloud; it starts from the seed of the fit."""
        seed = {"random_state": getattr(self, "_seed", self.random_state)}
        if self.mixture is None:
            return self._default_mixture().set_params(**seed)
        if not hasattr(self.mixture, "covariance_type"):
            raise TypeError(
                "mixture must be a Gaussian mixture estimator, got "
                f"{type(self.mixture).__name__}. Pass a DifferentiableGaussianMixture."
            )
        if getattr(self.mixture, "random_state", self) is not None:
            return self.mixture
        return clone(self.mixture).set_params(**seed)

    def _default_mixture(self):
        return DifferentiableGaussianMixture(self.n_components, random_state=self.random_state)


def _no_convergence_warnings():
    """A context without them."""
    return warnings.catch_warnings(action="ignore", category=ConvergenceWarning)


def _fitted(mixture, caller, cloud, i):
    """Fit a mixture to cloud number i.

    Filters of warnings are those of a process, which threads must not change: only processes other
    than the caller's have to be told.
    """
    with nullcontext() if os.getpid() == caller else _no_convergence_warnings():
        try:
            return mixture.fit(cloud)
        except ValueError as error:
            raise ValueError(
                f"X[{i}] must be a cloud that a mixture can be fitted to. {error}"
            ) from error


@torch.enable_grad()
def _fitted_in_task(mixture, caller, cloud, _, i):
    """The same where a task has brought the cloud into memory."""
    return _fitted(clone(mixture), caller, cloud, i)


def _n_features(X, expected):
    """Validate the clouds; return their number of features, which must be as expected."""
    _refuse_other_collections(X)
    if len(X) == 0:
        raise ValueError("X must hold at least one cloud, got none. Pass a list of arrays.")
    for i, cloud in enumerate(X):
        shape = _shape(cloud)
        if len(shape) != 2:
            raise ValueError(
                f"X[{i}] must have shape (n_points, n_features), got "
                f"{shape or _no_matrix(cloud)}. X is a list of clouds, each a matrix"
                + (f": X[{i}][:, None] if points have one feature" if len(shape) == 1 else "")
                + (", or [X] if X is one cloud." if len(shape) == 1 else ".")
            )
        expected = shape[1] if expected is None else expected
        if shape[1] != expected:
            raise ValueError(
                f"X[{i}] must have {expected} feature(s) as the other clouds, got {shape[1]}. "
                "Describe all clouds by the same features."
            )
    return expected


def _refuse_other_collections(X):
    """Raise for what is one cloud, or a collection whose elements are not clouds."""
    is_one = arrays.is_dask(X) and len(_shape(X)) != 3
    if hasattr(X, "groups") and hasattr(X, "get_group"):  # pandas' groupby yields names and rows
        remedy = "Pass [rows[features] for _, rows in X], with the columns of the points."
    elif isinstance(X, Mapping):
        remedy = "Pass list(X.values())."
    elif hasattr(X, "columns") and not arrays.is_dask(X):
        remedy = (
            "That is one cloud: put clouds in a list. Of the groups of a data frame pass [rows["
            "features] for _, rows in frame.groupby(column)]."
        )
    elif is_one or hasattr(X, "fit") or isinstance(X, str) or not hasattr(X, "__len__"):
        remedy = "Put arrays in a list."
    else:
        return
    raise TypeError(f"X must be a sequence of clouds, got {type(X).__name__}. {remedy}")


def _no_matrix(cloud) -> str:
    """What came where a cloud must be."""
    pair = isinstance(cloud, tuple) and len(cloud) == 2 and hasattr(cloud[1], "columns")
    return "a pair of a name and a data frame" if pair else "no matrix"


def _shape(cloud) -> tuple[int, ...]:
    """The shape of an array; empty for what has none, as lists of rows of different lengths."""
    try:
        return tuple(np.shape(cloud))
    except (TypeError, ValueError):
        return ()


class PairwiseMW2(ClassNamePrefixFeaturesOutMixin, _OfObjects):
    """Transformer that computes the MW2 distances of mixtures to those it was fitted to.

    Parameters
    ----------
    reg : float, default=0.0
        Weight of the entropy of the plans; see `skgmmot.MixtureWasserstein`.
    reg_m : float, tuple of two floats or None, default=None
        Penalties of the marginals; see `skgmmot.MixtureWasserstein`.
    squared : bool, default=False
        Whether to return squared distances.

    Attributes
    ----------
    mixtures_ : list of mixtures
        The mixtures of the fit.

    See Also
    --------
    MixtureEmbedding : Makes mixtures of clouds of points.
    skgmmot.MixtureWasserstein : The distance between two mixtures.

    Notes
    -----
    A *sample* here is a mixture: a fitted estimator of this package or of scikit-learn, or a tuple
    ``(weights, means, covariances)``. The distances are what scikit-learn's estimators with
    ``metric='precomputed'`` take: square at the fit, new samples against the training samples
    afterwards. For a kernel, apply ``exp(-gamma * D**2)`` in between (a ``FunctionTransformer``).

    Examples
    --------
    >>> from skgmmot import PairwiseMW2
    >>> mixtures = [([1.0], [[float(m)]], [[[1.0]]]) for m in (0, 3, 7)]
    >>> PairwiseMW2().fit(mixtures[:2]).transform(mixtures)
    array([[0., 3.],
           [3., 0.],
           [7., 4.]])
    """

    _parameter_constraints: dict = {
        "reg": [Interval(Real, 0.0, None, closed="left")],
        "reg_m": [Interval(Real, 0.0, None, closed="right"), tuple, list, None],
        "squared": ["boolean"],
    }

    def __init__(self, reg: float = 0.0, reg_m: Penalties = None, *, squared: bool = False) -> None:
        self.reg = reg
        self.reg_m = reg_m
        self.squared = squared

    @unchanged_settings()
    @fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: Sequence[Any], y: Samples | None = None) -> Self:
        """Store the mixtures to which distances are computed.

        Parameters
        ----------
        X : sequence of fitted mixture estimators or tuples (weights, means, covariances)
            The mixtures.
        y : None
            Ignored.

        Returns
        -------
        PairwiseMW2
            Itself.

        Raises
        ------
        NotFittedError
            If an estimator is not fitted.
        TypeError
            If ``X`` is not a sequence of mixtures.
        ValueError
            If a parameter is invalid, there are no mixtures, or they differ in features.
        """
        as_mixtures(X)
        self.mixtures_ = list(X)
        return self

    @single_threaded_torch()
    def transform(self, X: Sequence[Any]) -> Any:
        """Compute the distances of mixtures to those of the fit.

        Parameters
        ----------
        X : sequence of n fitted mixture estimators or tuples (weights, means, covariances)
            The mixtures.

        Returns
        -------
        array or Tensor of shape (n, n_mixtures)
            Distances in units of the data, or their squares; a tensor, and differentiable, if a
            mixture requires a gradient.

        Raises
        ------
        NotFittedError
            Before `fit`, or if an estimator is not fitted.
        TypeError
            If ``X`` is not a sequence of mixtures.
        ValueError
            If there are no mixtures, or they differ in features from each other or from the fit.
        """
        check_is_fitted(self, "mixtures_")
        self._validate_params()
        return self._distances(X, self.mixtures_)

    @single_threaded_torch()
    def fit_transform(self, X: Sequence[Any], y: Samples | None = None) -> Any:
        """Compute the distances among mixtures, each pair once.

        Parameters
        ----------
        X : sequence of n fitted mixture estimators or tuples (weights, means, covariances)
            The mixtures.
        y : None
            Ignored.

        Returns
        -------
        array or Tensor of shape (n, n)
            A symmetric matrix of distances, or of their squares, as in `transform`.

        Raises
        ------
        ValueError
            As `fit`.
        """
        return self._distances(self.fit(X).mixtures_)

    def _distances(self, mixtures, others=None):
        """Distances of mixtures to others, or to each other, in the kind of array to return."""
        sources, targets, kind = as_two_sequences(mixtures, others, ("X", "mixtures_"))
        squared = pairwise_squared(sources, targets, reg=self.reg, reg_m=self.reg_m)
        return arrays.answer_kind(kind).restore(squared if self.squared else safe_sqrt(squared))

    @property
    def _n_features_out(self):
        return len(self.mixtures_)
