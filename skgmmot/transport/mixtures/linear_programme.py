"""Linear programmes, solved by SciPy."""

import scipy.optimize
import scipy.sparse
import torch
from torch import Tensor

#: Entries below this are rounding of the solver, whose tolerance is 1e-10, and set to zero.
NO_MASS = 1e-12


def linear_programme(cost: Tensor, constraints, bounds: Tensor) -> tuple[Tensor, Tensor]:
    """Return a vertex solution of ``min <cost, x>``, ``x >= 0``, ``constraints @ x = bounds``.

    Parameters
    ----------
    cost : Tensor of shape (m,)
        Costs.
    constraints : sparse array of shape (r, m)
        The left-hand side of the equations.
    bounds : Tensor of shape (r,)
        Their right-hand side.

    Returns
    -------
    solution : Tensor of shape (m,)
        At most r of its entries are positive.
    potentials : Tensor of shape (r,)
        The derivatives of the minimum in the bounds: ``constraints.T @ potentials <= cost``, up to
        the tolerance of the solver.

    Raises
    ------
    RuntimeError
        If the solver does not reach an optimum.
    """
    scale = float(cost.abs().max()) or 1.0
    found = scipy.optimize.linprog(
        cost.cpu().numpy() / scale,
        A_eq=constraints,
        b_eq=bounds.cpu().numpy(),
        method="highs-ds",
        options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    )
    if found.status != 0:
        raise RuntimeError(
            f"the linear programme of a barycentre must be solved, got {found.message!r}. Use "
            "fixed weights, or fewer components."
        )
    x = torch.from_numpy(found.x).to(cost)
    potentials = scale * torch.from_numpy(found.eqlin.marginals).to(cost)
    return torch.where(x > NO_MASS, x, 0.0), potentials
