"""EM with priors and fixed parameters, written down once more: dense NumPy on full matrices."""

from types import SimpleNamespace

import numpy as np
from scipy.special import logsumexp, xlogy
from scipy.stats import invgamma, invwishart, multivariate_normal

NONE = SimpleNamespace(weights=None, means=None, covariances=None)


def responsibilities(w, m, S, X):
    """Posterior probabilities ``(n, K)`` and log-densities ``(n,)``."""
    with np.errstate(divide="ignore"):
        joint = np.log(w) + np.stack(
            [multivariate_normal.logpdf(X, m_k, S_k) for m_k, S_k in zip(m, S, strict=True)], -1
        )
    log_p = logsumexp(joint, axis=1)
    return np.exp(joint - log_p[:, None]), log_p


def step(kind, w, m, S, X, a, prior=None, fixed=NONE):
    """One iteration; covariances are matrices ``(K, d, d)`` of any type."""
    K, d = m.shape
    resp = responsibilities(w, m, S, X)[0] * a[:, None]
    s0 = resp.sum(0)
    alpha = np.ones(K) if prior is None else np.broadcast_to(prior.alpha, K)
    kappa = 0.0 if prior is None else prior.kappa
    mu = np.zeros(d) if prior is None else prior.mean
    means = (resp.T @ X + kappa * mu) / (s0 + kappa)[:, None]
    if fixed.means is not None:
        means = np.where(fixed.means[:, None], m, means)
    scatter = np.zeros((K, d, d))
    for k in range(K):
        y = X - means[k]
        scatter[k] = (resp[:, k, None] * y).T @ y + kappa * np.outer(mu - means[k], mu - means[k])
    covariances = shared_out(kind, scatter, s0, prior, K, d)
    if fixed.covariances is not None:
        covariances = np.where(fixed.covariances[:, None, None], S, covariances)
    weights = (s0 + alpha - 1) / (s0 + alpha - 1).sum()
    if fixed.weights is not None:
        free = ~fixed.weights
        weights = np.where(fixed.weights, w, 0.0)
        rest = 1 - weights.sum()
        if free.any():
            weights[free] = rest * (s0 + alpha - 1)[free] / (s0 + alpha - 1)[free].sum()
    return weights, means, covariances


def shared_out(kind, scatter, s0, prior, K, d):
    """Covariances ``(K, d, d)`` from the scatter about the means."""
    nu, scale = (0.0, 0.0) if prior is None else (prior.nu, prior.scale)
    have = prior is not None
    identity = np.eye(d)
    if kind == "full":
        return (scatter + scale) / (s0 + have * (nu + d + 2))[:, None, None]
    if kind == "tied":
        one = (scatter.sum(0) + scale) / (s0.sum() + have * (nu + d + 1 + K))
        return np.broadcast_to(one, (K, d, d))
    if kind == "diag":
        variances = scatter.diagonal(axis1=1, axis2=2) + scale
        return variances[:, :, None] / (s0 + have * (nu + 3))[:, None, None] * identity
    traces = np.trace(scatter, axis1=1, axis2=2) + scale
    return (traces / (d * s0 + have * (nu + 2 + d)))[:, None, None] * identity


def objective(kind, w, m, S, X, a, prior=None):
    """Mean log-posterior, with the densities of SciPy, up to the constant of Dirichlet's."""
    K, d = m.shape
    found = a @ responsibilities(w, m, S, X)[1]
    if prior is None:
        return found / a.sum()
    alpha = np.broadcast_to(prior.alpha, K)
    found += xlogy(alpha - 1, w).sum()
    for k in range(K):
        found += multivariate_normal.logpdf(m[k], prior.mean, S[k] / prior.kappa)
    for k in range(1 if kind == "tied" else K):
        if kind in ("full", "tied"):
            found += invwishart.logpdf(S[k], prior.nu, prior.scale)
        elif kind == "diag":
            scale = np.broadcast_to(prior.scale, d) / 2
            found += invgamma.logpdf(np.diag(S[k]), prior.nu / 2, scale=scale).sum()
        else:
            found += invgamma.logpdf(S[k][0, 0], prior.nu / 2, scale=prior.scale / 2)
    return found / a.sum()
