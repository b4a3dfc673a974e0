"""Maps between Gaussian mixtures: a plan as affine maps, and two ways to move samples by them.

A pair of components that the plan joins has the map ``T_kl(x) = m_l + A_kl (x - m_k)``. A sample
goes with pair ``(k, l)`` with probability ``gamma_k(x) P_kl / w_k``: `mean_map` averages the maps
with these weights, `random_map` draws one.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from skgmmot.functional.discrete import Plan
from skgmmot.functional.linalg import bures_map
from skgmmot.functional.mixture import (
    GaussianMixtureParams,
    PreparedMixture,
    log_responsibilities,
)
from skgmmot.functional.mixture_ot import cost_matrix, transport_plan


class MixtureMap(NamedTuple):
    """A plan between mixtures as affine maps, one for each pair of components that it joins.

    A sample of source component ``k`` goes with pair ``p = (k, l)`` with probability
    ``share_p = P_kl / w_k``, by ``T_kl(x) = A_kl (x - origin) + offset_kl``.
    """

    source: PreparedMixture
    """The source mixture, K components in d dimensions."""
    component: Tensor
    """``k`` of each pair, ``(p,)``, ascending."""
    share: Tensor
    """``P_kl / w_k (p,)``: sums to one over the pairs of a component."""
    origin: Tensor
    """A point in the middle of the source, ``(d,)``."""
    matrices: Tensor
    """``A_kl (p, d, d)``."""
    offsets: Tensor
    """``T_kl(origin) (p, d)``."""

    def to(self, like: Tensor) -> "MixtureMap":
        """The same maps in the dtype and on the device of ``like``."""
        source = PreparedMixture(*(t.to(like) for t in self.source))
        component = self.component.to(like.device)
        return MixtureMap(source, component, *(t.to(like) for t in self[2:]))


def mixture_map(
    source: GaussianMixtureParams, target: GaussianMixtureParams, plan: Plan | None = None
) -> MixtureMap:
    """Prepare the maps of a plan between two mixtures.

    Parameters
    ----------
    source : GaussianMixtureParams
        K components in d dimensions, with positive definite covariances.
    target : GaussianMixtureParams
        L components in d dimensions.
    plan : Plan, default=None
        The plan; None is the optimal one.

    Returns
    -------
    MixtureMap
        At most ``K + L - 1`` affine maps for an exact plan. Not differentiable.

    Raises
    ------
    ValueError
        If the dimensions differ or a source covariance is not positive definite.
    """
    plan = transport_plan(source, target) if plan is None else plan
    coupling = plan.coupling.clone()
    # A weight near rounding may be lost in the plan: its component goes with the nearest target.
    lost = (coupling.sum(1) == 0) & (source.weights > 0)
    if lost.any():
        nearest = cost_matrix(source, target)[lost].argmin(1)
        coupling[lost, nearest] = source.weights[lost]
    k, l = torch.nonzero(coupling, as_tuple=True)
    mass = coupling[k, l]
    total = torch.zeros_like(source.weights).index_add_(0, k, mass)
    A = bures_map(source.full_covariances()[k], target.full_covariances()[l])
    origin = source.weights @ source.means
    offsets = target.means[l] + ((origin - source.means[k]).unsqueeze(1) @ A).squeeze(1)
    try:
        prepared = source.prepare()
    except ValueError:
        raise ValueError(
            "source covariances must be positive definite to tell samples apart, got one that is "
            "singular. Add to its diagonal, or increase reg_covar."
        ) from None
    return MixtureMap(prepared, k, mass / total[k], origin, A, offsets)


def mean_map(mapping: MixtureMap, X: Tensor) -> Tensor:
    """Map samples by the conditional mean of the plan.

    ``T_mean(x) = sum_kl gamma_k(x) (P_kl / w_k) T_kl(x)``: a mean of affine maps, so that the
    result is smooth, and narrower than the target where one component is split among several.

    Parameters
    ----------
    mapping : MixtureMap
        The maps.
    X : Tensor of shape (n, d)
        Samples.

    Returns
    -------
    Tensor of shape (n, d)
        Their images.

    Notes
    -----
    Costs ``O(n K d^2)``: the maps of one component are averaged once, whatever their number.

    References
    ----------
    .. [1] Delon and Desolneux 2020, from a plan to a map (T_mean and T_rand).
    """
    K = len(mapping.source.means)
    d = X.shape[1]
    # The average map of each component, as rows (A_k; offset_k): (K, d + 1, d)
    affine = torch.cat([mapping.matrices, mapping.offsets.unsqueeze(1)], dim=1)
    shared = affine * mapping.share[:, None, None]
    average = affine.new_zeros(K, d + 1, d).index_add_(0, mapping.component, shared)
    resp = log_responsibilities(mapping.source, X).exp()  # (K, n)
    lifted = torch.cat([X - mapping.origin, X.new_ones(len(X), 1)], dim=1)  # (n, d + 1)
    weighted = resp.mT.unsqueeze(2) * lifted.unsqueeze(1)  # (n, K, d + 1)
    return weighted.flatten(1) @ average.flatten(0, 1)


def random_map(mapping: MixtureMap, X: Tensor, uniforms: Tensor) -> Tensor:
    """Map each sample by one affine map, drawn from the plan.

    ``T_rand(x) = T_kl(x)`` with probability ``gamma_k(x) P_kl / w_k``: samples of the source
    mixture become samples of the target mixture.

    Parameters
    ----------
    mapping : MixtureMap
        The maps.
    X : Tensor of shape (n, d)
        Samples.
    uniforms : Tensor of shape (n, 2)
        Uniform random numbers in [0, 1): the first draws the component, the second its pair.

    Returns
    -------
    Tensor of shape (n, d)
        Their images.

    Notes
    -----
    Costs ``O(n K d^2)``, vectorised over the samples of each pair.

    References
    ----------
    .. [1] Delon and Desolneux 2020, from a plan to a map (T_mean and T_rand).
    """
    resp = log_responsibilities(mapping.source, X).exp()
    component = _inverse_cdf(resp.mT, uniforms[:, 0])  # (n,)
    # Pairs are sorted by component: add each component's number to its cumulated shares, and one
    # sorted list serves all samples.
    share, k = mapping.share.double(), mapping.component
    cumulated = share.cumsum(0)
    first = torch.searchsorted(k, k)  # the first pair of the same component
    within = cumulated - (cumulated - share)[first] + k
    last = torch.searchsorted(k, component, right=True) - 1
    pair = torch.searchsorted(within, component + uniforms[:, 1].double(), right=True)
    pair = torch.minimum(pair, last)  # a share that sums to 1 - eps must not reach the next
    images = torch.empty_like(X)
    for p in range(len(mapping.share)):
        chosen = (pair == p).nonzero().squeeze(1)
        moved = torch.addmm(mapping.offsets[p], X[chosen] - mapping.origin, mapping.matrices[p])
        images[chosen] = moved
    return images


def _inverse_cdf(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """Draw one index a row from probabilities ``(n, K)``."""
    cumulated = probabilities.contiguous().cumsum(1)
    cumulated = cumulated / cumulated[:, -1:]
    drawn = torch.searchsorted(
        cumulated, uniforms.to(cumulated).unsqueeze(1).contiguous(), right=True
    )
    return drawn.squeeze(1).clamp(max=probabilities.shape[1] - 1)
