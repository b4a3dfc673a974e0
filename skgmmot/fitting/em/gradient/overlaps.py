"""The derivative of the E-step as a matrix, by the moments of the samples that components share.

The sums of a pass with the coefficients ``H`` of ``h`` are ``sum_i r_ik phi_i`` with ``r_ik = a_i
gamma_ik (h_ik - sum_l gamma_il h_il)``. As ``gamma_i`` sum to one, that is a Laplacian of the graph
of overlapping components:

    sum_l M_kl (H_k - H_l),   M_kl = sum_i a_i gamma_ik gamma_il phi_i phi_i^T.

The entries of ``phi phi^T`` are moments up to the fourth, most of which are equal to others: in d
features there are ``(d + 4 choose 4)`` for full covariances, where ``phi phi^T`` has ``O(d^4 / 4)``
entries. One pass that finds them gives all products.
"""

import functools

import torch
from torch import Tensor

from skgmmot.gaussian.choice import cancellation
from skgmmot.gaussian.covariance.base import CovarianceType
from skgmmot.gaussian.evaluators import FeatureEStep

#: The matrix loses twice the digits that features lose: in float64 no more than ten.
MOST_CANCELLATION = 1e3
#: More features, d = 21 for full covariances, have too many products.
MOST_FEATURES = 256
#: Products of a Krylov space, roughly, and multiplications in the time of calling one product.
MANY, CALL = 20, 1e7
#: An exponential and the elementwise work of one responsibility, in multiplications of a product of
#: matrices.
RESPONSIBILITY = 40


def is_small(step: FeatureEStep, n_numbers: int, n_samples: float) -> bool:
    """Whether the derivative is best computed as a matrix, rather than by products with vectors.

    Parameters
    ----------
    step : FeatureEStep
        The E-step at the current mixture.
    n_numbers : int
        Number of coordinates of a mixture, the rows of the matrix.
    n_samples : float
        Number of samples.

    Returns
    -------
    bool
        True where the matrix costs less than the products of a Krylov space.
    """
    K, width = step.coefficients.shape
    if width > MOST_FEATURES:
        return False
    n_products = len(_distinct_products(step.covariance_type, step.theta.means.shape[1])[0])
    e_step = RESPONSIBILITY * K + K * width
    pass_ = e_step + n_products + (K * (K - 1) // 2) * (n_products + 1)
    matrix = n_samples * pass_ + n_numbers * (n_numbers + K * width) ** 2
    product = n_samples * (e_step + 2 * K * width) + CALL
    return matrix <= MANY * product


def has_matrix(step: FeatureEStep) -> bool:
    """Whether the matrix can be computed, and accurately.

    Parameters
    ----------
    step : FeatureEStep
        The E-step at the current mixture.

    Returns
    -------
    bool
        True if there are few features, and components are not too far from the origin for their
        size.
    """
    few = step.coefficients.shape[1] <= MOST_FEATURES
    return few and float(cancellation(step.theta)) <= MOST_CANCELLATION


class Overlaps:
    """The moments of the samples that each two components share, and the products they give.

    Noise is one more component, whose ``h`` is zero.

    Parameters
    ----------
    step : FeatureEStep
        The E-step at the current mixture.
    """

    min_rows = 256

    def __init__(self, step: FeatureEStep):
        self.step, device = step, step.coefficients.device
        K, width = step.coefficients.shape
        distinct = _distinct_products(step.covariance_type, step.theta.means.shape[1])
        self.left, self.right, self.entries = (t.to(device) for t in distinct)
        self.n_components = K if step.noise is None else K + 1
        self.pairs = torch.triu_indices(self.n_components, self.n_components, 1, device=device)
        self.row_size = 2 * len(self.left) + self.pairs.shape[1] + K + width

    def block(self, X: Tensor, sample_weight: Tensor | None, buffers) -> tuple[Tensor]:
        """Sum ``gamma_k gamma_l`` times distinct products of features, ``(pairs, products)``."""
        phi, resp, total, top = self.step.posterior(X, buffers)
        if self.step.noise is not None:
            resp = torch.cat([resp, (self.step.noise - top).exp_().unsqueeze(0)])
        resp.div_(total)
        shape = len(self.left), phi.shape[1]
        products, right = (buffers(name, shape, torch.float64) for name in ("products", "right"))
        torch.index_select(phi, 0, self.left, out=products)
        products.mul_(torch.index_select(phi, 0, self.right, out=right))
        shared = resp[self.pairs[0]].mul_(resp[self.pairs[1]])
        if sample_weight is not None:
            shared.mul_(sample_weight)
        return (shared @ products.mT,)

    def product(self, H: Tensor, sums: Tensor) -> Tensor:
        """The sums ``(..., K, width)`` for coefficients ``H``, given the sums of all blocks."""
        *_, K, width = H.shape
        (k, l), moments = self.pairs, sums[:, self.entries]  # (pairs, width, width)
        laplacian = sums.new_zeros(self.n_components, self.n_components, width, width)
        laplacian[k, l] = laplacian[l, k] = -moments
        laplacian.diagonal().copy_(-laplacian.sum(1).movedim(0, -1))
        matrix = laplacian[:K, :K].transpose(1, 2).reshape(K * width, K * width)
        return (H.flatten(-2) @ matrix).view_as(H)


@functools.lru_cache(maxsize=64)
@torch.inference_mode(False)
def _distinct_products(covariance_type: CovarianceType, d: int) -> tuple[Tensor, Tensor, Tensor]:
    """Which products of two features to compute, and where each of all products is among them.

    Features are compared as numbers, at random integers: products of four of them are exact.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(2, 2**13, (d, 4), generator=generator).double()
    phi = x.new_empty(d + 1 + covariance_type.n_quadratic(d), 4)
    phi[:d], phi[d] = x, 1
    covariance_type.quadratic(x, out=phi[d + 1 :])
    i, j = torch.triu_indices(len(phi), len(phi))
    _, which = torch.unique(phi[i] * phi[j], dim=0, return_inverse=True)
    order = torch.arange(len(which) - 1, -1, -1)
    first = torch.empty(int(which.max()) + 1, dtype=torch.long)
    first[which[order]] = order  # of equal ones the first is written last
    entries = torch.empty(len(phi), len(phi), dtype=torch.long)
    entries[i, j] = entries[j, i] = which
    return i[first], j[first], entries
