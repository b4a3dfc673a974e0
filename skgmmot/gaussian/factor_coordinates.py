"""Coordinates of changes of a mixture of factor analysers."""

import torch
from torch import Tensor

from skgmmot.gaussian.coordinates import FisherCoordinates, retracted_weights
from skgmmot.gaussian.mixture import EMPTY, GaussianMixtureParams


class FactorCoordinates:
    r"""Coordinates in which the derivative of an EM iteration is symmetric at a fixed point.

    The squared length of a change is

    .. math::

        \sum_k \frac{dw_k^2}{w_k} + w_k\, dm_k^T \Sigma_k^{-1} dm_k
            + w_k \langle V_k, P_k^{-1} V_k \rangle
            + \frac{w_k}{2} \Bigl|\frac{d\psi_k}{\psi_k}\Bigr|^2,
        \qquad V_k = \operatorname{diag}(\psi_k)^{-1/2} dF_k,

    which is the Fisher information of samples whose factors are known, but for ``P``: a step of
    plain EM ``V``, with ``W = diag(psi)^{-1/2} F``, is ``P V = V + W W^T V / 2`` if the factors'
    covariance is free. Changes ``dF = F A`` with ``A`` antisymmetric, which are rotations of the
    factors, are left out: all coordinates are orthogonal to them.

    Parameters
    ----------
    mixture : GaussianMixtureParams
        The mixture at which changes are measured, of type 'lowrank'.
    share : Tensor of shape (K,) or tuple of three
        The components' shares of the samples, or those that weights, means and covariances are
        determined by.
    """

    def __init__(self, mixture: GaussianMixtureParams, share: Tensor | tuple[Tensor, ...]):
        self.mixture = mixture
        if mixture.noise is not None and isinstance(share, Tensor):
            share = share, share[:-1], share[:-1]
        shares = (share,) if isinstance(share, Tensor) else share
        shares = [torch.where(each > EMPTY, each, 1.0).sqrt() for each in shares]
        self.weight_root = shares[0]
        self.root = shares[len(shares) // 2].unsqueeze(-1)  # (K, 1)
        self.spread = shares[-1][:, None, None]
        self.psi = mixture.covariances[..., -1]
        self.deviations = self.psi.sqrt()
        self.W = mixture.covariances[..., :-1] / self.deviations.unsqueeze(-1)
        values, self.axes = torch.linalg.eigh(self.W.mT @ self.W)
        values = values.clamp(min=0)
        sums = values.unsqueeze(-1) + values.unsqueeze(-2)
        tiny = torch.finfo(values.dtype).eps * values[..., -1:].unsqueeze(-1)
        self.inverse_sums = torch.where(sums > tiny, 1 / sums, 0.0)
        known = values > tiny.squeeze(-1)
        lengths = torch.where(known, values.rsqrt(), 0.0)
        self.directions = (self.W @ self.axes) * lengths.unsqueeze(-2)  # orthonormal, or zero
        shares = values.unsqueeze(-1) * values.unsqueeze(-2) * self.inverse_sums
        self.expansion = (1 + shares).sqrt()  # P^{1/2} on pairs of directions
        self.narrowing = (1 + values).rsqrt() - 1
        self.widening = (1 + values).sqrt() - 1

    def of_change(self, change: GaussianMixtureParams) -> Tensor:
        """The coordinates of a change of the parameters."""
        means = self._stretched(change.means / self.deviations, self.narrowing)
        F, psi = change.covariances[..., :-1], change.covariances[..., -1]
        return self._join(
            change.weights / self.weight_root,
            means * self.root,
            self._across(F / self.deviations.unsqueeze(-1), 1 / self.expansion),
            psi / self.psi / 2**0.5,
            self.spread,
        )

    def of_cotangent(self, u: GaussianMixtureParams) -> Tensor:
        """Coordinates ``(..., m)`` of cotangents, which keep their products with changes."""
        means = self._stretched(u.means * self.deviations, self.widening)
        F, psi = u.covariances[..., :-1], u.covariances[..., -1]
        return self._join(
            u.weights * self.weight_root,
            means / self.root,
            self._across(F * self.deviations.unsqueeze(-1), self.expansion),
            psi * self.psi * 2**0.5,
            1 / self.spread,
        )

    def cotangent(self, vector: Tensor) -> GaussianMixtureParams:
        """The cotangent of dual coordinates, the inverse of `of_cotangent`."""
        weights, means, covariances = self._cut(vector)
        F, psi = covariances[..., :-1] * self.spread, covariances[..., -1:] * self.spread
        F = self._across(F, 1 / self.expansion) / self.deviations.unsqueeze(-1)
        psi = psi / self.psi.unsqueeze(-1) / 2**0.5
        return GaussianMixtureParams(
            weights / self.weight_root,
            self._stretched(means * self.root, self.narrowing) / self.deviations,
            torch.cat([F, psi], dim=-1),
            self.mixture.covariance_type,
        )

    def retracted(self, vector: Tensor) -> GaussianMixtureParams:
        """The mixture after a change, correct to first order; a valid mixture for any vector."""
        weights, means, covariances = self._cut(vector)
        w, m, storage = self.mixture
        covariances = covariances / self.spread
        V = self._across(covariances[..., :-1], self.expansion)
        F = storage[..., :-1] + V * self.deviations.unsqueeze(-1)
        psi = storage[..., -1:] * (covariances[..., -1:] * 2**0.5).exp()
        means = m + self._stretched(means / self.root, self.widening) * self.deviations
        return self.mixture._replace(
            weights=retracted_weights(w, weights * self.weight_root),
            means=means,
            covariances=torch.cat([F, psi], dim=-1),
        )

    def _stretched(self, rows, by):
        """Rows ``(..., K, d)`` stretched along the factors' directions."""
        along = (rows.unsqueeze(-2) @ self.directions) * by.unsqueeze(-2)
        return rows + (along @ self.directions.mT).squeeze(-2)

    def _across(self, V, by):
        """Changes of ``diag(psi)^{-1/2} F`` without the rotations, times a power of ``P``."""
        turn = self.axes.mT @ (self.W.mT @ V - V.mT @ self.W) @ self.axes
        V = V - self.W @ (self.axes @ (turn * self.inverse_sums) @ self.axes.mT)
        inner = self.directions.mT @ V @ self.axes
        return V + self.directions @ ((by - 1) * inner) @ self.axes.mT

    def _join(self, weights, means, F, psi, spread):
        covariances = torch.cat([F, psi.unsqueeze(-1)], dim=-1) * spread
        parts = zip((weights, means, covariances), self.mixture, strict=True)
        return torch.cat([p.flatten(p.ndim - t.ndim) for p, t in parts], dim=-1)

    def _cut(self, vector):
        parts = vector.split([t.numel() for t in self.mixture], dim=-1)
        pairs = zip(parts, self.mixture, strict=True)
        return [p.reshape(*p.shape[:-1], *t.shape) for p, t in pairs]


def fisher_coordinates(mixture: GaussianMixtureParams, share: Tensor | tuple[Tensor, ...]):
    """Return the coordinates in which the derivative of EM is symmetric at a fixed point.

    Parameters
    ----------
    mixture : GaussianMixtureParams
        The mixture at which changes are measured.
    share : Tensor of shape (K,) or tuple of three
        The components' shares of the samples.

    Returns
    -------
    FisherCoordinates or FactorCoordinates
        The coordinates.
    """
    kind = FactorCoordinates if mixture.covariance_type.sketched else FisherCoordinates
    return kind(mixture, share)
