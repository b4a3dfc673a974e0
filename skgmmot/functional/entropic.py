"""Maximum likelihood is entropic optimal transport, and Sinkhorn-EM is its balanced form.

With costs ``C_ik = -log g_k(x_i)`` between samples of weights ``a`` (of sum one) and components of
weights ``w``, the negative mean log-likelihood is a transport problem of temperature one that is
free to choose what each component receives:

``-sum_i a_i log sum_k w_k g_k(x_i) = min_P <P, C> + KL(P | a w^T)``  over  ``P 1 = a``,

attained at the responsibilities, ``P = a gamma``. Asking in addition for ``P^T 1 = w`` gives the
*balanced* reading; it is no smaller, and equal where the responsibilities already share out the
samples by ``w``, as at every fixed point of EM. Its optimal plan are the responsibilities of a
*tilted* mixture, whose weights are ``t`` instead of ``w``, and ``log t`` solves a concave problem:

``max_t  sum_k w_k log(t_k / w_k) - sum_i a_i log sum_k t_k g_k(x_i)``.

EM descends the first reading by turns in plan and parameters. Sinkhorn-EM descends the balanced
one, for weights that are prescribed: each component must then take its share of the samples, and
far fewer starts go astray.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from skgmmot.functional.em import m_step
from skgmmot.functional.mixture import GaussianMixtureParams, PreparedMixture, log_joint

#: Sinkhorn updates between two M-steps, and their over-relaxation (1 is plain, 2 diverges).
UPDATES, RELAXATION = 2, 1.5


def entropic_ot_objective(
    theta: GaussianMixtureParams,
    X: Tensor,
    sample_weight: Tensor | None = None,
    *,
    balanced: bool = False,
) -> Tensor:
    """Return the entropic transport cost between samples and components.

    ``min_P <P, C> + KL(P | a w^T)`` with ``C_ik = -log g_k(x_i)``, over ``P 1 = a`` and, if
    balanced, ``P^T 1 = w``.

    Parameters
    ----------
    theta : GaussianMixtureParams
        K components in d dimensions, of positive weights.
    X : Tensor of shape (n, d)
        Samples.
    sample_weight : Tensor of shape (n,), default=None
        Their weights, scaled to sum one; None is uniform.
    balanced : bool, default=False
        Whether each component must receive its weight.

    Returns
    -------
    Tensor of shape ()
        The cost; not balanced, it is the negative mean log-likelihood.

    Raises
    ------
    ValueError
        If a covariance is not positive definite.
    RuntimeError
        If the balancing potentials are not found, for components too far from all samples.

    Notes
    -----
    Differentiable in everything; balanced once, in the weights up to a constant (they live on the
    simplex). Costs ``O(n K d^2)`` once and ``O(n K^2)`` for each of a few Newton steps; holds
    ``(K, n, d)``.

    References
    ----------
    .. [1] Vayer and Lasalle 2025, maximum likelihood as entropic transport.
    """
    a = torch.full_like(X[:, 0], 1 / len(X)) if sample_weight is None else sample_weight
    a = a / a.sum()
    log_g = log_joint(theta.prepare()._replace(log_weights=torch.zeros_like(theta.weights)), X)
    if not balanced:
        return -_mean_log_density(theta.weights.log(), log_g, a)
    log_tilt = balance(theta.weights.detach(), log_g.detach(), a.detach())
    prescribed = theta.weights @ (log_tilt - theta.weights.log())
    return prescribed - _mean_log_density(log_tilt, log_g, a)


def _mean_log_density(log_weights: Tensor, log_g: Tensor, a: Tensor) -> Tensor:
    """``sum_i a_i log sum_k t_k g_k(x_i)``; a sample of weight zero is absent."""
    log_p = torch.logsumexp(log_weights.unsqueeze(1) + log_g, dim=0)
    return (a * torch.where(a > 0, log_p, 0.0)).sum()


def balance(
    weights: Tensor, log_g: Tensor, a: Tensor, *, tol: float = 1e-13, max_iter: int = 200
) -> Tensor:
    """Find the tilted weights whose responsibilities share out the samples as prescribed.

    ``max_t sum_k w_k log t_k - sum_i a_i log sum_k t_k g_k(x_i)``, by damped Newton steps in
    ``log t``, and a Sinkhorn update wherever one of them fails.

    Parameters
    ----------
    weights : Tensor of shape (K,)
        The prescribed shares ``w``, positive, of sum one.
    log_g : Tensor of shape (K, n)
        Log-densities of the components at the samples.
    a : Tensor of shape (n,)
        Weights of the samples, of sum one.
    tol : float, default=1e-13
        Bound on ``sum_k |share_k - w_k|``, raised to what the dtype can tell.
    max_iter : int, default=200
        Largest number of steps.

    Returns
    -------
    Tensor of shape (K,)
        ``log t``, with ``sum(t) = 1``. A constant.

    Raises
    ------
    RuntimeError
        If it takes more steps.
    """
    tol = max(tol, 16 * len(weights) * torch.finfo(log_g.dtype).eps)
    log_tilt, identity = weights.log(), torch.eye(len(weights)).to(log_g)
    for _ in range(max_iter):
        resp = torch.softmax(log_tilt.unsqueeze(1) + log_g, dim=0)  # (K, n)
        shared = resp * a
        share = shared.sum(1)
        missing = weights - share
        if float(missing.abs().sum()) < tol:
            return torch.log_softmax(log_tilt, dim=0)
        curvature = torch.diag(share) - shared @ resp.mT  # (K, K), singular along constants
        newton = torch.linalg.lstsq(
            curvature + curvature.diagonal().mean() * 1e-14 * identity, missing.unsqueeze(1)
        ).solution.squeeze(1)
        tiny = torch.finfo(share.dtype).tiny
        sinkhorn = weights.log() - share.clamp(min=tiny).log()
        log_tilt = log_tilt + _climbing(log_tilt, newton, sinkhorn, missing, weights, log_g, a)
    raise RuntimeError(
        f"balancing must end within {max_iter} steps, got shares that miss the weights by "
        f"{float(missing.abs().sum()):.1e} in all. Start from components nearer to the samples."
    )


def _climbing(log_tilt, newton, sinkhorn, missing, weights, log_g, a):
    """The longest of a few halvings of the Newton step that climbs; else the Sinkhorn update."""

    def value(at):
        return weights @ at - _mean_log_density(at, log_g, a)

    here, slope = value(log_tilt), newton @ missing
    if torch.isfinite(newton).all() and slope > 0:
        rounding = 8 * torch.finfo(here.dtype).eps * here.abs()
        for _ in range(4):
            if value(log_tilt + newton) >= here + 1e-4 * slope - rounding:
                return newton
            newton, slope = newton / 2, slope / 2
    return sinkhorn


class TiltedMixture(NamedTuple):
    """A mixture of prescribed weights, seen through the weights that balance it.

    It stands wherever an E-step takes a mixture: its responsibilities are those of the weights
    ``t``, kept as logarithms, for they may leave the range of numbers on the way.
    """

    log_weights: Tensor
    """``log t (K,)``."""
    means: Tensor
    """``m (K, d)``."""
    covariances: Tensor
    """``Sigma``, in the storage of their covariance type."""
    prescribed: Tensor
    """``w (K,)``: what each component shall receive."""

    def prepare(self) -> PreparedMixture:
        """Factor the covariances, once, for evaluating densities."""
        return self.mixture().prepare()._replace(log_weights=self.log_weights)

    def to(self, **options) -> "TiltedMixture":
        """The same mixture with another ``device`` or ``dtype``."""
        return TiltedMixture(*(t.to(**options) for t in self))

    def mixture(self) -> GaussianMixtureParams:
        """The mixture of the prescribed weights."""
        return GaussianMixtureParams(self.prescribed, self.means, self.covariances)


def tilted(theta: GaussianMixtureParams) -> TiltedMixture:
    """A mixture whose weights are prescribed, not yet tilted."""
    return TiltedMixture(theta.weights.log(), theta.means, theta.covariances, theta.weights)


def sinkhorn_update(log_weights: Tensor, prescribed: Tensor, share: Tensor) -> Tensor:
    """One over-relaxed Sinkhorn update ``log t + 1.5 log(w / share)``, normalised.

    References
    ----------
    .. [1] Thibault, Chizat, Dossal and Papadakis 2021, over-relaxed Sinkhorn.
    """
    tiny = torch.finfo(share.dtype).tiny
    missing = prescribed.log() - share.clamp(min=tiny).log()
    return torch.log_softmax(log_weights + RELAXATION * missing, dim=0)


class SinkhornEM:
    """One iteration of Sinkhorn-EM over all samples: ``theta -> (theta_next, objective)``.

    A few Sinkhorn updates of the tilted weights, by the shares that the components received; then
    the responsibilities, which sum to one for each sample whatever the tilt; then the M-step for
    means and covariances. Each is a pass over the samples. Where means and weights come to rest
    together, the plan is balanced.

    Parameters
    ----------
    em : object
        EM over the samples: its ``statistics``, ``reg_covar`` and ``total`` are used.

    Notes
    -----
    The objective is minus the balanced cost as known so far (the dual value, less what one more
    plain Sinkhorn update would gain at least): it tends to a lower bound of the mean
    log-likelihood, but need not rise at every iteration.

    References
    ----------
    .. [1] Mena, Nejatbakhsh, Varol and Niles-Weed 2020, Sinkhorn-EM.
    """

    def __init__(self, em):
        self.em = em

    def __call__(self, theta: TiltedMixture) -> tuple[TiltedMixture, float]:
        for _ in range(UPDATES):
            share = self.em.statistics(theta).mass / self.em.total
            log_weights = sinkhorn_update(theta.log_weights, theta.prescribed, share)
            theta = theta._replace(log_weights=log_weights)
        statistics = self.em.statistics(theta)
        moved = m_step(theta, statistics, self.em.reg_covar)
        theta_next = theta._replace(means=moved.means, covariances=moved.covariances)
        return theta_next, self._objective(theta, statistics, moved.weights)

    def _objective(self, theta, statistics, share):
        w = theta.prescribed
        dual = w @ (theta.log_weights - w.log()) - statistics.log_likelihood / self.em.total
        return -float(dual + w @ (w.log() - share.log()))
