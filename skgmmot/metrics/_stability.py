"""How far errors of fitted mixtures move MW2: bounds, and the errors to expect of n samples."""

import math
from numbers import Integral
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from skgmmot._inputs.mixtures import as_mixture, as_pair
from skgmmot._inputs.seeds import seed_of
from skgmmot.estimators.mixtures._inference import check_maximum_likelihood
from skgmmot.fitting.em.gradient.information import parameter_covariance
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.gaussian.sampling import sample
from skgmmot.numerics.counts import positive_integer
from skgmmot.numerics.linalg import power_of_two
from skgmmot.numerics.threads import single_threaded_torch
from skgmmot.transport.mixtures.distance import check_dimensions, cost_matrix

#: Samples by which the information in one sample is estimated, for each stored parameter.
SAMPLES_PER_PARAMETER = 5000


class FitErrors(NamedTuple):
    """Errors of a fitted mixture whose components are in the order of the true ones."""

    weights: float
    """``sum_k |w_k - w'_k|``."""
    means: float
    """``max_k |m_k - m'_k|``."""
    roots: float
    """``max_k |S_k^{1/2} - S'_k^{1/2}|``, in the Frobenius norm."""

    @property
    def squared_distance(self) -> float:
        """A bound of the squared W2 between a component and its fit."""
        return self.means**2 + self.roots**2


class StabilityBounds(NamedTuple):
    """Bounds of the errors of MW2 that are due to fits, and the errors that they follow from."""

    source: float
    """Bound of the squared MW2 between the source and its fit."""
    target: float
    """That of the target."""
    distance: float
    """Bound of the change of the squared MW2 between the two."""
    source_errors: FitErrors
    """Errors of the fit of the source."""
    target_errors: FitErrors
    """Errors of the fit of the target."""


@single_threaded_torch()
def stability_bounds(source, target, n_samples, *, random_state=0):
    r"""Estimate how far MW2 between two mixtures is off if they are fitted to n samples each.

    With errors :math:`e_w = \sum_k |\hat w_k - w_k|`, :math:`e_m = \max_k |\hat m_k - m_k|` and
    :math:`e_S = \max_k |\hat S_k^{1/2} - S_k^{1/2}|_F` of a fit, and the sizes :math:`R_m` of means
    and :math:`R_S` of roots of covariances,

    .. math::

        \operatorname{MW}_2^2(\hat\mu, \mu) &\le e_m^2 + e_S^2
        + \tfrac12 e_w \max_{kl} W_2^2(\hat g_k, g_l), \\
        |\operatorname{MW}_2^2(\hat\mu, \hat\nu) - \operatorname{MW}_2^2(\mu, \nu)|
        &\le 8 R_m e_m + 8 R_S e_S + 8 (R_m^2 + R_S^2) e_w.

    Parameters
    ----------
    source, target : fitted mixture estimator or tuple (weights, means, covariances)
        The mixtures, or fits that stand for them.
    n_samples : int, tuple of two int, or tuple of two mixtures
        Numbers of samples of the source and the target, or one for both: the errors are then those
        of maximum likelihood, by the information in so many samples. Two fitted mixtures: the
        errors are theirs.
    random_state : int, RandomState instance or None, default=0
        Draws the samples from which the information is estimated.

    Returns
    -------
    StabilityBounds
        ``source``, ``target`` and ``distance``, in squared units of the data, and ``source_errors``
        and ``target_errors``.

    Raises
    ------
    NotFittedError
        If an estimator is not fitted.
    TypeError
        If a mixture is neither an estimator nor a tuple.
    ValueError
        If mixtures differ in dimension or numbers of components, a number of samples is not a
        positive integer, components overlap so much that samples do not tell them apart, or, for a
        number of samples, a covariance type is not elementary, a weight is zero, or a fit is known
        to be another than of maximum likelihood: of noise, labels, a prior or fixed parameters.

    Notes
    -----
    The bounds are proved for given errors. For given numbers of samples the errors are the ones to
    expect (root mean squares, of the order ``n^{-1/2}``), and so are the bounds: they hold for most
    fits, if these converged to the maximum near the truth. The first bound is nearly attained if
    components are separated; the second one is 20 times too large or more. Costs the observed
    information of about 5000 samples for each parameter, which are drawn: where components overlap
    strongly, bounds vary by a tenth with the draw.

    References
    ----------
    .. [1] Boite, Tanguy, Delon, Desolneux and Flamary 2025, propositions 3.1 and 3.2.

    Examples
    --------
    >>> from skgmmot.metrics import stability_bounds
    >>> source = ([0.5, 0.5], [[0.0, 0.0], [9.0, 0.0]], [1.0, 2.0], "spherical")
    >>> target = ([0.3, 0.7], [[0.0, 5.0], [9.0, 5.0]], [1.0, 1.0], "spherical")
    >>> few, many = (stability_bounds(source, target, n) for n in (1000, 100_000))
    >>> print(f"{few.source / many.source:.0f}")
    10
    """
    fits = source, target
    source, target, _ = as_pair(source, target)
    pair = [_in_double(mixture) for mixture in (source, target)]
    given = n_samples if isinstance(n_samples, tuple | list) else (n_samples, n_samples)
    if len(given) != 2:
        raise ValueError(
            f"n_samples must be one for each of the two mixtures, got {len(given)}. Pass a number, "
            "or a pair."
        )
    for name, fit, of in zip(("source", "target"), fits, given, strict=True):
        if isinstance(of, Integral):  # else the errors are given
            check_maximum_likelihood(fit, "the errors of so many samples", f" of {name}")
    generator = torch.Generator().manual_seed(seed_of(random_state))
    errors = [_errors(mixture, of, generator) for mixture, of in zip(pair, given, strict=True)]
    bounds = [_fit_bound(mixture, e) for mixture, e in zip(pair, errors, strict=True)]
    return StabilityBounds(*bounds, _distance_bound(pair, errors), *errors)


def _in_double(mixture: GaussianMixtureParams) -> GaussianMixtureParams:
    """A mixture as a constant, in float64 on the CPU."""
    return mixture.detach().in_base().to(dtype=torch.float64, device="cpu")


def _errors(true: GaussianMixtureParams, of, generator) -> FitErrors:
    """Errors of a fit: of a given one, or those to expect of a number of samples."""
    if isinstance(of, Integral) and not isinstance(of, bool):
        n_samples = positive_integer("n_samples", of, "Pass the size of a sample.")
        unit = _width(true)  # squares of variances may leave the range
        expected = _expected_errors(true.scaled(1 / unit), n_samples, generator)
        return expected._replace(means=unit * expected.means, roots=unit * expected.roots)
    if isinstance(of, float | str | bool) or of is None:
        raise ValueError(
            f"n_samples must be a positive integer or a fitted mixture, got {of!r}. Pass the size "
            "of a sample."
        )
    found, _ = as_mixture(of, "n_samples")
    check_dimensions(found, true)
    return _errors_between(_in_double(found), true)


def _width(mixture: GaussianMixtureParams) -> float:
    """A power of two about the largest standard deviation."""
    variances = mixture.full_covariances().diagonal(dim1=1, dim2=2)
    return power_of_two(math.sqrt(float(variances.max())))


def _errors_between(found: GaussianMixtureParams, true: GaussianMixtureParams) -> FitErrors:
    """Errors of a fit, component by component."""
    if len(found.weights) != len(true.weights):
        raise ValueError(
            f"a fit must have the components of its mixture, {len(true.weights)}, got "
            f"{len(found.weights)}. Fit as many, in the same order."
        )
    change = _roots(found) - _roots(true)
    return FitErrors(
        float((found.weights - true.weights).abs().sum()),
        float((found.means - true.means).norm(dim=1).max()),
        float(change.flatten(1).norm(dim=1).max()),
    )


def _expected_errors(true: GaussianMixtureParams, n_samples: int, generator) -> FitErrors:
    """Errors of maximum likelihood to expect of a number of samples."""
    _check_informative(true)
    sizes = [t.numel() for t in true]
    n_drawn = SAMPLES_PER_PARAMETER * sum(sizes)
    X, _ = sample(true, n_drawn, generator=generator)
    V = parameter_covariance(true, X).covariance * (n_drawn / n_samples)
    of_weights, of_means, of_covariances = (
        V[end - size : end, end - size : end]
        for size, end in zip(sizes, np.cumsum(sizes).tolist(), strict=True)
    )
    absolute = (2 / np.pi * of_weights.diagonal().clamp(min=0)).sqrt()  # of a normal error
    squares = of_means.diagonal().reshape(true.means.shape).sum(1)
    values, vectors = torch.linalg.eigh(of_covariances)
    directions = (vectors * values.clamp(min=0).sqrt()).mT.reshape(-1, *true.covariances.shape)
    changes = _changes_of_roots(true, directions)
    return FitErrors(
        float(absolute.sum()),
        float(squares.max().sqrt()),
        float(changes.square().sum((0, 2, 3)).max().sqrt()),
    )


def _check_informative(true: GaussianMixtureParams) -> None:
    """Refuse mixtures whose parameters have no errors to expect."""
    if not true.covariance_type.elementary:
        raise ValueError(
            "covariance_type must be 'full', 'tied', 'diag' or 'spherical' where n_samples is a "
            f"number, got {true.covariance_type.name!r}. Pass two fits as n_samples."
        )
    empty = (true.weights == 0).nonzero().flatten().tolist()
    if empty:
        raise ValueError(
            "weights must be positive where n_samples is a number, got 0 for component(s) "
            f"{empty}. Leave these out."
        )


def _roots(mixture: GaussianMixtureParams) -> Tensor:
    """Symmetric roots of the covariances ``(K, d, d)``."""
    values, vectors = torch.linalg.eigh(mixture.full_covariances())
    return (vectors * values.clamp(min=0).sqrt().unsqueeze(-2)) @ vectors.mT


def _changes_of_roots(mixture: GaussianMixtureParams, changes: Tensor) -> Tensor:
    """Derivatives of the roots ``(m, K, d, d)`` along m changes of the covariances."""
    values, vectors = torch.linalg.eigh(mixture.full_covariances())
    roots = values.clamp(min=0).sqrt()
    together = roots.unsqueeze(-1) + roots.unsqueeze(-2)
    to_full, shape = mixture.covariance_type.to_full, mixture.means.shape
    full = torch.stack([to_full(change, *shape) for change in changes])
    return vectors @ (vectors.mT @ full @ vectors / together) @ vectors.mT


def _fit_bound(true: GaussianMixtureParams, errors: FitErrors) -> float:
    """The bound of the squared MW2 between a mixture and its fit."""
    own = errors.squared_distance
    furthest = (float(cost_matrix(true, true).max()) ** 0.5 + own**0.5) ** 2
    return own + errors.weights / 2 * furthest


def _distance_bound(pair: list[GaussianMixtureParams], errors: list[FitErrors]) -> float:
    """The bound of the change of the squared MW2 between two mixtures and their fits."""
    middle = (pair[0].weights @ pair[0].means + pair[1].weights @ pair[1].means) / 2
    weights, means, roots = (max(both) for both in zip(*errors, strict=True))
    R_m = max(float((m.means - middle).norm(dim=1).max()) for m in pair) + means
    R_S = max(float(_roots(m).flatten(1).norm(dim=1).max()) for m in pair) + roots
    return 8 * R_m * means + 8 * R_S * roots + 8 * (R_m**2 + R_S**2) * weights
