"""Which E-step is fastest and accurate: for fits, for predictions and for maps.

The definition is best for few samples and always accurate. Matrix products are faster for many, but
lose digits where components are much narrower than their distance from the origin.
"""

import torch
from torch import Tensor

from skgmmot.gaussian.covariance.base import CovarianceType, ElementaryType
from skgmmot.gaussian.evaluators import DefinitionEStep, EStep, FeatureEStep, WhiteningEStep
from skgmmot.gaussian.incomplete.e_steps import IncompleteDefinition, IncompleteFeatures
from skgmmot.gaussian.mixture import GaussianMixtureParams, PreparedMixture

#: The definition is as fast as matrix products for fewer log-joint densities (samples times
#: components) than this, since products take time to set up. With ``HALVING_FEATURES`` features the
#: limit is half of that, since its work grows faster with the features; where all components share
#: a matrix, with ``HALVING_FEATURES_SHARED``.
MIN_PRODUCT_DENSITIES = 2**12
HALVING_FEATURES, HALVING_FEATURES_SHARED = 64, 8
#: Quadratic features are used up to this many for each feature: d = 80 for full covariances, any d
#: for the other types.
MAX_QUADRATIC = 40
#: Whitening is faster than quadratic features above this many for each feature (d = 32), with up to
#: so many components.
MIN_WHITENING_QUADRATIC, MAX_WHITENING_COMPONENTS = 16, 16
#: Largest rounding error of log-densities accepted, by the dtype of the products.
MAX_ROUNDING_ERROR = {torch.float64: 1e-11, torch.float32: 2e-5}


def fastest_e_step(
    mixture: GaussianMixtureParams | PreparedMixture,
    n_samples: float,
    dtype: torch.dtype,
    origin: Tensor | None = None,
    largest: float | None = None,
    *,
    apart: bool = False,
    incomplete: bool = False,
) -> EStep:
    """Choose the fastest E-step that is accurate for a mixture and so many samples.

    Parameters
    ----------
    mixture : GaussianMixtureParams or PreparedMixture
        K components in d dimensions, about the origin.
    n_samples : int or inf
        How many samples there are, in all blocks.
    dtype : torch.dtype
        That of the samples; float64 asks for results in float64.
    origin : Tensor of shape (d,), default=None
        What the mixture is relative to, on the device and in the dtype of the samples. None is
        zero; products then take an origin of their own, in the middle of the mixture.
    largest : float, default=None
        The `cancellation` of the mixture about its origin, if it has been read already.
    apart : bool, default=False
        Whether the shares of a sample that are accumulated may have any sum.
    incomplete : bool, default=False
        Whether entries of the samples may be missing, NaN.

    Returns
    -------
    EStep
        By its definition, by quadratic features, or whitened by columns.

    Raises
    ------
    ValueError
        If a covariance is not positive definite.

    Notes
    -----
    Not differentiable but for the definition.
    """
    if incomplete:
        return _of_incomplete(mixture, n_samples, dtype, origin, largest)
    mixture = mixture.prepare()
    if is_small(mixture, n_samples) or mixture.covariance_type.sketched:
        return DefinitionEStep(mixture, origin)
    about, centre = (mixture, origin) if origin is not None else about_middle(mixture, dtype)
    accurate = accurate_dtype(about, dtype, largest)
    if accurate is None:
        return DefinitionEStep(mixture, origin)
    covariance_type = _type_of_products(mixture, apart)
    whitened = whitening_is_faster(covariance_type, *mixture.means.shape)
    return (WhiteningEStep if whitened else FeatureEStep)(about, centre, accurate, apart)


def _of_incomplete(mixture, n_samples, dtype, origin, largest) -> EStep:
    """The E-step for samples with missing entries."""
    prepared, about, centre = mixture.prepare(), mixture, origin
    covariance_type, d = prepared.covariance_type, prepared.means.shape[1]
    elementary = isinstance(covariance_type, ElementaryType)  # others refuse missing entries
    many = not elementary or quadratic_share(covariance_type, d) > MAX_QUADRATIC
    if many or is_small(prepared, n_samples):
        return IncompleteDefinition(mixture, origin)
    if origin is None:
        about, centre = about_middle(prepared, dtype)
    # precisions of marginals are smaller than the blocks of those of all features
    accurate = accurate_dtype(about.prepare(), dtype, largest)
    if accurate is None:
        return IncompleteDefinition(mixture, origin)
    return IncompleteFeatures(about, centre, accurate)


def definition_e_step(
    mixture: GaussianMixtureParams | PreparedMixture,
    origin: Tensor | None = None,
    *,
    incomplete: bool = False,
) -> EStep:
    """Return the E-step by its definition: always accurate, and differentiable.

    Parameters
    ----------
    mixture : GaussianMixtureParams or PreparedMixture
        K components in d dimensions, about the origin.
    origin : Tensor of shape (d,), default=None
        What the mixture is relative to; None is zero.
    incomplete : bool, default=False
        Whether entries of the samples may be missing, NaN.

    Returns
    -------
    EStep
        The E-step.
    """
    return (IncompleteDefinition if incomplete else DefinitionEStep)(mixture, origin)


def feature_e_step(
    mixture: GaussianMixtureParams | PreparedMixture, dtype: torch.dtype, origin: Tensor
) -> FeatureEStep | None:
    """Return the E-step by quadratic features, on which derivatives are fastest.

    Parameters
    ----------
    mixture : GaussianMixtureParams or PreparedMixture
        K components in d dimensions, about the origin.
    dtype : torch.dtype
        As in `fastest_e_step`.
    origin : Tensor of shape (d,)
        What the mixture is relative to.

    Returns
    -------
    FeatureEStep or None
        None where features are too many, or not accurate.
    """
    mixture = mixture.prepare()
    if mixture.covariance_type.sketched:
        return None
    if quadratic_share(_type_of_products(mixture), len(origin)) > MAX_QUADRATIC:
        return None
    accurate = accurate_dtype(mixture, dtype)
    return None if accurate is None else FeatureEStep(mixture, origin, accurate)


def _type_of_products(mixture: PreparedMixture, apart: bool = False) -> CovarianceType:
    """The covariance type that products compute with."""
    covariance_type = mixture.covariance_type
    return covariance_type.unshared if apart or mixture.noise is not None else covariance_type


def is_small(mixture: PreparedMixture, n_samples: float) -> bool:
    """Return whether so few samples make the definition the fastest E-step.

    Parameters
    ----------
    mixture : PreparedMixture
        K components in d dimensions.
    n_samples : int or inf
        How many samples there are.

    Returns
    -------
    bool
        True where products would take longer to set up than they save.
    """
    K, d = mixture.means.shape
    shared = mixture.covariance_type.shared
    halving = HALVING_FEATURES_SHARED if shared else HALVING_FEATURES
    return n_samples * K * (1 + d / halving) < MIN_PRODUCT_DENSITIES


def about_middle(mixture: PreparedMixture, dtype: torch.dtype) -> tuple[PreparedMixture, Tensor]:
    """Return a mixture about a point in its middle, and that point.

    Parameters
    ----------
    mixture : PreparedMixture
        K components in d dimensions.
    dtype : torch.dtype
        That of the samples.

    Returns
    -------
    about : PreparedMixture
        The mixture about the point, a constant in float64.
    origin : Tensor of shape (d,)
        The point, rounded to the dtype of the samples so that the mixture is not.
    """
    mixture = mixture.to(dtype=torch.float64)
    weights = mixture.log_weights.softmax(0)
    origin = (weights @ mixture.means).to(dtype)
    return mixture._replace(means=mixture.means - origin.double()), origin


def cancellation(mixture: PreparedMixture) -> Tensor:
    r"""Return the size of the terms that cancel where matrix products give log-densities.

    Near the centre of component k these are ``m_i Lambda_ij m_j`` of its precision. Their rounding
    errors have random signs: together they are about eps times

    .. math:: \max_k \sum_i m_{ki}^2 \Lambda_{k,ii}.

    Parameters
    ----------
    mixture : PreparedMixture
        A mixture about the origin.

    Returns
    -------
    Tensor of shape ()
        The size, which times eps is about the rounding error of a log-density.
    """
    diagonals = mixture.covariance_type.precision_diagonals(mixture.factors)
    return (mixture.means.square() * diagonals).sum(-1).max()


def accurate_dtype(
    mixture: PreparedMixture, dtype: torch.dtype, largest: float | None = None
) -> torch.dtype | None:
    """Return the fastest dtype in which products keep enough digits.

    Parameters
    ----------
    mixture : PreparedMixture
        A mixture about the origin, in float64.
    dtype : torch.dtype
        That of the samples.
    largest : float, default=None
        The mixture's `cancellation`, if it has been read already.

    Returns
    -------
    torch.dtype or None
        That of the samples, float64, or None: only the definition is accurate enough.
    """
    largest = float(cancellation(mixture)) if largest is None else largest
    for candidate in (dtype, torch.float64):
        if largest * torch.finfo(candidate).eps < MAX_ROUNDING_ERROR[candidate]:
            return candidate
    return None


def quadratic_share(covariance_type: CovarianceType, n_features: int) -> float:
    """Return the number of quadratic features for each linear one.

    Parameters
    ----------
    covariance_type : CovarianceType
        Type of the covariances.
    n_features : int
        Their dimension d.

    Returns
    -------
    float
        Their number over ``d + 1``.
    """
    return covariance_type.n_quadratic(n_features) / (n_features + 1)


def whitening_is_faster(
    covariance_type: CovarianceType, n_components: int, n_features: int
) -> bool:
    """Return whether whitening by columns is faster than quadratic features.

    Parameters
    ----------
    covariance_type : CovarianceType
        Type of the covariances.
    n_components, n_features : int
        Their number K and dimension d.

    Returns
    -------
    bool
        True only for full covariances, in many dimensions.
    """
    share = quadratic_share(covariance_type, n_features)
    few = n_components <= MAX_WHITENING_COMPONENTS
    return share > MAX_QUADRATIC or (share > MIN_WHITENING_QUADRATIC and few)
