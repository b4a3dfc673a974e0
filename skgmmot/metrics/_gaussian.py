"""Wasserstein distances between two Gaussians, given by their moments or by samples."""

import math

import torch

from skgmmot._inputs import arrays
from skgmmot._inputs.mixtures import in_plain_double
from skgmmot.gaussian.bures.distance import bures_squared_of_roots
from skgmmot.gaussian.bures.pair import wasserstein_squared
from skgmmot.gaussian.bures.rounding import covariance_radii, roots_error
from skgmmot.metrics._mixture import MixtureWasserstein
from skgmmot.numerics.linalg import error_of_root, factor, power_of_two, safe_sqrt, symmetrize
from skgmmot.numerics.threads import single_threaded_torch

#: Smallest number with all digits.
SMALLEST = torch.finfo(torch.float64).tiny


@single_threaded_torch()
def bures_wasserstein_distance(source, target, *, squared=False, return_error=False):
    r"""Compute the 2-Wasserstein distance between two Gaussians.

    .. math::

        W_2^2 = |m_0 - m_1|^2
        + \operatorname{tr}\bigl(S_0 + S_1 - 2 (S_0^{1/2} S_1 S_0^{1/2})^{1/2}\bigr)

    Parameters
    ----------
    source, target : tuple (mean, covariance)
        Arrays or tensors: the mean ``(d,)`` and the covariance ``(d, d)``, the variances ``(d,)``
        or one variance.
    squared : bool, default=False
        Whether to return the square.
    return_error : bool, default=False
        Whether to return ``(distance, error)``, with a bound, to first order, of the rounding in
        the unit of the distance. It is large where a covariance is nearly singular: rounding its
        entries then changes the distance.

    Returns
    -------
    float or Tensor of shape ()
        The distance in units of the data, or its square; a tensor if a Gaussian holds tensors. With
        ``return_error`` a pair of it and a float.

    Raises
    ------
    TypeError
        If one is not a pair.
    ValueError
        If the Gaussians differ in dimension, or a covariance is not one.

    Notes
    -----
    Differentiable once in means and covariances, in closed form, also at equal eigenvalues. MW2
    between mixtures of one component is this distance; covariances may be singular.

    References
    ----------
    .. [1] Delon and Desolneux 2020, optimal transport between Gaussian distributions.

    Examples
    --------
    >>> from skgmmot.metrics import bures_wasserstein_distance
    >>> bures_wasserstein_distance(([0.0, 0.0], [1.0, 4.0]), ([0.0, 3.0], [[1.0, 0.0], [0.0, 4.0]]))
    3.0

    A change in the last digit of a singular covariance has an effect of its square root:

    >>> flat, round_ = ([0.0, 0.0], [[1.0, 1.0], [1.0, 1.0]]), ([0.0, 0.0], [1.0, 1.0])
    >>> value, error = bures_wasserstein_distance(flat, round_, return_error=True)
    >>> print(f"{value:.9f} +- {error:.0e}")
    1.082392200 +- 1e-08
    """
    if not return_error and _are_plain(source, target):
        found = wasserstein_squared(source, target)
        if found is not None:
            return found if squared else found**0.5
    mixtures = (_single(g, name) for g, name in ((source, "source"), (target, "target")))
    return MixtureWasserstein(squared=squared)(*mixtures, return_error=return_error)


@single_threaded_torch()
def frechet_distance(source, target, *, ddof=1, squared=False, return_error=False):
    r"""Compute the 2-Wasserstein distance between Gaussians fitted to two sets of samples.

    .. math::

        W_2\bigl(N(m_0, S_0), N(m_1, S_1)\bigr),
        \qquad S = \frac{1}{n - \text{ddof}} \sum_i (x_i - m)(x_i - m)^T

    Squared, and for samples that are features of the Inception network, this is the Frechet
    inception distance (FID).

    Parameters
    ----------
    source, target : array-like or Tensor of shape (n_samples, n_features)
        Samples, perhaps fewer than features: singular covariances have distances too.
    ddof : {0, 1}, default=1
        Subtracted from the number of samples: 1 gives unbiased covariances, as numpy.cov and FID,
        0 those of a fitted mixture of one component.
    squared : bool, default=False
        Whether to return the square.
    return_error : bool, default=False
        Whether to return ``(distance, error)``, with a bound, to first order, of the rounding of
        moments and distance. It says nothing of the error that comes from few samples.

    Returns
    -------
    float or Tensor of shape ()
        The distance in units of the data, or its square; a tensor if one was handed in. With
        ``return_error`` a pair of it and a float.

    Raises
    ------
    ValueError
        If samples are not two-dimensional, not finite, too few, or differ in dimension.

    See Also
    --------
    bures_wasserstein_distance : The same between given moments.

    Notes
    -----
    Computed in float64, and differentiable once in the samples. Costs ``O(n d^2 + d^3)``. If one
    side has no more samples than features, and both together ``m n <= 4 d^2``, no covariance is
    needed, and it costs ``O(m n d)``.

    References
    ----------
    .. [1] Delon and Desolneux 2020, optimal transport between Gaussian distributions.

    Examples
    --------
    >>> from skgmmot.metrics import frechet_distance
    >>> frechet_distance([[0.0], [2.0]], [[3.0], [7.0]], squared=True)  # 4^2 + (8^.5 - 2^.5)^2
    18.0
    """
    if ddof not in (0, 1):
        raise ValueError(f"ddof must be 0 or 1, got {ddof!r}. 1 gives unbiased covariances.")
    kind = arrays.joint_kind(arrays.kind_of(source), arrays.kind_of(target))
    pairs = ((source, "source"), (target, "target"))
    X, Y = (_samples(Z, name, ddof, kind.device) for Z, name in pairs)
    unit = power_of_two(max(float(Z.detach().abs().max()) for Z in (X, Y)))
    distance = _by_roots if _are_few(X, Y) else _by_moments
    value, error = distance(X / unit, Y / unit, ddof, squared, return_error)
    scaled = value * unit * unit if squared else value * unit
    if squared and value > 0 and not SMALLEST < scaled < math.inf:
        raise ValueError(
            "a squared distance must be within float64, got samples of size "
            f"{unit:.1e}. Rescale them, or leave squared=False."
        )
    answer = scaled if kind.is_tensor else float(scaled)
    if not return_error:
        return answer
    return answer, error * unit * unit if squared else error * unit


def _samples(X, name, ddof, device):
    """Samples as a tensor, if they have a mean and a covariance."""
    X = arrays.as_tensor(X, dtype=torch.float64, device=device)
    if X.ndim != 2 or len(X) <= ddof or not X.shape[1]:
        raise ValueError(
            f"{name} must have shape (n_samples, n_features) with more than {ddof} samples, got "
            f"{tuple(X.shape)}. Pass one sample a row."
        )
    if not torch.isfinite(X.detach()).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity. Drop those samples.")
    return X


def _are_few(X, Y):
    """Whether a covariance is singular, and the samples' product no larger than four of them."""
    (n, d), (m, other) = X.shape, Y.shape
    return d == other and min(n, m) <= d and n * m <= 4 * d**2


def _by_moments(X, Y, ddof, squared, return_error):
    """The distance by covariances, and on demand its rounding error."""
    gaussians = [_moments(Z, ddof) for Z in (X, Y)]
    value = bures_wasserstein_distance(*gaussians, squared=squared, return_error=return_error)
    if not return_error:
        return value, None
    value, error = value
    radius = sum(_rounding(mean, covariance) for mean, covariance in gaussians)
    return value, error + (2 * float(value) ** 0.5 * radius + radius**2 if squared else radius)


def _moments(X, ddof):
    """Mean and covariance of samples."""
    mean = X.mean(0)
    centred = X - mean
    # products of torch are not symmetric to the last bit
    return mean, symmetrize(centred.mT @ centred) / (len(X) - ddof)


def _rounding(mean, covariance):
    """How far rounding may have moved a Gaussian that is found from samples."""
    eps = torch.finfo(mean.dtype).eps / 2  # of one operation
    matrix = covariance.detach().unsqueeze(0)
    radius = covariance_radii(matrix, factor(matrix), eps)
    return float(radius) + eps * float(mean.detach().norm())


def _by_roots(X, Y, ddof, squared, return_error):
    """The distance by centred samples, of fewer samples than features."""
    (m0, A), (m1, B) = (_root(Z, ddof) for Z in (X, Y))
    bures, apart = bures_squared_of_roots(A, B), m0 - m1
    found = apart.square().sum() + bures
    value = found if squared else safe_sqrt(found)
    if not return_error:
        return value, None
    eps, distance = torch.finfo(found.dtype).eps / 2, float(apart.detach().norm())
    error = roots_error(A, B, bures)
    error += 4 * distance * eps * float(m0.detach().norm() + m1.detach().norm())
    return value, error if squared else error_of_root(float(found.detach()), error)


def _root(X, ddof):
    """The mean of n samples, and ``n - 1`` rows ``A`` of which ``A.T @ A`` is the covariance.

    They are the centred samples, reflected so that the first one vanishes.
    """
    mean = X.mean(0)
    centred = X - mean
    rest = centred.mean(0)  # what rounding left
    mean, centred = mean + rest, centred - rest
    rows = centred[1:] - centred[:1] / (1 + len(X) ** 0.5)
    return mean, rows / max(len(X) - ddof, 1) ** 0.5


def _single(gaussian, name):
    """Validate a Gaussian; return it as a mixture of one component."""
    if not isinstance(gaussian, tuple | list) or len(gaussian) != 2:
        raise TypeError(
            f"{name} must be a pair (mean, covariance), got {type(gaussian).__name__}. "
            "Put them into a tuple."
        )
    mean, covariance = (arrays.as_tensor(t) for t in gaussian)
    if mean.ndim != 1 or covariance.ndim > 2:
        raise ValueError(
            f"{name} must have a mean (d,) and a covariance (d, d), (d,) or (), got shapes "
            f"{tuple(mean.shape)} and {tuple(covariance.shape)}. Pass one Gaussian."
        )
    covariance_type = ("spherical", "diag", "full")[covariance.ndim]
    parts = mean.new_ones(1), mean.unsqueeze(0), covariance.unsqueeze(0)
    if not any(arrays.kind_of(t).is_tensor for t in gaussian):
        parts = (t.numpy() for t in parts)
    return (*parts, covariance_type)


def _are_plain(*gaussians):
    """Whether these are arrays or tensors of float64 on the CPU, with a matrix of several features.

    Only kinds and shapes are looked at. In the plane there is a closed form.
    """
    for gaussian in gaussians:
        pair = isinstance(gaussian, tuple | list) and len(gaussian) == 2
        if not (pair and all(map(in_plain_double, gaussian))):
            return False
    d, *_ = shape = gaussians[0][1].shape or (0,)
    square = len(shape) == 2 and shape[1] == d > 2
    return square and all(m.shape == (d,) and S.shape == shape for m, S in gaussians)
