r"""Newton's method for entropic transport, on its dual as a function of the source's potentials.

The best target potentials for given source potentials are those of a Sinkhorn half-step,
:math:`g(f)`. What remains to be maximised is concave and smooth,

.. math::

    h(f) = \langle a, \phi_0(f)\rangle + \langle b, \phi_1(g(f))\rangle
        - \mathrm{reg} \sum_{kl} a_k b_l \bigl(e^{(f_k + g_l(f) - C_{kl}) / \mathrm{reg}} - 1\bigr),

in the notation of `interior_point.problem`. Its gradient is the difference between the
marginals that the penalties assign to the potentials and those of the plan; its Hessian is a Schur
complement, a graph Laplacian plus a diagonal. Sinkhorn's sweeps, whose time is nothing beside that
of a Newton step, stand before each of them. Three to ten steps are needed as a rule, where the
interior-point method takes fifty.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from skgmmot.numerics.exponentials import exponentials
from skgmmot.transport.discrete.entropic import softmin
from skgmmot.transport.discrete.interior_point.all_pairs import laplacian_solve, tolerance
from skgmmot.transport.discrete.interior_point.problem import Penalised, conjugate, marginal
from skgmmot.transport.discrete.network_simplex import EPS

#: Newton steps at most; where they do not suffice, the interior-point method is faster.
MAX_STEPS = 30
#: Sinkhorn sweeps before each Newton step.
N_SWEEPS = 10
#: Largest change of a potential in a step, in units of ``reg``, and how often a step is halved.
MAX_STEP_LENGTH, MAX_HALVINGS = 1e4, 20
#: A step is accepted if it gains this share of what its slope promises.
MIN_GAIN = 1e-4
#: Largest ratio of neighbouring weights of the entropy in the start of a penalised problem.
SCALING = 4.0
#: The first of them, relative to the smaller penalty, unless the largest cost is below.
FIRST_ENTROPY = 10.0
#: Rows with less than this share of their mass are computed in logarithms.
LEAST_SHARE = 1e-50
#: Marginals that lack less than this share of the mass lack nothing.
NO_ERROR = 8 * EPS


def newton(problem: Penalised) -> tuple[Tensor, Tensor, Tensor]:
    """Solve entropic transport, with prescribed or penalised marginals.

    Parameters
    ----------
    problem : Penalised
        The problem, with ``reg > 0``.

    Returns
    -------
    f, g : Tensor of shape (K,) and (L,)
        Potentials.
    P : Tensor of shape (K, L)
        The plan.

    Raises
    ------
    RuntimeError
        If the marginals are not met after `MAX_STEPS` steps.

    Notes
    -----
    Not differentiable. Costs ``O(K L min(K, L))`` a step.
    """
    point = _start(problem)
    for _ in range(MAX_STEPS):
        if not math.isfinite(_error(point)):  # the mass of a component underflows
            break
        if _error(point) <= NO_ERROR * float(point.P.sum()):
            return point[:3]
        following = _swept(problem, *_advance(problem, point))
        if _solved(problem, point):  # convergence is quadratic: the last step has the last digits
            return min(point, following, key=_error)[:3]
        point = following
    raise RuntimeError(
        f"Newton's method must meet the marginals in {MAX_STEPS} steps, got a difference of "
        f"{_error(point):.2g}. Use a larger reg."
    )


class _Iterate(NamedTuple):
    """Potentials, of which the target's are the best for the source's, and their plan."""

    f: Tensor
    g: Tensor
    P: Tensor
    wrong: Tensor
    """What the source's marginal lacks ``(K,)``; the target's is met."""


def _error(point: _Iterate) -> float:
    """The mass that is wrong."""
    return float(point.wrong.abs().sum())


def _start(problem: Penalised) -> _Iterate:
    """The iterate to start from: under penalties, by Sinkhorn's sweeps as the entropy falls."""
    f, lams = torch.zeros_like(problem.a), (problem.lam0, problem.lam1)
    if not all(map(math.isinf, lams)):
        first = min(float(problem.C.max()), FIRST_ENTROPY * min(lams)) / problem.reg
        n_levels = math.ceil(math.log(max(first, 1.0), SCALING))
        for level in range(n_levels):
            wider = problem._replace(reg=problem.reg * first ** (1 - level / n_levels))
            f = _swept(wider, f, *_half_step(wider, f)).f
    return _swept(problem, f, *_half_step(problem, f))


def _half_step(problem: Penalised, f: Tensor) -> tuple[Tensor, Tensor]:
    """The best target potentials ``(L,)`` for given source potentials, and their plan."""
    logs = problem.a.log() + f / problem.reg
    P = (problem.C / -problem.reg).add_(logs.unsqueeze(1))
    most = P.amax(0)
    P = exponentials(P.sub_(most))
    sums = P.sum(0)
    g = (most + sums.log()) * (-problem.reg / (1 + problem.reg / problem.lam1))
    return g, P.mul_(marginal(g, problem.lam1, problem.b) / sums)


def _swept(problem: Penalised, f: Tensor, g: Tensor, P: Tensor) -> _Iterate:
    """The iterate after a few sweeps, which end with the target's half-step.

    They scale rows and columns of the plan; where rows have hardly any mass, the first is in
    logarithms.
    """
    a, b, C, lam0, lam1, reg = problem
    if not (P.sum(1) > LEAST_SHARE * marginal(f, lam0, a)).all():
        f = softmin(C - g, b, reg, lam0)
        g, P = _half_step(problem, f)
    # a marginal w exp(-f / lam) and a sum of P that grows by exp(change / reg) meet there
    logs = a.log() - f / lam0, b.log() - g / lam1
    damping = 1 / (1 + reg / lam0), 1 / (1 + reg / lam1)
    u, v = torch.zeros_like(f), torch.zeros_like(g)
    for sweep in range(N_SWEEPS):
        u = damping[0] * (logs[0] - (P @ v.exp()).log())
        if not sweep:
            u += translation(problem, f + reg * u, g) / reg
        v = damping[1] * (logs[1] - (P.mT @ u.exp()).log())
    P.mul_(u.exp().unsqueeze(1)).mul_(v.exp())
    f, g = f + reg * u, g + reg * v
    return _Iterate(f, g, P, marginal(f, problem.lam0, problem.a) - P.sum(1))


def translation(problem: Penalised, f: Tensor, g: Tensor) -> Tensor | float:
    """Return the constant that, added to ``f`` and subtracted from ``g``, raises the dual most.

    Sweeps would find it slowly under large penalties. It makes the totals of the marginals equal.

    Parameters
    ----------
    problem : Penalised
        The problem.
    f, g : Tensor of shape (K,) and (L,)
        Potentials.

    Returns
    -------
    Tensor of shape () or float
        The constant; zero if both marginals are prescribed.
    """
    rates = 1 / problem.lam0 + 1 / problem.lam1
    if not rates:
        return 0.0
    return (_log_total(f, problem.lam0, problem.a) - _log_total(g, problem.lam1, problem.b)) / rates


def _log_total(f: Tensor, lam: float, weights: Tensor) -> Tensor:
    """``log sum_k w_k exp(-f_k / lam)``, exact where ``f / lam`` is small."""
    total = weights.sum()
    if math.isinf(lam):
        return total.log()
    return total.log() + torch.log1p(weights @ torch.expm1(-f / lam) / total)


def _solved(problem: Penalised, point: _Iterate) -> bool:
    """Whether the source's marginal is met to rounding, in mass or in what it costs."""
    f, g, _, wrong = point
    mass = float(marginal(g, problem.lam1, problem.b).sum())
    share, price = float(wrong.abs().sum()), float(wrong.abs() @ (f.abs() + problem.reg))
    tol = tolerance(problem.reg)
    return share <= tol * mass or price <= 0.1 * tol * abs(_objective(problem, f, g))


def _objective(problem: Penalised, f: Tensor, g: Tensor) -> float:
    """``h(f)``, where ``g`` are the best target potentials."""
    gained = problem.a @ conjugate(f, problem.lam0) + problem.b @ conjugate(g, problem.lam1)
    mass = marginal(g, problem.lam1, problem.b).sum() - problem.a.sum() * problem.b.sum()
    return float(gained - problem.reg * mass)


def _advance(problem: Penalised, point: _Iterate) -> tuple[Tensor, Tensor, Tensor]:
    """Potentials and plan after a Newton step, halved until the objective gains enough."""
    f, g, P, wrong = point
    reg, zero = problem.reg, torch.zeros_like(g)
    ridges = (
        marginal(f, problem.lam0, problem.a) / problem.lam0,
        marginal(g, problem.lam1, problem.b) / problem.lam1,
    )
    df, _ = laplacian_solve(P / reg, *ridges, wrong, zero)
    if math.isinf(problem.lam0) and math.isinf(problem.lam1):
        df = df - df.median()
    value, slope = _objective(problem, f, g), float(wrong @ df)
    rounding = 64 * EPS * float(problem.a @ f.abs() + problem.b @ g.abs() + reg)
    t = 1 / max(1.0, float(df.abs().max()) / (MAX_STEP_LENGTH * reg))
    for _ in range(MAX_HALVINGS):
        tried = f + t * df
        best, plan = _half_step(problem, tried)
        if _objective(problem, tried, best) >= value + MIN_GAIN * t * slope - rounding:
            return tried, best, plan
        t /= 2
    return f, g, P.clone()
