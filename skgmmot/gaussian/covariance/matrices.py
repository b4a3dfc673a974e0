"""Covariance types that store matrices: one a component, or one for all."""

import functools
import math

import numpy as np
import torch
from torch import Tensor

from skgmmot.gaussian.covariance.base import ILL_DEFINED, ElementaryType, Observed
from skgmmot.numerics.linalg import (
    factor,
    product,
    schur_complement,
    shrunk,
    standard_deviations,
    symmetrize,
)

#: Products with triangles are taken in so many strips, three eighths less work, from so many
#: features on; from there on the scatter about components that share a matrix is one product.
N_STRIPS, MIN_STRIPPED_FEATURES = 4, 64


def _inverse_transpose(factors: Tensor) -> Tensor:
    """``L^{-T}`` of triangular matrices."""
    identity = torch.eye(factors.shape[-1], dtype=factors.dtype, device=factors.device)
    return torch.linalg.solve_triangular(factors, identity, upper=False).mT


@functools.lru_cache(maxsize=64)
def _strips(d: int) -> list[slice]:
    """Columns of a triangular matrix, in a few strips: products skip most of what is zero."""
    width = -(-d // N_STRIPS) if d >= MIN_STRIPPED_FEATURES else d
    return [slice(start, min(start + width, d)) for start in range(0, d, width)]


class _Matrix(ElementaryType):
    """What types with ``d x d`` matrices share."""

    def to_full(self, covariances, n_components, n_features):
        if len(covariances) == n_components:
            return covariances
        return covariances.expand(n_components, -1, -1)

    def nearest(self, matrices, weights):
        return torch.diag_embed(matrices) if matrices.ndim == 2 else matrices

    def marginal(self, covariances, features):
        return covariances[..., features.unsqueeze(-1), features]

    def regression(self, covariances, given, others):
        n, joint = len(given), self.marginal(covariances, torch.cat([given, others]))
        factors, failed = torch.linalg.cholesky_ex(joint)
        if failed.any():
            factors = torch.linalg.cholesky(joint[..., :n, :n])
            half = torch.linalg.solve_triangular(factors, joint[..., :n, n:], upper=False).mT
            left = schur_complement(joint[..., n:, n:], half)
        else:  # a product, so that what is left of a positive definite matrix is, too
            half, rest = factors[..., n:, :n], factors[..., n:, n:]
            left = product(rest, rest.mT)
        first = factors[..., :n, :n]
        return torch.linalg.solve_triangular(first, half, upper=False, left=False), left

    def observed(self, covariances, observed):
        # with the observed features first, one factor has it all: L L^T = [[S_oo, .], [S_mo, S_mm]]
        order = (~observed).to(torch.uint8).argsort(dim=1, stable=True)  # (S, d)
        first = observed.gather(1, order)[:, None, :, None]
        i, j = order[:, None, :, None], order[:, None, None, :]
        components = torch.arange(len(covariances), device=covariances.device)[:, None, None]
        factors, failed = torch.linalg.cholesky_ex(covariances[components, i, j])  # (S, K, d, d)
        if failed.any():
            raise ValueError(ILL_DEFINED)
        identity = torch.eye(observed.shape[1], dtype=factors.dtype, device=factors.device)
        back = order.argsort(dim=1)[:, None, :, None]
        half = _inverse_transpose(torch.where(first, factors, identity))
        half = torch.where(first, half, 0.0)  # S_oo^{-1} = half half^T
        others = torch.where(first, 0.0, factors)
        slopes = others @ half.mT + torch.where(first, identity, 0.0)
        rest = torch.where(first.mT, 0.0, others)  # S_mm - S_mo S_oo^{-1} S_om = rest rest^T
        half, slopes, rest = (
            t.gather(-2, back.expand_as(t)) for t in (half, slopes, rest)
        )  # columns of the first and the last are those of any factor
        slopes = slopes.gather(-1, back.mT.expand_as(slopes))
        log_det = torch.where(first.squeeze(-1), self.diagonals(factors), 1.0).log().sum(-1)
        return Observed(half, -log_det, slopes.mT, rest, rest @ rest.mT)

    def completed(self, mass, shift, scatter, observed):
        if self.shared:
            mass = mass.sum(-1, keepdim=True)
        spread = mass[..., None, None] * observed.remainder
        shift = (shift.unsqueeze(-2) @ observed.completion).squeeze(-2)
        return shift, self.congruence(scatter, observed.completion) + spread

    # What is not finite anywhere in a matrix is not finite in the pivots after it; entries of a
    # factor are no larger than standard deviations, so that their sum does not overflow.

    def precision_factor(self, covariances):
        factors, failed = torch.linalg.cholesky_ex(covariances)
        if bool(failed.any()) or not math.isfinite(float(factors.detach().sum())):
            raise ValueError(ILL_DEFINED)  # on a CPU, two looks are faster than one sum
        return _inverse_transpose(factors)

    def unchecked_precision_factor(self, covariances):
        factors, failed = torch.linalg.cholesky_ex(covariances)
        finite = factors.detach().sum() / (failed == 0).all()
        return _inverse_transpose(factors), finite

    def precisions(self, factors):
        return product(factors, factors.mT)

    def from_precisions(self, precisions):
        factors, failed = torch.linalg.cholesky_ex(precisions)
        if bool(failed.any()):
            raise ValueError(ILL_DEFINED)
        return torch.cholesky_inverse(factors)

    def not_precisions(self, precisions):
        symmetric = torch.allclose(precisions, precisions.mT)
        positive = symmetric and (torch.linalg.eigvalsh(precisions) > 0).all()
        return "" if positive else "symmetric, positive-definite"

    def apply(self, rows, storage):
        return rows @ storage

    def squared_norms(self, centred, storage):
        # (K, d, b): sums over few features are fast across rows, not along them
        return product(storage.mT, centred.mT).square().sum(-2)

    def squared_distances(self, centred, factors):
        # the factors are upper triangular: of their rows, a strip of columns has the first ones
        parts = [
            self.squared_norms(centred[..., : strip.stop], factors[:, : strip.stop, strip])
            for strip in _strips(centred.shape[-1])
        ]
        return functools.reduce(torch.add, parts)

    def diagonals(self, storage):
        return storage.diagonal(dim1=-2, dim2=-1)

    def deviations(self, covariances):
        return standard_deviations(covariances)

    def align(self, factors, reference):
        left, _, right = torch.linalg.svd(factors.mT @ reference)
        return factors @ (left @ right)

    def shrunk(self, covariances, share):
        return shrunk(covariances, share)

    def precision_diagonals(self, factors):
        return factors.square().sum(-1)

    def log_det(self, factors, n_features):
        return self.diagonals(factors).log().sum(-1)

    def whitened_arrays(self, centred, factors):
        return centred @ factors, np.log(factors.diagonal(0, -2, -1)).sum(-1)

    def scatter(self, centred, resp):
        weighted, strips = (centred * resp.unsqueeze(-1)).mT, _strips(centred.shape[-1])
        if len(strips) == 1 or torch.is_grad_enabled():
            return product(weighted, centred)
        moments = weighted.new_empty(*weighted.shape[:-1], weighted.shape[-2])
        for strip in strips:  # of the lower triangle
            rows = product(weighted[:, strip], centred[..., : strip.stop])
            moments[:, strip, : strip.stop] = rows
            moments[:, : strip.start, strip] = rows[..., : strip.start].mT
        return moments

    def outer(self, left, right):
        return left.unsqueeze(-1) * right.unsqueeze(-2)

    def score(self, precisions, mass, scatter):
        if self.shared:
            mass = mass.sum(-1, keepdim=True)
        return precisions @ scatter @ precisions - mass[..., None, None] * precisions

    def least_degrees_of_freedom(self, n_features):
        return n_features - 1.0

    def prior_mass(self, degrees_of_freedom, n_components, n_features):
        # one prior for a covariance that all components share
        return (degrees_of_freedom + n_features + 1) / (n_components if self.shared else 1)

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

    def packed(self, storage):
        i, j, times = _upper_triangle(storage.shape[-1], storage.device)
        halves = storage[..., i, j] + storage[..., j, i]
        return (halves * (times.to(storage).sqrt() / 2)).flatten(-2)

    def unpacked(self, vectors, shape):
        i, j, times = _upper_triangle(shape[-1], vectors.device)
        entries = vectors.unflatten(-1, (shape[0], -1)) / times.to(vectors).sqrt()
        return _symmetric(entries, i, j, shape[-1])

    # Free coordinates: Cholesky's factor with the logarithm of its diagonal.

    def to_free(self, covariances, scale):
        factors = torch.linalg.cholesky_ex(covariances).L / scale.unsqueeze(-1)
        return factors.tril(-1) + torch.diag_embed(factors.diagonal(dim1=-2, dim2=-1).log())

    def from_free(self, free, scale):
        factors = free.tril(-1) + torch.diag_embed(free.diagonal(dim1=-2, dim2=-1).exp())
        factors = factors * scale.unsqueeze(-1)
        return factors @ factors.mT

    def logarithm(self, covariances):
        finite = torch.isfinite(covariances).all(-1).all(-1)[:, None, None]
        values, vectors = torch.linalg.eigh(torch.where(finite, covariances, 1.0))
        logs = values.clamp(min=torch.finfo(values.dtype).tiny).log()  # rounding may go below zero
        return torch.where(finite, vectors * logs.unsqueeze(-2) @ vectors.mT, torch.nan)

    def exponential(self, logarithms):
        values, vectors = torch.linalg.eigh(logarithms)
        return symmetrize(vectors * values.exp().unsqueeze(-2) @ vectors.mT)

    def root(self, covariances):
        return factor(covariances)

    def from_root(self, roots, reg_covar):
        return self._regularised(roots @ roots.mT, reg_covar)

    @staticmethod
    def _regularised(covariances, reg_covar):
        """Add ``reg_covar`` to the diagonal and restore symmetry."""
        covariances = symmetrize(covariances)
        covariances.diagonal(dim1=-2, dim2=-1).add_(reg_covar)  # a large matrix is not copied
        return covariances


@functools.lru_cache(maxsize=64)
@torch.inference_mode(False)  # kept, perhaps for a graph
def _upper_triangle(d: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Rows and columns of the upper triangle, and how often each entry stands in the matrix."""
    i, j = torch.triu_indices(d, d, device=device)
    return i, j, 2 - (i == j).int()


def _symmetric(entries: Tensor, i: Tensor, j: Tensor, d: int) -> Tensor:
    """Symmetric matrices ``(..., d, d)`` from the entries of their upper triangles."""
    matrices = entries.new_empty(*entries.shape[:-1], d, d)
    matrices[..., i, j] = entries
    matrices[..., j, i] = entries
    return matrices


class _Full(_Matrix):
    """Each component its own matrix, ``(K, d, d)``."""

    name = "full"

    def reduced(self, n_components, n_features):
        return TIED if n_components == 1 else self

    def holds(self, other):
        return True

    def shape(self, n_components, n_features):
        return (n_components, n_features, n_features)

    def n_parameters(self, n_components, n_features):
        return n_components * n_features * (n_features + 1) // 2

    def estimate(self, mass, shift, scatter, reg_covar):
        covariances = scatter / mass[:, None, None]
        covariances.baddbmm_(shift.unsqueeze(2), shift.unsqueeze(1), alpha=-1)
        return self._regularised(covariances, reg_covar)

    def estimate_pullback(self, mass, shift, scatter, cotangents, reg_covar=0.0):
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
        return _symmetric(sums, i, j, n_features)


class _Tied(_Matrix):
    """One matrix for all components, ``(1, d, d)``."""

    name = "tied"
    shared = True

    @property
    def unshared(self):
        return FULL

    def public_name(self, n_components):
        return FULL.name if n_components == 1 else self.name

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
        *_, K, n, d = centred.shape
        few = centred.ndim == 3 and d >= MIN_STRIPPED_FEATURES and 1 < K**2 <= 2 * n
        if few and not torch.is_grad_enabled():
            return self._pooled_scatter(centred, resp)
        return super().scatter(centred, resp).sum(-3, keepdim=True)

    def _pooled_scatter(self, centred, resp):
        r"""The same by one product over samples instead of one a component.

        With the shares :math:`p_k` of the components in a sample, and
        :math:`\bar c = \sum_k p_k c_k`,

        .. math::

            \sum_k p_k c_k c_k^T = \bar c \bar c^T
                + \sum_{k < l} p_k p_l (c_k - c_l)(c_k - c_l)^T,

        where :math:`c_k - c_l` is the same for all samples.
        """
        total = resp.sum(0)
        shares = resp / torch.where(total == 0, 1.0, total)
        mean = (shares.unsqueeze(-1) * centred).sum(0, keepdim=True)
        within = super().scatter(mean, total.unsqueeze(0))
        k, l = torch.triu_indices(len(resp), len(resp), 1, device=resp.device)
        near = resp.argmax(1)[k]  # far from both, differences of what is centred would be rounded
        apart = centred[k, near] - centred[l, near]
        overlaps = (resp @ shares.mT)[k, l]
        return within + (apart.mT * overlaps) @ apart

    def outer(self, left, right):
        return (left.mT @ right).unsqueeze(-3)

    def estimate(self, mass, shift, scatter, reg_covar):
        within = scatter - self.outer(mass.unsqueeze(-1) * shift, shift)
        return self._regularised(within / mass.sum(), reg_covar)

    def estimate_pullback(self, mass, shift, scatter, cotangents, reg_covar=0.0):
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


FULL, TIED = _Full(), _Tied()
