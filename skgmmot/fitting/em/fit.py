"""Whole fits as functions: EM from a given start, and its end on the autograd graph.

Stands above the engine, which runs the iterations in blocks.
"""

import functools
import math
import warnings
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from skgmmot.fitting.em.gram import check_size
from skgmmot.fitting.em.iterations import EMStep, climb, named
from skgmmot.fitting.em.rows import EM
from skgmmot.fitting.em.sinkhorn import ANY, SinkhornEM, SinkhornStep, untilted
from skgmmot.gaussian.coordinates import FisherCoordinates
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.numerics import blocks
from skgmmot.numerics.adjoint import (
    AT_FIXED_POINTS,
    GRADIENTS,
    Adjoint,
    Asked,
    InexactGradientWarning,
    Solver,
)
from skgmmot.numerics.fixed_point import Solution
from skgmmot.numerics.follow import Carried
from skgmmot.numerics.krylov import SOLVERS
from skgmmot.numerics.polish import polish

#: Added to the variances unless a caller says otherwise, in squared units of the samples.
REG_COVAR = 1e-6
#: Relative error of an implicit gradient for each unit of distance from the fixed point: of this
#: order, mostly less, whatever the covariance type and the overlap.
SENSITIVITY = 10


def fit_em(
    theta0: GaussianMixtureParams,
    X: Tensor,
    sample_weight: Tensor | None = None,
    *,
    gradient: str = "implicit",
    tol: float = 1e-3,
    max_iter: int = 100,
    reg_covar: float = REG_COVAR,
    fixed_weights: bool = False,
    e_step: str = "posterior",
    acceleration: str | None = None,
    gradient_tol: float = 1e-6,
    max_polish: int = 1000,
    solve: str | Solver = "auto",
    carried: Carried | None = None,
) -> Solution:
    """Fit a mixture by EM from a given start; differentiable in the samples and their weights.

    Parameters
    ----------
    theta0 : GaussianMixtureParams
        The start: K components in d dimensions.
    X : Tensor of shape (n, d)
        Samples, float32 or float64.
    sample_weight : Tensor of shape (n,), default=None
        Non-negative weights; None is one each.
    gradient : {'implicit', 'automatic', 'one_step', 'natural'}, default='implicit'
        How the fit is differentiated, if a tensor requires a gradient: by the implicit function
        theorem, through all iterations, or through the last one. 'natural' is no derivative but
        a movement of the samples that takes the mixture where the loss asks it to go; for flows,
        with fixed weights.
    tol : float, default=1e-3
        EM stops when the mean log-likelihood changes by less than this in one iteration.
    max_iter : int, default=100
        Largest number of iterations; 0 leaves the fit to polishing.
    reg_covar : float, default=1e-6
        Added to the variances.
    fixed_weights : bool, default=False
        Whether the weights stay those of ``theta0``.
    e_step : {'posterior', 'sinkhorn'}, default='posterior'
        Whether responsibilities are posterior probabilities, or the plan of balanced entropic
        transport to the weights of ``theta0``, which then stay.
    acceleration : {'squarem'}, default=None
        What extrapolates the iterations, posterior ones.
    gradient_tol : float, default=1e-6
        For ``gradient='implicit'`` and 'natural': relative error accepted in the gradient. The fit
        is polished, and the adjoint equation solved, until it should be smaller.
    max_polish : int, default=1000
        Largest number of passes over the samples spent on polishing; 0 leaves the fit as it is.
    solve : {'auto', 'gmres', 'neumann', 'dense'} or callable, default='auto'
        Solver of the adjoint equation, ``solve(matvec, b)``; 'auto' is 'dense' where that is
        cheap, and else 'gmres'.
    carried : Carried, default=None
        What `WarmStart` keeps from one implicit or natural fit to the next. Where the last fixed
        point is near, and K and d are small, a Newton step with a kept derivative replaces
        iterations.

    Returns
    -------
    Solution
        Its ``value`` is the fitted mixture, in the dtype of ``X``, on the graph of ``X`` and
        ``sample_weight``, of the fixed weights, and of ``theta0`` if ``gradient`` is 'automatic'.
        If the gradient is implicit it is polished: a little further up than where EM stopped. Then
        ``residual`` and ``distance`` say how near the fixed point it is, in units of the spread
        of the components, and ``adjoint`` is filled in by backward.

    Raises
    ------
    TypeError
        If ``X`` holds integers, which carry no gradient, or an argument is of another kind.
    ValueError
        If the shapes of ``theta0``, ``X`` and ``sample_weight`` differ or their numbers are not
        finite, if a weight is negative, if a name is not one of those above, if a covariance
        collapses, if the gradient of all iterations is asked of accelerated ones, or if the natural
        one is asked of free weights, of ``e_step='sinkhorn'``, of anything beside the samples, or
        of a mixture of more than 512 numbers.

    Warns
    -----
    InexactGradientWarning
        If the implicit gradient may be further off than ``gradient_tol``; from backward, if
        the adjoint equation could not be solved.

    Notes
    -----
    Memory beyond the data is a few megabytes, whatever n, for the fit and for every gradient, and
    the ``n d`` numbers of the gradient itself. In units of one iteration, 'one_step' costs about
    three, 'automatic' as much for each iteration, and 'implicit' about one and a half for each
    product of the adjoint solver, 10 to 40 of them (one pass for all, if K and d are small; none
    for one component, whose fit is its moments), and as much again for polishing. 'automatic' is
    differentiable more than once. 'natural' builds a matrix of ``q x q`` numbers for a mixture of
    ``q``, in ``2 n d q^2`` multiplications: 10 to 30 iterations for small mixtures, hundreds for
    those of some hundred numbers. Backward gives
    ``-(a_i / sum a) dx_i``, where ``dx_i`` moves sample i along with its components, corrected as
    little as takes the mixture where its own gradient, in the geometry of transport, asks it to go;
    for mixtures of more than 128 features or 200 numbers, as exactly as ``reg_covar`` is small
    beside their variances.

    References
    ----------
    .. [1] Boite, Tanguy, Delon, Desolneux and Flamary 2025, differentiable EM.

    Examples
    --------
    >>> import torch
    >>> from skgmmot.functional import GaussianMixtureParams, fit_em
    >>> X = torch.tensor([[0.0], [1.0], [5.0], [6.0]], dtype=torch.float64, requires_grad=True)
    >>> theta0 = GaussianMixtureParams(
    ...     torch.tensor([0.5, 0.5]), torch.tensor([[0.0], [6.0]]), torch.ones(2, 1, 1)
    ... )
    >>> solution = fit_em(theta0, X)
    >>> solution.value.means[:, 0].sum().backward()
    >>> X.grad[:, 0]
    tensor([0.5000, 0.5000, 0.5000, 0.5000], dtype=torch.float64)
    """
    check_start(theta0)
    check_samples(theta0, X, sample_weight)
    on_graph = torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in (*theta0, X, sample_weight)
    )
    if on_graph:
        check_gradient(
            gradient,
            acceleration=acceleration,
            fixed_weights=fixed_weights,
            e_step=e_step,
            beside=(*theta0, sample_weight),
        )
    if sample_weight is not None:
        sample_weight = sample_weight.to(X.dtype)
    constants = [None if t is None else t.detach() for t in (X, sample_weight)]
    origin = blocks.origin(*constants)
    if not torch.isfinite(origin).all():
        raise ValueError(
            "X must have a finite mean, got NaN or infinity. Drop the samples that are not finite."
        )
    start = theta0.to(dtype=torch.float64).translated(-origin)
    with torch.no_grad(), blocks.workers(X.device) as pool:
        em = EM(*constants, origin, reg_covar, pool, fixed_weights)
        climb, differentiate, _ = named("e_step", e_step, E_STEPS)
        step = EMStep(em, X, sample_weight, start.weights if fixed_weights else None)
        near = None
        if gradient not in AT_FIXED_POINTS:
            carried = None
        if on_graph and carried is not None:
            near = _near(step, start.detach(), origin, carried, gradient_tol / SENSITIVITY)
        if near is None:
            solution = climb(
                em, start.detach(), tol=tol, max_iter=max_iter, acceleration=acceleration
            )
    if near is not None:
        solution = _followed(step, *near, carried, gradient)
    elif on_graph:
        solution = differentiate(
            step,
            start,
            solution,
            gradient=gradient,
            gradient_tol=gradient_tol,
            max_polish=max_polish,
            solve=solve,
            carried=carried,
        )
    solution = measured(solution)
    return solution._replace(
        value=solution.value.translated(origin).to(dtype=X.dtype),
        previous=solution.previous.translated(origin).to(dtype=X.dtype),
    )


def _near(step, start, origin, carried, tol):
    """What `Carried.find` finds, from where the fixed point is expected."""
    theta = (
        start
        if carried.ahead is None
        else carried.ahead.to(dtype=torch.float64).translated(-origin)
    )
    try:
        return carried.find(step.linearise, theta, tol)
    except ValueError:  # a step outside the domain of EM
        return None


def _followed(step, linear, delta, carried, gradient):
    """The fixed point on the graph, a short step from where the map was linearised."""
    theta, moved = linear.theta, linear.retracted(delta)
    residual, distance = (float(torch.linalg.vector_norm(t)) for t in (linear.residual, delta))
    solution = Solution(theta, theta, linear.objective, (), 0, True, 0.0, residual, distance)
    solution, options = _noted(step, solution, gradient)
    value = GRADIENTS[gradient](step, theta, solution, **options, **_kept(carried, gradient))
    return solution._replace(value=value.map(lambda t, m, h: t + (m - h), moved, theta))


def check_gradient(
    gradient: str,
    *,
    acceleration: str | None,
    fixed_weights: bool,
    e_step: str,
    beside: Iterable[Tensor | None],
) -> None:
    """Refuse gradients that a fit cannot have.

    Parameters
    ----------
    gradient : {'implicit', 'automatic', 'one_step', 'natural'}
        The strategy.
    acceleration : {'squarem'} or None
        What extrapolates the iterations.
    fixed_weights : bool
        Whether the mixture's weights stay.
    e_step : {'posterior', 'sinkhorn'}
        The E-step.
    beside : iterable of Tensor or None
        What the fit depends on beside the samples.

    Raises
    ------
    ValueError
        If the strategy runs iterations again that were accelerated, or is a movement of samples
        where not only samples move.
    """
    if acceleration is not None and gradient == "automatic":
        raise ValueError(
            "gradient must be 'implicit' or 'one_step' when EM is accelerated, got "
            "'automatic', which runs plain iterations. Set acceleration=None to have it."
        )
    if gradient != "natural":
        return
    if not fixed_weights or e_step != "posterior":
        raise ValueError(
            "gradient='natural' must have fixed_weights=True and e_step='posterior', got "
            f"fixed_weights={fixed_weights}, e_step={e_step!r}, for samples take no weight along "
            "from one component to another. Set them, or use gradient='implicit'."
        )
    if any(t is not None and t.requires_grad for t in beside):
        raise ValueError(
            "gradient='natural' must be asked of samples alone, got a start or a sample_weight "
            "that requires a gradient. Detach it, or use gradient='implicit'."
        )


def check_start(theta0: GaussianMixtureParams) -> None:
    """Refuse a start that is no value.

    Parameters
    ----------
    theta0 : GaussianMixtureParams
        The start.

    Raises
    ------
    TypeError
        If it is something else.
    ValueError
        If it is not finite.
    """
    if not isinstance(theta0, GaussianMixtureParams):
        raise TypeError(
            f"theta0 must be a GaussianMixtureParams, got {type(theta0).__name__}. Pass "
            "GaussianMixtureParams(weights, means, covariances), of tensors."
        )
    if not all(isinstance(t, Tensor) for t in theta0):
        kinds = ", ".join(type(t).__name__ for t in theta0)
        raise TypeError(
            f"theta0 must hold tensors, got {kinds}. Use torch.as_tensor on each of them."
        )
    shape = theta0.covariance_type.shape(*theta0.means.shape)
    if theta0.covariances.shape != shape:
        raise ValueError(
            f"theta0 must have covariances of shape {shape}, the storage of its type "
            f"{theta0.covariance_type.name!r}, got {tuple(theta0.covariances.shape)}. Name their "
            "type, or leave it out."
        )
    if not all(torch.isfinite(t).all() for t in theta0):
        raise ValueError("theta0 must be finite, got NaN or infinity. Check the start.")


def check_samples(theta0: GaussianMixtureParams, X: Tensor, sample_weight: Tensor | None) -> None:
    """Refuse samples that do not fit the start, and weights that do not fit the samples.

    Parameters
    ----------
    theta0 : GaussianMixtureParams
        The start.
    X : Tensor of shape (n, d)
        Samples.
    sample_weight : Tensor of shape (n,) or None
        Their weights.

    Raises
    ------
    TypeError
        If they are not tensors of numbers.
    ValueError
        If a shape is another, or a weight is no weight.
    """
    if not isinstance(X, Tensor):
        raise TypeError(f"X must be a tensor, got {type(X).__name__}. Use torch.as_tensor(X).")
    if X.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"X must be float32 or float64, got {X.dtype}. Pass X.double().")
    d = theta0.means.shape[1]
    if X.ndim != 2 or X.shape[1] != d or len(X) == 0:
        raise ValueError(
            f"X must have shape (n, {d}), the features of theta0, got {tuple(X.shape)}. Describe "
            "both by the same features."
        )
    if sample_weight is None:
        return
    if not isinstance(sample_weight, Tensor):
        raise TypeError(
            f"sample_weight must be a tensor, got {type(sample_weight).__name__}. Use "
            "torch.as_tensor(sample_weight)."
        )
    if sample_weight.shape != X.shape[:1]:
        raise ValueError(
            f"sample_weight must have shape ({len(X)},), got {tuple(sample_weight.shape)}. Pass "
            "one weight a sample."
        )
    low, high = (float(w) for w in torch.aminmax(sample_weight.detach()))
    if not (low >= 0 and 0 < high < float("inf")):
        raise ValueError(
            "sample_weight must be finite, non-negative and not all zero, got a range of "
            f"{low} to {high}. Use 0 for samples to leave out."
        )


def measured(solution: Solution) -> Solution:
    """Say how far a fit is from its fixed point, where nobody has measured it.

    Parameters
    ----------
    solution : Solution
        A fit.

    Returns
    -------
    Solution
        The same; where its residual was not a number, with ``|F(previous) - previous|`` in Fisher's
        coordinates, if there was a step.
    """
    if not math.isnan(solution.residual) or not solution.n_iter:
        return solution
    after, before = (
        GaussianMixtureParams(
            theta.weights, theta.means, theta.covariances, theta.covariance_type
        ).detach()
        for theta in (solution.value, solution.previous)
    )
    vector = FisherCoordinates(before, after.weights).of_change(after.map(torch.sub, before))
    return solution._replace(residual=float(torch.linalg.vector_norm(vector)))


def differentiate(
    step: EMStep,
    theta0: GaussianMixtureParams,
    solution: Solution,
    *,
    gradient: str = "implicit",
    gradient_tol: float = 1e-6,
    max_polish: int = 1000,
    solve: str | Solver = "auto",
    carried: Carried | None = None,
) -> Solution:
    """Put the end of a fit on the graph of the samples, their weights and the start.

    Parameters
    ----------
    step : EMStep
        The iteration.
    theta0 : GaussianMixtureParams
        The start of the fit, about the origin of the iteration.
    solution : Solution
        The end of the fit.
    gradient : {'implicit', 'automatic', 'one_step', 'natural'}, default='implicit'
        The strategy.
    gradient_tol : float, default=1e-6
        As in `fit_em`, like ``max_polish`` and ``solve``.
    max_polish : int, default=1000
        Largest number of passes spent on polishing.
    solve : str or callable, default='auto'
        Solver of the adjoint equation.
    carried : Carried, default=None
        Takes the place of the solver where the derivative is small.

    Returns
    -------
    Solution
        The same with its value on the graph; polished, if the gradient is implicit.

    Warns
    -----
    InexactGradientWarning
        If polishing did not come near enough to the fixed point. Backward warns likewise if the
        adjoint equation could not be solved.
    """
    options = {}
    if gradient == "natural":
        check_size(solution.value)
    if gradient in AT_FIXED_POINTS:
        solution = _polished(step, solution, gradient, gradient_tol, max_polish)
        solution, options = _noted(step, solution, gradient, gradient_tol)
    if gradient == "implicit":
        options |= {"tol": gradient_tol / 5, "solve": _solver(solve, gradient_tol / 5)}
    if carried is not None and step.linearise(solution.value).small:
        carried.renew()
        options |= _kept(carried, gradient)
    strategy = named("gradient", gradient, GRADIENTS)
    return solution._replace(value=strategy(step, theta0, solution, **options))


def _noted(step, solution, gradient, tol=math.inf):
    """A fixed point with what backward takes notes in, and what its strategy asks for."""
    options = {"linearise": step.linearise}
    if gradient == "implicit":
        notes = options["adjoint"] = Adjoint(tol=tol)
    else:
        notes = options["asked"] = Asked()
        options["data"] = step.X
    return solution._replace(adjoint=notes), options


def _kept(carried, gradient):
    """The option of a strategy by which it uses what is kept."""
    return {"solve": carried.solve} if gradient == "implicit" else {"move": carried.move}


def _solver(solve, tol):
    """A solver by its name, or None for the one that is best."""
    if solve == "auto":
        return None
    if isinstance(solve, str):
        return functools.partial(named("solve", solve, SOLVERS), tol=tol)
    return solve


def _polished(step, solution, gradient, gradient_tol, max_polish):
    """The end of a fit at the fixed point, as far as ``max_polish`` goes."""
    found = polish(
        step.linearise,
        solution.value,
        advance=step.advance,
        tol=gradient_tol / SENSITIVITY,
        max_passes=max_polish,
    )
    error = SENSITIVITY * found.distance
    if not error <= gradient_tol:
        warnings.warn(
            f"EM was left at a residual of {found.residual:.1e}, about {found.distance:.1e} from "
            f"its fixed point: the {gradient} gradient may be off by {error:.1e} > "
            f"gradient_tol={gradient_tol:.1e}. Increase max_iter or reg_covar, use fewer "
            "components, or differentiate with gradient='automatic'.",
            InexactGradientWarning,
            stacklevel=4,
        )
    return solution._replace(
        value=found.theta,
        objective=step.linearise(found.theta).objective,
        converged=solution.converged or error <= gradient_tol,
        residual=found.residual,
        distance=found.distance,
    )


# --- E-steps -----------------------------------------------------------------------------------


def climb_balanced(
    em: EM,
    theta0: GaussianMixtureParams,
    *,
    acceleration: None = None,
    objective: float = -math.inf,
    **options,
) -> Solution:
    """Iterate Sinkhorn-EM from a start whose weights are prescribed.

    Parameters
    ----------
    em : EM
        The iteration of EM over the samples.
    theta0 : GaussianMixtureParams
        The start.
    acceleration : None
        There is none.
    objective : float, default=-inf
        Objective that the first change is measured against; a start that has one goes on with an
        earlier fit, and is balanced at once.
    **options
        Other options of `climb`.

    Returns
    -------
    Solution
        Where it ended; its points are of the type `TiltedMixture`.

    Raises
    ------
    ValueError
        If an acceleration is asked for, or a weight is not positive.
    """
    if acceleration is not None:
        raise ValueError(
            f"acceleration must be None with e_step='sinkhorn', got {acceleration!r}, which "
            "extrapolates plain EM. Set one of the two back."
        )
    start = untilted(theta0, ANY if objective == -math.inf else 0.0)
    return climb(SinkhornEM(em), start, objective=objective, **options)


def differentiate_balanced(
    step: EMStep, theta0: GaussianMixtureParams, solution: Solution, **options
) -> Solution:
    """Put the end of Sinkhorn-EM on the graph of the samples, their weights and the start.

    Parameters
    ----------
    step : EMStep
        The iteration of EM.
    theta0 : GaussianMixtureParams
        The start of the fit, of the prescribed weights.
    solution : Solution
        The end of the fit.
    **options
        Options of `differentiate`.

    Returns
    -------
    Solution
        The same with its value on the graph; its points are mixtures of the prescribed weights.
    """
    sinkhorn = SinkhornStep(step.with_free_weights(), theta0.weights)
    found = differentiate(sinkhorn, untilted(theta0), solution, **options)
    value, previous = found.value.mixture(), found.previous.mixture()
    return found._replace(value=value._replace(weights=theta0.weights), previous=previous)


class EStep(NamedTuple):
    """What a fit does, by its E-step."""

    climb: Callable[..., Solution]
    """Runs the iterations from a start."""
    differentiate: Callable[..., Solution]
    """Puts their end on the graph."""
    prescribes: bool
    """Whether the weights are prescribed, and stay."""


#: E-steps by name.
E_STEPS = {
    "posterior": EStep(climb, differentiate, prescribes=False),
    "sinkhorn": EStep(climb_balanced, differentiate_balanced, prescribes=True),
}
