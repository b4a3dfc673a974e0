"""`DifferentiableGaussianMixture`: scikit-learn's Gaussian mixture, on torch, with gradients."""

import os
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any, Self

import torch
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from skgmmot._inputs import arrays, places
from skgmmot._types import Array, Device, Path, RandomState, Samples
from skgmmot.estimators.classes import ClassPredictor
from skgmmot.estimators.mixtures._base import CovarianceTypeName, seen_weight
from skgmmot.estimators.mixtures._em_fit import EMFit, LabelledFit, OutOfCoreFit
from skgmmot.estimators.mixtures._fit import check_enough
from skgmmot.estimators.mixtures._inference import MaximumLikelihood
from skgmmot.estimators.mixtures._missing import Imputing, refuse_missing
from skgmmot.estimators.mixtures._partial_fit import FittedByBlocks
from skgmmot.estimators.starts import drawing
from skgmmot.fitting.em.e_steps import E_STEPS
from skgmmot.fitting.em.gradient.movement import STRATEGIES
from skgmmot.fitting.em.iterations import ACCELERATIONS
from skgmmot.fitting.em.prior import PRIORS, Prior, check_prior
from skgmmot.fitting.em.rows import EM
from skgmmot.fitting.em.sinkhorn import SinkhornEM, untilted
from skgmmot.fitting.robust.noise import NOISES, UniformNoise
from skgmmot.fitting.samples import InMemory
from skgmmot.numerics import blocks
from skgmmot.numerics.threads import single_threaded_torch


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
        ``solution_`` and ``error_`` say what was found. Blocks and dask arrays serve, too; after
        `partial_fit` nothing is measured.
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
        found (``adjoint``; its ``error`` is the gradient's, also of 'one_step'; 'automatic' and
        'natural' state none).
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
            self.n_samples_seen_ = seen_weight(self, X, sample_weight)
            if a is not None and check_prior(self.prior) is not None:  # which counts samples
                a = arrays.weights_as_given(sample_weight, X).to(X.dtype)
            return X, a, kind
        samples, kind = found
        if first:
            check_enough(samples.facts.n_positive, self.n_components)
        seen, n = samples.facts.total * samples.facts.largest_weight, samples.n_samples
        self.n_samples_seen_ = n if seen == n else seen
        if samples.incomplete and float(seen).is_integer():
            self.n_samples_seen_ = int(seen)
        return samples, None, kind

    def _fit_to(self, X, sample_weight, kind, **known):
        if known:
            return LabelledFit(self, X, sample_weight, kind, **known)
        if not isinstance(X, torch.Tensor):
            return OutOfCoreFit(self, X, kind)
        return EMFit(self, X, sample_weight, kind)

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
