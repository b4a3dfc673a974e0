"""MW2 between all pairs of many mixtures.

The components of all mixtures are stacked. For each row of the result, the costs between the
components of one mixture and those of all others are computed together; then one discrete transport
problem is solved for each pair.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from skgmmot.gaussian.bures.gaussians import (
    GaussianCosts,
    are_factored,
    bures_wasserstein_squared,
)
from skgmmot.gaussian.covariance.low_rank import joined
from skgmmot.gaussian.covariance.registry import DIAG, FULL
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.numerics.linalg import compare_bits
from skgmmot.transport.discrete.bounded import BoundedCosts, solve_in_step
from skgmmot.transport.discrete.network_simplex import network_simplex
from skgmmot.transport.discrete.plan import penalties_of, same_precision, solve
from skgmmot.transport.mixtures.distance import check_symmetric, transport_plan

#: Only the costs that plans may use are computed where a pair of mixtures has, on average, more
#: than this over ``d^2`` pairs of components.
MIN_BOUNDED_SIZE = 2**12
#: All costs are computed, in this row and the next ones, where plans may use more than this share.
MAX_COSTS_SHARE = 0.5


def pairwise_squared(
    sources: Sequence[GaussianMixtureParams],
    targets: Sequence[GaussianMixtureParams] | None = None,
    *,
    reg: float = 0.0,
    reg_m: float | tuple[float, float] | None = None,
    debiased: bool = False,
    track: Callable[[Iterable], Iterable] = iter,
    run: Callable[[Callable, int], list[Tensor]] | None = None,
) -> Tensor:
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

    Returns
    -------
    Tensor of shape (M, N)
        The cost of the optimal plan for each pair. Bitwise the transpose of the result with sources
        and targets exchanged.

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
        return _debiased(sources, targets, {"reg": reg, "reg_m": reg_m}, track, run)
    lam = penalties_of(reg_m)
    others = sources if targets is None else targets
    on_graph = torch.is_grad_enabled() and any(
        t.requires_grad for m in (*sources, *others) for t in m
    )
    if not on_graph and targets is not None:
        which = _compare(sources, targets)
        if which > 0:
            options = {"reg": reg, "reg_m": lam[::-1], "track": track, "run": run}
            return pairwise_squared(targets, sources, **options).mT
        targets = targets if which else None
    symmetric = targets is None and lam[0] == lam[1]
    targets = sources if targets is None else targets
    # Without entropy, a mixture is at no cost from itself.
    first = [(i if reg else i + 1) if symmetric else 0 for i in range(len(sources))]
    rows = functools.partial(
        _differentiable_rows if on_graph else _rows, sources, targets, first, reg=reg, reg_m=reg_m
    )
    if run is None or on_graph or sources[0].means.device.type != "cpu":
        found = rows(track(range(len(sources))))
    else:
        found = run(rows, len(sources))
    zeros = sources[0].means.new_zeros
    rows = [torch.cat([zeros(n), row]) for n, row in zip(first, found, strict=True)]
    result = torch.stack(rows)
    return result + result.triu(1).mT if symmetric else result


def _debiased(sources, targets, options, track, run) -> Tensor:
    """The Sinkhorn divergences of all pairs; each mixture's cost to itself is computed once."""
    check_symmetric(options["reg_m"])
    costs = pairwise_squared(sources, targets, track=track, run=run, **options)
    if targets is None:
        own = (costs.diagonal(),) * 2
    else:
        own = (
            torch.stack([transport_plan(m, m, **options).cost for m in side])
            for side in (sources, targets)
        )
    source, target = own
    result = costs - (source.unsqueeze(1) + target) / 2
    if options["reg"] and not math.isinf(penalties_of(options["reg_m"])[0]):
        masses = (
            torch.stack([m.weights.sum() for m in side]).to(result)
            for side in (sources, targets or sources)
        )
        source, target = masses
        result = result + options["reg"] / 2 * (source.unsqueeze(1) - target).square()
    return result


def _compare(sources, targets) -> int:
    """Compare two sequences of mixtures by length, then bitwise: -1, 0 if equal, or 1."""
    if len(sources) != len(targets):
        return -1 if len(sources) < len(targets) else 1
    return compare_bits(*((t for mixture in side for t in mixture) for side in (sources, targets)))


def _differentiable_rows(sources, targets, first, numbers, **options) -> list[Tensor]:
    """The differentiable costs from some sources to the targets from ``first[i]`` on."""

    def row(i):
        costs = [transport_plan(sources[i], t, **options).cost for t in targets[first[i] :]]
        return torch.stack(costs) if costs else sources[i].means.new_zeros(0)

    return [row(i) for i in numbers]


def _rows(sources, targets, first, numbers, *, reg, reg_m) -> list[Tensor]:
    """The same without gradients."""
    row = _Rows(sources, targets, reg, reg_m)
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

    def __init__(self, sources, targets, reg, reg_m):
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
            costs = self.costs.part(here, there)
            values = self._bounded(a, weights, columns, costs)
        else:
            C = _numpy(self._costs(here, there))
            values = [self._value(a, b, C[:, at]) for b, at in zip(weights, columns, strict=True)]
        if not self.penalties["reg"]:  # equal mixtures are at no cost from each other
            names = self.sources.names[i], self.targets.names[first:]
            values = [
                0.0 if name == names[0] else v for name, v in zip(names[1], values, strict=True)
            ]
        return self.sources.means.new_tensor(np.array(values))

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

    def _value(self, a: Tensor, b: Tensor, C: np.ndarray) -> float:
        """The optimal cost of one transport problem."""
        if self.exact:
            return float((_exact_plan(a, b, C)[0] * C).sum())
        return float(solve(a, b, torch.from_numpy(C), **self.penalties).cost)

    def _bounded(self, a, weights, columns, costs: GaussianCosts) -> list[float]:
        """The costs of exact plans to all targets, computing only component costs they may use."""

        def compute(k, l):
            return _numpy(costs(*(torch.from_numpy(i).to(costs.means[0].device) for i in (k, l))))

        bounds = _numpy(costs.lower_bounds())
        known = BoundedCosts(bounds, compute, rise=self.rise, max_share=MAX_COSTS_SHARE)
        plans = solve_in_step(known, columns, lambda j, C: _exact_plan(a, weights[j], C))
        self.rise, self.bounded = known.rise, not known.known.all()
        return [(P * known.C[:, at]).sum() for (P, _, _), at in zip(plans, columns, strict=True)]


def _exact_plan(a: Tensor, b: Tensor, C: np.ndarray) -> tuple[np.ndarray, ...]:
    """The exact plan and its potentials."""
    a, b = same_precision(a, b)
    return network_simplex(a.double().numpy(), b.double().numpy(), C, torch.finfo(a.dtype).eps)


def _numpy(costs: Tensor) -> np.ndarray:
    """Costs as a float64 array on the CPU."""
    return costs.cpu().double().numpy()
