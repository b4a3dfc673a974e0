"""`OTMap` moves samples of one distribution to another; `ot_map` does it between mixtures."""

import functools
from numbers import Integral, Real
from typing import Any, Self, overload

import numpy as np
import torch
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin, clone
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from skgmmot._inputs import arrays, places
from skgmmot._inputs.dask.answers import answers, by_method
from skgmmot._inputs.dask.collections import dtype_of
from skgmmot._inputs.labels import refuse_target
from skgmmot._inputs.mixtures import as_mixture, is_mixture
from skgmmot._types import (
    Array,
    Device,
    Elsewhere,
    Mixture,
    Penalties,
    RandomState,
    Samples,
    fit_context,
)
from skgmmot.estimators.mixtures._base import whole_fit
from skgmmot.estimators.saving import SavedEstimator
from skgmmot.estimators.transport import _domains
from skgmmot.estimators.transport._ends import MapEnds
from skgmmot.estimators.transport._reach import Maps, warn_of_far_images
from skgmmot.estimators.transport._strategies import STRATEGIES
from skgmmot.gaussian.sampling import sample
from skgmmot.numerics import blocks
from skgmmot.numerics.linalg import power_of_two
from skgmmot.numerics.threads import single_threaded_torch
from skgmmot.transport.mixtures.distance import transport_plan
from skgmmot.transport.mixtures.maps import carried_labels
from skgmmot.transport.sliced.directions import directions
from skgmmot.transport.sliced.samples import sliced_wasserstein_of_samples

#: Directions along which `OTMap.score` compares clouds, and the samples it takes of each at most.
SCORE_PROJECTIONS, SCORE_SAMPLES = 100, 10_000


def _counts_classes(transport) -> bool:
    """Whether labels are carried along."""
    return transport.class_wise


class OTMap(MapEnds, OneToOneFeatureMixin, TransformerMixin, SavedEstimator):
    """Map samples to a target distribution by optimal transport between Gaussian mixtures.

    `fit` fits a mixture to the source samples and finds the optimal plan between its components
    and those of the target mixture; `transform` moves samples by the affine maps of that plan.

    Parameters
    ----------
    target : mixture estimator, tuple, array-like of shape (n_samples, n_features), default=None
        Where to move to: a fitted mixture (of this package or of scikit-learn), the tuple
        ``(weights, means, covariances)`` of one, samples, to which a mixture is then fitted, or
        None for the standard normal distribution.
    strategy : {'mean', 'random'}, default='mean'
        ``'mean'`` moves a sample by the average of the maps: smooth, but narrower than the target
        where a source component is split among several target components, since it averages over
        them. ``'random'`` draws one map a sample: it reproduces the target's spread, with noise.
    mixture : mixture estimator, default=None
        What is fitted to samples, cloned each time; None is a `DifferentiableGaussianMixture`
        of 10 components, or of one if ``class_wise``, with this ``random_state`` and ``device``.
        Its parameters can be set as ``mixture__tol`` and so on, also where it is None.
    class_wise : bool, default=False
        Whether the labels ``y`` of the source samples count: a mixture is then fitted to each
        class, target samples get as many components as all classes together, and `predict` carries
        the labels along the plan to target samples. With more than about ten features use tied or
        diagonal covariances (``mixture__covariance_type``): full ones of each class are mostly
        noise, and the map may be worse than none.
    reg : float, default=0.0
        Weight of the plan's entropy, which spreads it over more pairs of components, in squared
        units of the data; 0 is without.
    reg_m : float, tuple of two floats or None, default=None
        Penalties of mass that is made or destroyed instead of moved, of the source and of the
        target, in squared units of the data: about the cost above which it is not moved. ``inf``
        holds a marginal, None holds both. A source component that keeps no mass is still mapped, to
        the nearest.
    shrinkage : {'auto'}, float in [0, 1] or None, default='auto'
        How far covariances that are fitted here to samples are drawn towards a multiple of the
        identity, which keeps the map from stretching noise where samples are few for their
        features. ``'auto'`` takes the share of [3]_ for full and tied covariances of components
        with fewer than 5 samples a feature, and leaves all others as they are. A number is the
        share for all; 0 or None for none. A ``target`` that is a mixture is never changed.
    random_state : int, RandomState instance or None, default=None
        Controls the default mixture's starts and the draws of ``strategy='random'``.
    n_components : int, default=None
        Number of components that are fitted to the source (to each class, if ``class_wise``), and
        to the target; None leaves that of ``mixture``.
    device : str or torch.device, default=None
        Where to compute; None is where the data is.

    Attributes
    ----------
    source_mixture_ : estimator or tuple
        The mixture of the source; if ``class_wise``, those of the classes, joined. With the
        covariances that were shrunk, if any were.
    target_mixture_ : estimator or tuple
        The mixture of the target, likewise.
    plan_ : array or Tensor of shape (K, L)
        The mass moved between components.
    distance_ : float
        MW2 between the two mixtures, in units of the data; the square root of the plan's cost,
        entropy and penalties included, where there are such.
    error_ : float
        A bound, to first order, of the error of ``distance_`` between these mixtures: rounding and
        the plan. Computed when it is first read.
    classes_ : ndarray of shape (n_classes,)
        The labels, if ``class_wise``.
    component_labels_ : ndarray of shape (K,)
        The label of each source component, if ``class_wise``.
    n_features_in_ : int
        Number of features d.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if ``X`` had any.

    See Also
    --------
    ot_map : The same in one call.
    AdaptedClassifier : A classifier of target samples, trained on mapped source samples.
    skgmmot.MixtureWasserstein : The distance that the plan attains.

    Notes
    -----
    Images have the features of the samples, and their names. To move some features only, put the
    map into scikit-learn's ``ColumnTransformer`` and give it a target with these features.

    In a pipeline before a classifier, the classifier is trained on the images of source samples,
    and `predict` maps its argument too: the pipeline is for source samples. For target samples use
    `AdaptedClassifier`, or a pipeline of skada, ``make_da_pipeline(OTMap(), classifier)``, which
    tells the two apart by ``sample_domain``.

    `transform` costs ``O(n K d^2)`` and a few megabytes beyond its result, whatever ``n``.

    References
    ----------
    .. [1] Delon and Desolneux 2020, from a plan to a map (T_mean and T_rand).
    .. [2] Montesuma, Ngole Mboula and Souloumiac 2024, mixtures in domain adaptation.
    .. [3] Chen, Wiesel, Eldar and Hero 2010, oracle approximating shrinkage.

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

    Labels of the source, carried to the target:

    >>> labels = (source[:, 0] > 0).astype(int)
    >>> transport = OTMap(target, class_wise=True, random_state=0).fit(source, labels)
    >>> transport.predict([[1.0, 3.0], [5.0, 3.0]])
    array([0, 1])
    """

    # In pipelines of skada, and where scikit-learn routes metadata.
    __metadata_request__fit = {"sample_domain": True}
    __metadata_request__transform = {"sample_domain": True}

    _parameter_constraints: dict = {
        "target": ["array-like", tuple, torch.Tensor, HasMethods(["score_samples"]), None],
        "strategy": [StrOptions(set(STRATEGIES))],
        "mixture": [HasMethods(["fit", "score_samples"]), None],
        "class_wise": ["boolean"],
        "reg": [Interval(Real, 0.0, None, closed="left")],
        "reg_m": [Interval(Real, 0.0, None, closed="right"), tuple, list, None],
        "shrinkage": [StrOptions({"auto"}), Interval(Real, 0.0, 1.0, closed="both"), None],
        "random_state": ["random_state"],
        "n_components": [Interval(Integral, 1, None, closed="left"), None],
        "device": [str, torch.device, None],
    }

    def __init__(
        self,
        target: Mixture | Samples | None = None,
        *,
        strategy: str = "mean",
        mixture: BaseEstimator | None = None,
        class_wise: bool = False,
        reg: float = 0.0,
        reg_m: Penalties = None,
        shrinkage: str | float | None = "auto",
        random_state: RandomState = None,
        n_components: int | None = None,
        device: Device = None,
    ) -> None:
        self.target = target
        self.strategy = strategy
        self.mixture = mixture
        self.class_wise = class_wise
        self.reg = reg
        self.reg_m = reg_m
        self.shrinkage = shrinkage
        self.random_state = random_state
        self.n_components = n_components
        self.device = device

    def get_params(self, deep: bool = True) -> dict[str, Any]:
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

    def set_params(self, **params: Any) -> Self:
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

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.required = self.class_wise
        return tags

    def __sklearn_clone__(self):
        # A fitted target is data, not a part to be fitted again: cloning must not unfit it.
        params = self.get_params(deep=False)
        target = params.pop("target")
        cloned = {name: clone(value, safe=False) for name, value in params.items()}
        return type(self)(target, **cloned)

    @fit_context(prefer_skip_nested_validation=False)
    def fit(
        self,
        X: Samples | Mixture,
        y: Samples | None = None,
        sample_weight: Samples | None = None,
        *,
        sample_domain: Array | Tensor | int | None = None,
    ) -> Self:
        """Fit the source mixture and the plan to the target.

        Parameters
        ----------
        X : array-like, Tensor or dask collection of shape (n_samples, n_features), or mixture
            Source samples; or, unless ``class_wise``, a fitted mixture estimator or the tuple
            ``(weights, means, covariances)`` of one, in their place.
        y : array-like of shape (n_samples,), default=None
            Labels of the source samples if ``class_wise``, else ignored. The target is no argument
            of `fit` but the parameter ``target``: what looks like one here is refused. A label of
            -1 means that the class is not known, as in scikit-learn: the sample is left out.
        sample_weight : array-like or Tensor of shape (n_samples,), default=None
            Non-negative weights of the source samples: a weight of 2 is a row given twice, 0 a row
            left out. (How far ``shrinkage='auto'`` shrinks goes by ``(sum w)^2 / sum w^2``
            samples, which copies do not raise.) For weights of the target pass a mixture that was
            fitted with them, or ``sample_domain``.
        sample_domain : array-like of int of shape (n_samples,), default=None
            Domains of the samples, as in skada: negative numbers mark samples of the target, others
            those of the source. Labels of the target are ignored, its weights are used. ``target``
            must be None then. None: all samples are of the source.

        Returns
        -------
        OTMap
            The fitted transformer.

        Raises
        ------
        NotFittedError
            If ``target`` or ``X`` is an unfitted estimator.
        ValueError
            If a parameter, ``X``, ``y``, ``sample_weight`` or ``sample_domain`` is invalid, or
            source and target differ in features.
        """
        refuse_target(X, y, sample_weight, self.target)
        target, target_weight, is_given_domains = self.target, None, sample_domain is not None
        if is_given_domains:
            self._refuse_second_target()
            parts = _domains.split(X, y, sample_weight, sample_domain)
            X, y, sample_weight, target, target_weight = parts
        with whole_fit(self) as (fitted, _):
            for name in ("classes_", "component_labels_"):
                vars(fitted).pop(name, None)
            source = fitted._source_mixture(X, y, sample_weight)
            given = arrays.kind_of(X), arrays.kind_of(target)
            fitted._set_plan(source, fitted._target_mixture(target, target_weight), *given)
            fitted._is_given_domains = is_given_domains
        return self

    def _refuse_second_target(self):
        """Refuse a target beside samples of one."""
        if self.target is not None:
            raise ValueError(
                "target must be None where sample_domain marks the samples of the target, got "
                f"{type(self.target).__name__}. Use OTMap(), or leave out sample_domain and the "
                "target's samples."
            )

    def _set_plan(self, source, target, *given):
        """Find the plan between two mixtures and show it; the kinds of what was given count."""
        (a, kind_a), (b, kind_b) = as_mixture(source, "source"), as_mixture(target, "target")
        kind = arrays.answer_kind(kind_a, kind_b, *given)
        a, b = (m.detach().to(device=kind.device) for m in (a, b))
        plan = transport_plan(a, b, reg=self.reg, reg_m=self.reg_m)
        self._maps = Maps(a, b, plan)
        self.source_mixture_, self.target_mixture_ = source, target
        self.plan_ = kind.restore(plan.coupling)
        self.distance_ = float(plan.cost.clamp(min=0).sqrt())

    @property
    def error_(self) -> float:
        """A bound of the error of ``distance_``."""
        check_is_fitted(self, "plan_")
        if self._maps.error is None:
            raise AttributeError(
                "error_ must be of a map whose plan was computed by this release, got one from a "
                "file of an earlier one. Fit it again."
            )
        return self._maps.error

    def _state(self):
        # what the maps are between; they are worked out again from it
        state = super()._state()
        if "_maps" in state:
            maps = state.pop("_maps")
            state["_ends"] = *maps.ends, maps.error
        return state

    def _set_state(self, state):
        ends = state.pop("_ends", None)
        super()._set_state(state)
        if ends is not None:
            self._maps = Maps(*ends)

    @overload
    def fit_transform(
        self,
        X: Elsewhere,
        y: Samples | None = ...,
        sample_weight: Samples | None = ...,
        *,
        sample_domain: Array | Tensor | int | None = ...,
    ) -> Any: ...

    @overload
    def fit_transform(
        self,
        X: Array,
        y: Samples | None = ...,
        sample_weight: Samples | None = ...,
        *,
        sample_domain: Array | Tensor | int | None = ...,
    ) -> np.ndarray: ...

    def fit_transform(self, X, y=None, sample_weight=None, *, sample_domain=None):
        """Fit to samples, and move those of the source to the target.

        Parameters
        ----------
        X : array-like, Tensor or dask collection of shape (n_samples, n_features)
            As for `fit`.
        y : array-like of shape (n_samples,), default=None
            As for `fit`.
        sample_weight : array-like or Tensor of shape (n_samples,), default=None
            As for `fit`.
        sample_domain : array-like of int of shape (n_samples,), default=None
            As for `fit`.

        Returns
        -------
        array or Tensor of shape (n_samples, n_features)
            As of `transform`.
        """
        self.fit(X, y, sample_weight, sample_domain=sample_domain)
        return self.transform(X, sample_domain=sample_domain)

    @overload
    def transform(
        self, X: Elsewhere, *, sample_domain: Array | Tensor | int | None = ...
    ) -> Any: ...

    @overload
    def transform(
        self, X: Array, *, sample_domain: Array | Tensor | int | None = ...
    ) -> np.ndarray: ...

    @single_threaded_torch()
    def transform(self, X, *, sample_domain=None):
        """Move samples to the target.

        Parameters
        ----------
        X : array-like, Tensor, dask array or data frame of shape (n_samples, n_features)
            Samples, of the source or new.
        sample_domain : array-like of int of shape (n_samples,), default=None
            Domains of the samples, as for `fit`: those of the target stay where they are. None: all
            are of the source; but after a fit with ``sample_domain`` all are of the target, as in
            skada, and stay.

        Returns
        -------
        array or Tensor of shape (n_samples, n_features)
            Their images, in the dtype of ``X``; constants, also where ``X`` requires a gradient.
            Of samples of dask, a lazy dask array.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If ``X`` is invalid.

        Warns
        -----
        UserWarning
            If an image lies ten times further out than the target reaches (its components' means
            and five deviations around them): where a component of the source is thin against the
            target's, the map stretches whatever is off it.
        """
        check_is_fitted(self, "plan_")
        moved = None
        if sample_domain is not None:
            moved = _domains.is_source(sample_domain, X)
        elif getattr(self, "_is_given_domains", False):  # not in files of earlier releases
            moved = _domains.is_source(-1, X)
        return self._move(X, "there", "target_reach", moved)

    @overload
    def inverse_transform(self, X: Elsewhere) -> Any: ...

    @overload
    def inverse_transform(self, X: Array) -> np.ndarray: ...

    @single_threaded_torch()
    def inverse_transform(self, X):
        """Move samples of the target to the source, by the maps of the transposed plan.

        Parameters
        ----------
        X : array-like, Tensor, dask array or data frame of shape (n_samples, n_features)
            Samples of the target.

        Returns
        -------
        array or Tensor of shape (n_samples, n_features)
            Their images among the source, as in `transform`. They undo `transform` exactly between
            single Gaussians; elsewhere samples of the target become like samples of the source,
            not each the one that it came from. Of samples of dask, a lazy dask array.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If ``X`` is invalid, or a covariance of the target is singular.
        """
        return self._move(X, "back", "source_reach")

    def _move(self, X, way, reach, moved=None):
        """Samples moved by one of the maps, or some of them; those of dask later."""
        check_is_fitted(self, "plan_")
        self._validate_params()
        random, seed = STRATEGIES[self.strategy].n_uniforms > 0, None
        if random:
            seed = check_random_state(self.random_state).randint(2**31 - 1)
        if arrays.is_dask(X):
            getattr(self._maps, way)  # an error, if any, is raised at once
            images = functools.partial(_images, way=way, reach=reach, seed=seed)
            example = np.empty((0, self.n_features_in_), dtype_of(X))
            return answers(self, X, images, example, by_row=random)
        X, kind = arrays.samples(self, X, reset=False)
        return kind.restore(self._some_images(X.detach(), moved, way, reach, seed), copy=False)

    def _some_images(self, X, moved, *options):
        """The images of the samples that are moved, and the others."""
        if moved is None:
            return self._images(X, *options)
        X, moved = X.clone(), torch.from_numpy(moved).to(X.device)
        if moved.any():
            X[moved] = self._images(X[moved], *options)
        return X

    def _images(self, X, way, reach, seed, first_row=0):
        """The images of samples by the present strategy, to about where a mixture reaches."""
        mapping = getattr(self._maps, way).for_samples(X)
        images = STRATEGIES[self.strategy].images(mapping, X, seed, first_row)
        warn_of_far_images(images, getattr(self._maps, reach))
        return images

    @overload
    def predict(self, X: Elsewhere) -> Any: ...

    @overload
    def predict(self, X: Array) -> np.ndarray: ...

    @available_if(_counts_classes)
    @single_threaded_torch()
    def predict(self, X):
        """Predict the labels of target samples, transported from the source by the plan.

        Parameters
        ----------
        X : array-like, Tensor, dask array or data frame of shape (n_samples, n_features)
            Samples of the target.

        Returns
        -------
        ndarray of shape (n_samples,)
            The most probable of ``classes_``; only with ``class_wise=True``. Of samples of
            dask, a lazy dask array.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If ``X`` is invalid, or a covariance of the target is singular.
        """
        if arrays.is_dask(X):
            return answers(self, X, by_method("predict"))
        proba = arrays.as_tensor(self.predict_proba(X))
        return self.classes_[proba.argmax(1).cpu().numpy()]

    @overload
    def predict_proba(self, X: Elsewhere) -> Any: ...

    @overload
    def predict_proba(self, X: Array) -> np.ndarray: ...

    @available_if(_counts_classes)
    @single_threaded_torch()
    def predict_proba(self, X):
        """Compute the probabilities of the labels of target samples.

        ``sum_l gamma_l(x) sum_k P_kl [label of k is c] / sum_k P_kl`` with the responsibilities
        ``gamma_l`` of the target's components.

        Parameters
        ----------
        X : array-like, Tensor, dask array or data frame of shape (n_samples, n_features)
            Samples of the target.

        Returns
        -------
        array or Tensor of shape (n_samples, n_classes)
            Probabilities, in the order of ``classes_``; only with ``class_wise=True``. Of samples
            of dask, a lazy dask array.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If ``X`` is invalid, or a covariance of the target is singular.
        """
        check_is_fitted(self, "component_labels_")
        if arrays.is_dask(X):
            return answers(self, X, by_method("predict_proba"))
        X, kind = arrays.samples(self, X, reset=False)
        X, codes = X.detach(), np.searchsorted(self.classes_, self.component_labels_)
        labels, mapping = torch.from_numpy(codes).to(X.device), self._maps.back.for_samples(X)
        carried = blocks.map_rows(
            lambda block: carried_labels(mapping, labels, block),
            mapping.row_size,
            X,
            min_rows=mapping.e_step.min_rows,
        )
        return kind.restore(carried)

    @single_threaded_torch()
    def score(self, X: Samples, y: Samples | None = None) -> float:
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
        mapped = self._move(self._in_memory(X), "there", "target_reach")
        mapped = _thinned(arrays.as_tensor(mapped).double())
        if self.target is None or is_mixture(self.target, "target"):
            params, _ = as_mixture(self.target_mixture_, "target")
            params = params.to(device="cpu")  # the same numbers are drawn for every device
            generator = torch.Generator().manual_seed(0)
            target, _ = sample(params, len(mapped), generator=generator)
        else:
            target = self._in_memory(self.target)
            target = arrays.as_tensor(arrays.companion(self, target, "target"))
            target = _thinned(target)
        along = directions(
            "quasi",
            SCORE_PROJECTIONS,
            mapped.shape[1],
            generator=torch.Generator().manual_seed(0),
        )
        target = target.to(mapped)
        unit = power_of_two(float(torch.cat([mapped, target]).abs().max()))  # squares may overflow
        squared = sliced_wasserstein_of_samples(mapped / unit, target / unit, along).mean()
        return -unit * float(squared.sqrt())

    def _in_memory(self, X):
        """Samples, of those of dask as many as `score` takes."""
        if not arrays.is_dask(X):
            return X
        samples, _ = places.out_of_core(self, X, reset=False)
        return samples.take(np.sort(_some_rows(samples.n_samples).numpy()))[0].numpy()


def _images(transport, X, first_row=0, **options):
    """The images of a block of samples of dask."""
    X, kind = arrays.samples(transport, X, reset=False)
    images = transport._images(X.detach(), first_row=first_row, **options)
    return kind.restore(images, copy=False)


def _some_rows(n_samples):
    """At most `SCORE_SAMPLES` rows, chosen at random but always the same."""
    generator = torch.Generator().manual_seed(0)
    return torch.randperm(n_samples, generator=generator)[:SCORE_SAMPLES]


def _thinned(X):
    """These rows."""
    return X[_some_rows(len(X)).to(X.device)]


def ot_map(source: Mixture | Samples, target: Mixture | Samples | None, **options: Any) -> OTMap:
    """Return the fitted `OTMap` from a source to a target.

    Parameters
    ----------
    source : fitted mixture estimator, tuple, or array-like of shape (n_samples, n_features)
        Where to move from: a fitted mixture, the tuple ``(weights, means, covariances)`` of one,
        or samples, to which a mixture is then fitted.
    target : fitted mixture estimator, tuple, or array-like of shape (n_samples, n_features)
        Where to move to, likewise.
    **options : dict
        The other parameters of `OTMap`.

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
    return OTMap(target, **options).fit(source)
