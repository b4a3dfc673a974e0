"""Wasserstein distances between Gaussians in many digits."""

import mpmath as mp

DIGITS = 120
#: Pivots of this size are zero.
SMALLEST = mp.mpf(10) ** -1000


def gaussian_cost(source, target, digits=DIGITS):
    """The squared distance between two Gaussians ``(mean, matrix)`` of arrays.

    Eigenvalues below zero, of matrices that are rounded, count as zero.
    """
    with mp.workdps(digits):
        (m0, S0), (m1, S1) = ((_vector(m), mp.matrix(_rows(S))) for m, S in (source, target))
        means = mp.fsum((x - y) ** 2 for x, y in zip(m0, m1, strict=True))
        values, V = mp.eigsy(S0)
        root = V * mp.diag([mp.sqrt(max(v, 0)) for v in values]) * V.T
        other, W = mp.eigsy(S1)
        S1 = W * mp.diag([max(v, 0) for v in other]) * W.T
        middle = root * S1 * root
        middle = (middle + middle.T) / 2
        norms = mp.fsum(mp.sqrt(max(v, 0)) for v in mp.eigsy(middle, eigvals_only=True))
        traces = mp.fsum(max(v, 0) for side in (values, other) for v in side)
        return means + traces - 2 * norms


def sample_moments(X):
    """Mean and unbiased covariance of samples ``(n, d)``, as numbers of mpmath."""
    with mp.workdps(DIGITS):
        n, columns = len(X), [_vector(column) for column in X.T]
        mean = [mp.fsum(column) / n for column in columns]
        centred = [[x - m for x in column] for m, column in zip(mean, columns, strict=True)]
        return mean, [[mp.fdot(x, y) / (n - 1) for y in centred] for x in centred]


def _vector(values):
    return [x if isinstance(x, mp.mpf) else mp.mpf(float(x)) for x in values]


def _rows(matrix):
    return [_vector(row) for row in matrix]


def log_density(weights, means, covariances, X):
    """Log-densities (n,) of a mixture with matrices (K, d, d), as numbers of mpmath."""
    with mp.workdps(DIGITS):
        components = [
            (mp.log(float(w)), _vector(m), mp.cholesky(mp.matrix(_rows(S)), tol=SMALLEST))
            for w, m, S in zip(weights, means, covariances, strict=True)
            if w > 0
        ]
        return [_log_density(components, _vector(x)) for x in X]


def _log_density(components, x):
    terms = []
    for log_weight, m, L in components:
        z = mp.lu_solve(L, mp.matrix([a - b for a, b in zip(x, m, strict=True)]))
        log_volume = mp.fsum(mp.log(L[i, i]) for i in range(len(x)))
        constant = len(x) * mp.log(2 * mp.pi) / 2
        terms.append(log_weight - log_volume - constant - mp.fsum(t**2 for t in z) / 2)
    largest = max(terms)
    return largest + mp.log(mp.fsum(mp.exp(t - largest) for t in terms))
