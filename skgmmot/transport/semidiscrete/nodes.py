"""Semi-discrete transport in any dimension, with a mixture approximated by quasi-random nodes.

Each component is replaced by quasi-random nodes ``x = m_k + L_k z`` of equal weight. The nodes are
smooth functions of the parameters, so that gradients of the discrete transport between nodes and
points reach weights, means and covariances.
"""

import math

import numpy as np
import torch
from scipy.special import ndtri
from scipy.stats import qmc
from scipy.stats import t as student
from torch import Tensor

from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.numerics.counts import positive_integer
from skgmmot.numerics.linalg import Rescaling, squared_distances
from skgmmot.transport.discrete.column_generation import sparse_exact
from skgmmot.transport.semidiscrete.errors import rounding_of
from skgmmot.transport.semidiscrete.plan import SemidiscretePlan
from skgmmot.transport.semidiscrete.scaled_problem import to_numpy

#: Number of other sets of nodes for an error, and the least size of each for a component.
N_OTHERS, MIN_OTHERS = 8, 64
#: Standard deviations, estimated from so many, that a deviation exceeds once in a hundred.
LEVEL_OF_OTHERS = float(student.ppf(0.995, N_OTHERS - 1)) * math.sqrt(1 + 1 / N_OTHERS)
#: Rounding error of a cost, relative to it.
ROUNDING = 1e-14
#: Largest number of costs between nodes and points: 512 MiB in float64.
MAX_COSTS = 2**26


def standard_nodes(n_nodes: int, d: int, seed: int = 0) -> np.ndarray:
    """Return quasi-random nodes of the standard normal distribution.

    A scrambled Sobol sequence is mapped by the normal quantile function. Then mean and covariance
    are made exact by an affine map.

    Parameters
    ----------
    n_nodes : int
        Number of nodes; best a power of two.
    d : int
        Dimension.
    seed : int, default=0
        Of the scrambling.

    Returns
    -------
    ndarray of shape (n_nodes, d)
        The nodes.
    """
    uniform = qmc.Sobol(d, scramble=True, rng=np.random.default_rng(seed)).random(n_nodes)
    z = ndtri(np.clip(uniform, 1e-12, 1 - 1e-12))
    z -= z.mean(0)
    if n_nodes > d:
        z = np.linalg.solve(np.linalg.cholesky(z.T @ z / n_nodes), z.T).T
    return z


def mixture_nodes(mixture: GaussianMixtureParams, z: Tensor) -> tuple[Tensor, Tensor]:
    """Return nodes ``m_k + L_k z`` of a mixture and their weights, differentiable in it.

    Parameters
    ----------
    mixture : GaussianMixtureParams
        K components in d dimensions, with positive definite covariances.
    z : Tensor of shape (q, d)
        Nodes of the standard normal distribution.

    Returns
    -------
    nodes : Tensor of shape (K * q, d)
        Component by component.
    weights : Tensor of shape (K * q,)
        ``w_k / q``.

    Raises
    ------
    ValueError
        If a covariance is not positive definite.
    """
    factors, failed = torch.linalg.cholesky_ex(mixture.full_covariances())
    if failed.any():
        raise ValueError(
            "covariances must be positive definite for nodes of a mixture, got a singular one in "
            f"components {failed.nonzero().flatten().tolist()}. Add to their diagonals."
        )
    nodes = mixture.means.unsqueeze(1) + z @ factors.mT  # (K, q, d)
    return nodes.flatten(0, 1), (mixture.weights / len(z)).repeat_interleave(len(z))


def nodes_plan(
    mixture: GaussianMixtureParams,
    points: Tensor,
    weights: Tensor,
    *,
    n_nodes: int = 2048,
    random_state: int = 0,
    estimate_error: bool = True,
    mass: float = 1.0,
    potentials: Tensor | None = None,
) -> SemidiscretePlan:
    """Solve semi-discrete transport between nodes of a mixture and points, in any dimension.

    Parameters
    ----------
    mixture : GaussianMixtureParams
        K components in d dimensions, with positive definite covariances.
    points : Tensor of shape (n, d)
        Points ``y``.
    weights : Tensor of shape (n,)
        Their masses, non-negative, of any positive sum.
    n_nodes : int, default=2048
        Bound on the number of all nodes: each component gets the same power of two, at least one.
    random_state : int, default=0
        Seed of the nodes. With an equal one the cost is a smooth function of the mixture.
    estimate_error : bool, default=True
        Whether to estimate the error of the cost, from eight other sets of nodes.
    mass : float, default=1.0
        Share of the mixture that is transported, in (0, 1]; the rest stays where it is, at no cost.
    potentials : Tensor of shape (n,), default=None
        Potentials to start from, such as those of a plan for a mixture nearby.

    Returns
    -------
    SemidiscretePlan
        ``error`` is an estimate of the cost's error, which may have either sign: twice the
        difference between the cost and the dual objective of its potentials, averaged over eight
        other sets of nodes, or what this objective varies by between sets of nodes, whichever is
        larger.

    Raises
    ------
    ValueError
        If ``n_nodes`` is no positive integer, or nodes times points exceed the memory bound.

    Notes
    -----
    Differentiable in weights, means and covariances of the mixture, points and their weights. Holds
    ``n_nodes * n`` costs; the network simplex takes about ``O((n_nodes + n)^2)`` and more.
    """
    n_nodes = positive_integer("n_nodes", n_nodes, "More nodes are more accurate.")
    K, d = mixture.means.shape
    each = 2 ** max(0, int(math.log2(max(1, n_nodes / K))))
    if each * K * len(points) > MAX_COSTS:
        raise ValueError(
            f"n_nodes times the number of points must be at most {MAX_COSTS:.1e}, got "
            f"{each * K} x {len(points)}. Take fewer nodes, or a part of the points."
        )
    scaling = Rescaling.of(torch.cat([mixture.means, points]), _deviation(mixture))
    y, b = scaling.apply(points), weights / weights.sum()
    mixture = mixture.translated(-scaling.origin)

    def scaled_nodes(n, seed):  # covariances in the unit might underflow
        x, a = mixture_nodes(mixture, torch.as_tensor(standard_nodes(n, d, seed)).to(y))
        return x / scaling.unit, a

    nodes, a = scaled_nodes(each, random_state)
    start = None if potentials is None else potentials / scaling.unit / scaling.unit
    row, column, moved, psi, cost = _discrete_plan((nodes, a), (y, b), mass, start)
    error = math.nan
    if estimate_error:
        seeds = random_state + 1 + np.arange(N_OTHERS)
        others = (scaled_nodes(max(each, MIN_OTHERS), seed) for seed in seeds)
        duals = [_dual(*of, y, mass * b, psi, mass < 1) for of in others]
        error = _error_of_nodes(float(cost.detach()), duals)
    masses = torch.zeros_like(psi).index_add_(0, column, moved)
    moments = moved.unsqueeze(1) * nodes.detach()[row]
    sums = moments.new_zeros(y.shape).index_add_(0, column, moments)
    middle = sums / masses.clamp(min=1e-300).unsqueeze(1)
    psi, cost, error = (t * scaling.unit * scaling.unit for t in (psi, cost, error))
    held = (masses > 0).unsqueeze(1)
    barycentres = torch.where(held, scaling.invert(middle), points.detach())
    error += rounding_of(cost.detach())
    mass_error = float((masses - mass * b).detach().abs().sum())
    return SemidiscretePlan(psi, masses, barycentres, cost, error, 0, None, mass_error)


def _discrete_plan(source, target, mass: float, start: Tensor | None):
    """The plan of a share of the mass between nodes and points, each with their masses.

    Returns rows, columns and masses of its entries, the potentials of the points, and the cost,
    which is differentiable: in positions at the plan held fixed, in masses by the potentials. The
    rest of the mass goes to one more point, at no cost.
    """
    (x, a), (y, b) = source, target
    C, all_b = squared_distances(x.detach(), y.detach()), mass * b
    if mass < 1:
        C = torch.nn.functional.pad(C, (0, 1))
        all_b = torch.cat([all_b, b.new_tensor([1 - mass])])
        start = None if start is None else torch.nn.functional.pad(start, (0, 1))
    arrays = (to_numpy(t) for t in (a, all_b, C))
    eps = max(torch.finfo(t.dtype).eps for t in (a, b))
    plan = sparse_exact(*arrays, None if start is None else to_numpy(start), eps)
    kept = plan.column < len(y)
    row, column = (torch.from_numpy(t[kept]).to(C.device) for t in (plan.row, plan.column))
    moved, f, g = (torch.from_numpy(t).to(C) for t in (plan.mass[kept], plan.f, plan.g))
    level = g[-1] if mass < 1 else g.mean()
    f, g = f - f.mean(), g[: len(y)] - level
    cost = moved @ (x[row] - y[column]).square().sum(1)
    cost = cost + f @ (a - a.detach()) + mass * g @ (b - b.detach())
    return row, column, moved, g, cost


def _deviation(mixture: GaussianMixtureParams) -> float:
    """The largest standard deviation of any feature in any component."""
    return float(mixture.full_covariances().detach().diagonal(dim1=1, dim2=2).max()) ** 0.5


def _error_of_nodes(cost: float, duals: list[float]) -> float:
    """The error of a cost, from the dual objective of its potentials at other nodes.

    Their mean is at most the true cost, since potentials of nodes are not the best ones. So the
    cost is too large by at most the difference to the mean. It may be too small by what potentials
    lack, too, about as much; and by the spread over nodes.
    """
    spread = LEVEL_OF_OTHERS * float(np.std(duals, ddof=1))
    apart = 2 * abs(cost - float(np.mean(duals))) + spread / math.sqrt(len(duals))
    return max(spread, apart) + ROUNDING * abs(cost)


@torch.no_grad()
def _dual(nodes, a, points, b, potentials, partial: bool) -> float:
    """The dual objective of potentials, at given nodes."""
    total = b @ potentials
    for rows in torch.arange(len(nodes)).split(2**20 // len(points) + 1):
        phi = (squared_distances(nodes[rows], points) - potentials).amin(1)
        total = total + a[rows] @ (phi.clamp(max=0) if partial else phi)
    return float(total)
