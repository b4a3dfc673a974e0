r"""Rounding errors of computed Wasserstein distances between Gaussians, from their conditioning.

Arithmetic is exact for covariances ``S + dS`` near the given ones, with
:math:`|dS_{ij}| \le \epsilon (S_{ii} S_{jj})^{1/2}` from Cholesky's factors. How far these are, as
distributions, is the *radius* of a Gaussian. With eigenvalues :math:`\lambda_i` of ``S`` and
:math:`h_i = u_i^T \operatorname{diag}(S) u_i` it is

.. math::

    r^2 = \sum_i \min\Bigl(\epsilon^2 h_i \sum_j \frac{h_j}{\lambda_i + \lambda_j},\;
        \epsilon h_i\Bigr)

to first order, and by the inequality of Powers and Stormer where that is too large. By the triangle
inequality a distance is then off by the radii of both ends. What is left are the rounding of the
singular values and, where the distance is not small against the covariances, of the difference of
traces.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from skgmmot.gaussian.bures.decomposition import (
    MAX_EIGENVALUE_ERROR,
    block_length,
    is_deficient,
)
from skgmmot.gaussian.bures.gaussians import are_factored, commute
from skgmmot.gaussian.bures.plane import NEARLY_EQUAL
from skgmmot.gaussian.covariance.base import DensityType
from skgmmot.numerics.linalg import factor

#: Rounding of squared distances between means, and of sums of traces, in units of the last place.
OF_SQUARES, OF_TRACES = 2.0, 1.0
#: Error of distances by few factors in many features, relative to the traces.
OF_LOW_RANK = 1e-14


class _Side(NamedTuple):
    """Gaussians on one side, in float64 on the CPU."""

    means: Tensor
    """``m (K, d)``."""
    traces: Tensor
    """``tr S (K,)``."""
    radii: Tensor
    """Distances ``(K,)`` from the Gaussians for which arithmetic is exact."""
    factors: Tensor | None = None
    """``L (K, d, d)``, where distances are found by singular values of their products."""

    def take(self, index: Tensor) -> "_Side":
        """The Gaussians of an index."""
        return _Side(*(t if t is None else t[index] for t in self))


class CostRounding:
    """Bounds, to first order, of the rounding errors of squared distances between Gaussians.

    Parameters
    ----------
    source_means, source_covariances, target_means, target_covariances : Tensor
        As for `skgmmot.gaussian.bures.gaussians.bures_wasserstein_squared`.
    covariance_types : tuple of two DensityType
        The types of both.
    """

    def __init__(
        self,
        source_means: Tensor,
        source_covariances: Tensor,
        target_means: Tensor,
        target_covariances: Tensor,
        covariance_types: tuple[DensityType, DensityType],
    ):
        self.eps = torch.finfo(source_means.dtype).eps / 2  # of one operation
        self.in_blocks = block_length(source_means.shape[1])
        d, self.of_traces = source_means.shape[1], 0.0
        together = commute(*covariance_types)
        sides = []
        for means, covariances, of in zip(
            (source_means, target_means),
            (source_covariances, target_covariances),
            covariance_types,
            strict=True,
        ):
            means, covariances = (t.detach().to("cpu", torch.float64) for t in (means, covariances))
            sides.append((of, means, covariances, of.factors(covariances, len(means), d)))
        if not together and are_factored(*(factors for *_, factors in sides)):
            self.of_traces = OF_LOW_RANK
            found = [self._of_factors(means, *factors) for _, means, _, factors in sides]
        else:
            found = [self._of_matrices(*side[:3], together) for side in sides]
        self.source, self.target = found

    def _of_factors(self, means: Tensor, F: Tensor, psi: Tensor) -> _Side:
        traces = F.square().sum((-2, -1)) + psi.sum(-1)
        return _Side(means, traces, self.eps * traces.sqrt())

    def _of_matrices(self, of, means: Tensor, covariances: Tensor, together: bool) -> _Side:
        K, d = means.shape
        if of.diagonal:
            variances = covariances.expand(K, d)
            traces, factors = variances.sum(-1), None
            radii = self.eps * traces.sqrt()
            if not together:
                factors = torch.diag_embed(variances.sqrt())
        else:
            matrices = of.to_full(covariances, len(covariances), d)
            factors = factor(matrices)
            radii = covariance_radii(matrices, factors, self.eps).expand(K)
            traces = matrices.diagonal(dim1=-2, dim2=-1).sum(-1).expand(K)
            factors = None if together else factors.expand(K, d, d)
        return _Side(means, traces, radii, factors)

    def __call__(self, k: Tensor, l: Tensor, squared: Tensor) -> Tensor:
        """Bounds ``(n,)`` of the errors of squared distances of pairs, in float64 on the CPU."""
        parts = [t.split(self.in_blocks) for t in (k, l, squared)]
        return torch.cat([self._block(*part) for part in zip(*parts, strict=True)])

    def _block(self, k: Tensor, l: Tensor, squared: Tensor) -> Tensor:
        source, target = self.source.take(k), self.target.take(l)
        of_means = (source.means - target.means).square().sum(-1)
        of_covariances = (squared - of_means).clamp(min=0)
        radius, traces = source.radii + target.radii, source.traces + target.traces
        found = self.eps * OF_SQUARES * of_means + self.eps * squared
        found += 2 * of_covariances.sqrt() * radius + radius.square() + self.of_traces * traces
        if source.factors is None:
            return found
        products = source.factors.mT @ target.factors
        return found + _of_products(products, of_covariances, traces, self.eps)


def _of_products(products: Tensor, squared: Tensor, traces: Tensor, eps: float) -> Tensor:
    """What rounding of products of factors does to squared distances ``(b,)``."""
    s = torch.linalg.svdvals(products)
    of_norms = 2 * _of_norms(s, eps) + OF_TRACES * eps * traces
    # near distances are found from aligned factors, and the traces do not enter
    of_alignment = _of_alignment(s, max(products.shape[-2:]), eps)
    return torch.where(squared >= NEARLY_EQUAL * traces, of_norms, of_alignment)


def _of_norms(s: Tensor, eps: float) -> Tensor:
    """Rounding of the sums of singular values ``(b, d)``, as `nuclear_norms` computes them."""
    of_values = eps * s[:, 0] * s.shape[1] ** 0.5
    if s.shape[1] < 3 or eps > MAX_EIGENVALUE_ERROR:
        return of_values
    squares = eps * s[:, :1].square() / s.clamp(min=torch.finfo(s.dtype).tiny)
    exact = squares.sum(1) <= MAX_EIGENVALUE_ERROR * s.sum(1)
    return torch.where(exact, squares.square().sum(1).sqrt(), of_values)


def _of_alignment(s: Tensor, size: int, eps: float) -> Tensor:
    """What is lost where factors that are nearly equal are not turned quite onto each other.

    Rounding of their product turns a direction of the singular value ``s`` by ``eps s[0] / s``, or
    by any angle where that is not small, as where it counts as zero.
    """
    largest = s[:, :1]
    turned = s.shape[1] * (eps * largest).square() / s.clamp(min=torch.finfo(s.dtype).tiny)
    return torch.minimum(turned, 2 * (s + 2 * size * eps * largest)).sum(1)


def roots_error(source: Tensor, target: Tensor, squared: Tensor) -> float:
    """Return a bound, to first order, of the rounding error of a distance by roots.

    Parameters
    ----------
    source, target : Tensor of shapes (m, d) and (n, d)
        Roots whose entries are rounded three times, in float64.
    squared : Tensor of shape ()
        What `skgmmot.gaussian.bures.distance.bures_squared_of_roots` makes of them.

    Returns
    -------
    float
        The bound of the error of the squared distance.
    """
    source, target, squared = (t.detach() for t in (source, target, squared))
    eps = torch.finfo(source.dtype).eps / 2
    traces = source.square().sum() + target.square().sum()
    # aligning rounds near roots once more, over all rows
    n_times = 3 if squared >= NEARLY_EQUAL * traces else 3 + len(target)
    radius = n_times * eps * (source.norm() + target.norm())
    found = eps * squared + 2 * squared.sqrt() * radius + radius.square()
    if not len(source) or not len(target):
        return float(found)
    product = (source @ target.mT).unsqueeze(0)
    return float(found + _of_products(product, squared, traces, eps))


def covariance_radii(matrices: Tensor, factors: Tensor, eps: float) -> Tensor:
    """Return bounds of the Bures distances from covariances to those that their factors are of.

    Parameters
    ----------
    matrices : Tensor of shape (K, d, d)
        Covariances.
    factors : Tensor of shape (K, d, d)
        What `skgmmot.numerics.linalg.factor` makes of them.
    eps : float
        Relative precision of the arithmetic.

    Returns
    -------
    Tensor of shape (K,)
        The bounds, to first order where that is smaller than what any change of the size of
        rounding may do; for covariances of deficient rank with what counts as zero.
    """
    values, vectors = torch.linalg.eigh(matrices)
    variances = matrices.diagonal(dim1=-2, dim2=-1)
    unit = variances.sum(-1, keepdim=True)  # so that nothing underflows
    unit = torch.where(unit > 0, unit, 1.0)
    values, variances = values / unit, variances / unit
    h = (vectors.square() * variances.unsqueeze(-1)).sum(-2)
    positive = values.clamp(min=eps * eps)
    together = positive.unsqueeze(-1) + positive.unsqueeze(-2)  # (K, d, d)
    first_order = eps * eps * h * (h.unsqueeze(-2) / together).sum(-1)
    # the factors themselves are rounded, too
    squares = torch.minimum(first_order, eps * h) + eps * eps * h
    rounding = 4 * matrices.shape[-1] * eps
    dropped = torch.where(values <= rounding * values[:, -1:], values.abs(), 0.0)
    dropped = torch.where(is_deficient(factors).unsqueeze(-1), dropped, 0.0)
    return (unit.squeeze(-1) * (squares + dropped).sum(-1)).sqrt()
