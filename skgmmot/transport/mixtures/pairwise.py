"""MW2 between all pairs of many mixtures.

The components of all mixtures are stacked. For each row of the result, the costs between the
components of one mixture and those of all others are computed together; then one discrete transport
problem is solved for each pair.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple, overload

import numpy as np
import torch
from torch import Tensor

from skgmmot.gaussian.bures.gaussians import (
    GaussianCosts,
    are_factored,
    bures_wasserstein_squared,
)
from skgmmot.gaussian.bures.rounding import CostRounding
from skgmmot.gaussian.covariance.low_rank import joined
from skgmmot.gaussian.covariance.registry import DIAG, FULL
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.numerics.linalg import compare_bits
from skgmmot.transport.discrete.bounded import BoundedCosts, solve_in_step
from skgmmot.transport.discrete.certificate import Certificate
from skgmmot.transport.discrete.network_simplex import network_simplex
from skgmmot.transport.discrete.solvers import penalties_of, same_precision, solve
from skgmmot.transport.mixtures.distance import check_symmetric, finite_costs, transport_plan
from skgmmot.transport.mixtures.errors import cost_error

#: Only the costs that plans may use are computed where a pair of mixtures has, on average, more
#: than this over ``d^2`` pairs of components.
MIN_BOUNDED_SIZE = 2**12
#: All costs are computed, in this row and the next ones, where plans may use more than this share.
MAX_COSTS_SHARE = 0.5


@overload
def pairwise_squared(
    sources: Sequence[GaussianMixtureParams],
    targets: Sequence[GaussianMixtureParams] | None = ...,
    *,
    reg: float = ...,
    reg_m: float | tuple[float, float] | None = ...,
    debiased: bool = ...,
    track: Callable[[Iterable], Iterable] = ...,
    run: Callable[[Callable, int], list[Tensor]] | None = ...,
    return_error: Literal[False] = ...,
) -> Tensor: ...
@overload
def pairwise_squared(
    sources: Sequence[GaussianMixtureParams],
    targets: Sequence[GaussianMixtureParams] | None = ...,
    *,
    reg: float = ...,
    reg_m: float | tuple[float, float] | None = ...,
    debiased: bool = ...,
    track: Callable[[Iterable], Iterable] = ...,
    run: Callable[[Callable, int], list[Tensor]] | None = ...,
    return_error: Literal[True],
) -> tuple[Tensor, Tensor]: ...
def pairwise_squared(
    sources: Sequence[GaussianMixtureParams],
    targets: Sequence[GaussianMixtureParams] | None = None,
    *,
    reg: float = 0.0,
    reg_m: float | tuple[float, float] | None = None,
    debiased: bool = False,
    track: Callable[[Iterable], Iterable] = iter,
    run: Callable[[Callable, int], list[Tensor]] | None = None,
    return_error: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Return the matrix of squared MW2 distances between all pairs of mixtures.

    Parameters
    ----------
    sources : sequence of M GaussianMixtureParams
        Mixtures of d features, of any types and numbers of components, on one device.
    targets : sequence of N GaussianMixtureParams, default=None
        Mixtures likewise; None compares the sources with each other, each pair once where both
        orders are the same problem.
    reg : float, default=0.0
        Weight of the entropy of the plans, as in `transport_plan`.
    reg_m : float, tuple of two floats or None, default=None
        Penalties in place of the marginals.
    debiased : bool, default=False
        Whether to return Sinkhorn divergences instead.
    track : callable, default=iter
        Wraps the loop over the sources, for a progress bar.
    run : callable, default=None
        ``run(rows, M)`` returns all M rows in order, of which ``rows(numbers)``, which can be
        pickled, computes those of the given numbers, for other processes. None computes them here,
        and so are pairs that require a gradient or are not on the CPU.
    return_error : bool, default=False
        Whether to return the errors of the costs, too, which takes about as long again.

    Returns
    -------
    Tensor of shape (M, N)
        The cost of the optimal plan for each pair. Bitwise the transpose of the result with sources
        and targets exchanged.
    Tensor of shape (M, N)
        Only with ``return_error``: bounds, to first order, of the errors: of the plans, and of the
        costs between components.

    Raises
    ------
    ValueError
        If a penalty is NaN, infinite or of the wrong sign.
    RuntimeError
        If a plan is not found.

    Notes
    -----
    Differentiable where a mixture requires a gradient; the pairs are then taken one by one.
    Holds the costs of one source at a time. Between matrices and without penalties, costs that no
    plan can use are not computed.
    """
    if debiased:
        return _debiased(sources, targets, {"reg": reg, "reg_m": reg_m}, track, run, return_error)
    lam = penalties_of(reg_m)
    others = sources if targets is None else targets
    on_graph = torch.is_grad_enabled() and any(
        t.requires_grad for m in (*sources, *others) for t in m
    )
    if not on_graph and targets is not None:
        which = _compare(sources, targets)
        if which > 0:
            options = {"reg": reg, "reg_m": lam[::-1], "track": track, "run": run}
            turned = pairwise_squared(targets, sources, **options, return_error=return_error)
            return tuple(t.mT for t in turned) if return_error else turned.mT
        targets = targets if which else None
    symmetric = targets is None and lam[0] == lam[1]
    targets = sources if targets is None else targets
    # Without entropy, a mixture is at no cost from itself.
    first = [(i if reg else i + 1) if symmetric else 0 for i in range(len(sources))]
    options = {"reg": reg, "reg_m": reg_m, "return_error": return_error}
    rows = functools.partial(
        _differentiable_rows if on_graph else _rows, sources, targets, first, **options
    )
    if run is None or on_graph or sources[0].means.device.type != "cpu":
        found = rows(track(range(len(sources))))
    else:
        found = run(rows, len(sources))
    rows = [torch.nn.functional.pad(row, (n, 0)) for n, row in zip(first, found, strict=True)]
    result = torch.stack(rows, dim=-2)  # (M, N), and before that one of values and errors
    result = result + result.triu(1).mT if symmetric else result
    return (result[0], result[1].detach()) if return_error else result


def _debiased(sources, targets, options, track, run, return_error):
    """The Sinkhorn divergences of all pairs; each mixture's cost to itself is computed once."""
    check_symmetric(options["reg_m"])
    others = options | {"track": track, "run": run, "return_error": return_error}
    costs = pairwise_squared(sources, targets, **others)
    costs, errors = costs if return_error else (costs, None)
    if targets is None:
        own = [(costs.diagonal(), errors if errors is None else errors.diagonal())] * 2
    else:
        own = [_own_costs(side, options, return_error) for side in (sources, targets)]
    (source, of_source), (target, of_target) = own
    result = costs - (source.unsqueeze(1) + target) / 2
    if options["reg"] and not math.isinf(penalties_of(options["reg_m"])[0]):
        masses = (
            torch.stack([m.weights.sum() for m in side]).to(result)
            for side in (sources, targets or sources)
        )
        source, target = masses
        result = result + options["reg"] / 2 * (source.unsqueeze(1) - target).square()
    if not return_error:
        return result
    return result, errors + (of_source.unsqueeze(1) + of_target) / 2


def _own_costs(mixtures, options, return_error):
    """The costs ``(M,)`` of mixtures to themselves, and their errors or None."""
    plans = [transport_plan(m, m, **options) for m in mixtures]
    costs = torch.stack([plan.cost for plan in plans])
    if not return_error:
        return costs, None
    pairs = zip(mixtures, plans, strict=True)
    return costs, costs.new_tensor([cost_error(m, m, plan) for m, plan in pairs])


def _compare(sources, targets) -> int:
    """Compare two sequences of mixtures by length, then bitwise: -1, 0 if equal, or 1."""
    if len(sources) != len(targets):
        return -1 if len(sources) < len(targets) else 1
    return compare_bits(*((t for mixture in side for t in mixture) for side in (sources, targets)))


def _differentiable_rows(sources, targets, first, numbers, return_error, **options) -> list[Tensor]:
    """The differentiable costs ``(n,)`` from some sources to the targets from ``first[i]`` on.

    With their errors, ``(2, n)``.
    """

    def row(i):
        plans = [transport_plan(sources[i], t, **options) for t in targets[first[i] :]]
        if not plans:
            return sources[i].means.new_zeros((2, 0) if return_error else 0)
        costs = torch.stack([plan.cost for plan in plans])
        if not return_error:
            return costs
        pairs = zip(targets[first[i] :], plans, strict=True)
        errors = [cost_error(sources[i], target, plan) for target, plan in pairs]
        return torch.stack([costs, costs.new_tensor(errors)])

    return [row(i) for i in numbers]


def _rows(sources, targets, first, numbers, *, reg, reg_m, return_error) -> list[Tensor]:
    """The same without gradients."""
    row = _Rows(sources, targets, reg, reg_m, return_error)
    return [row(i, first[i]) for i in numbers]


class _Stack:
    """The components of several mixtures, one mixture after the other, without gradients."""

    def __init__(self, mixtures: Sequence[GaussianMixtureParams], diagonal: bool, factored: bool):
        mixtures = [m.detach() for m in mixtures]
        self.weights = [m.weights.cpu() for m in mixtures]
        self.names = [b"|".join(t.cpu().numpy().tobytes() for t in m) for m in mixtures]
        self.edges = list(itertools.accumulate((len(w) for w in self.weights), initial=0))
        self.means = torch.cat([m.means for m in mixtures])
        if factored:
            self.covariances, self.type = joined([m.factors() for m in mixtures])
            return
        self.type = DIAG if diagonal else FULL
        self.covariances = torch.cat(
            [
                m.in_base().covariances.expand_as(m.means) if diagonal else m.full_covariances()
                for m in mixtures
            ]
        )


class _Rows:
    """Computes rows of the matrix: the costs from source i to all targets from a given one on."""

    def __init__(self, sources, targets, reg, reg_m, return_error):
        diagonal = all(m.covariance_type.diagonal for m in (*sources, *targets))
        factored = not diagonal and are_factored(*(m.factors() for m in (*sources, *targets)))
        self.sources = _Stack(sources, diagonal, factored)
        self.targets = self.sources if targets is sources else _Stack(targets, diagonal, factored)
        self.penalties = {"reg": reg, "reg_m": reg_m}
        self.exact = not reg and all(math.isinf(lam) for lam in penalties_of(reg_m))
        sizes = len(self.sources.means) / len(sources), len(self.targets.means) / len(targets)
        d = self.sources.means.shape[1]
        self.costs = None
        if d > 2 and not diagonal and not factored:
            stacks = self.sources, self.targets
            self.costs = GaussianCosts.between(
                *(t for s in stacks for t in (s.means, s.covariances))
            )
        self.rise = 0.0  # how far costs are above their bounds
        self.rounding = None
        if return_error:
            stacks = self.sources, self.targets
            gaussians = [t for s in stacks for t in (s.means, s.covariances)]
            self.rounding = CostRounding(*gaussians, tuple(s.type for s in stacks))
        # a plan from or to one component uses all costs
        many = min(sizes) > 1 and math.prod(sizes) * d**2 > MIN_BOUNDED_SIZE
        self.bounded = self.costs is not None and self.exact and many

    def __call__(self, i: int, first: int) -> Tensor:
        here = slice(*self.sources.edges[i : i + 2])
        there = slice(self.targets.edges[first], None)
        a, weights = self.sources.weights[i], self.targets.weights[first:]
        edges = [edge - there.start for edge in self.targets.edges[first:]]
        columns = [slice(*pair) for pair in itertools.pairwise(edges)]
        if self.bounded and columns:
            solved = self._bounded(a, weights, columns, self.costs.part(here, there))
        else:
            C = _numpy(finite_costs(self._costs(here, there)))
            solved = (self._solved(a, b, C[:, at]) for b, at in zip(weights, columns, strict=True))
        starts = [(here.start, there.start + at.start) for at in columns]
        values = [self._answer(*each) for each in zip(solved, starts, strict=True)]
        shape = len(columns), 1 if self.rounding is None else 2
        values = np.array(values).reshape(shape)
        if not self.penalties["reg"]:  # equal mixtures are at no cost from each other
            name, names = self.sources.names[i], self.targets.names[first:]
            values[[name == other for other in names]] = 0.0
        values = self.sources.means.new_tensor(values).mT
        return values.squeeze(0) if self.rounding is None else values

    def _costs(self, here: slice, there: slice) -> Tensor:
        """All costs between two ranges of components."""
        if self.costs is not None:
            return self.costs.part(here, there).all()
        source, target = self.sources, self.targets
        return bures_wasserstein_squared(
            source.means[here],
            source.covariances[here],
            target.means[there],
            target.covariances[there],
            covariance_types=(source.type, target.type),
        )

    def _solved(self, a: Tensor, b: Tensor, C: np.ndarray) -> "_Solved":
        """One transport problem."""
        if self.exact:
            return _Solved.exactly(a, b, C, *_exact_plan(a, b, C))
        plan = solve(a, b, torch.from_numpy(C), **self.penalties)
        return _Solved(float(plan.cost), plan.coupling.numpy(), C, lambda: plan.error)

    def _bounded(self, a, weights, columns, costs: GaussianCosts) -> list["_Solved"]:
        """The exact plans to all targets, computing only component costs they may use."""

        def compute(k, l):
            return _numpy(costs(*(torch.from_numpy(i).to(costs.means[0].device) for i in (k, l))))

        bounds = _numpy(finite_costs(costs.lower_bounds()))
        known = BoundedCosts(bounds, compute, rise=self.rise, max_share=MAX_COSTS_SHARE)
        plans = solve_in_step(known, columns, lambda j, C: _exact_plan(a, weights[j], C))
        self.rise, self.bounded = known.rise, not known.known.all()
        lowest = np.where(known.known, known.C, known.bounds)
        return [
            _Solved.exactly(a, b, lowest[:, at], *plan)
            for b, at, plan in zip(weights, columns, plans, strict=True)
        ]

    def _answer(self, solved: "_Solved", starts: tuple[int, int]):
        """The value between the components from two numbers on, with its error if asked for."""
        if self.rounding is None:
            return solved.value
        P, C = (torch.from_numpy(t) for t in (solved.P, solved.C))
        k, l = P.nonzero(as_tuple=True)
        rounding = self.rounding(k + starts[0], l + starts[1], C[k, l])
        return solved.value, solved.error() + float(P[k, l] @ rounding)


class _Solved(NamedTuple):
    """A transport problem that was solved: value, plan, costs and the error at these costs."""

    value: float
    P: np.ndarray
    C: np.ndarray
    error: Callable[[], float]

    @classmethod
    def exactly(cls, a: Tensor, b: Tensor, C: np.ndarray, P, f, g) -> "_Solved":
        """An exact plan and its potentials; costs of pairs without mass may be lower bounds."""
        value = float((P * C).sum())

        def error():
            weights = tuple(t.double().numpy() for t in same_precision(a, b))
            return Certificate(weights, C, (math.inf, math.inf), 0.0, (f, g)).of(P, value).error

        return cls(value, P, C, error)


def _exact_plan(a: Tensor, b: Tensor, C: np.ndarray) -> tuple[np.ndarray, ...]:
    """The exact plan and its potentials."""
    a, b = same_precision(a, b)
    return network_simplex(a.double().numpy(), b.double().numpy(), C, torch.finfo(a.dtype).eps)


def _numpy(costs: Tensor) -> np.ndarray:
    """Costs as a float64 array on the CPU."""
    return costs.cpu().double().numpy()
