"""Bures distances between few covariances: small ones by numpy, whose calls take less time."""

from collections.abc import Callable

import numpy as np
import torch

from skgmmot.gaussian.bures import pair, plane
from skgmmot.gaussian.bures.decomposition import (
    MAX_EIGENVALUE_ERROR,
    SAFE_TRACES,
    Decomposition,
    add_slopes,
    roots_and_errors,
)
from skgmmot.gaussian.bures.distance import without_cancellation
from skgmmot.gaussian.bures.triangular import MOST_FEATURES
from skgmmot.numerics.linalg import has_small_pivots

EPS = float(np.finfo(float).eps)


def squared_and_slopes(
    source: np.ndarray, target: np.ndarray, *, differentiable: bool
) -> tuple[np.ndarray, Callable[..., list[np.ndarray | None]]] | None:
    """Return all pairwise squared Bures distances, and what finds their gradients.

    Parameters
    ----------
    source : ndarray of shape (K, d, d)
        Symmetric matrices, float64.
    target : ndarray of shape (L, d, d)
        Symmetric matrices, float64.
    differentiable : bool
        Whether gradients will be asked for.

    Returns
    -------
    squared : ndarray of shape (K, L)
        Squared distances; see `skgmmot.gaussian.bures.distance.bures_squared`.
    slopes : callable
        ``slopes(weights, needed)`` returns the gradients of the sum of squared distances with
        weights ``(K, L)`` in both arguments, None where it is not ``needed``.

    Notes
    -----
    Returns None if a matrix is not well conditioned, or of an extreme size.
    """
    K, d = len(source), source.shape[-1]
    if K == len(target) == 1 and d != 2:
        return _of_a_pair(source[0], target[0], differentiable)
    covariances = np.concatenate([source, target])
    if d == 2:
        return plane.squared_and_slopes(covariances, K, EPS)
    large = d > MOST_FEATURES
    linalg, matrices = (
        (torch.linalg, torch.from_numpy(covariances)) if large else (np.linalg, covariances)
    )
    try:
        factors = linalg.cholesky(matrices)
    except (np.linalg.LinAlgError, torch.linalg.LinAlgError):
        return None
    traces = matrices.diagonal(0, -2, -1).sum(-1)
    safe = SAFE_TRACES[0] <= traces.min() and traces.max() <= SAFE_TRACES[1]
    if not safe or has_small_pivots(factors, matrices).any():
        return None
    products = factors[:K].mT[:, None] @ factors[K:]
    grams, vectors = products @ products.mT, None
    if differentiable and min(products.shape[:2]) <= 2:  # then plans use most pairs
        eigenvalues, vectors = linalg.eigh(grams)
    else:
        eigenvalues = linalg.eigvalsh(grams)
    roots, errors = roots_and_errors(eigenvalues, EPS)
    norms = roots.sum(-1)
    if not (errors.sum(-1) <= MAX_EIGENVALUE_ERROR * norms).all():
        return None
    traces = traces[:K, None] + traces[K:]
    squared = traces - 2 * norms
    near = np.asarray(squared < plane.NEARLY_EQUAL * traces).nonzero()
    if len(near[0]):
        pairs = ((t[:K][near[0]], t[K:][near[1]]) for t in (matrices, factors))
        chosen = (torch.as_tensor(t) for pair in pairs for t in pair)
        np.asarray(squared)[near] = without_cancellation(*chosen)

    def slopes(weights, needed):
        sides = [torch.as_tensor(t) for t in (factors[:K], factors[K:])]
        gradients = [
            torch.zeros_like(L) if wanted else None for L, wanted in zip(sides, needed, strict=True)
        ]
        active = weights.nonzero()
        pairs = [torch.from_numpy(index) for index in active]
        share = torch.from_numpy(weights[active])
        found = None
        if vectors is not None:
            found = Decomposition(*(torch.as_tensor(t[active]) for t in (vectors, roots)))
        if found is not None and found.exact.all():
            found.add_slopes(gradients, sides[0][pairs[0]], pairs, share)
        else:
            add_slopes(gradients, sides, pairs, share)
        return [None if t is None else t.numpy() for t in gradients]

    return np.asarray(squared), slopes


def _of_a_pair(source: np.ndarray, target: np.ndarray, differentiable: bool):
    """`squared_and_slopes` between one covariance and another."""
    found = pair.squared_and_slopes(source, target, differentiable=differentiable)
    if found is None:
        return None

    def slopes(weights, needed):
        return [t if t is None else t[None] for t in found[1](float(weights[0, 0]), needed)]

    return np.full((1, 1), found[0]), slopes
