"""The four covariance types, each one object.

The shape of the storage is the type, so a mixture of three tensors says everything:

===========  ===============  ==================================================
type         storage          covariance of component k
===========  ===============  ==================================================
`FULL`       ``(K, d, d)``    its own matrix
`TIED`       ``(1, d, d)``    one matrix for all
`DIAG`       ``(K, d)``       its own variances
`SPHERICAL`  ``(K, 1)``       its own variance, the same for every feature
===========  ===============  ==================================================

(For K = 1 the first two, and for d = 1 the last two, are the same model.) A *precision factor*
``P`` has the storage of the covariances and ``P @ P.T`` is the precision; a diagonal type stores
the diagonal of ``P`` and never forms a ``d x d`` matrix.

Each type also describes its densities as a linear function of *features* of a sample,
``log w_k g_k(x) = <C_k, (x, 1, quadratic(x))>``: that turns the E-step into two matrix products.
"""

import functools
import math

import torch
from torch import Tensor

from skgmmot.functional.linalg import factor, symmetrize

LOG_2PI = math.log(2 * math.pi)

ILL_DEFINED = (
    "Fitting the mixture model failed because some components have ill-defined empirical "
    "covariance (for instance caused by singleton or collapsed samples). Try to decrease the "
    "number of components, increase reg_covar, or scale the input data."
)


class CovarianceType:
    """What a covariance type knows; see the four objects of this module."""

    name: str
    #: Whether all components share one covariance.
    shared = False
    #: Whether it stores variances, and all its covariances commute.
    diagonal = False

    def shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        """Shape of the storage."""
        raise NotImplementedError

    def n_parameters(self, n_components: int, n_features: int) -> int:
        """Number of free parameters."""
        raise NotImplementedError

    def to_public(self, storage: Tensor) -> Tensor:
        """The storage as scikit-learn shows it (an axis of length one less, where it has one)."""
        return storage

    def from_public(self, array: Tensor) -> Tensor:
        """The inverse of `to_public`."""
        return array

    def public_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        """Shape of the storage as scikit-learn shows it."""
        return tuple(self.to_public(torch.empty(self.shape(n_components, n_features))).shape)

    def holds(self, other: "CovarianceType") -> bool:
        """Whether every mixture of another type is also one of this type."""
        return other is self

    def to_full(self, covariances: Tensor, n_components: int, n_features: int) -> Tensor:
        """One matrix a component: ``(K, d, d)``."""
        raise NotImplementedError

    def nearest(self, matrices: Tensor, weights: Tensor) -> Tensor:
        """The nearest matrices of this type, in storage, to ``(K, d, d)`` or diagonals ``(K, d)``.

        ``weights (K,)`` say how much each counts where they become one.
        """
        raise NotImplementedError

    def precision_factor(self, covariances: Tensor) -> Tensor:
        """``P`` with ``P @ P.T = covariances^{-1}``; ValueError if they are not positive."""
        raise NotImplementedError

    def precisions(self, factors: Tensor) -> Tensor:
        """``P @ P.T``."""
        raise NotImplementedError

    def from_precisions(self, precisions: Tensor) -> Tensor:
        """Covariances from precisions."""
        raise NotImplementedError

    def not_precisions(self, precisions: Tensor) -> str:
        """What precisions in storage should be and are not; empty if they are fine."""
        raise NotImplementedError

    def apply(self, rows: Tensor, storage: Tensor) -> Tensor:
        """Rows ``(K, b, d)`` times each component's matrix, given in storage."""
        raise NotImplementedError

    def diagonals(self, storage: Tensor) -> Tensor:
        """The diagonals of the matrices in storage, to broadcast against ``(K, d)``."""
        raise NotImplementedError

    def log_det(self, factors: Tensor, n_features: int) -> Tensor:
        """``log det P (K or 1,)``: half the log-determinant of the precisions."""
        raise NotImplementedError

    def log_density(self, centred: Tensor, factors: Tensor) -> Tensor:
        """Log-densities ``(K, b)`` at samples centred at each component ``(K, b, d)``."""
        n_features = centred.shape[-1]
        squared = self.apply(centred, factors).square().sum(-1)  # (K, b)
        log_det = self.log_det(factors, n_features).unsqueeze(-1)
        return log_det - (squared + n_features * LOG_2PI) / 2

    def scatter(self, centred: Tensor, resp: Tensor) -> Tensor:
        """Second moments ``sum_i resp_ki (x_i - c_k)(x_i - c_k)^T``, in storage."""
        raise NotImplementedError

    def move_scatter(self, scatter: Tensor, mass: Tensor, shift: Tensor, by: Tensor) -> Tensor:
        """The second moments about ``c - by``, given mass and first moments about ``c``."""
        # (x - c + by)(x - c + by)^T summed = S2 + s1 by^T + by s1^T + mass by by^T
        cross = self.outer(shift, by) + self.outer(by, shift)
        return scatter + cross + self.outer(mass.unsqueeze(-1) * by, by)

    def outer(self, left: Tensor, right: Tensor) -> Tensor:
        """``left_k right_k^T`` of ``(K, d)`` rows, in storage (summed over k if tied)."""
        raise NotImplementedError

    def estimate(self, mass: Tensor, shift: Tensor, scatter: Tensor, reg_covar: float) -> Tensor:
        """The M-step: covariances from centred statistics."""
        raise NotImplementedError

    def start(self, mass: Tensor, scatter: Tensor, unassigned: Tensor, reg_covar: float) -> Tensor:
        """Covariances of a start: scatter about the start's own means.

        ``unassigned (d, d)`` is the scatter of samples that belong to no component (starts from
        single samples): only the tied type, which describes all samples at once, counts it.
        """
        return self.estimate(mass, torch.zeros_like(mass).unsqueeze(-1), scatter, reg_covar)

    # --- the derivative of EM (cotangents may have axes before their own) ------------------------

    def pooled(self, n_features: int) -> int:
        """Number of features that one stored number stands for."""
        return 1

    def estimate_pullback(
        self, mass: Tensor, shift: Tensor, scatter: Tensor, cotangents: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Cotangents of mass, shift and scatter from those of `estimate`."""
        raise NotImplementedError

    def score(self, precisions: Tensor, mass: Tensor, scatter: Tensor) -> Tensor:
        """The derivative in ``Sigma`` of ``sum_k mass_k log det Lambda_k - tr(Lambda_k S2_k)``."""
        raise NotImplementedError

    def quadratic_pullback(self, X: Tensor, cotangents: Tensor) -> Tensor:
        """Cotangents ``(d, b)`` of samples from those of their quadratic features ``(q, b)``."""
        raise NotImplementedError

    def factor(self, covariances: Tensor) -> Tensor:
        """``L`` with ``L @ L.T = covariances``."""
        raise NotImplementedError

    def transpose(self, storage: Tensor) -> Tensor:
        """Each matrix in storage transposed."""
        raise NotImplementedError

    def congruence(self, storage: Tensor, factors: Tensor) -> Tensor:
        """``F.T @ S @ F`` for matrices ``S`` and ``F`` in storage."""
        raise NotImplementedError

    def squared(self, storage: Tensor, factors: Tensor) -> Tensor:
        """``F @ (I + S)^2 @ F.T`` for symmetric ``S`` and any ``F`` in storage."""
        raise NotImplementedError

    def anticommutator(self, left: Tensor, right: Tensor) -> Tensor:
        """``S @ T + T @ S`` for symmetric ``S`` and ``T`` in storage."""
        raise NotImplementedError

    def pushed(self, covariances: Tensor, by: Tensor) -> Tensor:
        """``(I + S) @ Sigma @ (I + S)`` for symmetric ``S`` in storage."""
        raise NotImplementedError

    def symmetric(self, storage: Tensor) -> Tensor:
        """The symmetric parts of matrices in storage."""
        raise NotImplementedError

    # --- free coordinates ----------------------------------------------------------------------

    def to_free(self, covariances: Tensor, scale: Tensor) -> Tensor:
        """Coordinates in which every vector is a covariance, in units of ``scale (d,)``."""
        raise NotImplementedError

    def from_free(self, free: Tensor, scale: Tensor) -> Tensor:
        """The inverse of `to_free`."""
        raise NotImplementedError

    def root(self, covariances: Tensor) -> Tensor:
        """``B`` with ``B @ B.T`` the covariances, in storage; constants."""
        raise NotImplementedError

    def from_root(self, roots: Tensor, reg_covar: float) -> Tensor:
        """``B @ B.T + reg_covar I`` of any ``B`` in storage: positive definite."""
        raise NotImplementedError

    # --- the quadratic features ----------------------------------------------------------------

    def n_quadratic(self, n_features: int) -> int:
        """Number of quadratic features."""
        raise NotImplementedError

    def quadratic(self, X: Tensor, out: Tensor) -> None:
        """Write the quadratic features of ``X (d, b)`` into ``out (q, b)``."""
        raise NotImplementedError

    def quadratic_coefficients(self, precisions: Tensor) -> Tensor:
        """Coefficients ``(K or 1, q)`` of minus half the squares on the quadratic features."""
        raise NotImplementedError

    def from_quadratic(self, sums: Tensor, n_features: int) -> Tensor:
        """Sums of quadratic features ``(K, q)`` as second moments, in storage."""
        raise NotImplementedError


class _Matrix(CovarianceType):
    """What types with ``d x d`` matrices share."""

    def to_full(self, covariances, n_components, n_features):
        return covariances.expand(n_components, -1, -1)

    def nearest(self, matrices, weights):
        return torch.diag_embed(matrices) if matrices.ndim == 2 else matrices

    def precision_factor(self, covariances):
        factors, failed = torch.linalg.cholesky_ex(covariances)
        if failed.any() or not torch.isfinite(factors).all():
            raise ValueError(ILL_DEFINED)
        identity = torch.eye(factors.shape[-1], dtype=factors.dtype, device=factors.device)
        return torch.linalg.solve_triangular(factors, identity.expand_as(factors), upper=False).mT

    def precisions(self, factors):
        return factors @ factors.mT

    def from_precisions(self, precisions):
        return torch.cholesky_inverse(torch.linalg.cholesky(precisions))

    def not_precisions(self, precisions):
        symmetric = torch.allclose(precisions, precisions.mT)
        positive = symmetric and (torch.linalg.eigvalsh(precisions) > 0).all()
        return "" if positive else "symmetric, positive-definite"

    def apply(self, rows, storage):
        return rows @ storage

    def diagonals(self, storage):
        return storage.diagonal(dim1=-2, dim2=-1)

    def log_det(self, factors, n_features):
        return self.diagonals(factors).log().sum(-1)

    def scatter(self, centred, resp):
        return (centred * resp.unsqueeze(-1)).mT @ centred

    def outer(self, left, right):
        return left.unsqueeze(-1) * right.unsqueeze(-2)

    def score(self, precisions, mass, scatter):
        if self.shared:
            mass = mass.sum(-1, keepdim=True)
        return precisions @ scatter @ precisions - mass[..., None, None] * precisions

    def factor(self, covariances):
        return torch.linalg.cholesky(covariances)

    def transpose(self, storage):
        return storage.mT

    def congruence(self, storage, factors):
        return factors.mT @ storage @ factors

    def squared(self, storage, factors):
        half = factors + factors @ storage
        return half @ half.mT

    def anticommutator(self, left, right):
        product = left @ right
        return product + product.mT

    def pushed(self, covariances, by):
        half = covariances + by @ covariances
        return symmetrize(half + half @ by)

    def symmetric(self, storage):
        return symmetrize(storage)

    # Free coordinates: Cholesky's factor with the logarithm of its diagonal.

    def to_free(self, covariances, scale):
        factors = torch.linalg.cholesky_ex(covariances).L / scale.unsqueeze(-1)
        return factors.tril(-1) + torch.diag_embed(factors.diagonal(dim1=-2, dim2=-1).log())

    def from_free(self, free, scale):
        factors = free.tril(-1) + torch.diag_embed(free.diagonal(dim1=-2, dim2=-1).exp())
        factors = factors * scale.unsqueeze(-1)
        return factors @ factors.mT

    def root(self, covariances):
        return factor(covariances)

    def from_root(self, roots, reg_covar):
        return self._regularised(roots @ roots.mT, reg_covar)

    @staticmethod
    def _regularised(covariances, reg_covar):
        """Add ``reg_covar`` to the diagonal and restore symmetry."""
        eye = torch.eye(covariances.shape[-1], dtype=covariances.dtype, device=covariances.device)
        return symmetrize(covariances) + reg_covar * eye


@functools.lru_cache(maxsize=64)
def _upper_triangle(d: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Rows and columns of the upper triangle, and how often each entry stands in the matrix."""
    i, j = torch.triu_indices(d, d, device=device)
    return i, j, 2 - (i == j).int()


class _Full(_Matrix):
    """Each component its own matrix, ``(K, d, d)``."""

    name = "full"

    def holds(self, other):
        return True

    def shape(self, n_components, n_features):
        return (n_components, n_features, n_features)

    def n_parameters(self, n_components, n_features):
        return n_components * n_features * (n_features + 1) // 2

    def estimate(self, mass, shift, scatter, reg_covar):
        covariances = scatter / mass[:, None, None] - self.outer(shift, shift)
        return self._regularised(covariances, reg_covar)

    def estimate_pullback(self, mass, shift, scatter, cotangents):
        cotangents = symmetrize(cotangents)
        of_scatter = cotangents / mass[:, None, None]
        of_mass = -(of_scatter * scatter).sum((-2, -1)) / mass
        return of_mass, -2 * (cotangents @ shift.unsqueeze(-1)).squeeze(-1), of_scatter

    def n_quadratic(self, n_features):
        return n_features * (n_features + 1) // 2

    def quadratic(self, X, out):
        # x_i x_j for i <= j, row after row of the upper triangle
        row = 0
        for i in range(len(X)):
            rows = len(X) - i
            torch.mul(X[i:], X[i], out=out[row : row + rows])
            row += rows

    def quadratic_pullback(self, X, cotangents):
        found = torch.zeros_like(X)
        for i, rows in enumerate(cotangents.split([*range(len(X), 0, -1)])):
            found[i:].addcmul_(rows, X[i])
            found[i] += (rows * X[i:]).sum(0)
        return found

    def quadratic_coefficients(self, precisions):
        i, j, times = _upper_triangle(precisions.shape[-1], precisions.device)
        return precisions[..., i, j] * (-times.to(precisions) / 2)

    def from_quadratic(self, sums, n_features):
        i, j, _ = _upper_triangle(n_features, sums.device)
        moments = sums.new_empty(*sums.shape[:-1], n_features, n_features)
        moments[..., i, j] = sums
        moments[..., j, i] = sums
        return moments


class _Tied(_Matrix):
    """One matrix for all components, ``(1, d, d)``."""

    name = "tied"
    shared = True

    def shape(self, n_components, n_features):
        return (1, n_features, n_features)

    def n_parameters(self, n_components, n_features):
        return n_features * (n_features + 1) // 2

    def to_public(self, storage):
        return storage.squeeze(0)

    def from_public(self, array):
        return array.unsqueeze(0)

    def nearest(self, matrices, weights):
        matrices = super().nearest(matrices, weights)
        return torch.einsum("k,kij->ij", weights / weights.sum(), matrices).unsqueeze(0)

    def scatter(self, centred, resp):
        return super().scatter(centred, resp).sum(-3, keepdim=True)

    def outer(self, left, right):
        return (left.mT @ right).unsqueeze(-3)

    def estimate(self, mass, shift, scatter, reg_covar):
        within = scatter - self.outer(mass.unsqueeze(-1) * shift, shift)
        return self._regularised(within / mass.sum(), reg_covar)

    def estimate_pullback(self, mass, shift, scatter, cotangents):
        of_scatter = symmetrize(cotangents) / mass.sum()
        within = scatter - self.outer(mass.unsqueeze(-1) * shift, shift)
        bent = shift @ of_scatter.squeeze(-3)  # (K, d)
        of_mass = -(of_scatter * within).sum((-2, -1)) / mass.sum() - (bent * shift).sum(-1)
        return of_mass, -2 * mass.unsqueeze(-1) * bent, of_scatter

    def start(self, mass, scatter, unassigned, reg_covar):
        return self._regularised((scatter + unassigned) / mass.sum(), reg_covar)

    # The quadratic term is the same in every component: it moves no responsibility, and its sum
    # over samples is a constant of the data. There is nothing to compute per sample.

    def n_quadratic(self, n_features):
        return 0

    def quadratic(self, X, out):
        pass

    def quadratic_pullback(self, X, cotangents):
        return torch.zeros_like(X)

    def quadratic_coefficients(self, precisions):
        return precisions.new_empty(*precisions.shape[:-2], 0)


class _Axis(CovarianceType):
    """What types without correlations share: variances, ``(K, d)`` or ``(K, 1)``."""

    diagonal = True

    def to_full(self, covariances, n_components, n_features):
        return torch.diag_embed(covariances.expand(-1, n_features))

    def nearest(self, matrices, weights):
        return matrices if matrices.ndim == 2 else matrices.diagonal(dim1=-2, dim2=-1)

    def precision_factor(self, covariances):
        if not (torch.isfinite(covariances) & (covariances > 0)).all():
            raise ValueError(ILL_DEFINED)
        return covariances.rsqrt()

    def precisions(self, factors):
        return factors.square()

    def from_precisions(self, precisions):
        return precisions.reciprocal()

    def not_precisions(self, precisions):
        return "" if (precisions > 0).all() else "positive"

    def apply(self, rows, storage):
        return rows * storage.unsqueeze(-2)

    def diagonals(self, storage):
        return storage

    def log_det(self, factors, n_features):
        return factors.log().expand(-1, n_features).sum(-1)

    def score(self, precisions, mass, scatter):
        return precisions.square() * scatter - mass.unsqueeze(-1) * precisions

    def quadratic_pullback(self, X, cotangents):
        return 2 * X * cotangents

    def estimate_pullback(self, mass, shift, scatter, cotangents):
        of_scatter = cotangents / mass.unsqueeze(-1)
        of_mass = -(of_scatter * scatter).sum(-1) / mass
        return of_mass, -2 / self.pooled(shift.shape[-1]) * cotangents * shift, of_scatter

    def factor(self, covariances):
        return covariances.sqrt()

    def transpose(self, storage):
        return storage

    def congruence(self, storage, factors):
        return storage * factors.square()

    def squared(self, storage, factors):
        return (factors + factors * storage).square()

    def anticommutator(self, left, right):
        return 2 * left * right

    def pushed(self, covariances, by):
        return covariances * (1 + by).square()

    def symmetric(self, storage):
        return storage

    def to_free(self, covariances, scale):
        return covariances.log()

    def from_free(self, free, scale):
        return free.exp()

    def root(self, covariances):
        return covariances.detach().clamp(min=0).sqrt()

    def from_root(self, roots, reg_covar):
        return roots.square() + reg_covar

    def scatter(self, centred, resp):
        return (resp.unsqueeze(-2) @ centred.square()).squeeze(-2)

    def outer(self, left, right):
        return left * right

    def estimate(self, mass, shift, scatter, reg_covar):
        return scatter / mass.unsqueeze(-1) - self.outer(shift, shift) + reg_covar


class _Diag(_Axis):
    """Each component its own variances, ``(K, d)``."""

    name = "diag"

    def holds(self, other):
        return other.diagonal

    def shape(self, n_components, n_features):
        return (n_components, n_features)

    def n_parameters(self, n_components, n_features):
        return n_components * n_features

    def n_quadratic(self, n_features):
        return n_features

    def quadratic(self, X, out):
        torch.mul(X, X, out=out)

    def quadratic_coefficients(self, precisions):
        return -precisions / 2

    def from_quadratic(self, sums, n_features):
        return sums


class _Spherical(_Axis):
    """Each component one variance, ``(K, 1)``: the mean of the diagonal."""

    name = "spherical"

    def shape(self, n_components, n_features):
        return (n_components, 1)

    def n_parameters(self, n_components, n_features):
        return n_components

    def to_public(self, storage):
        return storage.squeeze(-1)

    def from_public(self, array):
        return array.unsqueeze(-1)

    def nearest(self, matrices, weights):
        return super().nearest(matrices, weights).mean(-1, keepdim=True)

    # Second moments are kept as the mean over features, so that `estimate` is the diagonal one.

    def pooled(self, n_features):
        return n_features

    def scatter(self, centred, resp):
        return super().scatter(centred, resp).mean(-1, keepdim=True)

    def outer(self, left, right):
        return (left * right).mean(-1, keepdim=True)

    def n_quadratic(self, n_features):
        return 1

    def quadratic(self, X, out):
        torch.sum(X.square(), dim=0, keepdim=True, out=out)

    def quadratic_coefficients(self, precisions):
        return -precisions / 2

    def from_quadratic(self, sums, n_features):
        return sums / n_features


FULL, TIED, DIAG, SPHERICAL = _Full(), _Tied(), _Diag(), _Spherical()

#: The covariance types by scikit-learn's names.
COVARIANCE_TYPES = {kind.name: kind for kind in (FULL, TIED, DIAG, SPHERICAL)}


def covariance_type_of(covariances: Tensor) -> CovarianceType:
    """Return the covariance type whose storage this is.

    Parameters
    ----------
    covariances : Tensor
        ``(K, d, d)``, ``(1, d, d)``, ``(K, d)`` or ``(K, 1)``.

    Returns
    -------
    CovarianceType
        `FULL`, `TIED`, `DIAG` or `SPHERICAL`.

    Raises
    ------
    ValueError
        If the storage has another number of axes.
    """
    if covariances.ndim == 3:
        return TIED if len(covariances) == 1 else FULL
    if covariances.ndim == 2:
        return SPHERICAL if covariances.shape[1] == 1 else DIAG
    raise ValueError(
        "covariances must have shape (K, d, d), (1, d, d), (K, d) or (K, 1), "
        f"got {tuple(covariances.shape)}. Add the axis of length one that is missing."
    )
