"""Optimal transport between Gaussians, all pairs at once.

``W2(N(m0, S0), N(m1, S1))^2 = |m0 - m1|^2 + tr(S0 + S1 - 2 (S0^{1/2} S1 S0^{1/2})^{1/2})``; the
optimal map is affine, ``T(x) = m1 + A (x - m0)``, with ``A`` of `linalg.bures_map`.
"""

from torch import Tensor

from skgmmot.functional.linalg import bures_squared, root


def bures_wasserstein_squared(
    source_means: Tensor,
    source_covariances: Tensor,
    target_means: Tensor,
    target_covariances: Tensor,
) -> Tensor:
    """Return all pairwise squared Wasserstein distances between Gaussians.

    ``|m0 - m1|^2 + tr(S0 + S1 - 2 (S0^{1/2} S1 S0^{1/2})^{1/2})``

    Parameters
    ----------
    source_means : Tensor of shape (K, d)
        Means of the source Gaussians.
    source_covariances : Tensor of shape (K, d, d) or (K, d)
        Their covariances, or variances where there is no correlation.
    target_means : Tensor of shape (L, d)
        Means of the target Gaussians.
    target_covariances : Tensor of shape (L, d, d) or (L, d)
        Their covariances, or variances; with as many axes as the source's.

    Returns
    -------
    Tensor of shape (K, L)
        Squared distances in squared units of the means.

    Notes
    -----
    Differentiable once, in closed form: ``2 (m0 - m1)`` in the mean and ``I - A`` in the
    covariance. Costs ``O(K L d^3)``, or ``O(K L d)`` for variances.

    References
    ----------
    .. [1] Delon and Desolneux 2020, optimal transport between Gaussian distributions.
    """
    between = (source_means.unsqueeze(1) - target_means).square().sum(-1)  # (K, L)
    if source_covariances.ndim == 3:
        return between + bures_squared(source_covariances, target_covariances)
    # Diagonal covariances commute: their distance is that of the standard deviations.
    apart = root(source_covariances).unsqueeze(1) - root(target_covariances)
    return between + apart.square().sum(-1)


def wasserstein_squared(source: tuple[Tensor, Tensor], target: tuple[Tensor, Tensor]) -> Tensor:
    """Return the squared Wasserstein distance between two Gaussians ``(mean, covariance)``.

    Parameters
    ----------
    source, target : tuple of Tensor of shapes (d,) and (d, d)
        Mean and covariance.

    Returns
    -------
    Tensor of shape ()
        The squared distance; see `bures_wasserstein_squared`.
    """
    batched = [t.unsqueeze(0) for t in (*source, *target)]
    return bures_wasserstein_squared(*batched).squeeze()
