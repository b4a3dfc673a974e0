"""Samples with missing entries: what a fit needs of them, and how they are filled in."""

import warnings
from typing import Any, overload

import numpy as np
import torch
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from skgmmot._inputs import arrays
from skgmmot._types import Array, Elsewhere
from skgmmot.estimators.mixtures._base import MixtureEstimator
from skgmmot.fitting.em.rows import EM
from skgmmot.fitting.incomplete import filled
from skgmmot.fitting.samples import InMemory
from skgmmot.gaussian.incomplete.e_steps import IncompleteDefinition
from skgmmot.gaussian.incomplete.patterns import by_pattern
from skgmmot.numerics import blocks
from skgmmot.numerics.threads import single_threaded_torch

#: Pairs of features that a warning names.
NAMED = 5


def check_observed(estimator, pairs: Tensor, n_informative: int | None = None) -> None:
    """Refuse features without any observation; warn of pairs that are never observed together.

    Parameters
    ----------
    estimator : MixtureEstimator
        Its number of components, its covariance type and its features' names.
    pairs : Tensor of shape (d, d)
        In how many samples each pair of features is observed.
    n_informative : int, default=None
        How many samples have any observed entry, where that is known.

    Raises
    ------
    ValueError
        If a feature is observed in no sample, or fewer samples than components have any.

    Warns
    -----
    UserWarning
        If the covariance of a pair of features depends on the start alone.
    """
    names = getattr(estimator, "feature_names_in_", None)

    def shown(numbers):
        return [int(i) if names is None else str(names[i]) for i in numbers]

    nothing = (pairs.diagonal() == 0).nonzero().squeeze(1).tolist()
    if nothing:
        raise ValueError(
            "X must have an observed entry in each feature, got none in "
            f"{len(nothing)} of {len(pairs)} (first: {shown(nothing[:1])[0]!r}). Drop these "
            "features."
        )
    K = estimator.n_components
    if n_informative is not None and n_informative < K:
        raise ValueError(
            "X must have an observed entry in at least as many samples as there are components, "
            f"got {n_informative} of them and n_components = {K}. Pass more samples or ask for "
            "fewer components."
        )
    if estimator._covariance().base.diagonal:
        return
    apart = (pairs.triu(1) + torch.ones_like(pairs).tril() == 0).nonzero().tolist()
    if apart:
        few = ", ".join(str(tuple(shown(pair))) for pair in apart[:NAMED])
        warnings.warn(
            "each pair of features should be observed together in some sample, got none for "
            f"{len(apart)} pair(s): {few}{' ...' if len(apart) > NAMED else ''}. Their covariance "
            "is not determined by the samples. Use covariance_type='diag', or other samples.",
            UserWarning,
            stacklevel=8,
        )


def refuse_missing(samples, what: str) -> None:
    """Raise where samples in blocks have missing entries, which something takes not."""
    if samples.incomplete:
        raise ValueError(
            f"X must be complete for {what}, got missing entries. Impute them first, as by "
            "impute(X)."
        )


def to_start_from(em: EM, X: Tensor, sample_weight: Tensor | None) -> EM:
    """Complete samples to start from, in the order given; what is missing is estimated.

    Samples without any observed entry have no weight.
    """
    nothing = torch.isnan(X).all(1)
    if nothing.any():
        a = X.new_ones(len(X)) if sample_weight is None else sample_weight
        sample_weight = a.masked_fill(nothing, 0.0)
    samples = InMemory(filled(X, sample_weight), sample_weight)
    return EM(samples, em.origin, em.reg_covar, em.constraint)


class Imputing(MixtureEstimator):
    """Base of the mixtures that fill in missing entries of samples."""

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = arrays.takes_missing(self)
        return tags

    @overload
    def impute(self, X: Elsewhere, *, draw: bool = ...) -> Any: ...

    @overload
    def impute(self, X: Array, *, draw: bool = ...) -> np.ndarray: ...

    @single_threaded_torch()
    def impute(self, X, *, draw=False):
        r"""Fill in missing entries from the observed ones of the same sample.

        .. math::

            \operatorname{E}[x_m \mid x_o] = \sum_k \gamma_k(x_o)
                \bigl(m_{k,m} + \Sigma_{k,mo} \Sigma_{k,oo}^{-1} (x_o - m_{k,o})\bigr)

        Parameters
        ----------
        X : array-like or Tensor of shape (n_samples, n_features)
            Samples; NaN is missing. Whatever ``missing_values`` says of the samples of a fit.
        draw : bool, default=False
            Whether to draw missing entries from their distribution given the observed ones, by
            ``random_state``, instead of taking its mean, which has too little variance.

        Returns
        -------
        array or Tensor of shape (n_samples, n_features)
            The samples in the dtype of ``X``, complete; observed entries as they are. A sample
            without any observed entry becomes the mean of the mixture, or a draw from it. Means are
            differentiable, and tensors, if ``X`` or the fitted tensors require a gradient.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If ``X`` is infinite somewhere or has other features than the fit.

        Examples
        --------
        >>> import numpy as np
        >>> from skgmmot import DifferentiableGaussianMixture
        >>> mixture = DifferentiableGaussianMixture.from_parameters(
        ...     [1.0], [[0.0, 0.0]], [[[1.0, 0.5], [0.5, 1.0]]], "full"
        ... )
        >>> mixture.impute([[2.0, np.nan], [np.nan, np.nan]])
        array([[2., 1.],
               [0., 0.]])
        """
        check_is_fitted(self, "means_")
        X, kind = arrays.samples(self, X, reset=False, missing=True)
        missing = torch.isnan(X.detach())
        if not missing.any():
            return kind.restore(X)
        order = by_pattern(X.detach())
        x, step = X[order], IncompleteDefinition(self._prepared(X))
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order), device=order.device)
        if draw:
            rng = check_random_state(self.random_state)
            numbers = rng.uniform(size=len(X)), rng.standard_normal(size=X.shape)
            numbers = [torch.from_numpy(n).to(X.device)[order] for n in numbers]
            found = blocks.map_rows(step.draw, 3 * step.row_size, x, *numbers)
        elif X.requires_grad or step.theta.requires_grad:
            found = step.conditional_mean(x)
        else:
            found = blocks.map_rows(step.conditional_mean, 3 * step.row_size, x)
        return kind.restore(torch.where(missing, found[back].to(X.dtype), X))
