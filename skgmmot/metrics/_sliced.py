"""Sliced Wasserstein distances from a mixture to samples or to another mixture."""

import functools
import math
from numbers import Real

import torch
from torch import Tensor

from skgmmot._inputs import arrays
from skgmmot._inputs.densities import reshaping
from skgmmot._inputs.mixtures import as_mixture, as_pair, in_double, is_mixture
from skgmmot._inputs.refusals import positive_integer
from skgmmot._inputs.seeds import seed_of
from skgmmot.gaussian.mixture import least
from skgmmot.numerics.linalg import Rescaling, compare_bits, power_of_two, safe_sqrt
from skgmmot.numerics.threads import single_threaded_torch
from skgmmot.transport.sliced.directions import DIRECTIONS, ascend, directions
from skgmmot.transport.sliced.distance import (
    double_sliced_squared,
    mixture_sliced_plan,
    sliced_wasserstein,
    sliced_wasserstein_between,
)

#: Number of directions and exponent of the distance that sets the unit of powers above 2.
UNIT_DIRECTIONS, UNIT_EXPONENT = 10, 8


@single_threaded_torch()
def sliced_mixture_wasserstein(
    source, target, *, slicing="msw", n_projections=100, squared=False, random_state=0
):
    r"""Compute the sliced mixture Wasserstein distance MSW or DSMW between two mixtures.

    .. math::

        \operatorname{MSW}^2 = \min_{P \in \Pi(a, b)} \sum_{kl} P_{kl} \;
        \operatorname{mean}_\theta W_2^2(g_k, g_l; \theta)

    Components are compared by their sliced Wasserstein distance instead of :math:`W_2`, which needs
    no matrix decompositions. For DSMW, the doubly sliced distance, each direction makes every
    component a point (mean, standard deviation) of the plane, and the sliced distance between these
    two weighted sets of points is averaged over the directions.

    Parameters
    ----------
    source, target : fitted mixture estimator or tuple (weights, means, covariances)
        The mixtures.
    slicing : {'msw', 'dsmw'}, default='msw'
        The distance.
    n_projections : int, default=100
        Number of quasi-random directions.
    squared : bool, default=False
        Whether to return the square.
    random_state : int, RandomState instance or None, default=0
        Controls the directions; compare only distances with an equal integer.

    Returns
    -------
    float or Tensor of shape ()
        The distance in units of the data; a tensor, differentiable once, if a mixture holds
        tensors. MSW is no larger than MW2.

    Raises
    ------
    NotFittedError
        If an estimator is not fitted.
    TypeError
        If a mixture is neither an estimator nor a tuple.
    ValueError
        If a parameter is invalid, the mixtures differ in dimension, one is not a mixture, or
        float64 cannot hold the value.

    Notes
    -----
    Costs ``O(m (K + L) d^2 + m K L)`` for m directions; DSMW has no term in ``K L``. Scaling both
    mixtures by a power of two scales the distance exactly.

    References
    ----------
    .. [1] Piening and Beinert 2025, the distances MSW and DSMW.

    Examples
    --------
    >>> from skgmmot.metrics import sliced_mixture_wasserstein
    >>> source = ([1.0], [[0.0, 0.0]], [[1.0, 1.0]], "diag")
    >>> target = ([1.0], [[2.0, 0.0]], [[1.0, 1.0]], "diag")
    >>> round(sliced_mixture_wasserstein(source, target) ** 2, 3)
    2.0
    """
    positive_integer("n_projections", n_projections, "100 is usual.")
    if slicing not in ("msw", "dsmw"):
        raise ValueError(f"slicing must be 'msw' or 'dsmw', got {slicing!r}. Choose one of them.")
    source, target, kind = _two_mixtures(source, target)
    seed = seed_of(random_state)
    theta = _directions("quasi", n_projections, source.means, seed)
    equal = compare_bits(source, target) == 0
    source, target, unit = _in_place(source, target)
    if equal:
        value = least(source, target)
    elif slicing == "msw":
        value = mixture_sliced_plan(source, target, theta).cost
    else:
        angles = math.pi * (torch.arange(len(theta)).to(theta) + 0.5) / len(theta)
        shuffled = torch.randperm(len(theta), generator=torch.Generator().manual_seed(seed))
        angles = angles[shuffled.to(theta.device)]  # no relation between the two directions
        phi = torch.stack([angles.cos(), angles.sin()], dim=1)
        value = double_sliced_squared(source, target, theta, phi)
    value = _in_units(value, unit, unit) if squared else _in_units(safe_sqrt(value), unit)
    return value if kind.is_tensor else float(value)


@single_threaded_torch()
def sliced_wasserstein_distance(
    source,
    target,
    sample_weight=None,
    *,
    p=2.0,
    n_projections=100,
    projections="quasi",
    exact=False,
    random_state=0,
):
    r"""Compute the sliced Wasserstein distance of a mixture to samples or to another mixture.

    .. math:: \operatorname{SW}_p^p = \operatorname{mean}_\theta W_p^p(\theta)

    with :math:`W_p(\theta)` the distance between the two distributions projected on direction
    :math:`\theta`; with ``projections='max'`` the maximum over :math:`\theta` replaces the mean.

    Parameters
    ----------
    source : fitted mixture estimator or tuple (weights, means, covariances)
        A mixture.
    target : mixture, or array-like or Tensor of shape (n_samples, n_features)
        Another one, or samples.
    sample_weight : array-like or Tensor of shape (n_samples,), default=None
        Non-negative weights of the samples, constants.
    p : float, default=2.0
        Exponent, at least 1.
    n_projections : int, default=100
        Number of directions.
    projections : {'quasi', 'random', 'orthogonal', 'max'}, default='quasi'
        Quasi-random directions; independent and uniform ones; orthogonal ones in groups of
        ``n_features``; or the one that maximises the distance, found by gradient ascent.
    exact : bool, default=False
        Whether to compute distances to samples to rounding, for p = 1 or 2, instead of to about
        1e-5 (for p = 2).
    random_state : int, RandomState instance or None, default=0
        Controls the directions; compare only distances with an equal integer.

    Returns
    -------
    float or Tensor of shape ()
        The distance in units of the data; a tensor, differentiable once, if one was handed in.

    Raises
    ------
    NotFittedError
        If an estimator is not fitted.
    TypeError
        If the source is no mixture.
    ValueError
        If a parameter or a side is invalid, they differ in dimension, p is so large that powers
        leave the range of float64, or float64 cannot hold the distance.

    See Also
    --------
    skgmmot.SlicedWassersteinGMM : Fits a mixture by this distance.

    Notes
    -----
    Both distributions are translated and rescaled to a common origin and size first, so that the
    accuracy does not depend on the scale. Scaling both by a power of two scales the distance
    exactly.

    References
    ----------
    .. [1] Kolouri, Rohde and Hoffmann 2018, the sliced distance between mixture and samples.

    Examples
    --------
    >>> from skgmmot.metrics import sliced_wasserstein_distance
    >>> standard = ([1.0], [[0.0]], [[1.0]], "diag")
    >>> round(sliced_wasserstein_distance(standard, [[0.0]]), 3)  # a spread of one
    1.0
    """
    positive_integer("n_projections", n_projections, "100 is usual.")
    if not isinstance(p, Real) or not 1 <= p < math.inf:
        raise ValueError(f"p must be a finite number of at least 1, got {p!r}. 2 is usual.")
    if projections not in (*DIRECTIONS, "max"):
        raise ValueError(
            f"projections must be one of {[*DIRECTIONS, 'max']}, got {projections!r}. Choose one."
        )
    sides, options, kind = _sides(source, target, sample_weight, exact)
    *sides, unit = _in_place(*sides)
    seeks = projections == "max"
    like = sides[0].means
    theta = _directions(
        "quasi" if seeks else projections, n_projections, like, seed_of(random_state)
    )
    if p > 2:
        nearer = _power_unit(sides, options, theta)
        sides, unit = [_divided(side, nearer) for side in sides], unit * nearer
    costs = _costs(sides, options, p)
    if seeks:
        theta, found = ascend(costs, theta)
        theta = theta[found.argmax()].unsqueeze(0)
    value = costs(theta).mean().clamp(min=0)
    if not torch.isfinite(value):
        raise ValueError(
            f"p must be smaller for these sides, got {p}: powers of the distances between them "
            "leave the range of float64. Decrease p."
        )
    value = _in_units(_rooted(value, p), unit)
    return value if kind.is_tensor else float(value)


def _rooted(value, p):
    """The p-th root, with a derivative of zero at zero."""
    if p == 2:
        return safe_sqrt(value)
    return torch.where(value > 0, torch.where(value > 0, value, 1.0) ** (1 / p), 0.0)


def _sides(source, target, sample_weight, exact):
    """Validate both distributions; also the options of `_costs` and the kind of the result."""
    if is_mixture(target):
        source, target, kind = _two_mixtures(source, target)
        return (source, target), {}, kind
    source, source_kind = as_mixture(source, "source")
    samples, kind = _samples_for(source, target)
    kind = arrays.joint_kind(kind, source_kind)
    source, samples = source.to(device=kind.device), samples.double().to(kind.device)
    weights = arrays.sample_weights(sample_weight, samples)
    return (source, samples), {"sample_weight": weights, "exact": exact}, kind


def _costs(sides, options, p):
    """``W_p^p`` between two distributions as a function of directions."""
    onto_samples = isinstance(sides[1], Tensor)
    distance = sliced_wasserstein if onto_samples else sliced_wasserstein_between
    return functools.partial(distance, *sides, p=p, **options)


def _power_unit(sides, options, theta) -> float:
    """The unit, a power of two, in which distances along a few directions are about one."""
    with torch.no_grad():
        costs = _costs(sides, options | ({"exact": False} if options else {}), UNIT_EXPONENT)
        return power_of_two(float(costs(theta[:UNIT_DIRECTIONS]).mean()) ** (1 / UNIT_EXPONENT))


# --- units ---------------------------------------------------------------------------------------


def _in_place(source, target):
    """Translate and rescale both distributions to a common origin and size; also the unit."""
    sides = source, target
    points = [side if isinstance(side, Tensor) else side.means for side in sides]
    points = torch.cat(points).detach()
    if not torch.isfinite(points.amax(0) - points.amin(0)).all():
        raise ValueError(
            "source and target must differ by what float64 can hold, got coordinates of size "
            f"{float(points.abs().max()):.2g} of both signs. Rescale both."
        )
    mixtures = [side for side in sides if not isinstance(side, Tensor)]
    variances = [float(_variances(mixture).max()) for mixture in mixtures]
    scaling = Rescaling.of(points, math.sqrt(max(variances)))
    return *(
        _divided(_translated(side, -scaling.origin), scaling.unit) for side in sides
    ), scaling.unit


def _variances(mixture):
    mixture = mixture.detach().in_base()
    return mixture.covariance_type.diagonals(mixture.covariances)


def _translated(side, by):
    """A mixture or samples, translated."""
    return side + by if isinstance(side, Tensor) else side.translated(by)


def _divided(side, unit):
    """A mixture or samples, divided by a unit."""
    if isinstance(side, Tensor):
        return side / unit
    return side.scaled(1 / unit)


def _in_units(value, *units):
    """A distance in the units of the data; raises if that over- or underflows."""
    answer = value
    for unit in units:
        answer = answer * unit
    if value > 0 and not 0 < answer < math.inf:
        raise ValueError(
            "source and target must be of a size whose distance float64 can hold, got one of "
            f"{float(value):.2g} times {' times '.join(f'{unit:.2g}' for unit in units)}. Rescale "
            "both."
        )
    return answer


def _directions(name, n_projections, like, seed):
    """Directions for means ``(K, d)``."""
    generator = torch.Generator().manual_seed(seed)
    return directions(name, n_projections, like.shape[1], generator=generator).to(like)


def _two_mixtures(source, target):
    """Two mixtures on one device, and the kind of array to answer in."""
    *pair, kind = as_pair(source, target)
    source, target = map(in_double, pair)
    if compare_bits(source, target) > 0:  # distances are symmetric to the last bit
        source, target = target, source
    return source, target, kind


def _samples_for(mixture, X):
    """Samples as a tensor with the features of a mixture."""
    kind, samples = arrays.kind_of(X), arrays.as_tensor(X)
    d = mixture.means.shape[1]
    if samples.ndim != 2 or samples.shape[1] != d or not len(samples):
        raise ValueError(
            f"X must have shape (n_samples, {d}), as the mixture has features, got "
            f"{tuple(samples.shape)}. "
            + reshaping("X", samples, "Describe both by the same features.")
        )
    if not torch.isfinite(samples.detach()).all():
        raise ValueError("X must be finite, got NaN or infinity. Drop those samples.")
    return samples, kind
