"""`SlicedWassersteinGMM`: a Gaussian mixture fitted by transport instead of likelihood."""

import math
import os
import warnings
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, Self

import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from torch import Tensor

from skgmmot._types import Array, Device, Path, RandomState, Samples, fit_context
from skgmmot.estimators._progress import ProgressBar
from skgmmot.estimators.mixtures import _checkpoint
from skgmmot.estimators.mixtures._base import CovarianceTypeName, whole_fit
from skgmmot.estimators.mixtures._fit import Fit, FittedMixture
from skgmmot.estimators.starts import assignments, drawing, earlier, initial_values
from skgmmot.fitting.em.iterations import climb
from skgmmot.fitting.em.rows import EM
from skgmmot.fitting.samples import InMemory
from skgmmot.fitting.sliced import NEAR, SlicedObjective, Whitening, fit_sliced, refine_sliced
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.numerics import blocks
from skgmmot.numerics.minimise import EPOCH, N_HALVINGS, OPTIMIZERS
from skgmmot.numerics.runs import Runs
from skgmmot.transport.sliced.directions import DIRECTIONS

#: EM after the sliced fit stops at this change of the mean log-likelihood, or after so many steps.
REFINE_TOL, REFINE_MAX_ITER = 1e-6, 1000
#: EM's own defaults, for the fit that a sliced one is compared with, and its least `reg_covar`.
EM_TOL, EM_MAX_ITER, LEAST_REG = 1e-3, 100, 1e-6
#: Share of the distance that a run must gain over a fit from EM's.
NOISE = 0.1
#: The run is given up where it is so many times as far as the fit from EM's after ten steps.
HOPELESS = 1.2
#: Steps of `partial_fit` before they grow shorter.
N_STEADY = 100


class SlicedWassersteinGMM(FittedMixture):
    """Gaussian mixture fitted by the sliced Wasserstein distance to the samples.

    Minimises ``SW_p(mixture, samples)``, the mean over directions of the transport distance between
    the projected mixture and the projected samples. The distance depends on how far mass must move,
    so a component that explains no sample still moves to where mass is missing: the fit depends far
    less on its start than maximum likelihood.

    Parameters
    ----------
    n_components : int, default=1
        Number of components K.
    covariance_type : {'full', 'tied', 'diag', 'spherical'}, default='full'
        What the components' covariances may be.
    n_projections : int, default=None
        Number of directions to slice along (one is enough, and taken, for one feature); None is
        25 for each feature up to 300, then ten for each. They are drawn anew every ten steps (for
        None, no more than 100), which take turns with about ten of them; steps of batches draw and
        take all.
    projections : {'quasi', 'random', 'orthogonal', 'max'}, default='quasi'
        Directions spread evenly; independent and uniform; orthogonal in groups of ``n_features``;
        or turned to where the distance is larger.
    p : float, default=2.0
        Exponent of the distance, at least 1.
    tol : float, default=1e-2
        Ten steps make progress if they lower the sliced distance, on fixed directions, by more than
        this share. Without progress twice in a row with the starts' weights, and then once with
        free ones, the fit has converged; before EM (``refine='em'``) the learning rate is halved
        first, five times.
    reg_covar : float, default=1e-6
        Added to the variances, as a share of the samples' own variance in each direction.
    max_iter : int, default=1000
        Largest number of steps; 0 keeps the start.
    n_init : int, default=2
        Number of runs; the fit of least sliced distance is kept. Runs from a given start differ by
        their directions.
    init_params : {'k-means++', 'kmeans', 'random', 'random_from_data', 'sinkhorn'} or callable, \
            default='k-means++'
        How to start. A callable ``init_params(X, n_components, random_state)`` returns labels or
        responsibilities of ``X``, the samples of positive weight.
    weights_init : array-like of shape (n_components,), default=None
        Weights to start from.
    means_init : array-like of shape (n_components, n_features), default=None
        Means to start from.
    precisions_init : array-like, default=None
        Inverse covariances to start from, in the shape of ``covariances_``.
    optimizer : {'rmsprop', 'adam'} or callable, default='rmsprop'
        RMSProp with momentum, as in the paper; Adam; or a function ``(parameters, learning_rate)``
        that returns a `torch.optim.Optimizer`.
    learning_rate : float, default=0.05
        Length of the first steps, in coordinates where samples have variance one in every
        direction, so that it needs no tuning.
    batch_size : int, default=None
        Number of samples that a step looks at; None is all of them.
    refine : {'em'}, default=None
        Whether to end with EM, run to a change of the mean log-likelihood below 1e-6; the likelier
        of that and of EM from k-means is kept.
    random_state : int, RandomState instance or None, default=None
        Controls starts, directions, batches and `sample`.
    warm_start : bool, default=False
        Whether a further `fit` starts from the last solution.
    verbose : int, default=0
        1 shows a progress bar with the sliced distance.
    checkpoint : str or path-like, default=None
        File in which `fit` keeps its state. After an interruption the next fit of the same
        parameters and samples continues from it, with the same bits as one that was never
        interrupted; after the end of the fit it returns the result at once. A fit of other
        parameters or samples refuses the file. None keeps nothing.
    checkpoint_every : int, default=1
        Epochs of ten steps between two writings of the checkpoint.
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
        spherical.
    precisions_ : array or Tensor
        Inverse covariances, in the same shape.
    precisions_cholesky_ : array or Tensor
        Factors ``P`` of the precisions, ``P @ P.T``, in the same shape.
    converged_ : bool
        Whether the best fit converged.
    n_iter_ : int
        Steps of the best fit.
    sliced_wasserstein_ : float
        Sliced distance ``SW_p`` of the mixture to the samples, in units of ``X``, along
        ``n_projections`` directions that nothing was fitted to.
    sliced_wassersteins_ : list of float
        The same, along other directions, at the start of the best run and after each of its epochs
        of ten steps, before it was settled or refined.
    lower_bound_ : float
        Mean log-likelihood, where the fit was refined.
    n_features_in_ : int
        Number of features d.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if ``X`` had any.

    See Also
    --------
    skgmmot.DifferentiableGaussianMixture : Fits by likelihood.

    Notes
    -----
    All parameters are learned. Covariances are ``B B^T + reg_covar I``, positive definite whatever
    ``B``; weights are a softmax, which moves once the components have spread
    to the data. A step costs ``O(L (n + K^2))`` for its L directions of n
    samples, and every ten steps ``O(L n (d + log n))`` more, for all, to project and sort. Memory
    is a few times that of the samples, and up to 64 MB for each of three sets of lines (three times
    that with ``sample_weight``): where ``L n`` is above ``2**23``, each draw of lines draws as many
    samples as that allows, by weight, and so do the lines to judge by. The fit of ``a X + b`` is
    that of ``X``, scaled and moved. The fit is a constant: no gradient flows through it.

    EM's fit from k-means (or from the given start) is settled by a quasi-Newton method along as
    many fixed directions, and so is the best run, unless it is still a fifth further after ten
    steps. The run is kept if it ends nearer by a tenth, else the fit that began with EM's, which is
    no worse in sliced distance than EM. Along lines, components that are far thinner than their
    samples hardly differ from others: where a run ends with such ones (one step of EM would raise
    the mean log-likelihood by more than one for each feature), EM goes on from it before it is
    settled.

    The sliced distance depends on how much mass is where, the likelihood on how dense it is there:
    a fit of one is no maximum of the other. ``refine='em'`` ends at the nearest maximum of the
    likelihood.

    References
    ----------
    .. [1] Kolouri, Rohde and Hoffmann 2018.

    Examples
    --------
    >>> import numpy as np
    >>> from skgmmot import SlicedWassersteinGMM
    >>> rng = np.random.default_rng(0)
    >>> X = np.concatenate([rng.normal(0, 1, (300, 2)), rng.normal(9, 1, (100, 2))])
    >>> mixture = SlicedWassersteinGMM(n_components=2, random_state=0).fit(X)
    >>> np.sort(mixture.weights_).round(2)
    array([0.25, 0.75])
    >>> mixture.means_[mixture.predict([[0, 0], [8, 9]])].round() + 0.0
    array([[0., 0.],
           [9., 9.]])
    """

    _parameter_constraints: dict = {
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "covariance_type": [CovarianceTypeName(elementary=True)],
        "n_projections": [Interval(Integral, 1, None, closed="left"), None],
        "projections": [StrOptions({*DIRECTIONS, "max"})],
        "p": [Interval(Real, 1.0, None, closed="left")],
        "tol": [Interval(Real, 0.0, None, closed="left")],
        "reg_covar": [Interval(Real, 0.0, None, closed="left")],
        "max_iter": [Interval(Integral, 0, None, closed="left")],
        "n_init": [Interval(Integral, 1, None, closed="left")],
        "init_params": [StrOptions(drawing.STARTS), callable],
        "weights_init": ["array-like", torch.Tensor, None],
        "means_init": ["array-like", torch.Tensor, None],
        "precisions_init": ["array-like", torch.Tensor, None],
        "optimizer": [StrOptions(set(OPTIMIZERS)), callable],
        "learning_rate": [Interval(Real, 0.0, None, closed="neither")],
        "batch_size": [Interval(Integral, 1, None, closed="left"), None],
        "refine": [StrOptions({"em"}), None],
        "random_state": ["random_state"],
        "warm_start": ["boolean"],
        "verbose": ["verbose"],
        "checkpoint": [str, os.PathLike, None],
        "checkpoint_every": [Interval(Integral, 1, None, closed="left")],
        "device": [str, torch.device, None],
    }

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: str = "full",
        n_projections: int | None = None,
        projections: str = "quasi",
        p: float = 2.0,
        tol: float = 1e-2,
        reg_covar: float = 1e-6,
        max_iter: int = 1000,
        n_init: int = 2,
        init_params: str | Callable[..., Any] = "k-means++",
        weights_init: Array | Tensor | None = None,
        means_init: Array | Tensor | None = None,
        precisions_init: Array | Tensor | None = None,
        optimizer: str | Callable[..., Any] = "rmsprop",
        learning_rate: float = 0.05,
        batch_size: int | None = None,
        refine: str | None = None,
        random_state: RandomState = None,
        warm_start: bool = False,
        verbose: int = 0,
        checkpoint: Path | None = None,
        checkpoint_every: int = 1,
        device: Device = None,
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.n_projections = n_projections
        self.projections = projections
        self.p = p
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.weights_init = weights_init
        self.means_init = means_init
        self.precisions_init = precisions_init
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.refine = refine
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.checkpoint = checkpoint
        self.checkpoint_every = checkpoint_every
        self.device = device

    def fit(
        self, X: Samples, y: Samples | None = None, sample_weight: Samples | None = None
    ) -> Self:
        """Fit the mixture.

        Parameters
        ----------
        X : array-like or Tensor of shape (n_samples, n_features)
            Samples: float32 and float64 are kept, the rest becomes float64.
        y : None
            Ignored.
        sample_weight : array-like or Tensor of shape (n_samples,), default=None
            Non-negative weights; a weight of 2 is a row given twice, 0 a row left out.

        Returns
        -------
        SlicedWassersteinGMM
            The fitted estimator.

        Raises
        ------
        ValueError
            If a parameter, ``X`` or ``sample_weight`` is invalid, or ``X`` so large or so narrow
            that its dtype cannot hold variances; an earlier fit is then left as it was.

        Warns
        -----
        ConvergenceWarning
            If the best fit stopped at ``max_iter``.
        """
        self._fit(X, sample_weight, y)
        return self

    @fit_context(prefer_skip_nested_validation=True)
    def partial_fit(
        self, X: Samples, y: Samples | None = None, sample_weight: Samples | None = None
    ) -> Self:
        """Update the mixture by an epoch of ten gradient steps on a batch of samples.

        Parameters
        ----------
        X : array-like or Tensor of shape (n_samples, n_features)
            A batch of samples; the first must hold at least ``n_components``.
        y : None
            Ignored.
        sample_weight : array-like or Tensor of shape (n_samples,), default=None
            Non-negative weights.

        Returns
        -------
        SlicedWassersteinGMM
            The estimator. ``n_iter_`` counts the steps of all calls, and steps grow shorter with
            it; ``converged_`` stays False.

        Raises
        ------
        ValueError
            As `fit`.
        """
        with whole_fit(self) as (fitted, _):
            fitted._take_epoch(X, sample_weight)
        return self

    def _take_epoch(self, X, sample_weight):
        """`partial_fit`, on a copy."""
        first = not hasattr(self, "converged_")
        n_iter = 0 if first else self.n_iter_
        X, a, kind = self._validated(X, sample_weight, first=first)
        fit = _Fit(self, X, a, kind, None if first else self._params(torch.float64), n_iter)
        (start, *_) = fit.starts(warm=not first)
        solution = fit.descend(
            start,
            hold_weights=first,
            max_iter=EPOCH,
            # steps that grow shorter like one over a root settle, and still get anywhere
            learning_rate=self.learning_rate / math.sqrt(1 + n_iter / N_STEADY),
        )
        fit.show(solution._replace(n_iter=n_iter + EPOCH, converged=False))

    def _fit_to(self, X, sample_weight, kind):
        checkpoint = _checkpoint.of_fit(self, InMemory(X, sample_weight), self._is_warm())
        return _Fit(self, X, sample_weight, kind, checkpoint=checkpoint)

    def _validated(self, X, sample_weight, *, first=True):
        """Samples of positive weight, their weights or None, and the kind of array they came in."""
        X, a, kind = super()._validated(X, sample_weight, first=first)
        if first:
            _check_width(X)
        X, a = X.detach(), None if a is None else a.detach()
        return (X, a, kind) if a is None else (X[a > 0], a[a > 0], kind)


class _Fit(Fit):
    """A fit in coordinates in which the samples have variance one in every direction.

    Origin and moments may be those of a mixture instead, ``like``, and random numbers may depend on
    the steps taken, ``n_iter``.
    """

    def __init__(
        self, estimator, X, sample_weight, array_kind, like=None, n_iter=0, checkpoint=None
    ):
        self.estimator, self.array_kind, self.checkpoint = estimator, array_kind, checkpoint
        self.bar = ProgressBar(
            estimator.verbose, estimator.max_iter, "sliced fit", lambda s: {"distance": s.objective}
        )
        self.runs, self.refined = Runs(self.bar, lowest=True, store=checkpoint), None
        self.covariance_type = estimator._covariance().reduced(estimator.n_components, X.shape[1])
        self.rng = self.runs.draw_from("random_state", check_random_state(estimator.random_state))
        seed = self.runs.once("seed", lambda: int(self.rng.randint(2**31)))
        self.X, self.origin = X, blocks.origin(X, sample_weight)
        if like is None:
            centred = (X - self.origin).double()
            self.scale = _spread(centred, sample_weight)
            second = _second_moment(self.covariance_type, centred / self.scale, sample_weight)
        else:
            self.origin = (like.weights @ like.means).to(X)
            second = _whole(like.translated(-self.origin))
            self.scale = math.sqrt(float(self.covariance_type.diagonals(second).mean()))
            second = second / self.scale**2
        self.whitening = Whitening(self.covariance_type, second, self.origin, self.scale)
        self.sample_weight = None if sample_weight is None else sample_weight.double()
        self.objective = SlicedObjective(
            self.whitening.rows(X),
            self.covariance_type,
            self.sample_weight,
            p=estimator.p,
            n_projections=estimator.n_projections,
            projections=estimator.projections,
            batch_size=estimator.batch_size,
            reg_covar=estimator.reg_covar,
            generator=torch.Generator().manual_seed(seed + n_iter),
            lines=self.whitening.lines,
        )
        self.runs.draw_from("directions", self.objective)

    def solve(self, warm):
        """The run of least distance and, unless there is none to take, a better end of it."""
        e, alone = self.estimator, warm or self.estimator.max_iter == 0

        def run(theta0, callback):
            loop = {"callback": callback, "journal": self.runs.journal}
            return self.descend(theta0, hold_weights=not warm, **loop)

        with self.bar:
            best = self.runs.best_of(self.starts(warm), run)
            if e.refine is not None:
                self.refined = self.runs.once("end", lambda: self.refine(best.value, alone))
            elif e.max_iter > 0:
                end = self.runs.once("end", lambda: self.finish(best, alone))
                best = best._replace(value=end)
        return best

    def show(self, solution):
        """Set the estimator's attributes, in the user's units and kind of array."""
        e = self.estimator
        theta = solution.value if self.refined is None else self.refined.value
        distance = self.objective.held_out_distance(theta)
        if e.p > 2 and not 0 < distance < math.inf:
            raise ValueError(
                f"p must be smaller for these samples, got {e.p}: powers of the distances leave "
                "the range of float64. Decrease p."
            )
        if not math.isfinite(distance):
            raise ValueError(
                f"the start must be of the size of the samples, got {distance} as the sliced "
                "distance in the end. Pass means_init and precisions_init near them, or none, or "
                "a smaller learning_rate."
            )
        vars(e).pop("lower_bound_", None)
        if self.refined is not None:
            e.lower_bound_ = self.refined.objective
        e._set_parameters(self.in_units(theta), self.X.dtype, self.array_kind)
        e.converged_, e.n_iter_ = solution.converged, solution.n_iter
        e.sliced_wasserstein_ = self.scale * distance
        e.sliced_wassersteins_ = [self.scale * value for value in solution.objectives]

    def in_units(self, theta):
        """A mixture of the coordinates, in the units of the samples."""
        return self.whitening.unwhiten(theta).translated(self.origin)

    def starts(self, warm):
        """Yield the starts."""
        estimator, d = self.estimator, self.X.shape[1]
        spacing = estimator.n_components ** (-1 / d)  # of components that share the samples' extent
        with blocks.workers(self.X.device) as pool:
            grouped = EM(InMemory(self.X, self.sample_weight, pool), self.origin, 0.0)
            # Single samples have no spread to descend from: they get a tenth of the spacing.
            em = self._em(pool, estimator.reg_covar + (0.1 * spacing) ** 2)
            if warm:
                yield from self.runs.starts(
                    1, lambda _: self.whitening.whiten(earlier.earlier_fit(estimator, grouped))
                )
                return
            given = self._given(grouped)

            def draw(run):
                options = {"kind": self.array_kind, "grouped": grouped}
                start = drawing.one_start(estimator, em, given, self.rng, run, **options)
                start = start._replace(weights=start.weights / start.weights.sum())
                return start if given[2] is not None else _narrowed(start, spacing**2)

            yield from self.runs.starts(estimator.n_init, draw)

    def descend(self, theta0, **options):
        """The sliced fit from a start."""
        estimator = self.estimator
        options = {
            "tol": estimator.tol,
            "max_iter": estimator.max_iter,
            "learning_rate": estimator.learning_rate,
            "optimizer": _optimizer(estimator.optimizer),
            # the settling does what halvings would do
            "n_halvings": N_HALVINGS if estimator.refine else 0,
        } | options
        return fit_sliced(self.objective, theta0, **options)

    def finish(self, solution, alone):
        """The end of the fit, in sliced distance no worse than its start nor, if not alone, EM's.

        Where EM's fit explains the samples, only a far nearer end counts.
        """
        run, distance = solution.value, self.objective.held_out_distance
        if alone:
            best = self._settled(run).value
        else:
            likely = self._likeliest()
            best = self._nearest(run, likely)
            if distance(likely) <= NEAR * distance(best) and self.objective.explains(likely):
                best = likely
        start = solution.previous
        return start if distance(start) < distance(best) else best

    def _nearest(self, end, likely):
        """A run's end or EM's fit, both settled.

        The run counts only where it is nearer by more than fitted noise. If its components have
        collapsed, which lines hardly show, EM goes on from it first.
        """
        if self._collapsed(end):
            end = self._climbed(end)
        likely = self._settled(likely)
        run = self._settled(end, hopeless=HOPELESS * likely.objective)
        return run.value if (1 + NOISE) * run.objective < likely.objective else likely.value

    def refine(self, theta, alone):
        """EM from the end of the sliced fit; if not alone, no worse than EM's own fit."""
        ends = [theta] if alone else [theta, self._likeliest()]
        with torch.no_grad(), blocks.workers(self.X.device) as pool:
            em = self._em(pool, self.estimator.reg_covar)
            climbed = [climb(em, end, tol=REFINE_TOL, max_iter=REFINE_MAX_ITER) for end in ends]
        best = max(climbed, key=lambda s: s.objective)
        return best._replace(objective=best.objective - self.whitening.log_det())

    def _settled(self, theta, hopeless=math.inf):
        return refine_sliced(self.objective, theta, tol=self.estimator.tol, hopeless=hopeless)

    def _collapsed(self, theta):
        """Whether components are far thinner than the samples that they explain.

        A step of EM, which widens them to these, then gains more than a nat a feature.
        """
        with torch.no_grad(), blocks.workers(self.X.device) as pool:
            em = self._likelihood(pool)
            after, log_likelihood = em(theta)
            return em(after)[1] - log_likelihood > self.X.shape[1]

    def _climbed(self, theta):
        """EM from a mixture, with its own defaults."""
        with torch.no_grad(), blocks.workers(self.X.device) as pool:
            return climb(self._likelihood(pool), theta, tol=EM_TOL, max_iter=EM_MAX_ITER).value

    def _likeliest(self):
        """EM's fit from k-means, or from what is given."""
        K = self.estimator.n_components
        with (
            torch.no_grad(),
            warnings.catch_warnings(),
            blocks.workers(self.X.device) as pool,
        ):
            # of fewer distinct samples than components: nobody asked for this start
            warnings.simplefilter("ignore", ConvergenceWarning)
            grouped = EM(InMemory(self.X, self.sample_weight, pool), self.origin, 0.0)
            em = self._likelihood(pool)
            seed = self.estimator.random_state
            rng = self.rng if seed is None else check_random_state(seed)
            found = assignments.start(
                assignments.assign("kmeans", grouped, K, rng), em, self.covariance_type, K
            )
            given = zip(found, self._given(grouped), strict=True)
            parts = [f if g is None else g for f, g in given]
        return self._climbed(GaussianMixtureParams(*parts, found.covariance_type))

    def _given(self, em):
        """What is given of the start, in the coordinates."""
        weights, means, covariances = initial_values.given(self.estimator, em)
        K, d = self.estimator.n_components, self.X.shape[1]
        zero = torch.zeros((), dtype=torch.float64, device=self.X.device)
        shapes = (K,), (K, d), self.covariance_type.shape(K, d)
        moved = self.whitening.whiten(
            GaussianMixtureParams(
                *(
                    zero.expand(shape) if part is None else part
                    for part, shape in zip((weights, means, covariances), shapes, strict=True)
                ),
                self.covariance_type,
            )
        )
        if not all(torch.isfinite(part).all() for part in moved):
            raise ValueError(
                "the start must be of the size of the samples, got infinite parameters in their "
                "unit. Pass means_init and precisions_init near them, or none."
            )
        parts = zip((weights, means, covariances), moved, strict=True)
        return tuple(None if part is None else new for part, new in parts)

    def _likelihood(self, pool):
        """EM as the fits that a sliced one is compared with are made."""
        return self._em(pool, max(self.estimator.reg_covar, LEAST_REG))

    def _em(self, pool, reg_covar):
        rows = self.objective.X
        return EM(InMemory(rows, self.sample_weight, pool), torch.zeros_like(rows[0]), reg_covar)


def _optimizer(given):
    """A function of parameters and learning rate, whose result is checked."""

    def optimizer(parameters, learning_rate):
        made = OPTIMIZERS.get(given, given)(parameters, learning_rate)
        if not isinstance(made, torch.optim.Optimizer):
            raise TypeError(
                "optimizer must return a torch.optim.Optimizer, got "
                f"{type(made).__name__}. Pass a function (parameters, learning_rate) such as "
                "torch.optim.SGD."
            )
        return made

    return optimizer


def _narrowed(theta: GaussianMixtureParams, variance: float) -> GaussianMixtureParams:
    """A mixture whose covariances, where wider on average, have this mean variance.

    Wide components all look alike from everywhere, and draw together.
    """
    covariance_type = theta.covariance_type
    widest = float(covariance_type.diagonals(theta.covariances).mean())
    return theta._replace(covariances=theta.covariances * min(1.0, variance / widest))


def _check_width(X) -> None:
    """Refuse samples that differ, but by so little that variances would underflow their dtype."""
    low, high = X.detach().amin(0), X.detach().amax(0)
    width, limit = float((high - low).max()), 1e3 * torch.finfo(X.dtype).tiny ** 0.5
    if 0 < width < limit:
        raise ValueError(
            f"X must be wider than {limit:.1e} for covariances in {X.dtype}, got a width of "
            f"{width:.1e}. Rescale X."
        )


def _spread(centred, sample_weight) -> float:
    """The root of the mean variance of the features; one if nothing varies."""
    squares = centred.square().mean(1)
    return math.sqrt(float(_shares(sample_weight, squares) @ squares)) or 1.0


def _second_moment(covariance_type, centred, sample_weight):
    """The second moment of samples, in the storage of a covariance type."""
    shares = _shares(sample_weight, centred[:, 0])
    return covariance_type.scatter(centred.unsqueeze(0), shares.unsqueeze(0))


def _shares(sample_weight, like):
    """Weights of samples, of sum one."""
    a = torch.ones_like(like) if sample_weight is None else sample_weight.to(like)
    return a / a.sum()


def _whole(theta: GaussianMixtureParams):
    """The second moment of a mixture about the origin, in storage."""
    covariance_type, weights = theta.covariance_type, theta.weights
    between = covariance_type.scatter(theta.means.unsqueeze(0), weights.unsqueeze(0))
    each = theta.covariances.expand(len(weights), *theta.covariances.shape[1:])
    return between + torch.tensordot(weights, each, dims=1).unsqueeze(0)
