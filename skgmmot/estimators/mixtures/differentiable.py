"""`DifferentiableGaussianMixture`: scikit-learn's Gaussian mixture, on torch, with gradients."""

import functools
import math
import os
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
import torch
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from skgmmot._inputs import arrays, places
from skgmmot._inputs.labels import classes_of
from skgmmot._types import Array, Device, Path, RandomState, Samples
from skgmmot.estimators.classes import CLASSES, ClassPredictor
from skgmmot.estimators.mixtures import _checkpoint
from skgmmot.estimators.mixtures._base import CovarianceTypeName
from skgmmot.estimators.mixtures._fit import Fit, check_enough
from skgmmot.estimators.mixtures._inference import MaximumLikelihood
from skgmmot.estimators.mixtures._missing import (
    Imputing,
    check_observed,
    refuse_missing,
    to_start_from,
)
from skgmmot.estimators.mixtures._partial_fit import STATE, FittedByBlocks
from skgmmot.estimators.starts import drawing, earlier, held_parameters, initial_values, units
from skgmmot.fitting.em.e_steps import E_STEPS, Gradient
from skgmmot.fitting.em.entropic import balance_gap_bound
from skgmmot.fitting.em.fit import fit_from_starts, measured
from skgmmot.fitting.em.gradient.movement import STRATEGIES, Request
from skgmmot.fitting.em.iterations import ACCELERATIONS
from skgmmot.fitting.em.prior import PRIORS, Prior, check_prior
from skgmmot.fitting.em.rows import EM
from skgmmot.fitting.em.sinkhorn import SinkhornEM, untilted
from skgmmot.fitting.groups import WHOLE, Grouped
from skgmmot.fitting.incomplete import ObservedSums, Together, n_informative, together
from skgmmot.fitting.labels import Labelling, check_weights
from skgmmot.fitting.robust.noise import NOISES, UniformNoise, check_noise, clear_of_noise
from skgmmot.fitting.samples import InMemory
from skgmmot.fitting.stream import bounds
from skgmmot.gaussian.incomplete import NO_NOISE, by_pattern
from skgmmot.numerics import blocks
from skgmmot.numerics.runs import Runs
from skgmmot.numerics.threads import single_threaded_torch

#: Fits of fewer numbers in samples, times components, spend their time around the arithmetic; each
#: pass over them is one block.
SMALL = 2**15
#: Passes that may be spent on how far a fit is from its fixed point.
MAX_CERTIFY = 1000
#: Attributes that only fits with known errors have.
OF_ERRORS = ("solution_", "error_")
#: Largest variance of a feature, and inverse of the smallest one, for a gradient.
MOST_VARIANCE = 1e120
#: Attributes that only fits with noise have.
OF_NOISE = ("noise_weight_", "noise_log_density_", "noise_bounds_")
EMPTY = (
    "n_components must be at most the number of clusters that the start finds, got components "
    "without samples: {} of {}. They have weight zero and are never predicted. Use fewer "
    "components, another init_params, or n_init > 1."
)


class DifferentiableGaussianMixture(ClassPredictor, MaximumLikelihood, Imputing, FittedByBlocks):
    """Gaussian mixture fitted by EM in torch, differentiable with respect to the data.

    A drop-in replacement for `sklearn.mixture.GaussianMixture`: the same parameters, attributes and
    starts, and numbers that are equal to rounding, with the exceptions that the user guide lists
    under "What is different". Given a tensor that requires a gradient, the fitted ``weights_``,
    ``means_`` and ``covariances_`` are on its graph.

    Parameters
    ----------
    n_components : int, default=1
        Number of components K.
    covariance_type : {'full', 'tied', 'diag', 'spherical', 'lowrank'}, default='full'
        What the components' covariances may be. 'lowrank' is a mixture of factor analysers: each
        covariance is ``F @ F.T + diag(psi)`` with ``rank`` columns in ``F``, for many features.
    tol : float, default=1e-3
        EM stops when the mean log-likelihood changes by less than this in one iteration.
    reg_covar : float, default=1e-6
        Added to the variances, in squared units of ``X``.
    max_iter : int, default=100
        Largest number of EM iterations; 0 keeps the start.
    n_init : int, default=1
        Number of starts; the fit of largest lower bound is kept.
    init_params : {'kmeans', 'k-means++', 'random', 'random_from_data', 'sinkhorn'} or callable, \
            default='kmeans'
        How to start. ``'sinkhorn'`` runs Sinkhorn-EM, of equal weights or ``weights_init``, from
        small covariances of the data's shape and k-means in its metric: slower than k-means,
        independent of the features' scales and (full, tied) directions, and mostly near the
        best likelihood. Given means and precisions start its first run only. A callable
        ``init_params(X, n_components, random_state)`` returns labels ``(n_samples,)`` from 0 to
        K - 1, or responsibilities ``(n_samples, K)``; ``X`` is a copy of the samples in the kind of
        array of the results, and ``random_state`` one ``RandomState`` for all runs.
    weights_init : array-like of shape (n_components,), default=None
        Weights to start from, and to keep if ``fixed_weights``.
    means_init : array-like of shape (n_components, n_features), default=None
        Means to start from.
    precisions_init : array-like, default=None
        Inverse covariances to start from, in the shape of ``covariances_``.
    random_state : int, RandomState instance or None, default=None
        Controls the starts and `sample`.
    warm_start : bool, default=False
        Whether a further `fit` starts from the last solution.
    verbose : int, default=0
        1 prints the iterations, 2 also times and changes.
    verbose_interval : int, default=10
        Iterations between prints.
    e_step : {'posterior', 'sinkhorn'}, default='posterior'
        What responsibilities are: posterior probabilities, or the plan of entropic transport that
        gives every component its weight of the samples (Sinkhorn-EM). The weights then stay
        ``weights_init``, or uniform; an iteration takes three passes or more, and the fit seldom
        depends on its start.
    acceleration : {'squarem', 'newton'}, default=None
        Whether to extrapolate EM: the same likelihood in fewer passes over the data where
        components overlap and ``tol`` is small, never a smaller likelihood from one iteration to
        the next (than ``reg_covar`` lets EM itself have), but other numbers than scikit-learn's.
        'newton' follows the path of EM with the derivative of an iteration, takes a tenth of the
        passes or less, and changes ``tol``: it stops when the mean log-likelihood should grow by
        less on all the way to its limit, not in one iteration.
    gradient : {'implicit', 'automatic', 'one_step', 'natural'}, default='implicit'
        How the fit is differentiated when ``X`` (or ``sample_weight``) is a tensor that requires a
        gradient: by the implicit function theorem, through all iterations, or through the last
        one. 'natural' is no derivative, but the movement of ``X`` for a flow with
        ``fixed_weights``. Starts are constants, and of several starts the best run is
        differentiated.
    gradient_tol : float, default=1e-6
        For ``gradient='implicit'`` and 'natural': relative error accepted in the gradient. Where
        one is asked for, the fit is polished and the adjoint equation solved until it should be
        smaller; a warning says where that failed.
    fixed_weights : bool or array-like of bool of shape (n_components,), default=False
        Whether the weights stay ``weights_init``, or uniform: responsibilities use them and EM
        leaves them. A mask has those of its components stay ``weights_init``; the others share the
        rest.
    partial_fit_decay : float, default=0.6
        How `partial_fit` averages: its block t enters with the step
        ``(t + 2) ** -partial_fit_decay``. Above 0.5, where it follows the latest blocks, and at
        most 1, where all count alike.
    checkpoint : str or path-like, default=None
        File in which `fit` keeps its state. After an interruption the next fit of the same
        parameters and samples continues from it, with the same bits as one that was never
        interrupted; after the end of the fit it returns the result at once. A fit of other
        parameters or samples refuses the file. None keeps nothing.
    checkpoint_every : int, default=1
        Iterations between two writings of the checkpoint.
    fixed_means : bool or array-like of bool of shape (n_components,), default=False
        Whether the means stay ``means_init``, bit by bit: all, or those of a mask. Covariances are
        then estimated about them. What is not given stays as in the last fit if ``warm_start``.
    fixed_covariances : bool or array-like of bool of shape (n_components,), default=False
        Whether the covariances stay the inverses of ``precisions_init``: all, or those of a mask;
        a tied one stays or does not.
    prior : {'none', 'auto'} or Prior, default='none'
        Conjugate prior of weights, means and covariances, with which the fit has the largest
        posterior density, see `skgmmot.Prior`. It keeps components from collapsing onto a few
        samples. 'auto' is ``Prior()``, that of Fraley and Raftery; ``score``, ``bic`` and ``aic``
        remain those of the likelihood.
    labels : {'ignore', 'y'}, default='ignore'
        What ``y`` is to `fit`: ignored, as in scikit-learn, or the classes of the samples, of which
        some are known. With 'y' each sample of known class belongs to one of the components of its
        class, the others are shared among all components as ever (semi-supervised learning), and
        `predict_class` predicts classes.
    components_of_class : dict, default=None
        For ``labels='y'``: the components of each class, as ``{'a': [0, 1], 'b': [2]}``. None gives
        each class one, in sorted order. Components of no class are for samples of unknown class
        alone, and so are those of a class that no sample has.
    rank : int, default=1
        Number of factors r of ``covariance_type='lowrank'``, less than that of the features; other
        types ignore it.
    noise : {'none', 'uniform'} or UniformNoise, default='none'
        Whether there is uniform noise beside the components, so that outliers change neither means
        nor covariances. 'uniform' fills the box around the samples, and its weight is fitted;
        `skgmmot.UniformNoise` has its box, density and weight. ``weights_`` sum to one over the
        components; samples, distances and maps are those of the components alone.
    missing_values : {'error', 'nan'} or NaN, default='error'
        Whether entries of ``X`` may be missing at random, as NaN: 'nan', or ``np.nan`` as in
        scikit-learn, fits by exact EM over what is observed of each sample, and predicts by
        marginalising. Starts are found from samples whose missing entries are estimated, which is
        also what a callable ``init_params`` gets. See also `impute`.
    certify : bool, default=False
        Whether to measure how far the fit is from its fixed point, by more passes over the samples:
        a few where EM is fast, up to 1000 where it is slow. The fit stays the same, and
        ``solution_`` and ``error_`` say what was found.
    device : str or torch.device, default=None
        Where to compute; None is where the data is.

    Attributes
    ----------
    weights_ : array or Tensor of shape (n_components,)
        Weights of the components.
    means_ : array or Tensor of shape (n_components, n_features)
        Means.
    covariances_ : array or Tensor
        Covariances: ``(K, d, d)`` if full, ``(d, d)`` if tied, ``(K, d)`` if diag, ``(K,)`` if
        spherical; if lowrank ``(K, d, rank + 1)``, the columns of ``F``, then ``psi``.
    precisions_ : array or Tensor
        Inverse covariances, in the same shape; none if lowrank.
    precisions_cholesky_ : array or Tensor
        Factors ``P`` of the precisions, ``P @ P.T``, in the same shape; none if lowrank.
    converged_ : bool
        Whether the best fit converged; False after `partial_fit`.
    n_iter_ : int
        Iterations of the best fit, each one pass over the data (``acceleration='newton'`` takes
        others for derivatives); each block of `partial_fit` after
        it adds one.
    lower_bound_ : float
        Mean log-likelihood of the best fit, before its last M-step; for ``e_step='sinkhorn'``,
        minus the balanced transport cost, which bounds it from below. With a prior, its
        log-density over the number of samples is added: the mean log-posterior up to a constant.
        After `partial_fit`, the running average over the blocks, each before its own step.
    lower_bounds_ : list of float
        The same after each of its iterations (extrapolations that were dropped left out).
    entropic_ot_gap_ : float
        How far the best fit is from balance, where each component receives its weight: 0 at a
        fixed point of EM whose weights are free. For ``e_step='sinkhorn'``, what `entropic_ot_gap`
        gives on the samples of the fit. Else a lower bound of that from the last pass, which costs
        nothing: ``sum_k w_k log(w_k / share_k)``, before the last M-step like ``lower_bound_``.
    solution_ : Solution
        With ``certify``, and where a gradient was asked for: how far the fit may be from its fixed
        point (``distance``, in units of the spread of the components, see the user guide), how much
        ``lower_bound_`` may differ from its value there (``gain``), and, after backward, what that
        found (``adjoint``, with its residual, spectral radius and the error of one_step).
        ``distance`` and ``gain`` are NaN for 'one_step' and 'automatic' without ``certify``.
    error_ : float
        With ``certify``, and where an implicit or natural gradient was asked for:
        ``solution_.distance``, about the error of means in standard deviations of their component,
        and the relative error of covariances and weights.
    classes_ : ndarray of shape (n_classes,)
        For ``labels='y'``: the classes, sorted.
    components_of_class_ : dict
        For ``labels='y'``: the components of each.
    noise_weight_ : float or Tensor of shape ()
        With noise: its share ``w_0`` of the samples. The density of the whole model is
        ``(1 - w_0) sum_k w_k g_k(x) + w_0 exp(noise_log_density_)``.
    noise_log_density_ : float
        With noise: minus the logarithm of the volume that it fills.
    noise_bounds_ : ndarray of shape (2, n_features) or None
        With noise: the box; None if its density was given.
    n_features_in_ : int
        Number of features d.
    n_samples_seen_ : int or float
        Number of samples so far, the sum of their weights if they have any: of the fit, or of
        `partial_fit` and what came before it.
    n_steps_ : int
        After `partial_fit`: number of blocks so far; a fit before them counts as one.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if ``X`` had any.

    See Also
    --------
    skgmmot.MixtureWasserstein : Distances between fitted mixtures.
    skgmmot.OTMap : Maps samples of one mixture to another.

    Notes
    -----
    Answers are NumPy arrays, also to tensors on the CPU that require no gradient; they are tensors
    where a gradient or another device is involved.

    One iteration costs ``O(n K d^2)`` (diagonal types: ``O(n K d)``) and needs a few megabytes
    beyond the data, whatever ``n``; so does the implicit gradient. It is exact at a fixed point, so
    a fit that is asked for it is polished: EM stops by ``tol``, which says when the likelihood has
    settled, and the parameters are then brought to where EM would end. Where components overlap
    that takes some hundred iterations.

    References
    ----------
    .. [1] Boite, Tanguy, Delon, Desolneux and Flamary 2025.
    .. [2] Mena, Nejatbakhsh, Varol and Niles-Weed 2020, Sinkhorn-EM.
    .. [3] Vayer and Lasalle 2025, maximum likelihood as entropic transport.
    .. [4] Fraley and Raftery 2007, Bayesian regularization for normal mixtures.
    .. [5] Ghahramani and Hinton 1996, EM for mixtures of factor analysers.
    .. [6] Banfield and Raftery 1993, mixtures with uniform noise.

    Examples
    --------
    >>> import numpy as np
    >>> from skgmmot import DifferentiableGaussianMixture
    >>> X = np.array([[1, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
    >>> mixture = DifferentiableGaussianMixture(n_components=2, random_state=0).fit(X)
    >>> mixture.means_.round(3)
    array([[10.,  2.],
           [ 1.,  2.]])
    >>> mixture.predict([[0, 0], [12, 3]])
    array([1, 0])
    """

    _parameter_constraints: dict = {
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "covariance_type": [CovarianceTypeName(sketched=True)],
        "tol": [Interval(Real, 0.0, None, closed="left")],
        "reg_covar": [Interval(Real, 0.0, None, closed="left")],
        "max_iter": [Interval(Integral, 0, None, closed="left")],
        "n_init": [Interval(Integral, 1, None, closed="left")],
        "init_params": [StrOptions(drawing.STARTS), callable],
        "weights_init": ["array-like", torch.Tensor, None],
        "means_init": ["array-like", torch.Tensor, None],
        "precisions_init": ["array-like", torch.Tensor, None],
        "random_state": ["random_state"],
        "warm_start": ["boolean"],
        "verbose": ["verbose"],
        "verbose_interval": [Interval(Integral, 1, None, closed="left")],
        "e_step": [StrOptions(set(E_STEPS))],
        "acceleration": [StrOptions(set(ACCELERATIONS)), None],
        "gradient": [StrOptions(set(STRATEGIES))],
        "gradient_tol": [Interval(Real, 0.0, None, closed="neither")],
        "fixed_weights": ["boolean", "array-like", torch.Tensor],
        "partial_fit_decay": [Interval(Real, 0.5, 1.0, closed="right")],
        "checkpoint": [str, os.PathLike, None],
        "checkpoint_every": [Interval(Integral, 1, None, closed="left")],
        "fixed_means": ["boolean", "array-like", torch.Tensor],
        "fixed_covariances": ["boolean", "array-like", torch.Tensor],
        "prior": [StrOptions(set(PRIORS)), Prior],
        "labels": [StrOptions({"ignore", "y"})],
        "components_of_class": [dict, None],
        "rank": [Interval(Integral, 1, None, closed="left")],
        "noise": [StrOptions(set(NOISES)), UniformNoise],
        "missing_values": [StrOptions({"error", "nan"}), "nan"],
        "certify": ["boolean"],
        "device": [str, torch.device, None],
    }

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: str = "full",
        tol: float = 1e-3,
        reg_covar: float = 1e-6,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: str | Callable[..., Any] = "kmeans",
        weights_init: Array | Tensor | None = None,
        means_init: Array | Tensor | None = None,
        precisions_init: Array | Tensor | None = None,
        random_state: RandomState = None,
        warm_start: bool = False,
        verbose: int = 0,
        verbose_interval: int = 10,
        e_step: str = "posterior",
        acceleration: str | None = None,
        gradient: str = "implicit",
        gradient_tol: float = 1e-6,
        fixed_weights: bool | Array = False,
        partial_fit_decay: float = 0.6,
        checkpoint: Path | None = None,
        checkpoint_every: int = 1,
        fixed_means: bool | Array = False,
        fixed_covariances: bool | Array = False,
        prior: str | Prior = "none",
        labels: str = "ignore",
        components_of_class: Mapping[Any, Any] | None = None,
        rank: int = 1,
        noise: str | UniformNoise = "none",
        missing_values: str | float = "error",
        certify: bool = False,
        device: Device = None,
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.weights_init = weights_init
        self.means_init = means_init
        self.precisions_init = precisions_init
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.verbose_interval = verbose_interval
        self.e_step = e_step
        self.acceleration = acceleration
        self.gradient = gradient
        self.gradient_tol = gradient_tol
        self.fixed_weights = fixed_weights
        self.partial_fit_decay = partial_fit_decay
        self.checkpoint = checkpoint
        self.checkpoint_every = checkpoint_every
        self.fixed_means = fixed_means
        self.fixed_covariances = fixed_covariances
        self.prior = prior
        self.labels = labels
        self.components_of_class = components_of_class
        self.rank = rank
        self.noise = noise
        self.missing_values = missing_values
        self.certify = certify
        self.device = device

    def fit(
        self, X: Samples, y: Samples | None = None, sample_weight: Samples | None = None
    ) -> Self:
        """Fit the mixture by EM.

        Parameters
        ----------
        X : array-like or Tensor of shape (n_samples, n_features), or callable
            Samples: float32 and float64 are kept, the rest becomes float64. For samples that do not
            fit into memory, a function that returns, at every call, a fresh iterator of blocks
            of rows: arrays, data frames, record batches, tensors, or pairs of one of these and
            its weights. Memory-mapped files of more than 1 GiB are read in blocks, too. So are dask
            arrays, in chunks of whole rows, and dask data frames: by the current client or by
            threads, and anew for each iteration unless they are persisted.
        y : array-like of shape (n_samples,), default=None
            Ignored, unless ``labels='y'``: then the class of each sample, integers or text. -1
            marks an unknown class, in arrays of text the empty text, in arrays of objects also
            None and NaN. Floats are integers, and NaN.
        sample_weight : array-like or Tensor of shape (n_samples,), or callable, default=None
            Non-negative weights; a weight of 2 is a row given twice, 0 a row left out. Of blocks,
            also a function that returns a fresh iterator of theirs. Of samples of dask, a dask
            array or series with the same chunks.

        Returns
        -------
        DifferentiableGaussianMixture
            The fitted estimator.

        Raises
        ------
        ValueError
            If a parameter, ``X`` or ``sample_weight`` is invalid, or a covariance collapses; if
            blocks differ in features, names or dtype, are not the same rows at every pass, or
            require a gradient. An earlier fit is then left as it was.
        TypeError
            If ``X`` or a block is not an array of numbers.
        RuntimeError
            If workers of dask have died in three attempts of a pass.

        Warns
        -----
        ConvergenceWarning
            If the best fit stopped at ``max_iter``, and was not polished either.
        UserWarning
            If ``reg_covar`` exceeds a tenth of the smallest variance among the features that vary.
        InexactGradientWarning
            If a gradient is asked for and may be further off than ``gradient_tol``.

        Notes
        -----
        Blocks are added up in their order: the same blocks give the same bits, one block those of
        a fit in memory, others its numbers to rounding. Where samples are more than 131,072, or
        more than 64 MB, the start is found from so many of them, drawn uniformly.
        """
        self._fit(X, sample_weight, y, **self._from_y(y))
        return self

    def _from_y(self, y):
        unknown = not isinstance(self.labels, str)  # what else it is comes to light later
        return {} if unknown or self.labels == "ignore" else {"y": y}

    def _validated(self, X, sample_weight, *, first=True):
        """As for all, in memory; elsewhere samples that hold their weights, None and the kind."""
        if self.labels != "ignore":
            _check_in_memory(X)
        found = places.out_of_core(self, X, sample_weight, reset=first)
        if found is None:
            X, a, kind = super()._validated(X, sample_weight, first=first)
            self.n_samples_seen_ = arrays.total_weight(sample_weight, len(X))
            if a is not None and check_prior(self.prior) is not None:  # which counts samples
                a = arrays.weights_as_given(sample_weight, X).to(X.dtype)
            return X, a, kind
        samples, kind = found
        if first:
            check_enough(samples.facts.n_positive, self.n_components)
        seen, n = samples.facts.total * samples.facts.largest_weight, samples.n_samples
        self.n_samples_seen_ = n if seen == n else seen
        return samples, None, kind

    def _fit_to(self, X, sample_weight, kind, **known):
        if known:
            return _LabelledFit(self, X, sample_weight, kind, **known)
        if not isinstance(X, torch.Tensor):
            return _OutOfCoreFit(self, X, kind)
        return _Fit(self, X, sample_weight, kind)

    @property
    def factor_loadings_(self):
        """Factors ``F`` of a fit with ``covariance_type='lowrank'``, of shape ``(K, d, rank)``.

        Of those with the same ``F @ F.T`` the one whose columns are orthogonal in units of the
        noise, the longest first; the largest entry of each, in these units, is positive.
        """
        return self._loadings()[0]

    @property
    def noise_variance_(self):
        """Variances ``psi`` that the factors leave, likewise, of shape ``(K, d)``."""
        return self._loadings()[1]

    def _loadings(self):
        """Factors and what they leave."""
        found = self._covariance().loadings(getattr(self, "covariances_", None))
        if found is None:
            raise AttributeError(
                "factor_loadings_ and noise_variance_ are of covariance_type='lowrank', got "
                f"{self.covariance_type!r}. See covariances_."
            )
        return found

    # --- the entropic reading ------------------------------------------------------------------

    @single_threaded_torch()
    def entropic_ot_gap(self, X: Samples, sample_weight: Samples | None = None) -> float:
        """Compute the entropic transport cost that prescribed component masses add.

        Maximum likelihood is entropic transport from samples to components whose masses are free;
        the gap is the additional cost of transport with the masses ``weights_``.

        Parameters
        ----------
        X : array-like or Tensor of shape (n_samples, n_features)
            Samples.
        sample_weight : array-like or Tensor of shape (n_samples,), default=None
            Non-negative weights.

        Returns
        -------
        float
            The balanced transport cost less the negative mean log-likelihood: not negative, and
            zero where the responsibilities share out the samples by ``weights_``, as at every
            fixed point of EM on its own samples.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If ``X`` or ``sample_weight`` is invalid.

        Notes
        -----
        Costs a few passes over the samples.

        References
        ----------
        .. [1] Vayer and Lasalle 2025, maximum likelihood as entropic transport.
        """
        check_is_fitted(self)
        if hasattr(self, "noise_weight_"):
            raise ValueError(
                "the mixture must have no noise for entropic_ot_gap, got some: transport to the "
                "components has to take all samples. Fit with noise='none'."
            )
        found = places.out_of_core(self, X, sample_weight, reset=False)
        if found is not None:
            samples = found[0]
            refuse_missing(samples, "entropic_ot_gap")
            return self._entropic_ot_gap(samples, samples.facts.origin)
        X, _ = arrays.samples(self, X, reset=False)
        arrays.check_range(X)
        a = arrays.sample_weights(sample_weight, X)
        X, a = X.detach(), None if a is None else a.detach()
        return self._entropic_ot_gap(InMemory(X, a), blocks.origin(X, a))

    def _entropic_ot_gap(self, samples, origin):
        theta = self._params(dtype=torch.float64, device=samples.device).detach()
        # the smallest of weights stands for none
        weights = theta.weights.clamp(min=torch.finfo(torch.float64).tiny)
        with EM(samples, origin, 0.0).in_float64().at_work() as em:
            return SinkhornEM(em).gap(untilted(theta._replace(weights=weights).translated(-origin)))


def _check_in_memory(X) -> None:
    """Refuse samples in blocks, which come without classes."""
    if arrays.is_dask(X) or places.blocks_of(X) is not None:
        raise ValueError(
            f"X must be in memory for labels='y', got {type(X).__name__}, which is read in blocks. "
            "Pass an array, or set labels='ignore'."
        )


def _check_rank(estimator, n_features):
    """Refuse a rank for which there are too few features."""
    if not estimator._covariance().fits(n_features):
        raise ValueError(
            f"rank must be below the number of features, {n_features}, got {estimator.rank}. Use a "
            "smaller rank, or covariance_type='full'."
        )


def _check_unit(variances: Tensor) -> None:
    """Refuse a gradient in units in which squares of variances leave the range of numbers."""
    low, high = (float(v) for v in torch.aminmax(variances))
    if low < 1 / MOST_VARIANCE or high > MOST_VARIANCE:
        raise ValueError(
            f"X must have variances from {1 / MOST_VARIANCE:.0e} to {MOST_VARIANCE:.0e} for a "
            f"gradient, got {low:.1e} to {high:.1e}. Rescale X, or pass X.detach()."
        )


def _check_counts(sample_weight: Tensor | None) -> None:
    """Refuse a gradient for weights which, beside a prior, are next to nothing or everything."""
    total = 1.0 if sample_weight is None else float(sample_weight.sum())
    if not 1 / MOST_VARIANCE < total < MOST_VARIANCE:
        raise ValueError(
            f"sample_weight must have a sum from {1 / MOST_VARIANCE:.0e} to {MOST_VARIANCE:.0e} "
            f"for a gradient with a prior, got {total:.1e}. Rescale the weights, which are counts."
        )


class _Fit(Fit):
    """EM on given samples, and the best run's end on their graph."""

    unit = 1.0  # the weight of a sample that was seen once
    labelling: Labelling | None = None  # no class is known
    incomplete = False  # whether entries are missing

    def __init__(self, estimator, X, sample_weight, kind):
        self.estimator, self.kind = estimator, kind
        _check_rank(estimator, X.shape[1])
        self.e_step = self._e_step()
        self.graph = X, sample_weight
        self.constraint = held_parameters.fixed(estimator, X.shape[1], X.device)
        self.gradient = self._gradient(X, sample_weight)
        constants = (X.detach(), None if sample_weight is None else sample_weight.detach())
        if arrays.takes_missing(estimator) and torch.isnan(constants[0]).any():
            self.incomplete = True
            origin, variances = self._of_observed(*constants)
        else:
            origin = blocks.origin(*constants)
            variances = units.variances(*constants, origin)
        if self.gradient is not None:
            _check_unit(variances + estimator.reg_covar)
            _check_counts(constants[1])
        units.warn_of_units(estimator, variances, origin)
        self._begin(self._samples(*constants), origin)

    def _of_observed(self, X, sample_weight):
        """Means and variances of what is observed, where the fit can do without the rest."""
        _check_posterior(self.e_step)
        if check_noise(self.estimator.noise) is not None:
            raise ValueError(NO_NOISE)
        if self.gradient is not None and self.gradient.strategy.follows_data:
            raise ValueError(
                f"gradient must be a derivative where entries are missing, got "
                f"{self.gradient.strategy.name!r}, which moves complete samples. Use "
                "gradient='implicit'."
            )
        pairs, n = together(X, sample_weight), n_informative(X, sample_weight)
        check_observed(self.estimator, pairs, n)
        sums = ObservedSums.of(X, sample_weight)
        return sums.mean.to(X.dtype), sums.squares(X, sample_weight) / sums.total

    def _e_step(self):
        """What the iterations are, and their derivative."""
        return E_STEPS[self.estimator.e_step]

    def _iteration(self, samples, origin):
        """One iteration over the samples."""
        return EM(samples, origin, self.estimator.reg_covar, self._under_prior(samples))

    def _samples(self, X, sample_weight):
        """The samples, in one place."""
        if self.incomplete:
            return Grouped(X, sample_weight, [(by_pattern(X), WHOLE)], incomplete=True)
        return InMemory(X, sample_weight)

    @property
    def n_steps(self):
        return self.estimator.max_iter

    def _begin(self, samples, origin):
        """Prepare the iteration over the samples."""
        e, self.origin = self.estimator, origin
        self.held_means, self.noise = None, check_noise(e.noise)
        if self.noise is not None:
            self._check_noise()
            self.density, self.box = self.noise.density(*self._bounds(samples), e.reg_covar)
        self.em = self._iteration(samples, origin)
        self.log = _Log(e.verbose, e.verbose_interval)
        self.checkpoint = _checkpoint.of_fit(e, samples, e._is_warm(), longer=True)
        self.runs = Runs(self.log, store=self.checkpoint)

    def _gradient(self, X, sample_weight) -> Gradient | None:
        """How the fit is differentiated; None where no gradient is asked for."""
        if not (X.requires_grad or (sample_weight is not None and sample_weight.requires_grad)):
            return None
        e, strategy = self.estimator, STRATEGIES[self.estimator.gradient]
        K, d = e.n_components, X.shape[1]
        size = K + K * d + math.prod(e._covariance().shape(K, d))
        beside = (sample_weight,)
        of_mixture = self.constraint, e.prior, self.e_step, size, beside
        strategy.check(Request(e.acceleration, *of_mixture, check_noise(e.noise) is not None))
        if e.max_iter == 0 or not torch.is_grad_enabled():
            return None
        return Gradient(strategy, e.gradient_tol)

    def _bounds(self, samples):
        """The box around the samples."""
        return bounds(samples.X, samples.sample_weight)

    def _check_noise(self):
        """Refuse noise where all shares are prescribed."""
        if self.e_step.balanced:
            raise ValueError(
                f"noise must be 'none' with e_step={self.e_step.name!r}, got "
                f"{self.estimator.noise!r}: all shares of the samples are prescribed there. Set "
                "one of the two back."
            )

    def _under_prior(self, samples):
        """What stays, and the prior: on the graph of the samples where a gradient is asked for."""
        e, prior = self.estimator, check_prior(self.estimator.prior)
        if prior is None:
            return self.constraint
        K, graph = e.n_components, None if self.gradient is None else self.graph
        covariance = e._covariance().reduced(K, samples.n_features)
        options = {"on_graph": graph, "unit": self.unit}
        found = self.constraint.under(
            prior, covariance, K, samples, self.origin, e.reg_covar, **options
        )
        return found if self.gradient is not None else found.detach()

    def solve(self, warm):
        """EM from every start."""
        e = self.estimator
        options = {"tol": e.tol, "max_iter": e.max_iter, "acceleration": e.acceleration}
        with self._recording():
            solution, _ = fit_from_starts(
                self.em,
                self._starts(warm),
                self.graph,
                self.e_step,
                self.gradient,
                runs=self.runs,
                certify=MAX_CERTIFY if e.certify else 0,
                **options,
            )
        if self.noise is not None:
            self._check_left(solution.value.component_weights.detach())
        return solution

    def _check_left(self, weights):
        """Refuse a fit in which all samples are noise."""
        left = float(weights.sum()) * self.em.samples.n_samples
        if left < 1:
            raise ValueError(
                f"noise must leave samples to the components, got {left:.2g} of "
                f"{self.em.samples.n_samples}: its log-density {self.density:.4g} is larger than "
                "theirs. Pass UniformNoise with larger bounds, or give means_init and "
                "precisions_init."
            )

    def _recording(self):
        """A context in which small fits without a gradient are faster: autograd is off for good.

        Tensors made within must reach no user and, as in larger fits, no other thread; covariance
        types that are not elementary may need autograd in their M-step, accelerations for the
        derivative of an E-step over groups, and certificates for any.
        """
        covariance, samples = self.estimator._covariance(), self.em.samples
        size = samples.n_samples * samples.n_features * self.estimator.n_components
        small = size < SMALL and samples.device.type == "cpu"
        constant = self.gradient is None and self.kind is arrays.NUMPY
        e = self.estimator
        derived = e.certify or (e.acceleration is not None and bool(samples.groups))
        off = small and constant and covariance.elementary and not derived
        return torch.inference_mode() if off else nullcontext()

    def _starts(self, warm):
        """Yield the start of each run and the objective that its first change is against."""
        e, em = self.estimator, self.em
        uniform = not warm and (em.constraint.fixes_weights or self.e_step.balanced)
        given = initial_values.given(e, em, uniform=uniform)
        self.held_means = held_parameters.check_held(e, em, given, warm)
        if warm:
            objective = float(getattr(e, "lower_bound_", -math.inf))
            start = functools.partial(earlier.earlier_fit, e, em)
            yield from self.runs.starts(
                1, lambda _: (self._whole(start(), given, warm=True), objective)
            )
            return
        with drawing.random_numbers(e.random_state) as rng:
            rng = self.runs.draw_from("random_state", rng)
            rows = functools.cache(lambda: self._cleared(self._to_start_from(rng)))

            def draw(run):
                em, share = rows()
                start = drawing.one_start(
                    e, em, given, rng, run, self.kind, labelling=self.labelling
                )
                return self._whole(start, given, share), -math.inf

            yield from self.runs.starts(e.n_init, draw)

    def _to_start_from(self, rng) -> EM:
        """The samples in memory that starts are found from."""
        if self.incomplete:
            return to_start_from(self.em, self.em.X, self.em.sample_weight)
        return self.em

    def _checked(self, start, *, warm=False):
        """A start from which the samples have a density."""
        return start

    def _cleared(self, em: EM) -> tuple[EM, float]:
        """Samples to start from without those that look like noise, and the share of these."""
        e = self.estimator
        if self.noise is None:
            return em, 0.0
        clear, share = clear_of_noise(em, e.n_components)
        all_count = callable(e.init_params) or self.labelling is not None
        return em if all_count else clear, share

    def _whole(self, theta, given, share: float | None = None, *, warm=False):
        """A start with noise, if there is any, and with what is given where that stays."""
        if self.noise is None:
            return self._checked(held_parameters.held(theta, given, self.em), warm=warm)
        theta = self._checked(theta, warm=warm)
        if share is None:
            share = float(getattr(self.estimator, "noise_weight_", 0.0))
        if self.noise.weight is not None and (self.noise.fixed_weight or not warm):
            share = self.noise.weight
        share = max(share, 1 / self.em.samples.n_samples)
        theta = theta._replace(weights=theta.weights / theta.weights.sum())
        return held_parameters.held(
            theta.with_noise(share, self.density), (None, *given[1:]), self.em
        )

    def not_converged(self, solution):
        """The warning, and what it means for the gradient."""
        text = super().not_converged(solution)
        if self.gradient is None:
            return text
        return (
            f"{text} The gradient is not that of a fixed point: the last step moved by "
            f"{measured(solution).residual:.1e} in units of the spread."
        )

    def remarks(self, solution):
        """That components have no samples."""
        K = self.estimator.n_components
        n_empty = solution.value.weights[:K].tolist().count(0.0)
        return [EMPTY.format(n_empty, self.estimator.n_components)] if n_empty else []

    def show(self, solution):
        """Set the estimator's attributes; those that only some fits have go."""
        e = self.estimator
        for name in (*OF_ERRORS, "entropic_ot_gap_", *CLASSES, *OF_NOISE, *STATE):
            vars(e).pop(name, None)
        value = solution.value.translated(self.origin)
        value = self.constraint.keep_moments(value.canonical(), value)
        if self.held_means is not None:  # no rounding from the way to the origin and back
            value = self.constraint.keep_moments(value, value._replace(means=self.held_means))
        e._set_parameters(value.without_noise(), self.em.samples.dtype, self.kind)
        if self.noise is not None:
            share = value.weights[-1]
            e.noise_weight_ = share if share.requires_grad else np.float64(share)
            e.noise_log_density_, e.noise_bounds_ = self.density, self.box
        e.converged_, e.n_iter_ = solution.converged, solution.n_iter
        e.lower_bound_ = np.float64(solution.objective)
        e.lower_bounds_ = list(solution.objectives)
        known = not math.isnan(solution.distance)
        if self.gradient is not None or known:
            previous = solution.previous.translated(self.origin)
            e.solution_ = solution._replace(value=value.detach(), previous=previous)
        if known:
            e.error_ = solution.distance
        if (gap := self._gap(solution)) is not None:
            e.entropic_ot_gap_ = gap

    def _gap(self, solution):
        """The gap on the samples of the fit, or a bound from its last E-step, which `em` kept."""
        em = self.em
        if self.e_step.balanced:
            return self.estimator._entropic_ot_gap(em.samples, self.origin)
        polished = solution.adjoint is not None
        theta = solution.value.detach() if polished else solution.previous
        with em.at_work():
            share = em.statistics(theta).mass / em.total
        return balance_gap_bound(theta.weights, share)


class _LabelledFit(_Fit):
    """EM on samples in memory, of which some classes are known."""

    def __init__(self, estimator, X, sample_weight, kind, y):
        e = estimator
        if E_STEPS[e.e_step].balanced:
            raise ValueError(
                f"e_step must be 'posterior' for labels='y', got {e.e_step!r}, whose plan gives "
                "every component its weight of all samples. Set one of the two back."
            )
        if X.requires_grad and STRATEGIES[e.gradient].follows_data:
            raise ValueError(
                f"gradient must be a derivative for labels='y', got {e.gradient!r}, which moves "
                "samples from one component to another. Use gradient='implicit'."
            )
        self.classes = classes_of(y, len(X), e.n_components, e.components_of_class)
        codes = torch.from_numpy(self.classes.codes).to(X.device)
        labelling = Labelling(codes, self.classes.components, e.n_components)
        self.labelling = labelling.counted(sample_weight)
        super().__init__(estimator, X, sample_weight, kind)

    def _samples(self, X, sample_weight):
        return self.labelling.grouped(X, sample_weight, incomplete=self.incomplete)

    def _checked(self, start, *, warm=False):
        """Refuse weights of zero for classes that have samples; of an earlier fit, change them."""
        if warm and not self.em.constraint.fixes_weights:
            start = self.labelling.with_weight(start)
        check_weights(self.labelling, start.weights, self.classes.names)
        return start

    def show(self, solution):
        super().show(solution)
        e, (names, components, _, unknown) = self.estimator, self.classes
        e.classes_, e._unknown_class = names, unknown
        e.components_of_class_ = dict(zip(names.tolist(), map(list, components), strict=True))


def _check_posterior(e_step) -> None:
    """Refuse the balanced E-step for samples with missing entries."""
    if e_step.balanced:
        raise ValueError(
            f"e_step must be 'posterior' for samples with missing entries, got {e_step.name!r}, "
            "whose plan takes complete samples. Change it, or impute missing entries first."
        )


class _OutOfCoreFit(_Fit):
    """EM on samples that are not in memory, from a start that some of them give; no gradients."""

    gradient = None

    def __init__(self, estimator, samples, kind):
        facts = samples.facts
        _check_rank(estimator, samples.n_features)
        if samples.incomplete:
            _check_posterior(E_STEPS[estimator.e_step])
            if check_noise(estimator.noise) is not None:
                raise ValueError(NO_NOISE)
            check_observed(estimator, samples.sum(Together(len(facts.sum)))[0])
        units.warn_of_units(estimator, facts.variances, facts.origin)
        self.estimator, self.kind, self.graph = estimator, kind, (None, None)
        self.e_step, self.unit = self._e_step(), 1 / facts.largest_weight
        self.constraint = held_parameters.fixed(estimator, samples.n_features, samples.device)
        self._begin(samples, facts.origin)

    def _bounds(self, samples):
        """The box around the samples, of which the facts tell."""
        return samples.facts.low, samples.facts.high

    def _recording(self):
        """Nothing is switched off: the user's code runs within, and may make tensors of its own."""
        return nullcontext()

    def _to_start_from(self, rng):
        em, n_components = self.em, self.estimator.n_components
        found = self.runs.redrawn(
            "rows", lambda source: drawing.sample_of(em.samples, n_components, source), rng
        )
        if em.samples.incomplete:
            return to_start_from(em, found.X, found.sample_weight)
        return EM(found, em.origin, em.reg_covar, em.constraint)


class _Log:
    """scikit-learn's verbose output."""

    def __init__(self, verbose, interval):
        self.verbose, self.interval = int(verbose), interval

    def begin(self, run):
        if self.verbose:
            print(f"Initialization {run}")
            self.began = self.last = time.time()

    def step(self, solution):
        if not self.verbose or solution.n_iter % self.interval:
            return
        if self.verbose == 1:
            print(f"  Iteration {solution.n_iter}")
        else:
            now = time.time()
            print(
                f"  Iteration {solution.n_iter}\t time lapse {now - self.last:.5f}s"
                f"\t ll change {solution.change:.5f}"
            )
            self.last = now

    def end(self, solution):
        if not self.verbose or not solution.n_iter:
            return
        message = "converged." if solution.converged else "did not converge."
        if self.verbose == 1:
            print(f"Initialization {message}")
        else:
            print(
                f"Initialization {message} time lapse {time.time() - self.began:.5f}s"
                f"\t lower bound {solution.objective:.5f}."
            )
