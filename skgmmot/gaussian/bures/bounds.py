"""Lower bounds of Bures distances between all pairs of covariances, faster than the distances.

The squared distance is ``tr(S0 + S1) - 2 sum_i sqrt(x_i)`` with ``x`` the eigenvalues of
``A = L0.T @ S1 @ L0``. A polynomial that is nowhere below the square root bounds the sum by traces
of powers of ``A``, which need matrix products but no decomposition. A polynomial with ``2 n`` terms
that touches the root at ``n`` nodes is nowhere below it: the difference has ``2 n + 1`` terms, so
by Descartes' rule of signs at most ``2 n`` positive zeros, and each node is a double zero. With the
Gauss nodes for the eigenvalues of a sample of pairs the bounds are tight.
"""

import numpy as np
import torch
from torch import Tensor

from skgmmot.gaussian.bures.decomposition import BLOCK_SIZE
from skgmmot.gaussian.bures.distance import Factored
from skgmmot.numerics.threads import map_items

#: Powers of ``A`` whose traces are inner products of ``I, A, A^2, A^4``; there is a node for every
#: two powers.
POWERS = np.array([0, 1, 2, 3, 4, 5, 6, 8])
#: Number of pairs from whose eigenvalues the nodes are computed.
SAMPLE_SIZE = 16
#: Smallest node, in units of the mean eigenvalue, and smallest ratio of neighbouring nodes, for
#: which the linear system of the coefficients is well conditioned.
MIN_NODE, MIN_NODE_RATIO = 1e-3, 1.5


def bures_lower_bounds(source: Factored, target: Factored) -> Tensor:
    """Return lower bounds of all pairwise squared Bures distances.

    Parameters
    ----------
    source : Factored
        Covariances ``(K, d, d)`` with their factors.
    target : Factored
        Covariances ``(L, d, d)`` with their factors.

    Returns
    -------
    Tensor of shape (K, L)
        Bounds, lowered by a bound on rounding errors; constants. They may be negative.

    Notes
    -----
    Costs four matrix products for each pair, in single precision where its rounding errors are
    known: at most a fifth of the time of the distances.
    """
    precision = _precision(source.factors)
    roots = [m.traces.sqrt().clamp(min=torch.finfo(m.traces.dtype).tiny) for m in (source, target)]
    # Factors are scaled to size one, so that no power overflows.
    L0, L1 = (
        (m.factors / r.view(-1, 1, 1)).to(precision)
        for m, r in zip((source, target), roots, strict=True)
    )
    coefficients = torch.from_numpy(_coefficients(_nodes(L0, L1))).to(L0.device)
    d, eps = L0.shape[-1], torch.finfo(precision).eps
    coefficients += 16 * d**0.5 * eps * coefficients.abs()  # bounds rounding of the traces
    columns = L1.split(max(1, BLOCK_SIZE // d**2))
    rows = L0.split(max(1, BLOCK_SIZE // columns[0].numel()))

    def row(part):
        return torch.cat([_fidelity_bounds(part, c, coefficients) for c in columns], 1)

    fidelities = torch.cat(map_items(row, rows, L0.device)) + d * eps  # and of factors
    return (
        source.traces.unsqueeze(1)
        + target.traces
        - 2 * fidelities.to(source.traces) * roots[0].unsqueeze(1) * roots[1]
    )


def _precision(factors: Tensor) -> torch.dtype:
    """The dtype of products: float32 on a CPU, float64 where a device may round float32 further."""
    single = factors.device.type == "cpu" and torch.get_float32_matmul_precision() == "highest"
    return torch.float32 if single else torch.float64


def _nodes(source: Tensor, target: Tensor) -> np.ndarray:
    """Nodes of Gauss quadrature over the eigenvalues of some pairs, in units of their mean."""
    n_pairs = len(source) * len(target)
    pairs = torch.linspace(0, n_pairs - 1, min(SAMPLE_SIZE, n_pairs), device=source.device).long()
    products = target[pairs % len(target)].mT @ source[pairs // len(target)]
    values = torch.linalg.svdvals(products.double()).square()
    values = (values / values.mean(1, keepdim=True)).nan_to_num(1.0)
    x = np.sort(values.flatten().cpu().numpy())
    n = len(POWERS) // 2
    Q = np.linalg.qr(np.vander(x / x[-1], n, increasing=True)).Q
    nodes = np.linalg.eigvalsh((Q.T * x) @ Q)  # of multiplication by x on polynomials
    steps = MIN_NODE_RATIO ** np.arange(n)
    return np.maximum.accumulate(np.maximum(nodes, MIN_NODE) / steps) * steps


def _coefficients(nodes: np.ndarray) -> np.ndarray:
    """Coefficients of the polynomial that touches the square root at the nodes."""
    x = nodes[:, None]
    matrix = np.concatenate([x**POWERS, POWERS * x ** (POWERS - 1.0)])
    scale = matrix.max(0)
    touched = np.concatenate([nodes**0.5, 0.5 * nodes**-0.5])
    return np.linalg.solve(matrix / scale, touched) / scale


def _fidelity_bounds(source: Tensor, target: Tensor, coefficients: Tensor) -> Tensor:
    """Upper bounds ``(k, l)`` of ``sum_i sqrt(x_i)`` between factors."""
    k, l, d = len(source), len(target), source.shape[-1]
    # all products L1.T @ L0 as one: (l d, d) @ (d, k d)
    products = target.mT.reshape(l * d, d) @ source.transpose(0, 1).reshape(d, k * d)
    products = products.view(l, d, k, d).permute(2, 0, 1, 3).reshape(-1, d, d)
    powers = products.new_empty(3, k * l, d, d)
    torch.bmm(products, products.mT, out=powers[0])
    mean = powers[0].diagonal(dim1=-2, dim2=-1).sum(-1) / d
    powers[0] /= mean.clamp(min=torch.finfo(mean.dtype).tiny).view(-1, 1, 1)
    for i in (0, 1):
        torch.bmm(powers[i], powers[i], out=powers[i + 1])
    flat = powers.flatten(2).transpose(0, 1)
    inner = (flat @ flat.mT).double()  # (k l, 3, 3)
    traces = torch.stack(
        [inner[:, i, j] for i, j in ((0, 0), (0, 1), (1, 1), (0, 2), (1, 2), (2, 2))], 1
    )
    bounds = traces @ coefficients[2:] + d * coefficients[:2].sum()
    return (bounds * mean.double().sqrt()).view(k, l)
