"""Optimal transport between two weight vectors, with POT inside.

A solver takes marginals ``a (K,)``, ``b (L,)`` and costs ``C (K, L)`` and returns a `Plan`.
"""

import warnings
from typing import NamedTuple

import numpy as np
import ot
import torch
from torch import Tensor


class Plan(NamedTuple):
    """A transport plan, its potentials and its cost."""

    coupling: Tensor
    """``P (K, L)``: the mass moved from each source component to each target component."""
    source_potential: Tensor
    """``f (K,)``: the derivative of the cost in ``a``, of mean zero."""
    target_potential: Tensor
    """``g (L,)``: the derivative of the cost in ``b``, of mean zero."""
    cost: Tensor
    """``sum(P * C)``, differentiable in ``a``, ``b`` and ``C``."""


def exact(a: Tensor, b: Tensor, C: Tensor) -> Plan:
    """Solve discrete optimal transport exactly, by the network simplex.

    ``min_P sum(P * C)`` over ``P >= 0`` with ``P @ 1 = a`` and ``P.T @ 1 = b``.

    Parameters
    ----------
    a : Tensor of shape (K,)
        Source weights.
    b : Tensor of shape (L,)
        Target weights, rescaled to the total of ``a``.
    C : Tensor of shape (K, L)
        Costs.

    Returns
    -------
    Plan
        The plan is a constant; its cost carries the gradients of the envelope theorem: ``P`` in
        the costs, the dual potentials (centred: they live on the simplex's tangent) in the weights.

    Raises
    ------
    ValueError
        If a cost or a weight is NaN or infinite.
    RuntimeError
        If the network simplex stops early.
    """
    if not all(torch.isfinite(t).all() for t in (a, b, C)):
        raise ValueError(
            "weights and costs must be finite, got NaN or infinity. Check the two distributions."
        )
    masses = [np.asarray(w.detach().cpu(), dtype=np.float64) for w in (a, b)]
    costs = np.ascontiguousarray(C.detach().cpu(), dtype=np.float64)
    masses[1] = masses[1] * (masses[0].sum() / masses[1].sum())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # said again below, as an error
        coupling, log = ot.emd(*masses, costs, numItermax=10**7, log=True, check_marginals=False)
    if log["warning"]:
        raise RuntimeError(
            f"the network simplex must end at an optimum, got {log['warning']!r}. "
            "Rescale the costs, which should be finite and of comparable size."
        )
    P, f, g = (
        torch.as_tensor(v, dtype=C.dtype, device=C.device) for v in (coupling, log["u"], log["v"])
    )
    f, g = f - f.mean(), g - g.mean()
    # Added zeros whose derivatives are the potentials.
    envelope = f @ (a - a.detach()) + g @ (b - b.detach())
    return Plan(P, f, g, (P * C).sum() + envelope)
