"""Samples of a source and of a target in one array, told apart by ``sample_domain`` as in skada."""

from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.utils import _safe_indexing

from skgmmot._inputs import arrays


class Split(NamedTuple):
    """The samples of a source, and of a target."""

    X: Any
    """Source samples, in the kind in which all came,"""
    y: Any
    """their labels,"""
    sample_weight: Any
    """and their weights; None where there are none."""
    target: Any
    """Target samples,"""
    target_weight: Any
    """and their weights."""


def is_source(sample_domain, X) -> np.ndarray:
    """Whether each sample is of a source: its domain is a number that is not negative."""
    if arrays.is_dask(X) or arrays.is_dask(sample_domain):
        raise ValueError(
            "X must be in memory with sample_domain, got samples of dask. Pass the target as "
            "OTMap(target=...), and source samples alone as X."
        )
    n_samples = len(X) if hasattr(X, "__len__") else np.shape(X)[0]
    domain = arrays.as_tensor(sample_domain).detach().cpu().numpy()
    if domain.ndim == 0:
        domain = np.full(n_samples, domain)
    if domain.shape != (n_samples,):
        raise ValueError(
            f"sample_domain must be one number for each of the {n_samples} samples, got shape "
            f"{domain.shape}. Mark source samples by 1 and target samples by -2."
        )
    if not (domain == np.round(domain)).all():
        raise ValueError(
            "sample_domain must hold integers, got others. Mark source samples by 1 and target "
            "samples by -2."
        )
    return domain >= 0


def split(X, y, sample_weight, sample_domain) -> Split:
    """Split samples into those of the source and those of the target."""
    source = is_source(sample_domain, X)
    if source.all() or not source.any():
        kinds = ("source", "target") if source.all() else ("target", "source")
        raise ValueError(
            f"sample_domain must mark samples of the source and of the target, got {kinds[0]} "
            f"samples only. Add {kinds[1]} samples, or leave out sample_domain and pass the target "
            "as OTMap(target=...)."
        )
    parts = [[_rows(array, rows) for array in (X, y, sample_weight)] for rows in (source, ~source)]
    (X, y, sample_weight), (target, _, target_weight) = parts
    return Split(X, y, sample_weight, target, target_weight)


def _rows(array, which: np.ndarray):
    """Some rows of an array of any kind."""
    if array is None:
        return None
    index = np.flatnonzero(which)
    if isinstance(array, torch.Tensor):
        return array[torch.from_numpy(index).to(array.device)]
    return _safe_indexing(array, index)
