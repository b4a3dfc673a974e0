"""`OTMap` moves samples of one distribution to another; `ot_map` does it between mixtures."""

import numpy as np
import ot
import torch
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    _fit_context,
    clone,
)
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import HasMethods, StrOptions
from sklearn.utils.validation import check_is_fitted

from skgmmot import _arrays, _engine
from skgmmot.estimators._base import as_mixture, earlier_fit_kept, is_mixture
from skgmmot.estimators.differentiable import DifferentiableGaussianMixture
from skgmmot.functional.mixture import sample
from skgmmot.functional.mixture_ot import mean_map, mixture_map, random_map, transport_plan

METHODS = {"mean": mean_map, "random": random_map}

#: Components of the mixtures that `OTMap` fits unless told otherwise.
DEFAULT_COMPONENTS = 10
#: Directions along which `OTMap.score` compares clouds, and the samples it takes of each at most.
SCORE_PROJECTIONS, SCORE_SAMPLES = 100, 10_000


class OTMap(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Map samples to a target distribution by optimal transport between Gaussian mixtures.

    `fit` fits a mixture to the source samples and finds the optimal plan between its components
    and those of the target mixture; `transform` moves samples by the affine maps of that plan.

    Parameters
    ----------
    target : mixture estimator, tuple, array-like of shape (n_samples, n_features), default=None
        Where to move to: a fitted mixture (of this package or of scikit-learn), the tuple
        ``(weights, means, covariances)`` of one, samples, to which a mixture is then fitted, or
        None for the standard normal distribution.
    method : {'mean', 'random'}, default='mean'
        ``'mean'`` moves a sample by the average of the maps: smooth, but narrower than the target
        where a source component is split among several target components, since it averages over
        them. ``'random'`` draws one map a sample: it reproduces the target's spread, with noise.
    mixture : mixture estimator, default=None
        What is fitted to samples, cloned each time; None is
        ``DifferentiableGaussianMixture(n_components=10)`` with this ``random_state`` and
        ``device``.
    random_state : int, RandomState instance or None, default=None
        Controls the default mixture's starts and the draws of ``method='random'``.
    device : str or torch.device, default=None
        Where to compute; None is where the data is.

    Attributes
    ----------
    source_mixture_ : estimator or tuple
        The mixture of the source.
    target_mixture_ : estimator or tuple
        The mixture of the target.
    plan_ : array or Tensor of shape (K, L)
        The mass moved between components.
    distance_ : float
        MW2 between the two mixtures, in units of the data.
    n_features_in_ : int
        Number of features d.

    See Also
    --------
    ot_map : The same from two mixtures, without data.
    skgmmot.MixtureWasserstein : The distance that the plan attains.

    Notes
    -----
    `transform` costs ``O(n K d^2)`` and a few megabytes beyond its result, whatever ``n``.

    References
    ----------
    .. [1] Delon and Desolneux 2020, from a plan to a map (T_mean and T_rand).

    Examples
    --------
    >>> import numpy as np
    >>> from skgmmot import DifferentiableGaussianMixture, OTMap
    >>> rng = np.random.default_rng(0)
    >>> source, target = rng.normal(size=(500, 2)), 3 + 2 * rng.normal(size=(500, 2))
    >>> transport = OTMap(target, mixture=DifferentiableGaussianMixture()).fit(source)
    >>> mapped = transport.transform(source)
    >>> bool(np.allclose(mapped.mean(0), target.mean(0)))
    True
    """

    _parameter_constraints: dict = {
        "target": ["array-like", tuple, torch.Tensor, HasMethods(["score_samples"]), None],
        "method": [StrOptions(set(METHODS))],
        "mixture": [HasMethods(["fit", "score_samples"]), None],
        "random_state": ["random_state"],
        "device": [str, torch.device, None],
    }

    def __init__(self, target=None, *, method="mean", mixture=None, random_state=None, device=None):
        self.target = target
        self.method = method
        self.mixture = mixture
        self.random_state = random_state
        self.device = device

    def get_params(self, deep=True):
        """Get the parameters; a fitted target is data, and its own are not among them.

        Parameters
        ----------
        deep : bool, default=True
            Whether to include the parameters of ``mixture``.

        Returns
        -------
        dict
            Parameters by name.
        """
        params = super().get_params(deep)
        return {name: v for name, v in params.items() if not name.startswith("target__")}

    def set_params(self, **params):
        """Set parameters.

        Parameters
        ----------
        **params : dict
            Parameters by name, those of ``mixture`` as ``mixture__name``.

        Returns
        -------
        OTMap
            Itself.

        Raises
        ------
        ValueError
            For an unknown parameter, or one of a fitted target.
        """
        if any(name.startswith("target__") for name in params):
            raise ValueError(
                f"parameters must not be those of a fitted target, got {sorted(params)}. Pass the "
                "target as samples and set those of mixture."
            )
        return super().set_params(**params)

    def __sklearn_clone__(self):
        # A fitted target is data, not a part to be fitted again: cloning must not unfit it.
        params = self.get_params(deep=False)
        target = params.pop("target")
        cloned = {name: clone(value, safe=False) for name, value in params.items()}
        return type(self)(target, **cloned)

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y=None):
        """Fit the source mixture and the plan to the target.

        Parameters
        ----------
        X : array-like or Tensor of shape (n_samples, n_features)
            Source samples.
        y : None
            Ignored.

        Returns
        -------
        OTMap
            The fitted transformer.

        Raises
        ------
        NotFittedError
            If ``target`` is an unfitted estimator.
        ValueError
            If a parameter or ``X`` is invalid, or source and target differ in features.
        """
        with earlier_fit_kept(self):
            tensor, kind = _arrays.samples(self, X, reset=True, min_samples=2)
            target = self._target_mixture()
            source = self._new_mixture("X").fit(kind.restore(tensor.detach()))
            self._set_plan(source, target)
        return self

    def _target_mixture(self):
        """The target as a fitted estimator or a tuple, with the features of the fit."""
        if self.target is None:
            d = self.n_features_in_
            return np.ones(1), np.zeros((1, d)), np.eye(d)[None]
        if not is_mixture(self.target):
            return self._new_mixture("target").fit(_arrays.companion(self, self.target, "target"))
        as_mixture(self.target, "target")
        names = [getattr(e, "feature_names_in_", None) for e in (self, self.target)]
        if all(n is not None for n in names) and not np.array_equal(*names):
            raise ValueError(
                f"target must be fitted to the features of X, {list(names[0])}, got "
                f"{list(names[1])}. Use the same columns in the same order."
            )
        return self.target

    def _new_mixture(self, name):
        """An unfitted mixture for the samples of that name."""
        if self.mixture is None:
            default = {"random_state": self.random_state, "device": self.device}
            return DifferentiableGaussianMixture(n_components=DEFAULT_COMPONENTS, **default)
        if not hasattr(self.mixture, "covariance_type"):
            raise TypeError(
                f"mixture must be a Gaussian mixture estimator for {name}, got "
                f"{type(self.mixture).__name__}. Pass a DifferentiableGaussianMixture."
            )
        return clone(self.mixture)

    def _set_plan(self, source, target):
        """Find the plan between two mixtures and show it."""
        (a, kind), (b, _) = as_mixture(source, "source"), as_mixture(target, "target")
        a, b = (m.detach().to(device=kind.device) for m in (a, b))
        plan = transport_plan(a, b)
        self._mapping = mixture_map(a, b, plan)
        self.source_mixture_, self.target_mixture_ = source, target
        self.plan_ = kind.restore(plan.coupling)
        self.distance_ = float(plan.cost.sqrt())

    def transform(self, X):
        """Move samples to the target.

        Parameters
        ----------
        X : array-like or Tensor of shape (n_samples, n_features)
            Samples, of the source or new.

        Returns
        -------
        array or Tensor of shape (n_samples, n_features)
            Their images, in the kind and dtype of ``X``; constants, also where ``X`` requires a
            gradient.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If ``X`` is invalid.
        """
        check_is_fitted(self, "plan_")
        self._validate_params()
        X, kind = _arrays.samples(self, X, reset=False)
        X = X.detach()
        mapping = self._mapping.to(X)
        rows = [X]
        if self.method == "random":
            rng = check_random_state(self.random_state)
            rows.append(torch.from_numpy(rng.uniform(size=(len(X), 2))).to(X.device))
        move = METHODS[self.method]
        images = _engine.map_rows(
            lambda *block: move(mapping, *block), mapping.source.means.numel(), *rows
        )
        return kind.restore(images)

    def score(self, X, y=None):
        """Compare mapped samples with the target: larger is better, 0 if they are the same.

        Parameters
        ----------
        X : array-like or Tensor of shape (n_samples, n_features)
            Source samples, held out or not.
        y : None
            Ignored.

        Returns
        -------
        float
            Minus the sliced Wasserstein distance, over 100 directions, between ``transform(X)``
            and the target's samples (drawn from it if it is a mixture), in units of the data. At
            most 10,000 samples of each count. What is drawn is the same at every call; two draws
            of one distribution do not reach 0 but about minus its spread over ``sqrt(n)``.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If ``X`` is invalid.
        """
        mapped = _thinned(_arrays.as_tensor(self.transform(X)).double())
        if self.target is None or is_mixture(self.target):
            params, _ = as_mixture(self.target_mixture_, "target")
            generator = torch.Generator(params.means.device).manual_seed(0)
            target, _ = sample(params, len(mapped), generator=generator)
        else:
            target = _arrays.as_tensor(_arrays.companion(self, self.target, "target"))
            target = _thinned(target)
        distance = ot.sliced_wasserstein_distance(
            mapped, target.to(mapped), n_projections=SCORE_PROJECTIONS, seed=0
        )
        return -float(distance)

    @property
    def _n_features_out(self):
        return self.n_features_in_


def _thinned(X):
    """At most `SCORE_SAMPLES` rows, chosen at random but always the same."""
    generator = torch.Generator().manual_seed(0)
    return X[torch.randperm(len(X), generator=generator)[:SCORE_SAMPLES].to(X.device)]


def ot_map(source, target, *, method="mean", mixture=None, random_state=None, device=None):
    """Return the fitted `OTMap` from a source to a target.

    Parameters
    ----------
    source : fitted mixture estimator, tuple, or array-like of shape (n_samples, n_features)
        Where to move from: a fitted mixture, the tuple ``(weights, means, covariances)`` of one,
        or samples, to which a mixture is then fitted.
    target : fitted mixture estimator, tuple, or array-like of shape (n_samples, n_features)
        Where to move to, likewise.
    method : {'mean', 'random'}, default='mean'
        How samples are moved; see `OTMap`.
    mixture : mixture estimator, default=None
        What is fitted to samples; see `OTMap`.
    random_state : int, RandomState instance or None, default=None
        Controls what is random; see `OTMap`.
    device : str or torch.device, default=None
        Where to compute; None is where the data is.

    Returns
    -------
    OTMap
        Ready to `OTMap.transform`.

    Raises
    ------
    NotFittedError
        If a mixture is an unfitted estimator.
    ValueError
        If a mixture or a parameter is invalid, or source and target differ in dimension.

    See Also
    --------
    OTMap : The transformer, for pipelines.

    References
    ----------
    .. [1] Delon and Desolneux 2020, from a plan to a map (T_mean and T_rand).

    Examples
    --------
    >>> from skgmmot import ot_map
    >>> source = ([1.0], [[0.0, 0.0]], [[[1.0, 0.0], [0.0, 1.0]]])
    >>> target = ([1.0], [[5.0, 0.0]], [[[4.0, 0.0], [0.0, 1.0]]])
    >>> ot_map(source, target).transform([[1.0, 1.0]])
    array([[7., 1.]])
    """
    transport = OTMap(
        target, method=method, mixture=mixture, random_state=random_state, device=device
    )
    if not is_mixture(source):
        return transport.fit(source)
    transport._validate_params()
    params, _ = as_mixture(source, "source")
    transport.n_features_in_ = params.means.shape[1]
    transport._set_plan(source, transport._target_mixture())
    return transport
