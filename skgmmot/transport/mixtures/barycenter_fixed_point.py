r"""Barycentres with a given number of components, and the reduction of a mixture.

The objective :math:`\sum_j \lambda_j \operatorname{MW}_2^2(\nu, \mu_j)` is minimised alternately
over the plans (and the weights of :math:`\nu`) for given components, and over the components for
given plans. No step raises it. The limit is a local minimum, so several starts are made. The
reduction of one mixture to fewer components is the case J = 1, where the best plan sends each
component to the nearest.
"""

from collections.abc import Callable, Sequence
from typing import Literal, overload

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from skgmmot.gaussian.bures.barycenter import barycenter_factors, euclidean_factors
from skgmmot.gaussian.covariance.registry import CovarianceType
from skgmmot.gaussian.mixture import GaussianMixtureParams, with_mass
from skgmmot.numerics.counts import positive_integer
from skgmmot.numerics.fixed_point import Solution, iterate
from skgmmot.transport.mixtures.barycenter import Pool, common_type, fixed_plans, pool
from skgmmot.transport.mixtures.barycenter_starts import chained_start
from skgmmot.transport.mixtures.distance import cost_matrix
from skgmmot.transport.mixtures.linear_programme import linear_programme
from skgmmot.transport.mixtures.reduction_bound import reduction_error

#: Fixed-point iterations of the component covariances for each update of the plans.
INNER_ITERATIONS = 5


def best_of_starts(
    mixtures: Sequence[GaussianMixtureParams],
    weights: Tensor,
    n_components: int,
    generator: torch.Generator,
    *,
    covariance_type: CovarianceType,
    fixed_weights: bool = False,
    n_init: int = 1,
    tol: float = 1e-7,
    max_iter: int = 100,
    callback: Callable[[Solution, float], None] | None = None,
    on_step: Callable[[Solution], bool | None] | None = None,
) -> tuple[Solution, float]:
    """Return the best of the local barycentres with K components found from several starts.

    Parameters
    ----------
    mixtures : sequence of J GaussianMixtureParams
        Mixtures in d dimensions, of any covariance types.
    weights : Tensor of shape (J,)
        Positive weights ``lambda`` of sum one.
    n_components : int
        Number of components K.
    generator : torch.Generator
        Source of random numbers, on the CPU.
    covariance_type : CovarianceType
        The covariance type of the barycentre.
    fixed_weights : bool, default=False
        Whether the components' weights stay ``1 / K``; otherwise they are optimised.
    n_init : int, default=1
        Number of starts.
    tol : float, default=1e-7
        Bound on the change of the objective by one iteration, relative to the variance of the
        components.
    max_iter : int, default=100
        Largest number of iterations.
    callback : callable, default=None
        Called with what is returned, after each start that improved on the others.
    on_step : callable, default=None
        Called after each iteration with the solution so far; the run stops where it returns True.

    Returns
    -------
    solution : Solution
        The barycentre is its ``value``.
    objective : float
        ``sum_j weights_j MW2^2`` there.
    """
    best = None
    for run in range(n_init):
        start = chained_start(mixtures, weights, n_components, generator)
        # Held at first, the weights decide which minimum is reached: every other start has equal
        # ones instead of those that it found.
        if fixed_weights or run % 2:
            start = start._replace(weights=torch.full_like(start.weights, 1 / n_components))
        found = improve(
            mixtures,
            weights,
            start,
            covariance_type=covariance_type,
            fixed_weights=fixed_weights,
            tol=tol,
            max_iter=max_iter,
            on_step=on_step,
        )
        if best is None or found[1] < best[1]:
            best = found
            if callback is not None:
                callback(*best)
    return best


def improve(
    mixtures: Sequence[GaussianMixtureParams],
    weights: Tensor,
    start: GaussianMixtureParams,
    *,
    covariance_type: CovarianceType,
    fixed_weights: bool = False,
    tol: float = 1e-7,
    max_iter: int = 100,
    on_step: Callable[[Solution], bool | None] | None = None,
) -> tuple[Solution, float]:
    """Return the local barycentre with K components that the fixed point reaches from a start.

    Parameters
    ----------
    mixtures : sequence of J GaussianMixtureParams
        Mixtures in d dimensions, of any covariance types.
    weights : Tensor of shape (J,)
        Positive weights ``lambda`` of sum one.
    start : GaussianMixtureParams
        K components to start from.
    covariance_type : CovarianceType
        The covariance type of the barycentre.
    fixed_weights : bool, default=False
        Whether the weights of ``start`` stay; otherwise they do in a first fixed point, and are
        optimised with the plans in a second.
    tol : float, default=1e-7
        Bound on the change of the objective by one iteration, relative to the variance of
        the components.
    max_iter : int, default=100
        Largest number of iterations.
    on_step : callable, default=None
        Called after each iteration with the solution so far, whose objective is the negative one;
        stops where it returns True.

    Returns
    -------
    solution : Solution
        The barycentre is its ``value``. A component that lost all weight keeps its place.
    objective : float
        ``sum_j weights_j MW2^2`` there.

    Raises
    ------
    RuntimeError
        If the linear programme of free weights is not solved.

    Notes
    -----
    The objective never rises. One iteration costs ``O(K M d^3)`` for M components in all, and a
    transport problem for each mixture, or with free weights one linear programme of ``K M``
    variables (for J = 1, an assignment).

    References
    ----------
    .. [1] Tanguy, Delon and Gozlan 2024, fixed point of barycentres with generic costs.
    """
    problem, start = pool(mixtures, weights, diagonal=covariance_type.diagonal), start.detach()
    options = {"covariance_type": covariance_type, "max_iter": max_iter, "on_step": on_step}
    options["tol"] = tol * _variance(problem)
    make_plans = _free_plans if len(mixtures) == 1 and not fixed_weights else fixed_plans
    # Covariances start from means, whose ranges hold all others, whatever those of the start.
    plans, _ = make_plans(start, problem)
    theta0 = _best_components(start, plans, problem, covariance_type, anew=True)
    held, value = _fixed_point(problem, theta0, make_plans, **options)
    if fixed_weights or len(mixtures) == 1:
        return held, value
    # From a poor start, free weights would soon gather in a few components: they come second.
    freed, value = _fixed_point(problem, held.value, _free_plans, **options)
    both = {"n_iter": held.n_iter + freed.n_iter, "objectives": held.objectives + freed.objectives}
    return freed._replace(**both), value


def _fixed_point(
    problem, start, make_plans, *, covariance_type, tol, max_iter, on_step
) -> tuple[Solution, float]:
    """Alternate between plans and components; return the limit and its objective."""

    def step(theta):
        plans, value = make_plans(theta, problem)
        return _best_components(theta, plans, problem, covariance_type), -value

    solution = iterate(step, start, tol=tol, max_iter=max_iter, callback=on_step)
    plans, value = make_plans(solution.value, problem)
    return solution._replace(value=solution.value._replace(weights=_masses(plans))), value


def _best_components(
    theta, plans, problem, covariance_type, *, anew=False
) -> GaussianMixtureParams:
    """Components at the barycentres of the Gaussians that the plans assign to them."""
    w = _masses(plans)
    i, pair = torch.nonzero(plans, as_tuple=True)
    share = (problem.coefficients * plans)[i, pair] / w[i]
    means = torch.zeros_like(theta.means)
    means.index_add_(0, i, share.unsqueeze(1) * problem.mixture.means[pair])
    means[w == 0] = theta.means[w == 0]
    joined, of_factors = problem.factors[pair], problem.mixture.covariance_type

    def stored(matrices):
        """Matrices of the type of the barycentre, as full or diagonal ones as the factors are."""
        if of_factors.diagonal:
            return matrices.expand_as(means)
        return covariance_type.to_full(matrices, *means.shape)

    if anew:
        L = euclidean_factors(joined, i, share, len(w), of_factors)
    else:
        L = of_factors.root(stored(theta.covariances))
    L = barycenter_factors(
        L,
        joined,
        i,
        share,
        covariance_type=of_factors,
        project=lambda factors: stored(covariance_type.nearest(factors, w)),
        max_iter=INNER_ITERATIONS,
    )
    covariances = covariance_type.nearest(of_factors.from_root(L, 0.0), w)
    return GaussianMixtureParams(w, means, covariances, covariance_type)


def _masses(plans: Tensor) -> Tensor:
    """The normalised first marginal ``(K,)`` of plans from a barycentre to all mixtures."""
    return plans.sum(1) / plans.sum()


def _variance(problem: Pool) -> float:
    """The total variance of all mixtures together, the unit of objectives."""
    w, means = problem.coefficients * problem.mixture.weights, problem.mixture.means
    centred = (means - w @ means).square().sum(1)
    return float(w @ (centred + problem.factors.square().flatten(1).sum(1)))


def _free_plans(theta: GaussianMixtureParams, problem: Pool) -> tuple[Tensor, float]:
    """The plans ``(K, M)`` of least cost over all weights of the barycentre, and that cost."""
    C = cost_matrix(theta, problem.mixture)
    if len(problem.sizes) == 1:
        weights = problem.mixture.weights.unsqueeze(0)
        plans = torch.zeros_like(C).scatter_(0, C.argmin(0, keepdim=True), weights)
    else:
        cost = (problem.coefficients * C).flatten()
        plans = linear_programme(cost, *_equal_weights(len(C), problem))[0].view_as(C)
    return plans, float((problem.coefficients * plans * C).sum())


def _equal_weights(K: int, problem: Pool) -> tuple:
    """Linear constraints on plans: equal first marginals, and given second ones."""
    owner = np.repeat(np.arange(len(problem.sizes)), problem.sizes)
    columns = scipy.sparse.kron(np.ones((1, K)), scipy.sparse.eye_array(len(owner)))
    # The mass of component i in the plan to mixture j is that in the plan to the first mixture.
    first = (owner == 0).astype(float)
    differences = np.stack([(owner == j) - first for j in range(1, len(problem.sizes))])
    rows = scipy.sparse.kron(scipy.sparse.eye_array(K), differences)
    bounds = torch.cat([problem.mixture.weights, problem.weights.new_zeros(rows.shape[0])])
    return scipy.sparse.vstack([columns, rows]).tocsr(), bounds


# --- reduction ---------------------------------------------------------------------------------


@overload
def reduce(
    mixture: GaussianMixtureParams,
    n_components: int,
    generator: torch.Generator,
    *,
    n_init: int = ...,
    tol: float = ...,
    max_iter: int = ...,
    return_error: Literal[False] = ...,
) -> GaussianMixtureParams: ...


@overload
def reduce(
    mixture: GaussianMixtureParams,
    n_components: int,
    generator: torch.Generator,
    *,
    n_init: int = ...,
    tol: float = ...,
    max_iter: int = ...,
    return_error: Literal[True],
) -> tuple[GaussianMixtureParams, float]: ...


def reduce(
    mixture: GaussianMixtureParams,
    n_components: int,
    generator: torch.Generator,
    *,
    n_init: int = 1,
    tol: float = 1e-7,
    max_iter: int = 100,
    return_error: bool = False,
) -> GaussianMixtureParams | tuple[GaussianMixtureParams, float]:
    r"""Return a mixture with fewer components that is close to a given one in MW2.

    .. math:: \min_\nu \operatorname{MW}_2^2(\mu, \nu)

    over mixtures :math:`\nu` with ``n_components`` components, by composite transport: alternately
    each component is assigned to the nearest, and each group is replaced by its barycentre.

    Parameters
    ----------
    mixture : GaussianMixtureParams
        M components in d dimensions.
    n_components : int
        Number of components to keep; the mixture itself is returned if it has no more.
    generator : torch.Generator
        Source of random numbers, on the CPU.
    n_init : int, default=1
        Number of starts; the nearest result is kept.
    tol : float, default=1e-7
        Bound on the change of the objective by one iteration, relative to the variance of the
        components.
    max_iter : int, default=100
        Largest number of iterations.
    return_error : bool, default=False
        Whether to return a bound of the error, too.

    Returns
    -------
    reduced : GaussianMixtureParams
        At most ``n_components`` components, of the same covariance type. Not differentiable.
    error : float
        Only with ``return_error``: a bound of how much less than MW2 to this mixture that to any
        mixture with ``n_components`` components may be, in units of the data.

    Raises
    ------
    ValueError
        If ``n_components`` or ``n_init`` is no positive integer.

    References
    ----------
    .. [1] Zhang, Zhang and Chen 2023, reduction by composite transport.
    """
    n_components = positive_integer("n_components", n_components)
    n_init = positive_integer("n_init", n_init)
    mixture = reduced = mixture.detach()
    if n_components < len(mixture.weights):
        solution, _ = best_of_starts(
            [mixture],
            torch.ones_like(mixture.weights[:1]),
            n_components,
            generator,
            covariance_type=common_type([mixture]),
            n_init=n_init,
            tol=tol,
            max_iter=max_iter,
        )
        reduced = with_mass(solution.value)
    if not return_error:
        return reduced
    return reduced, reduction_error(mixture, reduced, n_components)
