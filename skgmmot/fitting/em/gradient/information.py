"""The observed information of a mixture in samples, and the covariance of its parameters.

With ``J = dF/dtheta`` the derivative of an iteration of EM, and ``I_c`` the complete-data
information of n samples, the observed information at a maximum of the likelihood is
``I_c (I - J)``. In Fisher's coordinates ``I_c`` is n times the identity.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from skgmmot.fitting.em.constraint import constraint_of
from skgmmot.fitting.em.fit import check_samples, check_start
from skgmmot.fitting.em.gradient.adjoint import score
from skgmmot.fitting.em.gradient.derivative import LinearisedEM
from skgmmot.fitting.em.rows import EM
from skgmmot.fitting.samples import InMemory
from skgmmot.gaussian.coordinates import FisherCoordinates
from skgmmot.gaussian.log_density import responsibilities
from skgmmot.gaussian.mixture import EMPTY, GaussianMixtureParams
from skgmmot.gaussian.statistics import Statistics
from skgmmot.numerics import blocks

#: Largest number of stored parameters: their covariance is a matrix of its square.
MAX_PARAMETERS = 4096
#: Where the samples tell less than this share of what they would if their components were known,
#: the information counts as singular.
SINGULAR_SHARE = 1e-8


class ParameterCovariance(NamedTuple):
    """The covariance of a mixture's parameters, and how near a maximum it was computed."""

    covariance: Tensor
    """``(p, p)``: weights, means and covariances in their storage, one after the other."""
    distance: float
    """How far the mixture is from the maximum of the likelihood: the largest change of a parameter
    in a Newton step, in standard errors."""
    errors: Tensor
    """Standard errors ``(p,)``: the roots of its diagonal, also where that leaves the range."""
    known: float
    """The least share, over all directions, of the information that the samples would have if
    their components were known."""


def parameter_covariance(
    theta: GaussianMixtureParams,
    X: Tensor,
    sample_weight: Tensor | None = None,
    *,
    robust: bool = False,
    reg_covar: float = 0.0,
    fixed_weights: bool = False,
) -> ParameterCovariance:
    r"""Estimate the covariance of maximum likelihood estimates of a mixture's parameters.

    It is the inverse of the observed information or, if robust, the sandwich of it:

    .. math::

        \hat V = \hat I^{-1}, \qquad
        \hat V_{\text{robust}} = \hat I^{-1} \Bigl(\sum_i a_i^2 s_i s_i^T\Bigr) \hat I^{-1},

    with :math:`s_i` the derivative of :math:`\log p(x_i)` and :math:`\hat I` minus the second
    derivative of :math:`\sum_i a_i \log p(x_i)`.

    Parameters
    ----------
    theta : GaussianMixtureParams
        The fitted mixture, at a maximum of the likelihood.
    X : Tensor of shape (n, d)
        The samples that it was fitted to.
    sample_weight : Tensor of shape (n,), default=None
        Their weights: counts, unless robust; then only their ratios matter.
    robust : bool, default=False
        Whether to allow for samples that are not of a mixture of this type, and for weights that
        are not counts.
    reg_covar : float, default=0.0
        What the fit added to the variances.
    fixed_weights : bool, default=False
        Whether the weights were known, and have no error.

    Returns
    -------
    ParameterCovariance
        The covariance and diagnostics, in float64.

    Raises
    ------
    TypeError
        If an argument is of another kind.
    ValueError
        If shapes differ, a component has no samples, the covariance type is not elementary, there
        are more than 4096 parameters, or the information is singular.

    Notes
    -----
    Costs a pass over the samples if K and d are small, else one for each parameter; a robust one
    ``O(n p^2)`` more. Holds three matrices of ``p x p``.

    References
    ----------
    .. [1] Meng and Rubin 1991, the SEM algorithm.
    .. [2] White 1982, maximum likelihood estimation of misspecified models.

    Examples
    --------
    >>> import torch
    >>> from skgmmot.functional import GaussianMixtureParams, parameter_covariance
    >>> X = torch.tensor([[0.0], [2.0], [4.0], [6.0]], dtype=torch.float64)
    >>> gaussian = GaussianMixtureParams(torch.ones(1), X.mean(0)[None], X.var(0, False)[None])
    >>> parameter_covariance(gaussian, X).covariance.diagonal()  # of weight, mean and variance
    tensor([ 0.0000,  1.2500, 12.5000], dtype=torch.float64)
    """
    check_start(theta, "theta")
    check_samples(theta, X, sample_weight, "theta")
    with torch.no_grad():
        if sample_weight is not None:
            sample_weight = sample_weight.detach().to(X.dtype)
        X = X.detach()
        origin = blocks.origin(X, sample_weight)
        constraint = constraint_of(
            theta.covariance_type, len(theta.weights), weights=fixed_weights, device=X.device
        )
        em = EM(InMemory(X, sample_weight), origin, reg_covar, constraint)
        theta = theta.detach().to(dtype=torch.float64).translated(-origin)
        found = covariance_of(em, theta, robust=robust)
        check_range(found, torch.float64)
        return found


def check_range(found: ParameterCovariance, dtype: torch.dtype) -> None:
    """Refuse a covariance whose entries leave the range of a dtype.

    Parameters
    ----------
    found : ParameterCovariance
        The covariance.
    dtype : torch.dtype
        The dtype of the answer.

    Raises
    ------
    ValueError
        If an entry is not finite in it.
    """
    if not torch.isfinite(found.covariance.to(dtype)).all():
        largest = float(found.errors.max())
        raise ValueError(
            f"standard errors must have squares within {dtype} for the covariance of parameters, "
            f"got one of {largest:.1e}. Rescale X, or take standard_errors alone."
        )


def covariance_of(em: EM, theta: GaussianMixtureParams, *, robust: bool) -> ParameterCovariance:
    """Compute the same for samples wherever they live.

    Parameters
    ----------
    em : EM
        The iteration that the mixture is a fixed point of.
    theta : GaussianMixtureParams
        The mixture about the origin of the iteration, in float64.
    robust : bool
        Whether to compute the sandwich.

    Returns
    -------
    ParameterCovariance
        The covariance and diagnostics.

    Raises
    ------
    ValueError
        As `parameter_covariance`.
    """
    _check(theta)
    with em.at_work():
        linear = LinearisedEM(em, theta)
        coordinates = FisherCoordinates(theta, _shares(em, theta))
        identity = torch.eye(linear.residual.numel(), dtype=torch.float64, device=em.origin.device)
        tangent = _tangent(theta, coordinates, em.constraint.fixes_weights)
        J = linear.product(identity)
        shares = tangent.mT @ (identity - (J + J.mT) / 2) @ tangent  # of the complete information
        if not torch.isfinite(shares).all():
            raise ValueError(
                "covariances must have inverses within float64 for standard errors, got one of "
                f"{float(theta.covariances.abs().max()):.1e}. Rescale X."
            )
        values, vectors = torch.linalg.eigh(shares)
        known = float(values[0]) if len(values) else 1.0
        if not known > SINGULAR_SHARE:
            raise ValueError(_singular(theta, tangent @ vectors[:, 0], known))
        # the derivatives of the parameters in the storage, in coordinates of the tangent space
        slopes = coordinates.of_cotangent(_units(theta)) @ tangent @ vectors  # (p, q)
        units = _units_of_rows(slopes)
        slopes, inverse = slopes / units, 1 / values
        covariance = (slopes * inverse) @ slopes.mT / em.total
        step = slopes @ (inverse * (linear.residual @ tangent @ vectors))
        errors = covariance.diagonal().sqrt()
        distance = torch.where(errors > 0, step.abs() / errors, 0.0)
        if robust:
            (outer,) = em.samples.sum(_SquaredScores(theta, em.origin, coordinates))
            outer = (tangent @ vectors).mT @ outer @ (tangent @ vectors)
            influence = slopes * inverse / em.total
            covariance = influence @ outer @ influence.mT
            errors = covariance.diagonal().clamp(min=0).sqrt()
    covariance, errors = units * covariance * units.mT, units[:, 0] * errors
    return ParameterCovariance(covariance, float(distance.max()), errors, known)


def _units_of_rows(matrix: Tensor) -> Tensor:
    """Powers of two ``(p, 1)`` about the largest entry of each row, one of a row of zeros."""
    largest = matrix.abs().amax(1, keepdim=True)
    return torch.where(largest > 0, largest / torch.frexp(largest).mantissa, 1.0)


def _check(theta: GaussianMixtureParams) -> None:
    """Refuse mixtures whose parameters have no covariance, or too large a one."""
    covariance_type, size = theta.covariance_type, sum(t.numel() for t in theta)
    if theta.noise is not None:
        raise ValueError(
            "a mixture must have no noise for standard errors, got some. Use the bootstrap."
        )
    if not covariance_type.elementary:
        base = covariance_type.base
        instead = f"its base, {base.name!r}" if base.elementary else "the bootstrap"
        raise ValueError(
            "covariance_type must be elementary for standard errors, got "
            f"{covariance_type.name!r}. Use {instead}."
        )
    if size > MAX_PARAMETERS:
        raise ValueError(
            f"a mixture must store at most {MAX_PARAMETERS} numbers for standard errors, got "
            f"{size}. Use another covariance_type, or the bootstrap."
        )


def _shares(em: EM, theta: GaussianMixtureParams) -> Tensor:
    """The components' shares of the samples, which weights are unless they are fixed."""
    mass = em.exactly(theta)[1].mass
    shares = mass / mass.sum()
    empty = (shares <= EMPTY).nonzero().flatten().tolist()
    if empty:
        raise ValueError(
            f"components must have samples for standard errors, got some without: {empty}. Pass "
            "the samples of the fit, or fit again with fewer components."
        )
    return shares


def _tangent(theta, coordinates: FisherCoordinates, fixed_weights: bool) -> Tensor:
    """An orthonormal basis ``(m, q)`` of the changes in which weights keep their sum."""
    K, storage = len(theta.weights), theta.covariances
    options = {"dtype": storage.dtype, "device": storage.device}
    # the sum of dw_k = root_k x_k is zero
    across = coordinates.root / torch.linalg.vector_norm(coordinates.root)
    of_weights = torch.eye(K, **options) - across.outer(across)
    if fixed_weights:
        of_weights = torch.zeros_like(of_weights)
    n_covariances = theta.covariance_type.packed(storage).numel()
    others = torch.eye(theta.means.numel() + n_covariances, **options)
    return torch.block_diag(_range(of_weights), others)


def _range(projector: Tensor) -> Tensor:
    """An orthonormal basis of the range of an orthogonal projector."""
    values, vectors = torch.linalg.eigh(projector)
    return vectors[:, values > 0.5]


def _units(theta: GaussianMixtureParams) -> GaussianMixtureParams:
    """A cotangent for each number in the storage, ``(p, ...)``."""
    sizes = [t.numel() for t in theta]
    identity = torch.eye(sum(sizes), dtype=theta.means.dtype, device=theta.means.device)
    parts = zip(identity.split(sizes, dim=1), theta, strict=True)
    return GaussianMixtureParams(
        *(part.reshape(-1, *t.shape) for part, t in parts), theta.covariance_type
    )


def _singular(theta: GaussianMixtureParams, direction: Tensor, known: float) -> str:
    """The text of an error: which parameters the samples do not determine."""
    K, d = theta.means.shape
    *own, of_covariances = direction.square().tensor_split([K, K + K * d])
    by_component = sum(part.view(K, -1).sum(1) for part in own)
    if not theta.covariance_type.shared:
        by_component = by_component + of_covariances.view(K, -1).sum(1)
    worst = by_component.argsort(descending=True)[:2].tolist()
    return (
        "the samples must determine all parameters, got an observed information that is not "
        f"positive definite (smallest relative eigenvalue {known:.1e}), foremost in components "
        f"{worst}. The mixture is no maximum of the likelihood, or components coincide: fit with a "
        "smaller tol, or fewer components."
    )


class _SquaredScores:
    """``sum_i a_i^2 s_i s_i^T`` over a block, in Fisher's coordinates."""

    min_rows = 16

    def __init__(self, theta: GaussianMixtureParams, origin: Tensor, coordinates):
        self.theta, self.origin, self.coordinates = theta, origin.double(), coordinates
        self.row_size = 3 * len(theta.weights) * theta.means.shape[1] ** 2

    def block(self, X, sample_weight, buffers):
        x = X.double() - self.origin
        resp = responsibilities(self.theta, x).mT  # (b, K)
        y = x.unsqueeze(1) - self.theta.means  # (b, K, d)
        shift = resp.unsqueeze(-1) * y
        scatter = self.theta.covariance_type.outer(shift, y)
        each = Statistics(resp, shift, scatter, resp.new_zeros(()))
        found = self.coordinates.of_cotangent(
            score(self.theta, self.coordinates.precisions, each)
        )  # (b, m)
        if sample_weight is not None:
            found = found * sample_weight.double().unsqueeze(1)
        return (found.mT @ found,)
