"""k-means on the device of the samples: greedy k-means++, then Lloyd's iterations, in blocks.

It is what scikit-learn's `KMeans` does, step by step and with the same random numbers, for samples
that scikit-learn would have to copy to the host.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from skgmmot.numerics.blocks import block_length

#: Shorter blocks are slow.
MIN_ROWS = 512


class Clustering(NamedTuple):
    """Samples in clusters."""

    labels: Tensor
    """The cluster of each sample ``(n,)``."""
    centres: Tensor
    """``(K, d)``, float64."""
    inertia: Tensor
    """The weighted sum of squared distances to the centres ``()``, float64."""
    n_iter: int
    """Number of Lloyd's iterations."""


def kmeans(
    X: Tensor,
    n_clusters: int,
    rng: np.random.RandomState,
    sample_weight: Tensor | None = None,
    *,
    n_init: int = 1,
    max_iter: int = 300,
    tol: float = 1e-4,
) -> Clustering:
    r"""Cluster samples by k-means.

    .. math:: \min_c \sum_i a_i \min_k |x_i - c_k|^2

    Each run starts from `seeds` and ends where no label changes, or the centres move by
    less than the tolerance.

    Parameters
    ----------
    X : Tensor of shape (n, d)
        Samples, float32 or float64, of a mean near zero: squared distances are differences of
        squares.
    n_clusters : int
        Number of clusters K, at most n.
    rng : RandomState
        Source of random numbers, on the host: the same ones for every device.
    sample_weight : Tensor of shape (n,), default=None
        Non-negative weights ``a``; None is one each.
    n_init : int, default=1
        Number of runs, of which the one of least inertia counts.
    max_iter : int, default=300
        Largest number of iterations of a run.
    tol : float, default=1e-4
        Sum of the squared movements of the centres at which a run ends, in units of the mean
        variance of the features.

    Returns
    -------
    Clustering
        The best run.

    Notes
    -----
    An iteration costs ``4 n K d`` multiplications and waits for the device once. Memory beyond the
    samples is ``O(n)`` and one block.

    References
    ----------
    .. [1] Lloyd 1982, least squares quantisation.
    .. [2] Arthur and Vassilvitskii 2007, k-means++.
    """
    samples = Weighted(X, sample_weight)
    tol, best = tol * float(samples.variance()), None
    for _ in range(n_init):
        found = _one_run(samples, n_clusters, rng, max_iter, tol)
        if best is None or (
            found.inertia < best.inertia and not _same_clusters(found, best, n_clusters)
        ):
            best = found
    return best


def seeds(
    X: Tensor,
    n_clusters: int,
    rng: np.random.RandomState,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """Choose samples far from each other, by greedy k-means++.

    Each is drawn with a probability proportional to its weight times its squared distance to the
    nearest one before it; of a few that are drawn, the one that leaves the least inertia counts.

    Parameters
    ----------
    X : Tensor of shape (n, d)
        Samples, float32 or float64, of a mean near zero: squared distances are differences of
        squares.
    n_clusters : int
        How many are chosen, K.
    rng : RandomState
        Source of random numbers, on the host.
    sample_weight : Tensor of shape (n,), default=None
        Non-negative weights; None is one each.

    Returns
    -------
    Tensor of shape (K,)
        Their indices, on the device of the samples.

    Notes
    -----
    Costs ``2 n K d (3 + log K)`` multiplications, and does not wait for the device.

    References
    ----------
    .. [1] Arthur and Vassilvitskii 2007, k-means++.
    """
    return _seeds(Weighted(X, sample_weight), n_clusters, rng)


class Weighted:
    """Samples and their weights, in blocks.

    Parameters
    ----------
    X : Tensor of shape (n, d)
        Samples, of a mean near zero.
    sample_weight : Tensor of shape (n,) or None
        Their weights; None is one each.
    """

    def __init__(self, X: Tensor, sample_weight: Tensor | None):
        self.X = X
        one = torch.ones((), dtype=torch.float64, device=X.device)
        self.weights = one.expand(len(X)) if sample_weight is None else sample_weight.double()

    def blocks(self, row_size: int = 0):
        """Yield the rows, the samples and the weights of each block."""
        size = row_size + 2 * self.X.shape[1]
        length = block_length(self.X.device, size, MIN_ROWS)
        for start in range(0, len(self.X), length):
            rows = slice(start, start + length)
            yield rows, self.X[rows], self.weights[rows]

    def variance(self) -> Tensor:
        """The variance of the samples without their weights, a mean over features."""
        first = second = 0.0
        for _, x, _ in self.blocks():
            first = first + x.sum(0, dtype=torch.float64)
            second = second + x.double().square().sum(0)
        n = len(self.X)
        return (second / n - (first / n).square()).mean()

    def nearest(self, indices: Tensor, closest: Tensor) -> Tensor:
        """Squared distances ``(n,)`` to the nearest of one sample and those before it."""
        nearer, centres = torch.empty_like(closest), self.X[indices]
        for rows, x, _ in self.blocks():
            nearer[rows] = torch.minimum(_squared_distances(x, centres)[:, 0], closest[rows])
        return nearer

    def inertias(self, indices: Tensor, closest: Tensor) -> Tensor:
        """The inertia that each of a few more samples would leave."""
        total, centres = 0.0, self.X[indices]
        for rows, x, a in self.blocks(2 * len(indices)):
            nearer = torch.minimum(_squared_distances(x, centres), closest[rows].unsqueeze(1))
            total = total + a @ nearer
        return total


def _squared_distances(x: Tensor, centres: Tensor) -> Tensor:
    """``(b, L)``, float64; zero from each sample to itself but for rounding."""
    squares = x.square().sum(1, keepdim=True) + centres.square().sum(1)
    return torch.addmm(squares, x, centres.mT, alpha=-2).clamp_(min=0).double()


def _seeds(samples: Weighted, n_clusters: int, rng) -> Tensor:
    """`seeds`."""
    n_trials, device = 2 + int(math.log(n_clusters)), samples.X.device
    # in the order of scikit-learn's calls, which depends on no number of theirs
    drawn = np.append(rng.random_sample(), rng.uniform(size=(n_clusters - 1) * n_trials))
    first, *others = torch.from_numpy(drawn).to(device).split([1] + [n_trials] * (n_clusters - 1))
    a = samples.weights
    share = (a / a.sum()).cumsum(0)
    chosen = [torch.searchsorted(share / share[-1:], first, right=True)]
    closest = samples.nearest(chosen[0], torch.full_like(share, torch.inf))
    return torch.cat([*chosen, *_farther(samples, closest, others)])


def _farther(samples: Weighted, closest: Tensor, drawn):
    """Yield samples far from those to which the squared distances are, and from each other.

    For each there are a few random numbers; the best of as many candidates counts.
    """
    a, n = samples.weights, len(samples.X)
    for u in drawn:
        parts = a * closest
        candidates = torch.searchsorted(parts.cumsum(0), u * parts.sum()).clamp_(max=n - 1)
        best = samples.inertias(candidates, closest).argmin(0, keepdim=True)
        chosen = candidates.gather(0, best)
        yield chosen
        closest = samples.nearest(chosen, closest)


def further_seeds(
    X: Tensor,
    n_clusters: int,
    rng: np.random.RandomState,
    sample_weight: Tensor | None,
    centres: Tensor,
) -> Tensor:
    """Choose samples far from given centres, and from each other, by greedy k-means++.

    Parameters
    ----------
    X : Tensor of shape (n, d)
        Samples, as in `seeds`.
    n_clusters : int
        How many are chosen, K.
    rng : RandomState
        Source of random numbers, on the host.
    sample_weight : Tensor of shape (n,) or None
        Non-negative weights; None is one each.
    centres : Tensor of shape (L, d)
        The given centres, L >= 1.

    Returns
    -------
    Tensor of shape (K,)
        The indices of the samples, on their device.
    """
    samples, n_trials = Weighted(X, sample_weight), 2 + int(math.log(n_clusters))
    drawn = torch.from_numpy(rng.uniform(size=(n_clusters, n_trials))).to(X.device)
    closest = torch.empty_like(samples.weights, memory_format=torch.contiguous_format)
    for rows, x, _ in samples.blocks(len(centres)):
        closest[rows] = _squared_distances(x, centres.to(x.dtype)).amin(1)
    return torch.cat(list(_farther(samples, closest, drawn)))


def _one_run(samples: Weighted, n_clusters: int, rng, max_iter: int, tol: float) -> Clustering:
    """One run: seeds, and Lloyd's iterations until labels or centres stay."""
    centres = samples.X[_seeds(samples, n_clusters, rng)].double()
    labels = torch.full((len(samples.X),), -1, device=centres.device)
    for n_iter in range(1, max_iter + 1):
        sums, mass, n_changed = _assign(samples, centres, labels)
        centres_next = _means(sums, mass)
        shift = (centres_next - centres).square().sum()
        numbers = torch.stack([n_changed.double(), shift, (mass == 0).sum().double()])
        n_changed, shift, n_empty = numbers.tolist()  # the host waits here only
        if n_empty:
            sums, mass = _relocated(samples, centres, labels, sums, mass)
            centres_next = _means(sums, mass)
            shift = float((centres_next - centres).square().sum())
        centres = centres_next
        if not n_changed:
            break
        if shift <= tol or n_iter == max_iter:
            _assign(samples, centres, labels)
            break
    inertia = sum(a @ squares for _, a, squares in _to_centres(samples, centres, labels))
    return Clustering(labels, centres, inertia, n_iter)


def _assign(samples: Weighted, centres: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Label each sample by its nearest centre, in place.

    Returns the clusters' sums ``(K, d)``, their masses ``(K,)``, and how many labels changed.
    """
    c = centres.to(samples.X.dtype)
    squares, numbers = c.square().sum(1), torch.arange(len(c), device=c.device).unsqueeze(1)
    sums, mass, changed = torch.zeros_like(centres), torch.zeros_like(centres[:, 0]), 0
    for rows, x, a in samples.blocks(3 * len(c)):
        found = torch.addmm(squares, x, c.mT, alpha=-2).argmin(1)  # (b, K) -> (b,)
        changed = changed + (found != labels[rows]).sum()
        labels[rows] = found
        weighted = (found == numbers) * a.to(x.dtype)  # (K, b)
        sums += (weighted @ x).double()
        mass += weighted.sum(1, dtype=torch.float64)
    return sums, mass, changed


def _means(sums: Tensor, mass: Tensor) -> Tensor:
    """The centres of clusters.

    Those of empty ones are scikit-learn's: that of the largest cluster, before it, which wins ties,
    or (before it was averaged) its sum. Such clusters stay empty.
    """
    full = mass > 0
    means = sums / torch.where(full, mass, 1.0).unsqueeze(1)
    largest = mass.argmax(0, keepdim=True)
    before = (torch.arange(len(mass), device=mass.device) < largest).unsqueeze(1)
    elsewhere = torch.where(before, sums.index_select(0, largest), means.index_select(0, largest))
    return torch.where(full.unsqueeze(1), means, elsewhere)


def _to_centres(samples: Weighted, centres: Tensor, labels: Tensor):
    """Yield the rows, weights and squared distances to their centres of each block of samples."""
    for rows, x, a in samples.blocks():
        yield rows, a, (x.double() - centres[labels[rows]]).square().sum(1)


def _relocated(samples, centres, labels, sums, mass) -> tuple[Tensor, Tensor]:
    """Give each empty cluster one of the samples that are farthest from their centres."""
    distances = torch.cat([squares for _, _, squares in _to_centres(samples, centres, labels)])
    empty = (mass == 0).nonzero().flatten()
    farthest = distances.topk(len(empty))
    if not float(farthest.values[0]):  # there are fewer different samples than clusters
        return sums, mass
    a = samples.weights[farthest.indices]
    moved = samples.X[farthest.indices].double() * a.unsqueeze(1)
    for i, (old, new) in enumerate(zip(labels[farthest.indices], empty, strict=True)):
        sums[old] -= moved[i]
        sums[new] = moved[i]
        mass[new] = a[i]
        mass[old] -= a[i]
    return sums, mass


def _same_clusters(found: Clustering, other: Clustering, n_clusters: int) -> bool:
    """Whether each cluster lies in one of the other clustering."""
    low = torch.full((n_clusters,), n_clusters, device=found.labels.device)
    low = low.scatter_reduce(0, found.labels, other.labels, "amin")
    high = torch.full_like(low, -1).scatter_reduce(0, found.labels, other.labels, "amax")
    return bool((low >= high).all())
