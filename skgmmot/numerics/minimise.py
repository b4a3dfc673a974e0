"""Minimisation by first-order optimisers, with a learning rate that is halved automatically.

A point is a tuple of tensors. The descent runs in *epochs* of ten steps, and a fixed objective is
evaluated after each. After two epochs without progress it goes back to the best point so far and
halves the learning rate, until halving no longer helps (one epoch without progress tells).
"""

import copy
import functools
import inspect
import math
import os
from collections.abc import Callable
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from skgmmot.numerics.fixed_point import Journal, Point, Solution

#: Steps of an epoch: few, so that the objective is seen often, but enough for it to change.
EPOCH = 10
#: Epochs in a row without progress that end a stage but the last, which one ends.
PATIENCE = 2
#: Halvings of the learning rate, which ends at 1/32 of its start.
N_HALVINGS = 5
#: Environment variable that torch's compiler sets to the path of its cache.
COMPILER_CACHE = "TORCHINDUCTOR_CACHE_DIR"
#: Methods of optimisers that load torch's compiler when they are first called, besides ``step``.
DECORATED = "add_param_group", "zero_grad", "state_dict", "load_state_dict"


def _without_compiler(optimizer: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    """The same optimiser, which does not load torch's compiler: that takes seconds."""
    methods = {name: inspect.unwrap(getattr(optimizer, name)) for name in DECORATED}
    methods["step"] = torch.no_grad()(inspect.unwrap(optimizer.step))
    return type(optimizer.__name__, (optimizer,), methods)


RMSprop, Adam, LBFGS = map(
    _without_compiler, (torch.optim.RMSprop, torch.optim.Adam, torch.optim.LBFGS)
)


def rmsprop(parameters: list[Tensor], learning_rate: float) -> torch.optim.Optimizer:
    """Make an RMSProp optimiser with momentum and a centred second moment.

    Parameters
    ----------
    parameters : list of Tensor
        Tensors to optimise, changed in place.
    learning_rate : float
        Step length.

    Returns
    -------
    torch.optim.RMSprop
        Decay 0.9, momentum 0.5.

    References
    ----------
    .. [1] Kolouri, Rohde and Hoffmann 2018, numerical experiments.
    """
    return RMSprop(parameters, lr=learning_rate, alpha=0.9, momentum=0.5, centered=True, eps=1e-10)


def adam(parameters: list[Tensor], learning_rate: float) -> torch.optim.Optimizer:
    """Make an Adam optimiser with torch's default settings.

    Parameters
    ----------
    parameters : list of Tensor
        Tensors to optimise, changed in place.
    learning_rate : float
        Step length.

    Returns
    -------
    torch.optim.Adam
        The optimiser.
    """
    return Adam(parameters, lr=learning_rate)


def lbfgs(parameters: list[Tensor], learning_rate: float) -> torch.optim.Optimizer:
    """Make an L-BFGS optimiser with a line search, for a deterministic loss.

    Parameters
    ----------
    parameters : list of Tensor
        Tensors to optimise, changed in place.
    learning_rate : float
        First trial length of the line search, relative to the quasi-Newton step; one is usual.

    Returns
    -------
    torch.optim.LBFGS
        The optimiser; a step is one of its iterations.
    """
    return LBFGS(
        parameters, lr=learning_rate, max_iter=1, history_size=20, line_search_fn="strong_wolfe"
    )


#: Optimisers by name.
OPTIMIZERS = {"rmsprop": rmsprop, "adam": adam}


class DescentState(NamedTuple):
    """All that `minimise` needs to go on after an epoch, bit for bit."""

    best: Solution
    """The best point so far, with the objectives of all epochs."""
    leaves: tuple[Tensor, ...]
    """Where the descent is."""
    optimizer: dict
    """The state of its optimiser."""
    stage: int
    """Its stage."""
    idle: int
    """Epochs in a row without progress."""
    reference: float
    """The objective that progress is measured against."""


def minimise(
    loss: Callable[[Point], Tensor],
    theta0: Point,
    *,
    tol: float,
    max_iter: int,
    learning_rate: float,
    optimizer: Callable[[list[Tensor], float], torch.optim.Optimizer] = rmsprop,
    objective: Callable[[Point], float] | None = None,
    late: tuple[int, ...] = (),
    n_halvings: int = N_HALVINGS,
    epoch: int = EPOCH,
    patience: int = PATIENCE,
    deterministic: bool = False,
    start_value: float | None = None,
    callback: Callable[[Solution], bool | None] | None = None,
    journal: Journal | None = None,
) -> Solution:
    """Minimise a differentiable function by a first-order optimiser with learning rate halving.

    Parameters
    ----------
    loss : callable
        ``theta -> scalar``, differentiable; may be a stochastic estimate of the objective.
    theta0 : tuple of Tensor
        Where to start.
    tol : float
        An epoch makes progress if it lowers the least objective so far by more than this share of
        it. After two epochs without, the learning rate is halved; when the last halving no longer
        helps in one epoch, the descent has converged.
    max_iter : int
        Largest number of steps; 0 returns the start.
    learning_rate : float
        Length of the first steps, in units of ``theta``.
    optimizer : callable, default=rmsprop
        ``(parameters, learning_rate) -> torch.optim.Optimizer``.
    objective : callable, default=None
        ``theta -> float``, deterministic; None is ``loss``.
    late : tuple of int, default=()
        Indices of the tensors of ``theta`` that are held fixed in the first stage, until there is
        no more progress without them.
    n_halvings : int, default=5
        Halvings of the learning rate.
    epoch : int, default=10
        Steps between two evaluations of the objective.
    patience : int, default=2
        Epochs in a row without progress that end a stage; one suffices without random draws, and
        for the last.
    deterministic : bool, default=False
        Whether the loss has the same value whenever it is evaluated at the same point. Then it is
        not evaluated where it was evaluated last: a step of L-BFGS begins where the last one ended.
    start_value : float, default=None
        The objective at ``theta0``, where it is known; None is evaluated.
    callback : callable, default=None
        Called with the `Solution` so far after each epoch, and where the descent goes on from an
        earlier state. Where it returns True, the descent stops.
    journal : Journal, default=None
        Where the `DescentState` after each epoch is kept, and one to go on from is found; None
        keeps nothing. What random numbers the loss draws is not in it.

    Returns
    -------
    Solution
        The best point among the ends of the epochs, whose values are `Solution.objectives`;
        `Solution.previous` is the start. `Solution.converged` tells whether it converged.

    Notes
    -----
    A step to a point that is not finite ends its stage at once: the descent goes on from the best
    point so far with half the learning rate.
    """
    objective = objective or (lambda theta: float(loss(theta)))
    leaves = [t.detach().clone().requires_grad_() for t in theta0]
    with _environment_kept():
        descent = optimizer(leaves, learning_rate)
    # Stages: without the late leaves, with all of them, and one after each halving.
    last = 1 + n_halvings
    if journal is None or journal.loop is None:
        values = [_value(objective, leaves) if start_value is None else start_value]
        best = Solution(_constant(leaves), tuple(theta0), values[0], (), 0, False, math.inf)
        stage, idle, reference = 0 if late else 1, 0, values[0]
    else:
        best, found, state, stage, idle, reference = journal.loop
        _restore(descent, leaves, found, state)
        values = list(best.objectives)
        stop = callback is not None and callback(best)
        if stop or best.converged:
            return best
    evaluate = functools.partial(_evaluate, loss)
    if deterministic:
        evaluate = _remembering(evaluate)
    for n_iter in range(best.n_iter + 1, max_iter + 1):
        descent.step(functools.partial(_backward, evaluate, leaves, () if stage else late))
        finite = all(torch.isfinite(leaf).all() for leaf in leaves)
        if finite and n_iter % epoch and n_iter < max_iter:
            continue
        values.append(_value(objective, leaves) if finite else math.inf)
        if values[-1] < best.objective:
            best = best._replace(value=_constant(leaves), objective=values[-1])
        change = reference - best.objective
        progress = change > tol * abs(reference)
        idle, reference = (0, best.objective) if progress else (idle + 1, reference)
        if idle >= (patience if stage < last else 1) or not finite:
            if stage or not finite:
                _restart_slower(descent, leaves, best.value, forget=not finite)
            stage, idle = stage + 1, 0
        best = best._replace(n_iter=n_iter, converged=stage > last, change=change)
        stop = callback is not None and callback(best._replace(objectives=tuple(values)))
        if journal is not None:
            so_far, state = best._replace(objectives=tuple(values)), descent.state_dict()
            here = _constant(leaves), copy.deepcopy(state)
            journal.step(DescentState(so_far, *here, stage, idle, reference))
        if stop or best.converged:
            break
    return best._replace(objectives=tuple(values))


@contextmanager
def _environment_kept():
    """Restore the environment variable that torch sets when it makes its first optimiser.

    Making one of torch's own loads its compiler, which sets the path of its cache for child
    processes.
    """
    before = os.environ.get(COMPILER_CACHE)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(COMPILER_CACHE, None)


def _constant(leaves: list[Tensor]) -> Point:
    """A copy of a point."""
    return tuple(leaf.detach().clone() for leaf in leaves)


def _value(objective, leaves) -> float:
    """The objective at a point; infinite where it is not a number."""
    with torch.no_grad():
        value = float(objective(tuple(leaves)))
    return math.inf if math.isnan(value) else value


def _evaluate(loss, leaves) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """The loss and its gradients."""
    with torch.enable_grad():
        value = loss(tuple(leaves))
        return value.detach(), torch.autograd.grad(value, leaves, allow_unused=True)


def _remembering(evaluate):
    """The same function, which is not called again at the point of the last call."""
    point, found = None, None

    def evaluate_once(leaves):
        nonlocal point, found
        if point is None or not all(map(torch.equal, leaves, point)):
            point, found = _constant(leaves), evaluate(leaves)
        return found

    return evaluate_once


def _backward(evaluate, leaves, held) -> Tensor:
    """Evaluate the loss and store its gradients in the leaves that are not held fixed."""
    value, gradients = evaluate(leaves)
    for i, (leaf, gradient) in enumerate(zip(leaves, gradients, strict=True)):
        leaf.grad = None if i in held else gradient
    return value


def _restore(descent, leaves, found, state) -> None:
    """Bring a descent to where one was."""
    with torch.no_grad():
        for leaf, value in zip(leaves, found, strict=True):
            leaf.copy_(value)
    descent.load_state_dict(state)


def _restart_slower(descent, leaves, best, forget: bool) -> None:
    """Go back to the best point with half the learning rate, and optionally a fresh optimiser."""
    with torch.no_grad():
        for leaf, value in zip(leaves, best, strict=True):
            leaf.copy_(value)
    for group in descent.param_groups:
        group["lr"] /= 2
    if forget:
        descent.state.clear()
