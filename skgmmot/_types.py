"""Types of what users pass and get, for annotations.

Results for arrays are arrays. Whether a tensor gives a tensor depends on its graph and device, and
collections of dask give lazy ones: such results are Any.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np
import torch
from sklearn.base import _fit_context
from torch import Tensor

from skgmmot.gaussian.mixture import GaussianMixtureParams


class Frame(Protocol):
    """A data frame, of pandas or another package."""

    columns: Any

    def to_numpy(self) -> np.ndarray:
        """Its values."""

    def __len__(self) -> int:
        """The number of rows."""


class Lazy(Protocol):
    """A collection of dask."""

    dask: Any

    def compute(self, **options: Any) -> Any:
        """Its values."""


class MixtureEstimator(Protocol):
    """A fitted mixture estimator, of this package or of scikit-learn."""

    weights_: Any
    means_: Any


#: What is computed on the CPU without gradients, and what may be elsewhere.
Array: TypeAlias = np.ndarray | Sequence[Any] | Frame
Elsewhere: TypeAlias = Tensor | Lazy
#: Samples, labels or weights, also as functions that return blocks of them.
Samples: TypeAlias = Array | Elsewhere | Callable[..., Any]
#: A mixture, also as a tuple of weights, means, covariances and perhaps the covariance type.
Mixture: TypeAlias = MixtureEstimator | GaussianMixtureParams | tuple[Any, ...]
#: Penalties of the marginals of a plan.
Penalties: TypeAlias = float | tuple[float, float] | None
RandomState: TypeAlias = int | np.random.RandomState | np.random.Generator | None
Device: TypeAlias = str | torch.device | None
Path: TypeAlias = str | os.PathLike[str]
#: Some features, by their numbers, their names, or whether they are taken.
Features: TypeAlias = int | str | slice | Sequence[int] | Sequence[str] | Sequence[bool]

_Method = TypeVar("_Method", bound=Callable[..., Any])


def fit_context(*, prefer_skip_nested_validation: bool) -> Callable[[_Method], _Method]:
    """Decorate `fit` as scikit-learn does, which checks parameters, and keep its type."""
    return _fit_context(prefer_skip_nested_validation=prefer_skip_nested_validation)
