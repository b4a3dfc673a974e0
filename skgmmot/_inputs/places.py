"""Where a user's samples are: in memory, or in blocks that are read anew for each pass.

Samples in blocks are a function that returns a fresh iterator of them, a large memory-mapped file,
or a dask array or data frame. `out_of_core` tells, before anything is read; all that is in memory
is `arrays.samples`'s.
"""

import functools
import mmap
from collections.abc import Callable, Iterator, Mapping, Set, Sized
from numbers import Number

import numpy as np
import torch
from torch import Tensor

from skgmmot._inputs import arrays
from skgmmot._inputs.dask.blocks import DaskBlocks, of_each
from skgmmot._inputs.dask.collections import check_features
from skgmmot._inputs.dask.samples import DaskSamples
from skgmmot.fitting.stream import Block, OutOfCore, Stream

#: Memory-mapped files up to this many bytes are taken as arrays in memory: so are those in which
#: joblib hands arrays to its workers, whose results must not depend on that.
MEMORY_MAP_BYTES = 2**30
#: Bytes of a block of a larger one.
BLOCK_BYTES = 2**24


def out_of_core(
    estimator, X, sample_weight=None, *, reset: bool = True
) -> tuple[OutOfCore, arrays.ArrayKind] | None:
    """Find the samples of a fit that are not in memory.

    Parameters
    ----------
    estimator : BaseEstimator
        Its features are set from the first block (``reset``) or compared, and its ``device`` is
        used.
    X : callable, array-like or Tensor
        What the user calls samples.
    sample_weight : callable, array-like or Tensor, default=None
        Their weights.
    reset : bool, default=True
        Whether this is a fit.

    Returns
    -------
    samples : OutOfCore
        All samples, validated in one pass over them.
    kind : ArrayKind
        The kind in which to return results.

    None if the samples are in memory; nothing has been validated then.

    Raises
    ------
    TypeError, ValueError
        If a block is not one; the message names it.
    """
    samples: DaskSamples | Stream
    if arrays.is_dask(X):
        samples, kind = dask_samples(estimator, X, sample_weight, reset=reset), arrays.NUMPY
    else:
        arrays.refuse_dask_weights(sample_weight)
        blocks = blocks_of(X)
        if blocks is None:
            return None
        reader = Reader(estimator, blocks, sample_weight, reset=reset)
        samples, kind = Stream(reader), reader.kind
    if reset and samples.n_samples < 2:
        raise ValueError("X must have at least 2 samples, got 1 in all blocks. Pass more data.")
    arrays.refuse_zero_weights(samples.facts.largest_weight)
    return samples, kind


def each_block(estimator, X, sample_weight, function: Callable):
    """``function(X, weights)`` of each block, in their order; None for samples in memory.

    The features of a fitted estimator are compared. The function is pickled for samples of dask.
    """
    if arrays.is_dask(X):
        blocks, read = _dask_blocks(estimator, X, sample_weight, reset=False, in_range=False)
        return list(of_each(blocks, function, read).values())
    reader = reader_of(estimator, X, sample_weight, in_range=False)
    return None if reader is None else (function(*block) for block in reader())


def reader_of(estimator, X, sample_weight=None, **options) -> "Reader | None":
    """What reads samples block by block, see `Reader`; None for samples in memory."""
    blocks: Callable[[], Iterator] | None
    if arrays.is_dask(X):
        blocks, sample_weight = DaskBlocks(X, sample_weight).one_by_one, None
    else:
        arrays.refuse_dask_weights(sample_weight)
        blocks = blocks_of(X)
    return None if blocks is None else Reader(estimator, blocks, sample_weight, **options)


def blocks_of(X) -> Callable[[], Iterator] | None:
    """The function that returns blocks of samples; None for samples in memory."""
    if arrays.is_function(X):
        return X
    return (lambda: mapped_blocks(X)) if is_large_map(X) else None


def is_large_map(X) -> bool:
    """Whether samples are a memory-mapped file that is not to be brought into memory."""
    # (a copy of a map is of its class too, without a file)
    mapped = isinstance(X, np.memmap) and X._mmap is not None
    return mapped and X.ndim == 2 and X.nbytes > MEMORY_MAP_BYTES


def mapped_blocks(X: np.memmap) -> Iterator[np.ndarray]:
    """Rows of a memory-mapped file, block by block, that leave memory once they are used."""
    length = max(1, BLOCK_BYTES // (X.shape[1] * X.itemsize))
    for i in range(0, len(X), length):
        yield np.asarray(X[i : i + length])
        forget(X)


def forget(X: np.memmap) -> None:
    """Have what was read of a memory-mapped file leave memory; it stays in the file.

    Changes to a copy-on-write map are in memory only, and stay there.
    """
    held = X._mmap
    if X.mode != "c" and hasattr(held, "madvise"):
        held.madvise(mmap.MADV_DONTNEED)


class Reader:
    """Reads a user's blocks: each call is one pass over them, which yields validated tensors.

    Parameters
    ----------
    estimator : BaseEstimator
        As in `out_of_core`.
    blocks : callable
        Returns a fresh iterator of blocks.
    sample_weight : callable, array-like or Tensor, default=None
        Returns a fresh iterator of their weights; or the weights of all rows; or they come with
        the blocks, as pairs.
    reset : bool, default=False
        Whether the first block sets the estimator's features.
    in_range : bool, default=True
        Whether samples that are too large for covariances are refused.

    Attributes
    ----------
    kind : ArrayKind
        The kind of the first block.
    """

    def __init__(self, estimator, blocks, sample_weight=None, *, reset=False, in_range=True):
        if sample_weight is not None and not arrays.is_function(sample_weight):
            arrays.refuse_no_weights(sample_weight)
            if not isinstance(sample_weight, Number | torch.Tensor):
                sample_weight = np.asarray(sample_weight)
        self.estimator, self.blocks, self.sample_weight = estimator, blocks, sample_weight
        self.reset, self.in_range, self.kind = reset, in_range, None
        self._first = self._n_samples = self._ends = None

    def __call__(self) -> Iterator[Block]:
        """One pass."""
        seen = 0
        first: tuple[Tensor, ...] = ()
        last: tuple[Tensor, ...] = ()
        for i, (X, weights) in enumerate(self._pairs()):
            block = self._block(i, X, weights, seen)
            if block is None:
                continue
            seen += len(block[0])
            last = _row(block, -1)
            first = first or _row(block, 0)
            yield block
        self._check_rows(seen, [*first, *last])

    def _pairs(self):
        """The user's blocks, each with its weights, or None."""
        blocks, weights = iterator_of(self.blocks, "X"), self.sample_weight
        if not arrays.is_function(weights):
            yield from map(as_pair, blocks)
            return
        weights = iterator_of(weights, "sample_weight")
        for X in blocks:
            if isinstance(X, tuple) and len(X) == 2:
                raise ValueError(TWICE.format("a function of its own"))
            a = next(weights, None)
            if a is None:
                raise ValueError(
                    "sample_weight must return weights for every block of X, got fewer blocks. "
                    "Return as many, of the same rows."
                )
            yield X, a
        if next(weights, None) is not None:
            raise ValueError(
                "sample_weight must return weights for every block of X, got more blocks. Return "
                "as many, of the same rows."
            )

    def _block(self, i, X, weights, seen) -> Block | None:
        """A block and its weights as tensors; None if it has no rows."""
        given = self.sample_weight
        if weights is not None and given is not None and not arrays.is_function(given):
            raise ValueError(TWICE.format("an array"))
        n = n_rows(X)
        if n == 0:
            return None
        if given is not None and weights is None and n is not None:
            weights = given if arrays.n_axes(given) == 0 else given[seen : seen + n]
        try:
            reset = self.reset and self._first is None
            X, weights, kind = read_block(self.estimator, X, weights, reset=reset)
            if self.in_range:
                arrays.check_range(X)
            self._check_alike(X, weights, kind)
        except (TypeError, ValueError) as error:
            refusal = TypeError if isinstance(error, TypeError) else ValueError
            raise refusal(f"block {i} of X (from row {seen}) is invalid: {error}") from error
        return X, weights

    def _check_alike(self, X, weights, kind) -> None:
        """Raise if a block differs in kind from the first one."""
        what = X.dtype, X.device, weights is not None
        if self._first is None:
            self._first, self.kind = what, kind
        dtype, device, weighted = self._first
        if X.dtype != dtype:
            raise ValueError(
                f"blocks must have one dtype, got {X.dtype} after {dtype}. Convert all of them, "
                "as by block.astype(np.float64)."
            )
        if X.device != device:
            raise ValueError(
                f"blocks must be on one device, got {X.device} after {device}. Move all to one."
            )
        if what[2] != weighted:
            raise ValueError(
                "sample_weight must come with every block or with none, got one "
                f"{'without' if weighted else 'with'} after one {'with' if weighted else 'without'}"
                ". Give weights of one where there are none."
            )

    def _check_rows(self, seen: int, ends: list[Tensor]) -> None:
        """Raise unless this pass had the rows of the first one, and the weights theirs.

        Their number, and the first and the last row with its weight, are compared.
        """
        name = getattr(self.blocks, "__name__", "X")
        if self._n_samples is None:
            if seen == 0:
                raise ValueError(
                    f"X must return blocks with rows, got none from {name}(). Return an iterator "
                    "of blocks, not empty."
                )
            self._n_samples, self._ends = seen, ends
        elif seen == 0:
            raise ValueError(
                f"X must return a fresh iterator at every call, got nothing at another call of "
                f"{name}(): the first pass has exhausted it. Make the iterator inside of the "
                "function."
            )
        elif seen != self._n_samples:
            raise ValueError(
                f"X must return the same samples at every call, got {seen} rows after "
                f"{self._n_samples} from {name}(). Leave nothing to chance in it."
            )
        elif not all(map(_equal, ends, self._ends)):
            raise ValueError(
                "X must return the same samples in the same order at every call, got other rows or "
                f"weights at another call of {name}(). Leave nothing to chance in it: draw or "
                "shuffle before the fit."
            )
        given = self.sample_weight
        if getattr(given, "shape", ()) and len(given) != seen:
            raise ValueError(
                f"sample_weight must have shape ({seen},), got {tuple(given.shape)}. Pass one "
                "weight a sample."
            )


def _row(block: Block, i: int) -> tuple[Tensor, ...]:
    """Copy a row of a block, and its weight."""
    return tuple(part[i].clone() for part in block if part is not None)


def _equal(one: Tensor, other: Tensor) -> bool:
    """Whether rows have the same numbers; NaN is missing."""
    return bool(((one == other) | (one.isnan() & other.isnan())).all())


TWICE = "sample_weight must be given once, got it with the blocks and as {}. Leave one out."


def iterator_of(function, name: str) -> Iterator:
    """Call a user's function of blocks, which must return an iterator of them."""
    found = function()
    is_data = hasattr(found, "shape") or hasattr(found, "__array__")
    is_data |= isinstance(found, str | bytes | Mapping | Set)
    if is_data or not hasattr(found, "__iter__"):
        raise TypeError(
            f"{name}() must return an iterator of blocks, got {type(found).__name__}. Yield "
            "the blocks, or return a list of them."
        )
    return iter(found)


def as_pair(block):
    """A block and its weights: what is not a pair has none."""
    return block if isinstance(block, tuple) and len(block) == 2 else (block, None)


def n_rows(X) -> int | None:
    """The number of rows of a block; None if it has no such thing, and is refused."""
    shape = getattr(X, "shape", None)
    if arrays.is_dask(X) or not isinstance(shape, Sized | None):
        return None
    if shape is not None:
        return int(shape[0]) if len(shape) else None  # type: ignore[index]
    return len(X) if hasattr(X, "__len__") else None


def read_block(
    estimator, X, weights=None, *, reset: bool = False
) -> tuple[Tensor, Tensor | None, arrays.ArrayKind]:
    """Validate one block of samples.

    Parameters
    ----------
    estimator : BaseEstimator
        Its features are set (``reset``) or compared, and its ``device`` is used.
    X : array-like, data frame, record batch or Tensor of shape (b, d)
        Rows.
    weights : array-like or Tensor of shape (b,), default=None
        Their weights, of which all may be zero.
    reset : bool, default=False
        Whether this is the first block of a fit.

    Returns
    -------
    X : Tensor of shape (b, d)
        float32 or float64.
    weights : Tensor of shape (b,) or None
        float64, not scaled.
    kind : ArrayKind
        The kind in which to return results.

    Raises
    ------
    TypeError, ValueError
        If they are not finite numbers of those shapes, or require a gradient.
    """
    if isinstance(X, list | tuple) and any(isinstance(part, Tensor) for part in X):
        raise TypeError(
            f"a block must be an array, got a {type(X).__name__} of tensors. Take its first entry, "
            "as by (block[0] for block in loader), or give pairs (X, sample_weight)."
        )
    if type(X).__module__.partition(".")[0] == "pyarrow":
        X = X.to_pandas()
    for tensor in (X, weights):
        if isinstance(tensor, Tensor) and tensor.requires_grad:
            raise ValueError(
                "blocks are fitted without gradients, got a tensor that requires one. Use "
                "block.detach(), or fit one tensor in memory."
            )
    options = {"sample_weight": weights, "missing": arrays.takes_missing(estimator)}
    X, kind = arrays.samples(estimator, X, reset=reset, **options)
    if weights is None:
        return X, None, kind
    weights = arrays.as_tensor(weights, dtype=torch.float64)
    if weights.ndim == 0:
        weights = weights.expand(len(X))
    return X, arrays.weights_as_given(weights, X), kind


def dask_samples(estimator, X, sample_weight, *, reset: bool) -> DaskSamples:
    """Validate the samples of a dask array or data frame, in one pass over them.

    Parameters
    ----------
    estimator : BaseEstimator
        Its features are set (``reset``) or compared.
    X : dask array or data frame
        Rows.
    sample_weight : dask array or series, default=None
        Their weights.
    reset : bool
        Whether this is a fit.

    Returns
    -------
    DaskSamples
        The samples.

    Raises
    ------
    TypeError, ValueError
        For a ``device``, and as `DaskBlocks` and `DaskSamples`.
    """
    return DaskSamples(*_dask_blocks(estimator, X, sample_weight, reset=reset))


def _dask_blocks(
    estimator, X, sample_weight, *, reset, in_range=True
) -> tuple[DaskBlocks, Callable]:
    """Blocks of dask, and the function that makes tensors of each."""
    if estimator.device is not None and torch.device(estimator.device).type != "cpu":
        raise ValueError(
            f"device must be None or 'cpu' for samples of dask, got {str(estimator.device)!r}. "
            "Leave it out: workers compute on their CPUs."
        )
    blocks = DaskBlocks(X, sample_weight)
    check_features(estimator, X, reset=reset)
    reader = object.__new__(type(estimator))  # what validation needs to know of it
    names = ("device", "missing_values", "n_features_in_", "feature_names_in_")
    reader.__dict__ = {name: value for name, value in vars(estimator).items() if name in names}
    return blocks, functools.partial(_read_dask_block, reader, in_range)


def _read_dask_block(estimator, in_range, X, weights):
    """A block of dask and its weights as tensors."""
    X, weights, _ = read_block(estimator, X, weights)
    if in_range:
        arrays.check_range(X)
    return X, weights
