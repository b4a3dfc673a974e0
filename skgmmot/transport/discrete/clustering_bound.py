r"""Lower bounds of the cost of clustering, without a search for the clusters.

The cost of K points for a distribution :math:`\rho` is :math:`\int \min_k |x - y_k|^2 \, d\rho`. It
is not less than the variance of :math:`\rho` minus that of the means of the K clusters. The
covariance of these means is at most that of :math:`\rho`, and its rank at most K - 1: so no cost is
below the sum of all but the K - 1 largest eigenvalues of the covariance of :math:`\rho`.

In d < K dimensions that says nothing. But a map :math:`\varphi` that moves no two points further
apart does not raise the least cost, and it may lead into more dimensions:

.. math::

    \varphi(x) = \bigl(c_j \cos \omega_j^T x, \; c_j \sin \omega_j^T x\bigr)_j, \qquad
    \sum_j c_j^2 \, \omega_j \omega_j^T \preceq I

The covariance of :math:`\varphi` follows from the characteristic function of :math:`\rho`. For all
frequencies at once, with Gaussian weights, products of features are a Gaussian kernel:
:math:`|\varphi(x) - \varphi(y)|^2 = 2 \sigma^2 (1 - e^{-|x - y|^2 / 2 \sigma^2}) \le |x - y|^2`.
"""

from collections.abc import Callable

import numpy as np
import torch
from scipy.stats import qmc
from torch import Tensor

from skgmmot.numerics.linalg import squared_distances

#: Most samples for which the kernel itself is decomposed.
MAX_KERNEL = 1024
#: Smallest and largest numbers of frequencies.
FREQUENCIES = 128, 1024
#: First variance of the kernel in units of the cost a feature, where the bound is often largest; it
#: is doubled and halved while the bound grows by more than this share.
FIRST_VARIANCE, GROWTH = 4.0, 0.001
#: Most doublings or halvings.
MAX_STEPS = 12
#: Rounding of features of points up to 1e9 times as far as the points of their clusters.
ROUNDING = 1e-6
#: Rounding of a distance, relative to it.
DISTANCE_ROUNDING = 1e-12
#: Entries of a block of features: 64 MiB.
BLOCK_SIZE = 2**22

#: ``(frequencies (m, d)) -> (m, m), (m, m)``: the characteristic function of a distribution at the
#: differences of frequencies ``w_i - w_j`` and at their sums, complex.
Characteristic = Callable[[Tensor], tuple[Tensor, Tensor]]


def clustering_bound(X: Tensor, weights: Tensor, n_clusters: int, cost: float) -> float:
    """Return a lower bound of the cost of any K points for weighted samples.

    Parameters
    ----------
    X : Tensor of shape (n, d)
        Samples, in float64.
    weights : Tensor of shape (n,)
        Their weights, of sum one.
    n_clusters : int
        Number of points K.
    cost : float
        The cost of some K points, in whose size the bound is looked for.

    Returns
    -------
    float
        A bound of ``sum_i weights_i min_k |x_i - y_k|^2`` for any ``y``, and so of the cost of any
        other assignment. Takes ``O(n^3)`` for few samples, ``O(n K^2)`` for many.
    """
    if len(X) > MAX_KERNEL:
        return density_bound(
            lambda w: characteristic_of(X, weights, w), X.shape[1], n_clusters, cost
        )
    root = weights.sqrt()
    squares = squared_distances(X, X)

    def at(variance):
        kernel = variance * torch.exp(-squares / (2 * variance))
        mean = kernel @ weights
        centred = kernel - mean - mean.unsqueeze(1) + weights @ mean
        return _rest(root.unsqueeze(1) * centred * root, n_clusters, variance)

    return _largest(at, cost, X.shape[1])


def density_bound(
    characteristic: Characteristic,
    d: int,
    n_clusters: int,
    cost: float,
    period: Tensor | None = None,
) -> float:
    """Return a lower bound of the cost of any K points for a distribution.

    Parameters
    ----------
    characteristic : callable
        The characteristic function of the distribution, as `characteristic_of` of samples.
    d : int
        Dimension.
    n_clusters : int
        Number of points K.
    cost : float
        The cost of some K points.
    period : Tensor of shape (d,), default=None
        Lengths of a periodic box, in which distances are those to the nearest image.

    Returns
    -------
    float
        The bound; zero for more than 2,047 points.
    """
    fewest, most = FREQUENCIES
    m = min(max(fewest, 2 ** (max(2 * n_clusters, 4 * d) - 1).bit_length()), most)
    if n_clusters > 2 * m:  # no eigenvalue is left
        return 0.0
    frequencies = _normal(m, d) if period is None else _of_box(m, period)

    def at(variance):
        w, share = frequencies(variance)
        # the largest c of these shares that brings no two points further apart
        c = share / torch.linalg.matrix_norm(share.unsqueeze(1) * w, 2)
        return _rest(_covariance(characteristic, w, c), n_clusters, float(c.square().sum()))

    return _largest(at, cost, d)


def characteristic_of(X: Tensor, weights: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """Return the characteristic function of weighted samples at differences and sums.

    Parameters
    ----------
    X : Tensor of shape (n, d)
        Samples.
    weights : Tensor of shape (n,)
        Their weights.
    frequencies : Tensor of shape (m, d)
        Frequencies ``w``.

    Returns
    -------
    tuple of two Tensors of shape (m, m)
        ``sum_n weights_n exp(i (w_j - w_k) x_n)``, and the same of ``w_j + w_k``; complex.
    """
    m = len(frequencies)
    differences, sums = X.new_zeros(2, m, m, dtype=torch.complex128)
    rows = max(1, BLOCK_SIZE // m)
    for x, a in zip(X.split(rows), weights.split(rows), strict=True):
        phases = x @ frequencies.to(x).mT
        waves = torch.polar(torch.ones_like(phases), phases)
        weighted = (a.unsqueeze(1) * waves).mT
        differences += weighted @ waves.conj()
        sums += weighted @ waves
    return differences, sums


def excess(distance: float, least: float) -> float:
    """Return how far a distance may be above the least one, given a lower bound of that.

    Parameters
    ----------
    distance : float
        A distance, computed in float64.
    least : float
        A lower bound of the least one.

    Returns
    -------
    float
        Their difference, not negative, with the rounding of the distance.
    """
    return max(distance - least, 0.0) + DISTANCE_ROUNDING * distance


def _normal(m: int, d: int):
    """Frequencies of a Gaussian kernel: quasi-random, with a second moment of exactly one."""
    z = qmc.MultivariateNormalQMC(np.zeros(d), rng=np.random.default_rng(0)).random(m)
    z = torch.linalg.qr(torch.as_tensor(z))[0] * m**0.5 if m > d else torch.as_tensor(z)
    return lambda variance: (z / variance**0.5, torch.ones(m, dtype=z.dtype))


def _of_box(m: int, period: Tensor):
    """The lowest frequencies of a periodic box, but for signs, weighted by a Gaussian."""
    lengths = period.cpu().double().numpy()
    sides = lengths * (2 * m / lengths.prod()) ** (1 / len(lengths))  # a box of 2m cubes
    axes = (np.arange(-n, n + 1) for n in np.minimum(m, sides.astype(int)))
    k = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    k = k.reshape(-1, len(lengths))[k[..., 0].size // 2 + 1 :]  # those after the zero
    w = 2 * np.pi * k / lengths
    w = torch.as_tensor(w[np.argsort((w**2).sum(1), kind="stable")[:m]])
    return lambda variance: (w, torch.exp(-variance / 4 * w.square().sum(1)))


def _covariance(characteristic: Characteristic, w: Tensor, c: Tensor) -> Tensor:
    """The covariance ``(2m, 2m)`` of the features ``c cos(w x), c sin(w x)``."""
    m = len(w)
    found = characteristic(torch.cat([w, torch.zeros_like(w[:1])]))  # a zero for the means
    less, more = (t[:m, :m].cpu() for t in found)
    mean = torch.view_as_real(found[1][:m, m].cpu()).mT.flatten()  # (2m,)
    cos_sin = (more - less).imag
    cosines, sines = (more + less).real, (less - more).real
    squares = torch.cat([torch.cat([cosines, cos_sin], 1), torch.cat([cos_sin.mT, sines], 1)]) / 2
    c = torch.cat([c, c])
    return c.unsqueeze(1) * (squares - torch.outer(mean, mean)) * c


def _rest(covariance: Tensor, n_clusters: int, size: float) -> float:
    """The sum of all but the K - 1 largest eigenvalues, less what they may be rounded by."""
    values = torch.linalg.eigvalsh(covariance)
    rounding = len(values) ** 2 * torch.finfo(values.dtype).eps * size
    return float(values[: max(len(values) - n_clusters + 1, 0)].sum()) - rounding


def _largest(bound: Callable[[float], float], cost: float, d: int) -> float:
    """The largest bound that doubling and halving the variance of the kernel leads to."""
    first = FIRST_VARIANCE * cost / d
    if not 0 < first < float("inf"):
        return 0.0
    best = at_first = bound(first)
    for factor in (2.0, 0.5):
        before = at_first
        for k in range(1, MAX_STEPS):
            found = bound(factor**k * first)
            best, grows = max(best, found), found > (1 + GROWTH) * max(before, 0.0)
            before = found
            if not grows:
                break
        if best > at_first:
            break
    return max((1 - ROUNDING) * best, 0.0)
