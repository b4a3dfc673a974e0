"""Cholesky's factor of one matrix, and products with it at half the cost of products of matrices.

Small matrices are left to LAPACK, whose calls take less time than those of torch, and large ones
to torch, block by block: LAPACK would share them among its own threads.
"""

from typing import Protocol

import numpy as np
import torch
from scipy.linalg import blas, lapack
from torch import Tensor

from skgmmot.numerics.linalg import has_small_pivots, symmetrize

#: Largest number of features for numpy and LAPACK, which share larger work among their own threads.
MOST_FEATURES = 64
#: Number of columns in a block. Not a power of two, by which columns would share lines of a cache.
BLOCK = 192

Array = Tensor | np.ndarray


class Triangular(Protocol):
    """A regular lower triangular matrix ``L (d, d)``."""

    @classmethod
    def of(cls, covariance: np.ndarray) -> "Triangular | None":
        """Of a finite matrix by Cholesky; None if it is not positive definite, to rounding."""

    @property
    def pivots(self) -> np.ndarray:
        """The diagonal ``(d,)``."""

    def adjoint_times(self, other: "Triangular") -> Array:
        """``L.T @ R`` with another factor ``R``."""

    def congruent(self, matrix: np.ndarray) -> Array:
        """The lower half of ``L.T @ S @ L`` for a symmetric ``S``; the rest is arbitrary."""

    @staticmethod
    def decompose(lower: Array, *, vectors: bool) -> tuple[np.ndarray, Array | None]:
        """Ascending eigenvalues and, on demand, eigenvectors in columns.

        Of a finite symmetric matrix by its lower half, which may be overwritten.
        """

    @staticmethod
    def singular(matrix: Array, *, vectors: bool) -> tuple[Array | None, np.ndarray, Array | None]:
        """Singular values and, on demand, both sides' singular vectors in columns."""

    def times(self, matrix: Array, scale: np.ndarray) -> Array:
        """``L @ M @ diag(scale)``."""

    def adjoint_solve(self, matrix: Array, scale: np.ndarray) -> Array:
        """The solution ``X`` of ``L.T @ X = M @ diag(scale)``."""

    @staticmethod
    def gram(matrix: Array) -> np.ndarray:
        """``M @ M.T``, symmetric to the last bit."""


def triangular_for(n_features: int) -> type[Triangular]:
    """Return the class for matrices of a size.

    Parameters
    ----------
    n_features : int
        The number of features d.

    Returns
    -------
    type
        The class.
    """
    return _ByLapack if n_features <= MOST_FEATURES else _InBlocks


class _ByLapack:
    """Arrays in columns, as in Fortran, so that none is copied."""

    def __init__(self, lower: np.ndarray):
        self.lower = lower

    @classmethod
    def of(cls, covariance):
        lower, failed = lapack.dpotrf(covariance.T, lower=1, clean=1)
        return None if failed or has_small_pivots(lower, covariance) else cls(lower)

    @property
    def pivots(self):
        return self.lower.diagonal()

    def adjoint_times(self, other):
        return blas.dtrmm(1.0, self.lower, other.lower, trans_a=1, lower=1)

    def congruent(self, matrix):
        product = blas.dtrmm(1.0, self.lower, matrix.T, side=1, lower=1)
        return blas.dtrmm(1.0, self.lower, product, trans_a=1, lower=1, overwrite_b=1)

    @staticmethod
    def decompose(lower, *, vectors):
        values, found, failed = lapack.dsyevd(lower, compute_v=vectors, lower=1, overwrite_a=1)
        if failed:
            raise np.linalg.LinAlgError(f"LAPACK's dsyevd must converge, got info {failed}.")
        return values, found if vectors else None

    @staticmethod
    def singular(matrix, *, vectors):
        if not vectors:
            return None, np.linalg.svdvals(matrix), None
        left, values, right = np.linalg.svd(matrix)
        return left, values, right.T

    def times(self, matrix, scale):
        return blas.dtrmm(1.0, self.lower, matrix * scale, lower=1, overwrite_b=1)

    def adjoint_solve(self, matrix, scale):
        return blas.dtrsm(1.0, self.lower, matrix * scale, trans_a=1, lower=1, overwrite_b=1)

    @staticmethod
    def gram(matrix):
        return matrix @ matrix.T


class _InBlocks:
    """Tensors in columns, as torch's decompositions return them."""

    def __init__(self, lower: Tensor):
        self.lower = lower

    @classmethod
    def of(cls, covariance):
        matrix = _shared(covariance)
        lower, failed = torch.linalg.cholesky_ex(matrix)
        return None if failed or has_small_pivots(lower, matrix) else cls(lower)

    @property
    def pivots(self):
        return self.lower.diagonal().numpy()

    def adjoint_times(self, other):
        L, R, found = self.lower, other.lower, _empty(len(self.lower))
        for i, j in _blocks(len(L)):
            torch.mm(L[i:, i:j].mT, R[i:], out=found[i:j])
        return found

    def congruent(self, matrix):
        L, S, d = self.lower, _shared(matrix), len(matrix)
        product, found = _empty(d), _empty(d)
        for i, j in _blocks(d):
            torch.mm(S[:, i:], L[i:, i:j], out=product[:, i:j])
        for i, j in _blocks(d):
            torch.mm(L[i:, i:j].mT, product[i:, :j], out=found[i:j, :j])
        return found

    @staticmethod
    def decompose(lower, *, vectors):
        if not vectors:
            return torch.linalg.eigvalsh(lower).numpy(), None
        values, found = torch.linalg.eigh(lower)
        return values.numpy(), found

    @staticmethod
    def singular(matrix, *, vectors):
        if not vectors:
            return None, torch.linalg.svdvals(matrix).numpy(), None
        left, values, right = torch.linalg.svd(matrix)
        return left, values.numpy(), right.mT

    def times(self, matrix, scale):
        scaled, found = matrix * torch.from_numpy(scale), _empty(len(matrix)).zero_()
        for i, j in _blocks(len(matrix)):
            found[i:].addmm_(self.lower[i:, i:j], scaled[i:j])
        return found

    def adjoint_solve(self, matrix, scale):
        scaled = matrix * torch.from_numpy(scale)
        return torch.linalg.solve_triangular(self.lower.mT, scaled, upper=True)

    @staticmethod
    def gram(matrix):
        found = _empty(len(matrix))
        for i, j in _blocks(len(matrix)):
            torch.mm(matrix[:j], matrix[i:j].mT, out=found[:j, i:j])
            found[i:j, :i] = found[:i, i:j].mT
            found[i:j, i:j] = symmetrize(found[i:j, i:j])
        return found.numpy()


def _shared(matrix: np.ndarray) -> Tensor:
    """The same memory where torch can share it."""
    return torch.from_numpy(np.require(matrix, requirements=["C", "W"]))


def _empty(d: int) -> Tensor:
    """A matrix in columns."""
    return torch.empty(d, d, dtype=torch.float64, device="cpu").mT


def _blocks(d: int) -> list[tuple[int, int]]:
    """Ranges of columns."""
    return [(i, min(i + BLOCK, d)) for i in range(0, d, BLOCK)]
