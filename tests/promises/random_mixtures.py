"""Random mixtures of all kinds: what a property of distances has to hold for."""

import numpy as np

TYPES = ("full", "tied", "diag", "spherical", "lowrank")


def triple(seed, types=TYPES):
    """Three mixtures ``(weights, means, covariances, covariance_type)`` of the same features.

    Each is independent of the others, or one of them that is moved, changed a little, scaled, given
    other weights or its components in another order.
    """
    rng = np.random.default_rng(seed)
    d = 20 if rng.random() < 0.1 else int(rng.integers(1, 6))
    found = [_mixture(rng, d, types)]
    while len(found) < 3:
        related = rng.random() < 0.5
        new = _related(rng, found[rng.integers(len(found))]) if related else None
        found.append(new or _mixture(rng, d, types))
    return found


def _mixture(rng, d, types):
    """One of up to five components, a third of them of sizes from 1e-6 to 1e6."""
    K, name = int(rng.integers(1, 6)), types[rng.integers(len(types))]
    sizes = 10.0 ** rng.uniform(-6, 6, size=K) if rng.random() < 0.3 else np.ones(K)
    means = rng.normal(size=(K, d)) * sizes[:, None] * 10.0 ** rng.integers(-2, 3)
    return _weights(rng, K), means, _covariances(rng, name, d, sizes), name


def _weights(rng, K):
    """Weights that differ little or much, are equal, or partly zero."""
    weights = rng.dirichlet(np.full(K, 10.0 ** rng.uniform(-1, 1)))
    match rng.integers(4):
        case 0 if K > 1:
            weights[rng.integers(K)] = 0
        case 1:
            weights *= 10.0 ** rng.uniform(-12, 0, size=K)
        case 2:
            weights = np.ones(K)
    return weights / weights.sum() if weights.sum() > 0 else np.full(K, 1 / K)


def _covariances(rng, name, d, sizes):
    """Covariances in a type's storage, a third of them of low rank."""
    deficient, K = rng.random() < 0.3, len(sizes)
    if name in ("full", "tied"):
        n = K if name == "full" else 1
        rank = int(rng.integers(0, d)) if deficient else d
        B = rng.normal(size=(n, d, rank)) * 10.0 ** rng.uniform(-2, 0, size=(n, d, 1))
        S = sizes[:n, None, None] ** 2 * (B @ B.swapaxes(1, 2))
        return (S + S.swapaxes(1, 2)) / 2
    variances = sizes[:, None] ** 2 * 10.0 ** rng.uniform(-4, 0, size=(K, d))
    if deficient:
        variances[rng.random((K, d)) < 0.4] = 0
    if name == "lowrank":
        factors = sizes[:, None, None] * rng.normal(size=(K, d, rng.integers(1, 3)))
        return np.concatenate([factors, variances[:, :, None]], 2)
    return variances if name == "diag" else variances[:, :1]


def _related(rng, mixture):
    """A mixture made of another one."""
    weights, means, covariances, name = mixture
    match rng.integers(5):
        case 0:
            return weights, means + 10.0 ** rng.uniform(0, 8), covariances, name
        case 1:
            change = 1 + 10.0 ** rng.uniform(-14, -2) * rng.normal(size=2)
            return weights, means * change[0], covariances * change[1], name
        case 2:
            order = rng.permutation(len(weights))
            return weights[order], means[order], in_order(covariances, order, name), name
        case 3:
            return _weights(rng, len(weights)), means, covariances, name
    scale = 10.0 ** rng.uniform(-3, 3)
    powers = np.full(covariances.shape[-1], 2.0)
    if name == "lowrank":
        powers[:-1] = 1
    return weights, scale * means, covariances * scale**powers, name


def in_order(covariances, order, name):
    """The covariances of components in another order."""
    return covariances if name == "tied" else covariances[order]


def components(mixture):
    """The components that have mass as a sorted list, in which the order does not show."""
    weights, means, covariances, _ = mixture
    covariances = np.broadcast_to(covariances, (len(weights), *covariances.shape[1:]))
    parts = (t.reshape(len(weights), -1) for t in (weights, means, covariances))
    return sorted(row.tolist() for row in np.hstack([*parts]) if row[0] > 0)


def size(mixtures):
    """The largest distance of a mean from the first one, or standard deviation, of mixtures."""
    origin = mixtures[0][1][0]
    far = max(np.abs(means - origin).max() for _, means, _, _ in mixtures)
    return max(far, *(_widest(covariances, name) for _, _, covariances, name in mixtures))


def _widest(covariances, name):
    """A standard deviation that none exceeds by more than a factor of the dimension."""
    if name == "lowrank":
        return max(np.abs(covariances[..., :-1]).max(), covariances[..., -1].max() ** 0.5)
    return np.abs(covariances).max() ** 0.5
