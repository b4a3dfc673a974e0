"""Whole fits as functions: EM from given starts, and the best end on the autograd graph."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from skgmmot.fitting.em.constraint import check_fixed_weights, constraint_of
from skgmmot.fitting.em.e_steps import E_STEPS, SENSITIVITY, EStep, Gradient, certified
from skgmmot.fitting.em.gradient.movement import STRATEGIES, Request
from skgmmot.fitting.em.iterations import EMStep
from skgmmot.fitting.em.prior import Prior, check_prior
from skgmmot.fitting.em.rows import EM
from skgmmot.fitting.samples import InMemory
from skgmmot.gaussian.factor_coordinates import fisher_coordinates
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.numerics import blocks
from skgmmot.numerics.adjoint import Solver
from skgmmot.numerics.fixed_point import Solution, named
from skgmmot.numerics.linalg import norm
from skgmmot.numerics.newton.follow import Carried
from skgmmot.numerics.runs import Runs

#: Added to the variances unless a caller says otherwise, in squared units of the samples.
REG_COVAR = 1e-6


def fit_em(
    theta0: GaussianMixtureParams,
    X: Tensor,
    sample_weight: Tensor | None = None,
    *,
    gradient: str = "implicit",
    tol: float = 1e-3,
    max_iter: int = 100,
    reg_covar: float = REG_COVAR,
    fixed_weights: bool | Tensor = False,
    e_step: str = "posterior",
    acceleration: str | None = None,
    gradient_tol: float = 1e-6,
    max_polish: int = 1000,
    solve: str | Solver = "auto",
    carried: Carried | None = None,
    fixed_means: bool | Tensor = False,
    fixed_covariances: bool | Tensor = False,
    prior: str | Prior = "none",
    certify: bool = False,
) -> Solution:
    """Fit a mixture by EM from a given start; differentiable in the samples and their weights.

    Parameters
    ----------
    theta0 : GaussianMixtureParams
        The start: K components in d dimensions, perhaps with noise (``theta0.with_noise(0.1,
        log_density)``), whose weight is fitted and whose density stays.
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
    fixed_weights : bool or Tensor of shape (K,), default=False
        Whether the weights stay those of ``theta0``: all, or those of the components where a mask
        of truth values says so, of which the others share the rest.
    e_step : {'posterior', 'sinkhorn'}, default='posterior'
        Whether responsibilities are posterior probabilities, or the plan of balanced entropic
        transport to the weights of ``theta0``, which then stay.
    acceleration : {'squarem', 'newton'}, default=None
        What extrapolates the iterations, posterior ones ('newton' not with 'lowrank'). With
        'newton' ``tol`` bounds what the mean log-likelihood should still grow by on all the way to
        its limit.
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
    fixed_means : bool or Tensor of shape (K,), default=False
        Whether the means stay those of ``theta0``, bit by bit, likewise.
    fixed_covariances : bool or Tensor of shape (K,), default=False
        Whether the covariances stay; all or none, if components share one.
    prior : {'none', 'auto'} or Prior, default='none'
        Conjugate prior of the mixture, see `Prior`. The fit then has the largest posterior density,
        and its objectives are mean log-posteriors up to a constant.
    certify : bool, default=False
        Whether to measure how far the fit is from its fixed point where nothing else does, by up to
        ``max_polish`` more passes; the fit stays the same.

    Returns
    -------
    Solution
        Its ``value`` is the fitted mixture, in the dtype of ``X``, on the graph of ``X`` and
        ``sample_weight``, of what is fixed, of the tensors of a `Prior`, and of ``theta0`` if
        ``gradient`` is 'automatic'. If the gradient is implicit it is polished: a little further
        up than where EM stopped; ``adjoint`` is filled in by backward, and its ``error`` is the
        gradient's, also of 'one_step'. ``distance`` says how far from the fixed point the fit may
        be, and ``gain`` how much larger (or, by ``reg_covar``, smaller) ``objective`` may be there,
        if the gradient is implicit or natural, and with ``certify``; else they are NaN.

    Raises
    ------
    TypeError
        If ``X`` holds integers, which carry no gradient, or an argument is of another kind.
    ValueError
        If the shapes of ``theta0``, ``X`` and ``sample_weight`` differ or their numbers are not
        finite, if a weight is negative, if a name is not one of those above, if a covariance
        collapses, if the gradient of all iterations is asked of accelerated ones, or if the natural
        one is asked of free weights, of ``e_step='sinkhorn'``, of anything beside the samples, of
        fixed means or covariances or a prior, or of a mixture of more than 512 numbers; if masks
        or the prior are not of the mixture's shape, or everything is fixed.

    Warns
    -----
    InexactGradientWarning
        If the implicit gradient may be further off than ``gradient_tol``; from backward, if
        the adjoint equation could not be solved.

    Notes
    -----
    Distances are in units of the spread of the components: that of two mixtures is
    ``sum_k dw_k^2 / w_k + w_k |L_k^{-1} dm_k|^2 + w_k |L_k^{-1} dS_k L_k^{-T}|^2 / 2``, its root
    taken, with ``S_k = L_k L_k^T`` the covariances: about the mean over samples of shifts of means
    in standard deviations, and of relative changes of covariances and weights.
    Where nothing determines a fixed point, as for components that coincide, the distance along
    such directions does not count. Both are estimates on the safe side, not bounds: in a test on
    random problems fewer than one in a hundred was below the truth.

    Memory beyond the data is a few megabytes, whatever n, for the fit and for every gradient, and
    the ``n d`` numbers of the gradient itself. In units of one iteration, 'one_step' costs about
    three, 'automatic' as much for each iteration, and 'implicit' about one and a half for each
    product of the adjoint solver, 10 to 40 of them (one pass for all, if K and d are small; none
    for one component, whose fit is its moments), and as much again for polishing. 'automatic' is
    differentiable more than once. 'natural' builds a matrix of ``q x q`` numbers for a mixture of
    ``q``, in ``2 n d q^2`` multiplications: 10 to 30 iterations for small mixtures, hundreds for
    those of some hundred numbers. Backward gives
    ``-(a_i / sum a) dx_i``, where ``dx_i`` moves sample i along with its components, plus the
    smallest correction with which the fitted mixture takes its own steepest descent step in
    Wasserstein geometry (exactly; for mixtures of more than 128 features or 200 numbers with an
    error of the order of ``reg_covar`` relative to their variances).

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
    how = Gradient(
        named("gradient", gradient, STRATEGIES), gradient_tol, max_polish, solve, carried
    )
    e_step = named("e_step", e_step, E_STEPS)
    constraint = constraint_of(
        theta0.covariance_type,
        len(theta0.means),
        weights=fixed_weights,
        means=fixed_means,
        covariances=fixed_covariances,
        device=X.device,
        noise=theta0.noise is not None,
    )
    check_fixed_weights(constraint, theta0.weights)
    prior = check_prior(prior)
    beside = (*theta0, sample_weight, *([] if prior is None else prior.tensors()))
    if not isinstance(certify, bool):
        raise TypeError(f"certify must be True or False, got {certify!r}. Pass one of them.")
    on_graph = torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in (X, *beside)
    )
    if sample_weight is not None:
        sample_weight = sample_weight.to(X.dtype)
    constants = [None if t is None else t.detach() for t in (X, sample_weight)]
    origin = blocks.origin(*constants)
    if not torch.isfinite(origin).all():
        raise ValueError(
            "X must have a finite mean, got NaN or infinity. Drop the samples that are not finite."
        )
    of, samples = InMemory(*constants), (X, sample_weight)
    if prior is not None:
        graph = samples if on_graph else None
        size = theta0.covariance_type, len(theta0.means)
        constraint = constraint.under(prior, *size, of, origin, reg_covar, graph)
    if on_graph:
        numbers = sum(t.numel() for t in theta0)
        noisy = theta0.noise is not None
        how.strategy.check(Request(acceleration, constraint, prior, e_step, numbers, beside, noisy))
    em = EM(of, origin, reg_covar, constraint)
    start = theta0.to(dtype=torch.float64).translated(-origin)
    start = constraint.keep(start, start)  # free weights share what is left
    solution = _followed(em, start, samples, how) if on_graph else None
    if solution is None:
        loop = {"tol": tol, "max_iter": max_iter, "acceleration": acceleration}
        loop["certify"] = max_polish if certify else 0
        how = how if on_graph else None
        solution, _ = fit_from_starts(em, [(start, -math.inf)], samples, e_step, how, **loop)
    solution = measured(solution)

    def back(theta, held):  # what stays takes no rounding from its way to the origin and back
        theta = theta.translated(origin).canonical().to(dtype=X.dtype)
        return constraint.keep_moments(theta, held.to(dtype=X.dtype))

    value, previous = solution.value, solution.previous
    return solution._replace(value=back(value, theta0), previous=back(previous, theta0.detach()))


def fit_from_starts(
    em: EM,
    starts: Iterable[tuple[GaussianMixtureParams, float]],
    samples: tuple[Tensor, Tensor | None],
    e_step: EStep,
    gradient: Gradient | None = None,
    *,
    runs: Runs | None = None,
    certify: int = 0,
    **options,
) -> tuple[Solution, GaussianMixtureParams]:
    """Run EM from every start, and put the end of the best run on the graph.

    Parameters
    ----------
    em : EM
        The iteration over the samples.
    starts : iterable of (GaussianMixtureParams, float)
        Starts about the origin of the iteration, and the objective that the first change of each
        run is measured against; the next is asked for when a run has ended.
    samples : tuple of Tensor of shape (n, d) and Tensor of shape (n,) or None
        The samples and their weights, perhaps on a graph.
    e_step : EStep
        The E-step.
    gradient : Gradient, default=None
        How the end is differentiated; None leaves it a constant.
    runs : Runs, default=None
        What holds the best run so far, shows the iterations, and keeps their state. Polishing and
        derivatives begin at the end of the best run: no state of theirs is kept.
    certify : int, default=0
        Largest number of passes spent on how far the end is from its fixed point; see `certified`.
    **options
        Other options of `climb`.

    Returns
    -------
    solution : Solution
        The end of the best run, the first of them if there are several.
    start : GaussianMixtureParams
        Where that began.
    """
    runs = Runs() if runs is None else runs
    options["constraint"] = em.constraint

    def run(start, callback):
        theta0, objective = start
        loop = {"objective": objective, "callback": callback, "journal": runs.journal}
        return e_step.climb(em, theta0.detach(), **loop, **options)

    with em.at_work():
        solution = runs.best_of(starts, run)
    theta0, _ = runs.start
    if certify and not (gradient is not None and gradient.strategy.at_fixed_point):
        step = e_step.step(_step(em, samples, theta0).detach(), theta0.detach())
        with torch.no_grad():
            solution = certified(step, solution, certify)
    if gradient is not None:
        solution = e_step.differentiate(_step(em, samples, theta0), theta0, solution, gradient)
    return solution, theta0


def _step(em, samples, theta0):
    """The iteration on the graph of the samples, and of what stays."""
    return EMStep(em, *samples, theta0 if em.constraint.fixes else None)


def _followed(em, start, samples, gradient):
    """The fixed point on the graph, where what is kept finds it near; else None."""
    strategy, carried = gradient.strategy, gradient.carried
    if carried is None or not strategy.at_fixed_point:
        return None
    step, theta = _step(em, samples, start), start.detach()
    if carried.ahead is not None:
        theta = carried.ahead.to(dtype=torch.float64).translated(-em.origin)
    try:
        with torch.no_grad():
            near = carried.find(step.linearise, theta, gradient.tol / SENSITIVITY)
    except ValueError:  # a step outside the domain of EM
        return None
    if near is None:
        return None
    linear, delta = near
    theta, ahead = linear.theta, linear.retracted(delta)
    residual, distance = norm(linear.residual), norm(delta)
    solution = Solution(theta, theta, linear.objective, (), 0, True, 0.0, residual, distance)
    solution = solution._replace(gain=float(linear.residual @ delta) / 2)
    solution = strategy.attach(step, theta, solution, carried=carried)
    value = solution.value.map(lambda t, there, here: t + (there - here), ahead, theta)
    return solution._replace(value=value)


def check_start(theta0: GaussianMixtureParams, name: str = "theta0") -> None:
    """Refuse a start that is not a mixture of finite numbers.

    Parameters
    ----------
    theta0 : GaussianMixtureParams
        The start.
    name : str, default='theta0'
        What the caller calls it.

    Raises
    ------
    TypeError
        If it is something else.
    ValueError
        If it is not finite.
    """
    if not isinstance(theta0, GaussianMixtureParams):
        raise TypeError(
            f"{name} must be a GaussianMixtureParams, got {type(theta0).__name__}. Pass "
            "GaussianMixtureParams(weights, means, covariances), of tensors."
        )
    if not all(isinstance(t, Tensor) for t in theta0):
        kinds = ", ".join(type(t).__name__ for t in theta0)
        raise TypeError(
            f"{name} must hold tensors, got {kinds}. Use torch.as_tensor on each of them."
        )
    shape = theta0.covariance_type.shape(*theta0.means.shape)
    if theta0.covariances.shape != shape:
        raise ValueError(
            f"{name} must have covariances of shape {shape}, the storage of its type "
            f"{theta0.covariance_type.name!r}, got {tuple(theta0.covariances.shape)}. Name their "
            "type, or leave it out."
        )
    if theta0.noise is not None and len(theta0.weights) != len(theta0.means) + 1:
        raise ValueError(
            f"{name} must have weights of shape ({len(theta0.means) + 1},) with noise, whose own "
            f"is the last, got {tuple(theta0.weights.shape)}. Use with_noise of the mixture."
        )
    if not all(torch.isfinite(t).all() for t in theta0):
        raise ValueError(f"{name} must be finite, got NaN or infinity. Check where it is from.")


def check_samples(
    theta0: GaussianMixtureParams, X: Tensor, sample_weight: Tensor | None, name: str = "theta0"
) -> None:
    """Refuse samples that do not fit the start, and weights that do not fit the samples.

    Parameters
    ----------
    theta0 : GaussianMixtureParams
        The start.
    X : Tensor of shape (n, d)
        Samples.
    sample_weight : Tensor of shape (n,) or None
        Their weights.
    name : str, default='theta0'
        What the caller calls the start.

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
            f"X must have shape (n, {d}), the features of {name}, got {tuple(X.shape)}. Describe "
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
    """Fill in the residual of a fit where it has not been measured yet.

    Parameters
    ----------
    solution : Solution
        A fit.

    Returns
    -------
    Solution
        The same fit. If its residual was NaN and there was a step, the residual is now
        ``|F(previous) - previous|`` in Fisher's coordinates.
    """
    if not math.isnan(solution.residual) or not solution.n_iter:
        return solution
    after, before = (
        GaussianMixtureParams(
            *(theta.weights, theta.means, theta.covariances, theta.covariance_type),
            theta.noise,
        ).detach()
        for theta in (solution.value, solution.previous)
    )
    vector = fisher_coordinates(before, after.weights).of_change(after.map(torch.sub, before))
    return solution._replace(residual=float(torch.linalg.vector_norm(vector)))
