"""Fits that follow samples which move: each starts where the last one ended."""

from inspect import signature
from typing import Any

import torch
from torch import Tensor

from skgmmot.fitting.em.constraint import constraint_of
from skgmmot.fitting.em.e_steps import E_STEPS
from skgmmot.fitting.em.fit import REG_COVAR, check_samples, check_start, fit_em
from skgmmot.fitting.em.gradient.movement import STRATEGIES
from skgmmot.fitting.em.step import m_step
from skgmmot.gaussian.choice import fastest_e_step
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.gaussian.statistics import Statistics, moments
from skgmmot.numerics import blocks
from skgmmot.numerics.fixed_point import named

#: From this ``gradient_tol`` on, a derivative serves for more than one step of a flow,
ROUGH = 0.1
#: as long as that changes a gradient by no more than this share of ``gradient_tol``.
STALE = 0.3


class WarmStart:
    """EM for changing samples: each fit starts from the mixture of the last one.

    In a gradient flow the samples move a little at a time, and one iteration a step keeps up with
    them: ``max_iter=1`` and ``gradient='one_step'``, the defaults, differentiate that one iteration
    and carry its start as a constant. With ``gradient='implicit'`` or 'natural' and a
    ``gradient_tol`` of 0.1 or more, the derivative of EM is kept from call to call. A fit then
    starts from a prediction: the mixture that moves with the samples, or means that move on as they
    last did. While one Newton step from there finds the fixed point within tolerance, a call is one
    pass over the samples; else it takes several, and a new derivative.

    Parameters
    ----------
    theta0 : GaussianMixtureParams
        Where the first fit starts.
    gradient : {'one_step', 'implicit', 'automatic', 'natural'}, default='one_step'
        As `fit_em`.
    max_iter : int, default=1
        Largest number of iterations a call.
    carry : bool, default=None
        Whether samples take their responsibilities along: each fit then starts from the mixture
        of the samples where they are now, each assigned as it last was; or, if they went as a
        natural gradient asked them to, from the mixture that it asked for. Steps may be many
        times longer. All calls are about the same samples, in the same order, of which a copy is
        kept. None is True for 'natural', which has no use for short steps, and else False.
    **options
        Other options of `fit_em`.

    Attributes
    ----------
    theta : GaussianMixtureParams
        The last mixture, a constant, from which the next fit starts.
    solution : Solution
        The last fit.

    Raises
    ------
    TypeError
        If there is no such option, or ``theta0`` is of another kind.
    ValueError
        If ``theta0`` is not finite, or responsibilities that are not posterior are to be carried.

    Notes
    -----
    ``gradient_tol`` bounds an estimate of the error: 10 times ``solution.distance``, that of the
    fixed point from where EM was linearised. A kept derivative is tried at its first, second,
    fourth ... use, and found anew while it changes a gradient by more than 0.3 times
    ``gradient_tol``. What it adds shows, for 'implicit', in ``solution.adjoint.residual``, the
    relative residual of the adjoint equation, at the price of a pass: no warning looks at it, and
    of the gradients of a flow up to ten in a hundred are further off than ``gradient_tol``.
    ``solution.adjoint.error`` is the relative error of the last gradient, of 'one_step' too, at the
    price of a few passes.

    References
    ----------
    .. [1] Boite, Tanguy, Delon, Desolneux and Flamary 2025, the warm-start flow.

    Examples
    --------
    >>> import torch
    >>> from skgmmot.functional import GaussianMixtureParams, WarmStart
    >>> X = torch.tensor([[0.0], [1.0], [5.0], [6.0]], dtype=torch.float64, requires_grad=True)
    >>> em = WarmStart(
    ...     GaussianMixtureParams(
    ...         torch.tensor([0.5, 0.5]), torch.tensor([[0.0], [6.0]]), torch.ones(2, 1, 1)
    ...     )
    ... )
    >>> for _ in range(3):
    ...     loss = em(X).means.square().sum()
    >>> torch.autograd.grad(loss, X)[0].shape
    torch.Size([4, 1])
    """

    def __init__(
        self,
        theta0: GaussianMixtureParams,
        *,
        gradient: str = "one_step",
        max_iter: int = 1,
        carry: bool | None = None,
        **options: Any,
    ) -> None:
        check_start(theta0)
        unknown = sorted(options.keys() - signature(fit_em).parameters.keys())
        if unknown:
            raise TypeError(
                f"options must be those of fit_em, got {', '.join(unknown)}. Leave them out; the "
                "covariance type is that of theta0."
            )
        self._strategy = named("gradient", gradient, STRATEGIES)
        e_step = named("e_step", options.get("e_step", "posterior"), E_STEPS)
        carry = self._strategy.follows_data if carry is None else carry
        if carry and e_step.balanced:
            raise ValueError(
                f"carry=True must have e_step='posterior', got {e_step.name!r}, whose plan "
                "is of all samples together. Set one of the two back."
            )
        self.theta = theta0.detach()
        self.solution = None
        self.carry, self._before = carry, None
        self.options = {"gradient": gradient, "max_iter": max_iter, **options}
        tol = options.get("gradient_tol", 0.0)
        if tol >= ROUGH and not options.keys() & {"solve", "max_polish", "e_step"}:
            self.options["carried"] = self._strategy.keep(STALE * tol)

    def __call__(self, X: Tensor, sample_weight: Tensor | None = None) -> GaussianMixtureParams:
        """Fit to samples ``X (n, d)``; the mixture is on their graph."""
        start = self.theta if self._before is None else self._start(X, sample_weight)
        self.solution = fit_em(start, X, sample_weight, **self.options)
        before, self.theta = self.theta, self.solution.value.detach()
        if self.carry:
            self._before = X.detach().clone()
        elif self.options.get("carried"):  # the means will move on as they did, more or less
            means = 2 * self.theta.means - before.means
            self.options["carried"].ahead = self.theta._replace(means=means)
        return self.solution.value

    def _start(self, X, sample_weight):
        """The mixture where the samples have taken it."""
        check_samples(self.theta, X, sample_weight)
        if X.shape != self._before.shape:
            raise ValueError(
                "X must hold the samples of the last call, moved, where carry=True, got shape "
                f"{tuple(X.shape)} after {tuple(self._before.shape)}. Make another WarmStart for "
                "other samples."
            )
        went = X.detach() - self._before
        ahead = self._strategy.ahead(self.theta, self.solution.adjoint, went, sample_weight)
        return self._assigned_as_before(X, sample_weight) if ahead is None else ahead

    def _assigned_as_before(self, X, sample_weight):
        """The mixture of the samples where they are now, with the responsibilities they had."""
        theta = self.theta.to(dtype=torch.float64)
        step = fastest_e_step(theta, len(X), torch.float64)

        def block(rows, buffers):
            resp, _ = step.responsibilities(self._before[rows], buffers)  # (K, b)
            if sample_weight is not None:
                resp = resp * sample_weight[rows]
            return moments(theta, X[rows].double(), resp)

        with torch.no_grad(), blocks.workers(X.device) as pool:
            statistics = Statistics(*pool.sum(block, len(X), 2 * theta.means.numel()))
        if theta.noise is not None:  # what is left of the samples
            total = len(X) if sample_weight is None else sample_weight.detach().double().sum()
            statistics = statistics.beside(total - statistics.mass.sum())
        reg_covar = self.options.get("reg_covar", REG_COVAR)
        fixed = {name: self.options.get(f"fixed_{name}", False) for name in theta._fields}
        fixed |= {"device": theta.means.device, "noise": theta.noise is not None}
        constraint = constraint_of(theta.covariance_type, len(theta.means), **fixed)
        there = m_step(theta, statistics, reg_covar, constraint)
        finite = all(torch.isfinite(t).all() for t in there)
        return there if finite else self.theta  # of samples that are not, the fit will say so
