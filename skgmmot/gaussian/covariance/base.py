"""What a covariance type is: a small core, and what follows from it."""

import functools
import math
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

LOG_2PI = math.log(2 * math.pi)

ILL_DEFINED = (
    "Fitting the mixture model failed because some components have ill-defined empirical "
    "covariance (for instance caused by singleton or collapsed samples). Try to decrease the "
    "number of components, increase reg_covar, or scale the input data."
)


class CovarianceType:
    """A set of covariances that the components of a mixture may have, and its storage.

    A type must have the *core*: ``name``, ``base``, ``shape``, ``n_parameters``, ``to_base``,
    ``nearest`` and ``estimate``. Densities and statistics are computed in the storage of its base,
    a `DensityType` that holds it; the rest follows, some of it by autograd. A type may replace
    any of it by something faster.

    The storage has one entry along its first axis for each component, or a single one if the
    covariance is ``shared``. If it is not linear in the covariances, ``scaled`` is core, too.
    """

    # --- the core --------------------------------------------------------------------------------

    #: What users call it.
    name: str
    #: The type in whose storage densities and statistics are computed.
    base: "DensityType"
    #: Whether all components share one covariance.
    shared = False
    #: Whether it has the arithmetic of `ElementaryType`.
    elementary = False
    #: Whether its scatter is taken along directions of the current mixture only, see `at`.
    sketched = False
    #: Iterations of EM for the covariances alone that a start makes, with its assignment.
    start_iterations = 0

    def shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        """Shape of the storage."""
        raise NotImplementedError

    def n_parameters(self, n_components: int, n_features: int) -> int:
        """Number of free parameters."""
        raise NotImplementedError

    def to_base(self, covariances: Tensor, n_components: int, n_features: int) -> Tensor:
        """The same covariances in the storage of the base; differentiable."""
        raise NotImplementedError

    def nearest(self, matrices: Tensor, weights: Tensor) -> Tensor:
        """The nearest matrices of this type, in storage, to ``(K, d, d)`` or diagonals ``(K, d)``.

        ``weights (K,)`` say how much each counts where they become one.
        """
        raise NotImplementedError

    def estimate(self, mass: Tensor, shift: Tensor, scatter: Tensor, reg_covar: float) -> Tensor:
        """The M-step: covariances from centred statistics, whose scatter the base stores."""
        raise NotImplementedError

    def to_public(self, storage: Tensor) -> Tensor:
        """The storage as scikit-learn shows it (an axis of length one less, where it has one)."""
        return storage

    def from_public(self, array: Tensor) -> Tensor:
        """The inverse of `to_public`."""
        return array

    # --- types with a parameter ------------------------------------------------------------------

    def with_rank(self, rank: int) -> "CovarianceType":
        """The type of that rank; itself, if it has none."""
        return self

    def of_storage(self, storage: Tensor) -> "CovarianceType":
        """The type of this name that has such a storage."""
        return self

    def fits(self, n_features: int) -> bool:
        """Whether there are enough features for it."""
        return True

    def parameters(self) -> dict:
        """What an estimator is given beside its name."""
        return {}

    def loadings(self, storage) -> tuple | None:
        """Factor loadings and noise variances of a storage, an array or a tensor, if it has any."""
        return None

    # --- what follows from it --------------------------------------------------------------------

    def __eq__(self, other):
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self):
        return hash(type(self))  # equal wherever it was copied or loaded from a file

    def __repr__(self):
        return f"<covariance type {self.name!r}>"

    @property
    def diagonal(self) -> bool:
        """Whether all covariances are diagonal: they commute, and variances are stored."""
        return self.base.diagonal

    @functools.lru_cache(maxsize=256)  # noqa: B019 - the types are there for ever
    def public_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        """Shape of the storage as scikit-learn shows it."""
        return tuple(self.to_public(torch.empty(self.shape(n_components, n_features))).shape)

    @property
    def unshared(self) -> "CovarianceType":
        """The type of the same covariances if each component has its own."""
        return self

    def public_name(self, n_components: int) -> str:
        """What the type of a mixture of so many components is called."""
        return self.name

    def reduced(self, n_components: int, n_features: int) -> "CovarianceType":
        """The same model in the same storage, at the least cost: another type in special cases."""
        return self

    def holds(self, other: "CovarianceType") -> bool:
        """Whether every mixture of another type is also one of this type."""
        return other == self

    def to_full(self, covariances: Tensor, n_components: int, n_features: int) -> Tensor:
        """The covariances as matrices ``(K, d, d)``."""
        size = n_components, n_features
        return self.base.to_full(self.to_base(covariances, *size), *size)

    def variances(self, covariances: Tensor, n_components: int, n_features: int) -> Tensor:
        """The variances of the features ``(K, d)``."""
        size = n_components, n_features
        return self.base.variances(self.to_base(covariances, *size), *size)

    def canonical(self, covariances: Tensor) -> Tensor:
        """The storage chosen among those of the same covariances; differentiable."""
        return covariances

    def at(self, covariances: Tensor) -> "CovarianceType":
        """The type that takes scatter, and estimates from it, at a mixture of such covariances."""
        return self

    def from_base(self, covariances: Tensor, weights: Tensor, n_features: int) -> Tensor:
        """The nearest of this type to covariances in the storage of the base."""
        if self.diagonal:
            return self.nearest(covariances.expand(len(weights), n_features), weights)
        return self.nearest(self.base.to_full(covariances, len(weights), n_features), weights)

    def scaled(self, covariances: Tensor, factor: float) -> Tensor:
        """The covariances times a number; replaced where the storage is not linear in them."""
        return covariances * factor

    def where(self, alive: Tensor, covariances: Tensor, others: Tensor) -> Tensor:
        """Covariances of the components that are ``alive (K,)``, and others for the rest.

        One that all components share is that of the living.
        """
        return covariances if self.shared else torch.where(self.each(alive), covariances, others)

    def each(self, values: Tensor) -> Tensor:
        """Numbers ``(K,)``, one a component, to broadcast against the storage."""
        return values.view(-1, *[1] * (len(self.shape(1, 1)) - 1))

    def total(self, mass: Tensor) -> Tensor:
        """The mass ``(K or 1,)`` that each covariance in the storage describes."""
        return mass.sum(0, keepdim=True) if self.shared else mass

    def start(self, mass: Tensor, scatter: Tensor, unassigned: Tensor, reg_covar: float) -> Tensor:
        """Covariances of a start: scatter about the start's own means.

        ``unassigned (d, d)`` is the scatter of samples that belong to no component (starts from
        single samples): only the tied type, which describes all samples at once, counts it; for
        others it is ``(0, d)``.
        """
        shift = mass.new_zeros(len(mass), unassigned.shape[-1])
        return self.estimate(mass, shift, scatter, reg_covar)

    def estimate_pullback(
        self,
        mass: Tensor,
        shift: Tensor,
        scatter: Tensor,
        cotangents: Tensor,
        reg_covar: float = 0.0,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Cotangents of mass, shift and scatter from those of `estimate`.

        They may have axes before their own.
        """
        with torch.enable_grad():
            inputs = [t.detach().clone().requires_grad_() for t in (mass, shift, scatter)]
            outputs = self.estimate(*inputs, reg_covar)
        of_mass, of_shift, of_scatter = _pulled_back(outputs, inputs, cotangents)
        return of_mass, of_shift, self.base.symmetric(of_scatter)

    def base_pullback(
        self, covariances: Tensor, n_components: int, n_features: int, cotangents: Tensor
    ) -> Tensor:
        """Cotangents of covariances from those of `to_base`, with axes before their own or not."""
        with torch.enable_grad():
            inputs = [covariances.detach().clone().requires_grad_()]
            outputs = self.to_base(*inputs, n_components, n_features)
        return _pulled_back(outputs, inputs, cotangents)[0]


def _pulled_back(outputs: Tensor, inputs: list[Tensor], cotangents: Tensor) -> list[Tensor]:
    """Vector-Jacobian products by autograd, for one cotangent or several."""
    axes = cotangents.ndim - outputs.ndim
    products = [
        torch.autograd.grad(outputs, inputs, row, retain_graph=True, materialize_grads=True)
        for row in cotangents.reshape(-1, *outputs.shape)
    ]
    stacked = (torch.stack(parts) for parts in zip(*products, strict=True))
    return [t.reshape(*cotangents.shape[:axes], *t.shape[1:]) for t in stacked]


class Observed(NamedTuple):
    """What Gaussians are where only some features are observed, for each of S sets of them.

    In storage, with an axis of length S before that of the components. Samples centred at a
    component have zeros where they are not observed.
    """

    factors: Tensor
    """Precision factors of the marginals; zero for features that are not observed."""
    log_det: Tensor
    """Logarithms of their determinants ``(S, K or 1)``."""
    completion: Tensor | None
    """Matrices that take centred samples, as rows, to their conditional means: the identity for
    what is observed, slopes for the others. None if all slopes are zero."""
    root: Tensor
    """Factors ``R`` of the conditional covariances ``R @ R.T`` of the others, as matrices or, if
    these are diagonal, as ``(S, K, d)``."""
    remainder: Tensor
    """These covariances in storage; zero for observed features."""


def check_positive(finite: float) -> None:
    """Raise if the number that `ElementaryType.unchecked_precision_factor` returns is not finite.

    Parameters
    ----------
    finite : float
        The number.

    Raises
    ------
    ValueError
        If a covariance is not positive definite.
    """
    if not math.isfinite(finite):
        raise ValueError(ILL_DEFINED)


class DensityType(CovarianceType):
    """A covariance type with densities and statistics in a storage of its own.

    *Precision factors* ``P`` with ``P @ P.T = Sigma^{-1}`` are tensors of its own kind, too.
    """

    #: Whether it stores variances, and all its covariances commute.
    diagonal = False

    @property
    def base(self) -> "ElementaryType":
        """Itself."""
        return self

    def to_base(self, covariances, n_components, n_features):
        return covariances

    def from_base(self, covariances, weights, n_features):
        return covariances

    def base_pullback(self, covariances, n_components, n_features, cotangents):
        return cotangents

    def at_factors(self, factors: Tensor) -> "DensityType":
        """`at`, given precision factors, for scatter alone."""
        return self

    def to_full(self, covariances: Tensor, n_components: int, n_features: int) -> Tensor:
        """The covariances as matrices ``(K, d, d)``."""
        raise NotImplementedError

    def marginal(self, covariances: Tensor, features: Tensor) -> Tensor:
        """The covariances of some features, given by their numbers ``(m,)``, in storage."""
        raise NotImplementedError

    def regression(
        self, covariances: Tensor, given: Tensor, others: Tensor
    ) -> tuple[Tensor | None, Tensor]:
        """The linear regression of features on those given, in each Gaussian.

        Slopes ``Sigma_og Sigma_gg^{-1} (K or 1, others, given)``, None if all are zero, and the
        covariances that are left, in storage. ``Sigma_gg`` must be positive definite.
        """
        raise NotImplementedError

    def observed(self, covariances: Tensor, observed: Tensor) -> Observed:
        """Marginals and regressions for S sets of observed features, a mask ``(S, d)``."""
        raise NotImplementedError

    def completed(
        self, mass: Tensor, shift: Tensor, scatter: Tensor, observed: Observed
    ) -> tuple[Tensor, Tensor]:
        """Expected first and second moments of all features, from those of the observed ones.

        All have an axis of length S in front.
        """
        raise NotImplementedError

    def precision_factor(self, covariances: Tensor) -> Tensor:
        """``P`` with ``P @ P.T = covariances^{-1}``; ValueError if they are not positive."""
        factors, finite = self.unchecked_precision_factor(covariances)
        check_positive(float(finite))
        return factors

    def unchecked_precision_factor(self, covariances: Tensor) -> tuple[Tensor, Tensor]:
        """The same with a number ``()`` in place of the error: see `check_positive`.

        The host need not wait for the device here.
        """
        raise NotImplementedError

    def divided(self, factors: Tensor, by: Tensor | float) -> Tensor:
        """The precision factors of covariances that are ``by**2`` times as large."""
        return factors / by

    def apply(self, rows: Tensor, storage: Tensor) -> Tensor:
        """Rows ``(K, b, d)`` times each component's matrix, given in storage."""
        raise NotImplementedError

    def precision_diagonals(self, factors: Tensor) -> Tensor:
        """The diagonals of ``P @ P.T``, to broadcast against ``(K, d)``."""
        raise NotImplementedError

    def log_det(self, factors: Tensor, n_features: int) -> Tensor:
        """``log det P (K or 1,)``: half the log-determinant of the precisions."""
        raise NotImplementedError

    def squared_distances(self, centred: Tensor, factors: Tensor) -> Tensor:
        """``|P_k^T (x_i - m_k)|^2 (K, b)`` of samples centred at each component ``(K, b, d)``."""
        return self.squared_norms(centred, factors)

    def squared_norms(self, centred: Tensor, storage: Tensor) -> Tensor:
        """The same for any matrices, given in storage, in place of precision factors."""
        # (sums along few features are slow, products with a vector are not)
        return self.apply(centred, storage).square() @ storage.new_ones(centred.shape[-1])

    def log_density(
        self, centred: Tensor, factors: Tensor, log_weights: Tensor | float = 0.0
    ) -> Tensor:
        """Log-densities ``(K, b)`` at samples centred at each component ``(K, b, d)``.

        ``log_weights (K,)`` are added to them.
        """
        n_features = centred.shape[-1]
        largest = log_weights + self.log_det(factors, n_features) - n_features * LOG_2PI / 2
        squared = self.squared_distances(centred, factors)
        return torch.sub(largest.unsqueeze(-1), squared, alpha=0.5)

    def whitened_arrays(
        self, centred: np.ndarray, factors: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """`apply` and `log_det` in numpy, for few samples; None leaves them to torch."""
        return None

    def variances(self, covariances: Tensor, n_components: int, n_features: int) -> Tensor:
        """The variances of the features ``(K, d)``."""
        return self.diagonals(covariances).expand(n_components, n_features)

    def diagonals(self, storage: Tensor) -> Tensor:
        """The diagonals of the matrices in storage, to broadcast against ``(K, d)``."""
        raise NotImplementedError

    def pooled(self, n_features: int) -> int:
        """Number of features that one stored number stands for."""
        return 1

    def commutes_with(self, other: "DensityType") -> bool:
        """Whether all covariances of this type are known to commute with all of another."""
        return self.diagonal and other.diagonal

    def factors(
        self, covariances: Tensor, n_components: int, n_features: int
    ) -> tuple[Tensor, Tensor] | None:
        """Factors ``F (K, d, r)`` and variances ``psi (K, d)``, ``Sigma = F @ F.T + diag(psi)``.

        None if it has no fewer numbers than matrices.
        """
        return None

    def shrunk(self, covariances: Tensor, share: Tensor) -> Tensor:
        """Covariances, each moved a share ``(K or 1,)`` of the way to the sphere of its trace."""
        raise NotImplementedError

    def chart(self, covariances: Tensor) -> "Chart":
        """Coordinates of covariances relative to these."""
        raise NotImplementedError

    def least_eigenvalues(self, covariances: Tensor) -> Tensor | None:
        """Bounds ``(K,)`` below the eigenvalues that need no factorisation; None if there are none.

        If they are negative, so is an eigenvalue.
        """
        return None

    def n_normals(self, n_features: int) -> int:
        """How many normal numbers `coloured` makes a sample of."""
        return n_features

    def variances_along(self, directions: Tensor, covariances: Tensor) -> Tensor:
        """The variances ``(L, K or 1)`` of the coordinates along directions ``(L, d)``."""
        along = self.apply(directions.unsqueeze(0), covariances)
        return (along * directions).sum(-1).mT

    def colouring(self, covariances: Tensor) -> Tensor:
        """What `coloured` makes samples with: constants, of covariances that may be singular."""
        raise NotImplementedError

    def coloured(self, normals: Tensor, colouring: Tensor) -> Tensor:
        """Rows of ``N(0, Sigma_k) (K, b, d)`` from standard normal numbers."""
        return self.apply(normals, colouring)

    def differentiable_colouring(self, covariances: Tensor) -> Tensor:
        """`colouring` as a differentiable function of covariances that are positive definite."""
        raise NotImplementedError

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


class Chart(Protocol):
    """Coordinates of covariances, in the shape of the storage, in which every tensor is one."""

    def to_free(self, covariances: Tensor) -> Tensor:
        """The coordinates of covariances."""

    def from_free(self, free: Tensor) -> Tensor:
        """The inverse of `to_free`."""

    def whitened(self, rows: Tensor) -> Tensor:
        """Rows ``(K, b, d)`` in units of the standard deviations."""


class Logarithms:
    """Matrix logarithms ``log(L^{-1} Sigma L^{-T})`` relative to covariances ``L L^T``.

    Parameters
    ----------
    covariance_type : ElementaryType
        The type.
    covariances : Tensor
        The covariances, positive definite, in storage.
    """

    def __init__(self, covariance_type: "ElementaryType", covariances: Tensor):
        self.type = covariance_type
        self.inverses = covariance_type.precision_factor(covariances)
        self.back = covariance_type.transpose(covariance_type.factor(covariances))

    def to_free(self, covariances: Tensor) -> Tensor:
        """The coordinates of covariances."""
        return self.type.logarithm(self.type.congruence(covariances, self.inverses))

    def from_free(self, free: Tensor) -> Tensor:
        """The inverse of `to_free`."""
        return self.type.congruence(self.type.exponential(free), self.back)

    def whitened(self, rows: Tensor) -> Tensor:
        """Rows ``(K, b, d)`` in units of the standard deviations."""
        return self.type.apply(rows, self.inverses)


class ElementaryType(DensityType):
    """A covariance type with an arithmetic of its own: matrices or variances as they are.

    What is called a *storage* here holds covariances, or other matrices of the same shape.
    """

    @property
    def elementary(self) -> bool:
        """Whether it has the arithmetic of `ElementaryType`."""
        return self.base is self

    def precisions(self, factors: Tensor) -> Tensor:
        """``P @ P.T``."""
        raise NotImplementedError

    def from_precisions(self, precisions: Tensor) -> Tensor:
        """Covariances from precisions."""
        raise NotImplementedError

    def not_precisions(self, precisions: Tensor) -> str:
        """What precisions in storage should be and are not; empty if they are fine."""
        raise NotImplementedError

    def chart(self, covariances: Tensor) -> Chart:
        """Coordinates of covariances relative to these."""
        return Logarithms(self, covariances)

    def colouring(self, covariances: Tensor) -> Tensor:
        """What `coloured` makes samples with: constants, of covariances that may be singular."""
        return self.transpose(self.root(covariances))

    def differentiable_colouring(self, covariances: Tensor) -> Tensor:
        """`colouring` as a differentiable function of covariances that are positive definite."""
        return self.transpose(self.factor(covariances))

    def deviations(self, covariances: Tensor) -> Tensor:
        """Standard deviations along the axes, in the order of the features or descending."""
        raise NotImplementedError

    def align(self, factors: Tensor, reference: Tensor) -> Tensor:
        """Factors ``F`` of matrices ``F @ F.T`` turned to be nearest to others; constants."""
        raise NotImplementedError

    # --- the inverse Wishart prior ---------------------------------------------------------------

    def least_degrees_of_freedom(self, n_features: int) -> float:
        """Degrees of freedom that a proper prior exceeds."""
        raise NotImplementedError

    def prior_mass(self, degrees_of_freedom: float, n_components: int, n_features: int) -> float:
        """Samples that the prior counts for, for each component: ``-2`` times its exponent of
        ``det Sigma``, where one sample has the exponent ``-1/2``."""
        raise NotImplementedError

    # --- the derivative of EM (cotangents may have axes before their own) ------------------------

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

    def packed(self, storage: Tensor) -> Tensor:
        """The symmetric parts as vectors ``(..., q)`` without repeated entries, of equal length."""
        raise NotImplementedError

    def unpacked(self, vectors: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The inverse of `packed`: symmetric matrices in storage of a shape."""
        raise NotImplementedError

    # --- free coordinates ----------------------------------------------------------------------

    def to_free(self, covariances: Tensor, scale: Tensor) -> Tensor:
        """Coordinates in which every vector is a covariance, in units of ``scale (d,)``."""
        raise NotImplementedError

    def from_free(self, free: Tensor, scale: Tensor) -> Tensor:
        """The inverse of `to_free`."""
        raise NotImplementedError

    def logarithm(self, covariances: Tensor) -> Tensor:
        """Logarithms of covariances, in storage."""
        raise NotImplementedError

    def exponential(self, logarithms: Tensor) -> Tensor:
        """The inverse of `logarithm`."""
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
