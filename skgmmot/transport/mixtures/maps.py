"""Maps between Gaussian mixtures: a plan as affine maps, and two ways to move samples by them.

A pair of components that the plan joins has the map ``T_kl(x) = m_l + A_kl (x - m_k)``. A sample
goes with pair ``(k, l)`` with probability ``gamma_k(x) P_kl / w_k``: `mean_map` averages the maps
with these weights, `random_map` draws one. Blocks of samples are worked on as columns, so that
every elementwise operation runs along contiguous rows.
"""

import math
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from skgmmot.gaussian.bures.gaussians import are_factored
from skgmmot.gaussian.bures.low_rank import optimal_map
from skgmmot.gaussian.choice import fastest_e_step, is_small
from skgmmot.gaussian.evaluators import EStep
from skgmmot.gaussian.mixture import GaussianMixtureParams, PreparedMixture
from skgmmot.numerics.linalg import bures_map
from skgmmot.numerics.threads import map_items
from skgmmot.transport.discrete.plan import Plan
from skgmmot.transport.mixtures.distance import cost_matrix, transport_plan

#: Maps of up to so many numbers are copied for each sample; with larger ones, samples are sorted by
#: their map instead.
MAX_COPIED_NUMBERS = 32


@dataclass(eq=False)
class MixtureMap:
    """A plan between mixtures as affine maps, one for each pair of components that it joins.

    A sample of source component ``k`` goes with pair ``p = (k, l)`` with probability
    ``share_p = P_kl / w_k``, by ``T_kl(x) = A_kl (x - origin) + offset_kl``.

    Parameters
    ----------
    source : PreparedMixture
        The source mixture, K components in d dimensions, in float64.
    component, partner : Tensor of shape (p,)
        ``k`` and ``l`` of each pair, the former ascending.
    share : Tensor of shape (p,)
        ``P_kl / w_k``: sums to one over the pairs of a component.
    origin : Tensor of shape (d,)
        A point in the middle of the source, in the dtype of the samples.
    affine : Tensor of shape (p, d, d + 1)
        ``(A_kl, T_kl(origin))``, in float64.
    n_samples : int, default=inf
        How many samples it is made for.
    """

    source: PreparedMixture
    component: Tensor
    partner: Tensor
    share: Tensor
    origin: Tensor
    affine: Tensor
    n_samples: float = math.inf
    _kept: dict = field(default_factory=dict, init=False)

    def for_samples(self, X: Tensor) -> "MixtureMap":
        """The same maps for so many samples, in their dtype and on their device; kept."""
        key = X.dtype, X.device, is_small(self.source, len(X))
        if key not in self._kept:
            self._kept[key] = self._made_for(X)
        return self._kept[key]

    def _made_for(self, X):
        to = {"device": X.device}
        origin = self.origin.to(X)
        shift = origin.to(self.affine) - self.origin  # the origin is rounded to their dtype
        offsets = self.affine[..., -1:] + self.affine[..., :-1] @ shift.unsqueeze(1)
        return replace(
            self,
            source=self.source.to(**to),
            component=self.component.to(**to),
            partner=self.partner.to(**to),
            share=self.share.to(**to),
            origin=origin,
            affine=torch.cat([self.affine[..., :-1], offsets], dim=-1).to(**to),
            n_samples=len(X),
        )

    @cached_property
    def e_step(self) -> EStep:
        """The E-step of the source relative to the origin: its means keep float64's digits."""
        about = self.source._replace(means=self.source.means - self.origin.double())
        return fastest_e_step(about, self.n_samples, self.origin.dtype, self.origin)

    @property
    def row_size(self) -> int:
        """Numbers that a sample takes in a block."""
        return self.e_step.row_size

    @property
    def mean_row_size(self) -> int:
        """Numbers per sample in a block of `mean_map`, for choosing the block length."""
        K, d = self.source.means.shape
        return self.e_step.row_size + d * min(K, d)

    def responsibilities(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """The source components' responsibilities ``(K, b)``, and ``x - origin (d, b)``."""
        resp, x = self.e_step.responsibilities(X)
        return resp, x.contiguous()

    @cached_property
    def mean_maps(self) -> tuple[Tensor, Tensor]:
        """``sum_l (P_kl / w_k) T_kl`` of each component: matrices, and images of the origin.

        Matrices have the axes ``(in, out, K)``, and ``(out, K, in)`` where there are fewer
        components than features; images are ``(d, K)``.
        """
        K, d = self.source.means.shape
        shared = self.affine * self.share[:, None, None]
        maps = shared.new_zeros(K, d, d + 1).index_add_(0, self.component, shared)
        maps = maps.to(self.e_step.dtype)
        matrices = maps[..., :d].permute((2, 1, 0) if d <= K else (1, 0, 2))
        return matrices.contiguous(), maps[..., d].mT.contiguous()

    def mean_images(self, resp: Tensor, x: Tensor) -> Tensor:
        """Images ``(d, n)`` of samples about the origin by the mean of the maps."""
        matrices, at_origin = (t.to(resp) for t in self.mean_maps)
        if len(x) <= len(resp):
            # The mean of the affine maps first, as (d, d) rows of numbers, then its image.
            means = (matrices.flatten(0, 1) @ resp).view(*matrices.shape[:2], -1)
            images = (means * x.unsqueeze(1)).sum(0)
        else:
            weighted = resp.unsqueeze(1) * x  # (K, d, n)
            images = matrices.flatten(1) @ weighted.flatten(0, 1)
        return images.addmm_(at_origin, resp)

    def images(self, pair: Tensor, x: Tensor) -> Tensor:
        """Images ``(d, n)`` of samples about the origin, each by the map of its pair."""
        return each_by_its_own(self.affine.to(x), pair, x)


@dataclass(eq=False)
class FactoredMap(MixtureMap):
    """The same with maps ``A_kl = diag(a) - L R^T``, of covariances with few factors.

    Parameters
    ----------
    source : PreparedMixture
        As in `MixtureMap`.
    component, partner : Tensor of shape (p,)
        Likewise.
    share : Tensor of shape (p,)
        Likewise.
    origin : Tensor of shape (d,)
        Likewise.
    affine : Tensor of shape (p, d, 2)
        ``(a, T_kl(origin))`` of each pair, in float64.
    n_samples : int, default=inf
        As in `MixtureMap`.
    left, right : tuple of p Tensor of shape (d, c)
        ``L`` and ``R`` of each pair.
    """

    left: tuple[Tensor, ...] = ()
    right: tuple[Tensor, ...] = ()

    def _made_for(self, X):
        origin = self.origin.to(X)
        shift = origin.to(self.affine) - self.origin  # the origin is rounded to their dtype
        sides = zip(self.left, self.right, strict=True)
        less = torch.stack([L @ (R.mT @ shift) for L, R in sides])
        offsets = self.affine[..., 1] + self.affine[..., 0] * shift - less
        to = {"device": X.device}
        return replace(
            self,
            source=self.source.to(**to),
            component=self.component.to(**to),
            partner=self.partner.to(**to),
            share=self.share.to(**to),
            origin=origin,
            affine=torch.stack([self.affine[..., 0], offsets], dim=-1).to(**to),
            left=tuple(L.to(**to) for L in self.left),
            right=tuple(R.to(**to) for R in self.right),
            n_samples=len(X),
        )

    @property
    def mean_row_size(self) -> int:
        return self.e_step.row_size + 4 * self.source.means.shape[1]

    def mean_images(self, resp: Tensor, x: Tensor) -> Tensor:
        shares = resp[self.component] * self.share.to(resp).unsqueeze(1)  # (p, n)
        diagonal, offsets = self.affine.to(resp).unbind(-1)
        images = x * (diagonal.mT @ shares) + offsets.mT @ shares
        for L, R, share in zip(self.left, self.right, shares, strict=True):
            images.addmm_(L.to(resp), (R.mT.to(resp) @ x) * share, alpha=-1)
        return images

    def images(self, pair: Tensor, x: Tensor) -> Tensor:
        found = torch.empty_like(x)
        for p, (L, R) in enumerate(zip(self.left, self.right, strict=True)):
            chosen = (pair == p).nonzero().squeeze(1)
            part = x[:, chosen]
            diagonal, offset = self.affine[p].to(x).split(1, dim=1)
            along = L.to(x) @ (R.mT.to(x) @ part)
            found[:, chosen] = diagonal * part - along + offset
        return found


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
        The affine maps: at most ``K + L - 1`` for an exact plan; ``FactoredMap`` where covariances
        have few factors for their features. Not differentiable.

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
    try:
        prepared = source.prepare()
    except ValueError:
        raise ValueError(
            "source covariances must be positive definite to tell samples apart, got one that is "
            "singular. Add to its diagonal, or increase reg_covar."
        ) from None
    plain = prepared, k, l, mass / total[k], origin
    way = origin - source.means[k]
    factors = source.factors(), target.factors()
    if are_factored(*factors):
        pairs = [(_of(factors[0], i), _of(factors[1], j)) for i, j in zip(k, l, strict=True)]
        maps = map_items(lambda pair: optimal_map(*pair).compressed(), pairs, k.device)
        offsets = [A.apply(y.unsqueeze(1)).squeeze(1) for A, y in zip(maps, way, strict=True)]
        diagonals = torch.stack([A.diagonal for A in maps])
        affine = torch.stack([diagonals, target.means[l] + torch.stack(offsets)], dim=2)
        left, right = ([*sides] for sides in zip(*(A[1:] for A in maps), strict=True))
        return FactoredMap(*plain, affine, left=tuple(left), right=tuple(right))
    A = bures_map(source.full_covariances()[k], target.full_covariances()[l])
    offsets = target.means[l] + (way.unsqueeze(1) @ A).squeeze(1)
    return MixtureMap(*plain, torch.cat([A, offsets.unsqueeze(2)], dim=2))


def _of(factors: tuple[Tensor, Tensor], index: Tensor) -> tuple[Tensor, Tensor]:
    """The factors and variances of one component."""
    F, psi = factors
    return F[index], psi[index]


def mean_map(mapping: MixtureMap, X: Tensor) -> Tensor:
    r"""Map samples by the conditional mean of the plan.

    .. math:: T_{\mathrm{mean}}(x) = \sum_{kl} \gamma_k(x) \frac{P_{kl}}{w_k} T_{kl}(x)

    It is a mean of affine maps, so that the result is smooth, and narrower than the target where
    one component is split among several.

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
    return mapping.mean_images(*mapping.responsibilities(X)).mT.to(X.dtype)


def random_map(mapping: MixtureMap, X: Tensor, uniforms: Tensor) -> Tensor:
    r"""Map each sample by one affine map, drawn from the plan.

    .. math:: T_{\mathrm{rand}}(x) = T_{kl}(x)
        \quad \text{with probability} \quad \gamma_k(x) \frac{P_{kl}}{w_k}

    Samples of the source mixture become samples of the target mixture.

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
    resp, x = mapping.responsibilities(X)  # (K, n), (d, n)
    cumulated = _cumulated_rows(resp)
    below_one = 1 - torch.finfo(resp.dtype).eps  # or a level at the sum would be beyond them all
    level = uniforms[:, 0].to(resp).clamp(max=below_one) * cumulated[-1]
    component = (cumulated <= level).sum(0)
    pair = _draw_pairs(mapping, component, uniforms[:, 1])
    return mapping.images(pair, x).mT.to(X.dtype)


def carried_labels(mapping: MixtureMap, labels: Tensor, X: Tensor) -> Tensor:
    r"""Return the probabilities of labels that a plan carries from target components to samples.

    .. math:: \sum_k \gamma_k(x) \sum_{l : \text{labels}_l = c} \frac{P_{kl}}{w_k}

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
    resp, _ = mapping.responsibilities(X)
    table = mapping.share.new_zeros(int(labels.max()) + 1, len(resp))  # (C, K)
    table.index_put_((labels[mapping.partner], mapping.component), mapping.share, accumulate=True)
    return (table.to(resp) @ resp).mT.to(X.dtype)


def _cumulated_rows(rows: Tensor) -> Tensor:
    """Cumulated sums along the first axis, in place: row by row, for columns are far apart."""
    for k in range(1, len(rows)):
        rows[k] += rows[k - 1]
    return rows


def each_by_its_own(affine: Tensor, pair: Tensor, x: Tensor) -> Tensor:
    """Map each sample by the affine map of its pair.

    Parameters
    ----------
    affine : Tensor of shape (p, d, d + 1)
        Matrices, and images of the origin.
    pair : Tensor of shape (b,)
        The pair of each sample.
    x : Tensor of shape (d, b)
        Samples about the origin.

    Returns
    -------
    Tensor of shape (d, b)
        Their images.
    """
    P, d, width = affine.shape
    if d * width <= MAX_COPIED_NUMBERS:
        maps = affine.permute(2, 1, 0).reshape(width * d, P).index_select(1, pair)
        maps = maps.view(width, d, -1)
        return (maps[:d] * x.unsqueeze(1)).sum(0) + maps[d]
    order = pair.argsort()
    parts = x[:, order].split(torch.bincount(pair, minlength=P).tolist(), dim=1)
    images = [torch.addmm(A[:, d:], A[:, :d], part) for A, part in zip(affine, parts, strict=True)]
    unsorted = x.new_empty(d, len(pair))
    unsorted[:, order] = torch.cat(images, dim=1)
    return unsorted


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
