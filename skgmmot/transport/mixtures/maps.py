"""Maps between Gaussian mixtures: a plan as affine maps, and two ways to move samples by them.

A pair of components that the plan joins has the map ``T_kl(x) = m_l + A_kl (x - m_k)``. A sample
goes with pair ``(k, l)`` with probability ``gamma_k(x) P_kl / w_k``: `mean_map` averages the maps
with these weights, `random_map` draws one. Blocks of samples are worked on as columns, so that
every elementwise operation runs along contiguous rows.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from skgmmot.gaussian.log_density import log_responsibilities
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.gaussian.products import (
    MAX_QUADRATIC,
    FeatureEStep,
    accurate_dtype,
    quadratic_share,
)
from skgmmot.numerics.linalg import bures_map
from skgmmot.transport.discrete.plan import Plan
from skgmmot.transport.mixtures.distance import cost_matrix, transport_plan

#: Maps of up to so many numbers are copied for each sample.
SMALL_MAP = 32
#: Blocks for samples that take more numbers than this would be too short for matrix products.
MOST_NUMBERS = 512


class Posterior:
    """Responsibilities of a block of samples, by quadratic features where these are accurate.

    Parameters
    ----------
    mixture : GaussianMixtureParams
        K components in d dimensions, float64, with positive definite covariances.
    origin : Tensor of shape (d,)
        A point in the middle of them, in the dtype and on the device of the samples.

    Raises
    ------
    ValueError
        If a covariance is not positive definite.
    """

    def __init__(self, mixture: GaussianMixtureParams, origin: Tensor):
        self.origin = origin
        # about the origin, so that the mixture is not rounded to the dtype of the samples
        self.prepared = mixture.translated(-origin.double()).prepare()
        self.empty = torch.isneginf(self.prepared.log_weights)
        self.features, self.dtype = None, None
        kind = mixture.covariance_type
        if quadratic_share(kind, len(origin)) <= MAX_QUADRATIC:
            self.features = FeatureEStep(self.prepared, origin)
            self.dtype = accurate_dtype(self.prepared, origin.dtype)

    @property
    def row_size(self) -> int:
        """Numbers that one sample takes while it is worked on, for choosing the size of blocks."""
        K, d = self.prepared.means.shape
        if self.dtype is None:
            return K * d
        return min(K + self.features.coefficients.shape[1], MOST_NUMBERS)

    def __call__(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """Return the responsibilities of samples, and the samples about the origin.

        Parameters
        ----------
        X : Tensor of shape (b, d)
            Samples.

        Returns
        -------
        resp : Tensor of shape (K, b)
            Responsibilities.
        lifted : Tensor of shape (d + 1, b)
            ``(x - origin, 1)``, in their dtype.
        """
        if self.dtype is not None:
            resp, lifted = self._by_features(X)
            if resp is not None:
                return resp, lifted
        x = X.double() - self.origin.double()
        resp = log_responsibilities(self.prepared, x).exp()
        return resp, torch.cat([x.mT, x.new_ones(1, len(x))])

    def _by_features(self, X):
        """The same from two matrix products; None where a square overflows."""
        phi, resp, total, top = self.features.posterior(
            X, self.dtype, lambda _, shape, dtype: X.new_empty(shape, dtype=dtype)
        )
        if not torch.isfinite(top).all():
            return None, None
        resp[self.empty] = 0  # what has no weight has no responsibility, not even a subnormal one
        return resp.div_(total), phi[: len(self.origin) + 1]


class MixtureMap(NamedTuple):
    """A plan between mixtures as affine maps, one for each pair of components that it joins.

    A sample of source component ``k`` goes with pair ``p = (k, l)`` with probability
    ``share_p = P_kl / w_k``, by ``T_kl(x) = A_kl (x - origin) + offset_kl``.
    """

    source: GaussianMixtureParams
    """The source mixture, K components in d dimensions, in float64."""
    posterior: Posterior
    """Their responsibilities of samples."""
    component: Tensor
    """``k`` of each pair, ``(p,)``, ascending."""
    partner: Tensor
    """``l`` of each pair, ``(p,)``."""
    share: Tensor
    """``P_kl / w_k (p,)``: sums to one over the pairs of a component."""
    origin: Tensor
    """A point in the middle of the source, ``(d,)``."""
    affine: Tensor
    """``(A_kl, T_kl(origin)) (p, d, d + 1)``."""

    def to(self, like: Tensor) -> "MixtureMap":
        """The same maps for samples of the dtype and on the device of ``like``."""
        origin = self.origin.to(like)
        source = self.source.to(device=like.device)
        moved = origin.to(self.affine) - self.origin  # the origin is rounded to their dtype
        offsets = self.affine[..., -1:] + self.affine[..., :-1] @ moved.unsqueeze(1)
        affine = torch.cat([self.affine[..., :-1], offsets], dim=-1)
        return MixtureMap(
            source,
            Posterior(source, origin),
            self.component.to(like.device),
            self.partner.to(like.device),
            self.share.to(like.device),
            origin,
            affine.to(like.device),
        )


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
        The plan; None is the optimal one. Where it does not move a component at all, or not all of
        it, as unbalanced plans do, the component goes where its mass goes, or to the nearest.

    Returns
    -------
    MixtureMap
        The affine maps: at most ``K + L - 1`` for an exact plan. Not differentiable.

    Raises
    ------
    ValueError
        If the dimensions differ or a source covariance is not positive definite.
    """
    source, target = source.detach(), target.detach()
    plan = transport_plan(source, target) if plan is None else plan
    coupling = plan.coupling.detach().clone()
    # A weight near rounding may be lost in the plan: its component goes with the nearest target.
    lost = (coupling.sum(1) == 0) & (source.weights > 0)
    if lost.any():
        nearest = cost_matrix(source, target)[lost].argmin(1)
        coupling[lost, nearest] = source.weights[lost]
    k, l = torch.nonzero(coupling, as_tuple=True)
    mass = coupling[k, l]
    total = torch.zeros_like(source.weights).index_add_(0, k, mass)
    origin = source.weights @ source.means
    A = bures_map(source.full_covariances()[k], target.full_covariances()[l])
    offsets = target.means[l] + ((origin - source.means[k]).unsqueeze(1) @ A).squeeze(1)
    try:
        posterior = Posterior(source, origin)
    except ValueError:
        raise ValueError(
            "source covariances must be positive definite to tell samples apart, got one that is "
            "singular. Add to its diagonal, or increase reg_covar."
        ) from None
    affine = torch.cat([A, offsets.unsqueeze(2)], dim=2)
    return MixtureMap(source, posterior, k, l, mass / total[k], origin, affine)


def reversed_plan(plan: Plan) -> Plan:
    """Return the plan from the target to the source.

    Parameters
    ----------
    plan : Plan
        A plan from a source to a target.

    Returns
    -------
    Plan
        Its transpose.
    """
    return Plan(plan.coupling.mT, plan.target_potential, plan.source_potential, plan.cost)


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
    resp, lifted = mapping.posterior(X)  # (K, n), (d + 1, n)
    shared = mapping.affine * mapping.share[:, None, None]
    K, (d, width) = len(resp), shared.shape[1:]
    average = shared.new_zeros(K, d, width).index_add_(0, mapping.component, shared).to(resp)
    if d <= K:
        # The mean of the affine maps first, as (d + 1, d) rows of numbers, then its image.
        maps = average.permute(2, 1, 0).reshape(width * d, K) @ resp
        images = (maps.view(width, d, -1) * lifted.unsqueeze(1)).sum(0)
    else:
        weighted = resp.unsqueeze(1) * lifted  # (K, d + 1, n)
        images = average.permute(1, 0, 2).reshape(d, K * width) @ weighted.flatten(0, 1)
    return images.mT.to(X.dtype)


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
    Costs ``O(n K d^2)`` for the responsibilities and one affine map a sample.

    References
    ----------
    .. [1] Delon and Desolneux 2020, from a plan to a map (T_mean and T_rand).
    """
    resp, lifted = mapping.posterior(X)  # (K, n), (d + 1, n)
    cumulated = _cumulated_rows(resp)
    below_one = 1 - torch.finfo(resp.dtype).eps  # or a level at the sum would be beyond them all
    level = uniforms[:, 0].to(resp).clamp(max=below_one) * cumulated[-1]
    component = (cumulated <= level).sum(0)
    pair = _draw_pairs(mapping, component, uniforms[:, 1])
    return _each_by_its_own(mapping.affine.to(lifted), pair, lifted).mT.to(X.dtype)


def carried_labels(mapping: MixtureMap, labels: Tensor, X: Tensor) -> Tensor:
    """Return the probabilities of labels that a plan carries from target components to samples.

    ``sum_k gamma_k(x) sum_l (P_kl / w_k) [labels_l = c]``

    Parameters
    ----------
    mapping : MixtureMap
        The maps.
    labels : Tensor of shape (L,)
        A label of each target component, as integers from 0.
    X : Tensor of shape (n, d)
        Samples of the source.

    Returns
    -------
    Tensor of shape (n, C)
        Probabilities, C one more than the largest label.
    """
    resp, _ = mapping.posterior(X)
    table = mapping.share.new_zeros(int(labels.max()) + 1, len(resp))  # (C, K)
    table.index_put_((labels[mapping.partner], mapping.component), mapping.share, accumulate=True)
    return (table.to(resp) @ resp).mT.to(X.dtype)


def _cumulated_rows(rows: Tensor) -> Tensor:
    """Cumulated sums along the first axis, in place: row by row, for columns are far apart."""
    for k in range(1, len(rows)):
        rows[k] += rows[k - 1]
    return rows


def _each_by_its_own(affine: Tensor, pair: Tensor, lifted: Tensor) -> Tensor:
    """Images ``(d, b)`` of samples, each by the map of its pair."""
    P, d, width = affine.shape
    if d * width <= SMALL_MAP:
        maps = affine.permute(2, 1, 0).reshape(width * d, P).index_select(1, pair)
        return (maps.view(width, d, -1) * lifted.unsqueeze(1)).sum(0)
    # Large maps are not repeated for each sample: samples are sorted by their maps.
    order = pair.argsort()
    parts = lifted[:, order].split(torch.bincount(pair, minlength=P).tolist(), dim=1)
    images = lifted.new_empty(d, len(pair))
    images[:, order] = torch.cat([A @ part for A, part in zip(affine, parts, strict=True)], dim=1)
    return images


def _draw_pairs(mapping: MixtureMap, component: Tensor, uniforms: Tensor) -> Tensor:
    """One pair of each component, drawn by its shares."""
    # Pairs are sorted by component: add each component's number to its cumulated shares, and one
    # sorted list serves all samples.
    share, k = mapping.share.double(), mapping.component
    cumulated = share.cumsum(0)
    first = torch.searchsorted(k, k)  # the first pair of the same component
    within = cumulated - (cumulated - share)[first] + k
    numbers = torch.arange(int(k[-1]) + 1, device=k.device)
    last = (torch.searchsorted(k, numbers, right=True) - 1)[component]
    pair = torch.searchsorted(within, component + uniforms.double(), right=True)
    return torch.minimum(pair, last)  # a share that sums to 1 - eps must not reach the next
