"""`GaussianMixtureSearch`: chooses the number of components and the covariance type."""

import warnings
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
import torch
from scipy.stats import rankdata
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions

from skgmmot._inputs import arrays
from skgmmot._types import RandomState, Samples
from skgmmot.estimators._default_mixture import DefaultMixture
from skgmmot.estimators._parameters import Absent
from skgmmot.estimators.mixtures._base import MixtureEstimator, seen_weight
from skgmmot.estimators.mixtures._fit import FittedMixture
from skgmmot.estimators.mixtures.differentiable import DifferentiableGaussianMixture
from skgmmot.estimators.search._comparison import Comparison
from skgmmot.fitting.em.e_steps import E_STEPS
from skgmmot.plotting._criterion import CriterionDisplay

CRITERIA = ("bic", "aic", "icl", "held_out")
#: Why a search has no way to begin with a known mixture.
MADE = "a search is made by comparing fits. Use that of DifferentiableGaussianMixture."


class GaussianMixtureSearch(DefaultMixture, FittedMixture):
    r"""Gaussian mixture whose number of components and covariance type are chosen by a criterion.

    Mixtures of each covariance type are fitted with more and more components, each from starts of
    its own, from the last fit with components split, and from the next with components merged. A
    type is given up where further components do not help. The criteria are, with L the
    log-likelihood, p the number of free parameters and n of samples,

    .. math::

        \text{BIC} = -2 L + p \log n, \qquad \text{AIC} = -2 L + 2 p, \qquad
        \text{ICL} = \text{BIC} - 2 \sum_{ik} \gamma_{ik} \log \gamma_{ik},

    and minus twice the log-likelihood of held-out samples in cross-validation. The search is
    itself a fitted mixture, the best one: it predicts, and can be transported.

    Parameters
    ----------
    n_components : int or iterable of int, default=(1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
        Numbers of components to compare. Those that exceed the number of samples (of a fold) are
        left out.
    covariance_types : str or iterable of str, default=('full', 'tied', 'diag', 'spherical')
        Covariance types to compare.
    criterion : {'bic', 'aic', 'icl', 'held_out'}, default='bic'
        What to minimise. ``'bic'`` finds the components of the density, ``'icl'`` groups that are
        apart; ``'aic'`` and ``'held_out'`` the best density, with more components.
    mixture : DifferentiableGaussianMixture, default=None
        All other parameters of the fits, such as ``reg_covar``; None is
        ``DifferentiableGaussianMixture(n_init=2)``. Its ``n_init`` counts starts beside splits and
        merges, and its ``random_state`` is not used. They can also be set as
        ``set_params(mixture__reg_covar=...)``. With its ``missing_values='nan'`` entries may be
        missing.
    cv : int or splitter, default=5
        Folds, shuffled, or an object with scikit-learn's ``split``, for ``'held_out'``.
    patience : int, default=2
        A type is given up when this many numbers of components in a row were clearly worse than its
        best (by more than 10), or when it is so far behind the best of all that it would not catch
        up if each further component helped as much as the last ones. None compares all.
    random_state : int, RandomState instance or None, default=None
        Controls the starts, the folds and `sample`.
    verbose : int, default=0
        1 shows a progress bar over the fits, with the best criterion; types that are given up end
        it early.
    n_jobs : int, default=None
        Processes that share the covariance types, by joblib: None is 1, -1 all processors. The
        results are the same. Processes take seconds to start, and share what threads of one fit
        could use: they are for searches of minutes. Samples on another device than the CPU are
        fitted in this process.

    Attributes
    ----------
    best_estimator_ : DifferentiableGaussianMixture
        The best mixture, fitted to all samples.
    best_params_ : dict
        Its ``n_components`` and ``covariance_type``.
    best_criterion_ : float
        Its criterion.
    best_score_ : float
        The same as scikit-learn's searches have it, to be large: minus the criterion, or the mean
        log-likelihood of held-out samples.
    cv_results_ : dict of ndarrays
        The main columns of ``results_`` under the names of scikit-learn's searches: ``params``,
        ``param_n_components``, ``param_covariance_type``, ``mean_test_score``, ``rank_test_score``
        and ``mean_fit_time``.
    best_index_ : int
        Its row in ``results_``.
    results_ : dict of ndarrays
        A row for each fit, in the order of the fits; a frame by ``pandas.DataFrame(results_)``.
        ``n_components``, ``covariance_type``, ``criterion``, ``n_parameters``,
        ``log_likelihood`` (mean), ``bic``, ``aic``, ``icl``, ``held_out`` (mean log-likelihood, if
        it is the criterion), ``n_iter``, ``converged``, ``start`` (what the best run started
        from: ``'split'``, ``'merge'`` or ``init_params``), ``collapsed`` (the variance of
        a component is that of ``reg_covar`` alone, so that likelihoods cannot be compared: such a
        fit is chosen only if all are) and ``fit_time`` in seconds. Those given up have no row.
    error_, solution_ : float, Solution
        With ``certify=True`` of the ``mixture`` how far the best is from its fixed point, and its
        ``gain``.
    n_components_ : int
        The number of components K of the best.
    covariance_type_ : str
        Its covariance type.
    weights_ : array or Tensor of shape (K,)
        Its weights.
    means_ : array or Tensor of shape (K, n_features)
        Its means.
    covariances_ : array or Tensor
        Its covariances, as in `DifferentiableGaussianMixture`.
    precisions_ : array or Tensor
        Inverse covariances, in the same shape.
    precisions_cholesky_ : array or Tensor
        Factors ``P`` of the precisions, ``P @ P.T``, in the same shape.
    converged_ : bool
        Whether its fit converged.
    n_iter_ : int
        Iterations of its fit.
    n_features_in_ : int
        Number of features d.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if ``X`` had any.

    See Also
    --------
    skgmmot.DifferentiableGaussianMixture : The mixtures that are compared.

    Notes
    -----
    A fit that raises because a covariance is singular has criterion ``inf``. With ``'held_out'``
    all is done once more for each fold.

    References
    ----------
    .. [1] Biernacki, Celeux and Govaert 2000, the integrated completed likelihood.

    Examples
    --------
    >>> import numpy as np
    >>> from skgmmot import GaussianMixtureSearch
    >>> rng = np.random.default_rng(0)
    >>> X = np.vstack([rng.normal(c, 1, size=(100, 2)) for c in ([0, 0], [6, 0], [0, 6])])
    >>> search = GaussianMixtureSearch(n_components=range(1, 7), random_state=0).fit(X)
    >>> search.best_params_
    {'n_components': 3, 'covariance_type': 'spherical'}
    >>> search.predict([[6, 0]]).shape
    (1,)
    """

    _parameter_constraints: dict = {
        "n_components": [Interval(Integral, 1, None, closed="left"), Iterable],
        "covariance_types": [str, Iterable],
        "criterion": [StrOptions(set(CRITERIA))],
        "mixture": [MixtureEstimator, None],
        "cv": [Interval(Integral, 2, None, closed="left"), HasMethods(["split"])],
        "patience": [Interval(Real, 1, None, closed="left"), None],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
        "n_jobs": [Integral, None],
    }

    def __init__(
        self,
        n_components: int | Iterable[int] = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10),
        covariance_types: str | Iterable[str] = ("full", "tied", "diag", "spherical"),
        *,
        criterion: str = "bic",
        mixture: BaseEstimator | None = None,
        cv: Any = 5,
        patience: int = 2,
        random_state: RandomState = None,
        verbose: int = 0,
        n_jobs: int | None = None,
    ) -> None:
        self.n_components = n_components
        self.covariance_types = covariance_types
        self.criterion = criterion
        self.mixture = mixture
        self.cv = cv
        self.patience = patience
        self.random_state = random_state
        self.verbose = verbose
        self.n_jobs = n_jobs

    def fit(
        self, X: Samples, y: Samples | None = None, sample_weight: Samples | None = None
    ) -> Self:
        """Fit and compare all mixtures, and keep the best.

        Parameters
        ----------
        X : array-like or Tensor of shape (n_samples, n_features)
            Samples. The result is not differentiable in them: fit ``best_estimator_`` again for
            that.
        y : None
            Ignored.
        sample_weight : array-like or Tensor of shape (n_samples,), default=None
            How often each sample was seen: their sum is the number of samples of the criteria.

        Returns
        -------
        GaussianMixtureSearch
            The fitted estimator.

        Raises
        ------
        TypeError
            If ``mixture`` is another estimator.
        ValueError
            If a parameter, ``X`` or ``sample_weight`` is invalid, there are fewer samples (of a
            fold) than the fewest components, or every fit fails; an earlier fit is then left as it
            was.

        Warns
        -----
        ConvergenceWarning
            If the best fit has not converged, or has components without samples.
        UserWarning
            If ``reg_covar`` is large for the features, numbers of components are left out, or the
            best one is the largest of several.
        """
        self._fit(X, sample_weight, y)
        return self

    # a search has nothing but what it compared
    from_parameters, from_sklearn, from_torch = Absent(MADE), Absent(MADE), Absent(MADE)

    @classmethod
    def _known(cls, *given, **parameters):
        """Parts of the best mixture are plain mixtures."""
        return DifferentiableGaussianMixture._known(*given, **parameters)

    # --- what the frame of a fit needs ---------------------------------------------------------

    @property
    def device(self):
        """Where to compute, by ``mixture``."""
        return None if self.mixture is None else self.mixture.device

    @property
    def missing_values(self):
        """Whether entries of samples may be missing, by ``mixture``."""
        return "error" if self.mixture is None else self.mixture.missing_values

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = arrays.takes_missing(self)
        return tags

    @property
    def covariance_type(self):
        """The covariance type of the best; None before a fit."""
        return getattr(self, "covariance_type_", None)

    def _fit_to(self, X, sample_weight, kind):
        return Comparison(self, self._template(), X, sample_weight, kind)

    def _fit_samples(self, X, sample_weight, reached, task):
        for attribute in [name for name in vars(self) if name.endswith("_")]:
            delattr(self, attribute)  # of an earlier fit; on a copy
        options = {"sample_weight": sample_weight, "missing": arrays.takes_missing(self)}
        X, kind = arrays.samples(self, X, reset=True, min_samples=2, **options)
        arrays.check_range(X)
        a = arrays.sample_weights(sample_weight, X)
        count = float(seen_weight(self, X, sample_weight))
        if a is not None:
            X, a = X[a > 0], a[a > 0].detach()
        if (nothing := torch.isnan(X).all(1)).any():  # such samples do not count
            X, a = X[~nothing], None if a is None else a[~nothing]
        comparison = self._fit_to(X.detach(), a, kind)
        texts = comparison.run(count, task)
        for text in texts:
            warnings.warn(text, ConvergenceWarning, stacklevel=5)
        for text in comparison.advice:
            warnings.warn(text, UserWarning, stacklevel=5)

    @property
    def best_score_(self) -> float:
        """The score of the best, as scikit-learn's searches have it."""
        return float(self.cv_results_["mean_test_score"][self.best_index_])

    @property
    def cv_results_(self) -> dict:
        """The scores of all fits, as scikit-learn's searches have them."""
        if not hasattr(self, "results_"):
            raise AttributeError(f"{type(self).__name__} has cv_results_ after fit. Call fit.")
        names, found = ("n_components", "covariance_type"), self.results_
        rows = zip(*(found[name].tolist() for name in names), strict=True)
        scores = found.get("held_out", -found["criterion"])
        return {
            "params": [dict(zip(names, row, strict=True)) for row in rows],
            **{f"param_{name}": found[name] for name in names},
            "mean_test_score": scores,
            "rank_test_score": rankdata(-np.nan_to_num(scores, nan=-np.inf), "min").astype(int),
            "mean_fit_time": found["fit_time"],
        }

    def _template(self):
        """The mixture that candidates are clones of."""
        if self.mixture is None:
            return self._default_mixture()
        mixture = self.mixture
        if not isinstance(mixture, DifferentiableGaussianMixture):
            raise TypeError(
                "mixture must be a DifferentiableGaussianMixture, got "
                f"{type(mixture).__name__}. Likelihoods of other fits cannot be compared so."
            )
        names = ("weights_init", "means_init", "precisions_init")
        given = [name for name in names if getattr(mixture, name) is not None]
        if given:
            raise ValueError(
                f"mixture must have no start of a fixed number of components, got {given[0]}. Set "
                "it to None, or use a function as init_params."
            )
        if mixture.checkpoint is not None:
            raise ValueError(
                f"mixture must have no checkpoint, got {str(mixture.checkpoint)!r}, which all fits "
                "would share. Set it to None; best_estimator_ may have one."
            )
        if mixture.noise != "none":
            raise ValueError(
                f"mixture must have noise='none', got {mixture.noise!r}. Compare the bic of "
                "fits with noise one by one."
            )
        held = mixture.fixed_means, mixture.fixed_covariances
        no_mask = isinstance(mixture.fixed_weights, bool) and all(f is False for f in held)
        if not no_mask or mixture.prior != "none":
            raise ValueError(
                "mixture must have no prior, no mask of fixed_weights and no fixed means or "
                "covariances, got some of them: candidates are compared by their likelihood. Unset "
                "them."
            )
        if mixture.labels != "ignore":
            raise ValueError(
                f"mixture must have labels='ignore', got {mixture.labels!r}: components of classes "
                "cannot be split and merged. Fit best_estimator_ with labels afterwards."
            )
        if E_STEPS[mixture.e_step].balanced:
            raise ValueError(
                f"mixture must maximise the likelihood, got e_step={mixture.e_step!r}. Use "
                "e_step='posterior', or init_params='sinkhorn'."
            )
        return mixture

    def _default_mixture(self):
        return DifferentiableGaussianMixture(n_init=2)

    def plot(self, ax: Any = None) -> Any:
        """Draw the criterion against the number of components, a line for each covariance type.

        A ring is around the best. A line ends where its type was given up; fits that failed or
        collapsed are left out.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes one.

        Returns
        -------
        matplotlib Axes
            The axes.

        Raises
        ------
        NotFittedError
            Before `fit`.

        See Also
        --------
        skgmmot.plotting.CriterionDisplay : The same for other criteria than that of the search.
        """
        return CriterionDisplay.from_estimator(self, ax=ax).ax_
