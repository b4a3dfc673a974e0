"""The Gram matrix of the derivatives of EM statistics in the positions of the samples.

The contribution of a sample to the statistics is ``t(x) = gamma_k(x) (1, y, y y^T)`` with
``y = x - m_k``. With ``s_k = -Lambda_k y``, the gradient of ``log g_k``, the derivative in the
coordinate e of the sample is ``gamma_k (s_k - sum_l gamma_l s_l)_e`` for ``gamma_k``, and the unit
vector for ``y``.
The Gram matrix ``sum_i a_i J_i^T J_i`` of these derivatives ``J_i (d, q)`` determines which changes
of the statistics, and of the mixture, small displacements of the samples can cause, and their
squared lengths.

As for the E-step there are two implementations: `FeatureGram` works on quadratic features, and
`SampleGram` on samples centred at each component.
"""

import functools

import torch
from torch import Tensor

from skgmmot.gaussian.covariance.base import CovarianceType
from skgmmot.gaussian.evaluators import FeatureEStep
from skgmmot.gaussian.log_density import log_joint
from skgmmot.gaussian.mixture import GaussianMixtureParams

#: Largest number of entries of a mixture for which the matrix is built: a few matrices of this size
#: are in memory at once, 2 MiB each.
MAX_GRAM_SIZE = 512


class SampleGram:
    """Gram matrices of the statistics' derivatives in the samples, summed over blocks.

    Parameters
    ----------
    theta : GaussianMixtureParams
        The mixture, relative to the origin.
    origin : Tensor of shape (d,)
        The origin.

    Notes
    -----
    Costs ``2 n d q^2`` multiplications for ``q`` statistics, as many as a mixture stores numbers.
    """

    min_rows = 16

    def __init__(self, theta: GaussianMixtureParams, origin: Tensor):
        self.theta, self.origin = theta, origin
        self.prepared = theta.prepare()
        self.covariance_type = self.prepared.covariance_type
        self.row_size = 4 * theta.means.shape[1] * sum(t.numel() for t in theta)

    def block(self, X: Tensor, sample_weight: Tensor | None, buffers) -> tuple[Tensor, Tensor]:
        """Sum ``a_i J_i^T J_i`` and ``a_i J_i^T D_i (q, q)`` over one block."""
        x = X.double() - self.origin.double()
        resp = torch.softmax(log_joint(self.prepared, x), dim=0)  # (K, b)
        y = x - self.theta.means.unsqueeze(1)  # (K, b, d)
        pull = self.covariance_type.apply(y, self.covariance_type.precisions(self.prepared.factors))
        weighted = resp.unsqueeze(-1) * pull
        slope = resp.unsqueeze(-1) * weighted.sum(0) - weighted  # of gamma: (K, b, d)
        # From here on axes are (b, e, K, ...) with the coordinate e of the derivative.
        slope, y = slope.permute(1, 2, 0).unsqueeze(-1), y.transpose(0, 1).unsqueeze(1)
        identity = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        unit = resp.mT[:, None, :, None] * identity[:, None, :]  # (b, e, K, d)
        along, y = slope * y, y.expand_as(unit)
        scatter = self.covariance_type.outer(unit, y) + self.covariance_type.outer(y, unit)
        D = self._join(torch.zeros_like(slope), unit, scatter)
        J = self._join(slope, along, self.covariance_type.outer(along, y)) + D
        if sample_weight is not None:
            root = sample_weight.double().sqrt().repeat_interleave(x.shape[1]).unsqueeze(1)
            J, D = J * root, D * root
        return J.mT @ J, J.mT @ D

    @staticmethod
    def _join(*statistics):
        """Derivatives ``(b, d, ...)`` of all statistics as rows ``(b d, q)``."""
        return torch.cat([t.flatten(2) for t in statistics], dim=2).flatten(0, 1)


class FeatureGram:
    """Gram matrices of the derivatives of feature sums, with fewer operations for few features.

    The derivatives of features are linear in them, ``d phi / d x_e = N_e phi``, so that of
    ``gamma_k phi`` is ``gamma_k (<C_k - sum_l gamma_l C_l, N_e phi> phi + N_e phi)``.

    Parameters
    ----------
    step : FeatureEStep
        The E-step at the mixture, of a covariance type that components do not share.
    """

    min_rows = 512

    def __init__(self, step: FeatureEStep):
        self.step = step
        d = step.theta.means.shape[1]
        self.slopes = _feature_slopes(step.covariance_type, d, step.coefficients.device)
        # the derivative of constants is zero, also of the infinite ones for weights of zero
        self.sloping = step.coefficients.index_fill(
            1, torch.tensor([d]).to(self.slopes.device), 0.0
        )
        self.row_size = 3 * d * step.coefficients.numel()

    def block(self, X: Tensor, sample_weight: Tensor | None, buffers) -> tuple[Tensor, Tensor]:
        """Sum ``a_i J_i^T J_i`` and ``a_i J_i^T D_i (K width, K width)`` over one block."""
        phi, resp, total, _ = self.step.posterior(X, buffers)
        resp.div_(total)
        features = self.slopes @ phi  # their derivatives, (d, width, b)
        slope = self.sloping @ features  # (d, K, b)
        slope = slope - (resp * slope).sum(1, keepdim=True)
        if sample_weight is not None:
            resp.mul_(sample_weight.double().sqrt())
        D = resp.unsqueeze(1) * features.unsqueeze(1)  # (d, K, width, b)
        J = slope.mul_(resp).unsqueeze(2) * phi + D
        J, D = J.flatten(1, 2), D.flatten(1, 2).mT
        return (J @ J.mT).sum(0), (J @ D).sum(0)


@functools.lru_cache(maxsize=64)
def _feature_slopes(covariance_type: CovarianceType, d: int, device: torch.device) -> Tensor:
    """``N (d, width, width)``, the derivatives of ``phi(x) = (x, 1, quadratic(x))``."""
    identity = torch.eye(d, dtype=torch.float64, device=device)

    def quadratic(columns):
        out = columns.new_empty(covariance_type.n_quadratic(d), columns.shape[1])
        covariance_type.quadratic(columns, out=out)
        return out

    # quadratic(x + e) - quadratic(x) - quadratic(e) is bilinear in x and e.
    sums = (identity.unsqueeze(2) + identity.unsqueeze(1)).flatten(1)
    squares = quadratic(identity)
    bilinear = quadratic(sums).view(-1, d, d) - squares.unsqueeze(2) - squares.unsqueeze(1)
    width = d + 1 + len(squares)
    slopes = identity.new_zeros(d, width, width)
    slopes[:, :d, d] = identity
    slopes[:, d + 1 :, :d] = bilinear.transpose(0, 1)
    return slopes
