"""Types of `skgmmot.metrics`: distances between arrays are numbers, between tensors tensors.

What an estimator or an image holds, arrays or tensors, is not in its type: results are then Any.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias, overload

import numpy as np
from torch import Tensor
from torch.nn import Module

from skgmmot._types import Array as _Array
from skgmmot._types import Frame as _Frame
from skgmmot._types import MixtureEstimator as _Estimator
from skgmmot._types import Penalties as _Penalty
from skgmmot._types import RandomState as _RandomState
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.metrics._interval import DistanceInterval
from skgmmot.metrics._stability import StabilityBounds
from skgmmot.transport.semidiscrete.grid import GridDensity
from skgmmot.transport.semidiscrete.plan import SemidiscretePlan

__all__ = [
    "SCORERS",
    "MixtureFrechetDistance",
    "MixtureWasserstein",
    "aic_scorer",
    "bic_scorer",
    "bures_wasserstein_distance",
    "frechet_distance",
    "get_scorer",
    "make_mixture_wasserstein_scorer",
    "mixture_wasserstein_distance",
    "mixture_wasserstein_interval",
    "mixture_wasserstein_scorer",
    "pairwise_mixture_wasserstein",
    "semidiscrete_distance",
    "semidiscrete_plan",
    "sliced_mixture_wasserstein",
    "sliced_wasserstein_distance",
    "sliced_wasserstein_scorer",
    "stability_bounds",
]

_Data: TypeAlias = _Array | Tensor
# Tuples of weights, means, covariances and perhaps the covariance type. One tensor makes the
# result a tensor.
_Arrays: TypeAlias = tuple[_Array, _Array, _Array] | tuple[_Array, _Array, _Array, str]
_Tensors: TypeAlias = (
    GaussianMixtureParams
    | tuple[Tensor, Any, Any]
    | tuple[Any, Tensor, Any]
    | tuple[Any, Any, Tensor]
    | tuple[Tensor, Any, Any, str]
    | tuple[Any, Tensor, Any, str]
    | tuple[Any, Any, Tensor, str]
)
_Mixture: TypeAlias = _Estimator | _Tensors | _Arrays
_ArrayMoments: TypeAlias = tuple[_Array, _Array | float]
_TensorMoments: TypeAlias = tuple[Tensor, Any] | tuple[Any, Tensor]
_Moments: TypeAlias = _TensorMoments | _ArrayMoments
_Scorer: TypeAlias = Callable[..., float]

SCORERS: dict[str, _Scorer]
mixture_wasserstein_scorer: _Scorer

def aic_scorer(estimator: Any, X: Any, y: Any = ...) -> float: ...
def bic_scorer(estimator: Any, X: Any, y: Any = ...) -> float: ...

class MixtureFrechetDistance(Module):
    feature: Callable[..., Any] | None
    reset_real_features: bool
    def __init__(
        self,
        reference: _Mixture | None = ...,
        *,
        feature: Callable[..., Any] | None = ...,
        reset_real_features: bool = ...,
        n_features: int | None = ...,
        **kwargs: Any,
    ) -> None: ...
    def update(self, features: Any, real: bool) -> None: ...
    def forward(self, features: Any, real: bool) -> None: ...
    def compute(self) -> Tensor: ...
    def mixtures(self) -> tuple[GaussianMixtureParams, GaussianMixtureParams]: ...
    def set_dtype(self, dst_type: Any) -> MixtureFrechetDistance: ...
    def reset(self) -> None: ...

class MixtureWasserstein:
    reg: float
    reg_m: _Penalty
    squared: bool
    debiased: bool
    def __init__(
        self, reg: float = ..., reg_m: _Penalty = ..., *, squared: bool = ..., debiased: bool = ...
    ) -> None: ...
    @overload
    def __call__(
        self, source: _Estimator, target: _Mixture, *, return_error: Literal[False] = ...
    ) -> Any: ...
    @overload
    def __call__(
        self, source: _Estimator, target: _Mixture, *, return_error: Literal[True]
    ) -> tuple[Any, float]: ...
    @overload
    def __call__(
        self, source: _Mixture, target: _Estimator, *, return_error: Literal[False] = ...
    ) -> Any: ...
    @overload
    def __call__(
        self, source: _Mixture, target: _Estimator, *, return_error: Literal[True]
    ) -> tuple[Any, float]: ...
    @overload
    def __call__(
        self, source: _Tensors, target: _Mixture, *, return_error: Literal[False] = ...
    ) -> Tensor: ...
    @overload
    def __call__(
        self, source: _Tensors, target: _Mixture, *, return_error: Literal[True]
    ) -> tuple[Tensor, float]: ...
    @overload
    def __call__(
        self, source: _Mixture, target: _Tensors, *, return_error: Literal[False] = ...
    ) -> Tensor: ...
    @overload
    def __call__(
        self, source: _Mixture, target: _Tensors, *, return_error: Literal[True]
    ) -> tuple[Tensor, float]: ...
    @overload
    def __call__(
        self, source: _Arrays, target: _Arrays, *, return_error: Literal[False] = ...
    ) -> float: ...
    @overload
    def __call__(
        self, source: _Arrays, target: _Arrays, *, return_error: Literal[True]
    ) -> tuple[float, float]: ...
    @overload
    def plan(self, source: _Estimator, target: _Mixture) -> Any: ...
    @overload
    def plan(self, source: _Mixture, target: _Estimator) -> Any: ...
    @overload
    def plan(self, source: _Tensors, target: _Mixture) -> Tensor: ...
    @overload
    def plan(self, source: _Mixture, target: _Tensors) -> Tensor: ...
    @overload
    def plan(self, source: _Arrays, target: _Arrays) -> np.ndarray: ...
    @overload
    def cost(self, source: _Estimator, target: _Mixture) -> Any: ...
    @overload
    def cost(self, source: _Mixture, target: _Estimator) -> Any: ...
    @overload
    def cost(self, source: _Tensors, target: _Mixture) -> Tensor: ...
    @overload
    def cost(self, source: _Mixture, target: _Tensors) -> Tensor: ...
    @overload
    def cost(self, source: _Arrays, target: _Arrays) -> np.ndarray: ...
    @overload
    def pairwise(
        self,
        mixtures: Sequence[_Estimator],
        others: Sequence[_Mixture] | None = ...,
        *,
        verbose: int = ...,
        n_jobs: int | None = ...,
        return_error: Literal[False] = ...,
    ) -> Any: ...
    @overload
    def pairwise(
        self,
        mixtures: Sequence[_Estimator],
        others: Sequence[_Mixture] | None = ...,
        *,
        verbose: int = ...,
        n_jobs: int | None = ...,
        return_error: Literal[True],
    ) -> tuple[Any, Any]: ...
    @overload
    def pairwise(
        self,
        mixtures: Sequence[_Tensors],
        others: Sequence[_Mixture] | None = ...,
        *,
        verbose: int = ...,
        n_jobs: int | None = ...,
        return_error: Literal[False] = ...,
    ) -> Tensor: ...
    @overload
    def pairwise(
        self,
        mixtures: Sequence[_Tensors],
        others: Sequence[_Mixture] | None = ...,
        *,
        verbose: int = ...,
        n_jobs: int | None = ...,
        return_error: Literal[True],
    ) -> tuple[Tensor, Tensor]: ...
    @overload
    def pairwise(
        self,
        mixtures: Sequence[_Arrays],
        others: Sequence[_Arrays] | None = ...,
        *,
        verbose: int = ...,
        n_jobs: int | None = ...,
        return_error: Literal[False] = ...,
    ) -> np.ndarray: ...
    @overload
    def pairwise(
        self,
        mixtures: Sequence[_Arrays],
        others: Sequence[_Arrays] | None = ...,
        *,
        verbose: int = ...,
        n_jobs: int | None = ...,
        return_error: Literal[True],
    ) -> tuple[np.ndarray, np.ndarray]: ...

@overload
def mixture_wasserstein_distance(
    source: _Estimator,
    target: _Mixture,
    *,
    reg: float = ...,
    reg_m: _Penalty = ...,
    squared: bool = ...,
    debiased: bool = ...,
    return_error: Literal[False] = ...,
) -> Any: ...
@overload
def mixture_wasserstein_distance(
    source: _Estimator,
    target: _Mixture,
    *,
    reg: float = ...,
    reg_m: _Penalty = ...,
    squared: bool = ...,
    debiased: bool = ...,
    return_error: Literal[True],
) -> tuple[Any, float]: ...
@overload
def mixture_wasserstein_distance(
    source: _Mixture,
    target: _Estimator,
    *,
    reg: float = ...,
    reg_m: _Penalty = ...,
    squared: bool = ...,
    debiased: bool = ...,
    return_error: Literal[False] = ...,
) -> Any: ...
@overload
def mixture_wasserstein_distance(
    source: _Mixture,
    target: _Estimator,
    *,
    reg: float = ...,
    reg_m: _Penalty = ...,
    squared: bool = ...,
    debiased: bool = ...,
    return_error: Literal[True],
) -> tuple[Any, float]: ...
@overload
def mixture_wasserstein_distance(
    source: _Tensors,
    target: _Mixture,
    *,
    reg: float = ...,
    reg_m: _Penalty = ...,
    squared: bool = ...,
    debiased: bool = ...,
    return_error: Literal[False] = ...,
) -> Tensor: ...
@overload
def mixture_wasserstein_distance(
    source: _Tensors,
    target: _Mixture,
    *,
    reg: float = ...,
    reg_m: _Penalty = ...,
    squared: bool = ...,
    debiased: bool = ...,
    return_error: Literal[True],
) -> tuple[Tensor, float]: ...
@overload
def mixture_wasserstein_distance(
    source: _Mixture,
    target: _Tensors,
    *,
    reg: float = ...,
    reg_m: _Penalty = ...,
    squared: bool = ...,
    debiased: bool = ...,
    return_error: Literal[False] = ...,
) -> Tensor: ...
@overload
def mixture_wasserstein_distance(
    source: _Mixture,
    target: _Tensors,
    *,
    reg: float = ...,
    reg_m: _Penalty = ...,
    squared: bool = ...,
    debiased: bool = ...,
    return_error: Literal[True],
) -> tuple[Tensor, float]: ...
@overload
def mixture_wasserstein_distance(
    source: _Arrays,
    target: _Arrays,
    *,
    reg: float = ...,
    reg_m: _Penalty = ...,
    squared: bool = ...,
    debiased: bool = ...,
    return_error: Literal[False] = ...,
) -> float: ...
@overload
def mixture_wasserstein_distance(
    source: _Arrays,
    target: _Arrays,
    *,
    reg: float = ...,
    reg_m: _Penalty = ...,
    squared: bool = ...,
    debiased: bool = ...,
    return_error: Literal[True],
) -> tuple[float, float]: ...
def mixture_wasserstein_interval(
    source: _Mixture,
    target: _Mixture,
    X: _Data,
    Y: _Data,
    *,
    method: str = ...,
    level: float = ...,
    n_resamples: int = ...,
    reg_covar: float | None = ...,
    random_state: _RandomState = ...,
    n_jobs: int | None = ...,
) -> DistanceInterval: ...
@overload
def pairwise_mixture_wasserstein(
    mixtures: Sequence[_Estimator],
    others: Sequence[_Mixture] | None = ...,
    *,
    reg: float = ...,
    reg_m: _Penalty = ...,
    squared: bool = ...,
    debiased: bool = ...,
    verbose: int = ...,
    n_jobs: int | None = ...,
    return_error: Literal[False] = ...,
) -> Any: ...
@overload
def pairwise_mixture_wasserstein(
    mixtures: Sequence[_Estimator],
    others: Sequence[_Mixture] | None = ...,
    *,
    reg: float = ...,
    reg_m: _Penalty = ...,
    squared: bool = ...,
    debiased: bool = ...,
    verbose: int = ...,
    n_jobs: int | None = ...,
    return_error: Literal[True],
) -> tuple[Any, Any]: ...
@overload
def pairwise_mixture_wasserstein(
    mixtures: Sequence[_Tensors],
    others: Sequence[_Mixture] | None = ...,
    *,
    reg: float = ...,
    reg_m: _Penalty = ...,
    squared: bool = ...,
    debiased: bool = ...,
    verbose: int = ...,
    n_jobs: int | None = ...,
    return_error: Literal[False] = ...,
) -> Tensor: ...
@overload
def pairwise_mixture_wasserstein(
    mixtures: Sequence[_Tensors],
    others: Sequence[_Mixture] | None = ...,
    *,
    reg: float = ...,
    reg_m: _Penalty = ...,
    squared: bool = ...,
    debiased: bool = ...,
    verbose: int = ...,
    n_jobs: int | None = ...,
    return_error: Literal[True],
) -> tuple[Tensor, Tensor]: ...
@overload
def pairwise_mixture_wasserstein(
    mixtures: Sequence[_Arrays],
    others: Sequence[_Arrays] | None = ...,
    *,
    reg: float = ...,
    reg_m: _Penalty = ...,
    squared: bool = ...,
    debiased: bool = ...,
    verbose: int = ...,
    n_jobs: int | None = ...,
    return_error: Literal[False] = ...,
) -> np.ndarray: ...
@overload
def pairwise_mixture_wasserstein(
    mixtures: Sequence[_Arrays],
    others: Sequence[_Arrays] | None = ...,
    *,
    reg: float = ...,
    reg_m: _Penalty = ...,
    squared: bool = ...,
    debiased: bool = ...,
    verbose: int = ...,
    n_jobs: int | None = ...,
    return_error: Literal[True],
) -> tuple[np.ndarray, np.ndarray]: ...
@overload
def bures_wasserstein_distance(
    source: _TensorMoments,
    target: _Moments,
    *,
    squared: bool = ...,
    return_error: Literal[False] = ...,
) -> Tensor: ...
@overload
def bures_wasserstein_distance(
    source: _TensorMoments, target: _Moments, *, squared: bool = ..., return_error: Literal[True]
) -> tuple[Tensor, float]: ...
@overload
def bures_wasserstein_distance(
    source: _Moments,
    target: _TensorMoments,
    *,
    squared: bool = ...,
    return_error: Literal[False] = ...,
) -> Tensor: ...
@overload
def bures_wasserstein_distance(
    source: _Moments, target: _TensorMoments, *, squared: bool = ..., return_error: Literal[True]
) -> tuple[Tensor, float]: ...
@overload
def bures_wasserstein_distance(
    source: _ArrayMoments,
    target: _ArrayMoments,
    *,
    squared: bool = ...,
    return_error: Literal[False] = ...,
) -> float: ...
@overload
def bures_wasserstein_distance(
    source: _ArrayMoments,
    target: _ArrayMoments,
    *,
    squared: bool = ...,
    return_error: Literal[True],
) -> tuple[float, float]: ...
@overload
def frechet_distance(
    source: Tensor,
    target: _Data,
    *,
    ddof: int = ...,
    squared: bool = ...,
    return_error: Literal[False] = ...,
) -> Tensor: ...
@overload
def frechet_distance(
    source: Tensor,
    target: _Data,
    *,
    ddof: int = ...,
    squared: bool = ...,
    return_error: Literal[True],
) -> tuple[Tensor, float]: ...
@overload
def frechet_distance(
    source: _Data,
    target: Tensor,
    *,
    ddof: int = ...,
    squared: bool = ...,
    return_error: Literal[False] = ...,
) -> Tensor: ...
@overload
def frechet_distance(
    source: _Data,
    target: Tensor,
    *,
    ddof: int = ...,
    squared: bool = ...,
    return_error: Literal[True],
) -> tuple[Tensor, float]: ...
@overload
def frechet_distance(
    source: _Array,
    target: _Array,
    *,
    ddof: int = ...,
    squared: bool = ...,
    return_error: Literal[False] = ...,
) -> float: ...
@overload
def frechet_distance(
    source: _Array,
    target: _Array,
    *,
    ddof: int = ...,
    squared: bool = ...,
    return_error: Literal[True],
) -> tuple[float, float]: ...
@overload
def sliced_mixture_wasserstein(
    source: _Estimator,
    target: _Mixture,
    *,
    slicing: str = ...,
    n_projections: int = ...,
    squared: bool = ...,
    random_state: _RandomState = ...,
    return_error: Literal[False] = ...,
) -> Any: ...
@overload
def sliced_mixture_wasserstein(
    source: _Estimator,
    target: _Mixture,
    *,
    slicing: str = ...,
    n_projections: int = ...,
    squared: bool = ...,
    random_state: _RandomState = ...,
    return_error: Literal[True],
) -> tuple[Any, float]: ...
@overload
def sliced_mixture_wasserstein(
    source: _Mixture,
    target: _Estimator,
    *,
    slicing: str = ...,
    n_projections: int = ...,
    squared: bool = ...,
    random_state: _RandomState = ...,
    return_error: Literal[False] = ...,
) -> Any: ...
@overload
def sliced_mixture_wasserstein(
    source: _Mixture,
    target: _Estimator,
    *,
    slicing: str = ...,
    n_projections: int = ...,
    squared: bool = ...,
    random_state: _RandomState = ...,
    return_error: Literal[True],
) -> tuple[Any, float]: ...
@overload
def sliced_mixture_wasserstein(
    source: _Tensors,
    target: _Mixture,
    *,
    slicing: str = ...,
    n_projections: int = ...,
    squared: bool = ...,
    random_state: _RandomState = ...,
    return_error: Literal[False] = ...,
) -> Tensor: ...
@overload
def sliced_mixture_wasserstein(
    source: _Tensors,
    target: _Mixture,
    *,
    slicing: str = ...,
    n_projections: int = ...,
    squared: bool = ...,
    random_state: _RandomState = ...,
    return_error: Literal[True],
) -> tuple[Tensor, float]: ...
@overload
def sliced_mixture_wasserstein(
    source: _Mixture,
    target: _Tensors,
    *,
    slicing: str = ...,
    n_projections: int = ...,
    squared: bool = ...,
    random_state: _RandomState = ...,
    return_error: Literal[False] = ...,
) -> Tensor: ...
@overload
def sliced_mixture_wasserstein(
    source: _Mixture,
    target: _Tensors,
    *,
    slicing: str = ...,
    n_projections: int = ...,
    squared: bool = ...,
    random_state: _RandomState = ...,
    return_error: Literal[True],
) -> tuple[Tensor, float]: ...
@overload
def sliced_mixture_wasserstein(
    source: _Arrays,
    target: _Arrays,
    *,
    slicing: str = ...,
    n_projections: int = ...,
    squared: bool = ...,
    random_state: _RandomState = ...,
    return_error: Literal[False] = ...,
) -> float: ...
@overload
def sliced_mixture_wasserstein(
    source: _Arrays,
    target: _Arrays,
    *,
    slicing: str = ...,
    n_projections: int = ...,
    squared: bool = ...,
    random_state: _RandomState = ...,
    return_error: Literal[True],
) -> tuple[float, float]: ...
@overload
def sliced_wasserstein_distance(
    source: _Estimator,
    target: _Data | _Mixture,
    sample_weight: Any = ...,
    *,
    p: float = ...,
    n_projections: int = ...,
    projections: str = ...,
    exact: bool = ...,
    random_state: _RandomState = ...,
    source_weight: Any = ...,
    return_error: Literal[False] = ...,
) -> Any: ...
@overload
def sliced_wasserstein_distance(
    source: _Estimator,
    target: _Data | _Mixture,
    sample_weight: Any = ...,
    *,
    p: float = ...,
    n_projections: int = ...,
    projections: str = ...,
    exact: bool = ...,
    random_state: _RandomState = ...,
    source_weight: Any = ...,
    return_error: Literal[True],
) -> tuple[Any, float]: ...
@overload
def sliced_wasserstein_distance(
    source: _Data | _Mixture,
    target: _Estimator,
    sample_weight: Any = ...,
    *,
    p: float = ...,
    n_projections: int = ...,
    projections: str = ...,
    exact: bool = ...,
    random_state: _RandomState = ...,
    source_weight: Any = ...,
    return_error: Literal[False] = ...,
) -> Any: ...
@overload
def sliced_wasserstein_distance(
    source: _Data | _Mixture,
    target: _Estimator,
    sample_weight: Any = ...,
    *,
    p: float = ...,
    n_projections: int = ...,
    projections: str = ...,
    exact: bool = ...,
    random_state: _RandomState = ...,
    source_weight: Any = ...,
    return_error: Literal[True],
) -> tuple[Any, float]: ...
@overload
def sliced_wasserstein_distance(
    source: Tensor | _Tensors,
    target: _Data | _Mixture,
    sample_weight: Any = ...,
    *,
    p: float = ...,
    n_projections: int = ...,
    projections: str = ...,
    exact: bool = ...,
    random_state: _RandomState = ...,
    source_weight: Any = ...,
    return_error: Literal[False] = ...,
) -> Tensor: ...
@overload
def sliced_wasserstein_distance(
    source: Tensor | _Tensors,
    target: _Data | _Mixture,
    sample_weight: Any = ...,
    *,
    p: float = ...,
    n_projections: int = ...,
    projections: str = ...,
    exact: bool = ...,
    random_state: _RandomState = ...,
    source_weight: Any = ...,
    return_error: Literal[True],
) -> tuple[Tensor, float]: ...
@overload
def sliced_wasserstein_distance(
    source: np.ndarray | list[Any] | _Frame | _Mixture,
    target: Tensor | _Tensors,
    sample_weight: Any = ...,
    *,
    p: float = ...,
    n_projections: int = ...,
    projections: str = ...,
    exact: bool = ...,
    random_state: _RandomState = ...,
    source_weight: Any = ...,
    return_error: Literal[False] = ...,
) -> Tensor: ...
@overload
def sliced_wasserstein_distance(
    source: np.ndarray | list[Any] | _Frame | _Mixture,
    target: Tensor | _Tensors,
    sample_weight: Any = ...,
    *,
    p: float = ...,
    n_projections: int = ...,
    projections: str = ...,
    exact: bool = ...,
    random_state: _RandomState = ...,
    source_weight: Any = ...,
    return_error: Literal[True],
) -> tuple[Tensor, float]: ...
@overload
def sliced_wasserstein_distance(
    source: np.ndarray | list[Any] | _Frame | _Arrays,
    target: np.ndarray | list[Any] | _Frame | _Arrays,
    sample_weight: Any = ...,
    *,
    p: float = ...,
    n_projections: int = ...,
    projections: str = ...,
    exact: bool = ...,
    random_state: _RandomState = ...,
    source_weight: Any = ...,
    return_error: Literal[False] = ...,
) -> float: ...
@overload
def sliced_wasserstein_distance(
    source: np.ndarray | list[Any] | _Frame | _Arrays,
    target: np.ndarray | list[Any] | _Frame | _Arrays,
    sample_weight: Any = ...,
    *,
    p: float = ...,
    n_projections: int = ...,
    projections: str = ...,
    exact: bool = ...,
    random_state: _RandomState = ...,
    source_weight: Any = ...,
    return_error: Literal[True],
) -> tuple[float, float]: ...
@overload
def semidiscrete_distance(
    density: _Estimator | GridDensity,
    points: _Data,
    weights: Any = ...,
    *,
    squared: bool = ...,
    integration: str = ...,
    n_nodes: int = ...,
    random_state: _RandomState = ...,
    mass: float = ...,
    return_error: Literal[False] = ...,
) -> Any: ...
@overload
def semidiscrete_distance(
    density: _Tensors,
    points: _Data,
    weights: Any = ...,
    *,
    squared: bool = ...,
    integration: str = ...,
    n_nodes: int = ...,
    random_state: _RandomState = ...,
    mass: float = ...,
    return_error: Literal[False] = ...,
) -> Tensor: ...
@overload
def semidiscrete_distance(
    density: _Arrays,
    points: Tensor,
    weights: Any = ...,
    *,
    squared: bool = ...,
    integration: str = ...,
    n_nodes: int = ...,
    random_state: _RandomState = ...,
    mass: float = ...,
    return_error: Literal[False] = ...,
) -> Tensor: ...
@overload
def semidiscrete_distance(
    density: _Arrays,
    points: _Array,
    weights: Any = ...,
    *,
    squared: bool = ...,
    integration: str = ...,
    n_nodes: int = ...,
    random_state: _RandomState = ...,
    mass: float = ...,
    return_error: Literal[False] = ...,
) -> float: ...
@overload
def semidiscrete_distance(
    density: Any,
    points: Any,
    weights: Any = ...,
    *,
    squared: bool = ...,
    integration: str = ...,
    n_nodes: int = ...,
    random_state: _RandomState = ...,
    mass: float = ...,
    return_error: Literal[True],
) -> tuple[Any, float]: ...
def semidiscrete_plan(
    density: Any,
    points: Any,
    weights: Any = ...,
    *,
    integration: str = ...,
    n_nodes: int = ...,
    random_state: _RandomState = ...,
    mass: float = ...,
) -> SemidiscretePlan: ...
def make_mixture_wasserstein_scorer(
    reference: Any = ..., *, reg: float = ..., reg_m: _Penalty = ..., squared: bool = ...
) -> _Scorer: ...
def sliced_wasserstein_scorer(estimator: Any, X: Any, y: Any = ...) -> float: ...
def stability_bounds(
    source: _Mixture, target: _Mixture, n_samples: Any, *, random_state: _RandomState = ...
) -> StabilityBounds: ...
def get_scorer(name: str | Callable[..., Any]) -> Callable[..., Any]: ...
