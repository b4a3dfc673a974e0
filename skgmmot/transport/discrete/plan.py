"""Transport plans between two weight vectors, and the errors of plans that were just computed."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from skgmmot.transport.discrete.certificate import Certificate, PlanErrors
from skgmmot.transport.discrete.penalised import TransportSolution


class Exchanged(NamedTuple):
    """What a plan was before source and target were exchanged."""

    solved: "Solved"


class Same(NamedTuple):
    """The plan between equal distributions, which moves nothing and has no error."""

    coupling: Tensor


#: Why a plan has no errors.
NOT_SOLVED = (
    "a plan must be one that was just computed for its errors to be known, got one that was made "
    "of tensors. Solve the problem again."
)
#: What the errors of a plan are found from.
Solved = TransportSolution | Exchanged | Same


@dataclass(frozen=True, eq=False)
class Plan(Sequence):
    """A transport plan between weights ``a``, ``b`` at costs ``C``, its potentials and its cost.

    It unpacks into its four tensors, like a named tuple; ``_replace`` changes some, and the errors
    are then those of the changed plan.

    Parameters
    ----------
    coupling : Tensor of shape (K, L)
        ``P``: the mass moved from each source component to each target component.
    source_potential : Tensor of shape (K,)
        ``f``: the derivative of the cost in ``a``; centred if both marginals are prescribed.
    target_potential : Tensor of shape (L,)
        ``g``: the derivative of the cost in ``b``; centred in the same case.
    cost : Tensor of shape ()
        The minimum, penalties included, differentiable in ``a``, ``b`` and ``C``. Without the
        penalties, the cost of transport is ``sum(P * C)``.
    solved : TransportSolution, Exchanged or Same, default=None
        What the errors are found from; None for a plan that is made of tensors.

    Notes
    -----
    ``error``, ``gap`` and ``marginal_error`` say how far a plan that was just computed may be off;
    they cost about a millisecond when they are first read. They are of the problem with the given
    costs: what these are off by is not among them. A plan that was put together from tensors, or
    loaded from a file, has none.
    """

    _fields: ClassVar = ("coupling", "source_potential", "target_potential", "cost")

    coupling: Tensor
    source_potential: Tensor
    target_potential: Tensor
    cost: Tensor
    solved: Solved | None = field(default=None, repr=False)

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.coupling, self.source_potential, self.target_potential, self.cost))

    def __len__(self) -> int:
        return len(self._fields)

    def __getitem__(self, index):
        return tuple(self)[index]

    _replace = replace

    def _asdict(self) -> dict[str, Tensor]:
        """The four tensors by their names."""
        return dict(zip(self._fields, self, strict=True))

    @property
    def gap(self) -> float:
        """Duality gap: how far the cost may be above that of the best plan of equal marginals."""
        return self._errors.gap

    @property
    def marginal_error(self) -> float:
        """Largest deviation from a prescribed marginal, relative to the total."""
        return self._errors.marginal_error

    @property
    def error(self) -> float:
        """Bound of the error of the cost: gap, deviations of the marginals, rounding."""
        return self._errors.error

    @property
    def has_errors(self) -> bool:
        """Whether the errors are known: not for a plan that was made of tensors."""
        return self.solved is not None

    @functools.cached_property
    def _errors(self) -> PlanErrors:
        if self.solved is None:
            raise AttributeError(NOT_SOLVED)
        eps = torch.finfo(self.cost.dtype).eps
        P, cost = self.coupling.numpy(force=True), float(self.cost.detach())
        return _errors(self.solved, P, cost, eps)


def transposed(plan: Plan) -> Plan:
    """Return the plan from the target to the source.

    Parameters
    ----------
    plan : Plan
        The plan from the source to the target.

    Returns
    -------
    Plan
        The transposed plan, with its potentials exchanged.
    """
    solved = None if plan.solved is None else Exchanged(plan.solved)
    potentials = plan.target_potential, plan.source_potential
    return Plan(plan.coupling.mT, *potentials, plan.cost, solved)


def known_costs(plan: Plan) -> np.ndarray | None:
    """Return the costs that a plan was computed with.

    Parameters
    ----------
    plan : Plan
        A plan that was just computed.

    Returns
    -------
    ndarray of shape (K, L) or None
        In float64; lower bounds where the plan is zero and the costs were not needed. None for a
        plan between equal distributions, which needs none.
    """
    return _costs(plan.solved)


def _costs(solved: Solved | None) -> np.ndarray | None:
    """The costs ``(K, L)`` of a solved problem, if it had any."""
    if isinstance(solved, Exchanged):
        costs = _costs(solved.solved)
        return None if costs is None else costs.T
    return solved.problem.C.numpy() if isinstance(solved, TransportSolution) else None


def _errors(solved: Solved, P: np.ndarray, cost: float, eps: float) -> PlanErrors:
    """The errors of a plan ``(K, L)`` and its cost in a precision, for a solved problem."""
    if isinstance(solved, Exchanged):
        return _errors(solved.solved, P.T, cost, eps)
    if isinstance(solved, Same):
        if cost or not np.array_equal(P, solved.coupling.numpy(force=True)):
            raise AttributeError(NOT_SOLVED)
        return PlanErrors()
    errors = _certificate(solved).of(P, cost, eps)
    changed = abs(cost - solved.value)  # more than rounding only if the cost was replaced
    if changed <= eps * abs(solved.value):
        return errors
    return errors._replace(error=errors.error + changed)


def _certificate(solution: TransportSolution) -> Certificate:
    """What bounds the errors of a solution."""
    a, b, C, *penalties, reg = solution.problem
    weights, potentials = (a.numpy(), b.numpy()), (solution.f.numpy(), solution.g.numpy())
    return Certificate(weights, C.numpy(), tuple(penalties), reg, potentials)
