"""Covariance types that store variances: one a feature, or one for all features."""

import numpy as np
import torch

from skgmmot.gaussian.covariance.base import ElementaryType, Observed
from skgmmot.numerics.linalg import safe_sqrt


class _Axis(ElementaryType):
    """What types without correlations share: variances, ``(K, d)`` or ``(K, 1)``."""

    diagonal = True

    def to_full(self, covariances, n_components, n_features):
        return torch.diag_embed(covariances.expand(-1, n_features))

    def nearest(self, matrices, weights):
        return matrices if matrices.ndim == 2 else matrices.diagonal(dim1=-2, dim2=-1)

    def marginal(self, covariances, features):
        return covariances[:, features]

    def regression(self, covariances, given, others):
        return None, self.marginal(covariances, others)

    def observed(self, covariances, observed):
        seen = observed.unsqueeze(1).to(covariances)  # (S, 1, d)
        factors = covariances.rsqrt()
        log_det = (factors.log() * seen).sum(-1)
        others = 1 - seen
        root = covariances.sqrt() * others
        return Observed(factors * seen, log_det, None, root, covariances * others)

    def completed(self, mass, shift, scatter, observed):
        return shift, scatter + mass.unsqueeze(-1) * observed.remainder

    def unchecked_precision_factor(self, covariances):
        factors = covariances.rsqrt()
        # an infinite variance alone has a finite factor, zero
        return factors, factors.detach().sum() + 0 * covariances.detach().amax()

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

    def factors(self, covariances, n_components, n_features):
        variances = covariances.expand(n_components, n_features)
        return variances.new_zeros(n_components, n_features, 0), variances

    def least_eigenvalues(self, covariances):
        return covariances.amin(-1)

    def deviations(self, covariances):
        return safe_sqrt(covariances)

    def align(self, factors, reference):
        return factors

    def shrunk(self, covariances, share):
        share = self.each(share)
        return (1 - share) * covariances + share * covariances.mean(1, keepdim=True)

    def precision_diagonals(self, factors):
        return factors.square()

    def log_det(self, factors, n_features):
        return factors.log().expand(-1, n_features).sum(-1)

    def whitened_arrays(self, centred, factors):
        log_det = np.log(factors).sum(-1) * self.pooled(centred.shape[-1])
        return centred * factors[:, None], log_det

    def score(self, precisions, mass, scatter):
        # (squared, precisions of large variances would be zero)
        return precisions * scatter * precisions - mass.unsqueeze(-1) * precisions

    def quadratic_pullback(self, X, cotangents):
        return 2 * X * cotangents

    def estimate_pullback(self, mass, shift, scatter, cotangents, reg_covar=0.0):
        of_scatter = cotangents / mass.unsqueeze(-1)
        of_mass = -(of_scatter * scatter).sum(-1) / mass
        return of_mass, -2 / self.pooled(shift.shape[-1]) * cotangents * shift, of_scatter

    # Independent variances of inverse gamma priors: ``sigma^-2`` times the scale is chi-squared.

    def least_degrees_of_freedom(self, n_features):
        return 0.0

    def prior_mass(self, degrees_of_freedom, n_components, n_features):
        return (degrees_of_freedom + 2) / self.pooled(n_features)

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

    def packed(self, storage):
        return storage.flatten(-2)

    def unpacked(self, vectors, shape):
        return vectors.unflatten(-1, shape)

    def symmetric(self, storage):
        return storage

    def to_free(self, covariances, scale):
        return covariances.log()

    def from_free(self, free, scale):
        return free.exp()

    def logarithm(self, covariances):
        return covariances.log()

    def exponential(self, logarithms):
        return logarithms.exp()

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

    def reduced(self, n_components, n_features):
        return SPHERICAL if n_features == 1 else self

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

    def commutes_with(self, other):
        return True

    def marginal(self, covariances, features):
        return covariances

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

    def observed(self, covariances, observed):
        found = super().observed(covariances, observed)
        factors = covariances.rsqrt().expand(len(observed), *covariances.shape)
        return found._replace(
            factors=factors, remainder=found.remainder.mean(-1, keepdim=True)
        )  # what is not observed is zero in samples: factors need not be

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


DIAG, SPHERICAL = _Diag(), _Spherical()
