"""Cotangents pulled back through the E-step, block by block; the formulas are in `derivative`.

As for the E-step there are two ways: `FeatureAdjoint` works on quadratic features, `CentredAdjoint`
on samples centred at each component. Where there are no formulas, a `TapedAdjoint` has autograd
differentiate the sums of each block.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable

import torch
from torch import Tensor

from skgmmot.gaussian.evaluators import FeatureEStep
from skgmmot.gaussian.log_density import log_joint, posterior
from skgmmot.gaussian.mixture import EMPTY, GaussianMixtureParams
from skgmmot.gaussian.statistics import Statistics, moments


def score(
    theta: GaussianMixtureParams, precisions: Tensor, statistics: Statistics
) -> GaussianMixtureParams:
    """Differentiate ``sum_ik r_ik log w_k g_k(x_i)`` in ``theta``, given the moments under ``r``.

    Parameters
    ----------
    theta : GaussianMixtureParams
        K components in d dimensions.
    precisions : Tensor
        The inverses of its covariances, in the storage of the base of their type.
    statistics : Statistics
        Moments centred at the means, with weights ``r`` of any sign; they may have axes before
        their own.

    Returns
    -------
    GaussianMixtureParams
        The derivatives. A component of weight zero has none in its weight here, whose moments
        under ``r`` are zero as well; see `ZeroWeightAdjoint`.
    """
    covariance_type, size = theta.covariance_type, theta.means.shape
    base, share = covariance_type.base, covariance_type.base.pooled(size[1]) / 2
    of_base = share * base.score(precisions, statistics.component_mass, statistics.scatter)
    return GaussianMixtureParams(
        weights=torch.where(theta.weights > 0, statistics.mass / theta.weights, 0.0),
        means=base.apply(statistics.shift.unsqueeze(-2), precisions).squeeze(-2),
        covariances=covariance_type.base_pullback(theta.covariances, *size, of_base),
        covariance_type=covariance_type,
    )


# Uniform noise is one more component, whose density is a constant: `h_i0` is the cotangent of its
# mass. A number that is taken from all `h_ik` changes no `r_ik`. So `h_i0` is made zero: sums over
# components need not include noise, and its `r_i0` is minus their sum.


def beside_noise(cotangents: Statistics) -> Statistics:
    """Return cotangents for the components alone, less that of the mass of noise.

    Parameters
    ----------
    cotangents : Statistics
        With noise, whose mass ``(..., K + 1)`` is the last, or without.

    Returns
    -------
    Statistics
        Those of ``(..., K)`` masses.
    """
    mass = cotangents.component_mass
    if mass.shape == cotangents.mass.shape:
        return cotangents
    return cotangents._replace(mass=mass - cotangents.mass[..., -1:])


def with_noise(theta: GaussianMixtureParams, moments: Statistics) -> Statistics:
    """Return moments under ``r`` with that of noise, if the mixture has any.

    Parameters
    ----------
    theta : GaussianMixtureParams
        The mixture.
    moments : Statistics
        Those of its components.

    Returns
    -------
    Statistics
        The mass of noise is minus that of all components. That of noise whose weight is at most
        `EMPTY` is zero: the others cancel to less than their rounding, which `score` would divide
        by the weight.
    """
    if theta.noise is None:
        return moments
    return moments.beside(torch.where(theta.weights[-1] > EMPTY, -moments.mass.sum(-1), 0.0))


class FeatureAdjoint:
    """Pulls cotangents of the statistics back through the E-step, on quadratic features.

    With ``h = H @ phi`` beside the log-joint ``C @ phi``, the pass is three matrix products.

    Parameters
    ----------
    step : FeatureEStep
        The E-step at the current mixture.
    cotangents : Statistics
        ``c0 (K,)``, ``c1 (K, d)`` and ``C2`` in the storage of the covariances, symmetric.
    along : Statistics, default=None
        Velocities ``shift`` and ``bend`` of components, which samples go along with.
    """

    #: Blocks of fewer rows make matrix products slow.
    min_rows = 512

    def __init__(self, step: FeatureEStep, cotangents: Statistics, along: Statistics | None = None):
        self.step, self.covariance_type = step, step.covariance_type
        self.H, self.curvature = self._on_features(cotangents)
        self.slopes, self.bent = self.H, self.curvature  # of what moves samples, gamma held
        if along is not None:
            slopes, bent = self._on_features(along)
            self.slopes, self.bent = self.H + slopes, self.curvature + bent
        K, width = step.coefficients.shape
        self.row_size, self.sample_size = 2 * K + width, 2 * width

    def _on_features(self, cotangents):
        """Coefficients of ``h`` on the features, and its curvature, in storage."""
        curvature = (
            -2 * cotangents.scatter / self.covariance_type.pooled(self.step.theta.means.shape[1])
        )
        H = self.step.of_features(cotangents.mass, cotangents.shift, curvature)
        return H, curvature

    def _responsibilities(self, X, sample_weight, buffers):
        """``phi``, ``gamma``, ``r`` and ``sum_k gamma_ik h_ik`` of a block."""
        phi, resp, total, _ = self.step.posterior(X, buffers)
        resp.div_(total)
        signed = torch.mm(self.H, phi, out=buffers("signed", resp.shape, torch.float64))
        expected = (resp * signed).sum(0)
        signed.sub_(expected).mul_(resp)
        if sample_weight is not None:
            signed.mul_(sample_weight)
        return phi, resp, signed, expected

    def block(self, X: Tensor, sample_weight: Tensor | None, buffers) -> tuple[Tensor]:
        """Sum ``r @ phi.T`` over one block; those of several blocks add."""
        phi, _, signed, _ = self._responsibilities(X, sample_weight, buffers)
        return (signed @ phi.mT,)

    def moments(self, sums: Tensor) -> Statistics:
        """Turn the sums of all blocks into the moments under ``r``."""
        # sum_k r_ik = 0, and so is the scatter of all components together about one point.
        nothing = torch.zeros_like(self.curvature) if self.covariance_type.shared else None
        return self.step.moments(sums, nothing)

    def samples(self, X: Tensor, sample_weight: Tensor | None, buffers) -> tuple[Tensor, Tensor]:
        """Cotangents of the samples ``(b, d)`` and of their weights ``(b,)``."""
        d = X.shape[1]
        phi, resp, signed, expected = self._responsibilities(X, sample_weight, buffers)
        if sample_weight is not None:
            resp.mul_(sample_weight)
        lent = buffers("cotangents", phi.shape, torch.float64)
        cotangents = torch.mm(self.slopes.mT, resp, out=lent)
        cotangents.addmm_(self.step.coefficients.mT, signed)
        x = phi[:d]
        found = cotangents[:d] + self.covariance_type.quadratic_pullback(x, cotangents[d + 1 :])
        if (
            self.covariance_type.shared
        ):  # the quadratic term that all components share is no feature
            expected = expected - (x * (self.curvature[0] @ x)).sum(0) / 2
            bent = self.bent[0] @ x
            found -= bent if sample_weight is None else bent * sample_weight
        return found.mT, expected


class CentredAdjoint:
    """Pulls cotangents of the statistics back through the E-step, as it is defined.

    Parameters
    ----------
    theta : GaussianMixtureParams
        The current mixture.
    origin : Tensor of shape (d,)
        What the mixture is relative to.
    cotangents : Statistics
        ``c0 (K,)``, ``c1 (K, d)`` and ``C2`` in the storage of the covariances, symmetric.
    along : Statistics, default=None
        Velocities ``shift`` and ``bend`` of components, which samples go along with.

    Notes
    -----
    Holds ``(K, b, d)`` for a block of b samples.
    """

    min_rows = 16

    def __init__(
        self,
        theta: GaussianMixtureParams,
        origin: Tensor,
        cotangents: Statistics,
        along: Statistics | None = None,
    ):
        self.theta, self.origin, self.cotangents = theta, origin, cotangents
        self.along = along
        self.prepared = theta.prepare()
        self.covariance_type = self.prepared.covariance_type
        self.form = cotangents.scatter / self.covariance_type.pooled(theta.means.shape[1])
        self.row_size = 2 * theta.means.numel()
        self.sample_size = theta.means.numel()

    def _responsibilities(self, X, sample_weight):
        """Samples about the origin, ``gamma``, ``r``, ``C2 y`` and ``sum_k gamma_ik h_ik``."""
        x = X.double() - self.origin.double()
        resp = posterior(self.prepared, log_joint(self.prepared, x))  # (K, b)
        bent, h = self._added(x)
        expected = (resp * h).sum(0)
        signed = resp * (h - expected)
        if sample_weight is not None:
            resp, signed = resp * sample_weight, signed * sample_weight
        return x, resp, signed, bent, expected

    def _added(self, x):
        """``C2 y (K, b, d)`` and ``h (K, b)`` of samples about the origin."""
        y = x - self.theta.means.unsqueeze(1)
        bent = self.covariance_type.apply(y, self.form)
        h = ((self.cotangents.shift.unsqueeze(1) + bent) * y).sum(-1)
        return bent, h + self.cotangents.mass.unsqueeze(1)

    def block(self, X: Tensor, sample_weight: Tensor | None, buffers) -> tuple[Tensor, ...]:
        """Sum the moments under ``r`` over one block; those of several blocks add."""
        x, _, signed, _, _ = self._responsibilities(X, sample_weight)
        return tuple(moments(self.theta, x, signed))

    def moments(self, *sums: Tensor) -> Statistics:
        """Turn the sums of all blocks into the moments under ``r``."""
        return Statistics(*sums)

    def samples(self, X: Tensor, sample_weight: Tensor | None, buffers) -> tuple[Tensor, Tensor]:
        """Cotangents of the samples ``(b, d)`` and of their weights ``(b,)``."""
        x, resp, signed, bent, expected = self._responsibilities(X, sample_weight)
        precisions = self.covariance_type.precisions(self.prepared.factors)
        y = x - self.theta.means.unsqueeze(1)
        slopes = self.cotangents.shift.unsqueeze(1) + 2 * bent
        if self.along is not None:
            form = self.along.scatter / self.covariance_type.pooled(x.shape[1])
            slopes = (
                slopes + self.along.shift.unsqueeze(1) + 2 * self.covariance_type.apply(y, form)
            )
        pull = self.covariance_type.apply(y, precisions)
        return (resp.unsqueeze(-1) * slopes - signed.unsqueeze(-1) * pull).sum(0), expected


class ZeroWeightAdjoint(CentredAdjoint):
    """Pulls cotangents of the statistics back to weights that are zero, by the definition.

    That of ``w_k`` is ``sum_i a_i (g_ik / p_i) (h_ik - sum_l gamma_il h_il)``; of other weights it
    is the same, by way of ``r``.

    Parameters
    ----------
    theta : GaussianMixtureParams
        The current mixture.
    origin : Tensor of shape (d,)
        What the mixture is relative to.
    cotangents : Statistics
        As in `CentredAdjoint`.
    """

    def __init__(self, theta: GaussianMixtureParams, origin: Tensor, cotangents: Statistics):
        super().__init__(theta, origin, cotangents)
        zeros = torch.zeros_like(self.prepared.log_weights)
        self.unweighted = self.prepared._replace(log_weights=zeros)

    def block(self, X: Tensor, sample_weight: Tensor | None, buffers) -> tuple[Tensor]:
        """Sum the cotangents of all weights ``(K,)`` over one block."""
        x = X.double() - self.origin.double()
        joint = log_joint(self.prepared, x)
        log_p = self.prepared.log_normaliser(joint)
        # where such a component has all the density, the derivative is huge, but no infinity
        largest = math.log(torch.finfo(joint.dtype).max) / 2
        ratio = (log_joint(self.unweighted, x) - log_p).clamp(max=largest).exp()  # (K, b)
        _, h = self._added(x)
        ratio = ratio * (h - ((joint - log_p).exp() * h).sum(0))
        return ((ratio if sample_weight is None else ratio * sample_weight).sum(1),)


class TapedAdjoint(ABC):
    """Pulls cotangents of the statistics back through an E-step by autograd, block by block.

    Parameters
    ----------
    theta : GaussianMixtureParams
        The current mixture, a constant.
    origin : Tensor of shape (d,)
        What the mixture is relative to.
    cotangents : Statistics
        Those of mass, shift and scatter.

    Notes
    -----
    Holds some arrays of ``(K, b, d)`` for a block of b samples.
    """

    min_rows: int
    """Shorter blocks are slow."""

    def __init__(self, theta: GaussianMixtureParams, origin: Tensor, cotangents: Statistics):
        self.theta, self.origin, self.cotangents = theta, origin, cotangents
        self.row_size = self.sample_size = 4 * theta.means.numel()

    @abstractmethod
    def sums(self, theta: GaussianMixtureParams, x: Tensor, sample_weight: Tensor | None):
        """The E-step's `Statistics` of samples about the origin, differentiable in everything."""

    def block(self, X: Tensor, sample_weight: Tensor | None, buffers) -> tuple[Tensor, ...]:
        """Sum cotangents of the mixture's three tensors over one block; those of blocks add."""
        x = X.double() - self.origin.double()
        with torch.enable_grad():
            theta = self.theta.map(leaf)
            return self._pulled(self.sums(theta, x, sample_weight), theta)

    def samples(self, X: Tensor, sample_weight: Tensor | None, buffers) -> tuple[Tensor, Tensor]:
        """Cotangents of the samples ``(b, d)`` and of their weights ``(b,)``."""
        a = X.new_ones(len(X)) if sample_weight is None else sample_weight
        with torch.enable_grad():
            inputs = leaf(X.double() - self.origin.double()), leaf(a.double())
            return self._pulled(self.sums(self.theta, *inputs), inputs)

    def _pulled(self, sums, inputs):
        return pulled(sums[:3], inputs, self.cotangents[:3])


def leaf(tensor: Tensor) -> Tensor:
    """Return a copy that requires a gradient, and is on no graph.

    Parameters
    ----------
    tensor : Tensor
        The values.

    Returns
    -------
    Tensor
        The copy.
    """
    return tensor.detach().clone().requires_grad_()


def pulled(
    outputs: Iterable[Tensor],
    inputs: Iterable[Tensor],
    cotangents: Iterable[Tensor],
    *,
    again: bool = False,
) -> tuple[Tensor, ...]:
    """Compute vector-Jacobian products by autograd.

    Parameters
    ----------
    outputs : iterable of Tensor
        Functions of the inputs, or constants.
    inputs : iterable of Tensor
        Tensors that require a gradient.
    cotangents : iterable of Tensor
        One for each output.
    again : bool, default=False
        Whether the tape will be used again.

    Returns
    -------
    tuple of Tensor
        One for each input, zero where no output depends on it.
    """
    pairs = [(t, u) for t, u in zip(outputs, cotangents, strict=True) if t.requires_grad]
    outputs, cotangents = zip(*pairs, strict=True)
    options = {"retain_graph": again, "materialize_grads": True}
    return torch.autograd.grad(outputs, tuple(inputs), cotangents, **options)
