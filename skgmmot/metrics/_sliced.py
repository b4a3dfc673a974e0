"""Sliced Wasserstein distances between mixtures, samples, or one and the other."""

import functools
import math
from numbers import Real

import torch
from torch import Tensor

from skgmmot._inputs import arrays
from skgmmot._inputs.densities import reshaping
from skgmmot._inputs.mixtures import as_mixture, as_pair, in_double, is_mixture
from skgmmot._inputs.seeds import seed_of
from skgmmot.gaussian.mixture import least
from skgmmot.numerics.counts import positive_integer
from skgmmot.numerics.linalg import (
    Rescaling,
    compare_bits,
    error_of_root,
    power_of_two,
    safe_sqrt,
)
from skgmmot.numerics.threads import single_threaded_torch
from skgmmot.transport.sliced.directions import DIRECTIONS, ascend, directions
from skgmmot.transport.sliced.distance import sliced_wasserstein, sliced_wasserstein_between
from skgmmot.transport.sliced.errors import error_of_lines
from skgmmot.transport.sliced.mixtures import (
    double_sliced_lines,
    mixture_sliced_lines,
    mixture_sliced_plan,
)
from skgmmot.transport.sliced.samples import sliced_wasserstein_of_samples

#: Number of directions and exponent of the distance that sets the unit of powers above 2.
UNIT_DIRECTIONS, UNIT_EXPONENT = 10, 8
#: Numbers of projected samples at a time (32 MiB in float64).
BLOCK_SIZE = 2**22


@single_threaded_torch()
def sliced_mixture_wasserstein(
    source,
    target,
    *,
    slicing="msw",
    n_projections=100,
    squared=False,
    random_state=0,
    return_error=False,
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
    return_error : bool, default=False
        Whether to return ``(distance, error)``, with an estimate of what other directions would
        change, in the unit of the distance; see `sliced_wasserstein_distance`.

    Returns
    -------
    float or Tensor of shape ()
        The distance in units of the data; a tensor, differentiable once, if a mixture holds
        tensors. MSW is no larger than MW2. With ``return_error`` a pair of it and a float.

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
    error = 0.0
    if equal:
        value = least(source, target)
    elif slicing == "msw":
        plan = mixture_sliced_plan(source, target, theta)
        value = plan.cost
        if return_error:
            costs = mixture_sliced_lines(source.detach(), target.detach(), theta, plan.coupling)
            error = plan.error + error_of_lines(costs, "quasi", theta.shape[1])
    else:
        theta = theta.expand(n_projections, -1)  # one feature has one direction, but its points two
        angles = math.pi * (torch.arange(len(theta)).to(theta) + 0.5) / len(theta)
        shuffled = torch.randperm(len(theta), generator=torch.Generator().manual_seed(seed))
        angles = angles[shuffled.to(theta.device)]  # no relation between the two directions
        phi = torch.stack([angles.cos(), angles.sin()], dim=1)
        costs = double_sliced_lines(source, target, theta, phi)
        value = costs.mean()
        error = error_of_lines(costs, "random", 2) if return_error else 0.0
    square = max(float(value.detach()), 0.0)
    value = _in_units(value, unit, unit) if squared else _in_units(safe_sqrt(value), unit)
    value = value if kind.is_tensor else float(value)
    if not return_error:
        return value
    return value, error * unit * unit if squared else error_of_root(square, error) * unit


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
    source_weight=None,
    return_error=False,
):
    r"""Compute the sliced Wasserstein distance between two distributions: mixtures or samples.

    .. math:: \operatorname{SW}_p^p = \operatorname{mean}_\theta W_p^p(\theta)

    with :math:`W_p(\theta)` the distance between the two distributions projected on direction
    :math:`\theta`; with ``projections='max'`` the maximum over :math:`\theta` replaces the mean.

    Parameters
    ----------
    source, target : mixture, or array-like or Tensor of shape (n_samples, n_features)
        A fitted mixture estimator or a tuple (weights, means, covariances), or samples.
    sample_weight : array-like or Tensor of shape (n_samples,), default=None
        Non-negative weights of the target's samples, constants; None is equal ones.
    p : float, default=2.0
        Exponent, at least 1.
    n_projections : int, default=100
        Number of directions.
    projections : {'quasi', 'random', 'orthogonal', 'max'}, default='quasi'
        Quasi-random directions; independent and uniform ones; orthogonal ones in groups of
        ``n_features``; or the one that maximises the distance, found by gradient ascent.
    exact : bool, default=False
        Whether to compute distances from a mixture to samples to rounding, for p = 1 or 2, instead
        of to about 1e-5 (for p = 2). Those between samples always are.
    random_state : int, RandomState instance or None, default=0
        Controls the directions; compare only distances with an equal integer.
    source_weight : array-like or Tensor of shape (n_samples,), default=None
        Weights of the source's samples, likewise.
    return_error : bool, default=False
        Whether to return ``(distance, error)``. The error is an estimate in the unit of the
        distance, of the quadrature of each line and of the mean over lines, and takes about as long
        again as the distance; see Notes.

    Returns
    -------
    float or Tensor of shape ()
        The distance in units of the data; a tensor, differentiable once, if one was handed in. With
        ``return_error`` a pair of it and a float.

    Raises
    ------
    NotFittedError
        If an estimator is not fitted.
    TypeError
        If a side is neither a mixture nor an array.
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

    The error has two parts, propagated through the root. That of the *quadrature* is the difference
    to fewer nodes, with rounding; with ``exact=True`` and between samples only rounding is left.
    That of the *lines* is three standard errors over the directions if these are random. If they
    are orthogonal, it is three standard errors over the groups, if that is less. Quasi-random
    directions in the plane are equal angles, for which the spectrum of the costs says how fast
    their mean converges; in more dimensions no estimate is unbiased, and three standard errors of
    as many independent directions are stated, more than the error as a rule. A single direction of
    several dimensions has an infinite error. With ``projections='max'`` the error is that of the
    quadrature along the direction that was found: there may be another along which the distance is
    larger. `skgmmot.functional.sliced_wasserstein` returns the parts: the costs and the errors of
    the quadrature, line by line.

    References
    ----------
    .. [1] Kolouri, Rohde and Hoffmann 2018, the sliced distance between mixture and samples.

    Examples
    --------
    >>> from skgmmot.metrics import sliced_wasserstein_distance
    >>> standard = ([1.0], [[0.0]], [[1.0]], "diag")
    >>> round(sliced_wasserstein_distance(standard, [[0.0]]), 3)  # a spread of one
    1.0

    Between two sets of samples, with its gradient:

    >>> import torch
    >>> X = torch.tensor([[0.0, 0.0], [1.0, 0.0]], requires_grad=True)
    >>> distance = sliced_wasserstein_distance(X, [[0.0, 2.0], [1.0, 2.0]])
    >>> distance.backward()
    >>> round(float(distance.detach()) ** 2, 2), X.grad[:, 1] < 0
    (2.0, tensor([True, True]))
    """
    positive_integer("n_projections", n_projections, "100 is usual.")
    if not isinstance(p, Real) or not 1 <= p < math.inf:
        raise ValueError(f"p must be a finite number of at least 1, got {p!r}. 2 is usual.")
    if projections not in (*DIRECTIONS, "max"):
        raise ValueError(
            f"projections must be one of {[*DIRECTIONS, 'max']}, got {projections!r}. Choose one."
        )
    if is_mixture(source, "source") or is_mixture(target):
        sides, options, kind = _sides(source, target, sample_weight, source_weight, exact)
    else:
        sides, options, kind = _two_samples(source, target, sample_weight, source_weight)
    *sides, unit = _in_place(*sides)
    seeks = projections == "max"
    like = sides[0] if isinstance(sides[0], Tensor) else sides[0].means
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
    power = float(value.detach())
    value = _in_units(_rooted(value, p), unit)
    value = value if kind.is_tensor else float(value)
    if not return_error:
        return value
    error = _error(costs, theta, "max" if seeks else projections)
    return value, error_of_root(power, error, p) * unit


def _error(costs, theta, name):
    """The error of the mean of costs over directions, of quadrature and of lines."""
    with torch.no_grad():
        values, errors = costs(theta, return_error=True)
    of_lines = 0.0 if name == "max" else error_of_lines(values, name, theta.shape[1])
    return float(errors.mean()) + of_lines


def _rooted(value, p):
    """The p-th root, with a derivative of zero at zero."""
    if p == 2:
        return safe_sqrt(value)
    return torch.where(value > 0, torch.where(value > 0, value, 1.0) ** (1 / p), 0.0)


def _sides(source, target, sample_weight, source_weight, exact):
    """Validate a mixture and another distribution, after it; the options, and the kind."""
    if not is_mixture(source):
        source, target = target, source
        sample_weight, source_weight = source_weight, sample_weight
    if is_mixture(target):
        source, target, kind = _two_mixtures(source, target)
        return (source, target), {}, kind
    source, source_kind = as_mixture(source, "source")
    samples, kind = _samples_for(source, target)
    kind = arrays.joint_kind(kind, source_kind)
    source, samples = source.to(device=kind.device), samples.double().to(kind.device)
    weights = arrays.sample_weights(sample_weight, samples)
    return (source, samples), {"sample_weight": weights, "exact": exact}, kind


def _two_samples(source, target, sample_weight, source_weight):
    """Validate two sets of samples; the options of `_costs`, and the kind of the result."""
    given = {"source": (source, source_weight), "target": (target, sample_weight)}
    kind = arrays.joint_kind(*(arrays.kind_of(side) for side in (source, target)))
    sides, weights = [], []
    for name, (side, weight) in given.items():
        d = sides[0].shape[1] if sides else None
        samples = _checked_samples(name, arrays.as_tensor(side), d, "the source")
        samples = samples.double().to(kind.device)
        sides.append(samples)
        weights.append(arrays.sample_weights(weight, samples))
    parts = [[X] if w is None else [X, w] for X, w in zip(sides, weights, strict=True)]
    if (compare_bits(*parts) or len(parts[0]) - len(parts[1])) > 0:  # symmetric to the last bit
        sides, weights = sides[::-1], weights[::-1]
    return sides, {"X_weight": weights[0], "Y_weight": weights[1]}, kind


def _costs(sides, options, p):
    """``W_p^p`` between two distributions as a function of directions."""
    n_samples = sum(len(side) for side in sides if isinstance(side, Tensor))
    if isinstance(sides[0], Tensor):
        costs = functools.partial(sliced_wasserstein_of_samples, *sides, p=p, **options)
        length = max(1, BLOCK_SIZE // n_samples)
        return functools.partial(_in_blocks, costs, length)
    distance = sliced_wasserstein if n_samples else sliced_wasserstein_between
    return functools.partial(distance, *sides, p=p, **options)


def _in_blocks(costs, length, theta, return_error=False):
    """Costs of directions, some at a time; with their errors if asked for."""
    blocks = theta.split(length)
    if not return_error:
        return torch.cat([costs(block) for block in blocks])
    pairs = (costs(block, return_error=True) for block in blocks)
    return tuple(map(torch.cat, zip(*pairs, strict=True)))


def _power_unit(sides, options, theta) -> float:
    """The unit, a power of two, in which distances along a few directions are about one."""
    with torch.no_grad():
        roughly = {"exact": False} if "exact" in options else {}
        costs = _costs(sides, options | roughly, UNIT_EXPONENT)
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
    scaling = Rescaling.of(points, math.sqrt(max(variances, default=0.0)))
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
    return _checked_samples("X", samples, mixture.means.shape[1], "the mixture"), kind


def _checked_samples(name, samples, d, other):
    """Samples ``(n, d)``, validated; with d given, the other side has so many features."""
    if samples.ndim != 2 or samples.shape[1] != (d or samples.shape[1]) or 0 in samples.shape:
        wanted = f"(n_samples, {d}), as {other} has features," if d else "(n_samples, n_features),"
        raise ValueError(
            f"{name} must have shape {wanted} got {tuple(samples.shape)}. "
            + reshaping(name, samples, "Describe both by the same features.")
        )
    if not torch.isfinite(samples.detach()).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity. Drop those samples.")
    return samples
