r"""Samples that each have a pattern of their own, by the precisions of all features.

With the precision matrix :math:`\Lambda = \Sigma^{-1}` of a component, samples *y* centred at its
mean, with zeros for the missing features *m*, and :math:`z = \Lambda y`, the E-step needs of the
observed features *o*

.. math::

    y_o^T \Sigma_{oo}^{-1} y_o = y^T z - z_m^T \Lambda_{mm}^{-1} z_m, \qquad
    \det \Sigma_{oo} = \det \Sigma \det \Lambda_{mm},

    \operatorname{E}[y_m \mid y_o] = -\Lambda_{mm}^{-1} z_m, \qquad
    \operatorname{Cov}[y_m \mid y_o] = \Lambda_{mm}^{-1}.

So a sample needs no matrix of all its features, but one of those that it lacks. The price is the
difference in the first formula, which loses digits where features are nearly determined by others.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from skgmmot.gaussian.covariance.base import LOG_2PI, ElementaryType
from skgmmot.gaussian.mixture import PreparedMixture
from skgmmot.numerics.exponentials import exponentials, log_sum_exp

#: Largest rounding error of a log-density that is accepted.
MAX_ROUNDING_ERROR = 1e-12
#: Numbers that are held at once, for each thread (16 MiB).
HELD = 2**21


class Completion(NamedTuple):
    """Samples of a block, completed by each component."""

    joint: Tensor
    """``log w_k g_k(x_io) (K, b)``, of what is observed."""
    centred: Tensor
    """Samples about each mean, with conditional means where entries are missing ``(K, b, d)``."""
    factors: Tensor
    """Factors ``L L^T`` of the precisions of missing entries ``(K or 1, b, m, m)``."""
    lacking: Tensor
    """Which features these are ``(b, m)``, and others in samples that lack fewer than m."""
    both: Tensor
    """Which pairs of these are missing ``(b, m, m)``."""

    def covariances(self) -> Tensor:
        """Conditional covariances of missing entries ``(K or 1, b, m, m)``, zero for others."""
        return torch.where(self.both, torch.cholesky_inverse(self.factors), 0.0)


class ByPrecisions:
    """Full or tied covariances where samples have many patterns.

    Parameters
    ----------
    theta : PreparedMixture
        K components in d dimensions, in float64, about the origin.
    covariances : Tensor
        Their covariances in storage.
    origin : Tensor of shape (d,) or None
        The origin; None is zero.

    Notes
    -----
    Differentiable. Costs ``O(n K (d^2 + m^3))`` with the largest number m of missing entries.
    """

    def __init__(self, theta: PreparedMixture, covariances: Tensor, origin: Tensor | None):
        self.theta, self.origin = theta, origin
        self.covariance_type: ElementaryType = theta.covariance_type
        self.precisions = self.covariance_type.precisions(theta.factors)
        d = theta.means.shape[1]
        self.constant = theta.log_weights + self.covariance_type.log_det(theta.factors, d)
        # zeros for missing entries cost about the sum of Lambda_ii Sigma_ii, which cancels
        matrices = self.precisions.detach(), covariances.detach()
        precisions, variances = (t.diagonal(dim1=-2, dim2=-1) for t in matrices)
        size = float((precisions * variances).sum(-1).max())
        self.is_accurate = size * torch.finfo(torch.float64).eps < MAX_ROUNDING_ERROR

    def parts(self, missing: Tensor) -> list[slice]:
        """Cut a block into parts that can be held at once; which entries are missing is given."""
        K, d = self.theta.means.shape
        most = int(missing.sum(1).max())
        length = max(1, HELD // (K * (4 * d + 3 * most**2)))
        return [slice(i, i + length) for i in range(0, len(missing), length)]

    def complete(self, X: Tensor, missing: Tensor) -> Completion:
        """Complete samples ``(b, d)`` of which entries are missing."""
        theta, d = self.theta, X.shape[1]
        counts = missing.sum(1)
        most = int(counts.max())
        lacking = (~missing).to(torch.uint8).argsort(dim=1, stable=True)[:, :most]
        lacks = torch.arange(most, device=X.device) < counts.unsqueeze(1)  # (b, m)
        x = torch.where(missing, 0.0, X).double()
        if self.origin is not None:
            x = x - self.origin.double()
        y = torch.where(missing, 0.0, x - theta.means.unsqueeze(1))  # (K, b, d)
        z = y @ self.precisions
        both = lacks.unsqueeze(2) & lacks.unsqueeze(1)
        inner = self.precisions[:, lacking.unsqueeze(2), lacking.unsqueeze(1)]
        identity = torch.eye(most, dtype=inner.dtype, device=inner.device)
        factors = torch.linalg.cholesky(torch.where(both, inner, identity))
        at = lacking.expand(len(y), -1, -1)
        right = torch.where(lacks, z.gather(2, at), 0.0).unsqueeze(-1)
        half = torch.linalg.solve_triangular(factors, right, upper=False)
        filled = torch.linalg.solve_triangular(factors.mT, half, upper=True).squeeze(-1)
        log_det = factors.diagonal(dim1=-2, dim2=-1).log().sum(-1)  # half of that of Lambda_mm
        squares = (y * z).sum(-1) - half.square().sum((-2, -1))
        squares = torch.where(squares.isnan(), torch.inf, squares)  # where both overflow
        constant = self.constant.unsqueeze(1) - (d - counts).to(z) * (LOG_2PI / 2)
        return Completion(
            constant - log_det - squares / 2,
            y.scatter_add(2, at, -filled),
            factors,
            lacking,
            both,
        )

    def log_joint(self, X: Tensor) -> Tensor:
        """``log w_k g_k(x_i) (K, b)``, of what is observed of the samples."""
        missing = torch.isnan(X)
        parts = [self.complete(X[rows], missing[rows]).joint for rows in self.parts(missing)]
        return torch.cat(parts, dim=1)

    def means_and_joint(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """Conditional means ``(K, b, d)`` of each component, and ``log w_k g_k(x_i) (K, b)``."""
        found = self.complete(X, torch.isnan(X))
        return self.theta.means.unsqueeze(1) + found.centred, found.joint

    def sums(self, X: Tensor, sample_weight: Tensor | None) -> tuple[Tensor, ...]:
        """Mass, shift, scatter and log-likelihood of samples, of which NaN are missing.

        Samples of which nothing is observed say nothing, and do not count.
        """
        missing = torch.isnan(X)
        found = self.complete(X, missing)
        log_p = log_sum_exp(found.joint, 0)
        counts = ~missing.all(1)
        resp, log_p = exponentials(found.joint - log_p) * counts, log_p * counts
        if sample_weight is not None:
            resp, log_p = resp * sample_weight, log_p * sample_weight
        return *self._moments(found, resp), log_p.sum()

    def _moments(self, found: Completion, resp: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mass, shift and scatter of samples for their responsibilities ``(K, b)``."""
        shift = (resp.unsqueeze(1) @ found.centred).squeeze(1)
        scatter = self.covariance_type.scatter(found.centred, resp)
        shares = resp.sum(0, keepdim=True) if self.covariance_type.shared else resp
        spread = found.covariances() * shares[..., None, None]
        d = found.centred.shape[2]
        places = (found.lacking.unsqueeze(2) * d + found.lacking.unsqueeze(1)).flatten()
        scatter = scatter.flatten(-2).index_add(1, places, spread.flatten(1)).unflatten(1, (d, d))
        return resp.sum(1), shift, scatter
