"""Standard errors of mixtures that are fitted by maximum likelihood."""

import warnings
from typing import Any, NamedTuple

import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import BayesianGaussianMixture
from sklearn.utils.validation import check_is_fitted

from skgmmot._inputs import arrays, places
from skgmmot._types import Samples
from skgmmot.estimators.mixtures._base import MixtureEstimator
from skgmmot.estimators.mixtures._missing import refuse_missing
from skgmmot.fitting.em.constraint import constraint_of
from skgmmot.fitting.em.e_steps import E_STEPS
from skgmmot.fitting.em.gradient.information import (
    ParameterCovariance,
    check_range,
    covariance_of,
)
from skgmmot.fitting.em.prior import check_prior
from skgmmot.fitting.em.rows import EM
from skgmmot.fitting.samples import InMemory
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.numerics import blocks
from skgmmot.numerics.threads import single_threaded_torch

#: Distance from the maximum of the likelihood, in standard errors, that is warned of.
FAR = 0.1
#: Share of a component's smallest variance from which ``reg_covar`` is warned of.
HELD_OPEN = 0.01


class StandardErrors(NamedTuple):
    """Standard errors in the shapes of a mixture's attributes."""

    weights: object
    """Those of ``weights_``."""
    means: object
    """Those of ``means_``."""
    covariances: object
    """Those of ``covariances_``."""


class MaximumLikelihood(MixtureEstimator):
    """Base of the mixtures that are fitted by maximum likelihood."""

    def covariance_of_parameters(
        self, X: Samples, sample_weight: Samples | None = None, *, robust: bool | None = None
    ) -> Any:
        """Estimate the covariance of the fitted parameters from the observed information.

        Parameters
        ----------
        X : array-like or Tensor of shape (n_samples, n_features), or callable
            The samples of the fit.
        sample_weight : array-like or Tensor of shape (n_samples,), or callable, default=None
            Their weights in the fit.
        robust : bool, default=None
            False inverts the observed information: right if the samples are of a mixture of this
            type, and weights are counts. True takes the sandwich estimate, which holds for samples
            of other distributions, and for weights of any meaning; only their ratios matter. None
            is whether there are weights that differ.

        Returns
        -------
        array or Tensor of shape (p, p)
            Covariance of ``weights_``, ``means_`` and ``covariances_``, each flattened, one after
            the other. It is singular, as weights sum to one and matrices are symmetric.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If ``X`` or ``sample_weight`` is invalid, ``e_step='sinkhorn'``, which does not maximise
            the likelihood, a component has no samples, there are more than 4096 parameters, or the
            samples do not determine them all.

        Warns
        -----
        ConvergenceWarning
            If the fit is more than a tenth of a standard error from the maximum of the likelihood.
        UserWarning
            If ``reg_covar`` is more than a hundredth of a component's smallest variance.

        Notes
        -----
        Costs a pass over the samples if K and d are small, else one for each parameter.

        References
        ----------
        .. [1] Meng and Rubin 1991, the SEM algorithm.
        .. [2] White 1982, maximum likelihood estimation of misspecified models.
        """
        found, kind = self._parameter_covariance(X, sample_weight, robust)
        dtype = arrays.as_tensor(self.means_).dtype
        check_range(found, dtype)
        return kind.restore(found.covariance.to(dtype))

    def standard_errors(
        self, X: Samples, sample_weight: Samples | None = None, *, robust: bool | None = None
    ) -> StandardErrors:
        """Estimate the standard errors of the fitted parameters from the observed information.

        Parameters
        ----------
        X : array-like or Tensor of shape (n_samples, n_features), or callable
            The samples of the fit.
        sample_weight : array-like or Tensor of shape (n_samples,), or callable, default=None
            Their weights in the fit.
        robust : bool, default=None
            As in `covariance_of_parameters`.

        Returns
        -------
        StandardErrors
            ``weights``, ``means`` and ``covariances``: square roots of the diagonal of
            `covariance_of_parameters`, in the shapes of the attributes.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            As `covariance_of_parameters`.

        Warns
        -----
        ConvergenceWarning
            As `covariance_of_parameters`.
        UserWarning
            As `covariance_of_parameters`.

        Examples
        --------
        >>> import numpy as np
        >>> from skgmmot import DifferentiableGaussianMixture
        >>> X = np.random.default_rng(0).normal(size=(400, 1))
        >>> mixture = DifferentiableGaussianMixture(1).fit(X)
        >>> mixture.standard_errors(X).means.round(2)  # the deviation, 0.99, over a root of 400
        array([[0.05]])
        """
        found, kind = self._parameter_covariance(X, sample_weight, robust)
        shapes = [tuple(arrays.as_tensor(a).shape) for a in (self.weights_, self.means_)]
        shapes.append(tuple(arrays.as_tensor(self.covariances_).shape))
        parts = found.errors.to(arrays.as_tensor(self.means_).dtype).split(
            [torch.Size(shape).numel() for shape in shapes]
        )
        each = zip(parts, shapes, strict=True)
        return StandardErrors(*(kind.restore(part.reshape(shape)) for part, shape in each))

    @single_threaded_torch()
    def _parameter_covariance(self, X, sample_weight, robust):
        """What both need, and the kind of array."""
        check_is_fitted(self)
        check_maximum_likelihood(self, "standard errors", weights_may_stay=True)
        if robust is not None and not isinstance(robust, bool):
            raise TypeError(f"robust must be True, False or None, got {robust!r}. Choose one.")
        samples, origin, count, kind = self._samples_of_fit(X, sample_weight)
        # weights are scaled: the largest is one
        robust = samples.total != samples.n_samples if robust is None else robust
        theta = self._params(dtype=torch.float64, device=samples.device).detach()
        constraint = constraint_of(
            theta.covariance_type,
            len(theta.weights),
            weights=self.fixed_weights,
            device=samples.device,
        )
        em = EM(samples, origin, self.reg_covar, constraint)
        with torch.no_grad():
            found = covariance_of(em, theta.translated(-origin.double()), robust=robust)
        if not robust:  # weights are counts, which were scaled
            found = _of_more(found, count / em.total)
        self._warn_of_errors(found, theta)
        return found, kind

    def _is_likeliest(self) -> bool:
        """Whether the fit is the mixture of maximum likelihood, but for all weights."""
        K = self.n_components
        masks = {"weights": self.fixed_weights, "means": self.fixed_means}
        masks["covariances"] = self.fixed_covariances
        constraint = constraint_of(self._covariance().reduced(K, 1), K, **masks)
        no_mask = constraint.weights is None or constraint.fixes_weights
        return check_prior(self.prior) is None and constraint.moves_all_moments and no_mask

    def _samples_of_fit(self, X, sample_weight):
        """Samples, their origin, the sum of their weights as given, and their kind."""
        elsewhere = places.out_of_core(self, X, sample_weight, reset=False)
        if elsewhere is not None:
            samples, kind = elsewhere
            refuse_missing(samples, "standard errors")
            facts = samples.facts
            return samples, facts.origin, facts.total * facts.largest_weight, kind
        X, kind = arrays.samples(self, X, reset=False)
        arrays.check_range(X)
        a = arrays.sample_weights(sample_weight, X)
        X, a = (None if t is None else t.detach() for t in (X, a))
        count = len(X)
        if a is not None:
            given = arrays.as_tensor(sample_weight).detach().double()
            count = float(given.expand(len(X)).sum())
        return InMemory(X, a), blocks.origin(X, a), count, kind

    def _warn_of_errors(self, found: ParameterCovariance, theta: GaussianMixtureParams) -> None:
        """Warn where standard errors are not those of a maximum of the likelihood."""
        if found.distance > FAR:
            warnings.warn(
                "the fit must be at a maximum of the likelihood for standard errors, got one about "
                f"{found.distance:.2g} standard errors away. Fit with a smaller tol, such as "
                f"tol={min(self.tol / 100, 1e-8):.0e}, and a larger max_iter; or pass the samples "
                "and weights of the fit.",
                ConvergenceWarning,
                stacklevel=5,
            )
        variances = theta.covariance_type.base.deviations(theta.in_base().covariances).square()
        least = float(variances.min())
        if self.reg_covar > HELD_OPEN * least:
            warnings.warn(
                f"reg_covar must be small against the components' variances for standard errors, "
                f"got {self.reg_covar:.2g} for a variance of {least:.2g}, whose error is then not "
                "that of the samples. Use fewer components or a smaller reg_covar.",
                UserWarning,
                stacklevel=5,
            )


def check_maximum_likelihood(
    mixture: Any, what: str, of: str = "", *, weights_may_stay: bool = False
) -> None:
    """Refuse a fit that is not the plain Gaussian mixture of maximum likelihood.

    Parameters
    ----------
    mixture : fitted mixture estimator or anything else
        The fit. Of tuples and estimators of other packages nothing else is known.
    what : str
        What is asked for, in an error message.
    of : str, default=''
        Which fit is meant, as `` of source``.
    weights_may_stay : bool, default=False
        Whether ``fixed_weights=True`` is taken.

    Raises
    ------
    ValueError
        If it is another model, or fitted in another way.
    """
    mixture = getattr(mixture, "best_estimator_", mixture)  # of a search
    if isinstance(mixture, BayesianGaussianMixture) or (
        isinstance(mixture, MixtureEstimator)
        and not isinstance(mixture, MaximumLikelihood)
        and getattr(mixture, "refine", "none") != "em"
    ):
        raise ValueError(
            f"the fit{of} must be the Gaussian mixture of maximum likelihood for {what}, got a "
            f"{type(mixture).__name__}. Fit a DifferentiableGaussianMixture, or use the bootstrap."
        )
    if not isinstance(mixture, MaximumLikelihood):
        return
    if E_STEPS[mixture.e_step].balanced:
        raise ValueError(
            f"e_step{of} must maximise the likelihood for {what}, got {mixture.e_step!r}. Fit with "
            "e_step='posterior'."
        )
    if mixture.labels != "ignore" or hasattr(mixture, "classes_"):
        raise ValueError(
            f"labels{of} must be 'ignore' for {what}, and in the fit, got {mixture.labels!r} and a "
            "likelihood with classes. Fit without labels, or use the bootstrap."
        )
    if mixture.noise != "none" or hasattr(mixture, "noise_weight_"):
        raise ValueError(
            f"noise{of} must be 'none' for {what}, got some, which has a weight of its own. Fit "
            "without, or use the bootstrap."
        )
    no_fixed_weights = mixture.fixed_weights is False or weights_may_stay
    if not mixture._is_likeliest() or not no_fixed_weights:
        of_weights = "be no mask" if weights_may_stay else "be unset, too"
        raise ValueError(
            f"prior, fixed_means and fixed_covariances{of} must be unset, and fixed_weights "
            f"{of_weights}, for {what}, of fits of maximum likelihood; got some of them. Fit "
            "without, or use the bootstrap."
        )


def _of_more(found: ParameterCovariance, times: float) -> ParameterCovariance:
    """The same for so many times as many samples."""
    distance = found.distance * times**0.5
    covariance, errors = found.covariance / times, found.errors / times**0.5
    return found._replace(covariance=covariance, distance=distance, errors=errors)
